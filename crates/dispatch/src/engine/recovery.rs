//! Recovery: a new incarnation of the dispatcher continues from the last checkpoint.

use std::sync::atomic::Ordering;

use outbox_core::progress::Progress;

use super::{CHUNK, Engine};
use crate::dispatch::feed::reading;
use crate::dispatch::outcome::decisions::Decision;
use crate::dispatch::outcome::record::Checkpoint;
use crate::dispatch::pull::window;
use crate::pg::txn::{self, Failure};

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
#[derive(Default)]
pub(super) struct Incarnation {
    pub number: i64,
    /// Id of the last checkpoint.
    pub checkpoint_id: i64,
    /// Whether this incarnation has continued from the last checkpoint. A tick that finds copied data takes that back.
    pub recovered: bool,
}

impl Engine {
    /// Continues from the last checkpoint. An outbox in which nothing was ever enqueued is left alone: a restore may be
    /// about to load the original's rows.
    pub(super) fn recover(&mut self) -> Result<Recovery, Failure> {
        let (reader, recorder) = (&mut self.store.reader, &mut self.store.recorder);
        let ticked = txn::run(|| Ok(reader.tick(CHUNK)))?;
        self.ticks.more = ticked.more;
        self.ticks.is_locked_out = &*ticked.status == "busy";
        match &*ticked.status {
            "copied" => return Ok(Recovery::Copied),
            "fresh" => return Ok(Recovery::Nothing),
            "busy" => return Ok(Recovery::Busy),
            _ => {}
        }
        self.routing.end = ticked.last;
        let last = txn::run(|| Ok(recorder.last()))?;
        let (id, number, checkpoint) = last.unwrap_or((0, 0, Checkpoint { routed: 0, subscriptions: Vec::new() }));
        self.incarnation.checkpoint_id = id;
        self.incarnation.number = number + 1;
        self.routing.routed = checkpoint.routed;
        self.load_config()?;
        window::recover(&mut self.routing.config);
        // Cancelled messages are read before any message is sent.
        self.slot.deliveries_changed.store(false, Ordering::SeqCst);
        let Engine { window, push, routing, wanted, .. } = self;
        (wanted.manual_sends, wanted.replays) = (true, true);
        txn::run(|| {
            let _ = window.load_cancelled();
            push.order.rescan(window.blocked_keys());
            push.blocked.count_all(&mut routing.config);
            Ok(())
        })?;
        for (subscription, saved) in checkpoint.subscriptions {
            let Some(known) = self.routing.config.subscriptions.get_mut(&subscription) else { continue };
            known.progress = Progress::behind(saved.position);
            known.progress.catch_up(saved.position, checkpoint.routed);
            if self.loading.unreadable.contains(&subscription) {
                saved.open.iter().for_each(|position| known.progress.hand_out(*position));
                continue;
            }
            self.deliver_again(subscription, &saved.open)?;
        }
        self.push.retries.rescan(&self.routing.config);
        self.incarnation.recovered = true;
        Ok(Recovery::Own)
    }

    /// Sends the open positions of the last checkpoint again: their deliveries had no outcome when the last incarnation
    /// ended, but a later position had one. Positions ascend.
    fn deliver_again(&mut self, subscription: i32, open: &[i64]) -> Result<(), Failure> {
        let Engine { store, routing, push, window, unrecorded, .. } = self;
        let mut rest = open;
        while let (Some(first), Some(last)) = (rest.first(), rest.last()) {
            let (found, upto) = reading(&mut store.reader, |reader| Ok(reader.read(first - 1, *last, 1)))?;
            let (read, later) = rest.split_at(rest.partition_point(|position| *position <= upto.max(*first)));
            let mut jobs = Vec::new();
            if let Some(known) = routing.config.subscriptions.get_mut(&subscription) {
                for stored in found.iter().filter(|stored| read.binary_search(&stored.message.position).is_ok()) {
                    if window.is_cancelled(stored.message.id) {
                        unrecorded.decide(Decision::cancelled(subscription, stored, 0));
                    } else if stored.unreadable.is_some() {
                        unrecorded.decide(Decision::unreadable(subscription, stored));
                    } else {
                        jobs.extend(push.first_job(window, subscription, known, stored));
                    }
                }
            }
            push.sender.submit(jobs);
            rest = later;
        }
        if window.rows() > 0 {
            unrecorded.begin();
        }
        Ok(())
    }
}
