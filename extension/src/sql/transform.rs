//! Calls of transforms (`sql/schema/route/transform.sql`).
//!
//! Invariants:
//! * A transform has a result and no other effect: its subtransaction is undone, whatever the result is.
//! * A call is cancelled after `pg_outbox.transform_timeout`. A failure is a value, except where the server or the session, and not
//!   the transform, is the cause: then the calling statement fails.
//! * A transform calls no transform: there is one timer.

use std::time::Duration;

use outbox_core::{Code, Error, Result};
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{IntoDatum, PgSqlErrorCode};

use crate::pg::function::{STATE, five};
use crate::pg::identity::{Function, run_code_of};
use crate::pg::timer::CallTimer;
use crate::pg::txn;
use crate::shared::shmem;
use crate::worker::now;
use crate::{pg_function, settings};

/// Longest text of an error that is kept, in characters.
const LONGEST: usize = 500;

/// The text of a jsonb value.
fn text_of(json: Datum) -> Result<String> {
    // SAFETY: the signature says jsonb; the copy lives in the current memory context.
    let text = unsafe {
        let value = pg_sys::pg_detoast_datum(json.cast_mut_ptr());
        let text = pg_sys::makeStringInfo();
        let size = pgrx::varsize_any(value) as i32;
        pg_sys::JsonbToCString(text, &raw mut (*value.cast::<pg_sys::Jsonb>()).root, size);
        String::from_utf8_lossy(std::slice::from_raw_parts((*text).data.cast::<u8>(), (*text).len as usize))
            .into_owned()
    };
    let most = settings::MAX_PAYLOAD.get() as usize * 1024;
    if text.len() > most {
        let found = format!("the payload that it returned has {} bytes; pg_outbox.max_payload is {most}", text.len());
        return Err(Error::new(Code::TooLarge, found));
    }
    Ok(text)
}

pg_function! {
    /// outbox_internal.call_transform(function oid, message outbox.feed_message, until timestamptz) returns text[]: the payload and
    /// the error; null: the time was over before the call.
    fn outbox_call_transform(args) {
        if args.get::<i64>(2).is_some_and(|until| now() >= until) {
            return Ok(None);
        }
        // SAFETY: reads a variable of the session.
        if unsafe { pg_sys::InSecurityRestrictedOperation() } {
            let denied = "cannot call a transform within a security-restricted operation";
            return Err(Error::new(Code::NotPermitted, denied).hint("A transform cannot call outbox.resend() or outbox.requeue()."));
        }
        // SAFETY: PostgreSQL passes the call site of the function that it calls.
        let own = unsafe { Function::of((*args.site()).fn_oid) };
        let function = args.get::<Oid>(0).and_then(Function::of);
        let (Some(own), Some(function)) = (own, function) else {
            return Err(Error::new(Code::NotFound, "the function does not exist"));
        };
        if !function.is(&[own.argument(1)], pg_sys::JSONBOID) {
            return Err(Error::invalid("the transform has another signature"));
        }
        let (slot, state) = (shmem::own_slot(), function.state());
        if slot.is_some_and(|slot| slot.distrusts(state)) {
            let why = "57P01: it has ended the dispatcher, and is not called again before it is replaced".to_owned();
            return Ok(vec![None, Some(why)].into_datum());
        }
        slot.into_iter().for_each(|slot| slot.set_calling(state));
        let limit = Duration::from_millis(settings::TRANSFORM_TIMEOUT.get().max(1) as u64);
        let outcome = txn::undone(|| {
            let timer = CallTimer::start(limit);
            // SAFETY: the argument has the type of the function's parameter, as checked above.
            let made = run_code_of(function.owner, || {
                let result = unsafe { function.call(pg_sys::DEFAULT_COLLATION_OID, &[args.datum(1)]) };
                result.map(text_of).transpose()
            });
            timer.stop();
            made
        });
        slot.into_iter().for_each(|slot| slot.set_calling(0));
        let (is_over, noted) = (CallTimer::take_over(), STATE.take());
        let (payload, error) = match outcome {
            _ if is_over => (None, Some("57014: it took longer than pg_outbox.transform_timeout".to_owned())),
            Ok(payload) => (payload, None),
            Err(failure) => {
                let state = if &failure.state == b"XX000" && noted > 0 { five(noted) } else { failure.state };
                if let [b'5', b'3' | b'7' | b'8', ..] = state {
                    pgrx::ereport!(ERROR, PgSqlErrorCode::ERRCODE_QUERY_CANCELED, failure.message);
                }
                let text: String = failure.message.chars().take(LONGEST).collect();
                (None, Some(format!("{}: {text}", String::from_utf8_lossy(&state))))
            }
        };
        Ok(vec![payload, error].into_datum())
    }
}
