//! Maps whose keys are ids and positions.
//!
//! pg_outbox itself assigns these numbers, so the hash need not resist an attacker. A fast hash makes the look-up for each
//! delivery cost next to nothing.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map whose keys are ids.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// A hasher that mixes numbers by multiplication.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl IdHasher {
    fn mix(&mut self, n: u64) {
        // 2^64 divided by the golden ratio: neighbouring numbers get hashes that are far apart.
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        // A map chooses the bucket by the lowest bits, which depend on the fewest bits of the number.
        self.0 ^ self.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix((*byte).into());
        }
    }

    fn write_i32(&mut self, n: i32) {
        self.mix(n.cast_unsigned().into());
    }

    fn write_i64(&mut self, n: i64) {
        self.mix(n.cast_unsigned());
    }

    fn write_u32(&mut self, n: u32) {
        self.mix(n.into());
    }

    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use super::*;

    #[test]
    fn neighbours_are_spread_over_a_table() {
        let build = BuildHasherDefault::<IdHasher>::default();
        for step in [1i64, 2, 16, 1000, 1 << 20, 1 << 32] {
            for subscription in [1i32, 2, 1000] {
                let hashes: Vec<u64> =
                    (0..4096i64).map(|i| build.hash_one((subscription, 5_000_000 + i * step, 0i64))).collect();
                // A table of 8192 buckets uses the lowest bits, and the seven highest.
                let places: HashSet<u64> = hashes.iter().map(|hash| hash & 8191).collect();
                let tags: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
                // Random hashes would fill 8192 (1 - 1/sqrt(e)) buckets, which is 3223.
                assert!(places.len() > 2500, "{step}: {} places", places.len());
                assert_eq!(tags.len(), 128, "{step}");
            }
        }
    }
}
