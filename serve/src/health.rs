//! The health checks that are not ok, and the page and the command that show more about one.

use serde_json::Value;

/// Returns the rows of `health()` that are not ok, critical ones first.
pub fn wrong(health: &[Value]) -> Vec<Value> {
    let mut wrong: Vec<Value> = health.iter().filter(|row| row["state"] != "ok").cloned().collect();
    wrong.sort_by_key(|row| row["state"] != "critical");
    wrong
}

/// Returns the command that shows more about a health check.
pub fn command_for(check: &str) -> Option<&'static str> {
    Some(match check {
        "worker" | "launcher" | "version" => "outbox doctor",
        "subscriptions" | "deliveries" | "max_lag" => "outbox subscription list",
        "endpoints" => "outbox endpoint list",
        "cursors" => "outbox cursor list",
        "projections" => "outbox project",
        "dead letters" => "outbox dlq list",
        _ => return None,
    })
}

/// Returns the page that shows more about a health check.
pub(crate) fn page_for(check: &str) -> Option<(&'static str, &'static str)> {
    Some(match check {
        "subscriptions" | "deliveries" | "max_lag" => ("/subscriptions", "Subscriptions"),
        "endpoints" => ("/endpoints", "Endpoints"),
        "cursors" | "projections" | "relays" => ("/workers", "Workers"),
        "dead letters" => ("/dead-letters", "Dead letters"),
        "faults" | "space" | "maintenance" | "identity" => ("/storage", "Storage"),
        _ => return None,
    })
}
