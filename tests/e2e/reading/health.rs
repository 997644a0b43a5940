//! health(), metrics() and worker_status() name a fault as long as it lasts.

use std::collections::BTreeMap;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, wait_for, wait_until};
use outbox_tests::{PATIENCE, bare_server, one, outbox_harness, rows, server, settle};

/// Returns the state, culprit and advice of every check that is not `ok`.
async fn unwell(db: &Client) -> BTreeMap<String, (String, String, String)> {
    let found =
        rows(db, "select h.check, h.state, h.culprit, h.what_to_do from outbox.health() h where h.state <> 'ok'").await;
    let text = |row: &BTreeMap<String, Option<String>>, name: &str| row[name].clone().unwrap_or_default();
    found
        .iter()
        .map(|row| (text(row, "check"), (text(row, "state"), text(row, "culprit"), text(row, "what_to_do"))))
        .collect()
}

async fn metric(db: &Client, name: &str, labels: &str) -> f64 {
    one(
        db,
        &format!("select coalesce(sum(value), 0) from outbox.metrics() where name = '{name}' and labels @> '{labels}'"),
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_outbox_is_well_and_says_what_its_worker_does() {
    let db = server().await.database("well").await.unwrap();
    wait_until("the dispatcher runs", PATIENCE, async || {
        one::<String>(&db, "select state from outbox.worker_status()").await == "running"
    })
    .await;
    assert_eq!(unwell(&db).await, BTreeMap::new());
    let row = db
        .query_one(
            "select pid, started_at < clock_timestamp(), launcher_pid, last_error from outbox.worker_status()",
            &[],
        )
        .await
        .unwrap();
    assert!(row.get::<_, i32>(0) > 0 && row.get::<_, bool>(1) && row.get::<_, i32>(2) > 0);
    assert_eq!(row.get::<_, Option<&str>>(3), None);
    let advised: i64 =
        one(&db, "select count(*) from outbox.health() where state <> 'ok' and what_to_do is null").await;
    assert_eq!(advised, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_takes_nothing_is_named_with_its_reason() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/down", |_, _| Reply::status(503));
    let db = server().await.database("endpoints_named").await.unwrap();
    db.execute(
        "select outbox.create_endpoint('down', $1, breaker => '{\"failures\": 1, \"open\": 600}')",
        &[&receiver.url("/down")],
    )
    .await
    .unwrap();
    // A disabled endpoint that no subscription uses is not reported.
    db.execute("select outbox.create_endpoint('unused', $1)", &[&receiver.url("/hook")]).await.unwrap();
    db.batch_execute("select outbox.disable_endpoint('unused'); select outbox.subscribe('s', '{order.#}', 'down')")
        .await
        .unwrap();
    assert!(!unwell(&db).await.contains_key("endpoints"));
    db.batch_execute("select outbox.enqueue('order.a', '{}')").await.unwrap();
    wait_until("its breaker is named", PATIENCE, async || {
        let found = unwell(&db).await;
        found.get("endpoints").is_some_and(|(_, who, _)| who.contains("\"down\": breaker open"))
    })
    .await;
    db.batch_execute("select outbox.disable_endpoint('down', 'moving house')").await.unwrap();
    let (state, who, advice) = unwell(&db).await.remove("endpoints").unwrap();
    assert_eq!((state.as_str(), who.as_str()), ("warning", "endpoint \"down\": disabled, moving house"));
    assert!(advice.contains("outbox.enable_endpoint()"), "{advice}");
    db.batch_execute("select outbox.enable_endpoint('down')").await.unwrap();
    assert!(!unwell(&db).await.contains_key("endpoints"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histograms_measure_requests_and_the_way_to_the_receiver() {
    let receiver = Receiver::start().unwrap();
    let slow = std::time::Duration::from_millis(300);
    receiver.on("/slow", move |_, times| if times == 0 { Reply::status(503).after(slow) } else { Reply::status(200) });
    let db = server().await.database("histograms").await.unwrap();
    for (name, path) in [("fast", "/hook"), ("slow", "/slow")] {
        let create = "select outbox.create_endpoint($1, $2, schedule => '[0.5]')";
        db.execute(create, &[&name, &receiver.url(path)]).await.unwrap();
        db.execute("select outbox.subscribe($1, array[$1], $1)", &[&name]).await.unwrap();
    }
    let counts = async |name: &str| {
        let buckets = format!("outbox_{name}_duration_seconds_bucket");
        [
            metric(&db, &buckets, r#"{"le": "+Inf"}"#).await,
            metric(&db, &buckets, r#"{"le": "2.5"}"#).await,
            metric(&db, &format!("outbox_{name}_duration_seconds_count"), "{}").await,
        ]
    };
    // A message that has to wait for its time is late only if it comes after that time. A retry is a part of the way.
    db.batch_execute(
        "select outbox.enqueue('fast', '{}', deliver_at => clock_timestamp() + interval '3 seconds');
        select outbox.enqueue('slow', '{}')",
    )
    .await
    .unwrap();
    wait_until("both are delivered", PATIENCE, async || counts("delivery").await[0] == 2.0).await;
    assert_eq!(counts("request").await, [3.0, 3.0, 3.0]);
    assert_eq!(counts("delivery").await, [2.0, 2.0, 2.0]);
    let [requests, deliveries] = ["request", "delivery"].map(|name| format!("outbox_{name}_duration_seconds_sum"));
    assert!(metric(&db, &requests, "{}").await >= slow.as_secs_f64());
    assert!(metric(&db, &deliveries, "{}").await > slow.as_secs_f64());
    // Buckets are cumulative.
    let falls = "select count(*) from (
            select value - lag(value) over (order by (labels ->> 'le')::float8) as step from outbox.metrics()
            where name = 'outbox_delivery_duration_seconds_bucket' and labels ->> 'le' <> '+Inf'
        ) s where step < 0";
    assert_eq!(one::<i64>(&db, falls).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_are_counted_exactly_and_dead_letters_are_named() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/bad", |_, _| Reply::status(400));
    let db = server().await.database("counted").await.unwrap();
    for (name, topics, path) in [("good", "order.#", "/hook"), ("bad", "bad.#", "/bad")] {
        db.execute("select outbox.create_endpoint($1, $2)", &[&name, &receiver.url(path)]).await.unwrap();
        db.execute("select outbox.subscribe($1, array[$2], $1)", &[&name, &topics]).await.unwrap();
    }
    for round in 1..=3 {
        db.batch_execute("select outbox.enqueue('order.a', '{}') from generate_series(1, 100)").await.unwrap();
        db.batch_execute("select outbox.enqueue('bad.a', '{}') from generate_series(1, 7)").await.unwrap();
        settle(&db).await;
        // The metrics are exact whether or not maintenance has rolled up the counters.
        assert_eq!(metric(&db, "outbox_processed_total", r#"{"endpoint": "good"}"#).await, 100.0 * f64::from(round));
        assert_eq!(
            metric(&db, "outbox_dead_lettered_total", r#"{"subscription": "bad"}"#).await,
            7.0 * f64::from(round)
        );
        db.batch_execute("select * from outbox.maintain()").await.unwrap();
    }
    assert_eq!(metric(&db, "outbox_request_seconds_count", r#"{"endpoint": "good"}"#).await, 300.0);
    assert!(metric(&db, "outbox_request_seconds_sum", r#"{"endpoint": "good"}"#).await > 0.0);
    assert_eq!(metric(&db, "outbox_worker_up", "{}").await, 1.0);
    assert_eq!(metric(&db, "outbox_dead_letters_open", "{}").await, 21.0);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.counter").await, 0, "added up");
    let found = unwell(&db).await;
    assert!(found["dead letters"].1.contains("21 open") && found["dead letters"].1.contains("\"bad\""), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_without_a_request_and_pulled_ones_are_counted() {
    let receiver = Receiver::start().unwrap();
    let db = server().await.database("counted_pull").await.unwrap();
    db.batch_execute("select outbox.subscribe('work', '{job.#}', max_attempts => 2)").await.unwrap();
    db.execute("select outbox.create_endpoint('batch', $1)", &[&receiver.url("/hook")]).await.unwrap();
    db.batch_execute(
        "select outbox.subscribe('batched', '{many.#}', 'batch', batch_size => 50, batch_wait => '100ms')",
    )
    .await
    .unwrap();
    // Six deliveries each are completed, dead-lettered by the worker, failed and then cancelled, and skipped. Six more
    // expire.
    db.batch_execute("select outbox.enqueue('job.a', '{}', key => 'k' || n) from generate_series(1, 24) n")
        .await
        .unwrap();
    settle(&db).await;
    let take = async || -> (i64, Vec<i64>) {
        wait_for("deliveries are claimed", PATIENCE, async || {
            let row = db
                .query_one("select max(lease), array_agg(delivery_id) from outbox.claim('work', 'w', 6)", &[])
                .await
                .unwrap();
            Some((row.get::<_, Option<i64>>(0)?, row.get(1)))
        })
        .await
    };
    let (lease, ids) = take().await;
    assert_eq!(ids.len(), 6);
    db.batch_execute(&format!("select outbox.complete({lease})")).await.unwrap();
    let (lease, ids) = take().await;
    assert_eq!(ids.len(), 6);
    db.batch_execute(&format!("select outbox.dead({lease}, null, 'no')")).await.unwrap();
    let (lease, ids) = take().await;
    assert_eq!(ids.len(), 6);
    db.batch_execute(&format!("select outbox.fail({lease}, null, 'later', retry_after => '1 h')")).await.unwrap();
    db.batch_execute("select outbox.cancel(d.message_id, 'me', 'no') from outbox.delivery d where d.state = 'failed'")
        .await
        .unwrap();
    db.batch_execute("select outbox.enqueue('job.b', '{}', expires_at => clock_timestamp() + interval '1 s') from generate_series(1, 6)")
        .await
        .unwrap();
    db.batch_execute("select outbox.enqueue('many.a', '{}') from generate_series(1, 100)").await.unwrap();
    wait_until("some have expired", PATIENCE, async || {
        metric(&db, "outbox_expired_total", r#"{"subscription": "work"}"#).await == 6.0
    })
    .await;
    settle(&db).await;
    db.batch_execute("select outbox.unsubscribe('work')").await.unwrap();
    wait_until("the rest is skipped", PATIENCE, async || {
        metric(&db, "outbox_skipped_total", r#"{"subscription": "work"}"#).await == 6.0
    })
    .await;
    for round in 0..2 {
        for (name, expected) in [
            ("outbox_processed_total", 6.0),
            ("outbox_dead_lettered_total", 6.0),
            ("outbox_failed_total", 6.0),
            ("outbox_cancelled_total", 6.0),
            ("outbox_expired_total", 6.0),
            ("outbox_skipped_total", 6.0),
        ] {
            let found = metric(&db, name, r#"{"subscription": "work"}"#).await;
            assert_eq!(found, expected, "{name}, round {round}");
        }
        // A batch is one request and counts once in the durations.
        assert_eq!(metric(&db, "outbox_processed_total", r#"{"subscription": "batched"}"#).await, 100.0);
        let requests = metric(&db, "outbox_request_seconds_count", r#"{"endpoint": "batch"}"#).await;
        assert_eq!(requests, receiver.total() as f64);
        assert!(requests <= 10.0, "{requests}");
        // The second round checks the same metrics after the roll-up.
        db.batch_execute("select * from outbox.maintain()").await.unwrap();
    }
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.job where job = 'counters'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_the_sequencer_is_named() {
    let server = bare_server().await;
    let db = server.database("named").await.unwrap();
    let holder = server.connect("named").await.unwrap();
    holder
        .batch_execute("set application_name = 'forgotten psql'; begin; lock table outbox._sequencer in exclusive mode")
        .await
        .unwrap();
    let found = wait_for("it is reported", PATIENCE, async || unwell(&db).await.remove("sequencer")).await;
    let pid: i32 = one(&holder, "select pg_backend_pid()").await;
    assert!(
        found.1.contains("forgotten psql") && found.2.contains(&format!("pg_terminate_backend({pid})")),
        "{found:?}"
    );
    assert_eq!(unwell(&db).await["worker"].1, "shared_preload_libraries");
    holder.batch_execute("rollback").await.unwrap();
    assert!(!unwell(&db).await.contains_key("sequencer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatcher_that_fails_or_finds_no_process_says_why() {
    // Three processes are enough for the launcher, the logical replication launcher and one dispatcher.
    let server = Server::start(&[
        ("max_worker_processes", "3"),
        ("max_logical_replication_workers", "0"),
        ("max_parallel_workers", "0"),
    ])
    .await
    .unwrap();
    let first = server.database("first").await.unwrap();
    wait_until("the first has its dispatcher", PATIENCE, async || {
        one::<String>(&first, "select state from outbox.worker_status()").await == "running"
    })
    .await;
    let second = server.database("second").await.unwrap();
    let third = server.database("third").await.unwrap();
    let fourth = server.database("fourth").await.unwrap();
    // The launcher also starts a process to look into databases without the extension, so any of the four may be left out.
    let all = [&first, &second, &third, &fourth];
    let out = wait_for("one is left without", PATIENCE, async || {
        for db in all {
            if unwell(db).await.get("worker").is_some_and(|w| w.1 == "max_worker_processes") {
                return Some(db);
            }
        }
        None
    })
    .await;
    assert!(server.log().contains("raise max_worker_processes"), "{}", server.log());
    // Producers are not affected.
    out.batch_execute("select outbox.enqueue('a.b', '{}')").await.unwrap();

    // The dispatcher fails at its next checkpoint.
    first.batch_execute("alter table outbox.checkpoint rename to checkpoint_away").await.unwrap();
    first.batch_execute("select outbox.enqueue('a.b', '{}')").await.unwrap();
    let found = wait_for("its error is shown", PATIENCE, async || unwell_named(&first).await).await;
    assert!(found.contains("checkpoint"), "{found}");
    first.batch_execute("alter table outbox.checkpoint_away rename to checkpoint").await.unwrap();
    wait_until("it recovers", PATIENCE, async || {
        one::<String>(&first, "select state from outbox.worker_status()").await == "running"
    })
    .await;
}

async fn unwell_named(db: &Client) -> Option<String> {
    let row = db.query_one("select last_error from outbox_internal.workers()", &[]).await.unwrap();
    row.get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_worker_claims_and_what_no_reader_reads_is_named() {
    let db = server().await.database("unclaimed").await.unwrap();
    db.batch_execute("select outbox.subscribe('slow', '{slow.#}'); select outbox.subscribe('bulk', '{bulk.#}')")
        .await
        .unwrap();
    db.batch_execute("select outbox.enqueue('slow.a', '1', deliver_at => clock_timestamp() + interval '1 ms')")
        .await
        .unwrap();
    db.batch_execute("select outbox.enqueue('bulk.a', '1') from generate_series(1, 300)").await.unwrap();
    settle(&db).await;
    assert!(!unwell(&db).await.contains_key("deliveries"));
    // The deliveries have been due for long.
    for (subscription, name) in [("slow", "delivery"), ("bulk", "_bundle")] {
        let moved = db
            .execute(
                &format!(
                    "update outbox.{name} d set due_at = due_at - interval '84 min'
                    where d.subscription_id = (select id from outbox.subscription where name = $1)"
                ),
                &[&subscription],
            )
            .await
            .unwrap();
        assert!(moved > 0, "{subscription}");
        let (state, who, advice) = unwell(&db).await.remove("deliveries").unwrap();
        assert_eq!(state, "warning");
        assert!(who.contains(&format!("\"{subscription}\" has been due for 01:24:")), "{who}");
        assert!(who.contains("no worker has ever claimed one") && advice.contains("start one"), "{who}: {advice}");
        let age = metric(&db, "outbox_oldest_due_seconds", &format!(r#"{{"subscription": "{subscription}"}}"#)).await;
        assert!((5000.0..6000.0).contains(&age), "{age}");
        let status =
            |what: &str| format!("select {what} from outbox.subscription_status where name = '{subscription}'");
        assert!(one::<bool>(&db, &status("oldest_due_age > '84 min' and last_claim_at is null and waiting > 0")).await);
        db.execute("select outbox.pause_subscription($1)", &[&subscription]).await.unwrap();
        assert!(unwell(&db).await["deliveries"].1.contains("is paused"));
        db.execute("select outbox.resume_subscription($1)", &[&subscription]).await.unwrap();
        loop {
            let sql = "select max(lease) from outbox.claim($1, 'w', 1000)";
            let lease: Option<i64> = db.query_one(sql, &[&subscription]).await.unwrap().get(0);
            let Some(lease) = lease else { break };
            // A subscription whose worker is working is not reported as never claimed.
            assert!(!unwell(&db).await.get("deliveries").is_some_and(|d| d.1.contains("has ever claimed")));
            db.execute("select outbox.complete($1)", &[&lease]).await.unwrap();
        }
        assert!(!unwell(&db).await.contains_key("deliveries"));
        assert!(
            one::<bool>(&db, &status("oldest_due_age is null and last_claim_at > created_at and waiting = 0")).await
        );
    }

    db.batch_execute("select outbox.cursor_advance('reports', 1)").await.unwrap();
    assert!(!unwell(&db).await.contains_key("cursors"));
    db.batch_execute("update outbox.cursor set updated_at = updated_at - interval '2 h'").await.unwrap();
    assert!(!unwell(&db).await.contains_key("cursors"), "nothing has waited for it for long");
    db.batch_execute(
        "begin; set local pg_outbox.erasing = on; update outbox.feed set ticked_at = ticked_at - interval '2 h'; commit",
    )
    .await
    .unwrap();
    let (state, who, _) = unwell(&db).await.remove("cursors").unwrap();
    assert!(state == "warning" && who.contains("\"reports\"") && who.contains(" positions and 02:00:"), "{who}");
    // A reader of a topic that nobody uses has read everything when it has confirmed the marker.
    let marker = "select max(position) from outbox.read(1, 1000, topics => '{rare.#}')";
    db.batch_execute(&format!("select outbox.cursor_advance('reports', ({marker}))")).await.unwrap();
    assert!(!unwell(&db).await.contains_key("cursors"));
    // A reader that cannot go on is named at once, with the time of the first error.
    let recorded = "select outbox.cursor_record_error('totals', 'division by zero', error_position => 7)";
    db.batch_execute(recorded).await.unwrap();
    db.batch_execute("update outbox.cursor set error_since = '2026-01-02 03:02:00+00' where consumer = 'totals'")
        .await
        .unwrap();
    db.batch_execute(&recorded.replace("division", "still division")).await.unwrap();
    let (state, who, advice) = unwell(&db).await.remove("cursors").unwrap();
    assert!(who.starts_with("consumer \"totals\" stands at 0 since 2026-01-02 "), "{who}");
    assert!(who.ends_with(": message at 7: still division by zero"), "{who}");
    assert!(state == "warning" && advice.contains("passes nothing over"), "{advice}");
    assert!(metric(&db, "outbox_cursor_error_seconds", r#"{"consumer": "totals"}"#).await > 3600.0);
    db.batch_execute("select outbox.cursor_advance('totals', outbox.head())").await.unwrap();
    assert!(!unwell(&db).await.contains_key("cursors"));
    assert!(metric(&db, "outbox_cursor_error_seconds", "{}").await == 0.0);
}
