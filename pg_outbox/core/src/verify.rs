//! Verification of what a receiver gets: Standard Webhooks, `v1` signatures. The clients' receivers stand on it.

use std::borrow::Cow;
use std::fmt;

use crate::error::Result;
use crate::sign::Secret;

/// How far `webhook-timestamp` may be from now if nothing else is said, in seconds.
pub const TOLERANCE: u64 = 300;

/// Secrets that a signature may be of, one or, while it is rotated, several; and how old it may be.
#[derive(Clone, Debug)]
pub struct Verifier {
    secrets: Vec<Secret>,
    tolerance: u64,
}

/// Why a request was refused. It says nothing about the secrets, and nothing of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A header that is needed is not there.
    Missing(&'static str),
    /// `webhook-timestamp` is not a number of seconds.
    MalformedTimestamp,
    /// It was signed this many seconds away from now.
    TooFarOff(u64),
    /// None of the signatures is of one of the secrets.
    NoMatch,
}

impl Refusal {
    /// One sentence for an error's detail.
    pub fn detail(&self) -> Cow<'static, str> {
        match self {
            Refusal::Missing(name) => format!("The header \"{name}\" is missing.").into(),
            Refusal::MalformedTimestamp => "The header \"webhook-timestamp\" is not a number of seconds.".into(),
            Refusal::TooFarOff(seconds) => format!("It was signed {seconds} seconds away from now.").into(),
            Refusal::NoMatch => "No signature fits: another secret, or the body was changed on its way.".into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail())
    }
}

impl Verifier {
    /// A verifier for these secrets (`whsec_...`).
    ///
    /// # Errors
    /// 22023 for a malformed secret, or if there is none; the secret is not in the error.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>, tolerance: u64) -> Result<Verifier> {
        let secrets = secrets.into_iter().map(Secret::parse).collect::<Result<Vec<_>>>()?;
        if secrets.is_empty() {
            return Err(crate::Error::invalid("no signing secret"));
        }
        Ok(Verifier { secrets, tolerance })
    }

    /// Checks the three headers of a request and its body, byte for byte as it arrived. `now` and what is returned, when it
    /// was signed, are seconds since 1970.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(
        &self,
        id: Option<&str>,
        timestamp: Option<&str>,
        signature: Option<&str>,
        body: &[u8],
        now: i64,
    ) -> std::result::Result<i64, Refusal> {
        let id = id.ok_or(Refusal::Missing("webhook-id"))?;
        let timestamp = timestamp.ok_or(Refusal::Missing("webhook-timestamp"))?;
        let signature = signature.ok_or(Refusal::Missing("webhook-signature"))?;
        let signed_at: i64 = timestamp.parse().map_err(|_| Refusal::MalformedTimestamp)?;
        let off = now.abs_diff(signed_at);
        if off > self.tolerance {
            return Err(Refusal::TooFarOff(off));
        }
        if self.secrets.iter().any(|secret| secret.verify(id, signed_at, body, signature)) {
            Ok(signed_at)
        } else {
            Err(Refusal::NoMatch)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::signature_header;

    const OLD: &str = "whsec_b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xkIQ==";
    const NEW: &str = "whsec_bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3IQ==";

    fn signed(secret: &str, at: i64) -> String {
        signature_header(&[Secret::parse(secret).unwrap()], "msg_1", at, b"{}")
    }

    #[test]
    fn any_of_the_secrets_will_do() {
        let verifier = Verifier::new([NEW, OLD], TOLERANCE).unwrap();
        for secret in [OLD, NEW] {
            let header = signed(secret, 1000);
            assert_eq!(verifier.verify(Some("msg_1"), Some("1000"), Some(&header), b"{}", 1000), Ok(1000));
        }
        let only_new = Verifier::new([NEW], TOLERANCE).unwrap();
        let header = signed(OLD, 1000);
        assert_eq!(only_new.verify(Some("msg_1"), Some("1000"), Some(&header), b"{}", 1000), Err(Refusal::NoMatch));
    }

    #[test]
    fn says_why_not() {
        let verifier = Verifier::new([NEW], 10).unwrap();
        let header = signed(NEW, 1000);
        let check = |id, timestamp, signature, body: &[u8], now| verifier.verify(id, timestamp, signature, body, now);
        let (id, at, header) = (Some("msg_1"), Some("1000"), Some(header.as_str()));
        assert_eq!(check(id, at, header, b"{}", 1010), Ok(1000));
        assert_eq!(check(id, at, header, b"{}", 990), Ok(1000));
        assert_eq!(check(id, at, header, b"{}", 1011), Err(Refusal::TooFarOff(11)));
        assert_eq!(check(id, at, header, b"{}", 989), Err(Refusal::TooFarOff(11)));
        assert_eq!(check(id, at, header, b"{ }", 1000), Err(Refusal::NoMatch));
        assert_eq!(check(Some("msg_2"), at, header, b"{}", 1000), Err(Refusal::NoMatch));
        assert_eq!(check(id, Some("soon"), header, b"{}", 1000), Err(Refusal::MalformedTimestamp));
        assert_eq!(check(None, at, header, b"{}", 1000), Err(Refusal::Missing("webhook-id")));
        assert_eq!(check(id, None, header, b"{}", 1000), Err(Refusal::Missing("webhook-timestamp")));
        assert_eq!(check(id, at, None, b"{}", 1000), Err(Refusal::Missing("webhook-signature")));
        assert_eq!(check(id, Some("-9223372036854775808"), header, b"{}", i64::MAX), Err(Refusal::TooFarOff(u64::MAX)));
    }

    #[test]
    fn needs_a_secret() {
        assert!(Verifier::new([], TOLERANCE).is_err());
        assert!(Verifier::new(["secret"], TOLERANCE).is_err());
    }
}
