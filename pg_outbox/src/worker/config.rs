//! Subscriptions and endpoints, as the dispatcher needs them.
//!
//! A subscription has versions, each effective behind the position of its control message. Which version a message meets
//! depends on the message's position alone, so what is loaded here gives the same answer live, after a crash and in a replay.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use outbox_core::filter::{Filter, Subject};
use outbox_core::format::Format;
use outbox_core::pattern::Pattern;
use outbox_core::policy::Policy;
use outbox_core::progress::Progress;
use outbox_core::router::{Router, Scratch};
use outbox_core::schedule::Schedule;
use outbox_sender::Shape;
use serde_json::Value;

use super::txn::{Plan, Row};

/// What a subscription matched from a position on.
struct Version {
    /// Position of its control message.
    after: i64,
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
    pub progress: Progress,
    /// Jobs that are with the HTTP thread, and the bytes of their contents. Pull: about how many rows are in the window.
    pub handed: usize,
    pub handed_bytes: usize,
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

/// All subscriptions, compiled.
#[derive(Default)]
pub struct Config {
    pub subscriptions: HashMap<i32, Subscription>,
    /// Owner: subscription and index of the version.
    router: Router<(i32, u32)>,
    scratch: Scratch,
    found: Vec<(i32, u32)>,
}

/// What routing found for a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Routed {
    /// No subscription has the topic at this position.
    NoSubscription,
    /// The filters of all that have it refuse it.
    Filtered,
    /// This many match.
    Matched(u32),
}

impl Config {
    /// Calls `matched` for each subscription that a message at `position` goes to.
    pub fn route(
        &mut self,
        position: i64,
        topic: &str,
        subject: &Subject<'_>,
        mut matched: impl FnMut(i32, &mut Subscription),
    ) -> Routed {
        self.router.matches(topic, &mut self.scratch, &mut self.found);
        let (mut on_topic, mut count) = (false, 0);
        for &(id, version) in &self.found {
            let Some(subscription) = self.subscriptions.get_mut(&id) else { continue };
            let version = &subscription.versions[version as usize];
            if !version.active || position <= version.after || position > version.until {
                continue;
            }
            on_topic = true;
            if version.filter.matches(subject) {
                count += 1;
                matched(id, subscription);
            }
        }
        match (count, on_topic) {
            (0, false) => Routed::NoSubscription,
            (0, true) => Routed::Filtered,
            (n, _) => Routed::Matched(n),
        }
    }

    /// Subscriptions that are active at `position`.
    pub fn active_at(&self, position: i64) -> usize {
        let active = |v: &Version| v.active && position > v.after && position <= v.until;
        self.subscriptions.values().filter(|s| s.versions.iter().any(active)).count()
    }
}

/// Statements that read the configuration.
pub struct Loader {
    subscriptions: Plan,
}

impl Loader {
    pub const fn new() -> Loader {
        Loader {
            subscriptions: Plan::new(
                "select s.id, s.endpoint_id, s.max_attempts, v.position,
                    lead(v.position) over (partition by s.id order by v.version),
                    v.active, v.topics, v.filter::text, s.ordering,
                    (extract(epoch from s.ttl) * 1000000)::bigint, (extract(epoch from s.max_age) * 1000000)::bigint,
                    coalesce(s.schedule, e.schedule)::text, s.policy::text, e.policy::text, s.format, s.batch_size,
                    (extract(epoch from s.batch_wait) * 1000000)::bigint, s.on_exhausted
                from outbox.subscription s
                join outbox.subscription_version v on v.subscription_id = s.id
                left join outbox.endpoint e on e.id = s.endpoint_id
                where v.position is not null
                order by s.id, v.version",
                &[],
            ),
        }
    }

    /// Reads everything anew; progress is carried over from `old`. Inside a transaction.
    pub fn load(&mut self, old: &mut Config) -> Config {
        let mut config = Config::default();
        self.subscriptions.execute(&[]).for_each(|row| {
            let id: i32 = row.get(0).unwrap_or_default();
            let subscription = config.subscriptions.entry(id).or_insert_with(|| {
                let before = old.subscriptions.remove(&id);
                let (progress, handed, handed_bytes) =
                    before.map_or((Progress::live(), 0, 0), |s| (s.progress, s.handed, s.handed_bytes));
                Subscription {
                    endpoint: row.get(1).unwrap_or_default(),
                    pull: row.get::<i32>(1).is_none(),
                    ordering: Ordering::parse(row.get(8).unwrap_or_default()),
                    block: row.get(17) == Some("block"),
                    ttl: row.get(9),
                    max_attempts: row.get::<i32>(2).and_then(|n| n.try_into().ok()).unwrap_or(1),
                    max_age: row.get::<i64>(10).map(|us| Duration::from_micros(us.max(0).unsigned_abs())),
                    schedule: json(row, 11).and_then(|json| Schedule::parse(&json).ok()).unwrap_or_default(),
                    shape: Arc::new(shape(row)),
                    versions: Vec::new(),
                    progress,
                    handed,
                    handed_bytes,
                    limit: (usize::MAX, 0),
                }
            });
            // Both were checked when they were written; what cannot be read any more matches nothing.
            let filter = row.get::<&str>(7).map_or(Ok(Filter::default()), |text| {
                serde_json::from_str(text).map_err(|_| ()).and_then(|json: Value| Filter::parse(&json).map_err(|_| ()))
            });
            let version = u32::try_from(subscription.versions.len()).unwrap_or(u32::MAX);
            subscription.versions.push(Version {
                after: row.int(3),
                until: row.get(4).unwrap_or(i64::MAX),
                active: row.get(5).unwrap_or(false) && filter.is_ok(),
                filter: filter.unwrap_or_default(),
            });
            for topic in row.get::<Vec<Option<String>>>(6).unwrap_or_default().into_iter().flatten() {
                if let Ok(pattern) = Pattern::parse(&topic) {
                    config.router.insert(&pattern, (id, version));
                }
            }
        });
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
