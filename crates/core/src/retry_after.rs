//! The `Retry-After` header (RFC 9110, section 10.2.3): a number of seconds or a date.

use std::time::{Duration, SystemTime};

/// The longest wait that a receiver can ask for.
pub const CAP: Duration = Duration::from_secs(24 * 3600);

/// A time given as seconds since 1970 that is further away than this is a mistake.
const FAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// Numbers from here on are not seconds to wait but, by a common mistake, seconds since 1970.
const EPOCH: u64 = 1_000_000_000;

/// Returns the wait that the header asks for, at most a day. `None` if the value is malformed. A time in the past is a
/// wait of zero.
pub fn parse(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        let seconds = value.parse::<u64>().ok()?;
        if seconds < EPOCH {
            return Some(Duration::from_secs(seconds).min(CAP));
        }
        // A time further in the future than `FAR` is malformed.
        let wait = Duration::from_secs(seconds).saturating_sub(now.duration_since(SystemTime::UNIX_EPOCH).ok()?);
        return (wait <= FAR).then(|| wait.min(CAP));
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
            ("999999999", 86_400),
            // 60 seconds from now, in the past, and in two days, as seconds since 1970.
            ("1770984060", 60),
            ("1770984000", 0),
            ("1000000000", 0),
            ("1771156800", 86_400),
            ("Fri, 13 Feb 2026 12:01:00 GMT", 60),
            ("Friday, 13-Feb-26 12:01:00 GMT", 60),
            ("Fri Feb 13 12:01:00 2026", 60),
            ("Fri, 13 Feb 2026 11:00:00 GMT", 0),
            ("Fri, 13 Feb 2099 11:00:00 GMT", 86_400),
        ] {
            assert_eq!(parse(value, now()), Some(Duration::from_secs(seconds)), "{value}");
        }
        for value in ["", "-1", "1.5", "soon", "13 Feb 2026", "99999999999", "99999999999999999999999"] {
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
