//! From a URL to a connection: a vetted address, a proxy if there is one, TLS, HTTP.

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

/// The head of an HTTP/1 answer, and what is read at once.
const HEAD_BYTES: usize = 128 * 1024;
/// What an HTTP/2 server may send of one answer, and of all, before it is read.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// A fault and what to say about it.
pub(crate) type Failure = (Fault, String);

/// What the requests of one endpoint share to reach it.
#[derive(Default)]
pub(crate) struct Reach {
    /// Counts the changes of where the endpoint leads.
    generation: Cell<u64>,
    /// Built at the first use.
    tls: RefCell<Option<Result<Client, String>>>,
    /// The HTTP/2 connection that all requests run over.
    shared: RefCell<Option<Shared>>,
    /// The other side has been seen to speak HTTP/1.1 only.
    one_at_a_time: Cell<bool>,
    /// The other side speaks HTTP/2, and wants HTTP/1.1 for these requests.
    http1_only: Cell<bool>,
    /// The addresses that were found last; one look-up for all that wait.
    names: tokio::sync::Mutex<Option<(Instant, Looked)>>,
    /// Whoever opens the HTTP/2 connection, or fetches a token, does it for all.
    turn: tokio::sync::Mutex<()>,
    /// A token of the authorisation server, and when it expires (microseconds since 1970).
    pub(crate) token: RefCell<Option<(HeaderValue, i64)>>,
    /// Why there was none the last time, and until when that is the answer to all who ask.
    pub(crate) no_token: RefCell<Option<(Failure, i64)>>,
}

impl Reach {
    /// The number of the settings that hold now.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Whether a connection leads where the endpoint leads now.
    pub(crate) fn is_current(&self, connection: &Connection) -> bool {
        connection.generation == self.generation.get()
    }

    /// Forgets everything: the endpoint leads elsewhere now.
    pub(crate) fn reset(&self) {
        self.generation.set(self.generation.get() + 1);
        *self.tls.borrow_mut() = None;
        *self.shared.borrow_mut() = None;
        self.one_at_a_time.set(false);
        self.http1_only.set(false);
        *self.token.borrow_mut() = None;
        *self.no_token.borrow_mut() = None;
    }

    /// The other side refuses HTTP/2 for these requests: the next connection does not offer it.
    pub(crate) fn use_http1(&self) {
        self.http1_only.set(true);
        *self.tls.borrow_mut() = None;
        *self.shared.borrow_mut() = None;
    }

    /// Nobody uses it for now: the shared connection is closed.
    pub(crate) fn rest(&self) {
        *self.shared.borrow_mut() = None;
    }

    /// New requests get a connection of their own instead of this one; what runs over it goes on.
    pub(crate) fn forget(&self, connection: &Connection) {
        if let Requests::Many(used) = &connection.requests {
            let mut slot = self.shared.borrow_mut();
            if slot.as_ref().is_some_and(|kept| Rc::ptr_eq(&kept.answered, &used.answered)) {
                *slot = None;
            }
        }
    }

    /// A failure of the first request of a connection, with what the TLS handshake has to do with it.
    pub(crate) fn explain(&self, (fault, text): Failure) -> Failure {
        let tls = self.tls.borrow();
        match (fault, tls.as_ref().and_then(|tls| tls.as_ref().ok()?.refusal())) {
            (Fault::Tls | Fault::Reset | Fault::Protocol, Some(refusal)) => (Fault::Tls, format!("{refusal}: {text}")),
            _ => (fault, text),
        }
    }

    /// A token that was refused is not used again, unless there is another one already.
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
    /// What its requests name, once the first has been made.
    pub(crate) target: Option<(Uri, HeaderValue)>,
    /// The memory of the last response's headers, for the next request's.
    spare: HeaderMap,
    /// Requests it has served: a failure on a used one may only mean that the other side had closed it.
    pub(crate) served: usize,
    /// Not used from then on: the name may lead elsewhere.
    expires: SystemTime,
}

enum Requests {
    One(http1::SendRequest<Full<Bytes>>, Wire, Rc<Meter>),
    Many(Shared),
}

/// An HTTP/2 connection; a task of its own drives it.
#[derive(Clone)]
struct Shared {
    generation: u64,
    url: Url,
    remote: SocketAddr,
    requests: http2::SendRequest<Full<Bytes>>,
    /// Whether it has brought a response. The same cell for all clones, by which they are known.
    answered: Rc<Cell<bool>>,
    expires: SystemTime,
    meter: Rc<Meter>,
}

/// The future that does an HTTP/1.1 connection's work.
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

    /// Whether it is too old for another request.
    pub(crate) fn is_old(&self, now: SystemTime) -> bool {
        now >= self.expires
    }

    fn meter(&self) -> &Meter {
        match &self.requests {
            Requests::One(_, _, meter) => meter,
            Requests::Many(shared) => &shared.meter,
        }
    }

    /// The status that has come, though perhaps not all of the answer's head; known of HTTP/1.
    pub(crate) fn status(&self) -> Option<u16> {
        self.meter().status()
    }

    /// Why the answer was given up, if it was too much.
    pub(crate) fn excess(&self) -> Option<&'static str> {
        self.meter().excess()
    }

    /// Whether nothing of the answer has come.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_http2() || self.meter().is_silent()
    }

    /// A map for a request's headers, empty.
    pub(crate) fn headers(&mut self) -> HeaderMap {
        std::mem::take(&mut self.spare)
    }

    /// A response's headers are not needed any more. A request and its response use the same memory, which the HTTP library
    /// passes from the one to the other.
    pub(crate) fn recycle(&mut self, mut headers: HeaderMap) {
        headers.clear();
        self.spare = headers;
    }

    /// Ready at once but for a connection that is still finishing the last exchange, has been closed, or is full.
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

    /// Whether it has brought a response before.
    pub(crate) fn has_answered(&self) -> bool {
        match &self.requests {
            Requests::One(..) => self.served > 0,
            Requests::Many(shared) => shared.answered.get(),
        }
    }

    /// The next part of a response's body.
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
            // Another task drives it, and a request that finds it closed opens another.
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

/// What leads to an endpoint besides its URL.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) tls: &'a Tls,
    pub(crate) protocol: Protocol,
    pub(crate) proxy: Option<&'a Proxy>,
    /// For connecting, to all addresses together.
    pub(crate) timeout: Duration,
    /// Of the settings that it comes from: what is opened or learnt on an old way is not kept for the new one.
    pub(crate) generation: u64,
}

impl<'a> Way<'a> {
    /// An endpoint's.
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

/// A connection to `url`: the shared one if the endpoint has one, else a new one.
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
            // A connection that others have used may have been closed meanwhile.
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
    // An address that does not answer leaves time for the next one.
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

/// The vetted addresses of a URL. Those that ask at the same time get the same answer: however many wait, an endpoint makes one
/// look-up at a time, of which the system's resolver has a limited number for all.
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
            // Of IPv6, this one means that the machine has no address of it.
            let no_port = error.kind() == io::ErrorKind::AddrNotAvailable && address.is_ipv4();
            let fault = if no_port { Fault::Local } else { io_fault(&error) };
            Err((fault, format!("connecting to {address}: {error}")))
        }
    }
}

/// A stream to `target` through the operator's proxy, and what is at its other end as far as it is known here.
async fn through(proxy: &Proxy, target: Target<'_>, settings: &Settings) -> Result<(Metered, SocketAddr), Failure> {
    // The operator chose the proxy: its address is not vetted.
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
            // They are looked for again at the next try.
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
        // As tolerant as it can be: an answer that others can read is an answer. 100 headers are the library's own limit.
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

/// The age that a connection may reach: a fifth more or less, so that many that were opened together do not end together.
fn age(mean: Duration, remote: SocketAddr) -> Duration {
    thread_local!(static COUNT: Cell<u64> = const { Cell::new(0) });
    let count = COUNT.with(|count| count.replace(count.get().wrapping_add(1)));
    let random = mix(count ^ u64::from(remote.port()) << 32) % 401;
    mean.mul_f64(0.8 + random as f64 / 1000.0)
}

/// Whether the other side says that it has not looked at the request: it may be sent again at once.
pub(crate) fn is_unprocessed(error: &hyper::Error) -> bool {
    if error.is_canceled() {
        return true;
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(http2) = inner.downcast_ref::<h2::Error>() {
            // Streams that a GOAWAY leaves out end with its error; those that it counts in end as usual.
            return http2.is_remote() && (http2.is_go_away() || http2.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        source = inner.source();
    }
    false
}

/// Whether the other side wants the request over HTTP/1.1; it has not looked at it.
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

/// Whether a connection broke.
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

/// The class of an I/O error.
pub(crate) fn io_fault(error: &std::io::Error) -> Fault {
    use std::io::ErrorKind;
    // EMFILE, ENFILE, ENOMEM, ENOBUFS of Linux: this machine is short of something, whatever the receiver does.
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

/// The bytes of HTTP.
pub(crate) struct Stream {
    layer: Layer,
    /// Looks at the answers of HTTP/1.
    watch: Option<Rc<Meter>>,
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Stream { layer, watch } = self.get_mut();
        let before = to.filled().len();
        let poll = match layer {
            Layer::Plain(stream) => Pin::new(stream).poll_read(cx, to),
            Layer::Tls(stream) => match Pin::new(stream).poll_read(cx, to) {
                // Many close a connection without saying so in TLS. HTTP knows whether it was at its end.
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
