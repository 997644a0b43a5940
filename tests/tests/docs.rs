//! Every SQL example of the README and of docs/ runs, in order, in a database of its own per file. A block that is marked
//! ```sql fails must fail.

use std::fs;
use std::path::{Path, PathBuf};

use outbox_tests::{explain, outbox_harness, server};

fn pages() -> Vec<PathBuf> {
    let root = outbox_harness::postgres::root();
    let mut found = vec![root.join("README.md")];
    found.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    found.retain(|path| path.extension().is_some_and(|e| e == "md"));
    found.sort();
    found
}

/// The fenced blocks whose info string begins with `sql`: info string, text, line.
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
            let result = db.batch_execute(&text).await;
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
