//! What the SQL of pull workers needs from the library.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use outbox_core::schedule::{self, Schedule};
use outbox_core::webhook_id::WebhookId;
use outbox_core::{Code, Error};
use pgrx::{IntoDatum, JsonB, datum::Interval, pg_sys};

use crate::function::record;
use crate::worker::route::UNIX_EPOCH;
use crate::worker::txn::{Plan, arg};
use crate::worker::wait;
use crate::{pg_function, shmem};

pg_function! {
    /// outbox._retry_wait(schedule jsonb, attempt int, message_id bigint, subscription_id int) returns interval
    fn outbox_retry_wait(args) {
        let attempt = args.get::<i32>(1).and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        let message: i64 = args.get(2).unwrap_or_default();
        let subscription: i32 = args.get(3).unwrap_or_default();
        let seed = schedule::mix(message.cast_unsigned()) ^ subscription as u64;
        let schedule = match args.get::<JsonB>(0) {
            Some(JsonB(json)) => Schedule::parse(&json)?,
            None => Schedule::default(),
        };
        Ok(interval(schedule.jittered(attempt, seed)))
    }
}

pg_function! {
    /// outbox.webhook_id(message_id bigint, enqueued_at timestamptz) returns text
    fn outbox_webhook_id(args) {
        let message_id: i64 = args.get(0).unwrap_or_default();
        let enqueued_at = args.datum(1).map_or(0, |at| at.value() as i64).wrapping_add(UNIX_EPOCH);
        Ok(WebhookId { message_id, enqueued_at }.text().into_datum())
    }
}

fn interval(wait: Duration) -> Option<pg_sys::Datum> {
    Interval::from_micros(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)).into_datum()
}

thread_local! {
    static IS_READY: RefCell<Plan> = const { RefCell::new(Plan::new("select outbox._is_ready($1)", &[pg_sys::TEXTOID])) };
}

/// How often a worker that waits looks by itself: for what becomes due. Without a dispatcher nobody else looks.
const LOOK: Duration = Duration::from_millis(1000);
const LOOK_ALONE: Duration = Duration::from_millis(200);

pg_function! {
    /// outbox.claim_wait(subscription text, timeout interval, inout ready boolean)
    fn outbox_claim_wait(args) {
        let subscription = args.get::<String>(0).ok_or_else(|| Error::new(Code::NullNotAllowed, "subscription must not be null"))?;
        let timeout = args.get::<Interval>(1).map_or(0, |i| i.as_micros()).clamp(0, 24 * 3600 * 1_000_000);
        let deadline = Instant::now() + Duration::from_micros(timeout as u64);
        if !args.may_commit() {
            return Err(Error::new(Code::InvalidTransaction, "claim_wait() cannot run inside a transaction block")
                .detail("It ends its transaction each time it begins to wait.")
                .hint("CALL it by itself, with autocommit."));
        }
        // SAFETY: this is the procedure's whole body; an ERROR ends SPI with the transaction.
        unsafe { pg_sys::SPI_connect_ext(pg_sys::SPI_OPT_NONATOMIC as i32) };
        let ready = loop {
            // Registered before it looks: a wake-up in between is not lost.
            if let Some(shared) = shmem::shared() {
                // SAFETY: a constant of this backend.
                shared.wait_here(unsafe { pg_sys::MyDatabaseId });
            }
            let ready = IS_READY
                .with_borrow_mut(|plan| plan.execute(&[arg(subscription.as_str())]).first(|row| row.text(0)))
                .flatten()
                .unwrap_or_default();
            let ready = match &*ready {
                "missing" => {
                    return Err(Error::new(Code::NotFound, format!("subscription \"{subscription}\" does not exist")));
                }
                "pushed" => {
                    return Err(Error::new(
                        Code::InvalidTransition,
                        format!("subscription \"{subscription}\" is pushed to an endpoint"),
                    ));
                }
                other => other == "ready",
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if ready || left.is_zero() {
                break ready;
            }
            // SAFETY: not atomic, so a commit is allowed. It gives the snapshot back.
            unsafe { pg_sys::SPI_commit() };
            wait(left.min(if shmem::shared().is_some() { LOOK } else { LOOK_ALONE }));
        };
        if let Some(shared) = shmem::shared() {
            shared.wait_no_more();
        }
        // SAFETY: connected above.
        unsafe { pg_sys::SPI_finish() };
        record(args, &[ready.into_datum()])
    }
}

/// What `_pick` remembers of a subscription: priorities, from where on to look in each, and until when that holds.
struct Marks {
    levels: Vec<i32>,
    since: Vec<i64>,
    until: Instant,
}

thread_local! {
    static MARKS: RefCell<HashMap<i32, Marks>> = RefCell::new(HashMap::new());
}

pg_function! {
    /// outbox._marks(subscription_id int, out levels int[], out since bigint[]): null when nothing is remembered.
    fn outbox_marks(args) {
        let subscription: i32 = args.get(0).unwrap_or_default();
        MARKS.with_borrow(|all| match all.get(&subscription).filter(|marks| marks.until > Instant::now()) {
            Some(marks) => record(args, &[marks.levels.clone().into_datum(), marks.since.clone().into_datum()]),
            None => record(args, &[None, None]),
        })
    }
}

pg_function! {
    /// outbox._set_marks(subscription_id int, levels int[], since bigint[], seconds double precision) returns void:
    /// seconds below 0: until when stays.
    fn outbox_set_marks(args) {
        let subscription: i32 = args.get(0).unwrap_or_default();
        let levels: Vec<i32> = args.get(1).unwrap_or_default();
        let since: Vec<i64> = args.get(2).unwrap_or_default();
        let seconds: f64 = args.get(3).unwrap_or_default();
        MARKS.with_borrow_mut(|all| {
            let until = match all.get(&subscription) {
                Some(marks) if seconds < 0.0 => marks.until,
                _ => Instant::now() + Duration::from_secs_f64(seconds.clamp(0.0, 60.0)),
            };
            all.insert(subscription, Marks { levels, since, until });
        });
        Ok(None)
    }
}
