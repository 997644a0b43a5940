//! The worker application: one process that handles the deliveries of several subscriptions.
//!
//! ```no_run
//! use pg_outbox::app::{Json, State, Workers};
//! use pg_outbox::{Outbox, shutdown_signal};
//!
//! #[derive(serde::Deserialize)]
//! struct OrderCreated {
//!     order: i64,
//! }
//!
//! async fn bill(State(region): State<String>, Json(order): Json<OrderCreated>) -> anyhow::Result<()> {
//!     println!("order {} in {region}", order.order);
//!     Ok(())
//! }
//!
//! # async fn example() -> pg_outbox::Result<()> {
//! let outbox = Outbox::connect(&std::env::var("DATABASE_URL").unwrap_or_default()).await?;
//! Workers::new(outbox)
//!     .subscription("billing", |s| s.ensure(["order.#"]).on("order.created", bill).concurrency(16))
//!     .with_state("eu".to_owned())
//!     .run_until(shutdown_signal())
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! The subscriptions are created or altered at the start. Each has a [`Worker`](crate::Worker) with a session of its own.
//! The application ends when `shutdown` is ready, or with the first error of a worker that retrying does not solve; in both
//! cases handlers that have begun finish.

mod extract;
mod handler;
mod health;
mod periodic;
mod projection;
mod subscription;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower_layer::Layer;
use tower_service::Service;

pub use self::extract::{FromDelivery, FromRef, Json, State};
pub use self::handler::{AppHandler, HandlerError, HandlerService};
use self::health::Health;
pub use self::periodic::Periodic;
use self::projection::Projection;
pub use self::subscription::{RouteOptions, Subscription};
use crate::driver::Transactions;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::outbox::Outbox;
use crate::reader::ReaderBuilder;
use crate::worker::{AnyHandler, Delivery, Failure, Report, WorkerBuilder, chain};

/// A part of the application that is no subscription.
type Part = Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, Result<()>> + Send>;

/// A function that puts a layer around a handler.
type AnyLayer = Arc<dyn Fn(AnyHandler) -> AnyHandler + Send + Sync>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A function that runs when the application begins or has ended.
type Hook = Box<dyn FnOnce() -> BoxFuture<'static, std::result::Result<(), BoxError>> + Send>;

/// A function that gets the errors of handlers.
type OnError = Arc<dyn Fn(&Delivery, &Failure) + Send + Sync>;

/// The parts of an application that need no state.
#[derive(Default)]
struct Parts {
    layers: Vec<AnyLayer>,
    periodic: Vec<Periodic>,
    projections: Vec<Projection>,
    startup: Vec<Hook>,
    shutdown: Vec<Hook>,
    on_error: Option<OnError>,
    health: Option<String>,
    beside: Vec<(String, Part)>,
}

/// The worker application. `S` is the state that handlers still need; [`Workers::with_state`] provides it.
pub struct Workers<S = ()> {
    outbox: Outbox,
    subscriptions: Vec<Subscription<S>>,
    parts: Parts,
}

impl<S> std::fmt::Debug for Workers<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("subscriptions", &self.subscriptions).finish_non_exhaustive()
    }
}

impl<S: Clone + Send + Sync + 'static> Workers<S> {
    /// Creates an application without subscriptions.
    pub fn new(outbox: Outbox) -> Workers<S> {
        Workers { outbox, subscriptions: Vec::new(), parts: Parts::default() }
    }

    /// Adds the handlers of a pull subscription.
    #[must_use]
    pub fn subscription(
        mut self,
        name: impl Into<String>,
        define: impl FnOnce(Subscription<S>) -> Subscription<S>,
    ) -> Workers<S> {
        self.subscriptions.push(define(Subscription::new(name.into())));
        self
    }

    /// Puts a layer of tower around the handlers of all subscriptions. The layer that is added last is the outermost one.
    /// The error of the service is a [`HandlerError`] if the handler failed.
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Workers<S>
    where
        L: Layer<HandlerService> + Send + Sync + 'static,
        L::Service: Service<Delivery, Response = Option<serde_json::Value>> + Clone + Send + Sync + 'static,
        <L::Service as Service<Delivery>>::Future: Send,
        <L::Service as Service<Delivery>>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.parts.layers.push(Arc::new(move |inner| handler::layered(&layer, inner)));
        self
    }

    /// Adds a message that is enqueued at the times of a cron expression.
    #[must_use]
    pub fn periodic(mut self, message: Periodic) -> Workers<S> {
        self.parts.periodic.push(message);
        self
    }

    /// Adds a projection: `effect` applies each batch of messages in a transaction of `pool` that also moves the cursor of the
    /// reader, as in [`ReaderBuilder::apply`]. Any number of processes may run it. The effect runs in a thread of its own,
    /// because Rust cannot prove yet that the future of a closure with captures is `Send`.
    #[must_use]
    pub fn projection<P, F, E>(mut self, reader: ReaderBuilder, pool: &P, effect: F) -> Workers<S>
    where
        P: Transactions + 'static,
        F: AsyncFnMut(&mut P::Transaction<'_>, &[Message]) -> std::result::Result<(), E> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.parts.projections.push(Projection::new(reader, pool.clone(), effect));
        self
    }

    /// Calls an async function before the workers begin. If it fails, the application ends with its error.
    #[must_use]
    pub fn on_startup<Fut, E>(mut self, hook: impl FnOnce() -> Fut + Send + 'static) -> Workers<S>
    where
        Fut: Future<Output = std::result::Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.parts.startup.push(boxed(hook));
        self
    }

    /// Calls an async function after the workers and projections have ended.
    #[must_use]
    pub fn on_shutdown<Fut, E>(mut self, hook: impl FnOnce() -> Fut + Send + 'static) -> Workers<S>
    where
        Fut: Future<Output = std::result::Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.parts.shutdown.push(boxed(hook));
        self
    }

    /// Calls a function for each error that a handler returns, for example to report it, before rules decide about it. A
    /// [`Failure::Retry`] or [`Failure::Dead`] is not reported.
    #[must_use]
    pub fn on_error(mut self, hook: impl Fn(&Delivery, &Failure) + Send + Sync + 'static) -> Workers<S> {
        self.parts.on_error = Some(Arc::new(hook));
        self
    }

    /// Answers GET /health and /metrics on an address such as `:8080` or `127.0.0.1:8080` while the application runs. /health is
    /// 200 while every worker and projection has a session and no effect fails, else 503.
    #[must_use]
    pub fn health_port(mut self, address: impl Into<String>) -> Workers<S> {
        self.parts.health = Some(address.into());
        self
    }

    /// Runs something else beside the workers, for example projections or sagas. It ends when the token is cancelled. Its error
    /// ends the application.
    #[must_use]
    pub fn beside<F>(
        mut self,
        name: impl Into<String>,
        run: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Workers<S>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.parts.beside.push((name.into(), Box::new(move |stop| Box::pin(run(stop)))));
        self
    }

    /// Provides the state of all handlers. A handler takes it, or a part of it, as [`State`].
    pub fn with_state(self, state: S) -> Workers {
        let subscriptions = self.subscriptions.into_iter().map(|s| s.with_state(&state)).collect();
        Workers { outbox: self.outbox, subscriptions, parts: self.parts }
    }
}

impl Workers {
    /// Works until `shutdown` is ready, usually [`shutdown_signal`](crate::shutdown_signal). Returns the counts of each
    /// subscription's worker, and as `periodic <name>` those of each periodic message: ticks that are completed and failed.
    /// A tick fails if its message cannot be enqueued. The tick is logged, and the application goes on. `projection <consumer>`
    /// counts the messages that are applied as completed.
    ///
    /// # Errors
    /// 22023 if the definitions are wrong: a malformed topic pattern or cron expression, a subscription without handlers,
    /// two projections of one cursor, an address that cannot be listened on, nothing to do. XX000 if a hook fails. Errors that retrying does not solve, such as a missing privilege, as in
    /// [`Worker::run`](crate::Worker::run).
    pub async fn run_until(self, shutdown: impl Future<Output = ()> + Send) -> Result<BTreeMap<String, Report>> {
        let Parts { layers, periodic, projections, startup, shutdown: at_end, on_error, health, beside } = self.parts;
        if self.subscriptions.is_empty() && projections.is_empty() && periodic.is_empty() && beside.is_empty() {
            return Err(Error::invalid(
                "the application has neither subscriptions nor projections nor periodic messages",
            ));
        }
        let stop = CancellationToken::new();
        // Projections have threads of their own. They also end if this future is dropped.
        let _stops = stop.clone().drop_guard();
        let mut tasks: JoinSet<Result<(String, Report)>> = JoinSet::new();
        // Everything is checked before anything starts.
        let watched = projection::by_name(&projections)?;
        let names = self.subscriptions.iter().map(|subscription| subscription.name().to_owned());
        let board = Arc::new(Health::new(names, watched, stop.clone()));
        let mut workers = Vec::new();
        for subscription in &self.subscriptions {
            let handler = board.count(subscription.name(), subscription.handler(&layers, on_error.clone())?);
            let worker = board.watch(subscription.name(), subscription.worker(&self.outbox));
            workers.push(worker.build_any(handler));
        }
        let mut ticking = Vec::new();
        for message in periodic {
            ticking.push(message.start(self.outbox.clone(), stop.clone())?);
        }
        let mut serving = JoinSet::new();
        if let Some(address) = health {
            serving.spawn(health::serve(health::listen(&address).await?, board));
        }
        let mut shutdown = std::pin::pin!(shutdown);
        for subscription in &self.subscriptions {
            tokio::select! {
                ensured = subscription.ensure_exists(&self.outbox) => ensured?,
                () = &mut shutdown => return Ok(BTreeMap::new()),
            }
        }
        if let Err(error) = call("startup", startup).await {
            if let Err(second) = call("shutdown", at_end).await {
                tracing::error!(error = second.report(), "the shutdown hook failed, too");
            }
            return Err(error);
        }
        for ticking in ticking {
            tasks.spawn(async { Ok(ticking.await) });
        }
        for projection in projections {
            let stop = stop.clone();
            tasks.spawn_blocking(move || projection.run(stop));
        }
        for (subscription, worker) in self.subscriptions.iter().zip(workers) {
            let name = subscription.name().to_owned();
            tracing::info!(subscription = name, "the worker starts");
            let stop = stop.clone();
            tasks.spawn(async move {
                let report = worker.run_until(stop.cancelled_owned()).await?;
                tracing::info!(subscription = name, ?report, "the worker has ended");
                Ok((name, report))
            });
        }
        for (name, run) in beside {
            let running = run(stop.clone());
            tasks.spawn(async move {
                running.await?;
                tracing::info!(name, "a part of the application has ended");
                Ok((name, Report::default()))
            });
        }
        let mut reports = BTreeMap::new();
        let mut failure = None;
        loop {
            let ended = tokio::select! {
                ended = tasks.join_next() => ended,
                () = &mut shutdown, if !stop.is_cancelled() => {
                    stop.cancel();
                    continue;
                }
            };
            match ended {
                None => break,
                Some(Ok(Ok((name, report)))) => _ = reports.insert(name, report),
                Some(Ok(Err(error))) => _ = failure.get_or_insert(error),
                Some(Err(error)) => {
                    let panicked = Error::new("XX000", "a part of the application panicked").detail(error.to_string());
                    failure.get_or_insert(panicked);
                }
            }
            if failure.is_some() {
                stop.cancel();
            }
        }
        if let Err(error) = call("shutdown", at_end).await {
            failure.get_or_insert(error);
        }
        failure.map_or(Ok(reports), Err)
    }

    /// Handles the deliveries of the messages that are committed now, with the same handlers and layers, one after the other, for
    /// tests. Waits until the messages are routed. The subscription must exist.
    ///
    /// # Errors
    /// The first failure of a handler; the deliveries after it are handled all the same. 22023 for a subscription without
    /// handlers here, and the errors of [`Worker::run`](crate::Worker::run), as a [`HandlerError`] too.
    pub async fn drain(&self, subscription: &str) -> std::result::Result<Report, HandlerError> {
        let known = self.subscriptions.iter().find(|known| known.name() == subscription);
        let known =
            known.ok_or_else(|| Error::invalid(format!("subscription \"{subscription}\" has no handlers here")))?;
        let first: Arc<Mutex<Option<HandlerError>>> = Arc::default();
        let handler = known.handler(&self.parts.layers, self.parts.on_error.clone())?;
        let kept = first.clone();
        let watched: AnyHandler = Arc::new(move |delivery| {
            let (kept, topic) = (kept.clone(), delivery.topic.clone());
            let handled = handler(delivery);
            Box::pin(async move {
                let handled = handled.await;
                if let Err(failure) = &handled
                    && let Ok(mut first) = kept.lock()
                {
                    first.get_or_insert_with(|| HandlerError::new(failure.clone()).at(topic));
                }
                handled
            })
        });
        let worker = known.worker(&self.outbox).concurrency(1).until_empty();
        let report = drained(&self.outbox, worker, watched).await?;
        let first = first.lock().ok().and_then(|mut first| first.take());
        first.map_or(Ok(report), Err)
    }
}

impl From<Error> for HandlerError {
    fn from(error: Error) -> HandlerError {
        HandlerError::new(Failure::from(error))
    }
}

/// Runs a worker until nothing that is committed is left for it.
pub(crate) async fn drained(outbox: &Outbox, worker: WorkerBuilder, handler: AnyHandler) -> Result<Report> {
    let mut total = Report::default();
    loop {
        // A completed delivery may have unblocked the next one of its key.
        outbox.settle().await?;
        let report = worker.clone().build_any(handler.clone()).run().await?;
        total.add(report);
        if report.is_idle() {
            return Ok(total);
        }
    }
}

fn boxed<Fut, E>(hook: impl FnOnce() -> Fut + Send + 'static) -> Hook
where
    Fut: Future<Output = std::result::Result<(), E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    Box::new(move || {
        let called = hook();
        Box::pin(async move { called.await.map_err(Into::into) })
    })
}

/// Calls hooks in order, up to the first one that fails.
async fn call(which: &str, hooks: Vec<Hook>) -> Result<()> {
    for hook in hooks {
        hook()
            .await
            .map_err(|error| Error::new("XX000", format!("the {which} hook failed")).detail(chain(error.as_ref())))?;
    }
    Ok(())
}
