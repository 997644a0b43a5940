//! One page of the feed, and the query that asks for it.
//!
//! A reader that applies messages reads a page ahead: the server reads the next page while the messages of this one are
//! decoded and applied. The page is dropped when the reader goes back to its cursor. The cursor itself moves as it does
//! without, by a compare-and-set in the transaction of the effect.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use tokio_util::task::AbortOnDropHandle;

use super::ReaderBuilder;
use crate::error::{Error, Result};
use crate::page::Page;

/// The events of streams, in the form of messages.
const EVENTS: &str = "select r.position, r.epoch, r.message_id, r.webhook_id, r.type as topic, r.stream as key,
        r.data as payload, r.body, r.content_type, r.headers, r.metadata, r.tenant, null::text as aggregate_type,
        null::text as aggregate_id, null::text as publisher, r.occurred_at, r.recorded_at as enqueued_at, r.version,
        r.event_id
    from outbox.read_events($1, $2, types => $3, filter => $4::jsonb, epoch => $5, categories => $6, tenant => $7,
        member => $8, members => $9) r";

/// The longest time that a page waits until it is used. Content that is erased meanwhile would still be applied.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The rows of a page.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) rows: Vec<Row>,
    /// Whether there are as many as there could be, so that there are probably more behind them.
    pub(super) is_full: bool,
    /// The size of the next page.
    pub(super) page: Page,
    read_at: Instant,
}

impl Found {
    /// Returns the position and epoch of the last row. None: there is nothing new.
    pub(super) fn last(&self) -> Result<Option<(i64, Option<i32>)>> {
        self.rows.last().map(|row| Ok((row.try_get("position")?, row.try_get("epoch")?))).transpose()
    }
}

/// Reads the page behind a position.
pub(super) async fn read(
    settings: &ReaderBuilder,
    client: &Client,
    mut page: Page,
    after: i64,
    epoch: Option<i32>,
) -> Result<Found> {
    // The filter is sent as text. Null means no filter.
    let filter = settings.filter.as_ref().map(serde_json::Value::to_string);
    let asked = page.rows();
    let mut params: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&after, Type::INT8),
        (&asked, Type::INT4),
        (&settings.topics, Type::TEXT_ARRAY),
        (&filter, Type::TEXT),
        (&epoch, Type::INT4),
    ];
    let (member, members) = settings.events.as_ref().and_then(|events| events.member).unzip();
    let sql = match &settings.events {
        None => "select r.* from outbox.read($1, $2, $3, $4::jsonb, $5) r",
        Some(events) => {
            params.extend([
                (&events.categories as &(dyn ToSql + Sync), Type::TEXT_ARRAY),
                (&events.tenant, Type::TEXT),
                (&member, Type::INT4),
                (&members, Type::INT4),
            ]);
            EVENTS
        }
    };
    let (rows, is_whole) = page.read(client, sql, &params).await?;
    let is_full = !is_whole || i32::try_from(rows.len()).is_ok_and(|rows| rows >= asked);
    Ok(Found { rows, is_full, page, read_at: Instant::now() })
}

/// A page that is read while the messages before it are applied.
#[derive(Debug)]
pub(super) struct Ahead {
    after: i64,
    reading: AbortOnDropHandle<Result<Found>>,
}

impl Ahead {
    /// Begins to read the page behind a position.
    pub(super) fn begin(
        settings: ReaderBuilder,
        client: Arc<Client>,
        page: Page,
        after: i64,
        epoch: Option<i32>,
    ) -> Ahead {
        let reading = tokio::spawn(async move { read(&settings, &client, page, after, epoch).await });
        Ahead { after, reading: AbortOnDropHandle::new(reading) }
    }

    /// Waits for the page. Returns none if it is not that behind a position, is empty, or has waited for too long.
    pub(super) async fn found(self, position: i64) -> Result<Option<Found>> {
        if self.after != position {
            return Ok(None);
        }
        let found = self.reading.await.unwrap_or_else(|error| {
            Err(Error::new("XX000", "the reading of a page has ended").detail(error.to_string()))
        })?;
        // An empty page is old news: a message may have come since.
        Ok(Some(found).filter(|found| !found.rows.is_empty() && found.read_at.elapsed() < LONGEST_WAIT))
    }
}
