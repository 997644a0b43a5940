//! Handlers with arguments, and layers around them.

use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tower_layer::Layer;
use tower_service::Service;

use super::extract::FromDelivery;
use crate::worker::{AnyHandler, Delivery, Failure, Handled, IntoHandled};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A handler of the application: an `async fn` of one to six arguments that are [`FromDelivery`], for example
/// [`Json`](super::Json), [`State`](super::State) and [`Delivery`]. It returns `Result<(), E>`, where `E` is any error, or
/// [`Handled`]. `Arguments` is found by the compiler.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a handler of deliveries",
    note = "a handler is an async function of one to six arguments (`Json<T>`, `State<S>`, `Delivery`) that returns `Result<(), E>` for any error `E`, or `Handled`",
    note = "its future must be `Send`, and the state that `State<S>` takes is that of `with_state`"
)]
pub trait AppHandler<Arguments, S>: Send + Sync + 'static {
    /// Handles a delivery.
    fn call(&self, delivery: Delivery, state: &S) -> impl Future<Output = Handled> + Send + use<Self, Arguments, S>;
}

macro_rules! handlers {
    ($($argument:ident)*) => {
        impl<F, Fut, S, $($argument,)*> AppHandler<(Fut, $($argument,)*), S> for F
        where
            F: Fn($($argument,)*) -> Fut + Send + Sync + 'static,
            Fut: Future<Output: IntoHandled> + Send + 'static,
            $($argument: FromDelivery<S>,)*
        {
            #[allow(non_snake_case, reason = "one name for a type and its value")]
            fn call(
                &self,
                delivery: Delivery,
                state: &S,
            ) -> impl Future<Output = Handled> + Send + use<F, Fut, S, $($argument,)*> {
                let begin = || {
                    $(let $argument = $argument::from_delivery(&delivery, state)?;)*
                    Ok::<Fut, Failure>(self($($argument,)*))
                };
                let begun = begin();
                async move { begun?.await.into_handled() }
            }
        }
    };
}

handlers! { A }
handlers! { A B }
handlers! { A B C }
handlers! { A B C D }
handlers! { A B C D E }
handlers! { A B C D E G }

/// The failure of a handler as an error, for layers and tests.
#[derive(Clone, Debug)]
pub struct HandlerError {
    failure: Failure,
    topic: Option<String>,
}

impl HandlerError {
    pub(super) fn new(failure: Failure) -> HandlerError {
        HandlerError { failure, topic: None }
    }

    pub(super) fn at(mut self, topic: String) -> HandlerError {
        self.topic = Some(topic);
        self
    }

    /// Returns the failure.
    pub fn failure(&self) -> &Failure {
        &self.failure
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.topic {
            Some(topic) => write!(f, "the handler of \"{topic}\" failed: {}", self.failure.text()),
            None => f.write_str(&self.failure.text()),
        }
    }
}

impl std::error::Error for HandlerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.failure {
            Failure::Error(error) => Some(error.as_ref()),
            Failure::Retry { .. } | Failure::Dead { .. } => None,
        }
    }
}

/// A handler as a service of tower, which layers are put around.
#[derive(Clone)]
pub struct HandlerService {
    handler: AnyHandler,
}

impl fmt::Debug for HandlerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerService").finish_non_exhaustive()
    }
}

impl Service<Delivery> for HandlerService {
    type Response = Option<Value>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Option<Value>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, delivery: Delivery) -> Self::Future {
        let handled = (self.handler)(delivery);
        Box::pin(async move { handled.await.map_err(|failure| HandlerError::new(failure).into()) })
    }
}

/// Puts a layer around a handler.
pub(super) fn layered<L>(layer: &L, inner: AnyHandler) -> AnyHandler
where
    L: Layer<HandlerService>,
    L::Service: Service<Delivery, Response = Option<Value>> + Clone + Send + Sync + 'static,
    <L::Service as Service<Delivery>>::Future: Send,
    <L::Service as Service<Delivery>>::Error: Into<BoxError>,
{
    let service = layer.layer(HandlerService { handler: inner });
    Arc::new(move |delivery| {
        let mut service = service.clone();
        Box::pin(async move {
            let handled = async {
                poll_fn(|cx| service.poll_ready(cx)).await?;
                service.call(delivery).await
            };
            handled.await.map_err(|error| match error.into().downcast::<HandlerError>() {
                Ok(ours) => ours.failure,
                Err(other) => Failure::Error(Arc::from(other)),
            })
        })
    })
}
