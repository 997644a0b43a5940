//! Runs every SQL example of the README and of docs/, in order, in one database per file. A block that is marked ```sql
//! fails must fail. Also checks the page of settings and the list of metrics.

use std::fs;
use std::path::{Path, PathBuf};

use outbox_harness::tokio_postgres::{Client, Error};
use outbox_tests::{explain, outbox_harness, server};

fn pages() -> Vec<PathBuf> {
    let root = outbox_harness::postgres::root();
    let mut found = vec![root.join("README.md")];
    found.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    found.retain(|path| path.extension().is_some_and(|e| e == "md"));
    found.sort();
    found
}

/// Returns the fenced blocks whose info string begins with `sql`, as info string, text and line.
fn blocks(page: &Path) -> Vec<(String, String, usize)> {
    let mut found = Vec::new();
    let mut open: Option<(String, String, usize)> = None;
    for (number, line) in fs::read_to_string(page).unwrap().lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some((info.to_owned(), String::new(), number + 1)),
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some((_, text, _)), None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    found.retain(|(info, _, _)| info == "sql" || info.starts_with("sql "));
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn examples_run() {
    let mut ran = 0;
    for (i, page) in pages().iter().enumerate() {
        let blocks = blocks(page);
        if blocks.is_empty() {
            continue;
        }
        let db = server().await.empty_database(&format!("docs_{i}")).await.unwrap();
        if !blocks[0].1.contains("create extension pg_outbox") {
            db.batch_execute("create extension pg_outbox").await.unwrap();
        }
        for (info, text, line) in blocks {
            let result = run(&db, &text).await;
            match (info.as_str(), result) {
                ("sql fails", Ok(())) => panic!("{}:{line}: should fail", page.display()),
                ("sql fails", Err(_)) | (_, Ok(())) => {}
                (_, Err(error)) => panic!("{}:{line}: {}\n{text}", page.display(), explain(&error)),
            }
            ran += 1;
        }
    }
    assert!(ran > 5, "only {ran} examples found");
}

/// Runs a block one statement at a time, as psql does, because some statements cannot run in a transaction block.
async fn run(db: &Client, block: &str) -> Result<(), Error> {
    let mut statement = String::new();
    for line in block.lines() {
        statement.push_str(line);
        statement.push('\n');
        let code = line.split("--").next().unwrap_or_default().trim_end();
        if code.ends_with(';') && statement.matches("$$").count().is_multiple_of(2) {
            db.batch_execute(&std::mem::take(&mut statement)).await?;
        }
    }
    db.batch_execute(&statement).await
}

/// Returns the reason for each setting from settings.rs: the doc comment above its line.
fn reasons() -> std::collections::BTreeMap<String, String> {
    let source = fs::read_to_string(outbox_harness::postgres::root().join("extension/src/settings.rs")).unwrap();
    let mut found = std::collections::BTreeMap::new();
    let mut comment = String::new();
    for line in source.lines().map(str::trim_start) {
        if let Some(text) = line.strip_prefix("/// ") {
            comment.push_str(if comment.is_empty() { "" } else { " " });
            comment.push_str(text);
        } else {
            // NAME "name": ...
            let mut words = line.split('"');
            if let (Some(_), Some(name), Some(rest)) = (words.next(), words.next(), words.next())
                && rest.starts_with(": ")
                && !comment.is_empty()
            {
                found.insert(format!("pg_outbox.{name}"), comment.clone());
            }
            comment.clear();
        }
    }
    found
}

/// docs/settings.md is generated from the server's settings and from settings.rs. UPDATE=1 writes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_setting_is_listed_with_its_reason() {
    let db = server().await.connect("postgres").await.unwrap();
    let query =
        "select name, boot_val, unit, vartype, min_val, max_val, context, current_setting(name) from pg_settings
        where name like 'pg\\_outbox.%' order by name";
    // The page shows the defaults in a readable form. This session has the server's values, so they are first set to the
    // default.
    db.batch_execute("select set_config(name, boot_val, false) from pg_settings where name like 'pg\\_outbox.%' and context in ('user', 'superuser')")
        .await
        .unwrap();
    let reasons = reasons();
    let mut page = String::from(
        "# Settings\n\n<!-- Made by the test every_setting_is_listed_with_its_reason from extension/src/settings.rs: UPDATE=1 scripts/test docs -->\n\n\
        `superuser`: by ALTER SYSTEM, ALTER DATABASE, ALTER ROLE or SET; the dispatcher takes what is set for its database when it\n\
        starts. `sighup`: in the configuration file, takes effect at reload. `postmaster`: at restart. `user`: any role, for its own session.\n\n\
        | setting | default | range | change | meaning, and reason for the default |\n|---|---|---|---|---|\n",
    );
    let found = db.query(query, &[]).await.unwrap();
    for row in &found {
        let text = |i: usize| row.get::<_, Option<String>>(i).unwrap_or_default();
        let (name, unit) = (text(0), text(2));
        let default = match (text(3).as_str(), text(1)) {
            (_, value) if value.is_empty() => "empty".to_owned(),
            ("integer", value) => human(&value, &unit),
            (_, value) => value,
        };
        let range = if text(3) == "integer" {
            format!("{} .. {}", human(&text(4), &unit), human(&text(5), &unit))
        } else {
            text(3)
        };
        let reason = reasons.get(&name).unwrap_or_else(|| panic!("{name} is not in settings.rs"));
        page.push_str(&format!("| `{name}` | {default} | {range} | {} | {reason} |\n", text(6)));
    }
    assert!(found.len() >= 20, "only {} settings", found.len());
    let path = outbox_harness::postgres::root().join("docs/settings.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "docs/settings.md is out of date: UPDATE=1 scripts/test docs writes it");
}

/// Formats a value with a unit in the largest unit that divides it.
fn human(value: &str, unit: &str) -> String {
    let Ok(number) = value.parse::<i64>() else { return value.to_owned() };
    let steps: &[(i64, &str)] = match unit {
        "s" => &[(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")],
        "ms" => &[(60_000, "min"), (1000, "s"), (1, "ms")],
        "kB" => &[(1024 * 1024, "GB"), (1024, "MB"), (1, "kB")],
        _ => &[],
    };
    if number <= 0 {
        return value.to_owned();
    }
    match steps.iter().find(|(size, _)| number % size == 0) {
        Some((size, name)) => format!("{} {name}", number / size),
        None => format!("{value} {unit}").trim().to_owned(),
    }
}

/// Every metric that `metrics()` returns is in docs/operations.md.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_explained() {
    let db = server().await.database("metric_names").await.unwrap();
    let rows = db
        .query(
            "select distinct m[1]
            from regexp_matches(pg_get_functiondef('outbox.metrics()'::regprocedure), '''(outbox_[a-z_]*[a-z])''', 'g') m
            union
            select 'outbox_' || unnest('{expired,cancelled,skipped,returned,partial}'::text[]) || '_total'",
            &[],
        )
        .await
        .unwrap();
    let page = fs::read_to_string(outbox_harness::postgres::root().join("docs/operations.md")).unwrap();
    // The samples of a summary or histogram have the name of the metric and an end of their own.
    let family = |name: &str| {
        let ends = ["_sum", "_count", "_bucket"];
        ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
    };
    let missing: Vec<String> =
        rows.iter().map(|row| family(row.get(0))).filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(rows.len() > 20 && missing.is_empty(), "{} names, not explained: {missing:?}", rows.len());
}
