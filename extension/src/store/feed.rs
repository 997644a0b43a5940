//! Reads the feed and the messages in it.
//!
//! Invariants:
//! * One reading is bounded in messages and in bytes.
//! * An unreadable message affects no other message. When a transaction fails, each message that it has tried to read is
//!   read by itself (`reading`). The messages that fail then are known as unreadable from then on, and become dead letters.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use outbox_core::message::{Extra, Message};
use outbox_core::stream;
use outbox_core::webhook_id::WebhookId;
use outbox_dispatch::feed::{Attributes, Part, Place, Stored, TickStatus, Ticked, UNIX_EPOCH};
use pgrx::Uuid;
use pgrx::pg_sys::{INT4OID, INT8ARRAYOID, INT8OID};

use crate::pg::catalog::LEAVES;
use crate::pg::scan;
use crate::pg::txn::{self, Failure, Plan, Row, arg};
use crate::sql::enqueue::column;

/// Bytes of content that are read at once, not counting the last message: a chunk of large messages is never in memory as a
/// whole.
const READ_BYTES: usize = 16 << 20;
/// Positions that are read at once, as many as the longest row of the feed has, and the rows that may have to be read for them.
const READ_POSITIONS: usize = 960;
const READ_ROWS: i64 = 128;
/// Messages that are remembered as unreadable. Beyond this number all are forgotten, and found again when they are read
/// again.
const UNREADABLE: usize = 10_000;

/// A message that cannot be read.
struct Unreadable {
    error: Arc<str>,
    /// The attributes that routing needs cannot be read either.
    wholly: bool,
}

/// Statements that read the feed and messages.
pub struct Reader {
    tick: Plan,
    feed: Plan,
    /// Rows of the feed that the next reading takes. A tick writes a row, so the rows of a quiet time are short.
    rows: i64,
    dense: [Plan; LEAF_NAMES.len()],
    sparse: [Plan; LEAF_NAMES.len()],
    cancelled_among: Plan,
    payload: Plan,
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

/// The last parts of the names of the leaves of outbox.message: those of the ring, the messages that outlived their leaf, and
/// the events.
const LEAF_NAMES: [&str; LEAVES + 2] = [
    "00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "15", "retained", "event",
];

/// Index in `LEAF_NAMES` of the leaf with this segment.
fn leaf_of(segment: i16) -> usize {
    match segment {
        stream::SEGMENT => LEAVES + 1,
        // The message outlived its leaf.
        ..0 => LEAVES,
        _ => segment.rem_euclid(LEAVES as i16) as usize,
    }
}

/// One plan per leaf: a statement on one leaf needs no partition pruning at run time.
macro_rules! leaf_plans {
    ($condition:literal, $types:expr) => {
        leaf_plans!($condition, $types, "00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12",
            "13", "14", "15", "retained", "event")
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
                // A row of the permanent leaf may name messages and events. Its events are looked up.
                "select f.first_position, f.message_segment, f.message_ids,
                    case when f.segment = -2 and f.message_segment <> -2 then array(
                        select e.id from outbox._message_event e where e.id = any (f.message_ids)
                    ) end
                from outbox.feed f
                where f.first_position >= coalesce((
                        select p.first_position from outbox.feed p
                        where p.first_position <= $1 + 1
                        order by p.first_position desc limit 1
                    ), 0)
                    and f.last_position > $1 and f.first_position <= $2
                order by f.first_position
                limit $3",
                &[INT8OID, INT8OID, INT8OID],
            ),
            rows: 2,
            dense: leaf_plans!("m.id between $1 and $2", &[INT8OID, INT8OID]),
            sparse: leaf_plans!("m.id = any ($1)", &[INT8ARRAYOID]),
            cancelled_among: Plan::new(
                "select c.message_id from outbox.cancelled c where c.message_id between $1 and $2",
                &[INT8OID, INT8OID],
            ),
            payload: Plan::new("select d.payload from outbox.delivery d where d.id = $1", &[INT8OID]),
            tried: Vec::new(),
            unreadable: HashMap::new(),
        }
    }

    /// Runs the sequencer. If `after` is given and the first numbered position is the next one, the numbered messages are
    /// read as well. Inside a transaction, and used only after it has committed.
    pub fn tick(&mut self, chunk: i32, after: Option<i64>) -> Ticked {
        let rows = self.tick.execute(&[arg(chunk)]);
        let ticked = rows.first(|row| {
            let status = match &*row.text(0).unwrap_or_default() {
                "ticked" | "idle" => TickStatus::Ticked,
                "busy" => TickStatus::Busy,
                "copied" => TickStatus::Copied,
                "fresh" => TickStatus::Fresh,
                other => TickStatus::Refused(other.into()),
            };
            let ids: Vec<i64> = row.get(4).unwrap_or_default();
            let segments: Vec<i16> = row.get(5).unwrap_or_default();
            let more = row.get(3).unwrap_or(false);
            (Ticked { status, found: ids.len(), last: row.int(2), more, part: None }, row.int(1), ids, segments)
        });
        let Some((ticked, first, ids, segments)) = ticked else {
            return Ticked { status: TickStatus::Refused("".into()), found: 0, last: 0, more: false, part: None };
        };
        if after.is_none_or(|after| first != after + 1) || ids.is_empty() {
            return ticked;
        }
        let (messages, read) = self.messages(first, &ids, &segments);
        let cancelled = self.cancelled_among(&messages);
        Ticked { part: Some(Part { messages, upto: first + read as i64 - 1, cancelled }), ..ticked }
    }

    /// Ids of those of these messages that are cancelled.
    pub fn cancelled_among(&mut self, messages: &[Stored]) -> Vec<i64> {
        let ids = || messages.iter().map(|stored| stored.message.id);
        let mut cancelled = Vec::new();
        if let (Some(from), Some(to)) = (ids().min(), ids().max()) {
            self.cancelled_among.execute(&[arg(from), arg(to)]).for_each(|row| cancelled.push(row.int(0)));
            if !cancelled.is_empty() {
                let read: HashSet<i64> = ids().collect();
                cancelled.retain(|id| read.contains(id));
            }
        }
        cancelled
    }

    /// Reads at most `READ_POSITIONS` messages after `after` up to `upto`, in order. Returns them, and the position up to which
    /// they have been read.
    pub fn read(&mut self, after: i64, upto: i64) -> (Vec<Stored>, i64) {
        let (mut ids, mut segments, mut first, mut end) = (Vec::new(), Vec::new(), 0, after);
        self.feed.execute(&[arg(after), arg(upto), arg(self.rows)]).for_each(|row| {
            let start = row.int(0);
            let segment: i16 = row.get(1).unwrap_or_default();
            let mut events: Vec<i64> = row.get(3).unwrap_or_default();
            events.sort_unstable();
            for (position, id) in (start..).zip(row.get::<Vec<i64>>(2).unwrap_or_default()) {
                // Below the tail the feed has holes, where messages were removed beside events. A reading ends at a hole.
                let is_next = first == 0 || position == end + 1;
                if position > after && position <= upto && is_next && ids.len() < READ_POSITIONS {
                    if first == 0 {
                        first = position;
                    }
                    end = position;
                    ids.push(id);
                    let is_event = events.binary_search(&id).is_ok();
                    segments.push(if is_event { stream::SEGMENT } else { segment });
                }
            }
        });
        // The next reading takes as many rows as have that many positions, if its rows are like these.
        self.rows =
            (self.rows * READ_POSITIONS as i64 / ids.len().max(1) as i64).clamp(1, READ_ROWS.min(2 * self.rows));
        let (messages, read) = self.messages(first, &ids, &segments);
        (messages, if read < ids.len() { first + read as i64 - 1 } else { end })
    }

    /// Reads the messages of consecutive positions from `first` on. Returns them, and the number of ids that have been read:
    /// all, or as many as `READ_BYTES` allows. A message that is gone (removed by retention, or erased) is left out.
    pub fn messages(&mut self, first: i64, ids: &[i64], segments: &[i16]) -> (Vec<Stored>, usize) {
        let Reader { dense, sparse, tried, unreadable, .. } = self;
        tried.extend((first..).zip(ids).zip(segments).map(|((position, id), segment)| (position, *id, *segment)));
        let mut found: Vec<Option<Stored>> = vec![None; ids.len()];
        let (mut start, mut total, mut read) = (0, 0, ids.len());
        while start < read {
            // A run is a stretch of messages of one leaf, and of events between them, with ascending ids: one row of the feed
            // is one, and usually a whole tick.
            let mut kinds = [Some(segments[start]), None];
            let mut end = start + 1;
            while end < ids.len() && ids[end] > ids[end - 1] && joins(&mut kinds, segments[end]) {
                end += 1;
            }
            let run = &ids[start..end];
            let before = total;
            for segment in kinds.into_iter().flatten() {
                let part: Cow<[i64]> = match kinds[1] {
                    None => run.into(),
                    Some(_) => (start..end).filter(|i| segments[*i] == segment).map(|i| ids[i]).collect(),
                };
                let leaf = leaf_of(segment);
                let (low, high) = (part[0], part[part.len() - 1]);
                // Each part is read up to the limit, so that each of them goes on.
                let mut bytes = before;
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
                if !unreadable.is_empty() && part.iter().any(lost) {
                    let rest: Vec<i64> = part.iter().copied().filter(|id| !lost(id)).collect();
                    sparse[leaf].execute(&[arg(rest)]).for_each(take);
                    for id in part.iter().filter(|id| lost(id)) {
                        let Ok(i) = run.binary_search(id).map(|i| start + i) else { continue };
                        found[i] = unreadable.get(id).map(|known| nothing_of(*id, segment, first + i as i64, known));
                    }
                } else if high - low >= 2 * part.len() as i64 {
                    sparse[leaf].execute(&[arg(part.to_vec())]).for_each(take);
                } else if leaf == LEAVES || !scan::messages(LEAF_NAMES[leaf], low, high, &mut take) {
                    dense[leaf].execute(&[arg(low), arg(high)]).for_each(take);
                }
                total += bytes - before;
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

    /// Reads messages of any positions: all, or as many as `READ_BYTES` allows.
    pub fn messages_at(&mut self, places: &[Place]) -> Vec<Option<Stored>> {
        let (mut messages, mut bytes) = (Vec::new(), 0);
        for place in places {
            if bytes >= READ_BYTES {
                break;
            }
            let mut stored = self.message(place.position, place.message_id, place.segment);
            if place.payload_of != 0 {
                // A row that is gone meanwhile has ended.
                let payload = self.payload.execute(&[arg(place.payload_of)]).first(|row| row.json(0, <[u8]>::to_vec));
                stored = stored.zip(payload.flatten()).map(|(message, payload)| message.with_payload(payload.into()));
            }
            bytes += stored.as_ref().map_or(0, |stored| stored.message.content.len());
            messages.push(stored);
        }
        messages
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

/// Whether a message of this segment belongs into a run of these kinds: of one leaf, and events.
fn joins(kinds: &mut [Option<i16>; 2], segment: i16) -> bool {
    if kinds[0] != Some(segment)
        && kinds[1].is_none()
        && (segment == stream::SEGMENT || kinds[0] == Some(stream::SEGMENT))
    {
        kinds[1] = Some(segment);
    }
    kinds.contains(&Some(segment))
}

/// A message of which nothing can be read.
fn nothing_of(id: i64, segment: i16, position: i64, known: &Unreadable) -> Stored {
    Stored {
        segment,
        message: Arc::new(Message { id, position, ..Message::default() }),
        attributes: Attributes::default(),
        unreadable: Some(Arc::clone(&known.error)),
        transformed: false,
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
    let key = row.text(column::KEY);
    // The aggregate of an event is in the name of its stream.
    let (aggregate_type, aggregate_id) = match key.as_deref().filter(|_| segment == stream::SEGMENT) {
        Some(name) => (Some(stream::category(name).into()), stream::key(name).map(Into::into)),
        None => (row.text(column::AGGREGATE_TYPE), row.text(column::AGGREGATE_ID)),
    };
    let extra = Extra {
        headers: headers.clone(),
        metadata: if unreadable.is_none() { object(column::METADATA) } else { None },
        tenant: row.text(column::TENANT),
        aggregate_type: aggregate_type.clone(),
        aggregate_id: aggregate_id.clone(),
        publisher: row.text(column::PUBLISHER),
        idempotency_key: row.text(column::IDEMPOTENCY_KEY),
        occurred_at: row.get::<i64>(column::OCCURRED_AT).map(|at| at.saturating_add(UNIX_EPOCH)),
        version: row.get(column::VERSION),
        event_id: row.get::<Uuid>(column::EVENT_ID).map(|id| id.to_string().into()),
    };
    Some(Stored {
        segment,
        unreadable,
        transformed: false,
        message: Arc::new(Message {
            id,
            position,
            enqueued_at,
            topic: row.text(column::TOPIC).unwrap_or_default(),
            key,
            content: Bytes::from(content),
            content_type: row.text(column::CONTENT_TYPE),
            webhook_id: WebhookId { message_id: id, enqueued_at }.text(),
            extra: (extra != Extra::default()).then(|| Box::new(extra)),
        }),
        attributes: Attributes {
            tenant: row.text(column::TENANT),
            aggregate_type,
            aggregate_id,
            headers,
            max_attempts: row.get(column::MAX_ATTEMPTS),
            priority: row.get(column::PRIORITY).unwrap_or_default(),
            deliver_at: row.get(column::DELIVER_AT),
            expires_at: row.get(column::EXPIRES_AT),
        },
    })
}
