//! The cost of `enqueue` for the transaction that calls it.

use anyhow::Result;

use crate::PAYLOAD;
use crate::measure::{median, pgbench, plain_server};
use crate::report::{Goal, Report};

/// The table of the comparison, with the columns, defaults and indexes of a leaf of messages.
pub const PLAIN: &str = "create sequence plain_id cache 1;
    create table plain (
        id bigint not null default nextval('plain_id'), xid xid8 not null default pg_current_xact_id(),
        enqueued_at timestamptz not null default clock_timestamp(), deliver_at timestamptz, expires_at timestamptz,
        occurred_at timestamptz, max_attempts int, priority smallint not null default 0, topic text not null, key text,
        tenant text, aggregate_type text, aggregate_id text, publisher text, idempotency_key text, content_type text,
        headers jsonb, metadata jsonb, payload jsonb, body bytea);
    create index on plain (xid, id);
    create unique index on plain (id)";

/// The statements that are compared.
pub fn call() -> String {
    format!("select outbox.enqueue('order.created', '{PAYLOAD}'::jsonb, 'c-778899');\n")
}

pub fn insert() -> String {
    format!("insert into plain (topic, payload, key) values ('order.created', '{PAYLOAD}'::jsonb, 'c-778899');\n")
}

pub async fn run(report: &mut Report) -> Result<()> {
    // Without a dispatcher, so that only the call is measured.
    let server = plain_server().await?;
    let db = server.database("bench").await?;
    db.batch_execute(PLAIN).await?;
    let (call, insert) = (call(), insert());
    for sync in ["on", "off"] {
        for clients in [1, 4, 16] {
            for per in [1, 2, 10] {
                let script = |line: &str| match per {
                    1 => line.to_owned(),
                    n => format!("begin;\n{}commit;\n", line.repeat(n)),
                };
                let (ours, theirs) = (script(&call), script(&insert));
                let options = format!("-c synchronous_commit={sync}");
                let (mut a, mut b, mut ratios) = (vec![], vec![], vec![]);
                for _ in 0..3 {
                    let x = pgbench(&server, "bench", &ours, clients, 1, &options).await? * per as f64;
                    let y = pgbench(&server, "bench", &theirs, clients, 1, &options).await? * per as f64;
                    a.push(x);
                    b.push(y);
                    ratios.push(x / y);
                }
                // The ratio is computed from measurements next to each other, because a busy moment of the machine
                // affects both.
                let (a, ratio) = (median(a), median(ratios));
                let goal = (clients == 4 && per == 1).then_some(Goal::AtLeast(if sync == "on" { 0.95 } else { 0.85 }));
                let what = format!("sync {sync}, {clients:>2} clients, {per:>2} per transaction");
                report.row("enqueue", what, a, Some(a / ratio), "messages/s", goal);
                db.batch_execute("truncate plain").await?;
            }
        }
    }
    let before = crate::measure::wal(&db).await?;
    crate::measure::fill(&db, 20_000, 1).await?;
    let ours = (crate::measure::wal(&db).await? - before) / 20_000.0;
    let before = crate::measure::wal(&db).await?;
    db.execute(
        "insert into plain (topic, payload, key)
        select 'order.0', $1::text::jsonb, 'c-' || n % 1000 from generate_series(1, 20000) n",
        &[&PAYLOAD],
    )
    .await?;
    let theirs = (crate::measure::wal(&db).await? - before) / 20_000.0;
    report.row("enqueue", "WAL per message", ours, Some(theirs), "bytes", None);
    Ok(())
}
