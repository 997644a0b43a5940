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

use crate::feed::Stored;
use crate::subscriptions::{Ordering, Subscription};

/// A subscription and one of its keys. The key of a strict subscription is empty.
pub type OrderKey = (i32, Box<str>);

/// The key by which a message is ordered for this subscription; `None` if the message waits for no other.
pub(crate) fn key_of(id: i32, subscription: &Subscription, stored: &Stored) -> Option<OrderKey> {
    match subscription.ordering {
        Ordering::None => None,
        Ordering::Key => stored.message.key.clone().map(|key| (id, key)),
        Ordering::Strict => Some((id, "".into())),
    }
}

/// The attributes of an attempt, without its message.
#[derive(Debug)]
pub(crate) struct Attempt {
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
    pub(crate) fn first(expires: Option<i64>) -> Attempt {
        Attempt { delivery_id: 0, number: 1, expires, run: 0, new_id: false }
    }
}

/// A delivery that waits for the one before it.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub stored: Stored,
    pub attempt: Attempt,
}

/// The queue of a key that is not idle.
#[derive(Debug, Default)]
struct KeyQueue {
    /// A delivery of the key is in flight.
    busy: bool,
    waiting: VecDeque<Waiting>,
}

/// Whether a message can be sent.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Readiness {
    /// Send it.
    Send,
    /// Let it wait in memory for the delivery in flight.
    Wait,
    /// Make it a row, after others of its key.
    Row,
}

/// The keys that are not idle.
#[derive(Debug, Default)]
pub(crate) struct Order {
    queues: HashMap<OrderKey, KeyQueue>,
    /// Keys that have rows, or a dead letter that blocks them.
    rows: HashSet<OrderKey>,
    /// Results of ordered deliveries since the last record.
    notes: Vec<Note>,
}

/// The result of an ordered delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The delivery's key.
    pub key: OrderKey,
    /// Position of the message.
    pub position: i64,
    /// Id of the message.
    pub message_id: i64,
    /// `failed`: the delivery is tried again. `dead`: it is a dead letter. `ended`: neither.
    pub what: &'static str,
}

impl Order {
    /// Decides whether a message can be sent that is seen for the first time.
    pub(crate) fn first(&mut self, key: &OrderKey) -> Readiness {
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

    /// Whether a row that is due may be sent now. If so, the key is busy from then on. `keyed`: the row takes part in the
    /// order of its key. Another row is no reason for later messages to become rows: they would come after it in the table,
    /// and before the messages of the key that wait in memory.
    pub(crate) fn row(&mut self, key: &OrderKey, keyed: bool) -> bool {
        if keyed {
            self.rows.insert(key.clone());
        }
        let queue = self.queues.entry(key.clone()).or_default();
        !std::mem::replace(&mut queue.busy, true)
    }

    /// Queues a delivery for the one in flight, in position order.
    pub(crate) fn wait(&mut self, key: &OrderKey, waiting: Waiting) {
        if let Some(queue) = self.queues.get_mut(key) {
            let position = waiting.stored.message.position;
            let index = queue.waiting.iter().rposition(|w| w.stored.message.position <= position).map_or(0, |i| i + 1);
            queue.waiting.insert(index, waiting);
        }
    }

    /// Removes the waiting deliveries that have rows, to give them back to the table: a session may have changed the rows.
    pub(crate) fn give_back_rows(&mut self) -> Vec<(i32, Waiting)> {
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
    pub(crate) fn next(&mut self, key: &OrderKey) -> Option<Waiting> {
        let queue = self.queues.get_mut(key)?;
        let next = queue.waiting.pop_front();
        if next.is_none() {
            self.queues.remove(key);
        }
        next
    }

    /// Called when the delivery in flight will be retried, or blocks its key. Returns the waiting deliveries, which become
    /// rows.
    pub(crate) fn stop(&mut self, key: &OrderKey) -> VecDeque<Waiting> {
        self.rows.insert(key.clone());
        self.queues.remove(key).map(|queue| queue.waiting).unwrap_or_default()
    }

    /// Whether a key is known to have rows.
    pub(crate) fn has_rows(&self, key: &OrderKey) -> bool {
        self.rows.contains(key)
    }

    /// Notes the result of a delivery for the next record.
    pub(crate) fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// The results since the last record.
    pub(crate) fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Called when the results have been recorded. `with_rows`: those of their keys that still have rows. Returns whether
    /// keys have been freed.
    pub(crate) fn recorded(&mut self, with_rows: Vec<OrderKey>) -> bool {
        for note in &self.notes {
            self.rows.remove(&note.key);
        }
        self.rows.extend(with_rows);
        let freed = self.notes.iter().any(|note| note.what != "failed");
        self.notes.clear();
        freed
    }

    /// Takes over all keys that have rows: other sessions may have changed rows or dead letters. `unrecorded` has the keys
    /// whose rows are not in the table yet.
    pub(crate) fn rescan(&mut self, keys: Vec<OrderKey>, unrecorded: impl Iterator<Item = OrderKey>) {
        self.rows.clear();
        self.rows.extend(keys);
        // A key whose result is not recorded yet may get a row by it; the record then finds out.
        self.rows.extend(self.notes.iter().map(|note| note.key.clone()));
        self.rows.extend(unrecorded);
    }
}
