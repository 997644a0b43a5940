//! Reading the feed: which messages are where, and what they say.

use std::sync::Arc;

use bytes::Bytes;
use outbox_core::filter::Subject;
use outbox_core::message::{Extra, Message};
use outbox_core::webhook_id::WebhookId;
use pgrx::pg_sys::{INT4OID, INT8ARRAYOID, INT8OID};

use super::scan;
use super::txn::{Plan, Row, arg};
use crate::catalog::LEAVES;
use crate::enqueue::column;

/// Microseconds from 1970 to 2000, PostgreSQL's epoch.
pub const UNIX_EPOCH: i64 = 946_684_800_000_000;

/// A message and where it is stored.
#[derive(Clone)]
pub struct Stored {
    pub segment: i16,
    pub message: Arc<Message>,
    pub attributes: Attributes,
}

/// What routing looks at beyond the topic.
#[derive(Clone, Default)]
pub struct Attributes {
    pub tenant: Option<Box<str>>,
    pub aggregate_type: Option<Box<str>>,
    pub aggregate_id: Option<Box<str>>,
    pub headers: Option<Arc<serde_json::Map<String, serde_json::Value>>>,
    pub max_attempts: Option<i32>,
    pub priority: i16,
    /// Microseconds, PostgreSQL's epoch.
    pub deliver_at: Option<i64>,
    pub expires_at: Option<i64>,
}

/// What a tick did.
pub struct Ticked {
    pub status: Box<str>,
    pub first: i64,
    pub last: i64,
    pub more: bool,
    /// Ids of the messages at first ..= last, ascending, and their leaves.
    pub ids: Vec<i64>,
    pub segments: Vec<i16>,
}

/// Statements that read the feed and messages.
pub struct Reader {
    tick: Plan,
    feed: Plan,
    dense: [Plan; LEAVES + 1],
    sparse: [Plan; LEAVES + 1],
}

/// One plan per leaf, and one for the messages that outlived theirs: known leaves need no partition pruning at run time.
macro_rules! leaf_plans {
    ($condition:literal, $types:expr) => {
        leaf_plans!($condition, $types, "00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12",
            "13", "14", "15", "kept")
    };
    ($condition:literal, $types:expr, $($leaf:literal),*) => {
        [$(Plan::new(
            concat!(
                "select m.* from outbox._message_", $leaf, " m where ", $condition
            ),
            $types,
        )),*]
    };
}

impl Reader {
    pub const fn new() -> Reader {
        Reader {
            tick: Plan::new(
                "select t.status, t.first_position, t.last_position, t.more, t.message_ids, t.segments
                from outbox._tick($1) t",
                &[INT4OID],
            ),
            feed: Plan::new(
                "select f.first_position, f.message_segment, f.message_ids
                from outbox.feed f
                where f.first_position >= coalesce((
                        select p.first_position from outbox.feed p
                        where p.first_position <= $1 + 1
                        order by p.first_position desc limit 1
                    ), 0)
                    and f.first_position <= $2
                order by f.first_position
                limit $3",
                &[INT8OID, INT8OID, INT8OID],
            ),
            dense: leaf_plans!("m.id between $1 and $2", &[INT8OID, INT8OID]),
            sparse: leaf_plans!("m.id = any ($1)", &[INT8ARRAYOID]),
        }
    }

    /// Runs the sequencer.
    pub fn tick(&mut self, chunk: i32) -> Ticked {
        let rows = self.tick.execute(&[arg(chunk)]);
        rows.first(|row| Ticked {
            status: row.text(0).unwrap_or_default(),
            first: row.int(1),
            last: row.int(2),
            more: row.get(3).unwrap_or(false),
            ids: row.get(4).unwrap_or_default(),
            segments: row.get(5).unwrap_or_default(),
        })
        .unwrap_or(Ticked {
            status: "".into(),
            first: 0,
            last: 0,
            more: false,
            ids: Vec::new(),
            segments: Vec::new(),
        })
    }

    /// The messages behind `after` and not behind `upto`, in order: at most `rows` rows of the feed.
    pub fn read(&mut self, after: i64, upto: i64, rows: i64) -> (Vec<Stored>, i64) {
        let (mut ids, mut segments, mut first, mut end) = (Vec::new(), Vec::new(), 0, after);
        self.feed.execute(&[arg(after), arg(upto), arg(rows)]).for_each(|row| {
            let start = row.int(0);
            let segment: i16 = row.get(1).unwrap_or_default();
            for (position, id) in (start..).zip(row.get::<Vec<i64>>(2).unwrap_or_default()) {
                if position > after && position <= upto {
                    if first == 0 {
                        first = position;
                    }
                    end = position;
                    ids.push(id);
                    segments.push(segment);
                }
            }
        });
        (self.messages(first, &ids, &segments), end)
    }

    /// The messages of consecutive positions from `first` on. One that is gone (retention took it, it was erased) is left out.
    pub fn messages(&mut self, first: i64, ids: &[i64], segments: &[i16]) -> Vec<Stored> {
        let mut found: Vec<Option<Stored>> = vec![None; ids.len()];
        let mut start = 0;
        while start < ids.len() {
            // A run of one leaf with ascending ids: what one row of the feed is, and usually a whole tick.
            let segment = segments[start];
            let mut end = start + 1;
            while end < ids.len() && segments[end] == segment && ids[end] > ids[end - 1] {
                end += 1;
            }
            let run = &ids[start..end];
            // Below 0: the message outlived its leaf.
            let leaf = if segment < 0 { LEAVES } else { segment.rem_euclid(LEAVES as i16) as usize };
            let (low, high) = (run[0], run[run.len() - 1]);
            let mut take = |row: &Row| {
                if let Ok(i) = run.binary_search(&row.int(column::ID)) {
                    found[start + i] = stored(row, segment, first + (start + i) as i64);
                }
            };
            // A range is one walk through the index. Ids that are missing in between belong to other ticks or to nobody.
            if high - low >= 2 * run.len() as i64 {
                self.sparse[leaf].execute(&[arg(run.to_vec())]).for_each(take);
            } else if leaf == LEAVES || !scan::messages(leaf, low, high, &mut take) {
                self.dense[leaf].execute(&[arg(low), arg(high)]).for_each(take);
            }
            start = end;
        }
        found.into_iter().flatten().collect()
    }

    /// One message.
    pub fn message(&mut self, position: i64, id: i64, segment: i16) -> Option<Stored> {
        self.messages(position, &[id], &[segment]).pop()
    }
}

/// A message as it is stored; `None` when it was erased.
fn stored(row: &Row, segment: i16, position: i64) -> Option<Stored> {
    let id = row.int(column::ID);
    let enqueued_at = row.int(column::ENQUEUED_AT) + UNIX_EPOCH;
    let content = row.json(column::PAYLOAD, <[u8]>::to_vec).or_else(|| row.bytes(column::BODY))?;
    let object = |column| row.json(column, |text| serde_json::from_slice(text).ok()).flatten();
    let headers = object(column::HEADERS).map(Arc::new);
    let extra = Extra {
        headers: headers.clone(),
        metadata: object(column::METADATA),
        tenant: row.text(column::TENANT),
        aggregate_type: row.text(column::AGGREGATE_TYPE),
        aggregate_id: row.text(column::AGGREGATE_ID),
        publisher: row.text(column::PUBLISHER),
        idempotency_key: row.text(column::IDEMPOTENCY_KEY),
        occurred_at: row.get::<i64>(column::OCCURRED_AT).map(|at| at + UNIX_EPOCH),
    };
    Some(Stored {
        segment,
        message: Arc::new(Message {
            id,
            position,
            enqueued_at,
            topic: row.text(column::TOPIC).unwrap_or_default(),
            key: row.text(column::KEY),
            content: Bytes::from(content),
            content_type: row.text(column::CONTENT_TYPE),
            webhook_id: WebhookId { message_id: id, enqueued_at }.text(),
            extra: (extra != Extra::default()).then(|| Box::new(extra)),
        }),
        attributes: Attributes {
            tenant: row.text(column::TENANT),
            aggregate_type: row.text(column::AGGREGATE_TYPE),
            aggregate_id: row.text(column::AGGREGATE_ID),
            headers,
            max_attempts: row.get(column::MAX_ATTEMPTS),
            priority: row.get(column::PRIORITY).unwrap_or_default(),
            deliver_at: row.get(column::DELIVER_AT),
            expires_at: row.get(column::EXPIRES_AT),
        },
    })
}

/// What filters look at.
pub fn subject(stored: &Stored) -> Subject<'_> {
    let attributes = &stored.attributes;
    Subject {
        tenant: attributes.tenant.as_deref(),
        key: stored.message.key.as_deref(),
        aggregate_type: attributes.aggregate_type.as_deref(),
        aggregate_id: attributes.aggregate_id.as_deref(),
        headers: attributes.headers.as_deref(),
    }
}
