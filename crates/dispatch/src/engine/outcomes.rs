//! Outcomes that came back from the HTTP thread, and the transaction that records them.

use std::ops::Range;
use std::time::{Duration, Instant};

use outbox_core::policy::Outcome;
use outbox_sender::Done;

use super::Engine;
use crate::dispatch::outcome::decisions::{Decision, Decisions, UNRECORDABLE};
use crate::dispatch::outcome::message_counters::MessageCounters;
use crate::dispatch::outcome::record::{Checkpoint, DeliveryOutcome, EXPIRED, Entry, Recorder, RoutingRow, requests};
use crate::dispatch::outcome::verdict::verdict;
use crate::dispatch::pull::ordering::OrderKey;
use crate::pg::txn::{self, Failure};
use crate::worker::fault::{Faults, Kind, WHOLE_TRIES, apart};

/// Results that are settled in memory, and not in a table yet. Every step adds to it; `record` empties it.
pub(super) struct Unrecorded {
    /// Outcomes as they came from the HTTP thread. Empty when `take_outcomes` has run; `watch` may add one.
    pub done: Vec<Done>,
    entries: Vec<Entry>,
    routing: Vec<RoutingRow>,
    decisions: Decisions,
    pub message_counters: MessageCounters,
    /// When the oldest of the results was added; `None`: there is nothing to record.
    pub since: Option<Instant>,
    /// How often recording has failed in a row.
    failures: u32,
}

impl Unrecorded {
    pub fn new() -> Unrecorded {
        Unrecorded {
            done: Vec::new(),
            entries: Vec::new(),
            routing: Vec::new(),
            decisions: Decisions::new(),
            message_counters: MessageCounters::default(),
            since: None,
            failures: 0,
        }
    }

    /// Notes that there is something to record.
    pub fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Adds the outcome of an attempt.
    pub fn add(&mut self, entry: Entry) {
        self.entries.push(entry);
        self.begin();
    }

    /// Adds a delivery that has ended without an attempt.
    pub fn decide(&mut self, decision: Decision) {
        self.decisions.push(decision);
        self.begin();
    }

    /// Adds the routing of consecutive positions.
    pub fn add_routing(&mut self, first: i64, active: i32, matched: Vec<i16>) {
        match self.routing.last_mut() {
            Some(row) if row.active == active && row.first + row.matched.len() as i64 == first => {
                row.matched.extend(matched);
            }
            _ => self.routing.push(RoutingRow { first, active, matched }),
        }
        self.begin();
    }

    /// Number of outcomes and decisions.
    pub fn len(&self) -> usize {
        self.entries.len() + self.decisions.len()
    }
}

impl Engine {
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
        for mut done in done.drain(..) {
            let ticket = done.ticket;
            done.message = None;
            let Some((entry, key)) = self.settle(done) else {
                // No delivery waits for this outcome, so there is nothing to record.
                self.push.sender.recorded(1);
                continue;
            };
            if let Some(key) = key {
                let blocks = self.routing.config.subscriptions.get(&ticket.subscription).is_some_and(|s| s.block);
                match &entry.outcome {
                    DeliveryOutcome::Failed(_) => stopped.push((key, ticket, "failed")),
                    DeliveryOutcome::Dead(_) if blocks => stopped.push((key, ticket, "dead")),
                    DeliveryOutcome::Dead(_) => ended.push((key, ticket, "dead")),
                    _ => ended.push((key, ticket, "ended")),
                }
            }
            self.unrecorded.add(entry);
        }
        let Engine { push, routing, window, unrecorded, .. } = self;
        unrecorded.done = done;
        for (key, ticket, result) in stopped {
            push.stop_key(&mut routing.config, window, key, ticket, result);
        }
        for (key, ticket, result) in ended {
            push.continue_key(&mut routing.config, window, unrecorded, key, ticket, result);
        }
    }

    /// Settles an outcome in memory. Returns its entry, and the delivery's key if the subscription is ordered; `None` if no
    /// delivery waits for the outcome.
    fn settle(&mut self, done: Done) -> Option<(Entry, Option<OrderKey>)> {
        let Engine { push, routing, window, .. } = self;
        let ticket = done.ticket;
        if ticket.run < 0 {
            push.manual_sends.returned(ticket.delivery_id);
            let outcome = DeliveryOutcome::Manual(matches!(done.outcome, Outcome::Status(200..=299)));
            return Some((Entry { done, segment: 0, outcome }, None));
        }
        let in_flight = push.take_back(&ticket)?;
        let outcome = match routing.config.subscriptions.get_mut(&ticket.subscription) {
            None => DeliveryOutcome::Dead("subscription_gone"),
            Some(subscription) => {
                subscription.remove_outstanding(in_flight.bytes);
                if ticket.delivery_id == 0 {
                    subscription.progress.settle(ticket.position);
                }
                let verdict = verdict(&done, subscription, in_flight.max_attempts, in_flight.enqueued_at);
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
        Some((Entry { done, segment: in_flight.segment, outcome }, in_flight.key))
    }

    /// Records outcomes, routing and checkpoint in one transaction.
    pub(super) fn record(&mut self) -> Result<(), Failure> {
        // A checkpoint that includes a control message must include the change that the message announces.
        self.refresh()?;
        let saved = self.routing.config.subscriptions.iter().filter_map(|(id, s)| Some((*id, s.progress.save()?)));
        let mut subscriptions: Vec<_> = saved.collect();
        subscriptions.sort_unstable_by_key(|(id, _)| *id);
        let checkpoint = Checkpoint { routed: self.routing.routed, subscriptions };
        let write_endpoints = self.push.endpoints.write_in() == Some(Duration::ZERO);
        let changed = if write_endpoints { self.push.endpoints.changed() } else { Vec::new() };
        let written = txn::run(|| self.write(&changed, &checkpoint));
        self.unrecorded.failures = if written.is_ok() { 0 } else { self.unrecorded.failures + 1 };
        match written {
            // An item cannot be recorded. Recording one by one finds the item and charges the failure to it.
            Err(failure) if !failure.is_transient() && self.unrecorded.failures > WHOLE_TRIES => {
                pgrx::log!("pg_outbox dispatcher: {failure}; recording each outcome by itself");
                txn::run(|| self.write_apart(&changed, &checkpoint))?;
                self.unrecorded.failures = 0;
                self.store.faults.write();
            }
            written => written?,
        }
        if write_endpoints {
            self.push.endpoints.written();
        }
        self.recorded();
        Ok(())
    }

    /// Writes everything together. Inside a transaction.
    fn write(&mut self, changed: &[i32], checkpoint: &Checkpoint) -> outbox_core::Result<()> {
        let Engine { store, push, window, unrecorded, incarnation, .. } = self;
        store.recorder.outcomes(&unrecorded.entries)?;
        push.endpoints.write(changed);
        store.recorder.routing(&unrecorded.routing);
        push.order.record();
        window.record(failed(&unrecorded.entries));
        push.order.reread_noted();
        push.manual_sends.record();
        unrecorded.decisions.record();
        unrecorded.message_counters.record()?;
        store.recorder.checkpoint(incarnation.checkpoint_id + 1, incarnation.number, checkpoint);
        Ok(())
    }

    /// Writes everything, and item by item where something fails. An item that cannot be written in any form becomes a
    /// fault. Inside a transaction.
    fn write_apart(&mut self, changed: &[i32], checkpoint: &Checkpoint) -> outbox_core::Result<()> {
        let Engine { store, push, window, unrecorded, incarnation, .. } = self;
        let (recorder, faults) = (&mut store.recorder, &mut store.faults);
        write_entries_apart(recorder, &mut unrecorded.entries, faults)?;
        for (place, failure) in apart(changed, &mut |ids| {
            push.endpoints.write(ids);
            Ok(())
        })? {
            faults.found(Kind::Endpoint, changed[place].into(), "record", &failure);
        }
        recorder.routing(&unrecorded.routing);
        push.order.record_apart(faults)?;
        window.record_apart(failed(&unrecorded.entries), &mut unrecorded.decisions, faults)?;
        push.order.reread_noted();
        push.manual_sends.record();
        unrecorded.decisions.record_apart(faults)?;
        if let Err(failure) = txn::attempt(|| unrecorded.message_counters.record()) {
            pgrx::log!("pg_outbox dispatcher: some messages are not counted in the statistics: {failure}");
        }
        recorder.checkpoint(incarnation.checkpoint_id + 1, incarnation.number, checkpoint);
        Ok(())
    }

    /// Called when the transaction has committed: empties what it has recorded.
    fn recorded(&mut self) {
        let Engine { push, window, unrecorded, incarnation, .. } = self;
        incarnation.checkpoint_id += 1;
        push.sender.recorded(unrecorded.entries.iter().filter(|entry| entry.was_sent()).count());
        // Rows come back only now: until the commit, the table shows a row as it was when it was sent.
        for entry in unrecorded.entries.drain(..).filter(|entry| entry.done.ticket.run >= 0) {
            push.retries.returned(entry.done.ticket.delivery_id);
            if let DeliveryOutcome::Failed(due) = entry.outcome {
                push.retries.at(entry.done.ticket.subscription, due);
            }
        }
        for (subscription, due) in window.pushed() {
            push.retries.at(subscription, due);
        }
        unrecorded.message_counters.recorded();
        for id in unrecorded.decisions.recorded() {
            push.retries.returned(id);
            // The row may have been the first of its key.
            window.pass_now();
        }
        let rows_made = window.recorded();
        if push.order.recorded() {
            window.pass_now();
        }
        push.manual_sends.recorded();
        unrecorded.routing.clear();
        unrecorded.since = None;
        if rows_made {
            window.tell_workers();
        }
    }
}

/// Writes the outcomes of each request by itself, if they cannot be written together.
fn write_entries_apart(recorder: &mut Recorder, entries: &mut [Entry], faults: &mut Faults) -> Result<(), Failure> {
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
            if matches!(entry.outcome, DeliveryOutcome::Failed(_) | DeliveryOutcome::Dead(_)) {
                entry.outcome = DeliveryOutcome::Dead(UNRECORDABLE);
                if txn::attempt(|| recorder.outcomes(std::slice::from_ref(entry))).is_ok() {
                    continue;
                }
            }
            faults.found(Kind::Message, entry.done.ticket.message_id, "record", &failure);
        }
    }
    Ok(())
}

/// Messages of the deliveries that will be retried.
fn failed(entries: &[Entry]) -> impl Iterator<Item = i64> {
    entries.iter().filter(|e| matches!(e.outcome, DeliveryOutcome::Failed(_))).map(|e| e.done.ticket.message_id)
}
