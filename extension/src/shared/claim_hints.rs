//! Claim hints: where a claim starts its index scan, per subscription and priority.
//!
//! A claim scans an index from the earliest due time on. While somebody holds an old snapshot, the entries of finished
//! deliveries stay in the index, in front of the others: after an hour there are millions. Such a scan is slow, and every
//! claim would repeat it. So the place where a slow scan ended is remembered per priority, for all sessions of the database.
//! One session at a time scans from the start again ("walks"): now and then, and whenever a transaction that had claimed was
//! rolled back.
//!
//! A delivery that becomes claimable before a hint lowers the hint (`put_back`) at the end of its transaction, when other
//! sessions see the delivery. A session that advances a hint has scanned with a snapshot, and must not hide deliveries that
//! were put back after that snapshot. Therefore a walk takes over everything that was put back since it began, and a claim
//! advances a hint only if nothing was put back since the claim began.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

use crate::shared::shmem;

/// Priorities that are told apart. A subscription with more priorities at once gets no hints.
const LEVELS: usize = 8;
/// Entries for the hints of a database: one for a subscription, and one for its bundles.
const ENTRIES: usize = 64;
/// The last entry of a list of levels, if there are lower levels that were not scanned.
pub const MORE: i32 = 99_999;
/// How long hints hold without shared memory, where other sessions cannot lower them (microseconds).
const ALONE: i64 = 1_000_000;
/// How long other sessions wait for a session that walks, before another one does (microseconds).
const WALK: i64 = 10_000_000;

/// Due times by priority.
#[derive(Clone, Copy)]
#[repr(C)]
struct Levels {
    count: u32,
    priorities: [i32; LEVELS],
    due: [i64; LEVELS],
}

impl Levels {
    const NONE: Levels = Levels { count: 0, priorities: [0; LEVELS], due: [0; LEVELS] };

    fn index_of(&self, level: i32) -> Option<usize> {
        self.priorities[..self.count as usize].iter().position(|known| *known == level)
    }

    /// Adds a level, or lowers its time to `due`. Returns `false` if there is no room for another level.
    fn lower(&mut self, level: i32, due: i64) -> bool {
        let count = self.count as usize;
        if let Some(index) = self.index_of(level) {
            self.due[index] = self.due[index].min(due);
        } else if count == LEVELS {
            return false;
        } else {
            // From the highest level to the lowest.
            let index = self.priorities[..count].iter().position(|known| *known < level).unwrap_or(count);
            self.priorities.copy_within(index..count, index + 1);
            self.due.copy_within(index..count, index + 1);
            (self.priorities[index], self.due[index]) = (level, due);
            self.count += 1;
        }
        true
    }
}

/// The hints of a subscription or, under the negative id, of its bundles. All-zero memory is the empty state.
#[derive(Clone, Copy)]
#[repr(C)]
struct Hint {
    subscription: i32,
    /// The session that walks, and the time until which others wait for it (microseconds, PostgreSQL's epoch).
    walker: i32,
    walking: i64,
    /// The time until which the hints hold.
    until: i64,
    /// Increases when a delivery was put back that a running claim may not have seen.
    version: u64,
    levels: Levels,
    /// There are lower levels than those of the hints.
    more: bool,
    /// Levels that were put back since the walk began. `lost`: there were more than there is room for.
    since_walk: Levels,
    lost: bool,
}

impl Hint {
    const NONE: Hint = Hint {
        subscription: 0,
        walker: 0,
        walking: 0,
        until: 0,
        version: 0,
        levels: Levels::NONE,
        more: false,
        since_walk: Levels::NONE,
        lost: false,
    };

    fn forget(&mut self) {
        *self = Hint { version: self.version, ..Hint::NONE };
    }

    fn put_back(&mut self, level: i32, due: i64) {
        if self.walker != 0 && !self.since_walk.lower(level, due) {
            self.lost = true;
        }
        let covered =
            self.more && self.levels.priorities[..self.levels.count as usize].iter().all(|known| *known > level);
        if !covered && !self.levels.lower(level, due) {
            self.forget();
        }
    }
}

/// An entry for the hints of one subscription, or of its bundles.
#[repr(C)]
struct Entry {
    /// A spin lock, held for some dozen instructions.
    locked: AtomicBool,
    hint: UnsafeCell<Hint>,
}

// SAFETY: `hint` is touched by the holder of `locked` only.
unsafe impl Sync for Entry {}

impl Entry {
    /// Calls `change` under the lock. A holder may be interrupted by the scheduler. With `patient`, this waits until that is
    /// over; without, it gives up earlier and returns `None`.
    fn with<T>(&self, patient: bool, change: impl FnOnce(&mut Hint) -> T) -> Option<T> {
        for spin in 1..if patient { 60_000 } else { 10_000 } {
            if self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                // SAFETY: the lock is ours; nothing in `change` fails.
                let result = change(unsafe { &mut *self.hint.get() });
                self.locked.store(false, Ordering::Release);
                return Some(result);
            }
            if spin > 10_000 {
                std::thread::sleep(Duration::from_micros(50));
            } else if spin % 100 == 0 {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
        None
    }
}

/// The hints of a database.
#[repr(C)]
pub struct Hints([Entry; ENTRIES]);

impl Hints {
    /// Removes all hints: the slot becomes another database's.
    pub fn clear(&self) {
        for entry in &self.0 {
            entry.with(true, Hint::forget);
        }
    }
}

/// The hints of a process without shared memory.
static OWN: Hints =
    Hints([const { Entry { locked: AtomicBool::new(false), hint: UnsafeCell::new(Hint::NONE) } }; ENTRIES]);

/// The claims and put-backs of the current transaction.
struct Transaction {
    /// Subscription, priority and due time of deliveries that were put back; the earliest time of each.
    put_back: Vec<(i32, i32, i64)>,
    /// Subscriptions that the transaction may have claimed from.
    claimed: Vec<i32>,
}

thread_local! {
    static TRANSACTION: RefCell<Transaction> =
        const { RefCell::new(Transaction { put_back: Vec::new(), claimed: Vec::new() }) };
    /// CPU time at which this session began its scan.
    static BEGAN: Cell<i64> = const { Cell::new(0) };
    /// Subscriptions that this session has claimed from, by name. A subscription may have been renamed since, or have ended.
    static NAMES: RefCell<HashMap<String, i32>> = RefCell::new(HashMap::new());
    /// The versions that this session has seen last.
    static SEEN: RefCell<HashMap<i32, u64>> = RefCell::new(HashMap::new());
}

/// The entry of a subscription's hints, and whether other sessions share it.
fn entry(subscription: i32) -> (&'static Entry, bool) {
    // SAFETY: a constant of this process.
    let slot = shmem::shared().and_then(|shared| shared.slot_of(unsafe { pg_sys::MyDatabaseId }));
    let number = subscription.unsigned_abs() as usize * 2 + usize::from(subscription < 0);
    (&slot.map_or(&OWN, |slot| &slot.claim_hints).0[number % ENTRIES], slot.is_some())
}

fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

fn me() -> i32 {
    // SAFETY: set once at process start.
    unsafe { pg_sys::MyProcPid }
}

/// CPU time of this process in microseconds (POSIX).
fn cpu() -> i64 {
    unsafe extern "C" {
        safe fn clock() -> std::ffi::c_long;
    }
    clock()
}

/// CPU time since this session began its scan.
pub fn walked() -> Duration {
    Duration::from_micros((cpu() - BEGAN.get()).unsigned_abs())
}

/// Notes that this transaction claims from the subscription, and starts the measurement.
fn claims(subscription: i32) {
    BEGAN.set(cpu());
    TRANSACTION.with_borrow_mut(|transaction| {
        if !transaction.claimed.contains(&subscription) {
            transaction.claimed.push(subscription);
        }
    });
}

/// The subscription that had this name when the session last claimed from it.
pub fn named(name: &str) -> Option<i32> {
    NAMES.with_borrow(|names| names.get(name).copied())
}

/// Notes the name of a subscription.
pub fn note_name(name: String, subscription: i32) {
    NAMES.with_borrow_mut(|names| names.insert(name, subscription));
}

/// Levels and times of a subscription's hints, read before the claiming statement takes its snapshot. `None`: scan from the
/// start.
pub fn get(subscription: i32) -> Option<(Vec<i32>, Vec<i64>)> {
    claims(subscription);
    let (entry, _) = entry(subscription);
    let (version, hint) = entry.with(false, |hint| {
        if hint.subscription != subscription {
            return (hint.version, None);
        }
        let now = now();
        if now >= hint.until && (now >= hint.walking || hint.walker == me()) {
            (hint.walker, hint.walking) = (me(), now + WALK);
            (hint.since_walk, hint.lost) = (Levels::NONE, false);
            return (hint.version, None);
        }
        (hint.version, (hint.levels.count > 0 || hint.more).then_some(*hint))
    })?;
    SEEN.with_borrow_mut(|seen| seen.insert(subscription, version));
    let hint = hint?;
    let count = hint.levels.count as usize;
    let (mut levels, mut since) = (hint.levels.priorities[..count].to_vec(), hint.levels.due[..count].to_vec());
    if hint.more {
        levels.push(MORE);
        since.push(0);
    }
    Some((levels, since))
}

/// Called after a slow scan from the start: sets the hints for `lifetime` microseconds. If this session was not the walker,
/// the next claim walks.
pub fn set(subscription: i32, levels: &[i32], since: &[i64], lifetime: i64) {
    let more = levels.last() == Some(&MORE);
    let (entry, shared) = entry(subscription);
    entry.with(false, |hint| {
        let now = now();
        if hint.subscription == subscription && hint.walker == me() && !hint.lost {
            let put_back = hint.since_walk;
            let until = now + if shared { lifetime } else { lifetime.min(ALONE) };
            *hint = Hint { subscription, more, until, version: hint.version, ..Hint::NONE };
            let mut walked = levels.iter().zip(since).filter(|(level, _)| **level != MORE);
            if !walked.all(|(level, due)| hint.levels.lower(*level, *due)) {
                hint.forget();
                return;
            }
            for (level, due) in put_back.priorities[..put_back.count as usize].iter().zip(&put_back.due) {
                hint.put_back(*level, *due);
            }
        } else if hint.subscription == subscription {
            hint.until = 0;
        } else if now >= hint.until && now >= hint.walking {
            // No hints yet: claims scan from the start until one session has walked.
            *hint = Hint { subscription, more: true, version: hint.version, ..Hint::NONE };
        }
    });
}

/// Called after a claim: advances the hints to where its scan ended, if nothing was put back since it began.
pub fn advance(subscription: i32, levels: &[i32], since: &[i64]) {
    let seen = SEEN.with_borrow(|seen| seen.get(&subscription).copied());
    entry(subscription).0.with(false, |hint| {
        if hint.subscription == subscription && seen == Some(hint.version) {
            for (level, due) in levels.iter().zip(since) {
                if let Some(index) = hint.levels.index_of(*level) {
                    hint.levels.due[index] = hint.levels.due[index].max(*due);
                }
            }
        }
    });
}

fn apply(subscription: i32, level: i32, due: i64) {
    entry(subscription).0.with(true, |hint| {
        hint.version += 1;
        if hint.subscription == subscription {
            hint.put_back(level, due);
        }
    });
}

/// Notes a delivery, or with the negative id a bundle, that can be claimed from `due` on. The hint is lowered at once,
/// for this session, and again when the transaction ends, for the others. This includes a delivery that this transaction
/// has locked: claims have skipped it meanwhile.
pub fn put_back(subscription: i32, level: i32, due: i64) {
    let earlier = TRANSACTION.with_borrow_mut(|transaction| {
        let known = transaction.put_back.iter_mut().find(|known| (known.0, known.1) == (subscription, level));
        match known {
            Some(known) if known.2 <= due => false,
            Some(known) => {
                known.2 = due;
                true
            }
            None => {
                transaction.put_back.push((subscription, level, due));
                true
            }
        }
    });
    if earlier {
        apply(subscription, level, due);
    }
}

/// Called when the router has committed deliveries that are due from `due` on. Usually no running claim can advance the
/// hint past them, because everything that it can have found was due earlier. But a claim that finds nothing sets the hint
/// to a second ago. So if `due` is more than half a second ago, the version increases, as for other deliveries.
pub fn made(subscription: i32, level: i32, due: i64) {
    entry(subscription).0.with(true, |hint| {
        hint.version += u64::from(now() - due > 500_000);
        if hint.subscription == subscription {
            hint.put_back(level, due);
        }
    });
}

/// Called at the end of every transaction. Nothing in it can fail.
pub fn transaction_ended(committed: bool) {
    TRANSACTION.with_borrow_mut(|transaction| {
        for (subscription, level, due) in transaction.put_back.drain(..) {
            apply(subscription, level, due);
        }
        if !committed {
            doubt(&transaction.claimed);
        }
        for subscription in transaction.claimed.drain(..) {
            entry(subscription).0.with(true, |hint| {
                // This session was the walker, and its walk was not slow.
                if hint.subscription == subscription && hint.walker == me() {
                    hint.forget();
                }
            });
        }
    });
}

/// Called when a subtransaction was rolled back.
pub fn part_rolled_back() {
    TRANSACTION.with_borrow(|transaction| doubt(&transaction.claimed));
}

/// Distrusts the hints of these subscriptions: their deliveries are claimable again, and other sessions may have
/// set hints after it.
fn doubt(claimed: &[i32]) {
    for subscription in claimed {
        entry(*subscription).0.with(true, |hint| {
            hint.version += 1;
            if hint.subscription == *subscription {
                (hint.until, hint.walking, hint.lost) = (0, 0, true);
            }
        });
    }
}
