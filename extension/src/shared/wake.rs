//! The wake-up at commit: it tells the launcher and the dispatcher about a transaction when, and only when, the transaction
//! has committed.
//!
//! `enqueue` sets a bit that belongs to the current subtransaction. Rolling back to a savepoint clears the bit, releasing
//! the savepoint gives it to the parent, COMMIT publishes it, ABORT and PREPARE clear it. COMMIT PREPARED runs in a session
//! that knows nothing of the bit: the dispatcher's slow poll finds those messages.
//!
//! The callbacks run where an ERROR would bring down the server, so they do atomic operations and set latches, nothing else.
//! The one exception is PRE_PREPARE, where an ERROR is allowed.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use pgrx::{pg_guard, pg_sys};

use crate::pg::hooks;
use crate::shared::{claim_hints, shmem};
use crate::sql::events;

thread_local! {
    /// Bit n: something was enqueued at nesting level n. Levels from 63 on share a bit.
    static ENQUEUED: Cell<u64> = const { Cell::new(0) };
    /// The same for a CREATE or ALTER EXTENSION that the launcher has to look at.
    static INSTALLED: Cell<u64> = const { Cell::new(0) };
    /// The same for changes of rows of outbox.delivery.
    static DELIVERIES_CHANGED: Cell<u64> = const { Cell::new(0) };
    /// This transaction holds the sequencer's lock.
    static TICKED: Cell<bool> = const { Cell::new(false) };
}

/// Wakes this database's dispatcher when the transaction commits.
pub fn at_commit_wake_dispatcher() {
    ENQUEUED.set(ENQUEUED.get() | level_bit());
}

/// Tells this database's dispatcher, when the transaction commits, that rows of outbox.delivery have changed.
pub fn at_commit_report_deliveries_changed() {
    DELIVERIES_CHANGED.set(DELIVERIES_CHANGED.get() | level_bit());
}

/// Has the launcher look at this database when the transaction commits.
pub fn at_commit_probe_database() {
    INSTALLED.set(INSTALLED.get() | level_bit());
}

/// Makes this transaction refuse PREPARE TRANSACTION.
pub fn refuse_prepare() {
    TICKED.set(true);
}

fn level_bit() -> u64 {
    // SAFETY: reads a counter of the current transaction.
    1 << unsafe { pg_sys::GetCurrentTransactionNestLevel() }.clamp(1, 63)
}

/// Registers the callbacks; once per process.
pub fn init() {
    // SAFETY: both callbacks have static lifetime.
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction_ended), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_ended), std::ptr::null_mut());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_ended(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_PRE_PREPARE if TICKED.get() => {
            pgrx::ereport!(
                ERROR,
                pgrx::PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "cannot prepare a transaction that has run the sequencer",
                "It holds the sequencer's lock, which would be held until the transaction is committed by somebody."
            );
        }
        XACT_EVENT_COMMIT => {
            hooks::transaction_ended();
            claim_hints::transaction_ended(true);
            let enqueued = ENQUEUED.take() != 0;
            let changed = DELIVERIES_CHANGED.take() != 0;
            let installed = INSTALLED.take() != 0;
            TICKED.set(false);
            if let Some(shared) = shmem::shared().filter(|_| enqueued || changed || installed) {
                // SAFETY: a constant of this backend.
                let database = unsafe { pg_sys::MyDatabaseId };
                if let Some(slot) = shared.slot_of(database).filter(|_| enqueued || changed) {
                    if changed {
                        slot.deliveries_changed.store(true, Ordering::SeqCst);
                    }
                    slot.wake();
                }
                if installed {
                    shared.request_probe(database);
                }
            }
        }
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => {
            hooks::transaction_ended();
            claim_hints::transaction_ended(false);
            ENQUEUED.set(0);
            DELIVERIES_CHANGED.set(0);
            INSTALLED.set(0);
            TICKED.set(false);
        }
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction_ended(
    event: pg_sys::SubXactEvent::Type,
    me: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    let bit = level_bit();
    // SAFETY: reads a counter of the current transaction.
    let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => {
            hooks::subtransaction_ended(level, true);
            events::subtransaction_ended(me, parent, true);
        }
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => {
            hooks::subtransaction_ended(level, false);
            events::subtransaction_ended(me, parent, false);
        }
        _ => {}
    }
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        claim_hints::part_rolled_back();
    }
    for cell in [&ENQUEUED, &DELIVERIES_CHANGED, &INSTALLED] {
        cell.with(|levels| match event {
            pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB if levels.get() & bit != 0 => {
                // The deepest levels share a bit, which therefore stays: at worst there is one spurious wake-up.
                let kept = if bit == 1 << 63 { levels.get() } else { levels.get() & !bit };
                levels.set(kept | bit >> 1);
            }
            pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB if bit != 1 << 63 => levels.set(levels.get() & !bit),
            _ => {}
        });
    }
}
