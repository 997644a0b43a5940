//! Subscriptions: where they stand, and the buttons that pause and resume them.

use maud::{Markup, html};
use serde_json::{Value, json};

use pg_outbox::error::{Error, Result};

use super::{Fields, asked, field, given, paged};
use crate::database::Work;
use crate::page::{Live, Page, Viewer, age, button, column, facts, link, named, state, table, time, value};
use crate::samples::Samples;

/// A pull subscription without a claim for this long, in seconds, has no worker if something is due.
const NO_WORKER_AFTER: f64 = 60.0;

const SQL: &str = "
    select s.name, s.endpoint, s.pull, s.topics, s.filter, s.ordering, s.max_attempts, s.paused, s.created_at,
        s.lag_positions as behind, extract(epoch from s.lag_age)::float8 as behind_seconds, s.waiting, s.processing,
        extract(epoch from s.oldest_due_age)::float8 as oldest_due_seconds,
        extract(epoch from clock_timestamp() - s.last_claim_at)::float8 as last_claim_seconds, s.dead_letters as dead
    from outbox.subscription_status s
    where ($1::text is null or s.name = $1) and ($2::text is null or s.name > $2)
    order by s.name limit $3::bigint";

/// Returns the state of a subscription, in a word or two.
pub fn state_of(row: &Value) -> &'static str {
    let number = |name: &str| row[name].as_f64().unwrap_or(0.0);
    let unclaimed = row["last_claim_seconds"].as_f64().is_none_or(|seconds| seconds > NO_WORKER_AFTER);
    if row["paused"] == true {
        "paused"
    } else if row["pull"] == true
        && number("oldest_due_seconds") > NO_WORKER_AFTER
        && unclaimed
        && number("processing") == 0.0
    {
        "no worker"
    } else if number("behind") > 0.0 {
        "behind"
    } else if number("waiting") > 0.0 {
        "waiting"
    } else if number("processing") > 0.0 || number("per_second") > 0.0 {
        "working"
    } else {
        "at rest"
    }
}

/// Adds the rates of the last minute.
fn rated(rows: &mut [Value], samples: &Samples) {
    let rates = samples.per_subscription();
    for row in rows {
        row["per_second"] = json!(rates.get(column(row, "name")).map(|rate| (rate * 10.0).round() / 10.0));
    }
}

pub(super) async fn list(work: &Work, viewer: &Viewer, fields: &Fields, samples: &Samples) -> Result<Page> {
    let mut rows = work.query(SQL, &[None, given(fields, "after"), Some(&asked())]).await?;
    let next = paged(&mut rows, "/subscriptions", &[], ("after", "name"));
    rated(&mut rows, samples);
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            let name = column(row, "name");
            vec![
                named("/subscription", name),
                to(row),
                state(state_of(row)),
                value(&row["per_second"]),
                value(&row["behind"]),
                value(&row["waiting"]),
                value(&row["processing"]),
                age(&row["oldest_due_seconds"]),
                html! { a href=(link("/dead-letters", &[("subscription", name)])) { (row["dead"]) } },
                buttons(viewer, row),
            ]
        })
        .collect();
    let heads =
        ["Name", "To", "State", "Completed/s", "Behind", "Waiting", "Leased", "Oldest due", "Dead letters", "Actions"];
    let body = html! { (table("Subscriptions", &heads, &cells, "There is no subscription.")) (next) };
    Ok(Page { title: "Subscriptions".to_owned(), part: "/subscriptions", live: Live::Yes, body })
}

fn to(row: &Value) -> Markup {
    match column(row, "endpoint") {
        "" => html! { "workers" },
        endpoint => named("/endpoint", endpoint),
    }
}

fn buttons(viewer: &Viewer, row: &Value) -> Markup {
    let name = column(row, "name");
    button(viewer, if row["paused"] == true { "resume" } else { "pause" }, &[("name", name)], name)
}

pub(super) async fn one(work: &Work, viewer: &Viewer, fields: &Fields, samples: &Samples) -> Result<Page> {
    let name = field(fields, "name");
    let mut rows = work.query(SQL, &[Some(name), None, Some("1")]).await?;
    rated(&mut rows, samples);
    let Some(row) = rows.first() else {
        return Err(Error::new("OB001", format!("subscription \"{name}\" does not exist")));
    };
    let body = html! {
        (facts(&[
            ("State", state(state_of(row))),
            ("To", to(row)),
            ("Topics", value(&row["topics"])),
            ("Filter", value(&row["filter"])),
            ("Order", value(&row["ordering"])),
            ("Attempts at most", value(&row["max_attempts"])),
            ("Completed per second", value(&row["per_second"])),
            ("Positions behind", value(&row["behind"])),
            ("Behind for", age(&row["behind_seconds"])),
            ("Waiting", value(&row["waiting"])),
            ("Leased", value(&row["processing"])),
            ("Oldest due for", age(&row["oldest_due_seconds"])),
            ("Last claim before", age(&row["last_claim_seconds"])),
            ("Created", time(&row["created_at"])),
            ("Open dead letters", html! { a href=(link("/dead-letters", &[("subscription", name)])) { (row["dead"]) } }),
        ]))
        div class="actions" { (buttons(viewer, row)) (button(viewer, "replay", &[("subscription", name)], name)) }
    };
    Ok(Page { title: format!("Subscription {name}"), part: "/subscriptions", live: Live::Yes, body })
}
