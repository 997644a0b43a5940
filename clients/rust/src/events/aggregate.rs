//! Aggregates: [`Aggregate`] is the state that events make, [`Root`] is one that was loaded, and [`Repository`] loads and saves.
//!
//! ```text
//! load: snapshot, then the events behind it -> decide: raise events -> save: append with the version that was loaded
//! ```
//!
//! A conflict (OB013) means that another transaction was first. The answer is a new transaction that loads again and decides
//! again, which [`Repository::execute`] does.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::connection::Connection;
use super::event::{NewEvent, RecordedEvent};
use super::fault::Fault;
use super::metadata::Metadata;
use super::retry::Retry;
use super::store::{Appended, EventStore, check_transaction};
use crate::driver::{Executor, InTransaction, Transactions};
use crate::error::{Error, Result, described};

/// A state that events make. `Default` is the state before the first event.
pub trait Aggregate: Default + Send {
    /// The category of its streams, which are named `category-id`. It has no `-`.
    const CATEGORY: &'static str;

    /// Its events: an enum that serde tags with `type` and `content = "data"`.
    type Event: Serialize + DeserializeOwned + Send;

    /// Changes the state. An event is a fact: this function does not refuse it.
    fn apply(&mut self, event: Self::Event);

    /// Takes note of an event that was erased, or whose key was revoked so that it cannot be decoded. Nothing is known of it but
    /// its place and type.
    fn redacted(&mut self, event: &RecordedEvent) {
        let _ = event;
    }
}

/// An aggregate that was loaded, with its stream, its version, and the events that it has raised since. It dereferences to the
/// state.
pub struct Root<A> {
    id: String,
    stream: String,
    state: A,
    version: i64,
    raised: Vec<NewEvent>,
}

impl<A> fmt::Debug for Root<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").field("stream", &self.stream).field("version", &self.version).finish_non_exhaustive()
    }
}

impl<A> Deref for Root<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.state
    }
}

impl<A: Aggregate> Root<A> {
    /// Creates an aggregate that has no events yet.
    pub fn new(id: impl Into<String>) -> Root<A> {
        let id = id.into();
        Root { stream: format!("{}-{id}", A::CATEGORY), id, state: A::default(), version: 0, raised: Vec::new() }
    }

    /// Creates an aggregate from its events, as loading does.
    pub fn from_events(id: impl Into<String>, events: impl IntoIterator<Item = A::Event>) -> Root<A> {
        let mut root: Root<A> = Root::new(id);
        for event in events {
            root.state.apply(event);
            root.version += 1;
        }
        root
    }

    /// Records an event that will be appended by the next save, and applies it to the state.
    ///
    /// # Errors
    /// 22023 if the event cannot be written as JSON.
    pub fn raise(&mut self, event: A::Event) -> Result<()> {
        self.raise_with(event, Metadata::default())
    }

    /// Records an event with metadata of its own.
    ///
    /// # Errors
    /// Those of [`Root::raise`].
    pub fn raise_with(&mut self, event: A::Event, metadata: Metadata) -> Result<()> {
        self.raised.push(NewEvent::of(&event)?.metadata(metadata));
        self.state.apply(event);
        Ok(())
    }

    /// Returns the id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl<A> Root<A> {
    /// Returns the name of the stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// Returns the version that is stored; 0 if there are no events.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Returns the events that were raised and are not saved.
    pub fn raised(&self) -> &[NewEvent] {
        &self.raised
    }
}

/// An aggregate of any type, for [`save_all`].
pub trait Unsaved: Send {
    /// Returns the name of the stream.
    fn stream_name(&self) -> &str;
    /// Returns the version that is stored.
    fn stored_version(&self) -> i64;
    /// Returns the events that were raised.
    fn unsaved(&self) -> &[NewEvent];
    /// Counts the events as saved.
    fn saved(&mut self, version: i64);
}

impl<A: Send> Unsaved for Root<A> {
    fn stream_name(&self) -> &str {
        &self.stream
    }

    fn stored_version(&self) -> i64 {
        self.version
    }

    fn unsaved(&self) -> &[NewEvent] {
        &self.raised
    }

    fn saved(&mut self, version: i64) {
        self.version = version;
        self.raised.clear();
    }
}

/// Saves several aggregates, of any types, in one transaction. They are saved in the order of the names of their streams, so that
/// two transactions never wait for each other in a circle.
///
/// # Errors
/// Those of [`EventStore::append`]. The transaction has to be rolled back then, and the aggregates loaded again. 22023 if the
/// connection has no transaction, and there are several aggregates.
pub async fn save_all(store: &EventStore, mut on: impl Executor, roots: &mut [&mut dyn Unsaved]) -> Result<()> {
    if roots.iter().filter(|root| !root.unsaved().is_empty()).count() > 1 {
        check_transaction(&mut Connection::new(&mut on), "saving several aggregates").await?;
    }
    roots.sort_by(|a, b| a.stream_name().cmp(b.stream_name()));
    for root in roots {
        if !root.unsaved().is_empty() {
            let (stream, version) = (root.stream_name().to_owned(), root.stored_version());
            let appended = store.append(Connection::new(&mut on), &stream, root.unsaved().to_vec(), version).await?;
            root.saved(appended.last_version);
        }
    }
    Ok(())
}

/// How the state of an aggregate is stored.
struct Snapshots<A> {
    every: i64,
    schema_version: i32,
    take: fn(&A) -> Result<Value>,
    restore: fn(&Value) -> Result<A>,
}

/// Loads and saves aggregates of one type.
pub struct Repository<A> {
    store: EventStore,
    snapshots: Option<Arc<Snapshots<A>>>,
    retry: Retry,
}

impl<A> Clone for Repository<A> {
    fn clone(&self) -> Self {
        Repository { store: self.store.clone(), snapshots: self.snapshots.clone(), retry: self.retry }
    }
}

impl<A> fmt::Debug for Repository<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("retry", &self.retry).finish_non_exhaustive()
    }
}

impl<A: Aggregate> Repository<A> {
    /// Creates a repository without snapshots.
    pub fn new(store: EventStore) -> Repository<A> {
        Repository { store, snapshots: None, retry: Retry::default() }
    }

    /// Stores a snapshot of the state with the save that makes the stream `every` events longer than a multiple of that number.
    /// `schema_version` is the version of the form of the state: snapshots of other versions are not read. A state that is too large
    /// is not stored, and a warning is logged. Fields that the store encrypts are in the snapshot as `A` writes them, so a store
    /// with encryption refuses snapshots unless [`EventStore::plain_snapshots`] is set.
    #[must_use]
    pub fn snapshot_every(mut self, every: u32, schema_version: i32) -> Repository<A>
    where
        A: Serialize + DeserializeOwned,
    {
        self.snapshots = Some(Arc::new(Snapshots {
            every: i64::from(every.max(1)),
            schema_version,
            take: |state| Ok(serde_json::to_value(state)?),
            restore: |state| Ok(serde_json::from_str(&state.to_string())?),
        }));
        self
    }

    /// Sets how often [`Repository::execute`] tries.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Repository<A> {
        self.retry = retry;
        self
    }

    /// Returns the store.
    pub fn store(&self) -> &EventStore {
        &self.store
    }

    /// Loads an aggregate. One without events is new, and has version 0.
    ///
    /// # Errors
    /// Those of [`EventStore::load`]; 22023 if an event has not the form of [`Aggregate::Event`], or snapshots are refused; OB004 if
    /// the first events were truncated and no snapshot can be read.
    pub async fn load(&self, mut on: impl Executor, id: &str) -> Result<Root<A>> {
        self.check()?;
        let mut on = Connection::new(&mut on);
        let mut root = Root::<A>::new(id);
        if let Some(snapshots) = &self.snapshots {
            let found = self.store.load_snapshot(&mut on, &root.stream, snapshots.schema_version).await?;
            if let Some(found) = found {
                match (snapshots.restore)(&found.state) {
                    Ok(state) => (root.state, root.version) = (state, found.version),
                    // A snapshot is a cache. The events say the same.
                    Err(error) => {
                        tracing::warn!(stream = root.stream, error = described(&error), "a snapshot cannot be read");
                    }
                }
            }
        }
        let events = self.store.load(&mut on, &root.stream, root.version.saturating_add(1)).await?;
        if let Some(first) = events.first()
            && first.version != root.version.saturating_add(1)
        {
            let (stream, found) = (&root.stream, first.version);
            return Err(Error::new(
                "OB004",
                format!("the events of \"{stream}\" before version {found} were truncated"),
            )
            .hint("Only a snapshot has the state that they made; there is none that this repository reads."));
        }
        for event in events {
            match event.event() {
                Ok(decoded) => root.state.apply(decoded),
                Err(_) if event.redacted => root.state.redacted(&event),
                Err(error) => return Err(error),
            }
            root.version = event.version;
        }
        Ok(root)
    }

    fn check(&self) -> Result<()> {
        if A::CATEGORY.contains('-') {
            return Err(Error::invalid(format!("the category \"{}\" has a \"-\"", A::CATEGORY))
                .hint("The first \"-\" in the name of a stream ends its category."));
        }
        if self.snapshots.is_some() { self.store.check_snapshots() } else { Ok(()) }
    }

    /// Appends the events that the aggregate has raised, with the version that it was loaded with. The aggregate has the new
    /// version then. After a rollback it must be loaded again.
    ///
    /// # Errors
    /// Those of [`EventStore::append`].
    pub async fn save(&self, mut on: impl Executor, root: &mut Root<A>) -> Result<Option<Appended>> {
        if root.raised.is_empty() {
            return Ok(None);
        }
        self.check()?;
        let mut on = Connection::new(&mut on);
        let before = root.version;
        let appended = self.store.append(&mut on, &root.stream, root.raised.clone(), before).await?;
        root.saved(appended.last_version);
        if let Some(snapshots) = &self.snapshots
            && root.version / snapshots.every > before / snapshots.every
        {
            match (snapshots.take)(&root.state) {
                Ok(state) => {
                    let (stream, version) = (&root.stream, root.version);
                    self.store.save_snapshot(&mut on, stream, version, &state, snapshots.schema_version).await?;
                }
                Err(error) => {
                    tracing::warn!(
                        stream = root.stream,
                        error = described(&error),
                        "a state cannot be written as JSON"
                    );
                }
            }
        }
        Ok(Some(appended))
    }

    /// Loads an aggregate, lets `decide` raise events, and saves it, in a transaction of the pool. After a conflict, a
    /// serialization failure or a deadlock, all of this is done again, up to three times. `decide` must have no other effects.
    ///
    /// # Errors
    /// The error of `decide`, with which nothing is written. Those of [`Repository::load`] and [`Repository::save`].
    pub async fn execute<P, R, E>(
        &self,
        pool: &P,
        id: &str,
        decide: impl Fn(&mut Root<A>) -> std::result::Result<R, E>,
    ) -> std::result::Result<R, E>
    where
        P: Transactions,
        E: From<Error>,
    {
        self.retry.run(Fault::is_worth_a_retry, || self.attempt(pool, id, &decide)).await?
    }

    async fn attempt<P: Transactions, R, E>(
        &self,
        pool: &P,
        id: &str,
        decide: &impl Fn(&mut Root<A>) -> std::result::Result<R, E>,
    ) -> Result<std::result::Result<R, E>> {
        let mut session = pool.take_session().await?;
        let mut tx = P::begin(&mut session).await?;
        let mut root = self.load(InTransaction::<P>(&mut tx), id).await?;
        let decided = decide(&mut root);
        if decided.is_ok() {
            self.save(InTransaction::<P>(&mut tx), &mut root).await?;
            P::commit(tx).await?;
        }
        Ok(decided)
    }
}
