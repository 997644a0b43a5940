//! The URL of an endpoint.

use std::borrow::Cow;

use http::Uri;

use crate::error::{Error, Result};
use crate::format;

/// The largest length of a URL, in bytes.
pub const MAX_LENGTH: usize = 2048;

/// The parsed URL of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    /// Whether the scheme is `https` and not `http`.
    pub tls: bool,
    /// Host name or address, without the brackets of an IPv6 address and without a trailing dot.
    pub host: String,
    /// Port. If the URL has none, the default port of the scheme.
    pub port: u16,
    /// Path and query, as sent in the request line.
    pub path: String,
    /// The `Host` header.
    pub host_header: String,
}

impl Url {
    /// Parses `https://host[:port][/path][?query]`. `http://` is accepted only if `plain_allowed`.
    ///
    /// # Errors
    /// 22023; the detail says what is wrong.
    pub fn parse(text: &str, plain_allowed: bool) -> Result<Url> {
        let refuse = |detail: &str| {
            // The error does not contain the URL, because its user info may be a password.
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
        let text = ascii(text);
        if text.len() > MAX_LENGTH {
            return Err(refuse("It has more than 2048 bytes when what is beyond ASCII is percent-encoded."));
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
        let host = host(authority.host()).map_err(refuse)?;
        // authority.port() is not used, because it is also None for a number above 65535.
        let port = match authority.as_str().strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':')) {
            Some(port) => self::port(port).ok_or_else(|| refuse("Its port is not a number from 1 to 65535."))?,
            None if tls => 443,
            None => 80,
        };
        // An empty path is sent as /, also before a query (RFC 9112, 3.2.1).
        let path = match uri.query() {
            Some(query) => format!("{}?{query}", uri.path()),
            None => uri.path().to_owned(),
        };
        let path = target(&path).map_err(refuse)?;
        if path.len() > MAX_LENGTH {
            return Err(refuse("It has more than 2048 bytes when it is percent-encoded."));
        }
        Ok(Url { tls, host, port, path, host_header: authority.as_str().to_ascii_lowercase() })
    }
}

/// Parses a port, a number from 1 to 65535 written in digits only.
pub(crate) fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

/// Percent-encodes the non-ASCII characters of path and query, as browsers do.
fn ascii(text: &str) -> Cow<'_, str> {
    let authority = text.find("://").map_or(0, |at| at + 3);
    let path = text[authority..].find(['/', '?']).map_or(text.len(), |at| authority + at);
    match format::ascii(&text[path..]) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        Cow::Owned(encoded) => Cow::Owned(text[..path].to_owned() + &encoded),
    }
}

/// Encodes path and query in the characters that RFC 3986 allows. All servers accept these characters.
fn target(text: &str) -> std::result::Result<String, &'static str> {
    let mut target = String::with_capacity(text.len());
    for (i, c) in text.char_indices() {
        match c {
            '%' => {
                let digits = text.as_bytes().get(i + 1..i + 3);
                if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    return Err(
                        "It has a % that is not followed by two hexadecimal digits; the sign itself is written as %25.",
                    );
                }
                target.push(c);
            }
            '\\' => return Err("It has a backslash, which servers read in different ways; it is written as %5C."),
            _ if c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/?".contains(c) => target.push(c),
            _ => target.push_str(&c.to_string().bytes().map(|b| format!("%{b:02X}")).collect::<String>()),
        }
    }
    Ok(target)
}

/// Checks and normalises the host of a URL, which is a name or an address in its usual notation. Other notations of
/// addresses (`127.1`, `0x7f000001`, `2130706433`, `0177.0.0.1`) are refused, because a library or a proxy that resolves
/// them may read another address than this crate.
fn host(text: &str) -> std::result::Result<String, &'static str> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let address = bracketed.strip_suffix(']').and_then(|inner| inner.parse::<std::net::Ipv6Addr>().ok());
        return address.map(|address| address.to_string()).ok_or("Its host is not an IPv6 address.");
    }
    let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if host.is_empty() {
        return Err("It has no host.");
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return Err("Its host is not a name; names beyond ASCII are written in Punycode (xn--...).");
    }
    let last = host.rsplit('.').next().unwrap_or_default();
    let number = match last.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => last.bytes().all(|b| b.is_ascii_digit()),
    };
    if number && host.parse::<std::net::Ipv4Addr>().is_err() {
        return Err("Its host is a number, but not an IPv4 address of four decimal parts.");
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_has_one_notation() {
        for text in [
            "127.1",
            "127.0.1",
            "0177.0.0.1",
            "127.0.0.01",
            "0x7f.0.0.1",
            "0x7f000001",
            "0X7F000001",
            "0x",
            "2130706433",
            "1.2.3.4.5",
            "256.0.0.1",
            "1.2.3.0x4",
            "127.1.",
            "a.b.1",
        ] {
            let detail = Url::parse(&format!("https://{text}/"), false).unwrap_err().detail.unwrap();
            assert!(detail.starts_with("Its host is a number"), "{text}: {detail}");
        }
        for (text, host) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1.", "127.0.0.1"),
            ("[::FFFF:127.0.0.1]", "::ffff:127.0.0.1"),
            ("[0:0:0:0:0:0:0:1]", "::1"),
            ("[64:ff9b::7f00:1]", "64:ff9b::7f00:1"),
            ("1password.com", "1password.com"),
            ("a-b_c.example.", "a-b_c.example"),
            ("0x7f.example", "0x7f.example"),
        ] {
            assert_eq!(Url::parse(&format!("https://{text}/"), false).unwrap().host, host, "{text}");
        }
        for text in ["a..b", "example.com..", "[fe80::1%25eth0]", "[::1", "[1.2.3.4]", "a%2eb", "bücher.example", "a$b"]
        {
            assert!(Url::parse(&format!("https://{text}/"), false).is_err(), "{text}");
        }
        assert!(Url::parse(&format!("https://{}/", "a".repeat(64)), false).is_err());
    }

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
        for (text, path) in
            [("https://a", "/"), ("https://a/", "/"), ("https://a?token=x", "/?token=x"), ("https://a?", "/?")]
        {
            assert_eq!(Url::parse(text, false).unwrap().path, path, "{text}");
        }
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
            ("https://example.com:+8080/", "Its port is not a number"),
            ("https://example.com:-1/", "Its port is not a number"),
            ("https://example.com/%zz", "It has a % that"),
            ("https://example.com/?a=%1", "It has a % that"),
            ("https://example.com/%", "It has a % that"),
            ("https://example.com/a\\b", "It has a backslash"),
            ("https://bücher.example/", "It is malformed"),
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

    #[test]
    fn what_is_sent_is_what_every_server_takes() {
        for (text, path) in [
            ("/café?q=é", "/caf%C3%A9?q=%C3%A9"),
            ("?ключ", "/?%D0%BA%D0%BB%D1%8E%D1%87"),
            ("/a%2Fb%c3", "/a%2Fb%c3"),
            ("/a[0]|b?c[]=d", "/a%5B0%5D%7Cb?c%5B%5D=d"),
            ("/-._~!$&'()*+,;=:@/?/?-._~!$&'()*+,;=:@", "/-._~!$&'()*+,;=:@/?/?-._~!$&'()*+,;=:@"),
        ] {
            assert_eq!(Url::parse(&format!("https://example.com{text}"), false).unwrap().path, path, "{text}");
        }
        let long = format!("https://example.com/{}", "é".repeat(500));
        assert!(Url::parse(&long, false).is_err(), "the limit is that of what is sent");
    }

    proptest! {
        #[test]
        fn a_path_is_refused_or_sent_in_the_characters_of_its_standard(text in "[ -~é€]{0,40}") {
            if let Ok(url) = Url::parse(&format!("https://example.com/{text}"), false) {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&b);
                prop_assert!(url.path.bytes().all(plain), "{}", url.path);
                // The encoded path parses again, to the same path.
                let again = Url::parse(&format!("https://example.com{}", url.path), false).unwrap();
                prop_assert_eq!(again.path, url.path);
            }
        }

        #[test]
        fn never_panics(text: String) {
            let _ = Url::parse(&text, true);
            let _ = Url::parse(&format!("https://{text}"), true);
        }
    }
}
