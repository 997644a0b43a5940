//! The dispatcher's work: tick, route, send, record.
//!
//! Transactions are short, and none is open while requests run: one ticks and reads, a later one records. `feed` reads the
//! feed, `outcome::record` writes outcomes, `subscriptions` knows which subscription gets which message, and `outbox-sender`
//! talks to receivers. This file has the round and its steps. The state is in parts, each in the file of the functions that
//! change it: `engine/` has the tick, recovery, loading of the configuration, routing, sending and outcomes.
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

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use outbox_sender::{Sender, Settings};
use pgrx::pg_sys::{INT8ARRAYOID, TEXTARRAYOID};

use self::loading::Loading;
use self::outcomes::Unrecorded;
use self::recovery::{Incarnation, Recovery};
use self::routing::Routing;
pub use self::routing::{is_control, matched_as};
use self::send::Push;
use self::ticks::{TickOutcome, Ticks};
use crate::dispatch::feed::{Reader, reading};
use crate::dispatch::outcome::record::Recorder;
use crate::dispatch::pull::blocked;
use crate::dispatch::pull::window::{self, Window};
use crate::dispatch::subscriptions::{Loader, Subscription};
use crate::pg::txn::{self, Failure, Plan};
use crate::settings;
use crate::shared::shmem::Slot;
use crate::worker::fault::Faults;

/// Messages that one tick numbers and one transaction reads.
const CHUNK: i32 = 1000;
/// Outcomes are recorded when there are this many, or after `RECORD_DELAY`.
const RECORD_BATCH: usize = 2000;
const RECORD_DELAY: Duration = Duration::from_millis(5);
/// Pause when another session holds the sequencer's lock.
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// When the next round begins.
pub enum Wakeup {
    /// After this long, or when something sets the latch. Zero: at once.
    In(Duration),
    /// When the data has been adopted: it was copied from another database.
    Copied,
}

/// The dispatcher's state. A method of a part changes nothing but that part and its arguments; the engine's own methods are
/// those that concern several parts.
pub struct Engine {
    slot: &'static Slot,
    store: Store,
    ticks: Ticks,
    routing: Routing,
    loading: Loading,
    /// Rows of outbox.delivery that are to be made, and the windows of pull subscriptions.
    window: Window,
    push: Push,
    unrecorded: Unrecorded,
    incarnation: Incarnation,
    wanted: Wanted,
}

/// Statements that several steps use, and the faults that the steps have met. It has no state of the stream.
struct Store {
    reader: Reader,
    loader: Loader,
    recorder: Recorder,
    /// Makes rows dead letters.
    dead_letter: Plan,
    faults: Faults,
}

/// Work that one function asks another one for. The step that does the work clears the flag, unless it fails and may succeed
/// later.
#[derive(Default)]
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

impl Engine {
    pub fn new(slot: &'static Slot, sender: Sender) -> Engine {
        Engine {
            slot,
            store: Store {
                reader: Reader::new(),
                loader: Loader::new(),
                recorder: Recorder::new(),
                dead_letter: Plan::new(
                    "select outbox_internal.dead_letter_deliveries($1, $2, true, $3)",
                    &[INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID],
                ),
                faults: Faults::new(),
            },
            ticks: Ticks::default(),
            routing: Routing::new(),
            loading: Loading::default(),
            window: Window::new(),
            push: Push::new(sender),
            unrecorded: Unrecorded::new(),
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

    /// Shows the state to other sessions.
    pub fn publish(&self) {
        // The counts are read in the order in which a delivery passes through them, so no delivery is missed.
        let sender = &self.push.sender;
        let (queued, in_flight, unrecorded) = (sender.queued(), sender.in_flight(), sender.unrecorded());
        self.slot.queued.store(queued as i64, Ordering::Relaxed);
        self.slot.in_flight.store(in_flight as i64, Ordering::Relaxed);
        self.slot.unrecorded.store(unrecorded as i64, Ordering::Relaxed);
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
        self.slot.publish(self.ticks.generation, busy);
    }

    /// Stops the HTTP thread within `grace` and records the outcomes.
    pub fn shut_down(&mut self, grace: Duration) {
        if !self.incarnation.recovered {
            return;
        }
        self.push.sender.stop(grace);
        self.take_outcomes();
        if let Err(error) = self.record() {
            pgrx::log!(
                "pg_outbox dispatcher: outcomes could not be recorded at shutdown and will be repeated: {error}"
            );
        }
    }

    /// Runs one round: every step once, in this order.
    pub fn round(&mut self) -> Result<Wakeup, Failure> {
        let poll = Duration::from_millis(settings::POLL_INTERVAL.get() as u64);
        if !self.incarnation.recovered {
            let generation = self.slot.generation();
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
        let Engine { slot, push, routing, window, wanted, .. } = self;
        if slot.deliveries_changed.swap(false, Ordering::SeqCst) {
            (wanted.deliveries, wanted.manual_sends, wanted.replays) = (true, true, true);
        }
        if !wanted.deliveries {
            return Ok(());
        }
        push.give_back_rows(&mut routing.config);
        push.retries.rescan(&routing.config);
        window.pass_now();
        let cancelled = txn::run(|| {
            push.order.rescan(window.blocked_keys());
            // Last, because messages count as cancelled from here on: they are returned once.
            Ok(window.load_cancelled())
        });
        wanted.deliveries = matches!(&cancelled, Err(failure) if failure.is_transient());
        push.recall(cancelled?);
        Ok(())
    }

    /// Ticks if a tick is due. Returns the time until the next one; `None` if the data turns out to be copied.
    fn tick_if_due(&mut self, poll: Duration) -> Result<Option<Duration>, Failure> {
        let generation = self.slot.generation();
        let wait = self.ticks.wait(generation, poll);
        if !wait.is_zero() {
            return Ok(Some(wait));
        }
        Ok(match self.tick()? {
            TickOutcome::Ticked => {
                self.ticks.generation = generation;
                Some(at_once_if(self.ticks.more || generation != self.slot.generation()))
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
        let Engine { push, routing, window, .. } = self;
        window.recount(&mut routing.config)?;
        let blocked = push.blocked.recount(&mut routing.config, window)?;
        if self.catch_up()? {
            return Ok(Duration::ZERO);
        }
        let config = &self.routing.config;
        let moment = Duration::from_millis(1);
        let full = self.window.recount_in(config).map(|wait| wait.max(moment));
        let slow = config.subscriptions.values().filter(|s| s.progress.lag().is_some() && !s.may_be_asked());
        let slow = slow.filter_map(|s| s.slow_until).min();
        let slow = slow.map(|until| until.saturating_duration_since(Instant::now()) + moment);
        Ok([blocked, full, slow].into_iter().flatten().min().unwrap_or(Duration::MAX))
    }

    /// Frees rows that wait for a lease or a key. Returns the time until the next pass.
    fn free_rows(&mut self, poll: Duration) -> Result<Duration, Failure> {
        let wait = self.window.pass(|| self.push.retries.in_flight(), poll)?;
        if self.window.take_promoted() {
            self.push.retries.rescan(&self.routing.config);
        }
        Ok(wait)
    }

    /// Sends the rows that are due, and manual sends.
    fn send(&mut self) -> Result<Duration, Failure> {
        if !settings::PUSH.get() {
            return Ok(Duration::MAX);
        }
        let Engine { push, store, routing, window, unrecorded, wanted, .. } = self;
        push.send_due(store, &mut routing.config, window, unrecorded)?;
        if wanted.manual_sends {
            let (manual_sends, config) = (&mut push.manual_sends, &routing.config);
            let waiting = reading(&mut store.reader, |reader| Ok(manual_sends.read(reader, config)));
            wanted.manual_sends = matches!(&waiting, Err(failure) if failure.is_transient());
            let (jobs, unsent) = manual_sends.take(waiting?);
            push.sender.submit(jobs);
            unsent.into_iter().for_each(|entry| unrecorded.add(entry));
        }
        Ok(Duration::MAX)
    }

    /// Asks endpoints for consent, and has changed states of endpoints recorded. Returns the time until either is due.
    fn update_endpoints(&mut self) -> Result<Duration, Failure> {
        let Push { consents, sender, endpoints, .. } = &mut self.push;
        let ask = consents.round(sender, &mut self.store.faults)?;
        let write = endpoints.write_in();
        if write == Some(Duration::ZERO) {
            self.unrecorded.begin();
        }
        Ok([ask, write.filter(|wait| !wait.is_zero())].into_iter().flatten().min().unwrap_or(Duration::MAX))
    }

    /// Records outcomes if there are enough, or if they have waited long enough. Returns the time until then.
    fn record_if_due(&mut self) -> Result<Duration, Failure> {
        let Some(since) = self.unrecorded.since else { return Ok(Duration::MAX) };
        let age = since.elapsed();
        if self.unrecorded.len() + self.window.rows() < RECORD_BATCH && age < RECORD_DELAY {
            return Ok(RECORD_DELAY - age);
        }
        self.record()?;
        // Keys that the record has unblocked continue at once.
        Ok(at_once_if(self.window.passes_now()))
    }

    /// The time until a row is due.
    fn next_send(&self) -> Duration {
        if settings::PUSH.get() { self.push.due_in(&self.routing.config) } else { Duration::MAX }
    }
}

/// The wait of a step that has more to do, or nothing.
fn at_once_if(more: bool) -> Duration {
    if more { Duration::ZERO } else { Duration::MAX }
}
