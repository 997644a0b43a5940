//! The last quarter of an hour, for rates and charts: sums that only grow, taken from `outbox.metrics()` at intervals.
//! Nothing of it is stored.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::app::Place;

/// The time between two samples.
pub(crate) const EVERY: Duration = Duration::from_secs(10);

/// The samples that are kept.
const KEPT: usize = 91;

/// The subscriptions of which the rate is kept.
const SUBSCRIPTIONS: usize = 1000;

/// The sums at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    at: Instant,
    numbered: f64,
    completed: f64,
    failed: f64,
    /// Positions that are not routed yet.
    pub(crate) unrouted: f64,
    /// The longest time for which a delivery has been due, in seconds.
    pub(crate) oldest_due: f64,
    subscriptions: HashMap<String, f64>,
}

/// Events per second, between two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) numbered: f64,
    pub(crate) completed: f64,
    pub(crate) failed: f64,
}

/// The last samples.
#[derive(Debug, Default)]
pub(crate) struct Samples(Mutex<VecDeque<Sample>>);

impl Samples {
    fn add(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// Returns a copy of the samples without those of subscriptions.
    pub(crate) fn all(&self) -> Vec<Sample> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().map(|sample| Sample { subscriptions: HashMap::new(), ..sample.clone() }).collect()
    }

    /// Returns the completed deliveries per second of each subscription over the last minute.
    pub(crate) fn per_subscription(&self) -> HashMap<String, f64> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = samples.back() else { return HashMap::new() };
        let Some(before) = samples.get(samples.len().saturating_sub(7)).filter(|before| before.at < last.at) else {
            return HashMap::new();
        };
        let seconds = (last.at - before.at).as_secs_f64();
        let rate = |(name, sum): (&String, &f64)| {
            Some((name.clone(), (sum - before.subscriptions.get(name)?).max(0.0) / seconds))
        };
        last.subscriptions.iter().filter_map(rate).collect()
    }
}

/// Returns the rates between neighbours.
pub(crate) fn rates(samples: &[Sample]) -> Vec<Rates> {
    let pairs = samples.iter().zip(samples.iter().skip(1));
    pairs
        .map(|(before, after)| {
            let seconds = (after.at - before.at).as_secs_f64().max(0.001);
            // Sums begin again at 0 where a copy was adopted.
            let rate = |from: f64, to: f64| (to - from).max(0.0) / seconds;
            Rates {
                numbered: rate(before.numbered, after.numbered),
                completed: rate(before.completed, after.completed),
                failed: rate(before.failed, after.failed),
            }
        })
        .collect()
}

/// Reads the sums of `outbox.metrics()`.
fn sample(rows: &[Value], at: Instant) -> Sample {
    let mut found = Sample {
        at,
        numbered: 0.0,
        completed: 0.0,
        failed: 0.0,
        unrouted: 0.0,
        oldest_due: 0.0,
        subscriptions: HashMap::new(),
    };
    let mut routed = 0.0;
    for row in rows {
        let value = row["value"].as_f64().unwrap_or(0.0);
        match row["name"].as_str().unwrap_or_default() {
            "outbox_feed_position" => found.numbered = value,
            "outbox_routed_position" => routed = value,
            "outbox_processed_total" => {
                found.completed += value;
                if let Some(name) = row["labels"]["subscription"].as_str()
                    && (found.subscriptions.len() < SUBSCRIPTIONS || found.subscriptions.contains_key(name))
                {
                    *found.subscriptions.entry(name.to_owned()).or_default() += value;
                }
            }
            "outbox_failed_total" => found.failed += value,
            "outbox_oldest_due_seconds" => found.oldest_due = found.oldest_due.max(value),
            _ => {}
        }
    }
    found.unrouted = (found.numbered - routed).max(0.0);
    found
}

/// Takes samples for as long as the server runs. Where the database does not answer, samples are missing.
pub(crate) async fn follow(place: &Place) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Ok(rows) = place.metrics().await {
            place.samples.add(sample(&rows, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_differences_and_never_negative() {
        let start = Instant::now();
        let rows = |position: i64, completed: i64| {
            [
                json!({"name": "outbox_feed_position", "labels": {}, "value": position}),
                json!({"name": "outbox_routed_position", "labels": {}, "value": position - 1}),
                json!({"name": "outbox_processed_total", "labels": {"subscription": "a"}, "value": completed}),
                json!({"name": "outbox_processed_total", "labels": {"subscription": "b"}, "value": 1}),
            ]
        };
        let samples = Samples::default();
        samples.add(sample(&rows(100, 10), start));
        assert!(samples.per_subscription().is_empty());
        samples.add(sample(&rows(200, 30), start + Duration::from_secs(10)));
        assert_eq!(samples.per_subscription()["a"], 2.0);
        samples.add(sample(&rows(0, 0), start + Duration::from_secs(20)));
        let rates = rates(&samples.all());
        assert_eq!(rates[0], Rates { numbered: 10.0, completed: 2.0, failed: 0.0 });
        assert_eq!(rates[1], Rates::default());
        assert_eq!(samples.all()[0].unrouted, 1.0);
        for _ in 0..KEPT * 2 {
            samples.add(sample(&[], start));
        }
        assert_eq!(samples.all().len(), KEPT);
    }
}
