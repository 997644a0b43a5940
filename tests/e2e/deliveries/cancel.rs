//! A cancelled or erased message is not delivered any more, in whatever state its delivery is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, wait_for, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, refused, server, settle};

async fn run(db: &Client, sql: &str) {
    db.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", outbox_tests::explain(&e)));
}

/// Claims one delivery of a subscription. Returns the lease, the id of the delivery, and `n` of the payload.
async fn claimed(db: &Client, subscription: &str) -> (i64, i64, i32) {
    let sql = format!("select lease, delivery_id, (payload ->> 'n')::int from outbox.claim('{subscription}', 'w')");
    wait_for("there is something to claim", PATIENCE, async || {
        let row = db.query_opt(&sql, &[]).await.unwrap()?;
        Some((row.get(0), row.get(1), row.get(2)))
    })
    .await
}

async fn enqueue(db: &Client, n: i32) -> i64 {
    one(db, &format!("select outbox.enqueue('job.do', '{{\"n\": {n}}}', 'k')")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cancelled_while_a_worker_has_it_holds_up_nobody_when_it_is_given_back() {
    let db = server().await.database("given_back").await.unwrap();
    run(
        &db,
        "select outbox.subscribe('lane', '{job.#}', ordering => 'key'); select outbox.subscribe('other', '{job.#}')",
    )
    .await;
    let first = enqueue(&db, 1).await;
    enqueue(&db, 2).await;
    let (lease, _, n) = claimed(&db, "lane").await;
    assert_eq!(n, 1);
    // The cancellation ends the delivery of the other subscription at once. The worker holds the first one.
    wait_until("both have their delivery", PATIENCE, async || {
        one::<i64>(&db, &format!("select count(*) from outbox.delivery where message_id = {first}")).await == 2
    })
    .await;
    assert_eq!(one::<i64>(&db, &format!("select outbox.cancel({first})")).await, 1);
    db.execute("select outbox.release($1)", &[&lease]).await.unwrap();
    let (lease, _, n) = claimed(&db, "lane").await;
    assert_eq!(n, 2, "the next of the key");
    db.execute("select outbox.complete($1)", &[&lease]).await.unwrap();
    wait_until("both have ended as cancelled", PATIENCE, async || {
        let sql = format!("select count(*) from outbox.attempt where message_id = {first} and outcome = 'cancelled'");
        one::<i64>(&db, &sql).await == 2
    })
    .await;
    wait_until("nothing is left of it", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox._cancelled_lately").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cancelled_while_the_router_is_making_its_delivery_ends() {
    let db = server().await.database("being_made").await.unwrap();
    // A trigger makes the transaction of the router wait before its commit.
    run(
        &db,
        "select outbox.subscribe('lane', '{job.#}', ordering => 'key');
        select outbox.enqueue('nobody.listens', '{}')",
    )
    .await;
    settle(&db).await;
    run(
        &db,
        "create function public.wait() returns trigger language plpgsql security definer as $f$
        begin
            if not exists (select from outbox.cancelled) then
                perform pg_sleep(1.5);
            end if;
            return null;
        end $f$;
        create constraint trigger wait after insert on outbox.delivery deferrable initially deferred for each row
            execute function public.wait()",
    )
    .await;
    let first = enqueue(&db, 1).await;
    wait_until("the router is about to commit", PATIENCE, async || {
        let sql = "select count(*) from pg_stat_activity
            where backend_type = 'pg_outbox dispatcher' and datname = current_database() and wait_event = 'PgSleep'";
        one::<i64>(&db, sql).await == 1
    })
    .await;
    assert_eq!(one::<i64>(&db, &format!("select outbox.cancel({first})")).await, 0, "it sees no delivery yet");
    enqueue(&db, 2).await;
    let (lease, _, n) = claimed(&db, "lane").await;
    assert_eq!(n, 2, "the next of the key");
    db.execute("select outbox.complete($1)", &[&lease]).await.unwrap();
    wait_until("it has ended", PATIENCE, async || {
        let sql = format!("select count(*) from outbox.attempt where message_id = {first} and outcome = 'cancelled'");
        one::<i64>(&db, &sql).await == 1 && one::<i64>(&db, "select count(*) from outbox.delivery").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_behind_a_slow_request_can_be_cancelled_and_erased() {
    // The deliveries wait in the queue of the endpoint, or for an earlier message of their key.
    for (name, options) in [("queued", ""), ("behind_its_key", ", ordering => 'key'")] {
        let receiver = Receiver::start().unwrap();
        let (open, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (began, opened) = (Arc::clone(&open), Arc::clone(&gate));
        receiver.on("/e", move |_, count| {
            began.store(true, Ordering::SeqCst);
            // The first request lasts until the test has cancelled and erased others.
            while count == 0 && !opened.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            Reply::status(200)
        });
        let db = server().await.database(name).await.unwrap();
        db.execute(
            "select outbox.create_endpoint('e', $1, concurrency => 1, timeout => '60 s')",
            &[&receiver.url("/e")],
        )
        .await
        .unwrap();
        run(&db, &format!("select outbox.subscribe('s', '{{job.#}}', 'e'{options})")).await;
        let mut ids = Vec::new();
        for n in 1..=4 {
            ids.push(enqueue(&db, n).await);
        }
        wait_until("the first request has begun, and all are routed", PATIENCE, async || {
            let routed = "select coalesce((select max(last_position) from outbox.routing), 0) = outbox.head()";
            open.load(Ordering::SeqCst) && one::<bool>(&db, routed).await
        })
        .await;
        run(&db, &format!("select outbox.cancel({})", ids[1])).await;
        run(&db, &format!("select outbox.erase({}, 'me', 'asked for')", ids[2])).await;
        wait_until("the dispatcher has seen it", PATIENCE, async || {
            one::<i64>(&db, "select count(*) from outbox._cancelled_lately").await == 0
        })
        .await;
        gate.store(true, Ordering::SeqCst);
        wait_until("all have ended", PATIENCE, async || {
            let sql = "select count(*) filter (where outcome = 'completed') = 2
                and count(*) filter (where outcome = 'cancelled') = 2 from outbox.attempt";
            one::<bool>(&db, sql).await
        })
        .await;
        let arrived: Vec<i64> = receiver.arrivals().iter().map(|a| a.json()["n"].as_i64().unwrap_or(-1)).collect();
        assert_eq!(arrived, [1, 4], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cancelled_or_erased_is_neither_replayed_nor_requeued() {
    let receiver = Receiver::start().unwrap();
    let db = server().await.database("not_again").await.unwrap();
    db.execute("select outbox.create_endpoint('e', $1)", &[&receiver.url("/e")]).await.unwrap();
    run(&db, "select outbox.subscribe('s', '{job.#}', 'e'); select outbox.subscribe('p', '{job.#}')").await;
    let mut ids = Vec::new();
    for n in 1..=4 {
        ids.push(enqueue(&db, n).await);
    }
    settle(&db).await;
    wait_until("all are delivered", PATIENCE, async || receiver.total() == 4).await;
    let delivery: i64 = one(&db, &format!("select id from outbox.delivery where message_id = {}", ids[1])).await;
    let letter: i64 = one(&db, &format!("select outbox.move_to_dead_letters({delivery}, 'why not', 'me')")).await;
    run(&db, &format!("select outbox.erase({}, 'me', 'asked for')", ids[1])).await;
    run(&db, &format!("select outbox.cancel({})", ids[2])).await;
    assert_eq!(refused(&db, &format!("select outbox.requeue({letter}, 'me')")).await.code().code(), "OB004");
    assert_eq!(one::<i64>(&db, "select outbox.requeue_all('me')").await, 0);
    let replay: i64 = one(&db, "select outbox.replay('s')").await;
    wait_until("the replay has ended", PATIENCE, async || {
        one::<String>(&db, &format!("select state from outbox.replay where id = {replay}")).await == "completed"
    })
    .await;
    let mut again: Vec<i64> = receiver.arrivals()[4..].iter().map(|a| a.json()["n"].as_i64().unwrap_or(-1)).collect();
    again.sort_unstable();
    assert_eq!(again, [1, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cancelled_by_the_transaction_that_enqueued_it_is_never_sent() {
    let receiver = Receiver::start().unwrap();
    let db = server().await.database("at_once").await.unwrap();
    db.execute("select outbox.create_endpoint('hook', $1)", &[&receiver.url("/hook")]).await.unwrap();
    run(&db, "select outbox.subscribe('all', '{job.#}', 'hook')").await;
    // Committing a prepared transaction wakes nobody, so the dispatcher reads the message and its cancellation together,
    // when the next message wakes it.
    for n in 0..10 {
        run(&db, "begin").await;
        let id = enqueue(&db, 2 * n).await;
        run(&db, &format!("select outbox.cancel({id}); prepare transaction 'cancel_at_once'")).await;
        settle(&db).await;
        run(&db, "commit prepared 'cancel_at_once'").await;
        enqueue(&db, 2 * n + 1).await;
        settle(&db).await;
    }
    let odd: Vec<i64> = receiver.arrivals().iter().map(|a| a.json()["n"].as_i64().unwrap()).collect();
    assert_eq!(odd, (0..10).map(|n| 2 * n + 1).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_seen_to_be_cancelled_before_anybody_said_so_leaves_the_queue_all_the_same() {
    let server = server().await;
    let receiver = Receiver::start().unwrap();
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    receiver.on("/hook", move |_, _| {
        if gate.load(Ordering::SeqCst) { Reply::status(200) } else { Reply::status(200).after(Duration::from_secs(2)) }
    });
    let db = server.database("seen_first").await.unwrap();
    db.execute("select outbox.create_endpoint('hook', $1, concurrency => 1)", &[&receiver.url("/hook")]).await.unwrap();
    run(&db, "select outbox.subscribe('all', '{job.#}', 'hook')").await;
    enqueue(&db, 0).await;
    wait_until("the first is under way", PATIENCE, async || receiver.total() == 1).await;
    // This message has an id below that of the message to cancel, and is committed together with the cancellation in a
    // prepared transaction, which wakes nobody.
    run(&db, "begin").await;
    enqueue(&db, 1).await;
    let other = server.connect("seen_first").await.unwrap();
    let queued = enqueue(&other, 2).await;
    wait_until("it is in the queue", PATIENCE, async || {
        one::<i64>(&other, "select queued from outbox_internal.worker_slot()").await == 1
    })
    .await;
    run(&db, &format!("select outbox.cancel({queued})")).await;
    enqueue(&db, 3).await;
    run(&db, "prepare transaction 'seen_first'").await;
    run(&db, "commit prepared 'seen_first'").await;
    // This message wakes the dispatcher, which reads the committed messages and then the cancellation.
    enqueue(&other, 4).await;
    wait_until("the next have been read", PATIENCE, async || {
        one::<i64>(&other, "select queued from outbox_internal.worker_slot()").await >= 3
    })
    .await;
    open.store(true, Ordering::SeqCst);
    run(&other, "select outbox_internal.deliveries_changed()").await;
    settle(&db).await;
    let seen: Vec<i64> = receiver.arrivals().iter().map(|a| a.json()["n"].as_i64().unwrap()).collect();
    assert_eq!(seen, [0, 1, 3, 4], "in order, without the one that was cancelled");
}
