//! What becomes of a delivery without a try: it is skipped, or dead.
//!
//! Invariant: decisions are recorded in the transaction of the checkpoint that says that their positions were looked at.

use pgrx::pg_sys::{INT2ARRAYOID, INT4ARRAYOID, INT8ARRAYOID, TEXTARRAYOID};

use super::route::Stored;
use super::txn::{Plan, arg};

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
                "select outbox._record_decisions($1, $2, $3, $4, $5, $6, $7, $8)",
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

    /// How many there are.
    pub fn len(&self) -> usize {
        self.made.len()
    }

    /// Writes them. Inside the transaction of the checkpoint.
    pub fn record(&mut self) {
        if self.made.is_empty() {
            return;
        }
        let made = &self.made;
        self.plan.execute(&[
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

    /// The transaction has committed. Gives the rows of outbox.delivery that are gone.
    pub fn recorded(&mut self) -> impl Iterator<Item = i64> {
        self.made.drain(..).map(|d| d.delivery_id).filter(|id| *id != 0)
    }
}
