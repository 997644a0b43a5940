//! A token bucket. It limits how many requests an endpoint gets per second, and how many at once after a pause.

/// A bucket. Times are microseconds of any clock that does not go back.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Tokens per second.
    rate: f64,
    /// The largest number of tokens in the bucket.
    burst: f64,
    tokens: f64,
    at: i64,
}

impl Bucket {
    /// Creates a full bucket.
    pub fn new(rate: f64, burst: f64, now: i64) -> Bucket {
        let burst = burst.max(1.0);
        Bucket { rate, burst, tokens: burst, at: now }
    }

    /// Changes the limits. The tokens in the bucket stay, up to the new `burst`.
    pub fn configure(&mut self, rate: f64, burst: f64, now: i64) {
        self.refill(now);
        self.rate = rate;
        self.burst = burst.max(1.0);
        self.tokens = self.tokens.min(self.burst);
    }

    fn refill(&mut self, now: i64) {
        let passed = (now - self.at).max(0) as f64 / 1e6;
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
        self.at = self.at.max(now);
    }

    /// Takes a token.
    ///
    /// # Errors
    /// The time at which the next token will be available.
    pub fn take(&mut self, now: i64) -> Result<(), i64> {
        self.refill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let wait = (1.0 - self.tokens) / self.rate * 1e6;
        // Rounded up, so that the token is available at that time.
        Err(self.at.saturating_add(wait.ceil().min(1e15) as i64 + 1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(10.0, 3.0, 0);
        assert!((0..3).all(|_| bucket.take(0).is_ok()));
        let next = bucket.take(0).unwrap_err();
        assert!((100_000..100_010).contains(&next), "{next}");
        assert!(bucket.take(next - 10).is_err());
        assert!(bucket.take(next).is_ok());
        assert!((0..3).all(|_| bucket.take(10_000_000).is_ok()));
        assert!(bucket.take(10_000_000).is_err());
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_the_burst(
            rate in 0.01f64..1000.0,
            burst in 1.0f64..100.0,
            pauses in prop::collection::vec(0i64..2_000_000, 1..200),
        ) {
            let mut bucket = Bucket::new(rate, burst, 0);
            let (mut now, mut taken) = (0, 0u32);
            for pause in pauses {
                now += pause;
                match bucket.take(now) {
                    Ok(()) => taken += 1,
                    Err(next) => {
                        prop_assert!(next > now);
                        prop_assert!(bucket.take(next).is_ok());
                        now = next;
                        taken += 1;
                    }
                }
            }
            prop_assert!(f64::from(taken) <= burst + rate * now as f64 / 1e6 + 1e-3);
        }
    }
}
