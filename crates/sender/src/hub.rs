//! The queues of all endpoints, and the choice of the next request.
//!
//! All tasks run on one thread and one runtime, so plain cells replace locks. The task of a connection takes a job, sends
//! it, reports the outcome and directly takes the next job of its endpoint. It waits only if its endpoint has no job that
//! may be sent.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use outbox_core::ids::IdMap;
use outbox_core::policy::{Action, Fault, Outcome, health};
use tokio::sync::{mpsc, oneshot};

use crate::connect::Reach;
use crate::gate::{Gate, Pass};
use crate::queue::{Load, Nothing, Queue};
use crate::request::{self, Attempt};
use crate::timer::Timer;
use crate::{
    Answer, Command, Done, Endpoint, Event, Job, Mode, Pulse, Saved, Settings, Shared, Shortage, Ticket, consent, tls,
};

/// The main thread is woken when there are this many outcomes, or when the first outcome is `WAKE_DELAY` old. Taking
/// outcomes one by one would cost the main thread more, and no request waits for an outcome to be recorded.
const WAKE_BATCH: usize = 512;
/// See `WAKE_BATCH`.
const WAKE_DELAY: Duration = Duration::from_millis(2);

/// How long a connection without work is kept open.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A request that has been in flight for longer than this is overdue, and its endpoint slow.
const OVERDUE: Duration = Duration::from_secs(1);

/// The interval at which the thread shows that it is alive, and looks for overdue requests.
const BEAT: Duration = Duration::from_millis(250);

/// The largest number of waiting endpoints that are checked when a request has ended.
const TURNS: usize = 32;

/// The wait of a request that met a shortage of this machine.
const SHORTAGE_WAIT: Duration = Duration::from_millis(500);

/// The number of idle connections that are closed on a shortage of this machine.
const RELIEF: usize = 16;

pub(crate) struct Hub {
    settings: RefCell<Rc<Settings>>,
    endpoints: RefCell<HashMap<i32, Rc<Target>>>,
    /// Endpoints whose jobs are held back only by the common limits, in the order of their turns.
    waiting: RefCell<VecDeque<i32>>,
    /// The same for endpoints that were slow.
    waiting_slow: RefCell<VecDeque<i32>>,
    /// All connections and their current requests.
    flights: RefCell<IdMap<u64, Rc<Flight>>>,
    serial: Cell<u64>,
    /// The number of overdue requests.
    overdue: Cell<usize>,
    /// The number of requests in flight that were sent to slow endpoints.
    slow: Cell<usize>,
    /// The number of requests in flight.
    in_flight: Cell<usize>,
    /// The number of jobs in flight.
    flying: Cell<usize>,
    batches: Cell<u64>,
    stopping: Cell<bool>,
    shared: Arc<Shared>,
    wake: Box<dyn Fn() + Send>,
}

/// An endpoint with its configuration, its queue and its connections.
pub(crate) struct Target {
    id: i32,
    config: RefCell<Rc<Endpoint>>,
    queue: RefCell<Queue>,
    gate: RefCell<Gate>,
    saved: Cell<Saved>,
    reach: Reach,
    busy: Cell<usize>,
    /// Whether the endpoint has overdue requests, or its last request was overdue. A slow endpoint gets only a part of the
    /// common limits.
    slow: Cell<bool>,
    /// Whether the last request that ended got no answer.
    silent: Cell<bool>,
    /// Idle connections, the most recently used last, each with the serial number of the moment at which it became idle.
    idle: RefCell<Vec<(u64, oneshot::Sender<Work>)>>,
    waiting: Cell<bool>,
    /// No connection is opened before this time (microseconds since 1970), because this machine had a shortage.
    short_until: Cell<i64>,
    /// The time at which a timer will pump the endpoint again. `i64::MAX`: no timer is set.
    timer: Cell<i64>,
}

impl Target {
    pub(crate) fn config(&self) -> Rc<Endpoint> {
        Rc::clone(&self.config.borrow())
    }

    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }
}

/// A request that was taken from its queue for a connection.
struct Work {
    load: Load,
    /// Whether the request is the probe, whose outcome decides whether the breaker closes.
    probe: bool,
    /// Whether the endpoint was slow when the request was taken.
    slow: bool,
    /// When the request was taken (microseconds since 1970).
    at: i64,
}

/// The current request of a connection.
struct Flight {
    target: Rc<Target>,
    /// When the request began (microseconds since 1970). 0: the connection has no request.
    since: Cell<i64>,
    overdue: Cell<bool>,
}

/// The state of this thread that other threads can see.
#[derive(Default)]
pub(crate) struct Heart {
    beats: AtomicU64,
    /// The ticket of the request that the thread is working on right now. Endpoint 0: none.
    endpoint: AtomicI32,
    subscription: AtomicI32,
    position: AtomicI64,
    message_id: AtomicI64,
    delivery_id: AtomicI64,
    attempt: AtomicU32,
    run: AtomicI64,
}

impl Heart {
    pub(crate) fn read(&self) -> Pulse {
        let endpoint = self.endpoint.load(Ordering::Acquire);
        let at = (endpoint != 0).then(|| Ticket {
            endpoint,
            subscription: self.subscription.load(Ordering::Relaxed),
            position: self.position.load(Ordering::Relaxed),
            message_id: self.message_id.load(Ordering::Relaxed),
            delivery_id: self.delivery_id.load(Ordering::Relaxed),
            attempt: self.attempt.load(Ordering::Relaxed),
            run: self.run.load(Ordering::Relaxed),
        });
        Pulse { beats: self.beats.load(Ordering::Relaxed), at }
    }

    /// Runs `work` and shows the ticket of its request while `work` is polled.
    async fn during<T>(&self, load: &Load, mut work: Pin<&mut impl Future<Output = T>>) -> T {
        let ticket = load.jobs().first().map(|job| job.ticket);
        std::future::poll_fn(|cx| {
            if let Some(ticket) = ticket {
                self.subscription.store(ticket.subscription, Ordering::Relaxed);
                self.position.store(ticket.position, Ordering::Relaxed);
                self.message_id.store(ticket.message_id, Ordering::Relaxed);
                self.delivery_id.store(ticket.delivery_id, Ordering::Relaxed);
                self.attempt.store(ticket.attempt, Ordering::Relaxed);
                self.run.store(ticket.run, Ordering::Relaxed);
                self.endpoint.store(ticket.endpoint, Ordering::Release);
            }
            let poll = work.as_mut().poll(cx);
            self.endpoint.store(0, Ordering::Release);
            poll
        })
        .await
    }
}

/// Wakes the main thread when the HTTP thread ends for any reason.
struct WakeAtEnd<'a>(&'a Hub);

impl Drop for WakeAtEnd<'_> {
    fn drop(&mut self) {
        (self.0.wake)();
    }
}

/// The thread's main function.
pub(crate) fn run(
    runtime: &tokio::runtime::LocalRuntime,
    settings: Settings,
    mut commands: mpsc::UnboundedReceiver<Command>,
    shared: Arc<Shared>,
    wake: Box<dyn Fn() + Send>,
) {
    let hub = Rc::new(Hub {
        settings: RefCell::new(Rc::new(settings)),
        endpoints: RefCell::default(),
        waiting: RefCell::default(),
        waiting_slow: RefCell::default(),
        flights: RefCell::default(),
        serial: Cell::new(0),
        overdue: Cell::new(0),
        slow: Cell::new(0),
        in_flight: Cell::new(0),
        flying: Cell::new(0),
        batches: Cell::new(0),
        stopping: Cell::new(false),
        shared,
        wake,
    });
    runtime.block_on(async move {
        let _wake = WakeAtEnd(&hub);
        tokio::task::spawn_local(beat(Rc::clone(&hub)));
        while let Some(command) = commands.recv().await {
            match command {
                Command::Settings(settings) => hub.set(*settings),
                Command::Endpoints(endpoints) => endpoints.into_iter().for_each(|endpoint| hub.configure(endpoint)),
                Command::Jobs(jobs) => hub.submit(jobs),
                Command::Consent(endpoint, origin) => hub.ask_consent(endpoint, origin),
                Command::CallOff(messages) => hub.call_off(&messages),
                Command::Pump => hub.pump_waiting(TURNS),
                Command::Stop => hub.stopping.set(true),
            }
            if hub.stopping.get() {
                while hub.in_flight.get() > 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                return;
            }
        }
    });
}

impl Hub {
    fn configure(self: &Rc<Self>, endpoint: Endpoint) {
        let id = endpoint.id;
        let now = unix_micros(SystemTime::now());
        let known = self.endpoints.borrow().get(&id).cloned();
        let Some(target) = known else {
            let target = Target {
                id,
                gate: RefCell::new(Gate::new(&endpoint, now)),
                saved: Cell::new(endpoint.state),
                config: RefCell::new(Rc::new(endpoint)),
                queue: RefCell::default(),
                reach: Reach::default(),
                busy: Cell::new(0),
                slow: Cell::new(false),
                silent: Cell::new(false),
                idle: RefCell::default(),
                waiting: Cell::new(false),
                short_until: Cell::new(0),
                timer: Cell::new(i64::MAX),
            };
            self.endpoints.borrow_mut().insert(id, Rc::new(target));
            return;
        };
        let before = target.config.replace(Rc::new(endpoint));
        let config = Rc::clone(&target.config.borrow());
        if before.url != config.url
            || before.tls != config.tls
            || before.protocol != config.protocol
            || before.proxy != config.proxy
            || before.auth != config.auth
        {
            // Idle connections may lead to the old server. Busy connections see the change at their next request.
            target.idle.borrow_mut().clear();
            target.reach.reset();
        }
        target.gate.borrow_mut().configure(&config, now);
        self.announce(&target);
        if config.mode == Mode::Skip {
            self.skip(&target);
        }
        self.pump(&target);
    }

    /// Replaces the settings. Connections that were checked by the old rules, or trusted by the old authorities, are not
    /// used again.
    fn set(&self, settings: Settings) {
        tls::forget_system_roots();
        *self.settings.borrow_mut() = Rc::new(settings);
        for target in self.endpoints.borrow().values() {
            target.idle.borrow_mut().clear();
            target.reach.reset();
        }
    }

    fn ask_consent(self: &Rc<Self>, endpoint: i32, origin: Box<str>) {
        let target = self.endpoints.borrow().get(&endpoint).cloned();
        if let Some(target) = target {
            tokio::task::spawn_local(consent::ask(Rc::clone(self), target, origin));
        }
    }

    pub(crate) fn settings(&self) -> Rc<Settings> {
        Rc::clone(&self.settings.borrow())
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn wake(&self) {
        (self.wake)();
    }

    fn submit(self: &Rc<Self>, jobs: Vec<Job>) {
        let mut touched: Vec<Rc<Target>> = Vec::new();
        let mut now = 0;
        for job in jobs {
            if job.shape.batch_size > 1 && now == 0 {
                now = unix_micros(SystemTime::now());
            }
            let last = touched.last().filter(|last| last.id == job.ticket.endpoint).cloned();
            let target = match last {
                Some(last) => Some(last),
                None => {
                    let found = self.endpoints.borrow().get(&job.ticket.endpoint).cloned();
                    touched.extend(found.clone());
                    found
                }
            };
            match target {
                Some(target) => target.queue.borrow_mut().push(job, now),
                None => {
                    self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                    self.begin(1);
                    let attempt = Attempt::failed(Fault::Invalid, "the endpoint does not exist");
                    self.report(attempt, Load::One(job), false, unix_micros(SystemTime::now()));
                }
            }
        }
        for target in touched {
            if target.config.borrow().mode == Mode::Skip {
                self.skip(&target);
            }
            self.pump(&target);
        }
    }

    /// Returns the queued jobs of a disabled endpoint unsent.
    fn skip(self: &Rc<Self>, target: &Target) {
        let jobs = target.queue.borrow_mut().drain();
        self.give_back(jobs, "the endpoint is disabled");
    }

    /// Returns the queued jobs of these messages unsent.
    fn call_off(self: &Rc<Self>, messages: &HashSet<i64>) {
        let targets: Vec<Rc<Target>> = self.endpoints.borrow().values().cloned().collect();
        for target in targets {
            let jobs = target.queue.borrow_mut().call_off(messages);
            self.give_back(jobs, "the message was cancelled");
        }
    }

    fn give_back(self: &Rc<Self>, jobs: Vec<Job>, why: &str) {
        self.shared.queued.fetch_sub(jobs.len(), Ordering::Relaxed);
        let now = unix_micros(SystemTime::now());
        for job in jobs {
            self.begin(1);
            self.report(Attempt::failed(Fault::Invalid, why), Load::One(job), true, now);
        }
    }

    /// Starts all requests of an endpoint that may be sent now.
    fn pump(self: &Rc<Self>, target: &Rc<Target>) {
        loop {
            if target.short_until.get() != 0 && target.idle.borrow().is_empty() && self.is_short(target) {
                return;
            }
            let Some(work) = self.take(target) else { return };
            let mut work = Some(work);
            // A connection that has just timed out no longer takes the job. Then the next idle connection gets it, and at
            // last a new connection.
            while let Some(one) = work.take() {
                let idle = target.idle.borrow_mut().pop();
                match idle {
                    Some((_, connection)) => work = connection.send(one).err(),
                    None => {
                        let serial = self.next_serial();
                        if self.flights.borrow().len() >= self.settings.borrow().max_connections {
                            self.close_idle(1);
                        }
                        let target = Rc::clone(target);
                        let flight = Flight { target, since: Cell::new(one.at), overdue: Cell::new(false) };
                        let flight = Rc::new(flight);
                        self.flights.borrow_mut().insert(serial, Rc::clone(&flight));
                        tokio::task::spawn_local(serve(Rc::clone(self), flight, serial, one));
                    }
                }
            }
        }
    }

    fn next_serial(&self) -> u64 {
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        serial
    }

    /// Closes the `n` connections that have been idle for longest.
    fn close_idle(&self, n: usize) {
        for _ in 0..n {
            let endpoints = self.endpoints.borrow();
            let oldest = endpoints.values().filter_map(|target| Some((target.idle.borrow().first()?.0, target)));
            let Some((_, target)) = oldest.min_by_key(|(since, _)| *since) else { return };
            // The task of the connection sees that its sender is gone, and ends.
            target.idle.borrow_mut().remove(0);
        }
    }

    /// Returns whether no connection may be opened for an endpoint yet. In that case a timer pumps the endpoint again later.
    fn is_short(self: &Rc<Self>, target: &Rc<Target>) -> bool {
        let (now, until) = (unix_micros(SystemTime::now()), target.short_until.get());
        if now >= until {
            target.short_until.set(0);
            return false;
        }
        self.look_again(target, until, now);
        true
    }

    /// Starts jobs that the common limits held back, of up to `most` endpoints in turn. Endpoints that answer come first,
    /// because the part of the limits that slow endpoints do not get is reserved for them.
    fn pump_waiting(self: &Rc<Self>, most: usize) {
        for list in [&self.waiting, &self.waiting_slow] {
            let turns = list.borrow().len().min(most);
            for _ in 0..turns {
                let slow = std::ptr::eq(list, &self.waiting_slow);
                if self.room(slow, 0) == 0 {
                    break;
                }
                let id = list.borrow_mut().pop_front();
                let target = id.and_then(|id| self.endpoints.borrow().get(&id).cloned());
                if let Some(target) = target {
                    target.waiting.set(false);
                    self.pump(&target);
                }
            }
        }
    }

    /// Returns how many jobs may be sent in one request now, to an endpoint that is `slow` or not and has `busy` requests in
    /// flight.
    ///
    /// Other endpoints are served regardless of how many endpoints do not answer, because slow endpoints get at most three
    /// quarters of the common limits. Half of the rest is reserved for endpoints with no request in flight. Overdue requests
    /// do not count against such endpoints. When many receivers stop answering at the same time, they therefore hold up
    /// other endpoints only until their requests are overdue.
    fn room(&self, slow: bool, busy: usize) -> usize {
        if self.stopping.get() {
            return 0;
        }
        let settings = self.settings.borrow();
        let (all, in_flight) = (settings.max_in_flight.min(settings.max_connections), self.in_flight.get());
        let (most, unrecorded) = (settings.max_unrecorded, self.shared.unrecorded.load(Ordering::Acquire));
        let (may, most) = if slow {
            let least = self.slow.get() < all / 8 && in_flight < all;
            (least || in_flight < all - all / 4, most - most / 4)
        } else if busy > 0 {
            (in_flight < all - all / 8, most - most / 8)
        } else {
            (in_flight < (all + self.overdue.get()).min(settings.max_connections), most)
        };
        if may { most.saturating_sub(self.flying.get() + unrecorded) } else { 0 }
    }

    /// Marks requests that have become overdue, and their endpoints as slow.
    fn look_for_overdue(&self) {
        let before = unix_micros(SystemTime::now()) - OVERDUE.as_micros() as i64;
        for flight in self.flights.borrow().values() {
            let since = flight.since.get();
            if since != 0 && since < before && !flight.overdue.replace(true) {
                flight.target.slow.set(true);
                self.overdue.set(self.overdue.get() + 1);
            }
        }
    }

    /// Counts a request with this many jobs as in flight.
    fn begin(&self, jobs: usize) {
        self.in_flight.set(self.in_flight.get() + 1);
        self.flying.set(self.flying.get() + jobs);
        self.shared.in_flight.store(self.in_flight.get(), Ordering::Relaxed);
    }

    /// Takes the endpoint's next request, if it may be sent now.
    fn take(self: &Rc<Self>, target: &Rc<Target>) -> Option<Work> {
        if target.busy.get() >= target.config.borrow().concurrency || target.queue.borrow().is_empty() {
            return None;
        }
        // The first request of an endpoint that is slow but answers does not wait behind endpoints that do not answer.
        let slow = target.slow.get() && (target.busy.get() > 0 || target.silent.get());
        let room = self.room(slow, target.busy.get());
        if room == 0 {
            if !target.waiting.replace(true) {
                let list = if slow { &self.waiting_slow } else { &self.waiting };
                list.borrow_mut().push_back(target.id);
            }
            return None;
        }
        let now = unix_micros(SystemTime::now());
        let mut gate = target.gate.borrow_mut();
        let probe = match gate.look(now) {
            Pass::Go { probe } => probe,
            Pass::Closed => return None,
            Pass::NotBefore(at) => {
                self.look_again(target, at, now);
                return None;
            }
        };
        let mut queue = target.queue.borrow_mut();
        // A batch that is not full yet takes no token.
        let load = match queue.take(if probe { 1 } else { room }, now) {
            Ok(load) => load,
            Err(Nothing::Empty) => return None,
            Err(Nothing::NotBefore(at)) => {
                self.look_again(target, at, now);
                return None;
            }
        };
        if let Err(at) = gate.take(now) {
            queue.give_back(load);
            self.look_again(target, at, now);
            return None;
        }
        if probe {
            gate.probe();
        }
        drop((gate, queue));
        if probe {
            self.announce(target);
        }
        target.busy.set(target.busy.get() + 1);
        self.begin(load.jobs().len());
        self.shared.queued.fetch_sub(load.jobs().len(), Ordering::Relaxed);
        if slow {
            self.slow.set(self.slow.get() + 1);
        }
        Some(Work { load, probe, slow, at: now })
    }

    /// Records that a request has ended, and whether its endpoint is slow.
    fn land(&self, flight: &Flight, attempt: &Attempt, began: i64, slow: bool, now: i64) {
        let target = &flight.target;
        target.busy.set(target.busy.get() - 1);
        flight.since.set(0);
        if slow {
            self.slow.set(self.slow.get() - 1);
        }
        let late = flight.overdue.replace(false);
        if late {
            self.overdue.set(self.overdue.get() - 1);
        }
        let quick = !late && now - began < OVERDUE.as_micros() as i64;
        target.silent.set(matches!(attempt.outcome, Outcome::Fault(Fault::Timeout)));
        target.slow.set(!quick || target.silent.get());
    }

    /// Puts back the jobs of a request that met a shortage of this machine. They wait as if they had not been taken.
    fn postpone(self: &Rc<Self>, target: &Rc<Target>, attempt: &Attempt, load: Load, probe: bool, now: i64) {
        let jobs = load.jobs().len();
        self.in_flight.set(self.in_flight.get() - 1);
        self.flying.set(self.flying.get() - jobs);
        self.shared.in_flight.store(self.in_flight.get(), Ordering::Release);
        self.shared.queued.fetch_add(jobs, Ordering::Relaxed);
        target.queue.borrow_mut().give_back(load);
        if probe {
            target.gate.borrow_mut().result(None, true, now);
            self.announce(target);
        }
        {
            let mut shortage = self.shared.shortage.lock().unwrap_or_else(PoisonError::into_inner);
            let count = shortage.as_ref().map_or(0, |known| known.count) + 1;
            *shortage = Some(Shortage { count, error: attempt.error.clone().unwrap_or_default() });
        }
        (self.wake)();
        self.close_idle(RELIEF);
        target.short_until.set(now + SHORTAGE_WAIT.as_micros() as i64);
        if target.config.borrow().mode == Mode::Skip {
            self.skip(target);
        }
        self.pump(target);
    }

    /// Pumps an endpoint again at a time (microseconds since 1970).
    fn look_again(self: &Rc<Self>, target: &Rc<Target>, at: i64, now: i64) {
        if target.timer.get() <= at {
            return;
        }
        target.timer.set(at);
        let (hub, target) = (Rc::clone(self), Rc::clone(target));
        // The system's clock may be set, so the timer fires at least once a minute.
        let wait = Duration::from_micros((at - now).clamp(0, 60_000_000).unsigned_abs());
        tokio::task::spawn_local(async move {
            tokio::time::sleep(wait).await;
            if target.timer.get() == at {
                target.timer.set(i64::MAX);
                hub.pump(&target);
            }
        });
    }

    /// Tells the main thread of a change of an endpoint's state.
    fn announce(&self, target: &Target) {
        let state = target.gate.borrow().saved();
        if target.saved.replace(state) != state {
            let event = Event { endpoint: target.id, state };
            self.shared.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            (self.wake)();
        }
    }

    /// Applies an outcome to the state of its endpoint: a pause that the receiver asked for, or a result for the breaker.
    fn learn(&self, target: &Target, attempt: &Attempt, load: &Load, probe: bool, now: i64) {
        let mut gate = target.gate.borrow_mut();
        let asked = attempt.asked().filter(|_| {
            let status = matches!(attempt.outcome, Outcome::Status(429 | 503));
            let policy = load.jobs().first().map(|job| &job.shape.policy);
            status || policy.is_some_and(|policy| policy.action(attempt.outcome) == Action::Throttle)
        });
        match asked {
            Some(wait) => {
                gate.pause(now.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)));
                gate.result(None, probe, now);
            }
            None => gate.result(health(attempt.outcome), probe, now),
        }
        drop(gate);
        self.announce(target);
    }

    /// Hands outcomes to the main thread. The jobs are no longer in flight but count as unrecorded.
    fn report(self: &Rc<Self>, attempt: Attempt, load: Load, skipped: bool, finished_at: i64) {
        let count = load.jobs().len();
        self.shared.unrecorded.fetch_add(count, Ordering::AcqRel);
        let (before, after) = {
            let mut list = self.shared.done.lock().unwrap_or_else(PoisonError::into_inner);
            let before = list.len();
            match load {
                Load::One(job) => list.push(attempt.done(job, finished_at, skipped)),
                Load::Ask(_) => {}
                Load::Batch(jobs) => {
                    self.batches.set(self.batches.get() + 1);
                    attempt.done_batch(jobs, self.batches.get(), finished_at, &mut list);
                }
            }
            (before, list.len())
        };
        self.in_flight.set(self.in_flight.get() - 1);
        self.flying.set(self.flying.get() - count);
        self.shared.in_flight.store(self.in_flight.get(), Ordering::Release);
        let settings = self.settings.borrow();
        // No more requests may be sent before these outcomes are recorded.
        let full = self.flying.get() + self.shared.unrecorded.load(Ordering::Acquire) >= settings.max_unrecorded;
        if (before < WAKE_BATCH && after >= WAKE_BATCH) || full {
            (self.wake)();
        } else if before == 0 {
            let hub = Rc::clone(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(WAKE_DELAY).await;
                (hub.wake)();
            });
        }
    }
}

/// Shows regularly that the thread is alive, and finds overdue requests.
async fn beat(hub: Rc<Hub>) {
    loop {
        hub.shared.pulse.beats.fetch_add(1, Ordering::Relaxed);
        hub.look_for_overdue();
        // All waiting endpoints are checked once each. One that may send now can be after any number that may not.
        hub.pump_waiting(usize::MAX);
        tokio::time::sleep(BEAT).await;
    }
}

/// The entry of a connection in `flights`. It is removed when the task of the connection ends.
struct Seat {
    hub: Rc<Hub>,
    serial: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.flights.borrow_mut().remove(&self.serial);
    }
}

/// The task of a connection. It sends one request after the other until there is none for `IDLE_TIMEOUT`.
async fn serve(hub: Rc<Hub>, flight: Rc<Flight>, serial: u64, first: Work) {
    let _seat = Seat { hub: Rc::clone(&hub), serial };
    let target = Rc::clone(&flight.target);
    let mut connection = None;
    let mut timer = Timer::default();
    let mut next = Some(first);
    while let Some(Work { load, probe, slow, at }) = next.take() {
        flight.since.set(at);
        let config = Rc::clone(&target.config.borrow());
        let settings = Rc::clone(&hub.settings.borrow());
        let result = {
            // Pinned here, because the future is large and each function that takes it would move it.
            let attempt = request::attempt(&mut connection, &mut timer, &target.reach, &settings, &config, &load);
            catch_panic(hub.shared.pulse.during(&load, pin!(attempt))).await
        };
        let attempt = result.unwrap_or_else(|| {
            // The state of the connection is unknown after a panic.
            connection = None;
            Attempt::failed(Fault::Invalid, "internal error while sending; the server log has the details")
        });
        let now = unix_micros(SystemTime::now());
        hub.land(&flight, &attempt, at, slow, now);
        if attempt.outcome == Outcome::Fault(Fault::Local) {
            hub.postpone(&target, &attempt, load, probe, now);
            break;
        }
        hub.learn(&target, &attempt, &load, probe, now);
        hub.report(attempt, load, false, now);
        next = hub.take(&target);
        if probe {
            // The breaker may have closed, so other connections may continue as well.
            hub.pump(&target);
        }
        if next.is_some() {
            // Only with a backlog: without one, a job is sent at once.
            let_others_read().await;
            continue;
        }
        if !hub.waiting.borrow().is_empty() || !hub.waiting_slow.borrow().is_empty() {
            hub.pump_waiting(TURNS);
        }
        let Some(open) = connection.as_mut() else { return };
        let (sender, receiver) = oneshot::channel();
        target.idle.borrow_mut().push((hub.next_serial(), sender));
        // An idle connection is still driven, to notice that the server closes it.
        next = tokio::select! {
            biased;
            work = receiver => work.ok(),
            () = open.closed() => None,
            () = tokio::time::sleep(IDLE_TIMEOUT) => None,
        };
    }
    // If a sender stays in the list whose receiver is gone, it refuses the job and `pump` takes the next connection.
    target.idle.borrow_mut().retain(|(_, sender)| !sender.is_closed());
    if target.busy.get() == 0 && target.idle.borrow().is_empty() {
        target.reach.rest();
    }
}

/// Waits until all other connections that have data to read have read it. Requests are then sent in one burst, and a quick
/// receiver is woken once for all of them. Waking a receiver costs as much as sending it a request.
async fn let_others_read() {
    let mut waited = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        // The task goes to the end of the queue of ready tasks.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Runs a future. `None` if it panics. The panic counts as a failure of the job, which comes back like any other job.
pub(crate) async fn catch_panic<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|cx| match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// Converts a time to microseconds since 1970-01-01 UTC.
pub(crate) fn unix_micros(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

impl Attempt {
    fn done(self, job: Job, finished_at: i64, skipped: bool) -> Done {
        let status = self.reply.as_ref().map(|reply| reply.status).or(self.status);
        let retry_after = self.asked();
        let answer = self.reply.and_then(|reply| {
            let nothing = reply.text.is_none()
                && reply.response_id.is_none()
                && reply.headers.is_none()
                && reply.control.is_none();
            (!nothing).then(|| {
                Box::new(Answer {
                    body: reply.text,
                    response_id: reply.response_id,
                    headers: reply.headers,
                    control: reply.control,
                })
            })
        });
        Done {
            ticket: job.ticket,
            message: Some(job.message),
            batch: 0,
            skipped,
            started_at: self.started_at,
            finished_at,
            outcome: self.outcome,
            status,
            error: self.error,
            retry_after,
            remote: self.remote,
            answer,
        }
    }

    /// Adds one outcome per job: the job's own outcome if the receiver gave one, else the outcome of the request.
    fn done_batch(mut self, jobs: Vec<Job>, batch: u64, finished_at: i64, to: &mut Vec<Done>) {
        let results = self.reply.as_mut().and_then(|reply| reply.results.take());
        let Some(first) = jobs.first() else { return };
        let whole = self.done(first.clone(), finished_at, false);
        let control = whole.answer.as_ref().and_then(|answer| answer.control);
        for (i, Job { ticket, message, .. }) in jobs.into_iter().enumerate() {
            let mut done = Done { ticket, message: Some(message), batch, answer: None, ..whole.clone() };
            if i == 0 {
                done.answer = whole.answer.clone();
            } else if control.is_some() {
                done.answer = Some(Box::new(Answer { control, ..Answer::default() }));
            }
            if let Some(status) = results.as_ref().and_then(|results| results.get(i)) {
                done.outcome = Outcome::Status(*status);
                done.error =
                    (!(200..300).contains(status)).then(|| format!("status {status} in the batch's answer").into());
            }
            to.push(done);
        }
    }
}
