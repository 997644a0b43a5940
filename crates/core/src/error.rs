//! The one table of errors: SQLSTATE, symbolic name and kind.
//!
//! Clients map the code, never the text. The OB codes are ours; a standard SQLSTATE is used where one says it exactly.

use std::borrow::Cow;
use std::fmt;

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The named object is not there.
    NotFound,
    /// The object is there, but not in a state in which this can be done.
    Conflict,
    /// The arguments are wrong; the same call will never work.
    Invalid,
    /// The lease is not (or no longer) held by the caller.
    LeaseLost,
    /// Topic, publisher, endpoint or subscription is switched off.
    Inactive,
    /// The same call may work later.
    Retry,
    /// Nothing a caller can do.
    Fatal,
}

impl Kind {
    /// The kind's name as the clients show it.
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

            /// The five characters of the SQLSTATE.
            pub const fn sqlstate(self) -> &'static str {
                match self { $(Code::$variant => $state,)* }
            }

            /// The symbolic name, the same in every client.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$variant => $name,)* }
            }

            /// When it is raised, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Code::$variant => $doc,)* }
            }

            /// What a caller can do about it.
            pub const fn kind(self) -> Kind {
                match self { $(Code::$variant => Kind::$kind,)* }
            }

            /// The code of a SQLSTATE, if it is one of ours.
            pub fn from_sqlstate(state: &str) -> Option<Code> {
                match state { $($state => Some(Code::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    /// No object of that name or id.
    NotFound = "OB001", "not_found", NotFound;
    /// The delivery was completed already.
    AlreadyProcessed = "OB002", "already_processed", Conflict;
    /// The delivery is leased to somebody else, or the lease was lost.
    Leased = "OB003", "leased", LeaseLost;
    /// The state does not allow this transition.
    InvalidTransition = "OB004", "invalid_transition", Conflict;
    /// A cursor would go backwards or fork.
    NonMonotonicCursor = "OB005", "non_monotonic_cursor", Conflict;
    /// A cursor is reset without a reason.
    ResetReasonRequired = "OB006", "reset_reason_required", Invalid;
    /// The publisher or topic is inactive.
    Inactive = "OB007", "inactive", Inactive;
    /// The idempotency key was used with another content.
    IdempotencyConflict = "OB008", "idempotency_conflict", Conflict;
    /// A cursor or position is malformed, or belongs to a history that was lost.
    InvalidCursor = "OB009", "invalid_cursor", Invalid;
    /// The delivery has expired.
    Expired = "OB010", "expired", Conflict;
    /// The delivery has no attempts left.
    MaxAttempts = "OB011", "max_attempts", Conflict;
    /// The delivery is not due yet.
    NotReady = "OB012", "not_ready", Retry;
    /// A value that is malformed.
    InvalidParameter = "22023", "invalid_parameter", Invalid;
    /// A value that must not be null.
    NullNotAllowed = "22004", "null_not_allowed", Invalid;
    /// Larger than a limit allows.
    TooLarge = "54000", "too_large", Invalid;
    /// Not in this state of the server or the transaction.
    NotInThisState = "55000", "object_not_in_prerequisite_state", Retry;
    /// Not in a transaction like this one.
    InvalidTransaction = "25001", "invalid_transaction", Invalid;
    /// The caller's capability does not reach that far.
    NotPermitted = "42501", "insufficient_privilege", Fatal;
    /// Behaviour that is not there.
    NotSupported = "0A000", "not_supported", Invalid;
    /// A bug.
    Internal = "XX000", "internal", Fatal;
}

/// Symbolic name and kind of any SQLSTATE that a caller of pg_outbox can meet: of ours, and of PostgreSQL's own.
pub fn classify(state: &str) -> (&'static str, Kind) {
    if let Some(code) = Code::from_sqlstate(state) {
        return (code.name(), code.kind());
    }
    match state {
        "3F000" => ("extension_missing", Kind::Fatal),
        "42883" | "42P01" | "42703" => ("version_mismatch", Kind::Fatal),
        "42710" => ("duplicate_object", Kind::Conflict),
        "42704" => ("undefined_object", Kind::NotFound),
        "40001" => ("serialization_failure", Kind::Retry),
        "40P01" => ("deadlock_detected", Kind::Retry),
        "55P03" => ("lock_not_available", Kind::Retry),
        "57014" => ("query_canceled", Kind::Retry),
        "57P01" | "57P02" | "57P03" => ("server_shutdown", Kind::Retry),
        "25006" => ("read_only", Kind::Retry),
        "25P02" => ("in_failed_transaction", Kind::Invalid),
        "26000" | "42P05" => ("prepared_statement_lost", Kind::Fatal),
        "08P01" => ("protocol_violation", Kind::Retry),
        _ => match state.get(..2).unwrap_or_default() {
            "08" => ("connection_lost", Kind::Retry),
            "28" => ("authentication_failed", Kind::Fatal),
            "3D" => ("no_such_database", Kind::Fatal),
            "21" | "22" => ("invalid_parameter", Kind::Invalid),
            "23" => ("constraint_violation", Kind::Conflict),
            "40" => ("transaction_rollback", Kind::Retry),
            "53" => ("insufficient_resources", Kind::Retry),
            "54" => ("too_large", Kind::Invalid),
            _ => ("internal", Kind::Fatal),
        },
    }
}

/// What can be done about an error that comes without a hint, by its symbolic name.
pub fn hint(name: &str) -> Option<&'static str> {
    Some(match name {
        "extension_missing" => "Run \"create extension pg_outbox\" in this database.",
        "version_mismatch" => {
            "The extension in this database is older or newer than this client: \"alter extension pg_outbox update\"."
        }
        "insufficient_privilege" => {
            "Have an administrator run \"select outbox.grant_to(role, capability)\": publish, consume, monitor or admin."
        }
        "prepared_statement_lost" => {
            "A pooler before the server gives each transaction another session, and this connection's driver names its statements: \
             switch that off. psycopg: prepare_threshold=None. asyncpg: statement_cache_size=0. sqlx: statement_cache_capacity(0). \
             pg: no \"name\" in queries. postgres: prepare: false. Or pool whole sessions."
        }
        "protocol_violation" => {
            "A pooler before the server says this where it cannot serve a client, and a server where a pooler has mixed up the named \
             statements of two clients: see docs/clients.md, Poolers."
        }
        _ => return None,
    })
}

/// An error on its way to the caller. Lower case, no full stop, names quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The SQLSTATE.
    pub code: Code,
    /// One line: what is wrong.
    pub message: String,
    /// What the caller needs to see it.
    pub detail: Option<String>,
    /// What the caller can do.
    pub hint: Option<Cow<'static, str>>,
}

impl Error {
    /// An error with a message only.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None, hint: None }
    }

    /// A malformed value (22023).
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

/// The result of everything in this crate that can be refused.
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
