//! Kafka, through librdkafka.
//!
//! The producer is idempotent and may leave no gap (`enable.gapless.guarantee`): after a refused record, the client fails for good
//! and nothing after the record reaches its partition. The sink then waits until it is opened again. An idempotent producer
//! alone would go on after the record.
//!
//! With `transactional`, a batch is one transaction that also contains the relay's position, as the offset of the group
//! `pg_outbox.relay.<relay>` in partition 0 of `position_topic`. A reader of committed records sees each record once. The
//! transaction's id fences an instance that was replaced.
//!
//! The metadata of that offset is the source of the messages. A relay of another database finds it and stops. Without
//! `transactional`, the offset is written once, for this purpose.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use ::rdkafka::client::ClientContext;
use ::rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use ::rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use ::rdkafka::error::{KafkaError, RDKafkaErrorCode};
use ::rdkafka::message::{Header, OwnedHeaders};
use ::rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use ::rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use async_trait::async_trait;
use tokio::task::spawn_blocking;

use super::{Failure, Last, Opened, Refused, Sent, Sink};
use crate::config::{KafkaConfig, credentials};
use crate::record::{Binding, Record, SOURCE};
use crate::source::Place;

/// How long the brokers may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the brokers may take until a record is stored. It covers the choice of a new leader.
const STORED_WITHIN: Duration = Duration::from_secs(30);

/// The largest batch of a partition, unless a topic takes less. It is librdkafka's default.
const BATCH_BYTES: usize = 1_000_000;

/// The bytes that the layout of a batch adds to a record, at most.
const FRAME: usize = 256;

/// Topics whose limit is remembered. With more, the limits are asked for again.
const REMEMBERED: usize = 10_000;

/// Topics of a Kafka cluster.
#[derive(Debug)]
pub(super) struct KafkaSink {
    config: KafkaConfig,
    relay: String,
    /// The topic with the relay's position.
    position_topic: Option<String>,
    session: Option<Session>,
    /// The largest batch, which is smaller than that of each topic that was written to.
    batch_bytes: usize,
    /// The size of batches that a broker has refused. Until a batch is stored, each record is a batch.
    alone: Option<usize>,
    /// The largest batch that a topic takes.
    limits: HashMap<String, usize>,
    refused: Refused,
}

struct Session {
    producer: FutureProducer<Watch>,
    group: Arc<BaseConsumer<Watch>>,
    admin: AdminClient<Watch>,
    watch: Watch,
    /// Whether the cluster knows the source of this relay.
    claimed: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("claimed", &self.claimed).finish_non_exhaustive()
    }
}

/// Keeps the last error of the client, which says more than the error of a call.
#[derive(Clone, Debug, Default)]
struct Watch(Arc<Mutex<Option<String>>>);

impl ClientContext for Watch {
    fn error(&self, error: KafkaError, reason: &str) {
        // The errors before this one say why.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            return;
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
    }
}

impl ConsumerContext for Watch {}

impl Watch {
    fn explain(&self, error: &KafkaError) -> String {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => format!("{error}: {reason}"),
            None => error.to_string(),
        }
    }
}

impl KafkaSink {
    /// `position_topic` is a topic that exists, for the relay's position.
    pub(super) fn new(config: KafkaConfig, relay: &str, position_topic: Option<String>) -> KafkaSink {
        KafkaSink {
            config,
            relay: relay.to_owned(),
            position_topic,
            session: None,
            batch_bytes: BATCH_BYTES,
            alone: None,
            limits: HashMap::new(),
            refused: Refused::default(),
        }
    }

    fn group(&self) -> String {
        format!("pg_outbox.relay.{}", self.relay)
    }

    fn client(&self) -> Result<ClientConfig, String> {
        let config = &self.config;
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &config.brokers).set("client.id", "pg_outbox relay");
        let protocol = match (config.tls, &config.user) {
            (true, Some(_)) => "sasl_ssl",
            (true, None) => "ssl",
            (false, Some(_)) => "sasl_plaintext",
            (false, None) => "plaintext",
        };
        client.set("security.protocol", protocol);
        if let Some((user, password)) = credentials(config.user.as_deref(), config.password.as_ref())? {
            client.set("sasl.mechanism", config.mechanism.as_deref().unwrap_or("PLAIN"));
            client.set("sasl.username", user).set("sasl.password", password);
        }
        if let Some(path) = &config.ca_file {
            client.set("ssl.ca.location", path.display().to_string());
        }
        Ok(client)
    }

    fn producer(&self, transactional: bool) -> Result<ClientConfig, String> {
        let mut client = self.client()?;
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // As the clients for Java do, so that a key has the same partition as with those.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "1")
            .set("batch.size", if self.alone.is_some() { 1 } else { self.batch_bytes }.to_string())
            // The limits of the topics hold. They are looked at before sending.
            .set("message.max.bytes", "1000000000")
            .set("queue.buffering.max.kbytes", "1048576");
        if let Some(compression) = &self.config.compression {
            client.set("compression.type", compression);
        }
        if transactional {
            client.set("transactional.id", self.group());
        } else {
            // A record that the client gives up leaves a gap. This sink gives up for it, and drops the client.
            client.set("message.timeout.ms", "0").set("enable.gapless.guarantee", "true");
        }
        Ok(client)
    }

    /// Asks for the limits of topics. A topic that does not exist yet has none.
    async fn limits_of(session: &Session, topics: &BTreeSet<&str>) -> Result<Vec<(String, usize)>, String> {
        let options = AdminOptions::new().request_timeout(Some(PATIENCE));
        let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let found = session.admin.describe_configs(&resources, &options).await.map_err(|error| error.to_string())?;
        let mut limits = Vec::with_capacity(topics.len());
        // The answers are in the order of the questions.
        for (topic, answer) in topics.iter().zip(found) {
            match answer {
                Ok(config) => {
                    let entry = config.get("max.message.bytes").and_then(|entry| entry.value.as_deref());
                    limits.extend(entry.and_then(|value| value.parse().ok()).map(|limit| ((*topic).to_owned(), limit)));
                }
                Err(RDKafkaErrorCode::UnknownTopicOrPartition) => {}
                // Without the right to describe a topic, the broker refuses a record that is too large.
                Err(RDKafkaErrorCode::TopicAuthorizationFailed) => limits.push(((*topic).to_owned(), usize::MAX)),
                Err(code) => return Err(format!("topic \"{topic}\": {code}")),
            }
        }
        Ok(limits)
    }

    /// Asks for the limits of all topics of these records. Returns whether all are larger than a batch of the producer.
    async fn learn_limits(&mut self, records: &[Record]) -> Result<bool, String> {
        let Some(session) = &self.session else { return Ok(true) };
        if self.limits.len() > REMEMBERED {
            self.limits.clear();
        }
        let topics: BTreeSet<&str> = records
            .iter()
            .map(|record| record.topic.as_str())
            .filter(|topic| !self.limits.contains_key(*topic))
            .collect();
        if topics.is_empty() {
            return Ok(true);
        }
        self.limits.extend(KafkaSink::limits_of(session, &topics).await?);
        let smallest = self.limits.values().min().map_or(BATCH_BYTES, |limit| limit.saturating_sub(FRAME).max(1));
        // The next producer has smaller batches: the topic refuses larger ones.
        let fits = smallest >= self.batch_bytes;
        self.batch_bytes = self.batch_bytes.min(smallest);
        Ok(fits)
    }

    /// Returns why a topic does not take a record, as far as its limit is known.
    fn too_large(&self, record: &Record) -> Option<String> {
        let (size, limit) = (record.size() + FRAME, *self.limits.get(&record.topic)?);
        (size > limit).then(|| format!("the record has about {size} bytes, and the topic takes {limit}"))
    }

    /// Writes source and position of the relay, unless the cluster has them.
    async fn claim(session: &mut Session, topic: Option<&str>, record: &Record) -> Result<(), String> {
        let (Some(topic), false) = (topic, session.claimed) else { return Ok(()) };
        let offsets = offsets(topic, Place::default(), record).map_err(|error| error.to_string())?;
        let group = session.group.clone();
        // The call itself waits for ever.
        let committed = spawn_blocking(move || group.commit(&offsets, CommitMode::Sync));
        tokio::time::timeout(STORED_WITHIN, committed)
            .await
            .map_err(|_| "the brokers did not store the source of the relay in time".to_owned())?
            .map_err(|error| error.to_string())?
            .map_err(|error| session.watch.explain(&error))?;
        session.claimed = true;
        Ok(())
    }

    /// Hands records to the producer.
    fn enqueue(session: &Session, records: &[Record]) -> (Vec<DeliveryFuture>, Option<KafkaError>) {
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
            match session.producer.send_result(made) {
                Ok(delivery) => waiting.push(delivery),
                Err((error, _)) => return (waiting, Some(error)),
            }
        }
        (waiting, None)
    }

    /// Hands records to the producer and waits until all are stored, or one is not.
    async fn produce(session: &Session, records: &[Record]) -> Sent {
        let (waiting, failed) = KafkaSink::enqueue(session, records);
        let mut stored = 0;
        for delivery in waiting {
            match tokio::time::timeout(STORED_WITHIN, delivery).await {
                Ok(Ok(Ok(_))) => stored += 1,
                Ok(Ok(Err((error, _)))) => {
                    let fatal = session.producer.client().fatal_error().map(|(_, reason)| reason);
                    return Sent { stored, failure: Some(failure(&error, fatal)) };
                }
                Ok(Err(_)) => return Sent::retry(stored, "the producer was closed"),
                Err(_) => {
                    let error = KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut);
                    return Sent::retry(stored, session.watch.explain(&error));
                }
            }
        }
        match failed {
            None => Sent::all(records),
            Some(error) => Sent { stored, failure: Some(failure(&error, None)) },
        }
    }

    /// Sends records and the position of the last one in a transaction. If a record is not stored, none is, although the result
    /// says which one.
    async fn send_in_transaction(session: &Session, topic: &str, records: &[Record]) -> Result<Sent, KafkaError> {
        let Some(last) = records.last() else { return Ok(Sent::all(records)) };
        session.producer.begin_transaction()?;
        let sent = KafkaSink::produce(session, records).await;
        let whole = sent.failure.is_none();
        let offsets = offsets(topic, last.place(), last)?;
        let (producer, group) = (session.producer.clone(), session.group.clone());
        let done = spawn_blocking(move || {
            if !whole {
                return producer.abort_transaction(PATIENCE);
            }
            let member = group.group_metadata().ok_or(KafkaError::Canceled)?;
            producer.send_offsets_to_transaction(&offsets, &member, PATIENCE)?;
            producer.commit_transaction(STORED_WITHIN)
        });
        done.await.map_err(|_| KafkaError::Canceled)??;
        Ok(sent)
    }

    /// Opens the clients.
    async fn connect(&mut self, transactional: bool) -> Result<Opened, String> {
        self.close().await;
        // The limits may have been changed.
        self.limits.clear();
        let (producer, mut group) = (self.producer(transactional)?, self.client()?);
        group.set("group.id", self.group()).set("enable.auto.commit", "false");
        let (watch, topic) = (Watch::default(), self.position_topic.clone());
        let (shared, relay) = (watch.clone(), self.relay.clone());
        let opened = spawn_blocking(move || {
            let explain = |error: KafkaError| watch.explain(&error);
            let producer: FutureProducer<Watch> = producer.create_with_context(watch.clone()).map_err(explain)?;
            let cluster = producer.client().fetch_metadata(topic.as_deref(), PATIENCE).map_err(explain)?;
            if let (Some(name), [found]) = (&topic, cluster.topics())
                && let Some(error) = found.error()
            {
                return Err(format!("topic \"{name}\": {}", RDKafkaErrorCode::from(error)));
            }
            if transactional {
                producer.init_transactions(STORED_WITHIN).map_err(explain)?;
            }
            let admin = AdminClient::from_config_and_context(&group, watch.clone()).map_err(explain)?;
            let group: BaseConsumer<Watch> = group.create_with_context(watch.clone()).map_err(explain)?;
            let last = match &topic {
                None => None,
                Some(topic) => {
                    let mut wanted = TopicPartitionList::new();
                    wanted.add_partition(topic, 0);
                    let found = group.committed_offsets(wanted, PATIENCE).map_err(explain)?;
                    found.elements().first().and_then(|element| position(element, &relay))
                }
            };
            Ok((producer, group, admin, last))
        });
        let (producer, group, admin, last) = opened.await.map_err(|error| error.to_string())??;
        self.session =
            Some(Session { producer, group: Arc::new(group), admin, watch: shared, claimed: last.is_some() });
        Ok(Opened { limit: BATCH_BYTES, last })
    }

    /// Opens a producer with batches again, if the one at work sends each record by itself. They are smaller than those that a
    /// broker has refused.
    async fn batch_again(&mut self) {
        let Some(refused) = self.alone.take() else { return };
        if self.batch_bytes >= refused {
            self.batch_bytes = (refused / 2).max(1);
        }
        if self.connect(self.config.transactional).await.is_err() {
            self.close().await;
        }
    }

    /// Ends the client. Records that were not answered yet are dropped.
    async fn close(&mut self) {
        if let Some(session) = self.session.take() {
            // Dropping a client waits for its threads.
            let _ = spawn_blocking(move || drop(session)).await;
        }
    }
}

#[async_trait]
impl Sink for KafkaSink {
    fn binding(&self) -> Binding {
        Binding { prefix: "ce_", ascii: false, key_header: false }
    }

    fn describe(&self) -> String {
        let how = if self.config.transactional { ", transactional" } else { "" };
        format!("kafka {}{how}", self.config.brokers)
    }

    async fn open(&mut self) -> Result<Opened, String> {
        self.connect(self.config.transactional).await
    }

    /// A producer with the transactional id would fence the relay at work.
    async fn look(&mut self) -> Result<Opened, String> {
        self.connect(false).await
    }
    fn refuses(&self, record: &Record) -> Option<String> {
        if !is_topic(&record.topic) {
            return Some(format!("\"{}\" is not the name of a topic", record.topic.escape_default()));
        }
        self.refused.reason(record).or_else(|| self.too_large(record))
    }

    async fn send(&mut self, records: &[Record]) -> Sent {
        match self.learn_limits(records).await {
            Ok(true) => {}
            Ok(false) => return Sent::retry(0, "the batches are made smaller for a topic"),
            Err(why) => return Sent::retry(0, why),
        }
        let taken = records.iter().position(|record| self.too_large(record).is_some());
        let (records, rest) = records.split_at(taken.unwrap_or(records.len()));
        let Some(session) = &mut self.session else { return Sent::retry(0, "not connected") };
        if let Some(first) = records.first()
            && let Err(why) = KafkaSink::claim(session, self.position_topic.as_deref(), first).await
        {
            return Sent::retry(0, why);
        }
        let mut sent = match (&self.position_topic, self.config.transactional) {
            (Some(topic), true) => match KafkaSink::send_in_transaction(session, topic, records).await {
                Ok(sent) => sent,
                Err(error) => Sent::retry(0, session.watch.explain(&error)),
            },
            _ => KafkaSink::produce(session, records).await,
        };
        let Some(failure) = sent.failure.take() else {
            self.refused.forget();
            sent.failure = rest.first().and_then(|record| self.too_large(record)).map(Failure::Refused);
            if !records.is_empty() {
                self.batch_again().await;
            }
            return sent;
        };
        let failed = records.get(sent.stored);
        if self.config.transactional {
            // The transaction was aborted.
            sent.stored = 0;
        }
        sent.failure = Some(match failure {
            Failure::Refused(why) if self.alone.is_none() => {
                // Not the record itself may be too large, but its batch.
                self.alone = Some(self.batch_bytes);
                Failure::Retry(why)
            }
            Failure::Refused(why) => {
                // The client is opened again, for a dead letter, too.
                failed.into_iter().for_each(|record| self.refused.remember(record, &why));
                self.alone = None;
                Failure::Retry(why)
            }
            other => other,
        });
        self.close().await;
        sent
    }
}

/// Returns the position of a relay as offsets of its group.
fn offsets(topic: &str, place: Place, record: &Record) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    let mut element = list.add_partition(topic, 0);
    element.set_offset(Offset::Offset(place.position))?;
    element.set_metadata(format!(
        "{} {} {}",
        place.epoch,
        record.webhook_id,
        record.header(SOURCE).unwrap_or_default()
    ));
    Ok(list)
}

/// Reads source and position of a relay from an offset of its group.
fn position(element: &TopicPartitionListElem<'_>, relay: &str) -> Option<Last> {
    let Offset::Offset(position) = element.offset() else { return None };
    let mut parts = element.metadata().splitn(3, ' ');
    let place = Place { epoch: parts.next()?.parse().ok()?, position };
    Some(Last { place, id: parts.next()?.into(), source: parts.next()?.into(), relay: relay.to_owned() })
}

/// Returns whether the error of a record is for ever.
fn failure(error: &KafkaError, fatal: Option<String>) -> Failure {
    let text = fatal.unwrap_or_else(|| error.to_string());
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::MessageSizeTooLarge
            | RDKafkaErrorCode::InvalidMessage
            | RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::InvalidRecord
            | RDKafkaErrorCode::InvalidTimestamp
            | RDKafkaErrorCode::PolicyViolation,
        ) => Failure::Refused(text),
        _ => Failure::Retry(text),
    }
}

/// Returns whether a text can be the name of a topic.
fn is_topic(text: &str) -> bool {
    (1..=249).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_the_characters_that_kafka_takes() {
        assert!(is_topic("order.created") && is_topic("a-b_c"));
        for wrong in ["", ".", "..", "a b", "käse", &"x".repeat(250)] {
            assert!(!is_topic(wrong), "{wrong}");
        }
    }

    #[test]
    fn an_error_of_the_record_itself_is_for_ever() {
        let refused = |code| matches!(failure(&KafkaError::MessageProduction(code), None), Failure::Refused(_));
        assert!(refused(RDKafkaErrorCode::MessageSizeTooLarge) && refused(RDKafkaErrorCode::PolicyViolation));
        assert!(!refused(RDKafkaErrorCode::TopicAuthorizationFailed) && !refused(RDKafkaErrorCode::MessageTimedOut));
    }
}
