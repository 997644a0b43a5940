//! Connection strings, TLS and sessions.
//!
//! A connection string has the form that libpq takes (`postgresql://...` or `key=value ...`), including
//! `sslmode=verify-ca|verify-full` and `sslrootcert`. Missing parameters come from the environment: `PGHOST`, `PGPORT`,
//! `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE`, `PGSSLROOTCERT` and `PGAPPNAME`.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::sync::Notify;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Error, Result};
use crate::pooler::{is_pooled, notifies, probe_channel};

/// The checks of a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// No checks, encryption only, as in libpq for `prefer` and `require`.
    Nobody,
    /// The certificate must be signed by a root.
    Ca,
    /// The certificate must be signed by a root and must be valid for the host.
    Host,
}

/// The settings of a connection.
#[derive(Clone)]
pub struct Target {
    /// All settings except those of TLS.
    pub config: Config,
    tls: MakeRustlsConnect,
}

/// Whether notifications reach a session behind a pooler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Listening {
    /// This has not been checked yet.
    #[default]
    Unknown,
    Yes,
    No,
}

/// A session of a worker or reader.
pub(crate) struct Opened {
    pub(crate) client: Client,
    /// Whether the session goes through a pooler. Each statement may then run in another session of the server.
    pub(crate) pooled: bool,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Target {
    /// Reads a connection string. With an empty string, all parameters come from the environment.
    ///
    /// # Errors
    /// 22023 if the string is malformed. The error does not show the string, because it may contain a password.
    pub fn parse(dsn: &str) -> Result<Target> {
        let (dsn, mode) = take(dsn, "sslmode");
        let (dsn, root) = take(&dsn, "sslrootcert");
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut config: Config = dsn.parse().map_err(|error: tokio_postgres::Error| {
            use std::error::Error as _;
            Error::invalid("malformed connection string")
                .detail(error.source().map_or_else(|| error.to_string(), ToString::to_string))
                .hint("It looks like \"postgresql://user@host:5432/database?sslmode=verify-full\".")
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host(env("PGHOST").unwrap_or_else(|| "localhost".to_owned()));
        }
        if config.get_ports().is_empty()
            && let Some(port) = env("PGPORT")
        {
            config.port(port.parse().map_err(|_| Error::invalid("PGPORT is not a port"))?);
        }
        if config.get_user().is_none()
            && let Some(user) = env("PGUSER").or_else(|| env("USER"))
        {
            config.user(user);
        }
        if config.get_password().is_none()
            && let Some(password) = env("PGPASSWORD")
        {
            config.password(password);
        }
        if config.get_dbname().is_none()
            && let Some(database) = env("PGDATABASE")
        {
            config.dbname(database);
        }
        if config.get_application_name().is_none() {
            config.application_name(env("PGAPPNAME").unwrap_or_else(|| "pg_outbox".to_owned()));
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(10));
        }
        // The loss of a server that does not close the connection is noticed within half a minute.
        config
            .keepalives_idle(Duration::from_secs(15))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3);
        let trust = match mode.or_else(|| env("PGSSLMODE")).as_deref() {
            Some("disable") => {
                config.ssl_mode(SslMode::Disable);
                Trust::Nobody
            }
            None | Some("prefer" | "allow") => {
                config.ssl_mode(SslMode::Prefer);
                Trust::Nobody
            }
            Some(strict @ ("require" | "verify-ca" | "verify-full")) => {
                config.ssl_mode(SslMode::Require);
                match strict {
                    "require" => Trust::Nobody,
                    "verify-ca" => Trust::Ca,
                    _ => Trust::Host,
                }
            }
            Some(other) => {
                return Err(Error::invalid(format!("unknown sslmode \"{other}\""))
                    .hint("There are disable, prefer, require, verify-ca and verify-full."));
            }
        };
        let tls = MakeRustlsConnect::new(tls_config(trust, root.or_else(|| env("PGSSLROOTCERT")).as_deref())?);
        Ok(Target { config, tls })
    }

    /// Opens a session outside of the pool.
    ///
    /// # Errors
    /// Kind retry if there is no connection, fatal if the server refuses it.
    pub async fn connect(&self) -> Result<Client> {
        self.open(|_| {}, || {}).await
    }

    /// Opens a session for a worker or reader. Notifications on `channel` (if `payload` is set, only those with this
    /// payload) and the end of the session wake `wake`. If a pooler does not pass notifications on, `listening` becomes
    /// `No` and this session and later ones do not listen.
    pub(crate) async fn open_listening(
        &self,
        channel: &str,
        payload: Option<String>,
        wake: Arc<Notify>,
        listening: &mut Listening,
    ) -> Result<Opened> {
        let heard = Arc::new(Notify::new());
        let probe = probe_channel();
        let (of_probe, probed, end) = (probe.clone(), heard.clone(), wake.clone());
        let of_ours = channel.to_owned();
        let tell = move |told: Notification| {
            if told.channel() == of_probe {
                probed.notify_one();
            } else if told.channel() == of_ours && payload.as_deref().is_none_or(|payload| payload == told.payload()) {
                wake.notify_one();
            }
        };
        let client = self.open(tell, move || end.notify_one()).await?;
        let pooled = is_pooled(&client).await?;
        if !pooled {
            // Each statement of a worker is a transaction, for which read committed is enough. A stricter default of the
            // database would only cause serialization failures. No other client uses the session, so it may be changed.
            let settings = format!("set default_transaction_isolation = 'read committed'; listen {channel}");
            client.batch_execute(&settings).await?;
            return Ok(Opened { client, pooled });
        }
        if *listening == Listening::Unknown {
            let came = notifies(self, &client, &probe, &heard).await?;
            *listening = if came { Listening::Yes } else { Listening::No };
        }
        if *listening == Listening::Yes {
            client.batch_execute(&format!("listen {channel}")).await?;
        }
        Ok(Opened { client, pooled })
    }

    async fn open(
        &self,
        mut tell: impl FnMut(Notification) + Send + 'static,
        end: impl FnOnce() + Send + 'static,
    ) -> Result<Client> {
        let (client, mut connection) = self.config.connect(self.tls.clone()).await?;
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notification(told) = message {
                    tell(told);
                }
            }
            end();
        });
        Ok(client)
    }

    /// Creates a pool of at most `size` sessions.
    pub(crate) fn pool(&self, size: usize) -> Result<deadpool_postgres::Pool> {
        let manager = deadpool_postgres::Manager::new(self.config.clone(), self.tls.clone());
        deadpool_postgres::Pool::builder(manager)
            .max_size(size)
            .build()
            .map_err(|error| Error::invalid(error.to_string()))
    }
}

/// Removes a parameter that tokio-postgres does not know from a connection string, and returns its value.
fn take(dsn: &str, name: &str) -> (String, Option<String>) {
    let mut found = None;
    let mut rest = Vec::new();
    if let Some((base, query)) = dsn.split_once('?').filter(|_| dsn.contains("://")) {
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some((key, value)) if key == name => found = Some(value.replace("%2F", "/").replace("%2f", "/")),
                _ => rest.push(pair),
            }
        }
        let text = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
        return (text, found);
    }
    if dsn.contains("://") {
        return (dsn.to_owned(), None);
    }
    for word in dsn.split_whitespace() {
        match word.split_once('=') {
            Some((key, value)) if key == name => found = Some(value.trim_matches('\'').to_owned()),
            _ => rest.push(word),
        }
    }
    if found.is_some() { (rest.join(" "), found) } else { (dsn.to_owned(), None) }
}

fn tls_config(trust: Trust, root: Option<&str>) -> Result<ClientConfig> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_parameters_are_taken_out() {
        for (dsn, mode, rest) in [
            (
                "postgresql://h/d?sslmode=verify-full&connect_timeout=3",
                Some("verify-full"),
                "postgresql://h/d?connect_timeout=3",
            ),
            ("postgresql://h/d?sslmode=require", Some("require"), "postgresql://h/d"),
            ("host=h sslmode=disable user=u", Some("disable"), "host=h user=u"),
            ("postgresql://h/d", None, "postgresql://h/d"),
        ] {
            assert_eq!(take(dsn, "sslmode"), (rest.to_owned(), mode.map(str::to_owned)));
        }
    }

    #[test]
    fn a_malformed_string_is_refused_without_its_password() {
        let error = Target::parse("postgresql://u:geheim@h:notaport/d").unwrap_err();
        assert_eq!(error.kind(), crate::Kind::Invalid);
        assert!(!format!("{error:?} {}", error.report()).contains("geheim"));
        assert!(Target::parse("postgresql://h/d?sslmode=maybe").is_err());
        assert!(Target::parse("postgresql://h/d?sslmode=verify-full&sslrootcert=/nowhere").is_err());
    }
}
