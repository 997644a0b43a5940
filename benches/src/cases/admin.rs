//! The pages that operators look at: a page of each view of the past, on an empty system and beside retained messages.

use std::time::Instant;

use anyhow::{Context, Result};
use outbox_harness::{Receiver, tokio_postgres::Client};

use crate::PAYLOAD;
use crate::measure::{fill, idle, median, prepare, routed, server};
use crate::report::{Goal, Report};

/// The name and the statement of each page. $1 is a message id. In the full database, pages come from the middle of the
/// retained messages.
const PAGES: &[(&str, &str)] = &[
    ("one entry of the archive", "select * from outbox.archive_get($1::bigint)"),
    (
        "messages of a tenant",
        "select * from outbox.archive_list(tenant => 't-7', before => $1::bigint + 1, max_rows => 50)",
    ),
    (
        "messages of an aggregate",
        "select * from outbox.archive_list(aggregate_type => 'order', aggregate_id => 'a-7', before => $1::bigint + 1, max_rows => 50)",
    ),
    (
        "messages of an endpoint",
        "select * from outbox.archive_list(endpoint => 'e0', before => $1::bigint + 1, max_rows => 50)",
    ),
    ("a page of the archive", "select * from outbox.archive_list(before => $1::bigint + 1, max_rows => 50)"),
    ("what the last 1,000 came to", "select * from outbox.archive_stats() where $1::bigint > 0"),
    ("counts of a tenant", "select * from outbox.tenant_stats where tenant = 't-7' and $1::bigint > 0"),
    ("counts of all subscriptions", "select * from outbox.subscription_stats where $1::bigint > 0"),
    ("history of a message", "select * from outbox.history($1::bigint)"),
    ("stats()", "select * from outbox.stats() where $1::bigint > 0"),
    ("metrics()", "select * from outbox.metrics() where $1::bigint > 0"),
    ("health()", "select * from outbox.health() where $1::bigint > 0"),
];

pub async fn run(report: &mut Report) -> Result<()> {
    let retained: usize = std::env::var("RETAINED").ok().and_then(|n| n.parse().ok()).unwrap_or(300_000);
    let receiver = Receiver::start()?;
    receiver.quiet();
    let server = server(&[]).await?;
    let mut results = vec![];
    for (name, pile) in [("empty", 0), ("full", retained)] {
        let db = prepare(&server, name, &receiver, 1, 64, "").await?;
        // The messages of the pages, which are delivered.
        enqueue(&db, "order.0", 1000).await?;
        idle(&db).await;
        let id: i64 = db.query_one("select max(message_id) from outbox.attempt", &[]).await?.get(0);
        let mut left = pile;
        while left > 0 {
            let part = left.min(250_000);
            // No subscription matches the retained messages. They are numbered and routed.
            enqueue(&db, "other.0", part).await?;
            routed(&db).await;
            left -= part;
        }
        if pile > 0 {
            fill(&db, 1000, 1).await?;
            idle(&db).await;
        }
        db.batch_execute("vacuum analyze").await?;
        db.batch_execute("checkpoint").await?;
        results.push(times(&db, id).await?);
    }
    for (i, (what, _)) in PAGES.iter().enumerate() {
        // Below 5 milliseconds the ratio is noise. A page that needs a scan would take many times as long as in an empty
        // database.
        report.row(
            "admin",
            format!("{what} beside {retained}; empty"),
            results[1][i],
            Some(results[0][i]),
            "ms",
            Some(Goal::AtMost(if results[1][i] < 5.0 { f64::INFINITY } else { 2.0 })),
        );
    }
    Ok(())
}

async fn enqueue(db: &Client, topic: &str, messages: usize) -> Result<()> {
    db.execute(
        "select count(outbox.enqueue($3, $1::text::jsonb, 'c-' || n % 1000, tenant => 't-' || n % 100,
            aggregate_type => 'order', aggregate_id => 'a-' || n % 100)) from generate_series(1, $2) n",
        &[&PAYLOAD, &(messages as i32), &topic],
    )
    .await?;
    Ok(())
}

async fn times(db: &Client, id: i64) -> Result<Vec<f64>> {
    let mut all = vec![];
    for (what, page) in PAGES {
        let statement = db.prepare(page).await.with_context(|| (*what).to_owned())?;
        let mut times = vec![];
        for _ in 0..15 {
            let at = Instant::now();
            db.query(&statement, &[&id]).await.with_context(|| (*what).to_owned())?;
            times.push(at.elapsed().as_secs_f64() * 1e3);
        }
        all.push(median(times));
    }
    Ok(all)
}
