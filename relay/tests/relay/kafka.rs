//! Kafka: what the partitions contain, whatever happens to relay and server.

use std::collections::HashMap;
use std::time::Duration;

use outbox_harness::wait_until;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::programs::{Broker, Config, Database, PATIENCE, assert_ledger, wait_until_relayed};

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 3;
const RELAY: &str = "topic = \"orders\"\nbatch = 50";

fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("127.0.0.1:{}", broker.port));
    config
}

pub(crate) async fn make_topic(broker: &Broker, max_message_bytes: &str) {
    make_topic_of(broker, TOPIC, max_message_bytes).await;
}

async fn make_topic_of(broker: &Broker, name: &str, max_message_bytes: &str) {
    let admin: AdminClient<DefaultClientContext> = client(broker).create().unwrap();
    let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1)).set("max.message.bytes", max_message_bytes);
    let made = admin.create_topics(&[topic], &AdminOptions::new().request_timeout(Some(PATIENCE))).await.unwrap();
    assert!(made[0].is_ok(), "{made:?}");
}

fn sink(broker: &Broker, more: &str) -> String {
    format!("kind = \"kafka\"\nbrokers = \"127.0.0.1:{}\"\n{more}", broker.port)
}

/// A record of a partition.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    partition: i32,
    pub(crate) key: String,
    pub(crate) n: i64,
    place: (i32, i64),
    headers: HashMap<String, String>,
}

fn stored_record(message: &BorrowedMessage<'_>) -> Stored {
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
    let headers: HashMap<String, String> =
        message.headers().unwrap().iter().map(|header| (header.key.to_owned(), text(header.value))).collect();
    let body: serde_json::Value = serde_json::from_slice(message.payload().unwrap_or_default()).unwrap_or_default();
    Stored {
        partition: message.partition(),
        key: text(message.key()),
        n: body["n"].as_i64().unwrap_or(-1),
        place: (headers["outbox-epoch"].parse().unwrap(), headers["outbox-position"].parse().unwrap()),
        headers,
    }
}

/// Returns all records of the topic, partition by partition.
pub(crate) async fn stored(broker: &Broker, isolation: &'static str) -> Vec<Stored> {
    stored_in(broker, TOPIC, isolation).await
}

async fn stored_in(broker: &Broker, topic: &'static str, isolation: &'static str) -> Vec<Stored> {
    let mut config = client(broker);
    config.set("group.id", "test").set("isolation.level", isolation).set("enable.partition.eof", "true");
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().unwrap();
        let mut found = Vec::new();
        for partition in 0..PARTITIONS {
            let mut assigned = TopicPartitionList::new();
            assigned.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
            consumer.assign(&assigned).unwrap();
            let begun = std::time::Instant::now();
            loop {
                assert!(begun.elapsed() < PATIENCE, "partition {partition} has no end");
                match consumer.poll(Duration::from_secs(1)) {
                    Some(Ok(message)) => found.push(stored_record(&message)),
                    Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => break,
                    _ => {}
                }
            }
        }
        found
    })
    .await
    .unwrap()
}

/// Drops repeats as the documentation tells consumers to: by one place for each partition.
pub(crate) fn without_repeats(records: Vec<Stored>) -> Vec<Stored> {
    let mut last = HashMap::new();
    records
        .into_iter()
        .filter(|record| {
            let last = last.entry(record.partition).or_insert((0, 0));
            let is_new = record.place > *last;
            *last = record.place.max(*last);
            is_new
        })
        .collect()
}

/// Returns the payloads in the order of the feed, after a look at each partition: its records are in this order already.
fn in_order(records: &[Stored]) -> Vec<i64> {
    for partition in 0..PARTITIONS {
        let places: Vec<_> = records.iter().filter(|r| r.partition == partition).map(|r| r.place).collect();
        assert!(places.is_sorted(), "partition {partition}: {places:?}");
    }
    let mut partition_of = HashMap::new();
    for record in records {
        assert_eq!(*partition_of.entry(&record.key).or_insert(record.partition), record.partition, "{}", record.key);
    }
    let mut sorted: Vec<_> = records.iter().map(|record| (record.place, record.n)).collect();
    sorted.sort_unstable();
    sorted.into_iter().map(|(_, n)| n).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_reach_partitions_in_order_with_their_marks() {
    let (db, broker) = (Database::new().await, Broker::kafka().await);
    make_topic(&broker, "1048588").await;
    db.enqueue(1, 120).await;
    let config = Config::new(&db, RELAY, &sink(&broker, ""));
    let (code, text) = config.check().await;
    assert!(code == 0 && text.contains("order.created -> orders key k1"), "{text}");
    config.succeed().await;
    let records = stored(&broker, "read_committed").await;
    assert_ledger(&db, &in_order(&records), 120).await;
    let record = records.iter().find(|record| record.place == (1, 42)).unwrap();
    assert_eq!(record.key, "k0");
    assert_eq!(record.headers["ce_id"], record.headers["webhook-id"]);
    assert_eq!(record.headers["ce_type"], "order.created");
    assert!(record.headers["outbox-source"].starts_with("/pg_outbox/"), "{record:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_drops_the_repeats_of_a_relay_that_is_killed_again_and_again() {
    let (db, broker) = (Database::new().await, Broker::kafka().await);
    make_topic(&broker, "1048588").await;
    let config = Config::new(&db, RELAY, &sink(&broker, ""));
    killed_again_and_again(&db, &config).await;
    let records = stored(&broker, "read_committed").await;
    // An instance that is killed repeats its last batch at most, and the batch that it was sending.
    assert!(records.len() <= 1500 + 6 * 100, "{}", records.len());
    assert_ledger(&db, &in_order(&without_repeats(records)), 1500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_store_every_record_once_although_the_relay_is_killed_again_and_again() {
    let (db, broker) = (Database::new().await, Broker::kafka().await);
    make_topic(&broker, "1048588").await;
    let config = Config::new(&db, RELAY, &sink(&broker, "transactional = true"));
    killed_again_and_again(&db, &config).await;
    assert_ledger(&db, &in_order(&stored(&broker, "read_committed").await), 1500).await;
}

async fn killed_again_and_again(db: &Database, config: &Config) {
    for round in 0..6 {
        db.enqueue(round * 250 + 1, round * 250 + 250).await;
        let relay = config.run();
        wait_until("this round has begun", PATIENCE, async || {
            let position =
                db.one("select coalesce(max(position), 0) from outbox.cursor where consumer = 'relay:orders'");
            position.await.parse::<i64>().unwrap() > round * 250
        })
        .await;
        tokio::time::sleep(Duration::from_millis(u64::try_from(round).unwrap() * 7)).await;
        drop(relay);
    }
    config.succeed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_restarted_loses_nothing() {
    let (db, mut broker) = (Database::new().await, Broker::kafka().await);
    make_topic(&broker, "1048588").await;
    let config = Config::new(&db, RELAY, &sink(&broker, ""));
    let relay = config.run();
    db.enqueue(1, 200).await;
    wait_until_relayed(&db, 200).await;
    // The server of the tests writes its data when it ends.
    broker.stop();
    db.enqueue(201, 400).await;
    broker.start().await;
    wait_until_relayed(&db, 400).await;
    assert_eq!(relay.terminate().await, 0);
    assert_ledger(&db, &in_order(&without_repeats(stored(&broker, "read_committed").await)), 400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_overtakes_a_record_that_is_too_large_and_batches_respect_the_topic() {
    for more in ["", "transactional = true"] {
        let (db, broker) = (Database::new().await, Broker::kafka().await);
        make_topic(&broker, "20000").await;
        db.enqueue(1, 1).await;
        let large =
            "select outbox.enqueue('order.created', jsonb_build_object('n', 2, 'x', repeat('x', 30000)), key => 'k1')";
        db.client.execute(large, &[]).await.unwrap();
        // Together, these are larger than a batch may be.
        db.enqueue(3, 202).await;
        let relay = Config::new(&db, "topic = \"orders\"\nbatch = 500", &sink(&broker, more)).run();
        db.wait_for_state("stopped", "the topic takes 20000").await;
        assert_eq!(in_order(&stored(&broker, "read_committed").await), [1]);
        db.client.execute("select outbox.cursor_advance('relay:orders', 2)", &[]).await.unwrap();
        wait_until_relayed(&db, 202).await;
        assert_eq!(relay.terminate().await, 0);
        let expected: Vec<i64> = (1..=202).filter(|n| *n != 2).collect();
        let records = without_repeats(stored(&broker, "read_committed").await);
        let mut seen = in_order(&records);
        seen.sort_unstable();
        assert_eq!(seen, expected, "{more}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_lowered_later_lets_nothing_overtake_either() {
    for more in ["", "transactional = true"] {
        let (db, broker) = (Database::new().await, Broker::kafka().await);
        make_topic(&broker, "1048588").await;
        let relay = Config::new(&db, "topic = \"orders\"\nbatch = 500", &sink(&broker, more)).run();
        db.enqueue(1, 10).await;
        wait_until_relayed(&db, 10).await;
        let admin: AdminClient<DefaultClientContext> = client(&broker).create().unwrap();
        let lower = AlterConfig::new(ResourceSpecifier::Topic(TOPIC)).set("max.message.bytes", "20000");
        admin.alter_configs(&[lower], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
        db.client
            .batch_execute(
                "select outbox.enqueue('order.created', jsonb_build_object('n', n, 'x', repeat('x', case n when 15 then 30000 else 1 end)),
                    key => 'k' || n % 7) from generate_series(11, 30) n",
            )
            .await
            .unwrap();
        db.wait_for_state("stopped", "the topic takes 20000").await;
        // Other partitions may have later records, which a consumer sees before the relay sends them again.
        let records = without_repeats(stored(&broker, "read_committed").await);
        let partition = records.iter().find(|record| record.key == "k1").map(|record| record.partition);
        let mut seen = in_order(&records);
        seen.retain(|n| *n < 15);
        seen.sort_unstable();
        assert_eq!(seen, (1..=14).collect::<Vec<_>>(), "{more}");
        let after: Vec<_> = records.iter().filter(|record| record.n > 14).collect();
        assert!(after.iter().all(|record| Some(record.partition) != partition), "{more}: {after:?}");
        assert!(more.is_empty() || after.is_empty(), "{more}: {after:?}");
        assert_eq!(relay.terminate().await, 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_broker_refuses_is_dead_lettered_without_the_body_that_its_topic_does_not_take() {
    for more in ["", "transactional = true"] {
        let (db, broker) = (Database::new().await, Broker::kafka().await);
        make_topic(&broker, "20000").await;
        make_topic_of(&broker, "dead", "20000").await;
        db.enqueue(1, 3).await;
        let large =
            "select outbox.enqueue('order.created', jsonb_build_object('n', 4, 'x', repeat('x', 30000)), key => 'k1')";
        db.client.execute(large, &[]).await.unwrap();
        db.enqueue(5, 9).await;
        let relay = "topic = \"orders\"\non_refused = \"dead-letter\"\ndead_letter_topic = \"dead\"";
        Config::new(&db, relay, &sink(&broker, more)).succeed().await;
        let mut seen = in_order(&without_repeats(stored(&broker, "read_committed").await));
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3, 5, 6, 7, 8, 9], "{more}");
        let dead = stored_in(&broker, "dead", "read_committed").await;
        assert_eq!(dead.iter().map(|record| record.place).collect::<Vec<_>>(), [(1, 4)], "{more}");
        assert!(dead[0].headers["outbox-refusal"].contains("the topic takes 20000") && dead[0].n == -1, "{dead:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_leaves_a_relay_at_work_alone() {
    let (db, broker) = (Database::new().await, Broker::kafka().await);
    make_topic(&broker, "1048588").await;
    let config = Config::new(&db, RELAY, &sink(&broker, "transactional = true"));
    let relay = config.run();
    db.enqueue(1, 100).await;
    wait_until_relayed(&db, 100).await;
    let (code, text) = config.check().await;
    assert!(code == 0 && text.contains("ends with position 100"), "{text}");
    db.enqueue(101, 200).await;
    wait_until_relayed(&db, 200).await;
    assert!(!relay.log().contains("the broker failed"), "{}", relay.log());
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_another_outbox_is_not_written_to() {
    let (db, other, broker) = (Database::new().await, Database::new().await, Broker::kafka().await);
    make_topic(&broker, "1048588").await;
    db.enqueue(1, 3).await;
    other.enqueue(1, 3).await;
    Config::new(&db, RELAY, &sink(&broker, "")).succeed().await;
    let output = Config::new(&other, RELAY, &sink(&broker, "")).once().await;
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stored(&broker, "read_committed").await.len(), 3);
    assert!(other.one("select last_error from outbox.relay_status").await.contains("messages of the source"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_waits_for_brokers_and_says_why() {
    let (db, mut broker) = (Database::new().await, Broker::kafka().await);
    make_topic(&broker, "1048588").await;
    broker.stop();
    db.enqueue(1, 5).await;
    let user = "user = \"relay\"\npassword = { env = \"BROKER_PASSWORD\" }";
    let (code, text) = Config::new(&db, RELAY, &sink(&broker, user)).check().await;
    assert!(code == 4 && !text.contains("geheim"), "{text}");
    let relay = Config::new(&db, RELAY, &sink(&broker, "")).run();
    db.wait_for_state("retrying", "refused").await;
    broker.start().await;
    wait_until_relayed(&db, 5).await;
    assert_eq!(relay.terminate().await, 0);
}
