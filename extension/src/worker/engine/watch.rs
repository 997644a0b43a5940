//! Watching the HTTP thread: that it goes on, and what it is short of.

use std::time::{Duration, Instant};

use super::super::fault::Kind;
use super::Engine;

/// A thread that shows no sign of life for this long is stuck: its steps take milliseconds.
const STUCK: Duration = Duration::from_secs(15);
/// Wait between two looks, at least.
const LOOK: Duration = Duration::from_secs(2);

/// What is known of the HTTP thread.
pub struct Watch {
    beats: u64,
    looked: Instant,
    silent: Duration,
}

impl Watch {
    pub fn new() -> Watch {
        Watch { beats: 0, looked: Instant::now(), silent: Duration::ZERO }
    }

    /// Notes a look; whether the thread is stuck. A look counts for two intervals at most: a process that was stopped has not
    /// looked for long, and its thread could not go on either.
    fn look(&mut self, beats: u64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.looked);
        self.looked = now;
        let goes_on = std::mem::replace(&mut self.beats, beats) != beats;
        self.silent = if goes_on { Duration::ZERO } else { self.silent + since.min(2 * LOOK) };
        self.silent >= STUCK
    }
}

impl Engine {
    /// When the next look is due, while there is something that can be stuck.
    pub fn watch_in(&self) -> Option<Duration> {
        let idle = self.sender.in_flight() + self.sender.queued() == 0;
        (!idle).then(|| LOOK.saturating_sub(self.watch.looked.elapsed()))
    }

    /// Looks at the HTTP thread. `Some`: it is stuck, and this process is to be started again; the endpoint that it is stuck at
    /// is charged with it.
    pub fn watch(&mut self) -> Option<String> {
        if self.watch.looked.elapsed() < LOOK {
            return None;
        }
        if let Some(shortage) = self.sender.take_shortage() {
            let error = format!("{} (requests that wait: {})", shortage.error, shortage.count);
            self.faults.told(Kind::Server, 0, "connect", error);
            self.faults.write();
        }
        let pulse = self.sender.pulse();
        if !self.watch.look(pulse.beats, Instant::now()) {
            return None;
        }
        let error = format!("the HTTP thread has not gone on for {STUCK:?}");
        let Some(ticket) = pulse.at else { return Some(error) };
        self.faults.told(Kind::Endpoint, ticket.endpoint.into(), "send", error.clone());
        self.faults.write();
        // What is not recorded goes out again, and must not stop the thread again at once.
        self.done.push(self.sender.give_up(ticket, &error));
        self.take_outcomes();
        if let Err(failure) = self.record() {
            pgrx::log!("pg_outbox dispatcher: outcomes could not be recorded and will be repeated: {failure}");
        }
        Some(format!("{error}; it is at endpoint {}, message {}", ticket.endpoint, ticket.message_id))
    }
}
