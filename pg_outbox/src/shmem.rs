//! What the backends, the launcher and the dispatchers share.
//!
//! Only atomics: nothing here is locked, so nothing can be left locked by a process that dies (but see `marks`). All-zero memory is the valid
//! empty state. A process number can be stale (its process ended, another one has the place): waking it is then a
//! spurious wake-up of a stranger, which every PostgreSQL process expects.

use std::mem::size_of;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use pgrx::{pg_guard, pg_sys};

use crate::gucs;
use crate::marks::Marks;

/// The start of our shared memory; `max_databases` slots follow.
#[repr(C)]
pub struct Shared {
    /// Process number of the launcher plus one; 0: none.
    launcher: AtomicU32,
    /// Counted up by whatever makes the launcher look again at the list of databases.
    launcher_generation: AtomicU64,
    /// Databases in which the extension may have come or gone since the launcher looked; 0: free entry.
    probes: [AtomicU32; 32],
    /// More requests than `probes` has entries: look at all databases.
    probe_all: AtomicBool,
    /// The launcher could not register a worker: `max_worker_processes` is used up.
    pub workers_exhausted: AtomicBool,
    waiters: [Waiter; WAITERS],
    slots: u32,
}

/// Sessions in claim_wait that are woken when there is something to claim; more than this look once a second.
const WAITERS: usize = 256;
/// A waiter that was not heard of for this long (microseconds) is gone: it ended without giving its place back.
const WAITER_GONE: i64 = 5_000_000;

/// One session in claim_wait.
#[repr(C)]
struct Waiter {
    /// Process number plus one; 0: free.
    proc: AtomicU32,
    database: AtomicU32,
    /// When it was last heard of (microseconds, PostgreSQL's epoch).
    seen: AtomicI64,
}

/// What a dispatcher is doing, for `worker_status()`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum State {
    /// Nobody there.
    None = 0,
    /// Connecting, reading its checkpoint.
    Starting = 1,
    /// Ticks, routes and pushes.
    Running = 2,
    /// Ticks and routes; `pg_outbox.push` is off.
    PushOff = 3,
    /// The data came here by a restore or a copy: waits for `outbox.adopt()`.
    Copied = 4,
    /// Its last transaction failed; it tries again.
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

/// One database that has a dispatcher.
#[repr(C)]
pub struct Slot {
    /// Database OID; 0: free. Written by the launcher only.
    pub database: AtomicU32,
    /// Process number of the dispatcher plus one; 0: none.
    proc: AtomicU32,
    pub pid: AtomicI32,
    state: AtomicU32,
    /// Counted up at each commit that enqueued; the dispatcher compares, so a wake-up while it restarts is not lost.
    generation: AtomicU64,
    /// The generation up to which the dispatcher has ticked.
    seen: AtomicU64,
    /// The dispatcher has something to route, to send, to hear of or to record.
    busy: AtomicBool,
    /// Rows of outbox.delivery have changed in a way that the dispatcher cannot know.
    pub look_at_deliveries: AtomicBool,
    /// The dispatcher is asked to leave, for example because its database is dropped.
    pub retire: AtomicBool,
    /// The launcher starts none before this time (microseconds, PostgreSQL's epoch).
    pub hold_until: AtomicI64,
    pub started_at: AtomicI64,
    pub in_flight: AtomicI64,
    pub queued: AtomicI64,
    pub unrecorded: AtomicI64,
    last_error_at: AtomicI64,
    last_error: [AtomicU8; 512],
    pub marks: Marks,
}

impl Slot {
    /// Keeps an error for `health()`. A reader may see half of an older one: it is text for people.
    pub fn set_error(&self, error: &str, at: i64) {
        let bytes = error.as_bytes();
        for (i, cell) in self.last_error.iter().enumerate() {
            cell.store(bytes.get(i).copied().unwrap_or(0), Ordering::Relaxed);
        }
        self.last_error_at.store(at, Ordering::Relaxed);
    }

    /// The slot is another database's from now on.
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
        self.state.store(state as u32, Ordering::Relaxed);
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Makes the dispatcher look: at new messages, or at a request in this slot.
    pub fn wake(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        set_latch_of(self.proc.load(Ordering::SeqCst));
    }

    /// Shows how far the dispatcher is.
    pub fn publish(&self, seen: u64, busy: bool) {
        self.busy.store(busy, Ordering::SeqCst);
        self.seen.store(seen, Ordering::SeqCst);
    }

    /// Whether the dispatcher has nothing to do: all that was committed with a wake-up has been ticked, routed, sent and
    /// recorded.
    pub fn is_idle(&self) -> bool {
        self.seen.load(Ordering::SeqCst) == self.generation() && !self.busy.load(Ordering::SeqCst)
    }

    /// The calling process is this slot's dispatcher from now on.
    pub fn attach(&self) {
        self.busy.store(true, Ordering::SeqCst);
        // SAFETY: MyProcPid is set once at process start.
        self.pid.store(unsafe { pg_sys::MyProcPid }, Ordering::SeqCst);
        // SAFETY: reads the clock.
        self.started_at.store(unsafe { pg_sys::GetCurrentTimestamp() }, Ordering::Relaxed);
        self.proc.store(my_proc(), Ordering::SeqCst);
    }

    /// The calling process is no longer this slot's dispatcher.
    pub fn detach(&self) {
        self.proc.store(0, Ordering::SeqCst);
        self.pid.store(0, Ordering::SeqCst);
        self.in_flight.store(0, Ordering::Relaxed);
        self.queued.store(0, Ordering::Relaxed);
        self.unrecorded.store(0, Ordering::Relaxed);
    }

    /// Whether a dispatcher lives here now.
    pub fn is_attached(&self) -> bool {
        self.proc.load(Ordering::SeqCst) != 0
    }
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

/// The shared memory; `None` when the library is not in `shared_preload_libraries`.
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

    /// The calling session waits for something to claim in this database.
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

    /// The calling session no longer waits.
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

    pub fn attach_launcher(&self) {
        self.launcher.store(my_proc(), Ordering::SeqCst);
    }

    /// Process id of the launcher.
    pub fn launcher_pid(&self) -> Option<i32> {
        pid_of(self.launcher.load(Ordering::SeqCst))
    }

    pub fn launcher_generation(&self) -> u64 {
        self.launcher_generation.load(Ordering::SeqCst)
    }

    pub fn wake_launcher(&self) {
        self.launcher_generation.fetch_add(1, Ordering::SeqCst);
        set_latch_of(self.launcher.load(Ordering::SeqCst));
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

    /// The databases to look at; `None` for all of them.
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
    slots_offset() + gucs::MAX_DATABASES.get() as usize * size_of::<Slot>()
}

/// This process's number plus one.
fn my_proc() -> u32 {
    // SAFETY: MyProc points into the array that ProcGlobal names.
    unsafe { (pg_sys::MyProc.offset_from((*pg_sys::ProcGlobal).allProcs) + 1) as u32 }
}

fn pid_of(proc: u32) -> Option<i32> {
    // SAFETY: as in `set_latch_of`.
    unsafe {
        let known = proc != 0 && proc <= (*pg_sys::ProcGlobal).allProcCount;
        known.then(|| (*(*pg_sys::ProcGlobal).allProcs.add(proc as usize - 1)).pid).filter(|pid| *pid != 0)
    }
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
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous());
        }
        let mut found = false;
        let memory = pg_sys::ShmemInitStruct(c"pg_outbox".as_ptr(), size(), &mut found);
        if !found {
            std::ptr::write_bytes(memory.cast::<u8>(), 0, size());
            (*memory.cast::<Shared>()).slots = gucs::MAX_DATABASES.get() as u32;
        }
        SHARED.store(memory.cast(), Ordering::Relaxed);
    }
}
