//! Deliveries that end without an attempt: skipped, cancelled, or dead.
//!
//! Invariant: decisions are recorded in the transaction of the checkpoint that covers their positions.

use crate::failure::Failure;
use crate::feed::Stored;

/// Reason of a delivery whose message cannot be read.
pub const UNREADABLE: &str = "unreadable";
/// Reason of a delivery that could not be recorded as it was.
pub const UNRECORDABLE: &str = "unrecordable";

/// A decision about one delivery.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Row of outbox.delivery; 0: none.
    pub delivery_id: i64,
    /// Id of the subscription.
    pub subscription: i32,
    /// Position of the message.
    pub position: i64,
    /// Id of the message.
    pub message_id: i64,
    /// Segment of the message.
    pub segment: i16,
    /// `skipped`, `cancelled` or `dead`.
    pub outcome: &'static str,
    /// The reason.
    pub reason: &'static str,
    /// The error, if there is one.
    pub error: Option<Box<str>>,
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

    /// The subscription's transform failed.
    pub fn transform_failed(subscription: i32, stored: &Stored, error: &str) -> Decision {
        Decision::about(subscription, stored, 0, "dead", "transform_failed", Some(error.into()))
    }

    /// The subscription's transform returned null.
    pub fn filtered(subscription: i32, stored: &Stored) -> Decision {
        Decision::about(subscription, stored, 0, "skipped", "filtered", None)
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
