//! From where on workers look for what they can claim.
//!
//! A claim walks an index from the front of what is due. A snapshot that somebody holds keeps the entries of what was worked
//! off, and they are at the front: after an hour there are millions. Where that walk has become slow, one session after
//! another does not repeat it: where it ended is remembered per priority, for all sessions of the database. One session walks
//! again now and then, and whenever it is in doubt what is there: when a transaction that had claimed was rolled back.
//!
//! What comes to stand before a mark moves it back (`put_back`), at the end of its transaction, when others see it. Whoever
//! moves a mark on has looked with a snapshot, and must not hide what was put back after it: therefore a walk takes over what
//! was put back since it began, and a claim moves a mark on only if nothing was.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

use crate::shmem;

/// Priorities that are told apart; a subscription that uses more at once is not remembered.
const LEVELS: usize = 8;
/// Subscriptions of a database, and their bundles, that are remembered at once.
const PLACES: usize = 64;
/// In a list of levels: there are lower ones, which were not looked at.
pub const MORE: i32 = 99_999;
/// How long marks hold without shared memory, where others cannot move them back (microseconds).
const ALONE: i64 = 1_000_000;
/// A session that walks is given this long before another one does (microseconds).
const WALK: i64 = 10_000_000;

/// Times by priority.
#[derive(Clone, Copy)]
#[repr(C)]
struct Levels {
    count: u32,
    levels: [i32; LEVELS],
    due: [i64; LEVELS],
}

impl Levels {
    const NONE: Levels = Levels { count: 0, levels: [0; LEVELS], due: [0; LEVELS] };

    fn place(&self, level: i32) -> Option<usize> {
        self.levels[..self.count as usize].iter().position(|known| *known == level)
    }

    /// The earlier of two; false: there is no room.
    fn lower(&mut self, level: i32, due: i64) -> bool {
        let count = self.count as usize;
        if let Some(place) = self.place(level) {
            self.due[place] = self.due[place].min(due);
        } else if count == LEVELS {
            return false;
        } else {
            // from the highest to the lowest
            let place = self.levels[..count].iter().position(|known| *known < level).unwrap_or(count);
            self.levels.copy_within(place..count, place + 1);
            self.due.copy_within(place..count, place + 1);
            (self.levels[place], self.due[place]) = (level, due);
            self.count += 1;
        }
        true
    }
}

/// What is known of a subscription or, under the negative number, of its bundles. All zero: nothing.
#[derive(Clone, Copy)]
#[repr(C)]
struct Front {
    subscription: i32,
    /// The session that walks, and until when others wait for that (microseconds, PostgreSQL's epoch).
    walker: i32,
    walking: i64,
    /// Until when the marks hold.
    until: i64,
    /// Counted up when something was put back that a claim under way may not have seen.
    version: u64,
    marks: Levels,
    /// There are lower levels than those of the marks.
    more: bool,
    /// What was put back since the walk began; `lost`: more than there is room for.
    since_walk: Levels,
    lost: bool,
}

impl Front {
    const NONE: Front = Front {
        subscription: 0,
        walker: 0,
        walking: 0,
        until: 0,
        version: 0,
        marks: Levels::NONE,
        more: false,
        since_walk: Levels::NONE,
        lost: false,
    };

    fn forget(&mut self) {
        *self = Front { version: self.version, ..Front::NONE };
    }

    fn put_back(&mut self, level: i32, due: i64) {
        if self.walker != 0 && !self.since_walk.lower(level, due) {
            self.lost = true;
        }
        let covered = self.more && self.marks.levels[..self.marks.count as usize].iter().all(|known| *known > level);
        if !covered && !self.marks.lower(level, due) {
            self.forget();
        }
    }
}

/// Room for one.
#[repr(C)]
struct Place {
    /// Held for some dozen instructions.
    locked: AtomicBool,
    front: UnsafeCell<Front>,
}

// SAFETY: `front` is touched by the holder of `locked` only.
unsafe impl Sync for Place {}

impl Place {
    /// `patient`: the holder may have been interrupted; others give up before that is over, and do without.
    fn with<T>(&self, patient: bool, change: impl FnOnce(&mut Front) -> T) -> Option<T> {
        for turn in 1..if patient { 60_000 } else { 10_000 } {
            if self.locked.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                // SAFETY: the lock is ours; nothing in `change` fails.
                let result = change(unsafe { &mut *self.front.get() });
                self.locked.store(false, Ordering::Release);
                return Some(result);
            }
            if turn > 10_000 {
                std::thread::sleep(Duration::from_micros(50));
            } else if turn % 100 == 0 {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
        None
    }
}

/// The marks of a database.
#[repr(C)]
pub struct Marks([Place; PLACES]);

impl Marks {
    /// They are another database's from now on.
    pub fn clear(&self) {
        for place in &self.0 {
            place.with(true, Front::forget);
        }
    }
}

/// Those of a process without shared memory.
static OWN: Marks =
    Marks([const { Place { locked: AtomicBool::new(false), front: UnsafeCell::new(Front::NONE) } }; PLACES]);

/// What the transaction has done.
struct Transaction {
    /// Subscription, priority and time of what it has put back; the earliest of each.
    put_back: Vec<(i32, i32, i64)>,
    /// What it may have claimed from.
    claimed: Vec<i32>,
}

thread_local! {
    static TRANSACTION: RefCell<Transaction> =
        const { RefCell::new(Transaction { put_back: Vec::new(), claimed: Vec::new() }) };
    /// When, in CPU time, this session began to look.
    static BEGAN: Cell<i64> = const { Cell::new(0) };
    /// Subscriptions that this session has claimed from, by name. They may have been renamed since, or ended.
    static NAMES: RefCell<HashMap<String, i32>> = RefCell::new(HashMap::new());
    /// The versions that this session has seen last.
    static SEEN: RefCell<HashMap<i32, u64>> = RefCell::new(HashMap::new());
}

/// Where a subscription's marks are, and whether other sessions see them.
fn place(subscription: i32) -> (&'static Place, bool) {
    // SAFETY: a constant of this process.
    let slot = shmem::shared().and_then(|shared| shared.slot_of(unsafe { pg_sys::MyDatabaseId }));
    let number = subscription.unsigned_abs() as usize * 2 + usize::from(subscription < 0);
    (&slot.map_or(&OWN, |slot| &slot.marks).0[number % PLACES], slot.is_some())
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

/// CPU time since this session began to look.
pub fn walked() -> Duration {
    Duration::from_micros((cpu() - BEGAN.get()).unsigned_abs())
}

/// This transaction claims from there, now.
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

/// The subscription has this name.
pub fn note_name(name: String, subscription: i32) {
    NAMES.with_borrow_mut(|names| names.insert(name, subscription));
}

/// Levels and marks of a subscription, before the snapshot of the statement that claims is taken. `None`: walk from the front.
pub fn get(subscription: i32) -> Option<(Vec<i32>, Vec<i64>)> {
    claims(subscription);
    let (place, _) = place(subscription);
    let (version, front) = place.with(false, |front| {
        if front.subscription != subscription {
            return (front.version, None);
        }
        let now = now();
        if now >= front.until && (now >= front.walking || front.walker == me()) {
            (front.walker, front.walking) = (me(), now + WALK);
            (front.since_walk, front.lost) = (Levels::NONE, false);
            return (front.version, None);
        }
        (front.version, (front.marks.count > 0 || front.more).then_some(*front))
    })?;
    SEEN.with_borrow_mut(|seen| seen.insert(subscription, version));
    let front = front?;
    let count = front.marks.count as usize;
    let (mut levels, mut since) = (front.marks.levels[..count].to_vec(), front.marks.due[..count].to_vec());
    if front.more {
        levels.push(MORE);
        since.push(0);
    }
    Some((levels, since))
}

/// After a slow walk: these marks, for so many microseconds. Of a session that was not the one to walk: the next shall.
pub fn set(subscription: i32, levels: &[i32], since: &[i64], hold: i64) {
    let more = levels.last() == Some(&MORE);
    let (place, shared) = place(subscription);
    place.with(false, |front| {
        let now = now();
        if front.subscription == subscription && front.walker == me() && !front.lost {
            let put_back = front.since_walk;
            let until = now + if shared { hold } else { hold.min(ALONE) };
            *front = Front { subscription, more, until, version: front.version, ..Front::NONE };
            let mut walked = levels.iter().zip(since).filter(|(level, _)| **level != MORE);
            if !walked.all(|(level, due)| front.marks.lower(*level, *due)) {
                front.forget();
                return;
            }
            for (level, due) in put_back.levels[..put_back.count as usize].iter().zip(&put_back.due) {
                front.put_back(*level, *due);
            }
        } else if front.subscription == subscription {
            front.until = 0;
        } else if now >= front.until && now >= front.walking {
            // The marks, none, hide nothing until somebody has walked.
            *front = Front { subscription, more: true, version: front.version, ..Front::NONE };
        }
    });
}

/// After a claim: moves the marks on to where it has ended, if nothing was put back since it began.
pub fn advance(subscription: i32, levels: &[i32], since: &[i64]) {
    let seen = SEEN.with_borrow(|seen| seen.get(&subscription).copied());
    place(subscription).0.with(false, |front| {
        if front.subscription == subscription && seen == Some(front.version) {
            for (level, due) in levels.iter().zip(since) {
                if let Some(place) = front.marks.place(*level) {
                    front.marks.due[place] = front.marks.due[place].max(*due);
                }
            }
        }
    });
}

fn apply(subscription: i32, level: i32, due: i64) {
    place(subscription).0.with(true, |front| {
        front.version += 1;
        if front.subscription == subscription {
            front.put_back(level, due);
        }
    });
}

/// A delivery, or with the negative number a bundle, that can be claimed from `due` on: for this session at once, for others
/// when the transaction ends. Also one that this transaction has locked, which claims have skipped meanwhile.
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

/// The router has committed deliveries that are due from `due` on. What it made before was due earlier, so no claim has found
/// anything behind them, unless that is a while ago: a claim that finds nothing looks on from a second ago.
pub fn made(subscription: i32, level: i32, due: i64) {
    place(subscription).0.with(true, |front| {
        front.version += u64::from(now() - due > 500_000);
        if front.subscription == subscription {
            front.put_back(level, due);
        }
    });
}

/// At the end of every transaction. Nothing in it fails.
pub fn transaction_ended(committed: bool) {
    TRANSACTION.with_borrow_mut(|transaction| {
        for (subscription, level, due) in transaction.put_back.drain(..) {
            apply(subscription, level, due);
        }
        if !committed {
            doubt(&transaction.claimed);
        }
        for subscription in transaction.claimed.drain(..) {
            place(subscription).0.with(true, |front| {
                // It walked, and that was not slow.
                if front.subscription == subscription && front.walker == me() {
                    front.forget();
                }
            });
        }
    });
}

/// A part of the transaction was rolled back.
pub fn part_rolled_back() {
    TRANSACTION.with_borrow(|transaction| doubt(&transaction.claimed));
}

/// What was claimed of these is back, and others may have set marks behind it.
fn doubt(claimed: &[i32]) {
    for subscription in claimed {
        place(*subscription).0.with(true, |front| {
            front.version += 1;
            if front.subscription == *subscription {
                (front.until, front.walking, front.lost) = (0, 0, true);
            }
        });
    }
}
