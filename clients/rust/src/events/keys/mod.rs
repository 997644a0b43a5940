//! Providers of master keys over the network.
//!
//! | type | feature | service |
//! |---|---|---|
//! | [`VaultKeys`] | `events-vault` | the transit engine of HashiCorp Vault or OpenBao |
//! | [`KmsKeys`] | `events-kms` | AWS KMS |
//!
//! Both send a data key of 32 bytes to the service and get it back encrypted, or the other way around. Master keys never leave the
//! service. A service that does not answer, or answers with 429 or 5xx, is an error of the kind retry.

mod http;
#[cfg(feature = "events-kms")]
pub mod kms;
#[cfg(feature = "events-kms")]
mod sign;
#[cfg(feature = "events-vault")]
pub mod vault;

#[cfg(feature = "events-kms")]
pub use self::kms::{Credentials, KmsKeys};
#[cfg(feature = "events-vault")]
pub use self::vault::VaultKeys;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outbox_core::encrypt::KEY_LENGTH;
use serde_json::Value;

use crate::error::{Error, Result};

/// The longest time-out of a request.
const LONGEST: Duration = Duration::from_secs(60);

/// The time-out of a request, by default.
const TIMEOUT: Duration = Duration::from_secs(5);

fn check_timeout(timeout: Duration) -> Result<Duration> {
    match timeout.is_zero() || timeout > LONGEST {
        true => Err(Error::invalid("invalid time-out of a provider of keys").hint("Above 0, at most 60 seconds.")),
        false => Ok(timeout),
    }
}

/// The service refuses, or its answer is malformed.
fn refused(message: impl Into<String>) -> Error {
    Error::invalid(message).named("encryption")
}

/// The service may answer later.
fn unavailable(message: impl Into<String>) -> Error {
    Error::connection(message).named("encryption")
}

fn missing(service: &str, master_key: &str) -> Error {
    let shown: String = master_key.chars().take(255).flat_map(char::escape_debug).collect();
    Error::new("OB001", format!("{service} has no key \"{shown}\"")).named("key_not_found")
}

/// Returns the data key of an answer, in base64.
fn data_key(service: &str, found: Option<&Value>) -> Result<Vec<u8>> {
    let key = found.and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok());
    key.filter(|key| key.len() == KEY_LENGTH).ok_or_else(|| refused(format!("{service} has given no data key")))
}

/// A text that `Debug` and errors do not show.
#[derive(Clone)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("...")
    }
}

/// Returns a header's value. The error does not show it.
fn header(service: &str, name: &str, value: &str) -> Result<hyper::header::HeaderValue> {
    let malformed = || refused(format!("the header {name} for {service} has characters that a header cannot have"));
    let mut header = hyper::header::HeaderValue::from_str(value).map_err(|_| malformed())?;
    header.set_sensitive(true);
    Ok(header)
}
