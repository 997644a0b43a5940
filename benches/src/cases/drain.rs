//! The delivery of a backlog over HTTP, compared with a bare client. Both share the machine with the receiver.

use std::time::{Duration, Instant};

use anyhow::Result;
use outbox_harness::{Receiver, wait_until};

use crate::measure::{LONG, cpu, dispatcher, fill, idle, median, prepare, reload, routed, server, status, wal};
use crate::report::{Goal, Report};
use crate::{PAYLOAD, bare};

pub async fn run(report: &mut Report) -> Result<()> {
    const CONCURRENCY: u32 = 64;
    let receiver = Receiver::start()?;
    receiver.quiet();
    let server = server(&[("pg_outbox.max_in_flight", "64")]).await?;
    let mut single = 0.0;
    for (name, endpoints, options, messages, rounds) in [
        ("one", 1, "", 120_000usize, 3),
        ("ten", 10, "", 100_000, 1),
        ("thousand", 1000, "", 60_000, 1),
        ("batch", 1, ", batch_size => 100", 200_000, 3),
    ] {
        let concurrency = (CONCURRENCY / endpoints).max(1);
        let db = match prepare(&server, name, &receiver, endpoints, concurrency, options).await {
            Ok(db) => db,
            Err(error) if name == "batch" => {
                println!("   batches: {error:#}");
                continue;
            }
            Err(error) => return Err(error),
        };
        let requests_per = if name == "batch" { 100 } else { 1 };
        let (mut rates, mut ratios, mut micros, mut bytes, mut memory) = (vec![], vec![], vec![], vec![], vec![]);
        let mut requests = 0.0;
        for _ in 0..rounds {
            reload(&server, "pg_outbox.push", "off").await?;
            fill(&db, messages, endpoints).await?;
            routed(&db).await;
            let bare = bare::run(receiver.address(), CONCURRENCY as usize, PAYLOAD, Duration::from_secs(2))?;
            receiver.clear();
            let pid = dispatcher(&db).await?;
            let (cpu0, wal0) = (cpu(pid), wal(&db).await?);
            reload(&server, "pg_outbox.push", "on").await?;
            wait_until("the first message arrives", Duration::from_secs(20), async || receiver.total() > 0).await;
            let started = Instant::now();
            wait_until("everything is delivered", LONG, async || receiver.total() >= messages / requests_per).await;
            // Batches may be smaller than their maximum, so the number of requests is not known. For batches the
            // measurement ends when everything is recorded.
            let arrived = started.elapsed().as_secs_f64();
            idle(&db).await;
            let took = if requests_per > 1 { started.elapsed().as_secs_f64() } else { arrived };
            requests = receiver.total() as f64;
            let rate = messages as f64 / took;
            rates.push(rate);
            ratios.push(rate / bare);
            micros.push((cpu(pid) - cpu0) / messages as f64);
            bytes.push((wal(&db).await? - wal0) / messages as f64);
            memory.push(status(pid, "RssAnon:") / 1024.0);
        }
        let (rate, ratio) = (median(rates), median(ratios));
        let goal = (name == "one").then_some(Goal::AtLeast(0.5));
        match name {
            "batch" => {
                let what = format!(
                    "batches of 100 ({:.0} messages per request), single as comparison",
                    messages as f64 / requests
                );
                report.row("drain", what, rate, Some(single), "messages/s", Some(Goal::AtLeast(3.0)));
            }
            _ => {
                let what = format!("{endpoints} endpoint(s), single messages, signed; bare client");
                report.row("drain", what, rate, Some(rate / ratio), "messages/s", goal);
            }
        }
        if name == "one" {
            single = rate;
        }
        report.row("drain", format!("  {name}: CPU of the dispatcher per message"), median(micros), None, "us", None);
        report.row(
            "drain",
            format!("  {name}: WAL per message, first try to record"),
            median(bytes),
            None,
            "bytes",
            None,
        );
        let peak = memory.iter().copied().fold(0.0, f64::max);
        report.row(
            "drain",
            format!("  {name}: private memory at the end"),
            peak,
            None,
            "MB",
            Some(Goal::AtMost(100.0)),
        );
    }
    Ok(())
}
