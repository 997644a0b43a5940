//! Producers of events. Two of them append to the same few streams, and write the version that each call returned into
//! `chaos.appended` in the transaction that appends. So the table says which versions there must be.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use outbox_harness::tokio_postgres::Client;

use crate::load::{Shared, session};
use crate::random::Random;
use crate::verdict::Verdict;

/// Appends until `stop` is set, with a new session after every error.
pub(crate) async fn append(shared: Arc<Shared>, seed: u64, who: u64) {
    let mut random = Random::new(seed, 300 + who);
    while !shared.stop.load(Ordering::Relaxed) {
        if let Ok(db) = session(&shared.place, "chaos appender").await {
            let _ = work(&shared, &db, &mut random).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn work(shared: &Shared, db: &Client, random: &mut Random) -> Result<()> {
    // Without an expected version, or with the version that the session sees, which another one may have passed.
    let append = db
        .prepare(
            "with e as (select gen_random_uuid() as id)
            insert into chaos.appended (stream, version, event_id)
            select $1, outbox.append($1, 'cart.changed', '{}',
                case when $2::boolean then outbox.stream_version($1) else -1 end, e.id), e.id
            from e",
        )
        .await?;
    while !shared.stop.load(Ordering::Relaxed) {
        let stream = format!("cart-{}", random.between(1, 6));
        let put = async |expects: bool| db.execute(&append, &[&stream, &expects]).await;
        match random.between(0, 9) {
            0..4 => drop(put(false).await?),
            4..6 => {
                // A conflict is the answer to a version that was passed.
                if let Err(error) = put(true).await
                    && error.code().is_none_or(|state| state.code() != "OB013")
                {
                    return Err(error.into());
                }
            }
            6..8 => {
                db.batch_execute("begin").await?;
                put(false).await?;
                tokio::time::sleep(Duration::from_millis(random.between(0, 50))).await;
                put(false).await?;
                db.batch_execute(if random.chance(60) { "commit" } else { "rollback" }).await?;
            }
            _ => {
                db.batch_execute("begin").await?;
                put(false).await?;
                db.batch_execute("savepoint s").await?;
                put(false).await?;
                db.batch_execute("rollback to s").await?;
                put(false).await?;
                db.batch_execute("commit").await?;
            }
        }
        tokio::time::sleep(Duration::from_millis(random.between(5, 30))).await;
    }
    Ok(())
}

/// Checks that the versions of each stream are those that were returned, without a gap, and in the order of the feed.
pub(crate) async fn judge(verdict: &mut Verdict, db: &Client) -> Result<()> {
    let row = db
        .query_one(
            "with stored as (
                select e.key as stream, e.version, e.event_id, f.\"position\"
                from outbox.message e
                left join (
                    select f.first_position + u.ord - 1 as \"position\", u.id
                    from outbox.feed f, unnest(f.message_ids) with ordinality u(id, ord)
                ) f on f.id = e.id
                where e.segment = -2
            ), numbered as (
                select s.*, row_number() over (partition by s.stream order by s.version) as place,
                    lag(s.\"position\") over (partition by s.stream order by s.version) as before
                from stored s
            )
            select count(*), count(*) filter (where n.version <> n.place),
                count(*) filter (where n.\"position\" is null or n.\"position\" < n.before),
                (select count(*) from (
                    select a.stream, a.version, a.event_id from chaos.appended a
                    except all select s.stream, s.version, s.event_id from stored s
                ) x),
                (select count(*) from (
                    select s.stream, s.version, s.event_id from stored s
                    except all select a.stream, a.version, a.event_id from chaos.appended a
                ) x)
            from numbered n",
            &[],
        )
        .await?;
    let [stored, gaps, misplaced, lost, foreign] = std::array::from_fn(|i| row.get::<_, i64>(i));
    verdict.note(
        "appended versions have no gap and no repeat",
        stored > 0 && gaps + misplaced + lost + foreign == 0,
        format!("{stored} events, {gaps} versions out of place, {misplaced} positions, {lost} lost, {foreign} foreign"),
    );
    Ok(())
}
