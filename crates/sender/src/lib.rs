//! The HTTP side of the dispatcher: queues, connections and requests, on one thread of its own.
//!
//! The dispatcher's main thread talks to PostgreSQL, this thread talks to receivers, and values cross between them: jobs in
//! one direction, outcomes in the other. Nothing here knows PostgreSQL, so nothing here can call into it.
//!
//! Invariants:
//! * Requests in flight plus outcomes that the main thread has not yet recorded never exceed `max_unrecorded`: that is the
//!   bound on duplicates after a crash.
//! * Endpoints do not wait for one another: each has its own queue, connections and limits, and of the common limits one that
//!   does not answer gets a part.
//! * What a peer sends is read within limits of bytes and time, and never for long without a look at the others.
//! * A shortage of this machine is no failure of a receiver: what meets it waits.
//! * Each job that was submitted comes back exactly once.

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

/// What holds for all endpoints. A change takes effect with the next request.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Requests in flight over all endpoints. An endpoint that answers and has nothing in flight may have one beyond it while
    /// others wait for answers for long.
    pub max_in_flight: usize,
    /// Open connections over all endpoints, idle ones included; these are closed when others need their places.
    pub max_connections: usize,
    /// How old a connection becomes, about.
    pub connection_age: Duration,
    /// Requests in flight plus outcomes not yet recorded.
    pub max_unrecorded: usize,
    /// Addresses that may be called.
    pub egress: Egress,
    /// Sent as `user-agent`.
    pub user_agent: HeaderValue,
    /// What CloudEvents say they come from.
    pub source: Arc<str>,
    /// Name servers to ask instead of the system's resolver.
    pub dns: Vec<SocketAddr>,
}

/// What may be sent to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// Everything.
    #[default]
    Active,
    /// Nothing; what is queued waits.
    Hold,
    /// Nothing; what is queued comes back unsent.
    Skip,
}

/// A limit of requests over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests per second.
    pub per_second: f64,
    /// Requests at once after a pause.
    pub burst: f64,
}

/// State of an endpoint that survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Saved {
    /// Its breaker.
    pub breaker: breaker::State,
    /// The receiver asked for a pause until then (microseconds since 1970-01-01 UTC).
    pub paused_until: i64,
}

/// A change of an endpoint's state.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The endpoint.
    pub endpoint: i32,
    /// Its state now.
    pub state: Saved,
}

/// Where the receiver's own id of a message is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseId {
    /// In a header of the response.
    Header(HeaderName),
    /// In its JSON body (RFC 6901).
    Pointer(String),
}

impl ResponseId {
    /// Reads a rule: a JSON pointer begins with a slash, a header name does not.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<ResponseId, String> {
        if text.starts_with('/') {
            return Ok(ResponseId::Pointer(text.to_owned()));
        }
        text.parse()
            .map(ResponseId::Header)
            .map_err(|_| format!("\"{text}\" is neither a header name nor a JSON pointer"))
    }
}

/// A secret and how long it signs.
#[derive(Clone, Debug)]
pub struct SigningKey {
    /// The secret.
    pub secret: Secret,
    /// Microseconds since 1970-01-01 UTC; `None`: for good.
    pub expires_at: Option<i64>,
}

/// One endpoint's configuration.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: i32,
    /// Where to; an error is what every delivery dies of until it is mended.
    pub url: Result<Url, String>,
    /// What may be sent.
    pub mode: Mode,
    /// Sent with every request, below the protocol's own headers.
    pub headers: HeaderMap,
    /// Signing secrets, the current one first.
    pub secrets: Vec<SigningKey>,
    /// For a whole request, the response's body included.
    pub timeout: Duration,
    /// Requests in flight at once.
    pub concurrency: usize,
    /// Requests over time.
    pub rate: Option<Rate>,
    /// When the breaker opens.
    pub breaker: breaker::Settings,
    /// State to go on from, when the endpoint is new here.
    pub state: Saved,
    /// Authentication besides the signature.
    pub auth: Option<Auth>,
    /// Certificates.
    pub tls: tls::Tls,
    /// HTTP version.
    pub protocol: tls::Protocol,
    /// The operator's proxy that its requests go through.
    pub proxy: Option<Proxy>,
    /// Bodies are sent gzipped.
    pub compress: bool,
    /// Where the receiver's own id of a message is.
    pub response_id: Option<ResponseId>,
    /// Response headers that are kept.
    pub keep_headers: Vec<HeaderName>,
}

/// What the requests of a subscription look like.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Format.
    pub format: Format,
    /// Messages per request.
    pub batch_size: usize,
    /// Longest wait for a batch to fill, in microseconds.
    pub batch_wait: i64,
    /// What outcomes mean.
    pub policy: Policy,
}

/// What came of a validation handshake.
#[derive(Clone, Debug)]
pub struct ConsentAnswer {
    /// The endpoint that was asked.
    pub endpoint: i32,
    /// Who asked.
    pub origin: Box<str>,
    /// Status or fault.
    pub outcome: Outcome,
    /// What went wrong, in words.
    pub error: Option<Box<str>>,
    /// `WebHook-Allowed-Origin`.
    pub allowed_origin: Option<Box<str>>,
    /// `WebHook-Allowed-Rate`.
    pub allowed_rate: Option<Box<str>>,
}

/// What a job is about, as the main thread needs it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Subscription it is for.
    pub subscription: i32,
    /// Endpoint it goes to.
    pub endpoint: i32,
    /// Position of the message.
    pub position: i64,
    /// The message.
    pub message_id: i64,
    /// Row in `outbox.delivery`; 0: none.
    pub delivery_id: i64,
    /// Number of this try, from 1.
    pub attempt: u32,
    /// 0: live.
    pub run: i64,
}

/// One message to one endpoint.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it is about.
    pub ticket: Ticket,
    /// What to send.
    pub message: Arc<Message>,
    /// In which form.
    pub shape: Arc<Shape>,
}

/// What came of a job.
#[derive(Clone, Debug)]
pub struct Done {
    /// The job's ticket.
    pub ticket: Ticket,
    /// Its message, which goes back to the thread that made it: another one gives memory back at several times the price.
    pub message: Option<Arc<Message>>,
    /// Jobs of one batch have the same number here and come back one behind the other; 0: it went alone.
    pub batch: u64,
    /// It was not sent: its endpoint is disabled, and deliveries are skipped; or its message was called off.
    pub skipped: bool,
    /// When the try began, in microseconds since 1970-01-01 UTC.
    pub started_at: i64,
    /// When it ended.
    pub finished_at: i64,
    /// Status or fault; of a batch, that of this message.
    pub outcome: Outcome,
    /// Status of the response.
    pub status: Option<u16>,
    /// What went wrong, in words.
    pub error: Option<Box<str>>,
    /// The wait that the receiver asked for.
    pub retry_after: Option<Duration>,
    /// Address that was called.
    pub remote: Option<SocketAddr>,
    /// What else the response said; of a batch, its first job has it.
    pub answer: Option<Box<Answer>>,
}

/// What few responses have.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The beginning of a failure's body.
    pub body: Option<Box<str>>,
    /// The receiver's own id of the message.
    pub response_id: Option<Box<str>>,
    /// Selected headers, as a JSON object.
    pub headers: Option<Box<str>>,
    /// What the receiver asks to be done.
    pub control: Option<Control>,
}

/// What the HTTP thread is at, as far as another thread can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Changes several times a second while the thread works.
    pub beats: u64,
    /// The job whose request it is working on; `None`: on none.
    pub at: Option<Ticket>,
}

/// Shortages of this machine that requests have met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Requests that wait because of it, since it was looked at.
    pub count: u64,
    /// What is short.
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

/// Counters that both threads read, and the outcomes on their way back.
#[derive(Default)]
struct Shared {
    in_flight: AtomicUsize,
    /// Outcomes that have been handed over or wait to be, and are not recorded.
    unrecorded: AtomicUsize,
    queued: AtomicUsize,
    pulse: hub::Heart,
    shortage: Mutex<Option<Shortage>>,
    done: Mutex<Vec<Done>>,
    events: Mutex<Vec<Event>>,
    consents: Mutex<Vec<ConsentAnswer>>,
}

/// Handle of the HTTP thread. Dropping it stops the thread.
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
    /// Starts the thread. `wake` is called on it when outcomes are there to be taken; it must be quick and not block.
    ///
    /// # Errors
    /// When the operating system gives no thread or no event queue.
    pub fn start(settings: Settings, wake: impl Fn() + Send + 'static) -> std::io::Result<Sender> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        // A local runtime belongs to the thread that makes it: whether that succeeded comes back through a channel.
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

    /// Replaces the configuration of these endpoints; others stay.
    pub fn set_endpoints(&self, endpoints: Vec<Endpoint>) {
        self.command(Command::Endpoints(endpoints));
    }

    /// Queues jobs. Their endpoints have been configured before.
    pub fn submit(&self, jobs: Vec<Job>) {
        if !jobs.is_empty() {
            self.shared.queued.fetch_add(jobs.len(), Ordering::Relaxed);
            self.command(Command::Jobs(jobs));
        }
    }

    /// Gives back, as skipped, what is queued of these messages. A request that has begun goes on.
    pub fn call_off(&self, message_ids: HashSet<i64>) {
        if !message_ids.is_empty() {
            self.command(Command::CallOff(message_ids));
        }
    }

    /// Takes the outcomes that have come in.
    pub fn take_done(&self, into: &mut Vec<Done>) {
        into.append(&mut self.shared.done.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes the changes of endpoints' states that have come in.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.shared.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks an endpoint, whatever its mode, whether deliveries are welcome; the answer can be taken later.
    pub fn ask_consent(&self, endpoint: i32, origin: &str) {
        self.command(Command::Consent(endpoint, origin.into()));
    }

    /// Takes the answers that have come in.
    pub fn take_consents(&self, into: &mut Vec<ConsentAnswer>) {
        into.append(&mut self.shared.consents.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// `n` outcomes that were taken have been recorded durably.
    pub fn recorded(&self, n: usize) {
        if n > 0 {
            self.shared.unrecorded.fetch_sub(n, Ordering::AcqRel);
            self.command(Command::Pump);
        }
    }

    /// The failure of a job that the thread is at and will not bring back, because it is stuck there.
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

    /// Whether the thread goes on, and what it is at.
    pub fn pulse(&self) -> Pulse {
        self.shared.pulse.read()
    }

    /// Takes what requests have met of this machine's shortages.
    pub fn take_shortage(&self) -> Option<Shortage> {
        self.shared.shortage.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Jobs that wait for their turn.
    pub fn queued(&self) -> usize {
        self.shared.queued.load(Ordering::Relaxed)
    }

    /// Outcomes that are not recorded, taken or not.
    pub fn unrecorded(&self) -> usize {
        self.shared.unrecorded.load(Ordering::Acquire)
    }

    /// Starts no further request and waits until those in flight have ended, at most `grace`; their outcomes can be taken
    /// afterwards. What was queued does not come back.
    pub fn stop(&mut self, grace: Duration) {
        self.command(Command::Stop);
        let deadline = std::time::Instant::now() + grace;
        // A thread that has not ended by then ends with the process.
        while self.is_alive() && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether the thread is alive. When it is not, nothing that was submitted will come back.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn command(&self, command: Command) {
        // Fails only when the thread is gone, which `is_alive` tells.
        let _ = self.commands.send(command);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.command(Command::Stop);
    }
}

/// Headers from pairs of names and values.
///
/// # Errors
/// The first name or value that HTTP does not allow.
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
