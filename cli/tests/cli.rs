//! The program `outbox` against a real server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use outbox_harness::{Server, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

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

    // The receiver ends after one request. A pushed message arrives, and its signature is valid.
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
    let shown = &json(dsn, &["message", "show", &id])[0];
    assert_eq!((&shown["message"]["payload"]["a"], &shown["message"]["key"]), (&1.into(), &"k".into()));
    assert_eq!(shown["history"][0]["what"], "enqueued");
    assert_eq!(json(dsn, &["endpoint", "list"]).len(), 1);
    assert_eq!(json(dsn, &["subscription", "list"]).len(), 2);
    let work = &json(dsn, &["subscription", "show", "work"])[0];
    assert_eq!(
        (&work["max_attempts"], &work["topics"][0], &work["format"]),
        (&3.into(), &"job.*".into(), &"raw".into())
    );
    json(dsn, &["topic", "create", "order.created"]);
    assert_eq!(json(dsn, &["topic", "list"])[0]["code"], "order.created");
    json(dsn, &["call", "cursor_advance", "consumer=c", "position=3", "stream=mine"]);
    assert_eq!(json(dsn, &["cursor", "list"])[0]["position"], 3);
    json(dsn, &["cursor", "reset", "c", "1", "--reason", "again", "--set", "stream=mine"]);
    assert_eq!(json(dsn, &["cursor", "show", "c", "--set", "stream=mine"])[0]["position"], 1);
    json(dsn, &["cursor", "delete", "c", "--reason", "done", "--set", "stream=mine"]);
    assert_eq!(json(dsn, &["dlq", "list"]).len(), 0);
    assert_eq!(json(dsn, &["dlq", "stats"])[0]["total"], 0);

    let status = outbox(dsn, &["status", "--over", "0", "--all"]);
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
    let (exit, said) = code("postgresql://u@127.0.0.1:1/d", &["status"]);
    assert!(exit == 5 && said.contains("cannot connect to ") && said.contains("127.0.0.1"), "{said}");
    assert!(said.contains("The host is from DATABASE_URL"), "{said}");
    let (exit, text) = code(&server.dsn("bare"), &["status"]);
    assert!(exit == 6 && text.contains("create extension pg_outbox"), "{text}");
    let (_, text) = code(dsn, &["--json", "message", "show", "424242"]);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["error"]["code"], "OB001");

    // The environment variables PG* replace a connection string.
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

/// Returns the rows of a statement as JSON, for comparison with the output of the program.
async fn ask(server: &Server, sql: &str) -> Value {
    let db = server.connect("more").await.unwrap();
    let row = db.query_one(&format!("select coalesce(jsonb_agg(to_jsonb(q)), '[]') from ({sql}) q"), &[]).await;
    row.unwrap().get(0)
}

/// Runs the program on a terminal of 110 columns and returns its output. It must succeed.
fn on_a_terminal(dsn: &str, args: &str) -> String {
    let (exit, shown) = on_a_screen(dsn, args, (110, 40));
    assert_eq!(exit, 0, "{shown}");
    shown
}

/// Runs the program on a terminal of so many columns and rows, and returns its exit code and its output.
fn on_a_screen(dsn: &str, args: &str, (columns, rows): (u16, u16)) -> (i32, String) {
    let command = format!("stty cols {columns} rows {rows}; '{}' {args}", env!("CARGO_BIN_EXE_outbox"));
    let output = Command::new("script")
        .args(["-qefc", &command, "/dev/null"])
        .env("DATABASE_URL", dsn)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_does_what_it_says() {
    let server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    server.database("more").await.unwrap();
    let dsn = &server.dsn("more");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();

    // Deliveries are claimed and dead-lettered from the command line.
    json(dsn, &["subscription", "create", "work", "job.*", "--set", "max_attempts=3"]);
    for n in 0..4 {
        json(
            dsn,
            &["send", "job.run", &format!("{{\"n\": {n}}}"), "--tenant", "t", "--idempotency-key", &format!("k{n}")],
        );
    }
    let again = json(dsn, &["send", "job.run", "{\"n\": 3}", "--tenant", "t", "--idempotency-key", "k3"]);
    assert_eq!(
        ask(&server, "select count(*) n from outbox.message where topic = 'job.run'").await[0]["n"],
        4,
        "{again:?}"
    );
    assert_eq!(code(dsn, &["send", "job.run", "{\"n\": 9}", "--tenant", "t", "--idempotency-key", "k3"]).0, 4);
    let mut claimed = Vec::new();
    wait_until("all are claimed", PATIENCE, async || {
        claimed.extend(json(dsn, &["call", "claim", "subscription=work", "worker=cli", "max_messages=10"]));
        claimed.len() == 4
    })
    .await;
    for row in &claimed {
        let (lease, id) = (format!("lease={}", row["lease"]), format!("delivery_ids=[{}]", row["delivery_id"]));
        json(dsn, &["call", "dead", &lease, &id, "reason=broken"]);
    }
    let dead = json(dsn, &["dlq", "list"]);
    assert_eq!(dead.len(), 4);
    assert_eq!(json(dsn, &["dlq", "list", "--limit", "2"]).len(), 2);
    let ids: Vec<String> = dead.iter().map(|row| row["dead_letter_id"].to_string()).collect();
    assert_eq!(text(&json(dsn, &["dead-letter", "show", &ids[0]])[0]["last_error"]), "broken");
    assert_eq!(json(dsn, &["dlq", "requeue", &ids[0], "--actor", "ann", "--note", "fixed"])[0]["done"], "requeued");
    assert_eq!(json(dsn, &["dlq", "resolve", &ids[1], &ids[2], "--actor", "ann", "--note", "by hand"]).len(), 2);
    json(dsn, &["dlq", "ignore", &ids[3], "--actor", "ann", "--note", "never mind"]);
    assert_eq!(json(dsn, &["dlq", "list"]).len(), 0);
    let all = json(dsn, &["dlq", "list", "--all"]);
    let mut states: Vec<String> = all.iter().map(|row| text(&row["resolution"])).collect();
    states.sort();
    assert_eq!(states, ["ignored", "requeued", "resolved", "resolved"]);
    assert_eq!(code(dsn, &["dlq", "requeue", "4242", "--actor", "ann"]).0, 3);
    assert_eq!(code(dsn, &["dlq", "resolve", &ids[1], "--actor", "ann"]).0, 4, "it is resolved already");
    assert_eq!(code(dsn, &["dead-letter", "show", "4242"]).0, 3);

    // Messages are retried, cancelled and erased.
    let requeued = dead[0]["message_id"].to_string();
    json(dsn, &["message", "retry", &requeued, "work"]);
    assert!(json(dsn, &["archive", "show", &requeued])[0]["status"] == "pending", "it is under way");
    json(dsn, &["message", "cancel", &requeued, "--actor", "ann", "--reason", "no longer needed"]);
    let shown = &json(dsn, &["message", "show", &requeued])[0];
    assert!(shown["history"].as_array().unwrap().iter().any(|row| text(&row["what"]).contains("cancel")), "{shown}");
    assert_eq!(code(dsn, &["message", "cancel", "424242"]).0, 3);
    assert_eq!(code(dsn, &["message", "retry", &requeued, "none"]).0, 3);
    json(dsn, &["message", "erase", &requeued, "--actor", "ann", "--reason", "asked for"]);
    let erased = format!("select payload from outbox.message where id = {requeued}");
    assert!(!ask(&server, &erased).await.to_string().contains("\"n\""));
    assert_eq!(code(dsn, &["message", "erase", "424242", "--reason", "x"]).0, 3);
    assert_eq!(code(dsn, &["message", "erase", &requeued]).0, 2, "a reason is required");

    // Registries and the archive.
    json(dsn, &["publisher", "create", "shop", "--set", "name=The shop"]);
    json(dsn, &["publisher", "alter", "shop", "--set", "active=false"]);
    assert_eq!(json(dsn, &["publisher", "list"])[0]["active"], false);
    json(dsn, &["topic", "create", "bill.made", "--set", "description=A bill"]);
    json(dsn, &["topic", "alter", "bill.made", "--set", "active=false"]);
    assert_eq!(code(dsn, &["send", "bill.made", "1"]).0, 4, "inactive");
    assert_eq!(code(dsn, &["topic", "create", "bad topic"]).0, 2);
    let archived = json(dsn, &["archive", "list", "--set", "tenant=t"]);
    assert!(archived.iter().any(|row| row["id"].as_i64() == requeued.parse().ok()), "{archived:?}");
    assert_eq!(json(dsn, &["archive", "show", &requeued])[0]["id"].to_string(), requeued);
    assert!(!json(dsn, &["archive", "stats"]).is_empty());
    assert_eq!(code(dsn, &["archive", "show", "424242"]).0, 3);

    // No process listens at this endpoint. Its breaker opens, and the screens show it.
    let port = outbox_harness::postgres::free_port().unwrap();
    let url = format!("http://127.0.0.1:{port}/");
    json(dsn, &["endpoint", "create", "down", &url, "--set", r#"breaker={"failures": 2, "open": 600}"#]);
    assert_eq!(json(dsn, &["endpoint", "show", "down"])[0]["url"], url.as_str());
    let rotated = json(dsn, &["endpoint", "rotate-secret", "down"]);
    assert!(rotated[0].to_string().contains("whsec_"), "{rotated:?}");
    json(dsn, &["subscription", "create", "pushed", "push.#", "--endpoint", "down", "--set", "max_attempts=9"]);
    for n in 0..4 {
        json(dsn, &["send", "push.it", &n.to_string()]);
    }
    wait_until("the breaker is open", PATIENCE, async || {
        ask(&server, "select breaker from outbox.endpoint_status").await[0]["breaker"] == "open"
    })
    .await;
    let status = outbox(dsn, &["--json", "status", "--over", "0.1"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["endpoints"][0]["state"], "breaker open");
    let pushed = status["subscriptions"].as_array().unwrap().iter().find(|row| row["name"] == "pushed").unwrap();
    assert_eq!((&pushed["to"], &pushed["per_second"]), (&Value::from("down"), &Value::from(0)));
    let screen = String::from_utf8(outbox(dsn, &["status", "--over", "0"]).stdout).unwrap();
    assert!(
        screen.contains("  breaker open  ") && screen.contains("warning: endpoints: endpoint \"down\": breaker open"),
        "{screen}"
    );
    let top = on_a_terminal(dsn, "top --count 2 --every 0.2");
    // The words are checked one by one, because the output moves the terminal cursor instead of printing blanks.
    assert!(["outbox", "breaker", "SUBSCRIPTIONS"].iter().all(|word| top.contains(word)), "{top}");
    let picture = std::env::temp_dir().join(format!("outbox-top-{}.svg", std::process::id()));
    json(dsn, &["top", "--every", "0.1", "--picture", picture.to_str().unwrap()]);
    let svg = std::fs::read_to_string(&picture).unwrap();
    std::fs::remove_file(&picture).unwrap();
    assert!(svg.contains("breaker open") && svg.contains("outbox top") && svg.contains("#ff6b68"));
    json(dsn, &["subscription", "pause", "pushed"]);
    assert_eq!(json(dsn, &["subscription", "show", "pushed"])[0]["paused"], true);
    json(dsn, &["subscription", "resume", "pushed"]);
    json(dsn, &["endpoint", "disable", "down", "--set", "reason=moved"]);
    assert_eq!(json(dsn, &["endpoint", "show", "down"])[0]["active"], false);
    json(dsn, &["endpoint", "enable", "down"]);
    json(dsn, &["subscription", "drop", "pushed"]);
    json(dsn, &["endpoint", "drop", "down"]);
    assert_eq!(code(dsn, &["endpoint", "drop", "down"]).0, 3);
    assert_eq!(json(dsn, &["endpoint", "list"]).len(), 0);
    assert_eq!(json(dsn, &["subscription", "list"]).len(), 1);
    assert_eq!(code(dsn, &["endpoint", "create", "bad", "ftp://x"]).0, 2);

    // The flag precedes the environment.
    assert_eq!(code("postgresql://u@127.0.0.1:1/d", &["--dsn", dsn, "endpoint", "list"]).0, 0);
    assert_eq!(code(dsn, &["--dsn", "postgresql://u:geheim@h:notaport/d", "status"]).0, 2);
    assert!(!code(dsn, &["--dsn", "postgresql://u:geheim@h:notaport/d", "status"]).1.contains("geheim"));
    let stranger = server.connect("more").await.unwrap();
    stranger.batch_execute("create role stranger_of_cli login password 'x'").await.unwrap();
    let theirs = dsn.replace(&format!("postgres:{}", server.password()), "stranger_of_cli:x");
    let (exit, said) = code(&theirs, &["send", "a", "1"]);
    assert!(exit == 6 && said.contains("grant_to"), "{said}");
    let (exit, _) = code(&theirs, &["doctor"]);
    assert_eq!(exit, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_is_shown_left_alone_and_ended() {
    let server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("more").await.unwrap();
    let dsn = &server.dsn("more");
    let receiver = outbox_harness::Receiver::start().unwrap();
    json(dsn, &["endpoint", "create", "here", &receiver.url("/")]);
    json(dsn, &["subscription", "create", "s", "job", "--endpoint", "here"]);
    let sent = "select count(*) from outbox.enqueue_many('job', (select array_agg(to_jsonb(i)) from generate_series(1, 300) i)) n";
    db.execute(sent, &[]).await.unwrap();
    wait_until("all are delivered", PATIENCE, async || receiver.arrivals().len() == 300).await;

    let shown = on_a_terminal(dsn, "replay s rate=300");
    assert!(shown.contains("replay 1  [") && shown.contains("positions"), "{shown}");
    assert!(receiver.arrivals().len() >= 600, "it ends when everything is delivered");
    let done = json(dsn, &["replay", "s", "from_position=1", "to_position=10", "rate=1000"]);
    assert_eq!((done[0]["state"].as_str(), done[0]["waiting"].as_i64()), (Some("completed"), Some(0)));

    let watching = Command::new(env!("CARGO_BIN_EXE_outbox"))
        .args(["replay", "s", "rate=5"])
        .env("DATABASE_URL", dsn)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let position = async || {
        ask(&server, "select position from outbox.replay_status where replay_id = 3").await[0]["position"].as_i64()
    };
    wait_until("the slow one has begun", PATIENCE, async || position().await.is_some_and(|at| at > 0)).await;
    outbox_harness::postgres::signal(watching.id(), "INT").unwrap();
    let left = watching.wait_with_output().unwrap();
    let said = String::from_utf8(left.stderr).unwrap();
    assert_eq!(left.status.code(), Some(130), "{said}");
    assert!(said.contains("replay 3 goes on") && said.contains("outbox replay --cancel 3"), "{said}");
    let at = position().await;
    wait_until("it goes on without anybody watching", PATIENCE, async || position().await > at).await;
    assert_eq!(json(dsn, &["replay", "--cancel", "3"])[0]["replay_id"], 3);
    let (exit, _) = code(dsn, &["replay", "--follow", "3"]);
    assert_eq!(exit, 1, "it was cancelled");
    let states: Vec<Value> = json(dsn, &["replay", "--list"]).into_iter().map(|row| row["state"].clone()).collect();
    assert_eq!(states, ["completed", "completed", "cancelled"]);
    assert_eq!(code(dsn, &["replay", "--cancel", "3"]).0, 4);
    assert_eq!(code(dsn, &["replay", "--cancel", "99"]).0, 3);
    assert_eq!(code(dsn, &["replay", "--follow", "99"]).0, 3);
    assert_eq!(code(dsn, &["replay", "none"]).0, 3);
    assert_eq!(code(dsn, &["replay", "s", "to_position=100000"]).0, 2, "it does not exist yet");
    assert_eq!(code(dsn, &["replay"]).0, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_finds_what_is_wrong_and_who_has_what() {
    let server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("more").await.unwrap();
    let dsn = &server.dsn("more");

    // A subscription that is described twice is made once.
    let ensure = ["subscription", "ensure", "work", "job.*", "--set", "max_attempts=3"];
    assert_eq!(json(dsn, &ensure)[0]["result"], "created");
    assert_eq!(json(dsn, &ensure)[0]["result"], "unchanged");
    assert_eq!(json(dsn, &["subscription", "list"])[0]["topics"][0], "job.*");
    let (exit, said) = code(dsn, &["endpoint", "create", "e", "http://127.0.0.1:1/", "--set", "timout=5"]);
    assert!(exit == 2 && said.contains("has no argument \"timout\"") && said.contains("timeout"), "{said}");

    // A message has options, and its numbers reach the server as they were typed.
    let later = [
        "send",
        "job.later",
        "{\"n\": 12345678901234567890.10}",
        "--deliver-at",
        "2099-01-02 03:04:05+00",
        "--priority",
        "-5",
    ];
    let sent = json(
        dsn,
        &[&later[..], &["--set", "publisher=shop", "--set", "aggregate_type=order", "--set", "aggregate_id=7"]]
            .concat(),
    );
    let id = sent[0]["message_id"].as_i64().unwrap();
    let stored = "select payload->>'n' n, priority, extract(year from deliver_at)::int as year, publisher, aggregate_id from outbox.message";
    let stored = ask(&server, &format!("{stored} where id = {id}")).await;
    assert_eq!(
        stored[0],
        serde_json::json!({"n": "12345678901234567890.10", "priority": -5, "year": 2099, "publisher": "shop", "aggregate_id": "7"})
    );
    let (exit, said) = code(dsn, &["send", "job.run", "1", "--set", "prioritty=1"]);
    assert!(exit == 2 && said.contains("prioritty") && said.contains("max_attempts"), "{said}");

    // Deliveries have names, and the worker that has them.
    for n in 0..5 {
        json(
            dsn,
            &[
                "send",
                "job.run",
                &n.to_string(),
                "--tenant",
                if n < 3 { "acme" } else { "other" },
                "--key",
                &format!("k{n}"),
            ],
        );
    }
    wait_until("all are routed", PATIENCE, async || {
        json(dsn, &["delivery", "list", "--subscription", "work"]).len() == 6
    })
    .await;
    let claimed = json(dsn, &["call", "claim", "subscription=work", "worker=w7", "max_messages=5"]);
    let worker = &json(dsn, &["worker", "list"])[0];
    assert_eq!(
        (&worker["worker"], &worker["subscription"], &worker["deliveries"]),
        (&"w7".into(), &"work".into(), &5.into())
    );
    assert_eq!(json(dsn, &["delivery", "list", "--worker", "w7", "--limit", "4"]).len(), 4);
    assert_eq!(json(dsn, &["delivery", "list", "--state", "pending", "--message", &id.to_string()]).len(), 1);

    // Dead letters are selected, and what would be done can be seen first. The record says who did it.
    let ids: Vec<i64> = claimed.iter().map(|row| row["delivery_id"].as_i64().unwrap()).collect();
    let why = "the address has a line that is far longer than any column, and its last words are the ones that matter";
    json(
        dsn,
        &[
            "call",
            "dead",
            &format!("lease={}", claimed[0]["lease"]),
            &format!("delivery_ids={ids:?}"),
            &format!("reason={why}"),
        ],
    );
    assert_eq!(json(dsn, &["dlq", "list", "--tenant", "acme", "--reason", "rejected"]).len(), 3);
    assert_eq!(json(dsn, &["dlq", "list", "--key", "k1", "--topic", "job.run", "--subscription", "work"]).len(), 1);
    assert_eq!(json(dsn, &["dlq", "list", "--older-than", "1 hour"]).len(), 0);
    let listed = String::from_utf8(outbox(dsn, &["dlq", "list"]).stdout).unwrap();
    assert!(listed.contains(why), "a pipe gets all of it: {listed}");
    assert_eq!(code(dsn, &["dlq", "requeue"]).0, 2, "neither ids nor a selection");
    assert_eq!(code(dsn, &["dlq", "requeue", "1", "--tenant", "acme"]).0, 2, "both");
    assert_eq!(json(dsn, &["dlq", "resolve", "--tenant", "acme", "--dry-run"]).len(), 3);
    assert_eq!(json(dsn, &["dlq", "list"]).len(), 5, "nothing was done");
    let resolved = Command::new(env!("CARGO_BIN_EXE_outbox"))
        .args(["dlq", "resolve", "--tenant", "acme", "--limit", "2", "--note", "told them"])
        .envs([("DATABASE_URL", dsn.as_str()), ("USER", "ann")])
        .output()
        .unwrap();
    assert!(
        resolved.status.success()
            && String::from_utf8_lossy(&resolved.stderr).contains("2 dead letters were resolved, 0 were not")
    );
    let audit =
        ask(&server, "select detail->>'actor' as actor, reason from outbox.audit where action = 'resolved'").await;
    assert_eq!((&audit[0]["actor"], &audit[0]["reason"]), (&"ann as postgres".into(), &"told them".into()));
    // An erased message cannot be requeued. It is named, and the others are requeued.
    let rest = json(dsn, &["dlq", "list"]);
    let erased = rest[0]["message_id"].to_string();
    json(dsn, &["message", "erase", &erased, "--reason", "asked for"]);
    json(dsn, &["call", "cursor_record_error", "consumer=totals", &format!("error={why}"), "error_position=3"]);

    // The failed checks come first and are whole, on a screen of 80 by 24 and in a pipe.
    let (exit, screen) = on_a_screen(dsn, "status --over 0", (80, 24));
    let lines: Vec<&str> = screen.lines().map(str::trim_end).collect();
    assert!(exit == 1 && lines[0].starts_with("WRONG: "), "{exit} {screen}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{screen}");
    let words = lines.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("consumer \"totals\" stands at 0 since ") && words.contains(why), "{screen}");
    assert!(
        words.contains("$ outbox cursor list") && words.contains("$ outbox dlq list") && words.contains("READERS"),
        "{screen}"
    );
    let doctor = outbox(dsn, &["doctor"]);
    let found = String::from_utf8(doctor.stdout).unwrap();
    assert!(doctor.status.code() == Some(1) && found.starts_with("wrong  ") && found.contains(why), "{found}");
    assert!(found.contains("outbox cursor list") && found.contains("ok     PostgreSQL"), "{found}");
    // The keys of `top` are tested with the screen itself. Here it quits by a key.
    let (exit, top) = on_a_screen(dsn, "top --count 1 --every 0.1", (80, 24));
    assert!(exit == 0 && top.contains("WRONG:"), "{top}");

    // Every metric has a type and a description, and every sample a number.
    let text = String::from_utf8(outbox(dsn, &["metrics"]).stdout).unwrap();
    let names: Vec<String> =
        json(dsn, &["metrics"]).iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect();
    assert!(
        names.len() > 15 && text.contains("outbox_oldest_due_seconds")
            || text.contains("outbox_cursor_error_seconds{consumer=\"totals\"")
    );
    for name in &names {
        let family = name.trim_end_matches("_sum").trim_end_matches("_count").trim_end_matches("_bucket");
        assert!(
            text.contains(&format!("# HELP {family} ")) && text.contains(&format!("# TYPE {family} ")),
            "{name}: {text}"
        );
    }
    for sample in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(sample.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{sample}");
    }
    drop(db);
}
