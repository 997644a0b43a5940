//! Encryption of fields of events, and of the data keys that encrypt them, with AES-256-GCM (NIST SP 800-38D).
//!
//! Formats, the same in all clients (`tests/conformance/vectors/encryption.json` has vectors):
//! * An encrypted field is the text `v1.` and the base64 of nonce (12 bytes), ciphertext and tag (16 bytes). The plaintext
//!   is the JSON of the value. The associated data are `pg_outbox.field.v1`, stream, event type and path, each followed by
//!   U+0000 but for the last, so that a field cannot be moved to another event type, stream or place.
//! * A wrapped data key is nonce, ciphertext and tag. The associated data are `pg_outbox.key.v1`, U+0000 and the name of
//!   the master key.
//!
//! Invariants:
//! * A nonce is used once per key. The caller draws each from a cryptographic source of randomness: a key of a subject may
//!   then encrypt 2^32 fields (SP 800-38D, 8.3).
//! * No error contains a key or a plaintext, and `Debug` shows no key.

use std::fmt;

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use serde_json::Value;

use crate::error::{Error, Result};

/// The length of a data key and of a master key, in bytes.
pub const KEY_LENGTH: usize = 32;

/// The length of a nonce, in bytes.
pub const NONCE_LENGTH: usize = 12;

/// How an encrypted field begins.
pub const PREFIX: &str = "v1.";

/// The largest number of parts of a path.
pub const MAX_DEPTH: usize = 16;

const FIELD: &str = "pg_outbox.field.v1";
const KEY: &str = "pg_outbox.key.v1";

/// Bytes that are used once.
pub type Entropy = [u8; NONCE_LENGTH];

/// A key that is ready to encrypt and to decrypt: a data key, or a master key of a local provider.
pub struct Cipher(Aes256Gcm);

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher(redacted)")
    }
}

/// The place of a field, which its ciphertext is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The name of the stream.
    pub stream: &'a str,
    /// The type of the event.
    pub event_type: &'a str,
}

impl Cipher {
    /// Takes a key of 32 bytes.
    ///
    /// # Errors
    /// 22023 if the key has another length.
    pub fn new(key: &[u8]) -> Result<Cipher> {
        if key.len() != KEY_LENGTH {
            return Err(Error::invalid("malformed encryption key")
                .detail(format!("It has {} bytes.", key.len()))
                .hint("A key has 32 random bytes."));
        }
        Ok(Cipher(Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(key))))
    }

    /// Encrypts a data key with this master key, whose name is `master_key`.
    ///
    /// # Errors
    /// 22023 if the data key has not 32 bytes.
    pub fn wrap(&self, data_key: &[u8], master_key: &str, nonce: Entropy) -> Result<Vec<u8>> {
        // Checks the length.
        Cipher::new(data_key)?;
        self.seal(data_key, &[KEY, master_key], nonce)
    }

    /// Decrypts a data key that [`Cipher::wrap`] has encrypted.
    ///
    /// # Errors
    /// 22023 if the bytes are no data key that this master key with this name has encrypted.
    pub fn unwrap(&self, wrapped: &[u8], master_key: &str) -> Result<Vec<u8>> {
        self.open(wrapped, &[KEY, master_key]).filter(|key| key.len() == KEY_LENGTH).ok_or_else(|| {
            Error::invalid("the wrapped key cannot be decrypted")
                .hint("It was encrypted with another master key, under another name, or it is damaged.")
        })
    }

    /// Encrypts those of the fields that are there, in place, and returns their paths. A path is the names of nested
    /// objects' fields with dots between them: `address.street`. `entropy` gives the nonce of each field.
    ///
    /// # Errors
    /// 22023 for a malformed path, or a path that leads into a field that is encrypted.
    pub fn encrypt_fields<'p>(
        &self,
        data: &mut Value,
        place: Place<'_>,
        paths: &[&'p str],
        mut entropy: impl FnMut() -> Entropy,
    ) -> Result<Vec<&'p str>> {
        check_paths(paths)?;
        let mut done = Vec::new();
        for path in paths {
            let Some(field) = find(data, path) else { continue };
            let plain = field.to_string();
            let sealed = self.seal(plain.as_bytes(), &[FIELD, place.stream, place.event_type, path], entropy())?;
            *field = Value::String(format!("{PREFIX}{}", BASE64.encode(sealed)));
            done.push(*path);
        }
        Ok(done)
    }

    /// Decrypts the fields in place. A field that is no longer there is passed over.
    ///
    /// # Errors
    /// 22023 if a field is not what [`Cipher::encrypt_fields`] made of it with this key, for this stream, type and path.
    pub fn decrypt_fields(&self, data: &mut Value, place: Place<'_>, paths: &[&str]) -> Result<()> {
        check_paths(paths)?;
        for path in paths {
            let Some(field) = find(data, path) else { continue };
            let plain = field
                .as_str()
                .and_then(|text| BASE64.decode(text.strip_prefix(PREFIX)?).ok())
                .and_then(|sealed| self.open(&sealed, &[FIELD, place.stream, place.event_type, path]))
                .and_then(|plain| serde_json::from_slice(&plain).ok());
            *field = plain.ok_or_else(|| {
                Error::invalid("a field cannot be decrypted")
                    .detail(format!("Field: {}.", shown(path)))
                    .hint("It was encrypted with another key, for another stream or event type, or it is damaged.")
            })?;
        }
        Ok(())
    }

    fn seal(&self, plain: &[u8], bound_to: &[&str], nonce: Entropy) -> Result<Vec<u8>> {
        let aad = bound_to.join("\0");
        let sealed = self
            .0
            .encrypt(Nonce::from_slice(&nonce), Payload { msg: plain, aad: aad.as_bytes() })
            .map_err(|_| Error::invalid("the value is too large to be encrypted"))?;
        Ok([&nonce, &*sealed].concat())
    }

    fn open(&self, sealed: &[u8], bound_to: &[&str]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LENGTH)?;
        let aad = bound_to.join("\0");
        self.0.decrypt(Nonce::from_slice(nonce), Payload { msg: sealed, aad: aad.as_bytes() }).ok()
    }
}

/// Checks the paths of an event type's fields.
///
/// # Errors
/// 22023 for an empty name, more than 16 names, or a path that is, or leads into, another one.
pub fn check_paths(paths: &[&str]) -> Result<()> {
    for (i, path) in paths.iter().enumerate() {
        let wrong = if path.split('.').any(str::is_empty) {
            "A name in it is empty."
        } else if path.split('.').count() > MAX_DEPTH {
            "It has more than 16 names."
        } else if path.contains('\0') {
            "It contains U+0000."
        } else if paths[..i].iter().any(|other| overlap(path, other)) {
            "Another path is the same, or one leads into the other."
        } else {
            continue;
        };
        return Err(Error::invalid(format!("malformed path \"{}\"", shown(path)))
            .detail(wrong)
            .hint("A path is names with dots between them: \"address.street\"."));
    }
    Ok(())
}

fn overlap(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn shown(path: &str) -> String {
    path.chars().take(64).flat_map(char::escape_debug).collect()
}

fn find<'v>(data: &'v mut Value, path: &str) -> Option<&'v mut Value> {
    path.split('.').try_fold(data, |value, name| value.as_object_mut()?.get_mut(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PLACE: Place<'_> = Place { stream: "customer-7", event_type: "customer.named" };

    fn cipher(byte: u8) -> Cipher {
        Cipher::new(&[byte; KEY_LENGTH]).unwrap()
    }

    fn counted() -> impl FnMut() -> Entropy {
        let mut n = 0;
        move || {
            n += 1;
            [n; NONCE_LENGTH]
        }
    }

    #[test]
    fn fields_come_back_as_they_were() {
        let before =
            json!({"name": "Ada", "address": {"street": {"no": 1.10, "of": null}, "city": "x"}, "none": null, "n": 1});
        let mut data = before.clone();
        let paths = ["name", "address.street", "none", "absent", "n.deeper", "name2"];
        let done = cipher(1).encrypt_fields(&mut data, PLACE, &paths, counted()).unwrap();
        assert_eq!(done, ["name", "address.street", "none"]);
        assert_eq!((&data["address"]["city"], &data["n"]), (&json!("x"), &json!(1)));
        for field in [&data["name"], &data["address"]["street"], &data["none"]] {
            assert!(field.as_str().unwrap().starts_with(PREFIX));
        }
        assert!(!data.to_string().contains("Ada"));
        cipher(1).decrypt_fields(&mut data, PLACE, &done).unwrap();
        assert_eq!(data, before);
    }

    /// The tag of AES-256-GCM for an empty plaintext under a zero key and a zero nonce, without associated data: test case 13
    /// of McGrew and Viega, "The Galois/Counter Mode of Operation", and case 14 for sixteen zero bytes.
    #[test]
    fn the_primitive_is_aes_256_gcm() {
        let zero = cipher(0);
        let sealed = |plain: &[u8]| {
            let sealed = zero.seal(plain, &[], [0; 12]).unwrap();
            sealed[12..].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!(sealed(b""), "530f8afbc74536b9a963b4f1c4cb738b");
        assert_eq!(sealed(&[0; 16]), "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919");
    }

    #[test]
    fn a_ciphertext_belongs_to_its_key_stream_type_and_path() {
        let mut data = json!({"name": "Ada", "other": 1});
        cipher(1).encrypt_fields(&mut data, PLACE, &["name", "other"], counted()).unwrap();
        let refused =
            |cipher: Cipher, place, mut data: Value| cipher.decrypt_fields(&mut data, place, &["name"]).unwrap_err();
        refused(cipher(2), PLACE, data.clone());
        refused(cipher(1), Place { stream: "customer-8", ..PLACE }, data.clone());
        refused(cipher(1), Place { event_type: "customer.renamed", ..PLACE }, data.clone());
        refused(cipher(1), PLACE, json!({"name": data["other"]}));
        for damaged in [json!("Ada"), json!(1), json!("v1."), json!("v1.AAAA"), json!("v2.AAAA"), json!("v1.\u{e9}")] {
            let error = refused(cipher(1), PLACE, json!({"name": damaged}));
            assert_eq!(error.detail.as_deref(), Some("Field: name."));
        }
        // Each bit counts.
        let text = data["name"].as_str().unwrap();
        let sealed = BASE64.decode(&text[PREFIX.len()..]).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            refused(cipher(1), PLACE, json!({"name": format!("{PREFIX}{}", BASE64.encode(flipped))}));
        }
    }

    #[test]
    fn a_wrapped_key_belongs_to_its_master_key() {
        let wrapped = cipher(9).wrap(&[7; 32], "master-2026", [3; 12]).unwrap();
        assert_eq!(wrapped.len(), 12 + 32 + 16);
        assert_eq!(cipher(9).unwrap(&wrapped, "master-2026").unwrap(), [7; 32]);
        for (other, name) in [(cipher(8), "master-2026"), (cipher(9), "master-2027")] {
            assert_eq!(other.unwrap(&wrapped, name).unwrap_err().message, "the wrapped key cannot be decrypted");
        }
        assert!(cipher(9).unwrap(&wrapped[..20], "master-2026").is_err());
        assert!(cipher(9).wrap(&[7; 31], "master-2026", [3; 12]).is_err());
    }

    #[test]
    fn malformed_keys_and_paths_are_refused() {
        let error = Cipher::new(&[1; 16]).unwrap_err();
        assert_eq!(error.detail.as_deref(), Some("It has 16 bytes."));
        for paths in [&["a..b"][..], &[""], &["a", "a"], &["a.b", "a"], &["a", "a.b"], &["a\0"], &[&"x.".repeat(17)]] {
            assert!(check_paths(paths).is_err(), "{paths:?}");
        }
        assert_eq!(check_paths(&["a", "ab", "b.a", "b.ab"]), Ok(()));
        assert_eq!(format!("{:?}", cipher(1)), "Cipher(redacted)");
    }
}
