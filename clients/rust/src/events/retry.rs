//! How often and when an attempt is repeated.

use std::future::Future;
use std::time::Duration;

/// Attempts with growing waits between them. The default is 3 attempts, with 100 ms after the first, twice as much after each
/// following one, and at most 5 s. Up to half of a wait is subtracted at random.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// The largest number of attempts, including the first. 0 counts as 1.
    pub attempts: u32,
    /// The wait after the first attempt.
    pub wait: Duration,
    /// The factor by which the wait grows.
    pub factor: f64,
    /// The longest wait.
    pub cap: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { attempts: 3, wait: Duration::from_millis(100), factor: 2.0, cap: Duration::from_secs(5) }
    }
}

impl Retry {
    /// One attempt only.
    pub const NEVER: Retry = Retry { attempts: 1, wait: Duration::ZERO, factor: 1.0, cap: Duration::ZERO };

    /// Returns the wait after an attempt, which are counted from 1.
    pub fn wait_after(&self, attempt: u32) -> Duration {
        let factor = self.factor.clamp(1.0, 1000.0).powi(i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX));
        let most = (self.wait.as_secs_f64() * factor).min(self.cap.as_secs_f64());
        // The clock's nanoseconds are random enough to separate processes that failed at the same time.
        let nanos =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
        Duration::try_from_secs_f64(most * (1.0 - f64::from(nanos % 1_000_000) / 2_000_000.0)).unwrap_or(self.cap)
    }

    /// Repeats an attempt while its error is worth it.
    pub(super) async fn run<T, E, F>(
        &self,
        is_worth_it: impl Fn(&E) -> bool,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let mut made = 0;
        loop {
            made += 1;
            match attempt().await {
                Err(error) if made < self.attempts && is_worth_it(&error) => {
                    tokio::time::sleep(self.wait_after(made)).await;
                }
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_cap() {
        let retry = Retry::default();
        for (attempt, most) in [(1, 100), (2, 200), (3, 400), (7, 5000), (u32::MAX, 5000)] {
            let wait = retry.wait_after(attempt);
            let most = Duration::from_millis(most);
            assert!(wait >= most / 2 && wait <= most, "{attempt}: {wait:?}");
        }
        assert_eq!(Retry::NEVER.wait_after(1), Duration::ZERO);
    }
}
