//! [`EventStore`]: appends events in the caller's transaction, and loads streams.
//!
//! An append is one call of SQL per stream, plus those of encryption and of inline projections. Loading reads pages of 200 events.
//! A loaded event is decrypted first, and then brought into its newest form.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::connection::Connection;
#[cfg(feature = "events-encryption")]
use super::encrypt::FieldEncryption;
use super::event::{NewEvent, RecordedEvent, Row};
use super::metadata::Metadata;
use super::registry::EventRegistry;
use super::serialize::Serializer;
use super::upcast::Upcasters;
use crate::driver::{Executor, Statement, text};
use crate::error::{Error, Result};

/// The number of events that are loaded at once.
const PAGE: usize = 200;

/// A value that becomes an event: a [`NewEvent`], or a reference to a variant of an enum of events.
pub trait IntoEvent {
    /// Returns the event.
    ///
    /// # Errors
    /// 22023 if the value is no event.
    fn into_event(self) -> Result<NewEvent>;
}

impl IntoEvent for NewEvent {
    fn into_event(self) -> Result<NewEvent> {
        Ok(self)
    }
}

impl<T: Serialize> IntoEvent for &T {
    fn into_event(self) -> Result<NewEvent> {
        NewEvent::of(self)
    }
}

/// The result of an append.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Appended {
    /// The stream.
    pub stream: String,
    /// The version of the first event.
    pub first_version: i64,
    /// The version of the last event, which is now that of the stream.
    pub last_version: i64,
    /// The ids of the messages that the events are.
    pub message_ids: Vec<i64>,
    /// Whether the same events were appended before, and nothing was written.
    pub repeated: bool,
}

/// The facts of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StreamInfo {
    /// The category.
    pub category: String,
    /// The last version.
    pub version: i64,
    /// The number of events that are stored.
    pub events: i64,
    /// When the first stored event was appended.
    pub created_at: Option<DateTime<Utc>>,
    /// When the last event was appended.
    pub updated_at: Option<DateTime<Utc>>,
    /// Since when it is closed.
    pub closed_at: Option<DateTime<Utc>>,
    /// The version before which it was truncated; 1 if it was not.
    pub truncated_before: i64,
}

/// A stored state of a stream.
#[derive(Clone, PartialEq, Deserialize)]
pub struct Snapshot {
    /// The version after which the stream had this state.
    pub version: i64,
    /// The state.
    pub state: Value,
}

impl fmt::Debug for Snapshot {
    /// Shows no state, because it may be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("version", &self.version).finish_non_exhaustive()
    }
}

type Inline = Arc<dyn for<'c> Fn(Connection<'c>, &'c [RecordedEvent]) -> BoxFuture<'c, Result<()>> + Send + Sync>;

#[derive(Clone)]
struct InlineProjection {
    name: String,
    types: Vec<String>,
    handler: Inline,
}

/// Appends and loads events. It holds no connection, and is cheap to clone.
#[derive(Clone)]
pub struct EventStore {
    registry: Arc<EventRegistry>,
    upcasters: Arc<Upcasters>,
    inline: Vec<InlineProjection>,
    /// The first one writes new events, unless JSON does.
    serializers: Vec<Arc<dyn Serializer>>,
    writes_json: bool,
    #[cfg(feature = "events-encryption")]
    encryption: Option<FieldEncryption>,
    plain_snapshots: bool,
}

impl fmt::Debug for EventStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStore").field("registry", &self.registry).field("upcasters", &self.upcasters).finish()
    }
}

impl Default for EventStore {
    fn default() -> EventStore {
        EventStore {
            registry: Arc::default(),
            upcasters: Arc::default(),
            inline: Vec::new(),
            serializers: Vec::new(),
            writes_json: true,
            #[cfg(feature = "events-encryption")]
            encryption: None,
            plain_snapshots: false,
        }
    }
}

impl EventStore {
    /// Creates a store that takes all event types, with data in JSON.
    pub fn new() -> EventStore {
        EventStore::default()
    }

    /// Stores the data of new events as bytes of this serializer, and reads such events. Filters on the payload do not match bytes.
    #[must_use]
    pub fn serializer(mut self, serializer: impl Serializer + 'static) -> EventStore {
        self.serializers.insert(0, Arc::new(serializer));
        self.writes_json = false;
        self
    }

    /// Reads events of this serializer, but does not write them.
    #[must_use]
    pub fn reads(mut self, serializer: impl Serializer + 'static) -> EventStore {
        self.serializers.push(Arc::new(serializer));
        self
    }

    /// Sets the registry.
    #[must_use]
    pub fn registry(mut self, registry: EventRegistry) -> EventStore {
        self.registry = Arc::new(registry);
        self
    }

    /// Sets the upcasters.
    #[must_use]
    pub fn upcasters(mut self, upcasters: Upcasters) -> EventStore {
        self.upcasters = Arc::new(upcasters);
        self
    }

    /// Encrypts fields of events when they are appended, and decrypts them when they are loaded.
    #[cfg(feature = "events-encryption")]
    #[must_use]
    pub fn encryption(mut self, encryption: FieldEncryption) -> EventStore {
        self.encryption = Some(encryption);
        self
    }

    /// Lets a store with encryption save snapshots, whose state is not encrypted.
    #[must_use]
    pub fn plain_snapshots(mut self) -> EventStore {
        self.plain_snapshots = true;
        self
    }

    /// Adds an inline projection. The handler runs in the transaction that appends, after each append of events of these types
    /// (exact names; none: all types). Its error is that of the append, and the transaction has to be rolled back. A connection
    /// that commits each statement by itself is refused.
    ///
    /// ```
    /// use pg_outbox::events::EventStore;
    /// let store = EventStore::new().inline("totals", &["order.placed"], |mut connection, events| {
    ///     Box::pin(async move {
    ///         for event in events {
    ///             let total = event.data["total"].to_string();
    ///             connection.execute("update totals set sum = sum + $1::int8", &[Some(&total)]).await?;
    ///         }
    ///         Ok(())
    ///     })
    /// });
    /// ```
    #[must_use]
    pub fn inline<F>(mut self, name: &str, types: &[&str], handler: F) -> EventStore
    where
        F: for<'c> Fn(Connection<'c>, &'c [RecordedEvent]) -> BoxFuture<'c, Result<()>> + Send + Sync + 'static,
    {
        let types = types.iter().map(|name| (*name).to_owned()).collect();
        self.inline.push(InlineProjection { name: name.to_owned(), types, handler: Arc::new(handler) });
        self
    }

    /// Returns the registry.
    pub fn types(&self) -> &EventRegistry {
        &self.registry
    }

    /// Appends events to a stream, all or none, in the caller's transaction. `expected_version` is [`ANY`](super::ANY),
    /// [`NO_STREAM`](super::NO_STREAM), [`STREAM_EXISTS`](super::STREAM_EXISTS), or the last version of the stream. The events get
    /// the metadata of the current task. Without events, only the expected version is checked.
    ///
    /// # Errors
    /// [`Fault::Concurrency`](super::Fault) (OB013): the stream is not at the expected version. OB014: it is closed. 22023 for
    /// malformed names, types that the registry refuses, and a connection without a transaction if there are inline projections.
    /// The errors of encryption and of inline projections.
    pub async fn append<I>(&self, on: impl Executor, stream: &str, events: I, expected_version: i64) -> Result<Appended>
    where
        I: IntoIterator<Item: IntoEvent>,
    {
        self.append_with(on, stream, events, expected_version, Metadata::default()).await
    }

    /// Appends events as [`EventStore::append`] does, with metadata that all of them get.
    ///
    /// # Errors
    /// Those of [`EventStore::append`].
    pub fn append_with<I>(
        &self,
        mut on: impl Executor,
        stream: &str,
        events: I,
        expected_version: i64,
        metadata: Metadata,
    ) -> impl Future<Output = Result<Appended>> + Send
    where
        I: IntoIterator<Item: IntoEvent>,
    {
        // The iterator ends here, so that the future is `Send` whatever the iterator is.
        let events: Result<Vec<NewEvent>> = events.into_iter().map(IntoEvent::into_event).collect();
        async move {
            let metadata = metadata.over(&Metadata::current());
            self.append_events(Connection::new(&mut on), stream, events?, expected_version, &metadata).await
        }
    }

    async fn append_events(
        &self,
        mut on: Connection<'_>,
        stream: &str,
        events: Vec<NewEvent>,
        expected_version: i64,
        below: &Metadata,
    ) -> Result<Appended> {
        if events.is_empty() {
            let last_version = self.stream_version(&mut on, stream).await?;
            check_version(stream, expected_version, last_version)?;
            let (stream, message_ids) = (stream.to_owned(), Vec::new());
            return Ok(Appended { stream, first_version: last_version, last_version, message_ids, repeated: false });
        }
        if !self.inline.is_empty() {
            check_transaction(&mut on, "an append with inline projections").await?;
        }
        let mut tenant = None;
        let writer = if self.writes_json { None } else { self.serializers.first() };
        let (mut rows, mut ids, mut projected) = (Vec::new(), Vec::new(), Vec::new());
        for event in events {
            self.registry.check(&event.event_type)?;
            let (mut metadata, own) = event.metadata.over(below).into_parts();
            if own != tenant && !rows.is_empty() {
                return Err(Error::invalid("the events of one append have different tenants"));
            }
            tenant = own;
            self.upcasters.stamp(&event.event_type, &mut metadata);
            let event_id = event.event_id.map_or_else(super::source::uuid, Ok)?;
            if !self.inline.is_empty() {
                projected.push((
                    event.event_type.clone(),
                    event.data.clone(),
                    metadata.clone(),
                    Some(event_id.clone()),
                ));
            }
            let mut data = event.data;
            #[cfg(feature = "events-encryption")]
            if let Some(encryption) = &self.encryption {
                encryption
                    .encrypt(&mut on, stream, &event.event_type, tenant.as_deref(), &mut data, &mut metadata)
                    .await?;
            }
            if let Some(writer) = &writer {
                data = STANDARD.encode(writer.serialize(&event.event_type, &data)?).into();
            }
            rows.push(json!({"type": event.event_type, "data": data, "metadata": metadata}));
            ids.push(event_id);
        }
        let (function, data, content_type) = match &writer {
            None => ("append_many", "j -> 'data'", None),
            Some(writer) => ("append_bytes", "decode(j ->> 'data', 'base64')", text(writer.content_type())),
        };
        let content = if content_type.is_some() { ", content_type => $6" } else { "" };
        let sql = format!(
            "select row_to_json(outbox.{function}($1,
                array(select j ->> 'type' from jsonb_array_elements($2::jsonb) with ordinality e(j, n) order by n),
                array(select {data} from jsonb_array_elements($2::jsonb) with ordinality e(j, n) order by n),
                expected_version => $3::int8,
                event_ids => array(select j::uuid from jsonb_array_elements_text($4::jsonb) with ordinality e(j, n) order by n),
                metadata => array(select j -> 'metadata' from jsonb_array_elements($2::jsonb) with ordinality e(j, n) order by n),
                tenant => $5{content}))::text as r"
        );
        let mut params = vec![
            text(stream),
            text(Value::Array(rows)),
            text(expected_version),
            text(json!(ids)),
            tenant.as_deref().and_then(text),
        ];
        params.extend(content_type.map(Some));
        let appended: Appended = one(on.run(Statement::new(sql, params)).await?)?;
        if !appended.repeated && !projected.is_empty() {
            let now = super::source::now();
            let events = projected.into_iter().zip(appended.first_version..).zip(&appended.message_ids);
            let events: Vec<RecordedEvent> = events
                .map(|(((event_type, data, metadata, event_id), version), message_id)| RecordedEvent {
                    stream: stream.to_owned(),
                    version,
                    event_type,
                    data,
                    body: None,
                    content_type: None,
                    metadata,
                    event_id,
                    position: None,
                    message_id: *message_id,
                    tenant: tenant.clone(),
                    occurred_at: None,
                    recorded_at: now,
                    redacted: false,
                })
                .collect();
            self.project_inline(&mut on, &events).await?;
        }
        Ok(appended)
    }

    async fn project_inline(&self, on: &mut Connection<'_>, events: &[RecordedEvent]) -> Result<()> {
        for projection in &self.inline {
            let wanted =
                |event: &&RecordedEvent| projection.types.is_empty() || projection.types.contains(&event.event_type);
            let chosen: Vec<RecordedEvent> = events.iter().filter(wanted).cloned().collect();
            if !chosen.is_empty() {
                tracing::debug!(projection = projection.name, events = chosen.len(), "an inline projection runs");
                (projection.handler)(Connection::new(on), &chosen).await?;
            }
        }
        Ok(())
    }

    /// Returns the events of a stream from a version on (inclusive; 1 is the first), decrypted and in their newest form. A stream
    /// that does not exist has none.
    ///
    /// # Errors
    /// 22023 for a malformed name. The errors of upcasters, of encryption, and of a strict registry.
    pub async fn load(&self, mut on: impl Executor, stream: &str, from_version: i64) -> Result<Vec<RecordedEvent>> {
        let mut on = Connection::new(&mut on);
        let mut events = self.load_pages(&mut on, stream, from_version).await?;
        self.decode(&mut on, &mut events).await?;
        Ok(events)
    }

    /// Returns the events of a stream as they are stored: encrypted, and in the form that they were appended in.
    ///
    /// # Errors
    /// 22023 for a malformed name.
    pub async fn load_raw(&self, mut on: impl Executor, stream: &str, from_version: i64) -> Result<Vec<RecordedEvent>> {
        self.load_pages(&mut Connection::new(&mut on), stream, from_version).await
    }

    async fn load_pages(&self, on: &mut Connection<'_>, stream: &str, from_version: i64) -> Result<Vec<RecordedEvent>> {
        let sql = "select (to_jsonb(e) || jsonb_build_object('body', encode(e.body, 'base64'),
                'is_erased', e.data is null and e.body is null))::text as r
            from outbox.load($1, from_version => $2::int8, max_events => $3::int4) e";
        let (mut events, mut from) = (Vec::new(), from_version.max(1));
        loop {
            let page = on.run(Statement::new(sql, [text(stream), text(from), text(PAGE)])).await?;
            let read = page.len();
            for row in page.iter().flatten() {
                events.push(RecordedEvent::from(serde_json::from_str::<Row>(row)?));
            }
            match events.last() {
                Some(last) if read == PAGE => from = last.version.saturating_add(1),
                _ => return Ok(events),
            }
        }
    }

    /// Decrypts events and brings them into their newest form. [`EventStore::load`], subscriptions and projections have done so.
    ///
    /// # Errors
    /// Those of [`EventStore::load`].
    pub async fn decode_on(&self, mut on: impl Executor, events: &mut [RecordedEvent]) -> Result<()> {
        self.decode(&mut Connection::new(&mut on), events).await
    }

    #[allow(clippy::unused_async, reason = "encryption asks the server for keys")]
    pub(super) async fn decode(&self, on: &mut Connection<'_>, events: &mut [RecordedEvent]) -> Result<()> {
        for event in &mut *events {
            if let (Some(body), Some(content_type)) = (&event.body, &event.content_type)
                && let Some(serializer) = self.serializers.iter().find(|known| known.content_type() == content_type)
            {
                event.data = serializer.deserialize(&event.event_type, body)?;
            }
        }
        #[cfg(feature = "events-encryption")]
        if let Some(encryption) = &self.encryption {
            encryption.decrypt(on, events).await?;
        }
        #[cfg(not(feature = "events-encryption"))]
        let _ = on;
        for event in events.iter_mut().filter(|event| !event.is_erased()) {
            self.registry.check(&event.event_type)?;
            self.upcasters.apply(event)?;
        }
        Ok(())
    }

    /// Returns whether decoding these events asks the server for keys.
    pub(super) fn asks_for_keys(&self, events: &[RecordedEvent]) -> bool {
        #[cfg(feature = "events-encryption")]
        let asks = self.encryption.is_some() && events.iter().any(FieldEncryption::has_subject_key);
        #[cfg(not(feature = "events-encryption"))]
        let asks = {
            let _ = events;
            false
        };
        asks
    }

    /// Returns the last version of a stream as it is now; 0 if there is no such stream.
    ///
    /// # Errors
    /// 22023 for a malformed name.
    pub async fn stream_version(&self, on: impl Executor, stream: &str) -> Result<i64> {
        one(on.column(Statement::new("select outbox.stream_version($1)::text as r", [text(stream)])).await?)
    }

    /// Returns the facts of a stream, or `None` if it does not exist.
    ///
    /// # Errors
    /// 22023 for a malformed name.
    pub async fn stream_info(&self, mut on: impl Executor, stream: &str) -> Result<Option<StreamInfo>> {
        // stream_info() fails for a stream that does not exist, which would end the caller's transaction.
        let mut on = Connection::new(&mut on);
        if self.stream_version(&mut on, stream).await? == 0 {
            return Ok(None);
        }
        let sql = "select to_jsonb(i)::text as r from outbox.stream_info($1) i";
        one(on.run(Statement::new(sql, [text(stream)])).await?).map(Some)
    }

    /// Returns the last position of the feed; 0 if it is empty. Events get their positions after their transaction has committed.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn last_position(&self, on: impl Executor) -> Result<i64> {
        one(on.column(Statement::new("select outbox.head()::text as r", [])).await?)
    }

    /// Stores the state of a stream after the event of a version. Returns false if a later one is stored, and, with a warning, if the
    /// state is too large. `schema_version` is the version of the form of the state.
    ///
    /// # Errors
    /// 22023 if the store encrypts and [`EventStore::plain_snapshots`] is not set.
    pub async fn save_snapshot(
        &self,
        on: impl Executor,
        stream: &str,
        version: i64,
        state: &Value,
        schema_version: i32,
    ) -> Result<bool> {
        self.check_snapshots()?;
        // The size is compared first, because an error would end the caller's transaction. Where the setting is not defined yet,
        // the library of the extension is not loaded, and the limit is the default one.
        let sql = "select case when octet_length($3::jsonb::text)
                > pg_size_bytes(coalesce(nullif(current_setting('pg_outbox.max_payload', true), ''), '256kB')) then 'null'
            else outbox.save_snapshot($1, $2::int8, $3::jsonb, $4::int4)::text end as r";
        let params = [text(stream), text(version), text(state), text(schema_version)];
        let saved: Option<bool> = one(on.column(Statement::new(sql, params)).await?)?;
        if saved.is_none() {
            tracing::warn!(stream, version, "the state is larger than pg_outbox.max_payload, and is not saved");
        }
        Ok(saved.unwrap_or(false))
    }

    /// Refuses snapshots of a store that encrypts, unless it was told otherwise.
    pub(super) fn check_snapshots(&self) -> Result<()> {
        #[cfg(feature = "events-encryption")]
        if self.encryption.is_some() && !self.plain_snapshots {
            return Err(Error::invalid(
                "a store with encryption saves no snapshots, because their state is not encrypted",
            )
            .hint("EventStore::plain_snapshots() allows it."));
        }
        Ok(())
    }

    /// Returns the newest stored state of a stream in a form, or `None`.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn load_snapshot(
        &self,
        on: impl Executor,
        stream: &str,
        schema_version: i32,
    ) -> Result<Option<Snapshot>> {
        let sql = "select to_jsonb(s)::text as r from outbox.load_snapshot($1, $2::int4) s where s.state is not null";
        let rows = on.column(Statement::new(sql, [text(stream), text(schema_version)])).await?;
        rows.into_iter().flatten().next().map(|row| Ok(serde_json::from_str(&row)?)).transpose()
    }
}

/// Checks the expected version of an append of nothing, as the server checks that of other appends.
fn check_version(stream: &str, expected: i64, actual: i64) -> Result<()> {
    let holds = match expected {
        super::ANY => true,
        super::STREAM_EXISTS => actual > 0,
        _ => expected == actual,
    };
    if holds {
        return Ok(());
    }
    let facts = json!({"stream": stream, "expected": expected, "actual": actual}).to_string();
    Err(Error::new("OB013", "the stream is not at the expected version").detail(facts))
}

/// Refuses a connection that commits each statement by itself, where several belong together. A setting that is local to a
/// transaction tells the two apart.
pub(super) async fn check_transaction(on: &mut Connection<'_>, what: &str) -> Result<()> {
    let (set, get) = (
        "select set_config('pg_outbox_client.transaction', 'open', true) as r",
        "select coalesce(current_setting('pg_outbox_client.transaction', true), '') as r",
    );
    on.run(Statement::new(set, [])).await?;
    let found = on.run(Statement::new(get, [])).await?;
    match found.into_iter().flatten().any(|setting| setting == "open") {
        true => Ok(()),
        false => Err(Error::invalid(format!("{what} needs a transaction")).hint("Begin one, and pass it.")),
    }
}

/// Reads the only row of a result.
pub(super) fn one<T: DeserializeOwned>(rows: Vec<Option<String>>) -> Result<T> {
    let row = rows.into_iter().flatten().next();
    let row = row.ok_or_else(|| Error::new("XX000", "the server returned no row"))?;
    crate::call::one_typed(serde_json::from_str(&row)?)
}
