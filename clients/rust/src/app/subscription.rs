//! A subscription of the application: its handlers by topic, and the settings of its worker.

use std::sync::Arc;
use std::time::Duration;

use outbox_core::pattern::Pattern;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::handler::AppHandler;
use super::{AnyLayer, OnError};
use crate::admin::EnsureSubscription;
use crate::error::{Error, Kind, Result};
use crate::outbox::{Backoff, Outbox, passes};
use crate::worker::{AnyHandler, Delivery, Failure, Handled, WorkerBuilder};

/// A handler that still needs the state.
type StatefulHandler<S> = Arc<dyn Fn(Delivery, &S) -> futures_util::future::BoxFuture<'static, Handled> + Send + Sync>;

/// A rule for failures.
type Rule = Arc<dyn Fn(&Failure) -> Option<Failure> + Send + Sync>;

/// Changes the settings of a worker.
type Setting = Arc<dyn Fn(WorkerBuilder) -> WorkerBuilder + Send + Sync>;

/// Settings of one handler.
#[derive(Clone, Default)]
pub struct RouteOptions {
    rules: Vec<Rule>,
    limit: Option<usize>,
}

impl std::fmt::Debug for RouteOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteOptions").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl RouteOptions {
    /// Sets the largest number of runs of this handler at once. Deliveries that wait for their turn count as running for the
    /// concurrency of the subscription, and their leases are extended.
    #[must_use]
    pub fn concurrency(mut self, runs: usize) -> Self {
        self.limit = Some(runs.clamp(1, Semaphore::MAX_PERMITS));
        self
    }

    /// Dead-letters a delivery whose handler returns an error of this type, or one that has it as a source.
    #[must_use]
    pub fn dead_on<E: std::error::Error + 'static>(self) -> Self {
        self.rule::<E>(|failure| Failure::dead(failure.text()))
    }

    /// Retries a delivery after this time if its handler returns an error of this type, or one that has it as a source.
    #[must_use]
    pub fn retry_on<E: std::error::Error + 'static>(self, after: Duration) -> Self {
        self.rule::<E>(move |failure| Failure::retry_after(failure.text(), after))
    }

    /// Dead-letters a delivery whose handler returns any error that no rule before decides about.
    #[must_use]
    pub fn dead_otherwise(mut self) -> Self {
        self.rules
            .push(Arc::new(|failure| matches!(failure, Failure::Error(_)).then(|| Failure::dead(failure.text()))));
        self
    }

    fn rule<E: std::error::Error + 'static>(
        mut self,
        then: impl Fn(&Failure) -> Failure + Send + Sync + 'static,
    ) -> Self {
        self.rules.push(Arc::new(move |failure| failure.find::<E>().is_some().then(|| then(failure))));
        self
    }

    fn decide(&self, failure: Failure) -> Failure {
        self.rules.iter().find_map(|rule| rule(&failure)).unwrap_or(failure)
    }
}

struct Route<S> {
    topic: String,
    handler: StatefulHandler<S>,
    options: RouteOptions,
}

/// A route as deliveries find it.
struct Bound {
    topic: Pattern,
    handler: StatefulHandler<()>,
    options: RouteOptions,
    turns: Option<Semaphore>,
}

/// A subscription of the application.
pub struct Subscription<S> {
    name: String,
    ensure: Option<(Vec<String>, EnsureSubscription)>,
    routes: Vec<Route<S>>,
    settings: Vec<Setting>,
}

impl<S> std::fmt::Debug for Subscription<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<S: Clone + Send + Sync + 'static> Subscription<S> {
    pub(super) fn new(name: String) -> Subscription<S> {
        Subscription { name, ensure: None, routes: Vec::new(), settings: Vec::new() }
    }

    /// Creates the subscription to these topics at the start, or alters it. A new one begins at the oldest message that is
    /// stored.
    #[must_use]
    pub fn ensure<T: Into<String>>(self, topics: impl IntoIterator<Item = T>) -> Self {
        self.ensure_with(topics, EnsureSubscription::default())
    }

    /// Does the same as [`Subscription::ensure`], with settings such as a filter, `max_attempts` or `start`.
    #[must_use]
    pub fn ensure_with<T: Into<String>>(
        mut self,
        topics: impl IntoIterator<Item = T>,
        options: EnsureSubscription,
    ) -> Self {
        self.ensure = Some((topics.into_iter().map(Into::into).collect(), options));
        self
    }

    /// Adds a handler of the topics that match the pattern (`*` matches one word, `#` any number). The first handler whose
    /// pattern matches gets the delivery. A delivery that no handler matches fails and is retried, because a newer version
    /// of the application may handle it.
    #[must_use]
    pub fn on<Arguments: 'static>(self, topic: &str, handler: impl AppHandler<Arguments, S>) -> Self {
        self.on_with(topic, handler, |options| options)
    }

    /// Does the same as [`Subscription::on`], with settings of this handler.
    #[must_use]
    pub fn on_with<Arguments: 'static>(
        mut self,
        topic: &str,
        handler: impl AppHandler<Arguments, S>,
        options: impl FnOnce(RouteOptions) -> RouteOptions,
    ) -> Self {
        let handler = Arc::new(handler);
        let handler: StatefulHandler<S> = Arc::new(move |delivery, state| {
            let (handler, state) = (handler.clone(), state.clone());
            Box::pin(async move { handler.call(delivery, &state).await })
        });
        self.routes.push(Route { topic: topic.to_owned(), handler, options: options(RouteOptions::default()) });
        self
    }

    /// Sets the largest number of handlers of this subscription that run at once. The default is 8.
    #[must_use]
    pub fn concurrency(self, handlers: usize) -> Self {
        self.worker_with(move |worker| worker.concurrency(handlers))
    }

    /// Changes settings of the worker: lease, batch, poll interval, grace, a listener for events.
    #[must_use]
    pub fn worker_with(mut self, setting: impl Fn(WorkerBuilder) -> WorkerBuilder + Send + Sync + 'static) -> Self {
        self.settings.push(Arc::new(setting));
        self
    }

    pub(super) fn with_state(self, state: &S) -> Subscription<()> {
        let routes = self.routes.into_iter().map(|route| {
            let (handler, state) = (route.handler, state.clone());
            let handler: StatefulHandler<()> = Arc::new(move |delivery, ()| handler(delivery, &state));
            Route { topic: route.topic, handler, options: route.options }
        });
        Subscription { name: self.name, ensure: self.ensure, routes: routes.collect(), settings: self.settings }
    }
}

impl Subscription<()> {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn worker(&self, outbox: &Outbox) -> WorkerBuilder {
        self.settings.iter().fold(outbox.worker(&self.name), |worker, setting| setting(worker))
    }

    /// Returns one handler that calls the handler of the topic, with the layers around it. `on_error` gets the errors.
    pub(super) fn handler(&self, layers: &[AnyLayer], on_error: Option<OnError>) -> Result<AnyHandler> {
        if self.routes.is_empty() {
            return Err(Error::invalid(format!("subscription \"{}\" has no handlers", self.name)));
        }
        let bind = |route: &Route<()>| {
            Ok(Arc::new(Bound {
                topic: Pattern::parse(&route.topic)?,
                handler: route.handler.clone(),
                options: route.options.clone(),
                turns: route.options.limit.map(Semaphore::new),
            }))
        };
        let routes = self.routes.iter().map(bind).collect::<Result<Vec<_>>>()?;
        let routed: AnyHandler = Arc::new(move |delivery| {
            let Some(route) = routes.iter().find(|route| route.topic.matches(&delivery.topic)).cloned() else {
                let unhandled = Failure::retry(format!("topic \"{}\" has no handler", delivery.topic));
                return Box::pin(async { Err(unhandled) });
            };
            let report = on_error.clone().map(|on_error| (on_error, delivery.clone()));
            Box::pin(async move {
                // The semaphore is never closed. If it were, the handler would run without a limit.
                let _turn = match &route.turns {
                    Some(turns) => turns.acquire().await.ok(),
                    None => None,
                };
                (route.handler)(delivery, &()).await.map_err(|failure| {
                    if let (Failure::Error(_), Some((on_error, delivery))) = (&failure, &report) {
                        on_error(delivery, &failure);
                    }
                    route.options.decide(failure)
                })
            })
        });
        Ok(layers.iter().fold(routed, |inner, layer| layer(inner)))
    }

    /// Creates or alters the subscription. Waits for a server that cannot be reached.
    pub(super) async fn ensure_exists(&self, outbox: &Outbox) -> Result<()> {
        let Some((topics, options)) = &self.ensure else { return Ok(()) };
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        let mut backoff = Backoff::default();
        loop {
            match outbox.ensure_subscription(&self.name, &topics, options.clone()).await {
                Ok(done) => {
                    let done = done.unwrap_or_default();
                    tracing::info!(subscription = self.name, done, "the subscription is ensured");
                    return Ok(());
                }
                Err(error) if passes(&error) => {
                    tracing::warn!(
                        subscription = self.name,
                        error = error.report(),
                        "the subscription cannot be ensured yet"
                    );
                    sleep(backoff.next()).await;
                }
                // A role that may only consume works on a subscription that a migration has created. The worker says so if
                // there is none.
                Err(error) if error.kind() == Kind::Fatal && error.code() == "42501" => {
                    tracing::warn!(
                        subscription = self.name,
                        "this role may not create or alter subscriptions; the worker goes on"
                    );
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}
