//! Fingerprints of message contents. Two messages with the same fingerprint have the same content.

use sha2::{Digest, Sha256};

/// Returns the SHA-256 hash of the parts. The length of each part is hashed before the part, so that moving a byte from one
/// part to the next changes the hash. An absent part and an empty part have different hashes.
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

/// Returns the SHA-256 hash of bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
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
