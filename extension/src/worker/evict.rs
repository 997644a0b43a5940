//! Nobody keeps the dispatcher waiting with a lock of ours that outlives its call.
//!
//! `tick()`, `maintain()` and others take locks that must be held until the transaction commits, and refuse to run where it
//! will not end with the call. There are ways around that (`select outbox.tick(), pg_sleep(3600)`), so a session of an
//! ordinary role that still has such a lock seconds after its call has returned is terminated, as PostgreSQL terminates what
//! stands in the way of a standby's recovery. Its own work is a tick, which is done again.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use super::txn::{self, Plan};

/// How long the dispatcher waits for a lock before it looks who has it.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct Evict {
    since: Option<Instant>,
    plan: RefCell<Plan>,
}

impl Evict {
    pub const fn new() -> Evict {
        Evict { since: None, plan: RefCell::new(Plan::new("select outbox._overstaying()", &[])) }
    }

    /// Tells whether the round that has just ended had to wait for somebody's lock.
    pub fn waited(&mut self, waited: bool) {
        if !waited {
            self.since = None;
        } else if self.since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
            self.since = None;
            self.look();
        }
    }

    fn look(&self) {
        let found = txn::run(|| {
            let mut pids = Vec::new();
            self.plan.borrow_mut().execute(&[]).for_each(|row| pids.extend(row.get::<i32>(0)));
            Ok(pids)
        });
        match found {
            Ok(pids) => pids.into_iter().for_each(terminate),
            Err(error) => pgrx::log!("pg_outbox dispatcher: who has the lock: {error}"),
        }
    }
}

/// Ends a session, as `pg_terminate_backend` does for who may call it.
fn terminate(pid: i32) {
    unsafe extern "C" {
        fn kill(pid: i32, signal: i32) -> i32;
    }
    const SIGTERM: i32 = 15;
    // SAFETY: a process that is a backend of this server just now; the signal is how PostgreSQL ends one.
    let sent = unsafe { !pg_sys::BackendPidGetProc(pid).is_null() && kill(pid, SIGTERM) == 0 };
    if sent {
        pgrx::log!(
            "pg_outbox dispatcher: terminated session {pid}: it held a lock of the sequencer or of maintenance beyond its call"
        );
    }
}
