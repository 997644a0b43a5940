//! The part of the verdict that compares outcomes with expectations: the order of keys, the actions of operators, the
//! messages of a subscription that changed, and rows that are left over.

use std::collections::HashMap;

use anyhow::Result;
use outbox_harness::tokio_postgres::Client;

use crate::load::{Shared, key};
use crate::receivers::{GUEST, KEYED};
use crate::verdict::{Truth, Verdict, some};

/// The longest time after a cancellation at which an attempt may begin. An attempt that was already queued may have to
/// wait for its turn.
const LATE: &str = "15 s";

pub(crate) async fn judge(
    verdict: &mut Verdict,
    shared: &Shared,
    db: &Client,
    truth: &Truth,
    positions: &HashMap<i64, i64>,
) -> Result<()> {
    key_order(verdict, shared, db, truth, positions).await?;
    key_overlap(verdict, db).await?;
    attempt_log(verdict, db, truth).await?;
    late_attempts(verdict, db).await?;
    guest(verdict, shared, db, truth, positions).await?;
    left_behind(verdict, db).await
}

/// Checks that the messages of a key were received and completed in the order of the feed.
async fn key_order(
    verdict: &mut Verdict,
    shared: &Shared,
    db: &Client,
    truth: &Truth,
    positions: &HashMap<i64, i64>,
) -> Result<()> {
    let place = |n: &i64| truth.messages.get(n).and_then(|id| positions.get(id)).copied();

    // First arrivals, in the order in which the receiver saw them. A message that an operator changed may arrive at any
    // time.
    let mut arrivals: Vec<(u64, i64)> =
        shared.ledger.seen(KEYED).into_iter().map(|(n, seen)| (seen.first, n)).collect();
    arrivals.sort_unstable();
    let arrived = arrivals.into_iter().map(|(_, n)| n);
    let (kept, broken) = in_order(arrived.filter(|n| !truth.fates.contains_key(n)), place);
    verdict.note(
        "first deliveries of a key come in its order",
        broken.is_empty(),
        format!("{kept} pushed, {} out of order {}", broken.len(), some(&broken)),
    );

    let rows = db.query("select n from chaos.laned order by drawn", &[]).await?;
    let worked = rows.iter().map(|row| row.get(0));
    let (kept, broken) = in_order(worked.filter(|n| !truth.fates.contains_key(n)), place);
    verdict.note(
        "pull workers complete a key in its order",
        broken.is_empty(),
        format!("{kept} completed, {} out of order {}", broken.len(), some(&broken)),
    );
    Ok(())
}

/// Checks that the attempts of a key do not overlap.
async fn key_overlap(verdict: &mut Verdict, db: &Client) -> Result<()> {
    let together: i64 = db
        .query_one(
            "select count(*) from (
                select a.started_at, max(a.finished_at) over (partition by l.n % 400 order by a.started_at, a.finished_at
                    rows between unbounded preceding and 1 preceding) as before
                from outbox.attempt_log a
                join outbox.subscription s on s.id = a.subscription_id and s.name = 'keyed'
                join chaos.ledger l using (message_id)
                where a.attempt > 0 and a.run = 0 and l.n % 10 <> 0
            ) tries where started_at < before",
            &[],
        )
        .await?
        .get(0);
    verdict.note("never two of a key at a time", together == 0, format!("{together} tries overlap"));
    Ok(())
}

/// Checks that the attempt log has an outcome for each delivery.
async fn attempt_log(verdict: &mut Verdict, db: &Client, truth: &Truth) -> Result<()> {
    let unrecorded: i64 = db
        .query_one(
            "select count(*) from (
                select l.n, s.name from chaos.ledger l, outbox.subscription s
                where (s.name in ('main', 'far', 'work', 'keyed') or s.name = 'half' and l.n % 2 = 0
                    or s.name in ('remote', 'lane') and l.n % 2 <> 0) and l.n not in (select f.n from chaos.fate f)
                except
                select l.n, s.name from outbox.attempt_log a
                join chaos.ledger l using (message_id)
                join outbox.subscription s on s.id = a.subscription_id
                where a.outcome = 'completed'
            ) unrecorded",
            &[],
        )
        .await?
        .get(0);
    verdict.note("every delivery is in the attempt log", unrecorded == 0, format!("{unrecorded} are not"));

    let open: i64 = db
        .query_one(
            "select count(*) from (
                select f.n, s.name from chaos.fate f, outbox.subscription s
                where f.what <> 'erased' and (s.name in ('main', 'far', 'work', 'keyed', 'mortal')
                    or s.name = 'half' and f.n % 2 = 0 or s.name in ('remote', 'lane') and f.n % 2 <> 0)
                except
                select f.n, s.name from outbox.attempt_log a
                join chaos.ledger l using (message_id)
                join chaos.fate f using (n)
                join outbox.subscription s on s.id = a.subscription_id
                where a.outcome in ('completed', 'cancelled', 'dead')
            ) open_ones",
            &[],
        )
        .await?
        .get(0);
    // A message that was erased before it was routed has no deliveries, so erased messages are not counted.
    verdict.note(
        "what was cancelled has its outcome, too",
        open == 0,
        format!("{} messages, {open} deliveries without", truth.fates.len()),
    );
    Ok(())
}

/// Checks that no attempt of a message began long after an operator cancelled or erased the message.
async fn late_attempts(verdict: &mut Verdict, db: &Client) -> Result<()> {
    let late = db
        .query(
            &format!(
                "select l.n, s.name, extract(epoch from max(a.started_at - f.at))::float8
                from chaos.fate f
                join chaos.ledger l using (n)
                join outbox.attempt_log a using (message_id)
                join outbox.subscription s on s.id = a.subscription_id
                where a.attempt > 0 and a.run = 0 and a.started_at > f.at + interval '{LATE}'
                    and f.n not in (select n from chaos.moved)
                group by 1, 2"
            ),
            &[],
        )
        .await?;
    let examples: Vec<String> = late
        .iter()
        .take(3)
        .map(|row| format!("{} by {} after {:.0} s", row.get::<_, i64>(0), row.get::<_, &str>(1), row.get::<_, f64>(2)))
        .collect();
    verdict.note(
        "it is not tried any more",
        late.is_empty(),
        format!("{} tries began later than {LATE} {}", late.len(), examples.join(", ")),
    );
    Ok(())
}

/// Returns how many numbers have a key, and the numbers that come after a number of the same key with a higher position.
fn in_order(numbers: impl Iterator<Item = i64>, place: impl Fn(&i64) -> Option<i64>) -> (usize, Vec<i64>) {
    let (mut furthest, mut broken, mut kept) = (HashMap::new(), Vec::new(), 0);
    for n in numbers {
        let (Some(key), Some(position)) = (key(n), place(&n)) else { continue };
        let last = furthest.entry(key).or_insert(0);
        if position < *last {
            broken.push(n);
        }
        *last = position.max(*last);
        kept += 1;
    }
    (kept, broken)
}

/// Checks that a subscription that is created, changed and ended gets exactly the messages that its version at each position
/// matches.
async fn guest(
    verdict: &mut Verdict,
    shared: &Shared,
    db: &Client,
    truth: &Truth,
    positions: &HashMap<i64, i64>,
) -> Result<()> {
    let rows = db.query("select message_id, what from chaos.guest", &[]).await?;
    let mut changes: Vec<(i64, String)> =
        rows.iter().filter_map(|row| Some((*positions.get(&row.get(0))?, row.get(1)))).collect();
    changes.sort_unstable();
    let unplaced = rows.len() - changes.len();
    let rows = db
        .query(
            "select distinct l.n from outbox.attempt_log a
            join chaos.ledger l using (message_id)
            join outbox.subscription s on s.id = a.subscription_id and s.name = 'guest'
            where a.outcome in ('completed', 'skipped', 'cancelled', 'dead')",
            &[],
        )
        .await?;
    let ended: std::collections::HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    let seen = shared.ledger.seen(GUEST);
    let (mut wanted, mut open, mut uninvited) = (0, Vec::new(), Vec::new());
    for (n, id) in &truth.messages {
        let Some(position) = positions.get(id) else { continue };
        let at = changes.partition_point(|(change, _)| change < position);
        let what = if at == 0 { "none" } else { changes[at - 1].1.as_str() };
        let matches = what == "all" || what == "even" && n % 2 == 0;
        wanted += i32::from(matches);
        // A message that was erased before it was routed has no deliveries.
        let erased = truth.fates.get(n).is_some_and(|what| what == "erased");
        if matches && !erased && !ended.contains(n) {
            open.push(*n);
        }
        if !matches && seen.contains_key(n) {
            uninvited.push(*n);
        }
    }
    verdict.note(
        "a subscription gets what it asked for at a position",
        open.is_empty() && uninvited.is_empty() && unplaced == 0,
        format!(
            "{} changes; {wanted} matched, {} arrived; {} without outcome {}, {} uninvited {}",
            changes.len(),
            seen.len(),
            open.len(),
            some(&open),
            uninvited.len(),
            some(&uninvited)
        ),
    );
    Ok(())
}

/// Checks that no rows are left in the tables of work in progress, and that health() reports nothing critical.
async fn left_behind(verdict: &mut Verdict, db: &Client) -> Result<()> {
    let mut left = Vec::new();
    for (what, query) in [
        ("deliveries", "select count(*) from outbox.delivery"),
        ("leases", "select count(*) from outbox.lease"),
        ("errands", "select count(*) from outbox._manual_send"),
        ("freed keys", "select count(*) from outbox._freed_key"),
        (
            "dead letters that nobody expects",
            "select count(*) from outbox.dead_letter l
            join outbox.subscription s on s.id = l.subscription_id
            where l.resolution = 'open' and s.name not in ('mortal', 'guest')",
        ),
        (
            "subscriptions behind",
            "select cardinality(c.lag_subscriptions)::bigint
            from outbox.checkpoint c order by c.id desc limit 1",
        ),
        ("positions not routed", "select outbox.head() - s.routed from outbox.stats() s"),
        ("open breakers", "select count(*) from outbox.endpoint_status where breaker <> 'closed'"),
        ("critical checks", "select count(*) from outbox.health() h where h.state = 'critical'"),
    ] {
        let count: i64 = db.query_one(query, &[]).await?.get(0);
        if count != 0 {
            left.push(format!("{count} {what}"));
        }
    }
    let holds = left.is_empty();
    verdict.note("nothing is left behind", holds, if holds { "all clean".to_owned() } else { left.join(", ") });
    Ok(())
}
