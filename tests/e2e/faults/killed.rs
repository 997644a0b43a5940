//! Workers that die. They are processes of their own (psql) and are killed in every state that a worker can be in.
//!
//! In each case another worker completes the delivery in the end, once, with the documented attempt number. An attempt
//! counts if its claim was committed, and uncommitted calls have no effect.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Server, Stop, postgres, wait_for, wait_until};
use outbox_tests::{one, outbox_harness, server, settle};

/// A restart after a crash may take long.
const PATIENCE: Duration = Duration::from_secs(120);

/// A description of each state, the statements of the worker before it dies, and the attempt number that the next worker
/// gets. CLAIM stands for a committed claim of the subscription.
const STATES: [(&str, &str, i32); 11] = [
    ("its claim is not committed", "begin; CLAIM", 1),
    ("it holds a lease", "CLAIM", 2),
    ("it has extended its lease, not committed", "CLAIM begin; select outbox.extend(:lease, '1 h');", 2),
    ("it is in the transaction of complete", "CLAIM begin; select outbox.complete(:lease);", 2),
    (
        "it is in the transaction of complete of some",
        "CLAIM begin; select outbox.complete(:lease, array[:id]::bigint[]);",
        2,
    ),
    ("it has failed, not committed", "CLAIM begin; select outbox.fail(:lease, null, 'x', '0 s');", 2),
    ("it has failed, committed", "CLAIM select outbox.fail(:lease, null, 'x', '0 s');", 2),
    ("it has given up, not committed", "CLAIM begin; select outbox.dead(:lease, null, 'x');", 2),
    ("it has released, not committed", "CLAIM begin; select outbox.release(:lease);", 2),
    ("it has released, committed", "CLAIM select outbox.release(:lease);", 1),
    ("it waits for work", "call outbox.claim_wait('SUBSCRIPTION', '5 min');", 1),
];
const WAITS: usize = STATES.len() - 1;

/// A worker in a process of its own.
struct Worker {
    process: Child,
    /// psql would exit normally at the end of its input, so the input stays open.
    _input: ChildStdin,
    backend: i32,
}

/// Starts a worker and brings the worker into the state.
async fn worker(server: &Server, db: &Client, database: &str, run: &str, state: usize) -> Worker {
    let name = format!("{run}_{state}");
    let mut process = Command::new(server.install.bin.join("psql"))
        .args(["-X", "-q", "-A", "-t", "-d", &server.dsn(database)])
        .env("PGAPPNAME", &name)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    let claim = format!("select lease, delivery_id as id from outbox.claim('{name}', 'victim', 1, '3 s') \\gset\n");
    let script = STATES[state].1.replace("CLAIM ", &claim).replace("CLAIM", &claim).replace("SUBSCRIPTION", &name);
    writeln!(input, "{script}").unwrap();
    if state != WAITS {
        writeln!(input, "\nset application_name = '{name}_done';").unwrap();
    }
    input.flush().unwrap();
    let there = if state == WAITS {
        format!("application_name = '{name}' and wait_event = 'Extension'")
    } else {
        format!("application_name = '{name}_done' and state like 'idle%'")
    };
    let backend = wait_for(&format!("a worker is where {}", STATES[state].0), PATIENCE, async || {
        let found = db.query_opt(&format!("select pid from pg_stat_activity where {there}"), &[]).await.unwrap();
        found.map(|row| row.get(0))
    })
    .await;
    Worker { process, _input: input, backend }
}

/// Creates a subscription for each state, with one message, and starts a worker in that state.
async fn workers(server: &Server, db: &Client, database: &str, run: &str) -> Vec<Worker> {
    for state in 0..STATES.len() {
        let name = format!("{run}_{state}");
        db.batch_execute(&format!("select outbox.subscribe('{name}', '{{job.{name}}}')")).await.unwrap();
        if state != WAITS {
            db.batch_execute(&format!("select outbox.enqueue('job.{name}', '{{}}')")).await.unwrap();
        }
    }
    wait_until("all have something to claim", PATIENCE, async || {
        let waiting = "select count(*) from outbox.delivery d join outbox.subscription s on s.id = d.subscription_id
            where starts_with(s.name, $1 || '_')";
        db.query_one(waiting, &[&run]).await.unwrap().get::<_, i64>(0) == WAITS as i64
    })
    .await;
    let mut all = Vec::new();
    for state in 0..STATES.len() {
        all.push(worker(server, db, database, run, state).await);
    }
    all
}

/// Checks that another worker gets the deliveries of the dead workers, with the right attempt, and that no row is left.
async fn all_is_handled(db: &Client, run: &str) {
    let name = format!("{run}_{WAITS}");
    db.batch_execute(&format!("select outbox.enqueue('job.{name}', '{{}}')")).await.unwrap();
    for (state, (what, _, attempt)) in STATES.iter().enumerate() {
        let name = format!("{run}_{state}");
        let (lease, found) = wait_for(&format!("somebody else gets it: {what}"), PATIENCE, async || {
            let row = db.query_opt("select lease, attempt from outbox.claim($1, 'heir')", &[&name]).await.unwrap()?;
            Some((row.get::<_, i64>(0), row.get::<_, i32>(1)))
        })
        .await;
        assert_eq!(found, *attempt, "the attempt after a worker was killed when {what}");
        let done: Vec<i64> = db.query_one("select outbox.complete($1)", &[&lease]).await.unwrap().get(0);
        assert_eq!(done.len(), 1, "{what}");
        let log = db
            .query_one(
                "select count(*) filter (where a.outcome = 'completed'), count(*) filter (where a.error_class = 'lease_expired'),
                    count(*) filter (where a.outcome = 'dead')
                from outbox.attempt a join outbox.subscription s on s.id = a.subscription_id where s.name = $1",
                &[&name],
            )
            .await
            .unwrap();
        let (completed, expired, dead): (i64, i64, i64) = (log.get(0), log.get(1), log.get(2));
        let told = *attempt == 2 && !what.ends_with("failed, committed");
        assert_eq!((completed, expired, dead), (1, i64::from(told), 0), "the log of: {what}");
    }
    let left = db
        .query_one("select (select count(*) from outbox.delivery), (select count(*) from outbox.lease)", &[])
        .await
        .unwrap();
    assert_eq!((left.get::<_, i64>(0), left.get::<_, i64>(1)), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_process_is_killed_loses_nothing_in_any_state() {
    let server = server().await;
    let db = server.database("killed").await.unwrap();
    for mut worker in workers(server, &db, "killed", "process").await {
        worker.process.kill().unwrap();
        worker.process.wait().unwrap();
    }
    all_is_handled(&db, "process").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_session_is_ended_loses_nothing_in_any_state() {
    let server = server().await;
    let db = server.database("ended").await.unwrap();
    let mut all = workers(server, &db, "ended", "session").await;
    for worker in &all {
        db.execute("select pg_terminate_backend($1)", &[&worker.backend]).await.unwrap();
    }
    all_is_handled(&db, "session").await;
    for worker in &mut all {
        let _ = worker.process.kill();
        worker.process.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_killed_takes_the_server_down_and_nothing_is_lost_in_any_state() {
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("crash").await.unwrap();
    let mut all = workers(&server, &db, "crash", "backend").await;
    // Killing one backend is enough. The postmaster ends all others and recovers from the WAL.
    postgres::signal(u32::try_from(all[3].backend).unwrap(), "KILL").unwrap();
    let db = wait_for("the server is there again", PATIENCE, async || {
        let db = server.connect("crash").await.ok()?;
        let fresh = "select pg_postmaster_start_time() < clock_timestamp() and not pg_is_in_recovery()
            and not exists (select from pg_stat_activity where application_name like 'backend%')";
        db.query_one(fresh, &[]).await.ok()?.get::<_, bool>(0).then_some(db)
    })
    .await;
    all_is_handled(&db, "backend").await;
    for worker in &mut all {
        let _ = worker.process.kill();
        worker.process.wait().unwrap();
    }
    server.stop(Stop::Fast).unwrap();
}

/// Stops one thread of a process, as a debugger does. The argument is the id of the thread. The script ends after the
/// thread.
const STOP_THREAD: &str = "
import ctypes, os, sys
tid = int(sys.argv[1])
if ctypes.CDLL(None).ptrace(16, tid, None, None) != 0:
    sys.exit('refused')
os.waitpid(tid, 0x40000000)
print('stopped', flush=True)
os.waitpid(tid, 0x40000000)
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dispatcher_whose_http_thread_is_stuck_is_replaced() {
    let receiver = Receiver::start().unwrap();
    let server = server().await;
    let db = server.database("stuck").await.unwrap();
    db.batch_execute(&format!(
        "select outbox.create_endpoint('shop', '{}'); select outbox.subscribe('s', '{{order.#}}', 'shop');
        select outbox.enqueue('order.created', '{{}}')",
        receiver.url("/")
    ))
    .await
    .unwrap();
    wait_until("the first is there", PATIENCE, async || receiver.total() == 1).await;
    settle(&db).await;
    let pid: i32 = one(&db, "select pid from outbox.worker_status()").await;
    let thread = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().find(|thread| {
        std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name.trim() == "pg_outbox http")
    });
    let thread = thread.expect("the HTTP thread").file_name();
    let mut debugger = postgres::command_as_server_user("python3")
        .args(["-c", STOP_THREAD])
        .arg(thread)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(debugger.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.is_empty() {
        eprintln!("this system lets no process stop another's thread (kernel.yama.ptrace_scope): not tested");
        debugger.wait().unwrap();
        return;
    }
    db.batch_execute("select outbox.enqueue('order.created', '{}')").await.unwrap();
    wait_until("another dispatcher sends it", PATIENCE, async || receiver.total() == 2).await;
    assert_ne!(one::<Option<i32>>(&db, "select pid from outbox.worker_status()").await, Some(pid));
    assert!(server.log().contains("the HTTP thread has not gone on for"));
    debugger.wait().unwrap();
}
