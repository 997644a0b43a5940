//! The launcher and the dispatchers come back whatever ends them, nobody without rights keeps them away, and health tells the truth
//! about processes that live and messages that wait.

use std::time::Duration;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Server, connect, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, refused, settle};

async fn start() -> Server {
    Server::start(&[
        ("pg_outbox.poll_interval", "1s"),
        ("max_worker_processes", "40"),
        ("pg_outbox.max_databases", "4"),
    ])
    .await
    .unwrap()
}

async fn shop(server: &Server, name: &str, receiver: &Receiver) -> Client {
    let db = server.database(name).await.unwrap();
    db.execute("select outbox.create_endpoint('shop', $1)", &[&receiver.url("/shop")]).await.unwrap();
    db.batch_execute("select outbox.subscribe('orders', '{order}', 'shop')").await.unwrap();
    settle(&db).await;
    db
}

/// A message arrives.
async fn delivers(db: &Client, receiver: &Receiver) {
    let id: i64 = one(db, "select outbox.enqueue('order', '{}')").await;
    let webhook_id: String =
        one(db, &format!("select outbox.webhook_id(m.id, m.enqueued_at) from outbox.message m where m.id = {id}"))
            .await;
    wait_until("the message arrives", PATIENCE, async || {
        receiver.arrivals().iter().any(|arrival| arrival.webhook_id() == webhook_id)
    })
    .await;
}

async fn pid(db: &Client) -> Option<i32> {
    one(db, "select pid from outbox.worker_status()").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_terminated_comes_back_and_health_says_so_meanwhile() {
    let server = start().await;
    let receiver = Receiver::start().unwrap();
    let db = shop(&server, "terminated", &receiver).await;
    let launcher = "select launcher_pid from outbox.worker_status()";
    for kill in [
        "select pg_terminate_backend(launcher_pid) from outbox.worker_status()",
        "select pg_terminate_backend(pid) from outbox.worker_status()",
        "select pg_terminate_backend(launcher_pid), pg_terminate_backend(pid) from outbox.worker_status()",
        "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()",
    ] {
        let before = (one::<Option<i32>>(&db, launcher).await, pid(&db).await);
        db.batch_execute(kill).await.unwrap();
        wait_until("what was terminated is gone", PATIENCE, async || {
            (one::<Option<i32>>(&db, launcher).await, pid(&db).await) != before
        })
        .await;
        delivers(&db, &receiver).await;
        wait_until("all is well again", PATIENCE, async || {
            one::<i64>(&db, "select count(*) from outbox.health() where state <> 'ok'").await == 0
        })
        .await;
        assert!(one::<Option<i32>>(&db, launcher).await.is_some(), "{kill}");
    }
    // Nobody there is nobody, whatever was stored: none starts while the database takes no connections.
    let other = server.connect("postgres").await.unwrap();
    other.batch_execute("alter database terminated allow_connections false").await.unwrap();
    db.batch_execute("select pg_terminate_backend(pid) from outbox.worker_status()").await.unwrap();
    wait_until("health is critical", PATIENCE, async || {
        let state = one::<String>(&db, "select state from outbox.health() where \"check\" = 'worker'").await;
        state == "critical" && one::<String>(&db, "select worker from outbox.stats()").await == "none"
    })
    .await;
    let up: f64 = one(&db, "select value from outbox.metrics() where name = 'outbox_worker_up'").await;
    assert_eq!(up, 0.0);
    other.batch_execute("alter database terminated allow_connections true").await.unwrap();
    db.batch_execute("create extension if not exists pg_outbox").await.unwrap();
    other
        .batch_execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'pg_outbox launcher'",
        )
        .await
        .unwrap();
    delivers(&db, &receiver).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_without_rights_keeps_a_dispatcher_away() {
    let server = start().await;
    let receiver = Receiver::start().unwrap();
    let db = shop(&server, "prod", &receiver).await;
    db.batch_execute("create role nobody login; create role maker login createdb; create role owner login createdb")
        .await
        .unwrap();
    let dispatcher = pid(&db).await;
    let dsn = |role: &str| {
        server
            .dsn("postgres")
            .replace("postgres://postgres", &format!("postgres://{role}"))
            .replace("postgresql://postgres", &format!("postgresql://{role}"))
    };
    let password = server.password().to_owned();
    db.batch_execute(&format!("alter role nobody password '{password}'; alter role maker password '{password}'; alter role owner password '{password}'"))
        .await
        .unwrap();
    for role in ["nobody", "maker"] {
        let session = connect(&dsn(role)).await.unwrap();
        for statement in [
            "drop database prod",
            "drop database if exists prod with (force)",
            "alter database prod rename to stolen",
            "alter database prod set tablespace pg_default",
            "create database copy template prod",
            "do $$ begin execute 'alter database prod rename to stolen'; exception when others then null; end $$",
        ] {
            let _ = session.batch_execute(statement).await;
            assert_eq!(pid(&db).await, dispatcher, "{role}: {statement}");
        }
    }
    // Who may copy a template has it leave now and then, and not in a loop.
    let admin = server.connect("postgres").await.unwrap();
    admin.batch_execute("alter database prod is_template true").await.unwrap();
    let session = connect(&dsn("maker")).await.unwrap();
    let mut seen = std::collections::HashSet::from([dispatcher]);
    for n in 0..10 {
        let _ = session.batch_execute(&format!("create database copy{n} template prod")).await;
        seen.insert(pid(&db).await);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    delivers(&db, &receiver).await;
    seen.insert(pid(&db).await);
    seen.remove(&None);
    assert!(seen.len() <= 3, "{seen:?}");
    admin.batch_execute("alter database prod is_template false; alter database prod owner to owner").await.unwrap();
    // The owner's statements find nobody connected, and the dispatcher is back at once.
    drop(db);
    let session = connect(&dsn("owner")).await.unwrap();
    wait_until("it is renamed", PATIENCE, async || {
        session.batch_execute("alter database prod rename to renamed").await.is_ok()
    })
    .await;
    let db = server.connect("renamed").await.unwrap();
    delivers(&db, &receiver).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_that_come_and_go_leave_their_slots_to_others() {
    let server = start().await;
    let receiver = Receiver::start().unwrap();
    let admin = server.connect("postgres").await.unwrap();
    for n in 0..12 {
        let name = format!("branch{n}");
        let db = shop(&server, &name, &receiver).await;
        delivers(&db, &receiver).await;
        drop(db);
        let force = if n % 2 == 0 { " with (force)" } else { "" };
        wait_until("it is dropped", PATIENCE, async || {
            admin.batch_execute(&format!("drop database {name}{force}")).await.is_ok()
        })
        .await;
    }
    // Four have one, the fifth is told by which setting it has none.
    let mut all = Vec::new();
    for n in 0..4 {
        all.push(shop(&server, &format!("full{n}"), &receiver).await);
    }
    let fifth = server.database("fifth").await.unwrap();
    wait_until("the limit is named", PATIENCE, async || {
        one::<Option<String>>(&fifth, "select culprit from outbox.health() where \"check\" = 'worker'").await.as_deref()
            == Some("pg_outbox.max_databases")
    })
    .await;
    drop(all);
    wait_until("one is dropped", PATIENCE, async || {
        admin.batch_execute("drop database full0 with (force)").await.is_ok()
    })
    .await;
    wait_until("the fifth has its dispatcher", PATIENCE, async || pid(&fifth).await.is_some()).await;
    assert_eq!(server.log().matches("cannot start a dispatcher").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_owner_of_the_extension_changes_nothing_for_messages() {
    let server = start().await;
    let receiver = Receiver::start().unwrap();
    let db = server.empty_database("owned").await.unwrap();
    db.batch_execute(
        "create role dba1 superuser; create role dba2 superuser; set role dba1; create extension pg_outbox; reset role",
    )
    .await
    .unwrap();
    db.execute("select outbox.create_endpoint('shop', $1)", &[&receiver.url("/shop")]).await.unwrap();
    db.batch_execute("select outbox.subscribe('orders', '{order}', 'shop')").await.unwrap();
    delivers(&db, &receiver).await;
    for change in [
        "alter role dba1 rename to dba9",
        "alter role dba9 nosuperuser",
        "alter role dba9 superuser; reassign owned by dba9 to dba2; drop role dba9",
        "reassign owned by dba2 to postgres; drop role dba2",
    ] {
        db.batch_execute(change).await.unwrap();
        delivers(&db, &receiver).await;
    }
    settle(&db).await;
    let ids: Vec<String> = receiver.arrivals().iter().map(|arrival| arrival.webhook_id().to_owned()).collect();
    let distinct: std::collections::HashSet<&String> = ids.iter().collect();
    assert_eq!(ids.len(), distinct.len(), "nothing twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_setting_of_a_database_or_role_keeps_messages_from_being_delivered() {
    let server = start().await;
    let receiver = Receiver::start().unwrap();
    let db = shop(&server, "odd_settings", &receiver).await;
    let admin = server.connect("postgres").await.unwrap();
    admin.batch_execute("create role odd nologin").await.unwrap();
    // The far end of each range, the last of each enumeration, the other of two: but for what is about all of the server.
    let odd = admin
        .query(
            "select name, case vartype
                when 'bool' then case when boot_val = 'on' then 'off' else 'on' end
                when 'enum' then enumvals[case when enumvals[1] = boot_val then array_length(enumvals, 1) else 1 end]
                when 'integer' then case when name ~ 'timeout' then '5' when boot_val = min_val then least(max_val::numeric, 1000)::text else min_val end
                when 'real' then case when boot_val = min_val then '1' else min_val end
            end
            from pg_settings
            where context in ('user', 'superuser') and vartype <> 'string' and name !~ '^pg_outbox|^log_|^debug_|^trace_|^wal_|^zero_damaged|^ignore_|^allow_in_place|commit|^jit_|^track_|^backtrace|^vacuum|_flush_after|^compute_|^stats_fetch'
            order by name",
            &[],
        )
        .await
        .unwrap();
    let mut set = 0;
    let admin2 = server.connect("postgres").await.unwrap();
    for part in odd.chunks(12) {
        for row in part {
            let (name, value): (String, Option<String>) = (row.get(0), row.get(1));
            let Some(value) = value else { continue };
            set += u32::from(
                admin2.batch_execute(&format!("alter database odd_settings set {name} = '{value}'")).await.is_ok(),
            );
        }
        admin2
            .batch_execute("alter database odd_settings set role = odd; alter database odd_settings set search_path = '';
                alter database odd_settings set timezone = 'Asia/Kathmandu'; alter database odd_settings set datestyle = 'sql, dmy'")
            .await
            .unwrap();
        let before = pid(&db).await;
        db.batch_execute("select pg_terminate_backend(pid) from outbox.worker_status()").await.unwrap();
        wait_until("another dispatcher runs", PATIENCE, async || pid(&db).await.is_some_and(|now| Some(now) != before))
            .await;
        delivers(&db, &receiver).await;
        wait_until("it runs", PATIENCE, async || {
            one::<String>(&db, "select state from outbox.worker_status()").await == "running"
        })
        .await;
        admin2.batch_execute("alter database odd_settings reset all").await.unwrap();
    }
    assert!(set > 100, "{set} settings");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_is_refused_at_once() {
    let server = start().await;
    let admin = server.connect("postgres").await.unwrap();
    for encoding in ["LATIN1", "SQL_ASCII", "EUC_JP"] {
        let name = format!("enc_{}", encoding.to_lowercase());
        admin
            .batch_execute(&format!("create database {name} encoding '{encoding}' locale 'C' template template0"))
            .await
            .unwrap();
        let db = server.connect(&name).await.unwrap();
        let error = refused(&db, "create extension pg_outbox").await;
        assert_eq!(error.code().code(), "0A000");
        assert!(error.message().contains("UTF8"), "{error:?}");
    }
    let error = refused(&admin, "set pg_outbox.egress_port = '443'").await;
    assert_eq!(error.code().code(), "42602", "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_names_what_waits_for_somebody() {
    let server = start().await;
    let db = server.database("waits").await.unwrap();
    db.batch_execute("select outbox.subscribe('jobs', '{job}'); select outbox.enqueue('job', '{}', priority => 3)")
        .await
        .unwrap();
    settle(&db).await;
    let check = async |name: &str| {
        one::<String>(&db, &format!("select state from outbox.health() where \"check\" = '{name}'")).await
    };
    assert_eq!(check("workers").await, "ok");
    db.batch_execute("update outbox.delivery set due_at = due_at - interval '10 min'").await.unwrap();
    assert_eq!(check("workers").await, "warning");
    db.batch_execute("select outbox.complete(lease) from outbox.claim('jobs', 'w', 10)").await.unwrap();
    assert_eq!(check("workers").await, "ok");
    // A message that is committed, and that nobody numbers.
    assert_eq!(check("sequencer").await, "ok");
    let admin = server.connect("postgres").await.unwrap();
    admin.batch_execute("alter database waits allow_connections false").await.unwrap();
    db.batch_execute("select pg_terminate_backend(pid) from outbox.worker_status()").await.unwrap();
    wait_until("it is gone", PATIENCE, async || pid(&db).await.is_none()).await;
    db.batch_execute("select outbox.enqueue('job', '{}'); begin; set local session_replication_role = replica;
        update outbox.message set enqueued_at = enqueued_at - interval '2 min' where id = (select max(id) from outbox.message); commit")
        .await
        .unwrap();
    assert_eq!(check("sequencer").await, "critical");
    admin.batch_execute("alter database waits allow_connections true").await.unwrap();
    admin
        .batch_execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'pg_outbox launcher'",
        )
        .await
        .unwrap();
    wait_until("it is numbered", PATIENCE, async || check("sequencer").await == "ok").await;
}
