//! The progress of a subscription, in a form that fits into a checkpoint.
//!
//! The dispatcher routes the feed up to a position, which is the same for all subscriptions. A subscription that keeps up is
//! *live*: its own position is the same. A subscription that does not keep up *lags*: it has a position of its own and
//! re-reads the feed from there.
//!
//! Deliveries are queued for sending in the order of positions and end in any order. For each subscription that needs it,
//! the checkpoint stores a position and a short list. Every delivery up to the position has a recorded outcome, except the
//! deliveries in the list. Recovery delivers the list and continues after the position. Deliveries that were queued but
//! never sent are after the position, so the list is no longer than the number of requests that were in flight.

use std::collections::BTreeSet;

/// Progress of one subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The position up to which the feed was read for this subscription. `None`: the subscription is live.
    lag: Option<i64>,
    /// Positions of deliveries that were queued for sending and have no recorded outcome.
    open: BTreeSet<i64>,
    /// Every matching position up to here has an outcome, except those in `open`. No matching position after it has one.
    settled: i64,
}

/// The entry of a subscription in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Recovery continues after this position ...
    pub position: i64,
    /// ... and also delivers these positions, none of which is after it.
    pub open: Vec<i64>,
}

impl Progress {
    /// Creates the progress of a live subscription with no open deliveries.
    pub fn live() -> Progress {
        Progress::default()
    }

    /// Creates the progress of a lagging subscription that continues after `position`.
    pub fn behind(position: i64) -> Progress {
        Progress { lag: Some(position), open: BTreeSet::new(), settled: position }
    }

    /// Returns the position up to which the feed was read for this subscription, or `None` if the subscription is live.
    pub fn lag(&self) -> Option<i64> {
        self.lag
    }

    /// Returns the number of deliveries that were queued for sending and have no outcome.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Lets the subscription lag: it cannot take more deliveries now, and continues after `position` later.
    pub fn fall_behind(&mut self, position: i64) {
        self.lag = Some(position);
    }

    /// Records that a lagging subscription has read the feed up to `position`. The subscription becomes live if `position`
    /// has reached `routed`.
    pub fn catch_up(&mut self, position: i64, routed: i64) {
        if self.lag.is_some() {
            self.lag = (position < routed).then_some(position);
        }
    }

    /// Moves the subscription back, because history is requested. It continues after `position` or after the position at
    /// which it lags, whichever is lower. Open deliveries after that position are forgotten, because the subscription meets
    /// them again.
    pub fn go_back(&mut self, position: i64) {
        let position = self.lag.map_or(position, |at| at.min(position));
        self.open.split_off(&(position + 1));
        self.settled = position;
        self.lag = Some(position);
    }

    /// Records that the delivery of a matching position is queued for sending. Positions come in ascending order, except
    /// those of a checkpoint's list.
    pub fn hand_out(&mut self, position: i64) {
        if self.open.is_empty() {
            self.settled = self.settled.max(position - 1);
        }
        self.open.insert(position);
    }

    /// Records that a matching position has an outcome without having been queued for sending.
    pub fn decide(&mut self, position: i64) {
        self.hand_out(position);
        self.settle(position);
    }

    /// Records that the outcome of `position` is written together with the next checkpoint. Returns `false` if the position
    /// was not open.
    pub fn settle(&mut self, position: i64) -> bool {
        let was_open = self.open.remove(&position);
        if was_open {
            self.settled = self.settled.max(position);
        }
        was_open
    }

    /// Returns the entry for the checkpoint. `None`: the subscription is live with no open deliveries. This is the state of
    /// every subscription that a checkpoint does not list.
    pub fn save(&self) -> Option<Saved> {
        if self.open.is_empty() {
            return self.lag.map(|position| Saved { position, open: Vec::new() });
        }
        // All matching positions after the highest settled position are open. Continuing from there finds them again.
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
        // An outcome from before the move says nothing about the positions in between.
        assert!(!progress.settle(30));
        assert_eq!(progress.save(), Some(Saved { position: 15, open: vec![10] }));
        progress.go_back(25);
        assert_eq!(progress.lag(), Some(15));
    }

    proptest! {
        /// However often the process dies, every matching position is recorded in the end, and no position is queued again
        /// after it was recorded.
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
                // The process works until the next crash.
                for (hand_out, settle) in rounds {
                    for position in matching[next..].iter().take(hand_out) {
                        prop_assert!(!recorded.contains(position), "{} again", position);
                        progress.hand_out(*position);
                        handed.push(*position);
                    }
                    next = (next + hand_out).min(matching.len());
                    // The feed was read up to the position before the next match.
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
