//! Helpers for tests of event-sourced applications, without a server.
//!
//! ```
//! use pg_outbox::events::Aggregate;
//! use pg_outbox::testing::events::Scenario;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! #[serde(tag = "type", content = "data")]
//! enum DoorEvent {
//!     Opened,
//!     Closed,
//! }
//!
//! #[derive(Default)]
//! struct Door(bool);
//!
//! impl Aggregate for Door {
//!     const CATEGORY: &'static str = "door";
//!     type Event = DoorEvent;
//!     fn apply(&mut self, event: DoorEvent) {
//!         self.0 = matches!(event, DoorEvent::Opened);
//!     }
//! }
//!
//! let close = |door: &mut pg_outbox::events::Root<Door>| match door.0 {
//!     true => door.raise(DoorEvent::Closed),
//!     false => Err(pg_outbox::Error::invalid("the door is closed")),
//! };
//! Scenario::<Door>::given([DoorEvent::Opened]).when(close).then([DoorEvent::Closed])?;
//! Scenario::<Door>::given([]).when(close).then_error("is closed")?;
//! # Ok::<(), pg_outbox::Error>(())
//! ```

use std::fmt::{self, Display};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

use super::contains;
use crate::error::Error;
use crate::events::project::BoxError;
use crate::events::saga::{Actions, Instance, Saga};
use crate::events::source;
use crate::events::store::IntoEvent;
use crate::events::{Aggregate, Metadata, NewEvent, RecordedEvent, Root};

type Result<T, E = Error> = std::result::Result<T, E>;

/// An aggregate with a history.
#[derive(Debug)]
pub struct Scenario<A>(Root<A>);

impl<A: Aggregate> Scenario<A> {
    /// Begins with these events. The id of the aggregate is `1`.
    pub fn given(events: impl IntoIterator<Item = A::Event>) -> Scenario<A> {
        Scenario(Root::from_events("1", events))
    }

    /// Begins with these events, for an aggregate with this id.
    pub fn given_of(id: &str, events: impl IntoIterator<Item = A::Event>) -> Scenario<A> {
        Scenario(Root::from_events(id, events))
    }

    /// Lets the aggregate decide in asynchronous code: `.when_async(async |order| order.pay(&rates).await)`.
    pub async fn when_async<R, E>(
        mut self,
        decide: impl AsyncFnOnce(&mut Root<A>) -> std::result::Result<R, E>,
    ) -> Outcome<A, R, E> {
        let result = decide(&mut self.0).await;
        Outcome { root: self.0, result }
    }

    /// Lets the aggregate decide.
    pub fn when<R, E>(mut self, decide: impl FnOnce(&mut Root<A>) -> std::result::Result<R, E>) -> Outcome<A, R, E> {
        let result = decide(&mut self.0);
        Outcome { root: self.0, result }
    }
}

/// The end of a [`Scenario`].
#[derive(Debug)]
pub struct Outcome<A, R, E> {
    root: Root<A>,
    result: std::result::Result<R, E>,
}

impl<A: Aggregate, R, E: Display> Outcome<A, R, E> {
    /// Checks that the decision succeeded and has raised exactly these events.
    ///
    /// # Errors
    /// Kind conflict, with the events that were raised.
    pub fn then(self, events: impl IntoIterator<Item = A::Event>) -> Result<Outcome<A, R, E>> {
        let expected: Vec<NewEvent> = events.into_iter().map(|event| NewEvent::of(&event)).collect::<Result<_>>()?;
        let raised = self.succeeded()?;
        let same = expected.len() == raised.len()
            && expected.iter().zip(raised).all(|(a, b)| a.event_type == b.event_type && a.data == b.data);
        if same { Ok(self) } else { Err(differs(&list(&expected), &list(raised))) }
    }

    /// Checks that the decision succeeded and has raised events that match, one each.
    ///
    /// # Errors
    /// Kind conflict, with the events that were raised.
    pub fn then_matching(self, events: impl IntoIterator<Item = Matcher>) -> Result<Outcome<A, R, E>> {
        let expected: Vec<Matcher> = events.into_iter().collect();
        let raised = self.succeeded()?;
        let same = expected.len() == raised.len()
            && expected.iter().zip(raised).all(|(matcher, event)| matcher.matches(event));
        if same { Ok(self) } else { Err(differs(&format!("{expected:?}"), &list(raised))) }
    }

    /// Checks that the decision succeeded and has raised no event.
    ///
    /// # Errors
    /// Kind conflict, with the events that were raised.
    pub fn then_nothing(self) -> Result<Outcome<A, R, E>> {
        self.then([])
    }

    /// Checks the result of the decision.
    ///
    /// # Errors
    /// Kind conflict, with the result or the error.
    pub fn then_result(self, expected: R) -> Result<Outcome<A, R, E>>
    where
        R: PartialEq + fmt::Debug,
    {
        match &self.result {
            Ok(result) if expected == *result => Ok(self),
            Ok(result) => Err(differs(&format!("{expected:?}"), &format!("{result:?}"))),
            Err(error) => Err(differs(&format!("{expected:?}"), &format!("the error \"{error}\""))),
        }
    }

    /// Checks that the decision failed with an error whose text contains this, and has raised no event. Returns the error.
    ///
    /// # Errors
    /// Kind conflict if it succeeded, has failed with another error, or has raised events before it failed.
    pub fn then_error(self, text: &str) -> Result<E> {
        match self.result {
            Err(error) if error.to_string().contains(text) && self.root.raised().is_empty() => Ok(error),
            Err(error) if error.to_string().contains(text) => {
                Err(differs("an error and no events", &list(self.root.raised())))
            }
            Err(error) => Err(differs(&format!("an error with \"{text}\""), &format!("the error \"{error}\""))),
            Ok(_) => Err(differs(&format!("an error with \"{text}\""), &list(self.root.raised()))),
        }
    }

    /// Checks the state.
    ///
    /// # Errors
    /// Kind conflict if the condition does not hold.
    pub fn then_state(self, condition: impl FnOnce(&A) -> bool) -> Result<Outcome<A, R, E>> {
        if condition(&self.root) { Ok(self) } else { Err(Error::new("OB004", "the state is not as expected")) }
    }

    /// Returns the result of the decision.
    ///
    /// # Errors
    /// The error of the decision.
    pub fn into_result(self) -> std::result::Result<R, E> {
        self.result
    }

    fn succeeded(&self) -> Result<&[NewEvent]> {
        match &self.result {
            Ok(_) => Ok(self.root.raised()),
            Err(error) => Err(differs("events", &format!("the error \"{error}\""))),
        }
    }
}

pub(super) fn differs(expected: &str, found: &str) -> Error {
    Error::new("OB004", format!("expected {expected}, found {found}"))
}

fn list(events: &[NewEvent]) -> String {
    match events {
        [] => "no events".to_owned(),
        _ => events.iter().map(|e| format!("{} {}", e.event_type, e.data)).collect::<Vec<_>>().join(", "),
    }
}

type Condition = Arc<dyn Fn(&Value) -> bool + Send + Sync>;

/// Properties of an event.
#[derive(Clone, Default)]
pub struct Matcher {
    event_type: Option<String>,
    data: Option<Value>,
    conditions: Vec<(&'static str, Condition)>,
    metadata: Map<String, Value>,
    stream: Option<String>,
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let conditions: Vec<&str> = self.conditions.iter().map(|(name, _)| *name).collect();
        f.debug_struct("Matcher")
            .field("event_type", &self.event_type)
            .field("data", &self.data)
            .field("conditions", &conditions)
            .field("metadata", &self.metadata)
            .field("stream", &self.stream)
            .finish()
    }
}

impl Matcher {
    /// Matches events of a type.
    pub fn of_type(event_type: impl Into<String>) -> Matcher {
        Matcher { event_type: Some(event_type.into()), ..Matcher::default() }
    }

    /// Matches if the data contains this: objects contain the keys and values of a smaller one, other values are equal.
    #[must_use]
    pub fn data(mut self, data: Value) -> Matcher {
        self.data = Some(data);
        self
    }

    /// Matches if a condition holds for the data. `name` says which one, in the error of a test.
    #[must_use]
    pub fn data_that(mut self, name: &'static str, holds: impl Fn(&Value) -> bool + Send + Sync + 'static) -> Matcher {
        self.conditions.push((name, Arc::new(holds)));
        self
    }

    /// Matches if the metadata has this entry.
    #[must_use]
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<Value>) -> Matcher {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Matches events of a stream. A new event has no stream, and does not match.
    #[must_use]
    pub fn stream(mut self, stream: impl Into<String>) -> Matcher {
        self.stream = Some(stream.into());
        self
    }

    /// Returns whether a new event matches.
    pub fn matches(&self, event: &NewEvent) -> bool {
        self.stream.is_none() && self.fits(&event.event_type, &event.data, |name| event.metadata.get(name))
    }

    /// Returns whether a stored event matches.
    pub fn matches_recorded(&self, event: &RecordedEvent) -> bool {
        self.stream.as_ref().is_none_or(|stream| *stream == event.stream)
            && self.fits(&event.event_type, &event.data, |name| event.metadata.get(name))
    }

    fn fits<'v>(&self, event_type: &str, data: &Value, metadata: impl Fn(&str) -> Option<&'v Value>) -> bool {
        self.event_type.as_deref().is_none_or(|known| known == event_type)
            && self.data.as_ref().is_none_or(|part| contains(data, part))
            && self.conditions.iter().all(|(_, holds)| holds(data))
            && self.metadata.iter().all(|(name, value)| metadata(name) == Some(value))
    }
}

/// Returns an event as it would be loaded, for tests of projections and sagas. Its version is also its position and message id.
///
/// # Errors
/// 22023 if the value is no event.
pub fn recorded(stream: &str, version: i64, event: &(impl Serialize + ?Sized)) -> Result<RecordedEvent> {
    recorded_with(stream, version, NewEvent::of(event)?)
}

/// Returns a new event, with its metadata and id, as it would be loaded.
///
/// # Errors
/// 22023 if the value is no event.
pub fn recorded_with(stream: &str, version: i64, event: impl IntoEvent) -> Result<RecordedEvent> {
    let event = event.into_event()?;
    let (metadata, tenant) = event.metadata.over(&Metadata::current()).into_parts();
    Ok(RecordedEvent {
        stream: stream.to_owned(),
        version,
        event_type: event.event_type,
        data: event.data,
        body: None,
        content_type: None,
        metadata,
        event_id: event.event_id,
        position: Some(version),
        message_id: version,
        tenant,
        occurred_at: None,
        recorded_at: source::now(),
        redacted: false,
    })
}

/// Returns events of one stream as they would be loaded, with the versions 1, 2 and so on.
///
/// # Errors
/// 22023 if a value is no event.
pub fn recorded_all<I: IntoIterator<Item: IntoEvent>>(stream: &str, events: I) -> Result<Vec<RecordedEvent>> {
    (1..).zip(events).map(|(version, event)| recorded_with(stream, version, event)).collect()
}

/// Runs a future in which the time stands still, and the ids of dispatches and correlations are
/// `00000000-0000-4000-8000-000000000001` and so on. Keys and nonces stay random.
pub fn fixed<F: Future>(now: DateTime<Utc>, future: F) -> impl Future<Output = F::Output> {
    source::fixed(now, future)
}

/// A saga with a history, without a server.
///
/// Its id is `1`, whatever the correlation of the events says.
#[derive(Debug)]
pub struct SagaScenario<S> {
    instance: Instance<S>,
    actions: Actions,
}

impl<S: Saga> SagaScenario<S> {
    /// Begins with a saga that has handled these events.
    ///
    /// # Errors
    /// The error of [`Saga::handle`].
    pub fn given(events: impl IntoIterator<Item = RecordedEvent>) -> Result<SagaScenario<S>, BoxError> {
        let mut scenario = SagaScenario { instance: Instance::default(), actions: Actions::default() };
        for event in events {
            scenario = scenario.when(&event)?;
        }
        Ok(scenario)
    }

    /// Lets the saga handle an event.
    ///
    /// # Errors
    /// The error of [`Saga::handle`].
    pub fn when(mut self, event: &RecordedEvent) -> Result<SagaScenario<S>, BoxError> {
        self.actions = self.instance.act("1", |saga, actions| saga.handle(event, actions))?;
        Ok(self)
    }

    /// Lets the saga handle a time-out.
    ///
    /// # Errors
    /// The error of [`Saga::timed_out`].
    pub fn when_timed_out(mut self, name: &str) -> Result<SagaScenario<S>, BoxError> {
        self.actions = self.instance.act("1", |saga, actions| saga.timed_out(name, actions))?;
        Ok(self)
    }

    /// Checks that the last event made the saga send messages to these topics, in this order, and no others.
    ///
    /// # Errors
    /// Kind conflict, with the topics of the messages.
    pub fn then_sent(self, topics: &[&str]) -> Result<SagaScenario<S>> {
        let sent: Vec<&str> = self.actions.sent.iter().map(|sent| sent.topic.as_str()).collect();
        if sent == topics { Ok(self) } else { Err(differs(&format!("messages to {topics:?}"), &format!("{sent:?}"))) }
    }

    /// Checks that the last event made the saga send one message to a topic, whose payload contains this: objects contain the keys and
    /// values of a smaller one, other values are equal.
    ///
    /// # Errors
    /// Kind conflict, with the messages to the topic.
    pub fn then_message(self, topic: &str, payload: &Value) -> Result<SagaScenario<S>> {
        let sent: Vec<&Value> =
            self.actions.sent.iter().filter(|sent| sent.topic == topic).map(|sent| &sent.payload).collect();
        match sent[..] {
            [one] if contains(one, payload) => Ok(self),
            _ => Err(differs(&format!("a message to {topic} with {payload}"), &format!("{sent:?}"))),
        }
    }

    /// Checks that the last event made the saga append events that match, one each.
    ///
    /// # Errors
    /// Kind conflict, with the events that it appends.
    pub fn then_appended(self, events: impl IntoIterator<Item = Matcher>) -> Result<SagaScenario<S>> {
        let expected: Vec<Matcher> = events.into_iter().collect();
        let appended = &self.actions.appended;
        let fits = |(matcher, (stream, event)): (&Matcher, &(String, NewEvent))| {
            let of_stream = matcher.stream.as_ref().is_none_or(|known| known == stream);
            of_stream && matcher.fits(&event.event_type, &event.data, |name| event.metadata.get(name))
        };
        if expected.len() == appended.len() && expected.iter().zip(appended).all(fits) {
            return Ok(self);
        }
        let events: Vec<NewEvent> = appended.iter().map(|(_, event)| event.clone()).collect();
        Err(differs(&format!("{expected:?}"), &list(&events)))
    }

    /// Checks that the last event made the saga send no message, ask for no time-out and append no event.
    ///
    /// # Errors
    /// Kind conflict, with the topics of the messages, or the events.
    pub fn then_nothing(self) -> Result<SagaScenario<S>> {
        self.then_sent(&[])?.then_appended([])
    }

    /// Checks that the last event made the saga ask for a time-out, after so long. The clock has to stand still, which is what
    /// [`fixed`] does.
    ///
    /// # Errors
    /// Kind conflict, with the time of the time-out.
    pub fn then_timeout(self, name: &str, after: Duration) -> Result<SagaScenario<S>> {
        let found = self.actions.sent.iter().find(|sent| sent.timeout.as_deref() == Some(name));
        let found = found.and_then(|sent| sent.deliver_at);
        let wanted = TimeDelta::from_std(after).ok().and_then(|after| source::now().checked_add_signed(after));
        match found == wanted && found.is_some() {
            true => Ok(self),
            false => Err(differs(&format!("the time-out \"{name}\" at {wanted:?}"), &format!("{found:?}"))),
        }
    }

    /// Checks the status of a step.
    ///
    /// # Errors
    /// Kind conflict, with the steps.
    pub fn then_step(self, name: &str, status: &str) -> Result<SagaScenario<S>> {
        match self.instance.steps.iter().any(|step| step.name == name && step.status == status) {
            true => Ok(self),
            false => Err(differs(&format!("step {name} {status}"), &format!("{:?}", self.instance.steps))),
        }
    }

    /// Checks the state.
    ///
    /// # Errors
    /// Kind conflict if the condition does not hold.
    pub fn then_state(self, condition: impl FnOnce(&S) -> bool) -> Result<SagaScenario<S>> {
        match condition(&self.instance.state) {
            true => Ok(self),
            false => Err(Error::new("OB004", "the state is not as expected")),
        }
    }

    /// Checks the status of the saga.
    ///
    /// # Errors
    /// Kind conflict, with the status.
    pub fn then_status(self, status: &str) -> Result<SagaScenario<S>> {
        if self.instance.status == status { Ok(self) } else { Err(differs(status, &self.instance.status)) }
    }

    /// Returns the saga.
    pub fn instance(&self) -> &Instance<S> {
        &self.instance
    }

    /// Returns the actions of the last event.
    pub fn actions(&self) -> &Actions {
        &self.actions
    }
}
