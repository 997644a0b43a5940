//! Consent of receivers: asks endpoints for it and records their answers.
//!
//! The state is in `outbox.endpoint_consent`; `_record_consent` in `sql/schema/push/consents.sql` decides what an answer
//! means. An endpoint is asked by one request at a time. If an answer cannot be recorded, the endpoint is asked again.

use std::collections::HashSet;
use std::time::Duration;

use outbox_sender::ConsentAnswer;

use crate::failure::Failure;
use crate::fault::{Fault, Faults, Kind};
use crate::store::Store;
use crate::transport::Transport;

/// The consent requests of a database.
#[derive(Debug)]
pub(crate) struct Consents {
    /// When to read the table (microseconds, PostgreSQL's epoch); `None`: no endpoint waits there.
    next: Option<i64>,
    asking: HashSet<i32>,
    /// Endpoints that the HTTP thread knows. The table may have newer ones, which the thread could not ask.
    known: HashSet<i32>,
    answers: Vec<ConsentAnswer>,
}

impl Consents {
    pub(crate) fn new() -> Consents {
        Consents { next: Some(i64::MIN), asking: HashSet::new(), known: HashSet::new(), answers: Vec::new() }
    }

    /// Called when the HTTP thread has received these endpoints, besides those that it has.
    pub(crate) fn endpoints_changed(&mut self, endpoints: impl Iterator<Item = i32>) {
        self.known.extend(endpoints);
        self.next = Some(i64::MIN);
    }

    /// Called when the HTTP thread has received these endpoints, and has no others.
    pub(crate) fn endpoints_set(&mut self, endpoints: impl Iterator<Item = i32>) {
        self.known = endpoints.collect();
        self.next = Some(i64::MIN);
    }

    /// Records answers and asks the endpoints that are due. Returns the time until the next one is due.
    pub(crate) fn round<S: Store, T: Transport>(
        &mut self,
        store: &mut S,
        sender: &mut T,
        faults: &mut Faults,
    ) -> Result<Option<Duration>, Failure> {
        sender.take_consents(&mut self.answers);
        if !self.answers.is_empty() {
            self.record(store, faults)?;
        }
        let Some(next) = self.next.filter(|_| store.switches().push) else { return Ok(None) };
        let time = store.now();
        if next <= time {
            let all = store.consents_due()?;
            let origin = store.consent_origin();
            for (endpoint, _) in all.iter().filter(|(_, at)| *at <= time) {
                if self.known.contains(endpoint) && self.asking.insert(*endpoint) {
                    sender.ask_consent(*endpoint, &origin);
                }
            }
            self.next = all.iter().map(|(_, at)| *at).filter(|at| *at > time).min();
        }
        Ok(self.next.map(|at| Duration::from_micros((at - time).max(1000).unsigned_abs())))
    }

    fn record<S: Store>(&mut self, store: &mut S, faults: &mut Faults) -> Result<(), Failure> {
        for (place, failure) in store.record_consents(&self.answers)? {
            faults.add(store, Fault::new(Kind::Endpoint, self.answers[place].endpoint, "consent", failure));
        }
        faults.write(store);
        for answer in self.answers.drain(..) {
            self.asking.remove(&answer.endpoint);
        }
        self.next = Some(i64::MIN);
        Ok(())
    }
}
