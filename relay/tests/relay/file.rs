//! Files and the standard output.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_harness::postgres::fresh_folder;
use outbox_harness::wait_until;
use serde_json::Value;

use crate::programs::{Config, Database, PATIENCE, assert_ledger, wait_until_relayed};

pub(crate) fn sink(path: &Path) -> String {
    format!("kind = \"file\"\npath = {path:?}")
}

pub(crate) fn payloads(path: &Path) -> Vec<i64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["body"]["n"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_every_message_once_although_the_relay_is_killed() {
    let db = Database::new().await;
    let path = fresh_folder("file").unwrap().join("out.ndjson");
    let config = Config::new(&db, "batch = 10", &sink(&path));
    for round in 0..6 {
        db.enqueue(round * 200 + 1, round * 200 + 200).await;
        let before = fs::metadata(&path).map_or(0, |file| file.len());
        let relay = config.run();
        wait_until("the file grows", PATIENCE, async || fs::metadata(&path).is_ok_and(|file| file.len() > before))
            .await;
        tokio::time::sleep(Duration::from_millis(u64::try_from(round).unwrap() * 5)).await;
        drop(relay);
    }
    config.succeed().await;
    assert_ledger(&db, &payloads(&path), 1200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_leaves_no_half_line() {
    let db = Database::new().await;
    let path = fresh_folder("small").unwrap().join("out.ndjson");
    let config = Config::new(&db, "batch = 7", &sink(&path));
    db.enqueue(1, 100).await;
    let relay = config.run_with_small_files(8);
    db.wait_for_state("retrying", "File too large").await;
    for _ in 0..20 {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with('\n') && text.len() <= 8192, "{} bytes", text.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(relay);
    config.succeed().await;
    assert_ledger(&db, &payloads(&path), 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relaying_once_ends_although_messages_keep_coming() {
    let db = Database::new().await;
    let path = fresh_folder("once").unwrap().join("out.ndjson");
    // Each message has a sync of its own, so the relay is slower than the producer.
    let config = Config::new(&db, "batch = 1", &sink(&path));
    db.enqueue(1, 20).await;
    let ended = AtomicBool::new(false);
    let producing = async {
        let mut last = 20;
        while !ended.load(Ordering::Relaxed) {
            db.enqueue(last + 1, last + 200).await;
            last += 200;
        }
        last
    };
    let relaying = async {
        config.succeed().await;
        let relayed = payloads(&path).len();
        ended.store(true, Ordering::Relaxed);
        relayed
    };
    let (last, relayed) = tokio::join!(producing, relaying);
    assert!(relayed >= 20 && i64::try_from(relayed).unwrap() < last, "{relayed} of {last}");
    config.succeed().await;
    assert_ledger(&db, &payloads(&path), last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_standard_output_has_one_object_per_line() {
    let db = Database::new().await;
    db.enqueue(1, 3).await;
    let text = Config::new(&db, "format = \"debezium\"", "kind = \"stdout\"").succeed().await;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        (&lines[0]["topic"], &lines[0]["key"], &lines[0]["body"]["n"]),
        (&"order.created".into(), &"k1".into(), &1.into())
    );
    assert_eq!(lines[0]["headers"]["id"], lines[0]["headers"]["webhook-id"]);
}

/// The pipe is full, so most of a page waits while a message of it is erased.
#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_erased_while_its_page_waits_is_not_sent() {
    let db = Database::new().await;
    let fill = "select outbox.enqueue('order.created', jsonb_build_object('n', n, 'text', repeat('x', 2000) || n))
        from generate_series(1, 400) n";
    db.client.query(fill, &[]).await.unwrap();
    db.wait_for_positions().await;
    let (relay, mut pipe) = Config::new(&db, "batch = 10", "kind = \"stdout\"").run_into_pipe();
    wait_until("the relay has begun", PATIENCE, async || {
        db.one("select coalesce(max(position), 0) > 0 from outbox.cursor").await == "true"
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let erase =
        "select outbox.erase(m.id, reason => 'asked for') from outbox.message m where (m.payload ->> 'n')::int = 300";
    db.client.query(erase, &[]).await.unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        text
    });
    wait_until_relayed(&db, 400).await;
    assert_eq!(relay.terminate().await, 0);
    let text = reading.join().unwrap();
    assert!(text.contains("x299\"") && text.contains("x301\"") && text.contains("x400\""));
    assert!(!text.contains("x300\""), "content that was erased before is sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_can_begin_at_the_end_of_the_feed() {
    let db = Database::new().await;
    db.enqueue(1, 3).await;
    let config = Config::new(&db, "start = \"end\"", "kind = \"stdout\"");
    assert_eq!(config.succeed().await, "");
    db.enqueue(4, 4).await;
    assert!(config.succeed().await.contains("\"n\": 4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_a_file_once_with_their_versions_although_the_relay_is_killed() {
    let db = Database::new().await;
    let path = fresh_folder("events").unwrap().join("out.ndjson");
    let config = Config::new(&db, "source = \"events\"\nbatch = 5", &sink(&path));
    let append =
        "select outbox.append('order-1', 'order.paid', jsonb_build_object('n', n), event_id => gen_random_uuid())
        from generate_series($1::bigint, $2) n";
    for round in 0..4i64 {
        db.client.execute(append, &[&(round * 50 + 1), &(round * 50 + 50)]).await.unwrap();
        // Messages between the events take positions, too.
        db.enqueue(1, 3).await;
        let before = fs::metadata(&path).map_or(0, |file| file.len());
        let relay = config.run();
        wait_until("the file grows", PATIENCE, async || fs::metadata(&path).is_ok_and(|file| file.len() > before))
            .await;
        drop(relay);
    }
    config.succeed().await;
    assert_eq!(payloads(&path), (1..=200).collect::<Vec<i64>>());
    let text = fs::read_to_string(&path).unwrap();
    for (i, line) in text.lines().enumerate() {
        let headers = &serde_json::from_str::<Value>(line).unwrap()["headers"];
        assert_eq!(headers["ce-version"], (i + 1).to_string(), "{line}");
        assert_eq!(headers["ce-eventid"].as_str().map(str::len), Some(36), "{line}");
    }
}
