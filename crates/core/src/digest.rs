//! Fingerprints of contents, for telling whether two messages are the same.

use sha2::{Digest, Sha256};

/// SHA-256 over the parts. Each is preceded by its length, so that moving a byte from one to the next changes it; an absent
/// part differs from an empty one.
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = Option<&'a [u8]>>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        match part {
            None => hash.update(u64::MAX.to_be_bytes()),
            Some(bytes) => {
                hash.update((bytes.len() as u64).to_be_bytes());
                hash.update(bytes);
            }
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let all = [
            fingerprint([Some(&b"ab"[..]), Some(b"c")]),
            fingerprint([Some(&b"a"[..]), Some(b"bc")]),
            fingerprint([Some(&b"abc"[..])]),
            fingerprint([Some(&b"abc"[..]), None]),
            fingerprint([Some(&b"abc"[..]), Some(b"")]),
            fingerprint([]),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(one));
        }
        assert_eq!(fingerprint([Some(&b"ab"[..])]), fingerprint([Some(&b"ab"[..])]));
    }
}
