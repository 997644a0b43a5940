//! Readers: pages of the feed, compared with pages of a plain table by id.

use std::time::Instant;

use anyhow::Result;

use crate::measure::{fill, plain_server};
use crate::report::Report;

pub async fn run(report: &mut Report) -> Result<()> {
    const MESSAGES: usize = 200_000;
    let server = plain_server().await?;
    let db = server.database("bench").await?;
    fill(&db, MESSAGES, 1).await?;
    while db.query_one("select (outbox_internal.tick_inline(100000)).more", &[]).await?.get::<_, bool>(0) {}
    let last: i64 = db.query_one("select outbox.head()", &[]).await?.get(0);
    db.batch_execute(
        "create table copy as select id, topic, payload from outbox.message; create unique index on copy (id)",
    )
    .await?;
    db.batch_execute("vacuum analyze copy").await?;
    db.batch_execute("vacuum analyze outbox.message").await?;
    for page in [100i32, 1000] {
        let read = db.prepare("select r.\"position\", r.topic, r.payload::text from outbox.read($1, $2) r").await?;
        let plain =
            db.prepare("select id, topic, payload::text from copy where id > $1 order by id limit $2::int").await?;
        let mut rates = vec![];
        for statement in [&read, &plain] {
            let (mut at, mut seen) = (0i64, 0);
            let started = Instant::now();
            while at < last {
                let rows = db.query(statement, &[&at, &page]).await?;
                let Some(end) = rows.last() else { break };
                at = end.get(0);
                seen += rows.len();
            }
            rates.push(seen as f64 / started.elapsed().as_secs_f64());
        }
        report.row(
            "read",
            format!("pages of {page}; a plain table by id"),
            rates[0],
            Some(rates[1]),
            "messages/s",
            None,
        );
    }
    Ok(())
}
