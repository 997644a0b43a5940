//! Code of users: expressions, functions, types, casts, operators, index expressions. The code always runs with the
//! rights of its owner, and changes no setting of the session.
//!
//! The traps count their calls in sequences, which a failing statement does not undo: `public.run` counts all calls, and
//! `public.breach` counts the calls with rights of another role than the owner.

use outbox_harness::Server;
use outbox_harness::postgres::connect;
use outbox_harness::tokio_postgres::Client;
use outbox_tests::{explain, one, outbox_harness, refused, server};

async fn run(db: &Client, sql: &str) {
    db.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {}", explain(&e)));
}

/// Returns the number of calls of traps so far, and the number of calls with rights of another role.
async fn caught(db: &Client) -> (i64, i64) {
    let count = |name: &str| format!("select case when is_called then last_value else 0 end from public.{name}");
    (one(db, &count("run")).await, one(db, &count("breach")).await)
}

/// Creates a database with a role that has these capabilities and owns a schema `m` with traps. Returns a session of the
/// superuser and one of the role.
async fn trapped(server: &Server, name: &str, capabilities: &str) -> (Client, Client) {
    let db = server.database(name).await.unwrap();
    let role = format!("{name}_mallory");
    let password = server.password();
    run(
        &db,
        &format!(
            "create role {role} login password '{password}';
            create sequence public.run; create sequence public.breach; grant usage on sequence public.run, public.breach to public;
            select outbox.grant_to('{role}', c) from unnest('{capabilities}'::text[]) c;
            create schema m authorization {role}; grant usage on schema m to public;
            create table public.victim (id int primary key, secret text);
            set role {role};
            create function m.trap() returns boolean language plpgsql set search_path = pg_catalog as $$
            begin
                perform nextval('public.run');
                -- A caller's own statement is its own affair.
                if current_user <> '{role}'
                    and (current_user <> session_user or current_setting('is_superuser')::boolean) then
                    perform nextval('public.breach');
                end if;
                return true;
            end $$;
            create function m.trap(text) returns boolean language sql as 'select m.trap()';
            create function m.trap_immutable(int) returns int language plpgsql immutable as
                $$ begin perform m.trap(); return $1; end $$;
            create domain m.checked as text check (m.trap(value));
            create type m.pair as (a m.checked, b int);
            create function m.same(text, text) returns boolean language plpgsql immutable as
                $$ begin perform m.trap(); return $1 = $2; end $$;
            create operator m.= (leftarg = text, rightarg = text, function = m.same);
            create type m.odd as (n int);
            create function m.to_json(m.odd) returns json language plpgsql immutable as
                $$ begin perform m.trap(); return '1'; end $$;
            create cast (m.odd as json) with function m.to_json(m.odd);
            create function m.from_int(int) returns m.odd language plpgsql immutable as
                $$ begin perform m.trap(); return row($1); end $$;
            create cast (int as m.odd) with function m.from_int(int);
            create function m.topic(text, text) returns text language plpgsql as
                $$ begin perform m.trap(); return $2; end $$;
            create table m.t (id int primary key, v m.checked default 'x', o m.odd, twice int generated always as (id * 2) stored);
            reset role"
        ),
    )
    .await;
    let mallory = connect(&server.dsn(name).replacen("postgres:", &format!("{role}:"), 1)).await.unwrap();
    (db, mallory)
}

/// Conditions that run code while they are parsed, analysed, folded, validated, planned or executed.
const CONDITIONS: [&str; 14] = [
    "'{x}'::m.checked[] is not null",
    "'(x,1)'::m.pair is not null",
    "array['x']::m.checked[] is not null",
    "cast('x' as m.checked) = 'x'",
    "m.trap_immutable(1) = 1",
    "'a'::text operator(m.=) 'a'::text",
    "(1::m.odd) is not null",
    "new.v is distinct from 'y' and m.trap()",
    "exists (select m.trap())",
    "(with c as (select '{x}'::m.checked[]) select true from c)",
    "jsonb_populate_record(null::m.pair, '{\"a\": \"x\"}') is not null",
    "coalesce(new, null) is not null or m.trap()",
    "pg_temp.trap()",
    "'{x}'::pg_temp.hidden[] is not null",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_condition_is_never_looked_at_with_other_rights_than_the_owners() {
    let server = server().await;
    let (db, mallory) = trapped(server, "conditions", "{publish,capture}").await;
    run(
        &mallory,
        "create function pg_temp.trap() returns boolean language sql as 'select m.trap()';
        create domain pg_temp.hidden as text check (m.trap(value));
        create temp table enqueue_many (n int)",
    )
    .await;
    let mut reached = 0;
    for condition in CONDITIONS {
        for style in ["change", "row", "debezium"] {
            let (before, _) = caught(&db).await;
            let statement = format!(
                "select outbox.capture('m.t', condition => $c${condition}$c$, style => '{style}', include_old => true)"
            );
            // Some conditions are refused. The test is about the rights with which they ran.
            let _ = mallory.batch_execute(&statement).await;
            let _ = mallory
                .batch_execute("insert into m.t values (1, 'a', row(1)); update m.t set v = 'b'; delete from m.t")
                .await;
            // This fails if the condition names a temporary object of the other session.
            let _ = db.batch_execute("delete from m.t where id = 1").await;
            run(&mallory, "select outbox.uncapture('m.t'); truncate m.t").await;
            reached += i64::from(caught(&db).await.0 > before);
        }
    }
    // The same holds for names, columns, and rows whose types run code during the conversion to JSON.
    for statement in [
        "select outbox.capture('m.t', condition => '1); select m.trap(); select (true')",
        "select outbox.capture('m.t', condition => 'true) loop perform m.trap(); end loop; for part in (select 1')",
        "select outbox.capture('m.t', topic => $x$a' || m.trap() || '$x$)",
        "select outbox.capture('m.t', key_columns => array[$x$id' || m.trap() || '$x$])",
        "select outbox.capture('m.t', tenant_column => 'v', key_columns => '{o}', columns => '{o,v}')",
    ] {
        let _ = mallory.batch_execute(statement).await;
        let _ = mallory.batch_execute("insert into m.t values (2, 'a', row(1)); delete from m.t").await;
    }
    // The trigger runs its condition with the rights of the table's owner, also if others change rows.
    run(&mallory, "alter table m.t alter v type text, alter v drop default; select outbox.capture('m.t', condition => 'm.trap()')").await;
    run(&db, "insert into m.t values (3, 'a', row(1)); update m.t set v = 'c'; delete from m.t").await;
    let (ran, breaches) = caught(&db).await;
    assert!(ran > 0 && reached > 30, "the traps are reached: {reached} of {} ({ran} calls)", CONDITIONS.len() * 3);
    assert_eq!(breaches, 0);
    assert!(one::<i64>(&db, "select count(*) from outbox.message where topic = 't.insert'").await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caller_is_the_owner_of_the_code_that_calls() {
    let server = server().await;
    let (db, mallory) = trapped(server, "callers", "{publish,capture,admin}").await;
    run(
        &db,
        "create role callers_alice; create schema alice authorization callers_alice;
        select outbox.grant_to('callers_alice', c) from unnest('{publish,capture,admin}'::text[]) c;
        create function public.powerful(text, text) returns text language sql as 'select $2';
        set role callers_alice; create table alice.secrets (id int primary key, s text); reset role;
        select outbox.capture('victim')",
    )
    .await;
    // The function contains every call whose result depends on the caller, and swallows errors.
    run(
        &mallory,
        "create function m.deputy() returns void language plpgsql as $$
        declare statement text;
        begin
            foreach statement in array array[
                'select outbox.capture(''public.victim'', topic => ''stolen'', condition => ''m.trap()'')',
                'select outbox.capture(''alice.secrets'', topic => ''stolen'', condition => ''m.trap()'')',
                'select outbox.capture(''m.t'', topic => ''stolen'')',
                'select outbox.uncapture(''public.victim'')',
                'select outbox.create_publisher(''deputy'', topic_function => ''public.powerful(text, text)'')',
                'select outbox.create_publisher(''own'', topic_function => ''m.topic(text, text)'')',
                'select outbox.alter_publisher(''known'', topic_function => ''public.powerful(text, text)'')'
            ] loop
                begin
                    execute statement;
                    perform nextval('public.run');
                exception when others then null;
                end;
            end loop;
        end $$;
        create function m.idx(int) returns int language plpgsql immutable as $$
        begin
            if session_user <> 'callers_mallory' then perform m.deputy(); end if;
            return $1;
        end $$;
        create function m.definer() returns void language plpgsql security definer as $$ begin perform m.deputy(); end $$;
        create table m.bait (id int);
        create index on m.bait (m.idx(id));
        create statistics m.stats on m.idx(id), id from m.bait;
        create materialized view m.mat as select m.idx(id) from m.bait;
        grant select on m.bait to public;
        select outbox.create_publisher('known');
        insert into m.bait select generate_series(1, 20)",
    )
    .await;
    for statement in [
        "analyze m.bait",
        "reindex table m.bait",
        "refresh materialized view m.mat",
        "vacuum (full, analyze) m.bait",
        "cluster m.bait using bait_idx_idx",
    ] {
        run(&db, statement).await;
    }
    assert_eq!(
        caught(&db).await,
        (0, 0),
        "nothing of it is done within a restricted operation, not even with rights for it"
    );
    // A definer function of mallory acts with the rights of mallory, also if others call it.
    run(&db, "select m.definer(); set role callers_alice; select m.definer(); reset role").await;
    let held: String = one(
        &db,
        "select string_agg(format('%s %s', relation, topic), ', ' order by relation::text) from outbox.captures",
    )
    .await;
    assert_eq!(held, "m.t stolen, victim {table}.{op}");
    let functions: String =
        one(&db, "select string_agg(format('%s %s', code, topic_function), ', ' order by code) from outbox.publisher")
            .await;
    assert_eq!(functions, "known , own m.topic(text,text)");
    let hint = refused(&mallory, "select outbox.capture('public.victim')").await;
    assert_eq!((hint.code().code(), hint.message()), ("42501", "must be owner of table public.victim"));
    // Capturing is a capability of its own.
    run(&db, "create role callers_plain; select outbox.grant_to('callers_plain', 'publish'); set role callers_plain")
        .await;
    for statement in ["select outbox.capture('m.t')", "select outbox.uncapture('m.t')"] {
        assert_eq!(refused(&db, statement).await.code().code(), "42501");
    }
    run(&db, "reset role; insert into victim values (1, 'x'); insert into alice.secrets values (1, 'x')").await;
    assert_eq!(caught(&db).await.1, 0);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.message where topic = 'stolen'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_function_is_kept_apart_from_the_session_that_publishes() {
    let server = server().await;
    let (db, mallory) = trapped(server, "topics", "{publish,admin}").await;
    run(
        &db,
        "create schema app;
        create function app.topic_of(tenant text, topic text) returns text language plpgsql as
            $$ begin if 'a' = 'a' then return coalesce(tenant, 'none') || '.' || lower(topic); end if; end $$;
        select outbox.create_publisher('good', topic_function => 'app.topic_of(text, text)');
        alter database topics set pg_outbox.topic_function = 'app.topic_of(text, text)'",
    )
    .await;
    // The publisher may not use the schema of the function, and shadows all names that occur in the function.
    let password = server.password();
    run(
        &db,
        &format!(
            "create role topics_publisher login password '{password}'; select outbox.grant_to('topics_publisher', 'publish');
            create schema p authorization topics_publisher"
        ),
    )
    .await;
    let publisher = connect(&server.dsn("topics").replacen("postgres:", "topics_publisher:", 1)).await.unwrap();
    run(
        &publisher,
        "create function p.lower(text) returns text language plpgsql as
            $$ begin if current_user <> session_user then perform nextval('public.breach'); end if; return pg_catalog.lower($1); end $$;
        create function p.same(text, text) returns boolean language plpgsql as
            $$ begin if current_user <> session_user then perform nextval('public.breach'); end if; return true; end $$;
        create operator p.= (leftarg = text, rightarg = text, function = p.same);
        create function p.glue(text, text) returns text language plpgsql as
            $$ begin if current_user <> session_user then perform nextval('public.breach'); end if; return 'x'; end $$;
        create operator p.|| (leftarg = text, rightarg = text, function = p.glue);
        set search_path = p, pg_catalog",
    )
    .await;
    for statement in ["select outbox.enqueue('A', '{}', publisher => 'good')", "select outbox.enqueue('B', '{}')"] {
        run(&publisher, statement).await;
    }
    assert_eq!(one::<String>(&publisher, "show search_path").await, "p, pg_catalog");
    assert_eq!(
        one::<String>(&db, "select string_agg(topic, ' ' order by id) from outbox.message").await,
        "none.a none.b"
    );
    assert_eq!(caught(&db).await.1, 0);

    // Settings that the function changes do not survive, and the restrictions of a restricted operation hold for it.
    run(
        &mallory,
        "create function m.leave(text, text) returns text language plpgsql as $$
        begin
            perform set_config('search_path', 'm, pg_catalog', false), set_config('pg_outbox.publisher', 'evil', false),
                set_config('pg_outbox.context', '{\"tenant\": \"evil\"}', false), set_config('role', 'topics_mallory', true);
            return $2;
        exception when others then
            perform set_config('search_path', 'm, pg_catalog', false), set_config('pg_outbox.publisher', 'evil', false);
            return $2;
        end $$;
        create function m.temporary(text, text) returns text language plpgsql as
            $$ begin create temp table pg_class (n int); return $2; end $$;
        create function m.nested(text, text) returns text language plpgsql as
            $$ begin perform outbox.create_publisher('in_restricted'); return $2; end $$;
        select outbox.create_publisher('leave', topic_function => 'm.leave(text, text)');
        select outbox.create_publisher('temporary', topic_function => 'm.temporary(text, text)');
        select outbox.create_publisher('nested', topic_function => 'm.nested(text, text)')",
    )
    .await;
    let settings = "select string_agg(name || '=' || setting, ' ' order by name) from pg_settings where name ~ '^pg_outbox|search_path|^role$'";
    let before: String = one(&db, settings).await;
    run(&db, "select outbox.enqueue('a', '{}', publisher => 'leave')").await;
    assert_eq!(one::<String>(&db, settings).await, before);
    for name in ["temporary", "nested"] {
        let error = refused(&db, &format!("select outbox.enqueue('a', '{{}}', publisher => '{name}')")).await;
        assert_eq!(error.code().code(), "42501", "{error:?}");
    }
    assert_eq!(one::<String>(&db, "select current_user::text").await, "postgres");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_function_is_what_the_catalogue_says_at_the_call() {
    let server = server().await;
    let (db, mallory) = trapped(server, "signatures", "{publish,admin}").await;
    run(
        &mallory,
        "create function m.tf(text, text) returns text language sql as 'select $2';
        select outbox.create_publisher('tf', topic_function => 'm.tf(text, text)')",
    )
    .await;
    let started: String = one(&db, "select pg_postmaster_start_time()::text || pg_conf_load_time()").await;
    let publish = "select outbox.enqueue('a.b', '{}', publisher => 'tf')";
    run(&mallory, publish).await;
    for (kind, other) in [
        ("function", "create function m.tf(text, text) returns bigint language sql as 'select 12345678::bigint'"),
        ("function", "create function m.tf(text, text) returns bytea language sql as $$ select '\\xfffefd'::bytea $$"),
        ("function", "create function m.tf(text, text) returns jsonb language sql as $$ select '{}'::jsonb $$"),
        ("function", "create function m.tf(text, text) returns setof text language sql as 'select $2'"),
        ("function", "create function m.tf(text, text) returns name language sql as $$ select 'x'::name $$"),
        ("function", "create function m.tf(text, text) returns m.checked language sql as $$ select 'x'::m.checked $$"),
        ("function", "create function m.tf(text, text) returns void language sql as ''"),
        ("procedure", "create procedure m.tf(text, text) language sql as ''"),
        ("aggregate", "create aggregate m.tf(text, text) (sfunc = m.step, stype = text)"),
        ("function", "create function m.tf(text, text, text default '') returns text language sql as 'select $2'"),
        ("function", "create function m.tf(text) returns text language sql as 'select $1'"),
    ] {
        run(&mallory, "create or replace function m.step(text, text, text) returns text language sql as 'select $2'")
            .await;
        run(&mallory, "drop routine if exists m.tf").await;
        run(&mallory, other).await;
        let error = refused(&mallory, publish).await;
        assert!(["22023", "OB001"].contains(&error.code().code()), "{kind}: {error:?}");
        // The setting, which a superuser may set to anything, is checked in the same way.
        let error =
            refused(&db, "set pg_outbox.topic_function = 'm.tf(text, text)'; select outbox.enqueue('a.b', '{}')").await;
        assert!(["22023", "OB001"].contains(&error.code().code()), "{kind}: {error:?}");
        let error =
            refused(&mallory, "select outbox.create_publisher('other', topic_function => 'm.tf(text, text)')").await;
        assert!(["22023", "42883"].contains(&error.code().code()), "{kind}: {error:?}");
    }
    for signature in [
        "pg_catalog.int8pl(bigint, bigint)",
        "pg_catalog.textcat(text, text)",
        "textcat(text,text)",
        "textcat",
        "now()",
        "()",
        "(",
        "text, text)",
        "m.topic(text,text",
        "m.topic(text, text, text)",
        "m..topic(text, text)",
        "\"m.topic(text, text)",
        "a.b.c.d(text, text)",
    ] {
        let set = format!("set pg_outbox.topic_function = '{signature}'; select outbox.enqueue('a.b', '{{}}')");
        match db.batch_execute(&set).await {
            Ok(()) => {
                assert!(signature.contains("textcat(") || signature.contains("m.topic(text, text)"), "{signature}")
            }
            Err(error) => {
                let error = error.as_db_error().unwrap_or_else(|| panic!("{signature}: {error}"));
                assert!(["22023", "OB001", "42602", "42601"].contains(&error.code().code()), "{signature}: {error:?}");
            }
        }
    }
    run(&db, "reset pg_outbox.topic_function").await;
    // Another function that gets the name does not lend the rights of its owner.
    run(&mallory, "drop routine if exists m.tf").await;
    run(&db, "create function m.tf(text, text) returns text language sql as $$ select 'was.' || current_user::text $$")
        .await;
    let error = refused(&mallory, publish).await;
    assert_eq!(error.code().code(), "42501", "{error:?}");
    run(&db, "select outbox.alter_publisher('tf', topic_function => 'm.tf(text, text)')").await;
    run(&mallory, publish).await;
    assert_eq!(one::<String>(&db, "select topic from outbox.message order by id desc limit 1").await, "was.postgres");
    // The publisher gets an error of the function unchanged.
    run(&db, "create or replace function m.tf(text, text) returns text language plpgsql as $$ begin raise exception 'no' using errcode = 'OT123', detail = 'why', hint = 'so'; end $$").await;
    let error = refused(&mallory, publish).await;
    assert_eq!(
        (error.code().code(), error.message(), error.detail(), error.hint()),
        ("OT123", "no", Some("why"), Some("so"))
    );
    // The function can be cancelled.
    run(&db, "create or replace function m.tf(text, text) returns text language plpgsql as $$ begin perform set_config('statement_timeout', '0', false); loop null; end loop; end $$").await;
    let error = refused(&mallory, &format!("set statement_timeout = '200ms'; {publish}")).await;
    assert_eq!(error.code().code(), "57014");
    assert_eq!(one::<String>(&db, "select pg_postmaster_start_time()::text || pg_conf_load_time()").await, started);
}

/// Values for arguments that may name something. Each value leads to a trap.
const HOSTILE: [&str; 11] = [
    "m.t",
    "m.topic(text, text)",
    "m.checked",
    "public.victim",
    "'{x}'::m.checked[] is not null",
    "m.trap()",
    "x'); select m.trap(); --",
    "x' || m.trap() || '",
    "{\"a\": \"m.trap()\"}",
    "{m.trap(),m.t}",
    "$[*] ? (m.trap())",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_function_that_takes_a_name_or_an_expression_is_attacked_by_every_capability() {
    let server = server().await;
    let (db, owner) = trapped(server, "generated", "{publish,capture}").await;
    let password = server.password();
    // Operators that shadow those of PostgreSQL, for code that looks them up in the search path of the caller.
    run(
        &db,
        "do $do$
        declare
            o record;
        begin
            for o in
                select row_number() over () as i, p.oprname, p.oprleft::regtype as l, p.oprright::regtype as r, p.oprresult::regtype as result
                from pg_operator p
                where p.oprkind = 'b' and p.oprnamespace = 'pg_catalog'::regnamespace and p.oprresult <> 0
                    and not (p.oprname = '=' and p.oprleft = 'text'::regtype and p.oprright = 'text'::regtype) and p.oprname in ('=', '<>', '<', '>', '<=', '>=', '||', '@>', '<@', '&&', '->', '->>', '+', '-', '*', '~', '?')
                    and p.oprleft::regtype::text ~ '^(smallint|integer|bigint|text|name|oid|boolean|jsonb|bytea|xid8|interval|timestamp with time zone|int8multirange|anymultirange|anyarray)$'
            loop
                execute format('create function m.shadow_%s(%s, %s) returns %s language plpgsql as '
                    '$$ begin perform m.trap(); return $1 operator(pg_catalog.%s) $2; end $$', o.i, o.l, o.r, o.result, o.oprname);
                execute format('create operator m.%s (leftarg = %s, rightarg = %s, function = m.shadow_%s)', o.oprname, o.l, o.r, o.i);
            end loop;
        end $do$;
        select outbox.subscribe('jobs', '{a.#}'); select outbox.enqueue('a.b', '{}')",
    )
    .await;
    outbox_tests::settle(&db).await;
    let delivery: i64 = one(&db, "select delivery_id from outbox.delivery_status order by delivery_id limit 1").await;
    let mut attacked: Vec<String> = Vec::new();
    for (capability, narrowed) in [
        ("publish", ""),
        ("publish", ", topics => '{a.#}'"),
        ("capture", ""),
        ("consume", ""),
        ("consume", ", subscriptions => '{jobs}', topics => '{a.#}', consumers => '{c}'"),
        ("observe", ""),
        ("monitor", ""),
        ("monitor", ", tenants => '{acme}'"),
        ("admin", ""),
    ] {
        let role = format!("generated_{capability}{}", narrowed.len().min(1));
        // The role is a member of mallory, so that it may use the objects of mallory.
        run(&db, &format!("create role {role} login password '{password}' in role generated_mallory; select outbox.grant_to('{role}', '{capability}'{narrowed})")).await;
        let session = connect(&server.dsn("generated").replacen("postgres:", &format!("{role}:"), 1)).await.unwrap();
        run(
            &session,
            "set statement_timeout = '2s'; set search_path = m, pg_catalog; create temp table message (n int)",
        )
        .await;
        let calls = session
            .query(
                "select p.pronamespace::regnamespace || '.' || p.proname, p.prokind = 'p', a.name, a.type::regtype::text,
                    array(select format('%I => null::%s', o.name, o.type::regtype)
                        from unnest(p.proargnames[:p.pronargs], p.proargtypes::oid[]) with ordinality o(name, type, i)
                        where o.i <> a.i and o.i <= p.pronargs - p.pronargdefaults)
                from pg_proc p, unnest(p.proargnames[:p.pronargs], p.proargtypes::oid[]) with ordinality a(name, type, i)
                where p.pronamespace in ('outbox'::regnamespace, 'outbox_internal'::regnamespace)
                    and has_function_privilege(p.oid, 'execute') and a.name <> ''
                    and a.type::regtype::text ~ '^(text|name|text\\[\\]|jsonb?|reg.*)$'
                order by 1, a.i",
                &[],
            )
            .await
            .unwrap();
        for call in &calls {
            let (function, procedure, argument, kind, others): (String, bool, String, String, Vec<String>) =
                (call.get(0), call.get(1), call.get(2), call.get(3), call.get(4));
            for value in HOSTILE {
                let mut list = others.clone();
                list.push(format!("\"{argument}\" => ($x${value}$x$)::{kind}"));
                // Other required arguments get valid values, so that the call goes further than its first check.
                for (name, good) in [
                    ("relation", "'m.t'"),
                    ("topic", "'a.b'"),
                    ("payload", "'{}'"),
                    ("code", "'c'"),
                    ("consumer", "'c'"),
                ] {
                    for entry in &mut list {
                        if let Some(kind) = entry.strip_prefix(&format!("{name} => null::")) {
                            *entry = format!("{name} => {good}::{kind}");
                        }
                    }
                }
                let verb = if procedure { "call" } else { "select" };
                let statement = format!("{verb} {function}({})", list.join(", "));
                if let Err(error) = session.batch_execute(&statement).await {
                    let error = error.as_db_error().unwrap_or_else(|| panic!("{role}: {statement}: {error}"));
                    assert_ne!(error.code().code(), "XX000", "{role}: {statement}: {error:?}");
                    assert!(!error.detail().unwrap_or_default().contains(".rs:"), "{role}: {statement}: {error:?}");
                }
            }
            attacked.push(format!("{function}({argument})"));
        }
        // In these calls a narrowed capability is checked by an id or inside the call.
        for statement in [
            format!("select outbox.claim_delivery({delivery}, 'w')"),
            "select outbox.get_message(1)".to_owned(),
            "select outbox.history(1)".to_owned(),
            "select outbox.enqueue('a.b', '{}', idempotency_key => 'k')".to_owned(),
            "call outbox.claim_wait('jobs', '1 ms')".to_owned(),
            "select outbox.claim('jobs', 'w')".to_owned(),
        ] {
            let _ = session.batch_execute(&statement).await;
        }
        // The captures and publishers that the calls may have created are used.
        let _ = owner.batch_execute("insert into m.t values (1, 'a', row(1)); delete from m.t").await;
        for publisher in ["c", "known"] {
            let _ = session
                .batch_execute(&format!("select outbox.enqueue('a.b', '{{}}', publisher => '{publisher}')"))
                .await;
        }
        let (_, breaches) = caught(&db).await;
        assert_eq!(breaches, 0, "{role}");
    }
    for known in [
        "outbox.capture(condition)",
        "outbox.capture(relation)",
        "outbox.uncapture(relation)",
        "outbox.create_publisher(topic_function)",
        "outbox.alter_publisher(topic_function)",
        "outbox.subscribe(filter)",
        "outbox.enqueue(topic)",
        "outbox.read(topics)",
    ] {
        assert!(attacked.iter().any(|call| call == known), "{known} is not among {attacked:?}");
    }
    // The traps notice a call with rights of another role.
    run(&db, "select m.trap()").await;
    assert_eq!(caught(&db).await.1, 1);
}
