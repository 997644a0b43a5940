//! The sequencer alone: the rate of numbering the messages of one transaction, and the time of an enqueue meanwhile.

use std::time::Instant;

use anyhow::Result;

use crate::measure::{fill, median, plain_server, wal};
use crate::report::{Goal, Report};

pub async fn run(report: &mut Report) -> Result<()> {
    let server = plain_server().await?;
    let db = server.database("bench").await?;
    let other = server.connect("bench").await?;
    let count: usize = std::env::var("BULK").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let (mut rates, mut bytes, mut held_up) = (vec![], vec![], vec![]);
    let rounds = if count > 2_000_000 { 1 } else { 3 };
    for _ in 0..rounds {
        fill(&db, count, 1).await?;
        let before = wal(&db).await?;
        let started = Instant::now();
        let mut numbered = 0i64;
        let mut n = 0;
        loop {
            // Chunks of a thousand messages, each in a transaction, as in the dispatcher.
            let row = db
                .query_one(
                    "select t.status, t.last_position - t.first_position + 1, t.more from outbox_internal.tick_inline(1000) t",
                    &[],
                )
                .await?;
            numbered += row.get::<_, Option<i64>>(1).unwrap_or(0);
            n += 1;
            if n % 100 == 0 {
                let at = Instant::now();
                other.execute("select outbox.enqueue('order.0', '{}')", &[]).await?;
                held_up.push(at.elapsed().as_secs_f64() * 1e3);
            }
            if !row.get::<_, bool>(2) && numbered >= count as i64 {
                break;
            }
        }
        rates.push(numbered as f64 / started.elapsed().as_secs_f64());
        bytes.push((wal(&db).await? - before) / numbered as f64);
    }
    report.row(
        "sequencer",
        format!("{count} messages of one commit"),
        median(rates),
        None,
        "messages/s",
        Some(Goal::AtLeast(300_000.0)),
    );
    report.row("sequencer", "WAL per message", median(bytes), None, "bytes", None);
    report.row("sequencer", "enqueue of another session meanwhile, p50", median(held_up), None, "ms", None);
    Ok(())
}
