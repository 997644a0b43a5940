//! `examples/rust-axum` is started, driven, ended with SIGTERM in the middle of its work, and started again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::Duration;

use outbox_harness::postgres::{free_port, signal};
use outbox_harness::{Server, built, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// Returns the status and the body of a request, or `None` if nothing listens.
fn request(port: u16, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
    );
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_billed_and_counted_once_though_the_process_is_ended_in_the_middle() {
    let source = include_str!("../../../examples/rust-axum/src/main.rs");
    assert!(source.lines().count() < 150);
    let program = built("rust-axum").unwrap();

    let server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("shop").await.unwrap();
    let port = free_port().unwrap();
    // The first process takes a second for each order, so that it is ended in the middle however slow the machine is.
    let start = |work_ms: &str| -> Child {
        let mut command = Command::new(&program);
        command.env("DATABASE_URL", server.dsn("shop")).env("PORT", port.to_string()).env("WORK_MS", work_ms);
        command.spawn().unwrap()
    };
    let is_up = async || request(port, "GET", "/totals", "").is_some();
    let count = async |sql: &str| db.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);

    let mut process = start("1000");
    wait_until("the API answers", PATIENCE, is_up).await;
    for amount in 1..=60 {
        let (status, body) = request(port, "POST", "/orders", &format!("{{\"amount\": {amount}}}")).unwrap();
        assert_eq!(status, 200, "{body}");
    }
    // The table refuses this order, so there is no message either.
    assert_eq!(request(port, "POST", "/orders", "{\"amount\": 0}").unwrap().0, 422);
    assert_eq!(request(port, "POST", "/orders", "{\"amount\": 1001}").unwrap().0, 200);
    wait_until("some orders are billed", PATIENCE, async || count("select count(*) from invoices").await >= 5).await;
    signal(process.id(), "TERM").unwrap();
    assert!(process.wait().unwrap().success(), "SIGTERM ends the process gracefully");
    // Handlers that had begun finished, and the other deliveries were given back.
    assert!(count("select count(*) from invoices").await < 60, "it was ended in the middle");
    assert_eq!(count("select count(*) from outbox.delivery where state = 'processing'").await, 0);

    let mut process = start("0");
    wait_until("all orders are billed and counted", PATIENCE, async || {
        count("select count(*) from invoices").await == 60 && count("select n from totals").await == 61
    })
    .await;
    assert_eq!(count("select sum(amount)::int8 from invoices").await, 1830);
    assert_eq!(request(port, "GET", "/totals", "").unwrap().1, r#"{"n":61,"amount":2831}"#);
    wait_until("the order that is not billable is dead", PATIENCE, async || {
        count("select count(*) from outbox.dead_letter where last_error ~ 'not billable' and attempt = 1").await == 1
    })
    .await;
    assert_eq!(count("select count(*) from outbox.message where topic = 'order.created'").await, 61);
    signal(process.id(), "TERM").unwrap();
    assert!(process.wait().unwrap().success());
}
