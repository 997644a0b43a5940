//! What happened, from the outside: what producers were told, what receivers and readers saw.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What one receiver path saw of one message.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests in all.
    pub requests: u32,
    /// Requests that were answered with success, in time, as far as the receiver knows.
    pub accepted: u32,
    /// Order of its first arrival among all of this path.
    pub first: u64,
}

/// The memory of a run. The committed truth is the table `chaos.ledger`, written in the producers' own transactions.
#[derive(Debug, Default)]
pub struct Ledger {
    next: AtomicI64,
    /// Numbers whose commit was acknowledged and synchronous.
    acknowledged: Mutex<Vec<i64>>,
    seen: Mutex<HashMap<(&'static str, i64), Seen>>,
    /// Webhook ids by number: more than one is a breach.
    ids: Mutex<HashMap<i64, Vec<String>>>,
    arrivals: Mutex<u64>,
}

impl Ledger {
    /// Numbers for new messages.
    pub fn draw(&self, count: i64) -> std::ops::Range<i64> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        first..first + count
    }

    /// All that were drawn.
    pub fn drawn(&self) -> i64 {
        self.next.load(Ordering::Relaxed)
    }

    /// A commit came back.
    pub fn acknowledge(&self, numbers: impl IntoIterator<Item = i64>) {
        lock(&self.acknowledged).extend(numbers);
    }

    /// Every number that was acknowledged.
    pub fn acknowledged(&self) -> Vec<i64> {
        lock(&self.acknowledged).clone()
    }

    /// A request arrived.
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

    /// What a path saw, by number.
    pub fn seen(&self, path: &str) -> HashMap<i64, Seen> {
        lock(&self.seen).iter().filter(|((p, _), _)| *p == path).map(|((_, n), seen)| (*n, seen.clone())).collect()
    }

    /// Every number that arrived anywhere.
    pub fn anywhere(&self) -> Vec<i64> {
        lock(&self.ids).keys().copied().collect()
    }

    /// Numbers that arrived under more than one webhook id, or under none.
    pub fn unstable_ids(&self) -> Vec<i64> {
        lock(&self.ids).iter().filter(|(_, ids)| ids.len() != 1 || ids[0].is_empty()).map(|(n, _)| *n).collect()
    }

    /// How many different messages a path accepted.
    pub fn accepted(&self, path: &str) -> usize {
        lock(&self.seen).iter().filter(|((p, _), seen)| *p == path && seen.accepted > 0).count()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
