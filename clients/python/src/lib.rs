//! The native core of the Python client, a thin layer over the Rust client.
//!
//! Every call takes a `concurrent.futures.Future`, runs on the only runtime and resolves the future. Blocking code waits on
//! the future; `asyncio.wrap_future` makes it awaitable. The returned task ends when the future is cancelled.
#![allow(missing_docs, reason = "documented in _core.pyi and the Python modules")]

mod events;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use pg_outbox::reader::{Reader as RustReader, ReaderBuilder, ReaderHealth};
use pg_outbox::verify::Verifier;
use pg_outbox::worker::{CancellationToken, Delivery, Event, Failure, Handled, WorkerBuilder};
use pg_outbox::{Error, Message, Outbox};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use serde_json::Value;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Mutex, oneshot};

/// The runtime of this process. A child process has none of the threads of its parent, so it gets a runtime of its own. The
/// lock is only held together with the GIL, so no other thread holds it at a fork.
static RUNTIME: std::sync::Mutex<State> = std::sync::Mutex::new(State::None);

enum State {
    None,
    Runs(Owned<Runtime>),
    /// The interpreter ends.
    Ended,
}

fn runtime() -> PyResult<Handle> {
    let wrong = |why: String| PyRuntimeError::new_err(format!("no runtime: {why}"));
    let mut state = RUNTIME.lock().map_err(|error| wrong(error.to_string()))?;
    if let State::Runs(owned) = &*state
        && let Some(runtime) = owned.ours()
    {
        return Ok(runtime.handle().clone());
    }
    if matches!(*state, State::Ended) {
        return Err(wrong("the interpreter ends".to_owned()));
    }
    let made = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("pg_outbox")
        .enable_all()
        .build()
        .map_err(|error| wrong(error.to_string()))?;
    let handle = made.handle().clone();
    *state = State::Runs(Owned::new(made));
    Ok(handle)
}

/// Ends the threads of the runtime before the interpreter ends: a thread that waits for the GIL at that time would abort the
/// process.
#[pyfunction]
fn shutdown(py: Python<'_>) {
    let state = RUNTIME.lock().map(|mut state| std::mem::replace(&mut *state, State::Ended));
    if let Ok(State::Runs(mut owned)) = state
        && owned.ours().is_some()
        && let Some(runtime) = owned.value.take()
    {
        py.detach(|| runtime.shutdown_timeout(Duration::from_secs(5)));
    }
}

/// A value that belongs to the process that made it. In a child process it is not dropped, because its sessions and its
/// locks are those of the parent.
struct Owned<T> {
    process: u32,
    value: Option<T>,
}

impl<T> Owned<T> {
    fn new(value: T) -> Owned<T> {
        Owned { process: std::process::id(), value: Some(value) }
    }

    /// Returns the value, or `None` in a child process.
    fn ours(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.process == std::process::id())
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            std::mem::forget(self.value.take());
        }
    }
}

/// Creates the Python exception of an error. `_errors.make` chooses the class.
fn exception(py: Python<'_>, error: &Error) -> PyErr {
    let d = error.details();
    let made = py.import("pg_outbox._errors").and_then(|module| {
        module.call_method1(
            "make",
            (error.kind().as_str(), &d.code, d.name, &d.message, d.detail.as_deref(), d.hint.as_deref()),
        )
    });
    match made {
        Ok(made) => PyErr::from_value(made),
        Err(error) => error,
    }
}

/// The longest wait that a caller gets. A longer one could overflow when the time of the clock is added.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Returns a wait that the caller gives in seconds.
fn length(py: Python<'_>, name: &str, seconds: f64) -> PyResult<Duration> {
    if seconds.is_nan() || seconds < 0.0 {
        let error = outbox_core::Error::invalid(format!("{name} is not a length of time"))
            .detail(format!("It is {seconds}."))
            .hint("Lengths of time are seconds, from 0 on.");
        return Err(exception(py, &error.into()));
    }
    Ok(Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64())))
}

#[pyclass]
struct Task {
    abort: tokio::task::AbortHandle,
}

#[pymethods]
impl Task {
    fn abort(&self) {
        self.abort.abort();
    }
}

/// Runs `work` and resolves the future with its result, converted by `convert`.
fn submit<T: Send + 'static>(
    future: Py<PyAny>,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
    convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Task> {
    let task = runtime()?.spawn(async move {
        let result = work.await;
        Python::attach(|py| {
            let outcome = match result {
                Ok(value) => convert(py, value),
                Err(error) => Err(exception(py, &error)),
            };
            // A future that was cancelled in the meantime refuses both, and no caller waits for it.
            let _ = match outcome {
                Ok(value) => future.call_method1(py, "set_result", (value,)),
                Err(error) => future.call_method1(py, "set_exception", (error,)),
            };
        });
    });
    Ok(Task { abort: task.abort_handle() })
}

fn none<T>(py: Python<'_>, _: T) -> PyResult<Py<PyAny>> {
    Ok(py.None())
}

fn json_text(py: Python<'_>, rows: Vec<Value>) -> PyResult<Py<PyAny>> {
    Ok(Value::Array(rows).to_string().into_pyobject(py)?.into_any().unbind())
}

fn message_dict<'py>(py: Python<'py>, message: &Message) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let json = |value: &Option<Value>| value.as_ref().map(ToString::to_string);
    let seconds = |at: &pg_outbox_time::Time| at.timestamp_micros();
    dict.set_item("message_id", message.message_id)?;
    dict.set_item("webhook_id", &message.webhook_id)?;
    dict.set_item("position", message.position)?;
    dict.set_item("topic", &message.topic)?;
    dict.set_item("key", &message.key)?;
    dict.set_item("payload", &message.payload)?;
    dict.set_item("body", message.body.as_ref().map(|body| PyBytes::new(py, body)))?;
    dict.set_item("content_type", &message.content_type)?;
    dict.set_item("headers", json(&message.headers))?;
    dict.set_item("metadata", json(&message.metadata))?;
    dict.set_item("tenant", &message.tenant)?;
    dict.set_item("aggregate_type", &message.aggregate_type)?;
    dict.set_item("aggregate_id", &message.aggregate_id)?;
    dict.set_item("publisher", &message.publisher)?;
    dict.set_item("occurred_at", message.occurred_at.as_ref().map(seconds))?;
    dict.set_item("enqueued_at", seconds(&message.enqueued_at))?;
    dict.set_item("version", message.version)?;
    dict.set_item("event_id", &message.event_id)?;
    Ok(dict)
}

/// Times are passed to Python as microseconds since 1970.
mod pg_outbox_time {
    pub(crate) type Time = pg_outbox::chrono::DateTime<pg_outbox::chrono::Utc>;
}

fn delivery_dict<'py>(py: Python<'py>, delivery: &Delivery) -> PyResult<Bound<'py, PyDict>> {
    let dict = message_dict(py, &delivery.message)?;
    let micros = |at: Option<pg_outbox_time::Time>| at.map(|at| at.timestamp_micros());
    dict.set_item("lease", delivery.lease)?;
    dict.set_item("delivery_id", delivery.delivery_id)?;
    dict.set_item("subscription", &delivery.subscription)?;
    dict.set_item("attempt", delivery.attempt)?;
    dict.set_item("max_attempts", delivery.max_attempts)?;
    dict.set_item("priority", delivery.priority)?;
    dict.set_item("deliver_at", micros(delivery.deliver_at))?;
    dict.set_item("expires_at", micros(delivery.expires_at))?;
    dict.set_item("last_attempt_at", micros(delivery.last_attempt_at))?;
    dict.set_item("last_error", &delivery.last_error)?;
    Ok(dict)
}

#[pyclass]
struct Core {
    dsn: String,
    pool_size: usize,
    outbox: std::sync::Mutex<Owned<Outbox>>,
}

impl Core {
    fn connect(py: Python<'_>, dsn: &str, pool_size: usize) -> PyResult<Outbox> {
        let handle = runtime()?;
        let _guard = handle.enter();
        Outbox::lazy(dsn, pool_size).map_err(|e| exception(py, &e))
    }

    /// Returns the outbox. In a child process it is a new one, with sessions of its own.
    fn outbox(&self, py: Python<'_>) -> PyResult<Outbox> {
        let mut held = self.outbox.lock().map_err(|_| PyRuntimeError::new_err("no outbox"))?;
        if let Some(outbox) = held.ours() {
            return Ok(outbox.clone());
        }
        let outbox = Core::connect(py, &self.dsn, self.pool_size)?;
        *held = Owned::new(outbox.clone());
        Ok(outbox)
    }
}

#[pymethods]
impl Core {
    #[new]
    fn new(py: Python<'_>, dsn: &str, pool_size: usize) -> PyResult<Core> {
        let outbox = Core::connect(py, dsn, pool_size)?;
        Ok(Core { dsn: dsn.to_owned(), pool_size, outbox: std::sync::Mutex::new(Owned::new(outbox)) })
    }

    fn check(&self, py: Python<'_>, future: Py<PyAny>) -> PyResult<Task> {
        let outbox = self.outbox(py)?;
        submit(future, async move { outbox.check().await }, none)
    }

    fn call(
        &self,
        py: Python<'_>,
        future: Py<PyAny>,
        function: String,
        args: String,
        intervals: Vec<String>,
    ) -> PyResult<Task> {
        let outbox = self.outbox(py)?;
        let work = async move {
            let args: Value = serde_json::from_str(&args)?;
            let intervals: Vec<&str> = intervals.iter().map(String::as_str).collect();
            outbox.call(&function, args, &intervals).await
        };
        submit(future, work, json_text)
    }

    /// The same for functions that return events, which become tuples.
    fn call_events(&self, py: Python<'_>, future: Py<PyAny>, function: String, args: String) -> PyResult<Task> {
        let outbox = self.outbox(py)?;
        submit(future, async move { events::rows(&outbox, &function, &args).await }, events::tuples)
    }

    fn call_void(&self, py: Python<'_>, future: Py<PyAny>, function: String, args: String) -> PyResult<Task> {
        let outbox = self.outbox(py)?;
        let work = async move { outbox.call_void(&function, serde_json::from_str::<Value>(&args)?).await };
        submit(future, work, none)
    }

    fn table(
        &self,
        py: Python<'_>,
        future: Py<PyAny>,
        name: String,
        filter: String,
        limit: i64,
        intervals: Vec<String>,
    ) -> PyResult<Task> {
        let outbox = self.outbox(py)?;
        let work = async move {
            let filter: Value = serde_json::from_str(&filter)?;
            let intervals: Vec<&str> = intervals.iter().map(String::as_str).collect();
            outbox.table(&name, filter, limit, &intervals).await
        };
        submit(future, work, json_text)
    }

    fn close(&self) {
        if let Ok(held) = self.outbox.lock()
            && let Some(outbox) = held.ours()
        {
            outbox.close();
        }
    }
}

/// The object through which Python reports the outcome of one delivery.
#[pyclass]
struct Reply {
    answer: std::sync::Mutex<Option<oneshot::Sender<Handled>>>,
}

impl Reply {
    fn send(&self, handled: Handled) {
        if let Some(answer) = self.answer.lock().ok().and_then(|mut answer| answer.take()) {
            let _ = answer.send(handled);
        }
    }
}

#[pymethods]
impl Reply {
    #[pyo3(signature = (result=None))]
    fn complete(&self, result: Option<&str>) {
        self.send(match result.map(serde_json::from_str).transpose() {
            Ok(result) => Ok(result),
            Err(error) => Err(Failure::retry(format!("the handler's result is not JSON: {error}"))),
        });
    }

    #[pyo3(signature = (error, after=None))]
    fn fail(&self, error: String, after: Option<f64>) {
        // A negative wait counts as 0. For a value that is not a length of time, the schedule decides.
        let after = after
            .filter(|seconds| seconds.is_finite())
            .and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
        self.send(Err(Failure::Retry { error, after }));
    }

    fn dead(&self, reason: String) {
        self.send(Err(Failure::Dead { reason }));
    }
}

#[pyclass]
struct Worker {
    builder: WorkerBuilder,
    stop: CancellationToken,
}

#[pymethods]
impl Worker {
    #[new]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        py: Python<'_>,
        core: &Core,
        subscription: String,
        name: Option<String>,
        concurrency: usize,
        batch: usize,
        lease: f64,
        poll_interval: f64,
        grace: f64,
        until_empty: bool,
        on_event: Option<Py<PyAny>>,
    ) -> PyResult<Worker> {
        let mut builder = core
            .outbox(py)?
            .worker(subscription)
            .concurrency(concurrency)
            .batch(batch)
            .lease(length(py, "lease", lease)?)
            .poll_interval(length(py, "poll_interval", poll_interval)?)
            .grace(length(py, "grace", grace)?);
        if let Some(name) = name {
            builder = builder.name(name);
        }
        if until_empty {
            builder = builder.until_empty();
        }
        if let Some(listener) = on_event {
            builder = builder.on_event(move |event| {
                let (what, text) = match event {
                    Event::Connected => ("connected", String::new()),
                    Event::Polling => ("polling", String::new()),
                    Event::Disconnected(error) => ("disconnected", error.report()),
                    Event::LeaseLost(lease) => ("lease_lost", lease.to_string()),
                    Event::Refused(error) => ("refused", error.report()),
                    // The Python module logs a failed handler itself, with its traceback.
                    _ => return,
                };
                Python::attach(|py| {
                    if let Err(error) = listener.call1(py, (what, text)) {
                        error.write_unraisable(py, None);
                    }
                });
            });
        }
        Ok(Worker { builder, stop: CancellationToken::new() })
    }

    /// Runs the worker. `dispatch(delivery, reply)` starts the handler and returns a callable that cancels it, or None.
    fn run(&self, future: Py<PyAny>, dispatch: Py<PyAny>) -> PyResult<Task> {
        let dispatch = Arc::new(dispatch);
        let worker = self.builder.clone().build(move |delivery: Delivery| handle(dispatch.clone(), delivery));
        let inner = worker.stop_token();
        let outer = self.stop.clone();
        let work = async move {
            let stopper = tokio::spawn(async move {
                outer.cancelled().await;
                inner.cancel();
            });
            let report = worker.run().await;
            stopper.abort();
            report
        };
        submit(future, work, |py, report| {
            let dict = PyDict::new(py);
            for (name, count) in [
                ("completed", report.completed),
                ("failed", report.failed),
                ("dead", report.dead),
                ("released", report.released),
                ("lost", report.lost),
                ("disconnects", report.disconnects),
            ] {
                dict.set_item(name, count)?;
            }
            Ok(dict.into_any().unbind())
        })
    }

    fn stop(&self) {
        self.stop.cancel();
    }
}

async fn handle(dispatch: Arc<Py<PyAny>>, delivery: Delivery) -> Handled {
    let (answer, answered) = oneshot::channel();
    let lost = delivery.lost().clone();
    let done = CancellationToken::new();
    let _guard = done.clone().drop_guard();
    let cancel = Python::attach(|py| {
        let reply = Reply { answer: std::sync::Mutex::new(Some(answer)) };
        dispatch.call1(py, (delivery_dict(py, &delivery)?, reply))
    });
    match cancel {
        Ok(cancel) => {
            // In a task of its own, because this task is aborted at the end of the grace period.
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = lost.cancelled() => Python::attach(|py| {
                        if !cancel.is_none(py) && let Err(error) = cancel.call0(py) {
                            error.write_unraisable(py, None);
                        }
                    }),
                    () = done.cancelled() => {}
                }
            });
        }
        Err(error) => return Err(Failure::retry(error.to_string())),
    }
    answered.await.unwrap_or_else(|_| Err(Failure::retry("the handler went away without an answer")))
}

#[pyclass]
struct Reader {
    reader: Owned<Arc<Mutex<RustReader>>>,
    consumer: Option<String>,
    subject: String,
    health: ReaderHealth,
}

impl Reader {
    fn ours(&self) -> PyResult<Arc<Mutex<RustReader>>> {
        self.reader.ours().cloned().ok_or_else(|| PyRuntimeError::new_err("this reader is of the parent process"))
    }

    fn change(&self, future: Py<PyAny>, change: impl FnOnce(&mut RustReader) + Send + 'static) -> PyResult<Task> {
        let reader = self.ours()?;
        let work = async move {
            change(&mut *reader.lock().await);
            Ok(())
        };
        submit(future, work, none)
    }
}

#[pymethods]
impl Reader {
    #[new]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        py: Python<'_>,
        core: &Core,
        consumer: Option<String>,
        subject: String,
        topics: Option<Vec<String>>,
        filter: Option<String>,
        after: i64,
        batch: i32,
        poll_interval: f64,
    ) -> PyResult<Reader> {
        let mut builder: ReaderBuilder = core.outbox(py)?.reader().subject(subject.clone()).after(after).batch(batch);
        builder = builder.poll_interval(length(py, "poll_interval", poll_interval)?);
        if let Some(consumer) = &consumer {
            builder = builder.consumer(consumer);
        }
        if let Some(topics) = topics {
            builder = builder.topics(topics);
        }
        if let Some(filter) = filter {
            builder = builder.filter(serde_json::from_str(&filter).map_err(|e| exception(py, &e.into()))?);
        }
        let health = builder.health();
        Ok(Reader { reader: Owned::new(Arc::new(Mutex::new(builder.build()))), consumer, subject, health })
    }

    fn next(&self, future: Py<PyAny>) -> PyResult<Task> {
        let reader = self.ours()?;
        let work = async move { reader.lock().await.next().await };
        submit(future, work, |py, message| Ok(message_dict(py, &message)?.into_any().unbind()))
    }

    /// Returns whether the last read found the server. It does not wait for a read that runs.
    fn connected(&self) -> bool {
        self.health.is_connected()
    }

    fn next_now(&self, future: Py<PyAny>) -> PyResult<Task> {
        let reader = self.ours()?;
        let work = async move { reader.lock().await.poll_next_now().await };
        submit(future, work, |py, message| match message {
            Some(message) => Ok(message_dict(py, &message)?.into_any().unbind()),
            None => Ok(py.None()),
        })
    }

    fn advance(&self, future: Py<PyAny>, positions: Vec<i64>, webhook_id: String) -> PyResult<Task> {
        let reader = self.ours()?;
        submit(future, async move { reader.lock().await.advance_to(&positions, &webhook_id).await }, none)
    }

    /// Returns (confirmed position, consumer, subject, epoch), which an advance to the last of these positions needs in the
    /// caller's transaction. Fails if the advance would pass a message that is not confirmed.
    fn place(&self, future: Py<PyAny>, positions: Vec<i64>) -> PyResult<Task> {
        let (reader, consumer, subject) = (self.ours()?, self.consumer.clone(), self.subject.clone());
        let work = async move {
            let reader = reader.lock().await;
            reader.check_order(&positions)?;
            let last = positions.iter().copied().max().unwrap_or_default();
            Ok((reader.confirmed(), consumer, subject, reader.epoch_at(last)))
        };
        submit(future, work, |py, place| Ok(place.into_pyobject(py)?.into_any().unbind()))
    }

    fn committed(&self, future: Py<PyAny>, position: i64) -> PyResult<Task> {
        self.change(future, move |reader| reader.committed_to(position))
    }

    fn skip(&self, future: Py<PyAny>, position: i64) -> PyResult<Task> {
        self.change(future, move |reader| reader.skip_at(position))
    }

    fn record_error(&self, future: Py<PyAny>, error: String, position: Option<i64>) -> PyResult<Task> {
        let reader = self.ours()?;
        submit(future, async move { reader.lock().await.record_error(&error, position).await.map(|_| ()) }, none)
    }

    fn rewind(&self, future: Py<PyAny>) -> PyResult<Task> {
        self.change(future, RustReader::rewind)
    }
}

/// A cron expression. Times are seconds since 1970.
#[pyclass]
struct Cron {
    cron: outbox_core::cron::Cron,
}

#[pymethods]
impl Cron {
    #[new]
    #[pyo3(signature = (expression, zone=None))]
    fn new(py: Python<'_>, expression: &str, zone: Option<&str>) -> PyResult<Cron> {
        let cron = outbox_core::cron::Cron::parse(expression, zone).map_err(|e| exception(py, &e.into()))?;
        Ok(Cron { cron })
    }

    /// Returns the first tick after a time.
    fn next(&self, after: f64) -> Option<f64> {
        self.cron.next(time(after)?).map(seconds)
    }

    /// Returns the last tick that is not after a time and at most `catch_up` seconds before it.
    fn missed(&self, now: f64, catch_up: f64) -> Option<f64> {
        self.cron.missed(time(now)?, Duration::try_from_secs_f64(catch_up).ok()?).map(seconds)
    }
}

/// A pattern of topics.
#[pyclass]
struct Pattern {
    pattern: outbox_core::pattern::Pattern,
}

#[pymethods]
impl Pattern {
    #[new]
    fn new(py: Python<'_>, text: &str) -> PyResult<Pattern> {
        let pattern = outbox_core::pattern::Pattern::parse(text).map_err(|e| exception(py, &e.into()))?;
        Ok(Pattern { pattern })
    }

    fn matches(&self, topic: &str) -> bool {
        self.pattern.matches(topic)
    }
}

fn time(seconds: f64) -> Option<pg_outbox_time::Time> {
    #[allow(clippy::cast_possible_truncation, reason = "saturates, and chrono refuses what it cannot represent")]
    let micros = (seconds * 1e6) as i64;
    pg_outbox_time::Time::from_timestamp_micros(micros)
}

fn seconds(time: pg_outbox_time::Time) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "exact to the microsecond for two centuries")]
    let micros = time.timestamp_micros() as f64;
    micros / 1e6
}

/// Returns the idempotency key of a tick of a periodic message.
#[pyfunction]
fn tick_key(name: &str, tick: f64) -> Option<String> {
    Some(outbox_core::cron::tick_key(name, time(tick)?))
}

/// Returns name, kind and hint of a SQLSTATE.
#[pyfunction]
fn classify(state: &str) -> (&'static str, &'static str, Option<&'static str>) {
    let (name, kind) = pg_outbox::error::classify(state);
    (name, kind.as_str(), pg_outbox::error::hint(name))
}

/// Webhook id, time, and the decompressed content if the body arrived compressed.
type Checked<'py> = (String, i64, Option<Bound<'py, PyBytes>>);

#[pyfunction]
fn verify<'py>(
    py: Python<'py>,
    secrets: Vec<String>,
    tolerance: f64,
    headers: std::collections::HashMap<String, String>,
    body: &[u8],
    limit: usize,
    now: Option<i64>,
) -> PyResult<Checked<'py>> {
    let tolerance = length(py, "tolerance", tolerance)?;
    let header = |name: &str| headers.get(name).map(String::as_str);
    let verified = Verifier::with_secrets(secrets.iter().map(String::as_str), tolerance)
        .map(|verifier| verifier.limit(limit))
        .and_then(|verifier| match now {
            Some(now) => verifier.verify_at(header, body, now),
            None => verifier.verify(header, body),
        })
        .map_err(|e| exception(py, &e))?;
    let content = match &verified.body {
        Cow::Borrowed(_) => None,
        Cow::Owned(content) => Some(PyBytes::new(py, content)),
    };
    Ok((verified.id, verified.timestamp, content))
}

#[pyfunction]
fn sign(py: Python<'_>, secret: &str, id: &str, timestamp: i64, body: &[u8]) -> PyResult<String> {
    pg_outbox::verify::sign(secret, id, timestamp, body).map_err(|e| exception(py, &e))
}

/// Passes the events of the Rust client on to the logger `pg_outbox` of Python. Workers are left out, because the Python
/// module logs their events with the tracebacks of handlers.
fn log_to_python(py: Python<'_>) -> PyResult<()> {
    use pyo3_log::{Caching, Logger};
    use tracing::log::LevelFilter;
    let logger = Logger::new(py, Caching::Loggers)?
        .filter(LevelFilter::Off)
        .filter_target("pg_outbox".to_owned(), LevelFilter::Debug)
        .filter_target("pg_outbox::worker".to_owned(), LevelFilter::Off);
    // If another module has set the logger of this library already, that one stays.
    let _ = logger.install();
    Ok(())
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    log_to_python(module.py())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Core>()?;
    module.add_class::<Worker>()?;
    module.add_class::<Reader>()?;
    module.add_class::<Cron>()?;
    module.add_class::<Pattern>()?;
    module.add_class::<Reply>()?;
    module.add_class::<Task>()?;
    module.add_function(wrap_pyfunction!(classify, module)?)?;
    module.add_function(wrap_pyfunction!(verify, module)?)?;
    module.add_function(wrap_pyfunction!(shutdown, module)?)?;
    events::register(module)?;
    module.add_function(wrap_pyfunction!(tick_key, module)?)?;
    module.add_function(wrap_pyfunction!(sign, module)?)
}
