//! Records: messages as they are sent to a broker, with the marks by which a consumer drops repeats.

use bytes::Bytes;
use http::HeaderMap;
use outbox_core::format::{self, Format as HttpFormat};
use outbox_core::message::Message;
use serde::Deserialize;
use serde_json::Value;

use crate::source::Place;

/// The layout of a record.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Format {
    /// The payload is the body, and the attributes of CloudEvents 1.0 are headers (binary mode).
    #[default]
    Cloudevents,
    /// The body is a CloudEvent (structured mode).
    CloudeventsStructured,
    /// The body is an object that contains the payload.
    Envelope,
    /// The payload is the body.
    Raw,
    /// The layout of Debezium's event router: the payload is the body, and the header `id` is the id.
    Debezium,
}

/// How a broker names the attributes of CloudEvents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    /// The text before the name of an attribute.
    pub(crate) prefix: &'static str,
    /// Whether header values are percent-encoded to ASCII, as in HTTP.
    pub(crate) ascii: bool,
    /// Whether the key is a header, because the broker has no field for it.
    pub(crate) key_header: bool,
}

/// A message as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) epoch: i32,
    pub(crate) position: i64,
    pub(crate) webhook_id: String,
    /// Topic, subject or stream.
    pub(crate) topic: String,
    pub(crate) key: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

/// The header with the source of a message.
pub(crate) const SOURCE: &str = "outbox-source";
/// The header with the name of the relay.
pub(crate) const RELAY: &str = "outbox-relay";
/// The header with the epoch of a position.
pub(crate) const EPOCH: &str = "outbox-epoch";
/// The header with the position of a message.
pub(crate) const POSITION: &str = "outbox-position";
/// The header with the webhook id.
pub(crate) const ID: &str = "webhook-id";
/// The header with the reason why a dead letter was refused.
pub(crate) const REFUSAL: &str = "outbox-refusal";

/// How messages of one relay become records.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) format: Format,
    pub(crate) binding: Binding,
    pub(crate) source: String,
    pub(crate) relay: String,
}

impl Layout {
    /// Makes the record of a message. The error says why the message cannot be sent.
    pub(crate) fn record(&self, message: &Message, epoch: i32, topic: String) -> Result<Record, String> {
        let mut headers = Vec::with_capacity(16);
        for (name, value) in message.extra().headers.iter().flat_map(|map| map.iter()) {
            let value = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            self.put(&mut headers, name, &value);
        }
        let mut of_format = HeaderMap::new();
        let (http, trace) = match self.format {
            Format::Cloudevents | Format::Debezium | Format::Raw => (HttpFormat::Raw, true),
            Format::CloudeventsStructured => (HttpFormat::CloudEventsStructured, false),
            Format::Envelope => (HttpFormat::Envelope, false),
        };
        let rendered = format::single(http, message, &self.source, &mut of_format)?;
        for (name, value) in &of_format {
            let metadata = name.as_str().starts_with("outbox-meta-");
            if let (Ok(value), true) = (value.to_str(), trace && (self.format == Format::Raw || !metadata)) {
                // The value is encoded already. A header of the message itself wins.
                if !headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name.as_str())) {
                    headers.push((name.as_str().to_owned(), value.to_owned()));
                }
            }
        }
        match self.format {
            Format::Cloudevents => format::attributes(message, &self.source, &mut |name, value| {
                self.put(&mut headers, &format!("{}{name}", self.binding.prefix), value);
            }),
            Format::Debezium => self.put(&mut headers, "id", &message.webhook_id),
            _ => {}
        }
        if let Ok(content_type) = rendered.content_type.to_str() {
            self.put(&mut headers, "content-type", content_type);
        }
        self.put(&mut headers, ID, &message.webhook_id);
        self.put(&mut headers, SOURCE, &self.source);
        self.put(&mut headers, RELAY, &self.relay);
        self.put(&mut headers, EPOCH, &epoch.to_string());
        self.put(&mut headers, POSITION, &message.position.to_string());
        let key = message.key.as_deref().map(str::to_owned);
        if let (Some(key), true) = (&key, self.binding.key_header) {
            self.put(&mut headers, "outbox-key", key);
        }
        Ok(Record {
            epoch,
            position: message.position,
            webhook_id: message.webhook_id.to_string(),
            topic,
            key,
            headers,
            body: rendered.body,
        })
    }

    /// Adds a header, or replaces it: the marks of the relay cannot be forged by a message.
    fn put(&self, headers: &mut Vec<(String, String)>, name: &str, value: &str) {
        let value = match value {
            value if self.binding.ascii => format::encode(value).into_owned(),
            value if value.contains('\0') => value.replace('\0', ""),
            value => value.to_owned(),
        };
        headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        headers.push((name.to_owned(), value));
    }
}

impl Record {
    /// Returns the place of the message in the feed.
    pub(crate) fn place(&self) -> Place {
        Place { epoch: self.epoch, position: self.position }
    }

    /// Returns the value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the size in bytes that brokers count: body, key and headers.
    pub(crate) fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        self.body.len() + self.key.as_deref().map_or(0, str::len) + headers + 64
    }

    /// Returns the record as a dead letter. A body that makes it larger than `limit` is left out.
    pub(crate) fn dead_letter(mut self, topic: &str, reason: &str, limit: usize) -> Record {
        topic.clone_into(&mut self.topic);
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(500).collect();
        self.headers.push((REFUSAL.to_owned(), format::ascii(&reason).into_owned()));
        if self.size() > limit {
            self.body = Bytes::new();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outbox_core::message::Extra;
    use serde_json::json;

    use super::*;

    fn message() -> Message {
        let headers = json!({"x-a": "1", "outbox-position": "99"});
        let Value::Object(headers) = headers else { unreachable!() };
        Message {
            position: 42,
            topic: "order.created".into(),
            key: Some("käse".into()),
            content: Bytes::from_static(b"{\"n\": 1}"),
            webhook_id: "msg_7_1".into(),
            extra: Some(Box::new(Extra { headers: Some(Arc::new(headers)), ..Extra::default() })),
            ..Message::default()
        }
    }

    fn layout(format: Format, prefix: &'static str, ascii: bool) -> Layout {
        let (source, relay) = ("/pg_outbox/1/shop".to_owned(), "orders".to_owned());
        Layout { format, binding: Binding { prefix, ascii, key_header: ascii }, source, relay }
    }

    fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
        record.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn every_format_carries_the_marks_and_a_message_cannot_forge_them() {
        for format in
            [Format::Cloudevents, Format::CloudeventsStructured, Format::Envelope, Format::Raw, Format::Debezium]
        {
            let record = layout(format, "ce-", true).record(&message(), 3, "t".to_owned()).unwrap();
            for (name, value) in [
                (ID, "msg_7_1"),
                (SOURCE, "/pg_outbox/1/shop"),
                (RELAY, "orders"),
                (EPOCH, "3"),
                (POSITION, "42"),
                ("x-a", "1"),
                ("outbox-key", "k%C3%A4se"),
            ] {
                assert_eq!(header(&record, name), Some(value), "{format:?} {name}");
            }
            assert_eq!(record.headers.iter().filter(|(name, _)| name == POSITION).count(), 1);
        }
    }

    #[test]
    fn cloudevents_follow_the_binding_of_the_broker() {
        let nats = layout(Format::Cloudevents, "ce-", true).record(&message(), 1, "t".to_owned()).unwrap();
        assert_eq!(header(&nats, "ce-subject"), Some("k%C3%A4se"));
        let kafka = layout(Format::Cloudevents, "ce_", false).record(&message(), 1, "t".to_owned()).unwrap();
        assert_eq!(header(&kafka, "ce_subject"), Some("käse"));
        assert_eq!(header(&kafka, "outbox-key"), None);
        assert_eq!(header(&kafka, "content-type"), Some("application/json"));
        assert_eq!(&kafka.body[..], b"{\"n\": 1}");
        let event = layout(Format::CloudeventsStructured, "ce_", false).record(&message(), 1, "t".to_owned()).unwrap();
        assert_eq!(header(&event, "content-type"), Some("application/cloudevents+json"));
        assert_eq!(serde_json::from_slice::<Value>(&event.body).unwrap()["id"], "msg_7_1");
    }

    #[test]
    fn debezium_has_the_id_in_the_header_id() {
        let record = layout(Format::Debezium, "ce_", false).record(&message(), 1, "t".to_owned()).unwrap();
        assert_eq!((header(&record, "id"), &record.body[..]), (Some("msg_7_1"), &b"{\"n\": 1}"[..]));
    }

    #[test]
    fn a_dead_letter_that_is_too_large_has_no_body() {
        let record = layout(Format::Raw, "ce_", false).record(&message(), 1, "t".to_owned()).unwrap();
        assert!(!record.clone().dead_letter("d", "why", 10_000).body.is_empty());
        let small = record.dead_letter("d", "why\n", 10);
        assert_eq!((small.body.len(), header(&small, REFUSAL), small.topic.as_str()), (0, Some("why"), "d"));
    }
}
