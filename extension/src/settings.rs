//! Every setting: meaning, unit, range, when a change takes effect, and the reason for its default.

use std::ffi::{CStr, CString};

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

const HOUR: i32 = 3600;
const DAY: i32 = 24 * HOUR;

/// A setting in one place: the reason (a doc comment, which is also what `pg_settings` and docs/settings.md show), the name
/// in Rust, the name in SQL below `pg_outbox.`, type with range and unit, default, the moment at which a change takes
/// effect, and flags.
macro_rules! settings {
    ($($(#[doc = $reason:literal])+ $name:ident $sql:literal: $kind:ident $(($range:expr $(, $unit:ident)?))? = $default:expr,
        $context:ident $([$($flag:ident)|+])?;)+) => {
        $($(#[doc = $reason])+ pub static $name: settings!(@type $kind) = GucSetting::<settings!(@value $kind)>::new($default);)+

        fn define(preloading: bool) {
            $(settings!(@define $kind
                const { constant(concat!("pg_outbox.", $sql, "\0")) }, const { constant(concat!($($reason,)+ "\0")) }, &$name,
                context(settings!(@context $context), preloading),
                GucFlags::default() $($(| GucFlags::$unit)?)? $($(| GucFlags::$flag)+)?
                $(, $range)?);)+
        }
    };
    (@type $kind:ident) => { GucSetting<settings!(@value $kind)> };
    (@value int) => { i32 };
    (@value bool) => { bool };
    (@value string) => { Option<CString> };
    (@context Start) => { GucContext::Postmaster };
    (@context $context:ident) => { GucContext::$context };
    (@define int $sql:expr, $reason:expr, $setting:expr, $context:expr, $flags:expr, $range:expr) => {
        GucRegistry::define_int_guc($sql, $reason, c"", $setting, *$range.start(), *$range.end(), $context, $flags)
    };
    (@define bool $sql:expr, $reason:expr, $setting:expr, $context:expr, $flags:expr) => {
        GucRegistry::define_bool_guc($sql, $reason, c"", $setting, $context, $flags)
    };
    (@define string $sql:expr, $reason:expr, $setting:expr, $context:expr, $flags:expr) => {
        GucRegistry::define_string_guc($sql, $reason, c"", $setting, $context, $flags)
    };
}

settings! {
    /// Databases of this cluster that can have a dispatcher at once. Determines the size of the shared memory (about 17 kB
    /// each).
    MAX_DATABASES "max_databases": int(1..=4096) = 64, Start;

    /// Whether messages are pushed over HTTP. Switch it off for a physical copy (a standby promoted for a test): from inside,
    /// such a copy cannot be told from the original.
    PUSH "push": bool = true, Sighup;

    /// Largest payload or body that `enqueue` accepts. 256 kB: receivers of webhooks commonly accept this size.
    MAX_PAYLOAD "max_payload": int(1..=1024 * 1024, UNIT_KB) = 256, Suset;

    /// Registered publisher of a message when the call of `enqueue` names none. Set it per role, database or session.
    PUBLISHER "publisher": string = None, Userset;

    /// Whether `enqueue` accepts registered topics only. Off: a registration describes a topic, and one can start without it.
    REQUIRE_TOPIC "require_topic": bool = false, Suset;

    /// Whether `enqueue` accepts registered publishers only.
    REQUIRE_PUBLISHER "require_publisher": bool = false, Suset;

    /// Topic template, like `{tenant}.{topic}`, for messages whose publisher has no template or function of its own.
    TOPIC_TEMPLATE "topic_template": string = None, Suset;

    /// Signature of a function `(tenant text, topic text) returns text`. The function takes precedence over the template.
    TOPIC_FUNCTION "topic_function": string = None, Suset;

    /// Longest time that a filter's SQL/JSON path may take for one payload. 100 ms: thousands of times what a sensible path
    /// takes.
    FILTER_TIMEOUT "filter_timeout": int(1..=10_000, UNIT_MS) = 100, Sighup;

    /// Longest time that a subscription's transform may take for one message. 100 ms: a few look-ups in tables take a hundredth
    /// of it.
    TRANSFORM_TIMEOUT "transform_timeout": int(1..=10_000, UNIT_MS) = 100, Sighup;

    /// The values that `outbox.set_context` has set for the transaction.
    CONTEXT "context": string = None, Userset [NO_SHOW_ALL | DISALLOW_IN_FILE];

    /// Whether `outbox_internal.refuse_change` allows changes of rows in the logs. The privilege to write to the logs is checked apart
    /// from this.
    ERASING "erasing": bool = false, Userset [NO_SHOW_ALL | DISALLOW_IN_FILE];

    /// How long the dispatcher sleeps when nothing wakes it. This poll finds messages without a wake-up: those of COMMIT
    /// PREPARED, or of a session that died between its commit and the wake-up.
    POLL_INTERVAL "poll_interval": int(100..=600_000, UNIT_MS) = 5000, Sighup;

    /// Requests in flight plus outcomes not yet recorded. At this number sending stops, so it bounds the duplicates after a
    /// crash.
    MAX_UNRECORDED "max_unrecorded": int(1..=1_000_000) = 4096, Sighup;

    /// Requests in flight, over all endpoints of a database.
    MAX_IN_FLIGHT "max_in_flight": int(1..=65_536) = 256, Sighup;

    /// Networks that may be called although they are not public, comma-separated. Empty: only public addresses.
    EGRESS_ALLOW "egress_allow": string = None, Sighup [SUPERUSER_ONLY];

    /// Ports that may be called, comma-separated. Empty: all ports.
    EGRESS_PORTS "egress_ports": string = None, Sighup;

    /// Name servers to ask instead of the system's resolver: comma-separated addresses with ports.
    NAME_SERVERS "name_servers": string = None, Sighup;

    /// The `source` of CloudEvents. Empty: `/pg_outbox/<system identifier>/<database>`, which no other outbox has.
    EVENT_SOURCE "event_source": string = None, Sighup;

    /// Name under which receivers are asked for consent (`WebHook-Request-Origin`). Receivers have to know this name.
    CONSENT_ORIGIN "consent_origin": string = Some(c"pg_outbox"), Sighup;

    /// Whether endpoints may have `http://` URLs. Off: a signature proves the sender of a message, but does not keep it secret.
    ALLOW_HTTP "allow_http": bool = false, Sighup;

    /// How long messages are retained after they were enqueued. They are removed a partition at a time, and a partition covers a
    /// fourteenth of this time. 7 days: a weekend and a bank holiday to notice that a consumer has stopped, and room for
    /// replays.
    /// Zero or less: for ever.
    MESSAGE_RETENTION "message_retention": int(-1..=i32::MAX, UNIT_S) = 7 * DAY, Suset;

    /// How long the position of a message is remembered after the message itself is deleted. 30 days, like the attempts.
    /// Zero or less: for ever.
    FEED_RETENTION "feed_retention": int(-1..=i32::MAX, UNIT_S) = 30 * DAY, Suset;

    /// How long the logs of attempts and of routing are retained. 30 days: support questions go back that far.
    /// Zero or less: for ever.
    ATTEMPT_RETENTION "attempt_retention": int(-1..=i32::MAX, UNIT_S) = 30 * DAY, Suset;

    /// How long dead letters are retained after they were resolved or ignored.
    /// Zero or less: for ever.
    DEAD_LETTER_RETENTION "dead_letter_retention": int(-1..=i32::MAX, UNIT_S) = 90 * DAY, Suset;

    /// How long unresolved dead letters are retained. For ever: each of them is a lost delivery.
    /// Zero or less: for ever.
    UNRESOLVED_DEAD_LETTER_RETENTION "unresolved_dead_letter_retention": int(-1..=i32::MAX, UNIT_S) = 0, Suset;

    /// How long `outbox.audit` retains the actions of operators.
    /// Zero or less: for ever.
    AUDIT_RETENTION "audit_retention": int(-1..=i32::MAX, UNIT_S) = 365 * DAY, Suset;

    /// How long rows of outbox.tick are retained; the last row always is. An hour: the rows only serve the analysis of
    /// incidents.
    /// Zero or less: for ever.
    TICK_RETENTION "tick_retention": int(-1..=i32::MAX, UNIT_S) = HOUR, Suset;

    /// How long rows of outbox.checkpoint are retained; the last row always is.
    /// Zero or less: for ever.
    CHECKPOINT_RETENTION "checkpoint_retention": int(-1..=i32::MAX, UNIT_S) = HOUR, Suset;

    /// How often each retention job runs.
    RETENTION_INTERVAL "retention_interval": int(1..=7 * DAY, UNIT_S) = HOUR, Suset;

    /// Size at which a partition of a log is closed early; 0: partitions are closed by time only. Not a limit on disk space:
    /// when all partitions are full before the retention is over, the last one grows.
    SEGMENT_SIZE "segment_size": int(0..=1024 * 1024 * 1024, UNIT_KB) = 0, Suset;

    /// Whether the dispatcher sends NOTIFY outbox_feed when the feed has grown. Off: without listeners it would be a useless
    /// cost.
    NOTIFY_READERS "notify_readers": bool = false, Suset;

    /// Whether messages are retained until every cursor on the feed has passed them. Off: a consumer that never returns would
    /// fill the disk.
    RETAIN_FOR_CURSORS "retain_for_cursors": bool = false, Suset;

    /// Age from which `outbox.dead_letter_status` shows an entry as old. A day: an operator should have looked at it by then.
    DEAD_LETTER_OLD_AFTER "dead_letter_old_after": int(0..=i32::MAX, UNIT_S) = DAY, Userset;

    /// How long an idempotency key is remembered. 7 days: longer than any caller retries a request.
    /// Zero or less: for ever.
    IDEMPOTENCY_WINDOW "idempotency_window": int(-1..=i32::MAX, UNIT_S) = 7 * DAY, Suset;
}

/// A C string of a literal that ends with NUL, without the space at the beginning of a doc comment.
#[allow(clippy::panic, reason = "only called at compile time")]
const fn constant(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes().trim_ascii_start()) {
        Ok(text) => text,
        Err(_) => panic!("a NUL inside of a text"),
    }
}

/// After its start, PostgreSQL accepts no new setting of the postmaster. Without preloading such a setting has no effect, but
/// its name is known.
fn context(context: GucContext, preloading: bool) -> GucContext {
    match context {
        GucContext::Postmaster if !preloading => GucContext::Sighup,
        other => other,
    }
}

/// Defines the settings.
pub fn init(preloading: bool) {
    define(preloading);
    // From here on an unknown name with this prefix is an error, and not a setting without effect.
    // SAFETY: a NUL-terminated constant, while the library is loaded.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"pg_outbox".as_ptr()) };
}
