//! Streams of the event store.

use maud::{Markup, html};

use pg_outbox::error::Result;

use super::{Fields, asked, field, given, input, paged};
use crate::database::Work;
use crate::page::{Live, Page, facts, named, table, time, value};

const LIST: &str = "select s.stream, s.version from outbox.streams(category => $1, after => coalesce($2, ''),
    max_streams => $3::int) s";

pub(super) async fn list(work: &Work, fields: &Fields) -> Result<Page> {
    let category = given(fields, "category");
    let mut rows = work.query(LIST, &[category, given(fields, "after"), Some(&asked())]).await?;
    let next = paged(&mut rows, "/streams", &[("category", category.unwrap_or_default())], ("after", "stream"));
    let cells: Vec<Vec<Markup>> = rows
        .iter()
        .map(|row| vec![named("/stream", row["stream"].as_str().unwrap_or_default()), value(&row["version"])])
        .collect();
    let body = html! {
        form method="get" action="/streams" class="search" role="search" aria-label="Streams" {
            (input(fields, "category", "Category", "", 255))
            div { button class="primary" { "Show" } }
        }
        (table("Streams", &["Stream", "Version"], &cells, "There is no stream."))
        (next)
    };
    Ok(Page { title: "Streams".to_owned(), part: "/streams", live: Live::No, body })
}

pub(super) async fn one(work: &Work, fields: &Fields) -> Result<Page> {
    let name = field(fields, "name");
    let row = work.one("select * from outbox.stream_info(stream => $1)", &[Some(name)]).await?;
    let body = facts(&[
        ("Category", value(&row["category"])),
        ("Version", value(&row["version"])),
        ("Stored events", value(&row["events"])),
        ("First event", time(&row["created_at"])),
        ("Last event", time(&row["updated_at"])),
        ("Closed", time(&row["closed_at"])),
        ("Truncated before version", value(&row["truncated_before"])),
    ]);
    Ok(Page { title: format!("Stream {name}"), part: "/streams", live: Live::Yes, body })
}
