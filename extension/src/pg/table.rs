//! Writes rows of the extension's own tables, below the executor.
//!
//! A statement opens the parent, sets up an executor even if nothing has to be planned again, routes the tuple and checks
//! privileges. Together this costs several times as much as the row itself. Here the table is known, the rows are the
//! extension's own, and the right to call the function is the privilege. Of the executor's duties this code fulfils the
//! relation lock, index maintenance, unique checks, WAL and statistics. It leaves out triggers, defaults and check
//! constraints on purpose: the tables have none.

use outbox_core::Result;
use pgrx::pg_sys;
use pgrx::pg_sys::{Datum, Oid};

use crate::pg::{catalog, shape};

/// A table that is open for writing, with its indexes. `close` closes it; on ERROR PostgreSQL's resource owner does.
pub struct Table {
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
    /// Plain columns, for the rows that fulfil all conditions.
    Columns(Vec<Test>),
    /// Any other index that a user has added. PostgreSQL evaluates it.
    General,
}

/// A condition of a partial index. Columns count from 0.
#[derive(Debug, PartialEq)]
pub enum Test {
    Null(usize),
    NotNull(usize),
    True(usize),
    False(usize),
    /// The bigint is greater.
    Above(usize, i64),
    /// The text is another one.
    TextNot(usize, Vec<u8>),
}

impl Test {
    fn holds(&self, values: &[Datum], nulls: &[bool]) -> bool {
        let value = |column: usize| (!nulls[column]).then(|| values[column]);
        match self {
            Test::Null(column) => nulls[*column],
            Test::NotNull(column) => !nulls[*column],
            Test::True(column) => value(*column).is_some_and(|value| value.value() as u8 != 0),
            Test::False(column) => value(*column).is_some_and(|value| value.value() as u8 == 0),
            Test::Above(column, bound) => value(*column).is_some_and(|value| value.value() as i64 > *bound),
            Test::TextNot(column, text) => value(*column).is_some_and(|value| {
                // SAFETY: `condition` has checked that the column is a text.
                unsafe { <&[u8] as pgrx::FromDatum>::from_datum(value, false) != Some(&text[..]) }
            }),
        }
    }
}

impl Table {
    /// Opens a table with these columns. The lock is held until the transaction ends, like that of an INSERT.
    ///
    /// # Errors
    /// 55000 if the table has other columns.
    pub fn open(table: Oid, columns: &[Oid]) -> Result<Table> {
        // SAFETY: plain relation access; an ERROR becomes a panic in pgrx's guards.
        unsafe {
            let relation = pg_sys::table_open(table, pg_sys::RowExclusiveLock as _);
            if let Err(altered) = shape::check(relation, columns) {
                pg_sys::table_close(relation, pg_sys::NoLock as _);
                return Err(altered);
            }
            let list = pg_sys::RelationGetIndexList(relation);
            let mut indexes = Vec::with_capacity(2);
            for i in 0..(if list.is_null() { 0 } else { (*list).length }) {
                let oid = (*(*list).elements.add(i as usize)).oid_value;
                let index = pg_sys::index_open(oid, pg_sys::RowExclusiveLock as _);
                let index = Index::of(index);
                if !(*index.info).ii_ReadyForInserts {
                    pg_sys::index_close(index.relation, pg_sys::NoLock as _);
                    continue;
                }
                indexes.push(index);
            }
            Ok(Table { relation, indexes })
        }
    }

    /// Opens a table whose rows are to be changed, and which may be written in another way as well. `None`: it has other
    /// columns, a trigger, a rule, a check constraint, or an index that only the executor can maintain.
    ///
    /// # Errors
    /// 55000 if the table does not exist.
    pub fn open_plain(name: &str, columns: &[Oid]) -> Result<Option<Table>> {
        let table = match Table::open(catalog::lookup(name)?, columns) {
            Ok(table) => table,
            Err(_) => return Ok(None),
        };
        // SAFETY: the table is open.
        let triggers = unsafe { !(*table.relation).trigdesc.is_null() };
        // SAFETY: as above; a descriptor has constraints or null.
        let conditions = unsafe {
            let constraints = (*(*table.relation).rd_att).constr;
            !(*table.relation).rd_rules.is_null() || !constraints.is_null() && (*constraints).num_check > 0
        };
        let plain =
            !triggers && !conditions && table.indexes.iter().all(|index| matches!(index.shape, Shape::Columns(_)));
        if !plain {
            table.close();
            return Ok(None);
        }
        Ok(Some(table))
    }

    /// The open index of this name, if it is a valid B-tree over these columns for the rows that fulfil these conditions.
    pub fn named(&self, name: &str, columns: &[usize], conditions: &[Test]) -> Option<pg_sys::Relation> {
        let oid = catalog::lookup(name).ok()?;
        // SAFETY: the indexes are open.
        let index = self.indexes.iter().find(|i| unsafe { (*i.relation).rd_id } == oid)?;
        index.is(columns, conditions).then_some(index.relation)
    }

    /// The open table.
    pub fn relation(&self) -> pg_sys::Relation {
        self.relation
    }

    /// The open index with this OID, if the table has it and it is unique.
    pub fn index(&self, index: pg_sys::Oid) -> Option<pg_sys::Relation> {
        // SAFETY: the indexes are open.
        let found = self.indexes.iter().find(|i| unsafe { (*i.relation).rd_id } == index)?;
        (found.unique == pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES).then_some(found.relation)
    }

    /// Makes a tuple of a row, in the current memory context. Columns that were added and dropped again are null.
    unsafe fn tuple(&self, values: &mut [Datum], nulls: &mut [bool]) -> pg_sys::HeapTuple {
        // SAFETY: `open` has checked that the table has at least as many columns as the slices have entries.
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
    pub fn append(&self, values: &mut [Datum], nulls: &mut [bool]) {
        // SAFETY: both slices have one entry per column of ours; the tuple lives in the current memory context.
        unsafe {
            let tuple = self.tuple(values, nulls);
            let command = pg_sys::GetCurrentCommandId(true);
            pg_sys::heap_insert(self.relation, tuple, command, 0, std::ptr::null_mut());
            let tid = &raw mut (*tuple).t_self;
            for index in &self.indexes {
                match &index.shape {
                    Shape::Columns(tests) if tests.iter().all(|test| test.holds(values, nulls)) => {
                        index.insert_columns(self.relation, values, nulls, tid, false);
                    }
                    Shape::Columns(_) => {}
                    Shape::General => index.insert_general(self.relation, tuple),
                }
            }
            pg_sys::heap_freetuple(tuple);
        }
    }

    /// Replaces columns of a row, and says whether it did: not if another session has locked, changed or deleted the row. Of a
    /// table that `open_plain` has opened.
    ///
    /// # Safety
    /// The tuple is one of this table, and each value has its column's type.
    pub unsafe fn update(&self, old: pg_sys::HeapTuple, changes: &[(usize, Option<Datum>)]) -> bool {
        // SAFETY: by contract; the arrays have an entry per column, and the new tuple lives in the current memory context.
        unsafe {
            let descriptor = (*self.relation).rd_att;
            let columns = (*descriptor).natts as usize;
            let (mut values, mut nulls) = (vec![Datum::null(); columns], vec![true; columns]);
            let mut replaced = vec![false; columns];
            for (column, value) in changes {
                (values[*column], nulls[*column]) = (value.unwrap_or(Datum::null()), value.is_none());
                replaced[*column] = true;
            }
            let (v, n) = (values.as_mut_ptr(), nulls.as_mut_ptr());
            let new = pg_sys::heap_modify_tuple(old, descriptor, v, n, replaced.as_mut_ptr());
            let (mut failure, mut lock): (pg_sys::TM_FailureData, _) = (std::mem::zeroed(), 0);
            let command = pg_sys::GetCurrentCommandId(true);
            let done = pg_sys::heap_update(
                self.relation,
                &raw mut (*old).t_self,
                new,
                command,
                std::ptr::null_mut(),
                false,
                &mut failure,
                &mut lock,
                #[cfg(not(feature = "pg15"))]
                &mut 0,
            ) == pg_sys::TM_Result::TM_Ok;
            // Other versions of a row on its page (HOT) share the index entries of the first.
            if done && u32::from((*(*new).t_data).t_infomask2) & pg_sys::HEAP_ONLY_TUPLE == 0 {
                pg_sys::heap_deform_tuple(new, descriptor, v, n);
                for index in &self.indexes {
                    let Shape::Columns(tests) = &index.shape else { continue };
                    if tests.iter().all(|test| test.holds(&values, &nulls)) {
                        let same = !index.columns().any(|column| replaced[column]);
                        index.insert_columns(self.relation, &values, &nulls, &raw mut (*new).t_self, same);
                    }
                }
            }
            pg_sys::heap_freetuple(new);
            done
        }
    }

    /// Deletes a row. `wait`: waits for a session that has locked the row.
    ///
    /// # Safety
    /// The tuple is one of this table.
    pub unsafe fn delete(&self, tuple: pg_sys::HeapTuple, wait: bool) -> pg_sys::TM_Result::Type {
        // SAFETY: by contract.
        unsafe {
            let mut failure: pg_sys::TM_FailureData = std::mem::zeroed();
            let command = pg_sys::GetCurrentCommandId(true);
            let (tid, any) = (&raw mut (*tuple).t_self, std::ptr::null_mut());
            pg_sys::heap_delete(self.relation, tid, command, any, wait, &mut failure, false)
        }
    }

    /// Appends one row of columns, in their order.
    pub fn append_row<const N: usize>(&self, columns: [Option<Datum>; N]) {
        self.append(&mut columns.map(|c| c.unwrap_or(Datum::null())), &mut columns.map(|c| c.is_none()));
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
                        match &index.shape {
                            Shape::Columns(tests) if tests.iter().all(|test| test.holds(values, nulls)) => {
                                index.insert_columns(self.relation, values, nulls, tid, false);
                            }
                            Shape::Columns(_) => {}
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

    /// Closes the table and its indexes; the locks stay.
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
    let mut leaf = Table::open(catalog::lookup(&format!("_{ring}_{segment:02}"))?, columns)?;
    leaf.append_all(
        rows(segment as i16)
            .into_iter()
            .map(|columns| (columns.map(|c| c.unwrap_or(Datum::null())), columns.map(|c| c.is_none()))),
    );
    leaf.close();
    Ok(())
}

impl Index {
    /// # Safety
    /// The index is open.
    unsafe fn of(relation: pg_sys::Relation) -> Index {
        // SAFETY: by contract.
        unsafe {
            let info = pg_sys::BuildIndexInfo(relation);
            let unique = if (*info).ii_Unique {
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
            } else {
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
            };
            Index { relation, info, unique, shape: shape(relation, info) }
        }
    }

    /// Whether it is a valid B-tree over these columns, for the rows that fulfil these conditions.
    fn is(&self, columns: &[usize], conditions: &[Test]) -> bool {
        // SAFETY: the index is open.
        let usable = unsafe {
            (*(*self.relation).rd_rel).relam == pg_sys::BTREE_AM_OID && (*(*self.relation).rd_index).indisvalid
        };
        let Shape::Columns(tests) = &self.shape else { return false };
        usable && tests[..] == *conditions && self.columns().eq(columns.iter().copied())
    }

    /// The key columns, from 0.
    fn columns(&self) -> impl Iterator<Item = usize> {
        // SAFETY: the attribute numbers of an index over plain columns are 1 .. natts.
        let (count, numbers) = unsafe { ((*self.info).ii_NumIndexAttrs as usize, (*self.info).ii_IndexAttrNumbers) };
        (0..count).map(move |i| numbers[i] as usize - 1)
    }

    /// `same`: the row is a new version with the same keys.
    unsafe fn insert_columns(
        &self,
        table: pg_sys::Relation,
        values: &[Datum],
        nulls: &[bool],
        tid: pg_sys::ItemPointer,
        same: bool,
    ) {
        let mut keys = [Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
        let mut key_nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
        // SAFETY: the values have an entry per column of the table.
        unsafe {
            for (i, column) in self.columns().enumerate() {
                keys[i] = values[column];
                key_nulls[i] = nulls[column];
            }
            self.insert(table, &mut keys, &mut key_nulls, tid, same);
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
                self.insert(table, &mut keys, &mut key_nulls, &raw mut (*tuple).t_self, false);
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
        same: bool,
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
                same,
                self.info,
            );
        }
    }
}

/// Whether an open index is a valid B-tree over these columns, for the rows that fulfil these conditions.
///
/// # Safety
/// The index is open.
pub unsafe fn is_index(index: pg_sys::Relation, columns: &[usize], conditions: &[Test]) -> bool {
    // SAFETY: by contract.
    unsafe { Index::of(index) }.is(columns, conditions)
}

/// Recognises an index over plain columns that has no predicate, or a predicate of conditions that `Test` knows.
unsafe fn shape(index: pg_sys::Relation, info: *mut pg_sys::IndexInfo) -> Shape {
    // SAFETY: PostgreSQL built `info`. The list of a predicate holds nodes that are joined by AND.
    unsafe {
        // A deferred constraint is checked later. A summary (BRIN) changes with a version of a row that stays on its page.
        #[cfg(not(feature = "pg15"))]
        let summarizes = (*(*index).rd_indam).amsummarizing;
        #[cfg(feature = "pg15")]
        let summarizes = false;
        let later = !(*(*index).rd_index).indimmediate;
        if summarizes || later || !(*info).ii_Expressions.is_null() || !(*info).ii_ExclusionOps.is_null() {
            return Shape::General;
        }
        let predicate = (*info).ii_Predicate;
        let count = if predicate.is_null() { 0 } else { (*predicate).length };
        let nodes = (0..count).map(|i| (*(*predicate).elements.add(i as usize)).ptr_value.cast::<pg_sys::Node>());
        nodes.map(|node| condition(node)).collect::<Option<_>>().map_or(Shape::General, Shape::Columns)
    }
}

/// Reads a node of a predicate.
unsafe fn condition(node: *mut pg_sys::Node) -> Option<Test> {
    // SAFETY: a node's tag says what it is, and is checked before each cast. The arguments of an operator are two.
    unsafe {
        let argument = |list: *mut pg_sys::List, i: usize| (*(*list).elements.add(i)).ptr_value.cast::<pg_sys::Node>();
        match (*node).type_ {
            pg_sys::NodeTag::T_Var => Some(Test::True(column(node)?)),
            pg_sys::NodeTag::T_BoolExpr => {
                let node = node.cast::<pg_sys::BoolExpr>();
                let not = (*node).boolop == pg_sys::BoolExprType::NOT_EXPR;
                not.then(|| column(argument((*node).args, 0))).flatten().map(Test::False)
            }
            pg_sys::NodeTag::T_NullTest => {
                let node = node.cast::<pg_sys::NullTest>();
                let column = column((*node).arg.cast())?;
                let null = (*node).nulltesttype == pg_sys::NullTestType::IS_NULL;
                Some(if null { Test::Null(column) } else { Test::NotNull(column) })
            }
            pg_sys::NodeTag::T_OpExpr => {
                let node = node.cast::<pg_sys::OpExpr>();
                let (left, right) = (argument((*node).args, 0), argument((*node).args, 1));
                let column = column(left)?;
                if (*right).type_ != pg_sys::NodeTag::T_Const || (*right.cast::<pg_sys::Const>()).constisnull {
                    return None;
                }
                let value = (*right.cast::<pg_sys::Const>()).constvalue;
                match pg_sys::get_opcode((*node).opno).to_u32() {
                    pg_sys::F_INT8GT => Some(Test::Above(column, value.value() as i64)),
                    pg_sys::F_INT84GT => Some(Test::Above(column, i64::from(value.value() as i32))),
                    // Texts that differ under a deterministic collation differ in their bytes.
                    pg_sys::F_TEXTNE if (*node).inputcollid == pg_sys::DEFAULT_COLLATION_OID => {
                        let text = <&[u8] as pgrx::FromDatum>::from_datum(value, false)?;
                        Some(Test::TextNot(column, text.to_vec()))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// The column of a node that is one, from 0.
unsafe fn column(node: *mut pg_sys::Node) -> Option<usize> {
    // SAFETY: the tag is checked before the cast.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_Var {
            return None;
        }
        usize::try_from((*node.cast::<pg_sys::Var>()).varattno).ok()?.checked_sub(1)
    }
}
