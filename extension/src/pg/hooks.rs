//! Statements that cannot run while a dispatcher is connected to a database: the dispatcher leaves first.
//!
//! They are DROP DATABASE, ALTER DATABASE RENAME and SET TABLESPACE, and CREATE DATABASE with its template.
//!
//! Nothing happens for a session whose statement PostgreSQL would refuse: this code asks the same questions before. Beyond
//! that there are two kinds of rights:
//! * The database's owner may keep its dispatcher away. The slot is paused for a while, so that the launcher does not start
//!   a new dispatcher in between. The pause belongs to the (sub)transaction; when that has ended, committed or not, the
//!   launcher looks again.
//! * Another role with CREATEDB may copy a template. It may make the dispatcher leave, but it may not pause the slot, and it
//!   may not send the dispatcher away again before the next one has worked for as long as the last one was away. So messages
//!   are delivered however often the statement is given.
//!
//! Every utility statement of every session passes through this hook, including CALL, DO and COPY. So the hook is not a
//! guarded Rust function: an ERROR from below jumps over its frame, which has nothing to drop, and reaches PostgreSQL
//! unchanged.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::shared::shmem::{self, Slot};
use crate::worker::now;

/// Longest time that a dispatcher is kept away.
const PAUSE: Duration = Duration::from_secs(15);
/// Longest time to wait for a dispatcher to leave.
const LEAVE: Duration = Duration::from_secs(5);
/// How long a dispatcher works undisturbed after a role that does not own the database has sent it away: as long as it was
/// away, but within these bounds.
const TURN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

thread_local! {
    /// The slots that this transaction has paused, each with the nesting level of the pause.
    static PAUSED: RefCell<Vec<(&'static Slot, i32)>> = const { RefCell::new(Vec::new()) };
    /// This transaction has changed the list of databases.
    static CHANGED: Cell<bool> = const { Cell::new(false) };
}

/// Installs the hook; only while the server preloads libraries.
pub fn init() {
    // SAFETY: _PG_init runs on the main thread.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

/// Lets the dispatchers return. Called when a transaction has ended.
pub fn transaction_ended() {
    release(0);
    if CHANGED.take()
        && let Some(shared) = shmem::shared()
    {
        shared.wake_launcher();
    }
}

/// Ends the pauses of a subtransaction that was rolled back, or gives them to its parent.
pub fn subtransaction_ended(level: i32, rolled_back: bool) {
    if rolled_back {
        release(level);
    } else {
        PAUSED.with_borrow_mut(|paused| paused.iter_mut().for_each(|(_, of)| *of = (*of).min(level - 1)));
    }
}

/// Ends the pauses of this nesting level and of deeper ones.
fn release(level: i32) {
    PAUSED.with_borrow_mut(|paused| {
        if paused.is_empty() {
            return;
        }
        // SAFETY: a constant of this process.
        let me = unsafe { pg_sys::MyProcPid };
        paused.retain(|(slot, of)| {
            // Another session may have paused the slot by now.
            if *of >= level && slot.paused_by.compare_exchange(me, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                slot.paused_until.store(0, Ordering::SeqCst);
            }
            *of < level
        });
        if let Some(shared) = shmem::shared() {
            shared.wake_launcher();
        }
    });
}

#[expect(ffi_unwind_calls, reason = "this frame has nothing to drop while it calls")]
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const std::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    unsafe extern "C-unwind" {
        // This is not pgrx's guarded function: see above.
        fn standard_ProcessUtility(
            statement: *mut pg_sys::PlannedStmt,
            query: *const std::ffi::c_char,
            read_only_tree: bool,
            context: pg_sys::ProcessUtilityContext::Type,
            params: pg_sys::ParamListInfo,
            environment: *mut pg_sys::QueryEnvironment,
            destination: *mut pg_sys::DestReceiver,
            completion: *mut pg_sys::QueryCompletion,
        );
    }
    // SAFETY: PostgreSQL passes valid trees; the previous hook or the standard function gets the same arguments.
    unsafe {
        let concerned = concerns_databases((*statement).utilityStmt);
        if concerned {
            let top_level = context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL;
            pg_sys::panic::pgrx_extern_c_guard(|| make_way((*statement).utilityStmt, top_level));
        }
        let next = PREVIOUS.unwrap_or(standard_ProcessUtility);
        next(statement, query, read_only_tree, context, params, environment, destination, completion);
        if concerned {
            CHANGED.set(true);
        }
    }
}

/// Whether a statement is of a kind that `way_for` has to look at.
unsafe fn concerns_databases(node: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag::{T_AlterDatabaseStmt, T_CreatedbStmt, T_DropdbStmt, T_RenameStmt};
    // SAFETY: reads a node's tag.
    matches!(unsafe { (*node).type_ }, T_DropdbStmt | T_RenameStmt | T_AlterDatabaseStmt | T_CreatedbStmt)
}

/// The slot that a statement needs free of a dispatcher, and the session's right to it.
struct Way {
    slot: &'static Slot,
    /// Whether the session may keep the dispatcher away.
    owns: bool,
}

/// Makes the dispatcher of the database that `node` is about leave, and waits for it.
unsafe fn make_way(node: *mut pg_sys::Node, top_level: bool) {
    // SAFETY: as in `way_for`.
    let Some(Way { slot, owns }) = (unsafe { way_for(node, top_level) }) else { return };
    if owns {
        // SAFETY: constants of this process and its transaction.
        let (me, level) = unsafe { (pg_sys::MyProcPid, pg_sys::GetCurrentTransactionNestLevel()) };
        slot.paused_by.store(me, Ordering::SeqCst);
        slot.paused_until.store(now() + PAUSE.as_micros() as i64, Ordering::SeqCst);
        PAUSED.with_borrow_mut(|paused| paused.push((slot, level)));
    } else if !wait_for_turn(slot) {
        return;
    }
    slot.retire.store(true, Ordering::SeqCst);
    slot.wake();
    let deadline = Instant::now() + LEAVE;
    while slot.is_occupied() && Instant::now() < deadline {
        rest();
    }
}

/// Waits until the dispatcher has worked long enough to be sent away again. Returns `false` if there is no dispatcher, or if
/// it takes too long; PostgreSQL then finds out whether somebody is connected.
fn wait_for_turn(slot: &Slot) -> bool {
    let deadline = Instant::now() + TURN.1 + LEAVE;
    while slot.is_occupied() && Instant::now() < deadline {
        let (sent_away, started) = (slot.sent_away_at.load(Ordering::SeqCst), slot.process.started_at());
        let away = Duration::from_micros(u64::try_from(started - sent_away).unwrap_or(0));
        let turn = started + away.clamp(TURN.0, TURN.1).as_micros() as i64;
        if slot.process.pid().is_some() && (sent_away == 0 || now() >= turn) {
            // One session at a time may send the dispatcher away. The others wait for their own turn.
            return slot.sent_away_at.compare_exchange(sent_away, now(), Ordering::SeqCst, Ordering::SeqCst).is_ok();
        }
        rest();
    }
    false
}

fn rest() {
    pgrx::check_for_interrupts!();
    std::thread::sleep(Duration::from_millis(5));
}

/// The database to which no process may be connected while `node` runs, if it has a dispatcher and the statement would not
/// be refused anyway.
unsafe fn way_for(node: *mut pg_sys::Node, top_level: bool) -> Option<Way> {
    // SAFETY: a node's tag gives its type; the look-ups are in a transaction.
    unsafe {
        let mut in_a_block = true;
        let name = match (*node).type_ {
            pg_sys::NodeTag::T_DropdbStmt => (*node.cast::<pg_sys::DropdbStmt>()).dbname,
            pg_sys::NodeTag::T_RenameStmt => {
                let rename = node.cast::<pg_sys::RenameStmt>();
                if (*rename).renameType != pg_sys::ObjectType::OBJECT_DATABASE {
                    return None;
                }
                in_a_block = false;
                (*rename).subname
            }
            pg_sys::NodeTag::T_AlterDatabaseStmt => {
                let alter = node.cast::<pg_sys::AlterDatabaseStmt>();
                option((*alter).options, c"tablespace")?;
                (*alter).dbname
            }
            pg_sys::NodeTag::T_CreatedbStmt => {
                match option((*node.cast::<pg_sys::CreatedbStmt>()).options, c"template") {
                    Some(template) if !(*template).arg.is_null() => pg_sys::defGetString(template),
                    _ => c"template1".as_ptr().cast_mut(),
                }
            }
            _ => return None,
        };
        // All these statements but RENAME are refused in a transaction block, a function or a DO.
        if name.is_null() || in_a_block && pg_sys::IsInTransactionBlock(top_level) {
            return None;
        }
        let database = pg_sys::get_database_oid(name, true);
        let slot = shmem::shared()?.slot_of(database).filter(|_| database != pg_sys::InvalidOid)?;
        let me = pg_sys::GetUserId();
        let owns = owns_database(database, me);
        let allowed = match (*node).type_ {
            pg_sys::NodeTag::T_CreatedbStmt => may_create_databases(me) && (owns || is_template(database)),
            pg_sys::NodeTag::T_RenameStmt => owns && may_create_databases(me),
            _ => owns,
        };
        allowed.then_some(Way { slot, owns })
    }
}

unsafe fn owns_database(database: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups in a transaction.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_database_ownercheck(database, role);
        #[cfg(not(feature = "pg15"))]
        return pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, role);
    }
}

unsafe fn may_create_databases(role: pg_sys::Oid) -> bool {
    // SAFETY: as above; the values are copied before the row is released.
    unsafe {
        pg_sys::superuser_arg(role)
            || look_up(pg_sys::SysCacheIdentifier::AUTHOID as i32, role, |row: &pg_sys::FormData_pg_authid| {
                row.rolcreatedb
            })
    }
}

unsafe fn is_template(database: pg_sys::Oid) -> bool {
    // SAFETY: as above.
    unsafe {
        look_up(pg_sys::SysCacheIdentifier::DATABASEOID as i32, database, |row: &pg_sys::FormData_pg_database| {
            row.datistemplate
        })
    }
}

/// Reads the catalog row with this OID. Returns `false` if there is none.
unsafe fn look_up<T>(cache: i32, oid: pg_sys::Oid, read: impl FnOnce(&T) -> bool) -> bool {
    // SAFETY: the caller names the row type of the cache's table.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(oid));
        if tuple.is_null() {
            return false;
        }
        let found = read(&*pg_sys::GETSTRUCT(tuple).cast::<T>());
        pg_sys::ReleaseSysCache(tuple);
        found
    }
}

unsafe fn option(options: *mut pg_sys::List, name: &CStr) -> Option<*mut pg_sys::DefElem> {
    // SAFETY: a list of DefElem nodes.
    unsafe {
        (0..if options.is_null() { 0 } else { (*options).length }).find_map(|i| {
            let element = (*(*options).elements.add(i as usize)).ptr_value.cast::<pg_sys::DefElem>();
            (CStr::from_ptr((*element).defname) == name).then_some(element)
        })
    }
}
