//! Every function of the schema is called by a role with each capability but `capture` and by a role without any, with
//! meaningless values of the right types. Each run makes the same calls. No call crashes, hangs, reveals internals, or
//! extends the rights of a role.

use std::collections::BTreeMap;
use std::time::Instant;

use outbox_core::Code;
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Server, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, settle};

/// A generator of pseudo-random numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

/// Returns values of a type, as SQL expressions.
fn values(kind: &str) -> &'static [&'static str] {
    match kind {
        "text" | "character varying" => &[
            "null",
            "''",
            "' '",
            "'a'",
            "'jobs'",
            "'shop'",
            "'order.a'",
            "'order.#'",
            "'#'",
            "'outbox.control'",
            "'me'",
            "'message'",
            "repeat('x', 300)",
            "repeat('a.', 200)",
            "E'a\\nb'",
            "'é\u{10ffff}'",
            "'%s%n$1'",
            "'''; drop schema outbox cascade; --'",
            "'{}'",
            "'https://127.0.0.1:1/'",
            "'http://[::1]'",
            "'whsec_AAAA'",
            "'key'",
            "'completed'",
            "'-1'",
        ],
        "name" => &["null", "''", "'nobody such'", "'pg_monitor\u{1}'"],
        "smallint" => &["null", "0", "1", "-1", "32767", "-32768"],
        "integer" => &["null", "0", "1", "-1", "7", "2147483647", "-2147483648"],
        "bigint" => &["null", "0", "1", "2", "3", "-1", "100", "9223372036854775807", "-9223372036854775808"],
        "double precision" => &["null", "0", "-1", "1.5", "5e-324", "1e308", "'NaN'", "'Infinity'", "'-Infinity'"],
        "boolean" => &["null", "true", "false"],
        "interval" => &["null", "'0'", "'1 ms'", "'30 s'", "'-1 day'", "'1 mon'", "'-1000 years'", "'1 day -24:00:00'"],
        "timestamp with time zone" => &["null", "now()", "'epoch'", "'9999-12-31'", "'4713-01-01 BC'"],
        "jsonb" | "json" => &[
            "null",
            "'null'",
            "'{}'",
            "'[]'",
            "'1'",
            "'\"a\"'",
            "'[null, {\"a\": [1, {}]}]'",
            "'{\"type\": \"bearer\", \"token\": \"t\"}'",
            "'{\"delays\": [1, \"x\"]}'",
            "'{\"payload\": \"$.a == 1\"}'",
            "'{\"topics\": [\"#\"]}'",
            "'{\"\": \"\u{ffff}\"}'",
            "(repeat('[', 60) || repeat(']', 60))::jsonb",
            "jsonb_build_object(repeat('k', 70000), 1)",
        ],
        "bytea" => &["null", "''", "'\\x00ff'", "decode(repeat('00', 5000), 'hex')"],
        "regclass" => &["null", "'pg_class'", "'outbox.message'", "'public.fuzzed'", "4294967295::oid"],
        "regprocedure" => &["null", "'pg_catalog.lower(text)'", "4294967295::oid"],
        "oid" => &["null", "0", "4294967295"],
        "text[]" => &[
            "null",
            "'{}'",
            "'{a}'",
            "'{null}'",
            "'{#}'",
            "'{order.#,#.a}'",
            "'{{a,b},{c,d}}'",
            "'{\"\"}'",
            "array_fill('a'::text, array[2000])",
        ],
        "bigint[]" | "integer[]" | "smallint[]" => {
            &["null", "'{}'", "'{1}'", "'{null}'", "'{{1,2},{3,4}}'", "'{-1,2,32767}'"]
        }
        "jsonb[]" => &["null", "'{}'", "'{1,null}'", "array['{}'::jsonb, '[]']", "array_fill('1'::jsonb, array[1, 3])"],
        _ => &["null"],
    }
}

struct Function {
    name: String,
    is_procedure: bool,
    /// The name, the type, and whether the argument may be omitted.
    arguments: Vec<(String, String, bool)>,
}

async fn functions(db: &Client) -> Vec<Function> {
    db.query(
        "select p.proname::text, p.prokind = 'p', p.pronargdefaults::int, coalesce(p.proargnames[1:p.pronargs], '{}'),
            array(select format_type(t, null) from unnest(p.proargtypes::oid[]) with ordinality u(t, n) order by n)
        from pg_proc p
        where p.pronamespace in ('outbox'::regnamespace, 'outbox_internal'::regnamespace, 'outbox_private'::regnamespace) and p.prokind in ('f', 'p')
            and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
        order by 1, p.oid",
        &[],
    )
    .await
    .unwrap()
    .iter()
    .map(|row| {
        let (names, kinds): (Vec<String>, Vec<String>) = (row.get(3), row.get(4));
        let required = kinds.len() - row.get::<_, i32>(2) as usize;
        Function {
            name: row.get(0),
            is_procedure: row.get(1),
            arguments: kinds
                .into_iter()
                .enumerate()
                .map(|(i, kind)| (names.get(i).cloned().unwrap_or_default(), kind, i >= required))
                .collect(),
        }
    })
    .collect()
}

fn call(function: &Function, dice: &mut Dice) -> String {
    let named = function.arguments.iter().all(|(name, ..)| !name.is_empty());
    let mut arguments = Vec::new();
    for (name, kind, optional) in &function.arguments {
        if named && *optional && dice.below(3) > 0 {
            continue;
        }
        let value = format!("({})::{kind}", dice.one(values(kind)));
        arguments.push(if named { format!("\"{name}\" => {value}") } else { value });
    }
    let arguments = arguments.join(", ");
    if function.is_procedure {
        format!("call outbox.{}({arguments})", function.name)
    } else {
        format!("select count(*) from outbox.{}({arguments})", function.name)
    }
}

/// Returns whether a caller may get this SQLSTATE: a code of pg_outbox other than the internal one, or a code of
/// PostgreSQL for invalid arguments, missing rights or missing objects.
fn is_documented(state: &str) -> bool {
    Code::from_sqlstate(state).is_some_and(|code| code != Code::Internal)
        || ["42501", "42704", "42703", "42P01", "42883", "42710", "42809", "42601", "55P03", "23505"].contains(&state)
        || state.starts_with("22")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_from_every_role_is_refused_and_nothing_else() {
    const ROLES: [(&str, &[&str]); 6] = [
        ("fuzz_none", &[]),
        ("fuzz_publish", &["publish"]),
        ("fuzz_consume", &["consume"]),
        ("fuzz_observe", &["observe"]),
        ("fuzz_monitor", &["monitor"]),
        ("fuzz_admin", &["admin"]),
    ];
    let server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let receiver = Receiver::start().unwrap();
    let db = server.database("fuzz").await.unwrap();
    db.batch_execute("create table public.fuzzed (id int primary key, v jsonb); insert into fuzzed values (1, '{}')")
        .await
        .unwrap();
    for (role, capabilities) in ROLES {
        db.batch_execute(&format!("create role {role}")).await.unwrap();
        for capability in capabilities {
            db.batch_execute(&format!("select outbox.grant_to('{role}', '{capability}')")).await.unwrap();
        }
    }
    // Objects of all kinds exist, so that the ids 1, 2 and 3 are valid.
    db.execute("select outbox.create_endpoint('shop', $1)", &[&receiver.url("/shop")]).await.unwrap();
    db.batch_execute(
        "select outbox.subscribe('shop', '{order.#}', 'shop'), outbox.subscribe('jobs', '{#}', ordering => 'key');
        select outbox.create_topic('order.a'), outbox.create_publisher('me');
        select outbox.enqueue('order.a', '{\"a\": 1}', 'key') from generate_series(1, 20)",
    )
    .await
    .unwrap();
    settle(&db).await;
    db.batch_execute("select outbox.dead(lease, null, 'x') from outbox.claim('jobs', 'me')").await.unwrap();
    let before: String = one(&db, ESCALATIONS).await;

    let functions = functions(&db).await;
    assert!(functions.len() > 200, "{}", functions.len());
    let (mut dice, mut calls, mut states) = (Dice(0x9E37_79B9_7F4A_7C15), 0, BTreeMap::<String, usize>::new());
    let mut wrong = Vec::new();
    let started = Instant::now();
    for (role, capabilities) in ROLES {
        let session = server.connect("fuzz").await.unwrap();
        session.batch_execute(&format!("set role {role}; set statement_timeout = '5s'")).await.unwrap();
        for function in &functions {
            let allowed = capabilities.len() * 20 * usize::from(!function.name.starts_with('_'));
            for _ in 0..allowed.max(1) {
                let statement = call(function, &mut dice);
                calls += 1;
                let Err(error) = session.batch_execute(&statement).await else {
                    assert!(!capabilities.is_empty(), "a role without capabilities may {statement}");
                    continue;
                };
                let Some(said) = error.as_db_error() else { panic!("{role}: {statement}: {error}\n{}", server.log()) };
                let state = said.code().code();
                *states.entry(state.to_owned()).or_default() += 1;
                let waited = state == "57014" && function.name == "claim_wait";
                let text = format!("{} {:?} {:?}", said.message(), said.detail(), said.hint());
                if !(is_documented(state) || waited)
                    || text.contains("backtrace")
                    || text.contains(".rs:")
                    || text.len() > 4000
                {
                    wrong.push(format!("{role}: {statement}: {said:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {calls}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{calls} calls in {:?}: {states:?}", started.elapsed());
    assert!(calls > 3000);
    assert!(["42501", "22023", "22004", "OB001"].iter().all(|state| states.contains_key(*state)), "{states:?}");

    assert_eq!(one::<String>(&db, ESCALATIONS).await, before);
    let log = server.log();
    for sign in ["terminated by signal", "PANIC", "panicked", "TRAP"] {
        assert!(!log.contains(sign), "{sign}: {log}");
    }
    // The dispatcher is still running and delivers.
    db.execute("select outbox.create_endpoint('after', $1)", &[&receiver.url("/after")]).await.unwrap();
    db.batch_execute(
        "select outbox.subscribe('after', '{after.#}', 'after'); select outbox.enqueue('after.all', '{}')",
    )
    .await
    .unwrap();
    wait_until("what comes afterwards arrives", PATIENCE, async || receiver.at("/after").len() == 1).await;
    assert_eq!(one::<String>(&db, "select state from outbox.worker_status()").await, "running");
}

/// Selects the attributes, memberships, objects and privileges of the roles as one text, for comparison. It includes the
/// privileges that grant_to() granted.
const ESCALATIONS: &str = "
    select concat_ws(E'\\n',
        (select string_agg(r::text, ' ' order by r.rolname) from pg_roles r where r.rolname like 'fuzz%'),
        (select string_agg(m::text, ' ') from pg_auth_members m where m.member::regrole::text like 'fuzz%'),
        (select string_agg(p.oid::regprocedure::text, ' ' order by p.oid) from pg_proc p
            where p.proowner::regrole::text like 'fuzz%' or p.prosecdef and p.pronamespace not in ('outbox'::regnamespace, 'outbox_internal'::regnamespace)),
        (select string_agg(c.oid::regclass::text || ' ' || c.relacl::text, ' ' order by c.oid) from pg_class c
            where c.relacl::text like '%fuzz%'),
        (select string_agg(p.oid::regprocedure::text || ' ' || p.proacl::text, ' ' order by p.oid) from pg_proc p
            where p.proacl::text like '%fuzz%'))";
