//! A worker's cycle below the executor: a lease ends, and the next deliveries are leased.
//!
//! The functions in `sql/schema/pull` define these calls and handle every case. Starting the executor for their statements
//! takes several times as long as writing the rows. So the entry of such a function first tries the code here, which handles
//! the common case: READ COMMITTED, and tables and indexes as the extension made them. Where another case shows (nothing is due,
//! a bundle has to be split into rows, another session holds the lease), the code returns null and has changed nothing, and the
//! entry calls the function in SQL.
//!
//! Rows are taken as `for update skip locked` takes them: a row that another session has locked or changed since the snapshot
//! is not waited for. A delivery that ends is waited for, as a DELETE waits.

mod end;
mod pick;
mod returned;
mod take;

use std::collections::HashSet;

use outbox_core::Result;
use pgrx::IntoDatum;
use pgrx::pg_sys::{self, Datum};

use crate::pg::function::{Args, Returned};
use crate::pg::shape;
use crate::pg::table::Table;
use end::end;
use take::take;

/// Columns of outbox.delivery.
mod delivery {
    pub const ID: usize = 0;
    pub const SUBSCRIPTION: usize = 1;
    pub const POSITION: usize = 2;
    pub const RUN: usize = 3;
    pub const MESSAGE: usize = 4;
    pub const SEGMENT: usize = 5;
    pub const PULL: usize = 6;
    pub const STATE: usize = 7;
    pub const BLOCKED: usize = 8;
    pub const PRIORITY: usize = 9;
    pub const ATTEMPT: usize = 10;
    pub const MAX_ATTEMPTS: usize = 11;
    pub const DUE_AT: usize = 12;
    pub const EXPIRES_AT: usize = 13;
    pub const KEY: usize = 14;
    pub const LEASE: usize = 15;
    pub const FIRST_ATTEMPT_AT: usize = 16;
    pub const LAST_ATTEMPT_AT: usize = 17;
    pub const LAST_ERROR: usize = 20;
    pub const UPDATED_AT: usize = 22;
    pub const NEW_ID: usize = 23;
    pub const PAYLOAD: usize = 24;
}

/// Columns of outbox.lease.
mod lease {
    pub const ID: usize = 0;
    pub const SUBSCRIPTION: usize = 1;
    pub const WORKER: usize = 2;
    pub const CLAIMED_AT: usize = 3;
    pub const DELIVERIES: usize = 6;
    pub const BUNDLED: usize = 7;
}

/// Columns of outbox.subscription.
mod subscription {
    pub const ID: usize = 0;
    pub const NAME: usize = 1;
    pub const ENDPOINT: usize = 2;
    pub const MAX_ATTEMPTS: usize = 3;
    pub const DEADLINE: usize = 13;
    pub const PAUSED: usize = 20;
    pub const DELETED_AT: usize = 22;
}

/// Columns of outbox._bundle.
mod bundle {
    pub const ID: usize = 0;
    pub const SUBSCRIPTION: usize = 1;
    pub const DUE_AT: usize = 2;
    pub const SEGMENT: usize = 3;
    pub const DELIVERIES: usize = 4;
    pub const MESSAGES: usize = 5;
    pub const DELIVERY_IDS: usize = 6;
    pub const POSITIONS: usize = 7;
    pub const MESSAGE_IDS: usize = 8;
    pub const LEASE: usize = 9;
}

const EQUAL: u32 = pg_sys::BTEqualStrategyNumber;

/// The tables that a cycle changes.
struct Tables {
    leases: Table,
    deliveries: Table,
    bundles: Table,
}

/// Calls `cycle` with the tables, if this code may change them.
fn with_tables(cycle: impl FnOnce(&Tables) -> Result<Returned>) -> Result<Returned> {
    if !usable() {
        return Ok(None);
    }
    let names = [("lease", &shape::LEASE[..]), ("delivery", shape::DELIVERY), ("_bundle", shape::BUNDLE)];
    let mut opened = Vec::with_capacity(names.len());
    for (name, columns) in names {
        opened.extend(Table::open_plain(name, columns)?);
    }
    match <[Table; 3]>::try_from(opened) {
        Ok([leases, deliveries, bundles]) => {
            let tables = Tables { leases, deliveries, bundles };
            let returned = cycle(&tables)?;
            for table in [tables.leases, tables.deliveries, tables.bundles] {
                table.close();
            }
            Ok(returned)
        }
        Err(some) => {
            some.into_iter().for_each(Table::close);
            Ok(None)
        }
    }
}

/// outbox.claim(subscription, worker, max_messages, lease)
pub fn claim(args: Args) -> Result<Returned> {
    with_tables(|tables| take(tables, args, 0))
}

/// outbox.complete_and_claim(done, subscription, worker, max_messages, lease)
pub fn complete_and_claim(args: Args) -> Result<Returned> {
    with_tables(|tables| {
        if let Some(done) = args.get::<i64>(0) {
            match end(tables, done, None)? {
                // The claim is left, also for the function in SQL.
                Some(ended) if !ended.is_empty() => args.replace(0, None),
                // The function in SQL raises the error of a lease that is lost.
                _ => return Ok(None),
            }
        }
        take(tables, args, 1)
    })
}

/// outbox.complete(lease, delivery_ids, results)
pub fn complete(args: Args) -> Result<Returned> {
    let Some(token) = args.get::<i64>(0).filter(|_| args.datum(2).is_none()) else { return Ok(None) };
    let named = args.get::<Vec<Option<i64>>>(1).map(|ids| ids.into_iter().flatten().collect::<HashSet<i64>>());
    with_tables(|tables| {
        let Some(mut ended) = end(tables, token, named.as_ref())? else { return Ok(None) };
        ended.sort_unstable();
        Ok(ended.into_iter().map(|(_, id)| id).collect::<Vec<i64>>().into_datum())
    })
}

/// Whether this transaction may write, and sees what other sessions commit. In a stricter isolation level the executor decides
/// whether a row that another session has changed is an error.
fn usable() -> bool {
    // SAFETY: reads the state of the transaction.
    unsafe {
        pg_sys::XactIsoLevel <= pg_sys::XACT_READ_COMMITTED as i32
            && !pg_sys::XactReadOnly
            && !pg_sys::IsInParallelMode()
    }
}

/// A snapshot with everything that is committed, and that this transaction has written. On ERROR PostgreSQL's resource owner
/// releases it.
fn snapshot() -> pg_sys::Snapshot {
    // SAFETY: inside a transaction, not in a parallel one.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot())
    }
}

fn release(snapshot: pg_sys::Snapshot) {
    // SAFETY: registered by `snapshot`. Later statements see the rows that were written since.
    unsafe {
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::CommandCounterIncrement();
    }
}

fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Copies a text, array or jsonb out of a buffer, into the current memory context.
fn kept(datum: Option<Datum>) -> Option<Datum> {
    // SAFETY: the callers pass columns of variable length.
    datum.map(|datum| unsafe { Datum::from(pg_sys::pg_detoast_datum_copy(datum.cast_mut_ptr())) })
}
