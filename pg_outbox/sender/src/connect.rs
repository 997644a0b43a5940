//! From a URL to a connection: resolve, vet every address, connect to a vetted one, handshake.
//!
//! The name is resolved once, and what was vetted is what is connected to: there is no second look-up that could answer
//! otherwise. One forbidden address among the answers refuses the name.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use outbox_core::policy::Fault;
use outbox_core::url::Url;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::Settings;

/// Limit of one name look-up.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of connecting to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A fault and what to say about it.
pub(crate) type Failure = (Fault, String);

/// Opens connections.
pub(crate) struct Connector {
    tls: Result<Arc<rustls::ClientConfig>, String>,
}

/// An open HTTP/1.1 connection.
pub(crate) struct Connection {
    pub(crate) url: Url,
    pub(crate) remote: SocketAddr,
    pub(crate) requests: http1::SendRequest<Full<Bytes>>,
    pub(crate) wire: Wire,
    /// Requests it has served: a failure on a used one may only mean that the other side had closed it.
    pub(crate) served: usize,
}

/// The future that does a connection's work.
pub(crate) struct Wire {
    driver: Pin<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>>,
    pub(crate) ended: bool,
}

impl Wire {
    /// Runs `work` and the connection together in this task, so that no other task has to be woken in between.
    pub(crate) async fn drive<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|cx| {
            if !self.ended && self.driver.as_mut().poll(cx).is_ready() {
                self.ended = true;
            }
            work.as_mut().poll(cx)
        })
        .await
    }

    /// Resolves when the connection ends.
    pub(crate) async fn closed(&mut self) {
        if !self.ended {
            let _ = self.driver.as_mut().await;
            self.ended = true;
        }
    }
}

impl Connector {
    pub(crate) fn new() -> Connector {
        Connector { tls: tls_config() }
    }

    pub(crate) async fn connect(&self, url: &Url, settings: &Settings) -> Result<Connection, Failure> {
        let addresses = resolve(url, settings).await?;
        let mut last = (Fault::Dns, format!("\"{}\" has no address", url.host));
        for address in addresses {
            let stream = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    last = (io_fault(&error), format!("connecting to {address}: {error}"));
                    continue;
                }
                Err(_) => {
                    last = (Fault::Timeout, format!("connecting to {address} took longer than {CONNECT_TIMEOUT:?}"));
                    continue;
                }
            };
            return self.handshake(url, address, stream).await;
        }
        Err(last)
    }

    async fn handshake(&self, url: &Url, remote: SocketAddr, stream: TcpStream) -> Result<Connection, Failure> {
        let _ = stream.set_nodelay(true);
        let stream = if url.tls {
            let config = self.tls.as_ref().map_err(|e| (Fault::Tls, e.clone()))?;
            let name = rustls::pki_types::ServerName::try_from(url.host.clone())
                .map_err(|_| (Fault::Invalid, format!("\"{}\" cannot be the name in a certificate", url.host)))?;
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
            let stream = connector
                .connect(name, stream)
                .await
                .map_err(|e| (Fault::Tls, format!("TLS handshake with {remote}: {e}")))?;
            Stream::Tls(Box::new(stream))
        } else {
            Stream::Plain(stream)
        };
        let (requests, driver) = http1::Builder::new()
            .max_headers(64)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| (Fault::Protocol, format!("HTTP handshake with {remote}: {e}")))?;
        let wire = Wire { driver: Box::pin(driver), ended: false };
        Ok(Connection { url: url.clone(), remote, requests, wire, served: 0 })
    }
}

/// All addresses of a host, each of them allowed.
async fn resolve(url: &Url, settings: &Settings) -> Result<Vec<SocketAddr>, Failure> {
    let addresses: Vec<SocketAddr> = if let Ok(literal) = url.host.parse::<IpAddr>() {
        vec![SocketAddr::new(literal, url.port)]
    } else {
        let lookup = tokio::net::lookup_host((url.host.as_str(), url.port));
        match tokio::time::timeout(DNS_TIMEOUT, lookup).await {
            Ok(Ok(found)) => found.collect(),
            Ok(Err(error)) => return Err((Fault::Dns, format!("resolving \"{}\": {error}", url.host))),
            Err(_) => return Err((Fault::Dns, format!("resolving \"{}\" took longer than {DNS_TIMEOUT:?}", url.host))),
        }
    };
    if let Some(forbidden) = addresses.iter().find(|address| !settings.egress.allows(address.ip())) {
        return Err((
            Fault::Forbidden,
            format!("\"{}\" leads to {}, which pg_outbox.egress_allow does not allow", url.host, forbidden.ip()),
        ));
    }
    if addresses.is_empty() {
        return Err((Fault::Dns, format!("\"{}\" has no address", url.host)));
    }
    Ok(addresses)
}

fn tls_config() -> Result<Arc<rustls::ClientConfig>, String> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
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
