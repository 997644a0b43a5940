//! From the feed to the subscriptions: routing of newly numbered messages, and catching up of subscriptions that lag.

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Instant;

use outbox_core::topic;

use super::Engine;
use super::outcomes::Unrecorded;
use super::send::{MAX_OUTSTANDING_BYTES, has_room, outstanding_limit, sort_by_priority};
use crate::failure::Failure;
use crate::feed::{Part, Stored, is_control};
use crate::outcome::decisions::Decision;
use crate::payload_filter::{FilterResult, FilterResults, Predicates};
use crate::pull::blocked;
use crate::pull::window::{self, Accept, Window};
use crate::store::Store;
use crate::subscriptions::{Config, Routed, Subscription};
use crate::transport::Transport;

/// The subscriptions, and how far the feed is routed to them. Ticks advance the end, and routing follows it.
#[derive(Debug)]
pub(super) struct Routing {
    pub config: Config,
    pub predicates: Predicates,
    /// Position up to which the feed is routed.
    pub routed: i64,
    /// Last known position of the feed.
    pub end: i64,
}

/// The time at which a message is routed. Rows of later messages are due later, so that workers claim them in order.
#[derive(Clone, Copy)]
struct Now {
    /// Microseconds, PostgreSQL's epoch.
    time: i64,
    instant: Instant,
}

impl Routing {
    pub(super) fn new() -> Routing {
        Routing { config: Config::default(), predicates: Predicates::new(), routed: 0, end: 0 }
    }

    /// Whether a part of the feed is not routed yet.
    pub(super) fn is_behind(&self) -> bool {
        self.routed < self.end
    }
}

impl<S: Store, T: Transport> Engine<S, T> {
    /// Routes a part of the feed that is not in memory.
    pub(super) fn route_stored(&mut self) -> Result<(), Failure> {
        let part = self.store.read(self.routing.routed, self.routing.end, true)?;
        self.window.add_cancelled(part.cancelled);
        self.route(&part.messages, part.upto)
    }

    /// Routes messages after `routed`, up to `upto`.
    pub(super) fn route(&mut self, messages: &[Stored], upto: i64) -> Result<(), Failure> {
        let mut rest = messages;
        while self.routing.routed < upto {
            self.refresh()?;
            // A part ends with a control message, because the change holds for the positions after it.
            let control = rest.iter().position(is_control);
            let (part, stop) = match control {
                Some(i) => (&rest[..=i], rest[i].message.position),
                None => (rest, upto),
            };
            let Routing { config, predicates, .. } = &mut self.routing;
            let switches = self.store.switches();
            let results = predicates.examine(&mut self.store, &switches, config, part, |_| true);
            self.route_part(part, stop, &results);
            if control.is_some() {
                self.routing.config.begin(stop);
                if stop > self.loading.config_position {
                    // All changes in these messages are read at once: each takes effect at its own position.
                    for stored in rest[part.len() - 1..].iter().filter(|stored| is_control(stored)) {
                        match (changed(stored, "subscription"), changed(stored, "endpoint")) {
                            (Some(id), _) => self.loading.changed.push(id),
                            (None, Some(id)) => self.loading.changed_endpoints.push(id),
                            (None, None) => self.wanted.reload = true,
                        }
                    }
                    self.loading.config_position = upto;
                }
            }
            rest = &rest[part.len()..];
        }
        self.refresh()
    }

    /// Routes messages that the current configuration holds for.
    fn route_part(&mut self, messages: &[Stored], upto: i64, results: &FilterResults) {
        let Engine { store, routing, push, window, unrecorded, .. } = self;
        let (config, routed) = (&mut routing.config, routing.routed);
        let pushing = store.switches().push;
        let now = Now { time: store.now(), instant: store.instant() };
        let mut jobs = Vec::new();
        let mut matched = vec![matched_as::GONE; usize::try_from(upto - routed).unwrap_or(0)];
        for stored in messages {
            let position = stored.message.position;
            let now = Now { time: store.now(), ..now };
            let found = config.route(stored, results, |id, subscription, result| {
                if subscription.progress.lag().is_some() {
                    return;
                }
                let room = !subscription.paused && (subscription.pull || pushing && has_room(subscription, now.time));
                let stored = &*transformed(stored, result);
                match decide_match(unrecorded, (id, subscription), stored, result, room, window, now) {
                    Accept::Done => {}
                    Accept::Send => jobs.extend(push.first_job(window, id, subscription, stored, now.time)),
                    Accept::Full => subscription.progress.fall_behind(position - 1),
                }
            });
            let entry = matched_as::entry(&stored.message.topic, found);
            matched[(position - routed - 1) as usize] = entry;
            if entry != matched_as::CONTROL && !stored.message.topic.is_empty() {
                unrecorded.message_counters.count(stored, entry);
            }
        }
        sort_by_priority(&mut jobs, messages, config);
        push.sender.submit(jobs);
        let active = i32::try_from(config.active_at(upto)).unwrap_or(i32::MAX);
        unrecorded.add_routing(routed + 1, active, matched, now.instant);
        routing.routed = upto;
    }

    /// Reads the feed for the subscription that lags most among those that can take more. Returns whether there is more to
    /// do.
    pub(super) fn catch_up(&mut self) -> Result<bool, Failure> {
        let Engine { store, routing, push, window, unrecorded, .. } = self;
        let Routing { config, predicates, routed, .. } = routing;
        let pushing = store.switches().push;
        let now = Now { time: store.now(), instant: store.instant() };
        let lagging = |s: &Subscription| s.progress.lag().filter(|_| can_catch_up(s, pushing, now));
        let Some(start) = config.subscriptions.values().filter_map(lagging).min() else { return Ok(false) };
        let Part { messages, upto, .. } = store.read(start, *routed, false)?;
        let upto = if messages.is_empty() && upto == start { *routed } else { upto };
        // Subscriptions whose position is within the read part join in from their position on.
        let within = config.subscriptions.iter().filter(|(_, s)| lagging(s).is_some_and(|at| at < upto));
        let mut part: HashSet<i32> = within.map(|(id, _)| *id).collect();
        let results = predicates.examine(store, &store.switches(), config, &messages, |id| part.contains(&id));
        let mut jobs = Vec::new();
        for stored in &messages {
            let position = stored.message.position;
            let now = Now { time: store.now(), ..now };
            config.route(stored, &results, |id, subscription, result| {
                if !part.contains(&id) || subscription.progress.lag().is_none_or(|at| at >= position) {
                    return;
                }
                let room = subscription.pull || has_room(subscription, now.time);
                let stored = &*transformed(stored, result);
                match decide_match(unrecorded, (id, subscription), stored, result, room, window, now) {
                    Accept::Done => {}
                    Accept::Send => jobs.extend(push.first_job(window, id, subscription, stored, now.time)),
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
        sort_by_priority(&mut jobs, &messages, config);
        push.sender.submit(jobs);
        // Even where nothing matched: the checkpoint says how far the subscriptions are.
        unrecorded.begin(now.instant);
        Ok(config.subscriptions.values().any(|s| lagging(s).is_some()))
    }
}

/// Whether a subscription that lags can take more now. A pushed subscription is read for when it is at most half full, so
/// that a reading of the feed is worth its cost.
fn can_catch_up(subscription: &Subscription, pushing: bool, now: Now) -> bool {
    if subscription.paused || !subscription.again.is_empty() || !subscription.may_be_asked(now.instant) {
        return false;
    }
    if subscription.has_ended() {
        return true;
    }
    if subscription.pull {
        return window::has_room(subscription);
    }
    let limit = outstanding_limit(subscription, now.time);
    pushing
        && limit > 0
        && subscription.outstanding <= limit / 2
        && subscription.outstanding_bytes <= MAX_OUTSTANDING_BYTES / 2
        && blocked::has_much_room(subscription)
}

/// Entries of outbox.routing: the number of subscriptions that matched, or a negative code for why none did.
pub mod matched_as {
    use super::{Routed, topic};

    /// No subscription has the topic.
    pub const NO_SUBSCRIPTION: i16 = -1;
    /// The filters of all subscriptions that have the topic reject the message.
    pub const FILTERED: i16 = -2;
    /// The message changes the configuration.
    pub const CONTROL: i16 = -3;
    /// The message is gone, or could not be read.
    pub const GONE: i16 = -4;
    /// All subscriptions that have the topic had ended.
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

/// The message as the subscription's transform has made it.
pub fn transformed<'a>(stored: &'a Stored, result: &FilterResult) -> Cow<'a, Stored> {
    match result {
        FilterResult::Transformed(payload) => Cow::Owned(stored.with_payload(payload.clone())),
        _ => Cow::Borrowed(stored),
    }
}

/// Decides about a message that matches a subscription, before it is sent.
fn decide_match(
    unrecorded: &mut Unrecorded,
    (id, subscription): (i32, &mut Subscription),
    stored: &Stored,
    result: &FilterResult,
    room: bool,
    window: &mut Window,
    now: Now,
) -> Accept {
    let decision = match result {
        _ if stored.unreadable.is_some() && !subscription.ended_since(stored.message.position) => {
            Decision::unreadable(id, stored)
        }
        FilterResult::Later => return Accept::Full,
        FilterResult::Broken(error) => Decision::filter_failed(id, stored, error),
        FilterResult::TransformFailed(error) => Decision::transform_failed(id, stored, error),
        FilterResult::Filtered => Decision::filtered(id, stored),
        _ if subscription.ended_since(stored.message.position) => Decision::unsubscribed(id, stored, 0),
        _ if room => {
            let accepted = window.accept(id, subscription, stored, now.time);
            if accepted == Accept::Done && !subscription.pull {
                // The delivery has a row, or has ended: recovery from the checkpoint must not send it again.
                subscription.progress.decide(stored.message.position);
            }
            return accepted;
        }
        _ => return Accept::Full,
    };
    unrecorded.decide(decision, now.instant);
    subscription.progress.decide(stored.message.position);
    Accept::Done
}

/// The subscription or endpoint that a control message is about; `None` if the message is about something else.
fn changed(stored: &Stored, kind: &str) -> Option<i32> {
    let content: serde_json::Value = serde_json::from_slice(&stored.message.content).ok()?;
    i32::try_from(content.get(kind)?.as_i64()?).ok()
}
