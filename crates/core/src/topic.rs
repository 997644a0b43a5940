//! Topic names. A topic is a list of words separated by dots, for example `order.payment.completed`.

use crate::error::{Error, Result};

/// The largest length of a topic, in bytes.
pub const MAX_LENGTH: usize = 255;

/// The topic of control messages. The position of such a message is the position at which a change to a subscription takes
/// effect.
pub const CONTROL: &str = "outbox.control";

/// Returns whether a byte is allowed in a word of a topic. ASCII letters, digits, `_`, `-`, `:` and `/` are.
pub(crate) const fn is_word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b':' | b'/')
}

/// Returns whether a topic is reserved for pg_outbox. The word `outbox` and all topics below it are.
pub fn is_reserved(topic: &str) -> bool {
    topic == "outbox" || topic.starts_with("outbox.")
}

/// Checks a topic that an application publishes to. A topic has 1 to 255 bytes. Its non-empty words consist of ASCII
/// letters, digits, `_`, `-`, `:` and `/` and are separated by single dots. The topic must not be the reserved word
/// `outbox` or below it.
///
/// # Errors
/// 22023; the detail says what is wrong.
pub fn validate(topic: &str) -> Result<()> {
    validate_form(topic)?;
    if is_reserved(topic) {
        return Err(Error::invalid(format!("topic \"{topic}\" is reserved"))
            .detail("Topics below \"outbox\" carry pg_outbox's own control messages and announcements.")
            .hint("Choose another first word."));
    }
    Ok(())
}

/// Checks the form of a topic, which may be reserved.
///
/// # Errors
/// 22023; the detail says what is wrong.
pub fn validate_form(topic: &str) -> Result<()> {
    // The common case comes first and allocates nothing.
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
