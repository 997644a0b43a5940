//! Statements that cannot run while a worker is connected to a database: the dispatcher leaves first.
//!
//! DROP DATABASE, ALTER DATABASE RENAME and SET TABLESPACE, CREATE DATABASE ... TEMPLATE. The slot is held for a while, so that
//! the launcher does not start a new dispatcher in between; when the statement's transaction or subtransaction has ended, whatever
//! came of it, the launcher looks again.
//!
//! Invariant: who has no right to the statement keeps no dispatcher away. The rights are checked before the dispatcher is asked to
//! leave, as PostgreSQL itself checks them afterwards. Everybody who may create databases may copy a template: such a session has
//! the dispatcher leave once in a while only, and gets PostgreSQL's own error otherwise.
//!
//! Every utility statement of every session passes through here, CALL and DO and COPY among them. So the hook is no guarded
//! Rust function: an ERROR from below jumps over its frame, which has nothing to drop, and reaches PostgreSQL as it was.

use std::cell::Cell;
use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::pg_sys;

use crate::shmem::{self, Slot};
use crate::worker::now;

/// Longest time that a dispatcher is kept away.
const HOLD: Duration = Duration::from_secs(15);
/// How often sessions that copy a template which is not theirs have its dispatcher leave, altogether.
const GUESTS: Duration = Duration::from_secs(60);
/// Longest time to wait for a dispatcher to leave.
const LEAVE: Duration = Duration::from_secs(5);

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

thread_local! {
    /// The slot that this transaction holds, and at which nesting level it asked for it.
    static HELD: Cell<Option<(&'static Slot, i32)>> = const { Cell::new(None) };
}

/// Installs the hook; only while the server preloads libraries.
pub fn init() {
    // SAFETY: _PG_init runs on the main thread.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

/// Lets the dispatcher come back; called when a transaction has ended.
pub fn transaction_ended() {
    subtransaction_aborted(0);
}

/// The same, when a subtransaction of this nesting level has been rolled back.
pub fn subtransaction_aborted(level: i32) {
    let Some((slot, _)) = HELD.get().filter(|(_, held_at)| *held_at >= level) else { return };
    HELD.set(None);
    // SAFETY: a constant of this process.
    let me = unsafe { pg_sys::MyProcPid };
    // Another session may hold it by now: that one lets it go.
    if slot.holder.compare_exchange(me, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
        slot.hold_until.store(0, Ordering::SeqCst);
        if let Some(shared) = shmem::shared() {
            shared.wake_launcher();
        }
    }
}

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
        // Not pgrx's guarded one: see above.
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
    // SAFETY: PostgreSQL hands over valid trees; the previous hook or the standard function gets the same arguments.
    unsafe {
        if concerns_databases((*statement).utilityStmt) {
            pg_sys::panic::pgrx_extern_c_guard(|| make_way((*statement).utilityStmt));
        }
        let next = PREVIOUS.unwrap_or(standard_ProcessUtility);
        next(statement, query, read_only_tree, context, params, environment, destination, completion);
    }
}

/// Whether a statement is of a kind that `database_of` has to look at.
unsafe fn concerns_databases(node: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag::{T_AlterDatabaseStmt, T_CreatedbStmt, T_DropdbStmt, T_RenameStmt};
    // SAFETY: reads a node's tag.
    matches!(unsafe { (*node).type_ }, T_DropdbStmt | T_RenameStmt | T_AlterDatabaseStmt | T_CreatedbStmt)
}

/// Has the dispatcher of the database that `node` is about leave, and waits for it.
unsafe fn make_way(node: *mut pg_sys::Node) {
    // SAFETY: as in `database_of`.
    let Some(database) = (unsafe { database_of(node) }) else { return };
    let Some(slot) = shmem::shared().and_then(|shared| shared.slot_of(database)) else { return };
    // SAFETY: as in `database_of`; the catalog is read inside the statement's transaction.
    let level = unsafe {
        match right(node, database) {
            Right::None => return,
            Right::Guest if !admits_guest(slot) => return,
            Right::Owner | Right::Guest => pg_sys::GetCurrentTransactionNestLevel(),
        }
    };
    // SAFETY: a constant of this process.
    slot.holder.store(unsafe { pg_sys::MyProcPid }, Ordering::SeqCst);
    slot.hold_until.store(now() + HOLD.as_micros() as i64, Ordering::SeqCst);
    HELD.set(Some((slot, level)));
    slot.retire.store(true, Ordering::SeqCst);
    slot.wake();
    let deadline = Instant::now() + LEAVE;
    while slot.is_occupied() && Instant::now() < deadline {
        pgrx::check_for_interrupts!();
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the current user has to do with a database.
enum Right {
    /// The statement will be refused.
    None,
    /// It is his, or he is a superuser.
    Owner,
    /// It is a template that he may copy.
    Guest,
}

/// Whether the statement is permitted, as far as PostgreSQL asks for rights on the database.
unsafe fn right(node: *mut pg_sys::Node, database: pg_sys::Oid) -> Right {
    // SAFETY: looks into the catalogs' caches.
    unsafe {
        let user = pg_sys::GetUserId();
        #[cfg(feature = "pg15")]
        let owns = pg_sys::pg_database_ownercheck(database, user);
        #[cfg(not(feature = "pg15"))]
        let owns = pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, user);
        let creates = pg_sys::superuser_arg(user) || may_create_databases(user);
        match (*node).type_ {
            pg_sys::NodeTag::T_CreatedbStmt if creates && owns => Right::Owner,
            pg_sys::NodeTag::T_CreatedbStmt if creates && is_template(database) => Right::Guest,
            pg_sys::NodeTag::T_RenameStmt if creates && owns => Right::Owner,
            pg_sys::NodeTag::T_DropdbStmt | pg_sys::NodeTag::T_AlterDatabaseStmt if owns => Right::Owner,
            _ => Right::None,
        }
    }
}

/// Whether a role has CREATEDB.
unsafe fn may_create_databases(role: pg_sys::Oid) -> bool {
    // SAFETY: one look-up in the catalog's cache; the row's fixed part has this column.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::AUTHOID as i32, pg_sys::Datum::from(role));
        if tuple.is_null() {
            return false;
        }
        let may = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_authid>()).rolcreatedb;
        pg_sys::ReleaseSysCache(tuple);
        may
    }
}

/// Whether a database is marked as a template.
unsafe fn is_template(database: pg_sys::Oid) -> bool {
    // SAFETY: as above.
    unsafe {
        let tuple =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::DATABASEOID as i32, pg_sys::Datum::from(database));
        if tuple.is_null() {
            return false;
        }
        let template = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>()).datistemplate;
        pg_sys::ReleaseSysCache(tuple);
        template
    }
}

/// Whether it is time again to make way for a session that the database does not belong to.
fn admits_guest(slot: &Slot) -> bool {
    let (last, time) = (slot.sent_away_at.load(Ordering::SeqCst), now());
    (last == 0 || time - last > GUESTS.as_micros() as i64)
        && slot.sent_away_at.compare_exchange(last, time, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

/// The database that nobody may be connected to while `node` runs.
unsafe fn database_of(node: *mut pg_sys::Node) -> Option<pg_sys::Oid> {
    // SAFETY: a node's tag says what it is.
    unsafe {
        let name = match (*node).type_ {
            pg_sys::NodeTag::T_DropdbStmt => (*node.cast::<pg_sys::DropdbStmt>()).dbname,
            pg_sys::NodeTag::T_RenameStmt => {
                let rename = node.cast::<pg_sys::RenameStmt>();
                if (*rename).renameType != pg_sys::ObjectType::OBJECT_DATABASE {
                    return None;
                }
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
        if name.is_null() {
            return None;
        }
        let oid = pg_sys::get_database_oid(name, true);
        (oid != pg_sys::InvalidOid).then_some(oid)
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
