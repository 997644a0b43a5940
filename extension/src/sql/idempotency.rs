//! Idempotent enqueue: the part that must not run with the caller's rights.

use std::cell::RefCell;

use outbox_core::{Code, Error, Result};
use pgrx::pg_sys::{self, BYTEAOID, INT4OID, INT8ARRAYOID};

use crate::pg::catalog;
use crate::pg::txn::{Plan, arg};
use crate::settings;

thread_local! {
    static REMEMBER: RefCell<Plan> = const {
        RefCell::new(Plan::new("select r.known, r.same from outbox_internal.remember($1, $2, $3, $4) r", &[BYTEAOID, BYTEAOID, INT8ARRAYOID, INT4OID]))
    };
}

/// Remembers that `ids` were enqueued with a key. If the key is not new, returns the ids of the messages that were enqueued
/// with it.
///
/// # Errors
/// OB008 if the key was used with another content.
pub fn remember(key: [u8; 32], content: [u8; 32], ids: &[i64]) -> Result<Option<Vec<i64>>> {
    let table = catalog::lookup("_idempotency")?;
    // SAFETY: the table's owner is the extension's. The called function pins its search path, and the statement has no
    // operator that a search path could redirect. An ERROR resets user and SPI with the (sub)transaction that it aborts.
    unsafe {
        let relation = pg_sys::relation_open(table, pg_sys::AccessShareLock as _);
        let owner = (*(*relation).rd_rel).relowner;
        pg_sys::relation_close(relation, pg_sys::AccessShareLock as _);
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(owner, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
        pg_sys::SPI_connect();
        let known = REMEMBER.with_borrow_mut(|plan| {
            plan.execute(&[
                arg(key.to_vec()),
                arg(content.to_vec()),
                arg(ids.to_vec()),
                arg(settings::IDEMPOTENCY_WINDOW.get()),
            ])
            .first(|row| Some((row.get::<Vec<i64>>(0)?, row.get::<bool>(1).unwrap_or(false))))
            .flatten()
        });
        pg_sys::SPI_finish();
        pg_sys::SetUserIdAndSecContext(user, context);
        match known {
            None => Ok(None),
            Some((ids, true)) => Ok(Some(ids)),
            Some((ids, false)) => {
                let first = ids.first().copied().unwrap_or_default();
                Err(Error::new(Code::IdempotencyConflict, "the idempotency key was used with another content")
                    .detail(format!("Message {first} was enqueued with it."))
                    .hint("A key names one message of a tenant and topic: payload, content type and ordering key."))
            }
        }
    }
}
