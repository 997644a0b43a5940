//! Sagas: processes of several steps that follow events, send messages and append events, and undo their steps when one fails.
//!
//! The state of a saga is a serde type. For each event, [`SagaManager`] loads the saga of the event's correlation id, lets it
//! handle the event, and saves it, with the messages and events that it sends, in one transaction with the cursor. So each event
//! is handled once, and nothing that it sends is lost. The server locks the saga, compares versions, and knows which events it has
//! handled.
//!
//! A time-out is a message of the topic `saga.timeout.TYPE` with `deliver_at`. The manager makes the subscription `saga TYPE
//! time-outs`, works on it, and lets the saga handle the time-outs that it still waits for. The state of a saga and the reason of its
//! failure are stored as they are: not encrypted.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Datelike as _, TimeDelta, Utc};
use futures_util::future::{BoxFuture, join_all};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::event::{NewEvent, RecordedEvent};
use super::fault::Fault;
use super::metadata::Metadata;
use super::project::{BoxError, ProjectionEngine, ProjectionStatus};
use super::retry::Retry;
use super::source::now;
use super::store::{EventStore, IntoEvent, one};
use super::subscribe::Selection;
use crate::admin::EnsureSubscription;
use crate::driver::{Executor as _, InTransaction, Statement, Transactions, text};
use crate::error::{Error, Kind, described};
use crate::message::{Message, Param};
use crate::outbox::{Backoff, Outbox, passes};
use crate::worker::{Delivery, Failure};

type Result<T, E = Error> = std::result::Result<T, E>;

/// The largest number of characters in the name of a type.
const MAX_TYPE: usize = 80;

/// Returns the topic of the time-outs of a type of sagas.
pub fn timeout_topic(saga_type: &str) -> String {
    format!("saga.timeout.{saga_type}")
}

/// Returns the name of the subscription on the time-outs of a type of sagas.
pub fn timeout_subscription(saga_type: &str) -> String {
    format!("saga {saga_type} time-outs")
}

/// The state of a process of several steps. `Default` is the state before its first event.
pub trait Saga: Serialize + DeserializeOwned + Default + Send + Sync + 'static {
    /// The name of the type: up to 80 letters, digits and underscores.
    const TYPE: &'static str;

    /// The names of its steps, in order. The first one runs when the saga starts.
    const STEPS: &'static [&'static str] = &[];

    /// Returns whether an event of this type starts a saga, if there is none for its correlation id that has not ended. An event that
    /// was erased starts none.
    fn starts_with(event_type: &str) -> bool;

    /// Returns the id of the saga that an event belongs to. `None`: it belongs to none.
    fn correlation(event: &RecordedEvent) -> Option<String>;

    /// Handles an event: changes the state, and says what is to be done.
    ///
    /// # Errors
    /// An error is a fault of the program. It is recorded, and the event is handled again later. A step that has failed is
    /// [`Actions::fail`].
    fn handle(&mut self, event: &RecordedEvent, actions: &mut Actions) -> Result<(), BoxError>;

    /// Takes note of an event that was erased, or whose key was revoked so that [`Saga::handle`] returns an error.
    fn redacted(&mut self, event: &RecordedEvent) {
        let _ = event;
    }

    /// Undoes a step that was done. It is called for the steps that are done, the last one first, when the saga fails.
    ///
    /// # Errors
    /// The compensation fails, and a person has to look at the saga.
    fn compensate(&mut self, step: &str, actions: &mut Actions) -> Result<(), BoxError> {
        let _ = (step, actions);
        Ok(())
    }

    /// Handles a time-out that it has asked for.
    ///
    /// # Errors
    /// As [`Saga::handle`].
    fn timed_out(&mut self, name: &str, actions: &mut Actions) -> Result<(), BoxError> {
        let _ = (name, actions);
        Ok(())
    }
}

/// A message that a saga sends.
#[derive(Clone, PartialEq)]
pub struct Sent {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Value,
    /// The ordering key.
    pub key: Option<String>,
    /// The time before which it is not delivered.
    pub deliver_at: Option<DateTime<Utc>>,
    /// The name of the time-out that it is.
    pub timeout: Option<String>,
}

impl fmt::Debug for Sent {
    /// Shows no payload, because it may be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sent").field("topic", &self.topic).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// The actions of a saga. They happen in the transaction that saves it. Its messages and events have the correlation id, the tenant
/// and the user of the event or time-out that it handles, and its id as causation id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actions {
    /// The id of the saga.
    pub saga_id: String,
    /// The messages that it sends.
    pub sent: Vec<Sent>,
    /// The events that it appends, with their streams.
    pub appended: Vec<(String, NewEvent)>,
    saga_type: &'static str,
    steps_done: usize,
    is_completed: bool,
    failure: Option<String>,
}

impl Actions {
    /// Sends a message, for example a command to another service. Its key is the id of the saga.
    ///
    /// # Errors
    /// 22023 if the payload cannot be written as JSON.
    pub fn send(&mut self, topic: impl Into<String>, payload: &(impl Serialize + ?Sized)) -> Result<()> {
        let (payload, key) = (serde_json::to_value(payload)?, Some(self.saga_id.clone()));
        self.sent.push(Sent { topic: topic.into(), payload, key, deliver_at: None, timeout: None });
        Ok(())
    }

    /// Appends an event to a stream, whatever its version.
    ///
    /// # Errors
    /// 22023 if the value is no event.
    pub fn append(&mut self, stream: impl Into<String>, event: impl IntoEvent) -> Result<()> {
        self.appended.push((stream.into(), event.into_event()?));
        Ok(())
    }

    /// Asks for a time-out. If the saga has not ended by then, [`Saga::timed_out`] gets the name. Another call with the name replaces
    /// the time-out.
    ///
    /// # Errors
    /// 22023 if the time is too far away.
    pub fn timeout(&mut self, name: &str, after: Duration) -> Result<()> {
        let at = TimeDelta::from_std(after).ok().and_then(|after| now().checked_add_signed(after));
        // The largest year of a timestamp that all clients read.
        let at = at.filter(|at| at.year() <= 9999);
        let at = at.ok_or_else(|| Error::invalid(format!("the time-out \"{}\" is too far away", name)))?;
        self.sent.retain(|sent| sent.timeout.as_deref() != Some(name));
        self.sent.push(Sent {
            topic: timeout_topic(self.saga_type),
            payload: json!({"saga_type": self.saga_type, "saga_id": self.saga_id, "name": name}),
            key: Some(self.saga_id.clone()),
            deliver_at: Some(at),
            timeout: Some(name.to_owned()),
        });
        Ok(())
    }

    /// Counts the current step as done. The next step runs. The last step completes the saga.
    pub fn step_done(&mut self) {
        self.steps_done += 1;
    }

    /// Completes the saga. It handles no more events.
    pub fn complete(&mut self) {
        self.is_completed = true;
    }

    /// Fails the current step: the steps that are done are undone, the last one first.
    pub fn fail(&mut self, reason: impl Into<String>) {
        self.failure.get_or_insert(reason.into());
    }
}

/// A step of a saga.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The name.
    pub name: String,
    /// `pending`, `running`, `completed`, `failed` or `compensated`.
    pub status: String,
}

/// A saga that was loaded.
#[derive(Clone)]
pub struct Instance<S> {
    /// The state.
    pub state: S,
    /// `started`, `running`, `completed`, `failed`, `compensating`, `compensated` or `compensation_failed`.
    pub status: String,
    /// The steps.
    pub steps: Vec<Step>,
    /// Why it has failed.
    pub failure_reason: Option<String>,
}

impl<S> fmt::Debug for Instance<S> {
    /// Shows no state, because it may be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance").field("status", &self.status).field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl<S: Saga> Default for Instance<S> {
    fn default() -> Instance<S> {
        let steps = S::STEPS.iter().enumerate().map(|(n, name)| Step {
            name: (*name).to_owned(),
            status: if n == 0 { "running" } else { "pending" }.to_owned(),
        });
        Instance { state: S::default(), status: "started".to_owned(), steps: steps.collect(), failure_reason: None }
    }
}

impl<S: Saga> Instance<S> {
    /// Lets the saga act, and changes its steps and status. Nothing is sent or stored.
    ///
    /// # Errors
    /// The error of `act`.
    pub fn act(
        &mut self,
        saga_id: &str,
        act: impl FnOnce(&mut S, &mut Actions) -> Result<(), BoxError>,
    ) -> Result<Actions, BoxError> {
        let mut actions = Actions { saga_id: saga_id.to_owned(), saga_type: S::TYPE, ..Actions::default() };
        act(&mut self.state, &mut actions)?;
        "running".clone_into(&mut self.status);
        for _ in 0..actions.steps_done {
            let Some(n) = self.steps.iter().position(|step| step.status == "running") else { break };
            "completed".clone_into(&mut self.steps[n].status);
            match self.steps.get_mut(n + 1) {
                Some(next) => "running".clone_into(&mut next.status),
                None => actions.is_completed = true,
            }
        }
        if let Some(reason) = actions.failure.clone() {
            self.fail(reason, &mut actions);
        } else if actions.is_completed {
            "completed".clone_into(&mut self.status);
        }
        Ok(actions)
    }

    fn fail(&mut self, reason: String, actions: &mut Actions) {
        let has_done = self.steps.iter().any(|step| step.status == "completed");
        if has_done { "compensated" } else { "failed" }.clone_into(&mut self.status);
        self.failure_reason = Some(reason);
        for step in &mut self.steps {
            if step.status == "running" {
                "failed".clone_into(&mut step.status);
            }
        }
        for step in self.steps.iter_mut().rev().filter(|step| step.status == "completed") {
            if let Err(error) = self.state.compensate(&step.name, actions) {
                let error = described(error.as_ref());
                tracing::error!(saga = S::TYPE, step = step.name, error, "a step cannot be undone");
                let reason = self.failure_reason.take().unwrap_or_default();
                self.failure_reason = Some(format!("{reason}; step \"{}\" cannot be undone: {error}", step.name));
                "compensation_failed".clone_into(&mut self.status);
                return;
            }
            "compensated".clone_into(&mut step.status);
        }
    }
}

/// A row of `outbox.saga_state`.
#[derive(Deserialize)]
struct Stored {
    saga_id: String,
    correlation_id: Option<String>,
    status: String,
    steps: Vec<Step>,
    state: StoredState,
    failure_reason: Option<String>,
    version: i64,
    completed_at: Option<DateTime<Utc>>,
}

/// The state as it is stored, in all clients.
#[derive(Clone, Default, Serialize, Deserialize)]
struct StoredState {
    state: Value,
    /// The message id of each time-out that the saga waits for, by its name.
    #[serde(default)]
    timeouts: BTreeMap<String, i64>,
}

impl Stored {
    fn instance<S: Saga>(&self) -> Result<Instance<S>> {
        Ok(Instance {
            state: serde_json::from_str(&self.state.state.to_string())?,
            status: self.status.clone(),
            steps: self.steps.clone(),
            failure_reason: self.failure_reason.clone(),
        })
    }

    /// Returns the metadata of what the saga sends.
    fn context(&self, cause: Metadata) -> Metadata {
        match (cause.text("correlation_id"), &self.correlation_id) {
            (None, Some(id)) => cause.correlation_id(id.clone()),
            _ => cause,
        }
    }
}

async fn find(on: &mut Connection<'_>, saga_type: &str, correlation_id: &str) -> Result<Option<Stored>> {
    let sql = "select to_jsonb(s)::text as r from outbox.saga_find($1, $2) s";
    let rows = on.run(Statement::new(sql, [text(saga_type), text(correlation_id)])).await?;
    rows.into_iter().flatten().next().map(|row| Ok(serde_json::from_str(&row)?)).transpose()
}

async fn load(on: &mut Connection<'_>, saga_type: &str, saga_id: &str) -> Result<Stored> {
    let sql = "select to_jsonb(s)::text as r from outbox.saga_load($1, $2) s";
    one(on.run(Statement::new(sql, [text(saga_type), text(saga_id)])).await?)
}

/// Locks a saga, and returns whether it has not handled the message yet.
async fn is_new(on: &mut Connection<'_>, saga_type: &str, saga_id: &str, message_id: i64) -> Result<bool> {
    let sql = "select outbox.saga_handle($1, $2, $3::int8)::text as r";
    one(on.run(Statement::new(sql, [text(saga_type), text(saga_id), text(message_id)])).await?)
}

/// Stores a saga as it is in `stored`, which gets the new version.
async fn save<S: Saga>(
    on: &mut Connection<'_>,
    stored: &mut Stored,
    instance: &Instance<S>,
    status: &str,
) -> Result<()> {
    let sql = "select outbox.saga_save($1, $2, $3::jsonb, $4::int8, status => $5, step => $6::int4, steps => $7::jsonb,
            correlation_id => $8, failure_reason => $9)::text as r";
    stored.state.state = serde_json::to_value(&instance.state)?;
    let step = instance.steps.iter().take_while(|step| step.status == "completed").count();
    let reason = instance
        .failure_reason
        .as_ref()
        .map(|reason| Param::Text(reason.chars().filter(|c| *c != '\0').take(10_000).collect()));
    let params = [
        text(S::TYPE),
        text(&stored.saga_id),
        text(serde_json::to_value(&stored.state)?),
        text(stored.version),
        text(status),
        text(step),
        text(serde_json::to_value(&instance.steps)?),
        stored.correlation_id.clone().map(Param::Text),
        reason,
    ];
    stored.version = one(on.run(Statement::new(sql, params)).await?)?;
    Ok(())
}

/// Starts a saga, and returns its id.
async fn start<S: Saga>(on: &mut Connection<'_>, saga_id: String, correlation_id: String) -> Result<String> {
    let instance = Instance::<S>::default();
    let mut stored = Stored {
        saga_id,
        correlation_id: Some(correlation_id),
        status: String::new(),
        steps: Vec::new(),
        state: StoredState::default(),
        failure_reason: None,
        version: 0,
        completed_at: None,
    };
    let saved = save(on, &mut stored, &instance, "started").await;
    saved.map_err(|error| match error.code() {
        // Another transaction has started one meanwhile. The next attempt finds it.
        "42710" => Error::new("OB013", error.to_string()),
        _ => error,
    })?;
    Ok(stored.saga_id)
}

/// Lets a saga handle an event, unless it has done so before or has ended.
async fn handle_event<S: Saga>(
    store: &EventStore,
    on: &mut Connection<'_>,
    event: &RecordedEvent,
) -> Result<(), BoxError> {
    let Some(correlation) = S::correlation(event) else { return Ok(()) };
    // An event without content cannot say what the saga would have to do.
    let starts = !event.is_erased() && S::starts_with(&event.event_type);
    let saga_id = match find(on, S::TYPE, &correlation).await? {
        Some(found) if found.completed_at.is_none() => found.saga_id,
        Some(ended) => {
            // The event may be one that the saga has handled before it ended.
            if !starts || !is_new(on, S::TYPE, &ended.saga_id, event.message_id).await? {
                return Ok(());
            }
            start::<S>(on, format!("{correlation}#{}", event.message_id), correlation).await?
        }
        None if starts => start::<S>(on, correlation.clone(), correlation).await?,
        None => return Ok(()),
    };
    if !is_new(on, S::TYPE, &saga_id, event.message_id).await? {
        return Ok(());
    }
    // The saga is locked now, and may have ended while this transaction waited.
    let stored = load(on, S::TYPE, &saga_id).await?;
    if stored.completed_at.is_some() {
        return Ok(());
    }
    let mut instance = stored.instance::<S>()?;
    let handled = match event.is_erased() {
        true => None,
        false => match instance.act(&saga_id, |saga, actions| saga.handle(event, actions)) {
            Ok(actions) => Some(actions),
            Err(error) if event.redacted => {
                tracing::warn!(saga = S::TYPE, saga_id, error = described(error.as_ref()), "a redacted event is noted");
                None
            }
            Err(error) => return Err(error),
        },
    };
    let actions = match handled {
        Some(actions) => actions,
        None => {
            instance = stored.instance()?;
            instance.act(&saga_id, |saga, _| {
                saga.redacted(event);
                Ok(())
            })?
        }
    };
    let cause = event.event_id.clone().unwrap_or_else(|| event.message_id.to_string());
    let context = of_message(event.tenant.as_deref(), |name| event.get_metadata(name)).causation_id(cause);
    finish(store, on, stored, instance, actions, context).await
}

/// Lets a saga handle a time-out that it waits for.
async fn handle_timeout<S: Saga>(
    store: &EventStore,
    on: &mut Connection<'_>,
    message_id: i64,
    timeout: &TimedOut,
    context: Metadata,
) -> Result<(), BoxError> {
    let TimedOut { saga_id, name, .. } = timeout;
    match is_new(on, S::TYPE, saga_id, message_id).await {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(error) if error.kind() == Kind::NotFound => {
            tracing::warn!(saga = S::TYPE, saga_id, "a time-out comes late: the saga was deleted");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    }
    let mut stored = load(on, S::TYPE, saga_id).await?;
    // A time-out that was set again has another message.
    if stored.completed_at.is_some() || stored.state.timeouts.get(name) != Some(&message_id) {
        return Ok(());
    }
    stored.state.timeouts.remove(name);
    let mut instance = stored.instance::<S>()?;
    let actions = instance.act(saga_id, |saga, actions| saga.timed_out(name, actions))?;
    finish(store, on, stored, instance, actions, context.causation_id(message_id.to_string())).await
}

/// Returns the metadata that goes on from an event or a message.
fn of_message<'m>(tenant: Option<&str>, entry: impl Fn(&'static str) -> Option<&'m str>) -> Metadata {
    let mut metadata = Metadata::new();
    for name in ["correlation_id", "user_id"] {
        if let Some(value) = entry(name) {
            metadata = metadata.set(name, value);
        }
    }
    match tenant {
        Some(tenant) => metadata.tenant(tenant),
        None => metadata,
    }
}

/// Sends and appends, and stores the saga.
async fn finish<S: Saga>(
    store: &EventStore,
    on: &mut Connection<'_>,
    mut stored: Stored,
    instance: Instance<S>,
    actions: Actions,
    context: Metadata,
) -> Result<(), BoxError> {
    let context = stored.context(context);
    for sent in actions.sent {
        let mut message = Message::to(sent.topic).json(&sent.payload)?;
        let (entries, tenant) = context.clone().into_parts();
        for (name, value) in entries {
            // A time-out gets its own id as causation when it is handled.
            if sent.timeout.is_none() || name != "causation_id" {
                message = message.set_metadata(name, value);
            }
        }
        if let Some(tenant) = tenant {
            message = message.tenant(tenant);
        }
        if let Some(key) = sent.key {
            message = message.key(key);
        }
        if let Some(at) = sent.deliver_at {
            message = message.deliver_at(at);
        }
        let message_id = message.enqueue(&mut *on).await?;
        if let Some(name) = sent.timeout {
            stored.state.timeouts.insert(name, message_id);
        }
    }
    for (stream, event) in actions.appended {
        store.append_with(&mut *on, &stream, [event], super::ANY, context.clone()).await?;
    }
    if instance.status.starts_with("compensat") {
        save(on, &mut stored, &instance, "compensating").await?;
    }
    save(on, &mut stored, &instance, &instance.status).await?;
    Ok(())
}

/// A time-out of a saga: the payload of a message of the topic `saga.timeout.TYPE`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimedOut {
    /// The type of the saga.
    pub saga_type: String,
    /// The id of the saga.
    pub saga_id: String,
    /// The name of the time-out.
    pub name: String,
}

type OnTimeout = Arc<
    dyn for<'c> Fn(Connection<'c>, i64, &'c TimedOut, Metadata) -> BoxFuture<'c, Result<(), BoxError>> + Send + Sync,
>;

/// Runs sagas. Each type is an async projection of an engine, named `saga TYPE`, with a cursor of its own. It is cheap to clone, and a
/// clone is the same manager.
pub struct SagaManager<P: Transactions + 'static> {
    outbox: Outbox,
    engine: ProjectionEngine<P>,
    pool: P,
    store: EventStore,
    timeouts: Arc<Mutex<HashMap<&'static str, OnTimeout>>>,
}

impl<P: Transactions + 'static> Clone for SagaManager<P> {
    fn clone(&self) -> Self {
        let (engine, pool) = (self.engine.clone(), self.pool.clone());
        let (outbox, timeouts) = (self.outbox.clone(), self.timeouts.clone());
        SagaManager { outbox, engine, pool, store: self.store.clone(), timeouts }
    }
}

impl<P: Transactions + 'static> fmt::Debug for SagaManager<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SagaManager").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl<P: Transactions + 'static> SagaManager<P> {
    /// Creates a manager without sagas. `outbox` reads the events, and `pool` begins the transactions.
    pub fn new(outbox: &Outbox, pool: P, store: EventStore) -> SagaManager<P> {
        let engine = ProjectionEngine::new(outbox, pool.clone(), store.clone());
        SagaManager { outbox: outbox.clone(), engine, pool, store, timeouts: Arc::default() }
    }

    /// Registers a saga, which gets the events of a selection.
    ///
    /// # Errors
    /// 22023 if the type is registered already or its name is malformed, or the selection is that of one member.
    pub fn register<S: Saga>(&self, selection: Selection) -> Result<()> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if S::TYPE.is_empty() || S::TYPE.len() > MAX_TYPE || !S::TYPE.chars().all(is_part) {
            return Err(Error::invalid(format!("malformed type of sagas \"{}\"", S::TYPE))
                .hint("It has up to 80 letters, digits and underscores."));
        }
        let store = self.store.clone();
        self.engine.register(&projection_of(S::TYPE), selection, move |tx, events| {
            let store = store.clone();
            Box::pin(async move {
                let mut tx = InTransaction::<P>(tx);
                let mut on = Connection::new(&mut tx);
                for event in events {
                    handle_event::<S>(&store, &mut on, event).await?;
                }
                Ok(())
            })
        })?;
        let store = self.store.clone();
        let timeout: OnTimeout = Arc::new(move |mut on, message_id, timeout, context| {
            let store = store.clone();
            Box::pin(async move { handle_timeout::<S>(&store, &mut on, message_id, timeout, context).await })
        });
        self.timeouts.lock().unwrap_or_else(PoisonError::into_inner).insert(S::TYPE, timeout);
        Ok(())
    }

    /// Handles a time-out in a transaction, as [`SagaManager::run_until`] does, with the id of its message. Its messages have the
    /// metadata of the current task. A time-out that the saga does not wait for does nothing: one that was handled or set again, or
    /// one of a saga that has ended.
    ///
    /// # Errors
    /// Kind not_found if the type is not registered; the error of [`Saga::timed_out`].
    pub async fn timed_out(&self, message_id: i64, timeout: &TimedOut) -> Result<(), BoxError> {
        let known = self.timeouts.lock().unwrap_or_else(PoisonError::into_inner).get(&*timeout.saga_type).cloned();
        let handler =
            known.ok_or_else(|| Error::new("OB001", format!("there is no saga \"{}\" here", timeout.saga_type)))?;
        let is_worth_it = |error: &BoxError| {
            let error = error.downcast_ref::<Error>();
            error.is_some_and(|error| Fault::is_worth_a_retry(error) || error.kind() == Kind::Retry)
        };
        let attempt = || {
            let (handler, context) = (handler.clone(), Metadata::current());
            async move {
                let mut session = self.pool.take_session().await?;
                let mut tx = P::begin(&mut session).await?;
                let on = &mut InTransaction::<P>(&mut tx);
                handler(Connection::new(on), message_id, timeout, context).await?;
                Ok(P::commit(tx).await?)
            }
        };
        Retry::default().run(is_worth_it, attempt).await
    }

    /// Works on the time-outs of a type until `stop` is cancelled.
    async fn work(&self, saga_type: &'static str, stop: CancellationToken) -> Result<()> {
        let (name, topic) = (timeout_subscription(saga_type), timeout_topic(saga_type));
        let (mut backoff, topics) = (Backoff::default(), [topic.as_str()]);
        let is_denied = loop {
            let settings = EnsureSubscription { notify: Some(true), ..EnsureSubscription::default() };
            let ensured = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ensured = self.outbox.ensure_subscription(&name, &topics, settings) => ensured,
            };
            match ensured {
                Ok(_) => break false,
                Err(error) if passes(&error) => {
                    tracing::warn!(subscription = name, error = error.report(), "it cannot be ensured yet");
                    tokio::time::sleep(backoff.next()).await;
                }
                Err(error) if error.code() == "42501" => {
                    tracing::warn!(subscription = name, "this role may not create it; it is used as it is");
                    break true;
                }
                Err(error) => return Err(error),
            }
        };
        let manager = self.clone();
        let handler = move |delivery: Delivery| {
            let manager = manager.clone();
            async move { manager.of_delivery(delivery).await }
        };
        match self.outbox.worker(&name).build(handler).run_until(stop.cancelled_owned()).await {
            Err(error) if is_denied && error.kind() == Kind::NotFound => {
                tracing::error!(
                    subscription = name,
                    "it does not exist, so the time-outs of these sagas are not handled"
                );
                Ok(())
            }
            worked => worked.map(|_| ()),
        }
    }

    /// Handles the message of a time-out. The future is boxed, so that it is proven to be `Send` here.
    fn of_delivery(self, delivery: Delivery) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(async move {
            let Ok(timeout) = delivery.json::<TimedOut>() else {
                return Err(Failure::dead("the payload is no time-out of a saga"));
            };
            let context = of_message(delivery.tenant.as_deref(), |name| delivery.get_metadata(name)?.as_str());
            let handled = context.scope(self.timed_out(delivery.message_id, &timeout)).await;
            handled.map_err(|error| Failure::retry(described(error.as_ref())))
        })
    }

    /// Returns the saga of a correlation id, or `None`: the one that has not ended, or else the one that started last.
    ///
    /// # Errors
    /// 22023 if the stored state is no `S`.
    pub async fn find<S: Saga>(&self, correlation_id: &str) -> Result<Option<Instance<S>>> {
        let mut session = self.pool.take_session().await?;
        let mut tx = P::begin(&mut session).await?;
        let found = find(&mut Connection::new(&mut InTransaction::<P>(&mut tx)), S::TYPE, correlation_id).await?;
        found.as_ref().map(Stored::instance).transpose()
    }

    /// Returns the engine, to pause and resume sagas.
    pub fn engine(&self) -> &ProjectionEngine<P> {
        &self.engine
    }

    /// Returns how far the sagas of a type are.
    ///
    /// # Errors
    /// Those of [`ProjectionEngine::status`].
    pub async fn status<S: Saga>(&self) -> Result<ProjectionStatus> {
        self.engine.status(&projection_of(S::TYPE)).await
    }

    /// Runs all sagas, and works on their time-outs, until `shutdown` is ready. A role that may not create subscriptions works on
    /// those that there are.
    ///
    /// # Errors
    /// Those of [`ProjectionEngine::run_until`], and of a worker.
    pub async fn run_until(&self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let stop = CancellationToken::new();
        let types: Vec<&'static str> =
            self.timeouts.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        let workers = types.into_iter().map(|saga_type| {
            let stop = stop.clone();
            async move {
                let worked = self.work(saga_type, stop.clone()).await;
                if worked.is_err() {
                    // The rest of the manager ends as well.
                    stop.cancel();
                }
                worked
            }
        });
        let engine = async {
            let told = async {
                tokio::select! {
                    () = shutdown => {}
                    () = stop.cancelled() => {}
                }
            };
            let ended = self.engine.run_until(told).await;
            stop.cancel();
            ended
        };
        let (engine, workers) = tokio::join!(engine, join_all(workers));
        workers.into_iter().fold(engine, Result::and)
    }
}

/// Returns the name of the projection of a type of sagas.
fn projection_of(saga_type: &str) -> String {
    format!("saga {saga_type}")
}
