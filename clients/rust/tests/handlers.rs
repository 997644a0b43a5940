//! The handlers, connections and streams that one writes first have to compile, and to do what they look like.

#![cfg(all(feature = "testing", feature = "sqlx"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use outbox_harness::{Server, Stop, wait_until};
use pg_outbox::admin::EnsureSubscription;
use pg_outbox::app::{HandlerError, Json, Periodic, State, Workers};
use pg_outbox::message::{Message, enqueue_many};
use pg_outbox::testing::{assert_enqueued, drain};
use pg_outbox::worker::{CancellationToken, Delivery, Event, Failure, Handled};
use pg_outbox::{Error, Kind, Outbox};
use serde_json::{Value, json};
use sqlx::{PgPool, PgTransaction};
use tokio::sync::OnceCell;

const PATIENCE: Duration = Duration::from_secs(120);

async fn server() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER
        .get_or_init(async || {
            let settings =
                [("pg_outbox.poll_interval", "1s"), ("max_worker_processes", "40"), ("max_connections", "200")];
            Server::start(&settings).await.unwrap()
        })
        .await
}

async fn outbox(name: &str) -> Outbox {
    server().await.database(name).await.unwrap();
    Outbox::connect(&server().await.dsn(name)).await.unwrap()
}

#[derive(Debug)]
struct NotBillable;

impl std::fmt::Display for NotBillable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the customer is not billable")
    }
}

impl std::error::Error for NotBillable {}

#[derive(serde::Deserialize)]
struct Order {
    order: i64,
}

async fn load(order: i64) -> anyhow::Result<i64> {
    match order {
        1 => anyhow::bail!("no such order"),
        2 => Err(anyhow::Error::new(NotBillable).context("cannot bill")),
        order => Ok(order),
    }
}

/// Returns the last error of each dead letter by the payload's order.
async fn dead(outbox: &Outbox) -> BTreeMap<i64, String> {
    let db = outbox.session().await.unwrap();
    let sql = "select (m.payload ->> 'order')::int8, d.last_error from outbox.dead_letter d
        join outbox.message m on m.id = d.message_id where m.payload ? 'order'";
    db.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn publish(outbox: &Outbox, orders: &[i64]) {
    let payloads: Vec<Value> = orders.iter().map(|order| json!({"order": order})).collect();
    enqueue_many(&outbox.session().await.unwrap(), "order.created", &payloads, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_return_any_error() {
    async fn plain(delivery: Delivery) -> anyhow::Result<()> {
        load(delivery.json::<Order>()?.order).await?;
        Ok(())
    }
    async fn with_result(delivery: Delivery) -> Handled {
        let order = load(delivery.json::<Order>()?.order).await?;
        Ok(Some(json!({"response_id": order.to_string()})))
    }
    async fn own_failure(delivery: Delivery) -> Result<(), Failure> {
        let order = load(delivery.json::<Order>()?.order).await?;
        if order == 3 { Err(Failure::dead("three")) } else { Ok(()) }
    }
    let outbox = outbox("any_error").await;
    let once = EnsureSubscription { max_attempts: Some(1), ..Default::default() };
    for name in ["plain", "result", "own"] {
        assert_eq!(
            outbox.ensure_subscription(name, &["order.#"], once.clone()).await.unwrap().as_deref(),
            Some("created")
        );
    }
    publish(&outbox, &[1, 2, 3, 4]).await;
    let mut done = [0, 0, 0];
    wait_until("all is handled", PATIENCE, async || {
        let reports = [
            drain(&outbox, "plain", plain).await.unwrap(),
            drain(&outbox, "result", with_result).await.unwrap(),
            drain(&outbox, "own", own_failure).await.unwrap(),
        ];
        for (done, report) in done.iter_mut().zip(reports) {
            *done += report.completed + report.failed + report.dead;
        }
        done == [4, 4, 4]
    })
    .await;
    let dead = dead(&outbox).await;
    assert_eq!(dead[&1], "no such order");
    // The sources of an error are part of its text.
    assert_eq!(dead[&2], "cannot bill: the customer is not billable");
    assert!(dead[&3].contains("three") && !dead.contains_key(&4), "{dead:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_join_the_transactions_of_deadpool_and_sqlx() {
    let outbox = outbox("joins").await;
    let pool = PgPool::connect(&server().await.dsn("joins")).await.unwrap();
    let message = || Message::to("order.created").key("k").json(&json!({"order": 7})).unwrap();

    let mut session = outbox.session().await.unwrap();
    let tx = session.transaction().await.unwrap();
    let id = message().enqueue(&tx).await.unwrap();
    assert_eq!(assert_enqueued(&tx, "order.created", &json!({"order": 7})).await.unwrap().id, id);
    tx.commit().await.unwrap();

    let mut tx = pool.begin().await.unwrap();
    let second = message().enqueue(&mut *tx).await.unwrap();
    let bytes = Message::to("order.bytes").bytes([0, 255], "application/x").enqueue(&mut tx).await.unwrap();
    assert_eq!(assert_enqueued(&mut *tx, "order.created", &json!({"order": 7})).await.unwrap().id, second);
    let many =
        enqueue_many(&mut *tx, "order.many", &[json!({"\u{1F600}": null}), Value::Null], &["a", "b"]).await.unwrap();
    tx.commit().await.unwrap();

    let mut tx = pool.begin().await.unwrap();
    message().enqueue(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();

    // The error has the server's SQLSTATE and hint.
    let mut tx = pool.begin().await.unwrap();
    let error = Message::to("bad topic").enqueue(&mut *tx).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Invalid, "22023"));
    assert!(error.details().hint.is_some(), "{error:?}");
    drop(tx);

    let mut reader = outbox.reader().topics(["order.#"]).build();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let message = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
        seen.push((message.message_id, message.key.clone(), message.text().map(str::to_owned).ok()));
    }
    let key = |text: &str| Some(text.to_owned());
    assert_eq!(
        seen,
        [
            (id, key("k"), key(r#"{"order": 7}"#)),
            (second, key("k"), key(r#"{"order": 7}"#)),
            (bytes, None, None),
            (many[0], key("a"), key("{\"\u{1F600}\": null}")),
            (many[1], key("b"), key("null")),
        ]
    );
    assert_eq!(reader.poll_next_now().await.unwrap().map(|m| m.topic), None, "what was rolled back is not there");
}

#[cfg(feature = "diesel-async")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_join_the_transactions_of_diesel() {
    use diesel_async::{AsyncConnection as _, AsyncPgConnection};

    let outbox = outbox("diesel").await;
    let mut connection = AsyncPgConnection::establish(&server().await.dsn("diesel")).await.unwrap();
    let message = || Message::to("order.created").key("k").json(&json!({"order": 7})).unwrap();
    let id = connection
        .transaction::<_, Error, _>(async |tx| {
            let id = message().enqueue(&mut *tx).await?;
            Message::to("order.bytes").bytes([0, 255], "application/x").enqueue(&mut *tx).await?;
            assert_enqueued(&mut *tx, "order.created", &json!({"order": 7})).await?;
            Ok(id)
        })
        .await
        .unwrap();
    let rolled_back = connection
        .transaction::<(), Error, _>(async |tx| {
            message().enqueue(&mut *tx).await?;
            Err(Error::invalid("no"))
        })
        .await;
    assert_eq!(rolled_back.unwrap_err().to_string(), "no");
    let error = Message::to("bad topic").enqueue(&mut connection).await.unwrap_err();
    assert!(error.to_string().contains("topic") && error.details().hint.is_some(), "{error:?}");
    let mut reader = outbox.reader().consumer("c").topics(["order.#"]).build();
    let message = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
    assert_eq!(message.message_id, id);
    reader.advance_in(&mut connection, &message).await.unwrap();
    reader.committed(&message);
    assert_eq!(tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap().bytes(), [0, 255]);
    assert!(reader.poll_next_now().await.unwrap().is_none(), "what was rolled back is not there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_advances_its_cursor() {
    let outbox = outbox("stream").await;
    publish(&outbox, &[1, 2, 3]).await;
    let reader = || outbox.reader().consumer("c").topics(["order.#"]).build().into_stream();
    let mut stream = reader();
    for order in 1..3 {
        let message = stream.next().await.unwrap().unwrap();
        assert_eq!(message.json::<Order>().unwrap().order, order);
        stream.reader().unwrap().advance(&message).await.unwrap();
    }
    drop(stream);
    assert_eq!(reader().next().await.unwrap().unwrap().json::<Order>().unwrap().order, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_handles_topics_with_typed_payloads_state_and_rules() {
    type Seen = Arc<Mutex<Vec<String>>>;
    async fn bill(State(seen): State<Seen>, Json(order): Json<Order>) -> anyhow::Result<()> {
        let order = load(order.order).await?;
        seen.lock().unwrap().push(format!("billed {order}"));
        Ok(())
    }
    async fn mail(delivery: Delivery, State(seen): State<Seen>) -> Result<(), Failure> {
        seen.lock().unwrap().push(format!("mailed {}", delivery.topic));
        Ok(())
    }
    let outbox = outbox("app").await;
    publish(&outbox, &[1, 2, 5]).await;
    let db = outbox.session().await.unwrap();
    // This payload has not the form of an order.
    let wrong = Message::to("order.created").json(&json!({"order": "text"})).unwrap().enqueue(&db).await.unwrap();
    Message::to("order.paid").json(&json!({})).unwrap().enqueue(&db).await.unwrap();
    Message::to("order.unknown").json(&json!({"order": 9})).unwrap().enqueue(&db).await.unwrap();
    drop(db);
    let seen: Seen = Arc::default();
    let layered = Arc::new(AtomicUsize::new(0));
    let counted = layered.clone();
    let options = EnsureSubscription { max_attempts: Some(2), schedule: Some(json!([0.01])), ..Default::default() };
    let app = Workers::new(outbox.clone())
        .subscription("billing", |s| {
            s.ensure_with(["order.#"], options)
                .on_with("order.created", bill, |o| o.concurrency(2).dead_on::<NotBillable>())
                .on("order.paid", mail)
                .concurrency(4)
        })
        .layer(tower::util::MapRequestLayer::new(move |delivery: Delivery| {
            counted.fetch_add(1, Ordering::Relaxed);
            delivery
        }))
        .layer(tower::timeout::TimeoutLayer::new(PATIENCE))
        .with_state(seen.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run_until(stop.clone().cancelled_owned()));
    let db = outbox.session().await.unwrap();
    wait_until("all has ended", PATIENCE, async || {
        let left: i64 = db.query_one("select count(*) from outbox.delivery", &[]).await.unwrap().get(0);
        left == 0 && seen.lock().unwrap().len() == 2
    })
    .await;
    stop.cancel();
    let reports = running.await.unwrap().unwrap();
    let report = &reports["billing"];
    // Retried: order 1 and the topic without a handler, twice each. Dead at once: order 2 by its type, the wrong payload.
    assert_eq!((report.completed, report.failed, report.dead), (2, 4, 2), "{report:?}");
    assert_eq!(layered.load(Ordering::Relaxed), 8);
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    assert_eq!(seen, ["billed 5", "mailed order.paid"]);
    let rows = db
        .query("select message_id, attempt, last_error from outbox.dead_letter order by message_id", &[])
        .await
        .unwrap();
    let letters: Vec<(i64, i32, String)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(letters.len(), 4, "{letters:?}");
    let of_wrong = letters.iter().find(|(id, ..)| *id == wrong).unwrap();
    assert!(
        of_wrong.1 == 1 && of_wrong.2.contains("the payload is no") && of_wrong.2.contains("Order"),
        "{of_wrong:?}"
    );
    assert!(letters.iter().any(|(_, attempt, error)| *attempt == 1 && error.contains("not billable")), "{letters:?}");
    assert!(letters.iter().any(|(_, _, error)| error.contains("\"order.unknown\" has no handler")), "{letters:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_runs_the_same_handlers_and_returns_their_error() {
    async fn bill(Json(order): Json<Order>) -> anyhow::Result<()> {
        load(order.order).await.map(|_| ())
    }
    let outbox = outbox("drain").await;
    let app = Workers::new(outbox.clone()).subscription("billing", |s| s.on("order.#", bill)).with_state(());
    outbox.ensure_subscription("billing", &["order.#"], Default::default()).await.unwrap();
    publish(&outbox, &[4]).await;
    assert_eq!(app.drain("billing").await.unwrap().completed, 1);
    publish(&outbox, &[2]).await;
    let error: HandlerError = app.drain("billing").await.unwrap_err();
    assert!(error.to_string().starts_with("the handler of \"order.created\" failed: cannot bill"), "{error}");
    assert!(error.failure().find::<NotBillable>().is_some());
    assert!(app.drain("other").await.unwrap_err().to_string().contains("\"other\" has no handlers here"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_enqueue_one_message_for_a_tick() {
    let outbox = outbox("periodic").await;
    let stop = CancellationToken::new();
    let start = || {
        let app = Workers::<()>::new(outbox.clone())
            .periodic(Periodic::new("* * * * *", "report.minute").time_zone("Europe/Berlin"))
            .with_state(());
        tokio::spawn(app.run_until(stop.clone().cancelled_owned()))
    };
    let running = [start(), start()];
    let mut reader = outbox.reader().topics(["report.#"]).build();
    // The tick of this minute was missed and is made up for.
    let first = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
    let tick = first.json::<Value>().unwrap()["tick"].as_str().unwrap().to_owned();
    assert!(tick.ends_with(":00Z"), "{tick}");
    let db = outbox.session().await.unwrap();
    // A process that starts now enqueues the same tick again, and gets the message that exists.
    let third = start();
    let again = Message::to("report.minute").json(&json!({"tick": tick})).unwrap();
    let again = again.idempotency_key(format!("tick report.minute {tick}")).enqueue(&db).await.unwrap();
    assert_eq!(again, first.message_id);
    let sql = "select count(*), count(distinct payload) from outbox.message where topic = 'report.minute'";
    let row = db.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), row.get::<_, i64>(1));
    stop.cancel();
    for running in running.into_iter().chain([third]) {
        running.await.unwrap().unwrap();
    }
    let refused = Workers::<()>::new(outbox).periodic(Periodic::new("every day", "x")).with_state(());
    let error = refused.run_until(std::future::pending()).await.unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("\"every day\""), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_periodic_message_that_is_refused_ends_nothing() {
    let outbox = outbox("refused_ticks").await;
    let every = |topic: &str| Periodic::new("* * * * *", topic);
    let app = || {
        Workers::<()>::new(outbox.clone())
            .periodic(every("a b").name("topic"))
            .periodic(every("x").name("payload").message(|_, message| message.json(&"\0")))
            .periodic(every("x").name("error").message(|_, _| Err(Error::invalid("no message today"))))
            .periodic(every("x").name("panic").message(|_, _| panic!("a bug")))
            .periodic(every("report.minute"))
            .with_state(())
    };
    // Each start makes up for the tick of this minute.
    wait_until("each tick is counted, and the application ends by its signal only", PATIENCE, async || {
        let reports = app().run_until(tokio::time::sleep(Duration::from_secs(1))).await.unwrap();
        let of = |name: &str| reports[&format!("periodic {name}")];
        let refused = ["topic", "payload", "error", "panic"].map(of);
        refused.iter().all(|report| report.failed >= 1 && report.completed == 0)
            && of("report.minute").completed >= 1
            && of("report.minute").failed == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connecting_to_a_server_that_never_answers_has_a_time_limit() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let dsn = format!("postgresql://u@127.0.0.1:{port}/d?connect_timeout=1");
    let pooled = Outbox::lazy(&dsn, 1).unwrap();
    let (of_pool, single) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(pooled.session(), pooled.target().connect()) })
            .await
            .expect("both end");
    for error in [of_pool.err().unwrap(), single.err().unwrap()] {
        assert_eq!(error.kind(), Kind::Retry, "{}", error.report());
        assert!(error.to_string().starts_with(&format!("cannot connect to \"127.0.0.1\", port {port}")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_without_end_are_bounded() {
    let outbox = outbox("waits").await;
    outbox.ensure_subscription("waits", &["order.#"], Default::default()).await.unwrap();
    publish(&outbox, &[1]).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let seen = refused.clone();
    let builder = outbox.worker("waits").poll_interval(Duration::MAX).grace(Duration::MAX).until_empty();
    let builder = builder.on_event(move |event| {
        if matches!(event, Event::Refused(_)) {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    wait_until("the message is routed and has failed", PATIENCE, async || {
        let worker =
            builder.clone().build(async |_: Delivery| Err::<(), _>(Failure::retry_after("later", Duration::MAX)));
        worker.run().await.unwrap().failed == 1
    })
    .await;
    assert_eq!(refused.load(Ordering::Relaxed), 0);
    let mut reader = outbox.reader().poll_interval(Duration::MAX).build();
    assert_eq!(reader.next().await.unwrap().topic, "order.created");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_bounded_in_bytes() {
    let outbox = outbox("pages").await;
    let db = outbox.session().await.unwrap();
    for n in 0..100 {
        let large = json!({"order": n, "text": "x".repeat(200_000)});
        Message::to("order.created").json(&large).unwrap().enqueue(&db).await.unwrap();
    }
    let mut reader = outbox.reader().batch(10_000).build();
    let (mut orders, mut largest) = (Vec::new(), 0);
    while orders.len() < 100 {
        let page = tokio::time::timeout(PATIENCE, reader.next_batch()).await.unwrap().unwrap();
        largest = largest.max(page.len());
        orders.extend(page.iter().map(|message| message.json::<Order>().unwrap().order));
    }
    assert!(orders.iter().copied().eq(0..100), "{orders:?}");
    assert!(largest <= 42, "{largest} messages of 200 kB in a page");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_settings_ends_a_worker_at_once() {
    outbox("settings").await;
    let server = server().await;
    let port = server.port;
    // The test servers ask for a password.
    for (dsn, code, part) in [
        (format!("postgresql://postgres@127.0.0.1:{port}/settings?passfile=/nowhere"), "28P01", "~/.pgpass"),
        (format!("postgresql://postgres:wrong@127.0.0.1:{port}/settings"), "28P01", "The password"),
        (
            format!("postgresql://postgres:{}@127.0.0.1:{port}/settings?channel_binding=require", server.password()),
            "28000",
            "channel_binding",
        ),
        (format!("postgresql://postgres:{}@127.0.0.1:{port}/nothing", server.password()), "3D000", "\"nothing\""),
    ] {
        let worker = Outbox::lazy(&dsn, 1).unwrap().worker("w").build(async |_: Delivery| Ok(None));
        let error = tokio::time::timeout(PATIENCE, worker.run()).await.expect("it ends").unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Fatal, code), "{dsn}: {}", error.report());
        let report = error.report();
        assert!(report.contains(&format!("port {port}")), "{report}");
        assert!(report.contains(part) || code == "28P01", "{report}");
        assert!(!report.contains(server.password()), "{report}");
    }
    let error = Outbox::connect("postgresql://u@127.0.0.1:1/d").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Retry);
    assert!(
        error.to_string().starts_with("cannot connect to \"127.0.0.1\", port 1, database \"d\", user \"u\": "),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_a_rare_topic_keeps_up_with_the_feed() {
    let outbox = outbox("rare").await;
    publish(&outbox, &[1]).await;
    let mut reader = outbox.reader().consumer("c").topics(["order.#"]).build();
    let message = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
    enqueue_many(&outbox.session().await.unwrap(), "other", &(0..20).collect::<Vec<_>>(), &[]).await.unwrap();
    let position =
        async || outbox.cursor_list(Default::default()).await.unwrap().first().map(|c| (c.position, c.lag_positions));
    let db = outbox.session().await.unwrap();
    wait_until("the others are in the feed", PATIENCE, async || {
        db.query_one("select outbox.head()", &[]).await.unwrap().get::<_, i64>(0) >= message.position + 20
    })
    .await;
    // The message that was read is not confirmed yet, so the cursor may not pass it.
    assert!(reader.poll_next_now().await.unwrap().is_none());
    assert_eq!(position().await, None);
    reader.advance(&message).await.unwrap();
    wait_until("the cursor is at the end", PATIENCE, async || {
        assert!(reader.poll_next_now().await.unwrap().is_none());
        position().await.is_some_and(|(_, lag)| lag == Some(0))
    })
    .await;
    assert!(position().await.unwrap().0 >= message.position + 20);
    assert_eq!(reader.confirmed(), position().await.unwrap().0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_advance_passes_no_message_whose_effect_is_not_confirmed() {
    let outbox = outbox("gaps").await;
    publish(&outbox, &[1, 2, 3, 4]).await;
    let pool = PgPool::connect(&server().await.dsn("gaps")).await.unwrap();
    let mut reader = outbox.reader().consumer("c").topics(["order.#"]).build();
    let mut next = async || tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
    let (one, two, three) = (next().await, next().await, next().await);
    let mut tx = pool.begin().await.unwrap();
    reader.advance_in(&mut *tx, &one).await.unwrap();
    tx.commit().await.unwrap();
    reader.committed(&one);
    // The effect of the second message failed, and the loop went on.
    for refused in [reader.advance(&three).await, reader.advance_in(&mut pool.begin().await.unwrap(), &three).await] {
        let error = refused.unwrap_err();
        assert_eq!((error.kind(), error.name()), (Kind::Conflict, "unconfirmed_message"), "{error}");
        assert!(error.to_string().contains(&two.position.to_string()), "{error}");
    }
    // The message is read again after the reader went back to its cursor.
    reader.rewind();
    assert_eq!(reader.next().await.unwrap().message_id, two.message_id);
    // Effects of a batch are confirmed together.
    let three = reader.next().await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    reader.advance_in(&mut *tx, &[two.clone(), three.clone()][..]).await.unwrap();
    tx.commit().await.unwrap();
    reader.committed(&three);
    let four = reader.next().await.unwrap();
    reader.skip(&four);
    assert_eq!(reader.confirmed(), three.position);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_cursor_begins_where_the_reader_says() {
    let outbox = outbox("after").await;
    publish(&outbox, &[1, 2, 3]).await;
    let mut all = outbox.reader().topics(["order.#"]).build();
    let first = tokio::time::timeout(PATIENCE, all.next()).await.unwrap().unwrap();
    let mut reader = outbox.reader().consumer("c").after(first.position).build();
    let message = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
    assert_eq!(message.json::<Order>().unwrap().order, 2);
    // An error that is recorded before the first advance does not make the next instance begin elsewhere.
    reader.record_error("broken", Some(message.position)).await.unwrap();
    let mut reader = outbox.reader().consumer("c").after(first.position).build();
    let message = reader.next().await.unwrap();
    assert_eq!(message.json::<Order>().unwrap().order, 2);
    let mut session = outbox.session().await.unwrap();
    let tx = session.transaction().await.unwrap();
    reader.advance_in(&tx, &message).await.unwrap();
    tx.commit().await.unwrap();
    reader.committed(&message);
    assert_eq!(outbox.reader().consumer("c").build().next().await.unwrap().json::<Order>().unwrap().order, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_stands_at_the_message_that_fails_and_applies_each_once() {
    let outbox = outbox("apply").await;
    let pool = PgPool::connect(&server().await.dsn("apply")).await.unwrap();
    sqlx::query("create table totals (id bigint primary key)").execute(&pool).await.unwrap();
    publish(&outbox, &[1, 2, 3, 4, 5]).await;
    let mended = AtomicBool::new(false);
    let stop = CancellationToken::new();
    let reader = outbox.reader().consumer("totals").topics(["order.#"]).poll_interval(Duration::from_millis(20));
    let projecting =
        reader.apply_until(stop.clone().cancelled_owned(), &pool, async |tx: &mut PgTransaction<'_>, messages| {
            for message in messages {
                let order = message.json::<Order>()?.order;
                if order == 3 && !mended.load(Ordering::Relaxed) {
                    anyhow::bail!("a bug in the effect of {order}");
                }
                sqlx::query("insert into totals values ($1)").bind(order).execute(&mut **tx).await?;
            }
            anyhow::Ok(())
        });
    let applied = async || -> Vec<i64> {
        sqlx::query_scalar("select id from totals order by id").fetch_all(&pool).await.unwrap()
    };
    let cursor = async || outbox.cursor_list(Default::default()).await.unwrap().into_iter().next();
    let checking = async {
        wait_until("the failure is recorded", PATIENCE, async || {
            let error = cursor().await.and_then(|cursor| cursor.last_error);
            error.is_some_and(|error| error.contains("a bug in the effect of 3"))
        })
        .await;
        // The messages before it are applied, and the messages after it are not.
        assert_eq!(applied().await, [1, 2]);
        mended.store(true, Ordering::Relaxed);
        wait_until("all is applied", PATIENCE, async || applied().await == [1, 2, 3, 4, 5]).await;
        publish(&outbox, &[6]).await;
        wait_until("the next is applied", PATIENCE, async || applied().await.len() == 6).await;
        wait_until("the error is cleared", PATIENCE, async || cursor().await.unwrap().last_error.is_none()).await;
        stop.cancel();
    };
    let (projected, ()) = tokio::join!(projecting, checking);
    projected.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_projections_the_one_that_is_too_late_reports_no_failure() {
    let outbox = outbox("race").await;
    outbox.session().await.unwrap().batch_execute("create table totals (id bigint primary key)").await.unwrap();
    publish(&outbox, &[1]).await;
    let stop = CancellationToken::new();
    let both = tokio::sync::Barrier::new(2);
    let late = AtomicUsize::new(0);
    let project = || {
        let reader = outbox.reader().consumer("totals").topics(["order.#"]);
        reader.apply_until(stop.clone().cancelled_owned(), &outbox, async |tx, messages| {
            both.wait().await;
            for message in messages {
                let order = message.json::<Order>()?.order;
                // The second one waits for the transaction of the first, and then violates the key.
                if let Err(error) = tx.execute("insert into totals values ($1)", &[&order]).await {
                    late.fetch_add(1, Ordering::Relaxed);
                    return Err(error.into());
                }
            }
            Ok::<(), Error>(())
        })
    };
    let checking = async {
        wait_until("one is too late", PATIENCE, async || late.load(Ordering::Relaxed) == 1).await;
        stop.cancel();
    };
    let (one, other, ()) = tokio::join!(project(), project(), checking);
    one.unwrap();
    other.unwrap();
    let cursor = outbox.cursor_list(Default::default()).await.unwrap().into_iter().next().unwrap();
    assert_eq!((cursor.lag_positions, cursor.last_error), (Some(0), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_survives_restarts_of_the_server() {
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    server.database("d").await.unwrap();
    let outbox = Outbox::connect(&server.dsn("d")).await.unwrap();
    outbox.session().await.unwrap().batch_execute("create table totals (id bigint primary key)").await.unwrap();
    let stop = CancellationToken::new();
    let projection = {
        let (outbox, stop) = (outbox.clone(), stop.clone());
        tokio::spawn(async move {
            let reader = outbox.reader().consumer("totals").topics(["order.#"]).batch(3);
            reader
                .apply_until(stop.cancelled_owned(), &outbox, async |tx, messages| {
                    for message in messages {
                        let order = message.json::<Order>()?.order;
                        tx.execute("insert into totals values ($1)", &[&order]).await?;
                    }
                    Ok::<(), Error>(())
                })
                .await
        })
    };
    for how in [Stop::Fast, Stop::Immediate] {
        let orders: Vec<i64> = if how == Stop::Fast { (0..50).collect() } else { (50..100).collect() };
        publish(&outbox, &orders).await;
        server.restart(how).await.unwrap();
    }
    let db = server.connect("d").await.unwrap();
    wait_until("each is applied once", PATIENCE, async || {
        db.query_one("select count(*) from totals", &[]).await.unwrap().get::<_, i64>(0) == 100
    })
    .await;
    stop.cancel();
    projection.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_handlers_are_events() {
    let outbox = outbox("events").await;
    outbox.ensure_subscription("w", &["order.#"], Default::default()).await.unwrap();
    publish(&outbox, &[1]).await;
    let events: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = events.clone();
    let worker = outbox
        .worker("w")
        .on_event(move |event| {
            if let Event::Failed(failed) = event {
                let text = format!("{} {} {}", failed.topic, failed.attempt, failed.failure.text());
                kept.lock().unwrap().push(text);
            }
        })
        .build(async |delivery: Delivery| -> anyhow::Result<()> {
            load(delivery.json::<Order>()?.order).await.map(|_| ())
        });
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker.run_until(stop.clone().cancelled_owned()));
    wait_until("the failure is told", PATIENCE, async || !events.lock().unwrap().is_empty()).await;
    assert_eq!(events.lock().unwrap()[0], "order.created 1 no such order");
    stop.cancel();
    running.await.unwrap().unwrap();
}
