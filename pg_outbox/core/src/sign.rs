//! Signatures of Standard Webhooks (<https://www.standardwebhooks.com>): `v1`, HMAC-SHA256 over `id.timestamp.body`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::error::{Error, Result};

/// What a symmetric secret starts with.
pub const SECRET_PREFIX: &str = "whsec_";

/// A symmetric secret, ready to sign with. `Debug` does not show it.
#[derive(Clone)]
pub struct Secret {
    /// The HMAC state after the key has been absorbed: a clone of it signs, and the key is hashed once.
    keyed: Hmac<Sha256>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl Secret {
    /// Reads `whsec_` followed by the base64 of 24 to 64 bytes.
    ///
    /// # Errors
    /// 22023. The secret is not in the error.
    pub fn parse(text: &str) -> Result<Secret> {
        let refuse = |detail: String| {
            Error::invalid("invalid signing secret")
                .detail(detail)
                .hint("A secret is \"whsec_\" followed by the base64 of 24 to 64 random bytes; leave it out to have one made.")
        };
        let Some(encoded) = text.strip_prefix(SECRET_PREFIX) else {
            return Err(refuse("It does not start with \"whsec_\".".to_owned()));
        };
        let key = STANDARD.decode(encoded).map_err(|_| refuse("What follows \"whsec_\" is not base64.".to_owned()))?;
        if !(24..=64).contains(&key.len()) {
            return Err(refuse(format!("It has {} bytes.", key.len())));
        }
        Ok(Secret::from_key(&key))
    }

    /// A secret from raw bytes.
    pub fn from_key(key: &[u8]) -> Secret {
        // HMAC takes keys of any length: `new_from_slice` cannot fail for it.
        let keyed = <Hmac<Sha256> as Mac>::new_from_slice(key);
        Secret { keyed: keyed.unwrap_or_else(|_| unreachable!("HMAC takes keys of any length")) }
    }

    /// Appends `v1,<base64>` to `to`: the signature over the exact bytes that are sent.
    pub fn sign_into(&self, id: &str, timestamp: i64, body: &[u8], to: &mut String) {
        let mut mac = self.keyed.clone();
        mac.update(id.as_bytes());
        mac.update(b".");
        mac.update(itoa(timestamp, &mut [0; 20]));
        mac.update(b".");
        mac.update(body);
        to.push_str("v1,");
        STANDARD.encode_string(mac.finalize().into_bytes(), to);
    }

    /// Whether one of the space-separated signatures in `header` is ours, in constant time for each.
    pub fn verify(&self, id: &str, timestamp: i64, body: &[u8], header: &str) -> bool {
        header.split(' ').filter_map(|one| one.strip_prefix("v1,")).any(|one| {
            let Ok(claimed) = STANDARD.decode(one) else { return false };
            let mut mac = self.keyed.clone();
            mac.update(id.as_bytes());
            mac.update(b".");
            mac.update(itoa(timestamp, &mut [0; 20]));
            mac.update(b".");
            mac.update(body);
            mac.verify_slice(&claimed).is_ok()
        })
    }
}

/// The `webhook-signature` header: one signature per secret, the current one first.
pub fn signature_header(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let mut header = String::with_capacity(secrets.len() * 48);
    for secret in secrets {
        if !header.is_empty() {
            header.push(' ');
        }
        secret.sign_into(id, timestamp, body, &mut header);
    }
    header
}

/// Decimal digits of `n`, without allocating.
fn itoa(n: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    let mut rest = n.unsigned_abs();
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if n < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn digits_are_those_of_std(n: i64) {
            let mut buffer = [0; 20];
            let expected = n.to_string();
            prop_assert_eq!(itoa(n, &mut buffer), expected.as_bytes());
        }
    }
}
