//! Sagas of the event store, without their state.

use maud::{Markup, html};
use serde_json::Value;

use pg_outbox::error::{Error, Result};

use super::{Fields, ROWS, field, given, input};
use crate::database::Work;
use crate::page::{Live, Page, column, facts, link, state, table, time, value};

/// The sagas in the order of their primary key, of which those with a status are shown. Statuses have no index, so a page looks
/// at a bounded number of sagas.
const LIST: &str = "
    with looked as materialized (
        select s.* from outbox.sagas s
        where ($1::text is null or s.saga_type = $1) and (s.saga_type, s.saga_id) > (coalesce($3, ''), coalesce($4, ''))
        order by s.saga_type, s.saga_id limit 10000
    ), found as materialized (
        select l.* from looked l where $2::text is null or l.status = $2 order by l.saga_type, l.saga_id limit 101
    )
    select (select jsonb_agg(to_jsonb(f) order by f.saga_type, f.saga_id) from found f) as rows,
        (select count(*) from looked l) as looked,
        (select to_jsonb(l) from looked l order by l.saga_type desc, l.saga_id desc limit 1) as last";

/// The sagas that one page looks at.
const LOOKED_AT: i64 = 10_000;

const STATUSES: [&str; 7] =
    ["started", "running", "completed", "failed", "compensating", "compensated", "compensation_failed"];

pub(super) async fn list(work: &Work, fields: &Fields) -> Result<Page> {
    let [kind, status, after_type, after] = ["type", "status", "after_type", "after"].map(|name| given(fields, name));
    let seen = work.one(LIST, &[kind, status, after_type, after]).await?;
    let mut rows = seen["rows"].as_array().cloned().unwrap_or_default();
    let last = if rows.len() > ROWS {
        rows.truncate(ROWS);
        rows.last().cloned()
    } else {
        Some(seen["last"].clone()).filter(|_| seen["looked"] == LOOKED_AT)
    };
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            let name = [("type", column(row, "saga_type")), ("id", column(row, "saga_id"))];
            vec![
                value(&row["saga_type"]),
                html! { a href=(link("/saga", &name)) { (value(&row["saga_id"])) } },
                state(column(row, "status")),
                step(row),
                value(&row["failure_reason"]),
                time(&row["started_at"]),
                time(&row["updated_at"]),
            ]
        })
        .collect();
    let body = html! {
        form method="get" action="/sagas" class="search" role="search" aria-label="Sagas" {
            (input(fields, "type", "Type", "", 255))
            div {
                label for="status" { "Status" }
                select id="status" name="status" {
                    option value="" { "any" }
                    @for word in STATUSES { option value=(word) selected[status == Some(word)] { (word) } }
                }
            }
            div { button class="primary" { "Show" } }
        }
        (table("Sagas", &["Type", "Saga", "Status", "Step", "Failure", "Started", "Changed"], &cells, "No saga was found here."))
        @if let Some(last) = &last {
            @let next = [("type", field(fields, "type")), ("status", field(fields, "status")),
                ("after_type", column(last, "saga_type")), ("after", column(last, "saga_id"))];
            p { a rel="next" href=(link("/sagas", &next)) { "Next page" } }
        }
    };
    Ok(Page { title: "Sagas".to_owned(), part: "/sagas", live: Live::No, body })
}

/// Names the current step, and says how many there are.
fn step(row: &Value) -> Markup {
    let (at, all) = (row["step"].as_i64().unwrap_or(0), row["steps"].as_i64().unwrap_or(0));
    html! {
        (value(&row["step_name"]))
        @if all > 0 { " (" ((at + 1).min(all)) " of " (all) ")" }
    }
}

pub(super) async fn one(work: &Work, fields: &Fields) -> Result<Page> {
    let (kind, id) = (field(fields, "type"), field(fields, "id"));
    let sql = "select s.* from outbox.sagas s where s.saga_type = $1 and s.saga_id = $2";
    let row = work.one(sql, &[Some(kind), Some(id)]).await?;
    if row.is_null() {
        return Err(Error::new("OB001", format!("saga \"{kind}/{id}\" does not exist")));
    }
    let body = html! {
        (facts(&[
            ("Type", value(&row["saga_type"])),
            ("Status", state(column(&row, "status"))),
            ("Step", step(&row)),
            ("Correlation id", value(&row["correlation_id"])),
            ("Failure", value(&row["failure_reason"])),
            ("Version", value(&row["version"])),
            ("Started", time(&row["started_at"])),
            ("Changed", time(&row["updated_at"])),
            ("Ended", time(&row["completed_at"])),
        ]))
        p class="hint" { "The state of a saga belongs to its application, and is not shown." }
    };
    Ok(Page { title: format!("Saga {id}"), part: "/sagas", live: Live::Yes, body })
}
