//! The environment of a client: other drivers, TLS, wrong servers, lost connections, and the helpers for tests of
//! applications.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_harness::tls::Ca;
use outbox_harness::tls_proxy::TlsProxy;
use outbox_harness::{Server, Stop, built, wait_until};
use pg_outbox::admin::Subscribe;
use pg_outbox::message::{Message, enqueue_many};
use pg_outbox::testing::{
    Expected, Receiver, assert_enqueued, assert_enqueued_like, assert_not_enqueued, drain, enqueued,
};
use pg_outbox::verify::Verifier;
use pg_outbox::worker::{Delivery, Event};
use pg_outbox::{Kind, Outbox};
use serde_json::json;
use tokio::sync::OnceCell;

#[path = "../examples/sqlx.rs"]
#[allow(dead_code, unreachable_pub, reason = "a program of its own")]
mod sqlx_example;

const PATIENCE: Duration = Duration::from_secs(120);

async fn server() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER
        .get_or_init(async || {
            Server::start(&[("pg_outbox.poll_interval", "1s"), ("max_worker_processes", "40")]).await.unwrap()
        })
        .await
}

async fn outbox(name: &str) -> Outbox {
    server().await.database(name).await.unwrap();
    Outbox::connect(&server().await.dsn(name)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_enqueues_in_a_transaction_of_sqlx() {
    let outbox = outbox("sqlx").await;
    let pool = sqlx::PgPool::connect(&server().await.dsn("sqlx")).await.unwrap();
    sqlx::query("create table orders (id bigint primary key, amount bigint not null check (amount > 0))")
        .execute(&pool)
        .await
        .unwrap();
    let id = sqlx_example::place_order(&pool, 42, 130).await.unwrap();
    // The table refuses the row. Neither row nor message is stored.
    assert!(sqlx_example::place_order(&pool, 43, -1).await.is_err());
    // The row exists already, which fails before the message is enqueued.
    assert!(sqlx_example::place_order(&pool, 42, 1).await.is_err());
    let mut reader = outbox.reader().topics(["order.*"]).poll_interval(Duration::from_millis(20)).build();
    let first = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
    assert_eq!((first.message_id, first.key.as_deref()), (id, Some("order-42")));
    assert_eq!(first.json::<serde_json::Value>().unwrap(), json!({"order": 42, "amount": 130}));
    let second = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
    assert_eq!(second.text().unwrap(), "order 42\n");
    let db = outbox.session().await.unwrap();
    let count: i64 =
        db.query_one("select count(*) from outbox.message where topic ~ '^order'", &[]).await.unwrap().get(0);
    assert_eq!(count, 2, "only what was committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_verified_as_sslmode_says() {
    outbox("tls").await;
    let server = server().await;
    let (ca, other) = (Ca::new().unwrap(), Ca::new().unwrap());
    let folder = outbox_harness::postgres::fresh_folder("tls").unwrap();
    let file = |name: &str, pem: String| {
        let path = folder.join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (mine, foreign) = (file("ca.pem", ca.pem()), file("other.pem", other.pem()));
    let front = TlsProxy::start(&ca.issue(&["localhost"]).unwrap(), server.port).await.unwrap();
    let expired = TlsProxy::start(&ca.issue_expired(&["localhost"]).unwrap(), server.port).await.unwrap();
    let dsn = |host: &str, port: u16, rest: &str| {
        format!("postgresql://postgres:{}@{host}:{port}/tls?{rest}", server.password())
    };
    let strict = |root: &str| format!("sslmode=verify-full&sslrootcert={root}");

    // With an accepted certificate, the pool enqueues and a worker works on a session of its own.
    let secure = Outbox::connect(&dsn("localhost", front.port(), &strict(&mine))).await.unwrap();
    secure.subscribe("w", &["#"], Subscribe::default()).await.unwrap();
    Message::to("a").json(&1).unwrap().enqueue(&**secure.session().await.unwrap()).await.unwrap();
    wait_until("the message is in the window", PATIENCE, async || {
        drain(&secure, "w", async |_: Delivery| Ok(None)).await.unwrap().completed == 1
    })
    .await;
    for (host, port, rest, accepted) in [
        ("localhost", front.port(), strict(&foreign), false),
        ("127.0.0.1", front.port(), strict(&mine), false),
        ("127.0.0.1", front.port(), format!("sslmode=verify-ca&sslrootcert={mine}"), true),
        ("127.0.0.1", front.port(), format!("sslmode=verify-ca&sslrootcert={foreign}"), false),
        ("127.0.0.1", front.port(), "sslmode=require".to_owned(), true),
        ("localhost", front.port(), "sslmode=verify-full".to_owned(), false),
        ("localhost", expired.port(), strict(&mine), false),
        // This PostgreSQL has no TLS, so a connection that requires TLS fails.
        ("127.0.0.1", server.port, "sslmode=require".to_owned(), false),
    ] {
        let made = Outbox::connect(&dsn(host, port, &rest)).await;
        match (made, accepted) {
            (Ok(_), true) => {}
            (Err(error), false) => {
                assert_eq!((error.kind(), error.name()), (Kind::Fatal, "tls_refused"), "{rest}: {error:?}");
                assert!(!format!("{error:?}").contains(server.password()));
            }
            (made, _) => panic!("{host} {rest}: {:?}", made.err()),
        }
    }
    // A worker ends and does not retry after a certificate error.
    let refused = Outbox::lazy(&dsn("localhost", front.port(), &strict(&foreign)), 1).unwrap();
    let ended = refused.worker("w").build(async |_: Delivery| Ok(None)).run().await.unwrap_err();
    assert_eq!(ended.name(), "tls_refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helpers_for_tests_of_applications() {
    let outbox = outbox("helpers").await;
    let mut session = outbox.session().await.unwrap();
    outbox.subscribe("w", &["order.#"], Subscribe { max_attempts: Some(1), ..Default::default() }).await.unwrap();

    let tx = session.transaction().await.unwrap();
    assert_eq!(enqueued(&*tx).await.unwrap(), []);
    let error = assert_enqueued(&*tx, "order.paid", &json!({})).await.unwrap_err();
    assert!(error.kind() == Kind::NotFound && error.details().detail.as_deref() == Some("It has enqueued nothing."));
    let id =
        Message::to("order.paid").key("k").json(&json!({"a": {"b": 1, "c": 2}})).unwrap().enqueue(&*tx).await.unwrap();
    Message::to("order.text").text("hi").enqueue(&*tx).await.unwrap();
    let found = assert_enqueued(&*tx, "order.paid", &json!({"a": {"c": 2}})).await.unwrap();
    assert_eq!((found.id, found.key.as_deref()), (id, Some("k")));
    let error = assert_enqueued(&*tx, "order.paid", &json!({"a": {"c": 3}})).await.unwrap_err();
    assert!(error.details().detail.as_deref().unwrap().contains("order.paid {"), "{error:?}");
    assert_eq!(enqueued(&*tx).await.unwrap().len(), 2);
    let paid = || Expected::from("order.paid").payload(json!({"a": {"c": 2}}));
    assert_eq!(assert_enqueued_like(&*tx, paid().key("k")).await.unwrap().id, id);
    assert_not_enqueued(&*tx, "order.lost").await.unwrap();
    for absent in [paid().key("other"), paid().tenant("t"), Expected::from("order.paid").payload(json!({"a": 1}))] {
        assert_not_enqueued(&*tx, absent.clone()).await.unwrap();
        assert_eq!(assert_enqueued_like(&*tx, absent).await.unwrap_err().code(), "OB001");
    }
    assert_eq!(assert_not_enqueued(&*tx, paid()).await.unwrap_err().code(), "OB005");
    tx.commit().await.unwrap();
    // Only messages of this transaction count.
    let tx = session.transaction().await.unwrap();
    assert!(assert_enqueued(&*tx, "order.paid", &json!({})).await.is_err());
    drop(tx);

    // The messages have been committed just now. drain waits until they are routed.
    let report = drain(&outbox, "w", async |_: Delivery| Err::<(), _>("no")).await.unwrap();
    assert_eq!((report.failed, report.completed), (2, 0));
    assert_eq!(drain(&outbox, "w", async |_: Delivery| Ok(None)).await.unwrap().completed, 0, "nothing is left");

    let receiver = Receiver::start("127.0.0.1:0").await.unwrap();
    let made = outbox.create_endpoint("here", &receiver.url("/hook"), Default::default()).await.unwrap();
    receiver.verify_with(Verifier::new(&made.signing_secret).unwrap());
    outbox.subscribe("s", &["hook"], Subscribe { endpoint: Some("here".into()), ..Default::default() }).await.unwrap();
    Message::to("hook").json(&json!({"n": 1})).unwrap().enqueue(&**session).await.unwrap();
    let arrivals = tokio::time::timeout(PATIENCE, receiver.wait_for(1)).await.unwrap();
    assert_eq!((arrivals[0].line.as_str(), arrivals[0].valid.clone()), ("POST /hook", Some(Ok(()))));
    assert_eq!(arrivals[0].header("content-type"), Some("application/json"));
    receiver.answer(503);
    Message::to("hook").json(&2).unwrap().enqueue(&**session).await.unwrap();
    tokio::time::timeout(PATIENCE, receiver.wait_for(2)).await.unwrap();
    wait_until("the failure is recorded", PATIENCE, async || {
        let sql = "select count(*) from outbox.attempt where status = 503";
        session.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    // With another secret, the receiver refuses the request.
    receiver.verify_with(Verifier::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
    Message::to("hook").json(&3).unwrap().enqueue(&**session).await.unwrap();
    let arrivals = tokio::time::timeout(PATIENCE, receiver.wait_for(3)).await.unwrap();
    assert!(arrivals.iter().any(|arrival| matches!(&arrival.valid, Some(Err(_)))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_of_another_version_is_told() {
    let outbox = outbox("version").await;
    let db = outbox.session().await.unwrap();
    // Before 1.0, another minor version is as incompatible as another major version is later.
    for other in ["1.0.0", "0.2.0"] {
        let update = format!("update pg_catalog.pg_extension set extversion = '{other}' where extname = 'pg_outbox'");
        db.batch_execute(&update).await.unwrap();
        let error = outbox.check().await.unwrap_err();
        assert_eq!((error.kind(), error.name()), (Kind::Fatal, "version_mismatch"));
        let details = error.details();
        assert!(
            details.message.contains(other) && details.hint.as_deref().unwrap().contains("alter extension"),
            "{details:?}"
        );
        // A worker ends with the same error, and a reader returns it.
        let ended = outbox.worker("w").build(async |_: Delivery| Ok(None)).run().await.unwrap_err();
        assert_eq!(ended.name(), "version_mismatch");
        assert_eq!(outbox.reader().build().next().await.unwrap_err().name(), "version_mismatch");
    }
    db.execute("update pg_catalog.pg_extension set extversion = '0.1.7' where extname = 'pg_outbox'", &[])
        .await
        .unwrap();
    outbox.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_content_fails_its_own_delivery_only() {
    let outbox = outbox("malformed").await;
    outbox.subscribe("w", &["#"], Subscribe { max_attempts: Some(1), ..Default::default() }).await.unwrap();
    let db = outbox.session().await.unwrap();
    Message::to("bytes").bytes(vec![0, 255, 254], "application/octet-stream").enqueue(&**db).await.unwrap();
    Message::to("broken").bytes(b"{\"n\": ".to_vec(), "application/json").enqueue(&**db).await.unwrap();
    Message::to("wrong").json(&json!({"n": "text"})).unwrap().enqueue(&**db).await.unwrap();
    Message::to("right").json(&json!({"n": 7})).unwrap().enqueue(&**db).await.unwrap();
    #[derive(serde::Deserialize)]
    struct Job {
        n: i64,
    }
    let sum = Arc::new(Mutex::new(Vec::new()));
    let kept = sum.clone();
    let worker = outbox.worker("w").poll_interval(Duration::from_millis(20)).build(move |delivery: Delivery| {
        let kept = kept.clone();
        async move {
            let job: Job = delivery.json()?;
            kept.lock().unwrap().push(job.n);
            Ok(None)
        }
    });
    let stop = worker.stop_token();
    let running = tokio::spawn(worker.run());
    wait_until("three are dead and one is done", PATIENCE, async || {
        let dead: i64 = db.query_one("select count(*) from outbox.dead_letter", &[]).await.unwrap().get(0);
        dead == 3 && sum.lock().unwrap().len() == 1
    })
    .await;
    stop.cancel();
    let report = running.await.unwrap().unwrap();
    assert_eq!((report.completed, report.failed), (1, 3), "{report:?}");
    assert_eq!(*sum.lock().unwrap(), [7]);
    let rows = db.query("select last_error from outbox.dead_letter", &[]).await.unwrap();
    assert!(rows.iter().all(|row| row.get::<_, String>(0).contains("malformed JSON")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_and_a_reader_live_through_restarts() {
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    server.database("d").await.unwrap();
    let outbox = Outbox::connect(&server.dsn("d")).await.unwrap();
    outbox.subscribe("w", &["job"], Subscribe::default()).await.unwrap();
    let seen: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let disconnects = Arc::new(Mutex::new(0));
    let worker = {
        let (seen, disconnects) = (seen.clone(), disconnects.clone());
        outbox
            .worker("w")
            .concurrency(4)
            .lease(Duration::from_secs(3))
            .poll_interval(Duration::from_millis(20))
            .on_event(move |event| {
                if matches!(event, Event::Disconnected(_)) {
                    *disconnects.lock().unwrap() += 1;
                }
            })
            .build(move |delivery: Delivery| {
                let seen = seen.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                    *seen.lock().unwrap().entry(delivery.webhook_id.clone()).or_default() += 1;
                    Ok(None)
                }
            })
    };
    let stop = worker.stop_token();
    let running = tokio::spawn(worker.run());
    let mut reader = outbox.reader().consumer("c").topics(["job"]).poll_interval(Duration::from_millis(20)).build();
    let mut sent = 0;
    for how in [Stop::Fast, Stop::Immediate] {
        let payloads: Vec<i32> = (0..100).collect();
        let session = outbox.session().await.unwrap();
        enqueue_many(&**session, "job", &payloads, &[]).await.unwrap();
        drop(session);
        sent += payloads.len();
        wait_until("some are handled", PATIENCE, async || seen.lock().unwrap().len() > sent - 70).await;
        server.restart(how).await.unwrap();
        let message = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
        reader.advance(&message).await.unwrap();
    }
    wait_until("all are handled", PATIENCE, async || seen.lock().unwrap().len() == sent).await;
    stop.cancel();
    let report = running.await.unwrap().unwrap();
    assert!(report.disconnects >= 2 && *disconnects.lock().unwrap() >= 2, "{report:?}");
    let db = server.connect("d").await.unwrap();
    wait_until("nothing waits", PATIENCE, async || {
        db.query_one("select count(*) from outbox.delivery where state = 'processing'", &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_and_readers_are_woken_by_the_server() {
    let server = Server::start(&[("pg_outbox.poll_interval", "1s"), ("pg_outbox.notify_readers", "on")]).await.unwrap();
    server.database("notify").await.unwrap();
    let outbox = Outbox::connect(&server.dsn("notify")).await.unwrap();
    outbox.subscribe("w", &["job"], Subscribe { notify: Some(true), ..Default::default() }).await.unwrap();
    // Without a notification they would not look for ten minutes.
    let never = Duration::from_secs(600);
    let handled = Arc::new(Mutex::new(0));
    let kept = handled.clone();
    let worker = outbox.worker("w").poll_interval(never).build(move |_: Delivery| {
        *kept.lock().unwrap() += 1;
        async { Ok(None) }
    });
    let stop = worker.stop_token();
    let running = tokio::spawn(worker.run());
    let mut reader = outbox.reader().topics(["job"]).poll_interval(never).build();
    let session = outbox.session().await.unwrap();
    for n in 0..3 {
        Message::to("job").json(&n).unwrap().enqueue(&**session).await.unwrap();
        wait_until("the worker was woken", PATIENCE, async || *handled.lock().unwrap() == n + 1).await;
        let message = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap().unwrap();
        assert_eq!(message.json::<i32>().unwrap(), n);
    }
    stop.cancel();
    assert_eq!(running.await.unwrap().unwrap().completed, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_of_the_readme_runs_until_it_is_interrupted() {
    let readme = include_str!("../README.md");
    let shown = readme.split("```rust,no_run\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(include_str!("../examples/readme.rs").ends_with(shown), "README.md and examples/readme.rs differ");

    outbox("readme").await;
    let db = server().await.connect("readme").await.unwrap();
    db.batch_execute("create table orders (id bigint primary key, amount bigint)").await.unwrap();
    let mut example = Command::new(built("examples/readme").unwrap())
        .env("DATABASE_URL", server().await.dsn("readme"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(example.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "order 42");
    outbox_harness::postgres::signal(example.id(), "INT").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "1 completed");
    assert!(example.wait().unwrap().success());
    let left: i64 = db.query_one("select count(*) from outbox.delivery", &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}
