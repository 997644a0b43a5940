//! Push subscriptions with an order: one delivery of a key at a time, in position order.
//!
//! While the first of a key is under way, those behind it wait in memory. When it fails they become blocked rows of
//! outbox.delivery behind it, in the transaction that records the failure: what waits for long is in the table, what waits for a
//! moment is not. From then on every message of the key becomes a row, until there is none left.
//!
//! Those rows come back in order, by chains: when the first of a key is sent, the next ones wait in memory behind it again,
//! and their rows stay blocked until it is their turn. Their number is bounded (`blocked`): a subscription that has too many
//! lags.
//!
//! Invariants:
//! * Of a key at most one delivery is with the HTTP thread.
//! * A message is sent at once only when nothing of its key is in flight, waits here, or has a row.

use std::collections::{HashMap, HashSet, VecDeque};

use pgrx::pg_sys::{INT4ARRAYOID, INT8ARRAYOID, TEXTARRAYOID};

use super::config::{Ordering, Subscription};
use super::fault::{Faults, Kind, apart};
use super::route::Stored;
use super::txn::{Failure, Plan, arg};

/// A subscription and one of its keys; of a strict subscription the key is empty.
pub type Lane = (i32, Box<str>);

/// The lane of a message of this subscription; `None`: it waits for no other.
pub fn lane(id: i32, subscription: &Subscription, stored: &Stored) -> Option<Lane> {
    match subscription.ordering {
        Ordering::None => None,
        Ordering::Key => stored.message.key.clone().map(|key| (id, key)),
        Ordering::Strict => Some((id, "".into())),
    }
}

/// What is known of a try beyond its message.
pub struct Seat {
    /// Row of outbox.delivery; 0: none.
    pub delivery_id: i64,
    pub attempt: u32,
    /// Not tried from here on (microseconds, PostgreSQL's epoch).
    pub expires: Option<i64>,
    /// 0: live; above 0: the replay of that id.
    pub run: i64,
    /// The webhook id gets the replay's suffix.
    pub new_id: bool,
}

impl Seat {
    /// The first try of a live delivery, which has no row.
    pub fn first(expires: Option<i64>) -> Seat {
        Seat { delivery_id: 0, attempt: 1, expires, run: 0, new_id: false }
    }
}

/// A delivery that waits for the one before it.
pub struct Waiting {
    pub stored: Stored,
    pub seat: Seat,
}

/// What is known of a key that is not idle.
#[derive(Default)]
struct State {
    /// One of it is with the HTTP thread.
    busy: bool,
    waiting: VecDeque<Waiting>,
}

/// What to do with a message.
#[derive(PartialEq, Eq, Debug)]
pub enum Turn {
    /// Send it.
    Send,
    /// It waits in memory behind the one that is under way.
    Wait,
    /// It becomes a row behind others of its key.
    Row,
}

/// The keys that are not idle.
pub struct Order {
    lanes: HashMap<Lane, State>,
    /// Keys that have rows, or a dead letter that blocks them.
    rows: HashSet<Lane>,
    record: Plan,
    /// What has happened to deliveries with a lane since the last record.
    notes: Vec<Note>,
    remaining: Plan,
    all: Plan,
}

/// What became of a delivery with a lane.
struct Note {
    lane: Lane,
    position: i64,
    message_id: i64,
    what: &'static str,
}

impl Order {
    pub fn new() -> Order {
        Order {
            lanes: HashMap::new(),
            rows: HashSet::new(),
            record: Plan::new(
                "select outbox._record_lanes($1, $2, $3, $4, $5)",
                &[INT4ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID],
            ),
            notes: Vec::new(),
            remaining: Plan::new(
                "select r.subscription_id, r.key from outbox._keys_with_rows($1, $2) r",
                &[INT4ARRAYOID, TEXTARRAYOID],
            ),
            all: Plan::new("select r.subscription_id, r.key from outbox._all_keys_with_rows() r", &[]),
        }
    }

    /// Whose turn it is when a message is seen for the first time.
    pub fn first(&mut self, lane: &Lane) -> Turn {
        if self.rows.contains(lane) {
            return Turn::Row;
        }
        let state = self.lanes.entry(lane.clone()).or_default();
        if state.busy {
            return Turn::Wait;
        }
        state.busy = true;
        Turn::Send
    }

    /// Whether a row that is due may be sent now.
    pub fn row(&mut self, lane: &Lane) -> bool {
        self.rows.insert(lane.clone());
        let state = self.lanes.entry(lane.clone()).or_default();
        !std::mem::replace(&mut state.busy, true)
    }

    /// Waits behind the one that is under way, in position order.
    pub fn wait(&mut self, lane: &Lane, waiting: Waiting) {
        if let Some(state) = self.lanes.get_mut(lane) {
            let position = waiting.stored.message.position;
            let place = state.waiting.iter().rposition(|w| w.stored.message.position <= position).map_or(0, |i| i + 1);
            state.waiting.insert(place, waiting);
        }
    }

    /// Somebody may have changed rows: those that wait here go back to the table.
    pub fn give_back_rows(&mut self) -> Vec<(i32, Waiting)> {
        let mut given = Vec::new();
        for (lane, state) in &mut self.lanes {
            let (rows, rest) = std::mem::take(&mut state.waiting).into_iter().partition(|w| w.seat.delivery_id != 0);
            let rows: VecDeque<Waiting> = rows;
            state.waiting = rest;
            given.extend(rows.into_iter().map(|waiting| (lane.0, waiting)));
        }
        given
    }

    /// The one under way has ended for good: the next one, which is under way from here on.
    pub fn next(&mut self, lane: &Lane) -> Option<Waiting> {
        let state = self.lanes.get_mut(lane)?;
        let next = state.waiting.pop_front();
        if next.is_none() {
            self.lanes.remove(lane);
        }
        next
    }

    /// The one under way will be tried again, or blocks its key: what waits behind it becomes rows.
    pub fn stop(&mut self, lane: &Lane) -> VecDeque<Waiting> {
        self.rows.insert(lane.clone());
        self.lanes.remove(lane).map(|state| state.waiting).unwrap_or_default()
    }

    /// Whether a key is known to have rows.
    pub fn has_rows(&self, lane: &Lane) -> bool {
        self.rows.contains(lane)
    }

    /// What became of a delivery, to be recorded: `failed`, `dead` or `ended`.
    pub fn note(&mut self, lane: Lane, position: i64, message_id: i64, what: &'static str) {
        self.notes.push(Note { lane, position, message_id, what });
    }

    /// Records it. Inside the transaction that records the outcomes: behind them, and before rows that wait behind these keys.
    pub fn record(&mut self) {
        write(&mut self.record, &self.notes);
    }

    /// The same, item by item where something fails.
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

    /// Looks which of the keys still have rows. Inside the same transaction, behind everything that makes rows.
    pub fn look(&mut self) {
        if self.notes.is_empty() {
            return;
        }
        let Order { notes, remaining, rows, .. } = self;
        let (ids, keys): (Vec<i32>, Vec<&str>) = notes.iter().map(|n| (n.lane.0, &*n.lane.1)).unzip();
        let mut left: HashSet<Lane> = HashSet::new();
        remaining.execute(&[arg(ids), arg(keys)]).for_each(|row| {
            left.insert((row.get(0).unwrap_or_default(), row.text(1).unwrap_or_default()));
        });
        for note in notes.iter() {
            if left.contains(&note.lane) {
                rows.insert(note.lane.clone());
            } else {
                rows.remove(&note.lane);
            }
        }
    }

    /// The transaction has committed. Says whether keys have been freed.
    pub fn recorded(&mut self) -> bool {
        let freed = self.notes.iter().any(|note| note.what != "failed");
        self.notes.clear();
        freed
    }

    /// Looks at all keys: somebody else may have changed rows or dead letters. Inside a transaction.
    pub fn look_at_all(&mut self) {
        self.rows.clear();
        let rows = &mut self.rows;
        self.all.execute(&[]).for_each(|row| {
            rows.insert((row.get(0).unwrap_or_default(), row.text(1).unwrap_or_default()));
        });
    }
}

/// Writes what became of these deliveries.
fn write(plan: &mut Plan, notes: &[Note]) {
    if notes.is_empty() {
        return;
    }
    let (ids, keys): (Vec<i32>, Vec<&str>) = notes.iter().map(|n| (n.lane.0, &*n.lane.1)).unzip();
    plan.execute(&[
        arg(ids),
        arg(notes.iter().map(|n| n.position).collect::<Vec<i64>>()),
        arg(notes.iter().map(|n| n.message_id).collect::<Vec<i64>>()),
        arg(keys),
        arg(notes.iter().map(|n| n.what).collect::<Vec<_>>()),
    ]);
}
