//! The tick: the sequencer numbers new messages, and they are routed from memory.

use std::time::{Duration, Instant};

use super::{CHUNK, Engine};
use crate::failure::Failure;
use crate::feed::TickStatus;
use crate::store::Store;
use crate::transport::Transport;

/// After a tick that found at least `BUSY_TICK` messages, the next tick waits for `BUSY_INTERVAL`. So a busy database is
/// ticked about 200 times a second.
const BUSY_TICK: usize = 64;
const BUSY_INTERVAL: Duration = Duration::from_millis(5);

/// The result of a tick.
pub(super) enum TickOutcome {
    Ticked,
    /// Another session holds the sequencer's lock.
    Busy,
    /// Another database's data was restored over this one's.
    Copied,
}

/// When to tick. It changes with each tick, and with an attempt to recover.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    /// The slot's generation up to which messages have been ticked.
    pub generation: u64,
    last: Option<Instant>,
    /// Messages that the last tick found.
    found: usize,
    /// The last tick left messages that it has not numbered.
    pub more: bool,
    /// The last tick found the sequencer's lock taken.
    pub is_locked_out: bool,
}

impl Ticks {
    /// The time until the next tick; zero: it is due.
    pub(super) fn wait(&self, generation: u64, poll: Duration, now: Instant) -> Duration {
        let since = self.last.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        if !self.more && self.found >= BUSY_TICK && since < BUSY_INTERVAL {
            BUSY_INTERVAL - since
        } else if self.more || generation != self.generation || since >= poll {
            Duration::ZERO
        } else {
            Duration::MAX
        }
    }
}

impl<S: Store, T: Transport> Engine<S, T> {
    /// Runs the sequencer and routes the messages that it numbered.
    pub(super) fn tick(&mut self) -> Result<TickOutcome, Failure> {
        let after = (!self.routing.is_behind()).then_some(self.routing.end);
        let ticked = self.store.tick(CHUNK, after)?;
        self.ticks.is_locked_out = ticked.status == TickStatus::Busy;
        match ticked.status {
            TickStatus::Ticked => {}
            TickStatus::Busy => return Ok(TickOutcome::Busy),
            TickStatus::Copied => {
                self.incarnation.recovered = false;
                return Ok(TickOutcome::Copied);
            }
            TickStatus::Fresh => return Err(Failure::new("the sequencer refuses: fresh")),
            TickStatus::Refused(why) => return Err(Failure::new(format!("the sequencer refuses: {why}"))),
        }
        self.ticks.last = Some(self.store.instant());
        self.ticks.found = ticked.found;
        self.ticks.more = ticked.more;
        self.routing.end = self.routing.end.max(ticked.last);
        if let Some(part) = ticked.part {
            self.window.add_cancelled(part.cancelled);
            self.route(&part.messages, part.upto)?;
        }
        Ok(TickOutcome::Ticked)
    }
}
