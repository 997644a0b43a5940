//! SQL functions that check, compare and apply the schemas of event types.

use std::cell::RefCell;

use outbox_core::Result;
use outbox_schema::{Checker, check, compare};
use pgrx::IntoDatum;
use serde_json::{Value, json};

use crate::pg::function::Args;
use crate::pg_function;
use crate::sql::matching::raw;

/// Schemas that a backend keeps ready. A row of the registry never changes, and a schema is its own key, so none gets stale.
const READY: usize = 64;

thread_local! {
    static CHECKERS: RefCell<Vec<(Vec<u8>, Checker)>> = const { RefCell::new(Vec::new()) };
}

fn document(args: Args, i: usize, name: &str) -> Result<Value> {
    Ok(args.json(i, name)?.unwrap_or(Value::Null))
}

pg_function! {
    /// outbox_internal.check_schema(schema jsonb) returns jsonb
    fn outbox_check_schema(args) {
        check(&document(args, 0, "schema")?)?;
        Ok(args.datum(0))
    }
}

pg_function! {
    /// outbox_internal.compare_schemas(old jsonb, new jsonb) returns jsonb: an object with compatibility and reasons
    fn outbox_compare_schemas(args) {
        let found = compare(&document(args, 0, "schema")?, &document(args, 1, "schema")?)?;
        let result = json!({"compatibility": found.compatibility.as_str(), "reasons": found.reasons});
        Ok(pgrx::JsonB(result).into_datum())
    }
}

pg_function! {
    /// outbox_internal.satisfies(compatibility text, required text) returns boolean
    fn outbox_satisfies(args) {
        let level = |i| args.get::<String>(i).as_deref().and_then(outbox_schema::Compatibility::from_name);
        Ok(level(0).zip(level(1)).map(|(found, required)| found.satisfies(required)).into_datum())
    }
}

pg_function! {
    /// outbox_internal.validate(schema jsonb, data jsonb) returns text: null, or the places of the data that are wrong
    fn outbox_validate(args) {
        let (key, data) = (raw(args, 0).unwrap_or_default(), document(args, 1, "data")?);
        CHECKERS.with_borrow_mut(|ready| {
            let at = match ready.iter().position(|(known, _)| known == key) {
                Some(at) => at,
                None => {
                    let checker = Checker::new(&document(args, 0, "schema")?)?;
                    if ready.len() >= READY {
                        ready.remove(0);
                    }
                    ready.push((key.to_vec(), checker));
                    ready.len() - 1
                }
            };
            Ok(ready[at].1.validate(&data).err().into_datum())
        })
    }
}
