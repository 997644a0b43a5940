//! Readers of the feed. A reader returns every message in order, from a durable cursor.
//!
//! A reader delivers at least once. It continues from its cursor, and the cursor moves only when [`Reader::advance`] is
//! called. Effects in the same database happen effectively once if the cursor is advanced in the transaction of the
//! effect. [`Reader::advance_in`] is a compare-and-set, so if two readers race, one of them is refused and rolls back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, GenericClient};

use crate::call::{call, call_void};
use crate::connect::{Listening, Target};
use crate::error::{Error, Result};
use crate::message::Message;
use crate::outbox::{Backoff, passes};

/// The settings of a reader.
#[derive(Clone, Debug)]
pub struct ReaderBuilder {
    target: Target,
    consumer: Option<String>,
    subject: String,
    topics: Option<Vec<String>>,
    filter: Option<Value>,
    batch: i32,
    after: i64,
    poll: Duration,
}

impl ReaderBuilder {
    pub(crate) fn new(target: Target) -> ReaderBuilder {
        ReaderBuilder {
            target,
            consumer: None,
            subject: String::new(),
            topics: None,
            filter: None,
            batch: 100,
            after: 0,
            poll: Duration::from_millis(500),
        }
    }

    /// Sets the consumer whose cursor the reader uses. Without a consumer the position is not stored.
    #[must_use]
    pub fn consumer(mut self, consumer: impl Into<String>) -> Self {
        self.consumer = Some(consumer.into());
        self
    }

    /// Sets the subject of the cursor. One consumer may have cursors for several subjects.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// Reads only these topics (`*` matches one word, `#` any number of words).
    #[must_use]
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics = Some(topics.into_iter().map(Into::into).collect());
        self
    }

    /// Reads only messages that match this filter.
    #[must_use]
    pub fn filter(mut self, filter: Value) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Sets the number of messages per read, from 1 to 10,000. The default is 100.
    #[must_use]
    pub fn batch(mut self, messages: i32) -> Self {
        self.batch = messages.clamp(1, 10_000);
        self
    }

    /// Sets the position after which a reader without a cursor begins. The default is 0, which begins at the first stored
    /// message.
    #[must_use]
    pub fn after(mut self, position: i64) -> Self {
        self.after = position;
        self
    }

    /// Sets the interval of polls while there is nothing new. The default is 500 ms. If `pg_outbox.notify_readers` is on,
    /// the server also notifies the reader of new messages, unless a pooler does not pass notifications on.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll = interval.max(Duration::from_millis(1));
        self
    }

    /// Creates the reader. It connects at the first read.
    pub fn build(self) -> Reader {
        Reader {
            settings: self,
            client: None,
            wake: Arc::default(),
            listening: Listening::default(),
            started: false,
            position: 0,
            epoch: None,
            confirmed: 0,
            buffer: VecDeque::new(),
        }
    }
}

/// Reads the feed in order.
#[derive(Debug)]
pub struct Reader {
    settings: ReaderBuilder,
    client: Option<Client>,
    wake: Arc<Notify>,
    listening: Listening,
    started: bool,
    /// The position up to which messages were fetched.
    position: i64,
    epoch: Option<i32>,
    /// The position of the cursor.
    confirmed: i64,
    buffer: VecDeque<(Message, Option<i32>)>,
}

impl Reader {
    /// Returns the next message. Waits until there is one, and reconnects after a lost connection.
    ///
    /// # Errors
    /// Errors that retrying does not solve: `invalid_cursor` if the position is no longer stored or the history has
    /// diverged, or a missing privilege.
    pub async fn next(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.poll_next_now().await? {
                return Ok(message);
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep(self.settings.poll) => {}
            }
        }
    }

    /// Returns the next message if there is one now.
    ///
    /// # Errors
    /// Those of [`Reader::next`].
    pub async fn poll_next_now(&mut self) -> Result<Option<Message>> {
        if self.buffer.is_empty() {
            self.fetch().await?;
        }
        Ok(self.buffer.pop_front().map(|(message, epoch)| {
            self.epoch = epoch;
            message
        }))
    }

    /// Returns an endless stream of messages. It ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Message>> {
        futures_util::stream::unfold(Some(self), |state| async move {
            let mut reader = state?;
            match reader.next().await {
                Ok(message) => Some((Ok(message), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    /// Returns the position up to which the cursor has confirmed messages.
    pub fn confirmed(&self) -> i64 {
        self.confirmed
    }

    /// Returns the epoch of the last message, or of the cursor.
    pub fn epoch(&self) -> Option<i32> {
        self.epoch
    }

    async fn fetch(&mut self) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            match self.try_fetch().await {
                Ok(()) => return Ok(()),
                Err(error) if passes(&error) => {
                    self.client = None;
                    sleep(backoff.next()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_fetch(&mut self) -> Result<()> {
        let client = match &self.client {
            Some(client) if !client.is_closed() => client,
            _ => {
                let target = &self.settings.target;
                let opened = target.open_listening("outbox_feed", None, self.wake.clone(), &mut self.listening).await?;
                self.client.insert(opened.client)
            }
        };
        if !self.started {
            if let Some(consumer) = &self.settings.consumer {
                let args =
                    json!({"consumer": consumer, "subject": self.settings.subject, "if_missing": self.settings.after});
                let rows = call(client, "cursor_get", args, &[]).await?;
                let cursor = rows.first().unwrap_or(&Value::Null);
                self.position = cursor["position"].as_i64().unwrap_or(0);
                self.epoch = cursor["epoch"].as_i64().and_then(|epoch| i32::try_from(epoch).ok());
            } else {
                self.position = self.settings.after;
            }
            self.confirmed = self.position;
            self.started = true;
        }
        // The filter is sent as text. Null means no filter.
        let filter = self.settings.filter.as_ref().map(Value::to_string);
        let epoch = self.epoch;
        let params: [(&(dyn ToSql + Sync), Type); 5] = [
            (&self.position, Type::INT8),
            (&self.settings.batch, Type::INT4),
            (&self.settings.topics, Type::TEXT_ARRAY),
            (&filter, Type::TEXT),
            (&epoch, Type::INT4),
        ];
        let rows = client.query_typed("select r.* from outbox.read($1, $2, $3, $4::jsonb, $5) r", &params).await?;
        for row in rows {
            self.position = row.try_get("position")?;
            let epoch = row.try_get("epoch")?;
            // A row without a message only says after which position to continue.
            if row.try_get::<_, Option<i64>>("message_id")?.is_some() {
                self.buffer.push_back((Message::from_row(&row)?, epoch));
            }
        }
        Ok(())
    }

    /// Moves the cursor to a message that has been handled.
    ///
    /// # Errors
    /// `non_monotonic_cursor` if another instance was first; 22023 without a consumer.
    pub async fn advance(&mut self, message: &Message) -> Result<()> {
        self.advance_to(message.position, &message.webhook_id).await
    }

    /// Moves the cursor as [`Reader::advance`] does, by the message's position and webhook id.
    ///
    /// # Errors
    /// Those of [`Reader::advance`].
    pub async fn advance_to(&mut self, position: i64, webhook_id: &str) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let tried = async {
                let client = match &self.client {
                    Some(client) if !client.is_closed() => client,
                    _ => self.client.insert(self.settings.target.connect().await?),
                };
                // This is not a compare-and-set, so an advance whose answer was lost may be repeated.
                advance(client, &self.settings, (position, webhook_id), None, self.epoch).await
            };
            match tried.await {
                Ok(()) => break,
                Err(error) if passes(&error) => {
                    self.client = None;
                    sleep(backoff.next()).await;
                }
                Err(error) => return Err(error),
            }
        }
        self.confirmed = self.confirmed.max(position);
        Ok(())
    }

    /// Moves the cursor in the caller's transaction, as a compare-and-set. Call [`Reader::committed`] after the commit.
    ///
    /// # Errors
    /// `non_monotonic_cursor` if another instance was first. The caller has to roll back.
    pub async fn advance_in(&self, client: &impl GenericClient, message: &Message) -> Result<()> {
        advance(client, &self.settings, (message.position, &message.webhook_id), Some(self.confirmed), self.epoch).await
    }

    /// Tells the reader that a transaction has committed that advanced the cursor to this message.
    pub fn committed(&mut self, message: &Message) {
        self.committed_to(message.position);
    }

    /// Does the same as [`Reader::committed`], by the message's position.
    pub fn committed_to(&mut self, position: i64) {
        self.confirmed = self.confirmed.max(position);
    }

    /// Records why a message could not be handled. The cursor does not move.
    ///
    /// # Errors
    /// 22023 without a consumer.
    pub async fn record_error(&mut self, error: &str) -> Result<()> {
        let client = match &self.client {
            Some(client) if !client.is_closed() => client,
            _ => self.client.insert(self.settings.target.connect().await?),
        };
        let args = json!({"consumer": consumer(&self.settings)?, "subject": self.settings.subject, "error": error});
        call_void(client, "cursor_record_error", args).await
    }
}

fn consumer(settings: &ReaderBuilder) -> Result<&str> {
    settings
        .consumer
        .as_deref()
        .ok_or_else(|| Error::invalid("the reader has no consumer").hint("Give it one: it names the cursor."))
}

async fn advance(
    client: &impl GenericClient,
    settings: &ReaderBuilder,
    (position, webhook_id): (i64, &str),
    expected: Option<i64>,
    epoch: Option<i32>,
) -> Result<()> {
    // The function's row is not selected, because the driver would look up its type with named statements.
    let sql = "select 1 from outbox.cursor_advance($1, $2, subject => $3, delivery_id => $4, expected_position => $5,
        epoch => $6)";
    let params: [(&(dyn ToSql + Sync), Type); 6] = [
        (&consumer(settings)?, Type::TEXT),
        (&position, Type::INT8),
        (&settings.subject, Type::TEXT),
        (&webhook_id, Type::TEXT),
        (&expected, Type::INT8),
        (&epoch, Type::INT4),
    ];
    client.query_typed(sql, &params).await?;
    Ok(())
}
