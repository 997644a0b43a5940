//! Subscriptions and endpoints, as the dispatcher needs them.
//!
//! A subscription has versions, each effective behind the position of its control message. Which version a message meets
//! depends on the message's position alone, so what is loaded here gives the same answer live, after a crash and in a replay.

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
use outbox_sender::Shape;
use pgrx::pg_sys::INT4ARRAYOID;
use serde_json::Value;

use super::predicate::{Verdict, Verdicts};
use super::txn::{Plan, Row, arg};

/// What a subscription matched from a position on.
struct Version {
    number: i32,
    /// Position of its control message.
    position: i64,
    /// The subscription was begun here with history: the version holds for the positions behind this one.
    starts_after: Option<i64>,
    /// Position of the next version's; `i64::MAX`: still in force.
    until: i64,
    active: bool,
    filter: Filter,
}

/// One subscription.
pub struct Subscription {
    pub endpoint: i32,
    /// Claimed by workers: what is routed becomes rows of outbox.delivery.
    pub pull: bool,
    pub ordering: Ordering,
    /// A dead delivery of a key holds up the next.
    pub block: bool,
    /// Its deliveries expire this many microseconds after the later of enqueue and deliver_at.
    pub ttl: Option<i64>,
    pub max_attempts: u32,
    /// No retry begins later than this after the message was enqueued.
    pub max_age: Option<Duration>,
    pub schedule: Schedule,
    pub shape: Arc<Shape>,
    versions: Vec<Version>,
    /// Versions up to here have begun.
    begun: i64,
    /// What is routed to it waits.
    pub paused: bool,
    /// Its filter took too long: it is asked again from this moment on.
    pub slow_until: Option<Instant>,
    pub progress: Progress,
    /// Jobs that are with the HTTP thread, and the bytes of their contents. Pull: about how many rows are in the window.
    pub handed: usize,
    pub handed_bytes: usize,
    /// Push: about how many rows wait behind the first of their key.
    pub blocked: usize,
    /// Jobs that may be with the HTTP thread while its endpoint takes little, and until when that holds (microseconds,
    /// PostgreSQL's epoch; 0: there is no such limit).
    pub limit: (usize, i64),
}

/// Which deliveries of a subscription wait for one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ordering {
    None,
    /// Those of a key.
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
    /// The version that a message at `position` meets: of those that hold there the newest.
    fn version_at(&self, position: i64) -> Option<usize> {
        let holds = |v: &Version| {
            let after = v.starts_after.filter(|_| v.position <= self.begun).unwrap_or(v.position);
            position > after && position <= v.until
        };
        self.versions.iter().rposition(holds)
    }

    /// Whether the version at this place is the beginning of the subscription, or its end was before.
    fn activates(&self, version: usize) -> bool {
        self.versions[version].active && (version == 0 || !self.versions[version - 1].active)
    }

    /// A message is with the HTTP thread, or waits in memory for its turn, from here on.
    pub fn hold(&mut self, bytes: usize) {
        self.handed += 1;
        self.handed_bytes += bytes;
    }

    /// It no longer is.
    pub fn let_go(&mut self, bytes: usize) {
        self.handed -= 1;
        self.handed_bytes -= bytes;
    }

    /// It was unsubscribed: what it has not got is skipped.
    pub fn has_ended(&self) -> bool {
        self.versions.iter().rfind(|v| v.position <= self.begun).is_some_and(|v| !v.active)
    }

    /// It was unsubscribed after this position, whether or not it has been taken up again since.
    pub fn ended_since(&self, position: i64) -> bool {
        let met = self.version_at(position);
        met.is_some_and(|i| self.versions[i + 1..].iter().any(|v| !v.active && v.position <= self.begun))
    }

    /// Whether its filter may be asked.
    pub fn is_quick(&self) -> bool {
        self.slow_until.is_none_or(|until| until <= Instant::now())
    }
}

/// All subscriptions, compiled.
#[derive(Default)]
pub struct Config {
    pub subscriptions: IdMap<i32, Subscription>,
    /// Control messages of subscriptions that have not begun yet.
    to_begin: Vec<(i64, i32)>,
    /// Some subscription has a filter on the payload.
    pub asks_payload: bool,
    /// Owner: subscription and index of the version.
    router: Router<(i32, u32)>,
    scratch: Scratch,
    found: Vec<(i32, u32)>,
    /// How many more are active behind a position.
    activity: BTreeMap<i64, i64>,
    /// At this position so many are active.
    active: (i64, i64),
}

/// What routing found for a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Routed {
    /// No subscription has the topic at this position.
    NoSubscription,
    /// The filters of all that have it refuse it.
    Filtered,
    /// All that have it had ended.
    Inactive,
    /// This many match.
    Matched(u32),
}

impl Config {
    /// Calls `matched` for each subscription that a message at `position` goes to, or may go to: see `Verdict`.
    pub fn route(
        &mut self,
        position: i64,
        topic: &str,
        subject: &Subject<'_>,
        verdicts: &Verdicts,
        mut matched: impl FnMut(i32, &mut Subscription, &Verdict),
    ) -> Routed {
        self.router.matches(topic, &mut self.scratch, &mut self.found);
        let (mut on_topic, mut ended, mut count) = (false, false, 0);
        for &(id, index) in &self.found {
            let Some(subscription) = self.subscriptions.get_mut(&id) else { continue };
            if subscription.version_at(position) != Some(index as usize) {
                continue;
            }
            let version = &subscription.versions[index as usize];
            if !version.active {
                ended = true;
                continue;
            }
            on_topic = true;
            if version.filter.matches(subject) {
                let verdict =
                    if version.filter.payload.is_none() { &Verdict::Holds } else { verdicts.of(position, id) };
                if *verdict != Verdict::Fails {
                    count += 1;
                    matched(id, subscription, verdict);
                }
            }
        }
        match (count, on_topic, ended) {
            (0, true, _) => Routed::Filtered,
            (0, false, true) => Routed::Inactive,
            (0, false, false) => Routed::NoSubscription,
            (n, _, _) => Routed::Matched(n),
        }
    }

    /// Calls `ask` for each subscription whose filter on the payload decides whether it gets a message.
    pub fn undecided(
        &mut self,
        position: i64,
        topic: &str,
        subject: &Subject<'_>,
        mut ask: impl FnMut(i32, &mut Subscription, &str),
    ) {
        self.router.matches(topic, &mut self.scratch, &mut self.found);
        for &(id, index) in &self.found {
            let Some(subscription) = self.subscriptions.get_mut(&id) else { continue };
            if subscription.version_at(position) != Some(index as usize) {
                continue;
            }
            let version = &subscription.versions[index as usize];
            let Some(path) = version.filter.payload.clone().filter(|_| version.active) else { continue };
            if version.filter.matches(subject) {
                ask(id, subscription, &path);
            }
        }
    }

    /// Subscriptions that are active at `position`. From one position to the next it costs what changed between them.
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

    /// Control messages up to `routed` have been routed: subscriptions that they begin start where they are to.
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
                    // It is new: whatever recovery had to assume, it has nothing yet.
                    subscription.handed = 0;
                    subscription.progress = after.map_or_else(Progress::live, Progress::behind);
                } else if let Some(after) = after {
                    subscription.progress.go_back(after);
                }
                // Taken up again without history, it still has to deal with what it had not got when it was ended.
                if let Some(after) = after {
                    let lag = subscription.progress.lag().unwrap_or(after);
                    subscription.progress.catch_up(lag, routed);
                }
            }
        }
    }

    /// Takes over what the subscriptions of `old` have come to.
    pub fn carry_over(&mut self, old: &mut Config) {
        for (id, new) in &mut self.subscriptions {
            if let Some(before) = old.subscriptions.remove(id) {
                new.begun = before.begun;
                new.slow_until = before.slow_until;
                new.progress = before.progress;
                new.handed = before.handed;
                new.handed_bytes = before.handed_bytes;
                new.blocked = before.blocked;
            }
        }
    }

    /// Takes a row of the loader in: a version of a subscription.
    fn take(&mut self, row: &Row, begun: i64) {
        let id: i32 = row.get(0).unwrap_or_default();
        let subscription = self.subscriptions.entry(id).or_insert_with(|| Subscription {
            endpoint: 0,
            pull: false,
            ordering: Ordering::None,
            block: false,
            ttl: None,
            max_attempts: 1,
            max_age: None,
            schedule: Schedule::default(),
            shape: Arc::new(Shape::default()),
            versions: Vec::new(),
            begun,
            paused: false,
            slow_until: None,
            progress: Progress::live(),
            handed: 0,
            handed_bytes: 0,
            blocked: 0,
            limit: (usize::MAX, 0),
        });
        subscription.endpoint = row.get(1).unwrap_or_default();
        subscription.pull = row.get::<i32>(1).is_none();
        subscription.ordering = Ordering::parse(row.get(8).unwrap_or_default());
        subscription.block = row.get(20) == Some("block");
        subscription.ttl = row.get(9);
        subscription.max_attempts = row.get::<i32>(2).and_then(|n| n.try_into().ok()).unwrap_or(1);
        subscription.max_age = row.get::<i64>(10).map(|us| Duration::from_micros(us.max(0).unsigned_abs()));
        subscription.schedule = json(row, 11).and_then(|json| Schedule::parse(&json).ok()).unwrap_or_default();
        subscription.shape = Arc::new(shape(row));
        subscription.paused = row.get(17).unwrap_or(false);
        let (number, position, until) = (row.get(18).unwrap_or_default(), row.int(3), row.get(4).unwrap_or(i64::MAX));
        if let Some(known) = subscription.versions.iter_mut().find(|v| v.number == number) {
            known.until = until;
            return;
        }
        // It was checked when it was written; what cannot be read any more matches nothing.
        let filter = row.get::<&str>(7).map_or(Ok(Filter::default()), |text| {
            serde_json::from_str(text).map_err(|_| ()).and_then(|json: Value| Filter::parse(&json).map_err(|_| ()))
        });
        let index = u32::try_from(subscription.versions.len()).unwrap_or(u32::MAX);
        let active = row.get(5).unwrap_or(false) && filter.is_ok();
        let filter = filter.unwrap_or_default();
        self.asks_payload |= filter.payload.is_some();
        let was_active = subscription.versions.last().is_some_and(|v| v.active);
        let change = i64::from(active) - i64::from(was_active);
        if change != 0 {
            *self.activity.entry(position).or_default() += change;
            self.active.1 += if position < self.active.0 { change } else { 0 };
        }
        subscription.versions.push(Version { number, position, starts_after: row.get(19), until, active, filter });
        if position > subscription.begun {
            self.to_begin.push((position, id));
        }
        for topic in row.get::<Vec<Option<String>>>(6).unwrap_or_default().into_iter().flatten() {
            if let Ok(pattern) = Pattern::parse(&topic) {
                self.router.insert(&pattern, (id, index));
            }
        }
    }
}

/// One row per version that has its position.
macro_rules! versions {
    () => {
        "select s.id, s.endpoint_id, s.max_attempts, v.position,
            lead(v.position) over (partition by s.id order by v.version),
            v.active, v.topics, v.filter::text, s.ordering,
            (extract(epoch from s.ttl) * 1000000)::bigint, (extract(epoch from s.max_age) * 1000000)::bigint,
            coalesce(s.schedule, e.schedule)::text, s.policy::text, e.policy::text, s.format, s.batch_size,
            (extract(epoch from s.batch_wait) * 1000000)::bigint, s.paused, v.version, v.starts_after, s.on_exhausted
        from outbox.subscription s
        join outbox.subscription_version v on v.subscription_id = s.id
        left join outbox.endpoint e on e.id = s.endpoint_id
        where v.position is not null"
    };
}

/// Statements that read the configuration.
pub struct Loader {
    subscriptions: Plan,
    changed: Plan,
}

impl Loader {
    pub const fn new() -> Loader {
        Loader {
            subscriptions: Plan::new(concat!(versions!(), " order by s.id, v.version"), &[]),
            changed: Plan::new(concat!(versions!(), " and s.id = any ($1) order by s.id, v.version"), &[INT4ARRAYOID]),
        }
    }

    /// Reads these subscriptions anew. Inside a transaction.
    pub fn load_changed(&mut self, config: &mut Config, ids: &[i32]) {
        self.changed.execute(&[arg(ids.to_vec())]).for_each(|row| config.take(row, 0));
    }

    /// Reads everything anew. Subscriptions have begun if their control message is not behind `begun`. Inside a transaction.
    pub fn load(&mut self, begun: i64) -> Config {
        let mut config = Config::default();
        self.subscriptions.execute(&[]).for_each(|row| config.take(row, begun));
        config
    }
}

fn json(row: &Row, column: usize) -> Option<Value> {
    row.get::<&str>(column).and_then(|text| serde_json::from_str(text).ok())
}

/// What the requests of a subscription look like. Everything was checked when it was written; what cannot be read any more is
/// the default.
fn shape(row: &Row) -> Shape {
    let policy = |column| json(row, column).and_then(|json| Policy::parse(&json).ok()).unwrap_or_default();
    Shape {
        format: row.get::<&str>(14).and_then(Format::parse).unwrap_or_default(),
        batch_size: row.get::<i32>(15).and_then(|n| n.try_into().ok()).unwrap_or(1),
        batch_wait: row.int(16),
        policy: policy(12).over(&policy(13)),
    }
}
