//! Verification of what a receiver gets: Standard Webhooks, `v1` and `v1a` signatures.
//!
//! Verified are the bytes that arrived, before anything parsed them. Of what the sender compressed (an endpoint with
//! `compress => true`) the content is signed: [`Verified::body`] is that content.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outbox_core::sign::Secret;
use outbox_core::verify::{LIMIT, Request, TOLERANCE};

use crate::error::{Error, Result};

/// Checks signatures with one secret or, while it is rotated, several. `Debug` shows none.
#[derive(Clone, Debug)]
pub struct Verifier {
    core: outbox_core::verify::Verifier,
    limit: usize,
}

/// What a verified request says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<'b> {
    /// The `webhook-id`: the same on every attempt; deduplicate by it.
    pub id: String,
    /// When it was signed, in seconds since 1970.
    pub timestamp: i64,
    /// What was signed: the body, decompressed if it arrived compressed.
    pub body: Cow<'b, [u8]>,
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
        Ok(Verifier { core: outbox_core::verify::Verifier::new(secrets, tolerance.as_secs())?, limit: LIMIT })
    }

    /// How many bytes a compressed body may have, before and after it is decompressed; 1 MiB if not set. A body that is not
    /// compressed is not limited here: it has been read already.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Verifier {
        self.limit = bytes;
        self
    }

    /// Checks a request: `header` gives a header by its lower-case name, `body` is what arrived, byte for byte. Gzip that is
    /// named in `content-encoding` is decompressed.
    ///
    /// # Errors
    /// Kind invalid, name `invalid_signature`: a header is missing or malformed, the time is too far off, or no signature fits;
    /// name `too_large`: a compressed body beyond the limit.
    pub fn verify<'h, 'b>(&self, header: impl Fn(&str) -> Option<&'h str>, body: &'b [u8]) -> Result<Verified<'b>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.verify_at(header, body, i64::try_from(now).unwrap_or(i64::MAX))
    }

    /// The same at a given time, in seconds since 1970.
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

/// The `webhook-signature` of a body, for tests of receivers.
///
/// # Errors
/// 22023 for a malformed secret.
pub fn sign(secret: &str, id: &str, timestamp: i64, body: &[u8]) -> Result<String> {
    Ok(outbox_core::sign::signature_header(&[Secret::parse(secret)?], id, timestamp, body))
}
