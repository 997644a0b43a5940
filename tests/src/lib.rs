//! Helpers that all tiers of tests share.
//!
//! Each test program has one server, and each test has a database of its own. Tests run side by side and do not see one
//! another.

use std::collections::BTreeMap;
use std::time::Duration;

use outbox_harness::tokio_postgres::error::DbError;
use outbox_harness::tokio_postgres::{Client, Error, Row, SimpleQueryMessage};
use outbox_harness::{Server, wait_until};
use tokio::sync::OnceCell;

pub use outbox_harness;

/// The longest wait for an event that normally takes milliseconds. It is long because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Returns the server of this test program, with the extension preloaded.
pub async fn server() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER
        .get_or_init(async || {
            Server::start(&[("pg_outbox.poll_interval", "1s"), ("max_worker_processes", "60")]).await.expect("a server")
        })
        .await
}

/// Returns the server of this test program without the library preloaded, on which only the test itself ticks.
pub async fn bare_server() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER.get_or_init(async || Server::start_plain(&[]).await.expect("a server")).await
}

/// Waits until all committed messages have been routed, sent and recorded.
pub async fn settle(db: &Client) {
    wait_until("the outbox has nothing to do", PATIENCE, async || {
        let row = db.query_one("select idle from outbox_internal.worker_slot()", &[]).await;
        row.is_ok_and(|row| row.get::<_, Option<bool>>(0).unwrap_or(false))
    })
    .await;
}

/// Returns the value of a query with one row and one column.
pub async fn one<T>(db: &Client, query: &str) -> T
where
    T: for<'a> outbox_harness::tokio_postgres::types::FromSql<'a>,
{
    let row: Row = db.query_one(query, &[]).await.unwrap_or_else(|e| panic!("{query}: {}", explain(&e)));
    row.get(0)
}

/// Runs a statement that must fail, and returns its error.
pub async fn refused(db: &Client, statement: &str) -> DbError {
    match db.simple_query(statement).await {
        Ok(_) => panic!("not refused: {statement}"),
        Err(error) => error.as_db_error().unwrap_or_else(|| panic!("{statement}: {error}")).clone(),
    }
}

/// Formats an error with all its fields from PostgreSQL.
pub fn explain(error: &Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |e| format!("{e:?}"))
}

/// Runs a simple query and returns its rows as maps of column names to text.
pub async fn rows(db: &Client, query: &str) -> Vec<BTreeMap<String, Option<String>>> {
    let messages = db.simple_query(query).await.unwrap_or_else(|e| panic!("{query}: {}", explain(&e)));
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                row.columns()
                    .iter()
                    .enumerate()
                    .map(|(i, column)| (column.name().to_owned(), row.get(i).map(str::to_owned)))
                    .collect(),
            ),
            _ => None,
        })
        .collect()
}
