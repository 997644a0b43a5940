//! The native part of the Node client: the decisions of the core crate as JavaScript functions, without I/O and PostgreSQL.
//!
//! A refusal is returned as a value, not as an exception. The TypeScript code converts it to a typed error.

use std::borrow::Cow;

use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use outbox_core::pattern::Pattern;
use outbox_core::sign::{Secret, signature_header};
use outbox_core::{Error, topic, verify};

/// Why something was refused: the fields of an error.
#[napi(object)]
#[derive(Debug)]
pub struct Refusal {
    /// The SQLSTATE.
    pub code: String,
    /// The symbolic name, if it differs from the name of the code.
    pub name: Option<String>,
    /// One line that says what is wrong.
    pub message: String,
    /// Facts that help to find the cause.
    pub detail: Option<String>,
    /// Advice on what to do.
    pub hint: Option<String>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal {
            code: error.code.sqlstate().to_owned(),
            name: None,
            message: error.message,
            detail: error.detail,
            hint: error.hint.map(Into::into),
        }
    }
}

/// Symbolic name, kind and hint of a SQLSTATE.
#[napi(object)]
#[derive(Debug)]
pub struct Class {
    /// The symbolic name, which is the same in every client.
    pub name: String,
    /// The kind, which says what a caller can do.
    pub kind: String,
    /// Advice on what to do, in a sentence, if there is any.
    pub hint: Option<String>,
}

/// Returns symbolic name, kind and hint of any SQLSTATE.
#[napi]
pub fn classify(state: String) -> Class {
    let (name, kind) = outbox_core::classify(&state);
    let hint = outbox_core::error::hint(name).map(str::to_owned);
    Class { name: name.to_owned(), kind: kind.as_str().to_owned(), hint }
}

/// Returns the codes that pg_outbox itself raises.
#[napi]
pub fn codes() -> Vec<String> {
    outbox_core::Code::ALL.iter().map(|code| code.sqlstate().to_owned()).collect()
}

/// Returns why a topic cannot be published to, or undefined if it can.
#[napi]
pub fn check_topic(text: String) -> Option<Refusal> {
    topic::validate(&text).err().map(Refusal::from)
}

/// Returns why a topic pattern is malformed, or undefined if it is well-formed.
#[napi]
pub fn check_pattern(text: String) -> Option<Refusal> {
    Pattern::parse(&text).err().map(Refusal::from)
}

/// Returns whether a topic matches a pattern. A malformed pattern matches nothing.
#[napi]
pub fn matches(pattern: String, text: String) -> bool {
    Pattern::parse(&pattern).is_ok_and(|pattern| pattern.matches(&text))
}

/// Returns the `webhook-signature` header of a body, or undefined if a secret is malformed.
#[napi]
pub fn sign(secrets: Vec<String>, id: String, timestamp: i64, body: Buffer) -> Option<String> {
    let secrets: Vec<Secret> = secrets.iter().map(|secret| Secret::parse(secret)).collect::<Result<_, _>>().ok()?;
    Some(signature_header(&secrets, &id, timestamp, &body))
}

/// Returns why a signing secret is malformed, or undefined if it is well-formed. The answer does not contain the secret.
#[napi]
pub fn check_secret(secret: String) -> Option<Refusal> {
    Secret::parse(&secret).err().map(Refusal::from)
}

/// Checks signatures with one secret, or with several while a secret is rotated.
#[napi]
#[derive(Debug)]
pub struct NativeVerifier {
    inner: verify::Verifier,
}

/// The result of a check: the time of the signature, or why the request is refused.
#[napi(object)]
#[allow(missing_debug_implementations, reason = "a Buffer has none")]
pub struct Verdict {
    /// When the request was signed, in seconds since 1970.
    pub signed_at: Option<i64>,
    /// The signed content, if it is not the body as it arrived but the decompressed body.
    pub content: Option<Buffer>,
    /// Why the request is refused.
    pub refusal: Option<Refusal>,
}

#[napi]
impl NativeVerifier {
    /// Creates a verifier for these secrets, which must have been checked.
    #[napi(constructor)]
    pub fn new(secrets: Vec<String>, tolerance: u32) -> napi::Result<NativeVerifier> {
        verify::Verifier::new(secrets.iter().map(String::as_str), u64::from(tolerance))
            .map(|inner| NativeVerifier { inner })
            .map_err(|error| napi::Error::from_reason(error.message))
    }

    /// Checks a request. The headers are `webhook-id`, `webhook-timestamp`, `webhook-signature` and `content-encoding`.
    #[napi]
    pub fn verify(&self, headers: Vec<Option<String>>, body: Buffer, limit: u32, now: i64) -> Verdict {
        let header = |i: usize| headers.get(i).and_then(Option::as_deref);
        let (id, timestamp, signature, encoding) = (header(0), header(1), header(2), header(3));
        let request = verify::Request { id, timestamp, signature, encoding, body: &body };
        match self.inner.verify(&request, usize::try_from(limit).unwrap_or(usize::MAX), now) {
            Ok((signed_at, content)) => {
                let content = match content {
                    Cow::Borrowed(_) => None,
                    Cow::Owned(content) => Some(content.into()),
                };
                Verdict { signed_at: Some(signed_at), content, refusal: None }
            }
            Err(refusal) => {
                let (code, name, message) = refusal.error();
                Verdict {
                    signed_at: None,
                    content: None,
                    refusal: Some(Refusal {
                        code: code.sqlstate().to_owned(),
                        name: Some(name.to_owned()),
                        message: message.to_owned(),
                        detail: Some(refusal.detail().into_owned()),
                        hint: None,
                    }),
                }
            }
        }
    }
}
