//! Events of streams beside messages: subscriptions take them by their source, in one order, and they outlive the ring.

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, refused, rows, server, settle};

async fn run(db: &Client, sql: &str) {
    db.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", outbox_tests::explain(&e)));
}

/// Writes messages with even numbers and events with odd ones, all in one transaction.
async fn write(db: &Client, from: i32, to: i32) {
    run(
        db,
        &format!(
            "do $$ begin
                for n in {from} .. {to} loop
                    if n % 2 = 0 then
                        perform outbox.enqueue('order.sent', jsonb_build_object('n', n), 'k' || n % 3);
                    else
                        perform outbox.append('order-' || n % 3, 'order.placed', jsonb_build_object('n', n));
                    end if;
                end loop;
            end $$"
        ),
    )
    .await;
}

/// Returns the numbers in the payloads that arrived at an endpoint, sorted.
fn at(receiver: &Receiver, endpoint: &str) -> Vec<i64> {
    let mut numbers: Vec<i64> =
        receiver.at(&format!("/{endpoint}")).iter().map(|a| a.json()["n"].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

/// Returns the numbers from one to another of which `keep` is true.
fn numbers(from: i64, to: i64, keep: fn(i64) -> bool) -> Vec<i64> {
    (from..=to).filter(|n| keep(*n)).collect()
}

const ODD: fn(i64) -> bool = |n| n % 2 == 1;
const EVEN: fn(i64) -> bool = |n| n % 2 == 0;

async fn endpoints(db: &Client, receiver: &Receiver, names: &[&str]) {
    for name in names {
        db.execute("select outbox.create_endpoint($1, $2)", &[name, &receiver.url(&format!("/{name}"))]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_takes_its_source_and_nothing_else() {
    let receiver = Receiver::start().unwrap();
    let db = server().await.database("event_sources").await.unwrap();
    endpoints(&db, &receiver, &["messages", "events", "all", "late", "strict"]).await;
    run(
        &db,
        "select outbox.subscribe('messages', '{order.#}', 'messages');
        select outbox.subscribe('events', '{order.#}', 'events', source => 'events', ordering => 'key');
        select outbox.subscribe('all', '{#}', 'all', source => 'all');
        select outbox.subscribe('strict', '{#}', 'strict', source => 'all', ordering => 'strict');
        select outbox.subscribe('of a stream', '{#}', source => 'events',
            filter => '{\"aggregate_type\": \"order\", \"aggregate_id\": \"1\", \"payload\": \"$.n > 0\"}')",
    )
    .await;
    write(&db, 1, 100).await;
    settle(&db).await;
    assert_eq!(at(&receiver, "messages"), numbers(1, 100, EVEN));
    assert_eq!(at(&receiver, "events"), numbers(1, 100, ODD));
    assert_eq!(at(&receiver, "all"), (1..=100).collect::<Vec<_>>());
    // Messages and events of one subscription keep their common order.
    let strict: Vec<i64> = receiver.at("/strict").iter().map(|a| a.json()["n"].as_i64().unwrap()).collect();
    assert_eq!(strict, (1..=100).collect::<Vec<_>>());

    // The rows of the feed are few, although messages and events alternate.
    assert!(one::<i64>(&db, "select count(*) from outbox.feed where segment = -2").await <= 3);

    // Workers get events with the parts of the stream's name as the aggregate.
    let claimed =
        rows(&db, "select key, aggregate_type, aggregate_id, payload from outbox.claim('of a stream', 'w', 100)").await;
    assert_eq!(claimed.len() as i64, one::<i64>(&db, "select outbox.stream_version('order-1')").await);
    for row in &claimed {
        assert_eq!(row["key"].as_deref(), Some("order-1"));
        assert_eq!(row["aggregate_type"].as_deref(), Some("order"));
        assert_eq!(row["aggregate_id"].as_deref(), Some("1"));
    }
    // The same in SQL's words.
    for (source, reason) in [("messages", "source"), ("events", "matches")] {
        let why: String = one(
            &db,
            &format!("select reason from outbox.explain_routing('order.placed', source => '{source}') where subscription = 'events'"),
        )
        .await;
        assert_eq!(why, reason);
    }
    let error = refused(&db, "select outbox.subscribe('x', '{#}', source => 'both')").await;
    assert_eq!(error.code().code(), "22023");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_delivered_and_read_after_the_ring_was_emptied() {
    let receiver = Receiver::start().unwrap();
    let db = server().await.database("events_outlive").await.unwrap();
    endpoints(&db, &receiver, &["history", "old"]).await;
    run(&db, "select outbox.subscribe('old', '{#}', 'old', source => 'events')").await;
    // It lags from the beginning, and holds back no space of messages.
    run(&db, "select outbox.pause_subscription('old')").await;
    for n in 0..4 {
        write(&db, n * 100 + 1, n * 100 + 100).await;
        settle(&db).await;
        for ring in ["message", "feed"] {
            run(&db, &format!("select outbox.rotate('{ring}')")).await;
        }
    }
    run(&db, "select outbox.tick()").await;
    wait_until("everything before is gone", PATIENCE, async || {
        db.batch_execute("select outbox.purge('archive', '1 ms')").await.unwrap();
        one::<i64>(&db, "select count(*) from outbox.message where segment >= 0 and topic = 'order.sent'").await == 0
    })
    .await;
    run(&db, "select outbox.resume_subscription('old')").await;
    write(&db, 401, 500).await;
    settle(&db).await;
    assert!(one::<i64>(&db, "select outbox.tail()").await > 400);

    // Readers of messages begin at the tail, readers of events at the beginning.
    let read = |what: &str| {
        format!("select array_agg((payload ->> 'n')::bigint) from outbox.read({what}) where message_id is not null")
    };
    assert_eq!(one::<Vec<i64>>(&db, &read("0, 10000")).await, numbers(401, 500, EVEN));
    assert_eq!(one::<Vec<i64>>(&db, &read("0, 10000, source => 'events'")).await, numbers(1, 500, ODD));
    let all = "select array_agg((data ->> 'n')::bigint) from outbox.read_events(0)";
    assert_eq!(one::<Vec<i64>>(&db, all).await, numbers(1, 500, ODD));
    let position: i64 = one(&db, "select position from outbox.read_events(0, 1)").await;
    assert_eq!(
        refused(&db, &format!("select * from outbox.read({position}, source => 'all')")).await.code().code(),
        "OB009"
    );
    let pages: i64 = one(
        &db,
        "with recursive page(upto, events) as (
            select 0::bigint, 0
            union all
            select r.upto, r.events from page p cross join lateral (
                select max(e.position) as upto, count(e.message_id)::int as events from outbox.read_events(p.upto, 7) e
            ) r where r.events > 0
        ) select sum(events) from page",
    )
    .await;
    assert_eq!(pages, 250);

    // A subscription that begins at the beginning gets every event, and keeps nothing from being reclaimed.
    run(&db, "select outbox.subscribe('history', '{#}', 'history', source => 'events', start => 'earliest')").await;
    write(&db, 501, 510).await;
    settle(&db).await;
    assert_eq!(at(&receiver, "history"), numbers(1, 510, ODD));
    assert_eq!(at(&receiver, "old"), numbers(1, 510, ODD));
    let held: i64 =
        one(&db, "select count(*) from outbox_internal.needed() where holder like 'subscription%' and position < 400")
            .await;
    assert_eq!(held, 0);

    // And so does a replay.
    let replay: i64 = one(&db, "select outbox.replay('old', 1, rate => 10000)").await;
    wait_until("the replay has ended", PATIENCE, async || {
        one::<String>(&db, &format!("select state from outbox.replay_status where replay_id = {replay}")).await
            == "completed"
    })
    .await;
    assert_eq!(receiver.at("/old").len(), 2 * numbers(1, 510, ODD).len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_event_keeps_its_place_and_a_truncated_one_is_passed_over() {
    let db = server().await.database("events_erased").await.unwrap();
    run(&db, "select outbox.subscribe('jobs', '{#}', source => 'events')").await;
    run(&db, "select outbox.append('a-1', 't', to_jsonb(n)) from generate_series(1, 6) n").await;
    settle(&db).await;
    let id: i64 = one(&db, "select message_id from outbox.load('a-1', 2, 1)").await;
    run(&db, &format!("select outbox.erase({id}, reason => 'asked for')")).await;
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.load('a-1') where data is null").await, 1);
    assert_eq!(one::<i64>(&db, "select outbox.truncate_stream('a-1', 2, 'old')").await, 1);
    let versions: Vec<i64> = one(&db, "select array_agg(version) from outbox.read_events(0)").await;
    assert_eq!(versions, [2, 3, 4, 5, 6]);
    settle(&db).await;
    let claim = "select array_agg(payload::text order by position), min(lease) from outbox.claim('jobs', 'w', 10)";
    let claimed = db.query_one(claim, &[]).await.unwrap();
    assert_eq!(claimed.get::<_, Vec<String>>(0), ["3", "4", "5", "6"]);
    let error = refused(&db, "select outbox.truncate_stream('a-1', 7, 'old')").await;
    assert_eq!(error.code().code(), "OB003");
    db.execute("select outbox.complete($1)", &[&claimed.get::<_, i64>(1)]).await.unwrap();
    // Nothing else changes an event.
    for statement in ["delete from outbox._message_event", "update outbox.message set payload = '1'"] {
        assert_eq!(refused(&db, statement).await.code().code(), "42501");
    }
    // A stream of which nothing is left goes on where it was.
    assert_eq!(one::<i64>(&db, "select outbox.truncate_stream('a-1', 7, 'old')").await, 5);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.load('a-1')").await, 0);
    assert_eq!(one::<i64>(&db, "select outbox.append('a-1', 't', '7', 6)").await, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_tells_the_version_and_the_id_of_an_event_and_the_metrics_tell_their_size() {
    let receiver = Receiver::start().unwrap();
    let db = server().await.database("event_headers").await.unwrap();
    for format in ["raw", "cloudevents"] {
        let url = receiver.url(&format!("/{format}"));
        db.execute("select outbox.create_endpoint($1, $2)", &[&format, &url]).await.unwrap();
        db.execute("select outbox.subscribe($1, '{#}', $1, format => $1, source => 'all')", &[&format]).await.unwrap();
    }
    let size = "select sum(value)::bigint from outbox.metrics() where name = 'outbox_event_bytes'";
    let empty: i64 = one(&db, size).await;
    assert_eq!(
        one::<Option<String>>(&db, "select what_to_do from outbox.health() where \"check\" = 'space'").await,
        None
    );
    let id = "a0000000-0000-4000-8000-00000000000b";
    run(&db, &format!("select outbox.append('cart-1', 'cart.opened', '1', event_id => '{id}')")).await;
    run(&db, "select outbox.append('cart-1', 'cart.opened', '2')").await;
    run(&db, "select outbox.enqueue('order.created', '3')").await;
    settle(&db).await;
    for (path, version, event_id) in
        [("/raw", "outbox-version", "outbox-event-id"), ("/cloudevents", "ce-version", "ce-eventid")]
    {
        let arrived = receiver.at(path);
        let of = |body: i64| arrived.iter().find(|a| a.json() == body).unwrap_or_else(|| panic!("{path} lacks {body}"));
        let header = |body: i64, name: &str| of(body).headers.get(name).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!((header(1, version).as_deref(), header(1, event_id).as_deref()), (Some("1"), Some(id)), "{path}");
        assert_eq!((header(2, version).as_deref(), header(2, event_id)), (Some("2"), None), "{path}");
        assert_eq!((header(3, version), header(3, event_id)), (None, None), "{path}");
    }
    assert!(one::<i64>(&db, size).await > empty);
    let lag = "select value::bigint from outbox.metrics() where name = 'outbox_category_lag_positions'";
    assert!(one::<i64>(&db, lag).await > 0);
    run(&db, "select outbox_internal.list_categories(100000)").await;
    assert_eq!(one::<i64>(&db, lag).await, 0);
    let space = rows(&db, "select state, what_to_do from outbox.health() where \"check\" = 'space'").await;
    assert_eq!(space[0]["state"].as_deref(), Some("ok"));
    assert!(space[0]["what_to_do"].as_deref().unwrap().starts_with("nothing; events take"), "{space:?}");
}
