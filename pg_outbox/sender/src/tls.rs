//! TLS settings of an endpoint: whom to trust, what to show, which HTTP to ask for.

use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Which HTTP an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// What TLS negotiates: HTTP/2 if the other side has it. HTTP/1.1 without TLS.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge where there is no TLS.
    Http2,
}

impl Protocol {
    /// Reads the name.
    pub fn parse(text: &str) -> Option<Protocol> {
        Some(match text {
            "auto" => Protocol::Auto,
            "http1" => Protocol::Http1,
            "http2" => Protocol::Http2,
            _ => return None,
        })
    }
}

/// Certificates and keys, PEM text. `Debug` shows none of it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Authorities to trust instead of the system's.
    pub ca: Option<String>,
    /// The client's certificate, followed by its chain.
    pub certificate: Option<String>,
    /// The certificate's key.
    pub key: Option<String>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(redacted)")
    }
}

/// The authorities that the system trusts, read once per process.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    Arc::clone(roots)
}

/// Builds the configuration.
///
/// # Errors
/// Which of the texts is wrong, and how; never the text.
pub fn client_config(tls: &Tls, protocol: Protocol) -> Result<Arc<ClientConfig>, String> {
    let certificates = |pem: &str, what: &str| {
        let list: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        match list {
            Ok(list) if !list.is_empty() => Ok(list),
            Ok(_) => Err(format!("\"{what}\" has no certificate in PEM form")),
            Err(error) => Err(format!("\"{what}\" is malformed: {error}")),
        }
    };
    let roots = match &tls.ca {
        None => system_roots(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem, "ca")? {
                roots.add(certificate).map_err(|e| format!("\"ca\" cannot be used: {e}"))?;
            }
            Arc::new(roots)
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
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
    Ok(Arc::new(config))
}
