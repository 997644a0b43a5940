//! The filter of a subscription: conditions on messages in addition to its topics.
//!
//! A filter is a JSON object: `{"tenant": "acme", "key": ["order-*", "user-1"], "aggregate_type": "order",
//! "aggregate_id": "4*", "headers": {"severity": "critical"}, "payload": "$.amount > 100"}`. All conditions must hold. A
//! list of values holds if one of its values matches. Key, aggregate id and headers take globs (`*` stands for any run of
//! characters, `?` for one character). Tenant and aggregate type are compared exactly. `payload` is an SQL/JSON path
//! predicate, which PostgreSQL evaluates.

use serde_json::{Map, Value};

use crate::error::{Code, Error, Result};
use crate::wildcard;

/// The largest number of values in all fields of a filter.
pub const MAX_VALUES: usize = 1000;
/// The largest number of bytes of all values together, including the path and the names of headers.
pub const MAX_BYTES: usize = 64 * 1024;
/// The largest number of values with a wildcard. Matching such a value takes up to its length times the length of the
/// compared text in steps, so the number and the length of these values are limited.
pub const MAX_GLOBS: usize = 100;
/// The largest length of a value with a wildcard, in bytes.
pub const MAX_GLOB: usize = 255;

/// A parsed filter. The empty filter matches every message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    tenant: Vec<String>,
    key: Vec<Glob>,
    aggregate_type: Vec<String>,
    aggregate_id: Vec<Glob>,
    headers: Vec<(String, Vec<Glob>)>,
    /// The SQL/JSON path predicate. This crate does not check it.
    pub payload: Option<String>,
}

/// The fields of a message that a filter compares.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// The tenant.
    pub tenant: Option<&'a str>,
    /// The ordering key.
    pub key: Option<&'a str>,
    /// The aggregate type.
    pub aggregate_type: Option<&'a str>,
    /// The aggregate id.
    pub aggregate_id: Option<&'a str>,
    /// The headers, a flat JSON object of strings.
    pub headers: Option<&'a Map<String, Value>>,
}

/// The largest number of values, and of their bytes, by which a filter is in an index. A subscription may have a thousand
/// patterns, and each of them has the values in an index of its own.
const MAX_INDEXED: (usize, usize) = (16, 1024);

/// A condition that a message cannot match without: one of its fields has one of these values.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Required<'a> {
    Tenant(&'a [String]),
    Key(&'a [Glob]),
    AggregateType(&'a [String]),
    AggregateId(&'a [Glob]),
    /// The name of the header, and its values.
    Header(&'a str, &'a [Glob]),
}

impl Filter {
    /// Returns a condition by which an index finds the filter, if a condition has few values and no wildcard. The fields that
    /// have the most different values come first.
    pub(crate) fn required(&self) -> Option<Required<'_>> {
        let exact = |globs: &[Glob]| globs.iter().all(|glob| glob.pieces.is_none()) && few(globs, |glob| &glob.text);
        let named = |strings: &[String]| few(strings, |string| string);
        if exact(&self.key) {
            return Some(Required::Key(&self.key));
        }
        if exact(&self.aggregate_id) {
            return Some(Required::AggregateId(&self.aggregate_id));
        }
        if named(&self.tenant) {
            return Some(Required::Tenant(&self.tenant));
        }
        if let Some((name, values)) =
            self.headers.iter().find(|(name, values)| name.len() <= MAX_INDEXED.1 && exact(values))
        {
            return Some(Required::Header(name, values));
        }
        named(&self.aggregate_type).then_some(Required::AggregateType(&self.aggregate_type))
    }

    /// Parses a filter.
    ///
    /// # Errors
    /// 22023 that names the field; 54000 if the filter is too large to be evaluated for each message.
    pub fn parse(json: &Value) -> Result<Filter> {
        let refuse = |what: String| {
            Error::invalid(format!("invalid filter: {what}")).hint(
                "A filter is an object with any of tenant, key, aggregate_type, aggregate_id, headers and payload.",
            )
        };
        let Value::Object(fields) = json else {
            return Err(refuse("it is not a JSON object".to_owned()));
        };
        let mut filter = Filter::default();
        for (field, value) in fields {
            match field.as_str() {
                "tenant" => filter.tenant = strings(field, value).map_err(refuse)?,
                "key" => filter.key = globs(field, value).map_err(refuse)?,
                "aggregate_type" => filter.aggregate_type = strings(field, value).map_err(refuse)?,
                "aggregate_id" => filter.aggregate_id = globs(field, value).map_err(refuse)?,
                "headers" => {
                    let Value::Object(headers) = value else {
                        return Err(refuse("\"headers\" is not an object of header names to values".to_owned()));
                    };
                    for (name, wanted) in headers {
                        filter.headers.push((name.clone(), globs(name, wanted).map_err(refuse)?));
                    }
                }
                "payload" => match value {
                    Value::String(path) if !path.trim().is_empty() => filter.payload = Some(path.clone()),
                    _ => return Err(refuse("\"payload\" is not an SQL/JSON path".to_owned())),
                },
                _ => return Err(refuse(format!("unknown field \"{field}\""))),
            }
        }
        filter.bounded()
    }

    /// Returns the filter if it is within the limits.
    fn bounded(self) -> Result<Filter> {
        let refuse = |detail: String| {
            Error::new(Code::TooLarge, "the filter is too large")
                .detail(detail)
                .hint("A wildcard may say the same, or a header that the publisher sets.")
        };
        let globs = || [&self.key, &self.aggregate_id].into_iter().chain(self.headers.iter().map(|(_, w)| w)).flatten();
        let exact = || self.tenant.iter().chain(&self.aggregate_type);
        let values = exact().count() + globs().count() + self.headers.len();
        if values > MAX_VALUES {
            return Err(refuse(format!("It has {values} values; the limit is {MAX_VALUES}.")));
        }
        let bytes = exact().map(String::len).sum::<usize>()
            + globs().map(|glob| glob.text.len()).sum::<usize>()
            + self.headers.iter().map(|(name, _)| name.len()).sum::<usize>()
            + self.payload.as_ref().map_or(0, String::len);
        if bytes > MAX_BYTES {
            return Err(refuse(format!("It has {bytes} bytes; the limit is {MAX_BYTES}.")));
        }
        let wild = || globs().filter(|glob| glob.pieces.is_some());
        if wild().count() > MAX_GLOBS {
            return Err(refuse(format!("It has {} values with a wildcard; the limit is {MAX_GLOBS}.", wild().count())));
        }
        if let Some(long) = wild().map(|glob| glob.text.len()).find(|length| *length > MAX_GLOB) {
            return Err(refuse(format!("A value with a wildcard has {long} bytes; the limit is {MAX_GLOB}.")));
        }
        Ok(self)
    }

    /// Returns whether all conditions except `payload` hold.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        exact(&self.tenant, subject.tenant)
            && glob_any(&self.key, subject.key)
            && exact(&self.aggregate_type, subject.aggregate_type)
            && glob_any(&self.aggregate_id, subject.aggregate_id)
            && self.headers.iter().all(|(name, wanted)| glob_any(wanted, header(subject.headers, name)))
    }
}

/// Whether there are values, and few enough for an index.
fn few<T>(values: &[T], text: impl Fn(&T) -> &str) -> bool {
    let (most, bytes) = MAX_INDEXED;
    (1..=most).contains(&values.len()) && values.iter().map(|value| text(value).len()).sum::<usize>() <= bytes
}

fn header<'a>(headers: Option<&'a Map<String, Value>>, name: &str) -> Option<&'a str> {
    headers?.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?.1.as_str()
}

fn strings(field: &str, value: &Value) -> std::result::Result<Vec<String>, String> {
    let list = match value {
        Value::String(one) => vec![one.clone()],
        Value::Array(many) => many
            .iter()
            .map(|one| {
                one.as_str().map(str::to_owned).ok_or_else(|| format!("\"{field}\" has an entry that is not a string"))
            })
            .collect::<std::result::Result<_, _>>()?,
        _ => return Err(format!("\"{field}\" is neither a string nor a list of strings")),
    };
    if list.is_empty() { Err(format!("\"{field}\" is an empty list, which nothing matches")) } else { Ok(list) }
}

fn globs(field: &str, value: &Value) -> std::result::Result<Vec<Glob>, String> {
    Ok(strings(field, value)?.into_iter().map(Glob::new).collect())
}

fn exact(wanted: &[String], value: Option<&str>) -> bool {
    wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|w| w == value))
}

fn glob_any(wanted: &[Glob], value: Option<&str>) -> bool {
    wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|glob| glob.matches(value)))
}

/// A value in which `*` stands for any run of characters and `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: String,
    /// The characters of the value. `None` if the value has no wildcard.
    pieces: Option<Vec<char>>,
}

impl Glob {
    /// Creates a glob from a value of a filter.
    pub fn new(text: String) -> Glob {
        let pieces = text.contains(['*', '?']).then(|| text.chars().collect());
        Glob { text, pieces }
    }

    /// Returns the text of the value.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Returns whether `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        let Some(pieces) = &self.pieces else { return self.text == text };
        let text: Vec<char> = text.chars().collect();
        wildcard::matches(pieces, &text, |piece| *piece == '*', |piece, c| *piece == '?' || piece == c)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn glob_reference(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|skip| glob_reference(rest, &text[skip..])),
            Some(('?', rest)) => !text.is_empty() && glob_reference(rest, &text[1..]),
            Some((c, rest)) => text.first() == Some(c) && glob_reference(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn glob_agrees_with_its_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            let (p, t): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
            prop_assert_eq!(Glob::new(pattern).matches(&text), glob_reference(&p, &t));
        }
    }

    #[test]
    fn all_conditions_must_hold() {
        let filter = Filter::parse(&json!({
            "tenant": "acme", "key": ["order-*", "user-1"], "headers": {"Severity": ["high", "critical"]}
        }))
        .unwrap();
        let headers = json!({"severity": "high"});
        let subject =
            Subject { tenant: Some("acme"), key: Some("order-77"), headers: headers.as_object(), ..Subject::default() };
        assert!(filter.matches(&subject));
        assert!(!filter.matches(&Subject { tenant: Some("other"), ..subject }));
        assert!(!filter.matches(&Subject { key: None, ..subject }));
        assert!(!filter.matches(&Subject { headers: None, ..subject }));
        assert!(Filter::default().matches(&Subject::default()));
    }

    #[test]
    fn names_the_field_that_is_wrong() {
        for (json, what) in [
            (json!([]), "it is not a JSON object"),
            (json!({"tenants": "a"}), "unknown field \"tenants\""),
            (json!({"key": 1}), "\"key\" is neither a string nor a list of strings"),
            (json!({"key": []}), "\"key\" is an empty list, which nothing matches"),
            (json!({"key": ["a", 2]}), "\"key\" has an entry that is not a string"),
            (json!({"headers": "x"}), "\"headers\" is not an object of header names to values"),
            (json!({"payload": ""}), "\"payload\" is not an SQL/JSON path"),
        ] {
            assert_eq!(Filter::parse(&json).unwrap_err().message, format!("invalid filter: {what}"));
        }
    }

    #[test]
    fn a_filter_is_bounded() {
        let parse = |json: Value| Filter::parse(&json).map(|_| ()).map_err(|error| error.code);
        let list = |n: usize, value: &str| json!({"tenant": vec![value; n]});
        assert_eq!(parse(list(1000, "acme")), Ok(()));
        assert_eq!(parse(list(1001, "acme")), Err(Code::TooLarge));
        assert_eq!(parse(list(100, &"x".repeat(700))), Err(Code::TooLarge));
        assert_eq!(parse(json!({"payload": "1".repeat(70_000)})), Err(Code::TooLarge));
        assert_eq!(parse(json!({"headers": {"x": "x".repeat(8192)}})), Ok(()));
        assert_eq!(parse(json!({"headers": {"x": "x".repeat(255) + "*"}})), Err(Code::TooLarge));
        assert_eq!(parse(json!({"key": vec!["a*"; 101]})), Err(Code::TooLarge));
    }
}
