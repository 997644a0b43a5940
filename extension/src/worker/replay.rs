//! Replays: makes a few rows of outbox.delivery at a time, at the rate of each replay. `outbox_internal.replay_step` decides;
//! this file keeps the time.
//!
//! Invariant: a step is a transaction of its own, and a failed step affects only its replay.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pgrx::pg_sys::{INT4OID, INT8OID, TEXTOID};

use crate::pg::txn::{self, Failure, Plan, arg};
use crate::settings;
use crate::worker::dispatcher;

/// How often a replay takes a step.
const INTERVAL: Duration = Duration::from_millis(50);
/// The number of rows of a step follows the time that the last one took: at most half of the interval.
const LONGEST: Duration = Duration::from_millis(25);
/// The fewest rows that a step is lowered to.
const FEWEST: f64 = 16.0;
/// After a step that took longer than the interval, a replay rests for this many times as long as the step took.
const SHARE: u32 = 9;
/// Failures in a row after which a replay is given up. A single failure may be a lock that was not available.
const FAILURES: u32 = 5;

/// Running replays.
pub struct Replays {
    list: Plan,
    step: Plan,
    failed: Plan,
    rescan: bool,
    jobs: HashMap<i64, Job>,
    stepped: Instant,
}

struct Job {
    rate: f64,
    allowance: f64,
    /// The most rows of a step.
    most: f64,
    at: Instant,
    /// A slow step was taken, because of a filter or a transform; the next one comes after this time.
    rest_until: Instant,
    failures: u32,
}

impl Replays {
    /// Finds the replays that were running before.
    pub fn new() -> Replays {
        Replays {
            list: Plan::new("select r.id, r.rate from outbox.replay r where r.state in ('running', 'draining')", &[]),
            step: Plan::new("select s.state, s.made from outbox_internal.replay_step($1, $2) s", &[INT8OID, INT4OID]),
            failed: Plan::new("select outbox_internal.replay_failed($1, $2)", &[INT8OID, TEXTOID]),
            rescan: true,
            jobs: HashMap::new(),
            stepped: Instant::now(),
        }
    }

    /// Has the table of replays read again: there may be a new one.
    pub fn rescan(&mut self) {
        self.rescan = true;
    }

    /// Time until the next step.
    pub fn wait(&self) -> Duration {
        if self.jobs.is_empty() { Duration::MAX } else { INTERVAL.saturating_sub(self.stepped.elapsed()) }
    }

    /// Takes the steps that are due.
    pub fn run(&mut self) -> Result<(), Failure> {
        if self.rescan {
            let list = &mut self.list;
            let found = txn::run(|| {
                let mut found = Vec::new();
                list.execute(&[]).for_each(|row| found.push((row.int(0), row.get::<i32>(1).unwrap_or(1))));
                Ok(found)
            })?;
            for (id, rate) in found {
                let new = Job {
                    rate: f64::from(rate),
                    allowance: 0.0,
                    most: f64::from(rate),
                    at: Instant::now(),
                    rest_until: Instant::now(),
                    failures: 0,
                };
                self.jobs.entry(id).or_insert(new);
            }
            self.rescan = false;
        }
        if self.jobs.is_empty() || self.stepped.elapsed() < INTERVAL {
            return Ok(());
        }
        self.stepped = Instant::now();
        let Replays { step, failed, jobs, .. } = self;
        jobs.retain(|id, job| {
            // An allowance is saved up for one second at most.
            job.allowance = (job.allowance + job.rate * job.at.elapsed().as_secs_f64()).min(job.rate);
            job.at = Instant::now();
            if job.allowance < 1.0 || job.rest_until > Instant::now() {
                return true;
            }
            let (filter, transform) = (settings::FILTER_TIMEOUT.get(), settings::TRANSFORM_TIMEOUT.get());
            let timer = 10 * Duration::from_millis(filter.max(transform).max(1) as u64);
            let begun = Instant::now();
            let wanted = job.allowance.min(job.most);
            let outcome = txn::run_timed(timer, || {
                let rows = step.execute(&[arg(*id), arg(wanted as i32)]);
                Ok(rows.first(|row| (row.text(0).unwrap_or_default(), row.get::<i32>(1).unwrap_or(0))))
            });
            dispatcher::release_locks();
            job.most = if begun.elapsed() > LONGEST { wanted / 2.0 } else { job.rate.min(job.most * 1.5) }.max(FEWEST);
            if begun.elapsed() > INTERVAL {
                job.rest_until = Instant::now() + SHARE * begun.elapsed();
            }
            match outcome {
                Ok(Some((state, made))) => {
                    job.allowance -= f64::from(made);
                    job.failures = 0;
                    matches!(&*state, "running" | "waiting" | "draining")
                }
                Ok(None) => false,
                Err(error) => {
                    job.failures += 1;
                    if job.failures < FAILURES {
                        return true;
                    }
                    pgrx::log!("pg_outbox dispatcher: replay {id} failed: {error}");
                    let given_up = txn::run(|| {
                        failed.execute(&[arg(*id), arg(&*error.message)]);
                        Ok(())
                    });
                    given_up.is_err()
                }
            }
        });
        Ok(())
    }
}
