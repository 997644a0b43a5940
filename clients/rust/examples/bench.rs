//! `bench DSN` measures this client for `benches/clients/run`. It prints one JSON object per line.
#![allow(clippy::print_stdout, reason = "it prints its results")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pg_outbox::app::{Json, Subscription, Workers};
use pg_outbox::message::{Message, NewMessage, Param, enqueue_many};
use pg_outbox::tokio_postgres::types::{ToSql, Type};
use pg_outbox::tokio_postgres::{Client, NoTls, connect};
use pg_outbox::worker::{CancellationToken, Delivery, Failure};
use pg_outbox::{Outbox, Result};
use serde_json::json;

type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn message() -> Result<NewMessage> {
    Message::to("order.created").key("order-42").json(&json!({"order": 42, "amount": 129.95}))
}

/// Returns the microseconds per call.
async fn time(
    calls: usize,
    mut body: impl AsyncFnMut() -> Outcome,
) -> std::result::Result<f64, Box<dyn std::error::Error>> {
    let started = Instant::now();
    for _ in 0..calls {
        body().await?;
    }
    Ok(started.elapsed().as_secs_f64() * 1e6 / calls as f64)
}

async fn enqueue(client: &Client, calls: usize) -> Outcome {
    let (sql, params) = message()?.sql();
    let typed: Vec<(&(dyn ToSql + Sync), Type)> = params
        .iter()
        .map(|param| (param as _, if matches!(param, Param::Text(_)) { Type::TEXT } else { Type::BYTEA }))
        .collect();
    let prepared = client.prepare_typed(&sql, &[Type::TEXT, Type::TEXT, Type::TEXT]).await?;
    let values: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| param as _).collect();
    let (mut bare, mut statement, mut ours) = (f64::MAX, f64::MAX, f64::MAX);
    // The variants take turns and the best time of each counts, so that other load on the machine hits all of them.
    for _ in 0..4 {
        bare = bare.min(time(calls, async || Ok(client.query_typed(&sql, &typed).await.map(|_| ())?)).await?);
        statement =
            statement.min(time(calls, async || Ok(client.query_one(&prepared, &values).await.map(|_| ())?)).await?);
        ours = ours.min(time(calls, async || Ok(message()?.enqueue(client).await.map(|_| ())?)).await?);
    }
    let row = |driver: &str, bare: f64| json!({"client": "rust", "case": "enqueue", "driver": driver, "bare_us": bare, "ours_us": ours});
    println!("{}", row("tokio-postgres", bare));
    println!("{}", row("tokio-postgres, prepared", statement));
    Ok(())
}

#[derive(serde::Deserialize)]
struct Payload {
    #[allow(dead_code, reason = "it is only parsed")]
    n: usize,
}

/// Measures a worker, or the worker application, from the first claim to the last completion.
async fn worker(outbox: &Outbox, client: &Client, batch: usize, count: usize, app: bool) -> Outcome {
    let name = format!("rust{batch}{}", if app { "app" } else { "" });
    let topic = format!("bench.{name}");
    outbox.subscribe(&name, &[&topic], Default::default()).await?;
    for first in (0..count).step_by(1000) {
        let some: Vec<_> = (first..count.min(first + 1000)).map(|n| json!({"n": n})).collect();
        enqueue_many(client, &topic, &some, &[]).await?;
    }
    loop {
        let stats = outbox.stats(Default::default()).await?;
        if stats.routed == stats.feed_end {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let all = Arc::new((AtomicUsize::new(0), CancellationToken::new()));
    let counted = all.clone();
    let count_one = move || {
        if counted.0.fetch_add(1, Ordering::Relaxed) + 1 == count {
            counted.1.cancel();
        }
    };
    let poll = Duration::from_millis(20);
    let stop = all.1.clone().cancelled_owned();
    let started = Instant::now();
    let report = if app {
        let handler = move |Json(_): Json<Payload>| {
            count_one();
            async { Ok::<(), Failure>(()) }
        };
        let define = |s: Subscription<()>| {
            s.on(&topic, handler).concurrency(batch).worker_with(move |worker| worker.batch(batch).poll_interval(poll))
        };
        Workers::new(outbox.clone()).subscription(&name, define).run_until(stop).await?[&name]
    } else {
        let handler = move |_: Delivery| {
            count_one();
            async { Ok(None) }
        };
        let worker = outbox.worker(&name).concurrency(batch).batch(batch).poll_interval(poll);
        worker.build(handler).run_until(stop).await?
    };
    let seconds = started.elapsed().as_secs_f64();
    if report.completed != count as u64 {
        return Err(format!("{report:?} of {count}").into());
    }
    let mut row = json!({"client": "rust", "case": "worker", "batch": batch, "per_second": count as f64 / seconds});
    if app {
        row["style"] = json!("application");
    }
    println!("{row}");
    Ok(())
}

#[derive(serde::Deserialize)]
struct Sent {
    /// Microseconds since the start of the measurement.
    at: u64,
}

/// Measures the time from before `enqueue()` to the handler, at 100 messages a second, with the default settings of the
/// application.
async fn latency(outbox: &Outbox, client: &Client, count: usize) -> Outcome {
    let waits = Arc::new((Mutex::new(Vec::with_capacity(count)), CancellationToken::new()));
    let begun = Instant::now();
    let noted = waits.clone();
    let handler = move |Json(sent): Json<Sent>| {
        let mut all = noted.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(begun.elapsed().as_micros() as f64 / 1e3 - sent.at as f64 / 1e3);
        if all.len() == count {
            noted.1.cancel();
        }
        async { Ok::<(), Failure>(()) }
    };
    let define = |s: Subscription<()>| s.ensure(["latency.rust"]).on("latency.rust", handler);
    let app = Workers::new(outbox.clone()).subscription("rust_latency", define);
    let running = tokio::spawn(app.run_until(waits.1.clone().cancelled_owned()));
    // The application begins with the first message that is stored.
    let ready = "select from outbox.subscription_status where name = 'rust_latency' and coalesce(lag_positions, 0) = 0";
    while client.query(ready, &[]).await?.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..count {
        ticks.tick().await;
        let at = begun.elapsed().as_micros() as u64;
        Message::to("latency.rust").json(&json!({"at": at}))?.enqueue(client).await?;
    }
    running.await??;
    let mut waits = waits.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    waits.sort_by(f64::total_cmp);
    let (p50, p99) = (waits[count / 2], waits[count * 99 / 100]);
    println!("{}", json!({"client": "rust", "case": "latency", "p50_ms": p50, "p99_ms": p99}));
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome {
    let dsn = std::env::args().nth(1).ok_or("usage: bench DSN")?;
    let (client, connection) = connect(&dsn, NoTls).await?;
    tokio::spawn(connection);
    enqueue(&client, number("CALLS", 3000)).await?;
    let outbox = Outbox::connect(&dsn).await?;
    let deliveries = number("DELIVERIES", 10_000);
    worker(&outbox, &client, 1, deliveries / 5, false).await?;
    worker(&outbox, &client, 100, deliveries, false).await?;
    worker(&outbox, &client, 100, deliveries, true).await?;
    latency(&outbox, &client, number("LATENCIES", 1000)).await
}
