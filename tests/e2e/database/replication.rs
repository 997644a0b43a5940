//! Logical replication. A publication of all tables prevents no write. Readers can read from a logical copy of the feed: the
//! copy never skips a position and never takes itself for the original.

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, wait_until};
use outbox_tests::{PATIENCE, bare_server, explain, one, outbox_harness, refused, rows, settle};

/// Every table has a replica identity. Without one, PostgreSQL would refuse UPDATE and DELETE on a table wherever all tables
/// are published.
#[tokio::test]
async fn every_table_says_what_identifies_its_rows() {
    let db = bare_server().await.database("identities").await.unwrap();
    let without = rows(
        &db,
        "select c.relname from pg_class c
        where c.relnamespace = 'outbox'::regnamespace and c.relkind = 'r' and not (
            c.relreplident = 'f'
            or c.relreplident = 'd' and exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)
            or c.relreplident = 'i' and exists (select from pg_index i where i.indrelid = c.oid and i.indisreplident)
        )",
    )
    .await;
    assert!(without.is_empty(), "{without:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_of_all_tables_stops_nothing() {
    let mut settings =
        vec![("wal_level", "logical"), ("pg_outbox.poll_interval", "1s"), ("pg_outbox.retention_interval", "1s")];
    for retention in ["message", "feed", "attempt", "tick", "checkpoint"] {
        settings.push((format!("pg_outbox.{retention}_retention").leak(), "1s"));
    }
    let server = Server::start(&settings).await.unwrap();
    let receiver = Receiver::start().unwrap();
    receiver.on("/flaky", |_, n| if n % 2 == 0 { Reply::status(503) } else { Reply::status(200) });
    receiver.on("/bad", |_, _| Reply::status(400));
    let db = server.database("published").await.unwrap();
    db.batch_execute("create publication everything for all tables").await.unwrap();
    let run = async |sql: &str| {
        if let Err(error) = db.batch_execute(sql).await {
            panic!("{sql}: {}", explain(&error));
        }
    };
    for path in ["good", "flaky", "bad"] {
        let url = receiver.url(&format!("/{path}"));
        run(&format!("select outbox.create_endpoint('{path}', '{url}')")).await;
        run(&format!(
            "select outbox.subscribe('{path}', '{{{path}.#}}', '{path}', max_attempts => 5, schedule => '[0.05]')"
        ))
        .await;
    }
    run("select outbox.subscribe('jobs', '{job.#}', ordering => 'key'); select outbox.subscribe('plain', '{job.#}')")
        .await;
    run("select outbox.enqueue(t || '.x', '{}', key => 'k' || n % 3, idempotency_key => t || n)
        from unnest('{good,flaky,bad,job}'::text[]) t, generate_series(1, 20) n")
    .await;
    settle(&db).await;
    // Workers claim with and without ordering, and end their deliveries in every way.
    for subscription in ["jobs", "plain"] {
        for end in [
            "outbox.complete(lease)",
            "outbox.dead(lease, ids, 'no')",
            "outbox.fail(lease, ids, 'later')",
            "outbox.release(lease)",
            "outbox.extend(lease, '1 min')",
        ] {
            wait_until("there is something to claim", PATIENCE, async || {
                let claim = format!(
                    "select count({end}) from (
                        select lease, array_agg(delivery_id) as ids from outbox.claim('{subscription}', 'w', 2) group by 1
                    ) c"
                );
                match db.query_one(&claim, &[]).await {
                    Ok(row) => row.get::<_, i64>(0) > 0,
                    Err(error) => panic!("{claim}: {}", explain(&error)),
                }
            })
            .await;
        }
    }
    run("select outbox.cancel(outbox.enqueue('good.x', '{}'))").await;
    run("select outbox.erase(min(id), reason => 'asked for') from outbox.message where topic = 'good.x'").await;
    run("select outbox.requeue(id, actor => 'me') from outbox.dead_letter where resolution = 'open' order by id limit 1")
        .await;
    run("select outbox.replay('good', 1)").await;
    run("select outbox.cursor_advance('c', 1); select outbox.cursor_advance('c', 2);
        select outbox.cursor_reset('c', 0, reason => 'x'); select outbox.cursor_delete('c', reason => 'x')")
    .await;
    run("select outbox.alter_endpoint('bad', concurrency => 2); select outbox.disable_endpoint('bad');
        select outbox.enable_endpoint('bad'); select outbox.pause_subscription('plain'); select outbox.resume_subscription('plain');
        select outbox.rotate_secret('good'); select outbox.unsubscribe('bad'); select outbox.create_topic('good.x')")
    .await;
    settle(&db).await;
    // Every ring is rotated and reclaimed. Maintenance runs every ten seconds.
    wait_until("every ring has gone round", 4 * PATIENCE, async || {
        run("select outbox.enqueue('good.y', '{}')").await;
        for ring in ["message", "feed", "attempt", "routing", "tick", "checkpoint", "counter", "message_counter"] {
            run(&format!("select outbox.rotate('{ring}')")).await;
        }
        let left = "select count(*) from outbox._ring r where not exists (
            select from outbox.segment s where s.ring = r.name and s.reclaimed_at is not null)";
        one::<i64>(&db, left).await == 0
    })
    .await;
    run("select outbox.enqueue('good.z', '{}')").await;
    settle(&db).await;
    let worker = rows(&db, "select state, last_error from outbox.worker_status()").await;
    assert_eq!(worker[0]["state"].as_deref(), Some("running"), "{worker:?}");
    assert!(!server.log().contains("does not have a replica identity"), "{}", server.log());
    for arrived in ["good", "flaky", "bad"] {
        assert!(receiver.arrivals().iter().any(|a| a.path == format!("/{arrived}")), "{arrived}");
    }
}

/// Publishes the tables that readers need.
const PUBLICATION: &str = "create publication feed for table outbox.message, outbox.feed, outbox.tick, outbox.epoch";

async fn copy_of(publisher: &Server, subscriber: &Server, database: &str) -> Client {
    let copy = subscriber.database(database).await.unwrap();
    let dsn = publisher.dsn(database);
    copy.batch_execute(&format!("create subscription readers connection '{dsn}' publication feed")).await.unwrap();
    copy
}

async fn read(db: &Client, after: i64) -> Result<Vec<(i64, i64)>, String> {
    match db.query("select position, message_id from outbox.read($1, 10000)", &[&after]).await {
        Ok(rows) => Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect()),
        Err(error) => Err(error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned())),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logical_copy_serves_readers_and_never_skips() {
    let settings = [("wal_level", "logical"), ("pg_outbox.poll_interval", "1s")];
    let publisher = Server::start(&settings).await.unwrap();
    let subscriber = Server::start(&settings).await.unwrap();
    let db = publisher.database("farm").await.unwrap();
    db.batch_execute(PUBLICATION).await.unwrap();
    let enqueue = async |count: i32| {
        let sql = format!(
            "select count(outbox.enqueue('a.b', jsonb_build_object('n', n))) from generate_series(1, {count}) n"
        );
        db.batch_execute(&sql).await.unwrap();
        settle(&db).await;
    };
    enqueue(3000).await;
    let copy = copy_of(&publisher, &subscriber, "farm").await;
    let in_step = async || {
        let head: i64 = one(&db, "select outbox.head()").await;
        wait_until("the copy has it all", PATIENCE, async || {
            one::<i64>(&copy, "select outbox.head()").await == head
                && one::<i64>(&copy, "select count(*) from pg_subscription_rel where srsubstate <> 'r'").await == 0
        })
        .await;
    };
    // The copy is filled table by table. Meanwhile, a read returns nothing, fails, or begins at the requested position.
    wait_until("the copy has been filled", PATIENCE, async || match read(&copy, 0).await {
        Ok(all) => {
            assert!(all.is_empty() || all[0].0 == 1, "begins at {:?}", all[0]);
            all.len() == 3000
        }
        Err(code) => {
            assert_eq!(code, "OB009");
            false
        }
    })
    .await;
    in_step().await;
    enqueue(1000).await;
    in_step().await;
    let all = read(&db, 0).await.unwrap();
    assert_eq!(all.len(), 4000);
    assert!(read(&copy, 0).await.unwrap() == all);
    assert!(read(&copy, 2500).await == read(&db, 2500).await);

    // The copy reports that it is a copy.
    wait_until("the dispatcher knows", PATIENCE, async || {
        one::<String>(&copy, "select worker from outbox.stats()").await == "copied"
    })
    .await;
    let critical =
        rows(&copy, "select \"check\", culprit, what_to_do from outbox.health() where state = 'critical'").await;
    let checks: Vec<_> = critical.iter().filter_map(|row| row["check"].clone()).collect();
    assert_eq!(checks, ["worker", "identity", "sequencer"], "{critical:?}");
    for row in &critical {
        assert!(row["culprit"].as_deref().is_some_and(|culprit| culprit.starts_with("copied")), "{row:?}");
    }
    // Local writes are refused while replicated rows arrive, in older sessions, too.
    let error = refused(&copy, "select outbox.enqueue('a.b', '{}')").await;
    assert_eq!(error.code().code(), "55000", "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("outbox.adopt(")), "{error:?}");
    assert_eq!(refused(&copy, "select outbox.adopt('too early')").await.code().code(), "55000");
    assert_eq!(refused(&copy, "select outbox.tick()").await.code().code(), "55000");
    assert_eq!(rows(&copy, "select * from outbox.maintain()").await.len(), 0);
    // A copy may lag behind the reader. Such a position is not reported as lost history.
    assert_eq!(read(&copy, 4500).await, Ok(vec![]));

    // Both refuse positions that the original has removed, and name the same position to go on from.
    for statement in [
        "set pg_outbox.message_retention = '1s'; set pg_outbox.feed_retention = '1s'; set pg_outbox.retention_interval = '1s'",
        "select outbox.rotate('message')",
        "select outbox.rotate('feed')",
    ] {
        db.batch_execute(statement).await.unwrap();
    }
    wait_until("retention has taken everything", PATIENCE, async || {
        db.batch_execute("select * from outbox.maintain()").await.unwrap();
        one::<bool>(&db, "select outbox.tail() = outbox.head() + 1 and not exists (select from outbox.feed)").await
    })
    .await;
    db.batch_execute("reset pg_outbox.message_retention; reset pg_outbox.feed_retention").await.unwrap();
    in_step().await;
    // The copy has no sequence that says so, and no row of the feed. The apply worker locks the leaves that it truncates, and may
    // end a query in a deadlock.
    let head: i64 = one(&db, "select outbox.head()").await;
    wait_until("the copy has removed everything, too", PATIENCE, async || {
        copy.query_one("select outbox.tail()", &[]).await.is_ok_and(|row| row.get::<_, i64>(0) == head + 1)
    })
    .await;
    enqueue(500).await;
    in_step().await;
    let tail: i64 = one(&db, "select outbox.tail()").await;
    assert_eq!(one::<i64>(&copy, "select outbox.tail()").await, tail);
    for after in [5, tail - 2] {
        assert_eq!(read(&db, after).await, Err("OB009".to_owned()), "{after}");
        assert_eq!(read(&copy, after).await, Err("OB009".to_owned()), "{after}");
    }
    let error = refused(&copy, "select outbox.read(5)").await;
    assert_eq!(error.message(), "position 6 is no longer stored");
    assert!(error.detail().is_some_and(|detail| detail.contains("copy")), "{error:?}");
    for after in [0, tail - 1, tail + 100] {
        assert!(read(&copy, after).await == read(&db, after).await, "{after}");
    }

    // A read fails at a missing message and does not skip it, with or without a filter.
    let delete =
        |what: &str| format!("begin; set local session_replication_role = replica; delete from {what}; commit");
    copy.batch_execute(&delete(&format!(
        "outbox.message where id = (select message_ids[3] from outbox.feed where first_position <= {0} and last_position > {0} + 3)",
        tail + 50
    )))
    .await
    .unwrap();
    for call in
        ["outbox.read(0)", "outbox.read(0, filter => '{\"key\": \"none\"}')", "outbox.read(0, topics => '{none}')"]
    {
        let found: Option<i64> = one(&copy, "select min(first_position) + 2 from outbox.feed").await;
        let error = refused(&copy, &format!("select * from {call}")).await;
        assert_eq!(error.code().code(), "OB009", "{call}");
        assert_eq!(error.message(), format!("position {} is missing here", found.unwrap()), "{call}");
    }

    // The subscription is dropped, the copy is adopted, and takes over.
    copy.batch_execute("drop subscription readers").await.unwrap();
    let head: i64 = one(&copy, "select outbox.adopt('the original is gone')").await;
    copy.batch_execute("select outbox.enqueue('a.b', '{}')").await.unwrap();
    settle(&copy).await;
    assert_eq!(one::<i64>(&copy, "select outbox.head()").await, head + 1);
    assert_eq!(one::<i64>(&copy, "select count(*) from outbox.health() where state = 'critical'").await, 0);
}
