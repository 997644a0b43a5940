//! The simulated surroundings of a dispatcher: the clock, the tables, the receivers, and the ledger of what they got.
//!
//! The tables have the meaning of the SQL functions that the extension's store calls (`sql/schema/route`, `push`, `pull`). Only
//! what the dispatcher can observe is modelled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use outbox_dispatch::feed::UNIX_EPOCH;
use outbox_dispatch::store::{NumberedCheckpoint, Transformed};

use crate::random::Random;

/// A subscription and a key.
pub(crate) type Key = (i32, Box<str>);

/// A subscription of the world; its settings never change, except whether it is paused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) id: i32,
    /// The endpoint has the same id. `false`: workers claim.
    pub(crate) push: bool,
    pub(crate) ordering: &'static str,
    /// A dead letter blocks its key.
    pub(crate) block: bool,
    pub(crate) max_attempts: i32,
    /// Deliveries expire after this many microseconds.
    pub(crate) ttl: Option<i64>,
    /// Only even numbers match.
    pub(crate) even: bool,
    /// The subscription has the transform.
    pub(crate) transform: bool,
}

pub(crate) const PLAIN: i32 = 1;
pub(crate) const KEYED: i32 = 2;
pub(crate) const BLOCKING: i32 = 3;
pub(crate) const PULLED: i32 = 4;
pub(crate) const MORTAL: i32 = 5;
pub(crate) const STRICT: i32 = 6;
pub(crate) const HASTY: i32 = 7;

const fn push(id: i32) -> Plan {
    Plan {
        id,
        push: true,
        ordering: "none",
        block: false,
        max_attempts: 1000,
        ttl: None,
        even: false,
        transform: false,
    }
}

pub(crate) const PLANS: [Plan; 11] = [
    push(PLAIN),
    Plan { ordering: "key", ..push(KEYED) },
    Plan { ordering: "key", block: true, max_attempts: 2, ..push(BLOCKING) },
    Plan { push: false, ..push(PULLED) },
    Plan { max_attempts: 2, ..push(MORTAL) },
    Plan { ordering: "strict", even: true, ..push(STRICT) },
    Plan { ttl: Some(100_000), ..push(HASTY) },
    Plan { push: false, ordering: "key", ..push(8) },
    Plan { transform: true, ..push(9) },
    Plan { transform: true, ordering: "key", ..push(10) },
    Plan { transform: true, push: false, ..push(11) },
];

/// The result of the transform on a message: every seventh is not for the subscription, and every eleventh fails.
pub(crate) fn transform(message: i64) -> Transformed {
    match message {
        n if n % 11 == 0 => Err("P0001: no".into()),
        n if n % 7 == 0 => Ok(None),
        n => Ok(Some(Bytes::from(format!("{{\"made\":{n}}}")))),
    }
}

/// The plan of a subscription.
pub(crate) fn plan(id: i32) -> &'static Plan {
    &PLANS[id as usize - 1]
}

/// A committed message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// The key; `None`: the message changes the configuration.
    pub(crate) key: Option<Box<str>>,
    pub(crate) control: Option<String>,
    pub(crate) enqueued_at: i64,
    pub(crate) deliver_at: Option<i64>,
    /// An attempt of this message cannot be recorded together with others, nor with the receiver's data.
    pub(crate) poisoned: bool,
}

/// A row of outbox.delivery.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) subscription: i32,
    pub(crate) position: i64,
    pub(crate) message: i64,
    pub(crate) attempt: i32,
    pub(crate) due: i64,
    pub(crate) expires: Option<i64>,
    pub(crate) key: Option<Box<str>>,
    pub(crate) blocked: bool,
    pub(crate) pull: bool,
    /// The payload that the transform has made.
    pub(crate) payload: Option<Bytes>,
}

/// A row of outbox.dead_letter.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetter {
    pub(crate) subscription: i32,
    pub(crate) position: i64,
    pub(crate) key: Option<Box<str>>,
    pub(crate) open: bool,
    pub(crate) reason: &'static str,
}

/// The tables.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// Committed messages by id.
    pub(crate) messages: BTreeMap<i64, Message>,
    /// Committed messages without a position.
    pub(crate) unnumbered: Vec<i64>,
    /// The message of each position, from position 1 on.
    pub(crate) feed: Vec<i64>,
    pub(crate) checkpoint: Option<NumberedCheckpoint>,
    /// The entry of each routed position, from position 1 on.
    pub(crate) routing: Vec<i16>,
    pub(crate) deliveries: BTreeMap<i64, Delivery>,
    pub(crate) last_delivery: i64,
    pub(crate) dead_letters: Vec<DeadLetter>,
    pub(crate) cancelled: BTreeSet<i64>,
    pub(crate) cancelled_lately: BTreeSet<i64>,
    pub(crate) freed_keys: BTreeSet<Key>,
    /// How often a delivery was recorded as ended, by subscription and position.
    pub(crate) ended: BTreeMap<(i32, i64), Vec<&'static str>>,
    /// Outcomes of attempts in the order of their record.
    pub(crate) attempts: usize,
    /// Position of the control message that began each subscription; `None`: it has none yet.
    pub(crate) begun: BTreeMap<i32, Option<i64>>,
    pub(crate) paused: BTreeSet<i32>,
    /// Endpoints that are disabled.
    pub(crate) held: BTreeSet<i32>,
}

/// A request that a receiver got.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) subscription: i32,
    pub(crate) position: i64,
    pub(crate) message: i64,
    pub(crate) accepted: bool,
}

/// Everything that both the dispatcher and the schedule see.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) random: Random,
    /// Microseconds, PostgreSQL's epoch.
    pub(crate) now: i64,
    epoch: Instant,
    pub(crate) generation: u64,
    pub(crate) deliveries_changed: bool,
    pub(crate) tables: Tables,
    /// Subscription and position of the deliveries that were accepted.
    pub(crate) accepted: BTreeSet<(i32, i64)>,
    /// Requests in the order in which receivers got them.
    pub(crate) ledger: Vec<Request>,
    /// Store calls fail with this probability, in a thousand.
    pub(crate) trouble: u64,
    /// Requests fail with this probability, in a thousand.
    pub(crate) refusals: u64,
    /// A call was committed and its answer lost: the dispatcher has to end.
    pub(crate) answer_lost: bool,
    /// The calls that failed, and the deaths.
    pub(crate) failures: u64,
    pub(crate) deaths: u64,
    /// Guarantees that did not hold.
    pub(crate) breaches: Vec<String>,
    /// Whether everything that happens is printed.
    traced: bool,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let trouble = *[0, 20, 100].get(random.index(3)).unwrap_or(&0);
        let refusals = *[0, 200, 600].get(random.index(3)).unwrap_or(&0);
        World {
            random,
            now: 800_000_000_000_000,
            epoch: Instant::now(),
            generation: 1,
            deliveries_changed: false,
            tables: Tables::default(),
            accepted: BTreeSet::new(),
            ledger: Vec::new(),
            trouble,
            refusals,
            answer_lost: false,
            failures: 0,
            deaths: 0,
            breaches: Vec::new(),
            traced: std::env::var_os("SIMULATION_SEED").is_some(),
        }
    }

    /// Prints what happens, if one schedule is run alone.
    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.traced {
            println!("{:>9} {}", self.now - 800_000_000_000_000, what());
        }
    }

    pub(crate) fn instant(&self) -> Instant {
        self.epoch + Duration::from_micros((self.now - 800_000_000_000_000).unsigned_abs())
    }

    /// Microseconds since 1970.
    pub(crate) fn unix(&self) -> i64 {
        self.now + UNIX_EPOCH
    }

    pub(crate) fn breach(&mut self, what: String) {
        self.breaches.push(what);
    }

    /// Commits messages.
    pub(crate) fn enqueue(&mut self, message: Message) -> i64 {
        let id = self.tables.messages.len() as i64 + 1;
        self.tables.messages.insert(id, message);
        self.tables.unnumbered.push(id);
        self.generation += 1;
        id
    }

    /// Commits a message that changes the configuration.
    pub(crate) fn control(&mut self, content: String) {
        self.enqueue(Message { control: Some(content), enqueued_at: self.now, ..Message::default() });
    }

    /// Notes that a session has changed deliveries.
    pub(crate) fn change(&mut self) {
        self.deliveries_changed = true;
        self.generation += 1;
    }

    /// Whether the message at a position goes to a subscription.
    pub(crate) fn matches(&self, position: i64, plan: &Plan) -> bool {
        let id = self.tables.feed[position as usize - 1];
        let message = &self.tables.messages[&id];
        let begun = self.tables.begun.get(&plan.id).copied().flatten().is_some_and(|at| at < position);
        message.control.is_none() && begun && (!plan.even || id % 2 == 0)
    }

    /// The content that a subscription gets of a message.
    pub(crate) fn content(plan: &Plan, message: i64) -> Transformed {
        if plan.transform { transform(message) } else { Ok(Some(Bytes::from(format!("{{\"n\":{message}}}")))) }
    }

    /// The subscriptions that the message at a position goes to.
    pub(crate) fn matching(&self, position: i64) -> impl Iterator<Item = &'static Plan> {
        PLANS.iter().filter(move |plan| self.matches(position, plan))
    }
}

impl Tables {
    /// Notes the end of a delivery.
    pub(crate) fn end(&mut self, subscription: i32, position: i64, outcome: &'static str) {
        self.ended.entry((subscription, position)).or_default().push(outcome);
    }

    /// Inserts a row unless the delivery has one.
    pub(crate) fn insert(&mut self, delivery: Delivery) {
        let of = (delivery.subscription, delivery.position);
        if self.deliveries.values().all(|d| (d.subscription, d.position) != of) {
            self.last_delivery += 1;
            self.deliveries.insert(self.last_delivery, delivery);
        }
    }

    /// Removes a row, and frees its key.
    pub(crate) fn remove(&mut self, id: i64) -> Option<Delivery> {
        let gone = self.deliveries.remove(&id)?;
        if let Some(key) = gone.key.clone() {
            self.freed_keys.insert((gone.subscription, key));
        }
        Some(gone)
    }

    /// Makes a row a dead letter.
    pub(crate) fn bury(&mut self, id: i64, reason: &'static str) {
        let Some(gone) = self.remove(id) else { return };
        self.end(gone.subscription, gone.position, if reason == "expired" { "expired" } else { "dead" });
        self.dead_letters.push(DeadLetter {
            subscription: gone.subscription,
            position: gone.position,
            key: gone.key,
            open: true,
            reason,
        });
    }

    /// Whether an open dead letter blocks a key.
    pub(crate) fn is_blocked_by_dead_letter(&self, (subscription, key): &Key) -> bool {
        plan(*subscription).block
            && self
                .dead_letters
                .iter()
                .any(|l| l.open && l.subscription == *subscription && l.key.as_deref() == Some(key))
    }

    /// Whether a key has rows, or a dead letter that blocks it.
    pub(crate) fn has_rows(&self, key: &Key) -> bool {
        let of = |d: &Delivery| d.subscription == key.0 && d.key.as_deref() == Some(&*key.1);
        self.deliveries.values().any(of) || self.is_blocked_by_dead_letter(key)
    }

    /// Ends the rows of cancelled messages, except those in flight. Returns whether there were any.
    pub(crate) fn end_cancelled(&mut self, messages: &BTreeSet<i64>, in_flight: &[i64]) -> bool {
        let gone = |(id, d): &(&i64, &Delivery)| {
            messages.contains(&d.message) && self.cancelled.contains(&d.message) && !in_flight.contains(id)
        };
        let ids: Vec<i64> = self.deliveries.iter().filter(gone).map(|(id, _)| *id).collect();
        for id in &ids {
            if let Some(gone) = self.remove(*id) {
                self.end(gone.subscription, gone.position, "cancelled");
            }
        }
        !ids.is_empty()
    }

    /// Unblocks the next row of each freed key. Returns whether there were any.
    pub(crate) fn unblock(&mut self) -> bool {
        let mut free = false;
        for key in std::mem::take(&mut self.freed_keys) {
            let of = |d: &Delivery| d.subscription == key.0 && d.key.as_deref() == Some(&*key.1);
            let mut rows: Vec<(i64, i64, bool)> =
                self.deliveries.iter().filter(|(_, d)| of(d)).map(|(id, d)| (d.position, *id, d.blocked)).collect();
            rows.sort_unstable();
            let Some((_, first, true)) = rows.first().copied() else { continue };
            // A row that comes before those that went on without it goes first.
            for (_, id, _) in &rows[1..] {
                if let Some(row) = self.deliveries.get_mut(id) {
                    row.blocked = true;
                }
            }
            if !self.is_blocked_by_dead_letter(&key)
                && let Some(row) = self.deliveries.get_mut(&first)
            {
                row.blocked = false;
                free = true;
            }
        }
        free
    }
}
