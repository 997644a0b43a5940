//! Read models do the same in a database and in memory.

use pg_outbox::driver::Executor;
use pg_outbox::events::read_model::{NoConnection, Page, Query, ReadModel};
use pg_outbox::{Error, Kind, Outbox};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::shop::outbox;

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

/// Checks all conditions, the order and the pages. Each connection is used once.
async fn find_rows<E: Executor>(on: &mut impl FnMut() -> E, totals: &ReadModel<Total>) {
    let q = Query::new;
    for (query, expected) in [
        (q().equal("amount", 10), vec![1]),
        (q().equal("name", None::<String>), vec![4]),
        (q().not_equal("amount", 10), vec![2, 4, 5]),
        (q().not_equal("amount", None::<i64>), vec![1, 2, 4, 5]),
        (q().above("amount", 20), vec![4, 5]),
        (q().at_least("amount", 20), vec![2, 4, 5]),
        (q().below("amount", 20), vec![1]),
        (q().at_most("amount", 20), vec![1, 2]),
        (q().above("amount", None::<i64>), vec![]),
        (q().is_in("id", [1, 5]), vec![1, 5]),
        (q().is_in("name", ["a%b", "x\"\\,{}"]), vec![5]),
        (q().is_in("id", [0; 0]), vec![]),
        (q().not_in("id", [1, 5]), vec![2, 3, 4]),
        (q().not_in("amount", [10]), vec![2, 4, 5]),
        (q().not_in("amount", [0; 0]), vec![1, 2, 4, 5]),
        (q().not_in("amount", [Some(10), None]), vec![]),
        (q().like("name", "a%"), vec![1, 5]),
        (q().like("name", "a\\%_"), vec![5]),
        (q().like("id", "_"), vec![1, 2, 3, 4, 5]),
        (q().is_null("amount"), vec![3]),
        (q().is_not_null("amount"), vec![1, 2, 4, 5]),
        (q().contains("tags", "b"), vec![2, 5]),
        (q().contains("tags", ["a", "b"]), vec![2]),
        (q().between("amount", 10, 40), vec![1, 2, 4]),
        (q().above("amount", 10).like("name", "b%"), vec![2]),
        (q().equal("name", "'; drop table totals --"), vec![]),
    ] {
        let page = totals.find(on(), &query).await.unwrap();
        assert_eq!(ids(&page), expected, "{query:?}");
        assert_eq!(totals.count(on(), &query).await.unwrap(), expected.len() as u64);
    }
    let find = async |query: Query, connection| ids(&totals.find(connection, &query).await.unwrap());
    assert_eq!(find(q().order_by_desc("amount"), on()).await, [3, 5, 4, 2, 1]);
    assert_eq!(find(q().order_by("amount"), on()).await, [1, 2, 4, 5, 3]);
    let page = totals.find(on(), &q().limit(2).offset(2).with_total()).await.unwrap();
    assert_eq!((ids(&page), page.has_more, page.total), (vec![3, 4], true, Some(5)));
    let page = totals.find(on(), &q().limit(2).offset(3)).await.unwrap();
    assert_eq!(page, Page { items: rows()[3..].to_vec(), has_more: false, total: None });
    let first = totals.find_one(on(), &q().above("amount", 10).order_by_desc("id")).await.unwrap();
    assert_eq!(first.unwrap().id, 5);
    assert_eq!(totals.find_one(on(), &q().above("amount", 100)).await.unwrap(), None);
}

/// The contract of read models, which is that of the other clients.
async fn scenario<E: Executor>(mut on: impl FnMut() -> E, totals: &ReadModel<Total>) {
    for row in rows() {
        totals.insert(on(), &row).await.unwrap();
    }
    assert_eq!(totals.get(on(), 2).await.unwrap(), rows()[1]);
    let many = totals.get_many(on(), [4, 99, 1, 4]).await.unwrap();
    assert_eq!(many, [rows()[3].clone(), rows()[0].clone(), rows()[3].clone()]);
    assert!(totals.get_many(on(), [0; 0]).await.unwrap().is_empty());
    find_rows(&mut on, totals).await;

    refused(totals.insert(on(), &rows()[0]).await, Kind::Conflict, "23505");
    totals.update(on(), 1, &json!({"amount": 11})).await.unwrap();
    totals.update(on(), 1, &json!({})).await.unwrap();
    totals.upsert(on(), &total(2, Some("new"), Some(21), &[])).await.unwrap();
    totals.upsert(on(), &json!({"id": 2, "amount": 22})).await.unwrap();
    totals.upsert(on(), &json!({"id": 6, "name": "f", "amount": 1, "tags": []})).await.unwrap();
    assert_eq!(totals.get(on(), 1).await.unwrap().amount, Some(11));
    assert_eq!(totals.get(on(), 2).await.unwrap(), total(2, Some("new"), Some(22), &[]));
    totals.update(on(), 6, &json!({"id": 7})).await.unwrap();
    assert_eq!(totals.get(on(), 7).await.unwrap().name.as_deref(), Some("f"));
    totals.delete(on(), 7).await.unwrap();
    refused(totals.get(on(), 7).await, Kind::NotFound, "no row with this key");
    refused(totals.update(on(), 7, &json!({"amount": 1})).await, Kind::NotFound, "OB001");
    refused(totals.update(on(), 7, &json!({})).await, Kind::NotFound, "OB001");
    refused(totals.delete(on(), 7).await, Kind::NotFound, "OB001");

    let q = Query::new;
    for (query, text) in [
        (q().equal("nope", 1), "no column \"nope\""),
        (q().order_by("nope"), "The columns are "),
        (q().limit(0), "invalid limit"),
        (q().limit(10_001), "invalid limit"),
        (q().offset(u64::MAX), "invalid limit"),
        (q().is_in("id", vec![1; 10_001]), "more than 10000 values"),
    ] {
        refused(totals.find(on(), &query).await, Kind::Invalid, text);
    }
    refused(totals.get_many(on(), vec![1; 10_001]).await, Kind::Invalid, "too many keys");
    refused(totals.insert(on(), &5).await, Kind::Invalid, "no row");
    refused(totals.insert(on(), &json!({"id": 9, "nope": 1})).await, Kind::Invalid, "no column");
    refused(totals.update(on(), 1, &json!({"nope": 1})).await, Kind::Invalid, "no column");
    refused(totals.delete_many(on(), &q()).await, Kind::Invalid, "needs a condition");
    refused(totals.delete_many(on(), &q().equal("id", 1).limit(1)).await, Kind::Invalid, "neither an order nor a page");
    assert_eq!(totals.delete_many(on(), &q().at_least("amount", 40)).await.unwrap(), 2);
    assert_eq!(totals.clear(on()).await.unwrap(), 3);
    assert_eq!(totals.count(on(), &q()).await.unwrap(), 0);
}

async fn prepared(name: &str) -> Outbox {
    let outbox = outbox(name).await;
    outbox.session().await.unwrap().batch_execute(TABLES).await.unwrap();
    outbox
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_of_a_table_keeps_the_contract() {
    let outbox = prepared("ev_read_models").await;
    let mut session = outbox.session().await.unwrap();
    // In one transaction: no refused call reaches the server, which would end it.
    let tx = session.transaction().await.unwrap();
    scenario(|| &tx, &ReadModel::new("totals").unwrap()).await;
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_read_model_in_memory_keeps_the_contract() {
    scenario(|| NoConnection, &ReadModel::in_memory(&["id"])).await;
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
