//! The rows of a read model in memory, for tests. It keeps to the semantics of SQL where a test would notice the difference: nulls,
//! their order, and columns that do not exist.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::de::value::Error as Refused;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde_json::{Map, Number, Value};

use super::{Comparison, Query, Test, check_changes, check_row, key_parts, no_container, unknown_column};
use crate::error::Result;

type Row = Map<String, Value>;

static NULL: Value = Value::Null;

pub(super) struct Memory {
    key: Vec<String>,
    /// The fields of the type of the rows, if it is a struct.
    fields: Option<&'static [&'static str]>,
    rows: Mutex<Vec<Row>>,
}

impl Memory {
    pub(super) fn new<T: DeserializeOwned>(key: &[&str]) -> Memory {
        let mut fields = None;
        // It always fails, and has told the fields then.
        let _ = T::deserialize(Fields(&mut fields));
        Memory { key: key.iter().map(|name| (*name).to_owned()).collect(), fields, rows: Mutex::default() }
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses columns that neither the type nor a row has.
    fn check<'n>(&self, rows: &[Row], names: impl IntoIterator<Item = &'n str>) -> Result<()> {
        let mut known: BTreeSet<&str> = self.key.iter().map(String::as_str).collect();
        known.extend(self.fields.unwrap_or_default());
        known.extend(rows.iter().flat_map(|row| row.keys().map(String::as_str)));
        let is_open = self.fields.is_none() && rows.is_empty();
        match names.into_iter().find(|name| !is_open && !known.contains(name)) {
            Some(name) => Err(unknown_column(name, &known.into_iter().collect::<Vec<_>>())),
            None => Ok(()),
        }
    }

    fn find_key(&self, rows: &[Row], key: &Value) -> Result<Option<usize>> {
        let parts = key_parts(key, self.key.len())?;
        Ok(rows.iter().position(|row| self.has_key(row, &parts)))
    }

    fn has_key(&self, row: &Row, parts: &[Value]) -> bool {
        self.key.iter().zip(parts).all(|(name, part)| compare(at(row, name), part) == Some(Ordering::Equal))
    }

    pub(super) fn get(&self, key: &Value) -> Result<Option<String>> {
        let rows = self.rows();
        Ok(self.find_key(&rows, key)?.map(|n| text(&rows[n])))
    }

    pub(super) fn get_many(&self, keys: &[Value]) -> Result<Vec<String>> {
        let rows = self.rows();
        let found = keys.iter().map(|key| self.find_key(&rows, key)).collect::<Result<Vec<_>>>()?;
        Ok(found.into_iter().flatten().map(|n| text(&rows[n])).collect())
    }

    pub(super) fn find(&self, query: &Query) -> Result<Vec<String>> {
        let (limit, offset) = query.bounds()?;
        let rows = self.rows();
        let mut found = self.matching(&rows, query)?;
        found.sort_by(|a, b| {
            let (a, b) = (&rows[*a], &rows[*b]);
            let named = query.order.iter().map(|(name, descends)| {
                let order = nulls_last(at(a, name), at(b, name));
                if *descends { order.reverse() } else { order }
            });
            let keyed = self.key.iter().map(|name| nulls_last(at(a, name), at(b, name)));
            named.chain(keyed).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        });
        Ok(found.into_iter().skip(offset).take(limit + 1).map(|n| text(&rows[n])).collect())
    }

    pub(super) fn count(&self, query: &Query) -> Result<u64> {
        Ok(self.matching(&self.rows(), query)?.len() as u64)
    }

    pub(super) fn write(&self, row: Row, replaces: bool) -> Result<bool> {
        let mut rows = self.rows();
        if let Some(fields) = self.fields
            && let Some(name) = row.keys().find(|name| !fields.contains(&name.as_str()) && !self.key.contains(name))
        {
            return Err(unknown_column(name, fields));
        }
        check_row(&row, &self.key)?;
        let parts: Vec<Value> = self.key.iter().map(|name| at(&row, name).clone()).collect();
        match rows.iter().position(|known| self.has_key(known, &parts)) {
            None => rows.push(row),
            Some(_) if !replaces => return Ok(false),
            Some(n) => rows[n].extend(row),
        }
        Ok(true)
    }

    pub(super) fn update(&self, key: &Value, values: Row) -> Result<bool> {
        let mut rows = self.rows();
        self.check(&rows, values.keys().map(String::as_str))?;
        check_changes(&values, &self.key)?;
        let found = self.find_key(&rows, key)?;
        if let Some(n) = found {
            rows[n].extend(values);
        }
        Ok(found.is_some())
    }

    pub(super) fn delete(&self, key: &Value) -> Result<bool> {
        let mut rows = self.rows();
        let found = self.find_key(&rows, key)?;
        if let Some(n) = found {
            rows.remove(n);
        }
        Ok(found.is_some())
    }

    pub(super) fn delete_many(&self, query: &Query) -> Result<u64> {
        let mut rows = self.rows();
        let found = self.matching(&rows, query)?;
        for n in found.iter().rev() {
            rows.remove(*n);
        }
        Ok(found.len() as u64)
    }

    /// Returns the places of the rows for which the conditions hold, in order.
    fn matching(&self, rows: &[Row], query: &Query) -> Result<Vec<usize>> {
        self.check(rows, query.columns())?;
        let mut found = Vec::new();
        for (n, row) in rows.iter().enumerate() {
            let mut holds = true;
            for condition in &query.conditions {
                holds = holds && self::holds(&condition.column, at(row, &condition.column), &condition.test)?;
            }
            if holds {
                found.push(n);
            }
        }
        Ok(found)
    }
}

fn at<'r>(row: &'r Row, name: &str) -> &'r Value {
    row.get(name).unwrap_or(&NULL)
}

fn text(row: &Row) -> String {
    Value::Object(row.clone()).to_string()
}

fn holds(column: &str, value: &Value, test: &Test) -> Result<bool> {
    let is = |other: &Value, wanted: fn(Ordering) -> bool| compare(value, other).is_some_and(wanted);
    Ok(match test {
        Test::Null { is_null } => value.is_null() == *is_null,
        Test::Compare(Comparison::Equal, Value::Null) => value.is_null(),
        Test::Compare(Comparison::NotEqual, Value::Null) => !value.is_null(),
        Test::Compare(comparison, other) => match comparison {
            Comparison::Equal => is(other, Ordering::is_eq),
            Comparison::NotEqual => is(other, Ordering::is_ne),
            Comparison::Above => is(other, Ordering::is_gt),
            Comparison::AtLeast => is(other, Ordering::is_ge),
            Comparison::Below => is(other, Ordering::is_lt),
            Comparison::AtMost => is(other, Ordering::is_le),
        },
        Test::Among { values, is_in: true } => values.iter().any(|other| is(other, Ordering::is_eq)),
        Test::Among { values, is_in: false } => {
            values.is_empty()
                || !value.is_null() && !values.iter().any(|other| other.is_null() || is(other, Ordering::is_eq))
        }
        Test::Like(pattern) => match value {
            Value::String(text) => like(text, pattern),
            Value::Number(_) | Value::Bool(_) => like(&value.to_string(), pattern),
            _ => false,
        },
        Test::Contains(part) => match (value, part) {
            (Value::Null, _) => false,
            (Value::Object(_), Value::Object(_)) | (Value::Array(_), Value::Array(_)) => contains(value, part),
            (Value::Array(items), part) => items.iter().any(|item| contains(item, part)),
            (Value::Object(_), _) => false,
            _ => return Err(no_container(column)),
        },
        Test::Between(least, most) => is(least, Ordering::is_ge) && is(most, Ordering::is_le),
    })
}

/// Returns whether a value contains another one, as `@>` does.
fn contains(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::Object(value), Value::Object(part)) => {
            part.iter().all(|(name, part)| value.get(name).is_some_and(|value| contains(value, part)))
        }
        (Value::Array(value), Value::Array(part)) => {
            part.iter().all(|part| value.iter().any(|one| contains(one, part)))
        }
        // Null is in a JSON array, but not in an array of SQL, which rows of the two do not tell apart.
        (value, part) => value == part || compare(value, part) == Some(Ordering::Equal),
    }
}

fn integer(number: &Number) -> Option<i128> {
    number.to_string().parse().ok()
}

/// Compares two values of a column. Returns `None` if one is null, or they are of different types.
fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (integer(a), integer(b)) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Array(x), Value::Array(y)) => {
            let parts = x.iter().zip(y).map(|(a, b)| nulls_last(a, b)).find(|order| order.is_ne());
            Some(parts.unwrap_or_else(|| x.len().cmp(&y.len())))
        }
        (Value::Object(_), Value::Object(_)) => {
            Some(if a == b { Ordering::Equal } else { a.to_string().cmp(&b.to_string()) })
        }
        _ => None,
    }
}

fn nulls_last(a: &Value, b: &Value) -> Ordering {
    compare(a, b).unwrap_or_else(|| a.is_null().cmp(&b.is_null()))
}

/// Returns whether a text has the form of a pattern of SQL.
fn like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    // Whether the text up to each place has the form of the pattern so far.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut parts = pattern.into_iter();
    while let Some(part) = parts.next() {
        let mut next = vec![false; text.len() + 1];
        if part == '%' {
            for n in 0..=text.len() {
                next[n] = reached[n] || n > 0 && next[n - 1];
            }
        } else {
            let literal = if part == '\\' { parts.next() } else { (part != '_').then_some(part) };
            for n in 0..text.len() {
                next[n + 1] = reached[n] && literal.is_none_or(|literal| literal == text[n]);
            }
        }
        reached = next;
    }
    reached[text.len()]
}

/// Asks a type for the names of its fields.
struct Fields<'f>(&'f mut Option<&'static [&'static str]>);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> std::result::Result<V::Value, Refused> {
        Err(Refused::custom("only names are asked for"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> std::result::Result<V::Value, Refused> {
        *self.0 = Some(fields);
        Err(Refused::custom("only names are asked for"))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_are_those_of_sql() {
        for (text, pattern, expected) in [
            ("abc", "a%", true),
            ("abc", "%c", true),
            ("abc", "a_c", true),
            ("abc", "a_", false),
            ("", "%", true),
            ("", "_", false),
            ("a%c", "a\\%c", true),
            ("abc", "a\\%c", false),
            ("a\nc", "a%c", true),
            ("äöü", "ä_ü", true),
            ("a".repeat(2000).as_str(), "%a".repeat(500).as_str(), true),
        ] {
            assert_eq!(like(text, pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn numbers_are_compared_by_value() {
        let order = |a: Value, b: Value| compare(&a, &b);
        assert_eq!(order(json!(10), json!(9)), Some(Ordering::Greater));
        assert_eq!(order(json!(i64::MAX), json!(i64::MAX - 1)), Some(Ordering::Greater));
        assert_eq!(order(json!(1), json!(1.0)), Some(Ordering::Equal));
        assert_eq!(order(json!(null), json!(null)), None);
        assert_eq!(order(json!("1"), json!(1)), None);
        assert_eq!(order(json!([1, 2]), json!([1])), Some(Ordering::Greater));
    }
}
