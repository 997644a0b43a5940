//! Counts the rows of a push subscription that wait for the first of their key.
//!
//! A subscription has about `LIMIT` of these rows, however long the backlog of a failing key is. Beyond that it lags, as a
//! subscription with a slow endpoint does, and re-reads the feed from its position when rows have gone.
//!
//! The count in memory grows with each row that is made. When it has reached the limit, it is corrected by counting.
//! Counting is an index scan of at most twice as many entries as the limit.

use std::time::{Duration, Instant};

use crate::failure::Failure;
use crate::pull::window::Window;
use crate::store::Store;
use crate::subscriptions::{Config, Ordering, Subscription};

/// Rows of a subscription that may wait for the first of their key.
const LIMIT: usize = 10_000;
/// A lagging subscription continues when there is room for this many rows: then a reading of the feed is worth its cost.
const WORTH_IT: usize = 1000;
/// How often the rows of a full subscription are counted.
const RECOUNT: Duration = Duration::from_millis(250);

/// Whether one more row may be made.
pub(crate) fn has_room(subscription: &Subscription) -> bool {
    subscription.blocked < LIMIT
}

/// Whether a lagging subscription has enough room to make a reading of the feed worth its cost.
pub(crate) fn has_much_room(subscription: &Subscription) -> bool {
    subscription.blocked <= LIMIT - WORTH_IT
}

/// When blocked rows were counted last.
#[derive(Debug, Default)]
pub(crate) struct Blocked {
    counted: Option<Instant>,
}

impl Blocked {
    /// Counts the rows of all ordered push subscriptions.
    pub(crate) fn count_all<S: Store>(&self, store: &mut S, config: &mut Config) -> Result<(), Failure> {
        let ordered = |s: &Subscription| !s.pull && s.ordering != Ordering::None;
        count(store, config, ordered, |_| 0)
    }

    /// Counts the rows of subscriptions that lag because they have too many. Returns the time until the next count; `None`
    /// if there is no such subscription.
    pub(crate) fn recount<S: Store>(
        &mut self,
        store: &mut S,
        config: &mut Config,
        window: &Window,
    ) -> Result<Option<Duration>, Failure> {
        let full = |s: &Subscription| !s.pull && s.progress.lag().is_some() && !has_much_room(s);
        if !config.subscriptions.values().any(full) {
            return Ok(None);
        }
        let now = store.instant();
        let since = self.counted.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        if since < RECOUNT {
            return Ok(Some(RECOUNT - since));
        }
        count(store, config, full, |id| window.blocked(id))?;
        self.counted = Some(now);
        Ok(Some(RECOUNT))
    }
}

/// Counts the rows of these subscriptions. `unrecorded` gives the number of rows that are not in the table yet.
fn count<S: Store>(
    store: &mut S,
    config: &mut Config,
    wanted: impl Fn(&Subscription) -> bool,
    unrecorded: impl Fn(i32) -> usize,
) -> Result<(), Failure> {
    let ids: Vec<i32> = config.subscriptions.iter().filter(|(_, s)| wanted(s)).map(|(id, _)| *id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    for (id, rows) in ids.iter().zip(store.count_blocked(&ids, 2 * LIMIT)?) {
        if let Some(subscription) = config.subscriptions.get_mut(id) {
            subscription.blocked = rows + unrecorded(*id);
        }
    }
    Ok(())
}
