//! The source: sessions in the database of the outbox.
//!
//! One session on the primary holds the lock of the relay and has the cursor and the heartbeat. Messages are read in the same
//! session, or on a standby. A session that is silent for some heartbeats is ended by the server, so that a relay that hangs
//! or whose host is gone loses its lock, and a stand-by takes over. A relay that has lost its lock without noticing cannot
//! move the cursor of its successor, because each advance names the position that it expects.

use std::sync::Arc;

use bytes::Bytes;
use outbox_core::message::{Extra, Message};
use pg_outbox::connect::Target;
use pg_outbox::error::{Error, Result};
use pg_outbox::tokio_postgres::types::{FromSql, ToSql, Type};
use pg_outbox::tokio_postgres::{Client, Row};
use serde_json::{Map, Value};

use crate::config::{RelayConfig, SourceConfig, Start};

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
    pub(crate) client: Arc<Client>,
    reader: Option<Client>,
    consumer: String,
    topics: Option<Vec<String>>,
    filter: Option<String>,
    batch: i32,
}

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

impl Source {
    pub(crate) fn new(source: &SourceConfig, settings: &RelayConfig) -> Result<Source> {
        Ok(Source {
            target: Target::parse(&source.dsn()?)?,
            read_target: source.read_dsn()?.map(|dsn| Target::parse(&dsn)).transpose()?,
            settings: settings.clone(),
            name: source.name.clone(),
        })
    }

    /// Opens the session and tries to get the lock. `None`: another instance of the relay has it.
    pub(crate) async fn acquire(&self) -> Result<Option<Active>> {
        let active = self.open().await?;
        let lock = format!("pg_outbox relay {}", self.settings.name);
        let row = active
            .client
            .query_typed("select pg_try_advisory_lock(hashtextextended($1, 0))", &[(&lock, Type::TEXT)])
            .await?;
        let locked = row.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(false);
        Ok(locked.then_some(active))
    }

    /// Opens the sessions without the lock.
    pub(crate) async fn open(&self) -> Result<Active> {
        let client = self.target.connect().await?;
        let silence = (self.settings.heartbeat() * 3).as_millis();
        client
            .batch_execute(&format!(
                "set idle_session_timeout = {silence}; set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2;
                 set tcp_keepalives_count = 3; set statement_timeout = '60s'; set application_name = 'outbox-relay {}'",
                self.settings.name
            ))
            .await?;
        let reader = match &self.read_target {
            Some(target) => Some(target.connect().await?),
            None => None,
        };
        Ok(Active {
            client: Arc::new(client),
            reader,
            consumer: self.settings.consumer(),
            topics: self.settings.topics.clone(),
            filter: self.settings.filter.as_ref().map(Value::to_string),
            batch: self.settings.batch,
        })
    }

    /// Returns the source that the messages are marked with.
    pub(crate) async fn name(&self, active: &Active) -> Result<String> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let rows = active
            .client
            .query_typed("select current_database()::text, (select system_identifier from pg_control_system())", &[])
            .await?;
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
    fn reader(&self) -> &Client {
        self.reader.as_ref().unwrap_or(&self.client)
    }

    /// Returns whether both sessions are still open.
    pub(crate) fn is_open(&self) -> bool {
        !self.client.is_closed() && self.reader.as_ref().is_none_or(|reader| !reader.is_closed())
    }

    pub(crate) async fn cursor(&self) -> Result<Option<Cursor>> {
        let rows = self
            .client
            .query_typed(
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
        let rows = self.reader().query_typed("select outbox.head()", &[]).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(0))
    }

    /// Reads the messages after a position.
    pub(crate) async fn read(&self, after: i64, epoch: Option<i32>) -> Result<Read> {
        let head = self.head().await?;
        // A head before the position means that history was lost; the function then raises the error.
        if head == after {
            return Ok(Read { messages: Vec::new(), looked_at: after });
        }
        let params: [(&(dyn ToSql + Sync), Type); 5] = [
            (&after, Type::INT8),
            (&self.batch, Type::INT4),
            (&self.topics, Type::TEXT_ARRAY),
            (&self.filter, Type::TEXT),
            (&epoch, Type::INT4),
        ];
        let rows =
            self.reader().query_typed("select r.* from outbox.read($1, $2, $3, $4::jsonb, $5) r", &params).await?;
        let mut read = Read { messages: Vec::with_capacity(rows.len()), looked_at: after };
        for row in &rows {
            read.looked_at = row.try_get("position")?;
            // A row without a message only says after which position to continue.
            if row.try_get::<_, Option<i64>>("message_id")?.is_some() {
                read.messages.push((message(row)?, row.try_get("epoch")?));
            }
        }
        // One call looks at 10,000 positions at least: none that matches was left out.
        if rows.len() < self.batch.unsigned_abs() as usize && head - after <= 10_000 {
            read.looked_at = read.looked_at.max(head);
        }
        Ok(read)
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
        let params: [(&(dyn ToSql + Sync), Type); 5] = [
            (&self.consumer, Type::TEXT),
            (&to, Type::INT8),
            (&id, Type::TEXT),
            (&expected, Type::INT8),
            (&epoch, Type::INT4),
        ];
        let rows = self.client.query_typed(sql, &params).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?.flatten())
    }

    /// Records that the relay goes on without a message.
    pub(crate) async fn record_refusal(&self, relay: &str, message: &Message, action: &str, why: &str) -> Result<()> {
        let params: [(&(dyn ToSql + Sync), Type); 5] = [
            (&relay, Type::TEXT),
            (&message.position, Type::INT8),
            (&&*message.webhook_id, Type::TEXT),
            (&action, Type::TEXT),
            (&why, Type::TEXT),
        ];
        self.client.query_typed("select 1 from outbox.relay_record_refusal($1, $2, $3, $4, $5)", &params).await?;
        Ok(())
    }
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

fn message(row: &Row) -> Result<Message> {
    let text = |name: &str| -> Result<Option<Box<str>>> { Ok(row.try_get::<_, Option<String>>(name)?.map(Into::into)) };
    let micros = |name: &str| -> Result<Option<i64>> {
        Ok(row
            .try_get::<_, Option<pg_outbox::chrono::DateTime<pg_outbox::chrono::Utc>>>(name)?
            .map(|at| at.timestamp_micros()))
    };
    let object = |name: &str| -> Result<Option<Map<String, Value>>> {
        Ok(match row.try_get::<_, Option<Value>>(name)? {
            Some(Value::Object(map)) if !map.is_empty() => Some(map),
            _ => None,
        })
    };
    let content = match row.try_get::<_, Option<JsonText>>("payload")? {
        Some(json) => Bytes::from(json.0),
        None => Bytes::from(row.try_get::<_, Option<Vec<u8>>>("body")?.unwrap_or_default()),
    };
    let extra = Extra {
        headers: object("headers")?.map(Arc::new),
        metadata: object("metadata")?,
        tenant: text("tenant")?,
        aggregate_type: text("aggregate_type")?,
        aggregate_id: text("aggregate_id")?,
        publisher: text("publisher")?,
        idempotency_key: text("idempotency_key")?,
        occurred_at: micros("occurred_at")?,
        // A relay reads messages, which have neither version nor event id.
        ..Extra::default()
    };
    Ok(Message {
        id: row.try_get("message_id")?,
        position: row.try_get("position")?,
        enqueued_at: micros("enqueued_at")?.unwrap_or_default(),
        topic: text("topic")?.unwrap_or_default(),
        key: text("key")?,
        content,
        content_type: text("content_type")?,
        webhook_id: text("webhook_id")?.unwrap_or_default(),
        extra: (extra != Extra::default()).then(|| Box::new(extra)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_epoch_is_later() {
        assert!(Place { epoch: 2, position: 1 } > Place { epoch: 1, position: 900 });
        assert!(Place { epoch: 1, position: 2 } > Place { epoch: 1, position: 1 });
    }
}
