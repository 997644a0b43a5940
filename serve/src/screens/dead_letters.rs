//! Dead letters, grouped by subscription, reason and error, and one by one.

use maud::{Markup, html};
use serde_json::Value;

use pg_outbox::error::{Error, Result};

use super::{Fields, ROWS, asked, field, given, number, paged};
use crate::database::Work;
use crate::page::{Live, Page, Viewer, button, column, facts, link, message, named, state, table, time, value};

/// The open dead letters that the groups are made of: the newest ones.
const LOOKED_AT: i64 = 10_000;

const GROUPS: &str = "
    select s.name as subscription, u.subscription_id, u.reason, u.cause, u.n, u.oldest, u.newest, k.last_error
    from (
        select l.subscription_id, l.reason, coalesce(l.last_status::text, l.last_error_class, '') as cause, count(*) as n,
            min(l.dead_at) as oldest, max(l.dead_at) as newest, max(l.id) as last
        from (
            select * from outbox.dead_letter d
            where d.resolution = 'open'
                and ($1::text is null or d.subscription_id in (select o.id from outbox.subscription o where o.name = $1))
            order by d.id desc limit 10000
        ) l
        group by 1, 2, 3
    ) u
    join outbox.dead_letter k on k.id = u.last
    left join outbox.subscription s on s.id = u.subscription_id
    order by u.n desc, u.subscription_id, u.reason, u.cause limit 100";

const LIST: &str = "
    select l.id, l.dead_at, s.name as subscription, l.message_id, l.attempt, l.last_error
    from outbox.dead_letter l left join outbox.subscription s on s.id = l.subscription_id
    where l.resolution = 'open' and l.subscription_id = $1::int and l.reason = $2
        and coalesce(l.last_status::text, l.last_error_class, '') = $3 and l.id < $4::bigint
    order by l.id desc limit $5::bigint";

const MATCHING: &str = "
    from outbox.dead_letter l
    where l.resolution = 'open' and l.subscription_id = $1::int and l.reason = $2
        and coalesce(l.last_status::text, l.last_error_class, '') = $3 and l.id > $4::bigint and l.id <= $5::bigint";

/// Dead letters that have these in common, between two ids.
#[derive(Debug)]
pub(crate) struct Group {
    subscription_id: i64,
    reason: String,
    /// The status, or the class of the error where there was no answer.
    cause: String,
    /// Those with this id and before are done.
    pub(crate) after: i64,
    upto: i64,
}

impl Group {
    pub(crate) fn of(fields: &Fields) -> Result<Group> {
        let Some(subscription_id) = number(fields, "subscription_id")? else {
            return Err(Error::invalid("the group of dead letters has no subscription"));
        };
        Ok(Group {
            subscription_id,
            reason: field(fields, "reason").to_owned(),
            cause: field(fields, "cause").to_owned(),
            after: number(fields, "after")?.unwrap_or(0),
            upto: number(fields, "upto")?.unwrap_or(i64::MAX),
        })
    }

    /// Returns the part of the group that is not done.
    pub(crate) fn from(self, after: i64) -> Group {
        Group { after, ..self }
    }

    pub(crate) fn shown(&self) -> Markup {
        facts(&[
            ("Reason", value(&Value::from(self.reason.as_str()))),
            ("Status or error", value(&Value::from(self.cause.as_str()))),
        ])
    }

    fn params(&self) -> [String; 5] {
        let number = |n: i64| n.to_string();
        [number(self.subscription_id), self.reason.clone(), self.cause.clone(), number(self.after), number(self.upto)]
    }
}

/// Counts the dead letters of a group, to a limit, and returns the count, whether there are more, and the highest id.
pub(crate) async fn count(work: &Work, group: &Group) -> Result<(i64, bool, i64)> {
    let sql = format!(
        "select count(*) as n, (select coalesce(max(d.id), 0) from outbox.dead_letter d) as last
        from (select 1 {MATCHING} limit {}) l",
        LOOKED_AT + 1
    );
    let params = group.params();
    let row = work.one(&sql, &params.each_ref().map(|param| Some(param.as_str()))).await?;
    let n = row["n"].as_i64().unwrap_or(0);
    Ok((n.min(LOOKED_AT), n > LOOKED_AT, group.upto.min(row["last"].as_i64().unwrap_or(0))))
}

/// Returns the ids of the next dead letters of a group, oldest first.
pub(crate) async fn ids(work: &Work, group: &Group, most: i64) -> Result<Vec<i64>> {
    let sql = format!("select l.id {MATCHING} order by l.id limit {most}");
    let params = group.params();
    let rows = work.query(&sql, &params.each_ref().map(|param| Some(param.as_str()))).await?;
    Ok(rows.iter().filter_map(|row| row["id"].as_i64()).collect())
}

pub(super) async fn list(work: &Work, viewer: &Viewer, fields: &Fields) -> Result<Page> {
    if given(fields, "subscription_id").is_some() {
        return group(work, viewer, fields).await;
    }
    let groups = work.query(GROUPS, &[given(fields, "subscription")]).await?;
    let seen: i64 = groups.iter().filter_map(|row| row["n"].as_i64()).sum();
    let cells: Vec<Vec<Markup>> = groups
        .iter()
        .map(|row| {
            let id = row["subscription_id"].to_string();
            let fields =
                [("subscription_id", id.as_str()), ("reason", column(row, "reason")), ("cause", column(row, "cause"))];
            vec![
                named("/subscription", column(row, "subscription")),
                value(&row["reason"]),
                value(&row["cause"]),
                html! { a href=(link("/dead-letters", &fields)) { (row["n"]) } },
                time(&row["oldest"]),
                time(&row["newest"]),
                value(&row["last_error"]),
                button(
                    viewer,
                    "requeue-all",
                    &fields,
                    &format!("{}: {}", column(row, "subscription"), column(row, "reason")),
                ),
            ]
        })
        .collect();
    let heads = ["Subscription", "Reason", "Status or error", "Open", "Oldest", "Newest", "Last error", "Actions"];
    let body = html! {
        @if let Some(name) = given(fields, "subscription") {
            p { "Of subscription " (named("/subscription", name)) ". " a href="/dead-letters" { "Of all" } }
        }
        @if seen >= LOOKED_AT { p class="hint" { "The groups are those of the newest "
            (LOOKED_AT) " open dead letters. There are more." } }
        (table("Groups of dead letters", &heads, &cells, "There is no open dead letter."))
    };
    Ok(Page { title: "Dead letters".to_owned(), part: "/dead-letters", live: Live::Yes, body })
}

/// The dead letters of a group, newest first.
async fn group(work: &Work, viewer: &Viewer, fields: &Fields) -> Result<Page> {
    let group = Group::of(fields)?;
    let id = group.subscription_id.to_string();
    let before = number(fields, "before")?.unwrap_or(i64::MAX).to_string();
    let params = [Some(id.as_str()), Some(&group.reason), Some(&group.cause), Some(&before), Some(&asked())];
    let mut rows = work.query(LIST, &params).await?;
    let kept = [("subscription_id", id.as_str()), ("reason", group.reason.as_str()), ("cause", group.cause.as_str())];
    let next = paged(&mut rows, "/dead-letters", &kept, ("before", "id"));
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| {
            let id = row["id"].to_string();
            vec![
                html! { a href=(link("/dead-letter", &[("id", &id)])) { (id) } },
                time(&row["dead_at"]),
                named("/subscription", column(row, "subscription")),
                message(&row["message_id"]),
                value(&row["attempt"]),
                value(&row["last_error"]),
                button(viewer, "requeue", &[("dead_letter_id", &id)], &format!("dead letter {id}")),
            ]
        })
        .collect();
    let heads = ["Id", "Dead since", "Subscription", "Message", "Attempts", "Last error", "Actions"];
    let body = html! {
        (group.shown())
        div class="actions" { (button(viewer, "requeue-all", &kept, "of this group")) }
        (table("Dead letters", &heads, &cells, "No open dead letter matches."))
        (next)
        p class="hint" { "Newest first, " (ROWS) " on a page." }
    };
    Ok(Page { title: "Dead letters of a group".to_owned(), part: "/dead-letters", live: Live::No, body })
}

const ONE: &str = "
    select l.id, s.name as subscription, e.name as endpoint, l.message_id, l.state, l.reason, l.attempt, l.last_status,
        l.last_error_class, l.last_error, l.first_attempt_at, l.last_attempt_at, l.dead_at, l.resolution, l.resolved_at,
        l.resolved_by, l.resolution_note
    from outbox.dead_letter l left join outbox.subscription s on s.id = l.subscription_id
    left join outbox.endpoint e on e.id = l.endpoint_id
    where l.id = $1::bigint";

pub(super) async fn one(work: &Work, viewer: &Viewer, fields: &Fields) -> Result<Page> {
    let id = number(fields, "id")?.unwrap_or(0).to_string();
    let row = work.one(ONE, &[Some(&id)]).await?;
    if row.is_null() {
        return Err(Error::new("OB001", format!("dead letter {id} does not exist")));
    }
    let of = format!("dead letter {id}");
    let body = html! {
        (facts(&[
            ("Resolution", state(column(&row, "resolution"))),
            ("Subscription", named("/subscription", column(&row, "subscription"))),
            ("Endpoint", named("/endpoint", column(&row, "endpoint"))),
            ("Message", message(&row["message_id"])),
            ("Reason", value(&row["reason"])),
            ("Attempts", value(&row["attempt"])),
            ("Last status", value(&row["last_status"])),
            ("Class of the last error", value(&row["last_error_class"])),
            ("Last error", value(&row["last_error"])),
            ("First attempt", time(&row["first_attempt_at"])),
            ("Last attempt", time(&row["last_attempt_at"])),
            ("Dead since", time(&row["dead_at"])),
            ("Dealt with", time(&row["resolved_at"])),
            ("By", value(&row["resolved_by"])),
            ("Note", value(&row["resolution_note"])),
        ]))
        @if row["resolution"] == "open" {
            div class="actions" {
                @for action in ["requeue", "resolve", "ignore"] { (button(viewer, action, &[("dead_letter_id", &id)], &of)) }
            }
        }
    };
    Ok(Page { title: format!("Dead letter {id}"), part: "/dead-letters", live: Live::No, body })
}
