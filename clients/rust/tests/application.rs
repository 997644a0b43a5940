//! The application as a supervisor sees it: projections, hooks, and the health port.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_harness::{Server, wait_until};
use pg_outbox::Outbox;
use pg_outbox::app::{Json, Workers};
use pg_outbox::message::enqueue_many;
use pg_outbox::worker::{CancellationToken, Delivery, Failure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;

const PATIENCE: Duration = Duration::from_secs(120);

async fn outbox(name: &str) -> Outbox {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    let start =
        async || Server::start(&[("pg_outbox.poll_interval", "1s"), ("max_worker_processes", "40")]).await.unwrap();
    let server = SERVER.get_or_init(start).await;
    server.database(name).await.unwrap();
    Outbox::connect(&server.dsn(name)).await.unwrap()
}

async fn publish(outbox: &Outbox, topic: &str, payloads: &[Value]) {
    enqueue_many(&outbox.session().await.unwrap(), topic, payloads, &[]).await.unwrap();
}

async fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

/// Returns the answer to a GET request, without its headers. The status is 0 if nothing listens.
async fn get(address: &str, path: &str) -> (u16, String) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return (0, String::new()) };
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_with_a_projection_is_not_healthy_while_its_effect_fails() {
    let outbox = outbox("projections").await;
    let db = outbox.session().await.unwrap();
    db.batch_execute("create table totals (n bigint); insert into totals values (0)").await.unwrap();
    let address = free_address().await;
    let broken = Arc::new(AtomicBool::new(true));
    let fails = broken.clone();
    let reader = outbox.reader().consumer("all\"of").topics(["order.paid"]).poll_interval(Duration::from_millis(20));
    let stop = CancellationToken::new();
    let application = Workers::new(outbox.clone())
        .subscription("jobs", |s| s.ensure(["job.#"]).on("job.#", async |Json(_): Json<Value>| anyhow::Ok(())))
        .projection(reader, &outbox, async move |tx, messages| {
            for message in messages {
                let n: i64 = message.json()?;
                anyhow::ensure!(n != 2 || !fails.load(Ordering::Relaxed), "this effect fails");
                tx.execute("update totals set n = n + $1", &[&n]).await?;
            }
            Ok(())
        })
        .health_port(address.clone());
    let running = tokio::spawn(application.run_until(stop.clone().cancelled_owned()));
    wait_until("it is healthy", PATIENCE, async || get(&address, "/health").await.0 == 200).await;
    publish(&outbox, "order.paid", &[json!(1), json!(2), json!(3)]).await;
    publish(&outbox, "job.run", &[json!(null)]).await;
    wait_until("the effect fails", PATIENCE, async || get(&address, "/health").await.0 == 503).await;
    let get_cursor = json!({"consumer": "all\"of", "if_missing": 0});
    let cursor = async || outbox.call("cursor_get", &get_cursor, &[]).await.unwrap()[0].clone();
    let recorded = async || !cursor().await["error_position"].is_null();
    wait_until("the error is recorded", PATIENCE, recorded).await;
    let shown: Value = serde_json::from_str(&get(&address, "/health").await.1).unwrap();
    let projection = json!({"state": "failing", "failing_position": cursor().await["error_position"]});
    assert_eq!(
        shown,
        json!({"state": "failing", "workers": {"jobs": "connected"}, "projections": {"all\"of": projection}})
    );
    let metrics = get(&address, "/metrics").await.1;
    assert!(metrics.contains("outbox_projection_failing{consumer=\"all\\\"of\"} 1\n"), "{metrics}");
    assert_eq!(get(&address, "/other").await.0, 404);
    let mut noise = TcpStream::connect(&address).await.unwrap();
    _ = noise.write_all(&[b'x'; 100_000]).await;

    broken.store(false, Ordering::Relaxed);
    wait_until("it is healthy again", PATIENCE, async || get(&address, "/health").await.0 == 200).await;
    wait_until("all are applied", PATIENCE, async || cursor().await["lag_positions"] == 0).await;
    let counted = async || {
        let metrics = get(&address, "/metrics").await.1;
        metrics.contains("outbox_projection_messages_total{consumer=\"all\\\"of\"} 3\n")
            && metrics.contains("outbox_worker_deliveries_total{subscription=\"jobs\",outcome=\"completed\"} 1\n")
    };
    wait_until("all are counted", PATIENCE, counted).await;
    stop.cancel();
    let reports = running.await.unwrap().unwrap();
    assert_eq!((reports["jobs"].completed, reports["projection all\"of"].completed), (1, 3));
    let sum: i64 = db.query_one("select n from totals", &[]).await.unwrap().get(0);
    assert_eq!(sum, 6);
    assert_eq!(get(&address, "/health").await.0, 0, "nothing listens after the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hooks_run_before_and_after_the_workers_and_get_the_errors_of_handlers() {
    let outbox = outbox("hooks").await;
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let note = |text: &str| {
        let (seen, text) = (seen.clone(), text.to_owned());
        async move || {
            seen.lock().unwrap().push(text);
            anyhow::Ok(())
        }
    };
    let reported = seen.clone();
    let stop = CancellationToken::new();
    let ending = stop.clone();
    let application = Workers::new(outbox.clone())
        .subscription("jobs", |s| {
            s.ensure(["job.#"]).on_with(
                "job.#",
                async |Json(n): Json<i64>| match n {
                    1 => Err(Failure::from(std::io::Error::other("a bug"))),
                    2 => Err(Failure::dead("not reported")),
                    _ => Ok(()),
                },
                |options| options.dead_otherwise(),
            )
        })
        .on_startup(note("startup"))
        .on_shutdown(note("shutdown"))
        .on_error(move |delivery: &Delivery, failure: &Failure| {
            reported.lock().unwrap().push(format!("{} {}", delivery.topic, failure.text()));
            ending.cancel();
        });
    publish(&outbox, "job.run", &[json!(2), json!(1)]).await;
    let reports = application.run_until(stop.cancelled()).await.unwrap();
    assert_eq!(reports["jobs"].dead, 2);
    assert_eq!(*seen.lock().unwrap(), ["startup", "job.run a bug", "shutdown"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_begin_ends_the_application_with_its_error() {
    let outbox = outbox("beginnings").await;
    let new = || Workers::new(outbox.clone());
    let nothing = new().run_until(std::future::pending()).await.unwrap_err();
    assert_eq!(nothing.code(), "22023");

    let ended = Arc::new(AtomicBool::new(false));
    let end = ended.clone();
    let failed = new()
        .subscription("jobs", |s| s.ensure(["job.#"]).on("job.#", async |Json(_): Json<Value>| anyhow::Ok(())))
        .on_startup(async || Err::<(), _>(std::io::Error::other("no warm cache")))
        .on_shutdown(async move || {
            end.store(true, Ordering::Relaxed);
            anyhow::Ok(())
        })
        .run_until(std::future::pending())
        .await
        .unwrap_err();
    assert_eq!(failed.details().message, "the startup hook failed");
    assert_eq!(failed.details().detail.as_deref(), Some("no warm cache"));
    assert!(ended.load(Ordering::Relaxed));

    let reader = || outbox.reader().consumer("c");
    let projecting = |reader| new().projection(reader, &outbox, async |_, _| anyhow::Ok(()));
    let twice = projecting(reader()).projection(reader(), &outbox, async |_, _| anyhow::Ok(()));
    assert_eq!(twice.run_until(std::future::pending()).await.unwrap_err().code(), "22023");
    let nameless = projecting(outbox.reader());
    assert_eq!(nameless.run_until(std::future::pending()).await.unwrap_err().code(), "22023");
    let lost = projecting(reader().after(1000));
    assert_eq!(lost.run_until(std::future::pending()).await.unwrap_err().code(), "OB009");
    for address in ["nowhere", "127.0.0.1:99999", "192.0.2.1:80"] {
        let misplaced = projecting(reader()).health_port(address);
        assert_eq!(misplaced.run_until(std::future::pending()).await.unwrap_err().code(), "22023", "{address}");
    }
}
