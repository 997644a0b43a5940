//! The native part of the Node client: the core crate's decisions, as JavaScript functions. No I/O and no PostgreSQL.
//!
//! What is refused comes back as a value, not as an exception: src/core.ts makes the typed errors of it.

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
    /// Another symbolic name than that of the code.
    pub name: Option<String>,
    /// One line: what is wrong.
    pub message: String,
    /// What is needed to see it.
    pub detail: Option<String>,
    /// What can be done.
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
    /// The symbolic name, the same in every client.
    pub name: String,
    /// What can be done about it.
    pub kind: String,
    /// What can be done, in a sentence, where that can be said.
    pub hint: Option<String>,
}

/// Symbolic name, kind and hint of any SQLSTATE.
#[napi]
pub fn classify(state: String) -> Class {
    let (name, kind) = outbox_core::classify(&state);
    let hint = outbox_core::error::hint(name).map(str::to_owned);
    Class { name: name.to_owned(), kind: kind.as_str().to_owned(), hint }
}

/// The codes that pg_outbox itself raises.
#[napi]
pub fn codes() -> Vec<String> {
    outbox_core::Code::ALL.iter().map(|code| code.sqlstate().to_owned()).collect()
}

/// What is wrong with a topic to publish to; nothing: undefined.
#[napi]
pub fn check_topic(text: String) -> Option<Refusal> {
    topic::validate(&text).err().map(Refusal::from)
}

/// What is wrong with a topic pattern; nothing: undefined.
#[napi]
pub fn check_pattern(text: String) -> Option<Refusal> {
    Pattern::parse(&text).err().map(Refusal::from)
}

/// Whether a topic matches a pattern that is well-formed; a malformed one matches nothing.
#[napi]
pub fn matches(pattern: String, text: String) -> bool {
    Pattern::parse(&pattern).is_ok_and(|pattern| pattern.matches(&text))
}

/// The `webhook-signature` header over a body; undefined if a secret is malformed.
#[napi]
pub fn sign(secrets: Vec<String>, id: String, timestamp: i64, body: Buffer) -> Option<String> {
    let secrets: Vec<Secret> = secrets.iter().map(|secret| Secret::parse(secret)).collect::<Result<_, _>>().ok()?;
    Some(signature_header(&secrets, &id, timestamp, &body))
}

/// What is wrong with a signing secret; nothing: undefined. The secret is not in the answer.
#[napi]
pub fn check_secret(secret: String) -> Option<Refusal> {
    Secret::parse(&secret).err().map(Refusal::from)
}

/// Checks signatures with one secret or, while it is rotated, several.
#[napi]
#[derive(Debug)]
pub struct NativeVerifier {
    inner: verify::Verifier,
}

/// What a check came to: when it was signed, or why it is refused.
#[napi(object)]
#[allow(missing_debug_implementations, reason = "a Buffer has none")]
pub struct Verdict {
    /// When it was signed, in seconds since 1970.
    pub signed_at: Option<i64>,
    /// What was signed, if that is not the body as it arrived but what it was decompressed to.
    pub content: Option<Buffer>,
    /// Why it is refused.
    pub refusal: Option<Refusal>,
}

#[napi]
impl NativeVerifier {
    /// A verifier for these secrets, which have been checked.
    #[napi(constructor)]
    pub fn new(secrets: Vec<String>, tolerance: u32) -> napi::Result<NativeVerifier> {
        verify::Verifier::new(secrets.iter().map(String::as_str), u64::from(tolerance))
            .map(|inner| NativeVerifier { inner })
            .map_err(|error| napi::Error::from_reason(error.message))
    }

    /// Checks a request: its headers `webhook-id`, `webhook-timestamp`, `webhook-signature`, `content-encoding`, and its body.
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
