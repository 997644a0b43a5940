//! The delivery of a backlog in single requests, in batches of 100, and in single requests beside a dead endpoint and a
//! hanging endpoint. The three ways take turns, and ratios are computed within one round.

use std::time::{Duration, Instant};

use anyhow::Result;
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, wait_until};

use crate::measure::{fill, median, reload, routed, server};
use crate::report::Report;

const MESSAGES: i64 = 50_000;
const ROUNDS: usize = 3;

pub async fn run(report: &mut Report) -> Result<()> {
    let receiver = Receiver::start()?;
    receiver.quiet();
    let hanging = Receiver::start()?;
    hanging.on("/hook", |_, _| Reply::status(200).after(Duration::from_secs(3600)));
    let server = server(&[]).await?;
    let ways = [
        ("single", "", false),
        ("batch of 100", ", batch_size => 100, batch_wait => '20 ms'", false),
        ("beside", "", true),
    ];
    let mut databases = Vec::new();
    for (i, (_, options, beside)) in ways.iter().enumerate() {
        let db = server.database(&format!("batch_{i}")).await?;
        db.execute("select from outbox.create_endpoint('bench', $1, concurrency => 64)", &[&receiver.url("/hook")])
            .await?;
        db.batch_execute(&format!("select outbox.subscribe('bench', '{{order.#}}', 'bench' {options})")).await?;
        if *beside {
            db.batch_execute(&format!(
                "select outbox.create_endpoint('dead', 'http://127.0.0.1:1/');
                select outbox.create_endpoint('hanging', '{}', timeout => '60 s');
                select outbox.subscribe('dead', '{{order.#}}', 'dead'), outbox.subscribe('hanging', '{{order.#}}', 'hanging')",
                hanging.url("/hook")
            ))
            .await?;
        }
        databases.push(db);
    }
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        let mut rates = Vec::new();
        for db in &databases {
            rates.push(drain(&server, db, round as i64 * MESSAGES).await?);
        }
        rounds.push(rates);
    }
    let ratio = |way: usize| median(rounds.iter().map(|rates| rates[way] / rates[0]).collect());
    for (i, (name, ..)) in ways.iter().enumerate() {
        let rate = median(rounds.iter().map(|rates| rates[i]).collect());
        let compared = (i > 0).then(|| rate / ratio(i));
        report.row("beside", format!("{name}; single"), rate, compared, "messages/s", None);
    }
    Ok(())
}

/// Returns the messages per second of a backlog, until all outcomes are recorded.
async fn drain(server: &Server, db: &Client, until: i64) -> Result<f64> {
    reload(server, "pg_outbox.push", "off").await?;
    fill(db, MESSAGES as usize, 1).await?;
    routed(db).await;
    reload(server, "pg_outbox.push", "on").await?;
    let started = Instant::now();
    wait_until("everything is recorded", Duration::from_secs(120), async || {
        let query = "select coalesce(sum(coalesce(cardinality(a.positions), 1)), 0)::bigint from outbox.attempt a
            join outbox.endpoint e on e.id = a.endpoint_id where e.name = 'bench'";
        db.query_one(query, &[]).await.is_ok_and(|row| row.get::<_, i64>(0) >= until)
    })
    .await;
    Ok(MESSAGES as f64 / started.elapsed().as_secs_f64())
}
