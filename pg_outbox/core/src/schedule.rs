//! When a delivery is tried again.

use std::time::Duration;

use crate::error::{Error, Result};

/// Longest wait between two tries.
pub const MAX_DELAY: Duration = Duration::from_secs(30 * 24 * 3600);

/// Twelve tries over about three days: quick at first, for a restart; slow at the end, for a weekend.
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

/// Tries including the first, when nobody says otherwise.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 12;

/// Share by which a wait is lengthened or shortened at random, so that what failed together is not tried together.
pub const DEFAULT_JITTER: f64 = 0.2;

/// The waits between tries.
#[derive(Clone, Debug, PartialEq)]
pub enum Delays {
    /// The wait after the first try, after the second, and so on; the last one repeats.
    Ladder(Vec<Duration>),
    /// `base * factor^(n - 1)` after the n-th try, at most `cap`.
    Exponential {
        /// Wait after the first try.
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
    /// A schedule of fixed waits.
    ///
    /// # Errors
    /// 22023 when there is none, or one is longer than 30 days, or the jitter is not between 0 and 1.
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

    /// A schedule whose waits grow by a factor.
    ///
    /// # Errors
    /// 22023 when a value is out of its range.
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

    fn checked(self) -> Result<Schedule> {
        if (0.0..=1.0).contains(&self.jitter) {
            Ok(self)
        } else {
            Err(Error::invalid("invalid retry schedule: \"jitter\" must be between 0 and 1"))
        }
    }

    /// The wait after try number `attempt` (from 1), without jitter.
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

    /// The wait after try number `attempt`, with the jitter that `seed` gives.
    pub fn jittered(&self, attempt: u32, seed: u64) -> Duration {
        // The top 53 bits as a number in 0 .. 1.
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
}
