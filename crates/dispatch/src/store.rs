//! The surroundings of the dispatcher: a clock and a log (`Host`), and the database (`Store`).
//!
//! Each method of `Store` is one transaction, or several where its description says so. Invariants of every implementation:
//! * A method that returns a failure has changed nothing in the database, and the dispatcher may call it again. A tick is an
//!   exception: a tick that has run and whose answer is lost is found by the next one.
//! * An implementation that cannot know whether a `record` has committed, because the connection broke, must end the
//!   dispatcher. The next incarnation continues from the checkpoint, whichever it is.
//! * Methods return rows as they are after the commits that other sessions were told of before the call.
//!
//! Times are microseconds of PostgreSQL's epoch, where nothing else is said.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use outbox_core::progress::Saved;
use outbox_sender::{ConsentAnswer, Ticket};

use crate::failure::Failure;
use crate::fault::{Fault, Kind};
use crate::feed::{Part, Place, Stored, Ticked};
use crate::outcome::decisions::Decision;
use crate::outcome::entry::Entry;
use crate::outcome::message_counters::MessageCounters;
use crate::pull::ordering::{Note, OrderKey};
use crate::pull::window::{Ended, NewRow};
use crate::push::endpoints::{EndpointRow, EndpointState};
use crate::push::manual_send::ManualSend;
use crate::push::retries::{DueRow, FollowerRow};
use crate::subscriptions::{Transform, VersionRow};

/// Settings that the dispatcher looks at in each round.
#[derive(Clone, Copy, Debug)]
pub struct Switches {
    /// Longest time between two ticks.
    pub poll_interval: Duration,
    /// Whether deliveries are pushed.
    pub push: bool,
    /// Whether endpoints may have plain HTTP.
    pub allow_http: bool,
    /// Longest time that a filter may take for one payload.
    pub filter_timeout: Duration,
    /// Longest time that a transform may take for one message.
    pub transform_timeout: Duration,
}

/// The surroundings of a dispatcher, apart from the database.
pub trait Host {
    /// The time of the database.
    fn now(&self) -> i64;
    /// The monotonic time.
    fn instant(&self) -> Instant;
    /// The current settings.
    fn switches(&self) -> Switches;
    /// The name under which endpoints are asked for consent.
    fn consent_origin(&self) -> String;
    /// Writes to the log.
    fn log(&self, text: fmt::Arguments<'_>);
    /// Closes the files of tables that are kept open, because requests have met a shortage of descriptors.
    fn close_files(&self);
    /// A number that changes when a session has enqueued messages.
    fn generation(&self) -> u64;
    /// Returns whether a session has changed deliveries, replays or cancelled messages since the last call.
    fn take_deliveries_changed(&self) -> bool;
}

/// How far the dispatcher has routed, and how far each subscription is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Position up to which the feed is routed.
    pub routed: i64,
    /// Subscriptions that lag or have open deliveries, ordered by id.
    pub subscriptions: Vec<(i32, Saved)>,
}

impl Checkpoint {
    /// Creates a checkpoint from lists with one entry per subscription, and lists with one entry per open position. The open
    /// positions of a subscription are given as differences.
    pub fn of_lists(routed: i64, lag: &[i32], at: &[i64], open: &[i32], open_at: &[i64]) -> Checkpoint {
        let mut places: HashMap<i32, Vec<i64>> = HashMap::new();
        for (id, distance) in open.iter().zip(open_at) {
            let places = places.entry(*id).or_default();
            places.push(places.last().unwrap_or(&0) + distance);
        }
        let mut saved = |id: i32, position| Saved { position, open: places.remove(&id).unwrap_or_default() };
        let subscriptions = lag.iter().zip(at).map(|(id, position)| (*id, saved(*id, *position))).collect();
        Checkpoint { routed, subscriptions }
    }

    /// Returns the lists of `of_lists`: subscriptions, their positions, the subscriptions of open positions, and the open
    /// positions.
    pub fn lists(&self) -> (Vec<i32>, Vec<i64>, Vec<i32>, Vec<i64>) {
        let (mut lag, mut at, mut open, mut open_at) = (vec![], vec![], vec![], vec![]);
        for (subscription, saved) in &self.subscriptions {
            lag.push(*subscription);
            at.push(saved.position);
            // The first position, then differences: compressed, thousands of them take next to no space.
            let mut before = 0;
            for position in &saved.open {
                open.push(*subscription);
                open_at.push(*position - before);
                before = *position;
            }
        }
        (lag, at, open, open_at)
    }
}

/// A checkpoint and its place in the row of checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumberedCheckpoint {
    /// The checkpoint's id; each has the next one.
    pub id: i64,
    /// The incarnation of the dispatcher that wrote it.
    pub incarnation: i64,
    /// The content.
    pub checkpoint: Checkpoint,
}

/// The routing of consecutive positions of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutingRow {
    /// The first position.
    pub first: i64,
    /// Number of subscriptions that were active.
    pub active: i32,
    /// One entry per position: see `matched_as`.
    pub matched: Vec<i16>,
}

/// Rows of the configuration.
#[derive(Debug, Default)]
pub struct Configuration {
    /// Versions of subscriptions that have a position, ordered by subscription and version.
    pub subscriptions: Vec<VersionRow>,
    /// All endpoints.
    pub endpoints: Vec<EndpointRow>,
    /// Subscriptions whose rows cannot be read.
    pub unreadable_subscriptions: Vec<(i32, Failure)>,
    /// Endpoints whose rows cannot be read.
    pub unreadable_endpoints: Vec<(i32, Failure)>,
}

/// The rows that sessions may have changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// All cancelled messages.
    pub cancelled: Vec<i64>,
    /// The keys of push subscriptions that have rows, or a dead letter that blocks the key.
    pub keys: Vec<OrderKey>,
}

/// The payload that a transform has made of a message, `None` if the message is not for the subscription, or why the
/// transform failed.
pub type Transformed = Result<Option<Bytes>, Box<str>>;

/// The result of a pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// There is more to do now.
    pub more: bool,
    /// The next pass should come soon.
    pub soon: bool,
    /// Deliveries have become free: workers can claim them, or they can be sent.
    pub free: bool,
}

/// A row that becomes a dead letter.
#[derive(Clone, Debug)]
pub struct DeadRow {
    /// Id of the delivery.
    pub id: i64,
    /// The reason.
    pub reason: &'static str,
    /// The error, if there is one.
    pub error: Option<Arc<str>>,
}

/// Everything that one transaction records.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Outcomes of attempts.
    pub entries: &'a mut Vec<Entry>,
    /// Deliveries that end without an attempt.
    pub decisions: &'a mut Vec<Decision>,
    /// Rows of outbox.delivery to be made.
    pub rows: &'a mut Vec<NewRow>,
    /// Deliveries that ended before they had a row.
    pub ended: &'a [Ended],
    /// Changes of endpoints' states.
    pub endpoints: &'a [EndpointState],
    /// Routed positions.
    pub routing: &'a [RoutingRow],
    /// Results of ordered deliveries. Written after the outcomes, and before the rows that wait for these keys.
    pub notes: &'a [Note],
    /// Manual sends that have come back.
    pub manual_sends: &'a [i64],
    /// Counted messages.
    pub message_counters: &'a MessageCounters,
    /// The checkpoint that contains all of this.
    pub checkpoint: &'a NumberedCheckpoint,
    /// The current time.
    pub now: i64,
}

impl Batch<'_> {
    /// Messages of the deliveries that will be retried.
    pub fn failed(&self) -> impl Iterator<Item = i64> {
        self.entries.iter().filter(|entry| entry.is_failed()).map(|entry| entry.done.ticket.message_id)
    }
}

/// The result of a `record`.
#[derive(Debug, Default)]
pub struct Recorded {
    /// Deliveries were ended because their message had been cancelled meanwhile.
    pub ended: bool,
    /// The keys of the batch's notes that have rows, or a dead letter that blocks the key.
    pub keys: Vec<OrderKey>,
}

/// The database, as the dispatcher needs it.
pub trait Store: Host {
    /// Runs the sequencer, which numbers at most `chunk` messages. If `after` is given and the first numbered position is
    /// the next one, the numbered messages are read as well.
    ///
    /// # Errors
    /// The transaction failed.
    fn tick(&mut self, chunk: i32, after: Option<i64>) -> Result<Ticked, Failure>;

    /// Reads the feed after the position `after` up to `upto`: a bounded part from its beginning. `look_for_cancelled`: also
    /// read which of the messages are cancelled.
    ///
    /// # Errors
    /// The transaction failed.
    fn read(&mut self, after: i64, upto: i64, look_for_cancelled: bool) -> Result<Part, Failure>;

    /// Reads these messages, with the payloads of deliveries where the places say so. Those that are gone are `None`. If they are large, the result has the first of them only, at
    /// least one.
    ///
    /// # Errors
    /// The transaction failed.
    fn messages(&mut self, places: &[Place]) -> Result<Vec<Option<Stored>>, Failure>;

    /// Reads the last checkpoint.
    ///
    /// # Errors
    /// The transaction failed.
    fn last_checkpoint(&mut self) -> Result<Option<NumberedCheckpoint>, Failure>;

    /// Reads all subscriptions and endpoints. `apart`: each by itself, so that a row that cannot be read affects no other.
    ///
    /// # Errors
    /// The transaction failed.
    fn load(&mut self, apart: bool) -> Result<Configuration, Failure>;

    /// Reads the versions of these subscriptions that have a position, ordered by subscription and version.
    ///
    /// # Errors
    /// The transaction failed.
    fn load_subscriptions(&mut self, ids: &[i32]) -> Result<Vec<VersionRow>, Failure>;

    /// Reads those of these endpoints that exist.
    ///
    /// # Errors
    /// The transaction failed.
    fn load_endpoints(&mut self, ids: &[i32]) -> Result<Vec<EndpointRow>, Failure>;

    /// Reads the rows that sessions may have changed.
    ///
    /// # Errors
    /// The transaction failed.
    fn changes(&mut self) -> Result<Changes, Failure>;

    /// Counts, for pull subscriptions, the rows from a position on that wait for their first attempt and are due at `now`, up
    /// to about `limit`. Returns the count of each, and the lowest position of such a row.
    ///
    /// # Errors
    /// The transaction failed.
    fn count_waiting(
        &mut self,
        of: &[(i32, i64)],
        limit: usize,
        now: i64,
    ) -> Result<Vec<(usize, Option<i64>)>, Failure>;

    /// Counts, for push subscriptions, the rows that wait for the first of their key, up to `limit` each.
    ///
    /// # Errors
    /// The transaction failed.
    fn count_blocked(&mut self, of: &[i32], limit: usize) -> Result<Vec<usize>, Failure>;

    /// Evaluates an SQL/JSON path on payloads, and ends it after `timer`.
    ///
    /// # Errors
    /// The path failed on a payload, or took too long.
    fn filter(&mut self, path: &str, payloads: &[&str], timer: Duration) -> Result<Vec<bool>, Failure>;

    /// Calls a transform with these messages, each for at most `timer`, and returns the payloads; `None`: the transform
    /// returned null; an error: the transform failed. The calls have no other effect. There are results for the first messages
    /// only, at least for one, if the calls have taken `timer` together.
    ///
    /// # Errors
    /// The transform cannot be called, or the transaction failed.
    fn transform(
        &mut self,
        transform: &Transform,
        places: &[Place],
        timer: Duration,
    ) -> Result<Vec<Transformed>, Failure>;

    /// Takes back expired leases, ends expired and cancelled deliveries, unblocks keys: at most `limit` each. The rows
    /// `in_flight` are left alone. Workers are told of what they can claim now. `apart`: item by item, each failure charged
    /// to its item.
    ///
    /// # Errors
    /// The transaction failed.
    fn pass(&mut self, limit: i32, in_flight: &[i64], apart: bool) -> Result<Passed, Failure>;

    /// Reads the first rows of push subscriptions in the order of due times, blocked ones and `known` ones excepted. `rooms`:
    /// subscriptions, and how many rows each has room for; one row more is returned.
    ///
    /// # Errors
    /// The transaction failed.
    fn due_rows(&mut self, rooms: &[(i32, i32)], known: &[i64]) -> Result<Vec<DueRow>, Failure>;

    /// Reads at most `limit` rows of each key after a position, in the order of positions. There are none if an earlier row of
    /// the key waits, or if a dead letter blocks the key: a message with a time of its own is sent out of its turn, and the
    /// rows after it must not follow.
    ///
    /// # Errors
    /// The transaction failed.
    fn followers(&mut self, keys: &[(OrderKey, i64)], limit: i32) -> Result<Vec<Vec<FollowerRow>>, Failure>;

    /// Makes rows dead letters.
    ///
    /// # Errors
    /// The transaction failed.
    fn dead_letter(&mut self, rows: &[DeadRow]) -> Result<(), Failure>;

    /// Reads manual sends, except the `known` ones.
    ///
    /// # Errors
    /// The transaction failed.
    fn manual_sends(&mut self, known: &[i64]) -> Result<Vec<ManualSend>, Failure>;

    /// Reads the endpoints that wait for consent, and when each is to be asked.
    ///
    /// # Errors
    /// The transaction failed.
    fn consents_due(&mut self) -> Result<Vec<(i32, i64)>, Failure>;

    /// Records answers of endpoints. Returns those that cannot be recorded, by index.
    ///
    /// # Errors
    /// The transaction failed.
    fn record_consents(&mut self, answers: &[ConsentAnswer]) -> Result<Vec<(usize, Failure)>, Failure>;

    /// Records a batch, and tells workers of the rows that it makes.
    ///
    /// # Errors
    /// The transaction failed.
    fn record(&mut self, batch: &Batch<'_>) -> Result<Recorded, Failure>;

    /// Does the same, item by item where something fails. The batch is changed: an outcome that cannot be recorded becomes a
    /// plainer one, and a row that cannot be made becomes the decision that the delivery is a dead letter. Items that cannot
    /// be recorded in any form are added to `faults`.
    ///
    /// # Errors
    /// The transaction failed, and no item has caused it.
    fn record_apart(&mut self, batch: &mut Batch<'_>, faults: &mut Vec<Fault>) -> Result<Recorded, Failure>;

    /// Records faults.
    ///
    /// # Errors
    /// The transaction failed.
    fn note_faults(&mut self, faults: &[Fault]) -> Result<(), Failure>;

    /// Records that all items of a kind have been loaded except the `faulted` ones.
    ///
    /// # Errors
    /// The transaction failed.
    fn note_loaded(&mut self, kind: Kind, faulted: &[i64]) -> Result<(), Failure>;
}

/// Whether a ticket is that of a manual send, which no delivery waits for.
pub(crate) fn is_manual(ticket: &Ticket) -> bool {
    ticket.run < 0
}
