//! The configuration file. Every value is checked here; unknown names are refused.
//!
//! Credentials are not written into the file: a secret is `{ env = "NAME" }` or `{ file = "/path" }`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pg_outbox::error::{Error, Result};
use serde::Deserialize;

use crate::record::Format;
use crate::template::Template;

/// A configuration file.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) source: SourceConfig,
    pub(crate) relays: Vec<RelayConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    source: SourceConfig,
    #[serde(default)]
    relay: BTreeMap<String, RelayConfig>,
}

/// Where the feed is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceConfig {
    /// Connection string of the primary. Without it, `DATABASE_URL`, or `PGHOST` and the other variables of libpq.
    dsn: Option<Dsn>,
    /// Connection string of a standby to read from. Cursor, lock and heartbeat stay on the primary.
    read_dsn: Option<Dsn>,
    /// The source of the messages, as receivers see it. The default names the cluster and the database.
    pub(crate) name: Option<String>,
}

/// One relay.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RelayConfig {
    /// The name. It is the key of the table in the file.
    #[serde(skip)]
    pub(crate) name: String,
    /// The kinds of messages.
    #[serde(default)]
    pub(crate) source: Kinds,
    /// Topic patterns; without them, all topics.
    pub(crate) topics: Option<Vec<String>>,
    /// A filter as in a subscription.
    pub(crate) filter: Option<serde_json::Value>,
    /// Where a relay without a cursor begins.
    #[serde(default)]
    pub(crate) start: Start,
    /// Template of the topic, subject, stream or routing key.
    #[serde(default = "default_topic")]
    topic: String,
    #[serde(default)]
    pub(crate) format: Format,
    #[serde(default)]
    pub(crate) on_refused: OnRefused,
    /// Where refused messages go with `on_refused = "dead-letter"`.
    pub(crate) dead_letter_topic: Option<String>,
    /// Messages that are sent before their acknowledgement is awaited.
    #[serde(default = "default_batch")]
    pub(crate) batch: i32,
    /// The longest wait between two looks at an idle feed.
    #[serde(default = "default_poll")]
    poll_ms: u64,
    #[serde(default = "default_heartbeat")]
    heartbeat_seconds: u64,
    pub(crate) sink: SinkConfig,
}

fn default_topic() -> String {
    "{topic}".to_owned()
}

fn default_batch() -> i32 {
    500
}

fn default_poll() -> u64 {
    50
}

fn default_heartbeat() -> u64 {
    5
}

/// The kinds of messages that a relay reads.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kinds {
    #[default]
    Messages,
    /// Events of streams.
    Events,
    All,
}

impl Kinds {
    /// Returns the name, as `outbox.read()` takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kinds::Messages => "messages",
            Kinds::Events => "events",
            Kinds::All => "all",
        }
    }
}

/// Where a relay without a cursor begins.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Start {
    /// With the first message that is stored.
    #[default]
    Beginning,
    /// With the first message after the first start.
    End,
}

/// How the relay treats a message that the broker will never take.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnRefused {
    /// The relay waits until an operator has decided.
    #[default]
    Stop,
    /// The message goes to `dead_letter_topic`, with the reason.
    DeadLetter,
    /// The relay goes on without the message.
    Skip,
}

/// The broker.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum SinkConfig {
    Stdout,
    File(FileConfig),
    #[cfg_attr(not(feature = "kafka"), allow(dead_code))]
    Kafka(KafkaConfig),
    #[cfg_attr(not(feature = "mqtt"), allow(dead_code))]
    Mqtt(MqttConfig),
    #[cfg_attr(not(feature = "nats"), allow(dead_code))]
    Nats(NatsConfig),
    Postgres(PostgresConfig),
    #[cfg_attr(not(feature = "rabbitmq"), allow(dead_code))]
    Rabbitmq(RabbitmqConfig),
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    Redis(RedisConfig),
    #[cfg_attr(not(feature = "aws"), allow(dead_code))]
    Sqs(AwsConfig),
    #[cfg_attr(not(feature = "aws"), allow(dead_code))]
    Sns(AwsConfig),
    #[cfg_attr(not(feature = "aws"), allow(dead_code))]
    Kinesis(AwsConfig),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileConfig {
    pub(crate) path: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(feature = "kafka"), allow(dead_code))]
pub(crate) struct KafkaConfig {
    /// Addresses of brokers: `host:port`, separated by commas.
    pub(crate) brokers: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    /// SASL mechanism; with a user, the default is PLAIN.
    pub(crate) mechanism: Option<String>,
    #[serde(default)]
    pub(crate) tls: bool,
    pub(crate) ca_file: Option<PathBuf>,
    /// Codec of batches; without it, none.
    pub(crate) compression: Option<String>,
    /// Whether each batch is a transaction that contains the position of the relay.
    #[serde(default)]
    pub(crate) transactional: bool,
    /// The topic that the position of the relay belongs to; the default is the relay's topic, if it is always the same.
    position_topic: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(feature = "mqtt"), allow(dead_code))]
pub(crate) struct MqttConfig {
    /// `mqtt://host:port`, or `mqtts://` for TLS.
    pub(crate) url: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) ca_file: Option<PathBuf>,
    /// The client id; the default contains the name of the relay. Each client of a server has another one.
    pub(crate) client_id: Option<String>,
    /// The largest payload that the server takes, if it does not tell: mosquitto's `message_size_limit`.
    pub(crate) max_message_bytes: Option<usize>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(feature = "nats"), allow(dead_code))]
pub(crate) struct NatsConfig {
    pub(crate) url: String,
    /// The JetStream stream. Without it, messages go to core NATS, which stores nothing.
    pub(crate) stream: Option<String>,
    pub(crate) credentials_file: Option<PathBuf>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) token: Option<Secret>,
    #[serde(default)]
    pub(crate) tls: bool,
    pub(crate) ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostgresConfig {
    dsn: Dsn,
    /// A function (topic text, key text, headers jsonb, body bytea), with its schema.
    pub(crate) function: String,
}

impl PostgresConfig {
    pub(crate) fn dsn(&self) -> Result<String> {
        self.dsn.read()
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(feature = "rabbitmq"), allow(dead_code))]
pub(crate) struct RabbitmqConfig {
    /// `amqp://host:port/vhost`, or `amqps://` for TLS.
    pub(crate) url: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) ca_file: Option<PathBuf>,
    /// The exchange; without it the default exchange, where the topic is the name of a queue.
    #[serde(default)]
    pub(crate) exchange: String,
    /// The largest message that the server takes. The default is that of RabbitMQ 4.
    #[serde(default = "default_message_bytes")]
    pub(crate) max_message_bytes: usize,
}

fn default_message_bytes() -> usize {
    16 * 1024 * 1024
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(feature = "redis"), allow(dead_code))]
pub(crate) struct RedisConfig {
    pub(crate) url: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    /// Entries that a stream keeps, about; without it, all.
    pub(crate) max_length: Option<u64>,
}

/// A service of AWS. Credentials come from the environment, a profile, or the role of the machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(not(feature = "aws"), allow(dead_code))]
pub(crate) struct AwsConfig {
    /// The region; without it, that of the environment or the profile.
    pub(crate) region: Option<String>,
    /// The URL of another server with the interface of AWS.
    pub(crate) endpoint: Option<String>,
    /// The largest message with its attributes. Without it, SQS is asked, and the others have their first limit.
    pub(crate) max_message_bytes: Option<usize>,
}

/// A connection string. One with a password is a secret.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Dsn {
    Text(String),
    Secret(Secret),
}

impl Dsn {
    fn read(&self) -> Result<String> {
        match self {
            Dsn::Text(text) => Ok(text.clone()),
            Dsn::Secret(secret) => secret.read(),
        }
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dsn")
    }
}

/// A value that is not written into the file.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(crate) enum Secret {
    Env(String),
    File(PathBuf),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Env(name) => write!(f, "env {name}"),
            Secret::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

impl Secret {
    /// Reads the value. White space at its end is removed.
    pub(crate) fn read(&self) -> Result<String> {
        let text = match self {
            Secret::Env(name) => std::env::var(name)
                .map_err(|_| Error::invalid(format!("the environment variable \"{name}\" is not set")))?,
            Secret::File(path) => std::fs::read_to_string(path).map_err(|error| {
                Error::invalid(format!("cannot read \"{}\"", path.display())).detail(error.to_string())
            })?,
        };
        Ok(text.trim_end().to_owned())
    }
}

/// Reads the password of a user, if there is one.
#[cfg_attr(not(any(feature = "kafka", feature = "mqtt", feature = "nats", feature = "rabbitmq")), allow(dead_code))]
pub(crate) fn credentials(
    user: Option<&str>,
    password: Option<&Secret>,
) -> std::result::Result<Option<(String, String)>, String> {
    match (user, password) {
        (Some(user), Some(password)) => {
            Ok(Some((user.to_owned(), password.read().map_err(|error| error.to_string())?)))
        }
        (None, None) => Ok(None),
        _ => Err("user and password belong together".to_owned()),
    }
}

impl SourceConfig {
    /// Returns the connection string of the primary; empty: all parameters come from the environment.
    pub(crate) fn dsn(&self) -> Result<String> {
        match &self.dsn {
            Some(dsn) => dsn.read(),
            None => Ok(std::env::var("DATABASE_URL").unwrap_or_default()),
        }
    }

    /// Returns the connection string of the standby to read from.
    pub(crate) fn read_dsn(&self) -> Result<Option<String>> {
        self.read_dsn.as_ref().map(Dsn::read).transpose()
    }
}

impl RelayConfig {
    /// Returns the consumer of the relay's cursor.
    pub(crate) fn consumer(&self) -> String {
        format!("relay:{}", self.name)
    }

    pub(crate) fn template(&self) -> Result<Template> {
        Template::parse(&self.topic)
    }

    /// Returns the Kafka topic that the position of the relay belongs to.
    #[cfg_attr(not(feature = "kafka"), allow(dead_code))]
    pub(crate) fn position_topic(&self, kafka: &KafkaConfig) -> Result<Option<String>> {
        let topic = kafka.position_topic.clone().or(self.template()?.constant().map(str::to_owned));
        if kafka.transactional && topic.is_none() {
            return Err(Error::invalid(format!("relay \"{}\": transactional needs position_topic", self.name))
                .hint("Name a topic of the cluster, because the topics of this relay depend on the message."));
        }
        Ok(topic)
    }

    pub(crate) fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }

    pub(crate) fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.heartbeat_seconds)
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::invalid(format!("relay \"{}\": {what}", self.name)));
        if !self.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) || self.name.len() > 100 {
            return wrong("a name has up to 100 letters, digits, and -_.".to_owned());
        }
        if !(1..=10_000).contains(&self.batch) {
            return wrong(format!("batch is between 1 and 10000, and not {}", self.batch));
        }
        if !(1..=60_000).contains(&self.poll_ms) {
            return wrong(format!("poll_ms is between 1 and 60000, and not {}", self.poll_ms));
        }
        if !(1..=600).contains(&self.heartbeat_seconds) {
            return wrong(format!("heartbeat_seconds is between 1 and 600, and not {}", self.heartbeat_seconds));
        }
        if (self.on_refused == OnRefused::DeadLetter) != self.dead_letter_topic.is_some() {
            return wrong("on_refused = \"dead-letter\" and dead_letter_topic belong together".to_owned());
        }
        if matches!(&self.sink, SinkConfig::Rabbitmq(sink) if sink.exchange.len() > 255) {
            return wrong("the name of an exchange has at most 255 bytes".to_owned());
        }
        self.template().map(|_| ())
    }
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// 22023 with the place of the mistake.
    pub(crate) fn load(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::invalid(format!("cannot read \"{}\"", path.display())).detail(error.to_string()))?;
        Config::parse(&text).map_err(|error| {
            let detail = error.details().detail.clone();
            let message = format!("{}: {error}", path.display());
            match detail {
                Some(detail) => Error::invalid(message).detail(detail),
                None => Error::invalid(message),
            }
        })
    }

    fn parse(text: &str) -> Result<Config> {
        let file: File = toml::from_str(text).map_err(|error| {
            // The line itself is not shown, because it may contain a password.
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
            Error::invalid("malformed configuration").detail(format!("Line {line}: {}", error.message()))
        })?;
        let relays: Vec<RelayConfig> =
            file.relay.into_iter().map(|(name, relay)| RelayConfig { name, ..relay }).collect();
        if relays.is_empty() {
            return Err(Error::invalid("no relay is configured").hint("A relay is a table [relay.NAME]."));
        }
        relays.iter().try_for_each(RelayConfig::check)?;
        Ok(Config { source: file.source, relays })
    }

    /// Keeps only the relay of this name.
    pub(crate) fn only(mut self, name: Option<&str>) -> Result<Config> {
        if let Some(name) = name {
            self.relays.retain(|relay| relay.name == name);
            if self.relays.is_empty() {
                return Err(Error::new("OB001", format!("relay \"{name}\" is not in the file")));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_with_its_defaults() {
        let config = Config::parse(
            "[relay.orders]\ntopics = ['order.#']\nfilter = { tenant = 'a' }\n\
             sink = { kind = 'nats', url = 'nats://h', stream = 'S', password = { env = 'P' } }",
        )
        .unwrap();
        let relay = &config.relays[0];
        assert_eq!((relay.name.as_str(), relay.batch, relay.on_refused), ("orders", 500, OnRefused::Stop));
        assert_eq!(relay.consumer(), "relay:orders");
        assert!(config.only(Some("x")).is_err());
    }

    #[test]
    fn the_files_of_the_page_are_accepted() {
        let docs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
        let mut pages = vec![docs.join("relay.md")];
        pages.extend(std::fs::read_dir(docs.join("relay")).unwrap().map(|entry| entry.unwrap().path()));
        for page in &pages {
            let text = std::fs::read_to_string(page).unwrap();
            let blocks: Vec<&str> =
                text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
            assert!(!blocks.is_empty(), "{}", page.display());
            for block in blocks {
                Config::parse(block).map_err(|error| error.report()).unwrap();
            }
        }
    }

    #[test]
    fn a_wrong_file_is_refused() {
        for wrong in [
            "",
            "[relay.a]",
            "[relay.a]\nsink = { kind = 'carrier-pigeon' }",
            "[relay.a]\nbatch = 0\nsink = { kind = 'stdout' }",
            "[relay.a]\nbatches = 5\nsink = { kind = 'stdout' }",
            "[relay.a]\nsink = { kind = 'file', path = 'x', mode = 'w' }",
            "[relay.a]\nsink = { kind = 'nats', url = 'nats://h', password = 'secret' }",
            "[relay.a]\non_refused = 'dead-letter'\nsink = { kind = 'stdout' }",
            "[relay.a]\ntopic = '{x}'\nsink = { kind = 'stdout' }",
            "[relay.'a b']\nsink = { kind = 'stdout' }",
        ] {
            assert!(Config::parse(wrong).is_err(), "{wrong}");
        }
    }
}
