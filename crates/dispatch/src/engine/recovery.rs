//! Recovery: a new incarnation of the dispatcher continues from the last checkpoint.

use outbox_core::progress::Progress;

use super::routing::{Routing, transformed};
use super::{CHUNK, Engine};
use crate::failure::Failure;
use crate::feed::{Stored, TickStatus};
use crate::outcome::decisions::Decision;
use crate::payload_filter::FilterResult;
use crate::pull::window;
use crate::store::Store;
use crate::subscriptions::Subscription;
use crate::transport::Transport;

/// The data that recovery has found.
pub(super) enum Recovery {
    /// The data is this database's own, and the dispatcher continues.
    Own,
    /// The data was copied from another database.
    Copied,
    /// There is no data yet.
    Nothing,
    /// Another session holds the sequencer's lock.
    Busy,
}

/// This incarnation of the dispatcher, for its checkpoints. Set by recovery; each record advances the checkpoint.
#[derive(Debug, Default)]
pub(super) struct Incarnation {
    pub number: i64,
    /// Id of the last checkpoint.
    pub checkpoint_id: i64,
    /// Whether this incarnation has continued from the last checkpoint. A tick that finds copied data takes that back.
    pub recovered: bool,
}

impl<S: Store, T: Transport> Engine<S, T> {
    /// Continues from the last checkpoint. An outbox in which nothing was ever enqueued is left alone: a restore may be
    /// about to load the original's rows.
    pub(super) fn recover(&mut self) -> Result<Recovery, Failure> {
        let ticked = self.store.tick(CHUNK, None)?;
        self.ticks.more = ticked.more;
        self.ticks.is_locked_out = ticked.status == TickStatus::Busy;
        match ticked.status {
            TickStatus::Copied => return Ok(Recovery::Copied),
            TickStatus::Fresh => return Ok(Recovery::Nothing),
            TickStatus::Busy => return Ok(Recovery::Busy),
            TickStatus::Ticked | TickStatus::Refused(_) => {}
        }
        self.routing.end = ticked.last;
        let last = self.store.last_checkpoint()?.unwrap_or_default();
        self.incarnation.checkpoint_id = last.id;
        self.incarnation.number = last.incarnation + 1;
        let checkpoint = last.checkpoint;
        self.routing.routed = checkpoint.routed;
        self.load_config()?;
        window::recover(&mut self.routing.config);
        // Cancelled messages are read before any message is sent.
        self.store.take_deliveries_changed();
        let Engine { store, window, push, routing, wanted, .. } = self;
        (wanted.manual_sends, wanted.replays) = (true, true);
        let changes = store.changes()?;
        window.set_cancelled(changes.cancelled);
        push.order.rescan(changes.keys, window.blocked_keys());
        push.blocked.count_all(store, &mut routing.config)?;
        // Everything is read before anything is sent: if a reading fails, recovery begins again.
        let mut again = Vec::new();
        for (id, saved) in &checkpoint.subscriptions {
            let is_readable = !self.loading.unreadable.contains(id);
            if is_readable && self.routing.config.subscriptions.contains_key(id) {
                again.push((*id, self.read_positions(&saved.open)?));
            }
        }
        for (id, saved) in checkpoint.subscriptions {
            let Some(known) = self.routing.config.subscriptions.get_mut(&id) else { continue };
            known.progress = Progress::behind(saved.position);
            // With these positions outstanding, a subscription with a transform lags: see `transform_again`.
            if known.transform.is_none() || saved.open.is_empty() {
                known.progress.catch_up(saved.position, checkpoint.routed);
            }
            if self.loading.unreadable.contains(&id) {
                saved.open.iter().for_each(|position| known.progress.hand_out(*position));
            }
        }
        for (id, messages) in again {
            self.deliver_again(id, messages);
        }
        self.push.retries.rescan(&self.routing.config);
        self.incarnation.recovered = true;
        Ok(Recovery::Own)
    }

    /// Reads the messages of these positions, which ascend.
    fn read_positions(&mut self, positions: &[i64]) -> Result<Vec<Stored>, Failure> {
        let (mut found, mut rest) = (Vec::new(), positions);
        while let (Some(first), Some(last)) = (rest.first(), rest.last()) {
            let part = self.store.read(first - 1, *last, false)?;
            let (read, later) = rest.split_at(rest.partition_point(|position| *position <= part.upto.max(*first)));
            let is_wanted = |stored: &Stored| read.binary_search(&stored.message.position).is_ok();
            found.extend(part.messages.into_iter().filter(is_wanted));
            rest = later;
        }
        Ok(found)
    }

    /// Sends the open positions of the last checkpoint again: their deliveries had no outcome when the last incarnation
    /// ended, but a later position had one. If the subscription has a transform, they wait for their turn to call it.
    fn deliver_again(&mut self, subscription: i32, messages: Vec<Stored>) {
        let Some(known) = self.routing.config.subscriptions.get_mut(&subscription) else { return };
        if known.transform.is_none() {
            return self.send_again(subscription, messages, &|_| &FilterResult::Holds);
        }
        messages.iter().for_each(|stored| known.progress.hand_out(stored.message.position));
        known.again = messages;
    }

    /// Calls the transforms with the messages that are to be sent again, and sends what they have made. The other messages
    /// wait on. Returns whether more can be called now.
    pub(super) fn transform_again(&mut self) -> bool {
        let (now, config) = (self.store.instant(), &self.routing.config);
        let waits = |s: &Subscription| !s.again.is_empty() && !s.paused && s.may_be_asked(now);
        if !self.store.switches().push {
            return false;
        }
        let ids: Vec<i32> = config.subscriptions.iter().filter(|(_, s)| waits(s)).map(|(id, _)| *id).collect();
        for id in ids {
            let Engine { store, routing: Routing { config, predicates, .. }, .. } = self;
            let messages = config.subscriptions.get_mut(&id).map(|s| std::mem::take(&mut s.again)).unwrap_or_default();
            let results = predicates.transform(store, &store.switches(), config, id, &messages);
            self.send_again(id, messages, &|position| results.of(position, id));
        }
        self.routing.config.subscriptions.values().any(waits)
    }

    fn send_again<'a>(&mut self, id: i32, messages: Vec<Stored>, result: &dyn Fn(i64) -> &'a FilterResult) {
        let Engine { store, routing, push, window, unrecorded, .. } = self;
        let Some(known) = routing.config.subscriptions.get_mut(&id) else { return };
        let (time, instant) = (store.now(), store.instant());
        let mut jobs = Vec::new();
        for stored in messages {
            let position = stored.message.position;
            let decision = if window.is_cancelled(stored.message.id) {
                Decision::cancelled(id, &stored, 0)
            } else if stored.unreadable.is_some() {
                Decision::unreadable(id, &stored)
            } else {
                match result(position) {
                    FilterResult::Later => {
                        known.again.push(stored);
                        continue;
                    }
                    FilterResult::TransformFailed(error) => Decision::transform_failed(id, &stored, error),
                    FilterResult::Filtered => Decision::filtered(id, &stored),
                    result => {
                        jobs.extend(push.first_job(window, id, known, &transformed(&stored, result), time));
                        continue;
                    }
                }
            };
            known.progress.settle(position);
            unrecorded.decide(decision, instant);
        }
        if let Some(position) = known.progress.lag().filter(|_| known.again.is_empty()) {
            known.progress.catch_up(position, routing.routed);
        }
        push.sender.submit(jobs);
        if window.rows() > 0 {
            unrecorded.begin(instant);
        }
    }
}
