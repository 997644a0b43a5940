//! Message counters by tenant and by topic, for the statistics.
//!
//! Invariant: the sums are appended in the transaction of the checkpoint that has passed the positions they count. So they
//! are exact, and reading them never counts the log.

use std::collections::HashMap;

use outbox_core::Result;
use pgrx::IntoDatum;

use crate::dispatch::feed::Stored;
use crate::pg::append::append_current;
use crate::pg::shape;
use crate::worker::now;

/// Leaves of the ring `message_counter`.
const LEAVES: i64 = 3;

#[derive(Default)]
struct Sum {
    messages: i64,
    matched: i64,
    skipped: i64,
}

/// Sums of the messages that have been routed since the last checkpoint.
#[derive(Default)]
pub struct MessageCounters {
    tenants: HashMap<Box<str>, Sum>,
    topics: HashMap<Box<str>, Sum>,
}

impl MessageCounters {
    /// Counts a message. `matched` is the message's entry of outbox.routing.
    pub fn count(&mut self, stored: &Stored, matched: i16) {
        add(&mut self.topics, &stored.message.topic, matched);
        if let Some(tenant) = &stored.attributes.tenant {
            add(&mut self.tenants, tenant, matched);
        }
    }

    /// Appends the sums. Inside the transaction of the checkpoint.
    pub fn record(&self) -> Result<()> {
        if self.topics.is_empty() {
            return Ok(());
        }
        let at = now();
        append_current("message_counter", LEAVES, shape::MESSAGE_COUNTER, |segment| {
            let kinds = [("tenant", &self.tenants), ("topic", &self.topics)];
            let all =
                kinds.into_iter().flat_map(|(kind, sums)| sums.iter().map(move |(name, sum)| (kind, &**name, sum)));
            let row = |(kind, name, sum): (&str, &str, &Sum)| {
                [
                    segment.into_datum(),
                    kind.into_datum(),
                    name.into_datum(),
                    sum.messages.into_datum(),
                    sum.matched.into_datum(),
                    sum.skipped.into_datum(),
                    at.into_datum(),
                ]
            };
            all.map(row).collect()
        })
    }

    /// Called when the transaction has committed.
    pub fn recorded(&mut self) {
        self.tenants.clear();
        self.topics.clear();
    }
}

fn add(sums: &mut HashMap<Box<str>, Sum>, name: &str, matched: i16) {
    // The key is looked up by reference first, so that the name is copied once per checkpoint, not once per message.
    if !sums.contains_key(name) {
        sums.insert(name.into(), Sum::default());
    }
    if let Some(sum) = sums.get_mut(name) {
        sum.messages += 1;
        sum.matched += i64::from(matched.max(0));
        sum.skipped += i64::from(matched < 0);
    }
}
