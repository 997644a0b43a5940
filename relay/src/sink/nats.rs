//! NATS: a JetStream stream, or core NATS.
//!
//! The messages of a batch form a chain. The first one names the sequence number that it expects the stream to end with, and
//! each other one the id of the message before it. If the server refuses or loses one, it refuses those after it, and a
//! relay that was replaced without noticing adds nothing out of order. Sequence numbers alone do not suffice: a message of
//! another program would take the number of a refused one. When a chain breaks, the messages that broke it say whether
//! another instance of the relay is ahead. After a connection, the last message of the stream says where to continue.
//! `Nats-Msg-Id` makes the server drop repeats as well, within the window of the stream. Other programs may write to the
//! stream, but each of their messages breaks a chain, which costs a repetition of the batch.
//!
//! Core NATS has no acknowledgements: a message counts as stored when the server has answered what was sent after it.

use std::error::Error as _;
use std::str::FromStr as _;
use std::time::Duration;

use async_nats::header::{
    HeaderMap, HeaderName, HeaderValue, NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SEQUENCE,
    NATS_EXPECTED_STREAM, NATS_MESSAGE_ID,
};
use async_nats::jetstream::context::{ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectOptions};
use async_trait::async_trait;
use futures_util::StreamExt as _;

use super::{Failure, Last, Opened, Sent, Sink, without_credentials};
use crate::config::{NatsConfig, credentials};
use crate::record::{Binding, RELAY, Record, SOURCE};

/// How long the server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The largest number of messages at the end of a stream that are looked at.
const LOOK_BACK: u64 = 100;

/// A stream of a NATS server, or the server without a stream.
#[derive(Debug)]
pub(super) struct NatsSink {
    config: NatsConfig,
    session: Option<Session>,
}

#[derive(Debug)]
struct Session {
    client: Client,
    /// The largest message, with its headers.
    limit: usize,
    stream: Option<Target>,
}

#[derive(Debug)]
struct Target {
    context: jetstream::Context,
    stream: Stream,
    /// The sequence number of the stream's last message.
    end: u64,
}

impl NatsSink {
    pub(super) fn new(config: NatsConfig) -> NatsSink {
        NatsSink { config, session: None }
    }

    async fn connect(&self) -> Result<Client, String> {
        let config = &self.config;
        let secret = |secret: &crate::config::Secret| secret.read().map_err(|error| error.to_string());
        let mut options = ConnectOptions::new()
            .name("pg_outbox relay")
            .connection_timeout(PATIENCE)
            .request_timeout(Some(PATIENCE))
            // open() connects again after a loss, and finds out which messages the server has.
            .max_reconnects(1)
            .require_tls(config.tls);
        if let Some(path) = &config.ca_file {
            options = options.add_root_certificates(path.clone());
        }
        if let Some(path) = &config.credentials_file {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            options = options
                .credentials(&text)
                .map_err(|_| format!("{} is not a file of NATS credentials", path.display()))?;
        }
        if let Some((user, password)) = credentials(config.user.as_deref(), config.password.as_ref())? {
            options = options.user_and_password(user, password);
        }
        if let Some(token) = &config.token {
            options = options.token(secret(token)?);
        }
        let addresses: Vec<&str> = config.url.split(',').map(str::trim).collect();
        options.connect(addresses).await.map_err(|error| {
            let text = match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            if config.tls && text.contains("InvalidContentType") {
                format!("the server does not speak TLS: {text}")
            } else {
                text
            }
        })
    }

    async fn send_to_stream(target: &mut Target, name: &str, records: &[Record]) -> Sent {
        let mut stored = 0;
        // A duplicate, or a message of another program, breaks the chain; the rest is then sent again.
        let mut fruitless = 0;
        while fruitless < 4 {
            let before_this = stored;
            let mut waiting = Vec::with_capacity(records.len() - stored);
            let mut before: Option<HeaderValue> = None;
            for record in &records[stored..] {
                let Some(mut headers) = headers(record) else {
                    break;
                };
                headers.insert(NATS_EXPECTED_STREAM, name);
                match before {
                    Some(id) => headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, id),
                    None => headers.insert(NATS_EXPECTED_LAST_SEQUENCE, HeaderValue::from(target.end)),
                }
                before = headers.get(NATS_MESSAGE_ID).cloned();
                let sent =
                    target.context.publish_with_headers(record.topic.clone(), headers, record.body.clone()).await;
                let failed = sent.is_err();
                waiting.push(sent);
                if failed {
                    break;
                }
            }
            let mut broken = false;
            for sent in waiting {
                let answer = match sent {
                    Ok(answer) => tokio::time::timeout(PATIENCE * 2, answer).await,
                    Err(error) => Ok(Err(error)),
                };
                match answer {
                    Ok(Ok(ack)) if ack.duplicate => stored += 1,
                    Ok(Ok(ack)) => {
                        stored += 1;
                        target.end = ack.sequence;
                    }
                    Ok(Err(error))
                        if [PublishErrorKind::WrongLastSequence, PublishErrorKind::WrongLastMessageId]
                            .contains(&error.kind()) =>
                    {
                        broken = true;
                        break;
                    }
                    Ok(Err(error)) => return Sent { stored, failure: Some(failure(&error)) },
                    Err(_) => return Sent::retry(stored, "the server did not answer in time"),
                }
            }
            if stored == records.len() {
                return Sent::all(records);
            }
            if !broken {
                return Sent { stored, failure: Some(Failure::Refused("a header is malformed".to_owned())) };
            }
            fruitless = if stored > before_this { 0 } else { fruitless + 1 };
            let end = match target.stream.info().await {
                Ok(info) => info.state.last_sequence,
                Err(error) => return Sent::retry(stored, error.to_string()),
            };
            match is_ahead(target, end, &records[stored]).await {
                Ok(false) => target.end = end,
                Ok(true) => return Sent::retry(stored, "another instance of the relay writes to the stream"),
                Err(why) => return Sent::retry(stored, why),
            }
        }
        Sent::retry(stored, format!("another program writes to the stream \"{name}\" all the time"))
    }

    async fn send_to_core(client: &Client, records: &[Record]) -> Sent {
        let sent = async {
            let inbox = client.new_inbox();
            let mut echo = client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
            for record in records {
                let headers = headers(record).unwrap_or_default();
                client
                    .publish_with_headers(record.topic.clone(), headers, record.body.clone())
                    .await
                    .map_err(|error| error.to_string())?;
            }
            // The server handles what a connection sends in order.
            client.publish(inbox, bytes::Bytes::new()).await.map_err(|error| error.to_string())?;
            echo.next().await.ok_or_else(|| "the connection was lost".to_owned())
        };
        match tokio::time::timeout(PATIENCE, sent).await {
            Ok(Ok(_)) => Sent::all(records),
            Ok(Err(why)) => Sent::retry(0, why),
            Err(_) => Sent::retry(0, "the server did not answer in time"),
        }
    }
}

#[async_trait]
impl Sink for NatsSink {
    fn binding(&self) -> Binding {
        Binding { prefix: "ce-", ascii: true, key_header: true }
    }

    fn describe(&self) -> String {
        let url = without_credentials(&self.config.url);
        match &self.config.stream {
            Some(stream) => format!("nats {url} stream {stream}"),
            None => format!("nats {url}"),
        }
    }

    async fn open(&mut self) -> Result<Opened, String> {
        self.session = None;
        let client = self.connect().await?;
        let mut limit = client.server_info().max_payload;
        let mut last = None;
        let stream = match &self.config.stream {
            None => None,
            Some(name) => {
                let context = ContextBuilder::new()
                    .timeout(PATIENCE)
                    .ack_timeout(PATIENCE)
                    .max_ack_inflight(20_000)
                    .build(client.clone());
                let mut stream =
                    context.get_stream(name).await.map_err(|error| format!("stream \"{name}\": {error}"))?;
                let info = stream.info().await.map_err(|error| format!("stream \"{name}\": {error}"))?;
                if let Ok(most) = usize::try_from(info.config.max_message_size)
                    && most > 0
                {
                    limit = limit.min(most);
                }
                let state = &info.state;
                let end = state.last_sequence;
                // Messages at the end of the stream may have been deleted.
                let first = state.first_sequence.max(end.saturating_sub(LOOK_BACK)).max(1);
                for sequence in (first..=end).rev() {
                    let found = message(&stream, sequence).await;
                    if let Some(message) = found.map_err(|error| format!("stream \"{name}\": {error}"))? {
                        last = marks(&message.headers);
                        break;
                    }
                }
                Some(Target { context, stream, end })
            }
        };
        self.session = Some(Session { client, limit, stream });
        Ok(Opened { limit, last })
    }

    fn refuses(&self, record: &Record) -> Option<String> {
        let session = self.session.as_ref()?;
        if !is_subject(&record.topic) {
            return Some(format!("\"{}\" is not a subject", record.topic.escape_default()));
        }
        // The relay adds the headers of JetStream.
        let size = record.size() + 200;
        if size > session.limit {
            return Some(format!("the message has about {size} bytes, and the server takes {}", session.limit));
        }
        let subjects = &session.stream.as_ref()?.stream.cached_info().config.subjects;
        (!subjects.iter().any(|pattern| covers(pattern, &record.topic)))
            .then(|| format!("the stream does not take the subject \"{}\"", record.topic))
    }

    async fn send(&mut self, records: &[Record]) -> Sent {
        let Some(session) = &mut self.session else { return Sent::retry(0, "not connected") };
        match (&mut session.stream, &self.config.stream) {
            (Some(target), Some(name)) => NatsSink::send_to_stream(target, name, records).await,
            _ => NatsSink::send_to_core(&session.client, records).await,
        }
    }
}

/// Returns whether another instance of the relay has stored this record, or a later one, after the end that is known.
async fn is_ahead(target: &Target, end: u64, next: &Record) -> Result<bool, String> {
    if end.saturating_sub(target.end) > LOOK_BACK {
        return Ok(true);
    }
    for sequence in target.end + 1..=end {
        let Some(message) = message(&target.stream, sequence).await? else { continue };
        let is_of_us =
            |last: &Last| next.header(SOURCE) == Some(&last.source) && next.header(RELAY) == Some(&last.relay);
        let place = next.place();
        if marks(&message.headers).is_some_and(|last| is_of_us(&last) && last.place >= place) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns a message of a stream; `None` if it was deleted.
async fn message(stream: &Stream, sequence: u64) -> Result<Option<StreamMessage>, String> {
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(format!("the message {sequence} cannot be read: {error}")),
    }
}

fn marks(headers: &HeaderMap) -> Option<Last> {
    Last::of(|name| headers.get(name).map(HeaderValue::as_str))
}

/// Returns the headers of a message; `None` if one is malformed. Those that JetStream obeys are not the message's to set.
fn headers(record: &Record) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &record.headers {
        if !is_of_nats(name) {
            headers.insert(HeaderName::from_str(name).ok()?, HeaderValue::from_str(value).ok()?);
        }
    }
    // A dead letter is another message than the one that it is about.
    let dead = record.headers.iter().any(|(name, _)| name == crate::record::REFUSAL);
    let id = if dead { format!("{}_refused", record.webhook_id) } else { record.webhook_id.clone() };
    headers.insert(NATS_MESSAGE_ID, HeaderValue::from_str(&id).ok()?);
    Some(headers)
}

fn failure(error: &PublishError) -> Failure {
    let of_server = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    let text = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let never = error.kind() == PublishErrorKind::MaxPayloadExceeded
        || of_server.is_some_and(|error| {
            [ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM, ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM]
                .contains(&error.error_code())
        });
    if never { Failure::Refused(text) } else { Failure::Retry(text) }
}

/// Returns whether a header is a command to the server, such as `Nats-Rollup`.
fn is_of_nats(name: &str) -> bool {
    name.get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case("nats-"))
}

/// Returns whether a text is a subject that can be published to.
fn is_subject(text: &str) -> bool {
    !text.is_empty()
        && !text.contains(char::is_whitespace)
        && text.split('.').all(|token| !token.is_empty() && token != "*" && token != ">")
}

/// Returns whether a pattern of a stream covers a subject.
fn covers(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(word), Some(token)) if word == token => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_subjects() {
        for (pattern, subject, is) in [
            ("orders.>", "orders.created", true),
            ("orders.>", "orders", false),
            ("orders.*", "orders.created.v1", false),
            ("*.created", "orders.created", true),
            ("orders", "orders", true),
            (">", "a.b", true),
        ] {
            assert_eq!(covers(pattern, subject), is, "{pattern} {subject}");
        }
    }

    #[test]
    fn a_subject_has_no_wildcards_and_no_spaces() {
        assert!(is_subject("orders.created") && is_subject("käse"));
        for wrong in ["", "a b", "a..b", ".a", "a.*", ">"] {
            assert!(!is_subject(wrong), "{wrong}");
        }
    }
}
