//! Checks that the generated admin methods of the Rust and Python clients agree with the schema. `UPDATE=1` generates them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

use outbox_harness::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_methods_match_the_schema() {
    let server = Server::start_plain(&[]).await.unwrap();
    server.database("gen").await.unwrap();
    let root = outbox_harness::postgres::root();
    let mut command = Command::new("python3");
    command.arg(root.join("tools/gen/clients.py")).arg(server.install.bin.join("psql")).arg(server.dsn("gen"));
    if std::env::var_os("UPDATE").is_none() {
        command.arg("--check");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
