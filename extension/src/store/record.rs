//! Statements that record results: attempts, exceptions, decisions, keys, states of endpoints, routing, checkpoint.
//!
//! These writes belong together: the checkpoint is computed from the very outcomes that are appended with it, so recovery
//! needs nothing but the last checkpoint. `batch` has the transaction.

use std::collections::HashMap;
use std::net::SocketAddr;

use outbox_core::Result;
use outbox_core::policy::Outcome;
use outbox_dispatch::feed::UNIX_EPOCH;
use outbox_dispatch::outcome::decisions::Decision;
use outbox_dispatch::outcome::entry::{DeliveryOutcome, Entry, of_one_request};
use outbox_dispatch::pull::ordering::{Note, OrderKey};
use outbox_dispatch::push::endpoints::EndpointState;
use outbox_dispatch::store::{Checkpoint, NumberedCheckpoint, RoutingRow};
use outbox_sender::Done;
use pgrx::IntoDatum;
use pgrx::pg_sys::{Datum, INT2ARRAYOID, INT4ARRAYOID, INT4OID, INT8ARRAYOID, INT8OID, TEXTARRAYOID, TEXTOID};

use crate::pg::table::Table;
use crate::pg::txn::{Plan, arg};
use crate::pg::{catalog, shape};
use crate::shared::shmem::Slot;
use crate::store::counters::{self, Counted};
use crate::store::rows::json;

/// Statements that record.
pub struct Recorder {
    failed: Plan,
    dead: Plan,
    completed: Plan,
    routing: Plan,
    checkpoint: Plan,
    last: Plan,
    decisions: Plan,
    notes: Plan,
    keys_with_rows: Plan,
    endpoints: Plan,
    give_up_endpoint: Plan,
    delete_manual_sends: Plan,
}

impl Recorder {
    pub const fn new() -> Recorder {
        Recorder {
            failed: Plan::new(
                "select outbox_internal.record_failed($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                &[
                    INT8ARRAYOID,
                    INT4ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT2ARRAYOID,
                    INT4ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT2ARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                ],
            ),
            dead: Plan::new(
                "select outbox_internal.record_dead($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
                &[
                    INT8ARRAYOID,
                    INT4ARRAYOID,
                    INT4ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT2ARRAYOID,
                    INT4ARRAYOID,
                    INT8ARRAYOID,
                    TEXTARRAYOID,
                    INT2ARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                ],
            ),
            completed: Plan::new("select outbox_internal.record_completed($1)", &[INT8ARRAYOID]),
            routing: Plan::new(
                "insert into outbox.routing (segment, first_position, last_position, routed_at, active, matched)
                values (coalesce(pg_sequence_last_value('outbox._routing_segment'), 0), $1, $1 + cardinality($3) - 1,
                    clock_timestamp(), $2, $3)",
                &[INT8OID, INT4OID, INT2ARRAYOID],
            ),
            checkpoint: Plan::new(
                "insert into outbox.checkpoint (segment, id, incarnation, position, written_at, lag_subscriptions,
                    lag_positions, open_subscriptions, open_positions)
                values (coalesce(pg_sequence_last_value('outbox._checkpoint_segment'), 0), $1, $2, $3, clock_timestamp(),
                    $4, $5, $6, $7)",
                &[INT8OID, INT8OID, INT8OID, INT4ARRAYOID, INT8ARRAYOID, INT4ARRAYOID, INT8ARRAYOID],
            ),
            last: Plan::new(
                "select c.id, c.incarnation, c.position, c.lag_subscriptions, c.lag_positions, c.open_subscriptions,
                    c.open_positions
                from outbox.checkpoint c order by c.id desc limit 1",
                &[],
            ),
            decisions: Plan::new(
                "select outbox_internal.record_decisions($1, $2, $3, $4, $5, $6, $7, $8)",
                &[
                    INT8ARRAYOID,
                    INT4ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT2ARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                    TEXTARRAYOID,
                ],
            ),
            notes: Plan::new(
                "select outbox_internal.record_lanes($1, $2, $3, $4, $5)",
                &[INT4ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID],
            ),
            keys_with_rows: Plan::new(
                "select r.subscription_id, r.key from outbox_internal.keys_with_rows($1, $2) r",
                &[INT4ARRAYOID, TEXTARRAYOID],
            ),
            endpoints: Plan::new(
                "select outbox_internal.record_endpoint_states($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                &[
                    INT4ARRAYOID,
                    TEXTARRAYOID,
                    INT8ARRAYOID,
                    INT4ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    INT8ARRAYOID,
                    TEXTARRAYOID,
                ],
            ),
            give_up_endpoint: Plan::new("select outbox_internal.give_up_endpoint($1, $2, $3)", &[INT4OID, TEXTOID, TEXTOID]),
            delete_manual_sends: Plan::new(
                "delete from outbox._manual_send e where e.id = any ($1)",
                &[INT8ARRAYOID],
            ),
        }
    }

    /// Writes deliveries that end without an attempt. Inside a transaction.
    pub fn decisions(&mut self, made: &[Decision]) {
        if made.is_empty() {
            return;
        }
        self.decisions.execute(&[
            arg(made.iter().map(|d| d.delivery_id).collect::<Vec<i64>>()),
            arg(made.iter().map(|d| d.subscription).collect::<Vec<i32>>()),
            arg(made.iter().map(|d| d.position).collect::<Vec<i64>>()),
            arg(made.iter().map(|d| d.message_id).collect::<Vec<i64>>()),
            arg(made.iter().map(|d| d.segment).collect::<Vec<i16>>()),
            arg(made.iter().map(|d| d.outcome).collect::<Vec<_>>()),
            arg(made.iter().map(|d| d.reason).collect::<Vec<_>>()),
            arg(made.iter().map(|d| d.error.as_deref()).collect::<Vec<_>>()),
        ]);
    }

    /// Writes the results of ordered deliveries. Inside a transaction.
    pub fn notes(&mut self, notes: &[Note]) {
        if notes.is_empty() {
            return;
        }
        let (ids, keys): (Vec<i32>, Vec<&str>) = notes.iter().map(|n| (n.key.0, &*n.key.1)).unzip();
        self.notes.execute(&[
            arg(ids),
            arg(notes.iter().map(|n| n.position).collect::<Vec<i64>>()),
            arg(notes.iter().map(|n| n.message_id).collect::<Vec<i64>>()),
            arg(keys),
            arg(notes.iter().map(|n| n.what).collect::<Vec<_>>()),
        ]);
    }

    /// Reads which of the keys still have rows. Inside the same transaction, after everything that makes rows.
    pub fn keys_with_rows(&mut self, notes: &[Note]) -> Vec<OrderKey> {
        let mut left = Vec::new();
        if !notes.is_empty() {
            let (ids, keys): (Vec<i32>, Vec<&str>) = notes.iter().map(|n| (n.key.0, &*n.key.1)).unzip();
            self.keys_with_rows.execute(&[arg(ids), arg(keys)]).for_each(|row| {
                left.push((row.get(0).unwrap_or_default(), row.text(1).unwrap_or_default()));
            });
        }
        left
    }

    /// Writes states of endpoints. Inside a transaction.
    pub fn endpoints(&mut self, states: &[EndpointState]) {
        let changed: Vec<&EndpointState> = states.iter().filter(|state| state.is_changed).collect();
        if !changed.is_empty() {
            let times =
                |f: fn(&EndpointState) -> Option<i64>| arg(changed.iter().map(|state| f(state)).collect::<Vec<_>>());
            self.endpoints.execute(&[
                arg(changed.iter().map(|state| state.endpoint).collect::<Vec<i32>>()),
                arg(changed.iter().map(|state| state.breaker.as_deref()).collect::<Vec<_>>()),
                times(|state| state.breaker_until),
                arg(changed.iter().map(|state| state.breaker_times).collect::<Vec<i32>>()),
                times(|state| state.paused_until),
                times(|state| state.failing_since),
                times(|state| Some(state.failures)),
                times(|state| state.last_success),
                times(|state| state.last_failure),
                arg(changed.iter().map(|state| state.last_error.as_deref()).collect::<Vec<_>>()),
            ]);
        }
        for state in states {
            if let Some((reason, detail)) = &state.disable {
                self.give_up_endpoint.execute(&[arg(state.endpoint), arg(*reason), arg(detail.as_str())]);
            }
        }
    }

    /// Deletes manual sends that have come back. Inside a transaction.
    pub fn manual_sends(&mut self, finished: &[i64]) {
        if !finished.is_empty() {
            self.delete_manual_sends.execute(&[arg(finished.to_vec())]);
        }
    }

    /// Writes the attempts and exceptions. Inside a transaction.
    pub fn outcomes(&mut self, entries: &[Entry]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        append_attempts(entries)?;
        counters::append(entries.chunk_by(of_one_request).flat_map(|request| request.iter().enumerate().map(counted)))?;
        let completed: Vec<i64> = entries
            .iter()
            .filter(|e| {
                matches!(e.outcome, DeliveryOutcome::Completed | DeliveryOutcome::Cancelled | DeliveryOutcome::Skipped)
                    && e.done.ticket.delivery_id != 0
            })
            .map(|e| e.done.ticket.delivery_id)
            .collect();
        if !completed.is_empty() {
            self.completed.execute(&[arg(completed)]);
        }
        let failed: Vec<(&Entry, i64)> = entries
            .iter()
            .filter_map(|e| if let DeliveryOutcome::Failed(due) = e.outcome { Some((e, due)) } else { None })
            .collect();
        if !failed.is_empty() {
            let column = |f: fn(&Entry) -> i64| arg(failed.iter().map(|(e, _)| f(e)).collect::<Vec<i64>>());
            self.failed.execute(&[
                column(|e| e.done.ticket.delivery_id),
                arg(failed.iter().map(|(e, _)| e.done.ticket.subscription).collect::<Vec<i32>>()),
                column(|e| e.done.ticket.position),
                column(|e| e.done.ticket.message_id),
                arg(failed.iter().map(|(e, _)| e.segment).collect::<Vec<i16>>()),
                arg(failed.iter().map(|(e, _)| e.done.ticket.attempt as i32).collect::<Vec<i32>>()),
                arg(failed.iter().map(|(_, due)| *due).collect::<Vec<i64>>()),
                column(|e| e.done.started_at - UNIX_EPOCH),
                arg(failed.iter().map(|(e, _)| status(&e.done)).collect::<Vec<_>>()),
                arg(failed.iter().map(|(e, _)| e.done.outcome.class()).collect::<Vec<_>>()),
                arg(failed.iter().map(|(e, _)| e.done.error.as_deref()).collect::<Vec<_>>()),
                arg(failed.iter().map(|(e, _)| json(e.payload.as_ref())).collect::<Vec<_>>()),
            ]);
        }
        let dead: Vec<(&Entry, &'static str)> = entries
            .iter()
            .filter_map(|e| if let DeliveryOutcome::Dead(reason) = e.outcome { Some((e, reason)) } else { None })
            .collect();
        if !dead.is_empty() {
            let column = |f: fn(&Entry) -> i64| arg(dead.iter().map(|(e, _)| f(e)).collect::<Vec<i64>>());
            self.dead.execute(&[
                column(|e| e.done.ticket.delivery_id),
                arg(dead.iter().map(|(e, _)| e.done.ticket.subscription).collect::<Vec<i32>>()),
                arg(dead.iter().map(|(e, _)| e.done.ticket.endpoint).collect::<Vec<i32>>()),
                column(|e| e.done.ticket.position),
                column(|e| e.done.ticket.message_id),
                arg(dead.iter().map(|(e, _)| e.segment).collect::<Vec<i16>>()),
                arg(dead.iter().map(|(e, _)| e.done.ticket.attempt as i32).collect::<Vec<i32>>()),
                column(|e| e.done.started_at - UNIX_EPOCH),
                arg(dead.iter().map(|(_, reason)| *reason).collect::<Vec<_>>()),
                arg(dead.iter().map(|(e, _)| status(&e.done)).collect::<Vec<_>>()),
                arg(dead.iter().map(|(e, _)| e.done.outcome.class()).collect::<Vec<_>>()),
                arg(dead.iter().map(|(e, _)| e.done.error.as_deref()).collect::<Vec<_>>()),
                arg(dead.iter().map(|(e, _)| json(e.payload.as_ref())).collect::<Vec<_>>()),
            ]);
        }
        Ok(())
    }

    /// Writes the routing rows. Inside a transaction.
    pub fn routing(&mut self, rows: &[RoutingRow]) {
        for row in rows {
            // With 960 entries a row still fits into a page, without TOAST.
            for (i, part) in row.matched.chunks(960).enumerate() {
                self.routing.execute(&[arg(row.first + 960 * i as i64), arg(row.active), arg(part.to_vec())]);
            }
        }
    }

    /// Writes a checkpoint. Inside a transaction.
    pub fn checkpoint(&mut self, checkpoint: &NumberedCheckpoint) {
        let (lag, at, open, open_at) = checkpoint.checkpoint.lists();
        self.checkpoint.execute(&[
            arg(checkpoint.id),
            arg(checkpoint.incarnation),
            arg(checkpoint.checkpoint.routed),
            arg(lag),
            arg(at),
            arg(open),
            arg(open_at),
        ]);
    }

    /// Reads the last checkpoint.
    pub fn last(&mut self) -> Option<NumberedCheckpoint> {
        self.last.execute(&[]).first(|row| {
            let lag: Vec<i32> = row.get(3).unwrap_or_default();
            let at: Vec<i64> = row.get(4).unwrap_or_default();
            let open: Vec<i32> = row.get(5).unwrap_or_default();
            let open_at: Vec<i64> = row.get(6).unwrap_or_default();
            let checkpoint = Checkpoint::of_lists(row.int(2), &lag, &at, &open, &open_at);
            NumberedCheckpoint { id: row.int(0), incarnation: row.int(1), checkpoint }
        })
    }
}

fn status(done: &Done) -> Option<i16> {
    match done.outcome {
        Outcome::Status(code) => i16::try_from(code).ok(),
        Outcome::Fault(_) => None,
    }
}

/// Columns of outbox.attempt, in order.
pub mod column {
    pub const SEGMENT: usize = 0;
    pub const POSITION: usize = 1;
    pub const MESSAGE_ID: usize = 2;
    pub const STARTED_AT: usize = 3;
    pub const FINISHED_AT: usize = 4;
    pub const DELIVERY_ID: usize = 5;
    pub const RUN: usize = 6;
    pub const SUBSCRIPTION_ID: usize = 7;
    pub const ENDPOINT_ID: usize = 8;
    pub const ATTEMPT: usize = 9;
    pub const STATUS: usize = 10;
    pub const OUTCOME: usize = 11;
    pub const ERROR_CLASS: usize = 12;
    pub const ERROR: usize = 13;
    pub const WORKER: usize = 14;
    pub const REMOTE_ADDRESS: usize = 15;
    pub const RESPONSE_ID: usize = 16;
    pub const RESPONSE_HEADERS: usize = 17;
    pub const RESPONSE_BODY: usize = 18;
    pub const POSITIONS: usize = 19;
    pub const MESSAGE_IDS: usize = 20;
    pub const RESULTS: usize = 21;
    pub const DELIVERY_IDS: usize = 22;
    pub const COUNT: usize = 23;
}

/// Counts a delivery. The request, and its duration, are counted with the first delivery of the request.
fn counted((place, entry): (usize, &Entry)) -> Counted {
    let (done, ticket) = (&entry.done, &entry.done.ticket);
    let request = place == 0 && !done.skipped;
    Counted {
        subscription: ticket.subscription,
        endpoint: ticket.endpoint,
        outcome: entry.outcome.as_str(),
        requests: request.into(),
        deliveries: 1,
        micros: if request { done.finished_at - done.started_at } else { 0 },
    }
}

/// Adds recorded outcomes to the histograms.
pub fn measure(slot: &Slot, entries: &[Entry]) {
    for request in entries.chunk_by(of_one_request) {
        let first = &request[0].done;
        if !first.skipped {
            slot.requests.add(first.finished_at - first.started_at);
        }
        for entry in request.iter().filter(|entry| entry.outcome == DeliveryOutcome::Completed) {
            entry.wanted_at.into_iter().for_each(|wanted_at| slot.deliveries.add(entry.done.finished_at - wanted_at));
        }
    }
}

/// Appends one row per request to the current leaf.
fn append_attempts(entries: &[Entry]) -> Result<()> {
    let segment = catalog::current_value(catalog::lookup("_attempt_segment")?).rem_euclid(catalog::LEAVES as i64);
    let mut leaf = Table::open(catalog::lookup(&format!("_attempt_{segment:02}"))?, shape::ATTEMPT)?;
    let mut texts = Texts::default();
    leaf.append_all(entries.chunk_by(of_one_request).map(|request| attempt_row(request, segment as i16, &mut texts)));
    leaf.close();
    Ok(())
}

/// Texts that several rows share, as PostgreSQL datums. They live as long as the transaction.
#[derive(Default)]
struct Texts {
    outcomes: Vec<(&'static str, Option<Datum>)>,
    addresses: HashMap<SocketAddr, Option<Datum>>,
}

impl Texts {
    fn outcome(&mut self, outcome: &'static str) -> Option<Datum> {
        // There are only a few outcomes, and the first one is nearly always the right one.
        if let Some((_, datum)) = self.outcomes.iter().find(|(known, _)| *known == outcome) {
            return *datum;
        }
        let datum = outcome.into_datum();
        self.outcomes.push((outcome, datum));
        datum
    }

    fn address(&mut self, address: SocketAddr) -> Option<Datum> {
        *self.addresses.entry(address).or_insert_with(|| address.to_string().into_datum())
    }
}

fn attempt_row(request: &[Entry], segment: i16, texts: &mut Texts) -> ([Datum; column::COUNT], [bool; column::COUNT]) {
    let entry = &request[0];
    let (done, ticket) = (&entry.done, &entry.done.ticket);
    let mut values = [Datum::null(); column::COUNT];
    let mut nulls = [true; column::COUNT];
    let mut set = |column: usize, value: Option<Datum>| {
        if let Some(value) = value {
            values[column] = value;
            nulls[column] = false;
        }
    };
    let same = request.iter().all(|other| other.outcome.as_str() == entry.outcome.as_str());
    set(column::SEGMENT, segment.into_datum());
    set(column::POSITION, ticket.position.into_datum());
    set(column::MESSAGE_ID, ticket.message_id.into_datum());
    set(column::STARTED_AT, (done.started_at - UNIX_EPOCH).into_datum());
    set(column::FINISHED_AT, (done.finished_at - UNIX_EPOCH).into_datum());
    set(column::DELIVERY_ID, (ticket.delivery_id != 0).then_some(ticket.delivery_id).into_datum());
    set(column::RUN, ticket.run.into_datum());
    set(column::SUBSCRIPTION_ID, (ticket.subscription != 0).then_some(ticket.subscription).into_datum());
    set(column::ENDPOINT_ID, ticket.endpoint.into_datum());
    set(column::ATTEMPT, (if done.skipped { 0 } else { ticket.attempt as i32 }).into_datum());
    set(column::STATUS, done.status.and_then(|code| i16::try_from(code).ok()).into_datum());
    set(column::OUTCOME, texts.outcome(if same { entry.outcome.as_str() } else { "partial" }));
    if same {
        set(column::ERROR_CLASS, (!done.skipped).then(|| done.outcome.class()).flatten().into_datum());
        set(column::ERROR, done.error.as_deref().into_datum());
    }
    set(column::REMOTE_ADDRESS, done.remote.and_then(|address| texts.address(address)));
    if let Some(answer) = &done.answer {
        set(column::RESPONSE_ID, answer.response_id.as_deref().into_datum());
        set(column::RESPONSE_HEADERS, answer.headers.as_deref().and_then(jsonb));
        set(column::RESPONSE_BODY, answer.body.as_deref().into_datum());
    }
    if done.batch != 0 {
        let list = |f: fn(&Entry) -> i64| request.iter().map(f).collect::<Vec<i64>>();
        set(column::POSITIONS, list(|e| e.done.ticket.position).into_datum());
        set(column::MESSAGE_IDS, list(|e| e.done.ticket.message_id).into_datum());
        if !same {
            let results: Vec<serde_json::Value> = request
                .iter()
                .map(|e| serde_json::json!({"status": status(&e.done), "outcome": e.outcome.as_str()}))
                .collect();
            set(column::RESULTS, pgrx::JsonB(serde_json::Value::Array(results)).into_datum());
        }
    }
    (values, nulls)
}

fn jsonb(text: &str) -> Option<Datum> {
    serde_json::from_str(text).ok().and_then(|json| pgrx::JsonB(json).into_datum())
}
