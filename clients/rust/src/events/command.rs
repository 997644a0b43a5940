//! Commands: [`CommandBus`] runs the handler of a command in a transaction of its own.
//!
//! ```no_run
//! use pg_outbox::Outbox;
//! use pg_outbox::events::{Command, CommandBus, CommandError, EventStore, NO_STREAM, NewEvent, middleware};
//! use serde::Serialize;
//! use serde_json::json;
//!
//! #[derive(Serialize)]
//! struct PlaceOrder {
//!     number: String,
//!     total: i64,
//! }
//!
//! impl Command for PlaceOrder {
//!     const TYPE: &'static str = "PlaceOrder";
//!     type Output = i64;
//!
//!     fn validate(&self, errors: &mut pg_outbox::events::command::FieldErrors) {
//!         errors.check(self.total > 0, "total", "must be above 0");
//!     }
//! }
//!
//! # async fn example(outbox: Outbox) -> Result<(), CommandError> {
//! let bus = CommandBus::new(outbox)
//!     .layer(middleware::validation())
//!     .layer(middleware::retry(Default::default()))
//!     .layer(middleware::idempotency(Default::default()))
//!     .register::<PlaceOrder>(|tx, command| {
//!         Box::pin(async move {
//!             let placed = NewEvent::new("order.placed", &json!({"total": command.total}))?;
//!             let stream = format!("order-{}", command.number);
//!             let appended = EventStore::new().append(&*tx, &stream, [placed], NO_STREAM).await?;
//!             Ok(appended.last_version)
//!         })
//!     })?;
//! let version = bus.dispatch(PlaceOrder { number: "7".into(), total: 42 }).await?;
//! # Ok(()) }
//! ```
//!
//! Middleware are layers of tower around a [`CommandService`]. The layer that is added first is the outermost one. A transaction
//! begins behind all of them: an error, a time-out or a panic rolls it back, and a retry begins a new one. Idempotency therefore
//! is a setting of the dispatch, which its layer makes and the transaction obeys: `command_begin` and `command_end` are part of it.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tower_layer::Layer;
use tower_service::Service;

use super::metadata::Metadata;
use super::source::uuid;
use crate::driver::{Statement, Transactions, text};
use crate::error::{Error, described};
use crate::message::Param;

type Result<T, E = Error> = std::result::Result<T, E>;

/// A request to change something. Its name is an imperative: `PlaceOrder`.
pub trait Command: Serialize + Send + Sync + 'static {
    /// The name of the type.
    const TYPE: &'static str;

    /// The result of its handler, which idempotency stores as JSON. `()` if there is none.
    type Output: Serialize + DeserializeOwned + Send;

    /// Adds the faults of its fields, for [`middleware::validation`](super::middleware::validation).
    fn validate(&self, errors: &mut FieldErrors) {
        let _ = errors;
    }

    /// Returns the key by which [`middleware::idempotency`](super::middleware::idempotency) knows it again. Without one, the key is
    /// made of its type and content.
    fn idempotency_key(&self) -> Option<String> {
        None
    }
}

/// The faults of the fields of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldErrors(BTreeMap<String, Vec<String>>);

impl FieldErrors {
    /// Adds a fault.
    pub fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.entry(field.into()).or_default().push(message.into());
    }

    /// Adds a fault unless the condition holds.
    pub fn check(&mut self, holds: bool, field: &str, message: &str) {
        if !holds {
            self.add(field, message);
        }
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the faults of a field.
    pub fn of(&self, field: &str) -> &[String] {
        self.0.get(field).map_or(&[], Vec::as_slice)
    }

    /// Returns all faults, by the names of the fields.
    pub fn all(&self) -> &BTreeMap<String, Vec<String>> {
        &self.0
    }
}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> =
            self.0.iter().map(|(field, messages)| format!("{field} {}", messages.join(" and "))).collect();
        f.write_str(&all.join("; "))
    }
}

/// The failure of a command.
#[derive(Debug)]
#[non_exhaustive]
pub enum CommandError {
    /// Fields of the command are wrong.
    Validation(FieldErrors),
    /// The handler refuses the command.
    Rejected(Box<dyn std::error::Error + Send + Sync>),
    /// The same command was refused before, and idempotency has stored the error.
    Stored(Value),
    /// No handler is registered for the type.
    Unregistered(String),
    /// The command has no tenant, and [`middleware::tenant`](super::middleware::tenant) requires one.
    NoTenant,
    /// The command took longer than its time limit. Its transaction is rolled back.
    Timeout(Duration),
    /// The handler has panicked.
    Panic(String),
    /// An error of the outbox or of the database.
    Outbox(Error),
    /// An error of a layer of tower.
    Layer(Box<dyn std::error::Error + Send + Sync>),
}

impl CommandError {
    /// Refuses a command. The error can be a text, or an error of the application.
    pub fn rejected(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CommandError {
        CommandError::Rejected(error.into())
    }

    /// Returns the text for logs. It has no values that a library quotes, and no content of the command.
    pub(super) fn logged(&self) -> String {
        match self {
            CommandError::Validation(errors) => {
                let fields: Vec<&str> = errors.all().keys().map(String::as_str).collect();
                format!("fields are not valid: {}", fields.join(", "))
            }
            CommandError::Rejected(error) | CommandError::Layer(error) => described(error.as_ref()),
            CommandError::Outbox(error) => described(error),
            CommandError::Stored(_) => "the command was refused before".to_owned(),
            CommandError::Panic(_) => "the handler of the command panicked".to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandError::Validation(errors) => write!(f, "the command is not valid: {errors}"),
            CommandError::Rejected(error) => error.fmt(f),
            CommandError::Stored(error) => match error.get("message").and_then(Value::as_str) {
                Some(message) => f.write_str(message),
                None => write!(f, "the command was refused before: {error}"),
            },
            CommandError::Unregistered(name) => write!(f, "command \"{name}\" has no handler"),
            CommandError::NoTenant => f.write_str("the command has no tenant"),
            CommandError::Timeout(limit) => write!(f, "the command took longer than {limit:?}"),
            CommandError::Panic(text) => write!(f, "the handler of the command panicked: {text}"),
            CommandError::Outbox(error) => error.fmt(f),
            CommandError::Layer(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CommandError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CommandError::Rejected(error) | CommandError::Layer(error) => error.source(),
            CommandError::Outbox(error) => Some(error),
            _ => None,
        }
    }
}

impl<E: Into<Error>> From<E> for CommandError {
    fn from(error: E) -> CommandError {
        CommandError::Outbox(error.into())
    }
}

/// Returns an error of the outbox, with a kind that says what to do.
pub fn into_error(error: CommandError) -> Error {
    let text = error.to_string();
    match error {
        CommandError::Outbox(error) => error,
        CommandError::Validation(_) | CommandError::NoTenant => Error::invalid(text).named("invalid_command"),
        CommandError::Rejected(_) | CommandError::Stored(_) => Error::new("OB004", text).named("command_rejected"),
        CommandError::Unregistered(_) => Error::new("OB001", text),
        CommandError::Timeout(_) => Error::new("57014", text),
        CommandError::Panic(_) | CommandError::Layer(_) => Error::new("XX000", text),
    }
}

trait AnyCommand: Send + Sync {
    fn validate(&self) -> FieldErrors;
    fn key(&self) -> Option<String>;
    fn content(&self) -> Result<Value>;
    fn as_any(&self) -> &dyn Any;
}

impl<C: Command> AnyCommand for C {
    fn validate(&self) -> FieldErrors {
        let mut errors = FieldErrors::default();
        Command::validate(self, &mut errors);
        errors
    }

    fn key(&self) -> Option<String> {
        self.idempotency_key()
    }

    fn content(&self) -> Result<Value> {
        Ok(serde_json::to_value(self)?)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// How a command is processed once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Once {
    pub(super) key: String,
    pub(super) ttl: Option<Duration>,
    pub(super) store_errors: bool,
}

/// A command on its way to its handler, with its metadata. A clone is the same command.
#[derive(Clone)]
pub struct Dispatch {
    command: Arc<dyn AnyCommand>,
    command_type: &'static str,
    id: String,
    /// The metadata that the events of the handler get.
    pub metadata: Metadata,
    pub(super) once: Option<Once>,
}

impl fmt::Debug for Dispatch {
    /// Shows no content, because it may be confidential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatch")
            .field("command_type", &self.command_type)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Dispatch {
    fn new<C: Command>(command: C) -> Result<Dispatch> {
        Ok(Dispatch {
            command: Arc::new(command),
            command_type: C::TYPE,
            id: uuid()?,
            metadata: Metadata::current(),
            once: None,
        })
    }

    /// Returns the type of the command.
    pub fn command_type(&self) -> &'static str {
        self.command_type
    }

    /// Returns the id of this dispatch, a uuid.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the command, if it is a `C`.
    pub fn command<C: Command>(&self) -> Option<&C> {
        self.command.as_any().downcast_ref()
    }

    /// Returns the command as JSON.
    ///
    /// # Errors
    /// 22023 if it cannot be written as JSON.
    pub fn content(&self) -> Result<Value> {
        self.command.content()
    }

    /// Returns the faults of its fields.
    pub fn validate(&self) -> FieldErrors {
        self.command.validate()
    }

    /// Returns the idempotency key that the command itself has.
    pub fn own_key(&self) -> Option<String> {
        self.command.key()
    }
}

type Call = Arc<dyn Fn(Dispatch) -> BoxFuture<'static, Result<Value, CommandError>> + Send + Sync>;

/// The way to the handlers, as a service of tower.
#[derive(Clone)]
pub struct CommandService(Call);

impl fmt::Debug for CommandService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandService").finish_non_exhaustive()
    }
}

impl CommandService {
    pub(super) fn new(
        call: impl Fn(Dispatch) -> BoxFuture<'static, Result<Value, CommandError>> + Send + Sync + 'static,
    ) -> CommandService {
        CommandService(Arc::new(call))
    }

    /// Passes a dispatch on.
    ///
    /// # Errors
    /// Those of the handler and of the layers around it.
    pub async fn pass(&self, dispatch: Dispatch) -> Result<Value, CommandError> {
        (self.0)(dispatch).await
    }

    pub(super) fn layered<L>(layer: &L, inner: CommandService) -> CommandService
    where
        L: Layer<CommandService>,
        L::Service: Service<Dispatch, Response = Value> + Clone + Send + Sync + 'static,
        <L::Service as Service<Dispatch>>::Future: Send,
        <L::Service as Service<Dispatch>>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let service = layer.layer(inner);
        CommandService::new(move |dispatch| {
            let mut service = service.clone();
            Box::pin(async move {
                let passed = async {
                    poll_fn(|cx| service.poll_ready(cx)).await?;
                    service.call(dispatch).await
                };
                passed.await.map_err(|error| match error.into().downcast::<CommandError>() {
                    Ok(ours) => *ours,
                    Err(other) => CommandError::Layer(other),
                })
            })
        })
    }
}

impl Service<Dispatch> for CommandService {
    type Response = Value;
    type Error = CommandError;
    type Future = BoxFuture<'static, Result<Value, CommandError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CommandError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, dispatch: Dispatch) -> Self::Future {
        (self.0)(dispatch)
    }
}

type Handler<P> = Arc<
    dyn for<'t, 's> Fn(
            &'t mut <P as Transactions>::Transaction<'s>,
            &'t Dispatch,
        ) -> BoxFuture<'t, Result<Value, CommandError>>
        + Send
        + Sync,
>;

fn erased<P: Transactions + 'static>(
    handler: impl for<'t, 's> Fn(&'t mut P::Transaction<'s>, &'t Dispatch) -> BoxFuture<'t, Result<Value, CommandError>>
    + Send
    + Sync
    + 'static,
) -> Handler<P> {
    Arc::new(handler)
}

type AnyLayer = Box<dyn Fn(CommandService) -> CommandService + Send + Sync>;

/// Runs commands. `P` is the pool whose transactions the handlers get: an [`Outbox`](crate::Outbox), a
/// `deadpool_postgres::Pool`, a `sqlx::PgPool`.
pub struct CommandBus<P: Transactions + 'static> {
    pool: P,
    handlers: Arc<HashMap<&'static str, Handler<P>>>,
    layers: Vec<AnyLayer>,
    service: OnceLock<CommandService>,
}

impl<P: Transactions + 'static> fmt::Debug for CommandBus<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandBus").field("layers", &self.layers.len()).finish_non_exhaustive()
    }
}

impl<P: Transactions + 'static> CommandBus<P> {
    /// Creates a bus without handlers.
    pub fn new(pool: P) -> CommandBus<P> {
        CommandBus { pool, handlers: Arc::default(), layers: Vec::new(), service: OnceLock::new() }
    }

    /// Registers the handler of a command. It gets a transaction, which commits when it returns `Ok`. A handler that keeps
    /// something, for example a repository, clones it before the future: `move |tx, command| { let orders = orders.clone();
    /// Box::pin(async move { ... }) }`.
    ///
    /// # Errors
    /// 22023 if the command has a handler already.
    pub fn register<C: Command>(
        mut self,
        handler: impl for<'t, 's> Fn(&'t mut P::Transaction<'s>, &'t C) -> BoxFuture<'t, Result<C::Output, CommandError>>
        + Send
        + Sync
        + 'static,
    ) -> Result<CommandBus<P>> {
        let handler = erased::<P>(move |tx, dispatch| match dispatch.command::<C>() {
            Some(command) => {
                let handled = handler(tx, command);
                Box::pin(async move { Ok(serde_json::to_value(handled.await?).map_err(Error::from)?) })
            }
            None => Box::pin(async { Err(CommandError::Unregistered(dispatch.command_type.to_owned())) }),
        });
        // The map is shared with dispatches that run, of which there are none while the bus is built.
        let mut handlers = HashMap::clone(&self.handlers);
        if handlers.insert(C::TYPE, handler).is_some() {
            return Err(Error::invalid(format!("command \"{}\" has two handlers", C::TYPE)));
        }
        self.handlers = Arc::new(handlers);
        self.service = OnceLock::new();
        Ok(self)
    }

    /// Puts a layer of tower around the handlers, inside of the layers that were added before: one of
    /// [`middleware`](super::middleware), or any other whose service passes a [`Dispatch`] on.
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> CommandBus<P>
    where
        L: Layer<CommandService> + Send + Sync + 'static,
        L::Service: Service<Dispatch, Response = Value> + Clone + Send + Sync + 'static,
        <L::Service as Service<Dispatch>>::Future: Send,
        <L::Service as Service<Dispatch>>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.layers.push(Box::new(move |inner| CommandService::layered(&layer, inner)));
        self.service = OnceLock::new();
        self
    }

    /// Returns whether a command type has a handler.
    pub fn has_handler(&self, command_type: &str) -> bool {
        self.handlers.contains_key(command_type)
    }

    /// Runs a command, and returns the result of its handler.
    ///
    /// # Errors
    /// [`CommandError`]: that of the handler, of the layers, or of the database.
    pub async fn dispatch<C: Command>(&self, command: C) -> Result<C::Output, CommandError> {
        let result = self.service().pass(Dispatch::new(command)?).await?;
        Ok(serde_json::from_value(result).map_err(Error::from)?)
    }

    /// Runs commands one after the other, each in a transaction of its own, and returns all results. A command that fails does not
    /// stop those behind it.
    pub async fn dispatch_all<C: Command>(
        &self,
        commands: impl IntoIterator<Item = C>,
    ) -> Vec<Result<C::Output, CommandError>> {
        let mut results = Vec::new();
        for command in commands.into_iter().collect::<Vec<_>>() {
            results.push(self.dispatch(command).await);
        }
        results
    }

    /// Runs the handler of a command in a transaction of the caller, without the layers. Its fields are validated.
    ///
    /// # Errors
    /// Those of the handler. The transaction has to be rolled back.
    pub async fn dispatch_in<C: Command>(
        &self,
        tx: &mut P::Transaction<'_>,
        command: C,
    ) -> Result<C::Output, CommandError> {
        let dispatch = Dispatch::new(command)?;
        let errors = dispatch.validate();
        if !errors.is_empty() {
            return Err(CommandError::Validation(errors));
        }
        let result = handle(&self.handlers, tx, &dispatch).await?;
        Ok(serde_json::from_value(result).map_err(Error::from)?)
    }

    fn service(&self) -> &CommandService {
        self.service.get_or_init(|| {
            let (pool, handlers) = (self.pool.clone(), self.handlers.clone());
            let handled = CommandService::new(move |dispatch| {
                let (pool, handlers) = (pool.clone(), handlers.clone());
                Box::pin(async move { transact(&pool, &handlers, dispatch).await })
            });
            self.layers.iter().rev().fold(handled, |inner, layer| layer(inner))
        })
    }
}

async fn handle<P: Transactions + 'static>(
    handlers: &HashMap<&'static str, Handler<P>>,
    tx: &mut P::Transaction<'_>,
    dispatch: &Dispatch,
) -> Result<Value, CommandError> {
    let unregistered = || CommandError::Unregistered(dispatch.command_type.to_owned());
    let handler = handlers.get(dispatch.command_type).ok_or_else(unregistered)?;
    dispatch.metadata.clone().scope(handler(tx, dispatch)).await
}

/// Runs a command in a transaction, once if it has to be.
async fn transact<P: Transactions + 'static>(
    pool: &P,
    handlers: &HashMap<&'static str, Handler<P>>,
    dispatch: Dispatch,
) -> Result<Value, CommandError> {
    if !handlers.contains_key(dispatch.command_type) {
        return Err(CommandError::Unregistered(dispatch.command_type.to_owned()));
    }
    let mut session = pool.take_session().await?;
    let mut tx = P::begin(&mut session).await?;
    let Some(once) = dispatch.once.clone() else {
        let result = handle(handlers, &mut tx, &dispatch).await?;
        P::commit(tx).await?;
        return Ok(result);
    };
    if let Some(known) = begin::<P>(&mut tx, &once, &dispatch).await? {
        return match known["success"].as_bool() {
            Some(true) => Ok(known["result"].clone()),
            _ => Err(CommandError::Stored(known["error"].clone())),
        };
    }
    let statement = |sql: &str| Statement::new(sql, []);
    if once.store_errors {
        P::column(&mut tx, statement("savepoint pg_outbox_command")).await?;
    }
    let handled = handle(handlers, &mut tx, &dispatch).await;
    let (result, error) = match &handled {
        Ok(result) => (Some(result.to_string()), None),
        // Errors that may pass are not stored, and neither are bugs.
        Err(CommandError::Rejected(error)) if once.store_errors && !is_of_library(error.as_ref()) => {
            P::column(&mut tx, statement("rollback to savepoint pg_outbox_command")).await?;
            (None, Some(json!({"type": "Rejected", "message": stored_text(error.as_ref())}).to_string()))
        }
        Err(_) => return handled,
    };
    let sql = "select 'ended' as r from outbox.command_end($1, $2::jsonb, $3::jsonb)";
    let params = [text(&once.key), result.map(Param::Text), error.map(Param::Text)];
    P::column(&mut tx, Statement::new(sql, params)).await?;
    P::commit(tx).await?;
    handled
}

/// Returns whether an error is one of a driver or library, and not one that the application made.
fn is_of_library(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let is_other = error.is::<Error>() || error.is::<serde_json::Error>() || error.is::<tokio_postgres::Error>();
    #[cfg(feature = "sqlx")]
    let is_other = is_other || error.is::<sqlx::Error>();
    #[cfg(feature = "diesel-async")]
    let is_other = is_other || error.is::<diesel::result::Error>();
    is_other
}

/// Returns the text of a refusal as it is stored.
fn stored_text(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    error.to_string().chars().filter(|c| *c != '\0').take(1000).collect()
}

/// Returns JSON with the keys of objects in order.
pub(super) fn canonical(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(canonical).collect(),
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, Value> =
                fields.iter().map(|(name, value)| (name, canonical(value))).collect();
            sorted.into_iter().map(|(name, value)| (name.clone(), value)).collect()
        }
        other => other.clone(),
    }
}

/// Begins a command that is processed once. Returns the stored result if it was processed before.
async fn begin<P: Transactions>(
    tx: &mut P::Transaction<'_>,
    once: &Once,
    dispatch: &Dispatch,
) -> Result<Option<Value>> {
    let sql = "select outbox.command_begin($1, $2, make_interval(secs => $3::float8), $4::jsonb)::text as r";
    let seconds = once.ttl.map(|ttl| Param::Text(ttl.as_secs_f64().to_string()));
    let params = [text(&once.key), text(dispatch.command_type), seconds, text(canonical(&dispatch.content()?))];
    let rows = P::column(tx, Statement::new(sql, params)).await?;
    rows.into_iter().flatten().next().map(|known| Ok(serde_json::from_str(&known)?)).transpose()
}
