//! Maintenance by the dispatcher: runs `outbox_internal.maintain` every few seconds, in transactions of its own.
//!
//! Invariant: a failure here is logged, once per kind, and never stops deliveries.

use std::time::{Duration, Instant};

use pgrx::pg_sys::BOOLOID;

use crate::pg::txn::{self, Failure, Plan, arg};
use crate::settings;

/// Longest time between two rounds; `pg_outbox.retention_interval` may be shorter.
const INTERVAL: Duration = Duration::from_secs(10);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(60);

/// Runs maintenance when it is due.
pub struct Maintenance {
    round: Plan,
    due: Instant,
    said: Option<Failure>,
}

impl Maintenance {
    /// The first round is due one interval after the start: waiting messages come first.
    pub fn new() -> Maintenance {
        Maintenance {
            round: Plan::new("select coalesce(bool_or(m.more), false) from outbox_internal.maintain($1) m", &[BOOLOID]),
            due: Instant::now() + interval(),
            said: None,
        }
    }

    /// Time until the next round.
    pub fn wait(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }

    /// Runs a round if it is due. Remaining work is done in the next call, so that deliveries are handled in between.
    pub fn run(&mut self) {
        if !self.wait().is_zero() {
            return;
        }
        let Maintenance { round, .. } = self;
        match txn::run(|| Ok(round.execute(&[arg(false)]).first(|row| row.get::<bool>(0).unwrap_or(false)))) {
            Ok(more) => {
                self.said = None;
                self.due = Instant::now() + if more == Some(true) { Duration::from_millis(50) } else { interval() };
            }
            Err(error) => {
                if self.said.as_ref() != Some(&error) {
                    pgrx::log!("pg_outbox dispatcher: maintenance failed: {error}; trying again in {RETRY:?}");
                    self.said = Some(error);
                }
                self.due = Instant::now() + RETRY;
            }
        }
    }
}

fn interval() -> Duration {
    INTERVAL.min(Duration::from_secs(settings::RETENTION_INTERVAL.get().unsigned_abs().into()))
}
