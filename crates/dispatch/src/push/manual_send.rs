//! Manual sends: messages that an operator sends by hand, one attempt each, independent of all deliveries.
//!
//! A manual send is a row until its outcome is recorded, so a crash repeats it.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use outbox_core::message::Message;
use outbox_sender::{Job, Shape, Ticket};
use pgrx::pg_sys::INT8ARRAYOID;

use crate::dispatch::feed::{Reader, UNIX_EPOCH};
use crate::dispatch::outcome::record::Entry;
use crate::dispatch::subscriptions::Config;
use crate::pg::txn::{Plan, arg};

/// The manual sends that `read` has found.
pub struct Waiting {
    jobs: Vec<Job>,
    /// Manual sends whose message cannot be read, with the reason.
    unreadable: Vec<(Ticket, Arc<str>)>,
    /// Manual sends whose message or subscription is gone.
    gone: Vec<i64>,
}

/// Manual sends in flight.
pub struct ManualSends {
    load: Plan,
    delete: Plan,
    in_flight: HashSet<i64>,
    finished: Vec<i64>,
}

impl ManualSends {
    pub fn new() -> ManualSends {
        ManualSends {
            load: Plan::new(
                "select e.id, e.run, e.endpoint_id, e.subscription_id, e.message_id, e.message_segment, e.position,
                    e.payload::text, e.created_at
                from outbox._manual_send e where e.id <> all ($1) order by e.id limit 100",
                &[INT8ARRAYOID],
            ),
            delete: Plan::new("delete from outbox._manual_send e where e.id = any ($1)", &[INT8ARRAYOID]),
            in_flight: HashSet::new(),
            finished: Vec::new(),
        }
    }

    /// Reads the manual sends that are not in flight yet. Inside a transaction; `take` is called when it has committed.
    pub fn read(&mut self, reader: &mut Reader, config: &Config) -> Waiting {
        let ManualSends { load, in_flight, .. } = self;
        let mut gone = Vec::new();
        let mut unreadable = Vec::new();
        let (mut jobs, mut resend) = (Vec::new(), Vec::new());
        load.execute(&[arg(in_flight.iter().copied().collect::<Vec<i64>>())]).for_each(|row| {
            let id = row.int(0);
            let subscription: i32 = row.get(3).unwrap_or_default();
            let ticket = Ticket {
                subscription,
                endpoint: row.get(2).unwrap_or_default(),
                position: row.int(6),
                message_id: row.int(4),
                delivery_id: id,
                attempt: 1,
                run: row.get::<i16>(1).unwrap_or_default().into(),
            };
            match row.text(7) {
                Some(payload) => jobs.push(Job {
                    ticket,
                    message: Arc::new(Message {
                        enqueued_at: row.int(8) + UNIX_EPOCH,
                        topic: "outbox.test".into(),
                        content: Bytes::from(String::from(payload)),
                        webhook_id: format!("msg_test_{id:x}_{:x}", row.int(8) + UNIX_EPOCH).into(),
                        ..Message::default()
                    }),
                    shape: Arc::new(Shape::default()),
                }),
                None => resend.push((ticket, row.get::<i16>(5).unwrap_or_default())),
            }
        });
        for (ticket, segment) in resend {
            let stored = reader.message(ticket.position, ticket.message_id, segment);
            match (stored, config.subscriptions.get(&ticket.subscription)) {
                (Some(stored), Some(_)) if stored.unreadable.is_some() => {
                    unreadable.extend(stored.unreadable.map(|error| (ticket, error)));
                }
                (Some(stored), Some(subscription)) => jobs.push(Job {
                    ticket,
                    message: stored.message,
                    // A manual send has a request of its own, even if the subscription's deliveries go in batches.
                    shape: Arc::new(Shape { batch_size: 1, ..(*subscription.shape).clone() }),
                }),
                // The message or the subscription is gone: there is nothing to send.
                _ => gone.push(ticket.delivery_id),
            }
        }
        Waiting { jobs, unreadable, gone }
    }

    /// Returns the jobs, and outcomes for the manual sends that cannot be sent.
    pub fn take(&mut self, waiting: Waiting) -> (Vec<Job>, Vec<Entry>) {
        let ManualSends { in_flight, finished, .. } = self;
        finished.extend(waiting.gone);
        in_flight.extend(waiting.jobs.iter().map(|job| job.ticket.delivery_id));
        let outcomes = waiting.unreadable.into_iter().map(|(ticket, error)| {
            in_flight.insert(ticket.delivery_id);
            finished.push(ticket.delivery_id);
            Entry::unsent(ticket, format!("the message cannot be read: {error}").into())
        });
        (waiting.jobs, outcomes.collect())
    }

    /// Notes that a manual send has come back. The next record deletes its row.
    pub fn returned(&mut self, id: i64) {
        self.finished.push(id);
    }

    /// Deletes the rows of finished manual sends. Inside the transaction that records the outcomes.
    pub fn record(&mut self) {
        if !self.finished.is_empty() {
            self.delete.execute(&[arg(self.finished.clone())]);
        }
    }

    /// Called when the transaction has committed.
    pub fn recorded(&mut self) {
        for id in self.finished.drain(..) {
            self.in_flight.remove(&id);
        }
    }
}
