//! Functions that the SQL of pull workers calls.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use outbox_core::schedule::{self, Schedule};
use outbox_core::webhook_id::WebhookId;
use outbox_core::{Code, Error, Result, digest};
use pgrx::{IntoDatum, datum::Interval, pg_sys};

use crate::pg::function::record;
use crate::pg::txn::{Plan, arg};
use crate::pg::{catalog, shape};
use crate::pg_function;
use crate::shared::{claim_hints, shmem};
use crate::sql::registry;
use crate::worker::wait;
use outbox_dispatch::feed::UNIX_EPOCH;

pg_function! {
    /// outbox_internal.retry_wait(schedule jsonb, attempt int, message_id bigint, subscription_id int) returns interval
    fn outbox_retry_wait(args) {
        let attempt = args.get::<i32>(1).and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        let message: i64 = args.get(2).unwrap_or_default();
        let subscription: i32 = args.get(3).unwrap_or_default();
        let seed = schedule::mix(message.cast_unsigned()) ^ subscription as u64;
        let schedule = match args.json(0, "schedule")? {
            Some(json) => Schedule::parse(&json)?,
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

/// Number of leases drawn at once: asking the system for random bytes costs more than the rest of a lease.
const DRAWN: usize = 32;
/// Bits of a lease: as many as a JSON number, and a number in JavaScript, holds exactly. `MISSES` says why that is enough.
const LEASE_BITS: u32 = 53;
/// How often a session may name a lease that does not exist. From then on each time takes `MISS`. An attacker who guesses in
/// a hundred sessions, while ten thousand leases are held, needs months to find one.
const MISSES: u32 = 100;
const MISS: Duration = Duration::from_millis(1);

pg_function! {
    /// outbox_internal.new_lease() returns bigint
    fn outbox_new_lease(_args) {
        new_lease().map(IntoDatum::into_datum)
    }
}

/// A lease: a number that cannot be guessed.
pub fn new_lease() -> Result<i64> {
    thread_local!(static POOL: RefCell<Vec<i64>> = const { RefCell::new(Vec::new()) });
    let next = || POOL.with_borrow_mut(Vec::pop);
    if let Some(lease) = next() {
        return Ok(lease);
    }
    let mut random = [0u8; DRAWN * 8];
    let no_random_bytes = || Error::new(Code::Internal, "the system gives no random bytes");
    // SAFETY: fills a buffer of this length.
    if !unsafe { pg_sys::pg_strong_random(random.as_mut_ptr().cast(), random.len()) } {
        return Err(no_random_bytes());
    }
    POOL.with_borrow_mut(|pool| {
        for bytes in random.chunks_exact(8) {
            let number = bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
            pool.push((number >> (64 - LEASE_BITS)).max(1).cast_signed());
        }
    });
    next().ok_or_else(no_random_bytes)
}

pg_function! {
    /// outbox_internal.lease_id(lease bigint) returns bigint
    fn outbox_lease_id(args) {
        lease_id(args.get(0).unwrap_or_default()).map(IntoDatum::into_datum)
    }
}

/// The hash of a lease that is stored, made with the key of this outbox.
pub fn lease_id(lease: i64) -> Result<i64> {
    let table = catalog::lookup("_lease_key")?;
    let key = LEASE_KEY.with_borrow(|known| known.as_ref().filter(|(of, _)| *of == table).map(|(_, key)| *key));
    let key = match key {
        Some(key) => key,
        None => {
            let mut found = None;
            registry::scan(table, shape::LEASE_KEY, |row| found = row.bytes(0))?;
            let key = found.as_deref().and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
                Error::new(Code::NotInThisState, "the key of leases is missing").hint("CREATE EXTENSION makes it.")
            })?;
            LEASE_KEY.set(Some((table, key)));
            key
        }
    };
    let [a, b, c, d, e, f, g, h, ..] = digest::fingerprint([Some(&key[..]), Some(&lease.to_be_bytes()[..])]);
    Ok(i64::from_be_bytes([a, b, c, d, e, f, g, h]) & i64::MAX)
}

thread_local! {
    /// The key, and the table that it was read from. The table is another one after the extension was created again.
    static LEASE_KEY: RefCell<Option<(pg_sys::Oid, [u8; 32])>> = const { RefCell::new(None) };
    static MISSED: Cell<u32> = const { Cell::new(0) };
}

pg_function! {
    /// outbox_internal.note_unknown_lease() returns void: this session has named a lease that does not exist.
    fn outbox_note_unknown_lease(_args) {
        MISSED.set(MISSED.get().saturating_add(1));
        if MISSED.get() > MISSES {
            // SAFETY: the sleep is too short to need an interrupt; interrupts are checked after it.
            unsafe { pg_sys::pg_usleep(MISS.as_micros() as _) };
            pgrx::check_for_interrupts!();
        }
        Ok(None)
    }
}

fn interval(wait: Duration) -> Option<pg_sys::Datum> {
    Interval::from_micros(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)).into_datum()
}

thread_local! {
    static IS_READY: RefCell<Plan> = const { RefCell::new(Plan::new("select outbox_internal.is_ready($1)", &[pg_sys::TEXTOID])) };
}

/// A claim of n deliveries by statements is slow if it takes more CPU time than `SLOW` plus n times `SLOW_EACH`: then it has
/// scanned many entries that were of no use.
const SLOW: Duration = Duration::from_millis(2);
const SLOW_EACH: Duration = Duration::from_micros(50);

thread_local! {
    static ALWAYS_SLOW: Cell<bool> = const { Cell::new(false) };
}

/// The CPU time of the scan that has just found so many deliveries, if the scan was slow, so that the place where it ended is
/// worth remembering. `slow`: from which time on, and some for each delivery.
pub fn slow_walk(slow: Duration, found: usize) -> Option<Duration> {
    // A scan that always counts as slow has a hint that holds longer than any wait in a test.
    let walked = if ALWAYS_SLOW.get() { Duration::from_secs(3600) } else { claim_hints::walked() };
    (walked > slow + SLOW_EACH * found as u32).then_some(walked)
}

pg_function! {
    /// outbox_internal.remember_every_scan() returns void
    fn outbox_remember_every_scan(_args) {
        ALWAYS_SLOW.set(true);
        Ok(None)
    }
}

/// A due time as claim hints store it. Infinity is no number of microseconds; 0 stands for the time before everything.
fn due(at: Option<pg_sys::Datum>) -> i64 {
    at.map_or(0, |at| at.value() as i64).clamp(0, i64::MAX / 2)
}

/// How long hints hold after a scan that took this CPU time, in microseconds. So scans from the start take at most a
/// fiftieth of one session's time.
pub fn hint_lifetime(walked: Duration) -> i64 {
    50 * walked.as_micros().clamp(20_000, 1_200_000) as i64
}

/// How often a waiting worker looks by itself for deliveries that become due. Without a dispatcher no other process looks.
const POLL: Duration = Duration::from_millis(1000);
const POLL_ALONE: Duration = Duration::from_millis(200);

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
            // The session registers before it looks, so a wake-up in between is not lost.
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
            // SAFETY: the context is not atomic, so a commit is allowed. It releases the snapshot.
            unsafe { pg_sys::SPI_commit() };
            wait(left.min(if shmem::shared().is_some() { POLL } else { POLL_ALONE }));
        };
        if let Some(shared) = shmem::shared() {
            shared.wait_no_more();
        }
        // SAFETY: connected above.
        unsafe { pg_sys::SPI_finish() };
        record(args, &[ready.into_datum()])
    }
}

pg_function! {
    /// outbox_internal.claim_hints(subscription_id int, out levels int[], out since bigint[]): null if there are no claim hints.
    fn outbox_claim_hints(args) {
        match claim_hints::get(args.get(0).unwrap_or_default()) {
            Some((levels, since)) => record(args, &[levels.into_datum(), since.into_datum()]),
            None => record(args, &[None, None]),
        }
    }
}

pg_function! {
    /// outbox_internal.set_claim_hints(subscription_id int, levels int[], since bigint[], walked interval) returns void
    fn outbox_set_claim_hints(args) {
        let levels: Vec<i32> = args.get(1).unwrap_or_default();
        let since: Vec<i64> = args.get(2).unwrap_or_default();
        let walked = args.get::<Interval>(3).map_or(0, |walked| walked.as_micros());
        let walked = Duration::from_micros(u64::try_from(walked).unwrap_or_default());
        claim_hints::set(args.get(0).unwrap_or_default(), &levels, &since, hint_lifetime(walked));
        Ok(None)
    }
}

pg_function! {
    /// outbox_internal.slow_walk(found int) returns interval
    fn outbox_slow_walk(args) {
        let found = usize::try_from(args.get::<i32>(0).unwrap_or_default()).unwrap_or_default();
        Ok(slow_walk(SLOW, found).and_then(interval))
    }
}

pg_function! {
    /// outbox_internal.advance_claim_hints(subscription_id int, levels int[], since bigint[]) returns void
    fn outbox_advance_claim_hints(args) {
        let levels: Vec<i32> = args.get(1).unwrap_or_default();
        let since: Vec<i64> = args.get(2).unwrap_or_default();
        claim_hints::advance(args.get(0).unwrap_or_default(), &levels, &since);
        Ok(None)
    }
}

pg_function! {
    /// outbox_internal.note_name(name text, subscription_id int) returns void
    fn outbox_note_name(args) {
        claim_hints::note_name(args.get(0).unwrap_or_default(), args.get(1).unwrap_or_default());
        Ok(None)
    }
}

pg_function! {
    /// outbox_internal.lower_claim_hint(subscription_id int, priority int, due_at timestamptz) returns void
    fn outbox_lower_claim_hint(args) {
        claim_hints::put_back(args.get(0).unwrap_or_default(), args.get(1).unwrap_or_default(), due(args.datum(2)));
        Ok(None)
    }
}
