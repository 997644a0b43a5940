//! Signatures of Standard Webhooks (<https://www.standardwebhooks.com>) over `id.timestamp.body`: `v1` is HMAC-SHA256, `v1a`
//! is ed25519.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::digits;
use crate::error::{Error, Result};

/// The prefix of a symmetric secret.
pub const SECRET_PREFIX: &str = "whsec_";

/// The prefix of a private ed25519 key.
pub const PRIVATE_PREFIX: &str = "whsk_";
/// The prefix of a public ed25519 key.
pub const PUBLIC_PREFIX: &str = "whpk_";

/// The largest number of signatures that are checked in one header. A sender signs with its current secret and with the
/// secrets that it rotates out.
pub const MAX_SIGNATURES: usize = 16;

/// A secret that is ready to sign. `Debug` does not show the secret.
#[derive(Clone)]
pub struct Secret(Key);

#[derive(Clone)]
enum Key {
    /// The HMAC state after the key has been absorbed. Each signature uses a clone of it, so the key is hashed once.
    Symmetric(Hmac<Sha256>),
    /// An ed25519 key.
    Private(Box<SigningKey>),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl Secret {
    /// Reads `whsec_` followed by the base64 of 24 to 64 bytes, or `whsk_` followed by the base64 of an ed25519 key. The
    /// key is a seed of 32 bytes, optionally followed by the public key.
    ///
    /// # Errors
    /// 22023. The secret is not in the error.
    pub fn parse(text: &str) -> Result<Secret> {
        let refuse = |detail: String| {
            Error::invalid("invalid signing secret")
                .detail(detail)
                .hint("A secret is \"whsec_\" followed by the base64 of 24 to 64 random bytes; leave it out to have one made.")
        };
        let (prefix, encoded) = if let Some(rest) = text.strip_prefix(SECRET_PREFIX) {
            (SECRET_PREFIX, rest)
        } else if let Some(rest) = text.strip_prefix(PRIVATE_PREFIX) {
            (PRIVATE_PREFIX, rest)
        } else {
            return Err(refuse("It does not start with \"whsec_\".".to_owned()));
        };
        let key = STANDARD.decode(encoded).map_err(|_| refuse(format!("What follows \"{prefix}\" is not base64.")))?;
        if prefix == SECRET_PREFIX {
            if !(24..=64).contains(&key.len()) {
                return Err(refuse(format!("It has {} bytes.", key.len())));
            }
            return Ok(Secret::from_key(&key));
        }
        let Some((seed, public)) = key.split_first_chunk::<32>() else {
            return Err(refuse(format!("It has {} bytes; an ed25519 key has 32 or 64.", key.len())));
        };
        let private = SigningKey::from_bytes(seed);
        if !public.is_empty() && public != private.verifying_key().as_bytes() {
            return Err(refuse("Its public half does not belong to its private half.".to_owned()));
        }
        Ok(Secret(Key::Private(Box::new(private))))
    }

    /// Creates a symmetric secret from raw bytes.
    pub fn from_key(key: &[u8]) -> Secret {
        // HMAC takes keys of any length, so `new_from_slice` cannot fail.
        let keyed = <Hmac<Sha256> as Mac>::new_from_slice(key);
        Secret(Key::Symmetric(keyed.unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"))))
    }

    /// Returns the text of a new secret from random bytes. It starts with `whsec_`, or if `asymmetric` with `whsk_`.
    pub fn generate(random: &[u8; 32], asymmetric: bool) -> String {
        if !asymmetric {
            return format!("{SECRET_PREFIX}{}", STANDARD.encode(random));
        }
        let private = SigningKey::from_bytes(random);
        format!("{PRIVATE_PREFIX}{}", STANDARD.encode(private.to_keypair_bytes()))
    }

    /// Returns the public key with which receivers verify the signatures of a private key, as `whpk_<base64>`. `None` for a
    /// symmetric secret.
    pub fn public_key(&self) -> Option<String> {
        match &self.0 {
            Key::Symmetric(_) => None,
            Key::Private(key) => Some(format!("{PUBLIC_PREFIX}{}", STANDARD.encode(key.verifying_key().as_bytes()))),
        }
    }

    /// Appends the signature, `v1,<base64>` or `v1a,<base64>`, to `to`. It covers the exact bytes that are sent.
    pub fn sign_into(&self, id: &str, timestamp: i64, body: &[u8], to: &mut String) {
        match &self.0 {
            Key::Symmetric(keyed) => {
                to.push_str("v1,");
                // The base64 of 32 bytes has 44 characters, so a fixed buffer suffices.
                let mut text = [0; 44];
                let written = STANDARD.encode_slice(mac(keyed, id, timestamp, body).finalize().into_bytes(), &mut text);
                to.push_str(written.ok().and_then(|n| std::str::from_utf8(&text[..n]).ok()).unwrap_or_default());
            }
            Key::Private(key) => {
                to.push_str("v1a,");
                STANDARD.encode_string(key.sign(&signed_bytes(id, timestamp, body)).to_bytes(), to);
            }
        }
    }

    /// Returns whether one of the space-separated signatures in `header` was made with this secret. Each comparison takes
    /// constant time. The body is hashed once, regardless of the number of signatures, and signatures after the first
    /// [`MAX_SIGNATURES`] are ignored.
    pub fn verify(&self, id: &str, timestamp: i64, body: &[u8], header: &str) -> bool {
        let signatures = |version: &'static str| {
            header
                .split(' ')
                .take(MAX_SIGNATURES)
                .filter_map(move |one| STANDARD.decode(one.strip_prefix(version)?).ok())
        };
        match &self.0 {
            Key::Symmetric(keyed) => {
                let ours = mac(keyed, id, timestamp, body);
                signatures("v1,").any(|claimed| ours.clone().verify_slice(&claimed).is_ok())
            }
            Key::Private(key) => {
                let signed = signed_bytes(id, timestamp, body);
                signatures("v1a,")
                    .filter_map(|claimed| ed25519_dalek::Signature::from_slice(&claimed).ok())
                    .any(|claimed| key.verifying_key().verify_strict(&signed, &claimed).is_ok())
            }
        }
    }
}

fn mac(keyed: &Hmac<Sha256>, id: &str, timestamp: i64, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = keyed.clone();
    mac.update(id.as_bytes());
    mac.update(b".");
    mac.update(digits::of(timestamp, &mut [0; 20]));
    mac.update(b".");
    mac.update(body);
    mac
}

fn signed_bytes(id: &str, timestamp: i64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(id.len() + body.len() + 22);
    bytes.extend_from_slice(id.as_bytes());
    bytes.push(b'.');
    bytes.extend_from_slice(digits::of(timestamp, &mut [0; 20]));
    bytes.push(b'.');
    bytes.extend_from_slice(body);
    bytes
}

/// Returns the `webhook-signature` header with one signature per secret, in the order of the secrets (the current secret
/// comes first).
pub fn signature_header<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    id: &str,
    timestamp: i64,
    body: &[u8],
) -> String {
    let mut header = String::with_capacity(48);
    sign_all(secrets, id, timestamp, body, &mut header);
    header
}

/// Appends the `webhook-signature` header to `to`.
pub fn sign_all<'a>(
    secrets: impl IntoIterator<Item = &'a Secret>,
    id: &str,
    timestamp: i64,
    body: &[u8],
    to: &mut String,
) {
    for (i, secret) in secrets.into_iter().enumerate() {
        if i > 0 {
            to.push(' ');
        }
        secret.sign_into(id, timestamp, body, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        for (secret, id, timestamp, body, signature) in [
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
        ] {
            let secret = Secret::parse(secret).unwrap();
            assert_eq!(signature_header(std::slice::from_ref(&secret), id, timestamp, body.as_bytes()), signature);
            assert!(secret.verify(id, timestamp, body.as_bytes(), signature));
            assert!(!secret.verify(id, timestamp + 1, body.as_bytes(), signature));
        }
    }

    #[test]
    fn several_secrets_give_several_signatures() {
        let (new, old) = (Secret::from_key(&[1; 32]), Secret::from_key(&[2; 32]));
        let header = signature_header(&[new.clone(), old.clone()], "msg_1", 1, b"x");
        assert_eq!(header.split(' ').count(), 2);
        assert!(new.verify("msg_1", 1, b"x", &header) && old.verify("msg_1", 1, b"x", &header));
        assert!(!Secret::from_key(&[3; 32]).verify("msg_1", 1, b"x", &header));
    }

    #[test]
    fn an_ed25519_key_signs_v1a() {
        let text = Secret::generate(&[7; 32], true);
        let key = Secret::parse(&text).unwrap();
        let header = signature_header([&key], "msg_1", 1, b"x");
        assert!(header.starts_with("v1a,") && key.verify("msg_1", 1, b"x", &header));
        assert!(!key.verify("msg_1", 1, b"y", &header));
        // RFC 8032, 7.1, TEST 1: the public key of a published seed.
        let seed = b"\x9d\x61\xb1\x9d\xef\xfd\x5a\x60\xba\x84\x4a\xf4\x92\xec\x2c\xc4\x44\x49\xc5\x69\x7b\x32\x69\x19\x70\x3b\xac\x03\x1c\xae\x7f\x60";
        let known = Secret::parse(&Secret::generate(seed, true)).unwrap();
        assert_eq!(known.public_key().unwrap(), "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
        assert_eq!(Secret::parse(&format!("whsk_{}", STANDARD.encode(seed))).unwrap().public_key(), known.public_key());
        assert_eq!(Secret::from_key(&[1; 32]).public_key(), None);
        let mut mixed = [7u8; 64];
        mixed[32..].fill(1);
        assert!(Secret::parse(&format!("whsk_{}", STANDARD.encode(mixed))).is_err());
        assert!(Secret::parse(&Secret::generate(&[9; 32], false)).is_ok());
    }

    #[test]
    fn a_secret_is_not_shown() {
        let text = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0";
        assert_eq!(format!("{:?}", Secret::parse(text).unwrap()), "Secret(redacted)");
        for wrong in
            ["", "secret", "whsec_", "whsec_%%%", "whsec_c2hvcnQ=", &format!("whsec_{}", STANDARD.encode([0; 65]))]
        {
            let error = Secret::parse(wrong).unwrap_err();
            assert!(wrong.len() < 10 || !format!("{error:?}").contains(&wrong[6..]));
        }
    }
}
