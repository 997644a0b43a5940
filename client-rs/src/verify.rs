//! Verification of what a receiver gets: Standard Webhooks, `v1` signatures.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outbox_core::sign::Secret;
use outbox_core::verify::TOLERANCE;

use crate::error::{Error, Result};

/// Checks signatures with one secret or, while it is rotated, several. `Debug` shows none.
#[derive(Clone, Debug)]
pub struct Verifier {
    core: outbox_core::verify::Verifier,
}

/// What a verified request says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The `webhook-id`: the same on every attempt; deduplicate by it.
    pub id: String,
    /// When it was signed, in seconds since 1970.
    pub timestamp: i64,
}

impl Verifier {
    /// A verifier for one secret (`whsec_...`).
    ///
    /// # Errors
    /// 22023 for a malformed secret; the secret is not in the error.
    pub fn new(secret: &str) -> Result<Verifier> {
        Verifier::with_secrets([secret], Duration::from_secs(TOLERANCE))
    }

    /// A verifier that takes a signature of any of these secrets, made at most `tolerance` away from now.
    ///
    /// # Errors
    /// 22023 for a malformed secret, or if there is none.
    pub fn with_secrets<'a>(secrets: impl IntoIterator<Item = &'a str>, tolerance: Duration) -> Result<Verifier> {
        Ok(Verifier { core: outbox_core::verify::Verifier::new(secrets, tolerance.as_secs())? })
    }

    /// Checks a request: `header` gives a header by its lower-case name, `body` is what arrived, byte for byte.
    ///
    /// # Errors
    /// Kind invalid, name `invalid_signature`: a header is missing or malformed, the time is too far off, or no signature fits.
    pub fn verify<'a>(&self, header: impl Fn(&str) -> Option<&'a str>, body: &[u8]) -> Result<Verified> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.verify_at(header, body, i64::try_from(now).unwrap_or(i64::MAX))
    }

    /// The same at a given time, in seconds since 1970.
    ///
    /// # Errors
    /// Those of [`Verifier::verify`].
    pub fn verify_at<'a>(&self, header: impl Fn(&str) -> Option<&'a str>, body: &[u8], now: i64) -> Result<Verified> {
        let id = header("webhook-id");
        self.core
            .verify(id, header("webhook-timestamp"), header("webhook-signature"), body, now)
            .map(|timestamp| Verified { id: id.unwrap_or_default().to_owned(), timestamp })
            .map_err(|refusal| {
                Error::invalid("the signature is not valid").detail(refusal.detail()).named("invalid_signature")
            })
    }
}

/// The `webhook-signature` of a body, for tests of receivers.
///
/// # Errors
/// 22023 for a malformed secret.
pub fn sign(secret: &str, id: &str, timestamp: i64, body: &[u8]) -> Result<String> {
    Ok(outbox_core::sign::signature_header(&[Secret::parse(secret)?], id, timestamp, body))
}
