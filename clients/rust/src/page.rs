//! [`Page`]: how much a query for many messages reads at once.
//!
//! A page is bounded in rows by its reader, and in bytes here. Rows after the bound are discarded, and the next page asks
//! for as many rows as fitted, so that the server does not send the same large rows again and again.

use std::pin::pin;

use futures_util::TryStreamExt as _;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use crate::error::Result;

/// The size in bytes at which a page ends. The row that reaches it is part of the page.
const MAX_BYTES: usize = 8 << 20;

/// The size of the pages of a reader.
#[derive(Clone, Debug)]
pub struct Page {
    most: i32,
    rows: i32,
}

impl Page {
    /// Creates pages of at most so many rows.
    pub fn new(rows: i32) -> Page {
        Page { most: rows, rows }
    }

    /// Returns the number of rows that the next query may ask for.
    pub fn rows(&self) -> i32 {
        self.rows
    }

    /// Runs a query that asks for [`Page::rows`] rows. Returns its rows, and whether these are all of them.
    ///
    /// # Errors
    /// Those of the query.
    pub async fn read(
        &mut self,
        client: &Client,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<(Vec<Row>, bool)> {
        let params = params.iter().map(|(value, ty)| (*value, ty.clone()));
        let mut stream = pin!(client.query_typed_raw(sql, params).await?);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = stream.try_next().await? {
            bytes += row.raw_size_bytes();
            rows.push(row);
            if bytes >= MAX_BYTES {
                self.rows = i32::try_from(rows.len()).unwrap_or(self.most).min(self.most);
                let is_whole = stream.try_next().await?.is_none();
                return Ok((rows, is_whole));
            }
        }
        if bytes < MAX_BYTES / 2 {
            self.rows = self.rows.saturating_mul(2).min(self.most);
        }
        Ok((rows, true))
    }
}
