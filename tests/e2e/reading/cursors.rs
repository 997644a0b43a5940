//! Readers and cursors under concurrency. However many instances race for a cursor, every message takes effect once and
//! in order.

use outbox_harness::{Server, connect, wait_until};
use outbox_tests::{PATIENCE, bare_server, explain, one, outbox_harness, server, settle};

/// An old snapshot keeps all row versions of a cursor. No statement searches through those versions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_moves_under_a_held_snapshot_costs_the_same() {
    let server = bare_server().await;
    let db = server.database("moving").await.unwrap();
    db.batch_execute("select outbox.enqueue('a.b', '{}') from generate_series(1, 10000)").await.unwrap();
    db.batch_execute("select outbox.tick()").await.unwrap();
    db.batch_execute(
        "create procedure move(first int, last int) language plpgsql as $$
        begin
            for i in first .. last loop
                perform outbox.cursor_advance('one', i);
                commit;
            end loop;
        end
        $$",
    )
    .await
    .unwrap();
    let buffers = async |statement: &str| -> i64 {
        let plan: serde_json::Value = one(&db, &format!("explain (analyze, buffers, format json) {statement}")).await;
        let node = &plan[0]["Plan"];
        node["Shared Hit Blocks"].as_i64().unwrap() + node["Shared Read Blocks"].as_i64().unwrap()
    };
    db.batch_execute("call move(1, 20)").await.unwrap();
    let holder = server.connect("moving").await.unwrap();
    holder.batch_execute("begin isolation level repeatable read; select count(*) from pg_class").await.unwrap();
    let mut cost = Vec::new();
    for stretch in [(21, 100), (102, 5000)] {
        db.batch_execute(&format!("call move({}, {})", stretch.0, stretch.1)).await.unwrap();
        db.batch_execute("analyze").await.unwrap();
        // The second call fills the plan cache.
        for _ in 0..2 {
            buffers("select outbox.cursor_get('one')").await;
        }
        cost.push((
            buffers("select outbox.cursor_get('one')").await,
            buffers(&format!("select outbox.cursor_advance('one', {})", stretch.1 + 1)).await,
            buffers("select * from outbox.cursor_list()").await,
        ));
    }
    let dead: i64 = one(&holder, "select pg_relation_size('outbox.cursor') / 8192").await;
    assert!(dead > 30, "the snapshot has kept {dead} pages");
    for (few, many) in [(cost[0].0, cost[1].0), (cost[0].1, cost[1].1), (cost[0].2, cost[1].2)] {
        assert!(many <= few + 15, "{cost:?}");
    }
    assert_eq!(one::<i64>(&db, "select position from outbox.cursor_get('one')").await, 5001);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.cursor").await, 1);
    // A cursor that is deleted and created again costs the same.
    db.batch_execute("select outbox.cursor_delete('one', 'again')").await.unwrap();
    db.batch_execute("call move(1, 5)").await.unwrap();
    let again = buffers("select outbox.cursor_get('one')").await;
    assert!(again <= cost[0].0 + 15, "{again} buffers, {cost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_race_for_a_cursor_take_effect_once() {
    let server = server().await;
    let db = server.database("racing").await.unwrap();
    db.batch_execute("create table effect (position bigint, n int)").await.unwrap();
    let dsn = server.dsn("racing");
    let producers: Vec<_> = (0..2)
        .map(|who| {
            let dsn = dsn.clone();
            tokio::spawn(async move {
                let db = connect(&dsn).await.unwrap();
                for n in 0..150 {
                    db.execute(
                        "select outbox.enqueue('order.created', jsonb_build_object('n', $1::int))",
                        &[&(who * 150 + n)],
                    )
                    .await
                    .unwrap();
                }
            })
        })
        .collect();
    let consumers: Vec<_> = (0..2)
        .map(|_| {
            let dsn = dsn.clone();
            tokio::spawn(async move {
                let db = connect(&dsn).await.unwrap();
                let mut lost = 0;
                while one::<i64>(&db, "select count(*) from effect").await < 300 {
                    db.batch_execute("begin").await.unwrap();
                    let from: i64 =
                        one(&db, "select position from outbox.cursor_get('projection', if_missing => 0)").await;
                    let upto: Option<i64> = one(
                        &db,
                        &format!(
                            "with taken as (select * from outbox.read({from}, 20)), effects as (
                                insert into effect select position, (payload->>'n')::int from taken where message_id is not null)
                            select max(position) from taken"
                        ),
                    )
                    .await;
                    let Some(upto) = upto else {
                        db.batch_execute("rollback").await.unwrap();
                        continue;
                    };
                    let advance =
                        format!("select outbox.cursor_advance('projection', {upto}, expected_position => {from})");
                    match db.batch_execute(&advance).await {
                        Ok(()) => db.batch_execute("commit").await.unwrap(),
                        Err(error) => {
                            assert_eq!(error.code().unwrap().code(), "OB005", "{}", explain(&error));
                            lost += 1;
                            db.batch_execute("rollback").await.unwrap();
                        }
                    }
                }
                lost
            })
        })
        .collect();
    for producer in producers {
        producer.await.unwrap();
    }
    let mut lost = 0;
    for consumer in consumers {
        lost += consumer.await.unwrap();
    }
    settle(&db).await;
    assert!(lost > 0, "they raced");
    let row =
        db.query_one("select count(*), count(distinct n), count(distinct position) from effect", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (300, 300, 300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_reader_is_woken_by_few_notifications() {
    let server = Server::start(&[("pg_outbox.poll_interval", "60s")]).await.unwrap();
    let db = server.database("notified").await.unwrap();
    let switch = async |value: &str| {
        db.batch_execute(&format!("alter system set pg_outbox.notify_readers = {value}")).await.unwrap();
        db.batch_execute("select pg_reload_conf()").await.unwrap();
    };
    switch("on").await;
    wait_until("the dispatcher runs", PATIENCE, async || {
        one::<String>(&db, "select state from outbox.worker_status()").await == "running"
    })
    .await;
    let (listener, mut notifications) = server.listen("notified").await.unwrap();
    listener.batch_execute("listen outbox_feed").await.unwrap();
    const MESSAGES: i64 = 1000;
    let producers: Vec<_> = (0..2)
        .map(|_| {
            let dsn = server.dsn("notified");
            tokio::spawn(async move {
                let db = connect(&dsn).await.unwrap();
                for _ in 0..MESSAGES / 2 {
                    db.execute("select outbox.enqueue('order.created', '{}')", &[]).await.unwrap();
                }
            })
        })
        .collect();
    // The reader reads after notifications only. Nothing else would wake the dispatcher within a minute.
    let began = std::time::Instant::now();
    let (mut last, mut told) = (0, 0);
    while last < MESSAGES {
        let notification = tokio::time::timeout(PATIENCE, notifications.recv()).await.expect("woken in time").unwrap();
        told += 1;
        let end: i64 = notification.payload().parse().unwrap();
        let upto: Option<i64> = one(&listener, &format!("select max(position) from outbox.read({last}, 10000)")).await;
        last = upto.unwrap_or(last);
        assert!(last >= end, "told of {end}, and read up to {last}");
    }
    let most = began.elapsed().as_millis() as i64 / 50 + 2;
    assert!(told <= most && told < MESSAGES, "{told} notifications in {:?}", began.elapsed());
    for producer in producers {
        producer.await.unwrap();
    }
    // Notifications can be switched off without a restart.
    switch("off").await;
    wait_until("nobody is told", PATIENCE, async || {
        while notifications.try_recv().is_ok() {}
        db.batch_execute("select outbox.enqueue('order.created', '{}')").await.unwrap();
        settle(&db).await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        notifications.try_recv().is_err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dispatcher_numbers_in_its_first_round_is_told() {
    let settings = [("pg_outbox.poll_interval", "60s"), ("pg_outbox.notify_readers", "on")];
    let server = Server::start(&settings).await.unwrap();
    let db = server.empty_database("young").await.unwrap();
    let (listener, mut notifications) = server.listen("young").await.unwrap();
    listener.batch_execute("listen outbox_feed").await.unwrap();
    db.batch_execute("begin; create extension pg_outbox; select outbox.enqueue('order.created', '{}'); commit")
        .await
        .unwrap();
    let told = tokio::time::timeout(PATIENCE, notifications.recv()).await.expect("told in time").unwrap();
    assert_eq!(told.payload(), "1");
}

/// A page is read as a range of ids where they are close together, and by each id otherwise or with conditions. Both find the
/// same, wherever the page begins: with gaps between the ids, with ids of another tick among them, and across events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_the_same_with_and_without_conditions() {
    let server = bare_server().await;
    let db = server.database("ranges").await.unwrap();
    let late = server.connect("ranges").await.unwrap();
    let run = async |statement: &str| db.batch_execute(statement).await.unwrap();
    let messages =
        |from: i32, to: i32| format!("select outbox.enqueue('a.b', to_jsonb(n)) from generate_series({from}, {to}) n;");
    // Ids without a gap.
    run(&messages(1, 5)).await;
    run("select outbox.tick()").await;
    // With gaps, and with ids that another transaction commits later.
    run(&format!("begin; savepoint s; {} rollback to s; commit", messages(6, 7))).await;
    run(&messages(8, 9)).await;
    late.batch_execute(&format!("begin; {}", messages(10, 11))).await.unwrap();
    run(&messages(12, 14)).await;
    run("select outbox.tick()").await;
    // The same with events alone, and then beside messages.
    run("select outbox.append('cart-2', 'cart.opened', '1')").await;
    late.batch_execute("select outbox.append('cart-1', 'cart.opened', '1')").await.unwrap();
    run("select outbox.append('cart-2', 'cart.opened', to_jsonb(n)) from generate_series(2, 3) n").await;
    run("select outbox.tick()").await;
    late.batch_execute("commit").await.unwrap();
    run(&messages(15, 15)).await;
    run("select nextval('outbox._message_id') from generate_series(1, 100)").await;
    run(&messages(16, 16)).await;
    run("select outbox.append('cart-2', 'cart.paid', '4')").await;
    run("select outbox.tick()").await;
    // Control messages among them.
    run(&format!("select outbox.subscribe('work', '{{none}}'); {}", messages(17, 18))).await;
    run("select outbox.tick()").await;

    let page = async |call: &str| -> String {
        one(&db, &format!("select coalesce(json_agg(to_jsonb(r) order by r.position), '[]')::text from {call} r")).await
    };
    let head: i64 = one(&db, "select outbox.head()").await;
    assert_eq!(head, 22);
    for source in ["messages", "events", "all"] {
        for size in [1, 2, 5, 1000] {
            for from in 0..=head {
                let arguments = format!("{from}, {size}, source => '{source}'");
                let plain = page(&format!("outbox.read({arguments})")).await;
                let by_id = page(&format!("outbox.read({arguments}, topics => '{{#}}')")).await;
                assert_eq!(plain, by_id, "{arguments}");
            }
        }
    }
    for size in [1, 2, 5, 1000] {
        for from in 0..=head {
            let plain = page(&format!("outbox.read_events({from}, {size})")).await;
            let by_id = page(&format!("outbox.read_events({from}, {size}, types => '{{#}}')")).await;
            assert_eq!(plain, by_id, "{from}, {size}");
        }
    }
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.read(0, 1000) where message_id is not null").await, 16);
    assert_eq!(
        one::<i64>(&db, "select count(*) from outbox.read_events(0, 1000) where message_id is not null").await,
        5
    );
    // A message that is gone is noticed on either way; an event that was truncated is passed over.
    run("select outbox.truncate_stream('cart-2', 3, 'test')").await;
    assert_eq!(
        one::<i64>(&db, "select count(*) from outbox.read_events(0, 1000) where message_id is not null").await,
        3
    );
    assert_eq!(
        page("outbox.read(0, 1000, source => 'all')").await,
        page("outbox.read(0, 1000, source => 'all', topics => '{#}')").await
    );
    run("alter table outbox._message_00 disable trigger all").await;
    run("delete from outbox.message where topic = 'a.b' and payload = '3'").await;
    for call in ["outbox.read(0, 1000)", "outbox.read(0, 1000, topics => '{#}')"] {
        let error = db.query_opt(&format!("select count(*) from {call}"), &[]).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("OB009"), "{call}");
    }
}
