//! A receiver of webhooks: a real HTTP server whose behaviour a test can switch, request by request.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

/// What a receiver answers.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Wait before the answer.
    pub delay: Duration,
    /// Headers of the answer.
    pub headers: Vec<(String, String)>,
    /// Body of the answer.
    pub body: Bytes,
    /// Close the connection without an answer.
    pub hang_up: bool,
}

impl Reply {
    /// An answer with this status and nothing else.
    pub fn status(status: u16) -> Reply {
        Reply { status, delay: Duration::ZERO, headers: Vec::new(), body: Bytes::new(), hang_up: false }
    }

    /// The same, later.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Reply {
        self.delay = delay;
        self
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Reply {
        self.body = body.into();
        self
    }
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When its body was complete.
    pub at: SystemTime,
    /// Path and query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Arrival {
    /// A header as text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The webhook id.
    pub fn webhook_id(&self) -> &str {
        self.header("webhook-id")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

type Behaviour = Arc<dyn Fn(&Arrival, usize) -> Reply + Send + Sync>;

#[derive(Default)]
struct State {
    arrivals: Mutex<Vec<Arrival>>,
    behaviours: Mutex<HashMap<String, Behaviour>>,
    counts: Mutex<HashMap<String, usize>>,
    total: AtomicUsize,
    quiet: AtomicBool,
}

/// A running receiver. It stops when it is dropped.
pub struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Receiver {
    /// Starts one on a free port; everything is answered with 200 at once.
    pub fn start() -> Result<Receiver> {
        Receiver::start_on("127.0.0.1:0".parse()?)
    }

    /// Starts one on this address.
    pub fn start_on(address: SocketAddr) -> Result<Receiver> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("receiver")
            .enable_all()
            .build()?;
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let theirs = Arc::clone(&state);
        runtime.spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let state = Arc::clone(&theirs);
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| answer(Arc::clone(&state), request));
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Receiver { address, state, runtime: Some(runtime) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers requests of a path with what `behaviour` says; its second argument counts the requests of the path from 0.
    pub fn on(&self, path: &str, behaviour: impl Fn(&Arrival, usize) -> Reply + Send + Sync + 'static) {
        lock(&self.state.behaviours).insert(path.to_owned(), Arc::new(behaviour));
    }

    /// Counts requests, but keeps none.
    pub fn quiet(&self) {
        self.state.quiet.store(true, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn total(&self) -> usize {
        self.state.total.load(Ordering::Relaxed)
    }

    /// Everything that arrived.
    pub fn arrivals(&self) -> Vec<Arrival> {
        lock(&self.state.arrivals).clone()
    }

    /// What arrived at a path.
    pub fn at(&self, path: &str) -> Vec<Arrival> {
        lock(&self.state.arrivals).iter().filter(|arrival| arrival.path == path).cloned().collect()
    }

    /// Forgets what arrived.
    pub fn clear(&self) {
        lock(&self.state.arrivals).clear();
        self.state.total.store(0, Ordering::Relaxed);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[derive(Debug)]
struct HangUp;

impl std::fmt::Display for HangUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hang up")
    }
}

impl std::error::Error for HangUp {}

impl From<Infallible> for HangUp {
    fn from(never: Infallible) -> HangUp {
        match never {}
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, HangUp> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    state.total.fetch_add(1, Ordering::Relaxed);
    if state.quiet.load(Ordering::Relaxed) {
        return Ok(Response::new(Full::default()));
    }
    let arrival = Arrival {
        at: SystemTime::now(),
        path: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        headers: head.headers,
        body,
    };
    let behaviour = lock(&state.behaviours).get(&arrival.path).cloned();
    let count = {
        let mut counts = lock(&state.counts);
        let count = counts.entry(arrival.path.clone()).or_default();
        *count += 1;
        *count - 1
    };
    let reply = behaviour.map_or_else(|| Reply::status(200), |behaviour| behaviour(&arrival, count));
    lock(&state.arrivals).push(arrival);
    if !reply.delay.is_zero() {
        tokio::time::sleep(reply.delay).await;
    }
    if reply.hang_up {
        return Err(HangUp);
    }
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in reply.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}
