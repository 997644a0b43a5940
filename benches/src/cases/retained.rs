//! Retained messages must not slow anything down: the same work on an empty system and beside many old messages.

use std::time::Instant;

use anyhow::Result;
use outbox_harness::{Receiver, Server};

use crate::PAYLOAD;
use crate::measure::{LONG, fill, idle, median, pgbench, prepare, reload, routed, server};
use crate::report::{Goal, Report};

pub async fn run(report: &mut Report) -> Result<()> {
    let retained: usize = std::env::var("RETAINED").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let receiver = Receiver::start()?;
    receiver.quiet();
    let server = server(&[]).await?;
    let mut results = vec![];
    for (name, pile) in [("empty", 0), ("full", retained)] {
        let db = prepare(&server, name, &receiver, 1, 64, "").await?;
        let mut left = pile;
        while left > 0 {
            let part = left.min(500_000);
            // No subscription matches these messages. They are numbered, routed and retained.
            db.execute(
                "select count(outbox.enqueue('other.' || n % 100, $1::text::jsonb, 'c-' || n % 1000))
                from generate_series(1, $2) n",
                &[&PAYLOAD, &(part as i32)],
            )
            .await?;
            routed(&db).await;
            left -= part;
        }
        db.batch_execute("vacuum analyze").await?;
        db.batch_execute("checkpoint").await?;
        results.push(work(&server, name, &db, &receiver).await?);
    }
    for (i, what) in ["enqueue, 4 clients", "ticks", "drain"].into_iter().enumerate() {
        let (full, empty) = (results[1][i], results[0][i]);
        let what = format!("{what} beside {retained} retained; empty");
        report.row("retained", what, full, Some(empty), "messages/s", Some(Goal::AtLeast(0.9)));
    }
    for (i, what) in ["history of one message", "stats()"].into_iter().enumerate() {
        let (full, empty) = (results[1][i + 3], results[0][i + 3]);
        report.row("retained", format!("{what} beside {retained}; empty"), full, Some(empty), "ms", None);
    }
    Ok(())
}

async fn work(
    server: &Server,
    name: &str,
    db: &outbox_harness::tokio_postgres::Client,
    receiver: &Receiver,
) -> Result<[f64; 5]> {
    let script = format!("select outbox.enqueue('idle.created', '{PAYLOAD}'::jsonb, 'c-778899');");
    let mut rates = vec![];
    for _ in 0..3 {
        rates.push(pgbench(server, name, &script, 4, 2, "").await?);
    }
    routed(db).await;
    let (mut ticks, mut drains) = (vec![], vec![]);
    for _ in 0..3 {
        const MESSAGES: usize = 60_000;
        reload(server, "pg_outbox.push", "off").await?;
        // The rate of the ticks of one commit, from the recorded times of the first and the last tick.
        let before: i64 = db.query_one("select outbox.head()", &[]).await?.get(0);
        fill(db, MESSAGES, 1).await?;
        routed(db).await;
        let rate = db
            .query_one(
                "select ((max(last_position) - min(last_position))
                    / extract(epoch from max(ticked_at) - min(ticked_at)))::float8
                from outbox.tick where last_position > $1 and first_position <= last_position",
                &[&before],
            )
            .await?;
        ticks.push(rate.get::<_, Option<f64>>(0).unwrap_or(0.0));
        receiver.clear();
        reload(server, "pg_outbox.push", "on").await?;
        outbox_harness::wait_until("the first arrives", LONG, async || receiver.total() > 0).await;
        drains.push(
            crate::measure::rate_until(MESSAGES as f64, "all arrive", async || receiver.total() >= MESSAGES).await,
        );
        idle(db).await;
    }
    let id: i64 = db.query_one("select outbox.enqueue('order.0', '{}')", &[]).await?.get(0);
    idle(db).await;
    let mut times = [vec![], vec![]];
    for _ in 0..20 {
        let at = Instant::now();
        db.query("select * from outbox.history($1)", &[&id]).await?;
        times[0].push(at.elapsed().as_secs_f64() * 1e3);
        let at = Instant::now();
        db.query("select * from outbox.stats()", &[]).await?;
        times[1].push(at.elapsed().as_secs_f64() * 1e3);
    }
    let [history, stats] = times.map(median);
    Ok([median(rates), median(ticks), median(drains), history, stats])
}
