//! Standby, promotion and point-in-time recovery. The dispatcher starts by itself, no recovered message is lost, and readers
//! of lost positions are told.

use std::fs;

use outbox_harness::postgres::{fresh_folder, own};
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, Stop, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, refused, settle};

const SETTINGS: &[(&str, &str)] = &[("shared_preload_libraries", "pg_outbox"), ("pg_outbox.poll_interval", "500ms")];

async fn shop(db: &Client, receiver: &Receiver) {
    // The circuit breaker is off, so that failing deliveries go on being attempted.
    db.execute("select outbox.create_endpoint('shop', $1, breaker => '{\"failures\": 0}')", &[&receiver.url("/hook")])
        .await
        .unwrap();
    db.batch_execute("select outbox.subscribe('orders', '{order.#}', 'shop', max_attempts => 100)").await.unwrap();
}

async fn enqueue(db: &Client, first: i32, last: i32) {
    db.execute(
        "select outbox.enqueue('order.created', jsonb_build_object('n', n)) from generate_series($1::int, $2::int) n",
        &[&first, &last],
    )
    .await
    .unwrap();
}

fn numbers(receiver: &Receiver) -> Vec<i64> {
    let mut all: Vec<i64> = receiver.arrivals().iter().map(|a| a.json()["n"].as_i64().unwrap()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Takes a base backup of a running server.
fn base_backup(server: &Server, name: &str, more: &[&str]) -> std::path::PathBuf {
    let data = fresh_folder(name).unwrap();
    own(&data).unwrap();
    let output = server
        .install
        .command("pg_basebackup")
        .args(["-d", &server.dsn("postgres"), "-c", "fast", "-D"])
        .arg(&data)
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    data
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_standby_goes_on_and_a_reader_of_what_was_lost_is_told() {
    let receiver = Receiver::start().unwrap();
    let mut primary = Server::start(&SETTINGS[1..]).await.unwrap();
    let db = primary.database("shop").await.unwrap();
    shop(&db, &receiver).await;
    enqueue(&db, 1, 20).await;
    settle(&db).await;

    let data = base_backup(&primary, "standby", &["-R", "-X", "stream"]);
    let mut standby = Server::on(primary.install.clone(), data, primary.password().to_owned(), SETTINGS);
    standby.run().await.unwrap();
    let replica = standby.connect("shop").await.unwrap();
    db.batch_execute("select outbox.append('order-1', 'order.placed', '{}') from generate_series(1, 3)").await.unwrap();
    db.batch_execute("select outbox.append('cart-' || i, 'cart.filled', '{}') from generate_series(1, 20) i")
        .await
        .unwrap();
    settle(&db).await;
    // The lists of categories; later events are not in them.
    db.batch_execute("select * from outbox.maintain()").await.unwrap();
    db.batch_execute("select outbox.append('cart-21', 'cart.filled', '{}')").await.unwrap();
    // These messages are committed, and their deliveries fail for now.
    receiver.on("/hook", |_, _| Reply::status(503));
    enqueue(&db, 21, 30).await;
    settle(&db).await;
    let common: i64 = one(&db, "select outbox.head()").await;
    wait_until("the standby has it all", PATIENCE, async || {
        one::<i64>(&replica, "select outbox.head()").await == common
            && one::<i64>(&replica, "select count(*) from outbox.delivery").await == 10
    })
    .await;

    // The standby is read-only. It has no dispatcher and raises no alarm, and readers can use it.
    let workers: i64 =
        one(&replica, "select count(*) from pg_stat_activity where backend_type like 'pg_outbox%'").await;
    assert_eq!(workers, 0);
    assert_eq!(one::<i64>(&replica, "select count(*) from outbox.health() h where h.state = 'critical'").await, 0);
    assert_eq!(one::<i64>(&replica, "select count(*) from outbox.load('order-1')").await, 3);
    assert_eq!(one::<i64>(&replica, "select count(*) from outbox.read_events(0)").await, 24);
    let carts = "outbox.read_events(0, categories => '{cart}', member => m, members => 3)";
    let streams = format!("select count(distinct e.stream) from generate_series(0, 2) m cross join lateral {carts} e");
    assert_eq!(one::<i64>(&replica, &streams).await, 21);
    assert_eq!(one::<i64>(&replica, "select outbox.stream_version('order-1')").await, 3);
    // A reader of the standby keeps its cursor on the primary, and the error says so.
    assert_eq!(one::<i64>(&replica, "select count(message_id) from outbox.read(0)").await, 30);
    assert_eq!(one::<i64>(&replica, "select position from outbox.cursor_get('reader', if_missing => 0)").await, 0);
    for (call, hinted) in [
        ("outbox.cursor_advance('reader', 5)", true),
        ("outbox.cursor_reset('reader', 0, reason => 'x')", true),
        ("outbox.cursor_record_error('reader', 'x')", true),
        ("outbox.cursor_delete('reader', reason => 'x')", true),
        ("outbox.tick()", true),
        ("outbox.enqueue('order.created', '{}')", false),
        ("outbox.append('order-1', 'order.placed', '{}')", false),
        ("outbox.close_stream('order-1', 'x')", true),
        ("outbox.subscribe('s', '{a}')", false),
    ] {
        let error = refused(&replica, &format!("select {call}")).await;
        assert_eq!(error.code().code(), "25006", "{call}: {error}");
        if hinted {
            assert!(error.message().starts_with("cannot execute outbox."), "{call}: {error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("primary")), "{call}: {error:?}");
        }
    }
    db.batch_execute("select outbox.cursor_advance('reader', 5)").await.unwrap();
    wait_until("the cursor is there, too", PATIENCE, async || {
        one::<i64>(&replica, "select position from outbox.cursor_get('reader', if_missing => 0)").await == 5
    })
    .await;
    assert_eq!(one::<i64>(&replica, "select count(*) from outbox.read(0, 1000)").await, 30);
    assert_eq!(
        one::<i64>(&replica, "select count(*) from outbox.metrics() where name = 'outbox_feed_position'").await,
        1
    );
    assert_eq!(refused(&replica, "select outbox.enqueue('order.created', '{}')").await.code().code(), "25006");
    assert_eq!(refused(&replica, "select outbox.cursor_advance('r', 1)").await.code().code(), "25006");

    // The connection to the standby breaks. The primary goes on, serves a reader, and crashes.
    replica.batch_execute("alter system set primary_conninfo = 'host=127.0.0.1 port=1'").await.unwrap();
    replica.batch_execute("select pg_reload_conf()").await.unwrap();
    wait_until("nothing is received any more", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from pg_stat_replication").await == 0
    })
    .await;
    receiver.on("/hook", |_, _| Reply::status(200));
    enqueue(&db, 31, 40).await;
    settle(&db).await;
    let lost: i64 = one(&db, "select outbox.head()").await;
    assert_eq!(lost, common + 10);
    let seen = db.query_one("select position, epoch from outbox.read($1, 1)", &[&(lost - 1)]).await.unwrap();
    assert_eq!((seen.get::<_, i64>(0), seen.get::<_, i32>(1)), (lost, 1));
    primary.stop(Stop::Immediate).unwrap();
    let before = receiver.total();

    replica.batch_execute("select pg_promote()").await.unwrap();
    drop(replica);
    let db = standby.connect("shop").await.unwrap();
    wait_until("the dispatcher starts by itself", PATIENCE, async || {
        one::<String>(&db, "select state from outbox.worker_status()").await == "running"
    })
    .await;
    // The deliveries that failed before the break arrive.
    db.batch_execute("update outbox.delivery set due_at = now(); select outbox_internal.deliveries_changed()")
        .await
        .unwrap();
    wait_until("the waiting ones have arrived", PATIENCE, async || receiver.total() >= before + 10).await;
    let critical: Option<String> = one(
        &db,
        "select string_agg(h.check || ': ' || h.culprit, ',') from outbox.health() h where h.state = 'critical'",
    )
    .await;
    assert_eq!(critical, None);
    wait_until("a new epoch has begun", PATIENCE, async || {
        one::<Option<i32>>(&db, "select max(epoch) from outbox.epoch").await == Some(2)
    })
    .await;
    assert_eq!(one::<i64>(&db, "select first_position from outbox.epoch where epoch = 2").await, common + 1);

    // Other messages will get the lost positions. A reader that passes its epoch is refused at once, ...
    let error = refused(&db, &format!("select outbox.read({lost}, epoch => 1)")).await;
    assert_eq!(error.code().code(), "OB009");
    assert!(error.hint().unwrap_or_default().contains(&common.to_string()), "{error:?}");
    enqueue(&db, 41, 60).await;
    settle(&db).await;
    // ... and also after the new history has passed its position, when the position alone tells nothing any more.
    assert!(one::<i64>(&db, "select outbox.head()").await > lost);
    assert_eq!(refused(&db, &format!("select outbox.read({lost}, epoch => 1)")).await.code().code(), "OB009");
    let error = refused(&db, &format!("select outbox.cursor_advance('outside', {lost}, epoch => 1)")).await;
    assert_eq!(error.code().code(), "OB009");
    // A reader that restarts at the last common position goes on.
    let row = db
        .query_one("select min(position), min(epoch), (array_agg(payload->>'n' order by position))[1] from outbox.read($1, epoch => 1)", &[&common])
        .await
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i32>(1), row.get::<_, &str>(2)), (common + 1, 2, "41"));
    let all = numbers(&receiver);
    for n in (1..=30).chain(41..=60) {
        assert!(all.contains(&n), "{n} is missing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn point_in_time_recovery_pushes_by_itself_in_a_new_epoch() {
    let receiver = Receiver::start().unwrap();
    let archive = fresh_folder("archive").unwrap();
    own(&archive).unwrap();
    let copy = format!("cp %p {}/%f", archive.display());
    let mut original = Server::start(&[SETTINGS[1], ("archive_mode", "on"), ("archive_command", &copy)]).await.unwrap();
    let db = original.database("shop").await.unwrap();
    shop(&db, &receiver).await;
    let data = base_backup(&original, "recovered", &["-X", "none"]);
    receiver.on("/hook", |_, _| Reply::status(503));
    enqueue(&db, 1, 10).await;
    settle(&db).await;
    db.batch_execute("select outbox.cursor_advance('reader', outbox.head())").await.unwrap();
    db.batch_execute("select pg_create_restore_point('here')").await.unwrap();
    let head: i64 = one(&db, "select outbox.head()").await;
    enqueue(&db, 11, 20).await;
    settle(&db).await;
    db.batch_execute("select pg_switch_wal()").await.unwrap();
    original.stop(Stop::Fast).unwrap();
    receiver.on("/hook", |_, _| Reply::status(200));

    let before = receiver.total();
    fs::write(data.join("recovery.signal"), "").unwrap();
    own(&data).unwrap();
    let mut recovered = Server::on(original.install.clone(), data, original.password().to_owned(), SETTINGS);
    recovered.set("restore_command", &format!("cp {}/%f %p", archive.display()));
    recovered.set("recovery_target_name", "here");
    recovered.set("recovery_target_action", "promote");
    recovered.run().await.unwrap();
    wait_until("it is promoted", PATIENCE, async || match recovered.connect("shop").await {
        Ok(db) => one::<bool>(&db, "select not pg_is_in_recovery()").await,
        Err(_) => false,
    })
    .await;
    let db = recovered.connect("shop").await.unwrap();
    wait_until("a new epoch has begun", PATIENCE, async || {
        one::<Option<i32>>(&db, "select max(epoch) from outbox.epoch").await == Some(2)
    })
    .await;
    assert_eq!(one::<i64>(&db, "select first_position from outbox.epoch where epoch = 2").await, head + 1);
    db.batch_execute("update outbox.delivery set due_at = now(); select outbox_internal.deliveries_changed()")
        .await
        .unwrap();
    wait_until("what was committed by then has arrived", PATIENCE, async || {
        (1..=10).all(|n| numbers(&receiver).contains(&n))
    })
    .await;
    enqueue(&db, 100, 104).await;
    settle(&db).await;
    let all: Vec<i64> = receiver.arrivals()[before..].iter().map(|a| a.json()["n"].as_i64().unwrap()).collect();
    assert!((100..=104).all(|n| all.contains(&n)) && !all.contains(&15), "{all:?}");
    assert_eq!(one::<i64>(&db, "select position from outbox.cursor_get('reader')").await, head);
    assert_eq!(
        one::<i64>(&db, "select count(*) from outbox.read($1)".replace("$1", &head.to_string()).as_str()).await,
        5
    );
}
