//! The search for messages. Each search looks at a bounded number of messages, and the next page goes on where it
//! stopped.

use maud::{Markup, html};
use serde_json::Value;

use outbox_core::webhook_id::WebhookId;
use pg_outbox::error::{Error, Result};

use super::{Fields, field, given, input, number};
use crate::database::Work;
use crate::page::{Live, Page, column, link, message, state, table, time, value};

/// The messages on a page.
const SHOWN: i64 = 50;

/// The messages that one search by key or time looks at.
const LOOKED_AT: i64 = 10_000;

/// The longest text in a field, in characters.
const LONGEST: usize = 500;

/// The conditions that have an index or a function of their own.
const LIST: &str = "
    select m.message_id, m.webhook_id, m.state, m.topic, left(m.key, 300) as key, m.tenant, m.enqueued_at
    from outbox.list_messages(tenant => $1, state => $2, topic => $3, aggregate_type => $4, aggregate_id => $5,
        max_messages => $6::int, before => $7::bigint) m
    order by m.message_id desc";

/// Keys and times have no index, so the newest messages before a place are read one after another.
const LOOK: &str = "
    with looked as materialized (
        select m.id, m.topic, m.key, m.tenant, m.enqueued_at, m.aggregate_type, m.aggregate_id from outbox.message m
        where m.id < $1::bigint and m.segment >= -1
        order by m.id desc limit 10000
    ), found as materialized (
        select l.* from looked l
        where ($2::text is null or l.key = $2) and ($3::text is null or l.topic = $3) and ($4::text is null or l.tenant = $4)
            and ($5::text is null or l.aggregate_type = $5) and ($6::text is null or l.aggregate_id = $6)
            and ($7::text is null or l.enqueued_at >= $7::timestamptz)
            and ($8::text is null or l.enqueued_at < $8::timestamptz)
        order by l.id desc limit 50
    )
    select (select jsonb_agg(jsonb_build_object('message_id', f.id, 'topic', f.topic, 'key', left(f.key, 300),
        'tenant', f.tenant,
            'enqueued_at', f.enqueued_at, 'state', (select s.state from outbox.message_status s where s.message_id = f.id))
            order by f.id desc) from found f) as rows,
        (select min(l.id) from looked l) as lowest, (select min(l.enqueued_at) from looked l) as lowest_at,
        (select count(*) from looked l) as looked, $7::timestamptz > (select min(l.enqueued_at) from looked l) as is_past";

/// The highest id among the messages that were numbered soon after a time. A message has a higher id only if it was
/// enqueued later, or if its transaction stayed open for longer than the rows that are read here.
const UNTIL: &str = "
    select max(f.id) as id from (
        select f.message_ids[cardinality(f.message_ids)] as id from outbox.feed f
        where f.ticked_at > $1::timestamptz order by f.ticked_at limit 100
    ) f";

/// The conditions of a search, as they are named in the form.
const NAMES: [&str; 8] = ["topic", "key", "tenant", "state", "aggregate_type", "aggregate_id", "from", "to"];

const STATES: [&str; 8] = ["pending", "processing", "failed", "completed", "dead", "expired", "cancelled", "skipped"];

struct Found {
    rows: Vec<Value>,
    /// Where the next page begins, and the reason why this one ended.
    next: Option<(String, String)>,
}

pub(super) async fn search(work: &Work, fields: &Fields) -> Result<Page> {
    let found = match given(fields, "id") {
        Some(id) => by_id(work, id).await?,
        None if ["key", "from", "to"].iter().any(|name| given(fields, name).is_some()) => look(work, fields).await?,
        None => listed(work, fields).await?,
    };
    let body = html! {
        (form(fields))
        (listing(&found.rows, "No message was found here."))
        @if let Some((before, why)) = &found.next {
            @let kept: Vec<(&str, &str)> = NAMES.iter().map(|name| (*name, field(fields, name))).chain([("before", before.as_str())])
                .collect();
            p { (why) " " a rel="next" href=(link("/messages", &kept)) { "Go on" } }
        }
    };
    Ok(Page { title: "Messages".to_owned(), part: "/messages", live: Live::No, body })
}

fn listing(rows: &[Value], empty: &str) -> Markup {
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            vec![
                message(&row["message_id"]),
                state(column(row, "state")),
                value(&row["topic"]),
                value(&row["key"]),
                value(&row["tenant"]),
                time(&row["enqueued_at"]),
            ]
        })
        .collect();
    table("Messages", &["Id", "State", "Topic", "Key", "Tenant", "Enqueued"], &cells, empty)
}

/// The newest messages, renewed every second.
pub(super) async fn tail(work: &Work, fields: &Fields) -> Result<Page> {
    let found = listed(work, fields).await?;
    let body = html! {
        form method="get" action="/tail" class="search" role="search" aria-label="Live" {
            (input(fields, "topic", "Topic", "", LONGEST)) (input(fields, "tenant", "Tenant", "", LONGEST))
            div { button class="primary" { "Show these" } " " a href="/tail" { "Show all" } }
        }
        (listing(&found.rows, "There is no message of this kind among the newest ones."))
        p class="hint" { "The newest " (SHOWN) ", renewed every second. The page pauses after five minutes without a key or a \
            movement." }
    };
    Ok(Page { title: "Live".to_owned(), part: "/tail", live: Live::Fast, body })
}

/// Finds a message by its id or its webhook id.
async fn by_id(work: &Work, text: &str) -> Result<Found> {
    let id = match (text.parse::<i64>(), WebhookId::parse(text.split("_r").next().unwrap_or(text))) {
        (Ok(id), _) => id,
        (_, Some(webhook_id)) => webhook_id.message_id,
        _ => {
            return Err(Error::invalid("this is neither the id of a message nor a webhook id")
                .hint("An id is a number, and a webhook id has the form msg_2a_6500000000000."));
        }
    };
    let sql = "select m.message_id, m.state, m.topic, left(m.key, 300) as key, m.tenant,
        m.enqueued_at from outbox.get_message($1::bigint) m";
    Ok(Found { rows: work.query(sql, &[Some(&id.to_string())]).await?, next: None })
}

async fn listed(work: &Work, fields: &Fields) -> Result<Found> {
    let before = number(fields, "before")?.map(|id| id.to_string());
    let [tenant, state, topic, kind, aggregate] =
        ["tenant", "state", "topic", "aggregate_type", "aggregate_id"].map(|name| given(fields, name));
    let most = SHOWN.to_string();
    let mut rows = work.query(LIST, &[tenant, state, topic, kind, aggregate, Some(&most), before.as_deref()]).await?;
    let last = rows.last().and_then(|row| row["message_id"].as_i64());
    // A row without a topic is no message. It says where to go on.
    let stopped = rows.last().is_some_and(|row| row["topic"].is_null());
    rows.retain(|row| !row["topic"].is_null());
    let next = match last {
        Some(last) if stopped => {
            Some((last.to_string(), "The search stopped before the end of what is stored.".to_owned()))
        }
        Some(last) if rows.len() as i64 == SHOWN => Some((last.to_string(), "There may be more.".to_owned())),
        _ => None,
    };
    Ok(Found { rows, next })
}

async fn look(work: &Work, fields: &Fields) -> Result<Found> {
    if given(fields, "state").is_some() {
        return Err(Error::invalid("a search by key or time cannot be one by state too")
            .hint("Leave the state empty. The states of the messages that are found are shown."));
    }
    work.follow_indexes().await?;
    let mut before = number(fields, "before")?.unwrap_or(i64::MAX);
    if let Some(to) = given(fields, "to") {
        let until = work.one(UNTIL, &[Some(to)]).await?;
        before = before.min(until["id"].as_i64().map_or(i64::MAX, |id| id.saturating_add(1)));
    }
    let [key, topic, tenant, kind, aggregate, from, to] =
        ["key", "topic", "tenant", "aggregate_type", "aggregate_id", "from", "to"].map(|name| given(fields, name));
    let place = before.to_string();
    let seen = work.one(LOOK, &[Some(&place), key, topic, tenant, kind, aggregate, from, to]).await?;
    let rows = seen["rows"].as_array().cloned().unwrap_or_default();
    let next = if rows.len() as i64 == SHOWN {
        rows.last().map(|row| (row["message_id"].to_string(), "There may be more.".to_owned()))
    } else if seen["looked"] == LOOKED_AT && seen["is_past"] != true {
        let at: String = column(&seen, "lowest_at").replacen('T', " ", 1).chars().take(19).collect();
        Some((seen["lowest"].to_string(), format!("{LOOKED_AT} messages were looked at, back to {at}.")))
    } else {
        None
    };
    Ok(Found { rows, next })
}

fn form(fields: &Fields) -> Markup {
    let input = |name: &str, label: &str, hint: &str| input(fields, name, label, hint, LONGEST);
    html! {
        form method="get" action="/messages" class="search" role="search" aria-label="Messages" {
            (input("id", "Id or webhook id", "")) (input("topic", "Topic", "")) (input("key", "Key", ""))
                (input("tenant", "Tenant", ""))
            div {
                label for="state" { "State" }
                select id="state" name="state" {
                    option value="" { "any" }
                    @for state in STATES { option value=(state) selected[field(fields, "state") == state] { (state) } }
                }
            }
            (input("aggregate_type", "Aggregate type", "")) (input("aggregate_id", "Aggregate id", ""))
            (input("from", "Enqueued from (UTC)", "2026-11-30 08:00"))
            (input("to", "Enqueued before (UTC)", "2026-11-30 09:00"))
            div { button class="primary" { "Search" } " " a href="/messages" { "Clear" } }
        }
    }
}
