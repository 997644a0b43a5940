//! The queues of all endpoints, and who sends next.
//!
//! One thread, one runtime: plain cells instead of locks. A connection task takes a job, sends it, reports, and takes the
//! next one of its endpoint without a detour; it waits only when its endpoint has nothing that may be sent.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use outbox_core::policy::{Fault, Outcome};
use tokio::sync::{mpsc, oneshot};

use crate::connect::Connector;
use crate::request::{self, Attempt};
use crate::{Command, Done, Endpoint, Job, Settings, Shared};

/// The main thread is woken for outcomes when there are this many, or when the first of them is this old: it has better to do
/// than to take them one by one, and nobody waits for an outcome to be recorded.
const WAKE_BATCH: usize = 512;
const WAKE_DELAY: Duration = Duration::from_millis(2);

/// How long a connection without work is kept open.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct Hub {
    settings: RefCell<Rc<Settings>>,
    connector: Connector,
    endpoints: RefCell<HashMap<i32, Rc<Target>>>,
    /// Endpoints with jobs that only the common limits hold back, in turn.
    waiting: RefCell<VecDeque<i32>>,
    in_flight: Cell<usize>,
    stopping: Cell<bool>,
    shared: Arc<Shared>,
    wake: Box<dyn Fn() + Send>,
}

/// One endpoint: its configuration, its queue, its connections.
pub(crate) struct Target {
    id: i32,
    config: RefCell<Rc<Endpoint>>,
    queue: RefCell<VecDeque<Job>>,
    busy: Cell<usize>,
    /// Connections without work, the most recently used last.
    idle: RefCell<Vec<oneshot::Sender<Job>>>,
    waiting: Cell<bool>,
}

/// Wakes the main thread when the HTTP thread ends, however it ends.
struct WakeAtEnd<'a>(&'a Hub);

impl Drop for WakeAtEnd<'_> {
    fn drop(&mut self) {
        (self.0.wake)();
    }
}

/// The thread's main function.
pub(crate) fn run(
    runtime: &tokio::runtime::Runtime,
    settings: Settings,
    mut commands: mpsc::UnboundedReceiver<Command>,
    shared: Arc<Shared>,
    wake: Box<dyn Fn() + Send>,
) {
    let tasks = tokio::task::LocalSet::new();
    let hub = Rc::new(Hub {
        settings: RefCell::new(Rc::new(settings)),
        connector: Connector::new(),
        endpoints: RefCell::default(),
        waiting: RefCell::default(),
        in_flight: Cell::new(0),
        stopping: Cell::new(false),
        shared,
        wake,
    });
    tasks.block_on(runtime, async move {
        let _wake = WakeAtEnd(&hub);
        while let Some(command) = commands.recv().await {
            match command {
                Command::Settings(settings) => *hub.settings.borrow_mut() = Rc::new(*settings),
                Command::Endpoints(endpoints) => endpoints.into_iter().for_each(|endpoint| hub.configure(endpoint)),
                Command::Jobs(jobs) => hub.submit(jobs),
                Command::Pump => hub.pump_waiting(),
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
    fn configure(&self, endpoint: Endpoint) {
        let id = endpoint.id;
        let config = Rc::new(endpoint);
        let mut endpoints = self.endpoints.borrow_mut();
        match endpoints.get(&id) {
            Some(target) => {
                *target.config.borrow_mut() = config;
                // Idle connections may lead to the old place; busy ones see the change at their next request.
                target.idle.borrow_mut().clear();
            }
            None => {
                endpoints.insert(
                    id,
                    Rc::new(Target {
                        id,
                        config: RefCell::new(config),
                        queue: RefCell::default(),
                        busy: Cell::new(0),
                        idle: RefCell::default(),
                        waiting: Cell::new(false),
                    }),
                );
            }
        }
    }

    fn submit(self: &Rc<Self>, jobs: Vec<Job>) {
        let mut touched: Vec<Rc<Target>> = Vec::new();
        for job in jobs {
            let target = self.endpoints.borrow().get(&job.ticket.endpoint).cloned();
            match target {
                Some(target) => {
                    target.queue.borrow_mut().push_back(job);
                    if touched.last().is_none_or(|last| last.id != target.id) {
                        touched.push(target);
                    }
                }
                None => {
                    self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                    self.in_flight.set(self.in_flight.get() + 1);
                    self.report(Attempt::failed(Fault::Invalid, "the endpoint does not exist").done(job.ticket));
                }
            }
        }
        for target in touched {
            self.pump(&target);
        }
    }

    /// Starts what an endpoint may start.
    fn pump(self: &Rc<Self>, target: &Rc<Target>) {
        while let Some(job) = self.take(target) {
            let mut job = Some(job);
            // A connection that has just timed out no longer takes the job; then the next one, then a new one.
            while let Some(one) = job.take() {
                let idle = target.idle.borrow_mut().pop();
                match idle {
                    Some(connection) => job = connection.send(one).err(),
                    None => {
                        tokio::task::spawn_local(serve(Rc::clone(self), Rc::clone(target), one));
                    }
                }
            }
        }
    }

    /// Starts what the common limits held back, one job per endpoint in turn.
    fn pump_waiting(self: &Rc<Self>) {
        let turns = self.waiting.borrow().len();
        for _ in 0..turns {
            if !self.has_room() {
                return;
            }
            let id = self.waiting.borrow_mut().pop_front();
            let target = id.and_then(|id| self.endpoints.borrow().get(&id).cloned());
            if let Some(target) = target {
                target.waiting.set(false);
                self.pump(&target);
            }
        }
    }

    fn has_room(&self) -> bool {
        let settings = self.settings.borrow();
        let in_flight = self.in_flight.get();
        in_flight < settings.max_in_flight
            && in_flight + self.shared.unrecorded.load(Ordering::Acquire) < settings.max_unrecorded
            && !self.stopping.get()
    }

    /// The endpoint's next job, if it may be sent now; it counts as in flight from here on.
    fn take(&self, target: &Target) -> Option<Job> {
        if target.busy.get() >= target.config.borrow().concurrency || target.queue.borrow().is_empty() {
            return None;
        }
        if !self.has_room() {
            if !target.waiting.replace(true) {
                self.waiting.borrow_mut().push_back(target.id);
            }
            return None;
        }
        let job = target.queue.borrow_mut().pop_front()?;
        target.busy.set(target.busy.get() + 1);
        self.in_flight.set(self.in_flight.get() + 1);
        self.shared.in_flight.store(self.in_flight.get(), Ordering::Relaxed);
        self.shared.queued.fetch_sub(1, Ordering::Relaxed);
        Some(job)
    }

    /// Hands an outcome to the main thread; the job is no longer in flight but unrecorded.
    fn report(self: &Rc<Self>, done: Done) {
        self.shared.unrecorded.fetch_add(1, Ordering::AcqRel);
        let count = {
            let mut list = self.shared.done.lock().unwrap_or_else(PoisonError::into_inner);
            list.push(done);
            list.len()
        };
        self.in_flight.set(self.in_flight.get() - 1);
        self.shared.in_flight.store(self.in_flight.get(), Ordering::Release);
        let settings = self.settings.borrow();
        // Nothing more may be sent before these are recorded.
        let full = self.in_flight.get() + self.shared.unrecorded.load(Ordering::Acquire) >= settings.max_unrecorded;
        if count == WAKE_BATCH || full {
            (self.wake)();
        } else if count == 1 {
            let hub = Rc::clone(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(WAKE_DELAY).await;
                (hub.wake)();
            });
        }
    }
}

/// A connection's life: one job after the other, until there is none for a while.
async fn serve(hub: Rc<Hub>, target: Rc<Target>, first: Job) {
    let mut connection = None;
    let mut next = Some(first);
    while let Some(job) = next.take() {
        let config = Rc::clone(&target.config.borrow());
        let settings = Rc::clone(&hub.settings.borrow());
        let attempt = request::attempt(&mut connection, &hub.connector, &settings, &config, &job);
        let attempt = catch_panic(attempt).await.unwrap_or_else(|| {
            // Nobody knows what state it is in.
            connection = None;
            Attempt::failed(Fault::Invalid, "internal error while sending; the server log has the details")
        });
        target.busy.set(target.busy.get() - 1);
        hub.report(attempt.done(job.ticket));
        next = hub.take(&target);
        if next.is_some() {
            continue;
        }
        if !hub.waiting.borrow().is_empty() {
            hub.pump_waiting();
        }
        let Some(open) = connection.as_mut() else { return };
        let (sender, receiver) = oneshot::channel();
        target.idle.borrow_mut().push(sender);
        // While it is idle the connection is still driven, to notice that the other side closes it.
        next = tokio::select! {
            biased;
            job = receiver => job.ok(),
            () = open.wire.closed() => None,
            () = tokio::time::sleep(IDLE_TIMEOUT) => None,
        };
    }
    // A sender whose receiver is gone refuses the job, and `pump` takes the next connection.
    target.idle.borrow_mut().retain(|sender| !sender.is_closed());
}

/// Runs a future; `None` when it panics. A job that panics is that job's failure: it comes back like any other.
async fn catch_panic<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|cx| match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => std::task::Poll::Ready(None),
    })
    .await
}

/// Microseconds since 1970-01-01 UTC.
pub(crate) fn unix_micros(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

impl Attempt {
    fn done(self, ticket: crate::Ticket) -> Done {
        Done {
            ticket,
            started_at: self.started_at,
            finished_at: unix_micros(SystemTime::now()),
            outcome: self.outcome,
            error: self.error,
            body: self.body,
            retry_after: self.retry_after,
            remote: self.remote,
        }
    }

    pub(crate) fn failed(fault: Fault, error: &str) -> Attempt {
        Attempt {
            started_at: unix_micros(SystemTime::now()),
            outcome: Outcome::Fault(fault),
            error: Some(error.into()),
            body: None,
            retry_after: None,
            remote: None,
        }
    }
}
