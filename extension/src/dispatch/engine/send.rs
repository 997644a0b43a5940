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
use crate::dispatch::pull::ordering::Lane;
use crate::dispatch::pull::ordering::Order;
use crate::dispatch::pull::ordering::Seat;
use crate::dispatch::pull::ordering::Turn;
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
const HANDED_LIMIT: usize = 8192;
pub(crate) const HANDED_BYTES: usize = 8 << 20;

/// The dispatcher's data about a delivery in flight.
pub(crate) struct Handed {
    pub(crate) segment: i16,
    pub(crate) bytes: usize,
    pub(crate) max_attempts: u32,
    /// No attempt starts at or after this time.
    pub(crate) expires: Option<i64>,
    /// When the message was enqueued, in microseconds since 1970.
    pub(crate) enqueued_at: i64,
    /// The message's key, if the subscription is ordered.
    pub(crate) lane: Option<Lane>,
    /// The delivery has a row in outbox.delivery.
    row: bool,
}

impl Engine {
    /// Sends the open positions of the last checkpoint again: their deliveries had no outcome when the last incarnation
    /// ended, but a later position had one. Positions ascend.
    pub(crate) fn deliver_again(&mut self, subscription: i32, open: &[i64]) -> Result<(), Failure> {
        let mut rest = open;
        while let (Some(first), Some(last)) = (rest.first(), rest.last()) {
            let Engine { reader, handed, config, order, window, decisions, .. } = self;
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
                        hand_out(handed, &mut jobs, subscription, known, stored, order, window);
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
    pub(crate) fn hand_out_due(&mut self) -> Result<(), Failure> {
        let Engine { retries, reader, config, endpoints, handed, order, decisions, window, .. } = self;
        let time = now();
        let ready = |id: i32| {
            config.subscriptions.get(&id).is_some_and(|s| {
                s.has_ended() || !s.paused && endpoints.accepts(s.endpoint, time) && s.handed_bytes < HANDED_BYTES
            })
        };
        if retries.next(ready).is_some_and(|at| at <= time) {
            let look = reading(reader, |reader| Ok(retries.look(reader, time, ready)))?;
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
                let seat = seat(due, subscription, stored);
                if seat.expires.is_some_and(|at| at <= time) {
                    gone.push((due.id, EXPIRED, None));
                    continue;
                }
                if stored.unreadable.is_some() && !window.is_cancelled(stored.message.id) {
                    gone.push((due.id, UNREADABLE, stored.unreadable.clone()));
                    continue;
                }
                retries.out(due);
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
                if let Some(lane) = ordering::lane(due.subscription, subscription, stored) {
                    if !order.row(&lane) {
                        wait(order, &lane, subscription, stored, seat);
                        continue;
                    }
                    first.push((lane, stored.message.position));
                }
                hand_out_as(handed, &mut jobs, due.subscription, subscription, stored, seat);
            }
            self.sender.submit(jobs);
            if !first.is_empty() {
                let followers: Vec<Vec<Due>> = reading(reader, |reader| {
                    let mut follow = |(lane, position): &(Lane, i64)| retries.behind(reader, lane, *position, time);
                    Ok(first.iter().map(&mut follow).collect())
                })?;
                for ((lane, _), rows) in first.iter().zip(&followers) {
                    let Some(subscription) = config.subscriptions.get_mut(&lane.0) else { continue };
                    for due in rows {
                        let Some(stored) = due.stored.as_ref().filter(|stored| stored.unreadable.is_none()) else {
                            break;
                        };
                        let seat = seat(due, subscription, stored);
                        if subscription.handed_bytes >= HANDED_BYTES || seat.expires.is_some_and(|at| at <= time) {
                            break;
                        }
                        retries.out(due);
                        wait(order, lane, subscription, stored, seat);
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
                subscription.let_go(waiting.stored.message.content.len());
            }
            self.retries.back(waiting.seat.delivery_id);
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
fn seat(due: &Due, subscription: &Subscription, stored: &Stored) -> Seat {
    // A replayed delivery does not expire: the messages of a replay are often older than the ttl.
    let expires = due.expires.or_else(|| window::expiry(subscription, stored)).filter(|_| due.run == 0);
    Seat { delivery_id: due.id, attempt: due.attempt, expires, run: due.run, new_id: due.new_id }
}

/// Puts a delivery into the queue, in memory, of its key.
fn wait(order: &mut Order, lane: &Lane, subscription: &mut Subscription, stored: &Stored, seat: Seat) {
    subscription.hold(stored.message.content.len());
    order.wait(lane, Waiting { stored: stored.clone(), seat });
}

pub(crate) fn handed_limit(subscription: &Subscription) -> usize {
    match subscription.limit {
        (limit, until) if until != 0 && now() < until => limit,
        _ => HANDED_LIMIT,
    }
}

pub(crate) fn has_room(subscription: &Subscription) -> bool {
    subscription.handed < handed_limit(subscription)
        && subscription.handed_bytes < HANDED_BYTES
        && blocked::has_room(subscription)
}

/// Sorts jobs that are sent together by priority, highest first. The jobs of ordered subscriptions stay in their order.
pub(crate) fn by_priority(jobs: &mut [Job], messages: &[Stored], config: &Config) {
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
pub(crate) fn hand_out(
    handed: &mut IdMap<(i32, i64, i64), Handed>,
    jobs: &mut Vec<Job>,
    id: i32,
    subscription: &mut Subscription,
    stored: &Stored,
    order: &mut Order,
    window: &mut Window,
) {
    let expires = window::expiry(subscription, stored);
    if let Some(lane) = ordering::lane(id, subscription, stored) {
        match order.first(&lane) {
            Turn::Send => {}
            Turn::Wait => {
                subscription.progress.hand_out(stored.message.position);
                wait(order, &lane, subscription, stored, Seat::first(expires));
                return;
            }
            Turn::Row => {
                window.block(id, stored, lane.1, expires);
                subscription.blocked += 1;
                subscription.progress.decide(stored.message.position);
                return;
            }
        }
    }
    subscription.progress.hand_out(stored.message.position);
    hand_out_as(handed, jobs, id, subscription, stored, Seat::first(expires));
}

pub(crate) fn hand_out_as(
    handed: &mut IdMap<(i32, i64, i64), Handed>,
    jobs: &mut Vec<Job>,
    id: i32,
    subscription: &mut Subscription,
    stored: &Stored,
    seat: Seat,
) {
    let own = stored.attributes.max_attempts.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    let entry = Handed {
        segment: stored.segment,
        bytes: stored.message.content.len(),
        max_attempts: own.unwrap_or(subscription.max_attempts),
        expires: seat.expires,
        enqueued_at: stored.message.enqueued_at,
        lane: ordering::lane(id, subscription, stored),
        row: seat.delivery_id != 0,
    };
    let bytes = entry.bytes;
    match handed.entry((id, stored.message.position, seat.run)) {
        Entry::Vacant(free) => {
            free.insert(entry);
        }
        // A subscription was taken up again with history that covers a delivery in flight; that delivery counts. Outcomes of
        // rows settle no position, so a delivery in flight that has a row settles it now.
        Entry::Occupied(under_way) if seat.delivery_id == 0 => {
            if under_way.get().row {
                subscription.progress.settle(stored.message.position);
            }
            return;
        }
        Entry::Occupied(mut under_way) => {
            let before = under_way.insert(entry);
            subscription.let_go(before.bytes);
        }
    }
    subscription.hold(bytes);
    let message = if seat.new_id {
        let webhook_id = format!("{}_r{}", stored.message.webhook_id, seat.run).into();
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
            delivery_id: seat.delivery_id,
            attempt: seat.attempt,
            run: seat.run,
        },
        message,
        shape: Arc::clone(&subscription.shape),
    });
}
