//! Templates for topics that depend on the tenant, for example `{tenant}.{topic}`.

use crate::error::{Error, Result};
use crate::topic::{MAX_LENGTH, is_word_byte};

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Tenant,
    Topic,
}

/// A parsed template, as a list of pieces from left to right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicTemplate(Vec<Piece>);

impl TopicTemplate {
    /// Parses a template of up to 255 bytes. A template consists of characters of topics, `{tenant}` and `{topic}`;
    /// `{topic}` must occur.
    ///
    /// # Errors
    /// 22023; the detail says what is wrong.
    pub fn parse(text: &str) -> Result<TopicTemplate> {
        let refuse = |detail: String| {
            Error::invalid(format!("malformed topic template \"{}\"", text.chars().take(64).collect::<String>()))
                .detail(detail)
                .hint("A template is a topic in which {tenant} and {topic} stand for those of the message: \"{tenant}.{topic}\".")
        };
        if text.len() > MAX_LENGTH {
            return Err(refuse(format!("The template has {} bytes; the limit is {MAX_LENGTH}.", text.len())));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if first == '{' {
                let Some(end) = rest.find('}') else { return Err(refuse("A brace is not closed.".to_owned())) };
                pieces.push(match &rest[..=end] {
                    "{tenant}" => Piece::Tenant,
                    "{topic}" => Piece::Topic,
                    other => return Err(refuse(format!("{other} stands for nothing."))),
                });
                rest = &rest[end + 1..];
            } else {
                let end = rest.find('{').unwrap_or(rest.len());
                if let Some(c) = rest[..end].chars().find(|c| *c != '.' && !u8::try_from(*c).is_ok_and(is_word_byte)) {
                    return Err(refuse(format!("The character {c:?} is not allowed.")));
                }
                pieces.push(Piece::Text(rest[..end].to_owned()));
                rest = &rest[end..];
            }
        }
        if !pieces.contains(&Piece::Topic) {
            return Err(refuse("{topic} does not occur.".to_owned()));
        }
        Ok(TopicTemplate(pieces))
    }

    /// Returns the topic of a message. `None` if the template contains `{tenant}` and the message has no tenant.
    pub fn fill(&self, tenant: Option<&str>, topic: &str) -> Option<String> {
        let mut filled = String::new();
        for piece in &self.0 {
            filled.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Tenant => tenant?,
                Piece::Topic => topic,
            });
        }
        Some(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_tenant_and_topic() {
        let template = TopicTemplate::parse("t.{tenant}.{topic}").unwrap();
        assert_eq!(template.fill(Some("acme"), "order.created").as_deref(), Some("t.acme.order.created"));
        assert_eq!(template.fill(None, "order.created"), None);
        assert_eq!(TopicTemplate::parse("x.{topic}").unwrap().fill(None, "a").as_deref(), Some("x.a"));
    }

    #[test]
    fn names_what_is_wrong() {
        for (template, detail) in [
            ("{tenant}", "{topic} does not occur."),
            ("", "{topic} does not occur."),
            ("{topic", "A brace is not closed."),
            ("{user}.{topic}", "{user} stands for nothing."),
            ("a b.{topic}", "The character ' ' is not allowed."),
            ("}.{topic}", "The character '}' is not allowed."),
            (&"{topic}".repeat(40), "The template has 280 bytes; the limit is 255."),
        ] {
            assert_eq!(TopicTemplate::parse(template).unwrap_err().detail.as_deref(), Some(detail), "{template}");
        }
    }
}
