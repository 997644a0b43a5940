//! The rows of a table of a database.
//!
//! `json_populate_record` of the server makes columns of JSON. Conditions have casts to the types of the columns, so that the server
//! plans them as if they were written by hand.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Comparison, Condition, Query, Test, check_changes, check_row, key_parts, no_container, unknown_column};
use crate::driver::{Executor as _, Statement, text};
use crate::error::{Error, Result};
use crate::events::connection::Connection;
use crate::events::store::one;
use crate::message::Param;

/// The columns and the key of a table. The type of a column has no modifier, because a cast to varchar(3) would cut a value.
const DESCRIBE: &str = "select json_build_object(
    'columns', (select json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, -1),
            'form', case when t.typcategory = 'A' then 'array' when t.typname in ('json', 'jsonb') then t.typname else 'scalar' end)
            order by a.attnum)
        from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
    'key', (select json_agg(a.attname order by k.n)
        from pg_catalog.pg_index i cross join unnest(i.indkey::int2[]) with ordinality k(attnum, n)
            join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
        where i.indrelid = c.oid and i.indisprimary and k.n <= i.indnkeyatts))::text as r
    from pg_catalog.pg_class c where c.oid = to_regclass($1)";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    Scalar,
    Array,
    Json,
    Jsonb,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
    r#type: String,
    form: Form,
}

impl Column {
    /// Returns the column of a row, and the type that it is compared as. Type json has no comparison.
    fn place(&self) -> (String, &str) {
        match self.form {
            Form::Json => (format!("_row.{}::jsonb", quoted(&self.name)), "jsonb"),
            _ => (format!("_row.{}", quoted(&self.name)), &self.r#type),
        }
    }

    /// Returns a value as the text of its type.
    fn text_of(&self, value: &Value) -> Result<Option<Param>> {
        Ok(match (value, self.form) {
            (Value::Null, _) => None,
            (value, Form::Json | Form::Jsonb) => text(value),
            (Value::String(value), _) => text(value),
            (Value::Array(items), Form::Array) => text(array(items)),
            (Value::Number(_) | Value::Bool(_), _) => text(value),
            _ => return Err(Error::invalid(format!("column \"{}\" has no such values", self.name))),
        })
    }
}

#[derive(Debug, Deserialize)]
struct Shape {
    columns: Vec<Column>,
    key: Option<Vec<String>>,
}

impl Shape {
    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    fn at(&self, name: &str) -> Result<&Column> {
        self.column(name).ok_or_else(|| {
            let columns: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
            unknown_column(name, &columns)
        })
    }

    fn key(&self) -> &[String] {
        self.key.as_deref().unwrap_or_default()
    }
}

/// A statement that grows.
#[derive(Default)]
struct Sql {
    text: String,
    params: Vec<Option<Param>>,
}

impl Sql {
    fn param(&mut self, param: Option<Param>, type_name: &str) -> String {
        self.params.push(param);
        format!("${}::{type_name}", self.params.len())
    }

    fn value(&mut self, column: &Column, value: &Value) -> Result<String> {
        let (_, type_name) = column.place();
        Ok(self.param(column.text_of(value)?, type_name))
    }

    fn filter(&mut self, shape: &Shape, conditions: &[Condition]) -> Result<()> {
        for (n, Condition { column, test }) in conditions.iter().enumerate() {
            self.text.push_str(if n == 0 { " where " } else { " and " });
            let condition = self.condition(shape.at(column)?, test)?;
            self.text.push_str(&condition);
        }
        Ok(())
    }

    fn condition(&mut self, column: &Column, test: &Test) -> Result<String> {
        let (place, type_name) = column.place();
        Ok(match test {
            Test::Null { is_null: true } | Test::Compare(Comparison::Equal, Value::Null) => format!("{place} is null"),
            Test::Null { is_null: false } | Test::Compare(Comparison::NotEqual, Value::Null) => {
                format!("{place} is not null")
            }
            Test::Compare(comparison, value) => {
                let operator = match comparison {
                    Comparison::Equal => "=",
                    Comparison::NotEqual => "<>",
                    Comparison::Above => ">",
                    Comparison::AtLeast => ">=",
                    Comparison::Below => "<",
                    Comparison::AtMost => "<=",
                };
                format!("{place} {operator} {}", self.value(column, value)?)
            }
            Test::Among { values, is_in } => {
                if column.form == Form::Array {
                    return Err(Error::invalid(format!("column \"{}\" is an array", column.name))
                        .hint("contains() looks for values in it."));
                }
                let texts = values.iter().map(|value| column.text_of(value)).collect::<Result<Vec<_>>>()?;
                let literal = literal(texts.iter().map(|text| match text {
                    Some(Param::Text(text)) => Some(text.as_str()),
                    _ => None,
                }));
                let list = self.param(text(literal), &format!("{type_name}[]"));
                match is_in {
                    true => format!("{place} = any ({list})"),
                    false => format!("{place} <> all ({list})"),
                }
            }
            Test::Like(pattern) => format!("{place}::text like {}", self.param(text(pattern), "text")),
            Test::Contains(value) => {
                let whole = match (column.form, value) {
                    (Form::Array, Value::Array(_)) => value.clone(),
                    (Form::Json | Form::Jsonb, Value::Array(_) | Value::Object(_)) => value.clone(),
                    (Form::Scalar, _) => return Err(no_container(&column.name)),
                    (_, value) => Value::Array(vec![value.clone()]),
                };
                format!("{place} @> {}", self.value(column, &whole)?)
            }
            Test::Between(least, most) => {
                format!("{place} between {} and {}", self.value(column, least)?, self.value(column, most)?)
            }
        })
    }

    /// Adds the condition that a row has a key.
    fn keyed(&mut self, shape: &Shape, key: &Value) -> Result<()> {
        for (n, (name, part)) in shape.key().iter().zip(key_parts(key, shape.key().len())?).enumerate() {
            let column = shape.at(name)?;
            let value = self.value(column, &part)?;
            let condition = format!("{} {} = {value}", if n == 0 { " where" } else { " and" }, column.place().0);
            self.text.push_str(&condition);
        }
        Ok(())
    }
}

/// A table, by its quoted name.
pub(super) struct Table {
    name: String,
    quoted: String,
    shape: Mutex<Option<Arc<Shape>>>,
}

impl Table {
    pub(super) fn new(name: &str) -> Result<Table> {
        let parts: Vec<&str> = name.split('.').collect();
        let is_part = |part: &&str| !part.is_empty() && part.len() <= 63 && !part.contains('\0');
        if parts.len() > 2 || !parts.iter().all(is_part) {
            return Err(
                Error::invalid("malformed name of a table").hint("It is the name of the table, or \"schema.table\".")
            );
        }
        let quoted = parts.iter().map(|part| quoted(part)).collect::<Vec<_>>().join(".");
        Ok(Table { name: name.to_owned(), quoted, shape: Mutex::default() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn cached(&self) -> MutexGuard<'_, Option<Arc<Shape>>> {
        self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the shape, which has these columns. An unknown column may have been added, so the server is asked again.
    async fn shape(&self, on: &mut Connection<'_>, names: &[&str]) -> Result<Arc<Shape>> {
        let cached = self.cached().clone();
        if let Some(shape) = cached.filter(|shape| names.iter().all(|name| shape.column(name).is_some())) {
            return Ok(shape);
        }
        let rows = on.run(Statement::new(DESCRIBE, [text(&self.quoted)])).await?;
        let row =
            rows.into_iter().flatten().next().ok_or_else(|| {
                Error::new("OB001", format!("there is no table \"{}\"", self.name)).named("not_found")
            })?;
        let shape: Arc<Shape> = Arc::new(serde_json::from_str(&row)?);
        // A table without a key is not remembered, because a key may be added.
        if shape.key().is_empty() {
            return Err(Error::invalid(format!("table \"{}\" has no primary key", self.name)));
        }
        *self.cached() = Some(shape.clone());
        for name in names {
            shape.at(name)?;
        }
        Ok(shape)
    }

    /// Runs a statement. After an error the table is described again, because it may have changed.
    async fn run(&self, sql: Sql, on: &mut Connection<'_>) -> Result<Vec<Option<String>>> {
        on.run(Statement::new(sql.text, sql.params)).await.inspect_err(|_| *self.cached() = None)
    }

    async fn rows(&self, sql: Sql, on: &mut Connection<'_>) -> Result<Vec<String>> {
        Ok(self.run(sql, on).await?.into_iter().flatten().collect())
    }

    /// Runs a statement that changes rows, and returns how many.
    async fn changed(&self, mut sql: Sql, on: &mut Connection<'_>) -> Result<u64> {
        sql.text = format!("with _done as ({} returning 1) select count(*)::text as r from _done", sql.text);
        one(self.run(sql, on).await?)
    }

    fn select(&self) -> Sql {
        Sql { text: format!("select row_to_json(_row.*)::text as r from {} as _row", self.quoted), params: Vec::new() }
    }

    pub(super) async fn get(&self, on: &mut Connection<'_>, key: &Value) -> Result<Option<String>> {
        let shape = self.shape(on, &[]).await?;
        let mut sql = self.select();
        sql.keyed(&shape, key)?;
        Ok(self.rows(sql, on).await?.pop())
    }

    pub(super) async fn get_many(&self, on: &mut Connection<'_>, keys: &[Value]) -> Result<Vec<String>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let shape = self.shape(on, &[]).await?;
        let names = shape.key();
        let records = keys.iter().map(|key| -> Result<Value> {
            let parts = key_parts(key, names.len())?;
            Ok(Value::Object(names.iter().cloned().zip(parts).collect()))
        });
        let records = Value::Array(records.collect::<Result<_>>()?);
        let same: Vec<String> = names.iter().map(|name| format!("_row.{0} = _key.{0}", quoted(name))).collect();
        let table = &self.quoted;
        let sql = format!(
            "select row_to_json(_row.*)::text as r from json_array_elements($1::json) with ordinality _e(j, n)
                cross join lateral json_populate_record(null::{table}, _e.j) as _key
                join {table} as _row on {} order by _e.n",
            same.join(" and ")
        );
        self.rows(Sql { text: sql, params: vec![text(records)] }, on).await
    }

    pub(super) async fn find(&self, on: &mut Connection<'_>, query: &Query) -> Result<Vec<String>> {
        let (limit, offset) = query.bounds()?;
        let shape = self.shape(on, &query.columns()).await?;
        let mut sql = self.select();
        sql.filter(&shape, &query.conditions)?;
        let mut order = Vec::new();
        for (name, descends) in &query.order {
            order.push(format!("{}{}", shape.at(name)?.place().0, if *descends { " desc" } else { "" }));
        }
        for name in shape.key() {
            order.push(shape.at(name)?.place().0);
        }
        // One row more tells whether there are further ones.
        sql.text.push_str(&format!(" order by {} limit {} offset {offset}", order.join(", "), limit + 1));
        self.rows(sql, on).await
    }

    pub(super) async fn count(&self, on: &mut Connection<'_>, query: &Query) -> Result<u64> {
        let shape = self.shape(on, &query.columns()).await?;
        let mut sql =
            Sql { text: format!("select count(*)::text as r from {} as _row", self.quoted), params: Vec::new() };
        sql.filter(&shape, &query.conditions)?;
        one(self.run(sql, on).await?)
    }

    /// Inserts a row. Returns false if there is one with its key, and it is not replaced.
    pub(super) async fn write(&self, on: &mut Connection<'_>, row: Map<String, Value>, replaces: bool) -> Result<bool> {
        let names: Vec<&str> = row.keys().map(String::as_str).collect();
        let shape = self.shape(on, &names).await?;
        check_row(&row, shape.key())?;
        let key: Vec<String> = shape.key().iter().map(|name| quoted(name)).collect();
        let list = names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        let given = names.iter().map(|name| format!("_new.{}", quoted(name))).collect::<Vec<_>>().join(", ");
        let others = names.iter().copied().filter(|name| !shape.key().iter().any(|key| key == *name));
        let set: Vec<String> = others.map(|name| format!("{0} = excluded.{0}", quoted(name))).collect();
        let action = match replaces && !set.is_empty() {
            true => format!("update set {}", set.join(", ")),
            false => "nothing".to_owned(),
        };
        let table = &self.quoted;
        let sql = format!(
            "insert into {table} ({list}) select {given} from json_populate_record(null::{table}, $1::json) as _new
                on conflict ({}) do {action}",
            key.join(", ")
        );
        let written = self.changed(Sql { text: sql, params: vec![text(Value::Object(row))] }, on).await?;
        Ok(written > 0)
    }

    pub(super) async fn update(
        &self,
        on: &mut Connection<'_>,
        key: &Value,
        values: Map<String, Value>,
    ) -> Result<bool> {
        if values.is_empty() {
            return Ok(self.get(on, key).await?.is_some());
        }
        let names: Vec<&str> = values.keys().map(String::as_str).collect();
        let shape = self.shape(on, &names).await?;
        check_changes(&values, shape.key())?;
        let set: Vec<String> = names.iter().map(|name| format!("{0} = _new.{0}", quoted(name))).collect();
        let table = &self.quoted;
        let mut sql = Sql {
            text: format!(
                "update {table} as _row set {} from json_populate_record(null::{table}, $1::json) as _new",
                set.join(", ")
            ),
            params: vec![text(Value::Object(values))],
        };
        sql.keyed(&shape, key)?;
        Ok(self.changed(sql, on).await? > 0)
    }

    pub(super) async fn delete(&self, on: &mut Connection<'_>, key: &Value) -> Result<bool> {
        let shape = self.shape(on, &[]).await?;
        let mut sql = Sql { text: format!("delete from {} as _row", self.quoted), params: Vec::new() };
        sql.keyed(&shape, key)?;
        Ok(self.changed(sql, on).await? > 0)
    }

    pub(super) async fn delete_many(&self, on: &mut Connection<'_>, query: &Query) -> Result<u64> {
        let shape = self.shape(on, &query.columns()).await?;
        let mut sql = Sql { text: format!("delete from {} as _row", self.quoted), params: Vec::new() };
        sql.filter(&shape, &query.conditions)?;
        self.changed(sql, on).await
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns the text of an array.
fn array(items: &[Value]) -> String {
    let parts = items.iter().map(|item| match item {
        Value::Null => "NULL".to_owned(),
        Value::Array(items) => array(items),
        Value::String(text) => element(text),
        other => element(&other.to_string()),
    });
    format!("{{{}}}", parts.collect::<Vec<_>>().join(","))
}

/// Returns the text of an array whose elements have texts.
fn literal<'t>(texts: impl Iterator<Item = Option<&'t str>>) -> String {
    let parts: Vec<String> = texts.map(|text| text.map_or_else(|| "NULL".to_owned(), element)).collect();
    format!("{{{}}}", parts.join(","))
}

fn element(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_values_are_quoted() {
        assert_eq!(Table::new("shop.to\"tals").unwrap().quoted, "\"shop\".\"to\"\"tals\"");
        for wrong in ["", "a.", ".a", "a.b.c", "a\0", &"a".repeat(64)] {
            assert!(Table::new(wrong).is_err(), "{wrong:?}");
        }
        let items = json!(["a\"b\\c", null, 1.50, true, ["x,y"], {"k": "v"}]);
        let items = items.as_array().unwrap();
        assert_eq!(array(items), r#"{"a\"b\\c",NULL,"1.5","true",{"x,y"},"{\"k\":\"v\"}"}"#);
        assert_eq!(literal([Some("NULL"), None].into_iter()), r#"{"NULL",NULL}"#);
    }
}
