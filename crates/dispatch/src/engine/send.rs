//! Sending deliveries: first attempts, and rows that are due. "Sending" here means handing a job to the HTTP thread.

use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use outbox_core::ids::IdMap;
use outbox_core::message::Message;
use outbox_sender::{Job, Ticket};

use super::outcomes::Unrecorded;
use super::watch::Watch;
use crate::failure::Failure;
use crate::feed::{Stored, UNIX_EPOCH};
use crate::outcome::decisions::{Decision, UNREADABLE};
use crate::outcome::entry::EXPIRED;
use crate::pull::blocked::{self, Blocked};
use crate::pull::ordering::{self, Attempt, Note, Order, OrderKey, Readiness, Waiting};
use crate::pull::window::{self, Window};
use crate::push::consent::Consents;
use crate::push::endpoints::Endpoints;
use crate::push::manual_send::ManualSends;
use crate::push::retries::{Due, Retries};
use crate::store::{DeadRow, Store};
use crate::subscriptions::{Config, Ordering, Subscription};
use crate::transport::Transport;

/// When the delivery of a message could begin, in microseconds since 1970.
fn wanted_at(stored: &Stored) -> i64 {
    let deliver_at = stored.attributes.deliver_at.map_or(i64::MIN, |at| at.saturating_add(UNIX_EPOCH));
    stored.message.enqueued_at.max(deliver_at)
}

/// Limits of the jobs that a subscription may have with the HTTP thread, and of the bytes of their contents. A subscription
/// that reaches a limit lags.
const MAX_OUTSTANDING: usize = 8192;
pub(super) const MAX_OUTSTANDING_BYTES: usize = 8 << 20;

/// The dispatcher's data about a delivery in flight.
#[derive(Debug)]
pub(super) struct InFlight {
    pub segment: i16,
    pub bytes: usize,
    pub max_attempts: u32,
    /// No attempt starts at or after this time.
    pub expires: Option<i64>,
    /// When the message was enqueued, in microseconds since 1970.
    pub enqueued_at: i64,
    /// When the delivery could begin: the later of enqueue and `deliver_at`, in microseconds since 1970.
    pub wanted_at: i64,
    /// The message's key, if the subscription is ordered.
    pub key: Option<OrderKey>,
    /// The payload of a delivery without a row, if it is not that of the message.
    pub payload: Option<Bytes>,
    /// The delivery has a row in outbox.delivery.
    row: bool,
}

/// Everything on its way to endpoints. Routing and due rows add deliveries, outcomes remove them, and loading changes the
/// endpoints.
#[derive(Debug)]
pub(super) struct Push<T> {
    pub sender: T,
    pub watch: Watch,
    pub endpoints: Endpoints,
    pub consents: Consents,
    pub retries: Retries,
    pub manual_sends: ManualSends,
    pub order: Order,
    pub blocked: Blocked,
    /// Deliveries that the HTTP thread has, by subscription, position and run.
    in_flight: IdMap<(i32, i64, i64), InFlight>,
}

/// The decision about a row that is due.
enum DueRow {
    /// It is sent, and the rows after it may follow if the subscription is ordered.
    Sent(Option<Job>, Option<OrderKey>),
    /// It waits in memory for another delivery of its key.
    Waits,
    /// It ends without an attempt.
    Ended(Decision),
    /// It becomes a dead letter, with this reason and error.
    Dead(&'static str, Option<Arc<str>>),
}

impl<T: Transport> Push<T> {
    pub(super) fn new(sender: T, now: Instant) -> Push<T> {
        Push {
            sender,
            watch: Watch::new(now),
            endpoints: Endpoints::default(),
            consents: Consents::new(),
            retries: Retries::default(),
            manual_sends: ManualSends::default(),
            order: Order::default(),
            blocked: Blocked::default(),
            in_flight: IdMap::default(),
        }
    }

    /// Limits the jobs that a subscription may have with the HTTP thread to the number that its endpoint takes.
    pub(super) fn set_limits(&self, config: &mut Config) {
        for subscription in config.subscriptions.values_mut() {
            subscription.limit = self.endpoints.limit(subscription.endpoint);
        }
    }

    /// Has the HTTP thread give back the deliveries of cancelled messages that it has not sent yet.
    pub(super) fn recall(&mut self, cancelled: HashSet<i64>) {
        if !self.in_flight.is_empty() {
            self.sender.call_off(cancelled);
        }
    }

    /// Makes the job of a delivery's first attempt, and tells the subscription's progress about it. There is no job if the
    /// delivery has to wait for others of its key.
    pub(super) fn first_job(
        &mut self,
        window: &mut Window,
        id: i32,
        subscription: &mut Subscription,
        stored: &Stored,
        time: i64,
    ) -> Option<Job> {
        let (position, expires) = (stored.message.position, window::expiry(subscription, stored));
        if let Some(key) = ordering::key_of(id, subscription, stored) {
            match self.order.first(&key) {
                Readiness::Send => {}
                Readiness::Wait => {
                    subscription.progress.hand_out(position);
                    self.wait(&key, subscription, stored, Attempt::first(expires));
                    return None;
                }
                Readiness::Row => {
                    window.block(id, stored, key.1, expires, time);
                    subscription.blocked += 1;
                    subscription.progress.decide(position);
                    return None;
                }
            }
        }
        subscription.progress.hand_out(position);
        self.job(id, subscription, stored, Attempt::first(expires))
    }

    /// Makes the job of an attempt. There is none if a delivery of the same message is in flight that counts for this one.
    fn job(&mut self, id: i32, subscription: &mut Subscription, stored: &Stored, attempt: Attempt) -> Option<Job> {
        let own = stored.attributes.max_attempts.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
        let bytes = stored.message.content.len();
        let entry = InFlight {
            segment: stored.segment,
            bytes,
            max_attempts: own.unwrap_or(subscription.max_attempts),
            expires: attempt.expires,
            enqueued_at: stored.message.enqueued_at,
            wanted_at: wanted_at(stored),
            key: ordering::key_of(id, subscription, stored),
            payload: stored.own_payload().filter(|_| attempt.delivery_id == 0),
            row: attempt.delivery_id != 0,
        };
        match self.in_flight.entry((id, stored.message.position, attempt.run)) {
            Entry::Vacant(free) => {
                free.insert(entry);
            }
            // A subscription was taken up again with history that covers a delivery in flight; that delivery counts.
            // Outcomes of rows settle no position, so a delivery in flight that has a row settles the position now.
            Entry::Occupied(known) if attempt.delivery_id == 0 => {
                if known.get().row {
                    subscription.progress.settle(stored.message.position);
                }
                return None;
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
        let ticket = Ticket {
            subscription: id,
            endpoint: subscription.endpoint,
            position: stored.message.position,
            message_id: stored.message.id,
            delivery_id: attempt.delivery_id,
            attempt: attempt.number,
            run: attempt.run,
        };
        Some(Job { ticket, message, shape: Arc::clone(&subscription.shape) })
    }

    /// Removes a delivery that has come back. Returns `None` if no delivery waits for this outcome.
    pub(super) fn take_back(&mut self, ticket: &Ticket) -> Option<InFlight> {
        self.in_flight.remove(&(ticket.subscription, ticket.position, ticket.run))
    }

    /// Puts a delivery into the queue, in memory, of its key.
    fn wait(&mut self, key: &OrderKey, subscription: &mut Subscription, stored: &Stored, attempt: Attempt) {
        subscription.add_outstanding(stored.message.content.len());
        self.order.wait(key, Waiting { stored: stored.clone(), attempt });
    }

    /// Sends the rows that are due.
    pub(super) fn send_due<S: Store>(
        &mut self,
        store: &mut S,
        config: &mut Config,
        window: &Window,
        unrecorded: &mut Unrecorded,
    ) -> Result<(), Failure> {
        let (time, instant) = (store.now(), store.instant());
        let Push { retries, endpoints, .. } = self;
        let ready = |id: i32| {
            config.subscriptions.get(&id).is_some_and(|s| {
                s.has_ended()
                    || !s.paused && endpoints.accepts(s.endpoint, time) && s.outstanding_bytes < MAX_OUTSTANDING_BYTES
            })
        };
        if retries.next(ready).is_none_or(|at| at > time) {
            return Ok(());
        }
        let rows = retries.take_due(store, time, ready)?;
        let (mut jobs, mut first, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        for due in rows {
            match self.take_due(config, window, &due, time) {
                DueRow::Sent(job, key) => {
                    jobs.extend(job);
                    first.extend(key.zip(due.stored.map(|stored| stored.message.position)));
                }
                DueRow::Waits => {}
                DueRow::Ended(decision) => unrecorded.decide(decision, instant),
                DueRow::Dead(reason, error) => dead.push(DeadRow { id: due.id, reason, error }),
            }
        }
        self.sender.submit(jobs);
        let finished = self
            .queue_followers(store, config, &first, time)
            .and_then(|()| if dead.is_empty() { Ok(()) } else { store.dead_letter(&dead) });
        if finished.is_err() {
            // Rows that have not become dead letters are read again.
            self.retries.rescan(config);
        }
        finished
    }

    /// Decides about a row that is due.
    fn take_due(&mut self, config: &mut Config, window: &Window, due: &Due, time: i64) -> DueRow {
        let id = due.subscription;
        let Some(subscription) = config.subscriptions.get_mut(&id).filter(|s| !s.pull) else {
            return DueRow::Dead("subscription_gone", None);
        };
        let Some(stored) = &due.stored else { return DueRow::Dead("message_gone", None) };
        let attempt = attempt_of(due, subscription, stored);
        if attempt.expires.is_some_and(|at| at <= time) {
            return DueRow::Dead(EXPIRED, None);
        }
        let is_cancelled = window.is_cancelled(stored.message.id);
        if stored.unreadable.is_some() && !is_cancelled {
            return DueRow::Dead(UNREADABLE, stored.unreadable.clone());
        }
        self.retries.sent(due);
        if subscription.has_ended() {
            return DueRow::Ended(Decision::unsubscribed(id, stored, due.id));
        }
        if is_cancelled {
            return DueRow::Ended(Decision::cancelled(id, stored, due.id));
        }
        let key = ordering::key_of(id, subscription, stored);
        if let Some(key) = key.as_ref().filter(|key| !self.order.row(key, due.keyed)) {
            self.wait(key, subscription, stored, attempt);
            return DueRow::Waits;
        }
        DueRow::Sent(self.job(id, subscription, stored, attempt), key)
    }

    /// Lets the rows that come after these ones of their keys wait in memory. `first` has keys and positions.
    fn queue_followers<S: Store>(
        &mut self,
        store: &mut S,
        config: &mut Config,
        first: &[(OrderKey, i64)],
        time: i64,
    ) -> Result<(), Failure> {
        if first.is_empty() {
            return Ok(());
        }
        let followers = self.retries.followers(store, first, time)?;
        for ((key, _), rows) in first.iter().zip(&followers) {
            let Some(subscription) = config.subscriptions.get_mut(&key.0) else { continue };
            for due in rows {
                let Some(stored) = due.stored.as_ref().filter(|stored| stored.unreadable.is_none()) else { break };
                let attempt = attempt_of(due, subscription, stored);
                if subscription.outstanding_bytes >= MAX_OUTSTANDING_BYTES
                    || attempt.expires.is_some_and(|at| at <= time)
                {
                    break;
                }
                self.retries.sent(due);
                self.wait(key, subscription, stored, attempt);
            }
        }
        Ok(())
    }

    /// Handles a delivery of an ordered subscription that will be retried, or that blocks its key as a dead letter: the
    /// deliveries that wait for it in memory become rows.
    pub(super) fn stop_key(&mut self, config: &mut Config, window: &mut Window, note: Note, time: i64) {
        let key = &note.key;
        for Waiting { stored, attempt } in self.order.stop(key) {
            let has_row = attempt.delivery_id != 0;
            if let Some(subscription) = config.subscriptions.get_mut(&key.0) {
                subscription.remove_outstanding(stored.message.content.len());
                if !has_row {
                    subscription.progress.settle(stored.message.position);
                    subscription.blocked += 1;
                }
            }
            if has_row {
                self.retries.returned(attempt.delivery_id);
                self.retries.at(key.0, time);
            } else {
                window.block(key.0, &stored, key.1.clone(), attempt.expires, time);
            }
        }
        self.order.note(note);
    }

    /// Handles a delivery of an ordered subscription that has ended: the next one of its key is sent.
    pub(super) fn continue_key(
        &mut self,
        config: &mut Config,
        window: &Window,
        unrecorded: &mut Unrecorded,
        note: Note,
        instant: Instant,
    ) {
        let key = &note.key;
        let mut jobs = Vec::new();
        while let Some(Waiting { stored, attempt }) = self.order.next(key) {
            let Some(subscription) = config.subscriptions.get_mut(&key.0) else { break };
            subscription.remove_outstanding(stored.message.content.len());
            if window.is_cancelled(stored.message.id) {
                if attempt.delivery_id == 0 {
                    subscription.progress.settle(stored.message.position);
                }
                unrecorded.decide(Decision::cancelled(key.0, &stored, attempt.delivery_id), instant);
                continue;
            }
            jobs.extend(self.job(key.0, subscription, &stored, attempt));
            break;
        }
        self.sender.submit(jobs);
        if note.what == "dead" || self.order.has_rows(key) {
            self.order.note(note);
        }
    }

    /// Gives rows that wait in memory for their turn back to the table, so that changes made there meanwhile take effect.
    pub(super) fn give_back_rows(&mut self, config: &mut Config, time: i64) {
        for (id, waiting) in self.order.give_back_rows() {
            if let Some(subscription) = config.subscriptions.get_mut(&id) {
                subscription.remove_outstanding(waiting.stored.message.content.len());
            }
            self.retries.returned(waiting.attempt.delivery_id);
            self.retries.at(id, time);
        }
    }

    /// The time until a row is due, or an endpoint takes rows again.
    pub(super) fn due_in(&self, config: &Config, time: i64) -> Duration {
        let Push { retries, endpoints, .. } = self;
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

/// Jobs that a subscription may have with the HTTP thread now.
pub(super) fn outstanding_limit(subscription: &Subscription, time: i64) -> usize {
    match subscription.limit {
        (limit, until) if until != 0 && time < until => limit,
        _ => MAX_OUTSTANDING,
    }
}

/// Whether a push subscription can take one more message.
pub(super) fn has_room(subscription: &Subscription, time: i64) -> bool {
    subscription.outstanding < outstanding_limit(subscription, time)
        && subscription.outstanding_bytes < MAX_OUTSTANDING_BYTES
        && blocked::has_room(subscription)
}

/// Sorts jobs that are sent together by priority, highest first. The jobs of ordered subscriptions stay in their order.
pub(super) fn sort_by_priority(jobs: &mut [Job], messages: &[Stored], config: &Config) {
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
