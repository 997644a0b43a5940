//! The work that an append causes in its own transaction: validation by event schemas, and inline projections.
//!
//! - A backend keeps the list of inline projections until a change of it commits. Most databases have none, and an append then
//!   pays for one comparison.
//! - The list is read with a snapshot of that moment. A transaction's own snapshot would not do: under REPEATABLE READ it is
//!   older than an invalidation that has already been processed, and an event would be missed for good.

use std::cell::Cell;

use outbox_core::{Code, Error, Result};
use pgrx::pg_sys::{self, Datum, Oid};

use crate::pg::catalog;
use crate::pg::identity::{Function, run_as};
use crate::pg_function;

/// The inline projections, an `outbox._projection[]` in memory that lasts as long as the backend.
#[derive(Clone, Copy)]
struct Work(Datum);

thread_local! {
    /// `None`: not known; `Some(None)`: there is nothing to do after an append.
    static WORK: Cell<Option<Option<Work>>> = const { Cell::new(None) };
    static TABLES: Cell<[Oid; 2]> = const { Cell::new([pg_sys::InvalidOid; 2]) };
    static CHANGES: Cell<u64> = const { Cell::new(0) };
    /// The last list, which is freed when the next one is read.
    static KEPT: Cell<Option<Work>> = const { Cell::new(None) };
}

/// Validates the events of these versions of a stream, which the transaction has just written, and gives them to the inline
/// projections.
pub fn run(stream: Datum, first: i64, last: i64) -> Result<()> {
    let known = match WORK.get() {
        Some(known) => known,
        None => load()?,
    };
    let Some(Work(projections)) = known else { return Ok(()) };
    // SAFETY: look-ups in the catalogue's cache.
    let list = unsafe { pg_sys::get_array_type(pg_sys::get_rel_type_id(catalog::lookup("_projection")?)) };
    let function = private(c"after_append", &[pg_sys::TEXTOID, pg_sys::INT8OID, pg_sys::INT8OID, list])?;
    // A copy for this call: a handler may append as well, and that may read the list again.
    // SAFETY: an array that is not toasted.
    let projections = Datum::from(unsafe { pg_sys::pg_detoast_datum_copy(projections.cast_mut_ptr()) });
    let arguments = [Some(stream), Some(Datum::from(first)), Some(Datum::from(last)), Some(projections)];
    // An error of a handler keeps its SQLSTATE, because `run_as` notes it.
    // SAFETY: the arguments have the types by which the function was found, and the function is the extension's own.
    unsafe {
        run_as(pg_sys::GetUserId(), || {
            function.call(pg_sys::DEFAULT_COLLATION_OID, &arguments);
            Ok(())
        })
    }
}

fn private(name: &std::ffi::CStr, arguments: &[Oid]) -> Result<Function> {
    // SAFETY: a look-up in the catalogue's cache.
    let schema = unsafe { pg_sys::get_namespace_oid(c"outbox_internal".as_ptr(), true) };
    Function::named(schema, name, arguments).ok_or_else(|| {
        Error::new(
            Code::NotInThisState,
            format!("function \"outbox_internal.{}\" does not exist", name.to_string_lossy()),
        )
    })
}

fn load() -> Result<Option<Work>> {
    thread_local!(static REGISTERED: Cell<bool> = const { Cell::new(false) });
    if !REGISTERED.replace(true) {
        // SAFETY: the callback touches only this module's thread-local cells and cannot fail.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(relcache_changed), Datum::null()) };
    }
    TABLES.set([catalog::lookup("_projection")?, catalog::lookup("event_schema")?]);
    let function = private(c"append_work", &[])?;
    let changes = CHANGES.get();
    // SAFETY: the snapshot is popped as soon as the function has returned; an ERROR ends it with the (sub)transaction. The
    // copy is an array, which is one piece of memory.
    let work = unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let found = function.call(pg_sys::DEFAULT_COLLATION_OID, &[]);
        pg_sys::PopActiveSnapshot();
        found.map(|list| {
            let context = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let copy = Datum::from(pg_sys::pg_detoast_datum_copy(list.cast_mut_ptr()));
            pg_sys::MemoryContextSwitchTo(context);
            if let Some(Work(old)) = KEPT.replace(Some(Work(copy))) {
                pg_sys::pfree(old.cast_mut_ptr());
            }
            Work(copy)
        })
    };
    if CHANGES.get() == changes {
        WORK.set(Some(work));
    }
    Ok(work)
}

unsafe extern "C-unwind" fn relcache_changed(_arg: Datum, relation: Oid) {
    if relation == pg_sys::InvalidOid || TABLES.get().contains(&relation) {
        CHANGES.set(CHANGES.get() + 1);
        WORK.set(None);
    }
}

pg_function! {
    /// outbox_internal.append_work_changed() returns trigger
    fn outbox_append_work_changed(_args) {
        for name in ["_projection", "event_schema"] {
            // SAFETY: queues messages that are sent when the transaction commits.
            unsafe { pg_sys::CacheInvalidateRelcacheByRelid(catalog::lookup(name)?) };
        }
        // A trigger returns a null pointer, which is not SQL's null.
        Ok(Some(Datum::null()))
    }
}
