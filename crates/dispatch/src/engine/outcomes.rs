//! Outcomes that came back from the HTTP thread, and the transaction that records them.

use std::time::{Duration, Instant};

use outbox_core::policy::Outcome;
use outbox_sender::{Done, Ticket};

use super::Engine;
use super::routing::Routing;
use super::send::InFlight;
use crate::failure::Failure;
use crate::fault::WHOLE_TRIES;
use crate::outcome::decisions::Decision;
use crate::outcome::entry::{DeliveryOutcome, EXPIRED, Entry};
use crate::outcome::message_counters::MessageCounters;
use crate::outcome::verdict::verdict;
use crate::pull::ordering::{Note, OrderKey};
use crate::store::{Batch, NumberedCheckpoint, Recorded, RoutingRow, Store, is_manual};
use crate::transport::Transport;

/// Results that are settled in memory, and not in a table yet. Every step adds to it; `record` empties it.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    /// Outcomes as they came from the HTTP thread. Empty when `take_outcomes` has run; `watch` may add one.
    pub done: Vec<Done>,
    entries: Vec<Entry>,
    routing: Vec<RoutingRow>,
    decisions: Vec<Decision>,
    pub message_counters: MessageCounters,
    /// When the oldest of the results was added; `None`: there is nothing to record.
    pub since: Option<Instant>,
    /// When a batch was recorded last.
    pub recorded_at: Option<Instant>,
    /// How often recording has failed in a row.
    failures: u32,
}

impl Unrecorded {
    /// Notes that there is something to record.
    pub(super) fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Adds the outcome of an attempt.
    pub(super) fn add(&mut self, entry: Entry, now: Instant) {
        self.entries.push(entry);
        self.begin(now);
    }

    /// Adds a delivery that has ended without an attempt.
    pub(super) fn decide(&mut self, decision: Decision, now: Instant) {
        self.decisions.push(decision);
        self.begin(now);
    }

    /// Adds the routing of consecutive positions.
    pub(super) fn add_routing(&mut self, first: i64, active: i32, matched: Vec<i16>, now: Instant) {
        match self.routing.last_mut() {
            Some(row) if row.active == active && row.first + row.matched.len() as i64 == first => {
                row.matched.extend(matched);
            }
            _ => self.routing.push(RoutingRow { first, active, matched }),
        }
        self.begin(now);
    }

    /// Number of outcomes and decisions.
    pub(super) fn len(&self) -> usize {
        self.entries.len() + self.decisions.len()
    }
}

impl<S: Store, T: Transport> Engine<S, T> {
    /// Takes the outcomes from the HTTP thread and decides what becomes of each delivery.
    pub(super) fn take_outcomes(&mut self) {
        let events = self.push.sender.take_events();
        if !events.is_empty() {
            events.into_iter().for_each(|event| self.push.endpoints.event(event));
            self.push.set_limits(&mut self.routing.config);
        }
        let mut done = std::mem::take(&mut self.unrecorded.done);
        self.push.sender.take_done(&mut done);
        let (mut stopped, mut ended) = (Vec::new(), Vec::new());
        let (time, instant) = (self.store.now(), self.store.instant());
        for mut done in done.drain(..) {
            let ticket = done.ticket;
            done.message = None;
            let Some((entry, key)) = self.settle(done, time) else {
                // No delivery waits for this outcome, so there is nothing to record.
                self.push.sender.recorded(1);
                continue;
            };
            if let Some(key) = key {
                let blocks = self.routing.config.subscriptions.get(&ticket.subscription).is_some_and(|s| s.block);
                let Ticket { position, message_id, .. } = ticket;
                let note = |what| Note { key, position, message_id, what };
                match &entry.outcome {
                    DeliveryOutcome::Failed(_) => stopped.push(note("failed")),
                    DeliveryOutcome::Dead(_) if blocks => stopped.push(note("dead")),
                    DeliveryOutcome::Dead(_) => ended.push(note("dead")),
                    _ => ended.push(note("ended")),
                }
            }
            self.unrecorded.add(entry, instant);
        }
        let Engine { push, routing, window, unrecorded, .. } = self;
        unrecorded.done = done;
        for note in stopped {
            push.stop_key(&mut routing.config, window, note, time);
        }
        for note in ended {
            push.continue_key(&mut routing.config, window, unrecorded, note, instant);
        }
    }

    /// Settles an outcome in memory. Returns its entry, and the delivery's key if the subscription is ordered; `None` if no
    /// delivery waits for the outcome.
    fn settle(&mut self, done: Done, time: i64) -> Option<(Entry, Option<OrderKey>)> {
        let Engine { push, routing, window, .. } = self;
        let ticket = done.ticket;
        if is_manual(&ticket) {
            push.manual_sends.returned(ticket.delivery_id);
            let outcome = DeliveryOutcome::Manual(matches!(done.outcome, Outcome::Status(200..=299)));
            return Some((Entry { done, segment: 0, outcome, payload: None, wanted_at: None }, None));
        }
        let in_flight = push.take_back(&ticket)?;
        let outcome = match routing.config.subscriptions.get_mut(&ticket.subscription) {
            None => DeliveryOutcome::Dead("subscription_gone"),
            Some(subscription) => {
                subscription.remove_outstanding(in_flight.bytes);
                if ticket.delivery_id == 0 {
                    subscription.progress.settle(ticket.position);
                }
                let verdict = verdict(&done, subscription, in_flight.max_attempts, in_flight.enqueued_at, time);
                push.endpoints.note(&done, &verdict.outcome, verdict.disable);
                verdict.outcome
            }
        };
        let is_cancelled = || window.is_cancelled(ticket.message_id);
        let outcome = match outcome {
            DeliveryOutcome::Failed(_) | DeliveryOutcome::Skipped if is_cancelled() => DeliveryOutcome::Cancelled,
            DeliveryOutcome::Failed(due) if in_flight.expires.is_some_and(|at| at <= due) => {
                DeliveryOutcome::Dead(EXPIRED)
            }
            outcome => outcome,
        };
        let InFlight { segment, payload, key, wanted_at, .. } = in_flight;
        let wanted_at = (ticket.run == 0).then_some(wanted_at);
        Some((Entry { done, segment, outcome, payload, wanted_at }, key))
    }

    /// Records outcomes, routing and checkpoint in one transaction.
    pub(super) fn record(&mut self) -> Result<(), Failure> {
        // A checkpoint that includes a control message must include the change that the message announces.
        self.refresh()?;
        let now = self.store.instant();
        let checkpoint = self.checkpoint();
        let write_endpoints = self.push.endpoints.write_in(now) == Some(Duration::ZERO);
        let endpoints = if write_endpoints { self.push.endpoints.changed() } else { Vec::new() };
        let Engine { store, faults, push, window, unrecorded, .. } = self;
        let (rows, ended) = window.unrecorded();
        let mut batch = Batch {
            entries: &mut unrecorded.entries,
            decisions: &mut unrecorded.decisions,
            rows,
            ended,
            endpoints: &endpoints,
            routing: &unrecorded.routing,
            notes: push.order.notes(),
            manual_sends: push.manual_sends.finished(),
            message_counters: &unrecorded.message_counters,
            checkpoint: &checkpoint,
            now: store.now(),
        };
        let written = store.record(&batch);
        unrecorded.failures = if written.is_ok() { 0 } else { unrecorded.failures + 1 };
        let recorded = match written {
            // An item cannot be recorded. Recording one by one finds the item and charges the failure to it.
            Err(failure) if !failure.is_transient() && unrecorded.failures > WHOLE_TRIES => {
                store.log(format_args!("{failure}; recording each outcome by itself"));
                let mut found = Vec::new();
                let recorded = store.record_apart(&mut batch, &mut found)?;
                found.into_iter().for_each(|fault| faults.add(store, fault));
                faults.write(store);
                unrecorded.failures = 0;
                recorded
            }
            written => written?,
        };
        if write_endpoints {
            push.endpoints.written(now);
        }
        self.recorded(recorded);
        Ok(())
    }

    /// The checkpoint that contains everything that has been settled.
    fn checkpoint(&self) -> NumberedCheckpoint {
        let Routing { config, routed, .. } = &self.routing;
        NumberedCheckpoint {
            id: self.incarnation.checkpoint_id + 1,
            incarnation: self.incarnation.number,
            checkpoint: config.checkpoint(*routed),
        }
    }

    /// Called when the batch has been recorded: empties what it contained.
    fn recorded(&mut self, recorded: Recorded) {
        let Engine { store, push, window, unrecorded, incarnation, .. } = self;
        incarnation.checkpoint_id += 1;
        push.sender.recorded(unrecorded.entries.iter().filter(|entry| entry.was_sent()).count());
        // Rows come back only now: until the record, the table shows a row as it was when it was sent.
        for entry in unrecorded.entries.drain(..).filter(|entry| !is_manual(&entry.done.ticket)) {
            push.retries.returned(entry.done.ticket.delivery_id);
            if let DeliveryOutcome::Failed(due) = entry.outcome {
                push.retries.at(entry.done.ticket.subscription, due);
            }
        }
        for (subscription, due) in window.pushed() {
            push.retries.at(subscription, due);
        }
        unrecorded.message_counters.recorded();
        for id in unrecorded.decisions.drain(..).map(|decision| decision.delivery_id).filter(|id| *id != 0) {
            push.retries.returned(id);
            // The row may have been the first of its key.
            window.pass_now();
        }
        window.recorded();
        if recorded.ended | push.order.recorded(recorded.keys) {
            window.pass_now();
        }
        push.manual_sends.recorded();
        unrecorded.routing.clear();
        unrecorded.since = None;
        unrecorded.recorded_at = Some(store.instant());
    }
}
