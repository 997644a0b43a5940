//! A message as its receivers see it.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

/// One stored message. It never changes, so all of its deliveries share it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// Number of the message.
    pub id: i64,
    /// Place in the committed order.
    pub position: i64,
    /// When it was enqueued, in microseconds since 1970-01-01 UTC.
    pub enqueued_at: i64,
    /// Topic.
    pub topic: Box<str>,
    /// Ordering key and identifier.
    pub key: Option<Box<str>>,
    /// JSON text of the payload, or the bytes of the body.
    pub content: Bytes,
    /// Type of the bytes; `None`: the content is a JSON payload.
    pub content_type: Option<Box<str>>,
    /// The webhook id, the same on every attempt.
    pub webhook_id: Box<str>,
    /// What few messages have.
    pub extra: Option<Box<Extra>>,
}

/// What a message can have besides its content.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra {
    /// Headers for receivers.
    pub headers: Option<Arc<Map<String, Value>>>,
    /// Correlation, trace, and whatever else the producer said about it.
    pub metadata: Option<Map<String, Value>>,
    /// Tenant.
    pub tenant: Option<Box<str>>,
    /// What it is about: type.
    pub aggregate_type: Option<Box<str>>,
    /// And id.
    pub aggregate_id: Option<Box<str>>,
    /// Producer.
    pub publisher: Option<Box<str>>,
    /// The producer's own key for deduplication.
    pub idempotency_key: Option<Box<str>>,
    /// When it happened, in microseconds since 1970-01-01 UTC.
    pub occurred_at: Option<i64>,
}

/// Of a message that has nothing of it.
static NO_EXTRA: Extra = Extra {
    headers: None,
    metadata: None,
    tenant: None,
    aggregate_type: None,
    aggregate_id: None,
    publisher: None,
    idempotency_key: None,
    occurred_at: None,
};

impl Message {
    /// What it has besides its content.
    pub fn extra(&self) -> &Extra {
        self.extra.as_deref().unwrap_or(&NO_EXTRA)
    }
}
