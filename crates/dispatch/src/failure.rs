//! The failure of a transaction, as a value.

use std::fmt;

use outbox_core::Error;

/// An error of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The SQLSTATE; XX000 for an error without one.
    pub state: [u8; 5],
    /// The message.
    pub message: String,
}

impl Failure {
    /// A failure of our own.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { state: *b"XX000", message: message.into() }
    }

    /// Returns whether the same statement may succeed later with the same rows, after a lock, a lack of space, a cancel or a
    /// shutdown.
    pub fn is_transient(&self) -> bool {
        match &self.state {
            // A value that needs more memory than there is needs it the next time as well.
            b"53200" => false,
            [b'0', b'8', ..] | [b'2', b'5', ..] | [b'4', b'0', ..] | [b'5', b'3' | b'5' | b'7' | b'8', ..] => true,
            _ => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let state = error.code.sqlstate().as_bytes().try_into().unwrap_or(*b"XX000");
        Failure { state, message: error.message.to_string() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error::new(outbox_core::Code::Internal, failure.message)
    }
}
