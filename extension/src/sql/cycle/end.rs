//! The end of a lease whose deliveries are completed.

use std::collections::HashSet;

use outbox_core::Result;
use pgrx::IntoDatum;
use pgrx::pg_sys::{self, Datum};

use super::{EQUAL, Tables, bundle, delivery, kept, lease, now, release, snapshot};
use crate::pg::scan::{Direction, any_of, in_order, key};
use crate::pg::table::{Table, Test, append_current};
use crate::pg::txn::Row;
use crate::pg::{catalog, shape};
use crate::shared::wake;
use crate::sql::claim::lease_id;
use crate::store::counters::{self, Counted};
use crate::store::record::column;

/// A lease that has just been deleted.
struct Held {
    id: i64,
    subscription: i32,
    worker: Option<Datum>,
    claimed_at: Option<Datum>,
    deliveries: Vec<i64>,
    bundled: bool,
}

/// The traces of deliveries that a lease held.
#[derive(Default)]
struct Ended {
    /// Position and id.
    deliveries: Vec<(i64, i64)>,
    attempts: Vec<[Option<Datum>; column::COUNT]>,
    /// Subscription and key.
    freed: Vec<[Option<Datum>; 2]>,
}

/// Completes the deliveries of a lease, and ends the lease. `named`: only if these are all its deliveries. Returns position and
/// id of the deliveries that the lease still held.
pub(super) fn end(tables: &Tables, token: i64, named: Option<&HashSet<i64>>) -> Result<Option<Vec<(i64, i64)>>> {
    let id = lease_id(token)?;
    let Tables { leases, deliveries, bundles } = tables;
    let (Some(by_token), Some(by_id), Some(by_lease)) = (
        leases.named("lease_pkey", &[lease::ID], &[]),
        deliveries.named("delivery_pkey", &[delivery::ID], &[]),
        bundles.named("_bundle_lease", &[bundle::LEASE], &[Test::NotNull(bundle::LEASE)]),
    ) else {
        return Ok(None);
    };
    let seen = snapshot();
    let mut held = None;
    // SAFETY: table and index are open; the tuple is used while the scan stands on it.
    unsafe {
        let mut keys = [key(lease::ID, EQUAL, pg_sys::F_INT8EQ, id)];
        in_order(leases.relation(), by_token, seen, &mut keys, Direction::Forward, &mut |tuple, row| {
            let of = row.get::<Vec<i64>>(lease::DELIVERIES).unwrap_or_default();
            let whole = named.is_none_or(|named| of.iter().all(|id| named.contains(id)));
            if whole && leases.delete(tuple, false) == pg_sys::TM_Result::TM_Ok {
                held = Some(Held {
                    id,
                    subscription: row.get(lease::SUBSCRIPTION).unwrap_or_default(),
                    worker: kept(row.datum(lease::WORKER)),
                    claimed_at: row.datum(lease::CLAIMED_AT),
                    deliveries: of,
                    bundled: row.get(lease::BUNDLED) == Some(true),
                });
            }
            false
        });
    }
    release(seen);
    let Some(held) = held else { return Ok(None) };
    let ended = if held.bundled { end_bundles(&held, bundles, by_lease) } else { end_rows(&held, deliveries, by_id) };
    let (requests, deliveries_ended) = (ended.attempts.len() as i64, ended.deliveries.len() as i64);
    if requests > 0 {
        append_current("attempt", catalog::LEAVES as i64, shape::ATTEMPT, |segment| {
            let mut attempts = ended.attempts;
            for attempt in &mut attempts {
                attempt[column::SEGMENT] = segment.into_datum();
            }
            attempts
        })?;
        counters::append(std::iter::once(Counted {
            subscription: held.subscription,
            endpoint: 0,
            outcome: "completed",
            requests,
            deliveries: deliveries_ended,
            micros: 0,
        }))?;
    }
    if !ended.freed.is_empty() {
        let keys = Table::open(catalog::lookup("_freed_key")?, shape::FREED_KEY)?;
        for key in ended.freed {
            keys.append_row(key);
        }
        keys.close();
        wake::at_commit_report_deliveries_changed();
    }
    // SAFETY: inside a transaction, not in a parallel one.
    unsafe { pg_sys::CommandCounterIncrement() };
    Ok(Some(ended.deliveries))
}

/// Calls `delete` with the rows that fulfil the condition. A row that another session changes while `delete` waits for it is looked at
/// once more.
fn delete_all(
    table: &Table,
    index: pg_sys::Relation,
    key: pg_sys::ScanKeyData,
    delete: &mut dyn FnMut(pg_sys::HeapTuple, &Row) -> pg_sys::TM_Result::Type,
) {
    loop {
        let (seen, mut again) = (snapshot(), false);
        // SAFETY: table and index are open.
        unsafe {
            in_order(table.relation(), index, seen, &mut [key], Direction::Forward, &mut |tuple, row| {
                again |= delete(tuple, row) == pg_sys::TM_Result::TM_Updated;
                true
            });
        }
        release(seen);
        if !again {
            return;
        }
    }
}

fn end_rows(held: &Held, deliveries: &Table, by_id: pg_sys::Relation) -> Ended {
    let (mut ended, finished_at) = (Ended::default(), now());
    delete_all(deliveries, by_id, any_of(delivery::ID, held.deliveries.clone()), &mut |tuple, row| {
        if row.get(delivery::LEASE) != Some(held.id) {
            return pg_sys::TM_Result::TM_Ok;
        }
        // SAFETY: the scan stands on the tuple.
        let result = unsafe { deliveries.delete(tuple, true) };
        if result == pg_sys::TM_Result::TM_Ok {
            ended.deliveries.push((row.int(delivery::POSITION), row.int(delivery::ID)));
            ended.attempts.push(attempt(row, finished_at, held.worker));
            let key = row.datum(delivery::KEY).map(|key| [row.datum(delivery::SUBSCRIPTION), kept(Some(key))]);
            ended.freed.extend(key);
        }
        result
    });
    ended
}

/// A bundle has one row in the attempt log.
fn end_bundles(held: &Held, bundles: &Table, by_lease: pg_sys::Relation) -> Ended {
    let (mut ended, finished_at) = (Ended::default(), now());
    delete_all(bundles, by_lease, key(bundle::LEASE, EQUAL, pg_sys::F_INT8EQ, held.id), &mut |tuple, row| {
        // SAFETY: the scan stands on the tuple.
        let result = unsafe { bundles.delete(tuple, true) };
        if result == pg_sys::TM_Result::TM_Ok {
            let ids = |column: usize| row.get::<Vec<i64>>(column).unwrap_or_default();
            let (positions, messages, deliveries) =
                (ids(bundle::POSITIONS), ids(bundle::MESSAGE_IDS), ids(bundle::DELIVERY_IDS));
            let first = |ids: &[i64]| ids.first().copied().and_then(IntoDatum::into_datum);
            let mut attempt = [None; column::COUNT];
            attempt[column::POSITION] = first(&positions);
            attempt[column::MESSAGE_ID] = first(&messages);
            attempt[column::STARTED_AT] = held.claimed_at;
            attempt[column::FINISHED_AT] = finished_at.into_datum();
            attempt[column::DELIVERY_ID] = first(&deliveries);
            attempt[column::RUN] = 0i64.into_datum();
            attempt[column::SUBSCRIPTION_ID] = row.datum(bundle::SUBSCRIPTION);
            attempt[column::ATTEMPT] = 1i32.into_datum();
            attempt[column::OUTCOME] = "completed".into_datum();
            attempt[column::WORKER] = held.worker;
            attempt[column::POSITIONS] = kept(row.datum(bundle::POSITIONS));
            attempt[column::MESSAGE_IDS] = kept(row.datum(bundle::MESSAGE_IDS));
            attempt[column::DELIVERY_IDS] = kept(row.datum(bundle::DELIVERY_IDS));
            ended.attempts.push(attempt);
            ended.deliveries.extend(positions.into_iter().zip(deliveries));
        }
        result
    });
    ended
}

/// The row of outbox.attempt of a completed delivery, but for its segment.
fn attempt(row: &Row, finished_at: i64, worker: Option<Datum>) -> [Option<Datum>; column::COUNT] {
    let mut attempt = [None; column::COUNT];
    attempt[column::POSITION] = row.datum(delivery::POSITION);
    attempt[column::MESSAGE_ID] = row.datum(delivery::MESSAGE);
    attempt[column::STARTED_AT] = row.datum(delivery::LAST_ATTEMPT_AT).or(finished_at.into_datum());
    attempt[column::FINISHED_AT] = finished_at.into_datum();
    attempt[column::DELIVERY_ID] = row.datum(delivery::ID);
    attempt[column::RUN] = row.datum(delivery::RUN);
    attempt[column::SUBSCRIPTION_ID] = row.datum(delivery::SUBSCRIPTION);
    attempt[column::ATTEMPT] = row.datum(delivery::ATTEMPT);
    attempt[column::OUTCOME] = "completed".into_datum();
    attempt[column::WORKER] = worker;
    attempt
}
