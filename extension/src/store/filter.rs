//! Evaluation of SQL/JSON paths on payloads, and calls of transforms.

use std::time::Duration;

use bytes::Bytes;
use outbox_dispatch::feed::Place;
use outbox_dispatch::store::Transformed;
use outbox_dispatch::subscriptions::Transform;
use pgrx::pg_sys::{INT2ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TEXTOID, TIMESTAMPTZOID};

use crate::pg::txn::{Plan, arg};
use crate::worker::now;

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

/// The statement that calls a transform.
pub const fn transform_plan() -> Plan {
    Plan::new(
        "select t.payload, t.error from outbox_internal.transform($1, $2, $3, $4, $5, $6) t",
        &[TEXTOID, TEXTOID, INT8ARRAYOID, INT8ARRAYOID, INT2ARRAYOID, TIMESTAMPTZOID],
    )
}

/// Calls a transform with messages until `timer` is over. Inside a transaction.
pub fn transform(plan: &mut Plan, transform: &Transform, places: &[Place], timer: Duration) -> Vec<Transformed> {
    let rows = plan.execute(&[
        arg(&*transform.function),
        arg(&*transform.owner),
        arg(places.iter().map(|place| place.position).collect::<Vec<i64>>()),
        arg(places.iter().map(|place| place.message_id).collect::<Vec<i64>>()),
        arg(places.iter().map(|place| place.segment).collect::<Vec<i16>>()),
        arg(now().saturating_add(timer.as_micros() as i64)),
    ]);
    let mut made = Vec::new();
    rows.for_each(|row| {
        made.push(match row.text(1) {
            Some(error) => Err(error),
            None => Ok(row.text(0).map(|text| Bytes::from(String::from(text)))),
        });
    });
    made
}
