//! Attempts as spans of OpenTelemetry, with the semantic conventions for messaging and HTTP.
//!
//! The span of a request with one message is a child of the producer's span and linked to it. A request with several messages
//! has a trace of its own, with a link for each message. Ids are made of what identifies the attempt, so an attempt that is
//! sent twice has the same ids.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Held;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The links of a span. The others are counted.
const MAX_LINKS: usize = 128;

/// The longest text of an attribute, in characters.
const MAX_TEXT: usize = 500;

/// The longest `tracestate` that is passed on, in bytes.
const MAX_STATE: usize = 512;

/// The version of the semantic conventions.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// The bit of the flags that says that the trace is recorded.
const SAMPLED: u8 = 1;

/// The flags of OTLP that say that the parent is of another process.
const REMOTE: u32 = 0x300;

/// The context of the transaction that enqueued a message.
#[derive(Clone, Debug, PartialEq)]
struct Context {
    trace: Vec<u8>,
    span: Vec<u8>,
    flags: u8,
    state: String,
}

/// Reads a `traceparent` of version 00, and what later versions have in common with it.
fn context(text: &str, state: &str) -> Option<Context> {
    let parts: Vec<&str> = text.split('-').collect();
    let (trace, span, flags) = match parts[..] {
        ["00", trace, span, flags] => (trace, span, flags),
        [version, trace, span, flags, ..] if bytes(version, 1).is_some() && !["00", "ff"].contains(&version) => {
            (trace, span, flags)
        }
        _ => return None,
    };
    let (trace, span, flags) = (bytes(trace, 16)?, bytes(span, 8)?, bytes(flags, 1)?);
    let is_there = |id: &[u8]| id.iter().any(|byte| *byte != 0);
    let state = if state.len() <= MAX_STATE && state.bytes().all(|b| (32..127).contains(&b)) { state } else { "" };
    (is_there(&trace) && is_there(&span)).then(|| Context { trace, span, flags: flags[0], state: state.to_owned() })
}

/// Reads so many bytes in hexadecimal digits, of which letters are small.
fn bytes(text: &str, count: usize) -> Option<Vec<u8>> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != count * 2 || !text.bytes().all(digit) {
        return None;
    }
    (0..count).map(|n| u8::from_str_radix(text.get(n * 2..n * 2 + 2)?, 16).ok()).collect()
}

/// Returns the ids of the messages of an attempt.
pub(super) fn message_ids(attempt: &Value) -> Vec<i64> {
    match attempt["message_ids"].as_array() {
        Some(ids) => ids.iter().filter_map(Value::as_i64).collect(),
        None => attempt["message_id"].as_i64().into_iter().collect(),
    }
}

/// Returns the span of an attempt, if one of its messages belongs to a trace that is recorded. `messages`: those with a
/// `traceparent`, by their ids.
pub(super) fn span(attempt: &Value, messages: &HashMap<i64, Value>) -> Option<Span> {
    let ids = message_ids(attempt);
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let contexts: Vec<(&Value, Context)> = ids
        .iter()
        .filter_map(|id| messages.get(id))
        .filter_map(|message| Some((message, context(&text(message, "traceparent"), &text(message, "tracestate"))?)))
        .collect();
    if !contexts.iter().any(|(_, context)| context.flags & SAMPLED != 0) {
        return None;
    }
    let id = identity(attempt, &contexts.first()?.1);
    let is_batch = attempt["message_ids"].is_array();
    let parent = (!is_batch).then(|| contexts.first().map(|(_, context)| context.clone())).flatten();
    let links = contexts.iter().take(MAX_LINKS).map(|(message, context)| Link {
        trace_id: context.trace.clone(),
        span_id: context.span.clone(),
        trace_state: context.state.clone(),
        attributes: vec![of_text("messaging.message.id", &text(message, "webhook_id"))],
        flags: u32::from(context.flags) | REMOTE,
        ..Link::default()
    });
    let destination = match (is_batch, contexts.first()) {
        (false, Some((message, _))) => text(message, "topic"),
        _ => text(attempt, "subscription"),
    };
    let status = attempt["status"].as_i64();
    let is_error = ["failed", "dead", "partial", "expired"].contains(&attempt["outcome"].as_str().unwrap_or_default());
    let time = |name: &str| attempt[name].as_u64().unwrap_or(0).saturating_mul(1000);
    let start = time("started_us");
    Some(Span {
        trace_id: parent.as_ref().map_or_else(|| id[8..24].to_vec(), |parent| parent.trace.clone()),
        span_id: id[..8].to_vec(),
        trace_state: parent.as_ref().map_or_else(String::new, |parent| parent.state.clone()),
        parent_span_id: parent.as_ref().map_or_else(Vec::new, |parent| parent.span.clone()),
        flags: u32::from(SAMPLED) | if parent.is_some() { REMOTE } else { 0x100 },
        name: cut(&format!("send {destination}")),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: time("finished_us").max(start),
        attributes: attributes(attempt, &destination, ids.len(), is_batch, &contexts),
        links: links.collect(),
        dropped_links_count: u32::try_from(contexts.len().saturating_sub(MAX_LINKS)).unwrap_or(u32::MAX),
        // The text of an error can quote content of messages and answers. Its class does not.
        status: is_error.then(|| Status {
            message: status.map_or_else(|| text(attempt, "error_class"), |status| format!("HTTP {status}")),
            code: StatusCode::Error.into(),
        }),
        ..Span::default()
    })
}

fn attributes(
    attempt: &Value,
    destination: &str,
    count: usize,
    is_batch: bool,
    contexts: &[(&Value, Context)],
) -> Vec<KeyValue> {
    let text = |name: &str| attempt[name].as_str().unwrap_or_default();
    let mut found = vec![
        of_text("messaging.system", "pg_outbox"),
        of_text("messaging.operation.name", "send"),
        of_text("messaging.operation.type", "send"),
        of_text("messaging.destination.name", destination),
        of_text("http.request.method", "POST"),
        of_text("outbox.subscription", text("subscription")),
        of_text("outbox.endpoint", text("endpoint")),
        of_text("outbox.outcome", text("outcome")),
        of_number("outbox.attempt", attempt["attempt"].as_i64().unwrap_or(0)),
    ];
    if is_batch {
        found.push(of_number("messaging.batch.message_count", i64::try_from(count).unwrap_or(i64::MAX)));
    } else if let Some((message, _)) = contexts.first() {
        found.push(of_text("messaging.message.id", message["webhook_id"].as_str().unwrap_or_default()));
        found.push(of_number("outbox.position", attempt["position"].as_i64().unwrap_or(0)));
    }
    if let Some(status) = attempt["status"].as_i64() {
        found.push(of_number("http.response.status_code", status));
        if status >= 400 {
            found.push(of_text("error.type", &status.to_string()));
        }
    } else if !text("error_class").is_empty() {
        found.push(of_text("error.type", text("error_class")));
    }
    if let Some(again) = attempt["attempt"].as_i64().map(|n| n - 1).filter(|n| *n > 0) {
        found.push(of_number("http.request.resend_count", again));
    }
    if let Some(replay) = attempt["run"].as_i64().filter(|run| *run > 0) {
        found.push(of_number("outbox.replay", replay));
    }
    // Keys are put into the query, and into the place of the user.
    if let Ok(uri) = text("url").parse::<hyper::Uri>()
        && let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host())
    {
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let shown = uri.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
        found.push(of_text("url.full", &format!("{scheme}://{host}{shown}{}", uri.path())));
        found.push(of_text("server.address", host));
        found.push(of_number("server.port", port.into()));
    }
    if !text("remote_address").is_empty() {
        found.push(of_text("network.peer.address", text("remote_address")));
    }
    found
}

/// Returns 32 bytes that are the same for the same attempt, and differ from those of all others.
fn identity(attempt: &Value, first: &Context) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(&first.trace);
    hash.update(&first.span);
    for name in ["started_us", "message_id", "position", "subscription_id", "endpoint_id", "run", "attempt"] {
        hash.update(attempt[name].to_string());
        hash.update(b" ");
    }
    hash.finalize().into()
}

/// Returns the request with spans of one database.
pub(super) fn request(database: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let version = env!("CARGO_PKG_VERSION");
    let resource = vec![
        of_text("service.name", "pg_outbox"),
        of_text("service.version", version),
        of_text("db.system.name", "postgresql"),
        of_text("db.namespace", database),
    ];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: resource, ..Resource::default() }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope {
                    name: "pg_outbox.serve".to_owned(),
                    version: version.to_owned(),
                    ..InstrumentationScope::default()
                }),
                spans,
                schema_url: SCHEMA.to_owned(),
            }],
            schema_url: SCHEMA.to_owned(),
        }],
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

fn of_text(key: &str, value: &str) -> KeyValue {
    attribute(key, Held::StringValue(cut(value)))
}

fn of_number(key: &str, value: i64) -> KeyValue {
    attribute(key, Held::IntValue(value))
}

fn attribute(key: &str, value: Held) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn attempt() -> Value {
        json!({"position": 7, "message_id": 1, "started_us": 1_000, "finished_us": 3_000, "run": 0, "attempt": 2,
            "status": 503, "outcome": "failed", "error": "quotes the payload", "subscription": "s", "subscription_id": 4,
            "endpoint": "e", "endpoint_id": 5, "url": "https://user:pw@example.com/hook?key=hidden", "remote_address": "192.0.2.1"})
    }

    fn messages(traces: &[&str]) -> HashMap<i64, Value> {
        let message = |trace: &str| json!({"topic": "order.paid", "webhook_id": "msg_1", "traceparent": trace});
        traces.iter().zip(1..).map(|(trace, id)| (id, message(trace))).collect()
    }

    #[test]
    fn a_span_says_what_was_sent_and_no_secret() {
        let span = span(&attempt(), &messages(&[TRACE])).unwrap();
        assert_eq!((span.trace_id[0], span.parent_span_id[7], span.links.len()), (0x4b, 0xb7, 1));
        assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (1_000_000, 3_000_000));
        assert_eq!(
            (span.name.as_str(), span.status.as_ref().unwrap().message.as_str()),
            ("send order.paid", "HTTP 503")
        );
        let shown = format!("{span:?}");
        assert!(shown.contains("https://example.com/hook") && shown.contains("http.request.resend_count"), "{shown}");
        for secret in ["hidden", "pw", "quotes the payload"] {
            assert!(!shown.contains(secret), "{secret}");
        }
    }

    #[test]
    fn the_flag_of_the_parent_decides() {
        let unsampled = TRACE.replace("-01", "-00");
        for none in [
            "",
            "00-1",
            &unsampled,
            &TRACE.replace("4bf9", "4BF9"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
        ] {
            assert!(span(&attempt(), &messages(&[none])).is_none(), "{none}");
        }
        assert!(span(&attempt(), &HashMap::new()).is_none());
        assert!(span(&attempt(), &messages(&[&TRACE.replace("00-4", "01-4").replace("-01", "-03-later")])).is_some());
    }

    #[test]
    fn a_batch_has_a_trace_of_its_own_and_a_link_for_each_message() {
        let mut batch = attempt();
        batch["message_ids"] = json!([1, 2, 3, 4]);
        let unsampled = TRACE.replace("-01", "-00").replace("4bf9", "5bf9");
        let span = span(&batch, &messages(&[TRACE, &unsampled, "no trace"])).unwrap();
        assert_eq!((span.links.len(), span.parent_span_id.len(), span.trace_id.len()), (2, 0, 16));
        assert_ne!(span.trace_id, span.links[0].trace_id);
        assert_eq!(span.name, "send s");
        let many: Vec<&str> = vec![TRACE; 200];
        batch["message_ids"] = (1..=200).collect();
        let span = super::span(&batch, &messages(&many)).unwrap();
        assert_eq!((span.links.len(), span.dropped_links_count), (MAX_LINKS, 72));
    }

    #[test]
    fn an_attempt_has_the_same_ids_each_time_and_another_has_others() {
        let id = |attempt: &Value| span(attempt, &messages(&[TRACE])).unwrap().span_id;
        assert_eq!(id(&attempt()), id(&attempt()));
        for name in ["attempt", "run", "subscription_id", "started_us"] {
            let mut other = attempt();
            other[name] = json!(99);
            assert_ne!(id(&attempt()), id(&other), "{name}");
        }
    }
}
