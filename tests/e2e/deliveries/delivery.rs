//! End to end: a committed message arrives once and signed, and a message that was rolled back never arrives.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, Stop, wait_for, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, server, settle};

/// Creates a database with an endpoint and a subscription to all topics below `order`.
async fn shop(server: &Server, name: &str, receiver: &Receiver, concurrency: i32) -> (Client, String) {
    let db = server.database(name).await.unwrap();
    let secret = endpoint(&db, "shop", &receiver.url("/hook"), concurrency).await;
    db.execute("select outbox.subscribe('orders', '{order.#}', 'shop')", &[]).await.unwrap();
    (db, secret)
}

async fn endpoint(db: &Client, name: &str, url: &str, concurrency: i32) -> String {
    db.query_one(
        "select signing_secret from outbox.create_endpoint($1, $2, concurrency => $3)",
        &[&name, &url, &concurrency],
    )
    .await
    .unwrap()
    .get(0)
}

async fn enqueue(db: &Client, topic: &str, n: i32) -> i64 {
    db.query_one("select outbox.enqueue($1, jsonb_build_object('n', $2::int), $3)", &[&topic, &n, &format!("k{n}")])
        .await
        .unwrap()
        .get(0)
}

fn numbers(receiver: &Receiver) -> Vec<i64> {
    receiver.arrivals().iter().map(|arrival| arrival.json()["n"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_messages_arrive_and_rolled_back_ones_never_do() {
    let receiver = Receiver::start().unwrap();
    let (db, _) = shop(server().await, "commit_or_not", &receiver, 8).await;
    let mut expected = HashSet::new();
    for n in 0..200 {
        let commits = n % 3 != 0;
        db.batch_execute("begin").await.unwrap();
        enqueue(&db, "order.created", n).await;
        db.batch_execute(if commits { "commit" } else { "rollback" }).await.unwrap();
        if commits {
            expected.insert(i64::from(n));
        }
    }
    db.batch_execute("begin; savepoint a").await.unwrap();
    enqueue(&db, "order.created", 1000).await;
    db.batch_execute("rollback to a").await.unwrap();
    enqueue(&db, "order.created", 1001).await;
    db.batch_execute("commit").await.unwrap();
    expected.insert(1001);
    settle(&db).await;
    let arrived = numbers(&receiver);
    assert_eq!(arrived.len(), expected.len(), "nothing twice");
    assert_eq!(arrived.into_iter().collect::<HashSet<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_signed_over_the_bytes_that_are_sent() {
    let receiver = Receiver::start().unwrap();
    let (db, secret) = shop(server().await, "signed", &receiver, 8).await;
    let id = enqueue(&db, "order.created", 1).await;
    // These bytes are not declared as JSON. The conversion to jsonb would change their spaces and the order of the keys.
    db.batch_execute("select outbox.enqueue_bytes('order.raw', convert_to('{\"b\":1,  \"a\":\"hüh\"}', 'UTF8'), 'application/x-test')")
        .await
        .unwrap();
    settle(&db).await;
    let judge = standardwebhooks::Webhook::new(&secret).unwrap();
    let arrivals = receiver.arrivals();
    assert_eq!(arrivals.len(), 2);
    for arrival in &arrivals {
        // This also checks the time of the signature.
        judge.verify(&arrival.body, &arrival.headers).unwrap();
    }
    assert!(judge.verify(b"tampered", &arrivals[0].headers).is_err());
    let json = arrivals.iter().find(|a| a.header("content-type") == "application/json").unwrap();
    let expected: String =
        one(&db, &format!("select outbox.webhook_id(id, enqueued_at) from outbox.message where id = {id}")).await;
    assert_eq!(json.webhook_id(), expected);
    let raw = arrivals.iter().find(|a| a.header("content-type") == "application/x-test").unwrap();
    assert_eq!(&raw.body[..], "{\"b\":1,  \"a\":\"hüh\"}".as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_matching_topics_go_out_and_skipped_ones_are_visible() {
    let receiver = Receiver::start().unwrap();
    let (db, _) = shop(server().await, "matching", &receiver, 8).await;
    enqueue(&db, "order.created", 1).await;
    let skipped = enqueue(&db, "invoice.created", 2).await;
    settle(&db).await;
    assert_eq!(numbers(&receiver), [1]);
    let detail: String = one(&db, &format!("select detail from outbox.history({skipped}) where what = 'routed'")).await;
    assert_eq!(detail, "skipped: no subscription");
    // A subscription gets no message after its end, and a new subscription gets none from before its beginning.
    db.batch_execute("select outbox.unsubscribe('orders'); select outbox.subscribe('invoices', '{invoice.*}', 'shop')")
        .await
        .unwrap();
    enqueue(&db, "order.created", 3).await;
    enqueue(&db, "invoice.created", 4).await;
    settle(&db).await;
    assert_eq!(numbers(&receiver), [1, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_retried_with_the_same_id_until_it_succeeds() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, count| Reply::status(if count < 2 { 500 } else { 200 }));
    let (db, _) = shop(server().await, "retried", &receiver, 8).await;
    let id = enqueue(&db, "order.created", 1).await;
    for attempt in 1..=2 {
        wait_until("the failure is recorded", PATIENCE, async || {
            one::<i64>(&db, "select count(*) from outbox.attempt where outcome = 'failed'").await == attempt
        })
        .await;
        let (state, tries): (String, i32) = {
            let row = db.query_one("select state, attempt from outbox.delivery", &[]).await.unwrap();
            (row.get(0), row.get(1))
        };
        assert_eq!((state.as_str(), i64::from(tries)), ("failed", attempt));
        // The delays of the schedule take seconds to minutes, so the test makes the delivery due.
        db.batch_execute(
            "update outbox.delivery set due_at = clock_timestamp(); select outbox_internal.deliveries_changed()",
        )
        .await
        .unwrap();
    }
    wait_until("it has been delivered", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.attempt where outcome = 'completed'").await == 1
    })
    .await;
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery").await, 0);
    let ids: HashSet<String> = receiver.arrivals().iter().map(|a| a.webhook_id().to_owned()).collect();
    assert_eq!((receiver.total(), ids.len()), (3, 1));
    let outcomes: Vec<String> = db
        .query("select what from outbox.history($1) where attempt is not null order by attempt", &[&id])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(outcomes, ["failed", "failed", "completed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_try_and_a_refusal_end_as_dead_letters() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/broken", |_, _| Reply::status(500).body("out\0 of order"));
    receiver.on("/picky", |_, _| Reply::status(422));
    let db = server().await.database("dead").await.unwrap();
    endpoint(&db, "broken", &receiver.url("/broken"), 8).await;
    endpoint(&db, "picky", &receiver.url("/picky"), 8).await;
    db.batch_execute(
        "select outbox.subscribe('broken', '{order.#}', 'broken', max_attempts => 1);
        select outbox.subscribe('picky', '{order.#}', 'picky')",
    )
    .await
    .unwrap();
    enqueue(&db, "order.created", 1).await;
    wait_until("both are dead", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.dead_letter where resolution = 'open'").await == 2
    })
    .await;
    let rows = db
        .query(
            "select s.name, d.reason, d.last_status, d.attempt, d.url from outbox.dead_letter d
            join outbox.subscription s on s.id = d.subscription_id order by s.name",
            &[],
        )
        .await
        .unwrap();
    let found: Vec<(String, String, i16, i32)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    assert_eq!(
        found,
        [("broken".to_owned(), "max_attempts".to_owned(), 500, 1), ("picky".to_owned(), "refused".to_owned(), 422, 1)]
    );
    // The response is stored as text that is valid in the database.
    let body: String = one(&db, "select response_body from outbox.attempt where status = 500").await;
    assert_eq!(body, "out\u{fffd} of order");
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_called_that_the_operator_did_not_allow() {
    let receiver = Receiver::start().unwrap();
    let server = Server::start(&[("pg_outbox.egress_allow", "")]).await.unwrap();
    let (db, _) = shop(&server, "forbidden", &receiver, 8).await;
    endpoint(&db, "by name", &format!("http://localhost:{}/hook", receiver.address().port()), 8).await;
    db.batch_execute("select outbox.subscribe('by name', '{order.#}', 'by name')").await.unwrap();
    enqueue(&db, "order.created", 1).await;
    wait_until("both are dead", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.dead_letter where reason = 'forbidden'").await == 2
    })
    .await;
    assert_eq!(receiver.total(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_not_followed() {
    let (receiver, private) = (Receiver::start().unwrap(), Receiver::start().unwrap());
    let target = private.url("/secret");
    receiver.on("/hook", move |_, _| Reply::status(307).header("location", &target));
    let (db, _) = shop(server().await, "redirect", &receiver, 8).await;
    enqueue(&db, "order.created", 1).await;
    wait_until("the failure is recorded", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.attempt where error_class = 'redirect'").await == 1
    })
    .await;
    assert_eq!(private.total(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_snapshot_and_no_transaction_while_a_request_is_in_flight() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, _| Reply::status(200).after(Duration::from_secs(3)));
    let (db, _) = shop(server().await, "slow", &receiver, 8).await;
    enqueue(&db, "order.created", 1).await;
    wait_until("the request is in flight", PATIENCE, async || receiver.total() == 1).await;
    let mut looked = 0;
    while one::<i64>(&db, "select count(*) from outbox.attempt").await == 0 {
        let open: bool = one(
            &db,
            "select backend_xmin is not null or backend_xid is not null or xact_start is not null
            from pg_stat_activity where backend_type = 'pg_outbox dispatcher' and datname = current_database()",
        )
        .await;
        // A look may meet a transaction that ticks or records, which takes milliseconds.
        if open {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        looked += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(looked > 20, "the dispatcher held a transaction or snapshot open during the request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enqueue_does_not_care_whether_delivery_works() {
    // No process listens at this address.
    let server = server().await;
    let db = server.database("nobody_listens").await.unwrap();
    endpoint(&db, "gone", "http://127.0.0.1:1/hook", 8).await;
    db.batch_execute("select outbox.subscribe('gone', '{#}', 'gone')").await.unwrap();
    for n in 0..50 {
        enqueue(&db, "order.created", n).await;
    }
    wait_until("the failures are recorded, and the breaker is open", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.attempt where error_class = 'refused'").await >= 10
            && one::<String>(&db, "select breaker from outbox.endpoint_status").await == "open"
    })
    .await;
    // Every delivery has failed and waits for a retry, or has had no attempt.
    let failed: i64 = one(&db, "select count(*) from outbox.delivery where state = 'failed'").await;
    assert!((10..=50).contains(&failed), "{failed}");
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.message where topic = 'order.created'").await, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_subscription_lags_and_delays_nobody() {
    static HURRY: AtomicBool = AtomicBool::new(false);
    let receiver = Receiver::start().unwrap();
    receiver.on("/slow", |_, _| {
        let pause = if HURRY.load(Ordering::Relaxed) { 0 } else { 500 };
        Reply::status(200).after(Duration::from_millis(pause))
    });
    let (db, _) = shop(server().await, "lagging", &receiver, 8).await;
    endpoint(&db, "slow", &receiver.url("/slow"), 32).await;
    db.batch_execute("select outbox.subscribe('slow', '{order.#}', 'slow')").await.unwrap();
    db.batch_execute("select count(outbox.enqueue('order.created', to_jsonb(n))) from generate_series(1, 12000) n")
        .await
        .unwrap();
    let fast = async || receiver.at("/hook").len();
    wait_until("the fast one has everything", PATIENCE, async || fast().await == 12_000).await;
    let slow = receiver.at("/slow").len();
    assert!(slow < 12_000, "the slow one cannot have everything yet");
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery").await, 0, "slow is not exceptional");
    HURRY.store(true, Ordering::Relaxed);
    wait_until("the slow one has everything", PATIENCE, async || receiver.at("/slow").len() == 12_000).await;
    settle(&db).await;
    let ids: HashSet<String> = receiver.at("/slow").iter().map(|a| a.webhook_id().to_owned()).collect();
    assert_eq!(ids.len(), 12_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_can_be_switched_off_and_on() {
    let receiver = Receiver::start().unwrap();
    let server = Server::start(&[]).await.unwrap();
    let (db, _) = shop(&server, "push_off", &receiver, 8).await;
    enqueue(&db, "order.created", 0).await;
    settle(&db).await;
    let switch = async |to: &str| {
        db.batch_execute(&format!("alter system set pg_outbox.push = {to}")).await.unwrap();
        db.batch_execute("select pg_reload_conf()").await.unwrap();
        let state = if to == "on" { "running" } else { "push off" };
        wait_until("the dispatcher has heard of it", PATIENCE, async || {
            one::<String>(&db, "select worker from outbox.stats()").await == state
        })
        .await;
    };
    switch("off").await;
    for n in 1..20 {
        enqueue(&db, "order.created", n).await;
    }
    wait_until("they are routed", PATIENCE, async || {
        one::<bool>(&db, "select routed = feed_end and feed_end = messages from outbox.stats()").await
    })
    .await;
    assert_eq!(receiver.total(), 1);
    switch("on").await;
    wait_until("they have arrived", PATIENCE, async || receiver.total() == 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_arrives_when_it_is_committed() {
    let receiver = Receiver::start().unwrap();
    let (db, _) = shop(server().await, "prepared", &receiver, 8).await;
    db.batch_execute("begin").await.unwrap();
    enqueue(&db, "order.created", 1).await;
    db.batch_execute("prepare transaction 'delivery_prepared'").await.unwrap();
    enqueue(&db, "order.created", 2).await;
    settle(&db).await;
    assert_eq!(numbers(&receiver), [2]);
    db.batch_execute("commit prepared 'delivery_prepared'").await.unwrap();
    wait_until("the poll has found it", PATIENCE, async || receiver.total() == 2).await;
    assert_eq!(numbers(&receiver), [2, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_repeats_at_most_what_was_in_flight_or_unrecorded() {
    const BOUND: i64 = 64;
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, _| Reply::status(200).after(Duration::from_millis(3)));
    let mut server =
        Server::start(&[("pg_outbox.max_unrecorded", "64"), ("pg_outbox.max_in_flight", "32")]).await.unwrap();
    let (db, _) = shop(&server, "killed", &receiver, 32).await;
    let mut total = 0;
    for round in 0..4 {
        let db = server.connect("killed").await.unwrap();
        db.execute(
            "select count(outbox.enqueue('order.created', jsonb_build_object('n', n))) from generate_series($1::int, $2) n",
            &[&total, &(total + 999)],
        )
        .await
        .unwrap();
        total += 1000;
        let before = receiver.total();
        wait_until("requests are in flight", PATIENCE, async || receiver.total() > before + 100 + round * 50).await;
        if round % 2 == 0 {
            let pid: i32 = one(
                &db,
                "select pid from pg_stat_activity where backend_type = 'pg_outbox dispatcher' and datname = current_database()",
            )
            .await;
            outbox_harness::postgres::signal(pid as u32, "KILL").unwrap();
            wait_until("the server has noticed", PATIENCE, async || db.is_closed()).await;
            wait_for("the server has recovered", PATIENCE, async || server.connect("killed").await.ok()).await;
        } else {
            server.restart(Stop::Immediate).await.unwrap();
        }
    }
    drop(db);
    let db = server.connect("killed").await.unwrap();
    wait_until("everything has arrived", PATIENCE, async || {
        numbers(&receiver).into_iter().collect::<HashSet<_>>().len() == total as usize
    })
    .await;
    settle(&db).await;
    let duplicates = receiver.total() as i64 - i64::from(total);
    assert!((0..=4 * BOUND).contains(&duplicates), "{duplicates} duplicates after 4 crashes");
    // A message keeps its webhook id after a crash.
    let pairs: HashSet<(i64, String)> =
        receiver.arrivals().iter().map(|a| (a.json()["n"].as_i64().unwrap(), a.webhook_id().to_owned())).collect();
    assert_eq!(pairs.len(), total as usize);
    assert_eq!(
        one::<i64>(&db, "select count(distinct message_id) from outbox.attempt where outcome = 'completed'").await,
        i64::from(total)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_restart_repeats_nothing() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, _| Reply::status(200).after(Duration::from_millis(2)));
    let mut server = Server::start(&[]).await.unwrap();
    let (db, _) = shop(&server, "restarted", &receiver, 16).await;
    db.batch_execute(
        "select count(outbox.enqueue('order.created', jsonb_build_object('n', n))) from generate_series(1, 3000) n",
    )
    .await
    .unwrap();
    wait_until("requests are in flight", PATIENCE, async || receiver.total() > 300).await;
    server.restart(Stop::Fast).await.unwrap();
    wait_until("everything has arrived", PATIENCE, async || receiver.total() >= 3000).await;
    settle(&server.connect("restarted").await.unwrap()).await;
    assert_eq!(receiver.total(), 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_is_sent_once_however_often_the_deliveries_are_looked_at() {
    const MESSAGES: usize = 1500;
    let receiver = Receiver::start().unwrap();
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let theirs = std::sync::Arc::clone(&broken);
    receiver.on("/hook", move |_, _| {
        Reply::status(if theirs.load(std::sync::atomic::Ordering::Relaxed) { 503 } else { 200 })
    });
    let (db, _) = shop(server().await, "retry_once", &receiver, 16).await;
    // All deliveries are to fail. The breaker would open after ten failures.
    db.batch_execute("select outbox.alter_endpoint('shop', breaker => '{\"failures\": 0}')").await.unwrap();
    db.execute(
        "select count(outbox.enqueue('order.created', jsonb_build_object('n', n))) from generate_series(1, $1::int) n",
        &[&(MESSAGES as i32)],
    )
    .await
    .unwrap();
    wait_until("all have failed", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.delivery where state = 'failed'").await == MESSAGES as i64
    })
    .await;
    settle(&db).await;
    receiver.clear();
    broken.store(false, std::sync::atomic::Ordering::Relaxed);
    db.batch_execute("update outbox.delivery set due_at = clock_timestamp()").await.unwrap();
    // Until an outcome is recorded, the table still shows its delivery as due.
    wait_until("all have been retried", PATIENCE, async || {
        db.batch_execute("select outbox_internal.deliveries_changed()").await.unwrap();
        one::<i64>(&db, "select count(*) from outbox.delivery").await == 0
    })
    .await;
    assert_eq!(receiver.total(), MESSAGES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_everything_gets_what_people_publish() {
    let receiver = Receiver::start().unwrap();
    let (db, _) = shop(server().await, "everything", &receiver, 8).await;
    db.batch_execute("select outbox.subscribe('all', '{#}', 'shop')").await.unwrap();
    // The control message of this subscription has a position after the beginning of the subscription above.
    db.batch_execute("select outbox.subscribe('later', '{nothing}', 'shop')").await.unwrap();
    enqueue(&db, "invoice.created", 1).await;
    settle(&db).await;
    assert_eq!(numbers(&receiver), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduled_delivery_behind_a_queue_is_made_once_though_the_server_dies() {
    let receiver = Receiver::start().unwrap();
    // The first request lasts until the server is gone, and the other deliveries stay queued.
    receiver.on("/hook", |_, count| Reply::status(200).after(Duration::from_secs(if count == 0 { 20 } else { 0 })));
    let mut server = Server::start(&[("pg_outbox.poll_interval", "300ms")]).await.unwrap();
    let (db, _) = shop(&server, "scheduled", &receiver, 1).await;
    db.batch_execute(
        "select outbox.enqueue('order.x', '{\"n\": 1}');
        select outbox.enqueue('order.x', '{\"n\": 2}');
        select outbox.enqueue('order.x', '{\"n\": 3}', deliver_at => clock_timestamp() + interval '3 s');
        select outbox.enqueue('order.x', '{\"n\": 4}')",
    )
    .await
    .unwrap();
    wait_until("the third has its row", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.delivery where due_at > clock_timestamp()").await == 1
    })
    .await;
    drop(db);
    server.stop(Stop::Immediate).unwrap();
    // The third message is due when the feed is read again.
    tokio::time::sleep(Duration::from_secs(4)).await;
    server.run().await.unwrap();
    let db = server.connect("scheduled").await.unwrap();
    wait_until("all are delivered, and nothing is left", PATIENCE, async || {
        let sql = "select (select count(distinct message_id) from outbox.attempt where outcome = 'completed') = 4
            and not exists (select from outbox.delivery) and coalesce(w.idle, false) and w.unrecorded = 0
            from outbox.worker_status() w";
        one::<bool>(&db, sql).await
    })
    .await;
    assert_eq!(
        one::<i64>(&db, "select count(*) from outbox.attempt where outcome = 'completed'").await,
        4,
        "each once"
    );
}
