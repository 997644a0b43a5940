//! The figures of the dashboard itself, in the form of the rows of `outbox.metrics()`.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

/// The upper bounds of the buckets, in seconds.
const BOUNDS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// A histogram of durations. The last bucket has what is above all bounds.
#[derive(Debug, Default)]
pub(crate) struct Durations {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

impl Durations {
    pub(crate) fn add(&self, duration: Duration) {
        let bucket = BOUNDS.iter().position(|bound| duration.as_secs_f64() <= *bound).unwrap_or(BOUNDS.len());
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    fn rows(&self, name: &str, step: &str) -> Vec<Value> {
        let bounds = BOUNDS.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        let mut count = 0;
        let mut rows = Vec::new();
        for (bucket, bound) in self.buckets.iter().zip(bounds) {
            count += bucket.load(Ordering::Relaxed);
            rows.push(json!({"name": format!("{name}_bucket"), "labels": {"step": step, "le": bound}, "value": count}));
        }
        let seconds = self.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
        rows.push(json!({"name": format!("{name}_sum"), "labels": {"step": step}, "value": seconds}));
        rows.push(json!({"name": format!("{name}_count"), "labels": {"step": step}, "value": count}));
        rows
    }
}

/// The figures of one database.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// Waits for a session.
    pub(crate) sessions: Durations,
    /// Statements of transactions that read.
    pub(crate) reads: Durations,
    /// Statements of transactions that write.
    pub(crate) writes: Durations,
    /// Spans that the receiver has taken.
    pub(crate) spans: AtomicI64,
    /// Spans that the receiver has refused for good.
    pub(crate) spans_rejected: AtomicI64,
    /// Requests with spans, and looks at the log of attempts, that failed and are made again.
    pub(crate) spans_failed: AtomicI64,
}

impl Own {
    /// Adds to a figure. It only grows.
    pub(crate) fn add(figure: &AtomicI64, n: i64) {
        figure.fetch_add(n, Ordering::Relaxed);
    }

    /// Returns the figures. `traces`: spans are exported.
    pub(crate) fn rows(&self, traces: bool) -> Vec<Value> {
        let mut rows = Vec::new();
        for (step, durations) in [("session", &self.sessions), ("read", &self.reads), ("write", &self.writes)] {
            rows.extend(durations.rows("outbox_serve_query_seconds", step));
        }
        if traces {
            for (name, figure) in [
                ("outbox_serve_spans_total", &self.spans),
                ("outbox_serve_spans_rejected_total", &self.spans_rejected),
                ("outbox_serve_span_requests_failed_total", &self.spans_failed),
            ] {
                rows.push(json!({"name": name, "labels": {}, "value": figure.load(Ordering::Relaxed)}));
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_is_at_most_its_bounds() {
        let own = Own::default();
        for milliseconds in [1, 2, 10_000] {
            own.reads.add(Duration::from_millis(milliseconds));
        }
        let text = crate::metrics::exposition(&own.rows(false));
        for line in [
            "# TYPE outbox_serve_query_seconds histogram",
            "outbox_serve_query_seconds_bucket{le=\"0.001\",step=\"read\"} 1",
            "outbox_serve_query_seconds_bucket{le=\"5\",step=\"read\"} 2",
            "outbox_serve_query_seconds_bucket{le=\"+Inf\",step=\"read\"} 3",
            "outbox_serve_query_seconds_sum{step=\"read\"} 10.003",
            "outbox_serve_query_seconds_count{step=\"write\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
