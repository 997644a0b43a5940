//! Connection strings, TLS and sessions.
//!
//! A connection string has the form that libpq takes (`postgresql://...` or `key=value ...`), including
//! `sslmode=verify-ca|verify-full` and `sslrootcert`. A driver in the scheme (`postgresql+asyncpg://`) changes nothing. What
//! the string lacks comes from where libpq takes it: the service (`service=`, `PGSERVICE`), the environment (`PGHOST`,
//! `PGUSER`, `PGPASSWORD` and so on), the password file (`PGPASSFILE`, `~/.pgpass`), and the socket of a server on this
//! machine. An option that this client does not know is an error.
//!
//! Connecting has a time limit. `connect_timeout` is the limit per host; the default is 10 s.

mod settings;
mod tls;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::settings::Settings;
use self::tls::{Trust, tls_config};
use crate::error::{Error, Result};
use crate::outbox::{MAX_WAIT, check_version};
use crate::pooler::{is_pooled, notifies, probe_channel};

/// The time limit for the connection to one host, if the settings have none. The pool of the Node client has the same.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the settings of TLS for a host that is not a server of PostgreSQL. `root` is a file of certificates.
#[cfg(feature = "_http-client")]
pub(crate) fn host_tls(root: Option<&str>) -> Result<rustls::ClientConfig> {
    tls_config(Trust::Host, root)
}

/// The settings of a connection.
#[derive(Clone)]
pub struct Target {
    /// All settings except those of TLS.
    pub config: Config,
    tls: MakeRustlsConnect,
    /// The server, the database and the user.
    server: Arc<str>,
    /// Where these settings came from.
    sources: Arc<str>,
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
    /// Reads a connection string. With an empty string, all settings come from the service file, the environment and the
    /// defaults.
    ///
    /// # Errors
    /// 22023 if the string is malformed or has an option that is not known. The error does not show the string, because it
    /// may contain a password.
    pub fn parse(dsn: &str) -> Result<Target> {
        Target::parse_from(dsn, "the connection string")
    }

    /// Reads a connection string as [`Target::parse`] does. `source` says in errors where the string is from, for example
    /// `DATABASE_URL`.
    ///
    /// # Errors
    /// Those of [`Target::parse`].
    pub fn parse_from(dsn: &str, source: &str) -> Result<Target> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let settings = Settings::collect(dsn, source, &env)?;
        if !settings.ignored.is_empty() {
            tracing::info!(
                options = settings.ignored.join(", "),
                "ignored options of {source} that have no effect here"
            );
        }
        let mut config: Config = settings.plain().parse().map_err(|error: tokio_postgres::Error| {
            use std::error::Error as _;
            Error::invalid(format!("malformed settings of a connection to {}", settings.server()))
                .detail(error.source().map_or_else(|| error.to_string(), ToString::to_string))
        })?;
        let (ssl_mode, trust) = match settings.get("sslmode") {
            // As in libpq, a socket is not encrypted.
            _ if settings.only_sockets() => (SslMode::Disable, Trust::Nobody),
            Some("disable") => (SslMode::Disable, Trust::Nobody),
            None | Some("prefer" | "allow") => (SslMode::Prefer, Trust::Nobody),
            Some("require") => (SslMode::Require, Trust::Nobody),
            Some("verify-ca") => (SslMode::Require, Trust::Ca),
            Some("verify-full") => (SslMode::Require, Trust::Host),
            Some(other) => {
                let shown: String = other.chars().take(64).collect();
                return Err(Error::invalid(format!("unknown sslmode \"{shown}\""))
                    .hint("There are disable, prefer, require, verify-ca and verify-full."));
            }
        };
        config.ssl_mode(ssl_mode);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        let tls = MakeRustlsConnect::new(tls_config(trust, settings.get("sslrootcert"))?);
        Ok(Target { config, tls, server: settings.server().into(), sources: settings.sources().into() })
    }

    /// Returns the time limit for a new session. The driver limits the connection to each host, but neither TLS nor the
    /// authentication, for which the limit leaves the time of one more host.
    pub fn limit(&self) -> Duration {
        let hosts = self.config.get_hosts().len().max(self.config.get_hostaddrs().len());
        let each = self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT).min(MAX_WAIT);
        each.saturating_mul(u32::try_from(hosts).unwrap_or(u32::MAX).saturating_add(1))
    }

    /// Adds to an error of connecting which server was meant, and where the settings came from.
    pub(crate) fn explain(&self, error: impl Into<Error>) -> Error {
        error.into().connecting_to(&self.server, &self.sources)
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
        check_version(&client).await?;
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
        let connected = tokio::time::timeout(self.limit(), self.config.connect(self.tls.clone())).await;
        let late = |_| self.explain(Error::connection(format!("no session within {:?}", self.limit())));
        let (client, mut connection) = connected.map_err(late)?.map_err(|error| self.explain(error))?;
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
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .create_timeout(Some(self.limit()))
            .build()
            .map_err(|error| Error::invalid(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_refused_without_showing_them() {
        let error = Target::parse("postgresql://u:geheim@h:notaport/d").unwrap_err();
        assert_eq!(error.code(), "22023");
        assert!(!format!("{error:?}").contains("geheim"));
        assert!(Target::parse("postgresql://h/d?sslmode=maybe").is_err());
        assert!(Target::parse("postgresql://h/d?sslmode=verify-full&sslrootcert=/nowhere").is_err());
        let target = Target::parse("postgresql://u:geheim@h/d").unwrap();
        assert!(!format!("{target:?}").contains("geheim"));
    }

    #[test]
    fn connecting_has_one_time_limit() {
        let limit = |dsn: &str| Target::parse(dsn).unwrap().config.get_connect_timeout().copied();
        assert_eq!(limit("postgresql://u@h/d"), Some(CONNECT_TIMEOUT));
        assert_eq!(limit("host=h user=u"), Some(CONNECT_TIMEOUT));
        // As in libpq, 0 is no limit of the caller. This client always has one.
        assert_eq!(limit("postgresql://u@h/d?connect_timeout=0"), Some(CONNECT_TIMEOUT));
        assert_eq!(limit("postgresql://u@h/d?connect_timeout=3"), Some(Duration::from_secs(3)));
        // TLS and authentication have the time of one more host.
        assert_eq!(Target::parse("postgresql://u@a,b/d").unwrap().limit(), CONNECT_TIMEOUT * 3);
        let documented = include_str!("../../../../docs/clients.md");
        assert!(documented.contains(&format!("without it, the limit is {} s", CONNECT_TIMEOUT.as_secs())));
    }

    #[test]
    fn what_is_wrong_with_settings_is_no_reason_to_retry() {
        let target = Target::parse("postgresql://u:geheim@db.example:7/d").unwrap();
        let error = target.explain(Error::connection("error connecting to server: refused"));
        assert_eq!(
            error.details().message,
            "cannot connect to \"db.example\", port 7, database \"d\", user \"u\": refused"
        );
        assert!(error.details().detail.as_deref().unwrap().contains("the password from the connection string"));
        assert!(!error.report().contains("geheim"));
    }
}
