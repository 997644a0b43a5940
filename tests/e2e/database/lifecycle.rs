//! Launcher and dispatcher when extensions and databases are created, dropped, renamed and copied, after errors, and after
//! restarts.

use std::time::Duration;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, Stop, wait_for, wait_until};
use outbox_tests::{PATIENCE, bare_server, one, outbox_harness, server, settle};

async fn shop(db: &Client, receiver: &Receiver) {
    db.execute("select outbox.create_endpoint('shop', $1)", &[&receiver.url("/hook")]).await.unwrap();
    db.batch_execute("select outbox.subscribe('orders', '{order.#}', 'shop')").await.unwrap();
}

async fn enqueue(db: &Client, count: i32) {
    db.execute(
        "select count(outbox.enqueue('order.created', jsonb_build_object('n', n))) from generate_series(1, $1::int) n",
        &[&count],
    )
    .await
    .unwrap();
}

/// Returns the process id of the dispatcher of a database, or 0 if there is none.
async fn dispatcher(server: &Server, database: &str) -> i32 {
    let db = server.connect("postgres").await.unwrap();
    let row = db
        .query_opt(
            "select pid from pg_stat_activity where backend_type = 'pg_outbox dispatcher' and datname = $1",
            &[&database],
        )
        .await
        .unwrap();
    row.map_or(0, |row| row.get(0))
}

async fn wait_for_dispatcher(server: &Server, database: &str) -> i32 {
    wait_for("there is a dispatcher", PATIENCE, async || {
        Some(dispatcher(server, database).await).filter(|pid| *pid != 0)
    })
    .await
}

async fn wait_for_none(server: &Server, database: &str) {
    wait_until("there is no dispatcher", PATIENCE, async || dispatcher(server, database).await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_databases_deliver_side_by_side() {
    let (one_receiver, other_receiver) = (Receiver::start().unwrap(), Receiver::start().unwrap());
    let a = server().await.database("side_a").await.unwrap();
    let b = server().await.database("side_b").await.unwrap();
    shop(&a, &one_receiver).await;
    shop(&b, &other_receiver).await;
    enqueue(&a, 500).await;
    enqueue(&b, 300).await;
    settle(&a).await;
    settle(&b).await;
    assert_eq!((one_receiver.total(), other_receiver.total()), (500, 300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn create_extension_starts_a_dispatcher_when_it_commits_and_only_then() {
    let server = server().await;
    let db = server.empty_database("create_rolled_back").await.unwrap();
    db.batch_execute("begin; create extension pg_outbox; select pg_sleep(0.3)").await.unwrap();
    assert_eq!(dispatcher(server, "create_rolled_back").await, 0);
    db.batch_execute("rollback").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(dispatcher(server, "create_rolled_back").await, 0);
    db.batch_execute("create extension pg_outbox").await.unwrap();
    wait_for_dispatcher(server, "create_rolled_back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_extension_while_busy_ends_the_dispatcher_and_create_brings_it_back() {
    let server = server().await;
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, _| Reply::status(200).after(Duration::from_millis(5)));
    let db = server.database("dropped_extension").await.unwrap();
    for round in 0..3 {
        shop(&db, &receiver).await;
        wait_for_dispatcher(server, "dropped_extension").await;
        enqueue(&db, 2000).await;
        let before = receiver.total();
        wait_until("it is busy", PATIENCE, async || receiver.total() > before + 20).await;
        // DROP EXTENSION must neither deadlock nor wait for the dispatcher.
        db.batch_execute("drop extension pg_outbox").await.unwrap();
        wait_for_none(server, "dropped_extension").await;
        assert!(!one::<bool>(&db, "select exists (select from pg_namespace where nspname = 'outbox')").await);
        db.batch_execute("create extension pg_outbox").await.unwrap();
        wait_for_dispatcher(server, "dropped_extension").await;
        assert!(receiver.total() < 2000 * (round + 1), "nothing is sent for an extension that is gone");
    }
    // The dispatcher goes on after a DROP EXTENSION that was rolled back.
    shop(&db, &receiver).await;
    db.batch_execute("begin; drop extension pg_outbox; rollback").await.unwrap();
    let before = receiver.total();
    enqueue(&db, 10).await;
    wait_until("they have arrived", PATIENCE, async || receiver.total() >= before + 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_are_dropped_renamed_and_copied_while_busy() {
    let server = server().await;
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, _| Reply::status(200).after(Duration::from_millis(5)));
    let admin = server.connect("postgres").await.unwrap();
    for (round, statement) in [
        "drop database busy_0",
        "alter database busy_1 rename to busy_1_renamed",
        "create database busy_2_copy template busy_2",
        "drop database busy_3 with (force)",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("busy_{round}");
        let db = server.database(&name).await.unwrap();
        shop(&db, &receiver).await;
        wait_for_dispatcher(server, &name).await;
        let before = receiver.total();
        enqueue(&db, 1000).await;
        wait_until("it is busy", PATIENCE, async || receiver.total() > before + 20).await;
        drop(db);
        // A session takes a moment to end. The dispatcher gets no more time than that.
        wait_until("the session has ended", PATIENCE, async || {
            one::<i64>(
                &admin,
                &format!(
                    "select count(*) from pg_stat_activity where datname = '{name}' and backend_type = 'client backend'"
                ),
            )
            .await
                == 0
        })
        .await;
        admin.batch_execute(statement).await.unwrap();
    }
    // The renamed database and the original go on where they were. The copy does not push.
    let renamed = server.connect("busy_1_renamed").await.unwrap();
    let original = server.connect("busy_2").await.unwrap();
    for db in [&renamed, &original] {
        settle(db).await;
        assert_eq!(one::<i64>(db, "select count(distinct message_id) from outbox.attempt").await, 1000);
    }
    let copy = server.connect("busy_2_copy").await.unwrap();
    wait_until("the copy knows what it is", PATIENCE, async || {
        one::<String>(&copy, "select worker from outbox.stats()").await == "copied"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_in_a_transaction_is_survived() {
    let server = server().await;
    let receiver = Receiver::start().unwrap();
    let db = server.database("own_errors").await.unwrap();
    shop(&db, &receiver).await;
    enqueue(&db, 1).await;
    settle(&db).await;
    let before = wait_for_dispatcher(server, "own_errors").await;
    // The dispatcher cannot write attempts. Its lock timeout ends the transaction repeatedly.
    let blocker = server.connect("own_errors").await.unwrap();
    blocker.batch_execute("begin; lock table outbox.attempt in access exclusive mode").await.unwrap();
    enqueue(&db, 50).await;
    wait_until("it says that it fails", PATIENCE, async || {
        one::<String>(&db, "select state from outbox_internal.worker_slot()").await == "failing"
    })
    .await;
    blocker.batch_execute("commit").await.unwrap();
    settle(&db).await;
    assert_eq!(receiver.total(), 51, "what was sent once is not sent again");
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.attempt where outcome = 'completed'").await, 51);
    assert_eq!(wait_for_dispatcher(server, "own_errors").await, before, "the process is the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_dispatcher_comes_back() {
    let server = server().await;
    let receiver = Receiver::start().unwrap();
    let db = server.database("terminated").await.unwrap();
    shop(&db, &receiver).await;
    for round in 1..=3 {
        let pid = wait_for_dispatcher(server, "terminated").await;
        one::<bool>(&db, &format!("select pg_terminate_backend({pid})")).await;
        enqueue(&db, 10).await;
        wait_until("they have arrived", PATIENCE, async || receiver.total() == 10 * round).await;
    }
    settle(&db).await;
    assert_eq!(receiver.total(), 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_enqueued_before_the_library_was_preloaded_is_delivered_after() {
    let receiver = Receiver::start().unwrap();
    let mut server = Server::start_plain(&[]).await.unwrap();
    let db = server.database("late").await.unwrap();
    shop(&db, &receiver).await;
    enqueue(&db, 100).await;
    let worker: String = one(&db, "select worker from outbox.stats()").await;
    assert_eq!(worker, "not preloaded");
    drop(db);
    server.set("shared_preload_libraries", "pg_outbox");
    server.restart(Stop::Fast).await.unwrap();
    wait_until("they have arrived", PATIENCE, async || receiver.total() == 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_free_worker_process_is_said_and_survived() {
    let mut server = Server::start(&[("max_worker_processes", "2")]).await.unwrap();
    let db = server.database("exhausted_a").await.unwrap();
    let other = server.database("exhausted_b").await.unwrap();
    // The launcher and one dispatcher take both worker processes, and the second database gets no dispatcher.
    wait_until("the log says so", PATIENCE, async || server.log().contains("no free worker process")).await;
    enqueue(&db, 1).await;
    enqueue(&other, 1).await;
    drop((db, other));
    server.set("max_worker_processes", "8");
    server.restart(Stop::Fast).await.unwrap();
    wait_for_dispatcher(&server, "exhausted_a").await;
    wait_for_dispatcher(&server, "exhausted_b").await;
}

/// The utility hook passes errors of utility statements on unchanged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_keep_their_sqlstate_below_the_utility_hook() {
    let db = server().await.empty_database("utility_errors").await.unwrap();
    let error = db
        .batch_execute("do $$ begin raise exception using errcode = 'ZZ123', message = 'mine', table = 't'; end $$")
        .await
        .unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.message(), error.table()), ("ZZ123", "mine", Some("t")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_existing_schema_of_that_name_is_an_error() {
    let db = bare_server().await.empty_database("schema_conflict").await.unwrap();
    db.batch_execute("create schema outbox").await.unwrap();
    let error = db.batch_execute("create extension pg_outbox").await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "42P06");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_dispatcher_sleeps() {
    let receiver = Receiver::start().unwrap();
    let server = Server::start(&[]).await.unwrap();
    let db = server.database("idle").await.unwrap();
    shop(&db, &receiver).await;
    enqueue(&db, 1).await;
    settle(&db).await;
    let pid = wait_for_dispatcher(&server, "idle").await;
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    // Caches are filled and the first polls happen before the count begins.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before = switches();
    tokio::time::sleep(Duration::from_secs(11)).await;
    // With a poll interval of 5 seconds there are two polls, with a few waits in each transaction.
    let woken = switches() - before;
    assert!(woken < 30, "woke up {woken} times in 11 idle seconds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_another_encoding_is_refused() {
    let server = bare_server().await;
    let admin = server.connect("postgres").await.unwrap();
    for encoding in ["LATIN1", "SQL_ASCII", "EUC_JP"] {
        let name = format!("encoded_{}", encoding.to_lowercase());
        admin
            .batch_execute(&format!("create database {name} encoding '{encoding}' locale 'C' template template0"))
            .await
            .unwrap();
        let db = server.connect(&name).await.unwrap();
        let error = db.batch_execute("create extension pg_outbox").await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "0A000");
        assert!(error.message().contains(encoding) && error.message().contains("UTF8"), "{error}");
        assert!(error.hint().unwrap().contains("encoding 'UTF8'"), "{error}");
        assert_eq!(one::<i64>(&db, "select count(*) from pg_namespace where nspname = 'outbox'").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misspelt_setting_is_refused_with_and_without_preloading() {
    for server in [server().await, bare_server().await] {
        let db = server.database("misspelt").await.unwrap();
        db.batch_execute("select outbox.version()").await.unwrap();
        for statement in ["set pg_outbox.egress_port = '443'", "select set_config('pg_outbox.nonsense', '1', false)"] {
            let error = db.batch_execute(statement).await.unwrap_err();
            assert_eq!(error.as_db_error().unwrap().code().code(), "42602", "{statement}");
        }
        // The settings that outbox functions set themselves are accepted, and postmaster settings can be read.
        db.batch_execute("select outbox.enqueue('a.b', '1'); select outbox.erase(1, 'test', reason => 'test')")
            .await
            .unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(one::<String>(&db, "select current_setting('pg_outbox.max_databases')").await, "64");
    }
}
