//! The TLS settings of an endpoint: trusted authorities, client certificate and HTTP version.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use outbox_core::x509;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// The HTTP version of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// With TLS, the version that TLS negotiates: HTTP/2 if the server supports it. Without TLS, HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS with prior knowledge.
    Http2,
}

impl Protocol {
    /// Reads the name of a protocol.
    pub fn parse(text: &str) -> Option<Protocol> {
        Some(match text {
            "auto" => Protocol::Auto,
            "http1" => Protocol::Http1,
            "http2" => Protocol::Http2,
            _ => return None,
        })
    }
}

/// Certificates and keys as PEM text. `Debug` shows none of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Authorities that are trusted instead of the system's.
    pub ca: Option<String>,
    /// The client's certificate, followed by its chain.
    pub certificate: Option<String>,
    /// The private key of the client's certificate.
    pub key: Option<String>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(redacted)")
    }
}

static SYSTEM_ROOTS: Mutex<Option<Arc<RootCertStore>>> = Mutex::new(None);

/// Returns the authorities that the system trusts. They are read at the first use. An empty list is not cached, because the
/// files may appear later, or could not be read for lack of a file descriptor.
fn system_roots() -> Arc<RootCertStore> {
    let mut kept = SYSTEM_ROOTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(roots) = kept.as_ref() {
        return Arc::clone(roots);
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let roots = Arc::new(roots);
    *kept = (!roots.is_empty()).then(|| Arc::clone(&roots));
    roots
}

/// Returns whether no certificate can be trusted, because the endpoint has no `ca` and the system has no authorities.
pub(crate) fn has_no_roots(tls: &Tls) -> bool {
    tls.ca.is_none() && system_roots().is_empty()
}

/// Forgets the system's authorities. They are read again when they are needed.
pub(crate) fn forget_system_roots() {
    *SYSTEM_ROOTS.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Presents the endpoint's client certificate, if it has one, and records that the server asked for one.
#[derive(Debug)]
struct Noting {
    inner: Arc<dyn ResolvesClientCert>,
    asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for Noting {
    fn resolve(&self, issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.inner.resolve(issuers, schemes)
    }

    fn has_certs(&self) -> bool {
        self.inner.has_certs()
    }
}

/// The TLS configuration of an endpoint's connections.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) config: Arc<ClientConfig>,
    asked: Arc<AtomicBool>,
}

impl Client {
    /// Builds the configuration. The error says which of the texts is wrong.
    pub(crate) fn new(tls: &Tls, protocol: Protocol) -> Result<Client, String> {
        let mut config = client_config(tls, protocol)?;
        let asked = Arc::new(AtomicBool::new(false));
        let inner = Arc::clone(&config.client_auth_cert_resolver);
        config.client_auth_cert_resolver = Arc::new(Noting { inner, asked: Arc::clone(&asked) });
        Ok(Client { config: Arc::new(config), asked })
    }

    /// Returns a text about the client certificate, if the server has asked for one and then ends the connection. With TLS
    /// 1.3 a server refuses the certificate after the handshake, and its reason may be lost with the connection.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        self.asked.load(Ordering::Relaxed).then(|| {
            if self.config.client_auth_cert_resolver.has_certs() {
                "the server asks for a client certificate and does not take the endpoint's"
            } else {
                "the server asks for a client certificate, and the endpoint has none"
            }
        })
    }
}

/// Trusts a server whose certificate is, byte for byte, one of the certificates in the endpoint's `ca`. Usually this is a
/// self-signed certificate. Name, dates and signatures are checked as for any other certificate.
#[derive(Debug)]
struct Pinning {
    inner: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Pinning {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.given.iter().any(|given| given == certificate) {
            return self.inner.verify_server_cert(certificate, chain, name, ocsp, now);
        }
        let (from, until) = x509::validity(certificate).ok_or(CertificateError::BadEncoding)?;
        let time = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if time < from {
            let not_before = unix_time(from);
            return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
        }
        if time > until {
            return Err(CertificateError::ExpiredContext { time: now, not_after: unix_time(until) }.into());
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
}

/// Returns advice on a failure of the handshake, to be appended to its text.
pub(crate) fn cure(error: &std::io::Error, tls: &Tls) -> &'static str {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else { return "" };
    match error {
        rustls::Error::InvalidCertificate(_) if has_no_roots(tls) => {
            ": this system has no trusted certificates; install its package (ca-certificates) or set SSL_CERT_FILE"
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_)) => {
            ": give the certificate of its authority, or a self-signed one itself, as \"ca\" of the endpoint's tls"
        }
        rustls::Error::InvalidMessage(_) => ": the other side does not speak TLS there",
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion) => {
            ": TLS 1.3, or TLS 1.2 with ECDHE over X25519, P-256 or P-384 and AES-GCM or ChaCha20-Poly1305, is needed"
        }
        rustls::Error::NoApplicationProtocol
        | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            ": the server has not the HTTP version that the endpoint's \"protocol\" asks for"
        }
        _ => "",
    }
}

/// Checks that no certificate has expired.
///
/// # Errors
/// A text with the entry and the date of the expired certificate.
pub fn check_dates(tls: &Tls, now: SystemTime) -> Result<(), String> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    for (what, pem) in [("ca", &tls.ca), ("certificate", &tls.certificate)] {
        let Some(pem) = pem else { continue };
        for certificate in certificates(pem, what)? {
            let until = x509::validity(&certificate).and_then(|(_, until)| u64::try_from(until).ok());
            if let Some(until) = until.filter(|until| *until < now) {
                let when = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(until));
                return Err(format!("\"{what}\" has expired: {when}"));
            }
        }
    }
    Ok(())
}

fn certificates(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let list: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match list {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(format!("\"{what}\" has no certificate in PEM form")),
        // The parser's error is not shown, because it repeats the text, which may contain a key.
        Err(_) if pem.contains("\\n") => {
            Err(format!("\"{what}\" is malformed: its line breaks are written as \\n instead of being line breaks"))
        }
        Err(_) => Err(format!("\"{what}\" is malformed: it is no PEM text")),
    }
}

/// Builds the configuration.
///
/// # Errors
/// A message that says which of the texts is wrong and how. It never contains the text.
pub fn client_config(tls: &Tls, protocol: Protocol) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let builder = match &tls.ca {
        None => builder.with_root_certificates(system_roots()),
        Some(pem) => {
            let given = certificates(pem, "ca")?;
            let mut roots = RootCertStore::empty();
            for certificate in &given {
                roots.add(certificate.clone()).map_err(|e| format!("\"ca\" cannot be used: {e}"))?;
            }
            let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| format!("\"ca\" cannot be used: {e}"))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Pinning { inner, given }))
        }
    };
    let mut config = match (&tls.certificate, &tls.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate, "certificate")?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|_| "\"key\" has no private key in PEM form".to_owned())?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| format!("\"certificate\" and \"key\" cannot be used together: {e}"))?
        }
        (Some(_), None) => return Err("\"certificate\" needs a \"key\"".to_owned()),
        (None, Some(_)) => return Err("\"key\" needs a \"certificate\"".to_owned()),
    };
    config.alpn_protocols = match protocol {
        Protocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
        Protocol::Http2 => vec![b"h2".to_vec()],
    };
    Ok(config)
}
