//! Manual sends: messages that an operator sends by hand, one attempt each, independent of all deliveries.
//!
//! A manual send is a row until its outcome is recorded, so a crash repeats it.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use outbox_core::message::Message;
use outbox_sender::{Job, Shape, Ticket};

use crate::failure::Failure;
use crate::feed::{Place, UNIX_EPOCH};
use crate::outcome::entry::Entry;
use crate::store::Store;
use crate::subscriptions::Config;

/// A manual send, as the store reads it.
#[derive(Clone, Debug)]
pub struct ManualSend {
    /// Identity of the attempt; its `delivery_id` is the id of the manual send.
    pub ticket: Ticket,
    /// Segment of the message.
    pub segment: i16,
    /// The payload of a test; `None`: the message is sent.
    pub payload: Option<Box<str>>,
    /// When it was asked for (microseconds, PostgreSQL's epoch).
    pub created_at: i64,
}

/// The manual sends that `read` has found.
#[derive(Debug, Default)]
struct Waiting {
    jobs: Vec<Job>,
    /// Manual sends whose message cannot be read, with the reason.
    unreadable: Vec<(Ticket, Arc<str>)>,
    /// Manual sends whose message or subscription is gone.
    gone: Vec<i64>,
}

/// Manual sends in flight.
#[derive(Debug, Default)]
pub(crate) struct ManualSends {
    in_flight: HashSet<i64>,
    finished: Vec<i64>,
}

impl ManualSends {
    /// Reads the manual sends that are not in flight yet. Returns jobs, and outcomes for those that cannot be sent.
    pub(crate) fn read<S: Store>(&mut self, store: &mut S, config: &Config) -> Result<(Vec<Job>, Vec<Entry>), Failure> {
        let known: Vec<i64> = self.in_flight.iter().copied().collect();
        let found = store.manual_sends(&known)?;
        let (mut waiting, mut resend) = (Waiting::default(), Vec::new());
        for send in found {
            match send.payload {
                Some(payload) => waiting.jobs.push(test(send.ticket, payload, send.created_at)),
                None => resend.push((send.ticket, send.segment)),
            }
        }
        let place = |(ticket, segment): &(Ticket, i16)| Place {
            position: ticket.position,
            message_id: ticket.message_id,
            segment: *segment,
        };
        let places: Vec<Place> = resend.iter().map(place).collect();
        let messages = if places.is_empty() { Vec::new() } else { store.messages(&places)? };
        for ((ticket, _), stored) in resend.into_iter().zip(messages) {
            match (stored, config.subscriptions.get(&ticket.subscription)) {
                (Some(stored), Some(_)) if stored.unreadable.is_some() => {
                    waiting.unreadable.extend(stored.unreadable.map(|error| (ticket, error)));
                }
                (Some(stored), Some(subscription)) => waiting.jobs.push(Job {
                    ticket,
                    message: stored.message,
                    // A manual send has a request of its own, even if the subscription's deliveries go in batches.
                    shape: Arc::new(Shape { batch_size: 1, ..(*subscription.shape).clone() }),
                }),
                // The message or the subscription is gone: there is nothing to send.
                _ => waiting.gone.push(ticket.delivery_id),
            }
        }
        Ok(self.take(waiting, store.now()))
    }

    /// Returns the jobs, and outcomes for the manual sends that cannot be sent.
    fn take(&mut self, waiting: Waiting, now: i64) -> (Vec<Job>, Vec<Entry>) {
        let ManualSends { in_flight, finished, .. } = self;
        finished.extend(waiting.gone);
        in_flight.extend(waiting.jobs.iter().map(|job| job.ticket.delivery_id));
        let outcomes = waiting.unreadable.into_iter().map(|(ticket, error)| {
            in_flight.insert(ticket.delivery_id);
            finished.push(ticket.delivery_id);
            Entry::unsent(ticket, format!("the message cannot be read: {error}").into(), now)
        });
        (waiting.jobs, outcomes.collect())
    }

    /// Notes that a manual send has come back. The next record deletes its row.
    pub(crate) fn returned(&mut self, id: i64) {
        self.finished.push(id);
    }

    /// The manual sends that have come back and are not recorded yet.
    pub(crate) fn finished(&self) -> &[i64] {
        &self.finished
    }

    /// Called when their outcomes have been recorded.
    pub(crate) fn recorded(&mut self) {
        for id in self.finished.drain(..) {
            self.in_flight.remove(&id);
        }
    }
}

/// The job of a test.
fn test(ticket: Ticket, payload: Box<str>, created_at: i64) -> Job {
    let enqueued_at = created_at + UNIX_EPOCH;
    Job {
        ticket,
        message: Arc::new(Message {
            enqueued_at,
            topic: "outbox.test".into(),
            content: Bytes::from(String::from(payload)),
            webhook_id: format!("msg_test_{:x}_{enqueued_at:x}", ticket.delivery_id).into(),
            ..Message::default()
        }),
        shape: Arc::new(Shape::default()),
    }
}
