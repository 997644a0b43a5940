//! The rows of `outbox.metrics()` in the text format of Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

/// A metric: its name, its type, its labels, and what it tells. docs/operations.md has the table.
struct Metric(
    &'static str,
    &'static str,
    #[cfg_attr(not(test), expect(dead_code, reason = "the table has the labels"))] &'static [&'static str],
    &'static str,
);

const OUTCOME: &[&str] = &["subscription", "endpoint"];
const CURSOR: &[&str] = &["consumer", "stream", "subject"];

/// The metrics. One that is not listed is printed without a description.
const METRICS: &[Metric] = &[
    Metric("outbox_enqueued_total", "counter", &[], "Message ids drawn, including rolled-back ones"),
    Metric("outbox_feed_position", "gauge", &[], "Last position of the feed"),
    Metric("outbox_routed_position", "gauge", &[], "Position up to which the feed is routed"),
    Metric("outbox_tail_position", "gauge", &[], "First position whose message is still stored"),
    Metric("outbox_processed_total", "counter", OUTCOME, "Completed deliveries"),
    Metric("outbox_failed_total", "counter", OUTCOME, "Failed attempts that are repeated"),
    Metric("outbox_dead_lettered_total", "counter", OUTCOME, "Deliveries that became dead letters"),
    Metric("outbox_expired_total", "counter", OUTCOME, "Deliveries that expired"),
    Metric("outbox_cancelled_total", "counter", OUTCOME, "Deliveries that were cancelled"),
    Metric("outbox_skipped_total", "counter", OUTCOME, "Deliveries that ended unsent"),
    Metric("outbox_returned_total", "counter", OUTCOME, "Deliveries that workers released"),
    Metric("outbox_partial_total", "counter", OUTCOME, "Messages of batches with different outcomes"),
    Metric("outbox_request_seconds", "summary", &["endpoint"], "Total time and number of HTTP requests"),
    Metric(
        "outbox_request_duration_seconds",
        "histogram",
        &["le"],
        "Duration of all HTTP requests, since the server started",
    ),
    Metric(
        "outbox_delivery_duration_seconds",
        "histogram",
        &["le"],
        "Time of pushed deliveries from enqueue, or from a later deliver_at, until the receiver had the message, with all \
         retries, since the server started; without replays and manual sends",
    ),
    Metric("outbox_pending", "gauge", &["subscription", "state"], "Deliveries that have a row and no outcome yet"),
    Metric(
        "outbox_subscription_lag_positions",
        "gauge",
        &["subscription"],
        "Positions that the subscription has not processed",
    ),
    Metric(
        "outbox_subscription_lag_seconds",
        "gauge",
        &["subscription"],
        "Time since the first of these positions came into the feed",
    ),
    Metric(
        "outbox_oldest_due_seconds",
        "gauge",
        &["subscription"],
        "Time for which the oldest due delivery has waited to be sent or claimed",
    ),
    Metric("outbox_cursor_lag_positions", "gauge", CURSOR, "Positions after the cursor of a reader of the feed"),
    Metric("outbox_cursor_lag_seconds", "gauge", CURSOR, "Time since the first of these positions came into the feed"),
    Metric(
        "outbox_cursor_error_seconds",
        "gauge",
        CURSOR,
        "Time for which a reader has not been able to go on, by its own record; 0 if it can",
    ),
    Metric("outbox_dead_letters_open", "gauge", &["subscription"], "Dead letters that nobody has dealt with"),
    Metric("outbox_relay_up", "gauge", &["relay"], "Whether a relay runs"),
    Metric("outbox_relay_position", "gauge", &["relay"], "Position up to which the broker of a relay has acknowledged"),
    Metric("outbox_relay_lag_positions", "gauge", &["relay"], "Positions after that of the relay"),
    Metric("outbox_relay_relayed", "gauge", &["relay"], "Messages that a relay has relayed since its start"),
    Metric(
        "outbox_relay_skipped",
        "gauge",
        &["relay"],
        "Messages that a relay has skipped or dead-lettered since its start",
    ),
    Metric("outbox_ring_bytes", "gauge", &["ring"], "Size of a log on disk"),
    Metric(
        "outbox_category_lag_positions",
        "gauge",
        &[],
        "Positions between the end of the lists of categories and the last event; a reader of a category reads them one by one",
    ),
    Metric(
        "outbox_event_bytes",
        "gauge",
        &["part"],
        "Size of the permanent logs with their indexes: events, their places in the feed, and in the lists of categories. Nothing \
         frees them",
    ),
    Metric("outbox_worker_up", "gauge", &[], "Whether the dispatcher runs"),
    Metric("outbox_launcher_up", "gauge", &[], "Whether the launcher runs"),
    Metric("outbox_worker_silent_seconds", "gauge", &[], "Time since the dispatcher last came round"),
    Metric(
        "outbox_unnumbered_seconds",
        "gauge",
        &[],
        "Time for which the oldest committed message has waited for its position",
    ),
    Metric("outbox_in_flight", "gauge", &[], "Requests that were sent and not answered yet"),
    Metric("outbox_queued", "gauge", &[], "Deliveries in the queue of the dispatcher"),
    Metric(
        "outbox_serve_query_seconds",
        "histogram",
        &["step", "le"],
        "Time of the dashboard's own statements, and of its waits for a session, since it started: session, read or write",
    ),
    Metric("outbox_serve_spans_total", "counter", &[], "Spans of deliveries that the receiver of traces has taken"),
    Metric(
        "outbox_serve_spans_rejected_total",
        "counter",
        &[],
        "Spans that the receiver of traces has refused for good",
    ),
    Metric(
        "outbox_serve_span_requests_failed_total",
        "counter",
        &[],
        "Requests with spans, and looks at the log of attempts, that failed and were made again",
    ),
    Metric("outbox_database_up", "gauge", &["database"], "Whether the dashboard reaches a database, of several"),
];

fn known(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.0 == name)
}

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
        let metric = known(name);
        if let Some(Metric(_, _, _, help)) = metric {
            let _ = writeln!(out, "# HELP {name} {help}");
        }
        let kind = match metric {
            Some(Metric(_, kind, ..)) => *kind,
            None if name.ends_with("_total") => "counter",
            None => "gauge",
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
            "# HELP outbox_pending Deliveries that have a row and no outcome yet\n# TYPE outbox_pending gauge\n\
             outbox_pending{state=\"failed\",subscription=\"a\\\"b\\\\c\\nd\"} 2\n\
             # HELP outbox_processed_total Completed deliveries\n# TYPE outbox_processed_total counter\n\
             outbox_processed_total 7\n\
             # HELP outbox_request_seconds Total time and number of HTTP requests\n# TYPE outbox_request_seconds summary\n\
             outbox_request_seconds_count{endpoint=\"e\"} 3\noutbox_request_seconds_sum{endpoint=\"e\"} 1.5\n"
        );
    }

    /// The table of docs/operations.md is made of the list. With UPDATE=1 it is written.
    #[test]
    fn the_table_of_metrics_is_that_of_the_list() {
        let mut table = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
        for Metric(name, kind, labels, help) in METRICS {
            let _ = writeln!(table, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
        }
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = page.split_once("<!-- metrics: made from serve/src/metrics.rs -->\n").unwrap();
        let (old, after) = rest.split_once("<!-- end of metrics -->").unwrap();
        if std::env::var_os("UPDATE").is_some() {
            let new = format!(
                "{before}<!-- metrics: made from serve/src/metrics.rs -->\n{table}<!-- end of metrics -->{after}"
            );
            std::fs::write(&path, new).unwrap();
        } else {
            assert_eq!(old, table, "UPDATE=1 writes the table");
        }
    }

    #[test]
    fn metrics_are_listed_once_and_named_for_their_type() {
        for (n, Metric(name, kind, ..)) in METRICS.iter().enumerate() {
            assert!(METRICS.iter().skip(n + 1).all(|other| other.0 != *name), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == "counter", "{name}");
        }
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
