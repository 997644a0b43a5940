//! PostgreSQL servers for tests, each with a temporary data folder, a free port and a password.
//!
//! PostgreSQL refuses to run as root, so if this process is root, the server runs as `nobody`. If that user cannot reach
//! the folder of the project, the server gets the capabilities to do so.
//!
//! A server ends with the process that started it, regardless of how that process ends. A supervising shell waits on a
//! pipe that only this process holds open.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, Result, anyhow, bail};
use tokio_postgres::{Client, NoTls};

/// An installed PostgreSQL.
#[derive(Clone, Debug)]
pub struct Install {
    /// The folder of the programs.
    pub bin: PathBuf,
    /// The major version.
    pub major: u32,
}

impl Install {
    /// Finds the installation that `PG_CONFIG` names, or the one that `scripts/setup` downloaded for the major version in
    /// `PG` (default 18).
    pub fn find() -> Result<Install> {
        let config = match std::env::var_os("PG_CONFIG") {
            Some(path) => PathBuf::from(path),
            None => {
                let major = std::env::var("PG").unwrap_or_else(|_| "18".to_owned());
                root().join(format!(".cache/pg{major}/bin/pg_config"))
            }
        };
        let ask = |what: &str| -> Result<String> {
            let output = Command::new(&config)
                .arg(what)
                .output()
                .with_context(|| format!("running {}; has `make setup` been run?", config.display()))?;
            Ok(String::from_utf8(output.stdout)?.trim().to_owned())
        };
        let version = ask("--version")?;
        let major = version
            .trim_start_matches("PostgreSQL ")
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| anyhow!("cannot read the version in \"{version}\""))?;
        Ok(Install { bin: PathBuf::from(ask("--bindir")?), major })
    }

    /// Finds an installation of another major version on this machine, for upgrades.
    pub fn of_major(major: u32) -> Option<Install> {
        let fetched = root().join(format!(".cache/pg{major}/bin"));
        let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
        [fetched, debian].into_iter().find(|bin| bin.join("postgres").exists()).map(|bin| Install { bin, major })
    }

    /// Returns a command that runs one of the programs as the user of the server.
    pub fn command(&self, program: &str) -> Command {
        let mut command = as_server_user(&self.bin.join(program));
        command
            .env_remove("PGHOST")
            .env_remove("PGPORT")
            .env_remove("PGUSER")
            .env_remove("PGDATABASE")
            .env("LC_ALL", "C");
        command
    }
}

/// Returns the folder of the project.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Returns the SQL files of the extension, in the order in which CREATE EXTENSION runs them.
pub fn schema_files() -> Result<Vec<PathBuf>> {
    let folder = root().join("sql/schema");
    Ok(fs::read_to_string(folder.join("order"))?.lines().map(|line| folder.join(line)).collect())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Returns a command that runs a program as the user of the server.
pub(crate) fn as_server_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let drop = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"];
    let reaches = Command::new("setpriv").args(drop).arg("test").arg("-x").arg(program).status();
    let mut command = Command::new("setpriv");
    command.args(drop);
    if !reaches.is_ok_and(|status| status.success()) {
        command.args(["--inh-caps=+dac_override,+dac_read_search", "--ambient-caps=+dac_override,+dac_read_search"]);
    }
    command.arg(program);
    command
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A fast shutdown: sessions are ended and all data is written.
    Fast,
    /// An immediate shutdown, as if the power failed.
    Immediate,
}

/// A data folder and the server that runs on it.
#[derive(Debug)]
pub struct Server {
    /// The installation.
    pub install: Install,
    /// The data folder.
    pub data: PathBuf,
    /// The port on 127.0.0.1.
    pub port: u16,
    password: String,
    settings: Vec<(String, String)>,
    supervisor: Option<Child>,
    keep: bool,
}

impl Server {
    /// Starts a server with the extension preloaded.
    pub async fn start(settings: &[(&str, &str)]) -> Result<Server> {
        let mut all = vec![("shared_preload_libraries", "pg_outbox")];
        all.extend_from_slice(settings);
        Server::start_plain(&all).await
    }

    /// Starts a server with only these settings in addition to the basic settings, which allow loopback addresses as
    /// endpoints.
    pub async fn start_plain(settings: &[(&str, &str)]) -> Result<Server> {
        let install = Install::find()?;
        let data = fresh_folder("server")?;
        let mut server = Server::init(install, data, settings)?;
        server.run().await?;
        Ok(server)
    }

    /// Creates a data folder without starting a server.
    pub fn init(install: Install, data: PathBuf, settings: &[(&str, &str)]) -> Result<Server> {
        let password = random_password()?;
        let pwfile = data.with_extension("pw");
        fs::write(&pwfile, &password)?;
        own(&pwfile)?;
        own(&data)?;
        let output = install
            .command("initdb")
            .args(["-U", "postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .arg(format!("--pwfile={}", pwfile.display()))
            .output()?;
        fs::remove_file(&pwfile)?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Server::on(install, data, password, settings))
    }

    /// Returns a server on an existing data folder. It is not started.
    pub fn on(install: Install, data: PathBuf, password: String, settings: &[(&str, &str)]) -> Server {
        Server {
            install,
            data,
            port: 0,
            password,
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            supervisor: None,
            keep: false,
        }
    }

    /// Returns the password of the superuser.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Keeps the data folder when the server is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Changes a setting for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Returns the command line options for the settings.
    pub fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        let basics = [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("max_prepared_transactions", "20"),
            ("max_connections", "200"),
            ("pg_outbox.egress_allow", "127.0.0.0/8"),
            ("pg_outbox.allow_http", "on"),
        ];
        let given = self.settings.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        for (name, value) in basics.into_iter().chain(given) {
            options.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        options.extend(["-p".to_owned(), self.port.to_string()]);
        options
    }

    /// Starts the server on a free port and waits until it accepts connections (a standby accepts read-only ones).
    pub async fn run(&mut self) -> Result<()> {
        for attempt in 0.. {
            if self.port == 0 || attempt > 0 {
                self.port = free_port()?;
            }
            let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
            let mut postgres = self.install.command("postgres");
            postgres.arg("-D").arg(&self.data).args(self.options());
            // When this process ends, the input of the shell ends, and the shell ends the server with SIGQUIT.
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(
                "exec 3<&0; \"$@\" <&- 3<&- & pid=$!; (cat <&3 >/dev/null; kill -QUIT $pid 2>/dev/null) & exec 3<&-; wait $pid",
            );
            shell.arg("sh").arg(postgres.get_program()).args(postgres.get_args());
            for (name, value) in postgres.get_envs() {
                match value {
                    Some(value) => shell.env(name, value),
                    None => shell.env_remove(name),
                };
            }
            let child = shell.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).spawn()?;
            self.supervisor = Some(child);
            match self.wait_ready().await {
                Ok(()) => return Ok(()),
                // Another process took the port in the meantime.
                Err(_) if attempt < 5 && self.log().contains("could not bind") => self.reap(),
                Err(error) => return Err(error.context(tail(&self.log(), 40))),
            }
        }
        unreachable!()
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            match self.connect("postgres").await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error.context("the server did not start")),
                Err(_) => {}
            }
            if let Some(child) = &mut self.supervisor
                && let Some(status) = child.try_wait()?
            {
                bail!("the server ended with {status}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the connection string of a database.
    pub fn dsn(&self, database: &str) -> String {
        format!("postgresql://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Opens a session as superuser.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        connect(&self.dsn(database)).await
    }

    /// Opens a session and returns it with the stream of its notifications.
    pub async fn listen(
        &self,
        database: &str,
    ) -> Result<(Client, tokio::sync::mpsc::UnboundedReceiver<tokio_postgres::Notification>)> {
        let (client, mut connection) = tokio_postgres::connect(&self.dsn(database), NoTls).await?;
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                if let tokio_postgres::AsyncMessage::Notification(notification) = message {
                    let _ = sender.send(notification);
                }
            }
        });
        Ok((client, receiver))
    }

    /// Creates a database with the extension and opens a session in it.
    pub async fn database(&self, name: &str) -> Result<Client> {
        let client = self.empty_database(name).await?;
        client.batch_execute("create extension pg_outbox").await?;
        Ok(client)
    }

    /// Creates an empty database and opens a session in it.
    pub async fn empty_database(&self, name: &str) -> Result<Client> {
        self.connect("postgres").await?.batch_execute(&format!("create database \"{name}\"")).await?;
        self.connect(name).await
    }

    /// Returns the process id of the postmaster.
    pub fn pid(&self) -> Result<u32> {
        let text = fs::read_to_string(self.data.join("postmaster.pid"))?;
        Ok(text.lines().next().unwrap_or_default().parse()?)
    }

    /// Stops the server and waits until it has ended.
    pub fn stop(&mut self, how: Stop) -> Result<()> {
        if let Ok(pid) = self.pid() {
            signal(pid, if how == Stop::Fast { "INT" } else { "QUIT" })?;
        }
        self.reap();
        Ok(())
    }

    /// Stops and starts the server.
    pub async fn restart(&mut self, how: Stop) -> Result<()> {
        self.stop(how)?;
        self.run().await
    }

    /// Returns whether the postmaster is running.
    pub fn is_running(&mut self) -> bool {
        self.supervisor.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn reap(&mut self) {
        // `wait` would first close the input of the shell, which ends the server with SIGQUIT.
        if let Some(mut child) = self.supervisor.take() {
            while matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn log_path(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    /// Returns the server's log so far.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.supervisor.is_some() {
            let _ = self.stop(Stop::Immediate);
        }
        // With OUTBOX_KEEP=1 the data of a failed test can be examined.
        if !self.keep && std::env::var_os("OUTBOX_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.data);
            let _ = fs::remove_file(self.log_path());
        }
    }
}

/// Opens a session. The task of its connection ends with the session.
pub async fn connect(dsn: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Returns a command that runs as the user of the server. Only this user may trace or signal the server's processes.
pub fn command_as_server_user(program: &str) -> Command {
    as_server_user(Path::new(program))
}

/// Sends a signal to one process.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { bail!("no process {pid}") }
}

/// Creates a folder that no other process uses, and removes the folders of processes that have ended.
pub fn fresh_folder(what: &str) -> Result<PathBuf> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let base = root().join(".cache/run");
    fs::create_dir_all(&base)?;
    for entry in fs::read_dir(&base)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.split('-').nth(1).and_then(|pid| pid.split('.').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
            let _ = fs::remove_file(entry.path());
        }
    }
    let folder = base.join(format!("{what}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(&folder)?;
    own(&folder)?;
    Ok(folder)
}

/// Makes the user of the server the owner of a file or folder.
pub fn own(path: &Path) -> Result<()> {
    if is_root() {
        let status = Command::new("chown").args(["-R", "nobody:nogroup"]).arg(path).status()?;
        if !status.success() {
            bail!("chown of {} failed", path.display());
        }
    }
    if path.is_dir() {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    }
    Ok(())
}

/// Returns a port that was free a moment ago. It lies below the ports that Linux gives to outgoing connections, one of which
/// could take it before a server does.
pub fn free_port() -> io::Result<u16> {
    loop {
        let random = RandomState::new().build_hasher().finish();
        let port = 10_000 + u16::try_from(random % 20_000).unwrap_or_default();
        match std::net::TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

fn random_password() -> Result<String> {
    let mut bytes = [0u8; 16];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Returns the last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
