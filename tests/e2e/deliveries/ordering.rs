//! Push subscriptions with ordering, and manual sends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, Stop, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, refused, server, settle};

async fn shop(server: &Server, name: &str, receiver: &Receiver, options: &str) -> Client {
    let db = server.database(name).await.unwrap();
    db.batch_execute(&format!(
        "select outbox.create_endpoint('shop', '{}', concurrency => 16, breaker => '{{\"failures\": 0}}',
            schedule => '{{\"delays\": [0.2], \"jitter\": 0}}');
        select outbox.subscribe('orders', '{{order.#}}', 'shop' {options})",
        receiver.url("/hook")
    ))
    .await
    .unwrap();
    db
}

/// Enqueues `per_key` messages for each of the keys a, b, ..., interleaved, and as many without a key.
async fn enqueue(db: &Client, keys: u8, per_key: i32) {
    for n in 0..per_key {
        for key in 0..keys {
            let key = char::from(b'a' + key).to_string();
            db.execute(
                "select outbox.enqueue('order.x', jsonb_build_object('k', $1::text, 'n', $2::int), key => $1)",
                &[&key, &n],
            )
            .await
            .unwrap();
        }
        db.execute("select outbox.enqueue('order.x', jsonb_build_object('k', null, 'n', $1::int))", &[&n])
            .await
            .unwrap();
    }
}

async fn completed(db: &Client, n: i64) {
    wait_until("all are delivered", PATIENCE, async || {
        one::<i64>(db, "select count(*) from outbox.attempt where outcome = 'completed'").await == n
    })
    .await;
}

/// Returns the numbers that arrived for each key, in order of arrival.
fn arrived(receiver: &Receiver) -> HashMap<String, Vec<i64>> {
    let mut found: HashMap<String, Vec<i64>> = HashMap::new();
    for arrival in receiver.arrivals() {
        let json = arrival.json();
        found.entry(json["k"].as_str().unwrap_or("-").to_owned()).or_default().push(json["n"].as_i64().unwrap());
    }
    found
}

/// Removes adjacent repetitions, because a repeated attempt does not break the order.
fn deduplicated(mut list: Vec<i64>) -> Vec<i64> {
    list.dedup();
    list
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_delivered_one_at_a_time_in_order_whatever_fails() {
    let receiver = Receiver::start().unwrap();
    let (together, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let unordered = Arc::clone(&together);
    let peak = Arc::clone(&most);
    // Every seventh request fails. Answers take long enough for other requests to overtake.
    receiver.on("/hook", move |arrival, count| {
        if arrival.json()["k"].is_null() {
            peak.fetch_max(unordered.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        }
        let status = if count % 7 == 3 { 500 } else { 200 };
        Reply::status(status).after(Duration::from_millis(u64::from(count as u32 % 5) * 3))
    });
    let db = shop(server().await, "by_key", &receiver, ", ordering => 'key'").await;
    enqueue(&db, 4, 15).await;
    completed(&db, 75).await;
    let arrived = arrived(&receiver);
    for key in ["a", "b", "c", "d"] {
        assert_eq!(deduplicated(arrived[key].clone()), (0..15).collect::<Vec<_>>(), "key {key}");
    }
    let overlap = "select count(*) from outbox.attempt a join outbox.attempt b on b.position > a.position
        and b.started_at < a.finished_at and b.finished_at > a.started_at
        join outbox.message m on m.id = a.message_id join outbox.message o on o.id = b.message_id where m.key = o.key";
    assert_eq!(one::<i64>(&db, overlap).await, 0, "two of a key at once");
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_head_lets_the_next_pass_or_blocks_until_it_is_dealt_with() {
    for (mode, blocks) in [("skip", false), ("block", true)] {
        let receiver = Receiver::start().unwrap();
        let broken = Arc::new(AtomicBool::new(true));
        let state = Arc::clone(&broken);
        receiver.on("/hook", move |arrival, _| {
            let json = arrival.json();
            let fails = json["k"] == "a" && json["n"] == 1 && state.load(Ordering::SeqCst);
            Reply::status(if fails { 500 } else { 200 })
        });
        let options = format!(", ordering => 'key', on_exhausted => '{mode}', max_attempts => 2");
        let db = shop(server().await, &format!("exhausted_{mode}"), &receiver, &options).await;
        enqueue(&db, 2, 4).await;
        wait_until("the second of key a is dead", PATIENCE, async || {
            one::<i64>(&db, "select count(*) from outbox.dead_letter where key = 'a'").await == 1
        })
        .await;
        if blocks {
            // Completed are the 8 deliveries without key or with key b, and the first one of key a.
            completed(&db, 9).await;
            assert_eq!(deduplicated(arrived(&receiver)["a"].clone()), [0, 1]);
            // A later message of the key waits as well.
            db.batch_execute("select outbox.enqueue('order.x', '{\"k\": \"a\", \"n\": 4}', key => 'a')").await.unwrap();
            wait_until("it waits behind them", PATIENCE, async || {
                one::<i64>(&db, "select count(*) from outbox.delivery where blocked and key = 'a'").await == 3
            })
            .await;
            broken.store(false, Ordering::SeqCst);
            db.batch_execute("select outbox.requeue(id, 'test') from outbox.dead_letter").await.unwrap();
            completed(&db, 13).await;
            assert_eq!(deduplicated(arrived(&receiver)["a"].clone()), [0, 1, 2, 3, 4]);
        } else {
            completed(&db, 11).await;
            assert_eq!(deduplicated(arrived(&receiver)["a"].clone()), [0, 1, 2, 3]);
        }
        assert_eq!(deduplicated(arrived(&receiver)["b"].clone()), [0, 1, 2, 3]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_backlog_behind_failing_keys_lags_instead_of_becoming_rows() {
    const BACKLOG: i64 = 16_000;
    let receiver = Receiver::start().unwrap();
    receiver.forget();
    let broken = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&broken);
    receiver.on("/hook", move |_, _| Reply::status(if state.load(Ordering::SeqCst) { 500 } else { 200 }));
    let options = ", ordering => 'key', max_attempts => 100000, schedule => '{\"delays\": [1], \"jitter\": 0}'";
    let db = shop(server().await, "blocked", &receiver, options).await;
    db.execute(
        "select count(outbox.enqueue('order.x', '{}', key => 'k' || n % 100)) from generate_series(1, $1::bigint) n",
        &[&BACKLOG],
    )
    .await
    .unwrap();
    let blocked = "select count(*) from outbox.delivery where blocked";
    wait_until("the subscription lags with its rows full", PATIENCE, async || {
        let lag = "select lag > 0 from outbox_internal.subscription_lag()";
        one::<i64>(&db, blocked).await > 9_000 && one::<bool>(&db, lag).await
    })
    .await;
    wait_until("every key has failed, so nothing waits in memory", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.delivery where not blocked and state = 'failed'").await == 100
    })
    .await;
    // The number of rows stays within bounds while the first delivery of each key fails repeatedly.
    let mut rows = 0;
    for _ in 0..40 {
        rows = rows.max(one::<i64>(&db, blocked).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((9_001..=10_000 + 4096).contains(&rows), "{rows} rows behind failed ones");
    broken.store(false, Ordering::SeqCst);
    completed(&db, BACKLOG).await;
    let late = "select count(*) from (
            select a.position < lag(a.position) over (partition by m.key order by a.started_at, a.position) as late
            from outbox.attempt a join outbox.message m on m.id = a.message_id) o
        where o.late";
    assert_eq!(one::<i64>(&db, late).await, 0, "out of order");
    let overlapping = "select count(*) from (
            select a.started_at < lag(a.finished_at) over (partition by m.key order by a.position, a.started_at) as early
            from outbox.attempt a join outbox.message m on m.id = a.message_id) o
        where o.early";
    assert_eq!(one::<i64>(&db, overlapping).await, 0, "two of a key at once");
    let twice = "select count(*) - count(distinct position) from outbox.attempt where outcome = 'completed'";
    assert_eq!(one::<i64>(&db, twice).await, 0, "delivered twice");
    wait_until("no row is left", PATIENCE, async || one::<i64>(&db, "select count(*) from outbox.delivery").await == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_means_one_at_a_time_and_survives_a_crash() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, count| Reply::status(if count == 10 { 500 } else { 200 }).after(Duration::from_millis(5)));
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = shop(&server, "strict", &receiver, ", ordering => 'strict'").await;
    db.batch_execute(
        "select count(outbox.enqueue('order.x', jsonb_build_object('n', n))) from generate_series(0, 59) n",
    )
    .await
    .unwrap();
    wait_until("some have arrived", PATIENCE, async || receiver.total() > 5).await;
    drop(db);
    server.restart(Stop::Immediate).await.unwrap();
    let db = server.connect("strict").await.unwrap();
    completed(&db, 60).await;
    let order: Vec<i64> = receiver.arrivals().iter().map(|a| a.json()["n"].as_i64().unwrap()).collect();
    // After a crash, deliveries that were in flight or not recorded are repeated. No message overtakes the first delivery
    // of an earlier one.
    let mut seen = -1;
    for n in &order {
        assert!(*n <= seen + 1, "{n} before {}: {order:?}", seen + 1);
        seen = seen.max(*n);
    }
    assert_eq!(seen, 59);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_by_hand_touches_no_delivery() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, count| Reply::status(if count == 1 { 500 } else { 200 }));
    let db = shop(server().await, "by_hand", &receiver, "").await;
    let id: i64 = one(&db, "select outbox.enqueue('order.x', '{\"n\": 1}')").await;
    completed(&db, 1).await;
    let outcome = async |number: i64| {
        let query = format!("select state from outbox.manual_result({number})");
        wait_until("it has its outcome", PATIENCE, async || one::<String>(&db, &query).await != "waiting").await;
        one::<String>(&db, &query).await
    };
    let first: i64 = one(&db, &format!("select outbox.resend({id}, 'orders')")).await;
    assert_eq!(outcome(first).await, "failed");
    let second: i64 = one(&db, &format!("select outbox.resend({id}, 'orders')")).await;
    assert_eq!(outcome(second).await, "completed");
    let test: i64 = one(&db, "select outbox.send_test('shop', '{\"ping\": 1}')").await;
    assert_eq!(outcome(test).await, "completed");
    let arrivals = receiver.arrivals();
    assert_eq!(arrivals.len(), 4, "a failure by hand is not tried again");
    assert_eq!(arrivals[0].webhook_id(), arrivals[2].webhook_id());
    assert_eq!((arrivals[3].header("outbox-topic"), &arrivals[3].body[..]), ("outbox.test", &b"{\"ping\": 1}"[..]));
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery").await, 0);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.dead_letter").await, 0);
    assert_eq!(refused(&db, "select outbox.resend(4711, 'orders')").await.code().code(), "OB001");
    assert_eq!(refused(&db, "select outbox.manual_result(4711)").await.code().code(), "OB001");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_is_not_recorded_yet_keeps_its_key_whatever_sessions_change() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |arrival, count| {
        let first = arrival.json()["n"] == 1 && count == 0;
        Reply::status(if first { 503 } else { 200 })
    });
    let server = server().await;
    let db = shop(server, "unrecorded", &receiver, ", ordering => 'key'").await;
    settle(&db).await;
    let send = async |key: &str, n: i32| {
        let message = "select outbox.enqueue('order.x', jsonb_build_object('k', $1::text, 'n', $2::int), key => $1)";
        db.execute(message, &[&key, &n]).await.unwrap();
    };
    // No attempt can be recorded while this transaction is open.
    let holder = server.connect("unrecorded").await.unwrap();
    holder.batch_execute("begin; lock table outbox.attempt in share mode").await.unwrap();
    send("a", 1).await;
    wait_until("the first attempt is answered", PATIENCE, async || receiver.arrivals().len() == 1).await;
    // The failure is in memory only when the dispatcher reads the keys with rows again.
    db.batch_execute("select outbox_internal.deliveries_changed()").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    send("a", 2).await;
    send("b", 1).await;
    wait_until("a message of another key arrives", PATIENCE, async || arrived(&receiver).contains_key("b")).await;
    assert_eq!(arrived(&receiver)["a"], [1]);
    holder.batch_execute("commit").await.unwrap();
    completed(&db, 3).await;
    assert_eq!(arrived(&receiver)["a"], [1, 1, 2]);
}
