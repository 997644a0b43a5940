//! Headers that users define, for an endpoint or for a message.

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use crate::error::{Error, Result};

/// The largest number of headers of one endpoint or message.
pub const MAX_COUNT: usize = 64;
/// The largest size of a header's value, in bytes.
pub const MAX_VALUE: usize = 8 * 1024;

/// Returns whether a header belongs to the protocol. The sender writes such a header itself and never sends a user's value.
pub fn is_protocol(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(
        name.as_str(),
        "host"
            | "connection"
            | "transfer-encoding"
            | "te"
            | "trailer"
            | "upgrade"
            | "keep-alive"
            | "proxy-connection"
            | "expect"
            | "user-agent"
    ) || ["webhook-", "ce-", "content-", "outbox-", "proxy-"].iter().any(|prefix| name.starts_with(prefix))
}

/// Reads headers from a JSON object of names to strings.
///
/// # Errors
/// 22023 that names the header, if its name is not a header name, if it belongs to the protocol, or if its value would break
/// HTTP.
pub fn parse(json: &Value) -> Result<Vec<(HeaderName, HeaderValue)>> {
    let refuse = |what: String| Error::invalid(format!("invalid headers: {what}"));
    let Value::Object(entries) = json else {
        return Err(refuse("not a JSON object".to_owned()));
    };
    if entries.len() > MAX_COUNT {
        return Err(refuse(format!("{} of them; the limit is {MAX_COUNT}", entries.len())));
    }
    let mut headers = Vec::with_capacity(entries.len());
    for (name, value) in entries {
        let shown: String = name.chars().take(64).collect();
        let Ok(parsed) = name.parse::<HeaderName>() else {
            return Err(refuse(format!("\"{shown}\" is not a header name")));
        };
        if is_protocol(name) {
            return Err(refuse(format!("\"{shown}\" is set by the protocol")));
        }
        let Value::String(text) = value else {
            return Err(refuse(format!("the value of \"{shown}\" is not a string")));
        };
        if text.len() > MAX_VALUE {
            return Err(refuse(format!("the value of \"{shown}\" has {} bytes; the limit is {MAX_VALUE}", text.len())));
        }
        let Ok(value) = text.parse::<HeaderValue>() else {
            return Err(refuse(format!("the value of \"{shown}\" has a character that a header cannot have")));
        };
        headers.push((parsed, value));
    }
    Ok(headers)
}

/// Checks the content type of a body, `type/subtype` with optional parameters.
///
/// # Errors
/// 22023.
pub fn check_content_type(text: &str) -> Result<()> {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let token =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
    let well_formed = essence.split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub));
    if well_formed && HeaderValue::from_str(text).is_ok() {
        return Ok(());
    }
    Err(Error::invalid("malformed content_type").hint("A content type looks like text/plain; charset=utf-8."))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_the_header_that_is_wrong() {
        for (json, what) in [
            (json!([]), "not a JSON object"),
            (json!({"a b": "x"}), "\"a b\" is not a header name"),
            (json!({"": "x"}), "\"\" is not a header name"),
            (json!({"x": 1}), "the value of \"x\" is not a string"),
            (json!({"x": "a\r\nb: c"}), "the value of \"x\" has a character that a header cannot have"),
            (json!({"Webhook-Signature": "x"}), "\"Webhook-Signature\" is set by the protocol"),
            (json!({"Content-Length": "1"}), "\"Content-Length\" is set by the protocol"),
            (json!({"host": "x"}), "\"host\" is set by the protocol"),
            (json!({"x": "y".repeat(8193)}), "the value of \"x\" has 8193 bytes; the limit is 8192"),
        ] {
            assert_eq!(parse(&json).unwrap_err().message, format!("invalid headers: {what}"));
        }
        assert_eq!(parse(&json!({"x-a": "1", "Authorization": "Bearer x"})).unwrap().len(), 2);
    }

    #[test]
    fn content_types() {
        for text in ["text/plain", "application/vnd.api+json", "text/plain; charset=utf-8"] {
            assert_eq!(check_content_type(text), Ok(()), "{text}");
        }
        for text in ["", "text", "text/", "/plain", "text/plain\r\nx: y", "a b/c"] {
            assert!(check_content_type(text).is_err(), "{text}");
        }
    }
}
