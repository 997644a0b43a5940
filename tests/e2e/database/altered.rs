//! Altered tables, and values that do not come from an argument, are refused with a clear error.

use outbox_harness::tokio_postgres::Client;
use outbox_tests::{PATIENCE, bare_server, explain, one, outbox_harness, refused, server, settle};

async fn run(db: &Client, sql: &str) {
    db.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", explain(&e)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_altered_is_refused_until_that_is_taken_back() {
    let db = bare_server().await.database("altered").await.unwrap();
    let enqueue = "select outbox.enqueue('a.b', '{}', tenant => 'acme', publisher => 'shop')";
    run(&db, enqueue).await;
    let mut refusals = 0;
    for (table, change, back) in [
        ("message", "add column extra int", "drop column extra"),
        ("message", "alter content_type type varchar(5)", "alter content_type type text"),
        ("message", "alter max_attempts type bigint", "alter max_attempts type int"),
        ("topic", "add column extra int default 5", "drop column extra"),
        (
            "topic",
            "alter active drop default, alter active type int using active::int",
            "alter active type boolean using active::int::boolean",
        ),
        ("publisher", "alter topic_template type bytea using null", "alter topic_template type text using null"),
        ("_grant", "add column extra text", "drop column extra"),
        ("_grant", "alter role type name", "alter role type text"),
    ] {
        // PostgreSQL refuses some of these changes, because a view depends on the column.
        if db.batch_execute(&format!("alter table outbox.{table} {change}")).await.is_err() {
            continue;
        }
        refusals += 1;
        for statement in [enqueue, "select outbox.enqueue_many('a.b', '{1,2}')"] {
            let error = refused(&db, statement).await;
            assert_eq!(error.code().code(), "55000", "{table} {change}: {error:?}");
            assert!(error.message().contains(table) && error.hint().is_some(), "{error:?}");
        }
        // An added and dropped column stays in the catalog as a dropped column.
        run(&db, &format!("alter table outbox.{table} {back}")).await;
        run(&db, enqueue).await;
        run(&db, "select outbox.enqueue_many('a.b', '{1,2}')").await;
    }
    assert!(refusals >= 5, "{refusals}");
    assert_eq!(
        one::<i64>(&db, "select count(*) from outbox.message where tenant = 'acme' or payload <> '{}'").await,
        one::<i64>(&db, "select count(*) from outbox.message").await
    );
    // A table in the place of a sequence is refused, too.
    run(
        &db,
        "begin; alter sequence outbox._message_segment rename to gone; create table outbox._message_segment (n bigint)",
    )
    .await;
    assert_eq!(refused(&db, enqueue).await.code().code(), "55000");
    run(&db, "rollback").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_of_every_kind_may_be_added_and_the_dispatcher_survives_what_was_altered() {
    let db = server().await.database("indexed").await.unwrap();
    run(&db, "select outbox.subscribe('jobs', '{a.#}')").await;
    for index in [
        "using brin (enqueued_at)",
        "using hash (topic)",
        "using gin (payload)",
        "(lower(topic))",
        "(topic) where tenant is not null",
        "using brin (id int8_minmax_multi_ops)",
        "(id) include (topic)",
    ] {
        run(&db, &format!("create index on outbox.message {index}")).await;
    }
    run(&db, "select outbox.enqueue('a.b', jsonb_build_object('i', i)) from generate_series(1, 500) i").await;
    run(&db, "select outbox.enqueue_many('a.b', array_agg(to_jsonb(i))) from generate_series(1, 500) i").await;
    settle(&db).await;
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery_status").await, 1000);
    // Another index that has the name of an outbox index is not used in its place.
    run(&db, "drop index outbox._message_00_id; create index _message_00_id on outbox._message_00 (priority)").await;
    run(&db, "select outbox.enqueue('a.c', '{}')").await;
    settle(&db).await;
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery_status").await, 1001);
    // The dispatcher writes attempts, counters and the message counters.
    run(
        &db,
        "alter table outbox.message_counter add column extra int; alter table outbox.counter add column extra int",
    )
    .await;
    run(&db, "select outbox.enqueue('a.d', '{}')").await;
    outbox_harness::wait_until("the dispatcher says what is wrong", PATIENCE, async || {
        server().await.log().contains("has been altered")
    })
    .await;
    run(&db, "alter table outbox.message_counter drop column extra; alter table outbox.counter drop column extra")
        .await;
    settle(&db).await;
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery_status").await, 1002);
    assert!(!server().await.log().contains("terminated by signal"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_has_the_limits_of_the_argument_it_stands_for() {
    let db = bare_server().await.database("settings").await.unwrap();
    for (context, code) in [
        (r#"{"tenant":"acme\u0000x"}"#, "22023"),
        (r#"{"publisher":"a\u0000"}"#, "22023"),
        (r#"{"metadata":{"a":"\u0000"}}"#, "22023"),
        (r#"{"metadata":{"a\u0000":[1]}}"#, "22023"),
        (r#"{"metadata":{"a":[{"b":"x\u0000"}]}}"#, "22023"),
        (r#"{"metadata":[1]}"#, "22023"),
        (r#"{"tenant":5}"#, "22023"),
        ("[]", "22023"),
        ("{", "22023"),
    ] {
        let error =
            refused(&db, &format!("set pg_outbox.context = '{context}'; select outbox.enqueue('a', '{{}}')")).await;
        assert_eq!(error.code().code(), code, "{context}: {error:?}");
    }
    for long in [
        "set_config('pg_outbox.context', jsonb_build_object('tenant', repeat('x', 256))::text, false)",
        "set_config('pg_outbox.context', jsonb_build_object('publisher', repeat('x', 9600000))::text, false)",
        "set_config('pg_outbox.context', jsonb_build_object('metadata', jsonb_build_object('a', repeat('x', 17000)))::text, false)",
        "set_config('pg_outbox.context', jsonb_build_object('other', repeat('x', 1000000))::text, false)",
        "set_config('pg_outbox.context', '', false), set_config('pg_outbox.publisher', repeat('x', 256), false)",
        "set_config('pg_outbox.publisher', '', false), outbox.set_context(publisher => repeat('x', 256))",
    ] {
        let error = refused(&db, &format!("begin; select {long}; select outbox.enqueue('a', '{{}}')")).await;
        assert_eq!(error.code().code(), "54000", "{long}: {error:?}");
        assert!(error.message().len() < 300);
        run(&db, "rollback").await;
    }
    run(&db, r#"reset pg_outbox.context; begin; select set_config('pg_outbox.context', '{"tenant":"é","metadata":{"a":"\\u0000"}}', true); select outbox.enqueue('a', '{}'); commit"#).await;
    assert_eq!(one::<String>(&db, "select tenant || (metadata ->> 'a') from outbox.message").await, "é\\u0000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_that_cannot_be_worked_with_is_refused_in_plain_words() {
    let db = bare_server().await.database("odd_json").await.unwrap();
    run(&db, "select outbox.subscribe('jobs', '{a}')").await;
    let deep = "(repeat('{\"a\":', 200) || '1' || repeat('}', 200))::jsonb";
    let mut asked = 0;
    for json in ["'{\"n\": 1e400}'::jsonb", "'{\"SECRET\": -1e999}'::jsonb", deep] {
        let functions: Vec<(String, String)> = db
            .query(
                "select p.proname::text, a.name from pg_proc p, unnest(p.proargnames[:p.pronargs], p.proargtypes::oid[]) a(name, type)
                where p.pronamespace = 'outbox'::regnamespace and a.type = 'jsonb'::regtype and a.name <> '' and p.prokind = 'f' order by 1, 2",
                &[],
            )
            .await
            .unwrap()
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        for (function, argument) in functions {
            let others = match function.as_str() {
                "enqueue" | "enqueue_bytes" if argument != "payload" => "'a', '', ",
                "enqueue_many" if argument != "payload" => "'a', '{1}', ",
                "subscribe" => "'other', '{a}', ",
                "alter_subscription" => "'jobs', ",
                "read" => "0, ",
                "create_endpoint" => "'e', 'https://example.com/', ",
                _ => continue,
            };
            let statement = format!("select * from outbox.{function}({others}\"{argument}\" => {json})");
            asked += 1;
            // Some functions only store the value.
            let Err(error) = db.batch_execute(&statement).await else { continue };
            let error = error.as_db_error().unwrap_or_else(|| panic!("{statement}: {error}")).clone();
            assert_ne!(error.code().code(), "XX000", "{statement}: {error:?}");
            let detail = error.detail().unwrap_or_default();
            assert!(!detail.contains(".rs") && !detail.contains("SECRET") && detail.len() < 300, "{error:?}");
        }
    }
    let error = refused(&db, "select outbox.enqueue('a', '1', headers => '{\"n\": 1e400}')").await;
    assert_eq!(error.code().code(), "22023", "{error:?}");
    // Metadata is passed on as it was written, with any number in it.
    db.batch_execute("select outbox.enqueue('a', '1', metadata => '{\"n\": 1e400}')").await.unwrap();
    assert!(asked > 30, "{asked}");
}
