//! The commands of the event store against a real server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use outbox_harness::postgres::signal;
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

/// Starts a follower, interrupts it as soon as `busy` is true, and returns its exit code.
async fn interrupted(dsn: &str, args: &[&str], busy: impl AsyncFn() -> bool) -> Option<i32> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outbox"));
    let mut follower = command.args(args).env("DATABASE_URL", dsn).stdout(Stdio::null()).spawn().unwrap();
    wait_until("the command follows", PATIENCE, busy).await;
    signal(follower.id(), "INT").unwrap();
    wait_until("the command ends", PATIENCE, async || follower.try_wait().unwrap().is_some()).await;
    follower.wait().unwrap().code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_ends_a_follower_in_the_middle_of_a_call() {
    let server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("cli_interrupt").await.unwrap();
    let other = server.connect("cli_interrupt").await.unwrap();
    let dsn = &server.dsn("cli_interrupt");
    db.batch_execute(
        "create function rest(events outbox.event[]) returns void language sql as $$ select pg_sleep(600) $$;
        select outbox.create_projection('slow', 'public.rest(outbox.event[])');
        select outbox.append('order-1', 'order.placed', '{}');",
    )
    .await
    .unwrap();
    // A lock lets the reading of events wait.
    db.batch_execute("begin; lock table outbox.feed in access exclusive mode").await.unwrap();
    let locked = async || {
        let sql = "select exists (
            select from pg_stat_activity where wait_event_type = 'Lock' and query like '%read_events%')";
        other.query_one(sql, &[]).await.unwrap().get(0)
    };
    assert_eq!(interrupted(dsn, &["events", "--follow"], locked).await, Some(0));
    db.batch_execute("rollback").await.unwrap();
    let sleeping = async || {
        let sql = "select exists (
            select from pg_stat_activity where wait_event = 'PgSleep' and query like '%run_projection%')";
        other.query_one(sql, &[]).await.unwrap().get(0)
    };
    assert_eq!(interrupted(dsn, &["project", "slow"], sleeping).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_has_a_description() {
    let server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("cli_metrics").await.unwrap();
    let heartbeat = "select outbox.relay_heartbeat('orders', 'relay:orders', 'stdout', 'host/1', 'running', 0, '1 s')";
    db.batch_execute(heartbeat).await.unwrap();
    let text = String::from_utf8(outbox(&server.dsn("cli_metrics"), &["metrics"]).stdout).unwrap();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let bare: Vec<&str> = types.filter(|name| !text.contains(&format!("# HELP {name} "))).collect();
    assert!(bare.is_empty() && text.contains("outbox_relay_up{relay=\"orders\"} 1"), "{bare:?} in {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_events_projections_sagas_and_exports() {
    let server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("cli_events").await.unwrap();
    let dsn = &server.dsn("cli_events");
    db.batch_execute(
        "select outbox.append_many('order-1', '{order.placed,order.paid}', array['{\"n\": 1}', '{\"n\": 2}']::jsonb[]);
        select outbox.append('order-2', 'order.placed', '{\"n\": 3}', metadata => '{\"user_id\": \"u\"}');
        create table seen (n int);
        create function see(events outbox.event[]) returns void language sql
        as $$ insert into public.seen select (e.data ->> 'n')::int from unnest(events) e $$;
        create function fail(events outbox.event[]) returns void language plpgsql as $$ begin raise 'a bug'; end $$;
        select outbox.create_projection('orders', 'public.see(outbox.event[])');
        select outbox.create_projection('broken', 'public.fail(outbox.event[])');
        select outbox.saga_save('shipping', 's', '{\"step\": \"pay\"}', 0, correlation_id => 'order-1');",
    )
    .await
    .unwrap();
    wait_until("the events have positions", Duration::from_secs(60), async || {
        db.query_one("select outbox.head() >= 3", &[]).await.is_ok_and(|row| row.get(0))
    })
    .await;

    let names: Vec<Value> =
        json(dsn, &["streams", "--category", "order"]).iter().map(|row| row["stream"].clone()).collect();
    assert_eq!(names, ["order-1", "order-2"]);
    assert_eq!(json(dsn, &["streams", "order-1"])[0]["version"], 2);
    let numbers =
        |args: &[&str]| -> Vec<i64> { json(dsn, args).iter().map(|row| row["data"]["n"].as_i64().unwrap()).collect() };
    assert_eq!(numbers(&["events", "order-1"]), [1, 2]);
    assert_eq!(numbers(&["events", "order-1", "--backwards", "-n", "1"]), [2]);
    assert_eq!(numbers(&["events", "order-1", "--from", "2"]), [2]);
    assert_eq!(numbers(&["events", "--type", "order.placed"]), [1, 3]);
    assert_eq!(numbers(&["events", "--category", "order", "-n", "2"]), [1, 2]);

    assert_eq!(json(dsn, &["project", "orders", "--once", "--max-events", "2"])[0]["applied"], 2);
    let listed = json(dsn, &["project"]);
    assert_eq!(
        (listed.len(), &listed[1]["name"], &listed[1]["state"]),
        (2, &Value::from("orders"), &Value::from("running"))
    );
    let seen: i64 = db.query_one("select count(*) from seen", &[]).await.unwrap().get(0);
    assert_eq!(seen, 3);
    // A fault ends the command with the error that names it.
    let broken = outbox(dsn, &["project", "broken"]);
    assert_eq!(broken.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&broken.stderr).contains("faulted at position 1"));
    assert_eq!(outbox(dsn, &["project", "missing"]).status.code(), Some(3));

    assert_eq!(json(dsn, &["sagas"])[0]["status"], "started");
    assert_eq!(json(dsn, &["sagas", "shipping", "s"])[0]["state"]["step"], "pay");
    assert!(json(dsn, &["sagas", "--status", "completed"]).is_empty());

    let exported = json(dsn, &["export", "--user", "u"]);
    assert_eq!((exported.len(), &exported[0]["stream"]), (2, &Value::from("order-2")));
    assert_eq!(exported[1], serde_json::json!({"events": 1, "redacted": 0, "streams": 1}));
    assert_eq!(json(dsn, &["export", "--stream", "order-1", "--stream", "order-2"]).len(), 4);
    assert_eq!(outbox(dsn, &["export"]).status.code(), Some(2));
}
