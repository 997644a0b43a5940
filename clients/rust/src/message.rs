//! Messages: [`NewMessage`] builds a message to enqueue, [`Message`] is a message that was read or claimed.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use chrono::{DateTime, Utc};
use outbox_core::stream::{category, key};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_postgres::Row;
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::driver::{Executor, Statement, text};
use crate::error::{Error, Result};
use crate::trace::inject;

/// One value of a plain statement: text or bytes. Casts in the statement give the value its type, so every driver can
/// send it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Param {
    /// Sent as `text`.
    Text(String),
    /// Sent as `bytea`.
    Bytes(Vec<u8>),
}

impl ToSql for Param {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Param::Text(text) => out.extend_from_slice(text.as_bytes()),
            Param::Bytes(bytes) => out.extend_from_slice(bytes),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self {
            Param::Text(_) => Format::Text,
            Param::Bytes(_) => Format::Binary,
        }
    }

    to_sql_checked!();
}

/// JSON as text, so that numbers keep all their digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JsonText(pub(crate) String);

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

/// A uuid as text.
struct UuidText(String);

impl<'a> FromSql<'a> for UuidText {
    fn from_sql(_ty: &Type, raw: &'a [u8]) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        let n = u128::from_be_bytes(raw.try_into()?);
        let part = |from: u32, digits: u32| (n >> (128 - 4 * (from + digits))) & ((1 << (4 * digits)) - 1);
        Ok(UuidText(format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            part(0, 8),
            part(8, 4),
            part(12, 4),
            part(16, 4),
            part(20, 12)
        )))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::UUID
    }
}

enum Content {
    Json(String),
    Bytes { body: Vec<u8>, content_type: String },
}

/// A message that has not been enqueued yet. [`Message::to`] creates one.
#[must_use = "a message is enqueued by `enqueue`"]
pub struct NewMessage {
    topic: String,
    content: Content,
    options: Vec<(&'static str, &'static str, String)>,
    headers: Map<String, Value>,
    metadata: Map<String, Value>,
}

impl std::fmt::Debug for NewMessage {
    /// Shows the topic only, because payload and headers may be confidential.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewMessage").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl NewMessage {
    /// Sets the payload, as JSON.
    ///
    /// # Errors
    /// 22023 if the value cannot be written as JSON.
    pub fn json(mut self, payload: &(impl Serialize + ?Sized)) -> Result<NewMessage> {
        self.content = Content::Json(serde_json::to_string(payload)?);
        Ok(self)
    }

    /// Sets a body of bytes, which are stored, signed and sent unchanged.
    pub fn bytes(mut self, body: impl Into<Vec<u8>>, content_type: &str) -> NewMessage {
        self.content = Content::Bytes { body: body.into(), content_type: content_type.to_owned() };
        self
    }

    /// Sets a body of text, which is stored, signed and sent unchanged.
    pub fn text(self, body: impl Into<String>) -> NewMessage {
        self.bytes(body.into(), "text/plain; charset=utf-8")
    }

    fn option(mut self, name: &'static str, cast: &'static str, value: String) -> NewMessage {
        self.options.retain(|(known, _, _)| *known != name);
        self.options.push((name, cast, value));
        self
    }

    /// Sets the ordering key.
    pub fn key(self, key: impl Into<String>) -> NewMessage {
        self.option("key", "text", key.into())
    }

    /// Sets a header that is sent with the message.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> NewMessage {
        self.headers.insert(name.into(), Value::String(value.into()));
        self
    }

    /// Sets an entry of the metadata.
    pub fn set_metadata(mut self, name: impl Into<String>, value: impl Into<Value>) -> NewMessage {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Returns an entry of the metadata.
    pub fn get_metadata(&self, name: &str) -> Option<&Value> {
        self.metadata.get(name)
    }

    /// Sets the tenant.
    pub fn tenant(self, tenant: impl Into<String>) -> NewMessage {
        self.option("tenant", "text", tenant.into())
    }

    /// Sets type and id of the aggregate that the message is about.
    pub fn aggregate(self, kind: impl Into<String>, id: impl Into<String>) -> NewMessage {
        self.option("aggregate_type", "text", kind.into()).option("aggregate_id", "text", id.into())
    }

    /// Sets the idempotency key. Enqueuing the same content with the same tenant, topic and key again returns the id of the
    /// first message.
    pub fn idempotency_key(self, key: impl Into<String>) -> NewMessage {
        self.option("idempotency_key", "text", key.into())
    }

    /// Sets the time before which the message is not delivered.
    pub fn deliver_at(self, at: DateTime<Utc>) -> NewMessage {
        self.option("deliver_at", "timestamptz", at.to_rfc3339())
    }

    /// Sets the time after which the message is not delivered any more.
    pub fn expires_at(self, at: DateTime<Utc>) -> NewMessage {
        self.option("expires_at", "timestamptz", at.to_rfc3339())
    }

    /// Sets the time at which the event happened, if not now.
    pub fn occurred_at(self, at: DateTime<Utc>) -> NewMessage {
        self.option("occurred_at", "timestamptz", at.to_rfc3339())
    }

    /// Sets the priority. Workers get messages of higher priority first.
    pub fn priority(self, priority: i32) -> NewMessage {
        self.option("priority", "int", priority.to_string())
    }

    /// Sets the largest number of attempts, including the first. It overrides the setting of the subscription.
    pub fn max_attempts(self, tries: i32) -> NewMessage {
        self.option("max_attempts", "int", tries.to_string())
    }

    /// Sets the registered publisher.
    pub fn publisher(self, publisher: impl Into<String>) -> NewMessage {
        self.option("publisher", "text", publisher.into())
    }

    /// Returns a statement and its parameters (`$1`, `$2`, ...) for any driver. The statement returns the message's id.
    ///
    /// ```
    /// use pg_outbox::message::{Message, Param};
    /// let (sql, params) = Message::to("order.created").json(&42)?.sql();
    /// assert_eq!(sql, "select outbox.enqueue(topic => $1::text, payload => $2::text::jsonb)");
    /// assert_eq!(params, [Param::Text("order.created".into()), Param::Text("42".into())]);
    /// # Ok::<(), pg_outbox::Error>(())
    /// ```
    pub fn sql(mut self) -> (String, Vec<Param>) {
        inject(&mut self.metadata);
        let mut params = vec![Param::Text(self.topic)];
        let mut sql = match self.content {
            Content::Json(payload) => {
                params.push(Param::Text(payload));
                String::from("select outbox.enqueue(topic => $1::text, payload => $2::text::jsonb")
            }
            Content::Bytes { body, content_type } => {
                params.extend([Param::Bytes(body), Param::Text(content_type)]);
                String::from(
                    "select outbox.enqueue_bytes(topic => $1::text, body => $2::bytea, content_type => $3::text",
                )
            }
        };
        let mut options = self.options;
        for (name, map) in [("headers", self.headers), ("metadata", self.metadata)] {
            if !map.is_empty() {
                options.push((name, "jsonb", Value::Object(map).to_string()));
            }
        }
        for (name, cast, value) in options {
            params.push(Param::Text(value));
            let cast = if cast == "text" { Cow::Borrowed("text") } else { Cow::Owned(format!("text::{cast}")) };
            sql.push_str(&format!(", {name} => ${}::{cast}", params.len()));
        }
        sql.push(')');
        (sql, params)
    }

    /// Adds the message to the outbox in the caller's transaction, in one round trip, and returns its id. [`Executor`] names
    /// the connections of all drivers. It is delivered if
    /// and only if that transaction commits.
    ///
    /// # Errors
    /// Those of [`enqueue`](https://github.com/pg-outbox/pg_outbox): a malformed topic, content that is too large, an
    /// inactive publisher, or an idempotency key that was used with another content.
    pub async fn enqueue(self, on: impl Executor) -> Result<i64> {
        let (sql, params) = self.sql();
        let call = sql.strip_prefix("select ").unwrap_or(&sql);
        let statement = Statement::new(format!("select ({call})::text as r"), params.into_iter().map(Some));
        let ids = on.column(statement).await?;
        let id = ids.into_iter().flatten().next().and_then(|id| id.parse().ok());
        id.ok_or_else(|| Error::new("XX000", "enqueue returned no id"))
    }
}

/// Enqueues many payloads of one topic in one statement and returns their ids in order. `keys` is empty or has one key per
/// payload.
///
/// # Errors
/// Those of [`NewMessage::enqueue`].
pub async fn enqueue_many<T: Serialize>(
    on: impl Executor,
    topic: &str,
    payloads: &[T],
    keys: &[&str],
) -> Result<Vec<i64>> {
    let payloads = serde_json::to_string(payloads)?;
    let keys = (!keys.is_empty()).then(|| serde_json::to_string(keys)).transpose()?;
    let sql = "select array_to_json(outbox.enqueue_many($1,
            array(select j from jsonb_array_elements($2::jsonb) with ordinality e(j, n) order by n),
            keys => case when $3 is not null then
                array(select j from jsonb_array_elements_text($3::jsonb) with ordinality e(j, n) order by n) end,
            metadata => $4::jsonb
        ))::text as r";
    let mut metadata = Map::new();
    inject(&mut metadata);
    let metadata = (!metadata.is_empty()).then(|| Param::Text(Value::Object(metadata).to_string()));
    let statement = Statement::new(sql, [text(topic), text(payloads), keys.map(Param::Text), metadata]);
    let ids = on.column(statement).await?;
    let ids = ids.into_iter().flatten().next().ok_or_else(|| Error::new("XX000", "enqueue_many returned no ids"))?;
    Ok(serde_json::from_str(&ids)?)
}

/// A message from a worker's claim or a reader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    /// The id.
    pub message_id: i64,
    /// The webhook id, by which a receiver deduplicates. It is the same on every attempt and in every replay.
    pub webhook_id: String,
    /// The position in the feed.
    pub position: i64,
    /// The topic it was published to.
    pub topic: String,
    /// The ordering key.
    pub key: Option<String>,
    /// The JSON text of the payload. `None` for a message with a body of bytes.
    pub payload: Option<String>,
    /// The body. `None` for a message with a JSON payload.
    pub body: Option<Vec<u8>>,
    /// The content type of the body.
    pub content_type: Option<String>,
    /// The headers, an object.
    pub headers: Option<Value>,
    /// The metadata, an object.
    pub metadata: Option<Value>,
    /// The tenant.
    pub tenant: Option<String>,
    /// The type of the aggregate that the message is about.
    pub aggregate_type: Option<String>,
    /// The id of the aggregate that the message is about.
    pub aggregate_id: Option<String>,
    /// The registered publisher.
    pub publisher: Option<String>,
    /// When the event happened.
    pub occurred_at: Option<DateTime<Utc>>,
    /// When the message was enqueued.
    pub enqueued_at: DateTime<Utc>,
    /// The version of an event in its stream. The topic of an event is its type, and the key its stream.
    pub version: Option<i64>,
    /// The id that the application gave an event.
    pub event_id: Option<String>,
}

/// A message is a batch of one, so that [`Reader::advance`](crate::Reader::advance) takes either.
impl AsRef<[Message]> for Message {
    fn as_ref(&self) -> &[Message] {
        std::slice::from_ref(self)
    }
}

impl Message {
    /// Creates a message to a topic. Its payload is JSON `null` until it is set.
    pub fn to(topic: impl Into<String>) -> NewMessage {
        NewMessage {
            topic: topic.into(),
            content: Content::Json("null".to_owned()),
            options: Vec::new(),
            headers: Map::new(),
            metadata: Map::new(),
        }
    }

    /// Returns the content as `T`, from the payload or from a body that is JSON.
    ///
    /// # Errors
    /// 22023 if the content is not JSON, or does not have the form of `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(serde_json::from_slice(self.bytes())?)
    }

    /// Returns the content as text.
    ///
    /// # Errors
    /// 22023 if the content is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(self.bytes()).map_err(|_| Error::invalid("the body is not UTF-8"))
    }

    /// Returns the content as bytes, as an endpoint gets it in the format `raw`.
    pub fn bytes(&self) -> &[u8] {
        match (&self.payload, &self.body) {
            (Some(payload), _) => payload.as_bytes(),
            (None, Some(body)) => body,
            (None, None) => &[],
        }
    }

    /// Returns the content in base64.
    pub fn base64(&self) -> String {
        STANDARD.encode(self.bytes())
    }

    /// Returns an entry of the metadata.
    pub fn get_metadata(&self, name: &str) -> Option<&Value> {
        self.metadata.as_ref()?.get(name)
    }

    /// Reads a message from a row that has these columns.
    pub(crate) fn from_row(row: &Row) -> Result<Message> {
        Columns::of(row)?.message(row)
    }

    /// Fills in what the name of an event's stream says: its category, and its id within it.
    pub(crate) fn place_in_stream(&mut self) {
        let stream = self.key.as_deref();
        self.aggregate_type = stream.map(|stream| category(stream).to_owned());
        self.aggregate_id = stream.and_then(key).map(str::to_owned);
    }
}

/// The columns of a message.
const COLUMNS: [&str; 18] = [
    "message_id",
    "webhook_id",
    "position",
    "topic",
    "key",
    "payload",
    "body",
    "content_type",
    "headers",
    "metadata",
    "tenant",
    "aggregate_type",
    "aggregate_id",
    "publisher",
    "occurred_at",
    "enqueued_at",
    "version",
    "event_id",
];

/// The places of the columns of a message in the rows of one result, which are looked up once.
pub(crate) struct Columns([usize; COLUMNS.len()]);

impl Columns {
    /// Finds the columns of a row.
    pub(crate) fn of(row: &Row) -> Result<Columns> {
        let mut places = [0; COLUMNS.len()];
        for (place, name) in places.iter_mut().zip(COLUMNS) {
            let found = row.columns().iter().position(|column| column.name() == name);
            *place = found.ok_or_else(|| Error::new("XX000", format!("the server returned no column \"{name}\"")))?;
        }
        Ok(Columns(places))
    }

    /// Reads a message from a row of the result.
    pub(crate) fn message(&self, row: &Row) -> Result<Message> {
        // The fields are in the order of `COLUMNS`.
        let Columns(
            [message_id, webhook_id, position, topic, key, payload, body, content_type, headers, metadata, tenant, ..],
        ) = *self;
        let Columns([.., aggregate_type, aggregate_id, publisher, occurred_at, enqueued_at, version, event_id]) = *self;
        Ok(Message {
            message_id: row.try_get(message_id)?,
            webhook_id: row.try_get::<_, Option<String>>(webhook_id)?.unwrap_or_default(),
            position: row.try_get(position)?,
            topic: row.try_get::<_, Option<String>>(topic)?.unwrap_or_default(),
            key: row.try_get(key)?,
            payload: row.try_get::<_, Option<JsonText>>(payload)?.map(|json| json.0),
            body: row.try_get(body)?,
            content_type: row.try_get(content_type)?,
            headers: row.try_get(headers)?,
            metadata: row.try_get(metadata)?,
            tenant: row.try_get(tenant)?,
            aggregate_type: row.try_get(aggregate_type)?,
            aggregate_id: row.try_get(aggregate_id)?,
            publisher: row.try_get(publisher)?,
            occurred_at: row.try_get(occurred_at)?,
            enqueued_at: row.try_get::<_, Option<DateTime<Utc>>>(enqueued_at)?.unwrap_or_default(),
            version: row.try_get(version)?,
            event_id: row.try_get::<_, Option<UuidText>>(event_id)?.map(|id| id.0),
        })
    }
}
