//! Opens connections: resolves and checks the address, goes through a proxy if there is one, and performs the handshakes of
//! TLS and HTTP.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use outbox_core::policy::Fault;
use outbox_core::proxy::Proxy;
use outbox_core::schedule::mix;
use outbox_core::url::Url;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::meter::{Meter, Metered};
use crate::proxy::Target;
use crate::tls::{self, Client, Protocol, Tls};
use crate::{Endpoint, Settings, proxy, resolve};

/// The largest size of the head of an HTTP/1 answer, and of one read.
const HEAD_BYTES: usize = 128 * 1024;
/// The number of bytes of one answer that an HTTP/2 server may send before they are read.
const STREAM_WINDOW: u32 = 128 * 1024;
/// The number of bytes of all answers that an HTTP/2 server may send before they are read.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// A fault and its description.
pub(crate) type Failure = (Fault, String);

/// The state that the requests of one endpoint share to reach it.
#[derive(Default)]
pub(crate) struct Reach {
    /// Counts the changes of the settings that determine where requests go.
    generation: Cell<u64>,
    /// The TLS configuration, built at the first use.
    tls: RefCell<Option<Result<Client, String>>>,
    /// The HTTP/2 connection that all requests share.
    shared: RefCell<Option<Shared>>,
    /// Whether the server has been seen to speak HTTP/1.1 only.
    one_at_a_time: Cell<bool>,
    /// Whether the server speaks HTTP/2 but wants HTTP/1.1 for these requests.
    http1_only: Cell<bool>,
    /// The addresses that were found last, and when. All requests that wait share one look-up.
    names: tokio::sync::Mutex<Option<(Instant, Looked)>>,
    /// Held while a request opens the HTTP/2 connection or fetches a token for all requests.
    turn: tokio::sync::Mutex<()>,
    /// A token of the authorisation server, and when it expires (microseconds since 1970).
    pub(crate) token: RefCell<Option<(HeaderValue, i64)>>,
    /// The failure of the last request for a token, and the time until which all requests get this failure.
    pub(crate) no_token: RefCell<Option<(Failure, i64)>>,
}

impl Reach {
    /// Returns the generation of the current settings.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Returns whether a connection was opened with the current settings.
    pub(crate) fn is_current(&self, connection: &Connection) -> bool {
        connection.generation == self.generation.get()
    }

    /// Forgets all state, because the settings have changed where requests go.
    pub(crate) fn reset(&self) {
        self.generation.set(self.generation.get() + 1);
        *self.tls.borrow_mut() = None;
        *self.shared.borrow_mut() = None;
        self.one_at_a_time.set(false);
        self.http1_only.set(false);
        *self.token.borrow_mut() = None;
        *self.no_token.borrow_mut() = None;
    }

    /// Lets the next connection offer HTTP/1.1 only, because the server refuses HTTP/2 for these requests.
    pub(crate) fn use_http1(&self) {
        self.http1_only.set(true);
        *self.tls.borrow_mut() = None;
        *self.shared.borrow_mut() = None;
    }

    /// Closes the shared connection, because no request uses it for now.
    pub(crate) fn rest(&self) {
        *self.shared.borrow_mut() = None;
    }

    /// Removes a connection that is shared, so that new requests open another one. Requests that run over it go on.
    pub(crate) fn forget(&self, connection: &Connection) {
        if let Requests::Many(used) = &connection.requests {
            let mut slot = self.shared.borrow_mut();
            if slot.as_ref().is_some_and(|kept| Rc::ptr_eq(&kept.answered, &used.answered)) {
                *slot = None;
            }
        }
    }

    /// Explains the failure of a connection's first request. If the server asked for a client certificate in the TLS
    /// handshake, the failure becomes a TLS fault that says so.
    pub(crate) fn explain(&self, (fault, text): Failure) -> Failure {
        let tls = self.tls.borrow();
        match (fault, tls.as_ref().and_then(|tls| tls.as_ref().ok()?.refusal())) {
            (Fault::Tls | Fault::Reset | Fault::Protocol, Some(refusal)) => (Fault::Tls, format!("{refusal}: {text}")),
            _ => (fault, text),
        }
    }

    /// Forgets a token that was refused, unless another token has replaced it already.
    pub(crate) fn forget_token(&self, refused: &HeaderValue) {
        let mut slot = self.token.borrow_mut();
        if slot.as_ref().is_some_and(|(value, _)| value == refused) {
            *slot = None;
        }
    }

    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

/// An open connection.
pub(crate) struct Connection {
    generation: u64,
    pub(crate) url: Url,
    pub(crate) remote: SocketAddr,
    requests: Requests,
    /// The request target and the `Host` header, set by the first request.
    pub(crate) target: Option<(Uri, HeaderValue)>,
    /// The memory of the last response's headers, which the next request reuses.
    spare: HeaderMap,
    /// The number of requests that were sent over it. A failure on a used connection may only mean that the server had
    /// closed the connection.
    pub(crate) served: usize,
    /// The time from which the connection is no longer used, because the name may have another address by then.
    expires: SystemTime,
}

enum Requests {
    One(http1::SendRequest<Full<Bytes>>, Wire, Rc<Meter>),
    Many(Shared),
}

/// An HTTP/2 connection. A task of its own drives it.
#[derive(Clone)]
struct Shared {
    generation: u64,
    url: Url,
    remote: SocketAddr,
    requests: http2::SendRequest<Full<Bytes>>,
    /// Whether the connection has brought a response. All clones share this cell, which also identifies them.
    answered: Rc<Cell<bool>>,
    expires: SystemTime,
    meter: Rc<Meter>,
}

/// The future that drives an HTTP/1.1 connection.
struct Wire {
    driver: Pin<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>>,
    ended: bool,
}

impl Wire {
    /// Runs `work` and the connection together in this task, so that no other task has to be woken in between.
    async fn drive<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| {
            if !self.ended && self.driver.as_mut().poll(cx).is_ready() {
                self.ended = true;
            }
            work.as_mut().poll(cx)
        })
        .await
    }
}

impl Connection {
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.requests, Requests::Many(_))
    }

    pub(crate) fn ended(&self) -> bool {
        match &self.requests {
            Requests::One(_, wire, _) => wire.ended,
            Requests::Many(shared) => shared.requests.is_closed(),
        }
    }

    /// Returns whether the connection is too old for another request.
    pub(crate) fn is_old(&self, now: SystemTime) -> bool {
        now >= self.expires
    }

    fn meter(&self) -> &Meter {
        match &self.requests {
            Requests::One(_, _, meter) => meter,
            Requests::Many(shared) => &shared.meter,
        }
    }

    /// Returns the status of an HTTP/1 answer, as soon as it has arrived. The rest of the answer's head may be missing.
    pub(crate) fn status(&self) -> Option<u16> {
        self.meter().status()
    }

    /// Returns why the answer was given up, if it exceeded a limit.
    pub(crate) fn excess(&self) -> Option<&'static str> {
        self.meter().excess()
    }

    /// Returns whether no byte of the answer has arrived. Always true for HTTP/2.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_http2() || self.meter().is_silent()
    }

    /// Returns an empty map for the headers of a request.
    pub(crate) fn headers(&mut self) -> HeaderMap {
        std::mem::take(&mut self.spare)
    }

    /// Takes back the memory of a response's headers. A request and its response use the same memory, because the HTTP
    /// library passes it from the request to the response.
    pub(crate) fn recycle(&mut self, mut headers: HeaderMap) {
        headers.clear();
        self.spare = headers;
    }

    /// Waits until the connection can take a request. This is immediate unless the connection is still finishing the last
    /// exchange, has been closed, or is full.
    pub(crate) async fn ready(&mut self) -> hyper::Result<()> {
        match &mut self.requests {
            Requests::One(requests, ..) if requests.is_ready() => Ok(()),
            Requests::One(requests, wire, _) => wire.drive(requests.ready()).await,
            Requests::Many(shared) => shared.requests.ready().await,
        }
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.meter().begin(self.is_http2());
        let response = match &mut self.requests {
            Requests::One(requests, wire, _) => wire.drive(requests.send_request(request)).await,
            Requests::Many(shared) => {
                let response = shared.requests.send_request(request).await;
                shared.answered.set(shared.answered.get() || response.is_ok());
                response
            }
        };
        self.served += 1;
        response
    }

    /// Returns whether the connection has brought a response before.
    pub(crate) fn has_answered(&self) -> bool {
        match &self.requests {
            Requests::One(..) => self.served > 0,
            Requests::Many(shared) => shared.answered.get(),
        }
    }

    /// Returns the next frame of a response's body.
    pub(crate) async fn frame(&mut self, body: &mut Incoming) -> Option<hyper::Result<Frame<Bytes>>> {
        match &mut self.requests {
            Requests::One(_, wire, _) => wire.drive(body.frame()).await,
            Requests::Many(_) => body.frame().await,
        }
    }

    /// Resolves when the connection ends.
    pub(crate) async fn closed(&mut self) {
        match &mut self.requests {
            Requests::One(_, wire, _) => {
                if !wire.ended {
                    let _ = wire.driver.as_mut().await;
                    wire.ended = true;
                }
            }
            // Another task drives the connection, and a request that finds it closed opens another one.
            Requests::Many(_) => std::future::pending().await,
        }
    }
}

/// Runs the work of HTTP/2 connections on this thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, work: F) {
        tokio::task::spawn_local(async move {
            work.await;
        });
    }
}

/// The settings that determine, beside the URL, how an endpoint is reached.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) tls: &'a Tls,
    pub(crate) protocol: Protocol,
    pub(crate) proxy: Option<&'a Proxy>,
    /// The time limit for connecting, over all addresses together.
    pub(crate) timeout: Duration,
    /// The generation of these settings. Connections and facts from an old generation are not reused for a new one.
    pub(crate) generation: u64,
}

impl<'a> Way<'a> {
    /// Returns the settings of an endpoint.
    pub(crate) fn to(endpoint: &'a Endpoint, generation: u64) -> Way<'a> {
        Way {
            tls: &endpoint.tls,
            protocol: endpoint.protocol,
            proxy: endpoint.proxy.as_ref(),
            timeout: endpoint.timeout,
            generation,
        }
    }
}

/// Returns a connection to `url`: the shared connection if the endpoint has one, else a new connection.
pub(crate) async fn connect(
    url: &Url,
    mut way: Way<'_>,
    reach: &Reach,
    settings: &Settings,
) -> Result<Connection, Failure> {
    if way.protocol == Protocol::Auto && reach.http1_only.get() {
        way.protocol = Protocol::Http1;
    }
    let may_share = match way.protocol {
        Protocol::Auto => url.tls && !reach.one_at_a_time.get(),
        Protocol::Http1 => false,
        Protocol::Http2 => true,
    };
    if !may_share {
        return open(url, way, reach, settings).await;
    }
    let shared = || {
        let mut slot = reach.shared.borrow_mut();
        if slot.as_ref().is_some_and(|s| s.url != *url || s.requests.is_closed() || SystemTime::now() >= s.expires) {
            *slot = None;
        }
        slot.as_ref().filter(|s| s.generation == way.generation).map(|s| Connection {
            generation: s.generation,
            url: s.url.clone(),
            remote: s.remote,
            requests: Requests::Many(s.clone()),
            target: None,
            spare: HeaderMap::new(),
            // Not 0: a connection that other requests have used may have been closed meanwhile.
            served: 1,
            expires: s.expires,
        })
    };
    if let Some(connection) = shared() {
        return Ok(connection);
    }
    let turn = reach.turn().await;
    if let Some(connection) = shared() {
        return Ok(connection);
    }
    if way.protocol == Protocol::Auto && reach.one_at_a_time.get() {
        drop(turn);
        return open(url, way, reach, settings).await;
    }
    let connection = open(url, way, reach, settings).await?;
    if !reach.is_current(&connection) {
        return Ok(connection);
    }
    match &connection.requests {
        Requests::Many(new) => *reach.shared.borrow_mut() = Some(new.clone()),
        Requests::One(..) => reach.one_at_a_time.set(true),
    }
    Ok(connection)
}

async fn open(url: &Url, way: Way<'_>, reach: &Reach, settings: &Settings) -> Result<Connection, Failure> {
    let mut last = (Fault::Dns, format!("\"{}\" has no address", url.host));
    let is_name = url.host.parse::<IpAddr>().is_err();
    let targets = match way.proxy {
        Some(proxy) if proxy.resolves && is_name => vec![Target::Name(&url.host, url.port)],
        _ => look_up(url, reach, settings).await?.into_iter().map(Target::Address).collect(),
    };
    // Each address gets a share of the time, so that an address that does not answer leaves time for the next address.
    let share = way.timeout / u32::try_from(targets.len().max(1)).unwrap_or(u32::MAX);
    for target in targets {
        let attempt = async {
            let (stream, remote) = match (way.proxy, target) {
                (Some(proxy), _) => through(proxy, target, settings).await?,
                (None, Target::Address(address)) => (dial(address).await?, address),
                (None, Target::Name(..)) => return Err((Fault::Dns, format!("{target} is not resolved"))),
            };
            handshake(url, way, reach, settings, remote, stream).await
        };
        match tokio::time::timeout(share, attempt).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(failure)) => last = failure,
            Err(_) => {
                let by = if way.proxy.is_some() { " through the proxy" } else { "" };
                last = (Fault::Timeout, format!("connecting to {target}{by} took longer than {share:?}"));
            }
        }
    }
    Err(last)
}

type Looked = Result<Vec<SocketAddr>, Failure>;

/// Returns the checked addresses of a URL. Requests that ask at the same time share one answer, so an endpoint makes one
/// look-up at a time regardless of how many requests wait. The system's resolver runs a limited number of look-ups for all
/// endpoints.
async fn look_up(url: &Url, reach: &Reach, settings: &Settings) -> Looked {
    if url.host.parse::<IpAddr>().is_ok() {
        return resolve::vetted(url, settings).await;
    }
    let asked = Instant::now();
    let mut kept = reach.names.lock().await;
    if let Some((at, found)) = kept.as_ref()
        && *at >= asked
    {
        return found.clone();
    }
    let found = resolve::vetted(url, settings).await;
    *kept = Some((Instant::now(), found.clone()));
    found
}

async fn dial(address: SocketAddr) -> Result<Metered, Failure> {
    match TcpStream::connect(address).await {
        Ok(stream) => Ok(Metered::new(stream)),
        Err(error) => {
            // With IPv6, this error means that the machine has no IPv6 address.
            let no_port = error.kind() == io::ErrorKind::AddrNotAvailable && address.is_ipv4();
            let fault = if no_port { Fault::Local } else { io_fault(&error) };
            Err((fault, format!("connecting to {address}: {error}")))
        }
    }
}

/// Opens a stream to `target` through the operator's proxy. Returns the stream and the address of the target, or the address
/// of the proxy if the proxy resolves the name.
async fn through(proxy: &Proxy, target: Target<'_>, settings: &Settings) -> Result<(Metered, SocketAddr), Failure> {
    // The operator chose the proxy, so its address is not checked.
    let mut last = (Fault::Dns, "the proxy has no address".to_owned());
    let places = resolve::any(&proxy.host, proxy.port, settings).await;
    for place in places.map_err(|(fault, text)| (fault, format!("the proxy: {text}")))? {
        match dial(place).await {
            Ok(mut stream) => {
                proxy::tunnel(&mut stream, proxy, target).await?;
                let remote = if let Target::Address(address) = target { address } else { place };
                return Ok((stream, remote));
            }
            Err((fault, text)) => last = (fault, format!("the proxy: {text}")),
        }
    }
    Err(last)
}

async fn handshake(
    url: &Url,
    way: Way<'_>,
    reach: &Reach,
    settings: &Settings,
    remote: SocketAddr,
    stream: Metered,
) -> Result<Connection, Failure> {
    let meter = stream.meter();
    let expires = SystemTime::now() + age(settings.connection_age, remote);
    let generation = way.generation;
    let mut http2 = way.protocol == Protocol::Http2;
    let stream = if url.tls {
        let client = if way.generation == reach.generation() {
            reach.tls.borrow_mut().get_or_insert_with(|| Client::new(way.tls, way.protocol)).clone()
        } else {
            Client::new(way.tls, way.protocol)
        };
        let config = client.map_err(|e| (Fault::Invalid, e))?.config;
        let name = rustls::pki_types::ServerName::try_from(url.host.clone())
            .map_err(|_| (Fault::Invalid, format!("\"{}\" cannot be the name in a certificate", url.host)))?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.map_err(|e| {
            let cure = tls::cure(&e, way.tls);
            // The system's authorities are looked for again at the next attempt.
            reach.tls.borrow_mut().take_if(|_| tls::has_no_roots(way.tls));
            reach.explain((Fault::Tls, format!("TLS handshake with {remote}: {e}{cure}")))
        })?;
        http2 |= stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Layer::Tls(Box::new(stream))
    } else {
        Layer::Plain(stream)
    };
    let stream = Stream { layer: stream, watch: (!http2).then(|| Rc::clone(&meter)) };
    let failed = |e: hyper::Error| (Fault::Protocol, format!("HTTP handshake with {remote}: {e}"));
    let requests = if http2 {
        let (requests, driver) = http2::Builder::new(Local)
            .max_header_list_size(64 * 1024)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .timer(hyper_util::rt::TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        tokio::task::spawn_local(async move {
            let _ = driver.await;
        });
        Requests::Many(Shared {
            generation,
            url: url.clone(),
            remote,
            requests,
            answered: Rc::default(),
            expires,
            meter,
        })
    } else {
        // As tolerant as possible, because an answer that other clients accept counts as an answer. The library's own limit
        // is 100 headers.
        let (requests, driver) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .ignore_invalid_headers_in_responses(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        Requests::One(requests, Wire { driver: Box::pin(driver), ended: false }, meter)
    };
    Ok(Connection {
        generation,
        url: url.clone(),
        remote,
        requests,
        target: None,
        spare: HeaderMap::new(),
        served: 0,
        expires,
    })
}

/// Returns the age that a connection may reach: the mean plus or minus a fifth at random, so that connections that were
/// opened together do not end together.
fn age(mean: Duration, remote: SocketAddr) -> Duration {
    thread_local!(static COUNT: Cell<u64> = const { Cell::new(0) });
    let count = COUNT.with(|count| count.replace(count.get().wrapping_add(1)));
    let random = mix(count ^ u64::from(remote.port()) << 32) % 401;
    mean.mul_f64(0.8 + random as f64 / 1000.0)
}

/// Returns whether the error says that the server has not processed the request. Such a request may be sent again at once.
pub(crate) fn is_unprocessed(error: &hyper::Error) -> bool {
    if error.is_canceled() {
        return true;
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(http2) = inner.downcast_ref::<h2::Error>() {
            // Streams after the last stream of a GOAWAY end with its error. The streams before it end as usual.
            return http2.is_remote() && (http2.is_go_away() || http2.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        source = inner.source();
    }
    false
}

/// Returns whether the server wants the request over HTTP/1.1. It has not processed the request then.
pub(crate) fn wants_http1(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(http2) = inner.downcast_ref::<h2::Error>() {
            return http2.is_remote() && http2.reason() == Some(h2::Reason::HTTP_1_1_REQUIRED);
        }
        source = inner.source();
    }
    false
}

/// Returns whether the error is a broken connection.
pub(crate) fn is_broken(error: &hyper::Error) -> bool {
    if error.is_incomplete_message() {
        return true;
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let io = inner.downcast_ref::<io::Error>().map(io::Error::kind);
        let io = io.or_else(|| inner.downcast_ref::<h2::Error>().and_then(|e| e.get_io()).map(io::Error::kind));
        if let Some(kind) = io {
            use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
            return matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof);
        }
        source = inner.source();
    }
    false
}

/// Returns the fault of an I/O error.
pub(crate) fn io_fault(error: &std::io::Error) -> Fault {
    use std::io::ErrorKind;
    // EMFILE, ENFILE, ENOMEM and ENOBUFS on Linux: this machine is short of something, regardless of the receiver.
    if matches!(error.raw_os_error(), Some(24 | 23 | 12 | 105)) {
        return Fault::Local;
    }
    match error.kind() {
        ErrorKind::ConnectionRefused => Fault::Refused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => Fault::Unreachable,
        ErrorKind::TimedOut => Fault::Timeout,
        ErrorKind::InvalidData => Fault::Tls,
        _ => Fault::Reset,
    }
}

/// A plain or an encrypted stream.
enum Layer {
    Plain(Metered),
    Tls(Box<tokio_rustls::client::TlsStream<Metered>>),
}

/// The byte stream below HTTP.
pub(crate) struct Stream {
    layer: Layer,
    /// Scans the answers of HTTP/1. `None` for HTTP/2.
    watch: Option<Rc<Meter>>,
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Stream { layer, watch } = self.get_mut();
        let before = to.filled().len();
        let poll = match layer {
            Layer::Plain(stream) => Pin::new(stream).poll_read(cx, to),
            Layer::Tls(stream) => match Pin::new(stream).poll_read(cx, to) {
                // Many servers close a connection without TLS's close_notify. HTTP knows whether the answer was complete.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
                poll => poll,
            },
        };
        match watch {
            Some(meter) if matches!(poll, Poll::Ready(Ok(()))) => Poll::Ready(meter.see(&to.filled()[before..])),
            _ => poll,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().layer {
            Layer::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Layer::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().layer {
            Layer::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().layer {
            Layer::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().layer {
            Layer::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Layer::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.layer {
            Layer::Plain(stream) => stream.is_write_vectored(),
            Layer::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
