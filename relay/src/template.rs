//! Templates for the topic, subject or stream that a message goes to, for example `shop.{topic}`.

use outbox_core::message::Message;
use pg_outbox::error::{Error, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Topic,
    Tenant,
    Key,
    AggregateType,
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

impl Template {
    /// Parses a template of 1 to 255 bytes: text, `{topic}`, `{tenant}`, `{key}` and `{aggregate_type}`.
    pub(crate) fn parse(text: &str) -> Result<Template> {
        let refuse = |detail: String| {
            Error::invalid(format!("malformed topic \"{}\"", text.chars().take(64).collect::<String>()))
                .detail(detail)
                .hint("{topic}, {tenant}, {key} and {aggregate_type} stand for those of the message.")
        };
        if text.is_empty() || text.len() > 255 || text.chars().any(char::is_control) {
            return Err(refuse("A topic has 1 to 255 bytes and no control characters.".to_owned()));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if rest.starts_with('{') {
                let Some(end) = rest.find('}') else { return Err(refuse("A brace is not closed.".to_owned())) };
                pieces.push(match &rest[..=end] {
                    "{topic}" => Piece::Topic,
                    "{tenant}" => Piece::Tenant,
                    "{key}" => Piece::Key,
                    "{aggregate_type}" => Piece::AggregateType,
                    other => return Err(refuse(format!("{other} stands for nothing."))),
                });
                rest = &rest[end + 1..];
            } else {
                let end = rest.find('{').unwrap_or(rest.len());
                pieces.push(Piece::Text(rest[..end].to_owned()));
                rest = &rest[end..];
            }
        }
        Ok(Template(pieces))
    }

    /// Returns the topic if it is the same for every message.
    #[cfg_attr(not(any(feature = "aws", feature = "kafka")), allow(dead_code))]
    pub(crate) fn constant(&self) -> Option<&str> {
        match &self.0[..] {
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Fills the template in. The error says what the message lacks.
    pub(crate) fn fill(&self, message: &Message) -> std::result::Result<String, String> {
        let extra = message.extra();
        let mut filled = String::new();
        for piece in &self.0 {
            let (name, value) = match piece {
                Piece::Text(text) => ("", Some(text.as_str())),
                Piece::Topic => ("topic", Some(&*message.topic)),
                Piece::Tenant => ("tenant", extra.tenant.as_deref()),
                Piece::Key => ("key", message.key.as_deref()),
                Piece::AggregateType => ("aggregate type", extra.aggregate_type.as_deref()),
            };
            filled.push_str(value.ok_or_else(|| format!("the topic needs the {name} of the message, which has none"))?);
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::message::Extra;

    use super::*;

    #[test]
    fn a_template_is_filled_in_or_says_what_is_missing() {
        let extra = Extra { tenant: Some("acme".into()), ..Extra::default() };
        let message = Message { topic: "order.created".into(), extra: Some(Box::new(extra)), ..Message::default() };
        let fill = |text: &str| Template::parse(text).unwrap().fill(&message);
        assert_eq!(fill("orders").unwrap(), "orders");
        assert_eq!(fill("t.{tenant}.{topic}").unwrap(), "t.acme.order.created");
        assert!(fill("outbox.event.{aggregate_type}").unwrap_err().contains("aggregate type"));
    }

    #[test]
    fn a_malformed_template_is_refused() {
        for wrong in ["", "{topic", "{user}", "a\nb", &"x".repeat(256)] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }
}
