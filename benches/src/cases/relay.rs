//! The relay beside a producer with the same client, settings, records and batches that is fed from memory: messages per
//! second until all are acknowledged, memory, the time from commit to acknowledgement, and the queries of an idle relay.
//!
//! Each run has a broker of its own. A cursor moves only after the acknowledgement of the broker, so a trigger on the cursors
//! of the throwaway server notes when the messages up to a position were acknowledged, without asking.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use outbox_harness::postgres::{free_port, fresh_folder, root};
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Server, wait_until};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::sleep;

use super::latency::enqueue_at_rate;
use crate::measure::{LONG, cpu, fill, median, plain_server, server, status};
use crate::report::{Goal, Histogram, Report, quantile};

const BROKERS: [&str; 3] = ["kafka", "nats", "redis"];
const ROUNDS: usize = 3;

/// The default size of a batch of the relay.
const BATCH: &str = "500";

/// The messages per second whose latency is measured, and for how long.
const RATE: u32 = 1000;
const SECONDS: u32 = 8;

/// How long an idle relay is watched.
const IDLE: Duration = Duration::from_secs(10);

pub async fn run(report: &mut Report) -> Result<()> {
    let messages = std::env::var("RELAY").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let server = server(&[]).await?;
    let db = server.database("bench").await?;
    fill(&db, messages, 1).await?;
    wait_until("every message has its position", LONG, async || {
        db.query_one("select outbox.head() >= $1::int", &[&(messages as i32)]).await.is_ok_and(|row| row.get(0))
    })
    .await;
    db.batch_execute("vacuum analyze").await?;
    db.batch_execute("checkpoint").await?;
    let records = fresh_folder("records")?.join("records.ndjson");
    let sink = format!("kind = \"file\"\npath = {records:?}");
    relayed(&server, &db, "dump", &sink, messages).await?;
    for kind in BROKERS {
        rates(report, &server, &db, kind, &records, messages).await?;
    }
    let db = server.database("late").await?;
    db.batch_execute(
        "create table public.moved (\"position\" bigint, at timestamptz);
        create function public.note() returns trigger language plpgsql as $$
        begin
            insert into public.moved values (new.\"position\", clock_timestamp());
            return null;
        end $$;
        create trigger note after update on outbox.cursor for each row execute function public.note()",
    )
    .await?;
    for kind in BROKERS {
        latency(report, &server, &db, kind).await?;
    }
    idle(report).await
}

/// Measures both sides in turn.
async fn rates(
    report: &mut Report,
    server: &Server,
    db: &Client,
    kind: &'static str,
    records: &Path,
    messages: usize,
) -> Result<()> {
    let (mut ours, mut theirs, mut samples, mut peak) = (vec![], vec![], vec![], 0.0_f64);
    for round in 0..ROUNDS {
        let broker = Broker::start(kind).await?;
        let run = relayed(server, db, &format!("{kind}_{round}"), &broker.sink(), messages).await?;
        ours.push(messages as f64 / run.seconds);
        samples = run.samples;
        peak = peak.max(run.peak);
        drop(broker);
        let broker = Broker::start(kind).await?;
        let seconds = from_memory(&["send", kind, &broker.address(), &records.display().to_string(), BATCH]).await?;
        theirs.push(messages as f64 / seconds.trim().parse::<f64>()?);
    }
    println!("   {kind}: {ours:.0?} against {theirs:.0?}");
    let (ours, theirs) = (median(ours), Some(median(theirs)));
    let what = format!("{kind}: relayed and acknowledged; fed from memory");
    report.row("relay", what, ours, theirs, "messages/s", Some(Goal::AtLeast(0.7)));
    let quarters: Vec<f64> =
        samples.chunks(samples.len().div_ceil(4).max(1)).map(|part| median(part.to_vec())).collect();
    if let [_, middle, .., end] = quarters[..] {
        report.row("relay", format!("{kind}: memory at the end; in the middle"), end, Some(middle), "MB", None);
    }
    report.row("relay", format!("{kind}: memory at its peak"), peak, None, "MB", Some(Goal::AtMost(100.0)));
    Ok(())
}

/// Measures the time from the moment at which a session knows of its commit to the acknowledgement.
async fn latency(report: &mut Report, server: &Server, db: &Client, kind: &'static str) -> Result<()> {
    let broker = Broker::start(kind).await?;
    let begin: i64 = db.query_one("select outbox.head()", &[]).await?.get(0);
    let mut relay =
        Relay::start(&server.dsn("late"), &format!("{kind}_late"), "start = \"end\"", &broker.sink(), &[]).await?;
    relay.wait_for("the broker is open").await?;
    sleep(Duration::from_secs(1)).await;
    let count = RATE * SECONDS;
    let (committed, reached) = enqueue_at_rate(server, "late", RATE, count).await?;
    let end = begin + i64::from(count);
    wait_until("everything is acknowledged", LONG, async || {
        let row = db.query_one("select coalesce(max(\"position\"), 0) from public.moved", &[]).await;
        row.is_ok_and(|row| row.get::<_, i64>(0) >= end)
    })
    .await;
    let moves = db
        .query("select \"position\", (extract(epoch from at) * 1e6)::float8 from public.moved order by 1", &[])
        .await?;
    let messages = db
        .query(
            "select r.\"position\", (r.payload->>'n')::int from outbox.read($1, 10000) r where r.payload is not null",
            &[&begin],
        )
        .await?;
    ensure!(messages.len() == count as usize, "{} of {count} messages are in the feed", messages.len());
    let mut delays = vec![];
    for message in messages {
        let (position, n): (i64, i32) = (message.get(0), message.get(1));
        let first = moves.partition_point(|row| row.get::<_, i64>(0) < position);
        let acknowledged: f64 = moves.get(first).context("a message is not acknowledged")?.get(1);
        let commit = committed[n as usize].duration_since(UNIX_EPOCH)?.as_secs_f64() * 1e6;
        // The session may know of its commit after the broker has the message.
        delays.push(((acknowledged - commit) / 1e3).max(0.0));
    }
    delays.sort_by(f64::total_cmp);
    for (q, name, most) in [(0.5, "p50", 5.0), (0.99, "p99", 20.0)] {
        let what = format!("{kind}: commit to acknowledged at {reached:.0}/s, {name}");
        report.row("relay", what, quantile(&delays, q), None, "ms", Some(Goal::AtMost(most)));
    }
    report.histograms.push(Histogram { name: format!("relay to {kind}, {RATE}/s"), values: delays });
    Ok(())
}

/// Counts the transactions of an idle relay, each of which is one query, and its processor time.
async fn idle(report: &mut Report) -> Result<()> {
    // Without a dispatcher, all transactions are those of the relay.
    let server = plain_server().await?;
    let _db = server.database("idle").await?;
    let broker = Broker::start("redis").await?;
    let watch = server.connect("postgres").await?;
    let count = async || -> Result<f64> {
        let sql = "select (xact_commit + xact_rollback)::float8 from pg_stat_database where datname = 'idle'";
        Ok(watch.query_one(sql, &[]).await?.get(0))
    };
    let mut relay = Relay::start(&server.dsn("idle"), "idle", "", &broker.sink(), &[]).await?;
    relay.wait_for("the broker is open").await?;
    // A session reports its transactions up to a second later.
    sleep(Duration::from_secs(3)).await;
    let pid = relay.pid()?;
    let (before, used) = (count().await?, cpu(pid));
    sleep(IDLE).await;
    let seconds = IDLE.as_secs_f64();
    let rate = (count().await? - before) / seconds;
    // A look every 50 ms, and a heartbeat every five seconds.
    report.row("relay", "idle: queries", rate, None, "per s", Some(Goal::AtMost(20.5)));
    report.row("relay", "idle: CPU", (cpu(pid) - used) / (seconds * 1e6) * 100.0, None, "%", None);
    Ok(())
}

/// The result of relaying everything.
struct Run {
    seconds: f64,
    /// The resident set over time, in megabytes.
    samples: Vec<f64>,
    peak: f64,
}

/// Relays everything. The clock starts when the broker is open.
async fn relayed(server: &Server, db: &Client, name: &str, sink: &str, messages: usize) -> Result<Run> {
    let mut relay = Relay::start(&server.dsn("bench"), name, "", sink, &["--once"]).await?;
    relay.wait_for("the broker is open").await?;
    let started = Instant::now();
    let pid = relay.pid()?;
    let (mut samples, mut peak) = (vec![], 0.0);
    let ended = loop {
        tokio::select! {
            ended = relay.child.wait() => break ended?,
            () = sleep(Duration::from_millis(25)) => {
                samples.push(status(pid, "VmRSS") / 1024.0);
                peak = status(pid, "VmHWM").max(peak * 1024.0) / 1024.0;
            }
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    ensure!(ended.success(), "the relay ended with {ended}: {}", relay.rest().await);
    let row = db.query_one("select relayed from outbox.relay_status where relay = $1", &[&name]).await?;
    let relayed: i64 = row.get(0);
    ensure!(relayed == messages as i64, "{relayed} of {messages} messages were relayed");
    Ok(Run { seconds, samples, peak })
}

/// The program `outbox-relay`.
struct Relay {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Relay {
    async fn start(dsn: &str, name: &str, settings: &str, sink: &str, options: &[&str]) -> Result<Relay> {
        let file = fresh_folder("relay")?.join("relay.toml");
        let text = format!("[relay.{name}]\ntopic = \"bench\"\n{settings}\n\n[relay.{name}.sink]\n{sink}\n");
        std::fs::write(&file, text)?;
        let mut child = Command::new(program("outbox-relay")?)
            .arg("run")
            .arg(&file)
            .args(options)
            .env("DATABASE_URL", dsn)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let log = BufReader::new(child.stderr.take().context("no log")?).lines();
        Ok(Relay { child, log })
    }

    fn pid(&self) -> Result<u32> {
        self.child.id().context("the relay has ended")
    }

    /// Reads the log up to a line.
    async fn wait_for(&mut self, text: &str) -> Result<()> {
        let mut seen = vec![];
        while let Some(line) = self.log.next_line().await? {
            if line.contains(text) {
                return Ok(());
            }
            seen.push(line);
        }
        bail!("the relay ended: {}", seen.join("\n"))
    }

    async fn rest(&mut self) -> String {
        let mut rest = vec![];
        while let Ok(Some(line)) = self.log.next_line().await {
            rest.push(line);
        }
        rest.join("\n")
    }
}

/// Runs the producer that is fed from memory, and returns its output.
async fn from_memory(args: &[&str]) -> Result<String> {
    let output = Command::new(program("examples/from_memory")?).args(args).output().await?;
    ensure!(output.status.success(), "from_memory {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Returns the path of a program beside this one.
fn program(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(name);
    ensure!(program.exists(), "{} is missing: scripts/bench builds it", program.display());
    Ok(program)
}

/// A broker with an empty folder and the topic or stream `bench`.
struct Broker {
    kind: &'static str,
    port: u16,
    folder: PathBuf,
    _child: Child,
}

impl Broker {
    async fn start(kind: &'static str) -> Result<Broker> {
        let (port, folder) = (free_port()?, fresh_folder(kind)?);
        let (program, args) = match kind {
            "kafka" => ("kafka/noida_db/noida-db", format!("start --only kafka --kafka-port {port} --data-dir DIR")),
            "nats" => ("nats-server", format!("-a 127.0.0.1 -p {port} -js -sd DIR")),
            // An entry is acknowledged when it is in the file.
            "redis" => (
                "redis-server",
                format!("--port {port} --bind 127.0.0.1 --appendonly yes --appendfsync always --save  --dir DIR"),
            ),
            other => bail!("there is no broker '{other}'"),
        };
        let path = root().join(".cache/brokers").join(program);
        ensure!(path.exists(), "there is no {program}: scripts/setup brokers");
        let child = Command::new(path)
            .args(args.split(' ').map(|arg| if arg == "DIR" { folder.display().to_string() } else { arg.to_owned() }))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        wait_until(&format!("{program} listens"), LONG, async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        let broker = Broker { kind, port, folder, _child: child };
        from_memory(&["prepare", kind, &broker.address()]).await?;
        Ok(broker)
    }

    fn address(&self) -> String {
        match self.kind {
            "kafka" => format!("127.0.0.1:{}", self.port),
            kind => format!("{kind}://127.0.0.1:{}", self.port),
        }
    }

    /// Returns the lines of the relay's sink.
    fn sink(&self) -> String {
        let address = self.address();
        match self.kind {
            "kafka" => format!("kind = \"kafka\"\nbrokers = \"{address}\""),
            "nats" => format!("kind = \"nats\"\nurl = \"{address}\"\nstream = \"bench\""),
            _ => format!("kind = \"redis\"\nurl = \"{address}\""),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
