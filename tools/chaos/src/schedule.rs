//! The schedule of faults, which is a function of seed and length.

use std::time::Duration;

use crate::random::Random;

/// The behaviour of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Answers 200 at once.
    Well,
    /// Answers 503.
    Broken,
    /// Answers 429 and asks to wait for a second.
    Limited,
    /// Fails three requests in ten.
    Flaky,
    /// Takes a quarter of a second.
    Slow,
    /// Does not answer before the sender gives up.
    Hanging,
    /// Takes the request and closes the connection.
    Resetting,
}

/// A fault or a disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The dispatcher gets SIGKILL. The postmaster ends all sessions and recovers.
    KillDispatcher,
    /// The dispatcher gets SIGTERM. It records the requests in flight and is started again.
    TerminateDispatcher,
    /// The launcher gets SIGTERM. Another launcher takes over.
    TerminateLauncher,
    /// All processes that pg_terminate_backend can end are ended.
    TerminateEverybody,
    /// Databases with an outbox of their own are created, renamed, copied and dropped.
    Databases,
    /// The extension gets another owner, who is renamed and loses rights.
    Owner,
    /// The database gets unusual settings, and a new dispatcher starts with them.
    DatabaseSettings { ms: u64 },
    /// The dispatcher gets SIGSTOP, and later SIGCONT.
    PauseDispatcher { ms: u64 },
    /// A session that enqueues gets SIGKILL.
    KillProducer,
    /// pg_terminate_backend ends some of the sessions that enqueue, read or work.
    TerminateSessions { percent: u64 },
    /// A session gets SIGSTOP in the middle of its work, with all locks that it holds, and later SIGCONT.
    PauseProducer { ms: u64 },
    /// The server stops as if the power failed.
    Crash,
    /// The server is restarted cleanly.
    Restart,
    /// The process of the far receiver goes away and comes back.
    ReceiverDown { ms: u64 },
    /// An endpoint changes its mood for a while.
    Mood { endpoint: usize, mood: Mood, ms: u64 },
    /// Settings change at run time.
    Settings { in_flight: u64, unrecorded: u64, poll_ms: u64 },
    /// Push is switched off for a while.
    PushOff { ms: u64 },
    /// All connections of the server are in use.
    NoConnections { ms: u64 },
    /// The lock table is full.
    NoLocks { ms: u64 },
    /// A session holds a lock on the table of messages that excludes writers.
    TableLock { ms: u64 },
    /// A session holds an old snapshot.
    HeldSnapshot { ms: u64 },
    /// The disk is full (a bounded tmpfs).
    DiskFull { ms: u64 },
    /// A subscription is created, changes its topics, and ends.
    Resubscribe { ms: u64 },
    /// The network to a receiver holds all data back, and delivers the data later.
    CablePulled { ms: u64 },
    /// A subscription is paused and resumed.
    Paused { subscription: usize, ms: u64 },
    /// An endpoint is disabled, so that its deliveries wait, and enabled.
    Disabled { endpoint: usize, ms: u64 },
    /// All rings are rotated, and maintenance reclaims the leaves that are not needed.
    Rotate,
    /// The ring of messages is rotated, and purge() removes messages that are not needed.
    Purge,
    /// Retention is so short that the dispatcher itself reclaims messages that are not needed.
    Retention { ms: u64 },
    /// Databases, indexes, columns and roles are created and dropped, and tables are rewritten.
    Ddl,
    /// VACUUM, ANALYZE, CHECKPOINT and REINDEX run during the traffic.
    Maintenance,
}

impl Event {
    /// Returns whether an answer of a receiver may not have reached the sender.
    pub fn cuts_connections(self) -> bool {
        matches!(
            self,
            Event::ReceiverDown { .. }
                | Event::CablePulled { .. }
                | Event::PauseDispatcher { .. }
                | Event::Restart
                | Event::TerminateDispatcher
                | Event::TerminateEverybody
                | Event::DatabaseSettings { .. }
        )
    }
}

/// The number of endpoints with moods.
pub const ENDPOINTS: usize = 4;
/// The subscriptions that are paused.
pub const PAUSABLE: [&str; 5] = ["main", "keyed", "work", "lane", "remote"];

/// Returns one or two events of each kind with drawn details, shuffled.
fn deck(random: &mut Random, disk: bool) -> Vec<Event> {
    use Mood::{Broken, Flaky, Hanging, Limited, Resetting, Slow};
    let mut events = vec![
        Event::KillDispatcher,
        Event::KillDispatcher,
        Event::TerminateDispatcher,
        Event::TerminateLauncher,
        Event::TerminateEverybody,
        Event::Databases,
        Event::Owner,
        Event::DatabaseSettings { ms: random.between(200, 1500) },
        Event::PauseDispatcher { ms: random.between(100, 1500) },
        Event::KillProducer,
        Event::TerminateSessions { percent: random.between(20, 100) },
        Event::TerminateSessions { percent: random.between(20, 100) },
        Event::PauseProducer { ms: random.between(200, 1500) },
        Event::Crash,
        Event::Restart,
        Event::ReceiverDown { ms: random.between(200, 1500) },
        Event::Settings {
            in_flight: random.between(1, 64),
            unrecorded: random.between(8, 256),
            poll_ms: random.between(100, 2000),
        },
        Event::PushOff { ms: random.between(100, 1000) },
        Event::NoConnections { ms: random.between(200, 1000) },
        Event::NoLocks { ms: random.between(200, 1000) },
        Event::TableLock { ms: random.between(100, 800) },
        Event::HeldSnapshot { ms: random.between(1000, 5000) },
        Event::Resubscribe { ms: random.between(200, 1500) },
        Event::CablePulled { ms: random.between(500, 3000) },
        Event::Paused {
            subscription: random.between(0, PAUSABLE.len() as u64 - 1) as usize,
            ms: random.between(200, 1500),
        },
        Event::Paused {
            subscription: random.between(0, PAUSABLE.len() as u64 - 1) as usize,
            ms: random.between(200, 1500),
        },
        Event::Disabled { endpoint: random.between(0, ENDPOINTS as u64 - 1) as usize, ms: random.between(200, 1500) },
        Event::Rotate,
        Event::Rotate,
        Event::Purge,
        Event::Retention { ms: random.between(500, 2500) },
        Event::Ddl,
        Event::Maintenance,
    ];
    for mood in [Broken, Limited, Flaky, Slow, Hanging, Resetting] {
        let endpoint = random.between(0, ENDPOINTS as u64 - 1) as usize;
        events.push(Event::Mood { endpoint, mood, ms: random.between(300, 2500) });
    }
    if disk {
        events.push(Event::DiskFull { ms: random.between(300, 1500) });
    }
    random.shuffle(&mut events);
    events
}

/// Returns the events of a run, each with the moment at which it begins. All events of a deck come before the next deck
/// begins.
pub fn plan(seed: u64, length: Duration, pace: Duration, disk: bool) -> Vec<(Duration, Event)> {
    let mut random = Random::new(seed, 1);
    let (mut at, mut events, mut all) = (Duration::ZERO, Vec::new(), Vec::new());
    loop {
        at += pace.mul_f64(random.between(50, 150) as f64 / 100.0);
        if at > length {
            return all;
        }
        if events.is_empty() {
            events = deck(&mut random, disk);
        }
        all.extend(events.pop().map(|event| (at, event)));
    }
}
