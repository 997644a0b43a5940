//! Brokers, relays and databases for the tests.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use outbox_harness::postgres::{free_port, fresh_folder, root, signal};
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Server, wait_until};
use tokio::sync::OnceCell;

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

async fn server() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER
        .get_or_init(async || {
            // Each test has databases of its own, and each of these a dispatcher.
            let room = [("max_worker_processes", "130"), ("pg_outbox.max_databases", "120")];
            Server::start(&[&room[..], &[("pg_outbox.poll_interval", "1s")]].concat()).await.unwrap()
        })
        .await
}

/// A database with an outbox.
pub(crate) struct Database {
    pub(crate) client: Client,
    dsn: String,
}

impl Database {
    pub(crate) async fn new() -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("relay_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let client = server().await.database(&name).await.unwrap();
        Database { client, dsn: server().await.dsn(&name) }
    }

    /// Enqueues messages `from..=to` with the number as payload, in transactions of 10, with 7 keys.
    pub(crate) async fn enqueue(&self, from: i64, to: i64) {
        for start in (from..=to).step_by(10) {
            let end = (start + 9).min(to);
            self.client
                .execute(
                    "select outbox.enqueue('order.created', jsonb_build_object('n', n), key => 'k' || n % 7)
                     from generate_series($1::bigint, $2) n",
                    &[&start, &end],
                )
                .await
                .unwrap();
        }
        self.wait_for_positions().await;
    }

    /// Waits until every message has its position.
    pub(crate) async fn wait_for_positions(&self) {
        wait_until("every message has its position", PATIENCE, async || {
            self.one("select outbox.head() >= count(*) from outbox.message").await == "true"
        })
        .await;
    }

    pub(crate) fn dsn(&self) -> &str {
        &self.dsn
    }

    pub(crate) async fn one(&self, sql: &str) -> String {
        let rows = self.client.query(&format!("select ({sql})::text"), &[]).await.unwrap();
        rows[0].get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// Waits until the state and last error of the relay contain these texts.
    pub(crate) async fn wait_for_state(&self, state: &str, error: &str) {
        wait_until(&format!("the relay is {state} with \"{error}\""), PATIENCE, async || {
            self.one("select concat_ws(' ', r.state, r.last_error) from outbox.relay_status r").await.starts_with(state)
                && self.one("select r.last_error from outbox.relay_status r").await.contains(error)
        })
        .await;
    }
}

/// A program that ends with this process.
pub(crate) struct Program(Child);

impl Program {
    fn start(program: &str, args: &[String]) -> Program {
        let mut shell = Command::new("sh");
        // When this process ends, the input of the shell ends, and the shell ends the program.
        shell.arg("-c").arg(
            "exec 3<&0; \"$@\" <&- 3<&- & pid=$!; (cat <&3 >/dev/null; kill -KILL $pid 2>/dev/null) & exec 3<&-; wait $pid",
        );
        shell.arg("sh").arg(program).args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Program(shell.spawn().unwrap())
    }
}

impl Drop for Program {
    /// Kills the program at once, as `kill -9` does.
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Returns the path of a program of `scripts/setup brokers`.
fn program(name: &str) -> String {
    let program = root().join(".cache/brokers").join(name);
    assert!(program.exists(), "there is no {name}: scripts/setup brokers");
    program.display().to_string()
}

/// A broker.
pub(crate) struct Broker {
    program: Option<Program>,
    /// A program that the broker needs, which is never killed.
    _beside: Option<Program>,
    name: &'static str,
    args: Vec<String>,
    pub(crate) port: u16,
}

impl Broker {
    /// Starts nats-server with JetStream, a largest message of 64 kB, and these further lines of configuration.
    pub(crate) async fn nats(config: &str) -> Broker {
        let (port, folder) = (free_port().unwrap(), fresh_folder("nats").unwrap());
        let file = folder.join("conf");
        let text = format!(
            "host: 127.0.0.1\nport: {port}\nmax_payload: 65536\njetstream {{ store_dir: {:?} }}\n{config}\n",
            folder.join("data")
        );
        fs::write(&file, text).unwrap();
        let args = vec!["-c".to_owned(), file.display().to_string()];
        Broker::started("nats-server", args, port).await
    }

    pub(crate) async fn redis() -> Broker {
        let (port, folder) = (free_port().unwrap(), fresh_folder("redis").unwrap());
        let args = format!("--port {port} --bind 127.0.0.1 --appendonly yes --appendfsync always --save  --dir");
        let mut args: Vec<String> = args.split(' ').map(str::to_owned).collect();
        args.push(folder.display().to_string());
        Broker::started("redis-server", args, port).await
    }

    pub(crate) async fn kafka() -> Broker {
        let (port, folder) = (free_port().unwrap(), fresh_folder("kafka").unwrap());
        let args = format!("start --only kafka --kafka-port {port} --data-dir {}", folder.display());
        Broker::started("kafka/noida_db/noida-db", args.split(' ').map(str::to_owned).collect(), port).await
    }

    /// Starts mosquitto with these further lines of configuration.
    pub(crate) async fn mqtt(config: &str) -> Broker {
        let (port, folder) = (free_port().unwrap(), fresh_folder("mqtt").unwrap());
        let text = format!(
            "user root\npersistence true\npersistence_location {}/\nmax_queued_messages 0\nlistener {port} 127.0.0.1\n{}{config}\n",
            folder.display(),
            if config.contains("allow_anonymous") { "" } else { "allow_anonymous true\n" },
        );
        let file = folder.join("conf");
        fs::write(&file, text).unwrap();
        Broker::started("mosquitto", vec!["-c".to_owned(), file.display().to_string()], port).await
    }

    /// Starts a server with the interface of AWS.
    #[cfg(feature = "aws")]
    pub(crate) async fn aws() -> Broker {
        let port = free_port().unwrap();
        let args = format!("-H 127.0.0.1 -p {port}").split(' ').map(str::to_owned).collect();
        Broker::started("../moto/bin/moto_server", args, port).await
    }

    pub(crate) async fn rabbitmq() -> Broker {
        let [port, names, distribution] = [free_port().unwrap(), free_port().unwrap(), free_port().unwrap()];
        let folder = fresh_folder("rabbitmq").unwrap();
        let args = format!("{} {port} {names} {distribution}", folder.display());
        let mapper = program("usr/lib/erlang/bin/epmd");
        let beside = Some(Program::start(&mapper, &["-port".to_owned(), names.to_string()]));
        let args = args.split(' ').map(str::to_owned).collect();
        let mut broker = Broker { program: None, _beside: beside, name: "rabbitmq-server", args, port };
        broker.start().await;
        broker
    }

    async fn started(name: &'static str, args: Vec<String>, port: u16) -> Broker {
        let mut broker = Broker { program: None, _beside: None, name, args, port };
        broker.start().await;
        broker
    }

    /// Starts the program with the data that it had.
    pub(crate) async fn start(&mut self) {
        self.program = Some(Program::start(&program(self.name), &self.args));
        let address = ("127.0.0.1", self.port);
        wait_until(&format!("{} listens", self.name), PATIENCE, async || {
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
    }

    pub(crate) fn kill(&mut self) {
        self.program = None;
    }

    /// Ends the program as an operator does.
    pub(crate) fn stop(&mut self) {
        if let Some(mut program) = self.program.take() {
            let shell = program.0.id();
            let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
            for child in children.split_whitespace() {
                signal(child.parse().unwrap(), "TERM").unwrap();
            }
            program.0.wait().unwrap();
        }
    }
}

/// A configuration file of one relay, named "orders".
pub(crate) struct Config {
    path: PathBuf,
    dsn: String,
    target: String,
}

impl Config {
    /// `relay`: lines of the relay's table, `sink`: of its sink.
    pub(crate) fn new(db: &Database, relay: &str, sink: &str) -> Config {
        let path = fresh_folder("config").unwrap().join("relay.toml");
        let mut text =
            String::from("[source]\ndsn = { env = \"RELAY_DSN\" }\n\n[relay.orders]\nheartbeat_seconds = 1\n");
        let _ = write!(text, "{relay}\n\n[relay.orders.sink]\n{sink}\n");
        fs::write(&path, text).unwrap();
        Config { path, dsn: db.dsn.clone(), target: String::new() }
    }

    /// Sets the database that the messages go to.
    pub(crate) fn with_target(mut self, target: &Database) -> Config {
        self.target.clone_from(&target.dsn);
        self
    }

    /// Messages are read in a session of its own.
    pub(crate) fn with_reader(self) -> Config {
        let text = fs::read_to_string(&self.path).unwrap();
        fs::write(&self.path, text.replacen("[source]", "[source]\nread_dsn = { env = \"RELAY_DSN\" }", 1)).unwrap();
        self
    }

    fn command(&self, what: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
        command.arg(what).arg(&self.path).env("RELAY_DSN", &self.dsn).env("BROKER_PASSWORD", "geheim");
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "geheim");
        command.env("TARGET_DSN", &self.target);
        command.stdin(Stdio::null());
        command
    }

    /// Relays what is in the feed now.
    pub(crate) async fn once(&self) -> Output {
        let mut command = self.command("run");
        command.arg("--once");
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// Relays what is in the feed now, which succeeds.
    pub(crate) async fn succeed(&self) -> String {
        let output = self.once().await;
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{} {log}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) async fn check(&self) -> (i32, String) {
        let mut command = self.command("check");
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs the relay with a limit for the size of files in KiB. A write beyond the limit is cut off.
    pub(crate) fn run_with_small_files(&self, kib: u32) -> Running {
        let mut shell = Command::new("bash");
        let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$@\"");
        shell.arg("-c").arg(script).args(["bash", env!("CARGO_BIN_EXE_outbox-relay"), "run"]).arg(&self.path);
        // The limit would concern the log, too.
        shell.env("RELAY_DSN", &self.dsn).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Running { child: shell.spawn().unwrap(), log: self.path.with_extension("none") }
    }

    pub(crate) fn run(&self) -> Running {
        let log = self.path.with_extension(format!("log{}", free_port().unwrap()));
        let child = self.command("run").stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        Running { child, log }
    }

    /// Runs the relay with a pipe as its standard output.
    pub(crate) fn run_into_pipe(&self) -> (Running, ChildStdout) {
        let mut child = self.command("run").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let pipe = child.stdout.take().unwrap();
        (Running { child, log: self.path.with_extension("none") }, pipe)
    }
}

/// A relay that runs until it is dropped.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name).unwrap();
    }

    /// Ends the relay as an operator does, and returns its exit code.
    pub(crate) async fn terminate(mut self) -> i32 {
        self.signal("TERM");
        wait_until("the relay has ended", PATIENCE, async || self.child.try_wait().unwrap().is_some()).await;
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the relay's cursor is at the end of the feed, and the feed has `n` messages.
pub(crate) async fn wait_until_relayed(db: &Database, n: i64) {
    wait_until(&format!("{n} messages have been relayed"), PATIENCE, async || {
        db.one(&format!(
            "select count(*) from outbox.cursor_list('relay:orders') c
             where c.lag_positions = 0 and c.position >= {n} and outbox.head() >= {n}"
        ))
        .await
            == "1"
    })
    .await;
}

/// Asserts that the payloads are the numbers 1 to `n`, each once, and in the order of the feed.
pub(crate) async fn assert_ledger(db: &Database, payloads: &[i64], n: i64) {
    let rows = db.client.query("select (r.payload ->> 'n')::bigint from outbox.read(0, 10000) r", &[]).await.unwrap();
    let feed: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(feed.len(), usize::try_from(n).unwrap(), "the feed");
    let mut seen = HashMap::new();
    for payload in payloads {
        *seen.entry(payload).or_insert(0) += 1;
    }
    let lost: Vec<_> = feed.iter().filter(|payload| !seen.contains_key(payload)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(payloads == feed, "the order or the number differs: {} instead of {n}", payloads.len());
}
