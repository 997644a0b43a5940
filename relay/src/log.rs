//! Log lines: one JSON object per line on the standard error output. They contain no payload and no credentials.

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

/// Writes one line. `fields` is an object whose entries are added to the line.
pub(crate) fn line(level: &str, relay: &str, message: &str, fields: Value) {
    let mut line = json!({
        "at": Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true), "level": level, "relay": relay,
        "message": message,
    });
    if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
        line.extend(fields);
    }
    eprintln!("{line}");
}
