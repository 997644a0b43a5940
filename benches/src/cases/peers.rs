//! Other job queues beside pg_outbox: runs `benches/peers/run` on a server of its own.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use outbox_harness::postgres::root;
use serde_json::Value;
use tokio::process::Command;

use crate::measure::server;
use crate::report::{Goal, Report, folder};

const OURS: &str = "pg_outbox";

pub async fn run(report: &mut Report) -> Result<()> {
    let server = server(&[]).await?;
    let status = Command::new(root().join("benches/peers/run")).env("DSN", server.dsn("postgres")).status().await?;
    if !status.success() {
        bail!("benches/peers/run ended with {status}");
    }
    let text = std::fs::read_to_string(folder().join("peers.json")).context("its results")?;
    let results: Value = serde_json::from_str(&text)?;
    // The best peer of each cell. graphile-worker's local queue of 500 is compared with batches of 100.
    let mut cells: BTreeMap<(i64, i64), (f64, f64, String)> = BTreeMap::new();
    for line in results["rates"].as_array().context("rates")? {
        let number = |name: &str| line[name].as_i64().with_context(|| format!("{name} of {line}"));
        let (batch, workers, rate) = (number("batch")?, number("workers")?, number("rate")? as f64);
        let system = line["system"].as_str().context("system")?;
        let cell = cells.entry((if batch == 500 { 100 } else { batch }, workers)).or_default();
        if system.starts_with(OURS) {
            cell.0 = rate;
        } else if rate > cell.1 {
            (cell.1, cell.2) = (rate, system.to_owned());
        }
    }
    for ((batch, workers), (ours, theirs, best)) in cells {
        let goal = (batch == 100 || (batch == 1 && workers == 16)).then_some(Goal::AtLeast(1.0));
        let what = format!("{workers:>2} workers, batch {batch:>4}, against {best}");
        report.row("peers", what, ours, (theirs > 0.0).then_some(theirs), "jobs/s", goal);
    }
    Ok(())
}
