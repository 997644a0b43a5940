//! The files of `tests/conformance`, and how results are compared. Its README describes both.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Returns the names and contents of the files of a folder, in the order of their names.
pub(crate) fn files(folder: &str) -> Vec<(String, Value)> {
    let folder = outbox_harness::postgres::root().join("tests/conformance").join(folder);
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Returns a text of an object.
pub(crate) fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

/// Puts saved values in the place of the texts that name them.
pub(crate) fn fill(value: &Value, saved: &HashMap<String, Value>) -> Value {
    match value {
        Value::String(path) if path.starts_with('$') => {
            let (name, within) = path[1..].split_once('.').unwrap_or((&path[1..], ""));
            let pointer = within.split('.').filter(|part| !part.is_empty()).map(|part| format!("/{part}"));
            saved[name].pointer(&pointer.collect::<String>()).unwrap_or_else(|| panic!("nothing is at {path}")).clone()
        }
        Value::Array(items) => items.iter().map(|item| fill(item, saved)).collect(),
        Value::Object(map) => {
            map.iter().map(|(key, item)| (key.clone(), fill(item, saved))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// Checks that a result is as a step expects.
pub(crate) fn check(value: &Value, expected: &Value, place: &str) {
    match expected {
        Value::Object(map) if map.len() == 1 && map.keys().all(|key| key.starts_with('$')) => {
            let (kind, of) = map.iter().next().unwrap();
            let holds = match (kind.as_str(), of) {
                ("$type", of) => {
                    let kind = match value {
                        Value::String(_) => "string",
                        Value::Number(_) => "number",
                        Value::Bool(_) => "boolean",
                        Value::Object(_) => "object",
                        Value::Array(_) => "array",
                        Value::Null => "null",
                    };
                    of == kind
                }
                ("$contains", Value::String(part)) => value.as_str().is_some_and(|text| text.contains(part)),
                ("$length", of) => {
                    value.as_array().map(Vec::len).or(value.as_str().map(str::len)) == of.as_u64().map(|n| n as usize)
                }
                other => panic!("{place}: unknown {other:?}"),
            };
            assert!(holds, "{place}: {value} is not {expected}");
        }
        Value::Object(map) => {
            for (key, item) in map {
                let inner = value.get(key).unwrap_or_else(|| panic!("{place}: no {key} in {value}"));
                check(inner, item, &format!("{place}.{key}"));
            }
        }
        Value::Array(items) => {
            let values = value.as_array().unwrap_or_else(|| panic!("{place}: {value} is no list"));
            assert_eq!(values.len(), items.len(), "{place}: {value}");
            for (i, item) in items.iter().enumerate() {
                check(&values[i], item, &format!("{place}[{i}]"));
            }
        }
        other => assert_eq!(value, other, "{place}"),
    }
}
