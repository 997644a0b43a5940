//! Appends rows to a leaf of an append-only log, below the executor.
//!
//! An INSERT statement opens the parent, sets up an executor even if nothing has to be planned again, routes the tuple and
//! checks privileges. Together this costs several times as much as the row itself. Here the leaf is known, the rows are the
//! extension's own, and the right to call the function is the privilege. Of the executor's duties this code fulfils the
//! relation lock, index maintenance, unique checks, WAL and statistics. It leaves out INSERT triggers, defaults and check
//! constraints on purpose: the logs have none.

use outbox_core::Result;
use pgrx::pg_sys;
use pgrx::pg_sys::Datum;

use crate::pg::{catalog, shape};

/// A leaf that is open for appending, with its indexes. `close` closes it; on ERROR PostgreSQL's resource owner does.
pub struct Leaf {
    relation: pg_sys::Relation,
    indexes: Vec<Index>,
}

struct Index {
    relation: pg_sys::Relation,
    info: *mut pg_sys::IndexInfo,
    unique: pg_sys::IndexUniqueCheck::Type,
    shape: Shape,
}

/// How an index takes its values from a row.
enum Shape {
    /// Plain columns, for all rows or only for rows in which the given column is not null.
    Columns { not_null: Option<usize> },
    /// Any other index that a user has added. PostgreSQL evaluates it.
    General,
}

impl Leaf {
    /// Opens a leaf with these columns. The lock is held until the transaction ends, like that of an INSERT.
    ///
    /// # Errors
    /// 55000 if the leaf has other columns.
    pub fn open(leaf: pg_sys::Oid, columns: &[pg_sys::Oid]) -> Result<Leaf> {
        // SAFETY: plain relation access; an ERROR becomes a panic in pgrx's guards.
        unsafe {
            let relation = pg_sys::table_open(leaf, pg_sys::RowExclusiveLock as _);
            shape::check(relation, columns)?;
            let list = pg_sys::RelationGetIndexList(relation);
            let mut indexes = Vec::with_capacity(2);
            for i in 0..(if list.is_null() { 0 } else { (*list).length }) {
                let oid = (*(*list).elements.add(i as usize)).oid_value;
                let index = pg_sys::index_open(oid, pg_sys::RowExclusiveLock as _);
                let info = pg_sys::BuildIndexInfo(index);
                if !(*info).ii_ReadyForInserts {
                    pg_sys::index_close(index, pg_sys::NoLock as _);
                    continue;
                }
                indexes.push(Index {
                    relation: index,
                    info,
                    unique: if (*info).ii_Unique {
                        pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
                    } else {
                        pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
                    },
                    shape: shape(info),
                });
            }
            Ok(Leaf { relation, indexes })
        }
    }

    /// The open leaf.
    pub fn relation(&self) -> pg_sys::Relation {
        self.relation
    }

    /// The open index with this OID, if the leaf has it and it is unique.
    pub fn index(&self, index: pg_sys::Oid) -> Option<pg_sys::Relation> {
        // SAFETY: the indexes are open.
        let found = self.indexes.iter().find(|i| unsafe { (*i.relation).rd_id } == index)?;
        (found.unique == pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES).then_some(found.relation)
    }

    /// Makes a tuple of a row, in the current memory context. Columns that were added and dropped again are null.
    unsafe fn tuple(&self, values: &mut [Datum], nulls: &mut [bool]) -> pg_sys::HeapTuple {
        // SAFETY: `open` has checked that the leaf has at least as many columns as the slices have entries.
        unsafe {
            let descriptor = (*self.relation).rd_att;
            let columns = (*descriptor).natts as usize;
            if columns == values.len() {
                return pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            }
            let (mut values, mut nulls) = (values.to_vec(), nulls.to_vec());
            values.resize(columns, Datum::null());
            nulls.resize(columns, true);
            pg_sys::heap_form_tuple(descriptor, values.as_mut_ptr(), nulls.as_mut_ptr())
        }
    }

    /// Appends one row; `values` and `nulls` are in column order.
    pub fn append(&mut self, values: &mut [Datum], nulls: &mut [bool]) {
        // SAFETY: both slices have one entry per column of ours; the tuple lives in the current memory context.
        unsafe {
            let tuple = self.tuple(values, nulls);
            let command = pg_sys::GetCurrentCommandId(true);
            pg_sys::heap_insert(self.relation, tuple, command, 0, std::ptr::null_mut());
            let tid = &raw mut (*tuple).t_self;
            for index in &self.indexes {
                match index.shape {
                    Shape::Columns { not_null: Some(column) } if nulls[column] => {}
                    Shape::Columns { .. } => index.insert_columns(self.relation, values, nulls, tid),
                    Shape::General => index.insert_general(self.relation, tuple),
                }
            }
            pg_sys::heap_freetuple(tuple);
        }
    }

    /// Appends many rows. Whole pages are filled and written to the WAL at once.
    pub fn append_all<V: AsMut<[Datum]>, N: AsMut<[bool]>>(&mut self, rows: impl Iterator<Item = (V, N)>) {
        /// Rows that PostgreSQL gets at once: about a page of attempts. Each row needs a slot, which costs as much as a row.
        const BATCH: usize = 64;
        let mut rows = rows.peekable();
        // SAFETY: as in `append`; slots and tuples live in the current memory context and are freed here.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            let mut slots: Vec<*mut pg_sys::TupleTableSlot> = Vec::with_capacity(BATCH);
            let mut batch = Vec::with_capacity(BATCH);
            while rows.peek().is_some() {
                batch.extend(rows.by_ref().take(BATCH));
                while slots.len() < batch.len() {
                    let ops = &raw const pg_sys::TTSOpsHeapTuple;
                    slots.push(pg_sys::MakeSingleTupleTableSlot((*self.relation).rd_att, ops));
                }
                for (slot, (values, nulls)) in slots.iter().zip(&mut batch) {
                    let (values, nulls) = (values.as_mut(), nulls.as_mut());
                    let tuple = self.tuple(values, nulls);
                    pg_sys::ExecStoreHeapTuple(tuple, *slot, true);
                }
                let count = batch.len() as i32;
                pg_sys::heap_multi_insert(self.relation, slots.as_mut_ptr(), count, command, 0, std::ptr::null_mut());
                for (slot, (values, nulls)) in slots.iter().zip(&mut batch) {
                    let (values, nulls) = (values.as_mut(), nulls.as_mut());
                    let tid = &raw mut (**slot).tts_tid;
                    for index in &self.indexes {
                        match index.shape {
                            Shape::Columns { not_null: Some(column) } if nulls[column] => {}
                            Shape::Columns { .. } => index.insert_columns(self.relation, values, nulls, tid),
                            Shape::General => {
                                let tuple = pg_sys::ExecFetchSlotHeapTuple(*slot, false, std::ptr::null_mut());
                                (*tuple).t_self = (**slot).tts_tid;
                                index.insert_general(self.relation, tuple);
                            }
                        }
                    }
                }
                batch.clear();
            }
            for slot in slots {
                pg_sys::ExecDropSingleTupleTableSlot(slot);
            }
        }
    }

    /// Closes the leaf and its indexes; the locks stay.
    pub fn close(self) {
        // SAFETY: opened by `open`, closed once because `self` is consumed.
        unsafe {
            for index in &self.indexes {
                // A BRIN index keeps state between rows.
                #[cfg(any(feature = "pg17", feature = "pg18"))]
                pg_sys::index_insert_cleanup(index.relation, index.info);
                pg_sys::index_close(index.relation, pg_sys::NoLock as _);
            }
            pg_sys::table_close(self.relation, pg_sys::NoLock as _);
        }
    }
}

/// Appends rows to the current leaf of a ring. `rows` makes them with the number of the current segment. Inside a
/// transaction.
pub fn append_current<const N: usize>(
    ring: &str,
    leaves: i64,
    columns: &[pg_sys::Oid; N],
    rows: impl FnOnce(i16) -> Vec<[Option<Datum>; N]>,
) -> Result<()> {
    let segment = catalog::current_value(catalog::lookup(&format!("_{ring}_segment"))?).rem_euclid(leaves);
    let mut leaf = Leaf::open(catalog::lookup(&format!("_{ring}_{segment:02}"))?, columns)?;
    leaf.append_all(
        rows(segment as i16)
            .into_iter()
            .map(|columns| (columns.map(|c| c.unwrap_or(Datum::null())), columns.map(|c| c.is_none()))),
    );
    leaf.close();
    Ok(())
}

impl Index {
    unsafe fn insert_columns(
        &self,
        table: pg_sys::Relation,
        values: &[Datum],
        nulls: &[bool],
        tid: pg_sys::ItemPointer,
    ) {
        let mut keys = [Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
        let mut key_nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
        // SAFETY: the attribute numbers of an index over plain columns are 1 .. natts.
        unsafe {
            for i in 0..(*self.info).ii_NumIndexAttrs as usize {
                let column = (*self.info).ii_IndexAttrNumbers[i] as usize - 1;
                keys[i] = values[column];
                key_nulls[i] = nulls[column];
            }
            self.insert(table, &mut keys, &mut key_nulls, tid);
        }
    }

    unsafe fn insert_general(&self, table: pg_sys::Relation, tuple: pg_sys::HeapTuple) {
        let mut keys = [Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
        let mut key_nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
        // SAFETY: does the same as ExecInsertIndexTuples, for one index.
        unsafe {
            let estate = pg_sys::CreateExecutorState();
            let slot = pg_sys::MakeSingleTupleTableSlot((*table).rd_att, &raw const pg_sys::TTSOpsHeapTuple);
            pg_sys::ExecStoreHeapTuple(tuple, slot, false);
            let context = pg_sys::MakePerTupleExprContext(estate);
            (*context).ecxt_scantuple = slot;
            let predicate = pg_sys::ExecPrepareQual((*self.info).ii_Predicate, estate);
            if predicate.is_null() || pg_sys::ExecQual(predicate, context) {
                pg_sys::FormIndexDatum(self.info, slot, estate, keys.as_mut_ptr(), key_nulls.as_mut_ptr());
                self.insert(table, &mut keys, &mut key_nulls, &raw mut (*tuple).t_self);
            }
            // The compiled expressions lived in the executor state.
            (*self.info).ii_ExpressionsState = std::ptr::null_mut();
            pg_sys::ExecDropSingleTupleTableSlot(slot);
            pg_sys::FreeExecutorState(estate);
        }
    }

    unsafe fn insert(
        &self,
        table: pg_sys::Relation,
        keys: &mut [Datum],
        key_nulls: &mut [bool],
        tid: pg_sys::ItemPointer,
    ) {
        // SAFETY: keys hold one datum per index column.
        unsafe {
            pg_sys::index_insert(
                self.relation,
                keys.as_mut_ptr(),
                key_nulls.as_mut_ptr(),
                tid,
                table,
                self.unique,
                false,
                self.info,
            );
        }
    }
}

/// Recognises an index over plain columns that has no predicate, or `column is not null` as its predicate.
unsafe fn shape(info: *mut pg_sys::IndexInfo) -> Shape {
    // SAFETY: PostgreSQL built `info`; node tags are checked before a cast.
    unsafe {
        if !(*info).ii_Expressions.is_null() || !(*info).ii_ExclusionOps.is_null() {
            return Shape::General;
        }
        let predicate = (*info).ii_Predicate;
        if predicate.is_null() {
            return Shape::Columns { not_null: None };
        }
        if (*predicate).length != 1 {
            return Shape::General;
        }
        let node = (*(*predicate).elements).ptr_value.cast::<pg_sys::NullTest>();
        if (*node).xpr.type_ == pg_sys::NodeTag::T_NullTest
            && (*node).nulltesttype == pg_sys::NullTestType::IS_NOT_NULL
            && (*(*node).arg).type_ == pg_sys::NodeTag::T_Var
        {
            let attribute = (*(*node).arg.cast::<pg_sys::Var>()).varattno;
            if let Ok(attribute @ 1..) = usize::try_from(attribute) {
                return Shape::Columns { not_null: Some(attribute - 1) };
            }
        }
        Shape::General
    }
}
