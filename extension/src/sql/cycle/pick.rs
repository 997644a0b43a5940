//! The search for the deliveries of a claim.

use std::time::Duration;

use outbox_core::Result;
use pgrx::IntoDatum;
use pgrx::pg_sys::{self, Datum};

use super::{EQUAL, bundle, delivery, kept};
use crate::pg::scan::{Direction, Indexed, between, in_order, key};
use crate::pg::table::{Table, Test};
use crate::pg::{catalog, shape};
use crate::shared::claim_hints;
use crate::sql::claim::{hint_lifetime, slow_walk};

/// A scan is slow from this CPU time on (and some for each delivery found): a scan without useless entries takes a tenth.
const SLOW: Duration = Duration::from_micros(150);

/// A delivery that was leased.
pub(super) struct Taken {
    pub(super) id: i64,
    pub(super) position: i64,
    pub(super) run: i64,
    pub(super) message: i64,
    pub(super) segment: i16,
    pub(super) priority: Option<Datum>,
    pub(super) attempt: i32,
    pub(super) max_attempts: Option<Datum>,
    pub(super) expires_at: Option<Datum>,
    pub(super) last_attempt_at: Option<Datum>,
    pub(super) last_error: Option<Datum>,
    pub(super) new_id: bool,
    pub(super) payload: Option<Datum>,
}

/// The condition that a time is not before a hint; 0: there is no hint.
fn from(column: usize, since: i64) -> pg_sys::ScanKeyData {
    let since = if since > 0 { since } else { i64::MIN };
    key(column, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_TIMESTAMPTZ_GE, since)
}

/// A search for deliveries that are due, see pull/pick.sql.
pub(super) struct Pick<'a> {
    pub(super) deliveries: &'a Table,
    pub(super) bundles: &'a Table,
    pub(super) snapshot: pg_sys::Snapshot,
    pub(super) subscription: i32,
    pub(super) wanted: usize,
    pub(super) lease: i64,
    pub(super) now: i64,
    pub(super) taken: Vec<Taken>,
    /// Whole bundles were taken.
    pub(super) bundled: bool,
}

impl Pick<'_> {
    /// Leases deliveries with rows of their own or, if none of them is next, bundles. `bundles_since`: the hint for bundles.
    /// Returns `false` if an index cannot be used, or a bundle has to be split into rows.
    pub(super) fn pick(&mut self, hints: Option<(Vec<i32>, Vec<i64>)>, bundles_since: i64) -> Result<bool> {
        use delivery::{BLOCKED, DUE_AT, POSITION, PRIORITY, PULL, STATE, SUBSCRIPTION};
        let conditions = [Test::True(PULL), Test::TextNot(STATE, b"processing".to_vec()), Test::False(BLOCKED)];
        let keys = [SUBSCRIPTION, PRIORITY, DUE_AT, POSITION];
        let Some(ready) = self.deliveries.named("delivery_ready", &keys, &conditions) else { return Ok(false) };
        let keys = [bundle::SUBSCRIPTION, bundle::DUE_AT, bundle::ID];
        let Some(by_due) = self.bundles.named("_bundle_ready", &keys, &[Test::Null(bundle::LEASE)]) else {
            return Ok(false);
        };
        let cancelled = Indexed::open("cancelled", shape::CANCELLED, "cancelled_pkey", &[0], &[])?;
        let Some(cancelled) = cancelled else { return Ok(false) };
        // SAFETY: the table is open.
        let none_cancelled =
            unsafe { pg_sys::RelationGetNumberOfBlocksInFork(cancelled.table, pg_sys::ForkNumber::MAIN_FORKNUM) == 0 };
        let mut before = i64::MAX;
        // SAFETY: table and index are open.
        unsafe {
            let (table, mut keys) = (self.bundles.relation(), self.bundles_from(bundles_since));
            in_order(table, by_due, self.snapshot, &mut keys, Direction::Forward, &mut |_, row| {
                before = row.int(bundle::DUE_AT);
                false
            });
        }
        let cancelled_or_none = (!none_cancelled).then_some(&cancelled);
        self.pick_rows(ready, hints, before, cancelled_or_none);
        let mut usable = true;
        if self.taken.is_empty() && before < i64::MAX {
            usable = self.pick_bundles(ready, by_due, bundles_since, before, cancelled_or_none)?;
        }
        cancelled.close();
        Ok(usable)
    }

    fn bundles_from(&self, since: i64) -> [pg_sys::ScanKeyData; 2] {
        [key(bundle::SUBSCRIPTION, EQUAL, pg_sys::F_INT4EQ, self.subscription), from(bundle::DUE_AT, since)]
    }

    /// Leases deliveries by priority, and stores hints. `before`: when the first bundle became due.
    fn pick_rows(
        &mut self,
        ready: pg_sys::Relation,
        hints: Option<(Vec<i32>, Vec<i64>)>,
        before: i64,
        cancelled: Option<&Indexed>,
    ) {
        let mut known = hints.map(|(levels, since)| levels.into_iter().zip(since));
        let (mut levels, mut since): (Vec<i32>, Vec<i64>) = (vec![], vec![]);
        let mut complete = false;
        while self.taken.len() < self.wanted {
            let hint = match &mut known {
                Some(hints) => match hints.next() {
                    Some((claim_hints::MORE, _)) => {
                        // There are lower priorities, and now they are needed: the scan goes on as if there were no hints.
                        known = None;
                        None
                    }
                    Some(hint) => Some(hint),
                    None => break,
                },
                None => None,
            };
            let Some((level, first)) = hint.or_else(|| Some((self.next_level(ready, levels.last().copied())?, 0)))
            else {
                complete = true;
                break;
            };
            // Bundles have priority 0.
            if level < 0 && before < i64::MAX {
                break;
            }
            let until = if level == 0 { self.now.min(before) } else { self.now };
            let last = self.take(ready, level, first, until, cancelled);
            levels.push(level);
            // A row becomes visible a little after it became due.
            since.push(before.min(first.max(last.unwrap_or(self.now - 1_000_000))));
        }
        if !self.taken.is_empty() {
            if known.is_some() {
                claim_hints::advance(self.subscription, &levels, &since);
            } else if let Some(walked) = slow_walk(SLOW, self.taken.len()) {
                if !complete {
                    levels.push(claim_hints::MORE);
                    since.push(0);
                }
                claim_hints::set(self.subscription, &levels, &since, hint_lifetime(walked));
            }
        }
    }

    /// Leases whole bundles, or the first part of one, see outbox_internal.pick_bundles(). Returns `false` if the first bundle
    /// has to be split into rows.
    fn pick_bundles(
        &mut self,
        ready: pg_sys::Relation,
        by_due: pg_sys::Relation,
        since: i64,
        first_due: i64,
        cancelled: Option<&Indexed>,
    ) -> Result<bool> {
        /// Deliveries of a full bundle, and the fewest that a part of one has.
        const BUNDLE: usize = 100;
        const PART: usize = 10;
        let bundles = self.bundles;
        // Rows that became due after the first bundle are claimed after it, but before later bundles.
        let mut rows_due = None;
        let mut keys = [
            self.of_subscription(),
            key(delivery::PRIORITY, EQUAL, pg_sys::F_INT2EQ, 0i16),
            from(delivery::DUE_AT, first_due),
            key(delivery::DUE_AT, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_TIMESTAMPTZ_LE, self.now),
        ];
        // SAFETY: table and index are open.
        unsafe {
            let table = self.deliveries.relation();
            in_order(table, ready, self.snapshot, &mut keys, Direction::Forward, &mut |_, row| {
                rows_due = row.get::<i64>(delivery::DUE_AT);
                false
            });
        }
        let (mut locked, mut usable, mut part) = (0, true, None);
        let mut keys = self.bundles_from(since);
        // SAFETY: table and index are open; a tuple is used while the scan stands on it, and each value has its column's type.
        unsafe {
            in_order(bundles.relation(), by_due, self.snapshot, &mut keys, Direction::Forward, &mut |tuple, row| {
                let ids = |column: usize| row.get::<Vec<i64>>(column).unwrap_or_default();
                let (members, messages) = (ids(bundle::DELIVERY_IDS), ids(bundle::MESSAGE_IDS));
                let due = row.int(bundle::DUE_AT);
                let segment = row.get::<i16>(bundle::SEGMENT).unwrap_or(-1);
                if locked == 0
                    && let Some(walked) = slow_walk(SLOW, 0)
                {
                    claim_hints::set(-self.subscription, &[0], &[due], hint_lifetime(walked));
                }
                let (low, high) =
                    messages.iter().fold((i64::MAX, i64::MIN), |(low, high), id| (low.min(*id), high.max(*id)));
                let split = cancelled.is_some_and(|cancelled| self.lists(cancelled, low, high));
                let first = self.taken.is_empty();
                if split || first && members.len() > self.wanted && self.wanted < PART {
                    usable = !first;
                    return false;
                }
                let lease = self.lease.into_datum();
                let positions = ids(bundle::POSITIONS);
                if first && members.len() > self.wanted {
                    // No indexed column changes, so the new version stays on its page (HOT).
                    let rest = |ids: &[i64]| ids[self.wanted.min(ids.len())..].to_vec().into_datum();
                    let changes = [
                        (bundle::DELIVERY_IDS, rest(&members)),
                        (bundle::POSITIONS, rest(&positions)),
                        (bundle::MESSAGE_IDS, rest(&messages)),
                    ];
                    if !bundles.update(tuple, &changes) {
                        return true;
                    }
                    let mine = |ids: &[i64]| ids[..self.wanted.min(ids.len())].to_vec().into_datum();
                    part = Some([
                        None,
                        self.subscription.into_datum(),
                        row.datum(bundle::DUE_AT),
                        segment.into_datum(),
                        kept(row.datum(bundle::DELIVERIES)),
                        kept(row.datum(bundle::MESSAGES)),
                        mine(&members),
                        mine(&positions),
                        mine(&messages),
                        lease,
                    ]);
                    claim_hints::put_back(-self.subscription, 0, due);
                    self.take_bundle(&members[..self.wanted], &positions, &messages, segment);
                    return false;
                }
                if self.taken.len() + members.len() > self.wanted
                    || self.taken.last().is_some_and(|last| last.segment != segment)
                    || !first && rows_due.is_some_and(|rows| due > rows)
                {
                    return false;
                }
                if bundles.update(tuple, &[(bundle::LEASE, lease)]) {
                    locked += 1;
                    self.take_bundle(&members, &positions, &messages, segment);
                }
                locked < (self.wanted / BUNDLE).max(1)
            });
        }
        if let Some(mut part) = part {
            part[0] = catalog::next_value(catalog::lookup("_bundle_id_seq")?).into_datum();
            bundles.append_row(part);
        }
        self.bundled = !self.taken.is_empty();
        Ok(usable)
    }

    fn take_bundle(&mut self, deliveries: &[i64], positions: &[i64], messages: &[i64], segment: i16) {
        for ((id, position), message) in deliveries.iter().zip(positions).zip(messages) {
            self.taken.push(Taken {
                id: *id,
                position: *position,
                run: 0,
                message: *message,
                segment,
                priority: 0i16.into_datum(),
                attempt: 1,
                max_attempts: None,
                expires_at: None,
                last_attempt_at: None,
                last_error: None,
                new_id: false,
                payload: None,
            });
        }
    }

    /// The highest priority below `level` that has deliveries.
    fn next_level(&self, ready: pg_sys::Relation, level: Option<i32>) -> Option<i32> {
        let mut keys = [self.of_subscription(), self.of_subscription()];
        let count = level.map_or(1, |level| {
            let (column, below) = (delivery::PRIORITY, pg_sys::BTLessStrategyNumber);
            keys[1] = key(column, below, pg_sys::F_INT2LT, level as i16);
            2
        });
        let mut found = None;
        // SAFETY: table and index are open.
        unsafe {
            let table = self.deliveries.relation();
            in_order(table, ready, self.snapshot, &mut keys[..count], Direction::Backward, &mut |_, row| {
                found = row.get::<i16>(delivery::PRIORITY).map(i32::from);
                false
            });
        }
        found
    }

    fn of_subscription(&self) -> pg_sys::ScanKeyData {
        key(delivery::SUBSCRIPTION, EQUAL, pg_sys::F_INT4EQ, self.subscription)
    }

    /// Leases deliveries of one priority that became due in this time, and returns when the last of them did.
    fn take(
        &mut self,
        ready: pg_sys::Relation,
        level: i32,
        first: i64,
        until: i64,
        cancelled: Option<&Indexed>,
    ) -> Option<i64> {
        let mut keys = [
            self.of_subscription(),
            key(delivery::PRIORITY, EQUAL, pg_sys::F_INT2EQ, level as i16),
            from(delivery::DUE_AT, first),
            key(delivery::DUE_AT, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_TIMESTAMPTZ_LE, until),
        ];
        let processing = "processing".into_datum();
        let mut last = None;
        // SAFETY: table and index are open; a tuple is used while the scan stands on it, and each value has its column's type.
        unsafe {
            let table = self.deliveries.relation();
            in_order(table, ready, self.snapshot, &mut keys, Direction::Forward, &mut |tuple, row| {
                let message = row.int(delivery::MESSAGE);
                if row.get::<i64>(delivery::EXPIRES_AT).is_some_and(|at| at <= self.now)
                    || cancelled.is_some_and(|cancelled| self.lists(cancelled, message, message))
                {
                    return true;
                }
                let (now, attempt) = (self.now.into_datum(), row.get::<i32>(delivery::ATTEMPT).unwrap_or(0) + 1);
                let changes = [
                    (delivery::STATE, processing),
                    (delivery::ATTEMPT, attempt.into_datum()),
                    (delivery::LEASE, self.lease.into_datum()),
                    (delivery::UPDATED_AT, now),
                    (delivery::LAST_ATTEMPT_AT, now),
                    (delivery::FIRST_ATTEMPT_AT, row.datum(delivery::FIRST_ATTEMPT_AT).or(now)),
                ];
                if !self.deliveries.update(tuple, &changes) {
                    return true;
                }
                last = row.get(delivery::DUE_AT);
                self.taken.push(Taken {
                    id: row.int(delivery::ID),
                    position: row.int(delivery::POSITION),
                    run: row.int(delivery::RUN),
                    message,
                    segment: row.get(delivery::SEGMENT).unwrap_or(-1),
                    priority: row.datum(delivery::PRIORITY),
                    attempt,
                    max_attempts: row.datum(delivery::MAX_ATTEMPTS),
                    expires_at: row.datum(delivery::EXPIRES_AT),
                    last_attempt_at: row.datum(delivery::LAST_ATTEMPT_AT),
                    last_error: kept(row.datum(delivery::LAST_ERROR)),
                    new_id: row.get(delivery::NEW_ID) == Some(true),
                    payload: kept(row.datum(delivery::PAYLOAD)),
                });
                self.taken.len() < self.wanted
            });
        }
        last
    }

    /// Whether one of these messages was cancelled.
    fn lists(&self, cancelled: &Indexed, low: i64, high: i64) -> bool {
        let mut listed = false;
        cancelled.rows(self.snapshot, &mut between(0, low, high), &mut |_| {
            listed = true;
            false
        });
        listed
    }
}
