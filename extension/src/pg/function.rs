//! Makes SQL functions of Rust functions.
//!
//! The functions are declared by hand in `sql/schema` (`language c`), so no SQL is generated. Errors carry SQLSTATEs of the
//! extension's own class, which pgrx's error reporting would map to XX000.
//!
//! Invariant: when PostgreSQL's `errfinish` jumps out of here, no Rust frame with a destructor is between it and the caller.
//! `call` runs the body, keeps its result, drops everything else, and raises the error last.

use std::any::Any;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::AssertUnwindSafe;

use outbox_core::{Error, Result};
use outbox_dispatch::Failure;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgLogLevel, PgSqlErrorCode};
use serde_json::Value;

/// Arguments of a call. An argument that is SQL null reads as `None`.
#[derive(Clone, Copy)]
pub struct Args(pg_sys::FunctionCallInfo);

impl Args {
    /// The datum of argument `i`, counted from 0; `None` if it is null or was not passed.
    pub fn datum(self, i: usize) -> Option<pg_sys::Datum> {
        // SAFETY: PostgreSQL passes a valid call info with `nargs` arguments.
        unsafe {
            let info = &*self.0;
            if i >= info.nargs as usize {
                return None;
            }
            let arg = info.args.as_slice(info.nargs as usize)[i];
            (!arg.isnull).then_some(arg.value)
        }
    }

    /// Whether this is a CALL that may end its transaction.
    pub fn may_commit(self) -> bool {
        // SAFETY: a CALL's context is a CallContext; a node's tag says so.
        unsafe {
            let context = (*self.0).context;
            !context.is_null()
                && (*context).type_ == pg_sys::NodeTag::T_CallContext
                && !(*context.cast::<pg_sys::CallContext>()).atomic
        }
    }

    /// Whether the caller takes the rows of a set-returning function all at once.
    pub fn takes_rows(self) -> bool {
        // SAFETY: a node's tag says what the result information is.
        unsafe {
            let result = (*self.0).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            !result.is_null()
                && (*result).type_ == pg_sys::NodeTag::T_ReturnSetInfo
                && (*result).allowedModes & pg_sys::SetFunctionReturnMode::SFRM_Materialize as c_int != 0
        }
    }

    /// Begins the result of a set-returning function whose caller takes rows.
    pub fn begin_rows(self) -> ReturnedRows {
        // SAFETY: `takes_rows` has checked the result information.
        unsafe {
            pg_sys::InitMaterializedSRF(self.0, 0);
            ReturnedRows((*self.0).resultinfo.cast())
        }
    }

    /// The call site.
    pub fn site(self) -> *mut pg_sys::FmgrInfo {
        // SAFETY: as above.
        unsafe { (*self.0).flinfo }
    }

    /// Replaces the value of argument `i`.
    pub fn replace(self, i: usize, value: Option<pg_sys::Datum>) {
        // SAFETY: as above, the call info is valid and this call's own.
        unsafe {
            let count = (*self.0).nargs as usize;
            if let Some(arg) = (*self.0).args.as_mut_slice(count).get_mut(i) {
                arg.value = value.unwrap_or(pg_sys::Datum::null());
                arg.isnull = value.is_none();
            }
        }
    }

    /// Argument `i`, which is declared as jsonb and called `name`.
    ///
    /// # Errors
    /// 22023 for JSON that PostgreSQL can store but this code cannot read. The error does not show the value, which may be a
    /// secret.
    pub fn json(self, i: usize, name: &str) -> Result<Option<Value>> {
        self.datum(i).map(|datum| json_of(datum, name)).transpose()
    }

    /// Argument `i` as a Rust value.
    pub fn get<T: pgrx::FromDatum>(self, i: usize) -> Option<T> {
        // SAFETY: the SQL declaration of the function gives the argument's type, which the caller names again in `T`.
        self.datum(i).and_then(|datum| unsafe { T::from_datum(datum, false) })
    }
}

/// The value of a jsonb that is called `name`.
///
/// # Errors
/// Those of `Args::json`.
pub fn json_of(datum: pg_sys::Datum, name: &str) -> Result<Value> {
    // SAFETY: by the SQL declaration; the text lives in the call's memory context.
    let text = unsafe {
        let value = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
        let size = pgrx::varsize_any(value) as c_int;
        let root = &raw mut (*value.cast::<pg_sys::Jsonb>()).root;
        CStr::from_ptr(pg_sys::JsonbToCString(std::ptr::null_mut(), root, size))
    };
    let refuse = |_| {
        Error::invalid(format!("{name} has JSON that cannot be used"))
            .detail("It is nested more than 127 levels deep, or has a number beyond 1.7e308.")
    };
    serde_json::from_slice(text.to_bytes()).map_err(refuse)
}

/// The result of a function: a datum, or SQL null.
pub type Returned = Option<pg_sys::Datum>;

/// The rows that a set-returning function returns.
pub struct ReturnedRows(*mut pg_sys::ReturnSetInfo);

impl ReturnedRows {
    /// Adds a row. The array has an entry for each column of the function's declared type.
    pub fn add<const N: usize>(&mut self, columns: [Option<pg_sys::Datum>; N]) -> Result<()> {
        let mut values = columns.map(|c| c.unwrap_or(pg_sys::Datum::null()));
        let mut nulls = columns.map(|c| c.is_none());
        // SAFETY: made by `begin_rows`; the number of columns is checked.
        unsafe {
            let descriptor = (*self.0).setDesc;
            if (*descriptor).natts as usize != N {
                return Err(Error::new(outbox_core::Code::Internal, "the function is declared with another row type"));
            }
            pg_sys::tuplestore_putvalues((*self.0).setResult, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
        }
        Ok(())
    }
}

/// Builds a row of the function's declared type.
pub fn record(args: Args, columns: &[Option<pg_sys::Datum>]) -> Result<Returned> {
    let mut values: Vec<pg_sys::Datum> = columns.iter().map(|c| c.unwrap_or(pg_sys::Datum::null())).collect();
    let mut nulls: Vec<bool> = columns.iter().map(Option::is_none).collect();
    let mut descriptor = std::ptr::null_mut();
    // SAFETY: the call info is valid; the descriptor has as many columns as the SQL declaration.
    unsafe {
        let class = pg_sys::get_call_result_type(args.0, std::ptr::null_mut(), &mut descriptor);
        if class != pg_sys::TypeFuncClass::TYPEFUNC_COMPOSITE || (*descriptor).natts as usize != columns.len() {
            return Err(Error::new(outbox_core::Code::Internal, "the function is declared with another row type"));
        }
        let tuple =
            pg_sys::heap_form_tuple(pg_sys::BlessTupleDesc(descriptor), values.as_mut_ptr(), nulls.as_mut_ptr());
        Ok(Some(pg_sys::HeapTupleHeaderGetDatum((*tuple).t_data)))
    }
}

/// Runs the body of an SQL function, and turns an error of ours, an ERROR of PostgreSQL or a panic into an ERROR.
///
/// # Safety
/// Only as the whole body of a function that PostgreSQL calls.
pub unsafe fn call(info: pg_sys::FunctionCallInfo, body: fn(Args) -> Result<Returned>) -> pg_sys::Datum {
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| body(Args(info))));
    let report = match outcome {
        Ok(Ok(Some(datum))) => return datum,
        Ok(Ok(None)) => {
            // SAFETY: as above, the call info is valid.
            unsafe { (*info).isnull = true };
            return pg_sys::Datum::null();
        }
        Ok(Err(error)) => Report {
            state: sqlstate(error.code.sqlstate()),
            message: palloc_cstr(&error.message),
            detail: error.detail.as_deref().map_or(std::ptr::null_mut(), palloc_cstr),
            hint: error.hint.as_deref().map_or(std::ptr::null_mut(), palloc_cstr),
        },
        Err(payload) => match caught(payload) {
            // An ERROR of PostgreSQL is passed on as it was. pgrx would add a backtrace to its detail.
            CaughtError::PostgresError(error) | CaughtError::ErrorReport(error) => Report {
                state: match (error.sql_error_code(), STATE.take()) {
                    (PgSqlErrorCode::ERRCODE_INTERNAL_ERROR, noted @ 1..) => noted,
                    (known, _) => known as c_int,
                },
                message: palloc_cstr(error.message()),
                detail: error.detail().map_or(std::ptr::null_mut(), palloc_cstr),
                hint: error.hint().map_or(std::ptr::null_mut(), palloc_cstr),
            },
            // The place and the text of a panic go to the server's log only: the text may contain the caller's input.
            CaughtError::RustPanic { ereport, .. } => {
                let text = format!(
                    "pg_outbox: internal error at {}:{}: {}",
                    ereport.file(),
                    ereport.line_number(),
                    ereport.message()
                );
                let code = PgSqlErrorCode::ERRCODE_INTERNAL_ERROR;
                let _ = catch(|| pgrx::ereport!(PgLogLevel::LOG_SERVER_ONLY, code, text));
                Report {
                    state: code as c_int,
                    message: palloc_cstr("internal error of pg_outbox"),
                    detail: std::ptr::null_mut(),
                    hint: palloc_cstr("The server's log says where it happened. Please report it."),
                }
            }
        },
    };
    // SAFETY: `report` is plain memory of PostgreSQL; nothing else is alive in this frame.
    unsafe { raise(report) }
}

thread_local! {
    /// The SQLSTATE of the last ERROR in code that is not ours. pgrx knows PostgreSQL's own SQLSTATEs, and takes all others
    /// for XX000.
    pub static STATE: Cell<c_int> = const { Cell::new(0) };
}

/// An `ErrorContextCallback` around code that is not ours.
#[expect(ffi_unwind_calls, reason = "the function raises no ERROR")]
pub unsafe extern "C-unwind" fn note_state(_arg: *mut c_void) {
    unsafe extern "C-unwind" {
        fn geterrcode() -> c_int;
    }
    // SAFETY: PostgreSQL calls this while it makes a report.
    let state = unsafe { geterrcode() };
    // Classes 00 to 02 are those of notices.
    if state & 0x3f != 0 || (state >> 6) & 0x3f > 2 {
        STATE.set(state);
    }
}

/// The error that ended a body, with the place of a panic.
fn caught(payload: Box<dyn Any + Send>) -> CaughtError {
    let payload = AssertUnwindSafe(payload);
    pgrx::PgTryBuilder::new(move || -> CaughtError { std::panic::resume_unwind({ payload }.0) })
        .catch_rust_panic(|error| error)
        .catch_others(|error| error)
        .execute()
}

/// The error that `raise` reports, in PostgreSQL's memory.
struct Report {
    state: c_int,
    message: *mut c_char,
    detail: *mut c_char,
    hint: *mut c_char,
}

/// Raises an ERROR.
///
/// # Safety
/// Jumps: no frame between here and PostgreSQL may hold a value with a destructor.
#[expect(ffi_unwind_calls, reason = "no frame that the ERROR passes has a destructor")]
unsafe fn raise(report: Report) -> ! {
    unsafe extern "C-unwind" {
        fn errstart(elevel: c_int, domain: *const c_char) -> bool;
        fn errcode(sqlerrcode: c_int) -> c_int;
        fn errmsg_internal(fmt: *const c_char, ...) -> c_int;
        fn errdetail_internal(fmt: *const c_char, ...) -> c_int;
        fn errhint(fmt: *const c_char, ...) -> c_int;
        fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char) -> !;
    }
    const FORMAT: &CStr = c"%s";
    // SAFETY: the strings are NUL-terminated and live in a memory context that outlives the call.
    unsafe {
        errstart(PgLogLevel::ERROR as c_int, std::ptr::null());
        errcode(report.state);
        errmsg_internal(FORMAT.as_ptr(), report.message);
        if !report.detail.is_null() {
            errdetail_internal(FORMAT.as_ptr(), report.detail);
        }
        if !report.hint.is_null() {
            errhint(FORMAT.as_ptr(), report.hint);
        }
        errfinish(c"pg_outbox".as_ptr(), 0, std::ptr::null());
    }
}

/// Longest text of an error, in bytes. Some errors contain names that the caller passed, which can be of any length.
const LONGEST: usize = 1000;

/// Copies a text into the current memory context, up to the length that an error shows. A NUL inside becomes U+FFFD.
fn palloc_cstr(text: &str) -> *mut c_char {
    let boundary = (0..=LONGEST.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let mut clean = text[..boundary].replace('\0', "\u{fffd}");
    if text.len() > LONGEST {
        clean.push_str(" ...");
    }
    // SAFETY: palloc gives len + 1 bytes or raises; the copy stays within them.
    unsafe {
        let to = pg_sys::palloc(clean.len() + 1).cast::<u8>();
        std::ptr::copy_nonoverlapping(clean.as_ptr(), to, clean.len());
        *to.add(clean.len()) = 0;
        to.cast()
    }
}

/// MAKE_SQLSTATE of elog.h.
fn sqlstate(code: &str) -> c_int {
    code.bytes().enumerate().fold(0, |acc, (i, b)| acc + ((c_int::from(b) - 0x30) & 0x3f) * (1 << (6 * i)))
}

/// Runs `f`, and returns an ERROR of PostgreSQL or a panic as a value instead of passing it on.
///
/// The transaction stays as the ERROR left it: the caller has to abort it.
pub fn catch<T>(f: impl FnOnce() -> T) -> std::result::Result<T, Failure> {
    std::panic::catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        let panicked = |text: &str| Failure::new(format!("panic: {text}"));
        match payload.downcast::<CaughtError>() {
            Ok(caught) => match *caught {
                CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                    let mut state = five(report.sql_error_code() as c_int);
                    // The memory that all processes share (the lock table) has run out, perhaps taken by another session. An
                    // error about a process's own memory differs: it has a detail with the requested size.
                    if &state == b"53200" && report.detail().is_none() {
                        state = *b"53000";
                    }
                    Failure { state, message: report.message().to_owned() }
                }
                CaughtError::RustPanic { ereport, .. } => panicked(ereport.message()),
            },
            Err(payload) => match payload.downcast::<pg_sys::panic::ErrorReport>() {
                Ok(report) => Failure::new(report.message()),
                Err(payload) => panicked(
                    payload
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or_else(|| payload.downcast_ref::<&str>().copied())
                        .unwrap_or("unknown"),
                ),
            },
        }
    })
}

/// The characters of a SQLSTATE; the inverse of `sqlstate`.
pub fn five(code: c_int) -> [u8; 5] {
    std::array::from_fn(|i| ((code >> (6 * i)) & 0x3f) as u8 + 0x30)
}

/// Declares an SQL function in C's calling convention: the symbol and its `pg_finfo_` record.
#[macro_export]
macro_rules! pg_function {
    ($(#[$doc:meta])* fn $name:ident($args:ident) $body:block) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(info: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
            fn body($args: $crate::pg::function::Args) -> outbox_core::Result<$crate::pg::function::Returned> $body
            // SAFETY: PostgreSQL calls this, and this is its whole body.
            unsafe { $crate::pg::function::call(info, body) }
        }

        const _: () = {
            #[unsafe(export_name = concat!("pg_finfo_", stringify!($name)))]
            extern "C" fn finfo() -> *const pgrx::pg_sys::Pg_finfo_record {
                static RECORD: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &RECORD
            }
        };
    };
}
