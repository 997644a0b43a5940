//! Messages: how they are made, and how they come back.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{GenericClient, Row};

use crate::error::{Error, Result};

/// One value of a plain statement: text, bytes, or null. Casts in the statement give it its type, so every driver can send it.
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

/// JSON as its text: numbers keep all their digits on the way through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JsonText(pub(crate) String);

impl<'a> FromSql<'a> for JsonText {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        // The binary form of jsonb is a version byte and the text.
        let text = if *ty == Type::JSONB { raw.get(1..).unwrap_or_default() } else { raw };
        Ok(JsonText(std::str::from_utf8(text)?.to_owned()))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::JSON | Type::JSONB)
    }
}

enum Content {
    Json(String),
    Bytes { body: Vec<u8>, content_type: String },
}

/// A message that has not been enqueued yet. [`Message::to`] begins one.
#[must_use = "a message is enqueued by `enqueue`"]
pub struct NewMessage {
    topic: String,
    content: Content,
    options: Vec<(&'static str, &'static str, String)>,
    headers: Map<String, Value>,
    metadata: Map<String, Value>,
}

impl std::fmt::Debug for NewMessage {
    /// Without payload and headers: they may be confidential.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewMessage").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl NewMessage {
    /// The payload, as JSON.
    ///
    /// # Errors
    /// 22023 if it cannot be JSON.
    pub fn json(mut self, payload: &(impl Serialize + ?Sized)) -> Result<NewMessage> {
        self.content = Content::Json(serde_json::to_string(payload)?);
        Ok(self)
    }

    /// Bytes that are stored, signed and sent unchanged.
    pub fn bytes(mut self, body: impl Into<Vec<u8>>, content_type: &str) -> NewMessage {
        self.content = Content::Bytes { body: body.into(), content_type: content_type.to_owned() };
        self
    }

    /// Text that is stored, signed and sent unchanged.
    pub fn text(self, body: impl Into<String>) -> NewMessage {
        self.bytes(body.into(), "text/plain; charset=utf-8")
    }

    fn option(mut self, name: &'static str, cast: &'static str, value: String) -> NewMessage {
        self.options.retain(|(known, _, _)| *known != name);
        self.options.push((name, cast, value));
        self
    }

    /// The ordering key.
    pub fn key(self, key: impl Into<String>) -> NewMessage {
        self.option("key", "text", key.into())
    }

    /// A header that is sent with the message.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> NewMessage {
        self.headers.insert(name.into(), Value::String(value.into()));
        self
    }

    /// Sets an entry of the metadata.
    pub fn set_metadata(mut self, name: impl Into<String>, value: impl Into<Value>) -> NewMessage {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// An entry of the metadata.
    pub fn get_metadata(&self, name: &str) -> Option<&Value> {
        self.metadata.get(name)
    }

    /// The tenant.
    pub fn tenant(self, tenant: impl Into<String>) -> NewMessage {
        self.option("tenant", "text", tenant.into())
    }

    /// What it is about.
    pub fn aggregate(self, kind: impl Into<String>, id: impl Into<String>) -> NewMessage {
        self.option("aggregate_type", "text", kind.into()).option("aggregate_id", "text", id.into())
    }

    /// The same tenant, topic and key with the same content gives the first message's id.
    pub fn idempotency_key(self, key: impl Into<String>) -> NewMessage {
        self.option("idempotency_key", "text", key.into())
    }

    /// Not before this time.
    pub fn deliver_at(self, at: DateTime<Utc>) -> NewMessage {
        self.option("deliver_at", "timestamptz", at.to_rfc3339())
    }

    /// Not after this time.
    pub fn expires_at(self, at: DateTime<Utc>) -> NewMessage {
        self.option("expires_at", "timestamptz", at.to_rfc3339())
    }

    /// When the event happened, if not now.
    pub fn occurred_at(self, at: DateTime<Utc>) -> NewMessage {
        self.option("occurred_at", "timestamptz", at.to_rfc3339())
    }

    /// Workers get higher ones first.
    pub fn priority(self, priority: i32) -> NewMessage {
        self.option("priority", "int", priority.to_string())
    }

    /// Tries, the first included; wins over the subscription's.
    pub fn max_attempts(self, tries: i32) -> NewMessage {
        self.option("max_attempts", "int", tries.to_string())
    }

    /// The registered producer.
    pub fn publisher(self, publisher: impl Into<String>) -> NewMessage {
        self.option("publisher", "text", publisher.into())
    }

    /// A statement and its parameters (`$1`, `$2`, ...), for any driver; it returns the id.
    ///
    /// ```
    /// use pg_outbox::message::{Message, Param};
    /// let (sql, params) = Message::to("order.created").json(&42)?.sql();
    /// assert_eq!(sql, "select outbox.enqueue(topic => $1::text, payload => $2::text::jsonb)");
    /// assert_eq!(params, [Param::Text("order.created".into()), Param::Text("42".into())]);
    /// # Ok::<(), pg_outbox::Error>(())
    /// ```
    pub fn sql(self) -> (String, Vec<Param>) {
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

    /// Adds the message to the outbox in the caller's transaction, in one round trip, and returns its id. It is delivered if
    /// and only if that transaction commits.
    ///
    /// # Errors
    /// What [`enqueue`](https://github.com/pg-outbox/pg_outbox) refuses: malformed topics, content that is too large, inactive
    /// publishers, an idempotency key with another content.
    pub async fn enqueue(self, client: &impl GenericClient) -> Result<i64> {
        let (sql, params) = self.sql();
        let typed: Vec<(&(dyn ToSql + Sync), Type)> = params
            .iter()
            .map(|param| (param as _, if matches!(param, Param::Text(_)) { Type::TEXT } else { Type::BYTEA }))
            .collect();
        let rows = client.query_typed(&sql, &typed).await?;
        let row = rows.first().ok_or_else(|| Error::new("XX000", "enqueue returned no row"))?;
        Ok(row.try_get(0)?)
    }
}

/// Enqueues many payloads of one topic in one statement; returns their ids in order. `keys` is empty or has one per payload.
///
/// # Errors
/// Those of [`NewMessage::enqueue`].
pub async fn enqueue_many<T: Serialize>(
    client: &impl GenericClient,
    topic: &str,
    payloads: &[T],
    keys: &[&str],
) -> Result<Vec<i64>> {
    let payloads = payloads.iter().map(serde_json::to_value).collect::<std::result::Result<Vec<_>, _>>()?;
    let keys = (!keys.is_empty()).then_some(keys);
    let args = serde_json::json!({"topic": topic, "payloads": payloads, "keys": keys});
    crate::call::single(crate::call::call(client, "enqueue_many", args, &[]).await?)
}

/// A message as it comes back: from a worker's claim or a reader.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    /// Its id.
    pub message_id: i64,
    /// What a receiver deduplicates by: the same on every attempt and in every replay.
    pub webhook_id: String,
    /// Its place in the feed.
    pub position: i64,
    /// The topic it was published to.
    pub topic: String,
    /// The ordering key.
    pub key: Option<String>,
    /// The payload's JSON text, if it is a JSON message.
    pub payload: Option<String>,
    /// The body, if it is a message of bytes.
    pub body: Option<Vec<u8>>,
    /// The content type of the body.
    pub content_type: Option<String>,
    /// Headers, an object.
    pub headers: Option<Value>,
    /// Metadata, an object.
    pub metadata: Option<Value>,
    /// The tenant.
    pub tenant: Option<String>,
    /// The kind of what it is about.
    pub aggregate_type: Option<String>,
    /// The id of what it is about.
    pub aggregate_id: Option<String>,
    /// The registered producer.
    pub publisher: Option<String>,
    /// When it happened.
    pub occurred_at: Option<DateTime<Utc>>,
    /// When it was enqueued.
    pub enqueued_at: DateTime<Utc>,
}

impl Message {
    /// Begins a message to a topic; its payload is JSON `null` until it is set.
    pub fn to(topic: impl Into<String>) -> NewMessage {
        NewMessage {
            topic: topic.into(),
            content: Content::Json("null".to_owned()),
            options: Vec::new(),
            headers: Map::new(),
            metadata: Map::new(),
        }
    }

    /// The content as `T`: of the payload, or of a body that is JSON.
    ///
    /// # Errors
    /// 22023 if it is not JSON, or not of that form.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(serde_json::from_slice(self.bytes())?)
    }

    /// The content as text.
    ///
    /// # Errors
    /// 22023 if it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(self.bytes()).map_err(|_| Error::invalid("the body is not UTF-8"))
    }

    /// The content as bytes: what an endpoint would get in the format `raw`.
    pub fn bytes(&self) -> &[u8] {
        match (&self.payload, &self.body) {
            (Some(payload), _) => payload.as_bytes(),
            (None, Some(body)) => body,
            (None, None) => &[],
        }
    }

    /// The content in base64.
    pub fn base64(&self) -> String {
        STANDARD.encode(self.bytes())
    }

    /// An entry of the metadata.
    pub fn get_metadata(&self, name: &str) -> Option<&Value> {
        self.metadata.as_ref()?.get(name)
    }

    /// From a row that has these columns.
    pub(crate) fn from_row(row: &Row) -> Result<Message> {
        Ok(Message {
            message_id: row.try_get("message_id")?,
            webhook_id: row.try_get::<_, Option<String>>("webhook_id")?.unwrap_or_default(),
            position: row.try_get("position")?,
            topic: row.try_get::<_, Option<String>>("topic")?.unwrap_or_default(),
            key: row.try_get("key")?,
            payload: row.try_get::<_, Option<JsonText>>("payload")?.map(|json| json.0),
            body: row.try_get("body")?,
            content_type: row.try_get("content_type")?,
            headers: row.try_get("headers")?,
            metadata: row.try_get("metadata")?,
            tenant: row.try_get("tenant")?,
            aggregate_type: row.try_get("aggregate_type")?,
            aggregate_id: row.try_get("aggregate_id")?,
            publisher: row.try_get("publisher")?,
            occurred_at: row.try_get("occurred_at")?,
            enqueued_at: row.try_get::<_, Option<DateTime<Utc>>>("enqueued_at")?.unwrap_or_default(),
        })
    }
}
