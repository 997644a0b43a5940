//! OIDs of the extension's own relations, looked up once per backend.
//!
//! Invariant: an entry is dropped as soon as PostgreSQL announces a change of its relation, so a session notices DROP
//! EXTENSION followed by CREATE EXTENSION. The callback only clears the cache: it may run where nothing is allowed to fail.

use std::cell::{Cell, RefCell};

use outbox_core::{Code, Error, Result};
use pgrx::pg_sys;

/// Leaves of a log's ring.
pub const LEAVES: usize = 16;

/// The relations that `enqueue` needs.
#[derive(Clone, Copy)]
pub struct Relations {
    pub message_id: pg_sys::Oid,
    pub message_segment: pg_sys::Oid,
    pub messages: [pg_sys::Oid; LEAVES],
    /// The permanent leaf with the events, and its unique index on stream and version.
    pub events: pg_sys::Oid,
    pub stream_index: pg_sys::Oid,
    /// A subscription of logical replication writes the messages: an id drawn here would collide with one of the original.
    pub replicated: bool,
}

thread_local! {
    static RELATIONS: RefCell<Option<Relations>> = const { RefCell::new(None) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Returns the relations of this database's outbox.
///
/// # Errors
/// 55000 if the extension is not installed in this database (its library can be loaded without it).
pub fn relations() -> Result<Relations> {
    if let Some(found) = RELATIONS.with_borrow(|cached| *cached) {
        return Ok(found);
    }
    if !REGISTERED.replace(true) {
        // SAFETY: the callback touches only this module's thread-local cell and cannot fail.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(relcache_changed), pg_sys::Datum::null());
            let subscriptions = pg_sys::SysCacheIdentifier::SUBSCRIPTIONRELMAP as i32;
            pg_sys::CacheRegisterSyscacheCallback(subscriptions, Some(subscriptions_changed), pg_sys::Datum::null());
        }
    }
    let mut messages = [pg_sys::InvalidOid; LEAVES];
    for (i, leaf) in messages.iter_mut().enumerate() {
        *leaf = lookup(&format!("_message_{i:02}"))?;
    }
    let (message_id, message_segment) = (lookup("_message_id")?, lookup("_message_segment")?);
    // A publication contains the leaves, or their parent in their place.
    let events = lookup("_message_event")?;
    // Only appending to streams needs it, and reports that it is missing.
    let stream_index = lookup("_message_event_stream").unwrap_or(pg_sys::InvalidOid);
    let replicated =
        is_subscribed(lookup("message")?) || is_subscribed(events) || messages.iter().any(|leaf| is_subscribed(*leaf));
    let found = Relations { message_id, message_segment, messages, events, stream_index, replicated };
    RELATIONS.set(Some(found));
    Ok(found)
}

/// Returns the OID of `outbox.<name>`.
///
/// # Errors
/// 55000 if there is no such relation.
pub fn lookup(name: &str) -> Result<pg_sys::Oid> {
    let c_name = std::ffi::CString::new(name).map_err(|e| Error::new(Code::Internal, e.to_string()))?;
    // SAFETY: both names are NUL-terminated; a missing schema or relation gives InvalidOid. Outside a transaction the
    // catalog cannot be read, which is checked first.
    let oid = unsafe {
        if !pg_sys::IsTransactionState() {
            return Err(Error::new(Code::Internal, "catalog look-up outside a transaction"));
        }
        let schema = pg_sys::get_namespace_oid(c"outbox".as_ptr(), true);
        pg_sys::get_relname_relid(c_name.as_ptr(), schema)
    };
    if oid == pg_sys::InvalidOid {
        return Err(Error::new(Code::NotInThisState, format!("relation \"outbox.{name}\" does not exist"))
            .hint("Run CREATE EXTENSION pg_outbox in this database."));
    }
    Ok(oid)
}

/// Whether a subscription of this database writes a table.
fn is_subscribed(table: pg_sys::Oid) -> bool {
    // SAFETY: one look-up in the catalog's cache, released at once.
    unsafe {
        let (key, none) = (pg_sys::Datum::from(table), pg_sys::Datum::null());
        let list =
            pg_sys::SearchSysCacheList(pg_sys::SysCacheIdentifier::SUBSCRIPTIONRELMAP as i32, 1, key, none, none);
        let members = (*list).n_members;
        pg_sys::ReleaseCatCacheList(list);
        members > 0
    }
}

unsafe extern "C-unwind" fn subscriptions_changed(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    RELATIONS.set(None);
}

unsafe extern "C-unwind" fn relcache_changed(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    RELATIONS.with_borrow_mut(|cached| {
        if cached.as_ref().is_some_and(|r| {
            relation == pg_sys::InvalidOid
                || relation == r.message_id
                || relation == r.message_segment
                || relation == r.events
                || relation == r.stream_index
                || r.messages.contains(&relation)
        }) {
            *cached = None;
        }
    });
}

unsafe extern "C-unwind" {
    // commands/sequence.h, which pgrx does not bind.
    fn nextval_internal(relation: pg_sys::Oid, check_permissions: bool) -> i64;
}

/// Draws the next value of a sequence, regardless of the current user's rights.
#[expect(ffi_unwind_calls, reason = "the call is guarded")]
pub fn next_value(sequence: pg_sys::Oid) -> i64 {
    // SAFETY: an ERROR inside becomes a panic at this boundary.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| nextval_internal(sequence, false)) }
}

/// Reads the current value of a sequence from its page. This needs no privilege, no snapshot and no transaction.
pub fn current_value(sequence: pg_sys::Oid) -> i64 {
    // SAFETY: a sequence is one page with one tuple of a fixed layout; the page is pinned and share-locked while it is read.
    unsafe {
        let relation = pg_sys::relation_open(sequence, pg_sys::AccessShareLock as _);
        if (*(*relation).rd_rel).relkind != pg_sys::RELKIND_SEQUENCE as std::ffi::c_char {
            let code = pgrx::PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
            pgrx::ereport!(
                pgrx::PgLogLevel::ERROR,
                code,
                "a sequence of pg_outbox has been replaced by something else"
            );
        }
        let buffer = pg_sys::ReadBuffer(relation, 0);
        pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as _);
        let page = pg_sys::BufferGetPage(buffer);
        let item = pg_sys::PageGetItem(page, pg_sys::PageGetItemId(page, 1)).cast::<pg_sys::HeapTupleHeaderData>();
        // FormData_pg_sequence_data starts with `int64 last_value`.
        let value = item.cast::<u8>().add((*item).t_hoff as usize).cast::<i64>().read();
        pg_sys::UnlockReleaseBuffer(buffer);
        pg_sys::relation_close(relation, pg_sys::NoLock as _);
        value
    }
}
