//! Claims and completions below the executor do what the statements of the schema do. In REPEATABLE READ the entry of a
//! function always calls the statements, so each call is made in both isolation levels, and the results are compared.

use std::collections::BTreeMap;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::wait_until;
use outbox_tests::{PATIENCE, one, outbox_harness, refused, rows, server, settle};

/// Deliveries of every kind, for workers.
const MESSAGES: &str = r#"
create function public.shaped(message outbox.feed_message) returns jsonb language sql immutable
    return case when (message).topic = 'job.shaped' then jsonb_build_object('shaped', (message).payload -> 'n') end;
select outbox.subscribe('plain', '{job.#}', max_attempts => 5, deadline => '30 s');
select outbox.subscribe('ordered', '{job.#}', ordering => 'key', ttl => '1 h');
select outbox.subscribe('shaped', '{job.shaped}', transform => 'public.shaped(outbox.feed_message)');
select outbox.subscribe('events', '{#}', source => 'events');
select count(outbox.enqueue('job.shaped', jsonb_build_object('n', n, 'text', repeat('x', n * 90)), 'k' || n % 3,
    priority => n % 4 - 1, headers => '{"h": "1"}', metadata => '{"m": 2}', tenant => 't', aggregate_type => 'order',
    aggregate_id => n::text, publisher => 'shop', max_attempts => case when n % 2 = 0 then n end, occurred_at => '2020-02-02'))
from generate_series(1, 12) n;
select count(outbox.enqueue_bytes('job.bytes', convert_to('a,' || n, 'UTF8'), 'text/csv', expires_at => now() + interval '1 h'))
from generate_series(1, 3) n;
select outbox.enqueue_many('job.many', array(select jsonb_build_object('n', n) from generate_series(1, 330) n));
select outbox.append('order-' || n % 4, 'Placed', jsonb_build_object('n', n)) from generate_series(1, 30) n;
select outbox.append('account', 'Opened', '{}');
"#;

/// The rows of a result, without the columns that differ from call to call.
type Found = Vec<BTreeMap<String, Option<String>>>;

async fn run(db: &Client, statements: &str) {
    db.batch_execute(statements).await.unwrap_or_else(|e| panic!("{}", outbox_tests::explain(&e)));
}

/// How often this session has called the functions with the statements lately.
async fn statements_ran(db: &Client) -> i64 {
    one(
        db,
        "select coalesce(sum(f.calls), 0)::bigint from pg_stat_xact_user_functions f
        where f.schemaname = 'outbox_private' and f.funcname in ('claim', 'complete', 'complete_and_claim')",
    )
    .await
}

/// Makes the same calls in both isolation levels, and rolls each back. Returns whether the first ones ran no statement.
async fn same(db: &Client, calls: &str, look: &[&str]) -> bool {
    let mut results: Vec<Vec<Found>> = Vec::new();
    let mut below = false;
    for isolation in ["read committed", "repeatable read"] {
        run(db, &format!("begin isolation level {isolation}")).await;
        let before = statements_ran(db).await;
        let mut found = vec![rows(db, calls).await];
        let by_statements = statements_ran(db).await > before;
        match isolation {
            "read committed" => below = !by_statements,
            _ => assert!(by_statements, "{calls}"),
        }
        for query in look {
            found.push(rows(db, query).await);
        }
        run(db, "rollback").await;
        results.push(found);
    }
    assert_eq!(results[0], results[1], "{calls}");
    below
}

/// The columns of a claim that do not depend on the time of the claim or on the lease.
const COLUMNS: &str = "c.delivery_id, c.subscription, c.message_id, c.webhook_id, c.position, c.attempt, c.max_attempts, c.topic,
    c.key, c.payload, c.body, c.content_type, c.headers, c.metadata, c.tenant, c.publisher, c.aggregate_type, c.aggregate_id,
    c.priority, c.enqueued_at, c.occurred_at, c.deliver_at, c.expires_at, c.last_attempt_at, c.last_error, c.version, c.event_id,
    c.lease_expires_at - clock_timestamp() > interval '29 s' as held";

/// Everything that a claim or completion of this transaction has written.
const WRITTEN: [&str; 5] = [
    "select a.position, a.message_id, a.delivery_id, a.run, a.subscription_id, a.attempt, a.outcome, a.worker, a.positions,
        a.message_ids, a.delivery_ids, a.started_at is null as started, a.error
    from outbox.attempt a where a.xmin = pg_current_xact_id()::xid order by a.position, a.subscription_id",
    "select c.subscription_id, c.endpoint_id, c.outcome, sum(c.requests) as requests, sum(c.deliveries) as deliveries
    from outbox.counter c where c.xmin = pg_current_xact_id()::xid group by 1, 2, 3 order by 1",
    "select l.subscription_id, l.worker, l.bundled, l.deadline_at - l.claimed_at as deadline, l.delivery_ids
    from outbox.lease l order by l.delivery_ids",
    "select d.id, d.state, d.attempt, d.first_attempt_at = d.last_attempt_at as first, d.lease is null as free, d.due_at, d.key
    from outbox.delivery d order by d.id",
    "select b.subscription_id, b.lease is null as free, b.delivery_ids, b.positions, b.message_ids from outbox._bundle b
    order by b.delivery_ids",
];
const FREED: &str = "select f.subscription_id, f.key from outbox._freed_key f order by f.subscription_id, f.key";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_below_the_executor_does_what_the_statements_do() {
    let server = server().await;
    let db = server.database("cycle").await.unwrap();
    run(&db, "set track_functions = 'all'").await;
    run(&db, MESSAGES).await;
    settle(&db).await;
    // One delivery that has failed, messages that were cancelled, and a replay with ids of its own.
    run(
        &db,
        "select outbox.fail(c.lease, null, 'bad luck', '0 s') from outbox.claim('plain', 'w', 1) c;
        select outbox.cancel(m.id, 'test') from outbox.message m where m.payload ->> 'n' in ('7', '207') or m.content_type = 'text/csv';
        select outbox.complete(c.lease) from (select min(c.lease) as lease from outbox.claim('shaped', 'w', 100) c) c;
        select outbox.replay('shaped', new_ids => true)",
    )
    .await;
    let replayed = "select count(*) from outbox.delivery d where d.new_id";
    wait_until("the replay has made deliveries", PATIENCE, async || one::<i64>(&db, replayed).await == 11).await;
    settle(&db).await;

    let (mut below, mut bundled, mut round) = (0, 0, 0);
    for subscription in ["plain", "ordered", "shaped", "events"] {
        // A session's first claim looks the subscription up by statements.
        run(&db, &format!("begin; select outbox.claim('{subscription}', 'w'); rollback")).await;
        loop {
            round += 1;
            for max in [1, 2, 15, 120, 1000] {
                let claim = format!("select {COLUMNS} from outbox.claim('{subscription}', 'w', {max}, '50 s') c");
                below += i32::from(same(&db, &claim, &WRITTEN).await);
            }
            // A claim that stays, and the ways to complete it.
            let max = [3, 40, 1, 250, 12][round % 5];
            let claimed = rows(
                &db,
                &format!("select c.lease, array_agg(c.delivery_id) as ids from outbox.claim('{subscription}', 'w', {max}) c group by 1"),
            )
            .await;
            let Some(claimed) = claimed.first() else { break };
            let (lease, ids) = (claimed["lease"].as_deref().unwrap(), claimed["ids"].as_deref().unwrap());
            let looks = [&WRITTEN[..], &[FREED]].concat();
            for call in [
                format!("select outbox.complete({lease})"),
                format!("select outbox.complete({lease}, '{ids}')"),
                format!("select outbox.complete({lease}, ('{ids}'::bigint[])[1:2])"),
                format!("select {COLUMNS} from outbox.complete_and_claim({lease}, '{subscription}', 'x', {max}) c"),
            ] {
                below += i32::from(same(&db, &call, &looks).await);
            }
            bundled += one::<i64>(&db, "select count(*) from outbox.lease l where l.bundled").await;
            run(&db, &format!("select outbox.complete({lease})")).await;
            settle(&db).await;
            assert!(round < 500, "the deliveries of {subscription} do not end");
        }
    }
    // Most of these calls are those that the library handles.
    assert!(below > round as i32 * 5, "{below} of {} calls ran below the executor", round * 9);
    assert!(bundled > 1, "{bundled} bundles were claimed as such");
    let left: i64 = one(&db, "select count(*) from outbox._open o where o.state = 'processing'").await;
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_altered_is_left_to_the_executor() {
    let server = server().await;
    let db = server.database("cycle_altered").await.unwrap();
    run(
        &db,
        "select outbox.subscribe('work', '{job}');
        create table public.seen (state text);
        create function public.note() returns trigger language plpgsql security definer as
            'begin insert into public.seen values (coalesce(new.state, ''ended'')); return null; end';
        create trigger note after update or delete on outbox.delivery for each row execute function public.note()",
    )
    .await;
    let cycle = async |expected: i64| {
        run(&db, "select outbox.enqueue('job', '{}', priority => 1)").await;
        settle(&db).await;
        run(&db, "select outbox.complete(c.lease) from outbox.claim('work', 'w') c").await;
        assert_eq!(one::<i64>(&db, "select count(*) from public.seen").await, expected);
        assert_eq!(one::<i64>(&db, "select count(*) from outbox.delivery").await, 0);
    };
    cycle(2).await;
    cycle(4).await;
    run(&db, "drop trigger note on outbox.delivery; alter table outbox.delivery add column more int default 1").await;
    cycle(4).await;
    run(&db, "alter table outbox.delivery drop column more; alter table outbox.delivery add check (attempt < 1)").await;
    run(&db, "select outbox.enqueue('job', '{}', priority => 1)").await;
    settle(&db).await;
    assert_eq!(refused(&db, "select outbox.claim('work', 'w')").await.code().code(), "23514");
    run(&db, "alter table outbox.delivery drop constraint delivery_attempt_check").await;
    run(&db, "select outbox.complete(c.lease) from outbox.claim('work', 'w') c; create index more on outbox.delivery (upper(state))").await;
    cycle(4).await;
    run(&db, "drop index outbox.more; create index more on outbox.delivery using brin (updated_at)").await;
    cycle(4).await;
    // An index of plain columns is maintained, whatever the code that writes.
    run(
        &db,
        "drop index outbox.more; create index more on outbox.delivery (lease, state); set track_functions = 'all'",
    )
    .await;
    cycle(4).await;
    assert_eq!(statements_ran(&db).await, 0);
    run(&db, "select outbox.enqueue('job', '{}', priority => 1)").await;
    settle(&db).await;
    let found: i64 = one(&db, "select count(*) from outbox.claim('work', 'w')").await;
    assert_eq!(found, 1);
    run(&db, "set enable_seqscan = off; set enable_bitmapscan = off").await;
    let indexed =
        "select count(*) from outbox.delivery d join outbox.lease l on l.id = d.lease where d.state = 'processing'";
    assert_eq!(one::<i64>(&db, indexed).await, 1);
}
