//! The URL of a proxy that the operator has set.

use std::fmt;

use crate::error::{Error, Result};
use crate::url;

/// The protocol of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// CONNECT over HTTP.
    Http,
    /// SOCKS 5 (RFC 1928).
    Socks5,
}

/// A proxy. `Debug` does not show the credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Protocol.
    pub kind: Kind,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User and password.
    pub credentials: Option<(String, String)>,
    /// Whether the proxy gets host names and resolves them itself, so that the proxy decides which addresses may be called.
    /// Otherwise it gets addresses that were checked here.
    pub resolves: bool,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({:?} {}:{})", self.kind, self.host, self.port)
    }
}

impl Proxy {
    /// Reads `http://[user:password@]host:port` or `socks5://[user:password@]host:port`. An empty text means no proxy. User
    /// and password are percent-decoded; a percent sign without two hexadecimal digits stays unchanged.
    ///
    /// # Errors
    /// 22023. The text is not in the error, because it may contain a password.
    pub fn parse(text: &str) -> Result<Option<Proxy>> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let refuse = || {
            Error::invalid("malformed proxy")
                .hint("A proxy looks like http://proxy.example:3128 or socks5://user:password@proxy.example:1080.")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(refuse)?;
        let kind = match scheme {
            "http" => Kind::Http,
            "socks5" => Kind::Socks5,
            _ => return Err(refuse()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => {
                let (user, password) = credentials.split_once(':').ok_or_else(refuse)?;
                let credentials = decoded(user).zip(decoded(password)).ok_or_else(refuse)?;
                (Some(credentials), place)
            }
            None => (None, rest),
        };
        let (host, port) = place.rsplit_once(':').ok_or_else(refuse)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = url::port(port).ok_or_else(refuse)?;
        let long = credentials.as_ref().is_some_and(|(user, password)| user.len() > 255 || password.len() > 255);
        if host.is_empty() || host.contains(['/', ' ', '@']) || long {
            return Err(refuse());
        }
        Ok(Some(Proxy { kind, host: host.to_owned(), port, credentials, resolves: false }))
    }
}

/// Decodes percent-encoded text. `None` if the result has control characters or is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let (bytes, mut decoded) = (text.as_bytes(), Vec::with_capacity(text.len()));
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|d| *byte == b'%' && d.iter().all(u8::is_ascii_hexdigit));
        let code = digits.and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 16).ok());
        decoded.push(code.unwrap_or(*byte));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8(decoded).ok().filter(|text| !text.contains(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_kinds() {
        let proxy = Proxy::parse("http://proxy.example:3128").unwrap().unwrap();
        assert_eq!((proxy.kind, proxy.host.as_str(), proxy.port), (Kind::Http, "proxy.example", 3128));
        let proxy = Proxy::parse("socks5://u:p@ss@[::1]:1080/").unwrap().unwrap();
        assert_eq!((proxy.kind, proxy.host.as_str()), (Kind::Socks5, "::1"));
        assert_eq!(proxy.credentials, Some(("u".into(), "p@ss".into())));
        assert!(!format!("{proxy:?}").contains("p@ss"));
        for (text, decoded) in [
            ("us%40er:p%3Aw%2F", ("us@er", "p:w/")),
            ("a:100%", ("a", "100%")),
            ("a:%zz%4", ("a", "%zz%4")),
            ("%C3%A9:%25", ("é", "%")),
        ] {
            let proxy = Proxy::parse(&format!("http://{text}@b:1")).unwrap().unwrap();
            assert_eq!(proxy.credentials, Some((decoded.0.into(), decoded.1.into())), "{text}");
        }
        for wrong in ["http://a:%00@b:1", "http://a%0D%0A:b@b:1", "http://%ff:b@b:1", "http://b:+1"] {
            assert!(Proxy::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Proxy::parse(" ").unwrap(), None);
        for wrong in ["proxy:1", "https://a:1", "http://a", "http://a:0", "http://:1", "http://a@b:1", "http://a b:1"] {
            assert!(Proxy::parse(wrong).is_err(), "{wrong}");
        }
    }
}
