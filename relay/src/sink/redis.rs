//! Redis Streams. The topic is the key of the stream.
//!
//! The id of an entry is `<epoch>-<position>`. Redis takes ids in ascending order only, so a stream never contains an entry
//! twice or out of order. The entries of a batch are added in one transaction.

use std::collections::HashMap;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::streams::StreamRangeReply;
use ::redis::{AsyncCommands as _, AsyncConnectionConfig, Client, IntoConnectionInfo as _, RedisError};
use async_trait::async_trait;

use super::{Failure, Opened, Sent, Sink, without_credentials};
use crate::config::RedisConfig;
use crate::record::{Binding, ID, Record, SOURCE};
use crate::source::Place;

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
    ends: HashMap<String, Place>,
}

impl RedisSink {
    pub(super) fn new(config: RedisConfig) -> RedisSink {
        RedisSink { config, session: None, ends: HashMap::new() }
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
    async fn end(session: &mut MultiplexedConnection, record: &Record) -> Result<Place, Failure> {
        let last: StreamRangeReply = match session.xrevrange_count(&record.topic, "+", "-", 1).await {
            Ok(last) => last,
            Err(error) if error.code() == Some("WRONGTYPE") => {
                return Err(Failure::Refused(format!("\"{}\" is not a stream", record.topic)));
            }
            Err(error) => return Err(Failure::Retry(shown(&error))),
        };
        let Some(entry) = last.ids.first() else { return Ok(Place::default()) };
        let ours = record.headers.iter().find(|(name, _)| name == SOURCE).map(|(_, value)| value.clone());
        if entry.get::<String>(SOURCE) != ours {
            return Err(Failure::Retry(format!("the stream \"{}\" has entries of another source", record.topic)));
        }
        place(&entry.id)
            .ok_or_else(|| Failure::Retry(format!("the stream \"{}\" has ids that are not of a relay", record.topic)))
    }

    /// Returns whether the stream has this record already. The error says that it never can.
    async fn has(session: &mut MultiplexedConnection, record: &Record, end: Place) -> Result<bool, Failure> {
        let this = Place { epoch: record.epoch, position: record.position };
        if this > end {
            return Ok(false);
        }
        let id = id(record);
        let found: StreamRangeReply =
            session.xrange_count(&record.topic, &id, &id, 1).await.map_err(|error| Failure::Retry(shown(&error)))?;
        match found.ids.first() {
            Some(entry) if entry.get::<String>(ID).as_deref() == Some(record.webhook_id.as_str()) => Ok(true),
            _ => Err(Failure::Refused(format!(
                "the stream \"{}\" has later entries already, and Redis adds entries at the end only",
                record.topic
            ))),
        }
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

    fn refuses(&self, record: &Record) -> Option<String> {
        (record.size() > LIMIT).then(|| format!("the message has {} bytes, and Redis takes {LIMIT}", record.size()))
    }

    async fn send(&mut self, records: &[Record]) -> Sent {
        let Some(session) = &mut self.session else { return Sent::retry(0, "not connected") };
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
                None => match RedisSink::end(session, record).await {
                    Ok(end) => end,
                    Err(why) => {
                        failure = Some(why);
                        break;
                    }
                },
            };
            match RedisSink::has(session, record, end).await {
                Ok(true) => {
                    self.ends.insert(record.topic.clone(), end);
                }
                Ok(false) => {
                    self.ends.insert(record.topic.clone(), Place { epoch: record.epoch, position: record.position });
                    let command = batch.cmd("XADD").arg(&record.topic);
                    if let Some(most) = self.config.max_length {
                        command.arg("MAXLEN").arg("~").arg(most);
                    }
                    command.arg(id(record));
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
            let done: Result<Vec<String>, RedisError> = batch.query_async(session).await;
            if let Err(error) = done {
                // After the next connection, the streams say which entries were added.
                return Sent::retry(0, shown(&error));
            }
        }
        Sent { stored: added, failure }
    }
}

fn id(record: &Record) -> String {
    format!("{}-{}", record.epoch, record.position)
}

fn place(id: &str) -> Option<Place> {
    let (epoch, position) = id.split_once('-')?;
    Some(Place { epoch: epoch.parse().ok()?, position: position.parse().ok()? })
}

/// Returns the text of an error. The driver's texts contain no credentials.
fn shown(error: &RedisError) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_epoch_and_position() {
        assert_eq!(place("3-42"), Some(Place { epoch: 3, position: 42 }));
        assert_eq!(place("1700000000000-0"), None);
        assert_eq!(place("3"), None);
    }
}
