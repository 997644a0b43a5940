//! Deliveries as spans of OpenTelemetry: every attempt of the log to send a message of a recorded trace is one span.
//!
//! The log has no number that grows with its commits, so a place in it is a transaction id: attempts of the transactions before
//! it are sent. A step takes those from there to the oldest transaction that still runs; no attempt of these can be added any
//! more. Where such attempts are in the leaves of the log is known from their sizes: an attempt that a later transaction writes
//! is not far before the end that the leaf had when that transaction began. So a step reads the end of the log, however long
//! the log is. While a transaction stays open anywhere in the cluster, attempts after its beginning wait for it.
//!
//! The place is a cursor (`outbox.cursor`, consumer `traces`, stream `outbox serve`), which is moved by compare-and-set in the
//! transaction in which spans were sent. One process at a time sends, under an advisory lock of that transaction. If a process
//! ends between sending and commit, the spans are sent again, with the same ids.

mod otlp;
mod spans;

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use pg_outbox::error::{Error, Result};

pub(crate) use otlp::Collector;
use otlp::Verdict;

use crate::app::Place;
use crate::database::{Database, Work};
use crate::own::Own;

/// The time between two looks at the log.
const EVERY: Duration = Duration::from_secs(1);

/// The longest time between two tries after an error.
const LONGEST: Duration = Duration::from_secs(60);

/// The blocks of the log that a step reads.
const BLOCKS: i64 = 64;

/// An attempt may be in a block so far before the end of its leaf: sessions that write at the same time fill blocks that
/// others have added.
const MARGIN: i64 = 128;

/// The attempts of a request, and so its spans at most.
const SPANS: usize = 512;

/// The messages of the attempts of a request, unless a single attempt has more. Each is read and becomes a link.
const MESSAGES_AT_ONCE: usize = 2000;

/// The sizes of the log that are remembered.
const MARKS: usize = 64;

const CONSUMER: &str = "traces";
const STREAM: &str = "outbox serve";

/// A block of a leaf of the log. A leaf that was opened again is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    leaf: i64,
    block: i64,
    opened: i64,
}

/// How far the attempts are sent.
#[derive(Clone, Debug, PartialEq)]
struct Progress {
    /// The position of the cursor.
    moves: i64,
    /// Attempts of transactions before this one are sent.
    from: i64,
    /// Attempts of transactions from there on are in this block or later, but for the margin.
    mark: Spot,
    /// The part that is being sent.
    part: Option<Part>,
}

/// Attempts of transactions up to one, without it.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    to: i64,
    /// The next block to read.
    at: Spot,
    /// The attempts in the next blocks that are dealt with already.
    taken: usize,
    /// The mark of `to`.
    mark: Spot,
}

impl Progress {
    /// Whether its transactions are of this cluster. A copy of the database in another one begins afresh.
    fn fits(&self, oldest: i64) -> bool {
        self.part.as_ref().map_or(self.from, |part| part.to) <= oldest
    }
}

/// A leaf of the log, in the order in which they were opened.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    leaf: i64,
    opened: i64,
    blocks: i64,
}

/// The exporter of one database.
struct Exporter<'a> {
    place: &'a Place,
    database: &'a Database,
    collector: &'a Collector,
    progress: Option<Progress>,
    /// The ends of the log, with the first transaction after each.
    marks: Vec<(i64, Spot)>,
}

/// The end of a request.
enum Sent {
    /// The receiver has taken the spans of so many attempts, or refused them for good. `more`: the blocks have further attempts.
    Done {
        attempts: usize,
        spans: usize,
        more: bool,
    },
    Later(Duration),
}

/// The end of a step.
#[derive(Debug, PartialEq)]
enum Step {
    /// There is more to do now.
    More,
    Idle,
    /// The receiver asked to wait.
    Later(Duration),
}

/// Sends spans for as long as the server runs.
pub(crate) async fn follow(place: &Place, database: &Database, collector: &Collector) {
    let mut exporter = Exporter { place, database, collector, progress: None, marks: Vec::new() };
    let mut pause = EVERY;
    loop {
        match exporter.step().await {
            Ok(Step::More) => {
                pause = EVERY;
                continue;
            }
            Ok(Step::Idle) => {
                pause = EVERY;
                tokio::time::sleep(EVERY).await;
            }
            Ok(Step::Later(asked)) => {
                Own::add(&place.own.spans_failed, 1);
                tokio::time::sleep(asked.max(pause)).await;
                pause = (pause * 2).min(LONGEST);
            }
            Err(_) => {
                Own::add(&place.own.spans_failed, 1);
                exporter.progress = None;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST);
            }
        }
    }
}

impl Exporter<'_> {
    async fn step(&mut self) -> Result<Step> {
        let work = self.database.write().await?;
        let done = self.within(&work).await;
        let keep = matches!(done, Ok(Step::More | Step::Idle));
        let ended = work.end(done).await;
        if !keep || ended.is_err() {
            // Progress that was not committed is read again.
            self.progress = None;
        }
        ended
    }

    async fn within(&mut self, work: &Work) -> Result<Step> {
        let lock = "select pg_try_advisory_xact_lock(hashtextextended('pg_outbox: serve traces', 0)) as taken";
        if work.one(lock, &[]).await?["taken"] != true {
            return Ok(Step::Idle);
        }
        let now = work.one(NOW, &[]).await?;
        let number = |name: &str| now[name].as_i64().ok_or_else(|| Error::connection("the log of attempts is unknown"));
        let (oldest, next) = (number("oldest")?, number("next")?);
        let leaves = leaves(&now["leaves"]);
        let Some(end) = leaves.last().map(|leaf| Spot { leaf: leaf.leaf, block: leaf.blocks, opened: leaf.opened })
        else {
            return Ok(Step::Idle);
        };
        let moves = now["moves"].as_i64().unwrap_or(0);
        let kept = || stored(moves, now["state"].as_str().unwrap_or_default()).filter(|kept| kept.fits(oldest));
        let known = self.progress.take().filter(|known| known.moves == moves && known.fits(oldest));
        let Some(mut progress) = known.or_else(kept) else {
            // The first span is that of the first attempt from now on.
            let fresh = Progress { moves, from: oldest, mark: end, part: None };
            self.progress = Some(advance(work, fresh).await?);
            return Ok(Step::Idle);
        };
        self.remember(next, end);
        let Some(part) = progress.part.clone().or_else(|| self.part(&progress, oldest, &leaves)) else {
            self.progress = Some(progress);
            return Ok(Step::Idle);
        };
        let (read, after) = range(&part, &leaves);
        let sent = match read {
            Some(blocks) => self.send(work, &progress, &part, blocks).await?,
            None => Sent::Done { attempts: 0, spans: 0, more: false },
        };
        let (attempts, spans, more) = match sent {
            Sent::Done { attempts, spans, more } => (attempts, spans, more),
            Sent::Later(wait) => return Ok(Step::Later(wait)),
        };
        let step = if more || after.is_some() { Step::More } else { Step::Idle };
        match after {
            _ if more => progress.part = Some(Part { taken: part.taken + attempts, ..part }),
            Some(at) => progress.part = Some(Part { at, taken: 0, ..part }),
            None => progress = Progress { from: part.to, mark: part.mark, part: None, ..progress },
        }
        // Attempts without a span need not be remembered: they would be read once more.
        if spans > 0 {
            progress = advance(work, progress).await?;
        }
        self.progress = Some(progress);
        Ok(step)
    }

    /// Remembers the end of the log. Of many ends, every second one is forgotten: an earlier mark is as good, and longer.
    fn remember(&mut self, next: i64, end: Spot) {
        if self.marks.last().is_none_or(|(known, spot)| *known < next && *spot != end) {
            self.marks.push((next, end));
        }
        if self.marks.len() > MARKS {
            let mut n = 0;
            self.marks.retain(|_| {
                n += 1;
                n % 2 == 1
            });
        }
    }

    /// Returns the next part, if the oldest transaction that runs is another than before.
    fn part(&mut self, progress: &Progress, oldest: i64, leaves: &[Leaf]) -> Option<Part> {
        if oldest <= progress.from {
            return None;
        }
        let known = self.marks.iter().rev().find(|(next, _)| *next <= oldest);
        let mark = known.map_or(progress.mark, |(_, spot)| *spot);
        self.marks.retain(|(next, spot)| *next > oldest || *spot == mark);
        Some(Part { to: oldest, at: start(progress.mark, leaves), taken: 0, mark })
    }

    /// Sends the spans of the next attempts in some blocks, in one request: the transaction waits for no second one.
    async fn send(
        &self,
        work: &Work,
        progress: &Progress,
        part: &Part,
        (leaf, from, to): (i64, i64, i64),
    ) -> Result<Sent> {
        let (first, last, taken) = (progress.from, part.to, part.taken);
        let sql = format!(
            "select a.position, a.message_id, a.message_ids, a.run, a.attempt, a.status, a.outcome, a.error_class,
                a.remote_address, a.subscription_id, a.endpoint_id, s.name as subscription, e.name as endpoint, e.url,
                (extract(epoch from a.started_at) * 1000000)::bigint as started_us,
                (extract(epoch from a.finished_at) * 1000000)::bigint as finished_us, current_database() as database
            from outbox.attempt a
            left join outbox.subscription s on s.id = a.subscription_id
            left join outbox.endpoint e on e.id = a.endpoint_id
            where a.segment = {leaf} and a.ctid >= '({from},0)'::tid and a.ctid < '({to},0)'::tid
                and a.endpoint_id is not null and a.worker is null and a.attempt > 0
                and (({last} - a.xmin::text::bigint) & 4294967295) between 1 and {last} - {first}
            order by a.ctid offset {taken} limit {SPANS}"
        );
        let found = work.query(&sql, &[]).await?;
        let attempts = together(&found);
        let done = |spans: usize| Sent::Done {
            attempts: attempts.len(),
            spans,
            more: attempts.len() < found.len() || found.len() == SPANS,
        };
        if attempts.is_empty() {
            return Ok(done(0));
        }
        let ids: Vec<String> = attempts.iter().flat_map(spans::message_ids).map(|id| id.to_string()).collect();
        let messages = work.query(MESSAGES, &[Some(&format!("{{{}}}", ids.join(",")))]).await?;
        let messages: HashMap<i64, Value> =
            messages.into_iter().filter_map(|message| Some((message["id"].as_i64()?, message))).collect();
        let made: Vec<_> = attempts.iter().filter_map(|attempt| spans::span(attempt, &messages)).collect();
        if made.is_empty() {
            return Ok(done(0));
        }
        let spans = made.len();
        let count = i64::try_from(spans).unwrap_or(i64::MAX);
        let database = attempts.first().and_then(|attempt| attempt["database"].as_str()).unwrap_or_default();
        match self.collector.send(&spans::request(database, made)).await {
            Verdict::Taken { rejected } => {
                Own::add(&self.place.own.spans, (count - rejected).max(0));
                Own::add(&self.place.own.spans_rejected, rejected.min(count));
            }
            Verdict::Refused => Own::add(&self.place.own.spans_rejected, count),
            Verdict::Later(wait) => return Ok(Sent::Later(wait)),
        }
        Ok(done(spans))
    }
}

/// Returns the attempts whose messages are read together: at least one.
fn together(attempts: &[Value]) -> &[Value] {
    let mut messages = 0;
    let few = attempts.iter().take_while(|attempt| {
        messages += spans::message_ids(attempt).len();
        messages <= MESSAGES_AT_ONCE
    });
    attempts.get(..few.count().max(1)).unwrap_or_default()
}

/// The transactions, the leaves of the log and the cursor, of one moment.
const NOW: &str = "
    select pg_snapshot_xmin(n.s)::text::bigint as oldest, pg_snapshot_xmax(n.s)::text::bigint as next,
        (select jsonb_agg(jsonb_build_object('leaf', g.leaf, 'opened', extract(epoch from g.opened_at)::bigint,
            'blocks', pg_relation_size(format('outbox._attempt_%s', lpad(g.leaf::text, 2, '0'))::regclass)
                / current_setting('block_size')::bigint) order by g.opened_at, g.leaf)
            from outbox.segment g where g.ring = 'attempt') as leaves,
        c.position as moves, c.last_delivery_id as state
    from (select pg_current_snapshot() as s) n
    left join outbox.cursor_list(consumer => 'traces', stream => 'outbox serve', subject => '', max_rows => 1) c on true";

/// The messages with a context, by their ids. A text that is too long for a context stays so when it is cut.
const MESSAGES: &str = "
    select m.id, m.topic, outbox.webhook_id(m.id, m.enqueued_at) as webhook_id,
        left(coalesce(m.headers ->> 'traceparent', m.metadata ->> 'traceparent'), 1000) as traceparent,
        left(coalesce(m.headers ->> 'tracestate', m.metadata ->> 'tracestate'), 1000) as tracestate
    from outbox.message m
    where m.id = any ($1::bigint[]) and (m.metadata ? 'traceparent' or m.headers ? 'traceparent')";

fn leaves(found: &Value) -> Vec<Leaf> {
    let leaf = |row: &Value| {
        Some(Leaf { leaf: row["leaf"].as_i64()?, opened: row["opened"].as_i64()?, blocks: row["blocks"].as_i64()? })
    };
    found.as_array().into_iter().flatten().filter_map(leaf).collect()
}

/// Returns where the attempts of a part begin: before the mark, and at the end of the leaf before, which transactions may still
/// have written when the mark was made.
fn start(mark: Spot, leaves: &[Leaf]) -> Spot {
    let spot = |leaf: &Leaf, block: i64| Spot { leaf: leaf.leaf, block: block.max(0), opened: leaf.opened };
    match leaves.iter().position(|leaf| leaf.leaf == mark.leaf && leaf.opened == mark.opened) {
        Some(n) => match n.checked_sub(1).and_then(|before| leaves.get(before)) {
            Some(before) if mark.block <= MARGIN => spot(before, before.blocks - MARGIN),
            _ => Spot { block: (mark.block - MARGIN).max(0), ..mark },
        },
        // The leaf has been emptied since. All that is left of the log is read.
        None => leaves.first().map_or(mark, |leaf| spot(leaf, 0)),
    }
}

/// Returns the blocks of the next step, as the leaf, the first one and the one after the last; and where to go on then.
fn range(part: &Part, leaves: &[Leaf]) -> (Option<(i64, i64, i64)>, Option<Spot>) {
    let at = part.at;
    let n = leaves.iter().position(|leaf| leaf.leaf == at.leaf && leaf.opened == at.opened);
    let after = |n: Option<usize>| {
        let next = leaves.get(n.map_or(0, |n| n + 1))?;
        Some(Spot { leaf: next.leaf, block: 0, opened: next.opened })
    };
    let Some(leaf) = n.and_then(|n| leaves.get(n)) else { return (None, after(None)) };
    let to = (at.block + BLOCKS).min(leaf.blocks);
    let read = (at.block < to).then_some((at.leaf, at.block, to));
    (read, if to < leaf.blocks { Some(Spot { block: to, ..at }) } else { after(n) })
}

/// Moves the cursor in the transaction of the step.
async fn advance(work: &Work, progress: Progress) -> Result<Progress> {
    let moved = Progress { moves: progress.moves + 1, ..progress };
    let args = json!({
        "consumer": CONSUMER, "stream": STREAM, "position": moved.moves, "expected_position": moved.moves - 1,
        "delivery_id": text(&moved),
    });
    work.call("cursor_advance", args).await?;
    Ok(moved)
}

/// Returns the form in which the cursor keeps the progress, as its delivery id.
fn text(progress: &Progress) -> String {
    let spot = |spot: Spot| json!([spot.leaf, spot.block, spot.opened]);
    let part = progress
        .part
        .as_ref()
        .map(|part| json!({"to": part.to, "at": spot(part.at), "taken": part.taken, "mark": spot(part.mark)}));
    json!({"from": progress.from, "mark": spot(progress.mark), "part": part}).to_string()
}

fn stored(moves: i64, state: &str) -> Option<Progress> {
    let state: Value = serde_json::from_str(state).ok()?;
    let spot =
        |value: &Value| Some(Spot { leaf: value[0].as_i64()?, block: value[1].as_i64()?, opened: value[2].as_i64()? });
    let part = match &state["part"] {
        Value::Null => None,
        part => Some(Part {
            to: part["to"].as_i64()?,
            at: spot(&part["at"])?,
            taken: usize::try_from(part["taken"].as_u64()?).ok()?,
            mark: spot(&part["mark"])?,
        }),
    };
    Some(Progress { moves, from: state["from"].as_i64()?, mark: spot(&state["mark"])?, part })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(leaf: i64, opened: i64, blocks: i64) -> Leaf {
        Leaf { leaf, opened, blocks }
    }

    /// Returns the blocks that the steps of a part read.
    fn read(mark: Spot, leaves: &[Leaf]) -> Vec<(i64, i64, i64)> {
        let mut part = Part { to: 9, at: start(mark, leaves), taken: 0, mark };
        let mut found = Vec::new();
        for _ in 0..100 {
            let (read, after) = range(&part, leaves);
            found.extend(read);
            let Some(at) = after else { return found };
            part.at = at;
        }
        panic!("a part does not end: {found:?}");
    }

    #[test]
    fn a_part_reads_from_before_its_mark_to_the_end() {
        let mark = Spot { leaf: 3, block: 1000, opened: 30 };
        let leaves = [leaf(2, 20, 500), leaf(3, 30, 1010)];
        assert_eq!(read(mark, &leaves), [(3, 872, 936), (3, 936, 1000), (3, 1000, 1010)]);
        // Soon after the pointer moved, the end of the leaf before is read as well; the leaves after are read from their beginning.
        let mark = Spot { leaf: 3, block: 10, opened: 30 };
        let leaves = [leaf(2, 20, 150), leaf(3, 30, 20), leaf(4, 40, 1)];
        assert_eq!(read(mark, &leaves), [(2, 22, 86), (2, 86, 150), (3, 0, 20), (4, 0, 1)]);
        // The leaf was emptied and is another now.
        let leaves = [leaf(3, 50, 1), leaf(4, 60, 0)];
        assert_eq!(read(mark, &leaves), [(3, 0, 1)]);
        assert_eq!(read(mark, &[leaf(3, 30, 0)]), []);
    }

    #[test]
    fn a_request_has_a_bounded_number_of_messages() {
        let attempts = |messages: usize| vec![json!({"message_ids": vec![1; messages]}); 5];
        let taken = |messages: usize| together(&attempts(messages)).len();
        assert_eq!((taken(1), taken(400), taken(401), taken(1000), taken(5000)), (5, 5, 4, 2, 1));
        assert!(together(&[]).is_empty());
    }

    #[test]
    fn progress_of_another_cluster_does_not_fit() {
        let mark = Spot { leaf: 1, block: 0, opened: 1 };
        let whole = Progress { moves: 5, from: 7, mark, part: None };
        let parted = Progress { part: Some(Part { to: 9, at: mark, taken: 0, mark }), ..whole.clone() };
        assert!(whole.fits(7) && !whole.fits(6) && parted.fits(9) && !parted.fits(8));
    }

    #[test]
    fn progress_is_kept_as_a_text() {
        let spot = |leaf| Spot { leaf, block: 1 << 40, opened: 1_800_000_000 };
        let whole = Progress { moves: 5, from: 7, mark: spot(1), part: None };
        let parted = Progress { part: Some(Part { to: 9, at: spot(2), taken: 512, mark: spot(3) }), ..whole.clone() };
        for progress in [whole, parted] {
            assert_eq!(stored(5, &text(&progress)), Some(progress));
        }
        for bad in ["", "{}", "[]", "{\"from\":1,\"mark\":[1,2,3],\"part\":{}}"] {
            assert_eq!(stored(5, bad), None, "{bad}");
        }
    }
}
