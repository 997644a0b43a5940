//! Commands, snapshots and sagas when two sessions do the same at the same time.

use crate::pair::Pair;
use outbox_tests::outbox_harness::wait_until;
use outbox_tests::{PATIENCE, one, refused};

#[tokio::test]
async fn a_second_command_waits_for_the_first_and_gets_its_result() {
    let pair = Pair::new("commands_wait").await;
    pair.first
        .batch_execute("begin; select outbox.command_begin('k', 'Pay'); select outbox.command_end('k', '{\"n\": 1}')")
        .await
        .unwrap();
    let result = pair.second_waits("select outbox.command_begin('k', 'Pay') ->> 'result'", "commit").await;
    assert_eq!(result, "{\"n\": 1}");
    // After a rollback the key is new, and the second session processes the command.
    pair.first.batch_execute("begin; select outbox.command_begin('r', 'Pay')").await.unwrap();
    assert_eq!(pair.second_waits("select outbox.command_begin('r', 'Pay')::text", "rollback").await, "null");
    // A backend that dies frees the key as a rollback does.
    pair.first.batch_execute("begin; select outbox.command_begin('d', 'Pay')").await.unwrap();
    let first_pid: i32 = one(&pair.first, "select pg_backend_pid()").await;
    let killed = async {
        wait_until("the second session waits for the first", PATIENCE, async || {
            one(&pair.watcher, &format!("select cardinality(pg_blocking_pids({})) > 0", pair.second_pid)).await
        })
        .await;
        let _: bool = one(&pair.watcher, &format!("select pg_terminate_backend({first_pid})")).await;
    };
    let (result, ()) = tokio::join!(pair.result("select outbox.command_begin('d', 'Pay')::text"), killed);
    assert_eq!(result, "null");
}

#[tokio::test]
async fn an_expired_command_is_taken_by_one_of_two_sessions() {
    let pair = Pair::new("commands_expire").await;
    pair.first
        .batch_execute(
            "select outbox.command_begin('k', 'Pay', ttl => '1 microsecond');
            begin; select outbox.command_begin('k', 'Pay'); select outbox.command_end('k', '1')",
        )
        .await
        .unwrap();
    assert_eq!(pair.second_waits("select outbox.command_begin('k', 'Pay') ->> 'result'", "commit").await, "1");
}

#[tokio::test]
async fn a_command_at_repeatable_read_fails_rather_than_runs_twice() {
    let pair = Pair::new("commands_repeatable").await;
    pair.second.batch_execute("begin isolation level repeatable read; select 1").await.unwrap();
    pair.first
        .batch_execute("begin; select outbox.command_begin('k', 'Pay'); select outbox.command_end('k', '1')")
        .await
        .unwrap();
    assert_eq!(pair.second_waits("select outbox.command_begin('k', 'Pay')::text", "commit").await, "40001");
}

#[tokio::test]
async fn the_newest_snapshot_wins_whichever_commits_last() {
    let pair = Pair::new("snapshots_race").await;
    pair.watcher.batch_execute("select outbox.append('A-1', 'a.b', '1') from generate_series(1, 9)").await.unwrap();
    pair.first.batch_execute("begin; select outbox.save_snapshot('A-1', 7, '{}')").await.unwrap();
    let older = pair.second_waits("select outbox.save_snapshot('A-1', 6, '{}')::text", "commit").await;
    assert_eq!(older, "false");
    pair.first.batch_execute("begin; select outbox.save_snapshot('A-1', 8, '{}')").await.unwrap();
    let newer = pair.second_waits("select outbox.save_snapshot('A-1', 9, '{}')::text", "commit").await;
    assert_eq!(newer, "true");
    assert_eq!(one::<i64>(&pair.watcher, "select version from outbox.load_snapshot('A-1')").await, 9);
}

#[tokio::test]
async fn an_event_is_handled_once_by_a_saga() {
    let pair = Pair::new("sagas_handle").await;
    pair.watcher.batch_execute("select outbox.saga_save('t', 's', '{}', 0)").await.unwrap();
    pair.first
        .batch_execute("begin; select outbox.saga_handle('t', 's', 1); select outbox.saga_save('t', 's', '{}', 1)")
        .await
        .unwrap();
    assert_eq!(pair.second_waits("select outbox.saga_handle('t', 's', 1)::text", "commit").await, "false");
    // Another event of the same saga waits too, and then sees the state that the first one left.
    pair.first
        .batch_execute("begin; select outbox.saga_handle('t', 's', 2); select outbox.saga_save('t', 's', '{}', 2)")
        .await
        .unwrap();
    pair.second.batch_execute("begin").await.unwrap();
    assert_eq!(pair.second_waits("select outbox.saga_handle('t', 's', 3)::text", "commit").await, "true");
    assert_eq!(pair.result("select (outbox.saga_load('t', 's')).version::text").await, "3");
    pair.second.batch_execute("rollback").await.unwrap();
    // A rolled back transaction has not handled its event.
    pair.first.batch_execute("begin; select outbox.saga_handle('t', 's', 4); rollback").await.unwrap();
    assert_eq!(pair.result("select outbox.saga_handle('t', 's', 4)::text").await, "true");
}

#[tokio::test]
async fn two_sessions_start_or_save_a_saga_and_one_is_refused() {
    let pair = Pair::new("sagas_save").await;
    pair.first.batch_execute("begin; select outbox.saga_save('t', 's', '{}', 0)").await.unwrap();
    assert_eq!(pair.second_waits("select outbox.saga_save('t', 's', '{}', 0)::text", "commit").await, "OB013");
    pair.first.batch_execute("begin; select outbox.saga_save('t', 's', '{}', 1)").await.unwrap();
    assert_eq!(pair.second_waits("select outbox.saga_save('t', 's', '{}', 1)::text", "commit").await, "OB013");
    pair.first.batch_execute("begin; select outbox.saga_save('t', 's', '{}', 2)").await.unwrap();
    assert_eq!(pair.second_waits("select outbox.saga_save('t', 's', '{}', 2)::text", "rollback").await, "3");
    // Two sagas with one correlation id.
    pair.first.batch_execute("begin; select outbox.saga_save('t', 'a', '{}', 0, correlation_id => 'c')").await.unwrap();
    let other = "select outbox.saga_save('t', 'b', '{}', 0, correlation_id => 'c')::text";
    assert_eq!(pair.second_waits(other, "commit").await, "42710");
    // The detail of a conflict is JSON with both versions.
    let conflict = refused(&pair.watcher, "select outbox.saga_save('t', 's', '{}', 1)").await;
    assert_eq!(conflict.code().code(), "OB013");
    assert_eq!(conflict.detail(), Some("{\"actual\": 3, \"saga_id\": \"s\", \"expected\": 1, \"saga_type\": \"t\"}"));
}
