//! The verdict: compares the committed truth with the observations.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use outbox_harness::tokio_postgres::Client;

use crate::load::Shared;
use crate::receivers::{FAR, GUEST, KEYED, MOODY, REMOTE};
use crate::schedule::Event;
use crate::world::{MAX_IN_FLIGHT, MAX_UNRECORDED, note_own};
use crate::{append, matching};

/// One guarantee and whether it held.
#[derive(Clone, Debug)]
pub struct Finding {
    pub what: &'static str,
    pub holds: bool,
    pub detail: String,
}

/// All findings of a run.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Returns whether every guarantee held.
    pub fn holds(&self) -> bool {
        self.findings.iter().all(|f| f.holds)
    }

    pub(crate) fn note(&mut self, what: &'static str, holds: bool, detail: String) {
        self.findings.push(Finding { what, holds, detail });
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for finding in &self.findings {
            let mark = if finding.holds { "ok    " } else { "BREACH" };
            writeln!(f, "  {mark} {:<48} {}", finding.what, finding.detail)?;
        }
        Ok(())
    }
}

/// A path of a receiver, and a predicate for the numbers that it must get.
type Path = (&'static str, fn(i64) -> bool);
/// The paths. Deliveries to `MORTAL` become dead letters after two attempts.
const PATHS: [Path; 6] =
    [(MOODY[0], |_| true), (FAR, |_| true), (EVEN, even), (REMOTE, odd), (KEYED, |_| true), (MORTAL, |_| true)];
const EVEN: &str = MOODY[1];
const MORTAL: &str = MOODY[2];

fn even(n: i64) -> bool {
    n % 2 == 0
}

fn odd(n: i64) -> bool {
    n % 2 != 0
}

/// The committed truth.
pub(crate) struct Truth {
    /// The message ids of the committed numbers.
    pub(crate) messages: HashMap<i64, i64>,
    /// The numbers that were cancelled or erased: 'cancelled', 'erased', or 'never' (cancelled before a delivery could
    /// exist).
    pub(crate) fates: HashMap<i64, String>,
}

impl Truth {
    async fn load(db: &Client) -> Result<Truth> {
        let messages = db.query("select n, message_id from chaos.ledger", &[]).await?;
        let fates = db.query("select n, what from chaos.fate", &[]).await?;
        Ok(Truth {
            messages: messages.iter().map(|row| (row.get(0), row.get(1))).collect(),
            fates: fates.iter().map(|row| (row.get(0), row.get(1))).collect(),
        })
    }

    /// Returns whether a message was cancelled before a delivery of the message could exist.
    fn is_never(&self, n: &i64) -> bool {
        self.fates.get(n).is_some_and(|what| what == "never")
    }

    /// Returns the numbers that must arrive.
    pub(crate) fn due(&self) -> impl Iterator<Item = i64> {
        self.messages.keys().copied().filter(|n| !self.fates.contains_key(n))
    }
}

async fn dead(db: &Client) -> Result<HashSet<i64>> {
    let rows = db.query("select l.n from outbox.dead_letter d join chaos.ledger l using (message_id)", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Returns the numbers that a path must have got and has not.
fn missing(shared: &Shared, truth: &Truth, dead: &HashSet<i64>, path: &str, wanted: fn(i64) -> bool) -> Vec<i64> {
    let seen = shared.ledger.seen(path);
    let arrived = |n: &i64| seen.get(n).is_some_and(|s| s.accepted > 0) || path == MORTAL && dead.contains(n);
    truth.due().filter(|n| wanted(*n) && !arrived(n)).collect()
}

/// Waits until no work is left. Returns the remaining work if `patience` ends first.
pub async fn settle(shared: &Shared, db: &Client, patience: Duration) -> Result<Option<String>> {
    let deadline = Instant::now() + patience;
    loop {
        // Retries become due at once, because the waits of the schedule would only take time.
        db.batch_execute(
            "update outbox.delivery set due_at = clock_timestamp() where state = 'failed' and due_at > clock_timestamp();
            select outbox_internal.deliveries_changed()",
        )
        .await?;
        let truth = Truth::load(db).await?;
        let dead = dead(db).await?;
        let mut left = Vec::new();
        for (path, wanted) in PATHS {
            let missing = missing(shared, &truth, &dead, path, wanted).len();
            if missing > 0 {
                left.push(format!("{path} lacks {missing}"));
            }
        }
        let row = db
            .query_one(
                "select s.waiting, s.worker, coalesce(w.idle, false), (select count(*) from chaos.ledger)
                        - (select count(*) from chaos.effect),
                    (select count(*) from (select n from chaos.ledger except select n from chaos.fate
                        except select n from chaos.worked) l),
                    (select count(*) from (select n from chaos.ledger where n % 2 <> 0 except select n from chaos.fate
                        except select n from chaos.laned) l)
                from outbox.stats() s, outbox_internal.worker_slot() w",
                &[],
            )
            .await?;
        for (i, what) in [(0, "waiting"), (3, "unread"), (4, "not worked"), (5, "not worked in order")] {
            let count: i64 = row.get(i);
            if count != 0 {
                left.push(format!("{count} {what}"));
            }
        }
        if !row.get::<_, bool>(2) {
            left.push(format!("the worker is {}, not idle", row.get::<_, &str>(1)));
        }
        if left.is_empty() {
            return Ok(None);
        }
        if Instant::now() > deadline {
            return Ok(Some(left.join(", ")));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Compares the observations with the committed truth. `stuck` is the result of `settle`.
pub async fn judge(
    shared: &Shared,
    db: &Client,
    happened: &[Event],
    stuck: Option<String>,
    memory: &[u64],
    log: &str,
) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    let truth = Truth::load(db).await?;
    arrivals(&mut verdict, shared, db, &truth).await?;
    duplicates(&mut verdict, shared, db, &truth, happened, log).await?;
    let positions = feed(&mut verdict, db, &truth).await?;
    effects(&mut verdict, db, &truth, &positions).await?;
    pulled(&mut verdict, db, &truth).await?;
    append::judge(&mut verdict, db).await?;
    matching::judge(&mut verdict, shared, db, &truth, &positions).await?;
    verdict.note("nothing is stuck", stuck.is_none(), stuck.unwrap_or_else(|| "idle, nothing waits".to_owned()));
    dispatcher_memory(&mut verdict, memory);
    fallen_processes(&mut verdict, log);
    Ok(verdict)
}

/// Checks that the committed messages arrived, and no others, each with one webhook id.
async fn arrivals(verdict: &mut Verdict, shared: &Shared, db: &Client, truth: &Truth) -> Result<()> {
    let ledger = &shared.ledger;
    let lost: Vec<i64> = ledger.acknowledged().into_iter().filter(|n| !truth.messages.contains_key(n)).collect();
    verdict.note("acknowledged commits survive", lost.is_empty(), format!("{} missing {}", lost.len(), some(&lost)));

    let dead = dead(db).await?;
    let missing: Vec<i64> =
        PATHS.iter().flat_map(|(path, wanted)| missing(shared, truth, &dead, path, *wanted)).collect();
    verdict.note(
        "every committed message is delivered",
        missing.is_empty(),
        format!(
            "{} committed ({} of them cancelled or erased), {} lost {}",
            truth.messages.len(),
            truth.fates.len(),
            missing.len(),
            some(&missing)
        ),
    );

    let ghosts: Vec<i64> =
        ledger.anywhere().into_iter().filter(|n| !truth.messages.contains_key(n) || truth.is_never(n)).collect();
    verdict.note(
        "nothing that was rolled back is delivered",
        ghosts.is_empty(),
        format!(
            "{} rolled back, {} cancelled at once, {} delivered {}",
            ledger.drawn() - truth.messages.len() as i64,
            truth.fates.values().filter(|what| *what == "never").count(),
            ghosts.len(),
            some(&ghosts)
        ),
    );

    let unstable = ledger.unstable_ids();
    verdict.note(
        "one webhook id per message",
        unstable.is_empty(),
        format!("{} with several {}", unstable.len(), some(&unstable)),
    );
    Ok(())
}

/// Checks that messages arrived again only as often as crashes, cut connections and operators explain.
async fn duplicates(
    verdict: &mut Verdict,
    shared: &Shared,
    db: &Client,
    truth: &Truth,
    happened: &[Event],
    log: &str,
) -> Result<()> {
    let mut again = BTreeMap::new();
    let mut example = None;
    for path in PATHS.map(|(path, _)| path).into_iter().chain([GUEST]) {
        let repeats: u64 = shared.ledger.seen(path).values().map(|s| u64::from(s.accepted.saturating_sub(1))).sum();
        again.insert(path, repeats);
        let twice = shared.ledger.seen(path).into_iter().find(|(_, s)| s.accepted > 1);
        example = twice.and_then(|(n, _)| truth.messages.get(&n)).copied().or(example);
    }
    // A full disk may bring the server down more than once.
    let crashes = log.matches("database system was not properly shut down").count() as u64;
    let cuts = happened.iter().filter(|e| e.cuts_connections()).count() as u64;
    let repeated: u64 = again.values().sum();
    let asked: i64 = db
        .query_one("select (select count(*) from chaos.resent) + (select count(*) from chaos.moved)", &[])
        .await?
        .get(0);
    let bound = crashes * MAX_UNRECORDED + cuts * MAX_IN_FLIGHT + asked as u64;
    verdict.note(
        "duplicates stay within the bound",
        repeated <= bound,
        format!("{repeated} of {bound} {again:?} ({crashes} crashes x {MAX_UNRECORDED} unrecorded, {cuts} cuts x {MAX_IN_FLIGHT} in flight, {asked} by hand)"),
    );

    if let Some(id) = example.filter(|_| repeated > bound) {
        for row in db.query("select h::text from outbox.history($1) h", &[&id]).await? {
            println!("    {}", row.get::<_, &str>(0));
        }
    }
    Ok(())
}

/// Checks that the feed has the committed messages. Returns the position of each message id.
async fn feed(verdict: &mut Verdict, db: &Client, truth: &Truth) -> Result<HashMap<i64, i64>> {
    let feed = db
        .query(
            "select f.first_position + u.ord - 1, u.id
            from outbox.feed f, unnest(f.message_ids) with ordinality u(id, ord) order by 1",
            &[],
        )
        .await?;
    let mut positions: HashMap<i64, i64> = HashMap::new();
    let (mut gaps, mut twice) = (0, 0);
    for (expected, row) in (1i64..).zip(&feed) {
        gaps += i32::from(row.get::<_, i64>(0) != expected);
        twice += i32::from(positions.insert(row.get(1), row.get(0)).is_some());
    }
    let unnumbered = truth.messages.values().filter(|id| !positions.contains_key(id)).count();
    note_own(db).await?;
    let own: i64 = db.query_one("select count(*) from chaos.own", &[]).await?.get(0);
    let events: i64 = db.query_one("select count(*) from outbox.message where segment = -2", &[]).await?.get(0);
    let foreign = positions.len() as i64 - truth.messages.len() as i64 - own - events;
    verdict.note(
        "the feed has each message once, gap-free",
        gaps == 0 && twice == 0 && unnumbered == 0 && foreign == 0,
        format!(
            "{} positions; {gaps} out of place, {twice} twice, {unnumbered} missing, {foreign} foreign",
            feed.len()
        ),
    );
    Ok(positions)
}

/// Checks the effects of the readers.
async fn effects(verdict: &mut Verdict, db: &Client, truth: &Truth, positions: &HashMap<i64, i64>) -> Result<()> {
    let effects = db.query("select message_id, \"position\" from chaos.effect", &[]).await?;
    let wrong =
        effects.iter().filter(|row| positions.get(&row.get::<_, i64>(0)) != Some(&row.get::<_, i64>(1))).count();
    let distinct: HashSet<i64> = effects.iter().map(|row| row.get(0)).collect();
    let unread = truth.messages.values().filter(|id| !distinct.contains(id)).count();
    verdict.note(
        "a reader's effects happen exactly once",
        wrong == 0 && distinct.len() == effects.len() && unread == 0 && effects.len() == truth.messages.len(),
        format!(
            "{} effects of {}, {wrong} at wrong places, {} twice, {unread} missing",
            effects.len(),
            truth.messages.len(),
            effects.len() - distinct.len()
        ),
    );
    Ok(())
}

/// Checks the completed deliveries of the pull workers.
async fn pulled(verdict: &mut Verdict, db: &Client, truth: &Truth) -> Result<()> {
    for (what, table, wanted) in [
        ("pull workers complete each message exactly once", "chaos.worked", (|_| true) as fn(i64) -> bool),
        ("and so do those that keep the order of keys", "chaos.laned", odd),
    ] {
        let worked = db.query(&format!("select n from {table}"), &[]).await?;
        let distinct: HashSet<i64> = worked.iter().map(|row| row.get(0)).collect();
        let is_strange = |n: &&i64| !truth.messages.contains_key(n) || !wanted(**n) || truth.is_never(n);
        let strange = distinct.iter().filter(is_strange).count();
        let missing: Vec<i64> = truth.due().filter(|n| wanted(*n) && !distinct.contains(n)).collect();
        verdict.note(
            what,
            missing.is_empty() && distinct.len() == worked.len() && strange == 0,
            format!(
                "{}, {} missing {}, {} twice, {strange} of others",
                distinct.len(),
                missing.len(),
                some(&missing),
                worked.len() - distinct.len()
            ),
        );
    }
    Ok(())
}

/// Checks that the memory of the dispatcher does not grow. The load is the same in both halves of the run.
fn dispatcher_memory(verdict: &mut Verdict, memory: &[u64]) {
    let (early, late) = memory.split_at(memory.len() / 2);
    let top = |samples: &[u64]| samples.iter().max().map_or(0.0, |bytes| *bytes as f64 / f64::from(1 << 20));
    let (early, late) = (top(early), top(late));
    verdict.note(
        "memory of the dispatcher is flat, below 100 MB",
        early.max(late) < 100.0 && late < early * 1.5 + 8.0,
        format!("at most {early:.1} MB private in the first half, {late:.1} MB in the second"),
    );
}

/// Checks the server's log. Processes ended by signals 9 and 6, and a PANIC for lack of space, are effects of the events.
fn fallen_processes(verdict: &mut Verdict, log: &str) {
    let bad: Vec<&str> = log
        .lines()
        .filter(|line| {
            line.contains("panicked at")
                || line.contains("TRAP")
                || line.contains("stuck spinlock")
                || (line.contains("was terminated by signal")
                    && !line.contains("signal 9")
                    && !line.contains("signal 6"))
                || (line.contains("PANIC:") && !line.contains("No space left"))
        })
        .take(3)
        .collect();
    verdict.note("no process fell by itself", bad.is_empty(), bad.join(" | "));
}

pub(crate) fn some(numbers: &[i64]) -> String {
    if numbers.is_empty() { String::new() } else { format!("({:?}...)", &numbers[..numbers.len().min(5)]) }
}
