//! Entry of public functions that have to know their caller, or the state of its transaction.
//!
//! Inside a SECURITY DEFINER function the current user is already the owner, and the session's user may be the victim of an
//! attack. So the caller is known only before the identity changes. Such a function is therefore declared in C without
//! `security definer`: `outbox_internal.make_entry()` makes this entry of the function in its file, which moves into the
//! schema `outbox_private`. The entry checks the caller and the arguments, becomes the owner, and passes the call on
//! unchanged.
//!
//! Invariant: between the change of identity and its end, no value here has a destructor. An ERROR below jumps over the
//! frame of `outbox_enter` and keeps its context; the abort of the (sub)transaction restores the identity.

use std::cell::RefCell;
use std::ffi::{CStr, c_int, c_void};

use outbox_core::{Code, Error, Result};
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{FromDatum, IntoDatum};

use crate::pg::catalog;
use crate::pg::function::{Args, Returned, call};
use crate::pg::txn::{Plan, arg};
use crate::sql::cycle;
use crate::sql::rights::{self, Capabilities};

/// The kind of argument that is checked if the caller's capability is narrowed.
#[derive(Clone, Copy, PartialEq)]
enum Gate {
    Subscription,
    /// The id of a delivery; its subscription is checked.
    Delivery,
    Consumer,
    Topics,
    Tenant,
    /// The id of a message; its tenant is checked.
    Message,
}

/// The checks and changes that the entry of a function makes.
#[derive(Clone, Copy)]
struct Entry {
    name: &'static str,
    capabilities: Capabilities,
    /// The kind of the argument to check, and its name.
    gate: Option<(Gate, &'static CStr)>,
    /// The arguments hold secrets: no error below shows the statement in the server's log.
    secret: bool,
    /// The function takes locks that end with the transaction, so it needs a transaction of its own.
    alone: bool,
    /// Handles the common case of the function below the executor. It returns null, and has changed nothing that the function
    /// would do, where the function has to be called.
    fast: Option<fn(Args) -> Result<Returned>>,
}

const fn plain(name: &'static str) -> Entry {
    Entry { name, capabilities: &[], gate: None, secret: false, alone: false, fast: None }
}

const fn gated(name: &'static str, capabilities: Capabilities, gate: Gate, argument: &'static CStr) -> Entry {
    Entry { capabilities, gate: Some((gate, argument)), ..plain(name) }
}

const fn secret(name: &'static str) -> Entry {
    Entry { secret: true, ..plain(name) }
}

const fn alone(name: &'static str) -> Entry {
    Entry { alone: true, ..plain(name) }
}

const fn fast(entry: Entry, fast: fn(Args) -> Result<Returned>) -> Entry {
    Entry { fast: Some(fast), ..entry }
}

const ENTRIES: [Entry; 30] = [
    fast(gated("claim", rights::CONSUME, Gate::Subscription, c"subscription"), cycle::claim),
    fast(gated("complete_and_claim", rights::CONSUME, Gate::Subscription, c"subscription"), cycle::complete_and_claim),
    fast(plain("complete"), cycle::complete),
    gated("is_ready", rights::CONSUME, Gate::Subscription, c"subscription"),
    gated("claim_delivery", rights::CONSUME, Gate::Delivery, c"delivery_id"),
    gated("read", rights::READ, Gate::Topics, c"topics"),
    gated("cursor_get", rights::CURSORS, Gate::Consumer, c"consumer"),
    gated("cursor_list", rights::CURSORS, Gate::Consumer, c"consumer"),
    gated("cursor_advance", rights::CURSORS, Gate::Consumer, c"consumer"),
    gated("cursor_reset", rights::CURSORS, Gate::Consumer, c"consumer"),
    gated("cursor_record_error", rights::CURSORS, Gate::Consumer, c"consumer"),
    gated("cursor_delete", rights::CURSORS, Gate::Consumer, c"consumer"),
    gated("get_message", rights::MONITOR, Gate::Message, c"message_id"),
    gated("history", rights::MONITOR, Gate::Message, c"message_id"),
    gated("archive_get", rights::MONITOR, Gate::Message, c"message_id"),
    gated("list_messages", rights::MONITOR, Gate::Tenant, c"tenant"),
    gated("count_messages", rights::MONITOR, Gate::Tenant, c"tenant"),
    gated("count_by_state", rights::FIGURES, Gate::Tenant, c"tenant"),
    gated("archive_list", rights::MONITOR, Gate::Tenant, c"tenant"),
    gated("archive_stats", rights::MONITOR, Gate::Tenant, c"tenant"),
    gated("notification_log", rights::MONITOR, Gate::Tenant, c"tenant"),
    secret("create_endpoint"),
    secret("alter_endpoint"),
    secret("rotate_secret"),
    secret("set_proxy"),
    alone("tick"),
    alone("maintain"),
    alone("rotate"),
    alone("purge"),
    alone("adopt"),
];

/// The data of a call site, in the memory in which its `FmgrInfo` lives.
struct Site {
    function: pg_sys::FmgrInfo,
    owner: Oid,
    entry: Entry,
    /// Index of the argument that the gate checks.
    argument: usize,
    /// The relation whose lock shows that the call is running.
    sequencer: Oid,
}

/// outbox.claim(...) and others: see `ENTRIES`.
#[expect(ffi_unwind_calls, reason = "this frame has no destructor while it calls")]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn outbox_enter(info: pg_sys::FunctionCallInfo) -> Datum {
    unsafe extern "C-unwind" {
        // These are not pgrx's guarded functions: see the invariant.
        fn SetUserIdAndSecContext(user: Oid, context: c_int);
        fn UnlockRelationOid(relation: Oid, mode: c_int);
    }
    // SAFETY: PostgreSQL calls this with a valid call info, whose flinfo is the call site's. `call` raises the errors of
    // `find` and `admit`; after that only plain values are alive.
    unsafe {
        let own = (*info).flinfo;
        if (*own).fn_extra.is_null() {
            call(info, find);
        }
        let site = (*own).fn_extra.cast::<Site>();
        call(info, admit);
        (*info).isnull = false;
        let Some(function) = (*site).function.fn_addr else { return Datum::null() };

        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let mut hide = pg_sys::ErrorContextCallback {
            previous: pg_sys::error_context_stack,
            callback: Some(hide_statement),
            arg: std::ptr::null_mut(),
        };
        if (*site).entry.secret {
            pg_sys::error_context_stack = &mut hide;
        }
        SetUserIdAndSecContext((*site).owner, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as c_int);
        let mut result = Datum::null();
        let fast = (*site).entry.fast;
        if let Some(fast) = fast {
            result = call(info, fast);
        }
        if fast.is_none() || (*info).isnull {
            (*info).isnull = false;
            (*info).flinfo = &mut (*site).function;
            result = function(info);
            (*info).flinfo = own;
        }
        SetUserIdAndSecContext(user, context);
        pg_sys::error_context_stack = hide.previous;
        if (*site).entry.alone {
            UnlockRelationOid((*site).sequencer, pg_sys::AccessShareLock as c_int);
        }
        result
    }
}

const _: () = {
    #[unsafe(export_name = "pg_finfo_outbox_enter")]
    extern "C" fn finfo() -> *const pg_sys::Pg_finfo_record {
        static RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
        &RECORD
    }
};

/// Keeps the statement, which contains the arguments, out of the log of an ERROR.
#[expect(ffi_unwind_calls, reason = "the function raises no ERROR")]
unsafe extern "C-unwind" fn hide_statement(_arg: *mut c_void) {
    unsafe extern "C-unwind" {
        fn errhidestmt(hide: bool) -> c_int;
    }
    // SAFETY: PostgreSQL calls this while it makes an error report.
    unsafe { errhidestmt(true) };
}

/// Looks up the function behind the entry.
fn find(args: Args) -> Result<Returned> {
    let missing = |what: &str| Error::new(Code::Internal, format!("there is nothing behind the function: {what}"));
    // SAFETY: look-ups in the catalog's caches. The site is allocated where the call site lives, and has no destructor.
    unsafe {
        let own = args.site();
        let oid = (*own).fn_oid;
        let id = pg_sys::SysCacheIdentifier::PROCOID as c_int;
        let tuple = pg_sys::SearchSysCache1(id, Datum::from(oid));
        if tuple.is_null() {
            return Err(missing("it was dropped"));
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
        let name = CStr::from_ptr((*form).proname.data.as_ptr()).to_string_lossy().into_owned();
        let private = pg_sys::get_namespace_oid(c"outbox_private".as_ptr(), true);
        let target = pg_sys::SearchSysCache3(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as c_int,
            Datum::from(&raw mut (*form).proname),
            Datum::from(&raw mut (*form).proargtypes),
            Datum::from(private),
        );
        let names = {
            let mut null = false;
            let datum = pg_sys::SysCacheGetAttr(id, tuple, pg_sys::Anum_pg_proc_proargnames as _, &mut null);
            Vec::<String>::from_datum(datum, null).unwrap_or_default()
        };
        pg_sys::ReleaseSysCache(tuple);
        if target.is_null() {
            return Err(missing(&name));
        }
        let form = pg_sys::GETSTRUCT(target).cast::<pg_sys::FormData_pg_proc>();
        let (target_oid, owner) = ((*form).oid, (*form).proowner);
        pg_sys::ReleaseSysCache(target);
        let entry = *ENTRIES.iter().find(|entry| entry.name == name).ok_or_else(|| missing(&name))?;
        let argument = match entry.gate {
            Some((_, argument)) => {
                let argument = argument.to_string_lossy();
                names.iter().position(|n| *n == argument).ok_or_else(|| missing(&name))?
            }
            None => 0,
        };
        let sequencer = if entry.alone { catalog::lookup("_sequencer")? } else { pg_sys::InvalidOid };
        let site = pg_sys::MemoryContextAllocZero((*own).fn_mcxt, size_of::<Site>()).cast::<Site>();
        site.write(Site { function: pg_sys::FmgrInfo::default(), owner, entry, argument, sequencer });
        pg_sys::fmgr_info_cxt(target_oid, &mut (*site).function, (*own).fn_mcxt);
        (*own).fn_extra = site.cast();
    }
    Ok(None)
}

/// Checks that the caller may make this call, in the present state of its transaction.
fn admit(args: Args) -> Result<Returned> {
    // SAFETY: `find` has stored the site.
    let site = unsafe { &*(*args.site()).fn_extra.cast::<Site>() };
    if site.entry.alone {
        begin_alone(site)?;
    }
    let Some((gate, _)) = site.entry.gate else { return Ok(None) };
    let Some(narrowed) = rights::narrowed(site.entry.capabilities)? else { return Ok(None) };
    let text = || args.get::<String>(site.argument);
    match gate {
        Gate::Subscription => narrowed.subscription(text().as_deref())?,
        Gate::Consumer => narrowed.consumer(text().as_deref())?,
        Gate::Tenant => narrowed.tenant(text().as_deref())?,
        Gate::Delivery => {
            narrowed.subscription(looked_up(site.owner, &SUBSCRIPTION, args.get(site.argument)).as_deref())?
        }
        Gate::Message => narrowed.tenant(looked_up(site.owner, &TENANT, args.get(site.argument)).as_deref())?,
        Gate::Topics => {
            let topics = narrowed.topics(args.get::<Vec<String>>(site.argument).as_deref())?;
            args.replace(site.argument, topics.into_datum());
        }
    }
    Ok(None)
}

/// Ensures that the transaction ends with the call, and shows the dispatcher that the call is running.
fn begin_alone(site: &Site) -> Result<()> {
    // SAFETY: reads the state of the transaction. SPI tells whether it has a caller before it looks at the name.
    let nested = unsafe {
        pg_sys::IsTransactionBlock()
            || pg_sys::IsSubTransaction()
            || pg_sys::SPI_unregister_relation(c"pg_outbox".as_ptr()) != pg_sys::SPI_ERROR_UNCONNECTED
    };
    if nested {
        return Err(Error::new(
            Code::InvalidTransaction,
            format!("outbox.{}() cannot run inside a transaction block or function", site.entry.name),
        )
        .detail("It takes locks that others would wait for until that transaction ends.")
        .hint("Call it by itself, with autocommit."));
    }
    // SAFETY: the lock conflicts with none that is held for long. It is released when the call ends, or with the
    // transaction.
    unsafe { pg_sys::LockRelationOid(site.sequencer, pg_sys::AccessShareLock as _) };
    Ok(())
}

// Operators are qualified, because the search path is the caller's while the identity is not.
thread_local! {
    static SUBSCRIPTION: RefCell<Plan> = const { RefCell::new(Plan::new(
        "select s.name from outbox.subscription s where s.id operator(pg_catalog.=) coalesce(
            (select d.subscription_id from outbox.delivery d where d.id operator(pg_catalog.=) $1),
            (select b.subscription_id from outbox._bundle b where b.deliveries operator(pg_catalog.@>) $1
                and $1 operator(pg_catalog.=) any (b.delivery_ids) limit 1))",
        &[pg_sys::INT8OID],
    )) };
    static TENANT: RefCell<Plan> =
        const { RefCell::new(Plan::new("select m.tenant from outbox.message m where m.id operator(pg_catalog.=) $1", &[pg_sys::INT8OID])) };
}

/// Looks up an id in the outbox with the owner's rights.
fn looked_up(owner: Oid, plan: &'static std::thread::LocalKey<RefCell<Plan>>, id: Option<i64>) -> Option<String> {
    // SAFETY: as in `idempotency::remember`, an ERROR resets user and SPI with the (sub)transaction that it aborts.
    unsafe {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(owner, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as c_int);
        pg_sys::SPI_connect();
        let found = plan.with_borrow_mut(|plan| {
            plan.execute(&[arg(id?)]).first(|row| row.text(0)).flatten().map(|t| t.to_string())
        });
        pg_sys::SPI_finish();
        pg_sys::SetUserIdAndSecContext(user, context);
        found
    }
}
