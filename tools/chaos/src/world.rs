//! The server under test, and the execution of the events.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use outbox_harness::postgres::{self, Install, fresh_folder, own, signal};
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Server, Stop, connect};

use crate::load::session;
use crate::receivers::{MOODY, Receivers};
use crate::schedule::{ENDPOINTS, Event, Mood, PAUSABLE};

/// The connection string of the server. It changes only if the port is taken while the server is down.
#[derive(Clone, Debug)]
pub struct Place(Arc<Mutex<String>>);

impl Place {
    /// Returns the connection string of the database.
    pub fn dsn(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The default of `pg_outbox.max_unrecorded` in a run. Events only set lower values.
pub const MAX_UNRECORDED: u64 = 256;
/// The default of `pg_outbox.max_in_flight` in a run. Events only set lower values.
pub const MAX_IN_FLIGHT: u64 = 64;

/// A bounded file system for the data folder.
#[derive(Debug)]
struct Disk(PathBuf);

impl Disk {
    /// Mounts the file system. `None` if this process may not mount.
    fn mount(megabytes: u64) -> Option<Disk> {
        let folder = fresh_folder("disk").ok()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "none"])
            .arg(&folder)
            .stderr(std::process::Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Disk(folder))
    }

    /// Fills the remaining space with a file.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("ballast");
        let mut file = std::fs::File::create(&path)?;
        let block = vec![0u8; 64 << 10];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A running server under attack.
#[derive(Debug)]
pub struct World {
    pub server: Server,
    pub place: Place,
    // Declared after the server, so that it is unmounted after the server has ended.
    disk: Option<Disk>,
}

impl World {
    /// Starts a server. Its data is on a bounded disk, if requested and allowed.
    pub async fn start(bounded_disk: bool) -> Result<World> {
        let install = Install::find()?;
        let disk = if bounded_disk { Disk::mount(2048) } else { None };
        let data = match &disk {
            Some(disk) => {
                let data = disk.0.join("data");
                std::fs::create_dir(&data)?;
                own(&disk.0)?;
                data
            }
            None => fresh_folder("chaos")?,
        };
        let settings = [
            ("shared_preload_libraries", "pg_outbox"),
            ("max_connections", "60"),
            ("max_worker_processes", "20"),
            ("max_locks_per_transaction", "64"),
            ("shared_buffers", "128MB"),
            ("max_wal_size", "256MB"),
            ("restart_after_crash", "on"),
            ("log_line_prefix", "%m [%p] %b %a "),
        ];
        let mut server = Server::init(install, data, &settings)?;
        server.run().await?;
        let place = Place(Arc::new(Mutex::new(server.dsn("postgres"))));
        let world = World { server, place, disk };
        let db = world.connect().await?;
        world.settings(&db, MAX_IN_FLIGHT, MAX_UNRECORDED, 500).await?;
        Ok(world)
    }

    /// Returns whether the disk is bounded and can be filled.
    pub fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Opens a session. Waits while the server recovers.
    pub async fn connect(&self) -> Result<Client> {
        let started = Instant::now();
        loop {
            match session(&self.place, "chaos").await {
                Ok(db) => return Ok(db),
                Err(error) if started.elapsed() > Duration::from_secs(60) => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn settings(&self, db: &Client, in_flight: u64, unrecorded: u64, poll_ms: u64) -> Result<()> {
        db.batch_execute(&format!("alter system set pg_outbox.max_in_flight = {in_flight}")).await?;
        db.batch_execute(&format!("alter system set pg_outbox.max_unrecorded = {unrecorded}")).await?;
        db.batch_execute(&format!("alter system set pg_outbox.poll_interval = {poll_ms}")).await?;
        db.batch_execute("alter system set pg_outbox.push = on").await?;
        // Messages are reclaimed only after they were read, because the verdict counts the reader's effects.
        db.batch_execute("alter system set pg_outbox.retain_for_cursors = on").await?;
        db.batch_execute("alter system reset pg_outbox.message_retention").await?;
        db.batch_execute("select pg_reload_conf()").await?;
        Ok(())
    }

    /// Returns the process id of the dispatcher. Waits while a dispatcher is being started.
    pub async fn dispatcher(&self, db: &Client) -> Result<u32> {
        for _ in 0..100 {
            let row = db
                .query_opt(
                    "select pid from pg_stat_activity
                    where backend_type = 'pg_outbox dispatcher' and datname = current_database()",
                    &[],
                )
                .await?;
            if let Some(row) = row {
                return Ok(row.get::<_, i32>(0) as u32);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("there is no dispatcher")
    }

    async fn producer(&self, db: &Client) -> Result<u32> {
        let row = db
            .query_opt(
                "select pid from pg_stat_activity where application_name = 'chaos producer' order by xact_start nulls last limit 1",
                &[],
            )
            .await?
            .context("there is no producer at this moment")?;
        Ok(row.get::<_, i32>(0) as u32)
    }

    /// Starts the server if it has ended.
    async fn revive(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline {
            if connect(&self.place.dsn()).await.is_ok() {
                return Ok(());
            }
            if self.server.pid().is_err() || !self.server.is_running() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::task::block_in_place(|| self.server.stop(Stop::Immediate))?;
        self.start_again().await
    }

    async fn start_again(&mut self) -> Result<()> {
        self.server.run().await?;
        *self.place.0.lock().unwrap_or_else(PoisonError::into_inner) = self.server.dsn("postgres");
        Ok(())
    }

    /// Executes an event and waits until it is over. An error says that the event was not possible.
    pub async fn happen(&mut self, event: Event, receivers: &Receivers) -> Result<()> {
        match event {
            Event::Crash => self.stop_and_start(Stop::Immediate).await,
            Event::Restart => self.stop_and_start(Stop::Fast).await,
            Event::KillDispatcher
            | Event::TerminateDispatcher
            | Event::TerminateLauncher
            | Event::TerminateEverybody
            | Event::PauseDispatcher { .. }
            | Event::KillProducer
            | Event::TerminateSessions { .. }
            | Event::PauseProducer { .. } => self.disturb_processes(event).await,
            Event::ReceiverDown { .. } | Event::CablePulled { .. } | Event::Mood { .. } => {
                disturb_receivers(event, receivers).await
            }
            Event::Settings { .. }
            | Event::PushOff { .. }
            | Event::Retention { .. }
            | Event::DatabaseSettings { .. }
            | Event::NoConnections { .. } => self.disturb_load_and_settings(event).await,
            Event::DiskFull { ms } => self.fill_disk(ms).await,
            Event::NoLocks { .. }
            | Event::TableLock { .. }
            | Event::HeldSnapshot { .. }
            | Event::Rotate
            | Event::Purge
            | Event::Maintenance => self.disturb_storage_and_locks(event).await,
            Event::Resubscribe { .. }
            | Event::Paused { .. }
            | Event::Disabled { .. }
            | Event::Databases
            | Event::Owner
            | Event::Ddl => self.act_as_operator(event).await,
        }
    }

    async fn stop_and_start(&mut self, how: Stop) -> Result<()> {
        tokio::task::block_in_place(|| self.server.stop(how))?;
        self.start_again().await
    }

    /// Kills, ends or pauses single processes or all processes of the running server.
    async fn disturb_processes(&self, event: Event) -> Result<()> {
        let db = self.connect().await?;
        match event {
            Event::KillDispatcher => signal(self.dispatcher(&db).await?, "KILL")?,
            Event::KillProducer => signal(self.producer(&db).await?, "KILL")?,
            Event::PauseDispatcher { ms } => pause(self.dispatcher(&db).await?, ms).await?,
            Event::PauseProducer { ms } => pause(self.producer(&db).await?, ms).await?,
            Event::TerminateDispatcher => self.terminate_dispatcher(&db).await?,
            Event::TerminateLauncher => {
                db.batch_execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'pg_outbox launcher'",
                )
                .await?;
            }
            Event::TerminateEverybody => {
                db.batch_execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()",
                )
                .await?;
            }
            Event::TerminateSessions { percent } => {
                db.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity
                    where application_name in ('chaos producer', 'chaos reader', 'chaos worker', 'chaos operator')
                        and hashint4(pid) & 127 < $1 * 128 / 100",
                    &[&(percent as i32)],
                )
                .await?;
            }
            other => bail!("{other:?} disturbs no process"),
        }
        Ok(())
    }

    async fn terminate_dispatcher(&self, db: &Client) -> Result<()> {
        let pid = self.dispatcher(db).await?;
        db.execute("select pg_terminate_backend($1)", &[&(pid as i32)]).await?;
        Ok(())
    }

    /// Changes settings, or uses all connections.
    async fn disturb_load_and_settings(&self, event: Event) -> Result<()> {
        let db = self.connect().await?;
        match event {
            Event::Settings { in_flight, unrecorded, poll_ms } => {
                self.settings(&db, in_flight, unrecorded, poll_ms).await?;
            }
            Event::PushOff { ms } => {
                db.batch_execute("alter system set pg_outbox.push = off").await?;
                db.batch_execute("select pg_reload_conf()").await?;
                wait(ms).await;
                self.settings(&db, MAX_IN_FLIGHT, MAX_UNRECORDED, 500).await?;
            }
            Event::Retention { ms } => {
                note_own(&db).await?;
                db.batch_execute("select outbox.rotate('message')").await?;
                db.batch_execute("alter system set pg_outbox.message_retention = '1s'").await?;
                db.batch_execute("select pg_reload_conf()").await?;
                wait(ms).await;
                self.settings(&db, MAX_IN_FLIGHT, MAX_UNRECORDED, 500).await?;
            }
            Event::DatabaseSettings { ms } => self.change_database_settings(&db, ms).await?,
            Event::NoConnections { ms } => {
                let mut all = Vec::new();
                while let Ok(one) = session(&self.place, "chaos hog").await {
                    all.push(one);
                }
                wait(ms).await;
            }
            other => bail!("{other:?} disturbs no load and no setting"),
        }
        Ok(())
    }

    async fn change_database_settings(&self, db: &Client, ms: u64) -> Result<()> {
        for setting in [
            "DateStyle = 'SQL, DMY'",
            "IntervalStyle = sql_standard",
            "bytea_output = escape",
            "extra_float_digits = -15",
            "enable_indexscan = off",
            "enable_nestloop = off",
            "work_mem = '64kB'",
            "TimeZone = 'Asia/Kathmandu'",
        ] {
            db.batch_execute(&format!("alter database postgres set {setting}")).await?;
        }
        self.terminate_dispatcher(db).await?;
        wait(ms).await;
        db.batch_execute("alter database postgres reset all").await?;
        Ok(())
    }

    async fn fill_disk(&mut self, ms: u64) -> Result<()> {
        let Some(disk) = &self.disk else { bail!("the disk is not bounded") };
        let ballast = disk.fill()?;
        wait(ms).await;
        std::fs::remove_file(ballast)?;
        self.revive().await
    }

    /// Holds locks or a snapshot, or rotates, reclaims and rewrites tables.
    async fn disturb_storage_and_locks(&self, event: Event) -> Result<()> {
        let db = self.connect().await?;
        match event {
            Event::NoLocks { ms } => {
                let hog = session(&self.place, "chaos hog").await?;
                // The statement ends with "out of shared memory". The session keeps its locks until it ends.
                let _ = hog.batch_execute("select pg_advisory_lock(n) from generate_series(1, 1000000) n").await;
                wait(ms).await;
            }
            Event::TableLock { ms } => {
                db.batch_execute("begin; set local lock_timeout = '3s'; lock table outbox.message in share mode")
                    .await?;
                wait(ms).await;
                db.batch_execute("commit").await?;
            }
            Event::HeldSnapshot { ms } => {
                db.batch_execute("begin isolation level repeatable read; select count(*) from chaos.ledger").await?;
                // The snapshot is held during the next events.
                tokio::spawn(async move {
                    wait(ms).await;
                    drop(db);
                });
            }
            Event::Rotate => {
                for ring in ["message", "feed", "attempt", "tick", "checkpoint", "routing"] {
                    db.execute("select outbox.rotate($1)", &[&ring]).await?;
                }
                db.batch_execute("select * from outbox.maintain()").await?;
            }
            Event::Purge => {
                note_own(&db).await?;
                db.batch_execute("select outbox.rotate('message')").await?;
                db.batch_execute("select outbox.tick()").await?;
                wait(700).await;
                db.batch_execute("select * from outbox.purge('completed', older_than => '1 ms')").await?;
            }
            Event::Maintenance => {
                for statement in [
                    "checkpoint",
                    "vacuum (analyze) outbox.message",
                    "vacuum outbox.delivery",
                    "reindex table outbox.delivery",
                    "analyze outbox.attempt",
                ] {
                    db.batch_execute(statement).await?;
                }
            }
            other => bail!("{other:?} disturbs no storage and no locks"),
        }
        Ok(())
    }

    /// Changes subscriptions and endpoints, or databases, owners and tables.
    async fn act_as_operator(&self, event: Event) -> Result<()> {
        let db = self.connect().await?;
        match event {
            Event::Resubscribe { ms } => {
                // The change and the id of its control message are recorded in the same transaction.
                for (what, change) in [
                    ("all", "outbox.subscribe('guest', '{order.*}', 'guest', max_attempts => 1000)"),
                    ("even", "outbox.alter_subscription('guest', topics => '{order.even}')"),
                    ("none", "outbox.unsubscribe('guest')"),
                ] {
                    db.batch_execute(&format!("insert into chaos.guest (message_id, what) select {change}, '{what}'"))
                        .await?;
                    wait(ms / 2).await;
                }
            }
            Event::Paused { subscription, ms } => {
                db.execute("select outbox.pause_subscription($1)", &[&PAUSABLE[subscription]]).await?;
                wait(ms).await;
                db.execute("select outbox.resume_subscription($1)", &[&PAUSABLE[subscription]]).await?;
            }
            Event::Disabled { endpoint, ms } => {
                let name = MOODY[endpoint].trim_start_matches('/');
                db.execute("select outbox.disable_endpoint($1, 'chaos')", &[&name]).await?;
                wait(ms).await;
                db.execute("select outbox.enable_endpoint($1)", &[&name]).await?;
            }
            Event::Databases => self.make_and_drop_databases(&db).await?,
            Event::Owner => change_owner(&db).await?,
            Event::Ddl => change_schema(&db).await?,
            other => bail!("{other:?} is no action of an operator"),
        }
        Ok(())
    }

    async fn make_and_drop_databases(&self, db: &Client) -> Result<()> {
        for (name, ways) in [
            ("chaos_a", &["drop database chaos_a with (force)"][..]),
            ("chaos_b", &["alter database chaos_b rename to chaos_c", "drop database chaos_c"]),
            (
                "chaos_d",
                &["create database chaos_e template chaos_d", "drop database chaos_e", "drop database chaos_d"],
            ),
        ] {
            db.batch_execute(&format!("create database {name}")).await?;
            self.server.connect(name).await?.batch_execute("create extension pg_outbox").await?;
            wait(200).await;
            for way in ways {
                db.batch_execute(way).await?;
            }
        }
        Ok(())
    }

    /// Ends all disturbances: starts the server, restores receivers and settings, and ends prepared transactions.
    pub async fn calm(&mut self, receivers: &Receivers) -> Result<Client> {
        self.revive().await?;
        receivers.plug(true);
        for endpoint in 0..ENDPOINTS {
            receivers.set_mood(endpoint, Mood::Well);
        }
        let db = self.connect().await?;
        self.settings(&db, MAX_IN_FLIGHT, MAX_UNRECORDED, 500).await?;
        db.batch_execute(
            "select outbox.resume_subscription(name) from outbox.subscription where paused and deleted_at is null",
        )
        .await?;
        // Closes the breakers and ends pauses, because the receivers are well now.
        db.batch_execute("select outbox.enable_endpoint(name) from outbox.endpoint_status").await?;
        for (i, row) in db.query("select gid from pg_prepared_xacts order by gid", &[]).await?.iter().enumerate() {
            let end = if i % 2 == 0 { "commit" } else { "rollback" };
            db.batch_execute(&format!("{end} prepared '{}'", row.get::<_, &str>(0))).await?;
        }
        let guest = "select 1 from outbox.subscription where name = 'guest' and deleted_at is null";
        if db.query_opt(guest, &[]).await?.is_some() {
            db.batch_execute("insert into chaos.guest (message_id, what) select outbox.unsubscribe('guest'), 'none'")
                .await?;
        }
        // Requeues the dead letters of operators that died before they requeued them. Only "mortal" may have dead letters.
        db.batch_execute(
            "select outbox.requeue_all('chaos', subscription => s.name, max_rows => 100000)
            from outbox.subscription s where s.name <> 'mortal' and s.deleted_at is null",
        )
        .await?;
        Ok(db)
    }
}

/// Lets receivers fail, or cuts the network to them.
async fn disturb_receivers(event: Event, receivers: &Receivers) -> Result<()> {
    match event {
        Event::ReceiverDown { ms } => {
            receivers.far_down();
            wait(ms).await;
            receivers.far_up().await?;
        }
        Event::CablePulled { ms } => {
            receivers.plug(false);
            wait(ms).await;
            receivers.plug(true);
        }
        Event::Mood { endpoint, mood, ms } => {
            receivers.set_mood(endpoint, mood);
            wait(ms).await;
            receivers.set_mood(endpoint, Mood::Well);
        }
        other => bail!("{other:?} disturbs no receiver"),
    }
    Ok(())
}

/// Gives the extension another owner and takes rights from the owner. Some statements may not get their locks in time.
async fn change_owner(db: &Client) -> Result<()> {
    let mut refused = None;
    for (from, to) in [("chaos_owner", "chaos_heir"), ("chaos_heir", "chaos_owner")] {
        for statement in [
            "set lock_timeout = '2s'".to_owned(),
            format!("create role {to} superuser; reassign owned by {from} to {to}; drop role {from}"),
            format!("alter role {to} rename to chaos_renamed"),
            format!("alter role chaos_renamed rename to {to}"),
            format!("alter role {to} nosuperuser"),
            format!("alter role {to} superuser"),
        ] {
            if let Err(error) = db.batch_execute(&statement).await {
                refused = Some(anyhow::Error::from(error).context(statement));
            }
        }
    }
    refused.map_or(Ok(()), Err)
}

/// Creates and drops databases, indexes, columns and roles, and rewrites tables. A prepared transaction of a killed session
/// holds its locks until the end, so some statements fail.
async fn change_schema(db: &Client) -> Result<()> {
    let mut refused = None;
    for statement in [
        "set lock_timeout = '2s'",
        "drop database if exists chaos_side",
        "create database chaos_side",
        "drop index if exists chaos.side",
        "create index concurrently side on chaos.ledger (message_id)",
        "alter table chaos.worked add column if not exists side int",
        "vacuum full outbox.delivery",
        "vacuum full outbox.cancelled",
        "reindex table concurrently outbox.dead_letter",
        "alter table chaos.worked drop column if exists side",
        "begin; create role chaos_side; select outbox.grant_to('chaos_side', 'admin'); rollback",
        "drop database chaos_side",
    ] {
        if let Err(error) = db.batch_execute(statement).await {
            refused = Some(anyhow::Error::from(error).context(statement));
            // The statement with a transaction block may have left it open.
            db.batch_execute("rollback").await?;
        }
    }
    refused.map_or(Ok(()), Err)
}

/// Records which messages belong to pg_outbox itself, before these messages are reclaimed.
pub async fn note_own(db: &Client) -> Result<()> {
    db.batch_execute(
        "insert into chaos.own select id from outbox.message where topic like 'outbox.%' on conflict do nothing",
    )
    .await?;
    Ok(())
}

async fn wait(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

async fn pause(pid: u32, ms: u64) -> Result<()> {
    signal(pid, "STOP")?;
    wait(ms).await;
    // The process may have been ended in the meantime.
    let _ = signal(pid, "CONT");
    Ok(())
}

/// Returns the private memory of a process, in bytes.
pub fn private_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb * 1024)
}

/// Returns the last lines of the server's log.
pub fn log_tail(server: &Server) -> String {
    postgres::tail(&server.log(), 30)
}
