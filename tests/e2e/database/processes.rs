//! Launcher and dispatchers return however they ended, roles without the right cannot keep them away, and health() reports
//! their absence.

use std::time::Duration;

use outbox_harness::postgres::signal;
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Server, Stop, connect, wait_for, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, settle};

async fn shop(db: &Client, receiver: &Receiver) {
    db.execute("select outbox.create_endpoint('shop', $1)", &[&receiver.url("/hook")]).await.unwrap();
    db.batch_execute("select outbox.subscribe('orders', '{order.#}', 'shop')").await.unwrap();
}

async fn enqueue(db: &Client) {
    db.batch_execute("select outbox.enqueue('order.created', '{}')").await.unwrap();
}

/// Returns the process id of the launcher, or of a database's dispatcher, or 0 if there is none.
async fn pid_of(admin: &Client, database: Option<&str>) -> i32 {
    let sql = "select pid from pg_stat_activity
        where backend_type = case when $1::text is null then 'pg_outbox launcher' else 'pg_outbox dispatcher' end
            and datname is not distinct from $1";
    admin.query_opt(sql, &[&database]).await.unwrap().map_or(0, |row| row.get(0))
}

async fn wait_for_pid(admin: &Client, database: Option<&str>, not: i32) -> i32 {
    wait_for("the process is there", PATIENCE, async || {
        Some(pid_of(admin, database).await).filter(|pid| ![0, not].contains(pid))
    })
    .await
}

/// Returns the state and the culprit of one check.
async fn check(db: &Client, name: &str) -> (String, String) {
    let sql = r#"select state, coalesce(culprit, '') from outbox.health() where "check" = $1"#;
    let row = db.query_one(sql, &[&name]).await.unwrap();
    (row.get(0), row.get(1))
}

async fn delivers(db: &Client, receiver: &Receiver) {
    let before = receiver.total();
    enqueue(db).await;
    wait_until("it is delivered", PATIENCE, async || receiver.total() > before).await;
}

async fn terminate(admin: &Client, pid: i32) {
    admin.execute("select pg_terminate_backend($1)", &[&pid]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launcher_that_was_terminated_comes_back_and_takes_over_what_it_finds() {
    let receiver = Receiver::start().unwrap();
    let server = Server::start(&[]).await.unwrap();
    let admin = server.connect("postgres").await.unwrap();
    let db = server.database("shop").await.unwrap();
    shop(&db, &receiver).await;
    delivers(&db, &receiver).await;
    let dispatcher = wait_for_pid(&admin, Some("shop"), 0).await;
    let mut launcher = wait_for_pid(&admin, None, 0).await;
    for _ in 0..3 {
        terminate(&admin, launcher).await;
        launcher = wait_for_pid(&admin, None, launcher).await;
        // The new launcher starts no second dispatcher, and worker_status() still shows the first one.
        delivers(&db, &receiver).await;
        assert_eq!(pid_of(&admin, Some("shop")).await, dispatcher);
        assert_eq!(one::<i32>(&db, "select pid from outbox.worker_status()").await, dispatcher);
    }
    // The new launcher replaces a dispatcher that an earlier launcher started.
    terminate(&admin, dispatcher).await;
    wait_for_pid(&admin, Some("shop"), dispatcher).await;
    delivers(&db, &receiver).await;
    // All processes are terminated at once.
    admin
        .batch_execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
        .await
        .unwrap();
    wait_for_pid(&admin, None, launcher).await;
    let db = server.connect("shop").await.unwrap();
    delivers(&db, &receiver).await;
    // A database that is created later gets its dispatcher as well.
    let later = server.database("later").await.unwrap();
    shop(&later, &receiver).await;
    delivers(&later, &receiver).await;
    let messages: i64 = one(&db, "select count(*) from outbox.attempt").await;
    settle(&db).await;
    assert_eq!(messages, one::<i64>(&db, "select count(distinct message_id) from outbox.attempt").await, "none twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_takes_the_server_along_and_comes_back_with_it() {
    let receiver = Receiver::start().unwrap();
    let server = Server::start(&[("restart_after_crash", "on")]).await.unwrap();
    for victim in [None, Some("shop")] {
        let admin =
            wait_for("the server takes connections", PATIENCE, async || server.connect("postgres").await.ok()).await;
        let db = match victim {
            None => server.database("shop").await.unwrap(),
            Some(name) => server.connect(name).await.unwrap(),
        };
        if victim.is_none() {
            shop(&db, &receiver).await;
        }
        delivers(&db, &receiver).await;
        signal(wait_for_pid(&admin, victim, 0).await as u32, "KILL").unwrap();
        wait_until("the server has noticed", PATIENCE, async || admin.is_closed()).await;
        let db = wait_for("the server is back", PATIENCE, async || {
            let db = server.connect("shop").await.ok()?;
            db.batch_execute("select 1").await.ok().map(|()| db)
        })
        .await;
        wait_until("it can be written to", PATIENCE, async || {
            db.is_closed() || db.batch_execute("select outbox.enqueue('order.created', '{}')").await.is_ok()
        })
        .await;
        let db = wait_for("a session", PATIENCE, async || server.connect("shop").await.ok()).await;
        delivers(&db, &receiver).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_looks_at_processes_and_not_at_what_they_said_last() {
    let receiver = Receiver::start().unwrap();
    let server = Server::start(&[("pg_outbox.poll_interval", "100ms")]).await.unwrap();
    let admin = server.connect("postgres").await.unwrap();
    let db = server.database("shop").await.unwrap();
    shop(&db, &receiver).await;
    delivers(&db, &receiver).await;
    assert_eq!(check(&db, "worker").await.0, "ok");
    assert_eq!(check(&db, "launcher").await.0, "ok");

    // The stopped launcher does not start another dispatcher.
    let launcher = wait_for_pid(&admin, None, 0).await;
    let dispatcher = wait_for_pid(&admin, Some("shop"), 0).await;
    signal(launcher as u32, "STOP").unwrap();
    terminate(&admin, dispatcher).await;
    wait_until("it is gone", PATIENCE, async || pid_of(&admin, Some("shop")).await == 0).await;
    assert_eq!(check(&db, "worker").await, ("critical".to_owned(), "no dispatcher".to_owned()));
    for sql in ["select worker from outbox.stats()", "select state from outbox.worker_status()"] {
        assert_eq!(one::<String>(&db, sql).await, "none");
    }
    assert_eq!(one::<Option<i32>>(&db, "select pid from outbox.worker_status()").await, None);
    let up = "select value from outbox.metrics() where name = 'outbox_worker_up'";
    assert_eq!(one::<f64>(&db, up).await, 0.0);
    // The waiting time of messages that are committed meanwhile is reported, too.
    enqueue(&db).await;
    db.batch_execute("select pg_sleep(0.1)").await.unwrap();
    let waiting = "select value from outbox.metrics() where name = 'outbox_unnumbered_seconds'";
    assert!(one::<f64>(&db, waiting).await > 0.05);
    wait_until("it is critical that it waits", Duration::from_secs(60), async || {
        check(&db, "numbering").await.0 == "critical"
    })
    .await;
    signal(launcher as u32, "CONT").unwrap();
    wait_until("all is well", PATIENCE, async || {
        check(&db, "worker").await.0 == "ok" && check(&db, "numbering").await.0 == "ok"
    })
    .await;
    wait_until("it was delivered", PATIENCE, async || receiver.total() == 2).await;
    wait_until("it is up", PATIENCE, async || one::<f64>(&db, up).await == 1.0).await;

    // A dispatcher stands still.
    let dispatcher = wait_for_pid(&admin, Some("shop"), 0).await;
    signal(dispatcher as u32, "STOP").unwrap();
    let silent = "select coalesce((select value from outbox.metrics() where name = 'outbox_worker_silent_seconds'), 0)";
    wait_until("its silence is seen", PATIENCE, async || one::<f64>(&db, silent).await > 1.0).await;
    signal(dispatcher as u32, "CONT").unwrap();
    wait_until("it goes on", PATIENCE, async || one::<f64>(&db, silent).await < 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_waits_for_a_lock_can_be_ended_and_goes_on_afterwards() {
    let receiver = Receiver::start().unwrap();
    let mut server = Server::start(&[]).await.unwrap();
    let admin = server.connect("postgres").await.unwrap();
    let db = server.database("shop").await.unwrap();
    shop(&db, &receiver).await;
    delivers(&db, &receiver).await;
    let dispatcher = wait_for_pid(&admin, Some("shop"), 0).await;
    let launcher = wait_for_pid(&admin, None, 0).await;
    let blocker = server.connect("postgres").await.unwrap();
    blocker.batch_execute("begin; lock table pg_database in access exclusive mode").await.unwrap();
    terminate(&admin, dispatcher).await;
    terminate(&admin, launcher).await;
    // The view pg_stat_activity reads pg_database, which is locked.
    wait_until("the old ones are gone", PATIENCE, async || {
        let sql = "select count(*) from pg_stat_get_activity(null) where pid = any ($1)";
        admin.query_one(sql, &[&vec![dispatcher, launcher]]).await.unwrap().get::<_, i64>(0) == 0
    })
    .await;
    wait_until("it is seen", PATIENCE, async || {
        one::<String>(&db, "select state from outbox.worker_status()").await != "running"
    })
    .await;
    blocker.batch_execute("commit").await.unwrap();
    delivers(&db, &receiver).await;
    // The server is stopped while a dispatcher waits for the lock.
    blocker.batch_execute("begin; lock table pg_database in access exclusive mode").await.unwrap();
    terminate(&admin, one(&db, "select pid from outbox.worker_status()").await).await;
    tokio::task::block_in_place(|| server.stop(Stop::Fast)).unwrap();
    server.run().await.unwrap();
    let db = server.connect("shop").await.unwrap();
    delivers(&db, &receiver).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_that_arrive_while_a_process_ends_take_nothing_along() {
    let server = Server::start(&[]).await.unwrap();
    let receiver = Receiver::start().unwrap();
    let admin = server.connect("postgres").await.unwrap();
    let db = server.database("signals").await.unwrap();
    shop(&db, &receiver).await;
    let mut last = 0;
    for _ in 0..15 {
        last = wait_for_pid(&admin, Some("signals"), last).await;
        // A signal about every two milliseconds, until the process is gone.
        let storm = format!("while kill -TERM {last} 2>/dev/null; do sleep 0.001; done");
        let storm = tokio::task::spawn_blocking(move || std::process::Command::new("sh").args(["-c", &storm]).status());
        assert!(storm.await.unwrap().unwrap().success());
    }
    // The end of one process by a fault of its own would have ended all sessions.
    delivers(&db, &receiver).await;
    assert!(
        !server.log().contains("was terminated by signal"),
        "{}",
        outbox_harness::postgres::tail(&server.log(), 20)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_come_and_go_and_their_slots_with_them() {
    let server = Server::start(&[("pg_outbox.max_databases", "4")]).await.unwrap();
    let receiver = Receiver::start().unwrap();
    let admin = server.connect("postgres").await.unwrap();
    for round in 0..18 {
        let name = format!("ci_{round}");
        let db = server.database(&name).await.unwrap();
        wait_for_pid(&admin, Some(&name), 0).await;
        let launcher = pid_of(&admin, None).await;
        match round % 6 {
            0 => admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap(),
            1 => {
                // The next launcher finds a slot of a dropped database.
                terminate(&admin, launcher).await;
                admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
            }
            2 => {
                admin.batch_execute(&format!("drop database {name} with (force); ")).await.unwrap();
                admin.batch_execute(&format!("create database {name}")).await.unwrap();
                admin.batch_execute(&format!("drop database {name}")).await.unwrap();
            }
            3 => {
                drop(db);
                wait_until("nobody is connected", PATIENCE, async || {
                    one::<i64>(&admin, &format!("select count(*) from pg_stat_activity where datname = '{name}' and backend_type = 'client backend'")).await == 0
                })
                .await;
                admin.batch_execute(&format!("alter database {name} rename to renamed")).await.unwrap();
                admin.batch_execute("drop database renamed with (force)").await.unwrap();
            }
            4 => {
                terminate(&admin, pid_of(&admin, Some(&name)).await).await;
                admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
            }
            _ => {
                db.batch_execute("drop extension pg_outbox").await.unwrap();
                admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
            }
        }
    }
    let db = server.database("last").await.unwrap();
    shop(&db, &receiver).await;
    delivers(&db, &receiver).await;
    assert_eq!(check(&db, "worker").await.0, "ok");

    // Health names the limit only in the database that gets no slot.
    let mut all = vec![db];
    for n in 0..3 {
        all.push(server.database(&format!("more_{n}")).await.unwrap());
        wait_for_pid(&admin, Some(&format!("more_{n}")), 0).await;
    }
    let fifth = server.database("fifth").await.unwrap();
    wait_until("it is named", PATIENCE, async || {
        check(&fifth, "worker").await == ("critical".to_owned(), "pg_outbox.max_databases".to_owned())
    })
    .await;
    for db in &all {
        assert_eq!(check(db, "worker").await.0, "ok");
    }
    for _ in 0..10 {
        server.database("short").await.unwrap();
        admin.batch_execute("drop database short with (force)").await.unwrap();
    }
    assert_eq!(server.log().matches("no free slot; raise pg_outbox.max_databases").count(), 1, "said once");
    admin.batch_execute("drop database more_0 with (force)").await.unwrap();
    wait_until("it has one", PATIENCE, async || check(&fifth, "worker").await.0 == "ok").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_allows_no_connections_for_a_while_has_its_dispatcher_back() {
    let server = Server::start(&[]).await.unwrap();
    let receiver = Receiver::start().unwrap();
    let admin = server.connect("postgres").await.unwrap();
    let db = server.database("shop").await.unwrap();
    shop(&db, &receiver).await;
    delivers(&db, &receiver).await;
    for (change, back) in [
        ("allow_connections false", "allow_connections true"),
        ("is_template true", "is_template false"),
        ("connection limit 0", "connection limit -1"),
    ] {
        admin.batch_execute(&format!("alter database shop {change}")).await.unwrap();
        terminate(&admin, wait_for_pid(&admin, Some("shop"), 0).await).await;
        if change.starts_with("allow") {
            wait_until("it is named", PATIENCE, async || {
                check(&db, "worker").await == ("critical".to_owned(), "this database allows no connections".to_owned())
            })
            .await;
        } else {
            delivers(&db, &receiver).await;
        }
        admin.batch_execute(&format!("alter database shop {back}")).await.unwrap();
        delivers(&db, &receiver).await;
    }
}

/// Statements that PostgreSQL refuses to a role, and statements that fail and that a role may repeat without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_without_the_right_to_keeps_a_dispatcher_away() {
    let server = Server::start(&[]).await.unwrap();
    let receiver = Receiver::start().unwrap();
    let admin = server.connect("postgres").await.unwrap();
    let db = server.database("prod").await.unwrap();
    shop(&db, &receiver).await;
    delivers(&db, &receiver).await;
    admin
        .batch_execute("create role nobody login password 'x'; create role creator login password 'x' createdb")
        .await
        .unwrap();
    admin.batch_execute("create database other owner creator").await.unwrap();
    let session = async |role: &str| {
        let dsn = server.dsn("postgres").replace(&format!("postgres:{}@", server.password()), &format!("{role}:x@"));
        connect(&dsn).await.unwrap()
    };
    let nobody = session("nobody").await;
    let creator = session("creator").await;
    let before = wait_for_pid(&admin, Some("prod"), 0).await;
    let refused = async |db: &Client, statement: &str| {
        assert!(db.batch_execute(statement).await.is_err(), "{statement}");
    };
    for statement in [
        "drop database prod",
        "drop database prod with (force)",
        "alter database prod rename to x",
        "alter database prod set tablespace pg_default",
        "create database x template prod",
        "do $$ begin execute 'drop database prod'; exception when others then null; end $$; alter database prod rename to y",
    ] {
        refused(&nobody, statement).await;
        refused(&creator, statement).await;
    }
    // A superuser issues these statements inside a transaction or a DO block, where PostgreSQL refuses them to everybody.
    refused(&admin, "begin; drop database prod").await;
    admin.batch_execute("rollback").await.unwrap();
    refused(&admin, "do $$ begin execute 'create database x template prod'; end $$").await;
    assert_eq!(wait_for_pid(&admin, Some("prod"), 0).await, before, "it never left");

    // The owner keeps the dispatcher away until the end of the subtransaction, not longer.
    admin.batch_execute("begin; savepoint a").await.unwrap();
    refused(&admin, "alter database prod rename to other").await;
    admin.batch_execute("rollback to a").await.unwrap();
    delivers(&db, &receiver).await;
    admin.batch_execute("commit").await.unwrap();

    // Every role with CREATEDB may copy a template, and so may ask its dispatcher to leave without end.
    admin.batch_execute("alter database prod is_template true").await.unwrap();
    let mut loops = Vec::new();
    for (n, statement) in
        ["create database postgres template prod", "create database x template prod lc_collate 'nonsense'"]
            .into_iter()
            .cycle()
            .take(4)
            .enumerate()
    {
        let creator = session("creator").await;
        loops.push(tokio::spawn(async move {
            loop {
                assert!(creator.batch_execute(statement).await.is_err(), "{n}");
            }
        }));
    }
    for _ in 0..20 {
        let waited = std::time::Instant::now();
        delivers(&db, &receiver).await;
        assert!(waited.elapsed() < Duration::from_secs(15), "{:?}", waited.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for one in loops {
        assert!(!one.is_finished());
        one.abort();
    }
    drop(db);
    // The template can be copied.
    wait_until("nobody else is connected", PATIENCE, async || {
        one::<i64>(
            &admin,
            "select count(*) from pg_stat_activity where datname = 'prod' and backend_type = 'client backend'",
        )
        .await
            == 0
    })
    .await;
    let creator = session("creator").await;
    for n in 0..3 {
        creator.batch_execute(&format!("create database copy_{n} template prod")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_extension_changes_hands_and_delivery_goes_on() {
    let server = Server::start(&[]).await.unwrap();
    let receiver = Receiver::start().unwrap();
    let admin = server.connect("postgres").await.unwrap();
    let db = server.empty_database("handed").await.unwrap();
    db.batch_execute("create role dba1 superuser; set role dba1; create extension pg_outbox; reset role")
        .await
        .unwrap();
    shop(&db, &receiver).await;
    delivers(&db, &receiver).await;
    let before = wait_for_pid(&admin, Some("handed"), 0).await;
    for change in [
        "alter role dba1 rename to dba2",
        "alter role dba2 nosuperuser",
        "alter role dba2 superuser",
        "create role dba3 superuser; reassign owned by dba2 to dba3; drop role dba2",
    ] {
        for _ in 0..10 {
            enqueue(&db).await;
        }
        db.batch_execute(change).await.unwrap();
        delivers(&db, &receiver).await;
    }
    // The owner changes in the middle of requests.
    receiver.on("/hook", |_, _| outbox_harness::Reply::status(200).after(Duration::from_millis(100)));
    db.batch_execute("select outbox.enqueue('order.created', '{}') from generate_series(1, 300)").await.unwrap();
    wait_until("they are on their way", PATIENCE, async || receiver.total() > 60).await;
    db.batch_execute("create role dba4 superuser; reassign owned by dba3 to dba4; drop role dba3").await.unwrap();
    settle(&db).await;
    assert_eq!(pid_of(&admin, Some("handed")).await, before, "the process is the same");
    let sent: i64 = one(&db, "select count(*) from outbox.message where topic like 'order.%'").await;
    assert_eq!(receiver.total() as i64, sent, "none twice");
}

/// Neither the end of the dispatcher nor the stop of the server waits for a standby that is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_waits_for_a_standby_does_not_keep_a_dispatcher_from_ending() {
    let mut server = Server::start(&[]).await.unwrap();
    let receiver = Receiver::start().unwrap();
    let admin = server.connect("postgres").await.unwrap();
    let db = server.database("alone").await.unwrap();
    shop(&db, &receiver).await;
    delivers(&db, &receiver).await;
    for statement in [
        "set synchronous_commit = local",
        "alter system set synchronous_standby_names = 'nobody'",
        "select pg_reload_conf()",
    ] {
        db.batch_execute(statement).await.unwrap();
    }
    enqueue(&db).await;
    let waits =
        "select count(*) from pg_stat_activity where backend_type = 'pg_outbox dispatcher' and wait_event = 'SyncRep'";
    wait_until("it waits for the standby", PATIENCE, async || one::<i64>(&db, waits).await == 1).await;
    let before = wait_for_pid(&admin, Some("alone"), 0).await;
    terminate(&admin, before).await;
    wait_for_pid(&admin, Some("alone"), before).await;
    enqueue(&db).await;
    wait_until("the next one waits", PATIENCE, async || one::<i64>(&db, waits).await == 1).await;
    drop((admin, db));
    tokio::task::block_in_place(|| server.stop(Stop::Fast)).unwrap();
    assert!(server.pid().is_err(), "it has ended");
}

/// Sets every setting that a user can change to an odd value with ALTER DATABASE, and some with ALTER SYSTEM.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_a_database_do_not_reach_its_dispatcher() {
    let server = Server::start(&[("log_min_messages", "warning")]).await.unwrap();
    let receiver = Receiver::start().unwrap();
    let admin = server.connect("postgres").await.unwrap();
    let db = server.database("odd").await.unwrap();
    db.batch_execute("create role stranger; create table own (id int)").await.unwrap();
    shop(&db, &receiver).await;
    delivers(&db, &receiver).await;
    // The extension's own settings are meant for the dispatcher. The logging settings only concern the log, and enlarge it.
    let settings = db
        .query(
            "select name, vartype, min_val, max_val, enumvals, boot_val, setting from pg_settings
            where context in ('user', 'superuser') and name not like 'pg_outbox.%' and name not like 'log_%'
                and name not like 'debug_print%' and name not like 'trace_%'
                and name not in ('session_authorization', 'max_stack_depth', 'zero_damaged_pages', 'seed', 'wal_consistency_checking')
            order by name",
            &[],
        )
        .await
        .unwrap();
    let mut odd: Vec<(String, String)> = Vec::new();
    for row in &settings {
        let name: String = row.get(0);
        let text = |i: usize| row.get::<_, Option<String>>(i).unwrap_or_default();
        let boot = text(5);
        let values: Vec<String> = match row.get::<_, &str>(1) {
            "bool" => vec![if boot == "on" { "off" } else { "on" }.to_owned()],
            "enum" => row.get::<_, Vec<String>>(4).into_iter().filter(|value| *value != boot).collect(),
            "integer" | "real" => vec![text(2), text(3)],
            _ => match name.as_str() {
                "role" => vec!["stranger".to_owned()],
                "search_path" => vec!["pg_temp, nowhere".to_owned(), String::new()],
                "client_encoding" => vec!["LATIN1".to_owned()],
                "DateStyle" => vec!["SQL, DMY".to_owned(), "German".to_owned()],
                "TimeZone" => vec!["Asia/Kathmandu".to_owned(), "Pacific/Apia".to_owned()],
                "restrict_nonsystem_relation_kind" => vec!["view, foreign-table".to_owned()],
                "default_table_access_method" | "default_tablespace" | "temp_tablespaces" => continue,
                _ => continue,
            },
        };
        odd.extend(values.into_iter().map(|value| (name.clone(), value)));
    }
    assert!(odd.len() > 150, "{}", odd.len());
    // The loop above takes the smallest and the largest value, so the short time-outs are added here.
    for name in [
        "statement_timeout",
        "lock_timeout",
        "transaction_timeout",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
        "deadlock_timeout",
    ] {
        if odd.iter().any(|(known, _)| known == name) {
            odd.push((name.to_owned(), "1".to_owned()));
        }
    }
    for batch in odd.chunks(12) {
        let mut set = Vec::new();
        for (name, value) in batch {
            // PostgreSQL refuses some of the values.
            let literal = value.replace('\'', "''");
            let value = if name == "search_path" { literal } else { format!("'{literal}'") };
            let value = if value.is_empty() { "''".to_owned() } else { value };
            if admin.batch_execute(&format!("alter database odd set {name} = {value}")).await.is_ok() {
                set.push(format!("{name} = {value}"));
            }
        }
        terminate(&admin, wait_for_pid(&admin, Some("odd"), 0).await).await;
        // This session is older than the settings, so it does not have them.
        let before = receiver.total();
        enqueue(&db).await;
        let delivered = async {
            while receiver.total() == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, delivered).await.is_ok();
        assert!(in_time, "not delivered with {set:?}\n{}", outbox_harness::postgres::tail(&server.log(), 20));
        assert_eq!(check(&db, "worker").await.0, "ok", "{set:?}");
        db.batch_execute("select from outbox.maintain()").await.unwrap();
        admin.batch_execute("alter database odd reset all").await.unwrap();
    }
    // Settings of the whole server reach the launcher as well. This session overrides them first.
    let _ = db.batch_execute("set transaction_timeout = 0").await;
    db.batch_execute(
        "set idle_session_timeout = 0; set statement_timeout = 0; set default_transaction_read_only = off",
    )
    .await
    .unwrap();
    for change in [
        "transaction_timeout = 1",
        "idle_session_timeout = 1",
        "statement_timeout = 1",
        "exit_on_error = on",
        "default_transaction_isolation = serializable",
        "default_transaction_read_only = on",
    ] {
        // Versions before PostgreSQL 17 do not know transaction_timeout.
        let _ = db.batch_execute(&format!("alter system set {change}")).await;
    }
    db.batch_execute("select pg_reload_conf()").await.unwrap();
    for kind in ["launcher", "dispatcher"] {
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'pg_outbox ' || $1";
        db.execute(sql, &[&kind]).await.unwrap();
    }
    let before = receiver.total();
    enqueue(&db).await;
    wait_until("it is delivered", PATIENCE, async || receiver.total() > before).await;
    wait_until("the launcher runs", PATIENCE, async || check(&db, "launcher").await.0 == "ok").await;
}
