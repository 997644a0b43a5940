//! A message as its receivers see it.

use bytes::Bytes;

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
}
