//! How far a subscription has been dealt with, in a form that fits a checkpoint.
//!
//! Deliveries are handed out in position order and end in any order. The checkpoint keeps, for each subscription, the last
//! position before which everything but a short list has its outcome recorded; recovery sends the list and goes on from the
//! position. What was handed out but never sent lies behind that position, so the list is as short as the requests that
//! were in flight.

use std::collections::BTreeSet;

/// Progress of one subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here was looked at, and handed out if it matched.
    next: i64,
    /// Handed out, no outcome recorded.
    open: BTreeSet<i64>,
    /// Highest position that was handed out and has its outcome.
    settled: i64,
}

/// What a checkpoint keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Go on behind this position.
    pub position: i64,
    /// And deliver these, which lie before it.
    pub open: Vec<i64>,
}

impl Progress {
    /// Everything up to `position` is dealt with.
    pub fn at(position: i64) -> Progress {
        Progress { next: position, open: BTreeSet::new(), settled: position }
    }

    /// Goes on from a checkpoint: the caller hands out `saved.open` again.
    pub fn restored(saved: &Saved) -> Progress {
        Progress { next: saved.position, open: saved.open.iter().copied().collect(), settled: saved.position }
    }

    /// Last position that was looked at.
    pub fn position(&self) -> i64 {
        self.next
    }

    /// Handed out and without an outcome.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// A position beyond the last one matched and is handed out.
    pub fn hand_out(&mut self, position: i64) {
        debug_assert!(position > self.next, "positions are handed out in order");
        self.next = position;
        self.open.insert(position);
    }

    /// Everything up to `position` was looked at.
    pub fn advance(&mut self, position: i64) {
        self.next = self.next.max(position);
        if self.open.is_empty() {
            self.settled = self.next;
        }
    }

    /// The outcome of `position` is recorded together with the next checkpoint. `false` when it was not open.
    pub fn settle(&mut self, position: i64) -> bool {
        let was_open = self.open.remove(&position);
        self.settled = self.settled.max(position);
        if self.open.is_empty() {
            self.settled = self.settled.max(self.next);
        }
        was_open
    }

    /// What the checkpoint keeps; `None` when nothing is open and everything up to `routed` was looked at, which is what a
    /// checkpoint means for the subscriptions that it does not list.
    pub fn save(&self, routed: i64) -> Option<Saved> {
        if self.open.is_empty() && self.next >= routed {
            return None;
        }
        let position = if self.open.is_empty() { self.next } else { self.settled };
        Some(Saved { position, open: self.open.range(..=position).copied().collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn queued_deliveries_are_not_listed() {
        let mut progress = Progress::at(0);
        for position in 1..=1000 {
            progress.hand_out(position);
        }
        for position in [1, 2, 4, 5] {
            assert!(progress.settle(position));
        }
        assert_eq!(progress.save(1000), Some(Saved { position: 5, open: vec![3] }));
        assert!(!progress.settle(4));
    }

    #[test]
    fn nothing_open_and_all_looked_at_needs_no_entry() {
        let mut progress = Progress::at(10);
        assert_eq!(progress.save(10), None);
        assert_eq!(progress.save(11), Some(Saved { position: 10, open: vec![] }));
        progress.hand_out(12);
        progress.advance(20);
        assert_eq!(progress.save(20), Some(Saved { position: 10, open: vec![] }));
        progress.settle(12);
        assert_eq!(progress.save(20), None);
    }

    proptest! {
        /// Whatever is recorded when the process dies: every matching position is recorded or delivered again, and none
        /// that was recorded is delivered again.
        #[test]
        fn recovery_delivers_exactly_what_has_no_outcome(
            matching in prop::collection::btree_set(1i64..200, 0..60),
            handed in 0usize..60,
            settled in prop::collection::vec(0usize..60, 0..60),
            looked_at in 0i64..200,
        ) {
            let matching: Vec<i64> = matching.into_iter().collect();
            let mut progress = Progress::at(0);
            let handed = &matching[..handed.min(matching.len())];
            for position in handed {
                progress.hand_out(*position);
            }
            // Looked at: up to just before the next match.
            let limit = matching.get(handed.len()).map_or(200, |next| next - 1);
            progress.advance(looked_at.min(limit));
            let mut recorded = BTreeSet::new();
            for i in settled {
                if let Some(position) = handed.get(i) {
                    progress.settle(*position);
                    recorded.insert(*position);
                }
            }
            let saved = progress.save(progress.position()).unwrap_or(Saved { position: progress.position(), open: vec![] });
            let mut again: BTreeSet<i64> = saved.open.iter().copied().collect();
            again.extend(matching.iter().filter(|p| **p > saved.position));
            for position in &matching {
                prop_assert_ne!(recorded.contains(position), again.contains(position), "position {}", position);
            }
        }
    }
}
