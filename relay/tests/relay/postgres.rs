//! Another database: each message is handled exactly once.

use outbox_harness::wait_until;

use crate::programs::{Config, Database, PATIENCE, assert_ledger, wait_until_relayed};

const SINK: &str = "kind = \"postgres\"\ndsn = { env = \"TARGET_DSN\" }\nfunction = \"app.handle\"";

/// A database with a function that stores the messages, except for those with a number that the table `poison` has.
async fn target() -> Database {
    let db = Database::new().await;
    db.client
        .batch_execute(
            "create schema app;
             create table app.handled (seq serial, topic text, key text, headers jsonb, n bigint);
             create table app.poison (n bigint);
             create function app.handle(topic text, key text, headers jsonb, body bytea) returns void language plpgsql as $$
             declare
                 n bigint := convert_from(body, 'utf8')::jsonb ->> 'n';
             begin
                 if topic <> 'dead' and n in (select p.n from app.poison p) then
                     raise exception 'poison' using errcode = '22023';
                 end if;
                 insert into app.handled (topic, key, headers, n) values (topic, key, headers, n);
             end $$",
        )
        .await
        .unwrap();
    db
}

async fn handled(target: &Database) -> Vec<i64> {
    let rows = target.client.query("select n from app.handled order by seq", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_handles_every_message_once_although_the_relay_is_killed_again_and_again() {
    let (db, target) = (Database::new().await, target().await);
    let config = Config::new(&db, "batch = 20", SINK).with_target(&target);
    for round in 0..6 {
        db.enqueue(round * 100 + 1, round * 100 + 100).await;
        let before = handled(&target).await.len();
        let relay = config.run();
        wait_until("a message was handled", PATIENCE, async || handled(&target).await.len() > before).await;
        tokio::time::sleep(std::time::Duration::from_millis(u64::try_from(round).unwrap() * 5)).await;
        drop(relay);
    }
    config.succeed().await;
    assert_ledger(&db, &handled(&target).await, 600).await;
    let row = "select concat_ws(' ', topic, key, headers ->> 'outbox-position', headers ->> 'content-type')
        from app.handled order by seq offset 41 limit 1";
    assert!(target.one(row).await.starts_with("order.created k"), "{}", target.one(row).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_function_refuses_stops_the_relay_and_is_not_overtaken() {
    let (db, target) = (Database::new().await, target().await);
    target.client.batch_execute("insert into app.poison values (5)").await.unwrap();
    db.enqueue(1, 30).await;
    let relay = Config::new(&db, "", SINK).with_target(&target).run();
    db.wait_for_state("stopped", "22023: poison").await;
    assert_eq!(handled(&target).await, [1, 2, 3, 4]);
    db.client.execute("select outbox.cursor_advance('relay:orders', 5)", &[]).await.unwrap();
    wait_until_relayed(&db, 30).await;
    assert_eq!(relay.terminate().await, 0);
    let expected: Vec<i64> = (1..=30).filter(|n| *n != 5).collect();
    assert_eq!(handled(&target).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_function_refuses_is_dead_lettered_in_its_place() {
    let (db, target) = (Database::new().await, target().await);
    target.client.batch_execute("insert into app.poison values (1), (5)").await.unwrap();
    db.enqueue(1, 8).await;
    let relay = "on_refused = \"dead-letter\"\ndead_letter_topic = \"dead\"";
    Config::new(&db, relay, SINK).with_target(&target).succeed().await;
    assert_eq!(handled(&target).await, (1..=8).collect::<Vec<i64>>());
    assert_eq!(target.one("select array_agg(n order by n) from app.handled where topic = 'dead'").await, "{1,5}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_a_deferred_constraint_refuses_is_found_and_stops_the_relay() {
    let (db, target) = (Database::new().await, target().await);
    target
        .client
        .batch_execute(
            "create function app.late() returns trigger language plpgsql as $$ begin
                 if new.n = 7 then
                     raise exception 'seven' using errcode = '23514';
                 end if;
                 return new;
             end $$;
             create constraint trigger late after insert on app.handled deferrable initially deferred
                 for each row execute function app.late()",
        )
        .await
        .unwrap();
    db.enqueue(1, 12).await;
    let relay = Config::new(&db, "", SINK).with_target(&target).run();
    db.wait_for_state("stopped", "23514: seven").await;
    assert_eq!(handled(&target).await, [1, 2, 3, 4, 5, 6]);
    db.client.execute("select outbox.cursor_advance('relay:orders', 7)", &[]).await.unwrap();
    wait_until_relayed(&db, 12).await;
    assert_eq!(relay.terminate().await, 0);
    assert_eq!(handled(&target).await, [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_still_under_way_is_waited_for() {
    let (db, target) = (Database::new().await, target().await);
    db.enqueue(1, 10).await;
    let config = Config::new(&db, "", SINK).with_target(&target);
    // Another session has handled the first five, and has not committed yet.
    let source =
        db.one("select '/pg_outbox/' || system_identifier || '/' || current_database() from pg_control_system()").await;
    let early = format!(
        "begin;
         select pg_advisory_xact_lock(hashtextextended('pg_outbox relay {source} orders', 0));
         insert into app.handled (topic, n) select 'order.created', n from generate_series(1, 5) n;
         select outbox.inbox_begin('{source}', 5, stream => 'relay:orders')"
    );
    target.client.batch_execute(&early).await.unwrap();
    let relay = config.run();
    let waits = "select count(*) > 0 from pg_locks where locktype = 'advisory' and not granted";
    wait_until("the relay waits", PATIENCE, async || db.one(waits).await == "true").await;
    target.client.batch_execute("commit").await.unwrap();
    wait_until_relayed(&db, 10).await;
    assert_eq!(relay.terminate().await, 0);
    assert_ledger(&db, &handled(&target).await, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_function_is_reported() {
    let (db, target) = (Database::new().await, target().await);
    let sink = SINK.replace("app.handle", "app.other");
    let (code, text) = Config::new(&db, "", &sink).with_target(&target).check().await;
    assert!(code == 4 && text.contains("app.other(text, text, jsonb, bytea) does not exist"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_streams_are_relayed_like_messages() {
    let (db, target) = (Database::new().await, target().await);
    db.enqueue(1, 3).await;
    db.client
        .batch_execute(
            "select outbox.append_many('order-1', array['order.created', 'order.paid'],
                array['{\"n\": 10}', '{\"n\": 11}']::jsonb[], expected_version => 0)",
        )
        .await
        .unwrap();
    db.enqueue(4, 5).await;
    for (kinds, expected) in
        [("events", &[10, 11][..]), ("messages", &[1, 2, 3, 4, 5]), ("all", &[1, 2, 3, 10, 11, 4, 5])]
    {
        let relay = format!("source = \"{kinds}\"");
        target.client.batch_execute("truncate app.handled; delete from outbox.inbox").await.unwrap();
        db.client.batch_execute("select outbox.cursor_reset('relay:orders', 0, reason => 'again')").await.unwrap();
        Config::new(&db, &relay, SINK).with_target(&target).succeed().await;
        assert_eq!(handled(&target).await, expected, "{kinds}");
    }
}
