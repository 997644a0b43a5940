//! The `Retry-After` header (RFC 9110, section 10.2.3): seconds, or a date.

use std::time::{Duration, SystemTime};

/// The longest wait a receiver can ask for.
pub const CAP: Duration = Duration::from_secs(24 * 3600);

/// The wait that the header asks for, at most a day; `None` when it is malformed. A date in the past is no wait.
pub fn parse(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are more than a day.
        return Some(value.parse().map_or(CAP, Duration::from_secs).min(CAP));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default().min(CAP))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> SystemTime {
        httpdate::parse_http_date("Fri, 13 Feb 2026 12:00:00 GMT").unwrap()
    }

    #[test]
    fn seconds_and_the_three_forms_of_dates() {
        for (value, seconds) in [
            ("0", 0),
            ("120", 120),
            (" 7 ", 7),
            ("86401", 86_400),
            ("99999999999999999999999", 86_400),
            ("Fri, 13 Feb 2026 12:01:00 GMT", 60),
            ("Friday, 13-Feb-26 12:01:00 GMT", 60),
            ("Fri Feb 13 12:01:00 2026", 60),
            ("Fri, 13 Feb 2026 11:00:00 GMT", 0),
            ("Fri, 13 Feb 2099 11:00:00 GMT", 86_400),
        ] {
            assert_eq!(parse(value, now()), Some(Duration::from_secs(seconds)), "{value}");
        }
        for value in ["", "-1", "1.5", "soon", "13 Feb 2026"] {
            assert_eq!(parse(value, now()), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_never_exceeds_the_cap(value: String) {
            prop_assert!(parse(&value, now()).is_none_or(|wait| wait <= CAP));
        }
    }
}
