//! pg_outbox: a transactional outbox inside PostgreSQL.
//!
//! `sql/schema` decides; this crate provides the parts that SQL cannot: the fast append, the wake-up at commit, the
//! background workers, HTTP. Code that needs neither PostgreSQL nor the network is in `pg-outbox-core`. The dispatcher's
//! decisions are in `outbox-dispatch`; `store` is its way to the database.

// A foreign function that may unwind is called through pgrx, which turns an ERROR into a panic. Exceptions say why.
#![deny(ffi_unwind_calls)]

// PostgreSQL's ERRORs pass through Rust as panics, and with `panic = "abort"` each would end the server.
#[cfg(not(panic = "unwind"))]
compile_error!("pg_outbox needs panic = \"unwind\"");

mod pg;
mod settings;
mod shared;
mod sql;
mod store;
mod worker;

use pgrx::{pg_guard, pg_sys};

pgrx::pg_module_magic!();

/// Called by PostgreSQL when the library is loaded: by the postmaster if it is in `shared_preload_libraries`, otherwise by
/// the first backend that calls a function of the library. Without preloading everything works except push.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // SAFETY: constants of the server's start-up.
    let (preloading, upgrading) =
        unsafe { (pg_sys::process_shared_preload_libraries_in_progress, pg_sys::IsBinaryUpgrade) };
    settings::init(preloading);
    shared::wake::init();
    if preloading && !upgrading {
        shared::shmem::init();
        pg::hooks::init();
        worker::launcher::init();
    }
}
