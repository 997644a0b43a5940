//! PgBouncer in front of a server. `scripts/setup pgbouncer` downloads it.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::postgres::{Server, as_server_user, connect, free_port, fresh_folder, own, root};

/// A running PgBouncer. It ends when it is dropped, or with the process that started it.
#[derive(Debug)]
pub struct Pooler {
    /// The port of PgBouncer on 127.0.0.1.
    pub port: u16,
    password: String,
    child: Child,
}

impl Pooler {
    /// Starts PgBouncer in this `mode` (`transaction` or `session`), with up to `size` server sessions per database.
    pub async fn start(server: &Server, mode: &str, size: usize) -> Result<Pooler> {
        let program = root().join(".cache/pgbouncer/run");
        if !program.exists() {
            bail!("there is no PgBouncer: scripts/setup pgbouncer");
        }
        let folder = fresh_folder("pooler")?;
        let port = free_port()?;
        let (server_port, password) = (server.port, server.password());
        fs::write(
            folder.join("pgbouncer.ini"),
            format!(
                "[databases]\n* = host=127.0.0.1 port={server_port} user=postgres password={password}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
                 pool_mode = {mode}\ndefault_pool_size = {size}\nmax_client_conn = 200\nlogfile = {}\n",
                folder.join("log").display()
            ),
        )?;
        own(&folder)?;
        let pooler = as_server_user(&program);
        let mut shell = Command::new("sh");
        // When this process ends, the input of the shell ends, and the shell ends PgBouncer (as for servers).
        shell.arg("-c").arg("exec 3<&0; \"$@\" <&- 3<&- & pid=$!; (cat <&3 >/dev/null; kill -TERM $pid 2>/dev/null) & exec 3<&-; wait $pid");
        shell.arg("sh").arg(pooler.get_program()).args(pooler.get_args());
        shell.arg("-q").arg(folder.join("pgbouncer.ini"));
        let child = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut started = Pooler { port, password: password.to_owned(), child };
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = connect(&started.dsn("postgres")).await {
            if Instant::now() > deadline || started.child.try_wait()?.is_some() {
                let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
                return Err(error).context(log);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(started)
    }

    /// Returns the connection string of a database through PgBouncer.
    pub fn dsn(&self, database: &str) -> String {
        format!("postgresql://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
