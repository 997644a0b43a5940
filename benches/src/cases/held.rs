//! An old snapshot beside steady traffic. A status table keeps every dead row version and index entry; appends do not care.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use outbox_harness::{Receiver, Server};

use super::pull::STATUS_TABLE;
use crate::PAYLOAD;
use crate::measure::{idle, prepare, server};
use crate::report::{Goal, Report, quantile};

const RATE: u32 = 2000;

pub async fn run(report: &mut Report) -> Result<()> {
    let length = Duration::from_secs(std::env::var("HELD").ok().and_then(|n| n.parse().ok()).unwrap_or(20));
    let receiver = Receiver::start()?;
    let server = server(&[]).await?;

    let mut ours = vec![];
    for held in [false, true] {
        let name = if held { "held" } else { "free" };
        let db = prepare(&server, name, &receiver, 1, 64, "").await?;
        let _snapshot = hold(&server, name, held).await?;
        let started = Instant::now();
        let mut delays = vec![];
        while started.elapsed() < length {
            delays = super::latency::at_rate(&server, name, &receiver, RATE).await?.0;
        }
        idle(&db).await;
        ours.push(delays);
    }
    let p = |i: usize, q| quantile(&ours[i], q);
    report.row(
        "held",
        format!("push at {RATE}/s, p50; without"),
        p(1, 0.5),
        Some(p(0, 0.5)),
        "ms",
        Some(Goal::AtMost(1.25)),
    );
    report.row("held", format!("push at {RATE}/s, p99; without"), p(1, 0.99), Some(p(0, 0.99)), "ms", None);

    let mut theirs = vec![];
    for held in [false, true] {
        let name = if held { "table_held" } else { "table_free" };
        let db = server.empty_database(name).await?;
        db.batch_execute(STATUS_TABLE).await?;
        let _snapshot = hold(&server, name, held).await?;
        theirs.push(status_table(&server, name, length).await?);
    }
    report.row(
        "held",
        "a status table at the same rate: claim of one, p50; without",
        quantile(&theirs[1], 0.5),
        Some(quantile(&theirs[0], 0.5)),
        "ms",
        None,
    );
    Ok(())
}

/// A session with an old snapshot.
async fn hold(server: &Server, database: &str, held: bool) -> Result<Option<outbox_harness::tokio_postgres::Client>> {
    if !held {
        return Ok(None);
    }
    let db = server.connect(database).await?;
    db.batch_execute("begin isolation level repeatable read; select 1 from pg_class limit 1").await?;
    Ok(Some(db))
}

/// Inserts at the rate, claims and deletes with four workers; the sorted times of the claims of the last quarter.
async fn status_table(server: &Server, database: &str, length: Duration) -> Result<Vec<f64>> {
    let started = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let inserted = Arc::new(AtomicUsize::new(0));
    let mut producers = vec![];
    for k in 0..8u32 {
        let db = server.connect(database).await?;
        let insert =
            db.prepare("insert into job (topic, payload, key) values ('order.0', $1::text::jsonb, 'k')").await?;
        let (stop, inserted) = (Arc::clone(&stop), Arc::clone(&inserted));
        producers.push(tokio::spawn(async move {
            let mut n = k;
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep_until((started + Duration::from_secs_f64(f64::from(n) / f64::from(RATE))).into())
                    .await;
                if db.execute(&insert, &[&PAYLOAD]).await.is_err() {
                    break;
                }
                inserted.fetch_add(1, Ordering::Relaxed);
                n += 8;
            }
        }));
    }
    let mut workers = vec![];
    for _ in 0..4 {
        let db = server.connect(database).await?;
        db.batch_execute("set enable_seqscan = off; set enable_bitmapscan = off").await?;
        let claim = db
            .prepare(
                "update job set state = 'processing', attempt = attempt + 1 where id = any (array(
                    select id from job where state = 'pending' and due_at <= now() order by due_at, id limit 1
                    for update skip locked)) returning id",
            )
            .await?;
        let complete = db.prepare("delete from job where id = $1").await?;
        let stop = Arc::clone(&stop);
        workers.push(tokio::spawn(async move {
            let mut times = vec![];
            while !stop.load(Ordering::Relaxed) {
                let at = Instant::now();
                let Ok(rows) = db.query(&claim, &[]).await else { break };
                if started.elapsed() > length.mul_f64(0.75) {
                    times.push(at.elapsed().as_secs_f64() * 1e3);
                }
                match rows.first() {
                    Some(row) => {
                        let _ = db.execute(&complete, &[&row.get::<_, i64>(0)]).await;
                    }
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
            times
        }));
    }
    tokio::time::sleep_until((started + length).into()).await;
    stop.store(true, Ordering::Relaxed);
    let mut all = vec![];
    for worker in workers {
        all.extend(worker.await?);
    }
    for producer in producers {
        producer.await?;
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}
