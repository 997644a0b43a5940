//! A claim: the subscription, its next deliveries, their lease.

use outbox_core::Result;
use pgrx::IntoDatum;
use pgrx::pg_sys::{self, Datum};

use super::pick::Pick;
use super::returned::return_rows;
use super::{EQUAL, Tables, now, release, snapshot, subscription};
use crate::pg::function::{Args, Returned};
use crate::pg::scan::{Indexed, key};
use crate::pg::shape;
use crate::shared::claim_hints;
use crate::sql::claim::{lease_id, new_lease};

const MICROS_PER_DAY: i128 = 24 * 3600 * 1_000_000;
/// Longest lease, as in check_claim().
const LONGEST_LEASE: i128 = 7 * MICROS_PER_DAY;

/// The parts of a subscription that a claim needs.
pub(super) struct Source {
    id: i32,
    pub(super) max_attempts: Option<Datum>,
    deadline: Option<pg_sys::Interval>,
}

/// Claims with the arguments from `first` on: subscription, worker, max_messages, lease. `None`: nothing was claimed.
pub(super) fn take(tables: &Tables, args: Args, first: usize) -> Result<Returned> {
    let (Some(name), Some(worker), Some(wanted), Some(duration)) =
        (args.get::<&[u8]>(first), args.get::<&[u8]>(first + 1), args.get::<i32>(first + 2), args.datum(first + 3))
    else {
        return Ok(None);
    };
    // SAFETY: by the SQL declaration.
    let duration = unsafe { *duration.cast_mut_ptr::<pg_sys::Interval>() };
    if !args.takes_rows()
        || !(1..=255).contains(&worker.len())
        || !(1..=10_000).contains(&wanted)
        || !(1..=LONGEST_LEASE).contains(&micros(&duration))
    {
        return Ok(None);
    }
    let Some(id) = std::str::from_utf8(name).ok().and_then(claim_hints::named) else { return Ok(None) };
    // The hints are older than the snapshot.
    let rows = claim_hints::get(id);
    let bundles = claim_hints::get(-id).and_then(|(_, since)| since.first().copied());
    let seen = snapshot();
    let token = new_lease()?;
    let mut pick = Pick {
        deliveries: &tables.deliveries,
        bundles: &tables.bundles,
        snapshot: seen,
        subscription: id,
        wanted: wanted as usize,
        lease: lease_id(token)?,
        now: now(),
        taken: Vec::new(),
        bundled: false,
    };
    let Some(source) = source(id, name, seen)? else {
        release(seen);
        return Ok(None);
    };
    if !pick.pick(rows, bundles.unwrap_or(0))? || pick.taken.is_empty() {
        release(seen);
        return Ok(None);
    }

    let deadline_at = source.deadline.map(|deadline| later(pick.now, &deadline));
    let shorter = source.deadline.filter(|deadline| micros(deadline) < micros(&duration)).unwrap_or(duration);
    let until = later(pick.now, &shorter);
    let ids: Vec<i64> = pick.taken.iter().map(|taken| taken.id).collect();
    let row = [
        pick.lease.into_datum(),
        source.id.into_datum(),
        args.datum(first + 1),
        pick.now.into_datum(),
        Some(until),
        deadline_at,
        ids.into_datum(),
        pick.bundled.into_datum(),
    ];
    tables.leases.append_row(row);
    let lease = [token.into_datum(), Some(until), args.datum(first)];
    return_rows(args, lease, &source, &pick.taken, seen)?;
    release(seen);
    Ok(Some(Datum::null()))
}

/// The length of an interval, with months of 30 days and days of 24 hours, as PostgreSQL compares intervals.
fn micros(interval: &pg_sys::Interval) -> i128 {
    let days = i128::from(interval.month) * 30 + i128::from(interval.day);
    days * MICROS_PER_DAY + i128::from(interval.time)
}

/// A time plus an interval.
fn later(at: i64, interval: &pg_sys::Interval) -> Datum {
    let (add, none) = (pg_sys::F_TIMESTAMPTZ_PL_INTERVAL.into(), pg_sys::InvalidOid);
    // SAFETY: a function of PostgreSQL with these arguments, which does not change them.
    unsafe { pg_sys::OidFunctionCall2Coll(add, none, Datum::from(at), Datum::from(&raw const *interval)) }
}

/// The subscription with this id, if it still has this name, and workers may claim from it.
fn source(id: i32, name: &[u8], snapshot: pg_sys::Snapshot) -> Result<Option<Source>> {
    let opened = Indexed::open("subscription", shape::SUBSCRIPTION, "subscription_pkey", &[subscription::ID], &[])?;
    let Some(subscriptions) = opened else { return Ok(None) };
    let mut source = None;
    subscriptions.rows(snapshot, &mut [key(subscription::ID, EQUAL, pg_sys::F_INT4EQ, id)], &mut |row| {
        let open = row.get::<&[u8]>(subscription::NAME) == Some(name)
            && row.is_null(subscription::ENDPOINT)
            && row.is_null(subscription::DELETED_AT)
            && row.get(subscription::PAUSED) == Some(false);
        source = open.then(|| Source {
            id,
            max_attempts: row.datum(subscription::MAX_ATTEMPTS),
            // SAFETY: the column is an interval, which is copied.
            deadline: row.datum(subscription::DEADLINE).map(|at| unsafe { *at.cast_mut_ptr::<pg_sys::Interval>() }),
        });
        false
    });
    subscriptions.close();
    Ok(source)
}
