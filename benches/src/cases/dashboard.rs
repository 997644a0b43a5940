//! The dashboard beside many messages and dead letters: the time of its pages, and the memory of its process.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use outbox_harness::Receiver;
use outbox_harness::tokio_postgres::Client;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::measure::{fill, idle, median, prepare, routed, server, status};
use crate::report::{Goal, Report};

/// The pages, and the longest time that each may take, in milliseconds.
const PAGES: &[(&str, f64)] = &[
    ("/", 50.0),
    ("/subscriptions", 100.0),
    ("/endpoints", 100.0),
    ("/dead-letters", 200.0),
    ("/messages", 100.0),
    ("/tail", 100.0),
    ("/workers", 100.0),
    ("/storage", 100.0),
    ("/metrics", 50.0),
];

/// The longest resident set of the process, in megabytes.
const MEMORY: f64 = 20.0;

/// How often a page is read.
const TIMES: usize = 25;

pub async fn run(report: &mut Report) -> Result<()> {
    let scale = |name: &str, default: usize| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (retained, dead) = (scale("RETAINED", 300_000), scale("DEAD", 100_000));
    let receiver = Receiver::start()?;
    receiver.quiet();
    let server = server(&[]).await?;
    let db = prepare(&server, "dashboard", &receiver, 1, 64, "").await?;
    dead_letters(&db, dead).await?;
    let mut left = retained;
    while left > 0 {
        let part = left.min(250_000);
        db.execute(
            "select count(outbox.enqueue('other.0', '1', 'c-' || n % 1000)) from generate_series(1, $1) n",
            &[&(part as i32)],
        )
        .await?;
        routed(&db).await;
        left -= part;
    }
    fill(&db, 1000, 1).await?;
    idle(&db).await;
    db.batch_execute("vacuum analyze").await?;
    db.batch_execute("checkpoint").await?;
    let dashboard = Dashboard::start(&server.dsn("dashboard")).await?;
    for (path, limit) in PAGES {
        let mut times = vec![];
        for _ in 0..TIMES {
            let started = Instant::now();
            dashboard.get(path).await?;
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let what = format!("{path} beside {retained} messages and {dead} dead letters");
        report.row("dashboard", what, median(times), None, "ms", Some(Goal::AtMost(*limit)));
    }
    let memory = status(dashboard.child.id().context("the dashboard has ended")?, "VmHWM") / 1024.0;
    report.row("dashboard", "memory of the process at most", memory, None, "MB", Some(Goal::AtMost(MEMORY)));
    Ok(())
}

/// Makes open dead letters of a pull subscription.
async fn dead_letters(db: &Client, count: usize) -> Result<()> {
    db.execute("select outbox.ensure_subscription('work', array['job.#'])", &[]).await?;
    let sent = "select count(outbox.enqueue('job.run', '1')) from generate_series(1, $1) n";
    db.execute(sent, &[&(count as i32)]).await?;
    routed(db).await;
    let mut dead = 0;
    while dead < count {
        let kill = "with c as materialized (select c.* from outbox.claim('work', 'w', max_messages => 1000) c)
            select cardinality(outbox.dead(min(c.lease), array_agg(c.delivery_id), 'the card was declined'))::bigint from c";
        let killed: i64 = db.query_one(kill, &[]).await?.get(0);
        ensure!(killed > 0, "only {dead} of {count} deliveries can be claimed");
        dead += killed as usize;
    }
    Ok(())
}

/// The program `outbox serve`, which runs in a process of its own.
struct Dashboard {
    child: Child,
    address: String,
}

impl Dashboard {
    async fn start(dsn: &str) -> Result<Dashboard> {
        let program = std::env::current_exe()?.with_file_name("outbox");
        // The header of a proxy takes the place of a login.
        let mut child = Command::new(&program)
            .args(["serve", "--listen", "127.0.0.1:0", "--user-header", "X-Forwarded-User"])
            .env("DATABASE_URL", dsn)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} is missing: scripts/bench builds it", program.display()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line).await?;
        let address = line.split("http://").nth(1).context("no address")?.trim().trim_end_matches('/').to_owned();
        Ok(Dashboard { child, address })
    }

    /// Reads a page over a connection of its own.
    async fn get(&self, path: &str) -> Result<()> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nX-Forwarded-User: bench\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = vec![];
        tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await??;
        if !answer.starts_with(b"HTTP/1.1 200") {
            bail!("{path}: {}", String::from_utf8_lossy(&answer[..answer.len().min(300)]));
        }
        Ok(())
    }
}
