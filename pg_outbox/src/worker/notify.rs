//! Tells readers of the feed that there is more: NOTIFY outbox_feed with the last position, when `pg_outbox.notify_readers` is
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

/// What has been told.
pub struct Notifier {
    notify: Plan,
    told: Option<i64>,
    at: Option<Instant>,
}

impl Notifier {
    pub const fn new() -> Notifier {
        Notifier { notify: Plan::new("select pg_notify('outbox_feed', $1::text)", &[INT8OID]), told: None, at: None }
    }

    /// Tells that the feed ends at `end`, if that is new. `Some`: to be called again after this time.
    pub fn run(&mut self, end: i64) -> Option<Duration> {
        if !gucs::NOTIFY_READERS.get() || self.told.is_none_or(|told| told >= end) {
            self.told = Some(end);
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
        self.told = Some(end);
        self.at = Some(Instant::now());
        None
    }
}
