//! Outcomes of attempts, ready to be recorded.

use std::ops::Range;

use bytes::Bytes;
use outbox_core::policy::{Fault, Outcome};
use outbox_sender::{Done, Ticket};

use crate::failure::Failure;
use crate::feed::UNIX_EPOCH;

/// Reason and outcome of an expired delivery.
pub const EXPIRED: &str = "expired";

/// The outcome of an attempt for its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The receiver has it.
    Completed,
    /// To be retried at this time (microseconds, PostgreSQL's epoch).
    Failed(i64),
    /// A dead letter, for this reason.
    Dead(&'static str),
    /// Failed, and the message was cancelled meanwhile.
    Cancelled,
    /// A manual send, and whether it succeeded. No delivery changes.
    Manual(bool),
    /// Not attempted: the endpoint is disabled, and skips its deliveries.
    Skipped,
}

impl DeliveryOutcome {
    /// The outcome's name in the attempt log.
    pub fn as_str(&self) -> &'static str {
        match self {
            DeliveryOutcome::Completed => "completed",
            DeliveryOutcome::Failed(_) => "failed",
            DeliveryOutcome::Dead(EXPIRED) => EXPIRED,
            DeliveryOutcome::Dead(_) => "dead",
            DeliveryOutcome::Cancelled => "cancelled",
            DeliveryOutcome::Skipped => "skipped",
            DeliveryOutcome::Manual(true) => "completed",
            DeliveryOutcome::Manual(false) => "failed",
        }
    }
}

/// One outcome, ready to be recorded.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The attempt.
    pub done: Done,
    /// The message's segment.
    pub segment: i16,
    /// The result of the attempt for the delivery.
    pub outcome: DeliveryOutcome,
    /// The payload of a delivery without a row, if it is not that of the message.
    pub payload: Option<Bytes>,
    /// When a live delivery could begin, in microseconds since 1970.
    pub wanted_at: Option<i64>,
}

impl Entry {
    /// The outcome of a manual send that never reached the HTTP thread. Its attempt has the number 0.
    pub(crate) fn unsent(ticket: Ticket, error: Box<str>, now: i64) -> Entry {
        let time = now + UNIX_EPOCH;
        let done = Done {
            ticket: Ticket { attempt: 0, ..ticket },
            message: None,
            batch: 0,
            skipped: false,
            started_at: time,
            finished_at: time,
            outcome: Outcome::Fault(Fault::Invalid),
            status: None,
            error: Some(error),
            retry_after: None,
            remote: None,
            answer: None,
        };
        Entry { done, segment: 0, outcome: DeliveryOutcome::Manual(false), payload: None, wanted_at: None }
    }

    /// Removes the receiver's data from the outcome, and notes that it could not be recorded.
    pub fn make_plain(&mut self, failure: &Failure) {
        self.done.batch = 0;
        self.done.answer = None;
        self.done.error = Some(format!("its outcome could not be recorded: {failure}").into());
    }

    /// Whether the HTTP thread had the delivery.
    pub(crate) fn was_sent(&self) -> bool {
        self.done.ticket.attempt > 0
    }

    /// Whether the delivery will be retried.
    pub(crate) fn is_failed(&self) -> bool {
        matches!(self.outcome, DeliveryOutcome::Failed(_))
    }
}

/// Whether two deliveries were sent in one request. The deliveries of a batch come back in succession.
pub fn of_one_request(a: &Entry, b: &Entry) -> bool {
    a.done.batch != 0 && a.done.batch == b.done.batch
}

/// The range of entries of each request.
pub fn requests(entries: &[Entry]) -> Vec<Range<usize>> {
    let mut end = 0;
    entries
        .chunk_by(of_one_request)
        .map(|request| {
            end += request.len();
            end - request.len()..end
        })
        .collect()
}
