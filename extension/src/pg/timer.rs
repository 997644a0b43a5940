//! PostgreSQL's own statement timer.

use std::ffi::c_int;
use std::time::Duration;

/// The statement timer, which background workers have to start themselves.
pub struct Timer;

/// TimeoutId of utils/timeout.h.
const STATEMENT_TIMEOUT: c_int = 3;

unsafe extern "C-unwind" {
    fn enable_timeout_after(id: c_int, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
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
