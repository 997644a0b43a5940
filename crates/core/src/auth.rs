//! The `auth` of an endpoint: how requests authenticate to it, in addition to their signatures.
//!
//! `Debug` shows no secret, and errors name an entry but never its value.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::headers;
use crate::url::Url;

/// A way to authenticate.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// The same header with every request: basic, bearer, or a header that the endpoint defines.
    Header(HeaderName, HeaderValue),
    /// A token from an authorisation server.
    OAuth2(Box<OAuth2>),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::Header(name, _) => write!(f, "Auth::Header({name}, redacted)"),
            Auth::OAuth2(oauth2) => write!(f, "Auth::OAuth2({}, redacted)", oauth2.token_url.host),
        }
    }
}

/// The client credentials grant (RFC 6749, 4.4).
#[derive(Clone, PartialEq, Eq)]
pub struct OAuth2 {
    /// The URL that issues tokens.
    pub token_url: Url,
    /// Send the credentials in the body instead of as basic authentication (RFC 6749, 2.3.1).
    pub in_body: bool,
    client_id: String,
    client_secret: String,
    scope: Option<String>,
    audience: Option<String>,
}

impl fmt::Debug for OAuth2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OAuth2({}, redacted)", self.token_url.host)
    }
}

impl OAuth2 {
    /// The body of the token request (`application/x-www-form-urlencoded`).
    pub fn body(&self) -> String {
        let mut body = String::from("grant_type=client_credentials");
        let mut add = |name: &str, value: &str| {
            body.push('&');
            body.push_str(name);
            body.push('=');
            form_encode(value, &mut body);
        };
        if let Some(scope) = &self.scope {
            add("scope", scope);
        }
        if let Some(audience) = &self.audience {
            add("audience", audience);
        }
        if self.in_body {
            add("client_id", &self.client_id);
            add("client_secret", &self.client_secret);
        }
        body
    }

    /// The `authorization` header of the token request, unless the credentials are in the body.
    pub fn authorization(&self) -> Option<HeaderValue> {
        if self.in_body {
            return None;
        }
        let (mut id, mut secret) = (String::new(), String::new());
        form_encode(&self.client_id, &mut id);
        form_encode(&self.client_secret, &mut secret);
        basic(&id, &secret)
    }
}

/// Reads the token and its lifetime in seconds from an authorisation server's answer (RFC 6749, 5.1). An answer without
/// `expires_in` counts as 300 seconds.
pub fn token(body: &[u8]) -> std::result::Result<(HeaderValue, u64), &'static str> {
    let json: Value = serde_json::from_slice(body).map_err(|_| "the answer is not JSON")?;
    let token = json.get("access_token").and_then(Value::as_str).ok_or("the answer has no access_token")?;
    if json.get("token_type").and_then(Value::as_str).is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err("the token is not a bearer token");
    }
    let expires = json.get("expires_in").and_then(|e| e.as_u64().or_else(|| e.as_str()?.parse().ok()));
    let value = sensitive(&format!("Bearer {token}")).ok_or("the token cannot be a header value")?;
    Ok((value, expires.unwrap_or(300)))
}

impl Auth {
    /// Reads the `auth` of an endpoint, which has one of these forms:
    ///
    /// - `{"type": "basic", "username", "password"}`
    /// - `{"type": "bearer", "token"}`
    /// - `{"type": "header", "name", "value"}`
    /// - `{"type": "oauth2", "token_url", "client_id", "client_secret"}`, and optionally `scope`, `audience` and
    ///   `credentials` (`header`, the default, or `body`)
    ///
    /// # Errors
    /// 22023 that names the entry.
    pub fn parse(json: &Value, plain_allowed: bool) -> Result<Auth> {
        let Value::Object(entries) = json else { return Err(refuse("it is not a JSON object")) };
        let kind = text(entries, "type")?;
        let known: &[&str] = match kind {
            "basic" => &["type", "username", "password"],
            "bearer" => &["type", "token"],
            "header" => &["type", "name", "value"],
            "oauth2" => &["type", "token_url", "client_id", "client_secret", "scope", "audience", "credentials"],
            _ => return Err(refuse("\"type\" is not basic, bearer, header or oauth2")),
        };
        if let Some(unknown) = entries.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(refuse(&format!("\"{unknown}\" is unknown")));
        }
        let unusable = |entry: &str| refuse(&format!("\"{entry}\" cannot be sent in a header"));
        match kind {
            "basic" => {
                let username = text(entries, "username")?;
                if username.contains(':') {
                    return Err(refuse("\"username\" has a colon"));
                }
                let value = basic(username, text(entries, "password")?).ok_or_else(|| unusable("password"))?;
                Ok(Auth::Header(AUTHORIZATION, value))
            }
            "bearer" => {
                let value =
                    sensitive(&format!("Bearer {}", text(entries, "token")?)).ok_or_else(|| unusable("token"))?;
                Ok(Auth::Header(AUTHORIZATION, value))
            }
            "header" => {
                let name = text(entries, "name")?;
                let parsed: HeaderName = name.parse().map_err(|_| refuse("\"name\" is not a header name"))?;
                if headers::is_protocol(name) {
                    return Err(refuse("\"name\" is a header that is set by the protocol"));
                }
                Ok(Auth::Header(parsed, sensitive(text(entries, "value")?).ok_or_else(|| unusable("value"))?))
            }
            _ => {
                let token_url = Url::parse(text(entries, "token_url")?, plain_allowed)
                    .map_err(|e| refuse("\"token_url\" is invalid").detail(e.detail.unwrap_or(e.message)))?;
                let optional = |name: &str| -> Result<Option<String>> {
                    entries.get(name).map(|_| text(entries, name).map(str::to_owned)).transpose()
                };
                Ok(Auth::OAuth2(Box::new(OAuth2 {
                    token_url,
                    in_body: match optional("credentials")?.as_deref() {
                        None | Some("header") => false,
                        Some("body") => true,
                        Some(_) => return Err(refuse("\"credentials\" is neither header nor body")),
                    },
                    client_id: text(entries, "client_id")?.to_owned(),
                    client_secret: text(entries, "client_secret")?.to_owned(),
                    scope: optional("scope")?,
                    audience: optional("audience")?,
                })))
            }
        }
    }
}

fn refuse(what: &str) -> Error {
    Error::invalid(format!("invalid auth: {what}"))
        .hint("An auth looks like {\"type\": \"bearer\", \"token\": \"...\"}; the types are basic, bearer, header and oauth2.")
}

fn text<'a>(entries: &'a Map<String, Value>, name: &str) -> Result<&'a str> {
    match entries.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(_) => Err(refuse(&format!("\"{name}\" is not a text, or empty"))),
        None => Err(refuse(&format!("\"{name}\" is missing"))),
    }
}

fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    sensitive(&format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
}

/// A header value that `Debug` does not show.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn form_encode(text: &str, to: &mut String) {
    use std::fmt::Write as _;
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            to.push(b as char);
        } else {
            let _ = write!(to, "%{b:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn header(json: Value) -> (String, String) {
        match Auth::parse(&json, false).unwrap() {
            Auth::Header(name, value) => (name.to_string(), value.to_str().unwrap().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn headers_of_the_three_simple_types() {
        let basic = header(json!({"type": "basic", "username": "Aladdin", "password": "open sesame"}));
        assert_eq!(basic, ("authorization".into(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".into()));
        let bearer = header(json!({"type": "bearer", "token": "t"}));
        assert_eq!(bearer, ("authorization".into(), "Bearer t".into()));
        let own = header(json!({"type": "header", "name": "X-Api-Key", "value": "k"}));
        assert_eq!(own, ("x-api-key".into(), "k".into()));
    }

    #[test]
    fn client_credentials() {
        let parse = |credentials| {
            let json = json!({"type": "oauth2", "token_url": "https://auth.example/token", "client_id": "a b",
                "client_secret": "s&t", "scope": "hooks:write", "credentials": credentials});
            match Auth::parse(&json, false).unwrap() {
                Auth::OAuth2(oauth2) => oauth2,
                other => panic!("{other:?}"),
            }
        };
        let header = parse("header");
        assert_eq!(header.body(), "grant_type=client_credentials&scope=hooks%3Awrite");
        assert_eq!(header.authorization().unwrap(), format!("Basic {}", STANDARD.encode("a%20b:s%26t")));
        let body = parse("body");
        assert_eq!(body.authorization(), None);
        assert!(body.body().ends_with("&client_id=a%20b&client_secret=s%26t"));
        let (value, seconds) = token(br#"{"access_token": "x", "token_type": "Bearer", "expires_in": 60}"#).unwrap();
        assert_eq!((value.to_str().unwrap(), seconds), ("Bearer x", 60));
        for wrong in ["", "{}", r#"{"access_token": "x", "token_type": "mac"}"#, r#"{"access_token": "a\nb"}"#] {
            assert!(token(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_the_entry_and_never_shows_the_secret() {
        for (json, what) in [
            (json!([]), "it is not a JSON object"),
            (json!({"type": "magic"}), "\"type\" is not"),
            (json!({"type": "bearer"}), "\"token\" is missing"),
            (json!({"type": "bearer", "token": "hunter2\n"}), "\"token\" cannot be sent"),
            (json!({"type": "bearer", "token": "hunter2", "user": "x"}), "\"user\" is unknown"),
            (json!({"type": "basic", "username": "a:b", "password": "hunter2"}), "\"username\" has a colon"),
            (json!({"type": "header", "name": "webhook-id", "value": "hunter2"}), "\"name\" is a header that is set"),
            (
                json!({"type": "oauth2", "token_url": "http://a/", "client_id": "a", "client_secret": "hunter2"}),
                "\"token_url\" is invalid",
            ),
        ] {
            let error = Auth::parse(&json, false).unwrap_err();
            assert!(error.message.starts_with(&format!("invalid auth: {what}")), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
        let auth = Auth::parse(&json!({"type": "bearer", "token": "hunter2"}), false).unwrap();
        assert!(!format!("{auth:?}").contains("hunter2"));
    }
}
