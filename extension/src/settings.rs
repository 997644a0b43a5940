//! Every setting: meaning, unit, range, when a change takes effect, and the reason for its default.

use std::ffi::CString;

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

/// Databases of this cluster that can have a dispatcher at once. Determines the size of the shared memory (about 17 kB
/// each).
pub static MAX_DATABASES: GucSetting<i32> = GucSetting::<i32>::new(64);

/// Whether messages are pushed over HTTP. Switch it off for a physical copy (a standby promoted for a test): from inside,
/// such a copy cannot be told from the original.
pub static PUSH: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Largest payload or body that `enqueue` accepts. 256 kB: receivers of webhooks commonly accept this size.
pub static MAX_PAYLOAD: GucSetting<i32> = GucSetting::<i32>::new(256);

/// Registered publisher of a message when the call of `enqueue` names none. Set it per role, database or session.
pub static PUBLISHER: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Whether `enqueue` accepts registered topics only. Off: a registration describes a topic, and one can start without it.
pub static REQUIRE_TOPIC: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Whether `enqueue` accepts registered publishers only.
pub static REQUIRE_PUBLISHER: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Topic template, like `{tenant}.{topic}`, for messages whose publisher has no template or function of its own.
pub static TOPIC_TEMPLATE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Signature of a function `(tenant text, topic text) returns text`. The function takes precedence over the template.
pub static TOPIC_FUNCTION: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Longest time that a filter's SQL/JSON path may take for one payload. 100 ms: thousands of times what a sensible path
/// takes.
pub static FILTER_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(100);

/// The values that `outbox.set_context` has set for the transaction.
pub static CONTEXT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Whether `outbox._refuse_change` allows changes of rows in the logs. The privilege to write to the logs is checked apart
/// from this.
pub static ERASING: GucSetting<bool> = GucSetting::<bool>::new(false);

/// How long the dispatcher sleeps when nothing wakes it. This poll finds messages without a wake-up: those of COMMIT
/// PREPARED, or of a session that died between its commit and the wake-up.
pub static POLL_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(5000);

/// Requests in flight plus outcomes not yet recorded. At this number sending stops, so it bounds the duplicates after a
/// crash.
pub static MAX_UNRECORDED: GucSetting<i32> = GucSetting::<i32>::new(4096);

/// Requests in flight, over all endpoints of a database.
pub static MAX_IN_FLIGHT: GucSetting<i32> = GucSetting::<i32>::new(256);

/// Networks that may be called although they are not public, comma-separated. Empty: only public addresses.
pub static EGRESS_ALLOW: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Ports that may be called, comma-separated. Empty: all ports.
pub static EGRESS_PORTS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Name servers to ask instead of the system's resolver: comma-separated addresses with ports.
pub static NAME_SERVERS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// The `source` of CloudEvents. Empty: `/pg_outbox/<system identifier>/<database>`, which no other outbox has.
pub static EVENT_SOURCE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

/// Name under which receivers are asked for consent (`WebHook-Request-Origin`). Receivers have to know this name.
pub static CONSENT_ORIGIN: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"pg_outbox"));

/// Whether endpoints may have `http://` URLs. Off: a signature proves the sender of a message, but does not keep it secret.
pub static ALLOW_HTTP: GucSetting<bool> = GucSetting::<bool>::new(false);

/// How long messages are retained after they were enqueued. They are removed a partition at a time, and a partition covers a
/// fourteenth of this time. 7 days: a weekend and a bank holiday to notice that a consumer has stopped, and room for
/// replays.
pub static MESSAGE_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * DAY);

/// How long the position of a message is remembered after the message itself is deleted. 30 days, like the attempts.
pub static FEED_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(30 * DAY);

/// How long the logs of attempts and of routing are retained. 30 days: support questions go back that far.
pub static ATTEMPT_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(30 * DAY);

/// How long dead letters are retained after they were resolved or ignored.
pub static DEAD_LETTER_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(90 * DAY);

/// How long unresolved dead letters are retained. For ever: each of them is a lost delivery.
pub static UNRESOLVED_DEAD_LETTER_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(0);

/// How long `outbox.audit` retains the actions of operators.
pub static AUDIT_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(365 * DAY);

/// How long rows of outbox.tick are retained; the last row always is. An hour: the rows only serve the analysis of
/// incidents.
pub static TICK_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(HOUR);

/// How long rows of outbox.checkpoint are retained; the last row always is.
pub static CHECKPOINT_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(HOUR);

/// How often each retention job runs.
pub static RETENTION_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(HOUR);

/// Size at which a partition of a log is closed early; 0: partitions are closed by time only. Not a limit on disk space:
/// when all partitions are full before the retention is over, the last one grows.
pub static SEGMENT_SIZE: GucSetting<i32> = GucSetting::<i32>::new(0);

/// Whether the dispatcher sends NOTIFY outbox_append_to_feed when the feed has grown. Off: without listeners it would be a useless
/// cost.
pub static NOTIFY_READERS: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Whether messages are retained until every cursor on the feed has passed them. Off: a consumer that never returns would
/// fill the disk.
pub static RETAIN_FOR_CURSORS: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Age from which `outbox.dead_letter_status` shows an entry as old. A day: an operator should have looked at it by then.
pub static DEAD_LETTER_OLD_AFTER: GucSetting<i32> = GucSetting::<i32>::new(DAY);

/// How long an idempotency key is remembered. 7 days: longer than any caller retries a request.
pub static IDEMPOTENCY_WINDOW: GucSetting<i32> = GucSetting::<i32>::new(7 * DAY);

const HOUR: i32 = 3600;
const DAY: i32 = 24 * HOUR;

/// Defines the settings.
pub fn init(preloading: bool) {
    // After its start, PostgreSQL accepts no new setting of the postmaster. Without preloading this setting has no effect,
    // but its name is known.
    GucRegistry::define_int_guc(
        c"pg_outbox.max_databases",
        c"Databases that can have a dispatcher at once.",
        c"",
        &MAX_DATABASES,
        1,
        4096,
        if preloading { GucContext::Postmaster } else { GucContext::Sighup },
        GucFlags::default(),
    );
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
    GucRegistry::define_int_guc(
        c"pg_outbox.filter_timeout",
        c"Longest time that a filter's SQL/JSON path may take over a payload.",
        c"Beyond it the message is a dead letter of that subscription.",
        &FILTER_TIMEOUT,
        1,
        10_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_bool_guc(
        c"pg_outbox.require_topic",
        c"Whether enqueue takes registered topics only.",
        c"",
        &REQUIRE_TOPIC,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"pg_outbox.require_publisher",
        c"Whether enqueue takes messages of registered publishers only.",
        c"",
        &REQUIRE_PUBLISHER,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_outbox.topic_template",
        c"Topic that messages go to, with {tenant} and {topic} for those that enqueue was given.",
        c"A message without a tenant keeps its topic if the template asks for one.",
        &TOPIC_TEMPLATE,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"pg_outbox.topic_function",
        c"Function (tenant text, topic text) returns text that gives the topic that messages go to.",
        c"Qualified, with its argument types. It runs as its owner.",
        &TOPIC_FUNCTION,
        GucContext::Suset,
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
    GucRegistry::define_bool_guc(
        c"pg_outbox.erasing",
        c"Whether rows of the logs may be changed.",
        c"Set by outbox.erase() and outbox.adopt() while they do it.",
        &ERASING,
        GucContext::Userset,
        GucFlags::NO_SHOW_ALL | GucFlags::DISALLOW_IN_FILE,
    );
    GucRegistry::define_int_guc(
        c"pg_outbox.idempotency_window",
        c"How long an idempotency key is remembered.",
        c"Zero or negative: for ever.",
        &IDEMPOTENCY_WINDOW,
        -1,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"pg_outbox.dead_letter_old_after",
        c"Age from which on a dead letter is shown as old.",
        c"",
        &DEAD_LETTER_OLD_AFTER,
        0,
        i32::MAX,
        GucContext::Userset,
        GucFlags::UNIT_S,
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
    for (name, short, long, setting, flags) in [
        (
            c"pg_outbox.egress_ports",
            c"Ports that may be called; empty: any.",
            c"Comma-separated, like 443, 8000-8999.",
            &EGRESS_PORTS,
            GucFlags::default(),
        ),
        (
            c"pg_outbox.name_servers",
            c"Name servers to ask instead of the system's resolver.",
            c"Comma-separated, like 10.0.0.53:53.",
            &NAME_SERVERS,
            GucFlags::default(),
        ),
        (
            c"pg_outbox.event_source",
            c"Source of CloudEvents; empty: /pg_outbox/<system identifier>/<database>.",
            c"",
            &EVENT_SOURCE,
            GucFlags::default(),
        ),
        (
            c"pg_outbox.consent_origin",
            c"Who asks receivers for consent.",
            c"Sent as WebHook-Request-Origin.",
            &CONSENT_ORIGIN,
            GucFlags::default(),
        ),
    ] {
        GucRegistry::define_string_guc(name, short, long, setting, GucContext::Sighup, flags);
    }
    GucRegistry::define_bool_guc(
        c"pg_outbox.allow_http",
        c"Whether endpoints may have http:// URLs.",
        c"",
        &ALLOW_HTTP,
        GucContext::Sighup,
        GucFlags::default(),
    );
    for (name, short, setting) in [
        (c"pg_outbox.message_retention", c"How long messages are kept.", &MESSAGE_RETENTION),
        (c"pg_outbox.feed_retention", c"How long the order of messages is kept.", &FEED_RETENTION),
        (c"pg_outbox.attempt_retention", c"How long attempts and routing are kept.", &ATTEMPT_RETENTION),
        (c"pg_outbox.dead_letter_retention", c"How long resolved dead letters are kept.", &DEAD_LETTER_RETENTION),
        (
            c"pg_outbox.unresolved_dead_letter_retention",
            c"How long unresolved dead letters are kept.",
            &UNRESOLVED_DEAD_LETTER_RETENTION,
        ),
        (c"pg_outbox.audit_retention", c"How long outbox.audit keeps what operators did.", &AUDIT_RETENTION),
        (c"pg_outbox.tick_retention", c"How long outbox.tick keeps rows that are not the last one.", &TICK_RETENTION),
        (
            c"pg_outbox.checkpoint_retention",
            c"How long outbox.checkpoint keeps rows that are not the last one.",
            &CHECKPOINT_RETENTION,
        ),
    ] {
        GucRegistry::define_int_guc(
            name,
            short,
            c"Zero or negative: for ever.",
            setting,
            -1,
            i32::MAX,
            GucContext::Suset,
            GucFlags::UNIT_S,
        );
    }
    GucRegistry::define_int_guc(
        c"pg_outbox.retention_interval",
        c"How often each retention job runs.",
        c"",
        &RETENTION_INTERVAL,
        1,
        7 * DAY,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"pg_outbox.segment_size",
        c"Size at which a leaf of a log is left before its time.",
        c"Zero: by time only.",
        &SEGMENT_SIZE,
        0,
        1024 * 1024 * 1024,
        GucContext::Suset,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_bool_guc(
        c"pg_outbox.notify_readers",
        c"Whether readers of the feed are notified when it has grown.",
        c"NOTIFY outbox_append_to_feed with the last position, at most twenty times a second.",
        &NOTIFY_READERS,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"pg_outbox.retain_for_cursors",
        c"Whether messages are kept until every cursor on the feed has passed them.",
        c"",
        &RETAIN_FOR_CURSORS,
        GucContext::Suset,
        GucFlags::default(),
    );
    // From here on an unknown name with this prefix is an error, and not a setting without effect.
    // SAFETY: a NUL-terminated constant, while the library is loaded.
    unsafe { pg_sys::MarkGUCPrefixReserved(c"pg_outbox".as_ptr()) };
}
