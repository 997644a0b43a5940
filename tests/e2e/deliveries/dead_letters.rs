//! Dead letters, and deliveries that an operator reschedules, retries, cancels or dead-letters, pushed and pulled.

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, refused, rows, server, settle};

/// Creates a database with a pull subscription to all topics below `job`.
async fn jobs(name: &str, options: &str) -> Client {
    let db = server().await.database(name).await.unwrap();
    db.batch_execute(&format!("select outbox.subscribe('jobs', '{{job.#}}'{options})")).await.unwrap();
    db
}

/// Creates a database with a pushed subscription to all topics below `job`.
async fn pushed(name: &str, receiver: &Receiver, options: &str) -> Client {
    let db = server().await.database(name).await.unwrap();
    db.batch_execute(&format!(
        "select outbox.create_endpoint('there', '{}'); select outbox.subscribe('jobs', '{{job.#}}', 'there'{options})",
        receiver.url("/hook")
    ))
    .await
    .unwrap();
    db
}

async fn enqueue(db: &Client, options: &str) -> i64 {
    one(db, &format!("select outbox.enqueue('job.do', '{{\"n\": 1}}'{options})")).await
}

async fn claim(db: &Client) -> Option<(i64, i64, i32)> {
    let row = db.query_opt("select lease, message_id, attempt from outbox.claim('jobs', 'w')", &[]).await.unwrap()?;
    Some((row.get(0), row.get(1), row.get(2)))
}

async fn claimed(db: &Client) -> (i64, i64, i32) {
    outbox_harness::wait_for("there is something to claim", PATIENCE, async || claim(db).await).await
}

async fn code(db: &Client, statement: &str) -> String {
    refused(db, statement).await.code().code().to_owned()
}

/// Waits until this query returns true.
async fn until(db: &Client, query: &str) {
    wait_until(query, PATIENCE, async || one::<bool>(db, query).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_requeued_with_all_its_tries_and_the_same_id() {
    let db = jobs("requeue", ", max_attempts => 1").await;
    let message = enqueue(&db, "").await;
    let (lease, _, _) = claimed(&db).await;
    let before: String =
        one(&db, &format!("select outbox.webhook_id(id, enqueued_at) from outbox.message where id = {message}")).await;
    db.execute("select outbox.fail($1, null, 'no luck')", &[&lease]).await.unwrap();
    let letter = rows(&db, "select *, payload::text as content from outbox.dead_letter_status").await.remove(0);
    for (column, value) in [
        ("subscription", "jobs"),
        ("topic", "job.do"),
        ("content", "{\"n\": 1}"),
        ("state", "dead"),
        ("reason", "max_attempts"),
        ("attempt", "1"),
        ("last_error", "no luck"),
        ("resolution", "open"),
        ("is_resolved", "f"),
        ("is_old", "f"),
        ("webhook_id", before.as_str()),
    ] {
        assert_eq!(letter[column].as_deref(), Some(value), "{column}");
    }
    let id: i64 = one(&db, "select dead_letter_id from outbox.dead_letter_status").await;
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.dead_letters_older_than('1 day')").await, 0);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.dead_letters_older_than('0 s')").await, 1);

    assert_eq!(code(&db, "select outbox.requeue(999999, 'me')").await, "OB001");
    assert_eq!(code(&db, &format!("select outbox.requeue({id}, '')")).await, "22023");
    let delivery: i64 = one(&db, &format!("select outbox.requeue({id}, 'me', 'fixed')")).await;
    assert_eq!(code(&db, &format!("select outbox.requeue({id}, 'me')")).await, "OB004");
    assert_eq!(code(&db, &format!("select outbox.resolve_dead_letter({id}, 'me')")).await, "OB004");
    let row = db
        .query_one("select lease, webhook_id, attempt, delivery_id from outbox.claim('jobs', 'w')", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, String>(1), row.get::<_, i32>(2), row.get::<_, i64>(3)), (before, 1, delivery));
    let audit =
        rows(&db, "select action, reason, detail ->> 'actor' as who from outbox.audit where action = 'requeued'").await;
    assert_eq!(audit[0]["reason"].as_deref(), Some("fixed"));
    assert_eq!(audit[0]["who"].as_deref(), Some("me"));
    let lease: i64 = row.get(0);
    assert_eq!(code(&db, &format!("select outbox.retry({message}, 'jobs')")).await, "OB003");
    db.execute("select outbox.complete($1)", &[&lease]).await.unwrap();
    assert_eq!(code(&db, &format!("select outbox.retry({message}, 'jobs')")).await, "OB002");
    assert_eq!(code(&db, "select outbox.retry(999999, 'jobs')").await, "OB001");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_workflow_of_dead_letters_is_counted_and_audited() {
    let db = jobs("workflow", "").await;
    for _ in 0..5 {
        enqueue(&db, "").await;
    }
    settle(&db).await;
    db.batch_execute(
        "select outbox.dead((select min(lease) from outbox.claim('jobs', 'w', 4)), null, 'poison');
        select outbox.move_to_dead_letters((select id from outbox.delivery), 'stuck', 'me')",
    )
    .await
    .unwrap();
    let stats =
        rows(&db, "select *, per_subscription -> 'jobs' ->> 'unresolved' as jobs from outbox.dead_letter_stats()")
            .await
            .remove(0);
    assert_eq!((stats["total"].as_deref(), stats["unresolved"].as_deref()), (Some("5"), Some("5")));
    assert_eq!((stats["top_failure_reason"].as_deref(), stats["jobs"].as_deref()), (Some("rejected"), Some("5")));
    assert!(stats["oldest_age_seconds"].as_deref().unwrap().parse::<f64>().unwrap() < 3600.0);
    let ids: Vec<i64> = one(&db, "select array_agg(id order by id) from outbox.dead_letter").await;
    db.execute("select outbox.resolve_dead_letter($1, 'me', 'by hand')", &[&ids[0]]).await.unwrap();
    db.execute("select outbox.ignore_dead_letter($1, 'me')", &[&ids[1]]).await.unwrap();
    db.execute("select outbox.delete_dead_letter($1, 'me', 'gone')", &[&ids[2]]).await.unwrap();
    assert_eq!(code(&db, &format!("select outbox.ignore_dead_letter({}, 'me')", ids[0])).await, "OB004");
    assert_eq!(code(&db, &format!("select outbox.ignore_dead_letter({}, 'me')", ids[2])).await, "OB001");
    assert_eq!(one::<i64>(&db, "select outbox.requeue_all('me', dry_run => true)").await, 2);
    assert_eq!(one::<i64>(&db, "select outbox.requeue_all('me', reason => 'moved', topic => 'job.do')").await, 1);
    assert_eq!(one::<i64>(&db, "select outbox.requeue_all('me', subscription => 'jobs')").await, 1);
    assert_eq!(one::<i64>(&db, "select outbox.requeue_all('me')").await, 0);
    let stats = rows(&db, "select * from outbox.dead_letter_stats()").await.remove(0);
    assert_eq!((stats["total"].as_deref(), stats["resolved"].as_deref()), (Some("4"), Some("4")));
    let actions: String = one(
        &db,
        "select string_agg(distinct action, ' ' order by action) from outbox.audit where detail ->> 'actor' = 'me'",
    )
    .await;
    assert_eq!(actions, "delete_dead_letter ignored move_to_dead_letters requeued resolved");
    settle(&db).await;
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.claim('jobs', 'w', 10)").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leased_delivery_is_left_alone_and_an_ended_one_says_so() {
    let db = jobs("operators", "").await;
    enqueue(&db, "").await;
    let (lease, ..) = claimed(&db).await;
    let id: i64 = one(&db, "select id from outbox.delivery").await;
    let error = refused(&db, &format!("select outbox.move_to_dead_letters({id}, 'x', 'me')")).await;
    assert_eq!(error.code().code(), "OB003");
    assert!(error.detail().unwrap().contains("\"w\""));
    assert_eq!(code(&db, &format!("select outbox.reschedule({id}, now(), 'me')")).await, "OB003");
    db.execute("select outbox.fail($1, null, 'x', '1 hour')", &[&lease]).await.unwrap();
    db.execute("select outbox.reschedule($1, now(), 'me', priority => 5)", &[&id]).await.unwrap();
    let (lease, ..) = claimed(&db).await;
    assert_eq!(one::<i16>(&db, "select priority from outbox.delivery").await, 5);
    db.execute("select outbox.complete($1)", &[&lease]).await.unwrap();
    assert_eq!(code(&db, &format!("select outbox.reschedule({id}, now(), 'me')")).await, "OB002");
    assert_eq!(code(&db, "select outbox.move_to_dead_letters(999999, 'x', 'me')").await, "OB001");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_waits_for_its_time_and_goes_by_priority() {
    let db = jobs("schedule", "").await;
    let later = enqueue(&db, ", deliver_at => now() + interval '1 hour', priority => 100").await;
    let low = enqueue(&db, ", priority => -5").await;
    let normal = enqueue(&db, "").await;
    let high = enqueue(&db, ", priority => 7").await;
    settle(&db).await;
    let mut order = Vec::new();
    while let Some((_, message, _)) = claim(&db).await {
        order.push(message);
    }
    assert_eq!(order, [high, normal, low]);
    let id: i64 = one(&db, &format!("select id from outbox.delivery where message_id = {later}")).await;
    assert_eq!(code(&db, &format!("select * from outbox.claim_delivery({id}, 'w')")).await, "OB012");
    db.execute("select outbox.retry($1, 'jobs')", &[&later]).await.unwrap();
    assert_eq!(claimed(&db).await.1, later);
    for (options, what) in
        [("priority => 101", "priority"), ("deliver_at => now(), expires_at => now() - interval '1 s'", "expires_at")]
    {
        let error = refused(&db, &format!("select outbox.enqueue('job.do', '{{}}', {options})")).await;
        assert_eq!(error.code().code(), "22023");
        assert!(error.message().contains(what));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushed_messages_wait_for_their_time_as_well() {
    let receiver = Receiver::start().unwrap();
    let db = pushed("push_schedule", &receiver, "").await;
    let now = enqueue(&db, "").await;
    let soon = enqueue(&db, ", deliver_at => clock_timestamp() + interval '1500 ms'").await;
    let never = enqueue(&db, ", deliver_at => now() + interval '1 day'").await;
    settle(&db).await;
    let seen = |id: i64| {
        format!("select exists (select from outbox.attempt where message_id = {id} and outcome = 'completed')")
    };
    assert!(one::<bool>(&db, &seen(now)).await);
    assert!(one::<bool>(&db, &format!("select due_at > now() from outbox.delivery where message_id = {never}")).await);
    until(&db, &seen(soon)).await;
    assert!(
        one::<bool>(
            &db,
            &format!("select a.started_at >= m.deliver_at from outbox.attempt a join outbox.message m on m.id = a.message_id where m.id = {soon}")
        )
        .await
    );
    assert_eq!(receiver.total(), 2);
    assert_eq!(one::<i64>(&db, &format!("select outbox.cancel({never}, 'me', 'not needed')")).await, 1);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery").await, 0);
    assert_eq!(code(&db, &format!("select outbox.cancel({never})")).await, "OB002");
    assert_eq!(code(&db, &format!("select outbox.cancel({now})")).await, "OB002");
    assert_eq!(code(&db, "select outbox.cancel(999999)").await, "OB001");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_is_recorded_and_never_silently_dropped() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, _| Reply::status(500));
    let db = pushed("expiry", &receiver, "").await;
    db.batch_execute("select outbox.subscribe('pulled', '{job.#}', ttl => '300 ms')").await.unwrap();
    // A message may expire before it is routed, while it waits for a worker, and while it waits for a retry.
    let early = enqueue(&db, ", expires_at => clock_timestamp() - interval '1 s'").await;
    let late = enqueue(&db, ", expires_at => clock_timestamp() + interval '2 s'").await;
    until(
        &db,
        &format!("select count(*) = 2 from outbox.dead_letter where message_id = {early} and state = 'expired'"),
    )
    .await;
    until(&db, &format!("select count(*) = 2 from outbox.dead_letter where message_id = {late} and state = 'expired'"))
        .await;
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.attempt where outcome = 'expired'").await, 4);
    assert!(receiver.arrivals().iter().all(|a| a.json()["n"] == 1));
    assert_eq!(receiver.total(), 1, "the one that was not expired yet");
    // A requeued delivery does not expire again.
    let letter: i64 = one(
        &db,
        &format!("select l.dead_letter_id from outbox.dead_letter_status l where l.message_id = {late} and subscription = 'pulled'"),
    )
    .await;
    db.execute("select outbox.requeue($1, 'me')", &[&letter]).await.unwrap();
    let row = db.query_one("select message_id from outbox.claim('pulled', 'w')", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), late);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_message_is_not_tried_again() {
    let db = jobs("cancel", "").await;
    let leased = enqueue(&db, "").await;
    let (lease, ..) = claimed(&db).await;
    assert_eq!(code(&db, &format!("select outbox.cancel({leased})")).await, "OB003");
    db.batch_execute("select outbox.subscribe('others', '{job.#}')").await.unwrap();
    let both = enqueue(&db, "").await;
    settle(&db).await;
    let (second, message, _) = claimed(&db).await;
    assert_eq!(message, both);
    assert_eq!(one::<i64>(&db, &format!("select outbox.cancel({both}, 'me')")).await, 1, "the one nobody has");
    db.execute("select outbox.fail($1, null, 'x', '0')", &[&second]).await.unwrap();
    db.execute("select outbox.fail($1, null, 'x', '0')", &[&lease]).await.unwrap();
    assert_eq!(claimed(&db).await.1, leased);
    assert_eq!(
        one::<i64>(&db, &format!("select count(*) from outbox.delivery where message_id = {both}")).await,
        0,
        "neither is tried again"
    );
    assert_eq!(
        one::<i64>(
            &db,
            &format!("select count(*) from outbox.attempt where message_id = {both} and outcome = 'cancelled'")
        )
        .await,
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_whose_message_is_gone_dies_of_it() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, _| Reply::status(500));
    let db = pushed("gone", &receiver, "").await;
    let message = enqueue(&db, "").await;
    until(&db, "select count(*) = 1 from outbox.delivery").await;
    db.batch_execute("truncate outbox._message_00").await.unwrap();
    db.execute("select outbox.retry($1, 'jobs')", &[&message]).await.unwrap();
    until(&db, "select count(*) = 1 from outbox.dead_letter where reason = 'message_gone'").await;
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery").await, 0);
    assert_eq!(code(&db, "select outbox.requeue((select id from outbox.dead_letter), 'me')").await, "OB004");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_makes_a_waiting_push_due_and_starts_its_count_over() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, count| Reply::status(if count < 3 { 500 } else { 200 }));
    let db = pushed("retry_push", &receiver, ", max_attempts => 2").await;
    let message = enqueue(&db, "").await;
    until(&db, "select count(*) = 1 from outbox.delivery where attempt = 1").await;
    db.execute("select outbox.retry($1, 'jobs')", &[&message]).await.unwrap();
    until(&db, "select count(*) = 2 from outbox.attempt").await;
    assert_eq!(one::<i32>(&db, "select attempt from outbox.delivery").await, 1, "counted anew");
    db.execute("select outbox.reschedule((select id from outbox.delivery), now(), 'me')", &[]).await.unwrap();
    until(&db, "select count(*) = 1 from outbox.dead_letter").await;
    db.execute("select outbox.retry($1, 'jobs')", &[&message]).await.unwrap();
    until(&db, "select count(*) = 1 from outbox.attempt where outcome = 'completed'").await;
    let ids: std::collections::HashSet<String> =
        receiver.arrivals().iter().map(|a| a.webhook_id().to_owned()).collect();
    assert_eq!((receiver.total(), ids.len()), (4, 1));
}
