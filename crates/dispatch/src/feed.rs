//! Messages of the feed, as the store returns them.

use std::sync::Arc;

use bytes::Bytes;
use outbox_core::filter::Subject;
use outbox_core::message::Message;
use outbox_core::topic;

/// Microseconds from 1970 to 2000, PostgreSQL's epoch.
pub const UNIX_EPOCH: i64 = 946_684_800_000_000;

/// A message and its segment.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The segment; negative if the message has outlived its leaf.
    pub segment: i16,
    /// The message.
    pub message: Arc<Message>,
    /// The attributes that routing looks at.
    pub attributes: Attributes,
    /// Why the content cannot be read. If the topic cannot be read either, it is empty.
    pub unreadable: Option<Arc<str>>,
    /// The content is what the transform of a subscription has made of the message.
    pub transformed: bool,
}

impl Stored {
    /// The message with the JSON that the transform of a subscription has made of it.
    pub fn with_payload(&self, payload: Bytes) -> Stored {
        let message = Message { content: payload, content_type: None, ..Message::clone(&self.message) };
        Stored { message: Arc::new(message), transformed: true, ..self.clone() }
    }

    /// The payload that a row of the delivery has to keep, because it is not that of the message.
    pub(crate) fn own_payload(&self) -> Option<Bytes> {
        self.transformed.then(|| self.message.content.clone())
    }
}

/// The attributes that routing looks at, beyond the topic.
#[derive(Clone, Default, Debug)]
pub struct Attributes {
    /// The tenant.
    pub tenant: Option<Box<str>>,
    /// The type of the aggregate.
    pub aggregate_type: Option<Box<str>>,
    /// The id of the aggregate.
    pub aggregate_id: Option<Box<str>>,
    /// The headers.
    pub headers: Option<Arc<serde_json::Map<String, serde_json::Value>>>,
    /// The message's own limit of attempts.
    pub max_attempts: Option<i32>,
    /// The priority.
    pub priority: i16,
    /// Microseconds, PostgreSQL's epoch.
    pub deliver_at: Option<i64>,
    /// Microseconds, PostgreSQL's epoch.
    pub expires_at: Option<i64>,
}

/// Consecutive positions of the feed, read in one transaction.
#[derive(Debug, Default)]
pub struct Part {
    /// The messages in the order of positions. A message that is gone (removed by retention, or erased) is left out.
    pub messages: Vec<Stored>,
    /// The position up to which messages have been read.
    pub upto: i64,
    /// Ids of those of the messages that are cancelled, if they were asked for.
    pub cancelled: Vec<i64>,
}

/// The place of a message.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Position in the feed.
    pub position: i64,
    /// Id of the message.
    pub message_id: i64,
    /// Segment of the message.
    pub segment: i16,
    /// The row of outbox.delivery that has the payload; 0: the message has it.
    pub payload_of: i64,
}

/// The state of the sequencer after a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TickStatus {
    /// The tick has run. It may have found no message.
    Ticked,
    /// Another session holds the sequencer's lock.
    Busy,
    /// The data was copied from another database, and has not been adopted.
    Copied,
    /// No message was ever enqueued.
    Fresh,
    /// The sequencer refuses, for this reason.
    Refused(Box<str>),
}

/// The result of a tick.
#[derive(Debug)]
pub struct Ticked {
    /// Whether the tick has run.
    pub status: TickStatus,
    /// The number of messages that the tick has numbered.
    pub found: usize,
    /// The last position of the feed.
    pub last: i64,
    /// There are more messages to number.
    pub more: bool,
    /// The numbered messages, if they were asked for and follow the position that was given.
    pub part: Option<Part>,
}

/// The attributes that filters look at.
pub(crate) fn subject(stored: &Stored) -> Subject<'_> {
    let attributes = &stored.attributes;
    Subject {
        tenant: attributes.tenant.as_deref(),
        key: stored.message.key.as_deref(),
        aggregate_type: attributes.aggregate_type.as_deref(),
        aggregate_id: attributes.aggregate_id.as_deref(),
        headers: attributes.headers.as_deref(),
    }
}

/// Whether a message changes the configuration.
pub fn is_control(stored: &Stored) -> bool {
    &*stored.message.topic == topic::CONTROL
}
