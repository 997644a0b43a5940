//! Every page, with ordinary and with hostile content, as the roles that may see it and as those that may not.

use outbox_harness::{Receiver, wait_until};

use crate::browser::{Browser, encoded};
use crate::{PATIENCE, TOKEN, dashboard, database, dead_letters, endpoint};

pub(crate) const PAGES: [&str; 10] = [
    "/",
    "/subscriptions",
    "/endpoints",
    "/dead-letters",
    "/messages",
    "/tail",
    "/workers",
    "/sagas",
    "/streams",
    "/storage",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_shows_what_there_is() {
    let db = database("pages").await;
    let receiver = Receiver::start().unwrap();
    endpoint(&db, "hooks", &receiver).await;
    let ids = dead_letters(&db, 3, "the card was declined").await;
    let sent = "select outbox.enqueue('push.it', '{\"secret\": \"of the payload\"}', key => 'k-1', tenant => 'acme')";
    let pushed: i64 = db.query_one(sent, &[]).await.unwrap().get(0);
    db.batch_execute(
        "select outbox.append('order-7', 'order.created', '{}');
        select outbox.cursor_record_error('totals', 'division by zero', error_position => 3);
        select outbox.saga_save('checkout', 'order-7', '{\"card\": \"of the state\"}', 0, 'failed', failure_reason => 'no stock');
        select outbox.saga_save('refund', 'order-8', '{}', 0)",
    )
    .await
    .unwrap();
    wait_until("it is delivered", PATIENCE, async || !receiver.arrivals().is_empty()).await;
    let mut sees = Browser::logged_in(dashboard("sees", "pages").await, TOKEN, "").await;

    let overview = sees.get("/").await;
    assert_eq!(overview.status, 200, "{}", overview.body);
    assert!(overview.body.contains("dead letters") && overview.body.contains("outbox dlq list"), "{}", overview.body);
    assert!(
        overview.body.contains("Dispatcher") && overview.body.contains("running") && overview.body.contains("<svg")
    );
    assert!(overview.body.contains("division by zero"), "a reader that fails is named");
    let subscriptions = sees.get("/subscriptions").await.body;
    assert!(subscriptions.contains("work") && subscriptions.contains("hooks"), "{subscriptions}");
    let one = sees.get("/subscription?name=work").await;
    assert!(one.status == 200 && one.body.contains("job.#"), "{}", one.body);
    let endpoints = sees.get("/endpoints").await.body;
    assert!(endpoints.contains("hooks") && !endpoints.contains("hidden-key"), "{endpoints}");
    let one = sees.get("/endpoint?name=hooks").await;
    assert!(one.status == 200 && one.body.contains("Breaker") && !one.body.contains("hidden-key"), "{}", one.body);
    let groups = sees.get("/dead-letters").await.body;
    assert!(groups.contains("the card was declined") && groups.contains("rejected"), "{groups}");
    let subscription: i32 =
        db.query_one("select id from outbox.subscription where name = 'work'", &[]).await.unwrap().get(0);
    let cause = "select coalesce(last_status::text, last_error_class, '') from outbox.dead_letter limit 1";
    let cause: String = db.query_one(cause, &[]).await.unwrap().get(0);
    let group = format!("/dead-letters?subscription_id={subscription}&reason=rejected&cause={}", encoded(&cause));
    let group = sees.get(&group).await.body;
    assert_eq!(group.matches("href=\"/dead-letter?id=").count(), 3, "{group}");
    let letter: i64 = db.query_one("select min(id) from outbox.dead_letter", &[]).await.unwrap().get(0);
    assert!(sees.get(&format!("/dead-letter?id={letter}")).await.body.contains("the card was declined"));

    // Messages are found by id, webhook id, topic, key, tenant and time.
    let webhook_id = "select outbox.webhook_id(id, enqueued_at) from outbox.message where id = $1";
    let webhook_id: String = db.query_one(webhook_id, &[&pushed]).await.unwrap().get(0);
    let link = format!("href=\"/message?id={pushed}\"");
    for search in [
        format!("id={pushed}"),
        format!("id={webhook_id}"),
        "topic=push.it".to_owned(),
        "key=k-1".to_owned(),
        "tenant=acme".to_owned(),
        "key=k-1&from=2020-01-01&to=2100-01-01&tenant=acme".to_owned(),
        "state=completed&topic=push.it".to_owned(),
    ] {
        let found = sees.get(&format!("/messages?{search}")).await;
        assert!(found.status == 200 && found.body.contains(&link), "{search}: {}", found.body);
        let other = format!("href=\"/message?id={}\"", ids[0]);
        assert!(!found.body.contains(&other), "{search} finds no other message");
    }
    assert!(!sees.get("/messages?key=k-1&to=2020-01-01").await.body.contains(&link));
    assert!(!sees.get("/messages?key=k-2").await.body.contains(&link));

    // The content is shown when somebody asks for it.
    let message = sees.get(&format!("/message?id={pushed}")).await.body;
    assert!(
        message.contains("completed") && message.contains("numbered") && message.contains(&webhook_id),
        "{message}"
    );
    assert!(!message.contains("of the payload"), "the payload is hidden");
    let content = sees.get(&format!("/message?id={pushed}&content=1")).await.body;
    assert!(content.contains("of the payload"), "{content}");
    let dead = sees.get(&format!("/message?id={}", ids[0])).await.body;
    assert!(dead.contains("dead letter") && dead.contains("the card was declined"), "{dead}");

    // The newest messages are shown, and those of a topic.
    let tail = sees.get("/tail").await.body;
    assert!(tail.contains(&link) && tail.contains("job.run") && tail.contains("data-live=\"fast\""), "{tail}");
    let tail = sees.get("/tail?topic=push.it").await.body;
    assert!(tail.contains(&link) && !tail.contains("job.run"), "{tail}");

    // Sagas are found by type and status. Their state is not shown.
    let sagas = sees.get("/sagas").await.body;
    assert!(sagas.contains("order-7") && sagas.contains("order-8") && sagas.contains("no stock"), "{sagas}");
    let failed = sees.get("/sagas?status=failed").await.body;
    assert!(failed.contains("order-7") && !failed.contains("order-8"), "{failed}");
    assert!(!sees.get("/sagas?type=refund").await.body.contains("order-7"));
    let saga = sees.get("/saga?type=checkout&id=order-7").await;
    assert!(
        saga.status == 200 && saga.body.contains("no stock") && !saga.body.contains("of the state"),
        "{}",
        saga.body
    );

    let workers = sees.get("/workers").await.body;
    assert!(workers.contains("totals") && workers.contains("division by zero"), "{workers}");
    assert!(sees.get("/streams").await.body.contains("order-7"));
    assert!(sees.get("/streams?category=order").await.body.contains("order-7"));
    assert!(!sees.get("/streams?category=other").await.body.contains("order-7"));
    assert!(sees.get("/stream?name=order-7").await.body.contains("Stored events"));
    let storage = sees.get("/storage").await.body;
    assert!(storage.contains("pg_outbox.message_retention") && storage.contains("grant"), "{storage}");

    for (path, status) in [
        ("/nothing", 404),
        ("/message?id=424242", 404),
        ("/message", 400),
        ("/message?id=x", 400),
        ("/messages?id=x", 400),
        ("/messages?from=yesterdayish", 400),
        ("/messages?state=unknown", 400),
        ("/messages?key=a&state=dead", 400),
        ("/messages?key=%00", 400),
        ("/subscription?name=none", 404),
        ("/endpoint?name=none", 404),
        ("/dead-letter?id=424242", 404),
        ("/stream?name=none-1", 404),
        ("/saga?type=none&id=none", 404),
        ("/replay?id=424242", 404),
        ("/replay?id=x", 400),
    ] {
        let answer = sees.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_go_on_page_by_page() {
    let db = database("paged").await;
    db.batch_execute(
        "select outbox.subscribe('s' || lpad(i::text, 3, '0'), array['a']) from generate_series(1, 150) i",
    )
    .await
    .unwrap();
    db.batch_execute("select outbox.enqueue('t', '1', key => 'k') from generate_series(1, 120)").await.unwrap();
    let mut sees = Browser::logged_in(dashboard("sees", "paged").await, TOKEN, "").await;
    let first = sees.get("/subscriptions").await.body;
    assert!(first.contains("s100") && !first.contains("s101") && first.contains("/subscriptions?after=s100"));
    let second = sees.get("/subscriptions?after=s100").await.body;
    assert!(second.contains("s150") && !second.contains("s100") && !second.contains("rel=\"next\""));
    db.batch_execute("select outbox.saga_save('s', lpad(i::text, 3, '0'), '{}', 0) from generate_series(1, 150) i")
        .await
        .unwrap();
    let first = sees.get("/sagas").await.body;
    assert!(first.contains(">100<") && !first.contains(">101<"), "{first}");
    let second = sees.get("/sagas?after_type=s&after=100").await.body;
    assert!(second.contains(">101<") && second.contains(">150<") && !second.contains("rel=\"next\""), "{second}");
    for search in ["topic=t", "key=k"] {
        let mut path = format!("/messages?{search}");
        let mut seen = 0;
        for _ in 0..3 {
            let page = sees.get(&path).await.body;
            seen += page.matches("href=\"/message?id=").count();
            let Some(next) = page.split("rel=\"next\" href=\"").nth(1) else { break };
            path = next.split('"').next().unwrap().replace("&amp;", "&");
        }
        assert_eq!(seen, 120, "{search}: each message is on one page");
    }
}

/// Every text that a producer, a receiver or a worker writes is text on every page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_content_is_text() {
    let db = database("hostile").await;
    let hostile = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u{202e}\u{2066}gpj";
    let long = format!("{hostile}{}", "w".repeat(50_000));
    let receiver = Receiver::start().unwrap();
    endpoint(&db, "hooks", &receiver).await;
    let ids = dead_letters(&db, 1, &long).await;
    let enqueue =
        "select outbox.enqueue('push.it', to_jsonb($1::text), key => left($2, 100), tenant => left($2, 100), \
        headers => jsonb_build_object('x-a', left($2, 100)), metadata => jsonb_build_object('correlation_id',
            left($2, 100)))";
    let pushed: i64 = db.query_one(enqueue, &[&long, &hostile]).await.unwrap().get(0);
    db.execute("select outbox.cursor_record_error('c', $1)", &[&&long[..2000]]).await.unwrap();
    db.execute("select outbox.claim('work', left($1, 100))", &[&hostile]).await.unwrap();
    db.execute("select outbox.saga_save('s', left($1, 100), '{}', 0, 'failed', failure_reason => $1)", &[&hostile])
        .await
        .unwrap();
    db.execute("select outbox.disable_endpoint('hooks', left($1, 200))", &[&hostile]).await.unwrap();
    wait_until("it is delivered", PATIENCE, async || !receiver.arrivals().is_empty()).await;
    let address = dashboard("acts", "hostile").await;
    let mut acts = Browser::logged_in(address, TOKEN, "").await;
    let message = format!("/message?id={pushed}&content=1");
    let dead = format!("/message?id={}", ids[0]);
    let search = format!("/messages?key={}", encoded(hostile));
    let mut paths: Vec<&str> = PAGES.to_vec();
    paths.extend([
        message.as_str(),
        &dead,
        &search,
        "/endpoint?name=hooks",
        "/subscription?name=work",
        "/dead-letter?id=1",
    ]);
    let mut shown = 0;
    for path in paths {
        let page = acts.get(path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.body);
        let code = page.body.replace("<script src=\"/script.js\" defer>", "");
        assert!(!code.contains("<script") && !code.contains("<img"), "{path}: {code}");
        // Fields of forms hold what is sent back, and are shown on their own.
        let shown_text: String =
            page.body.split(" value=\"").map(|part| part.split_once('"').map_or(part, |cut| cut.1)).collect();
        assert!(!shown_text.contains(['\u{202e}', '\u{2066}']), "{path}: the direction is turned");
        assert!(page.body.len() < 300_000, "{path}: {} bytes", page.body.len());
        shown += usize::from(page.body.contains("&lt;script&gt;"));
    }
    assert!(shown >= 8, "only {shown} pages show what was written");
    let unknown = acts.get(&format!("/subscription?name={}", encoded(hostile))).await;
    assert!(unknown.status == 404 && !unknown.body.contains("<script>"), "{}", unknown.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_sees_what_its_capabilities_allow() {
    let _db = database("roles").await;
    let mut counts = Browser::logged_in(dashboard("counts", "roles").await, TOKEN, "").await;
    assert_eq!(counts.get("/").await.status, 200);
    for path in &PAGES[1..] {
        let page = counts.get(path).await;
        assert!(page.status == 403 && page.body.contains("grant_to"), "{path}: {}", page.body);
    }
    let mut nobody = Browser::logged_in(dashboard("nobody", "roles").await, TOKEN, "").await;
    for path in PAGES {
        assert_eq!(nobody.get(path).await.status, 403, "{path}");
    }
}
