//! Pull workers: claim, complete, fail, dead, extend and release, and the leases of workers that die.

use std::collections::HashSet;

use outbox_harness::postgres::signal;
use outbox_harness::tokio_postgres::{Client, Row};
use outbox_harness::{Server, Stop, wait_for, wait_until};
use outbox_tests::{PATIENCE, bare_server, one, outbox_harness, refused, server, settle};

/// Creates a database with a pull subscription to all topics below `job`.
async fn jobs(server: &Server, name: &str, options: &str) -> Client {
    let db = server.database(name).await.unwrap();
    db.batch_execute(&format!("select outbox.subscribe('jobs', '{{job.#}}'{options})")).await.unwrap();
    db
}

async fn enqueue(db: &Client, count: i64) {
    db.execute(
        "select outbox.enqueue_many('job.do', array(select jsonb_build_object('n', n) from generate_series(1, $1::bigint) n))",
        &[&count],
    )
    .await
    .unwrap();
}

/// The result of a claim that found deliveries.
struct Batch {
    lease: i64,
    ids: Vec<i64>,
    rows: Vec<Row>,
}

async fn claim(db: &Client, worker: &str, max: i32, lease: &str) -> Option<Batch> {
    let rows = db
        .query("select * from outbox.claim('jobs', $1, $2, $3::text::interval)", &[&worker, &max, &lease])
        .await
        .unwrap_or_else(|e| panic!("{}", outbox_tests::explain(&e)));
    let lease = rows.first()?.get("lease");
    Some(Batch { lease, ids: rows.iter().map(|row| row.get("delivery_id")).collect(), rows })
}

async fn claimed(db: &Client, worker: &str, max: i32, lease: &str) -> Batch {
    wait_for("there is something to claim", PATIENCE, async || claim(db, worker, max, lease).await).await
}

async fn complete(db: &Client, lease: i64) -> Vec<i64> {
    db.query_one("select outbox.complete($1)", &[&lease]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claimed_row_says_everything_and_completing_ends_it() {
    let db = jobs(server().await, "claim_row", "").await;
    let id: i64 = one(
        &db,
        "select outbox.enqueue('job.do', '{\"a\": 1}', 'k1', headers => '{\"h\": \"1\"}', metadata => '{\"m\": 2}',
            tenant => 't', aggregate_type => 'order', aggregate_id => '7', publisher => 'shop')",
    )
    .await;
    let batch = claimed(&db, "w1", 10, "60 s").await;
    assert_eq!(batch.rows.len(), 1);
    let row = &batch.rows[0];
    assert_eq!(row.get::<_, i64>("message_id"), id);
    assert_eq!(row.get::<_, i32>("attempt"), 1);
    assert_eq!(row.get::<_, i32>("max_attempts"), 12);
    for (column, value) in [
        ("subscription", "jobs"),
        ("topic", "job.do"),
        ("key", "k1"),
        ("tenant", "t"),
        ("publisher", "shop"),
        ("aggregate_type", "order"),
        ("aggregate_id", "7"),
    ] {
        assert_eq!(row.get::<_, &str>(column), value, "{column}");
    }
    assert_eq!(row.get::<_, Option<&str>>("last_error"), None);
    let expected: String =
        one(&db, &format!("select outbox.webhook_id(id, enqueued_at) from outbox.message where id = {id}")).await;
    assert_eq!(row.get::<_, String>("webhook_id"), expected);
    assert!(one::<bool>(&db, "select l.expires_at > now() + interval '50 s' from outbox.lease l").await);
    assert!(claim(&db, "w2", 10, "60 s").await.is_none(), "leased to one worker");
    let done: Vec<i64> = db
        .query_one("select outbox.complete($1, $2, '[\"their-id\"]')", &[&batch.lease, &batch.ids])
        .await
        .unwrap()
        .get(0);
    assert_eq!(done, batch.ids);
    assert_eq!(complete(&db, batch.lease).await, Vec::<i64>::new(), "nothing twice");
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery").await, 0);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.lease").await, 0);
    let log = db.query_one("select outcome, worker, attempt, response_id from outbox.attempt", &[]).await.unwrap();
    assert_eq!((log.get::<_, &str>(0), log.get::<_, &str>(1)), ("completed", "w1"));
    assert_eq!((log.get::<_, i32>(2), log.get::<_, &str>(3)), (1, "their-id"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_workers_never_get_the_same_delivery() {
    const MESSAGES: i64 = 3000;
    let server = server().await;
    let db = jobs(server, "claim_many", "").await;
    enqueue(&db, MESSAGES).await;
    settle(&db).await;
    let mut workers = Vec::new();
    for w in 0..6 {
        let db = server.connect("claim_many").await.unwrap();
        workers.push(tokio::spawn(async move {
            let mut got = Vec::new();
            while let Some(batch) = claim(&db, &format!("w{w}"), 1 + 7 * w, "60 s").await {
                assert_eq!(complete(&db, batch.lease).await.len(), batch.ids.len());
                got.extend(batch.ids);
            }
            got
        }));
    }
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    assert_eq!(all.len() as i64, MESSAGES);
    assert_eq!(all.iter().collect::<HashSet<_>>().len() as i64, MESSAGES);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.attempt_log where outcome = 'completed'").await, MESSAGES);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_complete_and_claim_in_one_call_do_each_delivery_once() {
    const MESSAGES: i64 = 3000;
    let server = server().await;
    let db = jobs(server, "next_many", "").await;
    enqueue(&db, MESSAGES).await;
    settle(&db).await;
    let mut workers = Vec::new();
    for w in 0..6 {
        let db = server.connect("next_many").await.unwrap();
        workers.push(tokio::spawn(async move {
            let mut got = Vec::new();
            let mut done: Option<i64> = None;
            loop {
                let sql = "select lease, delivery_id from outbox.complete_and_claim($1, 'jobs', $2, $3)";
                let rows = db.query(sql, &[&done, &format!("w{w}"), &(1 + 7 * w)]).await.unwrap();
                got.extend(rows.iter().map(|row| row.get::<_, i64>(1)));
                match rows.first() {
                    Some(row) => done = row.get(0),
                    None if done.is_none() => return got,
                    None => done = None,
                }
            }
        }));
    }
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    assert_eq!(all.len() as i64, MESSAGES);
    assert_eq!(all.iter().collect::<HashSet<_>>().len() as i64, MESSAGES);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.attempt_log where outcome = 'completed'").await, MESSAGES);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.lease").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_to_complete_has_not_locked_what_comes_next() {
    let server = server().await;
    let db = jobs(server, "next_waits", "").await;
    enqueue(&db, 2).await;
    settle(&db).await;
    let held = claimed(&db, "w", 1, "60 s").await;
    let mut operator = server.connect("next_waits").await.unwrap();
    operator.batch_execute("set lock_timeout = '20 s'").await.unwrap();
    let open = operator.transaction().await.unwrap();
    let lock = "select 1 from outbox.delivery where (state = 'processing') = $1 for update";
    open.query_one(lock, &[&true]).await.unwrap();
    let worker = server.connect("next_waits").await.unwrap();
    let pid: i32 = one(&worker, "select pg_backend_pid()").await;
    let next = tokio::spawn(async move {
        let sql = "select lease from outbox.complete_and_claim($1, 'jobs', 'w')";
        worker.query(sql, &[&held.lease]).await.unwrap().len()
    });
    wait_until("the worker waits for the operator", PATIENCE, async || {
        one(&db, &format!("select cardinality(pg_blocking_pids({pid})) > 0")).await
    })
    .await;
    // A worker that had already locked the next delivery would deadlock with the operator here.
    open.query_one(lock, &[&false]).await.unwrap();
    open.commit().await.unwrap();
    assert_eq!(next.await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_waits_for_nobody() {
    let server = server().await;
    let db = jobs(server, "claim_skip", "").await;
    enqueue(&db, 2).await;
    settle(&db).await;
    let mut slow = server.connect("claim_skip").await.unwrap();
    let open = slow.transaction().await.unwrap();
    let first: i64 = open.query_one("select position from outbox.claim('jobs', 'slow')", &[]).await.unwrap().get(0);
    db.batch_execute("set statement_timeout = '20 s'").await.unwrap();
    let batch = claimed(&db, "fast", 10, "60 s").await;
    assert_eq!(batch.rows.len(), 1);
    assert_ne!(batch.rows[0].get::<_, i64>("position"), first);
    open.rollback().await.unwrap();
    let batch = claimed(&db, "fast", 10, "60 s").await;
    assert_eq!(batch.rows[0].get::<_, i64>("position"), first);
    assert_eq!(batch.rows[0].get::<_, i32>("attempt"), 1, "the rolled back claim did not count");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_changes_nothing() {
    let db = jobs(server().await, "lease_lost", "").await;
    enqueue(&db, 1).await;
    let first = claimed(&db, "dies", 1, "10 ms").await;
    let second = claimed(&db, "lives", 1, "60 s").await;
    assert_eq!(second.ids, first.ids);
    assert_eq!(second.rows[0].get::<_, i32>("attempt"), 2, "the try of the dead worker counts");
    assert!(second.rows[0].get::<_, &str>("last_error").contains("dies"));
    assert_eq!(complete(&db, first.lease).await, Vec::<i64>::new());
    for call in ["fail($1, null, 'x')", "dead($1, null, 'x')", "release($1)"] {
        let changed: Vec<i64> = db.query_one(&format!("select outbox.{call}"), &[&first.lease]).await.unwrap().get(0);
        assert!(changed.is_empty(), "{call}");
    }
    assert_eq!(refused(&db, &format!("select outbox.extend({}, '1 s')", first.lease)).await.code().code(), "OB003");
    let state: String = one(&db, "select state from outbox.delivery").await;
    assert_eq!(state, "processing");
    assert_eq!(complete(&db, second.lease).await, second.ids);
    let outcomes: String = one(
        &db,
        "select string_agg(outcome || ' ' || coalesce(error_class, ''), ', ' order by attempt) from outbox.attempt",
    )
    .await;
    assert_eq!(outcomes, "failed lease_expired, completed ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_use_up_the_budget_and_end_as_dead_letters() {
    let db = jobs(server().await, "fails", ", max_attempts => 3").await;
    enqueue(&db, 1).await;
    for attempt in 1..=3 {
        let batch = claimed(&db, "w", 1, "60 s").await;
        assert_eq!(batch.rows[0].get::<_, i32>("attempt"), attempt);
        let changed: Vec<i64> = db
            .query_one("select outbox.fail($1, $2, 'no luck', interval '0')", &[&batch.lease, &batch.ids])
            .await
            .unwrap()
            .get(0);
        assert_eq!(changed, batch.ids);
    }
    let row = db.query_one("select reason, attempt, last_error from outbox.dead_letter", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1), row.get::<_, &str>(2)), ("max_attempts", 3, "no luck"));
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery").await, 0);

    // A failure without a delay of its own waits according to the schedule. dead() ignores the remaining attempts.
    enqueue(&db, 2).await;
    let one_of = claimed(&db, "w", 1, "60 s").await;
    db.execute("select outbox.fail($1, null, 'later')", &[&one_of.lease]).await.unwrap();
    assert!(
        one::<bool>(&db, "select due_at between now() + interval '3 s' and now() + interval '7 s' from outbox.delivery where state = 'failed'")
            .await
    );
    let other = claimed(&db, "w", 10, "60 s").await;
    assert_eq!(other.ids.len(), 1, "the failed one is not due");
    db.execute("select outbox.dead($1, null, 'poison')", &[&other.lease]).await.unwrap();
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.dead_letter where reason = 'rejected'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn release_gives_the_try_back_and_extend_moves_the_end() {
    let db = jobs(server().await, "release", ", deadline => '90 s'").await;
    enqueue(&db, 3).await;
    settle(&db).await;
    let batch = claimed(&db, "w", 3, "60 s").await;
    let released: Vec<i64> =
        db.query_one("select outbox.release($1, $2)", &[&batch.lease, &batch.ids[..1].to_vec()]).await.unwrap().get(0);
    assert_eq!(released, batch.ids[..1]);
    let again = claimed(&db, "w2", 3, "60 s").await;
    assert_eq!((again.ids.clone(), again.rows[0].get::<_, i32>("attempt")), (released, 1));
    db.execute("select outbox.extend($1, '1 hour')", &[&batch.lease]).await.unwrap();
    assert!(
        one::<bool>(
            &db,
            &format!("select expires_at = deadline_at and expires_at = claimed_at + interval '90 s' from outbox.lease where id = outbox_internal.lease_id({})", batch.lease)
        )
        .await,
        "extended up to the deadline"
    );
    assert_eq!(complete(&db, batch.lease).await, batch.ids[1..]);
    assert_eq!(one::<i64>(&db, "select outbox.unlock_stale('0')").await, 1);
    assert_eq!(complete(&db, again.lease).await, Vec::<i64>::new());
    assert_eq!(claimed(&db, "w3", 3, "60 s").await.rows[0].get::<_, i32>("attempt"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claiming_one_delivery_says_what_stands_in_its_way() {
    let server = server().await;
    let db = jobs(server, "claim_one", ", max_attempts => 2").await;
    let code = async |db: &Client, id: i64| {
        refused(db, &format!("select * from outbox.claim_delivery({id}, 'w')")).await.code().code().to_owned()
    };
    enqueue(&db, 1).await;
    settle(&db).await;
    let id: i64 = one(&db, "select id from outbox.delivery").await;
    assert_eq!(code(&db, id + 1000).await, "OB001");
    let lease: i64 = one(&db, &format!("select lease from outbox.claim_delivery({id}, 'w')")).await;
    assert_eq!(code(&db, id).await, "OB003");
    db.execute("select outbox.fail($1, null, 'x', '1 hour')", &[&lease]).await.unwrap();
    assert_eq!(code(&db, id).await, "OB012");
    db.batch_execute("update outbox.delivery set attempt = 2").await.unwrap();
    assert_eq!(code(&db, id).await, "OB011");
    db.batch_execute("update outbox.delivery set expires_at = now() - interval '1 s', state = 'failed'").await.unwrap();
    assert!(["OB010", "OB002"].contains(&code(&db, id).await.as_str()));
    enqueue(&db, 1).await;
    let batch = claimed(&db, "w", 1, "60 s").await;
    complete(&db, batch.lease).await;
    assert_eq!(code(&db, batch.ids[0]).await, "OB002");
    enqueue(&db, 1).await;
    settle(&db).await;
    let left: i64 = one(&db, "select max(id) from outbox.delivery").await;
    db.batch_execute("select outbox.pause_subscription('jobs')").await.unwrap();
    assert_eq!(code(&db, left).await, "OB007");
    db.batch_execute("select outbox.resume_subscription('jobs'); select outbox.unsubscribe('jobs')").await.unwrap();
    assert_eq!(code(&db, left).await, "OB002", "what waited was skipped");
    db.batch_execute(
        "select outbox.create_endpoint('e', 'https://example.com'); select outbox.subscribe('pushed', '{x}', 'e');
        select outbox.subscribe('jobs', '{job.#}')",
    )
    .await
    .unwrap();
    assert_eq!(refused(&db, "select * from outbox.claim('pushed', 'w')").await.code().code(), "OB004");
    assert_eq!(refused(&db, "select * from outbox.claim('nobody', 'w')").await.code().code(), "OB001");
    assert_eq!(refused(&db, "select * from outbox.claim('jobs', '')").await.code().code(), "22023");
    assert_eq!(refused(&db, "select * from outbox.claim('jobs', 'w', 0)").await.code().code(), "22023");
    assert_eq!(refused(&db, "select * from outbox.claim('jobs', 'w', 1, '0')").await.code().code(), "22023");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_is_bounded_to_a_window_and_survives_kills_of_the_dispatcher() {
    const MESSAGES: i64 = 25_000;
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let mut db = jobs(&server, "window", "").await;
    enqueue(&db, MESSAGES).await;
    wait_until("the window is full", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox._open").await > 9_000
    })
    .await;
    assert!(one::<i64>(&db, "select count(*) from outbox._open").await <= 10_000);
    let mut seen = HashSet::new();
    let mut positions = Vec::new();
    let mut kills = 0;
    while (seen.len() as i64) < MESSAGES {
        let batch = claimed(&db, "w", 1000, "60 s").await;
        assert!(one::<i64>(&db, "select count(*) from outbox._open where state = 'pending'").await <= 10_000);
        for row in &batch.rows {
            assert!(seen.insert(row.get::<_, i64>("message_id")), "twice");
            positions.push(row.get::<_, i64>("position"));
        }
        assert_eq!(complete(&db, batch.lease).await.len(), batch.ids.len());
        if seen.len() / 6000 > kills {
            kills += 1;
            // After the kill of a process, the postmaster restarts the whole server.
            let pid: Option<i32> = one(&db, "select pid from outbox_internal.worker_slot()").await;
            if kills == 2 {
                server.restart(Stop::Immediate).await.unwrap();
            } else if let Some(pid) = pid {
                signal(pid as u32, "KILL").unwrap();
                wait_until("the server has noticed", PATIENCE, async || db.is_closed()).await;
            }
            db = wait_for("the server is back", PATIENCE, async || {
                let db = server.connect("window").await.ok()?;
                db.query_one("select 1", &[]).await.ok().map(|_| db)
            })
            .await;
        }
    }
    assert!(kills >= 3);
    settle(&db).await;
    assert!(claim(&db, "w", 1000, "60 s").await.is_none());
    assert!(positions.is_sorted(), "in order");
}

/// Claims and completes deliveries one by one until there are none. Returns their messages in order.
async fn drain(db: &Client) -> Vec<i64> {
    let mut order = Vec::new();
    while let Some(batch) = claim(db, "w", 1, "60 s").await {
        order.push(batch.rows[0].get("message_id"));
        complete(db, batch.lease).await;
    }
    order
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_preloaded_library_claims_tick_and_route() {
    let server = bare_server().await;
    let db = jobs(server, "inline", "").await;
    // A pushed subscription waits for a dispatcher and loses nothing meanwhile.
    db.batch_execute(
        "select outbox.create_endpoint('e', 'https://example.com'); select outbox.subscribe('pushed', '{job.#}', 'e')",
    )
    .await
    .unwrap();
    enqueue(&db, 2500).await;
    let mut workers = Vec::new();
    for w in 0..4 {
        let db = server.connect("inline").await.unwrap();
        workers.push(tokio::spawn(async move {
            let mut got = Vec::new();
            let mut empty = 0;
            while empty < 20 {
                if let Some(batch) = claim(&db, &format!("w{w}"), 50, "60 s").await {
                    empty = 0;
                    got.extend(batch.rows.iter().map(|row| row.get::<_, i64>("message_id")));
                    assert_eq!(complete(&db, batch.lease).await.len(), batch.ids.len());
                } else {
                    empty += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
            got
        }));
    }
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    assert_eq!(all.len(), 2500);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 2500);
    let lag: Vec<i64> = one(&db, "select lag_positions from outbox.checkpoint order by id desc limit 1").await;
    assert_eq!(lag.len(), 1, "the pushed one lags behind its beginning");
    // Leases expire without a dispatcher as well. A claim in a transaction that has written does not tick.
    enqueue(&db, 1).await;
    let first = claimed(&db, "dies", 1, "10 ms").await;
    let second = claimed(&db, "lives", 1, "60 s").await;
    assert_eq!((second.ids, second.rows[0].get::<_, i32>("attempt")), (first.ids, 2));
    enqueue(&db, 1).await;
    db.batch_execute("begin; create temp table t (a int)").await.unwrap();
    assert!(claim(&db, "w", 1, "60 s").await.is_none());
    db.batch_execute("commit").await.unwrap();
    assert!(claim(&db, "w", 1, "60 s").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_work_holds_no_snapshot_and_ends_when_there_is_some() {
    let server = server().await;
    let db = jobs(server, "waits", "").await;
    settle(&db).await;
    let ready = async |db: &Client, timeout: &str| -> bool {
        one(db, &format!("call outbox.claim_wait('jobs', '{timeout}')")).await
    };
    assert!(!ready(&db, "10 ms").await);
    let waiter = server.connect("waits").await.unwrap();
    let pid: i32 = one(&waiter, "select pg_backend_pid()").await;
    let waiting = tokio::spawn(async move { one::<bool>(&waiter, "call outbox.claim_wait('jobs', '60 s')").await });
    wait_until("it waits without a snapshot", PATIENCE, async || {
        one::<bool>(
            &db,
            &format!(
                "select coalesce(backend_xmin is null and wait_event = 'Extension', false) from pg_stat_activity where pid = {pid}"
            ),
        )
        .await
    })
    .await;
    let (listener, mut told) = server.listen("waits").await.unwrap();
    listener.batch_execute("listen outbox_pull").await.unwrap();
    enqueue(&db, 1).await;
    assert!(waiting.await.unwrap());
    assert!(ready(&db, "10 s").await);
    let told = told.recv().await.unwrap();
    assert_eq!((told.channel(), told.payload()), ("outbox_pull", "jobs"));
    assert_eq!(drain(&db).await.len(), 1);
    assert_eq!(refused(&db, "begin; call outbox.claim_wait('jobs', '1 s')").await.code().code(), "25001");
    db.batch_execute("rollback").await.unwrap();
    assert_eq!(refused(&db, "call outbox.claim_wait('nobody', '1 s')").await.code().code(), "OB001");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_key_come_one_at_a_time_and_in_order() {
    let server = server().await;
    let db = jobs(server, "fifo", ", ordering => 'key', max_attempts => 2").await;
    db.batch_execute("select outbox.enqueue('job.do', '{}', 'k' || n % 7) from generate_series(1, 140) n order by n")
        .await
        .unwrap();
    settle(&db).await;
    let mut workers = Vec::new();
    for w in 0..4 {
        let db = server.connect("fifo").await.unwrap();
        workers.push(tokio::spawn(async move {
            let mut failed = 0;
            loop {
                let Some(batch) = claim(&db, &format!("w{w}"), 3, "60 s").await else {
                    if one::<i64>(&db, "select count(*) from outbox.delivery").await == 0 {
                        return failed;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                    continue;
                };
                let keys: HashSet<&str> = batch.rows.iter().map(|row| row.get("key")).collect();
                assert_eq!(keys.len(), batch.rows.len(), "one of a key");
                if batch.ids[0] % 5 == 0 && batch.rows[0].get::<_, i32>("attempt") == 1 {
                    failed += 1;
                    db.execute("select outbox.fail($1, $2, 'x', '10 ms')", &[&batch.lease, &batch.ids[..1].to_vec()])
                        .await
                        .unwrap();
                }
                complete(&db, batch.lease).await;
            }
        }));
    }
    let mut failed = 0;
    for worker in workers {
        failed += worker.await.unwrap();
    }
    assert!(failed > 0, "some were tried twice");
    let wrong: i64 = one(
        &db,
        "select count(*) from (
            select position - lag(position) over (partition by m.key order by a.finished_at) as step
            from outbox.attempt a join outbox.message m on m.id = a.message_id where a.outcome = 'completed'
        ) s where step < 0",
    )
    .await;
    assert_eq!(wrong, 0, "in order");
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.attempt where outcome = 'completed'").await, 140);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_head_lets_the_next_pass_or_blocks_as_the_subscription_says() {
    let server = server().await;
    for (policy, freed) in [("skip", true), ("block", false)] {
        let db =
            jobs(server, &format!("head_{policy}"), &format!(", ordering => 'strict', on_exhausted => '{policy}'"))
                .await;
        enqueue(&db, 3).await;
        settle(&db).await;
        let head = claimed(&db, "w", 10, "60 s").await;
        assert_eq!(head.ids.len(), 1, "one at a time");
        db.execute("select outbox.dead($1, null, 'x')", &[&head.lease]).await.unwrap();
        settle(&db).await;
        if freed {
            wait_until("the next is free", PATIENCE, async || {
                one::<i64>(&db, "select count(*) from outbox.delivery where not blocked").await == 1
            })
            .await;
        } else {
            wait_until("the key was looked at", PATIENCE, async || {
                one::<i64>(&db, "select count(*) from outbox._freed_key").await == 0
            })
            .await;
            assert!(claim(&db, "w", 10, "60 s").await.is_none());
            // A later message waits as well, and the requeued delivery comes first.
            enqueue(&db, 1).await;
            settle(&db).await;
            assert!(claim(&db, "w", 10, "60 s").await.is_none());
            db.batch_execute("select outbox.requeue((select id from outbox.dead_letter), 'me')").await.unwrap();
            let again = claimed(&db, "w", 10, "60 s").await;
            assert_eq!(again.rows[0].get::<_, i64>("position"), head.rows[0].get::<_, i64>("position"));
            complete(&db, again.lease).await;
        }
        let mut left = Vec::new();
        wait_until("the rest follows in order", PATIENCE, async || {
            left.extend(drain(&db).await);
            one::<i64>(&db, "select count(*) from outbox.delivery").await == 0
        })
        .await;
        assert_eq!(left.len(), if freed { 2 } else { 3 });
        assert!(left.is_sorted());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_costs_what_it_takes_beside_a_hundred_thousand_stuck_deliveries() {
    let db = jobs(server().await, "stuck", "").await;
    enqueue(&db, 100).await;
    settle(&db).await;
    // Claiming a single delivery splits the bundle into rows.
    let first = claimed(&db, "w", 1, "60 s").await;
    complete(&db, first.lease).await;
    // The first rows have all priorities and wait for a retry in an hour. The others belong to another subscription and
    // are due.
    db.batch_execute(
        "insert into outbox.delivery (subscription_id, position, message_id, message_segment, pull, state, due_at, attempt, priority)
        select 1, 1000000 + n, 1, 0, true, 'failed', now() + interval '1 hour', 3, n % 5 from generate_series(1, 100000) n;
        insert into outbox.delivery (subscription_id, position, message_id, message_segment, pull, state, due_at)
        select 2, n, 1, 0, true, 'pending', now() from generate_series(1, 20000) n",
    )
    .await
    .unwrap();
    // Statistics of a formerly empty table mislead the planner, so the test measures before and after ANALYZE.
    let buffers = async || -> i64 {
        one(
            &db,
            "select coalesce(sum(pg_stat_get_xact_blocks_fetched(c.oid)), 0)::bigint from pg_class c
            where c.relnamespace = 'outbox'::regnamespace and c.relname ~ '^(delivery|lease|_?dead|_freed_key)'",
        )
        .await
    };
    for analyzed in [false, true] {
        if analyzed {
            db.batch_execute("analyze outbox.delivery").await.unwrap();
        }
        for (n, limit) in [(1, 150), (10, 500)] {
            db.batch_execute("begin").await.unwrap();
            let before = buffers().await;
            let batch = claim(&db, "w", n, "60 s").await.unwrap();
            let after_claim = buffers().await;
            complete(&db, batch.lease).await;
            let after = buffers().await;
            let held = claim(&db, "w", n, "60 s").await.unwrap();
            let before_both = buffers().await;
            let sql = "select lease from outbox.complete_and_claim($1, 'jobs', 'w', $2)";
            let next = db.query(sql, &[&held.lease, &n]).await.unwrap();
            let both = buffers().await - before_both;
            complete(&db, next[0].get(0)).await;
            db.batch_execute("commit").await.unwrap();
            assert_eq!((batch.ids.len() as i32, next.len() as i32), (n, n));
            assert!(both < 2 * limit, "complete and claim of {n} touched {both} pages");
            assert!(after_claim - before < limit, "claim of {n} touched {} pages", after_claim - before);
            assert!(after - after_claim < limit, "complete of {n} touched {} pages", after - after_claim);
        }
    }
}
