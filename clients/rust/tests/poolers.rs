//! Everything through PgBouncer, in the two common modes, session and transaction, with more clients than server sessions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use outbox_harness::{Pooler, Server, wait_until};
use pg_outbox::admin::Subscribe;
use pg_outbox::message::{Message, enqueue_many};
use pg_outbox::worker::{Delivery, Event, Report};
use pg_outbox::{Error, Kind, Outbox};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(120);

async fn start(settings: &[(&str, &str)]) -> Server {
    let mut all = vec![("pg_outbox.poll_interval", "1s"), ("max_worker_processes", "40")];
    all.extend_from_slice(settings);
    Server::start(&all).await.unwrap()
}

/// Runs four workers on one subscription until each of `count` messages was handled. Returns how often each message was
/// handled, the reports of the workers, and the number of Polling events of each worker.
async fn work(dsn: &str, count: usize) -> (HashMap<i64, usize>, Vec<Report>, Vec<usize>) {
    let handled: Arc<Mutex<HashMap<i64, usize>>> = Arc::default();
    let mut workers = Vec::new();
    let mut told = Vec::new();
    for n in 0..4 {
        let seen = handled.clone();
        let polling = Arc::new(AtomicUsize::new(0));
        told.push(polling.clone());
        let worker = Outbox::lazy(dsn, 1)
            .unwrap()
            .worker("jobs")
            .name(format!("w{n}"))
            .batch(10)
            .poll_interval(Duration::from_millis(20))
            .on_event(move |event| match event {
                Event::Polling => _ = polling.fetch_add(1, Ordering::Relaxed),
                Event::Refused(error) => panic!("{}", error.report()),
                _ => {}
            })
            .build(move |delivery: Delivery| {
                *seen.lock().unwrap().entry(delivery.message_id).or_default() += 1;
                // A completion with a result is a call of its own. Without a result it is part of the next claim.
                async move { Ok((delivery.message_id % 2 == 0).then(|| json!("done"))) }
            });
        workers.push((worker.stop_token(), tokio::spawn(worker.run())));
    }
    wait_until("all is handled", PATIENCE, async || handled.lock().unwrap().len() >= count).await;
    let mut reports = Vec::new();
    for (stop, running) in workers {
        stop.cancel();
        reports.push(running.await.unwrap().unwrap());
    }
    let handled = handled.lock().unwrap().clone();
    (handled, reports, told.iter().map(|n| n.load(Ordering::Relaxed)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enqueue_admin_workers_and_readers_share_few_sessions() {
    let server = start(&[]).await;
    for mode in ["transaction", "session"] {
        server.database(mode).await.unwrap();
        // In session mode each client has a server session. There are nine at a time, those of the pools and single ones.
        let pooler = Pooler::start(&server, mode, if mode == "session" { 30 } else { 3 }).await.unwrap();
        let dsn = pooler.dsn(mode);
        let outbox = Outbox::connect(&dsn).await.unwrap();
        outbox.subscribe("jobs", &["job.*"], Subscribe { max_attempts: Some(3), ..Default::default() }).await.unwrap();
        // Six clients run at once, each with its own transactions.
        join_all((0..6).map(async |n| {
            let own = Outbox::lazy(&dsn, 1).unwrap();
            for i in 0..20 {
                let mut session = own.session().await.unwrap();
                let tx = session.transaction().await.unwrap();
                let key = format!("{n}-{i}");
                Message::to("job.run").key(&*key).json(&json!({"n": i})).unwrap().enqueue(&*tx).await.unwrap();
                if i % 4 == 3 {
                    tx.rollback().await.unwrap();
                } else {
                    tx.commit().await.unwrap();
                }
                drop(session);
                assert_eq!(own.call("history", json!({"message_id": -1}), &[]).await.unwrap_err().code(), "OB001");
            }
        }))
        .await;
        let session = outbox.session().await.unwrap();
        enqueue_many(&**session, "job.run", &(0..110).collect::<Vec<_>>(), &[]).await.unwrap();
        drop(session);
        let (handled, reports, told) = work(&dsn, 200).await;
        assert_eq!(handled.len(), 200, "{mode}");
        assert!(handled.values().all(|times| *times == 1), "{mode}: {handled:?}");
        assert_eq!(reports.iter().map(|r| r.completed).sum::<u64>(), 200, "{mode}: {reports:?}");
        assert!(reports.iter().all(|r| r.lost == 0 && r.disconnects == 0), "{mode}: {reports:?}");
        // If the pooler passes no notifications, each worker reports this once.
        assert_eq!(told, [usize::from(mode == "transaction"); 4], "{mode}");
        // Two readers take turns, each with its own cursor, between admin calls.
        let mut readers: Vec<_> =
            ["a", "b"].map(|c| outbox.reader().consumer(c).topics(["job.*"]).batch(7).build()).into();
        for _ in 0..20 {
            for reader in &mut readers {
                let mut batch = Vec::new();
                while batch.len() < 10 {
                    batch.push(reader.next().await.unwrap());
                }
                reader.advance(&batch).await.unwrap();
            }
        }
        assert_eq!(outbox.cursor_list(Default::default()).await.unwrap().len(), 2);
        assert!(outbox.table("subscription", json!({"name": "jobs"}), 5, &[]).await.unwrap().len() == 1);
        // The clients leave no state in the server sessions.
        let session = outbox.session().await.unwrap();
        for _ in 0..10 {
            let left =
                "select array(select statement from pg_prepared_statements union all select pg_listening_channels())";
            let rows = session.query_typed(left, &[]).await.unwrap();
            assert_eq!(rows[0].get::<_, Vec<String>>(0), Vec::<String>::new(), "{mode}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_behind_a_pooler_of_whole_sessions_is_woken() {
    let server = start(&[]).await;
    let direct = server.database("woken").await.unwrap();
    let pooler = Pooler::start(&server, "session", 20).await.unwrap();
    direct.batch_execute("select outbox.subscribe('told', '{t.*}', notify => true)").await.unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let seen = handled.clone();
    let worker =
        Outbox::lazy(&pooler.dsn("woken"), 1).unwrap().worker("told").poll_interval(Duration::from_secs(600)).build(
            move |_: Delivery| {
                seen.fetch_add(1, Ordering::Relaxed);
                async { Ok(None) }
            },
        );
    let stop = worker.stop_token();
    let running = tokio::spawn(worker.run());
    for n in 1..4 {
        direct.batch_execute("select outbox.enqueue('t.x', '1')").await.unwrap();
        wait_until("it was woken", PATIENCE, async || handled.load(Ordering::Relaxed) == n).await;
    }
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_a_pooler_lost_says_what_to_set() {
    let server = start(&[]).await;
    let pooler = Pooler::start(&server, "transaction", 3).await.unwrap();
    let (one, other) =
        (Outbox::lazy(&pooler.dsn("postgres"), 1).unwrap(), Outbox::lazy(&pooler.dsn("postgres"), 1).unwrap());
    let (one, mut other) = (one.session().await.unwrap(), other.session().await.unwrap());
    let named = one.prepare("select 1").await.unwrap();
    // The other client gets the session that was used last.
    let tx = other.transaction().await.unwrap();
    tx.batch_execute("select 1").await.unwrap();
    let error = Error::from(one.query(&named, &[]).await.unwrap_err());
    assert_eq!((error.kind(), error.code(), error.name()), (Kind::Fatal, "26000", "prepared_statement_lost"));
    let hint = error.details().hint.as_deref().unwrap();
    assert!(hint.contains("pooler") && hint.contains("statement_cache_capacity(0)"), "{hint}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_do_without_serializable() {
    let server = start(&[("default_transaction_isolation", "serializable")]).await;
    let pooler = Pooler::start(&server, "transaction", 4).await.unwrap();
    for (name, dsn) in [("direct", server.dsn("direct")), ("pooled", pooler.dsn("pooled"))] {
        let db = server.database(name).await.unwrap();
        db.batch_execute(
            "select outbox.subscribe('jobs', '{job.*}'); select outbox.enqueue('job.run', '1') from generate_series(1, 400)",
        )
        .await
        .unwrap();
        let before = server.log().matches("could not serialize").count();
        let started = Instant::now();
        let (handled, reports, _) = work(&dsn, 400).await;
        assert!(handled.values().all(|times| *times == 1), "{name}: {handled:?}");
        assert_eq!(
            reports.iter().map(|r| r.completed).sum::<u64>(),
            400,
            "{name}: {reports:?} {:?}",
            started.elapsed()
        );
        let after = server.log().matches("could not serialize").count();
        if name == "direct" {
            assert_eq!(after, before, "{}", server.log());
            // The isolation level was changed for the session of the worker only.
            let session = Outbox::lazy(&dsn, 1).unwrap().session().await.unwrap();
            let level = session.query_typed("show transaction_isolation", &[]).await.unwrap();
            assert_eq!(level[0].get::<_, &str>(0), "serializable");
        }
    }
}
