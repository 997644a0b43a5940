//! One request of HTTP/1.1 with a body of JSON. The calls are rare, because data keys are cached, so each has a connection of its own.
//! Redirects are not followed: the credentials of a request are for the address that was asked for.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{refused, unavailable};
use crate::connect::host_tls;
use crate::error::{Error, Result};

/// The largest answer.
const LARGEST: usize = 65_536;

/// A service, by its address.
#[derive(Clone)]
pub(super) struct Service {
    name: &'static str,
    scheme_is_https: bool,
    host: String,
    port: u16,
    /// The path of the address, without a slash at its end.
    path: String,
    /// Made by the first request, because certificates of the system are not needed where there are others.
    tls: OnceLock<Arc<rustls::ClientConfig>>,
    timeout: Duration,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name)
            .field("authority", &self.authority())
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Reads an address, `https://host:port/path`.
    pub(super) fn new(name: &'static str, address: &str, timeout: Duration) -> Result<Service> {
        let wrong = || refused(format!("the address of {name} is no URL")).hint("It begins with https:// or http://.");
        let uri: Uri = address.trim().parse().map_err(|_| wrong())?;
        let scheme_is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if scheme_is_https { 443 } else { 80 });
        if host.is_empty() || uri.query().is_some() {
            return Err(wrong());
        }
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Service { name, scheme_is_https, host, port, path, tls: OnceLock::new(), timeout })
    }

    /// Returns the host, with its port unless it is that of the scheme.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.scheme_is_https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// Trusts the certificates of a file.
    #[cfg(feature = "events-vault")]
    pub(super) fn trust(&mut self, path: &str) -> Result<()> {
        if self.scheme_is_https {
            self.tls = Arc::new(host_tls(Some(path))?).into();
        }
        Ok(())
    }

    #[cfg(feature = "events-kms")]
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Returns a path of the service, behind that of its address.
    pub(super) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.path)
    }

    /// Sends a request, and returns the status and the body of the answer.
    pub(super) async fn post(&self, path: &str, headers: HeaderMap, body: String) -> Result<(u16, Vec<u8>)> {
        match tokio::time::timeout(self.timeout, self.exchange(path, headers, body)).await {
            Ok(done) => done,
            Err(_) => Err(unavailable(format!("{} has not answered in time", self.name))),
        }
    }

    async fn exchange(&self, path: &str, headers: HeaderMap, body: String) -> Result<(u16, Vec<u8>)> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| self.silent(&error))?;
        if !self.scheme_is_https {
            return self.send(stream, path, headers, body).await;
        }
        let host = ServerName::try_from(self.host.clone())
            .map_err(|_| refused(format!("the host of {} is malformed", self.name)))?;
        // A certificate that is wrong does not become right, but a new one may come.
        let stream = TlsConnector::from(self.tls()?).connect(host, stream).await;
        self.send(stream.map_err(|error| self.silent(&error))?, path, headers, body).await
    }

    fn tls(&self) -> Result<Arc<rustls::ClientConfig>> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls.clone());
        }
        let made = host_tls(None).map_err(|error| error.named("encryption"))?;
        Ok(self.tls.get_or_init(|| Arc::new(made)).clone())
    }

    async fn send(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
        mut headers: HeaderMap,
        body: String,
    ) -> Result<(u16, Vec<u8>)> {
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| self.silent(&error))?;
        // The connection ends with the request, also when this future is dropped.
        let _driven = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
        let host = HeaderValue::from_str(&self.authority()).map_err(|_| self.malformed())?;
        headers.insert(HOST, host);
        headers.insert(CONTENT_LENGTH, body.len().into());
        let mut request = Request::post(path).body(Full::new(Bytes::from(body))).map_err(|_| self.malformed())?;
        request.headers_mut().extend(headers);
        let response = sender.send_request(request).await.map_err(|error| self.silent(&error))?;
        let status = response.status().as_u16();
        let content = Limited::new(response.into_body(), LARGEST).collect().await;
        let content =
            content.map_err(|_| unavailable(format!("the answer of {} is cut off or too large", self.name)))?;
        Ok((status, content.to_bytes().to_vec()))
    }

    fn silent(&self, error: &dyn std::error::Error) -> Error {
        unavailable(format!("{} does not answer", self.name)).detail(error.to_string())
    }

    fn malformed(&self) -> Error {
        refused(format!("a request to {} is malformed", self.name))
    }
}

/// Writes a part of a path for Vault. Only letters, digits and `-._~` stay as they are.
#[cfg(feature = "events-vault")]
pub(super) fn escaped(part: &str, keeps_slash: bool) -> String {
    let mut text = String::new();
    for byte in part.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            b'/' if keeps_slash => text.push('/'),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let service = |address| Service::new("Vault", address, Duration::from_secs(1));
        for (address, authority, path) in [
            ("http://127.0.0.1:8200", "127.0.0.1:8200", "/v1"),
            ("http://[::1]:80/", "[::1]", "/v1"),
            ("https://vault.example/a/", "vault.example", "/a/v1"),
            (" https://vault.example:443 ", "vault.example", "/v1"),
        ] {
            let service = service(address).unwrap();
            assert_eq!((service.authority().as_str(), service.path("/v1").as_str()), (authority, path));
        }
        for wrong in ["", "vault", "file:///etc/passwd", "http://", "ftp://a", "http://user:secret@a", "http://a?x=1"] {
            let error = service(wrong).unwrap_err();
            assert!(error.to_string().contains("is no URL") && !error.report().contains("secret"), "{wrong}");
        }
    }

    #[cfg(feature = "events-vault")]
    #[test]
    fn parts_of_paths_are_escaped() {
        assert_eq!((escaped("a b/ü", false), escaped("a/b%", true)), ("a%20b%2F%C3%BC".into(), "a/b%25".into()));
    }
}
