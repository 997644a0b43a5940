//! Outcomes that came back from the HTTP thread, and the transaction that records them.

use std::ops::Range;
use std::time::{Duration, Instant};

use outbox_core::policy::Outcome;
use outbox_sender::Ticket;

use super::Engine;
use crate::dispatch::engine::send::hand_out_as;
use crate::dispatch::outcome::decisions::Decision;
use crate::dispatch::outcome::decisions::UNRECORDABLE;
use crate::dispatch::outcome::record::Checkpoint;
use crate::dispatch::outcome::record::EXPIRED;
use crate::dispatch::outcome::record::Entry;
use crate::dispatch::outcome::record::Fate;
use crate::dispatch::outcome::record::requests;
use crate::dispatch::outcome::verdict::judge;
use crate::dispatch::pull::ordering::Lane;
use crate::dispatch::pull::ordering::Waiting;
use crate::pg::txn;
use crate::pg::txn::Failure;
use crate::worker::fault::Kind;
use crate::worker::fault::WHOLE_TRIES;
use crate::worker::fault::apart;
use crate::worker::now;

impl Engine {
    /// Takes the outcomes from the HTTP thread and decides the fate of each delivery.
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
                self.errands.back(ticket.delivery_id);
                let fate = Fate::Manual(matches!(done.outcome, Outcome::Status(200..=299)));
                self.entries.push(Entry { done, segment: 0, fate });
                self.unrecorded_since.get_or_insert_with(Instant::now);
                continue;
            }
            let Some(handed) = self.handed.remove(&(ticket.subscription, ticket.position, ticket.run)) else {
                // No delivery waits for this outcome, so there is nothing to record.
                self.sender.recorded(1);
                continue;
            };
            let fate = match self.config.subscriptions.get_mut(&ticket.subscription) {
                None => Fate::Dead("subscription_gone"),
                Some(subscription) => {
                    subscription.let_go(handed.bytes);
                    if ticket.delivery_id == 0 {
                        subscription.progress.settle(ticket.position);
                    }
                    let verdict = judge(&done, subscription, handed.max_attempts, handed.enqueued_at);
                    self.endpoints.note(&done, &verdict.fate, verdict.disable);
                    verdict.fate
                }
            };
            let fate = match fate {
                Fate::Failed(_) | Fate::Skipped if self.window.is_cancelled(ticket.message_id) => Fate::Cancelled,
                Fate::Failed(due) if handed.expires.is_some_and(|at| at <= due) => Fate::Dead(EXPIRED),
                fate => fate,
            };
            if let Some(lane) = handed.lane {
                let blocks = self.config.subscriptions.get(&ticket.subscription).is_some_and(|s| s.block);
                match &fate {
                    Fate::Failed(_) => stopped.push((lane, ticket, "failed")),
                    Fate::Dead(_) if blocks => stopped.push((lane, ticket, "dead")),
                    Fate::Dead(_) => ended.push((lane, ticket, "dead")),
                    _ => ended.push((lane, ticket, "ended")),
                }
            }
            self.entries.push(Entry { done, segment: handed.segment, fate });
            self.unrecorded_since.get_or_insert_with(Instant::now);
        }
        for (lane, ticket, what) in stopped {
            self.stop_lane(lane, ticket, what);
        }
        for (lane, ticket, what) in ended {
            self.go_on(lane, ticket, what);
        }
    }

    /// Handles a delivery of an ordered subscription that will be retried, or that blocks its key as a dead letter: the
    /// deliveries that wait for it in memory become rows.
    pub(crate) fn stop_lane(&mut self, lane: Lane, ticket: Ticket, what: &'static str) {
        for waiting in self.order.stop(&lane) {
            let Waiting { stored, seat } = waiting;
            if let Some(subscription) = self.config.subscriptions.get_mut(&lane.0) {
                subscription.let_go(stored.message.content.len());
                if seat.delivery_id == 0 {
                    subscription.progress.settle(stored.message.position);
                    subscription.blocked += 1;
                }
            }
            if seat.delivery_id == 0 {
                self.window.block(lane.0, &stored, lane.1.clone(), seat.expires);
            } else {
                self.retries.back(seat.delivery_id);
                self.retries.at(lane.0, now());
            }
        }
        self.order.note(lane, ticket.position, ticket.message_id, what);
    }

    /// Handles a delivery of an ordered subscription that has ended: the next one of its key is sent.
    pub(crate) fn go_on(&mut self, lane: Lane, ticket: Ticket, what: &'static str) {
        let mut jobs = Vec::new();
        while let Some(Waiting { stored, seat }) = self.order.next(&lane) {
            let Some(subscription) = self.config.subscriptions.get_mut(&lane.0) else { break };
            subscription.let_go(stored.message.content.len());
            if self.window.is_cancelled(stored.message.id) {
                if seat.delivery_id == 0 {
                    subscription.progress.settle(stored.message.position);
                }
                self.decisions.push(Decision::cancelled(lane.0, &stored, seat.delivery_id));
                self.unrecorded_since.get_or_insert_with(Instant::now);
                continue;
            }
            hand_out_as(&mut self.handed, &mut jobs, lane.0, subscription, &stored, seat);
            break;
        }
        self.sender.submit(jobs);
        if what == "dead" || self.order.has_rows(&lane) {
            self.order.note(lane, ticket.position, ticket.message_id, what);
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
            self.retries.back(entry.done.ticket.delivery_id);
            if let Fate::Failed(due) = entry.fate {
                self.retries.at(entry.done.ticket.subscription, due);
            }
        }
        for (subscription, due) in self.window.pushed() {
            self.retries.at(subscription, due);
        }
        self.tally.recorded();
        for id in self.decisions.recorded() {
            self.retries.back(id);
            // The row may have been the first of its key.
            self.window.pass_now();
        }
        let rows_made = self.window.recorded();
        if self.order.recorded() {
            self.window.pass_now();
        }
        self.errands.recorded();
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
        self.order.look();
        self.errands.record();
        self.decisions.record();
        self.tally.record()?;
        self.recorder.checkpoint(self.checkpoint_id + 1, self.incarnation, checkpoint);
        Ok(())
    }

    /// Writes everything, and item by item where something fails. An item that cannot be written in any form becomes a
    /// fault. Inside a transaction.
    fn write_apart(&mut self, changed: &[i32], checkpoint: &Checkpoint) -> outbox_core::Result<()> {
        let Engine { recorder, entries, endpoints, routing, order, window, decisions, errands, tally, faults, .. } =
            self;
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
                if !matches!(entry.fate, Fate::Completed | Fate::Cancelled | Fate::Skipped | Fate::Manual(_)) {
                    entry.fate = Fate::Dead(UNRECORDABLE);
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
        order.look();
        errands.record();
        decisions.record_apart(faults)?;
        if let Err(failure) = txn::attempt(|| tally.record()) {
            pgrx::log!("pg_outbox dispatcher: some messages are not counted in the statistics: {failure}");
        }
        recorder.checkpoint(self.checkpoint_id + 1, self.incarnation, checkpoint);
        Ok(())
    }
}

/// Messages of the deliveries that will be retried.
fn failed(entries: &[Entry]) -> impl Iterator<Item = i64> {
    entries.iter().filter(|e| matches!(e.fate, Fate::Failed(_))).map(|e| e.done.ticket.message_id)
}
