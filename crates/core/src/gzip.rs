//! Decompression of untrusted gzip data. The sizes before and after are limited, and only one member is accepted.

use std::io::Read as _;

/// Why a body was not decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The data is larger than the limit, before or after decompression.
    TooLarge,
    /// The data is not exactly one whole gzip member.
    Malformed,
}

/// Returns whether a value of `Content-Encoding` names gzip.
pub fn is_named(coding: &str) -> bool {
    ["gzip", "x-gzip"].iter().any(|name| coding.trim().eq_ignore_ascii_case(name))
}

/// Returns whether the data begins like a gzip member.
pub fn is_member(data: &[u8]) -> bool {
    data.starts_with(&[0x1f, 0x8b])
}

/// Returns the content of `data`, which must be one gzip member. The work is linear in the sizes before and after, which
/// `limit` bounds.
///
/// # Errors
/// The reason why the data is refused.
pub fn gunzip(data: &[u8], limit: usize) -> Result<Vec<u8>, Refusal> {
    if data.len() > limit {
        return Err(Refusal::TooLarge);
    }
    let mut content = Vec::new();
    let mut member = flate2::bufread::GzDecoder::new(data);
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    member.by_ref().take(most).read_to_end(&mut content).map_err(|_| Refusal::Malformed)?;
    if content.len() > limit {
        return Err(Refusal::TooLarge);
    }
    // A second member may be followed by very many more, and no signing sender sends two.
    if !member.into_inner().is_empty() {
        return Err(Refusal::Malformed);
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn member(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_member_is_its_content() {
        for content in [&b""[..], b"{}", &[7; 100_000]] {
            assert_eq!(gunzip(&member(content), 100_000).unwrap(), content);
        }
    }

    #[test]
    fn what_grows_beyond_the_limit_is_refused() {
        assert_eq!(gunzip(&member(&[0; 1001]), 1000), Err(Refusal::TooLarge));
        assert_eq!(gunzip(&member(&[0; 1000]), 1000).unwrap().len(), 1000);
        // 100 MB in 100 kB.
        assert_eq!(gunzip(&member(&vec![0; 100 << 20]), 1 << 20), Err(Refusal::TooLarge));
        // Empty members have few bytes each and no content.
        assert_eq!(gunzip(&member(b"").repeat(100_000), 1 << 20), Err(Refusal::TooLarge));
        assert_eq!(gunzip(&member(b"").repeat(1000), 1 << 20), Err(Refusal::Malformed));
    }

    #[test]
    fn only_one_whole_member_will_do() {
        let whole = member(b"content");
        assert_eq!(gunzip(&[&whole[..], b"x"].concat(), 1000), Err(Refusal::Malformed));
        assert_eq!(gunzip(&whole.repeat(2), 1000), Err(Refusal::Malformed));
        for cut in 0..whole.len() {
            assert_eq!(gunzip(&whole[..cut], 1000), Err(Refusal::Malformed), "{cut}");
        }
        let mut broken = whole.clone();
        let last = broken.len() - 1;
        broken[last] ^= 1;
        assert_eq!(gunzip(&broken, 1000), Err(Refusal::Malformed));
    }
}
