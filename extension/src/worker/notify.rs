//! Tells readers of the feed that there is more: NOTIFY outbox_append_to_feed with the last position, when `pg_outbox.notify_readers` is
//! on.
//!
//! By the dispatcher, in a transaction of its own: a NOTIFY takes a lock at commit that the whole cluster shares, so producers
//! never send one, and here many messages share one.

use std::time::{Duration, Instant};

use pgrx::pg_sys::INT8OID;

use super::txn::{self, Plan, arg};
use crate::gucs;

/// At most one in this time.
const INTERVAL: Duration = Duration::from_millis(50);

/// What has been told: nothing by a dispatcher that has just started, whose first round may have numbered messages already.
pub struct Notifier {
    notify: Plan,
    told: i64,
    at: Option<Instant>,
}

impl Notifier {
    pub const fn new() -> Notifier {
        Notifier { notify: Plan::new("select pg_notify('outbox_append_to_feed', $1::text)", &[INT8OID]), told: 0, at: None }
    }

    /// Tells that the feed ends at `end`, if that is new. `Some`: to be called again after this time.
    pub fn run(&mut self, end: i64) -> Option<Duration> {
        if !gucs::NOTIFY_READERS.get() || self.told >= end {
            self.told = end;
            return None;
        }
        let since = self.at.map_or(INTERVAL, |at| at.elapsed());
        if since < INTERVAL {
            return Some(INTERVAL - since);
        }
        let Notifier { notify, .. } = self;
        // A notification is a hint: one that fails is not repeated, readers poll as well.
        if let Err(error) = txn::run(|| {
            notify.execute(&[arg(end)]);
            Ok(())
        }) {
            pgrx::log!("pg_outbox dispatcher: readers were not notified: {error}");
        }
        self.told = end;
        self.at = Some(Instant::now());
        None
    }
}
