//! Deliveries that end without an attempt: skipped, cancelled, or dead.
//!
//! Invariant: decisions are recorded in the transaction of the checkpoint that covers their positions.

use pgrx::pg_sys::{INT2ARRAYOID, INT4ARRAYOID, INT8ARRAYOID, TEXTARRAYOID};

use crate::dispatch::feed::Stored;
use crate::pg::txn::{Failure, Plan, arg};
use crate::worker::fault::{Faults, Kind, apart};

/// Reason of a delivery whose message cannot be read.
pub const UNREADABLE: &str = "unreadable";
/// Reason of a delivery that could not be recorded as it was.
pub const UNRECORDABLE: &str = "unrecordable";

/// A decision about one delivery.
pub struct Decision {
    pub delivery_id: i64,
    subscription: i32,
    position: i64,
    message_id: i64,
    segment: i16,
    outcome: &'static str,
    reason: &'static str,
    error: Option<Box<str>>,
}

impl Decision {
    /// The subscription ended before it got the message.
    pub fn unsubscribed(subscription: i32, stored: &Stored, delivery_id: i64) -> Decision {
        Decision::about(subscription, stored, delivery_id, "skipped", "unsubscribed", None)
    }

    /// The message was cancelled while it waited for its turn.
    pub fn cancelled(subscription: i32, stored: &Stored, delivery_id: i64) -> Decision {
        Decision::about(subscription, stored, delivery_id, "cancelled", "cancelled", None)
    }

    /// The message cannot be read.
    pub fn unreadable(subscription: i32, stored: &Stored) -> Decision {
        Decision::about(subscription, stored, 0, "dead", UNREADABLE, stored.unreadable.as_deref().map(Into::into))
    }

    /// No row could be made for the delivery.
    pub fn unrecordable(
        subscription: i32,
        (position, message_id): (i64, i64),
        segment: i16,
        failure: &Failure,
    ) -> Decision {
        Decision {
            delivery_id: 0,
            subscription,
            position,
            message_id,
            segment,
            outcome: "dead",
            reason: UNRECORDABLE,
            error: Some(failure.message.as_str().into()),
        }
    }

    /// The subscription's filter could not be evaluated.
    pub fn filter_failed(subscription: i32, stored: &Stored, error: &str) -> Decision {
        Decision::about(subscription, stored, 0, "dead", "filter_failed", Some(error.into()))
    }

    fn about(
        subscription: i32,
        stored: &Stored,
        delivery_id: i64,
        outcome: &'static str,
        reason: &'static str,
        error: Option<Box<str>>,
    ) -> Decision {
        Decision {
            delivery_id,
            subscription,
            position: stored.message.position,
            message_id: stored.message.id,
            segment: stored.segment,
            outcome,
            reason,
            error,
        }
    }
}

/// Decisions that are not recorded yet.
pub struct Decisions {
    made: Vec<Decision>,
    plan: Plan,
}

impl Decisions {
    pub const fn new() -> Decisions {
        Decisions {
            made: Vec::new(),
            plan: Plan::new(
                "select outbox_internal.record_decisions($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    INT8ARRAYOID,
                    INT4ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT2ARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                ],
            ),
        }
    }

    pub fn push(&mut self, decision: Decision) {
        self.made.push(decision);
    }

    /// Number of unrecorded decisions.
    pub fn len(&self) -> usize {
        self.made.len()
    }

    /// Writes the decisions. Inside the transaction of the checkpoint.
    pub fn record(&mut self) {
        write(&mut self.plan, &self.made);
    }

    /// Writes the decisions, and item by item where something fails.
    pub fn record_apart(&mut self, faults: &mut Faults) -> Result<(), Failure> {
        let Decisions { made, plan } = self;
        for (place, failure) in apart(made, &mut |made| {
            write(plan, made);
            Ok(())
        })? {
            faults.found(Kind::Message, made[place].message_id, "record", &failure);
        }
        Ok(())
    }

    /// Called when the transaction has committed. Returns the ids of the rows of outbox.delivery that are gone.
    pub fn recorded(&mut self) -> impl Iterator<Item = i64> {
        self.made.drain(..).map(|d| d.delivery_id).filter(|id| *id != 0)
    }
}

/// Writes these decisions.
fn write(plan: &mut Plan, made: &[Decision]) {
    if made.is_empty() {
        return;
    }
    plan.execute(&[
        arg(made.iter().map(|d| d.delivery_id).collect::<Vec<i64>>()),
        arg(made.iter().map(|d| d.subscription).collect::<Vec<i32>>()),
        arg(made.iter().map(|d| d.position).collect::<Vec<i64>>()),
        arg(made.iter().map(|d| d.message_id).collect::<Vec<i64>>()),
        arg(made.iter().map(|d| d.segment).collect::<Vec<i16>>()),
        arg(made.iter().map(|d| d.outcome).collect::<Vec<_>>()),
        arg(made.iter().map(|d| d.reason).collect::<Vec<_>>()),
        arg(made.iter().map(|d| d.error.as_deref()).collect::<Vec<_>>()),
    ]);
}
