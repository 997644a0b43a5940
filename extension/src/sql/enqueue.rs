//! `outbox.enqueue` and its siblings: they append rows to the message log, in the caller's transaction.
//!
//! Invariants:
//! * `enqueue` never waits for delivery and never reads its state.
//! * The transaction id is assigned before the message id is drawn, both inside the call.
//! * The number of the leaf is read again after the leaf was locked. So a leaf that is no longer current, and that nobody
//!   has locked, gets no more rows.

use outbox_core::{Code, Error, Result, digest, headers, topic};
use pgrx::pg_sys::{self, Datum};
use pgrx::{FromDatum, IntoDatum, JsonB};
use serde_json::Value;

use crate::pg::function::{Args, json_of};
use crate::pg::table::Table;
use crate::pg::{catalog, jsonb, shape};
use crate::shared::wake;
use crate::sql::{idempotency, registry, rights};
use crate::{pg_function, settings};

/// Longest key and aggregate id, in bytes.
const MAX_KEY: usize = 1024;
/// Longest tenant, aggregate type, publisher, idempotency key and content type, in bytes.
pub const MAX_NAME: usize = 255;
/// Bounds of the priority. Priorities are few, because a claim looks at them one by one.
const MAX_PRIORITY: i32 = 100;
/// Largest metadata, in bytes of its JSON.
const MAX_METADATA: usize = 16 * 1024;
/// Longest `pg_outbox.context`, in bytes: the largest metadata with every byte escaped, and the other fields.
const MAX_CONTEXT: usize = 6 * MAX_METADATA + 4 * 1024;

/// Times that RFC 3339 can express, and to which any duration can be added (microseconds, PostgreSQL's epoch).
const TIMES: std::ops::Range<i64> = -63_082_281_600_000_000..252_455_616_000_000_000;

/// Columns of outbox.message, in order.
pub mod column {
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
    pub const VERSION: usize = 21;
    pub const EVENT_ID: usize = 22;
    pub const COUNT: usize = 23;
}

/// A row of outbox.message.
#[derive(Clone)]
pub struct Row {
    pub values: [Datum; column::COUNT],
    pub nulls: [bool; column::COUNT],
}

/// Indexes of the arguments that are the same for messages and events.
pub struct Attributes {
    pub headers: usize,
    pub tenant: usize,
    pub publisher: usize,
    pub occurred_at: usize,
}

impl Row {
    /// A row with priority 0. All other columns are null.
    fn empty() -> Row {
        let mut row = Row { values: [Datum::null(); column::COUNT], nulls: [true; column::COUNT] };
        row.set(column::PRIORITY, 0i16.into_datum());
        row
    }

    /// A row of this topic, with priority 0. All other columns are null.
    fn new(topic: Datum) -> Row {
        let mut row = Row::empty();
        row.set(column::TOPIC, Some(topic));
        row
    }

    /// A row with these attributes of a call, and priority 0.
    pub fn with(args: Args, attributes: &Attributes) -> Result<Row> {
        let mut row = Row::empty();
        row.take(args, attributes)?;
        time(args, attributes.occurred_at, "occurred_at")?;
        row.set(column::OCCURRED_AT, args.datum(attributes.occurred_at));
        Ok(row)
    }

    /// Sets tenant, publisher and headers from a call's arguments.
    fn take(&mut self, args: Args, attributes: &Attributes) -> Result<()> {
        text(self, column::TENANT, args, attributes.tenant, "tenant", MAX_NAME)?;
        text(self, column::PUBLISHER, args, attributes.publisher, "publisher", MAX_NAME)?;
        if let Some(headers) = args.json(attributes.headers, "headers")? {
            headers::parse(&headers)?;
            self.set(column::HEADERS, args.datum(attributes.headers));
        }
        Ok(())
    }

    /// Sets the metadata, and the columns that the call left to the transaction's context and the settings.
    pub fn describe(&mut self, metadata: Option<Datum>, context: Option<&Context>) -> Result<()> {
        let own = metadata.map(|datum| json_of(datum, "metadata")).transpose()?;
        if let Some(metadata_of_call) = &own {
            if !metadata_of_call.is_object() {
                return Err(Error::invalid("metadata is not a JSON object"));
            }
            check_metadata(metadata_of_call)?;
            self.set(column::METADATA, metadata);
        }
        if let Some(context) = context {
            context.fill(self, own)?;
        }
        if self.nulls[column::PUBLISHER]
            && let Some(publisher) = settings::PUBLISHER.get().filter(|p| !p.is_empty())
        {
            name(self, column::PUBLISHER, "publisher", &publisher.to_string_lossy())?;
        }
        Ok(())
    }

    /// Asks the registries and the caller's capability about the row. They may change its topic.
    pub fn admit(&mut self) -> Result<()> {
        let topic = self.str(column::TOPIC).unwrap_or_default();
        if let Some(changed) = registry::admit(topic, self.str(column::TENANT), self.str(column::PUBLISHER))? {
            self.set(column::TOPIC, changed.into_datum());
        }
        if let Some(narrowed) = rights::narrowed(rights::PUBLISH)? {
            let topic = self.str(column::TOPIC).unwrap_or_default();
            narrowed.publish(topic, self.str(column::TENANT), self.str(column::PUBLISHER))?;
        }
        Ok(())
    }

    /// A text column.
    pub fn str(&self, column: usize) -> Option<&str> {
        // SAFETY: only called for text columns; the datum lives in the call's memory context.
        unsafe { <&str>::from_datum(self.values[column], self.nulls[column]) }
    }

    pub fn set(&mut self, column: usize, value: Option<Datum>) {
        if let Some(value) = value {
            self.values[column] = value;
            self.nulls[column] = false;
        }
    }

    /// A column of type uuid.
    pub fn uuid(&self, column: usize) -> Option<pgrx::Uuid> {
        // SAFETY: only called for that column; the datum lives in the call's memory context.
        unsafe { pgrx::Uuid::from_datum(self.values[column], self.nulls[column]) }
    }

    /// The bytes of a value of variable length.
    pub fn bytes(&self, column: usize) -> Option<Vec<u8>> {
        // SAFETY: a varlena, which is detoasted if necessary.
        let bytes: Option<&[u8]> = unsafe { FromDatum::from_datum(self.values[column], self.nulls[column]) };
        bytes.map(<[u8]>::to_vec)
    }
}

/// The transaction's id, which is assigned if there is none. Called before a message id is drawn.
pub fn transaction_id(function: &std::ffi::CStr) -> pg_sys::FullTransactionId {
    // SAFETY: plain calls into PostgreSQL; ERRORs become panics in pgrx's guards.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(function.as_ptr());
        pg_sys::PreventCommandIfParallelMode(function.as_ptr());
        pg_sys::GetTopFullTransactionId()
    }
}

/// Appends rows that may carry an idempotency key (all the same one). With a key they are appended once, however often it is
/// used. Returns the ids of the messages; if they exist already, those of the first call.
fn append_once(rows: &mut [Row], topic: &str) -> Result<Vec<i64>> {
    let Some(first) = rows.first().filter(|row| !row.nulls[column::IDEMPOTENCY_KEY]) else {
        return append(rows, None);
    };
    let key = digest::fingerprint([
        first.bytes(column::TENANT).as_deref(),
        Some(topic.as_bytes()),
        first.bytes(column::IDEMPOTENCY_KEY).as_deref(),
    ]);
    let parts: Vec<_> = rows
        .iter()
        .flat_map(|row| [column::PAYLOAD, column::BODY, column::CONTENT_TYPE, column::KEY].map(|c| row.bytes(c)))
        .collect();
    let content = digest::fingerprint(parts.iter().map(Option::as_deref));
    transaction_id(c"outbox.enqueue()");
    let sequence = catalog::relations()?.message_id;
    let ids: Vec<i64> = rows.iter().map(|_| catalog::next_value(sequence)).collect();
    match idempotency::remember(key, content, &ids)? {
        Some(known) => Ok(known),
        None => append(rows, Some(ids)),
    }
}

/// Appends rows to the current leaf and returns their ids, which are new unless they are given as `drawn`.
fn append(rows: &mut [Row], drawn: Option<Vec<i64>>) -> Result<Vec<i64>> {
    let relations = catalog::relations()?;
    refuse_copy(&relations)?;
    let xid = transaction_id(c"outbox.enqueue()");
    let leaf_of = |segment: i64| relations.messages[segment.rem_euclid(catalog::LEAVES as i64) as usize];
    let mut segment = catalog::current_value(relations.message_segment);
    let mut leaf = Table::open(leaf_of(segment), shape::MESSAGE)?;
    loop {
        let now = catalog::current_value(relations.message_segment);
        if now == segment {
            break;
        }
        // Rotation moves the pointer first; the lock of the old leaf is looked at only then. A transaction that has the lock
        // and still reads the old number was in time.
        leaf.close();
        segment = now;
        leaf = Table::open(leaf_of(segment), shape::MESSAGE)?;
    }
    // SAFETY: reads the clock.
    let enqueued_at = unsafe { pg_sys::GetCurrentTimestamp() };
    let mut ids = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter_mut().enumerate() {
        let id = drawn.as_ref().map_or_else(|| catalog::next_value(relations.message_id), |drawn| drawn[i]);
        row.set(column::SEGMENT, (segment as i16).into_datum());
        row.set(column::ID, id.into_datum());
        row.set(column::XID, Some(Datum::from(xid.value)));
        row.set(column::ENQUEUED_AT, enqueued_at.into_datum());
        ids.push(id);
    }
    match rows {
        [row] => leaf.append(&mut row.values, &mut row.nulls),
        _ => leaf.append_all(rows.iter_mut().map(|row| (&mut row.values, &mut row.nulls))),
    }
    leaf.close();
    wake::at_commit_wake_dispatcher();
    Ok(ids)
}

/// Refuses to write into a copy.
///
/// # Errors
/// 55000 if a subscription of logical replication writes this outbox.
pub fn refuse_copy(relations: &catalog::Relations) -> Result<()> {
    if relations.replicated {
        return Err(Error::new(Code::NotInThisState, "a subscription writes this outbox: it is a copy")
            .detail("A message id drawn here would collide with an id that the original still sends.")
            .hint("Enqueue into the original. If this database is to take over: drop the subscription, then select outbox.adopt(reason => ...)."));
    }
    Ok(())
}

/// Index of an argument that all siblings have, counted from the first of these arguments (`key`).
mod tail {
    pub const KEY: usize = 0;
    pub const HEADERS: usize = 1;
    pub const METADATA: usize = 2;
    pub const TENANT: usize = 3;
    pub const AGGREGATE_TYPE: usize = 4;
    pub const AGGREGATE_ID: usize = 5;
    pub const IDEMPOTENCY_KEY: usize = 6;
    pub const DELIVER_AT: usize = 7;
    pub const EXPIRES_AT: usize = 8;
    pub const PRIORITY: usize = 9;
    pub const PUBLISHER: usize = 10;
    pub const MAX_ATTEMPTS: usize = 11;
    pub const OCCURRED_AT: usize = 12;
}

/// Makes the row of a call, without its content. `args` has the topic at 0 and the common arguments from `first` on.
fn common(args: Args, first: usize) -> Result<Row> {
    let topic_datum = args.datum(0).ok_or_else(|| null("topic"))?;
    topic::validate(args.get::<&str>(0).unwrap_or_default())?;
    // SAFETY: reads a variable of the session, and raises an ERROR that pgrx turns into a panic.
    unsafe { pg_sys::PreventCommandIfParallelMode(c"outbox.enqueue()".as_ptr()) };
    let mut row = Row::new(topic_datum);
    let attributes = Attributes {
        headers: first + tail::HEADERS,
        tenant: first + tail::TENANT,
        publisher: first + tail::PUBLISHER,
        occurred_at: first + tail::OCCURRED_AT,
    };
    text(&mut row, column::AGGREGATE_TYPE, args, first + tail::AGGREGATE_TYPE, "aggregate_type", MAX_NAME)?;
    text(&mut row, column::AGGREGATE_ID, args, first + tail::AGGREGATE_ID, "aggregate_id", MAX_KEY)?;
    row.take(args, &attributes)?;
    row.describe(args.datum(first + tail::METADATA), Context::of_transaction()?.as_ref())?;
    row.admit()?;

    text(&mut row, column::IDEMPOTENCY_KEY, args, first + tail::IDEMPOTENCY_KEY, "idempotency_key", MAX_NAME)?;
    let deliver = time(args, first + tail::DELIVER_AT, "deliver_at")?;
    let expires = time(args, first + tail::EXPIRES_AT, "expires_at")?;
    time(args, attributes.occurred_at, "occurred_at")?;
    if expires.is_some_and(|expires| deliver.is_some_and(|deliver| expires <= deliver)) {
        return Err(Error::invalid("expires_at is not later than deliver_at"));
    }
    row.set(column::DELIVER_AT, args.datum(first + tail::DELIVER_AT));
    row.set(column::EXPIRES_AT, args.datum(first + tail::EXPIRES_AT));
    if let Some(priority) = args.get::<i32>(first + tail::PRIORITY).filter(|n| *n != 0) {
        if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&priority) {
            return Err(Error::invalid("priority is not between -100 and 100"));
        }
        row.set(column::PRIORITY, (priority as i16).into_datum());
    }
    if let Some(attempts) = args.get::<i32>(first + tail::MAX_ATTEMPTS) {
        if attempts < 1 {
            return Err(Error::invalid("max_attempts is less than 1").hint("Null leaves it to the subscription."));
        }
        row.set(column::MAX_ATTEMPTS, attempts.into_datum());
    }
    row.set(column::OCCURRED_AT, args.datum(attributes.occurred_at));
    Ok(row)
}

/// An argument that is a time.
///
/// # Errors
/// 22023 if it is out of range.
fn time(args: Args, argument: usize, name: &str) -> Result<Option<i64>> {
    match args.get::<i64>(argument) {
        Some(at) if !TIMES.contains(&at) => Err(Error::invalid(format!("{name} is out of range"))
            .hint("It is a time between the years 1 and 9999, as receivers and formats know them; null is no time.")),
        at => Ok(at),
    }
}

/// The values that `outbox.set_context` has set for the transaction.
pub struct Context(serde_json::Map<String, Value>);

impl Context {
    pub fn of_transaction() -> Result<Option<Context>> {
        let Some(text) = settings::CONTEXT.get().filter(|text| !text.is_empty()) else { return Ok(None) };
        if text.to_bytes().len() > MAX_CONTEXT {
            return Err(too_large("pg_outbox.context", text.to_bytes().len(), MAX_CONTEXT));
        }
        match serde_json::from_slice(text.to_bytes()) {
            Ok(Value::Object(context)) => Ok(Some(Context(context))),
            _ => Err(Context::malformed("It is not a JSON object")),
        }
    }

    /// The error for a malformed context: any user can set `pg_outbox.context` to any text.
    fn malformed(why: &str) -> Error {
        Error::invalid("pg_outbox.context is malformed")
            .detail(format!("{why}."))
            .hint("It is set with outbox.set_context().")
    }

    /// Fills the columns that the call left open. In the metadata, the call's own keys take precedence.
    fn fill(&self, row: &mut Row, own: Option<Value>) -> Result<()> {
        for (key, column) in [("tenant", column::TENANT), ("publisher", column::PUBLISHER)] {
            match self.0.get(key) {
                None | Some(Value::Null) => {}
                Some(Value::String(value)) if row.nulls[column] => name(row, column, key, value)?,
                Some(Value::String(_)) => {}
                Some(_) => return Err(Context::malformed(&format!("Its {key} is not a text"))),
            }
        }
        let shared = match self.0.get("metadata") {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Object(shared)) => shared,
            Some(_) => return Err(Context::malformed("Its metadata is not a JSON object")),
        };
        let mut metadata = shared.clone();
        if let Some(Value::Object(own)) = own {
            metadata.extend(own);
        }
        let metadata = Value::Object(metadata);
        check_metadata(&metadata)?;
        if has_nul(&metadata) {
            return Err(Context::malformed("Its metadata has a NUL, which jsonb cannot store"));
        }
        row.set(column::METADATA, JsonB(metadata).into_datum());
        Ok(())
    }
}

/// Whether a text or key anywhere in a value has a NUL.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(list) => list.iter().any(has_nul),
        Value::Object(entries) => entries.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        _ => false,
    }
}

/// Sets a tenant or publisher that is not an argument. PostgreSQL has not checked it, and the limits of arguments apply.
fn name(row: &mut Row, column: usize, what: &str, value: &str) -> Result<()> {
    if value.len() > MAX_NAME {
        return Err(too_large(what, value.len(), MAX_NAME));
    }
    if value.contains('\0') {
        return Err(Error::invalid(format!("{what} has a NUL, which no text can have")));
    }
    row.set(column, value.into_datum());
    Ok(())
}

fn check_metadata(metadata: &Value) -> Result<()> {
    let size = metadata.to_string().len();
    if size > MAX_METADATA {
        return Err(too_large("metadata", size, MAX_METADATA));
    }
    Ok(())
}

/// Sets a column from a text argument of limited length.
pub fn text(row: &mut Row, column: usize, args: Args, argument: usize, name: &str, limit: usize) -> Result<()> {
    if let Some(datum) = args.datum(argument) {
        // SAFETY: declared as text; its size is known without detoasting it.
        let size = unsafe { pg_sys::toast_raw_datum_size(datum) } - pg_sys::VARHDRSZ;
        if size > limit {
            return Err(too_large(name, size, limit));
        }
        row.set(column, Some(datum));
    }
    Ok(())
}

/// Sets a payload or body of limited size.
pub fn content(row: &mut Row, column: usize, name: &str, datum: Datum) -> Result<()> {
    // SAFETY: a varlena; its size is known without detoasting it.
    let size = unsafe { pg_sys::toast_raw_datum_size(datum) } - pg_sys::VARHDRSZ;
    let limit = settings::MAX_PAYLOAD.get() as usize * 1024;
    let hint = "Store it elsewhere and send a reference, or raise pg_outbox.max_payload.";
    if size > limit {
        return Err(too_large(name, size, limit).hint(hint));
    }
    if column == column::PAYLOAD {
        let text = size + expansion(datum);
        if text > limit {
            return Err(too_large(&format!("{name} as text"), text, limit).hint(hint));
        }
    }
    row.set(column, Some(datum));
    Ok(())
}

/// Bytes by which a payload's text can exceed its stored form.
fn expansion(payload: Datum) -> usize {
    // SAFETY: a jsonb; a detoasted copy is freed again.
    unsafe {
        let given = payload.cast_mut_ptr();
        let value = pg_sys::pg_detoast_datum_packed(given);
        let bytes = std::slice::from_raw_parts(pgrx::vardata_any(value).cast::<u8>(), pgrx::varsize_any_exhdr(value));
        let extra = jsonb::expansion(bytes);
        if value != given {
            pg_sys::pfree(value.cast());
        }
        extra
    }
}

pub fn too_large(what: &str, size: usize, limit: usize) -> Error {
    Error::new(Code::TooLarge, format!("{what} is too large"))
        .detail(format!("It has {size} bytes; the limit is {limit}."))
}

pub fn null(what: &str) -> Error {
    Error::new(Code::NullNotAllowed, format!("{what} must not be null"))
}

pg_function! {
    /// outbox.enqueue(topic, payload, key, headers, metadata, tenant, aggregate_type, aggregate_id, idempotency_key,
    /// deliver_at, expires_at, priority, publisher, max_attempts, occurred_at) returns bigint
    fn outbox_enqueue(args) {
        let mut row = common(args, 2)?;
        content(&mut row, column::PAYLOAD, "payload", args.datum(1).ok_or_else(|| null("payload"))?)?;
        text(&mut row, column::KEY, args, 2 + tail::KEY, "key", MAX_KEY)?;
        Ok(append_once(std::slice::from_mut(&mut row), args.get(0).unwrap_or_default())?[0].into_datum())
    }
}

pg_function! {
    /// outbox.enqueue_bytes(topic, body, content_type, key, ... as enqueue) returns bigint
    fn outbox_enqueue_bytes(args) {
        let mut row = common(args, 3)?;
        content(&mut row, column::BODY, "body", args.datum(1).ok_or_else(|| null("body"))?)?;
        let content_type = args.get::<&str>(2).ok_or_else(|| null("content_type"))?;
        headers::check_content_type(content_type)?;
        text(&mut row, column::CONTENT_TYPE, args, 2, "content_type", MAX_NAME)?;
        text(&mut row, column::KEY, args, 3 + tail::KEY, "key", MAX_KEY)?;
        Ok(append_once(std::slice::from_mut(&mut row), args.get(0).unwrap_or_default())?[0].into_datum())
    }
}

pg_function! {
    /// outbox.enqueue_many(topic, payloads jsonb[], keys text[], headers, ... as enqueue) returns bigint[]
    fn outbox_enqueue_many(args) {
        let template = common(args, 2)?;
        let payloads = array(args, 1, "payloads")?.ok_or_else(|| null("payloads"))?;
        let keys = array(args, 2, "keys")?;
        if keys.as_ref().is_some_and(|keys| keys.len() != payloads.len()) {
            return Err(Error::invalid("payloads and keys have different lengths"));
        }
        let mut rows = Vec::with_capacity(payloads.len());
        for (i, payload) in payloads.iter().enumerate() {
            let mut row = template.clone();
            content(&mut row, column::PAYLOAD, "payload", payload.ok_or_else(|| null("payload"))?)?;
            if let Some(key) = keys.as_ref().and_then(|keys| keys[i]) {
                // SAFETY: an element of text[].
                let size = unsafe { pg_sys::toast_raw_datum_size(key) } - pg_sys::VARHDRSZ;
                if size > MAX_KEY {
                    return Err(too_large("key", size, MAX_KEY));
                }
                row.set(column::KEY, Some(key));
            }
            rows.push(row);
        }
        let ids = if rows.is_empty() { Vec::new() } else { append_once(&mut rows, args.get(0).unwrap_or_default())? };
        Ok(ids.into_datum())
    }
}

/// The elements of an array argument whose element type has variable length, as datums.
pub fn array(args: Args, argument: usize, name: &str) -> Result<Option<Vec<Option<Datum>>>> {
    let Some(datum) = args.datum(argument) else { return Ok(None) };
    let (mut elements, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    // SAFETY: jsonb and text: varlena, int-aligned. The elements live in the call's memory context.
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        if (*array).ndim > 1 {
            return Err(Error::invalid(format!("{name} has more than one dimension")).hint("It is a plain list."));
        }
        pg_sys::deconstruct_array(
            array,
            (*array).elemtype,
            -1,
            false,
            pg_sys::TYPALIGN_INT as std::ffi::c_char,
            &mut elements,
            &mut nulls,
            &mut count,
        );
        Ok(Some((0..count as usize).map(|i| (!*nulls.add(i)).then(|| *elements.add(i))).collect()))
    }
}

pg_function! {
    /// outbox_internal.fits(payload jsonb) returns boolean: whether enqueue accepts a payload of this size.
    fn outbox_fits(args) {
        let Some(payload) = args.datum(0) else { return Ok(None) };
        match content(&mut Row::new(Datum::null()), column::PAYLOAD, "payload", payload) {
            Ok(()) => Ok(true.into_datum()),
            Err(error) if error.code == Code::TooLarge => Ok(false.into_datum()),
            Err(error) => Err(error),
        }
    }
}

pg_function! {
    /// outbox_internal.enqueue_own(topic text, payload jsonb) returns bigint: enqueues a message of pg_outbox itself, whose topic
    /// begins with the reserved word.
    fn outbox_enqueue_own(args) {
        topic::validate_form(args.get::<&str>(0).unwrap_or_default())?;
        let mut row = Row::new(args.datum(0).ok_or_else(|| null("topic"))?);
        row.set(column::PAYLOAD, args.datum(1));
        Ok(append(std::slice::from_mut(&mut row), None)?[0].into_datum())
    }
}
