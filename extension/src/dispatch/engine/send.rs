//! Sending deliveries: first attempts, and rows that are due. "Sending" here means handing a job to the HTTP thread.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outbox_core::ids::IdMap;
use outbox_core::message::Message;
use outbox_sender::{Job, Ticket};

use super::Engine;
use crate::dispatch::feed::Stored;
use crate::dispatch::feed::reading;
use crate::dispatch::outcome::decisions::Decision;
use crate::dispatch::outcome::decisions::UNREADABLE;
use crate::dispatch::outcome::record::EXPIRED;
use crate::dispatch::pull::blocked;
use crate::dispatch::pull::ordering;
use crate::dispatch::pull::ordering::Attempt;
use crate::dispatch::pull::ordering::Order;
use crate::dispatch::pull::ordering::OrderKey;
use crate::dispatch::pull::ordering::Readiness;
use crate::dispatch::pull::ordering::Waiting;
use crate::dispatch::pull::window;
use crate::dispatch::pull::window::Window;
use crate::dispatch::push::retries::Due;
use crate::dispatch::subscriptions::Config;
use crate::dispatch::subscriptions::Ordering;
use crate::dispatch::subscriptions::Subscription;
use crate::pg::txn;
use crate::pg::txn::Failure;
use crate::pg::txn::arg;
use crate::worker::now;

/// Limits of the jobs that a subscription may have with the HTTP thread, and of the bytes of their contents. A subscription
/// that reaches a limit lags.
const MAX_OUTSTANDING: usize = 8192;
pub(crate) const MAX_OUTSTANDING_BYTES: usize = 8 << 20;

/// The dispatcher's data about a delivery in flight.
pub(crate) struct InFlight {
    pub(crate) segment: i16,
    pub(crate) bytes: usize,
    pub(crate) max_attempts: u32,
    /// No attempt starts at or after this time.
    pub(crate) expires: Option<i64>,
    /// When the message was enqueued, in microseconds since 1970.
    pub(crate) enqueued_at: i64,
    /// The message's key, if the subscription is ordered.
    pub(crate) key: Option<OrderKey>,
    /// The delivery has a row in outbox.delivery.
    row: bool,
}

impl Engine {
    /// Sends the open positions of the last checkpoint again: their deliveries had no outcome when the last incarnation
    /// ended, but a later position had one. Positions ascend.
    pub(crate) fn deliver_again(&mut self, subscription: i32, open: &[i64]) -> Result<(), Failure> {
        let mut rest = open;
        while let (Some(first), Some(last)) = (rest.first(), rest.last()) {
            let Engine { reader, in_flight, config, order, window, decisions, .. } = self;
            let (found, upto) = reading(reader, |reader| Ok(reader.read(first - 1, *last, 1)))?;
            let (read, later) = rest.split_at(rest.partition_point(|position| *position <= upto.max(*first)));
            let mut jobs = Vec::new();
            if let Some(known) = config.subscriptions.get_mut(&subscription) {
                for stored in found.iter().filter(|stored| read.binary_search(&stored.message.position).is_ok()) {
                    if window.is_cancelled(stored.message.id) {
                        decisions.push(Decision::cancelled(subscription, stored, 0));
                    } else if stored.unreadable.is_some() {
                        decisions.push(Decision::unreadable(subscription, stored));
                    } else {
                        send_first(in_flight, &mut jobs, subscription, known, stored, order, window);
                        continue;
                    }
                    self.unrecorded_since.get_or_insert_with(Instant::now);
                }
            }
            self.sender.submit(jobs);
            rest = later;
        }
        Ok(())
    }

    /// Sends the rows that are due.
    pub(crate) fn send_due(&mut self) -> Result<(), Failure> {
        let Engine { retries, reader, config, endpoints, in_flight, order, decisions, window, .. } = self;
        let time = now();
        let ready = |id: i32| {
            config.subscriptions.get(&id).is_some_and(|s| {
                s.has_ended()
                    || !s.paused && endpoints.accepts(s.endpoint, time) && s.outstanding_bytes < MAX_OUTSTANDING_BYTES
            })
        };
        if retries.next(ready).is_some_and(|at| at <= time) {
            let look = reading(reader, |reader| Ok(retries.read_due(reader, time, ready)))?;
            let due = retries.take(look);
            let (mut jobs, mut first) = (Vec::new(), Vec::new());
            // Rows that become dead letters: id, reason, error.
            let mut gone: Vec<(i64, &str, Option<Arc<str>>)> = Vec::new();
            for due in &due {
                let subscription = config.subscriptions.get_mut(&due.subscription).filter(|s| !s.pull);
                let (subscription, stored) = match (subscription, &due.stored) {
                    (None, _) => {
                        gone.push((due.id, "subscription_gone", None));
                        continue;
                    }
                    (_, None) => {
                        gone.push((due.id, "message_gone", None));
                        continue;
                    }
                    (Some(subscription), Some(stored)) => (subscription, stored),
                };
                let attempt = attempt_of(due, subscription, stored);
                if attempt.expires.is_some_and(|at| at <= time) {
                    gone.push((due.id, EXPIRED, None));
                    continue;
                }
                if stored.unreadable.is_some() && !window.is_cancelled(stored.message.id) {
                    gone.push((due.id, UNREADABLE, stored.unreadable.clone()));
                    continue;
                }
                retries.sent(due);
                let over = if subscription.has_ended() {
                    Some(Decision::unsubscribed(due.subscription, stored, due.id))
                } else if window.is_cancelled(stored.message.id) {
                    Some(Decision::cancelled(due.subscription, stored, due.id))
                } else {
                    None
                };
                if let Some(decision) = over {
                    decisions.push(decision);
                    self.unrecorded_since.get_or_insert_with(Instant::now);
                    continue;
                }
                if let Some(key) = ordering::key_of(due.subscription, subscription, stored) {
                    if !order.row(&key) {
                        wait(order, &key, subscription, stored, attempt);
                        continue;
                    }
                    first.push((key, stored.message.position));
                }
                send_attempt(in_flight, &mut jobs, due.subscription, subscription, stored, attempt);
            }
            self.sender.submit(jobs);
            if !first.is_empty() {
                let followers: Vec<Vec<Due>> = reading(reader, |reader| {
                    let mut follow =
                        |(key, position): &(OrderKey, i64)| retries.followers(reader, key, *position, time);
                    Ok(first.iter().map(&mut follow).collect())
                })?;
                for ((key, _), rows) in first.iter().zip(&followers) {
                    let Some(subscription) = config.subscriptions.get_mut(&key.0) else { continue };
                    for due in rows {
                        let Some(stored) = due.stored.as_ref().filter(|stored| stored.unreadable.is_none()) else {
                            break;
                        };
                        let attempt = attempt_of(due, subscription, stored);
                        if subscription.outstanding_bytes >= MAX_OUTSTANDING_BYTES
                            || attempt.expires.is_some_and(|at| at <= time)
                        {
                            break;
                        }
                        retries.sent(due);
                        wait(order, key, subscription, stored, attempt);
                    }
                }
            }
            let bury = &mut self.bury;
            if !gone.is_empty() {
                txn::run(|| {
                    bury.execute(&[
                        arg(gone.iter().map(|(id, ..)| *id).collect::<Vec<i64>>()),
                        arg(gone.iter().map(|(_, reason, _)| *reason).collect::<Vec<_>>()),
                        arg(gone.iter().map(|(.., error)| error.as_deref()).collect::<Vec<_>>()),
                    ]);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Gives rows that wait in memory for their turn back to the table, so that changes made there meanwhile take effect.
    pub(crate) fn give_back_rows(&mut self) {
        for (id, waiting) in self.order.give_back_rows() {
            if let Some(subscription) = self.config.subscriptions.get_mut(&id) {
                subscription.remove_outstanding(waiting.stored.message.content.len());
            }
            self.retries.returned(waiting.attempt.delivery_id);
            self.retries.at(id, now());
        }
    }

    /// How long until a waiting delivery has to be looked at.
    pub(crate) fn due_in(&self) -> Duration {
        let Engine { retries, config, endpoints, .. } = self;
        let time = now();
        let accepts = |id: i32| config.subscriptions.get(&id).is_some_and(|s| endpoints.accepts(s.endpoint, time));
        let next = [retries.next(accepts), endpoints.opens_at(time)].into_iter().flatten().min();
        next.map_or(Duration::MAX, |at| Duration::from_micros(at.saturating_sub(time).max(1000).unsigned_abs()))
    }
}

/// The next attempt of a row.
fn attempt_of(due: &Due, subscription: &Subscription, stored: &Stored) -> Attempt {
    // A replayed delivery does not expire: the messages of a replay are often older than the ttl.
    let expires = due.expires.or_else(|| window::expiry(subscription, stored)).filter(|_| due.run == 0);
    Attempt { delivery_id: due.id, number: due.attempt, expires, run: due.run, new_id: due.new_id }
}

/// Puts a delivery into the queue, in memory, of its key.
fn wait(order: &mut Order, key: &OrderKey, subscription: &mut Subscription, stored: &Stored, attempt: Attempt) {
    subscription.add_outstanding(stored.message.content.len());
    order.wait(key, Waiting { stored: stored.clone(), attempt });
}

pub(crate) fn outstanding_limit(subscription: &Subscription) -> usize {
    match subscription.limit {
        (limit, until) if until != 0 && now() < until => limit,
        _ => MAX_OUTSTANDING,
    }
}

pub(crate) fn has_room(subscription: &Subscription) -> bool {
    subscription.outstanding < outstanding_limit(subscription)
        && subscription.outstanding_bytes < MAX_OUTSTANDING_BYTES
        && blocked::has_room(subscription)
}

/// Sorts jobs that are sent together by priority, highest first. The jobs of ordered subscriptions stay in their order.
pub(crate) fn sort_by_priority(jobs: &mut [Job], messages: &[Stored], config: &Config) {
    if messages.iter().all(|m| m.attributes.priority == 0) {
        return;
    }
    let unordered = |id: &i32| config.subscriptions.get(id).is_none_or(|s| s.ordering == Ordering::None);
    jobs.sort_by_key(|job| {
        let found = messages.binary_search_by_key(&job.ticket.position, |m| m.message.position);
        let priority = found.ok().map_or(0, |i| messages[i].attributes.priority);
        std::cmp::Reverse(if unordered(&job.ticket.subscription) { priority } else { 0 })
    });
}

/// Sends a delivery for the first time, and tells the subscription's progress about it.
pub(crate) fn send_first(
    in_flight: &mut IdMap<(i32, i64, i64), InFlight>,
    jobs: &mut Vec<Job>,
    id: i32,
    subscription: &mut Subscription,
    stored: &Stored,
    order: &mut Order,
    window: &mut Window,
) {
    let expires = window::expiry(subscription, stored);
    if let Some(key) = ordering::key_of(id, subscription, stored) {
        match order.first(&key) {
            Readiness::Send => {}
            Readiness::Wait => {
                subscription.progress.hand_out(stored.message.position);
                wait(order, &key, subscription, stored, Attempt::first(expires));
                return;
            }
            Readiness::Row => {
                window.block(id, stored, key.1, expires);
                subscription.blocked += 1;
                subscription.progress.decide(stored.message.position);
                return;
            }
        }
    }
    subscription.progress.hand_out(stored.message.position);
    send_attempt(in_flight, jobs, id, subscription, stored, Attempt::first(expires));
}

pub(crate) fn send_attempt(
    in_flight: &mut IdMap<(i32, i64, i64), InFlight>,
    jobs: &mut Vec<Job>,
    id: i32,
    subscription: &mut Subscription,
    stored: &Stored,
    attempt: Attempt,
) {
    let own = stored.attributes.max_attempts.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    let entry = InFlight {
        segment: stored.segment,
        bytes: stored.message.content.len(),
        max_attempts: own.unwrap_or(subscription.max_attempts),
        expires: attempt.expires,
        enqueued_at: stored.message.enqueued_at,
        key: ordering::key_of(id, subscription, stored),
        row: attempt.delivery_id != 0,
    };
    let bytes = entry.bytes;
    match in_flight.entry((id, stored.message.position, attempt.run)) {
        Entry::Vacant(free) => {
            free.insert(entry);
        }
        // A subscription was taken up again with history that covers a delivery in flight; that delivery counts. Outcomes of
        // rows settle no position, so a delivery in flight that has a row settles it now.
        Entry::Occupied(known) if attempt.delivery_id == 0 => {
            if known.get().row {
                subscription.progress.settle(stored.message.position);
            }
            return;
        }
        Entry::Occupied(mut known) => {
            let before = known.insert(entry);
            subscription.remove_outstanding(before.bytes);
        }
    }
    subscription.add_outstanding(bytes);
    let message = if attempt.new_id {
        let webhook_id = format!("{}_r{}", stored.message.webhook_id, attempt.run).into();
        Arc::new(Message { webhook_id, ..Message::clone(&stored.message) })
    } else {
        Arc::clone(&stored.message)
    };
    jobs.push(Job {
        ticket: Ticket {
            subscription: id,
            endpoint: subscription.endpoint,
            position: stored.message.position,
            message_id: stored.message.id,
            delivery_id: attempt.delivery_id,
            attempt: attempt.number,
            run: attempt.run,
        },
        message,
        shape: Arc::clone(&subscription.shape),
    });
}
