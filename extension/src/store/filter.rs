//! Evaluation of SQL/JSON paths on payloads.

use pgrx::pg_sys::{TEXTARRAYOID, TEXTOID};

use crate::pg::txn::{Plan, arg};

/// The statement that evaluates a path.
pub const fn plan() -> Plan {
    Plan::new(
        // The path is parsed once for all payloads.
        "select array(
            select outbox_internal.path_holds(u.t::jsonb, p.path)
            from (select $1::jsonpath as path offset 0) p, unnest($2) with ordinality u(t, o)
            order by u.o
        )",
        &[TEXTOID, TEXTARRAYOID],
    )
}

/// Evaluates a path on payloads. Inside a transaction.
pub fn evaluate(plan: &mut Plan, path: &str, payloads: &[&str]) -> Vec<bool> {
    let rows = plan.execute(&[arg(path), arg(payloads.to_vec())]);
    rows.first(|row| row.get::<Vec<bool>>(0).unwrap_or_default()).unwrap_or_default()
}
