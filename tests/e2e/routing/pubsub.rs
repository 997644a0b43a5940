//! Subscriptions that change: where they begin, which messages they match, hold, skip or refuse. Routing gives the same
//! answer live, after a crash, and in explain_routing().

use std::collections::BTreeMap;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, Stop, wait_until};
use outbox_tests::{PATIENCE, bare_server, one, outbox_harness, refused, rows, server, settle};

async fn run(db: &Client, sql: &str) {
    db.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", outbox_tests::explain(&e)));
}

/// Creates a database with an endpoint for each path.
async fn shop(name: &str, receiver: &Receiver, endpoints: &[&str]) -> Client {
    let db = server().await.database(name).await.unwrap();
    for endpoint in endpoints {
        db.execute("select outbox.create_endpoint($1, $2)", &[endpoint, &receiver.url(&format!("/{endpoint}"))])
            .await
            .unwrap();
    }
    db
}

async fn enqueue(db: &Client, from: i32, to: i32) {
    db.execute(
        "select outbox.enqueue('order.created', jsonb_build_object('n', n), 'k' || n) from generate_series($1::int, $2) n",
        &[&from, &to],
    )
    .await
    .unwrap();
}

/// Returns the numbers in the payloads that arrived at an endpoint, sorted.
fn at(receiver: &Receiver, endpoint: &str) -> Vec<i64> {
    let mut numbers: Vec<i64> =
        receiver.at(&format!("/{endpoint}")).iter().map(|a| a.json()["n"].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_starts_where_it_is_told() {
    let receiver = Receiver::start().unwrap();
    let db = shop("starts", &receiver, &["latest", "earliest", "position", "time"]).await;
    enqueue(&db, 1, 5).await;
    settle(&db).await;
    let position: i64 = one(&db, "select outbox.head()").await;
    let time: String = one(&db, "select clock_timestamp()::text").await;
    enqueue(&db, 6, 9).await;
    settle(&db).await;
    run(&db, "select outbox.subscribe('latest', '{order.#}', 'latest')").await;
    run(&db, "select outbox.subscribe('earliest', '{order.#}', 'earliest', start => 'earliest')").await;
    run(&db, &format!("select outbox.subscribe('position', '{{order.#}}', 'position', start => '{position}')")).await;
    run(&db, &format!("select outbox.subscribe('time', '{{order.#}}', 'time', start => '{time}')")).await;
    enqueue(&db, 10, 12).await;
    settle(&db).await;
    assert_eq!(at(&receiver, "latest"), [10, 11, 12]);
    assert_eq!(at(&receiver, "earliest"), (1..=12).collect::<Vec<_>>());
    assert_eq!(at(&receiver, "position"), (5..=12).collect::<Vec<_>>());
    assert_eq!(at(&receiver, "time"), (6..=12).collect::<Vec<_>>());

    for (start, state) in [("'4711'", "OB009"), ("'yesterday evening'", "22023"), ("'nonsense'", "22023")] {
        let error = refused(&db, &format!("select outbox.subscribe('x', '{{#}}', 'time', start => {start})")).await;
        assert_eq!(error.code().code(), state, "{start}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_delivered_once_although_the_server_crashes() {
    let receiver = Receiver::start().unwrap();
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("crash").await.unwrap();
    db.execute("select outbox.create_endpoint('e', $1)", &[&receiver.url("/e")]).await.unwrap();
    enqueue(&db, 1, 500).await;
    settle(&db).await;
    // The control message is the last message of the feed, so no later record tells the next incarnation that it was routed.
    run(&db, "select outbox.subscribe('all', '{order.#}', 'e', start => 'earliest')").await;
    settle(&db).await;
    server.restart(Stop::Immediate).await.unwrap();
    let db = server.connect("crash").await.unwrap();
    enqueue(&db, 501, 502).await;
    settle(&db).await;
    assert_eq!(at(&receiver, "e"), (1..=502).collect::<Vec<_>>());
}

/// Nothing matches, so there is nothing to record but the progress.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_has_caught_up_with_a_long_history_says_so() {
    let db = shop("caught_up", &Receiver::start().unwrap(), &[]).await;
    enqueue(&db, 1, 50_000).await;
    settle(&db).await;
    run(&db, "select outbox.subscribe('rare', '{rare.#}', start => 'earliest')").await;
    wait_until("the lag is none", PATIENCE, async || {
        one::<Option<i64>>(&db, "select lag_positions from outbox.subscription_status").await == Some(0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_subscription_matches_anew_behind_the_change() {
    let receiver = Receiver::start().unwrap();
    let db = shop("altered", &receiver, &["a", "b"]).await;
    run(&db, "select outbox.subscribe('s', '{order.created}', 'a', filter => '{\"key\": \"k1\"}')").await;
    run(&db, "select outbox.subscribe('pulled', '{order.created}', filter => '{\"key\": \"k2\"}')").await;
    enqueue(&db, 1, 3).await;
    // One transaction contains messages before the change, the change, and messages after it.
    db.batch_execute(
        "begin;
        select outbox.enqueue('order.created', '{\"n\": 4}', 'k2');
        select outbox.alter_subscription('s', filter => '{\"key\": \"k2\"}');
        select outbox.alter_subscription('pulled', reset => '{filter}');
        select outbox.enqueue('order.created', '{\"n\": 5}', 'k2');
        select outbox.enqueue('order.created', '{\"n\": 6}', 'k1');
        commit",
    )
    .await
    .unwrap();
    settle(&db).await;
    assert_eq!(at(&receiver, "a"), [1, 5]);
    let pulled: Vec<i64> = db
        .query("select (payload ->> 'n')::bigint from outbox.claim('pulled', 'w', 100) order by position", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(pulled, [2, 4, 5, 6]);

    // The explanation of each position agrees with its routing.
    let wrong: i64 = one(
        &db,
        "select count(*)
        from outbox.read(0, 100) m
        cross join lateral outbox.explain_routing(m.topic, m.payload, m.key, at_position => m.position) e
        where m.topic = 'order.created' and e.subscription = 's'
            and e.matches <> exists (select from outbox.attempt a where a.message_id = m.message_id)",
    )
    .await;
    assert_eq!(wrong, 0);
    run(
        &db,
        "select outbox.alter_subscription('s', '{order.#}', endpoint => 'b', max_attempts => 3, reset => '{filter}')",
    )
    .await;
    enqueue(&db, 7, 7).await;
    settle(&db).await;
    assert_eq!(at(&receiver, "b"), [7]);
    assert_eq!(refused(&db, "select outbox.alter_subscription('nobody')").await.code().code(), "OB001");
    assert_eq!(refused(&db, "select outbox.alter_subscription('s', reset => '{name}')").await.code().code(), "22023");
    assert_eq!(
        refused(&db, "select outbox.alter_subscription('pulled', endpoint => 'a')").await.code().code(),
        "OB004"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_subscription_gets_everything_when_it_is_resumed() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/e", |arrival, _| Reply::status(if arrival.json()["n"] == 0 { 500 } else { 200 }));
    let db = shop("paused", &receiver, &["e", "other"]).await;
    run(&db, "select outbox.subscribe('s', '{order.#}', 'e'), outbox.subscribe('o', '{order.#}', 'other')").await;
    run(&db, "select outbox.subscribe('pulled', '{order.#}')").await;
    enqueue(&db, 0, 2).await;
    settle(&db).await;
    let tries = receiver.at("/e").len();
    run(&db, "select outbox.pause_subscription('s'), outbox.pause_subscription('pulled')").await;
    enqueue(&db, 3, 50).await;
    // A retry that becomes due is held as well.
    run(
        &db,
        "update outbox.delivery set due_at = clock_timestamp() where not pull; select outbox_internal.deliveries_changed()",
    )
    .await;
    settle(&db).await;
    assert_eq!(at(&receiver, "other"), (0..=50).collect::<Vec<_>>(), "others are not concerned");
    assert_eq!(receiver.at("/e").len(), tries, "nothing is sent while it is paused");
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.claim('pulled', 'w', 100)").await, 0);
    let reason: String =
        one(&db, "select reason from outbox.explain_routing('order.created') where subscription = 's'").await;
    assert!(reason.contains("paused"), "{reason}");
    run(&db, "select outbox.resume_subscription('s'), outbox.resume_subscription('pulled')").await;
    settle(&db).await;
    wait_until("the retry is sent", PATIENCE, async || receiver.at("/e").len() == tries + 49).await;
    let mut arrived = at(&receiver, "e");
    arrived.dedup();
    assert_eq!(arrived, (0..=50).collect::<Vec<_>>());
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.claim('pulled', 'w', 100)").await, 51);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_ended_subscription_has_not_got_is_logged_as_skipped() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/e", |_, count| Reply::status(if count == 0 { 503 } else { 200 }));
    let db = shop("ended", &receiver, &["e"]).await;
    run(&db, "select outbox.subscribe('s', '{order.#}', 'e'), outbox.subscribe('pulled', '{order.#}')").await;
    enqueue(&db, 1, 1).await;
    settle(&db).await;
    run(&db, "select outbox.pause_subscription('s')").await;
    enqueue(&db, 2, 4).await;
    settle(&db).await;
    run(&db, "select outbox.unsubscribe('s'), outbox.unsubscribe('pulled')").await;
    enqueue(&db, 5, 5).await;
    settle(&db).await;
    wait_until("everything is skipped", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.delivery").await == 0
    })
    .await;
    let skipped = rows(
        &db,
        "select s.name, count(*) as n, min(a.error) as error from outbox.attempt a
        join outbox.subscription s on s.id = a.subscription_id where a.outcome = 'skipped' group by 1 order by 1",
    )
    .await;
    let of = |i: usize, column: &str| skipped[i][column].clone().unwrap();
    assert_eq!((of(0, "name"), of(0, "n"), of(0, "error")), ("pulled".into(), "4".into(), "unsubscribed".into()));
    assert_eq!((of(1, "name"), of(1, "n")), ("s".into(), "4".into()));
    assert_eq!(receiver.total(), 1);
    let list = rows(&db, "select message_topic, reason from outbox.skipped('order.*')").await;
    assert_eq!(list.len(), 1);
    assert_eq!(list[0]["reason"].as_deref(), Some("inactive"));

    // Subscribing with the same name reopens the subscription, from the requested position.
    let before: i32 = one(&db, "select id from outbox.subscription where name = 's'").await;
    run(&db, "select outbox.subscribe('s', '{order.#}', 'e', start => 'earliest')").await;
    settle(&db).await;
    assert_eq!(
        one::<i32>(&db, "select id from outbox.subscription where name = 's' and deleted_at is null").await,
        before
    );
    assert_eq!(at(&receiver, "e"), [1, 1, 2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_up_again_at_once_loses_nothing() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/slow", |_, _| Reply::status(200).after(std::time::Duration::from_millis(20)));
    let db = shop("again", &receiver, &["e", "slow"]).await;
    run(&db, "select outbox.subscribe('s', '{order.#}', 'e'), outbox.pause_subscription('s')").await;
    enqueue(&db, 1, 4).await;
    settle(&db).await;
    // The router sees the end and the new beginning at once.
    run(&db, "begin; select outbox.unsubscribe('s'); select outbox.subscribe('s', '{order.#}', 'e'); commit").await;
    enqueue(&db, 5, 5).await;
    settle(&db).await;
    assert_eq!(at(&receiver, "e"), [5]);
    let skipped: i64 = one(&db, "select count(*) from outbox.attempt where outcome = 'skipped'").await;
    assert_eq!(skipped, 4, "what it had not got is logged");

    // The second subscription begins at the start of the feed, while some of its deliveries are in flight.
    run(&db, "select outbox.unsubscribe('s'), outbox.subscribe('t', '{order.#}', 'slow')").await;
    enqueue(&db, 6, 200).await;
    wait_until("some have arrived", PATIENCE, async || receiver.at("/slow").len() >= 20).await;
    run(
        &db,
        "begin; select outbox.unsubscribe('t'); select outbox.subscribe('t', '{order.#}', 'slow', start => 'earliest'); commit",
    )
    .await;
    settle(&db).await;
    let mut arrived = at(&receiver, "slow");
    arrived.dedup();
    assert_eq!(arrived, (1..=200).collect::<Vec<_>>());
    let open: i64 =
        one(&db, "select cardinality(lag_subscriptions)::bigint from outbox.checkpoint order by id desc limit 1").await;
    assert_eq!(open, 0, "nobody is left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_look_at_key_headers_aggregate_tenant_and_payload() {
    let receiver = Receiver::start().unwrap();
    let db = shop("filters", &receiver, &["e"]).await;
    for (name, filter) in [
        ("key", r#"{"key": ["order-*", "user-?"]}"#),
        ("headers", r#"{"headers": {"Severity": ["critical", "high"]}}"#),
        ("aggregate", r#"{"aggregate_type": "order", "aggregate_id": "4*"}"#),
        ("tenant", r#"{"tenant": "acme"}"#),
        ("predicate", r#"{"payload": "$.amount > 100"}"#),
        ("expression", r#"{"payload": "$.items[*] ? (@.qty > 10)", "tenant": "acme"}"#),
    ] {
        run(&db, &format!("select outbox.subscribe('{name}', '{{t.*}}', filter => '{filter}')")).await;
    }
    run(
        &db,
        r#"select outbox.enqueue('t.a', '{"amount": 101}', 'order-1');
        select outbox.enqueue('t.a', '{"amount": 100, "items": [{"qty": 1}, {"qty": 11}]}', 'user-12', tenant => 'acme');
        select outbox.enqueue('t.a', '{"amount": "many"}', 'user-1', '{"severity": "high"}', tenant => 'other');
        select outbox.enqueue('t.a', '[]', aggregate_type => 'order', aggregate_id => '42', headers => '{"severity": "low"}');
        select outbox.enqueue_bytes('t.a', '{"amount": 1000}', 'application/json');
        select outbox.enqueue_notification('acme', 't.a', 'Title', severity => 'critical')"#,
    )
    .await;
    settle(&db).await;
    let mut got = BTreeMap::new();
    let places = db
        .query(
            "select s.name, array_agg(p.place order by p.place)
            from outbox.delivery d
            join outbox.subscription s on s.id = d.subscription_id
            join (
                select m.id, row_number() over (order by m.id) as place from outbox.message m where m.topic = 't.a'
            ) p on p.id = d.message_id
            group by 1",
            &[],
        )
        .await
        .unwrap();
    for row in places {
        got.insert(row.get(0), row.get(1));
    }
    let expected: [(&str, &[i64]); 6] = [
        ("aggregate", &[4]),
        ("expression", &[2]),
        ("headers", &[3, 6]),
        ("key", &[1, 3]),
        ("predicate", &[1]),
        ("tenant", &[2, 6]),
    ];
    let expected: BTreeMap<String, Vec<i64>> = expected.iter().map(|(n, p)| ((*n).to_owned(), p.to_vec())).collect();
    assert_eq!(got, expected);
    let reasons = rows(
        &db,
        r#"select subscription, matches, reason from outbox.explain_routing('t.a', '{"amount": 5}', 'order-9', tenant => 'acme')"#,
    )
    .await;
    let reason =
        |name: &str| reasons.iter().find(|r| r["subscription"].as_deref() == Some(name)).unwrap()["reason"].clone();
    assert_eq!(reason("predicate").as_deref(), Some("filter: payload"));
    assert_eq!(reason("aggregate").as_deref(), Some("filter: aggregate_id, aggregate_type"));
    assert_eq!(reason("tenant").as_deref(), Some("matches"));
    for filter in [r#"{"payload": "$.a >"}"#, r#"{"payload": ""}"#, r#"{"colour": "red"}"#] {
        let error = refused(&db, &format!("select outbox.subscribe('bad', '{{#}}', 'e', filter => '{filter}')")).await;
        assert_eq!(error.code().code(), "22023", "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_takes_too_long_is_its_subscriptions_failure_alone() {
    let receiver = Receiver::start().unwrap();
    let db = shop("slow_filter", &receiver, &["slow", "quick"]).await;
    // This path takes cubic time in the length of the array, which is hours for a thousand numbers.
    let path = "$.a[*] ? (exists(@ ? (@ >= 0 && exists($.a[*] ? (@ >= 0 && exists($.a[*] ? (@ < 0)))))))";
    run(
        &db,
        &format!(
            "select outbox.subscribe('slow', '{{order.#}}', 'slow', filter => '{{\"payload\": \"{path}\"}}'),
                outbox.subscribe('slow pull', '{{order.#}}', filter => '{{\"payload\": \"{path}\"}}'),
                outbox.subscribe('quick', '{{order.#}}', 'quick', filter => '{{\"payload\": \"$.n > 0\"}}')"
        ),
    )
    .await;
    run(
        &db,
        "select outbox.enqueue('order.x', jsonb_build_object('n', 1, 'a', array(select generate_series(1, 3000))));
        select outbox.enqueue('order.x', '{\"n\": 2, \"a\": [-1, 1]}')",
    )
    .await;
    wait_until("the quick one has both", PATIENCE, async || at(&receiver, "quick") == [1, 2]).await;
    wait_until("the slow ones have what is quick", PATIENCE, async || {
        at(&receiver, "slow") == [2] && one::<i64>(&db, "select count(*) from outbox.delivery").await == 1
    })
    .await;
    settle(&db).await;
    let dead = rows(&db, "select reason, last_error from outbox.dead_letter order by subscription_id").await;
    assert_eq!(dead.len(), 2);
    for letter in dead {
        assert_eq!(letter["reason"].as_deref(), Some("filter_failed"));
        assert!(letter["last_error"].as_ref().unwrap().contains("timeout"), "{letter:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_that_come_and_go_get_exactly_what_lies_between() {
    let db = server().await.database("interleaved").await.unwrap();
    let server = server().await;
    // Three sessions run at once. One enqueues messages, and two create and change subscriptions.
    let producer = {
        let db = server.connect("interleaved").await.unwrap();
        tokio::spawn(async move {
            for n in 0..600 {
                db.execute("select outbox.enqueue($1, '{}')", &[&["t.a", "t.b"][n % 2]]).await.unwrap();
            }
        })
    };
    let mut changers = Vec::new();
    for changer in 0..2 {
        let db = server.connect("interleaved").await.unwrap();
        changers.push(tokio::spawn(async move {
            for n in 0..40 {
                run(&db, &format!("select outbox.subscribe('s{changer}-{n}', '{{t.a}}')")).await;
                if n % 2 == 0 {
                    run(&db, &format!("select outbox.alter_subscription('s{changer}-{n}', '{{t.*}}')")).await;
                }
            }
        }));
    }
    for task in changers {
        task.await.unwrap();
    }
    producer.await.unwrap();
    settle(&db).await;
    // The expected deliveries depend on positions alone.
    let wrong: i64 = one(
        &db,
        "select count(*) from (
            select s.id as subscription_id, m.position
            from outbox.read(0, 10000, array['t.*']) m, outbox.subscription s
            join lateral (
                select v.topics from outbox.subscription_version v
                where v.subscription_id = s.id and v.position < m.position order by v.version desc limit 1
            ) v on true
            where m.message_id is not null and outbox_internal.matches(v.topics, null, m.topic, null, null, null, null, null)
        ) e
        full join outbox.delivery d using (subscription_id, position)
        where e.position is null or d.position is null",
    )
    .await;
    assert_eq!(wrong, 0);
    assert!(one::<i64>(&db, "select count(*) from outbox.delivery").await > 100);
    // The routing record has the same number of matches.
    let counted: i64 = one(&db, "select sum(n) from outbox.routing r, unnest(r.matched) n where n > 0").await;
    assert_eq!(counted, one::<i64>(&db, "select count(*) from outbox.delivery").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switched_off_topic_is_refused_in_sessions_that_know_it_as_active() {
    let server = bare_server().await;
    let a = server.database("registry_sessions").await.unwrap();
    let b = server.connect("registry_sessions").await.unwrap();
    run(&a, "select outbox.create_topic('order.created'); select outbox.enqueue('order.created', '{}')").await;
    // The snapshot of b is older than the change, which b must see nevertheless.
    run(&b, "begin isolation level repeatable read; select outbox.enqueue('order.created', '{}')").await;
    run(&a, "select outbox.alter_topic('order.created', active => false)").await;
    assert_eq!(refused(&a, "select outbox.enqueue('order.created', '{}')").await.code().code(), "OB007");
    run(&b, "commit").await;
    run(&b, "begin isolation level repeatable read; select 1").await;
    assert_eq!(refused(&b, "select outbox.enqueue('order.created', '{}')").await.code().code(), "OB007");
    run(&b, "rollback").await;
    assert_eq!(refused(&b, "select outbox.enqueue('order.created', '{}')").await.code().code(), "OB007");
    // A load under an old snapshot reads the current state, and no older state stays in the cache.
    run(&a, "select outbox.alter_topic('order.created', active => true)").await;
    run(&b, "begin isolation level repeatable read; select outbox.enqueue('order.created', '{}')").await;
    run(&b, "commit; begin isolation level repeatable read; select count(*) from outbox.topic").await;
    run(&a, "select outbox.alter_topic('order.created', active => false)").await;
    run(&b, "select outbox.enqueue('other', '{}')").await;
    assert_eq!(refused(&b, "select outbox.enqueue('order.created', '{}')").await.code().code(), "OB007");
    run(&b, "rollback").await;
    assert_eq!(refused(&b, "select outbox.enqueue('order.created', '{}')").await.code().code(), "OB007");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_logical_replication_applies_is_captured_if_it_is_asked_for() {
    let mut server = Server::start_plain(&[("wal_level", "logical")]).await.unwrap();
    let origin = server.database("origin").await.unwrap();
    let copy = server.database("copy").await.unwrap();
    for db in [&origin, &copy] {
        run(db, "create table t (id int primary key, n int); create table plain (id int primary key)").await;
    }
    run(&copy, "select outbox.capture('t', replicated => true), outbox.capture('plain')").await;
    run(&origin, "create publication p for table t, plain").await;
    run(&origin, "select pg_create_logical_replication_slot('s', 'pgoutput')").await;
    // On a single server, CREATE SUBSCRIPTION would wait for its own transaction while it creates the slot, so the slot
    // exists already.
    let connection =
        format!("host=127.0.0.1 port={} user=postgres dbname=origin password={}", server.port, server.password());
    run(
        &copy,
        &format!(
            "create subscription s connection '{connection}' publication p
                with (create_slot = false, slot_name = 's', copy_data = false)"
        ),
    )
    .await;
    run(
        &origin,
        "insert into t values (1, 1), (2, 2); insert into plain values (1); update t set n = 3 where id = 1;
        update t set id = 5 where id = 2; delete from t where id = 1",
    )
    .await;
    wait_until("the changes are applied and captured", PATIENCE, async || {
        one::<i64>(&copy, "select count(*) from outbox.message").await >= 5
    })
    .await;
    let topics: Vec<String> = copy
        .query("select topic || ' ' || key from outbox.message order by id", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(topics, ["t.insert 1", "t.insert 2", "t.update 1", "t.update 5", "t.delete 1"]);
    // Local writes fire the statement triggers, and are captured once.
    run(&copy, "insert into t values (77, 7)").await;
    assert_eq!(one::<i64>(&copy, "select count(*) from outbox.message where key = '77'").await, 1);
    run(&copy, "alter subscription s disable; alter subscription s set (slot_name = none); drop subscription s").await;
    server.stop(Stop::Fast).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_are_sums_that_survive_the_roll_up() {
    let receiver = Receiver::start().unwrap();
    let db = shop("statistics", &receiver, &["e"]).await;
    run(&db, "select outbox.subscribe('s', '{order.#}', 'e'), outbox.subscribe('acme', '{#}', filter => '{\"tenant\": \"acme\"}')")
        .await;
    for round in 1..=2 {
        run(
            &db,
            "select outbox.enqueue('order.created', jsonb_build_object('n', n), tenant => (array['acme', 'other'])[1 + n % 2])
            from generate_series(1, 100) n;
            select outbox.enqueue('invoice.sent', '{}', tenant => 'other')",
        )
        .await;
        settle(&db).await;
        let stats = rows(
            &db,
            "select 'tenant ' || tenant as what, messages, matched, skipped from outbox.tenant_stats
            union all select 'topic ' || topic, messages, matched, skipped from outbox.topic_stats order by 1",
        )
        .await;
        let got: Vec<String> = stats
            .iter()
            .map(|r| ["what", "messages", "matched", "skipped"].map(|c| r[c].clone().unwrap()).join(" "))
            .collect();
        let n = |per_round: i32| per_round * round;
        assert_eq!(
            got,
            [
                format!("tenant acme {} {} 0", n(50), n(100)),
                format!("tenant other {} {} {}", n(51), n(50), n(1)),
                format!("topic invoice.sent {} 0 {}", n(1), n(1)),
                format!("topic order.created {} {} 0", n(100), n(150)),
            ]
        );
        let row = rows(
            &db,
            "select completed, last_delivery_at is not null as known from outbox.subscription_stats where name = 's'",
        )
        .await;
        assert_eq!(row[0]["completed"].as_deref(), Some(n(100).to_string().as_str()));
        assert_eq!(row[0]["known"].as_deref(), Some("t"));
        // Rolling a leaf up adds it to the totals and empties it. The sums stay the same.
        run(&db, "select outbox_internal.roll_up(), outbox_internal.roll_up_message_counters()").await;
    }
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.message_counter_total").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_captured_row_that_is_too_large_fails_is_skipped_or_is_a_reference() {
    let db = server().await.database("oversize").await.unwrap();
    db.batch_execute(
        "create table doc (id int primary key, small int, body text);
        create function large() returns text language sql as $$ select repeat(md5('x'), 10000) $$",
    )
    .await
    .unwrap();
    let captured = async || {
        one::<String>(
            &db,
            "select coalesce(string_agg(concat(m.payload ->> 'op', ' ', m.key, case when m.payload ? 'oversize' then ' reference' end),
                ', ' order by m.id), '')
            from outbox.message m where m.topic like 'doc.%'",
        )
        .await
    };
    let writes = "insert into doc values (1, 1, 'a'), (2, 1, large()), (3, 1, 'c'); update doc set small = 2 where id = 2; \
        delete from doc where id = 2; delete from doc";
    db.batch_execute("select outbox.capture('doc')").await.unwrap();
    assert_eq!(refused(&db, "insert into doc values (1, 1, 'a'), (2, 1, large())").await.code().code(), "54000");
    assert_eq!(captured().await, "");
    for (style, kept) in [("skip", ""), ("reference", "insert 2 reference, update 2 reference, delete 2 reference")] {
        db.batch_execute(&format!("select outbox.capture('doc', oversize => '{style}'); {writes}")).await.unwrap();
        let all = captured().await;
        assert!(all.contains("insert 1, ") && all.contains("delete 3"), "{style}: {all}");
        let two: Vec<&str> = all.split(", ").filter(|what| what.contains(" 2")).collect();
        assert_eq!(two.join(", "), kept, "{style}: {all}");
    }
    // Row images do not depend on the settings of the writing session.
    db.batch_execute(
        "create table value (id int primary key, f float8, i interval, b bytea, t timestamptz);
        select outbox.capture('value');
        set extra_float_digits = 0; set intervalstyle = 'sql_standard'; set bytea_output = 'escape'; set timezone = 'Asia/Kathmandu';
        insert into value values (1, 0.1::float8 + 0.2::float8, '1 day 02:03:00', '\\x00ff', '2026-01-02 03:04:05+00');
        reset all;
        insert into value values (2, 0.1::float8 + 0.2::float8, '1 day 02:03:00', '\\x00ff', '2026-01-02 03:04:05+00')",
    )
    .await
    .unwrap();
    let same: i64 = one(
        &db,
        "select count(distinct (m.payload -> 'new') - 'id') from outbox.message m where m.topic = 'value.insert'",
    )
    .await;
    assert_eq!(same, 1);
}
