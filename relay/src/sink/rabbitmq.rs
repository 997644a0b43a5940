//! RabbitMQ: an exchange, or the default exchange, where the topic is the name of a queue.
//!
//! Each message is confirmed by the server. It is `mandatory`: a message that no queue takes comes back, and counts as refused.
//! The first message of a routing key after a connection is awaited by itself, so that nothing follows a message that came
//! back. The rest of a batch is sent without waiting.
//!
//! A server that refuses a message of a batch (a queue that is full and rejects) may store later ones of the batch. The relay
//! then sends from the refused message on, so these arrive twice.

use std::collections::HashSet;
use std::str::FromStr as _;
use std::time::Duration;

use async_trait::async_trait;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind, PublisherConfirm};

use super::{Failure, Opened, Sent, Sink, without_credentials};
use crate::config::{RabbitmqConfig, credentials};
use crate::record::{Binding, Record};

/// How long the server may take for an answer. A confirmation waits for the disks of a quorum of servers.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest routing key, name of a header, and message id.
const SHORT: usize = 255;

/// Routing keys that are known to have a queue. With more, they are tried again.
const REMEMBERED: usize = 10_000;

/// An exchange of a RabbitMQ server.
#[derive(Debug)]
pub(super) struct RabbitmqSink {
    config: RabbitmqConfig,
    session: Option<Session>,
}

#[derive(Debug)]
struct Session {
    /// Dropping the connection would close the channel.
    _connection: Connection,
    channel: Channel,
    /// Routing keys that a message was stored with.
    routed: HashSet<String>,
}

impl RabbitmqSink {
    pub(super) fn new(config: RabbitmqConfig) -> RabbitmqSink {
        RabbitmqSink { config, session: None }
    }

    async fn connect(&self) -> Result<Session, String> {
        let config = &self.config;
        // The text of the error may contain the URL.
        let mut uri = AMQPUri::from_str(&config.url).map_err(|_| "the url is malformed".to_owned())?;
        if let Some((user, password)) = credentials(config.user.as_deref(), config.password.as_ref())? {
            uri.authority.userinfo.username = user;
            uri.authority.userinfo.password = password;
        }
        let mut tls = OwnedTLSConfig::default();
        if let Some(path) = &config.ca_file {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            tls.cert_chain = Some(text);
        }
        let runtime = lapin::runtime::default_runtime().map_err(|error| error.to_string())?;
        let properties = ConnectionProperties::default().with_connection_name("pg_outbox relay".into());
        let opened = async {
            let connection = Connection::connect_uri_with_config(uri, properties, tls, runtime).await?;
            let channel = connection.create_channel().await?;
            if !config.exchange.is_empty() {
                let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
                let name = config.exchange.as_str().into();
                channel.exchange_declare(name, ExchangeKind::Topic, passive, FieldTable::default()).await?;
            }
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(Session { _connection: connection, channel, routed: HashSet::new() })
        };
        match tokio::time::timeout(PATIENCE, opened).await {
            Ok(opened) => opened.map_err(|error: lapin::Error| error.to_string()),
            Err(_) => Err("the server did not answer in time".to_owned()),
        }
    }

    async fn publish(channel: &Channel, exchange: &str, record: &Record) -> Result<PublisherConfirm, lapin::Error> {
        let mut headers = FieldTable::default();
        let mut properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_app_id("pg_outbox".into())
            .with_message_id(record.webhook_id.as_str().into());
        for (name, value) in &record.headers {
            if name == "content-type" && value.len() <= SHORT {
                properties = properties.with_content_type(value.as_str().into());
            }
            headers.insert(name.as_str().into(), AMQPValue::LongString(value.as_str().into()));
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = (exchange.into(), record.topic.as_str().into());
        channel.basic_publish(exchange, key, options, &record.body, properties.with_headers(headers)).await
    }

    /// Waits for the confirmation of a message.
    async fn confirmed(confirm: PublisherConfirm) -> Result<(), Failure> {
        match tokio::time::timeout(PATIENCE, confirm).await {
            Ok(Ok(Confirmation::Ack(None))) => Ok(()),
            Ok(Ok(Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)))) => {
                Err(Failure::Refused(format!("no queue takes the message: {}", reason(&returned))))
            }
            Ok(Ok(Confirmation::Nack(None))) => {
                Err(Failure::Retry("the server refused the message for now".to_owned()))
            }
            Ok(Ok(Confirmation::NotRequested)) => Err(Failure::Retry("the channel does not confirm".to_owned())),
            Ok(Err(error)) => Err(Failure::Retry(error.to_string())),
            Err(_) => Err(Failure::Retry("the server did not confirm in time".to_owned())),
        }
    }
}

#[async_trait]
impl Sink for RabbitmqSink {
    fn binding(&self) -> Binding {
        Binding { prefix: "cloudEvents:", ascii: false, key_header: true }
    }

    fn describe(&self) -> String {
        let url = without_credentials(&self.config.url);
        match self.config.exchange.as_str() {
            "" => format!("rabbitmq {url}"),
            exchange => format!("rabbitmq {url} exchange {exchange}"),
        }
    }

    async fn open(&mut self) -> Result<Opened, String> {
        self.session = None;
        self.session = Some(self.connect().await?);
        Ok(Opened { limit: self.config.max_message_bytes, last: None })
    }

    fn refuses(&self, record: &Record) -> Option<String> {
        if record.topic.len() > SHORT {
            return Some(format!("a routing key has at most {SHORT} bytes, and this one {}", record.topic.len()));
        }
        if record.headers.iter().any(|(name, _)| name.len() > SHORT) {
            return Some(format!("the name of a header has more than {SHORT} bytes"));
        }
        let limit = self.config.max_message_bytes;
        (record.body.len() > limit)
            .then(|| format!("the message has {} bytes, and the server takes {limit}", record.body.len()))
    }

    async fn send(&mut self, records: &[Record]) -> Sent {
        let Some(session) = &mut self.session else { return Sent::retry(0, "not connected") };
        if session.routed.len() > REMEMBERED {
            session.routed.clear();
        }
        let mut stored = 0;
        while stored < records.len() {
            // A routing key that was not used yet ends the part that is sent without waiting.
            let rest = &records[stored..];
            let known = rest.iter().take_while(|record| session.routed.contains(&record.topic)).count().max(1);
            let mut waiting = Vec::with_capacity(known);
            let mut failed = None;
            for record in &rest[..known] {
                // A server that is short of memory or disk reads nothing until it has some again.
                let publish = RabbitmqSink::publish(&session.channel, &self.config.exchange, record);
                match tokio::time::timeout(PATIENCE, publish).await {
                    Ok(Ok(confirm)) => waiting.push(confirm),
                    Ok(Err(error)) => failed = Some(Failure::Retry(error.to_string())),
                    Err(_) => failed = Some(Failure::Retry("the server takes no messages for now".to_owned())),
                }
                if failed.is_some() {
                    break;
                }
            }
            for confirm in waiting {
                if let Err(failure) = RabbitmqSink::confirmed(confirm).await {
                    // Its binding may have been removed.
                    session.routed.remove(&records[stored].topic);
                    return Sent { stored, failure: Some(failure) };
                }
                stored += 1;
            }
            if failed.is_some() {
                return Sent { stored, failure: failed };
            }
            session.routed.insert(records[stored - 1].topic.clone());
        }
        Sent::all(records)
    }
}

fn reason(returned: &BasicReturnMessage) -> String {
    format!("{} {}", returned.reply_code, returned.reply_text)
}
