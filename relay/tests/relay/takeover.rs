//! Two instances of one relay, and an operator.

use std::fs;

use outbox_harness::postgres::{fresh_folder, signal};
use outbox_harness::wait_until;

use crate::file::{payloads, sink};
use crate::programs::{Config, Database, PATIENCE, assert_ledger, wait_until_relayed};

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_instances_is_active_and_the_other_takes_over() {
    let db = Database::new().await;
    let path = fresh_folder("takeover").unwrap().join("out.ndjson");
    let config = Config::new(&db, "batch = 20", &sink(&path));
    db.enqueue(1, 100).await;
    let first = config.run();
    wait_until_relayed(&db, 100).await;
    let second = config.run();
    wait_until("the second stands by", PATIENCE, async || second.log().contains("standing by")).await;
    drop(first);
    db.enqueue(101, 300).await;
    wait_until_relayed(&db, 300).await;
    assert_ledger(&db, &payloads(&path), 300).await;
    assert_eq!(second.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_once_beside_an_active_instance_ends_and_says_why() {
    let db = Database::new().await;
    let path = fresh_folder("beside").unwrap().join("out.ndjson");
    let config = Config::new(&db, "", &sink(&path));
    db.enqueue(1, 10).await;
    let active = config.run();
    wait_until_relayed(&db, 10).await;
    let output = config.once().await;
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(5) && log.contains("nothing was relayed: another instance is active"),
        "{log}"
    );
    assert_eq!(active.terminate().await, 0);
    config.succeed().await;
    assert_eq!(payloads(&path), (1..=10).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_frozen_loses_its_lock_and_moves_no_cursor_afterwards() {
    let db = Database::new().await;
    let path = fresh_folder("frozen").unwrap().join("out.ndjson");
    let config = Config::new(&db, "batch = 20", &sink(&path));
    db.enqueue(1, 10).await;
    let first = config.run();
    wait_until_relayed(&db, 10).await;
    first.signal("STOP");
    let second = config.run();
    db.enqueue(11, 60).await;
    wait_until_relayed(&db, 60).await;
    first.signal("CONT");
    wait_until("the first stands by", PATIENCE, async || first.log().contains("standing by")).await;
    db.enqueue(61, 80).await;
    wait_until_relayed(&db, 80).await;
    assert_ledger(&db, &payloads(&path), 80).await;
    assert_eq!(second.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_does_not_hold_a_relay_for_ever() {
    let db = Database::new().await;
    let path = fresh_folder("hangs").unwrap().join("out.ndjson");
    let config = Config::new(&db, "", &sink(&path));
    db.enqueue(1, 5).await;
    let relay = config.run();
    wait_until_relayed(&db, 5).await;
    let session = "select pid from pg_stat_activity
        where application_name = 'outbox-relay orders' and datname = current_database()";
    let pid: u32 = db.one(session).await.parse().unwrap();
    signal(pid, "STOP").unwrap();
    db.enqueue(6, 10).await;
    wait_until("the relay gives up the session", PATIENCE, async || relay.log().contains("has not answered")).await;
    signal(pid, "CONT").unwrap();
    wait_until_relayed(&db, 10).await;
    assert_ledger(&db, &payloads(&path), 10).await;
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_cursor_cannot_be_moved_does_not_send_on_for_long() {
    let db = Database::new().await;
    let path = fresh_folder("far").unwrap().join("out.ndjson");
    let config = Config::new(&db, "batch = 100", &sink(&path)).with_reader();
    db.enqueue(1, 10).await;
    let relay = config.run();
    wait_until_relayed(&db, 10).await;
    // A stopped session may hold a lock of the whole server, so a lock of the cursor's row takes the place of a signal.
    let holder = outbox_harness::connect(db.dsn()).await.unwrap();
    holder.batch_execute("begin; select from outbox.cursor where consumer = 'relay:orders' for update").await.unwrap();
    db.enqueue(11, 2000).await;
    wait_until("the relay gives up", PATIENCE, async || relay.log().contains("timeout")).await;
    let sent = payloads(&path).len();
    holder.batch_execute("rollback").await.unwrap();
    assert!((110..=210).contains(&sent), "{sent} messages were sent");
    wait_until_relayed(&db, 2000).await;
    assert_ledger(&db, &payloads(&path), 2000).await;
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_an_operator_has_moved_back_is_sent_again() {
    let db = Database::new().await;
    let path = fresh_folder("reset").unwrap().join("out.ndjson");
    let config = Config::new(&db, "", &sink(&path));
    db.enqueue(1, 4).await;
    config.succeed().await;
    db.client.execute("select outbox.cursor_reset('relay:orders', 2, 'once more')", &[]).await.unwrap();
    config.succeed().await;
    assert_eq!(payloads(&path), [1, 2, 3, 4, 3, 4]);
    // Another instance has sent the repeats, with the same marks.
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[2..4], lines[4..6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_relay_is_reported_until_it_is_forgotten() {
    let db = Database::new().await;
    let heartbeat = "select outbox.relay_heartbeat('orders', 'relay:orders', 'stdout', 'host/1', 'running', 0, '1 s')";
    db.client.execute(heartbeat, &[]).await.unwrap();
    let health = "select h.state || ' ' || coalesce(h.culprit, '') from outbox.health() h where h.check = 'relays'";
    assert_eq!(db.one(health).await, "ok ");
    let back = "update outbox.relay_status set heartbeat_at = heartbeat_at - interval '1 min'";
    db.client.execute(back, &[]).await.unwrap();
    assert!(db.one(health).await.starts_with("warning relay \"orders\" has been silent for"));
    assert_eq!(db.one("outbox.forget_relay('orders')").await, "true");
    assert_eq!(db.one(health).await, "ok ");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_topics_do_not_make_a_relay_lag() {
    let db = Database::new().await;
    let path = fresh_folder("topics").unwrap().join("out.ndjson");
    let config = Config::new(&db, "topics = [\"invoice.#\"]", &sink(&path));
    db.enqueue(1, 40).await;
    let relay = config.run();
    wait_until_relayed(&db, 40).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "");
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_knows_repeats_and_later_epochs() {
    let db = Database::new().await;
    let begin = async |position: i64, epoch: i32, stream: &str| {
        let args = format!("'/s', {position}, epoch => {epoch}, stream => '{stream}'");
        db.one(&format!("outbox.inbox_begin({args})")).await == "true"
    };
    let mut new = Vec::new();
    for (position, epoch, stream) in
        [(5, 1, "a"), (5, 1, "a"), (4, 1, "a"), (4, 1, "b"), (6, 1, "a"), (2, 2, "a"), (7, 1, "a")]
    {
        new.push(begin(position, epoch, stream).await);
    }
    assert_eq!(new, [true, false, false, true, true, true, false]);
    // A transaction that fails has handled nothing.
    db.client.batch_execute("begin; select outbox.inbox_begin('/s', 9); rollback").await.unwrap();
    assert!(begin(9, 1, "").await);
    assert!(db.client.execute("select outbox.inbox_begin('/s', 0)", &[]).await.is_err());
}
