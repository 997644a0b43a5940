//! Two sessions, of which the second waits for the first.

use std::time::Duration;

use outbox_tests::outbox_harness::tokio_postgres::Client;
use outbox_tests::outbox_harness::wait_until;
use outbox_tests::{PATIENCE, bare_server, explain, one};

/// Two sessions and an observer in a database of their own.
pub(crate) struct Pair {
    pub(crate) first: Client,
    pub(crate) second: Client,
    pub(crate) second_pid: i32,
    pub(crate) watcher: Client,
}

impl Pair {
    pub(crate) async fn new(database: &str) -> Pair {
        let server = bare_server().await;
        let watcher = server.database(database).await.unwrap();
        let first = server.connect(database).await.unwrap();
        let second = server.connect(database).await.unwrap();
        let second_pid = one(&second, "select pg_backend_pid()").await;
        Pair { first, second, second_pid, watcher }
    }

    /// Runs `query` in the second session while the transaction of the first is open. Ends the first with `end` once the
    /// second waits for it, and returns the result of the second: its value as text, or its SQLSTATE.
    pub(crate) async fn second_waits(&self, query: &str, end: &str) -> String {
        let waiting = async {
            wait_until("the second session waits for the first", PATIENCE, async || {
                one(&self.watcher, &format!("select cardinality(pg_blocking_pids({})) > 0", self.second_pid)).await
            })
            .await;
            self.first.batch_execute(end).await.unwrap();
        };
        let (result, ()) = tokio::join!(self.result(query), waiting);
        result
    }

    pub(crate) async fn result(&self, query: &str) -> String {
        let answer = tokio::time::timeout(PATIENCE + Duration::from_secs(10), self.second.query_one(query, &[])).await;
        match answer.expect("the second session goes on") {
            Ok(row) => row.get::<_, Option<String>>(0).unwrap_or_else(|| "null".to_owned()),
            Err(error) => error.code().map_or_else(|| explain(&error), |code| code.code().to_owned()),
        }
    }
}
