//! Endpoints: breaker, last errors, and the buttons that test, enable, disable and rotate.

use maud::{Markup, html};
use serde_json::Value;

use pg_outbox::error::{Error, Result};

use super::{Fields, asked, field, given, paged};
use crate::database::Work;
use crate::page::{Live, Page, Viewer, button, column, facts, foreign, message, named, state, table, time, value};

const SQL: &str = "
    select e.name, e.url, e.kind, e.tenant, e.state, e.disabled_mode, e.disabled_reason, e.disabled_at, e.breaker,
        e.breaker_until,
        e.paused_until, e.failing_since, e.failures, e.last_failure_at, e.last_success_at, e.last_error,
            e.timeout::text as timeout,
        e.concurrency, e.rate, e.protocol, e.subscriptions
    from outbox.endpoint_status e
    where e.state <> 'dropped' and ($1::text is null or e.name = $1) and ($2::text is null or e.name > $2)
    order by e.name limit $3::bigint";

/// The newest dead letters, and the last errors of some of the deliveries that wait.
const ERRORS: &str = "
    select u.at, u.message_id, u.subscription, u.status, u.class, u.error, u.state
    from (
        (select l.dead_at as at, l.message_id, s.name as subscription, l.last_status as status, l.last_error_class as class,
            l.last_error as error, 'dead letter' as state
        from outbox.subscription s
        cross join lateral (
            select k.* from outbox.dead_letter k where k.subscription_id = s.id order by k.id desc limit 20
        ) l
        where s.endpoint_id = $1::int
        order by l.dead_at desc limit 20)
        union all
        (select d.last_attempt_at, d.message_id, s.name, d.last_status, d.last_error_class, d.last_error, d.state
        from outbox.subscription s
        cross join lateral (
            select k.* from outbox.delivery k where k.subscription_id = s.id and not k.pull and not k.blocked
            order by k.due_at limit 200
        ) d
        where s.endpoint_id = $1::int and d.last_error is not null
        order by d.last_attempt_at desc limit 20)
    ) u
    order by u.at desc nulls last limit 20";

pub(super) async fn list(work: &Work, fields: &Fields) -> Result<Page> {
    let mut rows = work.query(SQL, &[None, given(fields, "after"), Some(&asked())]).await?;
    let next = paged(&mut rows, "/endpoints", &[], ("after", "name"));
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            vec![
                named("/endpoint", column(row, "name")),
                state(column(row, "state")),
                foreign(shown_url(column(row, "url"))),
                value(&row["failures"]),
                time(&row["failing_since"]),
                value(&row["last_error"]),
                value(&row["subscriptions"]),
            ]
        })
        .collect();
    let heads = ["Name", "State", "URL", "Failures", "Failing since", "Last error", "Subscriptions"];
    let body = html! { (table("Endpoints", &heads, &cells, "There is no endpoint.")) (next) };
    Ok(Page { title: "Endpoints".to_owned(), part: "/endpoints", live: Live::Yes, body })
}

/// Returns a URL without its query and fragment, in which receivers put keys.
fn shown_url(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

pub(super) async fn one(work: &Work, viewer: &Viewer, fields: &Fields) -> Result<Page> {
    let name = field(fields, "name");
    let rows = work.query(SQL, &[Some(name), None, Some("1")]).await?;
    let Some(row) = rows.first() else {
        return Err(Error::new("OB001", format!("endpoint \"{name}\" does not exist")));
    };
    let id = work
        .one("select e.id::text as id from outbox.endpoint e where e.name = $1 and e.deleted_at is null", &[Some(name)])
        .await?;
    let errors = work.query(ERRORS, &[id["id"].as_str()]).await?;
    let switch = if row["state"] == "disabled" { "enable" } else { "disable" };
    let fields = [("name", name)];
    let body = html! {
        (facts(&[
            ("State", state(column(row, "state"))),
            ("URL", foreign(shown_url(column(row, "url")))),
            ("Tenant", value(&row["tenant"])),
            ("Breaker", value(&row["breaker"])),
            ("Next probe", time(&row["breaker_until"])),
            ("Paused by the receiver until", time(&row["paused_until"])),
            ("Failures since the last success", value(&row["failures"])),
            ("Failing since", time(&row["failing_since"])),
            ("Last failure", time(&row["last_failure_at"])),
            ("Last success after failures", time(&row["last_success_at"])),
            ("Last error", value(&row["last_error"])),
            ("Disabled", time(&row["disabled_at"])),
            ("Disabled because", value(&row["disabled_reason"])),
            ("Timeout", value(&row["timeout"])),
            ("Requests at the same time", value(&row["concurrency"])),
            ("Requests per second at most", value(&row["rate"])),
            ("Subscriptions", value(&row["subscriptions"])),
        ]))
        div class="actions" {
            (button(viewer, "test", &fields, name)) (button(viewer, switch, &fields, name))
            (button(viewer, "rotate", &fields, name))
        }
        h2 { "Last errors" }
        (table("Last errors", &["At", "Message", "Subscription", "State", "Status", "Error"], &error_rows(&errors),
            "There is no error of a delivery that waits or is dead."))
    };
    Ok(Page { title: format!("Endpoint {name}"), part: "/endpoints", live: Live::Yes, body })
}

fn error_rows(errors: &[Value]) -> Vec<Vec<Markup>> {
    let row = |row: &Value| {
        vec![
            time(&row["at"]),
            message(&row["message_id"]),
            named("/subscription", column(row, "subscription")),
            state(column(row, "state")),
            value(if row["status"].is_null() { &row["class"] } else { &row["status"] }),
            value(&row["error"]),
        ]
    };
    errors.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_urls_are_not_shown() {
        assert_eq!(shown_url("https://example.com/hook?key=secret#more"), "https://example.com/hook");
    }
}
