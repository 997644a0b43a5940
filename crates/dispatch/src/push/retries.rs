//! Rows of outbox.delivery that the dispatcher sends when they are due.
//!
//! Invariants:
//! * A row is in flight at most once.
//! * Subscriptions do not wait for one another: each has a share of its own, and a subscription whose endpoint takes nothing
//!   is skipped.

use std::collections::HashMap;

use pgrx::pg_sys::{INT4ARRAYOID, INT4OID, INT8ARRAYOID, INT8OID, TEXTOID};

use crate::dispatch::feed::{Reader, Stored};
use crate::dispatch::pull::ordering::OrderKey;
use crate::dispatch::subscriptions::Config;
use crate::pg::txn::{Plan, arg};

/// Rows of a subscription that may be in flight.
const SHARE: i32 = 256;
/// Rows of a key that are taken together with the first one.
const FOLLOWERS: i32 = 64;

/// A row that is due, and its message if it is still stored.
pub struct Due {
    pub id: i64,
    pub subscription: i32,
    pub attempt: u32,
    /// No attempt starts at or after this time (microseconds, PostgreSQL's epoch).
    pub expires: Option<i64>,
    /// 0: live; above 0: the id of the replay.
    pub run: i64,
    /// The webhook id gets the replay's suffix.
    pub new_id: bool,
    pub stored: Option<Stored>,
}

/// The due rows of some subscriptions, as `read_due` has found them.
#[derive(Default)]
pub struct DueRows {
    subscriptions: Vec<i32>,
    due: Vec<Due>,
    /// Subscription and due time of rows that are not taken now.
    next: Vec<(i32, i64)>,
}

/// The rows that wait for an attempt.
pub struct Retries {
    plan: Plan,
    followers: Plan,
    /// Rows in flight, and their subscriptions.
    in_flight: HashMap<i64, i32>,
    /// When to read the rows of a subscription (microseconds, PostgreSQL's epoch). A subscription that is not listed has no
    /// rows.
    next: HashMap<i32, i64>,
}

impl Retries {
    pub fn new() -> Retries {
        Retries {
            plan: Plan::new(
                "select q.id, s.subscription_id, q.position, q.message_id, q.message_segment, q.attempt,
                    q.due_at, q.expires_at, q.run, q.new_id
                from unnest($1, $2) s(subscription_id, room)
                cross join lateral (
                    select d.id, d.position, d.message_id, d.message_segment, d.attempt, d.due_at,
                        d.expires_at, d.run, d.new_id
                    from outbox.delivery d
                    where d.subscription_id = s.subscription_id and not d.pull and not d.blocked and d.id <> all ($3)
                    order by d.due_at
                    limit s.room + 1
                ) q",
                &[INT4ARRAYOID, INT4ARRAYOID, INT8ARRAYOID],
            ),
            followers: Plan::new(
                "select d.id, d.position, d.message_id, d.message_segment, d.attempt, d.expires_at, d.run, d.new_id,
                    d.blocked
                from outbox.delivery d
                where d.subscription_id = $1 and d.key = $2 and d.position > $3
                order by d.position
                limit $4",
                &[INT4OID, TEXTOID, INT8OID, INT4OID],
            ),
            in_flight: HashMap::new(),
            next: HashMap::new(),
        }
    }

    /// Has the rows of all push subscriptions read: the table may have rows that the dispatcher does not know of.
    pub fn rescan(&mut self, config: &Config) {
        let pushed = config.subscriptions.iter().filter(|(_, subscription)| !subscription.pull);
        self.next.extend(pushed.map(|(id, _)| (*id, i64::MIN)));
    }

    /// Notes that a row of this subscription is due at `at`.
    pub fn at(&mut self, subscription: i32, at: i64) {
        let next = self.next.entry(subscription).or_insert(at);
        *next = (*next).min(at);
    }

    /// Notes that a row is in flight.
    pub fn sent(&mut self, due: &Due) {
        self.in_flight.insert(due.id, due.subscription);
    }

    /// The rows in flight.
    pub fn in_flight(&self) -> Vec<i64> {
        self.in_flight.keys().copied().collect()
    }

    /// Notes that a row is no longer in flight.
    pub fn returned(&mut self, row: i64) {
        self.in_flight.remove(&row);
    }

    /// When the next row of the subscriptions that are `ready` is due.
    pub fn next(&self, ready: impl Fn(i32) -> bool) -> Option<i64> {
        self.next.iter().filter(|(id, _)| ready(**id)).map(|(_, at)| *at).min()
    }

    /// Reads the rows that come after the row of a key that has just been taken, in order. They follow that row without a
    /// query for each. Inside a transaction.
    pub fn followers(&mut self, reader: &mut Reader, key: &OrderKey, position: i64, now: i64) -> Vec<Due> {
        let Retries { followers, in_flight, .. } = self;
        let (mut due, mut places, mut open) = (Vec::new(), Vec::new(), true);
        followers.execute(&[arg(key.0), arg(&*key.1), arg(position), arg(FOLLOWERS)]).for_each(|row| {
            let (id, expires) = (row.int(0), row.get::<i64>(5));
            // A row that cannot follow ends the chain.
            open &= row.get(8).unwrap_or(false) && !in_flight.contains_key(&id) && expires.is_none_or(|at| at > now);
            if !open {
                return;
            }
            let attempt = row.get::<i32>(4).and_then(|n| u32::try_from(n).ok()).unwrap_or(0) + 1;
            let (run, new_id) = (row.int(6), row.get(7).unwrap_or(false));
            due.push(Due { id, subscription: key.0, attempt, expires, run, new_id, stored: None });
            places.push((row.int(1), row.int(2), row.get::<i16>(3).unwrap_or_default()));
        });
        for (due, (position, message, segment)) in due.iter_mut().zip(places) {
            due.stored = reader.message(position, message, segment);
        }
        let gone = due.iter().position(|due| due.stored.is_none());
        due.truncate(gone.unwrap_or(due.len()));
        due
    }

    /// Reads the rows of the subscriptions that are `ready` and due at `now`. Inside a transaction; `take` is called when
    /// the transaction has committed.
    pub fn read_due(&mut self, reader: &mut Reader, now: i64, ready: impl Fn(i32) -> bool) -> DueRows {
        let mut share: HashMap<i32, i32> = HashMap::new();
        self.in_flight.values().for_each(|subscription| *share.entry(*subscription).or_default() += 1);
        let (mut ids, mut rooms) = (Vec::new(), Vec::new());
        for (id, at) in &mut self.next {
            let room = SHARE - share.get(id).copied().unwrap_or(0);
            if *at > now || !ready(*id) {
                continue;
            }
            if room <= 0 {
                // The share is used up; the subscription is read again in 100 ms, or when a row comes back.
                *at = now + 100_000;
                continue;
            }
            ids.push(*id);
            rooms.push(room);
        }
        if ids.is_empty() {
            return DueRows::default();
        }
        let Retries { plan, in_flight, .. } = self;
        let subscriptions = ids.clone();
        let mut next = Vec::new();
        let mut left: HashMap<i32, i32> = ids.iter().copied().zip(rooms.iter().copied()).collect();
        let known: Vec<i64> = in_flight.keys().copied().collect();
        let mut due = Vec::new();
        let mut places = Vec::new();
        plan.execute(&[arg(ids), arg(rooms), arg(known)]).for_each(|row| {
            let (id, subscription, at) = (row.int(0), row.get::<i32>(1).unwrap_or_default(), row.int(6));
            let left = left.entry(subscription).or_default();
            if at > now || *left <= 0 {
                next.push((subscription, at));
                return;
            }
            *left -= 1;
            let attempt = row.get::<i32>(5).and_then(|n| u32::try_from(n).ok()).unwrap_or(0) + 1;
            let (run, new_id) = (row.int(8), row.get(9).unwrap_or(false));
            due.push(Due { id, subscription, attempt, expires: row.get(7), run, new_id, stored: None });
            places.push((row.int(2), row.int(3), row.get::<i16>(4).unwrap_or_default()));
        });
        for (due, (position, message, segment)) in due.iter_mut().zip(places) {
            due.stored = reader.message(position, message, segment);
        }
        DueRows { subscriptions, due, next }
    }

    /// Returns the due rows, and notes when to read again.
    pub fn take(&mut self, rows: DueRows) -> Vec<Due> {
        for id in &rows.subscriptions {
            self.next.remove(id);
        }
        for (subscription, at) in rows.next {
            self.at(subscription, at);
        }
        rows.due
    }
}
