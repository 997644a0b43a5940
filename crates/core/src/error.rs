//! The table of all errors, with SQLSTATE, symbolic name and kind.
//!
//! Clients map the code, never the text. The OB codes belong to pg_outbox. A standard SQLSTATE is used where one has exactly
//! the right meaning.

use std::borrow::Cow;
use std::fmt;

/// The reaction to an error that makes sense for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The named object does not exist.
    NotFound,
    /// The object exists, but its state does not allow this call.
    Conflict,
    /// The arguments are wrong. The same call will never succeed.
    Invalid,
    /// The caller does not hold the lease, or holds it no longer.
    LeaseLost,
    /// The topic, publisher, endpoint or subscription is switched off.
    Inactive,
    /// The same call may succeed later.
    Retry,
    /// The caller can do nothing about the error.
    Fatal,
}

impl Kind {
    /// Returns the name of the kind as the clients show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::NotFound => "not_found",
            Kind::Conflict => "conflict",
            Kind::Invalid => "invalid",
            Kind::LeaseLost => "lease_lost",
            Kind::Inactive => "inactive",
            Kind::Retry => "retry",
            Kind::Fatal => "fatal",
        }
    }
}

macro_rules! codes {
    ($(#[doc = $doc:literal] $variant:ident = $state:literal, $name:literal, $kind:ident;)*) => {
        /// A SQLSTATE that pg_outbox raises.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $doc] $variant,)* }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// Returns the five characters of the SQLSTATE.
            pub const fn sqlstate(self) -> &'static str {
                match self { $(Code::$variant => $state,)* }
            }

            /// Returns the symbolic name, which is the same in every client.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            /// Returns a sentence that says when the error is raised.
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$variant => $doc,)* }
            }

            /// Returns the kind, which says what a caller can do.
            pub const fn kind(self) -> Kind {
                match self { $(Code::$variant => Kind::$kind,)* }
            }

            /// Returns the code of a SQLSTATE, if pg_outbox raises it.
            pub fn from_sqlstate(state: &str) -> Option<Code> {
                match state { $($state => Some(Code::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    /// No object has this name or id.
    NotFound = "OB001", "not_found", NotFound;
    /// The delivery has ended already, or nothing is left to cancel.
    AlreadyProcessed = "OB002", "already_processed", Conflict;
    /// The delivery is leased to another worker, or the lease was lost.
    Leased = "OB003", "leased", LeaseLost;
    /// The object's state does not allow this change.
    InvalidTransition = "OB004", "invalid_transition", Conflict;
    /// A cursor would move backwards or fork.
    NonMonotonicCursor = "OB005", "non_monotonic_cursor", Conflict;
    /// Resetting or deleting a cursor and erasing a message require a reason.
    ResetReasonRequired = "OB006", "reset_reason_required", Invalid;
    /// The publisher or topic is inactive.
    Inactive = "OB007", "inactive", Inactive;
    /// The idempotency key was used before with another content.
    IdempotencyConflict = "OB008", "idempotency_conflict", Conflict;
    /// A cursor or position is malformed, or belongs to a history that was lost.
    InvalidCursor = "OB009", "invalid_cursor", Invalid;
    /// The delivery has expired.
    Expired = "OB010", "expired", Conflict;
    /// The delivery has no attempts left.
    MaxAttempts = "OB011", "max_attempts", Conflict;
    /// The delivery is not due yet.
    NotReady = "OB012", "not_ready", Retry;
    /// The stream or saga is not at the expected version.
    VersionConflict = "OB013", "version_conflict", Conflict;
    /// The stream is closed.
    StreamClosed = "OB014", "stream_closed", Conflict;
    /// The projection is faulted: an event could not be applied.
    ProjectionFaulted = "OB015", "projection_faulted", Conflict;
    /// The schema of an event type is not as compatible with the version before as it has to be.
    IncompatibleSchema = "OB016", "incompatible_schema", Conflict;
    /// A value is malformed.
    InvalidParameter = "22023", "invalid_parameter", Invalid;
    /// A value is null that must not be null.
    NullNotAllowed = "22004", "null_not_allowed", Invalid;
    /// A value is larger than its limit.
    TooLarge = "54000", "too_large", Invalid;
    /// The state of the server or of the transaction does not allow the call.
    NotInThisState = "55000", "object_not_in_prerequisite_state", Retry;
    /// The call is not possible in a transaction of this kind.
    InvalidTransaction = "25001", "invalid_transaction", Invalid;
    /// The caller's capabilities do not allow the call.
    NotPermitted = "42501", "insufficient_privilege", Fatal;
    /// The behaviour is not supported.
    NotSupported = "0A000", "not_supported", Invalid;
    /// An internal error: a bug.
    Internal = "XX000", "internal", Fatal;
}

/// SQLSTATEs of PostgreSQL that clients tell apart, with symbolic name and kind.
pub const STATES: &[(&str, &str, Kind)] = &[
    ("3F000", "extension_missing", Kind::Fatal),
    ("42883", "version_mismatch", Kind::Fatal),
    ("42P01", "version_mismatch", Kind::Fatal),
    ("42703", "version_mismatch", Kind::Fatal),
    ("42710", "duplicate_object", Kind::Conflict),
    ("42704", "undefined_object", Kind::NotFound),
    ("40001", "serialization_failure", Kind::Retry),
    ("40P01", "deadlock_detected", Kind::Retry),
    ("55P03", "lock_not_available", Kind::Retry),
    ("57014", "query_canceled", Kind::Retry),
    ("57P01", "server_shutdown", Kind::Retry),
    ("57P02", "server_shutdown", Kind::Retry),
    ("57P03", "server_shutdown", Kind::Retry),
    ("57P05", "session_timeout", Kind::Retry),
    ("25P03", "session_timeout", Kind::Retry),
    ("25P04", "session_timeout", Kind::Retry),
    ("25006", "read_only", Kind::Retry),
    ("25P02", "in_failed_transaction", Kind::Invalid),
    ("26000", "prepared_statement_lost", Kind::Fatal),
    ("42P05", "prepared_statement_lost", Kind::Fatal),
    ("08P01", "protocol_violation", Kind::Retry),
];

/// The same for all other SQLSTATEs that begin with these two characters.
pub const CLASSES: &[(&str, &str, Kind)] = &[
    ("08", "connection_lost", Kind::Retry),
    ("28", "authentication_failed", Kind::Fatal),
    ("3D", "no_such_database", Kind::Fatal),
    ("21", "invalid_parameter", Kind::Invalid),
    ("22", "invalid_parameter", Kind::Invalid),
    ("23", "constraint_violation", Kind::Conflict),
    ("40", "transaction_rollback", Kind::Retry),
    ("53", "insufficient_resources", Kind::Retry),
    ("54", "too_large", Kind::Invalid),
];

/// Returns the symbolic name and the kind of a SQLSTATE. The SQLSTATE may be one of pg_outbox or one of PostgreSQL.
pub fn classify(state: &str) -> (&'static str, Kind) {
    if let Some(code) = Code::from_sqlstate(state) {
        return (code.name(), code.kind());
    }
    let known = |table: &'static [(&str, &str, Kind)], key: &str| table.iter().find(|(one, ..)| *one == key);
    known(STATES, state)
        .or_else(|| known(CLASSES, state.get(..2).unwrap_or_default()))
        .map_or(("internal", Kind::Fatal), |(_, name, kind)| (*name, *kind))
}

/// Hints for errors that have none, by symbolic name.
pub const HINTS: &[(&str, &str)] = &[
    ("extension_missing", "Run \"create extension pg_outbox\" in this database."),
    (
        "version_mismatch",
        "The extension in this database is older or newer than this client: \"alter extension pg_outbox update\".",
    ),
    (
        "insufficient_privilege",
        "Have an administrator run \"select outbox.grant_to(role, capability)\": publish, consume, monitor or admin.",
    ),
    (
        "prepared_statement_lost",
        "A pooler before the server gives each transaction another session, and this connection's driver names its statements: \
         switch that off. psycopg: prepare_threshold=None. asyncpg: statement_cache_size=0. sqlx: statement_cache_capacity(0). \
         pg: no \"name\" in queries. postgres: prepare: false. Or pool whole sessions.",
    ),
    (
        "protocol_violation",
        "A pooler before the server says this where it cannot serve a client, and a server where a pooler has mixed up the named \
         statements of two clients: see docs/clients.md, Poolers.",
    ),
];

/// Returns a hint for an error that has none, by its symbolic name.
pub fn hint(name: &str) -> Option<&'static str> {
    HINTS.iter().find(|(one, _)| *one == name).map(|(_, hint)| *hint)
}

/// An error. Its message is in lower case and without a full stop; names are quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The SQLSTATE.
    pub code: Code,
    /// One line that says what is wrong.
    pub message: String,
    /// Facts that help the caller to find the cause.
    pub detail: Option<String>,
    /// Advice for the caller.
    pub hint: Option<Cow<'static, str>>,
}

impl Error {
    /// Creates an error with a message only.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None, hint: None }
    }

    /// Creates an error for a malformed value (22023).
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidParameter, message)
    }

    /// Adds the detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The result of functions in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_says_what_to_do() {
        for code in Code::ALL {
            assert_eq!(classify(code.sqlstate()), (code.name(), code.kind()));
        }
        for (state, kind) in [
            ("08006", Kind::Retry),
            ("08P01", Kind::Retry),
            ("26000", Kind::Fatal),
            ("42P05", Kind::Fatal),
            ("57P01", Kind::Retry),
            ("57P05", Kind::Retry),
            ("40001", Kind::Retry),
            ("53300", Kind::Retry),
            ("28P01", Kind::Fatal),
            ("42501", Kind::Fatal),
            ("3F000", Kind::Fatal),
            ("23505", Kind::Conflict),
            ("22P02", Kind::Invalid),
            ("42704", Kind::NotFound),
            ("", Kind::Fatal),
            ("ä", Kind::Fatal),
        ] {
            assert_eq!(classify(state).1, kind, "{state}");
        }
    }

    #[test]
    fn what_a_pooler_causes_is_no_bug_and_says_what_to_set() {
        for state in ["26000", "42P05", "08P01"] {
            let (name, _) = classify(state);
            assert_ne!(name, "internal");
            assert!(hint(name).is_some_and(|hint| hint.contains("pooler")), "{state}");
        }
    }

    #[test]
    fn sqlstates_are_distinct_and_round_trip() {
        for (i, code) in Code::ALL.iter().enumerate() {
            assert_eq!(code.sqlstate().len(), 5);
            assert_eq!(Code::from_sqlstate(code.sqlstate()), Some(*code));
            for other in &Code::ALL[i + 1..] {
                assert_ne!(code.sqlstate(), other.sqlstate());
                assert_ne!(code.name(), other.name());
            }
        }
    }
}
