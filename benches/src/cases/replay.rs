//! The speed of a replay, and its effect on live traffic.

use std::time::Duration;

use anyhow::Result;
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, wait_until};

use super::latency::at_rate;
use crate::PAYLOAD;
use crate::measure::{LONG, idle, prepare, rate_until, server};
use crate::report::{Report, quantile};

const BACKLOG: usize = 20_000;
const LIVE: u32 = 1000;

pub async fn run(report: &mut Report) -> Result<()> {
    let (live, history) = (Receiver::start()?, Receiver::start()?);
    let server = server(&[]).await?;
    let db = prepare(&server, "bench", &live, 1, 64, "").await?;
    db.execute("select from outbox.create_endpoint('h', $1, concurrency => 64)", &[&history.url("/h")]).await?;
    db.batch_execute("select outbox.subscribe('history', '{history.#}', 'h')").await?;
    history.quiet();
    db.execute(
        "select count(outbox.enqueue('history.made', $1::text::jsonb, 'c-' || n % 1000)) from generate_series(1, $2) n",
        &[&PAYLOAD, &(BACKLOG as i32)],
    )
    .await?;
    wait_until("the backlog is delivered", LONG, async || history.total() >= BACKLOG).await;
    idle(&db).await;

    history.clear();
    begin(&db, 10_000).await?;
    wait_until("the replay begins", LONG, async || history.total() > 0).await;
    let rate = rate_until(BACKLOG as f64, "the replay ends", async || history.total() >= BACKLOG).await;
    report.row("replay", format!("{BACKLOG} messages as fast as it goes"), rate, None, "messages/s", None);
    idle(&db).await;

    let without = at_rate(&server, "bench", &live, LIVE).await?.0;
    for rate in [200, 1000, 2000] {
        history.clear();
        let id = begin(&db, rate).await?;
        wait_until("the replay begins", LONG, async || history.total() > 0).await;
        let before = history.total();
        let (beside, reached) = at_rate(&server, "bench", &live, LIVE).await?;
        let replayed = history.total() - before;
        // The replay may have ended before the live traffic did.
        let _ = db.execute("select outbox.cancel_replay($1)", &[&id]).await;
        idle(&db).await;
        let what = format!("live at {LIVE}/s beside a replay at {rate}/s ({replayed} meanwhile)");
        for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
            let (beside, without) = (quantile(&beside, q), quantile(&without, q));
            report.row("replay", format!("{what}: {name}; without"), beside, Some(without), "ms", None);
        }
        if reached < f64::from(LIVE) * 0.9 {
            println!("   only {reached:.0}/s were reached");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn begin(db: &Client, rate: i32) -> Result<i64> {
    Ok(db.query_one("select outbox.replay('history', rate => $1)", &[&rate]).await?.get(0))
}
