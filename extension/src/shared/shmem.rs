//! Shared memory of the backends, the launcher and the dispatchers.
//!
//! It consists of atomics. Nothing here is locked (except in `claim_hints`), so a process that dies leaves no lock behind.
//! All-zero memory is the valid empty state. A process number can be stale, if its process has ended and another one has its
//! place. Waking it is then a spurious wake-up of another process, which every PostgreSQL process expects. Whether a process
//! lives is asked of PostgreSQL, never of the values stored here.

use std::mem::size_of;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use outbox_dispatch::engine::Status;
use pgrx::{pg_guard, pg_sys};

use crate::settings;
use crate::shared::claim_hints::Hints;
use crate::shared::histogram::Histogram;

/// The start of the shared memory; `max_databases` slots follow.
#[repr(C)]
pub struct Shared {
    pub launcher: Process,
    /// Increases whenever the launcher has to look at the list of databases again.
    launcher_generation: AtomicU64,
    /// Databases in which the extension may have been created or dropped since the launcher looked; 0: free entry.
    probes: [AtomicU32; 32],
    /// There were more requests than `probes` has entries: the launcher has to look at all databases.
    probe_all: AtomicBool,
    /// The limits (see `Limit`) because of which some database has no dispatcher now.
    lacking: AtomicU32,
    waiters: [Waiter; WAITERS],
    slots: u32,
}

/// Sessions in claim_wait that are woken when there is something to claim. Sessions beyond this number look once a second.
const WAITERS: usize = 256;
/// A waiter that has not registered again for this long (microseconds) is gone: it ended without giving its place back.
const WAITER_GONE: i64 = 5_000_000;

/// One session in claim_wait.
#[repr(C)]
struct Waiter {
    /// Process number plus one; 0: free.
    proc: AtomicU32,
    database: AtomicU32,
    /// When the session last registered (microseconds, PostgreSQL's epoch).
    seen: AtomicI64,
}

/// The launcher or a dispatcher, as other processes see it.
#[repr(C)]
pub struct Process {
    /// Process number plus one; 0: none.
    proc: AtomicU32,
    pid: AtomicI32,
    started_at: AtomicI64,
    /// When the process last completed its loop (microseconds, PostgreSQL's epoch).
    seen_at: AtomicI64,
}

impl Process {
    /// Makes the calling process this one. Returns `false` if another process has the place and lives.
    fn attach(&self) -> bool {
        let holder = self.pid.load(Ordering::SeqCst);
        // SAFETY: MyProcPid is set once at process start.
        let me = unsafe { pg_sys::MyProcPid };
        if lives(holder) || self.pid.compare_exchange(holder, me, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return false;
        }
        // SAFETY: reads the clock.
        self.started_at.store(unsafe { pg_sys::GetCurrentTimestamp() }, Ordering::SeqCst);
        self.came_round();
        self.proc.store(my_proc(), Ordering::SeqCst);
        true
    }

    /// Removes the calling process. Does nothing if another process has the place.
    fn detach(&self) {
        // SAFETY: MyProcPid is set once at process start.
        let me = unsafe { pg_sys::MyProcPid };
        if self.pid.load(Ordering::SeqCst) == me {
            self.proc.store(0, Ordering::SeqCst);
            self.pid.store(0, Ordering::SeqCst);
        }
    }

    /// Shows that the process is not stuck.
    pub fn came_round(&self) {
        // SAFETY: reads the clock.
        self.seen_at.store(unsafe { pg_sys::GetCurrentTimestamp() }, Ordering::Relaxed);
    }

    /// The process id, if the process lives.
    pub fn pid(&self) -> Option<i32> {
        Some(self.pid.load(Ordering::SeqCst)).filter(|pid| lives(*pid))
    }

    pub fn started_at(&self) -> i64 {
        self.started_at.load(Ordering::SeqCst)
    }

    pub fn seen_at(&self) -> i64 {
        self.seen_at.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        set_latch_of(self.proc.load(Ordering::SeqCst));
    }
}

/// Whether PostgreSQL has a process with this id. Takes a shared lock for a moment, so it must not be called in callbacks.
fn lives(pid: i32) -> bool {
    // SAFETY: looks through the list of processes under its lock.
    pid != 0 && unsafe { !pg_sys::BackendPidGetProc(pid).is_null() }
}

/// Why the launcher cannot start a dispatcher for a database that should have one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Limit {
    /// `max_worker_processes` is used up.
    Processes = 1,
    /// `pg_outbox.max_databases` is used up.
    Databases = 2,
}

impl Limit {
    /// The setting's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Limit::Processes => "max_worker_processes",
            Limit::Databases => "pg_outbox.max_databases",
        }
    }
}

/// The state of a dispatcher, for `worker_status()`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum State {
    /// There is no dispatcher.
    None = 0,
    /// The dispatcher connects and reads its checkpoint.
    Starting = 1,
    /// The dispatcher ticks, routes and pushes.
    Running = 2,
    /// The dispatcher ticks and routes; `pg_outbox.push` is off.
    PushOff = 3,
    /// The data was restored or copied here: the dispatcher waits for `outbox.adopt()`.
    Copied = 4,
    /// The last transaction failed and will be repeated.
    Failing = 5,
    /// The extension is not in this database.
    Absent = 6,
}

impl State {
    fn from_u32(value: u32) -> State {
        [State::None, State::Starting, State::Running, State::PushOff, State::Copied, State::Failing, State::Absent]
            .get(value as usize)
            .copied()
            .unwrap_or(State::None)
    }

    /// The state's name in `worker_status()`.
    pub fn as_str(self) -> &'static str {
        match self {
            State::None => "none",
            State::Starting => "starting",
            State::Running => "running",
            State::PushOff => "push off",
            State::Copied => "copied",
            State::Failing => "failing",
            State::Absent => "absent",
        }
    }
}

/// A place for one database that has a dispatcher.
#[repr(C)]
pub struct Slot {
    /// Database OID; 0: free. Written by the launcher only.
    pub database: AtomicU32,
    pub process: Process,
    state: AtomicU32,
    /// When `state` last changed.
    state_at: AtomicI64,
    /// Increases at each commit that enqueued. The dispatcher compares it with its last value, so a wake-up during its
    /// restart is not lost.
    generation: AtomicU64,
    /// The generation up to which the dispatcher has ticked.
    seen: AtomicU64,
    /// The dispatcher has something to route, to send or to record, or requests in flight.
    busy: AtomicBool,
    /// Rows of outbox.delivery have changed in a way that the dispatcher cannot know by itself.
    pub deliveries_changed: AtomicBool,
    /// The dispatcher is asked to leave, for example because its database is to be dropped.
    pub retire: AtomicBool,
    /// The last dispatcher left because it was asked to. That is no failure.
    pub left: AtomicBool,
    /// The launcher starts no dispatcher before this time (microseconds, PostgreSQL's epoch).
    pub paused_until: AtomicI64,
    /// The session that has set `paused_until`.
    pub paused_by: AtomicI32,
    /// When a session that may not keep the dispatcher away last made it leave.
    pub sent_away_at: AtomicI64,
    /// The transform that the dispatcher calls now, as `Function::state()` names it; 0: none.
    calling: AtomicU64,
    /// Transforms that have ended a dispatcher, for example by FATAL. 0: none.
    distrusted: [AtomicU64; 64],
    /// Durations of requests.
    pub requests: Histogram,
    /// Times from the moment at which a live delivery could begin until the receiver had it.
    pub deliveries: Histogram,
    pub in_flight: AtomicI64,
    pub queued: AtomicI64,
    pub unrecorded: AtomicI64,
    last_error_at: AtomicI64,
    last_error: [AtomicU8; 512],
    pub claim_hints: Hints,
}

/// The slot of this process, if this process is a dispatcher.
static OWN: OnceLock<&'static Slot> = OnceLock::new();

pub fn own_slot() -> Option<&'static Slot> {
    OWN.get().copied()
}

impl Slot {
    /// Called by the dispatcher of the slot, once.
    pub fn own(&'static self) {
        let _ = OWN.set(self);
    }

    /// Notes that the dispatcher calls a transform; 0: the call has returned.
    pub fn set_calling(&self, function: u64) {
        self.calling.store(function, Ordering::SeqCst);
    }

    /// Called at the start of a dispatcher. A transform that was being called when the last one ended is not called again
    /// before it is replaced: otherwise each dispatcher would end there. The oldest ones are forgotten.
    pub fn distrust_last(&self) {
        let last = self.calling.swap(0, Ordering::SeqCst);
        if last != 0 {
            // Only the dispatcher writes here.
            self.distrusted.iter().fold(last, |function, known| known.swap(function, Ordering::SeqCst));
        }
    }

    pub fn distrusts(&self, function: u64) -> bool {
        self.distrusted.iter().any(|known| known.load(Ordering::SeqCst) == function)
    }

    /// Called when the slot is freed for another database.
    pub fn forget_transforms(&self) {
        self.calling.store(0, Ordering::SeqCst);
        self.distrusted.iter().for_each(|known| known.store(0, Ordering::SeqCst));
    }

    /// Stores an error for `health()`. A reader may see a mixture with an older text: the text is for people only.
    pub fn set_error(&self, error: &str, at: i64) {
        let bytes = error.as_bytes();
        for (i, cell) in self.last_error.iter().enumerate() {
            cell.store(bytes.get(i).copied().unwrap_or(0), Ordering::Relaxed);
        }
        self.last_error_at.store(at, Ordering::Relaxed);
    }

    /// Removes the error: the slot becomes another database's.
    pub fn forget_error(&self) {
        self.last_error_at.store(0, Ordering::Relaxed);
    }

    /// The last error and its time (microseconds, PostgreSQL's epoch).
    pub fn error(&self) -> Option<(String, i64)> {
        let at = self.last_error_at.load(Ordering::Relaxed);
        let bytes: Vec<u8> =
            self.last_error.iter().map(|c| c.load(Ordering::Relaxed)).take_while(|byte| *byte != 0).collect();
        (at != 0).then(|| (String::from_utf8_lossy(&bytes).into_owned(), at))
    }

    pub fn state(&self) -> State {
        State::from_u32(self.state.load(Ordering::Relaxed))
    }

    pub fn set_state(&self, state: State) {
        if self.state.swap(state as u32, Ordering::Relaxed) != state as u32 {
            // SAFETY: reads the clock.
            self.state_at.store(unsafe { pg_sys::GetCurrentTimestamp() }, Ordering::Relaxed);
        }
    }

    pub fn state_at(&self) -> i64 {
        self.state_at.load(Ordering::Relaxed)
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Makes the dispatcher look for new messages, or for a request in this slot.
    pub fn wake(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.process.wake();
    }

    /// Shows how far the dispatcher is.
    pub fn publish(&self, status: &Status) {
        self.queued.store(status.queued as i64, Ordering::Relaxed);
        self.in_flight.store(status.in_flight as i64, Ordering::Relaxed);
        self.unrecorded.store(status.unrecorded as i64, Ordering::Relaxed);
        self.busy.store(status.busy, Ordering::SeqCst);
        self.seen.store(status.generation, Ordering::SeqCst);
    }

    /// Whether the dispatcher has nothing to do: everything that was committed with a wake-up has been ticked, routed, sent
    /// and recorded.
    pub fn is_idle(&self) -> bool {
        self.seen.load(Ordering::SeqCst) == self.generation() && !self.busy.load(Ordering::SeqCst)
    }

    /// Makes the calling process this slot's dispatcher until it ends, in whatever way. Returns `false` if another process
    /// is the dispatcher.
    pub fn attach(&'static self) -> bool {
        if !self.process.attach() {
            return false;
        }
        self.busy.store(true, Ordering::SeqCst);
        // SAFETY: the slot lives as long as the server.
        unsafe { pg_sys::before_shmem_exit(Some(dispatcher_ended), pg_sys::Datum::from(&raw const *self as usize)) };
        true
    }

    /// Whether a dispatcher lives here, or has been started and will live soon.
    pub fn is_occupied(&self) -> bool {
        self.process.pid().is_some() || self.state() == State::Starting
    }
}

/// Called when a dispatcher ends, also through an error that is not caught.
unsafe extern "C-unwind" fn dispatcher_ended(_code: i32, slot: pg_sys::Datum) {
    // SAFETY: the address that `attach` handed over.
    let slot = unsafe { &*(slot.value() as *const Slot) };
    slot.in_flight.store(0, Ordering::Relaxed);
    slot.queued.store(0, Ordering::Relaxed);
    slot.unrecorded.store(0, Ordering::Relaxed);
    if slot.state() != State::Absent {
        slot.set_state(State::None);
    }
    slot.process.detach();
    // The postmaster notifies only the launcher that started this process, and there may be another launcher by now.
    if let Some(shared) = shared() {
        shared.wake_launcher();
    }
}

unsafe extern "C-unwind" fn launcher_ended(_code: i32, _arg: pg_sys::Datum) {
    if let Some(shared) = shared() {
        shared.launcher.detach();
    }
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

/// The shared memory; `None` if the library is not in `shared_preload_libraries`.
pub fn shared() -> Option<&'static Shared> {
    // SAFETY: set once, to memory that lives as long as the server.
    unsafe { SHARED.load(Ordering::Relaxed).as_ref() }
}

impl Shared {
    /// All slots.
    pub fn slots(&self) -> &'static [Slot] {
        // SAFETY: `size()` bytes were reserved: the header, then `slots` slots.
        unsafe {
            let first = (&raw const *self).cast::<u8>().add(slots_offset()).cast::<Slot>();
            std::slice::from_raw_parts(first, self.slots as usize)
        }
    }

    /// Registers the calling session as waiting for something to claim in this database.
    pub fn wait_here(&self, database: pg_sys::Oid) {
        // SAFETY: reads the clock.
        let (me, now) = (my_proc(), unsafe { pg_sys::GetCurrentTimestamp() });
        let mine = self.waiters.iter().find(|w| w.proc.load(Ordering::SeqCst) == me).or_else(|| {
            self.waiters.iter().find(|w| {
                let holder = w.proc.load(Ordering::SeqCst);
                (holder == 0 || w.seen.load(Ordering::SeqCst) < now - WAITER_GONE)
                    && w.proc.compare_exchange(holder, me, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            })
        });
        if let Some(waiter) = mine {
            waiter.database.store(database.to_u32(), Ordering::SeqCst);
            waiter.seen.store(now, Ordering::SeqCst);
        }
    }

    /// Ends the registration of the calling session.
    pub fn wait_no_more(&self) {
        let me = my_proc();
        for waiter in &self.waiters {
            let _ = waiter.proc.compare_exchange(me, 0, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// Wakes the sessions that wait in this database.
    pub fn wake_waiters(&self, database: pg_sys::Oid) {
        for waiter in &self.waiters {
            if waiter.proc.load(Ordering::SeqCst) != 0 && waiter.database.load(Ordering::SeqCst) == database.to_u32() {
                set_latch_of(waiter.proc.load(Ordering::SeqCst));
            }
        }
    }

    /// The slot of a database.
    pub fn slot_of(&self, database: pg_sys::Oid) -> Option<&'static Slot> {
        self.slots().iter().find(|slot| slot.database.load(Ordering::Acquire) == database.to_u32())
    }

    /// A free slot, if one more database can have a dispatcher.
    pub fn free_slot(&self) -> Option<&'static Slot> {
        self.slots().iter().find(|slot| slot.database.load(Ordering::Acquire) == 0)
    }

    /// Stores the limits that the launcher has met.
    pub fn set_lacking(&self, limits: &[Limit]) {
        self.lacking.store(limits.iter().fold(0, |all, limit| all | *limit as u32), Ordering::Relaxed);
    }

    /// The limit because of which some database has no dispatcher; `None` if there is no such limit any more.
    pub fn lacking(&self) -> Option<Limit> {
        let all = self.lacking.load(Ordering::Relaxed);
        let lacks = |limit: Limit| all & limit as u32 != 0;
        if lacks(Limit::Databases) && self.free_slot().is_none() {
            return Some(Limit::Databases);
        }
        lacks(Limit::Processes).then_some(Limit::Processes)
    }

    /// Makes the calling process the launcher until it ends, in whatever way. Returns `false` if another process is the
    /// launcher.
    pub fn attach_launcher(&self) -> bool {
        let attached = self.launcher.attach();
        if attached {
            // SAFETY: the callback does atomic operations only.
            unsafe { pg_sys::before_shmem_exit(Some(launcher_ended), pg_sys::Datum::from(0)) };
        }
        attached
    }

    pub fn launcher_generation(&self) -> u64 {
        self.launcher_generation.load(Ordering::SeqCst)
    }

    pub fn wake_launcher(&self) {
        self.launcher_generation.fetch_add(1, Ordering::SeqCst);
        self.launcher.wake();
    }

    /// Asks the launcher to look whether the extension is in `database`.
    pub fn request_probe(&self, database: pg_sys::Oid) {
        let placed = self.probes.iter().any(|entry| {
            let known = entry.load(Ordering::SeqCst);
            known == database.to_u32()
                || known == 0
                    && entry.compare_exchange(0, database.to_u32(), Ordering::SeqCst, Ordering::SeqCst).is_ok()
        });
        if !placed {
            self.probe_all.store(true, Ordering::SeqCst);
        }
        self.wake_launcher();
    }

    /// Takes the databases to look at; `None`: all of them.
    pub fn take_probes(&self) -> Option<Vec<u32>> {
        let taken: Vec<u32> =
            self.probes.iter().map(|entry| entry.swap(0, Ordering::SeqCst)).filter(|oid| *oid != 0).collect();
        (!self.probe_all.swap(false, Ordering::SeqCst)).then_some(taken)
    }
}

fn slots_offset() -> usize {
    size_of::<Shared>().next_multiple_of(64)
}

fn size() -> usize {
    slots_offset() + settings::MAX_DATABASES.get() as usize * size_of::<Slot>()
}

/// This process's number plus one.
fn my_proc() -> u32 {
    // SAFETY: MyProc points into the array that ProcGlobal names.
    unsafe { (pg_sys::MyProc.offset_from((*pg_sys::ProcGlobal).allProcs) + 1) as u32 }
}

fn set_latch_of(proc: u32) {
    // SAFETY: the number is checked against the array; PGPROCs are never freed.
    unsafe {
        if proc != 0 && proc <= (*pg_sys::ProcGlobal).allProcCount {
            pg_sys::SetLatch(&raw mut (*(*pg_sys::ProcGlobal).allProcs.add(proc as usize - 1)).procLatch);
        }
    }
}

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Reserves the shared memory; only while the server preloads libraries.
pub fn init() {
    // SAFETY: _PG_init runs on the main thread.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn request() {
    // SAFETY: PostgreSQL calls this while it sizes its shared memory.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            #[expect(ffi_unwind_calls, reason = "the call is guarded")]
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous());
        }
        pg_sys::RequestAddinShmemSpace(size());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: PostgreSQL calls this in the postmaster (where the memory is new) and, on some platforms, in each backend.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            #[expect(ffi_unwind_calls, reason = "the call is guarded")]
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous());
        }
        let mut found = false;
        let memory = pg_sys::ShmemInitStruct(c"pg_outbox".as_ptr(), size(), &mut found);
        if !found {
            std::ptr::write_bytes(memory.cast::<u8>(), 0, size());
            (*memory.cast::<Shared>()).slots = settings::MAX_DATABASES.get() as u32;
        }
        SHARED.store(memory.cast(), Ordering::Relaxed);
    }
}
