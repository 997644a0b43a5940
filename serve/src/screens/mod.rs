//! The pages. Each reads with few queries, and each list has a limit and a link to its next page.

pub(crate) mod databases;
pub(crate) mod dead_letters;
mod endpoints;
mod messages;
mod overview;
mod sagas;
mod storage;
mod streams;
pub(crate) mod subscriptions;
mod timeline;
mod workers;

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::Value;

use pg_outbox::error::{Error, Result};

use crate::database::Work;
use crate::page::{Page, Viewer, link};
use crate::samples::Samples;

/// The rows of a page of a list.
const ROWS: usize = 100;

type Fields = BTreeMap<String, String>;

/// Returns the entry of the navigation that a path belongs to.
pub(crate) fn part_of(path: &str) -> &'static str {
    match path {
        "/subscriptions" | "/subscription" => "/subscriptions",
        "/endpoints" | "/endpoint" => "/endpoints",
        "/dead-letters" | "/dead-letter" => "/dead-letters",
        "/messages" | "/message" => "/messages",
        "/tail" => "/tail",
        "/workers" | "/replay" => "/workers",
        "/sagas" | "/saga" => "/sagas",
        "/streams" | "/stream" => "/streams",
        "/storage" => "/storage",
        _ => "/",
    }
}

/// Reads a page.
pub(crate) async fn show(path: &str, work: &Work, viewer: &Viewer, fields: &Fields, samples: &Samples) -> Result<Page> {
    match path {
        "/" => overview::show(work, viewer, samples).await,
        "/subscriptions" => subscriptions::list(work, viewer, fields, samples).await,
        "/subscription" => subscriptions::one(work, viewer, fields, samples).await,
        "/endpoints" => endpoints::list(work, fields).await,
        "/endpoint" => endpoints::one(work, viewer, fields).await,
        "/dead-letters" => dead_letters::list(work, viewer, fields).await,
        "/dead-letter" => dead_letters::one(work, viewer, fields).await,
        "/messages" => messages::search(work, fields).await,
        "/message" => timeline::show(work, viewer, fields).await,
        "/tail" => messages::tail(work, fields).await,
        "/workers" => workers::show(work, viewer, fields).await,
        "/replay" => workers::replay(work, viewer, fields).await,
        "/sagas" => sagas::list(work, fields).await,
        "/saga" => sagas::one(work, fields).await,
        "/streams" => streams::list(work, fields).await,
        "/stream" => streams::one(work, fields).await,
        "/storage" => storage::show(work, fields).await,
        _ => Err(Error::new("OB001", "there is no such page")),
    }
}

/// Returns the text of a field without spaces around it.
fn field<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.get(name).map_or("", |value| value.trim())
}

/// Returns a field, or nothing if it is empty.
fn given<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    Some(field(fields, name)).filter(|value| !value.is_empty())
}

/// Returns the number in a field, or nothing if it is empty.
fn number(fields: &Fields, name: &str) -> Result<Option<i64>> {
    given(fields, name)
        .map(|text| text.parse().map_err(|_| Error::invalid(format!("\"{name}\" is not a number"))))
        .transpose()
}

/// Takes the rows of a page from a query that asked for one row more, and returns the link to the next page.
fn paged(rows: &mut Vec<Value>, path: &str, kept: &[(&str, &str)], key: (&str, &str)) -> Markup {
    let more = rows.len() > ROWS;
    rows.truncate(ROWS);
    let (field, column) = key;
    match rows.last().filter(|_| more) {
        Some(last) => {
            let at = last[column].as_str().map_or_else(|| last[column].to_string(), ToOwned::to_owned);
            let fields: Vec<(&str, &str)> = kept.iter().copied().chain([(field, at.as_str())]).collect();
            html! { p { a rel="next" href=(link(path, &fields)) { "Next page" } } }
        }
        None => html! {},
    }
}

/// Returns a text field of a search, with its label.
fn input(fields: &Fields, name: &str, label: &str, hint: &str, most: usize) -> Markup {
    html! {
        div {
            label for=(name) { (label) }
            input id=(name) name=(name) value=(field(fields, name)) placeholder=[Some(hint).filter(|hint| !hint.is_empty())]
                maxlength=(most);
        }
    }
}

/// The number of rows that a query asks for.
fn asked() -> String {
    (ROWS + 1).to_string()
}
