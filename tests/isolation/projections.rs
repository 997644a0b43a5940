//! Projections when two sessions run, append or switch at the same time.

use crate::pair::Pair;
use outbox_tests::one;

/// A handler that counts the events per stream, in a table of its own.
const HANDLER: &str = "
create table seen (stream text, version bigint, primary key (stream, version));
create function see(events outbox.event[]) returns void language sql
as $$ insert into public.seen select e.stream, e.version from unnest(events) e $$";

async fn projected(database: &str, kind: &str) -> Pair {
    let pair = Pair::new(database).await;
    pair.watcher.batch_execute(HANDLER).await.unwrap();
    let create = format!("select outbox.create_projection('seen', 'public.see(outbox.event[])', '{kind}')");
    pair.watcher.batch_execute(&create).await.unwrap();
    pair
}

#[tokio::test]
async fn two_runners_do_not_apply_the_same_page() {
    let pair = projected("projections_run", "async").await;
    pair.watcher.batch_execute("select outbox.append('a-1', 't', '{}') from generate_series(1, 3)").await.unwrap();
    pair.watcher.batch_execute("select outbox.tick()").await.unwrap();
    pair.first.batch_execute("begin; select outbox.run_projection('seen', 2)").await.unwrap();
    assert_eq!(pair.second_waits("select outbox.run_projection('seen')::text", "commit").await, "1");
    // After a rollback the second one applies the page of the first.
    pair.watcher.batch_execute("select outbox.append('a-2', 't', '{}')").await.unwrap();
    pair.watcher.batch_execute("select outbox.tick()").await.unwrap();
    pair.first.batch_execute("begin; select outbox.run_projection('seen')").await.unwrap();
    assert_eq!(pair.second_waits("select outbox.run_projection('seen')::text", "rollback").await, "1");
    assert_eq!(one::<i64>(&pair.watcher, "select count(*) from seen").await, 4);
}

#[tokio::test]
async fn pause_waits_for_the_page_and_the_next_run_is_refused() {
    let pair = projected("projections_pause", "async").await;
    pair.watcher.batch_execute("select outbox.append('a-1', 't', '{}')").await.unwrap();
    pair.watcher.batch_execute("select outbox.tick()").await.unwrap();
    pair.first.batch_execute("begin; select outbox.run_projection('seen')").await.unwrap();
    assert_eq!(pair.second_waits("select outbox.pause_projection('seen')::text", "commit").await, "");
    assert_eq!(pair.result("select outbox.run_projection('seen')::text").await, "OB004");
}

#[tokio::test]
async fn an_inline_projection_gets_every_event_that_is_appended_after_it() {
    let pair = Pair::new("projections_inline").await;
    pair.watcher.batch_execute(HANDLER).await.unwrap();
    let create = "select outbox.create_projection('seen', 'public.see(outbox.event[])', 'inline')::text";
    // The second session creates the projection and waits for a transaction that has appended.
    pair.first.batch_execute("begin; select outbox.append('a-1', 't', '{}')").await.unwrap();
    assert_eq!(pair.second_waits(create, "commit").await, "");
    assert_eq!(one::<i64>(&pair.watcher, "select count(*) from seen").await, 0);
    // A session that knew of no projection knows it now, and so does one whose snapshot is older.
    pair.watcher.batch_execute("select outbox.drop_projection('seen')").await.unwrap();
    pair.first.batch_execute("begin isolation level repeatable read; select 1").await.unwrap();
    pair.watcher.batch_execute(create).await.unwrap();
    pair.first.batch_execute("select outbox.append('a-1', 't', '{}'); commit").await.unwrap();
    assert_eq!(one::<i64>(&pair.watcher, "select count(*) from seen").await, 1);
    // After a drop, no event is given to it.
    pair.watcher.batch_execute("select outbox.drop_projection('seen')").await.unwrap();
    pair.first.batch_execute("select outbox.append('a-1', 't', '{}')").await.unwrap();
    assert_eq!(one::<i64>(&pair.watcher, "select count(*) from seen").await, 1);
}

#[tokio::test]
async fn a_switch_never_goes_back_behind_the_live_version() {
    let pair = projected("projections_switch", "async").await;
    pair.watcher
        .batch_execute(
            "select outbox.append('a-1', 't', '{}') from generate_series(1, 5);
            create table seen_2 (like seen);
            create function see_2(events outbox.event[]) returns void language sql
            as $$ insert into public.seen_2 select e.stream, e.version from unnest(events) e $$",
        )
        .await
        .unwrap();
    pair.watcher.batch_execute("select outbox.tick()").await.unwrap();
    pair.watcher
        .batch_execute("select outbox.rebuild_projection('seen', 'public.see_2(outbox.event[])')")
        .await
        .unwrap();
    // The rebuild has come as far as it has to, and the live version is ahead of that.
    pair.watcher.batch_execute("select outbox.run_projection('seen', version => 2)").await.unwrap();
    pair.watcher.batch_execute("select outbox.append('a-1', 't', '{}') from generate_series(1, 3)").await.unwrap();
    pair.watcher.batch_execute("select outbox.tick()").await.unwrap();
    // The live version goes on in a transaction that is open; the switch waits for it, and then brings the new one as far.
    pair.first.batch_execute("begin; select outbox.run_projection('seen', version => 1)").await.unwrap();
    assert_eq!(pair.second_waits("select outbox.switch_projection('seen')::text", "commit").await, "2");
    let positions = "select count(distinct position)::int from outbox.projections where name = 'seen'";
    assert_eq!(one::<i32>(&pair.watcher, positions).await, 1);
    assert_eq!(one::<i64>(&pair.watcher, "select count(*) from seen_2").await, 8);
}
