//! Checks an installation from a client's side.

use serde_json::{Value, json};

use crate::{output, run, screen};
use pg_outbox::error::{Error, Result};
use pg_outbox::outbox::Outbox;
use pg_outbox::tokio_postgres::Row;

/// Asks for everything about the server and the role in one query. The columns are read by their number.
const FACTS: &str = "\
    select current_setting('server_version_num')::int, current_setting('server_version'), current_user::text, \
    (select g.setting from pg_settings g where g.name = 'shared_preload_libraries'), pg_is_in_recovery(), \
    coalesce((select x.extversion from pg_extension x where x.extname = 'pg_outbox'), ''), \
    coalesce((select a.default_version from pg_available_extensions a where a.name = 'pg_outbox'), ''), \
    (select count(*) from pg_stat_activity s where s.backend_xmin is not null and s.xact_start < now() - interval '5 min'), \
    current_setting('max_worker_processes')::int, \
    has_schema_privilege(current_user, coalesce((select oid from pg_namespace where nspname = 'outbox'), 0), 'usage'), \
    format('database %s at %s port %s', current_database(), coalesce(host(inet_server_addr()), 'a local socket'), \
    current_setting('port'))";

/// The column of `FACTS` with the installed version of the extension, which is empty without the extension.
const INSTALLED: usize = 5;

/// The results of the checks, one row each.
#[derive(Default)]
struct Findings(Vec<Value>);

impl Findings {
    /// Adds a result. `what_to_do` counts only if the check failed.
    fn add(&mut self, check: &str, ok: bool, seen: String, what_to_do: &str) {
        let what_to_do = if ok { "" } else { what_to_do };
        self.0.push(
            json!({"check": check, "state": if ok { "ok" } else { "wrong" }, "seen": seen, "what_to_do": what_to_do}),
        );
    }

    fn add_error(&mut self, check: &str, error: &Error, what_to_do: &str) {
        self.add(check, false, error.report().replace('\n', "; "), what_to_do);
    }
}

/// Runs all checks and prints them. Returns exit code 1 if something is wrong.
pub(super) async fn run(dsn: Option<&str>, json: bool) -> Result<u8> {
    let mut findings = Findings::default();
    let outbox = run::lazy(dsn, 1)?;
    match outbox.session().await {
        Err(error) => findings.add_error(
            "connection",
            &error,
            "check the connection string, PGHOST and PGUSER, and that the server runs",
        ),
        Ok(session) => {
            let rows = session.query_typed(FACTS, &[]).await?;
            // The next checks need the only session of the pool.
            drop(session);
            let row = rows.first().ok_or_else(|| Error::connection("the server answered nothing"))?;
            check_server(&mut findings, row);
            let installed: String = row.get(INSTALLED);
            if !installed.is_empty() {
                check_outbox(&mut findings, &outbox).await;
            }
        }
    }
    let Findings(mut found) = findings;
    found.sort_by_key(|row| row["state"] == "ok");
    if json {
        output::rows(json, &found, &[]);
    } else {
        print!("{}", report(&found, output::width()));
    }
    Ok(u8::from(found.iter().any(|row| row["state"] != "ok")))
}

/// The results as text: what is wrong comes first, with what to do, and nothing is cut.
fn report(found: &[Value], width: Option<usize>) -> String {
    let longest = found.iter().filter_map(|row| row["check"].as_str()).map(str::len).max().unwrap_or(0);
    let mut out = String::new();
    for row in found {
        let text = |name: &str| output::text(&row[name]);
        out += &output::hang(&format!("{:5}  {:longest$}  ", text("state"), text("check")), &text("seen"), width);
        if row["state"] != "ok" {
            out += &output::hang("       -> ", &text("what_to_do"), width);
            if let Some(command) = screen::command_for(&text("check")).filter(|command| *command != "outbox doctor") {
                out += &format!("       $ {command}\n");
            }
        }
    }
    out
}

/// Checks the row of `FACTS`.
fn check_server(findings: &mut Findings, row: &Row) {
    let text = |i: usize| row.get::<_, String>(i);
    let version: i32 = row.get(0);
    findings.add("connection", true, format!("{}, as {}", text(10), text(2)), "");
    findings.add("PostgreSQL", version >= 150_000, text(1), "PostgreSQL 15 to 18 is needed");
    // Only roles with pg_read_all_settings see this setting; for any other role it is null.
    let libraries: Option<String> = row.get(3);
    let preloaded =
        libraries.as_deref().is_none_or(|all| all.split(',').any(|name| name.trim().trim_matches('"') == "pg_outbox"));
    findings.add(
        "preloading",
        preloaded,
        libraries.map_or_else(
            || "not visible to this role (pg_read_all_settings)".to_owned(),
            |all| format!("shared_preload_libraries = '{all}'"),
        ),
        "set shared_preload_libraries = 'pg_outbox' and restart the server: without it nothing is pushed",
    );
    let recovery: bool = row.get(4);
    findings.add(
        "standby",
        !recovery,
        if recovery { "this is a standby" } else { "no" }.to_owned(),
        "connect to the primary to write",
    );
    let (installed, available) = (text(INSTALLED), text(6));
    findings.add(
        "extension",
        !installed.is_empty(),
        if installed.is_empty() { "not in this database".to_owned() } else { installed.clone() },
        "create extension pg_outbox",
    );
    findings.add(
        "update",
        installed.is_empty() || available.is_empty() || installed == available,
        format!("installed {installed}, available {available}"),
        "alter extension pg_outbox update",
    );
    let old: i64 = row.get(7);
    findings.add(
        "held snapshots",
        old == 0,
        format!("{old} older than 5 minutes"),
        "look into pg_stat_activity; the outbox does not slow down, but the rest of the database bloats",
    );
    let workers: i32 = row.get(8);
    findings.add(
        "worker processes",
        workers >= 8,
        format!("max_worker_processes = {workers}"),
        "one for the launcher and one for each database with an outbox",
    );
    let usage: Option<bool> = row.get(9);
    findings.add(
        "privilege",
        usage.unwrap_or(false),
        text(2),
        "select outbox.grant_to(role, 'publish' | 'consume' | 'monitor' | 'admin')",
    );
}

/// Checks that the extension fits this client, and adds the health checks that are not ok.
async fn check_outbox(findings: &mut Findings, outbox: &Outbox) {
    match outbox.check().await {
        Ok(()) => findings.add("client", true, env!("CARGO_PKG_VERSION").to_owned(), ""),
        Err(error) => findings.add_error("client", &error, "use a client of the same major version"),
    }
    match outbox.call("health", json!({}), &[]).await {
        Ok(rows) => {
            for row in screen::wrong(&rows) {
                let culprit = output::text(&row["culprit"]);
                findings.add(&output::text(&row["check"]), false, culprit, &output::text(&row["what_to_do"]));
            }
        }
        Err(error) => findings.add_error("health", &error, "grant this role the capability monitor"),
    }
}
