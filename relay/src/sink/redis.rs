//! Redis Streams. The topic is the key of the stream.
//!
//! The id of an entry is `<epoch>-<position>`. Redis takes ids in ascending order only, so a stream never contains an entry
//! twice or out of order. The entries of a batch are added in one transaction. A stream keeps its last id when its entries
//! are removed. An entry that the relay may have added before it was interrupted, and that is removed since with all before
//! it, counts as stored, unless an operator has reset the cursor to send it again.

use std::collections::HashMap;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::streams::{StreamInfoStreamReply, StreamRangeReply};
use ::redis::{AsyncCommands as _, AsyncConnectionConfig, Client, IntoConnectionInfo as _, RedisError};
use async_trait::async_trait;

use super::{Failure, Opened, Sent, Sink, without_credentials};
use crate::config::RedisConfig;
use crate::record::{Binding, ID, Record, SOURCE};

/// How long the server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Streams whose end is remembered. With more, it is asked for again.
const REMEMBERED: usize = 10_000;

/// The largest value that Redis stores.
const LIMIT: usize = 512 * 1024 * 1024;

/// Streams of a Redis server.
#[derive(Debug)]
pub(super) struct RedisSink {
    config: RedisConfig,
    session: Option<MultiplexedConnection>,
    /// The last id of each stream that was written to.
    ends: HashMap<String, Id>,
    /// Whether the relay continues where it was, and no operator has reset its cursor.
    resumes: bool,
}

/// The id of an entry, which is ordered by its two numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Id(u64, u64);

impl RedisSink {
    pub(super) fn new(config: RedisConfig) -> RedisSink {
        RedisSink { config, session: None, ends: HashMap::new(), resumes: false }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        // The error of a malformed URL does not show the URL.
        let mut info = self.config.url.as_str().into_connection_info().map_err(|error| shown(&error))?;
        let mut settings = info.redis_settings().clone();
        if let Some(user) = &self.config.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.config.password {
            settings = settings.set_password(password.read().map_err(|error| error.to_string())?);
        }
        info = info.set_redis_settings(settings);
        let client = Client::open(info).map_err(|error| shown(&error))?;
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| shown(&error))
    }

    /// Returns the last id of a stream. The error says why the relay cannot write to it.
    async fn end(session: &mut MultiplexedConnection, record: &Record) -> Result<Id, Failure> {
        let stream = &record.topic;
        let later = |error: RedisError| Failure::Retry(shown(&error));
        let kind: String = ::redis::cmd("TYPE").arg(stream).query_async(session).await.map_err(later)?;
        match kind.as_str() {
            "none" => return Ok(Id::default()),
            "stream" => {}
            _ => return Err(Failure::Refused(format!("\"{stream}\" is not a stream"))),
        }
        let info: StreamInfoStreamReply = session.xinfo_stream(stream).await.map_err(later)?;
        let ours = record.header(SOURCE).map(str::to_owned);
        if info.length > 0 && info.last_entry.get::<String>(SOURCE) != ours {
            return Err(Failure::Retry(format!("the stream \"{stream}\" has entries of another source")));
        }
        let id = Id::parse(&info.last_generated_id).filter(|id| i32::try_from(id.0).is_ok());
        id.ok_or_else(|| Failure::Retry(format!("the stream \"{stream}\" has ids that are not of a relay")))
    }

    /// Returns whether the stream has this record already. The error says that it never can.
    async fn has(&self, session: &mut MultiplexedConnection, record: &Record, end: Id) -> Result<bool, Failure> {
        let id = Id::of(record);
        if id > end {
            return Ok(false);
        }
        let found: StreamRangeReply = session
            .xrevrange_count(&record.topic, id.to_string(), "-", 1)
            .await
            .map_err(|error| Failure::Retry(shown(&error)))?;
        match found.ids.first() {
            Some(entry)
                if Id::parse(&entry.id) == Some(id)
                    && entry.get::<String>(ID).as_deref() == Some(record.webhook_id.as_str()) =>
            {
                Ok(true)
            }
            None if self.resumes => Ok(true),
            _ => Err(Failure::Refused(format!(
                "the stream \"{}\" has later entries already, and Redis adds entries at the end only",
                record.topic
            ))),
        }
    }
}

impl Id {
    fn of(record: &Record) -> Id {
        Id(u64::try_from(record.epoch).unwrap_or_default(), u64::try_from(record.position).unwrap_or_default())
    }

    fn parse(text: &str) -> Option<Id> {
        let (first, second) = text.split_once('-')?;
        Some(Id(first.parse().ok()?, second.parse().ok()?))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

#[async_trait]
impl Sink for RedisSink {
    fn binding(&self) -> Binding {
        Binding { prefix: "ce-", ascii: false, key_header: true }
    }

    fn describe(&self) -> String {
        format!("redis {}", without_credentials(&self.config.url))
    }

    async fn open(&mut self) -> Result<Opened, String> {
        self.session = None;
        self.ends.clear();
        let mut session = self.connect().await?;
        let _: String = ::redis::cmd("PING").query_async(&mut session).await.map_err(|error| shown(&error))?;
        self.session = Some(session);
        Ok(Opened { limit: LIMIT, last: None })
    }

    fn resume(&mut self, resumes: bool) {
        self.resumes = resumes;
    }

    fn refuses(&self, record: &Record) -> Option<String> {
        (record.size() > LIMIT).then(|| format!("the message has {} bytes, and Redis takes {LIMIT}", record.size()))
    }

    async fn send(&mut self, records: &[Record]) -> Sent {
        // A session has one connection, however often it is cloned.
        let Some(mut session) = self.session.clone() else { return Sent::retry(0, "not connected") };
        if self.ends.len() > REMEMBERED {
            self.ends.clear();
        }
        let mut batch = ::redis::pipe();
        batch.atomic();
        let mut added = 0;
        let mut failure = None;
        for record in records {
            let end = match self.ends.get(&record.topic) {
                Some(end) => *end,
                None => match RedisSink::end(&mut session, record).await {
                    Ok(end) => end,
                    Err(why) => {
                        failure = Some(why);
                        break;
                    }
                },
            };
            match self.has(&mut session, record, end).await {
                Ok(true) => {
                    self.ends.insert(record.topic.clone(), end);
                }
                Ok(false) => {
                    self.ends.insert(record.topic.clone(), Id::of(record));
                    let command = batch.cmd("XADD").arg(&record.topic);
                    if let Some(most) = self.config.max_length {
                        command.arg("MAXLEN").arg("~").arg(most);
                    }
                    command.arg(Id::of(record).to_string());
                    for (name, value) in &record.headers {
                        command.arg(name).arg(value);
                    }
                    command.arg("body").arg(&record.body[..]);
                }
                Err(why) => {
                    failure = Some(why);
                    break;
                }
            }
            added += 1;
        }
        if !batch.is_empty() {
            let done: Result<Vec<String>, RedisError> = batch.query_async(&mut session).await;
            if let Err(error) = done {
                // After the next connection, the streams say which entries were added.
                return Sent::retry(0, shown(&error));
            }
        }
        Sent { stored: added, failure }
    }
}

/// Returns the text of an error. The driver's texts contain no credentials.
fn shown(error: &RedisError) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_compared_as_numbers() {
        let id = |text: &str| Id::parse(text).unwrap();
        assert_eq!(id("3-42"), Id(3, 42));
        assert!(id("1-9") < id("1-10") && id("9-99") < id("10-1") && id("1700000000000-0") > id("10-1"));
        assert_eq!((Id::parse("3"), Id::parse("-1-2"), id("3-42").to_string().as_str()), (None, None, "3-42"));
    }
}
