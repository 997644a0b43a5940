//! TLS of connections to the server, by rustls.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, Result};

/// The checks of a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// No checks, encryption only, as in libpq for `prefer` and `require`.
    Nobody,
    /// The certificate must be signed by a root.
    Ca,
    /// The certificate must be signed by a root and must be valid for the host.
    Host,
}

pub(super) fn tls_config(trust: Trust, root: Option<&str>) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::invalid(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    if trust != Trust::Nobody {
        match root.filter(|path| *path != "system") {
            Some(path) => {
                let unreadable = |error: String| {
                    Error::invalid(format!("cannot read the root certificates of \"{path}\"")).detail(error)
                };
                for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unreadable(e.to_string()))? {
                    let certificate = certificate.map_err(|e| unreadable(e.to_string()))?;
                    roots.add(certificate).map_err(|e| unreadable(e.to_string()))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
    }
    Ok(match trust {
        Trust::Host => {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| Error::invalid(error.to_string()))?;
            builder.with_webpki_verifier(verifier).with_no_client_auth()
        }
        trust => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Lenient { trust, roots, provider }))
            .with_no_client_auth(),
    })
}

/// Verifies certificates for the levels below `verify-full`.
#[derive(Debug)]
struct Lenient {
    trust: Trust,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if self.trust != Trust::Nobody {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                &self.roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
