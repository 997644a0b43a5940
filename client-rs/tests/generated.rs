//! The admin methods of the Rust and Python clients are those of the schema, and the page of the command line
//! is that of the program. `UPDATE=1` writes them anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

use outbox_harness::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_methods_match_the_schema() {
    let server = Server::start_plain(&[]).await.unwrap();
    server.database("gen").await.unwrap();
    let root = outbox_harness::postgres::root();
    let mut command = Command::new("python3");
    command.arg(root.join("dev/clients_gen.py")).arg(server.install.bin.join("psql")).arg(server.dsn("gen"));
    if std::env::var_os("UPDATE").is_none() {
        command.arg("--check");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[cfg(feature = "cli")]
#[test]
fn the_page_of_the_command_line_is_what_the_program_parses() {
    let page = outbox_harness::postgres::root().join("docs/cli.md");
    let text = pg_outbox::cli::reference();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&page, &text).unwrap();
    }
    assert!(std::fs::read_to_string(&page).unwrap_or_default() == text, "out of date: run this test with UPDATE=1");
}
