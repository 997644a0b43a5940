//! Transforms: functions of the user that make the payload of a subscription's deliveries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Arrival, Receiver, Reply, Server, Stop, wait_until};
use outbox_tests::{PATIENCE, bare_server, one, outbox_harness, refused, rows, server, settle};
use serde_json::{Value, json};

async fn run(db: &Client, sql: &str) {
    db.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", outbox_tests::explain(&e)));
}

/// A function that keeps n, returns null for multiples of 5, and fails for multiples of 7.
const PUBLIC_PART: &str =
    "create function public.public_part(message outbox.feed_message) returns jsonb language plpgsql stable as $$
    begin
        if (message.payload ->> 'n')::int % 7 = 0 then
            raise exception 'no part of it is public' using errcode = 'P0777', detail = message.payload::text;
        elsif (message.payload ->> 'n')::int % 5 = 0 then
            return null;
        end if;
        return jsonb_build_object('n', message.payload -> 'n', 'of', message.key);
    end $$";

async fn shop(name: &str, receiver: &Receiver) -> Client {
    let db = server().await.database(name).await.unwrap();
    run(&db, PUBLIC_PART).await;
    db.execute("select outbox.create_endpoint('e', $1)", &[&receiver.url("/e")]).await.unwrap();
    db
}

async fn enqueue(db: &Client, from: i32, to: i32) {
    db.execute(
        "select outbox.enqueue('order.created', jsonb_build_object('n', n, 'secret', 'x' || n), 'k')
        from generate_series($1::int, $2) n",
        &[&from, &to],
    )
    .await
    .unwrap();
}

const FUNCTION: &str = "public.public_part(outbox.feed_message)";

fn made(n: i64) -> Value {
    json!({"n": n, "of": "k"})
}

fn bodies(receiver: &Receiver) -> Vec<Value> {
    let mut bodies: Vec<Value> = receiver.at("/e").iter().map(Arrival::json).collect();
    bodies.sort_by_key(|body| body["n"].as_i64());
    bodies
}

/// The endings of a subscription's deliveries without an attempt, and their errors.
async fn ends(db: &Client) -> Vec<(String, String, String)> {
    let found = rows(
        db,
        "select a.outcome, a.error, coalesce(l.reason, '') as reason from outbox.attempt a
        left join outbox.dead_letter l on l.message_id = a.message_id and l.subscription_id = a.subscription_id
        where a.attempt = 0 order by a.position, a.run",
    )
    .await;
    let text = |row: &BTreeMap<String, Option<String>>, name: &str| row[name].clone().unwrap_or_default();
    found.iter().map(|row| (text(row, "outcome"), text(row, "reason"), text(row, "error"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_gets_what_the_transform_has_made_and_nothing_else() {
    let receiver = Receiver::start().unwrap();
    let db = shop("transform_push", &receiver).await;
    run(
        &db,
        &format!("select outbox.subscribe('s', '{{order.#}}', 'e', ordering => 'key', transform => '{FUNCTION}')"),
    )
    .await;
    // A first attempt that fails makes rows of it and of the deliveries that wait for it.
    receiver.on("/e", |_, n| Reply::status(if n % 3 == 0 { 500 } else { 200 }));
    run(&db, "select outbox.alter_subscription('s', schedule => '[0.05]')").await;
    enqueue(&db, 1, 9).await;
    let wanted: Vec<i64> = vec![1, 2, 3, 4, 6, 8, 9];
    wait_until("all are completed", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.attempt where outcome = 'completed'").await == wanted.len() as i64
    })
    .await;
    settle(&db).await;
    let mut got = bodies(&receiver);
    assert!(got.len() > wanted.len(), "nothing was tried again");
    got.dedup();
    assert_eq!(got, wanted.iter().map(|n| made(*n)).collect::<Vec<_>>());
    assert_eq!(
        ends(&db).await,
        [
            ("skipped".to_owned(), String::new(), "filtered".to_owned()),
            ("dead".to_owned(), "transform_failed".to_owned(), "P0777: no part of it is public".to_owned())
        ]
    );
    let counted = rows(&db, "select distinct outcome from outbox.counter where outcome in ('skipped', 'dead')").await;
    assert_eq!(counted.len(), 2, "{counted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_claim_what_the_transform_has_made_of_messages_and_events() {
    let db = server().await.database("transform_pull").await.unwrap();
    run(
        &db,
        "create function public.describe(m outbox.feed_message) returns jsonb language sql immutable return
            jsonb_build_object('position', m.position > 0, 'type', m.topic, 'key', m.key, 'version', m.version,
                'category', m.aggregate_type, 'was', coalesce(m.payload, to_jsonb(convert_from(m.body, 'UTF8'))));
        select outbox.subscribe('all', '{#}', source => 'all', transform => 'public.describe(outbox.feed_message)');
        select outbox.subscribe('plain', '{#}', source => 'all');
        select outbox.append('cart-7', 'cart.opened', '{\"n\": 1}', event_id => 'a0000000-0000-0000-0000-000000000001');
        select outbox.enqueue('order.created', '{\"n\": 2}', 'k');
        select outbox.enqueue_bytes('order.created', 'three', 'text/plain')",
    )
    .await;
    settle(&db).await;
    let columns = "payload, body is null as no_body, content_type, topic, key, version, event_id";
    let claimed = rows(&db, &format!("select {columns} from outbox.claim('all', 'w', 10)")).await;
    let payloads: Vec<Value> =
        claimed.iter().map(|row| serde_json::from_str(row["payload"].as_deref().unwrap()).unwrap()).collect();
    let described = |kind: &str, key: Value, version: Value, category: Value, was: Value| json!({"position": true, "type": kind, "key": key, "version": version, "category": category, "was": was});
    assert_eq!(
        payloads,
        [
            described("cart.opened", json!("cart-7"), json!(1), json!("cart"), json!({"n": 1})),
            described("order.created", json!("k"), Value::Null, Value::Null, json!({"n": 2})),
            described("order.created", Value::Null, Value::Null, Value::Null, json!("three")),
        ]
    );
    for row in &claimed {
        assert_eq!((row["no_body"].as_deref(), row["content_type"].as_deref()), (Some("t"), None));
    }
    assert_eq!(claimed[0]["version"].as_deref(), Some("1"));
    assert_eq!(claimed[0]["event_id"].as_deref(), Some("a0000000-0000-0000-0000-000000000001"));
    assert_eq!((&claimed[1]["version"], &claimed[1]["event_id"]), (&None, &None));
    // The subscription without a transform gets what was enqueued.
    let plain = rows(&db, "select payload->'n' as n from outbox.claim('plain', 'w', 10)").await;
    let numbers: Vec<Option<&str>> = plain.iter().map(|row| row["n"].as_deref()).collect();
    assert_eq!(numbers, [Some("1"), Some("2"), None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_dispatcher_claims_call_the_transform() {
    let db = bare_server().await.database("transform_inline").await.unwrap();
    run(&db, PUBLIC_PART).await;
    run(&db, &format!("select outbox.subscribe('jobs', '{{order.#}}', transform => '{FUNCTION}')")).await;
    run(&db, "select outbox.tick()").await;
    enqueue(&db, 4, 8).await;
    let claimed = rows(&db, "select payload from outbox.claim('jobs', 'w', 10)").await;
    let payloads: Vec<Value> =
        claimed.iter().map(|row| serde_json::from_str(row["payload"].as_deref().unwrap()).unwrap()).collect();
    assert_eq!(payloads, [made(4), made(6), made(8)]);
    let outcomes: Vec<String> = ends(&db).await.into_iter().map(|(outcome, ..)| outcome).collect();
    assert_eq!(outcomes, ["skipped", "dead"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requeued_a_resent_and_a_replayed_message_goes_through_the_transform() {
    let receiver = Receiver::start().unwrap();
    let db = shop("transform_again", &receiver).await;
    run(&db, &format!("select outbox.subscribe('s', '{{order.#}}', 'e', transform => '{FUNCTION}')")).await;
    run(&db, "select outbox.subscribe('after', '{#}')").await;
    enqueue(&db, 5, 8).await;
    settle(&db).await;
    assert_eq!(bodies(&receiver), [made(6), made(8)]);
    let letter: i64 = one(&db, "select id from outbox.dead_letter where reason = 'transform_failed'").await;
    // As long as the transform fails, the message is not sent, by whatever way.
    let error = refused(&db, &format!("select outbox.requeue({letter})")).await;
    assert_eq!(
        (error.code().code(), error.detail()),
        ("OB004", Some("The transform failed: P0777: no part of it is public."))
    );
    assert_eq!(one::<i64>(&db, "select outbox.requeue_all()").await, 0);
    let failed: i64 = one(&db, &format!("select message_id from outbox.dead_letter where id = {letter}")).await;
    assert_eq!(refused(&db, &format!("select outbox.resend({failed}, 's')")).await.code().code(), "OB004");
    let error = refused(&db, &format!("select outbox.resend({failed} - 2, 's')")).await;
    assert_eq!(error.detail(), Some("The transform returned null."));
    run(&db, "select outbox.replay('s')").await;
    wait_until("the replay is over", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.replay where state = 'completed'").await == 1
    })
    .await;
    settle(&db).await;
    assert_eq!(bodies(&receiver), [made(6), made(6), made(8), made(8)]);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.dead_letter where reason = 'transform_failed'").await, 2);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.attempt where outcome = 'skipped' and run > 0").await, 1);
    // The corrected function holds for the dead letters, and for what is sent by hand.
    run(
        &db,
        "create or replace function public.public_part(message outbox.feed_message) returns jsonb language sql stable
            return jsonb_build_object('n', message.payload -> 'n', 'corrected', true)",
    )
    .await;
    assert_eq!(one::<i64>(&db, "select outbox.requeue_all(max_rows => 1)").await, 1);
    run(&db, &format!("select outbox.resend({failed} - 2, 's')")).await;
    wait_until("both arrive", PATIENCE, async || receiver.at("/e").len() == 6).await;
    settle(&db).await;
    let corrected = |n: i64| json!({"n": n, "corrected": true});
    assert_eq!(bodies(&receiver), [corrected(5), made(6), made(6), corrected(7), made(8), made(8)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_after_a_crash_or_a_failure_never_have_the_messages_own_payload() {
    let receiver = Receiver::start().unwrap();
    let mut server = outbox_harness::Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("transform_crash").await.unwrap();
    run(&db, PUBLIC_PART).await;
    db.execute("select outbox.create_endpoint('e', $1)", &[&receiver.url("/e")]).await.unwrap();
    run(
        &db,
        &format!("select outbox.subscribe('s', '{{order.#}}', 'e', schedule => '[0.2]', transform => '{FUNCTION}')"),
    )
    .await;
    settle(&db).await;
    // The first request hangs, so its position is open in the checkpoint that has the later ones.
    let hangs = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&hangs);
    receiver.on("/e", move |arrival, n| match arrival.json()["n"].as_i64() {
        Some(1) if state.load(Ordering::SeqCst) => Reply::status(200).after(PATIENCE),
        _ => Reply::status(if n % 2 == 0 { 500 } else { 200 }),
    });
    enqueue(&db, 1, 6).await;
    wait_until("a later one is completed", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.attempt where outcome = 'completed'").await > 0
    })
    .await;
    hangs.store(false, Ordering::SeqCst);
    server.restart(Stop::Immediate).await.unwrap();
    let db = server.connect("transform_crash").await.unwrap();
    wait_until("all are completed", PATIENCE, async || {
        one::<i64>(&db, "select count(distinct position) from outbox.attempt where outcome = 'completed'").await == 5
    })
    .await;
    let mut got = bodies(&receiver);
    got.dedup();
    assert_eq!(got, [made(1), made(2), made(3), made(4), made(6)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transform_that_takes_too_long_is_its_subscriptions_failure_alone() {
    let receiver = Receiver::start().unwrap();
    let db = shop("transform_slow", &receiver).await;
    run(
        &db,
        "create function public.slow(m outbox.feed_message) returns jsonb language plpgsql stable as $$
            begin
                if m.payload ->> 'n' = '1' then loop null; end loop; end if;
                return m.payload - 'secret';
            end $$;
        select outbox.subscribe('slow', '{order.#}', transform => 'public.slow(outbox.feed_message)');
        select outbox.subscribe('quick', '{order.#}', 'e')",
    )
    .await;
    enqueue(&db, 1, 3).await;
    wait_until("the quick one has all", PATIENCE, async || receiver.at("/e").len() == 3).await;
    wait_until("the slow one has what is quick", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.delivery where payload ->> 'n' in ('2', '3')").await == 2
    })
    .await;
    let letters = rows(&db, "select reason, last_error from outbox.dead_letter").await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["reason"].as_deref(), Some("transform_failed"));
    assert_eq!(letters[0]["last_error"].as_deref(), Some("57014: it took longer than pg_outbox.transform_timeout"));
}

/// Transforms that catch their cancellation, that end the process, and that keep the session's locks.
const HOSTILE: &str = "
    create function public.catches(m outbox.feed_message) returns jsonb language plpgsql stable as $$
    begin
        loop
            begin
                loop end loop;
            exception when query_canceled then null;
            end;
        end loop;
    end $$;
    create function public.exits(m outbox.feed_message) returns jsonb language plpgsql stable as $$
    begin
        perform set_config('exit_on_error', 'on', true);
        raise exception 'over';
    end $$;
    create function public.locks(m outbox.feed_message) returns jsonb language plpgsql stable as $$
    begin
        perform pg_advisory_unlock_all();
        perform pg_advisory_lock(77);
        return '1';
    end $$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transform_that_will_not_end_or_ends_the_process_does_so_once() {
    let server = Server::start(&[]).await.unwrap();
    let db = server.database("hostile").await.unwrap();
    run(&db, HOSTILE).await;
    for name in ["catches", "exits", "locks"] {
        let sql = format!(
            "select outbox.subscribe('{name}', '{{order.#}}', transform => 'public.{name}(outbox.feed_message)')"
        );
        run(&db, &sql).await;
    }
    run(&db, "select outbox.subscribe('plain', '{order.#}')").await;
    for round in 1..=3 {
        enqueue(&db, round, round).await;
        wait_until("the healthy subscriptions have it", 3 * PATIENCE, async || {
            let sql = "select count(*) from outbox.delivery d join outbox.subscription s on s.id = d.subscription_id
                where s.name in ('plain', 'locks')";
            one::<i64>(&db, sql).await == i64::from(2 * round)
        })
        .await;
    }
    let sql = "select count(*) from outbox.dead_letter where reason = 'transform_failed' and last_error like '57P01: it has ended the dispatcher%'";
    wait_until("both are not called again", 3 * PATIENCE, async || one::<i64>(&db, sql).await == 6).await;
    // The lock of the dispatcher is held, and that of the transform is not.
    let held = "select array_agg(objid::int) from pg_locks where locktype = 'advisory'
        and pid in (select pid from pg_stat_activity where backend_type = 'pg_outbox dispatcher')";
    wait_until("the transform's lock is released", PATIENCE, async || one::<Vec<i32>>(&db, held).await == [0]).await;
    assert!(!server.log().contains("was terminated by signal"));
    // A function that is replaced is called again.
    let again = "create or replace function public.exits(m outbox.feed_message) returns jsonb stable return '2'::jsonb";
    run(&db, again).await;
    enqueue(&db, 4, 4).await;
    let mended = "select count(*) from outbox.delivery d join outbox.subscription s on s.id = d.subscription_id where s.name = 'exits'";
    wait_until("the new function is called", PATIENCE, async || one::<i64>(&db, mended).await == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transform_runs_with_the_rights_of_its_owner_and_changes_nothing() {
    let server = server().await;
    let db = server.database("transform_rights").await.unwrap();
    let password = server.password();
    run(
        &db,
        &format!(
            "create role transformer login password '{password}'; create role other_owner;
            select outbox.grant_to('transformer', 'admin');
            create schema app authorization transformer;
            create table public.secret as select 42 as n;
            create table app.names (k text, name text); alter table app.names owner to transformer;
            insert into app.names values ('k', 'Kay');
            set role transformer;
            create function app.name_of(m outbox.feed_message) returns jsonb language sql stable
                return to_jsonb((select n.name || ' as ' || current_user from app.names n where n.k = m.key));
            create function app.spy(m outbox.feed_message) returns jsonb language plpgsql stable as
                $$ begin return (select to_jsonb(s.n) from public.secret s); end $$;
            create function app.write() returns void language sql volatile begin atomic
                insert into app.names values ('written', current_user); end;
            create function app.writer(m outbox.feed_message) returns jsonb language plpgsql stable as
                $$ begin perform app.write(); return '{{}}'; end $$;
            create function app.free(m outbox.feed_message) returns jsonb language sql volatile as 'select null::jsonb';
            reset role;
            create function public.foreign_part(m outbox.feed_message) returns jsonb language sql stable as 'select null::jsonb'"
        ),
    )
    .await;
    let admin =
        outbox_harness::postgres::connect(&server.dsn("transform_rights").replacen("postgres:", "transformer:", 1))
            .await
            .unwrap();
    let subscribe = |name: &str, function: &str| {
        format!("select outbox.subscribe('{name}', '{{order.#}}', transform => '{function}(outbox.feed_message)')")
    };
    let error = refused(&admin, &subscribe("foreign", "public.foreign_part")).await;
    assert_eq!(error.code().code(), "42501");
    assert_eq!(refused(&admin, &subscribe("free", "app.free")).await.code().code(), "22023");
    for name in ["name_of", "spy", "writer"] {
        run(&admin, &subscribe(name, &format!("app.{name}"))).await;
    }
    let foreign = "select outbox.alter_subscription('spy', transform => 'public.foreign_part(outbox.feed_message)')";
    assert_eq!(refused(&admin, foreign).await.code().code(), "42501");
    enqueue(&db, 1, 1).await;
    settle(&db).await;
    let made: Vec<Value> = rows(&db, "select payload from outbox.delivery order by subscription_id")
        .await
        .iter()
        .map(|row| serde_json::from_str(row["payload"].as_deref().unwrap()).unwrap())
        .collect();
    assert_eq!(made, [json!("Kay as transformer"), json!({})]);
    let error: String = one(&db, "select last_error from outbox.dead_letter").await;
    assert_eq!(error, "42501: permission denied for table secret");
    // The write of the transform was undone.
    assert_eq!(one::<i64>(&db, "select count(*) from app.names").await, 1);
    // With another owner the function is not called.
    run(&db, "alter function app.name_of(outbox.feed_message) owner to other_owner; grant usage on schema app to other_owner").await;
    enqueue(&db, 2, 2).await;
    wait_until("the delivery is a dead letter", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.dead_letter where last_error like '%gone, or has another owner'")
            .await
            == 1
    })
    .await;
}
