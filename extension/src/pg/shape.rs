//! The columns of tables that are read or written below the executor. That code checks no types, so a table that a user has
//! altered is refused when it is opened.

use outbox_core::{Code, Error, Result};
use pgrx::pg_sys::{self, Oid};

use pg_sys::{
    BOOLOID, BYTEAOID, FLOAT8OID, INT2OID, INT4OID, INT8ARRAYOID, INT8OID, INT8RANGEOID, INTERVALOID, JSONBOID, OIDOID,
    TEXTARRAYOID, TEXTOID, TIMESTAMPTZOID, UUIDOID, XID8OID,
};

pub const MESSAGE: &[Oid; crate::sql::enqueue::column::COUNT] = &[
    INT2OID,
    INT8OID,
    XID8OID,
    TIMESTAMPTZOID,
    TIMESTAMPTZOID,
    TIMESTAMPTZOID,
    TIMESTAMPTZOID,
    INT4OID,
    INT2OID,
    TEXTOID,
    TEXTOID,
    TEXTOID,
    TEXTOID,
    TEXTOID,
    TEXTOID,
    TEXTOID,
    TEXTOID,
    JSONBOID,
    JSONBOID,
    JSONBOID,
    BYTEAOID,
    INT8OID,
    UUIDOID,
];
pub const ATTEMPT: &[Oid; 23] = &[
    INT2OID,
    INT8OID,
    INT8OID,
    TIMESTAMPTZOID,
    TIMESTAMPTZOID,
    INT8OID,
    INT8OID,
    INT4OID,
    INT4OID,
    INT4OID,
    INT2OID,
    TEXTOID,
    TEXTOID,
    TEXTOID,
    TEXTOID,
    TEXTOID,
    TEXTOID,
    JSONBOID,
    TEXTOID,
    INT8ARRAYOID,
    INT8ARRAYOID,
    JSONBOID,
    INT8ARRAYOID,
];
pub const SUBSCRIPTION: &[Oid] = &[
    INT4OID,
    TEXTOID,
    INT4OID,
    INT4OID,
    INTERVALOID,
    JSONBOID,
    JSONBOID,
    TEXTOID,
    INT4OID,
    INTERVALOID,
    TEXTOID,
    TEXTOID,
    INTERVALOID,
    INTERVALOID,
    BOOLOID,
    INTERVALOID,
    TEXTOID,
    JSONBOID,
    TEXTOID,
    TEXTOID,
    BOOLOID,
    TIMESTAMPTZOID,
    TIMESTAMPTZOID,
];
pub const DELIVERY: &[Oid; 25] = &[
    INT8OID,
    INT4OID,
    INT8OID,
    INT8OID,
    INT8OID,
    INT2OID,
    BOOLOID,
    TEXTOID,
    BOOLOID,
    INT2OID,
    INT4OID,
    INT4OID,
    TIMESTAMPTZOID,
    TIMESTAMPTZOID,
    TEXTOID,
    INT8OID,
    TIMESTAMPTZOID,
    TIMESTAMPTZOID,
    INT2OID,
    TEXTOID,
    TEXTOID,
    TIMESTAMPTZOID,
    TIMESTAMPTZOID,
    BOOLOID,
    JSONBOID,
];
pub const BUNDLE: &[Oid; 10] = &[
    INT8OID,
    INT4OID,
    TIMESTAMPTZOID,
    INT2OID,
    INT8RANGEOID,
    INT8RANGEOID,
    INT8ARRAYOID,
    INT8ARRAYOID,
    INT8ARRAYOID,
    INT8OID,
];
pub const LEASE: &[Oid; 8] =
    &[INT8OID, INT4OID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8ARRAYOID, BOOLOID];
pub const CANCELLED: &[Oid] = &[INT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID];
pub const FREED_KEY: &[Oid; 2] = &[INT4OID, TEXTOID];
pub const COUNTER: &[Oid; 8] = &[INT2OID, INT4OID, INT4OID, TEXTOID, INT8OID, INT8OID, FLOAT8OID, TIMESTAMPTZOID];
pub const MESSAGE_COUNTER: &[Oid; 7] = &[INT2OID, TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID];
pub const LEASE_KEY: &[Oid] = &[BYTEAOID];
pub const TOPIC: &[Oid] = &[TEXTOID, BOOLOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID];
pub const STREAM: &[Oid] = &[TEXTOID, TIMESTAMPTZOID, INT8OID, INT8OID];
pub const PUBLISHER: &[Oid] =
    &[TEXTOID, BOOLOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID];
pub const GRANT: &[Oid] = &[
    TEXTOID,
    OIDOID,
    TEXTOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTOID,
    TIMESTAMPTZOID,
];

/// Checks that an open table has these columns in this order. Further columns must have been dropped: an ALTER TABLE can be
/// taken back in this way.
///
/// # Errors
/// 55000 if the table has other columns.
///
/// # Safety
/// The relation is open.
pub unsafe fn check(relation: pg_sys::Relation, columns: &[Oid]) -> Result<()> {
    // SAFETY: by contract; the descriptor has `natts` columns.
    unsafe {
        let descriptor = (*relation).rd_att;
        let count = (*descriptor).natts as usize;
        #[cfg(feature = "pg18")]
        let attributes = (*descriptor).compact_attrs.as_ptr().add(count).cast::<pg_sys::FormData_pg_attribute>();
        #[cfg(not(feature = "pg18"))]
        let attributes = (*descriptor).attrs.as_ptr();
        // A dropped column has no type.
        let mut types = (0..count).map(|i| (*attributes.add(i)).atttypid);
        let fits = (*(*relation).rd_rel).relam == pg_sys::HEAP_TABLE_AM_OID
            && columns.iter().all(|column| types.next() == Some(*column))
            && types.all(|column| column == pg_sys::InvalidOid);
        if fits { Ok(()) } else { Err(altered(relation)) }
    }
}

#[cold]
unsafe fn altered(relation: pg_sys::Relation) -> Error {
    // SAFETY: the relation is open.
    let name = unsafe { std::ffi::CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr()) };
    Error::new(Code::NotInThisState, format!("table \"outbox.{}\" has been altered", name.to_string_lossy()))
        .detail("It has not the columns, types and access method that pg_outbox gave it.")
        .hint("Take the ALTER TABLE back. What is to be stored beside messages belongs into a table of your own.")
}
