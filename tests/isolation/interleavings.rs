//! Runs every ordered pair of operations on one delivery side by side. The first operation runs in a transaction that
//! stays open while the second operation starts, and then commits or rolls back.
//!
//! There are no expectations per pair. The allowed outcomes of a pair are measured: the two operations run one after the
//! other, in both orders, from the same initial state (and the second operation alone, if the first rolls back). The
//! outcome of the concurrent run, results and state, must be one of these. Concurrency therefore causes no lost delivery,
//! no second lease or completion, no forgotten attempt and no key that is unblocked twice. Every error is one that the
//! function is documented to raise, and never a deadlock.
//!
//! Operations that skip locked rows instead of waiting for them may also find nothing (`Op::skips`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use outbox_harness::Server;
use outbox_harness::tokio_postgres::{Client, SimpleQueryMessage};
use outbox_tests::{PATIENCE, explain, one, outbox_harness};

/// An operation. Placeholders: {d} delivery, {m} message, {l} lease, {x} dead letter of the pair of deliveries of a run.
struct Op {
    name: &'static str,
    call: &'static str,
    /// Whether the operation skips locked rows.
    skips: bool,
    /// The errors that it is documented to raise (docs/pull.md, Errors).
    raises: &'static [&'static str],
}

const fn op(name: &'static str, call: &'static str, raises: &'static [&'static str]) -> Op {
    Op { name, call, skips: false, raises }
}

const fn skipping(name: &'static str, call: &'static str) -> Op {
    Op { name, call, skips: true, raises: &[] }
}

const OPS: [Op; 24] = [
    // On a slow machine a session has a claim hint. Without the library preloaded, other sessions cannot lower it, so it
    // is lowered here.
    skipping(
        "claim",
        "select outbox_internal.lower_claim_hint((select source from stage.now), 0, '-infinity');
        select count(*) from outbox.claim('jobs', 'w')",
    ),
    skipping(
        "claim two",
        "select outbox_internal.lower_claim_hint((select source from stage.now), 0, '-infinity');
        select count(*) from outbox.claim('jobs', 'w', 2)",
    ),
    op(
        "claim_delivery",
        "select count(*) from outbox.claim_delivery({d}, 'w')",
        &["OB001", "OB002", "OB003", "OB004", "OB007", "OB010", "OB011", "OB012"],
    ),
    op("complete", "select cardinality(outbox.complete({l}))", &[]),
    op(
        "complete_and_claim",
        "select outbox_internal.lower_claim_hint((select source from stage.now), 0, '-infinity');
        select count(*) from outbox.complete_and_claim({l}, 'jobs', 'w')",
        &["OB001", "OB003"],
    ),
    op("fail", "select cardinality(outbox.fail({l}, null, 'x', '0 s'))", &[]),
    op("fail later", "select cardinality(outbox.fail({l}, array[{d}], 'x', '1 h'))", &[]),
    op("dead", "select cardinality(outbox.dead({l}, null, 'x'))", &[]),
    op("extend", "select outbox.extend({l}, '5 min') > now()", &["OB003"]),
    op("release", "select cardinality(outbox.release({l}))", &[]),
    skipping("unlock_stale", "select outbox.unlock_stale('0 s', 'jobs')"),
    op("requeue", "select outbox.requeue({x}, 'me') > 0", &["OB001", "OB004"]),
    skipping("requeue_all", "select outbox.requeue_all('me', 'jobs')"),
    op("resolve", "select outbox.resolve_dead_letter({x}, 'me')", &["OB001", "OB004"]),
    op("delete_dead_letter", "select outbox.delete_dead_letter({x}, 'me')", &["OB001"]),
    op("retry", "select outbox.retry({m}, 'jobs', 'me') > 0", &["OB001", "OB002", "OB003", "OB004"]),
    op("cancel", "select outbox.cancel({m}, 'me')", &["OB001", "OB002", "OB003"]),
    op("move_to_dead_letters", "select outbox.move_to_dead_letters({d}, 'x', 'me') > 0", &["OB001", "OB002", "OB003"]),
    op("reschedule", "select outbox.reschedule({d}, now() + '1 h', 'me')", &["OB001", "OB002", "OB003"]),
    op("erase", "select outbox.erase({m}, 'me', 'x')", &["OB001", "OB003"]),
    op("alter", "select outbox.alter_subscription('jobs', max_attempts => 1) > 0", &["OB001"]),
    op("pause", "select outbox.pause_subscription('jobs') > 0", &["OB001"]),
    op("unsubscribe", "select outbox.unsubscribe('jobs') > 0", &["OB001"]),
    skipping("pass of the router", ROUTE),
];

/// The initial states of a run. The second message of the key waits for the first one, or is in a bundle with it.
const BEGINNINGS: [&str; 8] =
    ["waiting", "failed", "leased", "overdue", "dead", BUNDLED, "bundle_leased", "bundle_overdue"];
const BUNDLED: &str = "bundle";

/// Creates initial states from a stock of routed deliveries, and shows the state of the two deliveries of a run.
const STAGE: &str = "
create schema stage;
create table stage.now (m bigint, m2 bigint, d bigint, l bigint, x bigint, source int);
insert into stage.now select null, null, null, null, null, id from outbox.subscription where name = 'jobs';
create function stage.begin(beginning text) returns setof stage.now language plpgsql as $$
declare
    n stage.now;
    own text;
begin
    select * into n from stage.now;
    -- what the run before has left
    delete from outbox.delivery where subscription_id = n.source;
    delete from outbox._bundle where subscription_id = n.source;
    delete from outbox.lease where subscription_id = n.source;
    delete from outbox.dead_letter where subscription_id = n.source;
    delete from outbox._freed_key where subscription_id = n.source;
    update outbox.subscription set paused = false, deleted_at = null, max_attempts = 3 where id = n.source;
    select key into own from outbox.delivery order by id limit 1;
    if own is null then
        return;
    end if;
    update outbox.delivery set subscription_id = n.source, due_at = clock_timestamp() where key = own;
    select (array_agg(message_id order by position))[1], (array_agg(message_id order by position))[2], min(id)
    into n.m, n.m2, n.d from outbox.delivery where key = own;
    n.l := 0;
    n.x := 0;
    if beginning like 'bundle%' then
        perform outbox_internal.open_bundle(n.source, min(message_segment),
            outbox_internal.us(clock_timestamp()), array_agg(position order by position),
            array_agg(message_id order by position))
        from outbox.delivery where key = own;
        delete from outbox.delivery where key = own;
        select delivery_ids[1] into n.d from outbox._bundle;
    end if;
    if beginning not in ('waiting', 'bundle') then
        perform outbox_internal.lower_claim_hint(n.source, 0, '-infinity');
        select lease into n.l from outbox.claim('jobs', 'first', 2);
    end if;
    if beginning = 'failed' then
        perform outbox.fail(n.l, null, 'x', '0 s');
    elsif beginning like '%overdue' then
        update outbox.lease set expires_at = clock_timestamp() - interval '1 s' where id = outbox_internal.lease_id(n.l);
    elsif beginning = 'dead' then
        perform outbox.dead(n.l, null, 'x');
        select max(id) into n.x from outbox.dead_letter;
    end if;
    update stage.now set m = n.m, m2 = n.m2, d = n.d, l = n.l, x = n.x;
    return next n;
end $$;
create function stage.open(message bigint) returns table (state text, attempt int, blocked boolean, due_at timestamptz, lease bigint)
language sql as $$
    select d.state, d.attempt, d.blocked, d.due_at, d.lease from outbox.delivery d where d.message_id = message
    union all
    select o.state, o.attempt, false, o.due_at, o.lease from outbox_internal.open_of(message) o
    where not exists (select from outbox.delivery d where d.id = o.id)
$$;
-- Everything about the two, without ids and times.
create function stage.state() returns text language plpgsql as $$ begin return (
    select string_agg(concat_ws(' ', m.n || ':',
        (select string_agg(concat_ws(' ', d.state, d.attempt, case when d.blocked then 'blocked' end,
            case when d.due_at > clock_timestamp() then 'later' end, l.worker, case when d.lease is not null and l.id is null then 'no lease' end,
            case when l.expires_at < clock_timestamp() then 'overdue' end), ' + ')
            from stage.open(m.id) d left join outbox.lease l on l.id = d.lease),
        (select string_agg(concat_ws(' ', x.state, x.reason, x.resolution, x.attempt), ' + ' order by x.id)
            from outbox.dead_letter x where x.message_id = m.id),
        (select 'log (' || string_agg(a.outcome || ' ' || a.attempt, ', ' order by a.outcome, a.attempt) || ')'
            from outbox_internal.attempts_of(m.id) a),
        (select 'cancelled' from outbox.cancelled c where c.message_id = m.id),
        (select 'erased' from outbox.message o where o.id = m.id and o.payload is null)), '; ' order by m.n)
        || '; leases ' || (select count(*) from outbox.lease)
        || (select case when s.deleted_at is not null then ', ended' when s.paused then ', paused' else '' end
            from outbox.subscription s where s.id = (select source from stage.now))
    from (select 1 as n, m as id from stage.now union all select 2, m2 from stage.now) m
); end $$;";

/// Returns the result of a call: its single value, or the SQLSTATE.
async fn call(db: &Client, sql: &str) -> String {
    match db.simple_query(sql).await {
        Ok(messages) => messages
            .iter()
            .rev()
            .find_map(|m| match m {
                SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("null").to_owned()),
                _ => None,
            })
            .unwrap_or_default(),
        Err(error) => {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
            // A code that is not pg_outbox's own is a fault in any case, so the whole error is shown.
            if error.code().code().starts_with("OB") { error.code().code().to_owned() } else { format!("{error:?}") }
        }
    }
}

struct Run {
    beginning: &'static str,
    first: Client,
    second: Client,
    second_pid: i32,
    watcher: Client,
}

/// The results of the first and the second operation, and the final state.
type Outcome = (String, String, String);

/// One round of the router between the calls.
const ROUTE: &str = "select count(*) from (
    select case when outbox_internal.route_inline() in ('ticked', 'idle') then (outbox_internal.router_pass(1000, '{}')).free end) p";

impl Run {
    async fn new(server: &Server, beginning: &'static str) -> Run {
        let name = format!("pairs_{beginning}");
        let db = server.database(&name).await.unwrap();
        db.batch_execute(&format!(
            "alter database {name} set synchronous_commit = off;
            alter database {name} set jit = off;
            select outbox.subscribe('stock', '{{job.#}}', ordering => 'key', max_attempts => 3);
            select outbox.subscribe('jobs', '{{other}}', ordering => 'key', max_attempts => 3);"
        ))
        .await
        .unwrap();
        db.batch_execute(STAGE).await.unwrap();
        let [first, second, watcher] = [(); 3].map(|()| server.connect(&name));
        let (first, second, watcher) = (first.await.unwrap(), second.await.unwrap(), watcher.await.unwrap());
        let second_pid = one(&second, "select pg_backend_pid()").await;
        Run { beginning, first, second, second_pid, watcher }
    }

    /// Creates a fresh pair of deliveries in the initial state, and returns the calls with the ids filled in.
    async fn begin(&self, ops: &[&Op]) -> Vec<String> {
        let begun = self.watcher.query_opt("select m, d, l, x from stage.begin($1)", &[&self.beginning]).await;
        let row = match begun.unwrap_or_else(|e| panic!("{}: {}", self.beginning, explain(&e))) {
            Some(row) => row,
            None => {
                self.watcher
                    .batch_execute(
                        "do $$ begin for n in 1..1000 loop
                            perform outbox.enqueue('job.do', '{}', format('%s %s', now(), n)) from generate_series(1, 2);
                        end loop; end $$",
                    )
                    .await
                    .unwrap();
                for _ in 0..20 {
                    call(&self.watcher, ROUTE).await;
                }
                self.watcher.query_one("select m, d, l, x from stage.begin($1)", &[&self.beginning]).await.unwrap()
            }
        };
        let id = |n: usize| row.get::<_, i64>(n).to_string();
        ops.iter()
            .map(|op| {
                op.call.replace("{m}", &id(0)).replace("{d}", &id(1)).replace("{l}", &id(2)).replace("{x}", &id(3))
            })
            .collect()
    }

    /// Returns the final state, after a round of the router.
    async fn end(&self) -> String {
        call(&self.watcher, ROUTE).await;
        one(&self.watcher, "select stage.state()").await
    }

    async fn nothing(&self) -> String {
        self.begin(&[]).await;
        self.end().await
    }

    async fn alone(&self, op: &Op) -> (String, String) {
        let calls = self.begin(&[op]).await;
        (call(&self.second, &calls[0]).await, self.end().await)
    }

    async fn one_after_the_other(&self, first: &Op, second: &Op) -> Outcome {
        let calls = self.begin(&[first, second]).await;
        let first = call(&self.first, &calls[0]).await;
        let second = call(&self.second, &calls[1]).await;
        (first, second, self.end().await)
    }

    /// Runs the second operation while the first is open. Also returns whether the second had to wait.
    async fn side_by_side(&self, first: &Op, second: &Op, end: &str) -> (Outcome, bool) {
        let calls = self.begin(&[first, second]).await;
        self.first.batch_execute("begin").await.unwrap();
        let first = call(&self.first, &calls[0]).await;
        let mut blocked = false;
        let mut running = std::pin::pin!(call(&self.second, &calls[1]));
        let mut finished = None;
        let started = Instant::now();
        while finished.is_none() && !blocked {
            tokio::select! {
                result = &mut running => finished = Some(result),
                () = tokio::time::sleep(Duration::from_millis(3)) => {
                    blocked = one(&self.watcher, &format!("select cardinality(pg_blocking_pids({})) > 0", self.second_pid)).await;
                }
            }
            assert!(started.elapsed() < PATIENCE, "{} neither ends nor waits for a lock", calls[1]);
        }
        self.first.batch_execute(end).await.unwrap();
        let second = match finished {
            Some(result) => result,
            None => tokio::time::timeout(PATIENCE, running).await.expect("it goes on when the first has ended"),
        };
        ((first, second, self.end().await), blocked)
    }

    /// Runs every pair. Returns what is wrong, how many pairs ran, and how many of them waited.
    async fn all(&self) -> (Vec<String>, usize, usize) {
        let mut wrong = Vec::new();
        let (mut seen, mut waited) = (0, 0);
        let untouched = self.nothing().await;
        let mut alone = Vec::new();
        for op in &OPS {
            alone.push(self.alone(op).await);
        }
        let mut serial = BTreeMap::new();
        for (i, first) in OPS.iter().enumerate() {
            for (j, second) in OPS.iter().enumerate() {
                if is_error(&alone[i].0) && is_error(&alone[j].0) {
                    continue;
                }
                serial.insert((i, j), self.one_after_the_other(first, second).await);
            }
        }
        for (i, first) in OPS.iter().enumerate() {
            // An error ends the transaction, so there is no open transaction for the second operation.
            if is_error(&alone[i].0) {
                continue;
            }
            for (j, second) in OPS.iter().enumerate() {
                for end in ["commit", "rollback"] {
                    let (outcome, blocked) = self.side_by_side(first, second, end).await;
                    seen += 1;
                    waited += usize::from(blocked);
                    let mut allowed = BTreeSet::new();
                    if end == "commit" {
                        allowed.insert(serial[&(i, j)].clone());
                        let (b, a, state) = serial[&(j, i)].clone();
                        allowed.insert((a, b, state));
                        if second.skips {
                            allowed.insert((outcome.0.clone(), nothing(&outcome.1), alone[i].1.clone()));
                        }
                    } else {
                        allowed.insert((outcome.0.clone(), alone[j].0.clone(), alone[j].1.clone()));
                        if second.skips {
                            allowed.insert((outcome.0.clone(), nothing(&outcome.1), untouched.clone()));
                        }
                    }
                    if !allowed.contains(&outcome) {
                        wrong.push(format!(
                            "{}: {} beside {} ({end}{}):\n    {outcome:?}\n  and not\n    {}",
                            self.beginning,
                            second.name,
                            first.name,
                            if blocked { ", waited" } else { "" },
                            allowed.iter().map(|o| format!("{o:?}")).collect::<Vec<_>>().join("\n    ")
                        ));
                    }
                    for (op, result) in [(first, &outcome.0), (second, &outcome.1)] {
                        if is_error(result) && !op.raises.contains(&result.as_str()) {
                            wrong
                                .push(format!("{}: {} beside {} raises {result}", self.beginning, op.name, first.name));
                        }
                    }
                    wrong.extend(broken(&outcome.2, self.beginning.starts_with(BUNDLED)).map(|why| {
                        format!(
                            "{}: {} beside {} ({end}): {why}: {}",
                            self.beginning, second.name, first.name, outcome.2
                        )
                    }));
                }
            }
        }
        (wrong, seen, waited)
    }
}

fn is_error(result: &str) -> bool {
    result.starts_with("OB") || result.starts_with("DbError")
}

/// Returns the result of an operation that found nothing.
fn nothing(result: &str) -> String {
    if result == "1" { "0".to_owned() } else { result.to_owned() }
}

/// Returns the fault of a state that no order of operations may lead to, if it has one.
fn broken(state: &str, bundle: bool) -> Option<&'static str> {
    let parts: Vec<&str> = state.split("; ").collect();
    let processing = state.matches("processing").count();
    let leases: Option<usize> = parts[2].trim_start_matches("leases ").split(',').next().and_then(|n| n.parse().ok());
    if !bundle && leases != Some(processing) {
        return Some("a lease per delivery that a worker has");
    }
    if (processing > 0) != (leases > Some(0)) {
        return Some("a lease without deliveries");
    }
    if state.contains("no lease") {
        return Some("leased to nobody");
    }
    for message in &parts[..2] {
        let row =
            ["pending", "failed", "processing"].iter().any(|s| message.split("log (").next().unwrap().contains(s));
        let letter = [" open", " resolved", " ignored"].iter().filter(|s| message.contains(**s)).count();
        let ended = ["completed", "cancelled", "skipped", "dead 1", "dead 0"].iter().any(|s| message.contains(s));
        if row && letter > 0 || letter > 1 || message.contains(" + ") && row && !message.contains("requeued") {
            return Some("in two states");
        }
        if !row && letter == 0 && !ended {
            return Some("lost");
        }
        if message.matches("completed").count() > 1 {
            return Some("completed twice");
        }
    }
    if processing > 1 && !bundle {
        return Some("two of a key at a time");
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn side_by_side_is_as_one_after_the_other() {
    let started = Instant::now();
    // These tests do not crash the server, so fsync is off.
    let server: &'static Server = Box::leak(Box::new(Server::start_plain(&[("fsync", "off")]).await.unwrap()));
    let runs = BEGINNINGS.map(|beginning| tokio::spawn(async move { Run::new(server, beginning).await.all().await }));
    let (mut wrong, mut seen, mut waited) = (Vec::new(), 0, 0);
    for run in runs {
        let (w, s, b) = run.await.unwrap();
        wrong.extend(w);
        seen += s;
        waited += b;
    }
    println!("{seen} pairs, {waited} waited, {:.1} s", started.elapsed().as_secs_f64());
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(waited > seen / 20, "hardly any waited: they do not meet");
}
