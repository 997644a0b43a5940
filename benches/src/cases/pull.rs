//! Workers that claim and complete, compared with a typical hand-written status table with SKIP LOCKED. The plan of the
//! status table's query is pinned to its index, and its rows are deleted on completion.

use std::time::{Duration, Instant};

use anyhow::Result;
use outbox_harness::Server;
use outbox_harness::tokio_postgres::Client;

use crate::PAYLOAD;
use crate::measure::{fill, routed, server};
use crate::report::Report;

/// The status table of the comparison.
pub const STATUS_TABLE: &str = "create table job (
    id bigint generated always as identity primary key, state text not null default 'pending', attempt int not null default 0,
    due_at timestamptz not null default clock_timestamp(), lease_until timestamptz, topic text not null, key text,
    payload jsonb not null);
    create index job_due on job (due_at, id) where state = 'pending';
    alter table job set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)";

pub async fn run(report: &mut Report) -> Result<()> {
    let server = server(&[]).await?;
    let db = prepare(&server).await?;
    for workers in [1usize, 4, 16] {
        for batch in [1i32, 10, 100] {
            let backlog = if batch == 1 { 8_000 } else { 30_000 };
            let (ours, theirs) = pair(&server, &db, workers, batch, backlog).await?;
            // There is no goal, because the status table has no log, no order and no dead letters. The case `peers`
            // compares with queues that have them.
            report.row(
                "pull",
                format!("{workers:>2} workers, batch {batch:>3}"),
                ours,
                Some(theirs),
                "messages/s",
                None,
            );
        }
    }
    Ok(())
}

/// Makes a database with a subscription for workers and a status table.
pub async fn prepare(server: &Server) -> Result<Client> {
    let db = server.database("bench").await?;
    db.batch_execute("select outbox.subscribe('work', '{order.#}')").await?;
    db.batch_execute(STATUS_TABLE).await?;
    Ok(db)
}

/// Fills both sides in turn, and returns the messages per second that workers complete.
pub async fn pair(server: &Server, db: &Client, workers: usize, batch: i32, backlog: usize) -> Result<(f64, f64)> {
    fill(db, backlog, 1).await?;
    routed(db).await;
    let ours = drain(server, workers, batch, OURS).await?;
    db.execute(
        "insert into job (topic, payload, key)
        select 'order.0', $1::text::jsonb, 'c-' || n % 1000 from generate_series(1, $2) n",
        &[&PAYLOAD, &(backlog as i32)],
    )
    .await?;
    db.batch_execute("vacuum analyze job").await?;
    Ok((ours, drain(server, workers, batch, THEIRS).await?))
}

/// A claim that returns a token and ids, and the statement that completes it.
#[derive(Clone, Copy)]
pub struct Api {
    pub claim: &'static str,
    pub complete: &'static str,
}

pub const OURS: Api = Api {
    claim: "select c.lease, c.delivery_id, c.topic, c.payload::text from outbox.claim('work', 'bench', $1) c",
    complete: "select outbox.complete($1, $2)",
};
pub const THEIRS: Api = Api {
    claim: "update job set state = 'processing', attempt = attempt + 1, lease_until = now() + interval '60 s'
        where id = any (array(
            select id from job where state = 'pending' and due_at <= now() order by due_at, id limit $1::int
            for update skip locked))
        returning 0::bigint, id, topic, payload::text",
    complete: "delete from job where $1::bigint is not null and id = any ($2::bigint[])",
};

async fn drain(server: &Server, workers: usize, batch: i32, api: Api) -> Result<f64> {
    let started = Instant::now();
    let limit = Duration::from_secs(6);
    let mut tasks = vec![];
    for _ in 0..workers {
        let db = server.connect("bench").await?;
        db.batch_execute("set enable_seqscan = off; set enable_bitmapscan = off").await?;
        let (claim, complete) = (db.prepare(api.claim).await?, db.prepare(api.complete).await?);
        tasks.push(tokio::spawn(async move {
            let (mut done, mut empty, mut last) = (0usize, 0, Instant::now());
            while empty < 5 && started.elapsed() < limit {
                let rows = db.query(&claim, &[&batch]).await?;
                if rows.is_empty() {
                    empty += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
                empty = 0;
                let ids: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
                db.execute(&complete, &[&rows[0].get::<_, i64>(0), &ids]).await?;
                done += ids.len();
                last = Instant::now();
            }
            anyhow::Ok((done, last))
        }));
    }
    let (mut done, mut last) = (0, started);
    for task in tasks {
        let (n, at) = task.await??;
        done += n;
        last = last.max(at);
    }
    let rate = done as f64 / (last - started).as_secs_f64();
    // The remaining messages are removed, so that they are not part of the next measurement's backlog.
    let db = server.connect("bench").await?;
    if api.claim == THEIRS.claim {
        db.batch_execute("truncate job").await?;
    } else {
        loop {
            let rows = db.query(api.claim, &[&1000]).await?;
            let Some(first) = rows.first() else { break };
            let ids: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
            db.execute(api.complete, &[&first.get::<_, i64>(0), &ids]).await?;
        }
    }
    Ok(rate)
}
