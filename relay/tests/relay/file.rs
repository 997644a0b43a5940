//! Files and the standard output.

use std::fs;
use std::path::Path;
use std::time::Duration;

use outbox_harness::postgres::fresh_folder;
use outbox_harness::wait_until;
use serde_json::Value;

use crate::programs::{Config, Database, PATIENCE, assert_ledger};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_can_begin_at_the_end_of_the_feed() {
    let db = Database::new().await;
    db.enqueue(1, 3).await;
    let config = Config::new(&db, "start = \"end\"", "kind = \"stdout\"");
    assert_eq!(config.succeed().await, "");
    db.enqueue(4, 4).await;
    assert!(config.succeed().await.contains("\"n\": 4"));
}
