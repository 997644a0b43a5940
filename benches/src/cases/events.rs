//! Events that are stored: streams, everything in order, a category, and a projection.

use std::time::Instant;

use anyhow::Result;
use outbox_harness::tokio_postgres::Client;

use crate::PAYLOAD;
use crate::measure::{median, plain_server};
use crate::report::{Goal, Report};

const LARGE: i64 = 10_000;
const EVENTS: i64 = 300_000;
/// One event in this many is of the rare category.
const RARE: i64 = 1000;

pub async fn run(report: &mut Report) -> Result<()> {
    let server = plain_server().await?;
    let db = server.database("bench").await?;
    append(&db, "large", LARGE).await?;
    for i in 0..100 {
        append(&db, &format!("small-{i}"), 10).await?;
    }
    db.execute(
        "select count(outbox.append(case when n % $3 = 0 then 'rare-' else 'order-' end || n % 5000, 'order.paid', $1::text::jsonb))
         from generate_series(1, $2::bigint) n",
        &[&PAYLOAD, &EVENTS, &RARE],
    )
    .await?;
    while db.query_one("select (outbox_internal.tick_inline(100000)).more", &[]).await?.get::<_, bool>(0) {}
    db.batch_execute(
        "create table plain as select m.key as stream, m.version, m.topic as type, m.payload as data from outbox.message m;
        create unique index on plain (stream, version);
        vacuum analyze plain; vacuum analyze outbox.message; vacuum analyze outbox.feed",
    )
    .await?;
    streams(report, &db).await?;
    pages(report, &db).await?;
    projection(report, &db).await
}

async fn append(db: &Client, stream: &str, events: i64) -> Result<()> {
    db.execute(
        "select outbox.append_many($1, array_fill('order.paid'::text, array[$3::int]), array_fill($2::text::jsonb, array[$3::int]))",
        &[&stream, &PAYLOAD, &(events as i32)],
    )
    .await?;
    Ok(())
}

/// Loads streams, beside the same rows of a plain table.
async fn streams(report: &mut Report, db: &Client) -> Result<()> {
    let ours = db.prepare("select version, type, data::text from outbox.load($1)").await?;
    let theirs = db.prepare("select version, type, data::text from plain where stream = $1 order by version").await?;
    for (what, streams, events) in [("streams of 10", 100, 10.0), ("a stream of 10,000", 1, LARGE as f64)] {
        let (mut rates, mut ratios) = (vec![], vec![]);
        for _ in 0..5 {
            let mut pair = vec![];
            for statement in [&ours, &theirs] {
                let started = Instant::now();
                for i in 0..streams {
                    let stream = if streams == 1 { "large".to_owned() } else { format!("small-{i}") };
                    anyhow::ensure!(db.query(statement, &[&stream]).await?.len() == events as usize);
                }
                pair.push(f64::from(streams) * events / started.elapsed().as_secs_f64());
            }
            rates.push(pair[0]);
            ratios.push(pair[0] / pair[1]);
        }
        let (rate, ratio) = (median(rates), median(ratios));
        report.row("events", format!("load, {what}; a plain table"), rate, Some(rate / ratio), "events/s", None);
    }
    Ok(())
}

/// Reads everything, and a rare category.
async fn pages(report: &mut Report, db: &Client) -> Result<()> {
    let all = db.prepare("select position, version, type, data::text from outbox.read_events($1, 1000)").await?;
    let category = "select position, version from outbox.read_events($1, 1000, categories => '{rare}') where message_id is not null";
    let category = db.prepare(category).await?;
    let started = Instant::now();
    let (mut at, mut seen) = (0i64, 0);
    loop {
        let rows = db.query(&all, &[&at]).await?;
        let Some(last) = rows.last() else { break };
        let next = last.get(0);
        if next == at {
            break;
        }
        (at, seen) = (next, seen + rows.len());
    }
    let rate = seen as f64 / started.elapsed().as_secs_f64();
    report.row(
        "events",
        "everything from 0, pages of 1,000".to_owned(),
        rate,
        None,
        "events/s",
        Some(Goal::AtLeast(500_000.0)),
    );
    let started = Instant::now();
    let found = db.query(&category, &[&0i64]).await?.len();
    anyhow::ensure!(found as i64 == EVENTS / RARE, "{found} events of the category");
    let time = started.elapsed().as_secs_f64() * 1e3;
    report.row(
        "events",
        format!("a page of {found} of a category, 0.1 % of all"),
        time,
        None,
        "ms",
        Some(Goal::AtMost(15.0)),
    );
    Ok(())
}

/// Runs a projection whose handler counts the events of a page.
async fn projection(report: &mut Report, db: &Client) -> Result<()> {
    db.batch_execute(
        "create table public.counted (type text primary key, n bigint not null);
        create function public.count_events(events outbox.event[]) returns void language sql as $$
            insert into public.counted as c select e.type, count(*) from unnest(events) e group by 1
            on conflict (type) do update set n = c.n + excluded.n $$;
        select outbox.create_projection('counted', 'public.count_events(outbox.event[])')",
    )
    .await?;
    let (started, mut handled) = (Instant::now(), 0i64);
    loop {
        let done: i64 = db.query_one("select outbox.run_projection('counted', 1000)", &[]).await?.get(0);
        if done == 0 {
            break;
        }
        handled += done;
    }
    let rate = handled as f64 / started.elapsed().as_secs_f64();
    report.row(
        "events",
        "a projection, pages of 1,000".to_owned(),
        rate,
        None,
        "events/s",
        Some(Goal::AtLeast(100_000.0)),
    );
    Ok(())
}
