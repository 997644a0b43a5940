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

use std::time::{Duration, Instant};

pub use cable::Cable;
pub use pooler::Pooler;
pub use postgres::{Server, Stop, connect};
pub use receiver::{Arrival, Receiver, Reply};
pub use tokio_postgres;

/// Waits until `check` returns a value, calling it every 5 milliseconds. Panics with `what` after `timeout`.
pub async fn wait_for<T>(what: &str, timeout: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(started.elapsed() < timeout, "waited {timeout:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until `check` returns true. Panics with `what` after `timeout`.
pub async fn wait_until(what: &str, timeout: Duration, mut check: impl AsyncFnMut() -> bool) {
    wait_for(what, timeout, async || check().await.then_some(())).await;
}
