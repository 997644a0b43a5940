//! Statements about rows of outbox.delivery and what is kept beside them: due rows, keys, counts, the pass, manual sends,
//! consents, faults.

use outbox_core::policy::Outcome;
use outbox_dispatch::fault::{Fault, Kind};
use outbox_dispatch::feed::Place;
use outbox_dispatch::pull::ordering::OrderKey;
use outbox_dispatch::push::manual_send::ManualSend;
use outbox_dispatch::push::retries::{DueRow, FollowerRow};
use outbox_dispatch::store::{Changes, DeadRow, Passed};
use outbox_sender::{ConsentAnswer, Ticket};
use pgrx::pg_sys::{BOOLOID, INT4ARRAYOID, INT4OID, INT8ARRAYOID, INT8OID, TEXTARRAYOID, TEXTOID, TIMESTAMPTZOID};

use crate::pg::txn::{Plan, Row, arg};

/// The statements. Each method runs inside a transaction.
pub struct Deliveries {
    cancelled: Plan,
    keys: Plan,
    count_waiting: Plan,
    count_blocked: Plan,
    pass: Plan,
    pass_apart: Plan,
    due: Plan,
    followers: Plan,
    dead_letter: Plan,
    manual_sends: Plan,
    consents: Plan,
    record_consent: Plan,
    note_faults: Plan,
    loaded: Plan,
    notify: Plan,
}

impl Deliveries {
    pub const fn new() -> Deliveries {
        Deliveries {
            cancelled: Plan::new("select c.message_id from outbox.cancelled c", &[]),
            keys: Plan::new("select r.subscription_id, r.key from outbox_internal.all_keys_with_rows() r", &[]),
            // The count starts at the newest position: rows below the window have been attempted, or are about to be. The
            // limit bounds the cost of many rows that wait for a retry. The lowest position bounds the cost of index entries
            // whose rows are gone, while somebody holds an old snapshot.
            count_waiting: Plan::new(
                "select count(*) filter (where l.state = 'pending' and l.due_at <= $3) + coalesce((
                        select sum(cardinality(b.positions)) from outbox._bundle b
                        where b.subscription_id = $1 and b.lease is null
                    ), 0)::bigint,
                    min(l.position) filter (where l.state = 'pending')
                from (
                    select d.state, d.due_at, d.position from outbox.delivery d
                    where d.subscription_id = $1 and d.position >= $4
                    order by d.position desc
                    limit $2
                ) l",
                &[INT4OID, INT8OID, TIMESTAMPTZOID, INT8OID],
            ),
            count_blocked: Plan::new(
                "select count(*) from (
                    select from outbox.delivery d where d.subscription_id = $1 and d.blocked and not d.pull limit $2
                ) l",
                &[INT4OID, INT8OID],
            ),
            pass: Plan::new(
                "select p.more, p.soon, p.free from outbox_internal.router_pass($1, $2) p",
                &[INT4OID, INT8ARRAYOID],
            ),
            pass_apart: Plan::new("select outbox_internal.router_pass_apart($1, $2)", &[INT4OID, INT8ARRAYOID]),
            due: Plan::new(
                "select q.id, s.subscription_id, q.position, q.message_id, q.message_segment, q.attempt,
                    q.due_at, q.expires_at, q.run, q.new_id, q.keyed, q.transformed
                from unnest($1, $2) s(subscription_id, room)
                cross join lateral (
                    select d.id, d.position, d.message_id, d.message_segment, d.attempt, d.due_at,
                        d.expires_at, d.run, d.new_id, d.key is not null as keyed, d.payload is not null as transformed
                    from outbox.delivery d
                    where d.subscription_id = s.subscription_id and not d.pull and not d.blocked and d.id <> all ($3)
                    order by d.due_at
                    limit s.room + 1
                ) q",
                &[INT4ARRAYOID, INT4ARRAYOID, INT8ARRAYOID],
            ),
            followers: Plan::new(
                "select d.id, d.subscription_id, d.position, d.message_id, d.message_segment, d.attempt,
                    d.due_at, d.expires_at, d.run, d.new_id, true, d.payload is not null, d.blocked
                from outbox.delivery d
                where d.subscription_id = $1 and d.key = $2 and d.position > $3
                    and not exists (
                        select from outbox.delivery e
                        where e.subscription_id = $1 and e.key = $2 and e.position < $3
                    )
                    and not exists (
                        select from outbox.dead_letter l
                        where l.subscription_id = $1 and l.key = $2 and l.resolution = 'open'
                            and (select s.on_exhausted from outbox.subscription s where s.id = $1) = 'block'
                    )
                order by d.position
                limit $4",
                &[INT4OID, TEXTOID, INT8OID, INT4OID],
            ),
            dead_letter: Plan::new(
                "select outbox_internal.dead_letter_deliveries($1, $2, true, $3)",
                &[INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID],
            ),
            manual_sends: Plan::new(
                "select e.id, e.run, e.endpoint_id, e.subscription_id, e.message_id, e.message_segment, e.position,
                    e.payload::text, e.created_at
                from outbox._manual_send e where e.id <> all ($1) order by e.id limit 100",
                &[INT8ARRAYOID],
            ),
            consents: Plan::new(
                "select e.id, outbox_internal.us(c.next_at)
                from outbox.endpoint e
                left join outbox.endpoint_consent c on c.endpoint_id = e.id
                where e.consent = 'pending' and e.active and e.deleted_at is null",
                &[],
            ),
            record_consent: Plan::new(
                "select outbox_internal.record_consent($1, $2, $3, $4, $5, $6, $7)",
                &[INT4OID, TEXTOID, BOOLOID, INT4OID, TEXTOID, TEXTOID, TEXTOID],
            ),
            note_faults: Plan::new(
                "select outbox_internal.note_faults($1, $2, $3, $4)",
                &[TEXTARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID],
            ),
            loaded: Plan::new("select outbox_internal.loaded($1, $2)", &[TEXTOID, INT8ARRAYOID]),
            notify: Plan::new("select outbox_internal.notify_workers($1)", &[INT4ARRAYOID]),
        }
    }

    pub fn changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        self.keys.execute(&[]).for_each(|row| {
            changes.keys.push((row.get(0).unwrap_or_default(), row.text(1).unwrap_or_default()));
        });
        changes.cancelled = self.cancelled();
        changes
    }

    pub fn cancelled(&mut self) -> Vec<i64> {
        let mut cancelled = Vec::new();
        self.cancelled.execute(&[]).for_each(|row| cancelled.push(row.int(0)));
        cancelled
    }

    pub fn count_waiting(&mut self, of: &[(i32, i64)], limit: usize, now: i64) -> Vec<(usize, Option<i64>)> {
        let mut count = |(id, from): &(i32, i64)| {
            let rows = self.count_waiting.execute(&[arg(*id), arg(limit as i64), arg(now), arg(*from)]);
            let (rows, lowest) = rows.first(|row| (row.int(0), row.get::<i64>(1))).unwrap_or_default();
            (usize::try_from(rows).unwrap_or(0), lowest)
        };
        of.iter().map(&mut count).collect()
    }

    pub fn count_blocked(&mut self, of: &[i32], limit: usize) -> Vec<usize> {
        let mut count = |id: &i32| {
            let rows = self.count_blocked.execute(&[arg(*id), arg(limit as i64)]).first(|row| row.int(0));
            usize::try_from(rows.unwrap_or(0)).unwrap_or(0)
        };
        of.iter().map(&mut count).collect()
    }

    pub fn pass(&mut self, limit: i32, in_flight: &[i64], apart: bool) -> Passed {
        if apart {
            self.pass_apart.execute(&[arg(limit), arg(in_flight)]);
            return Passed { more: false, soon: true, free: true };
        }
        let rows = self.pass.execute(&[arg(limit), arg(in_flight)]);
        let passed = rows.first(|row| Passed {
            more: row.get(0).unwrap_or(false),
            soon: row.get(1).unwrap_or(false),
            free: row.int(2) > 0,
        });
        passed.unwrap_or_default()
    }

    pub fn due_rows(&mut self, rooms: &[(i32, i32)], known: &[i64]) -> Vec<DueRow> {
        let (ids, rooms): (Vec<i32>, Vec<i32>) = rooms.iter().copied().unzip();
        let mut due = Vec::new();
        self.due.execute(&[arg(ids), arg(rooms), arg(known)]).for_each(|row| due.push(due_row(row)));
        due
    }

    pub fn followers(&mut self, keys: &[(OrderKey, i64)], limit: i32) -> Vec<Vec<FollowerRow>> {
        let mut followers = |(key, position): &(OrderKey, i64)| {
            let mut rows = Vec::new();
            self.followers.execute(&[arg(key.0), arg(&*key.1), arg(*position), arg(limit)]).for_each(|row| {
                rows.push(FollowerRow { row: due_row(row), blocked: row.get(12).unwrap_or(false) });
            });
            rows
        };
        keys.iter().map(&mut followers).collect()
    }

    pub fn dead_letter(&mut self, rows: &[DeadRow]) {
        self.dead_letter.execute(&[
            arg(rows.iter().map(|row| row.id).collect::<Vec<i64>>()),
            arg(rows.iter().map(|row| row.reason).collect::<Vec<_>>()),
            arg(rows.iter().map(|row| row.error.as_deref()).collect::<Vec<_>>()),
        ]);
    }

    pub fn manual_sends(&mut self, known: &[i64]) -> Vec<ManualSend> {
        let mut found = Vec::new();
        self.manual_sends.execute(&[arg(known)]).for_each(|row| {
            found.push(ManualSend {
                ticket: Ticket {
                    subscription: row.get(3).unwrap_or_default(),
                    endpoint: row.get(2).unwrap_or_default(),
                    position: row.int(6),
                    message_id: row.int(4),
                    delivery_id: row.int(0),
                    attempt: 1,
                    run: row.get::<i16>(1).unwrap_or_default().into(),
                },
                segment: row.get(5).unwrap_or_default(),
                payload: row.text(7),
                created_at: row.int(8),
            });
        });
        found
    }

    pub fn consents(&mut self) -> Vec<(i32, i64)> {
        let mut all = Vec::new();
        self.consents.execute(&[]).for_each(|row| all.push((row.get::<i32>(0).unwrap_or_default(), row.int(1))));
        all
    }

    pub fn record_consents(&mut self, answers: &[ConsentAnswer]) {
        for answer in answers {
            let (failed, status) = match answer.outcome {
                Outcome::Status(status @ (408 | 425 | 429 | 500..)) => (true, Some(i32::from(status))),
                Outcome::Status(status) => (false, Some(i32::from(status))),
                Outcome::Fault(_) => (true, None),
            };
            self.record_consent.execute(&[
                arg(answer.endpoint),
                arg(&*answer.origin),
                arg(failed),
                status.and_then(arg),
                answer.allowed_origin.as_deref().and_then(arg),
                answer.allowed_rate.as_deref().and_then(arg),
                answer.error.as_deref().and_then(arg),
            ]);
        }
    }

    pub fn note_faults(&mut self, faults: &[Fault]) {
        self.note_faults.execute(&[
            arg(faults.iter().map(|f| f.kind.as_str()).collect::<Vec<_>>()),
            arg(faults.iter().map(|f| f.id).collect::<Vec<i64>>()),
            arg(faults.iter().map(|f| f.step).collect::<Vec<_>>()),
            arg(faults.iter().map(|f| f.error.as_str()).collect::<Vec<_>>()),
        ]);
    }

    pub fn note_loaded(&mut self, kind: Kind, faulted: &[i64]) {
        self.loaded.execute(&[arg(kind.as_str()), arg(faulted.to_vec())]);
    }

    pub fn notify(&mut self, subscriptions: Vec<i32>) {
        self.notify.execute(&[arg(subscriptions)]);
    }
}

/// Reads a row of outbox.delivery: the first eleven columns of the statements `due` and `followers`.
fn due_row(row: &Row) -> DueRow {
    DueRow {
        id: row.int(0),
        subscription: row.get(1).unwrap_or_default(),
        place: Place {
            position: row.int(2),
            message_id: row.int(3),
            segment: row.get(4).unwrap_or_default(),
            payload_of: if row.get(11) == Some(true) { row.int(0) } else { 0 },
        },
        attempt: row.get(5).unwrap_or_default(),
        due_at: row.int(6),
        expires_at: row.get(7),
        run: row.int(8),
        new_id: row.get(9).unwrap_or(false),
        keyed: row.get(10).unwrap_or(false),
    }
}
