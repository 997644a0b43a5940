//! The private memory of the dispatcher at full rate. It is sampled 100 times during MEMORY seconds (default 20), and the
//! slope of the second half is computed.

use std::time::{Duration, Instant};

use anyhow::Result;
use outbox_harness::Receiver;

use crate::measure::{dispatcher, fill, prepare, server, status};
use crate::report::{Goal, Report};

const SAMPLES: u32 = 100;
/// The number of messages that are enqueued in one transaction, whenever fewer than twice as many wait.
const CHUNK: usize = 10_000;
/// Only a slope that was measured for at least this long shows growth and not noise.
const LONG_RUN: Duration = Duration::from_secs(300);

pub async fn run(report: &mut Report) -> Result<()> {
    let length = Duration::from_secs(std::env::var("MEMORY").ok().and_then(|n| n.parse().ok()).unwrap_or(20));
    let receiver = Receiver::start()?;
    receiver.quiet();
    // Retention is so short that segments are reclaimed within the run, as they are over days in production.
    let retention = [
        ("pg_outbox.message_retention", "60s"),
        ("pg_outbox.attempt_retention", "60s"),
        ("pg_outbox.feed_retention", "60s"),
        ("pg_outbox.retention_interval", "10s"),
    ];
    let server = server(&retention).await?;
    let db = prepare(&server, "bench", &receiver, 1, 64, "").await?;
    let pid = dispatcher(&db).await?;
    let producer = server.connect("bench").await?;
    let (started, mut sent) = (Instant::now(), 0);
    let mut samples: Vec<(f64, f64)> = Vec::new();
    while started.elapsed() < length {
        if sent < receiver.total() + 2 * CHUNK {
            fill(&producer, CHUNK, 1).await?;
            sent += CHUNK;
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if started.elapsed() >= length / SAMPLES * samples.len() as u32 {
            samples.push((started.elapsed().as_secs_f64() / 60.0, status(pid, "RssAnon:") / 1024.0));
        }
    }
    let rate = receiver.total() as f64 / started.elapsed().as_secs_f64();
    anyhow::ensure!(dispatcher(&db).await? == pid, "the dispatcher was restarted");
    let half = &samples[samples.len() / 2..];
    let peak = samples.iter().map(|(_, mb)| *mb).fold(0.0, f64::max);
    report.row("memory", "messages delivered", rate, None, "messages/s", None);
    report.row("memory", "in the middle", half[0].1, None, "MB", None);
    report.row(
        "memory",
        format!("at the end, after {} s", length.as_secs()),
        samples[samples.len() - 1].1,
        None,
        "MB",
        None,
    );
    report.row("memory", "at its peak", peak, None, "MB", Some(Goal::AtMost(100.0)));
    let goal = (length >= LONG_RUN).then_some(Goal::AtMost(0.5));
    report.row("memory", "slope of the second half", slope(half), None, "MB/min", goal);
    let list: Vec<String> = samples.iter().map(|(_, mb)| format!("{mb:.1}")).collect();
    println!("   samples, MB: {}", list.join(" "));
    Ok(())
}

/// Returns the slope of the line of least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (mx, my) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let (num, den) =
        points.iter().fold((0.0, 0.0), |(num, den), (x, y)| (num + (x - mx) * (y - my), den + (x - mx) * (x - mx)));
    if den == 0.0 { 0.0 } else { num / den }
}
