//! Sagas: processes of several steps that follow events, send messages and append events, and undo their steps when one fails.
//!
//! The state of a saga is a serde type. For each event, [`SagaManager`] loads the saga of the event's correlation id, lets it
//! handle the event, and saves it, with the messages and events that it sends, in one transaction with the cursor. So each event
//! is handled once, and nothing that it sends is lost. The server locks the saga, compares versions, and knows which events it has
//! handled.
//!
//! A time-out is a message of the topic `saga.timeout` with `deliver_at`. A subscription of the application gets it and calls
//! [`SagaManager::timed_out`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::connection::Connection;
use super::event::{NewEvent, RecordedEvent};
use super::fault::Fault;
use super::project::{BoxError, ProjectionEngine, ProjectionStatus};
use super::retry::Retry;
use super::source::now;
use super::store::{EventStore, IntoEvent, one};
use super::subscribe::Selection;
use crate::driver::{Executor as _, InTransaction, Statement, Transactions, text};
use crate::error::{Error, Kind};
use crate::message::{Message, Param};
use crate::outbox::Outbox;

type Result<T, E = Error> = std::result::Result<T, E>;

/// The topic of time-outs.
pub const TIMEOUT: &str = "saga.timeout";

/// The state of a process of several steps. `Default` is the state before its first event.
pub trait Saga: Serialize + DeserializeOwned + Default + Send + Sync + 'static {
    /// The name of the type.
    const TYPE: &'static str;

    /// The names of its steps, in order. The first one runs when the saga starts.
    const STEPS: &'static [&'static str] = &[];

    /// Returns whether an event of this type starts a saga, if there is none for its correlation id.
    fn starts_with(event_type: &str) -> bool;

    /// Returns the id of the saga that an event belongs to. `None`: it belongs to none.
    fn correlation(event: &RecordedEvent) -> Option<String>;

    /// Handles an event: changes the state, and says what is to be done.
    ///
    /// # Errors
    /// An error is a fault of the program. It is recorded, and the event is handled again later. A step that has failed is
    /// [`Actions::fail`].
    fn handle(&mut self, event: &RecordedEvent, actions: &mut Actions) -> Result<(), BoxError>;

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
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Value,
    /// The ordering key.
    pub key: Option<String>,
    /// The time before which it is not delivered.
    pub deliver_at: Option<DateTime<Utc>>,
}

/// The actions of a saga. They happen in the transaction that saves it.
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
        self.sent.push(Sent { topic: topic.into(), payload, key, deliver_at: None });
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

    /// Asks for a time-out. If the saga has not ended by then, [`Saga::timed_out`] gets the name.
    pub fn timeout(&mut self, name: &str, after: Duration) {
        let deliver_at = TimeDelta::from_std(after).ok().and_then(|after| now().checked_add_signed(after));
        let payload = json!({"saga_type": self.saga_type, "saga_id": self.saga_id, "name": name});
        let key = Some(self.saga_id.clone());
        self.sent.push(Sent { topic: TIMEOUT.to_owned(), payload, key, deliver_at });
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
#[derive(Clone, Debug)]
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
        "compensated".clone_into(&mut self.status);
        self.failure_reason = Some(reason);
        for step in &mut self.steps {
            if step.status == "running" {
                "failed".clone_into(&mut step.status);
            }
        }
        for step in self.steps.iter_mut().rev().filter(|step| step.status == "completed") {
            if let Err(error) = self.state.compensate(&step.name, actions) {
                tracing::error!(saga = S::TYPE, step = step.name, %error, "a step cannot be undone");
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
    status: String,
    steps: Vec<Step>,
    state: Value,
    failure_reason: Option<String>,
    version: i64,
    completed_at: Option<DateTime<Utc>>,
}

async fn find(on: &mut Connection<'_>, saga_type: &str, correlation_id: &str) -> Result<Option<Stored>> {
    let sql = "select to_jsonb(s)::text as r from outbox.saga_find($1, $2) s";
    let rows = on.run(Statement::new(sql, [text(saga_type), text(correlation_id)])).await?;
    rows.into_iter().flatten().next().map(|row| Ok(serde_json::from_str(&row)?)).transpose()
}

async fn save<S: Saga>(
    on: &mut Connection<'_>,
    saga_id: &str,
    version: i64,
    instance: &Instance<S>,
    status: &str,
) -> Result<i64> {
    let sql = "select outbox.saga_save($1, $2, $3::jsonb, $4::int8, status => $5, step => $6::int4, steps => $7::jsonb,
            correlation_id => $2, failure_reason => $8)::text as r";
    let step = instance.steps.iter().take_while(|step| step.status == "completed").count();
    let reason = instance
        .failure_reason
        .as_ref()
        .map(|reason| Param::Text(reason.chars().filter(|c| *c != '\0').take(10_000).collect()));
    let params = [
        text(S::TYPE),
        text(saga_id),
        text(serde_json::to_value(&instance.state)?),
        text(version),
        text(status),
        text(step),
        text(serde_json::to_value(&instance.steps)?),
        reason,
    ];
    one(on.run(Statement::new(sql, params)).await?)
}

/// Lets a saga act on the message or event `message_id`, unless it has done so before or has ended.
async fn act<S: Saga>(
    store: &EventStore,
    on: &mut Connection<'_>,
    correlation_id: &str,
    message_id: i64,
    starts: bool,
    act: impl FnOnce(&mut S, &mut Actions) -> Result<(), BoxError>,
) -> Result<(), BoxError> {
    let saga_id = match find(on, S::TYPE, correlation_id).await? {
        Some(found) if found.completed_at.is_some() => return Ok(()),
        Some(found) => found.saga_id,
        None if starts => {
            save(on, correlation_id, 0, &Instance::<S>::default(), "started").await?;
            correlation_id.to_owned()
        }
        None => return Ok(()),
    };
    let sql = "select outbox.saga_handle($1, $2, $3::int8)::text as r";
    let is_new: bool = one(on.run(Statement::new(sql, [text(S::TYPE), text(&saga_id), text(message_id)])).await?)?;
    if !is_new {
        return Ok(());
    }
    // The saga is locked now.
    let sql = "select to_jsonb(s)::text as r from outbox.saga_load($1, $2) s";
    let stored: Stored = one(on.run(Statement::new(sql, [text(S::TYPE), text(&saga_id)])).await?)?;
    if stored.completed_at.is_some() {
        return Ok(());
    }
    let state = serde_json::from_str(&stored.state.to_string())?;
    let (status, steps, failure_reason) = (stored.status, stored.steps, stored.failure_reason);
    let mut instance = Instance { state, status, steps, failure_reason };
    let actions = instance.act(&saga_id, act)?;
    let mut version = stored.version;
    if instance.status.starts_with("compensat") {
        version = save(on, &saga_id, version, &instance, "compensating").await?;
    }
    save(on, &saga_id, version, &instance, &instance.status).await?;
    for sent in actions.sent {
        let mut message = Message::to(sent.topic).json(&sent.payload)?;
        if let Some(key) = sent.key {
            message = message.key(key);
        }
        if let Some(at) = sent.deliver_at {
            message = message.deliver_at(at);
        }
        message.enqueue(&mut *on).await?;
    }
    for (stream, event) in actions.appended {
        store.append(&mut *on, &stream, [event], super::ANY).await?;
    }
    Ok(())
}

/// A time-out of a saga: the payload of a message of the topic `saga.timeout`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimedOut {
    /// The type of the saga.
    pub saga_type: String,
    /// The id of the saga.
    pub saga_id: String,
    /// The name of the time-out.
    pub name: String,
}

type OnTimeout =
    Arc<dyn for<'c> Fn(Connection<'c>, i64, &'c TimedOut) -> BoxFuture<'c, Result<(), BoxError>> + Send + Sync>;

/// Runs sagas. Each type is an async projection of an engine, named `saga.` and its type, with a cursor of its own. It is cheap to
/// clone, and a clone is the same manager.
pub struct SagaManager<P: Transactions + 'static> {
    engine: ProjectionEngine<P>,
    pool: P,
    store: EventStore,
    timeouts: Arc<Mutex<HashMap<&'static str, OnTimeout>>>,
}

impl<P: Transactions + 'static> Clone for SagaManager<P> {
    fn clone(&self) -> Self {
        let (engine, pool) = (self.engine.clone(), self.pool.clone());
        SagaManager { engine, pool, store: self.store.clone(), timeouts: self.timeouts.clone() }
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
        SagaManager { engine, pool, store, timeouts: Arc::default() }
    }

    /// Registers a saga, which gets the events of a selection.
    ///
    /// # Errors
    /// 22023 if the type is registered already.
    pub fn register<S: Saga>(&self, selection: Selection) -> Result<()> {
        let store = self.store.clone();
        self.engine.register(&format!("saga.{}", S::TYPE), selection, move |tx, events| {
            let store = store.clone();
            Box::pin(async move {
                let mut tx = InTransaction::<P>(tx);
                let mut on = Connection::new(&mut tx);
                for event in events {
                    let Some(id) = S::correlation(event) else { continue };
                    let starts = S::starts_with(&event.event_type);
                    let handle = |saga: &mut S, actions: &mut Actions| saga.handle(event, actions);
                    act(&store, &mut on, &id, event.message_id, starts, handle).await?;
                }
                Ok(())
            })
        })?;
        let store = self.store.clone();
        let timeout: OnTimeout = Arc::new(move |mut on, message_id, timeout| {
            let store = store.clone();
            Box::pin(async move {
                let time_out = |saga: &mut S, actions: &mut Actions| saga.timed_out(&timeout.name, actions);
                act(&store, &mut on, &timeout.saga_id, message_id, false, time_out).await
            })
        });
        self.timeouts.lock().unwrap_or_else(PoisonError::into_inner).insert(S::TYPE, timeout);
        Ok(())
    }

    /// Handles a time-out in a transaction. The handler of a subscription on `saga.timeout` calls it, with the id of the message.
    /// The same message again does nothing, and neither does a time-out of a saga that has ended.
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
            let handler = handler.clone();
            async move {
                let mut session = self.pool.take_session().await?;
                let mut tx = P::begin(&mut session).await?;
                handler(Connection::new(&mut InTransaction::<P>(&mut tx)), message_id, timeout).await?;
                Ok(P::commit(tx).await?)
            }
        };
        Retry::default().run(is_worth_it, attempt).await
    }

    /// Returns a saga by its id, or `None`.
    ///
    /// # Errors
    /// 22023 if the stored state is no `S`.
    pub async fn find<S: Saga>(&self, saga_id: &str) -> Result<Option<Instance<S>>> {
        let mut session = self.pool.take_session().await?;
        let mut tx = P::begin(&mut session).await?;
        let found = find(&mut Connection::new(&mut InTransaction::<P>(&mut tx)), S::TYPE, saga_id).await?;
        let instance = |stored: Stored| {
            let (status, steps, failure_reason) = (stored.status, stored.steps, stored.failure_reason);
            let state = serde_json::from_str(&stored.state.to_string())?;
            Ok(Instance { state, status, steps, failure_reason })
        };
        found.map(instance).transpose()
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
        self.engine.status(&format!("saga.{}", S::TYPE)).await
    }

    /// Runs all sagas until `shutdown` is ready.
    ///
    /// # Errors
    /// Those of [`ProjectionEngine::run_until`].
    pub async fn run_until(&self, shutdown: impl Future<Output = ()>) -> Result<()> {
        self.engine.run_until(shutdown).await
    }
}
