//! MQTT 5.
//!
//! Each message has quality of service 1, and counts as stored when the server has acknowledged it. The first message of a
//! topic after a connection is awaited by itself, so that nothing follows a message whose topic the server refuses. The rest of a
//! batch is sent without waiting, as far as the server's `Receive Maximum` allows.
//!
//! A server hands messages on and keeps no history, so it cannot say where the relay stands. Each relay has one client id: a
//! server ends the connection of an instance that was replaced, and handles nothing more of it.
//!
//! A server that refuses a message of a batch (a quota) may take later ones of the batch. The relay then sends from the
//! refused message on, so these arrive twice.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ::rumqttc::v5::mqttbytes::v5::{Packet, PubAck, PubAckReason, PublishProperties};
use ::rumqttc::v5::mqttbytes::{Error, QoS};
use ::rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError};
use ::rumqttc::{Outgoing, TlsConfiguration, Transport};
use async_trait::async_trait;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Failure, Opened, Refused, Sent, Sink};
use crate::config::{MqttConfig, credentials};
use crate::record::{Binding, Record};

/// How long the server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The interval of signs of life. A connection without them is lost.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Messages that wait to be written to the connection.
const QUEUE: usize = 100;

/// Topics that a message was stored with. With more, they are tried again.
const REMEMBERED: usize = 10_000;

/// The largest packet of the protocol.
const LARGEST: usize = 268_435_455;

/// The longest text in a packet.
const TEXT: usize = 65_535;

/// The reason "packet too large", which the client does not know in an acknowledgement.
const PACKET_TOO_LARGE: u8 = 0x95;

/// An MQTT server.
#[derive(Debug)]
pub(super) struct MqttSink {
    config: MqttConfig,
    client_id: String,
    session: Option<Session>,
    refused: Refused,
    /// Whether each message is awaited by itself, because the server has refused one without saying which.
    alone: bool,
}

#[derive(Debug)]
struct Session {
    client: AsyncClient,
    told: mpsc::UnboundedReceiver<Told>,
    connection: tokio::task::JoinHandle<()>,
    /// The largest packet that the server takes.
    limit: usize,
    /// Topics that a message was stored with.
    known: HashSet<String>,
}

/// The news of a connection.
#[derive(Debug)]
enum Told {
    /// The next message has this packet identifier.
    Sent(u16),
    Answered(PubAck),
    Lost(ConnectionError),
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl MqttSink {
    pub(super) fn new(config: MqttConfig, relay: &str) -> MqttSink {
        let client_id = config.client_id.clone().unwrap_or_else(|| format!("pg_outbox.relay.{relay}"));
        MqttSink { config, client_id, session: None, refused: Refused::default(), alone: false }
    }

    fn options(&self, client_id: &str) -> Result<MqttOptions, String> {
        let config = &self.config;
        let (tls, host, port) = address(&config.url)?;
        let mut options = MqttOptions::new(client_id, host, port);
        options.set_keep_alive(KEEP_ALIVE).set_connection_timeout(PATIENCE.as_secs());
        options.set_max_packet_size(Some(65_536));
        if let Some((user, password)) = credentials(config.user.as_deref(), config.password.as_ref())? {
            options.set_credentials(user, password);
        }
        if tls {
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(self.tls()?))));
        }
        Ok(options)
    }

    fn tls(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        match &self.config.ca_file {
            Some(path) => {
                let shown = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                for certificate in CertificateDer::pem_file_iter(path).map_err(|error| shown(&error))? {
                    roots.add(certificate.map_err(|error| shown(&error))?).map_err(|error| shown(&error))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let provider = rustls::crypto::ring::default_provider();
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        Ok(config.with_root_certificates(roots).with_no_client_auth())
    }

    async fn connect(&mut self, client_id: &str) -> Result<Opened, String> {
        self.session = None;
        let (client, mut connection) = AsyncClient::new(self.options(client_id)?, QUEUE);
        let answer = async {
            loop {
                if let Event::Incoming(Packet::ConnAck(answer)) =
                    connection.poll().await.map_err(|error| error.to_string())?
                {
                    return Ok::<_, String>(answer);
                }
            }
        };
        let answer = match timeout(PATIENCE, answer).await {
            Ok(answer) => answer?,
            Err(_) => return Err("the server did not answer in time".to_owned()),
        };
        let (quality, limit) = answer.properties.map_or((None, None), |p| (p.max_qos, p.max_packet_size));
        if quality == Some(0) {
            return Err("the server acknowledges no messages (its maximum QoS is 0)".to_owned());
        }
        let limit = limit.map_or(LARGEST, |most| most as usize).min(LARGEST);
        let (tell, told) = mpsc::unbounded_channel();
        let connection = tokio::spawn(keep(connection, tell));
        self.session = Some(Session { client, told, connection, limit, known: HashSet::new() });
        Ok(Opened { limit, last: None })
    }

    /// Sends records without waiting in between, and waits until all are acknowledged, or one is not.
    async fn publish(session: &mut Session, records: &[Record]) -> (Sent, bool) {
        let (mut queued, mut begun, mut stored) = (0, 0, 0);
        let mut numbers: HashMap<u16, usize> = HashMap::new();
        let mut answers: Vec<Option<PubAck>> = vec![None; records.len()];
        while stored < records.len() {
            while queued < records.len() && queued - begun < QUEUE {
                let record = &records[queued];
                let sent = session.client.try_publish_with_properties(
                    record.topic.as_str(),
                    QoS::AtLeastOnce,
                    false,
                    record.body.clone(),
                    properties(record),
                );
                if sent.is_err() {
                    break;
                }
                queued += 1;
            }
            match timeout(PATIENCE, session.told.recv()).await {
                Ok(Some(Told::Sent(number))) => {
                    numbers.insert(number, begun);
                    begun += 1;
                }
                Ok(Some(Told::Answered(answer))) => {
                    if let Some(index) = numbers.remove(&answer.pkid) {
                        answers[index] = Some(answer);
                    }
                }
                Ok(Some(Told::Lost(error))) if is_too_large(&error) => {
                    let why = "the server says that the packet is too large".to_owned();
                    // The error does not say which of several packets it is about.
                    let is_known = records.len() == 1;
                    let failure = if is_known { Failure::Refused(why) } else { Failure::Retry(why) };
                    return (Sent { stored, failure: Some(failure) }, !is_known);
                }
                Ok(Some(Told::Lost(error))) => return (Sent::retry(stored, error.to_string()), false),
                Ok(None) => return (Sent::retry(stored, "the connection was lost"), false),
                Err(_) => return (Sent::retry(stored, "the server did not acknowledge in time"), false),
            }
            while let Some(Some(answer)) = answers.get(stored) {
                if let Some(failure) = failure(answer) {
                    return (Sent { stored, failure: Some(failure) }, false);
                }
                stored += 1;
            }
        }
        (Sent::all(records), false)
    }
}

/// Keeps a connection alive, and tells what happens, until it is lost.
async fn keep(mut connection: EventLoop, tell: mpsc::UnboundedSender<Told>) {
    let told = |event: Event| match event {
        Event::Outgoing(Outgoing::Publish(number)) => Some(Told::Sent(number)),
        Event::Incoming(Packet::PubAck(answer)) => Some(Told::Answered(answer)),
        _ => None,
    };
    loop {
        match connection.poll().await {
            Ok(event) => {
                if told(event).is_some_and(|told| tell.send(told).is_err()) {
                    return;
                }
            }
            Err(error) => {
                // The server may have said why before it closed the connection: the client keeps these events back.
                connection.state.events.drain(..).filter_map(told).for_each(|told| drop(tell.send(told)));
                let _ = tell.send(Told::Lost(error));
                return;
            }
        }
    }
}

#[async_trait]
impl Sink for MqttSink {
    /// CloudEvents gives the user properties of MQTT no prefix.
    fn binding(&self) -> Binding {
        Binding { prefix: "", ascii: false, key_header: true }
    }

    fn describe(&self) -> String {
        format!("mqtt {}", super::without_credentials(&self.config.url))
    }

    async fn open(&mut self) -> Result<Opened, String> {
        self.connect(&self.client_id.clone()).await
    }

    /// The client id of the relay would end the connection of the relay at work.
    async fn look(&mut self) -> Result<Opened, String> {
        self.connect(&format!("{}.check", self.client_id)).await
    }

    fn refuses(&self, record: &Record) -> Option<String> {
        if !is_topic(&record.topic) {
            return Some(format!("\"{}\" is not a topic that can be published to", record.topic.escape_default()));
        }
        if record.headers.iter().any(|(name, value)| name.len() > TEXT || taken(value).len() > TEXT) {
            return Some(format!("a user property has more than {TEXT} bytes"));
        }
        let (size, limit) = (size(record), self.session.as_ref().map_or(LARGEST, |session| session.limit));
        if size > limit {
            return Some(format!("the message has about {size} bytes, and the server takes {limit}"));
        }
        let (size, limit) = (record.body.len(), self.config.max_message_bytes.unwrap_or(LARGEST));
        if size > limit {
            return Some(format!("the message has {size} bytes, and the server takes {limit}"));
        }
        self.refused.reason(record)
    }

    async fn send(&mut self, records: &[Record]) -> Sent {
        let Some(session) = &mut self.session else { return Sent::retry(0, "not connected") };
        if session.known.len() > REMEMBERED {
            session.known.clear();
        }
        let mut stored = 0;
        while stored < records.len() {
            // A topic that was not used yet ends the part that is sent without waiting.
            let rest = &records[stored..];
            let known = rest.iter().take_while(|record| !self.alone && session.known.contains(&record.topic)).count();
            let (sent, alone) = MqttSink::publish(session, &rest[..known.max(1)]).await;
            stored += sent.stored;
            self.alone |= alone;
            let Some(failure) = sent.failure else {
                session.known.insert(records[stored - 1].topic.clone());
                continue;
            };
            // Answers to later records may be under way, so the connection is not used again.
            self.session = None;
            if let (Failure::Refused(why), Some(record)) = (&failure, records.get(stored)) {
                self.refused.remember(record, why);
                return Sent::retry(stored, why);
            }
            return Sent { stored, failure: Some(failure) };
        }
        self.refused.forget();
        self.alone = false;
        Sent::all(records)
    }
}

fn properties(record: &Record) -> PublishProperties {
    let mut properties = PublishProperties::default();
    for (name, value) in &record.headers {
        if name == "content-type" {
            properties.content_type = Some(taken(value).into_owned());
        } else {
            properties.user_properties.push((name.clone(), taken(value).into_owned()));
        }
    }
    properties
}

/// Returns a text as every server takes it.
fn taken(text: &str) -> Cow<'_, str> {
    if text.contains(ends_connection) { text.replace(ends_connection, "\u{fffd}").into() } else { text.into() }
}

/// Returns whether a server may end the connection because of a character: the protocol lets it refuse control characters and
/// noncharacters of Unicode.
fn ends_connection(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe
}

/// Returns the largest size of the packet of a record.
fn size(record: &Record) -> usize {
    let text = |text: &str| text.len() + 2;
    let properties: usize = record.headers.iter().map(|(name, value)| 1 + text(name) + text(&taken(value))).sum();
    // The header has at most 5 bytes, the packet identifier 2, and the length of the properties 4.
    5 + 2 + 4 + text(&record.topic) + properties + record.body.len()
}

/// Returns why the server has not stored a message.
fn failure(answer: &PubAck) -> Option<Failure> {
    let reason = answer.reason;
    let said = answer.properties.as_ref().and_then(|properties| properties.reason_string.as_deref());
    let text = format!("the server refused the message: {reason:?} {}", said.unwrap_or_default());
    let text = text.trim_end().to_owned();
    match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
        PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid => Some(Failure::Refused(text)),
        _ => Some(Failure::Retry(text)),
    }
}

fn is_too_large(error: &ConnectionError) -> bool {
    let ConnectionError::MqttState(StateError::Deserialization(error)) = error else { return false };
    matches!(error, Error::InvalidConnectReturnCode(code) | Error::InvalidReason(code) if *code == PACKET_TOO_LARGE)
}

/// Returns whether a text is a topic that can be published to.
fn is_topic(text: &str) -> bool {
    (1..=TEXT).contains(&text.len()) && !text.contains(|c| matches!(c, '+' | '#') || ends_connection(c))
}

/// Reads an address: whether it has TLS, host, and port.
fn address(url: &str) -> Result<(bool, String, u16), String> {
    let wrong = || "the url is malformed: it is mqtt://host:port, or mqtts://host:port for TLS".to_owned();
    let uri: http::Uri = url.parse().map_err(|_| wrong())?;
    let tls = match uri.scheme_str() {
        Some("mqtt") => false,
        Some("mqtts") => true,
        _ => return Err(wrong()),
    };
    // The text of the error must not contain a password.
    if url.contains('@') {
        return Err("the url has no user: user and password are settings of their own".to_owned());
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((tls, host, uri.port_u16().unwrap_or(if tls { 8883 } else { 1883 })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_default_port_and_no_password() {
        assert_eq!(address("mqtt://h").unwrap(), (false, "h".to_owned(), 1883));
        assert_eq!(address("mqtts://h:99").unwrap(), (true, "h".to_owned(), 99));
        assert_eq!(address("mqtt://[::1]:1884").unwrap(), (false, "::1".to_owned(), 1884));
        for wrong in ["h:1883", "http://h", "mqtt://", "mqtt://u:geheim@h"] {
            assert!(!address(wrong).unwrap_err().contains("geheim"), "{wrong}");
        }
    }

    #[test]
    fn a_topic_has_no_wildcards() {
        assert!(is_topic("shop/order.created") && is_topic("käse"));
        for wrong in ["", "a/+/b", "a/#", "a\0b", "a\nb", "\u{85}", "\u{fdd0}", "\u{1ffff}", &"x".repeat(65_536)] {
            assert!(!is_topic(wrong), "{wrong}");
        }
    }
}
