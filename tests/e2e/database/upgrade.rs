//! ALTER EXTENSION UPDATE and pg_upgrade produce the same schema as CREATE EXTENSION, and messages keep arriving.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use outbox_harness::postgres::{Install, fresh_folder, own, root, schema_files};
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, Stop, wait_until};
use outbox_tests::{PATIENCE, bare_server, explain, one, outbox_harness, refused, rows, server, settle};

/// Everything that the catalogs say about the extension, by object.
const DESCRIBE: &str = r#"
with acl(kind, oid, acl) as (
    select 'r', c.oid, coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner))
    from pg_class c where c.relnamespace = 'outbox'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
    union all
    select 'f', p.oid, coalesce(p.proacl, acldefault('f', p.proowner))
    from pg_proc p where p.pronamespace in ('outbox'::regnamespace, 'outbox_internal'::regnamespace, 'outbox_private'::regnamespace)
)
select 'function ' || p.oid::regprocedure as what, pg_get_functiondef(p.oid) as is
from pg_proc p where p.pronamespace in ('outbox'::regnamespace, 'outbox_internal'::regnamespace, 'outbox_private'::regnamespace) and p.prokind in ('f', 'p')
union all
select 'relation ' || c.relname, format('%s %s %s %s', c.relkind, c.relpersistence, c.reloptions, c.relreplident)
from pg_class c where c.relnamespace = 'outbox'::regnamespace
union all
select 'column ' || c.relname || '.' || a.attname,
    format('%s %s %s %s %s %s', a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage, a.attidentity,
        pg_get_expr(d.adbin, d.adrelid))
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace = 'outbox'::regnamespace and c.relkind in ('r', 'p', 'v', 'c')
union all
select 'view ' || c.relname, pg_get_viewdef(c.oid)
from pg_class c where c.relnamespace = 'outbox'::regnamespace and c.relkind = 'v'
union all
select 'index ' || i.indexrelid::regclass, pg_get_indexdef(i.indexrelid)
from pg_index i join pg_class c on c.oid = i.indrelid where c.relnamespace = 'outbox'::regnamespace
union all
select 'constraint ' || c.relname || '.' || k.conname, pg_get_constraintdef(k.oid)
from pg_constraint k join pg_class c on c.oid = k.conrelid where c.relnamespace = 'outbox'::regnamespace
union all
select 'trigger ' || c.relname || '.' || t.tgname, t.tgenabled::text || pg_get_triggerdef(t.oid)
from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace = 'outbox'::regnamespace and not t.tgisinternal
union all
select 'sequence ' || s.seqrelid::regclass, format('%s %s %s %s %s %s', s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmin,
    s.seqmax, s.seqcache)
from pg_sequence s join pg_class c on c.oid = s.seqrelid where c.relnamespace = 'outbox'::regnamespace
union all
select 'privileges ' || case a.kind when 'r' then a.oid::regclass::text else a.oid::regprocedure::text end,
    (select string_agg(format('%s:%s', case x.grantee when 0 then 'PUBLIC' else x.grantee::regrole::text end, x.privilege_type), ' '
        order by 1) from aclexplode(a.acl) x)
from acl a
union all
select 'comment ' || pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description
from pg_description d
where exists (
    select from pg_depend e where e.classid = d.classoid and e.objid = d.objoid and e.deptype = 'e'
        and e.refclassid = 'pg_extension'::regclass
        and e.refobjid = (select x.oid from pg_extension x where x.extname = 'pg_outbox')
)
union all
select 'member ' || pg_describe_object(e.classid, e.objid, e.objsubid), ''
from pg_depend e
where e.deptype = 'e' and e.refclassid = 'pg_extension'::regclass
    and e.refobjid = (select x.oid from pg_extension x where x.extname = 'pg_outbox')
union all
select 'dumped ' || d.oid::regclass, x.extcondition[d.ord]
from pg_extension x, unnest(x.extconfig) with ordinality d(oid, ord) where x.extname = 'pg_outbox'
union all
select 'ring ' || r.name, r.leaves::text from outbox._ring r
union all
select 'capability ' || c.capability || ' ' || c.object, '' from outbox._capability c"#;

async fn describe(db: &Client) -> BTreeMap<String, String> {
    let found = rows(db, DESCRIBE).await;
    assert!(found.len() > 500, "only {} things", found.len());
    found
        .into_iter()
        .map(|row| (row["what"].clone().unwrap_or_default(), row["is"].clone().unwrap_or_default()))
        .collect()
}

/// Returns the differences, as text for people.
fn differences(fresh: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Vec<String> {
    let mut all: Vec<String> = fresh
        .iter()
        .filter(|(what, is)| other.get(*what) != Some(is))
        .map(|(what, is)| format!("{what}: {is} | {}", other.get(what).map_or("missing", String::as_str)))
        .collect();
    all.extend(other.keys().filter(|what| !fresh.contains_key(*what)).map(|what| format!("{what}: too much")));
    all
}

/// Scripts of other versions, beside the installed ones. They are removed when the value is dropped.
struct Scripts(Vec<PathBuf>);

impl Scripts {
    fn add(&mut self, server: &Server, name: &str, sql: &str) {
        let output = server.install.command("pg_config").arg("--sharedir").output().unwrap();
        let share = String::from_utf8(output.stdout).unwrap();
        let path = Path::new(share.trim()).join("extension").join(name);
        fs::write(&path, sql).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        self.0.push(path);
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

const CURRENT: &str = env!("CARGO_PKG_VERSION");

/// Makes a version that lacks one file of the schema, and the update script that adds the file, as in a release that has
/// a new file.
fn version_without(server: &Server, left_out: &str, scripts: &mut Scripts) -> String {
    let files = schema_files().unwrap();
    let (mut old, mut update) = (String::new(), String::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        if file.ends_with(left_out) { &mut update } else { &mut old }.push_str(&text);
    }
    assert!(!update.is_empty());
    update.push_str("revoke all on all functions in schema outbox, outbox_internal, outbox_private from public;\n");
    // Tests that run at the same time do not share scripts, because each test removes its scripts.
    static MADE: AtomicU32 = AtomicU32::new(0);
    let made = MADE.fetch_add(1, Ordering::Relaxed);
    let version = format!("before{}x{made}{}", std::process::id(), left_out.replace(['/', '.'], ""));
    scripts.add(server, &format!("pg_outbox--{version}.sql"), &old);
    scripts.add(server, &format!("pg_outbox--{version}--{CURRENT}.sql"), &update);
    version
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgraded_schema_is_a_fresh_one() {
    let server = bare_server().await;
    let fresh = describe(&server.database("fresh").await.unwrap()).await;
    let mut scripts = Scripts(Vec::new());
    let mut versions = vec![version_without(server, "observe/health.sql", &mut scripts)];
    for entry in fs::read_dir(root().join("sql/release")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if let Some(version) = name.strip_prefix("pg_outbox--").and_then(|n| n.strip_suffix(".sql"))
            && version != CURRENT
        {
            scripts.add(server, &name, &fs::read_to_string(&path).unwrap());
            versions.push(version.to_owned());
        }
    }
    for (i, version) in versions.iter().enumerate() {
        let db = server.empty_database(&format!("upgraded_{i}")).await.unwrap();
        db.batch_execute(&format!("create extension pg_outbox version '{version}'")).await.unwrap();
        assert_ne!(differences(&fresh, &describe(&db).await), Vec::<String>::new(), "{version} is another one");
        // The database has data when it is updated.
        db.batch_execute("select outbox.enqueue('a.b', '{}')").await.unwrap();
        db.batch_execute("alter extension pg_outbox update")
            .await
            .unwrap_or_else(|e| panic!("{version}: {}", explain(&e)));
        let found = differences(&fresh, &describe(&db).await);
        assert!(found.is_empty(), "from {version}:\n{}", found.join("\n"));
        assert_eq!(one::<i64>(&db, "select outbox.tick()").await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_of_any_kind_is_seen() {
    let server = bare_server().await;
    let db = server.database("differing").await.unwrap();
    let fresh = describe(&db).await;
    for change in [
        "create or replace function outbox.is_terminal(state text) returns boolean language sql immutable strict parallel safe return true",
        "alter function outbox.head() reset search_path",
        "alter extension pg_outbox drop function outbox.head()",
        "alter table outbox.cursor add column more int",
        "alter table outbox.audit alter column actor drop not null",
        "alter table outbox.cursor alter column created_at drop default",
        "alter table outbox._feed_07 alter column message_ids set storage extended",
        "drop index outbox._message_03_xid",
        "alter table outbox.dead_letter drop constraint dead_letter_state_check",
        "drop trigger immutable on outbox.feed",
        "alter table outbox.message disable trigger immutable",
        "alter sequence outbox._message_id cache 10",
        "grant select on outbox.message to public",
        "grant execute on function outbox.tick() to public",
        "comment on function outbox.head is 'another'",
        "delete from outbox._capability where object = 'function outbox.health'",
        "update pg_extension set extconfig = extconfig[2:], extcondition = extcondition[2:] where extname = 'pg_outbox'",
        "create view outbox.more as select 1 as one",
    ] {
        db.batch_execute("begin").await.unwrap();
        db.batch_execute(change).await.unwrap_or_else(|e| panic!("{change}: {}", explain(&e)));
        assert!(!differences(&fresh, &describe(&db).await).is_empty(), "not seen: {change}");
        db.batch_execute("rollback").await.unwrap();
    }
    assert_eq!(differences(&fresh, &describe(&db).await), Vec::<String>::new());
}

async fn shop(db: &Client, receiver: &Receiver) {
    // The circuit breaker is off, so that failing deliveries go on being attempted.
    db.execute("select outbox.create_endpoint('shop', $1, breaker => '{\"failures\": 0}')", &[&receiver.url("/hook")])
        .await
        .unwrap();
    db.batch_execute("select outbox.subscribe('orders', '{order.#}', 'shop', max_attempts => 100)").await.unwrap();
}

async fn enqueue(db: &Client, count: i32) {
    db.execute("select outbox.enqueue('order.created', '{}') from generate_series(1, $1::int)", &[&count])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_library_works_on_the_older_schema_and_an_update_under_load_loses_nothing() {
    let server = server().await;
    let receiver = Receiver::start().unwrap();
    let mut scripts = Scripts(Vec::new());
    let version = version_without(server, "observe/health.sql", &mut scripts);
    let db = server.empty_database("older").await.unwrap();
    db.batch_execute(&format!("create extension pg_outbox version '{version}'")).await.unwrap();
    shop(&db, &receiver).await;
    enqueue(&db, 100).await;
    settle(&db).await;
    assert_eq!(receiver.total(), 100);
    enqueue(&db, 2000).await;
    wait_until("it is busy", PATIENCE, async || receiver.total() > 150).await;
    db.batch_execute("alter extension pg_outbox update").await.unwrap();
    enqueue(&db, 100).await;
    settle(&db).await;
    assert_eq!(receiver.total(), 2200);
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.health() where state = 'critical'").await, 0);
}

/// The number of the quarterly release to which a minor version belongs, counted from 15.0. Minor versions of all major
/// versions are released together: https://www.postgresql.org/support/versioning/.
fn release(install: &Install) -> u32 {
    let output = install.command("postgres").arg("--version").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let minor = text.split_whitespace().nth(2).and_then(|version| version.split('.').nth(1)).unwrap_or_default();
    let minor: u32 = minor.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
    let first = match install.major {
        15 => 0,
        16 => 4,
        17 => 8,
        _ => 14,
    };
    minor + first
}

/// Returns whether the library is installed in this PostgreSQL, with exactly the current schema.
fn is_installed(install: &Install) -> bool {
    let ask = |what: &str| {
        let output = install.command("pg_config").arg(what).output().unwrap();
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    };
    let files = schema_files().unwrap();
    let schema: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let installed = ask("--sharedir").join("extension").join(format!("pg_outbox--{CURRENT}.sql"));
    ask("--pkglibdir").join("pg_outbox.so").exists() && fs::read_to_string(installed).is_ok_and(|sql| sql == schema)
}

/// Makes a cluster of the newer version from a stopped one with pg_upgrade.
fn pg_upgrade(old: &Install, old_data: &Path, new: &Install) -> PathBuf {
    let data = fresh_folder(&format!("upgraded_to_{}", new.major)).unwrap();
    own(&data).unwrap();
    let mut initdb = new.command("initdb");
    initdb.args(["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"]).arg(&data);
    if new.major >= 18 {
        // Both clusters must agree about checksums, and the default has changed.
        initdb.arg("--no-data-checksums");
    }
    let output = initdb.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for data in [old_data, data.as_path()] {
        fs::write(data.join("pg_hba.conf"), "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n").unwrap();
        own(data).unwrap();
    }
    let work = fresh_folder("pg_upgrade").unwrap();
    own(&work).unwrap();
    let output = new
        .command("pg_upgrade")
        .current_dir(&work)
        .arg("-b")
        .arg(&old.bin)
        .arg("-B")
        .arg(&new.bin)
        .arg("-d")
        .arg(old_data)
        .arg("-D")
        .arg(&data)
        .args(["-U", "postgres", "-s"])
        .arg("/tmp")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "from {} to {}: {}{}",
        old.major,
        new.major,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    data
}

/// Selects the values that must be the same after the upgrade.
const INVENTORY: &str =
    "select format('head %s, messages %s, kept %s, attempts %s, deliveries %s, cursor %s, epoch %s', outbox.head(),
    (select count(*) from outbox.message), (select count(*) from outbox._message_retained),
    (select count(*) from outbox.attempt), (select count(*) from outbox.delivery),
    (select position from outbox.cursor_get('reader')), (select max(epoch) from outbox.epoch))";

/// Starts the server without launcher and dispatchers, reads the inventory, and stops the server.
async fn inventory(server: &mut Server) -> String {
    server.set("shared_preload_libraries", "");
    server.run().await.unwrap();
    let found = one(&server.connect("shop").await.unwrap(), INVENTORY).await;
    server.stop(Stop::Fast).unwrap();
    server.set("shared_preload_libraries", "pg_outbox");
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pg_upgrade_keeps_everything_and_goes_on_by_itself() {
    let newest = Install::find().unwrap();
    // The chain goes from the oldest installed version over all others, for instance 15, 16, 18.
    // A minor release may store what an older minor release of the next version does not know, so it is left out.
    let mut chain: Vec<Install> = (15..newest.major)
        .filter_map(Install::of_major)
        .filter(|old| is_installed(old) && release(old) <= release(&newest))
        .collect();
    if chain.is_empty() {
        eprintln!(
            "skipped: `PG=16 scripts/install` installs the library for 16 (`scripts/setup pg15` fetches 15), to upgrade to {}",
            newest.major
        );
        return;
    }
    chain.push(newest);
    let settings = [("shared_preload_libraries", "pg_outbox"), ("pg_outbox.poll_interval", "500ms")];
    let receiver = Receiver::start().unwrap();
    let mut server = Server::init(chain[0].clone(), fresh_folder("oldest").unwrap(), &settings).unwrap();
    server.run().await.unwrap();
    let db = server.database("shop").await.unwrap();
    shop(&db, &receiver).await;
    db.batch_execute("select outbox.subscribe('pulled', '{order.#}')").await.unwrap();
    enqueue(&db, 50).await;
    db.batch_execute(
        "select outbox.append(s || '-1', s || '.changed', '{}') from unnest('{cart,order,cart}'::text[]) s",
    )
    .await
    .unwrap();
    settle(&db).await;
    // The lists of categories.
    db.batch_execute("select * from outbox.maintain()").await.unwrap();
    db.batch_execute("select outbox.close_stream('cart-1', 'sold')").await.unwrap();
    db.batch_execute("select outbox.cursor_advance('reader', outbox.head() - 5)").await.unwrap();
    drop(db);
    let mut enqueued = 50;
    for pair in chain.windows(2) {
        let (old, new) = (&pair[0], &pair[1]);
        let db = server.connect("shop").await.unwrap();
        // The backlog: these deliveries fail and wait, ...
        receiver.on("/hook", |_, _| Reply::status(503));
        enqueue(&db, 20).await;
        settle(&db).await;
        // ... and these messages are committed and not numbered.
        let holder = server.connect("shop").await.unwrap();
        holder.batch_execute("begin; lock table outbox._sequencer in exclusive mode").await.unwrap();
        enqueue(&db, 10).await;
        db.batch_execute("select outbox.append('order-1', 'order.changed', '{}')").await.unwrap();
        enqueued += 30;
        server.stop(Stop::Fast).unwrap();
        drop((db, holder));
        let total = receiver.total();

        // The inventory is taken without dispatchers, before and after the upgrade.
        let had = inventory(&mut server).await;
        let data = pg_upgrade(old, &server.data, new);
        let password = server.password().to_owned();
        server = Server::on(new.clone(), data, password, &settings);
        assert_eq!(inventory(&mut server).await, had, "from {} to {}", old.major, new.major);

        receiver.on("/hook", |_, _| Reply::status(200));
        server.run().await.unwrap();
        let db = server.connect("shop").await.unwrap();
        wait_until("the late ones have arrived", PATIENCE, async || receiver.total() >= total + 10).await;
        settle(&db).await;
        db.batch_execute(
            "update outbox.delivery set due_at = now() where not pull; select outbox_internal.deliveries_changed()",
        )
        .await
        .unwrap();
        wait_until("what was waiting has arrived", PATIENCE, async || receiver.total() >= total + 30).await;
        settle(&db).await;
        let behind: i64 = one(&db, "select outbox.head() - (select position from outbox.cursor_get('reader'))").await;
        assert_eq!(one::<i64>(&db, "select lag_positions from outbox.cursor_get('reader')").await, behind);
        let critical: Option<String> =
            one(&db, "select string_agg(h.culprit, ',') from outbox.health() h where h.state = 'critical'").await;
        assert_eq!(critical, None);
    }
    let db = server.connect("shop").await.unwrap();
    // Events keep their versions and their order, and their streams go on or stay closed.
    let upgrades = chain.len() as i64 - 1;
    let events = "select array_agg(stream || version order by position) from outbox.read_events(0, categories => ";
    let order: Vec<String> = (1..=upgrades + 1).map(|version| format!("order-1{version}")).collect();
    assert_eq!(one::<Vec<String>>(&db, &format!("{events}'{{order}}')")).await, order);
    assert_eq!(one::<Vec<String>>(&db, &format!("{events}'{{cart}}')")).await, ["cart-11", "cart-12"]);
    assert_eq!(one::<i64>(&db, "select outbox.append('order-1', 'order.changed', '{}')").await, upgrades + 2);
    assert_eq!(refused(&db, "select outbox.append('cart-1', 'cart.changed', '{}')").await.code().code(), "OB014");
    assert_eq!(one::<i64>(&db, "select count(*) from outbox.claim('pulled', 'w', 1000)").await, enqueued);
    let ids: i64 = one(
        &db,
        "select count(distinct message_id) from outbox.attempt where outcome = 'completed' and endpoint_id is not null",
    )
    .await;
    assert_eq!(ids, enqueued);
}
