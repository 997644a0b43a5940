//! The cost of a server that has nothing to do.

use std::time::Duration;

use anyhow::Result;
use outbox_harness::Receiver;

use crate::measure::{cpu, dispatcher, idle, prepare, server, wakeups, wal};
use crate::report::{Goal, Report};

pub async fn run(report: &mut Report) -> Result<()> {
    const SECONDS: f64 = 20.0;
    let receiver = Receiver::start()?;
    let server = server(&[("autovacuum", "off")]).await?;
    let db = prepare(&server, "bench", &receiver, 1, 8, "").await?;
    db.batch_execute("select outbox.enqueue('order.0', '{}')").await?;
    idle(&db).await;
    let pid = dispatcher(&db).await?;
    // The work after a burst (closing connections, a last checkpoint) is over after this wait.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (cpu0, wake0, wal0) = (cpu(pid), wakeups(pid), wal(&db).await?);
    tokio::time::sleep(Duration::from_secs_f64(SECONDS)).await;
    let percent = (cpu(pid) - cpu0) / (SECONDS * 1e6) * 100.0;
    report.row("idle", "CPU of the dispatcher", percent, None, "%", Some(Goal::AtMost(0.1)));
    report.row(
        "idle",
        "wake-ups of all its threads",
        (wakeups(pid) - wake0) / SECONDS,
        None,
        "per s",
        Some(Goal::AtMost(1.0)),
    );
    report.row("idle", "WAL", (wal(&db).await? - wal0) / SECONDS, None, "bytes/s", None);
    Ok(())
}
