//! The functions of message-db. `tests/message_store` has scripts, and beside each the output that message-db itself printed.
//! `MESSAGE_DB=folder` runs the scripts on a message-db, whose checkout is in the folder, and writes these files.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Server, wait_until};
use outbox_tests::{PATIENCE, bare_server, one, outbox_harness, refused, server};
use tokio::sync::Mutex;

const READY: &str = "select outbox.grant_to('message_store', c) from unnest('{publish,consume}'::text[]) c";

/// Returns a database with message_store. Its role is one for the server, so tests create it one after the other.
async fn store(server: &Server, name: &str) -> Client {
    static CREATING: Mutex<()> = Mutex::const_new(());
    let db = server.database(name).await.unwrap();
    let creating = CREATING.lock().await;
    db.batch_execute(&format!("select outbox.install_message_store(); {READY}")).await.unwrap();
    drop(creating);
    db
}

/// Writes a message and returns its position.
async fn write(db: &Client, stream: &str, kind: &str) -> i64 {
    one(db, &format!("select message_store.write_message(gen_random_uuid()::varchar, '{stream}', '{kind}', '{{}}')"))
        .await
}

/// Runs a script as the role message_store and returns what psql prints.
fn run(server: &Server, database: &str, script: &Path) -> String {
    let path = std::env::temp_dir().join(format!("{database}.{}.sql", std::process::id()));
    let before = "\\set ECHO none\nset role message_store;\nset search_path = message_store;\n\\set ECHO all\n";
    fs::write(&path, format!("{before}{}", fs::read_to_string(script).unwrap())).unwrap();
    let psql = server.install.command("psql");
    let output = Command::new("sh")
        .args(["-c", "exec \"$@\" 2>&1 < \"$0\""])
        .arg(&path)
        .arg(psql.get_program())
        .args(psql.get_args())
        .args(["-X", "-q", "-P", "pager=off", "-v", "VERBOSITY=verbose", "-v", "SHOW_CONTEXT=never"])
        .arg(server.dsn(database))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    fs::remove_file(&path).unwrap();
    // These say where in the source an error was raised, and that the ids have a table of their own.
    let place = |line: &&str| !line.starts_with("LOCATION:") && !line.starts_with("TABLE NAME:");
    String::from_utf8_lossy(&output.stdout).lines().filter(place).map(|line| format!("{line}\n")).collect()
}

/// Installs message-db itself.
async fn original(server: &Server, name: &str, checkout: &Path) {
    let db = server.empty_database(name).await.unwrap();
    db.batch_execute("set search_path = message_store, public").await.unwrap();
    for folder in ["roles", "schema", "types", "tables", "functions", "indexes", "views", "privileges"] {
        let mut files: Vec<PathBuf> =
            fs::read_dir(checkout.join("database").join(folder)).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        for file in files {
            db.batch_execute(&fs::read_to_string(&file).unwrap()).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_print_what_message_db_printed() {
    let server = bare_server().await;
    let checkout = std::env::var_os("MESSAGE_DB").map(PathBuf::from);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("message_store");
    let mut scripts: Vec<_> = fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|e| e == "sql"));
    scripts.sort();
    assert!(scripts.len() >= 5, "{scripts:?}");
    for script in scripts {
        let name = format!("messagedb_{}", script.file_stem().unwrap().to_string_lossy());
        let expected = script.with_extension("out");
        if let Some(checkout) = &checkout {
            original(server, &name, checkout).await;
            fs::write(&expected, run(server, &name, &script)).unwrap();
        } else {
            drop(store(server, &name).await);
            let (printed, expected) = (run(server, &name, &script), fs::read_to_string(&expected).unwrap());
            for (line, (ours, theirs)) in (1..).zip(printed.lines().zip(expected.lines())) {
                assert_eq!(ours, theirs, "{}, line {line}", script.display());
            }
            assert_eq!(printed.lines().count(), expected.lines().count(), "{}", script.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_waits_for_another_gets_the_error_of_message_db() {
    let server = bare_server().await;
    let db = store(server, "messagedb_race").await;
    let other = server.connect("messagedb_race").await.unwrap();
    let pid: i32 = one(&other, "select pg_backend_pid()").await;
    db.batch_execute("begin").await.unwrap();
    assert_eq!(write(&db, "account-1", "Opened").await, 0);
    let waiting = tokio::spawn(async move {
        refused(
            &other,
            "select message_store.write_message(gen_random_uuid()::varchar, 'account-1', 'Opened', '{}', null, -1)",
        )
        .await
    });
    wait_until("the second writer waits", PATIENCE, async || {
        one::<i64>(&db, &format!("select count(*) from pg_locks where pid = {pid} and not granted")).await == 1
    })
    .await;
    db.batch_execute("commit").await.unwrap();
    let error = waiting.await.unwrap();
    assert_eq!(error.code().code(), "P0001");
    assert_eq!(error.message(), "Wrong expected version: -1 (Stream: account-1, Stream Version: 0)");
    // A transaction that writes to many streams leaves room in the table of locks.
    db.batch_execute(
        "begin; select message_store.write_message(gen_random_uuid()::varchar, 'many-' || i, 'Opened', '{}', null, -1)
            from generate_series(1, 200) i",
    )
    .await
    .unwrap();
    let held = "select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'";
    assert_eq!(one::<i64>(&db, held).await, 64);
    db.batch_execute("commit").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_events_with_positions_from_the_dispatcher() {
    let server = server().await;
    let db = store(server, "messagedb_worker").await;
    db.batch_execute("set role message_store").await.unwrap();
    for n in 0..5 {
        assert_eq!(write(&db, "account-1", "Opened").await, n);
    }
    // Events of pg_outbox's own functions are messages too, and have an id.
    db.batch_execute(
        "select outbox.append('account-2', 'Opened', '{}'); select outbox.append_bytes('other-1', '{Opened}', '{x}')",
    )
    .await
    .unwrap();
    wait_until("all have their places", PATIENCE, async || {
        one::<i64>(&db, "select count(*) from message_store.get_category_messages('account')").await == 6
    })
    .await;
    let places = "select array_agg(m.global_position order by m.position) = array_agg(e.position order by e.version)
        from message_store.get_stream_messages('account-1') m
        join outbox.load('account-1', positions => true) e on e.event_id::text = m.id and e.version = m.position + 1";
    assert!(one::<bool>(&db, places).await);
    let own = "select id is not null and position = 0 from message_store.get_last_stream_message('account-2')";
    assert!(one::<bool>(&db, own).await);
    assert_eq!(one::<i64>(&db, "select count(distinct id) from message_store.messages").await, 7);
    assert_eq!(one::<Option<String>>(&db, "select data from message_store.get_stream_messages('other-1')").await, None);
    // Messages of the transaction have no place yet.
    db.batch_execute("begin").await.unwrap();
    write(&db, "account-3", "Opened").await;
    let place = "select global_position from message_store.get_stream_messages('account-3')";
    assert_eq!(one::<Option<i64>>(&db, place).await, None);
    db.batch_execute("rollback").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_goes_through_many_pages_and_truncated_streams() {
    let server = bare_server().await;
    let db = store(server, "messagedb_pages").await;
    db.batch_execute(
        "select outbox.append_many('big-1', array_fill('A'::text, array[9000]), array_fill('{}'::jsonb, array[9000]));
        select outbox.append_many('rare-1', array_fill('B'::text, array[3]), array_fill('{}'::jsonb, array[3]));
        select outbox.append_many('big-1', array_fill('A'::text, array[9000]), array_fill('{}'::jsonb, array[9000]));
        select outbox.append('big-1', 'Z', '{\"n\": 1}', metadata => '{\"correlationStreamName\": \"cause-1\"}')",
    )
    .await
    .unwrap();
    assert_eq!(one::<i64>(&db, "select outbox.tick()").await, 18_004);
    db.batch_execute(
        "select outbox.truncate_stream('big-1', 5, 'old');
        set role message_store; set message_store.sql_condition = 'on'",
    )
    .await
    .unwrap();
    for (query, count) in [
        ("get_stream_messages('big-1', 0, -1)", 17_997),
        ("get_stream_messages('big-1', 0, 10500)", 10_500),
        ("get_stream_messages('big-1')", 1000),
        ("get_stream_messages('big-1', 0, 1, 'type = ''Z''')", 1),
        ("get_stream_messages('big-1', 17999)", 2),
        ("get_last_stream_message('big-1', 'Z')", 1),
        ("get_last_stream_message('big-1', 'Y')", 0),
        ("get_category_messages('rare')", 3),
        ("get_category_messages('big', 1, -1)", 17_997),
        ("get_category_messages('big', 1, 10001)", 10_001),
        ("get_category_messages('big', correlation => 'cause')", 1),
        ("get_category_messages('big', 1, 1, null, 0, 1, '(data ->> ''n'')::int = 1')", 1),
        ("messages", 18_000),
        ("stream_summary", 2),
    ] {
        assert_eq!(one::<i64>(&db, &format!("select count(*) from message_store.{query}")).await, count, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_has_the_functions_their_grants_and_the_messages() {
    let server = bare_server().await;
    let db = store(server, "messagedb_dumped").await;
    write(&db, "account-1", "Opened").await;
    let read = "select id || type || global_position from message_store.get_category_messages('account')";
    let before: String = one(&db, read).await;
    drop(server.empty_database("messagedb_restored").await.unwrap());
    let dump = server.install.command("pg_dump").arg(server.dsn("messagedb_dumped")).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let mut psql = server.install.command("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1"]).arg(server.dsn("messagedb_restored"));
    let mut restore = psql.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    restore.stdin.take().unwrap().write_all(&dump.stdout).unwrap();
    assert!(restore.wait().unwrap().success());
    let copy = server.connect("messagedb_restored").await.unwrap();
    copy.batch_execute("select outbox.adopt('test')").await.unwrap();
    copy.batch_execute("set role message_store").await.unwrap();
    assert_eq!(one::<String>(&copy, read).await, before);
    // Ids that were written before the dump are not written again.
    let again = "select message_store.write_message((message_store.get_last_stream_message('account-1')).id, 'account-2', 'Opened', '{}')";
    assert_eq!(refused(&copy, again).await.code().code(), "23505");
    assert_eq!(write(&copy, "account-1", "Closed").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_have_the_rights_of_their_caller() {
    let server = bare_server().await;
    let db = store(server, "messagedb_rights").await;
    db.batch_execute(
        "create table secret (n int); insert into secret values (7);
        create schema trap; grant all on schema trap to public;
        create role messagedb_stranger; create role messagedb_reader in role message_store;
        set role message_store; set message_store.sql_condition = 'on'",
    )
    .await
    .unwrap();
    write(&db, "account-1", "Opened").await;
    // Functions of the caller's path do not take the place of those that the functions use.
    db.batch_execute(
        "create function trap.category(varchar) returns varchar language sql as $$ select 'trapped'::varchar $$;
        create function trap.count(bigint) returns bigint language sql as $$ select -1::bigint $$;
        set search_path = trap, message_store, pg_catalog",
    )
    .await
    .unwrap();
    let seen = "select count(*) from message_store.get_category_messages('account', condition => 'category(stream_name) = ''account''')";
    assert_eq!(one::<i64>(&db, seen).await, 1);
    db.batch_execute("reset search_path").await.unwrap();
    for (condition, code) in [
        ("exists (select from public.secret)", "42501"),
        ("pg_read_file(''pg_hba.conf'') is null", "42501"),
        // One statement is one statement.
        (
            "true) is true as passes from message_store._stream_page(''a-1'', 1, 1) messages; create table trap.t (); select (true",
            "42P11",
        ),
        ("true); create table trap.t (); --", "42601"),
    ] {
        for function in ["get_stream_messages('account-1', ", "get_category_messages('account', "] {
            let error =
                refused(&db, &format!("select * from message_store.{function} condition => '{condition}')")).await;
            let is = error.code().code();
            assert_eq!(is, code, "{condition}: {error:?}");
        }
    }
    assert!(one::<bool>(&db, "select to_regclass('trap.t') is null").await);
    // Conditions are off unless the caller has switched them on.
    for setting in ["off", "", "true"] {
        db.batch_execute(&format!("set message_store.sql_condition = '{setting}'")).await.unwrap();
        let error =
            refused(&db, "select * from message_store.get_stream_messages('account-1', condition => 'true')").await;
        assert_eq!(error.message(), "Retrieval with SQL condition is not activated");
    }
    // Another role reaches nothing, and a member of the role reaches what it reaches.
    let read = "select * from message_store.get_stream_messages('account-1')";
    for (role, code) in [("messagedb_stranger", Some("42501")), ("messagedb_reader", None)] {
        db.batch_execute(&format!("set role {role}")).await.unwrap();
        let is = db.simple_query(read).await.err().map(|e| e.as_db_error().unwrap().code().code().to_owned());
        assert_eq!(is.as_deref(), code, "{role}");
    }
    // A capability that is narrowed, or that is not there, holds for these functions too.
    db.batch_execute(
        "reset role; select outbox.grant_to('message_store', 'publish', topics => '{Closed}'); set role message_store",
    )
    .await
    .unwrap();
    let write = "select message_store.write_message(gen_random_uuid()::varchar, 'account-1', 'Opened', '{}', null, 0)";
    assert_eq!(refused(&db, write).await.code().code(), "42501");
    db.batch_execute(&write.replace("Opened", "Closed")).await.unwrap();
    db.batch_execute("reset role; select outbox.revoke_from('message_store', 'consume'); set role message_store")
        .await
        .unwrap();
    assert_eq!(refused(&db, read).await.code().code(), "42501");
    // Calling it again, after an upgrade, gives back nothing that was taken.
    db.batch_execute("reset role; select outbox.install_message_store(); set role message_store").await.unwrap();
    assert_eq!(refused(&db, read).await.code().code(), "42501");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_or_role_that_somebody_else_created_is_not_trusted() {
    let server = Server::start_plain(&[]).await.unwrap();
    let db = server.database("messagedb_first").await.unwrap();
    let install = "select outbox.install_message_store()";
    let capabilities = "select count(*) from outbox.grants where role = 'message_store'";
    // The first call creates the role.
    db.batch_execute(install).await.unwrap();
    assert_eq!(one::<i64>(&db, capabilities).await, 2);
    db.batch_execute("set role message_store").await.unwrap();
    assert_eq!(write(&db, "account-1", "Opened").await, 0);
    assert_eq!(refused(&db, install).await.code().code(), "42501");
    // In the next database the role is there already.
    let db = server.database("messagedb_second").await.unwrap();
    db.batch_execute(install).await.unwrap();
    assert_eq!(one::<i64>(&db, capabilities).await, 0);

    let db = server.database("messagedb_third").await.unwrap();
    db.batch_execute("create role somebody; create schema message_store authorization somebody").await.unwrap();
    assert_eq!(refused(&db, install).await.code().code(), "42501");
    db.batch_execute("drop schema message_store; create schema message_store; create table message_store.messages ()")
        .await
        .unwrap();
    assert_eq!(refused(&db, install).await.code().code(), "42P06");
    assert_eq!(
        one::<i64>(&db, "select count(*) from pg_proc where pronamespace = 'message_store'::regnamespace").await,
        0
    );
}
