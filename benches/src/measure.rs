//! The measuring tools of the cases.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Server, wait_until};
use tokio::process::Command;

use crate::PAYLOAD;

/// The longest wait for an event on a busy machine.
pub const LONG: Duration = Duration::from_secs(180);

/// Starts a server with settings for speed.
pub async fn server(extra: &[(&str, &str)]) -> Result<Server> {
    let mut settings = vec![("shared_buffers", "512MB"), ("max_wal_size", "8GB"), ("autovacuum_naptime", "10s")];
    settings.extend_from_slice(extra);
    Server::start(&settings).await
}

/// Starts a server without the library preloaded, so that no dispatcher ticks.
pub async fn plain_server() -> Result<Server> {
    Server::start_plain(&[("shared_buffers", "512MB"), ("max_wal_size", "8GB")]).await
}

/// Runs pgbench with a script and returns the transactions per second.
pub async fn pgbench(
    server: &Server,
    database: &str,
    script: &str,
    clients: u32,
    seconds: u32,
    options: &str,
) -> Result<f64> {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let file = server.data.with_extension(format!("pgbench.{n}.sql"));
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

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Creates a database with endpoints at a receiver and one subscription for each. The topic `order.<i>` goes to endpoint i.
pub async fn prepare(
    server: &Server,
    database: &str,
    receiver: &Receiver,
    endpoints: u32,
    concurrency: u32,
    options: &str,
) -> Result<Client> {
    let db = server.database(database).await?;
    for i in 0..endpoints {
        let name = format!("e{i}");
        db.execute(
            "select from outbox.create_endpoint($1, $2, concurrency => $3)",
            &[&name, &receiver.url("/hook"), &(concurrency as i32)],
        )
        .await?;
        db.execute(
            &format!("select outbox.subscribe($1, array['order.' || $2], $1{options})"),
            &[&name, &i.to_string()],
        )
        .await?;
    }
    Ok(db)
}

/// Enqueues messages in one transaction, spread over the topics of `endpoints`.
pub async fn fill(db: &Client, messages: usize, endpoints: u32) -> Result<()> {
    db.execute(
        "select count(outbox.enqueue('order.' || n % $3, $1::text::jsonb, 'c-' || n % 1000)) from generate_series(1, $2) n",
        &[&PAYLOAD, &(messages as i32), &(endpoints as i32)],
    )
    .await?;
    Ok(())
}

/// Changes a setting of a running server.
pub async fn reload(server: &Server, name: &str, value: &str) -> Result<()> {
    let db = server.connect("postgres").await?;
    db.batch_execute(&format!("alter system set {name} = '{value}'")).await?;
    db.batch_execute("select pg_reload_conf()").await?;
    Ok(())
}

/// Waits until all committed messages have been routed.
pub async fn routed(db: &Client) {
    wait_until("the backlog is routed", LONG, async || {
        let row = db.query_one("select feed_end = messages and routed = feed_end from outbox.stats()", &[]).await;
        row.is_ok_and(|row| row.get(0))
    })
    .await;
}

/// Waits until no request is in flight and no outcome is unrecorded.
pub async fn idle(db: &Client) {
    wait_until("the outbox has nothing to do", LONG, async || {
        let row = db.query_one("select coalesce(idle, false) from outbox_internal.worker_slot()", &[]).await;
        row.is_ok_and(|row| row.get(0))
    })
    .await;
}

/// Returns the process id of a database's dispatcher.
pub async fn dispatcher(db: &Client) -> Result<u32> {
    let row = db
        .query_one(
            "select pid from pg_stat_activity where backend_type = 'pg_outbox dispatcher' and datname = current_database()",
            &[],
        )
        .await?;
    Ok(row.get::<_, i32>(0) as u32)
}

/// Returns the processor time of all threads of a process so far, in microseconds.
pub fn cpu(pid: u32) -> f64 {
    // utime and stime
    ticks(pid, [11, 12])
}

/// Returns the processor time of the children of a process that have ended, in microseconds. For a postmaster, these are the
/// sessions that were closed.
pub fn ended_children_cpu(pid: u32) -> f64 {
    // cutime and cstime
    ticks(pid, [13, 14])
}

/// Returns the sum of two fields of /proc/pid/stat, which are counted after the name and in hundredths of a second.
fn ticks(pid: u32, fields: [usize; 2]) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let all: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |i: usize| all.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    fields.map(ticks).iter().sum::<f64>() * 1e4
}

/// Returns a number from /proc/pid/status.
pub fn status(pid: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).unwrap_or(0.0)
}

/// Returns the voluntary context switches of all threads, which show how often the process went to sleep and woke up.
pub fn wakeups(pid: u32) -> f64 {
    let mut sum = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let line = status.lines().find(|l| l.starts_with("voluntary_ctxt")).unwrap_or_default();
        sum += line.split_whitespace().nth(1).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0);
    }
    sum
}

/// Returns the number of bytes of WAL so far.
pub async fn wal(db: &Client) -> Result<f64> {
    let row = db.query_one("select (pg_current_wal_insert_lsn() - '0/0')::float8", &[]).await?;
    Ok(row.get(0))
}

/// Returns the rate of `count` events between now and the moment at which `done` returns true.
pub async fn rate_until(count: f64, what: &str, done: impl AsyncFnMut() -> bool) -> f64 {
    let started = Instant::now();
    wait_until(what, LONG, done).await;
    count / started.elapsed().as_secs_f64()
}
