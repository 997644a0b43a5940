//! The program `outbox` against a real server.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Output, Stdio};

use outbox_harness::Server;
use serde_json::Value;

fn outbox(dsn: &str, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outbox")).args(args).env("DATABASE_URL", dsn).output().unwrap()
}

fn json(dsn: &str, args: &[&str]) -> Vec<Value> {
    let mut all = vec!["--json"];
    all.extend(args);
    let output = outbox(dsn, &all);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn code(dsn: &str, args: &[&str]) -> (i32, String) {
    let output = outbox(dsn, args);
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands() {
    let server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    server.database("cli").await.unwrap();
    server.empty_database("bare").await.unwrap();
    let dsn = &server.dsn("cli");

    // A receiver that ends after one request; what is pushed to it arrives and verifies.
    let port = outbox_harness::postgres::free_port().unwrap();
    let made = json(dsn, &["endpoint", "create", "here", &format!("http://127.0.0.1:{port}/hook")]);
    let secret = made[0]["signing_secret"].as_str().unwrap();
    let listener = Command::new(env!("CARGO_BIN_EXE_outbox"))
        .args(["--json", "listen", "-n", "1", "--address", &format!("127.0.0.1:{port}"), "--secret", secret])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    json(dsn, &["subscription", "create", "orders", "order.#", "--endpoint", "here"]);
    json(dsn, &["subscription", "create", "work", "job.*", "--set", "max_attempts=3"]);
    let sent = json(dsn, &["send", "order.created", r#"{"a": 1}"#, "--key", "k", "--header", "x-a=1"]);
    let id = sent[0]["message_id"].as_i64().unwrap().to_string();
    let heard = listener.wait_with_output().unwrap();
    let arrival: Value = serde_json::from_slice(&heard.stdout).unwrap();
    assert_eq!((arrival["signature"].as_str(), arrival["headers"]["x-a"].as_str()), (Some("valid"), Some("1")));

    let tailed = json(dsn, &["tail", "order.*", "--after", "0", "-n", "1"]);
    assert_eq!(tailed[0]["payload"]["a"], 1);
    assert!(json(dsn, &["message", "show", &id]).iter().any(|row| row["what"] == "enqueued"));
    assert_eq!(json(dsn, &["endpoint", "list"]).len(), 1);
    assert_eq!(json(dsn, &["subscription", "list"]).len(), 2);
    assert_eq!(json(dsn, &["subscription", "show", "work"])[0]["max_attempts"], 3);
    json(dsn, &["topic", "create", "order.created"]);
    assert_eq!(json(dsn, &["topic", "list"])[0]["code"], "order.created");
    json(dsn, &["call", "cursor_advance", "consumer=c", "position=3", "stream=mine"]);
    assert_eq!(json(dsn, &["cursor", "list"])[0]["position"], 3);
    json(dsn, &["cursor", "reset", "c", "1", "--reason", "again", "--set", "stream=mine"]);
    assert_eq!(json(dsn, &["cursor", "show", "c", "--set", "stream=mine"])[0]["position"], 1);
    json(dsn, &["cursor", "delete", "c", "--reason", "done", "--set", "stream=mine"]);
    assert_eq!(json(dsn, &["dlq", "list"]).len(), 0);
    assert_eq!(json(dsn, &["dlq", "stats"])[0]["total"], 0);

    let status = outbox(dsn, &["status"]);
    let screen = String::from_utf8(status.stdout).unwrap();
    assert!(screen.contains("worker      running") && screen.contains("orders"), "{screen}");
    let doctor = outbox(dsn, &["--json", "doctor"]);
    assert!(String::from_utf8(doctor.stdout).unwrap().contains(r#""check":"preloading""#));
    let doctor = outbox(&server.dsn("bare"), &["doctor"]);
    assert_eq!(doctor.status.code(), Some(1));
    assert!(String::from_utf8(doctor.stdout).unwrap().contains("create extension pg_outbox"));

    assert_eq!(code(dsn, &["nonsense"]).0, 2);
    assert_eq!(code(dsn, &["send", "bad topic", "1"]).0, 2);
    assert_eq!(code(dsn, &["send", "a", "{not json"]).0, 2);
    assert_eq!(code(dsn, &["message", "show", "424242"]).0, 3);
    assert_eq!(code(dsn, &["endpoint", "show", "none"]).0, 3);
    assert_eq!(code(dsn, &["subscription", "create", "work", "a"]).0, 4);
    assert_eq!(code("postgresql://u@127.0.0.1:1/d", &["status"]).0, 5);
    let (exit, text) = code(&server.dsn("bare"), &["status"]);
    assert!(exit == 6 && text.contains("create extension pg_outbox"), "{text}");
    let (_, text) = code(dsn, &["--json", "message", "show", "424242"]);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["error"]["code"], "OB001");

    // PG* instead of a connection string.
    let output = Command::new(env!("CARGO_BIN_EXE_outbox"))
        .args(["--json", "endpoint", "list"])
        .env_remove("DATABASE_URL")
        .envs([("PGHOST", "127.0.0.1"), ("PGUSER", "postgres"), ("PGDATABASE", "cli")])
        .envs([("PGPORT", server.port.to_string()), ("PGPASSWORD", server.password().to_owned())])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for shell in ["bash", "zsh", "fish"] {
        assert!(outbox("", &["completions", shell]).stdout.len() > 1000);
    }
}
