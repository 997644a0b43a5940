//! The dispatcher process, one per database. This file is the life of the process; `outbox_dispatch::Engine` does the work.
//!
//! Cases it must survive:
//! * An ERROR of its own: the transaction is aborted, its rows stay as they were, and the work is repeated.
//! * SIGKILL or a crash of the server: the next incarnation continues from the last checkpoint.
//! * SIGTERM: no new requests start, requests in flight get a few seconds, and their outcomes are recorded. A commit then
//!   waits for a standby that does not answer for three seconds at most.
//! * DROP EXTENSION: the dispatcher leaves. DROP DATABASE and similar statements ask the dispatcher to leave, and it does.
//! * The extension gets another owner, or the owner is renamed or loses rights: the dispatcher reads the owner again and
//!   continues as the current owner.
//! * A second dispatcher of this database (there should never be one) waits until the first has released the advisory lock.
//! * If the HTTP thread dies or is stuck, the process exits and the launcher restarts it.
//! * Data that was restored or copied here is neither ticked nor pushed until it is adopted.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use outbox_core::egress::Egress;
use outbox_core::format::default_source;
use outbox_dispatch::{Engine, Wakeup};
use outbox_sender::{HeaderValue, Sender, Settings};
use pgrx::{pg_guard, pg_sys};

use super::Signals;
use crate::pg::txn;
use crate::settings;
use crate::shared::shmem::{self, Slot, State};
use crate::store::PgStore;
use crate::worker::evict::Evict;
use crate::worker::maintain::Maintenance;
use crate::worker::notify::Notifier;
use crate::worker::replay::Replays;
use crate::worker::session::{BEFORE_CONNECTING, PINNED, SQL, pin, set};
use crate::worker::{descriptors, now, wait};

/// Pause after a failed transaction. The pause doubles with each failure, up to the maximum.
const ERROR_WAIT: Duration = Duration::from_millis(100);
const ERROR_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often a dispatcher checks whether copied data has been adopted.
const COPIED_WAIT: Duration = Duration::from_secs(5);
/// How long a shutdown waits for requests in flight.
const GRACE: Duration = Duration::from_secs(5);

/// Approximate age at which a connection is replaced: its host name may resolve to another address by then.
const CONNECTION_AGE: Duration = Duration::from_secs(180);

/// The process's main function. The argument is the OID of the database.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_outbox_dispatcher_main(database: pg_sys::Datum) {
    let database = pg_sys::Oid::from(database.value() as u32);
    let Some(slot) = shmem::shared().and_then(|shared| shared.slot_of(database)) else { return };
    if slot.retire.load(Ordering::SeqCst) {
        return leave(slot, Leave::Asked);
    }
    descriptors::raise();
    // The HTTP thread starts while signals are blocked, so neither it nor its children ever receive a signal.
    let sender = Sender::start(settings(), wake_main());
    Signals::until_connected();
    pin(&BEFORE_CONNECTING);
    // SAFETY: called once, at the start of the process; the role is the bootstrap superuser until the owner is known.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0) };
    let mut signals = Signals::attach();
    pin_session();
    if !slot.attach() {
        // SAFETY: ends the process through PostgreSQL's own clean-up.
        unsafe { pg_sys::proc_exit(1) };
    }
    let why = match sender {
        Ok(sender) => live(slot, &mut signals, sender),
        Err(error) => {
            pgrx::log!("pg_outbox dispatcher: cannot start the HTTP thread: {error}");
            Leave::Failed
        }
    };
    leave(slot, why);
}

/// Ends the process and tells the launcher why. The callback of `Slot::attach` cleans up the rest of the slot.
fn leave(slot: &Slot, why: Leave) {
    match why {
        Leave::Absent => slot.set_state(State::Absent),
        Leave::Asked => slot.left.store(true, Ordering::SeqCst),
        Leave::Failed => {}
    }
    // SAFETY: ends the process through PostgreSQL's own clean-up.
    unsafe { pg_sys::proc_exit(i32::from(why == Leave::Failed)) };
}

/// Why a dispatcher ends.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Leave {
    /// The extension is not in this database.
    Absent,
    /// The dispatcher was asked to leave.
    Asked,
    /// The dispatcher cannot continue.
    Failed,
}

fn live(slot: &'static Slot, signals: &mut Signals, sender: Sender) -> Leave {
    // SAFETY: the callback stores a flag; both caches exist in every process.
    unsafe {
        for cache in [pg_sys::SysCacheIdentifier::NAMESPACEOID, pg_sys::SysCacheIdentifier::AUTHOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(owner_may_have_changed), pg_sys::Datum::from(0));
        }
    }
    match txn::run(|| Ok(become_owner())) {
        Ok(true) => {}
        Ok(false) => return Leave::Absent,
        Err(error) => {
            pgrx::log!("pg_outbox dispatcher: {error}");
            return Leave::Failed;
        }
    }
    while !lock_database() {
        slot.process.came_round();
        if signals.terminate() || slot.retire.load(Ordering::SeqCst) {
            return Leave::Asked;
        }
        wait(Duration::from_millis(200));
    }
    run(slot, signals, sender)
}

/// Runs the dispatcher once the process holds its lock.
fn run(slot: &'static Slot, signals: &mut Signals, sender: Sender) -> Leave {
    slot.own();
    slot.distrust_last();
    sender.set_settings(settings());
    let mut engine = Engine::new(PgStore::new(slot), sender);
    let mut maintenance = Maintenance::new();
    let mut notifier = Notifier::new();
    let mut replays = Replays::new();
    let mut evict = Evict::new();
    let mut error_wait = ERROR_WAIT;
    loop {
        if signals.terminate() || slot.retire.load(Ordering::SeqCst) {
            // Requests whose outcome could not be recorded would be sent again, so the owner has to be current.
            refresh_owner();
            engine.shut_down(GRACE);
            return Leave::Asked;
        }
        if !engine.is_alive() {
            pgrx::log!("pg_outbox dispatcher: the HTTP thread ended; starting again");
            return Leave::Failed;
        }
        if let Some(why) = engine.watch() {
            slot.set_error(&why, now());
            pgrx::log!("pg_outbox dispatcher: {why}; starting again");
            return Leave::Failed;
        }
        if engine.must_restart() {
            engine.shut_down(GRACE);
            return Leave::Failed;
        }
        slot.process.came_round();
        if signals.reload() {
            engine.set_settings(settings());
        }
        if OWNER_MAY_HAVE_CHANGED.swap(false, Ordering::Relaxed) {
            refresh_owner();
        }
        let rung = rung(slot);
        let pause = match engine.round() {
            Ok(Wakeup::In(pause)) => pause,
            Ok(Wakeup::Copied) => {
                slot.set_state(State::Copied);
                wait(COPIED_WAIT);
                continue;
            }
            Err(error) => {
                if !refresh_owner() {
                    return Leave::Absent;
                }
                slot.set_state(State::Failing);
                slot.set_error(&error.message, now());
                pgrx::log!("pg_outbox dispatcher: {error}; trying again in {error_wait:?}");
                // The round may have waited for a lock.
                evict.waited(true);
                rest(slot, signals, error_wait);
                error_wait = (error_wait * 2).min(ERROR_WAIT_MAX);
                continue;
            }
        };
        error_wait = ERROR_WAIT;
        evict.waited(engine.is_locked_out());
        slot.set_state(if settings::PUSH.get() { State::Running } else { State::PushOff });
        slot.publish(&engine.status());
        maintenance.run();
        if engine.take_replays_wanted() {
            replays.rescan();
        }
        if let Err(error) = replays.run() {
            pgrx::log!("pg_outbox dispatcher: replays: {error}");
        }
        let pause = pause.min(maintenance.wait()).min(replays.wait());
        let pause = engine.watch_in().map_or(pause, |wait| pause.min(wait));
        let pause = notifier.run(engine.end()).map_or(pause, |wait| pause.min(wait));
        // A wait for a lock, a read or a standby uses, and resets, the same latch. So the latch alone does not tell whether
        // there is new work; `rung` does.
        if pause.is_zero() || rung != self::rung(slot) || signals.heard() {
            // SAFETY: the latch is this process's own; the next round looks at everything that can set it.
            unsafe { pg_sys::ResetLatch(pg_sys::MyLatch) };
            pgrx::check_for_interrupts!();
        } else {
            wait(pause);
        }
    }
}

/// Sleeps for the whole time even when the latch is set: producers set it all the time, and must not turn a failure into a
/// busy loop.
fn rest(slot: &Slot, signals: &mut Signals, time: Duration) {
    let until = Instant::now() + time;
    while !signals.terminate() && !slot.retire.load(Ordering::SeqCst) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        wait(left);
        slot.process.came_round();
    }
}

/// Set when a role or a schema has changed: the extension may have another owner, or its owner other rights.
static OWNER_MAY_HAVE_CHANGED: AtomicBool = AtomicBool::new(false);

unsafe extern "C-unwind" fn owner_may_have_changed(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    OWNER_MAY_HAVE_CHANGED.store(true, Ordering::Relaxed);
}

/// Continues as the current owner of the extension. Returns `false` if the extension has been dropped.
fn refresh_owner() -> bool {
    // A failure here is not reported: the next round meets and reports it.
    txn::run(|| Ok(become_owner())) != Ok(false)
}

/// Finds the extension and becomes its owner. Returns `false` if the extension is not in this database.
fn become_owner() -> bool {
    // SAFETY: reads one row of pg_extension; inside a transaction.
    unsafe {
        if pg_sys::get_extension_oid(c"pg_outbox".as_ptr(), true) == pg_sys::InvalidOid {
            return false;
        }
        // The previous owner may have been dropped.
        let superuser = pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID);
        pg_sys::SetSessionAuthorization(superuser, true);
        let owner = pgrx::Spi::get_one::<pg_sys::Oid>(
            "select extowner from pg_catalog.pg_extension where extname = 'pg_outbox'",
        );
        match owner {
            Ok(Some(owner)) => {
                pg_sys::SetSessionAuthorization(owner, pg_sys::superuser_arg(owner));
                let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
                if !name.is_null() {
                    let _ = DATABASE.set(std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned());
                }
                true
            }
            _ => false,
        }
    }
}

/// Takes the lock that one dispatcher per database holds for life. It is an advisory lock of a class that no SQL function
/// can name. Unlike other session locks it survives an ERROR; it ends with the process.
pub fn lock_database() -> bool {
    // SAFETY: a lock tag on the stack.
    unsafe {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: pg_sys::MyDatabaseId.to_u32(),
            locktag_field2: u32::from_be_bytes(*b"pgob"),
            locktag_field3: 0,
            // The advisory locks of SQL functions have 1 or 2 here.
            locktag_field4: 0x0b0b,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        };
        pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as _, true, true)
            != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
    }
}

/// Releases the session's locks that a function of the user has taken, because they outlive its subtransaction. The function
/// can have released the lock for life, too.
pub fn release_locks() {
    // SAFETY: releases locks of this process, outside a transaction.
    unsafe { pg_sys::LockReleaseSession(pg_sys::USER_LOCKMETHOD as _) };
    if !lock_database() {
        // Another dispatcher has the lock now.
        // SAFETY: ends the process through PostgreSQL's own clean-up.
        unsafe { pg_sys::proc_exit(1) };
    }
}

fn pin_session() {
    pin(&PINNED);
    pin(&SQL);
    set(c"application_name", c"pg_outbox dispatcher");
    // A value stronger than `on` stays.
    // SAFETY: an enum setting of the server.
    if unsafe { pg_sys::synchronous_commit } == pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as i32 {
        set(c"synchronous_commit", c"on");
    }
}

/// How often the HTTP thread has set the latch.
static RUNG: AtomicU64 = AtomicU64::new(0);

/// Changes whenever a backend wakes the dispatcher or the HTTP thread sets the latch. Signals do not count.
fn rung(slot: &Slot) -> (u64, u64) {
    (slot.generation(), RUNG.load(Ordering::SeqCst))
}

/// Sets this process's latch from the HTTP thread.
#[expect(ffi_unwind_calls, reason = "the function raises no ERROR")]
fn wake_main() -> impl Fn() + Send + 'static {
    unsafe extern "C-unwind" {
        // This is not pgrx's guarded SetLatch, which panics on any thread but the main one. SetLatch raises no error and may
        // be called from signal handlers, so it is safe from another thread as well.
        fn SetLatch(latch: *mut std::ffi::c_void);
    }
    // SAFETY: MyLatch is this process's latch for as long as it lives.
    let latch = unsafe { pg_sys::MyLatch } as usize;
    move || {
        RUNG.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as above.
        unsafe { SetLatch(latch as *mut std::ffi::c_void) };
    }
}

/// Name of this process's database.
static DATABASE: std::sync::OnceLock<String> = std::sync::OnceLock::new();

fn settings() -> Settings {
    let text = |setting: &pgrx::GucSetting<Option<std::ffi::CString>>| {
        setting.get().map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let source = text(&settings::EVENT_SOURCE);
    let database = DATABASE.get().map(String::as_str).unwrap_or_default();
    // SAFETY: a constant of the cluster, in shared memory.
    let system = unsafe { pg_sys::GetSystemIdentifier() };
    let egress =
        Egress::parse(&text(&settings::EGRESS_ALLOW)).and_then(|e| e.with_ports(&text(&settings::EGRESS_PORTS)));
    // A malformed setting could mean anything, so nothing is called.
    let egress = egress.or_else(|error| {
        pgrx::log!("pg_outbox dispatcher: nothing is called: {error}");
        Egress::default().with_ports("0")
    });
    let mut dns = Vec::new();
    for server in text(&settings::NAME_SERVERS).split(',').map(str::trim).filter(|server| !server.is_empty()) {
        match server.parse().or_else(|_| server.parse().map(|ip: std::net::IpAddr| (ip, 53).into())) {
            Ok(address) => dns.push(address),
            Err(_) => pgrx::log!("pg_outbox dispatcher: malformed name server \"{server}\""),
        }
    }
    Settings {
        max_in_flight: settings::MAX_IN_FLIGHT.get() as usize,
        max_connections: descriptors::for_connections(),
        connection_age: CONNECTION_AGE,
        max_unrecorded: settings::MAX_UNRECORDED.get() as usize,
        egress: egress.unwrap_or_default(),
        source: if source.is_empty() { default_source(system, database) } else { source }.into(),
        dns,
        user_agent: HeaderValue::from_static(concat!("pg_outbox/", env!("CARGO_PKG_VERSION"))),
    }
}
