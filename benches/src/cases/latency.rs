//! The time from commit to receipt at fixed rates.

use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use outbox_harness::{Receiver, Server, wait_until};

use crate::measure::{LONG, median, prepare, server};
use crate::report::{Goal, Histogram, Report, quantile};

pub async fn run(report: &mut Report) -> Result<()> {
    let receiver = Receiver::start()?;
    let server = server(&[]).await?;
    let db = prepare(&server, "bench", &receiver, 1, 64, "").await?;
    db.batch_execute("create table probe (n int)").await?;
    let insert = db.prepare("insert into probe values (1)").await?;
    for rate in [100u32, 1000, 10_000] {
        // The time of a commit in the same minute.
        let mut commits = vec![];
        for _ in 0..200 {
            let at = Instant::now();
            db.execute(&insert, &[]).await?;
            commits.push(at.elapsed().as_secs_f64() * 1e3);
        }
        let commit = median(commits);
        let (delays, reached) = at_rate(&server, "bench", &receiver, rate).await?;
        let p = |q| quantile(&delays, q);
        let what = format!("{rate}/s (reached {reached:.0}/s)");
        let goal = (rate == 1000).then_some(Goal::AtMost((2.0 * commit + 0.5) / commit));
        report.row("latency", format!("{what}: p50; one commit"), p(0.5), Some(commit), "ms", goal);
        let goal = (rate == 1000).then_some(Goal::AtMost(5.0));
        report.row("latency", format!("{what}: p99"), p(0.99), None, "ms", goal);
        report.histograms.push(Histogram { name: format!("{rate}/s"), values: delays });
    }
    Ok(())
}

/// Enqueues at a rate. Returns the sorted delays in ms between the moment at which a session knew of its commit and the
/// arrival, and the reached rate.
pub async fn at_rate(server: &Server, database: &str, receiver: &Receiver, rate: u32) -> Result<(Vec<f64>, f64)> {
    receiver.clear();
    let count = (rate * 5).min(20_000);
    let (committed, reached) = enqueue_at_rate(server, database, rate, count).await?;
    wait_until("everything has arrived", LONG, async || receiver.total() >= count as usize).await;
    let mut delays: Vec<f64> = receiver
        .arrivals()
        .iter()
        .map(|arrival| {
            let n = arrival.json()["n"].as_u64().unwrap_or(0) as usize;
            // The message may arrive before the session gets the answer to its commit.
            arrival.at.duration_since(committed[n]).map_or(0.0, |d| d.as_secs_f64() * 1e3)
        })
        .collect();
    delays.sort_by(f64::total_cmp);
    Ok((delays, reached))
}

/// Enqueues messages with the numbers from 0 at a rate. Returns when the session of each knew of its commit, and the reached
/// rate.
pub async fn enqueue_at_rate(server: &Server, database: &str, rate: u32, count: u32) -> Result<(Vec<SystemTime>, f64)> {
    // There are enough sessions, so that the time of a commit does not limit the rate.
    let sessions = (rate / 250).clamp(4, 40);
    let started = Instant::now() + Duration::from_millis(200);
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    for k in 0..sessions {
        let session = server.connect(database).await?;
        let enqueue =
            session.prepare("select outbox.enqueue('order.0', jsonb_build_object('n', $1::int), 'k')").await?;
        let tx = tx.clone();
        tokio::spawn(async move {
            let mut n = k;
            while n < count {
                let due = started + Duration::from_secs_f64(f64::from(n) / f64::from(rate));
                if due > Instant::now() {
                    tokio::time::sleep_until(due.into()).await;
                }
                if session.execute(&enqueue, &[&(n as i32)]).await.is_err() {
                    break;
                }
                let _ = tx.send((n, SystemTime::now()));
                n += sessions;
            }
        });
    }
    drop(tx);
    let mut committed = vec![SystemTime::UNIX_EPOCH; count as usize];
    while let Some((n, at)) = rx.recv().await {
        committed[n as usize] = at;
    }
    let took = started.elapsed().as_secs_f64();
    Ok((committed, f64::from(count) / took))
}
