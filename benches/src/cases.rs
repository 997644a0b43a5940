//! The cases.

use std::future::Future;
use std::pin::Pin;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Server, wait_until};
use tokio::process::Command;

use crate::{Figures, PAYLOAD, bare};

type Case = for<'a> fn(&'a mut Figures) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// Name, description, function.
pub const ALL: &[(&str, &str, Case)] = &[
    ("enqueue", "enqueue() against a plain INSERT", |f| Box::pin(enqueue(f))),
    ("drain", "a backlog over HTTP against a bare hyper client", |f| Box::pin(drain(f))),
    ("drain-h2", "the same over HTTP/1.1 and HTTP/2, plain and encrypted", |f| Box::pin(crate::http2::run(f))),
    ("drain-batch", "the same in batches, and beside a dead and a hanging endpoint", |f| {
        Box::pin(crate::batch::run(f))
    }),
    ("latency", "commit to receipt", |f| Box::pin(latency(f))),
];

pub(crate) async fn server(extra: &[(&str, &str)]) -> Result<Server> {
    let mut settings = vec![("shared_buffers", "512MB"), ("max_wal_size", "8GB"), ("autovacuum_naptime", "10s")];
    settings.extend_from_slice(extra);
    Server::start(&settings).await
}

/// Runs pgbench with a script and returns its transactions per second.
async fn pgbench(
    server: &Server,
    database: &str,
    script: &str,
    clients: u32,
    seconds: u32,
    options: &str,
) -> Result<f64> {
    let file = server.data.with_extension("pgbench.sql");
    std::fs::write(&file, script)?;
    outbox_harness::postgres::own(&file)?;
    let mut command = Command::from(server.install.command("pgbench"));
    command
        .args(["-n", "-M", "prepared", "-h", "127.0.0.1", "-U", "postgres"])
        .args(["-p", &server.port.to_string(), "-c", &clients.to_string(), "-j", &clients.min(2).to_string()])
        .args(["-T", &seconds.to_string(), "-f"])
        .arg(&file)
        .arg(database)
        .env("PGPASSWORD", server.password())
        .env("PGOPTIONS", options)
        .stderr(Stdio::piped());
    let output = command.output().await?;
    std::fs::remove_file(&file)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(line) = text.lines().find(|line| line.starts_with("tps = ")) else {
        bail!("pgbench failed: {}", String::from_utf8_lossy(&output.stderr));
    };
    line["tps = ".len()..].split(' ').next().unwrap_or_default().parse().context("reading pgbench's result")
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn enqueue(figures: &mut Figures) -> Result<()> {
    // Without the worker: the cost of the call alone.
    let server = Server::start_plain(&[("shared_buffers", "512MB"), ("max_wal_size", "8GB")]).await?;
    let db = server.database("bench").await?;
    db.batch_execute(
        "create sequence plain_id cache 1;
        create table plain (
            id bigint not null default nextval('plain_id'), xid xid8 not null default pg_current_xact_id(),
            enqueued_at timestamptz not null default clock_timestamp(), deliver_at timestamptz, expires_at timestamptz,
            occurred_at timestamptz, max_attempts int, priority smallint not null default 0, topic text not null, key text,
            tenant text, aggregate_type text, aggregate_id text, publisher text, idempotency_key text, content_type text,
            headers jsonb, metadata jsonb, payload jsonb, body bytea);
        create table plain_one (like plain including defaults);
        create index on plain (xid, id);
        create unique index on plain (id);
        create unique index on plain_one (id);",
    )
    .await?;
    let call = format!("select outbox.enqueue('order.created', '{PAYLOAD}'::jsonb, 'c-778899');");
    let two =
        format!("insert into plain (topic, payload, key) values ('order.created', '{PAYLOAD}'::jsonb, 'c-778899');");
    let one = format!(
        "insert into plain_one (topic, payload, key) values ('order.created', '{PAYLOAD}'::jsonb, 'c-778899');"
    );
    println!(
        "{:>8} {:>6} {:>12} {:>12} {:>8} {:>12} {:>8}",
        "clients", "sync", "enqueue/s", "insert/s", "ratio", "1 index/s", "ratio"
    );
    for clients in [1, 4, 16] {
        for sync in ["on", "off"] {
            let options = format!("-c synchronous_commit={sync}");
            let (mut a, mut b, mut c) = (vec![], vec![], vec![]);
            for _ in 0..5 {
                a.push(pgbench(&server, "bench", &call, clients, 2, &options).await?);
                b.push(pgbench(&server, "bench", &two, clients, 2, &options).await?);
                c.push(pgbench(&server, "bench", &one, clients, 2, &options).await?);
            }
            let (a, b, c) = (median(a), median(b), median(c));
            println!("{clients:>8} {sync:>6} {a:>12.0} {b:>12.0} {:>8.2} {c:>12.0} {:>8.2}", a / b, a / c);
            figures.insert(format!("enqueue.{clients}.{sync}.ratio"), a / b);
        }
    }
    Ok(())
}

async fn prepare(server: &Server, receiver: &Receiver, concurrency: u32) -> Result<Client> {
    let db = server.database("bench").await?;
    db.execute(
        "select from outbox.create_endpoint('bench', $1, concurrency => $2)",
        &[&receiver.url("/hook"), &(concurrency as i32)],
    )
    .await?;
    db.execute("select outbox.subscribe('bench', '{order.#}', 'bench')", &[]).await?;
    Ok(db)
}

pub(crate) async fn reload(server: &Server, name: &str, value: &str) -> Result<()> {
    let db = server.connect("postgres").await?;
    db.batch_execute(&format!("alter system set {name} = '{value}'")).await?;
    db.batch_execute("select pg_reload_conf()").await?;
    Ok(())
}

async fn drain(figures: &mut Figures) -> Result<()> {
    const MESSAGES: usize = 200_000;
    const CONCURRENCY: u32 = 64;
    let receiver = Receiver::start()?;
    receiver.quiet();
    let server = server(&[]).await?;
    let db = prepare(&server, &receiver, CONCURRENCY).await?;
    let mut ratios = vec![];
    for round in 0..3 {
        reload(&server, "pg_outbox.push", "off").await?;
        db.execute(
            "select count(outbox.enqueue('order.created', $1::text::jsonb, 'c-778899')) from generate_series(1, $2)",
            &[&PAYLOAD, &(MESSAGES as i32)],
        )
        .await?;
        wait_until("the backlog is routed", Duration::from_secs(60), async || {
            let row = db.query_one("select feed_end = messages and routed = feed_end from outbox.stats()", &[]).await;
            row.is_ok_and(|row| row.get(0))
        })
        .await;
        db.batch_execute("checkpoint").await?;
        let bare = bare::run(receiver.address(), CONCURRENCY as usize, PAYLOAD, Duration::from_secs(3))?;
        receiver.clear();
        reload(&server, "pg_outbox.push", "on").await?;
        wait_until("the first message arrives", Duration::from_secs(10), async || receiver.total() > 0).await;
        let (started, first) = (Instant::now(), receiver.total());
        wait_until("everything has arrived", Duration::from_secs(120), async || receiver.total() >= MESSAGES).await;
        let rate = (MESSAGES - first) as f64 / started.elapsed().as_secs_f64();
        println!("round {round}: pushed {rate:.0}/s, bare client {bare:.0}/s, ratio {:.2}", rate / bare);
        ratios.push(rate / bare);
        wait_until("everything is recorded", Duration::from_secs(60), async || {
            let row = db.query_one("select count(*) from outbox.attempt where outcome = 'completed'", &[]).await;
            row.is_ok_and(|row| row.get::<_, i64>(0) as usize == MESSAGES * (round + 1))
        })
        .await;
    }
    figures.insert("drain.ratio".to_owned(), median(ratios));
    Ok(())
}

async fn latency(figures: &mut Figures) -> Result<()> {
    let receiver = Receiver::start()?;
    let server = server(&[]).await?;
    let db = prepare(&server, &receiver, 64).await?;
    // What a commit costs here, for comparison.
    db.batch_execute("create table probe (n int)").await?;
    let insert = db.prepare("insert into probe values (1)").await?;
    let mut commits = vec![];
    for _ in 0..300 {
        let at = Instant::now();
        db.execute(&insert, &[]).await?;
        commits.push(at.elapsed().as_secs_f64() * 1e3);
    }
    let commit = median(commits);
    println!("one commit here: p50 {commit:.2} ms");
    let enqueue = db.prepare("select outbox.enqueue('order.created', jsonb_build_object('n', $1::int), 'k')").await?;
    for rate in [100u32, 1000, 5000] {
        receiver.clear();
        let count = (rate * 5).min(10_000);
        let mut committed = vec![SystemTime::UNIX_EPOCH; count as usize];
        let started = Instant::now();
        let mut behind = 0;
        // A few sessions, so that the rate is not limited by one commit after the other.
        let mut sessions = vec![];
        for _ in 0..4 {
            let session = server.connect("bench").await?;
            let enqueue = session
                .prepare("select outbox.enqueue('order.created', jsonb_build_object('n', $1::int), 'k')")
                .await?;
            sessions.push((session, enqueue));
        }
        let _ = &enqueue;
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = vec![];
        for (k, (session, enqueue)) in sessions.into_iter().enumerate() {
            let tx = tx.clone();
            tasks.push(tokio::spawn(async move {
                let mut n = k as u32;
                while n < count {
                    let due = started + Duration::from_secs_f64(f64::from(n) / f64::from(rate));
                    let now = Instant::now();
                    if due > now {
                        tokio::time::sleep_until(due.into()).await;
                    }
                    session.execute(&enqueue, &[&(n as i32)]).await?;
                    let _ = tx.send((n, SystemTime::now()));
                    n += 4;
                }
                anyhow::Ok(())
            }));
        }
        drop(tx);
        while let Some((n, at)) = rx.recv().await {
            committed[n as usize] = at;
        }
        for task in tasks {
            task.await??;
        }
        let took = started.elapsed().as_secs_f64();
        wait_until("everything has arrived", Duration::from_secs(30), async || receiver.total() >= count as usize)
            .await;
        let mut delays: Vec<f64> = receiver
            .arrivals()
            .iter()
            .map(|arrival| {
                let n = arrival.json()["n"].as_u64().unwrap_or(0) as usize;
                // The receiver may be faster than the answer to the session that committed.
                arrival.at.duration_since(committed[n]).map_or_else(
                    |_| {
                        behind += 1;
                        0.0
                    },
                    |d| d.as_secs_f64() * 1e3,
                )
            })
            .collect();
        delays.sort_by(f64::total_cmp);
        let p = |q: f64| delays[((delays.len() - 1) as f64 * q) as usize];
        println!(
            "{rate:>6}/s (reached {:.0}/s): p50 {:.2} ms, p90 {:.2}, p99 {:.2}, max {:.2}; {behind} arrived before the session knew",
            f64::from(count) / took,
            p(0.5),
            p(0.9),
            p(0.99),
            p(1.0)
        );
        figures.insert(format!("latency.{rate}.p50"), p(0.5));
        figures.insert(format!("latency.{rate}.p99"), p(0.99));
    }
    Ok(())
}
