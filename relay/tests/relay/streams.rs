//! Redis Streams.

use outbox_harness::wait_until;
use redis::AsyncCommands as _;
use redis::streams::{StreamId, StreamRangeReply};

use crate::programs::{Broker, Config, Database, PATIENCE, assert_ledger, wait_until_relayed};

async fn connect(broker: &Broker) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/", broker.port)).unwrap();
    let patient =
        redis::AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
    client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
}

fn sink(broker: &Broker) -> String {
    format!("kind = \"redis\"\nurl = \"redis://127.0.0.1:{}/\"", broker.port)
}

async fn entries(broker: &Broker) -> Vec<StreamId> {
    // A server that has just started accepts connections before it has loaded its data.
    let begun = std::time::Instant::now();
    loop {
        let found: redis::RedisResult<StreamRangeReply> = connect(broker).await.xrange_all("order.created").await;
        match found {
            Err(error) if error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::BusyLoading) => {
                assert!(begun.elapsed() < PATIENCE, "the server loads its data for ever");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            found => return found.unwrap().ids,
        }
    }
}

async fn payloads(broker: &Broker) -> Vec<i64> {
    let n = |entry: &StreamId| {
        let body: String = entry.get("body").unwrap();
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["n"].as_i64().unwrap()
    };
    entries(broker).await.iter().map(n).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_every_message_once_although_relay_and_server_are_killed() {
    let (db, mut broker) = (Database::new().await, Broker::redis().await);
    let config = Config::new(&db, "batch = 25", &sink(&broker));
    let mut last = 0;
    for round in 0..6 {
        db.enqueue(round * 200 + 1, round * 200 + 200).await;
        let relay = config.run();
        wait_until("a message was stored", PATIENCE, async || entries(&broker).await.len() > last).await;
        tokio::time::sleep(std::time::Duration::from_millis(u64::try_from(round).unwrap() * 5)).await;
        if round % 2 == 1 {
            broker.kill();
        }
        drop(relay);
        if round % 2 == 1 {
            broker.start().await;
        }
        last = entries(&broker).await.len();
    }
    config.succeed().await;
    assert_ledger(&db, &payloads(&broker).await, 1200).await;
    let position: String = entries(&broker).await[41].get("outbox-position").unwrap();
    assert_eq!(entries(&broker).await[41].id, format!("1-{position}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_is_waited_for() {
    let (db, broker) = (Database::new().await, Broker::redis().await);
    let mut client = connect(&broker).await;
    let set = async |client: &mut redis::aio::MultiplexedConnection, most: &str| {
        let _: () = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(most).query_async(client).await.unwrap();
    };
    set(&mut client, "1").await;
    db.enqueue(1, 30).await;
    let relay = Config::new(&db, "", &sink(&broker)).run();
    db.wait_for_state("retrying", "OOM").await;
    set(&mut client, "0").await;
    wait_until_relayed(&db, 30).await;
    assert_ledger(&db, &payloads(&broker).await, 30).await;
    assert_eq!(relay.terminate().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_emptied_keeps_its_last_position() {
    let (db, broker) = (Database::new().await, Broker::redis().await);
    let mut client = connect(&broker).await;
    let config = Config::new(&db, "", &sink(&broker));
    let mut empty = async || -> i64 {
        redis::cmd("XTRIM").arg("order.created").arg("MAXLEN").arg(0).query_async(&mut client).await.unwrap()
    };
    db.enqueue(1, 9).await;
    config.succeed().await;
    assert_eq!(empty().await, 9);
    db.enqueue(10, 12).await;
    config.succeed().await;
    assert_eq!(payloads(&broker).await, [10, 11, 12]);
    // A relay that ended before it moved its cursor, and a consumer that has removed what it handled meanwhile.
    let back = "update outbox.cursor set position = 8 where consumer = 'relay:orders'";
    assert_eq!(db.client.execute(back, &[]).await.unwrap(), 1);
    assert_eq!(empty().await, 3);
    db.enqueue(13, 13).await;
    config.succeed().await;
    assert_eq!(payloads(&broker).await, [13]);
    // A message that an operator wants sent again cannot be added, and is not passed over in silence.
    db.client.execute("select outbox.cursor_reset('relay:orders', 11, 'once more')", &[]).await.unwrap();
    let output = config.once().await;
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(db.one("select last_error from outbox.relay_status").await.contains("has later entries already"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_a_stream_of_this_outbox_is_left_alone() {
    let (db, broker) = (Database::new().await, Broker::redis().await);
    let mut client = connect(&broker).await;
    db.enqueue(1, 1).await;
    let config = Config::new(&db, "", &sink(&broker));
    let _: () = client.set("order.created", "a text").await.unwrap();
    let output = config.once().await;
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(db.one("select last_error from outbox.relay_status").await.contains("is not a stream"));
    assert_eq!(client.get::<_, String>("order.created").await.unwrap(), "a text");
    let _: () = client.del("order.created").await.unwrap();
    config.succeed().await;
    assert_eq!(payloads(&broker).await, [1]);
}
