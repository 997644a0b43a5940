//! Dumps, restores and copies lose nothing and use no position twice. A copy pushes nothing until it is adopted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, rows, server, settle};

/// Returns everything that a restore must bring along, as text.
async fn inventory(db: &Client) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (what, query) in [
        (
            "messages",
            "select string_agg(format('%s %s %s', m.segment, m.id, m.topic), ',' order by m.id) from outbox.message m",
        ),
        (
            "feed",
            "select string_agg(format('%s-%s', f.first_position, f.message_ids), ',' order by 1) from outbox.feed f",
        ),
        (
            "deliveries",
            "select string_agg(format('%s %s %s %s', d.subscription_id, d.position, d.state, d.attempt), ',' order by d.id) from outbox.delivery d",
        ),
        (
            "dead",
            "select string_agg(format('%s %s', l.subscription_id, l.position), ',' order by l.id) from outbox.dead_letter l",
        ),
        (
            "bundles",
            "select string_agg(format('%s %s %s %s', b.subscription_id, b.positions, b.delivery_ids, b.lease), ',' order by b.id) from outbox._bundle b",
        ),
        ("leases", "select string_agg(format('%s %s', l.id, l.worker), ',' order by l.id) from outbox.lease l"),
        (
            "cursors",
            "select string_agg(format('%s %s %s', c.consumer, c.position, c.epoch), ',' order by 1) from outbox.cursor c",
        ),
        (
            "processes",
            "select format('%s %s %s %s', (select jsonb_agg(to_jsonb(c)) from outbox.command c),
                (select jsonb_agg(to_jsonb(s)) from outbox.snapshot s), (select jsonb_agg(to_jsonb(s)) from outbox._saga s),
                (select jsonb_agg(to_jsonb(e)) from outbox._saga_event e))",
        ),
        (
            "events",
            "select format('%s %s %s %s %s', (select jsonb_agg(to_jsonb(s)) from outbox.event_schema s),
                (select jsonb_agg(to_jsonb(u)) from outbox.upcaster u), (select jsonb_agg(to_jsonb(p)) from outbox._projection p),
                (select jsonb_agg(to_jsonb(k)) from outbox._subject_key k),
                (select jsonb_agg(to_jsonb(c)) from outbox.revocation_certificate c))",
        ),
        ("attempts", "select count(*)::text from outbox.attempt"),
        ("secrets", "select md5(string_agg(s.secret, ',' order by s.endpoint_id)) from outbox.endpoint_secret s"),
        (
            "next ids",
            "select format('%s %s', (select last_value from outbox._message_id), (select last_value from outbox.delivery_id_seq))",
        ),
        (
            "grants",
            "select has_function_privilege('restore_app', oid, 'execute')::text from pg_proc where proname = 'tail' and pronamespace = 'outbox'::regnamespace",
        ),
    ] {
        all.insert(what.to_owned(), one::<Option<String>>(db, query).await.unwrap_or_default());
    }
    all
}

/// Creates a database that has delivered, failed, dead, leased, read, and not yet numbered messages.
async fn busy_database(server: &Server, name: &str, receiver: &Receiver) -> (Client, Client) {
    receiver.on("/flaky", |_, _| Reply::status(503));
    receiver.on("/bad", |_, _| Reply::status(400));
    let db = server.database(name).await.unwrap();
    db.batch_execute(
        "do $$ begin create role restore_app; exception when duplicate_object or unique_violation then end $$;
        select outbox.grant_to('restore_app', 'monitor')",
    )
    .await
    .unwrap();
    for (endpoint, topics, path) in
        [("good", "order.#", "/good"), ("flaky", "flaky.#", "/flaky"), ("bad", "bad.#", "/bad")]
    {
        db.execute("select outbox.create_endpoint($1, $2)", &[&endpoint, &receiver.url(path)]).await.unwrap();
        // No retry is due while the dump is taken, which must show what the inventory shows.
        db.execute("select outbox.subscribe($1, array[$2], $1, schedule => '[3600]')", &[&endpoint, &topics])
            .await
            .unwrap();
    }
    db.batch_execute("select outbox.subscribe('pulled', '{pull.#}')").await.unwrap();
    for (topic, count) in [("order.created", 50), ("flaky.x", 5), ("bad.x", 3), ("pull.x", 4)] {
        db.execute("select outbox.enqueue($1, '{}') from generate_series(1, $2::int)", &[&topic, &count])
            .await
            .unwrap();
    }
    db.batch_execute(
        "select outbox.append('account-' || n % 3, 'account.changed', '{}') from generate_series(1, 20) n",
    )
    .await
    .unwrap();
    settle(&db).await;
    wait_until("workers have something to claim", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.delivery where pull").await == 4
    })
    .await;
    db.batch_execute("select * from outbox.claim('pulled', 'w1', 2, '1 h')").await.unwrap();
    db.batch_execute("select outbox.cursor_advance('projection', 7)").await.unwrap();
    db.batch_execute(
        "create function public.see(events outbox.event[]) returns void language sql as $$ select $$;
        create function public.newer(data jsonb) returns jsonb language sql immutable as $$ select data $$;
        select outbox.command_begin('k', 'Pay'), outbox.save_snapshot('account-1', 1, '{}'), outbox.saga_save('t', 's', '{}', 0),
            outbox.saga_handle('t', 's', 1), outbox.register_schema('a.b', '{}'),
            outbox.create_upcaster('a.b', 1, 'public.newer(jsonb)'),
            outbox.create_projection('p', 'public.see(outbox.event[])'),
            outbox.save_subject_key('customer', 'k', '\\x000102030405060708090a0b0c0d0e0f', 'm'),
            outbox.revoke_subject_keys('customer', reason => 'x')",
    )
    .await
    .unwrap();
    // These messages are committed and get no position, because the sequencer is locked out.
    let holder = server.connect(name).await.unwrap();
    holder.batch_execute("begin; lock table outbox._sequencer in exclusive mode").await.unwrap();
    db.batch_execute("select outbox.enqueue('order.created', '{\"late\": true}') from generate_series(1, 10)")
        .await
        .unwrap();
    db.batch_execute("select outbox.append('account-' || n % 3, 'account.changed', '{}') from generate_series(1, 5) n")
        .await
        .unwrap();
    (db, holder)
}

/// Counts the arrivals at the endpoint that answers 200.
fn good(receiver: &Receiver) -> usize {
    receiver.arrivals().iter().filter(|a| a.path == "/good").count()
}

/// Checks that the copy waits and reports it, and that it goes on after adopt() where the original was.
async fn waits_and_is_adopted(copy: &Client, original: &BTreeMap<String, String>, receiver: &Receiver) {
    assert_eq!(&inventory(copy).await, original);
    wait_until("the copy knows what it is", PATIENCE, async || {
        one::<String>(copy, "select state from outbox.worker_status()").await == "copied"
    })
    .await;
    // The original is alive, so the attempts are counted in the copy.
    let tries = "select count(*) from outbox.attempt";
    let (before, tried) = (good(receiver), one::<i64>(copy, tries).await);
    let found =
        rows(copy, "select h.check, h.state, what_to_do from outbox.health() h where h.check = 'identity'").await;
    assert_eq!(found[0]["state"].as_deref(), Some("critical"));
    assert!(found[0]["what_to_do"].as_deref().unwrap_or_default().contains("outbox.adopt("));
    // The copy neither sends due deliveries, nor numbers new messages, nor removes anything.
    copy.batch_execute("update outbox.delivery set due_at = now() where not pull").await.unwrap();
    copy.batch_execute("select outbox.enqueue('order.created', '{\"local\": true}')").await.unwrap();
    copy.batch_execute("select outbox.append('account-0', 'account.changed', '{}')").await.unwrap();
    let head: i64 = one(copy, "select outbox.head()").await;
    assert_eq!(rows(copy, "select * from outbox.maintain()").await.len(), 0);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!((good(receiver), one::<i64>(copy, tries).await), (before, tried), "a copy sends nothing");
    assert_eq!(one::<i64>(copy, "select outbox.head()").await, head);

    let good_before = good(receiver);
    assert_eq!(one::<i64>(copy, "select outbox.adopt('test')").await, head + 17, "the late ones and the local ones");
    settle(copy).await;
    wait_until("the eleven have arrived", PATIENCE, async || good(receiver) == good_before + 11).await;
    // No position and no message appears twice, and every message has a position.
    let gaps: i64 = one(
        copy,
        "select count(*) from (select first_position, lag(last_position, 1, 0::bigint) over (order by first_position) as before
        from outbox.feed) f where first_position <> before + 1",
    )
    .await;
    assert_eq!(gaps, 0);
    let twice: i64 =
        one(copy, "select count(*) - count(distinct id) from (select unnest(message_ids) as id from outbox.feed) f")
            .await;
    assert_eq!(twice, 0);
    let without: i64 =
        one(copy, "select count(*) from outbox.message where id not in (select unnest(message_ids) from outbox.feed)")
            .await;
    assert_eq!(without, 0);
    assert_eq!(one::<i32>(copy, "select max(epoch) from outbox.epoch").await, 2);
    // Streams go on, and no event was lost.
    let versions = "select array_agg(v order by v) from (select stream || ' ' || version as v from outbox.streams()) s";
    assert_eq!(one::<Vec<String>>(copy, versions).await, ["account-0 8", "account-1 9", "account-2 9"]);
    assert_eq!(one::<i64>(copy, "select count(*) from outbox.read_events(0)").await, 26);
    // New messages, workers and cursors go on.
    copy.batch_execute("select outbox.enqueue('order.created', '{}') from generate_series(1, 5)").await.unwrap();
    settle(copy).await;
    wait_until("new ones arrive", PATIENCE, async || good(receiver) == good_before + 16).await;
    assert_eq!(one::<i64>(copy, "select count(*) from outbox.claim('pulled', 'w2', 10)").await, 2);
    assert_eq!(one::<i64>(copy, "select position from outbox.cursor_advance('projection', 8)").await, 8);
    assert_eq!(one::<i64>(copy, "select outbox.adopt()").await, head + 22, "adopting twice changes nothing");
    assert_eq!(one::<i64>(copy, "select count(*) from outbox.audit where action = 'adopt'").await, 1);
    assert_eq!(
        one::<i64>(copy, "select count(*) from outbox.health() h where h.check = 'identity' and h.state = 'ok'").await,
        1
    );
}

fn run(server: &Server, program: &str, arguments: &[&str]) {
    let output = server.install.command(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Returns the path of a file that the server's user may write.
fn scratch(name: &str) -> PathBuf {
    outbox_harness::postgres::fresh_folder("dump").unwrap().join(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_in_every_format_it_waits_for_adoption_and_goes_on() {
    let receiver = Receiver::start().unwrap();
    let server = server().await;
    let (db, holder) = busy_database(server, "dumped", &receiver).await;
    let original = inventory(&db).await;
    assert_ne!(original["leases"], "");
    let (plain, custom) = (scratch("plain.sql"), scratch("custom.dump"));
    let dsn = server.dsn("dumped");
    run(server, "pg_dump", &["-f", plain.to_str().unwrap(), &dsn]);
    run(server, "pg_dump", &["-Fc", "-f", custom.to_str().unwrap(), &dsn]);

    // The target is another database of the same cluster, whose dispatcher may start at any moment of the parallel restore.
    drop(server.empty_database("restored_beside").await.unwrap());
    let target = server.dsn("restored_beside");
    run(server, "pg_restore", &["-j", "4", "-d", &target, custom.to_str().unwrap()]);
    waits_and_is_adopted(&server.connect("restored_beside").await.unwrap(), &original, &receiver).await;

    // The target is a fresh cluster, whose transaction ids are not above those of the restored messages.
    for (format, file) in [("plain", &plain), ("custom", &custom)] {
        let fresh = Server::start(&[("pg_outbox.poll_interval", "200ms")]).await.unwrap();
        fresh.connect("postgres").await.unwrap().batch_execute("create role restore_app").await.unwrap();
        drop(fresh.empty_database("restored").await.unwrap());
        let target = fresh.dsn("restored");
        match format {
            "plain" => {
                run(&fresh, "psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", file.to_str().unwrap(), &target])
            }
            _ => run(&fresh, "pg_restore", &["-e", "-d", &target, file.to_str().unwrap()]),
        }
        let copy = fresh.connect("restored").await.unwrap();
        waits_and_is_adopted(&copy, &original, &receiver).await;
        // The transaction ids of this cluster pass those of the restored messages. No restored message is numbered again.
        let head: i64 = one(&copy, "select outbox.head()").await;
        let highest: String = one(&copy, "select max(xid)::text from outbox.message").await;
        let mut burnt = 0;
        while one::<bool>(&copy, &format!("select pg_current_xact_id() < '{highest}'::xid8")).await && burnt < 20_000 {
            burnt += 1;
        }
        copy.batch_execute("select outbox.enqueue('order.created', '{}')").await.unwrap();
        settle(&copy).await;
        assert_eq!(one::<i64>(&copy, "select outbox.head()").await, head + 1);
    }
    holder.batch_execute("rollback").await.unwrap();
    settle(&db).await;
    // The original is still in its first epoch.
    assert_eq!(one::<i32>(&db, "select max(epoch) from outbox.epoch").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_made_from_a_template_waits_for_adoption() {
    let receiver = Receiver::start().unwrap();
    let server = server().await;
    let (db, holder) = busy_database(server, "template_of", &receiver).await;
    let original = inventory(&db).await;
    drop((db, holder));
    let admin = server.connect("postgres").await.unwrap();
    wait_until("nobody is connected", PATIENCE, async || {
        one::<i64>(
            &admin,
            "select count(*) from pg_stat_activity where datname = 'template_of' and backend_type = 'client backend'",
        )
        .await
            == 0
    })
    .await;
    // The dispatcher of the original may number the late messages first. Then the copy has nothing to number.
    admin.batch_execute("create database template_copy template template_of").await.unwrap();
    let copy = server.connect("template_copy").await.unwrap();
    wait_until("the copy knows what it is", PATIENCE, async || {
        one::<String>(&copy, "select state from outbox.worker_status()").await == "copied"
    })
    .await;
    assert_eq!(inventory(&copy).await["messages"], original["messages"]);
    copy.batch_execute("select outbox.adopt('a copy for staging')").await.unwrap();
    settle(&copy).await;
    let without: i64 =
        one(&copy, "select count(*) from outbox.message where id not in (select unnest(message_ids) from outbox.feed)")
            .await;
    assert_eq!(without, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outbox_that_never_ticked_is_a_copy_all_the_same() {
    let server = Server::start_plain(&[]).await.unwrap();
    let db = server.database("silent").await.unwrap();
    db.batch_execute("select outbox.enqueue('a.b', '{}') from generate_series(1, 3)").await.unwrap();
    let file = scratch("silent.sql");
    run(&server, "pg_dump", &["-f", file.to_str().unwrap(), &server.dsn("silent")]);
    drop(server.empty_database("silent_copy").await.unwrap());
    run(
        &server,
        "psql",
        &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", file.to_str().unwrap(), &server.dsn("silent_copy")],
    );
    let copy = server.connect("silent_copy").await.unwrap();
    let error = outbox_tests::refused(&copy, "select outbox.tick()").await;
    assert_eq!(error.code().code(), "55000");
    assert_eq!(one::<i64>(&copy, "select outbox.adopt()").await, 3);
    copy.batch_execute("select outbox.enqueue('a.b', '{}')").await.unwrap();
    assert_eq!(one::<i64>(&copy, "select outbox.tick()").await, 4);
    // An extension that was created inside a savepoint is no copy.
    let nested = server.empty_database("nested").await.unwrap();
    nested
        .batch_execute(
            "begin; savepoint a; create extension pg_outbox; release a; select outbox.enqueue('a.b', '{}'); commit",
        )
        .await
        .unwrap();
    assert_eq!(one::<i64>(&nested, "select outbox.tick()").await, 1);
}
