//! Subscriptions: all events behind a position, and then those that are appended, without a gap.
//!
//! A subscription reads pages of the feed with [`read_events`](crate::Outbox::read_events), waits for notifications or polls, and
//! goes on after lost connections. It keeps no position on the server: [`ProjectionEngine`](super::ProjectionEngine) does.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use serde_json::json;
use tokio::time::sleep;

use super::event::RecordedEvent;
use super::store::EventStore;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::outbox::{Backoff, Outbox, passes};
use crate::reader::{Reader, ReaderBuilder};

/// The number of events that a subscription reads at once and buffers.
const BUFFER: i32 = 256;

/// Which events a subscription, a projection or a saga gets, and how they are read.
#[derive(Clone, Debug)]
pub struct Selection {
    types: Option<Vec<String>>,
    categories: Option<Vec<String>>,
    stream: Option<String>,
    tenant: Option<String>,
    member: Option<(i32, i32)>,
    after: i64,
    batch: Option<i32>,
    poll: Duration,
}

impl Default for Selection {
    fn default() -> Selection {
        Selection {
            types: None,
            categories: None,
            stream: None,
            tenant: None,
            member: None,
            after: 0,
            batch: None,
            poll: Duration::from_millis(500),
        }
    }
}

impl Selection {
    /// All events, from the first one on.
    pub fn all() -> Selection {
        Selection::default()
    }

    /// Only these types (`*` matches one word, `#` any number of words).
    #[must_use]
    pub fn types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Selection {
        self.types = Some(types.into_iter().map(Into::into).collect());
        self
    }

    /// Only these categories. The server finds their events by lists, without looking at the others.
    #[must_use]
    pub fn categories<T: Into<String>>(mut self, categories: impl IntoIterator<Item = T>) -> Selection {
        self.categories = Some(categories.into_iter().map(Into::into).collect());
        self
    }

    /// Only one stream.
    #[must_use]
    pub fn stream(mut self, stream: impl Into<String>) -> Selection {
        self.stream = Some(stream.into());
        self
    }

    /// Only one tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Selection {
        self.tenant = Some(tenant.into());
        self
    }

    /// Only the share of one member of a group, which are numbered from 0. All events of a stream are in the same share. Async
    /// projections and sagas refuse it, because their members would share one cursor.
    #[must_use]
    pub fn member(mut self, member: i32, members: i32) -> Selection {
        self.member = Some((member, members));
        self
    }

    /// Begins behind a position. The default is 0, which begins with the first event.
    #[must_use]
    pub fn after(mut self, position: i64) -> Selection {
        self.after = position;
        self
    }

    /// Sets the largest number of events per read, from 1 to 10,000. The default is 256, and 100 for projections.
    #[must_use]
    pub fn batch(mut self, events: i32) -> Selection {
        self.batch = Some(events);
        self
    }

    /// Sets the interval of polls while there is nothing new. The default is 500 ms.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Selection {
        self.poll = interval;
        self
    }

    pub(super) fn reader(&self, outbox: &Outbox, batch: i32) -> ReaderBuilder {
        let reader = outbox.reader().events().after(self.after).poll_interval(self.poll);
        let mut reader = reader.batch(self.batch.unwrap_or(batch));
        if let Some(types) = &self.types {
            reader = reader.topics(types.clone());
        }
        if let Some(categories) = &self.categories {
            reader = reader.categories(categories.clone());
        }
        if let Some(stream) = &self.stream {
            // Characters that have a meaning in a filter match any character. `takes` is exact.
            let category = stream.split_once('-').map_or(stream.as_str(), |(category, _)| category);
            reader = reader.categories([category]).filter(json!({"key": stream.replace(['*', '?'], "?")}));
        }
        if let Some(tenant) = &self.tenant {
            reader = reader.tenant(tenant.clone());
        }
        match self.member {
            Some((member, members)) => reader.member(member, members),
            None => reader,
        }
    }

    /// Returns the position behind which it begins.
    pub(super) fn begins_after(&self) -> i64 {
        self.after.max(0)
    }

    /// Refuses a selection that is the share of one member: all members would move one cursor.
    pub(super) fn check_whole(&self) -> Result<()> {
        match self.member {
            Some(_) => Err(Error::invalid("a projection or saga takes the events of all members").hint(
                "Several processes run the same projection without Selection::member, and each event is applied once.",
            )),
            None => Ok(()),
        }
    }

    pub(super) fn takes(&self, event: &RecordedEvent) -> bool {
        self.stream.as_ref().is_none_or(|stream| *stream == event.stream)
    }
}

/// An endless stream of events.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<RecordedEvent>> + Send>>;

/// Reads the events of a [`Selection`], for ever.
pub struct Subscription {
    store: EventStore,
    outbox: Outbox,
    selection: Selection,
    reader: Reader,
    /// Messages that are not decoded yet. A message leaves when its event is decoded, in the same step.
    fetched: VecDeque<Message>,
    decoded: VecDeque<RecordedEvent>,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("selection", &self.selection).finish_non_exhaustive()
    }
}

impl Subscription {
    /// Returns the next event. Waits until there is one, and reconnects after a lost connection. No event is lost when the future is
    /// dropped, for example by `select!` or a time-out, and none when one cannot be decoded: the next call begins with it.
    ///
    /// # Errors
    /// Errors that retrying does not solve: a missing privilege, a position behind the end of the feed, a malformed pattern, an
    /// event that cannot be decoded ([`Subscription::skip`] passes over it).
    pub async fn next(&mut self) -> Result<RecordedEvent> {
        loop {
            if let Some(event) = self.decoded.pop_front() {
                return Ok(event);
            }
            if self.fetched.is_empty() {
                self.fetched = self.reader.next_batch().await?.into();
            }
            let mut backoff = Backoff::default();
            loop {
                match self.decode_fetched().await {
                    Ok(()) => break,
                    Err(error) if passes(&error) => {
                        tracing::warn!(error = error.report(), "events cannot be decoded yet");
                        sleep(backoff.next()).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Passes over the event that the last call of [`Subscription::next`] could not decode. Returns false if there is none.
    pub fn skip(&mut self) -> bool {
        self.decoded.is_empty() && self.fetched.pop_front().is_some()
    }

    /// Decodes what was fetched: all at once, or only the first event if one of them cannot be decoded. A failure changes nothing.
    async fn decode_fetched(&mut self) -> Result<()> {
        for count in [self.fetched.len(), 1] {
            match self.decode(count).await {
                Ok(events) => {
                    self.fetched.drain(..count.min(self.fetched.len()));
                    self.decoded.extend(events);
                    break;
                }
                Err(error) if count <= 1 || passes(&error) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    async fn decode(&self, count: usize) -> Result<Vec<RecordedEvent>> {
        let messages = self.fetched.iter().take(count);
        let mut events = messages.map(RecordedEvent::from_message).collect::<Result<Vec<_>>>()?;
        events.retain(|event| self.selection.takes(event));
        self.store.decode_in(&self.outbox, &mut events).await?;
        Ok(events)
    }

    /// Returns the events as a stream, which ends after the first error.
    pub fn into_stream(self) -> EventStream {
        Box::pin(stream::unfold(Some(self), async |subscription| {
            let mut subscription = subscription?;
            match subscription.next().await {
                Ok(event) => Some((Ok(event), Some(subscription))),
                Err(error) => Some((Err(error), None)),
            }
        }))
    }
}

impl EventStore {
    /// Subscribes to a selection of events.
    ///
    /// ```no_run
    /// # async fn example(outbox: pg_outbox::Outbox) -> pg_outbox::Result<()> {
    /// use pg_outbox::events::{EventStore, Selection};
    /// let store = EventStore::new();
    /// let mut paid = store.subscribe(&outbox, Selection::all().types(["order.paid"]));
    /// loop {
    ///     let event = paid.next().await?;
    ///     println!("{} is paid", event.stream);
    /// }
    /// # }
    /// ```
    pub fn subscribe(&self, outbox: &Outbox, selection: Selection) -> Subscription {
        Subscription {
            store: self.clone(),
            outbox: outbox.clone(),
            reader: selection.reader(outbox, BUFFER).build(),
            selection,
            fetched: VecDeque::new(),
            decoded: VecDeque::new(),
        }
    }

    /// Subscribes to all events behind a position.
    pub fn subscribe_all(&self, outbox: &Outbox, after: i64) -> Subscription {
        self.subscribe(outbox, Selection::all().after(after))
    }

    /// Subscribes to the events of one stream behind a position of the feed.
    pub fn subscribe_stream(&self, outbox: &Outbox, stream: &str, after: i64) -> Subscription {
        self.subscribe(outbox, Selection::all().stream(stream).after(after))
    }

    /// Subscribes to the events of a category behind a position.
    pub fn subscribe_category(&self, outbox: &Outbox, category: &str, after: i64) -> Subscription {
        self.subscribe(outbox, Selection::all().categories([category]).after(after))
    }

    /// Decodes events with a session of the pool, if keys have to be asked for.
    pub(super) async fn decode_in(&self, outbox: &Outbox, events: &mut [RecordedEvent]) -> Result<()> {
        if self.asks_for_keys(events) {
            let session = outbox.session().await?;
            return self.decode_on(&**session, events).await;
        }
        self.decode_on(NoConnection, events).await
    }
}

/// A connection for calls that need none.
struct NoConnection;

impl crate::driver::sealed::Sealed for NoConnection {}

impl crate::driver::Executor for NoConnection {
    async fn run(&mut self, _: crate::driver::Statement) -> Result<Vec<Option<String>>> {
        Err(Error::connection("there is no connection"))
    }
}
