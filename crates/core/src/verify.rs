//! Verifies the requests that a receiver gets (Standard Webhooks, `v1` signatures). The verifiers of all clients use this
//! module.
//!
//! The signature covers the content before compression. An endpoint with `compress => true` gets a gzipped body, and a web
//! framework may have decompressed it. The signature is therefore checked against the body as it arrived first. If it
//! does not match and the request says that its body is compressed, the body is decompressed and checked again. In both
//! cases the returned content is the content that was signed.
//!
//! Requests are untrusted, so the cheap checks come first: headers, time and number of signatures before the body.

use std::borrow::Cow;
use std::fmt;

use crate::error::{Code, Result};
use crate::gzip;
use crate::sign::{MAX_SIGNATURES, Secret};

/// The default for the largest distance of `webhook-timestamp` from the current time, in seconds.
pub const TOLERANCE: u64 = 300;

/// The default for the largest size of a body before and after decompression, in bytes.
pub const LIMIT: usize = 1 << 20;

/// The parts of a request that are needed for the verification.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'h, 'b> {
    /// `webhook-id`.
    pub id: Option<&'h str>,
    /// `webhook-timestamp`.
    pub timestamp: Option<&'h str>,
    /// `webhook-signature`.
    pub signature: Option<&'h str>,
    /// `content-encoding`.
    pub encoding: Option<&'h str>,
    /// The body, byte for byte as it arrived. It may have been decompressed on its way.
    pub body: &'b [u8],
}

/// Verifies requests with one or more secrets (several while a secret is rotated) and a limit on the age of a signature.
#[derive(Clone, Debug)]
pub struct Verifier {
    secrets: Vec<Secret>,
    tolerance: u64,
}

/// Why a request was refused. The reason contains nothing of the secrets and nothing of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A required header is missing.
    Missing(&'static str),
    /// `webhook-timestamp` is not a number of seconds.
    MalformedTimestamp,
    /// `webhook-timestamp` is this many seconds away from the current time.
    TooFarOff(u64),
    /// The header has more signatures than any sender adds.
    TooManySignatures,
    /// None of the signatures was made with one of the secrets.
    NoMatch,
    /// No signature matches the body as it arrived, and the body cannot be decompressed.
    NotGzip,
    /// The compressed body is larger than this limit, before or after decompression.
    TooLarge(usize),
}

impl Refusal {
    /// Returns the SQLSTATE, the symbolic name and the message of the error that clients raise.
    pub const fn error(&self) -> (Code, &'static str, &'static str) {
        match self {
            Refusal::TooLarge(_) => (Code::TooLarge, Code::TooLarge.name(), "the request is too large"),
            _ => (Code::InvalidParameter, "invalid_signature", "the signature is not valid"),
        }
    }

    /// Returns one sentence for the detail of an error.
    pub fn detail(&self) -> Cow<'static, str> {
        match self {
            Refusal::Missing(name) => format!("The header \"{name}\" is missing.").into(),
            Refusal::MalformedTimestamp => "The header \"webhook-timestamp\" is not a number of seconds.".into(),
            Refusal::TooFarOff(seconds) => format!("It was signed {seconds} seconds away from now.").into(),
            Refusal::TooManySignatures => {
                format!("The header \"webhook-signature\" has more than {MAX_SIGNATURES} signatures.").into()
            }
            Refusal::NotGzip => {
                "No signature fits the body as it arrived, and it is not one gzip member that could be decompressed."
                    .into()
            }
            Refusal::TooLarge(limit) => format!("The limit is {limit} bytes, before and after decompression.").into(),
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
    /// Creates a verifier for these secrets (`whsec_...`). `tolerance` is in seconds.
    ///
    /// # Errors
    /// 22023 if a secret is malformed or if there is none. The error does not contain the secret.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>, tolerance: u64) -> Result<Verifier> {
        let secrets = secrets.into_iter().map(Secret::parse).collect::<Result<Vec<_>>>()?;
        if secrets.is_empty() {
            return Err(crate::Error::invalid("no signing secret"));
        }
        Ok(Verifier { secrets, tolerance })
    }

    /// Checks a request and returns the time at which it was signed and the signed content. `now` and the returned time are
    /// seconds since 1970. `limit` is the largest size of a compressed body, before and after decompression, in bytes.
    ///
    /// # Errors
    /// The reason why the request is refused.
    pub fn verify<'b>(
        &self,
        request: &Request<'_, 'b>,
        limit: usize,
        now: i64,
    ) -> std::result::Result<(i64, Cow<'b, [u8]>), Refusal> {
        let id = request.id.ok_or(Refusal::Missing("webhook-id"))?;
        let timestamp = request.timestamp.ok_or(Refusal::Missing("webhook-timestamp"))?;
        let signature = request.signature.ok_or(Refusal::Missing("webhook-signature"))?;
        let signed_at: i64 = timestamp.parse().map_err(|_| Refusal::MalformedTimestamp)?;
        let off = now.abs_diff(signed_at);
        if off > self.tolerance {
            return Err(Refusal::TooFarOff(off));
        }
        if signature.split(' ').nth(MAX_SIGNATURES).is_some() {
            return Err(Refusal::TooManySignatures);
        }
        let fits = |body: &[u8]| self.secrets.iter().any(|secret| secret.verify(id, signed_at, body, signature));
        if fits(request.body) {
            return Ok((signed_at, Cow::Borrowed(request.body)));
        }
        if !request.encoding.is_some_and(gzip::is_named) || !gzip::is_member(request.body) {
            return Err(Refusal::NoMatch);
        }
        let content = gzip::gunzip(request.body, limit).map_err(|refusal| match refusal {
            gzip::Refusal::TooLarge => Refusal::TooLarge(limit),
            gzip::Refusal::Malformed => Refusal::NotGzip,
        })?;
        if fits(&content) { Ok((signed_at, Cow::Owned(content))) } else { Err(Refusal::NoMatch) }
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

    fn request<'h, 'b>(signature: &'h str, body: &'b [u8]) -> Request<'h, 'b> {
        Request { id: Some("msg_1"), timestamp: Some("1000"), signature: Some(signature), encoding: None, body }
    }

    fn refusal(verifier: &Verifier, request: &Request<'_, '_>, now: i64) -> Option<Refusal> {
        verifier.verify(request, LIMIT, now).err()
    }

    #[test]
    fn any_of_the_secrets_will_do() {
        let verifier = Verifier::new([NEW, OLD], TOLERANCE).unwrap();
        for secret in [OLD, NEW] {
            let header = signed(secret, 1000);
            let verified = verifier.verify(&request(&header, b"{}"), LIMIT, 1000);
            assert_eq!(verified, Ok((1000, Cow::Borrowed(&b"{}"[..]))));
        }
        let only_new = Verifier::new([NEW], TOLERANCE).unwrap();
        assert_eq!(refusal(&only_new, &request(&signed(OLD, 1000), b"{}"), 1000), Some(Refusal::NoMatch));
    }

    #[test]
    fn says_why_not() {
        let verifier = Verifier::new([NEW], 10).unwrap();
        let header = signed(NEW, 1000);
        let good = request(&header, b"{}");
        for (wrong, now, why) in [
            (good, 1010, None),
            (good, 990, None),
            (good, 1011, Some(Refusal::TooFarOff(11))),
            (good, 989, Some(Refusal::TooFarOff(11))),
            (Request { body: b"{ }", ..good }, 1000, Some(Refusal::NoMatch)),
            (Request { id: Some("msg_2"), ..good }, 1000, Some(Refusal::NoMatch)),
            (Request { timestamp: Some("soon"), ..good }, 1000, Some(Refusal::MalformedTimestamp)),
            (Request { id: None, ..good }, 1000, Some(Refusal::Missing("webhook-id"))),
            (Request { timestamp: None, ..good }, 1000, Some(Refusal::Missing("webhook-timestamp"))),
            (Request { signature: None, ..good }, 1000, Some(Refusal::Missing("webhook-signature"))),
            (Request { timestamp: Some("-9223372036854775808"), ..good }, i64::MAX, Some(Refusal::TooFarOff(u64::MAX))),
        ] {
            assert_eq!(refusal(&verifier, &wrong, now), why, "{wrong:?} {now}");
        }
    }

    #[test]
    fn a_compressed_body_is_its_content_and_what_was_decompressed_on_the_way_is_fine_too() {
        let verifier = Verifier::new([NEW], TOLERANCE).unwrap();
        let content = br#"{"a": 1.10}"#.repeat(100);
        let packed = gzipped(&content);
        let header = signature_header(&[Secret::parse(NEW).unwrap()], "msg_1", 1000, &content);
        for coding in ["gzip", " GZip ", "x-gzip"] {
            let named = Request { encoding: Some(coding), ..request(&header, &packed) };
            assert_eq!(verifier.verify(&named, LIMIT, 1000).unwrap().1, content, "{coding}");
            let decompressed = Request { body: &content, ..named };
            assert_eq!(verifier.verify(&decompressed, LIMIT, 1000).unwrap().1, content, "{coding}");
        }
        let named = Request { encoding: Some("gzip"), ..request(&header, &packed) };
        for (wrong, limit, why) in [
            // The request does not say that the body is compressed, or names another coding.
            (request(&header, &packed), LIMIT, Refusal::NoMatch),
            (Request { encoding: Some("br"), ..named }, LIMIT, Refusal::NoMatch),
            (Request { encoding: Some("gzip, gzip"), ..named }, LIMIT, Refusal::NoMatch),
            (Request { body: b"x", ..named }, LIMIT, Refusal::NoMatch),
            (Request { body: &packed[..packed.len() - 1], ..named }, LIMIT, Refusal::NotGzip),
            (Request { body: &packed.repeat(2), ..named }, LIMIT, Refusal::NotGzip),
            (named, content.len() - 1, Refusal::TooLarge(content.len() - 1)),
            (named, packed.len() - 1, Refusal::TooLarge(packed.len() - 1)),
            (Request { body: &gzipped(b"another"), ..named }, LIMIT, Refusal::NoMatch),
        ] {
            assert_eq!(verifier.verify(&wrong, limit, 1000).unwrap_err(), why);
        }
        assert!(verifier.verify(&named, content.len(), 1000).is_ok());
        // The content is itself a gzip file. It was signed as such, so it is returned as such even if a coding is named.
        let header = signature_header(&[Secret::parse(NEW).unwrap()], "msg_1", 1000, &packed);
        let file = Request { encoding: Some("gzip"), ..request(&header, &packed) };
        assert_eq!(verifier.verify(&file, LIMIT, 1000).unwrap().1, packed);
    }

    #[test]
    fn a_header_of_many_signatures_is_refused_before_the_body_is_read() {
        let verifier = Verifier::new([NEW], TOLERANCE).unwrap();
        let wrong = format!("v1,{} ", "A".repeat(43) + "=");
        let header = |wrongs: usize| wrong.repeat(wrongs) + &signed(NEW, 1000);
        assert_eq!(refusal(&verifier, &request(&header(15), b"{}"), 1000), None);
        let refused = Some(Refusal::TooManySignatures);
        assert_eq!(refusal(&verifier, &request(&header(16), b"{}"), 1000), refused);
        assert_eq!(refusal(&verifier, &request(&header(100_000), b"{}"), 1000), refused);
        assert_eq!(refusal(&verifier, &request(&" ".repeat(1 << 20), b"{}"), 1000), refused);
    }

    /// The body is hashed once, not once for each signature. Only the ratio of the times is compared.
    #[test]
    fn sixteen_signatures_cost_what_one_does() {
        let verifier = Verifier::new([NEW], TOLERANCE).unwrap();
        let body = vec![7; 4 << 20];
        let wrong = format!("v1,{}", "A".repeat(43) + "=");
        let time = |header: &str| {
            let one = || {
                let begin = std::time::Instant::now();
                assert_eq!(refusal(&verifier, &request(header, &body), 1000), Some(Refusal::NoMatch));
                begin.elapsed()
            };
            (0..3).map(|_| one()).min().unwrap()
        };
        let (single, many) = (time(&wrong), time(&[wrong.as_str(); 16].join(" ")));
        assert!(many < single * 4, "{many:?} for 16, {single:?} for one");
    }

    fn gzipped(content: &[u8]) -> Vec<u8> {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn needs_a_secret() {
        assert!(Verifier::new([], TOLERANCE).is_err());
        assert!(Verifier::new(["secret"], TOLERANCE).is_err());
    }
}
