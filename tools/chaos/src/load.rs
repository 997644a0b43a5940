//! Producers, readers with a cursor, and pull workers. Operators are in `operate`.
//!
//! A producer writes the number of each message into `chaos.ledger` in the transaction that enqueues the message. The table
//! therefore says which messages must arrive, regardless of the answer that the producer got. A reader writes the effect
//! of each message in the transaction that advances its cursor, and a worker in the transaction that completes its lease.
//! Effects therefore happen exactly once, however often these programs die.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use outbox_harness::connect;
use outbox_harness::tokio_postgres::Client;

use crate::ledger::Ledger;
use crate::random::Random;
use crate::world::Place;

/// The state that all programs of the load share.
#[derive(Debug)]
pub struct Shared {
    pub ledger: Arc<Ledger>,
    pub place: Place,
    /// Tells producers and operators to stop.
    pub stop: AtomicBool,
    /// Tells readers and workers to stop.
    pub stop_reading: AtomicBool,
    pub transactions: AtomicU64,
}

/// The largest number of messages of one run, because the disk is bounded.
const MOST: i64 = 400_000;
/// The number of ordering keys. Each tenth message has no key.
pub const KEYS: i64 = 400;

/// Returns the key of a number.
pub fn key(n: i64) -> Option<i64> {
    (n % 10 != 0).then_some(n % KEYS)
}

/// Returns the statement that enqueues the messages $1 to $2 - 1. `more` is appended to the arguments.
fn enqueue(more: &str) -> String {
    format!(
        "with m as (
            select n, case when n % 2 = 0 then 'order.even' else 'order.odd' end as topic,
                case when n % 10 <> 0 then 'key-' || n % {KEYS} end as key,
                case when n % 20 = 0 then clock_timestamp() + interval '300 ms' end as later
            from generate_series($1::bigint, $2::bigint - 1) n
        )
        insert into chaos.ledger (n, message_id)
        select n, outbox.enqueue(topic, jsonb_build_object('n', n), key, deliver_at => later{more}) from m"
    )
}

/// Enqueues until `stop` is set, in all the ways in which a program might, with a new session after every error.
pub async fn produce(shared: Arc<Shared>, seed: u64, who: u64) {
    let mut random = Random::new(seed, 100 + who);
    // Numbers that were enqueued with an idempotency key and whose answer was lost.
    let mut doubt = None;
    while !shared.stop.load(Ordering::Relaxed) {
        if let Ok(db) = session(&shared.place, "chaos producer").await {
            // After an error the session may be gone, and the state of its transaction is unknown.
            let _ = work(&shared, &db, &mut random, who, &mut doubt).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Opens a session, within a time limit.
pub async fn session(place: &Place, name: &str) -> Result<Client> {
    let db = tokio::time::timeout(Duration::from_secs(5), connect(&place.dsn()))
        .await
        .context("connecting takes too long")??;
    db.batch_execute(&format!("set application_name = '{name}'; set client_min_messages = error")).await?;
    Ok(db)
}

async fn work(
    shared: &Shared,
    db: &Client,
    random: &mut Random,
    who: u64,
    doubt: &mut Option<Range<i64>>,
) -> Result<()> {
    let once = db.prepare(&(enqueue(", idempotency_key => 'n-' || n") + " on conflict (n) do nothing")).await?;
    let enqueue = db.prepare(&enqueue("")).await?;
    if let Some(numbers) = doubt.clone() {
        // Whether the first attempt committed or not, the messages are now committed once.
        db.execute(&once, &[&numbers.start, &numbers.end]).await?;
        shared.ledger.acknowledge(numbers);
        *doubt = None;
    }
    while !shared.stop.load(Ordering::Relaxed) {
        if shared.ledger.drawn() > MOST {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        }
        let count = if random.chance(3) { random.between(200, 1000) } else { random.between(1, 5) } as i64;
        let numbers = shared.ledger.draw(count);
        let put = async || db.execute(&enqueue, &[&numbers.start, &numbers.end]).await;
        match random.between(0, 99) {
            0..32 => {
                put().await?;
                shared.ledger.acknowledge(numbers);
            }
            32..37 => {
                *doubt = Some(numbers.clone());
                db.execute(&once, &[&numbers.start, &numbers.end]).await?;
                shared.ledger.acknowledge(numbers);
                *doubt = None;
            }
            37..40 => {
                // Cancelled in the transaction that enqueues, so that no delivery can exist.
                db.batch_execute("begin").await?;
                put().await?;
                db.execute(
                    "with gone as (
                        select l.n, outbox.cancel(l.message_id, 'chaos', 'at once') from chaos.ledger l
                        where l.n >= $1 and l.n < $2
                    )
                    insert into chaos.fate (n, what) select g.n, 'never' from gone g",
                    &[&numbers.start, &numbers.end],
                )
                .await?;
                db.batch_execute("commit").await?;
                shared.ledger.acknowledge(numbers);
            }
            40..55 => {
                db.batch_execute("begin").await?;
                put().await?;
                db.batch_execute("commit").await?;
                shared.ledger.acknowledge(numbers);
            }
            55..67 => {
                db.batch_execute("begin").await?;
                put().await?;
                db.batch_execute("rollback").await?;
            }
            67..75 => {
                let kept = shared.ledger.draw(1);
                db.batch_execute("begin").await?;
                db.execute(&enqueue, &[&kept.start, &kept.end]).await?;
                db.batch_execute("savepoint s").await?;
                put().await?;
                db.batch_execute("rollback to s; commit").await?;
                shared.ledger.acknowledge(kept);
            }
            75..83 => {
                // The name is unique. A prepared transaction that survives a crash is committed or rolled back at the end.
                let name = format!("chaos {who} {}", numbers.start);
                db.batch_execute("begin").await?;
                put().await?;
                db.batch_execute(&format!("prepare transaction '{name}'")).await?;
                tokio::time::sleep(Duration::from_millis(random.between(0, 300))).await;
                let end = if random.chance(60) { "commit" } else { "rollback" };
                db.batch_execute(&format!("{end} prepared '{name}'")).await?;
                if end == "commit" {
                    shared.ledger.acknowledge(numbers);
                }
            }
            83..88 => {
                db.batch_execute("begin").await?;
                put().await?;
                tokio::time::sleep(Duration::from_millis(random.between(100, 2000))).await;
                db.batch_execute("commit").await?;
                shared.ledger.acknowledge(numbers);
            }
            88..91 => {
                // An id and a transaction id are taken early, and the transaction fails and is rolled back late.
                db.batch_execute("begin").await?;
                put().await?;
                tokio::time::sleep(Duration::from_millis(random.between(100, 1000))).await;
                db.batch_execute("select 1 / 0").await.ok();
                db.batch_execute("rollback").await?;
            }
            91..96 => {
                // A crash may lose these messages, so they do not count as acknowledged. A lost message must not have been
                // delivered either.
                db.batch_execute("begin; set local synchronous_commit = off").await?;
                put().await?;
                db.batch_execute("commit").await?;
            }
            _ => {
                db.batch_execute("begin isolation level serializable").await?;
                put().await?;
                db.batch_execute("commit").await?;
                shared.ledger.acknowledge(numbers);
            }
        }
        shared.transactions.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(random.between(0, 8))).await;
    }
    Ok(())
}

/// Follows the feed with a cursor that several readers share.
pub async fn read(shared: Arc<Shared>) {
    while !shared.stop_reading.load(Ordering::Relaxed) {
        if let Ok(db) = session(&shared.place, "chaos reader").await {
            while !shared.stop_reading.load(Ordering::Relaxed) {
                match advance(&db).await {
                    Ok(true) => {}
                    Ok(false) => tokio::time::sleep(Duration::from_millis(30)).await,
                    // Another reader was faster, or the server is gone.
                    Err(_) => {
                        if db.batch_execute("rollback").await.is_err() {
                            break;
                        }
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn advance(db: &Client) -> Result<bool, outbox_harness::tokio_postgres::Error> {
    db.batch_execute("begin").await?;
    let at: i64 =
        db.query_one("select \"position\" from outbox.cursor_get('chaos', if_missing => 0)", &[]).await?.get(0);
    let last: Option<i64> = db
        .query_one(
            "with m as materialized (select r.\"position\", r.topic, r.message_id from outbox.read($1, 200) r),
            effect as (
                insert into chaos.effect (\"position\", message_id)
                select m.\"position\", m.message_id from m where m.topic like 'order.%'
            )
            select max(m.\"position\") from m",
            &[&at],
        )
        .await?
        .get(0);
    let Some(last) = last else {
        db.batch_execute("rollback").await?;
        return Ok(false);
    };
    db.execute("select from outbox.cursor_advance('chaos', $1, expected_position => $2)", &[&last, &at]).await?;
    db.batch_execute("commit").await?;
    Ok(true)
}

/// The work of a pull worker.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// The pull subscription.
    pub subscription: &'static str,
    /// The table of the effects. Each row has the number of a message, and a number from a sequence that shows the order.
    pub effects: &'static str,
}

/// All messages, in any order.
pub const WORK: Job = Job { subscription: "work", effects: "chaos.worked" };
/// The messages with odd numbers, in the order of their keys.
pub const LANE: Job = Job { subscription: "lane", effects: "chaos.laned" };

/// Claims and completes deliveries. From time to time it fails them, abandons them, releases them, or takes longer than its
/// lease.
pub async fn pull(shared: Arc<Shared>, seed: u64, who: u64, job: Job) {
    let mut random = Random::new(seed, 200 + who);
    while !shared.stop_reading.load(Ordering::Relaxed) {
        if let Ok(db) = session(&shared.place, "chaos worker").await {
            while !shared.stop_reading.load(Ordering::Relaxed) {
                match batch(&db, &mut random, who, job).await {
                    Ok(true) => {}
                    Ok(false) => tokio::time::sleep(Duration::from_millis(20)).await,
                    // The lease was lost, or the session.
                    Err(_) => {
                        if db.batch_execute("rollback").await.is_err() {
                            break;
                        }
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

type Answer = Result<bool, outbox_harness::tokio_postgres::Error>;

async fn batch(db: &Client, random: &mut Random, who: u64, job: Job) -> Answer {
    // Parts of a bundle, a whole bundle, or several bundles.
    let most = *random.pick(&[1, 50, 50, 100, 300]);
    let rows = db
        .query(
            "select c.lease, c.delivery_id, (c.payload ->> 'n')::bigint from outbox.claim($1, $2, $3, '2 s') c",
            &[&job.subscription, &format!("worker {who}"), &most],
        )
        .await?;
    let Some(first) = rows.first() else { return Ok(false) };
    let lease: i64 = first.get(0);
    let ids: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
    // A message that was erased while it was being claimed has no payload any more.
    let numbers: Vec<Option<i64>> = rows.iter().map(|row| row.get(2)).collect();
    match random.between(0, 99) {
        // The deliveries are abandoned, and the lease expires.
        0..2 => return Ok(true),
        2..4 => tokio::time::sleep(Duration::from_millis(random.between(1500, 3000))).await,
        4..8 => {
            db.execute("select outbox.fail($1, $2, 'chaos', '100 ms'::interval)", &[&lease, &&ids[..1]]).await?;
            return finish(db, lease, &ids[1..], &numbers[1..], job).await;
        }
        8..10 => {
            db.execute("select outbox.release($1, $2)", &[&lease, &&ids[..1]]).await?;
            return finish(db, lease, &ids[1..], &numbers[1..], job).await;
        }
        10..12 => {
            tokio::time::sleep(Duration::from_millis(random.between(200, 1500))).await;
            db.execute("select outbox.extend($1, '2 s')", &[&lease]).await?;
            tokio::time::sleep(Duration::from_millis(random.between(200, 1500))).await;
        }
        _ => {}
    }
    finish(db, lease, &ids, &numbers, job).await
}

async fn finish(db: &Client, lease: i64, ids: &[i64], numbers: &[Option<i64>], job: Job) -> Answer {
    if !ids.is_empty() {
        // The effects of the deliveries that were completed, in the same transaction.
        db.execute(
            &format!(
                "with done as (select unnest(outbox.complete($1, $2)) as id)
                insert into {} (n)
                select u.n from unnest($2::bigint[], $3::bigint[]) u(id, n) join done using (id)
                where u.n is not null",
                job.effects
            ),
            &[&lease, &ids, &numbers],
        )
        .await?;
    }
    Ok(true)
}
