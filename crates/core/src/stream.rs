//! Names of streams: `category-id`, or a category alone. An id may be compound: its parts are separated by `+`.

use crate::error::{Code, Error, Result};

/// The largest length of a stream's name, in bytes.
pub const MAX_LENGTH: usize = 255;

/// The segment of outbox.message that holds events.
pub const SEGMENT: i16 = -2;

/// Returns the category of a stream: the part of its name before the first `-`.
pub fn category(stream: &str) -> &str {
    stream.split_once('-').map_or(stream, |(category, _)| category)
}

/// Returns the id of a stream within its category: the part of its name after the first `-`.
pub fn key(stream: &str) -> Option<&str> {
    stream.split_once('-').map(|(_, key)| key)
}

/// Returns the first part of a compound id, which is the id before the first `+`.
pub fn cardinal_id(stream: &str) -> Option<&str> {
    key(stream).map(|key| key.split_once('+').map_or(key, |(first, _)| first))
}

/// Checks the name of a stream. It has 1 to 255 bytes and no control character, and begins with a category.
///
/// # Errors
/// 22023 for a malformed name, 54000 for one that is too long.
pub fn validate(stream: &str) -> Result<()> {
    if stream.len() > MAX_LENGTH {
        return Err(Error::new(Code::TooLarge, "stream is too large")
            .detail(format!("It has {} bytes; the limit is {MAX_LENGTH}.", stream.len())));
    }
    let detail = if stream.is_empty() {
        "The name is empty.".to_owned()
    } else if stream.starts_with('-') {
        "There is no category before the \"-\".".to_owned()
    } else if let Some(c) = stream.chars().find(|c| c.is_control()) {
        format!("The character {c:?} is not allowed.")
    } else {
        return Ok(());
    };
    let shown: String = stream.chars().take(64).collect();
    Err(Error::invalid(format!("malformed stream \"{}\"", shown.escape_debug()))
        .detail(detail)
        .hint("A stream is a category and an id: \"order-4711\"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_at_the_first_separators() {
        for (stream, category_is, key_is, cardinal) in [
            ("order-1", "order", Some("1"), Some("1")),
            ("order", "order", None, None),
            ("order-", "order", Some(""), Some("")),
            ("order-a-b", "order", Some("a-b"), Some("a-b")),
            ("order-1+2+3", "order", Some("1+2+3"), Some("1")),
            ("order:command-1+2", "order:command", Some("1+2"), Some("1")),
            ("order+x", "order+x", None, None),
            ("konto-ä+ö", "konto", Some("ä+ö"), Some("ä")),
        ] {
            assert_eq!(
                (category(stream), key(stream), cardinal_id(stream)),
                (category_is, key_is, cardinal),
                "{stream}"
            );
            assert_eq!(validate(stream), Ok(()));
        }
    }

    #[test]
    fn malformed_names_are_refused() {
        for (stream, detail) in [
            ("", "The name is empty."),
            ("-1", "There is no category before the \"-\"."),
            ("a\nb", "The character '\\n' is not allowed."),
        ] {
            let error = validate(stream).unwrap_err();
            assert_eq!((error.code, error.detail.as_deref()), (Code::InvalidParameter, Some(detail)), "{stream:?}");
        }
        assert_eq!(validate(&"x".repeat(255)), Ok(()));
        assert_eq!(validate(&"x".repeat(256)).unwrap_err().code, Code::TooLarge);
    }
}
