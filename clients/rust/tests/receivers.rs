//! The receiver of docs/receivers.md, unchanged, and the receiver for tests get real deliveries.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_harness::postgres::{free_port, root};
use outbox_harness::{Server, wait_until};
use pg_outbox::testing::Receiver;
use pg_outbox::verify::Verifier;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PATIENCE: Duration = Duration::from_secs(120);

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_page_shows_the_example() {
    let page = std::fs::read_to_string(root().join("docs/receivers.md")).unwrap();
    let shown = page.split("```rust axum\n").nth(1).unwrap().split("```").next().unwrap();
    let example = std::fs::read_to_string(root().join("clients/rust/examples/axum.rs")).unwrap();
    assert!(example.ends_with(shown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_gets_json_text_and_bytes_compressed_or_not() {
    let server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("axum").await.unwrap();
    let port = free_port().unwrap();
    // cargo builds examples into the folder beside that of the tests.
    let here = std::env::current_exe().unwrap();
    let mut child = Command::new(here.parent().unwrap().parent().unwrap().join("examples/axum"))
        .env("SECRET", SECRET)
        .env("PORT", port.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let _killed = Killed(child);
    let sizes: Arc<Mutex<Vec<usize>>> = Arc::default();
    let seen = sizes.clone();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            seen.lock().unwrap().push(line.split_once(' ').unwrap().1.parse().unwrap());
        }
    });
    // The receiver for tests returns the content of all arrivals.
    let receiver = Receiver::start("127.0.0.1:0").await.unwrap();
    receiver.verify_with(Verifier::new(SECRET).unwrap());
    wait_until("it listens", PATIENCE, async || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    let ours = format!("http://127.0.0.1:{port}/hooks");
    for (name, topic, url, compress) in [
        ("plain", "plain", &ours, false),
        ("packed", "packed", &ours, true),
        ("fake", "packed", &receiver.url("/hooks"), true),
    ] {
        db.batch_execute(&format!(
            "select from outbox.create_endpoint('{name}', '{url}', secret => '{SECRET}', compress => {compress}, concurrency => 1);
            select outbox.subscribe('{name}', '{{{topic}}}', '{name}', max_attempts => 1)"
        ))
        .await
        .unwrap();
    }
    for topic in ["plain", "packed"] {
        let before = sizes.lock().unwrap().len();
        db.batch_execute(&format!(
            "select outbox.enqueue('{topic}', '{{\"note\": \"é\", \"amount\": 1.10}}');
            select outbox.enqueue('{topic}', jsonb_build_object('text', repeat('Zoë ', 1000)));
            select outbox.enqueue_bytes('{topic}', '\\xfffe00', 'application/octet-stream');
            select outbox.enqueue_bytes('{topic}', decode(repeat('00ff13', 2000), 'hex'), 'application/octet-stream')"
        ))
        .await
        .unwrap();
        wait_until("all have arrived", PATIENCE, async || sizes.lock().unwrap().len() == before + 4).await;
    }
    let mut sizes = sizes.lock().unwrap().clone();
    sizes[..4].sort_unstable();
    sizes[4..].sort_unstable();
    assert_eq!(sizes[..4], sizes[4..]);
    assert_eq!(sizes[..4], [3, 30, 5012, 6000]);
    let arrivals = receiver.wait_for(4).await;
    assert!(arrivals.iter().all(|arrival| arrival.valid == Some(Ok(()))), "{arrivals:?}");
    assert_eq!(arrivals.iter().filter(|arrival| arrival.header("content-encoding") == Some("gzip")).count(), 2);
    let mut contents: Vec<usize> = arrivals.iter().map(|arrival| arrival.body.len()).collect();
    contents.sort_unstable();
    assert_eq!(contents, sizes[..4]);
    let failed = db.query_one("select count(*) from outbox.attempt where outcome <> 'completed'", &[]).await.unwrap();
    assert_eq!(failed.get::<_, i64>(0), 0);
}
