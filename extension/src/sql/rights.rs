//! The limits within which a role may use a capability: `outbox.grant_to(role, capability, subscriptions => ...)`.
//!
//! `outbox._grant` is read as a whole when it is first needed, and cached until the table or a membership changes, as in
//! `registry.rs`. Usually no grant is narrowed; then a check reads one flag.
//!
//! The caller is the current user at the moment PostgreSQL calls the function, before the extension changes the identity. In
//! a SECURITY DEFINER function, or in an index expression that another role evaluates, that is the owner of that code.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use outbox_core::pattern::Pattern;
use outbox_core::{Code, Error, Result};
use pgrx::FromDatum;
use pgrx::pg_sys::{self, Datum, Oid};

use crate::pg::{catalog, shape};
use crate::pg_function;

/// A grant of a capability, and its limits. `None` in a field: no limit.
struct Grant {
    roles: [Option<Oid>; 2],
    capability: Box<str>,
    subscriptions: Option<Vec<String>>,
    topics: Option<Vec<(String, Pattern)>>,
    tenants: Option<Vec<String>>,
    publishers: Option<Vec<String>>,
    consumers: Option<Vec<String>>,
}

impl Grant {
    fn is_whole(&self) -> bool {
        self.subscriptions.is_none()
            && self.topics.is_none()
            && self.tenants.is_none()
            && self.publishers.is_none()
            && self.consumers.is_none()
    }
}

#[derive(Default)]
struct Grants {
    rows: Vec<Grant>,
    /// Whether any grant is narrowed.
    narrowed: bool,
    /// The owner of the outbox.
    owner: Oid,
    known: RefCell<Vec<Known>>,
}

/// The result for a user and capabilities: the rows that apply; `None` if nothing is narrowed for that user.
type Known = (Oid, Capabilities, Option<Rc<[usize]>>);

thread_local! {
    static GRANTS: RefCell<Option<Rc<Grants>>> = const { RefCell::new(None) };
    static RELATION: Cell<Oid> = const { Cell::new(pg_sys::InvalidOid) };
    static CHANGES: Cell<u64> = const { Cell::new(0) };
}

/// The capabilities that a function is part of.
pub type Capabilities = &'static [&'static str];

pub const PUBLISH: Capabilities = &["publish"];
pub const CONSUME: Capabilities = &["consume"];
/// The capabilities of consumers, monitors and administrators.
pub const CURSORS: Capabilities = &["consume", "monitor", "admin"];
pub const READ: Capabilities = &["consume", "admin"];
/// An administrator sees everything that a monitor sees.
pub const MONITOR: Capabilities = &["monitor", "admin"];
pub const FIGURES: Capabilities = &["observe", "monitor", "admin"];

/// The narrowed grants of the current user for one of these capabilities.
pub struct Narrowed {
    grants: Rc<Grants>,
    rows: Rc<[usize]>,
}

/// Returns the narrowed grants of the current user, who is the caller; `None` if nothing is narrowed.
///
/// # Errors
/// 55000 if the extension is not installed.
pub fn narrowed(capabilities: Capabilities) -> Result<Option<Narrowed>> {
    let grants = match GRANTS.with_borrow(|kept| kept.clone()) {
        Some(kept) => kept,
        None => load()?,
    };
    if !grants.narrowed {
        return Ok(None);
    }
    // SAFETY: reads a variable of the backend.
    let user = unsafe { pg_sys::GetUserId() };
    let known = grants.known.borrow().iter().find(|k| k.0 == user && k.1 == capabilities).map(|k| k.2.clone());
    let rows = match known {
        Some(rows) => rows,
        None => {
            let rows = grants.of(user, capabilities);
            let mut known = grants.known.borrow_mut();
            // A session that keeps changing its role must not grow without end.
            if known.len() >= 100 {
                known.clear();
            }
            known.push((user, capabilities, rows.clone()));
            rows
        }
    };
    Ok(rows.map(|rows| Narrowed { grants, rows }))
}

impl Grants {
    /// The rows that apply to a user. `None` if one of them is not narrowed, if there are none (the rights were granted by
    /// hand), or if the user is a superuser or has the owner's rights.
    fn of(&self, user: Oid, capabilities: Capabilities) -> Option<Rc<[usize]>> {
        // SAFETY: look-ups in the catalog's caches.
        let member = |role| unsafe { pg_sys::has_privs_of_role(user, role) };
        // SAFETY: as above.
        if unsafe { pg_sys::superuser_arg(user) } || member(self.owner) {
            return None;
        }
        let mine: Rc<[usize]> = (0..self.rows.len())
            .filter(|i| {
                let row = &self.rows[*i];
                capabilities.contains(&&*row.capability) && row.roles.iter().flatten().any(|role| member(*role))
            })
            .collect();
        (!mine.is_empty() && !mine.iter().any(|i| self.rows[*i].is_whole())).then_some(mine)
    }
}

impl Narrowed {
    fn any(&self, f: impl Fn(&Grant) -> bool) -> bool {
        self.rows.iter().any(|i| f(&self.grants.rows[*i]))
    }

    fn refuse(what: &str, hint: &'static str) -> Error {
        Error::new(Code::NotPermitted, format!("permission denied for {what}"))
            .detail("The capability of this role is narrowed.")
            .hint(hint)
    }

    /// # Errors
    /// 42501 if the message may not be published.
    pub fn publish(&self, topic: &str, tenant: Option<&str>, publisher: Option<&str>) -> Result<()> {
        if self.any(|grant| {
            grant.topics.as_ref().is_none_or(|topics| topics.iter().any(|(_, pattern)| pattern.matches(topic)))
                && has(&grant.tenants, tenant)
                && has(&grant.publishers, publisher)
        }) {
            return Ok(());
        }
        Err(Self::refuse(
            "a message of this topic, tenant and publisher",
            "The view outbox.grants has topics, tenants and publishers that outbox.grant_to() has left.",
        ))
    }

    /// # Errors
    /// 42501 if the subscription may not be used.
    pub fn subscription(&self, name: Option<&str>) -> Result<()> {
        if self.any(|grant| has(&grant.subscriptions, name)) {
            return Ok(());
        }
        Err(Self::refuse("this subscription", "outbox.grant_to(..., subscriptions => ...) names those of a role."))
    }

    /// # Errors
    /// 42501 if the cursors of this consumer may not be used.
    pub fn consumer(&self, name: Option<&str>) -> Result<()> {
        let name = name.map(str::trim);
        if self.any(|grant| has(&grant.consumers, name)) {
            return Ok(());
        }
        Err(Self::refuse(
            "the cursors of this consumer",
            "outbox.grant_to(..., consumers => ...) names those of a role.",
        ))
    }

    /// # Errors
    /// 42501 if messages of this tenant may not be seen. Null means all tenants.
    pub fn tenant(&self, name: Option<&str>) -> Result<()> {
        if self.any(|grant| has(&grant.tenants, name)) {
            return Ok(());
        }
        Err(Self::refuse(
            "the messages of this tenant",
            "Pass the tenant; outbox.grant_to(..., tenants => ...) names those of a role.",
        ))
    }

    /// The patterns to read with: the requested ones, or all patterns of the grants.
    ///
    /// # Errors
    /// 42501 if a requested entry is neither a pattern of a grant nor a topic that such a pattern matches.
    pub fn topics(&self, asked: Option<&[String]>) -> Result<Vec<String>> {
        let left = || self.rows.iter().filter_map(|i| self.grants.rows[*i].topics.as_ref()).flatten();
        let refused = || {
            Self::refuse(
                "these topics",
                "outbox.grant_to(..., topics => ...) has the patterns of a role: read with these, or with topics that they match.",
            )
        };
        if self.any(|grant| grant.topics.is_none()) {
            return Ok(asked.map(<[String]>::to_vec).unwrap_or_else(|| vec!["#".to_owned()]));
        }
        let Some(asked) = asked else {
            let all: Vec<String> = left().map(|(text, _)| text.clone()).collect();
            return if all.is_empty() { Err(refused()) } else { Ok(all) };
        };
        let may = |text: &String| {
            left().any(|(known, pattern)| known == text || !text.contains(['*', '#']) && pattern.matches(text))
        };
        if asked.is_empty() || !asked.iter().all(may) {
            return Err(refused());
        }
        Ok(asked.to_vec())
    }
}

fn has(list: &Option<Vec<String>>, value: Option<&str>) -> bool {
    list.as_ref().is_none_or(|list| value.is_some_and(|value| list.iter().any(|l| l == value)))
}

/// Reads `outbox._grant`.
fn load() -> Result<Rc<Grants>> {
    thread_local!(static REGISTERED: Cell<bool> = const { Cell::new(false) });
    if !REGISTERED.replace(true) {
        // SAFETY: the callbacks touch only this module's thread-local cells and cannot fail.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), Datum::null());
            for cache in [pg_sys::SysCacheIdentifier::AUTHOID, pg_sys::SysCacheIdentifier::AUTHMEMROLEMEM] {
                pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(roles_changed), Datum::null());
            }
        }
    }
    let table = catalog::lookup("_grant")?;
    RELATION.set(table);
    let changes = CHANGES.get();
    let mut grants = Grants::default();
    // SAFETY: opened, scanned and closed in the order that PostgreSQL requires; on ERROR its resource owner closes. The
    // columns are those of the table in sql/schema/finish/grants.sql.
    unsafe {
        let relation = pg_sys::table_open(table, pg_sys::AccessShareLock as _);
        shape::check(relation, shape::GRANT)?;
        grants.owner = (*(*relation).rd_rel).relowner;
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let scan = pg_sys::systable_beginscan(relation, pg_sys::InvalidOid, false, snapshot, 0, std::ptr::null_mut());
        let columns = (*(*relation).rd_att).natts as usize;
        let (mut values, mut nulls) = (vec![Datum::null(); columns], vec![true; columns]);
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            pg_sys::heap_deform_tuple(tuple, (*relation).rd_att, values.as_mut_ptr(), nulls.as_mut_ptr());
            let texts = |i: usize| Vec::<String>::from_datum(values[i], nulls[i]);
            let name = String::from_datum(values[0], nulls[0]).unwrap_or_default();
            let mut grant = Grant {
                roles: roles_of(&name, Oid::from_datum(values[1], nulls[1])),
                capability: String::from_datum(values[2], nulls[2]).unwrap_or_default().into(),
                subscriptions: texts(3),
                // The patterns were checked when they were written.
                topics: texts(4).map(|list| {
                    list.into_iter().filter_map(|text| Pattern::parse(&text).ok().map(|p| (text, p))).collect()
                }),
                tenants: texts(5),
                publishers: texts(6),
                consumers: texts(7),
            };
            if grant.is_whole() && grant.roles[0].is_some() && grant.roles[1].is_some_and(|o| Some(o) != grant.roles[0])
            {
                // Name and OID are those of different roles: the grant applies to neither.
                grant.roles = [None, None];
            }
            grants.narrowed |= !grant.is_whole();
            grants.rows.push(grant);
        }
        pg_sys::systable_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as _);
    }
    let grants = Rc::new(grants);
    if CHANGES.get() == changes {
        GRANTS.set(Some(Rc::clone(&grants)));
    }
    Ok(grants)
}

/// The roles that now have the name, and the OID, that the role had when the grant was made. Renaming a role keeps its OID;
/// a restore into another cluster keeps its name. A narrowed grant applies to both roles, so that neither change widens it.
fn roles_of(name: &str, oid: Option<Oid>) -> [Option<Oid>; 2] {
    let name = std::ffi::CString::new(name).unwrap_or_default();
    // SAFETY: look-ups in the catalog's cache.
    unsafe {
        let named = pg_sys::get_role_oid(name.as_ptr(), true);
        [
            (named != pg_sys::InvalidOid).then_some(named),
            oid.filter(|oid| !pg_sys::GetUserNameFromId(*oid, true).is_null()),
        ]
    }
}

fn forget() {
    CHANGES.set(CHANGES.get() + 1);
    GRANTS.with(|kept| {
        // The cell is never borrowed while PostgreSQL's code runs.
        if let Ok(mut kept) = kept.try_borrow_mut() {
            *kept = None;
        }
    });
}

unsafe extern "C-unwind" fn relation_changed(_arg: Datum, relation: Oid) {
    if relation == pg_sys::InvalidOid || relation == RELATION.get() {
        forget();
    }
}

unsafe extern "C-unwind" fn roles_changed(_arg: Datum, _cache: i32, _hash: u32) {
    forget();
}

pg_function! {
    /// outbox_internal.grants_changed() returns trigger
    fn outbox_grants_changed(_args) {
        // SAFETY: queues a message that is sent when the transaction commits.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(catalog::lookup("_grant")?) };
        // A trigger returns a null pointer, which is not SQL's null.
        Ok(Some(Datum::null()))
    }
}
