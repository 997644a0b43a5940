//! JSON Schemas of event types: how compatible two versions are, and whether an event's data is valid.
//!
//! - A schema of a type is at most [`MAX_BYTES`] of text and [`MAX_DEPTH`] levels deep. The comparison gives up after a
//!   bounded amount of work and then proves nothing.
//! - A `$ref` reaches only the document itself and the standard meta-schemas. Nothing is read from files or from the network.
//! - Patterns run on an engine whose time is linear in the text, so no pattern and no data can hold up a backend.
//! - Errors name places in the schema and in the data, and contain no value of the data.

use std::collections::HashMap;

use jsonschema::canonical::{CanonicalSchema, Containment};
use jsonschema::{PatternOptions, Validator};
use outbox_core::{Code, Error, Result};
use serde_json::{Map, Value};

/// The longest text of a schema, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// The deepest nesting of a schema.
pub const MAX_DEPTH: usize = 32;
/// The largest number of places of a schema when its references are followed. Validation visits each of them, and cannot be
/// cancelled. A schema of the longest text has about a fifth of it without references.
const MAX_UNFOLDED: usize = 50_000;
/// The longest list of errors that an error message names.
const MAX_ERRORS: usize = 5;

/// How the data and the readers of two versions of a schema get along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compatibility {
    /// Neither version reads all data of the other one.
    Breaking,
    /// The old version reads the data of the new one.
    Forward,
    /// The new version reads the data of the old one.
    Backward,
    /// Each version reads the data of the other one.
    Full,
}

impl Compatibility {
    /// Returns the name of the level, as SQL shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Compatibility::Breaking => "breaking",
            Compatibility::Forward => "forward",
            Compatibility::Backward => "backward",
            Compatibility::Full => "full",
        }
    }

    /// Returns the level that a name stands for.
    pub fn from_name(name: &str) -> Option<Compatibility> {
        [Compatibility::Breaking, Compatibility::Forward, Compatibility::Backward, Compatibility::Full]
            .into_iter()
            .find(|level| level.as_str() == name)
    }

    /// Whether a change of this level is allowed where `required` is asked for.
    pub fn satisfies(self, required: Compatibility) -> bool {
        match required {
            Compatibility::Breaking => true,
            Compatibility::Full => self == Compatibility::Full,
            either => self == either || self == Compatibility::Full,
        }
    }
}

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The level.
    pub compatibility: Compatibility,
    /// Why the level is not `Full`: one sentence per direction that does not hold.
    pub reasons: Vec<String>,
}

/// Compares two versions of a schema.
///
/// Writers know only the properties of their own version. So an object that leaves other properties open is read openly, but
/// is taken to be written with the declared properties only; otherwise no property could ever be added. In a schema with
/// `allOf`, `anyOf`, `oneOf`, `not`, `if` or another keyword that combines schemas, objects are taken as they are.
pub fn compare(old: &Value, new: &Value) -> Result<Comparison> {
    bounded(old)?;
    bounded(new)?;
    let (old_read, new_read) = (canonical(old)?, canonical(new)?);
    let (old_written, new_written) = (canonical(&as_written(old))?, canonical(&as_written(new))?);
    let backward = reads(&new_read, &old_written);
    let forward = reads(&old_read, &new_written);
    let mut reasons = Vec::new();
    if let Err(why) = &backward {
        reasons.push(format!("the new version does not read the data of the old one: {why}"));
    }
    if let Err(why) = &forward {
        reasons.push(format!("the old version does not read the data of the new one: {why}"));
    }
    let compatibility = match (backward.is_ok(), forward.is_ok()) {
        (true, true) => Compatibility::Full,
        (true, false) => Compatibility::Backward,
        (false, true) => Compatibility::Forward,
        (false, false) => Compatibility::Breaking,
    };
    Ok(Comparison { compatibility, reasons })
}

/// Checks that a document is a schema that can be used.
pub fn check(schema: &Value) -> Result<()> {
    Checker::new(schema).map(drop)
}

/// A schema that is ready to validate data.
#[derive(Debug)]
pub struct Checker {
    validator: Validator,
    /// The schema may refer to itself.
    recursive: bool,
}

impl Checker {
    /// Prepares a schema.
    pub fn new(schema: &Value) -> Result<Checker> {
        bounded(schema)?;
        let mut unfolding = Unfolding { schema, open: Vec::new(), known: HashMap::new(), recursive: false };
        if unfolding.size(schema) > MAX_UNFOLDED {
            return Err(malformed(&format!("Its references unfold to more than {MAX_UNFOLDED} places.")));
        }
        let recursive = unfolding.recursive;
        jsonschema::options()
            .with_pattern_options(PatternOptions::regex())
            .offline()
            .build(schema)
            .map(|validator| Checker { validator, recursive })
            .map_err(|error| malformed(&format!("at \"{}\": {}", error.instance_path(), error.masked())))
    }

    /// Validates data. The error names the places that are wrong, at most five.
    ///
    /// The library collects all errors, and those of every alternative. In a schema that refers to itself their number grows
    /// exponentially with the depth of the data, and nothing could cancel that. Whether data is valid is remembered for each
    /// part of it, and takes no such time.
    pub fn validate(&self, data: &Value) -> std::result::Result<(), String> {
        if self.validator.is_valid(data) {
            return Ok(());
        }
        if self.recursive {
            return Err("The schema refers to itself, so no place is named".to_owned());
        }
        let places: Vec<String> = self
            .validator
            .iter_errors(data)
            .take(MAX_ERRORS)
            .map(|error| format!("\"{}\" does not fulfil \"{}\"", error.instance_path(), error.schema_path()))
            .collect();
        Err(places.join("; "))
    }
}

/// A walk through a schema that follows its references.
struct Unfolding<'a> {
    schema: &'a Value,
    /// The references that lead to the current place.
    open: Vec<&'a str>,
    /// How many places a reference unfolds to.
    known: HashMap<&'a str, usize>,
    /// The schema may refer to itself. References that are no JSON Pointer into the document count as such.
    recursive: bool,
}

impl<'a> Unfolding<'a> {
    /// Counts the places of a part of the schema, with those that its references lead to. A reference back counts as one.
    fn size(&mut self, value: &'a Value) -> usize {
        match value {
            Value::Object(fields) => fields.iter().fold(1_usize, |sum, (key, inner)| {
                sum.saturating_add(match (key.as_str(), inner) {
                    ("$dynamicRef" | "$recursiveRef", Value::String(_)) => self.back(),
                    ("$ref", Value::String(to)) => self.reference(to),
                    _ => self.size(inner),
                })
            }),
            Value::Array(items) => items.iter().fold(1_usize, |sum, item| sum.saturating_add(self.size(item))),
            _ => 1,
        }
    }

    fn reference(&mut self, to: &'a str) -> usize {
        if let Some(known) = self.known.get(to) {
            return *known;
        }
        if self.open.contains(&to) {
            return self.back();
        }
        let Some(target) = to.strip_prefix('#').and_then(|pointer| self.schema.pointer(pointer)) else {
            return self.back();
        };
        self.open.push(to);
        let size = self.size(target);
        self.open.pop();
        self.known.insert(to, size);
        size
    }

    fn back(&mut self) -> usize {
        self.recursive = true;
        1
    }
}

fn malformed(why: &str) -> Error {
    Error::invalid("malformed schema").detail(why.to_owned()).hint(
        "A JSON Schema document, of draft 2020-12 unless $schema says another; $ref reaches only the document itself.",
    )
}

/// Checks the size and the depth of a schema.
fn bounded(schema: &Value) -> Result<()> {
    let bytes = schema.to_string().len();
    if bytes > MAX_BYTES {
        return Err(Error::new(Code::TooLarge, "the schema is too large")
            .detail(format!("It has {bytes} bytes."))
            .hint(format!("At most {MAX_BYTES} bytes.")));
    }
    let mut level: Vec<&Value> = vec![schema];
    for _ in 0..MAX_DEPTH {
        level = level
            .into_iter()
            .flat_map(|value| match value {
                Value::Object(fields) => fields.values().collect(),
                Value::Array(items) => items.iter().collect(),
                _ => Vec::new(),
            })
            .collect();
        if level.is_empty() {
            return Ok(());
        }
    }
    Err(malformed(&format!("It is deeper than {MAX_DEPTH} levels.")))
}

fn canonical(schema: &Value) -> Result<CanonicalSchema> {
    jsonschema::canonical::options()
        .with_pattern_options(PatternOptions::regex())
        .offline()
        .canonicalize(schema)
        .map_err(|error| malformed(&error.to_string()))
}

/// Whether every value that `written` accepts is proven to be accepted by `reader`; otherwise why it is not.
fn reads(reader: &CanonicalSchema, written: &CanonicalSchema) -> std::result::Result<(), String> {
    match reader.covers(written) {
        Ok(Containment::Yes) => Ok(()),
        Ok(Containment::No) => Err(match written.subtract(reader) {
            Ok(refused) => format!("it refuses what fulfils {}", shortened(&refused.to_json_schema())),
            Err(_) => "it refuses some of it".to_owned(),
        }),
        Ok(Containment::Unknown) => Err("it could not be proved that it does".to_owned()),
        Err(error) => Err(format!("they cannot be compared ({error})")),
    }
}

/// Formats a schema for a message, without the name of its draft and in at most 300 characters.
fn shortened(schema: &Value) -> String {
    let mut schema = schema.clone();
    if let Value::Object(fields) = &mut schema {
        fields.remove("$schema");
    }
    let text = schema.to_string();
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text,
    }
}

/// Keywords that combine schemas for one value. An object in one of them may be completed by another one.
const COMBINING: [&str; 10] = [
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "dependentSchemas",
    "dependencies",
    "unevaluatedProperties",
    "$dynamicRef",
    "$recursiveRef",
];

/// Returns the schema of the data that a writer of this version produces: open objects have the declared properties only.
fn as_written(schema: &Value) -> Value {
    if combines(schema) { schema.clone() } else { closed(schema) }
}

fn combines(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(key, value)| {
            COMBINING.contains(&key.as_str())
                // Beside a reference, other keywords combine with what it refers to.
                || (key == "$ref" && fields.contains_key("properties"))
                || combines(value)
        }),
        Value::Array(items) => items.iter().any(combines),
        _ => false,
    }
}

/// Closes the objects of a schema, where it describes properties and says nothing about others.
fn closed(schema: &Value) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    let mut result = Map::new();
    for (key, value) in fields {
        let inner = match key.as_str() {
            // Their values are maps of names to schemas.
            "properties" | "patternProperties" | "$defs" | "definitions" => match value {
                Value::Object(named) => {
                    Value::Object(named.iter().map(|(name, schema)| (name.clone(), closed(schema))).collect())
                }
                other => other.clone(),
            },
            "items" | "prefixItems" | "additionalProperties" | "additionalItems" | "contains" => match value {
                Value::Array(schemas) => Value::Array(schemas.iter().map(closed).collect()),
                schema => closed(schema),
            },
            _ => value.clone(),
        };
        result.insert(key.clone(), inner);
    }
    if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
        result.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    Value::Object(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(properties: Value, required: &[&str]) -> Value {
        json!({"type": "object", "properties": properties, "required": required})
    }

    fn level(old: &Value, new: &Value) -> Compatibility {
        let comparison = compare(old, new).unwrap();
        assert_eq!(comparison.reasons.is_empty(), comparison.compatibility == Compatibility::Full);
        comparison.compatibility
    }

    #[test]
    fn changes_of_properties_have_the_level_that_registries_give_them() {
        let (a, b) = (json!({"type": "integer"}), json!({"type": "string"}));
        let one = object(json!({"a": a}), &["a"]);
        let optional = object(json!({"a": a, "b": b}), &["a"]);
        let required = object(json!({"a": a, "b": b}), &["a", "b"]);
        for (old, new, expected) in [
            (&one, &one, Compatibility::Full),
            // An optional property was added, and removed.
            (&one, &optional, Compatibility::Full),
            (&optional, &one, Compatibility::Full),
            // A required property was added: old data lacks it.
            (&one, &required, Compatibility::Forward),
            // A required property was removed: new data lacks it.
            (&required, &one, Compatibility::Backward),
            (&optional, &required, Compatibility::Forward),
            (&required, &optional, Compatibility::Backward),
        ] {
            assert_eq!(level(old, new), expected, "{old} -> {new}");
        }
    }

    #[test]
    fn changes_of_a_type_widen_narrow_or_break() {
        let of = |schema: Value| object(json!({"a": schema}), &["a"]);
        for (old, new, expected) in [
            (json!({"type": "integer"}), json!({"type": "number"}), Compatibility::Backward),
            (json!({"type": "number"}), json!({"type": "integer"}), Compatibility::Forward),
            (json!({"type": "integer"}), json!({"type": "string"}), Compatibility::Breaking),
            (json!({"enum": ["x"]}), json!({"enum": ["x", "y"]}), Compatibility::Backward),
            (
                json!({"maxLength": 9, "type": "string"}),
                json!({"maxLength": 5, "type": "string"}),
                Compatibility::Forward,
            ),
            (json!({"type": "string"}), json!({"type": "string", "description": "a name"}), Compatibility::Full),
            (json!({"type": "array", "items": {"type": "integer"}}), json!({"type": "array"}), Compatibility::Backward),
        ] {
            assert_eq!(level(&of(old.clone()), &of(new.clone())), expected, "{old} -> {new}");
        }
        // A rename removes a required property and adds one.
        let (old, new) = (json!({"a": {"type": "integer"}}), json!({"b": {"type": "integer"}}));
        assert_eq!(level(&object(old, &["a"]), &object(new, &["b"])), Compatibility::Breaking);
    }

    #[test]
    fn closed_objects_and_references_are_compared_as_they_are() {
        let closed =
            |properties: Value| json!({"type": "object", "properties": properties, "additionalProperties": false});
        let (one, two) = (closed(json!({"a": {}})), closed(json!({"a": {}, "b": {}})));
        assert_eq!(level(&one, &two), Compatibility::Backward);
        let referring = |kind: &str| {
            json!({"$defs": {"A": object(json!({"n": {"type": kind}}), &["n"])},
                "type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}})
        };
        assert_eq!(level(&referring("integer"), &referring("number")), Compatibility::Backward);
        let all = |extra: Value| json!({"allOf": [object(json!({"a": {"type": "integer"}}), &["a"]), extra]});
        assert_eq!(level(&all(json!({})), &all(json!({"required": ["b"]}))), Compatibility::Forward);
    }

    #[test]
    fn a_level_says_what_it_satisfies() {
        use Compatibility::{Backward, Breaking, Forward, Full};
        for (found, required, allowed) in [
            (Full, Backward, true),
            (Full, Full, true),
            (Backward, Full, false),
            (Backward, Forward, false),
            (Forward, Forward, true),
            (Breaking, Breaking, true),
            (Breaking, Backward, false),
        ] {
            assert_eq!(found.satisfies(required), allowed, "{found:?} for {required:?}");
            assert_eq!(Compatibility::from_name(found.as_str()), Some(found));
        }
    }

    #[test]
    fn data_is_validated_and_the_error_has_no_value_of_it() {
        let checker = Checker::new(&object(json!({"amount": {"type": "number", "minimum": 0}}), &["amount"])).unwrap();
        assert_eq!(checker.validate(&json!({"amount": 7, "note": "x"})), Ok(()));
        let error = checker.validate(&json!({"amount": "secret"})).unwrap_err();
        assert_eq!(error, "\"/amount\" does not fulfil \"/properties/amount/type\"");
        assert!(checker.validate(&json!({})).unwrap_err().contains("required"));
        // Large numbers are compared exactly.
        let exact = Checker::new(&json!({"maximum": 9007199254740992_u64})).unwrap();
        assert!(exact.validate(&json!(9007199254740993_u64)).is_err());
    }

    #[test]
    fn a_document_that_is_no_schema_is_refused() {
        let deep = (0..100).fold(json!(true), |inner, _| json!({"items": inner}));
        for wrong in [
            json!("x"),
            json!({"type": "colour"}),
            json!({"pattern": "("}),
            json!({"$ref": "https://example.com/schema.json"}),
            json!({"$ref": "#/$defs/missing"}),
            json!({"description": "x".repeat(MAX_BYTES)}),
            deep,
        ] {
            assert!(check(&wrong).is_err(), "{}", shortened(&wrong));
            assert!(compare(&json!(true), &wrong).is_err(), "{}", shortened(&wrong));
        }
    }

    #[test]
    fn a_schema_that_refers_to_itself_takes_no_exponential_time() {
        let list = json!({"type": "array", "items": {"$ref": "#"}});
        let tree = json!({"anyOf": [{"type": "integer"}, list, {"allOf": [list]}]});
        let deep = |leaf: Value| (0..100).fold(leaf, |inner, _| json!([inner]));
        let checker = Checker::new(&tree).unwrap();
        assert_eq!(checker.validate(&deep(json!(1))), Ok(()));
        assert!(checker.validate(&deep(json!("x"))).unwrap_err().contains("refers to itself"));
        let shared =
            json!({"$defs": {"a": {"type": "integer"}, "b": {"items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/b"});
        let error = Checker::new(&shared).unwrap().validate(&json!(["x"])).unwrap_err();
        assert!(error.starts_with("\"/0\" does not fulfil"), "{error}");
    }

    #[test]
    fn references_that_unfold_without_end_are_refused() {
        let doubling = |links: usize| {
            let mut defs = Map::new();
            for link in 0..links {
                let next = json!({"$ref": format!("#/$defs/a{}", link + 1)});
                defs.insert(format!("a{link}"), json!({"anyOf": [next, next]}));
            }
            defs.insert(format!("a{links}"), json!({"type": "integer"}));
            json!({"$ref": "#/$defs/a0", "$defs": defs})
        };
        let error = check(&doubling(40)).unwrap_err();
        assert_eq!(error.code, Code::InvalidParameter);
        assert!(Checker::new(&doubling(8)).unwrap().validate(&json!("x")).is_err());
    }

    #[test]
    fn a_schema_just_below_the_limit_is_compared() {
        let inner = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "description": "x".repeat(132)});
        let properties: Map<String, Value> = (0..300).map(|n| (format!("p{n}"), inner.clone())).collect();
        let schema = json!({"type": "object", "properties": properties});
        assert!((MAX_BYTES - 8000..MAX_BYTES).contains(&schema.to_string().len()), "{}", schema.to_string().len());
        check(&schema).unwrap();
        assert_eq!(compare(&schema, &schema).unwrap().compatibility, Compatibility::Full);
    }

    #[test]
    fn a_pattern_takes_linear_time() {
        let checker = Checker::new(&json!({"pattern": "^(a+)+$"})).unwrap();
        assert!(checker.validate(&json!("a".repeat(100_000) + "b")).is_err());
    }
}
