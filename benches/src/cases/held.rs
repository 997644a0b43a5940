//! An old snapshot beside steady traffic. With a status table, every dead row version and index entry stays. Append-only
//! tables are not affected.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Server};

use super::{append, pull};
use crate::PAYLOAD;
use crate::measure::{idle, median, pgbench, prepare, server};
use crate::report::{Goal, Report, quantile};

const RATE: u32 = 2000;

pub async fn run(report: &mut Report) -> Result<()> {
    let length = Duration::from_secs(std::env::var("HELD").ok().and_then(|n| n.parse().ok()).unwrap_or(20));
    let receiver = Receiver::start()?;
    let server = server(&[]).await?;

    let mut ours = vec![];
    let mut growth = vec![];
    for held in [false, true] {
        let name = if held { "held" } else { "free" };
        let db = prepare(&server, name, &receiver, 1, 64, "").await?;
        let snapshot = hold(&server, name, held).await?;
        let before = Size::of(&db).await?;
        let started = Instant::now();
        let (mut delays, mut reached) = (vec![], 0.0);
        while started.elapsed() < span(length, held) {
            (delays, reached) = super::latency::at_rate(&server, name, &receiver, RATE).await?;
        }
        idle(&db).await;
        ours.push((delays, reached));
        growth.push(Size::of(&db).await?.since(&before));
        drop(snapshot);
    }
    let p = |i: usize, q| quantile(&ours[i].0, q);
    let goal = Some(Goal::AtMost(1.25));
    report.row("held", format!("push at {RATE}/s, p50; without"), p(1, 0.5), Some(p(0, 0.5)), "ms", goal);
    report.row("held", format!("push at {RATE}/s, p99; without"), p(1, 0.99), Some(p(0, 0.99)), "ms", None);
    let goal = Some(Goal::AtLeast(0.98));
    report.row("held", "push, rate that was reached; without", ours[1].1, Some(ours[0].1), "messages/s", goal);
    grown(report, "push", &growth);

    let mut results = vec![];
    for way in [OURS, THEIRS] {
        let mut growth = vec![];
        let mut worked = vec![];
        for held in [false, true] {
            let name = format!("{}_{}", way.name, if held { "held" } else { "free" });
            let db = match way.name {
                "pull" => server.database(&name).await?,
                _ => server.empty_database(&name).await?,
            };
            db.batch_execute(way.setup).await?;
            let snapshot = hold(&server, &name, held).await?;
            let before = Size::of(&db).await?;
            worked.push(work(&server, &name, span(length, held), way).await?);
            growth.push(Size::of(&db).await?.since(&before));
            drop(snapshot);
        }
        let p = |i: usize, q| quantile(&worked[i].0, q);
        for (what, q) in [("p50", 0.5), ("p99", 0.99)] {
            let what = format!("{} at {RATE}/s: claim of ten, {what}; without", way.title);
            report.row("held", what, p(1, q), Some(p(0, q)), "ms", None);
        }
        let what = format!("{}: done of what was enqueued, in the last quarter; without", way.title);
        report.row("held", what, worked[1].1, Some(worked[0].1), "messages/s", None);
        grown(report, way.title, &growth);
        results.push(worked.swap_remove(1));
    }
    let goal = Some(Goal::AtMost(1.0));
    let (ours, theirs) = (quantile(&results[0].0, 0.99), quantile(&results[1].0, 0.99));
    report.row("held", "claim of ten under the snapshot, p99; status table", ours, Some(theirs), "ms", goal);
    events(report, &server, length).await
}

/// Appends events in turn to a database with a snapshot that is held, and to one without.
async fn events(report: &mut Report, server: &Server, length: Duration) -> Result<()> {
    let script = append::append();
    let _free = server.database("append_free").await?;
    let _held = server.database("append_held").await?;
    let _snapshot = hold(server, "append_held", true).await?;
    let started = Instant::now();
    let mut pairs = vec![];
    while started.elapsed() < length {
        let mut pair = vec![];
        for name in ["append_held", "append_free"] {
            pair.push(pgbench(server, name, &script, 1, 2, "-c synchronous_commit=off").await?);
        }
        pairs.push((pair[0], pair[0] / pair[1]));
    }
    let last = pairs.split_off(pairs.len() * 3 / 4);
    let rate = median(last.iter().map(|pair| pair.0).collect());
    let ratio = median(last.iter().map(|pair| pair.1).collect());
    let goal = Some(Goal::AtLeast(0.95));
    report.row("held", "append, in the last quarter; without", rate, Some(rate / ratio), "events/s", goal);
    Ok(())
}

/// The sizes of the database without the logs, which grow with every message and are truncated.
struct Size {
    dead: f64,
    catalogue: f64,
    indexes: f64,
    heaps: f64,
}

impl Size {
    async fn of(db: &Client) -> Result<Size> {
        db.batch_execute("select pg_stat_clear_snapshot(), pg_stat_force_next_flush()").await?;
        // The statistics of other sessions arrive within a second.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let row = db
            .query_one(
                "select coalesce((select sum(s.n_dead_tup) from pg_stat_user_tables s), 0)::float8,
                    (select sum(pg_total_relation_size(c.oid)) from pg_class c
                    where c.relnamespace = 'pg_catalog'::regnamespace and c.relkind in ('r', 't'))::float8,
                    coalesce(sum(pg_indexes_size(k.oid)), 0)::float8, coalesce(sum(pg_relation_size(k.oid)), 0)::float8
                from pg_class k
                where k.relkind = 'r' and k.relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
                    and k.relname !~ '^_(message|feed|attempt|routing|tick|checkpoint|counter|tally)_[0-9]+$'",
                &[],
            )
            .await?;
        Ok(Size { dead: row.get(0), catalogue: row.get(1), indexes: row.get(2), heaps: row.get(3) })
    }

    fn since(self, before: &Size) -> Size {
        Size {
            dead: self.dead,
            catalogue: self.catalogue - before.catalogue,
            indexes: self.indexes - before.indexes,
            heaps: self.heaps - before.heaps,
        }
    }
}

/// Adds rows for the growth without and with the snapshot.
fn grown(report: &mut Report, title: &str, growth: &[Size]) {
    let (free, held) = (&growth[0], &growth[1]);
    report.row("held", format!("{title}: dead tuples; without"), held.dead, Some(free.dead), "rows", None);
    let kb = |bytes: f64| bytes / 1024.0;
    for (what, with, without) in [
        ("catalogue growth", held.catalogue, free.catalogue),
        ("growth of tables that are no log", held.heaps, free.heaps),
        ("growth of their indexes", held.indexes, free.indexes),
    ] {
        report.row("held", format!("{title}: {what}; without"), kb(with), Some(kb(without)), "kB", None);
    }
}

/// Opens a session that holds an old snapshot, if `held`.
async fn hold(server: &Server, database: &str, held: bool) -> Result<Option<Client>> {
    if !held {
        return Ok(None);
    }
    let db = server.connect(database).await?;
    db.batch_execute("begin isolation level repeatable read; select 1 from pg_class limit 1").await?;
    Ok(Some(db))
}

/// Returns the duration of a measurement. Without a snapshot nothing grows, so a minute is enough.
fn span(length: Duration, held: bool) -> Duration {
    if held { length } else { length.min(Duration::from_secs(60)) }
}

/// An implementation of a work queue.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    title: &'static str,
    setup: &'static str,
    insert: &'static str,
    api: pull::Api,
}

const OURS: Way = Way {
    name: "pull",
    title: "pull",
    setup: "select outbox.subscribe('work', '{order.#}')",
    insert: "select outbox.enqueue('order.0', $1::text::jsonb, 'k')",
    api: pull::OURS,
};
const THEIRS: Way = Way {
    name: "table",
    title: "a status table",
    setup: pull::STATUS_TABLE,
    insert: "insert into job (topic, payload, key) values ('order.0', $1::text::jsonb, 'k')",
    api: pull::THEIRS,
};
/// The number of messages per claim.
const BATCH: i32 = 10;

/// Inserts at the rate while four workers claim and complete. Returns, for the last quarter of the time, the sorted times
/// of the claims and the completed messages per second.
async fn work(server: &Server, database: &str, length: Duration, way: Way) -> Result<(Vec<f64>, f64)> {
    let started = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let mut producers = vec![];
    for k in 0..8u32 {
        let db = server.connect(database).await?;
        let insert = db.prepare(way.insert).await?;
        let stop = Arc::clone(&stop);
        producers.push(tokio::spawn(async move {
            let mut n = k;
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep_until((started + Duration::from_secs_f64(f64::from(n) / f64::from(RATE))).into())
                    .await;
                if db.execute(&insert, &[&PAYLOAD]).await.is_err() {
                    break;
                }
                n += 8;
            }
        }));
    }
    let mut workers = vec![];
    for _ in 0..4 {
        let db = server.connect(database).await?;
        db.batch_execute("set enable_seqscan = off; set enable_bitmapscan = off").await?;
        let (claim, complete) = (db.prepare(way.api.claim).await?, db.prepare(way.api.complete).await?);
        let stop = Arc::clone(&stop);
        workers.push(tokio::spawn(async move {
            let (mut times, mut done) = (vec![], 0usize);
            while !stop.load(Ordering::Relaxed) {
                let late = started.elapsed() > length.mul_f64(0.75);
                let at = Instant::now();
                let Ok(rows) = db.query(&claim, &[&BATCH]).await else { break };
                if late {
                    times.push(at.elapsed().as_secs_f64() * 1e3);
                }
                let Some(first) = rows.first() else {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                };
                let ids: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
                if db.execute(&complete, &[&first.get::<_, i64>(0), &ids]).await.is_ok() && late {
                    done += ids.len();
                }
            }
            (times, done)
        }));
    }
    tokio::time::sleep_until((started + length).into()).await;
    stop.store(true, Ordering::Relaxed);
    let (mut all, mut done) = (vec![], 0);
    for worker in workers {
        let (times, n) = worker.await?;
        all.extend(times);
        done += n;
    }
    for producer in producers {
        producer.await?;
    }
    all.sort_by(f64::total_cmp);
    Ok((all, done as f64 / length.mul_f64(0.25).as_secs_f64()))
}
