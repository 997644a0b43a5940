//! The verdict: the committed truth against what was seen.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use outbox_harness::tokio_postgres::Client;

use crate::load::Shared;
use crate::receivers::{FAR, MOODY};
use crate::schedule::Event;
use crate::world::{MAX_IN_FLIGHT, MAX_UNRECORDED};

/// One question and its answer.
#[derive(Clone, Debug)]
pub struct Finding {
    pub what: &'static str,
    pub holds: bool,
    pub detail: String,
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Whether every guarantee held.
    pub fn holds(&self) -> bool {
        self.findings.iter().all(|f| f.holds)
    }

    fn note(&mut self, what: &'static str, holds: bool, detail: String) {
        self.findings.push(Finding { what, holds, detail });
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for finding in &self.findings {
            let mark = if finding.holds { "ok    " } else { "BREACH" };
            writeln!(f, "  {mark} {:<44} {}", finding.what, finding.detail)?;
        }
        Ok(())
    }
}

/// Subscriptions that must have every message, by path; the last one gives up after two tries.
const EVERYTHING: [&str; 2] = [MOODY[0], FAR];
const EVEN: &str = MOODY[1];
const MORTAL: &str = MOODY[2];

/// The committed truth.
async fn truth(db: &Client) -> Result<HashMap<i64, i64>> {
    let rows = db.query("select n, message_id from chaos.ledger", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn dead(db: &Client) -> Result<HashSet<i64>> {
    let rows = db.query("select l.n from outbox.dead_letter d join chaos.ledger l using (message_id)", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Waits until nothing is left to do. Says what was left when `patience` ended.
pub async fn settle(shared: &Shared, db: &Client, patience: Duration) -> Result<Option<String>> {
    let deadline = Instant::now() + patience;
    loop {
        // The schedule's waits are minutes: not what this is about.
        db.batch_execute(
            "update outbox.delivery set due_at = clock_timestamp() where state = 'failed' and due_at > clock_timestamp();
            select outbox._look_at_deliveries()",
        )
        .await?;
        let truth = truth(db).await?;
        let count =
            |path| shared.ledger.seen(path).iter().filter(|(n, s)| s.accepted > 0 && truth.contains_key(n)).count();
        let (main, far, half) = (count(EVERYTHING[0]), count(EVERYTHING[1]), count(EVEN));
        let mut mortal = dead(db).await?;
        mortal.extend(shared.ledger.seen(MORTAL).iter().filter(|(_, s)| s.accepted > 0).map(|(n, _)| *n));
        let mortal = truth.keys().filter(|n| mortal.contains(n)).count();
        let even = truth.keys().filter(|n| *n % 2 == 0).count();
        let row = db
            .query_one(
                "select s.waiting, s.worker, coalesce(w.idle, false), (select count(*) from chaos.effect),
                    (select count(*) from chaos.worked)
                from outbox.stats() s, outbox._worker_slot() w",
                &[],
            )
            .await?;
        let (waiting, worker, idle): (i64, String, bool) = (row.get(0), row.get(1), row.get(2));
        let (effects, worked): (i64, i64) = (row.get(3), row.get(4));
        let all = truth.len();
        let pushed = main == all && far == all && half == even && mortal == all;
        if pushed && effects as usize == all && worked as usize == all && waiting == 0 && idle {
            return Ok(None);
        }
        if Instant::now() > deadline {
            return Ok(Some(format!(
                "of {all} messages: main {main}, far {far}, even {half} of {even}, mortal {mortal}, read {effects}, pulled {worked}; \
                {waiting} deliveries wait; the worker is {worker}, idle: {idle}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Compares. `stuck` is what `settle` found.
pub async fn judge(
    shared: &Shared,
    db: &Client,
    happened: &[Event],
    stuck: Option<String>,
    peak_memory: u64,
    log: &str,
) -> Result<Verdict> {
    let mut verdict = Verdict::default();
    let truth = truth(db).await?;
    let ledger = &shared.ledger;

    let lost: Vec<i64> = ledger.acknowledged().into_iter().filter(|n| !truth.contains_key(n)).collect();
    verdict.note("acknowledged commits survive", lost.is_empty(), format!("{} missing {}", lost.len(), some(&lost)));

    let dead = dead(db).await?;
    let mut missing = Vec::new();
    for path in [EVERYTHING[0], EVERYTHING[1], EVEN, MORTAL] {
        let seen = ledger.seen(path);
        let expected = truth.keys().filter(|n| path != EVEN || *n % 2 == 0);
        missing.extend(expected.filter(|n| {
            let delivered = seen.get(n).is_some_and(|s| s.accepted > 0);
            !(delivered || path == MORTAL && dead.contains(n))
        }));
    }
    verdict.note(
        "every committed message is delivered",
        missing.is_empty(),
        format!("{} committed, {} lost {}", truth.len(), missing.len(), some(&missing)),
    );

    let ghosts: Vec<i64> = ledger.anywhere().into_iter().filter(|n| !truth.contains_key(n)).collect();
    verdict.note(
        "nothing that was rolled back is delivered",
        ghosts.is_empty(),
        format!("{} rolled back, {} delivered {}", ledger.drawn() - truth.len() as i64, ghosts.len(), some(&ghosts)),
    );

    let unstable = ledger.unstable_ids();
    verdict.note(
        "one webhook id per message",
        unstable.is_empty(),
        format!("{} with several {}", unstable.len(), some(&unstable)),
    );

    let mut again = BTreeMap::new();
    let mut example = None;
    for path in [EVERYTHING[0], EVERYTHING[1], EVEN, MORTAL] {
        let repeats: u64 = ledger.seen(path).values().map(|s| u64::from(s.accepted.saturating_sub(1))).sum();
        again.insert(path, repeats);
        let twice = ledger.seen(path).into_iter().find(|(_, s)| s.accepted > 1);
        example = twice.and_then(|(n, _)| truth.get(&n)).copied().or(example);
    }
    // A full disk may bring the server down more than once.
    let crashes = log.matches("database system was not properly shut down").count() as u64;
    let cuts = happened.iter().filter(|e| e.cuts_connections()).count() as u64;
    let repeated: u64 = again.values().sum();
    let bound = crashes * MAX_UNRECORDED + cuts * MAX_IN_FLIGHT;
    verdict.note(
        "duplicates stay within the bound",
        repeated <= bound,
        format!("{repeated} of {bound} {again:?} ({crashes} crashes x {MAX_UNRECORDED} unrecorded, {cuts} cuts x {MAX_IN_FLIGHT} in flight)"),
    );

    if let Some(id) = example.filter(|_| repeated > bound) {
        for row in db.query("select h::text from outbox.history($1) h", &[&id]).await? {
            println!("    {}", row.get::<_, &str>(0));
        }
    }

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
    let unnumbered = truth.values().filter(|id| !positions.contains_key(id)).count();
    let own = db.query("select id from outbox.message where topic like 'outbox.%'", &[]).await?.len();
    let foreign = positions.len() as i64 - truth.len() as i64 - own as i64;
    verdict.note(
        "the feed has each message once, gap-free",
        gaps == 0 && twice == 0 && unnumbered == 0 && foreign == 0,
        format!(
            "{} positions; {gaps} out of place, {twice} twice, {unnumbered} missing, {foreign} foreign",
            feed.len()
        ),
    );

    let effects = db.query("select n, \"position\" from chaos.effect order by 2", &[]).await?;
    let wrong = effects
        .iter()
        .filter(|row| truth.get(&row.get::<_, i64>(0)).and_then(|id| positions.get(id)) != Some(&row.get::<_, i64>(1)));
    let wrong = wrong.count();
    let twice = effects.len() - effects.iter().map(|row| row.get::<_, i64>(0)).collect::<HashSet<_>>().len();
    verdict.note(
        "a reader's effects happen exactly once",
        wrong == 0 && twice == 0 && effects.len() == truth.len(),
        format!("{} effects of {}, {wrong} of other messages, {twice} twice", effects.len(), truth.len()),
    );

    let worked = db.query("select n from chaos.worked", &[]).await?;
    let distinct: HashSet<i64> = worked.iter().map(|row| row.get(0)).collect();
    let strange = distinct.iter().filter(|n| !truth.contains_key(n)).count();
    verdict.note(
        "pull workers complete each message exactly once",
        worked.len() == truth.len() && distinct.len() == worked.len() && strange == 0,
        format!("{} of {}, {} twice, {strange} of others", distinct.len(), truth.len(), worked.len() - distinct.len()),
    );

    let recorded: i64 = db
        .query_one(
            "select count(*) from (
                select l.n, s.name from chaos.ledger l, outbox.subscription s
                where s.name in ('main', 'far', 'work') or s.name = 'half' and l.n % 2 = 0
                except
                select l.n, s.name from outbox.attempt a
                join chaos.ledger l using (message_id)
                join outbox.subscription s on s.id = a.subscription_id
                where a.outcome = 'completed'
            ) unrecorded",
            &[],
        )
        .await?
        .get(0);
    verdict.note("every delivery is in the attempt log", recorded == 0, format!("{recorded} are not"));

    verdict.note("nothing is stuck", stuck.is_none(), stuck.unwrap_or_else(|| "idle, nothing waits".to_owned()));
    verdict.note(
        "memory of the dispatcher stays below 100 MB",
        peak_memory < 100 << 20,
        format!("peak {:.1} MB private", peak_memory as f64 / f64::from(1 << 20)),
    );

    // Signal 9 and 3 are ours.
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
    Ok(verdict)
}

fn some(numbers: &[i64]) -> String {
    if numbers.is_empty() { String::new() } else { format!("({:?}...)", &numbers[..numbers.len().min(5)]) }
}
