//! The cost of functions for operators depends on the number of rows that they show, not on the amount of stored data.
//! Lists can be read to their end.

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply};
use outbox_tests::{one, outbox_harness, rows, server, settle};

/// Queries about the message in $1.
const PAGES: &[&str] = &[
    "select * from outbox.history($1)",
    "select * from outbox.get_message($1)",
    "select * from outbox.archive_get($1)",
    "select * from outbox.list_messages(before => $1 + 1, max_messages => 20)",
    "select * from outbox.list_messages(tenant => 't-3', before => $1 + 1, max_messages => 20)",
    "select * from outbox.list_messages(aggregate_type => 'order', aggregate_id => 'a-3', before => $1 + 1, max_messages => 20)",
    "select * from outbox.list_messages(aggregate_id => 'b-3', before => $1 + 1, max_messages => 20)",
    "select * from outbox.archive_list(before => $1 + 1, max_rows => 20)",
    "select * from outbox.archive_list(tenant => 't-3', before => $1 + 1, max_rows => 20)",
    "select * from outbox.archive_list(endpoint => 'e', before => $1 + 1, max_rows => 20)",
    "select * from outbox.notification_log($1)",
    "select * from outbox.notification_log(before => $1 + 1, max_rows => 20)",
    "select * from outbox.notification_log(subscription => 'e', before => $1 + 1, max_rows => 20)",
];

async fn enqueue(db: &Client, topic: &str, messages: i64) {
    db.execute(
        "select count(outbox.enqueue($1, '{}', tenant => 't-' || n % 50, aggregate_type => case when n % 2 = 1 then 'order' end,
            aggregate_id => case when n % 2 = 1 then 'a-' else 'b-' end || n % 50)) from generate_series(1, $2::bigint) n",
        &[&topic, &messages],
    )
    .await
    .unwrap();
}

/// Returns the number of buffers that each page touches when its plans are cached.
async fn pages(db: &Client, id: i64) -> Vec<i64> {
    let mut all = Vec::new();
    for page in PAGES {
        all.push(buffers(db, &page.replace("$1", &id.to_string())).await);
    }
    all
}

async fn buffers(db: &Client, statement: &str) -> i64 {
    let statement = format!("explain (analyze, buffers, format json) {statement}");
    for _ in 0..2 {
        db.simple_query(&statement).await.unwrap();
    }
    let plan: serde_json::Value = one(db, &statement).await;
    let node = &plan[0]["Plan"];
    node["Shared Hit Blocks"].as_i64().unwrap() + node["Shared Read Blocks"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_costs_the_same_beside_a_large_log() {
    const PILE: i64 = 100_000;
    let receiver = Receiver::start().unwrap();
    receiver.quiet();
    let db = server().await.database("pages").await.unwrap();
    db.execute("select outbox.create_endpoint('e', $1, concurrency => 64)", &[&receiver.url("/hook")]).await.unwrap();
    db.batch_execute("select outbox.subscribe('e', '{order.#}', 'e')").await.unwrap();
    enqueue(&db, "other.before", 2000).await;
    settle(&db).await;
    enqueue(&db, "order.x", 1000).await;
    settle(&db).await;
    let id: i64 = one(&db, "select max(message_id) from outbox.attempt").await;
    db.batch_execute("analyze").await.unwrap();
    let empty = pages(&db, id).await;
    // archive_stats() looks at the last 1,000 messages. They have been delivered here, and are skipped below.
    let delivered = buffers(&db, "select * from outbox.archive_stats()").await;
    // Later messages fill other segments, too.
    for _ in 0..4 {
        enqueue(&db, "other.x", PILE / 4).await;
        settle(&db).await;
        for ring in ["message", "feed", "routing"] {
            db.execute("select outbox.rotate($1)", &[&ring]).await.unwrap();
        }
    }
    db.batch_execute("analyze").await.unwrap();
    let full = pages(&db, id).await;
    for (i, page) in PAGES.iter().enumerate() {
        // The pile has about 4,000 blocks in outbox.message alone. Three more leaves are read.
        assert!(full[i] <= empty[i] * 2 + 300, "{page}: {} buffers, and {} beside {PILE}", empty[i], full[i]);
    }
    let skipped = buffers(&db, "select * from outbox.archive_stats()").await;
    assert!(skipped <= delivered * 2 + 5000, "archive_stats(): {delivered} buffers, and {skipped} beside {PILE}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_an_endpoint_or_a_subscription_are_read_to_their_end() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/failing", |_, _| Reply::status(500));
    let db = server().await.database("rare").await.unwrap();
    for name in ["rare", "failing", "busy"] {
        db.execute(
            "select outbox.create_endpoint($1, $2, concurrency => 64)",
            &[&name, &receiver.url(&format!("/{name}"))],
        )
        .await
        .unwrap();
        db.execute("select outbox.subscribe($1, array[$1 || '.#'], $1, max_attempts => 1)", &[&name]).await.unwrap();
    }
    for topic in ["rare.first", "busy.x", "failing.x", "rare.second"] {
        enqueue(&db, topic, 1).await;
    }
    enqueue(&db, "other.x", 24_000).await;
    enqueue(&db, "rare.third", 1).await;
    settle(&db).await;
    // Like a client, the loop continues after the last row of a page, which is an entry or only says where to continue.
    for (list, id, topic) in [
        ("outbox.archive_list(endpoint => 'rare', max_rows => 2", "id", "topic"),
        ("outbox.notification_log(subscription => 'rare', max_rows => 2", "message_id", "topic_code"),
    ] {
        let (mut found, mut pages, mut before) = (Vec::new(), 0, "null".to_owned());
        loop {
            let page =
                rows(&db, &format!("select {id}::text as id, {topic} as topic from {list}, before => {before})")).await;
            let Some(last) = page.last() else { break };
            before = last["id"].clone().unwrap();
            found.extend(page.into_iter().filter_map(|mut row| row.remove("topic").flatten()));
            pages += 1;
            assert!(pages < 10, "{list}: it has no end");
        }
        assert_eq!(found, ["rare.third", "rare.second", "rare.first"], "{list}");
        assert!(pages >= 3, "{list}: {pages} pages: 10,000 messages are looked at per page");
    }
    let status = "select status || ': ' || integrations_failed from outbox.archive_list(endpoint => 'failing', status => 'failed',
        before => (select id from outbox.message where topic = 'rare.second'))";
    assert_eq!(one::<String>(&db, status).await, "failed: 1");
    let status = "select status || ': ' || subscriber from outbox.notification_log(subscription => 'failing',
        before => (select id from outbox.message where topic = 'rare.second'))";
    assert_eq!(one::<String>(&db, status).await, "failed: failing");
    // None of the 10,000 messages has the topic.
    let topic = "select count(*) filter (where topic is null) || ' of ' || count(*) from outbox.list_messages(topic => 'busy.x',
        before => (select id from outbox.message where topic = 'rare.third'))";
    assert_eq!(one::<String>(&db, topic).await, "1 of 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_found_although_the_clock_was_set_back() {
    let db = server().await.database("clock").await.unwrap();
    enqueue(&db, "other.x", 3).await;
    settle(&db).await;
    let id: i64 = one(&db, "select min(id) + 1 from outbox.message where topic = 'other.x'").await;
    let place: i64 = one(&db, &format!("select outbox_internal.position_of({id})")).await;
    // As if the clock had been set back by an hour after this message was enqueued.
    db.batch_execute(&format!(
        "set pg_outbox.erasing = 'on'; update outbox.message set enqueued_at = enqueued_at + interval '1 h' where id = {id}"
    ))
    .await
    .unwrap();
    assert_eq!(one::<i64>(&db, &format!("select outbox_internal.position_of({id})")).await, place);
    let all =
        "select array_agg(position order by message_id) from outbox_internal.positions_of(array(select id from outbox.message
        where topic = 'other.x'))";
    assert_eq!(one::<Vec<i64>>(&db, all).await, [place - 1, place, place + 1]);
    assert_eq!(one::<String>(&db, &format!("select outbox_internal.message_state({id})")).await, "skipped");
    // A message that is not numbered yet has no position.
    db.batch_execute("begin; select outbox.enqueue('other.x', '{}')").await.unwrap();
    assert_eq!(one::<Option<i64>>(&db, "select outbox_internal.position_of(max(id)) from outbox.message").await, None);
    db.batch_execute("rollback").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_costs_the_same_beside_many() {
    let db = server().await.database("subscribing").await.unwrap();
    let cost = async |name: &str| {
        let mut least = i64::MAX;
        for i in 0..3 {
            let statement = format!("select outbox.subscribe('{name}_{i}', array['a.b'])");
            let plan: serde_json::Value =
                one(&db, &format!("explain (analyze, buffers, format json) {statement}")).await;
            let node = &plan[0]["Plan"];
            least =
                least.min(node["Shared Hit Blocks"].as_i64().unwrap() + node["Shared Read Blocks"].as_i64().unwrap());
        }
        least
    };
    let before = cost("first").await;
    db.batch_execute("select outbox.subscribe('s' || i, array['a.b']) from generate_series(1, 3000) i").await.unwrap();
    let after = cost("last").await;
    assert!(after < before + 60, "{before} buffers became {after}");
}
