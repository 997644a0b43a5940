//! Terminates sessions that keep the dispatcher waiting for one of the extension's locks after their call has ended.
//!
//! `tick()`, `maintain()` and others take locks that must be held until the transaction commits. They refuse to run in a
//! transaction that does not end with the call, but there are ways around that (`select outbox.tick(), pg_sleep(3600)`). So
//! a session of an ordinary role that still holds such a lock seconds after its call has returned is terminated, as
//! PostgreSQL terminates sessions that are in the way of a standby's recovery. The work lost is a tick, which is repeated.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::pg::txn::{self, Plan};

/// How long the dispatcher waits for a lock before it looks for the holder.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct Evict {
    since: Option<Instant>,
    plan: RefCell<Plan>,
}

impl Evict {
    pub const fn new() -> Evict {
        Evict { since: None, plan: RefCell::new(Plan::new("select outbox_internal.overstaying()", &[])) }
    }

    /// Notes whether the round that has just ended had to wait for another session's lock.
    pub fn waited(&mut self, waited: bool) {
        if !waited {
            self.since = None;
        } else if self.since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
            self.since = None;
            self.find_holder();
        }
    }

    fn find_holder(&self) {
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

/// Ends a session, as `pg_terminate_backend` does for a role that may call it.
fn terminate(pid: i32) {
    unsafe extern "C" {
        fn kill(pid: i32, signal: i32) -> i32;
    }
    const SIGTERM: i32 = 15;
    // SAFETY: the process is a backend of this server at this moment; PostgreSQL ends backends with this signal.
    let sent = unsafe { !pg_sys::BackendPidGetProc(pid).is_null() && kill(pid, SIGTERM) == 0 };
    if sent {
        pgrx::log!(
            "pg_outbox dispatcher: terminated session {pid}: it held a lock of the sequencer or of maintenance beyond its call"
        );
    }
}
