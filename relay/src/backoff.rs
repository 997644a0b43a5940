//! The waits between attempts to reach a database or a broker.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Waits that double from 100 ms to 15 s. Up to half of each is subtracted at random.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns the next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let most = 100u64.saturating_mul(1 << self.failures.min(10)).min(15_000);
        self.failures = self.failures.saturating_add(1);
        // The clock's nanoseconds are random enough to keep many relays from reconnecting at the same time.
        let noise = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| u64::from(now.subsec_nanos()) / 1000);
        Duration::from_millis(most / 2 + noise % (most / 2 + 1))
    }

    /// Begins with the shortest wait again, after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        let mut backoff = Backoff::default();
        for most in [100u64, 200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000] {
            let wait = backoff.next().as_millis() as u64;
            assert!((most / 2..=most).contains(&wait), "{wait} of {most}");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(100));
    }
}
