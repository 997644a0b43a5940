//! A guard against regressions: the ratios of the main paths, measured in about three minutes and compared with those on
//! record in `benches/guard.json`. UPDATE=1 records them.
//!
//! A ratio is the median of three neighbouring pairs. A ratio that is worse than its record by more than a tenth is measured
//! twice more, and fails if it is worse each time: a busy moment of the machine is no regression.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outbox_harness::{Receiver, wait_until};

use super::{append, enqueue, pull, read};
use crate::measure::{LONG, fill, idle, median, pgbench, plain_server, prepare, rate_until, reload, routed, server};
use crate::report::{Goal, Report};
use crate::{PAYLOAD, bare};

/// The part of its record that a ratio must reach.
const BOUND: f64 = 0.9;

pub async fn run(report: &mut Report) -> Result<()> {
    let mut guard = Guard::new(report)?;
    logs(&mut guard).await?;
    workers(&mut guard).await?;
    push(&mut guard).await?;
    guard.finish()
}

/// enqueue, append and read, on a server without a dispatcher.
async fn logs(guard: &mut Guard<'_>) -> Result<()> {
    let server = plain_server().await?;
    let db = server.database("bench").await?;
    db.batch_execute(enqueue::PLAIN).await?;
    db.batch_execute(append::PLAIN).await?;
    let pair = async |ours: &str, theirs: &str, clients| {
        let options = "-c synchronous_commit=off";
        let a = pgbench(&server, "bench", ours, clients, 2, options).await?;
        Ok((a, pgbench(&server, "bench", theirs, clients, 2, options).await?))
    };
    let (ours, theirs) = (enqueue::call(), enqueue::insert());
    guard.pair("enqueue, 1 client; a plain INSERT", async || pair(&ours, &theirs, 1).await).await?;
    let (ours, theirs) = (append::append(), append::insert());
    for (what, clients) in [("append, 1 client; a plain INSERT", 1), ("append, 16 clients; a plain INSERT", 16)] {
        guard.pair(what, async || pair(&ours, &theirs, clients).await).await?;
        db.batch_execute(append::EMPTY).await?;
    }
    read::prepare(&db).await?;
    guard
        .pair("read, pages of 1,000; a plain table", async || {
            Ok((read::rate(&db, read::OURS, 1000).await?, read::rate(&db, read::THEIRS, 1000).await?))
        })
        .await
}

/// Claim and complete.
async fn workers(guard: &mut Guard<'_>) -> Result<()> {
    let server = server(&[]).await?;
    let db = pull::prepare(&server).await?;
    for (what, batch, backlog) in [
        ("claim and complete, 4 workers, batch 1; a status table", 1, 4_000),
        ("claim and complete, 4 workers, batch 100; a status table", 100, 30_000),
    ] {
        guard.pair(what, async || pull::pair(&server, &db, 4, batch, backlog).await).await?;
    }
    Ok(())
}

/// A backlog over HTTP.
async fn push(guard: &mut Guard<'_>) -> Result<()> {
    const MESSAGES: usize = 60_000;
    let receiver = Receiver::start()?;
    receiver.quiet();
    let server = server(&[("pg_outbox.max_in_flight", "64")]).await?;
    let db = prepare(&server, "push", &receiver, 1, 64, "").await?;
    guard
        .pair("push, one endpoint; a bare HTTP client", async || {
            reload(&server, "pg_outbox.push", "off").await?;
            fill(&db, MESSAGES, 1).await?;
            routed(&db).await;
            let theirs = bare::run(receiver.address(), 64, PAYLOAD, Duration::from_secs(1))?;
            receiver.clear();
            reload(&server, "pg_outbox.push", "on").await?;
            wait_until("the first message arrives", LONG, async || receiver.total() > 0).await;
            let done = async || receiver.total() >= MESSAGES;
            let ours = rate_until(MESSAGES as f64, "everything is delivered", done).await;
            idle(&db).await;
            Ok((ours, theirs))
        })
        .await
}

struct Guard<'a> {
    report: &'a mut Report,
    recorded: BTreeMap<String, f64>,
    measured: BTreeMap<String, f64>,
    worse: Vec<&'static str>,
}

impl Guard<'_> {
    fn new(report: &mut Report) -> Result<Guard<'_>> {
        let text = std::fs::read_to_string(path()).context("reading benches/guard.json")?;
        let recorded = serde_json::from_str(&text).context("reading benches/guard.json")?;
        Ok(Guard { report, recorded, measured: BTreeMap::new(), worse: vec![] })
    }

    /// Measures a ratio: `measure` returns our rate and the other one.
    async fn pair(&mut self, what: &'static str, mut measure: impl AsyncFnMut() -> Result<(f64, f64)>) -> Result<()> {
        let bound = self.recorded.get(what).map(|recorded| recorded * BOUND);
        let (mut ours, mut best) = (0.0, 0.0);
        for _ in 0..3 {
            let (mut rates, mut ratios) = (vec![], vec![]);
            for _ in 0..3 {
                let (a, b) = measure().await?;
                rates.push(a);
                ratios.push(a / b);
            }
            let ratio = median(ratios);
            if ratio > best {
                (ours, best) = (median(rates), ratio);
            }
            if bound.is_none_or(|bound| best >= bound) {
                break;
            }
        }
        self.report.row("guard", what, ours, Some(ours / best), "per second", bound.map(Goal::AtLeast));
        self.measured.insert(what.to_owned(), (best * 100.0).round() / 100.0);
        if bound.is_some_and(|bound| best < bound) {
            self.worse.push(what);
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path(), serde_json::to_string_pretty(&self.measured)? + "\n")?;
            return Ok(());
        }
        if !self.worse.is_empty() {
            bail!("worse than on record by more than a tenth: {}", self.worse.join(", "));
        }
        Ok(())
    }
}

fn path() -> PathBuf {
    outbox_harness::postgres::root().join("benches/guard.json")
}
