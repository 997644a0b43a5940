//! Programs beside the database: workers with leases, readers with cursors, relays, projections; and replays, one by one with
//! their progress.

use maud::{Markup, html};
use serde_json::Value;

use pg_outbox::error::{Error, Result};

use super::{Fields, number};
use crate::database::Work;
use crate::page::{Live, Page, Viewer, age, button, column, facts, link, named, state, table, time, value};

const WORKERS: &str = "
    select l.worker, s.name as subscription, count(*) as leases, sum(cardinality(l.delivery_ids)) as deliveries,
        min(l.claimed_at) as oldest_claimed_at, min(l.expires_at) as expires_at
    from (select * from outbox.lease k order by k.id desc limit 5000) l
    left join outbox.subscription s on s.id = l.subscription_id
    group by l.worker, s.name order by min(l.claimed_at) limit 100";

const CURSORS: &str = "
    select c.consumer, c.stream, c.subject, c.position, c.lag_positions, c.lag_seconds, c.updated_at, c.last_error,
        c.error_position
    from outbox.cursor_list(max_rows => 500) c order by c.last_error is null, c.lag_seconds desc nulls last,
        c.consumer limit 100";

const RELAYS: &str = "
    select r.relay, r.sink, r.instance, r.state, r.position, r.rate, r.last_error, r.heartbeat_at,
        r.heartbeat_at < clock_timestamp() - 3 * r.heartbeat_interval and r.state <> 'ended' as is_silent
    from outbox.relay_status r order by r.relay limit 100";

const PROJECTIONS: &str = "
    select p.name, p.version, p.kind, p.state, p.position, p.lag_positions, p.lag_seconds, p.failed_position,
        left(p.error, 1000) as error
    from outbox.projections p order by p.state = 'stopped', p.name, p.version desc limit 100";

const REPLAYS: &str = "
    select r.replay_id, r.subscription, r.state, r.percent, r.matched, r.waiting, r.rate, r.error, r.created_at, r.created_by,
        r.from_position, r.to_position, r.position, r.new_ids, r.finished_at
    from outbox.replay_status r where $1::bigint is null or r.replay_id = $1::bigint order by r.replay_id desc limit 20";

pub(super) async fn show(work: &Work, viewer: &Viewer, _: &Fields) -> Result<Page> {
    let body = html! {
        h2 { "Workers" }
        (workers(&work.query(WORKERS, &[]).await?))
        h2 { "Readers" }
        (cursors(viewer, &work.query(CURSORS, &[]).await?))
        h2 { "Relays" }
        (relays(&work.query(RELAYS, &[]).await?))
        h2 { "Projections" }
        (projections(&work.query(PROJECTIONS, &[]).await?))
        h2 { "Replays" }
        (replays(viewer, &work.query(REPLAYS, &[None]).await?))
    };
    Ok(Page { title: "Workers".to_owned(), part: "/workers", live: Live::Yes, body })
}

fn workers(rows: &[Value]) -> Markup {
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            vec![
                value(&row["worker"]),
                named("/subscription", column(row, "subscription")),
                value(&row["leases"]),
                value(&row["deliveries"]),
                time(&row["oldest_claimed_at"]),
                time(&row["expires_at"]),
            ]
        })
        .collect();
    table(
        "Workers",
        &["Worker", "Subscription", "Leases", "Deliveries", "Oldest claimed", "Lease ends"],
        &cells,
        "No worker has a delivery.",
    )
}

fn cursors(viewer: &Viewer, rows: &[Value]) -> Markup {
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            let position = row["position"].to_string();
            let fields = [
                ("consumer", column(row, "consumer")),
                ("stream", column(row, "stream")),
                ("subject", column(row, "subject")),
                ("position", position.as_str()),
            ];
            vec![
                value(&row["consumer"]),
                value(&row["stream"]),
                value(&row["subject"]),
                value(&row["position"]),
                value(&row["lag_positions"]),
                age(&row["lag_seconds"]),
                time(&row["updated_at"]),
                value(&row["last_error"]),
                button(viewer, "reset-cursor", &fields, column(row, "consumer")),
            ]
        })
        .collect();
    let heads = ["Consumer", "Stream", "Subject", "Position", "Behind", "For", "Moved", "Last error", "Actions"];
    table("Readers", &heads, &cells, "There is no cursor.")
}

fn relays(rows: &[Value]) -> Markup {
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            let word = if row["is_silent"] == true { "silent" } else { column(row, "state") };
            vec![
                value(&row["relay"]),
                state(word),
                value(&row["sink"]),
                value(&row["instance"]),
                value(&row["position"]),
                value(&row["rate"]),
                time(&row["heartbeat_at"]),
                value(&row["last_error"]),
            ]
        })
        .collect();
    let heads = ["Relay", "State", "Sink", "Instance", "Position", "Messages/s", "Heartbeat", "Last error"];
    table("Relays", &heads, &cells, "There is no relay.")
}

fn projections(rows: &[Value]) -> Markup {
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            vec![
                value(&row["name"]),
                value(&row["version"]),
                value(&row["kind"]),
                state(column(row, "state")),
                value(&row["position"]),
                value(&row["lag_positions"]),
                age(&row["lag_seconds"]),
                value(&row["failed_position"]),
                value(&row["error"]),
            ]
        })
        .collect();
    let heads = ["Projection", "Version", "Kind", "State", "Position", "Behind", "For", "Faulted at", "Error"];
    table("Projections", &heads, &cells, "There is no projection.")
}

fn replays(viewer: &Viewer, rows: &[Value]) -> Markup {
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            let id = row["replay_id"].to_string();
            vec![
                html! { a href=(link("/replay", &[("id", &id)])) { (id) } },
                named("/subscription", column(row, "subscription")),
                state(column(row, "state")),
                html! { (row["percent"]) " %" },
                value(&row["matched"]),
                value(&row["waiting"]),
                value(&row["rate"]),
                value(&row["created_by"]),
                value(&row["error"]),
                cancel(viewer, row),
            ]
        })
        .collect();
    let heads =
        ["Replay", "Subscription", "State", "Read", "Deliveries", "Waiting", "Per second", "By", "Error", "Actions"];
    table("Replays", &heads, &cells, "There was no replay.")
}

fn cancel(viewer: &Viewer, row: &Value) -> Markup {
    if !["running", "draining"].contains(&column(row, "state")) {
        return html! {};
    }
    let id = row["replay_id"].to_string();
    button(viewer, "cancel-replay", &[("replay_id", &id)], &format!("replay {id}"))
}

pub(super) async fn replay(work: &Work, viewer: &Viewer, fields: &Fields) -> Result<Page> {
    let id = number(fields, "id")?.unwrap_or(0).to_string();
    let rows = work.query(REPLAYS, &[Some(&id)]).await?;
    let Some(row) = rows.first() else {
        return Err(Error::new("OB001", format!("replay {id} does not exist")));
    };
    let percent = row["percent"].as_f64().unwrap_or(0.0).clamp(0.0, 100.0);
    let body = html! {
        p { progress max="100" value=(percent) aria-label="Read" {} " " (percent) " % of the positions are read" }
        (facts(&[
            ("State", state(column(row, "state"))),
            ("Subscription", named("/subscription", column(row, "subscription"))),
            ("From position", value(&row["from_position"])),
            ("To position", value(&row["to_position"])),
            ("Read to position", value(&row["position"])),
            ("Deliveries", value(&row["matched"])),
            ("Waiting", value(&row["waiting"])),
            ("Per second at most", value(&row["rate"])),
            ("New webhook ids", value(&row["new_ids"])),
            ("Begun", time(&row["created_at"])),
            ("By", value(&row["created_by"])),
            ("Ended", time(&row["finished_at"])),
            ("Error", value(&row["error"])),
        ]))
        div class="actions" { (cancel(viewer, row)) }
        p { a href="/workers" { "All replays" } }
    };
    Ok(Page { title: format!("Replay {id}"), part: "/workers", live: Live::Yes, body })
}
