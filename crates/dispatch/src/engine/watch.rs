//! Watches the HTTP thread: whether it makes progress, and which resource it is short of.

use std::time::{Duration, Instant};

use super::Engine;
use super::send::Push;
use crate::fault::{Fault, Kind};
use crate::store::Store;
use crate::transport::Transport;

/// A thread without a sign of life for this long is stuck: its steps take milliseconds.
const STUCK: Duration = Duration::from_secs(15);
/// Shortest time between two checks.
const INTERVAL: Duration = Duration::from_secs(2);

/// The dispatcher's view of the HTTP thread.
#[derive(Debug)]
pub(super) struct Watch {
    beats: u64,
    checked: Instant,
    silent: Duration,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Watch {
        Watch { beats: 0, checked: now, silent: Duration::ZERO }
    }

    /// Notes a check and returns whether the thread is stuck. A check counts for two intervals at most: a process that was
    /// stopped has not checked for a long time, and its thread could not make progress either.
    fn check(&mut self, beats: u64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.checked);
        self.checked = now;
        let goes_on = std::mem::replace(&mut self.beats, beats) != beats;
        self.silent = if goes_on { Duration::ZERO } else { self.silent + since.min(2 * INTERVAL) };
        self.silent >= STUCK
    }
}

impl<S: Store, T: Transport> Engine<S, T> {
    /// When the next check is due; `None` while the thread has nothing that it could be stuck with.
    pub fn watch_in(&self) -> Option<Duration> {
        let Push { sender, watch, .. } = &self.push;
        let idle = sender.in_flight() + sender.queued() == 0;
        (!idle).then(|| INTERVAL.saturating_sub(self.store.instant().saturating_duration_since(watch.checked)))
    }

    /// Checks the HTTP thread. Returns a text if the thread is stuck: the process then has to be restarted. The endpoint
    /// that the thread is stuck at is charged with the fault.
    pub fn watch(&mut self) -> Option<String> {
        let Engine { push, store, faults, .. } = self;
        let now = store.instant();
        if now.saturating_duration_since(push.watch.checked) < INTERVAL {
            return None;
        }
        if let Some(shortage) = push.sender.take_shortage() {
            let error = format!("{} (requests that wait: {})", shortage.error, shortage.count);
            faults.add(store, Fault::new(Kind::Server, 0, "connect", error));
            faults.write(store);
            store.close_files();
        }
        let pulse = push.sender.pulse();
        if !push.watch.check(pulse.beats, now) {
            return None;
        }
        let error = format!("the HTTP thread has not gone on for {STUCK:?}");
        let Some(ticket) = pulse.at else { return Some(error) };
        faults.add(store, Fault::new(Kind::Endpoint, ticket.endpoint, "send", &error));
        faults.write(store);
        // Unrecorded requests are sent again. The outcome of this one is recorded, so that it does not stop the next thread
        // at once.
        self.unrecorded.done.push(push.sender.give_up(ticket, &error));
        self.take_outcomes();
        if let Err(failure) = self.record() {
            self.store.log(format_args!("outcomes could not be recorded and will be repeated: {failure}"));
        }
        Some(format!("{error}; it is at endpoint {}, message {}", ticket.endpoint, ticket.message_id))
    }
}
