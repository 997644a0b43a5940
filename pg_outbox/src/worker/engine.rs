//! What the dispatcher does: tick, route, hand out, record.
//!
//! Three short transactions, never one around the network: tick and read; nothing open while requests run; record. `route`
//! reads, `record` writes, `config` knows who gets what, `outbox-sender` talks to receivers.
//!
//! Invariants:
//! * Nothing is sent before the tick that numbered it has committed.
//! * An outcome counts as settled in memory at once, and in the database together with the checkpoint that says so.
//! * A failed transaction changes nothing in memory that the next round cannot do again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use outbox_core::message::Message;
use outbox_core::policy::Outcome;
use outbox_core::progress::Progress;
use outbox_core::topic;
use outbox_sender::{Done, Job, Sender, Ticket};
use pgrx::pg_sys::{INT8ARRAYOID, TEXTARRAYOID};

use super::config::{Config, Loader, Routed, Subscription};
use super::consent::Consents;
use super::decide::{Decision as Made, Decisions};
use super::endpoints::Endpoints;
use super::errand::Errands;
use super::judge::judge;
use super::order::{self, Lane, Order, Turn, Waiting};
use super::predicate::{Predicates, Verdict, Verdicts};
use super::pull::{self, Taken, Window};
use super::record::{Checkpoint, EXPIRED, Entry, Fate, Recorder, RoutingRow};
use super::retry::Retries;
use super::route::{Reader, Stored, subject};
use super::tally::Tally;
use super::txn::{Plan, arg};
use super::{now, txn};
use crate::gucs;
use crate::shmem::Slot;

/// Messages numbered by one tick, and read at once.
const CHUNK: i32 = 1000;
/// Rows of the feed (of up to 960 messages) read at once.
const READ_ROWS: i64 = 1;
/// What a subscription may have with the HTTP thread: jobs, and bytes of content. A subscription that has more lags.
const HANDED_LIMIT: usize = 4096;
const HANDED_BYTES: usize = 8 << 20;
/// Outcomes are recorded when there are this many, or after `RECORD_DELAY`.
const RECORD_BATCH: usize = 2000;
const RECORD_DELAY: Duration = Duration::from_millis(5);
/// After a tick that found many messages the next one waits: a busy database is ticked about 200 times a second.
const BUSY_TICK: usize = 64;
const BUSY_INTERVAL: Duration = Duration::from_millis(5);
/// Wait when another session has the sequencer's lock.
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// What a round came to.
pub enum Round {
    /// There is more to do.
    Again,
    /// Nothing to do for this long, unless something sets the latch.
    Sleep(Duration),
    /// The data is not this database's own.
    Copied,
}

/// What there is to go on with.
enum Found {
    /// This database's own.
    Own,
    /// Another database's.
    Copied,
    /// Nothing yet.
    Nothing,
    /// Another session has the sequencer.
    Busy,
}

/// What is kept of a delivery while the HTTP thread has it.
struct Handed {
    segment: i16,
    bytes: usize,
    max_attempts: u32,
    /// Not tried again from here on.
    expires: Option<i64>,
    /// Of the message, in microseconds since 1970.
    enqueued_at: i64,
    /// Its key, where the subscription asks for an order.
    lane: Option<Lane>,
}

/// The dispatcher's state.
pub struct Engine {
    slot: &'static Slot,
    pub sender: Sender,
    reader: Reader,
    loader: Loader,
    recorder: Recorder,
    window: Window,
    predicates: Predicates,
    decisions: Decisions,
    tally: Tally,
    bury: Plan,
    retries: Retries,
    order: Order,
    errands: Errands,
    look_for_errands: bool,
    config: Config,
    endpoints: Endpoints,
    consents: Consents,
    recovered: bool,
    reload: bool,
    /// Subscriptions that are read again before the next message is routed.
    changed: Vec<i32>,
    /// Control messages up to here are known to the configuration.
    horizon: i64,
    /// Somebody asked to look at deliveries, or at replays.
    pub looked: bool,
    incarnation: i64,
    checkpoint_id: i64,
    /// The feed is routed up to here.
    routed: i64,
    /// The feed ends here, as far as is known.
    end: i64,
    /// Deliveries that are with the HTTP thread.
    handed: HashMap<(i32, i64, i64), Handed>,
    done: Vec<Done>,
    entries: Vec<Entry>,
    routing: Vec<RoutingRow>,
    unrecorded_since: Option<Instant>,
    generation: u64,
    last_tick: Option<Instant>,
    last_found: usize,
    /// The last tick left more to be numbered.
    tick_more: bool,
}

impl Engine {
    pub fn new(slot: &'static Slot, sender: Sender) -> Engine {
        Engine {
            slot,
            sender,
            reader: Reader::new(),
            loader: Loader::new(),
            recorder: Recorder::new(),
            window: Window::new(),
            predicates: Predicates::new(),
            decisions: Decisions::new(),
            tally: Tally::default(),
            bury: Plan::new("select outbox._bury($1, $2, true)", &[INT8ARRAYOID, TEXTARRAYOID]),
            retries: Retries::new(),
            order: Order::new(),
            errands: Errands::new(),
            look_for_errands: true,
            config: Config::default(),
            endpoints: Endpoints::new(),
            consents: Consents::new(),
            recovered: false,
            reload: false,
            changed: Vec::new(),
            horizon: 0,
            looked: false,
            incarnation: 0,
            checkpoint_id: 0,
            routed: 0,
            end: 0,
            handed: HashMap::new(),
            done: Vec::new(),
            entries: Vec::new(),
            routing: Vec::new(),
            unrecorded_since: None,
            generation: 0,
            last_tick: None,
            last_found: 0,
            tick_more: false,
        }
    }

    /// Reads the configuration again before the next message is routed.
    pub fn reload(&mut self) {
        self.reload = true;
    }

    /// The feed's last position, as far as is known.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Shows the state to other sessions.
    pub fn publish(&self) {
        // In the order in which a delivery passes through them, so that none is missed.
        let queued = self.sender.queued();
        let in_flight = self.sender.in_flight();
        let unrecorded = self.sender.unrecorded();
        self.slot.queued.store(queued as i64, Ordering::Relaxed);
        self.slot.in_flight.store(in_flight as i64, Ordering::Relaxed);
        self.slot.unrecorded.store(unrecorded as i64, Ordering::Relaxed);
        let to_record = self.unrecorded_since.is_some();
        // A full window of rows to be claimed is nothing to do.
        // So are deliveries that a disabled endpoint or a pause holds.
        let to_do = |s: &Subscription| !s.paused && if s.pull { pull::has_work(s) } else { s.limit.0 > 0 };
        let lagging = self.config.subscriptions.values().any(|s| s.progress.lag().is_some() && to_do(s));
        let busy =
            queued + in_flight + unrecorded > 0 || to_record || lagging || self.routed < self.end || self.tick_more;
        self.slot.publish(self.generation, busy);
    }

    /// Ends what is in flight and records it.
    pub fn shut_down(&mut self, grace: Duration) {
        if !self.recovered {
            return;
        }
        self.sender.stop(grace);
        self.take_outcomes();
        if let Err(error) = self.record() {
            pgrx::log!(
                "pg_outbox dispatcher: outcomes could not be recorded at shutdown and will be repeated: {error}"
            );
        }
    }

    /// One round.
    pub fn round(&mut self) -> Result<Round, String> {
        if !self.recovered {
            let generation = self.slot.generation();
            match self.recover()? {
                Found::Own => {}
                Found::Copied => return Ok(Round::Copied),
                Found::Busy => {
                    self.tick_more = true;
                    return Ok(Round::Sleep(LOCK_WAIT));
                }
                Found::Nothing => {
                    self.generation = generation;
                    return Ok(Round::Sleep(Duration::from_millis(gucs::POLL_INTERVAL.get() as u64)));
                }
            }
        }
        let poll = Duration::from_millis(gucs::POLL_INTERVAL.get() as u64);
        let mut pause = poll;
        let mut again = false;
        self.take_outcomes();

        let look = self.slot.look_at_deliveries.swap(false, Ordering::SeqCst);
        self.looked |= look;
        if look {
            self.retries.look_at_all(&self.config);
            self.window.pass_now();
            self.look_for_errands = true;
            let Engine { window, order, .. } = self;
            txn::run(|| {
                window.load_cancelled();
                order.look_at_all();
                Ok(())
            })?;
        }
        // First what waits for its first delivery.
        let generation = self.slot.generation();
        let since_tick = self.last_tick.map_or(Duration::MAX, |at| at.elapsed());
        if !self.tick_more && self.last_found >= BUSY_TICK && since_tick < BUSY_INTERVAL {
            pause = pause.min(BUSY_INTERVAL - since_tick);
        } else if self.tick_more || generation != self.generation || since_tick >= poll {
            if self.tick()? {
                self.generation = generation;
                again |= self.tick_more || generation != self.slot.generation();
            } else if self.recovered {
                pause = pause.min(LOCK_WAIT);
            } else {
                return Ok(Round::Copied);
            }
        }
        if self.routed < self.end {
            self.route_behind()?;
            again |= self.routed < self.end;
        }
        if let Some(wait) = self.window.recount(&mut self.config)? {
            pause = pause.min(wait);
        }
        again |= self.catch_up()?;
        let lagging = self.config.subscriptions.values().filter(|s| s.progress.lag().is_some() && !s.is_quick());
        if let Some(until) = lagging.filter_map(|s| s.slow_until).min() {
            pause = pause.min(until.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        }
        pause = pause.min(self.window.pass(self.retries.ids(), poll)?);
        if self.window.take_promoted() {
            self.retries.look_at_all(&self.config);
        }

        if gucs::PUSH.get() {
            self.hand_out_due()?;
            if std::mem::take(&mut self.look_for_errands) {
                let Engine { errands, reader, config, .. } = self;
                let jobs = txn::run(|| Ok(errands.take(reader, config)))?;
                self.sender.submit(jobs);
            }
        }
        if let Some(wait) = self.consents.round(&self.sender)? {
            pause = pause.min(wait);
        }
        match self.endpoints.write_in() {
            Some(Duration::ZERO) => {
                self.unrecorded_since.get_or_insert_with(Instant::now);
            }
            Some(wait) => pause = pause.min(wait),
            None => {}
        }
        if let Some(since) = self.unrecorded_since {
            let age = since.elapsed();
            if self.entries.len() + self.window.rows() + self.decisions.len() >= RECORD_BATCH || age >= RECORD_DELAY {
                self.record()?;
                // Keys that have been freed go on at once.
                again |= self.window.passes_now();
            } else {
                pause = pause.min(RECORD_DELAY - age);
            }
        }
        if gucs::PUSH.get() {
            pause = pause.min(self.due_in());
        }
        Ok(if again { Round::Again } else { Round::Sleep(pause) })
    }

    /// Goes on where the last incarnation was. An outbox into which nothing has ever been enqueued is left alone: a restore
    /// may be about to load the original's rows.
    fn recover(&mut self) -> Result<Found, String> {
        let Engine { reader, recorder, .. } = self;
        let ticked = txn::run(|| Ok(reader.tick(CHUNK)))?;
        self.tick_more = ticked.more;
        match &*ticked.status {
            "copied" => return Ok(Found::Copied),
            "fresh" => return Ok(Found::Nothing),
            "busy" => return Ok(Found::Busy),
            _ => {}
        }
        self.end = ticked.last;
        let last = txn::run(|| Ok(recorder.last()))?;
        let (id, incarnation, checkpoint) = last.unwrap_or((0, 0, Checkpoint { routed: 0, subscriptions: Vec::new() }));
        self.checkpoint_id = id;
        self.incarnation = incarnation + 1;
        self.routed = checkpoint.routed;
        self.load_config()?;
        pull::recover(&mut self.config);
        // Which messages are cancelled is read before anything is handed out.
        self.slot.look_at_deliveries.store(false, Ordering::SeqCst);
        let Engine { window, order, .. } = self;
        txn::run(|| {
            window.load_cancelled();
            order.look_at_all();
            Ok(())
        })?;
        for (subscription, saved) in checkpoint.subscriptions {
            let Some(known) = self.config.subscriptions.get_mut(&subscription) else { continue };
            known.progress = Progress::behind(saved.position);
            known.progress.catch_up(saved.position, checkpoint.routed);
            for position in saved.open {
                self.deliver_again(subscription, position)?;
            }
        }
        self.retries.look_at_all(&self.config);
        self.recovered = true;
        Ok(Found::Own)
    }

    /// Hands out a delivery that was in flight when the last incarnation ended.
    fn deliver_again(&mut self, subscription: i32, position: i64) -> Result<(), String> {
        let reader = &mut self.reader;
        let (found, _) = txn::run(|| Ok(reader.read(position - 1, position, 1)))?;
        let mut jobs = Vec::new();
        if let (Some(stored), Some(known)) = (found.first(), self.config.subscriptions.get_mut(&subscription)) {
            hand_out(&mut self.handed, &mut jobs, subscription, known, stored, &mut self.order, &mut self.window);
        }
        self.sender.submit(jobs);
        Ok(())
    }

    fn load_config(&mut self) -> Result<(), String> {
        // All that has been numbered by now is seen by a transaction that begins now.
        let (horizon, begun) = (self.end, if self.recovered { 0 } else { self.routed });
        let Engine { loader, config, endpoints, .. } = self;
        let (mut new, configured) = txn::run(|| Ok((loader.load(begun), endpoints.load())))?;
        new.carry_over(config);
        self.config = new;
        self.config.begin(self.routed);
        self.consents.look_at(configured.iter().map(|endpoint| endpoint.id));
        self.sender.set_endpoints(configured);
        self.set_limits();
        self.reload = false;
        self.changed.clear();
        self.horizon = horizon;
        Ok(())
    }

    /// Reads what has changed of the configuration.
    fn refresh(&mut self) -> Result<(), String> {
        if self.reload {
            return self.load_config();
        }
        if !self.changed.is_empty() {
            let Engine { loader, config, changed, .. } = self;
            txn::run(|| {
                loader.load_changed(config, changed);
                Ok(())
            })?;
            self.changed.clear();
            self.config.begin(self.routed);
            self.set_limits();
        }
        Ok(())
    }

    /// Subscriptions may have as much with the HTTP thread as their endpoints take.
    fn set_limits(&mut self) {
        for subscription in self.config.subscriptions.values_mut() {
            subscription.limit = self.endpoints.limit(subscription.endpoint);
        }
    }

    /// Runs the sequencer and routes what it numbered. `false`: another session has its lock.
    fn tick(&mut self) -> Result<bool, String> {
        let Engine { reader, end, routed, .. } = self;
        let (end_before, caught_up) = (*end, end == routed);
        let (ticked, messages) = txn::run(|| {
            let ticked = reader.tick(CHUNK);
            // The messages are read in the same transaction, and used only after it has committed.
            let messages = (caught_up && ticked.first == end_before + 1 && !ticked.ids.is_empty())
                .then(|| reader.messages(ticked.first, &ticked.ids, &ticked.segments));
            Ok((ticked, messages))
        })?;
        match &*ticked.status {
            "busy" => return Ok(false),
            "ticked" | "idle" => {}
            // Restored over what was here.
            "copied" => {
                self.recovered = false;
                return Ok(false);
            }
            other => return Err(format!("the sequencer refuses: {other}")),
        }
        self.last_tick = Some(Instant::now());
        self.last_found = ticked.ids.len();
        self.tick_more = ticked.more;
        self.end = self.end.max(ticked.last);
        if let Some(messages) = messages {
            self.route(&messages, ticked.last)?;
        }
        Ok(true)
    }

    /// Routes a part of the feed that is not in memory.
    fn route_behind(&mut self) -> Result<(), String> {
        let Engine { reader, routed, end, .. } = self;
        let (messages, upto) = txn::run(|| Ok(reader.read(*routed, *end, READ_ROWS)))?;
        self.route(&messages, upto)
    }

    /// Routes messages behind `routed`, up to `upto`.
    fn route(&mut self, messages: &[Stored], upto: i64) -> Result<(), String> {
        let mut rest = messages;
        while self.routed < upto {
            self.refresh()?;
            // Up to the next change of the configuration, which holds for what comes behind it.
            let control = rest.iter().position(is_control);
            let (part, stop) = match control {
                Some(i) => (&rest[..=i], rest[i].message.position),
                None => (rest, upto),
            };
            let verdicts = self.predicates.examine(&mut self.config, part, |_| true);
            self.route_part(part, stop, &verdicts);
            if control.is_some() {
                self.config.begin(stop);
                if stop > self.horizon {
                    // All changes of this stretch at once: each holds from its own position on.
                    let behind = rest[part.len() - 1..].iter().filter(|stored| is_control(stored));
                    for id in behind.map(changed_subscription) {
                        match id {
                            Some(id) => self.changed.push(id),
                            None => self.reload = true,
                        }
                    }
                    self.horizon = upto;
                }
            }
            rest = &rest[part.len()..];
        }
        self.refresh()
    }

    fn route_part(&mut self, messages: &[Stored], upto: i64, verdicts: &Verdicts) {
        let Engine { config, handed, routed, window, order, decisions, tally, .. } = self;
        let push = gucs::PUSH.get();
        let mut jobs = Vec::new();
        let mut matched = vec![matched_as::GONE; usize::try_from(upto - *routed).unwrap_or(0)];
        for stored in messages {
            let position = stored.message.position;
            let (topic, subject) = (&stored.message.topic, subject(stored));
            let found = config.route(position, topic, &subject, verdicts, |id, subscription, verdict| {
                if subscription.progress.lag().is_some() {
                    return;
                }
                let room = !subscription.paused && (subscription.pull || push && has_room(subscription));
                match judged(decisions, id, subscription, stored, verdict, room, window) {
                    Taken::Yes => {}
                    Taken::Send => hand_out(handed, &mut jobs, id, subscription, stored, order, window),
                    Taken::Full => subscription.progress.fall_behind(position - 1),
                }
            });
            let entry = matched_as::entry(&stored.message.topic, found);
            matched[(position - *routed - 1) as usize] = entry;
            if entry != matched_as::CONTROL {
                tally.count(stored, entry);
            }
        }
        by_priority(&mut jobs, messages, config);
        self.sender.submit(jobs);
        let active = i32::try_from(config.active_at(upto)).unwrap_or(i32::MAX);
        match self.routing.last_mut() {
            Some(row) if row.active == active && row.first + row.matched.len() as i64 == *routed + 1 => {
                row.matched.extend(matched);
            }
            _ => self.routing.push(RoutingRow { first: *routed + 1, active, matched }),
        }
        *routed = upto;
        self.unrecorded_since.get_or_insert_with(Instant::now);
    }

    /// Reads the feed for the subscription that is furthest behind and can take more. Says whether there is more to do.
    fn catch_up(&mut self) -> Result<bool, String> {
        let push = gucs::PUSH.get();
        // Half empty: so that each reading of the feed is worth it.
        let ready = |s: &Subscription| match s.pull {
            _ if s.paused || !s.is_quick() => false,
            _ if s.has_ended() => true,
            true => pull::has_room(s),
            false => {
                let limit = handed_limit(s);
                push && limit > 0 && s.handed <= limit / 2 && s.handed_bytes <= HANDED_BYTES / 2
            }
        };
        let lagging = |s: &Subscription| s.progress.lag().filter(|_| ready(s));
        let Some(start) = self.config.subscriptions.values().filter_map(lagging).min() else { return Ok(false) };
        let Engine { reader, config, handed, routed, window, order, predicates, decisions, .. } = self;
        let (messages, upto) = txn::run(|| Ok(reader.read(start, *routed, READ_ROWS)))?;
        let upto = if messages.is_empty() && upto == start { *routed } else { upto };
        // Those that start within the stretch take part from where they are.
        let mut part: HashSet<i32> = config
            .subscriptions
            .iter()
            .filter(|(_, s)| lagging(s).is_some_and(|at| at < upto))
            .map(|(id, _)| *id)
            .collect();
        let verdicts = predicates.examine(config, &messages, |id| part.contains(&id));
        let mut jobs = Vec::new();
        for stored in &messages {
            let position = stored.message.position;
            let (topic, subject) = (&stored.message.topic, subject(stored));
            config.route(position, topic, &subject, &verdicts, |id, subscription, verdict| {
                if !part.contains(&id) || subscription.progress.lag().is_none_or(|at| at >= position) {
                    return;
                }
                let room = subscription.pull || has_room(subscription);
                match judged(decisions, id, subscription, stored, verdict, room, window) {
                    Taken::Yes => {}
                    Taken::Send => hand_out(handed, &mut jobs, id, subscription, stored, order, window),
                    Taken::Full => {
                        subscription.progress.fall_behind(position - 1);
                        part.remove(&id);
                    }
                }
            });
        }
        for id in part {
            if let Some(subscription) = config.subscriptions.get_mut(&id) {
                subscription.progress.catch_up(upto, *routed);
            }
        }
        by_priority(&mut jobs, &messages, &self.config);
        self.sender.submit(jobs);
        if self.window.rows() > 0 || self.decisions.len() > 0 {
            self.unrecorded_since.get_or_insert_with(Instant::now);
        }
        Ok(self.config.subscriptions.values().any(|s| lagging(s).is_some()))
    }

    /// Hands out deliveries whose time has come.
    fn hand_out_due(&mut self) -> Result<(), String> {
        let Engine { retries, reader, config, endpoints, handed, order, decisions, .. } = self;
        let time = now();
        let ready = |id: i32| {
            config.subscriptions.get(&id).is_some_and(|s| {
                s.has_ended() || !s.paused && endpoints.accepts(s.endpoint, time) && s.handed_bytes < HANDED_BYTES
            })
        };
        if retries.next(ready).is_some_and(|at| at <= time) {
            let due = txn::run(|| Ok(retries.take(reader, time, ready)))?;
            let (mut jobs, mut gone) = (Vec::new(), Vec::new());
            for due in &due {
                let subscription = config.subscriptions.get_mut(&due.subscription).filter(|s| !s.pull);
                let (subscription, stored) = match (subscription, &due.stored) {
                    (None, _) => {
                        gone.push((due.id, "subscription_gone"));
                        continue;
                    }
                    (_, None) => {
                        gone.push((due.id, "message_gone"));
                        continue;
                    }
                    (Some(subscription), Some(stored)) => (subscription, stored),
                };
                // History that is asked for again has expired long since.
                let expires = due.expires.or_else(|| pull::expiry(subscription, stored)).filter(|_| due.run == 0);
                if expires.is_some_and(|at| at <= time) {
                    gone.push((due.id, EXPIRED));
                    continue;
                }
                retries.out(due);
                if subscription.has_ended() {
                    decisions.push(Made::unsubscribed(due.subscription, stored, due.id));
                    self.unrecorded_since.get_or_insert_with(Instant::now);
                    continue;
                }
                let (run, new_id) = (due.run, due.new_id);
                if let Some(lane) = order::lane(due.subscription, subscription, stored)
                    && !order.row(&lane)
                {
                    subscription.handed += 1;
                    subscription.handed_bytes += stored.message.content.len();
                    let (stored, delivery_id, attempt) = (stored.clone(), due.id, due.attempt);
                    order.wait(&lane, Waiting { stored, delivery_id, attempt, expires, run, new_id });
                    continue;
                }
                let seat = Seat { delivery_id: due.id, attempt: due.attempt, expires, run, new_id };
                hand_out_as(handed, &mut jobs, due.subscription, subscription, stored, seat);
            }
            self.sender.submit(jobs);
            let bury = &mut self.bury;
            if !gone.is_empty() {
                txn::run(|| {
                    bury.execute(&[
                        arg(gone.iter().map(|(id, _)| *id).collect::<Vec<i64>>()),
                        arg(gone.iter().map(|(_, reason)| *reason).collect::<Vec<_>>()),
                    ]);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// How long until a delivery that waits is to be looked at.
    fn due_in(&self) -> Duration {
        let Engine { retries, config, endpoints, .. } = self;
        let time = now();
        let accepts = |id: i32| config.subscriptions.get(&id).is_some_and(|s| endpoints.accepts(s.endpoint, time));
        let next = [retries.next(accepts), endpoints.opens_at(time)].into_iter().flatten().min();
        next.map_or(Duration::MAX, |at| Duration::from_micros(at.saturating_sub(time).max(1000).unsigned_abs()))
    }

    /// Takes what came back from the HTTP thread and decides what becomes of each delivery.
    fn take_outcomes(&mut self) {
        let events = self.sender.take_events();
        if !events.is_empty() {
            events.into_iter().for_each(|event| self.endpoints.event(event));
            self.set_limits();
        }
        let (mut stopped, mut ended) = (Vec::new(), Vec::new());
        self.sender.take_done(&mut self.done);
        for done in self.done.drain(..) {
            let ticket = done.ticket;
            if ticket.run < 0 {
                self.errands.back(ticket.delivery_id);
                let fate = Fate::Manual(matches!(done.outcome, Outcome::Status(200..=299)));
                self.entries.push(Entry { done, segment: 0, fate });
                self.unrecorded_since.get_or_insert_with(Instant::now);
                continue;
            }
            let Some(handed) = self.handed.remove(&(ticket.subscription, ticket.position, ticket.run)) else {
                continue;
            };
            let fate = match self.config.subscriptions.get_mut(&ticket.subscription) {
                None => Fate::Dead("subscription_gone"),
                Some(subscription) => {
                    subscription.handed -= 1;
                    subscription.handed_bytes -= handed.bytes;
                    if ticket.delivery_id == 0 {
                        subscription.progress.settle(ticket.position);
                    }
                    let verdict = judge(&done, subscription, handed.max_attempts, handed.enqueued_at);
                    self.endpoints.note(&done, &verdict.fate, verdict.disable);
                    verdict.fate
                }
            };
            let fate = match fate {
                Fate::Failed(_) if self.window.is_cancelled(ticket.message_id) => Fate::Cancelled,
                Fate::Failed(due) if handed.expires.is_some_and(|at| at <= due) => Fate::Dead(EXPIRED),
                fate => fate,
            };
            if let Some(lane) = handed.lane {
                let blocks = self.config.subscriptions.get(&ticket.subscription).is_some_and(|s| s.block);
                match &fate {
                    Fate::Failed(_) => stopped.push((lane, ticket, "failed")),
                    Fate::Dead(_) if blocks => stopped.push((lane, ticket, "dead")),
                    Fate::Dead(_) => ended.push((lane, ticket, "dead")),
                    _ => ended.push((lane, ticket, "ended")),
                }
            }
            self.entries.push(Entry { done, segment: handed.segment, fate });
            self.unrecorded_since.get_or_insert_with(Instant::now);
        }
        for (lane, ticket, what) in stopped {
            self.stop_lane(lane, ticket, what);
        }
        for (lane, ticket, what) in ended {
            self.go_on(lane, ticket, what);
        }
    }

    /// A delivery with an order has failed: what waits behind it becomes rows.
    fn stop_lane(&mut self, lane: Lane, ticket: Ticket, what: &'static str) {
        for waiting in self.order.stop(&lane) {
            let position = waiting.stored.message.position;
            if let Some(subscription) = self.config.subscriptions.get_mut(&lane.0) {
                subscription.handed -= 1;
                subscription.handed_bytes -= waiting.stored.message.content.len();
                if waiting.delivery_id == 0 {
                    subscription.progress.settle(position);
                }
            }
            if waiting.delivery_id == 0 {
                self.window.block(lane.0, &waiting.stored, lane.1.clone(), waiting.expires);
            } else {
                self.retries.back(waiting.delivery_id);
                self.retries.at(lane.0, now());
            }
        }
        self.order.note(lane, ticket.position, ticket.message_id, what);
    }

    /// A delivery with an order has ended: the next of its key goes out.
    fn go_on(&mut self, lane: Lane, ticket: Ticket, what: &'static str) {
        let mut jobs = Vec::new();
        if let Some(next) = self.order.next(&lane)
            && let Some(subscription) = self.config.subscriptions.get_mut(&lane.0)
        {
            subscription.handed -= 1;
            subscription.handed_bytes -= next.stored.message.content.len();
            let Waiting { delivery_id, attempt, expires, run, new_id, .. } = next;
            let seat = Seat { delivery_id, attempt, expires, run, new_id };
            hand_out_as(&mut self.handed, &mut jobs, lane.0, subscription, &next.stored, seat);
        }
        self.sender.submit(jobs);
        if what == "dead" || self.order.has_rows(&lane) {
            self.order.note(lane, ticket.position, ticket.message_id, what);
        }
    }

    /// Records outcomes, routing and checkpoint in one transaction.
    fn record(&mut self) -> Result<(), String> {
        // A checkpoint behind a control message knows what that has changed.
        self.refresh()?;
        let mut subscriptions: Vec<_> =
            self.config.subscriptions.iter().filter_map(|(id, s)| Some((*id, s.progress.save()?))).collect();
        subscriptions.sort_unstable_by_key(|(id, _)| *id);
        let checkpoint = Checkpoint { routed: self.routed, subscriptions };
        let Engine {
            recorder,
            entries,
            routing,
            checkpoint_id,
            incarnation,
            window,
            endpoints,
            order,
            errands,
            decisions,
            tally,
            ..
        } = self;
        let write_endpoints = endpoints.write_in() == Some(Duration::ZERO);
        txn::run(|| {
            recorder.outcomes(entries)?;
            if write_endpoints {
                endpoints.write();
            }
            recorder.routing(routing);
            order.record();
            window.record();
            order.look();
            errands.record();
            decisions.record();
            tally.record()?;
            recorder.checkpoint(*checkpoint_id + 1, *incarnation, &checkpoint);
            Ok(())
        })?;
        self.checkpoint_id += 1;
        if write_endpoints {
            self.endpoints.written();
        }
        self.sender.recorded(self.entries.len());
        // Not before: until then the table shows a row as it was when it was handed out.
        for entry in self.entries.iter().filter(|entry| entry.done.ticket.run >= 0) {
            self.retries.back(entry.done.ticket.delivery_id);
            if let Fate::Failed(due) = entry.fate {
                self.retries.at(entry.done.ticket.subscription, due);
            }
        }
        for (subscription, due) in self.window.pushed() {
            self.retries.at(subscription, due);
        }
        self.tally.recorded();
        for id in self.decisions.recorded() {
            self.retries.back(id);
        }
        let rows_made = self.window.recorded();
        if self.order.recorded() {
            self.window.pass_now();
        }
        self.errands.recorded();
        self.entries.clear();
        self.routing.clear();
        self.unrecorded_since = None;
        if rows_made {
            self.window.tell_workers()?;
        }
        Ok(())
    }
}

/// Entries of outbox.routing: how many subscriptions matched, or why none did.
pub mod matched_as {
    use super::{Routed, topic};

    pub const NO_SUBSCRIPTION: i16 = -1;
    pub const FILTERED: i16 = -2;
    pub const CONTROL: i16 = -3;
    pub const GONE: i16 = -4;
    pub const INACTIVE: i16 = -5;

    /// The entry of a message that was routed.
    pub fn entry(of: &str, found: Routed) -> i16 {
        match found {
            _ if of == topic::CONTROL => CONTROL,
            Routed::NoSubscription => NO_SUBSCRIPTION,
            Routed::Filtered => FILTERED,
            Routed::Inactive => INACTIVE,
            Routed::Matched(n) => i16::try_from(n).unwrap_or(i16::MAX),
        }
    }
}

fn handed_limit(subscription: &Subscription) -> usize {
    match subscription.limit {
        (limit, until) if until != 0 && now() < until => limit,
        _ => HANDED_LIMIT,
    }
}

fn has_room(subscription: &Subscription) -> bool {
    subscription.handed < handed_limit(subscription) && subscription.handed_bytes < HANDED_BYTES
}

/// Whether a message changes the configuration.
pub fn is_control(stored: &Stored) -> bool {
    &*stored.message.topic == topic::CONTROL
}

/// What becomes of a message that a subscription matches, before anything is handed out.
fn judged(
    decisions: &mut Decisions,
    id: i32,
    subscription: &mut Subscription,
    stored: &Stored,
    verdict: &Verdict,
    room: bool,
    window: &mut Window,
) -> Taken {
    let decision = match verdict {
        Verdict::Later => return Taken::Full,
        Verdict::Broken(error) => Made::filter_failed(id, stored, error),
        _ if subscription.has_ended() => Made::unsubscribed(id, stored, 0),
        _ if room => return window.take(id, subscription, stored),
        _ => return Taken::Full,
    };
    decisions.push(decision);
    subscription.progress.decide(stored.message.position);
    Taken::Yes
}

/// The subscription that a control message is about; `None`: something else.
fn changed_subscription(stored: &Stored) -> Option<i32> {
    let content: serde_json::Value = serde_json::from_slice(&stored.message.content).ok()?;
    i32::try_from(content.get("subscription")?.as_i64()?).ok()
}

/// Among what is handed out together, higher priorities go first, except where a subscription asks for an order.
fn by_priority(jobs: &mut [Job], messages: &[Stored], config: &Config) {
    if messages.iter().all(|m| m.attributes.priority == 0) {
        return;
    }
    let unordered = |id: &i32| config.subscriptions.get(id).is_none_or(|s| s.ordering == super::config::Ordering::None);
    jobs.sort_by_key(|job| {
        let found = messages.binary_search_by_key(&job.ticket.position, |m| m.message.position);
        let priority = found.ok().map_or(0, |i| messages[i].attributes.priority);
        std::cmp::Reverse(if unordered(&job.ticket.subscription) { priority } else { 0 })
    });
}

/// A first delivery: the subscription's progress knows of it.
fn hand_out(
    handed: &mut HashMap<(i32, i64, i64), Handed>,
    jobs: &mut Vec<Job>,
    id: i32,
    subscription: &mut Subscription,
    stored: &Stored,
    order: &mut Order,
    window: &mut Window,
) {
    let expires = pull::expiry(subscription, stored);
    if let Some(lane) = order::lane(id, subscription, stored) {
        match order.first(&lane) {
            Turn::Send => {}
            Turn::Wait => {
                subscription.progress.hand_out(stored.message.position);
                subscription.handed += 1;
                subscription.handed_bytes += stored.message.content.len();
                let waiting =
                    Waiting { stored: stored.clone(), delivery_id: 0, attempt: 1, expires, run: 0, new_id: false };
                order.wait(&lane, waiting);
                return;
            }
            Turn::Row => {
                window.block(id, stored, lane.1, expires);
                return;
            }
        }
    }
    subscription.progress.hand_out(stored.message.position);
    let seat = Seat { delivery_id: 0, attempt: 1, expires, run: 0, new_id: false };
    hand_out_as(handed, jobs, id, subscription, stored, seat);
}

/// What is known of a try beyond its message.
struct Seat {
    /// Row of outbox.delivery; 0: none.
    delivery_id: i64,
    attempt: u32,
    expires: Option<i64>,
    /// 0: live; above 0: the replay of that id.
    run: i64,
    /// The webhook id gets the replay's suffix.
    new_id: bool,
}

fn hand_out_as(
    handed: &mut HashMap<(i32, i64, i64), Handed>,
    jobs: &mut Vec<Job>,
    id: i32,
    subscription: &mut Subscription,
    stored: &Stored,
    seat: Seat,
) {
    let own = stored.attributes.max_attempts.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
    let entry = Handed {
        segment: stored.segment,
        bytes: stored.message.content.len(),
        max_attempts: own.unwrap_or(subscription.max_attempts),
        expires: seat.expires,
        enqueued_at: stored.message.enqueued_at,
        lane: order::lane(id, subscription, stored),
    };
    subscription.handed += 1;
    subscription.handed_bytes += entry.bytes;
    handed.insert((id, stored.message.position, seat.run), entry);
    let message = if seat.new_id {
        let webhook_id = format!("{}_r{}", stored.message.webhook_id, seat.run).into();
        Arc::new(Message { webhook_id, ..Message::clone(&stored.message) })
    } else {
        Arc::clone(&stored.message)
    };
    jobs.push(Job {
        ticket: Ticket {
            subscription: id,
            endpoint: subscription.endpoint,
            position: stored.message.position,
            message_id: stored.message.id,
            delivery_id: seat.delivery_id,
            attempt: seat.attempt,
            run: seat.run,
        },
        message,
        shape: Arc::clone(&subscription.shape),
    });
}
