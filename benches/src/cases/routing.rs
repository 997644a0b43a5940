//! Routing end to end: the cost of many subscriptions that do not match the message.

use std::time::Instant;

use anyhow::Result;
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Server, wait_until};

use crate::PAYLOAD;
use crate::measure::{LONG, cpu, dispatcher, idle, median, rate_until, routed, server};
use crate::report::Report;

const GROUPS: usize = 100;

/// The number of subscriptions, and how many of them match each message.
const SHAPES: [(usize, usize); 4] = [(1, 1), (10, 10), (1000, 10), (10_000, 100)];

/// As many subscriptions have the topic and a filter each, which few messages match.
const FILTERS: usize = 10_000;

pub async fn run(report: &mut Report) -> Result<()> {
    let receiver = Receiver::start()?;
    receiver.quiet();
    // Each database needs a dispatcher.
    let server = server(&[("max_worker_processes", "32")]).await?;
    let mut results = vec![];
    for (all, wanting) in SHAPES {
        results.push(measure(&server, &receiver, all, wanting).await?);
    }
    let few = results[1];
    let filtered = filters(&server).await?;
    for ((all, wanting), rates) in SHAPES.into_iter().zip(&results) {
        let what = format!("{all} subscriptions, {wanting} match: routed");
        report.row("routing", what, rates[0], Some(few[0]), "messages/s", None);
    }
    let what = format!("{FILTERS} subscriptions with a filter each, 1 matches: routed; 1 without");
    report.row("routing", what, filtered, Some(results[0][0]), "messages/s", None);
    for ((all, wanting), rates) in SHAPES.into_iter().zip(&results).take(3) {
        let what = format!("{all} subscriptions, {wanting} match: delivered");
        report.row("routing", what, rates[1], Some(few[1]), "deliveries/s", None);
        report.row("routing", "  CPU of the dispatcher per delivery", rates[2], Some(few[2]), "us", None);
    }
    Ok(())
}

/// Returns routed messages per second, deliveries per second, and the dispatcher's CPU time per delivery in microseconds.
async fn measure(server: &Server, receiver: &Receiver, all: usize, wanting: usize) -> Result<[f64; 3]> {
    // While all subscriptions are paused, nothing is sent, so only numbering and routing are measured.
    let db = prepare(server, &format!("routed{all}"), receiver, all, wanting).await?;
    db.execute(
        "select count(outbox.pause_subscription('s' || n)) from generate_series(1, $1::int) n",
        &[&(all as i32)],
    )
    .await?;
    routed(&db).await;
    let rate = routing_rate(&db).await?;
    if all > 1000 {
        return Ok([rate, f64::NAN, f64::NAN]);
    }
    let db = prepare(server, &format!("sent{all}"), receiver, all, wanting).await?;
    let (mut deliveries, mut micros) = (vec![], vec![]);
    for _ in 0..3 {
        let messages = if wanting > 1 { 4000 } else { 40_000 };
        receiver.clear();
        let pid = dispatcher(&db).await?;
        let before = cpu(pid);
        fill(&db, messages).await?;
        wait_until("the first arrives", LONG, async || receiver.total() > 0).await;
        let expected = messages * wanting;
        let rate = rate_until(expected as f64, "everything is delivered", async || receiver.total() >= expected).await;
        idle(&db).await;
        deliveries.push(rate);
        micros.push((cpu(pid) - before) / expected as f64);
    }
    Ok([rate, median(deliveries), median(micros)])
}

/// Messages routed per second, where nothing is sent.
async fn routing_rate(db: &Client) -> Result<f64> {
    let mut rates = vec![];
    for _ in 0..3 {
        let messages = 20_000;
        fill(db, messages).await?;
        let started = Instant::now();
        routed(db).await;
        rates.push(messages as f64 / started.elapsed().as_secs_f64());
    }
    Ok(median(rates))
}

/// The rate of routing where each subscription takes the messages of one key.
async fn filters(server: &Server) -> Result<f64> {
    let db = server.database("filtered").await?;
    db.batch_execute("select outbox.create_endpoint('e', 'http://127.0.0.1:9/')").await?;
    db.execute(
        "select count(outbox.subscribe('s' || n, '{order.#}', 'e', filter => jsonb_build_object('key', 'c-' || n)))
         from generate_series(0, $1::int - 1) n",
        &[&(FILTERS as i32)],
    )
    .await?;
    db.batch_execute("select count(outbox.pause_subscription('s' || n)) from generate_series(0, 9999) n").await?;
    routed(&db).await;
    routing_rate(&db).await
}

async fn prepare(server: &Server, name: &str, receiver: &Receiver, all: usize, wanting: usize) -> Result<Client> {
    let db = server.database(name).await?;
    db.execute("select from outbox.create_endpoint('e', $1, concurrency => 64)", &[&receiver.url("/hook")]).await?;
    // If all subscriptions match, there are no groups.
    let topic = if all == wanting { "'order.#'".to_owned() } else { format!("'order.u' || n % {GROUPS} || '.#'") };
    db.execute(
        &format!("select count(outbox.subscribe('s' || n, array[{topic}], 'e')) from generate_series(1, $1::int) n"),
        &[&(all as i32)],
    )
    .await?;
    routed(&db).await;
    Ok(db)
}

async fn fill(db: &Client, messages: usize) -> Result<()> {
    db.execute(
        "select count(outbox.enqueue('order.u' || n % 100 || '.created', $1::text::jsonb, 'c-' || n % 1000))
        from generate_series(1, $2) n",
        &[&PAYLOAD, &(messages as i32)],
    )
    .await?;
    Ok(())
}
