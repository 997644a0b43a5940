//! `bench_events DSN` measures the events of this client for `benches/clients/run`. It prints one JSON object per line.
#![allow(clippy::print_stdout, reason = "it prints its results")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outbox_core::encrypt::{Cipher, Place};
use pg_outbox::events::{Aggregate, EventStore, ProjectionEngine, Repository, Selection};
use pg_outbox::tokio_postgres::{NoTls, connect};
use pg_outbox::worker::CancellationToken;
use pg_outbox::{Outbox, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

/// Returns the CPU time that the threads of this process have spent. Other load of the machine does not count.
fn cpu() -> Duration {
    let spent = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    Duration::from_nanos(tasks.filter_map(spent).sum())
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
enum OrderEvent {
    #[serde(rename = "order.changed")]
    Changed { amount: i64 },
}

#[derive(Default)]
struct Order {
    amount: i64,
}

impl Aggregate for Order {
    const CATEGORY: &'static str = "rsorder";
    type Event = OrderEvent;

    fn apply(&mut self, event: OrderEvent) {
        let OrderEvent::Changed { amount } = event;
        self.amount = amount;
    }
}

/// An aggregate of ten events that is saved and loaded.
async fn aggregates(dsn: &str, count: usize) -> Outcome {
    let (mut client, connection) = connect(dsn, NoTls).await?;
    tokio::spawn(connection);
    let orders: Repository<Order> = Repository::new(EventStore::new());
    let (mut best, begun) = (f64::MAX, cpu());
    for round in 0..4 {
        let started = Instant::now();
        for i in 0..count {
            let id = format!("{round}-{i}");
            let tx = client.transaction().await?;
            let mut order = orders.load(&tx, &id).await?;
            for amount in 0..10 {
                order.raise(OrderEvent::Changed { amount })?;
            }
            orders.save(&tx, &mut order).await?;
            tx.commit().await?;
            let tx = client.transaction().await?;
            let loaded = orders.load(&tx, &id).await?;
            tx.commit().await?;
            assert_eq!((loaded.version(), loaded.amount), (10, 9));
        }
        best = best.min(started.elapsed().as_secs_f64() / count as f64);
    }
    let cpu_us = (cpu() - begun).as_secs_f64() * 1e6 / (4 * count) as f64;
    println!(
        "{}",
        json!({"client": "rust", "case": "aggregate", "per_second": 1.0 / best, "cpu_us": cpu_us, "peer": "", "theirs": 0})
    );
    Ok(())
}

async fn projection(dsn: &str, count: usize) -> Outcome {
    let outbox = Outbox::connect(dsn).await?;
    let fill = "select count(outbox.append_many('stock-' || i, array_fill('stock.counted'::text, '{100}'),
        array_fill('{\"n\": 1}'::jsonb, '{100}'))) from generate_series(1, $1::bigint) i";
    outbox.session().await?.execute(fill, &[&(count as i64 / 100)]).await?;
    loop {
        let stats = outbox.stats(Default::default()).await?;
        if stats.routed == stats.feed_end {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seen = Arc::new((AtomicUsize::new(0), CancellationToken::new()));
    let counted = seen.clone();
    let engine = ProjectionEngine::new(&outbox, outbox.clone(), EventStore::new());
    engine.register("counted", Selection::all().categories(["stock"]).batch(1000), move |_, events| {
        if counted.0.fetch_add(events.len(), Ordering::Relaxed) + events.len() >= count {
            counted.1.cancel();
        }
        Box::pin(async { Ok(()) })
    })?;
    let (started, begun) = (Instant::now(), cpu());
    engine.run_until(seen.1.clone().cancelled_owned()).await?;
    let rate = count as f64 / started.elapsed().as_secs_f64();
    let cpu_us = (cpu() - begun).as_secs_f64() * 1e6 / count as f64;
    println!("{}", json!({"client": "rust", "case": "projection", "per_second": rate, "cpu_us": cpu_us}));
    Ok(())
}

/// Encryption of three fields, without the text that a client makes of it.
fn encryption(count: usize) -> Result<()> {
    let key = Cipher::new(&[7; 32])?;
    let place = Place { stream: "customer-7", event_type: "customer.named" };
    let data = json!({"name": "Ada Lovelace", "email": "ada@example.com", "address": {"street": "Main 1", "city": "Bern"}, "total": 42});
    let (mut spent, mut n, begun) = (Duration::ZERO, 0u128, cpu());
    for _ in 0..count {
        let mut data = data.clone();
        let started = Instant::now();
        key.encrypt_fields(&mut data, place, &["name", "email", "address.street"], || {
            n += 1;
            let mut nonce = [0; 12];
            nonce.copy_from_slice(&n.to_le_bytes()[..12]);
            nonce
        })?;
        spent += started.elapsed();
    }
    // The CPU time is that of the copies of the data, too.
    let (us, cpu_us) = (spent.as_secs_f64() * 1e6 / count as f64, (cpu() - begun).as_secs_f64() * 1e6 / count as f64);
    println!("{}", json!({"client": "rust", "case": "encrypt", "us": us, "cpu_us": cpu_us}));
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome {
    let dsn = std::env::args().nth(1).ok_or("usage: bench_events DSN")?;
    let calls = number("CALLS", 3000);
    aggregates(&dsn, calls / 10).await?;
    projection(&dsn, number("EVENTS", 100_000)).await?;
    Ok(encryption(calls * 10)?)
}
