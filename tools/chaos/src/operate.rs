//! Operators. They cancel, erase, reschedule, retry and resend messages, move deliveries to the dead letters and requeue
//! them, and take leases away.
//!
//! An operator records its action in `chaos.fate`, `chaos.moved` or `chaos.resent` in the same transaction. The verdict
//! uses these tables: a cancelled or erased message need not arrive, and no further attempt of it begins.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use outbox_harness::tokio_postgres::Client;

use crate::load::{Shared, session};
use crate::random::Random;

/// Selects one of the last committed messages.
const RECENT: &str = "select l.n, l.message_id from chaos.ledger l
    where l.n <= (select max(n) from chaos.ledger) - $1 and not exists (select from chaos.fate f where f.n = l.n)
    order by l.n desc limit 1";

/// Selects one of the waiting deliveries of these subscriptions.
const WAITING: &str = "select d.id, l.n
    from (
        select d.id, d.subscription_id, d.message_id from outbox.delivery d where d.state in ('pending', 'failed')
        union all
        select u.id, b.subscription_id, u.message_id
        from outbox._bundle b, unnest(b.delivery_ids, b.message_ids) u(id, message_id)
        where b.lease is null
    ) d
    join outbox.subscription s on s.id = d.subscription_id
    join chaos.ledger l on l.message_id = d.message_id
    where s.name = any ($1)
    offset $2 limit 1";

/// All pushed and pulled subscriptions except those with an order of keys and "mortal", whose deliveries become dead
/// letters by themselves.
const LASTING: [&str; 5] = ["main", "half", "far", "remote", "work"];
const ORDERED: [&str; 7] = ["main", "half", "far", "remote", "work", "keyed", "lane"];

/// Acts until producers stop.
pub async fn operate(shared: Arc<Shared>, seed: u64, who: u64) {
    let mut random = Random::new(seed, 300 + who);
    while !shared.stop.load(Ordering::Relaxed) {
        if let Ok(db) = session(&shared.place, "chaos operator").await {
            while !shared.stop.load(Ordering::Relaxed) {
                // An error means that the action was refused (the delivery has ended, is leased, or its message is
                // reclaimed), or that the session is gone.
                if act(&db, &mut random).await.is_err() && db.batch_execute("rollback").await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(random.between(5, 80))).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn act(db: &Client, random: &mut Random) -> Result<()> {
    let what = random.between(0, 99);
    let (back, place) = (random.between(0, 3000) as i64, random.between(0, 200) as i64);
    match what {
        0..50 => {
            let Some(row) = db.query_opt(RECENT, &[&back]).await? else { return Ok(()) };
            let (n, id): (i64, i64) = (row.get(0), row.get(1));
            let (act, fate) = if what < 30 { ("cancel", "cancelled") } else { ("erase", "erased") };
            db.execute(
                &format!(
                    "with done as (select outbox.{act}($2, 'chaos', 'drawn'))
                    insert into chaos.fate (n, what) select $1, '{fate}' from done"
                ),
                &[&n, &id],
            )
            .await?;
        }
        50..65 => {
            let Some(row) = db.query_opt(WAITING, &[&&ORDERED[..], &place]).await? else { return Ok(()) };
            db.execute(
                "select outbox.reschedule($1, clock_timestamp() + $2 * interval '1 ms', 'chaos', priority => $3)",
                &[&row.get::<_, i64>(0), &(random.between(0, 2000) as f64), &(random.between(0, 5) as i32)],
            )
            .await?;
        }
        65..75 => {
            let Some(row) = db.query_opt(RECENT, &[&back]).await? else { return Ok(()) };
            let name = *random.pick(&ORDERED);
            db.execute("select outbox.retry($1, $2, 'chaos')", &[&row.get::<_, i64>(1), &name]).await?;
        }
        75..85 => {
            let Some(row) = db.query_opt(WAITING, &[&&LASTING[..], &place]).await? else { return Ok(()) };
            let letter: i64 = db
                .query_one(
                    "with moved as (select outbox.move_to_dead_letters($1, 'drawn', 'chaos') as id),
                    noted as (insert into chaos.moved (n) select $2 from moved)
                    select id from moved",
                    &[&row.get::<_, i64>(0), &row.get::<_, i64>(1)],
                )
                .await?
                .get(0);
            tokio::time::sleep(Duration::from_millis(random.between(0, 300))).await;
            db.execute("select outbox.requeue($1, 'chaos')", &[&letter]).await?;
        }
        85..93 => {
            let Some(row) = db.query_opt(RECENT, &[&back]).await? else { return Ok(()) };
            db.execute(
                "with sent as (select outbox.resend($2, 'main'))
                insert into chaos.resent (n) select $1 from sent",
                &[&row.get::<_, i64>(0), &row.get::<_, i64>(1)],
            )
            .await?;
        }
        _ => {
            let name = *random.pick(&["work", "lane"]);
            db.execute("select outbox.unlock_stale('1 s', $1)", &[&name]).await?;
        }
    }
    Ok(())
}
