//! The delivery of the same backlog over HTTP/1.1 and HTTP/2, plain and encrypted, to the same kind of receiver. The ways
//! take turns, and ratios are computed within one round, because other load on the machine affects all ways.

use std::time::{Duration, Instant};

use anyhow::Result;
use outbox_harness::receiver::Speech;
use outbox_harness::tls::{Ca, server_config};
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Server, wait_until};

use crate::measure::{fill, median, reload, routed, server};
use crate::report::Report;

const MESSAGES: usize = 50_000;
const ROUNDS: usize = 3;

pub async fn run(report: &mut Report) -> Result<()> {
    let ca = Ca::new()?;
    let tls = Some(server_config(&ca.issue(&["127.0.0.1"])?, None, &["h2", "http/1.1"])?);
    let plain = Receiver::start()?;
    let encrypted = Receiver::speaking(Speech { tls, ..Speech::default() })?;
    plain.quiet();
    encrypted.quiet();
    let server = server(&[]).await?;
    let ways = [
        ("http, HTTP/1.1", &plain, "http1"),
        ("http, HTTP/2", &plain, "http2"),
        ("https, HTTP/1.1", &encrypted, "http1"),
        ("https, HTTP/2", &encrypted, "http2"),
    ];
    let mut databases = Vec::new();
    for (i, (_, receiver, protocol)) in ways.iter().enumerate() {
        let db = server.database(&format!("bench_{i}")).await?;
        db.execute(
            "select from outbox.create_endpoint('bench', $1, concurrency => 64, protocol => $2,
                tls => jsonb_build_object('ca', $3::text))",
            &[&receiver.url("/hook"), protocol, &ca.pem()],
        )
        .await?;
        db.execute("select outbox.subscribe('bench', '{order.#}', 'bench')", &[]).await?;
        databases.push(db);
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut rates = Vec::new();
        for ((_, receiver, _), db) in ways.iter().zip(&databases) {
            rates.push(drain(&server, db, receiver).await?);
        }
        rounds.push(rates);
    }
    let ratio = |way: usize, to: usize| median(rounds.iter().map(|rates| rates[way] / rates[to]).collect());
    for (i, (name, ..)) in ways.iter().enumerate() {
        let rate = median(rounds.iter().map(|rates| rates[i]).collect());
        let compared = (i > 0).then(|| rate / ratio(i, 0));
        report.row("http2", format!("{name}; plain HTTP/1.1"), rate, compared, "messages/s", None);
    }
    report.row("http2", "HTTP/2 to HTTP/1.1, encrypted", ratio(3, 2), None, "ratio", None);
    Ok(())
}

/// Returns the messages per second of a backlog.
async fn drain(server: &Server, db: &Client, receiver: &Receiver) -> Result<f64> {
    reload(server, "pg_outbox.push", "off").await?;
    fill(db, MESSAGES, 1).await?;
    routed(db).await;
    receiver.clear();
    reload(server, "pg_outbox.push", "on").await?;
    wait_until("the first message arrives", Duration::from_secs(10), async || receiver.total() > 0).await;
    let (started, first) = (Instant::now(), receiver.total());
    wait_until("everything has arrived", Duration::from_secs(120), async || receiver.total() >= MESSAGES).await;
    Ok((MESSAGES - first) as f64 / started.elapsed().as_secs_f64())
}
