//! Rows of outbox.delivery that the router makes: rows of pull subscriptions, which workers claim, rows of messages whose
//! `deliver_at` is in the future, and rows that wait for the first of their key.
//!
//! Invariants:
//! * A row is made in the transaction of the checkpoint that covers its position, so a crash neither loses nor doubles the
//!   row.
//! * A pull subscription has about `WINDOW` rows that wait for their first attempt, however long its backlog is. Beyond that
//!   it lags, as a slow push subscription does, and re-reads the feed when workers have made room.
//! * A hundred rows of one subscription that differ in nothing but their message become one row, a bundle: see
//!   pull/bundles.sql.
//! * A delivery that is expired or cancelled when the router reaches it is recorded as such, with the same checkpoint.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::failure::Failure;
use crate::fault::WHOLE_TRIES;
use crate::feed::{Stored, UNIX_EPOCH};
use crate::outcome::entry::EXPIRED;
use crate::pull::ordering::OrderKey;
use crate::store::{Passed, Store};
use crate::subscriptions::{Config, Ordering, Subscription};

/// Rows of a subscription that may wait for their first attempt.
pub const WINDOW: usize = 10_000;
/// Deliveries in a full bundle.
const BUNDLE: usize = 100;
/// Minimum size of the last, partial bundle.
const BUNDLE_LEAST: usize = 20;
/// The positions of a bundle's deliveries differ by less than this. The search for a bundle in the attempt log relies on it.
const BUNDLE_SPAN: i64 = 10_000;
/// The rows of the window have not been counted yet.
const UNCOUNTED: usize = usize::MAX;
/// How often the rows of a full window are counted. The second interval applies while the last count has found less than
/// half a window, because workers are emptying it.
const RECOUNT: Duration = Duration::from_millis(100);
const RECOUNT_DRAINED: Duration = Duration::from_millis(20);
/// How often the router looks for expired leases while there are leases.
const PASS: Duration = Duration::from_secs(1);
/// Most leases taken back, deliveries expired and keys unblocked in one transaction, each.
const PASS_LIMIT: i32 = 1000;

/// A row of outbox.delivery that is to be made.
#[derive(Clone, Debug)]
pub struct NewRow {
    /// Workers claim it.
    pub pull: bool,
    /// Id of the subscription.
    pub subscription: i32,
    /// Position of the message.
    pub position: i64,
    /// Id of the message.
    pub message_id: i64,
    /// Segment of the message.
    pub segment: i16,
    /// Priority of the message.
    pub priority: i16,
    /// When the first attempt is due.
    pub due: i64,
    /// When the delivery expires.
    pub expires: Option<i64>,
    /// The message's own limit of attempts.
    pub max_attempts: Option<i32>,
    /// The key by which the delivery is ordered. A row is blocked if its key has another row.
    pub key: Option<Box<str>>,
    /// The payload, if it is not that of the message.
    pub payload: Option<Bytes>,
}

/// A delivery that ended before its first attempt.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Id of the subscription.
    pub subscription: i32,
    /// Position of the message.
    pub position: i64,
    /// Id of the message.
    pub message_id: i64,
    /// Segment of the message.
    pub segment: i16,
    /// `cancelled` or `expired`.
    pub outcome: &'static str,
}

/// The result for a message that matched a subscription.
#[derive(PartialEq, Eq, Clone, Copy, Debug)]
pub enum Accept {
    /// The delivery has a row, or has ended.
    Done,
    /// The window is full: the subscription falls behind.
    Full,
    /// The delivery is to be sent now.
    Send,
}

/// Rows that are to be made, and the dispatcher's data about pull subscriptions.
#[derive(Debug)]
pub struct Window {
    rows: Vec<NewRow>,
    ended: Vec<Ended>,
    /// Messages that must not be delivered any more; usually empty.
    cancelled: HashSet<i64>,
    /// By subscription, the position below which no row waits for its first attempt.
    lowest: HashMap<i32, i64>,
    counted: Option<Instant>,
    recount_after: Duration,
    passed: Option<Instant>,
    /// How often a pass has failed in a row.
    pass_failures: u32,
    /// The last pass saw leases, or left work undone.
    soon: bool,
    /// A pass has freed rows (taken back or unblocked) since `take_promoted` was last called.
    promoted: bool,
}

impl Default for Window {
    fn default() -> Window {
        Window {
            rows: Vec::new(),
            ended: Vec::new(),
            cancelled: HashSet::new(),
            lowest: HashMap::new(),
            counted: None,
            recount_after: RECOUNT,
            passed: None,
            pass_failures: 0,
            soon: true,
            promoted: false,
        }
    }
}

impl Window {
    /// Handles a match at `time`: makes a row, or ends the delivery, or leaves the delivery to be sent.
    pub fn accept(&mut self, id: i32, subscription: &mut Subscription, stored: &Stored, time: i64) -> Accept {
        let (message, attributes) = (&stored.message, &stored.attributes);
        let expires = expiry(subscription, stored);
        let outcome = if self.is_cancelled(message.id) {
            Some("cancelled")
        } else {
            expires.is_some_and(|at| at <= time).then_some(EXPIRED)
        };
        if let Some(outcome) = outcome {
            self.ended.push(Ended {
                subscription: id,
                position: message.position,
                message_id: message.id,
                segment: stored.segment,
                outcome,
            });
            return Accept::Done;
        }
        let later = attributes.deliver_at.filter(|at| *at > time);
        match later {
            None if !subscription.pull => return Accept::Send,
            None => {
                if subscription.outstanding >= WINDOW {
                    return Accept::Full;
                }
                subscription.outstanding += 1;
            }
            // A delivery that is not due yet does not count in the window.
            Some(_) => {}
        }
        self.rows.push(NewRow {
            pull: subscription.pull,
            subscription: id,
            position: message.position,
            message_id: message.id,
            segment: stored.segment,
            priority: attributes.priority,
            due: later.unwrap_or(time),
            expires,
            max_attempts: attributes.max_attempts,
            key: order_key(subscription, stored),
            payload: stored.own_payload(),
        });
        Accept::Done
    }

    /// Makes a blocked row for a delivery of a push subscription that waits for others of its key.
    pub(crate) fn block(&mut self, id: i32, stored: &Stored, key: Box<str>, expires: Option<i64>, time: i64) {
        let (message, attributes) = (&stored.message, &stored.attributes);
        self.rows.push(NewRow {
            pull: false,
            subscription: id,
            position: message.position,
            message_id: message.id,
            segment: stored.segment,
            priority: attributes.priority,
            due: time,
            expires,
            max_attempts: attributes.max_attempts,
            key: Some(key),
            payload: stored.own_payload(),
        });
    }

    /// Keys of the unrecorded blocked rows of push subscriptions.
    pub(crate) fn blocked_keys(&self) -> impl Iterator<Item = OrderKey> {
        let rows = self.rows.iter().filter(|row| !row.pull);
        rows.filter_map(|row| Some((row.subscription, row.key.clone()?)))
    }

    /// Number of unrecorded blocked rows of a push subscription.
    pub(crate) fn blocked(&self, id: i32) -> usize {
        self.rows.iter().filter(|row| !row.pull && row.subscription == id && row.key.is_some()).count()
    }

    /// Whether a message must not be delivered any more.
    pub(crate) fn is_cancelled(&self, message_id: i64) -> bool {
        !self.cancelled.is_empty() && self.cancelled.contains(&message_id)
    }

    /// Takes over all cancelled messages, and returns those that were not cancelled the last time.
    pub fn set_cancelled(&mut self, cancelled: Vec<i64>) -> HashSet<i64> {
        let before = std::mem::take(&mut self.cancelled);
        self.cancelled.extend(cancelled);
        self.cancelled.difference(&before).copied().collect()
    }

    /// Notes that messages are cancelled of which none has been sent: a message that was cancelled by the transaction that
    /// enqueued it is visible before that session has woken the dispatcher. `set_cancelled` has to return others as new.
    pub(crate) fn add_cancelled(&mut self, unsent: Vec<i64>) {
        self.cancelled.extend(unsent);
    }

    /// Number of rows, and of deliveries that ended without a row, that are not recorded yet.
    pub fn rows(&self) -> usize {
        self.rows.len() + self.ended.len()
    }

    /// Subscription and due time of the unrecorded rows that are to be pushed.
    pub(crate) fn pushed(&self) -> impl Iterator<Item = (i32, i64)> {
        self.rows.iter().filter(|r| !r.pull).map(|r| (r.subscription, r.due))
    }

    /// The rows and ended deliveries that are not recorded yet.
    pub fn unrecorded(&mut self) -> (&mut Vec<NewRow>, &[Ended]) {
        (&mut self.rows, &self.ended)
    }

    /// Called when they have been recorded.
    pub fn recorded(&mut self) {
        self.rows.clear();
        self.ended.clear();
    }

    /// Counts the rows of subscriptions whose window seems full, if a count is due.
    pub(crate) fn recount<S: Store>(&mut self, store: &mut S, config: &mut Config) -> Result<(), Failure> {
        let instant = store.instant();
        // Rows that are not recorded yet cannot be counted. They will be recorded within milliseconds.
        if self.recount_in(config, instant) != Some(Duration::ZERO) || !self.rows.is_empty() {
            return Ok(());
        }
        let lowest = |id: &i32| self.lowest.get(id).copied().unwrap_or(0);
        let full = config.subscriptions.iter().filter(|(_, s)| is_full(s));
        let of: Vec<(i32, i64)> = full.map(|(id, _)| (*id, lowest(id))).collect();
        let counts = store.count_waiting(&of, 2 * WINDOW, store.now())?;
        let mut drained = false;
        for ((id, from), (rows, first)) in of.into_iter().zip(counts) {
            let Some(subscription) = config.subscriptions.get_mut(&id) else { continue };
            subscription.outstanding = rows;
            drained |= rows < WINDOW / 2;
            self.lowest.insert(id, first.or(subscription.progress.lag()).unwrap_or(from));
        }
        self.counted = Some(instant);
        self.recount_after = if drained { RECOUNT_DRAINED } else { RECOUNT };
        Ok(())
    }

    /// Returns when `recount` is due; `None` if no window seems full.
    pub(crate) fn recount_in(&self, config: &Config, now: Instant) -> Option<Duration> {
        let since = self.counted.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        config.subscriptions.values().any(is_full).then(|| self.recount_after.saturating_sub(since))
    }

    /// Whether the next call of `pass` does its work, however long ago the last one was.
    pub(crate) fn passes_now(&self) -> bool {
        self.passed.is_none()
    }

    /// Makes the next call of `pass` do its work at once.
    pub(crate) fn pass_now(&mut self) {
        self.passed = None;
    }

    /// Whether a pass has freed rows since the last call.
    pub(crate) fn take_promoted(&mut self) -> bool {
        std::mem::take(&mut self.promoted)
    }

    /// Takes back expired leases, ends expired and cancelled deliveries, and unblocks keys. `in_flight` gives the ids of the
    /// rows that the HTTP thread has. Returns the time until the next pass.
    pub(crate) fn pass<S: Store>(
        &mut self,
        store: &mut S,
        in_flight: impl FnOnce() -> Vec<i64>,
        poll: Duration,
    ) -> Result<Duration, Failure> {
        let interval = if self.soon { PASS.min(poll) } else { poll };
        let since = self.passed.map_or(Duration::MAX, |at| store.instant().saturating_duration_since(at));
        if since < interval {
            return Ok(interval - since);
        }
        let in_flight = in_flight();
        let passed = store.pass(PASS_LIMIT, &in_flight, false);
        self.pass_failures = if passed.is_ok() { 0 } else { self.pass_failures + 1 };
        let Passed { more, soon, free } = match passed {
            Err(failure) if !failure.is_transient() && self.pass_failures > WHOLE_TRIES => {
                store.log(format_args!("{failure}; looking at each lease and delivery by itself"));
                store.pass(PASS_LIMIT, &in_flight, true)?
            }
            passed => passed?,
        };
        self.passed = (!more).then(|| store.instant());
        self.soon = soon;
        self.promoted |= free;
        Ok(if more { Duration::ZERO } else { PASS.min(poll) })
    }
}

/// Splits the rows into bundles and single rows. Rows that are due after `time` are single.
pub fn bundled(rows: &[NewRow], time: i64) -> (Vec<Vec<&NewRow>>, Vec<&NewRow>) {
    let plain = |row: &NewRow| {
        row.pull
            && row.priority == 0
            && row.due <= time
            && row.expires.is_none()
            && row.max_attempts.is_none()
            && row.key.is_none()
            && row.payload.is_none()
    };
    let mut bundles = Vec::new();
    let mut single = Vec::new();
    let mut open: BTreeMap<(i32, i16), Vec<&NewRow>> = BTreeMap::new();
    for row in rows {
        if !plain(row) {
            single.push(row);
            continue;
        }
        let bundle = open.entry((row.subscription, row.segment)).or_default();
        if bundle.first().is_some_and(|first| row.position - first.position >= BUNDLE_SPAN) {
            single.append(bundle);
        }
        bundle.push(row);
        if bundle.len() == BUNDLE {
            bundles.push(std::mem::take(bundle));
        }
    }
    let full: HashSet<(i32, i16)> = bundles.iter().map(|bundle| (bundle[0].subscription, bundle[0].segment)).collect();
    for (of, rest) in open {
        // A few rows are better as single rows, which workers need not take apart.
        if full.contains(&of) && rest.len() >= BUNDLE_LEAST { bundles.push(rest) } else { single.extend(rest) }
    }
    (bundles, single)
}

/// When a delivery of this message expires: at the message's own time, or at the end of the subscription's ttl, whichever
/// comes first. The ttl counts from the time when the message could have been delivered.
pub(crate) fn expiry(subscription: &Subscription, stored: &Stored) -> Option<i64> {
    let attributes = &stored.attributes;
    let enqueued = stored.message.enqueued_at - UNIX_EPOCH;
    let from = attributes.deliver_at.map_or(enqueued, |at| at.max(enqueued));
    attributes.expires_at.into_iter().chain(subscription.ttl.map(|ttl| from.saturating_add(ttl))).min()
}

/// The key by which a pull delivery is ordered.
fn order_key(subscription: &Subscription, stored: &Stored) -> Option<Box<str>> {
    match subscription.ordering {
        _ if !subscription.pull => None,
        Ordering::None => None,
        Ordering::Key => stored.message.key.clone(),
        Ordering::Strict => Some("".into()),
    }
}

/// Whether a pull subscription lags because its window seems full.
fn is_full(subscription: &Subscription) -> bool {
    subscription.pull && subscription.progress.lag().is_some() && !has_room(subscription)
}

/// Whether the window has enough room to make a reading of the feed worth its cost.
pub fn has_room(subscription: &Subscription) -> bool {
    subscription.outstanding <= WINDOW - 1000
}

/// After a restart the windows have not been counted, and count as full until then.
pub(crate) fn recover(config: &mut Config) {
    for subscription in config.subscriptions.values_mut().filter(|s| s.pull) {
        subscription.outstanding = UNCOUNTED;
    }
}

/// Whether a lagging pull subscription is work for the dispatcher: its window has room, or has not been counted yet.
pub(crate) fn has_work(subscription: &Subscription) -> bool {
    has_room(subscription) || subscription.outstanding == UNCOUNTED
}
