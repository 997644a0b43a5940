//! Read models: a [`ReadModel`] has the rows of a table of the application, as values of a serde type.
//!
//! ```no_run
//! # async fn example(tx: &tokio_postgres::Transaction<'_>) -> pg_outbox::Result<()> {
//! use pg_outbox::events::read_model::{Query, ReadModel};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Total {
//!     number: String,
//!     amount: Option<i64>,
//! }
//!
//! let totals: ReadModel<Total> = ReadModel::new("totals")?;
//! totals.upsert(tx, &Total { number: "4711".into(), amount: Some(42) }).await?;
//! let page = totals.find(tx, &Query::new().at_least("amount", 10).order_by_desc("amount").limit(20)).await?;
//! assert!(page.items.len() <= 20);
//! # Ok(()) }
//! ```
//!
//! The fields of the type have the names of the columns. A row comes as JSON and goes as JSON, so the server converts between the
//! types of JSON and those of the columns: a `timestamptz` is a text or a `chrono::DateTime`, an array is a `Vec`. The key of a row
//! is its primary key: a value, or a tuple of several columns.
//!
//! The first call asks the server for the columns and the primary key of the table. Names are quoted and values are parameters, so
//! no text of a caller becomes SQL. A query that needs more than this is a statement of the driver.

mod memory;
mod table;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use self::memory::Memory;
use self::table::Table;
use super::connection::Connection;
use crate::driver::{Executor, Statement, sealed::Sealed};
use crate::error::{Error, Result, place_in_json};

/// The largest number of rows of a page, and of keys and values of one call.
const LONGEST: usize = 10_000;

/// The number of rows of a page, unless the query has another limit.
const PAGE: u32 = 100;

/// The order of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Above,
    AtLeast,
    Below,
    AtMost,
}

#[derive(Clone)]
enum Test {
    Compare(Comparison, Value),
    Among { values: Vec<Value>, is_in: bool },
    Like(String),
    Null { is_null: bool },
    Contains(Value),
    Between(Value, Value),
}

#[derive(Clone)]
struct Condition {
    column: String,
    test: Test,
}

/// Conditions, which hold all at once, an order, and a page.
///
/// A comparison with null is never true, as in SQL, but for [`equal`](Query::equal) and [`not_equal`](Query::not_equal), which ask for
/// null then.
#[derive(Clone, Default)]
pub struct Query {
    conditions: Vec<Condition>,
    /// Columns, and whether the order descends.
    order: Vec<(String, bool)>,
    limit: Option<u32>,
    offset: u64,
    counts: bool,
    /// Why a value could not be taken.
    wrong: Option<String>,
}

impl fmt::Debug for Query {
    /// Shows no values, because they may be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<&str> = self.conditions.iter().map(|condition| condition.column.as_str()).collect();
        f.debug_struct("Query").field("columns", &columns).field("order", &self.order).finish_non_exhaustive()
    }
}

impl Query {
    /// Creates a query of all rows, in the order of their keys.
    pub fn new() -> Query {
        Query::default()
    }

    /// The column has this value. `None`: it is null.
    #[must_use]
    pub fn equal(self, column: &str, value: impl Serialize) -> Query {
        self.compare(column, Comparison::Equal, value)
    }

    /// The column has another value, and is not null.
    #[must_use]
    pub fn not_equal(self, column: &str, value: impl Serialize) -> Query {
        self.compare(column, Comparison::NotEqual, value)
    }

    /// The column is above a value.
    #[must_use]
    pub fn above(self, column: &str, value: impl Serialize) -> Query {
        self.compare(column, Comparison::Above, value)
    }

    /// The column is a value or above it.
    #[must_use]
    pub fn at_least(self, column: &str, value: impl Serialize) -> Query {
        self.compare(column, Comparison::AtLeast, value)
    }

    /// The column is below a value.
    #[must_use]
    pub fn below(self, column: &str, value: impl Serialize) -> Query {
        self.compare(column, Comparison::Below, value)
    }

    /// The column is a value or below it.
    #[must_use]
    pub fn at_most(self, column: &str, value: impl Serialize) -> Query {
        self.compare(column, Comparison::AtMost, value)
    }

    /// The column has one of these values.
    #[must_use]
    pub fn is_in<V: Serialize>(self, column: &str, values: impl IntoIterator<Item = V>) -> Query {
        self.among(column, values, true)
    }

    /// The column has none of these values, and is not null. Of an empty list, null has none either.
    #[must_use]
    pub fn not_in<V: Serialize>(self, column: &str, values: impl IntoIterator<Item = V>) -> Query {
        self.among(column, values, false)
    }

    /// The text of the column has this form, in which `%` is any text, `_` any character, and `\` takes the meaning from the next one.
    #[must_use]
    pub fn like(self, column: &str, pattern: &str) -> Query {
        self.test(column, Test::Like(pattern.to_owned()))
    }

    /// The column is null.
    #[must_use]
    pub fn is_null(self, column: &str) -> Query {
        self.test(column, Test::Null { is_null: true })
    }

    /// The column is not null.
    #[must_use]
    pub fn is_not_null(self, column: &str) -> Query {
        self.test(column, Test::Null { is_null: false })
    }

    /// The column, an array or JSON, contains a value, all values of an array, or all entries of an object.
    #[must_use]
    pub fn contains(mut self, column: &str, value: impl Serialize) -> Query {
        let value = self.value(column, value);
        self.test(column, Test::Contains(value))
    }

    /// The column is between two values, or one of them.
    #[must_use]
    pub fn between(mut self, column: &str, least: impl Serialize, most: impl Serialize) -> Query {
        let (least, most) = (self.value(column, least), self.value(column, most));
        self.test(column, Test::Between(least, most))
    }

    /// A condition that comes as data, for example of a request. The operators are `=`, `!=`, `>`, `>=`, `<`, `<=`, `like`, `is null`,
    /// `is not null`, `contains`, `between`, which has two values, and `in` and `not in`, whose value is a list.
    #[must_use]
    pub fn condition(mut self, column: &str, operator: &str, values: &[Value]) -> Query {
        match (operator.to_lowercase().as_str(), values) {
            ("=", [value]) => self.equal(column, value),
            ("!=", [value]) => self.not_equal(column, value),
            (">", [value]) => self.above(column, value),
            (">=", [value]) => self.at_least(column, value),
            ("<", [value]) => self.below(column, value),
            ("<=", [value]) => self.at_most(column, value),
            ("in", [Value::Array(values)]) => self.is_in(column, values),
            ("not in", [Value::Array(values)]) => self.not_in(column, values),
            ("like", [Value::String(pattern)]) => self.like(column, pattern),
            ("is null", []) => self.is_null(column),
            ("is not null", []) => self.is_not_null(column),
            ("contains", [value]) => self.contains(column, value),
            ("between", [least, most]) => self.between(column, least, most),
            _ => {
                let operator: String = operator.chars().take(50).collect();
                self.wrong = Some(format!("there is no condition \"{operator}\" with {} such values", values.len()));
                self
            }
        }
    }

    /// Sorts by a column, behind the columns that were named before. Nulls are last. The key comes last of all, so that pages do not
    /// overlap.
    #[must_use]
    pub fn order_by(mut self, column: &str) -> Query {
        self.order.push((column.to_owned(), false));
        self
    }

    /// Sorts by a column as [`Query::order_by`] does, but descending. Nulls are first.
    #[must_use]
    pub fn order_by_desc(mut self, column: &str) -> Query {
        self.order.push((column.to_owned(), true));
        self
    }

    /// Sets the largest number of rows: 1 to 10,000. The default is 100.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Query {
        self.limit = Some(limit);
        self
    }

    /// Passes over so many rows.
    #[must_use]
    pub fn offset(mut self, offset: u64) -> Query {
        self.offset = offset;
        self
    }

    /// Counts all rows for which the conditions hold, with a statement of its own.
    #[must_use]
    pub fn with_total(mut self) -> Query {
        self.counts = true;
        self
    }

    fn test(mut self, column: &str, test: Test) -> Query {
        self.conditions.push(Condition { column: column.to_owned(), test });
        self
    }

    fn compare(mut self, column: &str, comparison: Comparison, value: impl Serialize) -> Query {
        let value = self.value(column, value);
        self.test(column, Test::Compare(comparison, value))
    }

    fn among<V: Serialize>(mut self, column: &str, values: impl IntoIterator<Item = V>, is_in: bool) -> Query {
        let values: Vec<Value> = values.into_iter().map(|value| self.value(column, value)).collect();
        if values.len() > LONGEST {
            self.wrong = Some(format!("column \"{column}\" is compared with more than {LONGEST} values"));
        }
        self.test(column, Test::Among { values, is_in })
    }

    fn value(&mut self, column: &str, value: impl Serialize) -> Value {
        serde_json::to_value(value).unwrap_or_else(|_| {
            self.wrong = Some(format!("the value for column \"{column}\" cannot be written as JSON"));
            Value::Null
        })
    }

    /// Returns the limit and the offset.
    fn bounds(&self) -> Result<(usize, usize)> {
        if let Some(wrong) = &self.wrong {
            return Err(Error::invalid(wrong.clone()));
        }
        let limit = usize::try_from(self.limit.unwrap_or(PAGE)).unwrap_or(usize::MAX);
        match i64::try_from(self.offset).and_then(usize::try_from) {
            Ok(offset) if (1..=LONGEST).contains(&limit) => Ok((limit, offset)),
            _ => Err(Error::invalid("invalid limit or offset")
                .hint(format!("A limit is 1 to {LONGEST}, and an offset is below 2^63."))),
        }
    }

    /// Returns the columns that it names.
    fn columns(&self) -> Vec<&str> {
        let tested = self.conditions.iter().map(|condition| condition.column.as_str());
        tested.chain(self.order.iter().map(|(column, _)| column.as_str())).collect()
    }
}

/// Rows of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Whether there are further rows behind them.
    pub has_more: bool,
    /// How many rows match in all, if the query counts them.
    pub total: Option<u64>,
}

enum Rows {
    Table(Table),
    Memory(Memory),
}

/// The rows of a table. It holds no connection, and is cheap to clone.
pub struct ReadModel<T> {
    rows: Arc<Rows>,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for ReadModel<T> {
    fn clone(&self) -> Self {
        ReadModel { rows: self.rows.clone(), of: PhantomData }
    }
}

impl<T> fmt::Debug for ReadModel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadModel").field("table", &self.name()).finish_non_exhaustive()
    }
}

impl<T> ReadModel<T> {
    /// Creates the read model of a table, whose name is written as it is stored: `totals`, or with its schema `shop.totals`. The table
    /// has a primary key.
    ///
    /// # Errors
    /// 22023 if the name is malformed.
    pub fn new(table: &str) -> Result<ReadModel<T>> {
        Ok(ReadModel { rows: Arc::new(Rows::Table(Table::new(table)?)), of: PhantomData })
    }

    /// Creates a read model without rows and without a database, for tests. `key` names the columns of the key. Texts are compared by
    /// their code points, and texts of times as texts. Connections are not used: [`NoConnection`] is one.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// use pg_outbox::events::read_model::{NoConnection, Query, ReadModel};
    /// use serde_json::{Value, json};
    /// let totals: ReadModel<Value> = ReadModel::in_memory(&["number"]);
    /// totals.insert(NoConnection, &json!({"number": "4711", "amount": 42})).await?;
    /// assert_eq!(totals.count(NoConnection, &Query::new().above("amount", 10)).await?, 1);
    /// # Ok::<(), pg_outbox::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn in_memory(key: &[&str]) -> ReadModel<T>
    where
        T: DeserializeOwned,
    {
        ReadModel { rows: Arc::new(Rows::Memory(Memory::new::<T>(key))), of: PhantomData }
    }

    fn name(&self) -> &str {
        match &*self.rows {
            Rows::Table(table) => table.name(),
            Rows::Memory(_) => "a table in memory",
        }
    }
}

impl<T: DeserializeOwned> ReadModel<T> {
    /// Returns the row with a key.
    ///
    /// # Errors
    /// Kind not_found (OB001) if there is none. 22023 if the key has another number of columns, or the row not the form of `T`.
    pub async fn get(&self, mut on: impl Executor, key: impl Serialize + Send) -> Result<T> {
        let key = serde_json::to_value(key)?;
        let row = match &*self.rows {
            Rows::Table(table) => table.get(&mut Connection::new(&mut on), &key).await?,
            Rows::Memory(memory) => memory.get(&key)?,
        };
        self.read(&row.ok_or_else(|| self.missing())?)
    }

    /// Returns the rows with these keys, at most 10,000, in the order of the keys. Keys without a row are left out.
    ///
    /// # Errors
    /// As [`ReadModel::get`], but for missing rows.
    pub async fn get_many<K: Serialize>(
        &self,
        mut on: impl Executor,
        keys: impl IntoIterator<Item = K> + Send,
    ) -> Result<Vec<T>> {
        let keys = keys.into_iter().map(serde_json::to_value).collect::<std::result::Result<Vec<Value>, _>>()?;
        if keys.len() > LONGEST {
            return Err(Error::invalid("too many keys").hint(format!("At most {LONGEST}.")));
        }
        let rows = match &*self.rows {
            Rows::Table(table) => table.get_many(&mut Connection::new(&mut on), &keys).await?,
            Rows::Memory(memory) => memory.get_many(&keys)?,
        };
        rows.iter().map(|row| self.read(row)).collect()
    }

    /// Returns a page of the rows for which the conditions hold.
    ///
    /// # Errors
    /// 22023 for a column that does not exist, a value that the column cannot have, and a limit out of bounds.
    pub async fn find(&self, mut on: impl Executor, query: &Query) -> Result<Page<T>> {
        let (limit, _) = query.bounds()?;
        let mut on = Connection::new(&mut on);
        let mut rows = match &*self.rows {
            Rows::Table(table) => table.find(&mut on, query).await?,
            Rows::Memory(memory) => memory.find(query)?,
        };
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let total = if query.counts { Some(self.count(on, query).await?) } else { None };
        Ok(Page { items: rows.iter().map(|row| self.read(row)).collect::<Result<_>>()?, has_more, total })
    }

    /// Returns the first row for which the conditions hold, or `None`.
    ///
    /// # Errors
    /// Those of [`ReadModel::find`].
    pub async fn find_one(&self, on: impl Executor, query: &Query) -> Result<Option<T>> {
        let first = Query { limit: Some(1), counts: false, ..query.clone() };
        Ok(self.find(on, &first).await?.items.pop())
    }

    fn read(&self, row: &str) -> Result<T> {
        serde_json::from_str(row).map_err(|error| {
            Error::invalid(format!("a row of \"{}\" does not have the expected form", self.name()))
                .detail(place_in_json(&error))
        })
    }
}

impl<T> ReadModel<T> {
    /// Returns the number of rows for which the conditions hold. Order and page do not count.
    ///
    /// # Errors
    /// Those of [`ReadModel::find`].
    pub async fn count(&self, mut on: impl Executor, query: &Query) -> Result<u64> {
        query.bounds()?;
        match &*self.rows {
            Rows::Table(table) => table.count(&mut Connection::new(&mut on), query).await,
            Rows::Memory(memory) => memory.count(query),
        }
    }

    /// Inserts a row: a `T`, or an object that has the key and some of the other columns.
    ///
    /// # Errors
    /// Kind conflict (23505) if there is a row with its key. 22023 for a field that is no column, and for a row without a key.
    pub async fn insert(&self, on: impl Executor, row: &(impl Serialize + Sync + ?Sized)) -> Result<()> {
        match self.write(on, row, false).await? {
            true => Ok(()),
            false => Err(self.exists()),
        }
    }

    /// Inserts a row, or replaces the columns of the one with its key. Columns that the row does not have stay.
    ///
    /// # Errors
    /// 22023 for a field that is no column, and for a row without a key.
    pub async fn upsert(&self, on: impl Executor, row: &(impl Serialize + Sync + ?Sized)) -> Result<()> {
        self.write(on, row, true).await.map(|_| ())
    }

    async fn write(
        &self,
        mut on: impl Executor,
        row: &(impl Serialize + Sync + ?Sized),
        replaces: bool,
    ) -> Result<bool> {
        let row = object(row)?;
        match &*self.rows {
            Rows::Table(table) => table.write(&mut Connection::new(&mut on), row, replaces).await,
            Rows::Memory(memory) => memory.write(row, replaces),
        }
    }

    /// Changes columns of a row. `values` is an object: `&json!({"amount": 42})`. The key is none of them.
    ///
    /// # Errors
    /// Kind not_found (OB001) if there is no row with the key. 22023 for a field that is no column, or that belongs to the key.
    pub async fn update(
        &self,
        mut on: impl Executor,
        key: impl Serialize + Send,
        values: &(impl Serialize + Sync + ?Sized),
    ) -> Result<()> {
        let (key, values) = (serde_json::to_value(key)?, object(values)?);
        let found = match &*self.rows {
            Rows::Table(table) => table.update(&mut Connection::new(&mut on), &key, values).await?,
            Rows::Memory(memory) => memory.update(&key, values)?,
        };
        if found { Ok(()) } else { Err(self.missing()) }
    }

    /// Deletes a row.
    ///
    /// # Errors
    /// Kind not_found (OB001) if there is no row with the key.
    pub async fn delete(&self, mut on: impl Executor, key: impl Serialize + Send) -> Result<()> {
        let key = serde_json::to_value(key)?;
        let found = match &*self.rows {
            Rows::Table(table) => table.delete(&mut Connection::new(&mut on), &key).await?,
            Rows::Memory(memory) => memory.delete(&key)?,
        };
        if found { Ok(()) } else { Err(self.missing()) }
    }

    /// Deletes the rows for which the conditions hold, and returns how many.
    ///
    /// # Errors
    /// 22023 without a condition, and for an order, a limit or an offset. Those of [`ReadModel::find`].
    pub async fn delete_many(&self, on: impl Executor, query: &Query) -> Result<u64> {
        if query.conditions.is_empty() {
            return Err(Error::invalid("delete_many() needs a condition").hint("clear() deletes all rows."));
        }
        if !query.order.is_empty() || query.limit.is_some() || query.offset != 0 || query.counts {
            return Err(Error::invalid("delete_many() takes conditions, and neither an order nor a page"));
        }
        self.remove(on, query).await
    }

    /// Deletes all rows, and returns how many.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn clear(&self, on: impl Executor) -> Result<u64> {
        self.remove(on, &Query::new()).await
    }

    async fn remove(&self, mut on: impl Executor, query: &Query) -> Result<u64> {
        query.bounds()?;
        match &*self.rows {
            Rows::Table(table) => table.delete_many(&mut Connection::new(&mut on), query).await,
            Rows::Memory(memory) => memory.delete_many(query),
        }
    }

    /// The key is not shown, because it may be confidential.
    fn missing(&self) -> Error {
        Error::new("OB001", format!("\"{}\" has no row with this key", self.name())).named("not_found")
    }

    fn exists(&self) -> Error {
        Error::new("23505", format!("\"{}\" has a row with this key already", self.name())).named("unique_violation")
    }
}

fn object(row: &(impl Serialize + ?Sized)) -> Result<Map<String, Value>> {
    match serde_json::to_value(row)? {
        Value::Object(fields) => Ok(fields),
        _ => Err(Error::invalid("the value is no row").hint("A row is a struct, a map, or an object of json!().")),
    }
}

/// Returns the columns of a key.
fn key_parts(key: &Value, columns: usize) -> Result<Vec<Value>> {
    match key {
        key if columns == 1 => Ok(vec![key.clone()]),
        Value::Array(parts) if parts.len() == columns => Ok(parts.clone()),
        _ => Err(Error::invalid(format!("the key has {columns} columns")).hint("It is a tuple of them.")),
    }
}

/// Refuses a row without its key.
fn check_row(row: &Map<String, Value>, key: &[String]) -> Result<()> {
    match key.iter().find(|name| row.get(*name).is_none_or(Value::is_null)) {
        Some(name) => Err(Error::invalid(format!("the row has no \"{name}\"")).detail("It belongs to the key.")),
        None => Ok(()),
    }
}

/// Refuses changes of a key.
fn check_changes(values: &Map<String, Value>, key: &[String]) -> Result<()> {
    match key.iter().find(|name| values.contains_key(*name)) {
        Some(name) => Err(Error::invalid(format!("column \"{name}\" belongs to the key and cannot be changed"))),
        None => Ok(()),
    }
}

fn unknown_column(name: &str, columns: &[&str]) -> Error {
    let shown: String = name.chars().take(100).collect();
    Error::invalid(format!("there is no column \"{shown}\"")).hint(format!("The columns are {}.", columns.join(", ")))
}

fn no_container(column: &str) -> Error {
    Error::invalid(format!("column \"{column}\" is neither an array nor JSON, and contains nothing"))
}

/// No connection, for read models in memory.
#[derive(Clone, Copy, Debug)]
pub struct NoConnection;

impl Sealed for NoConnection {}

impl Executor for NoConnection {
    async fn run(&mut self, _: Statement) -> Result<Vec<Option<String>>> {
        Err(Error::invalid("this call needs a connection").hint("NoConnection is for read models in memory."))
    }
}
