//! From the feed to the subscriptions: routing of newly numbered messages, and catching up of subscriptions that lag.

use std::collections::HashSet;
use std::time::Instant;

use outbox_core::topic;

use super::Engine;
use crate::dispatch::engine::send::{MAX_OUTSTANDING_BYTES, has_room, outstanding_limit, send_first, sort_by_priority};
use crate::dispatch::feed;
use crate::dispatch::feed::Stored;
use crate::dispatch::outcome::decisions::{Decision, Decisions};
use crate::dispatch::outcome::record::RoutingRow;
use crate::dispatch::payload_filter::{FilterResult, FilterResults};
use crate::dispatch::pull::blocked;
use crate::dispatch::pull::window;
use crate::dispatch::pull::window::{Accept, Window};
use crate::dispatch::subscriptions::{Routed, Subscription};
use crate::pg::txn::Failure;
use crate::settings;

/// Rows of the feed (of up to 960 messages each) that are read at once.
const READ_ROWS: i64 = 1;

impl Engine {
    /// Routes a part of the feed that is not in memory.
    pub(crate) fn route_behind(&mut self) -> Result<(), Failure> {
        let Engine { reader, routed, end, window, .. } = self;
        let (messages, upto) = feed::reading(reader, |reader| {
            let (messages, upto) = reader.read(*routed, *end, READ_ROWS);
            window.load_cancelled_among(&messages);
            Ok((messages, upto))
        })?;
        self.route(&messages, upto)
    }

    /// Routes messages after `routed`, up to `upto`.
    pub(crate) fn route(&mut self, messages: &[Stored], upto: i64) -> Result<(), Failure> {
        let mut rest = messages;
        while self.routed < upto {
            self.refresh()?;
            // A part ends with a control message, because the change holds for the positions after it.
            let control = rest.iter().position(is_control);
            let (part, stop) = match control {
                Some(i) => (&rest[..=i], rest[i].message.position),
                None => (rest, upto),
            };
            let results = self.predicates.examine(&mut self.config, part, |_| true);
            self.route_part(part, stop, &results);
            if control.is_some() {
                self.config.begin(stop);
                if stop > self.horizon {
                    // All changes in these messages are read at once: each takes effect at its own position.
                    let behind = rest[part.len() - 1..].iter().filter(|stored| is_control(stored));
                    for id in behind.map(changed_subscription) {
                        match id {
                            Some(id) => self.changed.push(id),
                            None => self.reload = true,
                        }
                    }
                    self.horizon = upto;
                }
            }
            rest = &rest[part.len()..];
        }
        self.refresh()
    }

    pub(crate) fn route_part(&mut self, messages: &[Stored], upto: i64, results: &FilterResults) {
        let Engine { config, in_flight, routed, window, order, decisions, message_counters, .. } = self;
        let push = settings::PUSH.get();
        let mut jobs = Vec::new();
        let mut matched = vec![matched_as::GONE; usize::try_from(upto - *routed).unwrap_or(0)];
        for stored in messages {
            let position = stored.message.position;
            let found = config.route(stored, results, |id, subscription, result| {
                if subscription.progress.lag().is_some() {
                    return;
                }
                let room = !subscription.paused && (subscription.pull || push && has_room(subscription));
                match decide_match(decisions, id, subscription, stored, result, room, window) {
                    Accept::Done => {}
                    Accept::Send => send_first(in_flight, &mut jobs, id, subscription, stored, order, window),
                    Accept::Full => subscription.progress.fall_behind(position - 1),
                }
            });
            let entry = matched_as::entry(&stored.message.topic, found);
            matched[(position - *routed - 1) as usize] = entry;
            if entry != matched_as::CONTROL && !stored.message.topic.is_empty() {
                message_counters.count(stored, entry);
            }
        }
        sort_by_priority(&mut jobs, messages, config);
        self.sender.submit(jobs);
        let active = i32::try_from(config.active_at(upto)).unwrap_or(i32::MAX);
        match self.routing.last_mut() {
            Some(row) if row.active == active && row.first + row.matched.len() as i64 == *routed + 1 => {
                row.matched.extend(matched);
            }
            _ => self.routing.push(RoutingRow { first: *routed + 1, active, matched }),
        }
        *routed = upto;
        self.unrecorded_since.get_or_insert_with(Instant::now);
    }

    /// Reads the feed for the subscription that lags most among those that can take more. Returns whether there is more to
    /// do.
    pub(crate) fn catch_up(&mut self) -> Result<bool, Failure> {
        let push = settings::PUSH.get();
        // A pushed subscription is read for when it is at most half full, so that a reading of the feed is worth its cost.
        let ready = |s: &Subscription| match s.pull {
            _ if s.paused || !s.may_be_asked() => false,
            _ if s.has_ended() => true,
            true => window::has_room(s),
            false => {
                let limit = outstanding_limit(s);
                push && limit > 0
                    && s.outstanding <= limit / 2
                    && s.outstanding_bytes <= MAX_OUTSTANDING_BYTES / 2
                    && blocked::has_much_room(s)
            }
        };
        let lagging = |s: &Subscription| s.progress.lag().filter(|_| ready(s));
        let Some(start) = self.config.subscriptions.values().filter_map(lagging).min() else { return Ok(false) };
        let Engine { reader, config, in_flight, routed, window, order, predicates, decisions, .. } = self;
        let (messages, upto) = feed::reading(reader, |reader| Ok(reader.read(start, *routed, READ_ROWS)))?;
        let upto = if messages.is_empty() && upto == start { *routed } else { upto };
        // Subscriptions whose position is within the read part join in from their position on.
        let mut part: HashSet<i32> = config
            .subscriptions
            .iter()
            .filter(|(_, s)| lagging(s).is_some_and(|at| at < upto))
            .map(|(id, _)| *id)
            .collect();
        let results = predicates.examine(config, &messages, |id| part.contains(&id));
        let mut jobs = Vec::new();
        for stored in &messages {
            let position = stored.message.position;
            config.route(stored, &results, |id, subscription, result| {
                if !part.contains(&id) || subscription.progress.lag().is_none_or(|at| at >= position) {
                    return;
                }
                let room = subscription.pull || has_room(subscription);
                match decide_match(decisions, id, subscription, stored, result, room, window) {
                    Accept::Done => {}
                    Accept::Send => send_first(in_flight, &mut jobs, id, subscription, stored, order, window),
                    Accept::Full => {
                        subscription.progress.fall_behind(position - 1);
                        part.remove(&id);
                    }
                }
            });
        }
        for id in part {
            if let Some(subscription) = config.subscriptions.get_mut(&id) {
                subscription.progress.catch_up(upto, *routed);
            }
        }
        sort_by_priority(&mut jobs, &messages, &self.config);
        self.sender.submit(jobs);
        if self.window.rows() > 0 || self.decisions.len() > 0 {
            self.unrecorded_since.get_or_insert_with(Instant::now);
        }
        Ok(self.config.subscriptions.values().any(|s| lagging(s).is_some()))
    }
}

/// Entries of outbox.routing: the number of subscriptions that matched, or a negative code for why none did.
pub mod matched_as {
    use super::{Routed, topic};

    pub const NO_SUBSCRIPTION: i16 = -1;
    pub const FILTERED: i16 = -2;
    pub const CONTROL: i16 = -3;
    pub const GONE: i16 = -4;
    pub const INACTIVE: i16 = -5;

    /// The entry of a routed message.
    pub fn entry(of: &str, found: Routed) -> i16 {
        match found {
            _ if of == topic::CONTROL => CONTROL,
            Routed::NoSubscription => NO_SUBSCRIPTION,
            Routed::Filtered => FILTERED,
            Routed::Inactive => INACTIVE,
            Routed::Matched(n) => i16::try_from(n).unwrap_or(i16::MAX),
        }
    }
}

/// Whether a message changes the configuration.
pub fn is_control(stored: &Stored) -> bool {
    &*stored.message.topic == topic::CONTROL
}

/// Decides about a message that matches a subscription, before it is sent.
fn decide_match(
    decisions: &mut Decisions,
    id: i32,
    subscription: &mut Subscription,
    stored: &Stored,
    result: &FilterResult,
    room: bool,
    window: &mut Window,
) -> Accept {
    let decision = match result {
        _ if stored.unreadable.is_some() && !subscription.ended_since(stored.message.position) => {
            Decision::unreadable(id, stored)
        }
        FilterResult::Later => return Accept::Full,
        FilterResult::Broken(error) => Decision::filter_failed(id, stored, error),
        _ if subscription.ended_since(stored.message.position) => Decision::unsubscribed(id, stored, 0),
        _ if room => {
            let accepted = window.accept(id, subscription, stored);
            if accepted == Accept::Done && !subscription.pull {
                // The delivery has a row, or has ended: recovery from the checkpoint must not send it again.
                subscription.progress.decide(stored.message.position);
            }
            return accepted;
        }
        _ => return Accept::Full,
    };
    decisions.push(decision);
    subscription.progress.decide(stored.message.position);
    Accept::Done
}

/// The subscription that a control message is about; `None` if the message is about something else.
fn changed_subscription(stored: &Stored) -> Option<i32> {
    let content: serde_json::Value = serde_json::from_slice(&stored.message.content).ok()?;
    i32::try_from(content.get("subscription")?.as_i64()?).ok()
}
