//! What a subscription asks for beyond its topics.
//!
//! As JSON: `{"tenant": "acme", "key": ["order-*", "user-1"], "aggregate_type": "order", "aggregate_id": "4*",
//! "headers": {"severity": "critical"}, "payload": "$.amount > 100"}`. All conditions must hold; of a list one must.
//! Key, aggregate id and headers take globs (`*` any run of characters, `?` one), tenant and aggregate type are exact.
//! `payload` is an SQL/JSON path predicate, which PostgreSQL evaluates.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A parsed filter. The empty one lets everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    tenant: Vec<String>,
    key: Vec<String>,
    aggregate_type: Vec<String>,
    aggregate_id: Vec<String>,
    headers: Vec<(String, Vec<String>)>,
    /// The SQL/JSON path predicate, not checked here.
    pub payload: Option<String>,
}

/// What a filter looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    /// Tenant of the message.
    pub tenant: Option<&'a str>,
    /// Its key.
    pub key: Option<&'a str>,
    /// Its aggregate type.
    pub aggregate_type: Option<&'a str>,
    /// Its aggregate id.
    pub aggregate_id: Option<&'a str>,
    /// Its headers, a flat JSON object of strings.
    pub headers: Option<&'a Map<String, Value>>,
}

impl Filter {
    /// Parses a filter.
    ///
    /// # Errors
    /// 22023 that names the field.
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
                "key" => filter.key = strings(field, value).map_err(refuse)?,
                "aggregate_type" => filter.aggregate_type = strings(field, value).map_err(refuse)?,
                "aggregate_id" => filter.aggregate_id = strings(field, value).map_err(refuse)?,
                "headers" => {
                    let Value::Object(headers) = value else {
                        return Err(refuse("\"headers\" is not an object of header names to values".to_owned()));
                    };
                    for (name, wanted) in headers {
                        filter.headers.push((name.clone(), strings(name, wanted).map_err(refuse)?));
                    }
                }
                "payload" => match value {
                    Value::String(path) if !path.trim().is_empty() => filter.payload = Some(path.clone()),
                    _ => return Err(refuse("\"payload\" is not an SQL/JSON path".to_owned())),
                },
                _ => return Err(refuse(format!("unknown field \"{field}\""))),
            }
        }
        Ok(filter)
    }

    /// Whether everything but `payload` holds.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        exact(&self.tenant, subject.tenant)
            && glob_any(&self.key, subject.key)
            && exact(&self.aggregate_type, subject.aggregate_type)
            && glob_any(&self.aggregate_id, subject.aggregate_id)
            && self.headers.iter().all(|(name, wanted)| glob_any(wanted, header(subject.headers, name)))
    }
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

fn exact(wanted: &[String], value: Option<&str>) -> bool {
    wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|w| w == value))
}

fn glob_any(wanted: &[String], value: Option<&str>) -> bool {
    wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|pattern| glob(pattern, value)))
}

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters and `?` for one.
///
/// Linear for each `*`: only the last one is ever gone back to.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
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
            prop_assert_eq!(glob(&pattern, &text), glob_reference(&p, &t));
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
}
