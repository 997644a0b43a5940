//! What the SQL of pull workers needs from the library.

use std::time::Duration;

use outbox_core::schedule::{self, Schedule};
use pgrx::{IntoDatum, datum::Interval, pg_sys};

use crate::{pg_function, shmem};

pg_function! {
    /// outbox._retry_wait(schedule jsonb, attempt int, message_id bigint, subscription_id int) returns interval
    fn outbox_retry_wait(args) {
        let attempt = args.get::<i32>(1).and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        let message: i64 = args.get(2).unwrap_or_default();
        let subscription: i32 = args.get(3).unwrap_or_default();
        let seed = schedule::mix(message.cast_unsigned()) ^ subscription as u64;
        Ok(interval(Schedule::default().jittered(attempt, seed)))
    }
}

fn interval(wait: Duration) -> Option<pg_sys::Datum> {
    Interval::from_micros(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)).into_datum()
}

pg_function! {
    /// outbox._dispatcher_lives() returns boolean
    fn outbox_dispatcher_lives(_args) {
        // SAFETY: a constant of this backend.
        let slot = shmem::shared().and_then(|shared| shared.slot_of(unsafe { pg_sys::MyDatabaseId }));
        let lives = slot.is_some_and(|slot| slot.pid.load(std::sync::atomic::Ordering::Relaxed) != 0);
        Ok(lives.into_datum())
    }
}
