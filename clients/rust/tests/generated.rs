//! Checks that the generated files of all clients agree with the schema and with the table of errors. `UPDATE=1` writes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write as _;
use std::process::{Command, Stdio};

use outbox_core::error::{CLASSES, HINTS, Kind, STATES};
use outbox_harness::Server;
use serde_json::json;

/// Returns the table of errors, which `tools/gen/clients.py` reads. The codes of pg_outbox come first.
fn errors() -> String {
    let row = |(state, name, kind): &(&str, &str, Kind)| json!([state, name, kind.as_str()]);
    let own = outbox_core::Code::ALL.iter().map(|code| json!([code.sqlstate(), code.name(), code.kind().as_str()]));
    json!({
        "states": own.chain(STATES.iter().map(row)).collect::<Vec<_>>(),
        "classes": CLASSES.iter().map(row).collect::<Vec<_>>(),
        "hints": HINTS,
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_files_match_the_schema() {
    let server = Server::start_plain(&[]).await.unwrap();
    server.database("gen").await.unwrap();
    let root = outbox_harness::postgres::root();
    let mut command = Command::new("python3");
    command.arg(root.join("tools/gen/clients.py")).arg(server.install.bin.join("psql")).arg(server.dsn("gen"));
    if std::env::var_os("UPDATE").is_none() {
        command.arg("--check");
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(errors().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
