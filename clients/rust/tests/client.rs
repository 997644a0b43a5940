//! Enqueue, admin, errors, worker and reader against a real server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_harness::{Server, wait_until};
use pg_outbox::admin::Subscribe;
use pg_outbox::message::{Message, enqueue_many};
use pg_outbox::worker::{Delivery, Failure};
use pg_outbox::{Error, Kind, Outbox};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

const PATIENCE: Duration = Duration::from_secs(120);

async fn server() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER
        .get_or_init(async || {
            Server::start(&[("pg_outbox.poll_interval", "1s"), ("max_worker_processes", "40")]).await.unwrap()
        })
        .await
}

/// Connects to an outbox in a new database.
async fn outbox(name: &str) -> Outbox {
    server().await.database(name).await.unwrap();
    Outbox::connect(&server().await.dsn(name)).await.unwrap()
}

async fn pull(outbox: &Outbox, name: &str, topics: &[&str], options: Subscribe) {
    outbox.subscribe(name, topics, options).await.unwrap();
}

async fn send(outbox: &Outbox, topic: &str, payload: &Value) -> i64 {
    let session = outbox.session().await.unwrap();
    Message::to(topic).json(payload).unwrap().enqueue(&**session).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enqueue_joins_the_callers_transaction() {
    let outbox = outbox("enqueue").await;
    let mut session = outbox.session().await.unwrap();
    let tx = session.transaction().await.unwrap();
    let id = Message::to("order.created")
        .key("order-1")
        .json(&json!({"a": 12345678901234567890u64}))
        .unwrap()
        .header("x-a", "1")
        .set_metadata("user_id", "u")
        .tenant("t")
        .aggregate("order", "1")
        .enqueue(&*tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let tx = session.transaction().await.unwrap();
    Message::to("order.created").json(&1).unwrap().enqueue(&*tx).await.unwrap();
    tx.rollback().await.unwrap();
    let text = Message::to("note.text").text("héllo").enqueue(&**session).await.unwrap();
    let many = enqueue_many(&**session, "order.many", &[json!(1), json!("x\"y"), json!(null)], &["a", "b", "c"])
        .await
        .unwrap();
    assert_eq!(many.len(), 3);

    let mut reader = outbox.reader().topics(["order.#", "note.#"]).poll_interval(Duration::from_millis(20)).build();
    let first = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
    assert_eq!((first.message_id, first.topic.as_str(), first.key.as_deref()), (id, "order.created", Some("order-1")));
    assert_eq!(first.text().unwrap(), r#"{"a": 12345678901234567890}"#);
    assert_eq!(first.headers, Some(json!({"x-a": "1"})));
    assert_eq!(first.get_metadata("user_id"), Some(&json!("u")));
    let second = reader.next().await.unwrap();
    assert_eq!((second.message_id, second.text().unwrap()), (text, "héllo"));
    assert_eq!(second.base64(), "aMOpbGxv");
    let third: Message = reader.next().await.unwrap();
    assert_eq!(third.json::<i32>().unwrap(), 1);
    assert!(third.json::<String>().is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_what_to_do() {
    let outbox = outbox("errors").await;
    let session = outbox.session().await.unwrap();
    let of = |error: Error| (error.kind(), error.code().to_owned(), error.name());
    let error = Message::to("bad topic").json(&1).unwrap().enqueue(&**session).await.unwrap_err();
    assert!(error.details().hint.is_some());
    assert_eq!(of(error), (Kind::Invalid, "22023".to_owned(), "invalid_parameter"));
    assert_eq!(of(outbox.history(42).await.unwrap_err()), (Kind::NotFound, "OB001".to_owned(), "not_found"));
    assert_eq!(of(outbox.unsubscribe("none").await.unwrap_err()), (Kind::NotFound, "OB001".to_owned(), "not_found"));
    let error = outbox.call("no_such_function", json!({}), &[]).await.unwrap_err();
    assert_eq!(of(error), (Kind::Fatal, "42883".to_owned(), "version_mismatch"));
    assert_eq!(outbox.call("x y", json!({}), &[]).await.unwrap_err().kind(), Kind::Invalid);

    let server = server().await;
    server.empty_database("errors_bare").await.unwrap();
    let error = Outbox::connect(&server.dsn("errors_bare")).await.unwrap_err();
    assert_eq!(of(error), (Kind::Fatal, "3F000".to_owned(), "extension_missing"));
    let bare = Outbox::lazy(&server.dsn("errors_bare"), 1).unwrap();
    let session = bare.session().await.unwrap();
    let error = Message::to("a").json(&1).unwrap().enqueue(&**session).await.unwrap_err();
    assert_eq!(error.name(), "extension_missing");
    assert!(error.details().hint.as_deref().unwrap().contains("create extension"));
    assert_eq!(Outbox::connect(&server.dsn("no_such_database")).await.unwrap_err().kind(), Kind::Fatal);
    assert_eq!(Outbox::connect("postgresql://u@127.0.0.1:1/d").await.unwrap_err().kind(), Kind::Retry);

    session.batch_execute("create role nobody_of_errors login password 'x'").await.unwrap();
    let dsn = server.dsn("errors").replace(&format!("postgres:{}", server.password()), "nobody_of_errors:x");
    let stranger = Outbox::lazy(&dsn, 1).unwrap();
    let session = stranger.session().await.unwrap();
    let error = Message::to("a").json(&1).unwrap().enqueue(&**session).await.unwrap_err();
    assert_eq!((error.kind(), error.name()), (Kind::Fatal, "insufficient_privilege"));
    assert!(error.details().hint.as_deref().unwrap().contains("grant_to"));
    let refused = stranger.worker("x").build(async |_: Delivery| Ok(None)).run().await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Fatal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_in_a_transaction_is_a_retry() {
    let outbox = outbox("lost").await;
    let mut session = outbox.session().await.unwrap();
    let tx = session.transaction().await.unwrap();
    let pid: i32 = tx.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    Message::to("a").json(&1).unwrap().enqueue(&*tx).await.unwrap();
    outbox.session().await.unwrap().execute("select pg_terminate_backend($1)", &[&pid]).await.unwrap();
    let error: Error = tx.commit().await.unwrap_err().into();
    assert_eq!(error.kind(), Kind::Retry, "{error:?}");
    let rows = outbox.stats(Default::default()).await.unwrap();
    assert!(rows.feed_end <= rows.messages);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_completes_fails_and_buries() {
    let outbox = outbox("work").await;
    pull(&outbox, "w", &["job.#"], Subscribe { max_attempts: Some(3), ..Default::default() }).await;
    for n in 0..40 {
        send(&outbox, "job.run", &json!({"n": n})).await;
    }
    let seen: Arc<Mutex<Vec<(i64, i32)>>> = Arc::default();
    let most = Arc::new(AtomicUsize::new(0));
    let now = Arc::new(AtomicUsize::new(0));
    let worker = {
        let (seen, most, now) = (seen.clone(), most.clone(), now.clone());
        outbox.worker("w").concurrency(5).batch(7).poll_interval(Duration::from_millis(20)).build(
            move |delivery: Delivery| {
                let (seen, most, now) = (seen.clone(), most.clone(), now.clone());
                async move {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    let n = delivery.json::<Value>()?["n"].as_i64().unwrap();
                    seen.lock().unwrap().push((n, delivery.attempt));
                    match (n, delivery.attempt) {
                        (0, 1) => panic!("n is nought"),
                        (1, 1) => Err(Failure::retry_after("later", Duration::from_millis(10))),
                        (2, _) => Err(Failure::dead("never")),
                        (3, 1) => Err(Failure::retry("by the schedule")),
                        _ => Ok(Some(json!(format!("done-{n}")))),
                    }
                }
            },
        )
    };
    let stop = worker.stop_token();
    let running = tokio::spawn(worker.run());
    wait_until("39 tries are completed or dead, two failed", PATIENCE, async || seen.lock().unwrap().len() >= 41).await;
    stop.cancel();
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.failed, report.dead, report.lost), (3, 1, 0), "{report:?}");
    assert_eq!(report.completed, 37, "{report:?}");
    assert!((2..=5).contains(&most.load(Ordering::SeqCst)));
    let db = outbox.session().await.unwrap();
    let rows = db.query("select m.payload->>'n', d.last_error, d.attempt from outbox.delivery d join outbox.message m on m.id = d.message_id order by 1", &[]).await.unwrap();
    let left: Vec<(String, String)> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left[0].1.contains("panicked: n is nought"), "{left:?}");
    assert_eq!(left[1].1, "by the schedule");
    let dead: String = db.query_one("select last_error from outbox.dead_letter", &[]).await.unwrap().get(0);
    assert_eq!(dead, "never");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_handled_is_given_back_at_shutdown() {
    let outbox = outbox("shutdown").await;
    pull(&outbox, "w", &["#"], Subscribe::default()).await;
    for n in 0..10 {
        send(&outbox, "job", &json!(n)).await;
    }
    let begun = Arc::new(AtomicUsize::new(0));
    let worker = {
        let begun = begun.clone();
        outbox
            .worker("w")
            .concurrency(2)
            .batch(10)
            .grace(Duration::from_millis(200))
            .poll_interval(Duration::from_millis(20))
            .build(move |_: Delivery| {
                let begun = begun.clone();
                async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                    Ok(None)
                }
            })
    };
    let stop = worker.stop_token();
    let running = tokio::spawn(worker.run());
    wait_until("two handlers run", PATIENCE, async || begun.load(Ordering::SeqCst) == 2).await;
    stop.cancel();
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.completed, report.failed), (0, 0));
    assert!(report.released >= 2, "{report:?}");
    let db = outbox.session().await.unwrap();
    let row = db
        .query_one("select count(*) from outbox.delivery where state = 'processing' or attempt > 0", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_extended_while_its_handler_runs_and_lost_leases_are_told() {
    let outbox = outbox("lease").await;
    pull(&outbox, "w", &["#"], Subscribe::default()).await;
    send(&outbox, "job", &json!(1)).await;
    let tries = Arc::new(AtomicUsize::new(0));
    let told = Arc::new(AtomicUsize::new(0));
    let worker = {
        let (tries, told) = (tries.clone(), told.clone());
        outbox.worker("w").lease(Duration::from_secs(1)).poll_interval(Duration::from_millis(20)).build(
            move |delivery: Delivery| {
                let (tries, told) = (tries.clone(), told.clone());
                async move {
                    if tries.fetch_add(1, Ordering::SeqCst) == 0 {
                        // The handler runs much longer than the lease, until an operator takes the lease away.
                        delivery.lost().cancelled().await;
                        told.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(None)
                }
            },
        )
    };
    let stop = worker.stop_token();
    let running = tokio::spawn(worker.run());
    wait_until("the handler runs", PATIENCE, async || tries.load(Ordering::SeqCst) == 1).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!((tries.load(Ordering::SeqCst), told.load(Ordering::SeqCst)), (1, 0), "the lease was not kept");
    assert_eq!(outbox.unlock_stale(Duration::ZERO, Default::default()).await.unwrap(), Some(1));
    wait_until("the handler was told and the delivery tried again", PATIENCE, async || {
        tries.load(Ordering::SeqCst) == 2 && told.load(Ordering::SeqCst) == 1
    })
    .await;
    stop.cancel();
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.completed, report.lost), (1, 1), "{report:?}");
}

/// Returns the number of calls of a function in this database.
async fn calls(outbox: &Outbox, function: &str) -> i64 {
    let db = outbox.session().await.unwrap();
    let sql = "select coalesce(sum(calls), 0)::bigint from pg_stat_user_functions where funcname = $1";
    db.query_one(sql, &[&function]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_goes_on_completes_and_claims_in_one_call() {
    let server = server().await;
    let db = server.database("next").await.unwrap();
    db.batch_execute("alter database next set track_functions = 'all'").await.unwrap();
    let outbox = Outbox::connect(&server.dsn("next")).await.unwrap();
    pull(&outbox, "w", &["#"], Subscribe::default()).await;
    let session = outbox.session().await.unwrap();
    let payloads: Vec<Value> = (0..60).map(|n| json!(n)).collect();
    enqueue_many(&**session, "job", &payloads, &[]).await.unwrap();
    for batch in [1, 5] {
        let before = calls(&outbox, "complete_and_claim").await;
        let done = Arc::new(AtomicUsize::new(0));
        let worker = outbox.worker("w").batch(batch).concurrency(1).poll_interval(Duration::from_millis(20));
        let seen = done.clone();
        let worker = worker.build(move |_: Delivery| {
            let seen = seen.clone();
            async move {
                seen.fetch_add(1, Ordering::SeqCst);
                Ok(None)
            }
        });
        let stop = worker.stop_token();
        let running = tokio::spawn(worker.run());
        wait_until("twenty are done", PATIENCE, async || done.load(Ordering::SeqCst) >= 20).await;
        stop.cancel();
        let report = running.await.unwrap().unwrap();
        assert_eq!(report.completed as usize, done.load(Ordering::SeqCst), "{report:?}");
        assert_eq!((report.failed, report.lost), (0, 0), "{report:?}");
        // The worker completes all leases but the last one in this way. Its session reports its statistics when it ends.
        wait_until("each lease was completed with a claim", PATIENCE, async || {
            calls(&outbox, "complete_and_claim").await >= before + 20 / batch as i64 - 1
        })
        .await;
        enqueue_many(&**session, "job", &payloads, &[]).await.unwrap();
    }
    let twice = "select count(*) from (select from outbox.attempt group by message_id having count(*) > 1) t";
    assert_eq!(session.query_one(twice, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_lost_before_the_next_claim_costs_its_outcome_only() {
    let outbox = Arc::new(outbox("next_lost").await);
    pull(&outbox, "w", &["#"], Subscribe::default()).await;
    for n in 0..3 {
        send(&outbox, "job", &json!(n)).await;
    }
    let worker = {
        let outbox = outbox.clone();
        outbox.clone().worker("w").concurrency(1).poll_interval(Duration::from_millis(20)).build(
            move |delivery: Delivery| {
                let outbox = outbox.clone();
                async move {
                    if delivery.attempt == 1 && delivery.json::<i32>()? == 1 {
                        outbox.unlock_stale(Duration::ZERO, Default::default()).await?;
                    }
                    Ok(None)
                }
            },
        )
    };
    let stop = worker.stop_token();
    let running = tokio::spawn(worker.run());
    let db = outbox.session().await.unwrap();
    wait_until("all are completed", PATIENCE, async || {
        let sql = "select count(*) from outbox.attempt where outcome = 'completed'";
        db.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 3
    })
    .await;
    stop.cancel();
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.completed, report.lost, report.disconnects), (3, 1, 0), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_until_empty_goes_on_with_whom_its_last_one_kept_back() {
    // Without a dispatcher, only claims free the next delivery of a key.
    let server = Server::start_plain(&[]).await.unwrap();
    server.database("next_empty").await.unwrap();
    let outbox = Outbox::connect(&server.dsn("next_empty")).await.unwrap();
    pull(&outbox, "w", &["#"], Subscribe { ordering: Some("strict".to_owned()), ..Default::default() }).await;
    for n in 0..5 {
        send(&outbox, "job", &json!(n)).await;
    }
    let worker = outbox.worker("w").concurrency(1).until_empty().build(async |_: Delivery| Ok(None));
    let report = tokio::time::timeout(PATIENCE, worker.run()).await.unwrap().unwrap();
    assert_eq!((report.completed, report.lost), (5, 0), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_on_from_its_cursor_and_two_cannot_both_advance() {
    let outbox = outbox("reader").await;
    for n in 0..5 {
        send(&outbox, "a", &json!(n)).await;
    }
    let begin =
        || outbox.reader().consumer("c").topics(["a"]).batch(2).poll_interval(Duration::from_millis(20)).build();
    let mut one = begin();
    let mut two = begin();
    for n in 0..2 {
        let message = tokio::time::timeout(PATIENCE, one.next()).await.unwrap().unwrap();
        assert_eq!(message.json::<i32>().unwrap(), n);
        one.advance(&message).await.unwrap();
    }
    let mut session = outbox.session().await.unwrap();
    let late = two.next().await.unwrap();
    assert_eq!(late.json::<i32>().unwrap(), 2, "begins behind the cursor");
    let mine = one.next().await.unwrap();
    let tx = session.transaction().await.unwrap();
    one.advance_in(&*tx, &mine).await.unwrap();
    tx.commit().await.unwrap();
    one.committed(&mine);
    let tx = session.transaction().await.unwrap();
    let error = two.advance_in(&*tx, &late).await.unwrap_err();
    assert_eq!((error.kind(), error.name()), (Kind::Conflict, "non_monotonic_cursor"));
    drop(tx);
    let next = one.next().await.unwrap();
    assert_eq!(next.json::<i32>().unwrap(), 3);
    one.record_error("broken", None).await.unwrap();
    let cursor = outbox.cursor_get("c", Default::default()).await.unwrap();
    assert_eq!((cursor.position, cursor.last_error.as_deref()), (mine.position, Some("broken")));
}
