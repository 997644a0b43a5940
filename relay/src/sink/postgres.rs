//! Another PostgreSQL with pg_outbox: a function of it handles each message exactly once.
//!
//! A batch is one transaction that calls the function for each message, and records the last position in `outbox.inbox`. A lock
//! of the transaction keeps another instance, or a commit of this one that is still under way, from handling the same messages
//! at the same time.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use pg_outbox::error::{Error, Kind};
use pg_outbox::tokio_postgres::types::{ToSql, Type};
use pg_outbox::tokio_postgres::{Client, Transaction};
use serde_json::{Map, Value};

use super::{Opened, Refused, Sent, Sink};
use crate::config::PostgresConfig;
use crate::record::{Binding, RELAY, Record, SOURCE};
use crate::source::{Place, target};

/// How long a statement may take. After this time, a transaction handles no further message.
const PATIENCE: Duration = Duration::from_secs(60);

/// The largest message. PostgreSQL takes values of 1 GB, in a message of the protocol with the others.
const LIMIT: usize = 512 * 1024 * 1024;

/// A function in a database.
#[derive(Debug)]
pub(super) struct PostgresSink {
    config: PostgresConfig,
    session: Option<Session>,
    refused: Refused,
    /// Whether each transaction handles one message, because the commit of several has failed.
    alone: bool,
}

#[derive(Debug)]
struct Session {
    client: Client,
    /// The statement that calls the function.
    call: String,
}

/// Why a batch was not handled.
enum End {
    /// The function failed for this record, and will fail again.
    Refused(usize, String),
    Retry(String),
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End::Retry(error.report())
    }
}

impl From<pg_outbox::tokio_postgres::Error> for End {
    fn from(error: pg_outbox::tokio_postgres::Error) -> End {
        Error::from(error).into()
    }
}

impl PostgresSink {
    pub(super) fn new(config: PostgresConfig) -> PostgresSink {
        PostgresSink { config, session: None, refused: Refused::default(), alone: false }
    }

    async fn connect(&self) -> Result<Session, Error> {
        let client = target(&self.config.dsn()?)?.connect().await?;
        let settings = format!(
            "set statement_timeout = {0}; set idle_in_transaction_session_timeout = {0}; set tcp_user_timeout = {0};
             set application_name = 'outbox-relay'",
            PATIENCE.as_millis()
        );
        client.batch_execute(&settings).await?;
        let found = client
            .query_typed(
                "select p.oid::regproc::text from pg_proc p
                 where p.oid = to_regprocedure($1 || '(text, text, jsonb, bytea)')",
                &[(&self.config.function, Type::TEXT)],
            )
            .await?;
        // The name comes from the catalogue, with its quotes.
        let name: String = found.first().map(|row| row.try_get(0)).transpose()?.ok_or_else(|| {
            Error::invalid(format!("function {}(text, text, jsonb, bytea) does not exist", self.config.function))
                .hint("Its arguments are topic, key, headers and body of a message.")
        })?;
        Ok(Session { client, call: format!("select {name}($1, $2, $3, $4)") })
    }

    /// Handles the records that the database has not handled yet, in a transaction: all, or as many as there is time for.
    /// Returns how many from the first on are handled.
    async fn handle(session: &mut Session, records: &[Record]) -> Result<usize, End> {
        let (Some(first), begun) = (records.first(), Instant::now()) else { return Ok(0) };
        let transaction = session.client.transaction().await?;
        let done = handled(&transaction, first).await?;
        let mut upto = 0;
        for record in records {
            if upto > 0 && begun.elapsed() > PATIENCE {
                break;
            }
            if record.place() > done {
                call(&transaction, &session.call, record).await.map_err(|error| refusal(upto, error))?;
            }
            upto += 1;
        }
        let last = &records[upto - 1];
        if last.place() > done {
            let params: [(&(dyn ToSql + Sync), Type); 4] = [
                (&last.header(SOURCE), Type::TEXT),
                (&last.position, Type::INT8),
                (&last.epoch, Type::INT4),
                (&last.header(RELAY), Type::TEXT),
            ];
            let rows = transaction
                .query_typed("select outbox.inbox_begin($1, $2, epoch => $3, stream => 'relay:' || $4)", &params)
                .await?;
            if rows.first().map(|row| row.try_get(0)).transpose()? != Some(true) {
                return Err(End::Retry("these messages were handled already".to_owned()));
            }
        }
        // Deferred constraints are checked now.
        transaction.commit().await.map_err(|error| refusal(upto - 1, error.into()))?;
        Ok(upto)
    }
}

/// Calls the function with a message.
async fn call(transaction: &Transaction<'_>, call: &str, record: &Record) -> Result<(), Error> {
    let headers: Map<String, Value> =
        record.headers.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    let headers = Value::Object(headers);
    let body: &[u8] = &record.body;
    let params: [(&(dyn ToSql + Sync), Type); 4] =
        [(&record.topic, Type::TEXT), (&record.key, Type::TEXT), (&headers, Type::JSONB), (&body, Type::BYTEA)];
    transaction.query_typed(call, &params).await?;
    Ok(())
}

/// Whether an error of the function concerns the message, or the state of the database.
fn refusal(index: usize, error: Error) -> End {
    let state = error.code();
    let of_database = ["42501", "42883", "42P01", "3F000"].contains(&state) || state.starts_with("58");
    if error.kind() == Kind::Retry || of_database {
        return End::Retry(error.report());
    }
    End::Refused(index, format!("{state}: {error}"))
}

/// Locks the position of the relay, and returns the last message that the database has handled.
async fn handled(transaction: &Transaction<'_>, record: &Record) -> Result<Place, End> {
    let params: [(&(dyn ToSql + Sync), Type); 2] =
        [(&record.header(SOURCE), Type::TEXT), (&record.header(RELAY), Type::TEXT)];
    // The next statement has a snapshot of its own, and sees the commit that the lock has waited for.
    let lock = "select pg_advisory_xact_lock(hashtextextended(format('pg_outbox relay %s %s', $1, $2), 0))";
    transaction.query_typed(lock, &params).await?;
    let rows = transaction
        .query_typed(
            "select i.epoch, i.position from outbox.inbox i where i.source = $1 and i.stream = 'relay:' || $2",
            &params,
        )
        .await?;
    match rows.first() {
        Some(row) => Ok(Place { epoch: row.try_get(0)?, position: row.try_get(1)? }),
        None => Ok(Place::default()),
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn binding(&self) -> Binding {
        Binding { prefix: "ce-", ascii: false, key_header: false }
    }

    fn describe(&self) -> String {
        format!("postgres function {}", self.config.function)
    }

    async fn open(&mut self) -> Result<Opened, String> {
        self.session = None;
        let session = tokio::time::timeout(PATIENCE, self.connect()).await;
        let session = session.map_err(|_| "the database did not answer in time".to_owned())?;
        self.session = Some(session.map_err(|error| error.report())?);
        Ok(Opened { limit: LIMIT, last: None })
    }

    fn refuses(&self, record: &Record) -> Option<String> {
        let too_large = || (record.size() > LIMIT).then(|| format!("the message has about {} bytes", record.size()));
        self.refused.reason(record).or_else(too_large)
    }

    async fn send(&mut self, records: &[Record]) -> Sent {
        let Some(session) = &mut self.session else { return Sent::retry(0, "not connected") };
        let records = if self.alone { records.get(..1).unwrap_or_default() } else { records };
        match tokio::time::timeout(PATIENCE * 3, PostgresSink::handle(session, records)).await {
            Ok(Ok(stored)) => {
                self.refused.forget();
                Sent { stored, failure: None }
            }
            Ok(Err(End::Refused(index, why))) => {
                // The transaction was rolled back. If it was the commit that failed, any of its messages may be the cause.
                match records.get(index) {
                    Some(record) if index + 1 < records.len() || records.len() == 1 => {
                        self.refused.remember(record, &why);
                        self.alone = false;
                    }
                    _ => self.alone = true,
                }
                Sent::retry(0, why)
            }
            Ok(Err(End::Retry(why))) => Sent::retry(0, why),
            Err(_) => Sent::retry(0, "the database did not answer in time"),
        }
    }
}
