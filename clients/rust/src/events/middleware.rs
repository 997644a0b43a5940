//! Layers around the handlers of commands. The layer that is added first to a [`CommandBus`](super::CommandBus) is the outermost
//! one. A usual order is: [`recovery`], [`logging`], [`metrics`], [`correlation`], [`causation`], [`tenant`], [`validation`],
//! [`timeout`], [`retry`], [`idempotency`].
//!
//! Each is a [`Middleware`], which is a [`tower_layer::Layer`]. Layers of the crate tower, for example for concurrency limits, fit
//! as well.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use outbox_core::digest::sha256;
use serde_json::Value;
use tower_layer::Layer;
use tower_service::Service;

use super::command::{CommandError, CommandService, Dispatch, Once, canonical};
use super::fault::Fault;
use super::retry::Retry;
use super::source::{hex, uuid};
use crate::error::Kind;
use crate::worker::panic_text;

/// The largest number of bytes of a key.
const MAX_KEY: usize = 255;

type Result<T = Value> = std::result::Result<T, CommandError>;

/// A layer around the handlers of commands.
#[derive(Clone)]
pub struct Middleware(Arc<dyn Fn(CommandService) -> CommandService + Send + Sync>);

impl fmt::Debug for Middleware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Middleware").finish_non_exhaustive()
    }
}

impl Layer<CommandService> for Middleware {
    type Service = CommandService;

    fn layer(&self, inner: CommandService) -> CommandService {
        (self.0)(inner)
    }
}

impl Middleware {
    /// Makes a middleware of a layer of tower.
    pub fn of<L>(layer: L) -> Middleware
    where
        L: Layer<CommandService> + Send + Sync + 'static,
        L::Service: Service<Dispatch, Response = Value> + Clone + Send + Sync + 'static,
        <L::Service as Service<Dispatch>>::Future: Send,
        <L::Service as Service<Dispatch>>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Middleware(Arc::new(move |inner| CommandService::layered(&layer, inner)))
    }

    /// Makes a middleware of a function that gets the dispatch and the service behind it.
    ///
    /// ```
    /// use pg_outbox::events::Middleware;
    /// let marked = Middleware::from_fn(|mut dispatch, next| Box::pin(async move {
    ///     dispatch.metadata = dispatch.metadata.set("via", "api");
    ///     next.pass(dispatch).await
    /// }));
    /// ```
    pub fn from_fn(
        function: impl Fn(Dispatch, CommandService) -> BoxFuture<'static, Result> + Send + Sync + 'static,
    ) -> Middleware {
        let function = Arc::new(function);
        Middleware(Arc::new(move |inner| {
            let function = function.clone();
            CommandService::new(move |dispatch| function(dispatch, inner.clone()))
        }))
    }

    /// Makes a middleware of a function that changes the dispatch or refuses it.
    fn before(change: impl Fn(&mut Dispatch) -> Result<()> + Send + Sync + 'static) -> Middleware {
        let change = Arc::new(change);
        Middleware::from_fn(move |mut dispatch, next| {
            let changed = change(&mut dispatch);
            Box::pin(async move {
                changed?;
                next.pass(dispatch).await
            })
        })
    }
}

/// Refuses commands whose fields are wrong ([`Command::validate`](super::Command::validate)) with
/// [`CommandError::Validation`], which has all faults of all fields.
pub fn validation() -> Middleware {
    Middleware::before(|dispatch| {
        let errors = dispatch.validate();
        if errors.is_empty() { Ok(()) } else { Err(CommandError::Validation(errors)) }
    })
}

/// Turns a panic of a handler into [`CommandError::Panic`].
pub fn recovery() -> Middleware {
    Middleware::from_fn(|dispatch, next| {
        Box::pin(async move {
            let handled = AssertUnwindSafe(async { next.pass(dispatch).await }).catch_unwind().await;
            handled.unwrap_or_else(|panic| Err(CommandError::Panic(panic_text(panic.as_ref()).to_owned())))
        })
    })
}

/// Logs each command with `tracing`: its type, id, duration in milliseconds, and error. Its content is not logged, and of errors of
/// libraries only the category and place.
pub fn logging() -> Middleware {
    Middleware::from_fn(|dispatch, next| {
        Box::pin(async move {
            let (command, id, begun) = (dispatch.command_type(), dispatch.id().to_owned(), Instant::now());
            let handled = next.pass(dispatch).await;
            let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            match &handled {
                Ok(_) => tracing::info!(command, id, ms, "the command is done"),
                Err(error) => tracing::error!(command, id, ms, error = error.logged(), "the command failed"),
            }
            handled
        })
    })
}

/// A command that has ended.
#[derive(Debug)]
pub struct Measured<'a> {
    /// The type of the command.
    pub command_type: &'static str,
    /// How long it took.
    pub duration: Duration,
    /// The error, if it failed.
    pub error: Option<&'a CommandError>,
}

/// Tells a function about each command that has ended, to count and to time them.
pub fn metrics(record: impl Fn(Measured<'_>) + Send + Sync + 'static) -> Middleware {
    let record = Arc::new(record);
    Middleware::from_fn(move |dispatch, next| {
        let record = record.clone();
        Box::pin(async move {
            let (command_type, begun) = (dispatch.command_type(), Instant::now());
            let handled = next.pass(dispatch).await;
            record(Measured { command_type, duration: begun.elapsed(), error: handled.as_ref().err() });
            handled
        })
    })
}

/// Ends a command that takes longer with [`CommandError::Timeout`]. Its transaction is rolled back, unless it was just
/// committing.
pub fn timeout(limit: Duration) -> Middleware {
    Middleware::from_fn(move |dispatch, next| {
        Box::pin(async move {
            match tokio::time::timeout(limit, next.pass(dispatch)).await {
                Ok(handled) => handled,
                Err(_) => Err(CommandError::Timeout(limit)),
            }
        })
    })
}

/// Repeats a command after errors that may pass: conflicts of versions, serialization failures, deadlocks, lost connections. A
/// command that timed out is not repeated. A connection that is lost during the commit leaves open whether the command is done, so [`idempotency`] belongs inside of this
/// layer.
pub fn retry(retry: Retry) -> Middleware {
    Middleware::from_fn(move |dispatch, next| {
        Box::pin(async move {
            let is_worth_it = |error: &CommandError| match error {
                // A query that was cancelled has timed out.
                CommandError::Outbox(error) if error.code() == "57014" => false,
                CommandError::Outbox(error) => Fault::is_worth_a_retry(error) || error.kind() == Kind::Retry,
                _ => false,
            };
            retry.run(is_worth_it, || next.pass(dispatch.clone())).await
        })
    })
}

/// Gives the events of a command a correlation id, unless the current task or the dispatch has one.
pub fn correlation() -> Middleware {
    Middleware::before(|dispatch| {
        if dispatch.metadata.get("correlation_id").is_none() {
            dispatch.metadata = std::mem::take(&mut dispatch.metadata).correlation_id(uuid()?);
        }
        Ok(())
    })
}

/// Gives the events of a command its id as causation id.
pub fn causation() -> Middleware {
    Middleware::before(|dispatch| {
        let id = dispatch.id().to_owned();
        dispatch.metadata = std::mem::take(&mut dispatch.metadata).causation_id(id);
        Ok(())
    })
}

/// Takes the tenant of the events from `tenant`, or else from the metadata of the current task. If it is required, a command
/// without one is refused with [`CommandError::NoTenant`].
pub fn tenant(required: bool, tenant: impl Fn(&Dispatch) -> Option<String> + Send + Sync + 'static) -> Middleware {
    Middleware::before(move |dispatch| {
        if let Some(tenant) = tenant(dispatch) {
            dispatch.metadata = std::mem::take(&mut dispatch.metadata).tenant(tenant);
        }
        if required && dispatch.metadata.get_tenant().is_none_or(str::is_empty) {
            return Err(CommandError::NoTenant);
        }
        Ok(())
    })
}

type KeyOf = Arc<dyn Fn(&Dispatch) -> Option<String> + Send + Sync>;

/// The settings of [`idempotency`].
#[derive(Clone)]
pub struct Idempotency {
    key: Option<KeyOf>,
    ttl: Option<Duration>,
    store_errors: bool,
    skip: Vec<String>,
}

impl fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency").field("ttl", &self.ttl).field("skip", &self.skip).finish_non_exhaustive()
    }
}

impl Default for Idempotency {
    fn default() -> Idempotency {
        Idempotency { key: None, ttl: Some(Duration::from_secs(86_400)), store_errors: false, skip: Vec::new() }
    }
}

impl Idempotency {
    /// Makes the part of the key behind the command's type and tenant. Where the function returns `None`, and by default, it is the
    /// command's own key, or else the hash of its content.
    #[must_use]
    pub fn key(mut self, key: impl Fn(&Dispatch) -> Option<String> + Send + Sync + 'static) -> Idempotency {
        self.key = Some(Arc::new(key));
        self
    }

    /// Takes that part of the key from a field of the command. A command without the field has the key by default.
    #[must_use]
    pub fn key_from(self, field: &str) -> Idempotency {
        let field = field.to_owned();
        self.key(move |dispatch| match dispatch.content().ok()?.get(&field)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    }

    /// Sets how long keys are remembered; `None`: until `command_forget`. The default is 24 hours.
    #[must_use]
    pub fn ttl(mut self, ttl: Option<Duration>) -> Idempotency {
        self.ttl = ttl;
        self
    }

    /// Also stores that a handler has refused a command ([`CommandError::Rejected`]). The same command then fails with
    /// [`CommandError::Stored`]. By default a command that was refused may be tried again.
    #[must_use]
    pub fn store_errors(mut self) -> Idempotency {
        self.store_errors = true;
        self
    }

    /// Does not hold for these types of commands.
    #[must_use]
    pub fn skip(mut self, types: &[&str]) -> Idempotency {
        self.skip.extend(types.iter().map(|name| (*name).to_owned()));
        self
    }
}

/// Processes a command once: the same key again returns the stored result, and the handler does not run. The key and the result
/// are stored in the command's own transaction, as they are: not encrypted. A key with other content is refused (OB008). The key is
/// `TYPE:VALUE`, or `TYPE:TENANT:VALUE` with a tenant, so the layer belongs inside of [`tenant`].
pub fn idempotency(settings: Idempotency) -> Middleware {
    Middleware::before(move |dispatch| {
        if settings.skip.iter().any(|name| name == dispatch.command_type()) {
            return Ok(());
        }
        let chosen = settings.key.as_ref().and_then(|key| key(dispatch)).or_else(|| dispatch.own_key());
        let value = match chosen {
            Some(value) => value,
            None => hex(&sha256(canonical(&dispatch.content()?).to_string().as_bytes())),
        };
        let key = key_of(dispatch.command_type(), dispatch.metadata.get_tenant(), &value);
        dispatch.once = Some(Once { key, ttl: settings.ttl, store_errors: settings.store_errors });
        Ok(())
    })
}

/// Returns the key of a command, which is the same in all clients.
fn key_of(command_type: &str, tenant: Option<&str>, value: &str) -> String {
    let rest = match tenant {
        Some(tenant) => format!("{tenant}:{value}"),
        None => value.to_owned(),
    };
    let key = format!("{command_type}:{rest}");
    if key.len() <= MAX_KEY { key } else { format!("{command_type}:{}", hex(&sha256(rest.as_bytes()))) }
}

/// Uses a layer for those commands for which the condition holds.
pub fn when(condition: impl Fn(&Dispatch) -> bool + Send + Sync + 'static, layer: Middleware) -> Middleware {
    let condition = Arc::new(condition);
    Middleware(Arc::new(move |inner| {
        let (condition, layered) = (condition.clone(), layer.layer(inner.clone()));
        CommandService::new(move |dispatch| {
            let next = if condition(&dispatch) { layered.clone() } else { inner.clone() };
            Box::pin(async move { next.pass(dispatch).await })
        })
    }))
}

/// Uses a layer for these types of commands.
pub fn for_types(types: &[&str], layer: Middleware) -> Middleware {
    let types: Vec<String> = types.iter().map(|name| (*name).to_owned()).collect();
    when(move |dispatch| types.iter().any(|name| name == dispatch.command_type()), layer)
}

/// Makes one layer of several, of which the first is the outermost one.
pub fn chain(layers: impl IntoIterator<Item = Middleware>) -> Middleware {
    let layers: Vec<Middleware> = layers.into_iter().collect();
    Middleware(Arc::new(move |inner| layers.iter().rev().fold(inner, |inner, layer| layer.layer(inner))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_all_clients() {
        assert_eq!(key_of("Pay", None, "7"), "Pay:7");
        assert_eq!(key_of("Pay", Some("acme"), "7"), "Pay:acme:7");
        let long = "x".repeat(252);
        assert_eq!(key_of("Pay", None, &long[1..]).len(), 255);
        assert_eq!(key_of("Pay", None, &long), format!("Pay:{}", hex(&sha256(long.as_bytes()))));
        let content = serde_json::json!({"b": {"d": 1.50, "c": "\u{e9}"}, "a": [true, null]});
        assert_eq!(canonical(&content).to_string(), "{\"a\":[true,null],\"b\":{\"c\":\"\u{e9}\",\"d\":1.5}}");
        assert_eq!(hex(&sha256(b"{}")), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    }
}
