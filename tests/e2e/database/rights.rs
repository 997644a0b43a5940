//! Rights: capabilities reach as far as they were granted, only the worker of a lease knows its number, locks end with their
//! call, and no secret is logged. The script `privileges` of the tier `regress` lists the privileges of each capability.

use std::time::Duration;

use outbox_harness::postgres::connect;
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Server, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, refused, rows, server, settle};

/// Opens a session of a role, and creates the role if there is none.
async fn login(server: &Server, database: &str, role: &str) -> Client {
    let db = server.connect(database).await.unwrap();
    db.batch_execute(&format!(
        "do $$ begin create role {role} login password '{}'; exception when duplicate_object then null; end $$",
        server.password()
    ))
    .await
    .unwrap();
    connect(&server.dsn(database).replacen("postgres:", &format!("{role}:"), 1)).await.unwrap()
}

async fn code(db: &Client, statement: &str) -> String {
    refused(db, statement).await.code().code().to_owned()
}

async fn texts(db: &Client, query: &str) -> Vec<String> {
    db.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_cannot_be_guessed_nor_read_from_a_table() {
    let db = server().await.database("leases").await.unwrap();
    db.batch_execute(
        "create role lease_thief; select outbox.grant_to('lease_thief', 'consume'), outbox.grant_to('lease_thief', 'monitor');
        select outbox.subscribe('jobs', '{job.#}')",
    )
    .await
    .unwrap();
    // The deliveries with a priority are claimed one by one, the others as bundles.
    db.batch_execute("select outbox.enqueue('job.a', '{}', priority => 1) from generate_series(1, 40)").await.unwrap();
    db.batch_execute("select outbox.enqueue('job.a', '{}') from generate_series(1, 400)").await.unwrap();
    settle(&db).await;
    let mut leases: Vec<i64> = Vec::new();
    for most in [1; 20].into_iter().chain([100; 3]) {
        let claim = format!("select distinct lease from outbox.claim('jobs', 'w', {most})");
        leases.push(db.query_one(&claim, &[]).await.unwrap().get(0));
    }
    let held: i64 = one(&db, "select count(*) from outbox.delivery_status where state = 'processing'").await;
    assert!(held >= 120, "{held}");

    // A thief may try numbers near a known lease, small numbers, and all stored numbers.
    let mut guesses: Vec<i64> = (0..200).collect();
    guesses.extend(
        leases.iter().flat_map(|lease| (1..10).flat_map(move |d| [lease.wrapping_add(d), lease.wrapping_sub(d)])),
    );
    guesses.retain(|guess| !leases.contains(guess));
    db.batch_execute("set role lease_thief").await.unwrap();
    let columns = texts(
        &db,
        "select format('select %I::bigint from outbox.%I where %I is not null', a.attname, c.relname, a.attname)
        from pg_attribute a join pg_class c on c.oid = a.attrelid
        where c.relnamespace = 'outbox'::regnamespace and c.relkind in ('r', 'v', 'p') and a.attnum > 0
            and a.atttypid = any ('{int8,int4,int2}'::regtype[]) and has_table_privilege(c.oid, 'select')",
    )
    .await;
    assert!(columns.len() > 30);
    for column in &columns {
        let seen = db.query(column, &[]).await.unwrap();
        guesses.extend(seen.iter().map(|row| row.get::<_, i64>(0)));
    }
    assert!(!guesses.iter().any(|guess| leases.contains(guess)), "no table has a lease");
    for call in ["complete(g)", "dead(g, null, 'x')", "fail(g, null, 'x')", "release(g)"] {
        let changed: i64 = db
            .query_one(
                &format!("select coalesce(sum(cardinality(outbox.{call})), 0) from unnest($1::bigint[]) g"),
                &[&guesses],
            )
            .await
            .unwrap()
            .get(0);
        assert_eq!(changed, 0, "{call}");
    }
    for guess in guesses.iter().rev().take(50) {
        assert_eq!(code(&db, &format!("select outbox.extend({guess})")).await, "OB003");
        assert_eq!(code(&db, &format!("select outbox.complete_and_claim({guess}, 'jobs', 'thief')")).await, "OB003");
    }
    db.batch_execute("reset role").await.unwrap();
    // The leases still end their deliveries.
    let done: i64 = db
        .query_one("select sum(cardinality(outbox.complete(g))) from unnest($1::bigint[]) g", &[&leases])
        .await
        .unwrap()
        .get(0);
    assert_eq!(done, held);
    leases.sort_unstable();
    assert!(leases.windows(2).all(|pair| pair[1] - pair[0] > 1 << 20), "{leases:?}");
    assert!(leases.iter().all(|lease| *lease < 1 << 53), "a number of JSON holds it: {leases:?}");
    // Repeated guesses are slowed down.
    let slow = "select clock_timestamp() - statement_timestamp() > interval '0.4 s' from (select count(outbox.complete(g)) from generate_series(1, 500) g) n";
    assert!(one::<bool>(&db, slow).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_holds_the_dispatcher_up_beyond_a_call() {
    let server = server().await;
    let db = server.database("beyond").await.unwrap();
    let admin = login(server, "beyond", "beyond_admin").await;
    db.batch_execute(
        "create role beyond_worker; select outbox.grant_to('beyond_worker', 'consume'), outbox.grant_to('beyond_admin', 'admin');
        select outbox.subscribe('jobs', '{job.#}'); create schema beyond authorization beyond_admin",
    )
    .await
    .unwrap();
    assert_eq!(code(&db, "set role beyond_worker; select outbox.tick()").await, "42501");
    db.batch_execute("reset role").await.unwrap();

    for call in ["tick()", "maintain()", "rotate()", "purge('completed', '1 day')", "adopt()"] {
        for statement in [
            format!("begin; select outbox.{call}"),
            format!("begin; savepoint s; select outbox.{call}"),
            format!("do $$ begin perform outbox.{call}; end $$"),
        ] {
            let error = refused(&admin, &statement).await;
            assert_eq!(error.code().code(), "25001", "{statement}");
            assert!(error.hint().is_some_and(|hint| hint.contains("autocommit")), "{error:?}");
            admin.batch_execute("rollback").await.unwrap();
        }
        // Outside a transaction block the call runs.
        admin.batch_execute(&format!("select * from outbox.{call}")).await.unwrap();
    }

    // These calls cannot be refused, and their transactions go on after the call has returned.
    admin.batch_execute("create function beyond.hold() returns text language sql as 'select outbox.tick(); select pg_sleep(300)::text'").await.unwrap();
    for statement in [
        "select outbox.tick(), pg_sleep(300)",
        "select beyond.hold()",
        "select (select count(*) from outbox.maintain()), pg_sleep(300)",
    ] {
        // Maintenance will truncate a leaf, which nobody can read until the commit.
        db.batch_execute("select outbox.enqueue('job.a', '{}')").await.unwrap();
        settle(&db).await;
        db.batch_execute("select outbox.rotate('tick')").await.unwrap();
        settle(&db).await;
        let holder = login(server, "beyond", "beyond_admin").await;
        let holding = tokio::spawn(async move { holder.batch_execute(statement).await });
        wait_until("it sleeps", PATIENCE, async || {
            one::<bool>(
                &db,
                "select exists (select from pg_stat_activity where wait_event = 'PgSleep' and datname = 'beyond')",
            )
            .await
        })
        .await;
        let head: i64 = one(&db, "select outbox.head()").await;
        db.batch_execute("select outbox.enqueue('job.a', '{}')").await.unwrap();
        wait_until("what was committed meanwhile is numbered", PATIENCE, async || {
            one::<i64>(&db, "select outbox.head()").await > head
        })
        .await;
        let ended = tokio::time::timeout(Duration::from_millis(1), holding).await;
        if let Ok(ended) = ended {
            assert_eq!(ended.unwrap().unwrap_err().code().unwrap().code(), "57P01", "{statement}");
        } else {
            // This transaction holds no lock that the dispatcher needs.
            assert!(statement.contains("maintain"), "{statement}");
        }
    }
    assert!(server.log().contains("beyond its call"));
    // No capability allows a role to lock a table against others, or a row.
    db.batch_execute("set role beyond_admin").await.unwrap();
    let tables = texts(
        &db,
        "select c.oid::regclass::text from pg_class c where c.relnamespace = 'outbox'::regnamespace and c.relkind in ('r', 'p')",
    )
    .await;
    for table in &tables {
        for mode in ["row share", "share", "exclusive", "access exclusive"] {
            let statement = format!("begin; lock table {table} in {mode} mode nowait");
            assert_eq!(code(&db, &statement).await, "42501", "{statement}");
            db.batch_execute("rollback").await.unwrap();
        }
        assert_eq!(code(&db, &format!("select from {table} for share")).await, "42501", "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capability_reaches_as_far_as_it_was_granted() {
    let server = server().await;
    let db = server.database("narrow").await.unwrap();
    db.batch_execute(
        "create role narrow_worker; create role narrow_member in role narrow_worker; create role narrow_shop;
        create role narrow_desk; create role narrow_whole;
        select outbox.grant_to('narrow_worker', 'consume', subscriptions => '{billing}', topics => '{order.#}', consumers => '{ledger}');
        select outbox.grant_to('narrow_shop', 'publish', topics => '{order.*}', tenants => '{acme,beta}', publishers => '{shop}');
        select outbox.grant_to('narrow_desk', 'monitor', tenants => '{acme}');
        select outbox.grant_to('narrow_whole', c) from unnest('{publish,consume,monitor}'::text[]) c;
        select outbox.subscribe('billing', '{order.#}'), outbox.subscribe('other', '{#}');
        select outbox.cursor_advance('ledger', 1, 'own'), outbox.cursor_advance('else', 1, 'own')",
    )
    .await
    .unwrap();

    // publish
    db.batch_execute("set role narrow_shop").await.unwrap();
    let good = "select outbox.enqueue('order.a', '{}', tenant => 'acme', publisher => 'shop')";
    db.batch_execute(good).await.unwrap();
    for statement in [
        "select outbox.enqueue('order.a.b', '{}', tenant => 'acme', publisher => 'shop')",
        "select outbox.enqueue('order.a', '{}', tenant => 'zeta', publisher => 'shop')",
        "select outbox.enqueue('order.a', '{}', publisher => 'shop')",
        "select outbox.enqueue('order.a', '{}', tenant => 'acme')",
        "select outbox.enqueue('order.a', '{}', tenant => 'acme', publisher => 'bank')",
        "select outbox.enqueue_bytes('job.a', '', tenant => 'acme', publisher => 'shop')",
        "select outbox.enqueue_many('job.a', '{1}', tenant => 'acme', publisher => 'shop')",
        "select outbox.enqueue_notification('acme', 'job.a', 'hello', publisher => 'shop')",
        "set pg_outbox.publisher = 'bank'; select outbox.enqueue('order.a', '{}', tenant => 'acme')",
        "begin; select outbox.set_context(tenant => 'zeta', publisher => 'shop'); select outbox.enqueue('order.a', '{}')",
        "select outbox.capture('pg_class')",
    ] {
        assert_eq!(code(&db, statement).await, "42501", "{statement}");
        db.batch_execute("rollback; reset pg_outbox.publisher").await.unwrap();
    }
    db.batch_execute("begin; select outbox.set_context(tenant => 'beta', publisher => 'shop'); select outbox.enqueue('order.b', '{}'); commit")
        .await
        .unwrap();
    db.batch_execute("reset role; select outbox.enqueue('job.a', '{}', tenant => 'zeta')").await.unwrap();
    settle(&db).await;

    // consume, as a member of the role that has it
    db.batch_execute("set role narrow_member").await.unwrap();
    let other: i64 = {
        db.batch_execute("reset role").await.unwrap();
        let id = one(
            &db,
            "select delivery_id from outbox.delivery_status where subscription = 'other' order by delivery_id limit 1",
        )
        .await;
        db.batch_execute("set role narrow_member").await.unwrap();
        id
    };
    for statement in [
        "select outbox.claim('other', 'w')".to_owned(),
        "select outbox.claim('missing', 'w')".to_owned(),
        "select outbox.claim(null, 'w')".to_owned(),
        "select outbox.complete_and_claim(null, 'other', 'w')".to_owned(),
        "call outbox.claim_wait('other', '1 ms')".to_owned(),
        "select outbox_internal.is_ready('other')".to_owned(),
        format!("select outbox.claim_delivery({other}, 'w')"),
        "select outbox.claim_delivery(424242, 'w')".to_owned(),
        "select outbox.read(0, topics => '{#}')".to_owned(),
        "select outbox.read(0, topics => '{order.a,job.a}')".to_owned(),
        "select outbox.read(0, topics => '{}')".to_owned(),
        "select outbox.cursor_get('else')".to_owned(),
        "select outbox.cursor_list()".to_owned(),
        "select outbox.cursor_advance('else', 2, 'own')".to_owned(),
        "select outbox.cursor_reset('else', 0, 'x', 'own')".to_owned(),
        "select outbox.cursor_record_error('else', 'x', 'own')".to_owned(),
        "select outbox.cursor_delete('else', 'x', 'own')".to_owned(),
    ] {
        assert_eq!(code(&db, &statement).await, "42501", "{statement}");
    }
    assert_eq!(
        texts(&db, "select topic from outbox.read(0) where message_id is not null").await,
        ["order.a", "order.b"]
    );
    assert_eq!(
        texts(&db, "select topic from outbox.read(0, topics => '{order.b}') where message_id is not null").await,
        ["order.b"]
    );
    assert_eq!(texts(&db, "select consumer from outbox.cursor_list('ledger')").await, ["ledger"]);
    db.batch_execute("call outbox.claim_wait('billing', '10 s')").await.unwrap();
    let lease: i64 = one(&db, "select lease from outbox.claim('billing', 'w')").await;
    db.execute("select outbox.complete_and_claim($1, 'billing', 'w')", &[&lease]).await.unwrap();

    // monitor
    db.batch_execute("set role narrow_desk").await.unwrap();
    let ids = "select message_id::text from outbox.list_messages('acme')";
    assert_eq!(texts(&db, ids).await.len(), 1);
    let own: i64 = one(&db, "select message_id from outbox.list_messages('acme')").await;
    assert!(one::<i64>(&db, &format!("select count(*) from outbox.history({own})")).await > 1);
    let foreign = own + 2;
    for statement in [
        "select outbox.list_messages()".to_owned(),
        "select outbox.list_messages('zeta')".to_owned(),
        "select outbox.count_messages(topic => 'job.a')".to_owned(),
        "select outbox.count_by_state('zeta')".to_owned(),
        "select outbox.archive_list()".to_owned(),
        "select outbox.archive_stats('zeta')".to_owned(),
        "select outbox.notification_log(tenant => 'zeta')".to_owned(),
        format!("select outbox.notification_log(message_id => {foreign})"),
        format!("select outbox.get_message({foreign})"),
        format!("select outbox.history({foreign})"),
        format!("select outbox.archive_get({foreign})"),
        "select outbox.get_message(424242)".to_owned(),
        "select outbox.stats()".to_owned(),
        "select outbox.health()".to_owned(),
        "table outbox.message".to_owned(),
        "table outbox.message_status".to_owned(),
        "table outbox.delivery_status".to_owned(),
        "table outbox.dead_letter_status".to_owned(),
        "table outbox.grants".to_owned(),
    ] {
        assert_eq!(code(&db, &statement).await, "42501", "{statement}");
    }

    // A request with the allowed tenant and the id of another tenant's message finds nothing.
    let notified = texts(
        &db,
        &format!("select message_id::text from outbox.notification_log(message_id => {foreign}, tenant => 'acme')"),
    )
    .await;
    assert!(notified.is_empty(), "{notified:?}");
    // Each capability can be narrowed in certain ways only.
    db.batch_execute("reset role").await.unwrap();
    for statement in [
        "select outbox.grant_to('narrow_desk', 'admin', tenants => '{acme}')",
        "select outbox.grant_to('narrow_desk', 'publish', subscriptions => '{billing}')",
        "select outbox.grant_to('narrow_desk', 'consume', topics => '{a..b}')",
        "select outbox.grant_to('narrow_desk', 'consume', topics => '{null}')",
        "select outbox.revoke_from('narrow_desk', 'everything')",
    ] {
        assert_eq!(code(&db, statement).await, "22023", "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_calls_is_the_owner_of_the_code_that_calls() {
    let server = server().await;
    let db = server.database("deputy").await.unwrap();
    db.batch_execute(
        "create role deputy_narrow; create role deputy_whole;
        select outbox.grant_to('deputy_narrow', 'publish', topics => '{own.#}'), outbox.grant_to('deputy_whole', 'publish');
        create schema deputy_n authorization deputy_narrow; create schema deputy_w authorization deputy_whole;
        grant usage on schema deputy_n, deputy_w to public;
        set role deputy_narrow;
        create function deputy_n.publish(topic text) returns bigint language sql security definer as $$ select outbox.enqueue(topic, '{}') $$;
        create table deputy_n.bait (id int);
        create function deputy_n.idx(int) returns int language plpgsql immutable as $$
            begin if session_user <> current_user then perform outbox.enqueue('stolen', '{}'); end if; return $1; exception when others then return 0; end $$;
        set role deputy_whole;
        create function deputy_w.publish(topic text) returns bigint language sql security definer as $$ select outbox.enqueue(topic, '{}') $$;
        reset role",
    )
    .await
    .unwrap();
    // A superuser who calls code with a narrow grant does not lend it any rights. A definer function lends the rights of its
    // owner.
    db.batch_execute("select outbox.enqueue('any.thing', '{}')").await.unwrap();
    assert_eq!(code(&db, "select deputy_n.publish('any.thing')").await, "42501");
    db.batch_execute("set role deputy_narrow; select deputy_w.publish('any.thing'), deputy_n.publish('own.thing')")
        .await
        .unwrap();
    // A superuser who maintains a table does not lend any rights to its index expressions.
    db.batch_execute("insert into deputy_n.bait values (1); create index on deputy_n.bait (deputy_n.idx(id)); reset role; analyze deputy_n.bait; reindex table deputy_n.bait")
        .await
        .unwrap();
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.message where topic = 'stolen'").await, 0);

    // Open sessions notice wider and narrower grants, renamed roles, memberships and revocations.
    let session = server.connect("deputy").await.unwrap();
    session.batch_execute("set role deputy_narrow").await.unwrap();
    let wide = "select outbox.enqueue('any.thing', '{}')";
    assert_eq!(code(&session, wide).await, "42501");
    db.batch_execute("select outbox.grant_to('deputy_narrow', 'publish')").await.unwrap();
    session.batch_execute(wide).await.unwrap();
    db.batch_execute("select outbox.grant_to('deputy_narrow', 'publish', topics => '{own.#}')").await.unwrap();
    assert_eq!(code(&session, wide).await, "42501");
    db.batch_execute("alter role deputy_narrow rename to deputy_renamed; create role deputy_narrow").await.unwrap();
    assert_eq!(code(&session, wide).await, "42501");
    db.batch_execute("select outbox.grant_to('deputy_narrow', 'publish')").await.unwrap();
    assert_eq!(code(&session, wide).await, "42501", "another role has the name now");
    db.batch_execute("grant deputy_whole to deputy_renamed").await.unwrap();
    session.batch_execute(wide).await.unwrap();
    db.batch_execute("revoke deputy_whole from deputy_renamed").await.unwrap();
    assert_eq!(code(&session, wide).await, "42501");
    assert!(one::<bool>(&db, "select outbox.revoke_from('deputy_renamed', 'publish')").await);
    assert_eq!(code(&session, "select outbox.enqueue('own.thing', '{}')").await, "42501");
    assert!(!one::<bool>(&db, "select outbox.revoke_from('deputy_renamed', 'publish')").await);
    assert!(!one::<bool>(&db, "select has_schema_privilege('deputy_renamed', 'outbox', 'usage')").await);
    // Revoking a capability leaves the privileges that another capability needs.
    db.batch_execute("select outbox.grant_to('deputy_renamed', 'consume'), outbox.grant_to('deputy_renamed', 'monitor'), outbox.revoke_from('deputy_renamed', 'consume')")
        .await
        .unwrap();
    session.batch_execute("select outbox.head(), outbox.cursor_list()").await.unwrap();
    assert_eq!(code(&session, "select outbox.claim('a', 'b')").await, "42501");
    assert_eq!(
        texts(&db, "select role || ' ' || capability from outbox.grants where role like 'deputy%' order by 1").await,
        ["deputy_narrow publish", "deputy_renamed monitor", "deputy_whole publish"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_are_seen_without_content() {
    let db = server().await.database("observe").await.unwrap();
    db.batch_execute(
        "create role observe_all; select outbox.grant_to('observe_all', 'observe');
        select outbox.create_endpoint('shop', 'https://127.0.0.1:1/hunter2-url', headers => '{\"x-api-key\": \"hunter2-header\"}');
        select outbox.subscribe('shop', '{#}', 'shop', max_attempts => 1), outbox.subscribe('jobs', '{#}');
        select outbox.enqueue('a.b', '\"hunter2-payload\"', 'hunter2-key', headers => '{\"x-a\": \"hunter2-header\"}',
            metadata => '{\"a\": \"hunter2-metadata\"}', tenant => 'hunter2-tenant', aggregate_id => 'hunter2-id',
            idempotency_key => 'hunter2-idempotency')",
    )
    .await
    .unwrap();
    settle(&db).await;
    db.batch_execute("select outbox.dead(lease, null, 'hunter2-reason') from outbox.claim('jobs', 'hunter2-worker')")
        .await
        .unwrap();
    settle(&db).await;
    db.batch_execute("set role observe_all").await.unwrap();
    let readable = texts(
        &db,
        "select format('select * from %s', c.oid::regclass) from pg_class c
        where c.relnamespace = 'outbox'::regnamespace and c.relkind in ('r', 'v', 'p') and has_table_privilege(c.oid, 'select')
        union all
        select format('select * from outbox.%I()', p.proname) from pg_proc p
        where p.pronamespace = 'outbox'::regnamespace and p.pronargs = p.pronargdefaults and p.prokind = 'f'
            and p.prorettype <> 'trigger'::regtype and has_function_privilege(p.oid, 'execute')",
    )
    .await;
    assert!(readable.len() >= 12, "{readable:?}");
    for query in &readable {
        let seen = format!("{:?}", rows(&db, query).await);
        assert!(!seen.contains("hunter2"), "{query}: {seen}");
    }
    assert!(one::<i64>(&db, "select messages from outbox.stats()").await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_call_leaves_no_secret_in_the_log() {
    let server =
        Server::start(&[("log_min_error_statement", "error"), ("log_error_verbosity", "verbose")]).await.unwrap();
    let db = server.database("logged").await.unwrap();
    db.batch_execute("select outbox.create_endpoint('taken', 'https://shop.example/')").await.unwrap();
    let auth = r#"auth => '{"type": "bearer", "token": "hunter2"}'"#;
    let tls = r#"tls => '{"certificate": "hunter2", "key": "hunter2"}'"#;
    for statement in [
        format!("select outbox.create_endpoint('taken', 'https://shop.example/', {auth})"),
        format!("select outbox.create_endpoint('late', 'https://shop.example/', {auth}, timeout => '61 min')"),
        format!("select outbox.create_endpoint('where', 'nowhere', {auth})"),
        format!("select outbox.create_endpoint('tls', 'https://shop.example/', {tls})"),
        "select outbox.create_endpoint('signed', 'https://shop.example/', 'hunter2')".to_owned(),
        "select outbox.create_endpoint('url', 'https://u:hunter2@shop.example/')".to_owned(),
        "select outbox.create_endpoint('header', 'https://a.example/', headers => '{\"webhook-id\": \"hunter2\"}')"
            .to_owned(),
        format!("select outbox.alter_endpoint('missing', {auth})"),
        format!("select outbox.alter_endpoint('taken', {auth}, timeout => '61 min')"),
        "select outbox.rotate_secret('taken', 'hunter2')".to_owned(),
        "select outbox.rotate_secret('missing', 'hunter2')".to_owned(),
        "select outbox.set_proxy('dmz', 'u:hunter2@a:1')".to_owned(),
        format!("set statement_timeout = '300 ms'; select outbox.alter_endpoint('taken', {auth}, timeout => '1 s')"),
    ] {
        // The last statement waits for a row lock and is cancelled.
        let holder = server.connect("logged").await.unwrap();
        holder.batch_execute("begin; select outbox.alter_endpoint('taken', concurrency => 4)").await.unwrap();
        if !statement.starts_with("set") {
            holder.batch_execute("rollback").await.unwrap();
        }
        let error = refused(&db, &statement).await;
        let said = format!("{}{:?}{:?}{:?}", error.message(), error.detail(), error.hint(), error.where_());
        assert!(!said.contains("hunter2"), "{said}");
        let log = server.log();
        assert!(log.contains(error.message()), "it is logged: {}", error.message());
        assert!(!log.contains("hunter2"), "{statement}");
    }
    // Statements without secrets are logged as usual.
    refused(&db, "select outbox.subscribe('shown-in-the-log', '{}')").await;
    assert!(server.log().contains("shown-in-the-log"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_names_who_has_locked_what_the_dispatcher_writes() {
    let server = server().await;
    let db = server.database("locked").await.unwrap();
    let admin = login(server, "locked", "locked_admin").await;
    let receiver = outbox_harness::Receiver::start().unwrap();
    receiver.on("/hook", |_, _| outbox_harness::Reply::status(503));
    db.execute("select outbox.create_endpoint('shop', $1)", &[&receiver.url("/hook")]).await.unwrap();
    db.batch_execute(
        "select outbox.grant_to('locked_admin', 'admin'), outbox.subscribe('shop', '{#}', 'shop', schedule => '{\"delays\": [1], \"jitter\": 0}');
        select outbox.enqueue('a.b', '{}')",
    )
    .await
    .unwrap();
    wait_until("it waits for a retry", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from outbox.delivery where attempt > 0").await == 1
    })
    .await;
    let pid: i32 = one(&admin, "select pg_backend_pid()").await;
    admin
        .batch_execute(
            "set application_name = 'console'; begin; select outbox.reschedule(id, now(), 'me') from outbox.delivery",
        )
        .await
        .unwrap();
    wait_until("health names the session", PATIENCE, async || {
        let found: Option<String> = one(&db, "select h.culprit from outbox.health() h where h.check = 'worker'").await;
        found.is_some_and(|culprit| culprit.contains(&format!("session {pid}")) && culprit.contains("console"))
    })
    .await;
    admin.batch_execute("rollback").await.unwrap();
    wait_until("it goes on", PATIENCE, async || {
        one::<String>(&db, "select state from outbox.worker_status()").await == "running"
    })
    .await;
}
