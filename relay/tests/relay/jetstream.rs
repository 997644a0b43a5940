//! NATS: what a stream contains, whatever happens to relay and server.

use async_nats::jetstream::{self, stream};
use futures_util::TryStreamExt as _;
use outbox_harness::wait_until;

use crate::programs::{Broker, Config, Database, PATIENCE, assert_ledger, wait_until_relayed};

async fn connect(broker: &Broker) -> jetstream::Context {
    jetstream::new(async_nats::connect(format!("nats://127.0.0.1:{}", broker.port)).await.unwrap())
}

pub(crate) async fn make_stream(broker: &Broker) -> stream::Stream {
    let config = stream::Config { name: "ORDERS".into(), subjects: vec!["shop.>".into()], ..Default::default() };
    connect(broker).await.create_stream(config).await.unwrap()
}

fn sink(broker: &Broker) -> String {
    format!("kind = \"nats\"\nurl = \"nats://127.0.0.1:{}\"\nstream = \"ORDERS\"", broker.port)
}

/// Returns all messages of the stream.
pub(crate) async fn stored(broker: &Broker) -> Vec<async_nats::Message> {
    let mut stream = connect(broker).await.get_stream("ORDERS").await.unwrap();
    let count = usize::try_from(stream.info().await.unwrap().state.messages).unwrap();
    let consumer =
        stream.create_consumer(jetstream::consumer::pull::OrderedConfig { ..Default::default() }).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let mut found = Vec::new();
    while found.len() < count {
        found.push(messages.try_next().await.unwrap().unwrap().message.clone());
    }
    found
}

async fn payloads(broker: &Broker) -> Vec<i64> {
    let json = |message: &async_nats::Message| serde_json::from_slice::<serde_json::Value>(&message.payload).unwrap();
    stored(broker).await.iter().map(|message| json(message)["n"].as_i64().unwrap()).collect()
}

const RELAY: &str = "topic = \"shop.{topic}\"\nbatch = 50";

#[tokio::test(flavor = "multi_thread")]
async fn messages_reach_a_stream_in_order_with_their_marks() {
    let (db, broker) = (Database::new().await, Broker::nats("").await);
    make_stream(&broker).await;
    db.enqueue(1, 120).await;
    let config = Config::new(&db, RELAY, &sink(&broker));
    let (code, text) = config.check().await;
    assert!(code == 0 && text.contains("order.created -> shop.order.created key k1"), "{text}");
    config.succeed().await;
    assert_ledger(&db, &payloads(&broker).await, 120).await;
    let messages = stored(&broker).await;
    let headers = messages[41].headers.clone().unwrap();
    let header = |name: &str| headers.get(name).map(ToString::to_string).unwrap_or_default();
    assert_eq!(messages[41].subject.as_str(), "shop.order.created");
    assert_eq!((header("outbox-position").as_str(), header("outbox-key").as_str()), ("42", "k0"));
    assert_eq!(header("ce-id"), header("Nats-Msg-Id"));
    assert!(header("outbox-source").starts_with("/pg_outbox/"), "{headers:?}");
    assert_eq!(
        db.one("select concat_ws(' ', state, position, relayed) from outbox.relay_status").await,
        "ended 120 120"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_again_and_again_stores_every_message_once() {
    let (db, broker) = (Database::new().await, Broker::nats("").await);
    // Without the window, only the chain prevents repeats.
    let config = stream::Config {
        name: "ORDERS".into(),
        subjects: vec!["shop.>".into()],
        duplicate_window: std::time::Duration::from_millis(100),
        ..Default::default()
    };
    let mut stream = connect(&broker).await.create_stream(config).await.unwrap();
    let config = Config::new(&db, RELAY, &sink(&broker));
    let mut last = 0;
    for round in 0..8 {
        db.enqueue(round * 250 + 1, round * 250 + 250).await;
        let relay = config.run();
        wait_until("a message was stored", PATIENCE, async || {
            stream.info().await.is_ok_and(|info| info.state.messages > last)
        })
        .await;
        tokio::time::sleep(std::time::Duration::from_millis(u64::try_from(round).unwrap() * 7)).await;
        drop(relay);
        last = stream.info().await.unwrap().state.messages;
    }
    config.succeed().await;
    assert_ledger(&db, &payloads(&broker).await, 2000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_restarted_has_every_message_once() {
    let (db, mut broker) = (Database::new().await, Broker::nats("").await);
    make_stream(&broker).await;
    let config = Config::new(&db, RELAY, &sink(&broker));
    let relay = config.run();
    for round in 0..4 {
        db.enqueue(round * 300 + 1, round * 300 + 300).await;
        wait_until("this round has begun", PATIENCE, async || {
            let position =
                db.one("select coalesce(max(position), 0) from outbox.cursor where consumer = 'relay:orders'");
            position.await.parse::<i64>().unwrap() > round * 300
        })
        .await;
        broker.kill();
        db.enqueue(10_000 + round, 10_000 + round).await;
        broker.start().await;
    }
    wait_until_relayed(&db, 1204).await;
    assert_eq!(relay.terminate().await, 0);
    let feed = db.client.query("select (r.payload ->> 'n')::bigint from outbox.read(0, 10000) r", &[]).await.unwrap();
    let feed: Vec<i64> = feed.iter().map(|row| row.get(0)).collect();
    assert_eq!(payloads(&broker).await, feed);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_overtakes_a_message_that_is_too_large() {
    let (db, broker) = (Database::new().await, Broker::nats("").await);
    make_stream(&broker).await;
    let large =
        "select outbox.enqueue('order.created', jsonb_build_object('n', 2, 'x', repeat('x', 70000)), key => 'k1')";
    db.enqueue(1, 1).await;
    db.client.execute(large, &[]).await.unwrap();
    db.enqueue(3, 8).await;
    let stopping = Config::new(&db, RELAY, &sink(&broker));
    let (code, text) = stopping.check().await;
    assert!(code == 4 && text.contains("refused: the message has about"), "{text}");
    let relay = stopping.run();
    db.wait_for_state("stopped", "the server takes 65536").await;
    assert_eq!(payloads(&broker).await, [1]);
    let health = db.one("select h.state || ' ' || h.culprit from outbox.health() h where h.check = 'relays'").await;
    assert!(health.starts_with("warning relay \"orders\" is stopped after position 1"), "{health}");
    assert_eq!(db.one("select value from outbox.metrics() where name = 'outbox_relay_up'").await, "0");
    // An operator goes on without it, and the relay notices by itself.
    db.client.execute("select outbox.cursor_advance('relay:orders', 2)", &[]).await.unwrap();
    wait_until_relayed(&db, 8).await;
    assert_eq!(payloads(&broker).await, [1, 3, 4, 5, 6, 7, 8]);
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_is_skipped_or_dead_lettered_on_the_record() {
    for (settings, action, expected) in [
        ("on_refused = \"skip\"", "relay_skip", vec!["shop.order.created"; 2]),
        (
            "on_refused = \"dead-letter\"\ndead_letter_topic = \"shop.dead\"",
            "relay_dead_letter",
            vec!["shop.order.created", "shop.dead", "shop.order.created"],
        ),
    ] {
        let (db, broker) = (Database::new().await, Broker::nats("").await);
        make_stream(&broker).await;
        db.enqueue(1, 1).await;
        let large = "select outbox.enqueue('order.created', to_jsonb(repeat('x', 70000)), key => 'k1')";
        db.client.execute(large, &[]).await.unwrap();
        db.enqueue(3, 3).await;
        Config::new(&db, &format!("{RELAY}\n{settings}"), &sink(&broker)).succeed().await;
        let messages = stored(&broker).await;
        assert_eq!(messages.iter().map(|message| message.subject.as_str()).collect::<Vec<_>>(), expected);
        if let [_, dead, _] = &messages[..] {
            let headers = dead.headers.clone().unwrap();
            assert!(headers.get("outbox-refusal").unwrap().as_str().contains("about"), "{headers:?}");
            assert_eq!((dead.payload.len(), headers.get("outbox-position").unwrap().as_str()), (0, "2"));
        }
        let audit =
            format!("select (detail ->> 'position') || ' ' || reason from outbox.audit where action = '{action}'");
        assert!(db.one(&audit).await.starts_with("2 the message has about"), "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_waits_for_a_stream_that_does_not_exist_yet() {
    let (db, broker) = (Database::new().await, Broker::nats("").await);
    db.enqueue(1, 5).await;
    let config = Config::new(&db, RELAY, &sink(&broker));
    let (code, text) = config.check().await;
    assert!(code == 4 && text.contains("ORDERS"), "{text}");
    let relay = config.run();
    db.wait_for_state("retrying", "ORDERS").await;
    make_stream(&broker).await;
    wait_until_relayed(&db, 5).await;
    assert_eq!(payloads(&broker).await, [1, 2, 3, 4, 5]);
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_reported_without_the_password() {
    let broker = Broker::nats("authorization { user: relay, password: other }").await;
    let db = Database::new().await;
    db.enqueue(1, 1).await;
    let sink = format!("{}\nuser = \"relay\"\npassword = {{ env = \"BROKER_PASSWORD\" }}", sink(&broker));
    let config = Config::new(&db, RELAY, &sink);
    let (code, text) = config.check().await;
    assert!(code == 4 && text.contains("authorization violation") && !text.contains("geheim"), "{text}");
    let relay = config.run();
    db.wait_for_state("retrying", "authorization violation").await;
    assert!(!relay.log().contains("geheim"));
    assert!(!db.one("select last_error from outbox.relay_status").await.contains("geheim"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_if_tls_is_required() {
    let (db, broker) = (Database::new().await, Broker::nats("").await);
    make_stream(&broker).await;
    db.enqueue(1, 1).await;
    let (code, text) = Config::new(&db, RELAY, &format!("{}\ntls = true", sink(&broker))).check().await;
    assert!(code == 4 && text.contains("does not speak TLS"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_another_outbox_is_not_written_to() {
    let (db, other, broker) = (Database::new().await, Database::new().await, Broker::nats("").await);
    make_stream(&broker).await;
    db.enqueue(1, 3).await;
    other.enqueue(1, 3).await;
    Config::new(&db, RELAY, &sink(&broker)).succeed().await;
    let output = Config::new(&other, RELAY, &sink(&broker)).once().await;
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(payloads(&broker).await, [1, 2, 3]);
    assert!(other.one("select last_error from outbox.relay_status").await.contains("messages of the source"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_writer_in_the_stream_costs_no_order() {
    let (db, broker) = (Database::new().await, Broker::nats("").await);
    make_stream(&broker).await;
    let config = Config::new(&db, RELAY, &sink(&broker));
    let relay = config.run();
    let writer = {
        let context = connect(&broker).await;
        tokio::spawn(async move {
            for _ in 0..40 {
                context.publish("shop.other", "{\"n\": -1}".into()).await.unwrap().await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
    };
    db.enqueue(1, 600).await;
    writer.await.unwrap();
    wait_until_relayed(&db, 600).await;
    assert_eq!(relay.terminate().await, 0);
    let ours: Vec<i64> = payloads(&broker).await.into_iter().filter(|n| *n > 0).collect();
    assert_ledger(&db, &ours, 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_commands_no_server() {
    let (db, broker) = (Database::new().await, Broker::nats("").await);
    let config = stream::Config {
        name: "ORDERS".into(),
        subjects: vec!["shop.>".into()],
        allow_rollup: true,
        ..Default::default()
    };
    connect(&broker).await.create_stream(config).await.unwrap();
    db.enqueue(1, 1).await;
    let headers = "select outbox.enqueue('order.created', '{\"n\": 2}', key => 'k2', headers =>
        '{\"Nats-Rollup\": \"all\", \"NATS-Expected-Last-Sequence\": \"7\", \"x-shop\": \"berlin\"}')";
    db.client.execute(headers, &[]).await.unwrap();
    db.enqueue(3, 3).await;
    Config::new(&db, RELAY, &sink(&broker)).succeed().await;
    assert_eq!(payloads(&broker).await, [1, 2, 3]);
    let headers = stored(&broker).await[1].headers.clone().unwrap();
    let commands: Vec<String> = headers
        .iter()
        .map(|(name, _)| name.to_string())
        .filter(|name| name.to_lowercase().starts_with("nats-"))
        .collect();
    assert_eq!(headers.get("x-shop").unwrap().as_str(), "berlin");
    assert!(
        commands
            .iter()
            .all(|name| ["Nats-Msg-Id", "Nats-Expected-Stream", "Nats-Expected-Last-Msg-Id"].contains(&name.as_str())
                || name == "Nats-Expected-Last-Sequence" && headers.get(name.as_str()).unwrap().as_str() != "7"),
        "{commands:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_last_message_was_deleted_is_continued() {
    let (db, broker) = (Database::new().await, Broker::nats("").await);
    let stream = make_stream(&broker).await;
    let config = Config::new(&db, RELAY, &sink(&broker));
    db.enqueue(1, 5).await;
    config.succeed().await;
    stream.delete_message(5).await.unwrap();
    // The cursor is behind the broker, as after a crash.
    let back = "update outbox.cursor set position = 2 where consumer = 'relay:orders'";
    assert_eq!(db.client.execute(back, &[]).await.unwrap(), 1);
    db.enqueue(6, 6).await;
    let relay = config.run();
    wait_until("the relay knows what the stream has", PATIENCE, async || relay.log().contains("\"broker\":4")).await;
    wait_until_relayed(&db, 6).await;
    assert_eq!(relay.terminate().await, 0);
    let stored = payloads(&broker).await;
    assert!(stored == [1, 2, 3, 4, 6] || stored == [1, 2, 3, 4, 5, 6], "{stored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_message_that_cannot_be_read_is_an_error() {
    let users = "authorization { users: [ { user: admin, password: admin },
        { user: relay, password: geheim, permissions: { publish: { deny: \"$JS.API.STREAM.MSG.GET.>\" } } } ] }";
    let (db, broker) = (Database::new().await, Broker::nats(users).await);
    let address = format!("nats://127.0.0.1:{}", broker.port);
    let admin = async_nats::ConnectOptions::with_user_and_password("admin".into(), "admin".into());
    let context = jetstream::new(admin.connect(address).await.unwrap());
    let config = stream::Config { name: "ORDERS".into(), subjects: vec!["shop.>".into()], ..Default::default() };
    let mut stream = context.create_stream(config).await.unwrap();
    db.enqueue(1, 3).await;
    let sink = format!("{}\nuser = \"relay\"\npassword = {{ env = \"BROKER_PASSWORD\" }}", sink(&broker));
    let config = Config::new(&db, RELAY, &sink);
    config.succeed().await;
    let relay = config.run();
    db.wait_for_state("retrying", "cannot be read").await;
    assert_eq!(stream.info().await.unwrap().state.messages, 3);
    drop(relay);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_marks_make_no_message_pass_for_stored() {
    let (db, broker) = (Database::new().await, Broker::nats("").await);
    let stream = make_stream(&broker).await;
    let config = Config::new(&db, RELAY, &sink(&broker));
    db.enqueue(1, 3).await;
    config.succeed().await;
    let mut headers = stored(&broker).await[2].headers.clone().unwrap();
    db.enqueue(4, 8).await;
    headers.insert("outbox-position", "7");
    headers.insert("Nats-Msg-Id", "forged");
    for command in ["Nats-Expected-Stream", "Nats-Expected-Last-Msg-Id", "Nats-Expected-Last-Sequence"] {
        headers.insert(command, "");
    }
    let headers: async_nats::HeaderMap = headers
        .iter()
        .filter(|(name, _)| !name.to_string().starts_with("Nats-Expected"))
        .map(|(name, values)| (name.clone(), values[0].clone()))
        .collect();
    let context = connect(&broker).await;
    let ack =
        context.publish_with_headers("shop.order.created", headers, "{\"n\": 0}".into()).await.unwrap().await.unwrap();
    let output = config.once().await;
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(db.one("select last_error from outbox.relay_status").await.contains("has the marks of position 7"));
    stream.delete_message(ack.sequence).await.unwrap();
    config.succeed().await;
    assert_ledger(&db, &payloads(&broker).await, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_was_raised_is_noticed() {
    let (db, broker) = (Database::new().await, Broker::nats("").await);
    let mut config = stream::Config {
        name: "ORDERS".into(),
        subjects: vec!["shop.>".into()],
        max_message_size: 2000,
        ..Default::default()
    };
    let context = connect(&broker).await;
    context.create_stream(config.clone()).await.unwrap();
    db.enqueue(1, 5).await;
    let relay = Config::new(&db, RELAY, &sink(&broker)).run();
    wait_until_relayed(&db, 5).await;
    config.max_message_size = -1;
    context.update_stream(config).await.unwrap();
    let large =
        "select outbox.enqueue('order.created', jsonb_build_object('n', 6, 'x', repeat('x', 9000)), key => 'k1')";
    db.client.execute(large, &[]).await.unwrap();
    wait_until_relayed(&db, 6).await;
    assert_eq!(payloads(&broker).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_frozen_while_it_sends_sends_nothing_again() {
    let (db, broker) = (Database::new().await, Broker::nats("").await);
    // Without the window, the server notices no repeats.
    let config = stream::Config {
        name: "ORDERS".into(),
        subjects: vec!["shop.>".into()],
        duplicate_window: std::time::Duration::from_millis(100),
        ..Default::default()
    };
    let mut stream = connect(&broker).await.create_stream(config).await.unwrap();
    let config = Config::new(&db, RELAY, &sink(&broker));
    let mut active = config.run();
    wait_until("the first is active", PATIENCE, async || active.log().contains("\"active\"")).await;
    let mut last = 0;
    for round in 0..5 {
        let standby = config.run();
        wait_until("the other stands by", PATIENCE, async || standby.log().contains("standing by")).await;
        db.enqueue(round * 300 + 1, round * 300 + 300).await;
        wait_until("a message was stored", PATIENCE, async || {
            stream.info().await.is_ok_and(|info| info.state.messages > last)
        })
        .await;
        active.signal("STOP");
        wait_until("the other takes over", PATIENCE, async || standby.log().contains("\"active\"")).await;
        wait_until_relayed(&db, round * 300 + 300).await;
        let before = active.log().len();
        active.signal("CONT");
        wait_until("the first has noticed", PATIENCE, async || active.log()[before..].contains("standing by")).await;
        last = stream.info().await.unwrap().state.messages;
        drop(std::mem::replace(&mut active, standby));
    }
    assert_ledger(&db, &payloads(&broker).await, 1500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn core_nats_gets_every_message_while_it_listens() {
    let (db, broker) = (Database::new().await, Broker::nats("").await);
    let client = async_nats::connect(format!("nats://127.0.0.1:{}", broker.port)).await.unwrap();
    let mut listener = client.subscribe("shop.>").await.unwrap();
    client.flush().await.unwrap();
    db.enqueue(1, 60).await;
    let sink = format!("kind = \"nats\"\nurl = \"nats://127.0.0.1:{}\"", broker.port);
    Config::new(&db, RELAY, &sink).succeed().await;
    let mut seen = Vec::new();
    while seen.len() < 60 {
        let message = futures_util::StreamExt::next(&mut listener).await.unwrap();
        let payload: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        seen.push(payload["n"].as_i64().unwrap());
    }
    assert_ledger(&db, &seen, 60).await;
}
