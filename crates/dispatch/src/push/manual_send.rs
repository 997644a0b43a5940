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
    /// The payload of a test, or what the subscription's transform has made of the message; `None`: the message is sent.
    pub payload: Option<Box<str>>,
    /// When it was asked for (microseconds, PostgreSQL's epoch).
    pub created_at: i64,
}

/// The run of a test.
const TEST: i64 = -1;

/// Manual sends in flight.
#[derive(Debug, Default)]
pub(crate) struct ManualSends {
    in_flight: HashSet<i64>,
    finished: Vec<i64>,
}

impl ManualSends {
    /// Reads the manual sends that are not in flight yet. Returns jobs, outcomes for those that cannot be sent, and whether
    /// there are more.
    pub(crate) fn read<S: Store>(
        &mut self,
        store: &mut S,
        config: &Config,
    ) -> Result<(Vec<Job>, Vec<Entry>, bool), Failure> {
        let known: Vec<i64> = self.in_flight.iter().copied().collect();
        let found = store.manual_sends(&known)?;
        let (mut jobs, mut unsent, mut resend) = (Vec::new(), Vec::new(), Vec::new());
        for send in found {
            match send.payload {
                Some(payload) if send.ticket.run == TEST => jobs.push(test(send.ticket, payload, send.created_at)),
                payload => resend.push((send.ticket, send.segment, payload)),
            }
        }
        let place = |(ticket, segment, _): &(Ticket, i16, Option<Box<str>>)| Place {
            position: ticket.position,
            message_id: ticket.message_id,
            segment: *segment,
            payload_of: 0,
        };
        let places: Vec<Place> = resend.iter().map(place).collect();
        let messages = if places.is_empty() { Vec::new() } else { store.messages(&places)? };
        let (now, more) = (store.now(), messages.len() < places.len());
        for ((ticket, _, payload), stored) in resend.into_iter().zip(messages) {
            let (Some(stored), Some(subscription)) = (stored, config.subscriptions.get(&ticket.subscription)) else {
                // The message or the subscription is gone: there is nothing to send.
                self.in_flight.insert(ticket.delivery_id);
                self.finished.push(ticket.delivery_id);
                continue;
            };
            if let Some(error) = stored.unreadable {
                self.in_flight.insert(ticket.delivery_id);
                self.finished.push(ticket.delivery_id);
                unsent.push(Entry::unsent(ticket, format!("the message cannot be read: {error}").into(), now));
                continue;
            }
            let stored = match payload {
                Some(payload) => stored.with_payload(Bytes::from(String::from(payload))),
                None => stored,
            };
            jobs.push(Job {
                ticket,
                message: stored.message,
                // A manual send has a request of its own, even if the subscription's deliveries go in batches.
                shape: Arc::new(Shape { batch_size: 1, ..(*subscription.shape).clone() }),
            });
        }
        self.in_flight.extend(jobs.iter().map(|job| job.ticket.delivery_id));
        Ok((jobs, unsent, more))
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
