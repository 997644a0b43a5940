//! Reads the feed and the messages in it.
//!
//! Invariants:
//! * One reading is bounded in messages and in bytes.
//! * An unreadable message affects no other message. When a transaction fails, each message that it has tried to read is
//!   read by itself (`reading`). The messages that fail then are known as unreadable from then on, and become dead letters.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use outbox_core::filter::Subject;
use outbox_core::message::{Extra, Message};
use outbox_core::webhook_id::WebhookId;
use pgrx::pg_sys::{INT4OID, INT8ARRAYOID, INT8OID};

use crate::pg::catalog::LEAVES;
use crate::pg::scan;
use crate::pg::txn::{self, Failure, Plan, Row, arg};
use crate::sql::enqueue::column;

/// Microseconds from 1970 to 2000, PostgreSQL's epoch.
pub const UNIX_EPOCH: i64 = 946_684_800_000_000;

/// A message and its segment.
#[derive(Clone)]
pub struct Stored {
    pub segment: i16,
    pub message: Arc<Message>,
    pub attributes: Attributes,
    /// Why the content cannot be read. If the topic cannot be read either, it is empty.
    pub unreadable: Option<Arc<str>>,
}

/// Bytes of content that are read at once, not counting the last message: a chunk of large messages is never in memory as a
/// whole.
const READ_BYTES: usize = 16 << 20;
/// Messages that are remembered as unreadable. Beyond this number all are forgotten, and found again when they are read
/// again.
const UNREADABLE: usize = 10_000;

/// A message that cannot be read.
struct Unreadable {
    error: Arc<str>,
    /// The attributes that routing needs cannot be read either.
    wholly: bool,
}

/// The attributes that routing looks at, beyond the topic.
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

/// The result of a tick.
pub struct Ticked {
    pub status: Box<str>,
    pub first: i64,
    pub last: i64,
    pub more: bool,
    /// Ids of the messages at positions `first..=last`, ascending, and their segments.
    pub ids: Vec<i64>,
    pub segments: Vec<i16>,
}

/// Statements that read the feed and messages.
pub struct Reader {
    tick: Plan,
    feed: Plan,
    dense: [Plan; LEAVES + 1],
    sparse: [Plan; LEAVES + 1],
    /// Position, id and segment of the messages that the current transaction has tried to read.
    tried: Vec<(i64, i64, i16)>,
    unreadable: HashMap<i64, Unreadable>,
}

/// Runs `work` in a transaction. If the transaction fails because of unreadable messages, they are noted and `work` runs
/// again, so it must be repeatable.
pub fn reading<T>(
    reader: &mut Reader,
    mut work: impl FnMut(&mut Reader) -> outbox_core::Result<T>,
) -> Result<T, Failure> {
    loop {
        reader.tried.clear();
        match txn::run(|| work(reader)) {
            Err(failure) if !failure.is_transient() && txn::run(|| Ok(reader.find_unreadable()))? => {}
            outcome => return outcome,
        }
    }
}

/// Does the same as `reading`, in a subtransaction of the current transaction.
pub fn reading_inline<T>(
    reader: &mut Reader,
    mut work: impl FnMut(&mut Reader) -> outbox_core::Result<T>,
) -> Result<T, Failure> {
    loop {
        reader.tried.clear();
        match txn::attempt(|| work(reader)) {
            Err(failure) if !failure.is_transient() && reader.find_unreadable() => {}
            outcome => return outcome,
        }
    }
}

/// One plan per leaf, and one for the retained messages that outlived their leaf: a statement on one leaf needs no partition
/// pruning at run time.
macro_rules! leaf_plans {
    ($condition:literal, $types:expr) => {
        leaf_plans!($condition, $types, "00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12",
            "13", "14", "15", "retained")
    };
    ($condition:literal, $types:expr, $($leaf:literal),*) => {
        [$(Plan::new(
            concat!(
                "select m.* from outbox._message_", $leaf, " m where ", $condition, " order by m.id"
            ),
            $types,
        )),*]
    };
}

impl Reader {
    pub fn new() -> Reader {
        Reader {
            tick: Plan::new(
                "select t.status, t.first_position, t.last_position, t.more, t.message_ids, t.segments
                from outbox_internal.tick($1) t",
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
            tried: Vec::new(),
            unreadable: HashMap::new(),
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

    /// Reads the messages after `after` up to `upto`, in order, from at most `rows` rows of the feed. Returns them, and the
    /// position up to which they have been read.
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
        let (messages, read) = self.messages(first, &ids, &segments);
        (messages, if read < ids.len() { first + read as i64 - 1 } else { end })
    }

    /// Reads the messages of consecutive positions from `first` on. Returns them, and the number of ids that have been read:
    /// all, or as many as `READ_BYTES` allows. A message that is gone (removed by retention, or erased) is left out.
    pub fn messages(&mut self, first: i64, ids: &[i64], segments: &[i16]) -> (Vec<Stored>, usize) {
        let Reader { dense, sparse, tried, unreadable, .. } = self;
        tried.extend((first..).zip(ids).zip(segments).map(|((position, id), segment)| (position, *id, *segment)));
        let mut found: Vec<Option<Stored>> = vec![None; ids.len()];
        let (mut start, mut bytes, mut read) = (0, 0, ids.len());
        while start < read {
            // A run is a stretch of one segment with ascending ids: one row of the feed is one, and usually a whole tick.
            let segment = segments[start];
            let mut end = start + 1;
            while end < ids.len() && segments[end] == segment && ids[end] > ids[end - 1] {
                end += 1;
            }
            let run = &ids[start..end];
            // A negative segment: the message outlived its leaf.
            let leaf = if segment < 0 { LEAVES } else { segment.rem_euclid(LEAVES as i16) as usize };
            let (low, high) = (run[0], run[run.len() - 1]);
            // Ids ascend, so everything that is left out comes after everything that is read.
            let mut take = |row: &Row| {
                let id = row.int(column::ID);
                if let Ok(i) = run.binary_search(&id).map(|i| start + i)
                    && i < read
                {
                    if bytes >= READ_BYTES {
                        read = i;
                        return;
                    }
                    let error = unreadable.get(&id).map(|known| Arc::clone(&known.error));
                    found[i] = stored(row, segment, first + i as i64, error);
                    bytes += found[i].as_ref().map_or(0, |stored| stored.message.content.len());
                }
            };
            let lost = |id: &i64| unreadable.get(id).is_some_and(|known| known.wholly);
            // A range is one walk through the index. Ids missing in between belong to other ticks, or to no message.
            if !unreadable.is_empty() && run.iter().any(lost) {
                let rest: Vec<i64> = run.iter().copied().filter(|id| !lost(id)).collect();
                sparse[leaf].execute(&[arg(rest)]).for_each(take);
                for (i, id) in run.iter().enumerate().filter(|(_, id)| lost(id)) {
                    found[start + i] =
                        unreadable.get(id).map(|known| nothing_of(*id, segment, first + (start + i) as i64, known));
                }
            } else if high - low >= 2 * run.len() as i64 {
                sparse[leaf].execute(&[arg(run.to_vec())]).for_each(take);
            } else if leaf == LEAVES || !scan::messages(leaf, low, high, &mut take) {
                dense[leaf].execute(&[arg(low), arg(high)]).for_each(take);
            }
            start = end;
        }
        found.truncate(read);
        (found.into_iter().flatten().collect(), read)
    }

    /// Reads one message.
    pub fn message(&mut self, position: i64, id: i64, segment: i16) -> Option<Stored> {
        self.messages(position, &[id], &[segment]).0.pop()
    }

    /// Reads each message that the failed transaction has tried to read, by itself, and notes the unreadable ones. Returns
    /// whether there are any. Inside a transaction.
    fn find_unreadable(&mut self) -> bool {
        if self.unreadable.len() >= UNREADABLE {
            self.unreadable.clear();
        }
        let mut found = false;
        for (position, id, segment) in std::mem::take(&mut self.tried) {
            // First without the content, then without any part of the message.
            while let Err(failure) = txn::attempt(|| Ok(self.message(position, id, segment))) {
                let known = self.unreadable.get(&id).map(|known| known.wholly);
                if failure.is_transient() || known == Some(true) {
                    break;
                }
                pgrx::log!("pg_outbox: message {id} at position {position} cannot be read: {failure}");
                let error = match self.unreadable.remove(&id) {
                    Some(known) => known.error,
                    None => failure.message.into(),
                };
                self.unreadable.insert(id, Unreadable { error, wholly: known.is_some() });
                found = true;
            }
        }
        self.tried.clear();
        found
    }
}

/// A message of which nothing can be read.
fn nothing_of(id: i64, segment: i16, position: i64, known: &Unreadable) -> Stored {
    Stored {
        segment,
        message: Arc::new(Message { id, position, ..Message::default() }),
        attributes: Attributes::default(),
        unreadable: Some(Arc::clone(&known.error)),
    }
}

/// A message as it is stored, without its content if that is known to be unreadable. Returns `None` for an erased message.
fn stored(row: &Row, segment: i16, position: i64, unreadable: Option<Arc<str>>) -> Option<Stored> {
    let id = row.int(column::ID);
    let enqueued_at = row.int(column::ENQUEUED_AT).saturating_add(UNIX_EPOCH);
    let content = match &unreadable {
        Some(_) if row.is_null(column::PAYLOAD) && row.is_null(column::BODY) => return None,
        Some(_) => Vec::new(),
        None => row.json(column::PAYLOAD, <[u8]>::to_vec).or_else(|| row.bytes(column::BODY))?,
    };
    let object = |column| row.json(column, |text| serde_json::from_slice(text).ok()).flatten();
    let headers = object(column::HEADERS).map(Arc::new);
    let extra = Extra {
        headers: headers.clone(),
        metadata: if unreadable.is_none() { object(column::METADATA) } else { None },
        tenant: row.text(column::TENANT),
        aggregate_type: row.text(column::AGGREGATE_TYPE),
        aggregate_id: row.text(column::AGGREGATE_ID),
        publisher: row.text(column::PUBLISHER),
        idempotency_key: row.text(column::IDEMPOTENCY_KEY),
        occurred_at: row.get::<i64>(column::OCCURRED_AT).map(|at| at.saturating_add(UNIX_EPOCH)),
    };
    Some(Stored {
        segment,
        unreadable,
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

/// The attributes that filters look at.
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
