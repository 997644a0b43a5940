//! Pull subscriptions: what is routed to them becomes rows of outbox.delivery, which workers claim.
//!
//! Invariants:
//! * A row is made in the transaction of the checkpoint that says that its position was looked at: a crash neither loses nor
//!   doubles it.
//! * A subscription has about `WINDOW` rows that wait for their first try, however long its backlog is: beyond that it
//!   lags, as a slow push subscription does, and re-reads the feed when workers have made room.

use std::time::{Duration, Instant};

use pgrx::pg_sys::{INT2ARRAYOID, INT4ARRAYOID, INT4OID, INT8ARRAYOID, INT8OID, TEXTARRAYOID};

use super::config::{Config, Ordering, Pull, Subscription};
use super::now;
use super::route::Stored;
use super::txn::{self, Plan, arg};

/// Rows of a subscription that wait for their first try.
pub const WINDOW: usize = 10_000;
/// How often a full window is looked at again, and how often expired leases are looked for while there are leases.
const RECOUNT: Duration = Duration::from_millis(100);
const PASS: Duration = Duration::from_secs(1);
/// Leases taken back in one transaction.
const PASS_LIMIT: i32 = 1000;

/// A row of outbox.delivery to be.
struct NewRow {
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

/// What the dispatcher knows about pull subscriptions.
pub struct Window {
    rows: Vec<NewRow>,
    open: Plan,
    count: Plan,
    pass: Plan,
    counted: Option<Instant>,
    passed: Option<Instant>,
    /// The last pass saw leases, or left something undone.
    soon: bool,
}

impl Window {
    pub const fn new() -> Window {
        Window {
            rows: Vec::new(),
            open: Plan::new(
                "select outbox._open_pull($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                &[
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
            // From the newest end: what is behind it has been tried, or is about to be. The limit bounds what many rows that
            // wait for a retry can cost.
            count: Plan::new(
                "select count(*) filter (where l.state <> 'failed') from (
                    select d.state from outbox.delivery d
                    where d.subscription_id = $1
                    order by d.position desc
                    limit $2
                ) l",
                &[INT4OID, INT8OID],
            ),
            pass: Plan::new("select p.more, p.leased from outbox._pull_pass($1) p", &[INT4OID]),
            counted: None,
            passed: None,
            soon: true,
        }
    }

    /// Takes a message for a subscription; `false`: its window is full.
    pub fn take(&mut self, id: i32, pull: Pull, subscription: &mut Subscription, stored: &Stored) -> bool {
        if subscription.handed >= WINDOW {
            return false;
        }
        subscription.handed += 1;
        let (message, attributes) = (&stored.message, &stored.attributes);
        let from = message.enqueued_at - super::route::UNIX_EPOCH;
        let from = attributes.deliver_at.map_or(from, |at| at.max(from));
        let by_ttl = pull.ttl.map(|ttl| from.saturating_add(ttl));
        self.rows.push(NewRow {
            subscription: id,
            position: message.position,
            message_id: message.id,
            segment: stored.segment,
            priority: attributes.priority,
            due: attributes.deliver_at.map_or_else(now, |at| at.max(now())),
            expires: attributes.expires_at.into_iter().chain(by_ttl).min(),
            max_attempts: attributes.max_attempts,
            key: match pull.ordering {
                Ordering::None => None,
                Ordering::Key => message.key.clone(),
                Ordering::Strict => Some("".into()),
            },
        });
        true
    }

    /// Rows that are not recorded yet.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Writes the rows. Inside the transaction of the checkpoint.
    pub fn record(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        let rows = &self.rows;
        self.open.execute(&[
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

    /// The transaction has committed.
    pub fn recorded(&mut self) {
        self.rows.clear();
    }

    /// Counts the rows of subscriptions whose window seems full. Says when to look again; `None`: none is.
    pub fn recount(&mut self, config: &mut Config) -> Result<Option<Duration>, String> {
        let full = |s: &Subscription| s.pull.is_some() && s.progress.lag().is_some() && !has_room(s);
        if !config.subscriptions.values().any(full) {
            return Ok(None);
        }
        let since = self.counted.map_or(Duration::MAX, |at| at.elapsed());
        // What is not recorded yet cannot be counted: it will be within milliseconds.
        if since >= RECOUNT && self.rows.is_empty() {
            let count = &mut self.count;
            txn::run(|| {
                for (id, subscription) in config.subscriptions.iter_mut().filter(|(_, s)| full(s)) {
                    let rows = count.execute(&[arg(*id), arg(2 * WINDOW as i64)]).first(|row| row.int(0)).unwrap_or(0);
                    subscription.handed = usize::try_from(rows).unwrap_or(0);
                }
                Ok(())
            })?;
            self.counted = Some(Instant::now());
            return Ok(Some(RECOUNT));
        }
        Ok(Some(RECOUNT.saturating_sub(since).max(Duration::from_millis(1))))
    }

    /// Takes back expired leases. Says when to look again.
    pub fn pass(&mut self, config: &Config, poll: Duration) -> Result<Duration, String> {
        if !config.subscriptions.values().any(|s| s.pull.is_some()) {
            return Ok(poll);
        }
        let interval = if self.soon { PASS.min(poll) } else { poll };
        let since = self.passed.map_or(Duration::MAX, |at| at.elapsed());
        if since < interval {
            return Ok(interval - since);
        }
        let pass = &mut self.pass;
        let (more, leased) = txn::run(|| {
            let rows = pass.execute(&[arg(PASS_LIMIT)]);
            Ok(rows.first(|row| (row.get(0).unwrap_or(false), row.get(1).unwrap_or(false))).unwrap_or_default())
        })?;
        self.passed = (!more).then(Instant::now);
        self.soon = leased;
        Ok(if more { Duration::ZERO } else { PASS.min(poll) })
    }
}

/// Whether a lagging pull subscription has room for a reading of the feed that is worth it.
pub fn has_room(subscription: &Subscription) -> bool {
    subscription.handed + 1000 <= WINDOW
}

/// After a restart nobody knows how full the windows are: full, until they are counted.
pub fn recover(config: &mut Config) {
    for subscription in config.subscriptions.values_mut().filter(|s| s.pull.is_some()) {
        subscription.handed = WINDOW;
    }
}
