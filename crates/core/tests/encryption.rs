//! The vectors of the conformance suite for encryption and upcasters, which another implementation has made.
#![cfg(feature = "encryption")]
#![allow(clippy::unwrap_used, reason = "a test")]

use outbox_core::encrypt::{Cipher, Place, check_paths};
use outbox_core::upcast::Chains;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/conformance/vectors/encryption.json")).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    list(value).iter().map(text).collect()
}

fn bytes(value: &Value) -> Vec<u8> {
    let hex = text(value).as_bytes();
    hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn place(case: &Value) -> Place<'_> {
    Place { stream: text(&case["stream"]), event_type: text(&case["type"]) }
}

#[test]
fn fields_are_those_of_another_implementation() {
    for case in list(&vectors()["fields"]) {
        let cipher = Cipher::new(&bytes(&case["key"])).unwrap();
        let mut nonces = list(&case["nonces"]).iter().map(|nonce| bytes(nonce).try_into().unwrap());
        let mut data = case["data"].clone();
        let done =
            cipher.encrypt_fields(&mut data, place(case), &texts(&case["paths"]), || nonces.next().unwrap()).unwrap();
        assert_eq!((&data, done), (&case["encrypted"], texts(&case["encrypted_fields"])), "{}", case["note"]);
        cipher.decrypt_fields(&mut data, place(case), &texts(&case["encrypted_fields"])).unwrap();
        assert_eq!(data, case["data"]);
    }
    for case in list(&vectors()["undecryptable"]) {
        let cipher = Cipher::new(&bytes(&case["key"])).unwrap();
        let mut data = case["encrypted"].clone();
        cipher.decrypt_fields(&mut data, place(case), &texts(&case["paths"])).expect_err(text(&case["note"]));
    }
    for paths in list(&vectors()["malformed_paths"]) {
        check_paths(&texts(paths)).expect_err(&paths.to_string());
    }
}

#[test]
fn wrapped_keys_are_those_of_another_implementation() {
    for case in list(&vectors()["wrapped_keys"]) {
        let (master, name) = (Cipher::new(&bytes(&case["master"])).unwrap(), text(&case["master_key"]));
        let nonce = bytes(&case["nonce"]).try_into().unwrap();
        assert_eq!(master.wrap(&bytes(&case["data_key"]), name, nonce).unwrap(), bytes(&case["wrapped"]));
        assert_eq!(master.unwrap(&bytes(&case["wrapped"]), name).unwrap(), bytes(&case["data_key"]));
    }
}

#[test]
fn chains_of_upcasters_are_those_of_the_suite() {
    let version = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    for case in list(&vectors()["upcasters"]) {
        let mut chains = Chains::default();
        let added = list(&case["upcasters"]).iter().try_for_each(|one| chains.add(text(&one[0]), version(&one[1])));
        if let Some(error) = case["error"].as_str() {
            assert_eq!(added.and_then(|()| chains.check()).unwrap_err().message, error);
            continue;
        }
        added.and_then(|()| chains.check()).unwrap();
        for (event_type, latest) in case["latest"].as_object().unwrap() {
            assert_eq!(chains.latest(event_type), version(latest));
        }
        for step in list(&case["steps"]) {
            let steps: Vec<u32> = chains.steps(text(&step[0]), version(&step[1])).unwrap().collect();
            assert_eq!(steps, list(&step[2]).iter().map(version).collect::<Vec<_>>(), "{step}");
        }
        for step in case["refused"].as_array().into_iter().flatten() {
            assert_eq!(chains.steps(text(&step[0]), version(&step[1])).unwrap_err().message, text(&step[2]));
        }
    }
}
