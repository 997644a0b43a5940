//! Sinks: the brokers. Each file is one broker.

#[cfg(feature = "aws")]
mod aws;
mod file;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "mqtt")]
mod mqtt;
#[cfg(feature = "nats")]
mod nats;
mod postgres;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;

use async_trait::async_trait;
use pg_outbox::error::{Error, Result};

#[cfg(feature = "aws")]
use crate::config::AwsConfig;
use crate::config::{RelayConfig, SinkConfig};
use crate::record::{Binding, EPOCH, ID, POSITION, RELAY, Record, SOURCE};
use crate::source::Place;

/// A broker.
#[async_trait]
pub(crate) trait Sink: Send + std::fmt::Debug {
    /// Returns how the broker names attributes.
    fn binding(&self) -> Binding;

    /// Returns kind and address, without credentials.
    fn describe(&self) -> String;

    /// Connects, or connects again after a failure, and checks what can be checked without sending.
    async fn open(&mut self) -> std::result::Result<Opened, String>;

    /// Connects as `open` does, but changes nothing that a relay at work relies on.
    async fn look(&mut self) -> std::result::Result<Opened, String> {
        self.open().await
    }

    /// Says whether the relay continues where it was, and no operator has reset its cursor to send messages again.
    fn resume(&mut self, _resumes: bool) {}

    /// Returns why the broker would never take a record, as far as it is known without sending it.
    fn refuses(&self, record: &Record) -> Option<String>;

    /// Sends records in this order and waits until the broker has stored them.
    ///
    /// The result says how many records from the first on are stored. Fewer than all without a failure: the others can be
    /// sent next. No record after those of the same key is stored. A
    /// record that is stored already counts as stored.
    async fn send(&mut self, records: &[Record]) -> Sent;
}

/// The facts that a broker tells after connecting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The largest record in bytes.
    pub(crate) limit: usize,
    /// The last record that the broker has, if the broker can tell.
    pub(crate) last: Option<Last>,
}

/// The marks of the last record that a broker has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) source: String,
    pub(crate) relay: String,
    pub(crate) place: Place,
    /// The webhook id.
    pub(crate) id: String,
}

impl Last {
    /// Reads the marks of a record. `None`: another program has written it.
    pub(crate) fn of<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<Last> {
        let place = Place { epoch: header(EPOCH)?.parse().ok()?, position: header(POSITION)?.parse().ok()? };
        Some(Last { source: header(SOURCE)?.into(), relay: header(RELAY)?.into(), place, id: header(ID)?.into() })
    }
}

/// The result of sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Records from the first on that are stored.
    pub(crate) stored: usize,
    /// Why the record after those is not stored. `None` if all are.
    pub(crate) failure: Option<Failure>,
}

/// Why a record is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The broker will never take this record.
    Refused(String),
    /// Sending it later may succeed. The sink has to be opened again.
    Retry(String),
}

impl Sent {
    /// The result when all records are stored.
    pub(crate) fn all(records: &[Record]) -> Sent {
        Sent { stored: records.len(), failure: None }
    }

    /// The result when sending failed for now.
    pub(crate) fn retry(stored: usize, why: impl Into<String>) -> Sent {
        Sent { stored, failure: Some(Failure::Retry(why.into())) }
    }
}

/// The records that a broker has refused after they were sent: a message, and its dead letter with and without the body. The
/// next batch ends before such a record, so that nothing of its batch is lost with it.
#[derive(Debug, Default)]
struct Refused(Vec<(Name, String)>);

/// Topic, webhook id, and length of the body.
type Name = (String, String, usize);

impl Refused {
    fn name(record: &Record) -> Name {
        (record.topic.clone(), record.webhook_id.clone(), record.body.len())
    }

    fn remember(&mut self, record: &Record, why: &str) {
        if self.0.len() > 2 {
            self.0.remove(0);
        }
        self.0.push((Refused::name(record), why.to_owned()));
    }

    fn forget(&mut self) {
        self.0.clear();
    }

    /// Returns why the broker has refused this record.
    fn reason(&self, record: &Record) -> Option<String> {
        let name = Refused::name(record);
        self.0.iter().find(|(known, _)| *known == name).map(|(_, why)| why.clone())
    }
}

/// The largest size of the records that are sent at once, unless one alone is larger.
const CHUNK: usize = 8 << 20;

/// Sends records in chunks. The result is that of [`Sink::send`].
pub(crate) async fn send(sink: &mut dyn Sink, records: &[Record]) -> Sent {
    let mut stored = 0;
    while stored < records.len() {
        let rest = &records[stored..];
        let sent = sink.send(&rest[..chunk(rest.iter().map(Record::size))]).await;
        stored += sent.stored;
        if sent.failure.is_some() {
            return Sent { stored, ..sent };
        }
    }
    Sent::all(records)
}

/// Returns how many records of these sizes are sent at once.
fn chunk(sizes: impl Iterator<Item = usize>) -> usize {
    let mut total = 0_usize;
    let fits = |size: &usize| {
        total = total.saturating_add(*size);
        total <= CHUNK
    };
    sizes.take_while(fits).count().max(1)
}

/// Makes the sink of a relay. It connects when it is opened.
pub(crate) fn make(relay: &RelayConfig) -> Result<Box<dyn Sink>> {
    #[cfg(feature = "aws")]
    let aws = |config: &AwsConfig, kind| -> Result<Box<dyn Sink>> {
        let constant = relay.template()?.constant().map(str::to_owned);
        Ok(Box::new(aws::AwsSink::new(config.clone(), kind, constant)))
    };
    #[allow(unused_variables, reason = "each build has another set of sinks")]
    let missing = |feature: &str| -> Result<Box<dyn Sink>> {
        Err(Error::invalid(format!("this program was built without the sink \"{feature}\""))
            .hint(format!("Build it with: cargo install pg-outbox-relay --features {feature}")))
    };
    match &relay.sink {
        SinkConfig::Stdout => Ok(Box::new(file::FileSink::stdout())),
        SinkConfig::File(config) => Ok(Box::new(file::FileSink::new(config.path.clone()))),
        #[cfg(feature = "aws")]
        SinkConfig::Sqs(config) => aws(config, aws::Kind::Sqs),
        #[cfg(feature = "aws")]
        SinkConfig::Sns(config) => aws(config, aws::Kind::Sns),
        #[cfg(feature = "aws")]
        SinkConfig::Kinesis(config) => aws(config, aws::Kind::Kinesis),
        #[cfg(not(feature = "aws"))]
        SinkConfig::Sqs(_) | SinkConfig::Sns(_) | SinkConfig::Kinesis(_) => missing("aws"),
        #[cfg(feature = "kafka")]
        SinkConfig::Kafka(config) => {
            let position_topic = relay.position_topic(config)?;
            Ok(Box::new(kafka::KafkaSink::new(config.clone(), &relay.name, position_topic)))
        }
        #[cfg(not(feature = "kafka"))]
        SinkConfig::Kafka(_) => missing("kafka"),
        #[cfg(feature = "mqtt")]
        SinkConfig::Mqtt(config) => Ok(Box::new(mqtt::MqttSink::new(config.clone(), &relay.name))),
        #[cfg(not(feature = "mqtt"))]
        SinkConfig::Mqtt(_) => missing("mqtt"),
        #[cfg(feature = "nats")]
        SinkConfig::Nats(config) => Ok(Box::new(nats::NatsSink::new(config.clone()))),
        #[cfg(not(feature = "nats"))]
        SinkConfig::Nats(_) => missing("nats"),
        SinkConfig::Postgres(config) => Ok(Box::new(postgres::PostgresSink::new(config.clone()))),
        #[cfg(feature = "rabbitmq")]
        SinkConfig::Rabbitmq(config) => Ok(Box::new(rabbitmq::RabbitmqSink::new(config.clone()))),
        #[cfg(not(feature = "rabbitmq"))]
        SinkConfig::Rabbitmq(_) => missing("rabbitmq"),
        #[cfg(feature = "redis")]
        SinkConfig::Redis(config) => Ok(Box::new(redis::RedisSink::new(config.clone()))),
        #[cfg(not(feature = "redis"))]
        SinkConfig::Redis(_) => missing("redis"),
    }
}

/// Removes user and password from a URL, for messages.
#[cfg(any(feature = "aws", feature = "mqtt", feature = "nats", feature = "rabbitmq", feature = "redis"))]
fn without_credentials(url: &str) -> String {
    url.split(',')
        .map(|url| match (url.find("://"), url.rfind('@')) {
            (Some(scheme), Some(at)) if at > scheme => format!("{}{}", &url[..scheme + 3], &url[at + 1..]),
            (None, Some(at)) => url[at + 1..].to_owned(),
            _ => url.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_bounded_and_has_a_record() {
        for (sizes, count) in [
            (vec![1, 2, 3], 3),
            (vec![CHUNK, 1], 1),
            (vec![CHUNK + 1, 1], 1),
            (vec![CHUNK - 2, 2, 1], 2),
            (vec![usize::MAX, 1], 1),
        ] {
            assert_eq!(chunk(sizes.into_iter()), count);
        }
    }

    #[cfg(any(feature = "nats", feature = "redis"))]
    #[test]
    fn an_address_is_shown_without_credentials() {
        for (url, shown) in [
            ("nats://u:p@h:4222", "nats://h:4222"),
            ("redis://:p@ss@h/0", "redis://h/0"),
            ("u:p@h", "h"),
            ("nats://a,nats://u:p@b", "nats://a,nats://b"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
