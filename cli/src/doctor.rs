//! Checks an installation from a client's side.

use serde_json::{Value, json};

use crate::{output, screen};
use pg_outbox::error::Result;
use pg_outbox::outbox::Outbox;

/// Runs all checks and prints them. Returns exit code 1 if something is wrong.
pub(super) async fn run(dsn: &str, json: bool) -> Result<u8> {
    let mut found: Vec<Value> = Vec::new();
    let mut add = |check: &str, ok: bool, seen: String, what_to_do: &str| {
        let what_to_do = if ok { "" } else { what_to_do };
        found.push(
            json!({"check": check, "state": if ok { "ok" } else { "wrong" }, "seen": seen, "what_to_do": what_to_do}),
        );
    };
    let outbox = Outbox::lazy(dsn, 1)?;
    match outbox.session().await {
        Err(error) => add(
            "connection",
            false,
            error.report().replace('\n', "; "),
            "check the connection string, PGHOST and PGUSER, and that the server runs",
        ),
        Ok(session) => {
            let rows = session
                .query_typed(
                    "select current_setting('server_version_num')::int, current_setting('server_version'), current_user::text, \
                     (select g.setting from pg_settings g where g.name = 'shared_preload_libraries'), pg_is_in_recovery(), \
                     coalesce((select x.extversion from pg_extension x where x.extname = 'pg_outbox'), ''), \
                     coalesce((select a.default_version from pg_available_extensions a where a.name = 'pg_outbox'), ''), \
                     (select count(*) from pg_stat_activity s where s.backend_xmin is not null and s.xact_start < now() - interval '5 min'), \
                     current_setting('max_worker_processes')::int, \
                     has_schema_privilege(current_user, coalesce((select oid from pg_namespace where nspname = 'outbox'), 0), 'usage')",
                    &[],
                )
                .await?;
            let row = rows.first().ok_or_else(|| pg_outbox::Error::connection("the server answered nothing"))?;
            let text = |i: usize| row.get::<_, String>(i);
            let version: i32 = row.get(0);
            add("connection", true, format!("as {}", text(2)), "");
            add("PostgreSQL", version >= 150_000, text(1), "PostgreSQL 15 to 18 is needed");
            // Only roles with pg_read_all_settings see this setting; for any other role it is null.
            let libraries: Option<String> = row.get(3);
            let preloaded = libraries
                .as_deref()
                .is_none_or(|all| all.split(',').any(|name| name.trim().trim_matches('"') == "pg_outbox"));
            add(
                "preloading",
                preloaded,
                libraries.map_or_else(
                    || "not visible to this role (pg_read_all_settings)".to_owned(),
                    |all| format!("shared_preload_libraries = '{all}'"),
                ),
                "set shared_preload_libraries = 'pg_outbox' and restart the server: without it nothing is pushed",
            );
            let recovery: bool = row.get(4);
            add(
                "standby",
                !recovery,
                if recovery { "this is a standby" } else { "no" }.to_owned(),
                "connect to the primary to write",
            );
            let (installed, available) = (text(5), text(6));
            add(
                "extension",
                !installed.is_empty(),
                if installed.is_empty() { "not in this database".to_owned() } else { installed.clone() },
                "create extension pg_outbox",
            );
            add(
                "update",
                installed.is_empty() || available.is_empty() || installed == available,
                format!("installed {installed}, available {available}"),
                "alter extension pg_outbox update",
            );
            let old: i64 = row.get(7);
            add(
                "held snapshots",
                old == 0,
                format!("{old} older than 5 minutes"),
                "look into pg_stat_activity; the outbox does not slow down, but the rest of the database bloats",
            );
            let workers: i32 = row.get(8);
            add(
                "worker processes",
                workers >= 8,
                format!("max_worker_processes = {workers}"),
                "one for the launcher and one for each database with an outbox",
            );
            let usage: Option<bool> = row.get(9);
            add(
                "privilege",
                usage.unwrap_or(false),
                text(2),
                "select outbox.grant_to(role, 'publish' | 'consume' | 'monitor' | 'admin')",
            );
            drop(session);
            if !installed.is_empty() {
                match outbox.check().await {
                    Ok(()) => add("client", true, env!("CARGO_PKG_VERSION").to_owned(), ""),
                    Err(error) => add(
                        "client",
                        false,
                        error.report().replace('\n', "; "),
                        "use a client of the same major version",
                    ),
                }
                match outbox.call("health", json!({}), &[]).await {
                    Ok(rows) => {
                        for row in screen::wrong(&rows) {
                            add(
                                &output::text(&row["check"]),
                                false,
                                output::text(&row["culprit"]),
                                &output::text(&row["what_to_do"]),
                            );
                        }
                    }
                    Err(error) => add(
                        "health",
                        false,
                        error.report().replace('\n', "; "),
                        "grant this role the capability monitor",
                    ),
                }
            }
        }
    }
    output::rows(json, &found, &["check", "state", "seen", "what_to_do"]);
    Ok(u8::from(found.iter().any(|row| row["state"] != "ok")))
}
