//! MQTT: what a subscriber gets, whatever happens to relay and server. Its session survives every connection.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outbox_harness::postgres::{fresh_folder, own};
use outbox_harness::tls::Ca;
use outbox_harness::wait_until;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};

use crate::programs::{Broker, Config, Database, PATIENCE, assert_ledger, wait_until_relayed};

const TOPIC: &str = "topic = \"shop/{topic}\"";

fn sink(broker: &Broker) -> String {
    format!("kind = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{}\"", broker.port)
}

/// A message as the subscriber gets it.
#[derive(Clone, Debug)]
struct Got {
    n: i64,
    place: (i32, i64),
    topic: String,
    content_type: String,
    headers: HashMap<String, String>,
}

impl Got {
    fn of(publish: &Publish) -> Got {
        let properties = publish.properties.clone().unwrap_or_default();
        let headers: HashMap<String, String> = properties.user_properties.into_iter().collect();
        let body: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap_or_default();
        Got {
            n: body["n"].as_i64().unwrap_or(-1),
            place: (headers["outbox-epoch"].parse().unwrap(), headers["outbox-position"].parse().unwrap()),
            topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
            content_type: properties.content_type.unwrap_or_default(),
            headers,
        }
    }
}

/// A subscriber of all topics.
struct Subscriber {
    got: Arc<Mutex<Vec<Got>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Subscriber {
    async fn start(broker: &Broker) -> Subscriber {
        let mut options = MqttOptions::new("subscriber", "127.0.0.1", broker.port);
        options.set_clean_start(false).set_session_expiry_interval(Some(3600)).set_max_packet_size(Some(1 << 20));
        let (client, mut connection) = AsyncClient::new(options, 10);
        let (got, subscribed) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        client.subscribe("#", QoS::AtLeastOnce).await.unwrap();
        let (log, ready) = (Arc::clone(&got), Arc::clone(&subscribed));
        let task = tokio::spawn(async move {
            loop {
                match connection.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        log.lock().unwrap_or_else(PoisonError::into_inner).push(Got::of(&publish));
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => ready.store(true, Ordering::Release),
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        wait_until("the subscriber is there", PATIENCE, async || subscribed.load(Ordering::Acquire)).await;
        Subscriber { got, task }
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the message at this position has come, and returns what came, without repeats. These are dropped as the
    /// documentation tells consumers to: by one place.
    async fn without_repeats(&self, position: i64) -> Vec<Got> {
        wait_until(&format!("the subscriber has position {position}"), PATIENCE, async || {
            self.got().iter().any(|got| got.place.1 == position)
        })
        .await;
        let mut last = (0, 0);
        let mut got = self.got();
        got.retain(|got| {
            let is_new = got.place > last;
            last = last.max(got.place);
            is_new
        });
        got
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn numbers(got: &[Got]) -> Vec<i64> {
    got.iter().map(|got| got.n).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_drops_the_repeats_of_a_relay_that_is_killed_again_and_again() {
    let (db, broker) = (Database::new().await, Broker::mqtt("").await);
    let subscriber = Subscriber::start(&broker).await;
    let config = Config::new(&db, &format!("{TOPIC}\nbatch = 25"), &sink(&broker));
    for round in 0..6 {
        db.enqueue(round * 200 + 1, round * 200 + 200).await;
        let before = subscriber.got().len();
        let relay = config.run();
        wait_until("a message has come", PATIENCE, async || subscriber.got().len() > before).await;
        tokio::time::sleep(Duration::from_millis(u64::try_from(round).unwrap() * 3)).await;
        drop(relay);
    }
    config.succeed().await;
    let got = subscriber.without_repeats(1200).await;
    assert_ledger(&db, &numbers(&got), 1200).await;
    // An instance that is killed repeats its last batch at most, and the batch that it was sending.
    assert!(subscriber.got().len() <= 1200 + 6 * 50, "{}", subscriber.got().len());
    let one = &got[41];
    assert_eq!((one.topic.as_str(), one.content_type.as_str()), ("shop/order.created", "application/json"));
    assert_eq!(one.headers["outbox-key"], "k0");
    assert_eq!((&one.headers["id"], one.headers["type"].as_str()), (&one.headers["webhook-id"], "order.created"));
}

/// A server ends the connection when a text has such a character.
#[tokio::test(flavor = "multi_thread")]
async fn a_character_that_a_server_does_not_take_stops_no_other_message() {
    let (db, broker) = (Database::new().await, Broker::mqtt("").await);
    let subscriber = Subscriber::start(&broker).await;
    let odd = "select outbox.enqueue('order.created', '{\"n\": 1}', key => E'k\\x01\\n\\u0085\\uFDD0\\uFFFF')";
    db.client.execute(odd, &[]).await.unwrap();
    db.enqueue(2, 5).await;
    Config::new(&db, TOPIC, &sink(&broker)).succeed().await;
    let got = subscriber.without_repeats(5).await;
    assert_eq!(numbers(&got), [1, 2, 3, 4, 5]);
    assert_eq!(got[0].headers["outbox-key"], "k\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}");
    let other = Database::new().await;
    other.client.execute(odd, &[]).await.unwrap();
    other.wait_for_positions().await;
    let (code, text) = Config::new(&other, "topic = \"shop/{key}\"", &sink(&broker)).check().await;
    assert!(code == 4 && text.contains("is not a topic"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_restarted_loses_nothing() {
    let (db, mut broker) = (Database::new().await, Broker::mqtt("").await);
    let subscriber = Subscriber::start(&broker).await;
    let relay = Config::new(&db, TOPIC, &sink(&broker)).run();
    db.enqueue(1, 100).await;
    wait_until_relayed(&db, 100).await;
    broker.stop();
    db.enqueue(101, 200).await;
    db.wait_for_state("retrying", "").await;
    broker.start().await;
    wait_until_relayed(&db, 200).await;
    assert_eq!(relay.terminate().await, 0);
    assert_ledger(&db, &numbers(&subscriber.without_repeats(200).await), 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_overtakes_a_message_that_is_too_large() {
    let (db, broker) = (Database::new().await, Broker::mqtt("max_packet_size 20000").await);
    let subscriber = Subscriber::start(&broker).await;
    db.enqueue(1, 1).await;
    large(&db, 2).await;
    db.enqueue(3, 8).await;
    let config = Config::new(&db, TOPIC, &sink(&broker));
    let (code, text) = config.check().await;
    assert!(code == 4 && text.contains("refused: the message has about"), "{text}");
    let relay = config.run();
    db.wait_for_state("stopped", "the server takes 20000").await;
    assert_eq!(numbers(&subscriber.without_repeats(1).await), [1]);
    db.client.execute("select outbox.cursor_advance('relay:orders', 2)", &[]).await.unwrap();
    wait_until_relayed(&db, 8).await;
    assert_eq!(numbers(&subscriber.without_repeats(8).await), [1, 3, 4, 5, 6, 7, 8]);
    assert_eq!(relay.terminate().await, 0);
}

/// The server does not tell this limit, and its refusal does not say which message it is about.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_larger_than_the_server_says_is_dead_lettered() {
    let (db, broker) = (Database::new().await, Broker::mqtt("message_size_limit 20000").await);
    let subscriber = Subscriber::start(&broker).await;
    db.enqueue(1, 5).await;
    large(&db, 6).await;
    db.enqueue(7, 12).await;
    let relay = format!("{TOPIC}\non_refused = \"dead-letter\"\ndead_letter_topic = \"dead\"");
    Config::new(&db, &relay, &sink(&broker)).succeed().await;
    let got = subscriber.without_repeats(12).await;
    assert!(subscriber.got().iter().any(|got| got.topic == "dead" && got.headers["outbox-position"] == "6"), "{got:?}");
    let orders: Vec<Got> = got.into_iter().filter(|got| got.topic != "dead").collect();
    assert_eq!(numbers(&orders), [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]);
    // A limit that the relay knows costs no attempt.
    let other = Database::new().await;
    large(&other, 1).await;
    let (code, text) =
        Config::new(&other, TOPIC, &format!("{}\nmax_message_bytes = 20000", sink(&broker))).check().await;
    assert!(code == 4 && text.contains("the server takes 20000"), "{text}");
}

async fn large(db: &Database, n: i32) {
    let large = format!(
        "select outbox.enqueue('order.created', jsonb_build_object('n', {n}, 'x', repeat('x', 30000)), key => 'k1')"
    );
    db.client.execute(&large, &[]).await.unwrap();
    db.wait_for_positions().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_was_replaced_is_disconnected_and_a_check_disturbs_nothing() {
    let (db, broker) = (Database::new().await, Broker::mqtt("").await);
    let subscriber = Subscriber::start(&broker).await;
    let config = Config::new(&db, TOPIC, &sink(&broker));
    db.enqueue(1, 20).await;
    let first = config.run();
    wait_until_relayed(&db, 20).await;
    let (code, text) = config.check().await;
    assert!(code == 0 && text.contains("broker: ok"), "{text}");
    db.enqueue(21, 40).await;
    wait_until_relayed(&db, 40).await;
    assert!(!first.log().contains("the broker failed"), "{}", first.log());
    let second = config.run();
    wait_until("the second stands by", PATIENCE, async || second.log().contains("standing by")).await;
    db.enqueue(41, 400).await;
    first.signal("STOP");
    wait_until("the second takes over", PATIENCE, async || second.log().contains("\"active\"")).await;
    wait_until_relayed(&db, 400).await;
    first.signal("CONT");
    wait_until("the first stands by", PATIENCE, async || first.log().contains("standing by")).await;
    db.enqueue(401, 420).await;
    wait_until_relayed(&db, 420).await;
    assert_eq!(second.terminate().await, 0);
    assert_ledger(&db, &numbers(&subscriber.without_repeats(420).await), 420).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_the_relay_may_not_write_to_is_reported_and_nothing_overtakes() {
    let rules = fresh_folder("rules").unwrap().join("acl");
    fs::write(&rules, "topic read #\ntopic write allowed/#\n").unwrap();
    own(&rules).unwrap();
    let (db, broker) = (Database::new().await, Broker::mqtt(&format!("acl_file {}", rules.display())).await);
    let subscriber = Subscriber::start(&broker).await;
    db.enqueue(1, 5).await;
    let relay = Config::new(&db, TOPIC, &sink(&broker)).run();
    db.wait_for_state("retrying", "NotAuthorized").await;
    drop(relay);
    Config::new(&db, "topic = \"allowed/{topic}\"", &sink(&broker)).succeed().await;
    let got = subscriber.without_repeats(5).await;
    assert_eq!(numbers(&got), [1, 2, 3, 4, 5]);
    assert!(got.iter().all(|got| got.topic == "allowed/order.created"));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_and_a_wrong_password_is_reported_without_the_password() {
    let (authority, folder) = (Ca::new().unwrap(), fresh_folder("certificates").unwrap());
    let identity = authority.issue(&["127.0.0.1"]).unwrap();
    let write = |name: &str, text: &str| {
        fs::write(folder.join(name), text).unwrap();
        folder.join(name).display().to_string()
    };
    let (ca, certificate) = (write("ca.pem", &authority.pem()), write("server.pem", &identity.certificate));
    let key = write("server.key", &identity.key);
    // A user with some password.
    let users = write("users", &format!("other:$7$101${}${}==\n", "A".repeat(16), "A".repeat(86)));
    let config = format!("certfile {certificate}\nkeyfile {key}\nallow_anonymous false\npassword_file {users}");
    let broker = Broker::mqtt(&config).await;
    let db = Database::new().await;
    db.enqueue(1, 1).await;
    let url = format!("kind = \"mqtt\"\nurl = \"mqtts://127.0.0.1:{}\"", broker.port);
    let (code, text) = Config::new(&db, TOPIC, &url).check().await;
    assert!(code == 4 && text.contains("UnknownIssuer"), "{text}");
    let user = format!("{url}\nca_file = \"{ca}\"\nuser = \"relay\"\npassword = {{ env = \"BROKER_PASSWORD\" }}");
    let relay = Config::new(&db, TOPIC, &user).run();
    db.wait_for_state("retrying", "NotAuthorized").await;
    assert!(!relay.log().contains("geheim"));
    assert!(!db.one("select last_error from outbox.relay_status").await.contains("geheim"));
}
