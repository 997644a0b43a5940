//! SQS, SNS and Kinesis, with moto in the place of AWS: it is started once. A proxy fails some messages of a request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_kinesis::types::ShardIteratorType;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_sqs::types::{Message, QueueAttributeName};
use outbox_harness::wait_until;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;

use crate::programs::{Broker, Config, Database, PATIENCE, wait_until_relayed};

async fn moto() -> &'static Broker {
    static MOTO: OnceCell<Broker> = OnceCell::const_new();
    MOTO.get_or_init(Broker::aws).await
}

/// The settings of a client, for each of the three crates.
macro_rules! client {
    ($service:ident) => {
        $service::Client::from_conf(
            $service::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new("eu-central-1"))
                .credentials_provider(Credentials::new("test", "test", None, None, "test"))
                .endpoint_url(format!("http://127.0.0.1:{}", moto().await.port))
                .http_client(aws_smithy_http_client::Builder::new().build_http())
                .build(),
        )
    };
}

fn sink(kind: &str, port: u16) -> String {
    format!("kind = \"{kind}\"\nregion = \"eu-central-1\"\nendpoint = \"http://127.0.0.1:{port}\"")
}

/// A message as a consumer got it: key, number, place, and its other attributes.
#[derive(Clone, Debug)]
struct Got {
    key: String,
    n: i64,
    place: (i64, i64),
    marks: HashMap<String, String>,
}

async fn make_queue(sqs: &aws_sdk_sqs::Client, name: &str, attributes: &[(QueueAttributeName, &str)]) -> String {
    let mut asked = sqs.create_queue().queue_name(name);
    if name.ends_with(".fifo") {
        asked = asked.attributes(QueueAttributeName::FifoQueue, "true");
    }
    for (name, value) in attributes {
        asked = asked.attributes(name.clone(), *value);
    }
    asked.send().await.unwrap().queue_url().unwrap().to_owned()
}

/// Takes all messages of a queue.
async fn take(sqs: &aws_sdk_sqs::Client, queue: &str) -> Vec<Got> {
    let mut got = Vec::new();
    loop {
        let asked = sqs.receive_message().queue_url(queue).max_number_of_messages(10).message_attribute_names("All");
        let found = asked.send().await.unwrap();
        if found.messages().is_empty() {
            return got;
        }
        for message in found.messages() {
            got.push(of_sqs(message));
            let handle = message.receipt_handle().unwrap();
            sqs.delete_message().queue_url(queue).receipt_handle(handle).send().await.unwrap();
        }
    }
}

fn of_sqs(message: &Message) -> Got {
    let attributes = message.message_attributes().unwrap().iter();
    let marks: HashMap<String, String> =
        attributes.map(|(name, value)| (name.clone(), value.string_value().unwrap().to_owned())).collect();
    let body: Value = serde_json::from_str(message.body().unwrap()).unwrap_or_default();
    Got {
        key: marks["outbox-key"].clone(),
        n: body["n"].as_i64().unwrap_or(-1),
        place: (marks["outbox-epoch"].parse().unwrap(), marks["outbox-position"].parse().unwrap()),
        marks,
    }
}

/// Asserts that each key has its messages in the order of the feed, after repeats were dropped as the documentation says: by one
/// place for each key. Returns how many were dropped.
async fn assert_order(db: &Database, got: &[Got], n: i64) -> usize {
    let mut keys: HashMap<&str, (Vec<i64>, (i64, i64))> = HashMap::new();
    let mut dropped = 0;
    for got in got {
        let (numbers, last) = keys.entry(got.key.as_str()).or_default();
        if got.place > *last {
            numbers.push(got.n);
            *last = got.place;
        } else {
            dropped += 1;
        }
    }
    let sql = "select r.key, array_agg((r.payload ->> 'n')::bigint order by r.position) from outbox.read(0, 10000) r group by r.key";
    let rows = db.client.query(sql, &[]).await.unwrap();
    for row in &rows {
        let (key, expected): (String, Vec<i64>) = (row.get(0), row.get(1));
        assert_eq!(keys.get(key.as_str()).map(|(numbers, _)| numbers), Some(&expected), "key {key}");
    }
    assert_eq!(keys.values().map(|(numbers, _)| numbers.len()).sum::<usize>(), usize::try_from(n).unwrap());
    dropped
}

/// A proxy that fails the message with this number, so many times.
struct Faulty {
    port: u16,
    left: Arc<Mutex<u32>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Faulty {
    async fn start(n: i64, times: u32) -> Faulty {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, target) = (listener.local_addr().unwrap().port(), moto().await.port);
        let left = Arc::new(Mutex::new(times));
        let counter = left.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(answer(near, target, n, counter.clone()));
            }
        });
        Faulty { port, left, task }
    }

    fn is_done(&self) -> bool {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) == 0
    }
}

/// Reads a request or response: its head, and its body.
async fn read(from: &mut BufReader<TcpStream>) -> Option<(Vec<String>, Vec<u8>)> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let length = head.iter().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    from.read_exact(&mut body).await.ok()?;
    Some((head, body))
}

async fn write(to: &mut BufReader<TcpStream>, head: &[String], body: &[u8]) -> Option<()> {
    let mut text = String::new();
    for line in head {
        let is_length = line.to_lowercase().starts_with("content-length: ");
        text += &if is_length { format!("content-length: {}\r\n", body.len()) } else { format!("{line}\r\n") };
    }
    to.get_mut().write_all(format!("{text}\r\n").as_bytes()).await.ok()?;
    to.get_mut().write_all(body).await.ok()
}

/// Takes the message with this number out of a request of SNS. Returns its id, and the request without it.
fn without(form: &str, n: i64) -> Option<(String, String)> {
    let (entry, message) = ("PublishBatchRequestEntries.member.", format!(".Message=%7B%22n%22%3A%20{n}%7D"));
    let number = |pair: &str| pair.strip_prefix(entry)?.split('.').next()?.parse::<usize>().ok();
    let taken = form.split('&').find(|pair| pair.ends_with(&message)).and_then(number)?;
    let id = form.split('&').find_map(|pair| pair.strip_prefix(&format!("{entry}{taken}.Id="))).map(str::to_owned)?;
    let pairs = form.split('&').filter(|pair| number(pair) != Some(taken)).map(|pair| match number(pair) {
        Some(later) if later > taken => pair.replacen(&format!("{later}."), &format!("{}.", later - 1), 1),
        _ => pair.to_owned(),
    });
    Some((id, pairs.collect::<Vec<_>>().join("&")))
}

/// Answers the requests of a connection.
async fn answer(near: TcpStream, target: u16, n: i64, left: Arc<Mutex<u32>>) -> Option<()> {
    let mut near = BufReader::new(near);
    loop {
        let (head, body) = read(&mut near).await?;
        let action = head.iter().find_map(|line| line.to_lowercase().strip_prefix("x-amz-target: ").map(str::to_owned));
        let action = action.unwrap_or_default();
        let mut request: Value = serde_json::from_slice(&body).unwrap_or_default();
        let take = || {
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            let is_left = *left > 0;
            *left = left.saturating_sub(1);
            is_left
        };
        let mut failed = None;
        if action.ends_with("sendmessagebatch") {
            let is_it = |entry: &Value| {
                let body: Value =
                    serde_json::from_str(entry["MessageBody"].as_str().unwrap_or_default()).unwrap_or_default();
                body["n"] == n
            };
            let entries = request["Entries"].as_array_mut()?;
            if let Some(index) = entries.iter().position(is_it)
                && take()
            {
                failed = Some(entries.remove(index)["Id"].clone());
            }
        }
        if action.ends_with("putrecord") {
            let data =
                base64::Engine::decode(&base64::engine::general_purpose::STANDARD, request["Data"].as_str()?).ok()?;
            let line: Value = serde_json::from_slice(&data).ok()?;
            if line["body"]["n"] == n && take() {
                let error =
                    json!({"__type": "ProvisionedThroughputExceededException", "message": "slow down"}).to_string();
                let head =
                    ["HTTP/1.1 400 Bad Request", "content-type: application/x-amz-json-1.1", "content-length: 0"];
                write(&mut near, &head.map(str::to_owned), error.as_bytes()).await?;
                continue;
            }
        }
        if let Some((id, others)) = std::str::from_utf8(&body).ok().and_then(|form| without(form, n))
            && take()
        {
            let mut far = BufReader::new(TcpStream::connect(("127.0.0.1", target)).await.ok()?);
            write(&mut far, &head, others.as_bytes()).await?;
            let (mut head, response) = read(&mut far).await?;
            head.retain(|line| !line.to_lowercase().starts_with("connection: "));
            let failed = format!(
                "<Failed><member><Id>{id}</Id><Code>InternalError</Code><SenderFault>false</SenderFault></member></Failed>"
            );
            let response = String::from_utf8(response).ok()?.replace("<Failed></Failed>", "").replace("<Failed/>", "");
            let response = response.replace("</PublishBatchResult>", &format!("{failed}</PublishBatchResult>"));
            write(&mut near, &head, response.as_bytes()).await?;
            continue;
        }
        let is_empty = request["Entries"].as_array().is_some_and(Vec::is_empty);
        let (mut response_head, mut response) = if failed.is_some() && is_empty {
            let head = ["HTTP/1.1 200 OK", "content-type: application/x-amz-json-1.0", "content-length: 0"];
            (head.map(str::to_owned).to_vec(), b"{\"Successful\": []}".to_vec())
        } else {
            let body = if failed.is_some() { request.to_string().into_bytes() } else { body };
            let mut far = BufReader::new(TcpStream::connect(("127.0.0.1", target)).await.ok()?);
            write(&mut far, &head, &body).await?;
            read(&mut far).await?
        };
        response_head.retain(|line| !line.to_lowercase().starts_with("connection: "));
        if let Some(id) = failed {
            let mut whole: Value = serde_json::from_slice(&response).ok()?;
            whole["Failed"] =
                json!([{"Id": id, "SenderFault": false, "Code": "InternalError", "Message": "try later"}]);
            response = whole.to_string().into_bytes();
        }
        write(&mut near, &response_head, &response).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_request_that_fails_is_not_overtaken_by_its_key() {
    let (db, sqs, faulty) = (Database::new().await, client!(aws_sdk_sqs), Faulty::start(9, 2).await);
    let queue = make_queue(&sqs, "partial.fifo", &[]).await;
    db.enqueue(1, 60).await;
    Config::new(&db, "topic = \"partial.fifo\"", &sink("sqs", faulty.port)).succeed().await;
    assert!(faulty.is_done());
    let got = take(&sqs, &queue).await;
    // The queue has dropped the repeats, whose ids it knows.
    assert_eq!((assert_order(&db, &got, 60).await, got.len()), (0, 60));
    let one = got.iter().find(|got| got.n == 42).unwrap();
    assert_eq!((one.key.as_str(), one.marks["ce-type"].as_str()), ("k0", "order.created"));
    let others: Value = serde_json::from_str(&one.marks["outbox-headers"]).unwrap();
    assert_eq!(
        (others["ce-id"].as_str(), others["content-type"].as_str()),
        (Some(one.marks["webhook-id"].as_str()), Some("application/json"))
    );
    assert!(one.marks.len() <= 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_has_every_key_in_order_although_relays_are_killed_and_take_over() {
    let (db, sqs) = (Database::new().await, client!(aws_sdk_sqs));
    let queue = make_queue(&sqs, "killed.fifo", &[]).await;
    let config = Config::new(&db, "topic = \"killed.fifo\"\nbatch = 20", &sink("sqs", moto().await.port));
    let sent = async || {
        let name = QueueAttributeName::ApproximateNumberOfMessages;
        let asked = sqs.get_queue_attributes().queue_url(&queue).attribute_names(name.clone()).send().await.unwrap();
        asked.attributes().unwrap()[&name].parse::<i64>().unwrap()
    };
    let mut active = config.run();
    for round in 0..4 {
        let before = sent().await;
        db.enqueue(round * 60 + 1, round * 60 + 60).await;
        let standby = config.run();
        wait_until("a message has come", PATIENCE, async || sent().await > before).await;
        drop(std::mem::replace(&mut active, standby));
    }
    wait_until_relayed(&db, 240).await;
    assert_eq!(active.terminate().await, 0);
    let got = take(&sqs, &queue).await;
    assert_eq!((assert_order(&db, &got, 240).await, got.len()), (0, 240));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_missing_is_waited_for_and_a_message_that_is_too_large_stops() {
    let (db, sqs) = (Database::new().await, client!(aws_sdk_sqs));
    db.enqueue(1, 2).await;
    let large =
        "select outbox.enqueue('order.created', jsonb_build_object('n', 3, 'x', repeat('x', 30000)), key => 'k1')";
    db.client.execute(large, &[]).await.unwrap();
    db.enqueue(4, 9).await;
    let config = Config::new(&db, "topic = \"small\"", &sink("sqs", moto().await.port));
    let (code, text) = config.check().await;
    assert!(code == 4 && text.contains("\"small\""), "{text}");
    let relay = config.run();
    db.wait_for_state("retrying", "\"small\"").await;
    let queue = make_queue(&sqs, "small", &[(QueueAttributeName::MaximumMessageSize, "20000")]).await;
    db.wait_for_state("stopped", "small takes 20000").await;
    let mut numbers: Vec<i64> = take(&sqs, &queue).await.iter().map(|got| got.n).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2]);
    db.client.execute("select outbox.cursor_advance('relay:orders', 3)", &[]).await.unwrap();
    wait_until_relayed(&db, 9).await;
    assert_eq!(relay.terminate().await, 0);
    let mut numbers: Vec<i64> = take(&sqs, &queue).await.iter().map(|got| got.n).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [4, 5, 6, 7, 8, 9]);
    let (code, text) = Config::new(&db, "", &sink("sqs", moto().await.port)).check().await;
    assert!(code == 0 && text.contains("nothing to send"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_sns_hands_every_key_on_in_order() {
    let (db, sqs, sns) = (Database::new().await, client!(aws_sdk_sqs), client!(aws_sdk_sns));
    let queue = make_queue(&sqs, "stock.fifo", &[]).await;
    let asked = sns.create_topic().name("orders.fifo").attributes("FifoTopic", "true");
    let topic = asked.send().await.unwrap().topic_arn().unwrap().to_owned();
    let subscribe = sns.subscribe().topic_arn(&topic).protocol("sqs").attributes("RawMessageDelivery", "true");
    subscribe.endpoint("arn:aws:sqs:eu-central-1:123456789012:stock.fifo").send().await.unwrap();
    db.enqueue(1, 60).await;
    // A message of a request fails.
    let faulty = Faulty::start(9, 2).await;
    let config = Config::new(&db, &format!("topic = \"{topic}\""), &sink("sns", faulty.port));
    let (code, text) = config.check().await;
    assert!(code == 0 && text.contains("broker: ok"), "{text}");
    config.succeed().await;
    assert!(faulty.is_done());
    let got = take(&sqs, &queue).await;
    assert_eq!((assert_order(&db, &got, 60).await, got.len()), (0, 60));
    let (code, text) = Config::new(&db, "topic = \"orders\"", &sink("sns", moto().await.port)).check().await;
    assert!(code == 4 && text.contains("is not the ARN of a topic"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_kinesis_has_every_key_in_order_although_requests_fail() {
    let (db, kinesis) = (Database::new().await, client!(aws_sdk_kinesis));
    // More than the client repeats by itself.
    let faulty = Faulty::start(9, 7).await;
    kinesis.create_stream().stream_name("orders").shard_count(2).send().await.unwrap();
    db.enqueue(1, 60).await;
    Config::new(&db, "topic = \"orders\"", &sink("kinesis", faulty.port)).succeed().await;
    assert!(faulty.is_done());
    let mut got = Vec::new();
    for shard in kinesis.list_shards().stream_name("orders").send().await.unwrap().shards() {
        let asked = kinesis.get_shard_iterator().stream_name("orders").shard_id(shard.shard_id());
        let iterator = asked.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap();
        let found = kinesis.get_records().shard_iterator(iterator.shard_iterator().unwrap()).send().await.unwrap();
        for record in found.records() {
            let line: Value = serde_json::from_slice(record.data().as_ref()).unwrap();
            let number = |name: &str| line["headers"][name].as_str().unwrap().parse().unwrap();
            assert_eq!(line["key"], record.partition_key());
            got.push(Got {
                key: record.partition_key().to_owned(),
                n: line["body"]["n"].as_i64().unwrap(),
                place: (number("outbox-epoch"), number("outbox-position")),
                marks: HashMap::new(),
            });
        }
    }
    let dropped = assert_order(&db, &got, 60).await;
    // Of the round that failed, other keys were stored.
    assert!(dropped <= 2 * 7, "{dropped}");
}
