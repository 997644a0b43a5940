//! The settings of endpoints: policies, schedules, pauses, breakers, limits and secrets. Disabled endpoints.

use std::collections::HashSet;
use std::time::Duration;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Arrival, Receiver, Reply, Server, Stop, postgres, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, server, settle};

/// Creates a database with one endpoint with these further arguments, and a subscription to all topics below `order`.
async fn shop(server: &Server, name: &str, url: &str, endpoint: &str, subscription: &str) -> Client {
    let db = server.database(name).await.unwrap();
    db.batch_execute(&format!(
        "select outbox.create_endpoint('shop', '{url}' {endpoint});
        select outbox.subscribe('orders', '{{order.#}}', 'shop' {subscription})"
    ))
    .await
    .unwrap();
    db
}

async fn enqueue(db: &Client, n: i64) {
    db.execute("select outbox.enqueue('order.created', jsonb_build_object('n', $1::bigint), key => 'k' || $1)", &[&n])
        .await
        .unwrap();
}

async fn until(db: &Client, what: &str, condition: &str) {
    let query = format!("select ({condition})::boolean");
    wait_until(what, PATIENCE, async || one::<Option<bool>>(db, &query).await == Some(true)).await;
}

fn ns(arrivals: &[Arrival]) -> Vec<i64> {
    arrivals.iter().map(|arrival| arrival.json()["n"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_s_policy_wins_over_its_endpoint_s_and_a_schedule_is_kept() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/a", |_, _| Reply::status(404));
    receiver.on("/b", |_, count| Reply::status(if count < 3 { 500 } else { 200 }));
    let db = server().await.database("policy").await.unwrap();
    db.batch_execute(&format!(
        "select outbox.create_endpoint('a', '{}', policy => '{{\"404\": \"retry\", \"5xx\": \"dead\"}}');
        select outbox.create_endpoint('b', '{}', schedule => '{{\"delays\": [0.05], \"jitter\": 0}}');
        select outbox.subscribe('strict', '{{order.#}}', 'a', policy => '{{\"404\": \"dead\"}}');
        select outbox.subscribe('patient', '{{order.#}}', 'b', max_attempts => 4)",
        receiver.url("/a"),
        receiver.url("/b")
    ))
    .await
    .unwrap();
    enqueue(&db, 1).await;
    until(&db, "the fourth try succeeds", "exists (select from outbox.attempt where outcome = 'completed')").await;
    assert_eq!(receiver.at("/b").len(), 4);
    let attempts: Vec<String> = receiver.at("/b").iter().map(|a| a.header("outbox-attempt").to_owned()).collect();
    assert_eq!(attempts, ["1", "2", "3", "4"]);
    until(&db, "a refusal is dead at once", "(select reason = 'refused' from outbox.dead_letter)").await;
    assert_eq!(receiver.at("/a").len(), 1);
    let planned: String = one(
        &db,
        "select string_agg(extract(epoch from planned)::numeric(9, 2)::text, ' ' order by attempt)
        from outbox.describe_schedule('patient')",
    )
    .await;
    assert_eq!(planned, "0.00 0.05 0.10 0.15");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_s_own_budget_wins_and_max_age_ends_retries() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, _| Reply::status(500));
    let schedule = ", schedule => '{\"delays\": [0.02], \"jitter\": 0}', breaker => '{\"failures\": 0}'";
    let db = shop(server().await, "budget", &receiver.url("/hook"), schedule, ", max_age => '700 ms'").await;
    db.batch_execute("select outbox.enqueue('order.created', '{\"n\": 1}', max_attempts => 3)").await.unwrap();
    until(&db, "three tries are enough", "(select reason = 'max_attempts' and attempt = 3 from outbox.dead_letter)")
        .await;
    db.batch_execute("select outbox.enqueue('order.created', '{\"n\": 2}', max_attempts => 1000)").await.unwrap();
    until(&db, "it is too old", "exists (select from outbox.dead_letter where reason = 'max_age')").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_pauses_the_endpoint_and_what_is_not_sent_spends_no_attempt() {
    let receiver = Receiver::start().unwrap();
    // Both forms ask for a pause of at least one second. A date has no fractions of a second, so a date two seconds ahead
    // is more than one second away.
    receiver.on("/seconds", |_, count| {
        if count == 0 { Reply::status(429).header("retry-after", "1") } else { Reply::status(200) }
    });
    receiver.on("/date", |_, count| {
        let at = httpdate(std::time::SystemTime::now() + Duration::from_secs(2));
        if count == 0 { Reply::status(503).header("retry-after", &at) } else { Reply::status(200) }
    });
    for path in ["/seconds", "/date"] {
        let schedule = ", concurrency => 1, schedule => '{\"delays\": [0.01], \"jitter\": 0}'";
        let db = shop(server().await, &format!("paused_{}", &path[1..]), &receiver.url(path), schedule, "").await;
        for n in 0..20 {
            enqueue(&db, n).await;
        }
        until(&db, "the pause is visible", "(select state = 'paused' from outbox.endpoint_status)").await;
        until(&db, "all are delivered", "(select count(*) = 20 from outbox.attempt where outcome = 'completed')").await;
        let arrivals = receiver.at(path);
        assert_eq!(arrivals.len(), 21, "one was tried twice");
        let pause = arrivals[1].at.duration_since(arrivals[0].at).unwrap();
        assert!(pause >= Duration::from_millis(900), "{pause:?}");
        assert!(arrivals.iter().filter(|a| a.header("outbox-attempt") != "1").count() == 1);
    }
}

fn httpdate(time: std::time::SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_breaker_spends_no_attempts_survives_a_restart_and_closes_by_one_probe() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, count| Reply::status(if count < 6 { 500 } else { 200 }));
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let settings = ", breaker => '{\"failures\": 5, \"open\": 3}', schedule => '{\"delays\": [0.5], \"jitter\": 0}', concurrency => 1";
    let db = shop(&server, "breaker", &receiver.url("/hook"), settings, "").await;
    for n in 0..50 {
        enqueue(&db, n).await;
    }
    until(&db, "the breaker opens", "(select breaker = 'open' from outbox.endpoint_state)").await;
    assert_eq!(receiver.total(), 5);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.attempt").await, 5);
    drop(db);
    server.restart(Stop::Fast).await.unwrap();
    let db = server.connect("breaker").await.unwrap();
    // A restart causes no request. There was one request for each opening since then.
    let sent = receiver.total();
    let times: i32 = one(&db, "select breaker_times from outbox.endpoint_state where breaker <> 'closed'").await;
    assert!(sent <= 4 + usize::try_from(times).unwrap() + 1, "{sent} requests, {times} openings");
    until(&db, "all are delivered", "(select count(*) = 50 from outbox.attempt where outcome = 'completed')").await;
    until(&db, "the breaker is closed", "(select breaker = 'closed' and failures = 0 from outbox.endpoint_state)")
        .await;
    assert_eq!(receiver.total(), 56, "nothing but the six failures was repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_endpoint_holds_or_skips_and_catches_up() {
    let receiver = Receiver::start().unwrap();
    let db = shop(server().await, "disabled", &receiver.url("/hook"), "", "").await;
    enqueue(&db, 0).await;
    settle(&db).await;
    db.batch_execute("select outbox.disable_endpoint('shop', 'maintenance')").await.unwrap();
    for n in 1..=20 {
        enqueue(&db, n).await;
    }
    settle(&db).await;
    assert_eq!(receiver.total(), 1);
    let state: String = one(&db, "select state || ': ' || disabled_reason from outbox.endpoint_status").await;
    assert_eq!(state, "disabled: maintenance");
    db.batch_execute("select outbox.enable_endpoint('shop')").await.unwrap();
    until(&db, "what was held is delivered", "(select count(*) = 21 from outbox.attempt where outcome = 'completed')")
        .await;
    db.batch_execute("select outbox.disable_endpoint('shop', mode => 'skip')").await.unwrap();
    for n in 21..=30 {
        enqueue(&db, n).await;
    }
    until(
        &db,
        "what is skipped is recorded",
        "(select count(*) = 10 from outbox.attempt where outcome = 'skipped' and attempt = 0)",
    )
    .await;
    db.batch_execute("select outbox.enable_endpoint('shop')").await.unwrap();
    enqueue(&db, 31).await;
    until(&db, "it is live again", "(select count(*) = 22 from outbox.attempt where outcome = 'completed')").await;
    let mut arrived = ns(&receiver.arrivals());
    arrived.sort_unstable();
    assert_eq!(arrived, (0..=20).chain([31]).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_enabled_again_gets_what_has_failed_at_once() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, n| Reply::status(if n < 3 { 503 } else { 200 }));
    let slow = ", schedule => '{\"delays\": [3600], \"jitter\": 0}'";
    let db = shop(server().await, "back_off", &receiver.url("/hook"), slow, "").await;
    for n in 1..=3 {
        enqueue(&db, n).await;
    }
    db.batch_execute("select outbox.enqueue('order.later', '{\"n\": 4}', deliver_at => now() + interval '1 h')")
        .await
        .unwrap();
    until(&db, "they have failed", "(select count(*) = 3 from outbox.delivery where state = 'failed')").await;
    db.batch_execute("select outbox.disable_endpoint('shop', 'outage'); select outbox.enable_endpoint('shop')")
        .await
        .unwrap();
    until(&db, "they are delivered", "(select count(*) = 3 from outbox.attempt where outcome = 'completed')").await;
    settle(&db).await;
    assert_eq!(receiver.total(), 6, "what is to be delivered later still is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shortage_of_descriptors_blames_no_receiver() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, _| Reply::status(200).after(Duration::from_millis(500)));
    let settings = [("pg_outbox.poll_interval", "1s"), ("pg_outbox.retention_interval", "1h")];
    let server = Server::start(&settings).await.unwrap();
    let db = server.database("descriptors").await.unwrap();
    for n in 0..40 {
        db.batch_execute(&format!(
            "select outbox.create_endpoint('e{n}', '{}'); select outbox.subscribe('s{n}', '{{order.#}}', 'e{n}')",
            receiver.url("/hook")
        ))
        .await
        .unwrap();
    }
    enqueue(&db, 1).await;
    until(&db, "all have it", "(select count(*) = 40 from outbox.attempt where outcome = 'completed')").await;
    let pid: i32 = one(&db, "select pid from outbox.worker_status()").await;
    let used = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let before = used();
    // A reload closes idle connections.
    db.batch_execute("select pg_reload_conf()").await.unwrap();
    wait_until("connections are closed", PATIENCE, async || used() + 30 <= before).await;
    // Less than the connections to 40 endpoints.
    let limit = format!("--nofile={0}:{0}", used() + 20);
    let set = postgres::command_as_server_user("prlimit").args(["--pid", &pid.to_string(), &limit]).status().unwrap();
    assert!(set.success());
    // Maintenance opens the files of many tables, which PostgreSQL keeps open as long as it has descriptors.
    db.batch_execute("alter system set pg_outbox.retention_interval = '1s'").await.unwrap();
    let room = used();
    db.batch_execute("select pg_reload_conf()").await.unwrap();
    wait_until("files take the descriptors", PATIENCE, async || used() > room + 10).await;
    for n in 2..=4 {
        enqueue(&db, n).await;
    }
    let all = "select count(*) from outbox.attempt where outcome = 'completed'";
    wait_until("all have all", 2 * PATIENCE, async || one::<i64>(&db, all).await == 160).await;
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.attempt where outcome <> 'completed'").await, 0);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.endpoint_status where breaker <> 'closed'").await, 0);
    until(
        &db,
        "health says it",
        "(select state = 'warning' and culprit like 'server: connect: %open files%' from outbox.health() where \"check\" = 'faults')",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gone_and_long_failures_disable_and_say_so() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/gone", |_, _| Reply::status(410));
    receiver.on("/asks", |_, _| Reply::status(500).header("webhook-delivery", "disable"));
    receiver.on("/abort", |_, _| Reply::status(503).header("webhook-delivery", "abort-message"));
    receiver.on("/fails", |_, _| Reply::status(500));
    let db = server().await.database("auto_disable").await.unwrap();
    for name in ["gone", "asks", "abort", "fails", "ops"] {
        let fast = if name == "fails" {
            ", disable_after => '200 ms', disable_failures => 5, schedule => '{\"delays\": [0.1], \"jitter\": 0}'"
        } else {
            ""
        };
        db.batch_execute(&format!(
            "select outbox.create_endpoint('{name}', '{}' {fast})",
            receiver.url(&format!("/{name}"))
        ))
        .await
        .unwrap();
        let topic = if name == "ops" { "outbox.endpoint.#" } else { "order.#" };
        db.batch_execute(&format!("select outbox.subscribe('{name}', '{{{topic}}}', '{name}')")).await.unwrap();
    }
    enqueue(&db, 1).await;
    wait_until("three endpoints are announced as disabled", PATIENCE, async || receiver.at("/ops").len() == 3).await;
    let announced: HashSet<(String, String)> = receiver
        .at("/ops")
        .iter()
        .map(|a| {
            assert_eq!(a.header("outbox-topic"), "outbox.endpoint.disabled");
            let json = a.json();
            (json["endpoint"].as_str().unwrap().to_owned(), json["reason"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [("gone", "refused"), ("asks", "refused"), ("fails", "failing")];
    assert_eq!(announced, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    let dead: String = one(
        &db,
        "select string_agg(s.name || ' ' || d.reason, ', ' order by s.name) from outbox.dead_letter d
        join outbox.subscription s on s.id = d.subscription_id where s.name <> 'fails'",
    )
    .await;
    assert_eq!(dead, "abort refused, asks refused, gone refused");
    assert_eq!(one::<String>(&db, "select state from outbox.endpoint_status where name = 'abort'").await, "failing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_is_kept_and_concurrency_too() {
    let receiver = Receiver::start().unwrap();
    let db = shop(server().await, "rate", &receiver.url("/hook"), ", rate => 20, burst => 5", "").await;
    db.batch_execute(
        "select count(outbox.enqueue('order.created', jsonb_build_object('n', n))) from generate_series(1, 35) n",
    )
    .await
    .unwrap();
    until(&db, "all are delivered", "(select count(*) = 35 from outbox.attempt where outcome = 'completed')").await;
    let arrivals = receiver.arrivals();
    let took = arrivals[34].at.duration_since(arrivals[0].at).unwrap();
    // The burst is 5 requests, and the other 30 follow at 20 per second.
    assert!(took >= Duration::from_millis(1400), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_secret_signs_first_and_the_old_one_beside_it() {
    let receiver = Receiver::start().unwrap();
    let db = server().await.database("rotated").await.unwrap();
    let secret = async |query: &str| one::<String>(&db, query).await;
    let create = format!("select signing_secret from outbox.create_endpoint('shop', '{}')", receiver.url("/hook"));
    let old = secret(&create).await;
    db.batch_execute("select outbox.subscribe('orders', '{order.#}', 'shop')").await.unwrap();
    let new = secret("select signing_secret from outbox.rotate_secret('shop')").await;
    enqueue(&db, 1).await;
    settle(&db).await;
    let arrival = &receiver.arrivals()[0];
    assert_eq!(arrival.header("webhook-signature").split(' ').count(), 2);
    for secret in [&new, &old] {
        standardwebhooks::Webhook::new(secret).unwrap().verify(&arrival.body, &arrival.headers).unwrap();
    }
    let first = arrival.header("webhook-signature").split(' ').next().unwrap().to_owned();
    let mut headers = arrival.headers.clone();
    headers.insert("webhook-signature", first.parse().unwrap());
    standardwebhooks::Webhook::new(&new).unwrap().verify(&arrival.body, &headers).expect("the current one comes first");
    // Without an overlap the old secrets end at once. However often a secret is rotated, five old ones are stored.
    let newest = secret("select signing_secret from outbox.rotate_secret('shop', overlap => '0 s')").await;
    enqueue(&db, 2).await;
    settle(&db).await;
    let arrival = receiver.arrivals().pop().unwrap();
    assert_eq!(arrival.header("webhook-signature").split(' ').count(), 1);
    standardwebhooks::Webhook::new(&newest).unwrap().verify(&arrival.body, &arrival.headers).unwrap();
    for _ in 0..8 {
        db.batch_execute("select outbox.rotate_secret('shop')").await.unwrap();
    }
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.endpoint_secret").await, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_with_many_retries_delays_nobody() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hanging", |_, _| Reply::status(200).after(Duration::from_secs(60)));
    let db = server().await.database("isolation").await.unwrap();
    let hanging = receiver.url("/hanging");
    let fine = receiver.url("/fine");
    db.batch_execute(&format!(
        "select outbox.create_endpoint('hanging', '{hanging}', timeout => '60 s', breaker => '{{\"failures\": 0}}');
        select outbox.create_endpoint('refused', 'http://127.0.0.1:1/', schedule => '{{\"delays\": [0.2]}}',
            breaker => '{{\"failures\": 0}}');
        select outbox.create_endpoint('fine', '{fine}');
        select outbox.subscribe('hanging', '{{order.#}}', 'hanging');
        select outbox.subscribe('refused', '{{order.#}}', 'refused', max_attempts => 1000);
        select outbox.subscribe('fine', '{{order.#}}', 'fine');"
    ))
    .await
    .unwrap();
    db.batch_execute(
        "select count(outbox.enqueue('order.created', jsonb_build_object('n', n))) from generate_series(1, 2000) n",
    )
    .await
    .unwrap();
    wait_until("the healthy one has everything", PATIENCE, async || receiver.at("/fine").len() == 2000).await;
    db.batch_execute("select outbox.disable_endpoint('refused'), outbox.disable_endpoint('hanging')").await.unwrap();
}
