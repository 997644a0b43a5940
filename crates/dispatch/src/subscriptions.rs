//! Subscriptions, as the dispatcher needs them, and the routing decision.
//!
//! A subscription has versions, each effective after the position of its control message. The version that a message meets
//! depends on the message's position alone. So the configuration gives the same answer live, after a crash and in a replay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outbox_core::filter::{Filter, Subject};
use outbox_core::format::Format;
use outbox_core::ids::IdMap;
use outbox_core::pattern::Pattern;
use outbox_core::policy::Policy;
use outbox_core::progress::Progress;
use outbox_core::router::{Router, Scratch};
use outbox_core::schedule::Schedule;
use outbox_core::stream;
use outbox_sender::Shape;
use serde_json::Value;

use crate::failure::Failure;
use crate::feed::{Stored, subject};
use crate::payload_filter::{FilterResult, FilterResults};
use crate::store::Checkpoint;

/// A version of a subscription with the subscription's settings, as the store reads it. Durations are microseconds.
#[derive(Clone, Debug, Default)]
pub struct VersionRow {
    /// Id of the subscription.
    pub subscription: i32,
    /// The endpoint; `None`: workers claim the deliveries.
    pub endpoint: Option<i32>,
    /// The limit of attempts.
    pub max_attempts: Option<i32>,
    /// Number of the version.
    pub version: i32,
    /// Position of the version's control message.
    pub position: i64,
    /// Position of the next version's control message, if there is one.
    pub until: Option<i64>,
    /// The subscription begins here with history, after this position.
    pub starts_after: Option<i64>,
    /// Whether the subscription is active in this version.
    pub active: bool,
    /// Patterns of topics.
    pub topics: Vec<String>,
    /// The filter as JSON.
    pub filter: Option<String>,
    /// `none`, `key` or `strict`.
    pub ordering: Option<String>,
    /// Whether a dead delivery blocks the later ones of its key.
    pub block: bool,
    /// The ttl.
    pub ttl: Option<i64>,
    /// The age of a message from which on no retry begins.
    pub max_age: Option<i64>,
    /// The schedule of retries as JSON: the subscription's or else the endpoint's.
    pub schedule: Option<String>,
    /// The subscription's policy as JSON.
    pub policy: Option<String>,
    /// The endpoint's policy as JSON.
    pub endpoint_policy: Option<String>,
    /// The format of requests.
    pub format: Option<String>,
    /// Messages per request.
    pub batch_size: Option<i32>,
    /// The wait for a batch to fill.
    pub batch_wait: i64,
    /// Whether the subscription is paused.
    pub paused: bool,
    /// `messages`, `events` or `all`.
    pub source: Option<String>,
    /// The transform.
    pub transform: Option<Transform>,
}

/// A function of the user that makes the payload of a subscription's deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transform {
    /// Its signature.
    pub function: Arc<str>,
    /// Its owner when it was set.
    pub owner: Arc<str>,
}

/// A version of a subscription: its filter, and the positions for which it holds.
#[derive(Debug)]
struct Version {
    number: i32,
    /// Position of the control message.
    position: i64,
    /// The subscription begins here with history: the version holds for the positions after this one.
    starts_after: Option<i64>,
    /// Position of the next version's control message; `i64::MAX`: the version is still in force.
    until: i64,
    active: bool,
    filter: Filter,
    source: Source,
}

/// Which messages a subscription takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Messages,
    Events,
    All,
}

impl Source {
    fn parse(text: &str) -> Source {
        match text {
            "events" => Source::Events,
            "all" => Source::All,
            _ => Source::Messages,
        }
    }

    fn takes(self, segment: i16) -> bool {
        match self {
            Source::Messages => segment != stream::SEGMENT,
            Source::Events => segment == stream::SEGMENT,
            Source::All => true,
        }
    }
}

/// One subscription.
#[derive(Debug)]
pub struct Subscription {
    /// The endpoint; 0: none.
    pub endpoint: i32,
    /// Workers claim the deliveries: routed messages become rows of outbox.delivery.
    pub pull: bool,
    /// Which deliveries wait for one another.
    pub ordering: Ordering,
    /// A dead delivery blocks the later ones of its key.
    pub block: bool,
    /// Deliveries expire this many microseconds after the later of enqueue and `deliver_at`.
    pub ttl: Option<i64>,
    /// The limit of attempts.
    pub max_attempts: u32,
    /// No retry begins when the message is older than this, counted from its enqueue.
    pub max_age: Option<Duration>,
    /// The schedule of retries.
    pub schedule: Schedule,
    /// The properties of the requests.
    pub shape: Arc<Shape>,
    versions: Vec<Version>,
    /// Versions up to this position have begun.
    begun: i64,
    /// Routed messages wait.
    pub paused: bool,
    /// The transform. It holds for the messages that are routed from now on.
    pub transform: Option<Transform>,
    /// Filter and transform are not evaluated before this time: one of them took too long, or that of another subscription
    /// did.
    pub slow_until: Option<Instant>,
    /// Time per payload of the last evaluation of the filter; `None`: it has not been evaluated.
    pub filter_cost: Option<Duration>,
    /// The same of the transform.
    pub transform_cost: Option<Duration>,
    /// How far the feed is routed to the subscription.
    pub progress: Progress,
    /// Messages that the last incarnation of the dispatcher has sent, or was about to send, and that the transform has not
    /// been called with since. The subscription lags until there are none.
    pub again: Vec<Stored>,
    /// Push: jobs in flight or waiting in memory for their turn, and the bytes of their contents. Pull: approximate number
    /// of rows in the window.
    pub outstanding: usize,
    /// See `outstanding`.
    pub outstanding_bytes: usize,
    /// Push: approximate number of rows that wait for the first of their key.
    pub blocked: usize,
    /// Jobs that may be with the HTTP thread while the endpoint takes little, and the time until which this limit holds
    /// (microseconds, PostgreSQL's epoch; 0: no limit).
    pub limit: (usize, i64),
}

/// Which deliveries of a subscription wait for one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ordering {
    /// None.
    None,
    /// Those of the same key.
    Key,
    /// All.
    Strict,
}

impl Ordering {
    fn parse(text: &str) -> Ordering {
        match text {
            "key" => Ordering::Key,
            "strict" => Ordering::Strict,
            _ => Ordering::None,
        }
    }
}

impl Subscription {
    /// A subscription with default settings and no version.
    fn new(begun: i64) -> Subscription {
        Subscription {
            endpoint: 0,
            pull: false,
            ordering: Ordering::None,
            block: false,
            ttl: None,
            max_attempts: u32::MAX,
            max_age: None,
            schedule: Schedule::default(),
            shape: Arc::new(Shape::default()),
            versions: Vec::new(),
            begun,
            paused: false,
            transform: None,
            slow_until: None,
            filter_cost: None,
            transform_cost: None,
            progress: Progress::live(),
            again: Vec::new(),
            outstanding: 0,
            outstanding_bytes: 0,
            blocked: 0,
            limit: (usize::MAX, 0),
        }
    }

    /// Index of the version that a message at `position` meets: the newest of those that hold there.
    fn version_at(&self, position: i64) -> Option<usize> {
        let holds = |v: &Version| {
            let after = v.starts_after.filter(|_| v.position <= self.begun).unwrap_or(v.position);
            position > after && position <= v.until
        };
        self.versions.iter().rposition(holds)
    }

    /// Whether this version starts the subscription: it is active, and the first one or the successor of an inactive one.
    fn activates(&self, version: usize) -> bool {
        self.versions[version].active && (version == 0 || !self.versions[version - 1].active)
    }

    /// Notes that a message is in flight, or waits in memory for its turn.
    pub fn add_outstanding(&mut self, bytes: usize) {
        self.outstanding += 1;
        self.outstanding_bytes += bytes;
    }

    /// Notes that a message is neither in flight nor waiting in memory any more.
    pub fn remove_outstanding(&mut self, bytes: usize) {
        self.outstanding -= 1;
        self.outstanding_bytes -= bytes;
    }

    /// Whether the subscription has been unsubscribed. Messages that it has not got are skipped.
    pub fn has_ended(&self) -> bool {
        self.versions.iter().rfind(|v| v.position <= self.begun).is_some_and(|v| !v.active)
    }

    /// Whether the subscription was unsubscribed after this position, even if it has been subscribed again since.
    pub fn ended_since(&self, position: i64) -> bool {
        let met = self.version_at(position);
        met.is_some_and(|i| self.versions[i + 1..].iter().any(|v| !v.active && v.position <= self.begun))
    }

    /// Whether filter and transform may be evaluated now.
    pub fn may_be_asked(&self, now: Instant) -> bool {
        self.slow_until.is_none_or(|until| until <= now)
    }
}

/// All subscriptions, compiled.
#[derive(Default, Debug)]
pub struct Config {
    /// The subscriptions by id.
    pub subscriptions: IdMap<i32, Subscription>,
    /// Position and subscription of control messages that have not taken effect yet.
    to_begin: Vec<(i64, i32)>,
    /// Some subscription has a filter on the payload, or a transform.
    pub asks_payload: bool,
    /// Maps topics and filters to owners: a subscription and the index of its version.
    router: Router<(i32, u32)>,
    scratch: Scratch,
    found: Vec<(i32, u32)>,
    /// By position, the change in the number of active subscriptions.
    activity: BTreeMap<i64, i64>,
    /// A position, and the number of subscriptions that are active there.
    active: (i64, i64),
}

/// The result of routing a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Routed {
    /// No subscription has the topic at this position.
    NoSubscription,
    /// The filters of all subscriptions that have the topic reject the message.
    Filtered,
    /// All subscriptions that have the topic had ended.
    Inactive,
    /// This many subscriptions match.
    Matched(u32),
}

impl Config {
    /// How far all subscriptions are, when the feed is routed up to `routed`.
    pub fn checkpoint(&self, routed: i64) -> Checkpoint {
        let saved = self.subscriptions.iter().filter_map(|(id, s)| Some((*id, s.progress.save()?)));
        let mut subscriptions: Vec<_> = saved.collect();
        subscriptions.sort_unstable_by_key(|(id, _)| *id);
        Checkpoint { routed, subscriptions }
    }

    /// Calls `matched` for each subscription that a message goes to, or may go to: see `FilterResult`. The parts of an
    /// unreadable message that cannot be read (topic, attributes, payload) count as a match.
    pub fn route(
        &mut self,
        stored: &Stored,
        results: &FilterResults,
        mut matched: impl FnMut(i32, &mut Subscription, &FilterResult),
    ) -> Routed {
        let (position, topic, subject) = (stored.message.position, &*stored.message.topic, &subject(stored));
        if topic.is_empty() {
            let all = self.subscriptions.iter().filter_map(|(id, s)| Some((*id, s.version_at(position)? as u32)));
            self.found = all.collect();
        } else {
            self.router.matches(topic, subject, &mut self.scratch, &mut self.found);
        }
        let mut count = 0;
        for &(id, index) in &self.found {
            let Some(subscription) = self.subscriptions.get_mut(&id) else { continue };
            if subscription.version_at(position) != Some(index as usize) {
                continue;
            }
            let version = &subscription.versions[index as usize];
            if !version.active || !version.source.takes(stored.segment) {
                continue;
            }
            if topic.is_empty() || version.filter.matches(subject) {
                let decided =
                    version.filter.payload.is_none() && subscription.transform.is_none() || stored.unreadable.is_some();
                let result = if decided { &FilterResult::Holds } else { results.of(position, id) };
                if *result != FilterResult::Fails {
                    count += 1;
                    matched(id, subscription, result);
                }
            }
        }
        if count > 0 { Routed::Matched(count) } else { self.why_none(position, topic, stored.segment) }
    }

    /// Says why a message matches no subscription. The first subscription that has the topic and is active decides.
    fn why_none(&mut self, position: i64, topic: &str, segment: i16) -> Routed {
        let mut none = Routed::NoSubscription;
        // A message whose topic cannot be read may have any topic.
        let any = self.found.iter().copied().filter(|_| topic.is_empty());
        for (id, index) in any.chain(self.router.on_topic(topic, &mut self.scratch)) {
            let Some(subscription) = self.subscriptions.get(&id) else { continue };
            if subscription.version_at(position) != Some(index as usize) {
                continue;
            }
            let version = &subscription.versions[index as usize];
            if version.source.takes(segment) {
                if version.active {
                    return Routed::Filtered;
                }
                none = Routed::Inactive;
            }
        }
        none
    }

    /// Calls `ask` for each subscription whose filter on the payload or transform decides whether it gets a message, with the
    /// path of the filter.
    pub fn undecided(
        &mut self,
        (position, segment): (i64, i16),
        topic: &str,
        subject: &Subject<'_>,
        mut ask: impl FnMut(i32, &Subscription, Option<&str>),
    ) {
        self.router.matches(topic, subject, &mut self.scratch, &mut self.found);
        for &(id, index) in &self.found {
            let Some(subscription) = self.subscriptions.get(&id) else { continue };
            if subscription.version_at(position) != Some(index as usize) {
                continue;
            }
            let version = &subscription.versions[index as usize];
            if !version.active || !version.source.takes(segment) {
                continue;
            }
            let path = version.filter.payload.as_deref();
            if (path.is_some() || subscription.transform.is_some()) && version.filter.matches(subject) {
                ask(id, subscription, path);
            }
        }
    }

    /// Number of subscriptions that are active at `position`. The cost is that of the changes between the last position
    /// asked for and this one.
    pub fn active_at(&mut self, position: i64) -> usize {
        let (upto, count) = self.active;
        let change = if position >= upto {
            self.activity.range(upto..position).map(|(_, change)| change).sum::<i64>()
        } else {
            -self.activity.range(position..upto).map(|(_, change)| change).sum::<i64>()
        };
        self.active = (position, count + change);
        usize::try_from(count + change).unwrap_or(0)
    }

    /// Called when control messages up to `routed` have been routed: the versions that they announce begin.
    pub fn begin(&mut self, routed: i64) {
        if self.to_begin.iter().all(|(position, _)| *position > routed) {
            return;
        }
        let due: Vec<(i64, i32)> = self.to_begin.iter().copied().filter(|(position, _)| *position <= routed).collect();
        self.to_begin.retain(|(position, _)| *position > routed);
        for (position, id) in due {
            let Some(subscription) = self.subscriptions.get_mut(&id).filter(|s| s.begun < position) else { continue };
            subscription.begun = position;
            if let Some(i) = subscription.versions.iter().position(|v| v.position == position)
                && subscription.activates(i)
            {
                let after = subscription.versions[i].starts_after;
                if i == 0 {
                    // The subscription is new: it has no jobs and no rows yet, even if recovery had to assume others.
                    subscription.outstanding = 0;
                    subscription.progress = after.map_or_else(Progress::live, Progress::behind);
                } else if let Some(after) = after {
                    subscription.progress.go_back(after);
                    subscription.again.retain(|stored| stored.message.position <= after);
                }
                // A subscription that is taken up again without history keeps its lag: it still has to handle the messages
                // that it had not got when it ended.
                if let Some(after) = after {
                    let lag = subscription.progress.lag().unwrap_or(after);
                    subscription.progress.catch_up(lag, routed);
                }
            }
        }
    }

    /// Takes over the state of the subscriptions of `old`.
    pub fn carry_over(&mut self, old: &mut Config) {
        for (id, new) in &mut self.subscriptions {
            if let Some(before) = old.subscriptions.remove(id) {
                new.begun = before.begun;
                new.slow_until = before.slow_until;
                new.filter_cost = before.filter_cost;
                new.transform_cost = before.transform_cost.filter(|_| new.transform == before.transform);
                if let (true, None) = (new.paused && new.versions.is_empty(), before.progress.lag()) {
                    // The subscription has become unreadable, and lags from here on.
                    let from = new.progress.lag();
                    new.progress = before.progress;
                    from.into_iter().for_each(|position| new.progress.fall_behind(position));
                } else {
                    new.progress = before.progress;
                }
                new.again = before.again;
                new.outstanding = before.outstanding;
                new.outstanding_bytes = before.outstanding_bytes;
                new.blocked = before.blocked;
            }
        }
    }

    /// Adds a subscription whose settings cannot be read. It takes nothing and loses nothing: it lags from `routed` on.
    pub fn insert_unreadable(&mut self, id: i32, begun: i64, routed: i64) {
        let unreadable = Subscription { paused: true, progress: Progress::behind(routed), ..Subscription::new(begun) };
        self.subscriptions.insert(id, unreadable);
    }

    /// Adds rows: versions of subscriptions. A new subscription has begun if its control message is at most at `begun`.
    ///
    /// # Errors
    /// A value that was checked when it was written cannot be parsed any more. A part of the rows has been added then.
    pub fn add_rows(&mut self, rows: &[VersionRow], begun: i64) -> Result<(), Failure> {
        rows.iter().try_for_each(|row| self.add_row(row, begun))
    }

    /// Adds the rows of each subscription by itself. Returns the subscriptions that cannot be parsed, which are not added.
    pub(crate) fn add_rows_apart(&mut self, rows: &[VersionRow], begun: i64) -> Vec<(i32, Failure)> {
        let mut failed = Vec::new();
        for rows in rows.chunk_by(|a, b| a.subscription == b.subscription) {
            // Tried out first, because a failure leaves a part behind.
            match Config::default().add_rows(rows, begun).and_then(|()| self.add_rows(rows, begun)) {
                Ok(()) => {}
                Err(failure) => failed.push((rows[0].subscription, failure)),
            }
        }
        failed
    }

    fn add_row(&mut self, row: &VersionRow, begun: i64) -> Result<(), Failure> {
        let id = row.subscription;
        let (schedule, shape) = (parsed(&row.schedule, "schedule", Schedule::parse)?, shape(row)?);
        let filter = parsed(&row.filter, "filter", Filter::parse)?.unwrap_or_default();
        let patterns: Vec<Pattern> =
            row.topics.iter().map(|topic| Pattern::parse(topic)).collect::<outbox_core::Result<_>>()?;
        let subscription = self.subscriptions.entry(id).or_insert_with(|| Subscription::new(begun));
        subscription.endpoint = row.endpoint.unwrap_or_default();
        subscription.pull = row.endpoint.is_none();
        subscription.ordering = Ordering::parse(row.ordering.as_deref().unwrap_or_default());
        subscription.block = row.block;
        subscription.ttl = row.ttl;
        subscription.max_attempts = row.max_attempts.and_then(|n| n.try_into().ok()).unwrap_or(1);
        subscription.max_age = row.max_age.map(|us| Duration::from_micros(us.max(0).unsigned_abs()));
        subscription.schedule = schedule.unwrap_or_default();
        subscription.shape = Arc::new(shape);
        subscription.paused = row.paused;
        subscription.transform.clone_from(&row.transform);
        self.asks_payload |= row.transform.is_some();
        let (number, position, until) = (row.version, row.position, row.until.unwrap_or(i64::MAX));
        if let Some(known) = subscription.versions.iter_mut().find(|v| v.number == number) {
            known.until = until;
            return Ok(());
        }
        let index = u32::try_from(subscription.versions.len()).unwrap_or(u32::MAX);
        let active = row.active;
        self.asks_payload |= filter.payload.is_some();
        let was_active = subscription.versions.last().is_some_and(|v| v.active);
        let change = i64::from(active) - i64::from(was_active);
        if change != 0 {
            *self.activity.entry(position).or_default() += change;
            self.active.1 += if position < self.active.0 { change } else { 0 };
        }
        let source = Source::parse(row.source.as_deref().unwrap_or_default());
        let starts_after = row.starts_after;
        for pattern in patterns {
            self.router.insert(&pattern, &filter, (id, index));
        }
        subscription.versions.push(Version { number, position, starts_after, until, active, filter, source });
        if position > subscription.begun {
            self.to_begin.push((position, id));
        }
        Ok(())
    }
}

/// Parses a column that was checked when it was written.
fn parsed<T>(
    text: &Option<String>,
    what: &str,
    parse: impl FnOnce(&Value) -> outbox_core::Result<T>,
) -> Result<Option<T>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let read = serde_json::from_str(text).map_err(|error| error.to_string());
    let read = read.and_then(|json| parse(&json).map_err(|error| error.message));
    read.map(Some).map_err(|error| Failure::new(format!("its {what} cannot be read: {error}")))
}

/// The form of a subscription's requests.
fn shape(row: &VersionRow) -> Result<Shape, Failure> {
    let policy = |text| parsed(text, "policy", Policy::parse).map(Option::unwrap_or_default);
    Ok(Shape {
        format: row.format.as_deref().and_then(Format::parse).unwrap_or_default(),
        batch_size: row.batch_size.and_then(|n| n.try_into().ok()).unwrap_or(1),
        batch_wait: row.batch_wait,
        policy: policy(&row.policy)?.over(&policy(&row.endpoint_policy)?),
    })
}
