//! A receiver of webhooks: a real HTTP server whose behaviour a test decides request by request.

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
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The answer of a receiver.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The wait before the answer.
    pub delay: Duration,
    /// The headers of the answer.
    pub headers: Vec<(String, String)>,
    /// The body of the answer.
    pub body: Bytes,
    /// Whether to close the connection without an answer.
    pub hang_up: bool,
}

impl Reply {
    /// Creates an answer with only this status.
    pub fn status(status: u16) -> Reply {
        Reply { status, delay: Duration::ZERO, headers: Vec::new(), body: Bytes::new(), hang_up: false }
    }

    /// Delays the answer.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Reply {
        self.delay = delay;
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Reply {
        self.body = body.into();
        self
    }
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When the body was complete.
    pub at: SystemTime,
    /// The method.
    pub method: Method,
    /// The HTTP version.
    pub version: Version,
    /// Path and query.
    pub path: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Arrival {
    /// Returns a header as text. Empty if the header is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Returns the webhook id.
    pub fn webhook_id(&self) -> &str {
        self.header("webhook-id")
    }

    /// Returns the body as JSON.
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
    connections: AtomicUsize,
    quiet: AtomicBool,
    forgetful: AtomicBool,
}

/// The protocol of a receiver.
#[derive(Clone, Default)]
pub struct Speech {
    /// The TLS configuration, if any. Its ALPN list determines the HTTP versions.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whether only HTTP/2 is accepted.
    pub http2_only: bool,
    /// The age at which an HTTP/2 connection is closed gracefully (GOAWAY).
    pub go_away_after: Option<Duration>,
}

/// A running receiver. Dropping it stops it.
pub struct Receiver {
    address: SocketAddr,
    encrypted: bool,
    state: Arc<State>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Receiver {
    /// Starts a receiver on a free port. It answers all requests with 200 at once.
    pub fn start() -> Result<Receiver> {
        Receiver::start_on("127.0.0.1:0".parse()?)
    }

    /// Starts a receiver on this address.
    pub fn start_on(address: SocketAddr) -> Result<Receiver> {
        Receiver::start_speaking(address, Speech::default())
    }

    /// Starts a receiver on a free port, with this protocol.
    pub fn speaking(speech: Speech) -> Result<Receiver> {
        Receiver::start_speaking("127.0.0.1:0".parse()?, speech)
    }

    fn start_speaking(address: SocketAddr, speech: Speech) -> Result<Receiver> {
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
        let encrypted = speech.tls.is_some();
        runtime.spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (state, speech) = (Arc::clone(&theirs), speech.clone());
                tokio::spawn(async move {
                    match &speech.tls {
                        None => serve(stream, state, &speech).await,
                        Some(config) => {
                            if let Ok(stream) = TlsAcceptor::from(Arc::clone(config)).accept(stream).await {
                                serve(stream, state, &speech).await;
                            }
                        }
                    }
                });
            }
        });
        Ok(Receiver { address, encrypted, state, runtime: Some(runtime) })
    }

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.encrypted { "https" } else { "http" }, self.address)
    }

    /// Returns the URL of a path with another host name.
    pub fn url_as(&self, host: &str, path: &str) -> String {
        format!("{}://{host}:{}{path}", if self.encrypted { "https" } else { "http" }, self.address.port())
    }

    /// Answers requests of a path with the result of `behaviour`. Its second argument counts the requests of the path
    /// from 0.
    pub fn on(&self, path: &str, behaviour: impl Fn(&Arrival, usize) -> Reply + Send + Sync + 'static) {
        lock(&self.state.behaviours).insert(path.to_owned(), Arc::new(behaviour));
    }

    /// Only counts requests from now on, and answers them with 200.
    pub fn quiet(&self) {
        self.state.quiet.store(true, Ordering::Relaxed);
    }

    /// Stores no requests from now on, but still answers as configured.
    pub fn forget(&self) {
        self.state.forgetful.store(true, Ordering::Relaxed);
    }

    /// Returns the number of requests so far.
    pub fn total(&self) -> usize {
        self.state.total.load(Ordering::Relaxed)
    }

    /// Returns the number of connections so far. With TLS, only connections with a successful handshake count.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Returns all requests that arrived.
    pub fn arrivals(&self) -> Vec<Arrival> {
        lock(&self.state.arrivals).clone()
    }

    /// Returns the requests that arrived at a path.
    pub fn at(&self, path: &str) -> Vec<Arrival> {
        lock(&self.state.arrivals).iter().filter(|arrival| arrival.path == path).cloned().collect()
    }

    /// Forgets all requests and resets their count.
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

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>, speech: &Speech) {
    state.connections.fetch_add(1, Ordering::Relaxed);
    let service = hyper::service::service_fn(move |request| answer(Arc::clone(&state), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(1024);
    if speech.http2_only {
        builder = builder.http2_only();
    }
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    if let Some(age) = speech.go_away_after {
        match tokio::time::timeout(age, connection.as_mut()).await {
            Ok(_) => return,
            Err(_) => connection.as_mut().graceful_shutdown(),
        }
    }
    let _ = connection.await;
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
        method: head.method,
        version: head.version,
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
    if !state.forgetful.load(Ordering::Relaxed) {
        lock(&state.arrivals).push(arrival);
    }
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
