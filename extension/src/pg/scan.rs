//! Reads messages by a range of ids, below the executor.
//!
//! A statement would copy each row three times before the dispatcher has it, and most reads of the dispatcher are ranges of
//! one leaf. This code takes over three duties of the executor: the relation lock, the snapshot and visibility. It does not
//! check privileges, because its callers run with the rights of the extension's owner.

use pgrx::pg_sys;
use pgrx::pg_sys::Datum;

use crate::pg::txn::Row;
use crate::pg::{catalog, shape};
use crate::sql::enqueue::column;

/// Calls `f` with each message of a leaf whose id is in `low..=high`. Returns `false` if the leaf's index cannot be used.
/// Columns are those of outbox.message, from 0. Inside a transaction.
pub fn messages(leaf: usize, low: i64, high: i64, f: &mut dyn FnMut(&Row)) -> bool {
    let Ok(table) = catalog::lookup(&format!("_message_{leaf:02}")) else { return false };
    // SAFETY: plain relation access. An ERROR becomes a panic in pgrx's guards; everything opened here belongs to the
    // transaction, which is then aborted. The tuple lives until the next one is fetched.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as _);
        // If the table has another shape, the statement that is used instead reports what is wrong with it.
        let fits = shape::check(relation, shape::MESSAGE).is_ok();
        // Looked up under the lock: a session that replaces the index waits for this lock before it drops the old index.
        let index =
            catalog::lookup(&format!("_message_{leaf:02}_id")).ok().filter(|index| fits && is_by_id(relation, *index));
        if let Some(index) = index {
            let mut keys: [pg_sys::ScanKeyData; 2] = std::mem::zeroed();
            for (key, strategy, function, bound) in [
                (0, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_INT8GE, low),
                (1, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_INT8LE, high),
            ] {
                let attribute = column::ID as i16 + 1;
                pg_sys::ScanKeyInit(&mut keys[key], attribute, strategy as u16, function.into(), Datum::from(bound));
            }
            let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot());
            let scan = pg_sys::systable_beginscan(relation, index, true, snapshot, 2, keys.as_mut_ptr());
            let mut row = Row::of((*relation).rd_att);
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                row.take_apart(tuple, (*relation).rd_att);
                f(&row);
            }
            pg_sys::systable_endscan(scan);
            pg_sys::UnregisterSnapshot(snapshot);
        }
        pg_sys::table_close(relation, pg_sys::NoLock as _);
        index.is_some()
    }
}

/// Whether it is a valid index on the ids of this table. The name alone proves nothing, because a name can be taken.
unsafe fn is_by_id(table: pg_sys::Relation, index: pg_sys::Oid) -> bool {
    // SAFETY: the table is open; its indexes stay while its lock is held.
    unsafe {
        let list = pg_sys::RelationGetIndexList(table);
        let own =
            !list.is_null() && (0..(*list).length).any(|i| (*(*list).elements.add(i as usize)).oid_value == index);
        pg_sys::list_free(list);
        if !own {
            return false;
        }
        let index = pg_sys::index_open(index, pg_sys::AccessShareLock as _);
        let form = (*index).rd_index;
        let fits = (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
            && (*form).indisvalid
            && (*form).indkey.values.as_slice(1)[0] == column::ID as i16 + 1
            && pg_sys::RelationGetIndexPredicate(index).is_null();
        pg_sys::index_close(index, pg_sys::NoLock as _);
        fits
    }
}
