//! The dispatcher's work: tick, route, send, record.
//!
//! Calls to the store are short transactions, and none is open while requests run: one ticks and reads, a later one records.
//! `subscriptions` knows which subscription gets which message, and the transport talks to receivers. This file has the round
//! and its steps. The state is in parts, each in the file of the functions that change it: `engine/` has the tick, recovery,
//! loading of the configuration, routing, sending and outcomes.
//!
//! Invariants:
//! * No message is sent before the tick that numbered it has committed.
//! * An outcome is settled in memory at once, and in the database together with the checkpoint that contains it.
//! * A failed transaction changes nothing in memory that the next round cannot repeat.

mod loading;
mod outcomes;
mod recovery;
mod routing;
mod send;
mod ticks;
mod watch;

use std::time::Duration;

use outbox_sender::Settings;

use self::loading::Loading;
use self::outcomes::Unrecorded;
use self::recovery::{Incarnation, Recovery};
use self::routing::Routing;
pub use self::routing::{matched_as, transformed};
use self::send::Push;
use self::ticks::{TickOutcome, Ticks};
use crate::failure::Failure;
use crate::fault::Faults;
use crate::pull::blocked;
use crate::pull::window::{self, Window};
use crate::store::Store;
use crate::subscriptions::Subscription;
use crate::transport::Transport;

/// Messages that one tick numbers and one transaction reads.
const CHUNK: i32 = 1000;
/// Outcomes are recorded when there are this many, or after `RECORD_DELAY`. Rows for workers are recorded at once, if the last
/// record was that long ago: a worker waits for them.
const RECORD_BATCH: usize = 2000;
const RECORD_DELAY: Duration = Duration::from_millis(5);
/// Pause when another session holds the sequencer's lock.
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// When the next round begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wakeup {
    /// After this long, or when something sets the latch. Zero: at once.
    In(Duration),
    /// When the data has been adopted: it was copied from another database.
    Copied,
}

/// The dispatcher's state. A method of a part changes nothing but that part and its arguments; the engine's own methods are
/// those that concern several parts.
#[derive(Debug)]
pub struct Engine<S, T> {
    store: S,
    /// The faults that the steps have met.
    faults: Faults,
    ticks: Ticks,
    routing: Routing,
    loading: Loading,
    /// Rows of outbox.delivery that are to be made, and the windows of pull subscriptions.
    window: Window,
    push: Push<T>,
    unrecorded: Unrecorded,
    incarnation: Incarnation,
    wanted: Wanted,
}

/// The dispatcher's state, as other sessions may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Jobs that wait for their turn.
    pub queued: usize,
    /// Requests in flight.
    pub in_flight: usize,
    /// Outcomes that are not recorded.
    pub unrecorded: usize,
    /// The generation up to which messages have been ticked.
    pub generation: u64,
    /// There is work that the dispatcher could do.
    pub busy: bool,
}

/// Work that one function asks another one for. The step that does the work clears the flag, unless it fails and may succeed
/// later.
#[derive(Debug, Default)]
struct Wanted {
    /// Set when a session has changed deliveries: they are read again before the next message is routed.
    deliveries: bool,
    /// Set when settings have changed: the whole configuration is read again before the next message is routed.
    reload: bool,
    /// Set when a session has changed deliveries: there may be new manual sends.
    manual_sends: bool,
    /// Set when a session has changed deliveries: there may be new replays. Cleared by the process, which has the replays.
    replays: bool,
}

impl<S: Store, T: Transport> Engine<S, T> {
    /// Creates the dispatcher. Its first round continues from the last checkpoint.
    pub fn new(store: S, sender: T) -> Engine<S, T> {
        let now = store.instant();
        Engine {
            store,
            faults: Faults::new(),
            ticks: Ticks::default(),
            routing: Routing::new(),
            loading: Loading::default(),
            window: Window::default(),
            push: Push::new(sender, now),
            unrecorded: Unrecorded::default(),
            incarnation: Incarnation::default(),
            wanted: Wanted::default(),
        }
    }

    /// Takes over changed settings. The configuration depends on some of them, so it is read again.
    pub fn set_settings(&mut self, settings: Settings) {
        self.push.sender.set_settings(settings);
        self.wanted.reload = true;
    }

    /// Whether the HTTP thread lives.
    pub fn is_alive(&self) -> bool {
        self.push.sender.is_alive()
    }

    /// Whether the dispatcher has to continue from its checkpoint, as after a restart.
    pub fn must_restart(&self) -> bool {
        self.loading.must_restart
    }

    /// Whether the last tick found the sequencer's lock taken.
    pub fn is_locked_out(&self) -> bool {
        self.ticks.is_locked_out
    }

    /// Whether a session has changed deliveries or replays since the last call.
    pub fn take_replays_wanted(&mut self) -> bool {
        std::mem::take(&mut self.wanted.replays)
    }

    /// The last known position of the feed.
    pub fn end(&self) -> i64 {
        self.routing.end
    }

    /// The state, for other sessions.
    pub fn status(&self) -> Status {
        // The counts are read in the order in which a delivery passes through them, so no delivery is missed.
        let sender = &self.push.sender;
        let (queued, in_flight, unrecorded) = (sender.queued(), sender.in_flight(), sender.unrecorded());
        // A lagging subscription is no work for the dispatcher while its pull window is full, its endpoint takes nothing, it
        // is paused, or too many of its rows wait for their key.
        let to_do = |s: &Subscription| {
            !s.paused && if s.pull { window::has_work(s) } else { s.limit.0 > 0 && blocked::has_much_room(s) }
        };
        let lagging = self.routing.config.subscriptions.values().any(|s| s.progress.lag().is_some() && to_do(s));
        let busy = queued + in_flight + unrecorded > 0
            || self.unrecorded.since.is_some()
            || lagging
            || self.routing.is_behind()
            || self.ticks.more;
        Status { queued, in_flight, unrecorded, generation: self.ticks.generation, busy }
    }

    /// Stops the HTTP thread within `grace` and records the outcomes.
    pub fn shut_down(&mut self, grace: Duration) {
        if !self.incarnation.recovered {
            return;
        }
        self.push.sender.stop(grace);
        self.take_outcomes();
        if let Err(error) = self.record() {
            let store = &self.store;
            store.log(format_args!("outcomes could not be recorded at shutdown and will be repeated: {error}"));
        }
    }

    /// Runs one round: every step once, in this order.
    ///
    /// # Errors
    /// A step failed. The next round repeats it.
    pub fn round(&mut self) -> Result<Wakeup, Failure> {
        let poll = self.store.switches().poll_interval;
        if !self.incarnation.recovered {
            let generation = self.store.generation();
            match self.recover()? {
                Recovery::Own => {}
                Recovery::Copied => return Ok(Wakeup::Copied),
                Recovery::Busy => {
                    self.ticks.more = true;
                    return Ok(Wakeup::In(LOCK_WAIT));
                }
                Recovery::Nothing => {
                    self.ticks.generation = generation;
                    return Ok(Wakeup::In(poll));
                }
            }
        }
        let reload = self.load_again()?;
        self.take_outcomes();
        self.rescan_deliveries()?;
        // New messages come first: they wait for their first attempt.
        let Some(tick) = self.tick_if_due(poll)? else { return Ok(Wakeup::Copied) };
        let waits = [
            reload,
            tick,
            self.route_rest()?,
            self.catch_up_lagging()?,
            self.free_rows(poll)?,
            self.send()?,
            self.update_endpoints()?,
            self.record_if_due()?,
            self.next_send(),
        ];
        Ok(Wakeup::In(waits.into_iter().fold(poll, Duration::min)))
    }

    /// Reads what sessions have changed in outbox.delivery, outbox.cancelled and outbox._manual_send.
    fn rescan_deliveries(&mut self) -> Result<(), Failure> {
        let Engine { store, push, routing, window, wanted, .. } = self;
        if store.take_deliveries_changed() {
            (wanted.deliveries, wanted.manual_sends, wanted.replays) = (true, true, true);
        }
        if !wanted.deliveries {
            return Ok(());
        }
        push.give_back_rows(&mut routing.config, store.now());
        push.retries.rescan(&routing.config);
        window.pass_now();
        let changes = store.changes();
        wanted.deliveries = matches!(&changes, Err(failure) if failure.is_transient());
        let changes = changes?;
        push.order.rescan(changes.keys, window.blocked_keys());
        push.recall(window.set_cancelled(changes.cancelled));
        Ok(())
    }

    /// Ticks if a tick is due. Returns the time until the next one; `None` if the data turns out to be copied.
    fn tick_if_due(&mut self, poll: Duration) -> Result<Option<Duration>, Failure> {
        let generation = self.store.generation();
        let wait = self.ticks.wait(generation, poll, self.store.instant());
        if !wait.is_zero() {
            return Ok(Some(wait));
        }
        Ok(match self.tick()? {
            TickOutcome::Ticked => {
                self.ticks.generation = generation;
                Some(at_once_if(self.ticks.more || generation != self.store.generation()))
            }
            TickOutcome::Busy => Some(LOCK_WAIT),
            TickOutcome::Copied => None,
        })
    }

    /// Routes a part of the feed that the tick has not routed, if there is one.
    fn route_rest(&mut self) -> Result<Duration, Failure> {
        if self.routing.is_behind() {
            self.route_stored()?;
        }
        Ok(at_once_if(self.routing.is_behind()))
    }

    /// Gives lagging subscriptions what they have room for. Returns the time until one may have room again.
    fn catch_up_lagging(&mut self) -> Result<Duration, Failure> {
        let Engine { store, push, routing, window, .. } = self;
        window.recount(store, &mut routing.config)?;
        let blocked = push.blocked.recount(store, &mut routing.config, window)?;
        let again = self.transform_again();
        if self.catch_up()? || again {
            return Ok(Duration::ZERO);
        }
        let (config, now) = (&self.routing.config, self.store.instant());
        let moment = Duration::from_millis(1);
        let full = self.window.recount_in(config, now).map(|wait| wait.max(moment));
        let slow = config.subscriptions.values().filter(|s| s.progress.lag().is_some() && !s.may_be_asked(now));
        let slow = slow.filter_map(|s| s.slow_until).min();
        let slow = slow.map(|until| until.saturating_duration_since(now) + moment);
        Ok([blocked, full, slow].into_iter().flatten().min().unwrap_or(Duration::MAX))
    }

    /// Frees rows that wait for a lease or a key. Returns the time until the next pass.
    fn free_rows(&mut self, poll: Duration) -> Result<Duration, Failure> {
        let wait = self.window.pass(&mut self.store, || self.push.retries.in_flight(), poll)?;
        if self.window.take_promoted() {
            self.push.retries.rescan(&self.routing.config);
        }
        Ok(wait)
    }

    /// Sends the rows that are due, and manual sends.
    fn send(&mut self) -> Result<Duration, Failure> {
        if !self.store.switches().push {
            return Ok(Duration::MAX);
        }
        let Engine { push, store, routing, window, unrecorded, wanted, .. } = self;
        push.send_due(store, &mut routing.config, window, unrecorded)?;
        if wanted.manual_sends {
            let waiting = push.manual_sends.read(store, &routing.config);
            wanted.manual_sends = matches!(&waiting, Err(failure) if failure.is_transient());
            let (jobs, unsent, more) = waiting?;
            wanted.manual_sends |= more;
            push.sender.submit(jobs);
            unsent.into_iter().for_each(|entry| unrecorded.add(entry, store.instant()));
        }
        Ok(if wanted.manual_sends { Duration::ZERO } else { Duration::MAX })
    }

    /// Asks endpoints for consent, and has changed states of endpoints recorded. Returns the time until either is due.
    fn update_endpoints(&mut self) -> Result<Duration, Failure> {
        let Push { consents, sender, endpoints, .. } = &mut self.push;
        let ask = consents.round(&mut self.store, sender, &mut self.faults)?;
        let now = self.store.instant();
        let write = endpoints.write_in(now);
        if write == Some(Duration::ZERO) {
            self.unrecorded.begin(now);
        }
        Ok([ask, write.filter(|wait| !wait.is_zero())].into_iter().flatten().min().unwrap_or(Duration::MAX))
    }

    /// Records outcomes if there are enough, or if they have waited long enough. Returns the time until then.
    fn record_if_due(&mut self) -> Result<Duration, Failure> {
        let Some(oldest) = self.unrecorded.since else { return Ok(Duration::MAX) };
        let rows = self.window.rows();
        let since = if rows > 0 { self.unrecorded.recorded_at } else { Some(oldest) };
        let age = since.map_or(RECORD_DELAY, |since| self.store.instant().saturating_duration_since(since));
        if self.unrecorded.len() + rows < RECORD_BATCH && age < RECORD_DELAY {
            return Ok(RECORD_DELAY - age);
        }
        self.record()?;
        // Keys that the record has unblocked continue at once.
        Ok(at_once_if(self.window.passes_now()))
    }

    /// The time until a row is due.
    fn next_send(&self) -> Duration {
        if self.store.switches().push {
            self.push.due_in(&self.routing.config, self.store.now())
        } else {
            Duration::MAX
        }
    }
}

/// The wait of a step that has more to do, or nothing.
fn at_once_if(more: bool) -> Duration {
    if more { Duration::ZERO } else { Duration::MAX }
}
