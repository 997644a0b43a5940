//! The background workers: one launcher per cluster, one dispatcher per database that has the extension.

pub mod descriptors;
pub mod dispatcher;
pub mod evict;
pub mod launcher;
pub mod maintain;
pub mod notify;
pub mod replay;
pub mod session;

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::pg_sys;

/// The signals that have arrived. They are remembered here, because reading PostgreSQL's own flags clears them.
pub struct Signals {
    terminate: bool,
    reload: bool,
}

impl Signals {
    /// Installs the handlers for the time until there is a connection. Connecting may wait for a lock, and SIGTERM ends that
    /// wait.
    pub fn until_connected() {
        unsafe extern "C-unwind" {
            // This is not pgrx's guarded function: it is called as a signal handler.
            fn die(signal: i32);
        }
        // SAFETY: PostgreSQL's own handler, installed in the way of its own backends.
        unsafe {
            handle_sigterm(die);
            pg_sys::BackgroundWorkerUnblockSignals();
        }
    }

    /// Installs the handlers and unblocks signals. Threads that must not receive signals have been started before.
    pub fn attach() -> Signals {
        // SAFETY: the handler does only what a signal handler may do.
        unsafe { handle_sigterm(asked_to_end) };
        BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
        // SIGHUP was ignored until now, and the settings are those that the postmaster had at the fork.
        Signals { terminate: false, reload: true }
    }

    /// Whether the process was asked to end.
    pub fn terminate(&mut self) -> bool {
        self.terminate |= terminating();
        self.terminate
    }

    /// Reads the configuration file if a SIGHUP asked for it, and at the first call. Returns whether it did.
    pub fn reload(&mut self) -> bool {
        self.reload |= BackgroundWorker::sighup_received();
        if self.reload {
            // SAFETY: outside a transaction, on the main thread.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
        }
        std::mem::take(&mut self.reload)
    }

    /// Whether `terminate` or `reload` would find a signal.
    pub fn heard(&mut self) -> bool {
        self.reload |= BackgroundWorker::sighup_received();
        self.reload || self.terminate()
    }
}

/// Set by SIGTERM.
static TERMINATE: AtomicBool = AtomicBool::new(false);

/// Whether the process was asked to end.
pub fn terminating() -> bool {
    TERMINATE.load(Ordering::SeqCst)
}

#[expect(ffi_unwind_calls, reason = "the function raises no ERROR")]
unsafe extern "C-unwind" fn asked_to_end(_signal: i32) {
    unsafe extern "C-unwind" {
        // This is not pgrx's guarded function, as in `dispatcher::wake_main`.
        fn SetLatch(latch: *mut std::ffi::c_void);
    }
    TERMINATE.store(true, Ordering::SeqCst);
    // SAFETY: this process's own structures, and flags that PostgreSQL's handlers set as well.
    unsafe {
        // A commit would wait for a standby as long as there is none. It is already committed on this server. `txn` limits
        // the waits of later commits. A process that is about to exit has no PGPROC any more.
        if !pg_sys::MyProc.is_null() && (*pg_sys::MyProc).syncRepState == pg_sys::SYNC_REP_WAITING as i32 {
            // PostgreSQL ends that wait with a warning.
            pg_sys::QueryCancelPending = 1;
            pg_sys::InterruptPending = 1;
        }
        SetLatch(pg_sys::MyLatch.cast());
    }
}

/// # Safety
/// The handler only does what a signal handler may do.
unsafe fn handle_sigterm(handler: unsafe extern "C-unwind" fn(i32)) {
    // SAFETY: by contract.
    unsafe {
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(handler));
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(handler));
    }
}

/// Sleeps until the latch is set or `timeout` has passed. Ends the process if the postmaster is gone.
pub fn wait(timeout: Duration) {
    // Rounded up: a timeout of 0 ms would make a busy loop of the last part of each wait.
    let millis = timeout.as_micros().div_ceil(1000).min(i32::MAX as u128);
    // SAFETY: the latch is this process's own.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
            millis as _,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

/// Microseconds since PostgreSQL's epoch.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Builds the description of a process for `RegisterBackgroundWorker`.
pub fn describe(name: &str, kind: &CStr, function: &CStr, arg: u32, restart_seconds: i32) -> pg_sys::BackgroundWorker {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as i32,
        // A standby has neither launcher nor dispatchers. They start when it is promoted.
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: restart_seconds,
        bgw_main_arg: pg_sys::Datum::from(arg),
        ..Default::default()
    };
    // `copy` cuts long names at a character. PostgreSQL cuts a name of more than 95 bytes anywhere.
    copy(&mut worker.bgw_name, name.as_bytes());
    copy(&mut worker.bgw_type, kind.to_bytes());
    copy(&mut worker.bgw_library_name, b"pg_outbox");
    copy(&mut worker.bgw_function_name, function.to_bytes());
    worker
}

fn copy(to: &mut [std::ffi::c_char], from: &[u8]) {
    let mut end = from.len().min(to.len() - 1).min(90);
    while end > 0 && end < from.len() && from[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    for (to, from) in to.iter_mut().zip(&from[..end]) {
        *to = *from as std::ffi::c_char;
    }
    to[end] = 0;
}
