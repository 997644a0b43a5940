//! Calls of functions and queries of views.

use serde_json::{Map, Value};

use crate::args::More;
use pg_outbox::error::{Error, Result};
use pg_outbox::outbox::Outbox;
use pg_outbox::tokio_postgres::types::{ToSql, Type};

/// Returns the rows of a query. Its parameters are texts or null.
pub(crate) async fn query(outbox: &Outbox, sql: &str, params: &[Option<&str>]) -> Result<Vec<Value>> {
    let session = outbox.session().await?;
    let sql = format!("select to_jsonb(q) from ({sql}) q");
    let params: Vec<(&(dyn ToSql + Sync), Type)> = params.iter().map(|param| (param as _, Type::TEXT)).collect();
    let rows = session.query_typed(&sql, &params).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Adds the arguments of `--set` to `args`. A value that parses as JSON is passed as JSON, any other value as text.
pub(crate) fn with(args: Value, more: More) -> Value {
    let mut map = match args {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (name, value) in more.set {
        let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
        map.insert(name, value);
    }
    Value::Object(map)
}

/// Calls a function of the schema and returns its rows.
///
/// # Errors
/// Those of the function. A name of an argument that the function does not have is an invalid argument, and the error lists
/// those that it has.
pub(crate) async fn call(outbox: &Outbox, function: &str, args: Value) -> Result<Vec<Value>> {
    match outbox.call(function, args.clone(), &[]).await {
        Err(error) if error.code() == "42883" => Err(explained(outbox, function, &args, error).await),
        answer => answer,
    }
}

/// Calls a function that returns nothing, see [`call`].
pub(crate) async fn call_void(outbox: &Outbox, function: &str, args: Value) -> Result<()> {
    match outbox.call_void(function, args.clone()).await {
        Err(error) if error.code() == "42883" => Err(explained(outbox, function, &args, error).await),
        answer => answer,
    }
}

/// Returns why the server knows no function with these arguments.
async fn explained(outbox: &Outbox, function: &str, args: &Value, error: Error) -> Error {
    let names = "select unnest(p.proargnames[1:p.pronargs]) as name from pg_catalog.pg_proc p
        join pg_catalog.pg_namespace n on n.oid = p.pronamespace where n.nspname = 'outbox' and p.proname = $1";
    let Ok(rows) = query(outbox, names, &[Some(function)]).await else { return error };
    let known: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    let given = args.as_object().into_iter().flat_map(Map::keys);
    match given.into_iter().find(|name| !known.contains(&name.as_str())) {
        Some(unknown) if !known.is_empty() => Error::invalid(format!("{function} has no argument \"{unknown}\""))
            .detail(format!("Its arguments are {}.", known.join(", "))),
        _ => error,
    }
}
