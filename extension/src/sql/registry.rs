//! Registered topics and publishers, as `enqueue` needs them: from memory, never with a query per message.
//!
//! Both tables are read as a whole when they are first needed, with a snapshot taken at that moment, and cached until a
//! change of them commits. A trigger sends a relcache invalidation of the table, which reaches every backend at the latest
//! when its next transaction begins.
//!
//! Invariant: the cached rows were read after the last invalidation. A transaction's own snapshot would not do: under
//! REPEATABLE READ it is older than an invalidation that has already been processed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use outbox_core::topic_template::TopicTemplate;
use outbox_core::{Code, Error, Result, topic};
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{FromDatum, IntoDatum};

use crate::pg::identity::{Function, run_code_of};
use crate::pg::{catalog, shape};
use crate::{pg_function, settings};

#[derive(Default)]
struct Registry {
    /// Topic codes, and whether each is active.
    topics: HashMap<Box<str>, bool>,
    publishers: HashMap<Box<str>, Publisher>,
    /// `pg_outbox.topic_template` as it was last parsed.
    shared_template: RefCell<Option<(Box<str>, TopicTemplate)>>,
}

struct Publisher {
    active: bool,
    template: Option<TopicTemplate>,
    /// Signature of the topic function, and the name of the role that owned it when it was registered.
    function: Option<(Box<str>, Box<str>)>,
}

thread_local! {
    static REGISTRY: RefCell<Option<Rc<Registry>>> = const { RefCell::new(None) };
    static RELATIONS: Cell<[Oid; 2]> = const { Cell::new([pg_sys::InvalidOid; 2]) };
    static CHANGES: Cell<u64> = const { Cell::new(0) };
}

/// Checks that a message may be published. Returns its topic if that differs from the caller's.
///
/// # Errors
/// OB007: topic or publisher inactive; OB001: not registered although registration is required; 22004: no publisher although
/// registration is required.
pub fn admit(topic: &str, tenant: Option<&str>, publisher: Option<&str>) -> Result<Option<String>> {
    let registry = match REGISTRY.with_borrow(|kept| kept.clone()) {
        Some(kept) => kept,
        None => load()?,
    };
    match registry.topics.get(topic) {
        Some(true) => {}
        Some(false) => {
            return Err(Error::new(Code::Inactive, format!("topic \"{topic}\" is inactive"))
                .hint("outbox.alter_topic(..., active => true) switches it on."));
        }
        None if settings::REQUIRE_TOPIC.get() => {
            return Err(Error::new(Code::NotFound, format!("topic \"{topic}\" is not registered"))
                .detail("pg_outbox.require_topic is on.")
                .hint("outbox.create_topic() registers it."));
        }
        None => {}
    }
    let known = match publisher.map(|name| (name, registry.publishers.get(name.split('@').next().unwrap_or(name)))) {
        Some((name, Some(known))) if !known.active => {
            return Err(Error::new(Code::Inactive, format!("publisher \"{name}\" is inactive"))
                .hint("outbox.alter_publisher(..., active => true) switches it on."));
        }
        Some((_, Some(known))) => Some(known),
        Some((name, None)) if settings::REQUIRE_PUBLISHER.get() => {
            return Err(Error::new(Code::NotFound, format!("publisher \"{name}\" is not registered"))
                .detail("pg_outbox.require_publisher is on.")
                .hint("outbox.create_publisher() registers it."));
        }
        None if settings::REQUIRE_PUBLISHER.get() => {
            return Err(Error::new(Code::NullNotAllowed, "publisher must not be null")
                .detail("pg_outbox.require_publisher is on.")
                .hint("Pass publisher, or set pg_outbox.publisher for the role or the database."));
        }
        _ => None,
    };
    topic_of(&registry, known, topic, tenant)
}

/// The topic that a function or template of the publisher or of the database gives.
fn topic_of(
    registry: &Registry,
    publisher: Option<&Publisher>,
    topic: &str,
    tenant: Option<&str>,
) -> Result<Option<String>> {
    let changed = if let Some((signature, owner)) = publisher.and_then(|p| p.function.as_ref()) {
        Some(call(signature, Some(owner), tenant, topic)?)
    } else if let Some(template) = publisher.and_then(|p| p.template.as_ref()) {
        template.fill(tenant, topic)
    } else if let Some(signature) = settings::TOPIC_FUNCTION.get().filter(|s| !s.is_empty()) {
        Some(call(&signature.to_string_lossy(), None, tenant, topic)?)
    } else if let Some(text) = settings::TOPIC_TEMPLATE.get().filter(|s| !s.is_empty()) {
        let text = text.to_string_lossy();
        let mut kept = registry.shared_template.borrow_mut();
        if kept.as_ref().is_none_or(|(known, _)| **known != *text) {
            *kept = Some((text.as_ref().into(), TopicTemplate::parse(&text)?));
        }
        kept.as_ref().and_then(|(_, template)| template.fill(tenant, topic))
    } else {
        None
    };
    if let Some(changed) = &changed {
        topic::validate(changed)?;
    }
    Ok(changed)
}

/// Calls a topic function as its owner. So the function does not get the publisher's rights, and the publisher's search path
/// does not get the owner's. `owner` is the role that owned the function when it was registered, if that is known. If
/// another function has taken the name since, it does not run with the rights of its owner.
fn call(signature: &str, owner: Option<&str>, tenant: Option<&str>, topic: &str) -> Result<String> {
    let function = Function::of_two_texts(signature)?.ok_or_else(|| {
        Error::new(Code::NotFound, format!("topic function \"{signature}\" does not exist"))
            .hint("Write schema and types: \"app.topic_of(text, text)\". If it was dropped or renamed, outbox.alter_publisher() or pg_outbox.topic_function names another.")
    })?;
    if !function.returns_text() {
        return Err(Error::invalid(format!("function \"{signature}\" is not (tenant text, topic text) returns text")));
    }
    if owner.is_some_and(|owner| !function.is_owned_by(owner)) {
        return Err(Error::new(
            Code::NotPermitted,
            format!("topic function \"{signature}\" has another owner than when it was named"),
        )
        .hint("outbox.alter_publisher() names it again, for a role that has the rights of its owner."));
    }
    run_code_of(function.owner, || {
        // SAFETY: the catalogue has just said that both arguments and the result are text.
        let result = unsafe {
            let arguments = [tenant.and_then(IntoDatum::into_datum), topic.into_datum()];
            let datum = function.call(pg_sys::DEFAULT_COLLATION_OID, &arguments);
            datum.and_then(|datum| String::from_datum(datum, false))
        };
        result.ok_or_else(|| Error::invalid(format!("topic function \"{signature}\" returned null")))
    })
}

/// Reads both tables.
fn load() -> Result<Rc<Registry>> {
    thread_local!(static REGISTERED: Cell<bool> = const { Cell::new(false) });
    if !REGISTERED.replace(true) {
        // SAFETY: the callback touches only this module's thread-local cells and cannot fail.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(relcache_changed), Datum::null()) };
    }
    RELATIONS.set([catalog::lookup("topic")?, catalog::lookup("publisher")?]);
    let changes = CHANGES.get();
    let mut registry = Registry::default();
    let [topics, publishers] = RELATIONS.get();
    scan(topics, shape::TOPIC, |row| {
        if let Some(code) = row.text(0) {
            registry.topics.insert(code, row.truth(1));
        }
    })?;
    scan(publishers, shape::PUBLISHER, |row| {
        if let Some(code) = row.text(0) {
            let publisher = Publisher {
                active: row.truth(1),
                // The template was checked when it was written.
                template: row.text(2).and_then(|text| TopicTemplate::parse(&text).ok()),
                function: row.text(3).map(|signature| (signature, row.text(4).unwrap_or_default())),
            };
            registry.publishers.insert(code, publisher);
        }
    })?;
    let registry = Rc::new(registry);
    if CHANGES.get() == changes {
        REGISTRY.set(Some(Rc::clone(&registry)));
    }
    Ok(registry)
}

pub struct Row {
    values: Vec<Datum>,
    nulls: Vec<bool>,
}

impl Row {
    fn text(&self, column: usize) -> Option<Box<str>> {
        // SAFETY: a text column of one of the two tables.
        unsafe { <&str>::from_datum(self.values[column], self.nulls[column]) }.map(Into::into)
    }

    /// A bytea column.
    pub fn bytes(&self, column: usize) -> Option<Vec<u8>> {
        // SAFETY: the caller knows the table's columns.
        unsafe { Vec::<u8>::from_datum(self.values[column], self.nulls[column]) }
    }

    fn truth(&self, column: usize) -> bool {
        !self.nulls[column] && self.values[column].value() != 0
    }
}

/// Calls `f` with all rows of a table as they are now, regardless of the transaction's snapshot and the user's rights.
///
/// # Errors
/// 55000 if the table has other columns.
pub fn scan(table: Oid, columns: &[Oid], mut f: impl FnMut(&Row)) -> Result<()> {
    // SAFETY: opened, scanned and closed in the order that PostgreSQL requires; on ERROR its resource owner closes.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as _);
        shape::check(relation, columns)?;
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let scan = pg_sys::systable_beginscan(relation, pg_sys::InvalidOid, false, snapshot, 0, std::ptr::null_mut());
        let columns = (*(*relation).rd_att).natts as usize;
        let mut row = Row { values: vec![Datum::null(); columns], nulls: vec![true; columns] };
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            pg_sys::heap_deform_tuple(tuple, (*relation).rd_att, row.values.as_mut_ptr(), row.nulls.as_mut_ptr());
            f(&row);
        }
        pg_sys::systable_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as _);
    }
    Ok(())
}

unsafe extern "C-unwind" fn relcache_changed(_arg: Datum, relation: Oid) {
    if relation == pg_sys::InvalidOid || RELATIONS.get().contains(&relation) {
        CHANGES.set(CHANGES.get() + 1);
        REGISTRY.with(|kept| {
            // The cell is never borrowed while PostgreSQL's code runs.
            if let Ok(mut kept) = kept.try_borrow_mut() {
                *kept = None;
            }
        });
    }
}

pg_function! {
    /// outbox_internal.registry_changed() returns trigger
    fn outbox_registry_changed(_args) {
        for name in ["topic", "publisher"] {
            // SAFETY: queues messages that are sent when the transaction commits.
            unsafe { pg_sys::CacheInvalidateRelcacheByRelid(catalog::lookup(name)?) };
        }
        // A trigger returns a null pointer, which is not SQL's null.
        Ok(Some(Datum::null()))
    }
}
