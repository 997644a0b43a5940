//! Readers: pages of the feed, compared with pages of a plain table by id.

use std::time::Instant;

use anyhow::Result;
use outbox_harness::tokio_postgres::Client;

use crate::measure::{fill, plain_server};
use crate::report::Report;

pub const OURS: &str = "select r.\"position\", r.topic, r.payload::text from outbox.read($1, $2) r";
pub const THEIRS: &str = "select id, topic, payload::text from copy where id > $1 order by id limit $2::int";

pub async fn run(report: &mut Report) -> Result<()> {
    let server = plain_server().await?;
    let db = server.database("bench").await?;
    prepare(&db).await?;
    for page in [100i32, 1000] {
        let ours = rate(&db, OURS, page).await?;
        let theirs = rate(&db, THEIRS, page).await?;
        report.row("read", format!("pages of {page}; a plain table by id"), ours, Some(theirs), "messages/s", None);
    }
    Ok(())
}

/// Fills the feed, and a plain table with the same messages.
pub async fn prepare(db: &Client) -> Result<()> {
    const MESSAGES: usize = 200_000;
    fill(db, MESSAGES, 1).await?;
    while db.query_one("select (outbox_internal.tick_inline(100000)).more", &[]).await?.get::<_, bool>(0) {}
    db.batch_execute(
        "create table copy as select id, topic, payload from outbox.message; create unique index on copy (id)",
    )
    .await?;
    db.batch_execute("vacuum analyze copy").await?;
    db.batch_execute("vacuum analyze outbox.message").await?;
    Ok(())
}

/// Reads everything once, and returns the messages per second.
pub async fn rate(db: &Client, statement: &str, page: i32) -> Result<f64> {
    let statement = db.prepare(statement).await?;
    let (mut at, mut seen) = (0i64, 0);
    let started = Instant::now();
    loop {
        let rows = db.query(&statement, &[&at, &page]).await?;
        let Some(end) = rows.last() else { break };
        at = end.get(0);
        seen += rows.len();
    }
    Ok(seen as f64 / started.elapsed().as_secs_f64())
}
