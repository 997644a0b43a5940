//! PostgreSQL's own statement timer, and a timer for calls of users' functions.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

use crate::shared::shmem;
use crate::worker::now;

/// The statement timer, which background workers have to start themselves.
pub struct Timer;

/// TimeoutId of utils/timeout.h.
const STATEMENT_TIMEOUT: c_int = 3;

unsafe extern "C-unwind" {
    fn enable_timeout_after(id: c_int, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
    fn enable_timeout_every(id: c_int, first: pg_sys::TimestampTz, delay_ms: c_int);
    fn RegisterTimeout(id: c_int, handler: extern "C" fn()) -> c_int;
    fn SetLatch(latch: *mut c_void);
}

impl Timer {
    /// Starts the timer. It cancels the current statement after `after`, unless it is dropped before.
    #[expect(ffi_unwind_calls, reason = "the function raises no ERROR")]
    pub fn start(after: Duration) -> Timer {
        // SAFETY: the handler is registered in every process that has a database; it sets a flag.
        unsafe { enable_timeout_after(STATEMENT_TIMEOUT, c_int::try_from(after.as_millis()).unwrap_or(c_int::MAX)) };
        Timer
    }
}

impl Drop for Timer {
    #[expect(ffi_unwind_calls, reason = "the function raises no ERROR")]
    fn drop(&mut self) {
        // SAFETY: as above; it cannot fail.
        unsafe { disable_timeout(STATEMENT_TIMEOUT, false) };
    }
}

/// A timer that cancels a call of a user's function. Sessions use the statement timer for their own statements.
///
/// A function can catch the cancellation and go on, so the timer cancels again and again. The last cancellation ends a
/// dispatcher, which nothing may hold up.
pub struct CallTimer(c_int);

/// The time between two cancellations.
const AGAIN: Duration = Duration::from_millis(100);

/// The cancellations after which the process ends.
const LAST: u32 = 10;

static FIRED: AtomicU32 = AtomicU32::new(0);

/// The first TimeoutId that extensions can have.
const USER_TIMEOUT: c_int = if cfg!(any(feature = "pg15", feature = "pg16")) { 12 } else { 13 };

/// Set by the timer.
static IS_OVER: AtomicBool = AtomicBool::new(false);

thread_local! {
    static REGISTERED: Cell<Option<c_int>> = const { Cell::new(None) };
}

/// Cancels what runs, as a signal of `pg_cancel_backend` does.
extern "C" fn cancel() {
    IS_OVER.store(true, Ordering::SeqCst);
    let last = FIRED.fetch_add(1, Ordering::SeqCst) >= LAST && shmem::own_slot().is_some();
    // SAFETY: flags that signal handlers set, and PostgreSQL's function for them.
    unsafe {
        if last {
            pg_sys::ProcDiePending = 1;
        }
        pg_sys::QueryCancelPending = 1;
        pg_sys::InterruptPending = 1;
        SetLatch(pg_sys::MyLatch.cast());
    }
}

impl CallTimer {
    /// Starts the timer. It cancels what runs after `after`, and again after that, unless it is stopped before.
    #[expect(ffi_unwind_calls, reason = "the functions raise no ERROR")]
    pub fn start(after: Duration) -> CallTimer {
        IS_OVER.store(false, Ordering::SeqCst);
        FIRED.store(0, Ordering::SeqCst);
        // SAFETY: the handler is registered once per process, and sets flags.
        let id = REGISTERED.get().unwrap_or_else(|| unsafe { RegisterTimeout(USER_TIMEOUT, cancel) });
        REGISTERED.set(Some(id));
        let first = now().saturating_add(i64::try_from(after.as_micros()).unwrap_or(i64::MAX));
        // SAFETY: registered above.
        unsafe { enable_timeout_every(id, first, AGAIN.as_millis() as c_int) };
        CallTimer(id)
    }

    /// Stops the timer.
    pub fn stop(self) {}

    /// Whether the time of the last call was over, and forgets that.
    pub fn take_over() -> bool {
        IS_OVER.swap(false, Ordering::SeqCst)
    }
}

impl Drop for CallTimer {
    #[expect(ffi_unwind_calls, reason = "the function raises no ERROR")]
    fn drop(&mut self) {
        // SAFETY: as above; it cannot fail. The timer may have fired at the last moment.
        unsafe {
            disable_timeout(self.0, false);
            if IS_OVER.load(Ordering::SeqCst) {
                pg_sys::QueryCancelPending = 0;
            }
        }
    }
}
