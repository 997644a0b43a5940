//! The source: sessions in the database of the outbox.
//!
//! One session on the primary holds the lock of the relay and has the cursor and the heartbeat. Messages are read in the
//! same session, or on a standby. A session that is silent for some heartbeats is ended by the server, so that a relay that
//! hangs or whose host is gone loses its lock, and a stand-by takes over. A relay that has lost its lock without noticing
//! cannot move the cursor of its successor, because each advance names the position that it expects. Every statement has a
//! limit, in the server and here, so that neither a server that hangs nor a network that is cut holds the relay for ever.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use outbox_core::message::{Extra, Message};
use pg_outbox::connect::Target;
use pg_outbox::error::{Error, Result};
use pg_outbox::page::Page;
use pg_outbox::tokio_postgres::types::{FromSql, ToSql, Type};
use pg_outbox::tokio_postgres::{Client, Row};
use serde_json::{Map, Value};

use crate::config::{Kinds, RelayConfig, SourceConfig, Start};

/// The limit for a statement in the server, in seconds.
const STATEMENT: u64 = 30;

/// The messages of a read, unless a batch has more.
const PAGE: i32 = 2000;

/// How long the answer to a statement is waited for. The server's own limit is shorter.
const PATIENCE: Duration = Duration::from_secs(STATEMENT + 10);

/// How long sent data may stay unacknowledged before a connection counts as lost, unless the connection string says so.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// The feed and the cursor of one relay.
#[derive(Debug)]
pub(crate) struct Source {
    target: Target,
    read_target: Option<Target>,
    settings: RelayConfig,
    name: Option<String>,
}

/// A session that holds the relay's lock.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) session: Session,
    reader: Option<Session>,
    consumer: String,
    topics: Option<Vec<String>>,
    filter: Option<String>,
    page: Mutex<Page>,
    kinds: Kinds,
}

/// A session whose statements have a time limit. It is cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Session(Arc<Client>);

/// A parameter and its type.
type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// A position in the history of a feed. A later epoch is later, whatever the position is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) epoch: i32,
    pub(crate) position: i64,
}

/// Where the relay's cursor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) position: i64,
    pub(crate) epoch: Option<i32>,
    /// Whether the relay moved it there, or has not begun, and no operator has reset it.
    pub(crate) own: bool,
}

/// The result of a read.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) messages: Vec<(Message, i32)>,
    /// The position up to which the feed has been looked at.
    pub(crate) looked_at: i64,
}

impl Place {
    /// Returns the epoch, if it is known.
    pub(crate) fn known_epoch(self) -> Option<i32> {
        (self.epoch > 0).then_some(self.epoch)
    }
}

impl Cursor {
    pub(crate) fn place(self) -> Place {
        Place { epoch: self.epoch.unwrap_or_default(), position: self.position }
    }
}

impl Read {
    /// Leaves out what comes after a position.
    pub(crate) fn end_at(&mut self, position: i64) {
        self.messages.retain(|(message, _)| message.position <= position);
        self.looked_at = self.looked_at.min(position);
    }
}

impl Source {
    pub(crate) fn new(source: &SourceConfig, settings: &RelayConfig) -> Result<Source> {
        Ok(Source {
            target: target(&source.dsn()?)?,
            read_target: source.read_dsn()?.map(|dsn| target(&dsn)).transpose()?,
            settings: settings.clone(),
            name: source.name.clone(),
        })
    }

    /// Opens the session and tries to get the lock. `None`: another instance of the relay has it.
    pub(crate) async fn acquire(&self) -> Result<Option<Active>> {
        let active = self.open().await?;
        let lock = format!("pg_outbox relay {}", self.settings.name);
        let sql = "select pg_try_advisory_lock(hashtextextended($1, 0))";
        let rows = active.session.query(sql, &[(&lock, Type::TEXT)]).await?;
        let locked = rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(false);
        Ok(locked.then_some(active))
    }

    /// Opens the sessions without the lock.
    pub(crate) async fn open(&self) -> Result<Active> {
        let silence = (self.settings.heartbeat() * 3).as_millis();
        let session = self.connect(&self.target).await?;
        session.run(&format!("set idle_session_timeout = {silence}; set tcp_user_timeout = {silence}")).await?;
        let reader = match &self.read_target {
            Some(target) => Some(self.connect(target).await?),
            None => None,
        };
        Ok(Active {
            session,
            reader,
            consumer: self.settings.consumer(),
            topics: self.settings.topics.clone(),
            filter: self.settings.filter.as_ref().map(Value::to_string),
            page: Mutex::new(Page::new(self.settings.batch.max(PAGE))),
            kinds: self.settings.source,
        })
    }

    async fn connect(&self, target: &Target) -> Result<Session> {
        let session = Session(Arc::new(target.connect().await?));
        let name = &self.settings.name;
        let settings = format!(
            "set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 3;
             set statement_timeout = '{STATEMENT}s'; set application_name = 'outbox-relay {name}'"
        );
        session.run(&settings).await?;
        Ok(session)
    }

    /// Returns the source that the messages are marked with.
    pub(crate) async fn name(&self, active: &Active) -> Result<String> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let sql = "select current_database()::text, (select system_identifier from pg_control_system())";
        let rows = active.session.query(sql, &[]).await?;
        let row = rows.first().ok_or_else(|| Error::new("XX000", "no row"))?;
        let (database, system): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        Ok(outbox_core::format::default_source(system.cast_unsigned(), &database))
    }

    /// Returns the relay's cursor. A relay without a cursor gets one where it is to begin.
    pub(crate) async fn cursor(&self, active: &Active) -> Result<Cursor> {
        if let Some(cursor) = active.cursor().await? {
            return Ok(cursor);
        }
        if self.settings.start == Start::End {
            let head = active.head().await?;
            if head > 0 {
                active.advance(None, head, None, &format!("start:{head}")).await?;
            }
            return Ok(active.cursor().await?.unwrap_or(Cursor { position: 0, epoch: None, own: true }));
        }
        Ok(Cursor { position: 0, epoch: None, own: true })
    }
}

impl Active {
    fn reader(&self) -> &Session {
        self.reader.as_ref().unwrap_or(&self.session)
    }

    /// Returns whether both sessions are still open.
    pub(crate) fn is_open(&self) -> bool {
        !self.session.is_closed() && self.reader.as_ref().is_none_or(|reader| !reader.is_closed())
    }

    pub(crate) async fn cursor(&self) -> Result<Option<Cursor>> {
        let rows = self
            .session
            .query(
                "select c.position, c.epoch, c.last_delivery_id is not null
                 from outbox.cursor_get($1, if_missing => -1) c",
                &[(&self.consumer, Type::TEXT)],
            )
            .await?;
        let row = rows.first().ok_or_else(|| Error::new("XX000", "no row"))?;
        let cursor = Cursor { position: row.try_get(0)?, epoch: row.try_get(1)?, own: row.try_get(2)? };
        Ok((cursor.position >= 0).then_some(cursor))
    }

    /// Returns the end of the feed where messages are read.
    pub(crate) async fn head(&self) -> Result<i64> {
        let rows = self.reader().query("select outbox.head()", &[]).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(0))
    }

    /// Reads the messages after a position.
    pub(crate) async fn read(&self, at: Place) -> Result<Read> {
        let (after, epoch) = (at.position, at.known_epoch());
        let head = self.head().await?;
        // A head before the position means that history was lost; the function then raises the error.
        if head == after {
            return Ok(Read { messages: Vec::new(), looked_at: after });
        }
        // The size of a page is learned, so it is kept between reads.
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asked = page.rows();
        let params: [Param<'_>; 6] = [
            (&after, Type::INT8),
            (&asked, Type::INT4),
            (&self.topics, Type::TEXT_ARRAY),
            (&self.filter, Type::TEXT),
            (&epoch, Type::INT4),
            (&self.kinds.name(), Type::TEXT),
        ];
        let sql = "select r.\"position\", r.epoch, r.message_id, r.webhook_id, r.topic, r.key, r.payload, r.body,
                r.content_type, r.headers, r.metadata, r.tenant, r.aggregate_type, r.aggregate_id, r.publisher,
                r.idempotency_key, r.enqueued_at, r.occurred_at, r.version, r.event_id::text
            from outbox.read($1, $2, $3, $4::jsonb, $5, $6) r";
        let (rows, is_whole) = within(page.read(&self.reader().0, sql, &params)).await?;
        *self.page.lock().unwrap_or_else(PoisonError::into_inner) = page;
        let mut read = Read { messages: Vec::with_capacity(rows.len()), looked_at: after };
        for row in &rows {
            read.looked_at = row.try_get(0)?;
            // A row without a message only says after which position to continue.
            if row.try_get::<_, Option<i64>>(2)?.is_some() {
                read.messages.push((message(row)?, row.try_get(1)?));
            }
        }
        // One call looks at 10,000 positions at least: none that matches was left out.
        if is_whole && rows.len() < asked.unsigned_abs() as usize && head - after <= 10_000 {
            read.looked_at = read.looked_at.max(head);
        }
        Ok(read)
    }

    /// Returns whether the feed has this message at this place.
    pub(crate) async fn has(&self, place: Place, webhook_id: &str) -> Result<bool> {
        let sql = "select r.epoch, r.webhook_id from outbox.read($1, 1, source => 'all') r where r.\"position\" = $2";
        let before = place.position.saturating_sub(1);
        let rows = self.reader().query(sql, &[(&before, Type::INT8), (&place.position, Type::INT8)]).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        Ok(row.try_get::<_, Option<i32>>(0)? == Some(place.epoch)
            && row.try_get::<_, Option<&str>>(1)? == Some(webhook_id))
    }

    /// Moves the cursor from `expected` (`None`: wherever it is) to `to`, and returns the epoch of its new position.
    pub(crate) async fn advance(
        &self,
        expected: Option<i64>,
        to: i64,
        epoch: Option<i32>,
        id: &str,
    ) -> Result<Option<i32>> {
        let sql = "select c.epoch from outbox.cursor_advance($1, $2, delivery_id => $3, expected_position => $4,
            epoch => $5) c";
        let params: [Param<'_>; 5] = [
            (&self.consumer, Type::TEXT),
            (&to, Type::INT8),
            (&id, Type::TEXT),
            (&expected, Type::INT8),
            (&epoch, Type::INT4),
        ];
        let rows = self.session.query(sql, &params).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?.flatten())
    }

    /// Records that the relay goes on without a message.
    pub(crate) async fn record_refusal(&self, relay: &str, message: &Message, action: &str, why: &str) -> Result<()> {
        let params: [Param<'_>; 5] = [
            (&relay, Type::TEXT),
            (&message.position, Type::INT8),
            (&&*message.webhook_id, Type::TEXT),
            (&action, Type::TEXT),
            (&why, Type::TEXT),
        ];
        self.session.query("select 1 from outbox.relay_record_refusal($1, $2, $3, $4, $5)", &params).await?;
        Ok(())
    }
}

impl Session {
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    pub(crate) async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        within(async { Ok(self.0.query_typed(sql, params).await?) }).await
    }

    async fn run(&self, sql: &str) -> Result<()> {
        within(async { Ok(self.0.batch_execute(sql).await?) }).await
    }
}

/// Waits for an answer of PostgreSQL, and not for ever.
async fn within<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::connection(format!("PostgreSQL has not answered for {} s", PATIENCE.as_secs()))),
    }
}

/// Reads a connection string. A connection whose data stay unacknowledged counts as lost.
pub(crate) fn target(dsn: &str) -> Result<Target> {
    let mut target = Target::parse(dsn)?;
    if target.config.get_tcp_user_timeout().is_none() {
        target.config.tcp_user_timeout(UNACKNOWLEDGED);
    }
    Ok(target)
}

/// JSON as text, so that numbers keep all their digits.
struct JsonText(String);

impl<'a> FromSql<'a> for JsonText {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        // The binary form of jsonb is a version byte followed by the text.
        let text = if *ty == Type::JSONB { raw.get(1..).unwrap_or_default() } else { raw };
        Ok(JsonText(std::str::from_utf8(text)?.to_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::JSON | Type::JSONB)
    }
}

/// Makes the message of a row of `Active::read`. Columns have numbers, because a name is searched among all of them.
fn message(row: &Row) -> Result<Message> {
    let text =
        |column: usize| -> Result<Option<Box<str>>> { Ok(row.try_get::<_, Option<String>>(column)?.map(Into::into)) };
    let micros = |column: usize| -> Result<Option<i64>> {
        Ok(row
            .try_get::<_, Option<pg_outbox::chrono::DateTime<pg_outbox::chrono::Utc>>>(column)?
            .map(|at| at.timestamp_micros()))
    };
    let object = |column: usize| -> Result<Option<Map<String, Value>>> {
        Ok(match row.try_get::<_, Option<Value>>(column)? {
            Some(Value::Object(map)) if !map.is_empty() => Some(map),
            _ => None,
        })
    };
    let content = match row.try_get::<_, Option<JsonText>>(6)? {
        Some(json) => Bytes::from(json.0),
        None => Bytes::from(row.try_get::<_, Option<Vec<u8>>>(7)?.unwrap_or_default()),
    };
    let extra = Extra {
        headers: object(9)?.map(Arc::new),
        metadata: object(10)?,
        tenant: text(11)?,
        aggregate_type: text(12)?,
        aggregate_id: text(13)?,
        publisher: text(14)?,
        idempotency_key: text(15)?,
        occurred_at: micros(17)?,
        version: row.try_get(18)?,
        event_id: text(19)?,
    };
    Ok(Message {
        id: row.try_get(2)?,
        position: row.try_get(0)?,
        enqueued_at: micros(16)?.unwrap_or_default(),
        topic: text(4)?.unwrap_or_default(),
        key: text(5)?,
        content,
        content_type: text(8)?,
        webhook_id: text(3)?.unwrap_or_default(),
        extra: (extra != Extra::default()).then(|| Box::new(extra)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_ends_at_a_position() {
        let message = |position: i64| (Message { position, ..Message::default() }, 1);
        let mut read = Read { messages: vec![message(4), message(7), message(9)], looked_at: 12 };
        read.end_at(8);
        assert_eq!((read.messages.last().map(|(last, _)| last.position), read.looked_at), (Some(7), 8));
    }

    #[test]
    fn a_later_epoch_is_later() {
        assert!(Place { epoch: 2, position: 1 } > Place { epoch: 1, position: 900 });
        assert!(Place { epoch: 1, position: 2 } > Place { epoch: 1, position: 1 });
    }
}
