//! `outbox.append` and its siblings: they append events to a stream, in the caller's transaction.
//!
//! Invariants:
//! * The lock of the stream is taken before its last version is read, and held until the transaction ends.
//! * The last version is read as it is now, committed or of this transaction, whatever the transaction's snapshot shows.
//! * The transaction id is assigned before a message id is drawn, both inside the call.
//! * Beyond `MAX_LOCKS` streams per transaction, the unique index alone guards the versions.

use std::cell::{Cell, RefCell};

use outbox_core::{Code, Error, Result, digest, headers, stream, topic};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{IntoDatum, PgSqlErrorCode, PgTryBuilder, Uuid};
use serde_json::Value;

use crate::pg::function::{Args, Returned, record};
use crate::pg::table::Table;
use crate::pg::{catalog, scan, shape};
use crate::pg_function;
use crate::shared::wake;
use crate::sql::after_append;
use crate::sql::enqueue::{
    self, Attributes, Context, MAX_NAME, Row, array, column, content, null, refuse_copy, text, transaction_id,
};

/// Streams that a transaction locks. The lock table is shared memory, which a transaction with very many streams would use
/// up.
const MAX_LOCKS: usize = 64;
/// Events of one call.
const MAX_EVENTS: usize = 10_000;

/// Values of `expected_version` that are no version.
const ANY: i64 = -1;
const EXISTS: i64 = -2;

/// The stream of a call, and its version as the caller expects it.
struct Target<'a> {
    stream: &'a str,
    key: Datum,
    expected: i64,
}

/// The result of a call.
struct Appended {
    first: i64,
    last: i64,
    ids: Vec<i64>,
    repeated: bool,
}

impl Target<'_> {
    /// Reads the stream from argument 0, and the expected version from `expected`.
    fn of(args: Args, expected: usize) -> Result<Target<'static>> {
        let key = args.datum(0).ok_or_else(|| null("stream"))?;
        let stream = args.get::<&str>(0).unwrap_or_default();
        stream::validate(stream)?;
        // SAFETY: reads a variable of the session, and raises an ERROR that pgrx turns into a panic.
        unsafe { pg_sys::PreventCommandIfParallelMode(c"outbox.append()".as_ptr()) };
        let expected = args.get::<i64>(expected).ok_or_else(|| null("expected_version"))?;
        if expected < EXISTS {
            return Err(Error::invalid("invalid expected_version")
                .detail(format!("It is {expected}."))
                .hint("-1: any; 0: the stream does not exist; -2: it exists; n: its last version is n."));
        }
        Ok(Target { stream, key, expected })
    }

    /// Whether the stream may be appended to at this version.
    fn holds(&self, actual: i64) -> bool {
        match self.expected {
            ANY => true,
            EXISTS => actual > 0,
            expected => actual == expected,
        }
    }

    fn conflict(&self, actual: Option<i64>) -> Error {
        let Target { stream, expected, .. } = self;
        let message = match (*expected, actual) {
            (_, None) => format!("stream \"{stream}\" has got other events meanwhile"),
            (0, Some(actual)) => format!("stream \"{stream}\" exists already, at version {actual}"),
            (EXISTS, _) => format!("stream \"{stream}\" does not exist"),
            (_, Some(actual)) => format!("stream \"{stream}\" is at version {actual}, not at {expected}"),
        };
        let actual = actual.map_or("null".to_owned(), |actual| actual.to_string());
        let name = Value::from(*stream);
        Error::new(Code::VersionConflict, message)
            .detail(format!("{{\"stream\": {name}, \"expected\": {expected}, \"actual\": {actual}}}"))
            .hint("Load the stream again in a new transaction, decide again, and append again.")
    }
}

/// Appends rows with type and content to a stream. `identified`: all of them have an event id.
fn append(target: &Target<'_>, rows: &mut [Row], identified: bool) -> Result<Appended> {
    let relations = catalog::relations()?;
    refuse_copy(&relations)?;
    let xid = transaction_id(c"outbox.append()");
    // Everything that needs no lock comes first: sessions that append to the same stream wait for the rest.
    let mut leaf = Table::open(relations.events, shape::MESSAGE)?;
    lock(target.stream, xid.value, MAX_LOCKS);
    let state = exceptional(target.key)?;
    let index = leaf.index(relations.stream_index).ok_or_else(no_index)?;
    // SAFETY: the leaf and its index are open.
    let last = unsafe { scan::last_version(leaf.relation(), index, target.key) };
    let actual = last.unwrap_or(0).max(state.last_version);
    if !target.holds(actual) {
        if identified
            && target.expected >= 0
            && let Some(known) = repeated(target, &leaf, index, rows)?
        {
            leaf.close();
            return Ok(known);
        }
        return Err(if state.closed { closed(target.stream, actual) } else { target.conflict(Some(actual)) });
    }
    if state.closed {
        return Err(closed(target.stream, actual));
    }
    // SAFETY: reads the clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    let mut ids = Vec::with_capacity(rows.len());
    for (version, row) in (actual + 1..).zip(rows.iter_mut()) {
        let id = catalog::next_value(relations.message_id);
        row.set(column::SEGMENT, stream::SEGMENT.into_datum());
        row.set(column::ID, id.into_datum());
        row.set(column::XID, Some(Datum::from(xid.value)));
        row.set(column::ENQUEUED_AT, now.into_datum());
        row.set(column::KEY, Some(target.key));
        row.set(column::VERSION, version.into_datum());
        ids.push(id);
    }
    write(target, &mut leaf, rows)?;
    leaf.close();
    after_append::run(target.key, actual + 1, actual + rows.len() as i64)?;
    wake::at_commit_wake_dispatcher();
    Ok(Appended { first: actual + 1, last: actual + rows.len() as i64, ids, repeated: false })
}

/// Writes the rows. A transaction that did not lock the stream may have been there first, and has committed: that is the
/// same conflict as one that was seen before.
fn write(target: &Target<'_>, leaf: &mut Table, rows: &mut [Row]) -> Result<()> {
    let taken = PgTryBuilder::new(std::panic::AssertUnwindSafe(|| {
        match rows {
            [row] => leaf.append(&mut row.values, &mut row.nulls),
            _ => leaf.append_all(rows.iter_mut().map(|row| (&mut row.values, &mut row.nulls))),
        }
        false
    }))
    .catch_when(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, |error| match &error {
        CaughtError::PostgresError(report) if report.message().contains("_message_event_stream") => true,
        _ => error.rethrow(),
    })
    .execute();
    if taken { Err(target.conflict(None)) } else { Ok(()) }
}

/// The result of the same call before, if these events were appended by one.
///
/// # Errors
/// OB008: the events with these ids, at these versions, have another type or content.
fn repeated(target: &Target<'_>, leaf: &Table, index: pg_sys::Relation, rows: &[Row]) -> Result<Option<Appended>> {
    let (first, last) = (target.expected + 1, target.expected + rows.len() as i64);
    let (mut ids, mut same_ids, mut same_content) = (Vec::with_capacity(rows.len()), true, true);
    let mut compare = |stored: &crate::pg::txn::Row| {
        let Some(row) = rows.get(ids.len()) else { return };
        ids.push(stored.int(column::ID));
        same_ids &= stored.get::<Uuid>(column::EVENT_ID) == row.uuid(column::EVENT_ID);
        let erased = stored.is_null(column::PAYLOAD) && stored.is_null(column::BODY);
        same_content &= stored.get::<&str>(column::TOPIC) == row.str(column::TOPIC)
            && (erased
                || [column::PAYLOAD, column::BODY, column::CONTENT_TYPE]
                    .iter()
                    .all(|c| stored.bytes(*c).as_deref() == row.bytes(*c).as_deref()));
    };
    // SAFETY: the leaf and its index are open.
    unsafe { scan::versions(leaf.relation(), index, target.key, first, last, &mut compare) };
    if ids.len() < rows.len() || !same_ids {
        return Ok(None);
    }
    if !same_content {
        return Err(Error::new(Code::IdempotencyConflict, "the event ids are those of other events")
            .detail(format!(
                "Stream \"{}\" has events with these ids, and with another type or content.",
                target.stream
            ))
            .hint("An event id names one event for ever: give new events new ids."));
    }
    Ok(Some(Appended { first, last, ids, repeated: true }))
}

fn closed(stream: &str, actual: i64) -> Error {
    Error::new(Code::StreamClosed, format!("stream \"{stream}\" is closed"))
        .detail(format!("Its last version is {actual}."))
        .hint("A closed stream takes no more events: append to another one.")
}

fn no_index() -> Error {
    Error::new(Code::NotInThisState, "index \"outbox._message_event_stream\" does not exist")
        .detail("It guards the versions of streams.")
        .hint("It was dropped or replaced. Restore it as CREATE EXTENSION made it, before anything is appended.")
}

thread_local! {
    /// The locks that a transaction has taken: the transaction, and the subtransaction of each lock.
    static LOCKED: RefCell<(u64, Vec<pg_sys::SubTransactionId>)> = const { RefCell::new((0, Vec::new())) };
}

/// Takes the lock of a stream until the transaction ends. `at_most`: it is not taken if the transaction has as many. It is an
/// advisory lock of a class that no SQL function can name.
fn lock(stream: &str, xid: u64, at_most: usize) {
    let count = LOCKED.with_borrow_mut(|(of, by)| {
        if std::mem::replace(of, xid) != xid {
            by.clear();
        }
        by.len()
    });
    // SAFETY: a lock tag on the stack. The wait can be cancelled, and ends with the transaction that has the lock.
    unsafe {
        if count < at_most {
            let [a, b, c, d, e, f, g, h, ..] = digest::fingerprint([Some(stream.as_bytes())]);
            let tag = pg_sys::LOCKTAG {
                locktag_field1: pg_sys::MyDatabaseId.to_u32(),
                locktag_field2: u32::from_be_bytes([a, b, c, d]),
                locktag_field3: u32::from_be_bytes([e, f, g, h]),
                // The advisory locks of SQL functions have 1 or 2 here.
                locktag_field4: 0x0b0e,
                locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
                locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
            };
            let taken = pg_sys::LockAcquire(&tag, pg_sys::ExclusiveLock as _, false, false);
            if taken == pg_sys::LockAcquireResult::LOCKACQUIRE_OK {
                let by = pg_sys::GetCurrentSubTransactionId();
                LOCKED.with_borrow_mut(|(_, locks)| locks.push(by));
            }
        }
        // The session that had the lock may have closed the stream.
        pg_sys::AcceptInvalidationMessages();
    }
}

/// Called when a subtransaction ends. One that is rolled back has released its locks. One that ends well leaves them to its
/// parent.
pub fn subtransaction_ended(own: pg_sys::SubTransactionId, parent: pg_sys::SubTransactionId, rolled_back: bool) {
    LOCKED.with_borrow_mut(|(_, locks)| {
        if rolled_back {
            locks.retain(|by| *by != own);
        } else {
            locks.iter_mut().filter(|by| **by == own).for_each(|by| *by = parent);
        }
    });
}

/// The exceptional state of a stream.
#[derive(Clone, Copy, Default)]
struct State {
    closed: bool,
    last_version: i64,
}

thread_local! {
    /// Whether outbox.stream has a row; `None`: not known.
    static EXCEPTIONS: Cell<Option<bool>> = const { Cell::new(None) };
    static TABLE: Cell<Oid> = const { Cell::new(pg_sys::InvalidOid) };
    static CHANGES: Cell<u64> = const { Cell::new(0) };
}

/// Looks the stream up in outbox.stream, as the table is now. A session that knows that the table is empty does not look.
fn exceptional(stream: Datum) -> Result<State> {
    thread_local!(static REGISTERED: Cell<bool> = const { Cell::new(false) });
    if EXCEPTIONS.get() == Some(false) {
        return Ok(State::default());
    }
    if !REGISTERED.replace(true) {
        // SAFETY: the callback touches only this module's thread-local cells and cannot fail.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(relcache_changed), Datum::null()) };
    }
    TABLE.set(catalog::lookup("stream")?);
    let (changes, mut state) = (CHANGES.get(), State::default());
    let any = scan::stream_state(TABLE.get(), catalog::lookup("stream_pkey")?, stream, |row| {
        // Columns of outbox.stream: stream, closed_at, truncated_before, last_version.
        state = State { closed: !row.is_null(1), last_version: row.int(3) };
    })?;
    if CHANGES.get() == changes {
        EXCEPTIONS.set(Some(any));
    }
    Ok(state)
}

unsafe extern "C-unwind" fn relcache_changed(_arg: Datum, relation: Oid) {
    if relation == pg_sys::InvalidOid || relation == TABLE.get() {
        CHANGES.set(CHANGES.get() + 1);
        EXCEPTIONS.set(None);
    }
}

/// Indexes of the arguments that the functions for many events have, after the contents.
struct Many {
    expected: usize,
    content: usize,
    column: usize,
}

/// Makes the rows of a call with arrays, and appends them.
fn append_many(args: Args, many: &Many) -> Result<Returned> {
    let target = Target::of(args, many.expected)?;
    let what = if many.column == column::BODY { "bodies" } else { "data" };
    let types = array(args, 1, "types")?.ok_or_else(|| null("types"))?;
    let contents = array(args, many.content, what)?.ok_or_else(|| null(what))?;
    let event_ids = args.get::<Vec<Option<Uuid>>>(many.expected + 1);
    let metadata = array(args, many.expected + 2, "metadata")?;
    let count = types.len();
    if count == 0 {
        return Err(Error::invalid("there are no events").hint("types has one entry per event."));
    }
    if count > MAX_EVENTS {
        return Err(Error::new(Code::TooLarge, "there are too many events")
            .detail(format!("There are {count}; the limit is {MAX_EVENTS}."))
            .hint("Append them in several calls of one transaction."));
    }
    let lengths = [Some(contents.len()), event_ids.as_ref().map(Vec::len), metadata.as_ref().map(Vec::len)];
    if lengths.into_iter().flatten().any(|length| length != count) {
        let lengths = lengths.map(|length| length.map_or("null".to_owned(), |length| length.to_string()));
        let [contents, event_ids, metadata] = lengths;
        return Err(Error::invalid(format!("types, {what}, event_ids and metadata have different lengths"))
            .detail(format!("types: {count}, {what}: {contents}, event_ids: {event_ids}, metadata: {metadata}."))
            .hint("Each has one entry per event; event_ids and metadata can be null."));
    }
    let attributes = Attributes {
        headers: many.expected + 3,
        tenant: many.expected + 4,
        publisher: many.expected + 5,
        occurred_at: many.expected + 6,
    };
    let template = Row::with(args, &attributes)?;
    let context = Context::of_transaction()?;
    let mut rows = Vec::with_capacity(count);
    for i in 0..count {
        let content = (contents[i].ok_or_else(|| null(what))?, many.column);
        let metadata = metadata.as_ref().and_then(|list| list[i]);
        let event_id = event_ids.as_ref().and_then(|list| list[i]);
        let mut row = event(&template, context.as_ref(), types[i], content, metadata, event_id)?;
        if many.column == column::BODY {
            text(&mut row, column::CONTENT_TYPE, args, 3, "content_type", MAX_NAME)?;
        }
        rows.push(row);
    }
    let identified = rows.iter().all(|row| !row.nulls[column::EVENT_ID]);
    let appended = append(&target, &mut rows, identified)?;
    record(
        args,
        &[
            target.stream.into_datum(),
            appended.first.into_datum(),
            appended.last.into_datum(),
            appended.ids.into_datum(),
            appended.repeated.into_datum(),
        ],
    )
}

/// Makes the row of an event, without its place in the stream. `content` has its column.
fn event(
    template: &Row,
    context: Option<&Context>,
    kind: Option<Datum>,
    (data, place): (Datum, usize),
    metadata: Option<Datum>,
    event_id: Option<Uuid>,
) -> Result<Row> {
    let kind = kind.ok_or_else(|| null("type"))?;
    let mut row = template.clone();
    row.set(column::TOPIC, Some(kind));
    // SAFETY: a text; its size is known without detoasting it.
    let size = unsafe { pg_sys::toast_raw_datum_size(kind) } - pg_sys::VARHDRSZ;
    if size > topic::MAX_LENGTH {
        return Err(enqueue::too_large("type", size, topic::MAX_LENGTH));
    }
    topic::validate(row.str(column::TOPIC).unwrap_or_default())?;
    row.describe(metadata, context)?;
    row.admit()?;
    content(&mut row, place, if place == column::BODY { "body" } else { "data" }, data)?;
    row.set(column::EVENT_ID, event_id.and_then(IntoDatum::into_datum));
    Ok(row)
}

pg_function! {
    /// outbox.append(stream, type, data, expected_version, event_id, metadata, headers, tenant, publisher, occurred_at)
    /// returns bigint
    fn outbox_append(args) {
        let target = Target::of(args, 3)?;
        let template = Row::with(args, &Attributes { headers: 6, tenant: 7, publisher: 8, occurred_at: 9 })?;
        let content = (args.datum(2).ok_or_else(|| null("data"))?, column::PAYLOAD);
        let event_id = args.get::<Uuid>(4);
        let context = Context::of_transaction()?;
        let mut row = event(&template, context.as_ref(), args.datum(1), content, args.datum(5), event_id)?;
        Ok(append(&target, std::slice::from_mut(&mut row), event_id.is_some())?.last.into_datum())
    }
}

pg_function! {
    /// outbox.append_many(stream, types, data, expected_version, event_ids, metadata, headers, tenant, publisher,
    /// occurred_at) returns outbox.appended
    fn outbox_append_many(args) {
        append_many(args, &Many { expected: 3, content: 2, column: column::PAYLOAD })
    }
}

pg_function! {
    /// outbox.append_bytes(stream, types, bodies, content_type, expected_version, ... as append_many) returns
    /// outbox.appended
    fn outbox_append_bytes(args) {
        headers::check_content_type(args.get::<&str>(3).ok_or_else(|| null("content_type"))?)?;
        append_many(args, &Many { expected: 4, content: 2, column: column::BODY })
    }
}

pg_function! {
    /// outbox.stream_version(stream text) returns bigint
    fn outbox_stream_version(args) {
        let key = args.datum(0).ok_or_else(|| null("stream"))?;
        stream::validate(args.get::<&str>(0).unwrap_or_default())?;
        let relations = catalog::relations()?;
        let last = scan::stored_version(relations.events, relations.stream_index, key)?.ok_or_else(no_index)?;
        Ok(last.max(exceptional(key)?.last_version).into_datum())
    }
}

pg_function! {
    /// outbox_internal.lock_stream(stream text, always boolean) returns void
    fn outbox_lock_stream(args) {
        let xid = transaction_id(c"a command on a stream");
        let at_most = if args.get(1) == Some(true) { usize::MAX } else { MAX_LOCKS };
        lock(args.get::<&str>(0).unwrap_or_default(), xid.value, at_most);
        Ok(Some(Datum::null()))
    }
}

pg_function! {
    /// outbox_internal.streams_changed() returns trigger
    fn outbox_streams_changed(_args) {
        // SAFETY: queues a message that is sent when the transaction commits.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(catalog::lookup("stream")?) };
        // A trigger returns a null pointer, which is not SQL's null.
        Ok(Some(Datum::null()))
    }
}

pg_function! {
    /// outbox.category(stream text) returns text
    fn outbox_category(args) {
        Ok(args.get::<&str>(0).map(stream::category).and_then(IntoDatum::into_datum))
    }
}

pg_function! {
    /// outbox.stream_key(stream text) returns text
    fn outbox_stream_key(args) {
        Ok(args.get::<&str>(0).and_then(stream::key).and_then(IntoDatum::into_datum))
    }
}

pg_function! {
    /// outbox.cardinal_id(stream text) returns text
    fn outbox_cardinal_id(args) {
        Ok(args.get::<&str>(0).and_then(stream::cardinal_id).and_then(IntoDatum::into_datum))
    }
}
