//! The store of the simulation: each call is one transaction on the tables of the world, and may fail before its effect. A
//! call that writes may also be committed and lose its answer; the dispatcher has to end then.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use outbox_core::message::Message;
use outbox_dispatch::fault::{Fault, Kind};
use outbox_dispatch::feed::{Attributes, Part, Place, Stored, TickStatus, Ticked, UNIX_EPOCH};
use outbox_dispatch::outcome::decisions::{Decision, UNRECORDABLE};
use outbox_dispatch::outcome::entry::{DeliveryOutcome, Entry};
use outbox_dispatch::pull::ordering::OrderKey;
use outbox_dispatch::pull::window::NewRow;
use outbox_dispatch::push::endpoints::EndpointRow;
use outbox_dispatch::push::manual_send::ManualSend;
use outbox_dispatch::push::retries::{DueRow, FollowerRow};
use outbox_dispatch::store::{
    Batch, Changes, Configuration, DeadRow, NumberedCheckpoint, Passed, Recorded, Switches, Transformed,
};
use outbox_dispatch::subscriptions::{Transform, VersionRow};
use outbox_dispatch::{Failure, Host, Store};
use outbox_sender::ConsentAnswer;

use crate::world::{DeadLetter, Delivery, PLANS, Tables, World, plan, transform};

#[derive(Debug)]
pub(crate) struct SimStore {
    pub(crate) world: Rc<RefCell<World>>,
}

/// The failure of a lock that was not available.
fn transient() -> Failure {
    Failure { state: *b"55P03", message: "canceling statement due to lock timeout".to_owned() }
}

impl SimStore {
    /// Reads: the call fails now and then.
    fn reading<T>(&self, what: &str, read: impl FnOnce(&mut World) -> T) -> Result<T, Failure> {
        let world = &mut *self.world.borrow_mut();
        world.trace(|| what.to_owned());
        if world.answer_lost || world.random.chance(world.trouble) {
            world.failures += 1;
            world.trace(|| "  fails".to_owned());
            return Err(transient());
        }
        Ok(read(world))
    }

    /// Writes: the call fails now and then, or is committed and its answer is lost.
    fn writing<T>(&self, what: &str, write: impl FnOnce(&mut World) -> Result<T, Failure>) -> Result<T, Failure> {
        let world = &mut *self.world.borrow_mut();
        world.trace(|| what.to_owned());
        if world.answer_lost || world.random.chance(world.trouble) {
            world.failures += 1;
            world.trace(|| "  fails".to_owned());
            let permanent = world.random.chance(300);
            return Err(if permanent { Failure::new("a trigger of the user's failed") } else { transient() });
        }
        let written = write(world)?;
        if world.random.chance(world.trouble / 4) {
            world.failures += 1;
            world.trace(|| "  fails".to_owned());
            world.trace(|| "  is committed, and the answer lost".to_owned());
            world.answer_lost = true;
            return Err(transient());
        }
        Ok(written)
    }
}

impl Host for SimStore {
    fn now(&self) -> i64 {
        let world = &mut *self.world.borrow_mut();
        world.now += 1;
        world.now
    }

    fn instant(&self) -> Instant {
        self.world.borrow().instant()
    }

    fn switches(&self) -> Switches {
        Switches {
            poll_interval: Duration::from_secs(5),
            push: true,
            allow_http: true,
            filter_timeout: Duration::from_millis(100),
            transform_timeout: Duration::from_millis(100),
        }
    }

    fn consent_origin(&self) -> String {
        "simulation".to_owned()
    }

    fn log(&self, _text: fmt::Arguments<'_>) {}

    fn close_files(&self) {}

    fn generation(&self) -> u64 {
        self.world.borrow().generation
    }

    fn take_deliveries_changed(&self) -> bool {
        std::mem::take(&mut self.world.borrow_mut().deliveries_changed)
    }
}

/// The message at a position.
fn stored(world: &World, position: i64) -> Stored {
    let id = world.tables.feed[position as usize - 1];
    let message = &world.tables.messages[&id];
    let (topic, content) = match &message.control {
        Some(content) => ("outbox.control", content.clone()),
        None => (if id % 2 == 0 { "even" } else { "odd" }, format!("{{\"n\":{id}}}")),
    };
    Stored {
        segment: 0,
        message: Arc::new(Message {
            id,
            position,
            enqueued_at: message.enqueued_at + UNIX_EPOCH,
            topic: topic.into(),
            key: message.key.clone(),
            content: Bytes::from(content),
            webhook_id: format!("msg_{id}").into(),
            ..Message::default()
        }),
        attributes: Attributes { deliver_at: message.deliver_at, ..Attributes::default() },
        unreadable: None,
        transformed: false,
    }
}

/// Reads a part of the feed. Its length is random.
fn part(world: &mut World, after: i64, upto: i64) -> Part {
    let upto = upto.min(after + world.random.between(1, 20) as i64).min(world.tables.feed.len() as i64);
    let messages: Vec<Stored> = (after + 1..=upto).map(|position| stored(world, position)).collect();
    let cancelled = messages.iter().map(|m| m.message.id).filter(|id| world.tables.cancelled.contains(id)).collect();
    Part { messages, upto: upto.max(after), cancelled }
}

fn version(tables: &Tables, id: i32) -> Option<VersionRow> {
    let plan = plan(id);
    Some(VersionRow {
        subscription: id,
        endpoint: plan.push.then_some(id),
        max_attempts: Some(plan.max_attempts),
        version: 1,
        position: (*tables.begun.get(&id)?)?,
        active: true,
        topics: if plan.even { vec!["even".to_owned()] } else { vec!["even".to_owned(), "odd".to_owned()] },
        ordering: Some(plan.ordering.to_owned()),
        block: plan.block,
        ttl: plan.ttl,
        schedule: Some("[0.01, 0.1, 0.5]".to_owned()),
        batch_size: Some(1),
        paused: tables.paused.contains(&id),
        transform: plan.transform.then(|| Transform { function: "transform".into(), owner: "owner".into() }),
        ..VersionRow::default()
    })
}

fn endpoint(tables: &Tables, id: i32) -> EndpointRow {
    EndpointRow {
        id,
        url: Some("http://receiver/".to_owned()),
        timeout_ms: 1000,
        disable_after: i64::MAX,
        active: !tables.held.contains(&id),
        disabled_mode: Some("hold".to_owned()),
        ..EndpointRow::default()
    }
}

fn due_row(id: i64, row: &Delivery) -> DueRow {
    DueRow {
        id,
        subscription: row.subscription,
        place: Place {
            position: row.position,
            message_id: row.message,
            segment: 0,
            payload_of: if row.payload.is_some() { id } else { 0 },
        },
        attempt: row.attempt,
        due_at: row.due,
        expires_at: row.expires,
        run: 0,
        new_id: false,
        keyed: row.key.is_some(),
    }
}

/// Writes the outcome of one attempt.
fn write_entry(world: &mut World, entry: &Entry) {
    world.trace(|| format!("  {:?} {:?}", entry.done.ticket, entry.outcome));
    let tables = &mut world.tables;
    let ticket = &entry.done.ticket;
    tables.attempts += 1;
    match entry.outcome {
        DeliveryOutcome::Completed | DeliveryOutcome::Cancelled | DeliveryOutcome::Skipped => {
            tables.deliveries.remove(&ticket.delivery_id);
            tables.end(ticket.subscription, ticket.position, entry.outcome.as_str());
        }
        DeliveryOutcome::Failed(due) if ticket.delivery_id == 0 => tables.insert(Delivery {
            subscription: ticket.subscription,
            position: ticket.position,
            message: ticket.message_id,
            attempt: ticket.attempt as i32,
            due,
            expires: None,
            key: None,
            blocked: false,
            pull: false,
            payload: entry.payload.clone(),
        }),
        DeliveryOutcome::Failed(due) => {
            if let Some(row) = tables.deliveries.get_mut(&ticket.delivery_id) {
                (row.attempt, row.due) = (ticket.attempt as i32, due);
            }
        }
        DeliveryOutcome::Dead(reason) => {
            tables.deliveries.remove(&ticket.delivery_id);
            tables.end(ticket.subscription, ticket.position, entry.outcome.as_str());
            tables.dead_letters.push(DeadLetter {
                subscription: ticket.subscription,
                position: ticket.position,
                key: None,
                open: true,
                reason,
            });
        }
        DeliveryOutcome::Manual(_) => {}
    }
}

/// Writes the keys of ordered deliveries that have an outcome.
fn write_notes(tables: &mut Tables, batch: &Batch<'_>) {
    for note in batch.notes {
        let of = |subscription: i32, position: i64| (subscription, position) == (note.key.0, note.position);
        if note.what == "failed" {
            let rows = tables.deliveries.values_mut().filter(|d| of(d.subscription, d.position));
            rows.for_each(|row| row.key = Some(note.key.1.clone()));
        }
        if note.what == "dead" {
            let letters = tables.dead_letters.iter_mut().filter(|l| l.open && of(l.subscription, l.position));
            letters.for_each(|letter| letter.key = Some(note.key.1.clone()));
        }
    }
    for note in batch.notes.iter().filter(|note| note.what != "failed") {
        let of = |d: &Delivery| d.subscription == note.key.0 && d.key.as_deref() == Some(&*note.key.1);
        if tables.deliveries.values().any(of) {
            tables.freed_keys.insert(note.key.clone());
        }
    }
}

fn write_row(tables: &mut Tables, row: &NewRow) {
    let key = row.key.clone().map(|key| (row.subscription, key));
    let blocked = key.as_ref().is_some_and(|key| tables.has_rows(key));
    tables.insert(Delivery {
        subscription: row.subscription,
        position: row.position,
        message: row.message_id,
        attempt: 0,
        due: row.due,
        expires: row.expires,
        key: row.key.clone(),
        blocked,
        pull: row.pull,
        payload: row.payload.clone(),
    });
}

fn write_decision(tables: &mut Tables, decision: &Decision) {
    tables.end(decision.subscription, decision.position, decision.outcome);
    if decision.outcome == "dead" {
        tables.dead_letters.push(DeadLetter {
            subscription: decision.subscription,
            position: decision.position,
            key: None,
            open: true,
            reason: decision.reason,
        });
    }
    tables.remove(decision.delivery_id);
}

/// Writes everything but the outcomes.
fn write_rest(world: &mut World, batch: &Batch<'_>) -> Recorded {
    for what in [format!("{:?}", batch.notes), format!("{:?}", batch.rows), format!("{:?}", batch.decisions)] {
        world.trace(|| format!("  {what}"));
    }
    world.trace(|| format!("  {:?}", batch.checkpoint));
    let tables = &mut world.tables;
    let first = tables.routing.len() as i64 + 1;
    for row in batch.routing {
        if row.first != tables.routing.len() as i64 + 1 {
            world.breaches.push(format!("positions from {} on are routed after {}", row.first, tables.routing.len()));
        }
        tables.routing.extend(&row.matched);
    }
    if tables.routing.len() as i64 != batch.checkpoint.checkpoint.routed {
        world.breaches.push(format!(
            "the checkpoint is at {}, and positions {first} to {} are routed",
            batch.checkpoint.checkpoint.routed,
            tables.routing.len()
        ));
    }
    write_notes(tables, batch);
    for row in batch.rows.iter() {
        write_row(tables, row);
        if tables.cancelled.contains(&row.message_id) {
            tables.cancelled_lately.insert(row.message_id);
        }
    }
    for ended in batch.ended {
        tables.end(ended.subscription, ended.position, ended.outcome);
    }
    let changed: BTreeSet<i64> = batch.rows.iter().map(|row| row.message_id).chain(batch.failed()).collect();
    let ended = tables.end_cancelled(&changed, &[]);
    let keys = batch.notes.iter().map(|note| note.key.clone()).filter(|key| tables.has_rows(key)).collect();
    batch.decisions.iter().for_each(|decision| write_decision(tables, decision));
    let last = tables.checkpoint.as_ref().map_or(0, |last| last.id);
    if batch.checkpoint.id != last + 1 {
        world.breaches.push(format!("checkpoint {} follows {last}", batch.checkpoint.id));
    }
    tables.checkpoint = Some(batch.checkpoint.clone());
    Recorded { ended, keys }
}

/// Whether an outcome has data that cannot be stored.
fn is_poisoned(world: &World, entry: &Entry) -> bool {
    let plain = entry.done.error.as_deref().is_some_and(|error| error.starts_with("its outcome could not be"));
    !plain && world.tables.messages[&entry.done.ticket.message_id].poisoned
}

impl Store for SimStore {
    fn tick(&mut self, chunk: i32, after: Option<i64>) -> Result<Ticked, Failure> {
        let world = &mut *self.world.borrow_mut();
        if world.answer_lost || world.random.chance(world.trouble) {
            world.failures += 1;
            world.trace(|| "  fails".to_owned());
            return Err(transient());
        }
        let tables = &mut world.tables;
        let first = tables.feed.len() as i64 + 1;
        if tables.unnumbered.is_empty() && tables.feed.is_empty() {
            return Ok(Ticked { status: TickStatus::Fresh, found: 0, last: 0, more: false, part: None });
        }
        if world.random.chance(world.trouble) {
            return Ok(Ticked { status: TickStatus::Busy, found: 0, last: first - 1, more: false, part: None });
        }
        let found = tables.unnumbered.len().min(chunk as usize).min(world.random.between(1, 30) as usize);
        for id in tables.unnumbered.drain(..found).collect::<Vec<_>>() {
            tables.feed.push(id);
            let control = tables.messages[&id].control.as_deref();
            let begins =
                control.and_then(|text| text.strip_prefix("{\"subscription\":")?.strip_suffix('}')?.parse().ok());
            if let Some(begins) = begins
                && let Some(begun @ None) = tables.begun.get_mut(&begins)
            {
                *begun = Some(tables.feed.len() as i64);
            }
        }
        let (last, more) = (tables.feed.len() as i64, !tables.unnumbered.is_empty());
        // The numbers are committed, and the answer is lost: the next tick finds other messages.
        if world.random.chance(world.trouble) {
            world.failures += 1;
            world.trace(|| "  fails".to_owned());
            return Err(transient());
        }
        let wanted = found > 0 && after == Some(first - 1);
        let part = wanted.then(|| part(world, first - 1, last));
        Ok(Ticked { status: TickStatus::Ticked, found, last, more, part })
    }

    fn read(&mut self, after: i64, upto: i64, look_for_cancelled: bool) -> Result<Part, Failure> {
        self.reading("read", |world| {
            let part = part(world, after, upto);
            if look_for_cancelled { part } else { Part { cancelled: Vec::new(), ..part } }
        })
    }

    fn messages(&mut self, places: &[Place]) -> Result<Vec<Option<Stored>>, Failure> {
        self.reading("messages", |world| {
            // Sometimes the messages are too large to be read at once.
            let read = if world.random.chance(50) { 1 + places.len() / 3 } else { places.len() };
            let of = |place: &Place| {
                let message = stored(world, place.position);
                if place.payload_of == 0 {
                    return Some(message);
                }
                Some(message.with_payload(world.tables.deliveries.get(&place.payload_of)?.payload.clone()?))
            };
            places.iter().take(read).map(of).collect()
        })
    }

    fn last_checkpoint(&mut self) -> Result<Option<NumberedCheckpoint>, Failure> {
        self.reading("last_checkpoint", |world| world.tables.checkpoint.clone())
    }

    fn load(&mut self, _apart: bool) -> Result<Configuration, Failure> {
        self.reading("load", |world| {
            let tables = &world.tables;
            Configuration {
                subscriptions: PLANS.iter().filter_map(|plan| version(tables, plan.id)).collect(),
                endpoints: PLANS.iter().filter(|plan| plan.push).map(|plan| endpoint(tables, plan.id)).collect(),
                ..Configuration::default()
            }
        })
    }

    fn load_endpoints(&mut self, ids: &[i32]) -> Result<Vec<EndpointRow>, Failure> {
        self.reading("load_endpoints", |world| {
            let known = PLANS.iter().filter(|plan| plan.push && ids.contains(&plan.id));
            known.map(|plan| endpoint(&world.tables, plan.id)).collect()
        })
    }

    fn load_subscriptions(&mut self, ids: &[i32]) -> Result<Vec<VersionRow>, Failure> {
        self.reading("load_subscriptions", |world| ids.iter().filter_map(|id| version(&world.tables, *id)).collect())
    }

    fn changes(&mut self) -> Result<Changes, Failure> {
        self.reading("changes", |world| {
            let tables = &world.tables;
            let rows = tables.deliveries.values().filter(|d| !d.pull);
            let mut keys: BTreeSet<OrderKey> = rows.filter_map(|d| Some((d.subscription, d.key.clone()?))).collect();
            let letters = tables.dead_letters.iter().filter_map(|l| Some((l.subscription, l.key.clone()?)));
            keys.extend(letters.filter(|key| tables.is_blocked_by_dead_letter(key)));
            Changes { cancelled: tables.cancelled.iter().copied().collect(), keys: keys.into_iter().collect() }
        })
    }

    fn count_waiting(
        &mut self,
        of: &[(i32, i64)],
        _limit: usize,
        now: i64,
    ) -> Result<Vec<(usize, Option<i64>)>, Failure> {
        self.reading("count_waiting", |world| {
            let count = |(id, from): &(i32, i64)| {
                let waits = |d: &&Delivery| d.subscription == *id && d.position >= *from && d.attempt == 0;
                let rows = || world.tables.deliveries.values().filter(waits);
                (rows().filter(|d| d.due <= now).count(), rows().map(|d| d.position).min())
            };
            of.iter().map(count).collect()
        })
    }

    fn count_blocked(&mut self, of: &[i32], _limit: usize) -> Result<Vec<usize>, Failure> {
        self.reading("count_blocked", |world| {
            let rows =
                |id: &i32| world.tables.deliveries.values().filter(|d| d.subscription == *id && d.blocked).count();
            of.iter().map(rows).collect()
        })
    }

    fn filter(&mut self, _path: &str, payloads: &[&str], _timer: Duration) -> Result<Vec<bool>, Failure> {
        Ok(vec![true; payloads.len()])
    }

    fn transform(
        &mut self,
        _transform: &Transform,
        places: &[Place],
        _timer: Duration,
    ) -> Result<Vec<Transformed>, Failure> {
        self.reading("transform", |world| {
            // Sometimes the time is over after the first calls.
            let called = if world.random.chance(50) { 1 + places.len() / 3 } else { places.len() };
            places.iter().take(called).map(|place| transform(place.message_id)).collect()
        })
    }

    fn pass(&mut self, _limit: i32, in_flight: &[i64], _apart: bool) -> Result<Passed, Failure> {
        self.writing("pass", |world| {
            let (now, tables) = (world.now, &mut world.tables);
            let lately = std::mem::take(&mut tables.cancelled_lately);
            tables.end_cancelled(&lately, in_flight);
            let has_row = |id: &i64| tables.deliveries.values().any(|d| d.message == *id);
            tables.cancelled_lately = lately.into_iter().filter(has_row).collect();
            let is_over =
                |(id, d): &(&i64, &Delivery)| d.expires.is_some_and(|at| at <= now) && !in_flight.contains(id);
            let expired: Vec<i64> = tables.deliveries.iter().filter(is_over).map(|(id, _)| *id).collect();
            expired.iter().for_each(|id| tables.bury(*id, "expired"));
            let free = tables.unblock();
            let soon = !tables.cancelled_lately.is_empty() || tables.deliveries.values().any(|d| d.expires.is_some());
            Ok(Passed { more: !tables.freed_keys.is_empty(), soon, free })
        })
    }

    fn due_rows(&mut self, rooms: &[(i32, i32)], known: &[i64]) -> Result<Vec<DueRow>, Failure> {
        self.reading("due_rows", |world| {
            let mut due = Vec::new();
            for (subscription, room) in rooms {
                let waits = |(id, d): &(&i64, &Delivery)| {
                    d.subscription == *subscription && !d.pull && !d.blocked && !known.contains(id)
                };
                let mut rows: Vec<DueRow> =
                    world.tables.deliveries.iter().filter(waits).map(|(id, d)| due_row(*id, d)).collect();
                rows.sort_by_key(|row| row.due_at);
                rows.truncate(*room as usize + 1);
                due.extend(rows);
            }
            due
        })
    }

    fn followers(&mut self, keys: &[(OrderKey, i64)], limit: i32) -> Result<Vec<Vec<FollowerRow>>, Failure> {
        self.reading("followers", |world| {
            let followers = |(key, position): &(OrderKey, i64)| {
                let follows = |d: &Delivery| {
                    d.subscription == key.0 && d.key.as_deref() == Some(&*key.1) && d.position > *position
                };
                let comes_before = |d: &Delivery| {
                    d.subscription == key.0 && d.key.as_deref() == Some(&*key.1) && d.position < *position
                };
                let tables = &world.tables;
                if tables.deliveries.values().any(comes_before) || tables.is_blocked_by_dead_letter(key) {
                    return Vec::new();
                }
                let rows = tables.deliveries.iter().filter(|(_, d)| follows(d));
                let mut rows: Vec<FollowerRow> =
                    rows.map(|(id, d)| FollowerRow { row: due_row(*id, d), blocked: d.blocked }).collect();
                rows.sort_by_key(|follower| follower.row.place.position);
                rows.truncate(limit as usize);
                rows
            };
            keys.iter().map(followers).collect()
        })
    }

    fn dead_letter(&mut self, rows: &[DeadRow]) -> Result<(), Failure> {
        self.writing("dead_letter", |world| {
            rows.iter().for_each(|row| world.tables.bury(row.id, row.reason));
            Ok(())
        })
    }

    fn manual_sends(&mut self, _known: &[i64]) -> Result<Vec<ManualSend>, Failure> {
        Ok(Vec::new())
    }

    fn consents_due(&mut self) -> Result<Vec<(i32, i64)>, Failure> {
        Ok(Vec::new())
    }

    fn record_consents(&mut self, _answers: &[ConsentAnswer]) -> Result<Vec<(usize, Failure)>, Failure> {
        Ok(Vec::new())
    }

    fn record(&mut self, batch: &Batch<'_>) -> Result<Recorded, Failure> {
        self.writing("record", |world| {
            if batch.entries.iter().any(|entry| is_poisoned(world, entry)) {
                return Err(Failure::new("an outcome cannot be stored"));
            }
            batch.entries.iter().for_each(|entry| write_entry(world, entry));
            Ok(write_rest(world, batch))
        })
    }

    fn record_apart(&mut self, batch: &mut Batch<'_>, _faults: &mut Vec<Fault>) -> Result<Recorded, Failure> {
        self.writing("record_apart", |world| {
            for entry in batch.entries.iter_mut() {
                if is_poisoned(world, entry) {
                    entry.make_plain(&Failure::new("an outcome cannot be stored"));
                }
                write_entry(world, entry);
            }
            // One row in ten cannot be made.
            let rows = std::mem::take(batch.rows);
            for row in rows {
                if world.random.chance(100) {
                    let (of, failure) = ((row.position, row.message_id), Failure::new(UNRECORDABLE));
                    batch.decisions.push(Decision::unrecordable(row.subscription, of, row.segment, &failure));
                } else {
                    batch.rows.push(row);
                }
            }
            Ok(write_rest(world, batch))
        })
    }

    fn note_faults(&mut self, _faults: &[Fault]) -> Result<(), Failure> {
        self.reading("note_faults", |_| ())
    }

    fn note_loaded(&mut self, _kind: Kind, _faulted: &[i64]) -> Result<(), Failure> {
        self.reading("note_loaded", |_| ())
    }
}
