//! Rows of outbox.delivery that the dispatcher sends when they are due.
//!
//! Invariants:
//! * A row is in flight at most once.
//! * Subscriptions do not wait for one another: each has a share of its own, and a subscription whose endpoint takes nothing
//!   is skipped.

use outbox_core::ids::IdMap;

use crate::failure::Failure;
use crate::feed::{Place, Stored};
use crate::pull::ordering::OrderKey;
use crate::store::Store;
use crate::subscriptions::Config;

/// A row that waits for an attempt, as the store reads it. Times are microseconds of PostgreSQL's epoch.
#[derive(Clone, Debug)]
pub struct DueRow {
    /// Id of the delivery.
    pub id: i64,
    /// Id of the subscription.
    pub subscription: i32,
    /// The message.
    pub place: Place,
    /// Number of the last attempt.
    pub attempt: i32,
    /// When the next attempt is due.
    pub due_at: i64,
    /// When the delivery expires.
    pub expires_at: Option<i64>,
    /// 0: live; above 0: the id of the replay.
    pub run: i64,
    /// The webhook id gets the replay's suffix.
    pub new_id: bool,
    /// The row has the key of its message: it takes part in the order of its key. A row of a message with a time of its own
    /// has no key before it has failed.
    pub keyed: bool,
}

/// A row of a key, as the store reads it.
#[derive(Clone, Debug)]
pub struct FollowerRow {
    /// The row.
    pub row: DueRow,
    /// Whether it waits for an earlier row of its key.
    pub blocked: bool,
}

/// Rows of a subscription that may be in flight.
const SHARE: i32 = 256;
/// Rows of a key that are taken together with the first one.
const FOLLOWERS: i32 = 64;

/// A row that is due, and its message if it is still stored.
#[derive(Debug)]
pub(crate) struct Due {
    pub id: i64,
    pub subscription: i32,
    pub attempt: u32,
    /// No attempt starts at or after this time (microseconds, PostgreSQL's epoch).
    pub expires: Option<i64>,
    /// 0: live; above 0: the id of the replay.
    pub run: i64,
    /// The webhook id gets the replay's suffix.
    pub new_id: bool,
    /// The row takes part in the order of its key.
    pub keyed: bool,
    pub stored: Option<Stored>,
}

/// The rows that wait for an attempt.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    /// Rows in flight, and their subscriptions.
    in_flight: IdMap<i64, i32>,
    /// When to read the rows of a subscription (microseconds, PostgreSQL's epoch). A subscription that is not listed has no
    /// rows.
    next: IdMap<i32, i64>,
    /// Subscriptions that have used up their share, and have rows that may be due.
    full: IdMap<i32, ()>,
}

impl Retries {
    /// Has the rows of all push subscriptions read: the table may have rows that the dispatcher does not know of.
    pub(crate) fn rescan(&mut self, config: &Config) {
        let pushed = config.subscriptions.iter().filter(|(_, subscription)| !subscription.pull);
        self.next.extend(pushed.map(|(id, _)| (*id, i64::MIN)));
    }

    /// Notes that a row of this subscription is due at `at`.
    pub(crate) fn at(&mut self, subscription: i32, at: i64) {
        let next = self.next.entry(subscription).or_insert(at);
        *next = (*next).min(at);
    }

    /// Notes that a row is in flight.
    pub(crate) fn sent(&mut self, due: &Due) {
        self.in_flight.insert(due.id, due.subscription);
    }

    /// The rows in flight.
    pub(crate) fn in_flight(&self) -> Vec<i64> {
        self.in_flight.keys().copied().collect()
    }

    /// Notes that a row is no longer in flight. If its subscription had used up its share, it goes on.
    pub(crate) fn returned(&mut self, row: i64) {
        if let Some(subscription) = self.in_flight.remove(&row)
            && self.full.remove(&subscription).is_some()
        {
            self.at(subscription, i64::MIN);
        }
    }

    /// When the next row of the subscriptions that are `ready` is due.
    pub(crate) fn next(&self, ready: impl Fn(i32) -> bool) -> Option<i64> {
        self.next.iter().filter(|(id, _)| ready(**id)).map(|(_, at)| *at).min()
    }

    /// Reads the rows that come after these rows of keys, in order. They follow without a query for each.
    pub(crate) fn followers<S: Store>(
        &self,
        store: &mut S,
        first: &[(OrderKey, i64)],
        now: i64,
    ) -> Result<Vec<Vec<Due>>, Failure> {
        let rows = store.followers(first, FOLLOWERS)?;
        // A row that cannot follow ends the chain, and so does one whose message was not read.
        let follows = |follower: &FollowerRow| {
            let row = &follower.row;
            follower.blocked && !self.in_flight.contains_key(&row.id) && row.expires_at.is_none_or(|at| at > now)
        };
        let chains: Vec<Vec<DueRow>> =
            rows.into_iter().map(|rows| rows.into_iter().take_while(follows).map(|f| f.row).collect()).collect();
        let places: Vec<Place> = chains.iter().flatten().map(|row| row.place).collect();
        let mut messages = if places.is_empty() { Vec::new() } else { store.messages(&places)? }.into_iter();
        let mut chain = |rows: Vec<DueRow>| {
            let due: Vec<Due> =
                rows.into_iter().zip(messages.by_ref()).map(|(row, stored)| Due::of(row, stored)).collect();
            due.into_iter().take_while(|due| due.stored.is_some()).collect()
        };
        Ok(chains.into_iter().map(&mut chain).collect())
    }

    /// Takes the rows of the subscriptions that are `ready` and due at `now`, and notes when to read again.
    pub(crate) fn take_due<S: Store>(
        &mut self,
        store: &mut S,
        now: i64,
        ready: impl Fn(i32) -> bool,
    ) -> Result<Vec<Due>, Failure> {
        let mut left = self.rooms(now, ready);
        if left.is_empty() {
            return Ok(Vec::new());
        }
        let rooms: Vec<(i32, i32)> = left.iter().map(|(id, room)| (*id, *room)).collect();
        let known: Vec<i64> = self.in_flight();
        let (mut due, mut next) = (Vec::new(), Vec::new());
        for row in store.due_rows(&rooms, &known)? {
            let left = left.entry(row.subscription).or_default();
            if row.due_at > now || *left <= 0 {
                next.push((row.subscription, row.due_at));
                continue;
            }
            *left -= 1;
            due.push(row);
        }
        let places: Vec<Place> = due.iter().map(|row| row.place).collect();
        let messages = if places.is_empty() { Vec::new() } else { store.messages(&places)? };
        // The others are due again at once.
        next.extend(due.drain(messages.len()..).map(|row| (row.subscription, row.due_at)));
        for (id, _) in rooms {
            self.next.remove(&id);
        }
        for (subscription, at) in next {
            self.at(subscription, at);
        }
        Ok(due.into_iter().zip(messages).map(|(row, stored)| Due::of(row, stored)).collect())
    }

    /// The subscriptions that are `ready` and due at `now`, and how many rows each has room for.
    fn rooms(&mut self, now: i64, ready: impl Fn(i32) -> bool) -> IdMap<i32, i32> {
        let mut share: IdMap<i32, i32> = IdMap::default();
        self.in_flight.values().for_each(|subscription| *share.entry(*subscription).or_default() += 1);
        let mut rooms = IdMap::default();
        for (id, at) in &mut self.next {
            let room = SHARE - share.get(id).copied().unwrap_or(0);
            if *at > now || !ready(*id) {
                continue;
            }
            if room <= 0 {
                // The share is used up; the subscription is read again in 100 ms, or when a row comes back.
                *at = now + 100_000;
                self.full.insert(*id, ());
                continue;
            }
            self.full.remove(id);
            rooms.insert(*id, room);
        }
        rooms
    }
}

impl Due {
    fn of(row: DueRow, stored: Option<Stored>) -> Due {
        Due {
            id: row.id,
            subscription: row.subscription,
            attempt: u32::try_from(row.attempt).unwrap_or(0) + 1,
            expires: row.expires_at,
            run: row.run,
            new_id: row.new_id,
            keyed: row.keyed,
            stored,
        }
    }
}
