//! [`Outbox`]: a pool of sessions, and the calls that use it.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio_postgres::GenericClient;

use crate::call;
use crate::connect::Target;
use crate::error::{Error, Kind, Result};
use crate::reader::ReaderBuilder;
use crate::worker::WorkerBuilder;

/// A session of the pool. Dropping it returns it to the pool. `session.transaction()` begins a transaction.
pub type Session = deadpool_postgres::Object;

/// The outbox of one database. It is cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox {
    target: Target,
    pool: deadpool_postgres::Pool,
}

impl Outbox {
    /// Connects and checks that the database has an outbox. [`connect`](crate::connect) describes connection strings.
    ///
    /// # Errors
    /// Kind retry: there is no connection. Kind fatal: the extension is missing (`extension_missing`), a privilege is
    /// missing, or the password is wrong.
    pub async fn connect(dsn: &str) -> Result<Outbox> {
        let outbox = Outbox::lazy(dsn, 8)?;
        outbox.check().await?;
        Ok(outbox)
    }

    /// Creates an outbox without connecting yet, with a pool of at most `pool_size` sessions.
    ///
    /// # Errors
    /// 22023 for a malformed connection string.
    pub fn lazy(dsn: &str, pool_size: usize) -> Result<Outbox> {
        Outbox::with_target(Target::parse(dsn)?, pool_size)
    }

    /// Creates an outbox as [`Outbox::lazy`] does, for settings that were read before.
    ///
    /// # Errors
    /// 22023 if there is no pool of this size.
    pub fn with_target(target: Target, pool_size: usize) -> Result<Outbox> {
        let pool = target.pool(pool_size.max(1))?;
        Ok(Outbox { target, pool })
    }

    /// Checks that the extension is installed, in a version that this client supports.
    ///
    /// # Errors
    /// Kind fatal, `extension_missing` or `version_mismatch`.
    pub async fn check(&self) -> Result<()> {
        check_version(&**self.session().await?).await
    }

    /// Returns a session of the pool.
    ///
    /// # Errors
    /// Kind retry if there is no connection.
    pub async fn session(&self) -> Result<Session> {
        self.pool.get().await.map_err(|error| self.target.explain(error))
    }

    /// Returns the connection settings of this outbox.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Calls `outbox.<function>`; see [`call::call`].
    ///
    /// # Errors
    /// Those of the function.
    pub async fn call(&self, function: &str, args: impl Serialize, intervals: &[&str]) -> Result<Vec<Value>> {
        let session = self.session().await?;
        call::call(&**session, function, args, intervals).await
    }

    /// Calls a function that returns nothing.
    ///
    /// # Errors
    /// Those of the function.
    pub async fn call_void(&self, function: &str, args: impl Serialize) -> Result<()> {
        let session = self.session().await?;
        call::call_void(&**session, function, args).await
    }

    /// Returns rows of a table or view of the schema; see [`call::table`].
    ///
    /// # Errors
    /// 22023 for malformed names.
    pub async fn table(
        &self,
        name: &str,
        filter: impl Serialize,
        limit: i64,
        intervals: &[&str],
    ) -> Result<Vec<Value>> {
        let session = self.session().await?;
        call::table(&**session, name, filter, limit, intervals).await
    }

    /// Returns a builder for a worker on a pull subscription.
    pub fn worker(&self, subscription: impl Into<String>) -> WorkerBuilder {
        WorkerBuilder::new(self.target.clone(), subscription.into())
    }

    /// Returns a builder for a reader of the feed.
    pub fn reader(&self) -> ReaderBuilder {
        ReaderBuilder::new(self.target.clone())
    }

    /// Waits until all messages that are committed are routed. Without a dispatcher it routes them itself.
    ///
    /// # Errors
    /// Kind retry if this takes longer than 30 s.
    pub(crate) async fn settle(&self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(30);
        let end = tokio::time::Instant::now() + LIMIT;
        loop {
            let status = self.worker_status().await?.into_iter().next();
            let Some(status) = status.filter(|status| ["running", "starting"].contains(&status.state.as_str())) else {
                return self.call("tick", serde_json::json!({}), &[]).await.map(|_| ());
            };
            if status.idle == Some(true) {
                return Ok(());
            }
            if tokio::time::Instant::now() > end {
                return Err(Error::connection(format!("the outbox has not settled within {LIMIT:?}")));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Closes the pool. Workers and readers have sessions of their own and go on.
    pub fn close(&self) {
        self.pool.close();
    }
}

/// Checks that the extension is installed, in a version that this client supports.
pub(crate) async fn check_version(client: &impl GenericClient) -> Result<()> {
    let query = "select extversion from pg_catalog.pg_extension where extname = 'pg_outbox'";
    let rows = client.query_typed(query, &[]).await?;
    let Some(row) = rows.first() else {
        return Err(Error::new("3F000", "the extension pg_outbox is not in this database")
            .hint("Run \"create extension pg_outbox\" in this database."));
    };
    let version: String = row.try_get(0)?;
    let ours = env!("CARGO_PKG_VERSION");
    if series(&version) != series(ours) {
        return Err(Error::new("42883", format!("the extension is of version {version}"))
            .detail(format!("This client is of version {ours}, which works with {}.", series(ours).join(".")))
            .hint("Use a client of the extension's version, or \"alter extension pg_outbox update\"."));
    }
    Ok(())
}

/// Returns the part of a version that client and extension must have in common: the major version, and before 1.0 the
/// minor version too.
fn series(version: &str) -> Vec<&str> {
    let parts = version.split('.');
    parts.take(if version.starts_with("0.") { 2 } else { 1 }).collect()
}

/// The longest wait that a caller can ask for: 100 years, as PostgreSQL counts them. The server accepts it, and a sum with
/// the present time does not overflow.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(36_000 * 86_400);

/// The waits between attempts to reconnect. They double from 50 ms to 5 s, and up to half of each is subtracted at random.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(crate) fn next(&mut self) -> Duration {
        let most = 50u64.saturating_mul(1 << self.failures.min(10)).min(5_000);
        self.failures = self.failures.saturating_add(1);
        // The clock's nanoseconds are random enough to keep many clients from reconnecting at the same time.
        let noise = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |now| u64::from(now.subsec_nanos()) / 1000);
        Duration::from_millis(most / 2 + noise % (most / 2 + 1))
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Returns whether the same call may succeed later.
pub(crate) fn passes(error: &Error) -> bool {
    error.kind() == Kind::Retry
}
