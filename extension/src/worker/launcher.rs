//! The launcher keeps one dispatcher running in each database that has the extension.
//!
//! It reads the list of databases from the shared catalog and is connected to no database, so it blocks no DROP or CREATE
//! DATABASE. Only a process inside a database can tell whether the extension is there. So the launcher starts a dispatcher,
//! which leaves if the extension is absent.
//!
//! Cases it must survive:
//! * CREATE EXTENSION, committed or rolled back: the committing session asks the launcher to look at its database.
//! * DROP EXTENSION: the dispatcher notices and leaves. The launcher does not look at the database again until it is asked
//!   to.
//! * DROP, RENAME, CREATE ... TEMPLATE: `hooks` makes the dispatcher leave and pauses the slot; the dispatcher returns
//!   afterwards.
//! * A dispatcher that always fails at once is restarted after 1 s, 2 s, ... 30 s. A dispatcher that left on request is
//!   restarted after half a second.
//! * No free background worker or slot: the launcher says so once in the log and in `health()`, and tries again every few
//!   seconds.
//! * DROP DATABASE: the slot is freed when the database is gone from the catalog, however its dispatcher ended.
//! * ALLOW_CONNECTIONS false: a running dispatcher stays, but none is started. A template is a database like others.
//! * Its own end by SIGTERM, an ERROR or FATAL: a second later the postmaster starts another launcher, which takes over the
//!   running dispatchers.
//! * A lock on pg_database: the launcher waits half a second for it, and continues with the databases that it knows.
//! * A crash of the server: everything here starts from nothing, with new shared memory.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::{pg_guard, pg_sys};

use super::Signals;
use crate::pg::function::catch;
use crate::shared::shmem::{self, Limit, Shared, Slot, State};
use crate::worker::session::{BEFORE_CONNECTING, PINNED, pin};
use crate::worker::{describe, now, wait};

/// How often the list of databases is read when no session asks for it.
const LIST_INTERVAL: Duration = Duration::from_secs(60);
const RETRY_EXHAUSTED: Duration = Duration::from_secs(5);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Pause before a dispatcher that left on request is started again.
const AFTER_LEAVING: Duration = Duration::from_millis(500);
/// A lack is logged again only after there was none for this long.
const EPISODE: Duration = Duration::from_secs(60);

/// Registers the launcher; only while the server preloads libraries.
pub fn init() {
    let mut worker = describe("pg_outbox launcher", c"pg_outbox launcher", c"pg_outbox_launcher_main", 0, 1);
    // SAFETY: called from _PG_init while libraries are preloaded.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) };
}

/// The launcher's data about a database.
enum Known {
    /// The extension is not in the database.
    Absent,
    /// A dispatcher was started. `handle` is `None` if an earlier launcher started it. `asked`: a look was requested after
    /// the start, and the dispatcher may have looked before that.
    Started { handle: Option<NonNull<pg_sys::BackgroundWorkerHandle>>, at: Instant, failures: u32, asked: bool },
    /// A dispatcher is to be started, not before `at`. `lacks`: the limit that prevented the last start.
    Due { at: Instant, failures: u32, lacks: Option<Limit> },
}

impl Known {
    fn due() -> Known {
        Known::Due { at: Instant::now(), failures: 0, lacks: None }
    }
}

/// The process's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_outbox_launcher_main(_arg: pg_sys::Datum) {
    Signals::until_connected();
    pin(&BEFORE_CONNECTING);
    // SAFETY: no database: the shared catalogs only.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    let mut signals = Signals::attach();
    pin(&PINNED);
    if let Some(shared) = shmem::shared()
        && shared.attach_launcher()
    {
        launch(shared, &mut signals);
    }
    // Never 0, which would mean that the launcher is not to be started again. SIGTERM comes from pg_terminate_backend() as
    // well as from a postmaster that shuts down; in a shutdown the postmaster restarts nothing.
    // SAFETY: ends the process through PostgreSQL's own clean-up.
    unsafe { pg_sys::proc_exit(1) };
}

fn launch(shared: &'static Shared, signals: &mut Signals) {
    let mut databases: HashMap<u32, Known> = HashMap::new();
    let mut listed = None::<Instant>;
    let mut generation = 0;
    let mut lacking = Episode::default();
    let mut unlisted = None;
    while !signals.terminate() {
        signals.reload();
        shared.launcher.came_round();
        let asked = shared.launcher_generation();
        // A dispatcher that ended may have ended with its database.
        let ended = databases.iter_mut().fold(false, |any, (oid, known)| reap(shared, *oid, known) || any);
        if ended || asked != generation || listed.is_none_or(|at| at.elapsed() >= LIST_INTERVAL) {
            generation = asked;
            match shared.take_probes() {
                Some(probes) => probes.iter().for_each(|oid| probe_again(databases.get_mut(oid))),
                None => databases.values_mut().for_each(|known| probe_again(Some(known))),
            }
            match catch(list_databases) {
                Ok(found) => {
                    unlisted = None;
                    forget_dropped(shared, &found, &mut databases);
                    for (oid, _) in found.iter().filter(|(_, connectable)| **connectable) {
                        databases.entry(*oid).or_insert_with(|| adopt(shared, *oid));
                    }
                }
                Err(error) => {
                    // SAFETY: as in `txn::run`.
                    let _ = catch(|| unsafe { pg_sys::AbortCurrentTransaction() });
                    if unlisted.as_ref() != Some(&error) {
                        pgrx::log!("pg_outbox launcher: cannot list databases: {error}; trying again");
                        unlisted = Some(error);
                    }
                }
            }
            listed = Some(Instant::now());
        }
        let mut pause = if unlisted.is_some() { RETRY_EXHAUSTED } else { LIST_INTERVAL };
        for (oid, known) in &mut databases {
            let Known::Due { at, failures, lacks } = known else { continue };
            let left = at.saturating_duration_since(Instant::now());
            let wait = if !left.is_zero() {
                left
            } else {
                match start(shared, *oid) {
                    Started::Yes(handle) => {
                        let failures = *failures;
                        *known = Known::Started { handle: Some(handle), at: Instant::now(), failures, asked: false };
                        continue;
                    }
                    Started::Later(wait) => wait,
                    Started::Lacking(limit) => {
                        *lacks = Some(limit);
                        RETRY_EXHAUSTED
                    }
                }
            };
            *at = Instant::now() + wait;
            pause = pause.min(wait);
        }
        if unlisted.is_some() && listed.is_some_and(|at| at.elapsed() >= RETRY_EXHAUSTED) {
            listed = None;
        }
        lacking.now(shared, &databases);
        // Listing the databases may have waited on the latch, and reset it.
        if asked == shared.launcher_generation() && !signals.heard() {
            wait(pause);
        }
    }
}

/// A period in which some database has no dispatcher because of a limit. It is logged once, however many databases come and
/// go.
#[derive(Default)]
struct Episode {
    last: Option<Instant>,
}

impl Episode {
    fn now(&mut self, shared: &Shared, databases: &HashMap<u32, Known>) {
        let lacks = |known: &Known| match known {
            Known::Due { lacks, .. } => *lacks,
            _ => None,
        };
        let limits: Vec<Limit> = databases.values().filter_map(lacks).collect();
        shared.set_lacking(&limits);
        let Some(limit) = limits.first() else { return };
        if self.last.is_none_or(|at| at.elapsed() > EPISODE) {
            let (setting, what) = match limit {
                Limit::Processes => (limit.as_str(), "worker process"),
                Limit::Databases => (limit.as_str(), "slot"),
            };
            pgrx::warning!("pg_outbox cannot start a dispatcher: no free {what}; raise {setting}");
        }
        self.last = Some(Instant::now());
    }
}

/// Notes that the extension may have been created in a database since the last look.
fn probe_again(known: Option<&mut Known>) {
    match known {
        Some(known @ Known::Absent) => *known = Known::due(),
        Some(Known::Started { asked, .. }) => *asked = true,
        _ => {}
    }
}

/// The initial state of a database. An earlier launcher may have left a dispatcher there.
fn adopt(shared: &Shared, oid: u32) -> Known {
    match shared.slot_of(pg_sys::Oid::from(oid)) {
        Some(slot) if slot.process.pid().is_some() => {
            Known::Started { handle: None, at: Instant::now(), failures: 0, asked: false }
        }
        _ => Known::due(),
    }
}

/// Frees the slots of dropped databases. A database that no longer allows connections keeps its dispatcher.
fn forget_dropped(shared: &Shared, found: &HashMap<u32, bool>, databases: &mut HashMap<u32, Known>) {
    databases.retain(|oid, known| matches!(known, Known::Started { .. }) || found.get(oid) == Some(&true));
    for slot in shared.slots() {
        let oid = slot.database.load(Ordering::Acquire);
        let used = databases.contains_key(&oid) || slot.process.pid().is_some();
        if oid != 0 && !used {
            free(slot);
        }
    }
}

/// Notices that a dispatcher has ended. Returns whether it has.
fn reap(shared: &Shared, oid: u32, known: &mut Known) -> bool {
    let Known::Started { handle, at, failures, asked } = known else { return false };
    let slot = shared.slot_of(pg_sys::Oid::from(oid));
    if let Some(started) = handle {
        let mut pid = 0;
        // SAFETY: the handle comes from RegisterDynamicBackgroundWorker.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(started.as_ptr(), &mut pid) };
        if status != pg_sys::BgwHandleStatus::BGWH_STOPPED {
            return false;
        }
        // SAFETY: palloc'd by PostgreSQL, not used afterwards.
        unsafe { pg_sys::pfree(started.as_ptr().cast()) };
        *handle = None;
    }
    // There is no handle, or the dispatcher found another one there, which an earlier launcher had started.
    if slot.is_some_and(|slot| slot.process.pid().is_some()) {
        return false;
    }
    let absent = slot.is_some_and(|slot| slot.state() == State::Absent);
    let left = slot.is_some_and(|slot| slot.left.load(Ordering::SeqCst));
    // A dispatcher that ran for a while and then ended is restarted at once.
    let failures = if left || at.elapsed() > BACKOFF_MAX { 0 } else { *failures + 1 };
    if let Some(slot) = slot {
        if absent {
            free(slot);
        } else {
            slot.set_state(State::None);
        }
    }
    *known = if absent && !*asked {
        Known::Absent
    } else if absent {
        Known::due()
    } else {
        let pause = match failures {
            // The session that asked the dispatcher to leave needs a moment for its own work.
            0 if left => AFTER_LEAVING,
            0 => Duration::ZERO,
            _ => Duration::from_secs(1 << (failures - 1).min(5)).min(BACKOFF_MAX),
        };
        let asked_to = slot.is_some_and(|slot| slot.retire.load(Ordering::SeqCst));
        if failures <= 1 && !asked_to {
            pgrx::log!("pg_outbox launcher: the dispatcher of database {oid} has ended; another one is started");
        }
        Known::Due { at: Instant::now() + pause, failures, lacks: None }
    };
    true
}

enum Started {
    Yes(NonNull<pg_sys::BackgroundWorkerHandle>),
    Later(Duration),
    Lacking(Limit),
}

/// Starts a dispatcher.
fn start(shared: &Shared, oid: u32) -> Started {
    let database = pg_sys::Oid::from(oid);
    let Some(slot) = shared.slot_of(database).or_else(|| shared.free_slot()) else {
        return Started::Lacking(Limit::Databases);
    };
    // Reset before the pause is read: a request that arrives in between is not lost.
    slot.retire.store(false, Ordering::SeqCst);
    slot.left.store(false, Ordering::SeqCst);
    let paused = slot.paused_until.load(Ordering::SeqCst) - now();
    if slot.database.load(Ordering::Acquire) == oid && paused > 0 {
        return Started::Later(Duration::from_micros(paused.unsigned_abs()).min(Duration::from_millis(100)));
    }
    slot.set_state(State::Starting);
    slot.database.store(oid, Ordering::Release);
    let mut worker = describe(
        &format!("pg_outbox dispatcher {oid}"),
        c"pg_outbox dispatcher",
        c"pg_outbox_dispatcher_main",
        oid,
        pg_sys::BGW_NEVER_RESTART,
    );
    // SAFETY: MyProcPid is constant; the handle is kept until the dispatcher has ended.
    let handle = unsafe {
        worker.bgw_notify_pid = pg_sys::MyProcPid;
        let mut handle = std::ptr::null_mut();
        let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let registered = pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle);
        pg_sys::MemoryContextSwitchTo(context);
        NonNull::new(handle).filter(|_| registered)
    };
    match handle {
        Some(handle) => Started::Yes(handle),
        None => {
            free(slot);
            Started::Lacking(Limit::Processes)
        }
    }
}

fn free(slot: &Slot) {
    slot.set_state(State::None);
    slot.forget_error();
    slot.forget_transforms();
    slot.requests.clear();
    slot.deliveries.clear();
    slot.claim_hints.clear();
    slot.paused_until.store(0, Ordering::SeqCst);
    slot.sent_away_at.store(0, Ordering::SeqCst);
    slot.database.store(0, Ordering::Release);
}

/// Lists all databases, and whether they allow connections.
fn list_databases() -> HashMap<u32, bool> {
    let mut found = HashMap::new();
    // SAFETY: a catalog scan as the autovacuum launcher does it.
    unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::GetTransactionSnapshot();
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as _);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            // A connection limit of -2 marks a database whose DROP was interrupted.
            found.insert((*form).oid.to_u32(), (*form).datallowconn && (*form).datconnlimit != -2);
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as _);
        pg_sys::CommitTransactionCommand();
    }
    found
}
