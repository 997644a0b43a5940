//! A producer without a database, for the benchmark `relay`.
//!
//! The producer sends the lines of a file sink to a broker. It has the client, the settings, the records and the batches of
//! the relay, and waits for each batch as the relay does. All records are in memory before the clock starts.
//!
//! - `from_memory prepare KIND ADDRESS` makes the topic or stream `bench`.
//! - `from_memory send KIND ADDRESS FILE BATCH` sends the records and prints the seconds that this took.
#![allow(clippy::print_stdout, reason = "the benchmark reads the output")]

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::header::{
    HeaderMap, HeaderName, HeaderValue, NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SEQUENCE,
    NATS_EXPECTED_STREAM, NATS_MESSAGE_ID,
};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream;
use bytes::Bytes;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use serde::Deserialize;
use serde_json::value::RawValue;

const NAME: &str = "bench";
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Line {
    topic: String,
    key: Option<String>,
    headers: BTreeMap<String, String>,
    body: Box<RawValue>,
}

/// A record as the relay has it before sending.
struct Record {
    topic: String,
    key: Option<String>,
    headers: Vec<(String, String)>,
    body: Bytes,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // As many threads as the relay has.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match args[..] {
            ["prepare", kind, address] => prepare(kind, address).await,
            ["send", kind, address, file, batch] => {
                let records = load(file, kind)?;
                let seconds = send(kind, address, &records, batch.parse()?).await?;
                println!("{seconds:.6}");
                Ok(())
            }
            _ => bail!("see the top of this file for the arguments"),
        }
    })
}

/// Reads the records, and gives their headers the names that the broker's sink does.
fn load(file: &str, kind: &str) -> Result<Vec<Record>> {
    let text = std::fs::read_to_string(file)?;
    let mut records = Vec::new();
    for line in text.lines() {
        let line: Line = serde_json::from_str(line)?;
        let mut headers = Vec::with_capacity(line.headers.len() + 1);
        for (name, value) in line.headers {
            headers.push((if kind == "kafka" { name.replacen("ce-", "ce_", 1) } else { name }, value));
        }
        if let (Some(key), true) = (&line.key, kind != "kafka") {
            headers.push(("outbox-key".to_owned(), key.clone()));
        }
        let body = Bytes::from(line.body.get().to_owned());
        records.push(Record { topic: line.topic, key: line.key, headers, body });
    }
    Ok(records)
}

async fn prepare(kind: &str, address: &str) -> Result<()> {
    match kind {
        "kafka" => {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", address);
            let admin: AdminClient<DefaultClientContext> = config.create()?;
            let topic = NewTopic::new(NAME, 3, TopicReplication::Fixed(1));
            for made in admin.create_topics(&[topic], &AdminOptions::new().request_timeout(Some(PATIENCE))).await? {
                made.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
            }
        }
        "nats" => {
            let config = stream::Config { name: NAME.into(), subjects: vec![NAME.into()], ..Default::default() };
            async_nats::jetstream::new(async_nats::connect(address).await?).create_stream(config).await?;
        }
        "redis" => {}
        other => bail!("there is no broker '{other}'"),
    }
    Ok(())
}

async fn send(kind: &str, address: &str, records: &[Record], batch: usize) -> Result<f64> {
    match kind {
        "kafka" => send_to_kafka(address, records, batch).await,
        "nats" => send_to_nats(address, records, batch).await,
        "redis" => send_to_redis(address, records, batch).await,
        other => bail!("there is no broker '{other}'"),
    }
}

async fn send_to_kafka(address: &str, records: &[Record], batch: usize) -> Result<f64> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", address)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "1")
        .set("message.max.bytes", "1000000000")
        .set("queue.buffering.max.kbytes", "1048576")
        .set("message.timeout.ms", "0")
        .set("enable.gapless.guarantee", "true");
    let producer: FutureProducer = config.create()?;
    producer.client().fetch_metadata(Some(NAME), PATIENCE)?;
    let started = Instant::now();
    for records in records.chunks(batch) {
        let mut waiting = Vec::with_capacity(records.len());
        for record in records {
            let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
            for (name, value) in &record.headers {
                headers = headers.insert(Header { key: name, value: Some(value) });
            }
            let mut made = FutureRecord::to(&record.topic).payload(&record.body[..]).headers(headers);
            if let Some(key) = &record.key {
                made = made.key(key.as_bytes());
            }
            waiting.push(producer.send_result(made).map_err(|(error, _)| error)?);
        }
        for delivery in waiting {
            delivery.await?.map_err(|(error, _)| error)?;
        }
    }
    Ok(started.elapsed().as_secs_f64())
}

async fn send_to_nats(address: &str, records: &[Record], batch: usize) -> Result<f64> {
    let client = async_nats::ConnectOptions::new().request_timeout(Some(PATIENCE)).connect(address).await?;
    let context =
        ContextBuilder::new().timeout(PATIENCE).ack_timeout(PATIENCE).max_ack_inflight(20_000).build(client.clone());
    let mut end = 0;
    let started = Instant::now();
    for records in records.chunks(batch) {
        let mut waiting = Vec::with_capacity(records.len());
        let mut before: Option<HeaderValue> = None;
        for record in records {
            let mut headers = HeaderMap::new();
            for (name, value) in &record.headers {
                headers.insert(HeaderName::from_str(name)?, HeaderValue::from_str(value)?);
            }
            let id = record.headers.iter().find(|(name, _)| name == "webhook-id").context("no webhook-id")?;
            headers.insert(NATS_MESSAGE_ID, HeaderValue::from_str(&id.1)?);
            headers.insert(NATS_EXPECTED_STREAM, NAME);
            match before {
                Some(id) => headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, id),
                None => headers.insert(NATS_EXPECTED_LAST_SEQUENCE, HeaderValue::from(end)),
            }
            before = headers.get(NATS_MESSAGE_ID).cloned();
            waiting.push(context.publish_with_headers(record.topic.clone(), headers, record.body.clone()).await?);
        }
        for answer in waiting {
            end = answer.await?.sequence;
        }
    }
    Ok(started.elapsed().as_secs_f64())
}

async fn send_to_redis(address: &str, records: &[Record], batch: usize) -> Result<f64> {
    let mut session = redis::Client::open(address)?.get_multiplexed_async_connection().await?;
    let started = Instant::now();
    for (n, records) in records.chunks(batch).enumerate() {
        let mut pipe = redis::pipe();
        pipe.atomic();
        for (k, record) in records.iter().enumerate() {
            let command = pipe.cmd("XADD").arg(&record.topic).arg(format!("1-{}", n * batch + k + 1));
            for (name, value) in &record.headers {
                command.arg(name).arg(value);
            }
            command.arg("body").arg(&record.body[..]);
        }
        let _: Vec<String> = pipe.query_async(&mut session).await?;
    }
    Ok(started.elapsed().as_secs_f64())
}
