//! The form of requests: headers, formats, batches, compression. Third-party code checks them if there is any.

use std::collections::HashSet;
use std::io::Read;

use cloudevents::{AttributesReader, Data, Event};
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Arrival, Receiver, Reply, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, refused, server, settle};
use serde_json::{Value, json};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn shop(name: &str, receiver: &Receiver, endpoint: &str, subscription: &str) -> (Client, String) {
    let db = server().await.database(name).await.unwrap();
    let secret: String = one(
        &db,
        &format!("select signing_secret from outbox.create_endpoint('shop', '{}' {endpoint})", receiver.url("/hook")),
    )
    .await;
    db.batch_execute(&format!("select outbox.subscribe('orders', '{{order.#}}', 'shop' {subscription})"))
        .await
        .unwrap();
    (db, secret)
}

/// Enqueues one message that has all attributes.
async fn rich(db: &Client) {
    db.batch_execute(&format!(
        "begin;
        select outbox.set_context(correlation_id => 'c-1', traceparent => '{TRACE}', tracestate => 'a=b', tenant => 'acme');
        select outbox.enqueue('order.created.v2', '{{\"n\": 1}}', key => 'käse 1', headers => '{{\"x-shop\": \"eu\"}}',
            metadata => '{{\"privacy\": {{\"pii\": true, \"fields\": [\"email\"]}}, \"shop\": \"eu\"}}', aggregate_type => 'order',
            aggregate_id => '17', publisher => 'shop@1.2.3', occurred_at => '2026-01-02 03:04:05.678+00');
        commit"
    ))
    .await
    .unwrap();
}

async fn first(receiver: &Receiver) -> Arrival {
    wait_until("it arrives", PATIENCE, async || receiver.total() > 0).await;
    receiver.arrivals().remove(0)
}

fn judge(secret: &str, arrival: &Arrival) {
    standardwebhooks::Webhook::new(secret).unwrap().verify(&arrival.body, &arrival.headers).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raw_request_carries_the_message_s_headers_and_its_trace() {
    let receiver = Receiver::start().unwrap();
    let (db, secret) = shop("raw", &receiver, ", headers => '{\"x-tier\": \"gold\", \"x-shop\": \"us\"}'", "").await;
    rich(&db).await;
    let arrival = first(&receiver).await;
    judge(&secret, &arrival);
    settle(&db).await;
    let position: i64 = one(&db, "select position from outbox.attempt").await;
    for (name, value) in [
        ("x-tier", "gold"),
        // A header of the message takes precedence over the same header of the endpoint.
        ("x-shop", "eu"),
        ("traceparent", TRACE),
        ("tracestate", "a=b"),
        ("outbox-topic", "order.created.v2"),
        ("outbox-attempt", "1"),
        ("outbox-key", "k%C3%A4se%201"),
        ("outbox-meta-correlation-id", "c-1"),
        ("outbox-meta-shop", "eu"),
        ("content-type", "application/json"),
        ("outbox-position", &position.to_string()),
    ] {
        assert_eq!(arrival.header(name), value, "{name}");
    }
    assert_eq!(arrival.json(), json!({"n": 1}));
    // Headers that belong to the protocol are refused.
    for name in ["Webhook-Id", "webhook-signature", "ce-id", "Host", "content-type", "Connection", "outbox-position"] {
        let statement = format!("select outbox.enqueue('order.x', '1', headers => '{{\"{name}\": \"x\"}}')");
        assert_eq!(refused(&db, &statement).await.code().code(), "22023", "{name}");
        let statement = format!("select outbox.alter_endpoint('shop', headers => '{{\"{name}\": \"x\"}}')");
        assert_eq!(refused(&db, &statement).await.code().code(), "22023", "{name}");
    }
    for value in ["a\\r\\nb: c", "a\\u0000b", "\\u007f"] {
        let statement = format!("select outbox.enqueue('order.x', '1', headers => '{{\"x-a\": \"{value}\"}}')");
        refused(&db, &statement).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_and_text_of_users_arrive_as_they_were_written() {
    let receiver = Receiver::start().unwrap();
    let (db, _) = shop("exact", &receiver, ", headers => '{\"x-shop\": \"Zoë 50%\"}'", "").await;
    db.batch_execute(
        "select outbox.enqueue('order.created', '{}', headers => '{\"x-name\": \"Zoë\", \"x-ascii\": \"a%20b\"}',
            metadata => '{\"acct\": 12345678901234567890123, \"price\": 1.10, \"small\": 1e-7, \"n\": 5}')",
    )
    .await
    .unwrap();
    let arrival = first(&receiver).await;
    for (name, value) in [
        ("outbox-meta-acct", "12345678901234567890123"),
        ("outbox-meta-price", "1.10"),
        ("outbox-meta-small", "0.0000001"),
        ("outbox-meta-n", "5"),
        ("x-name", "Zo%C3%AB"),
        ("x-ascii", "a%20b"),
        ("x-shop", "Zo%C3%AB 50%"),
    ] {
        assert_eq!(arrival.header(name), value, "{name}");
    }
    receiver.clear();
    db.batch_execute(
        "select outbox.alter_subscription('orders', format => 'envelope');
        select outbox.enqueue('order.created', '{}', metadata => '{\"acct\": 12345678901234567890123, \"price\": 1.10}',
            occurred_at => '9999-12-31 23:59:59+00')",
    )
    .await
    .unwrap();
    let arrival = first(&receiver).await;
    let body = String::from_utf8(arrival.body.to_vec()).unwrap();
    assert!(body.contains("12345678901234567890123") && body.contains("1.10"), "{body}");
    assert!(body.contains("\"occurred_at\":\"9999-12-31T23:59:59.000000Z\""), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_envelope_and_the_data_message_have_their_fields() {
    let receiver = Receiver::start().unwrap();
    let (db, secret) = shop("envelope", &receiver, "", ", format => 'envelope'").await;
    rich(&db).await;
    let arrival = first(&receiver).await;
    judge(&secret, &arrival);
    let expected = json!({
        "event": "order.created.v2", "schema_version": 2, "idempotency_key": arrival.webhook_id(),
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "correlation_id": "c-1", "tenant_id": "acme",
        "occurred_at": "2026-01-02T03:04:05.678000Z", "producer": "shop@1.2.3",
        "privacy": {"pii": true, "fields": ["email"]}, "payload": {"n": 1},
        "metadata": {"shop": "eu", "tracestate": "a=b"}
    });
    assert_eq!(arrival.json(), expected);

    let receiver = Receiver::start().unwrap();
    let (db, secret) = shop("data_message", &receiver, "", ", format => 'pubsub'").await;
    rich(&db).await;
    let arrival = first(&receiver).await;
    judge(&secret, &arrival);
    let json = arrival.json();
    assert_eq!((&json["messageID"], &json["orderingKey"]), (&json!(arrival.webhook_id()), &json!("käse 1")));
    assert_eq!((&json["identifier"], &json["data"]), (&json!("käse 1"), &json!("eyJuIjogMX0=")));
    assert_eq!(json["attributes"]["x-shop"], "eu");
}

/// Returns the default source, which is unique for each cluster and database.
async fn default_source(db: &Client) -> String {
    one(db, "select '/pg_outbox/' || system_identifier || '/' || current_database() from pg_control_system()").await
}

/// Checks the attributes of an event, which the SDK of the CloudEvents project has read and which are the same in each mode.
fn check_event(event: &Event, arrival: &Arrival, source: &str) {
    assert_eq!(event.specversion().to_string(), "1.0");
    assert_eq!(event.id(), arrival.webhook_id());
    assert_eq!(event.ty(), "order.created.v2");
    assert_eq!(event.source().to_string(), format!("{source}/shop@1.2.3"));
    assert_eq!(event.subject(), Some("käse 1"));
    assert_eq!(event.time().unwrap().to_rfc3339(), "2026-01-02T03:04:05.678+00:00");
    assert_eq!(event.datacontenttype(), Some("application/json"));
    let text = |name| event.extension(name).map(ToString::to_string);
    assert_eq!(text("sequence").as_deref(), Some(arrival.header("outbox-position")));
    assert_eq!(text("traceparent").as_deref(), Some(TRACE));
    assert_eq!(text("tenant").as_deref(), Some("acme"));
    let data: Value = match event.data().unwrap() {
        Data::Json(json) => json.clone(),
        Data::String(text) => serde_json::from_str(text).unwrap(),
        Data::Binary(bytes) => serde_json::from_slice(bytes).unwrap(),
    };
    assert_eq!(data, json!({"n": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cloudevents_sdk_reads_both_modes() {
    let receiver = Receiver::start().unwrap();
    let (db, secret) = shop("ce_binary", &receiver, "", ", format => 'cloudevents'").await;
    rich(&db).await;
    let arrival = first(&receiver).await;
    judge(&secret, &arrival);
    let event = cloudevents::binding::http::to_event(&arrival.headers, arrival.body.to_vec()).unwrap();
    // The SDK leaves header values percent-encoded. The HTTP binding says that they are to be decoded.
    assert_eq!(event.subject(), Some("k%C3%A4se%201"));
    let mut decoded = event.clone();
    cloudevents::AttributesWriter::set_subject(&mut decoded, Some("käse 1"));
    check_event(&decoded, &arrival, &default_source(&db).await);

    let receiver = Receiver::start().unwrap();
    let (db, secret) = shop("ce_structured", &receiver, "", ", format => 'cloudevents_structured'").await;
    rich(&db).await;
    let arrival = first(&receiver).await;
    judge(&secret, &arrival);
    assert_eq!(arrival.header("content-type"), "application/cloudevents+json");
    let event: Event = serde_json::from_slice(&arrival.body).unwrap();
    check_event(&event, &arrival, &default_source(&db).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_one_request_and_one_row_and_can_fare_differently() {
    let receiver = Receiver::start().unwrap();
    // In the first batch the third message fails, in the second batch all messages fail, and later none fails.
    receiver.on("/hook", |arrival, count| match count {
        0 => {
            let all = arrival.json();
            let results: Vec<Value> =
                (0..all.as_array().unwrap().len()).map(|i| json!({"status": if i == 2 { 503 } else { 200 }})).collect();
            Reply::status(207).body(json!({"results": results}).to_string())
        }
        1 => Reply::status(500),
        _ => Reply::status(200),
    });
    let options = ", format => 'cloudevents', batch_size => 10, batch_wait => '300 ms'";
    let endpoint = ", concurrency => 1, schedule => '{\"delays\": [0.1], \"jitter\": 0}'";
    let (db, secret) = shop("batches", &receiver, endpoint, options).await;
    db.batch_execute(
        "select count(outbox.enqueue('order.created', jsonb_build_object('n', n))) from generate_series(1, 25) n",
    )
    .await
    .unwrap();
    wait_until("everything is delivered", PATIENCE, async || {
        let query =
            "select count(distinct p)::bigint from outbox.attempt a, unnest(a.positions) with ordinality u(p, i)
            where a.outcome = 'completed' or a.results -> (u.i::int - 1) ->> 'outcome' = 'completed'";
        one::<i64>(&db, query).await == 25
    })
    .await;
    let arrivals = receiver.arrivals();
    for arrival in &arrivals {
        judge(&secret, arrival);
        assert_eq!(arrival.header("content-type"), "application/cloudevents-batch+json");
        let events: Vec<Event> = serde_json::from_slice(&arrival.body).unwrap();
        assert_eq!(arrival.header("outbox-count"), events.len().to_string());
        assert!(events.len() <= 10);
    }
    let sizes: Vec<usize> = arrivals.iter().map(|a| a.json().as_array().unwrap().len()).collect();
    assert_eq!((sizes[0], sizes[1], sizes.iter().sum::<usize>()), (10, 10, 36), "{sizes:?}");
    let ids: HashSet<&str> = arrivals.iter().map(Arrival::webhook_id).collect();
    assert_eq!(ids.len(), arrivals.len(), "another batch, another id");
    // Each request has one row. The row of the first request states the outcome of each message.
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.attempt").await, arrivals.len() as i64);
    let partial: String = one(
        &db,
        "select string_agg(r ->> 'outcome', ' ') from outbox.attempt, jsonb_array_elements(results) r where outcome = 'partial'",
    )
    .await;
    assert_eq!(
        partial,
        "completed completed failed completed completed completed completed completed completed completed"
    );
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery").await, 0);
    // Each message of a batch has a history and a status of its own.
    let third = "(select message_ids[3] from outbox.attempt where outcome = 'partial')";
    let history =
        format!("select string_agg(what, ' ' order by at) from outbox.history({third}) where attempt is not null");
    assert_eq!(one::<String>(&db, &history).await, "failed completed");
    assert_eq!(one::<String>(&db, &format!("select outbox_internal.message_state({third})")).await, "completed");
    let completed = "select count(distinct message_id) from outbox.delivery_status where state = 'completed'";
    assert_eq!(one::<i64>(&db, completed).await, 25);
    // Lists show each message, too.
    for list in [
        "outbox.list_messages(state => 'completed', max_messages => 100) where topic not like 'outbox.%'",
        "outbox.archive_list(endpoint => 'shop', status => 'completed', max_rows => 100)",
        "outbox.notification_log(subscription => 'orders', max_rows => 100) where status = 'sent'",
    ] {
        assert_eq!(one::<i64>(&db, &format!("select count(*) from {list}")).await, 25, "{list}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_can_be_gzipped_and_the_receiver_s_id_is_kept() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/hook", |_, _| {
        Reply::status(200)
            .header("x-request-id", "r-1")
            .header("x-other", "no")
            .body(r#"{"message": {"id": "theirs-7"}}"#)
    });
    let (db, secret) = shop("gzip", &receiver, ", compress => true, response_id => '/message/id'", "").await;
    db.batch_execute("select outbox.enqueue('order.created', jsonb_build_object('text', repeat('again ', 1000)))")
        .await
        .unwrap();
    let arrival = first(&receiver).await;
    assert_eq!(arrival.header("content-encoding"), "gzip");
    assert!(arrival.body.len() < 500);
    let mut body = Vec::new();
    flate2::read::GzDecoder::new(&arrival.body[..]).read_to_end(&mut body).unwrap();
    // The signature covers the body before compression, because a framework decodes the body before the application sees it.
    standardwebhooks::Webhook::new(&secret).unwrap().verify(&body, &arrival.headers).unwrap();
    wait_until("it is recorded", PATIENCE, async || one::<i64>(&db, "select count(*) from outbox.attempt").await == 1)
        .await;
    let (id, headers): (String, Value) = {
        let row = db.query_one("select response_id, response_headers from outbox.attempt", &[]).await.unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!((id.as_str(), headers), ("theirs-7", json!({"x-request-id": "r-1"})));
}
