//! Readers and cursors under concurrency: every message once and in order, however many instances race.

use outbox_harness::connect;
use outbox_tests::{explain, one, outbox_harness, server, settle};

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
                                insert into effect select position, (payload->>'n')::int from taken)
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
