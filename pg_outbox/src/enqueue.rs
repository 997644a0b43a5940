//! `outbox.enqueue` and its siblings: one row in the message log, in the caller's transaction.
//!
//! Invariants: it never waits for delivery and never reads its state; the transaction id is assigned and the message id
//! drawn here, inside the call; the leaf is read after the leaf is locked (see `sequencer` in docs/architecture.md).

use outbox_core::{Code, Error, Result, topic};
use pgrx::pg_sys::{self, Datum};
use pgrx::{FromDatum, IntoDatum};

use crate::append::Leaf;
use crate::catalog;
use crate::pg_function;

/// Columns of outbox.message, in order.
mod column {
    pub const SEGMENT: usize = 0;
    pub const ID: usize = 1;
    pub const XID: usize = 2;
    pub const ENQUEUED_AT: usize = 3;
    pub const DELIVER_AT: usize = 4;
    pub const EXPIRES_AT: usize = 5;
    pub const OCCURRED_AT: usize = 6;
    pub const MAX_ATTEMPTS: usize = 7;
    pub const PRIORITY: usize = 8;
    pub const TOPIC: usize = 9;
    pub const KEY: usize = 10;
    pub const TENANT: usize = 11;
    pub const AGGREGATE_TYPE: usize = 12;
    pub const AGGREGATE_ID: usize = 13;
    pub const PUBLISHER: usize = 14;
    pub const IDEMPOTENCY_KEY: usize = 15;
    pub const CONTENT_TYPE: usize = 16;
    pub const HEADERS: usize = 17;
    pub const METADATA: usize = 18;
    pub const PAYLOAD: usize = 19;
    pub const BODY: usize = 20;
    pub const COUNT: usize = 21;
}

struct Row {
    values: [Datum; column::COUNT],
    nulls: [bool; column::COUNT],
}

impl Row {
    fn new() -> Self {
        Row { values: [Datum::null(); column::COUNT], nulls: [true; column::COUNT] }
    }

    fn set(&mut self, column: usize, value: Option<Datum>) {
        if let Some(value) = value {
            self.values[column] = value;
            self.nulls[column] = false;
        }
    }
}

/// Appends `row` to the current leaf and gives the message's id.
fn append(row: &mut Row) -> Result<i64> {
    let relations = catalog::relations()?;
    // SAFETY: plain calls into PostgreSQL; ERRORs become panics in pgrx's guards.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(c"outbox.enqueue()".as_ptr());
        let mut segment = catalog::current_value(relations.message_segment);
        let mut leaf = Leaf::open(relations.messages[segment as usize % catalog::LEAVES]);
        // Rotation moves the pointer first. Whoever holds a leaf's lock and still reads its number was not late, so a leaf
        // that nobody has locked after it was left gets no more rows.
        loop {
            let now = catalog::current_value(relations.message_segment);
            if now == segment {
                break;
            }
            leaf.close();
            segment = now;
            leaf = Leaf::open(relations.messages[segment as usize % catalog::LEAVES]);
        }
        let xid = pg_sys::GetTopFullTransactionId();
        let id = catalog::next_value(relations.message_id);
        row.set(column::SEGMENT, Some(Datum::from(segment as i16)));
        row.set(column::ID, Some(Datum::from(id)));
        row.set(column::XID, Some(Datum::from(xid.value)));
        row.set(column::ENQUEUED_AT, Some(Datum::from(pg_sys::GetCurrentTimestamp())));
        leaf.append(&mut row.values, &mut row.nulls);
        crate::wake::at_commit_wake_dispatcher();
        leaf.close();
        Ok(id)
    }
}

pg_function! {
    /// outbox.enqueue(topic, payload, key, headers, metadata, tenant, aggregate_type, aggregate_id, idempotency_key,
    /// deliver_at, expires_at, priority, publisher, max_attempts, occurred_at) returns bigint
    fn outbox_enqueue(args) {
        let mut row = Row::new();
        let Some(topic_datum) = args.datum(0) else { return Err(null("topic")) };
        // SAFETY: declared as text.
        let name = unsafe { <&str>::from_datum(topic_datum, false) }.unwrap_or_default();
        topic::validate(name)?;
        row.set(column::TOPIC, Some(topic_datum));
        row.set(column::PAYLOAD, Some(args.datum(1).ok_or_else(|| null("payload"))?));
        row.set(column::KEY, args.datum(2));
        row.set(column::HEADERS, args.datum(3));
        row.set(column::METADATA, args.datum(4));
        row.set(column::TENANT, args.datum(5));
        row.set(column::AGGREGATE_TYPE, args.datum(6));
        row.set(column::AGGREGATE_ID, args.datum(7));
        row.set(column::IDEMPOTENCY_KEY, args.datum(8));
        row.set(column::DELIVER_AT, args.datum(9));
        row.set(column::EXPIRES_AT, args.datum(10));
        row.set(column::PRIORITY, Some(args.datum(11).unwrap_or(Datum::from(0i16))));
        row.set(column::PUBLISHER, args.datum(12));
        row.set(column::MAX_ATTEMPTS, args.datum(13));
        row.set(column::OCCURRED_AT, args.datum(14));
        Ok(append(&mut row)?.into_datum())
    }
}

pg_function! {
    /// outbox._enqueue_own(topic text, payload jsonb) returns bigint
    fn outbox_enqueue_own(args) {
        let mut row = Row::new();
        topic::validate_form(args.get::<&str>(0).unwrap_or_default())?;
        row.set(column::TOPIC, args.datum(0));
        row.set(column::PAYLOAD, args.datum(1));
        row.set(column::PRIORITY, Some(Datum::from(0i16)));
        Ok(append(&mut row)?.into_datum())
    }
}

fn null(what: &str) -> Error {
    Error::new(Code::NullNotAllowed, format!("{what} must not be null"))
}
