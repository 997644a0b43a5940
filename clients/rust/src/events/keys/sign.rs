//! Signature Version 4 of AWS, for a POST without a query.

use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::events::source::hex;

/// The place that a signature is valid for.
pub(super) struct Scope<'s> {
    pub(super) region: &'s str,
    pub(super) service: &'s str,
    pub(super) at: DateTime<Utc>,
}

impl Scope<'_> {
    /// Returns the time as the header `x-amz-date` has it.
    pub(super) fn date(&self) -> String {
        self.at.format("%Y%m%dT%H%M%SZ").to_string()
    }
}

/// Returns the header `authorization`. `headers` are all that are signed, in lower case and sorted by name.
pub(super) fn authorization(
    scope: &Scope<'_>,
    (id, secret): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Result<String> {
    let day = scope.at.format("%Y%m%d").to_string();
    let place = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let request = format!("POST\n/\n\n{lines}\n{names}\n{}", hex(&Sha256::digest(body)));
    let text = format!("AWS4-HMAC-SHA256\n{}\n{place}\n{}", scope.date(), hex(&Sha256::digest(request)));
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in [day.as_str(), scope.region, scope.service, "aws4_request", &text] {
        key = keyed(&key, part)?;
    }
    Ok(format!("AWS4-HMAC-SHA256 Credential={id}/{place}, SignedHeaders={names}, Signature={}", hex(&key)))
}

fn keyed(key: &[u8], part: &str) -> Result<Vec<u8>> {
    let mac = Hmac::<Sha256>::new_from_slice(key);
    let mut mac = mac.map_err(|error| Error::new("XX000", "no key for a signature").detail(error.to_string()))?;
    mac.update(part.as_bytes());
    Ok(mac.finalize().into_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_test_suite_of_aws() {
        let scope = Scope { region: "us-east-1", service: "service", at: "2015-08-30T12:36:00Z".parse().unwrap() };
        let keys = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let headers = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
        assert_eq!(
            authorization(&scope, keys, &headers, "").unwrap(),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, \
             Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
    }
}
