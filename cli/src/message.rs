//! The commands of messages: sending one, showing it with its deliveries and history, and its end.

use std::io::Read as _;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::args::{Message, SendArgs};
use crate::{ask, output, run};
use pg_outbox::error::{Error, Result};
use pg_outbox::outbox::Outbox;

/// The options of `enqueue()` and `enqueue_bytes()`, with their types.
const OPTIONS: &[(&str, &str)] = &[
    ("key", "text"),
    ("headers", "jsonb"),
    ("metadata", "jsonb"),
    ("tenant", "text"),
    ("aggregate_type", "text"),
    ("aggregate_id", "text"),
    ("idempotency_key", "text"),
    ("deliver_at", "timestamptz"),
    ("expires_at", "timestamptz"),
    ("priority", "int"),
    ("publisher", "text"),
    ("max_attempts", "int"),
    ("occurred_at", "timestamptz"),
    ("content_type", "text"),
];

const DELIVERIES: &[&str] =
    &["subscription", "endpoint", "state", "attempt", "max_attempts", "next_attempt_at", "locked_by", "last_error"];
const HISTORY: &[&str] = &["at", "what", "subscription", "endpoint", "attempt", "status", "detail"];

const OF_MESSAGE: &str = "
    select d.delivery_id, d.subscription, d.endpoint, d.state, d.attempt, d.max_attempts, d.next_attempt_at, d.locked_by,
        d.last_error
    from outbox.delivery_status d where d.message_id = $1::bigint order by d.subscription limit 1000";

/// Enqueues one message. The payload reaches the server as it was written, so its numbers stay exact.
pub(crate) async fn send(outbox: &Outbox, json: bool, new: SendArgs) -> Result<()> {
    let payload = if new.payload == "-" {
        let mut all = String::new();
        std::io::stdin().read_to_string(&mut all).map_err(|e| Error::invalid(e.to_string()))?;
        all
    } else {
        new.payload
    };
    let mut options: Vec<(String, String)> = Vec::new();
    let content = if new.text {
        options.push(("content_type".to_owned(), "text/plain; charset=utf-8".to_owned()));
        "outbox.enqueue_bytes(topic => $1::text, body => convert_to($2::text, 'UTF8')"
    } else {
        serde_json::from_str::<&RawValue>(payload.trim()).map_err(|error| {
            Error::invalid("the payload is not JSON").detail(error.to_string()).hint("--text sends any text.")
        })?;
        "outbox.enqueue(topic => $1::text, payload => $2::jsonb"
    };
    if !new.headers.is_empty() {
        options.push(("headers".to_owned(), Value::from_iter(new.headers).to_string()));
    }
    let given = [
        ("key", new.key),
        ("tenant", new.tenant),
        ("idempotency_key", new.idempotency_key),
        ("deliver_at", new.deliver_at),
        ("priority", new.priority.map(|priority| priority.to_string())),
    ];
    options.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    for (name, value) in new.more.set {
        options.retain(|(known, _)| *known != name);
        options.push((name, value));
    }
    let mut sql = format!("select {content}");
    for (i, (name, _)) in options.iter().enumerate() {
        let Some((_, ty)) = OPTIONS.iter().find(|(known, _)| known == name) else {
            let known: Vec<&str> = OPTIONS.iter().map(|(known, _)| *known).collect();
            return Err(Error::invalid(format!("a message has no option \"{name}\""))
                .detail(format!("Its options are {}.", known.join(", "))));
        };
        sql += &format!(", {name} => ${}::{ty}", i + 3);
    }
    sql += ") as message_id";
    let params: Vec<Option<&str>> = [new.topic.as_str(), &payload]
        .into_iter()
        .chain(options.iter().map(|(_, value)| value.as_str()))
        .map(Some)
        .collect();
    for row in ask::query(outbox, &sql, &params).await? {
        output::done(json, &row, &row["message_id"].to_string());
    }
    Ok(())
}

pub(crate) async fn run(outbox: &Outbox, json: bool, command: Message) -> Result<()> {
    match command {
        Message::Show { id } => show(outbox, json, id).await,
        Message::Cancel { id, by, reason } => {
            let args = json!({"message_id": id, "actor": run::actor(outbox, &by).await?, "reason": reason});
            let ended = outbox.call("cancel", args, &[]).await?.into_iter().next().unwrap_or(Value::Null);
            let sentence = format!("message {id} is cancelled, and {ended} of its deliveries are ended");
            output::done(json, &json!({"message_id": id, "ended": ended}), &sentence);
            Ok(())
        }
        Message::Retry { id, subscription, by } => {
            let args = json!({"message_id": id, "subscription": subscription, "actor": run::actor(outbox, &by).await?});
            let delivery = outbox.call("retry", args, &[]).await?.into_iter().next().unwrap_or(Value::Null);
            let sentence = format!("delivery {delivery} of message {id} to \"{subscription}\" is due now");
            output::done(json, &json!({"message_id": id, "delivery_id": delivery}), &sentence);
            Ok(())
        }
        Message::Erase { id, by, reason } => {
            let actor = run::actor(outbox, &by).await?;
            outbox.call_void("erase", json!({"message_id": id, "actor": actor, "reason": reason})).await?;
            output::done(json, &json!({"message_id": id, "erased": true}), &format!("message {id} is erased"));
            Ok(())
        }
    }
}

/// Shows a message: its content, its deliveries, and its history.
async fn show(outbox: &Outbox, json: bool, id: i64) -> Result<()> {
    let message = outbox.call("get_message", json!({"message_id": id}), &[]).await?;
    let message = message.into_iter().next().unwrap_or(Value::Null);
    let deliveries = ask::query(outbox, OF_MESSAGE, &[Some(&id.to_string())]).await?;
    let history = outbox.call("history", json!({"message_id": id}), &[]).await?;
    if json {
        println!("{}", json!({"message": message, "deliveries": deliveries, "history": history}));
        return Ok(());
    }
    print!("{}", output::record(&readable(message)));
    if !deliveries.is_empty() {
        print!("\nDELIVERIES\n{}", output::table(&deliveries, &filled(&deliveries, DELIVERIES), output::width()));
    }
    print!("\nHISTORY\n{}", output::table(&history, &filled(&history, HISTORY), output::width()));
    Ok(())
}

/// A body of bytes is shown as text if it is UTF-8. Columns that repeat a part of the metadata or the headers are left out.
fn readable(mut message: Value) -> Value {
    if let Some(map) = message.as_object_mut() {
        for repeated in [
            "correlation_id",
            "causation_id",
            "user_id",
            "traceparent",
            "tracestate",
            "schema_version",
            "privacy",
            "severity",
        ] {
            map.remove(repeated);
        }
        // PostgreSQL writes bytes as `\x` and two digits each.
        let bytes: Option<Vec<u8>> = map.get("body").and_then(Value::as_str).and_then(|text| {
            let digits = text.strip_prefix("\\x")?.as_bytes();
            digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
        });
        if let Some(text) = bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
            map.insert("body".to_owned(), Value::String(text));
        }
    }
    message
}

/// The columns in which a row has a value.
pub(crate) fn filled<'a>(rows: &[Value], columns: &[&'a str]) -> Vec<&'a str> {
    columns.iter().copied().filter(|column| rows.iter().any(|row| !row[*column].is_null())).collect()
}

/// Shows the result of a finished message, or how far one is that is under way.
pub(crate) async fn archived(outbox: &Outbox, json: bool, id: i64) -> Result<()> {
    match outbox.call("archive_get", json!({"message_id": id}), &[]).await {
        Ok(rows) => rows.iter().for_each(|row| output::row(json, row)),
        // A message that exists is under way.
        Err(error @ Error::NotFound(_)) => {
            let message = outbox.call("get_message", json!({"message_id": id}), &[]).await.map_err(|_| error)?;
            let state = message.first().map_or(Value::Null, |row| row["state"].clone());
            let deliveries = ask::query(outbox, OF_MESSAGE, &[Some(&id.to_string())]).await?;
            if json {
                println!("{}", json!({"id": id, "status": state, "deliveries": deliveries}));
            } else {
                println!("message {id} is under way: {}\n", output::text(&state));
                print!("{}", output::table(&deliveries, &filled(&deliveries, DELIVERIES), output::width()));
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
