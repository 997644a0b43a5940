//! The options of the server, and the ones that are refused: an address that others reach without TLS before it, and
//! without a way to tell who asks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use pg_outbox::error::{Error, Result};

/// The shortest token. A token is guessed over the network, so its length is the only thing that protects it.
const MIN_TOKEN: usize = 16;
const MAX_TOKEN: usize = 1024;

/// A receiver of spans: OTLP over HTTP.
#[derive(Clone)]
pub struct Traces {
    /// The address, for example `http://127.0.0.1:4318/v1/traces`.
    pub url: String,
    /// Headers of each request, for example with a key.
    pub headers: Vec<(String, String)>,
}

/// Headers have keys, and are not shown.
impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("url", &self.url).finish_non_exhaustive()
    }
}

/// How the dashboard is reached, and how people log in.
#[derive(Clone)]
pub struct Options {
    /// The address and port to listen on.
    pub listen: SocketAddr,
    /// The token that people log in with. Without it and without `user_header`, one is made up.
    pub token: Option<String>,
    /// A token with which only `/metrics` can be read.
    pub metrics_token: Option<String>,
    /// A proxy before this server speaks TLS with the browsers.
    pub tls_proxy: bool,
    /// Names under which browsers reach this server, beside those of loopback.
    pub hosts: Vec<String>,
    /// The header in which a proxy says who the person is.
    pub user_header: Option<String>,
    /// The proxies that may say so.
    pub trusted_proxies: Vec<IpAddr>,
    /// Where the spans of deliveries go. Without it, none are made.
    pub traces: Option<Traces>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8484)),
            token: None,
            metrics_token: None,
            tls_proxy: false,
            hosts: Vec::new(),
            user_header: None,
            trusted_proxies: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            traces: None,
        }
    }
}

/// Tokens are not shown.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("listen", &self.listen)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("metrics_token", &self.metrics_token.as_ref().map(|_| "..."))
            .field("tls_proxy", &self.tls_proxy)
            .field("hosts", &self.hosts)
            .field("user_header", &self.user_header)
            .field("trusted_proxies", &self.trusted_proxies)
            .field("traces", &self.traces)
            .finish()
    }
}

impl Options {
    /// Checks the options.
    ///
    /// # Errors
    /// 22023 if they contradict each other, or if the dashboard would be open to others.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, token) in [("the token", &self.token), ("the token for metrics", &self.metrics_token)] {
            let Some(token) = token else { continue };
            if !(MIN_TOKEN..=MAX_TOKEN).contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Error::invalid(format!("{name} is malformed"))
                    .detail(format!(
                        "A token has {MIN_TOKEN} to {MAX_TOKEN} printable ASCII characters without a space."
                    ))
                    .hint("\"openssl rand -hex 32\" makes one."));
            }
        }
        if self.token.is_some() && self.token == self.metrics_token {
            return Err(Error::invalid("the token for metrics is the token that people log in with")
                .hint("A scraper needs no right to act: give it a token of its own."));
        }
        if let Some(header) = &self.user_header {
            let named = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            if header.is_empty() || header.len() > 100 || !header.bytes().all(named) {
                return Err(Error::invalid("the name of the proxy's header is malformed")
                    .hint("It has letters, digits and hyphens, for example X-Forwarded-User."));
            }
            if self.trusted_proxies.is_empty() {
                return Err(Error::invalid("a header is trusted, and no proxy")
                    .hint("Name the addresses of the proxies that set the header."));
            }
        }
        for host in &self.hosts {
            let named = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
            if host.is_empty() || host.len() > 255 || !host.bytes().all(named) {
                return Err(Error::invalid("the name of a host is malformed").hint(
                    "It is the name that browsers ask for, without https:// and path, for example outbox.example.com.",
                ));
            }
        }
        if self.listen.ip().is_loopback() {
            return Ok(());
        }
        if !self.tls_proxy {
            return Err(Error::invalid(format!("{} is an address that others reach", self.listen))
                .detail("This server speaks no TLS, so tokens and cookies would cross the network in the clear.")
                .hint("Listen on 127.0.0.1, or put a proxy with TLS before this server and say so with --tls-proxy."));
        }
        if self.token.is_none() && self.user_header.is_none() {
            return Err(Error::invalid("an address that others reach needs a token or the header of a proxy")
                .hint("Give a token by --token-file or OUTBOX_SERVE_TOKEN, or the header by --user-header."));
        }
        if self.hosts.is_empty() {
            return Err(Error::invalid("an address that others reach needs the name that browsers ask for")
                .hint("Give it by --host, for example --host outbox.example.com."));
        }
        Ok(())
    }

    /// Returns whether browsers may ask for this host. Any other name may be one that an attacker points to this
    /// machine, so that pages of the attacker's share the origin of the dashboard.
    pub(crate) fn knows_host(&self, host: &str) -> bool {
        let name = without_port(host);
        self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(name))
            || self.listen.ip().is_loopback() && ["localhost", "127.0.0.1", "[::1]"].contains(&name)
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_address_is_refused_unless_it_is_safe() {
        let refused = |options: &Options| options.check().err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(refused(&Options::default()), "");
        let open = Options { listen: SocketAddr::from(([0, 0, 0, 0], 8484)), ..Options::default() };
        assert!(refused(&open).contains("is an address that others reach"));
        let proxied = Options { tls_proxy: true, ..open };
        assert!(refused(&proxied).contains("needs a token"));
        let with_token = Options { token: Some("0123456789abcdef".to_owned()), ..proxied };
        assert!(refused(&with_token).contains("needs the name"));
        let named = Options { hosts: vec!["outbox.example.com".to_owned()], ..with_token };
        assert_eq!(refused(&named), "");
        assert!(!format!("{named:?}").contains("0123456789abcdef"));
        assert!(refused(&Options { token: Some("short".to_owned()), ..named.clone() }).contains("malformed"));
        assert!(refused(&Options { metrics_token: named.token.clone(), ..named.clone() }).contains("log in with"));
        assert!(named.knows_host("outbox.example.com") && named.knows_host("OUTBOX.example.com:443"));
        assert!(!named.knows_host("localhost") && !named.knows_host("evil.example.com"));
    }

    #[test]
    fn loopback_has_three_names() {
        let options = Options::default();
        for host in ["localhost", "localhost:8484", "127.0.0.1:8484", "[::1]:8484", "[::1]"] {
            assert!(options.knows_host(host), "{host}");
        }
        for host in ["", "localhost.evil.example", "127.0.0.1.evil.example:8484", "evil.example:8484", "::1"] {
            assert!(!options.knows_host(host), "{host}");
        }
    }
}
