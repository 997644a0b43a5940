//! The launcher: keeps one dispatcher running in each database that has the extension.
//!
//! It knows the databases from the shared catalog and has no database of its own, so it blocks no DROP or CREATE DATABASE.
//! Whether the extension is there only a process inside a database can tell: the dispatcher that is started looks, and
//! leaves if it is not.
//!
//! Cases it must survive:
//! * CREATE EXTENSION, committed or rolled back: the committing session asks for a look at its database.
//! * DROP EXTENSION: the dispatcher notices and leaves; the database is not looked at again until it is asked for.
//! * DROP, RENAME, CREATE ... TEMPLATE: `hooks` has the dispatcher leave and holds the slot; it comes back afterwards.
//! * A dispatcher that fails at once, for ever: restarted after 1 s, 2 s, ... 30 s.
//! * No free worker process: said once in the log and in `health()`, tried again every few seconds.
//! * A crash of the server: everything here starts from nothing; shared memory is new.
//! * Template databases are never looked at: a connection there would block CREATE DATABASE.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::{pg_guard, pg_sys};

use super::{Signals, describe, now, wait};
use crate::function::catch;
use crate::shmem::{self, Shared, Slot, State};

/// How often the list of databases is read when nobody asks.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
const RETRY_EXHAUSTED: Duration = Duration::from_secs(5);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Registers the launcher; only while the server preloads libraries.
pub fn init() {
    let mut worker = describe("pg_outbox launcher", c"pg_outbox launcher", c"pg_outbox_launcher_main", 0, 1);
    // SAFETY: called from _PG_init while libraries are preloaded.
    unsafe { pg_sys::RegisterBackgroundWorker(&mut worker) };
}

/// What the launcher knows about a database.
enum Known {
    /// The extension is not there.
    Absent,
    /// A dispatcher was started. asked: a look was asked for since; it may have looked before that.
    Started { handle: *mut pg_sys::BackgroundWorkerHandle, at: Instant, failures: u32, asked: bool },
    /// To be started, not before this time.
    Due { at: Instant, failures: u32 },
}

/// The process's main function.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_outbox_launcher_main(_arg: pg_sys::Datum) {
    let mut signals = Signals::attach();
    // SAFETY: no database: the shared catalogs only.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    let Some(shared) = shmem::shared() else { return };
    shared.attach_launcher();
    let mut databases: HashMap<u32, Known> = HashMap::new();
    let mut looked = None::<Instant>;
    let mut generation = 0;
    let mut warned = false;
    while !signals.terminate() {
        signals.reload();
        let asked = shared.launcher_generation();
        if asked != generation || looked.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL) {
            generation = asked;
            match shared.take_probes() {
                Some(probes) => probes.iter().for_each(|oid| look_again(databases.get_mut(oid))),
                None => databases.values_mut().for_each(|known| look_again(Some(known))),
            }
            match catch(list_databases) {
                Ok(found) => {
                    databases.retain(|oid, known| matches!(known, Known::Started { .. }) || found.contains(oid));
                    for oid in found {
                        databases.entry(oid).or_insert(Known::Due { at: Instant::now(), failures: 0 });
                    }
                }
                Err(error) => {
                    // SAFETY: as in `txn::run`.
                    let _ = catch(|| unsafe { pg_sys::AbortCurrentTransaction() });
                    pgrx::log!("pg_outbox launcher: cannot list databases: {error}");
                }
            }
            looked = Some(Instant::now());
        }
        databases.retain(|oid, known| reap(shared, *oid, known));
        let mut exhausted = false;
        let mut pause = LOOK_INTERVAL;
        for (oid, known) in &mut databases {
            if let Known::Due { at, failures } = known {
                let failures = *failures;
                let left = at.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    pause = pause.min(left);
                } else {
                    match start(shared, *oid) {
                        Started::Yes(handle) => {
                            *known = Known::Started { handle, at: Instant::now(), failures, asked: false }
                        }
                        Started::Later(wait) => {
                            *at = Instant::now() + wait;
                            pause = pause.min(wait);
                        }
                        Started::Exhausted => {
                            exhausted = true;
                            *at = Instant::now() + RETRY_EXHAUSTED;
                            pause = pause.min(RETRY_EXHAUSTED);
                        }
                    }
                }
            }
        }
        shared.workers_exhausted.store(exhausted, Ordering::Relaxed);
        if exhausted && !warned {
            pgrx::warning!(
                "pg_outbox cannot start a dispatcher: no free worker process or slot; raise max_worker_processes or pg_outbox.max_databases"
            );
        }
        warned = exhausted;
        // Looking at databases may have waited on the latch, and reset it.
        if asked == shared.launcher_generation() && !signals.heard() {
            wait(pause);
        }
    }
}

/// The extension may have come to a database since somebody looked.
fn look_again(known: Option<&mut Known>) {
    match known {
        Some(known @ Known::Absent) => *known = Known::Due { at: Instant::now(), failures: 0 },
        Some(Known::Started { asked, .. }) => *asked = true,
        _ => {}
    }
}

/// Notices that a dispatcher has ended. `false`: the database can be forgotten.
fn reap(shared: &Shared, oid: u32, known: &mut Known) -> bool {
    let Known::Started { handle, at, failures, asked } = known else { return true };
    let mut pid = 0;
    // SAFETY: the handle comes from RegisterDynamicBackgroundWorker.
    let status = unsafe { pg_sys::GetBackgroundWorkerPid(*handle, &mut pid) };
    if status != pg_sys::BgwHandleStatus::BGWH_STOPPED {
        return true;
    }
    // SAFETY: palloc'd by PostgreSQL, not used afterwards.
    unsafe { pg_sys::pfree((*handle).cast()) };
    let slot = shared.slot_of(pg_sys::Oid::from(oid));
    let absent = slot.is_some_and(|slot| slot.state() == State::Absent);
    // One that ran for a while and ended is restarted at once.
    let failures = if at.elapsed() > BACKOFF_MAX { 0 } else { *failures + 1 };
    if let Some(slot) = slot {
        slot.detach();
        if absent {
            free(slot);
        } else {
            slot.set_state(State::None);
        }
    }
    *known = if absent && *asked {
        Known::Due { at: Instant::now(), failures: 0 }
    } else if absent {
        Known::Absent
    } else {
        let backoff = Duration::from_secs(1 << failures.saturating_sub(1).min(5)).min(BACKOFF_MAX);
        Known::Due { at: Instant::now() + if failures == 0 { Duration::ZERO } else { backoff }, failures }
    };
    true
}

enum Started {
    Yes(*mut pg_sys::BackgroundWorkerHandle),
    Later(Duration),
    Exhausted,
}

/// Starts a dispatcher.
fn start(shared: &Shared, oid: u32) -> Started {
    let database = pg_sys::Oid::from(oid);
    let Some(slot) = shared.slot_of(database).or_else(|| shared.slots().iter().find(|slot| is_free(slot))) else {
        return Started::Exhausted;
    };
    let held = slot.hold_until.load(Ordering::SeqCst) - now();
    if slot.database.load(Ordering::Acquire) == oid && held > 0 {
        return Started::Later(Duration::from_micros(held.unsigned_abs()).min(Duration::from_millis(100)));
    }
    slot.retire.store(false, Ordering::SeqCst);
    slot.set_state(State::Starting);
    slot.database.store(oid, Ordering::Release);
    let mut worker = describe(
        &format!("pg_outbox dispatcher {oid}"),
        c"pg_outbox dispatcher",
        c"pg_outbox_dispatcher_main",
        oid,
        pg_sys::BGW_NEVER_RESTART,
    );
    // SAFETY: MyProcPid is constant; the handle is kept until the worker has ended.
    unsafe {
        worker.bgw_notify_pid = pg_sys::MyProcPid;
        let mut handle = std::ptr::null_mut();
        let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let registered = pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle);
        pg_sys::MemoryContextSwitchTo(context);
        if registered {
            Started::Yes(handle)
        } else {
            free(slot);
            Started::Exhausted
        }
    }
}

fn is_free(slot: &Slot) -> bool {
    slot.database.load(Ordering::Acquire) == 0
}

fn free(slot: &Slot) {
    slot.set_state(State::None);
    slot.forget_error();
    slot.marks.clear();
    slot.hold_until.store(0, Ordering::SeqCst);
    slot.database.store(0, Ordering::Release);
}

/// The databases that can be connected to and are no templates.
fn list_databases() -> Vec<u32> {
    let mut found = Vec::new();
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
            if (*form).datallowconn && !(*form).datistemplate && (*form).datconnlimit != -2 {
                found.push((*form).oid.to_u32());
            }
        }
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as _);
        pg_sys::CommitTransactionCommand();
    }
    found
}
