//! Counts the rows of a push subscription that wait for the first of their key.
//!
//! A subscription has about `LIMIT` of these rows, however long the backlog of a failing key is. Beyond that it lags, as a
//! subscription with a slow endpoint does, and re-reads the feed from its position when rows have gone.
//!
//! The count in memory grows with each row that is made. When it has reached the limit, it is corrected by counting.
//! Counting is an index scan of at most twice as many entries as the limit.

use std::time::{Duration, Instant};

use pgrx::pg_sys::{INT4OID, INT8OID};

use crate::dispatch::pull::window::Window;
use crate::dispatch::subscriptions::{Config, Ordering, Subscription};
use crate::pg::txn::{self, Failure, Plan, arg};

/// Rows of a subscription that may wait for the first of their key.
const LIMIT: usize = 10_000;
/// A lagging subscription continues when there is room for this many rows: then a reading of the feed is worth its cost.
const WORTH_IT: usize = 1000;
/// How often the rows of a full subscription are counted.
const RECOUNT: Duration = Duration::from_millis(250);

/// Whether one more row may be made.
pub fn has_room(subscription: &Subscription) -> bool {
    subscription.blocked < LIMIT
}

/// Whether a lagging subscription has enough room to make a reading of the feed worth its cost.
pub fn has_much_room(subscription: &Subscription) -> bool {
    subscription.blocked <= LIMIT - WORTH_IT
}

/// Counts blocked rows.
pub struct Blocked {
    count: Plan,
    counted: Option<Instant>,
}

impl Blocked {
    pub const fn new() -> Blocked {
        Blocked {
            count: Plan::new(
                "select count(*) from (
                    select from outbox.delivery d where d.subscription_id = $1 and d.blocked and not d.pull limit $2
                ) l",
                &[INT4OID, INT8OID],
            ),
            counted: None,
        }
    }

    /// Counts the rows of all ordered push subscriptions. Inside a transaction.
    pub fn count_all(&mut self, config: &mut Config) {
        for (id, subscription) in &mut config.subscriptions {
            if !subscription.pull && subscription.ordering != Ordering::None {
                subscription.blocked = self.count(*id);
            }
        }
    }

    /// Counts the rows of subscriptions that lag because they have too many. Returns the time until the next count; `None`
    /// if there is no such subscription.
    pub fn recount(&mut self, config: &mut Config, window: &Window) -> Result<Option<Duration>, Failure> {
        let full = |s: &Subscription| !s.pull && s.progress.lag().is_some() && !has_much_room(s);
        if !config.subscriptions.values().any(full) {
            return Ok(None);
        }
        let since = self.counted.map_or(Duration::MAX, |at| at.elapsed());
        if since < RECOUNT {
            return Ok(Some(RECOUNT - since));
        }
        txn::run(|| {
            for (id, subscription) in config.subscriptions.iter_mut().filter(|(_, s)| full(s)) {
                subscription.blocked = self.count(*id) + window.blocked(*id);
            }
            Ok(())
        })?;
        self.counted = Some(Instant::now());
        Ok(Some(RECOUNT))
    }

    fn count(&mut self, subscription: i32) -> usize {
        let rows = self.count.execute(&[arg(subscription), arg(2 * LIMIT as i64)]).first(|row| row.int(0));
        usize::try_from(rows.unwrap_or(0)).unwrap_or(0)
    }
}
