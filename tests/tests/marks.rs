//! What claims remember of the front of their index, for all sessions: it saves walks over what was worked off under an old
//! snapshot, and hides nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Server, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, server, settle};

/// Every claim counts as slow, and what it remembers holds for a minute, which is longer than anything here waits.
const ALWAYS: &str = r"
do $$ declare definition text; begin
    for definition in
        select pg_get_functiondef(p.oid) from pg_proc p
        where p.pronamespace = 'outbox'::regnamespace and p.prosrc ~ '_set_marks|_note_one'
    loop
        definition := regexp_replace(definition, 'outbox\._slow_walk\((cardinality\(ids\)|0|1)\)', 'interval ''1 h''', 'g');
        definition := replace(definition, ', 150);', ', 0);');
        execute definition;
    end loop;
end $$";

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Claims again and again and does all that can be done to what it gets.
async fn work(server: &Server, database: &str, seed: u64, stop: Arc<AtomicBool>) {
    let mut random = Random(seed);
    let mut db = server.connect(database).await.unwrap();
    while !stop.load(Ordering::Relaxed) {
        let max = [1, 1, 3, 20, 150][random.below(5) as usize];
        let claim = format!("select lease, delivery_id from outbox.claim('work', 'w', {max})");
        // Some roll back what they have claimed, all of it or a part, or leave without a word.
        match random.below(12) {
            0 => {
                db.batch_execute(&format!("begin; {claim}; rollback")).await.unwrap();
                continue;
            }
            1 => {
                db.batch_execute(&format!("begin; savepoint s; {claim}; rollback to s; commit")).await.unwrap();
                continue;
            }
            2 => {
                db.batch_execute(&format!("begin; {claim}")).await.unwrap();
                db = server.connect(database).await.unwrap();
                continue;
            }
            _ => {}
        }
        let rows = db.query(&claim, &[]).await.unwrap();
        let Some(row) = rows.first() else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (lease, first): (i64, i64) = (row.get(0), row.get(1));
        let end = match random.below(10) {
            0 => format!("select outbox.release({lease})"),
            1 => format!("select outbox.release({lease}, array[{first}]), outbox.complete({lease})"),
            2 => format!("select outbox.fail({lease}, array[{first}], 'x', '0 s'), outbox.complete({lease})"),
            3 => format!("select outbox.fail({lease}, null, 'x', '0 s')"),
            4 => format!("update outbox.lease set expires_at = now() where id = {lease}"),
            5 => "select outbox.unlock_stale('0 s')".to_owned(),
            _ => format!("select outbox.complete({lease})"),
        };
        db.batch_execute(&end).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_hidden_from_workers_that_do_everything() {
    const MESSAGES: i64 = 2000;
    let server = server().await;
    for ordering in ["none", "key"] {
        let name = format!("marks_{ordering}");
        let db = server.database(&name).await.unwrap();
        db.batch_execute(ALWAYS).await.unwrap();
        db.batch_execute(&format!(
            "select outbox.subscribe('work', '{{job.#}}', ordering => '{ordering}', max_attempts => 1000000)"
        ))
        .await
        .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (1..=4)
            .map(|n| {
                let (name, stop) = (name.clone(), Arc::clone(&stop));
                tokio::spawn(async move { work(server, &name, 0x9E37_79B9 * n, stop).await })
            })
            .collect();
        for part in 0..10 {
            // Single ones, bundles, priorities.
            db.execute(
                "select count(outbox.enqueue('job.do', '{}', 'k' || n % 50, priority => case when n % 7 = $1 then n % 5 - 2 end))
                from generate_series(1, $2::int) n",
                &[&part, &((MESSAGES / 10) as i32)],
            )
            .await
            .unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let left = "select count(*) from outbox.deliveries where status <> 'completed'";
        wait_until("all is done", PATIENCE * 2, async || one::<i64>(&db, left).await == 0).await;
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.await.unwrap();
        }
        let done = "select count(*) from outbox.deliveries where status = 'completed'";
        assert_eq!(one::<i64>(&db, done).await, MESSAGES, "with ordering {ordering}");
    }
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
        // Of another session each time, whose first claim loads the catalogue.
        let session = server.connect("marks_held").await.unwrap();
        session.batch_execute("select * from outbox.claim('idle', 'w')").await.unwrap();
        seen.push(buffers(&session).await);
    }
    println!("{seen:?}");
    assert!(seen[3] * 4 < seen[0], "buffers of claims: {seen:?}");
}
