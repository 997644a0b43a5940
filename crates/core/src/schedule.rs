//! The retry schedule of a delivery.

use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, Result};

/// The longest wait between two attempts.
pub const MAX_DELAY: Duration = Duration::from_secs(30 * 24 * 3600);

/// The waits between twelve attempts over about three days. The first waits are short, for a receiver that restarts. The
/// last waits are long, for a receiver that is down over a weekend.
pub const DEFAULT_LADDER: [Duration; 11] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(2 * 60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(5 * 3600),
    Duration::from_secs(10 * 3600),
    Duration::from_secs(14 * 3600),
    Duration::from_secs(20 * 3600),
    Duration::from_secs(24 * 3600),
];

/// The default number of attempts, including the first.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 12;

/// The share by which a wait is lengthened or shortened at random, so that deliveries that failed together are not retried
/// together.
pub const DEFAULT_JITTER: f64 = 0.2;

/// The longest wait of an exponential schedule without `cap`.
pub const DEFAULT_CAP: Duration = Duration::from_secs(24 * 3600);

/// Reads a wait, which is a number of seconds or a text of a number and a unit.
fn wait(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(n) => n.as_f64()?,
        Value::String(text) => {
            let text = text.trim();
            let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
            let unit = match text[digits..].trim() {
                "s" | "sec" | "second" | "seconds" => 1.0,
                "min" | "minute" | "minutes" => 60.0,
                "h" | "hour" | "hours" => 3600.0,
                "d" | "day" | "days" => 86_400.0,
                _ => return None,
            };
            text[..digits].parse::<f64>().ok()? * unit
        }
        _ => return None,
    };
    (seconds >= 0.0 && seconds <= MAX_DELAY.as_secs_f64()).then(|| Duration::from_secs_f64(seconds))
}

/// The waits between attempts.
#[derive(Clone, Debug, PartialEq)]
pub enum Delays {
    /// The wait after the first attempt, after the second attempt, and so on. The last wait repeats.
    Ladder(Vec<Duration>),
    /// The wait after the n-th attempt is `base * factor^(n - 1)`, at most `cap`.
    Exponential {
        /// Wait after the first attempt.
        base: Duration,
        /// At least 1.
        factor: f64,
        /// Longest wait.
        cap: Duration,
    },
}

/// The waits and their jitter.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The waits.
    pub delays: Delays,
    /// 0 to 1: a wait of `d` becomes one of `d * (1 - jitter) ..= d * (1 + jitter)`.
    pub jitter: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule { delays: Delays::Ladder(DEFAULT_LADDER.to_vec()), jitter: DEFAULT_JITTER }
    }
}

impl Schedule {
    /// Creates a schedule of fixed waits.
    ///
    /// # Errors
    /// 22023 if the list is empty, if a wait is longer than 30 days, or if the jitter is not between 0 and 1.
    pub fn ladder(delays: Vec<Duration>, jitter: f64) -> Result<Schedule> {
        if delays.is_empty() {
            return Err(
                Error::invalid("invalid retry schedule: it is empty").hint("To try once only, set max_attempts to 1.")
            );
        }
        if delays.iter().any(|d| *d > MAX_DELAY) {
            return Err(Error::invalid("invalid retry schedule: a wait is longer than 30 days"));
        }
        Schedule { delays: Delays::Ladder(delays), jitter }.checked()
    }

    /// Creates a schedule whose waits grow by a factor.
    ///
    /// # Errors
    /// 22023 if a value is out of its range.
    pub fn exponential(base: Duration, factor: f64, cap: Duration, jitter: f64) -> Result<Schedule> {
        if base.is_zero() {
            return Err(Error::invalid("invalid retry schedule: \"base\" must be positive"));
        }
        if !(1.0..=100.0).contains(&factor) {
            return Err(Error::invalid("invalid retry schedule: \"factor\" must be between 1 and 100"));
        }
        if cap < base || cap > MAX_DELAY {
            return Err(Error::invalid("invalid retry schedule: \"cap\" must be between \"base\" and 30 days"));
        }
        Schedule { delays: Delays::Exponential { base, factor, cap }, jitter }.checked()
    }

    /// Reads a schedule, which has one of these forms:
    ///
    /// - an array of waits, `[5, 30, "2 min"]`
    /// - an object with such an array and a jitter, `{"delays": [5, 30], "jitter": 0.1}`
    /// - an object of growing waits, `{"base": 5, "factor": 2, "cap": "1 h", "jitter": 0.2}`
    ///
    /// A wait is a number of seconds, or a number and a unit (s, min, h or d).
    ///
    /// # Errors
    /// 22023 that names the entry.
    pub fn parse(json: &Value) -> Result<Schedule> {
        let refuse = |what: String| {
            Error::invalid(format!("invalid retry schedule: {what}")).hint(
                "A schedule looks like [5, 30, \"2 min\", \"1 h\"] or {\"base\": 5, \"factor\": 2, \"cap\": \"1 h\", \"jitter\": 0.2}.",
            )
        };
        let delays = |value: &Value| -> Result<Vec<Duration>> {
            let Value::Array(list) = value else { return Err(refuse("\"delays\" is not an array".to_owned())) };
            if list.len() > 100 {
                return Err(refuse("it has more than 100 waits".to_owned()));
            }
            list.iter().map(|one| wait(one).ok_or_else(|| refuse(format!("{one} is no wait")))).collect()
        };
        let entries = match json {
            Value::Array(_) => return Schedule::ladder(delays(json)?, DEFAULT_JITTER),
            Value::Object(entries) => entries,
            _ => return Err(refuse("it is neither an array nor an object".to_owned())),
        };
        if let Some(key) =
            entries.keys().find(|key| !["delays", "jitter", "base", "factor", "cap"].contains(&key.as_str()))
        {
            return Err(refuse(format!("\"{key}\" is unknown")));
        }
        let number = |key: &str, default: f64| match entries.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| refuse(format!("\"{key}\" is not a number"))),
        };
        let jitter = number("jitter", DEFAULT_JITTER)?;
        if let Some(list) = entries.get("delays") {
            if entries.len() > 1 + usize::from(entries.contains_key("jitter")) {
                return Err(refuse("\"delays\" goes together with \"jitter\" only".to_owned()));
            }
            return Schedule::ladder(delays(list)?, jitter);
        }
        let duration = |key: &str, default: Option<Duration>| match (entries.get(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(refuse(format!("\"{key}\" is missing"))),
            (Some(value), _) => wait(value).ok_or_else(|| refuse(format!("\"{key}\" is no wait"))),
        };
        let base = duration("base", None)?;
        let cap = duration("cap", Some(DEFAULT_CAP.max(base)))?;
        Schedule::exponential(base, number("factor", 2.0)?, cap, jitter)
    }

    fn checked(self) -> Result<Schedule> {
        if (0.0..=1.0).contains(&self.jitter) {
            Ok(self)
        } else {
            Err(Error::invalid("invalid retry schedule: \"jitter\" must be between 0 and 1"))
        }
    }

    /// Returns the wait after attempt number `attempt` (from 1), without jitter.
    pub fn delay(&self, attempt: u32) -> Duration {
        let n = attempt.max(1) - 1;
        match &self.delays {
            Delays::Ladder(delays) => delays.get(n as usize).or(delays.last()).copied().unwrap_or(DEFAULT_LADDER[0]),
            Delays::Exponential { base, factor, cap } => {
                let seconds = base.as_secs_f64() * factor.powi(i32::try_from(n).unwrap_or(i32::MAX));
                if seconds.is_finite() && seconds < cap.as_secs_f64() { Duration::from_secs_f64(seconds) } else { *cap }
            }
        }
    }

    /// Returns the wait after attempt number `attempt`, with the jitter that `seed` determines.
    pub fn jittered(&self, attempt: u32, seed: u64) -> Duration {
        // The top 53 bits as a number from 0 to 1 (exclusive).
        let unit = (mix(seed ^ u64::from(attempt)) >> 11) as f64 / (1u64 << 53) as f64;
        self.delay(attempt).mul_f64(1.0 + self.jitter * (2.0 * unit - 1.0))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): well-mixed bits from any seed.
pub const fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_lasts_about_three_days_in_twelve_tries() {
        let schedule = Schedule::default();
        let total: Duration = (1..DEFAULT_MAX_ATTEMPTS).map(|n| schedule.delay(n)).sum();
        assert!(total > Duration::from_secs(72 * 3600) && total < Duration::from_secs(80 * 3600), "{total:?}");
    }

    #[test]
    fn the_last_wait_of_a_ladder_repeats() {
        let schedule = Schedule::ladder(vec![Duration::from_secs(1), Duration::from_secs(7)], 0.0).unwrap();
        assert_eq!([1, 2, 3, 99].map(|n| schedule.delay(n).as_secs()), [1, 7, 7, 7]);
    }

    #[test]
    fn exponential_waits_grow_to_the_cap() {
        let schedule = Schedule::exponential(Duration::from_secs(30), 2.0, Duration::from_secs(1800), 0.0).unwrap();
        assert_eq!([1, 2, 3, 7, 8, u32::MAX].map(|n| schedule.delay(n).as_secs()), [30, 60, 120, 1800, 1800, 1800]);
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_share(attempt in 1u32..20, seed: u64, jitter in 0.0f64..=1.0) {
            let schedule = Schedule { jitter, ..Schedule::default() };
            let plain = schedule.delay(attempt).as_secs_f64();
            let jittered = schedule.jittered(attempt, seed).as_secs_f64();
            prop_assert!(jittered >= plain * (1.0 - jitter) - 1e-6 && jittered <= plain * (1.0 + jitter) + 1e-6);
            prop_assert_eq!(schedule.jittered(attempt, seed), schedule.jittered(attempt, seed));
        }
    }

    #[test]
    fn refuses_what_makes_no_schedule() {
        let s = Duration::from_secs;
        assert!(Schedule::ladder(vec![], 0.0).is_err());
        assert!(Schedule::ladder(vec![s(31 * 24 * 3600)], 0.0).is_err());
        assert!(Schedule::ladder(vec![s(1)], 1.5).is_err());
        assert!(Schedule::exponential(s(0), 2.0, s(10), 0.0).is_err());
        assert!(Schedule::exponential(s(1), 0.5, s(10), 0.0).is_err());
        assert!(Schedule::exponential(s(20), 2.0, s(10), 0.0).is_err());
    }

    #[test]
    fn reads_arrays_and_objects() {
        use serde_json::json;
        let ladder = |json| {
            let schedule = Schedule::parse(&json).unwrap();
            (1..=4).map(|n| schedule.delay(n).as_secs()).collect::<Vec<_>>()
        };
        assert_eq!(ladder(json!([1, "2 min", "3h", "1 d"])), [1, 120, 10_800, 86_400]);
        assert_eq!(ladder(json!({"delays": [7], "jitter": 0})), [7, 7, 7, 7]);
        assert_eq!(ladder(json!({"base": 3, "factor": 3, "cap": 60})), [3, 9, 27, 60]);
        assert_eq!(ladder(json!({"base": "1 min"})), [60, 120, 240, 480]);
        assert_eq!(Schedule::parse(&json!({"delays": [0.5], "jitter": 0})).unwrap().jitter, 0.0);
        for wrong in [
            json!(5),
            json!("5 s"),
            json!([]),
            json!([-1]),
            json!(["5"]),
            json!(["5 weeks"]),
            json!(["31 d"]),
            json!([null]),
            json!({}),
            json!({"delays": [1], "base": 1}),
            json!({"base": 1, "factor": "2"}),
            json!({"base": 1, "retries": 2}),
            json!({"base": 10, "cap": 5}),
            json!({"delays": [1], "jitter": 2}),
        ] {
            let error = Schedule::parse(&wrong).unwrap_err();
            assert!(error.message.starts_with("invalid retry schedule: "), "{wrong}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,12}", number: f64) {
            let _ = Schedule::parse(&serde_json::json!([text, number]));
            let _ = Schedule::parse(&serde_json::json!({"base": text, "factor": number, "cap": number}));
        }
    }
}
