//! Statements that make rows of outbox.delivery and bundles, and end deliveries that have no row.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use outbox_dispatch::pull::window::{Ended, NewRow, bundled};
use pgrx::pg_sys::{BOOLARRAYOID, INT2ARRAYOID, INT2OID, INT4ARRAYOID, INT4OID, INT8ARRAYOID, INT8OID, TEXTARRAYOID};

use crate::pg::txn::{Plan, arg};
use crate::shared::claim_hints;

/// Statements that make rows, and end deliveries without a row.
pub struct RowMaker {
    open: Plan,
    open_bundle: Plan,
    opened: Plan,
    end: Plan,
    end_cancelled_of: Plan,
}

impl RowMaker {
    pub const fn new() -> RowMaker {
        RowMaker {
            open: Plan::new(
                "select outbox_internal.open_deliveries($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                &[
                    BOOLARRAYOID,
                    INT4ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT2ARRAYOID,
                    INT2ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT4ARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                ],
            ),
            open_bundle: Plan::new(
                "select outbox_internal.open_bundle($1, $2, $3, $4, $5)",
                &[INT4OID, INT2OID, INT8OID, INT8ARRAYOID, INT8ARRAYOID],
            ),
            opened: Plan::new(
                "select outbox_internal.subscriptions_with_deliveries($1, $2)",
                &[INT4ARRAYOID, INT8ARRAYOID],
            ),
            end: Plan::new(
                "select outbox_internal.record_ended($1, $2, $3, $4, $5)",
                &[INT4ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, INT2ARRAYOID, TEXTARRAYOID],
            ),
            end_cancelled_of: Plan::new("select outbox_internal.end_cancelled($1, '{}')", &[INT8ARRAYOID]),
        }
    }

    /// Makes these rows. Inside the transaction of the checkpoint.
    pub fn open_rows(&mut self, rows: &[NewRow], now: i64) {
        let (bundles, rows) = bundled(rows, now);
        for bundle in bundles {
            self.open_bundle.execute(&[
                arg(bundle[0].subscription),
                arg(bundle[0].segment),
                arg(bundle[0].due),
                arg(bundle.iter().map(|r| r.position).collect::<Vec<i64>>()),
                arg(bundle.iter().map(|r| r.message_id).collect::<Vec<i64>>()),
            ]);
        }
        if !rows.is_empty() {
            self.open.execute(&[
                arg(rows.iter().map(|r| r.pull).collect::<Vec<bool>>()),
                arg(rows.iter().map(|r| r.subscription).collect::<Vec<i32>>()),
                arg(rows.iter().map(|r| r.position).collect::<Vec<i64>>()),
                arg(rows.iter().map(|r| r.message_id).collect::<Vec<i64>>()),
                arg(rows.iter().map(|r| r.segment).collect::<Vec<i16>>()),
                arg(rows.iter().map(|r| r.priority).collect::<Vec<i16>>()),
                arg(rows.iter().map(|r| r.due).collect::<Vec<i64>>()),
                arg(rows.iter().map(|r| r.expires).collect::<Vec<_>>()),
                arg(rows.iter().map(|r| r.max_attempts).collect::<Vec<_>>()),
                arg(rows.iter().map(|r| r.key.as_deref()).collect::<Vec<_>>()),
                arg(rows.iter().map(|r| json(r.payload.as_ref())).collect::<Vec<_>>()),
            ]);
        }
    }

    /// Called after rows have been made. Returns the subscriptions whose workers are to be notified.
    pub fn opened(&mut self, rows: &[NewRow]) -> Vec<i32> {
        if rows.is_empty() {
            return Vec::new();
        }
        let subscriptions: HashSet<i32> = rows.iter().map(|r| r.subscription).collect();
        let messages: Vec<i64> = rows.iter().map(|r| r.message_id).collect();
        let told = self.opened.execute(&[arg(Vec::from_iter(subscriptions)), arg(messages)]);
        told.first(|row| row.get::<Vec<i32>>(0)).flatten().unwrap_or_default()
    }

    /// Writes deliveries that ended before they had a row. Inside the transaction of the checkpoint.
    pub fn end(&mut self, ended: &[Ended]) {
        if !ended.is_empty() {
            self.end.execute(&[
                arg(ended.iter().map(|r| r.subscription).collect::<Vec<i32>>()),
                arg(ended.iter().map(|r| r.position).collect::<Vec<i64>>()),
                arg(ended.iter().map(|r| r.message_id).collect::<Vec<i64>>()),
                arg(ended.iter().map(|r| r.segment).collect::<Vec<i16>>()),
                arg(ended.iter().map(|r| r.outcome).collect::<Vec<_>>()),
            ]);
        }
    }

    /// Ends deliveries of these messages that were cancelled while their rows were being made or changed. A session that
    /// cancelled a message meanwhile could not see its row. Returns whether there were any. Inside the same transaction.
    pub fn end_cancelled(&mut self, messages: Vec<i64>) -> bool {
        !messages.is_empty() && self.end_cancelled_of.execute(&[arg(messages)]).first(|row| row.int(0)) > Some(0)
    }
}

/// The JSON of a payload that a transform has made.
pub fn json(payload: Option<&Bytes>) -> Option<String> {
    payload.map(|payload| String::from_utf8_lossy(payload).into_owned())
}

/// Called when these rows have been committed: lowers the claim hints of their subscriptions. Returns whether there are rows
/// that workers claim.
pub fn announce(rows: &[NewRow]) -> bool {
    // The earliest due time of each subscription and priority. Rows are in order of time, except those that are due later.
    let mut made = HashMap::new();
    for row in rows.iter().filter(|row| row.pull) {
        made.entry((row.subscription, i32::from(row.priority)))
            .and_modify(|due: &mut i64| *due = row.due.min(*due))
            .or_insert(row.due);
    }
    for ((subscription, level), due) in &made {
        claim_hints::made(*subscription, *level, *due);
        claim_hints::made(-subscription, *level, *due);
    }
    !made.is_empty()
}
