//! The screen of `status` and `top`: throughput, endpoints, subscriptions and failed health checks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::output;
use pg_outbox::error::Result;
use pg_outbox::outbox::Outbox;

const ENDPOINTS: &[&str] = &["name", "url", "state", "failures", "last_error"];
const SUBSCRIPTIONS: &[&str] = &["name", "to", "completed", "per_second", "behind", "waiting", "dead"];

/// The state of an outbox at one moment.
pub(super) struct Screen {
    at: Instant,
    stats: Value,
    dead_letters: Value,
    endpoints: Vec<Value>,
    subscriptions: Vec<Value>,
    wrong: Vec<Value>,
}

impl Screen {
    /// Reads the state. Rates are computed since `before`.
    pub(super) async fn look(outbox: &Outbox, before: Option<&Screen>) -> Result<Screen> {
        let rows = async |function: &str| outbox.call(function, json!({}), &[]).await;
        let first = |rows: Vec<Value>| rows.into_iter().next().unwrap_or(Value::Null);
        let stats = first(rows("stats").await?);
        let at = Instant::now();
        let metrics = Metrics::read(&rows("metrics").await?);
        let endpoints: Vec<Value> = outbox
            .table("endpoint_status", json!({}), 1000, &[])
            .await?
            .into_iter()
            .filter(|row| row["state"] != "dropped")
            .collect();
        let names: BTreeMap<i64, &str> =
            endpoints.iter().filter_map(|row| Some((row["endpoint_id"].as_i64()?, row["name"].as_str()?))).collect();
        let subscriptions = outbox
            .table("subscription", json!({}), 1000, &[])
            .await?
            .iter()
            .filter(|row| row["deleted_at"].is_null())
            .map(|row| {
                let name = row["name"].as_str().unwrap_or_default();
                let to = match row["endpoint_id"].as_i64() {
                    None => "(workers)".to_owned(),
                    Some(id) => names.get(&id).map_or_else(|| id.to_string(), ToString::to_string),
                };
                let of = |what: &str| metrics.of(what, name);
                let completed = of("outbox_processed_total");
                let rate = before.and_then(|old| {
                    let row = old.subscriptions.iter().find(|row| row["name"] == name)?;
                    Some(per_second(completed - row["completed"].as_i64()?, at - old.at))
                });
                json!({
                    "name": name, "to": to, "paused": row["paused"], "completed": completed, "per_second": rate,
                    "behind": of("outbox_subscription_lag_positions"), "waiting": of("outbox_pending"),
                    "dead": of("outbox_dead_letters_open"),
                })
            })
            .collect();
        let wrong = wrong(&rows("health").await?);
        Ok(Screen { at, stats, dead_letters: first(rows("dead_letter_stats").await?), endpoints, subscriptions, wrong })
    }

    /// Returns whether a health check is worse than a warning.
    pub(super) fn is_bad(&self) -> bool {
        self.wrong.iter().any(|row| row["state"] != "warning")
    }

    /// The whole state as JSON, for programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "stats": self.stats, "dead_letters": self.dead_letters, "endpoints": self.endpoints,
            "subscriptions": self.subscriptions, "wrong": self.wrong,
        })
    }

    /// The screen as text. Rates are computed since `before`.
    pub(super) fn text(&self, before: Option<&Screen>) -> String {
        let number = |name: &str| self.stats[name].as_i64().unwrap_or(0);
        let rate = |name: &str| {
            before.map_or(String::new(), |old| {
                let change = number(name) - old.stats[name].as_i64().unwrap_or(0);
                format!("   {}/s", per_second(change, self.at - old.at))
            })
        };
        let mut out = format!(
            "worker      {}\nenqueued    {}{}\ndelivering  {} in flight   {} queued   {} waiting for a retry or a worker\nbehind      {} of {} messages are not routed yet{}\n",
            output::text(&self.stats["worker"]),
            number("messages"),
            rate("messages"),
            number("in_flight"),
            number("queued"),
            number("waiting"),
            (number("feed_end") - number("routed")).max(0),
            number("feed_end"),
            rate("routed").replace("/s", "/s routed"),
        );
        out += &format!("dead        {} open", number("dead_letters"));
        if let Some(reason) = self.dead_letters["top_failure_reason"].as_str() {
            out += &format!("   most often: {reason}");
        }
        out += "\n\nSUBSCRIPTIONS\n";
        out += &output::table(&self.subscriptions, SUBSCRIPTIONS);
        out += "\nENDPOINTS\n";
        out += &output::table(&self.endpoints, ENDPOINTS);
        if self.wrong.is_empty() {
            out += "\nnothing is wrong\n";
        } else {
            out += "\nWRONG\n";
            for row in &self.wrong {
                let text = |name: &str| output::text(&row[name]);
                out += &format!("{}: {}: {}\n", text("state"), text("check"), text("culprit"));
                out += &format!("    -> {}\n", text("what_to_do"));
            }
        }
        out
    }
}

/// The rows of `health()` that are not ok.
pub(super) fn wrong(health: &[Value]) -> Vec<Value> {
    health.iter().filter(|row| row["state"] != "ok").cloned().collect()
}

fn per_second(count: i64, over: Duration) -> i64 {
    (count as f64 / over.as_secs_f64().max(0.001)).round() as i64
}

/// The values of `metrics()` by name and subscription, summed over the other labels.
struct Metrics(BTreeMap<(String, String), f64>);

impl Metrics {
    fn read(rows: &[Value]) -> Metrics {
        let mut found = BTreeMap::new();
        for row in rows {
            let name = row["name"].as_str().unwrap_or_default().to_owned();
            let subscription = row["labels"]["subscription"].as_str().unwrap_or_default().to_owned();
            *found.entry((name, subscription)).or_default() += row["value"].as_f64().unwrap_or(0.0);
        }
        Metrics(found)
    }

    fn of(&self, name: &str, subscription: &str) -> i64 {
        self.0.get(&(name.to_owned(), subscription.to_owned())).map_or(0, |value| *value as i64)
    }
}
