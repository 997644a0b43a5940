//! Helpers for tests of applications: the messages that a transaction enqueued, a worker that runs inline, and a receiver of
//! webhooks. The module `events` has helpers for event sourcing.

#[cfg(feature = "events")]
pub mod events;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::app::drained;
use crate::driver::{Executor, Statement};
use crate::error::{Error, Result};
use crate::outbox::Outbox;
use crate::verify::Verifier;
use crate::worker::{Handler, Report, any_handler};
use outbox_core::gzip;
use outbox_core::verify::LIMIT;

/// A message that the current transaction enqueued.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
pub struct Enqueued {
    /// The id.
    pub id: i64,
    /// The topic.
    pub topic: String,
    /// The ordering key.
    pub key: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// The payload. Null for a message of bytes.
    pub payload: Value,
}

/// Returns the messages that the current transaction has enqueued so far, in order. The role needs the right to read
/// `outbox.message`, so tests usually run as its owner.
///
/// # Errors
/// Kind fatal without that privilege.
pub async fn enqueued(on: impl Executor) -> Result<Vec<Enqueued>> {
    let sql = "select json_build_object('id', m.id, 'topic', m.topic, 'key', m.key, 'tenant', m.tenant,
        'payload', m.payload)::text as r
        from outbox.message m
        where m.xid = pg_current_xact_id_if_assigned() and m.topic !~ '^outbox[.]' order by m.id";
    let rows = on.column(Statement::new(sql, [])).await?;
    rows.iter().flatten().map(|row| Ok(serde_json::from_str(row)?)).collect()
}

/// A message that a transaction is expected to have enqueued, or not. A topic alone stands for any message to it:
/// `Expected::from("order.created").payload(json!({"order": 7})).key("order-7")`.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    topic: String,
    payload: Option<Value>,
    key: Option<String>,
    tenant: Option<String>,
}

impl From<&str> for Expected {
    fn from(topic: &str) -> Expected {
        Expected { topic: topic.to_owned(), ..Expected::default() }
    }
}

impl Expected {
    /// Expects a payload that contains this one.
    #[must_use]
    pub fn payload(mut self, payload: Value) -> Expected {
        self.payload = Some(payload);
        self
    }

    /// Expects this ordering key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Expected {
        self.key = Some(key.into());
        self
    }

    /// Expects this tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Expected {
        self.tenant = Some(tenant.into());
        self
    }

    fn matches(&self, found: &Enqueued) -> bool {
        self.topic == found.topic
            && self.payload.as_ref().is_none_or(|payload| contains(&found.payload, payload))
            && (self.key.is_none() || self.key == found.key)
            && (self.tenant.is_none() || self.tenant == found.tenant)
    }

    fn shown(&self) -> String {
        let mut text = self.topic.clone();
        if let Some(payload) = &self.payload {
            text.push_str(&format!(" {payload}"));
        }
        for (name, value) in [("key", &self.key), ("tenant", &self.tenant)] {
            if let Some(value) = value {
                text.push_str(&format!(" {name}={value:?}"));
            }
        }
        text
    }
}

/// Checks that the current transaction has enqueued a message to `topic` whose payload contains `payload`, and returns it.
///
/// # Errors
/// Those of [`assert_enqueued_like`].
pub async fn assert_enqueued(on: impl Executor, topic: &str, payload: &Value) -> Result<Enqueued> {
    assert_enqueued_like(on, Expected::from(topic).payload(payload.clone())).await
}

/// Checks that the current transaction has enqueued a message as expected, and returns it.
///
/// # Errors
/// Kind not_found if there is no such message. The detail lists the messages that were enqueued instead.
pub async fn assert_enqueued_like(on: impl Executor, expected: impl Into<Expected>) -> Result<Enqueued> {
    let (all, expected) = (enqueued(on).await?, expected.into());
    if let Some(found) = all.iter().find(|message| expected.matches(message)) {
        return Ok(found.clone());
    }
    let shown = |m: &Enqueued| {
        let named = Expected { topic: m.topic.clone(), payload: Some(m.payload.clone()), ..Expected::default() };
        Expected { key: m.key.clone(), tenant: m.tenant.clone(), ..named }.shown()
    };
    let list: Vec<String> = all.iter().map(shown).collect();
    Err(Error::new("OB001", format!("this transaction has not enqueued {}", expected.shown())).detail(
        if list.is_empty() {
            "It has enqueued nothing.".to_owned()
        } else {
            format!("It has enqueued: {}.", list.join("; "))
        },
    ))
}

/// Checks that the current transaction has enqueued no message that [`assert_enqueued_like`] would find.
///
/// # Errors
/// Kind conflict if there is such a message.
pub async fn assert_not_enqueued(on: impl Executor, expected: impl Into<Expected>) -> Result<()> {
    let expected = expected.into();
    match enqueued(on).await?.iter().find(|message| expected.matches(message)) {
        None => Ok(()),
        Some(found) => Err(Error::new("OB005", format!("this transaction has enqueued {}", expected.shown()))
            .detail(format!("It is message {} with the payload {}.", found.id, found.payload))),
    }
}

/// Returns whether `value` contains `part`. An object contains another one if it contains all of its keys and values. Other
/// values must be equal.
pub fn contains(value: &Value, part: &Value) -> bool {
    match (value, part) {
        (Value::Object(value), Value::Object(part)) => {
            part.iter().all(|(key, part)| value.get(key).is_some_and(|value| contains(value, part)))
        }
        _ => value == part,
    }
}

/// Handles the deliveries of the messages that are committed now, with a worker that ends when none is left. Waits until the
/// messages are routed. Returns its counts.
///
/// # Errors
/// Those of [`Worker::run`](crate::Worker::run).
pub async fn drain<Form>(outbox: &Outbox, subscription: &str, handler: impl Handler<Form>) -> Result<Report> {
    drained(outbox, outbox.worker(subscription).concurrency(1).until_empty(), any_handler(handler)).await
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Method and path.
    pub line: String,
    /// Headers by their lower-case names.
    pub headers: Vec<(String, String)>,
    /// The body. If it arrived compressed, the decompressed content.
    pub body: Bytes,
    /// Whether the signature is valid. `None`: there is no secret to check it with.
    pub valid: Option<std::result::Result<(), String>>,
}

impl Arrival {
    /// Returns a header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

struct Shared {
    arrivals: Mutex<Vec<Arrival>>,
    status: Mutex<u16>,
    verifier: Mutex<Option<Verifier>>,
    arrived: Notify,
}

/// A receiver of webhooks on a port of its own. It stops when it is dropped.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Receiver {
    /// Starts a receiver. Port 0 chooses a free port. All requests are answered with 200.
    ///
    /// # Errors
    /// Kind retry if the address is in use.
    pub async fn start(address: &str) -> Result<Receiver> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| Error::connection(format!("cannot listen on \"{address}\"")).detail(error.to_string()))?;
        let address = listener.local_addr().map_err(|error| Error::connection(error.to_string()))?;
        let shared = Arc::new(Shared {
            arrivals: Mutex::default(),
            status: Mutex::new(200),
            verifier: Mutex::default(),
            arrived: Notify::new(),
        });
        let task = tokio::spawn(serve(listener, shared.clone()));
        Ok(Receiver { address, shared, task })
    }

    /// Returns the address on which the receiver listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL of a path on the receiver.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers with this status from now on.
    pub fn answer(&self, status: u16) {
        *lock(&self.shared.status) = status;
    }

    /// Checks signatures from now on. Requests with an invalid signature are answered with 401.
    pub fn verify_with(&self, verifier: Verifier) {
        *lock(&self.shared.verifier) = Some(verifier);
    }

    /// Returns the requests that have arrived so far.
    pub fn arrivals(&self) -> Vec<Arrival> {
        lock(&self.shared.arrivals).clone()
    }

    /// Waits until `count` requests have arrived in all, and returns them.
    pub async fn wait_for(&self, count: usize) -> Vec<Arrival> {
        loop {
            let notified = self.shared.arrived.notified();
            let arrivals = self.arrivals();
            if arrivals.len() >= count {
                return arrivals;
            }
            notified.await;
        }
    }

    /// Waits until a request has arrived, and removes all that have arrived so far.
    pub async fn take(&self) -> Vec<Arrival> {
        loop {
            let notified = self.shared.arrived.notified();
            let arrivals = std::mem::take(&mut *lock(&self.shared.arrivals));
            if !arrivals.is_empty() {
                return arrivals;
            }
            notified.await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Locks a value. A panic of another holder is ignored, because the value is consistent at all times.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, shared.clone()));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> std::result::Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let header = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let body = match header("content-encoding").filter(|coding| gzip::is_named(coding)) {
        Some(_) => gzip::gunzip(&body, LIMIT).map_or(body, Bytes::from),
        None => body,
    };
    let verifier = lock(&shared.verifier).clone();
    let valid = verifier
        .map(|v| v.verify(header, &body).map(|_| ()).map_err(|e| e.details().detail.clone().unwrap_or_default()));
    let status = if matches!(valid, Some(Err(_))) { 401 } else { *lock(&shared.status) };
    lock(&shared.arrivals).push(Arrival { line: format!("{} {}", head.method, head.uri), headers, body, valid });
    shared.arrived.notify_waiters();
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::OK);
    Ok(response)
}
