//! The times of periodic messages: cron expressions, and the idempotency key of each tick.
//!
//! Every process of an application computes the same ticks and enqueues a message for each with the same idempotency key, so
//! a tick makes one message. No process has to be the leader.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Timelike as _, Utc};
use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds, Year};

use crate::error::{Error, Result};

/// The time for which a tick that was missed is still enqueued, by default. It bridges a deployment or a restart.
pub const CATCH_UP: Duration = Duration::from_secs(10 * 60);

/// The largest length of an expression, in bytes.
const MAX_LENGTH: usize = 255;

/// A cron expression in a time zone.
#[derive(Clone, Debug)]
pub struct Cron {
    pattern: croner::Cron,
    zone: Tz,
}

impl Cron {
    /// Reads an expression of five fields (minute, hour, day of the month, month, day of the week) or a nickname such as
    /// `@daily`. `zone` is a name of the IANA database such as `Europe/Berlin`; without one, times are in UTC. A time that a
    /// change to summer time skips happens at the next time that exists.
    ///
    /// # Errors
    /// 22023 for a malformed expression, an expression that no time matches, and an unknown time zone.
    pub fn parse(expression: &str, zone: Option<&str>) -> Result<Cron> {
        let shown: String = expression.chars().take(MAX_LENGTH).collect();
        let refuse = |why: String| {
            Error::invalid(format!("invalid cron expression \"{shown}\"")).detail(why).hint(
                "Five fields: minute, hour, day of the month, month, day of the week. \"0 3 * * *\" is each day at three.",
            )
        };
        if expression.len() > MAX_LENGTH {
            return Err(refuse(format!("It is longer than {MAX_LENGTH} bytes.")));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let pattern = parser.parse(expression).map_err(|error| refuse(error.to_string()))?;
        let zone = match zone {
            None => Tz::UTC,
            Some(name) => name.parse().map_err(|_| {
                let shown: String = name.chars().take(64).collect();
                Error::invalid(format!("unknown time zone \"{shown}\""))
                    .hint("A name of the IANA database, for example \"Europe/Berlin\".")
            })?,
        };
        let cron = Cron { pattern, zone };
        match cron.next(DateTime::UNIX_EPOCH) {
            Some(_) => Ok(cron),
            None => Err(refuse("No time matches it.".to_owned())),
        }
    }

    /// Returns the first tick after a time.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let found = self.pattern.find_next_occurrence(&after.with_timezone(&self.zone), false).ok()?;
        whole(&found)
    }

    /// Returns the last tick that is not after a time and at most `catch_up` before it.
    pub fn missed(&self, now: DateTime<Utc>, catch_up: Duration) -> Option<DateTime<Utc>> {
        let span = chrono::Duration::from_std(catch_up).ok();
        let earliest = span.and_then(|span| now.checked_sub_signed(span)).unwrap_or(DateTime::<Utc>::MIN_UTC);
        let found = self.pattern.find_previous_occurrence(&now.with_timezone(&self.zone), true).ok()?;
        whole(&found).filter(|tick| *tick >= earliest)
    }
}

/// Returns a tick in UTC. The parser leaves the fraction of the second of the time at which the search began, which differs between
/// processes.
fn whole(tick: &DateTime<Tz>) -> Option<DateTime<Utc>> {
    tick.with_timezone(&Utc).with_nanosecond(0)
}

/// Returns the idempotency key of a tick of the periodic message `name`.
pub fn tick_key(name: &str, tick: DateTime<Utc>) -> String {
    format!("tick {name} {}", tick.to_rfc3339_opts(SecondsFormat::Secs, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn ticks(expression: &str, zone: Option<&str>, from: &str) -> Vec<String> {
        let cron = Cron::parse(expression, zone).unwrap();
        let mut now = at(from);
        (0..3)
            .map(|_| {
                now = cron.next(now).unwrap();
                now.to_rfc3339_opts(SecondsFormat::Secs, true)
            })
            .collect()
    }

    #[test]
    fn ticks_follow_the_expression_in_its_time_zone() {
        assert_eq!(
            ticks("0 3 * * *", None, "2026-03-28T12:00:00Z"),
            ["2026-03-29T03:00:00Z", "2026-03-30T03:00:00Z", "2026-03-31T03:00:00Z"]
        );
        // In Berlin, summer time begins on 2026-03-29 at two.
        assert_eq!(
            ticks("0 3 * * *", Some("Europe/Berlin"), "2026-03-27T12:00:00Z"),
            ["2026-03-28T02:00:00Z", "2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"]
        );
        assert_eq!(
            ticks("*/20 9 * * MON-FRI", None, "2026-11-27T09:30:00Z"),
            ["2026-11-27T09:40:00Z", "2026-11-30T09:00:00Z", "2026-11-30T09:20:00Z"]
        );
        assert_eq!(ticks("@hourly", None, "2026-11-27T23:30:00Z")[0], "2026-11-28T00:00:00Z");
    }

    #[test]
    fn a_tick_is_a_whole_second_whenever_it_was_asked_for() {
        let cron = Cron::parse("0 3 * * *", Some("Europe/Berlin")).unwrap();
        for now in ["2026-11-29T01:59:59.990Z", "2026-11-28T12:00:00.123456789Z", "2026-11-29T01:00:00Z"] {
            assert_eq!(cron.next(at(now)), Some(at("2026-11-29T02:00:00Z")), "{now}");
        }
        assert_eq!(cron.next(at("2026-11-29T02:00:00.5Z")), Some(at("2026-11-30T02:00:00Z")));
        assert_eq!(cron.missed(at("2026-11-29T02:00:00.5Z"), CATCH_UP), Some(at("2026-11-29T02:00:00Z")));
    }

    #[test]
    fn a_tick_of_the_night_that_summer_time_shortens_or_lengthens_happens_once() {
        for (zone, night) in [("Europe/Berlin", "2026-03-28T12:00:00Z"), ("Europe/Berlin", "2026-10-24T12:00:00Z")] {
            let cron = Cron::parse("30 2 * * *", Some(zone)).unwrap();
            let first = cron.next(at(night)).unwrap();
            let second = cron.next(first).unwrap();
            assert!(second - first > chrono::Duration::hours(20), "{first} {second}");
        }
    }

    #[test]
    fn a_tick_that_was_missed_is_found_for_a_while() {
        let cron = Cron::parse("0 3 * * *", None).unwrap();
        let missed = |now: &str| cron.missed(at(now), CATCH_UP).map(|tick| tick.to_string());
        assert_eq!(missed("2026-11-29T03:00:00Z").as_deref(), Some("2026-11-29 03:00:00 UTC"));
        assert_eq!(missed("2026-11-29T03:09:59Z").as_deref(), Some("2026-11-29 03:00:00 UTC"));
        assert_eq!(missed("2026-11-29T03:10:01Z"), None);
        assert_eq!(missed("2026-11-29T02:59:59Z"), None);
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for wrong in ["", "* * * *", "60 * * * *", "* * * * * *", "a b c d e", "0 0 30 2 *", &"1,".repeat(200)] {
            let error = Cron::parse(wrong, None).unwrap_err();
            assert!(error.message.starts_with("invalid cron expression"), "{wrong}: {error:?}");
        }
        assert_eq!(
            Cron::parse("* * * * *", Some("Europe/Nowhere")).unwrap_err().message,
            "unknown time zone \"Europe/Nowhere\""
        );
    }

    #[test]
    fn a_key_names_message_and_tick() {
        assert_eq!(tick_key("report.daily", at("2026-11-29T03:00:00Z")), "tick report.daily 2026-11-29T03:00:00Z");
    }
}
