//! Another PostgreSQL with pg_outbox: a function of it handles each message exactly once.
//!
//! A batch is one transaction that calls the function for each message, and records the last position in `outbox.inbox`. An
//! instance that was replaced finds the position there, and its transaction fails.

use std::time::Duration;

use async_trait::async_trait;
use pg_outbox::connect::Target;
use pg_outbox::error::{Error, Kind};
use pg_outbox::tokio_postgres::types::{ToSql, Type};
use pg_outbox::tokio_postgres::{Client, Transaction};
use serde_json::{Map, Value};

use super::{Failure, Opened, Sent, Sink};
use crate::config::PostgresConfig;
use crate::record::{Binding, RELAY, Record, SOURCE};
use crate::source::Place;

/// How long a transaction may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The largest message. PostgreSQL takes values of 1 GB, in a message of the protocol with the others.
const LIMIT: usize = 512 * 1024 * 1024;

/// A function in a database.
#[derive(Debug)]
pub(super) struct PostgresSink {
    config: PostgresConfig,
    session: Option<Session>,
    /// The record that made the last transaction fail: its id and the reason.
    refused: Option<(String, String)>,
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
        PostgresSink { config, session: None, refused: None }
    }

    async fn connect(&self) -> Result<Session, Error> {
        let client = Target::parse(&self.config.dsn()?)?.connect().await?;
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

    /// Handles the records that the database has not handled yet, in a transaction.
    async fn handle(session: &mut Session, records: &[Record]) -> Result<(), End> {
        let Some(last) = records.last() else { return Ok(()) };
        let transaction = session.client.transaction().await?;
        let done = handled(&transaction, last).await?;
        for (i, record) in records.iter().enumerate() {
            if (Place { epoch: record.epoch, position: record.position }) <= done {
                continue;
            }
            let headers: Map<String, Value> =
                record.headers.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
            let headers = Value::Object(headers);
            let body: &[u8] = &record.body;
            let params: [(&(dyn ToSql + Sync), Type); 4] =
                [(&record.topic, Type::TEXT), (&record.key, Type::TEXT), (&headers, Type::JSONB), (&body, Type::BYTEA)];
            if let Err(error) = transaction.query_typed(&session.call, &params).await {
                let error = Error::from(error);
                return Err(match error.kind() {
                    Kind::Retry => End::Retry(error.report()),
                    _ => End::Refused(i, format!("{}: {error}", error.code())),
                });
            }
        }
        if (Place { epoch: last.epoch, position: last.position }) > done {
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
                return Err(End::Retry("another instance of the relay has handled these messages".to_owned()));
            }
        }
        Ok(transaction.commit().await?)
    }
}

/// Returns the last message that the database has handled.
async fn handled(transaction: &Transaction<'_>, record: &Record) -> Result<Place, End> {
    let params: [(&(dyn ToSql + Sync), Type); 2] =
        [(&record.header(SOURCE), Type::TEXT), (&record.header(RELAY), Type::TEXT)];
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
        self.session = Some(self.connect().await.map_err(|error| error.report())?);
        Ok(Opened { limit: LIMIT, last: None })
    }

    fn refuses(&self, record: &Record) -> Option<String> {
        match &self.refused {
            Some((id, why)) if *id == record.webhook_id => Some(why.clone()),
            _ => (record.size() > LIMIT).then(|| format!("the message has about {} bytes", record.size())),
        }
    }

    async fn send(&mut self, records: &[Record]) -> Sent {
        let Some(session) = &mut self.session else { return Sent::retry(0, "not connected") };
        match tokio::time::timeout(PATIENCE * 2, PostgresSink::handle(session, records)).await {
            Ok(Ok(())) => {
                self.refused = None;
                Sent::all(records)
            }
            Ok(Err(End::Refused(i, why))) => {
                // The transaction was rolled back. The next one ends before this record.
                self.refused = records.get(i).map(|record| (record.webhook_id.clone(), why.clone()));
                Sent { stored: 0, failure: Some(Failure::Retry(why)) }
            }
            Ok(Err(End::Retry(why))) => Sent::retry(0, why),
            Err(_) => Sent::retry(0, "the database did not answer in time"),
        }
    }
}
