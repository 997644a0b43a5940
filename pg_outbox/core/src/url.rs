//! The URL of an endpoint.

use http::Uri;

use crate::error::{Error, Result};

/// Longest URL, in bytes.
pub const MAX_LENGTH: usize = 2048;

/// An endpoint's URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    /// `https`, not `http`.
    pub tls: bool,
    /// Name or address, without the brackets of an IPv6 address and without a trailing dot.
    pub host: String,
    /// Port; the scheme's own when the URL has none.
    pub port: u16,
    /// What the request line names: path and query.
    pub path: String,
    /// The `Host` header.
    pub host_header: String,
}

impl Url {
    /// Parses `https://host[:port][/path][?query]`, or `http://` where `plain_allowed`.
    ///
    /// # Errors
    /// 22023 with what is wrong in the detail.
    pub fn parse(text: &str, plain_allowed: bool) -> Result<Url> {
        let refuse = |detail: &str| {
            // Without the user info, which may be a password.
            Error::invalid("invalid url")
                .detail(detail.to_owned())
                .hint("A url looks like https://example.com/hooks/orders.")
        };
        if text.len() > MAX_LENGTH {
            return Err(refuse("It has more than 2048 bytes."));
        }
        if text.contains('#') {
            return Err(refuse("It has a fragment, which is never sent."));
        }
        let uri: Uri = text.parse().map_err(|e| refuse(&format!("It is malformed: {e}.")))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if plain_allowed => false,
            Some("http") => {
                return Err(refuse("It is not encrypted.").hint("Use https, or set pg_outbox.allow_http = on."));
            }
            Some(_) => return Err(refuse("Its scheme is neither https nor http.")),
            None => return Err(refuse("It has no scheme.")),
        };
        let authority = uri.authority().ok_or_else(|| refuse("It has no host."))?;
        if authority.as_str().contains('@') {
            return Err(refuse("It has a user or a password in it.")
                .hint("Credentials belong into the endpoint's authentication."));
        }
        let bare = authority.host().trim_start_matches('[').trim_end_matches(']');
        let host = bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase();
        if host.is_empty() {
            return Err(refuse("It has no host."));
        }
        // Not authority.port(): it is None for a number beyond 65535 too.
        let port = match authority.as_str().strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':')) {
            Some(port) => match port.parse::<u16>() {
                Ok(0) | Err(_) => return Err(refuse("Its port is not a number from 1 to 65535.")),
                Ok(port) => port,
            },
            None if tls => 443,
            None => 80,
        };
        Ok(Url {
            tls,
            host,
            port,
            path: uri.path_and_query().map_or_else(|| "/".to_owned(), |p| p.as_str().to_owned()),
            host_header: authority.as_str().to_ascii_lowercase(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn takes_a_url_apart() {
        let url = Url::parse("https://Example.com./hooks?a=1&b=2", false).unwrap();
        assert_eq!(
            url,
            Url {
                tls: true,
                host: "example.com".into(),
                port: 443,
                path: "/hooks?a=1&b=2".into(),
                host_header: "example.com.".into(),
            }
        );
        let url = Url::parse("http://[::1]:8080", true).unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.path.as_str(), url.host_header.as_str()),
            ("::1", 8080, "/", "[::1]:8080")
        );
    }

    #[test]
    fn refuses_what_cannot_be_called() {
        for (text, detail) in [
            ("", "It is malformed"),
            ("example.com", "It has no scheme."),
            ("/hooks", "It has no scheme."),
            ("ftp://example.com", "Its scheme is neither"),
            ("http://example.com", "It is not encrypted."),
            ("https://", "It is malformed"),
            ("https://user:secret@example.com/", "It has a user"),
            ("https://example.com:0/", "Its port is not a number"),
            ("https://example.com:99999/", "Its port is not a number"),
            ("https://example.com:/", "Its port is not a number"),
            ("https://example.com/#a", "It has a fragment"),
            ("https://exa mple.com/", "It is malformed"),
            ("https://example.com/\r\nX: y", "It is malformed"),
        ] {
            let error = Url::parse(text, false).unwrap_err();
            let found = error.detail.clone().unwrap();
            assert!(found.starts_with(detail), "{text}: {found}");
            assert!(!format!("{error:?}").contains("secret"));
        }
        assert!(Url::parse(&format!("https://example.com/{}", "x".repeat(2048)), false).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            let _ = Url::parse(&text, true);
            let _ = Url::parse(&format!("https://{text}"), true);
        }
    }
}
