//! Ordered push subscriptions: one delivery of a key at a time, in position order.
//!
//! While the first delivery of a key is in flight, later ones of the key wait in memory. If it fails, they become blocked
//! rows of outbox.delivery, in the transaction that records the failure: a long wait is in the table, a short one in memory.
//! From then on every message of the key becomes a row, until the key has no rows left.
//!
//! These rows are sent in order, in chains: when the first row of a key is sent, the next ones wait in memory again, and
//! stay blocked in the table until their turn. Their number is bounded (`blocked`): a subscription with too many rows lags.
//!
//! Invariants:
//! * At most one delivery of a key is in flight.
//! * A message is sent at once only if no other delivery of its key is in flight, waits here, or has a row.

use std::collections::{HashMap, HashSet, VecDeque};

use pgrx::pg_sys::{INT4ARRAYOID, INT8ARRAYOID, TEXTARRAYOID};

use crate::dispatch::feed::Stored;
use crate::dispatch::subscriptions::{Ordering, Subscription};
use crate::pg::txn::{Failure, Plan, arg};
use crate::worker::fault::{Faults, Kind, apart};

/// A subscription and one of its keys. The key of a strict subscription is empty.
pub type OrderKey = (i32, Box<str>);

/// The key by which a message is ordered for this subscription; `None` if the message waits for no other.
pub fn key_of(id: i32, subscription: &Subscription, stored: &Stored) -> Option<OrderKey> {
    match subscription.ordering {
        Ordering::None => None,
        Ordering::Key => stored.message.key.clone().map(|key| (id, key)),
        Ordering::Strict => Some((id, "".into())),
    }
}

/// The attributes of an attempt, without its message.
pub struct Attempt {
    /// Row of outbox.delivery; 0: none.
    pub delivery_id: i64,
    pub number: u32,
    /// No attempt starts at or after this time (microseconds, PostgreSQL's epoch).
    pub expires: Option<i64>,
    /// 0: live; above 0: the id of the replay.
    pub run: i64,
    /// The webhook id gets the replay's suffix.
    pub new_id: bool,
}

impl Attempt {
    /// The first attempt of a live delivery, which has no row.
    pub fn first(expires: Option<i64>) -> Attempt {
        Attempt { delivery_id: 0, number: 1, expires, run: 0, new_id: false }
    }
}

/// A delivery that waits for the one before it.
pub struct Waiting {
    pub stored: Stored,
    pub attempt: Attempt,
}

/// The queue of a key that is not idle.
#[derive(Default)]
struct KeyQueue {
    /// A delivery of the key is in flight.
    busy: bool,
    waiting: VecDeque<Waiting>,
}

/// Whether a message can be sent.
#[derive(PartialEq, Eq, Debug)]
pub enum Readiness {
    /// Send it.
    Send,
    /// Let it wait in memory for the delivery in flight.
    Wait,
    /// Make it a row, after others of its key.
    Row,
}

/// The keys that are not idle.
pub struct Order {
    queues: HashMap<OrderKey, KeyQueue>,
    /// Keys that have rows, or a dead letter that blocks them.
    rows: HashSet<OrderKey>,
    record: Plan,
    /// Results of ordered deliveries since the last record.
    notes: Vec<Note>,
    remaining: Plan,
    all: Plan,
}

/// The result of an ordered delivery.
struct Note {
    key: OrderKey,
    position: i64,
    message_id: i64,
    what: &'static str,
}

impl Order {
    pub fn new() -> Order {
        Order {
            queues: HashMap::new(),
            rows: HashSet::new(),
            record: Plan::new(
                "select outbox_internal.record_lanes($1, $2, $3, $4, $5)",
                &[INT4ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID],
            ),
            notes: Vec::new(),
            remaining: Plan::new(
                "select r.subscription_id, r.key from outbox_internal.keys_with_rows($1, $2) r",
                &[INT4ARRAYOID, TEXTARRAYOID],
            ),
            all: Plan::new("select r.subscription_id, r.key from outbox_internal.all_keys_with_rows() r", &[]),
        }
    }

    /// Decides whether a message can be sent that is seen for the first time.
    pub fn first(&mut self, key: &OrderKey) -> Readiness {
        if self.rows.contains(key) {
            return Readiness::Row;
        }
        let queue = self.queues.entry(key.clone()).or_default();
        if queue.busy {
            return Readiness::Wait;
        }
        queue.busy = true;
        Readiness::Send
    }

    /// Whether a row that is due may be sent now. If so, the key is busy from then on.
    pub fn row(&mut self, key: &OrderKey) -> bool {
        self.rows.insert(key.clone());
        let queue = self.queues.entry(key.clone()).or_default();
        !std::mem::replace(&mut queue.busy, true)
    }

    /// Queues a delivery for the one in flight, in position order.
    pub fn wait(&mut self, key: &OrderKey, waiting: Waiting) {
        if let Some(queue) = self.queues.get_mut(key) {
            let position = waiting.stored.message.position;
            let index = queue.waiting.iter().rposition(|w| w.stored.message.position <= position).map_or(0, |i| i + 1);
            queue.waiting.insert(index, waiting);
        }
    }

    /// Removes the waiting deliveries that have rows, to give them back to the table: a session may have changed the rows.
    pub fn give_back_rows(&mut self) -> Vec<(i32, Waiting)> {
        let mut given = Vec::new();
        for (key, queue) in &mut self.queues {
            let (rows, rest) = std::mem::take(&mut queue.waiting).into_iter().partition(|w| w.attempt.delivery_id != 0);
            let rows: VecDeque<Waiting> = rows;
            queue.waiting = rest;
            given.extend(rows.into_iter().map(|waiting| (key.0, waiting)));
        }
        given
    }

    /// Called when the delivery in flight has ended for good. Returns the next one, which counts as in flight from then on.
    pub fn next(&mut self, key: &OrderKey) -> Option<Waiting> {
        let queue = self.queues.get_mut(key)?;
        let next = queue.waiting.pop_front();
        if next.is_none() {
            self.queues.remove(key);
        }
        next
    }

    /// Called when the delivery in flight will be retried, or blocks its key. Returns the waiting deliveries, which become
    /// rows.
    pub fn stop(&mut self, key: &OrderKey) -> VecDeque<Waiting> {
        self.rows.insert(key.clone());
        self.queues.remove(key).map(|queue| queue.waiting).unwrap_or_default()
    }

    /// Whether a key is known to have rows.
    pub fn has_rows(&self, key: &OrderKey) -> bool {
        self.rows.contains(key)
    }

    /// Notes the result of a delivery for the next record: `failed`, `dead` or `ended`.
    pub fn note(&mut self, key: OrderKey, position: i64, message_id: i64, what: &'static str) {
        self.notes.push(Note { key, position, message_id, what });
    }

    /// Records the results. Inside the transaction that records the outcomes: after the outcomes, and before the rows that
    /// wait for these keys.
    pub fn record(&mut self) {
        write(&mut self.record, &self.notes);
    }

    /// Records the results, and item by item where something fails.
    pub fn record_apart(&mut self, faults: &mut Faults) -> Result<(), Failure> {
        let Order { notes, record, .. } = self;
        for (place, failure) in apart(notes, &mut |notes| {
            write(record, notes);
            Ok(())
        })? {
            faults.found(Kind::Message, notes[place].message_id, "record", &failure);
        }
        Ok(())
    }

    /// Reads which of the keys still have rows. Inside the same transaction, after everything that makes rows.
    pub fn reread_noted(&mut self) {
        if self.notes.is_empty() {
            return;
        }
        let Order { notes, remaining, rows, .. } = self;
        let (ids, keys): (Vec<i32>, Vec<&str>) = notes.iter().map(|n| (n.key.0, &*n.key.1)).unzip();
        let mut left: HashSet<OrderKey> = HashSet::new();
        remaining.execute(&[arg(ids), arg(keys)]).for_each(|row| {
            left.insert((row.get(0).unwrap_or_default(), row.text(1).unwrap_or_default()));
        });
        for note in notes.iter() {
            if left.contains(&note.key) {
                rows.insert(note.key.clone());
            } else {
                rows.remove(&note.key);
            }
        }
    }

    /// Called when the transaction has committed. Returns whether keys have been freed.
    pub fn recorded(&mut self) -> bool {
        let freed = self.notes.iter().any(|note| note.what != "failed");
        self.notes.clear();
        freed
    }

    /// Reads all keys that have rows: other sessions may have changed rows or dead letters. `unrecorded` has the keys whose
    /// rows are not in the table yet. Inside a transaction.
    pub fn rescan(&mut self, unrecorded: impl Iterator<Item = OrderKey>) {
        let (found, rows) = (self.all.execute(&[]), &mut self.rows);
        // Cleared only now: if the query fails, the keys that were known to have rows stay.
        rows.clear();
        found.for_each(|row| {
            rows.insert((row.get(0).unwrap_or_default(), row.text(1).unwrap_or_default()));
        });
        // A key whose result is not recorded yet may get a row by it; `reread_noted` then finds out.
        rows.extend(self.notes.iter().map(|note| note.key.clone()));
        rows.extend(unrecorded);
    }
}

/// Writes the results of these deliveries.
fn write(plan: &mut Plan, notes: &[Note]) {
    if notes.is_empty() {
        return;
    }
    let (ids, keys): (Vec<i32>, Vec<&str>) = notes.iter().map(|n| (n.key.0, &*n.key.1)).unzip();
    plan.execute(&[
        arg(ids),
        arg(notes.iter().map(|n| n.position).collect::<Vec<i64>>()),
        arg(notes.iter().map(|n| n.message_id).collect::<Vec<i64>>()),
        arg(keys),
        arg(notes.iter().map(|n| n.what).collect::<Vec<_>>()),
    ]);
}
