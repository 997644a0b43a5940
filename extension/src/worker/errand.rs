//! What an operator has sent by hand: one try each, beside all deliveries.
//!
//! An errand is a row until its outcome is recorded: a crash repeats it.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use outbox_core::message::Message;
use outbox_sender::{Job, Shape, Ticket};
use pgrx::pg_sys::INT8ARRAYOID;

use super::config::Config;
use super::record::Entry;
use super::route::{Reader, UNIX_EPOCH};
use super::txn::{Plan, arg};

/// What a look at the errands has found.
pub struct Look {
    jobs: Vec<Job>,
    /// Those whose message cannot be read, with the reason.
    unreadable: Vec<(Ticket, Arc<str>)>,
    /// Those whose message or subscription is gone.
    gone: Vec<i64>,
}

/// Errands that are out.
pub struct Errands {
    load: Plan,
    delete: Plan,
    out: HashSet<i64>,
    finished: Vec<i64>,
}

impl Errands {
    pub fn new() -> Errands {
        Errands {
            load: Plan::new(
                "select e.id, e.run, e.endpoint_id, e.subscription_id, e.message_id, e.message_segment, e.position,
                    e.payload::text, e.created_at
                from outbox._manual_send e where e.id <> all ($1) order by e.id limit 100",
                &[INT8ARRAYOID],
            ),
            delete: Plan::new("delete from outbox._manual_send e where e.id = any ($1)", &[INT8ARRAYOID]),
            out: HashSet::new(),
            finished: Vec::new(),
        }
    }

    /// Reads the errands that are not out yet. Inside a transaction; `take` follows when it has committed.
    pub fn look(&mut self, reader: &mut Reader, config: &Config) -> Look {
        let Errands { load, out, .. } = self;
        let mut gone = Vec::new();
        let mut unreadable = Vec::new();
        let (mut jobs, mut resend) = (Vec::new(), Vec::new());
        load.execute(&[arg(out.iter().copied().collect::<Vec<i64>>())]).for_each(|row| {
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
                    // Alone, even where deliveries go in batches.
                    shape: Arc::new(Shape { batch_size: 1, ..(*subscription.shape).clone() }),
                }),
                // The message or the subscription is gone: there is nothing to send.
                _ => gone.push(ticket.delivery_id),
            }
        }
        Look { jobs, unreadable, gone }
    }

    /// Gives the jobs that were read, and as outcomes those that cannot be sent.
    pub fn take(&mut self, look: Look) -> (Vec<Job>, Vec<Entry>) {
        let Errands { out, finished, .. } = self;
        finished.extend(look.gone);
        out.extend(look.jobs.iter().map(|job| job.ticket.delivery_id));
        let outcomes = look.unreadable.into_iter().map(|(ticket, error)| {
            out.insert(ticket.delivery_id);
            finished.push(ticket.delivery_id);
            Entry::unsent(ticket, format!("the message cannot be read: {error}").into())
        });
        (look.jobs, outcomes.collect())
    }

    /// One came back; its row goes with the next record.
    pub fn back(&mut self, id: i64) {
        self.finished.push(id);
    }

    /// Inside the transaction that records the outcomes.
    pub fn record(&mut self) {
        if !self.finished.is_empty() {
            self.delete.execute(&[arg(self.finished.clone())]);
        }
    }

    /// The transaction has committed.
    pub fn recorded(&mut self) {
        for id in self.finished.drain(..) {
            self.out.remove(&id);
        }
    }
}
