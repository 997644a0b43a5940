//! Topic names: dot-separated words, `order.payment.completed`.

use crate::error::{Error, Result};

/// Longest topic, in bytes.
pub const MAX_LENGTH: usize = 255;

/// The topic of the messages that make a change to a subscription take effect at a position.
pub const CONTROL: &str = "outbox.control";

/// Whether a byte may stand in a word of a topic: ASCII letters, digits, `_`, `-`, `:` and `/`.
pub(crate) const fn is_word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b':' | b'/')
}

/// Whether pg_outbox keeps a topic for itself: everything below the word `outbox`.
pub fn is_reserved(topic: &str) -> bool {
    topic == "outbox" || topic.starts_with("outbox.")
}

/// Checks a topic that somebody publishes to: 1 to 255 bytes, non-empty words of ASCII letters, digits, `_`, `-`, `:`
/// and `/`, separated by single dots, not below the reserved word `outbox`.
///
/// # Errors
/// 22023 with what is wrong in the detail.
pub fn validate(topic: &str) -> Result<()> {
    validate_form(topic)?;
    if is_reserved(topic) {
        return Err(Error::invalid(format!("topic \"{topic}\" is reserved"))
            .detail("Topics below \"outbox\" carry pg_outbox's own control messages and announcements.")
            .hint("Choose another first word."));
    }
    Ok(())
}

/// Checks the form of a topic, reserved or not.
///
/// # Errors
/// 22023 with what is wrong in the detail.
pub fn validate_form(topic: &str) -> Result<()> {
    // The common case first, without building anything.
    let mut word = 0;
    let well_formed = topic.len() <= MAX_LENGTH
        && topic.bytes().all(|b| {
            word = if b == b'.' { 0 } else { word + 1 };
            if b == b'.' { true } else { is_word_byte(b) }
        })
        && word > 0
        && !topic.starts_with('.')
        && !topic.contains("..");
    if well_formed {
        return Ok(());
    }
    let detail = if topic.is_empty() {
        "The topic is empty.".to_owned()
    } else if topic.len() > MAX_LENGTH {
        format!("The topic has {} bytes; the limit is {MAX_LENGTH}.", topic.len())
    } else if let Some(c) = topic.chars().find(|c| *c != '.' && !u8::try_from(*c).is_ok_and(is_word_byte)) {
        format!("The character {c:?} is not allowed.")
    } else {
        "There is an empty word.".to_owned()
    };
    Err(Error::invalid(format!("malformed topic \"{}\"", topic.chars().take(64).collect::<String>()))
        .detail(detail)
        .hint("A topic is words of letters, digits, \"_\", \"-\", \":\" and \"/\", separated by dots: \"order.payment.completed\"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_words_and_dots() {
        for topic in ["a", "order.created", "order.payment.completed.v1", "Order_1.a-b.c:d/e", &"x".repeat(255)] {
            assert_eq!(validate(topic), Ok(()), "{topic}");
        }
    }

    #[test]
    fn names_what_is_wrong() {
        for (topic, detail) in [
            ("", "The topic is empty."),
            (".a", "There is an empty word."),
            ("a.", "There is an empty word."),
            ("a..b", "There is an empty word."),
            ("a b", "The character ' ' is not allowed."),
            ("a.*", "The character '*' is not allowed."),
            ("ä", "The character 'ä' is not allowed."),
        ] {
            let error = validate(topic).unwrap_err();
            assert_eq!(error.detail.as_deref(), Some(detail), "{topic}");
        }
        assert!(validate(&"x".repeat(256)).is_err());
    }

    #[test]
    fn keeps_its_own_word() {
        assert!(validate("outbox").is_err());
        assert!(validate("outbox.endpoint.disabled").is_err());
        assert_eq!(validate("outboxes.a"), Ok(()));
        assert_eq!(validate_form(CONTROL), Ok(()));
    }
}
