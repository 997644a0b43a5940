//! Verifies the requests that a receiver gets: Standard Webhooks with `v1` and `v1a` signatures.
//!
//! The signature is checked against the bytes that arrived, before they are parsed. If the sender compressed the body (an
//! endpoint with `compress => true`), the signature covers the content before compression. [`Verified::body`] is that
//! content.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outbox_core::sign::Secret;
use outbox_core::verify::{LIMIT, Request, TOLERANCE};

use crate::error::{Error, Result};

/// Checks signatures with one secret, or with several while a secret is rotated. `Debug` shows no secret.
#[derive(Clone, Debug)]
pub struct Verifier {
    core: outbox_core::verify::Verifier,
    limit: usize,
}

/// The properties of a verified request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<'b> {
    /// The `webhook-id`. It is the same on every attempt, so receivers deduplicate by it.
    pub id: String,
    /// When the request was signed, in seconds since 1970.
    pub timestamp: i64,
    /// The content that was signed: the body, decompressed if it arrived compressed.
    pub body: Cow<'b, [u8]>,
}

impl Verifier {
    /// Creates a verifier for one secret (`whsec_...`).
    ///
    /// # Errors
    /// 22023 for a malformed secret. The error does not contain the secret.
    pub fn new(secret: &str) -> Result<Verifier> {
        Verifier::with_secrets([secret], Duration::from_secs(TOLERANCE))
    }

    /// Creates a verifier that accepts signatures of any of these secrets, made at most `tolerance` before or after now.
    ///
    /// # Errors
    /// 22023 for a malformed secret, or if there is no secret.
    pub fn with_secrets<'a>(secrets: impl IntoIterator<Item = &'a str>, tolerance: Duration) -> Result<Verifier> {
        Ok(Verifier { core: outbox_core::verify::Verifier::new(secrets, tolerance.as_secs())?, limit: LIMIT })
    }

    /// Sets the largest size of a compressed body in bytes, before and after decompression. The default is 1 MiB. A body
    /// that is not compressed is not limited, because it has been read already.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Verifier {
        self.limit = bytes;
        self
    }

    /// Checks a request. `header` returns a header by its lower-case name. `body` is the body as it arrived, byte for
    /// byte. If `content-encoding` names gzip, the body is decompressed.
    ///
    /// # Errors
    /// Kind invalid with the name `invalid_signature` if a header is missing or malformed, the time is too far off, or no
    /// signature matches; with the name `too_large` if a compressed body exceeds the limit.
    pub fn verify<'h, 'b>(&self, header: impl Fn(&str) -> Option<&'h str>, body: &'b [u8]) -> Result<Verified<'b>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.verify_at(header, body, i64::try_from(now).unwrap_or(i64::MAX))
    }

    /// Checks a request at a given time, in seconds since 1970.
    ///
    /// # Errors
    /// Those of [`Verifier::verify`].
    pub fn verify_at<'h, 'b>(
        &self,
        header: impl Fn(&str) -> Option<&'h str>,
        body: &'b [u8],
        now: i64,
    ) -> Result<Verified<'b>> {
        let request = Request {
            id: header("webhook-id"),
            timestamp: header("webhook-timestamp"),
            signature: header("webhook-signature"),
            encoding: header("content-encoding"),
            body,
        };
        self.core
            .verify(&request, self.limit, now)
            .map(|(timestamp, body)| Verified { id: request.id.unwrap_or_default().to_owned(), timestamp, body })
            .map_err(|refusal| {
                let (code, name, message) = refusal.error();
                Error::new(code.sqlstate(), message).detail(refusal.detail()).named(name)
            })
    }
}

/// Returns the `webhook-signature` of a body, for tests of receivers.
///
/// # Errors
/// 22023 for a malformed secret.
pub fn sign(secret: &str, id: &str, timestamp: i64, body: &[u8]) -> Result<String> {
    Ok(outbox_core::sign::signature_header(&[Secret::parse(secret)?], id, timestamp, body))
}
