//! Counters for `outbox.metrics()` and the statistics: one row per recorded batch, subscription, endpoint and outcome, in the
//! transaction that records the outcomes themselves. So the counters are exact, and nothing ever counts the log.

use std::collections::BTreeMap;

use outbox_core::Result;
use outbox_dispatch::outcome::message_counters::MessageCounters;
use pgrx::IntoDatum;

use crate::pg::shape;
use crate::pg::table::append_current;
use crate::worker::now;

/// Leaves of each of the rings `counter` and `message_counter`.
const LEAVES: i64 = 3;

/// A delivery to be counted.
pub struct Counted {
    pub subscription: i32,
    pub endpoint: i32,
    pub outcome: &'static str,
    /// Number of requests. It is 0 if the request is counted with another delivery, or if no request was sent.
    pub requests: i64,
    pub deliveries: i64,
    /// Duration of the request, in microseconds.
    pub micros: i64,
}

/// Appends the sums. Inside a transaction.
pub fn append(deliveries: impl Iterator<Item = Counted>) -> Result<()> {
    let mut sums: BTreeMap<(i32, i32, &'static str), (i64, i64, i64)> = BTreeMap::new();
    for one in deliveries {
        let sum = sums.entry((one.subscription, one.endpoint, one.outcome)).or_default();
        *sum = (sum.0 + one.requests, sum.1 + one.deliveries, sum.2 + one.micros.max(0));
    }
    if sums.is_empty() {
        return Ok(());
    }
    let at = now();
    append_current("counter", LEAVES, shape::COUNTER, |segment| {
        let row = |((subscription, endpoint, outcome), (requests, deliveries, micros)): (
            (i32, i32, &str),
            (i64, i64, i64),
        )| {
            let seconds = micros as f64 / 1e6;
            [
                segment.into_datum(),
                subscription.into_datum(),
                (endpoint != 0).then_some(endpoint).into_datum(),
                outcome.into_datum(),
                requests.into_datum(),
                deliveries.into_datum(),
                seconds.into_datum(),
                at.into_datum(),
            ]
        };
        sums.into_iter().map(row).collect()
    })
}

/// Appends the sums of messages by tenant and by topic. Inside the transaction of the checkpoint that has passed the
/// positions that they count.
pub fn append_messages(counters: &MessageCounters) -> Result<()> {
    if counters.is_empty() {
        return Ok(());
    }
    let at = now();
    append_current("message_counter", LEAVES, shape::MESSAGE_COUNTER, |segment| {
        let rows = counters.sums().map(|(kind, name, sum)| {
            [
                segment.into_datum(),
                kind.into_datum(),
                name.into_datum(),
                sum.messages.into_datum(),
                sum.matched.into_datum(),
                sum.skipped.into_datum(),
                at.into_datum(),
            ]
        });
        rows.collect()
    })
}
