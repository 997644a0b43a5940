//! The rows of `outbox.metrics()` in the text format of Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

/// The descriptions of the metrics. A metric that is not listed is printed without a description.
const HELP: &[(&str, &str)] = &[
    ("outbox_processed_total", "Completed deliveries"),
    ("outbox_failed_total", "Failed attempts"),
    ("outbox_dead_lettered_total", "Deliveries that became dead letters"),
    ("outbox_expired_total", "Deliveries that expired"),
    ("outbox_cancelled_total", "Deliveries that were cancelled"),
    ("outbox_skipped_total", "Deliveries that ended unsent"),
    ("outbox_returned_total", "Deliveries that workers released"),
    ("outbox_partial_total", "Messages of batches with different outcomes"),
    ("outbox_request_seconds", "Duration of requests, by endpoint"),
    ("outbox_request_duration_seconds", "Duration of requests, since the server started"),
    (
        "outbox_delivery_duration_seconds",
        "Time from enqueue, or from deliver_at, until the receiver had a message, since the server started",
    ),
    ("outbox_pending", "Deliveries with a row, by state"),
    ("outbox_subscription_lag_positions", "Positions that the subscription has not processed"),
    ("outbox_subscription_lag_seconds", "Time since the first of them came into the feed"),
    ("outbox_oldest_due_seconds", "Time for which the oldest due delivery has waited to be sent or claimed"),
    ("outbox_cursor_lag_positions", "Positions after the cursor of a reader"),
    ("outbox_cursor_lag_seconds", "Time since the first of them came into the feed"),
    ("outbox_cursor_error_seconds", "Time for which a reader has not been able to go on; 0 if it can"),
    ("outbox_dead_letters_open", "Dead letters that nobody has dealt with"),
    ("outbox_relay_up", "Whether a relay runs"),
    ("outbox_relay_position", "Position up to which the broker of a relay has acknowledged"),
    ("outbox_relay_lag_positions", "Positions after that one"),
    ("outbox_relay_relayed", "Messages that a relay has relayed since its start"),
    ("outbox_relay_skipped", "Messages that a relay has skipped or dead-lettered since its start"),
    ("outbox_ring_bytes", "Size of a log on disk"),
    ("outbox_category_lag_positions", "Positions between the lists of categories and the last event"),
    ("outbox_event_bytes", "Size of a permanent log of events on disk"),
    ("outbox_enqueued_total", "Messages, including those that were rolled back"),
    ("outbox_feed_position", "Last position of the feed"),
    ("outbox_routed_position", "Position up to which the feed is routed"),
    ("outbox_tail_position", "First position whose message is still stored"),
    ("outbox_worker_up", "Whether the dispatcher runs"),
    ("outbox_launcher_up", "Whether the launcher runs"),
    ("outbox_worker_silent_seconds", "Time since the dispatcher last came round"),
    ("outbox_unnumbered_seconds", "Time for which the oldest message has waited for its position"),
    ("outbox_in_flight", "Requests that were sent and not answered yet"),
    ("outbox_queued", "Deliveries that are about to be sent"),
];

/// The largest number of values of a label. The first ones in the order of the alphabet keep their names; all others share
/// the value [`OTHER`].
const MAX_VALUES: usize = 500;

const OTHER: &str = "other";

/// Returns the rows of `outbox.metrics()` in the text format, with the samples of a metric in one group after its HELP
/// and TYPE.
pub fn exposition(rows: &[Value]) -> String {
    exposition_of(rows, MAX_VALUES)
}

fn exposition_of(rows: &[Value], max_values: usize) -> String {
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (label, value) in rows.iter().flat_map(|row| pairs(&row["labels"])) {
        values.entry(label).or_default().insert(value);
    }
    // The last value of each label that keeps its name.
    let last = |label: &str| values[label].iter().nth(max_values.saturating_sub(1)).copied();
    let last: BTreeMap<&str, Option<&str>> = values.keys().map(|label| (*label, last(label))).collect();
    let mut samples: BTreeMap<(&str, String), f64> = BTreeMap::new();
    for row in rows {
        let (Some(name), Some(value)) = (row["name"].as_str(), row["value"].as_f64()) else { continue };
        let kept = pairs(&row["labels"]).map(|(label, value)| match last[label] {
            Some(last) if value > last => (label, OTHER),
            _ => (label, value),
        });
        samples.entry((name, labels(kept))).and_modify(|sum| *sum = merged(name, *sum, value)).or_insert(value);
    }
    let mut families: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((name, labels), value) in samples {
        families.entry(family(name)).or_default().push(format!("{name}{labels} {value}"));
    }
    let mut out = String::new();
    for (name, samples) in families {
        if let Some((_, help)) = HELP.iter().find(|(known, _)| *known == name) {
            let _ = writeln!(out, "# HELP {name} {help}");
        }
        let kind = match name {
            "outbox_request_seconds" => "summary",
            "outbox_request_duration_seconds" | "outbox_delivery_duration_seconds" => "histogram",
            counter if counter.ends_with("_total") => "counter",
            _ => "gauge",
        };
        let _ = writeln!(out, "# TYPE {name} {kind}\n{}", samples.join("\n"));
    }
    out
}

/// The metric that a sample belongs to: sum, count and bucket are samples of a summary or a histogram.
fn family(name: &str) -> &str {
    ["_sum", "_count", "_bucket"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// Merges the samples of names that are no longer told apart: counts and sizes are added, and of the others the worst is kept.
fn merged(name: &str, a: f64, b: f64) -> f64 {
    let added = ["_total", "_sum", "_count", "_bucket", "_bytes", "_open", "_pending", "_relayed", "_skipped"];
    if added.iter().any(|end| name.ends_with(end)) {
        a + b
    } else if name.ends_with("_up") || name.ends_with("_position") {
        a.min(b)
    } else {
        a.max(b)
    }
}

fn pairs(labels: &Value) -> impl Iterator<Item = (&str, &str)> {
    labels.as_object().into_iter().flatten().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
}

fn labels<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn samples_are_grouped_described_and_escaped() {
        let rows = [
            json!({"name": "outbox_pending", "labels": {"subscription": "a\"b\\c\nd", "state": "failed"}, "value": 2}),
            json!({"name": "outbox_request_seconds_sum", "labels": {"endpoint": "e"}, "value": 1.5}),
            json!({"name": "outbox_processed_total", "labels": {"subscription": null}, "value": 7}),
            json!({"name": "outbox_request_seconds_count", "labels": {"endpoint": "e"}, "value": 3}),
        ];
        assert_eq!(
            exposition(&rows),
            "# HELP outbox_pending Deliveries with a row, by state\n# TYPE outbox_pending gauge\n\
             outbox_pending{state=\"failed\",subscription=\"a\\\"b\\\\c\\nd\"} 2\n\
             # HELP outbox_processed_total Completed deliveries\n# TYPE outbox_processed_total counter\n\
             outbox_processed_total 7\n\
             # HELP outbox_request_seconds Duration of requests, by endpoint\n# TYPE outbox_request_seconds summary\n\
             outbox_request_seconds_count{endpoint=\"e\"} 3\noutbox_request_seconds_sum{endpoint=\"e\"} 1.5\n"
        );
    }

    #[test]
    fn names_beyond_the_limit_share_one() {
        let mut rows = Vec::new();
        for (i, name) in ["a", "b", "c", "d"].iter().enumerate() {
            rows.push(json!({"name": "outbox_processed_total", "labels": {"subscription": name, "endpoint": "e"}, "value": 10}));
            rows.push(json!({"name": "outbox_subscription_lag_seconds", "labels": {"subscription": name}, "value": i}));
            rows.push(json!({"name": "outbox_relay_up", "labels": {"relay": name}, "value": u8::from(i != 2)}));
        }
        let text = exposition_of(&rows, 2);
        for line in [
            "outbox_processed_total{endpoint=\"e\",subscription=\"b\"} 10",
            "outbox_processed_total{endpoint=\"e\",subscription=\"other\"} 20",
            "outbox_subscription_lag_seconds{subscription=\"other\"} 3",
            "outbox_relay_up{relay=\"other\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(!text.contains("\"c\""));
        assert!(exposition_of(&rows, 4).contains("\"d\"") && !exposition_of(&rows, 4).contains(OTHER));
    }
}
