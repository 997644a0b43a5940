//! Consent of receivers: asks endpoints for it and records their answers.
//!
//! The state is in `outbox.endpoint_consent`; `_record_consent` in `sql/schema/push/consents.sql` decides what an answer
//! means. An endpoint is asked by one request at a time. If an answer cannot be recorded, the endpoint is asked again.

use std::collections::HashSet;
use std::time::Duration;

use outbox_core::policy::Outcome;
use outbox_sender::{ConsentAnswer, Sender};
use pgrx::pg_sys::{BOOLOID, INT4OID, TEXTOID};

use crate::pg::txn::{self, Failure, Plan, arg};
use crate::settings;
use crate::worker::fault::{Faults, Kind, apart};
use crate::worker::now;

/// The consent requests of a database.
pub struct Consents {
    due: Plan,
    record: Plan,
    /// When to read the table (microseconds, PostgreSQL's epoch); `None`: no endpoint waits there.
    next: Option<i64>,
    asking: HashSet<i32>,
    /// Endpoints that the HTTP thread knows. The table may have newer ones, which the thread could not ask.
    known: HashSet<i32>,
    answers: Vec<ConsentAnswer>,
}

impl Consents {
    pub fn new() -> Consents {
        Consents {
            due: Plan::new(
                "select e.id, outbox_internal.us(c.next_at)
                from outbox.endpoint e
                left join outbox.endpoint_consent c on c.endpoint_id = e.id
                where e.consent = 'pending' and e.active and e.deleted_at is null",
                &[],
            ),
            record: Plan::new(
                "select outbox_internal.record_consent($1, $2, $3, $4, $5, $6, $7)",
                &[INT4OID, TEXTOID, BOOLOID, INT4OID, TEXTOID, TEXTOID, TEXTOID],
            ),
            next: Some(i64::MIN),
            asking: HashSet::new(),
            known: HashSet::new(),
            answers: Vec::new(),
        }
    }

    /// Called when the HTTP thread has received these endpoints.
    pub fn endpoints_set(&mut self, endpoints: impl Iterator<Item = i32>) {
        self.known = endpoints.collect();
        self.next = Some(i64::MIN);
    }

    /// Records answers and asks the endpoints that are due. Returns the time until the next one is due.
    pub fn round(&mut self, sender: &Sender, faults: &mut Faults) -> Result<Option<Duration>, Failure> {
        sender.take_consents(&mut self.answers);
        if !self.answers.is_empty() {
            self.record(faults)?;
        }
        let Some(next) = self.next.filter(|_| settings::PUSH.get()) else { return Ok(None) };
        let time = now();
        if next <= time {
            let due = &mut self.due;
            let all = txn::run(|| {
                let mut all = Vec::new();
                due.execute(&[]).for_each(|row| all.push((row.get::<i32>(0).unwrap_or_default(), row.int(1))));
                Ok(all)
            })?;
            let origin = origin();
            for (endpoint, _) in all.iter().filter(|(_, at)| *at <= time) {
                if self.known.contains(endpoint) && self.asking.insert(*endpoint) {
                    sender.ask_consent(*endpoint, &origin);
                }
            }
            self.next = all.iter().map(|(_, at)| *at).filter(|at| *at > time).min();
        }
        Ok(self.next.map(|at| Duration::from_micros((at - time).max(1000).unsigned_abs())))
    }

    fn record(&mut self, faults: &mut Faults) -> Result<(), Failure> {
        let Consents { record, answers, .. } = self;
        let write = &mut |answers: &[ConsentAnswer]| {
            for answer in answers {
                let (failed, status) = match answer.outcome {
                    Outcome::Status(status @ (408 | 425 | 429 | 500..)) => (true, Some(i32::from(status))),
                    Outcome::Status(status) => (false, Some(i32::from(status))),
                    Outcome::Fault(_) => (true, None),
                };
                record.execute(&[
                    arg(answer.endpoint),
                    arg(&*answer.origin),
                    arg(failed),
                    status.and_then(arg),
                    answer.allowed_origin.as_deref().and_then(arg),
                    answer.allowed_rate.as_deref().and_then(arg),
                    answer.error.as_deref().and_then(arg),
                ]);
            }
            Ok(())
        };
        let failed = txn::run(|| Ok(apart(answers, write)?))?;
        for (place, failure) in failed {
            faults.found(Kind::Endpoint, answers[place].endpoint.into(), "consent", &failure);
        }
        faults.write();
        for answer in self.answers.drain(..) {
            self.asking.remove(&answer.endpoint);
        }
        self.next = Some(i64::MIN);
        Ok(())
    }
}

/// The name under which the dispatcher asks.
fn origin() -> String {
    settings::CONSENT_ORIGIN
        .get()
        .map_or_else(|| "pg_outbox".to_owned(), |origin| origin.to_string_lossy().into_owned())
}
