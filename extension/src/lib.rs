//! pg_outbox: a transactional outbox inside PostgreSQL.
//!
//! `sql/schema` decides; this crate provides the parts that SQL cannot: the fast append, the wake-up at commit, the
//! background workers, HTTP. Code that needs neither PostgreSQL nor the network is in `pg-outbox-core`.

mod admin;
mod append;
mod catalog;
mod endpoint;
mod enqueue;
mod entry;
mod function;
mod gucs;
mod hooks;
mod idempotency;
mod identity;
mod jsonb;
mod marks;
mod pull;
mod read;
mod registry;
mod rights;
mod sequencer;
mod shape;
mod shmem;
mod wake;
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
    gucs::init(preloading);
    wake::init();
    if preloading && !upgrading {
        shmem::init();
        hooks::init();
        worker::launcher::init();
    }
}
