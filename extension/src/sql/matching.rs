//! The matching of topics and filters for reading the feed in SQL (`sql/schema/feed/read.sql`). Routing uses the same code.

use std::cell::RefCell;

use outbox_core::filter::{Filter, Subject};
use outbox_core::pattern::Pattern;
use outbox_core::router::{Router, Scratch};
use outbox_core::{Error, Result};
use pgrx::{IntoDatum, pg_sys};
use serde_json::Value;

use crate::pg::function::Args;
use crate::pg_function;

/// Topics and filter of the last call, compiled: a reader asks about many messages with the same topics and filter.
struct Compiled {
    topics: Option<Vec<u8>>,
    filter: Option<Vec<u8>>,
    router: Router<()>,
    conditions: Filter,
    scratch: Scratch,
    found: Vec<()>,
}

thread_local! {
    static LAST: RefCell<Option<Compiled>> = const { RefCell::new(None) };
}

/// The bytes of an argument of variable length.
pub fn raw<'a>(args: Args, argument: usize) -> Option<&'a [u8]> {
    let datum = args.datum(argument)?;
    // SAFETY: a varlena; the detoasted value lives as long as the call.
    unsafe {
        let value = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
        Some(std::slice::from_raw_parts(value.cast::<u8>(), pgrx::varsize_any(value)))
    }
}

impl Compiled {
    fn is_for(&self, topics: Option<&[u8]>, filter: Option<&[u8]>) -> bool {
        self.topics.as_deref() == topics && self.filter.as_deref() == filter
    }

    fn new(args: Args, topics: Option<&[u8]>, filter: Option<&[u8]>) -> Result<Compiled> {
        let mut router = Router::new();
        match args.get::<Vec<Option<String>>>(0) {
            None => {}
            Some(list) if list.is_empty() => {
                return Err(Error::invalid("topics is an empty list, which nothing matches")
                    .hint("Null, or the pattern \"#\", is every topic."));
            }
            Some(list) if list.contains(&None) => return Err(Error::invalid("topics has an entry that is null")),
            Some(list) => {
                for pattern in Pattern::parse_all(list.into_iter().flatten())? {
                    router.insert(&pattern, &Filter::default(), ());
                }
            }
        }
        let conditions = match args.json(1, "filter")? {
            None => Filter::default(),
            Some(filter) => Filter::parse(&filter)?,
        };
        Ok(Compiled {
            topics: topics.map(<[u8]>::to_vec),
            filter: filter.map(<[u8]>::to_vec),
            router,
            conditions,
            scratch: Scratch::default(),
            found: Vec::new(),
        })
    }
}

pg_function! {
    /// outbox_internal.matches(topics text[], filter jsonb, topic, tenant, key, aggregate_type, aggregate_id, headers jsonb)
    /// returns boolean
    fn outbox_matches(args) {
        // The calling statement may ask about every stored message.
        pgrx::check_for_interrupts!();
        let (topics, filter) = (raw(args, 0), raw(args, 1));
        LAST.with_borrow_mut(|last| {
            if !last.as_ref().is_some_and(|compiled| compiled.is_for(topics, filter)) {
                *last = Some(Compiled::new(args, topics, filter)?);
            }
            let Some(Compiled { router, conditions, scratch, found, .. }) = last else { return Ok(None) };
            if topics.is_some() {
                router.matches(args.get(2).unwrap_or_default(), &Subject::default(), scratch, found);
                if found.is_empty() {
                    return Ok(false.into_datum());
                }
            }
            let headers = match filter {
                None => None,
                Some(_) => args.json(7, "headers")?,
            };
            let subject = Subject {
                tenant: args.get(3),
                key: args.get(4),
                aggregate_type: args.get(5),
                aggregate_id: args.get(6),
                headers: headers.as_ref().and_then(Value::as_object),
            };
            Ok(conditions.matches(&subject).into_datum())
        })
    }
}
