//! Reads rows of the extension's own tables, below the executor.
//!
//! A statement would copy each row three times before the dispatcher has it, and most reads of the dispatcher are ranges of
//! one leaf. This code takes over three duties of the executor: the relation lock, the snapshot and visibility. It does not
//! check privileges, because its callers run with the rights of the extension's owner.

use outbox_core::Result;
use pgrx::IntoDatum;
use pgrx::pg_sys;
use pgrx::pg_sys::Datum;

use crate::pg::table::{self, Test};
use crate::pg::txn::Row;
use crate::pg::{catalog, shape};
use crate::sql::enqueue::column;

/// Calls `f` with each message of a leaf whose id is in `low..=high`. Returns `false` if the leaf's index cannot be used.
/// `leaf` is the last part of its name. Columns are those of outbox.message, from 0. Inside a transaction.
pub fn messages(leaf: &str, low: i64, high: i64, f: &mut dyn FnMut(&Row)) -> bool {
    let name = format!("_message_{leaf}");
    // If the table has another shape, the statement that is used instead reports what is wrong with it.
    let opened = Indexed::open(&name, shape::MESSAGE, &format!("{name}_id"), &[column::ID], &[]);
    let Ok(Some(messages)) = opened else { return false };
    // SAFETY: inside a transaction; an ERROR becomes a panic in pgrx's guards, and the resource owner releases the snapshot.
    unsafe {
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot());
        messages.rows(snapshot, &mut between(column::ID, low, high), &mut |row| {
            f(row);
            true
        });
        pg_sys::UnregisterSnapshot(snapshot);
    }
    messages.close();
    true
}

/// A table and one of its indexes, open for reading. `close` closes both; on ERROR PostgreSQL's resource owner does.
pub struct Indexed {
    pub table: pg_sys::Relation,
    index: pg_sys::Relation,
}

impl Indexed {
    /// Opens a table with these columns, and its index of this name. `None`: the table has other columns, or has no such index
    /// that is a B-tree over these columns for the rows that fulfil these conditions. The name alone proves nothing, because a
    /// name can be taken.
    ///
    /// # Errors
    /// 55000 if there is no such table.
    pub fn open(
        name: &str,
        columns: &[pg_sys::Oid],
        index: &str,
        keys: &[usize],
        conditions: &[Test],
    ) -> Result<Option<Indexed>> {
        let (table, lock) = (catalog::lookup(name)?, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        // SAFETY: opened and closed in the order that PostgreSQL requires.
        unsafe {
            let table = pg_sys::table_open(table, lock);
            // Looked up under the lock: a session that replaces the index waits for this lock before it drops the old index.
            let relation = catalog::lookup(index).ok().filter(|_| shape::check(table, columns).is_ok());
            let Some(relation) = relation.filter(|index| pg_sys::IndexGetRelation(*index, true) == (*table).rd_id)
            else {
                pg_sys::table_close(table, pg_sys::NoLock as _);
                return Ok(None);
            };
            let opened = Indexed { table, index: pg_sys::index_open(relation, lock) };
            if table::is_index(opened.index, keys, conditions) {
                return Ok(Some(opened));
            }
            opened.close();
            Ok(None)
        }
    }

    /// Calls `f` with the rows that fulfil the keys, in the order of the index, until `f` returns `false`.
    pub fn rows(&self, snapshot: pg_sys::Snapshot, keys: &mut [pg_sys::ScanKeyData], f: &mut dyn FnMut(&Row) -> bool) {
        // SAFETY: both are open.
        unsafe { in_order(self.table, self.index, snapshot, keys, Direction::Forward, &mut |_, row| f(row)) }
    }

    /// Closes table and index; the locks stay.
    pub fn close(self) {
        // SAFETY: opened by `open`, closed once because `self` is consumed.
        unsafe {
            pg_sys::index_close(self.index, pg_sys::NoLock as _);
            pg_sys::table_close(self.table, pg_sys::NoLock as _);
        }
    }
}

/// The direction of a scan.
#[derive(Clone, Copy)]
pub enum Direction {
    Forward,
    Backward,
}

/// Calls `f` with the rows that fulfil the keys, in the order of the index or backwards, until `f` returns `false`. The tuple
/// is in a buffer, and lives as long as the call of `f`.
///
/// # Safety
/// Table and index are open, and the index is one of the table.
pub unsafe fn in_order(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: &mut [pg_sys::ScanKeyData],
    direction: Direction,
    f: &mut dyn FnMut(pg_sys::HeapTuple, &Row) -> bool,
) {
    let direction = match direction {
        Direction::Forward => pg_sys::ScanDirection::ForwardScanDirection,
        Direction::Backward => pg_sys::ScanDirection::BackwardScanDirection,
    };
    // SAFETY: by contract.
    unsafe {
        let scan = pg_sys::systable_beginscan_ordered(table, index, snapshot, keys.len() as i32, keys.as_mut_ptr());
        let mut row = Row::of((*table).rd_att);
        loop {
            let tuple = pg_sys::systable_getnext_ordered(scan, direction);
            if tuple.is_null() {
                break;
            }
            row.take_apart(tuple, (*table).rd_att);
            if !f(tuple, &row) {
                break;
            }
            pgrx::check_for_interrupts!();
        }
        pg_sys::systable_endscan_ordered(scan);
    }
}

/// A condition of a scan: the column (from 0), the B-tree's strategy, the function of its operator, and the value.
pub fn key(column: usize, strategy: u32, function: u32, value: impl Into<Datum>) -> pg_sys::ScanKeyData {
    // SAFETY: initialised by PostgreSQL.
    unsafe {
        let mut key: pg_sys::ScanKeyData = std::mem::zeroed();
        pg_sys::ScanKeyInit(&mut key, column as i16 + 1, strategy as u16, function.into(), value.into());
        key
    }
}

/// The condition that a bigint column has one of these values.
pub fn any_of(column: usize, values: Vec<i64>) -> pg_sys::ScanKeyData {
    let one = values.len() == 1;
    let value = if one { values[0].into_datum() } else { values.into_datum() };
    let equal = pg_sys::BTEqualStrategyNumber;
    let mut key = key(column, equal, pg_sys::F_INT8EQ, value.unwrap_or(Datum::null()));
    if !one {
        key.sk_flags |= pg_sys::SK_SEARCHARRAY as i32;
    }
    key
}

/// The conditions that a bigint column is in a range.
pub fn between(column: usize, low: i64, high: i64) -> [pg_sys::ScanKeyData; 2] {
    [
        key(column, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_INT8GE, low),
        key(column, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_INT8LE, high),
    ]
}

/// The last version of a stream, and the rows of some of its versions, as they are now: committed, or of this transaction.
/// The transaction's snapshot would not do, because it may be older than the lock of the stream.
///
/// # Safety
/// Table and index are open: the leaf with the events, and its index on stream and version.
pub unsafe fn last_version(table: pg_sys::Relation, index: pg_sys::Relation, stream: Datum) -> Option<i64> {
    let (mut version, now) = (None, &raw mut pg_sys::SnapshotSelfData);
    // SAFETY: by contract.
    unsafe {
        let mut keys = [equal(column::KEY, stream)];
        in_order(table, index, now, &mut keys, Direction::Backward, &mut |_, row| {
            version = Some(row.int(column::VERSION));
            false
        });
    }
    version
}

/// Calls `f` with the events of a stream from one version to another, in their order.
///
/// # Safety
/// As for `last_version`.
pub unsafe fn versions(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    stream: Datum,
    first: i64,
    last: i64,
    f: &mut dyn FnMut(&Row),
) {
    let [low, high] = between(column::VERSION, first, last);
    // SAFETY: by contract.
    unsafe {
        let now = &raw mut pg_sys::SnapshotSelfData;
        in_order(table, index, now, &mut [equal(column::KEY, stream), low, high], Direction::Forward, &mut |_, row| {
            f(row);
            true
        });
    }
}

/// The last version of a stream that has events (0: it has none). `None`: the table's index cannot be used.
///
/// # Errors
/// 55000 if the table has other columns.
pub fn stored_version(table: pg_sys::Oid, index: pg_sys::Oid, stream: Datum) -> Result<Option<i64>> {
    // SAFETY: opened and closed in the order that PostgreSQL requires; on ERROR its resource owner closes.
    unsafe {
        if index == pg_sys::InvalidOid {
            return Ok(None);
        }
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as _);
        shape::check(relation, shape::MESSAGE)?;
        let index = pg_sys::index_open(index, pg_sys::AccessShareLock as _);
        let own = (*(*index).rd_index).indrelid == table && (*(*index).rd_index).indisvalid;
        let version = own.then(|| last_version(relation, index, stream).unwrap_or(0));
        pg_sys::index_close(index, pg_sys::AccessShareLock as _);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as _);
        Ok(version)
    }
}

/// Calls `f` with the row of a stream in outbox.stream, if it has one, as it is now. Returns whether the table has any row.
///
/// # Errors
/// 55000 if the table has other columns.
pub fn stream_state(table: pg_sys::Oid, index: pg_sys::Oid, stream: Datum, f: impl FnOnce(&Row)) -> Result<bool> {
    // SAFETY: opened and closed in the order that PostgreSQL requires; on ERROR its resource owner closes.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as _);
        shape::check(relation, shape::STREAM)?;
        let now = &raw mut pg_sys::SnapshotSelfData;
        let mut key = equal(0, stream);
        key.sk_collation = pg_sys::DEFAULT_COLLATION_OID;
        let scan = pg_sys::systable_beginscan(relation, index, true, now, 1, &mut key);
        let tuple = pg_sys::systable_getnext(scan);
        let mut any = !tuple.is_null();
        if any {
            let mut row = Row::of((*relation).rd_att);
            row.take_apart(tuple, (*relation).rd_att);
            f(&row);
        }
        pg_sys::systable_endscan(scan);
        if !any {
            let none = std::ptr::null_mut();
            let scan = pg_sys::systable_beginscan(relation, pg_sys::InvalidOid, false, now, 0, none);
            any = !pg_sys::systable_getnext(scan).is_null();
            pg_sys::systable_endscan(scan);
        }
        pg_sys::table_close(relation, pg_sys::AccessShareLock as _);
        Ok(any)
    }
}

/// The condition that a text column, counted from 0, has a value. Its collation is that of bytes.
fn equal(column: usize, value: Datum) -> pg_sys::ScanKeyData {
    key(column, pg_sys::BTEqualStrategyNumber, pg_sys::F_TEXTEQ, value)
}
