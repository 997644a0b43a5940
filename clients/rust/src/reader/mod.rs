//! Readers of the feed. A reader returns every message in order, from a durable cursor.
//!
//! A reader delivers at least once. It continues from its cursor, and the cursor moves only when [`Reader::advance`] is
//! called. Effects in the same database happen effectively once if the cursor is advanced in the transaction of the
//! effect: [`ReaderBuilder::apply`] does this, and [`Reader::advance_in`] does it step by step. Invariants:
//!
//! * The cursor never passes a message that was read and not confirmed. An advance beyond such a message is refused.
//! * An advance in a transaction is a compare-and-set. If two readers race, one of them is refused and rolls back.
//! * Positions that no topic and no filter of the reader matches are confirmed when all messages before them are. The cursor
//!   of a reader of rare topics therefore does not fall behind.

mod apply;
mod fetch;
mod health;
mod stream;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

#[cfg(feature = "events")]
pub(crate) use self::apply::{Step, Stopped, advance as advance_first, finish, later};
use self::fetch::{Ahead, read};
pub use self::health::ReaderHealth;
pub use self::stream::ReaderStream;
use crate::call::call;
use crate::connect::{Listening, Target};
use crate::driver::{Executor, Statement, text};
use crate::error::{Error, Kind, Result};
use crate::message::{Columns, Message, Param};
use crate::outbox::{Backoff, MAX_WAIT, passes};
use crate::page::Page;

/// The settings of a reader.
#[derive(Clone, Debug)]
pub struct ReaderBuilder {
    target: Target,
    consumer: Option<String>,
    subject: String,
    topics: Option<Vec<String>>,
    filter: Option<Value>,
    events: Option<OfEvents>,
    batch: i32,
    after: i64,
    poll: Duration,
    health: ReaderHealth,
}

/// The part of the events that a reader of events takes.
#[derive(Clone, Debug, Default)]
struct OfEvents {
    categories: Option<Vec<String>>,
    tenant: Option<String>,
    member: Option<(i32, i32)>,
}

impl ReaderBuilder {
    pub(crate) fn new(target: Target) -> ReaderBuilder {
        ReaderBuilder {
            target,
            consumer: None,
            subject: String::new(),
            topics: None,
            filter: None,
            events: None,
            batch: 100,
            after: 0,
            poll: Duration::from_millis(500),
            health: ReaderHealth::default(),
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

    /// Reads the events of streams instead of messages, from position 1 on for ever. The topic of an event is its type, its key is
    /// its stream, its aggregate type is its category, and its aggregate id is the rest of the stream's name.
    #[must_use]
    pub fn events(mut self) -> Self {
        self.events.get_or_insert_default();
        self
    }

    /// Reads only events of these categories. The server finds these by lists, without looking at the others.
    #[must_use]
    pub fn categories<T: Into<String>>(mut self, categories: impl IntoIterator<Item = T>) -> Self {
        let categories = categories.into_iter().map(Into::into).collect();
        self.events.get_or_insert_default().categories = Some(categories);
        self
    }

    /// Reads only events of a tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.events.get_or_insert_default().tenant = Some(tenant.into());
        self
    }

    /// Reads only the events of one member of a group of `members`, which are numbered from 0. All events of a stream go to the
    /// same member. Each member has a cursor of its own: a subject, or a consumer.
    #[must_use]
    pub fn member(mut self, member: i32, members: i32) -> Self {
        self.events.get_or_insert_default().member = Some((member, members));
        self
    }

    /// Sets the largest number of messages per read, from 1 to 10,000. The default is 100. A read ends with the message with
    /// which it has 8 MiB.
    #[must_use]
    pub fn batch(mut self, messages: i32) -> Self {
        self.batch = messages.clamp(1, 10_000);
        self
    }

    /// Sets the position after which a reader begins that has no cursor yet. The default is 0, which begins at the first
    /// stored message.
    #[must_use]
    pub fn after(mut self, position: i64) -> Self {
        self.after = position;
        self
    }

    /// Sets the interval of polls while there is nothing new. The default is 500 ms. If `pg_outbox.notify_readers` is on,
    /// the server also notifies the reader of new messages, unless a pooler does not pass notifications on.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll = interval.clamp(Duration::from_millis(1), MAX_WAIT);
        self
    }

    /// Returns how the reader fares that this builder creates, for a health port.
    pub fn health(&self) -> ReaderHealth {
        self.health.clone()
    }

    /// Returns the consumer, with the subject if there is one.
    pub(crate) fn cursor_name(&self) -> Option<String> {
        let consumer = self.consumer.clone()?;
        Some(if self.subject.is_empty() { consumer } else { format!("{consumer} {}", self.subject) })
    }

    /// Creates the reader. It connects at the first read.
    pub fn build(self) -> Reader {
        Reader {
            page: Page::new(self.batch),
            settings: self,
            client: None,
            wake: Arc::default(),
            listening: Listening::default(),
            started: false,
            position: 0,
            epoch: None,
            confirmed: 0,
            buffer: VecDeque::new(),
            reads_ahead: false,
            ahead: None,
            unconfirmed: VecDeque::new(),
            passed: None,
            confirmed_passed: None,
        }
    }
}

/// The shortest time between two advances over positions that match nothing, so that a busy feed does not make a reader of a
/// rare topic write its cursor at each poll.
const PASSED_INTERVAL: Duration = Duration::from_secs(1);

/// The largest number of messages that are read and not confirmed.
const MAX_UNCONFIRMED: usize = 1_000_000;

/// Reads the feed in order.
#[derive(Debug)]
pub struct Reader {
    settings: ReaderBuilder,
    page: Page,
    client: Option<Arc<Client>>,
    wake: Arc<Notify>,
    listening: Listening,
    started: bool,
    /// The position up to which messages were fetched.
    position: i64,
    epoch: Option<i32>,
    /// The position of the stored cursor. 0 if there is none, even if the reader begins elsewhere.
    confirmed: i64,
    buffer: VecDeque<(Message, Option<i32>)>,
    /// Whether the next page is read while the messages of this one are applied.
    reads_ahead: bool,
    /// The page behind the last one, while that one is applied.
    ahead: Option<Ahead>,
    /// The position and epoch of each message that was returned and not confirmed, in order.
    unconfirmed: VecDeque<(i64, Option<i32>)>,
    /// The position, with its epoch, up to which nothing else matches.
    passed: Option<(i64, Option<i32>)>,
    /// When positions that match nothing were confirmed.
    confirmed_passed: Option<Instant>,
}

impl Reader {
    /// Returns the next message. Waits until there is one, and reconnects after a lost connection.
    ///
    /// # Errors
    /// Errors that retrying does not solve: `invalid_cursor` if the position is no longer stored or the history has
    /// diverged, or a missing privilege. `unconfirmed_message` if a million messages were read and not confirmed.
    pub async fn next(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = self.poll_next_now().await? {
                return Ok(message);
            }
            self.wait().await;
        }
    }

    /// Returns the next messages: at least one, and at most the size of a batch. Waits until there is one.
    ///
    /// # Errors
    /// Those of [`Reader::next`].
    pub async fn next_batch(&mut self) -> Result<Vec<Message>> {
        loop {
            if self.buffer.is_empty() {
                self.fetch().await?;
            }
            if !self.buffer.is_empty() {
                return (0..self.buffer.len()).filter_map(|_| self.take().transpose()).collect();
            }
            self.wait().await;
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
        self.take()
    }

    fn take(&mut self) -> Result<Option<Message>> {
        if self.unconfirmed.len() >= MAX_UNCONFIRMED {
            return Err(unconfirmed(format!("{MAX_UNCONFIRMED} messages were read and none of them is confirmed")));
        }
        let Some((message, epoch)) = self.buffer.pop_front() else { return Ok(None) };
        self.epoch = epoch;
        if self.settings.consumer.is_some() {
            self.unconfirmed.push_back((message.position, epoch));
        }
        Ok(Some(message))
    }

    async fn wait(&self) {
        tokio::select! {
            () = self.wake.notified() => {}
            () = sleep(self.settings.poll) => {}
        }
    }

    /// Returns an endless stream of messages. It ends after the first error. The reader is in the stream:
    /// [`ReaderStream::reader`].
    pub fn into_stream(self) -> ReaderStream {
        ReaderStream::new(self)
    }

    /// Returns the position of the stored cursor, 0 if there is none.
    pub fn confirmed(&self) -> i64 {
        self.confirmed
    }

    /// Returns the epoch of the last message, or of the cursor.
    pub fn epoch(&self) -> Option<i32> {
        self.epoch
    }

    /// Returns the epoch of a message that was read and is not confirmed. For another position it is that of
    /// [`Reader::epoch`].
    pub fn epoch_at(&self, position: i64) -> Option<i32> {
        epoch_of(&self.unconfirmed, position).unwrap_or(self.epoch)
    }

    async fn fetch(&mut self) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let fetched = self.try_fetch().await;
            self.settings.health.set_connected(fetched.is_ok());
            match fetched {
                Ok(()) => return Ok(()),
                Err(error) if passes(&error) => {
                    self.client = None;
                    log_retry(&self.settings, &error);
                    sleep(backoff.next()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_fetch(&mut self) -> Result<()> {
        if self.client.as_ref().is_none_or(|client| client.is_closed()) {
            let target = &self.settings.target;
            let opened = target.open_listening("outbox_feed", None, self.wake.clone(), &mut self.listening).await?;
            self.client = Some(Arc::new(opened.client));
        }
        if !self.started {
            self.start().await?;
        }
        self.confirm_passed().await?;
        if !self.started {
            self.start().await?;
        }
        let Some(client) = &self.client else { return Ok(()) };
        let epoch = self.passed.map_or(self.epoch, |(_, epoch)| epoch);
        let ahead = match self.ahead.take() {
            Some(ahead) => ahead.found(self.position).await?,
            None => None,
        };
        let found = match ahead {
            Some(found) => found,
            None => read(&self.settings, client, self.page.clone(), self.position, epoch).await?,
        };
        // The next page is asked for before this one is decoded, unless there is probably nothing in it.
        if self.reads_ahead
            && found.is_full
            && let Some((last, epoch)) = found.last()?
        {
            let (settings, client, page) = (self.settings.clone(), client.clone(), found.page.clone());
            self.ahead = Some(Ahead::begin(settings, client, page, last, epoch));
        }
        self.page = found.page;
        let columns = found.rows.first().map(Columns::of).transpose()?;
        for (row, columns) in found.rows.iter().zip(columns.iter().cycle()) {
            let position = row.try_get("position")?;
            let epoch = row.try_get("epoch")?;
            // A row without a message only says after which position to continue.
            if row.try_get::<_, Option<i64>>("message_id")?.is_some() {
                let mut message = columns.message(row)?;
                if self.settings.events.is_some() {
                    message.place_in_stream();
                }
                self.buffer.push_back((message, epoch));
                self.passed = None;
            } else {
                self.passed = Some((position, epoch));
            }
            self.position = position;
        }
        if self.buffer.is_empty() {
            // Another instance may have applied the message that has failed here.
            self.settings.health.set_failing(None);
        }
        self.confirm_passed().await
    }

    /// Finds the position to begin at.
    async fn start(&mut self) -> Result<()> {
        let Some(client) = &self.client else { return Ok(()) };
        (self.position, self.confirmed, self.epoch) = (self.settings.after, 0, None);
        if let Some(consumer) = &self.settings.consumer {
            let args = json!({"consumer": consumer, "subject": self.settings.subject, "if_missing": 0});
            let rows = call(&**client, "cursor_get", args, &[]).await?;
            let cursor = rows.first().unwrap_or(&Value::Null);
            self.confirmed = cursor["position"].as_i64().unwrap_or(0);
            self.epoch = cursor["epoch"].as_i64().and_then(|epoch| i32::try_from(epoch).ok());
            // A cursor that does not exist has no time of update.
            if !cursor["updated_at"].is_null() {
                self.position = self.confirmed;
            }
        }
        self.started = true;
        Ok(())
    }

    /// Moves the cursor over positions that match nothing, if all messages before them are confirmed.
    async fn confirm_passed(&mut self) -> Result<()> {
        let (Some((position, epoch)), Some(client)) = (self.passed, &self.client) else { return Ok(()) };
        let is_soon = self.confirmed_passed.is_some_and(|last| last.elapsed() < PASSED_INTERVAL);
        if self.settings.consumer.is_none() || !self.unconfirmed.is_empty() || !self.buffer.is_empty() || is_soon {
            return Ok(());
        }
        self.confirmed_passed = Some(Instant::now());
        let statement = advance(&self.settings, (position, None), Some(self.confirmed), epoch)?;
        match client.column(statement).await {
            Ok(_) => {
                self.confirmed = position;
                self.epoch = epoch;
                self.passed = None;
                Ok(())
            }
            Err(error) if error.name() == "connection_lost" => Err(error),
            // Another instance moved the cursor, or a rebuild has reset it: the next read begins where it is.
            Err(error) if error.kind() == Kind::Conflict => {
                tracing::debug!(error = error.report(), "the cursor was moved, and the reader begins at it");
                self.rewind();
                Ok(())
            }
            // This session may only read. Nothing is lost: the next messages say so.
            Err(error) => {
                tracing::debug!(error = error.report(), "positions without a match were not confirmed");
                Ok(())
            }
        }
    }

    /// Moves the cursor to a message that has been handled, or to the last message of a batch (a slice) of which all have
    /// been handled.
    ///
    /// # Errors
    /// `unconfirmed_message` if a message before was read and is neither confirmed nor in the batch;
    /// `non_monotonic_cursor` if another instance was first; 22023 without a consumer.
    pub async fn advance(&mut self, messages: &(impl AsRef<[Message]> + ?Sized)) -> Result<()> {
        let Some(batch) = Batch::of(messages.as_ref()) else { return Ok(()) };
        self.advance_batch(batch).await
    }

    /// Moves the cursor as [`Reader::advance`] does, by the positions of the messages and the webhook id of the last one.
    ///
    /// # Errors
    /// Those of [`Reader::advance`].
    pub async fn advance_to(&mut self, positions: &[i64], webhook_id: &str) -> Result<()> {
        self.advance_batch(Batch { positions: positions.to_vec(), webhook_id: webhook_id.to_owned() }).await
    }

    async fn advance_batch(&mut self, batch: Batch) -> Result<()> {
        self.check_order(&batch.positions)?;
        let mut backoff = Backoff::default();
        loop {
            let tried = async {
                let client = match &self.client {
                    Some(client) if !client.is_closed() => client,
                    _ => self.client.insert(Arc::new(self.settings.target.connect().await?)),
                };
                // This is not a compare-and-set, so an advance whose answer was lost may be repeated.
                let epoch = epoch_of(&self.unconfirmed, batch.last()).unwrap_or(self.epoch);
                let to = (batch.last(), Some(batch.webhook_id.as_str()));
                client.column(advance(&self.settings, to, None, epoch)?).await
            };
            match tried.await {
                Ok(_) => break,
                Err(error) if passes(&error) => {
                    self.client = None;
                    log_retry(&self.settings, &error);
                    sleep(backoff.next()).await;
                }
                Err(error) => return Err(error),
            }
        }
        self.committed_to(batch.last());
        Ok(())
    }

    /// Moves the cursor in the caller's transaction, as a compare-and-set, to a message or to the last message of a batch
    /// (a slice) of which all effects are in this transaction. Call [`Reader::committed`] with the same messages after the
    /// commit.
    ///
    /// # Errors
    /// `unconfirmed_message` if a message before was read and its effect is not confirmed: call [`Reader::rewind`] to get it
    /// again. `non_monotonic_cursor` if another instance was first. The caller has to roll back.
    pub async fn advance_in(
        &self,
        on: impl Executor,
        messages: &(impl AsRef<[Message]> + ?Sized + Sync),
    ) -> Result<()> {
        match self.advance_statement(messages)? {
            Some(statement) => on.column(statement).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Returns the statement of [`Reader::advance_in`]. `None` if there are no messages.
    fn advance_statement(&self, messages: &(impl AsRef<[Message]> + ?Sized)) -> Result<Option<Statement>> {
        let Some(batch) = Batch::of(messages.as_ref()) else { return Ok(None) };
        self.check_order(&batch.positions)?;
        let epoch = epoch_of(&self.unconfirmed, batch.last()).unwrap_or(self.epoch);
        advance(&self.settings, (batch.last(), Some(&batch.webhook_id)), Some(self.confirmed), epoch).map(Some)
    }

    /// Tells the reader that a transaction has committed that advanced the cursor to this message or batch.
    pub fn committed(&mut self, messages: &(impl AsRef<[Message]> + ?Sized)) {
        if let Some(batch) = Batch::of(messages.as_ref()) {
            self.committed_to(batch.last());
        }
    }

    /// Does the same as [`Reader::committed`], by the message's position.
    pub fn committed_to(&mut self, position: i64) {
        self.confirmed = self.confirmed.max(position);
        while self.unconfirmed.front().is_some_and(|(first, _)| *first <= position) {
            self.unconfirmed.pop_front();
        }
    }

    /// Checks that an advance to the last of these positions passes no message that was read and is not confirmed, except
    /// those at the positions themselves. [`Reader::advance_in`] does this; it is public for drivers of other languages.
    ///
    /// # Errors
    /// `unconfirmed_message`, kind conflict.
    pub fn check_order(&self, positions: &[i64]) -> Result<()> {
        let Some(last) = positions.iter().max() else { return Ok(()) };
        let mut sorted = positions.to_vec();
        sorted.sort_unstable();
        let read = self.unconfirmed.iter().map(|(position, _)| *position);
        let fetched = self.buffer.iter().map(|(message, _)| message.position);
        let passed = read.chain(fetched).take_while(|position| position < last);
        match passed.into_iter().find(|position| sorted.binary_search(position).is_err()) {
            None => Ok(()),
            Some(position) => Err(unconfirmed(format!(
                "the cursor cannot advance to {last}, because the message at {position} is not confirmed"
            ))),
        }
    }

    /// Goes back to the stored cursor: what was read and is not confirmed is returned again.
    pub fn rewind(&mut self) {
        self.buffer.clear();
        self.ahead = None;
        self.unconfirmed.clear();
        self.passed = None;
        self.started = false;
    }

    /// Counts a message as confirmed that had no effect and shall have none. The next advance passes over it.
    pub fn skip(&mut self, message: &Message) {
        self.skip_at(message.position);
    }

    /// Does the same as [`Reader::skip`], by the message's position.
    pub fn skip_at(&mut self, position: i64) {
        self.unconfirmed.retain(|(known, _)| *known != position);
    }

    /// Records why the message at `position` could not be handled, for `cursor_list()`, `health()` and the command line. The
    /// cursor does not move; a new one is created where this reader begins. Returns whether the error is recorded. It is not if
    /// the cursor has passed `position`, because then another instance has handled the message.
    ///
    /// # Errors
    /// 22023 without a consumer.
    pub async fn record_error(&mut self, error: &str, position: Option<i64>) -> Result<bool> {
        let client = match &self.client {
            Some(client) if !client.is_closed() => client,
            _ => self.client.insert(Arc::new(self.settings.target.connect().await?)),
        };
        let consumer = consumer(&self.settings)?;
        let after = self.settings.after.max(0);
        let args = json!({
            "consumer": consumer, "subject": self.settings.subject, "error": error, "error_position": position,
            "after_position": after,
        });
        let rows = call(&**client, "cursor_record_error", args, &[]).await?;
        let cursor = rows.first().and_then(|row| row["position"].as_i64());
        if self.confirmed == 0 && cursor == Some(after) {
            // This call, or another instance before its first advance, has created the cursor.
            self.confirmed = after;
        }
        Ok(position.zip(cursor).is_none_or(|(position, cursor)| position > cursor))
    }
}

/// The positions of messages that are confirmed together, and the webhook id of the last one.
struct Batch {
    positions: Vec<i64>,
    webhook_id: String,
}

impl Batch {
    fn of(messages: &[Message]) -> Option<Batch> {
        let last = messages.iter().max_by_key(|message| message.position)?;
        let positions = messages.iter().map(|message| message.position).collect();
        Some(Batch { positions, webhook_id: last.webhook_id.clone() })
    }

    fn last(&self) -> i64 {
        self.positions.iter().copied().max().unwrap_or_default()
    }
}

fn unconfirmed(message: String) -> Error {
    Error::new("OB005", message).named("unconfirmed_message").hint(
        "Confirm the messages in order, or together as a batch. rewind() returns what is not confirmed again, and skip() \
         passes over a message.",
    )
}

fn epoch_of(unconfirmed: &VecDeque<(i64, Option<i32>)>, position: i64) -> Option<Option<i32>> {
    unconfirmed.iter().find(|(known, _)| *known == position).map(|(_, epoch)| *epoch)
}

fn log_retry(settings: &ReaderBuilder, error: &Error) {
    let consumer = settings.consumer.as_deref().unwrap_or_default();
    tracing::warn!(consumer, error = error.report(), "the reader has no connection and tries again");
}

fn consumer(settings: &ReaderBuilder) -> Result<&str> {
    settings
        .consumer
        .as_deref()
        .ok_or_else(|| Error::invalid("the reader has no consumer").hint("Give it one: it names the cursor."))
}

/// Returns the statement that moves the cursor.
fn advance(
    settings: &ReaderBuilder,
    (position, webhook_id): (i64, Option<&str>),
    expected: Option<i64>,
    epoch: Option<i32>,
) -> Result<Statement> {
    let sql =
        "select \"position\"::text as r from outbox.cursor_advance($1, $2::int8, subject => $3, delivery_id => $4,
        expected_position => $5::int8, epoch => $6::int4)";
    let text_or_null = |value: Option<String>| value.map(Param::Text);
    Ok(Statement::new(
        sql,
        [
            text(consumer(settings)?),
            text(position),
            text(&settings.subject),
            text_or_null(webhook_id.map(str::to_owned)),
            text_or_null(expected.map(|position| position.to_string())),
            text_or_null(epoch.map(|epoch| epoch.to_string())),
        ],
    ))
}
