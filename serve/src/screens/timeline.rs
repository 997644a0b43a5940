//! One message: its properties, everything that happened to it, its attempts, and its content when somebody asks for it.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::Value;

use pg_outbox::error::{Error, Result};

use super::{Fields, field, number};
use crate::database::Work;
use crate::page::{Live, Page, Viewer, block, button, column, facts, link, named, state, table, time, value};

const MESSAGE: &str = "
    select m.message_id, m.webhook_id, m.state, m.topic, m.key, m.tenant, m.aggregate_type, m.aggregate_id,
        m.publisher, m.priority,
        m.enqueued_at, m.occurred_at, m.deliver_at, m.expires_at, m.max_attempts, m.content_type, m.correlation_id,
        coalesce(octet_length(m.payload::text), octet_length(m.body)) as bytes
    from outbox.get_message($1::bigint) m";

/// The content, of which the beginning is shown. Bytes are shown as text if they are text.
const CONTENT: &str = "
    select left(m.headers::text, 20000) as headers, left(m.metadata::text, 20000) as metadata,
        left(jsonb_pretty(m.payload), 60000) as payload, encode(substr(m.body, 1, 30000), 'hex') as body
    from outbox.get_message($1::bigint) m";

const HISTORY: &str = "
    select * from (
        select h.at, h.what, h.subscription, h.endpoint, h.attempt, h.status, left(h.detail, 1000) as detail,
            row_number() over () as n
        from outbox.history($1::bigint) h
        order by n desc limit 500
    ) h order by h.n";

/// Attempts of requests with this message alone. The history has those of batches too.
const ATTEMPTS: &str = "
    select a.started_at, (extract(epoch from a.finished_at - a.started_at) * 1000)::numeric(12, 1)::float8 as ms,
        s.name as subscription,
        a.run, a.attempt, a.outcome, a.status, a.error_class, a.error, a.worker, a.remote_address, a.response_id,
        case when $2 = '1' then left(a.response_headers::text, 4000) end as response_headers,
        case when $2 = '1' then left(a.response_body, 4000) end as response_body
    from outbox.attempt a left join outbox.subscription s on s.id = a.subscription_id
    where a.message_id = $1::bigint and a.positions is null
    order by a.started_at desc limit 50";

pub(super) async fn show(work: &Work, viewer: &Viewer, fields: &Fields) -> Result<Page> {
    let Some(id) = number(fields, "id")? else { return Err(Error::invalid("the id of the message is missing")) };
    let id = id.to_string();
    let content = field(fields, "content") == "1";
    let row = work.one(MESSAGE, &[Some(&id)]).await?;
    let history = work.query(HISTORY, &[Some(&id)]).await?;
    let attempts = match viewer.rights.may_read("attempt") {
        true => work.query(ATTEMPTS, &[Some(&id), Some(if content { "1" } else { "0" })]).await?,
        false => Vec::new(),
    };
    let shown = match content {
        true => content_of(&work.one(CONTENT, &[Some(&id)]).await?),
        false => {
            html! { p { a href=(link("/message", &[("id", &id), ("content", "1")])) {
            "Show the content and the answers" } } }
        }
    };
    let body = html! {
        (properties(&row))
        div class="actions" {
            @for action in ["cancel", "erase"] { (button(viewer, action, &[("message_id", &id)], &format!("message {id}"))) }
        }
        h2 { "Deliveries" }
        (deliveries(viewer, &id, &history))
        h2 { "Timeline" }
        (timeline(&history))
        @if !attempts.is_empty() { h2 { "Attempts" } (tries(&attempts, content)) }
        h2 { "Content" }
        (shown)
    };
    Ok(Page {
        title: format!("Message {id}"),
        part: "/messages",
        live: if content { Live::No } else { Live::Yes },
        body,
    })
}

fn properties(row: &Value) -> Markup {
    facts(&[
        ("State", state(column(row, "state"))),
        ("Webhook id", value(&row["webhook_id"])),
        ("Topic", value(&row["topic"])),
        ("Key", value(&row["key"])),
        ("Tenant", value(&row["tenant"])),
        ("Aggregate", value(&row["aggregate_type"])),
        ("Aggregate id", value(&row["aggregate_id"])),
        ("Publisher", value(&row["publisher"])),
        ("Priority", value(&row["priority"])),
        ("Enqueued", time(&row["enqueued_at"])),
        ("Not before", time(&row["deliver_at"])),
        ("Expires", time(&row["expires_at"])),
        ("Correlation id", value(&row["correlation_id"])),
        ("Content type", value(&row["content_type"])),
        ("Bytes", value(&row["bytes"])),
    ])
}

/// The last event of each subscription, with the buttons that it allows.
fn deliveries(viewer: &Viewer, id: &str, history: &[Value]) -> Markup {
    let mut last: BTreeMap<&str, &Value> = BTreeMap::new();
    for row in history.iter().filter(|row| row["subscription"].is_string()) {
        last.insert(column(row, "subscription"), row);
    }
    let pushed = |name: &str| history.iter().any(|row| row["subscription"] == name && row["endpoint"].is_string());
    let cells: Vec<Vec<Markup>> = last
        .into_iter()
        .map(|(name, row)| {
            let fields = [("message_id", id), ("subscription", name)];
            let what = column(row, "what");
            vec![
                named("/subscription", name),
                state(what),
                time(&row["at"]),
                html! {
                    @if ["next attempt", "dead letter", "failed"].contains(&what) {
                        (button(viewer, "retry", &fields, name))
                    }
                    @if pushed(name) { (button(viewer, "resend", &fields, name)) }
                },
            ]
        })
        .collect();
    table(
        "Deliveries",
        &["Subscription", "Last event", "At", "Actions"],
        &cells,
        "No subscription has tried this message yet.",
    )
}

fn timeline(history: &[Value]) -> Markup {
    let cells: Vec<Vec<Markup>> = history
        .iter()
        .map(|row| {
            vec![
                time(&row["at"]),
                state(column(row, "what")),
                named("/subscription", column(row, "subscription")),
                value(&row["attempt"]),
                value(&row["status"]),
                value(&row["detail"]),
            ]
        })
        .collect();
    table(
        "Timeline",
        &["At", "Event", "Subscription", "Attempt", "Status", "Detail"],
        &cells,
        "Nothing has happened yet.",
    )
}

fn tries(attempts: &[Value], content: bool) -> Markup {
    let mut heads = vec![
        "Started",
        "ms",
        "Subscription",
        "Attempt",
        "Outcome",
        "Status",
        "Error",
        "Worker",
        "Address",
        "Id of the receiver",
    ];
    if content {
        heads.extend(["Headers of the answer", "Answer"]);
    }
    let cells: Vec<Vec<Markup>> = attempts
        .iter()
        .map(|row| {
            let run = match row["run"].as_i64() {
                Some(-1) => "test".to_owned(),
                Some(-2) => "resend".to_owned(),
                Some(replay) if replay > 0 => format!("{} of replay {replay}", row["attempt"]),
                _ => row["attempt"].to_string(),
            };
            let mut cells = vec![
                time(&row["started_at"]),
                value(&row["ms"]),
                named("/subscription", column(row, "subscription")),
                html! { (run) },
                state(column(row, "outcome")),
                value(if row["status"].is_null() { &row["error_class"] } else { &row["status"] }),
                value(&row["error"]),
                value(&row["worker"]),
                value(&row["remote_address"]),
                value(&row["response_id"]),
            ];
            if content {
                cells.extend([value(&row["response_headers"]), value(&row["response_body"])]);
            }
            cells
        })
        .collect();
    table("Attempts", &heads, &cells, "")
}

fn content_of(row: &Value) -> Markup {
    let bytes = row["body"].as_str().map(|hex| {
        let bytes: Vec<u8> = hex
            .as_bytes()
            .chunks(2)
            .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        // A character that was cut in two does not make the text bytes.
        match std::str::from_utf8(&bytes) {
            Ok(text) => text.to_owned(),
            Err(error) if bytes.len() == 30_000 && error.error_len().is_none() => {
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Err(_) => hex.to_owned(),
        }
    });
    html! {
        @for (name, text) in [("Headers", row["headers"].as_str()), ("Metadata", row["metadata"].as_str()),
            ("Payload", row["payload"].as_str()), ("Body", bytes.as_deref())] {
            @if let Some(text) = text { h3 { (name) } (block(text, name)) }
        }
        p class="hint" { "Of a long content, the beginning is shown." }
    }
}
