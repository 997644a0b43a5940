//! The errors of event sourcing, by their cause.
//!
//! All errors are [`Error`], whose kind says what a caller can do. [`Fault::of`] says which of the causes of this module an error
//! has.

use serde::Deserialize;

use crate::error::Error;

/// The facts of a conflict of versions (OB013).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct VersionConflict {
    /// The stream.
    pub stream: String,
    /// The version that the append expected.
    pub expected: i64,
    /// The version at which the stream is.
    pub actual: i64,
}

/// The cause of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The stream is not at the expected version (OB013). Load it again, decide again.
    Concurrency(VersionConflict),
    /// The stream is closed (OB014).
    StreamClosed,
    /// The data does not have the form of its type: the schema of the server refuses it, or a Rust type does, or the type is not
    /// registered.
    Schema,
    /// The key that has encrypted a field does not exist.
    KeyNotFound,
    /// The key that has encrypted a field was revoked.
    KeyRevoked,
    /// A field cannot be decrypted, or the provider of keys fails.
    Encryption,
    /// A saga is not at the expected version, or its status does not allow the change.
    Saga,
    /// A projection stands at an event that it cannot apply (OB015).
    Projection,
}

impl Fault {
    /// Returns the cause of an error, or `None` if it has another one. The kind and the code of the error say more.
    pub fn of(error: &Error) -> Option<Fault> {
        let details = error.details();
        // diesel-async does not show the SQLSTATE, but the detail.
        if matches!(error.code(), "OB013" | "XX000")
            && let Some(conflict) = details.detail.as_deref().and_then(|detail| serde_json::from_str(detail).ok())
        {
            return Some(Fault::Concurrency(conflict));
        }
        match (error.code(), details.name) {
            (_, "key_not_found") => Some(Fault::KeyNotFound),
            (_, "key_revoked") => Some(Fault::KeyRevoked),
            (_, "encryption") => Some(Fault::Encryption),
            (_, "malformed_event" | "unregistered_event") | ("OB016", _) => Some(Fault::Schema),
            (_, "saga") => Some(Fault::Saga),
            ("OB013", _) => Some(Fault::Saga),
            ("OB014", _) => Some(Fault::StreamClosed),
            ("OB015", _) => Some(Fault::Projection),
            _ => None,
        }
    }

    /// Returns whether a new transaction that loads and decides again may succeed: after a conflict of versions, a serialization
    /// failure or a deadlock.
    pub fn is_worth_a_retry(error: &Error) -> bool {
        matches!(Fault::of(error), Some(Fault::Concurrency(_))) || matches!(error.code(), "OB013" | "40001" | "40P01")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_has_its_facts() {
        let error = Error::new("OB013", "x").detail(r#"{"stream": "order-1", "expected": 1, "actual": 2}"#);
        let facts = VersionConflict { stream: "order-1".into(), expected: 1, actual: 2 };
        assert_eq!(Fault::of(&error), Some(Fault::Concurrency(facts)));
        assert!(Fault::is_worth_a_retry(&error) && Fault::is_worth_a_retry(&Error::new("40001", "x")));
        assert!(!Fault::is_worth_a_retry(&Error::new("OB014", "x")));
        assert_eq!(Fault::of(&Error::new("OB014", "x")), Some(Fault::StreamClosed));
        assert_eq!(Fault::of(&Error::invalid("x")), None);
    }
}
