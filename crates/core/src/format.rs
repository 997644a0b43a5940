//! The formats of a request: its body, its content type and its own headers, for one message or for a batch.
//!
//! - `raw`: the payload is the body.
//! - `envelope`: the body is a JSON object that contains the payload.
//! - `cloudevents`: CloudEvents 1.0 in HTTP binary mode.
//! - `cloudevents_structured`: CloudEvents 1.0 in the JSON event format.
//! - `pubsub`: the DataMessage of publish/subscribe services.
//!
//! A batch is a JSON array of elements of the same format (`application/cloudevents-batch+json` for CloudEvents).

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::message::{Extra, Message};

/// The format of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// The payload is the body.
    #[default]
    Raw,
    /// The body is a JSON object that contains the payload.
    Envelope,
    /// CloudEvents with the attributes as headers.
    CloudEvents,
    /// CloudEvents with the attributes in the body.
    CloudEventsStructured,
    /// A DataMessage.
    PubSub,
}

impl Format {
    /// Reads the name of a format.
    pub fn parse(text: &str) -> Option<Format> {
        Some(match text {
            "raw" => Format::Raw,
            "envelope" => Format::Envelope,
            "cloudevents" => Format::CloudEvents,
            "cloudevents_structured" => Format::CloudEventsStructured,
            "pubsub" => Format::PubSub,
            _ => return None,
        })
    }
}

/// A request without the parts that belong to the connection and to the signature.
#[derive(Debug)]
pub struct Rendered {
    /// The body.
    pub body: Bytes,
    /// The content type of the body.
    pub content_type: HeaderValue,
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Renders one message. Headers that belong to the format and to the message are added to `headers`. `source` is the
/// `source` attribute of CloudEvents.
///
/// # Errors
/// A text that says why the message cannot be sent.
pub fn single(format: Format, message: &Message, source: &str, headers: &mut HeaderMap) -> Result<Rendered, String> {
    trace_headers(message, headers);
    match format {
        Format::Raw => {
            if let Some(extra) = message.extra.as_deref() {
                metadata_headers(extra, headers);
            }
            verbatim(message)
        }
        Format::CloudEvents => {
            attributes(message, source, &mut |name, value| {
                let name = HeaderName::try_from(format!("ce-{name}"));
                if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&encode(value))) {
                    headers.insert(name, value);
                }
            });
            verbatim(message)
        }
        Format::Envelope | Format::CloudEventsStructured | Format::PubSub => {
            let mut body = String::with_capacity(message.content.len() + 512);
            element(format, message, source, &mut body);
            let content_type = match format {
                Format::CloudEventsStructured => HeaderValue::from_static("application/cloudevents+json"),
                _ => JSON,
            };
            Ok(Rendered { body: body.into(), content_type })
        }
    }
}

/// Renders a batch as a JSON array.
pub fn batch<'a>(format: Format, messages: impl Iterator<Item = &'a Message>, source: &str) -> Rendered {
    let mut body = String::from("[");
    for message in messages {
        if body.len() > 1 {
            body.push(',');
        }
        element(format, message, source, &mut body);
    }
    body.push(']');
    let content_type = match format {
        Format::CloudEvents | Format::CloudEventsStructured => {
            HeaderValue::from_static("application/cloudevents-batch+json")
        }
        _ => JSON,
    };
    Rendered { body: body.into(), content_type }
}

/// Returns the webhook id of a batch. The same messages always have the same id.
pub fn batch_id(first: &Message, last: &Message, count: usize) -> String {
    let tail = last.webhook_id.strip_prefix("msg_").unwrap_or(&last.webhook_id);
    format!("{}_{tail}_{count}", first.webhook_id.replacen("msg_", "batch_", 1))
}

/// Renders the content unchanged.
fn verbatim(message: &Message) -> Result<Rendered, String> {
    let content_type = match message.content_type.as_deref() {
        None => JSON,
        Some(other) => other.parse().map_err(|_| "the content type cannot be a header value".to_owned())?,
    };
    Ok(Rendered { body: message.content.clone(), content_type })
}

/// Appends one message as a JSON value.
fn element(format: Format, message: &Message, source: &str, to: &mut String) {
    match format {
        Format::Raw => {
            to.push_str(&json_content(message).unwrap_or_else(|| string(&STANDARD.encode(&message.content)).into()))
        }
        Format::Envelope => envelope(message, to),
        Format::PubSub => pubsub(message, to),
        Format::CloudEvents | Format::CloudEventsStructured => {
            let mut object = Object::begin(to);
            attributes(message, source, &mut |name, value| object.text(name, value));
            object.text("datacontenttype", message.content_type.as_deref().unwrap_or("application/json"));
            match json_content(message) {
                Some(json) => object.raw("data", &json),
                None => object.text("data_base64", &STANDARD.encode(&message.content)),
            }
            object.end();
        }
    }
}

/// Returns the content as JSON text if the content is JSON. A payload is always JSON. A body counts as JSON if its content
/// type says so and its text is well-formed.
fn json_content(message: &Message) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(&message.content);
    match message.content_type.as_deref() {
        None => text.ok().map(Cow::Borrowed),
        Some(kind) => {
            let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            let json = essence == "application/json" || essence == "text/json" || essence.ends_with("+json");
            text.ok()
                .filter(|text| json && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
                .map(Cow::Borrowed)
        }
    }
}

/// Appends a message as an envelope with the fields event, schema_version, idempotency_key, trace_id, correlation_id,
/// tenant_id, occurred_at, producer, version, event_id, privacy, payload and metadata. Fields without a value are left out. `metadata` holds
/// the entries of the message's metadata that have no field of their own.
fn envelope(message: &Message, to: &mut String) {
    const OWN: [&str; 4] = ["schema_version", "correlation_id", "traceparent", "privacy"];
    let extra = message.extra();
    let mut object = Object::begin(to);
    object.text("event", &message.topic);
    object.raw("schema_version", &schema_version(message).to_string());
    object.text("idempotency_key", extra.idempotency_key.as_deref().unwrap_or(&message.webhook_id));
    object.option("trace_id", trace_id(extra));
    object.option("correlation_id", text_of(extra, "correlation_id").as_deref());
    object.option("tenant_id", extra.tenant.as_deref());
    object.text("occurred_at", &rfc3339(extra.occurred_at.unwrap_or(message.enqueued_at)));
    object.option("producer", extra.publisher.as_deref());
    if let Some(version) = extra.version {
        object.raw("version", &version.to_string());
    }
    object.option("event_id", extra.event_id.as_deref());
    let given = extra.metadata.as_ref();
    // enqueue_event() writes the metadata entry "privacy" as {pii, fields, consent}.
    let mut privacy = given.and_then(|m| m.get("privacy")).and_then(Value::as_object).cloned().unwrap_or_default();
    privacy.entry("pii").or_insert(Value::Bool(false));
    object.raw("privacy", &Value::Object(privacy).to_string());
    match json_content(message) {
        Some(json) => object.raw("payload", &json),
        None => {
            object.text("payload", &STANDARD.encode(&message.content));
            object.option("content_type", message.content_type.as_deref());
        }
    }
    let rest: Map<String, Value> = given
        .into_iter()
        .flatten()
        .filter(|(name, _)| !OWN.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !rest.is_empty() {
        object.raw("metadata", &Value::Object(rest).to_string());
    }
    object.end();
}

/// Appends a message as a DataMessage. The content is base64-encoded; the headers become attributes.
fn pubsub(message: &Message, to: &mut String) {
    let extra = message.extra();
    let mut object = Object::begin(to);
    object.text("messageID", &message.webhook_id);
    object.text("publishTime", &rfc3339(message.enqueued_at));
    object.text("orderingKey", message.key.as_deref().unwrap_or_default());
    let mut attributes = extra.headers.as_deref().cloned().unwrap_or_default();
    attributes.insert("topic".into(), Value::String(message.topic.to_string()));
    attributes.insert("position".into(), Value::String(message.position.to_string()));
    let mut add = |name: &str, value: Option<Cow<'_, str>>| {
        if let Some(value) = value {
            attributes.insert(name.into(), Value::String(value.into_owned()));
        }
    };
    add("tenant", extra.tenant.as_deref().map(Cow::Borrowed));
    add("version", extra.version.map(|version| Cow::Owned(version.to_string())));
    add("event_id", extra.event_id.as_deref().map(Cow::Borrowed));
    add("content_type", message.content_type.as_deref().map(Cow::Borrowed));
    for name in ["traceparent", "tracestate", "correlation_id", "causation_id"] {
        add(name, text_of(extra, name));
    }
    object.raw("attributes", &Value::Object(attributes).to_string());
    object.text("identifier", message.key.as_deref().unwrap_or_default());
    object.text("data", &STANDARD.encode(&message.content));
    object.end();
}

/// Returns the default source of a database's events. No two clusters and no two databases have the same source. The
/// source is a valid URI reference for every name of a database.
pub fn default_source(system_identifier: u64, database: &str) -> String {
    format!("/pg_outbox/{system_identifier}/{}", uri_segment(database))
}

/// Emits the context attributes of CloudEvents 1.0, the extensions `sequence`, `partitionkey` and distributed tracing,
/// and the extensions of pg_outbox.
pub fn attributes(message: &Message, source: &str, put: &mut dyn FnMut(&str, &str)) {
    let extra = message.extra();
    put("specversion", "1.0");
    put("id", &message.webhook_id);
    match extra.publisher.as_deref() {
        Some(publisher) => put("source", &format!("{source}/{}", uri_segment(publisher))),
        None => put("source", source),
    }
    put("type", &message.topic);
    put("time", &rfc3339(extra.occurred_at.unwrap_or(message.enqueued_at)));
    put("sequence", &message.position.to_string());
    let mut option = |name: &str, value: Option<Cow<'_, str>>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            put(name, &clean(&value));
        }
    };
    option("subject", message.key.as_deref().map(Cow::Borrowed));
    option("partitionkey", message.key.as_deref().map(Cow::Borrowed));
    option("tenant", extra.tenant.as_deref().map(Cow::Borrowed));
    option("aggregatetype", extra.aggregate_type.as_deref().map(Cow::Borrowed));
    option("aggregateid", extra.aggregate_id.as_deref().map(Cow::Borrowed));
    option("version", extra.version.map(|version| Cow::Owned(version.to_string())));
    option("eventid", extra.event_id.as_deref().map(Cow::Borrowed));
    option("idempotencykey", extra.idempotency_key.as_deref().map(Cow::Borrowed));
    option("traceparent", text_of(extra, "traceparent"));
    option("tracestate", text_of(extra, "tracestate"));
    option("correlationid", text_of(extra, "correlation_id"));
    option("causationid", text_of(extra, "causation_id"));
}

/// Removes control characters, which CloudEvents does not allow in strings.
fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.chars().filter(|c| !c.is_control()).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Adds the trace headers of the transaction that enqueued the message, unless the message has these headers itself.
fn trace_headers(message: &Message, headers: &mut HeaderMap) {
    let extra = message.extra();
    if extra.metadata.is_none() {
        return;
    }
    for name in ["traceparent", "tracestate"] {
        if !headers.contains_key(name)
            && let Some(value) = text_of(extra, name).and_then(|value| HeaderValue::from_str(&value).ok())
        {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Adds the scalar entries of the metadata as headers `outbox-meta-<name>`.
fn metadata_headers(extra: &Extra, headers: &mut HeaderMap) {
    for (name, value) in extra.metadata.iter().flatten() {
        if matches!(name.as_str(), "traceparent" | "tracestate") {
            continue;
        }
        let text = match value {
            Value::String(text) => Cow::Borrowed(text.as_str()),
            Value::Number(_) | Value::Bool(_) => Cow::Owned(value.to_string()),
            _ => continue,
        };
        let name = HeaderName::try_from(format!("outbox-meta-{}", name.replace('_', "-").to_ascii_lowercase()));
        // Servers commonly limit the head of a request to 8 kB or more in all, so long values are left out.
        if let (Ok(name), true, Ok(value)) = (name, text.len() <= 1024, HeaderValue::from_str(&encode(&text))) {
            headers.insert(name, value);
        }
    }
}

/// Encodes text as a header value. Space, quote, percent sign and all bytes that are not printable ASCII are percent-encoded
/// (CloudEvents HTTP binding, 3.1.3.2).
pub fn encode(text: &str) -> Cow<'_, str> {
    let plain = |b: u8| (0x21..=0x7e).contains(&b) && b != b'"' && b != b'%';
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 16);
    for b in text.bytes() {
        if plain(b) {
            encoded.push(b as char);
        } else {
            let _ = write!(encoded, "%{b:02X}");
        }
    }
    Cow::Owned(encoded)
}

/// Encodes text as a header value. ASCII stays unchanged; all other bytes are percent-encoded.
pub fn ascii(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() + 16);
    for b in text.bytes() {
        if b.is_ascii() {
            encoded.push(b as char);
        } else {
            let _ = write!(encoded, "%{b:02X}");
        }
    }
    Cow::Owned(encoded)
}

/// Encodes text as one segment of a URI's path (RFC 3986). Unreserved characters, `@` and `:` stay unchanged.
fn uri_segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~@:".contains(&b) {
            encoded.push(b as char);
        } else {
            let _ = write!(encoded, "%{b:02X}");
        }
    }
    encoded
}

/// Returns the version of the payload's schema: the `schema_version` of the metadata, else the `.vN` at the end of the
/// topic, else 1.
fn schema_version(message: &Message) -> u64 {
    let given = message.extra().metadata.as_ref().and_then(|m| m.get("schema_version"));
    let given = given.and_then(|v| v.as_u64().or_else(|| v.as_str()?.trim_start_matches('v').parse().ok()));
    let suffix = || message.topic.rsplit_once(".v").and_then(|(_, n)| n.parse().ok());
    given.or_else(suffix).unwrap_or(1)
}

/// Returns the trace id of a W3C traceparent.
fn trace_id(extra: &Extra) -> Option<&str> {
    let parent = extra.metadata.as_ref()?.get("traceparent")?.as_str()?;
    let id = parent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

/// Returns an entry of the metadata as text.
fn text_of<'a>(extra: &'a Extra, name: &str) -> Option<Cow<'a, str>> {
    match extra.metadata.as_ref()?.get(name)? {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Null => None,
        other => Some(Cow::Owned(other.to_string())),
    }
}

/// Formats microseconds since 1970 as RFC 3339 in UTC. The date is computed as in Howard Hinnant's "chrono-compatible
/// low-level date algorithms" (civil_from_days).
///
/// Times before or after the years that RFC 3339 can express become the first or the last time that it can express.
pub fn rfc3339(micros: i64) -> String {
    let micros = micros.clamp(-62_167_219_200_000_000, 253_402_300_799_999_999);
    let (days, rest) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{fraction:06}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Returns a string as JSON text.
fn string(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// Writes a JSON object without an intermediate tree. The payload is copied as the text that is stored.
struct Object<'a> {
    to: &'a mut String,
    empty: bool,
}

impl<'a> Object<'a> {
    fn begin(to: &'a mut String) -> Object<'a> {
        to.push('{');
        Object { to, empty: true }
    }

    fn raw(&mut self, name: &str, json: &str) {
        if !std::mem::take(&mut self.empty) {
            self.to.push(',');
        }
        let _ = write!(self.to, "\"{name}\":{json}");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.raw(name, &string(value));
    }

    fn option(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    fn end(self) {
        self.to.push('}');
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn message() -> Message {
        Message {
            id: 7,
            position: 42,
            enqueued_at: 1_763_000_000_123_456,
            topic: "order.created.v3".into(),
            key: Some("käse 1".into()),
            content: Bytes::from_static(br#"{"n": 1}"#),
            content_type: None,
            webhook_id: "msg_7_1".into(),
            extra: None,
        }
    }

    fn rich() -> Message {
        let metadata = json!({
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "correlation_id": "c-1",
            "privacy": {"pii": true, "fields": ["email"], "consent": {"mail": true}}, "shop": "eu", "n": 5
        });
        let Value::Object(metadata) = metadata else { unreachable!() };
        let extra = Extra {
            headers: Some(Arc::new([("x-a".to_owned(), json!("1"))].into_iter().collect())),
            metadata: Some(metadata),
            tenant: Some("acme".into()),
            publisher: Some("shop@1.2.3".into()),
            idempotency_key: Some("i-1".into()),
            occurred_at: Some(0),
            version: Some(7),
            event_id: Some("a0000000-0000-0000-0000-000000000001".into()),
            ..Extra::default()
        };
        Message { extra: Some(Box::new(extra)), ..message() }
    }

    fn render(format: Format, message: &Message) -> (Value, HeaderMap, HeaderValue) {
        let mut headers = HeaderMap::new();
        let rendered = single(format, message, "/pg_outbox/shop", &mut headers).unwrap();
        (serde_json::from_slice(&rendered.body).unwrap(), headers, rendered.content_type)
    }

    #[test]
    fn the_default_source_is_a_uri_reference_of_cluster_and_database() {
        assert_eq!(default_source(7_577_012_345_678_901_234, "shop"), "/pg_outbox/7577012345678901234/shop");
        assert_eq!(default_source(1, "a \"b\"/c?d#é%"), "/pg_outbox/1/a%20%22b%22%2Fc%3Fd%23%C3%A9%25");
    }

    #[test]
    fn raw_is_the_payload_itself() {
        let (body, headers, kind) = render(Format::Raw, &message());
        assert_eq!((body, headers.len(), kind), (json!({"n": 1}), 0, JSON));
        let (_, headers, _) = render(Format::Raw, &rich());
        assert_eq!(headers["outbox-meta-shop"], "eu");
        assert_eq!(headers["outbox-meta-n"], "5");
        assert_eq!(headers["outbox-meta-correlation-id"], "c-1");
        assert_eq!(headers["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    }

    #[test]
    fn an_envelope_has_a_value_for_everything_that_must_not_be_empty() {
        let (body, _, _) = render(Format::Envelope, &message());
        assert_eq!(
            body,
            json!({
                "event": "order.created.v3", "schema_version": 3, "idempotency_key": "msg_7_1",
                "occurred_at": "2025-11-13T02:13:20.123456Z", "privacy": {"pii": false}, "payload": {"n": 1}
            })
        );
        let (body, _, _) = render(Format::Envelope, &rich());
        assert_eq!(
            body,
            json!({
                "event": "order.created.v3", "schema_version": 3, "idempotency_key": "i-1",
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "correlation_id": "c-1", "tenant_id": "acme",
                "occurred_at": "1970-01-01T00:00:00.000000Z", "producer": "shop@1.2.3", "version": 7,
                "event_id": "a0000000-0000-0000-0000-000000000001",
                "privacy": {"pii": true, "fields": ["email"], "consent": {"mail": true}}, "payload": {"n": 1},
                "metadata": {"shop": "eu", "n": 5}
            })
        );
        let plain = Message { topic: "a.b".into(), ..message() };
        assert_eq!(render(Format::Envelope, &plain).0["schema_version"], 1);
    }

    #[test]
    fn cloudevents_in_both_modes_say_the_same() {
        let (body, headers, kind) = render(Format::CloudEvents, &rich());
        assert_eq!((body, kind), (json!({"n": 1}), JSON));
        let (event, none, kind) = render(Format::CloudEventsStructured, &rich());
        assert_eq!(kind, "application/cloudevents+json");
        assert!(none.keys().all(|name| !name.as_str().starts_with("ce-")));
        for (name, value) in &headers {
            if let Some(name) = name.as_str().strip_prefix("ce-") {
                assert_eq!(value.to_str().unwrap(), encode(event[name].as_str().unwrap()), "{name}");
            }
        }
        assert_eq!(headers["ce-subject"], "k%C3%A4se%201");
        assert_eq!(event["subject"], "käse 1");
        assert_eq!(event["source"], "/pg_outbox/shop/shop@1.2.3");
        assert_eq!(event["sequence"], "42");
        assert_eq!(
            (&event["version"], &event["eventid"]),
            (&json!("7"), &json!("a0000000-0000-0000-0000-000000000001"))
        );
        assert_eq!(event["data"], json!({"n": 1}));
    }

    #[test]
    fn bytes_are_base64_where_the_body_is_json() {
        let bytes = Message {
            content: Bytes::from_static(&[0, 159, 146, 150]),
            content_type: Some("application/x-test".into()),
            ..message()
        };
        let (event, _, _) = render(Format::CloudEventsStructured, &bytes);
        assert_eq!((&event["data_base64"], &event["data"]), (&json!("AJ+Slg=="), &Value::Null));
        assert_eq!(event["datacontenttype"], "application/x-test");
        assert_eq!(render(Format::Envelope, &bytes).0["payload"], "AJ+Slg==");
        let text =
            Message { content: "[1]".into(), content_type: Some("application/vnd.x+json; a=b".into()), ..message() };
        assert_eq!(render(Format::CloudEventsStructured, &text).0["data"], json!([1]));
        let broken = Message { content: "[1".into(), content_type: Some("application/json".into()), ..message() };
        assert_eq!(render(Format::CloudEventsStructured, &broken).0["data_base64"], "WzE=");
    }

    #[test]
    fn pubsub_is_a_data_message() {
        let (body, _, _) = render(Format::PubSub, &message());
        assert_eq!(
            body,
            json!({
                "messageID": "msg_7_1", "publishTime": "2025-11-13T02:13:20.123456Z", "orderingKey": "käse 1",
                "attributes": {"topic": "order.created.v3", "position": "42"}, "identifier": "käse 1",
                "data": "eyJuIjogMX0="
            })
        );
    }

    #[test]
    fn a_batch_is_an_array_of_the_same() {
        for (format, kind) in [
            (Format::Raw, "application/json"),
            (Format::Envelope, "application/json"),
            (Format::CloudEvents, "application/cloudevents-batch+json"),
            (Format::CloudEventsStructured, "application/cloudevents-batch+json"),
            (Format::PubSub, "application/json"),
        ] {
            let messages = [message(), rich()];
            let rendered = batch(format, messages.iter(), "/s");
            assert_eq!(rendered.content_type, kind);
            let list: Vec<Value> = serde_json::from_slice(&rendered.body).unwrap();
            assert_eq!(list.len(), 2);
        }
        assert_eq!(batch_id(&message(), &rich(), 2), "batch_7_1_7_1_2");
    }

    #[test]
    fn dates() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (4_102_444_799_999_999, "2099-12-31T23:59:59.999999Z"),
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
            (253_402_300_800_000_000, "9999-12-31T23:59:59.999999Z"),
            (i64::MAX, "9999-12-31T23:59:59.999999Z"),
            (-62_167_219_200_000_001, "0000-01-01T00:00:00.000000Z"),
            (i64::MIN, "0000-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(micros), text);
        }
    }

    proptest! {
        #[test]
        fn whatever_the_text_is_the_result_is_json_and_headers_are_valid(
            topic in "[a-z.]{1,20}", key in "\\PC{0,20}", tenant: String, meta: String, name in "\\PC{0,10}", micros: i64,
        ) {
            let extra = Extra {
                tenant: Some(tenant.into()),
                publisher: Some(key.clone().into()),
                metadata: Some([(name, json!(meta))].into_iter().collect()),
                ..Extra::default()
            };
            let message = Message {
                topic: topic.into(), key: Some(key.into()), enqueued_at: micros / 1000,
                extra: Some(Box::new(extra)), ..message()
            };
            for format in
                [Format::Raw, Format::Envelope, Format::CloudEvents, Format::CloudEventsStructured, Format::PubSub]
            {
                let _ = render(format, &message);
                let list = batch(format, [&message, &message].into_iter(), "/s");
                prop_assert_eq!(serde_json::from_slice::<Vec<Value>>(&list.body).unwrap().len(), 2);
            }
        }
    }
}
