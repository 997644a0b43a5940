//! Every setting: what it does, unit, range, when a change takes effect, and why its default is what it is.

use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// Databases of this cluster that can have a dispatcher at once. Sizes the shared memory (a few hundred bytes each).
pub static MAX_DATABASES: GucSetting<i32> = GucSetting::<i32>::new(64);

/// Whether messages are pushed over HTTP. The guard for physical copies (a standby promoted for a test), which cannot be
/// told from the original from inside.
pub static PUSH: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Largest payload or body that `enqueue` takes. 256 kB: the size webhook receivers commonly accept.
pub static MAX_PAYLOAD: GucSetting<i32> = GucSetting::<i32>::new(256);

/// Registered producer a message belongs to when `enqueue` is not told; set it per role, database or session.
pub static PUBLISHER: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// What `outbox.set_context` keeps for the transaction.
pub static CONTEXT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// How long the dispatcher sleeps when nothing wakes it. Finds what no wake-up tells of: COMMIT PREPARED, a lost process.
pub static POLL_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(5000);

/// Requests in flight plus outcomes not yet recorded; sending stops there. This is the bound on duplicates after a crash.
pub static MAX_UNRECORDED: GucSetting<i32> = GucSetting::<i32>::new(4096);

/// Requests in flight over all endpoints of a database.
pub static MAX_IN_FLIGHT: GucSetting<i32> = GucSetting::<i32>::new(256);

/// Networks that may be called although they are not public, comma-separated. Empty: public addresses only.
pub static EGRESS_ALLOW: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Whether endpoints may have `http://` URLs. Off: a signature proves who sent a message, not that nobody read it.
pub static ALLOW_HTTP: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Defines the settings.
pub fn init(preloading: bool) {
    if preloading {
        GucRegistry::define_int_guc(
            c"pg_outbox.max_databases",
            c"Databases that can have a dispatcher at once.",
            c"",
            &MAX_DATABASES,
            1,
            4096,
            GucContext::Postmaster,
            GucFlags::default(),
        );
    }
    GucRegistry::define_bool_guc(
        c"pg_outbox.push",
        c"Whether messages are pushed over HTTP.",
        c"Off: they are numbered and routed, and wait.",
        &PUSH,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_outbox.max_payload",
        c"Largest payload or body that enqueue takes.",
        c"",
        &MAX_PAYLOAD,
        1,
        1024 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_string_guc(
        c"pg_outbox.publisher",
        c"Publisher of the messages that do not name one.",
        c"",
        &PUBLISHER,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_outbox.context",
        c"Values for the messages of this transaction.",
        c"Set by outbox.set_context().",
        &CONTEXT,
        GucContext::Userset,
        GucFlags::NO_SHOW_ALL | GucFlags::DISALLOW_IN_FILE,
    );
    GucRegistry::define_int_guc(
        c"pg_outbox.poll_interval",
        c"How long the dispatcher sleeps when nothing wakes it.",
        c"",
        &POLL_INTERVAL,
        100,
        600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"pg_outbox.max_unrecorded",
        c"Requests in flight plus outcomes not yet recorded at which sending stops.",
        c"The bound on duplicates after a crash.",
        &MAX_UNRECORDED,
        1,
        1_000_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pg_outbox.max_in_flight",
        c"Requests in flight over all endpoints of a database.",
        c"",
        &MAX_IN_FLIGHT,
        1,
        65_536,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_outbox.egress_allow",
        c"Networks that may be called although they are not public.",
        c"Comma-separated, like 10.0.0.0/8, fd00::/8.",
        &EGRESS_ALLOW,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_bool_guc(
        c"pg_outbox.allow_http",
        c"Whether endpoints may have http:// URLs.",
        c"",
        &ALLOW_HTTP,
        GucContext::Sighup,
        GucFlags::default(),
    );
}
