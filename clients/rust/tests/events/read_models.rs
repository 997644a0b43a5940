//! Read models do the same in a database and in memory: `tests/conformance/toolkit/read_models.json`, and what Rust adds.

use pg_outbox::chrono::{DateTime, Utc};
use pg_outbox::driver::Executor;
use pg_outbox::events::read_model::{NoConnection, Page, Query, ReadModel};
use pg_outbox::{Error, Kind, Outbox};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::shop::outbox;
use crate::suite::{check, files, text};

const TABLES: &str = "create table totals (id int primary key, name text, amount bigint, price numeric(12, 2), tags text[], at timestamptz, facts jsonb);
    create table pairs (a int, b varchar(5), note text, primary key (a, b));
    create schema shop; create table shop.\"To\"\"tals\" (\"_row\" uuid primary key, \"order\" json, code char(3));
    create table no_key (a int)";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Total {
    id: i64,
    name: Option<String>,
    amount: Option<i64>,
    tags: Vec<String>,
}

fn total(id: i64, name: Option<&str>, amount: Option<i64>, tags: &[&str]) -> Total {
    Total { id, name: name.map(str::to_owned), amount, tags: tags.iter().map(|tag| (*tag).to_owned()).collect() }
}

fn rows() -> Vec<Total> {
    vec![
        total(1, Some("ann"), Some(10), &["a"]),
        total(2, Some("bob"), Some(20), &["a", "b"]),
        total(3, Some("cid"), None, &[]),
        total(4, None, Some(40), &["c"]),
        total(5, Some("a%b"), Some(50), &["b"]),
    ]
}

fn ids(page: &Page<Total>) -> Vec<i64> {
    page.items.iter().map(|row| row.id).collect()
}

fn refused<T>(result: Result<T, Error>, kind: Kind, text: &str) {
    match result {
        Err(error) => assert!(error.kind() == kind && error.report().contains(text), "{}", error.report()),
        Ok(_) => panic!("expected an error: {text}"),
    }
}

/// Checks conditions with values of Rust, and pages of a type. Each connection is used once.
async fn find_rows<E: Executor>(on: &mut impl FnMut() -> E, totals: &ReadModel<Total>) {
    let q = Query::new;
    for (query, expected) in [
        (q().equal("name", None::<String>), vec![4]),
        (q().above("amount", None::<i64>), vec![]),
        (q().is_in("name", ["a%b", "x\"\\,{}"]), vec![5]),
        (q().not_in("amount", [Some(10), None]), vec![]),
        (q().like("id", "_"), vec![1, 2, 3, 4, 5]),
        (q().contains("tags", ["a", "b"]), vec![2]),
        (q().between("amount", 10, 40), vec![1, 2, 4]),
        (q().above("amount", 10).like("name", "b%"), vec![2]),
    ] {
        let page = totals.find(on(), &query).await.unwrap();
        assert_eq!(ids(&page), expected, "{query:?}");
        assert_eq!(totals.count(on(), &query).await.unwrap(), expected.len() as u64);
    }
    let page = totals.find(on(), &q().limit(2).offset(3)).await.unwrap();
    assert_eq!(page, Page { items: rows()[3..].to_vec(), has_more: false, total: None });
}

/// Checks what the steps of the file do not have.
async fn typed<E: Executor>(mut on: impl FnMut() -> E, totals: &ReadModel<Total>) {
    for row in rows() {
        totals.insert(on(), &row).await.unwrap();
    }
    assert_eq!(totals.get(on(), 2).await.unwrap(), rows()[1]);
    find_rows(&mut on, totals).await;

    totals.upsert(on(), &total(2, Some("new"), Some(21), &[])).await.unwrap();
    totals.upsert(on(), &json!({"id": 2, "amount": 22})).await.unwrap();
    assert_eq!(totals.get(on(), 2).await.unwrap(), total(2, Some("new"), Some(22), &[]));
    refused(totals.get(on(), 7).await, Kind::NotFound, "no row with this key");

    let q = Query::new;
    for (query, text) in [
        (q().equal("nope", 1), "no column \"nope\""),
        (q().order_by("nope"), "The columns are "),
        (q().is_in("id", vec![1; 10_001]), "more than 10000 values"),
        (q().condition("id", "in", &[json!(1)]), "no condition \"in\" with 1 such values"),
        (q().condition("id", "like", &[json!(1)]), "no condition \"like\""),
    ] {
        refused(totals.find(on(), &query).await, Kind::Invalid, text);
    }
    refused(totals.get_many(on(), vec![1; 10_001]).await, Kind::Invalid, "too many keys");
    refused(totals.insert(on(), &json!({})).await, Kind::Invalid, "no \"id\"");
    refused(totals.update(on(), 1, &rows()[0]).await, Kind::Invalid, "belongs to the key");
    refused(totals.delete_many(on(), &q().equal("id", 1).limit(1)).await, Kind::Invalid, "neither an order nor a page");
    assert_eq!(totals.clear(on()).await.unwrap(), 5);
}

/// A row of table `totals` of the file.
#[derive(Serialize, Deserialize)]
struct Fact {
    id: i64,
    name: Option<String>,
    amount: Option<i64>,
    paid: Option<bool>,
    tags: Option<Vec<String>>,
    extra: Option<Value>,
    at: Option<DateTime<Utc>>,
}

#[derive(Serialize, Deserialize)]
struct Pair {
    a: i64,
    b: String,
}

/// Returns the arguments or the expectation of a step with its times in UTC, as chrono writes them.
fn given(value: &Value) -> Value {
    let time = |value: &Value| json!(serde_json::from_value::<Option<DateTime<Utc>>>(value.clone()).unwrap());
    match value {
        Value::Array(items) => match &items[..] {
            [column, operator, values @ ..] if column == "at" => {
                [column.clone(), operator.clone()].into_iter().chain(values.iter().map(time)).collect()
            }
            items => items.iter().map(given).collect(),
        },
        Value::Object(map) => {
            let part = |(name, value): (&String, &Value)| match name.as_str() {
                "at" => (name.clone(), time(value)),
                _ => (name.clone(), given(value)),
            };
            Value::Object(map.iter().map(part).collect())
        }
        other => other.clone(),
    }
}

fn query_of(args: &Value) -> Query {
    let list = |name: &str| args[name].as_array().cloned().unwrap_or_default();
    let mut query = Query::new();
    for condition in list("where") {
        let condition = condition.as_array().unwrap();
        let operator = condition.get(1).and_then(Value::as_str).unwrap_or_default();
        query = query.condition(condition[0].as_str().unwrap(), operator, condition.get(2..).unwrap_or_default());
    }
    for column in list("order") {
        let column = column.as_str().unwrap();
        query = match column.strip_prefix('-') {
            Some(column) => query.order_by_desc(column),
            None => query.order_by(column),
        };
    }
    if let Some(limit) = args["limit"].as_u64() {
        query = query.limit(limit.try_into().unwrap());
    }
    if let Some(offset) = args["offset"].as_i64() {
        // Rust has no offset below 0; this is as far out of bounds.
        query = query.offset(u64::try_from(offset).unwrap_or(u64::MAX));
    }
    if args["with_total"] == true { query.with_total() } else { query }
}

async fn call<T: Serialize + DeserializeOwned>(
    on: impl Executor,
    model: &ReadModel<T>,
    what: &str,
    args: &Value,
) -> Result<Value, Error> {
    Ok(match what {
        "get" => json!(model.get(on, &args["key"]).await?),
        "get_many" => json!(model.get_many(on, args["keys"].as_array().unwrap()).await?),
        "find" => {
            let page = model.find(on, &query_of(args)).await?;
            json!({"items": page.items, "has_more": page.has_more, "total": page.total})
        }
        "find_one" => json!(model.find_one(on, &query_of(args)).await?),
        "count" => json!(model.count(on, &query_of(args)).await?),
        "insert" => json!(model.insert(on, &args["row"]).await?),
        "upsert" => json!(model.upsert(on, &args["row"]).await?),
        "update" => json!(model.update(on, &args["key"], &args["values"]).await?),
        "delete" => json!(model.delete(on, &args["key"]).await?),
        "delete_many" => json!(model.delete_many(on, &query_of(args)).await?),
        "clear" => json!(model.clear(on).await?),
        other => panic!("unknown operation {other}"),
    })
}

fn steps() -> Value {
    files("toolkit").into_iter().find(|(name, _)| name == "read_models").unwrap().1
}

/// The contract of read models, which is that of the other clients.
async fn contract<E: Executor>(mut on: impl FnMut() -> E, totals: &ReadModel<Fact>, pairs: &ReadModel<Pair>) {
    for (i, step) in steps()["steps"].as_array().unwrap().iter().enumerate() {
        for key in step.as_object().unwrap().keys() {
            assert!(["do", "args", "expect", "error"].contains(&key.as_str()), "{key}");
        }
        let (what, args) = (text(step, "do").unwrap(), given(&step["args"]));
        let place = format!("step {} ({what} {args})", i + 1);
        let result = match text(&args, "table").unwrap() {
            "totals" => call(on(), totals, what, &args).await,
            "pairs" => call(on(), pairs, what, &args).await,
            other => panic!("unknown table {other}"),
        };
        match (step.get("error"), result) {
            (Some(expected), Err(error)) => {
                let seen = json!({"kind": error.kind().as_str(), "code": error.code(), "name": error.name()});
                check(&seen, expected, &place);
            }
            (Some(_), Ok(result)) => panic!("{place}: {result}"),
            (None, Err(error)) => panic!("{place}: {}", error.report()),
            (None, Ok(result)) => {
                if let Some(expected) = step.get("expect") {
                    check(&result, &given(expected), &place);
                }
            }
        }
    }
}

async fn prepared(name: &str) -> Outbox {
    let outbox = outbox(name).await;
    outbox.session().await.unwrap().batch_execute(TABLES).await.unwrap();
    outbox
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_of_a_table_keeps_the_contract() {
    let outbox = outbox("ev_read_models_contract").await;
    let mut session = outbox.session().await.unwrap();
    for (name, table) in steps()["tables"].as_object().unwrap() {
        let columns = table["columns"].as_object().unwrap().iter();
        let columns: Vec<String> =
            columns.map(|(column, kind)| format!("{column} {}", kind.as_str().unwrap())).collect();
        let key: Vec<&str> = table["key"].as_array().unwrap().iter().map(|column| column.as_str().unwrap()).collect();
        let sql = format!("create table {name} ({}, primary key ({}))", columns.join(", "), key.join(", "));
        session.batch_execute(&sql).await.unwrap();
    }
    // In one transaction: no refused call reaches the server, which would end it.
    let tx = session.transaction().await.unwrap();
    contract(|| &tx, &ReadModel::new("totals").unwrap(), &ReadModel::new("pairs").unwrap()).await;
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_read_model_in_memory_keeps_the_contract() {
    contract(|| NoConnection, &ReadModel::in_memory(&["id"]), &ReadModel::in_memory(&["a", "b"])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_rust_are_conditions_and_rows() {
    let outbox = prepared("ev_read_models").await;
    let mut session = outbox.session().await.unwrap();
    let tx = session.transaction().await.unwrap();
    typed(|| &tx, &ReadModel::new("totals").unwrap()).await;
    tx.commit().await.unwrap();
    typed(|| NoConnection, &ReadModel::in_memory(&["id"])).await;
    let table: ReadModel<Total> = ReadModel::new("totals").unwrap();
    refused(table.get(NoConnection, 1).await, Kind::Invalid, "needs a connection");
}

#[cfg(feature = "sqlx")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_works_in_sqlx() {
    let outbox = prepared("ev_read_models_sqlx").await;
    let dsn = crate::shop::server().await.dsn("ev_read_models_sqlx");
    let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(&dsn).await.unwrap();
    let totals: ReadModel<Total> = ReadModel::new("totals").unwrap();
    totals.insert(&mut conn, &rows()[1]).await.unwrap();
    let page = totals.find(&mut conn, &Query::new().contains("tags", "b").with_total()).await.unwrap();
    assert_eq!((page.items, page.total), (vec![rows()[1].clone()], Some(1)));
    drop(outbox);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn columns_of_all_types_keys_of_several_columns_and_quoted_names() {
    let outbox = prepared("ev_read_models_types").await;
    let session = outbox.session().await.unwrap();
    let on = &**session;
    let pairs: ReadModel<Value> = ReadModel::new("pairs").unwrap();
    for note in ["x", "confidential"] {
        pairs.upsert(on, &json!({"a": 1, "b": "x", "note": note})).await.unwrap();
    }
    pairs.upsert(on, &json!({"a": 1, "b": "x"})).await.unwrap();
    assert_eq!(pairs.get(on, (1, "x")).await.unwrap(), json!({"a": 1, "b": "x", "note": "confidential"}));
    pairs.insert(on, &json!({"a": 1, "b": "abcde"})).await.unwrap();
    // A cast to varchar(5) would cut the value, and find the row.
    assert_eq!(pairs.count(on, &Query::new().equal("b", "abcdef")).await.unwrap(), 0);
    assert_eq!(pairs.get_many(on, [(1, "abcde"), (1, "x"), (2, "x")]).await.unwrap().len(), 2);
    refused(pairs.get(on, 1).await, Kind::Invalid, "2 columns");
    refused(pairs.get(on, (1, "x", 2)).await, Kind::Invalid, "2 columns");

    let totals: ReadModel<Value> = ReadModel::new("totals").unwrap();
    let row = json!({"id": 1, "price": 0.5, "at": "2026-01-01T02:00:00+02:00", "facts": {"a": [1, 2], "b": null}});
    totals.insert(on, &row).await.unwrap();
    let q = Query::new;
    for query in [
        q().equal("at", "2026-01-01T00:00:00Z"),
        q().is_in("at", ["2026-01-01T00:00:00Z"]),
        q().equal("facts", json!({"b": null, "a": [1, 2]})),
        q().contains("facts", json!({"a": [2]})),
        q().is_in("facts", [json!({"b": null, "a": [1, 2]})]),
        q().equal("price", "0.50"),
        q().equal("tags", None::<Value>),
    ] {
        assert_eq!(totals.count(on, &query).await.unwrap(), 1, "{query:?}");
    }
    totals.update(on, 1, &json!({"tags": ["a\"b\\c", "NULL", null, ""]})).await.unwrap();
    let tags = json!(["a\"b\\c", "NULL", null, ""]);
    assert_eq!(totals.count(on, &q().equal("tags", &tags)).await.unwrap(), 1);
    assert_eq!(totals.get(on, 1).await.unwrap()["tags"], tags);
    refused(totals.count(on, &q().is_in("tags", [["a"]])).await, Kind::Invalid, "is an array");
    refused(totals.count(on, &q().contains("amount", 1)).await, Kind::Invalid, "contains nothing");
    refused(totals.count(on, &q().equal("amount", json!({}))).await, Kind::Invalid, "no such values");
    refused(totals.count(on, &q().equal("amount", "many")).await, Kind::Invalid, "22P02");
    // A column that was added is known, although the table was described before.
    session.batch_execute("alter table totals add column extra int default 7").await.unwrap();
    assert_eq!(totals.count(on, &q().equal("extra", 7)).await.unwrap(), 1);

    let quoted: ReadModel<Value> = ReadModel::new("shop.To\"tals").unwrap();
    let id = "6f1ad6c4-8f7e-4a3b-9f0a-0c1d2e3f4a5b";
    let row = json!({"_row": id, "order": {"z": 1, "a": [1.10]}, "code": "ab "});
    quoted.insert(on, &row).await.unwrap();
    assert_eq!(quoted.get(on, id.to_uppercase()).await.unwrap(), row);
    assert_eq!(quoted.get_many(on, [id.to_uppercase()]).await.unwrap().len(), 1);
    assert_eq!(quoted.count(on, &q().equal("order", json!({"a": [1.1], "z": 1})).order_by("order")).await.unwrap(), 1);
    assert_eq!(quoted.find(on, &q().equal("code", "ab").order_by("order")).await.unwrap().items.len(), 1);

    refused(ReadModel::<Value>::new("nothing").unwrap().get(on, 1).await, Kind::NotFound, "no table");
    refused(ReadModel::<Value>::new("no_key").unwrap().get(on, 1).await, Kind::Invalid, "no primary key");
    let typed: ReadModel<Total> = ReadModel::new("pairs").unwrap();
    let error = typed.get(on, (1, "x")).await.unwrap_err();
    assert!(error.kind() == Kind::Invalid && !error.report().contains("confidential"), "{}", error.report());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_changes_is_described_again() {
    let outbox = prepared("ev_read_models_change").await;
    let session = outbox.session().await.unwrap();
    let on = &**session;
    let q = Query::new;
    let late: ReadModel<Value> = ReadModel::new("no_key").unwrap();
    refused(late.insert(on, &json!({"a": 1})).await, Kind::Invalid, "no primary key");
    session.batch_execute("alter table no_key add primary key (a)").await.unwrap();
    late.insert(on, &json!({"a": 1})).await.unwrap();

    // A value that is above the old type is refused once.
    let above = q().equal("a", i64::MAX);
    assert_eq!(late.count(on, &q().equal("a", 1)).await.unwrap(), 1);
    session.batch_execute("alter table no_key alter a type bigint").await.unwrap();
    refused(late.count(on, &above).await, Kind::Invalid, "22003");
    assert_eq!(late.count(on, &above).await.unwrap(), 0);
    session.batch_execute("truncate no_key; alter table no_key drop a, add b int primary key").await.unwrap();
    assert!(late.count(on, &q().equal("a", 1)).await.is_err());
    refused(late.count(on, &q().equal("a", 1)).await, Kind::Invalid, "no column \"a\"");
    late.insert(on, &json!({"b": 2})).await.unwrap();
    assert_eq!(late.get(on, 2).await.unwrap(), json!({"b": 2}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extreme_values_and_hostile_names_stop_nothing() {
    let outbox = prepared("ev_read_models_extreme").await;
    let session = outbox.session().await.unwrap();
    let on = &**session;
    let q = Query::new;
    session
        .batch_execute("create table extremes (id int, n numeric, at timestamptz, day date, f float8, s text, j jsonb, primary key (id) include (n))")
        .await
        .unwrap();
    let extremes: ReadModel<Value> = ReadModel::new("extremes").unwrap();
    let huge: Value = serde_json::from_str("1e131071").unwrap();
    let last = "294276-12-31T23:59:59.999999+00:00";
    let long = "x".repeat(10_000_000);
    for row in [
        json!({"id": 1, "n": huge, "at": last, "day": "5874897-12-31", "f": 1e308, "s": long, "j": [long]}),
        json!({"id": 2, "n": "NaN", "at": "infinity", "day": "-infinity", "f": "-Infinity"}),
        json!({"id": 3, "n": "-Infinity", "at": "4714-11-24 00:00:00+00 BC", "f": "NaN"}),
    ] {
        extremes.upsert(on, &row).await.unwrap();
        extremes.upsert(on, &row).await.unwrap();
    }
    let page = extremes.find(on, &q().order_by("at").with_total()).await.unwrap();
    assert_eq!(page.items.iter().map(|row| row["id"].to_string()).collect::<Vec<_>>(), ["3", "1", "2"]);
    assert_eq!((page.items[1]["at"].as_str(), page.items[2]["at"].as_str()), (Some(last), Some("infinity")));
    assert_eq!(page.items[1]["n"].to_string().len(), 131_072);
    for (query, expected) in [
        (q().equal("n", &huge), 1),
        (q().equal("n", &page.items[1]["n"]), 1),
        (q().equal("n", "NaN"), 1),
        (q().equal("at", last), 1),
        (q().equal("at", "infinity"), 1),
        (q().equal("s", &long), 1),
        (q().like("s", &long), 1),
        (q().contains("j", &long), 1),
        (q().equal("s", "'); drop table extremes; --"), 0),
    ] {
        assert_eq!(extremes.count(on, &query).await.unwrap(), expected, "{query:?}");
    }
    for row in [json!({"id": 4, "s": "a\0b"}), json!({"id": 4, "j": {"a": "\0"}}), json!({"id": 4, "n": "1e131072"})] {
        refused(extremes.insert(on, &row).await, Kind::Invalid, "22");
    }
    refused(extremes.find(on, &q().equal("s", "a\0b")).await, Kind::Invalid, "22021");
    for name in ["id\" or true --", "id; drop table extremes", "\"id\"", "_row.id", "ctid", "\0", ""] {
        refused(extremes.find(on, &q().equal(name, 1)).await, Kind::Invalid, "no column");
        refused(extremes.find(on, &q().order_by_desc(name)).await, Kind::Invalid, "no column");
        refused(extremes.insert(on, &json!({"id": 4, name: 1})).await, Kind::Invalid, "no column");
        refused(extremes.update(on, 1, &json!({name: 1})).await, Kind::Invalid, "no column");
    }
    for name in ["extremes\"; drop table extremes; --", "extremes as x", "EXTREMES", "pg_class; --"] {
        let other: ReadModel<Value> = ReadModel::new(name).unwrap();
        refused(other.clear(on).await, Kind::NotFound, "no table");
    }
    assert_eq!(extremes.count(on, &q()).await.unwrap(), 3);
}
