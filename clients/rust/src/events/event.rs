//! Events before and after they are stored.
//!
//! A serde enum with `#[serde(tag = "type", content = "data")]` is a set of events. Each variant is one type, whose name is that
//! of the variant or of its `rename`. A variant without fields has the data `{}`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use super::metadata::Metadata;
use crate::error::{Error, Result, place_in_json};
use crate::message::Message;

/// An event that has not been appended yet.
#[derive(Clone, PartialEq)]
pub struct NewEvent {
    /// The type, which has the form of a topic.
    pub event_type: String,
    /// The data.
    pub data: Value,
    /// The caller's id, a uuid. Without one, the append makes it. With the caller's ids and an expected version from 0 on, a repeated
    /// append is a success and writes nothing; not so if a field is encrypted, because the same text has another form each time.
    pub event_id: Option<String>,
    /// The metadata of this event. It takes precedence over that of the append.
    pub metadata: Metadata,
}

impl fmt::Debug for NewEvent {
    /// Shows no data, because it may be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewEvent").field("event_type", &self.event_type).finish_non_exhaustive()
    }
}

impl NewEvent {
    /// Creates an event of a type.
    ///
    /// # Errors
    /// 22023 if the data cannot be written as JSON.
    pub fn new(event_type: impl Into<String>, data: &(impl Serialize + ?Sized)) -> Result<NewEvent> {
        let data = serde_json::to_value(data)?;
        Ok(NewEvent { event_type: event_type.into(), data, event_id: None, metadata: Metadata::default() })
    }

    /// Creates an event from a variant of an enum that serde tags with `type` and `content = "data"`.
    ///
    /// # Errors
    /// 22023 if the value is written in another form.
    pub fn of(event: &(impl Serialize + ?Sized)) -> Result<NewEvent> {
        let wrong = || {
            Error::invalid("the value is not an event")
                .hint("Derive Serialize with #[serde(tag = \"type\", content = \"data\")], or use NewEvent::new.")
        };
        let Value::Object(mut parts) = serde_json::to_value(event)? else { return Err(wrong()) };
        let Some(Value::String(event_type)) = parts.remove("type") else { return Err(wrong()) };
        let data = parts.remove("data").unwrap_or_else(|| json!({}));
        if !parts.is_empty() {
            return Err(wrong());
        }
        NewEvent::new(event_type, &data)
    }

    /// Sets the id, a uuid.
    #[must_use]
    pub fn event_id(mut self, id: impl Into<String>) -> NewEvent {
        self.event_id = Some(id.into());
        self
    }

    /// Sets the metadata.
    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> NewEvent {
        self.metadata = metadata;
        self
    }
}

/// An event that is stored.
#[derive(Clone, PartialEq)]
pub struct RecordedEvent {
    /// The stream.
    pub stream: String,
    /// The place in the stream, from 1 on.
    pub version: i64,
    /// The type.
    pub event_type: String,
    /// The data, in the newest form and decrypted. Null for an event of bytes that no serializer reads.
    pub data: Value,
    /// The bytes of an event that was appended as bytes.
    pub body: Option<Vec<u8>>,
    /// The content type of the bytes.
    pub content_type: Option<String>,
    /// The metadata, an object.
    pub metadata: Map<String, Value>,
    /// The id that the application gave it.
    pub event_id: Option<String>,
    /// The place in the feed. `None` from [`EventStore::load`](super::EventStore::load).
    pub position: Option<i64>,
    /// The id of the message that the event is.
    pub message_id: i64,
    /// The tenant.
    pub tenant: Option<String>,
    /// When it happened, if the application said so.
    pub occurred_at: Option<DateTime<Utc>>,
    /// When it was appended.
    pub recorded_at: DateTime<Utc>,
    /// Whether encrypted fields are null because their key was revoked, or the event was erased: its data is null then.
    pub redacted: bool,
}

impl fmt::Debug for RecordedEvent {
    /// Shows no data, because it may be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedEvent")
            .field("stream", &self.stream)
            .field("version", &self.version)
            .field("event_type", &self.event_type)
            .field("message_id", &self.message_id)
            .field("redacted", &self.redacted)
            .finish_non_exhaustive()
    }
}

impl RecordedEvent {
    /// Returns whether the content of the event was erased on the server. It has neither data nor metadata then.
    pub fn is_erased(&self) -> bool {
        self.redacted && self.data.is_null() && self.body.is_none()
    }

    /// Returns the event as a variant of an enum that serde tags with `type` and `content = "data"`.
    ///
    /// # Errors
    /// 22023 if the enum has no such variant, or the data does not have its form.
    pub fn event<E: DeserializeOwned>(&self) -> Result<E> {
        let event_type = Value::String(self.event_type.clone());
        // The tag comes first, so that serde does not buffer the data, which would lose digits of numbers.
        let with = |data: &Value| format!("{{\"type\":{event_type},\"data\":{data}}}");
        let whole = serde_json::from_str(&with(&self.data));
        let is_empty = self.data.is_null() || self.data.as_object().is_some_and(Map::is_empty);
        match whole {
            Err(_) if is_empty => {
                serde_json::from_value(json!({"type": event_type})).or_else(|_| serde_json::from_str(&with(&self.data)))
            }
            other => other,
        }
        .map_err(|error| self.malformed(&error))
    }

    /// Returns the data as `T`.
    ///
    /// # Errors
    /// 22023 if the data does not have this form.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.data.to_string()).map_err(|error| self.malformed(&error))
    }

    /// An error without values: the text of serde_json quotes them.
    fn malformed(&self, error: &serde_json::Error) -> Error {
        Error::invalid(format!("event {} of \"{}\" does not have the expected form", self.version, self.stream))
            .detail(format!("{}: {}", self.event_type, place_in_json(error)))
            .named("malformed_event")
    }

    /// Returns the category, which is the part of the stream's name before the first `-`.
    pub fn category(&self) -> &str {
        self.stream.split_once('-').map_or(self.stream.as_str(), |(category, _)| category)
    }

    /// Returns the id within the category, which is the part of the stream's name after the first `-`.
    pub fn stream_id(&self) -> &str {
        self.stream.split_once('-').map_or("", |(_, id)| id)
    }

    /// Returns a text entry of the metadata.
    pub fn get_metadata(&self, name: &str) -> Option<&str> {
        self.metadata.get(name)?.as_str()
    }

    /// Makes an event of a message of the feed. The message must be an event.
    ///
    /// # Errors
    /// 22023 if the message is not an event.
    pub fn from_message(message: &Message) -> Result<RecordedEvent> {
        let (Some(stream), Some(version)) = (message.key.clone(), message.version) else {
            return Err(Error::invalid(format!("message {} is not an event", message.message_id)));
        };
        let metadata = match &message.metadata {
            Some(Value::Object(map)) => map.clone(),
            _ => Map::new(),
        };
        Ok(RecordedEvent {
            stream,
            version,
            event_type: message.topic.clone(),
            data: message.payload.as_deref().map(serde_json::from_str).transpose()?.unwrap_or(Value::Null),
            body: message.body.clone(),
            content_type: message.content_type.clone(),
            metadata,
            event_id: message.event_id.clone(),
            position: Some(message.position),
            message_id: message.message_id,
            tenant: message.tenant.clone(),
            occurred_at: message.occurred_at,
            recorded_at: message.enqueued_at,
            redacted: message.payload.is_none() && message.body.is_none(),
        })
    }
}

/// A row of `outbox.event` as JSON.
#[derive(Deserialize)]
pub(super) struct Row {
    position: Option<i64>,
    message_id: i64,
    event_id: Option<String>,
    stream: String,
    version: i64,
    #[serde(rename = "type")]
    event_type: String,
    data: Option<Value>,
    #[serde(default, deserialize_with = "bytes")]
    body: Option<Vec<u8>>,
    content_type: Option<String>,
    metadata: Option<Map<String, Value>>,
    tenant: Option<String>,
    occurred_at: Option<DateTime<Utc>>,
    recorded_at: DateTime<Utc>,
    /// Whether it has neither data nor bytes. JSON null is data.
    is_erased: bool,
}

/// Reads the base64 that the statement made of bytes.
fn bytes<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<Vec<u8>>, D::Error> {
    let text: Option<String> = Option::deserialize(from)?;
    let decode = |text: String| STANDARD.decode(text.replace('\n', "")).map_err(serde::de::Error::custom);
    text.map(decode).transpose()
}

impl From<Row> for RecordedEvent {
    fn from(row: Row) -> RecordedEvent {
        RecordedEvent {
            stream: row.stream,
            version: row.version,
            event_type: row.event_type,
            data: row.data.unwrap_or(Value::Null),
            body: row.body,
            content_type: row.content_type,
            metadata: row.metadata.unwrap_or_default(),
            event_id: row.event_id,
            position: row.position,
            message_id: row.message_id,
            tenant: row.tenant,
            occurred_at: row.occurred_at,
            recorded_at: row.recorded_at,
            redacted: row.is_erased,
        }
    }
}
