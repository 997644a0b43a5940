//! Outcomes that came back from the HTTP thread, and the transaction that records them.

use std::ops::Range;
use std::time::{Duration, Instant};

use outbox_core::policy::Outcome;
use outbox_sender::Ticket;

use super::Engine;
use crate::dispatch::engine::send::send_attempt;
use crate::dispatch::outcome::decisions::Decision;
use crate::dispatch::outcome::decisions::UNRECORDABLE;
use crate::dispatch::outcome::record::Checkpoint;
use crate::dispatch::outcome::record::DeliveryOutcome;
use crate::dispatch::outcome::record::EXPIRED;
use crate::dispatch::outcome::record::Entry;
use crate::dispatch::outcome::record::requests;
use crate::dispatch::outcome::verdict::verdict;
use crate::dispatch::pull::ordering::OrderKey;
use crate::dispatch::pull::ordering::Waiting;
use crate::pg::txn;
use crate::pg::txn::Failure;
use crate::worker::fault::Kind;
use crate::worker::fault::WHOLE_TRIES;
use crate::worker::fault::apart;
use crate::worker::now;

impl Engine {
    /// Takes the outcomes from the HTTP thread and decides what becomes of each delivery.
    pub(crate) fn take_outcomes(&mut self) {
        let events = self.sender.take_events();
        if !events.is_empty() {
            events.into_iter().for_each(|event| self.endpoints.event(event));
            self.set_limits();
        }
        let (mut stopped, mut ended) = (Vec::new(), Vec::new());
        self.sender.take_done(&mut self.done);
        for mut done in self.done.drain(..) {
            let ticket = done.ticket;
            done.message = None;
            if ticket.run < 0 {
                self.manual_sends.returned(ticket.delivery_id);
                let outcome = DeliveryOutcome::Manual(matches!(done.outcome, Outcome::Status(200..=299)));
                self.entries.push(Entry { done, segment: 0, outcome });
                self.unrecorded_since.get_or_insert_with(Instant::now);
                continue;
            }
            let Some(in_flight) = self.in_flight.remove(&(ticket.subscription, ticket.position, ticket.run)) else {
                // No delivery waits for this outcome, so there is nothing to record.
                self.sender.recorded(1);
                continue;
            };
            let outcome = match self.config.subscriptions.get_mut(&ticket.subscription) {
                None => DeliveryOutcome::Dead("subscription_gone"),
                Some(subscription) => {
                    subscription.remove_outstanding(in_flight.bytes);
                    if ticket.delivery_id == 0 {
                        subscription.progress.settle(ticket.position);
                    }
                    let verdict = verdict(&done, subscription, in_flight.max_attempts, in_flight.enqueued_at);
                    self.endpoints.note(&done, &verdict.outcome, verdict.disable);
                    verdict.outcome
                }
            };
            let outcome = match outcome {
                DeliveryOutcome::Failed(_) | DeliveryOutcome::Skipped
                    if self.window.is_cancelled(ticket.message_id) =>
                {
                    DeliveryOutcome::Cancelled
                }
                DeliveryOutcome::Failed(due) if in_flight.expires.is_some_and(|at| at <= due) => {
                    DeliveryOutcome::Dead(EXPIRED)
                }
                outcome => outcome,
            };
            if let Some(key) = in_flight.key {
                let blocks = self.config.subscriptions.get(&ticket.subscription).is_some_and(|s| s.block);
                match &outcome {
                    DeliveryOutcome::Failed(_) => stopped.push((key, ticket, "failed")),
                    DeliveryOutcome::Dead(_) if blocks => stopped.push((key, ticket, "dead")),
                    DeliveryOutcome::Dead(_) => ended.push((key, ticket, "dead")),
                    _ => ended.push((key, ticket, "ended")),
                }
            }
            self.entries.push(Entry { done, segment: in_flight.segment, outcome });
            self.unrecorded_since.get_or_insert_with(Instant::now);
        }
        for (key, ticket, what) in stopped {
            self.stop_key(key, ticket, what);
        }
        for (key, ticket, what) in ended {
            self.continue_key(key, ticket, what);
        }
    }

    /// Handles a delivery of an ordered subscription that will be retried, or that blocks its key as a dead letter: the
    /// deliveries that wait for it in memory become rows.
    pub(crate) fn stop_key(&mut self, key: OrderKey, ticket: Ticket, what: &'static str) {
        for waiting in self.order.stop(&key) {
            let Waiting { stored, attempt } = waiting;
            if let Some(subscription) = self.config.subscriptions.get_mut(&key.0) {
                subscription.remove_outstanding(stored.message.content.len());
                if attempt.delivery_id == 0 {
                    subscription.progress.settle(stored.message.position);
                    subscription.blocked += 1;
                }
            }
            if attempt.delivery_id == 0 {
                self.window.block(key.0, &stored, key.1.clone(), attempt.expires);
            } else {
                self.retries.returned(attempt.delivery_id);
                self.retries.at(key.0, now());
            }
        }
        self.order.note(key, ticket.position, ticket.message_id, what);
    }

    /// Handles a delivery of an ordered subscription that has ended: the next one of its key is sent.
    pub(crate) fn continue_key(&mut self, key: OrderKey, ticket: Ticket, what: &'static str) {
        let mut jobs = Vec::new();
        while let Some(Waiting { stored, attempt }) = self.order.next(&key) {
            let Some(subscription) = self.config.subscriptions.get_mut(&key.0) else { break };
            subscription.remove_outstanding(stored.message.content.len());
            if self.window.is_cancelled(stored.message.id) {
                if attempt.delivery_id == 0 {
                    subscription.progress.settle(stored.message.position);
                }
                self.decisions.push(Decision::cancelled(key.0, &stored, attempt.delivery_id));
                self.unrecorded_since.get_or_insert_with(Instant::now);
                continue;
            }
            send_attempt(&mut self.in_flight, &mut jobs, key.0, subscription, &stored, attempt);
            break;
        }
        self.sender.submit(jobs);
        if what == "dead" || self.order.has_rows(&key) {
            self.order.note(key, ticket.position, ticket.message_id, what);
        }
    }

    /// Records outcomes, routing and checkpoint in one transaction.
    pub(crate) fn record(&mut self) -> Result<(), Failure> {
        // A checkpoint that includes a control message must include the change that the message announces.
        self.refresh()?;
        let mut subscriptions: Vec<_> =
            self.config.subscriptions.iter().filter_map(|(id, s)| Some((*id, s.progress.save()?))).collect();
        subscriptions.sort_unstable_by_key(|(id, _)| *id);
        let checkpoint = Checkpoint { routed: self.routed, subscriptions };
        let write_endpoints = self.endpoints.write_in() == Some(Duration::ZERO);
        let changed = if write_endpoints { self.endpoints.changed() } else { Vec::new() };
        let written = txn::run(|| self.write(&changed, &checkpoint));
        self.record_failures = if written.is_ok() { 0 } else { self.record_failures + 1 };
        match written {
            // An item cannot be recorded. Recording one by one finds the item and charges the failure to it.
            Err(failure) if !failure.is_transient() && self.record_failures > WHOLE_TRIES => {
                pgrx::log!("pg_outbox dispatcher: {failure}; recording each outcome by itself");
                txn::run(|| self.write_apart(&changed, &checkpoint))?;
                self.record_failures = 0;
                self.faults.write();
            }
            written => written?,
        }
        self.checkpoint_id += 1;
        if write_endpoints {
            self.endpoints.written();
        }
        self.sender.recorded(self.entries.iter().filter(|entry| entry.was_sent()).count());
        // Rows come back only now: until the commit, the table shows a row as it was when it was sent.
        for entry in self.entries.iter().filter(|entry| entry.done.ticket.run >= 0) {
            self.retries.returned(entry.done.ticket.delivery_id);
            if let DeliveryOutcome::Failed(due) = entry.outcome {
                self.retries.at(entry.done.ticket.subscription, due);
            }
        }
        for (subscription, due) in self.window.pushed() {
            self.retries.at(subscription, due);
        }
        self.message_counters.recorded();
        for id in self.decisions.recorded() {
            self.retries.returned(id);
            // The row may have been the first of its key.
            self.window.pass_now();
        }
        let rows_made = self.window.recorded();
        if self.order.recorded() {
            self.window.pass_now();
        }
        self.manual_sends.recorded();
        self.entries.clear();
        self.routing.clear();
        self.unrecorded_since = None;
        if rows_made {
            self.window.tell_workers();
        }
        Ok(())
    }

    /// Writes everything together. Inside a transaction.
    fn write(&mut self, changed: &[i32], checkpoint: &Checkpoint) -> outbox_core::Result<()> {
        self.recorder.outcomes(&self.entries)?;
        self.endpoints.write(changed);
        self.recorder.routing(&self.routing);
        self.order.record();
        self.window.record(failed(&self.entries));
        self.order.reread_noted();
        self.manual_sends.record();
        self.decisions.record();
        self.message_counters.record()?;
        self.recorder.checkpoint(self.checkpoint_id + 1, self.incarnation, checkpoint);
        Ok(())
    }

    /// Writes everything, and item by item where something fails. An item that cannot be written in any form becomes a
    /// fault. Inside a transaction.
    fn write_apart(&mut self, changed: &[i32], checkpoint: &Checkpoint) -> outbox_core::Result<()> {
        let Engine {
            recorder,
            entries,
            endpoints,
            routing,
            order,
            window,
            decisions,
            manual_sends,
            message_counters,
            faults,
            ..
        } = self;
        let requests = requests(entries);
        let write = &mut |part: &[Range<usize>]| match part {
            [first, .., last] => recorder.outcomes(&entries[first.start..last.end]),
            [only] => recorder.outcomes(&entries[only.clone()]),
            [] => Ok(()),
        };
        for (place, failure) in apart(&requests, write)? {
            for entry in &mut entries[requests[place].clone()] {
                entry.make_plain(&failure);
                let plainly = txn::attempt(|| recorder.outcomes(std::slice::from_ref(entry)));
                let Err(failure) = plainly else { continue };
                if !matches!(
                    entry.outcome,
                    DeliveryOutcome::Completed
                        | DeliveryOutcome::Cancelled
                        | DeliveryOutcome::Skipped
                        | DeliveryOutcome::Manual(_)
                ) {
                    entry.outcome = DeliveryOutcome::Dead(UNRECORDABLE);
                    if txn::attempt(|| recorder.outcomes(std::slice::from_ref(entry))).is_ok() {
                        continue;
                    }
                }
                faults.found(Kind::Message, entry.done.ticket.message_id, "record", &failure);
            }
        }
        for (place, failure) in apart(changed, &mut |ids| {
            endpoints.write(ids);
            Ok(())
        })? {
            faults.found(Kind::Endpoint, changed[place].into(), "record", &failure);
        }
        recorder.routing(routing);
        order.record_apart(faults)?;
        window.record_apart(failed(entries), decisions, faults)?;
        order.reread_noted();
        manual_sends.record();
        decisions.record_apart(faults)?;
        if let Err(failure) = txn::attempt(|| message_counters.record()) {
            pgrx::log!("pg_outbox dispatcher: some messages are not counted in the statistics: {failure}");
        }
        recorder.checkpoint(self.checkpoint_id + 1, self.incarnation, checkpoint);
        Ok(())
    }
}

/// Messages of the deliveries that will be retried.
fn failed(entries: &[Entry]) -> impl Iterator<Item = i64> {
    entries.iter().filter(|e| matches!(e.outcome, DeliveryOutcome::Failed(_))).map(|e| e.done.ticket.message_id)
}
