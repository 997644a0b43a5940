//! Message counters by tenant and by topic, for the statistics.
//!
//! Invariant: the sums are appended in the transaction of the checkpoint that has passed the positions they count. So they
//! are exact, and reading them never counts the log.

use std::collections::HashMap;

use crate::feed::Stored;

/// The sums of a tenant or a topic.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Messages that were routed.
    pub messages: i64,
    /// Deliveries of these messages.
    pub matched: i64,
    /// Messages that no subscription got.
    pub skipped: i64,
}

/// Sums of the messages that have been routed since the last checkpoint.
#[derive(Debug, Default)]
pub struct MessageCounters {
    tenants: HashMap<Box<str>, Sum>,
    topics: HashMap<Box<str>, Sum>,
}

impl MessageCounters {
    /// Counts a message. `matched` is the message's entry of outbox.routing.
    pub(crate) fn count(&mut self, stored: &Stored, matched: i16) {
        add(&mut self.topics, &stored.message.topic, matched);
        if let Some(tenant) = &stored.attributes.tenant {
            add(&mut self.tenants, tenant, matched);
        }
    }

    /// The sums: kind (`tenant` or `topic`), name and sum.
    pub fn sums(&self) -> impl Iterator<Item = (&'static str, &str, Sum)> {
        let kinds = [("tenant", &self.tenants), ("topic", &self.topics)];
        kinds.into_iter().flat_map(|(kind, sums)| sums.iter().map(move |(name, sum)| (kind, &**name, *sum)))
    }

    /// Whether nothing has been counted.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Called when the sums have been recorded.
    pub(crate) fn recorded(&mut self) {
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
