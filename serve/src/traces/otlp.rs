//! A receiver of OTLP over HTTP: a request with protobuf, and what its answer means.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message as _;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use pg_outbox::error::{Error, Result};

use crate::options::Traces;

/// The longest time for a request.
const LIMIT: Duration = Duration::from_secs(10);

/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The longest wait that a receiver can ask for.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// The path of OTLP, if the address has none.
const PATH: &str = "/v1/traces";

/// The answer of the receiver to spans.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// They are taken, but for so many.
    Taken { rejected: i64 },
    /// They will never be taken.
    Refused,
    /// They have to be sent again, not before this time.
    Later(Duration),
}

/// A receiver.
pub(crate) struct Collector {
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    path: String,
    authority: HeaderValue,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Headers have keys, and are not shown.
impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Collector {
    /// # Errors
    /// 22023 if the address or a header is malformed.
    pub(crate) fn new(traces: &Traces) -> Result<Collector> {
        let wrong = || {
            Error::invalid("the address of the receiver of traces is malformed")
                .hint("It is an http:// or https:// URL, for example http://127.0.0.1:4318/v1/traces.")
        };
        let uri: Uri = traces.url.parse().map_err(|_| wrong())?;
        let (host, port, tls) = match (uri.scheme_str(), uri.host()) {
            (Some("http"), Some(host)) => (host, uri.port_u16().unwrap_or(80), None),
            (Some("https"), Some(host)) => (host, uri.port_u16().unwrap_or(443), Some(connector()?)),
            _ => return Err(wrong()),
        };
        let authority = uri.authority().map(|authority| authority.as_str()).filter(|text| !text.contains('@'));
        let path = match uri.path_and_query().map_or("/", |path| path.as_str()) {
            "/" => PATH.to_owned(),
            path => path.to_owned(),
        };
        let header = |(name, value): &(String, String)| {
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        };
        let malformed = || Error::invalid("a header for the receiver of traces is malformed");
        Ok(Collector {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            tls,
            path,
            authority: authority.and_then(|text| HeaderValue::from_str(text).ok()).ok_or_else(wrong)?,
            headers: traces.headers.iter().map(|pair| header(pair).ok_or_else(malformed)).collect::<Result<_>>()?,
        })
    }

    /// Sends spans once.
    pub(super) async fn send(&self, spans: &ExportTraceServiceRequest) -> Verdict {
        let body = Bytes::from(spans.encode_to_vec());
        let sent = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await.ok()?;
            match &self.tls {
                None => self.request(stream, body).await,
                Some(tls) => {
                    let name = ServerName::try_from(self.host.clone()).ok()?;
                    self.request(tls.connect(name, stream).await.ok()?, body).await
                }
            }
        };
        tokio::time::timeout(LIMIT, sent).await.ok().flatten().unwrap_or(Verdict::Later(Duration::ZERO))
    }

    async fn request(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        body: Bytes,
    ) -> Option<Verdict> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let connection = tokio::spawn(connection);
        let mut request = Request::post(&self.path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::USER_AGENT, concat!("pg_outbox/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let answer = async {
            let answer = sender.send_request(request.body(Full::new(body)).ok()?).await.ok()?;
            let (head, body) = answer.into_parts();
            let wait = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let body = Limited::new(body, MAX_ANSWER).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            Some(verdict(head.status.as_u16(), wait.map(Duration::from_secs), &body))
        }
        .await;
        connection.abort();
        answer
    }
}

/// Returns what an answer means. The specification of OTLP says which statuses are worth another try.
fn verdict(status: u16, wait: Option<Duration>, body: &[u8]) -> Verdict {
    match status {
        200..=299 => {
            let said = ExportTraceServiceResponse::decode(body).unwrap_or_default();
            Verdict::Taken { rejected: said.partial_success.map_or(0, |partial| partial.rejected_spans.max(0)) }
        }
        // A wrong key or address is mended by a person, and the spans are sent then. Another error of the server may be one of these
        // spans, which would stop all later ones.
        300..=399 | 401 | 403..=405 | 408 | 429 | 502..=504 => Verdict::Later(wait.unwrap_or_default().min(MAX_WAIT)),
        _ => Verdict::Refused,
    }
}

fn connector() -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::invalid("TLS cannot be used here").detail(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collector(url: &str) -> Result<Collector> {
        Collector::new(&Traces { url: url.to_owned(), headers: vec![("api-key".to_owned(), "hidden".to_owned())] })
    }

    #[test]
    fn an_address_is_a_url_and_keys_are_not_shown() {
        let plain = collector("http://127.0.0.1:4318").unwrap();
        assert_eq!((plain.host.as_str(), plain.port, plain.path.as_str()), ("127.0.0.1", 4318, "/v1/traces"));
        let path = collector("http://[::1]/otlp/v1/traces").unwrap();
        assert_eq!((path.host.as_str(), path.port, path.path.as_str()), ("::1", 80, "/otlp/v1/traces"));
        assert!(collector("https://otlp.example.com").unwrap().tls.is_some());
        assert!(!format!("{plain:?}").contains("hidden"));
        for bad in ["", "127.0.0.1:4318", "ftp://a/", "http://", "http://a:b@c/"] {
            assert!(collector(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_answer_says_whether_spans_are_sent_again() {
        assert_eq!(verdict(200, None, b""), Verdict::Taken { rejected: 0 });
        for refused in [400, 413, 500, 501] {
            assert_eq!(verdict(refused, None, b"what"), Verdict::Refused, "{refused}");
        }
        for later in [302, 401, 404, 405, 429, 502, 503] {
            assert_eq!(verdict(later, None, b""), Verdict::Later(Duration::ZERO), "{later}");
        }
        assert_eq!(verdict(503, Some(Duration::from_secs(7)), b""), Verdict::Later(Duration::from_secs(7)));
        assert_eq!(verdict(429, Some(Duration::from_secs(1 << 40)), b""), Verdict::Later(MAX_WAIT));
    }
}
