//! Pull workers: they claim, handle and complete deliveries.
//!
//! One loop owns the session and all state. Handlers run as tasks beside the loop. Invariants:
//!
//! * Only deliveries that a handler has finished are completed. An error, a panic and a cancelled task are failures.
//!   Deliveries whose handler has not begun are released.
//! * An outcome is retained until the server has taken it. A lost connection or a restart of the server only delays it.
//! * Every delivery ends, regardless of what its handler returns. Text that PostgreSQL cannot store is replaced, and an
//!   outcome that the server refuses becomes a failure that says so.
//! * When the last deliveries of a lease are done and the worker goes on, one call completes them and claims the next
//!   deliveries. If the server refuses this call, completing and claiming are separate calls.
//! * A lease is extended while a handler runs. When it is lost, the handler's [`Delivery::lost`] says so and the outcome is
//!   dropped, because another worker may have the delivery.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::{BoxFuture, join_all};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Statement};
pub use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::connect::{Listening, Opened, Target};
use crate::error::{Error, Kind, Result};
use crate::message::Message;
use crate::outbox::{Backoff, MAX_WAIT, passes};
use crate::trace::continue_trace;

/// A message that this worker has leased. Dereferences to the [`Message`].
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The lease of the delivery.
    pub lease: i64,
    /// The end of the lease as of the claim. The lease is extended while the handler runs.
    pub lease_expires_at: DateTime<Utc>,
    /// The id of the delivery.
    pub delivery_id: i64,
    /// The subscription.
    pub subscription: String,
    /// The number of this attempt, from 1.
    pub attempt: i32,
    /// The largest number of attempts.
    pub max_attempts: i32,
    /// The priority.
    pub priority: i16,
    /// The time before which the message is not delivered.
    pub deliver_at: Option<DateTime<Utc>>,
    /// The time after which the message is not delivered.
    pub expires_at: Option<DateTime<Utc>>,
    /// When the previous attempt began.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// The error of the previous attempt.
    pub last_error: Option<String>,
    /// The message.
    pub message: Message,
    lost: CancellationToken,
}

impl std::ops::Deref for Delivery {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl Delivery {
    /// Returns a token that is cancelled when the lease is lost, or when the worker stops waiting at shutdown. The handler
    /// should stop then, because its outcome will not count.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Reads a delivery from a row of `claim` or `claim_delivery`.
    pub(crate) fn from_row(row: &Row, lost: CancellationToken) -> Result<Delivery> {
        Ok(Delivery {
            lease: row.try_get("lease")?,
            lease_expires_at: row.try_get("lease_expires_at")?,
            delivery_id: row.try_get("delivery_id")?,
            subscription: row.try_get("subscription")?,
            attempt: row.try_get("attempt")?,
            max_attempts: row.try_get("max_attempts")?,
            priority: row.try_get("priority")?,
            deliver_at: row.try_get("deliver_at")?,
            expires_at: row.try_get("expires_at")?,
            last_attempt_at: row.try_get("last_attempt_at")?,
            last_error: row.try_get("last_error")?,
            message: Message::from_row(row)?,
            lost,
        })
    }
}

/// The failure of a handler. Every error converts to one by `?`: a `std::error::Error`, an `anyhow::Error`, a text.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The delivery is retried, on the subscription's schedule or after a given time.
    Retry {
        /// The error. It is stored with the attempt.
        error: String,
        /// The wait before the next attempt. `None`: the schedule decides.
        after: Option<Duration>,
    },
    /// No further attempt will help. The delivery is dead-lettered.
    Dead {
        /// The reason. It is stored with the dead letter.
        reason: String,
    },
    /// An error that the handler returned. The delivery is retried, unless a rule for the type of the error says otherwise.
    /// The texts of the error and its sources are stored with the attempt.
    Error(Arc<dyn std::error::Error + Send + Sync>),
}

impl Failure {
    /// Creates a failure that is retried on the schedule.
    pub fn retry(error: impl ToString) -> Failure {
        Failure::Retry { error: error.to_string(), after: None }
    }

    /// Creates a failure that is retried after this time.
    pub fn retry_after(error: impl ToString, after: Duration) -> Failure {
        Failure::Retry { error: error.to_string(), after: Some(after) }
    }

    /// Creates a failure that is dead-lettered.
    pub fn dead(reason: impl ToString) -> Failure {
        Failure::Dead { reason: reason.to_string() }
    }

    /// Returns the error of this type in the chain of errors that the handler returned.
    pub fn find<E: std::error::Error + 'static>(&self) -> Option<&E> {
        let Failure::Error(error) = self else { return None };
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    /// Returns the text that is stored: the error or the reason. Of an error that the handler returned, the texts of the
    /// error and its sources.
    pub fn text(&self) -> String {
        match self {
            Failure::Retry { error, .. } => error.clone(),
            Failure::Dead { reason } => reason.clone(),
            Failure::Error(error) => chain(error.as_ref()),
        }
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        // The conversion of anyhow hides the type of the error, so that no rule for the type could find it.
        let mut error = Some(error);
        let any: &mut dyn std::any::Any = &mut error;
        if let Some(error) = any.downcast_mut::<Option<anyhow::Error>>().and_then(Option::take) {
            return Failure::Error(Arc::from(error.reallocate_into_boxed_dyn_error_without_backtrace()));
        }
        match error {
            Some(error) => Failure::Error(Arc::from(error.into())),
            None => Failure::retry("the handler failed"),
        }
    }
}

/// Returns the texts of an error and its sources on one line. A source whose text is part of the text before is left out.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        // An error of this crate has its detail and hint instead of the sources of the driver.
        let (part, is_ours) = match error.downcast_ref::<Error>() {
            Some(ours) => (ours.report().replace('\n', "; "), true),
            None => (error.to_string(), false),
        };
        if !text.contains(&part) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&part);
        }
        next = if is_ours || text.len() > MAX_TEXT { None } else { error.source() };
    }
    text
}

/// The return value of a handler that has a result for the attempt log (the receiver's id as a string, or an object).
pub type Handled = std::result::Result<Option<Value>, Failure>;

/// The types that a handler may return are `Result<(), E>`, or `Result<Option<Value>, E>` with a result for the attempt log. `E` is any
/// error: a `std::error::Error`, an `anyhow::Error`, or a [`Failure`].
pub trait IntoHandled {
    /// Converts the value.
    fn into_handled(self) -> Handled;
}

impl<E: Into<Failure>> IntoHandled for std::result::Result<(), E> {
    fn into_handled(self) -> Handled {
        self.map(|()| None).map_err(Into::into)
    }
}

impl<E: Into<Failure>> IntoHandled for std::result::Result<Option<Value>, E> {
    fn into_handled(self) -> Handled {
        self.map_err(Into::into)
    }
}

/// The form of a handler that returns [`Handled`].
#[derive(Debug)]
pub enum WithResult {}

/// The form of a handler that returns `Result<(), E>`.
#[derive(Debug)]
pub enum WithoutResult {}

/// Does the work for one delivery. Every `Fn(Delivery)` is a handler if it returns a future of `Result<(), E>` for any error
/// `E`, or of [`Handled`]. `Form` tells the two apart and is found by the compiler.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler of deliveries",
    note = "a handler is an `async fn(Delivery) -> Result<(), E>`, where E is any error, or returns `Handled`"
)]
pub trait Handler<Form>: Send + Sync + 'static {
    /// Handles a delivery. A panic is a failure.
    fn handle(&self, delivery: Delivery) -> impl Future<Output = Handled> + Send;
}

impl<F, Fut> Handler<WithResult> for F
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Handled> + Send,
{
    fn handle(&self, delivery: Delivery) -> impl Future<Output = Handled> + Send {
        self(delivery)
    }
}

impl<F, Fut, E> Handler<WithoutResult> for F
where
    F: Fn(Delivery) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = std::result::Result<(), E>> + Send,
    E: Into<Failure>,
{
    async fn handle(&self, delivery: Delivery) -> Handled {
        self(delivery).await.into_handled()
    }
}

/// A handler of any type.
pub(crate) type AnyHandler = Arc<dyn Fn(Delivery) -> BoxFuture<'static, Handled> + Send + Sync>;

pub(crate) fn any_handler<Form>(handler: impl Handler<Form>) -> AnyHandler {
    let handler = Arc::new(handler);
    Arc::new(move |delivery| {
        let handler = handler.clone();
        Box::pin(async move { handler.handle(delivery).await })
    })
}

/// An event in the life of a worker. Each is also logged by `tracing`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The worker has a session.
    Connected,
    /// A pooler in front of the server does not pass notifications on, so the worker only polls. Reported once.
    Polling,
    /// The session was lost, or could not be opened. The worker tries again.
    Disconnected(Error),
    /// A handler failed. The delivery is retried or dead-lettered.
    Failed(Box<FailedDelivery>),
    /// A lease was lost. Its handlers have been told.
    LeaseLost(i64),
    /// The server refused an outcome. The delivery fails with this error.
    Refused(Error),
}

/// A delivery whose handler failed.
#[derive(Clone, Debug)]
pub struct FailedDelivery {
    /// The message.
    pub message_id: i64,
    /// The topic.
    pub topic: String,
    /// The number of the attempt that failed, from 1.
    pub attempt: i32,
    /// The largest number of attempts.
    pub max_attempts: i32,
    /// The failure.
    pub failure: Failure,
}

impl Event {
    fn log(&self, settings: &WorkerBuilder) {
        let (subscription, worker) = (settings.subscription.as_str(), settings.name.as_str());
        match self {
            Event::Connected => tracing::debug!(subscription, worker, "the worker is connected"),
            Event::Polling => tracing::info!(
                subscription,
                worker,
                "notifications do not arrive through this pooler, so the worker polls every {:?}",
                settings.poll
            ),
            Event::Disconnected(error) => {
                tracing::warn!(
                    subscription,
                    worker,
                    error = error.report(),
                    "the worker has no connection and tries again"
                );
            }
            Event::Failed(failed) => {
                let FailedDelivery { message_id, topic, attempt, max_attempts, failure } = failed.as_ref();
                let error = failure.text();
                match failure {
                    Failure::Dead { .. } => tracing::error!(
                        subscription,
                        topic,
                        message_id,
                        attempt,
                        error,
                        "a handler dead-lettered its delivery"
                    ),
                    _ if attempt >= max_attempts => tracing::error!(
                        subscription,
                        topic,
                        message_id,
                        attempt,
                        max_attempts,
                        error,
                        "a handler failed at the last attempt, and the delivery is dead-lettered"
                    ),
                    _ => tracing::warn!(
                        subscription,
                        topic,
                        message_id,
                        attempt,
                        max_attempts,
                        error,
                        "a handler failed, and the delivery is retried"
                    ),
                }
            }
            Event::LeaseLost(lease) => {
                tracing::warn!(subscription, worker, lease, "a lease was lost: its deliveries go to another worker");
            }
            Event::Refused(error) => {
                tracing::error!(
                    subscription,
                    worker,
                    error = error.report(),
                    "the server refused the outcome of a handler"
                );
            }
        }
    }
}

/// The counts of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Deliveries that were completed.
    pub completed: u64,
    /// Deliveries that failed. They are retried, or dead-lettered after the last attempt.
    pub failed: u64,
    /// Deliveries that the handler dead-lettered.
    pub dead: u64,
    /// Deliveries that were given back at shutdown without an attempt.
    pub released: u64,
    /// Deliveries whose lease was lost before the server knew the outcome.
    pub lost: u64,
    /// Sessions that were lost.
    pub disconnects: u64,
}

impl Report {
    /// Adds the counts of another worker.
    pub(crate) fn add(&mut self, other: Report) {
        self.completed += other.completed;
        self.failed += other.failed;
        self.dead += other.dead;
        self.released += other.released;
        self.lost += other.lost;
        self.disconnects += other.disconnects;
    }

    /// Returns whether no delivery has ended.
    pub(crate) fn is_idle(&self) -> bool {
        self.completed + self.failed + self.dead == 0
    }
}

type Listener = Arc<dyn Fn(Event) + Send + Sync>;

/// The settings of a worker.
#[derive(Clone)]
pub struct WorkerBuilder {
    target: Target,
    subscription: String,
    name: String,
    concurrency: usize,
    batch: usize,
    lease: Duration,
    poll: Duration,
    grace: Duration,
    until_empty: bool,
    listener: Listener,
}

impl std::fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerBuilder").field("subscription", &self.subscription).finish_non_exhaustive()
    }
}

impl WorkerBuilder {
    pub(crate) fn new(target: Target, subscription: String) -> WorkerBuilder {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_or_else(|_| "worker".to_owned(), |name| name.trim().to_owned());
        WorkerBuilder {
            target,
            subscription,
            name: format!("{host}-{}", std::process::id()),
            concurrency: 8,
            batch: 0,
            lease: Duration::from_secs(60),
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(30),
            until_empty: false,
            listener: Arc::new(|_| {}),
        }
    }

    /// Sets the worker's name in views and logs. The default is the host name and the process id.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets the largest number of handlers that run at once. The default is 8.
    #[must_use]
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = handlers.max(1);
        self
    }

    /// Sets the number of deliveries per claim. The default is the number of free handlers.
    #[must_use]
    pub fn batch(mut self, deliveries: usize) -> Self {
        self.batch = deliveries.min(10_000);
        self
    }

    /// Sets the duration of a lease. The default is 60 s. The worker extends its leases after each third of this time.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.clamp(Duration::from_millis(100), MAX_WAIT);
        self
    }

    /// Sets the interval of polls while there is nothing to do. The default is 1 s.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll = interval.clamp(Duration::from_millis(1), MAX_WAIT);
        self
    }

    /// Sets the time that handlers have to finish at shutdown. The default is 30 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace.min(MAX_WAIT);
        self
    }

    /// Lets the worker end when there is nothing to claim.
    #[must_use]
    pub fn until_empty(mut self) -> Self {
        self.until_empty = true;
        self
    }

    /// Sets a listener for the events of the worker.
    #[must_use]
    pub fn on_event(mut self, listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        self.listener = Arc::new(listener);
        self
    }

    /// Lets `watch` see the events before the listener does.
    pub(crate) fn also_on_event(mut self, watch: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        let listener = self.listener;
        self.listener = Arc::new(move |event| {
            watch(&event);
            listener(event);
        });
        self
    }

    /// Creates the worker. It does nothing before [`Worker::run`].
    pub fn build<Form>(self, handler: impl Handler<Form>) -> Worker {
        self.build_any(any_handler(handler))
    }

    pub(crate) fn build_any(self, handler: AnyHandler) -> Worker {
        Worker { settings: self, handler, stop: CancellationToken::new() }
    }
}

/// A worker on one pull subscription.
pub struct Worker {
    settings: WorkerBuilder,
    handler: AnyHandler,
    stop: CancellationToken,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Worker {
    /// Returns a token. Cancelling it lets the worker end gracefully.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Works until it is stopped. The worker reconnects after lost connections and restarts of the server.
    ///
    /// # Errors
    /// Errors that retrying does not solve: the subscription, a privilege, the password or the extension is missing, or the
    /// extension's version does not fit. Running handlers are finished first.
    pub async fn run(self) -> Result<Report> {
        Run::new(self).run().await
    }

    /// Works until `shutdown` is ready, usually [`shutdown_signal`]. Handlers that have begun finish within
    /// [`WorkerBuilder::grace`]; other deliveries are released without a counted attempt.
    ///
    /// # Errors
    /// Those of [`Worker::run`].
    pub async fn run_until(self, shutdown: impl Future<Output = ()> + Send) -> Result<Report> {
        let stop = self.stop.clone();
        let stopping = async {
            shutdown.await;
            stop.cancel();
            std::future::pending().await
        };
        tokio::select! {
            report = self.run() => report,
            () = stopping => Ok(Report::default()),
        }
    }
}

/// Waits for SIGINT (Ctrl-C) or SIGTERM, with which deployments end a process. Where a signal cannot be received, the others
/// count.
pub async fn shutdown_signal() {
    let interrupted = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::warn!(%error, "SIGINT cannot be received");
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => _ = signal.recv().await,
            Err(error) => {
                tracing::warn!(%error, "SIGTERM cannot be received");
                std::future::pending::<()>().await;
            }
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = interrupted => tracing::info!("SIGINT was received"),
        () = terminated => tracing::info!("SIGTERM was received"),
    }
}

struct Lease {
    lost: CancellationToken,
    open: usize,
    /// Whether the deliveries of the lease on the server are exactly those that are open here.
    whole: bool,
}

/// The delivery of a handler that runs.
struct Task {
    lease: i64,
    delivery: i64,
    message_id: i64,
    topic: String,
    attempt: i32,
    max_attempts: i32,
}

struct Pending {
    lease: i64,
    delivery: i64,
    handled: Handled,
    told: Told,
}

/// How an outcome is reported to the server.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    /// Together with other outcomes of the lease.
    Together,
    /// Alone, because the server refused a call with several outcomes.
    Alone,
    /// Alone and as a failure, because the server refused the outcome itself.
    Refused,
}

/// A parameter and its type.
type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// The statements that run most often, with the types of their parameters.
#[derive(Clone, Copy)]
enum Hot {
    Claim,
    Complete,
    CompleteAndClaim,
}

impl Hot {
    const ALL: [(&'static str, &'static [Type]); 3] = [
        (
            "select c.* from outbox.claim($1, $2, $3, make_interval(secs => $4)) c",
            &[Type::TEXT, Type::TEXT, Type::INT4, Type::FLOAT8],
        ),
        ("select outbox.complete($1, $2, $3)", &[Type::INT8, Type::INT8_ARRAY, Type::JSONB]),
        (
            "select c.* from outbox.complete_and_claim($1, $2, $3, $4, make_interval(secs => $5)) c",
            &[Type::INT8, Type::TEXT, Type::TEXT, Type::INT4, Type::FLOAT8],
        ),
    ];
}

struct Session {
    client: Client,
    /// The prepared statements of [`Hot::ALL`], if the session is the worker's own. Preparing saves a tenth of the time of a
    /// small statement. Behind a pooler no statement has a name, because the next statement may run in another session of
    /// the server, where the name is unknown or belongs to another client.
    named: Vec<Statement>,
}

impl Session {
    async fn new(opened: Opened) -> Result<Session> {
        let mut named = Vec::new();
        if !opened.pooled {
            for (sql, types) in Hot::ALL {
                named.push(opened.client.prepare_typed(sql, types).await?);
            }
        }
        Ok(Session { client: opened.client, named })
    }

    async fn hot(&self, which: Hot, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        Ok(match self.named.get(which as usize) {
            Some(statement) => self.client.query(statement, values).await?,
            None => {
                let (sql, types) = Hot::ALL[which as usize];
                let params: Vec<Param<'_>> = values.iter().copied().zip(types.iter().cloned()).collect();
                self.client.query_typed(sql, &params).await?
            }
        })
    }

    async fn query(&self, sql: &str, params: &[Param<'_>]) -> Result<Vec<Row>> {
        Ok(self.client.query_typed(sql, params).await?)
    }

    /// Reports the outcomes of a group. Returns the ids of the deliveries whose outcome the server has recorded.
    async fn tell(&self, group: &Group, results: Option<Value>) -> Result<Vec<i64>> {
        let (lease, ids): (Param<'_>, Param<'_>) = ((&group.lease, Type::INT8), (&group.ids, Type::INT8_ARRAY));
        let rows = match &group.ending {
            Ending::Complete => self.hot(Hot::Complete, &[&group.lease, &group.ids, &results]).await?,
            Ending::Fail(error, after) => {
                let sql = "select outbox.fail($1, $2, $3, make_interval(secs => $4))";
                self.query(sql, &[lease, ids, (error, Type::TEXT), (after, Type::FLOAT8)]).await?
            }
            Ending::Dead(reason) => {
                let sql = "select outbox.dead($1, $2, $3)";
                self.query(sql, &[lease, ids, (reason, Type::TEXT)]).await?
            }
        };
        rows.first().map_or(Ok(Vec::new()), |row| Ok(row.try_get(0)?))
    }
}

struct Run {
    settings: WorkerBuilder,
    handler: AnyHandler,
    stop: CancellationToken,
    wake: Arc<Notify>,
    session: Option<Session>,
    listening: Listening,
    backoff: Backoff,
    /// The server is not called again before this moment.
    next_try: Instant,
    leases: HashMap<i64, Lease>,
    queue: Vec<Delivery>,
    running: JoinSet<Handled>,
    tasks: HashMap<Id, Task>,
    pending: Vec<Pending>,
    report: Report,
    failure: Option<Error>,
}

impl Run {
    fn new(worker: Worker) -> Self {
        Run {
            settings: worker.settings,
            handler: worker.handler,
            stop: worker.stop,
            wake: Arc::new(Notify::new()),
            session: None,
            listening: Listening::default(),
            backoff: Backoff::default(),
            next_try: Instant::now(),
            leases: HashMap::new(),
            queue: Vec::new(),
            running: JoinSet::new(),
            tasks: HashMap::new(),
            pending: Vec::new(),
            report: Report::default(),
            failure: None,
        }
    }

    async fn run(mut self) -> Result<Report> {
        let stop = self.stop.clone();
        let wake = self.wake.clone();
        let mut next_poll = Instant::now();
        let mut next_beat = Instant::now() + self.settings.lease / 3;
        let mut give_up: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if (stop.is_cancelled() || self.failure.is_some()) && give_up.is_none() {
                give_up = Some(now + self.settings.grace);
                self.release_queue().await;
            }
            if self.session.is_none() && now >= self.next_try {
                self.connect().await;
            }
            if self.session.is_some() && now >= self.next_try {
                if now >= next_beat {
                    self.beat().await;
                    next_beat = Instant::now() + self.settings.lease / 3;
                }
                let goes_on = give_up.is_none()
                    && self.queue.is_empty()
                    && self.running.len() < self.settings.concurrency
                    && now >= next_poll;
                let done = if goes_on { self.done() } else { None };
                self.flush(done).await;
                if goes_on {
                    match self.claim(done).await {
                        // The completion may have unblocked other deliveries, so claim once more.
                        Some(0) if done.is_some() => {}
                        Some(0) if self.settings.until_empty && self.running.is_empty() && self.pending.is_empty() => {
                            self.stop.cancel();
                            continue;
                        }
                        Some(0) => next_poll = Instant::now() + self.settings.poll,
                        _ => {}
                    }
                }
            }
            while self.running.len() < self.settings.concurrency
                && let Some(delivery) = self.queue.pop()
            {
                self.start(delivery);
            }
            if let Some(end) = give_up {
                if self.running.is_empty() && self.pending.is_empty() {
                    break;
                }
                if Instant::now() >= end {
                    self.abort().await;
                    break;
                }
            }
            let busy = !self.pending.is_empty() || !self.leases.is_empty();
            let mut until = if busy { next_beat } else { Instant::now() + Duration::from_secs(3600) };
            if self.session.is_none() || (!self.pending.is_empty() && self.next_try > Instant::now()) {
                until = until.min(self.next_try);
            }
            if give_up.is_none() && self.queue.is_empty() && self.running.len() < self.settings.concurrency {
                until = until.min(next_poll.max(self.next_try));
            }
            if let Some(end) = give_up {
                until = until.min(end);
            }
            tokio::select! {
                biased;
                Some(done) = self.running.join_next_with_id() => {
                    self.finished(done);
                    // All finished handlers are collected, so that their outcomes are reported together.
                    while let Some(done) = self.running.try_join_next_with_id() {
                        self.finished(done);
                    }
                    if self.settings.until_empty {
                        // Only another claim shows that nothing is left.
                        next_poll = Instant::now();
                    }
                }
                () = stop.cancelled(), if give_up.is_none() => {}
                () = wake.notified() => next_poll = Instant::now(),
                () = sleep_until(until) => {}
            }
        }
        match self.failure {
            Some(error) => Err(error),
            None => Ok(self.report),
        }
    }

    fn start(&mut self, delivery: Delivery) {
        let task = Task {
            lease: delivery.lease,
            delivery: delivery.delivery_id,
            message_id: delivery.message_id,
            topic: delivery.topic.clone(),
            attempt: delivery.attempt,
            max_attempts: delivery.max_attempts,
        };
        // The context of a trace that `enqueue` got is a field of the span, for layers that continue the trace.
        let traceparent = delivery.get_metadata("traceparent").and_then(Value::as_str);
        let span = tracing::info_span!(
            "handle",
            subscription = delivery.subscription,
            topic = delivery.topic,
            message_id = delivery.message_id,
            attempt = delivery.attempt,
            traceparent,
            otel.name = IS_TRACED.then(|| format!("process {}", delivery.topic)),
            otel.kind = IS_TRACED.then_some("consumer"),
        );
        continue_trace(&span, delivery.metadata.as_ref());
        let handler = self.handler.clone();
        // The handler is called in the task, so that a panic before its first await is caught too.
        let running = self.running.spawn(async move { handler(delivery).await }.instrument(span));
        self.tasks.insert(running.id(), task);
    }

    fn finished(&mut self, done: std::result::Result<(Id, Handled), tokio::task::JoinError>) {
        let (id, handled) = match done {
            Ok((id, handled)) => (id, handled),
            Err(error) => {
                let id = error.id();
                (
                    id,
                    Err(Failure::retry(match error.try_into_panic() {
                        Ok(panic) => format!("the handler panicked: {}", panic_text(panic.as_ref())),
                        Err(_) => "the handler was cancelled".to_owned(),
                    })),
                )
            }
        };
        let Some(task) = self.tasks.remove(&id) else { return };
        let Task { lease, delivery, .. } = task;
        let handled = match handled.and_then(|result| result.map_or(Ok(None), storable)) {
            Ok(result) => Ok(result),
            Err(failure) => {
                let Task { message_id, topic, attempt, max_attempts, .. } = task;
                let text = clean(&failure.text());
                let ending = match &failure {
                    Failure::Retry { after, .. } => Failure::Retry { error: text, after: *after },
                    Failure::Error(_) => Failure::retry(text),
                    Failure::Dead { .. } => Failure::dead(text),
                };
                self.emit(Event::Failed(Box::new(FailedDelivery {
                    message_id,
                    topic,
                    attempt,
                    max_attempts,
                    failure,
                })));
                Err(ending)
            }
        };
        if self.leases.contains_key(&lease) {
            self.pending.push(Pending { lease, delivery, handled, told: Told::Together });
        } else {
            self.report.lost += 1;
        }
    }

    /// Logs an event and passes it to the listener.
    fn emit(&self, event: Event) {
        event.log(&self.settings);
        (self.settings.listener)(event);
    }

    async fn connect(&mut self) {
        let known = self.listening;
        let opened = async {
            let target = &self.settings.target;
            let payload = Some(self.settings.subscription.clone());
            // Only a subscription that was created with notify => true sends notifications.
            let opened = target.open_listening("outbox_pull", payload, self.wake.clone(), &mut self.listening).await?;
            Session::new(opened).await
        };
        match opened.await {
            Ok(session) => {
                self.session = Some(session);
                self.backoff.reset();
                self.emit(Event::Connected);
                if self.listening != known && self.listening == Listening::No {
                    self.emit(Event::Polling);
                }
            }
            Err(error) => self.failed(error),
        }
    }

    /// Handles an error of the server or of the connection: the worker waits and goes on, or ends.
    fn failed(&mut self, error: Error) {
        if !passes(&error) {
            self.failure.get_or_insert(error);
            // Finished outcomes are still reported once more.
            self.next_try = Instant::now();
            return;
        }
        self.next_try = Instant::now() + self.backoff.next();
        if self.session.as_ref().is_none_or(|session| session.client.is_closed())
            || ["connection_lost", "protocol_violation"].contains(&error.name())
        {
            if self.session.take().is_some() {
                self.report.disconnects += 1;
            }
            self.emit(Event::Disconnected(error));
        }
    }

    /// Returns a lease whose remaining deliveries are all done and have no results to report.
    fn done(&self) -> Option<i64> {
        let mut done: HashMap<i64, usize> = HashMap::new();
        for pending in self.pending.iter().filter(|pending| matches!(pending.handled, Ok(None))) {
            *done.entry(pending.lease).or_default() += 1;
        }
        let is_all = |id: i64, count: usize| self.leases.get(&id).is_some_and(|l| l.whole && l.open == count);
        done.into_iter().filter(|(id, count)| is_all(*id, *count)).max_by_key(|(_, count)| *count).map(|(id, _)| id)
    }

    /// Claims deliveries and completes the lease `done` in the same call. Returns the number of claimed deliveries, or
    /// `None` if the call failed.
    async fn claim(&mut self, done: Option<i64>) -> Option<usize> {
        let session = self.session.as_ref()?;
        let free = self.settings.concurrency - self.running.len();
        let wanted = if self.settings.batch == 0 { free } else { self.settings.batch };
        let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
        let lease = self.settings.lease.as_secs_f64();
        let settings = &self.settings;
        let claimed = match &done {
            None => session.hot(Hot::Claim, &[&settings.subscription, &settings.name, &wanted, &lease]).await,
            Some(done) => {
                let values: [&(dyn ToSql + Sync); 5] = [done, &settings.subscription, &settings.name, &wanted, &lease];
                session.hot(Hot::CompleteAndClaim, &values).await
            }
        };
        let rows = match claimed {
            Ok(rows) => rows,
            Err(error) if done.is_some() && !passes(&error) => {
                // The lease is lost or claiming fails. The separate calls will show which.
                self.flush(None).await;
                return None;
            }
            Err(error) => {
                self.failed(error);
                return None;
            }
        };
        if let Some(done) = done {
            let told = self.pending.len();
            self.pending.retain(|pending| pending.lease != done);
            let told = told - self.pending.len();
            self.report.completed += told as u64;
            self.close(done, told);
            self.backoff.reset();
        }
        let lost = CancellationToken::new();
        let mut count = 0;
        let mut whole = true;
        for row in &rows {
            match Delivery::from_row(row, lost.clone()) {
                Ok(delivery) => {
                    let lease = || Lease { lost: lost.clone(), open: 0, whole: true };
                    self.leases.entry(delivery.lease).or_insert_with(lease).open += 1;
                    self.queue.push(delivery);
                    count += 1;
                }
                Err(error) => {
                    whole = false;
                    self.failed(error);
                }
            }
        }
        if let Some(lease) = self.queue.last().and_then(|delivery| self.leases.get_mut(&delivery.lease)) {
            lease.whole = whole;
        }
        if count > 0 {
            tracing::debug!(
                subscription = self.settings.subscription,
                deliveries = count,
                "the worker claimed deliveries"
            );
        }
        // Deliveries are taken from the end of the queue.
        self.queue.reverse();
        Some(count)
    }

    /// Extends all leases that have open deliveries.
    async fn beat(&mut self) {
        let Some(session) = &self.session else { return };
        let lease = self.settings.lease.as_secs_f64();
        let ids: Vec<i64> = self.leases.keys().copied().collect();
        let answers = join_all(ids.iter().map(async |id| {
            let sql = "select outbox.extend($1::int8, make_interval(secs => $2::float8))";
            session.query(sql, &[(id, Type::INT8), (&lease, Type::FLOAT8)]).await
        }))
        .await;
        for (id, answer) in ids.into_iter().zip(answers) {
            match answer {
                Ok(_) => {}
                Err(error) if error.kind() == Kind::LeaseLost => self.lose(id),
                Err(error) => {
                    self.failed(error);
                    return;
                }
            }
        }
    }

    /// Drops a lease that the worker does not hold any more.
    fn lose(&mut self, id: i64) {
        if let Some(lease) = self.leases.remove(&id) {
            lease.lost.cancel();
            self.emit(Event::LeaseLost(id));
        }
        let queued = self.queue.len();
        self.queue.retain(|delivery| delivery.lease != id);
        let outcomes = self.pending.len();
        self.pending.retain(|pending| pending.lease != id);
        self.report.lost += (queued - self.queue.len() + outcomes - self.pending.len()) as u64;
    }

    /// Reports the finished outcomes to the server, except those of the lease that `claim` completes.
    async fn flush(&mut self, but: Option<i64>) {
        // The loop ends, because in each round a refused outcome is reported alone, or as a failure, or is given up.
        while self.tell(but).await {}
    }

    /// Makes one call per lease and kind of outcome. Returns whether there is more to report now, because the server refused
    /// an outcome.
    async fn tell(&mut self, but: Option<i64>) -> bool {
        let Some(session) = &self.session else { return false };
        let groups = self.groups(but);
        if groups.is_empty() {
            return false;
        }
        let answers = join_all(groups.iter().map(|group| session.tell(group, self.results(group)))).await;
        let mut told: Vec<usize> = Vec::new();
        let mut failure = None;
        let mut again = false;
        for (group, answer) in groups.iter().zip(answers) {
            match answer {
                Ok(changed) => {
                    told.extend(&group.indexes);
                    self.count(group, changed.len());
                }
                Err(error) if passes(&error) => failure = Some(error),
                Err(error) => {
                    let given_up = self.refused(group, error);
                    again |= given_up.len() < group.indexes.len();
                    told.extend(given_up);
                }
            }
        }
        told.sort_unstable();
        for index in told.into_iter().rev() {
            let pending = self.pending.swap_remove(index);
            self.close(pending.lease, 1);
        }
        match failure {
            Some(error) => {
                self.failed(error);
                false
            }
            None => {
                self.backoff.reset();
                again
            }
        }
    }

    /// Groups the finished outcomes, except those of the lease `but`, by lease and kind. An outcome that is reported alone
    /// is a group of its own.
    fn groups(&self, but: Option<i64>) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (index, pending) in self.pending.iter().enumerate().filter(|(_, pending)| Some(pending.lease) != but) {
            let key = match &pending.handled {
                Ok(_) => Ending::Complete,
                Err(Failure::Dead { reason }) => Ending::Dead(reason.clone()),
                Err(Failure::Retry { error, after }) => {
                    Ending::Fail(error.clone(), after.map(|a| a.min(MAX_WAIT).as_secs_f64()))
                }
                Err(failure @ Failure::Error(_)) => Ending::Fail(failure.text(), None),
            };
            let together = pending.told == Told::Together;
            let fits = |g: &&mut Group| together && g.together && g.lease == pending.lease && g.ending == key;
            let group = match groups.iter_mut().find(fits) {
                Some(group) => group,
                None => {
                    let lease = pending.lease;
                    groups.push(Group { lease, ending: key, together, ids: Vec::new(), indexes: Vec::new() });
                    let last = groups.len() - 1;
                    &mut groups[last]
                }
            };
            group.ids.push(pending.delivery);
            group.indexes.push(index);
        }
        groups
    }

    /// Returns the results of a completed group, in the order of its ids. `None` if no handler returned a result.
    fn results(&self, group: &Group) -> Option<Value> {
        let of = |i: &usize| match &self.pending[*i].handled {
            Ok(Some(result)) => result.clone(),
            _ => Value::Null,
        };
        let all: Vec<Value> = group.indexes.iter().map(of).collect();
        (group.ending == Ending::Complete && all.iter().any(|r| !r.is_null())).then_some(Value::Array(all))
    }

    /// Counts the outcomes of a group, of which the server has recorded `changed`.
    fn count(&mut self, group: &Group, changed: usize) {
        let counter = match group.ending {
            Ending::Complete => &mut self.report.completed,
            Ending::Fail(..) => &mut self.report.failed,
            Ending::Dead(_) => &mut self.report.dead,
        };
        *counter += changed as u64;
        self.report.lost += group.ids.len().saturating_sub(changed) as u64;
    }

    /// Decides about a group that the server refused. Reporting outcomes one by one shows which of several is refused. A
    /// refused outcome becomes a failure that says why. Returns the indexes of the outcomes that are not reported again.
    fn refused(&mut self, group: &Group, error: Error) -> Vec<usize> {
        if let Some(lease) = self.leases.get_mut(&group.lease) {
            lease.whole = false;
        }
        let lost = matches!(error.kind(), Kind::LeaseLost | Kind::NotFound);
        let mut given_up = Vec::new();
        for index in &group.indexes {
            let pending = &mut self.pending[*index];
            match pending.told {
                _ if lost => given_up.push(*index),
                Told::Refused => given_up.push(*index),
                Told::Together if group.ids.len() > 1 => pending.told = Told::Alone,
                Told::Together | Told::Alone => {
                    pending.told = Told::Refused;
                    let why = format!("the outcome was refused: {}", error.report().replace('\n', "; "));
                    let why = match &pending.handled {
                        Ok(_) => why,
                        Err(failure) => format!("{} ({why})", failure.text()),
                    };
                    pending.handled = Err(Failure::retry(clean(&why)));
                }
            }
        }
        self.emit(Event::Refused(error));
        given_up
    }

    fn close(&mut self, lease: i64, count: usize) {
        if let Some(state) = self.leases.get_mut(&lease) {
            state.open = state.open.saturating_sub(count);
            if state.open == 0 {
                self.leases.remove(&lease);
            }
        }
    }

    /// Releases the deliveries that were claimed and whose handlers have not begun.
    async fn release_queue(&mut self) {
        let mut by_lease: HashMap<i64, Vec<i64>> = HashMap::new();
        for delivery in self.queue.drain(..) {
            by_lease.entry(delivery.lease).or_default().push(delivery.delivery_id);
        }
        self.release(by_lease).await;
    }

    /// Cancels the handlers at the end of the grace period and releases their deliveries.
    async fn abort(&mut self) {
        for lease in self.leases.values() {
            lease.lost.cancel();
        }
        self.running.abort_all();
        let mut by_lease: HashMap<i64, Vec<i64>> = HashMap::new();
        while let Some(done) = self.running.join_next_with_id().await {
            match done {
                Err(error) if error.is_cancelled() => {
                    if let Some(task) = self.tasks.remove(&error.id()) {
                        by_lease.entry(task.lease).or_default().push(task.delivery);
                    }
                }
                done => self.finished(done),
            }
        }
        self.flush(None).await;
        self.release(by_lease).await;
    }

    async fn release(&mut self, by_lease: HashMap<i64, Vec<i64>>) {
        for (lease, ids) in by_lease {
            if let Some(session) = &self.session {
                let sql = "select cardinality(outbox.release($1, $2))";
                if let Ok(rows) = session.query(sql, &[(&lease, Type::INT8), (&ids, Type::INT8_ARRAY)]).await {
                    let released = rows.first().and_then(|row| row.try_get::<_, Option<i32>>(0).ok().flatten());
                    self.report.released += u64::try_from(released.unwrap_or(0)).unwrap_or(0);
                }
            }
            // If the release could not be reported, the lease expires.
            self.close(lease, ids.len());
        }
    }
}

struct Group {
    lease: i64,
    ending: Ending,
    together: bool,
    ids: Vec<i64>,
    indexes: Vec<usize>,
}

#[derive(PartialEq)]
enum Ending {
    Complete,
    Fail(String, Option<f64>),
    Dead(String),
}

/// The largest number of characters of a failure's text. The server stores fewer.
const MAX_TEXT: usize = 8192;

/// Whether spans go to OpenTelemetry, which has names and kinds of its own.
const IS_TRACED: bool = cfg!(feature = "opentelemetry");

/// The largest size of a handler's result, in bytes of JSON.
const MAX_RESULT: usize = 1 << 20;

/// Replaces and truncates text so that PostgreSQL can store it.
fn clean(text: &str) -> String {
    if text.trim().is_empty() {
        return "the handler failed without a message".to_owned();
    }
    text.chars().take(MAX_TEXT).map(|c| if c == '\0' { '\u{fffd}' } else { c }).collect()
}

/// Replaces NUL characters in a result so that PostgreSQL can store it. A result that is too large becomes a failure.
fn storable(result: Value) -> Handled {
    let size = result.to_string().len();
    if size > MAX_RESULT {
        return Err(Failure::retry(format!(
            "the handler's result is too large: {size} bytes of JSON, and {MAX_RESULT} are the most"
        )));
    }
    Ok(Some(without_nul(result)))
}

fn without_nul(value: Value) -> Value {
    let clean = |text: String| if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text };
    match value {
        Value::String(text) => Value::String(clean(text)),
        Value::Array(items) => items.into_iter().map(without_nul).collect(),
        Value::Object(entries) => entries.into_iter().map(|(name, value)| (clean(name), without_nul(value))).collect(),
        other => other,
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
