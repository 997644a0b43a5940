//! Failure injection: each transaction of the dispatcher fails at each of its writes, in each way.
//!
//! Triggers on the tables that the dispatcher writes inject the failures, before the row and at commit: an ERROR (three
//! times), a termination, or a SIGKILL, after which the whole server restarts. The product contains no code for this.
//! `outbox.attempt` is written below the executor and fires no triggers, so a lock holds up the transaction there until
//! it fails or is killed. Between the transactions, while requests are in flight, the receiver kills the dispatcher. The
//! work for pull subscriptions and for space fails as well.
//!
//! Every second message is an event of a stream. Afterwards all committed messages have arrived, no other message has, and
//! the feed has no gap. Without a SIGKILL no message arrived twice, because the dispatcher retains outcomes that could not
//! be recorded, and records them later.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_tests::one;
use outbox_tests::outbox_harness::tokio_postgres::Client;
use outbox_tests::outbox_harness::{Receiver, Reply, Server, connect, postgres, wait_for, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// Tables that the dispatcher writes, and the operations.
const WRITES: [(&str, &str); 7] = [
    ("outbox.epoch", "insert"),
    ("outbox.feed", "insert"),
    ("outbox.tick", "insert"),
    ("outbox.subscription_version", "update"),
    ("outbox.routing", "insert"),
    ("outbox.checkpoint", "insert"),
    ("outbox.delivery", "insert or update or delete"),
];
const DEAD_LETTER: (&str, &str) = ("outbox.dead_letter", "insert");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Error,
    Terminate,
    Kill,
}

/// The number of successful requests for each message number.
type Accepted = Arc<Mutex<HashMap<i64, u32>>>;

fn install(receiver: &Receiver, path: &str) -> Accepted {
    let accepted = Accepted::default();
    let theirs = Arc::clone(&accepted);
    let failed = Mutex::new(std::collections::HashSet::new());
    receiver.on(path, move |arrival, _| {
        let n = arrival.json()["n"].as_i64().unwrap_or(-1);
        // One of three messages fails at first, and one is refused.
        match n % 3 {
            1 if failed.lock().unwrap().insert(n) => Reply::status(503),
            2 => Reply::status(422),
            _ => {
                *theirs.lock().unwrap().entry(n).or_default() += 1;
                Reply::status(200)
            }
        }
    });
    accepted
}

/// Creates a database in which the trigger exists from the first transaction of the dispatcher on.
async fn database(server: &Server, name: &str, trap: Option<(&str, &str, bool, Way)>) -> Client {
    let mut script = "begin; create extension pg_outbox; create sequence fired; ".to_owned();
    if let Some((table, operation, at_commit, way)) = trap {
        let fail = match way {
            Way::Error => "if nextval('public.fired') <= 3 then raise exception 'injected'; end if;".to_owned(),
            Way::Terminate => {
                "if nextval('public.fired') <= 1 then perform pg_terminate_backend(pg_backend_pid()); end if;"
                    .to_owned()
            }
            // A folder outside the database marks that the kill has happened, so that it happens once only.
            Way::Kill => format!(
                "execute $c$copy (select 1) to program 'cat >/dev/null; mkdir {}/fired_{name} 2>/dev/null && kill -9 $PPID; true'$c$;",
                server.data.display()
            ),
        };
        let trigger = if at_commit {
            format!(
                "create constraint trigger trap after {operation} on {table} deferrable initially deferred for each row"
            )
        } else {
            format!("create trigger trap before {operation} on {table} for each row")
        };
        script += &format!(
            "create function public.trap() returns trigger language plpgsql security definer as $f$
            begin
                if (select backend_type from pg_stat_activity where pid = pg_backend_pid()) = 'pg_outbox dispatcher' then
                    {fail}
                end if;
                return case when tg_op = 'DELETE' then old else new end;
            end $f$;
            {trigger} execute function public.trap(); "
        );
    }
    script += "commit";
    // The dispatcher of another database may make the server restart at this moment.
    wait_for("the database is made", PATIENCE, async || {
        let admin = server.connect("postgres").await.ok()?;
        admin.batch_execute(&format!("drop database if exists \"{name}\" with (force)")).await.ok()?;
        let db = server.empty_database(name).await.ok()?;
        db.batch_execute(&script).await.ok()?;
        Some(db)
    })
    .await
}

/// Runs statements, and repeats them if the server restarts meanwhile. A repetition of the statements must do no harm.
async fn insist(server: &Server, name: &str, statements: &str) {
    wait_for("the server takes a statement", PATIENCE, async || {
        let db = connect(&server.dsn(name)).await.ok()?;
        db.batch_execute(statements).await.ok()
    })
    .await;
}

async fn work(server: &Server, name: &str, url: &str) {
    // Each statement is one transaction, and does nothing if its rows exist already.
    insist(
        server,
        name,
        &format!(
            "do $$ begin
                if not exists (select from outbox.endpoint) then
                    perform outbox.create_endpoint('shop', '{url}');
                    perform outbox.subscribe('orders', '{{order.#}}', 'shop', source => 'all');
                end if;
            end $$"
        ),
    )
    .await;
    for part in 0..3 {
        insist(
            server,
            name,
            &format!(
                "do $$ begin
                    if not exists (select from outbox.message where (payload ->> 'n')::int = {part} * 12) then
                        for n in {part} * 12 .. {part} * 12 + 11 loop
                            if n % 2 = 0 then
                                perform outbox.enqueue('order.created', jsonb_build_object('n', n));
                            else
                                perform outbox.append('order-' || n % 4, 'order.created', jsonb_build_object('n', n));
                            end if;
                        end loop;
                    end if;
                    begin
                        perform outbox.enqueue('order.created', '{{\"n\": 9999}}');
                        perform outbox.append('order-1', 'order.created', '{{\"n\": 9998}}');
                        raise exception 'rolled back';
                    exception when raise_exception then null;
                    end;
                end $$"
            ),
        )
        .await;
    }
}

async fn verify(server: &Server, name: &str, accepted: &Accepted, duplicates_allowed: bool) {
    let arrived = wait_for("everything has been delivered or is dead", PATIENCE, async || {
        let db = connect(&server.dsn(name)).await.ok()?;
        // Failed deliveries become due at once, so that the test does not wait for the schedule.
        db.batch_execute(
            "update outbox.delivery set due_at = clock_timestamp() where state = 'failed';
            select outbox_internal.deliveries_changed()",
        )
        .await
        .ok()?;
        let row = db
            .query_one(
                "select (select count(*) from outbox.delivery), (select count(*) from outbox.dead_letter),
                    coalesce((select idle from outbox_internal.worker_slot()), false)",
                &[],
            )
            .await
            .ok()?;
        let (waiting, dead, idle): (i64, i64, bool) = (row.get(0), row.get(1), row.get(2));
        let arrived = accepted.lock().unwrap().clone();
        (waiting == 0 && dead == 12 && idle && arrived.len() == 24).then_some(arrived)
    })
    .await;
    let mut numbers: Vec<i64> = arrived.keys().copied().collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..36).filter(|n| n % 3 != 2).collect::<Vec<_>>(), "{name}");
    if !duplicates_allowed {
        let twice: Vec<_> = arrived.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "{name}: delivered twice without a crash: {twice:?}");
    }
    let sql = "select count(*) = max(p) and count(distinct id) = count(*) and count(*) = (select count(*) from outbox.message)
        from (
            select f.first_position + u.ord - 1 as p, u.id
            from outbox.feed f, unnest(f.message_ids) with ordinality u(id, ord)
        ) all_positions";
    // The dispatcher of another database may make the server restart.
    let gapless: bool = wait_for("the feed can be read", PATIENCE, async || {
        let db = connect(&server.dsn(name)).await.ok()?;
        Some(db.query_one(sql, &[]).await.ok()?.get(0))
    })
    .await;
    assert!(gapless, "{name}: the feed has gaps, duplicates or misses something");
}

async fn all_ways(ways: &[Way]) {
    let server = Server::start(&[("pg_outbox.poll_interval", "300ms"), ("max_worker_processes", "40")]).await.unwrap();
    let receiver = Receiver::start().unwrap();
    let mut runs = Vec::new();
    for &way in ways {
        for (table, operation) in WRITES.into_iter().chain([DEAD_LETTER]) {
            for at_commit in [false, true] {
                let when = if at_commit { "commit" } else { "row" };
                let name = format!("{}_{when}_{way:?}", table.trim_start_matches("outbox.")).to_lowercase();
                runs.push((name, table, operation, at_commit, way));
            }
        }
    }
    // A few databases run at a time, because each has a dispatcher of its own.
    for group in runs.chunks(9) {
        let mut all = Vec::new();
        for (name, table, operation, at_commit, way) in group {
            let accepted = install(&receiver, &format!("/{name}"));
            drop(database(&server, name, Some((table, operation, *at_commit, *way))).await);
            all.push((name, *way, accepted));
        }
        finish(&server, &receiver, &mut all).await;
    }
}

async fn finish(server: &Server, receiver: &Receiver, all: &mut Vec<(&String, Way, Accepted)>) {
    for (name, ..) in all.iter() {
        work(server, name, &receiver.url(&format!("/{name}"))).await;
    }
    for (name, way, accepted) in all.drain(..) {
        verify(server, name, &accepted, way == Way::Kill).await;
        // The trigger has fired.
        let fired = match way {
            Way::Kill => server.data.join(format!("fired_{name}")).exists(),
            _ => {
                let db = connect(&server.dsn(name)).await.unwrap();
                one::<bool>(&db, "select is_called from public.fired").await
            }
        };
        assert!(fired, "{name}: the failure was not injected");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_and_terminations_in_every_transaction_lose_and_repeat_nothing() {
    all_ways(&[Way::Error, Way::Terminate]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_every_write_loses_nothing() {
    all_ways(&[Way::Kill]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_the_transactions_loses_nothing() {
    let server = Server::start(&[("pg_outbox.poll_interval", "300ms")]).await.unwrap();
    let receiver = Receiver::start().unwrap();
    // The kill comes with the 1st, 5th, ... request, when messages are numbered and partly sent, and not recorded yet.
    for (run, nth) in [1, 5, 13, 24].into_iter().enumerate() {
        let name = format!("between_{run}");
        let path = format!("/{name}");
        drop(database(&server, &name, None).await);
        let accepted = Accepted::default();
        let (theirs, count) = (Arc::clone(&accepted), AtomicI32::new(0));
        let pid: i32 = wait_for("there is a dispatcher", PATIENCE, async || {
            let db = connect(&server.dsn(&name)).await.ok()?;
            let sql = "select pid from pg_stat_activity where backend_type = 'pg_outbox dispatcher' and datname = current_database()";
            db.query_opt(sql, &[]).await.ok()?.map(|row| row.get(0))
        })
        .await;
        receiver.on(&path, move |arrival, _| {
            if count.fetch_add(1, Ordering::SeqCst) + 1 == nth {
                let _ = postgres::signal(pid as u32, "KILL");
            }
            let n = arrival.json()["n"].as_i64().unwrap_or(-1);
            if n % 3 == 2 {
                return Reply::status(422);
            }
            *theirs.lock().unwrap().entry(n).or_default() += 1;
            Reply::status(200)
        });
        work(&server, &name, &receiver.url(&path)).await;
        verify(&server, &name, &accepted, true).await;
        wait_until("the dispatcher was killed", PATIENCE, async || {
            server.log().contains(&format!("(PID {pid}) was terminated by signal 9"))
        })
        .await;
    }
}

/// The dispatcher appends to `outbox.attempt` below the executor, where no trigger fires. The recording transaction
/// therefore meets a lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_that_cannot_be_appended_are_recorded_later() {
    let server = Server::start(&[("pg_outbox.poll_interval", "300ms")]).await.unwrap();
    let receiver = Receiver::start().unwrap();
    for way in [Way::Error, Way::Terminate, Way::Kill] {
        let name = format!("append_{way:?}").to_lowercase();
        let accepted = install(&receiver, &format!("/{name}"));
        drop(database(&server, &name, None).await);
        let hog = server.connect(&name).await.unwrap();
        hog.batch_execute("begin; lock table outbox.attempt in access exclusive mode").await.unwrap();
        work(&server, &name, &receiver.url(&format!("/{name}"))).await;
        let db = server.connect(&name).await.unwrap();
        let waiting = "select pid from pg_locks
            where not granted and relation = any (array(select inhrelid from pg_inherits where inhparent = 'outbox.attempt'::regclass))
                and database = (select oid from pg_database where datname = current_database())
                and pid in (select pid from pg_stat_activity where backend_type = 'pg_outbox dispatcher')";
        let pid: i32 = wait_for("the record's transaction waits for the log", PATIENCE, async || {
            db.query_opt(waiting, &[]).await.ok()?.map(|row| row.get(0))
        })
        .await;
        match way {
            Way::Error => {
                wait_until("it has given up", PATIENCE, async || {
                    let sql = "select coalesce(last_error, '') from outbox.worker_status()";
                    one::<String>(&db, sql).await.contains("lock timeout")
                })
                .await;
            }
            Way::Terminate => {
                assert!(one::<bool>(&db, &format!("select pg_terminate_backend({pid})")).await);
                wait_until("it is gone", PATIENCE, async || {
                    one::<i64>(&db, &format!("select count(*) from pg_stat_activity where pid = {pid}")).await == 0
                })
                .await;
            }
            Way::Kill => postgres::signal(pid as u32, "KILL").unwrap(),
        }
        drop(hog);
        // Outcomes that the ended process had not recorded are sent again.
        verify(&server, &name, &accepted, way != Way::Error).await;
    }
}

/// Tables that the dispatcher writes for pull subscriptions and for space, and the operations.
const CHORES: [(&str, &str); 5] = [
    ("outbox.delivery", "update"),
    ("outbox.lease", "delete"),
    ("outbox._freed_key", "delete"),
    ("outbox.segment", "insert or update"),
    ("outbox.job", "insert or update"),
];

/// Enqueues three messages for each of two keys. The first worker claims and disappears, and others do the work.
async fn pull_work(server: &Server, name: &str) {
    insist(
        server,
        name,
        "do $$ begin
            if not exists (select from outbox.subscription) then
                perform outbox.subscribe('lane', '{order.#}', ordering => 'key');
                perform outbox.enqueue('order.created', jsonb_build_object('n', n), 'key-' || n % 2) from generate_series(0, 5) n;
                create table public.effect (n int not null, drawn serial);
            end if;
        end $$",
    )
    .await;
    let lost = "select lease from outbox.claim('lane', 'lost', 10, '300 ms')";
    wait_for("there is something to claim", PATIENCE, async || {
        let db = connect(&server.dsn(name)).await.ok()?;
        db.query(lost, &[]).await.ok()?.first().map(|_| ())
    })
    .await;
    let claim = "with c as materialized (select * from outbox.claim('lane', 'w', 10, '60 s')),
        done as (select unnest(outbox.complete((select min(lease) from c), (select array_agg(delivery_id) from c))) as id
            where exists (select from c))
        insert into public.effect (n) select (c.payload ->> 'n')::int from c join done on done.id = c.delivery_id";
    wait_for("everything is worked off", PATIENCE, async || {
        let db = connect(&server.dsn(name)).await.ok()?;
        db.batch_execute(claim).await.ok()?;
        let sql = "select (select count(*) from public.effect) = 6 and not exists (select from outbox.delivery)
            and not exists (select from outbox.lease) and not exists (select from outbox._freed_key)";
        db.query_one(sql, &[]).await.ok()?.get::<_, bool>(0).then_some(())
    })
    .await;
    let order: Vec<i32> = wait_for("the effects can be read", PATIENCE, async || {
        let db = connect(&server.dsn(name)).await.ok()?;
        let rows = db.query("select n from public.effect order by n % 2, drawn", &[]).await.ok()?;
        Some(rows.iter().map(|row| row.get(0)).collect())
    })
    .await;
    assert_eq!(order, [0, 2, 4, 1, 3, 5], "{name}: each once, in the order of its key");
}

async fn has_fired(server: &Server, name: &str, way: Way) -> bool {
    if way == Way::Kill {
        return server.data.join(format!("fired_{name}")).exists();
    }
    let Ok(db) = connect(&server.dsn(name)).await else { return false };
    db.query_one("select is_called from public.fired", &[]).await.is_ok_and(|row| row.get(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_in_the_router_s_and_the_maintainer_s_chores_lose_and_repeat_nothing() {
    let settings =
        [("pg_outbox.poll_interval", "300ms"), ("pg_outbox.retention_interval", "1s"), ("max_worker_processes", "40")];
    let server = Server::start(&settings).await.unwrap();
    for way in [Way::Error, Way::Kill] {
        let names =
            CHORES.map(|(table, _)| format!("chore_{}_{way:?}", table.trim_start_matches("outbox.")).to_lowercase());
        for ((table, operation), name) in CHORES.into_iter().zip(&names) {
            drop(database(&server, name, Some((table, operation, false, way))).await);
        }
        for name in &names {
            pull_work(&server, name).await;
            // The first maintenance may run a little later.
            wait_until(&format!("{name}: the failure has been injected"), PATIENCE, async || {
                has_fired(&server, name, way).await
            })
            .await;
        }
    }
}
