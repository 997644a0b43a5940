//! Verifies the dispatcher's requests with third-party code in other languages: `standardwebhooks` for Python and Node,
//! and the CloudEvents project's SDKs for both. `scripts/setup verifiers` downloads them. formats.rs uses the Rust
//! versions.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Arrival, Receiver, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, server};
use serde_json::{Map, Value, json};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A process that reads requests and writes its verdict on each.
struct Verifier {
    name: &'static str,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Verifier {
    fn start(name: &'static str, program: &str, script: &str) -> Verifier {
        let root = outbox_harness::postgres::root();
        let cache = root.join(".cache/verifiers");
        // Node looks for packages beside the script, so the script is copied there.
        let script = if name == "node" {
            let copy = cache.join("verifier.mjs");
            std::fs::copy(root.join(script), &copy).expect("scripts/setup verifiers");
            copy
        } else {
            root.join(script)
        };
        let program = if name == "node" { program.into() } else { cache.join(program) };
        let mut child = Command::new(program)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("scripts/setup verifiers");
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Verifier { name, child, stdin, stdout }
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.stdin, "{question}").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{}: {e}: {line}", self.name))
    }

    fn verifies(&mut self, secret: &str, arrival: &Arrival) -> bool {
        let verdict = self.ask(&question(arrival, Some(secret)));
        assert!(verdict["verified"] == true || verdict["error"].is_string(), "{}: {verdict}", self.name);
        verdict["verified"] == true
    }

    fn events(&mut self, arrival: &Arrival) -> Vec<Value> {
        let verdict = self.ask(&question(arrival, None));
        verdict["events"].as_array().unwrap_or_else(|| panic!("{}: {verdict}", self.name)).clone()
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn verifiers() -> [Verifier; 2] {
    [
        Verifier::start("python", "py/bin/python", "tests/verifiers/verifier.py"),
        Verifier::start("node", "node", "tests/verifiers/verifier.mjs"),
    ]
}

/// Returns the request for a verifier, exactly as it arrived.
fn question(arrival: &Arrival, secret: Option<&str>) -> Value {
    let headers: Map<String, Value> =
        arrival.headers.iter().map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap()))).collect();
    let mut question = json!({"headers": headers, "body": STANDARD.encode(&arrival.body)});
    if let Some(secret) = secret {
        question["secret"] = json!(secret);
    }
    question
}

async fn shop(name: &str, receiver: &Receiver, subscription: &str) -> (Client, String) {
    let db = server().await.database(name).await.unwrap();
    let url = receiver.url("/hook");
    let secret =
        one(&db, &format!("select signing_secret from outbox.create_endpoint('shop', '{url}', concurrency => 1)"))
            .await;
    db.batch_execute(&format!("select outbox.subscribe('orders', '{{order.#}}', 'shop' {subscription})"))
        .await
        .unwrap();
    (db, secret)
}

async fn arrived(receiver: &Receiver, count: usize) -> Vec<Arrival> {
    wait_until("the requests have arrived", PATIENCE, async || receiver.total() >= count).await;
    receiver.arrivals()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_standardwebhooks_packages_verify_deliveries_before_and_after_a_rotation() {
    let receiver = Receiver::start().unwrap();
    let (db, first) = shop("verifierd_webhooks", &receiver, "").await;
    let mut verifiers = verifiers();
    let payload = r#"{"text": "Grüße, \"quoted\" \\ and\na new line", "n": 12345678901234567890, "f": 1.10}"#;
    db.execute("select outbox.enqueue('order.created', $1::text::jsonb)", &[&payload]).await.unwrap();
    let before = arrived(&receiver, 1).await.remove(0);
    let second: String = one(&db, "select signing_secret from outbox.rotate_secret('shop')").await;
    let secrets = "select outbox.enqueue('order.created', '{\"after\": \"the rotation\"}')";
    db.batch_execute(secrets).await.unwrap();
    let after = arrived(&receiver, 2).await.remove(1);
    assert_eq!(after.header("webhook-signature").split(' ').count(), 2);
    let mut forged = before.clone();
    forged.body = String::from_utf8(forged.body.to_vec()).unwrap().replace("1.10", "1.11").into();
    let mut late = before.clone();
    late.headers.insert("webhook-timestamp", "1600000000".parse().unwrap());
    for verifier in &mut verifiers {
        assert!(verifier.verifies(&first, &before), "{}: v1", verifier.name);
        assert!(!verifier.verifies(&second, &before), "{}: a secret that did not exist then", verifier.name);
        assert!(!verifier.verifies(&first, &forged), "{}: another body", verifier.name);
        assert!(!verifier.verifies(&first, &late), "{}: an old time", verifier.name);
        // During the overlap, receivers with either secret can verify.
        assert!(
            verifier.verifies(&first, &after) && verifier.verifies(&second, &after),
            "{}: two secrets",
            verifier.name
        );
    }
    // After the overlap the old secret does not sign any more.
    db.batch_execute("select outbox.rotate_secret('shop', overlap => '0')").await.unwrap();
    db.batch_execute(secrets).await.unwrap();
    let last = arrived(&receiver, 3).await.remove(2);
    for verifier in &mut verifiers {
        assert!(!verifier.verifies(&second, &last), "{}: an expired secret", verifier.name);
    }
}

/// docs/receivers.md says that these packages verify only JSON bodies. pg_outbox's own verifiers accept every body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_standardwebhooks_packages_of_npm_and_pypi_verify_json_only() {
    let receiver = Receiver::start().unwrap();
    let (db, secret) = shop("verifierd_bodies", &receiver, "").await;
    db.batch_execute(
        "select outbox.enqueue('order.json', '{\"note\": \"é\"}');
        select outbox.enqueue_bytes('order.bytes', '\\xfffe00', 'application/octet-stream');
        select outbox.enqueue_bytes('order.xml', convert_to('<a>ü</a>', 'UTF8'), 'application/xml')",
    )
    .await
    .unwrap();
    let arrivals = arrived(&receiver, 3).await;
    let rust = standardwebhooks::Webhook::new(&secret).unwrap();
    for verifier in &mut verifiers() {
        for arrival in &arrivals {
            let topic = arrival.header("outbox-topic");
            assert_eq!(rust.verify(&arrival.body, &arrival.headers).is_ok(), topic != "order.bytes", "{arrival:?}");
            let json = topic == "order.json";
            assert_eq!(verifier.verifies(&secret, arrival), json, "{}: {arrival:?}", verifier.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cloudevents_sdks_read_binary_structured_and_batched_deliveries() {
    let mut verifiers = verifiers();
    for (format, batch) in [("cloudevents", 1), ("cloudevents_structured", 1), ("cloudevents_structured", 3)] {
        let receiver = Receiver::start().unwrap();
        let database = format!("verifierd_{format}_{batch}");
        let options = format!(", format => '{format}', batch_size => {batch}, batch_wait => '2 s'");
        let (db, secret) = shop(&database, &receiver, &options).await;
        db.batch_execute(&format!(
            "begin;
            select outbox.set_context(correlation_id => 'c-1', traceparent => '{TRACE}', tenant => 'acme');
            select outbox.enqueue('order.created.v2', jsonb_build_object('n', n, 'text', 'Grüße'), key => 'käse ' || n,
                aggregate_type => 'order', aggregate_id => '17', publisher => 'shop@1.2.3',
                occurred_at => '2026-01-02 03:04:05.678+00') from generate_series(1, {batch}) n;
            commit"
        ))
        .await
        .unwrap();
        let arrival = arrived(&receiver, 1).await.remove(0);
        let source = "select '/pg_outbox/' || system_identifier || '/' || current_database() from pg_control_system()";
        let source: String = one(&db, source).await;
        for verifier in &mut verifiers {
            assert!(verifier.verifies(&secret, &arrival), "{}: {format}", verifier.name);
            if batch > 1 && verifier.name == "python" {
                // This SDK cannot read batches.
                continue;
            }
            let events = verifier.events(&arrival);
            assert_eq!(events.len(), batch, "{}: {format}", verifier.name);
            for (n, event) in (1..).zip(&events) {
                let (attributes, what) = (&event["attributes"], format!("{}: {format}: {event}", verifier.name));
                for (name, value) in [
                    ("specversion", "1.0"),
                    ("type", "order.created.v2"),
                    ("source", &*format!("{source}/shop@1.2.3")),
                    ("tenant", "acme"),
                    ("aggregatetype", "order"),
                    ("aggregateid", "17"),
                    ("correlationid", "c-1"),
                    ("traceparent", TRACE),
                ] {
                    assert_eq!(attributes[name], value, "{what}");
                }
                // Not every SDK decodes header values, although the HTTP binding requires it.
                let subject = attributes["subject"].as_str().unwrap().replace("%C3%A4", "ä").replace("%20", " ");
                assert_eq!(subject, format!("käse {n}"), "{what}");
                let time = attributes["time"].as_str().unwrap();
                assert!(time.starts_with("2026-01-02T03:04:05.678"), "{what}");
                assert_eq!(event["data"], json!({"n": n, "text": "Grüße"}), "{what}");
                if batch == 1 {
                    assert_eq!(attributes["id"], arrival.webhook_id(), "{what}");
                }
            }
        }
    }
}
