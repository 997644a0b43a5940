//! Replays deliver history again, at a bounded rate, beside live traffic. They can be resumed and cancelled.

use std::collections::{BTreeMap, HashSet};

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, Stop, wait_until};
use outbox_tests::{PATIENCE, bare_server, one, outbox_harness, refused, server, settle};

async fn run(db: &Client, sql: &str) {
    db.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", outbox_tests::explain(&e)));
}

async fn enqueue(db: &Client, from: i32, to: i32) {
    db.execute(
        "select outbox.enqueue('order.created', jsonb_build_object('n', n), 'k' || n % 3)
        from generate_series($1::int, $2) n",
        &[&from, &to],
    )
    .await
    .unwrap();
}

async fn shop(server: &Server, name: &str, receiver: &Receiver) -> Client {
    let db = server.database(name).await.unwrap();
    db.execute("select outbox.create_endpoint('e', $1)", &[&receiver.url("/e")]).await.unwrap();
    run(&db, "select outbox.subscribe('s', '{order.#}', 'e')").await;
    db
}

async fn ended(db: &Client, replay: i64, state: &str) {
    wait_until(&format!("replay {replay} is {state}"), PATIENCE, async || {
        one::<String>(db, &format!("select state from outbox.replay where id = {replay}")).await == state
    })
    .await;
}

fn counts(receiver: &Receiver) -> BTreeMap<i64, usize> {
    let mut counts = BTreeMap::new();
    for arrival in receiver.arrivals() {
        *counts.entry(arrival.json()["n"].as_i64().unwrap()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_comes_again_with_the_same_ids_beside_live_traffic() {
    let receiver = Receiver::start().unwrap();
    let db = shop(server().await, "replayed", &receiver).await;
    enqueue(&db, 1, 60).await;
    settle(&db).await;
    let first: HashSet<String> = receiver.arrivals().iter().map(|a| a.webhook_id().to_owned()).collect();
    let low: i64 = one(&db, "select min(position) from outbox.attempt").await;
    // Messages that the subscription did not match are not replayed.
    run(&db, "select outbox.enqueue('invoice.created', '{}')").await;
    let replay: i64 = one(
        &db,
        &format!("select outbox.replay('s', {low}, {low} + 49, '{{\"key\": [\"k0\", \"k1\"]}}', rate => 1000)"),
    )
    .await;
    enqueue(&db, 61, 80).await;
    ended(&db, replay, "completed").await;
    settle(&db).await;
    let expected: BTreeMap<i64, usize> = (1..=80).map(|n| (n, if n <= 50 && n % 3 != 2 { 2 } else { 1 })).collect();
    assert_eq!(counts(&receiver), expected);
    let all: HashSet<String> = receiver.arrivals().iter().map(|a| a.webhook_id().to_owned()).collect();
    assert_eq!(all.len(), 80, "the same ids");
    assert!(first.is_subset(&all));
    let logged: i64 =
        one(&db, &format!("select count(*) from outbox.attempt where run = {replay} and outcome = 'completed'")).await;
    assert_eq!(logged, 33);
    let progress: String =
        one(&db, "select state || ' ' || percent || ' ' || matched || ' ' || waiting from outbox.replay_status").await;
    assert_eq!(progress, "completed 100.0 33 0");

    let renamed: i64 = one(&db, &format!("select outbox.replay('s', {low}, {low}, new_ids => true)")).await;
    ended(&db, renamed, "completed").await;
    settle(&db).await;
    let last = receiver.arrivals().last().unwrap().webhook_id().to_owned();
    assert!(last.ends_with(&format!("_r{renamed}")), "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_goes_on_after_a_crash_and_misses_nothing() {
    let receiver = Receiver::start().unwrap();
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = shop(&server, "crash", &receiver).await;
    enqueue(&db, 1, 400).await;
    settle(&db).await;
    let replay: i64 = one(&db, "select outbox.replay('s', rate => 200)").await;
    wait_until("it has begun", PATIENCE, async || one::<i64>(&db, "select matched from outbox.replay").await >= 50)
        .await;
    server.restart(Stop::Immediate).await.unwrap();
    let db = server.connect("crash").await.unwrap();
    ended(&db, replay, "completed").await;
    settle(&db).await;
    let counts = counts(&receiver);
    assert!(counts.values().all(|n| *n >= 2), "nothing is missing");
    assert_eq!(one::<i64>(&db, "select matched from outbox.replay").await, 400);
    assert_eq!(one::<i64>(&db, "select count(distinct message_id) from outbox.attempt where run > 0").await, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_is_slow_if_it_is_told_to_and_can_be_cancelled() {
    let receiver = Receiver::start().unwrap();
    let db = shop(server().await, "cancelled_replay", &receiver).await;
    enqueue(&db, 1, 300).await;
    settle(&db).await;
    let began = std::time::Instant::now();
    let replay: i64 = one(&db, "select outbox.replay('s', rate => 20)").await;
    wait_until("a part has come", PATIENCE, async || receiver.total() >= 310).await;
    let (seconds, again) = (began.elapsed().as_secs_f64(), (receiver.total() - 300) as f64);
    assert!(again <= 20.0 * (seconds + 1.0), "{again} in {seconds} s");
    run(&db, &format!("select outbox.cancel_replay({replay})")).await;
    settle(&db).await;
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery").await, 0);
    let position: i64 = one(&db, "select position from outbox.replay").await;
    assert!(position < one(&db, "select to_position from outbox.replay").await);
    assert_eq!(refused(&db, &format!("select outbox.cancel_replay({replay})")).await.code().code(), "OB004");
    assert_eq!(refused(&db, "select outbox.cancel_replay(4711)").await.code().code(), "OB001");
    assert_eq!(refused(&db, "select outbox.replay('s', 1, 100000)").await.code().code(), "OB009");
    assert_eq!(refused(&db, "select outbox.replay('s', rate => 0)").await.code().code(), "22023");
    assert_eq!(refused(&db, "select outbox.replay('nobody')").await.code().code(), "OB001");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_delivery_stands_beside_the_live_one_and_is_retried() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/e", |_, count| Reply::status(if count < 2 { 503 } else { 200 }));
    let db = shop(server().await, "beside", &receiver).await;
    run(&db, "select outbox.subscribe('pulled', '{order.#}')").await;
    enqueue(&db, 1, 1).await;
    settle(&db).await;
    let push: i64 = one(&db, "select outbox.replay('s')").await;
    let pull: i64 = one(&db, "select outbox.replay('pulled', new_ids => true)").await;
    wait_until("both wait for a retry", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.delivery where not pull and state = 'failed'").await == 2
    })
    .await;
    run(
        &db,
        "update outbox.delivery set due_at = clock_timestamp() where not pull; select outbox_internal.deliveries_changed()",
    )
    .await;
    ended(&db, push, "completed").await;
    settle(&db).await;
    let runs: Vec<(i64, i64)> = db
        .query("select run, count(*) from outbox.attempt where endpoint_id is not null group by 1 order by 1", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert_eq!(runs, [(0, 2), (push, 2)]);
    let claimed =
        db.query("select lease, webhook_id from outbox.claim('pulled', 'w', 10) order by 2", &[]).await.unwrap();
    assert_eq!(claimed.len(), 2);
    assert!(claimed[1].get::<_, String>(1).ends_with(&format!("_r{pull}")));
    db.execute("select outbox.complete($1)", &[&claimed[0].get::<_, i64>(0)]).await.unwrap();
    ended(&db, pull, "completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_worker_claims_take_the_steps_of_a_replay() {
    let db = bare_server().await.database("inline_replay").await.unwrap();
    run(&db, "select outbox.subscribe('pulled', '{order.#}'), outbox.subscribe('other', '{order.#}')").await;
    enqueue(&db, 1, 30).await;
    let claim_all = async || {
        let mut got: Vec<(i64, i64)> = vec![];
        let mut empty = 0;
        while empty < 3 {
            let sql = "select c.lease, (c.payload ->> 'n')::bigint, c.position from outbox.claim('pulled', 'w', 100) c";
            let rows = db.query(sql, &[]).await.unwrap();
            got.extend(rows.iter().map(|row| (row.get::<_, i64>(1), row.get::<_, i64>(2))));
            match rows.first() {
                Some(row) => {
                    db.execute("select outbox.complete($1)", &[&row.get::<_, i64>(0)]).await.unwrap();
                }
                None => empty += 1,
            }
        }
        got.sort_unstable();
        got
    };
    let first = claim_all().await;
    assert_eq!(first.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (1..=30).collect::<Vec<_>>());
    // Ten messages are replayed, at a rate that allows all of them after a moment.
    let replay: i64 =
        one(&db, &format!("select outbox.replay('pulled', {}, {}, rate => 1000)", first[4].1, first[13].1)).await;
    let mut again = vec![];
    wait_until("the replay has ended", PATIENCE, async || {
        again.extend(claim_all().await);
        one::<String>(&db, &format!("select state from outbox.replay where id = {replay}")).await == "completed"
    })
    .await;
    again.sort_unstable();
    assert_eq!(again, first[4..=13]);
    let others: i64 = one(&db, "select count(*) from outbox.delivery d where run > 0").await;
    assert_eq!(others, 0);
}
