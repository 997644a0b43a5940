//! The rights with which code runs. Every call of a user's function and every analysis of a user's expression goes through
//! this file, and so does every step of the extension that needs other rights than the caller's.
//!
//! Invariants:
//! - A user's code runs as its owner, as a security-restricted operation, with `search_path` pinned and in a GUC nest
//!   level of its own. So the caller's path cannot redirect it, and no setting that it makes survives the call.
//! - A function's signature is read from the catalogue at each call. A Datum has the type that the catalogue gives.
//! - The acting role is the current user. Inside ANALYZE, REINDEX or another role's SECURITY DEFINER function, the session's
//!   role and the outer user may be those of a victim.
//! - Identity and settings are restored when the work returns. If an ERROR passes, the abort of the (sub)transaction
//!   restores them.

use std::ffi::{CStr, CString, c_char, c_int};

use outbox_core::{Code, Error, Result};
use pgrx::IntoDatum;
use pgrx::pg_sys::{self, Datum, Oid};

use crate::pg::function::{Args, Returned, STATE, call, note_state};
use crate::pg_function;

/// Runs work of the extension as `role`.
///
/// # Safety
/// The work calls and analyses no user's code, and the names in it do not depend on `search_path`.
pub unsafe fn run_as<T>(role: Oid, work: impl FnOnce() -> Result<T>) -> Result<T> {
    // SAFETY: reads and sets variables of the session.
    unsafe { switched(role, pg_sys::SECURITY_LOCAL_USERID_CHANGE, work) }
}

/// Runs a user's code, or an analysis of it, as its owner.
pub fn run_code_of<T>(owner: Oid, work: impl FnOnce() -> Result<T>) -> Result<T> {
    pgrx::check_for_interrupts!();
    // SAFETY: PostgreSQL does the same around an index expression. The nest level ends where it began.
    unsafe {
        switched(owner, pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION, || {
            let level = pg_sys::NewGUCNestLevel();
            pg_sys::set_config_option(
                c"search_path".as_ptr(),
                c"pg_catalog, pg_temp".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
            let outcome = work();
            pg_sys::AtEOXact_GUC(false, level);
            outcome
        })
    }
}

unsafe fn switched<T>(role: Oid, flags: u32, work: impl FnOnce() -> Result<T>) -> Result<T> {
    /// Removes the callback together with the frame that it is on, also when an ERROR passes.
    struct Noted(pg_sys::ErrorContextCallback);
    impl Drop for Noted {
        fn drop(&mut self) {
            // SAFETY: restores the previous value.
            unsafe { pg_sys::error_context_stack = self.0.previous };
        }
    }
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: by contract.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(role, context | flags as i32);
        let mut noted = Noted(pg_sys::ErrorContextCallback {
            previous: pg_sys::error_context_stack,
            callback: Some(note_state),
            arg: std::ptr::null_mut(),
        });
        pg_sys::error_context_stack = &raw mut noted.0;
        let outcome = work();
        drop(noted);
        // An ERROR that was raised in the work and caught there no longer counts.
        STATE.set(0);
        pg_sys::SetUserIdAndSecContext(user, context);
        outcome
    }
}

/// A function, as the catalogue describes it.
pub struct Function {
    oid: Oid,
    /// The transaction that has last created or replaced the function.
    xmin: u32,
    name: CString,
    pub owner: Oid,
    arguments: Vec<Oid>,
    result: Oid,
    /// It is no procedure, aggregate or window function, and returns no set.
    plain: bool,
}

impl Function {
    /// Reads the function with this OID; `None` if there is none.
    pub fn of(oid: Oid) -> Option<Function> {
        // SAFETY: one look-up in the catalogue's cache. The values are copied before the entry is released.
        unsafe {
            let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::PROCOID as i32, Datum::from(oid));
            if tuple.is_null() {
                return None;
            }
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
            let count = (*row).pronargs.max(0) as usize;
            let found = Function {
                oid,
                xmin: (*(*tuple).t_data).t_choice.t_heap.t_xmin.into_inner(),
                name: CStr::from_ptr((*row).proname.data.as_ptr()).to_owned(),
                owner: (*row).proowner,
                arguments: (*row).proargtypes.values.as_slice(count).to_vec(),
                result: (*row).prorettype,
                plain: (*row).prokind == pg_sys::PROKIND_FUNCTION as c_char && !(*row).proretset,
            };
            pg_sys::ReleaseSysCache(tuple);
            Some(found)
        }
    }

    /// Returns a number for the function as it is now. A function that is replaced gets another number. Never 0.
    pub fn state(&self) -> u64 {
        u64::from(self.oid.to_u32()) << 32 | u64::from(self.xmin)
    }

    /// Finds the function of this schema, name and arguments, regardless of `search_path` and the current user's rights.
    pub fn named(schema: Oid, name: &CStr, arguments: &[Oid]) -> Option<Function> {
        // SAFETY: one look-up in the catalogue's cache; the key lives until the look-up is done.
        let oid = unsafe {
            let key = pg_sys::buildoidvector(arguments.as_ptr(), arguments.len() as i32);
            pg_sys::GetSysCacheOid(
                pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
                pg_sys::Anum_pg_proc_oid as i16,
                Datum::from(name.as_ptr()),
                Datum::from(key),
                Datum::from(schema),
                Datum::null(),
            )
        };
        (oid != pg_sys::InvalidOid).then(|| Function::of(oid)).flatten()
    }

    /// Finds the function that a text like `app.topic_of(text, text)` names. The text has to name the schema, unless that is
    /// pg_catalog.
    pub fn of_two_texts(signature: &str) -> Result<Option<Function>> {
        let parts =
            signature.rsplit_once('(').and_then(|(name, rest)| Some((name, rest.trim_end().strip_suffix(')')?)));
        let Some((name, arguments)) = parts else { return Ok(None) };
        let text = |argument: &str| matches!(argument.trim().to_ascii_lowercase().as_str(), "text" | "pg_catalog.text");
        if arguments.split(',').count() != 2 || !arguments.split(',').all(text) {
            return Ok(None);
        }
        let name = CString::new(name).map_err(|e| Error::invalid(e.to_string()))?;
        // SAFETY: splits a name; its parts live in the current memory context.
        unsafe {
            #[cfg(feature = "pg15")]
            let list = pg_sys::stringToQualifiedNameList(name.as_ptr());
            #[cfg(not(feature = "pg15"))]
            let list = pg_sys::stringToQualifiedNameList(name.as_ptr(), std::ptr::null_mut());
            let (mut schema, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
            pg_sys::DeconstructQualifiedName(list, &mut schema, &mut function);
            let schema = if schema.is_null() { c"pg_catalog".as_ptr().cast_mut() } else { schema };
            let schema = pg_sys::get_namespace_oid(schema, true);
            Ok(Function::named(schema, CStr::from_ptr(function), &[pg_sys::TEXTOID, pg_sys::TEXTOID]))
        }
    }

    /// Whether this is a plain function of these arguments and this result.
    pub fn is(&self, arguments: &[Oid], result: Oid) -> bool {
        self.plain && self.arguments == arguments && self.result == result
    }

    /// The type of a parameter.
    pub fn argument(&self, i: usize) -> Oid {
        self.arguments.get(i).copied().unwrap_or(pg_sys::InvalidOid)
    }

    /// Whether this is a plain function that returns text.
    pub fn returns_text(&self) -> bool {
        self.plain && self.result == pg_sys::TEXTOID
    }

    /// Whether a role of this name owns the function.
    pub fn is_owned_by(&self, role: &str) -> bool {
        // SAFETY: one look-up in the catalogue's cache; a role that is gone has no name.
        unsafe {
            let name = pg_sys::GetUserNameFromId(self.owner, true);
            !name.is_null() && CStr::from_ptr(name).to_bytes() == role.as_bytes()
        }
    }

    /// Calls the function with the current user's identity. A strict function returns null for a null argument.
    ///
    /// # Safety
    /// The arguments have the types of the function's parameters.
    #[expect(ffi_unwind_calls, reason = "the call is guarded")]
    pub unsafe fn call(&self, collation: Oid, arguments: &[Option<Datum>]) -> Option<Datum> {
        // SAFETY: PostgreSQL's own way to call a function; an ERROR inside passes as a panic.
        unsafe {
            let mut function = pg_sys::FmgrInfo::default();
            pg_sys::fmgr_info(self.oid, &mut function);
            let size =
                size_of::<pg_sys::FunctionCallInfoBaseData>() + arguments.len() * size_of::<pg_sys::NullableDatum>();
            let info = pg_sys::palloc0(size).cast::<pg_sys::FunctionCallInfoBaseData>();
            (*info).flinfo = &mut function;
            (*info).fncollation = collation;
            (*info).nargs = arguments.len() as i16;
            for (slot, value) in (*info).args.as_mut_slice(arguments.len()).iter_mut().zip(arguments) {
                slot.value = value.unwrap_or(Datum::null());
                slot.isnull = value.is_none();
            }
            if function.fn_strict && arguments.iter().any(Option::is_none) {
                return None;
            }
            let address = function.fn_addr?;
            let result = pg_sys::ffi::pg_guard_ffi_boundary(|| address(info));
            (!(*info).isnull).then_some(result)
        }
    }
}

/// The data of a call site of `outbox_with_caller`, in the memory in which its `FmgrInfo` lives.
struct Site {
    function: pg_sys::FmgrInfo,
    owner: Oid,
}

/// The body of public functions, of any signature, that a private function implements: `outbox.x(...)` calls
/// `outbox_internal.x(caller oid, ...)` as the owner of `outbox.x`. SECURITY DEFINER would hide the caller.
///
/// As in `entry.rs`, no value here has a destructor while the private function runs. An ERROR in it keeps its SQLSTATE and
/// context, and the abort of the (sub)transaction restores the identity.
#[expect(ffi_unwind_calls, reason = "this frame has no destructor while it calls")]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn outbox_with_caller(info: pg_sys::FunctionCallInfo) -> Datum {
    unsafe extern "C-unwind" {
        // This is not pgrx's guarded function.
        fn SetUserIdAndSecContext(user: Oid, context: c_int);
    }
    // SAFETY: PostgreSQL calls this with a valid call info; `call` raises the errors of `find_private`. The private function
    // has the arguments of this one after an OID: `find_private` has checked that.
    unsafe {
        call(info, find_private);
        let site = (*(*info).flinfo).fn_extra.cast::<Site>();
        let Some(function) = (*site).function.fn_addr else { return Datum::null() };
        let count = (*info).nargs as usize;
        let size = size_of::<pg_sys::FunctionCallInfoBaseData>() + (count + 1) * size_of::<pg_sys::NullableDatum>();
        let inner = pg_sys::palloc0(size).cast::<pg_sys::FunctionCallInfoBaseData>();
        (*inner).flinfo = &mut (*site).function;
        (*inner).fncollation = (*info).fncollation;
        (*inner).nargs = (*info).nargs + 1;
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let arguments = (*inner).args.as_mut_slice(count + 1);
        arguments[0].value = Datum::from(user);
        arguments[1..].copy_from_slice((*info).args.as_slice(count));
        SetUserIdAndSecContext((*site).owner, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as c_int);
        let result = function(inner);
        SetUserIdAndSecContext(user, context);
        (*info).isnull = (*inner).isnull;
        result
    }
}

const _: () = {
    #[unsafe(export_name = "pg_finfo_outbox_with_caller")]
    extern "C" fn finfo() -> *const pg_sys::Pg_finfo_record {
        static RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
        &RECORD
    }
};

/// Looks up the private function of a public one, if the public one may be called here.
fn find_private(args: Args) -> Result<Returned> {
    let missing = || Error::new(Code::Internal, "the function is declared without its private namesake");
    // SAFETY: the call site of a function that PostgreSQL calls. The stored data lives as long as the call site and has no
    // destructor.
    unsafe {
        let own = args.site();
        let public = Function::of((*own).fn_oid).ok_or_else(missing)?;
        let name = public.name.to_string_lossy();
        if pg_sys::InSecurityRestrictedOperation() {
            return Err(Error::new(
                Code::NotPermitted,
                format!("cannot call outbox.{name}() within a security-restricted operation"),
            )
            .hint("Index expressions, materialized views and topic functions cannot call it."));
        }
        if (*own).fn_extra.is_null() {
            let signature: Vec<Oid> = std::iter::once(pg_sys::OIDOID).chain(public.arguments.iter().copied()).collect();
            let schema = pg_sys::get_namespace_oid(c"outbox_internal".as_ptr(), true);
            let private = Function::named(schema, &public.name, &signature)
                .filter(|private| private.plain && private.result == public.result)
                .ok_or_else(missing)?;
            let site = pg_sys::MemoryContextAllocZero((*own).fn_mcxt, size_of::<Site>()).cast::<Site>();
            site.write(Site { function: pg_sys::FmgrInfo::default(), owner: public.owner });
            pg_sys::fmgr_info_cxt(private.oid, &mut (*site).function, (*own).fn_mcxt);
            (*own).fn_extra = site.cast();
        }
    }
    Ok(None)
}

fn text_argument<'a>(args: Args, i: usize) -> Result<&'a CStr> {
    let datum = args.datum(i).ok_or_else(|| Error::new(Code::NullNotAllowed, "the statement must not be null"))?;
    // SAFETY: declared as text; the copy lives as long as the call.
    Ok(unsafe { CStr::from_ptr(pg_sys::text_to_cstring(datum.cast_mut_ptr())) })
}

pg_function! {
    /// outbox_internal.analyse(owner oid, query text) returns void: parse analysis of one statement of a user, with that user's
    /// rights. The analysis calls input functions of literals, and with them CHECK constraints of domains.
    fn outbox_analyse(args) {
        let query = text_argument(args, 1)?;
        run_code_of(args.get(0).unwrap_or(pg_sys::InvalidOid), || {
            // SAFETY: SPI calls in the required order; an ERROR ends SPI with the (sub)transaction.
            unsafe {
                pg_sys::SPI_connect();
                let plan = pg_sys::SPI_prepare(query.as_ptr(), 0, std::ptr::null_mut());
                let sources = if plan.is_null() { std::ptr::null_mut() } else { pg_sys::SPI_plan_get_plan_sources(plan) };
                let single = !sources.is_null() && (*sources).length == 1;
                pg_sys::SPI_finish();
                if single { Ok(None) } else { Err(Error::invalid("it is more than one statement")) }
            }
        })
    }
}

pg_function! {
    /// outbox_internal.execute_as(role oid, statement text, code_of_role boolean) returns void: runs a statement of the extension
    /// with the rights of that role. With `code_of_role`, the statement runs or analyses code of the role.
    fn outbox_execute_as(args) {
        let statement = text_argument(args, 1)?;
        let role = args.get(0).unwrap_or(pg_sys::InvalidOid);
        let execute = || {
            // SAFETY: SPI calls in the required order; an ERROR ends SPI with the (sub)transaction.
            let code = unsafe {
                pg_sys::SPI_connect();
                let code = pg_sys::SPI_execute(statement.as_ptr(), false, 0);
                pg_sys::SPI_finish();
                code
            };
            if code < 0 { Err(Error::new(Code::Internal, format!("SPI error {code}"))) } else { Ok(None) }
        };
        if args.get(2) == Some(true) {
            return run_code_of(role, execute);
        }
        // SAFETY: only called by the extension's own functions, which pin their search path.
        unsafe { run_as(role, execute) }
    }
}

pg_function! {
    /// outbox_internal.lock_owned(caller oid, relation oid) returns oid: locks a table as CREATE TRIGGER does, and returns its
    /// owner, if the caller may act as that owner. Null: there is no such table, or the caller may not.
    fn outbox_lock_owned(args) {
        let (caller, relation): (Oid, Oid) =
            (args.get(0).unwrap_or(pg_sys::InvalidOid), args.get(1).unwrap_or(pg_sys::InvalidOid));
        let Some(_) = owner_for(caller, relation) else { return Ok(None) };
        // SAFETY: an OID that is no longer a relation is no error for the lock manager. A locked table keeps its owner.
        unsafe { pg_sys::LockRelationOid(relation, pg_sys::ShareRowExclusiveLock as _) };
        Ok(owner_for(caller, relation).and_then(IntoDatum::into_datum))
    }
}

pg_function! {
    /// `outbox_internal.call_upcaster(function oid, data jsonb) returns jsonb` and others of this form: calls a user's function of
    /// this argument and result as its owner.
    fn outbox_call_as_owner(args) {
        // SAFETY: PostgreSQL passes the call site of the function that it calls.
        let own = unsafe { Function::of((*args.site()).fn_oid) };
        let function = args.get::<Oid>(0).and_then(Function::of);
        let (Some(own), Some(function)) = (own, function) else {
            return Err(Error::new(Code::NotFound, "the function does not exist"));
        };
        if !function.is(&[own.argument(1)], own.result) {
            return Err(Error::invalid(format!("function \"{}\" has another signature", function.name.to_string_lossy())));
        }
        // SAFETY: the argument has the type of the function's parameter, as checked above.
        run_code_of(function.owner, || Ok(unsafe { function.call(pg_sys::DEFAULT_COLLATION_OID, &[args.datum(1)]) }))
    }
}

/// The owner of a relation, if `caller` has the rights of that owner.
fn owner_for(caller: Oid, relation: Oid) -> Option<Oid> {
    // SAFETY: look-ups in the catalogue's cache.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, Datum::from(relation));
        if tuple.is_null() {
            return None;
        }
        let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).relowner;
        pg_sys::ReleaseSysCache(tuple);
        pg_sys::has_privs_of_role(caller, owner).then_some(owner)
    }
}
