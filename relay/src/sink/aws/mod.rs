//! SQS, SNS and Kinesis.
//!
//! A request with several messages can fail in part, and what follows a failed message in it is stored all the same. Messages
//! with the same key are therefore never under way at the same time: a batch is sent in rounds, each round has at most one
//! message of a key, and after a failure there is no further round. Messages of other keys may be stored before a failed one.
//!
//! SQS and SNS take ten attributes, so the marks are attributes of their own, and one more has the other headers. Kinesis has
//! no headers, so its records are lines as the file sink writes them.
//!
//! None of the services says what it has already. A queue or topic whose name ends with `.fifo` drops an id that it has seen
//! within five minutes.

mod kinesis;
mod sns;
mod sqs;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use base64::Engine as _;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::{Failure, Opened, Sent, Sink};
use crate::config::AwsConfig;
use crate::record::{Binding, EPOCH, ID, POSITION, REFUSAL, RELAY, Record, SOURCE};

/// How long a service may take for a request and its repetitions.
const PATIENCE: Duration = Duration::from_secs(30);

/// Requests that are under way at the same time.
const AT_ONCE: usize = 16;

/// Queues, topics and streams that are remembered. With more, they are looked for again.
const REMEMBERED: usize = 10_000;

/// The headers that are attributes of their own. The others are in one attribute.
const OWN: [&str; 8] = [ID, SOURCE, RELAY, EPOCH, POSITION, "outbox-key", "ce-type", REFUSAL];

/// The service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Sqs,
    Sns,
    Kinesis,
}

/// A queue, topic or stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    /// Its URL, ARN or name.
    address: String,
    /// Whether it keeps the order of a group.
    fifo: bool,
    /// The largest message with its attributes.
    limit: usize,
}

/// The differences between the services.
#[async_trait]
trait Service: Send + Sync + std::fmt::Debug {
    /// Returns why a text cannot be the name of a queue, topic or stream.
    fn misnamed(&self, name: &str) -> Option<String>;

    /// Looks for a queue, topic or stream.
    async fn find(&self, name: &str) -> Result<Target, String>;

    /// Returns the size of a record as the service counts it.
    fn size(&self, record: &Record) -> usize;

    /// Returns how many messages and bytes a request has at most.
    fn request(&self) -> (usize, usize);

    /// Sends records in one request, and returns what became of each.
    async fn send(&self, target: &Target, records: &[&Record]) -> Vec<Result<(), Failure>>;
}

/// A service of AWS.
#[derive(Debug)]
pub(super) struct AwsSink {
    config: AwsConfig,
    kind: Kind,
    /// The queue, topic or stream, if it is the same for every message.
    constant: Option<String>,
    service: Option<Arc<dyn Service>>,
    targets: HashMap<String, Target>,
}

impl AwsSink {
    pub(super) fn new(config: AwsConfig, kind: Kind, constant: Option<String>) -> AwsSink {
        AwsSink { config, kind, constant, service: None, targets: HashMap::new() }
    }

    async fn settings(&self) -> SdkConfig {
        let client =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let timeouts = TimeoutConfig::builder().connect_timeout(PATIENCE / 3).operation_timeout(PATIENCE).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(client).timeout_config(timeouts);
        if let Some(region) = &self.config.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &self.config.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        loader.load().await
    }

    /// Returns a queue, topic or stream. It is looked for once.
    async fn target(&mut self, service: &dyn Service, name: &str) -> Result<&Target, String> {
        if self.targets.len() > REMEMBERED {
            self.targets.clear();
        }
        if !self.targets.contains_key(name) {
            let found = service.find(name).await.map_err(|why| format!("\"{name}\": {why}"))?;
            self.targets.insert(name.to_owned(), found);
        }
        self.targets.get(name).ok_or_else(|| "not found".to_owned())
    }
}

#[async_trait]
impl Sink for AwsSink {
    fn binding(&self) -> Binding {
        Binding { prefix: "ce-", ascii: self.kind != Kind::Kinesis, key_header: true }
    }

    fn describe(&self) -> String {
        let kind = match self.kind {
            Kind::Sqs => "sqs",
            Kind::Sns => "sns",
            Kind::Kinesis => "kinesis",
        };
        let place = self.config.endpoint.as_deref().map(super::without_credentials);
        match place.or_else(|| self.config.region.clone()) {
            Some(place) => format!("{kind} {place}"),
            None => kind.to_owned(),
        }
    }

    async fn open(&mut self) -> Result<Opened, String> {
        self.targets.clear();
        let settings = self.settings().await;
        let bytes = self.config.max_message_bytes;
        let service: Arc<dyn Service> = match self.kind {
            Kind::Sqs => Arc::new(sqs::Sqs::new(&settings, bytes)),
            Kind::Sns => Arc::new(sns::Sns::new(&settings, bytes)),
            Kind::Kinesis => Arc::new(kinesis::Kinesis::new(&settings, bytes)),
        };
        let limit = match self.constant.clone() {
            Some(name) => match service.misnamed(&name) {
                Some(why) => return Err(why),
                None => self.target(&*service, &name).await?.limit,
            },
            None => service.request().1,
        };
        self.service = Some(service);
        Ok(Opened { limit, last: None })
    }

    fn refuses(&self, record: &Record) -> Option<String> {
        let service = self.service.as_ref()?;
        if let Some(why) = service.misnamed(&record.topic) {
            return Some(why);
        }
        too_large(&**service, self.targets.get(&record.topic)?, record)
    }

    async fn send(&mut self, records: &[Record]) -> Sent {
        let Some(service) = self.service.clone() else { return Sent::retry(0, "not connected") };
        let (mut fitting, mut failure) = (records.len(), None);
        for (index, record) in records.iter().enumerate() {
            failure = match self.target(&*service, &record.topic).await {
                Ok(target) => too_large(&*service, target, record).map(Failure::Refused),
                Err(why) => Some(Failure::Retry(why)),
            };
            if failure.is_some() {
                fitting = index;
                break;
            }
        }
        let sent = send_in_rounds(&*service, &self.targets, &records[..fitting]).await;
        if sent.stored < fitting || sent.failure.is_some() { sent } else { Sent { stored: fitting, failure } }
    }
}

fn too_large(service: &dyn Service, target: &Target, record: &Record) -> Option<String> {
    let (size, limit) = (service.size(record), target.limit);
    (size > limit).then(|| format!("the message has about {size} bytes, and {} takes {limit}", record.topic))
}

/// Sends records, never two of a key at the same time.
async fn send_in_rounds(service: &dyn Service, targets: &HashMap<String, Target>, records: &[Record]) -> Sent {
    let mut answers: Vec<Option<Result<(), Failure>>> = vec![None; records.len()];
    for round in rounds(records) {
        let sizes: Vec<usize> = round.iter().map(|index| service.size(&records[*index])).collect();
        let requests = requests(&round, &sizes, service.request(), |index| records[index].topic.as_str());
        let sending = requests.into_iter().filter_map(|indexes| {
            let target = targets.get(&records[*indexes.first()?].topic)?;
            Some(async move {
                let chosen: Vec<&Record> = indexes.iter().map(|index| &records[*index]).collect();
                let answers = send_apart(service, target, &chosen).await;
                (indexes, answers)
            })
        });
        let mut sending = futures_util::stream::iter(sending).buffer_unordered(AT_ONCE);
        while let Some((indexes, results)) = sending.next().await {
            for (index, result) in indexes.into_iter().zip(results) {
                answers[index] = Some(result);
            }
        }
        if round.iter().any(|index| !matches!(answers[*index], Some(Ok(())))) {
            break;
        }
    }
    summary(answers)
}

/// Sends records in one request. A request that is refused as a whole does not say which record it is about, so each is sent by
/// itself then.
async fn send_apart(service: &dyn Service, target: &Target, records: &[&Record]) -> Vec<Result<(), Failure>> {
    let mut answers = service.send(target, records).await;
    if records.len() > 1 && answers.iter().all(|answer| matches!(answer, Err(Failure::Refused(_)))) {
        answers.clear();
        for record in records {
            answers.extend(service.send(target, std::slice::from_ref(record)).await);
        }
    }
    answers
}

/// Returns how many records from the first on are stored, and why the next one is not. A refusal of a later record is not told:
/// the records between them are sent first.
fn summary(mut answers: Vec<Option<Result<(), Failure>>>) -> Sent {
    let all = answers.len();
    let stored = answers.iter().take_while(|answer| matches!(answer, Some(Ok(())))).count();
    let own = answers.get_mut(stored).and_then(Option::take).and_then(Result::err);
    let failure = own.or_else(|| {
        answers.into_iter().flatten().find_map(|answer| match answer {
            Err(Failure::Retry(why)) => Some(Failure::Retry(why)),
            _ => None,
        })
    });
    match failure {
        // A service that has answered for none must not be asked for ever.
        None if stored == 0 && all > 0 => Sent::retry(0, "the service has not answered for a message"),
        failure => Sent { stored, failure },
    }
}

/// Returns the indexes of the records of each round. A record without a key has no order.
fn rounds(records: &[Record]) -> Vec<Vec<usize>> {
    let mut rounds: Vec<Vec<usize>> = Vec::new();
    let mut next: HashMap<(&str, &str), usize> = HashMap::new();
    for (index, record) in records.iter().enumerate() {
        let round = match &record.key {
            None => 0,
            Some(key) => {
                let next = next.entry((record.topic.as_str(), key.as_str())).or_default();
                *next += 1;
                *next - 1
            }
        };
        if rounds.len() == round {
            rounds.push(Vec::new());
        }
        rounds[round].push(index);
    }
    rounds
}

/// Divides a round into requests of at most so many messages and bytes, each to one target.
fn requests<'a>(
    round: &[usize],
    sizes: &[usize],
    (most, bytes): (usize, usize),
    topic: impl Fn(usize) -> &'a str,
) -> Vec<Vec<usize>> {
    let mut requests: Vec<(Vec<usize>, usize)> = Vec::new();
    // The last request of each target.
    let mut open: HashMap<&str, usize> = HashMap::new();
    for (index, size) in round.iter().zip(sizes) {
        let last = open.get(topic(*index)).copied();
        match last.and_then(|last| requests.get_mut(last)) {
            Some((indexes, total)) if indexes.len() < most && *total + size <= bytes => {
                indexes.push(*index);
                *total += size;
            }
            _ => {
                open.insert(topic(*index), requests.len());
                requests.push((vec![*index], *size));
            }
        }
    }
    requests.into_iter().map(|(indexes, _)| indexes).collect()
}

/// Returns the group, or the key of a partition: the key of the message, or a hash of it if the service does not take the key. A
/// message without a key is a group by itself.
fn group(record: &Record, takes: impl Fn(&str) -> bool) -> Cow<'_, str> {
    match record.key.as_deref() {
        None => Cow::Borrowed(&record.webhook_id),
        Some(key) if takes(key) => Cow::Borrowed(key),
        Some(key) => {
            let mut text = String::from("sha256-");
            for byte in Sha256::digest(key) {
                let _ = write!(text, "{byte:02x}");
            }
            Cow::Owned(text)
        }
    }
}

/// Returns whether SQS and SNS take a key as the id of a group.
fn is_group(key: &str) -> bool {
    (1..=128).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Returns the attributes of a message of SQS or SNS.
fn attributes(record: &Record) -> Vec<(&'static str, Cow<'_, str>)> {
    let mut attributes = Vec::with_capacity(10);
    let mut others = serde_json::Map::new();
    for (name, value) in &record.headers {
        match OWN.iter().find(|own| *own == name) {
            Some(own) if !value.is_empty() => attributes.push((*own, Cow::Borrowed(value.as_str()))),
            Some(_) => {}
            None => drop(others.insert(name.clone(), value.clone().into())),
        }
    }
    if !others.is_empty() {
        attributes.push(("outbox-headers", Cow::Owned(serde_json::Value::Object(others).to_string())));
    }
    if let Some(encoding) = text(&record.body).1 {
        attributes.push(("outbox-encoding", Cow::Borrowed(encoding)));
    }
    attributes
}

/// Returns a body as text that SQS and SNS take, and how it is encoded.
fn text(body: &[u8]) -> (Cow<'_, str>, Option<&'static str>) {
    let is_taken = |c: char| !c.is_control() && c < '\u{fffe}' || matches!(c, '\t' | '\n' | '\r') || c > '\u{ffff}';
    match std::str::from_utf8(body) {
        Ok("") => (Cow::Borrowed(" "), Some("empty")),
        Ok(text) if text.chars().all(is_taken) => (Cow::Borrowed(text), None),
        _ => (Cow::Owned(base64::engine::general_purpose::STANDARD.encode(body)), Some("base64")),
    }
}

/// Returns the size of a message of SQS or SNS: body, and names, types and values of its attributes.
fn size(record: &Record) -> usize {
    let attributes = attributes(record);
    let attributes: usize = attributes.iter().map(|(name, value)| name.len() + "String".len() + value.len()).sum();
    text(&record.body).0.len() + attributes
}

/// Returns why a text is not the name of a queue.
fn is_name(name: &str, longest: usize) -> bool {
    let plain = name.strip_suffix(".fifo").unwrap_or(name);
    !plain.is_empty()
        && name.len() <= longest
        && plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// Returns the text of an error. It contains no credentials.
fn shown<E, R>(error: &SdkError<E, R>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(error) = source {
                let _ = write!(text, ": {error}");
                source = error.source();
            }
            text
        }
    }
}

/// Returns why the messages of a request are not stored.
fn failed<E, R>(error: &SdkError<E, R>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    match error.code() {
        Some(code) => failure(code, error.message()),
        None => Failure::Retry(shown(error)),
    }
}

/// Returns what became of each message of a request. The id of a message is its index in the request.
fn answers<'a>(
    messages: usize,
    told: impl IntoIterator<Item = (&'a str, Result<(), Failure>)>,
) -> Vec<Result<(), Failure>> {
    let mut answers = vec![Err(Failure::Retry("the service has not answered for the message".to_owned())); messages];
    for (id, told) in told {
        if let Some(answer) = id.parse().ok().and_then(|index: usize| answers.get_mut(index)) {
            *answer = told;
        }
    }
    answers
}

/// Returns whether the service will never take a message, by the code of its error.
fn failure(code: &str, message: Option<&str>) -> Failure {
    let text = format!("{code} {}", message.unwrap_or_default()).trim_end().to_owned();
    let never = [
        "InvalidMessageContents",
        "MessageTooLong",
        "InvalidParameterValue",
        "InvalidAttributeValue",
        "InvalidParameter",
    ];
    if never.iter().any(|never| code.ends_with(never)) { Failure::Refused(text) } else { Failure::Retry(text) }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;

    use super::*;

    fn record(position: i64, topic: &str, key: Option<&str>) -> Record {
        Record {
            epoch: 1,
            position,
            webhook_id: format!("msg_{position}"),
            topic: topic.to_owned(),
            key: key.map(str::to_owned),
            headers: vec![
                (POSITION.to_owned(), position.to_string()),
                ("content-type".to_owned(), "application/json".to_owned()),
                ("outbox-key".to_owned(), String::new()),
            ],
            body: Bytes::from_static(b"{}"),
        }
    }

    #[test]
    fn a_round_has_a_key_once_and_a_request_has_one_target() {
        let records: Vec<Record> = [("q", "a"), ("q", "b"), ("q", "a"), ("r", "a"), ("q", "a"), ("q", "")]
            .iter()
            .zip(0..)
            .map(|((topic, key), position)| record(position, topic, (!key.is_empty()).then_some(*key)))
            .collect();
        let rounds = rounds(&records);
        assert_eq!(rounds, [vec![0, 1, 3, 5], vec![2], vec![4]]);
        let topic = |index: usize| records[index].topic.as_str();
        assert_eq!(requests(&rounds[0], &[1; 4], (10, 100), topic), [vec![0, 1, 5], vec![3]]);
        assert_eq!(requests(&rounds[0], &[1; 4], (2, 100), topic), [vec![0, 1], vec![3], vec![5]]);
        assert_eq!(requests(&rounds[0], &[60; 4], (10, 100), topic), [vec![0], vec![1], vec![3], vec![5]]);
    }

    /// A service that refuses each request with one message, and fails another message of a request.
    #[derive(Debug, Default)]
    struct Fake {
        refused: i64,
        failed: i64,
        stored: Mutex<Vec<i64>>,
    }

    #[async_trait]
    impl Service for Fake {
        fn misnamed(&self, _name: &str) -> Option<String> {
            None
        }

        async fn find(&self, _name: &str) -> Result<Target, String> {
            Err("not found".to_owned())
        }

        fn size(&self, _record: &Record) -> usize {
            1
        }

        fn request(&self) -> (usize, usize) {
            (10, 100)
        }

        async fn send(&self, _target: &Target, records: &[&Record]) -> Vec<Result<(), Failure>> {
            if records.iter().any(|record| record.position == self.refused) {
                return vec![Err(failure("InvalidParameterValue", None)); records.len()];
            }
            let ids: Vec<String> = (0..records.len()).map(|index| index.to_string()).collect();
            let told = ids.iter().zip(records).filter(|(_, record)| record.position != self.failed);
            self.stored.lock().unwrap().extend(told.clone().map(|(_, record)| record.position));
            answers(records.len(), told.map(|(id, _)| (id.as_str(), Ok(()))))
        }
    }

    #[tokio::test]
    async fn nothing_overtakes_a_message_of_its_key_and_a_refusal_is_about_one_message() {
        let target = Target { address: "q".to_owned(), fifo: true, limit: 100 };
        let targets = HashMap::from([("q".to_owned(), target)]);
        let records: Vec<Record> =
            ["a", "b", "c", "b", "a"].iter().zip(1..).map(|(key, position)| record(position, "q", Some(key))).collect();
        let send = async |service: Fake| {
            let sent = send_in_rounds(&service, &targets, &records).await;
            (sent, service.stored.into_inner().unwrap())
        };
        assert_eq!(send(Fake::default()).await, (Sent::all(&records), vec![1, 2, 3, 4, 5]));
        let (sent, stored) = send(Fake { failed: 2, ..Fake::default() }).await;
        assert!(sent.stored == 1 && matches!(sent.failure, Some(Failure::Retry(_))) && stored == [1, 3], "{sent:?}");
        let (sent, stored) = send(Fake { refused: 2, ..Fake::default() }).await;
        assert!(sent.stored == 1 && matches!(sent.failure, Some(Failure::Refused(_))) && stored == [1, 3], "{sent:?}");
    }

    #[test]
    fn a_refusal_counts_only_for_the_next_record() {
        let (ok, later) = (Some(Ok(())), |why: &str| Some(Err(Failure::Retry(why.to_owned()))));
        let never = || Some(Err(Failure::Refused("never".to_owned())));
        assert_eq!(summary(vec![ok.clone(), ok.clone()]), Sent { stored: 2, failure: None });
        assert_eq!(summary(vec![ok.clone(), never(), ok.clone()]).failure, Some(Failure::Refused("never".to_owned())));
        assert_eq!(summary(vec![ok.clone(), None, never()]), Sent { stored: 1, failure: None });
        assert_eq!(summary(vec![ok.clone(), None, later("x"), never()]), Sent::retry(1, "x"));
        assert!(matches!(summary(vec![None, never()]).failure, Some(Failure::Retry(_))));
        assert_eq!(summary(Vec::new()), Sent { stored: 0, failure: None });
    }

    #[test]
    fn a_key_that_is_no_group_is_hashed() {
        let (long, of) = ("x".repeat(129), |key: Option<&str>| group(&record(7, "q", key), is_group).into_owned());
        assert_eq!((of(Some("a#1")), of(None)), ("a#1".to_owned(), "msg_7".to_owned()));
        for key in ["", "käse", "a b", &long] {
            assert!(of(Some(key)).starts_with("sha256-") && is_group(&of(Some(key))), "{key}");
        }
    }

    #[test]
    fn a_message_has_ten_attributes_at_most() {
        let mut record = record(7, "q", Some("k"));
        for name in OWN.into_iter().chain(["x-a", "x-b", "x-c"]) {
            record.headers.retain(|(known, _)| known != name);
            record.headers.push((name.to_owned(), "v".to_owned()));
        }
        record.body = Bytes::from_static(b"\xff");
        let attributes = attributes(&record);
        assert_eq!(attributes.len(), 10);
        let others = &attributes.iter().find(|(name, _)| *name == "outbox-headers").unwrap().1;
        let others: serde_json::Value = serde_json::from_str(others).unwrap();
        assert_eq!((&others["x-b"], &others["content-type"]), (&"v".into(), &"application/json".into()));
    }

    #[test]
    fn a_body_is_text_or_says_how_it_became_text() {
        assert_eq!(text("{\"k\": \"käse 🧀\"}\n".as_bytes()).1, None);
        assert_eq!(text(b""), (" ".into(), Some("empty")));
        for body in [&b"\x00"[..], b"\xff", "\u{fffe}".as_bytes(), b"\x1b"] {
            assert_eq!(text(body).1, Some("base64"));
        }
    }

    #[test]
    fn a_name_may_end_with_fifo() {
        assert!(is_name("orders.fifo", 80) && is_name("or_de-rs", 80));
        for wrong in ["", ".fifo", "order.created", "a b", &"x".repeat(81)] {
            assert!(!is_name(wrong, 80), "{wrong}");
        }
    }
}
