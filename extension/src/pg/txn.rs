//! Transactions of a background worker, and statements in them.
//!
//! Invariants: a failed transaction is aborted before anything else happens, and its failure is a value, not an exit; no
//! transaction is open when `run` returns; plans are prepared once per process and saved.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

pub use outbox_dispatch::Failure;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{FromDatum, IntoDatum};

use crate::pg::function::catch;
use crate::pg::timer::Timer;
use crate::worker::terminating;

/// How long a commit waits for a standby when the process was asked to end.
const STANDBY: Duration = Duration::from_secs(3);

/// Runs `work` in a transaction of its own and commits it.
pub fn run<T>(work: impl FnOnce() -> outbox_core::Result<T>) -> Result<T, Failure> {
    let outcome = catch(AssertUnwindSafe(|| {
        // SAFETY: the process has a database connection and no transaction.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            pg_sys::SPI_connect();
        }
        let value = work();
        if value.is_ok() {
            // SAFETY: opened above, in this order.
            unsafe {
                pg_sys::SPI_finish();
                pg_sys::PopActiveSnapshot();
            }
            commit();
        }
        value
    }));
    let failure = match outcome {
        Ok(Ok(value)) => {
            // Without this, autovacuum would never see that the dispatcher's tables change.
            // SAFETY: outside a transaction.
            unsafe { pg_sys::pgstat_report_stat(false) };
            return Ok(value);
        }
        Ok(Err(error)) => Failure::from(error),
        Err(failure) => failure,
    };
    // SAFETY: aborts whatever is open; the error itself has been taken over.
    if let Err(second) = catch(|| unsafe { pg_sys::AbortCurrentTransaction() }) {
        return Err(Failure { message: format!("{failure}; aborting it: {second}"), ..failure });
    }
    Err(failure)
}

/// Runs `work` in a transaction that is cancelled when it takes longer than `timer`.
pub fn run_timed<T>(timer: Duration, work: impl FnOnce() -> outbox_core::Result<T>) -> Result<T, Failure> {
    let outcome = run(|| {
        let _timer = Timer::start(timer);
        work()
    });
    // The timer may have fired at the last moment.
    // SAFETY: a flag of this process; outside a transaction nothing is there to be cancelled.
    unsafe { pg_sys::QueryCancelPending = 0 };
    outcome
}

/// Runs `work` in a subtransaction of the current transaction. A failure undoes the writes of `work`, and nothing else.
pub fn attempt<T>(work: impl FnOnce() -> outbox_core::Result<T>) -> Result<T, Failure> {
    in_subtransaction(work, true)
}

/// Runs `work` in a subtransaction of the current transaction, and undoes its writes in any case.
pub fn undone<T>(work: impl FnOnce() -> outbox_core::Result<T>) -> Result<T, Failure> {
    in_subtransaction(work, false)
}

fn in_subtransaction<T>(work: impl FnOnce() -> outbox_core::Result<T>, keep: bool) -> Result<T, Failure> {
    // SAFETY: inside a transaction. The memory context and resource owner are restored afterwards, as in PL/pgSQL.
    let (context, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(before.0);
        before
    };
    let outcome = match catch(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    // SAFETY: as above.
    unsafe {
        pg_sys::MemoryContextSwitchTo(context);
        if outcome.is_ok() && keep {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    outcome
}

fn commit() {
    // A process that was asked to end waits for a standby for a limited time. The wait then ends with a warning; the
    // transaction is committed on this server.
    let timer = terminating().then(|| Timer::start(STANDBY));
    // SAFETY: in a transaction that `run` has started.
    unsafe { pg_sys::CommitTransactionCommand() };
    if timer.is_some() {
        drop(timer);
        // The timer may have fired at the last moment.
        // SAFETY: a flag of this process; outside a transaction nothing is there to be cancelled.
        unsafe { pg_sys::QueryCancelPending = 0 };
    }
}

/// A statement that is prepared at its first use.
pub struct Plan {
    sql: &'static str,
    types: &'static [Oid],
    plan: pg_sys::SPIPlanPtr,
}

impl Plan {
    pub const fn new(sql: &'static str, types: &'static [Oid]) -> Plan {
        Plan { sql, types, plan: std::ptr::null_mut() }
    }

    /// Executes the statement; `args` has one entry per parameter.
    pub fn execute(&mut self, args: &[Option<Datum>]) -> Rows {
        debug_assert_eq!(args.len(), self.types.len());
        // SAFETY: inside `run`; the argument types are those the plan was prepared with.
        unsafe {
            if self.plan.is_null() {
                let sql = CString::new(self.sql).unwrap_or_default();
                let mut types = self.types.to_vec();
                let plan = pg_sys::SPI_prepare(sql.as_ptr(), types.len() as i32, types.as_mut_ptr());
                if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
                    let code = pg_sys::SPI_result;
                    pgrx::error!("cannot prepare a statement: SPI error {code}");
                }
                self.plan = plan;
            }
            let mut values: Vec<Datum> = args.iter().map(|arg| arg.unwrap_or(Datum::null())).collect();
            let nulls: Vec<std::ffi::c_char> =
                args.iter().map(|arg| if arg.is_some() { b' ' } else { b'n' } as _).collect();
            let code = pg_sys::SPI_execute_plan(self.plan, values.as_mut_ptr(), nulls.as_ptr(), false, 0);
            if code < 0 {
                pgrx::error!("cannot execute a statement: SPI error {code}");
            }
            Rows { table: pg_sys::SPI_tuptable, count: pg_sys::SPI_processed as usize }
        }
    }
}

/// The rows of a statement, valid until the transaction ends.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    count: usize,
}

/// One row, as columns.
pub struct Row {
    descriptor: pg_sys::TupleDesc,
    values: Vec<Datum>,
    nulls: Vec<bool>,
    /// Buffer in which JSON becomes text.
    text: Cell<pg_sys::StringInfo>,
}

impl Rows {
    /// Calls `f` with each row. One buffer serves all rows.
    pub fn for_each(&self, mut f: impl FnMut(&Row)) {
        if self.table.is_null() {
            return;
        }
        // SAFETY: SPI's table holds `count` tuples of this descriptor.
        unsafe {
            let descriptor = (*self.table).tupdesc;
            let mut row = Row::of(descriptor);
            for i in 0..self.count {
                row.take_apart(*(*self.table).vals.add(i), descriptor);
                f(&row);
            }
        }
    }

    /// Reads the first row; `None` if there is none.
    pub fn first<T>(&self, f: impl FnOnce(&Row) -> T) -> Option<T> {
        let mut f = Some(f);
        let mut first = None;
        self.for_each(|row| {
            if let Some(f) = f.take() {
                first = Some(f(row));
            }
        });
        first
    }
}

/// A column of a row: its number, from 0, or its name. Statements that run for each message use numbers.
pub trait Column {
    fn number(self, row: &Row) -> usize;
}

impl Column for usize {
    fn number(self, _: &Row) -> usize {
        self
    }
}

impl Column for &CStr {
    fn number(self, row: &Row) -> usize {
        // SAFETY: the descriptor lives as long as the rows. The function reads it only.
        let number = unsafe { pg_sys::SPI_fnumber(row.descriptor, self.as_ptr()) };
        if number < 1 {
            pgrx::error!("a statement returned no column {self:?}");
        }
        number as usize - 1
    }
}

impl Row {
    /// A buffer for rows of this descriptor.
    ///
    /// # Safety
    /// The descriptor is valid.
    pub(crate) unsafe fn of(descriptor: pg_sys::TupleDesc) -> Row {
        // SAFETY: by contract.
        let columns = unsafe { (*descriptor).natts } as usize;
        Row {
            descriptor,
            values: vec![Datum::null(); columns],
            nulls: vec![true; columns],
            text: Cell::new(std::ptr::null_mut()),
        }
    }

    /// Reads the columns of a tuple.
    ///
    /// # Safety
    /// The tuple has the descriptor that the buffer was made for, and lives as long as the row is read.
    pub(crate) unsafe fn take_apart(&mut self, tuple: pg_sys::HeapTuple, descriptor: pg_sys::TupleDesc) {
        // SAFETY: by contract; the buffers have an entry per column.
        unsafe {
            pg_sys::heap_deform_tuple(tuple, descriptor, self.values.as_mut_ptr(), self.nulls.as_mut_ptr());
        }
    }

    /// Reads the text of a jsonb column, in the database's encoding.
    pub fn json<T>(&self, i: usize, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        if self.nulls[i] {
            return None;
        }
        // SAFETY: the caller names a jsonb column. The buffer lives in the current memory context, as the row does, and
        // nothing else uses it while `read` runs.
        unsafe {
            let value = pg_sys::pg_detoast_datum(self.values[i].cast_mut_ptr());
            if self.text.get().is_null() {
                self.text.set(pg_sys::makeStringInfo());
            }
            let text = self.text.get();
            pg_sys::resetStringInfo(text);
            let size = pgrx::varsize_any(value) as i32;
            pg_sys::JsonbToCString(text, &raw mut (*value.cast::<pg_sys::Jsonb>()).root, size);
            Some(read(std::slice::from_raw_parts((*text).data.cast::<u8>(), (*text).len as usize)))
        }
    }

    /// A column as it is stored; `None` for null.
    pub fn datum(&self, i: usize) -> Option<Datum> {
        (!self.nulls[i]).then(|| self.values[i])
    }

    /// Whether a column is null.
    pub fn is_null(&self, column: impl Column) -> bool {
        self.nulls[column.number(self)]
    }

    /// A column as a Rust value; `None` for null.
    pub fn get<T: FromDatum>(&self, column: impl Column) -> Option<T> {
        let i = column.number(self);
        if self.nulls[i] {
            return None;
        }
        // SAFETY: the statement's text fixes the column's type, which the caller names again in `T`.
        unsafe { T::from_datum(self.values[i], false) }
    }

    /// A text column.
    pub fn text(&self, column: impl Column) -> Option<Box<str>> {
        self.get::<&str>(column).map(Into::into)
    }

    /// The bytes of a text or bytea column, detoasted.
    pub fn bytes(&self, column: impl Column) -> Option<Vec<u8>> {
        self.get::<&[u8]>(column).map(<[u8]>::to_vec)
    }

    /// A bigint column that is not null; a null reads as 0.
    pub fn int(&self, column: impl Column) -> i64 {
        self.get(column).unwrap_or_default()
    }
}

/// A datum from a Rust value.
pub fn arg<T: IntoDatum>(value: T) -> Option<Datum> {
    value.into_datum()
}
