//! The HTTP side of the dispatcher: queues, connections and requests, on a thread of its own.
//!
//! The dispatcher's main thread talks to PostgreSQL and this thread talks to receivers. Only values cross between the
//! threads: jobs in one direction, outcomes in the other. This crate does not know PostgreSQL, so it cannot call into it.
//!
//! Invariants:
//! * Requests in flight plus outcomes that the main thread has not yet recorded never exceed `max_unrecorded`. This is the
//!   bound on duplicates after a crash.
//! * Endpoints do not wait for one another. Each endpoint has its own queue, connections and limits, and endpoints that do
//!   not answer get only a part of the common limits.
//! * Data from a peer is read within limits of bytes and time, and never for long before other connections get their turn.
//! * A shortage of this machine is not a failure of a receiver. Requests that meet a shortage wait.
//! * Each submitted job comes back exactly once.

mod connect;
mod consent;
mod gate;
mod hub;
mod meter;
mod oauth;
mod proxy;
mod queue;
mod request;
mod resolve;
mod response;
mod timer;
pub mod tls;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use http::HeaderValue;
use http::{HeaderMap, HeaderName};
use outbox_core::auth::Auth;
use outbox_core::breaker;
use outbox_core::egress::Egress;
use outbox_core::format::{self, Format};
use outbox_core::message::Message;
use outbox_core::policy::{Control, Fault, Outcome, Policy};
use outbox_core::proxy::Proxy;
use outbox_core::sign::Secret;
use outbox_core::url::Url;
use tokio::sync::mpsc;

/// Settings that apply to all endpoints. A change takes effect with the next request.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The largest number of requests in flight over all endpoints. An endpoint that answers and has no request in flight
    /// may send one request beyond the limit while requests of other endpoints are overdue.
    pub max_in_flight: usize,
    /// The largest number of open connections over all endpoints, including idle connections. Idle connections are closed
    /// when other endpoints need connections.
    pub max_connections: usize,
    /// The mean age at which a connection is no longer used.
    pub connection_age: Duration,
    /// The largest number of requests in flight plus outcomes not yet recorded.
    pub max_unrecorded: usize,
    /// Addresses that may be called.
    pub egress: Egress,
    /// The value of the `user-agent` header.
    pub user_agent: HeaderValue,
    /// The `source` attribute of CloudEvents.
    pub source: Arc<str>,
    /// Name servers that are asked instead of the system's resolver.
    pub dns: Vec<SocketAddr>,
}

/// Whether requests may be sent to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// Requests are sent.
    #[default]
    Active,
    /// No requests are sent. Queued jobs wait.
    Hold,
    /// No requests are sent. Queued jobs come back unsent.
    Skip,
}

/// A limit on the rate of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests per second.
    pub per_second: f64,
    /// Requests that may be sent at once after a pause.
    pub burst: f64,
}

/// The state of an endpoint that survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Saved {
    /// The state of the breaker.
    pub breaker: breaker::State,
    /// The end of the pause that the receiver asked for (microseconds since 1970-01-01 UTC).
    pub paused_until: i64,
}

/// A change of an endpoint's state.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The endpoint.
    pub endpoint: i32,
    /// The new state.
    pub state: Saved,
}

/// The place in a response where the receiver's own id of a message is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseId {
    /// In a header of the response.
    Header(HeaderName),
    /// At a JSON pointer (RFC 6901) in the body.
    Pointer(String),
}

impl ResponseId {
    /// Reads a rule: a JSON pointer begins with a slash, a header name does not.
    ///
    /// # Errors
    /// If the text is neither a JSON pointer nor a header name.
    pub fn parse(text: &str) -> Result<ResponseId, String> {
        if text.starts_with('/') {
            return Ok(ResponseId::Pointer(text.to_owned()));
        }
        text.parse()
            .map(ResponseId::Header)
            .map_err(|_| format!("\"{text}\" is neither a header name nor a JSON pointer"))
    }
}

/// A secret and the time until which it signs.
#[derive(Clone, Debug)]
pub struct SigningKey {
    /// The secret.
    pub secret: Secret,
    /// Microseconds since 1970-01-01 UTC. `None`: the secret does not expire.
    pub expires_at: Option<i64>,
}

/// The configuration of an endpoint.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The id.
    pub id: i32,
    /// The URL. If it is an error, every delivery fails with this text until the configuration is corrected.
    pub url: Result<Url, String>,
    /// Whether requests may be sent.
    pub mode: Mode,
    /// Headers of every request. The protocol's own headers take precedence.
    pub headers: HeaderMap,
    /// Signing secrets, the current secret first.
    pub secrets: Vec<SigningKey>,
    /// Time limit of a whole request, including the response's body.
    pub timeout: Duration,
    /// The largest number of requests in flight.
    pub concurrency: usize,
    /// The limit on the rate of requests.
    pub rate: Option<Rate>,
    /// The settings of the breaker.
    pub breaker: breaker::Settings,
    /// The state from which a new endpoint continues.
    pub state: Saved,
    /// Authentication in addition to the signature.
    pub auth: Option<Auth>,
    /// Certificates and keys.
    pub tls: tls::Tls,
    /// HTTP version.
    pub protocol: tls::Protocol,
    /// The operator's proxy for requests to this endpoint.
    pub proxy: Option<Proxy>,
    /// Whether bodies are sent gzipped.
    pub compress: bool,
    /// The place of the receiver's own id of a message.
    pub response_id: Option<ResponseId>,
    /// Response headers that are stored.
    pub keep_headers: Vec<HeaderName>,
}

/// The properties of the requests of a subscription.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Format.
    pub format: Format,
    /// The largest number of messages in a request.
    pub batch_size: usize,
    /// The longest wait for a batch to fill, in microseconds.
    pub batch_wait: i64,
    /// The rules that map outcomes to actions.
    pub policy: Policy,
}

/// The result of a validation handshake.
#[derive(Clone, Debug)]
pub struct ConsentAnswer {
    /// The endpoint that was asked.
    pub endpoint: i32,
    /// The origin that asked.
    pub origin: Box<str>,
    /// Status or fault.
    pub outcome: Outcome,
    /// A description of the error.
    pub error: Option<Box<str>>,
    /// `WebHook-Allowed-Origin`.
    pub allowed_origin: Option<Box<str>>,
    /// `WebHook-Allowed-Rate`.
    pub allowed_rate: Option<Box<str>>,
}

/// The identity of a job. It comes back to the main thread with the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Id of the subscription.
    pub subscription: i32,
    /// Id of the endpoint.
    pub endpoint: i32,
    /// Position of the message.
    pub position: i64,
    /// Id of the message.
    pub message_id: i64,
    /// Id of the row in `outbox.delivery`. 0: the delivery has no row.
    pub delivery_id: i64,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// The run of the delivery. 0: live; above 0: the replay of that id; -1: test; -2: manual resend.
    pub run: i64,
}

/// One message to one endpoint.
#[derive(Clone, Debug)]
pub struct Job {
    /// The identity of the job.
    pub ticket: Ticket,
    /// The message to send.
    pub message: Arc<Message>,
    /// The properties of the request.
    pub shape: Arc<Shape>,
}

/// The outcome of a job.
#[derive(Clone, Debug)]
pub struct Done {
    /// The job's ticket.
    pub ticket: Ticket,
    /// The message of the job. The thread that allocated it frees it, because freeing memory on another thread takes several
    /// times as long.
    pub message: Option<Arc<Message>>,
    /// The number of the batch. The jobs of a batch have the same number and come back one after the other. 0: the job was
    /// sent alone.
    pub batch: u64,
    /// Whether the job was not sent, because its endpoint is disabled in mode skip or its message was cancelled.
    pub skipped: bool,
    /// When the attempt began, in microseconds since 1970-01-01 UTC.
    pub started_at: i64,
    /// When the attempt ended, in microseconds since 1970-01-01 UTC.
    pub finished_at: i64,
    /// Status or fault. In a batch, the status or fault of this message.
    pub outcome: Outcome,
    /// Status of the response.
    pub status: Option<u16>,
    /// A description of the error.
    pub error: Option<Box<str>>,
    /// The wait that the receiver asked for.
    pub retry_after: Option<Duration>,
    /// The address that was called.
    pub remote: Option<SocketAddr>,
    /// Further data from the response. In a batch, the first job has it.
    pub answer: Option<Box<Answer>>,
}

/// The parts of a response that few responses have.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The beginning of a failure's body.
    pub body: Option<Box<str>>,
    /// The receiver's own id of the message.
    pub response_id: Option<Box<str>>,
    /// Selected headers, as a JSON object.
    pub headers: Option<Box<str>>,
    /// The request of the receiver in the header `webhook-delivery`.
    pub control: Option<Control>,
}

/// The activity of the HTTP thread, as far as another thread can see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// A counter that changes several times a second while the thread is alive.
    pub beats: u64,
    /// The job whose request the thread is working on at this moment, if any.
    pub at: Option<Ticket>,
}

/// A shortage of this machine that requests have met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The number of requests that met a shortage since `take_shortage` was last called.
    pub count: u64,
    /// The error of the last of these requests.
    pub error: Box<str>,
}

enum Command {
    Settings(Box<Settings>),
    Endpoints(Vec<Endpoint>),
    Jobs(Vec<Job>),
    Consent(i32, Box<str>),
    CallOff(HashSet<i64>),
    Pump,
    Stop,
}

/// Counters that both threads read, and outcomes that the main thread has not taken yet.
#[derive(Default)]
struct Shared {
    in_flight: AtomicUsize,
    /// The number of outcomes that are not recorded, whether the main thread has taken them or not.
    unrecorded: AtomicUsize,
    queued: AtomicUsize,
    pulse: hub::Heart,
    shortage: Mutex<Option<Shortage>>,
    done: Mutex<Vec<Done>>,
    events: Mutex<Vec<Event>>,
    consents: Mutex<Vec<ConsentAnswer>>,
}

/// The handle of the HTTP thread. Dropping it stops the thread.
pub struct Sender {
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    /// Starts the thread. The thread calls `wake` when outcomes can be taken. `wake` must be quick and must not block.
    ///
    /// # Errors
    /// If the operating system provides no thread or no event queue.
    pub fn start(settings: Settings, wake: impl Fn() + Send + 'static) -> std::io::Result<Sender> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        // A local runtime belongs to the thread that creates it. A channel reports whether that succeeded.
        let (begun, begins) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("pg_outbox http".to_owned()).spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_io().enable_time().build_local(tokio::runtime::LocalOptions::default());
            let (runtime, result) = match runtime {
                Ok(runtime) => (Some(runtime), Ok(())),
                Err(error) => (None, Err(error)),
            };
            let _ = begun.send(result);
            if let Some(runtime) = runtime {
                hub::run(&runtime, settings, receiver, theirs, Box::new(wake));
            }
        })?;
        begins.recv().map_err(|_| std::io::Error::other("the HTTP thread ended at its beginning"))??;
        Ok(Sender { commands, shared, thread: Some(thread) })
    }

    /// Replaces the settings.
    pub fn set_settings(&self, settings: Settings) {
        self.command(Command::Settings(Box::new(settings)));
    }

    /// Replaces the configuration of these endpoints. Other endpoints stay unchanged.
    pub fn set_endpoints(&self, endpoints: Vec<Endpoint>) {
        self.command(Command::Endpoints(endpoints));
    }

    /// Queues jobs. Their endpoints must have been configured before.
    pub fn submit(&self, jobs: Vec<Job>) {
        if !jobs.is_empty() {
            self.shared.queued.fetch_add(jobs.len(), Ordering::Relaxed);
            self.command(Command::Jobs(jobs));
        }
    }

    /// Recalls the queued jobs of these messages, which come back as skipped. Requests that have begun go on.
    pub fn call_off(&self, message_ids: HashSet<i64>) {
        if !message_ids.is_empty() {
            self.command(Command::CallOff(message_ids));
        }
    }

    /// Takes the outcomes that have arrived.
    pub fn take_done(&self, into: &mut Vec<Done>) {
        into.append(&mut self.shared.done.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes the changes of endpoints' states that have arrived.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.shared.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks an endpoint whether it wants deliveries, regardless of its mode. The answer can be taken later with
    /// `take_consents`.
    pub fn ask_consent(&self, endpoint: i32, origin: &str) {
        self.command(Command::Consent(endpoint, origin.into()));
    }

    /// Takes the answers to `ask_consent` that have arrived.
    pub fn take_consents(&self, into: &mut Vec<ConsentAnswer>) {
        into.append(&mut self.shared.consents.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Reports that `n` outcomes that were taken have been recorded durably.
    pub fn recorded(&self, n: usize) {
        if n > 0 {
            self.shared.unrecorded.fetch_sub(n, Ordering::AcqRel);
            self.command(Command::Pump);
        }
    }

    /// Returns a failure for the job on which the thread is stuck, because the thread will not bring it back.
    pub fn give_up(&self, ticket: Ticket, error: &str) -> Done {
        self.shared.unrecorded.fetch_add(1, Ordering::AcqRel);
        let now = hub::unix_micros(std::time::SystemTime::now());
        Done {
            ticket,
            message: None,
            batch: 0,
            skipped: false,
            started_at: now,
            finished_at: now,
            outcome: Outcome::Fault(Fault::Protocol),
            status: None,
            error: Some(error.into()),
            retry_after: None,
            remote: None,
            answer: None,
        }
    }

    /// Returns whether the thread is alive and which job it is working on.
    pub fn pulse(&self) -> Pulse {
        self.shared.pulse.read()
    }

    /// Takes the shortage that requests have met since the last call, if any.
    pub fn take_shortage(&self) -> Option<Shortage> {
        self.shared.shortage.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns the number of requests in flight.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the number of jobs that wait for their turn.
    pub fn queued(&self) -> usize {
        self.shared.queued.load(Ordering::Relaxed)
    }

    /// Returns the number of outcomes that are not recorded, taken or not.
    pub fn unrecorded(&self) -> usize {
        self.shared.unrecorded.load(Ordering::Acquire)
    }

    /// Starts no further request and waits at most `grace` for the requests in flight to end. Their outcomes can be taken
    /// afterwards. Queued jobs do not come back.
    pub fn stop(&mut self, grace: Duration) {
        self.command(Command::Stop);
        let deadline = std::time::Instant::now() + grace;
        // A thread that has not ended by the deadline ends with the process.
        while self.is_alive() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Returns whether the thread is alive. If it is not, no submitted job will come back.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn command(&self, command: Command) {
        // This fails only if the thread has ended, which `is_alive` reports.
        let _ = self.commands.send(command);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.command(Command::Stop);
    }
}

/// Creates headers from pairs of names and values.
///
/// # Errors
/// A text about the first name or value that HTTP does not allow.
pub fn header_map<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name: HeaderName = name.parse().map_err(|_| format!("\"{name}\" is not a header name"))?;
        let value: HeaderValue =
            format::ascii(value).parse().map_err(|_| format!("header \"{name}\" has a value that is not allowed"))?;
        headers.append(name, value);
    }
    Ok(headers)
}
