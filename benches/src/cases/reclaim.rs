//! Reclaiming under load: how long an enqueue takes while a leaf is rotated, sealed and truncated, and at other times.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use outbox_harness::{Receiver, wait_until};

use crate::PAYLOAD;
use crate::measure::{LONG, prepare, routed, server};
use crate::report::{Goal, Report, quantile};

const RATE: u32 = 1000;
const SESSIONS: u32 = 8;
const ROUNDS: usize = 5;

pub async fn run(report: &mut Report) -> Result<()> {
    // The number of messages in each leaf that is truncated.
    let messages: i32 = std::env::var("RECLAIM").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let receiver = Receiver::start()?;
    receiver.quiet();
    let server = server(&[]).await?;
    let db = prepare(&server, "bench", &receiver, 1, 64, "").await?;
    // Fills one leaf per round.
    for _ in 0..ROUNDS {
        let mut left = messages;
        while left > 0 {
            let part = left.min(500_000);
            db.execute(
                "select count(outbox.enqueue('other.' || n % 100, $1::text::jsonb)) from generate_series(1, $2) n",
                &[&PAYLOAD, &part],
            )
            .await?;
            left -= part;
        }
        routed(&db).await;
        db.execute("select outbox.rotate()", &[]).await?;
    }
    db.batch_execute("checkpoint").await?;

    let started = Instant::now() + Duration::from_millis(200);
    let stop = Arc::new(AtomicBool::new(false));
    let mut sessions = vec![];
    for k in 0..SESSIONS {
        let session = server.connect("bench").await?;
        let enqueue = session.prepare("select outbox.enqueue('order.0', $1::text::jsonb, 'k')").await?;
        let stop = Arc::clone(&stop);
        sessions.push(tokio::spawn(async move {
            let mut times = vec![];
            let mut n = k;
            while !stop.load(Ordering::Relaxed) {
                // The time counts from when the enqueue was due, so the wait for a slow enqueue before it is included.
                let due = started + Duration::from_secs_f64(f64::from(n) / f64::from(RATE));
                tokio::time::sleep_until(due.into()).await;
                session.execute(&enqueue, &[&PAYLOAD]).await?;
                times.push((due, due.elapsed().as_secs_f64() * 1e3));
                n += SESSIONS;
            }
            anyhow::Ok(times)
        }));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut busy = vec![];
    let mut truncations = vec![];
    for _ in 0..ROUNDS {
        // A leaf is sealed when the sequencer has passed it and no transaction writes to it any more.
        wait_until("a leaf is sealed", LONG, async || {
            let seal = "select outbox_internal.seal_leaves()";
            let sealed = "select count(*) from outbox.segment where ring = 'message' and last_position is not null
                and closed_at is not null and reclaimed_at is null";
            let _ = db.execute(seal, &[]).await;
            db.query_one(sealed, &[]).await.is_ok_and(|row| row.get::<_, i64>(0) > 0)
        })
        .await;
        db.execute(
            "update outbox.segment set closed_at = closed_at - interval '30 d' where (ring, leaf) in (
                select ring, leaf from outbox.segment where ring = 'message' and last_position is not null
                    and closed_at > now() - interval '1 d' and reclaimed_at is null order by closed_at limit 1)",
            &[],
        )
        .await?;
        // The dispatcher may hold the lock for maintenance. Then the call is repeated.
        let from = Instant::now();
        db.execute("select outbox.rotate()", &[]).await?;
        let mut took = 0.0;
        wait_until("a leaf is truncated", LONG, async || {
            let at = Instant::now();
            let done = db.query_opt("select 1 from outbox.maintain() where job = 'message' and bytes > 0", &[]).await;
            took = at.elapsed().as_secs_f64() * 1e3;
            matches!(done, Ok(Some(_)))
        })
        .await;
        truncations.push(took);
        busy.push((from, Instant::now() + Duration::from_millis(20)));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut during, mut without) = (vec![], vec![]);
    for session in sessions {
        for (due, took) in session.await?? {
            if busy.iter().any(|(from, to)| due + Duration::from_secs_f64(took / 1e3) >= *from && due <= *to) {
                during.push(took);
            } else {
                without.push(took);
            }
        }
    }
    ensure!(during.len() > 20, "only {} enqueues while segments were reclaimed", during.len());
    during.sort_by(f64::total_cmp);
    without.sort_by(f64::total_cmp);
    for (name, q) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        let goal = (q == 0.99).then_some(Goal::AtMost(2.0));
        report.row(
            "reclaim",
            format!("enqueue at {RATE}/s while a leaf of {messages} goes, {name}; otherwise"),
            quantile(&during, q),
            Some(quantile(&without, q)),
            "ms",
            goal,
        );
    }
    truncations.sort_by(f64::total_cmp);
    report.row("reclaim", "a round of maintenance that truncates one", quantile(&truncations, 0.5), None, "ms", None);
    Ok(())
}
