//! Space and retention, maintenance, faults, settings, and the audit log.

use maud::{Markup, html};
use serde_json::{Value, json};

use pg_outbox::error::Result;

use super::{Fields, asked, number, paged};
use crate::database::Work;
use crate::page::{Live, Page, column, state, table, time, value};

const JOBS: &str = "
    select j.job, j.last_run_at, j.next_run_at, j.result, j.rows, pg_size_pretty(j.bytes) as freed, j.held_by
    from outbox.job j order by j.held_by is null, j.job limit 100";

const FAULTS: &str = "
    select f.kind, f.id, f.step, left(f.error, 1000) as error, f.first_at, f.last_at, f.times
    from outbox.fault f order by f.last_at desc limit 50";

const SETTINGS: &str = "
    select s.name, current_setting(s.name) as value, s.source, s.setting is distinct from s.boot_val as is_changed
    from pg_catalog.pg_settings s where s.name like 'pg\\_outbox.%' order by s.name limit 200";

const AUDIT: &str = "
    select a.id, a.at, a.actor, coalesce(a.detail ->> 'actor', '') as said_actor, a.action, a.object, a.reason
    from outbox.audit a where a.id < $1::bigint order by a.id desc limit $2::bigint";

pub(super) async fn show(work: &Work, fields: &Fields) -> Result<Page> {
    let before = number(fields, "before")?.unwrap_or(i64::MAX).to_string();
    let mut audit = work.query(AUDIT, &[Some(&before), Some(&asked())]).await?;
    let next = paged(&mut audit, "/storage", &[], ("before", "id"));
    let metrics = work.call("metrics", json!({})).await?;
    let body = html! {
        h2 { "Space" }
        (rings(&metrics))
        h2 { "Maintenance" }
        (jobs(&work.query(JOBS, &[]).await?))
        h2 { "Faults" }
        (faults(&work.query(FAULTS, &[]).await?))
        h2 { "Settings" }
        (settings(&work.query(SETTINGS, &[]).await?))
        h2 { "Audit" }
        (audited(&audit))
        (next)
    };
    Ok(Page { title: "Storage".to_owned(), part: "/storage", live: Live::No, body })
}

fn rings(metrics: &[Value]) -> Markup {
    let cells: Vec<Vec<Markup>> = metrics
        .iter()
        .filter(|row| row["name"] == "outbox_ring_bytes")
        .map(|row| vec![value(&row["labels"]["ring"]), html! { (bytes(row["value"].as_f64().unwrap_or(0.0))) }])
        .collect();
    table("Space", &["Log", "Size"], &cells, "")
}

fn bytes(bytes: f64) -> String {
    match bytes {
        small if small < 1e6 => format!("{:.0} kB", small / 1e3),
        some if some < 1e9 => format!("{:.0} MB", some / 1e6),
        many => format!("{:.1} GB", many / 1e9),
    }
}

fn jobs(rows: &[Value]) -> Markup {
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            vec![
                value(&row["job"]),
                time(&row["last_run_at"]),
                time(&row["next_run_at"]),
                value(&row["result"]),
                value(&row["rows"]),
                value(&row["freed"]),
                value(&row["held_by"]),
            ]
        })
        .collect();
    table(
        "Maintenance",
        &["Job", "Last run", "Next run", "Result", "Rows", "Freed", "Held by"],
        &cells,
        "No job has run yet.",
    )
}

fn faults(rows: &[Value]) -> Markup {
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            vec![
                time(&row["last_at"]),
                state(column(row, "kind")),
                value(&row["id"]),
                value(&row["step"]),
                value(&row["times"]),
                value(&row["error"]),
            ]
        })
        .collect();
    table("Faults", &["Last", "Of", "Id", "Step", "Times", "Error"], &cells, "There is no fault.")
}

fn settings(rows: &[Value]) -> Markup {
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            let changed = if row["is_changed"] == true { column(row, "source") } else { "" };
            vec![value(&row["name"]), value(&row["value"]), value(&Value::from(changed))]
        })
        .collect();
    table("Settings", &["Setting", "Value", "Changed by"], &cells, "The library is not loaded.")
}

fn audited(rows: &[Value]) -> Markup {
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            vec![
                time(&row["at"]),
                value(&row["said_actor"]),
                value(&row["actor"]),
                value(&row["action"]),
                value(&row["object"]),
                value(&row["reason"]),
            ]
        })
        .collect();
    table("Audit", &["At", "Person", "Role", "Action", "Object", "Reason"], &cells, "Nothing was recorded yet.")
}
