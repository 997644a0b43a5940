//! The tick: the sequencer numbers new messages, and they are routed from memory.

use std::time::{Duration, Instant};

use super::{CHUNK, Engine};
use crate::dispatch::feed::reading;
use crate::pg::txn::Failure;

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
#[derive(Default)]
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
    pub fn wait(&self, generation: u64, poll: Duration) -> Duration {
        let since = self.last.map_or(Duration::MAX, |at| at.elapsed());
        if !self.more && self.found >= BUSY_TICK && since < BUSY_INTERVAL {
            BUSY_INTERVAL - since
        } else if self.more || generation != self.generation || since >= poll {
            Duration::ZERO
        } else {
            Duration::MAX
        }
    }
}

impl Engine {
    /// Runs the sequencer and routes the messages that it numbered.
    pub(super) fn tick(&mut self) -> Result<TickOutcome, Failure> {
        let Engine { store, routing, window, .. } = self;
        let (end_before, caught_up) = (routing.end, !routing.is_behind());
        let (ticked, messages) = reading(&mut store.reader, |reader| {
            let ticked = reader.tick(CHUNK);
            // The messages are read in the same transaction, and used only after it has committed.
            let messages = (caught_up && ticked.first == end_before + 1 && !ticked.ids.is_empty())
                .then(|| reader.messages(ticked.first, &ticked.ids, &ticked.segments));
            window.load_cancelled_among(messages.as_ref().map_or(&[], |(messages, _)| messages));
            Ok((ticked, messages))
        })?;
        self.ticks.is_locked_out = &*ticked.status == "busy";
        match &*ticked.status {
            "busy" => return Ok(TickOutcome::Busy),
            "ticked" | "idle" => {}
            "copied" => {
                self.incarnation.recovered = false;
                return Ok(TickOutcome::Copied);
            }
            other => return Err(Failure::new(format!("the sequencer refuses: {other}"))),
        }
        self.ticks.last = Some(Instant::now());
        self.ticks.found = ticked.ids.len();
        self.ticks.more = ticked.more;
        self.routing.end = self.routing.end.max(ticked.last);
        if let Some((messages, read)) = messages {
            self.route(&messages, ticked.first + read as i64 - 1)?;
        }
        Ok(TickOutcome::Ticked)
    }
}
