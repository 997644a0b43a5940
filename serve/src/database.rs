//! The database: a small pool, transactions that end in time, and the rights of the role.
//!
//! A page is one read-only transaction with a timeout for each statement. A session whose server does not answer is
//! closed, because its answer could come later and would be taken for that of another statement.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use pg_outbox::call;
use pg_outbox::connect::Target;
use pg_outbox::error::{Error, Result};
use pg_outbox::outbox::{Outbox, Session};
use pg_outbox::tokio_postgres::types::{ToSql, Type};

use crate::own::Own;

/// The sessions of the pool.
const SESSIONS: usize = 4;

/// The longest wait for a session or the answer to a statement. It is longer than the server's own timeouts.
const PATIENCE: Duration = Duration::from_secs(10);

/// A page reads in a snapshot of its own. Each of its queries has an index or a limit, whatever the statistics of a young
/// table say.
const READ: &str =
    "begin read only; set local statement_timeout = '5s'; set local lock_timeout = '2s'; set local timezone = 'UTC';
    set local jit = off";
const WRITE: &str =
    "begin; set local statement_timeout = '8s'; set local lock_timeout = '3s'; set local timezone = 'UTC';
    set local idle_in_transaction_session_timeout = '60s'";

#[derive(Debug)]
pub(crate) struct Database {
    outbox: Outbox,
    /// A session of its own for the probe, so that slow pages do not make this program look dead.
    probe: Outbox,
    own: Arc<Own>,
}

impl Database {
    pub(crate) fn new(target: Target, own: Arc<Own>) -> Result<Database> {
        let probe = Outbox::with_target(target.clone(), 1)?;
        Ok(Database { outbox: Outbox::with_target(target, SESSIONS)?, probe, own })
    }

    /// Begins the transaction of a page.
    pub(crate) async fn read(&self) -> Result<Work> {
        self.begin(READ, false).await
    }

    /// Begins the transaction of an action.
    pub(crate) async fn write(&self) -> Result<Work> {
        self.begin(WRITE, true).await
    }

    async fn begin(&self, how: &str, writes: bool) -> Result<Work> {
        let started = Instant::now();
        let session = in_time(self.outbox.session()).await;
        self.own.sessions.add(started.elapsed());
        let work = Work { session: Some(session?), own: self.own.clone(), writes };
        work.timed(async { Ok(work.session()?.batch_execute(how).await?) }).await?;
        Ok(work)
    }

    /// Checks that the database has an outbox that this program supports.
    pub(crate) async fn check(&self) -> Result<()> {
        in_time(self.probe.check()).await
    }
}

/// A transaction. A `Work` that is dropped without [`Work::end`] closes its session.
#[derive(Debug)]
pub(crate) struct Work {
    session: Option<Session>,
    own: Arc<Own>,
    writes: bool,
}

impl Work {
    fn session(&self) -> Result<&Session> {
        self.session.as_ref().ok_or_else(|| Error::connection("the session is closed"))
    }

    /// Waits for the answer to a statement, not for ever, and adds its time to the figures.
    async fn timed<T>(&self, statement: impl Future<Output = Result<T>>) -> Result<T> {
        let started = Instant::now();
        let result = in_time(statement).await;
        let durations = if self.writes { &self.own.writes } else { &self.own.reads };
        durations.add(started.elapsed());
        result
    }

    /// Returns the rows of a query as objects. Its parameters are texts or null.
    pub(crate) async fn query(&self, sql: &str, params: &[Option<&str>]) -> Result<Vec<Value>> {
        if params.iter().flatten().any(|param| param.contains('\0')) {
            return Err(Error::invalid("a text contains a NUL character"));
        }
        let sql = format!("select to_jsonb(q) from ({sql}) q");
        let params: Vec<(&(dyn ToSql + Sync), Type)> = params.iter().map(|param| (param as _, Type::TEXT)).collect();
        let rows = self.timed(async { Ok(self.session()?.query_typed(&sql, &params).await?) }).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Returns the only row of a query, or null.
    pub(crate) async fn one(&self, sql: &str, params: &[Option<&str>]) -> Result<Value> {
        Ok(self.query(sql, params).await?.into_iter().next().unwrap_or(Value::Null))
    }

    /// Calls a function of the schema.
    pub(crate) async fn call(&self, function: &str, args: Value) -> Result<Vec<Value>> {
        self.timed(call::call(&***self.session()?, function, args, &[])).await
    }

    /// Changes settings of the planner for the rest of the transaction: only plans that follow an index and stop at a
    /// limit.
    pub(crate) async fn follow_indexes(&self) -> Result<()> {
        let settings = "set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off";
        self.timed(async { Ok(self.session()?.batch_execute(settings).await?) }).await
    }

    /// Returns the role of the session and what it may use.
    pub(crate) async fn rights(&self) -> Result<Rights> {
        let row = self.one(RIGHTS, &[]).await?;
        let list = |name: &str| -> BTreeSet<String> {
            row[name].as_array().into_iter().flatten().filter_map(|value| Some(value.as_str()?.to_owned())).collect()
        };
        Ok(Rights {
            role: row["role"].as_str().unwrap_or_default().to_owned(),
            database: row["database"].as_str().unwrap_or_default().to_owned(),
            functions: list("functions"),
            relations: list("relations"),
        })
    }

    /// Ends the transaction: it is committed if the result is one, and rolled back if it is an error.
    pub(crate) async fn end<T>(mut self, result: Result<T>) -> Result<T> {
        let how = if result.is_ok() { "commit" } else { "rollback" };
        let ended = self.timed(async { Ok(self.session()?.batch_execute(how).await?) }).await;
        if ended.is_ok() {
            drop(self.session.take());
        }
        let value = result?;
        ended.map(|()| value)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            drop(Session::take(session));
        }
    }
}

/// The functions that the role may call and the relations that it may read. Nothing else decides on what is shown.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    pub(crate) role: String,
    pub(crate) database: String,
    functions: BTreeSet<String>,
    relations: BTreeSet<String>,
}

impl Rights {
    pub(crate) fn may_call(&self, function: &str) -> bool {
        self.functions.contains(function)
    }

    pub(crate) fn may_read(&self, relation: &str) -> bool {
        self.relations.contains(relation)
    }
}

const RIGHTS: &str = "
    select current_user::text as role, current_database()::text as database,
        array(select distinct p.proname::text from pg_catalog.pg_proc p
            where p.pronamespace = n.oid and n.used and has_function_privilege(p.oid, 'execute')) as functions,
        array(select c.relname::text from pg_catalog.pg_class c
            where c.relnamespace = n.oid and n.used and c.relkind in ('r', 'p', 'v') and has_table_privilege(c.oid,
                'select'))
            as relations
    from (
        select s.oid, has_schema_privilege(s.oid, 'usage') as used from pg_catalog.pg_namespace s where s.nspname = 'outbox'
        union all
        select null, false
        limit 1
    ) n";

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::connection("the database does not answer")
            .detail(format!("It was asked {} seconds ago.", PATIENCE.as_secs()))),
    }
}

/// Returns an object of arguments; fields without a value are left out.
pub(crate) fn arguments<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    let given = fields.into_iter().filter(|(_, value)| !value.is_empty());
    given.map(|(name, value)| (name.to_owned(), json!(value))).collect::<serde_json::Map<_, _>>().into()
}
