//! What came back from the HTTP thread: what becomes of each delivery, and the transaction that records it.

use std::time::{Duration, Instant};

use outbox_core::policy::Outcome;
use outbox_sender::Ticket;

use super::super::decide::Decision;
use super::super::judge::judge;
use super::super::order::{Lane, Waiting};
use super::super::record::{Checkpoint, EXPIRED, Entry, Fate};
use super::super::{now, txn};
use super::Engine;
use super::hand::hand_out_as;

impl Engine {
    /// Takes what came back from the HTTP thread and decides what becomes of each delivery.
    pub(super) fn take_outcomes(&mut self) {
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
                // Nobody waits for it, and there is nothing to record.
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

    /// A delivery with an order has failed: what waits behind it becomes rows.
    pub(super) fn stop_lane(&mut self, lane: Lane, ticket: Ticket, what: &'static str) {
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

    /// A delivery with an order has ended: the next of its key goes out.
    pub(super) fn go_on(&mut self, lane: Lane, ticket: Ticket, what: &'static str) {
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
    pub(super) fn record(&mut self) -> Result<(), String> {
        // A checkpoint behind a control message knows what that has changed.
        self.refresh()?;
        let mut subscriptions: Vec<_> =
            self.config.subscriptions.iter().filter_map(|(id, s)| Some((*id, s.progress.save()?))).collect();
        subscriptions.sort_unstable_by_key(|(id, _)| *id);
        let checkpoint = Checkpoint { routed: self.routed, subscriptions };
        let Engine {
            recorder,
            entries,
            routing,
            checkpoint_id,
            incarnation,
            window,
            endpoints,
            order,
            errands,
            decisions,
            tally,
            ..
        } = self;
        let write_endpoints = endpoints.write_in() == Some(Duration::ZERO);
        txn::run(|| {
            recorder.outcomes(entries)?;
            if write_endpoints {
                endpoints.write();
            }
            recorder.routing(routing);
            order.record();
            window
                .record(entries.iter().filter(|e| matches!(e.fate, Fate::Failed(_))).map(|e| e.done.ticket.message_id));
            order.look();
            errands.record();
            decisions.record();
            tally.record()?;
            recorder.checkpoint(*checkpoint_id + 1, *incarnation, &checkpoint);
            Ok(())
        })?;
        self.checkpoint_id += 1;
        if write_endpoints {
            self.endpoints.written();
        }
        self.sender.recorded(self.entries.len());
        // Not before: until then the table shows a row as it was when it was handed out.
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
            // It may have been the first of its key.
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
            self.window.tell_workers()?;
        }
        Ok(())
    }
}
