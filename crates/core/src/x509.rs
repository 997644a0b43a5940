//! The validity period of a certificate. TLS libraries do not check it for a client's own certificates.

/// Returns the times "not before" and "not after" of a certificate, in seconds since 1970-01-01 UTC. `None` if `der` is
/// not a certificate in DER.
pub fn validity(der: &[u8]) -> Option<(i64, i64)> {
    const SEQUENCE: u8 = 0x30;
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    // The version, which is left out for version 1.
    if let Some((_, rest)) = element(fields, 0xa0) {
        fields = rest;
    }
    // Serial number, algorithm, issuer.
    for tag in [0x02, SEQUENCE, SEQUENCE] {
        fields = element(fields, tag)?.1;
    }
    let (validity, _) = element(fields, SEQUENCE)?;
    let (from, rest) = time(validity)?;
    let (until, _) = time(rest)?;
    Some((from, until))
}

/// Returns the content of the first element, which must have this tag, and the data after the element.
fn element(data: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = data.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    (found == tag).then_some((content, rest))
}

/// Reads a UTCTime or a GeneralizedTime, both in the only form that certificates may use (RFC 5280, 4.1.2.5).
fn time(data: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest) = element(data, 0x17).or_else(|| element(data, 0x18))?;
    let (&zone, digits) = text.split_last()?;
    if zone != b'Z' || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |part: &[u8]| part.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0'));
    let (year, rest_of_digits) = match digits.len() {
        12 => match number(&digits[..2]) {
            year @ 50.. => (1900 + year, &digits[2..]),
            year => (2000 + year, &digits[2..]),
        },
        14 => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let part = |i: usize| number(&rest_of_digits[2 * i..2 * i + 2]);
    let (month, day) = (part(0), part(1));
    // The days since 1970 of a date in the Gregorian calendar, counted in years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some((days * 86_400 + part(2) * 3600 + part(3) * 60 + part(4), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The beginning of a certificate, up to the end of the validity period.
    fn certificate(version: bool, from: &str, until: &str) -> Vec<u8> {
        let tlv = |tag: u8, content: &[u8]| {
            let mut all = vec![tag, 0x82, (content.len() >> 8) as u8, content.len() as u8];
            all.extend_from_slice(content);
            all
        };
        let time = |text: &str| tlv(if text.len() == 13 { 0x17 } else { 0x18 }, text.as_bytes());
        let mut tbs = if version { tlv(0xa0, &tlv(2, &[2])) } else { Vec::new() };
        tbs.extend(tlv(2, &[1, 2, 3]));
        tbs.extend(tlv(0x30, &[]));
        tbs.extend(tlv(0x30, &[5, 0]));
        tbs.extend(tlv(0x30, &[time(from), time(until)].concat()));
        tlv(0x30, &tlv(0x30, &tbs))
    }

    #[test]
    fn both_forms_of_time() {
        for (from, until, expected) in [
            ("700101000000Z", "20380119031407Z", (0, 2_147_483_647)),
            ("491231235959Z", "500101000000Z", (2_524_607_999, -631_152_000)),
            ("20000229120000Z", "20240229000001Z", (951_825_600, 1_709_164_801)),
        ] {
            for version in [true, false] {
                assert_eq!(validity(&certificate(version, from, until)), Some(expected), "{from} {until}");
            }
        }
        for wrong in ["7001010000Z", "700101000000+0100", "70010100000xZ", ""] {
            assert_eq!(validity(&certificate(true, wrong, "700101000000Z")), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(noise in prop::collection::vec(any::<u8>(), 0..60), keep in 0usize..60) {
            let mut data = certificate(true, "700101000000Z", "20380119031407Z");
            data.truncate(keep);
            data.extend(noise);
            let _ = validity(&data);
        }
    }
}
