//! The observations of a run from outside: the answers that producers got, and the requests that receivers saw.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The requests that one path of a receiver got for one message.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The number of requests.
    pub requests: u32,
    /// The number of requests that were answered with success and in time, as far as the receiver knows.
    pub accepted: u32,
    /// The rank of the first arrival among the arrivals of the run.
    pub first: u64,
}

/// The observations of a run. The committed truth is the table `chaos.ledger`, which producers write in their own
/// transactions.
#[derive(Debug, Default)]
pub struct Ledger {
    next: AtomicI64,
    /// Numbers whose commit was acknowledged and synchronous.
    acknowledged: Mutex<Vec<i64>>,
    seen: Mutex<HashMap<(&'static str, i64), Seen>>,
    /// The webhook ids of each number. More than one is a breach.
    ids: Mutex<HashMap<i64, Vec<String>>>,
    arrivals: Mutex<u64>,
}

impl Ledger {
    /// Draws numbers for new messages.
    pub fn draw(&self, count: i64) -> std::ops::Range<i64> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        first..first + count
    }

    /// Returns how many numbers were drawn.
    pub fn drawn(&self) -> i64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Records that the commit of these numbers was acknowledged.
    pub fn acknowledge(&self, numbers: impl IntoIterator<Item = i64>) {
        lock(&self.acknowledged).extend(numbers);
    }

    /// Returns all acknowledged numbers.
    pub fn acknowledged(&self) -> Vec<i64> {
        lock(&self.acknowledged).clone()
    }

    /// Records the arrival of a request.
    pub fn arrived(&self, path: &'static str, number: i64, webhook_id: &str, accepted: bool) {
        let order = {
            let mut arrivals = lock(&self.arrivals);
            *arrivals += 1;
            *arrivals
        };
        let mut all = lock(&self.seen);
        let seen = all.entry((path, number)).or_default();
        if seen.requests == 0 {
            seen.first = order;
        }
        seen.requests += 1;
        seen.accepted += u32::from(accepted);
        drop(all);
        let mut ids = lock(&self.ids);
        let known = ids.entry(number).or_default();
        if !known.iter().any(|id| id == webhook_id) {
            known.push(webhook_id.to_owned());
        }
    }

    /// Returns the observations of a path, by number.
    pub fn seen(&self, path: &str) -> HashMap<i64, Seen> {
        lock(&self.seen).iter().filter(|((p, _), _)| *p == path).map(|((_, n), seen)| (*n, seen.clone())).collect()
    }

    /// Returns all numbers that arrived at any path.
    pub fn anywhere(&self) -> Vec<i64> {
        lock(&self.ids).keys().copied().collect()
    }

    /// Returns the numbers that arrived under more than one webhook id, or without one.
    pub fn unstable_ids(&self) -> Vec<i64> {
        lock(&self.ids).iter().filter(|(_, ids)| ids.len() != 1 || ids[0].is_empty()).map(|(n, _)| *n).collect()
    }

    /// Returns how many different messages a path accepted.
    pub fn accepted(&self, path: &str) -> usize {
        lock(&self.seen).iter().filter(|((p, _), seen)| *p == path && seen.accepted > 0).count()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
