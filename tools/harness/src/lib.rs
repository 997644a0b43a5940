//! The foundation of the demo, the tests and the benchmarks: real PostgreSQL servers and real HTTP receivers.

pub mod authority;
pub mod cable;
pub mod dns;
pub mod pooler;
pub mod postgres;
pub mod proxy;
pub mod receiver;
pub mod tls;
pub mod tls_proxy;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;

pub use cable::Cable;
pub use pooler::Pooler;
pub use postgres::{Server, Stop, connect};
pub use receiver::{Arrival, Receiver, Reply};
pub use tokio_postgres;

/// Builds `examples/NAME` or the program `NAME`, unless cargo finds it built, and returns its path. For tests only: the program is
/// in the folder that is above that of the test.
///
/// `OUTBOX_SELECTION` (see scripts/env) is the selection with which the tests were built.
pub fn built(program: &str) -> anyhow::Result<PathBuf> {
    let selection = std::env::var("OUTBOX_SELECTION").unwrap_or_else(|_| {
        "-p pg-outbox -p rust-axum --features pg-outbox/testing,pg-outbox/diesel-async,pg-outbox/opentelemetry"
            .to_owned()
    });
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet"]).args(selection.split_whitespace());
    match program.strip_prefix("examples/") {
        Some(name) => cargo.args(["--example", name]),
        // With an example, cargo chooses the features as it does for tests.
        None => cargo.args(["--bin", program, "--example", "tutorial"]),
    };
    anyhow::ensure!(cargo.status()?.success(), "{program} cannot be built");
    let test = std::env::current_exe()?;
    let folder = test.ancestors().nth(2).context("a test is in a folder of a folder")?;
    Ok(folder.join(program))
}

/// Waits until `check` returns a value. Panics with `what` after `timeout`. The pause between two calls is 5 milliseconds, and
/// later a twentieth of the time waited, because a check that opens a session takes processor time from what it waits for.
pub async fn wait_for<T>(what: &str, timeout: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(started.elapsed() < timeout, "waited {timeout:?} in vain until {what}");
        let pause = (started.elapsed() / 20).clamp(Duration::from_millis(5), Duration::from_millis(50));
        tokio::time::sleep(pause).await;
    }
}

/// Waits until `check` returns true. Panics with `what` after `timeout`.
pub async fn wait_until(what: &str, timeout: Duration, mut check: impl AsyncFnMut() -> bool) {
    wait_for(what, timeout, async || check().await.then_some(())).await;
}
