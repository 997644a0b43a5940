//! Claim hints, which tell all sessions where the waiting deliveries begin in the index. They save walks over index entries
//! that are kept only for an old snapshot, and hide no delivery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Server, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, server, settle};

/// A session whose claims all count as slow. Their hints then hold for a minute, which is longer than any wait in these tests.
async fn connect(server: &Server, database: &str) -> Client {
    let db = server.connect(database).await.unwrap();
    db.batch_execute("select outbox_internal.remember_every_scan()").await.unwrap();
    db
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Ways in which a claim may end other than by completing. A statement is executed in a transaction that stays open for a
/// while. It contains the lease as `{lease}`, and the first delivery of the lease as `{first}`. The empty string rolls
/// the claim back, `savepoint` rolls a subtransaction with the claim back, and `dies` closes the connection.
const ENDS: [&str; 8] = [
    "select outbox.release({lease})",
    "select outbox.release({lease}, array[{first}]), outbox.complete({lease})",
    "select outbox.fail({lease}, null, 'x', '0 s')",
    "update outbox.lease set expires_at = now() where id = outbox_internal.lease_id({lease})",
    "select outbox.unlock_stale('0 s')",
    "",
    "savepoint",
    "dies",
];

/// Claims repeatedly, and does not complete about every fourth claim.
async fn work(server: &Server, database: &str, end: &str, seed: u64, stop: Arc<AtomicBool>) {
    let mut random = Random(seed);
    let mut db = connect(server, database).await;
    while !stop.load(Ordering::Relaxed) {
        let max = [1, 1, 3, 20, 150][random.below(5) as usize];
        let claim = format!("select lease, delivery_id from outbox.claim('work', 'w', {max})");
        let completes = random.below(4) > 0;
        if !completes && !end.contains("lease") && !end.contains("unlock") {
            let sql = match end {
                "savepoint" => format!("begin; savepoint s; {claim}; select pg_sleep(0.01); rollback to s; commit"),
                _ => format!("begin; {claim}; select pg_sleep(0.01); rollback"),
            };
            if end == "dies" {
                db.batch_execute(&format!("begin; {claim}; select pg_sleep(0.01)")).await.unwrap();
                db = connect(server, database).await;
            } else {
                db.batch_execute(&sql).await.unwrap();
            }
            continue;
        }
        let rows = db.query(&claim, &[]).await.unwrap();
        let Some(row) = rows.first() else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (lease, first): (i64, i64) = (row.get(0), row.get(1));
        if completes {
            db.query("select outbox.complete($1)", &[&lease]).await.unwrap();
        } else {
            let end = end.replace("{lease}", &lease.to_string()).replace("{first}", &first.to_string());
            db.batch_execute(&format!("begin; {end}; select pg_sleep(0.01); commit")).await.unwrap();
        }
    }
}

/// Enqueues messages that become single rows and bundles, with and without priorities, and waits until all have been
/// completed. A hint that hid a delivery would outlive the wait.
async fn all_is_done(server: &Server, n: usize, end: &str, ordering: &str) {
    const MESSAGES: i64 = 300;
    let name = format!("marks_{ordering}_{n}");
    let db = server.database(&name).await.unwrap();
    db.batch_execute("select outbox_internal.remember_every_scan()").await.unwrap();
    db.batch_execute(&format!(
        "select outbox.subscribe('work', '{{job.#}}', ordering => '{ordering}', max_attempts => 1000000)"
    ))
    .await
    .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let workers = (1..=3).map(|k| work(server, &name, end, 0x9E37_79B9 * (k + n as u64), Arc::clone(&stop)));
    let produce = async {
        for part in 0..6 {
            db.execute(
                "select count(outbox.enqueue('job.do', '{}', 'k' || n % 20, priority => case when n % 7 = $1 then n % 3 - 1 end))
                from generate_series(1, $2::int) n",
                &[&part, &((MESSAGES / 6) as i32)],
            )
            .await
            .unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let done = "select count(*) from outbox.delivery_status where state = 'completed'";
        let what = format!("all is done with {end:?} and ordering {ordering}");
        wait_until(&what, PATIENCE, async || one::<i64>(&db, done).await == MESSAGES).await;
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(produce, together(workers));
}

/// Runs all of the futures concurrently.
async fn together(all: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_hidden_from_workers_whatever_ends_their_claims() {
    let server = server().await;
    together(ENDS.iter().enumerate().map(|(n, end)| all_is_done(server, n, end, "none"))).await;
    together(ENDS.iter().enumerate().map(|(n, end)| all_is_done(server, n, end, "key"))).await;
}

async fn buffers(db: &Client) -> i64 {
    let plan: serde_json::Value =
        one(db, "explain (analyze, buffers, format json) select * from outbox.claim('work', 'w')").await;
    let node = &plan[0]["Plan"];
    node["Shared Hit Blocks"].as_i64().unwrap() + node["Shared Read Blocks"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_worked_off_under_an_old_snapshot_is_walked_over_once() {
    let server = server().await;
    let db = server.database("marks_held").await.unwrap();
    db.batch_execute("select outbox.subscribe('work', '{job.#}'), outbox.subscribe('idle', '{idle}')").await.unwrap();
    let old = server.connect("marks_held").await.unwrap();
    old.batch_execute("begin isolation level repeatable read; select 1 from pg_class limit 1").await.unwrap();
    db.batch_execute(
        "insert into outbox.delivery (pull, subscription_id, position, message_id, message_segment, state, priority, due_at, blocked)
        select true, s.id, 1000000 + n, 1, 0, 'pending', 0, now(), false
        from outbox.subscription s, generate_series(1, 100000) n;
        delete from outbox.delivery where position > 1000000",
    )
    .await
    .unwrap();
    let mut seen = vec![];
    for _ in 0..4 {
        db.batch_execute("select outbox.enqueue('job.do', '{}')").await.unwrap();
        settle(&db).await;
        // Each round uses another session. The first claim of a session loads its catalogue caches.
        let session = server.connect("marks_held").await.unwrap();
        session.batch_execute("select * from outbox.claim('idle', 'w')").await.unwrap();
        seen.push(buffers(&session).await);
    }
    println!("{seen:?}");
    // A hint holds for a moment: on a busy machine a session may come after it, and walks again.
    let least = seen[1..].iter().min().unwrap();
    assert!(least * 4 < seen[0], "buffers of claims: {seen:?}");
}
