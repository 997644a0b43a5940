//! The cost of `append` for the transaction that calls it.

use anyhow::Result;

use crate::PAYLOAD;
use crate::measure::{median, pgbench, plain_server};
use crate::report::{Goal, Report};

/// The table of the comparison, with the columns, defaults and indexes that events have.
pub const PLAIN: &str = "create sequence plain_event_id cache 1;
    create table plain_event (
        id bigint not null default nextval('plain_event_id'), xid xid8 not null default pg_current_xact_id(),
        enqueued_at timestamptz not null default clock_timestamp(), occurred_at timestamptz, type text not null,
        stream text not null, version bigint not null, event_id uuid, tenant text, publisher text, content_type text,
        headers jsonb, metadata jsonb, data jsonb, body bytea);
    create index on plain_event (xid, id);
    create unique index on plain_event (id);
    create unique index on plain_event (stream, version)";
/// Both sides begin each comparison with no rows, because a larger index is slower on either side.
pub const EMPTY: &str = "truncate plain_event; truncate outbox._message_event";

/// The statements that are compared.
pub fn append() -> String {
    format!(
        "\\set s random(1, 1000000)\nselect outbox.append('order-' || :s::int, 'order.created', '{PAYLOAD}'::jsonb);\n"
    )
}

/// Random numbers take the place of versions: this side has no lock and no look-up for the version.
pub fn insert() -> String {
    format!(
        "\\set s random(1, 1000000)\n\\set v random(1, 1000000000000)\n\
         insert into plain_event (stream, version, type, data) values ('order-' || :s::int, :v::bigint, 'order.created', '{PAYLOAD}'::jsonb);\n"
    )
}

pub async fn run(report: &mut Report) -> Result<()> {
    // Without a dispatcher, so that only the call is measured.
    let server = plain_server().await?;
    let db = server.database("bench").await?;
    db.batch_execute(PLAIN).await?;
    db.batch_execute(
        "create table head (stream text primary key, version bigint not null); insert into head values ('hot', 0)",
    )
    .await?;
    let (many, append) = (insert(), append());
    // The least that an event store of one's own does: without a lock, it fails where two sessions append at a time.
    let looked_up = format!(
        "\\set s random(1, 1000000)\ninsert into plain_event (stream, version, type, data) select 'order-' || :s::int, coalesce((
            select p.version from plain_event p where p.stream = 'order-' || :s::int order by p.stream desc, p.version desc limit 1), 0) + 1,
            'order.created', '{PAYLOAD}'::jsonb;\n"
    )
    .replace("\n            ", " ");
    let hot = format!("select outbox.append('hot', 'order.created', '{PAYLOAD}'::jsonb);\n");
    // One stream, as a table with a row per stream counts its versions.
    let counted = format!(
        "with h as (update head set version = version + 1 where stream = 'hot' returning version)
         insert into plain_event (stream, version, type, data) select 'hot', h.version, 'order.created', '{PAYLOAD}'::jsonb from h;\n"
    )
    .replace("\n  ", " ");
    for sync in ["on", "off"] {
        for (what, clients, ours, theirs, goal) in [
            ("many streams, a plain INSERT", 1, &append, &many, 0.9),
            ("many streams, a plain INSERT", 4, &append, &many, 0.9),
            ("many streams, a plain INSERT", 16, &append, &many, 0.9),
            ("many streams, an INSERT that looks its version up", 4, &append, &looked_up, 1.0),
            ("one stream, a row that counts", 16, &hot, &counted, if sync == "on" { 0.7 } else { 0.9 }),
        ] {
            let options = format!("-c synchronous_commit={sync}");
            let (mut rates, mut ratios) = (vec![], vec![]);
            for _ in 0..3 {
                let a = pgbench(&server, "bench", ours, clients, 2, &options).await?;
                let b = pgbench(&server, "bench", theirs, clients, 2, &options).await?;
                rates.push(a);
                ratios.push(a / b);
                // Dead rows of the other side must not make it slower.
                db.batch_execute("vacuum head").await?;
            }
            let (rate, ratio) = (median(rates), median(ratios));
            let what = format!("sync {sync}, {clients:>2} clients, {what}");
            report.row("append", what, rate, Some(rate / ratio), "events/s", Some(Goal::AtLeast(goal)));
            db.batch_execute(EMPTY).await?;
        }
    }
    Ok(())
}
