//! The webhook id, by which a receiver deduplicates.
//!
//! Its form is `msg_<id>_<time>`: the message's id and its `enqueued_at` in microseconds since 1970, both in lower-case
//! hexadecimal. Neither changes, so the webhook id is the same on every attempt, restart, retry and replay. The time
//! keeps it distinct if message ids are drawn again after a restore.

use std::fmt;

use crate::digits;

/// A webhook id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WebhookId {
    /// Id of the message.
    pub message_id: i64,
    /// When it was enqueued, in microseconds since 1970-01-01 UTC.
    pub enqueued_at: i64,
}

impl fmt::Display for WebhookId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl WebhookId {
    /// Returns the text of the webhook id.
    pub fn text(self) -> Box<str> {
        let length = "msg__".len() + digits::hex_len(self.message_id) + digits::hex_len(self.enqueued_at);
        let mut text = String::with_capacity(length);
        text.push_str("msg_");
        digits::push_hex(self.message_id, &mut text);
        text.push('_');
        digits::push_hex(self.enqueued_at, &mut text);
        text.into()
    }

    /// Reads a webhook id. `None` if the text is not a webhook id.
    pub fn parse(text: &str) -> Option<WebhookId> {
        let (id, time) = text.strip_prefix("msg_")?.split_once('_')?;
        // The sign is in the bits, as in SQL's to_hex.
        let read = |hex: &str| {
            (!hex.is_empty() && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
                .then(|| u64::from_str_radix(hex, 16).ok())
                .flatten()
                .map(u64::cast_signed)
        };
        Some(WebhookId { message_id: read(id)?, enqueued_at: read(time)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trips(message_id: i64, enqueued_at: i64) {
            let id = WebhookId { message_id, enqueued_at };
            prop_assert_eq!(WebhookId::parse(&id.to_string()), Some(id));
        }
    }

    #[test]
    fn is_readable() {
        let id = WebhookId { message_id: 42, enqueued_at: 1_700_000_000_000_000 };
        assert_eq!(id.to_string(), "msg_2a_60a24181e4000");
        for text in ["", "msg_", "msg_1", "msg__1", "msg_1_", "msg_g_1", "msg_A_1", "msg_1_2_3", "evt_1_2"] {
            assert_eq!(WebhookId::parse(text), None, "{text}");
        }
    }
}
