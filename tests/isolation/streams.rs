//! Streams under concurrency: who waits for whom, which version an append gets, and what it is told when it is too late.

use outbox_harness::tokio_postgres::{Client, Error};
use outbox_harness::wait_until;
use outbox_tests::{PATIENCE, bare_server, explain, one, outbox_harness, refused};
use tokio::task::JoinHandle;

/// Sessions of one database, without a dispatcher.
struct World {
    database: &'static str,
    admin: Client,
}

impl World {
    async fn new(database: &'static str) -> World {
        World { database, admin: bare_server().await.database(database).await.unwrap() }
    }

    async fn session(&self) -> Client {
        bare_server().await.connect(self.database).await.unwrap()
    }

    /// Runs an append in a session of its own, in an open transaction, and waits until it waits for a lock.
    async fn waiting(
        &self,
        begin: &str,
        stream: &str,
        expected: i64,
    ) -> (JoinHandle<(Client, Result<i64, Error>)>, i32) {
        let session = self.session().await;
        session.batch_execute(begin).await.unwrap();
        let pid: i32 = one(&session, "select pg_backend_pid()").await;
        let statement = format!("select outbox.append('{stream}', 'a.b', '1', {expected})");
        let task = tokio::spawn(async move {
            let outcome = session.query_one(&statement, &[]).await.map(|row| row.get(0));
            (session, outcome)
        });
        self.waits(pid).await;
        (task, pid)
    }

    async fn waits(&self, pid: i32) {
        wait_until("the second session waits", PATIENCE, async || {
            one::<bool>(&self.admin, &format!("select exists (select from pg_locks where pid = {pid} and not granted)"))
                .await
        })
        .await;
    }

    async fn version(&self, stream: &str) -> i64 {
        one(&self.admin, &format!("select outbox.stream_version('{stream}')")).await
    }
}

async fn append(session: &Client, stream: &str, expected: i64) -> i64 {
    one(session, &format!("select outbox.append('{stream}', 'a.b', '1', {expected})")).await
}

async fn run(session: &Client, sql: &str) {
    session.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", explain(&e)));
}

fn code(outcome: &Result<i64, Error>) -> &str {
    outcome.as_ref().err().and_then(Error::code).map_or("", |code| code.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_append_waits_and_goes_on_behind_the_first() {
    let world = World::new("streams_wait").await;
    let first = world.session().await;
    for (stream, end, expected, gets) in [
        ("wait-1", "commit", -1, Ok(2)),
        ("wait-2", "rollback", -1, Ok(1)),
        ("wait-3", "commit", 0, Err("OB013")),
        ("wait-4", "rollback", 0, Ok(1)),
        ("wait-5", "prepare transaction 'p'; commit prepared 'p'", -1, Ok(2)),
    ] {
        run(&first, "begin").await;
        assert_eq!(append(&first, stream, 0).await, 1);
        let (second, _) = world.waiting("begin", stream, expected).await;
        for statement in end.split("; ") {
            run(&first, statement).await;
        }
        let (session, outcome) = second.await.unwrap();
        match gets {
            Ok(version) => assert_eq!(outcome.ok(), Some(version), "{stream}"),
            Err(state) => {
                assert_eq!(code(&outcome), state, "{stream}");
                let error = outcome.unwrap_err();
                let detail: serde_json::Value =
                    serde_json::from_str(error.as_db_error().unwrap().detail().unwrap()).unwrap();
                assert_eq!(detail, serde_json::json!({"stream": stream, "expected": 0, "actual": 1}));
            }
        }
        run(&session, "rollback").await;
    }
    // A prepared transaction keeps its stream until it ends.
    run(&first, "begin").await;
    append(&first, "wait-6", 0).await;
    run(&first, "prepare transaction 'q'").await;
    let (second, _) = world.waiting("begin", "wait-6", -1).await;
    run(&first, "commit prepared 'q'").await;
    assert_eq!(second.await.unwrap().1.ok(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_do_not_wait_for_each_other_and_opposite_orders_are_a_deadlock() {
    let world = World::new("streams_orders").await;
    let (first, second) = (world.session().await, world.session().await);
    run(&first, "begin").await;
    run(&second, "begin; set lock_timeout = '10s'").await;
    append(&first, "order-1", 0).await;
    // Another stream is free, even while the first transaction is open.
    append(&second, "order-2", 0).await;
    let pid: i32 = one(&second, "select pg_backend_pid()").await;
    let task = tokio::spawn(async move {
        let outcome = second.query_one("select outbox.append('order-1', 'a.b', '1')", &[]).await;
        (second, outcome.map(|row| row.get(0)))
    });
    world.waits(pid).await;
    let outcome =
        first.query_one("select outbox.append('order-2', 'a.b', '1')", &[]).await.map(|row| row.get::<_, i64>(0));
    run(&first, if outcome.is_ok() { "commit" } else { "rollback" }).await;
    let (second, other): (Client, Result<i64, Error>) = task.await.unwrap();
    run(&second, "rollback").await;
    let mut codes = [code(&outcome), code(&other)];
    codes.sort_unstable();
    assert_eq!(codes, ["", "40P01"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_gives_the_stream_back_and_a_killed_session_too() {
    let world = World::new("streams_savepoint").await;
    let (first, second) = (world.session().await, world.session().await);
    run(&first, "begin; savepoint s").await;
    append(&first, "s-1", 0).await;
    run(&first, "rollback to s").await;
    assert_eq!(append(&second, "s-1", 0).await, 1);
    assert_eq!(append(&first, "s-1", -1).await, 2);
    run(&first, "commit").await;
    let pid: i32 = one(&first, "select pg_backend_pid()").await;
    run(&first, "begin").await;
    append(&first, "s-1", 2).await;
    let (waiting, _) = world.waiting("begin", "s-1", 2).await;
    run(&world.admin, &format!("select pg_terminate_backend({pid})")).await;
    let (session, outcome) = waiting.await.unwrap();
    assert_eq!(outcome.ok(), Some(3));
    run(&session, "commit").await;
    assert_eq!(world.version("s-1").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_statement_sees_its_own_appends() {
    let world = World::new("streams_own").await;
    let db = &world.admin;
    let row = db.query_one("select outbox.append('own-1', 'a', '1', 0), outbox.append('own-1', 'a', '1', 1)", &[]);
    let row = row.await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 2));
    assert_eq!(one::<i64>(db, "select count(*) from outbox.load('own-1')").await, 2);
    // The same in a loop of a function, and with subtransactions of which some fail.
    run(
        db,
        "do $$ begin
            for i in 1 .. 20 loop
                begin
                    perform outbox.append('own-2', 'a', '1');
                    if i % 3 = 0 then raise 'no'; end if;
                exception when raise_exception then null; end;
            end loop;
        end $$",
    )
    .await;
    let versions: Vec<i64> = one(db, "select array_agg(version order by version) from outbox.load('own-2')").await;
    assert_eq!(versions, (1..=14).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_snapshot_does_not_hide_the_last_version() {
    let world = World::new("streams_snapshots").await;
    for level in ["repeatable read", "serializable"] {
        let stream = format!("snap-{}", level.len());
        append(&world.admin, &stream, 0).await;
        let old = world.session().await;
        run(&old, &format!("begin isolation level {level}")).await;
        assert_eq!(one::<i64>(&old, &format!("select count(*) from outbox.load('{stream}')")).await, 1);
        append(&world.admin, &stream, 1).await;
        // Any version goes on behind what the snapshot shows; the version that it shows is a conflict.
        assert_eq!(one::<i64>(&old, &format!("select outbox.stream_version('{stream}')")).await, 2);
        run(&old, "savepoint s").await;
        let error = refused(&old, &format!("select outbox.append('{stream}', 'a', '1', 1)")).await;
        assert_eq!(error.code().code(), "OB013", "{level}");
        run(&old, "rollback to s").await;
        if level == "repeatable read" {
            assert_eq!(append(&old, &stream, -1).await, 3);
            run(&old, "commit").await;
            assert_eq!(world.version(&stream).await, 3);
        }
    }
    // Two serializable transactions that read a stream and append to it: one of them has to start again.
    append(&world.admin, "snap-both", 0).await;
    let (first, second) = (world.session().await, world.session().await);
    for session in [&first, &second] {
        run(session, "begin isolation level serializable").await;
        one::<i64>(session, "select count(*) from outbox.load('snap-both')").await;
    }
    append(&first, "snap-both", -1).await;
    run(&first, "commit").await;
    let outcome =
        second.query_one("select outbox.append('snap-both', 'a', '1')", &[]).await.map(|row| row.get::<_, i64>(0));
    let outcome = match outcome {
        Ok(version) => second.batch_execute("commit").await.map(|()| version),
        Err(error) => Err(error),
    };
    assert_eq!(code(&outcome), "40001");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_64_streams_the_unique_index_alone_guards() {
    let world = World::new("streams_many").await;
    for end in ["commit", "rollback"] {
        let first = world.session().await;
        run(&first, "begin").await;
        let appended =
            format!("select count(outbox.append('{end}-' || i, 'a', '1', 0)) from generate_series(1, 40000) i");
        assert_eq!(one::<i64>(&first, &appended).await, 40_000);
        let locks: i64 =
            one(&first, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()").await;
        assert_eq!(locks, 64);
        // A locked stream, and one that only the index guards: both wait for the transaction.
        for (stream, conflict) in [(format!("{end}-64"), false), (format!("{end}-39000"), true)] {
            let (waiting, pid) = world.waiting("begin", &stream, -1).await;
            if conflict {
                run(&first, end).await;
                let (session, outcome) = waiting.await.unwrap();
                if end == "commit" {
                    assert_eq!(code(&outcome), "OB013");
                    let error = outcome.unwrap_err();
                    let detail = error.as_db_error().unwrap().detail().unwrap();
                    assert!(detail.contains("\"actual\": null"), "{detail}");
                    run(&session, "rollback").await;
                    assert_eq!(append(&session, &stream, 1).await, 2);
                } else {
                    assert_eq!(outcome.ok(), Some(1));
                }
            } else {
                run(&world.admin, &format!("select pg_cancel_backend({pid})")).await;
                assert_eq!(code(&waiting.await.unwrap().1), "57014");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_closed_while_an_append_waits_refuses_it() {
    let world = World::new("streams_closed").await;
    for stream in ["closed-1", "closed-2"] {
        append(&world.admin, stream, 0).await;
        let waiter = world.session().await;
        // The session knows that no stream is exceptional, and has locks of the tables that it keeps.
        run(&waiter, "begin").await;
        append(&waiter, "open-1", -1).await;
        let closer = world.session().await;
        run(&closer, "begin").await;
        assert_eq!(one::<i64>(&closer, &format!("select outbox.close_stream('{stream}', 'test')")).await, 1);
        let pid: i32 = one(&waiter, "select pg_backend_pid()").await;
        let statement = format!("select outbox.append('{stream}', 'a', '1')");
        let task = tokio::spawn(async move { waiter.query_one(&statement, &[]).await.map(|row| row.get::<_, i64>(0)) });
        world.waits(pid).await;
        run(&closer, "commit").await;
        assert_eq!(code(&task.await.unwrap()), "OB014");
    }
    // An open stream stays open. The events of the transactions that were refused are gone.
    assert_eq!(append(&world.admin, "open-1", -1).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_closes_many_streams_waits_for_the_append_to_each() {
    let world = World::new("streams_closed_many").await;
    let db = &world.admin;
    run(db, "select outbox.append('many-' || i, 'a.b', '1') from generate_series(1, 70) i").await;
    let appends = world.session().await;
    run(&appends, "begin").await;
    append(&appends, "many-70", 1).await;
    let closer = world.session().await;
    let pid: i32 = one(&closer, "select pg_backend_pid()").await;
    let close = "select count(outbox.close_stream('many-' || i, 'test')) from generate_series(1, 70) i";
    let task = tokio::spawn(async move { one::<i64>(&closer, close).await });
    world.waits(pid).await;
    run(&appends, "commit").await;
    assert_eq!(task.await.unwrap(), 70);
    // The audit row has the version with which the stream has ended.
    let said = "select (detail ->> 'version')::bigint from outbox.audit where object = 'stream many-70'";
    assert_eq!((one::<i64>(db, said).await, world.version("many-70").await), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_that_were_rolled_back_do_not_count() {
    let world = World::new("streams_locks_back").await;
    let session = world.session().await;
    run(
        &session,
        "begin;
        do $$ begin
            for i in 1..100 loop
                begin
                    perform outbox.append('back-1', 'a.b', '1', 99);
                exception when others then null;
                end;
            end loop;
        end $$;
        savepoint s;
        select outbox.append('kept-' || i, 'a.b', '1') from generate_series(1, 63) i;
        release s",
    )
    .await;
    append(&session, "back-1", -1).await;
    let (task, _) = world.waiting("begin", "back-1", -1).await;
    // The 64 locks of the transaction are those that it has.
    let pid: i32 = one(&session, "select pg_backend_pid()").await;
    let held = format!("select count(*) from pg_locks where pid = {pid} and locktype = 'advisory'");
    assert_eq!(one::<i64>(&world.admin, &held).await, 64);
    append(&session, "beyond-1", -1).await;
    assert_eq!(one::<i64>(&world.admin, &held).await, 64);
    run(&session, "commit").await;
    assert_eq!(task.await.unwrap().1.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_append_is_a_success_and_writes_nothing() {
    let world = World::new("streams_repeated").await;
    let db = &world.admin;
    let ids = "array['11111111-1111-1111-1111-111111111111', '22222222-2222-2222-2222-222222222222']::uuid[]";
    let twice = |data: &str, expected: i64, ids: &str| {
        format!(
            "select (a).message_ids, (a).repeated, (a).last_version from (
                select outbox.append_many('r-1', '{{a,b}}', '{data}'::jsonb[], {expected}, {ids}) offset 0
            ) x(a)"
        )
    };
    let mut seen = Vec::new();
    for repeated in [false, true, true] {
        let row = db.query_one(&twice("{1,2}", 0, ids), &[]).await.unwrap();
        assert_eq!((row.get::<_, bool>(1), row.get::<_, i64>(2)), (repeated, 2));
        seen.push(row.get::<_, Vec<i64>>(0));
    }
    assert!(seen[0] == seen[1] && seen[1] == seen[2]);
    assert_eq!(one::<i64>(db, "select count(*) from outbox.load('r-1')").await, 2);
    // Later events change nothing about it. Another content, other ids or another place are not the same append.
    append(db, "r-1", 2).await;
    assert!(db.query_one(&twice("{1,2}", 0, ids), &[]).await.unwrap().get::<_, bool>(1));
    assert_eq!(refused(db, &twice("{1,3}", 0, ids)).await.code().code(), "OB008");
    assert_eq!(refused(db, &twice("{1,2}", 1, ids)).await.code().code(), "OB013");
    assert_eq!(refused(db, &twice("{1,2}", 0, "null")).await.code().code(), "OB013");
    // A client that did not hear of its success repeats it after the stream was closed.
    one::<i64>(db, "select outbox.close_stream('r-1', 'done')").await;
    assert!(db.query_one(&twice("{1,2}", 0, ids), &[]).await.unwrap().get::<_, bool>(1));
    assert_eq!(refused(db, &twice("{1,2}", 3, ids)).await.code().code(), "OB014");
}

/// The buffers that a statement touches when its plans are cached. Each run is rolled back.
async fn buffers(db: &Client, statement: &str) -> i64 {
    let mut least = i64::MAX;
    for _ in 0..3 {
        run(db, "begin").await;
        let plan: serde_json::Value = one(db, &format!("explain (analyze, buffers, format json) {statement}")).await;
        run(db, "rollback").await;
        let node = &plan[0]["Plan"];
        least = least.min(node["Shared Hit Blocks"].as_i64().unwrap() + node["Shared Read Blocks"].as_i64().unwrap());
    }
    least
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cost_of_appending_and_reading_does_not_depend_on_what_is_stored() {
    const STATEMENTS: [&str; 5] = [
        "select outbox.append('order-1', 'a.b', '1')",
        "select * from outbox.load('order-1')",
        "select * from outbox.load('order-1', backwards => true, positions => true)",
        "select * from outbox.read_events(0, 10, categories => '{rare}')",
        "select outbox.stream_version('order-1')",
    ];
    let world = World::new("streams_cost").await;
    let db = &world.admin;
    let settle = async || {
        while one::<bool>(db, "select status = 'ticked' from outbox_internal.tick_inline(10000)").await {}
        db.batch_execute("select outbox.maintain()").await.unwrap();
        db.batch_execute("vacuum analyze outbox.message; vacuum analyze outbox.feed").await.unwrap_or(());
    };
    run(db, "select outbox.append('order-' || n % 100, 'a.b', '1') from generate_series(1, 1000) n").await;
    run(db, "select outbox.append('rare-1', 'a.b', '1') from generate_series(1, 10)").await;
    settle().await;
    let mut small = Vec::new();
    for statement in STATEMENTS {
        small.push(buffers(db, statement).await);
    }
    for part in 0..4 {
        let many =
            format!("select outbox.append('pile-' || n % 5000, 'a.b', '{part}') from generate_series(1, 20000) n");
        run(db, &many).await;
        settle().await;
    }
    for (statement, small) in STATEMENTS.into_iter().zip(small) {
        let large = buffers(db, statement).await;
        // An index has one more level at most.
        assert!(
            large <= small + small / 2 + 20,
            "{statement}: {large} buffers beside 80,000 events, {small} beside 1,000"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_sessions_on_one_stream_leave_no_gap() {
    const EVENTS: i64 = 300;
    let world = World::new("streams_hot").await;
    let mut sessions = Vec::new();
    for n in 0..6 {
        let session = world.session().await;
        sessions.push(tokio::spawn(async move {
            let mut conflicts = 0;
            for i in 0..EVENTS {
                if i % 7 == n {
                    session.batch_execute("begin; select outbox.append('hot-1', 'a', '0'); rollback").await.unwrap();
                }
                loop {
                    // The optimistic way: read the version, then append at it.
                    let version: i64 = one(&session, "select outbox.stream_version('hot-1')").await;
                    let expected = if i % 2 == 0 { -1 } else { version };
                    let statement = format!("select outbox.append('hot-1', 'a', '{n}', {expected})");
                    match session.query_one(&statement, &[]).await {
                        Ok(_) => break,
                        Err(error) => {
                            assert_eq!(error.code().map(|c| c.code()), Some("OB013"), "{}", explain(&error));
                            conflicts += 1;
                        }
                    }
                }
            }
            conflicts
        }));
    }
    let mut conflicts = 0;
    for session in sessions {
        conflicts += session.await.unwrap();
    }
    println!("{conflicts} conflicts");
    let db = &world.admin;
    assert_eq!(world.version("hot-1").await, 6 * EVENTS);
    let versions: bool = one(
        db,
        "select array_agg(version order by version) = array(select generate_series(1::bigint, max(version)))
        from outbox._message_event where key = 'hot-1'",
    )
    .await;
    assert!(versions);
    while one::<bool>(db, "select status = 'ticked' from outbox_internal.tick_inline(500)").await {}
    let mut after = 0i64;
    let mut seen = Vec::new();
    loop {
        let page = db.query("select position, version from outbox.read_events($1, 700)", &[&after]).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.get(0);
        seen.extend(page.iter().map(|row| row.get::<_, i64>(1)));
    }
    assert_eq!(seen, (1..=6 * EVENTS).collect::<Vec<_>>());
}
