//! The dispatcher's work: tick, route, send, record.
//!
//! Transactions are short, and none is open while requests run: one ticks and reads, a later one records. `route` reads the
//! feed, `record` writes outcomes, `config` knows which subscription gets which message, and `outbox-sender` talks to
//! receivers. This file has the round, recovery, the configuration and the tick; `engine/` has routing, sending and
//! outcomes.
//!
//! Invariants:
//! * No message is sent before the tick that numbered it has committed.
//! * An outcome is settled in memory at once, and in the database together with the checkpoint that contains it.
//! * A failed transaction changes nothing in memory that the next round cannot repeat.

mod outcomes;
mod routing;
mod send;
mod watch;

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use outbox_core::ids::IdMap;
use outbox_core::progress::Progress;
use outbox_sender::{Done, Endpoint, Sender};
use pgrx::pg_sys::{INT8ARRAYOID, TEXTARRAYOID};

pub use self::routing::{is_control, matched_as};
use self::send::InFlight;
use self::watch::Watch;
use crate::dispatch::feed::Reader;
use crate::dispatch::feed::reading;
use crate::dispatch::outcome::decisions::Decisions;
use crate::dispatch::outcome::message_counters::MessageCounters;
use crate::dispatch::outcome::record::Checkpoint;
use crate::dispatch::outcome::record::Entry;
use crate::dispatch::outcome::record::Recorder;
use crate::dispatch::outcome::record::RoutingRow;
use crate::dispatch::payload_filter::Predicates;
use crate::dispatch::pull::blocked;
use crate::dispatch::pull::blocked::Blocked;
use crate::dispatch::pull::ordering::Order;
use crate::dispatch::pull::window;
use crate::dispatch::pull::window::Window;
use crate::dispatch::push::consent::Consents;
use crate::dispatch::push::endpoints::Endpoints;
use crate::dispatch::push::manual_send::ManualSends;
use crate::dispatch::push::retries::Retries;
use crate::dispatch::subscriptions::Config;
use crate::dispatch::subscriptions::Loader;
use crate::dispatch::subscriptions::Subscription;
use crate::pg::txn;
use crate::pg::txn::Failure;
use crate::pg::txn::Plan;
use crate::settings;
use crate::shared::shmem::Slot;
use crate::worker::fault::Faults;
use crate::worker::fault::Kind;

/// Messages that one tick numbers and one transaction reads.
const CHUNK: i32 = 1000;
/// Outcomes are recorded when there are this many, or after `RECORD_DELAY`.
const RECORD_BATCH: usize = 2000;
const RECORD_DELAY: Duration = Duration::from_millis(5);
/// After a tick that found at least `BUSY_TICK` messages, the next tick waits for `BUSY_INTERVAL`. So a busy database is
/// ticked about 200 times a second.
const BUSY_TICK: usize = 64;
const BUSY_INTERVAL: Duration = Duration::from_millis(5);
/// Pause when another session holds the sequencer's lock.
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// How often unreadable settings are read again.
const LOAD_AGAIN: Duration = Duration::from_secs(10);

/// The result of a round.
pub enum Round {
    /// There is more to do.
    Again,
    /// There is nothing to do for this long, unless something sets the latch.
    Sleep(Duration),
    /// The data was copied from another database.
    Copied,
}

/// The data that recovery has found.
enum Found {
    /// The data is this database's own.
    Own,
    /// The data was copied from another database.
    Copied,
    /// There is no data yet.
    Nothing,
    /// Another session holds the sequencer's lock.
    Busy,
}

/// The dispatcher's state.
pub struct Engine {
    slot: &'static Slot,
    pub sender: Sender,
    watch: Watch,
    reader: Reader,
    loader: Loader,
    recorder: Recorder,
    window: Window,
    blocked: Blocked,
    predicates: Predicates,
    decisions: Decisions,
    message_counters: MessageCounters,
    faults: Faults,
    bury: Plan,
    retries: Retries,
    order: Order,
    manual_sends: ManualSends,
    look_for_errands: bool,
    config: Config,
    endpoints: Endpoints,
    consents: Consents,
    recovered: bool,
    reload: bool,
    /// Subscriptions whose settings cannot be read. They lag.
    held: HashSet<i32>,
    /// When unreadable settings are read again.
    load_again: Option<Instant>,
    /// An unreadable subscription can be read again: the dispatcher has to continue from its checkpoint.
    pub must_restart: bool,
    /// Subscriptions to read again before the next message is routed.
    changed: Vec<i32>,
    /// The configuration includes all control messages up to this position.
    horizon: i64,
    /// Whether the last tick found the sequencer's lock taken.
    pub is_locked_out: bool,
    /// A session has asked the dispatcher to look at deliveries, or at replays.
    pub looked: bool,
    incarnation: i64,
    checkpoint_id: i64,
    /// Position up to which the feed is routed.
    routed: i64,
    /// Last known position of the feed.
    end: i64,
    /// Deliveries in flight: the HTTP thread has them.
    in_flight: IdMap<(i32, i64, i64), InFlight>,
    done: Vec<Done>,
    entries: Vec<Entry>,
    routing: Vec<RoutingRow>,
    unrecorded_since: Option<Instant>,
    /// How often recording has failed in a row.
    record_failures: u32,
    generation: u64,
    last_tick: Option<Instant>,
    last_found: usize,
    /// The last tick left messages that it has not numbered.
    tick_more: bool,
}

impl Engine {
    pub fn new(slot: &'static Slot, sender: Sender) -> Engine {
        Engine {
            slot,
            sender,
            watch: Watch::new(),
            reader: Reader::new(),
            loader: Loader::new(),
            recorder: Recorder::new(),
            window: Window::new(),
            blocked: Blocked::new(),
            predicates: Predicates::new(),
            decisions: Decisions::new(),
            message_counters: MessageCounters::default(),
            faults: Faults::new(),
            bury: Plan::new(
                "select outbox._dead_letter_deliveries($1, $2, true, $3)",
                &[INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID],
            ),
            retries: Retries::new(),
            order: Order::new(),
            manual_sends: ManualSends::new(),
            look_for_errands: true,
            config: Config::default(),
            endpoints: Endpoints::new(),
            consents: Consents::new(),
            recovered: false,
            reload: false,
            held: HashSet::new(),
            load_again: None,
            must_restart: false,
            changed: Vec::new(),
            horizon: 0,
            looked: false,
            is_locked_out: false,
            incarnation: 0,
            checkpoint_id: 0,
            routed: 0,
            end: 0,
            in_flight: IdMap::default(),
            done: Vec::new(),
            entries: Vec::new(),
            routing: Vec::new(),
            unrecorded_since: None,
            record_failures: 0,
            generation: 0,
            last_tick: None,
            last_found: 0,
            tick_more: false,
        }
    }

    /// Has the configuration read again before the next message is routed.
    pub fn reload(&mut self) {
        self.reload = true;
    }

    /// The last known position of the feed.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Shows the state to other sessions.
    pub fn publish(&self) {
        // The counts are read in the order in which a delivery passes through them, so no delivery is missed.
        let queued = self.sender.queued();
        let in_flight = self.sender.in_flight();
        let unrecorded = self.sender.unrecorded();
        self.slot.queued.store(queued as i64, Ordering::Relaxed);
        self.slot.in_flight.store(in_flight as i64, Ordering::Relaxed);
        self.slot.unrecorded.store(unrecorded as i64, Ordering::Relaxed);
        let to_record = self.unrecorded_since.is_some();
        // A lagging subscription is no work for the dispatcher while its pull window is full, its endpoint takes nothing, it
        // is paused, or too many of its rows wait for their key.
        let to_do = |s: &Subscription| {
            !s.paused && if s.pull { window::has_work(s) } else { s.limit.0 > 0 && blocked::has_much_room(s) }
        };
        let lagging = self.config.subscriptions.values().any(|s| s.progress.lag().is_some() && to_do(s));
        let busy =
            queued + in_flight + unrecorded > 0 || to_record || lagging || self.routed < self.end || self.tick_more;
        self.slot.publish(self.generation, busy);
    }

    /// Stops the HTTP thread within `grace` and records the outcomes.
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

    /// Runs one round.
    pub fn round(&mut self) -> Result<Round, Failure> {
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
                    return Ok(Round::Sleep(Duration::from_millis(settings::POLL_INTERVAL.get() as u64)));
                }
            }
        }
        let poll = Duration::from_millis(settings::POLL_INTERVAL.get() as u64);
        let mut pause = poll;
        if let Some(at) = self.load_again {
            self.reload |= at <= Instant::now();
            pause = pause.min(at.saturating_duration_since(Instant::now()));
            self.refresh()?;
        }
        let mut again = false;
        self.take_outcomes();

        let look = self.slot.deliveries_changed.swap(false, Ordering::SeqCst);
        self.looked |= look;
        if look {
            self.give_back_rows();
            self.retries.rescan(&self.config);
            self.window.pass_now();
            self.look_for_errands = true;
            let Engine { window, order, .. } = self;
            let called_off = txn::run(|| {
                let called_off = window.load_cancelled();
                order.rescan();
                Ok(called_off)
            })?;
            if !self.in_flight.is_empty() {
                self.sender.call_off(called_off);
            }
        }
        // New messages come first: they wait for their first attempt.
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
        self.window.recount(&mut self.config)?;
        if let Some(wait) = self.blocked.recount(&mut self.config, &self.window)? {
            pause = pause.min(wait);
        }
        again |= self.catch_up()?;
        if let Some(wait) = self.window.recount_in(&self.config) {
            pause = pause.min(wait.max(Duration::from_millis(1)));
        }
        let lagging = self.config.subscriptions.values().filter(|s| s.progress.lag().is_some() && !s.may_be_asked());
        if let Some(until) = lagging.filter_map(|s| s.slow_until).min() {
            pause = pause.min(until.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        }
        pause = pause.min(self.window.pass(|| self.retries.in_flight(), poll)?);
        if self.window.take_promoted() {
            self.retries.rescan(&self.config);
        }

        if settings::PUSH.get() {
            self.send_due()?;
            if std::mem::take(&mut self.look_for_errands) {
                let Engine { manual_sends, reader, config, .. } = self;
                let look = reading(reader, |reader| Ok(manual_sends.read(reader, config)))?;
                let (jobs, unsent) = manual_sends.take(look);
                self.sender.submit(jobs);
                if !unsent.is_empty() {
                    self.entries.extend(unsent);
                    self.unrecorded_since.get_or_insert_with(Instant::now);
                }
            }
        }
        if let Some(wait) = self.consents.round(&self.sender, &mut self.faults)? {
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
                // Keys that the record has unblocked continue at once.
                again |= self.window.passes_now();
            } else {
                pause = pause.min(RECORD_DELAY - age);
            }
        }
        if settings::PUSH.get() {
            pause = pause.min(self.due_in());
        }
        Ok(if again { Round::Again } else { Round::Sleep(pause) })
    }

    /// Continues from the last checkpoint. An outbox in which nothing was ever enqueued is left alone: a restore may be
    /// about to load the original's rows.
    fn recover(&mut self) -> Result<Found, Failure> {
        let Engine { reader, recorder, .. } = self;
        let ticked = txn::run(|| Ok(reader.tick(CHUNK)))?;
        self.tick_more = ticked.more;
        self.is_locked_out = &*ticked.status == "busy";
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
        window::recover(&mut self.config);
        // Cancelled messages are read before any message is sent.
        self.slot.deliveries_changed.store(false, Ordering::SeqCst);
        let Engine { window, order, blocked, config, .. } = self;
        txn::run(|| {
            let _ = window.load_cancelled();
            order.rescan();
            blocked.count_all(config);
            Ok(())
        })?;
        for (subscription, saved) in checkpoint.subscriptions {
            let Some(known) = self.config.subscriptions.get_mut(&subscription) else { continue };
            known.progress = Progress::behind(saved.position);
            known.progress.catch_up(saved.position, checkpoint.routed);
            if self.held.contains(&subscription) {
                saved.open.iter().for_each(|position| known.progress.hand_out(*position));
                continue;
            }
            self.deliver_again(subscription, &saved.open)?;
        }
        self.retries.rescan(&self.config);
        self.recovered = true;
        Ok(Found::Own)
    }

    fn load_config(&mut self) -> Result<(), Failure> {
        // A transaction that begins now sees everything that has been numbered so far.
        let (horizon, begun) = (self.end, if self.recovered { 0 } else { self.routed });
        let Engine { loader, endpoints, .. } = self;
        let (mut new, configured) = match txn::run(|| Ok((loader.load(begun)?, endpoints.load()))) {
            Err(failure) if !failure.is_transient() => self.load_apart(begun)?,
            loaded => {
                // A subscription that was unreadable and can be read again continues from the checkpoint, as after a
                // restart.
                self.must_restart |= !self.held.is_empty();
                self.faults.loaded(Kind::Subscription, &[])?;
                self.faults.loaded(Kind::Endpoint, &[])?;
                self.load_again = None;
                loaded?
            }
        };
        new.carry_over(&mut self.config);
        self.config = new;
        self.config.begin(self.routed);
        self.consents.endpoints_set(configured.iter().map(|endpoint| endpoint.id));
        self.sender.set_endpoints(configured);
        self.set_limits();
        self.reload = false;
        self.changed.clear();
        self.horizon = horizon;
        Ok(())
    }

    /// Reads the configuration item by item. An unreadable subscription lags and an unreadable endpoint takes nothing; both
    /// are read again after `LOAD_AGAIN`.
    fn load_apart(&mut self, begun: i64) -> Result<(Config, Vec<Endpoint>), Failure> {
        let Engine { loader, endpoints, routed, faults, .. } = self;
        let loaded = txn::run(|| Ok((loader.load_apart(begun, *routed)?, endpoints.load_apart()?)))?;
        let ((config, subscriptions), (configured, faulted)) = loaded;
        for (kind, failed) in [(Kind::Subscription, &subscriptions), (Kind::Endpoint, &faulted)] {
            failed.iter().for_each(|(id, failure)| faults.found(kind, (*id).into(), "load", failure));
            faults.loaded(kind, &failed.iter().map(|(id, _)| (*id).into()).collect::<Vec<_>>())?;
        }
        faults.write();
        let held: HashSet<i32> = subscriptions.iter().map(|(id, _)| *id).collect();
        self.must_restart |= !self.held.is_subset(&held);
        self.held = held;
        self.load_again = Some(Instant::now() + LOAD_AGAIN);
        Ok((config, configured))
    }

    /// Reads the changed parts of the configuration.
    fn refresh(&mut self) -> Result<(), Failure> {
        if self.reload {
            return self.load_config();
        }
        if !self.changed.is_empty() {
            let Engine { loader, config, changed, .. } = self;
            match txn::run(|| loader.load_these(config, changed, 0)) {
                Err(failure) if !failure.is_transient() => return self.load_config(),
                loaded => loaded?,
            }
            self.changed.clear();
            self.config.begin(self.routed);
            self.set_limits();
        }
        Ok(())
    }

    /// Limits the jobs that a subscription may have with the HTTP thread to the number that its endpoint takes.
    fn set_limits(&mut self) {
        for subscription in self.config.subscriptions.values_mut() {
            subscription.limit = self.endpoints.limit(subscription.endpoint);
        }
    }

    /// Runs the sequencer and routes the messages that it numbered. Returns `false` if another session holds the sequencer's
    /// lock, or if the data turns out to be copied.
    fn tick(&mut self) -> Result<bool, Failure> {
        let Engine { reader, end, routed, window, .. } = self;
        let (end_before, caught_up) = (*end, end == routed);
        let (ticked, messages) = reading(reader, |reader| {
            let ticked = reader.tick(CHUNK);
            // The messages are read in the same transaction, and used only after it has committed.
            let messages = (caught_up && ticked.first == end_before + 1 && !ticked.ids.is_empty())
                .then(|| reader.messages(ticked.first, &ticked.ids, &ticked.segments));
            window.load_cancelled_among(messages.as_ref().map_or(&[], |(messages, _)| messages));
            Ok((ticked, messages))
        })?;
        self.is_locked_out = &*ticked.status == "busy";
        match &*ticked.status {
            "busy" => return Ok(false),
            "ticked" | "idle" => {}
            // Another database's data was restored over this one's.
            "copied" => {
                self.recovered = false;
                return Ok(false);
            }
            other => return Err(Failure::new(format!("the sequencer refuses: {other}"))),
        }
        self.last_tick = Some(Instant::now());
        self.last_found = ticked.ids.len();
        self.tick_more = ticked.more;
        self.end = self.end.max(ticked.last);
        if let Some((messages, read)) = messages {
            self.route(&messages, ticked.first + read as i64 - 1)?;
        }
        Ok(true)
    }
}
