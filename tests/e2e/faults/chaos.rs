//! A short chaos run (see `make chaos`) with a fixed seed and the kinds of events that fit into 12 seconds.

use std::time::Duration;

use outbox_chaos::schedule::{Event, Mood};
use outbox_chaos::{Plan, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_repeated_beyond_the_bound_or_stuck() {
    let events = [
        Event::Mood { endpoint: 0, mood: Mood::Flaky, ms: 600 },
        Event::KillDispatcher,
        Event::ReceiverDown { ms: 400 },
        Event::TerminateSessions { percent: 60 },
        Event::Resubscribe { ms: 300 },
        Event::PauseProducer { ms: 400 },
        Event::Settings { in_flight: 3, unrecorded: 8, poll_ms: 200 },
        Event::Mood { endpoint: 2, mood: Mood::Broken, ms: 500 },
        Event::TerminateEverybody,
        Event::Owner,
        Event::TerminateDispatcher,
        Event::TableLock { ms: 300 },
        Event::Crash,
        Event::NoLocks { ms: 300 },
        Event::PushOff { ms: 300 },
        Event::Mood { endpoint: 1, mood: Mood::Resetting, ms: 400 },
        Event::PauseDispatcher { ms: 500 },
    ];
    let plan = Plan {
        seed: 8,
        producers: 3,
        events: (1..).map(|n| Duration::from_millis(600 * n)).zip(events).collect(),
        length: Duration::from_secs(12),
        bounded_disk: false,
        patience: Duration::from_secs(90),
        loud: false,
        hold: false,
    };
    let verdict = run(&plan).await.expect("the run itself");
    assert!(verdict.holds(), "\n{verdict}");
}
