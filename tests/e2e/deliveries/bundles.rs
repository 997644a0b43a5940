//! Bundles: a hundred deliveries in one row behave like a hundred rows.

use std::collections::HashSet;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Server, wait_until};
use outbox_tests::{PATIENCE, bare_server, explain, one, outbox_harness, refused, server, settle};

/// Deliveries in a bundle.
const BUNDLE: i64 = 100;

/// Creates a database with a pull subscription, and commits and routes that many messages at once.
async fn jobs(server: &Server, name: &str, messages: i64) -> Client {
    let db = server.database(name).await.unwrap();
    db.batch_execute("select outbox.subscribe('jobs', '{job.#}', max_attempts => 3)").await.unwrap();
    enqueue(&db, messages).await;
    settle(&db).await;
    db
}

async fn enqueue(db: &Client, messages: i64) {
    let sql = "select outbox.enqueue_many('job.do', array(
        select jsonb_build_object('n', n) from generate_series(1, $1::bigint) n), tenant => 't')";
    db.execute(sql, &[&messages]).await.unwrap_or_else(|e| panic!("{}", explain(&e)));
}

/// The result of a claim: the lease, and the ids, positions, attempts and messages of its deliveries.
#[derive(Default, Debug)]
struct Claimed {
    lease: i64,
    ids: Vec<i64>,
    positions: Vec<i64>,
    attempts: Vec<i32>,
    messages: Vec<i64>,
}

async fn claim(db: &Client, max: i32) -> Claimed {
    let rows = db.query("select * from outbox.claim('jobs', 'w', $1)", &[&max]).await;
    let rows = rows.unwrap_or_else(|e| panic!("{}", explain(&e)));
    let mut claimed = Claimed { lease: rows.first().map_or(0, |row| row.get("lease")), ..Claimed::default() };
    for row in &rows {
        assert_eq!(row.get::<_, i64>("lease"), claimed.lease);
        assert!(row.get::<_, Option<serde_json::Value>>("payload").is_some());
        claimed.ids.push(row.get("delivery_id"));
        claimed.positions.push(row.get("position"));
        claimed.attempts.push(row.get("attempt"));
        claimed.messages.push(row.get("message_id"));
    }
    claimed
}

async fn complete(db: &Client, lease: i64) -> Vec<i64> {
    db.query_one("select outbox.complete($1)", &[&lease]).await.unwrap().get(0)
}

/// Stores a claim hint, as a slow claim that had walked up to there would. Later claims begin there.
async fn remember(db: &Client, levels: &str, since: &str) {
    let set = |levels: &str, since: &str| {
        format!("select outbox_internal.set_claim_hints(id, '{levels}', {since}, '1 h') from outbox.subscription;")
    };
    let (noticed, walked) = (set("{99999}", "'{0}'"), set(levels, since));
    db.batch_execute(&format!(
        "{noticed} begin; select outbox_internal.claim_hints(id) from outbox.subscription; {walked} commit"
    ))
    .await
    .unwrap();
}

/// Returns the number of bundles and the number of rows for single deliveries.
async fn kept_as(db: &Client) -> (i64, i64) {
    (one(db, "select count(*) from outbox._bundle").await, one(db, "select count(*) from outbox.delivery").await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_are_claimed_completed_and_logged_as_one() {
    let db = jobs(server().await, "bundle_whole", 210).await;
    assert_eq!(kept_as(&db).await, (2, 10));
    let count = "select deliveries from outbox.count_by_state() where state = 'pending'";
    assert_eq!(one::<i64>(&db, count).await, 210);
    assert_eq!(one::<i64>(&db, "select waiting from outbox.stats()").await, 210);
    assert_eq!(
        one::<i64>(&db, "select count(*) from outbox.delivery_status where state = 'pending' and is_due").await,
        210
    );

    let first = claim(&db, 100).await;
    assert_eq!(first.ids.len() as i64, BUNDLE);
    let sorted = |list: &[i64]| list.is_sorted() && list.iter().collect::<HashSet<_>>().len() == list.len();
    assert!(sorted(&first.positions) && sorted(&first.ids), "in order: {first:?}");
    assert!(first.attempts.iter().all(|attempt| *attempt == 1));
    assert_eq!(kept_as(&db).await, (2, 10), "no row was made of them");
    let (message, id) = (first.messages[7], first.ids[7]);
    let status = format!("select state from outbox.get_message({message})");
    assert_eq!(one::<String>(&db, &status).await, "processing");
    assert_eq!(
        one::<String>(&db, &format!("select locked_by from outbox.delivery_status where delivery_id = {id}")).await,
        "w"
    );
    for call in [
        format!("select outbox.erase({message}, 'me', 'x')"),
        format!("select outbox.cancel({message}, 'me')"),
        format!("select outbox.claim_delivery({id}, 'other')"),
        format!("select outbox.move_to_dead_letters({id}, 'x', 'me')"),
        format!("select outbox.reschedule({id}, now(), 'me')"),
    ] {
        assert_eq!(refused(&db, &call).await.code().code(), "OB003", "{call}");
    }
    assert_eq!(complete(&db, first.lease).await, first.ids);
    assert_eq!(complete(&db, first.lease).await, Vec::<i64>::new(), "nothing twice");

    // One row of the log states the outcome of each delivery.
    let log = db.query_one("select outcome, worker, cardinality(positions) from outbox.attempt", &[]).await.unwrap();
    assert_eq!((log.get::<_, &str>(0), log.get::<_, &str>(1), log.get::<_, i32>(2)), ("completed", "w", 100));
    assert_eq!(one::<String>(&db, &status).await, "completed");
    let history = format!("select count(*) from outbox.history({message}) where what = 'completed'");
    assert_eq!(one::<i64>(&db, &history).await, 1);
    assert_eq!(one::<String>(&db, &format!("select status from outbox.archive_get({message})")).await, "completed");
    let of_id = format!(
        "select message_id from outbox.delivery_status where delivery_id = {id} and state = 'completed' and pull"
    );
    assert_eq!(one::<i64>(&db, &of_id).await, message);
    assert_eq!(refused(&db, &format!("select outbox.claim_delivery({id}, 'w')")).await.code().code(), "OB002");
    for tenant in ["null", "'t'"] {
        let count = format!("select deliveries from outbox.count_by_state({tenant}) where state = 'completed'");
        assert_eq!(one::<i64>(&db, &count).await, BUNDLE, "of tenant {tenant}");
    }

    // The next claim gets the remaining bundle, and the one after it gets the rows.
    let rest = claim(&db, 1000).await;
    assert_eq!(rest.ids.len() as i64, BUNDLE, "bundles and rows are not mixed");
    assert!(rest.positions[0] > first.positions[99]);
    let last = claim(&db, 1000).await;
    assert_eq!(last.ids.len(), 10);
    assert_eq!(complete(&db, rest.lease).await.len() + complete(&db, last.lease).await.len(), 110);
    assert_eq!(kept_as(&db).await, (0, 0));
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.lease").await, 0);
    let done: i64 = one(&db, "select deliveries from outbox.count_by_state() where state = 'completed'").await;
    assert_eq!(done, 210);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_messages_side_by_side_are_in_bundles_of_their_own_and_claimed_once() {
    let db = server().await.database("bundle_events").await.unwrap();
    db.batch_execute(
        "select outbox.subscribe('jobs', '{job.#}', source => 'all');
        begin;
        select outbox.append_many('job-1', array_fill('job.do'::text, '{150}'), array_fill('{\"n\": 1}'::jsonb, '{150}'));
        select count(outbox.enqueue('job.do', '{\"n\": 2}')) from generate_series(1, 150);
        select count(outbox.enqueue('job.do', '{\"n\": 3}')), count(outbox.append('job-2', 'job.do', '{\"n\": 4}'))
        from generate_series(1, 100);
        commit",
    )
    .await
    .unwrap();
    settle(&db).await;
    assert!(one::<i64>(&db, "select count(*) from outbox._bundle").await > 0);
    let mut positions = Vec::new();
    wait_until("all are done", PATIENCE, async || {
        let claimed = claim(&db, 100).await;
        assert_eq!(complete(&db, claimed.lease).await, claimed.ids);
        positions.extend(claimed.positions);
        positions.len() >= 500
    })
    .await;
    positions.sort_unstable();
    let all = "select array_agg(r.position order by r.position) from outbox.read(0, 10000, source => 'all') r where r.topic = 'job.do'";
    assert_eq!(positions, one::<Vec<i64>>(&db, all).await);
    let logged = "select count(*) from outbox.attempt_log where outcome = 'completed'";
    assert_eq!(one::<i64>(&db, logged).await, 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_fewer_has_a_bundle_taken_apart() {
    let db = jobs(server().await, "bundle_few", 200).await;
    let mut positions = Vec::new();
    for max in [1, 10, 60, 100, 100] {
        let batch = claim(&db, max).await;
        assert!(batch.ids.len() <= max as usize);
        positions.extend(batch.positions);
        complete(&db, batch.lease).await;
    }
    assert_eq!(positions, (positions[0]..positions[0] + 200).collect::<Vec<_>>(), "in order");
    assert_eq!(kept_as(&db).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_ten_and_more_has_them_split_off() {
    let db = jobs(server().await, "bundle_split", 200).await;
    let (mut positions, mut leases) = (Vec::new(), Vec::new());
    for (max, size, bundles) in [(30, 30, 3), (50, 50, 4), (99, 20, 4), (10, 10, 5)] {
        let batch = claim(&db, max).await;
        assert_eq!(batch.ids.len(), size);
        assert_eq!(kept_as(&db).await, (bundles, 0), "after {max}");
        positions.extend(batch.positions);
        leases.push((batch.lease, batch.ids, batch.messages));
    }
    assert_eq!(positions, (positions[0]..positions[0] + 110).collect::<Vec<_>>(), "in order");
    let message = leases[1].2[0];
    assert_eq!(refused(&db, &format!("select outbox.cancel({message}, 'me')")).await.code().code(), "OB003");
    // Cancelling the last delivery of the remaining bundle splits the bundle into rows.
    let last: i64 = one(&db, "select max(id) from outbox.message where topic = 'job.do'").await;
    assert_eq!(one::<i64>(&db, &format!("select outbox.cancel({last}, 'me')")).await, 1);
    assert_eq!(kept_as(&db).await, (4, 89));
    for (lease, ids, _) in &leases[1..] {
        assert_eq!(complete(&db, *lease).await, *ids);
    }
    db.execute("select outbox.release($1)", &[&leases[0].0]).await.unwrap();
    let again = claim(&db, 1000).await;
    assert_eq!(again.ids.len(), 89 + 30);
    assert_eq!(again.ids[..30], leases[0].1, "first what was claimed first");
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.attempt where positions is not null").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_a_bundle_may_fare_differently() {
    let db = jobs(server().await, "bundle_one", 100).await;
    let batch = claim(&db, 100).await;
    let changed: Vec<i64> = db
        .query_one(
            "select outbox.fail($1, $2, 'no luck', interval '0') || outbox.dead($1, $3, 'poison') || outbox.release($1, $4)",
            &[&batch.lease, &vec![batch.ids[3]], &vec![batch.ids[5]], &vec![batch.ids[8]]],
        )
        .await
        .unwrap_or_else(|e| panic!("{}", explain(&e)))
        .get(0);
    assert_eq!(changed, [batch.ids[3], batch.ids[5], batch.ids[8]]);
    assert_eq!(complete(&db, batch.lease).await.len(), 97);
    let log = "select string_agg(distinct outcome, ' ' order by outcome) from outbox.attempt";
    assert_eq!(one::<String>(&db, log).await, "completed dead failed returned");
    let again = claim(&db, 100).await;
    assert_eq!(again.ids.iter().collect::<HashSet<_>>(), HashSet::from([&batch.ids[3], &batch.ids[8]]));
    assert_eq!(again.attempts.iter().sum::<i32>(), 3, "the failed one has used a try, the released one has not");

    // Naming all deliveries completes the bundle with one row of the log. With results there is a row for each delivery.
    enqueue(&db, 200).await;
    settle(&db).await;
    for (sql, rows) in
        [("select outbox.complete($1, $2)", 1), ("select outbox.complete($1, $2, to_jsonb($2::bigint[]))", 100)]
    {
        let before: i64 = one(&db, "select count(*) from outbox.attempt").await;
        let batch = claim(&db, 100).await;
        assert_eq!(batch.ids.len(), 100);
        let mut named = batch.ids.clone();
        named.reverse();
        db.execute(sql, &[&batch.lease, &named]).await.unwrap_or_else(|e| panic!("{sql}: {}", explain(&e)));
        assert_eq!(one::<i64>(&db, "select count(*) from outbox.attempt").await - before, rows, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bundle_whose_worker_died_comes_back_with_the_try_counted() {
    let db = jobs(server().await, "bundle_died", 100).await;
    db.batch_execute("select count(*) from outbox.claim('jobs', 'dies', 100, '10 ms')").await.unwrap();
    wait_until("the lease was taken back", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.lease").await == 0
    })
    .await;
    let again = claim(&db, 100).await;
    assert_eq!(again.ids.len(), 100);
    assert!(again.attempts.iter().all(|attempt| *attempt == 2));
    assert_eq!(complete(&db, again.lease).await.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_reach_into_bundles() {
    let db = jobs(server().await, "bundle_operators", 600).await;
    let first: i64 = one(&db, "select min(id) from outbox.message where topic = 'job.do'").await;
    let delivery = async |n: i64| {
        let of = format!("select delivery_id from outbox.delivery_status where message_id = {}", first + n);
        one::<i64>(&db, &of).await
    };
    assert_eq!(one::<i64>(&db, &format!("select outbox.cancel({}, 'me')", first + 50)).await, 1);
    db.batch_execute(&format!("select outbox.erase({}, 'me', 'gdpr')", first + 150)).await.unwrap();
    let (moved, later) = (delivery(250).await, delivery(350).await);
    db.batch_execute(&format!("select outbox.move_to_dead_letters({moved}, 'by hand', 'me')")).await.unwrap();
    db.batch_execute(&format!("select outbox.reschedule({later}, now() + interval '1 h', 'me')")).await.unwrap();
    let retried = one::<i64>(&db, &format!("select outbox.retry({}, 'jobs', 'me')", first + 450)).await;
    assert_eq!(retried, delivery(450).await);
    assert_eq!(kept_as(&db).await.0, 1, "the others were taken apart");
    let single: i64 =
        one(&db, &format!("select position from outbox.claim_delivery({}, 'w')", delivery(550).await)).await;
    let mut seen = HashSet::from([single]);
    loop {
        let batch = claim(&db, 100).await;
        if batch.ids.is_empty() {
            break;
        }
        seen.extend(&batch.positions);
        complete(&db, batch.lease).await;
    }
    assert_eq!(seen.len(), 596, "all but those that were cancelled, erased, moved or put off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_due_before_a_bundle_or_has_priority_comes_first() {
    let db = server().await.database("bundle_order").await.unwrap();
    db.batch_execute("select outbox.subscribe('jobs', '{job.#}')").await.unwrap();
    let ids =
        "select string_agg(message_id::text, ' ' order by priority desc, position) from outbox.claim('jobs', 'w', 100)";
    let early: i64 = one(&db, "select outbox.enqueue('job.early', '{}')").await;
    settle(&db).await;
    enqueue(&db, 100).await;
    settle(&db).await;
    let urgent: i64 = one(&db, "select outbox.enqueue('job.urgent', '{}', priority => 5)").await;
    let late: i64 = one(&db, "select outbox.enqueue('job.late', '{}')").await;
    let idle: i64 = one(&db, "select outbox.enqueue('job.idle', '{}', priority => -5)").await;
    settle(&db).await;
    assert_eq!(one::<String>(&db, ids).await, format!("{urgent} {early}"));
    assert_eq!(claim(&db, 100).await.ids.len() as i64, BUNDLE);
    assert_eq!(one::<String>(&db, ids).await, format!("{late} {idle}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_between_bundles_keep_their_place_in_a_session_that_remembers() {
    let db = jobs(server().await, "bundle_between", 100).await;
    // A single row waits between two bundles, and all have been due for more than a second.
    enqueue(&db, 1).await;
    settle(&db).await;
    enqueue(&db, 100).await;
    settle(&db).await;
    db.batch_execute(
        "update outbox._bundle set due_at = due_at - interval '10 s';
        update outbox.delivery set due_at = due_at - interval '10 s'",
    )
    .await
    .unwrap();
    remember(&db, "{0}", "array[0]").await;
    let mut sizes = Vec::new();
    let mut positions = Vec::new();
    for _ in 0..3 {
        let batch = claim(&db, 1000).await;
        sizes.push(batch.ids.len());
        positions.extend(batch.positions);
    }
    assert_eq!(sizes, [100, 1, 100]);
    assert!(positions.is_sorted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_remembers_of_the_index_hides_no_bundle() {
    let db = jobs(server().await, "bundle_marks", 100).await;
    // The hint is that of a slow claim a moment ago, which saw deliveries of priority 3 only, or of 3 and 0.
    let now = "outbox_internal.us(clock_timestamp())";
    for (levels, since) in [("{3}", format!("array[{now}]")), ("{3, 0}", format!("array[{now}, {now}]"))] {
        settle(&db).await;
        remember(&db, levels, &since).await;
        let batch = claim(&db, 1).await;
        assert_eq!(batch.ids.len(), 1, "with {levels}");
        complete(&db, batch.lease).await;
        db.batch_execute("delete from outbox.delivery").await.unwrap();
        enqueue(&db, 100).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_of_the_subscription_ends_its_bundles() {
    let db = jobs(server().await, "bundle_unsubscribe", 300).await;
    let leased = claim(&db, 100).await;
    db.batch_execute("select outbox.unsubscribe('jobs')").await.unwrap();
    let skipped = "select count(*) from outbox.attempt where outcome = 'skipped'";
    assert_eq!(one::<i64>(&db, skipped).await, 200);
    db.execute("select outbox.release($1)", &[&leased.lease]).await.unwrap();
    wait_until("what was given back is skipped, too", PATIENCE, async || one::<i64>(&db, skipped).await == 300).await;
    assert_eq!(kept_as(&db).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_of_all_sizes_share_a_backlog() {
    const MESSAGES: i64 = 25_000;
    let server = server().await;
    let db = jobs(server, "bundle_many", MESSAGES).await;
    let mut workers = Vec::new();
    for max in [1, 7, 100, 150, 100, 1000] {
        let db = server.connect("bundle_many").await.unwrap();
        workers.push(tokio::spawn(async move {
            let (mut got, mut idle) = (Vec::new(), 0);
            // An empty claim is not the end. The window is refilled meanwhile, and another worker may hold a bundle.
            while idle < 300 {
                let batch = claim(&db, max).await;
                idle = if batch.ids.is_empty() { idle + 1 } else { 0 };
                if batch.ids.is_empty() {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                } else {
                    assert_eq!(complete(&db, batch.lease).await, batch.ids);
                }
                got.extend(batch.positions);
            }
            got
        }));
    }
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    assert_eq!(all.len() as i64, MESSAGES, "each once");
    assert_eq!(all.iter().collect::<HashSet<_>>().len() as i64, MESSAGES);
    let done: i64 = one(&db, "select deliveries from outbox.count_by_state() where state = 'completed'").await;
    assert_eq!(done, MESSAGES);
    assert_eq!(kept_as(&db).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_is_filled_again_without_waiting_for_the_poll() {
    let server = Server::start(&[("pg_outbox.poll_interval", "1min")]).await.unwrap();
    let db = jobs(&server, "bundle_refill", 1).await;
    let first = claim(&db, 1).await;
    complete(&db, first.lease).await;
    // 40,000 messages are four windows.
    enqueue(&db, 40_000).await;
    let mut done = 0;
    wait_until("all are worked off", PATIENCE, async || {
        let batch = claim(&db, 1000).await;
        done += complete(&db, batch.lease.max(1)).await.len();
        done == 40_000
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_dispatcher_a_claim_makes_and_takes_bundles() {
    let db = bare_server().await.database("bundle_bare").await.unwrap();
    db.batch_execute("select outbox.subscribe('jobs', '{job.#}')").await.unwrap();
    enqueue(&db, 300).await;
    let mut got = 0;
    for _ in 0..20 {
        let batch = claim(&db, 100).await;
        got += complete(&db, batch.lease.max(1)).await.len();
    }
    assert_eq!(got, 300);
    assert!(one::<i64>(&db, "select count(*) from outbox.attempt where positions is not null").await >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_waiting_bundle_outlive_their_leaf() {
    let server = bare_server().await;
    let db = server.database("bundle_kept").await.unwrap();
    db.batch_execute("select outbox.subscribe('jobs', '{job.#}')").await.unwrap();
    enqueue(&db, 300).await;
    let leased = claim(&db, 100).await;
    assert_eq!(leased.ids.len() as i64, BUNDLE);
    assert_eq!(kept_as(&db).await.0, 3, "one of them leased");
    let leaf: i16 = one(&db, "select min(message_segment) from outbox._bundle").await;
    let kept: i64 = one(&db, &format!("select outbox_internal.retain_messages({leaf}::smallint, 1000)")).await;
    assert_eq!(kept, 300);
    db.batch_execute(&format!("truncate outbox._message_{leaf:02}")).await.unwrap();
    db.batch_execute("select outbox.maintain()").await.unwrap();
    assert_eq!(one::<i64>(&db, "select count(*) from outbox._message_retained").await, 300);
    db.execute("select outbox.release($1)", &[&leased.lease]).await.unwrap();
    let mut got = HashSet::new();
    for _ in 0..10 {
        let batch = claim(&db, 100).await;
        got.extend(batch.positions.clone());
        complete(&db, batch.lease.max(1)).await;
    }
    assert_eq!(got.len(), 300, "with their payloads");
}
