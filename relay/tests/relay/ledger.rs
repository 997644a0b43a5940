//! The ledger: many messages with many keys, a relay that is killed again and again, and a network that loses answers.
//!
//! `RELAY_LEDGER=100000` sets the number of messages; a tenth of a percent of that is the number of keys.

use std::collections::HashMap;
use std::time::Duration;

use outbox_harness::wait_until;

use crate::lossy::{Lossy, Protocol, Random};
use crate::programs::{Broker, Config, Database, PATIENCE, wait_until_relayed};
use crate::{jetstream, kafka};

/// The messages of a batch.
const BATCH: usize = 50;

/// A message in the feed, or as a consumer got it.
type Line = (String, i64);

fn size() -> (i64, i64) {
    let messages = std::env::var("RELAY_LEDGER").ok().and_then(|text| text.parse().ok()).unwrap_or(5_000);
    (messages, (messages / 100).clamp(10, 1_000))
}

/// Returns how many answers are lost. Some clients wait seconds for each.
fn most_lost() -> usize {
    usize::try_from(size().0 / 2_500).unwrap()
}

/// Enqueues messages while relays are started and killed, and waits until all have been relayed. Returns how many relays
/// were killed, and how many answers were lost.
async fn relay_under_fire(db: &Database, config: &Config, random: &mut Random, lossy: &Lossy) -> (usize, usize) {
    let (messages, keys) = size();
    let client = outbox_harness::connect(db.dsn()).await.unwrap();
    let enqueue = async |first: i64, last: i64| {
        for start in (first..=last).step_by(100) {
            let end = (start + 99).min(last);
            client
                .execute(
                    "select outbox.enqueue('order.created', jsonb_build_object('n', n), key => 'k' || n % $3)
                     from generate_series($1::bigint, $2) n",
                    &[&start, &end, &keys],
                )
                .await
                .unwrap();
        }
    };
    let position = async || {
        let cursor = "select coalesce(max(position), 0) from outbox.cursor where consumer = 'relay:orders'";
        db.one(cursor).await.parse::<i64>().unwrap()
    };
    // Each relay has messages of its own, so that a fast one does not relay what was meant for the others.
    let killed = (messages / 500).clamp(2, 40);
    for n in 0..killed {
        let (relay, before) = (config.run(), position().await);
        let relayed = async {
            wait_until("the relay has moved its cursor", PATIENCE, async || position().await > before).await;
            tokio::time::sleep(Duration::from_millis(random.below(150))).await;
            drop(relay);
        };
        tokio::join!(enqueue(messages * n / killed + 1, messages * (n + 1) / killed), relayed);
    }
    let lost = lossy.mend();
    let relay = config.run();
    // A relay that has nothing to do would otherwise get the signal before it can take it.
    wait_until("the broker is open", PATIENCE, async || relay.log().contains("the broker is open")).await;
    wait_until_relayed(db, messages).await;
    assert_eq!(relay.terminate().await, 0);
    eprintln!("{messages} messages, {keys} keys, {killed} relays killed, {lost} answers lost");
    (usize::try_from(killed).unwrap(), lost)
}

/// Returns the messages of the feed, in order.
async fn feed(db: &Database) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut after = 0_i64;
    loop {
        let sql = "select r.position, r.key, (r.payload ->> 'n')::bigint from outbox.read($1, 10000) r
            where r.message_id is not null";
        let rows = db.client.query(sql, &[&after]).await.unwrap();
        let Some(last) = rows.last() else { return lines };
        after = last.get(0);
        lines.extend(rows.iter().map(|row| (row.get(1), row.get(2))));
    }
}

/// Asserts that each key has its messages once and in the order of the feed.
fn assert_equal(feed: &[Line], consumed: &[Line]) {
    let by_key = |lines: &[Line]| {
        let mut keys: HashMap<String, Vec<i64>> = HashMap::new();
        lines.iter().for_each(|(key, n)| keys.entry(key.clone()).or_default().push(*n));
        keys
    };
    assert_eq!(feed.len(), consumed.len(), "the number of messages");
    let (feed, consumed) = (by_key(feed), by_key(consumed));
    for (key, expected) in feed {
        assert_eq!(consumed.get(&key), Some(&expected), "key {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_has_every_key_in_order_whatever_is_killed_or_lost() {
    let (db, broker, mut random) = (Database::new().await, Broker::kafka().await, Random::new());
    kafka::make_topic(&broker, "1048588").await;
    let lossy = Lossy::start(Protocol::Kafka, broker.port, most_lost(), &random).await;
    let relay = format!("topic = \"orders\"\nbatch = {BATCH}");
    let config = Config::new(&db, &relay, &format!("kind = \"kafka\"\nbrokers = \"127.0.0.1:{}\"", lossy.port));
    let (killed, lost) = relay_under_fire(&db, &config, &mut random, &lossy).await;
    assert!(lost > 0, "no answer was lost");
    let records = kafka::stored(&broker, "read_committed").await;
    let total = records.len();
    let consumed: Vec<Line> =
        kafka::without_repeats(records).into_iter().map(|record| (record.key, record.n)).collect();
    // Each that was killed repeats the batch before its cursor and the one that it was sending.
    let repeats = total - consumed.len();
    assert!(repeats <= killed * 2 * BATCH, "{repeats} repeats of {killed} relays");
    assert_equal(&feed(&db).await, &consumed);
}

#[tokio::test(flavor = "multi_thread")]
async fn jetstream_has_every_message_once_whatever_is_killed_or_lost() {
    let (db, broker, mut random) = (Database::new().await, Broker::nats("").await, Random::new());
    jetstream::make_stream(&broker).await;
    let lossy = Lossy::start(Protocol::Nats, broker.port, most_lost(), &random).await;
    let relay = format!("topic = \"shop.{{topic}}\"\nbatch = {BATCH}");
    let sink = format!("kind = \"nats\"\nurl = \"nats://127.0.0.1:{}\"\nstream = \"ORDERS\"", lossy.port);
    let config = Config::new(&db, &relay, &sink);
    let (_, lost) = relay_under_fire(&db, &config, &mut random, &lossy).await;
    assert!(lost > 0, "no answer was lost");
    let line = |message: &async_nats::Message| {
        let body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        let key = message.headers.as_ref().unwrap().get("outbox-key").unwrap().to_string();
        (key, body["n"].as_i64().unwrap())
    };
    let consumed: Vec<Line> = jetstream::stored(&broker).await.iter().map(line).collect();
    assert!(consumed == feed(&db).await, "{} messages in the stream", consumed.len());
}
