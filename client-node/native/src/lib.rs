//! The native part of the Node client: the core crate's decisions, as JavaScript functions. No I/O and no PostgreSQL.
//!
//! What is refused comes back as a value, not as an exception: src/core.ts makes the typed errors of it.

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

/// Symbolic name and kind of a SQLSTATE.
#[napi(object)]
#[derive(Debug)]
pub struct Class {
    /// The symbolic name, the same in every client.
    pub name: String,
    /// What can be done about it.
    pub kind: String,
}

/// Symbolic name and kind of any SQLSTATE.
#[napi]
pub fn classify(state: String) -> Class {
    let (name, kind) = outbox_core::classify(&state);
    Class { name: name.to_owned(), kind: kind.as_str().to_owned() }
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

/// What a check came to: one of the two.
#[napi(object)]
#[derive(Debug)]
pub struct Verdict {
    /// When it was signed, in seconds since 1970.
    pub signed_at: Option<i64>,
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

    /// Checks the three headers of a request and its body.
    #[napi]
    pub fn verify(
        &self,
        id: Option<String>,
        timestamp: Option<String>,
        signature: Option<String>,
        body: Buffer,
        now: i64,
    ) -> Verdict {
        match self.inner.verify(id.as_deref(), timestamp.as_deref(), signature.as_deref(), &body, now) {
            Ok(signed_at) => Verdict { signed_at: Some(signed_at), refusal: None },
            Err(refusal) => Verdict {
                signed_at: None,
                refusal: Some(Refusal {
                    code: outbox_core::Code::InvalidParameter.sqlstate().to_owned(),
                    name: Some("invalid_signature".to_owned()),
                    message: "the signature is not valid".to_owned(),
                    detail: Some(refusal.detail().into_owned()),
                    hint: None,
                }),
            },
        }
    }
}
