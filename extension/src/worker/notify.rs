//! Tells readers of the feed about new messages: NOTIFY outbox_feed with the last position, when `pg_outbox.notify_readers`
//! is on.
//!
//! The dispatcher sends the NOTIFY in a transaction of its own, because a NOTIFY takes a lock at commit that the whole
//! cluster shares. So producers never send one, and many messages share one.

use std::time::{Duration, Instant};

use pgrx::pg_sys::INT8OID;

use crate::pg::txn::{self, Plan, arg};
use crate::settings;

/// Shortest time between two notifications.
const INTERVAL: Duration = Duration::from_millis(50);

/// The last position that readers were told of. A new dispatcher has told none: its first round may already have numbered
/// messages.
pub struct Notifier {
    notify: Plan,
    told: i64,
    at: Option<Instant>,
}

impl Notifier {
    pub const fn new() -> Notifier {
        Notifier { notify: Plan::new("select pg_notify('outbox_feed', $1::text)", &[INT8OID]), told: 0, at: None }
    }

    /// Notifies readers that the feed ends at `end`, if that is new. Returns the time after which it must be called again.
    pub fn run(&mut self, end: i64) -> Option<Duration> {
        if !settings::NOTIFY_READERS.get() || self.told >= end {
            self.told = end;
            return None;
        }
        let since = self.at.map_or(INTERVAL, |at| at.elapsed());
        if since < INTERVAL {
            return Some(INTERVAL - since);
        }
        let Notifier { notify, .. } = self;
        // A notification is a hint: a failed one is not repeated, because readers poll as well.
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
