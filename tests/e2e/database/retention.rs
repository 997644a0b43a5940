//! Reclaiming space with a dispatcher at work. Segments are rotated and reclaimed while messages flow, also while a session
//! holds a snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use outbox_harness::{Receiver, Reply, Server, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, server, settle};

/// Retention in seconds instead of days. A leaf is written for a fifth of a second and retained for three seconds.
const SMALL: &[(&str, &str)] = &[
    ("pg_outbox.poll_interval", "200ms"),
    ("pg_outbox.retention_interval", "1s"),
    ("pg_outbox.message_retention", "3s"),
    ("pg_outbox.feed_retention", "4s"),
    ("pg_outbox.attempt_retention", "4s"),
    ("pg_outbox.tick_retention", "1s"),
    ("pg_outbox.checkpoint_retention", "1s"),
];

async fn count_reclaimed(db: &outbox_harness::tokio_postgres::Client, ring: &str) -> i64 {
    one(db, &format!("select count(*) from outbox.segment where ring = '{ring}' and reclaimed_at is not null")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_come_and_go_under_load_and_a_held_snapshot() {
    let server = Server::start(SMALL).await.unwrap();
    let receiver = Receiver::start().unwrap();
    receiver.on("/later", |_, count| Reply::status(if count == 0 { 503 } else { 200 }));
    let db = server.database("ring").await.unwrap();
    for (name, topics, path) in [("busy", "order.#", "/hook"), ("late", "late.#", "/later")] {
        db.execute("select outbox.create_endpoint($1, $2, concurrency => 64)", &[&name, &receiver.url(path)])
            .await
            .unwrap();
        db.execute("select outbox.subscribe($1, array[$2], $1)", &[&name, &topics]).await.unwrap();
    }
    // The first attempt of this delivery fails, and the second one is put off until its leaf has been reclaimed.
    db.batch_execute("select outbox.enqueue('late.one', '{\"n\": 0}')").await.unwrap();
    wait_until("its first attempt has failed", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.delivery").await == 1
    })
    .await;
    db.batch_execute("update outbox.delivery set due_at = due_at + interval '1 day'").await.unwrap();

    // This session holds a snapshot all the while.
    let holder = server.connect("ring").await.unwrap();
    holder.batch_execute("begin isolation level repeatable read; select count(*) from pg_class").await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicI64::new(0));
    let producers: Vec<_> = (0..2)
        .map(|_| {
            let (stop, sent, dsn) = (Arc::clone(&stop), Arc::clone(&sent), server.dsn("ring"));
            tokio::spawn(async move {
                let db = outbox_harness::postgres::connect(&dsn).await.unwrap();
                let statement = db
                    .prepare("select outbox.enqueue('order.created', jsonb_build_object('n', $1::bigint))")
                    .await
                    .unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let n = sent.fetch_add(1, Ordering::Relaxed);
                    // Enqueuing neither fails nor waits for a lock of maintenance.
                    db.query(&statement, &[&n]).await.expect("enqueue never fails");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    wait_until("every leaf of messages has come round", PATIENCE * 2, async || {
        one::<i64>(&db, "select outbox.tail()").await > 100
            && one::<i64>(&db, "select count(*) from outbox.segment where ring = 'message'").await == 16
            && count_reclaimed(&db, "message").await >= 1
            && count_reclaimed(&db, "feed").await >= 1
            && count_reclaimed(&db, "attempt").await >= 1
            && count_reclaimed(&db, "tick").await + count_reclaimed(&db, "checkpoint").await >= 2
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.await.unwrap();
    }
    settle(&db).await;
    let mut numbers: Vec<i64> =
        receiver.arrivals().iter().filter(|a| a.path == "/hook").map(|a| a.json()["n"].as_i64().unwrap()).collect();
    assert_eq!(numbers.len() as i64, sent.load(Ordering::Relaxed), "each once");
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len() as i64, sent.load(Ordering::Relaxed), "none lost");

    // The message of the failed delivery has been set aside (segment -1), and the second attempt finds it.
    assert_eq!(one::<i16>(&db, "select message_segment from outbox.delivery").await, -1);
    holder.batch_execute("commit").await.unwrap();
    db.batch_execute(
        "update outbox.delivery set due_at = clock_timestamp(); select outbox_internal.deliveries_changed()",
    )
    .await
    .unwrap();
    wait_until("the late one has arrived", PATIENCE, async || {
        receiver.arrivals().iter().filter(|a| a.path == "/later").count() == 2
    })
    .await;
    wait_until("nothing is kept any more", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox._message_retained").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_reads_a_leaf_keeps_it_and_nobody_queues_behind_maintenance() {
    let server = Server::start_plain(&[]).await.unwrap();
    let db = server.database("read_leaf").await.unwrap();
    let reader = server.connect("read_leaf").await.unwrap();
    db.batch_execute("set pg_outbox.message_retention = '1s'; set pg_outbox.retention_interval = '1s'").await.unwrap();
    db.batch_execute("select outbox.enqueue('a.b', '{}')").await.unwrap();
    for statement in ["select outbox.rotate()", "select outbox.tick()", "select outbox.tick()", "select pg_sleep(1.1)"]
    {
        db.batch_execute(statement).await.unwrap();
    }
    reader.batch_execute("set application_name = 'report'; begin; select count(*) from outbox.message").await.unwrap();
    let row = db.query_one("select result, held_by from outbox.maintain() where job = 'message'", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "held");
    assert!(row.get::<_, &str>(1).contains("report"), "{}", row.get::<_, &str>(1));
    // Maintenance does not queue for the lock, so another reader does not wait.
    let other = server.connect("read_leaf").await.unwrap();
    other.batch_execute("set lock_timeout = '1ms'; select count(*) from outbox.message").await.unwrap();
    reader.batch_execute("commit").await.unwrap();
    assert_eq!(one::<String>(&db, "select result from outbox.maintain() where job = 'message'").await, "reclaimed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replay_or_a_subscription_from_the_past_is_about_to_need_stays() {
    let server = Server::start_plain(&[]).await.unwrap();
    let db = server.database("past").await.unwrap();
    db.batch_execute("select outbox.create_endpoint('e', 'https://example.com')").await.unwrap();
    db.batch_execute("select outbox.subscribe('s', '{#}', 'e')").await.unwrap();
    db.batch_execute("select outbox.enqueue('a.b', '{}') from generate_series(1, 10)").await.unwrap();
    for statement in ["select outbox.rotate()", "select outbox.tick()", "select outbox.tick()"] {
        db.batch_execute(statement).await.unwrap();
    }
    // A dispatcher would write this checkpoint after all deliveries. The segment was closed two weeks ago.
    let passed = "insert into outbox.checkpoint (segment, id, incarnation, position, written_at, lag_subscriptions, lag_positions,
            open_subscriptions, open_positions)
        select outbox_internal.current_leaf('checkpoint'), coalesce(max(c.id), 0) + 1, 1, outbox.head(), clock_timestamp(), '{}', '{}',
            '{}', '{}'
        from outbox.checkpoint c;
        update outbox.segment set closed_at = closed_at - interval '14 d' where ring = 'message' and leaf = 0";
    db.batch_execute(passed).await.unwrap();
    let held = async || -> String {
        db.query_opt("select result || coalesce(': ' || held_by, '') from outbox.maintain() where job = 'message'", &[])
            .await
            .unwrap()
            .map_or_else(|| "nothing".to_owned(), |row| row.get(0))
    };
    // Other sessions do not see an uncommitted replay, so maintenance reclaims nothing meanwhile.
    let other = server.connect("past").await.unwrap();
    other.batch_execute("begin; select outbox.replay('s')").await.unwrap();
    assert_eq!(held().await, "nothing");
    assert_eq!(one::<i64>(&db, "select outbox.tail()").await, 1);
    other.batch_execute("commit").await.unwrap();
    assert_eq!(held().await, "held: replay 1 at position 0");
    let culprit: String = one(&db, "select h.culprit from outbox.health() h where h.check = 'space'").await;
    assert!(culprit.contains("replay 1"), "{culprit}");
    db.batch_execute("select outbox.cancel_replay(1)").await.unwrap();

    other.batch_execute("begin; select outbox.subscribe('past', '{a.#}', 'e', start => 'earliest')").await.unwrap();
    assert_eq!(held().await, "nothing");
    other.batch_execute("commit").await.unwrap();
    // The control message of the subscription has no position yet.
    assert_eq!(held().await, "held: subscription \"past\" at position 0");
    db.batch_execute("select outbox.unsubscribe('past')").await.unwrap();
    db.batch_execute("select outbox.tick()").await.unwrap();
    db.batch_execute(passed).await.unwrap();
    assert_eq!(held().await, "reclaimed");
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.message where topic = 'a.b'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_by_tenant_and_topic_are_bounded_and_complete() {
    let db = server().await.database("sums").await.unwrap();
    db.batch_execute(
        "select outbox.enqueue('one.more', '{}', tenant => 'one');
        insert into outbox.message_counter_total (kind, name, messages, matched, skipped, last_at)
        select k, k || n, 2, 1, 1, '2020-01-01'::timestamptz + n * interval '1 s'
        from unnest('{topic,tenant}'::text[]) k, generate_series(1, 12000) n",
    )
    .await
    .unwrap();
    settle(&db).await;
    for _ in 0..2 {
        db.batch_execute("select * from outbox.maintain()").await.unwrap();
        for (view, column) in [("topic_stats", "topic"), ("tenant_stats", "tenant")] {
            let query = format!("select count(*) from outbox.{view}");
            assert!(one::<i64>(&db, &query).await <= 10_001, "{view}");
            let query = format!("select sum(messages)::bigint from outbox.{view}");
            assert_eq!(one::<i64>(&db, &query).await, 24_001, "{view}");
            // The latest names have rows of their own, and the oldest are summed up in one row.
            let query = format!(
                "select sum(messages)::bigint from outbox.{view} where {column} in ('one', 'one.more', '{column}12000')"
            );
            assert_eq!(one::<i64>(&db, &query).await, 3, "{view}");
            let query = format!("select messages > 3900 from outbox.{view} where {column} is null");
            assert!(one::<bool>(&db, &query).await, "{view}");
        }
    }
}
