//! Histograms in shared memory. They start from zero when the server starts, as counters of Prometheus may.

use std::sync::atomic::{AtomicU64, Ordering};

/// The upper bounds of the buckets, in microseconds. One more bucket has what is larger.
pub const BOUNDS: [i64; 16] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    60_000_000,
    600_000_000,
    3_600_000_000,
];

/// Counts of durations. All zero is an empty histogram. Only the dispatcher adds to it.
#[repr(C)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// Adds a duration in microseconds. One that a clock has made negative counts as zero.
    pub fn add(&self, micros: i64) {
        let micros = micros.max(0);
        let place = BOUNDS.partition_point(|bound| *bound < micros);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros.unsigned_abs(), Ordering::Relaxed);
    }

    /// Returns, for each bound and for no bound, how many durations are not longer, and the sum of all in seconds.
    pub fn read(&self) -> (Vec<i64>, f64) {
        let mut below = 0;
        let counts = self.counts.iter().map(|count| {
            below += count.load(Ordering::Relaxed) as i64;
            below
        });
        (counts.collect(), self.micros.load(Ordering::Relaxed) as f64 / 1e6)
    }

    /// Forgets everything, for another database.
    pub fn clear(&self) {
        self.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        self.micros.store(0, Ordering::Relaxed);
    }
}
