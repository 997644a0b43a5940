//! RabbitMQ: what a queue contains, whatever happens to relay and server. The server takes seconds to start, so the tests
//! share one, except for the test that kills it.

use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use outbox_harness::wait_until;
use tokio::sync::OnceCell;

use crate::programs::{Broker, Config, Database, PATIENCE, assert_ledger, wait_until_relayed};

pub(crate) async fn broker() -> &'static Broker {
    static BROKER: OnceCell<Broker> = OnceCell::const_new();
    BROKER.get_or_init(Broker::rabbitmq).await
}

pub(crate) async fn connect(broker: &Broker) -> (Connection, Channel) {
    let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", broker.port);
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Makes a topic exchange and a queue of the same name that is bound to `pattern`.
pub(crate) async fn make_queue(channel: &Channel, name: &str, pattern: &str, arguments: FieldTable) {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), ExchangeKind::Topic, durable, FieldTable::default()).await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), durable, arguments).await.unwrap();
    let options = QueueBindOptions::default();
    channel.queue_bind(name.into(), name.into(), pattern.into(), options, FieldTable::default()).await.unwrap();
}

fn sink(broker: &Broker, exchange: &str) -> String {
    format!(
        "kind = \"rabbitmq\"\nurl = \"amqp://guest:guest@127.0.0.1:{}/%2f\"\nexchange = \"{exchange}\"",
        broker.port
    )
}

/// Takes `count` messages from a queue: their payload, position, and id, which a header has too.
async fn take(channel: &Channel, queue: &str, count: u32) -> Vec<(i64, i64)> {
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut consumer = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap();
    let mut found = Vec::new();
    for _ in 0..count {
        let message = tokio::time::timeout(PATIENCE, consumer.next()).await.unwrap().unwrap().unwrap();
        let payload: serde_json::Value = serde_json::from_slice(&message.data).unwrap();
        let headers = message.properties.headers().clone().unwrap();
        let header = |name: &str| match headers.inner().get(name) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(message.properties.message_id().clone().unwrap().as_str(), header("webhook-id"));
        assert_eq!(message.properties.content_type().clone().unwrap().as_str(), "application/json");
        assert_eq!(header("cloudEvents:type"), "order.created");
        found.push((payload["n"].as_i64().unwrap(), header("outbox-position").parse().unwrap()));
    }
    found
}

async fn count(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap().message_count()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_reach_a_queue_in_order_although_the_relay_is_killed_again_and_again() {
    let (db, broker) = (Database::new().await, broker().await);
    let (_connection, channel) = connect(broker).await;
    make_queue(&channel, "ledger", "order.#", FieldTable::default()).await;
    let config = Config::new(&db, "batch = 50", &sink(broker, "ledger"));
    for round in 0..4 {
        db.enqueue(round * 250 + 1, round * 250 + 250).await;
        let before = count(&channel, "ledger").await;
        let relay = config.run();
        wait_until("a message was stored", PATIENCE, async || count(&channel, "ledger").await > before).await;
        tokio::time::sleep(std::time::Duration::from_millis(u64::try_from(round).unwrap() * 7)).await;
        drop(relay);
    }
    config.succeed().await;
    let found = take(&channel, "ledger", count(&channel, "ledger").await).await;
    // An instance that is killed repeats its last batch at most, and the batch that it was sending.
    assert!(found.len() <= 1000 + 4 * 100, "{}", found.len());
    let mut last = 0;
    let new: Vec<i64> = found
        .into_iter()
        .filter(|(_, position)| {
            let is_new = *position > last;
            last = last.max(*position);
            is_new
        })
        .map(|(n, _)| n)
        .collect();
    assert_ledger(&db, &new, 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_queue_takes_stops_the_relay_and_nothing_overtakes_it() {
    let (db, broker) = (Database::new().await, broker().await);
    let (_connection, channel) = connect(broker).await;
    make_queue(&channel, "bound", "invoice.#", FieldTable::default()).await;
    db.enqueue(1, 30).await;
    let relay = Config::new(&db, "", &sink(broker, "bound")).run();
    db.wait_for_state("stopped", "no queue takes the message: 312").await;
    let bind = QueueBindOptions::default();
    channel.queue_bind("bound".into(), "bound".into(), "order.#".into(), bind, FieldTable::default()).await.unwrap();
    // The operator has repaired the cause, and starts the relay again.
    assert_eq!(relay.terminate().await, 4);
    Config::new(&db, "", &sink(broker, "bound")).succeed().await;
    let found: Vec<i64> =
        take(&channel, "bound", count(&channel, "bound").await).await.iter().map(|(n, _)| *n).collect();
    assert_ledger(&db, &found, 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_full_is_waited_for() {
    let (db, broker) = (Database::new().await, broker().await);
    let (_connection, channel) = connect(broker).await;
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    make_queue(&channel, "full", "order.#", full).await;
    db.enqueue(1, 3).await;
    let relay = Config::new(&db, "batch = 1", &sink(broker, "full")).run();
    db.wait_for_state("retrying", "refused the message for now").await;
    let found: Vec<i64> = take(&channel, "full", 3).await.iter().map(|(n, _)| *n).collect();
    assert_eq!(found, [1, 2, 3]);
    wait_until_relayed(&db, 3).await;
    assert_eq!(relay.terminate().await, 0);
    channel.queue_delete("full".into(), QueueDeleteOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_exchange_and_a_wrong_password_are_reported() {
    let (db, broker) = (Database::new().await, broker().await);
    db.enqueue(1, 1).await;
    let (code, text) = Config::new(&db, "", &sink(broker, "nowhere")).check().await;
    assert!(code == 4 && text.contains("no exchange 'nowhere'"), "{text}");
    let sink = format!(
        "kind = \"rabbitmq\"\nurl = \"amqp://127.0.0.1:{}/%2f\"\nuser = \"guest\"\npassword = {{ env = \"BROKER_PASSWORD\" }}",
        broker.port
    );
    let (code, text) = Config::new(&db, "", &sink).check().await;
    assert!(code == 4 && text.contains("ACCESS_REFUSED") && !text.contains("geheim"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_restarted_has_every_message() {
    let (db, mut broker) = (Database::new().await, Broker::rabbitmq().await);
    let (connection, channel) = connect(&broker).await;
    make_queue(&channel, "restarted", "order.#", FieldTable::default()).await;
    drop((connection, channel));
    let relay = Config::new(&db, "batch = 50", &sink(&broker, "restarted")).run();
    db.enqueue(1, 200).await;
    wait_until_relayed(&db, 200).await;
    broker.kill();
    db.enqueue(201, 300).await;
    broker.start().await;
    wait_until_relayed(&db, 300).await;
    assert_eq!(relay.terminate().await, 0);
    let (_connection, channel) = connect(&broker).await;
    let found = take(&channel, "restarted", count(&channel, "restarted").await).await;
    let mut places: Vec<_> = found.into_iter().map(|(n, position)| (position, n)).collect();
    places.sort_unstable();
    places.dedup();
    assert_ledger(&db, &places.into_iter().map(|(_, n)| n).collect::<Vec<_>>(), 300).await;
}
