//! Calls any function of the schema by its name, with named arguments as JSON and rows as JSON. The typed methods of all
//! clients use this module.
//!
//! Arguments are sent as text, in the form of the type that the catalogue has for them. One function can therefore make
//! calls of every signature. No statement has a name, because behind a pooler the next statement may run in another
//! session, where the name is unknown or belongs to another client.

use std::collections::HashMap;

use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_postgres::types::{Format, IsNull, Kind, ToSql, Type, to_sql_checked};
use tokio_postgres::{GenericClient, Row};

use crate::error::{Error, Result};

/// A JSON value as an argument of the type that the server expects.
///
/// An argument of type `json` or `jsonb` takes any value. An array takes an array, an `interval` a number of seconds, and a
/// `bytea` base64. All other types take PostgreSQL's own text form.
#[derive(Debug)]
pub struct Argument<'a>(pub &'a Value);

type Failure = Box<dyn std::error::Error + Sync + Send>;

impl ToSql for Argument<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> std::result::Result<IsNull, Failure> {
        Ok(match text_of(self.0, ty)? {
            Some(text) => {
                out.extend_from_slice(text.as_bytes());
                IsNull::No
            }
            None => IsNull::Yes,
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

fn text_of(value: &Value, ty: &Type) -> std::result::Result<Option<String>, Failure> {
    if value.is_null() {
        return Ok(None);
    }
    let json = *ty == Type::JSON || *ty == Type::JSONB;
    if json || (*ty == Type::UNKNOWN && !value.is_string()) {
        return Ok(Some(value.to_string()));
    }
    if let Kind::Array(element) = ty.kind() {
        let Value::Array(items) = value else { return Err(format!("expected a list, found {value}").into()) };
        let mut text = String::from("{");
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            // In an array of JSON, null is a JSON value and not an SQL null.
            let json = *element == Type::JSON || *element == Type::JSONB;
            match if json { Some(item.to_string()) } else { text_of(item, element)? } {
                None => text.push_str("NULL"),
                Some(item) => {
                    text.push('"');
                    for c in item.chars() {
                        if c == '"' || c == '\\' {
                            text.push('\\');
                        }
                        text.push(c);
                    }
                    text.push('"');
                }
            }
        }
        text.push('}');
        return Ok(Some(text));
    }
    Ok(Some(match value {
        Value::Number(seconds) if *ty == Type::INTERVAL => format!("{seconds} seconds"),
        Value::String(text) if *ty == Type::BYTEA => {
            use base64::Engine as _;
            let bytes = base64::engine::general_purpose::STANDARD.decode(text)?;
            format!("\\x{}", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>())
        }
        Value::String(text) if text.contains('\0') => return Err("text must not contain a NUL character".into()),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) | Value::Null => {
            return Err(format!("a value of type {ty} cannot be {value}").into());
        }
    }))
}

/// Returns whether a text can be used as a name in a statement.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// Returns the arguments that are given. A null argument counts as an argument that was not given.
fn named_arguments(args: Value) -> Result<Vec<(String, Value)>> {
    Ok(named(args)?.into_iter().filter(|(_, value)| !value.is_null()).collect())
}

fn named(args: Value) -> Result<Vec<(String, Value)>> {
    match args {
        Value::Null => Ok(Vec::new()),
        Value::Object(map) => match map.iter().find(|(name, _)| !is_name(name)) {
            Some((name, _)) => Err(Error::invalid(format!("malformed argument name \"{name}\""))),
            None => Ok(map.into_iter().collect()),
        },
        other => Err(Error::invalid("arguments are not an object").detail(other.to_string())),
    }
}

/// Calls `outbox.<function>` with named arguments (an object, in which `null` arguments are left out) and returns its
/// rows. A row is an object for a table function, else the value. Intervals named in `intervals` are returned in seconds.
///
/// # Errors
/// Those of the function; 42883 (kind fatal) if no function has this name and these arguments.
pub async fn call(
    client: &impl GenericClient,
    function: &str,
    args: impl Serialize,
    intervals: &[&str],
) -> Result<Vec<Value>> {
    if !is_name(function) {
        return Err(Error::invalid(format!("malformed function name \"{function}\"")));
    }
    let args = named_arguments(serde_json::to_value(args)?)?;
    let list: Vec<String> = args.iter().enumerate().map(|(i, (name, _))| format!("\"{name}\" => ${}", i + 1)).collect();
    let sql = format!("select {} from outbox.{function}({}) r", row_form(intervals)?, list.join(", "));
    rows(client, &sql, &args, ARGUMENTS, function).await
}

/// Does the same as [`call()`] for a function that returns a table, and returns columns of its rows. `columns` is SQL; a row is `r`.
///
/// # Errors
/// Those of the function.
pub async fn call_columns(
    client: &impl GenericClient,
    function: &str,
    args: impl Serialize,
    columns: &str,
) -> Result<Vec<Row>> {
    if !is_name(function) {
        return Err(Error::invalid(format!("malformed function name \"{function}\"")));
    }
    let args = named_arguments(serde_json::to_value(args)?)?;
    let list: Vec<String> = args.iter().enumerate().map(|(i, (name, _))| format!("\"{name}\" => ${}", i + 1)).collect();
    let sql = format!("select {columns} from outbox.{function}({}) r", list.join(", "));
    fetched(client, &sql, &args, ARGUMENTS, function).await
}

/// Calls a function that returns nothing.
///
/// # Errors
/// Those of the function.
pub async fn call_void(client: &impl GenericClient, function: &str, args: impl Serialize) -> Result<()> {
    if !is_name(function) {
        return Err(Error::invalid(format!("malformed function name \"{function}\"")));
    }
    let args = named_arguments(serde_json::to_value(args)?)?;
    let list: Vec<String> = args.iter().enumerate().map(|(i, (name, _))| format!("\"{name}\" => ${}", i + 1)).collect();
    let sql = format!("select null::jsonb from outbox.{function}({}) r", list.join(", "));
    rows(client, &sql, &args, ARGUMENTS, function).await.map(|_| ())
}

/// Returns rows of a table or view of the schema whose columns equal the values in `filter`, where null is equal to null. The
/// rows are sorted by their columns, the first column first.
///
/// # Errors
/// 22023 for malformed names; the errors of PostgreSQL.
pub async fn table(
    client: &impl GenericClient,
    name: &str,
    filter: impl Serialize,
    limit: i64,
    intervals: &[&str],
) -> Result<Vec<Value>> {
    if !is_name(name) {
        return Err(Error::invalid(format!("malformed table name \"{name}\"")));
    }
    let (null, filter): (Vec<_>, Vec<_>) =
        named(serde_json::to_value(filter)?)?.into_iter().partition(|(_, value)| value.is_null());
    let equal = filter.iter().enumerate().map(|(i, (column, _))| format!("r.\"{column}\" = ${}", i + 1));
    let conditions: Vec<String> =
        equal.chain(null.iter().map(|(column, _)| format!("r.\"{column}\" is null"))).collect();
    let mut sql = format!("select {} from outbox.{name} r", row_form(intervals)?);
    if !conditions.is_empty() {
        sql.push_str(&format!(" where {}", conditions.join(" and ")));
    }
    sql.push_str(&format!(" order by r limit {}", limit.max(0)));
    rows(client, &sql, &filter, COLUMNS, name).await
}

fn row_form(intervals: &[&str]) -> Result<String> {
    if let Some(name) = intervals.iter().find(|name| !is_name(name)) {
        return Err(Error::invalid(format!("malformed column name \"{name}\"")));
    }
    if intervals.is_empty() {
        return Ok("to_jsonb(r)".to_owned());
    }
    let seconds: Vec<String> =
        intervals.iter().map(|name| format!("'{name}', extract(epoch from r.\"{name}\")")).collect();
    Ok(format!("to_jsonb(r) || jsonb_build_object({})", seconds.join(", ")))
}

/// The query for the names and types of a function's arguments.
const ARGUMENTS: &str = "select a.name, a.type
    from pg_catalog.pg_proc p,
        unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]), p.proargnames, p.proargmodes) a(type, name, mode)
    where p.pronamespace = 'outbox'::regnamespace and p.proname = $1 and coalesce(a.mode, 'i') in ('i', 'b', 'v')";

/// The query for the names and types of a table's columns.
const COLUMNS: &str = "select a.attname::text, a.atttypid
    from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid
    where c.relnamespace = 'outbox'::regnamespace and c.relname = $1 and a.attnum > 0";

async fn rows(
    client: &impl GenericClient,
    sql: &str,
    args: &[(String, Value)],
    types: &str,
    of: &str,
) -> Result<Vec<Value>> {
    let rows = fetched(client, sql, args, types, of).await?;
    rows.iter().map(|row| Ok(row.try_get::<_, Option<Value>>(0)?.unwrap_or(Value::Null))).collect()
}

async fn fetched(
    client: &impl GenericClient,
    sql: &str,
    args: &[(String, Value)],
    types: &str,
    of: &str,
) -> Result<Vec<Row>> {
    let known = if args.is_empty() { Vec::new() } else { client.query_typed(types, &[(&of, Type::TEXT)]).await? };
    let known: HashMap<&str, u32> =
        known.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_>>()?;
    // Arguments that the catalogue does not know are sent too, so that the server refuses them.
    let type_of = |name: &str| known.get(name).and_then(|oid| Type::from_oid(*oid)).unwrap_or(Type::UNKNOWN);
    let values: Vec<(Argument<'_>, Type)> = args.iter().map(|(name, value)| (Argument(value), type_of(name))).collect();
    let params: Vec<(&(dyn ToSql + Sync), Type)> = values.iter().map(|(value, ty)| (value as _, ty.clone())).collect();
    Ok(client.query_typed(sql, &params).await?)
}

/// Converts rows to `T`.
pub(crate) fn typed<T: DeserializeOwned>(rows: Vec<Value>) -> Result<Vec<T>> {
    rows.into_iter().map(one_typed).collect()
}

/// Converts a value to `T`.
pub(crate) fn one_typed<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| {
        Error::new("42883", "the server's answer does not have the expected form")
            .detail(error.to_string())
            .hint("The extension in this database is older or newer than this client.")
    })
}

/// Converts the first row, or null if there is none, to `T`.
pub(crate) fn single<T: DeserializeOwned>(rows: Vec<Value>) -> Result<T> {
    one_typed(rows.into_iter().next().unwrap_or(Value::Null))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_for_their_type() {
        for (value, ty, text) in [
            (json!("a\"b"), Type::JSONB, "\"a\\\"b\""),
            (json!("plain"), Type::TEXT, "plain"),
            (json!(["a", "b,c", "d\"e\\", null]), Type::TEXT_ARRAY, r#"{"a","b,c","d\"e\\",NULL}"#),
            (json!([{"a": 1}, null]), Type::JSONB_ARRAY, r#"{"{\"a\":1}","null"}"#),
            (json!(1.5), Type::INTERVAL, "1.5 seconds"),
            (json!("1 day"), Type::INTERVAL, "1 day"),
            (json!("AP8="), Type::BYTEA, "\\x00ff"),
            (json!(7), Type::INT8, "7"),
            (json!(true), Type::BOOL, "true"),
        ] {
            assert_eq!(text_of(&value, &ty).unwrap().as_deref(), Some(text), "{ty}");
        }
        assert!(text_of(&json!({"a": 1}), &Type::TEXT).is_err());
        assert!(text_of(&json!("a"), &Type::TEXT_ARRAY).is_err());
        assert!(text_of(&json!("a\0b"), &Type::TEXT).is_err());
    }

    #[test]
    fn names_are_names() {
        assert!(is_name("create_endpoint") && is_name("_x1"));
        for wrong in ["", "a b", "a\"", "A", "1a", "a;drop", "a.b"] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }
}
