//! From a URL to a connection: a vetted address, a proxy if there is one, TLS, HTTP.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use outbox_core::policy::Fault;
use outbox_core::proxy::Proxy;
use outbox_core::url::Url;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::Target;
use crate::tls::{Client, Protocol, Tls, has_no_roots};
use crate::{Endpoint, Settings, proxy, resolve};

/// Limit of connecting to one address, and of the handshakes that follow.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
        *self.token.borrow_mut() = None;
        *self.no_token.borrow_mut() = None;
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
}

enum Requests {
    One(http1::SendRequest<Full<Bytes>>, Wire),
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
            Requests::One(_, wire) => wire.ended,
            Requests::Many(shared) => shared.requests.is_closed(),
        }
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
            Requests::One(requests, _) if requests.is_ready() => Ok(()),
            Requests::One(requests, wire) => wire.drive(requests.ready()).await,
            Requests::Many(shared) => shared.requests.ready().await,
        }
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let response = match &mut self.requests {
            Requests::One(requests, wire) => wire.drive(requests.send_request(request)).await,
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
            Requests::One(_, wire) => wire.drive(body.frame()).await,
            Requests::Many(_) => body.frame().await,
        }
    }

    /// Resolves when the connection ends.
    pub(crate) async fn closed(&mut self) {
        match &mut self.requests {
            Requests::One(_, wire) => {
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
    /// Of the settings that it comes from: what is opened or learnt on an old way is not kept for the new one.
    pub(crate) generation: u64,
}

impl<'a> Way<'a> {
    /// An endpoint's.
    pub(crate) fn to(endpoint: &'a Endpoint, generation: u64) -> Way<'a> {
        Way { tls: &endpoint.tls, protocol: endpoint.protocol, proxy: endpoint.proxy.as_ref(), generation }
    }
}

/// A connection to `url`: the shared one if the endpoint has one, else a new one.
pub(crate) async fn connect(
    url: &Url,
    way: Way<'_>,
    reach: &Reach,
    settings: &Settings,
) -> Result<Connection, Failure> {
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
        if slot.as_ref().is_some_and(|s| s.url != *url || s.requests.is_closed()) {
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
        _ => resolve::vetted(url, settings).await?.into_iter().map(Target::Address).collect(),
    };
    for target in targets {
        let attempt = async {
            let (stream, remote) = match (way.proxy, target) {
                (Some(proxy), _) => through(proxy, target, settings).await?,
                (None, Target::Address(address)) => (dial(address).await?, address),
                (None, Target::Name(..)) => return Err((Fault::Dns, format!("{target} is not resolved"))),
            };
            handshake(url, way, reach, remote, stream).await
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(failure)) => last = failure,
            Err(_) => {
                last = (Fault::Timeout, format!("connecting to {target} took longer than {CONNECT_TIMEOUT:?}"));
            }
        }
    }
    Err(last)
}

async fn dial(address: SocketAddr) -> Result<TcpStream, Failure> {
    TcpStream::connect(address).await.map_err(|error| (io_fault(&error), format!("connecting to {address}: {error}")))
}

/// A stream to `target` through the operator's proxy, and what is at its other end as far as it is known here.
async fn through(proxy: &Proxy, target: Target<'_>, settings: &Settings) -> Result<(TcpStream, SocketAddr), Failure> {
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
    remote: SocketAddr,
    stream: TcpStream,
) -> Result<Connection, Failure> {
    let _ = stream.set_nodelay(true);
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
            let why = if has_no_roots(way.tls) {
                ": this system has no trusted certificates; install its package (ca-certificates) or set SSL_CERT_FILE"
            } else {
                ""
            };
            reach.explain((Fault::Tls, format!("TLS handshake with {remote}: {e}{why}")))
        })?;
        http2 |= stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Stream::Tls(Box::new(stream))
    } else {
        Stream::Plain(stream)
    };
    let failed = |e: hyper::Error| (Fault::Protocol, format!("HTTP handshake with {remote}: {e}"));
    let requests = if http2 {
        let (requests, driver) = http2::Builder::new(Local)
            .max_header_list_size(64 * 1024)
            .timer(hyper_util::rt::TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(20))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        tokio::task::spawn_local(async move {
            let _ = driver.await;
        });
        Requests::Many(Shared { generation, url: url.clone(), remote, requests, answered: Rc::default() })
    } else {
        let (requests, driver) =
            http1::Builder::new().max_headers(64).handshake(TokioIo::new(stream)).await.map_err(failed)?;
        Requests::One(requests, Wire { driver: Box::pin(driver), ended: false })
    };
    Ok(Connection { generation, url: url.clone(), remote, requests, target: None, spare: HeaderMap::new(), served: 0 })
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

/// The class of an I/O error.
pub(crate) fn io_fault(error: &std::io::Error) -> Fault {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => Fault::Refused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => Fault::Unreachable,
        ErrorKind::TimedOut => Fault::Timeout,
        ErrorKind::InvalidData => Fault::Tls,
        _ => Fault::Reset,
    }
}

/// A plain or an encrypted stream.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, to),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, to),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
