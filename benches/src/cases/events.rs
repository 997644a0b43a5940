//! Events that are stored: streams, everything in order, a category, and a projection.

use std::time::Instant;

use anyhow::Result;
use outbox_harness::Server;
use outbox_harness::tokio_postgres::Client;

use crate::PAYLOAD;
use crate::measure::{cpu, median, pgbench, plain_server};
use crate::report::{Goal, Report};

const LARGE: i64 = 10_000;
/// One event in this many is of the rare category.
const RARE: i64 = 1000;
/// Events per call while the store is filled.
const CALL: i64 = 10;

/// Events that are stored. EVENTS=n changes it.
fn stored() -> i64 {
    std::env::var("EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(300_000)
}

pub async fn run(report: &mut Report) -> Result<()> {
    let server = plain_server().await?;
    let db = server.database("bench").await?;
    server.database("empty").await?;
    append(&db, "large", LARGE).await?;
    for i in 0..100 {
        append(&db, &format!("small-{i}"), 10).await?;
    }
    // In several transactions, so that ticks begin before the end.
    for first in (0..stored() / CALL).step_by(50_000) {
        let last = (first + 50_000).min(stored() / CALL) - 1;
        db.execute(
            "select count(outbox.append_many(case when n % $3 = 0 then 'rare-' else 'order-' end || n % 50000,
                array_fill('order.paid'::text, array[$4::int]), array_fill($1::text::jsonb, array[$4::int])))
             from generate_series($2::bigint, $5::bigint) n",
            &[&PAYLOAD, &first, &RARE, &(CALL as i32), &last],
        )
        .await?;
        while db.query_one("select (outbox_internal.tick_inline(100000)).more", &[]).await?.get::<_, bool>(0) {}
    }
    while db.query_one("select (outbox_internal.tick_inline(100000)).more", &[]).await?.get::<_, bool>(0) {}
    db.batch_execute("select * from outbox.maintain()").await?;
    db.batch_execute(
        "create table plain as select m.key as stream, m.version, m.topic as type, m.payload as data from outbox.message m
            where m.key = 'large' or m.key like 'small-%';
        create unique index on plain (stream, version)",
    )
    .await?;
    for table in ["plain", "outbox.message", "outbox.feed"] {
        db.batch_execute(&format!("vacuum analyze {table}")).await?;
    }
    beside_an_empty_store(report, &server, &db).await?;
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
    let ours = db.prepare("select version, type, data::text from outbox.load($1, max_events => 10000)").await?;
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
        report.row(
            "events",
            format!("load by a client, {what}; a plain table"),
            rate,
            Some(rate / ratio),
            "events/s",
            None,
        );
    }
    let pid = backend(db).await?;
    let before = cpu(pid);
    for i in 0..2000 {
        db.query(&ours, &[&format!("small-{}", i % 100)]).await?;
    }
    let time = (cpu(pid) - before) / 2000.0 / 1e3;
    report.row("events", "load, CPU of the server per stream of 10", time, None, "ms", Some(Goal::AtMost(0.2)));
    let before = cpu(pid);
    for _ in 0..50 {
        db.query("select count(data) from outbox.load('large', max_events => 10000)", &[]).await?;
    }
    let rate = 50.0 * LARGE as f64 * 1e6 / (cpu(pid) - before);
    let what = "load, a stream of 10,000, per second of the server's CPU";
    report.row("events", what, rate, None, "events/s", Some(Goal::AtLeast(500_000.0)));
    Ok(())
}

async fn backend(db: &Client) -> Result<u32> {
    Ok(db.query_one("select pg_backend_pid()", &[]).await?.get::<_, i32>(0) as u32)
}

/// Appends and ticks, where nothing is stored and here.
async fn beside_an_empty_store(report: &mut Report, server: &Server, db: &Client) -> Result<()> {
    let append = format!(
        "\\set s random(1, 1000000)\nselect outbox.append('new-' || :s::int, 'order.created', '{PAYLOAD}'::jsonb);\n"
    );
    let empty = server.connect("empty").await?;
    let (mut rates, mut ratios, mut ticks, mut tick_ratios) = (vec![], vec![], vec![], vec![]);
    for _ in 0..5 {
        let (mut pair, mut tick_pair) = (vec![], vec![]);
        for (name, session) in [("bench", db), ("empty", &empty)] {
            pair.push(pgbench(server, name, &append, 1, 2, "-c synchronous_commit=off").await?);
            let (started, before) = (Instant::now(), head(session).await?);
            while session.query_one("select (outbox_internal.tick_inline(100000)).more", &[]).await?.get::<_, bool>(0) {
            }
            tick_pair.push((head(session).await? - before) as f64 / started.elapsed().as_secs_f64());
        }
        rates.push(pair[0]);
        ratios.push(pair[0] / pair[1]);
        ticks.push(tick_pair[0]);
        tick_ratios.push(tick_pair[0] / tick_pair[1]);
    }
    for (what, rates, ratios) in [("append", rates, ratios), ("tick", ticks, tick_ratios)] {
        let (rate, ratio) = (median(rates), median(ratios));
        let what = format!("{what} beside {} events; an empty store", stored());
        report.row("events", what, rate, Some(rate / ratio), "events/s", Some(Goal::AtLeast(0.9)));
    }
    Ok(())
}

async fn head(db: &Client) -> Result<i64> {
    Ok(db.query_one("select outbox.head()", &[]).await?.get(0))
}

/// Reads everything, and a rare category.
async fn pages(report: &mut Report, db: &Client) -> Result<()> {
    let all = db.prepare("select position, version, type, data::text from outbox.read_events($1, 1000)").await?;
    let category = "select position, version from outbox.read_events($1, 1000, categories => '{rare}') where message_id is not null";
    let category = db.prepare(category).await?;
    let started = Instant::now();
    let (mut at, mut seen) = (0i64, 0);
    while seen < 300_000 {
        let rows = db.query(&all, &[&at]).await?;
        let Some(last) = rows.last() else { break };
        let next = last.get(0);
        if next == at {
            break;
        }
        (at, seen) = (next, seen + rows.len());
    }
    let rate = seen as f64 / started.elapsed().as_secs_f64();
    report.row("events", "everything from 0 by a client, pages of 1,000", rate, None, "events/s", None);
    let pid = backend(db).await?;
    let (before, mut at, mut seen) = (cpu(pid), 0i64, 0);
    while seen < 300_000 {
        let page = "select max(position), count(data) from outbox.read_events($1, 1000)";
        let row = db.query_one(page, &[&at]).await?;
        let Some(next) = row.get::<_, Option<i64>>(0) else { break };
        (at, seen) = (next, seen + row.get::<_, i64>(1));
    }
    let rate = seen as f64 * 1e6 / (cpu(pid) - before);
    let what = "everything from 0, pages of 1,000, per second of the server's CPU";
    report.row("events", what, rate, None, "events/s", Some(Goal::AtLeast(500_000.0)));
    db.query(&category, &[&0i64]).await?;
    let started = Instant::now();
    let found = db.query(&category, &[&0i64]).await?.len();
    anyhow::ensure!(found as i64 == (stored() / RARE).min(1000), "{found} events of the category");
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
    while handled < 300_000 {
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
