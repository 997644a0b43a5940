//! Decides what an attempt means for its delivery.

use std::time::Duration;

use outbox_core::policy::{Action, Budget, Control, Decision, decide};
use outbox_core::schedule::mix;
use outbox_sender::Done;

use crate::feed::UNIX_EPOCH;
use crate::outcome::entry::DeliveryOutcome;
use crate::subscriptions::Subscription;

/// The decision.
pub(crate) struct Verdict {
    pub outcome: DeliveryOutcome,
    /// The endpoint is to be disabled: the policy or the receiver says so.
    pub disable: bool,
}

/// Decides about a request that has come back. `enqueued_at` is the message's, in microseconds since 1970;
/// `now` is the current time of PostgreSQL's epoch.
pub(crate) fn verdict(
    done: &Done,
    subscription: &Subscription,
    max_attempts: u32,
    enqueued_at: i64,
    now: i64,
) -> Verdict {
    if done.skipped {
        return Verdict { outcome: DeliveryOutcome::Skipped, disable: false };
    }
    let age = Duration::from_micros((done.finished_at - enqueued_at).max(0).unsigned_abs());
    let budget = Budget { attempt: done.ticket.attempt, max_attempts, age, max_age: subscription.max_age };
    // The messages of a batch are retried together.
    let what = if done.batch != 0 { done.batch } else { done.ticket.message_id.cast_unsigned() };
    let seed = mix(what) ^ done.ticket.subscription as u64;
    let control = done.answer.as_ref().and_then(|answer| answer.control);
    let action = Control::apply(control, subscription.shape.policy.action(done.outcome));
    let outcome = match decide(action, done.outcome, budget, &subscription.schedule, done.retry_after, seed) {
        Decision::Completed => DeliveryOutcome::Completed,
        Decision::Retry(wait) => {
            let wait = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX / 4);
            DeliveryOutcome::Failed((done.finished_at - UNIX_EPOCH).min(now) + wait)
        }
        Decision::Dead(reason) => DeliveryOutcome::Dead(reason.as_str()),
    };
    Verdict { outcome, disable: action == Action::Disable || control == Some(Control::Disable) }
}
