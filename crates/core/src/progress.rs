//! How far a subscription has been dealt with, in a form that fits a checkpoint.
//!
//! The dispatcher routes the feed up to a position, the same for all subscriptions. A subscription that keeps up is *live*:
//! it stands there too. One that does not *lags*: it has a position of its own and re-reads the feed from there.
//!
//! Deliveries are handed out in position order and end in any order. The checkpoint keeps, for each subscription that needs
//! it, a position before which everything but a short list has its outcome recorded; recovery delivers the list and goes on
//! behind the position. What was handed out but never sent lies behind it, so the list is as short as the requests that were
//! in flight.

use std::collections::BTreeSet;

/// Progress of one subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Looked at up to here; `None`: live.
    lag: Option<i64>,
    /// Handed out, no outcome recorded.
    open: BTreeSet<i64>,
    /// Everything up to here has its outcome but what is in `open`; nothing behind it that matched has one.
    settled: i64,
}

/// What a checkpoint keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Go on behind this position.
    pub position: i64,
    /// And deliver these, which do not lie behind it.
    pub open: Vec<i64>,
}

impl Progress {
    /// Live, nothing open.
    pub fn live() -> Progress {
        Progress::default()
    }

    /// Lags: goes on behind `position`.
    pub fn behind(position: i64) -> Progress {
        Progress { lag: Some(position), open: BTreeSet::new(), settled: position }
    }

    /// Looked at up to this position; `None`: live.
    pub fn lag(&self) -> Option<i64> {
        self.lag
    }

    /// Handed out and without an outcome.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// The subscription cannot take more: it goes on behind `position` later.
    pub fn fall_behind(&mut self, position: i64) {
        self.lag = Some(position);
    }

    /// Everything up to `position` was looked at; from `routed` on the subscription is live.
    pub fn catch_up(&mut self, position: i64, routed: i64) {
        if self.lag.is_some() {
            self.lag = (position < routed).then_some(position);
        }
    }

    /// History is asked for: goes on behind `position`, or where it lags, whichever comes first. What is open behind that
    /// place is met again there.
    pub fn go_back(&mut self, position: i64) {
        let position = self.lag.map_or(position, |at| at.min(position));
        self.open.split_off(&(position + 1));
        self.settled = position;
        self.lag = Some(position);
    }

    /// A position matched and is handed out. Positions come in ascending order, but for those of a checkpoint's list.
    pub fn hand_out(&mut self, position: i64) {
        if self.open.is_empty() {
            self.settled = self.settled.max(position - 1);
        }
        self.open.insert(position);
    }

    /// A position matched and has its outcome without having been handed out.
    pub fn decide(&mut self, position: i64) {
        self.hand_out(position);
        self.settle(position);
    }

    /// The outcome of `position` is recorded together with the next checkpoint. `false` when it was not open.
    pub fn settle(&mut self, position: i64) -> bool {
        let was_open = self.open.remove(&position);
        if was_open {
            self.settled = self.settled.max(position);
        }
        was_open
    }

    /// What the checkpoint keeps; `None`: live with nothing open, which is what holds for those it does not list.
    pub fn save(&self) -> Option<Saved> {
        if self.open.is_empty() {
            return self.lag.map(|position| Saved { position, open: Vec::new() });
        }
        // What matched behind the highest settled position is open: going on from there finds it again.
        Some(Saved { position: self.settled, open: self.open.range(..=self.settled).copied().collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn queued_deliveries_are_not_listed() {
        let mut progress = Progress::live();
        for position in 1..=1000 {
            progress.hand_out(position);
        }
        for position in [1, 2, 4, 5] {
            assert!(progress.settle(position));
        }
        assert_eq!(progress.save(), Some(Saved { position: 5, open: vec![3] }));
        assert!(!progress.settle(4));
    }

    #[test]
    fn live_with_nothing_open_needs_no_entry() {
        let mut progress = Progress::live();
        assert_eq!(progress.save(), None);
        progress.hand_out(12);
        assert_eq!(progress.save(), Some(Saved { position: 11, open: vec![] }));
        progress.settle(12);
        assert_eq!(progress.save(), None);
        progress.fall_behind(30);
        assert_eq!(progress.save(), Some(Saved { position: 30, open: vec![] }));
        progress.catch_up(40, 40);
        assert_eq!(progress.save(), None);
    }

    #[test]
    fn a_list_from_a_checkpoint_stays_listed_until_it_is_settled() {
        let mut progress = Progress::behind(50);
        progress.hand_out(20);
        progress.hand_out(30);
        progress.settle(30);
        assert_eq!(progress.save(), Some(Saved { position: 50, open: vec![20] }));
    }

    #[test]
    fn going_back_forgets_nothing_that_was_open_before() {
        let mut progress = Progress::live();
        for position in [10, 20, 30] {
            progress.hand_out(position);
        }
        progress.settle(20);
        progress.go_back(15);
        assert_eq!(progress.save(), Some(Saved { position: 15, open: vec![10] }));
        // An outcome of before says nothing about what lies between.
        assert!(!progress.settle(30));
        assert_eq!(progress.save(), Some(Saved { position: 15, open: vec![10] }));
        progress.go_back(25);
        assert_eq!(progress.lag(), Some(15));
    }

    proptest! {
        /// However often the process dies: every matching position is recorded in the end, and none is handed out again once
        /// it was recorded.
        #[test]
        fn recovery_delivers_exactly_what_has_no_outcome(
            matching in prop::collection::btree_set(1i64..200, 0..60),
            lives in prop::collection::vec(
                prop::collection::vec((0usize..20, prop::collection::vec(any::<prop::sample::Index>(), 0..20)), 1..4),
                1..5,
            ),
            lags: bool,
        ) {
            let matching: Vec<i64> = matching.into_iter().collect();
            let mut recorded = BTreeSet::new();
            let mut saved = Some(Saved { position: 0, open: Vec::new() });
            let mut routed = 0;
            for rounds in lives {
                // Recovery.
                let from = saved.clone().unwrap_or(Saved { position: routed, open: Vec::new() });
                let mut progress = Progress::behind(from.position);
                for position in &from.open {
                    prop_assert!(!recorded.contains(position));
                    progress.hand_out(*position);
                }
                if !lags {
                    progress.catch_up(from.position, from.position);
                }
                let mut handed: Vec<i64> = from.open;
                let mut next = matching.partition_point(|p| *p <= from.position);
                // Then life goes on until the next crash.
                for (hand_out, settle) in rounds {
                    for position in matching[next..].iter().take(hand_out) {
                        prop_assert!(!recorded.contains(position), "{} again", position);
                        progress.hand_out(*position);
                        handed.push(*position);
                    }
                    next = (next + hand_out).min(matching.len());
                    // Looked at: up to just before the next match.
                    routed = matching.get(next).map_or(200, |p| p - 1);
                    if lags {
                        progress.fall_behind(routed);
                    }
                    for index in settle {
                        if !handed.is_empty() {
                            let position = handed[index.index(handed.len())];
                            prop_assert_eq!(progress.settle(position), recorded.insert(position));
                        }
                    }
                }
                saved = progress.save();
                let after = saved.clone().unwrap_or(Saved { position: routed, open: vec![] });
                for position in &matching {
                    let again = *position > after.position || after.open.contains(position);
                    prop_assert_ne!(recorded.contains(position), again, "position {}", position);
                }
            }
        }
    }
}
