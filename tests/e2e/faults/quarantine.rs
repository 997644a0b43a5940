//! One row never stops the work on other rows. A failure because of a message, a delivery, a lease, a subscription or an
//! endpoint is charged to that object, with the reason, and everything else goes on.
//!
//! The tests cause failures as a superuser, with a trigger that refuses one row on each table that the dispatcher writes,
//! and with values that the functions of the extension would have refused.

use std::time::{Duration, Instant};

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, wait_until};
use outbox_tests::{PATIENCE, bare_server, one, outbox_harness, refused, rows, server, settle};

/// The longest time that a healthy message may take beside a failing message.
const SECONDS: Duration = Duration::from_secs(30);

async fn shop(server: &Server, name: &str, receiver: &Receiver) -> Client {
    let db = server.database(name).await.unwrap();
    db.execute("select outbox.create_endpoint('shop', $1)", &[&receiver.url("/shop")]).await.unwrap();
    db.batch_execute(
        "select outbox.subscribe('orders', '{order.#}', 'shop'); select outbox.subscribe('jobs', '{order.#}')",
    )
    .await
    .unwrap();
    settle(&db).await;
    db
}

/// Enqueues a message and changes it by `change` in the same transaction, before the dispatcher can see the message.
async fn odd(db: &Client, change: &str) -> i64 {
    let id = one(db, "select nextval('outbox._message_id') + 1").await;
    db.batch_execute(&format!(
        "begin; select outbox.enqueue('order.odd', '{{\"n\": -1}}', key => 'k');
        set local session_replication_role = replica;
        update outbox.message m set {change} where m.id = {id};
        commit"
    ))
    .await
    .unwrap();
    id
}

/// Checks that a healthy message arrives at the endpoint and at a worker, within seconds.
async fn goes_on(db: &Client, receiver: &Receiver, n: i64) {
    let begun = Instant::now();
    db.execute("select outbox.enqueue('order.fine', jsonb_build_object('n', $1::bigint))", &[&n]).await.unwrap();
    wait_until("the healthy message arrives", PATIENCE, async || {
        receiver.at("/shop").iter().any(|arrival| arrival.json()["n"] == n)
    })
    .await;
    wait_until("a worker gets the healthy message", PATIENCE, async || {
        let got =
            "select coalesce(bool_or((c.payload ->> 'n')::bigint = $1), false) from outbox.claim('jobs', 'w', 100) c";
        db.query_one(got, &[&n]).await.unwrap().get(0)
    })
    .await;
    assert!(begun.elapsed() < SECONDS, "it took {:?}", begun.elapsed());
    // The dispatcher fails for a moment, until it repeats the failing step row by row.
    wait_until("the dispatcher is well", SECONDS, async || {
        one::<String>(db, "select state from outbox.worker_status()").await != "failing"
    })
    .await;
}

async fn dead(db: &Client, id: i64) -> Vec<(String, String, String)> {
    db.query(
        "select s.name, l.reason, coalesce(l.last_error, '') from outbox.dead_letter l
        join outbox.subscription s on s.id = l.subscription_id where l.message_id = $1 order by 1",
        &[&id],
    )
    .await
    .unwrap()
    .iter()
    .map(|row| (row.get(0), row.get(1), row.get(2)))
    .collect()
}

/// Checks that an unreadable message has a dead letter for each of these subscriptions, and that health reports it.
async fn is_unreadable(db: &Client, id: i64, subscriptions: &[&str]) {
    let letters = dead(db, id).await;
    assert_eq!(letters.iter().map(|(name, ..)| &**name).collect::<Vec<_>>(), subscriptions);
    assert!(letters.iter().all(|(_, reason, error)| reason == "unreadable" && !error.is_empty()), "{letters:?}");
    let said: String = one(db, "select culprit from outbox.health() where \"check\" = 'dead letters'").await;
    assert!(said.contains("is unreadable: "), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_be_read_is_a_dead_letter_and_the_rest_goes_on() {
    let receiver = Receiver::start().unwrap();
    let db = shop(server().await, "unreadable", &receiver).await;
    // The text of the payload would be longer than a gigabyte.
    let change = "payload = (select ('[' || string_agg('1e131071', ',') || ']')::jsonb from generate_series(1, 9000))";
    let id = odd(&db, change).await;
    goes_on(&db, &receiver, 1).await;
    is_unreadable(&db, id, &["jobs", "orders"]).await;
    // The content of the message can still be erased.
    db.batch_execute(&format!("select outbox.erase({id}, reason => 'unreadable')")).await.unwrap();
    goes_on(&db, &receiver, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_storage_costs_what_was_in_it_and_nothing_else() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/shop", |arrival, _| match &arrival.json()["large"] {
        serde_json::Value::Null => Reply::status(200),
        _ => Reply::status(503),
    });
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = shop(&server, "damaged", &receiver).await;
    db.execute("select outbox.create_endpoint('other', $1)", &[&receiver.url("/other")]).await.unwrap();
    db.batch_execute("select outbox.subscribe('to other', '{other}', 'other')").await.unwrap();
    let large = "(select string_agg(md5(random()::text), '') from generate_series(1, 3000))";
    let failing: i64 =
        one(&db, &format!("select outbox.enqueue('order.large', jsonb_build_object('large', {large}))")).await;
    // One message has a payload that is stored out of line, and one a key. The headers of an endpoint are stored out of
    // line, too.
    let payload: i64 =
        one(&db, &format!("select outbox.enqueue('order.a', jsonb_build_object('large', {large}))")).await;
    let key = odd(&db, &format!("key = {large}")).await;
    wait_until("the large ones have failed once", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.delivery d where not d.pull and d.state = 'failed'").await == 2
    })
    .await;
    db.batch_execute(&format!(
        "update outbox.endpoint set headers = jsonb_build_object('x-large', {large}) where name = 'other'"
    ))
    .await
    .unwrap();
    // The workers complete their deliveries first, because a claim of a damaged message would fail.
    db.batch_execute(
        "select outbox.complete(c.lease) from (select distinct lease from outbox.claim('jobs', 'w', 100)) c",
    )
    .await
    .unwrap();
    let mut damaged = Vec::new();
    for table in ["_message_00", "endpoint"] {
        let file: String = one(
            &db,
            &format!("select pg_relation_filepath(reltoastrelid) from pg_class where oid = 'outbox.{table}'::regclass"),
        )
        .await;
        damaged.push(server.data.join(file));
    }
    server.stop(outbox_harness::Stop::Fast).unwrap();
    for file in damaged {
        let size = std::fs::metadata(&file).unwrap().len();
        std::fs::write(&file, vec![0; size as usize]).unwrap();
    }
    server.run().await.unwrap();
    let db = server.connect("damaged").await.unwrap();
    goes_on(&db, &receiver, 1).await;
    let faults = "select count(*) from outbox.fault where kind = 'endpoint' and step = 'load'";
    wait_until("the endpoint is named", PATIENCE, async || one::<i64>(&db, faults).await == 1).await;
    // Deliveries that waited when their messages became unreadable are retried, and a new subscription reads them again.
    db.batch_execute(&format!("select outbox.retry(m, 'orders') from unnest(array[{failing}, {payload}]) m"))
        .await
        .unwrap();
    db.batch_execute("select outbox.subscribe('again', '{order.#}', 'shop', start => 'earliest')").await.unwrap();
    goes_on(&db, &receiver, 2).await;
    wait_until("all are dead letters", PATIENCE, async || dead(&db, key).await.len() == 1).await;
    is_unreadable(&db, failing, &["again", "orders"]).await;
    is_unreadable(&db, payload, &["again", "orders"]).await;
    is_unreadable(&db, key, &["again"]).await;
    db.batch_execute(&format!("select outbox.resend({payload}, 'orders')")).await.unwrap();
    goes_on(&db, &receiver, 3).await;
    wait_until("the try by hand is said to have failed", PATIENCE, async || {
        let tries = "select count(*) from outbox.attempt a where a.run < 0 and a.error like '%cannot be read%'";
        one::<i64>(&db, tries).await == 1
    })
    .await;
    // After the repair, the endpoint gets the waiting message.
    db.batch_execute("select outbox.enqueue('other', '{\"n\": 4}')").await.unwrap();
    settle(&db).await;
    assert_eq!(receiver.at("/other").len(), 0);
    db.batch_execute("update outbox.endpoint set headers = '{}' where name = 'other'").await.unwrap();
    wait_until("it arrives", PATIENCE, async || receiver.at("/other").len() == 1).await;
    wait_until("health is well again", PATIENCE, async || one::<i64>(&db, faults).await == 0).await;
}

/// Tables that the dispatcher writes for single deliveries, and the operations.
const WRITES: [(&str, &str); 6] = [
    ("outbox.delivery", "insert"),
    ("outbox.delivery", "update"),
    ("outbox.delivery", "delete"),
    ("outbox.dead_letter", "insert"),
    ("outbox._bundle", "insert"),
    ("outbox._freed_key", "insert"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_cannot_be_written_is_charged_and_the_rest_goes_on() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/shop", |arrival, _| match arrival.json()["kind"].as_str() {
        Some("fails") => Reply::status(503),
        Some("dies") => Reply::status(422),
        _ => Reply::status(200),
    });
    let db = shop(server().await, "unwritable", &receiver).await;
    db.batch_execute(
        "create table marked (id bigint);
        create function refuse() returns trigger language plpgsql as $$
        declare row record; begin
            row := case when tg_op = 'DELETE' then old else new end;
            if to_jsonb(row) ->> 'message_id' in (select id::text from public.marked)
                or to_jsonb(row) -> 'message_ids' @> any (select to_jsonb(array[id]) from public.marked)
                or tg_table_name = '_freed_key' and to_jsonb(row) ->> 'key' = 'marked' then
                if (select backend_type from pg_stat_activity where pid = pg_backend_pid()) = 'pg_outbox dispatcher' then
                    raise exception 'injected' using errcode = 'data_exception';
                end if;
            end if;
            return row;
        end $$;
        select outbox.subscribe('ordered', '{order.#}', 'shop', ordering => 'key', max_attempts => 2, schedule => '[1]')",
    )
    .await
    .unwrap();
    let mut n = 100;
    for (table, operation) in WRITES {
        db.batch_execute(&format!(
            "create trigger refuse before {operation} on {table} for each row execute function public.refuse()"
        ))
        .await
        .unwrap();
        for kind in ["works", "fails", "dies"] {
            // Three messages have the same key, so that they are ordered. The other 120 are enough for a bundle.
            let ids = rows(
                &db,
                &format!(
                    "begin; insert into marked select outbox.enqueue('order.odd', '{{\"n\": -1, \"kind\": \"{kind}\"}}', key => 'marked')
                    from generate_series(1, 3);
                    select outbox.enqueue('order.some', '{{\"n\": -2}}') from generate_series(1, 120);
                    commit; select id from marked order by id desc limit 3"
                ),
            )
            .await;
            n += 1;
            goes_on(&db, &receiver, n).await;
            assert!(!ids.is_empty());
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        n += 1;
        goes_on(&db, &receiver, n).await;
        db.batch_execute(&format!("drop trigger refuse on {table}; truncate marked")).await.unwrap();
    }
    // Failures are reported as dead letters or as faults.
    let faults: i64 = one(&db, "select count(*) from outbox.fault where kind = 'message' and error = 'injected'").await;
    let letters: i64 = one(&db, "select count(*) from outbox.dead_letter where reason = 'unrecordable'").await;
    assert!(faults > 0 && letters > 0, "{faults} faults, {letters} dead letters");
    let said: String = one(&db, "select culprit from outbox.health() where \"check\" = 'faults'").await;
    assert!(said.contains("injected"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_cannot_be_read_hold_their_own_subscription_or_endpoint_only() {
    let receiver = Receiver::start().unwrap();
    let db = shop(server().await, "unloadable", &receiver).await;
    db.execute("select outbox.create_endpoint('other', $1)", &[&receiver.url("/other")]).await.unwrap();
    db.batch_execute("select outbox.subscribe('to other', '{order.#}', 'other')").await.unwrap();
    goes_on(&db, &receiver, 1).await;
    let others = |receiver: &Receiver| receiver.at("/other").len();
    wait_until("it has arrived there, too", PATIENCE, async || others(&receiver) == 1).await;
    for (n, broken, mended, culprit) in [
        (
            2,
            "update outbox.subscription set schedule = '{\"what\": 1}' where name = 'to other'",
            "update outbox.subscription set schedule = null where name = 'to other'",
            "subscription",
        ),
        (
            4,
            "update outbox.subscription_version set filter = '{\"what\": 1}' where subscription_id = (
                select id from outbox.subscription where name = 'to other')",
            "update outbox.subscription_version set filter = null where subscription_id = (
                select id from outbox.subscription where name = 'to other')",
            "subscription",
        ),
    ] {
        let before = others(&receiver);
        db.batch_execute(broken).await.unwrap();
        // A change of a proxy makes the dispatcher read the whole configuration.
        db.batch_execute("select outbox_internal.enqueue_own('outbox.control', '{\"proxy\": \"none\"}')")
            .await
            .unwrap();
        goes_on(&db, &receiver, n).await;
        wait_until("health names it", PATIENCE, async || {
            one::<Option<String>>(
                &db,
                "select culprit from outbox.health() where \"check\" = 'faults' and state <> 'ok'",
            )
            .await
            .is_some_and(|said| said.contains(culprit))
        })
        .await;
        assert_eq!(others(&receiver), before, "it waits");
        db.batch_execute(mended).await.unwrap();
        goes_on(&db, &receiver, n + 1).await;
        wait_until("it has both", PATIENCE, async || others(&receiver) >= before + 2).await;
        wait_until("health is well again", PATIENCE, async || {
            one::<i64>(&db, "select count(*) from outbox.fault").await == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_and_durations_that_nothing_can_be_added_to_are_refused() {
    let db = server().await.database("absurd_times").await.unwrap();
    db.batch_execute("select outbox.create_endpoint('e', 'http://127.0.0.1:9/'); select outbox.subscribe('s', '{x}')")
        .await
        .unwrap();
    for at in ["infinity", "-infinity", "10000-01-01 00:00+00", "294276-12-31 23:59:59+00", "0001-01-01 BC"] {
        for column in ["deliver_at", "expires_at", "occurred_at"] {
            let error = refused(&db, &format!("select outbox.enqueue('x', '1', {column} => '{at}')")).await;
            assert_eq!(
                (error.code().code(), error.message()),
                ("22023", &*format!("{column} is out of range")),
                "{at}"
            );
        }
    }
    for long in ["200 years", "300000 years", "178000000 years", "0", "-1 s"] {
        for setting in ["ttl", "max_age", "deadline", "max_lag"] {
            let error = refused(&db, &format!("select outbox.alter_subscription('s', {setting} => '{long}')")).await;
            assert_eq!(error.code().code(), "22023", "{setting} {long}");
        }
        let error = refused(&db, &format!("select outbox.alter_endpoint('e', disable_after => '{long}')")).await;
        assert_eq!(error.code().code(), "22023", "{long}");
    }
    // Values that older rows may contain can be read.
    db.batch_execute("update outbox.subscription set ttl = '170000000 years', max_age = '170000000 years'; \
        update outbox.endpoint set disable_after = '170000000 years'; select outbox.create_endpoint('another', 'http://127.0.0.1:9/'); \
        select outbox.enqueue('x', '1', deliver_at => '9999-12-31')").await.unwrap();
    settle(&db).await;
    assert_eq!(one::<String>(&db, "select state from outbox.worker_status()").await, "running");
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.fault").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_is_limited_as_text_as_well() {
    let db = server().await.database("as_text").await.unwrap();
    for value in [
        "(select ('[' || string_agg('1e131071', ',') || ']')::jsonb from generate_series(1, 3))",
        "'{\"a\": {\"b\": [1, 1e300000]}}'",
        "('[' || repeat('1e-16383,', 20) || '1]')::jsonb",
    ] {
        let error = refused(&db, &format!("select outbox.enqueue('x', {value})")).await;
        assert!(["54000", "22003", "22P02"].contains(&error.code().code()), "{value}: {error:?}");
    }
    // The limit applies to the length of the text. These values are below the limit.
    let exact: i64 = one(
        &db,
        "select count(*) from (values ('[1e1000, -1e-1000, 12345.678, 0, 1e5]'::jsonb), (to_jsonb(1e4000))) v(j), \
        lateral (select outbox.enqueue('x', v.j)) e",
    )
    .await;
    assert_eq!(exact, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_of_large_messages_is_not_in_memory_at_once() {
    let receiver = Receiver::start().unwrap();
    let db = shop(server().await, "large_chunk", &receiver).await;
    db.batch_execute("select outbox.unsubscribe('jobs')").await.unwrap();
    let pid: i32 = one(&db, "select pid from outbox.worker_status()").await;
    let peak = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap() / 1024
    };
    let before = peak();
    db.batch_execute(
        "select count(outbox.enqueue('order.large', jsonb_build_object('n', n, 't', repeat(md5(n::text), 7800))))
        from generate_series(1, 600) n",
    )
    .await
    .unwrap();
    settle(&db).await;
    assert_eq!(receiver.at("/shop").len(), 600);
    let grown = peak() - before;
    assert!(grown < 110, "150 MB of messages took {grown} MB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_filters_together_have_a_tenth_of_the_dispatcher() {
    let receiver = Receiver::start().unwrap();
    let db = shop(server().await, "slow_filters", &receiver).await;
    db.batch_execute(
        "select outbox.subscribe('slow ' || n, '{heavy}', 'shop', filter => '{\"payload\": \"$[*] ? ($[*] > 5000 || $[*] < 0)\"}')
        from generate_series(1, 12) n;
        select outbox.subscribe('quick', '{order.#}', 'shop', filter => '{\"payload\": \"$.n >= 0\"}')",
    )
    .await
    .unwrap();
    settle(&db).await;
    let begun = Instant::now();
    for n in 1..=40 {
        if n % 4 == 1 {
            db.batch_execute("select outbox.enqueue('heavy', (select jsonb_agg(g) from generate_series(1, 3000) g))")
                .await
                .unwrap();
        }
        db.execute("select outbox.enqueue('order.fine', jsonb_build_object('n', $1::bigint))", &[&i64::from(n)])
            .await
            .unwrap();
        wait_until("both deliveries arrive", PATIENCE, async || {
            receiver.at("/shop").iter().filter(|arrival| arrival.json()["n"] == n).count() == 2
        })
        .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let broken: i64 = one(&db, "select count(*) from outbox.dead_letter where reason = 'filter_failed'").await;
    // Each of them was stopped after pg_outbox.filter_timeout.
    let share = broken as f64 * 0.1 / begun.elapsed().as_secs_f64();
    assert!(broken > 0 && share < 0.3, "{broken} evaluations, {share:.2} of the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_dispatcher_a_claim_passes_over_what_cannot_be_read() {
    let db = bare_server().await.database("unreadable_inline").await.unwrap();
    db.batch_execute("select outbox.subscribe('jobs', '{order.#}')").await.unwrap();
    db.batch_execute("select outbox.tick()").await.unwrap();
    let change = "payload = (select ('[' || string_agg('1e131071', ',') || ']')::jsonb from generate_series(1, 9000))";
    let id = odd(&db, change).await;
    let fine: i64 = one(&db, "select outbox.enqueue('order.fine', '{}')").await;
    let claimed = rows(&db, "select message_id from outbox.claim('jobs', 'w', 10)").await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0]["message_id"], Some(fine.to_string()));
    assert_eq!(dead(&db, id).await[0].1, "unreadable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_cannot_be_taken_back_keeps_no_other() {
    let receiver = Receiver::start().unwrap();
    let db = shop(server().await, "lease_faults", &receiver).await;
    db.batch_execute(
        "create function refuse() returns trigger language plpgsql as $$ begin
            if old.worker = 'marked' then raise exception 'injected' using errcode = 'data_exception'; end if;
            return old;
        end $$;
        create trigger refuse before delete on outbox.lease for each row execute function refuse();
        select outbox.enqueue('order.a', '{\"n\": 1}')",
    )
    .await
    .unwrap();
    settle(&db).await;
    db.batch_execute("select from outbox.claim('jobs', 'marked', 1, lease => '1 s')").await.unwrap();
    db.batch_execute("select outbox.enqueue('order.b', '{\"n\": 2}')").await.unwrap();
    settle(&db).await;
    assert_eq!(rows(&db, "select * from outbox.claim('jobs', 'other', 1, lease => '1 s')").await.len(), 1);
    wait_until("the other lease has been taken back", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.lease where worker = 'other'").await == 0
    })
    .await;
    wait_until("the fault is noted", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.fault where kind = 'lease' and step = 'take back'").await == 1
    })
    .await;
    goes_on(&db, &receiver, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_table_of_locks_is_charged_to_nobody() {
    let receiver = Receiver::start().unwrap();
    // The first request fails, so that a retry has to read its message again.
    receiver.on("/shop", |_, n| Reply::status(if n == 0 { 503 } else { 200 }));
    let settings = [("pg_outbox.poll_interval", "1s"), ("max_connections", "12"), ("max_locks_per_transaction", "10")];
    let server = Server::start(&settings).await.unwrap();
    let db = shop(&server, "locks", &receiver).await;
    let hog = server.connect("locks").await.unwrap();
    // The transaction takes its locks before the lock table is full, so that it can commit.
    db.batch_execute(
        "begin; select outbox.enqueue('order.fine', jsonb_build_object('n', n)) from generate_series(1, 20) n",
    )
    .await
    .unwrap();
    let full = refused(&hog, "select pg_advisory_lock(n) from generate_series(1, 1000000) n").await;
    assert_eq!(full.code().code(), "53200", "{full}");
    db.batch_execute("commit").await.unwrap();
    let tries = |server: &Server| {
        server.log().lines().filter(|line| line.contains("out of shared memory") && line.contains("dispatcher")).count()
    };
    wait_until("the dispatcher has failed often", PATIENCE, async || tries(&server) > 8).await;
    drop(hog);
    wait_until("all arrive", PATIENCE, async || {
        (1..=20).all(|n| receiver.at("/shop").iter().any(|arrival| arrival.json()["n"] == n))
    })
    .await;
    settle(&db).await;
    let charged =
        "select (select count(*) from outbox.dead_letter) + (select count(*) from outbox.fault where kind <> 'server')";
    assert_eq!(one::<i64>(&db, charged).await, 0, "{:?}", rows(&db, "select kind, error from outbox.fault").await);
}
