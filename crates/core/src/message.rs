//! A message as receivers see it.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

/// One stored message. It never changes, so all of its deliveries share it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// Id of the message.
    pub id: i64,
    /// Position in the committed order.
    pub position: i64,
    /// When it was enqueued, in microseconds since 1970-01-01 UTC.
    pub enqueued_at: i64,
    /// Topic.
    pub topic: Box<str>,
    /// Ordering key and identifier.
    pub key: Option<Box<str>>,
    /// JSON text of the payload, or the bytes of the body.
    pub content: Bytes,
    /// Content type of the body. `None`: the content is a JSON payload.
    pub content_type: Option<Box<str>>,
    /// The webhook id, which is the same on every attempt.
    pub webhook_id: Box<str>,
    /// Fields that few messages have.
    pub extra: Option<Box<Extra>>,
}

/// The optional fields of a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra {
    /// Headers for receivers.
    pub headers: Option<Arc<Map<String, Value>>>,
    /// Correlation, trace, and any other metadata of the producer.
    pub metadata: Option<Map<String, Value>>,
    /// Tenant.
    pub tenant: Option<Box<str>>,
    /// Type of the aggregate that the message is about.
    pub aggregate_type: Option<Box<str>>,
    /// Id of the aggregate that the message is about.
    pub aggregate_id: Option<Box<str>>,
    /// Publisher.
    pub publisher: Option<Box<str>>,
    /// The producer's own key for deduplication.
    pub idempotency_key: Option<Box<str>>,
    /// When the event happened, in microseconds since 1970-01-01 UTC.
    pub occurred_at: Option<i64>,
    /// Version of an event in its stream.
    pub version: Option<i64>,
    /// The id that the application gave an event.
    pub event_id: Option<Box<str>>,
}

/// The optional fields of a message that has none of them.
static NO_EXTRA: Extra = Extra {
    headers: None,
    metadata: None,
    tenant: None,
    aggregate_type: None,
    aggregate_id: None,
    publisher: None,
    idempotency_key: None,
    occurred_at: None,
    version: None,
    event_id: None,
};

impl Message {
    /// Returns the optional fields of the message.
    pub fn extra(&self) -> &Extra {
        self.extra.as_deref().unwrap_or(&NO_EXTRA)
    }
}
