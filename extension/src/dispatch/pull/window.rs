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

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use pgrx::pg_sys::{
    BOOLARRAYOID, INT2ARRAYOID, INT2OID, INT4ARRAYOID, INT4OID, INT8ARRAYOID, INT8OID, TEXTARRAYOID, TIMESTAMPTZOID,
};

use crate::dispatch::feed::{Stored, UNIX_EPOCH};
use crate::dispatch::outcome::decisions::{Decision, Decisions};
use crate::dispatch::outcome::record::EXPIRED;
use crate::dispatch::pull::ordering::OrderKey;
use crate::dispatch::subscriptions::{Config, Ordering, Subscription};
use crate::pg::txn::{self, Failure, Plan, arg};
use crate::shared::{claim_hints, shmem};
use crate::worker::fault::{Faults, Kind, WHOLE_TRIES, apart};
use crate::worker::now;

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
struct NewRow {
    pull: bool,
    subscription: i32,
    position: i64,
    message_id: i64,
    segment: i16,
    priority: i16,
    due: i64,
    expires: Option<i64>,
    max_attempts: Option<i32>,
    key: Option<Box<str>>,
}

/// A delivery that ended before its first attempt.
struct Ended {
    subscription: i32,
    position: i64,
    message_id: i64,
    segment: i16,
    outcome: &'static str,
}

/// The result for a message that matched a subscription.
#[derive(PartialEq, Eq, Clone, Copy)]
pub enum Accept {
    /// The delivery has a row, or has ended.
    Done,
    /// The window is full: the subscription falls behind.
    Full,
    /// The delivery is to be sent now.
    Send,
}

/// Rows that are to be made, and the dispatcher's data about pull subscriptions.
pub struct Window {
    rows: Vec<NewRow>,
    ended: Vec<Ended>,
    /// Messages that must not be delivered any more; usually empty.
    cancelled: HashSet<i64>,
    count: Plan,
    pass: Plan,
    pass_apart: Plan,
    plans: RowPlans,
    load_cancelled: Plan,
    cancelled_among: Plan,
    end_cancelled_of: Plan,
    notify: Plan,
    /// Subscriptions whose workers are to be notified of the rows that are being recorded.
    tell: Vec<i32>,
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

impl Window {
    pub fn new() -> Window {
        Window {
            rows: Vec::new(),
            ended: Vec::new(),
            cancelled: HashSet::new(),
            plans: RowPlans::new(),
            // The count starts at the newest position: rows below the window have been attempted, or are about to be. The
            // limit bounds the cost of many rows that wait for a retry. The lowest position bounds the cost of index entries
            // whose rows are gone, while somebody holds an old snapshot.
            count: Plan::new(
                "select count(*) filter (where l.state = 'pending' and l.due_at <= $3) + coalesce((
                        select sum(cardinality(b.positions)) from outbox._bundle b
                        where b.subscription_id = $1 and b.lease is null
                    ), 0)::bigint,
                    min(l.position) filter (where l.state = 'pending')
                from (
                    select d.state, d.due_at, d.position from outbox.delivery d
                    where d.subscription_id = $1 and d.position >= $4
                    order by d.position desc
                    limit $2
                ) l",
                &[INT4OID, INT8OID, TIMESTAMPTZOID, INT8OID],
            ),
            pass: Plan::new(
                "select p.more, p.soon, p.free from outbox_internal.router_pass($1, $2) p",
                &[INT4OID, INT8ARRAYOID],
            ),
            pass_apart: Plan::new("select outbox_internal.router_pass_apart($1, $2)", &[INT4OID, INT8ARRAYOID]),
            notify: Plan::new("select outbox_internal.notify_workers($1)", &[INT4ARRAYOID]),
            tell: Vec::new(),
            load_cancelled: Plan::new("select c.message_id from outbox.cancelled c", &[]),
            cancelled_among: Plan::new(
                "select c.message_id from outbox.cancelled c where c.message_id between $1 and $2",
                &[INT8OID, INT8OID],
            ),
            end_cancelled_of: Plan::new("select outbox_internal.end_cancelled($1, '{}')", &[INT8ARRAYOID]),
            lowest: HashMap::new(),
            counted: None,
            recount_after: RECOUNT,
            passed: None,
            pass_failures: 0,
            soon: true,
            promoted: false,
        }
    }

    /// Handles a match: makes a row, or ends the delivery, or leaves the delivery to be sent.
    pub fn accept(&mut self, id: i32, subscription: &mut Subscription, stored: &Stored) -> Accept {
        let (message, attributes) = (&stored.message, &stored.attributes);
        let time = now();
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
        });
        Accept::Done
    }

    /// Makes a blocked row for a delivery of a push subscription that waits for others of its key.
    pub fn block(&mut self, id: i32, stored: &Stored, key: Box<str>, expires: Option<i64>) {
        let (message, attributes) = (&stored.message, &stored.attributes);
        self.rows.push(NewRow {
            pull: false,
            subscription: id,
            position: message.position,
            message_id: message.id,
            segment: stored.segment,
            priority: attributes.priority,
            due: now(),
            expires,
            max_attempts: attributes.max_attempts,
            key: Some(key),
        });
    }

    /// Keys of the unrecorded blocked rows of push subscriptions.
    pub fn blocked_keys(&self) -> impl Iterator<Item = OrderKey> {
        let rows = self.rows.iter().filter(|row| !row.pull);
        rows.filter_map(|row| Some((row.subscription, row.key.clone()?)))
    }

    /// Number of unrecorded blocked rows of a push subscription.
    pub fn blocked(&self, id: i32) -> usize {
        self.rows.iter().filter(|row| !row.pull && row.subscription == id && row.key.is_some()).count()
    }

    /// Whether a message must not be delivered any more.
    pub fn is_cancelled(&self, message_id: i64) -> bool {
        !self.cancelled.is_empty() && self.cancelled.contains(&message_id)
    }

    /// Reads the cancelled messages and returns those that were not cancelled the last time. Inside a transaction.
    pub fn load_cancelled(&mut self) -> HashSet<i64> {
        let rows = self.load_cancelled.execute(&[]);
        let before = std::mem::take(&mut self.cancelled);
        let mut new = HashSet::new();
        rows.for_each(|row| {
            let id = row.int(0);
            if !before.contains(&id) {
                new.insert(id);
            }
            self.cancelled.insert(id);
        });
        new
    }

    /// Notes which of these messages are cancelled, in the transaction that reads them. A message that was cancelled by the
    /// transaction that enqueued it is visible before that session has woken the dispatcher.
    pub fn load_cancelled_among(&mut self, messages: &[Stored]) {
        let ids = || messages.iter().map(|stored| stored.message.id);
        if let (Some(from), Some(to)) = (ids().min(), ids().max()) {
            let rows = self.cancelled_among.execute(&[arg(from), arg(to)]);
            rows.for_each(|row| {
                let id = row.int(0);
                // Only these messages, none of which has been sent: `load_cancelled` has to report others to the sender as
                // new.
                if messages.iter().any(|stored| stored.message.id == id) {
                    self.cancelled.insert(id);
                }
            });
        }
    }

    /// Number of rows, and of deliveries that ended without a row, that are not recorded yet.
    pub fn rows(&self) -> usize {
        self.rows.len() + self.ended.len()
    }

    /// Subscription and due time of the unrecorded rows that are to be pushed.
    pub fn pushed(&self) -> impl Iterator<Item = (i32, i64)> {
        self.rows.iter().filter(|r| !r.pull).map(|r| (r.subscription, r.due))
    }

    /// Writes the rows. Inside the transaction of the checkpoint. `failed` names the messages of other rows that this
    /// transaction has made or changed. A session that cancelled a message meanwhile could not see its row, so the row is
    /// ended here.
    pub fn record(&mut self, failed: impl Iterator<Item = i64>) {
        self.plans.open_rows(&self.rows);
        self.tell = self.plans.opened(&self.rows);
        self.plans.end(&self.ended);
        self.end_cancelled(failed);
    }

    /// Writes the rows, and item by item where something fails. A delivery whose row cannot be made becomes a dead letter.
    pub fn record_apart(
        &mut self,
        failed: impl Iterator<Item = i64>,
        decisions: &mut Decisions,
        faults: &mut Faults,
    ) -> Result<(), Failure> {
        let Window { rows, ended, plans, .. } = self;
        let without_row = apart(rows, &mut |rows| {
            plans.open_rows(rows);
            Ok(())
        })?;
        // From the last to the first, so that removing a row does not move the ones that are still to be removed.
        for (place, failure) in without_row.into_iter().rev() {
            let row = rows.remove(place);
            let of = (row.position, row.message_id);
            decisions.push(Decision::unrecordable(row.subscription, of, row.segment, &failure));
        }
        for (place, failure) in apart(ended, &mut |ended| {
            plans.end(ended);
            Ok(())
        })? {
            faults.found(Kind::Message, ended[place].message_id, "record", &failure);
        }
        self.tell = self.plans.opened(&self.rows);
        self.end_cancelled(failed);
        Ok(())
    }

    /// Ends deliveries that were cancelled while their rows were being made or changed.
    fn end_cancelled(&mut self, failed: impl Iterator<Item = i64>) {
        let messages: Vec<i64> = self.rows.iter().map(|r| r.message_id).chain(failed).collect();
        if !messages.is_empty() {
            let ended = self.end_cancelled_of.execute(&[arg(messages)]).first(|row| row.int(0)).unwrap_or(0);
            if ended > 0 {
                self.pass_now();
            }
        }
    }

    /// Called when the transaction has committed. Returns whether there are rows for workers.
    pub fn recorded(&mut self) -> bool {
        // The earliest due time of each subscription and priority. Rows are in order of time, except those that are due
        // later.
        let mut made = HashMap::new();
        for row in self.rows.drain(..).filter(|row| row.pull) {
            made.entry((row.subscription, i32::from(row.priority)))
                .and_modify(|due: &mut i64| *due = row.due.min(*due))
                .or_insert(row.due);
        }
        for ((subscription, level), due) in &made {
            claim_hints::made(*subscription, *level, *due);
            claim_hints::made(-subscription, *level, *due);
        }
        let made = !made.is_empty();
        self.ended.clear();
        made
    }

    /// Wakes workers that wait for something to claim: sessions in `claim_wait` directly, and workers of subscriptions that
    /// ask for it by NOTIFY. The NOTIFY has a transaction of its own, because it takes a lock that all committers share.
    pub fn tell_workers(&mut self) {
        if let Some(shared) = shmem::shared() {
            // SAFETY: a constant of this process.
            shared.wake_waiters(unsafe { pgrx::pg_sys::MyDatabaseId });
        }
        if !self.tell.is_empty() {
            let (notify, tell) = (&mut self.notify, std::mem::take(&mut self.tell));
            let told = txn::run(|| {
                notify.execute(&[arg(tell)]);
                Ok(())
            });
            // A notification is a hint: a failed one is not repeated, because workers poll as well.
            if let Err(failure) = told {
                pgrx::log!("pg_outbox dispatcher: workers were not notified: {failure}");
            }
        }
    }

    /// Counts the rows of all pull subscriptions. Inside a transaction.
    pub fn count_all(&mut self, config: &mut Config) {
        for (id, subscription) in config.subscriptions.iter_mut().filter(|(_, s)| s.pull) {
            let args = [arg(*id), arg(2 * WINDOW as i64), arg(now()), arg(0i64)];
            let rows = self.count.execute(&args).first(|row| row.int(0));
            subscription.outstanding = usize::try_from(rows.unwrap_or(0)).unwrap_or(0);
        }
    }

    /// Counts the rows of subscriptions whose window seems full, if a count is due.
    pub fn recount(&mut self, config: &mut Config) -> Result<(), Failure> {
        // Rows that are not recorded yet cannot be counted. They will be recorded within milliseconds.
        if self.recount_in(config) != Some(Duration::ZERO) || !self.rows.is_empty() {
            return Ok(());
        }
        let (count, lowest) = (&mut self.count, &mut self.lowest);
        let mut drained = false;
        txn::run(|| {
            for (id, subscription) in config.subscriptions.iter_mut().filter(|(_, s)| is_full(s)) {
                let from = lowest.get(id).copied().unwrap_or(0);
                let args = [arg(*id), arg(2 * WINDOW as i64), arg(now()), arg(from)];
                let found = count.execute(&args).first(|row| (row.int(0), row.get::<i64>(1)));
                let (rows, first) = found.unwrap_or_default();
                subscription.outstanding = usize::try_from(rows).unwrap_or(0);
                drained |= subscription.outstanding < WINDOW / 2;
                lowest.insert(*id, first.or(subscription.progress.lag()).unwrap_or(from));
            }
            Ok(())
        })?;
        self.counted = Some(Instant::now());
        self.recount_after = if drained { RECOUNT_DRAINED } else { RECOUNT };
        Ok(())
    }

    /// Returns when `recount` is due; `None` if no window seems full.
    pub fn recount_in(&self, config: &Config) -> Option<Duration> {
        let since = self.counted.map_or(Duration::MAX, |at| at.elapsed());
        config.subscriptions.values().any(is_full).then(|| self.recount_after.saturating_sub(since))
    }

    /// Whether the next call of `pass` does its work, however long ago the last one was.
    pub fn passes_now(&self) -> bool {
        self.passed.is_none()
    }

    /// Makes the next call of `pass` do its work at once.
    pub fn pass_now(&mut self) {
        self.passed = None;
    }

    /// Whether a pass has freed rows since the last call.
    pub fn take_promoted(&mut self) -> bool {
        std::mem::take(&mut self.promoted)
    }

    /// Takes back expired leases, ends expired and cancelled deliveries, and unblocks keys. `in_flight` gives the ids of the
    /// rows that the HTTP thread has. Returns the time until the next pass.
    pub fn pass(&mut self, in_flight: impl FnOnce() -> Vec<i64>, poll: Duration) -> Result<Duration, Failure> {
        let interval = if self.soon { PASS.min(poll) } else { poll };
        let since = self.passed.map_or(Duration::MAX, |at| at.elapsed());
        if since < interval {
            return Ok(interval - since);
        }
        let Window { pass, pass_apart, pass_failures, .. } = self;
        let in_flight = in_flight();
        let passed = txn::run(|| {
            let rows = pass.execute(&[arg(PASS_LIMIT), arg(in_flight.as_slice())]);
            Ok(rows
                .first(|row| (row.get(0).unwrap_or(false), row.get(1).unwrap_or(false), row.int(2) > 0))
                .unwrap_or_default())
        });
        *pass_failures = if passed.is_ok() { 0 } else { *pass_failures + 1 };
        let (more, soon, free) = match passed {
            Err(failure) if !failure.is_transient() && *pass_failures > WHOLE_TRIES => {
                pgrx::log!("pg_outbox dispatcher: {failure}; looking at each lease and delivery by itself");
                txn::run(|| {
                    pass_apart.execute(&[arg(PASS_LIMIT), arg(in_flight.as_slice())]);
                    Ok((false, true, true))
                })?
            }
            passed => passed?,
        };
        self.passed = (!more).then(Instant::now);
        self.soon = soon;
        if free {
            self.promoted = true;
            self.tell_workers();
        }
        Ok(if more { Duration::ZERO } else { PASS.min(poll) })
    }
}

/// Statements that make rows, and end deliveries without a row.
struct RowPlans {
    open: Plan,
    open_bundle: Plan,
    opened: Plan,
    end: Plan,
}

impl RowPlans {
    const fn new() -> RowPlans {
        RowPlans {
            open: Plan::new(
                "select outbox_internal.open_deliveries($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                &[
                    BOOLARRAYOID,
                    INT4ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT2ARRAYOID,
                    INT2ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT4ARRAYOID,
                    TEXTARRAYOID,
                ],
            ),
            open_bundle: Plan::new(
                "select outbox_internal.open_bundle($1, $2, $3, $4, $5)",
                &[INT4OID, INT2OID, INT8OID, INT8ARRAYOID, INT8ARRAYOID],
            ),
            opened: Plan::new(
                "select outbox_internal.subscriptions_with_deliveries($1, $2)",
                &[INT4ARRAYOID, INT8ARRAYOID],
            ),
            end: Plan::new(
                "select outbox_internal.record_ended($1, $2, $3, $4, $5)",
                &[INT4ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, INT2ARRAYOID, TEXTARRAYOID],
            ),
        }
    }

    fn open_rows(&mut self, rows: &[NewRow]) {
        let (bundles, rows) = bundled(rows);
        for bundle in bundles {
            self.open_bundle.execute(&[
                arg(bundle[0].subscription),
                arg(bundle[0].segment),
                arg(bundle[0].due),
                arg(bundle.iter().map(|r| r.position).collect::<Vec<i64>>()),
                arg(bundle.iter().map(|r| r.message_id).collect::<Vec<i64>>()),
            ]);
        }
        if !rows.is_empty() {
            self.open.execute(&[
                arg(rows.iter().map(|r| r.pull).collect::<Vec<bool>>()),
                arg(rows.iter().map(|r| r.subscription).collect::<Vec<i32>>()),
                arg(rows.iter().map(|r| r.position).collect::<Vec<i64>>()),
                arg(rows.iter().map(|r| r.message_id).collect::<Vec<i64>>()),
                arg(rows.iter().map(|r| r.segment).collect::<Vec<i16>>()),
                arg(rows.iter().map(|r| r.priority).collect::<Vec<i16>>()),
                arg(rows.iter().map(|r| r.due).collect::<Vec<i64>>()),
                arg(rows.iter().map(|r| r.expires).collect::<Vec<_>>()),
                arg(rows.iter().map(|r| r.max_attempts).collect::<Vec<_>>()),
                arg(rows.iter().map(|r| r.key.as_deref()).collect::<Vec<_>>()),
            ]);
        }
    }

    /// Called after rows have been made. Returns the subscriptions whose workers are to be notified.
    fn opened(&mut self, rows: &[NewRow]) -> Vec<i32> {
        if rows.is_empty() {
            return Vec::new();
        }
        let subscriptions: HashSet<i32> = rows.iter().map(|r| r.subscription).collect();
        let messages: Vec<i64> = rows.iter().map(|r| r.message_id).collect();
        let told = self.opened.execute(&[arg(Vec::from_iter(subscriptions)), arg(messages)]);
        told.first(|row| row.get::<Vec<i32>>(0)).flatten().unwrap_or_default()
    }

    fn end(&mut self, ended: &[Ended]) {
        if !ended.is_empty() {
            self.end.execute(&[
                arg(ended.iter().map(|r| r.subscription).collect::<Vec<i32>>()),
                arg(ended.iter().map(|r| r.position).collect::<Vec<i64>>()),
                arg(ended.iter().map(|r| r.message_id).collect::<Vec<i64>>()),
                arg(ended.iter().map(|r| r.segment).collect::<Vec<i16>>()),
                arg(ended.iter().map(|r| r.outcome).collect::<Vec<_>>()),
            ]);
        }
    }
}

/// Splits the rows into bundles and single rows.
fn bundled(rows: &[NewRow]) -> (Vec<Vec<&NewRow>>, Vec<&NewRow>) {
    let time = now();
    let plain = |row: &NewRow| {
        row.pull
            && row.priority == 0
            && row.due <= time
            && row.expires.is_none()
            && row.max_attempts.is_none()
            && row.key.is_none()
    };
    let mut bundles = Vec::new();
    let mut single = Vec::new();
    let mut open: HashMap<(i32, i16), Vec<&NewRow>> = HashMap::new();
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
pub fn expiry(subscription: &Subscription, stored: &Stored) -> Option<i64> {
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
pub fn recover(config: &mut Config) {
    for subscription in config.subscriptions.values_mut().filter(|s| s.pull) {
        subscription.outstanding = UNCOUNTED;
    }
}

/// Whether a lagging pull subscription is work for the dispatcher: its window has room, or has not been counted yet.
pub fn has_work(subscription: &Subscription) -> bool {
    has_room(subscription) || subscription.outstanding == UNCOUNTED
}
