//! Generates docs/sql.md from the comments on the objects of the installed extension, and checks that the file is current.
//! `UPDATE=1` writes it. Also checks that every public object has a comment.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use outbox_core::error::Code;
use outbox_harness::postgres::{root, schema_files};
use outbox_tests::{bare_server, outbox_harness, rows};

/// The chapters: the folders of sql/schema and their titles.
const CHAPTERS: [(&str, &str); 16] = [
    ("produce", "Produce"),
    ("route", "Route"),
    ("push", "Push"),
    ("pull", "Pull"),
    ("feed", "Read in order"),
    ("stream", "Streams of events"),
    ("message_store", "Functions of message-db"),
    ("project", "Projections"),
    ("process", "Commands, snapshots and sagas"),
    ("types", "Schemas of event types"),
    ("personal", "Personal data"),
    ("relay", "Relay and inbox"),
    ("operate", "Operate"),
    ("observe", "Observe"),
    ("retain", "Retain"),
    ("finish", "Privileges"),
];

/// Returns the folder of each public function, by the function's name.
fn homes() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for path in schema_files().unwrap() {
        let folder = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        for line in text.lines() {
            let line = line.strip_prefix("create or replace ").or_else(|| line.strip_prefix("create ")).unwrap_or("");
            for kind in ["function outbox.", "procedure outbox.", "aggregate outbox."] {
                if let Some(rest) = line.strip_prefix(kind) {
                    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    found.insert(name, folder.clone());
                }
            }
        }
    }
    found
}

fn text<'a>(row: &'a BTreeMap<String, Option<String>>, column: &str) -> &'a str {
    row[column].as_deref().unwrap_or("")
}

/// Formats arguments in a readable form, without casts of defaults and with short names of types.
fn plain(arguments: &str) -> String {
    let (mut found, mut rest) = (String::new(), arguments);
    while let Some(at) = rest.find("::") {
        found.push_str(&rest[..at]);
        let cast = &rest[at + 2..];
        // A cast ends with the argument.
        let end = cast.find([',', ')']).unwrap_or(cast.len());
        rest = &cast[end..];
    }
    found.push_str(rest);
    found
        .replace("timestamp with time zone", "timestamptz")
        .replace("integer", "int")
        .replace("DEFAULT NULL", "default null")
        .replace("DEFAULT", "default")
}

#[tokio::test]
async fn the_reference_is_what_is_installed() {
    let db = bare_server().await.database("reference").await.unwrap();
    let functions = rows(
        &db,
        "select p.proname as name, p.prokind as kind, pg_get_function_arguments(p.oid) as arguments,
            pg_get_function_result(p.oid) as result, obj_description(p.oid, 'pg_proc') as comment,
            (select string_agg(c.capability, ', ' order by c.capability) from outbox._capability c
                where c.object ~ ('^(function|procedure|routine) outbox\\.' || p.proname || '$')) as capability
        from pg_proc p
        where p.pronamespace = 'outbox'::regnamespace and p.proname !~ '^_'
        order by p.proname",
    )
    .await;
    let relations = rows(
        &db,
        "select c.relname as name, c.relkind as kind, obj_description(c.oid, 'pg_class') as comment,
            (select string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), E'\\n' order by a.attnum)
                from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns,
            (select string_agg(coalesce(col_description(c.oid, a.attnum), ''), E'\\n' order by a.attnum)
                from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as comments
        from pg_class c
        where c.relnamespace = 'outbox'::regnamespace and c.relkind in ('r', 'p', 'v') and c.relname !~ '^_'
        order by c.relname",
    )
    .await;
    let homes = homes();
    let uncommented: Vec<&str> = functions
        .iter()
        .chain(&relations)
        .filter(|row| text(row, "comment").is_empty())
        .map(|row| text(row, "name"))
        .collect();
    assert!(uncommented.is_empty(), "public, without a comment: {uncommented:?}");

    let mut page = String::from(
        "# SQL reference\n\nEvery public object of the schema `outbox`. Generated from the installed extension \
         (`UPDATE=1 scripts/test docs`).\nWhat a role may call is granted with `outbox.grant_to(role, capability)`; errors are \
         listed under [Errors](#errors).\n",
    );
    for (folder, title) in CHAPTERS {
        let of_chapter: Vec<_> =
            functions.iter().filter(|row| homes.get(text(row, "name")).is_some_and(|home| home == folder)).collect();
        if of_chapter.is_empty() {
            continue;
        }
        let _ = write!(page, "\n## {title}\n");
        for row in of_chapter {
            let name = text(row, "name");
            let _ = write!(page, "\n### {name}\n\n```text\n");
            let arguments = plain(text(row, "arguments"));
            let call = if text(row, "kind") == "p" { "call " } else { "" };
            if arguments.len() < 80 {
                let _ = write!(page, "{call}{name}({arguments})");
            } else {
                // Commas inside parentheses and quotes belong to a type or a default.
                let (mut depth, mut quoted, mut broken) = (0, false, String::new());
                for c in arguments.chars() {
                    match c {
                        '\'' => quoted = !quoted,
                        '(' | '{' => depth += 1,
                        ')' | '}' => depth -= 1,
                        _ => {}
                    }
                    broken.push(c);
                    if c == ',' && depth == 0 && !quoted {
                        broken.push_str("\n   ");
                    }
                }
                let _ = write!(page, "{call}{name}(\n    {broken}\n)");
            }
            let result = plain(text(row, "result"));
            if !result.is_empty() {
                let _ = write!(page, " returns {result}");
            }
            let _ = write!(page, "\n```\n\n{}.", text(row, "comment").trim_end_matches('.'));
            let capability = text(row, "capability");
            if !capability.is_empty() {
                let _ = write!(page, " *Capability: {capability}.*");
            }
            page.push('\n');
        }
    }
    let _ = write!(page, "\n## Tables and views\n");
    for row in &relations {
        let kind = if text(row, "kind") == "v" { "view" } else { "table" };
        let _ = write!(
            page,
            "\n### outbox.{} ({kind})\n\n{}.\n\n| column | type | |\n|---|---|---|\n",
            text(row, "name"),
            text(row, "comment").trim_end_matches('.')
        );
        for (column, comment) in text(row, "columns").lines().zip(text(row, "comments").split('\n')) {
            let (name, kind) = column.split_once(' ').unwrap();
            let _ = writeln!(page, "| `{name}` | {kind} | {} |", comment.replace('|', "\\|"));
        }
    }
    let _ = write!(page, "\n## Errors\n\n| code | name | kind | when |\n|---|---|---|---|\n");
    for code in Code::ALL {
        let (state, name, kind) = (code.sqlstate(), code.name(), code.kind().as_str());
        let _ = writeln!(page, "| `{state}` | {name} | {kind} | {} |", code.meaning().trim());
    }

    let path = outbox_harness::postgres::root().join("docs/sql.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    if found != page {
        let line = found.lines().zip(page.lines()).position(|(a, b)| a != b).unwrap_or(0);
        panic!("docs/sql.md is not current from line {} on: UPDATE=1 scripts/test docs", line + 1);
    }
}

#[test]
fn every_file_of_the_schema_is_listed_once() {
    let mut listed = schema_files().unwrap();
    let mut found = Vec::new();
    let mut folders = vec![root().join("sql/schema")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "order") {
                found.push(path);
            }
        }
    }
    listed.sort();
    found.sort();
    assert_eq!(listed, found, "sql/schema/order");
}
