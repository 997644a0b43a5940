//! Functions that the sequencer in SQL (`sql/schema/feed/sequencer.sql`) needs and SQL cannot provide.

use pgrx::{IntoDatum, pg_sys};

use crate::pg::catalog;
use crate::pg_function;
use crate::shared::wake;

pg_function! {
    /// outbox_internal.sequencer_lock() returns boolean: takes the sequencer's lock until the transaction ends, without waiting.
    fn outbox_sequencer_lock(_args) {
        let relation = catalog::lookup("_sequencer")?;
        // SAFETY: EXCLUSIVE conflicts with itself and assigns no xid, which ACCESS EXCLUSIVE would.
        let locked = unsafe { pg_sys::ConditionalLockRelationOid(relation, pg_sys::ExclusiveLock as _) };
        if locked {
            wake::refuse_prepare();
        }
        Ok(locked.into_datum())
    }
}

pg_function! {
    /// outbox_internal.next_xid() returns xid8: the first transaction id that is not yet assigned.
    fn outbox_next_xid(_args) {
        // SAFETY: reads shared memory under its own lock.
        Ok(Some(pg_sys::Datum::from(unsafe { pg_sys::ReadNextFullTransactionId() }.value)))
    }
}

pg_function! {
    /// outbox_internal.row_xid() returns xid8: the current (sub)transaction's id, which is assigned if there is none.
    fn outbox_row_xid(_args) {
        // SAFETY: inside a transaction, and not in a parallel worker: the function is parallel unsafe.
        Ok(Some(pg_sys::Datum::from(unsafe { pg_sys::GetCurrentFullTransactionId() }.value)))
    }
}

pg_function! {
    /// outbox_internal.timeline() returns int: the timeline on which WAL is written.
    fn outbox_timeline(_args) {
        let mut timeline: pg_sys::TimeLineID = 0;
        // SAFETY: called outside recovery only; in recovery no tick is possible.
        unsafe { pg_sys::GetFlushRecPtr(&mut timeline) };
        Ok((timeline as i32).into_datum())
    }
}

pg_function! {
    /// outbox_internal.database_oid() returns oid
    fn outbox_database_oid(_args) {
        // SAFETY: a constant of this backend.
        Ok(Some(pg_sys::Datum::from(unsafe { pg_sys::MyDatabaseId })))
    }
}

pg_function! {
    /// outbox_internal.leaf_is_settled(leaf smallint) returns boolean. The leaf is one of the ring.
    fn outbox_leaf_is_settled(args) {
        let leaf = args.get::<i16>(0).unwrap_or_default().rem_euclid(catalog::LEAVES as i16);
        let relation = catalog::relations()?.messages[leaf as usize];
        // SAFETY: SHARE conflicts with the lock of every transaction that writes or has written; it is released at once.
        unsafe {
            let free = pg_sys::ConditionalLockRelationOid(relation, pg_sys::ShareLock as _);
            if free {
                pg_sys::UnlockRelationOid(relation, pg_sys::ShareLock as _);
            }
            Ok(free.into_datum())
        }
    }
}

pg_function! {
    /// outbox_internal.lock_leaf(leaf regclass) returns boolean: takes ACCESS EXCLUSIVE until the transaction ends, without waiting.
    fn outbox_lock_leaf(args) {
        let leaf = args.get::<pg_sys::Oid>(0).unwrap_or(pg_sys::InvalidOid);
        // SAFETY: an OID that is no relation is no error for the lock manager. The call never waits.
        let locked = unsafe { pg_sys::ConditionalLockRelationOid(leaf, pg_sys::AccessExclusiveLock as _) };
        Ok(locked.into_datum())
    }
}

pg_function! {
    /// outbox_internal.maintenance_lock() returns boolean: takes maintenance's lock until the transaction ends, without waiting.
    fn outbox_maintenance_lock(_args) {
        let relation = catalog::lookup("_maintenance")?;
        // SAFETY: EXCLUSIVE conflicts with itself and with no reader, so pg_dump does not stop it.
        let locked = unsafe { pg_sys::ConditionalLockRelationOid(relation, pg_sys::ExclusiveLock as _) };
        Ok(locked.into_datum())
    }
}
