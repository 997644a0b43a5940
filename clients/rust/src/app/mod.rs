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
mod periodic;
mod subscription;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower_layer::Layer;
use tower_service::Service;

pub use self::extract::{FromDelivery, FromRef, Json, State};
pub use self::handler::{AppHandler, HandlerError, HandlerService};
pub use self::periodic::Periodic;
pub use self::subscription::{RouteOptions, Subscription};
use crate::error::{Error, Result};
use crate::outbox::Outbox;
use crate::worker::{AnyHandler, Delivery, Failure, Report};

/// A function that puts a layer around a handler.
type AnyLayer = Arc<dyn Fn(AnyHandler) -> AnyHandler + Send + Sync>;

/// The worker application. `S` is the state that handlers still need; [`Workers::with_state`] provides it.
pub struct Workers<S = ()> {
    outbox: Outbox,
    subscriptions: Vec<Subscription<S>>,
    layers: Vec<AnyLayer>,
    periodic: Vec<Periodic>,
}

impl<S> std::fmt::Debug for Workers<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("subscriptions", &self.subscriptions).finish_non_exhaustive()
    }
}

impl<S: Clone + Send + Sync + 'static> Workers<S> {
    /// Creates an application without subscriptions.
    pub fn new(outbox: Outbox) -> Workers<S> {
        Workers { outbox, subscriptions: Vec::new(), layers: Vec::new(), periodic: Vec::new() }
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
        self.layers.push(Arc::new(move |inner| handler::layered(&layer, inner)));
        self
    }

    /// Adds a message that is enqueued at the times of a cron expression.
    #[must_use]
    pub fn periodic(mut self, message: Periodic) -> Workers<S> {
        self.periodic.push(message);
        self
    }

    /// Provides the state of all handlers. A handler takes it, or a part of it, as [`State`].
    pub fn with_state(self, state: S) -> Workers {
        let subscriptions = self.subscriptions.into_iter().map(|s| s.with_state(&state)).collect();
        Workers { outbox: self.outbox, subscriptions, layers: self.layers, periodic: self.periodic }
    }
}

impl Workers {
    /// Works until `shutdown` is ready, usually [`shutdown_signal`](crate::shutdown_signal). Returns the counts of each
    /// subscription's worker, and as `periodic <name>` those of each periodic message: ticks that are completed and failed.
    /// A tick fails if its message cannot be enqueued. The tick is logged, and the application goes on.
    ///
    /// # Errors
    /// 22023 if the definitions are wrong: a malformed topic pattern or cron expression, a subscription without handlers,
    /// nothing to do. Errors that retrying does not solve, such as a missing privilege, as in
    /// [`Worker::run`](crate::Worker::run).
    pub async fn run_until(self, shutdown: impl Future<Output = ()> + Send) -> Result<BTreeMap<String, Report>> {
        if self.subscriptions.is_empty() && self.periodic.is_empty() {
            return Err(Error::invalid(
                "the application has neither subscriptions nor projections nor periodic messages",
            ));
        }
        let stop = CancellationToken::new();
        let mut tasks: JoinSet<Result<(String, Report)>> = JoinSet::new();
        // Everything is checked before anything starts.
        let mut workers = Vec::new();
        for subscription in &self.subscriptions {
            let handler = subscription.handler(&self.layers)?;
            workers.push(subscription.worker(&self.outbox).build_any(handler));
        }
        for message in self.periodic {
            let ticking = message.start(self.outbox.clone(), stop.clone())?;
            tasks.spawn(async { Ok(ticking.await) });
        }
        let mut shutdown = std::pin::pin!(shutdown);
        for subscription in &self.subscriptions {
            tokio::select! {
                ensured = subscription.ensure_exists(&self.outbox) => ensured?,
                () = &mut shutdown => return Ok(BTreeMap::new()),
            }
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
        failure.map_or(Ok(reports), Err)
    }

    /// Handles the deliveries that are in a subscription now, with the same handlers and layers, one after the other, for
    /// tests. The subscription must exist.
    ///
    /// # Errors
    /// The first failure of a handler; the deliveries after it are handled all the same. 22023 for a subscription without
    /// handlers here, and the errors of [`Worker::run`](crate::Worker::run), as a [`HandlerError`] too.
    pub async fn drain(&self, subscription: &str) -> std::result::Result<Report, HandlerError> {
        let known = self.subscriptions.iter().find(|known| known.name() == subscription);
        let known =
            known.ok_or_else(|| Error::invalid(format!("subscription \"{subscription}\" has no handlers here")))?;
        let first: Arc<Mutex<Option<HandlerError>>> = Arc::default();
        let handler = known.handler(&self.layers)?;
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
        let report = known.worker(&self.outbox).concurrency(1).until_empty().build_any(watched).run().await?;
        let first = first.lock().ok().and_then(|mut first| first.take());
        first.map_or(Ok(report), Err)
    }
}

impl From<Error> for HandlerError {
    fn from(error: Error) -> HandlerError {
        HandlerError::new(Failure::from(error))
    }
}
