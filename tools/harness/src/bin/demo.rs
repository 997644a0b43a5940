//! `make demo`: orders are committed and rolled back in PostgreSQL, and the committed orders arrive, signed, at an HTTP
//! receiver.
//!
//! The demo starts a real server, a receiver that checks signatures with the `standardwebhooks` crate, and an endpoint
//! that fails at first. The exit code says whether the numbers are right. With KEEP set, the server stays until Ctrl-C, with
//! an order per second and a dashboard.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Arrival, Receiver, Reply, Server, wait_until};
use tokio::signal::unix::{SignalKind, signal};

const ORDERS: i32 = 30;
const BURST: i32 = 2000;

/// The address of the dashboard, unless its port is taken.
const DASHBOARD: &str = "127.0.0.1:8484";

/// The observations of the receiver.
#[derive(Default)]
struct Seen {
    /// The times at which each order arrived at the shop.
    shop: HashMap<i64, Vec<SystemTime>>,
    flaky_failures: usize,
    flaky: HashMap<i64, usize>,
    bad_signatures: usize,
}

/// The observations of the receiver, shared with its handlers.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Seen>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The orders that were written.
#[derive(Default)]
struct Written {
    /// The times of the commits.
    committed: HashMap<i64, SystemTime>,
    rolled_back: usize,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let started = Instant::now();
    say("", "starting PostgreSQL with pg_outbox preloaded ...");
    let receiver = Receiver::start()?;
    let server = Server::start(&[]).await?;
    let db = server.database("shop").await?;
    let (shop_secret, flaky_secret) = set_up(&db, &receiver).await?;
    println!();
    println!("  business table   orders");
    println!("  endpoint shop    {}   subscribed to order.#", receiver.url("/shop"));
    println!("  endpoint flaky   {}  subscribed to order.vip, answers 503 at first", receiver.url("/flaky"));
    println!();

    let seen = Shared::default();
    answer_shop(&receiver, seen.clone(), shop_secret);
    answer_flaky(&receiver, seen.clone(), flaky_secret);
    let mut written = Written::default();
    write_one_by_one(&db, &seen, &mut written).await?;
    let rate = write_burst(&server, &mut written).await?;
    let all = written.committed.len();
    wait_until("all orders have arrived", Duration::from_secs(30), async || seen.lock().shop.len() >= all).await;
    say("", "waiting for the retry of the flaky endpoint ...");
    wait_until("the retry succeeds", Duration::from_secs(30), async || seen.lock().flaky.contains_key(&5)).await;
    // Gives duplicates and orders that were rolled back time to arrive, if there are any.
    tokio::time::sleep(Duration::from_millis(300)).await;

    let in_table: i64 = db.query_one("select count(*) from orders", &[]).await?.get(0);
    let good = report(&written, &seen.lock(), in_table, rate);
    println!();
    println!(
        "  {} in {:.0} s. Try it yourself: make up && make psql",
        if good { "It adds up," } else { "IT DOES NOT ADD UP," },
        started.elapsed().as_secs_f64()
    );
    if !good {
        bail!("the sums are wrong");
    }
    if std::env::var_os("KEEP").is_some_and(|keep| !keep.is_empty()) {
        return keep(&server, &db).await;
    }
    println!("  In a browser: make demo KEEP=1 keeps the server, with its dashboard at http://{DASHBOARD}/");
    Ok(())
}

/// Serves the dashboard and writes an order per second, until Ctrl-C or SIGTERM.
async fn keep(server: &Server, db: &Client) -> Result<()> {
    let free = std::net::TcpListener::bind(DASHBOARD).is_ok();
    let program = std::env::current_exe()?.with_file_name("outbox");
    println!();
    let mut dashboard = tokio::process::Command::new(&program)
        .args(["serve", "--listen", if free { DASHBOARD } else { "127.0.0.1:0" }])
        .env("DATABASE_URL", server.dsn("shop"))
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{} is missing: make demo KEEP=1 builds it", program.display()))?;
    say("", "an order is written every second; Ctrl-C ends it all");
    // Without a handler, SIGTERM would leave the dashboard behind.
    let mut terminated = signal(SignalKind::terminate())?;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    for n in 10_000.. {
        tokio::select! {
            _ = tick.tick() => {}
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
            _ = terminated.recv() => return Ok(()),
            ended = dashboard.wait() => bail!("the dashboard has ended: {}", ended?),
        }
        let topic = if n % 10 == 0 { "order.vip" } else { "order.created" };
        db.batch_execute("begin").await?;
        db.execute("insert into orders values ($1, 'item', 1)", &[&n]).await?;
        db.execute("select outbox.enqueue($1, jsonb_build_object('order', $2::int))", &[&topic, &n]).await?;
        db.batch_execute("commit").await?;
    }
    Ok(())
}

/// Creates the business table, the endpoints and their subscriptions. Returns the signing secrets of the endpoints.
async fn set_up(db: &Client, receiver: &Receiver) -> Result<(String, String)> {
    db.batch_execute("create table orders (id int primary key, item text not null, amount numeric not null)").await?;
    let secret_of = async |name: &str, path: &str| -> Result<String> {
        let url = receiver.url(path);
        Ok(db.query_one("select signing_secret from outbox.create_endpoint($1, $2)", &[&name, &url]).await?.get(0))
    };
    let shop_secret = secret_of("shop", "/shop").await?;
    let flaky_secret = secret_of("flaky", "/flaky").await?;
    db.batch_execute(
        "select outbox.subscribe('shop', '{order.#}', 'shop');
        select outbox.subscribe('flaky', '{order.vip}', 'flaky')",
    )
    .await?;
    Ok((shop_secret, flaky_secret))
}

fn answer_shop(receiver: &Receiver, seen: Shared, secret: String) {
    receiver.on("/shop", move |arrival, _| {
        let mut seen = seen.lock();
        if !verified(&secret, arrival) {
            seen.bad_signatures += 1;
            return Reply::status(401);
        }
        seen.shop.entry(order_of(arrival)).or_default().push(arrival.at);
        Reply::status(200)
    });
}

fn answer_flaky(receiver: &Receiver, seen: Shared, secret: String) {
    receiver.on("/flaky", move |arrival, count| {
        let mut seen = seen.lock();
        if !verified(&secret, arrival) {
            seen.bad_signatures += 1;
            return Reply::status(401);
        }
        let order = order_of(arrival);
        if count == 0 {
            seen.flaky_failures += 1;
            say("31", &format!("flaky     order {order:>4}   answers 503, will be tried again in about 5 s"));
            return Reply::status(503);
        }
        *seen.flaky.entry(order).or_default() += 1;
        say("32", &format!("flaky     order {order:>4}   answers 200 now  ({})", arrival.webhook_id()));
        Reply::status(200)
    });
}

/// Writes orders and rolls every fourth back. Waits for the arrival of each committed order.
async fn write_one_by_one(db: &Client, seen: &Shared, written: &mut Written) -> Result<()> {
    for n in 1..=ORDERS {
        let topic = if n == 5 { "order.vip" } else { "order.created" };
        db.batch_execute("begin").await?;
        db.execute("insert into orders values ($1, 'item', 10 * $1)", &[&n]).await?;
        db.execute("select outbox.enqueue($1, jsonb_build_object('order', $2::int))", &[&topic, &n]).await?;
        if n % 4 == 0 {
            db.batch_execute("rollback").await?;
            written.rolled_back += 1;
            say("33", &format!("rollback  order {n:>4}"));
        } else {
            db.batch_execute("commit").await?;
            let at = SystemTime::now();
            let order = i64::from(n);
            written.committed.insert(order, at);
            wait_until("the order arrives", Duration::from_secs(10), async || seen.lock().shop.contains_key(&order))
                .await;
            let arrived = seen.lock().shop[&order][0];
            say(
                "32",
                &format!("commit    order {n:>4}   arrived after {}   signature valid", milliseconds(at, arrived)),
            );
        }
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    Ok(())
}

/// Writes many orders from four sessions, and returns the rate in orders per second.
async fn write_burst(server: &Server, written: &mut Written) -> Result<f64> {
    say("", &format!("{BURST} more orders from 4 sessions, every tenth rolled back ..."));
    let mut sessions = Vec::new();
    let burst = Instant::now();
    for k in 0..4 {
        let db = server.connect("shop").await?;
        sessions.push(tokio::spawn(write_quarter_of_burst(db, k)));
    }
    for session in sessions {
        for (n, at) in session.await?? {
            match at {
                Some(at) => drop(written.committed.insert(n, at)),
                None => written.rolled_back += 1,
            }
        }
    }
    Ok(f64::from(BURST) / burst.elapsed().as_secs_f64())
}

/// Writes every fourth order of the burst. Returns the orders with the times of their commits, or `None` for a rollback.
async fn write_quarter_of_burst(db: Client, first: i32) -> Result<Vec<(i64, Option<SystemTime>)>> {
    let insert = db.prepare("insert into orders values ($1, 'item', 1)").await?;
    let enqueue = db.prepare("select outbox.enqueue('order.created', jsonb_build_object('order', $1::int))").await?;
    let mut done = Vec::new();
    for n in (1000 + first..1000 + BURST).step_by(4) {
        db.batch_execute("begin").await?;
        db.execute(&insert, &[&n]).await?;
        db.execute(&enqueue, &[&n]).await?;
        let keep = n % 10 != 0;
        db.batch_execute(if keep { "commit" } else { "rollback" }).await?;
        done.push((i64::from(n), keep.then(SystemTime::now)));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(done)
}

/// Prints the sums, and returns whether they are right.
fn report(written: &Written, seen: &Seen, in_table: i64, rate: f64) -> bool {
    let Written { committed, rolled_back } = written;
    let received = committed.keys().filter(|n| seen.shop.contains_key(n)).count();
    let phantoms = seen.shop.keys().filter(|n| !committed.contains_key(n)).count();
    let duplicates: usize = seen.shop.values().map(|times| times.len() - 1).sum();
    let mut delays: Vec<Duration> = committed
        .iter()
        .filter_map(|(n, at)| Some(seen.shop.get(n)?[0].duration_since(*at).unwrap_or_default()))
        .collect();
    delays.sort();
    let percentile = |p: usize| delays.get((delays.len().max(1) - 1) * p / 100).copied().unwrap_or_default();
    println!();
    println!("  committed            {:>6}     in the business table {in_table}", committed.len());
    println!("  received             {received:>6}     each signature checked by the standardwebhooks crate");
    println!("  rolled back          {rolled_back:>6}     received of those: {phantoms}");
    println!("  duplicates           {duplicates:>6}");
    println!("  failed and retried   {:>6}     then delivered: {}", seen.flaky_failures, seen.flaky.len());
    println!(
        "  commit to receipt    p50 {:.2} ms, p99 {:.2} ms, at {rate:.0} orders/s in the burst",
        percentile(50).as_secs_f64() * 1e3,
        percentile(99).as_secs_f64() * 1e3
    );
    received == committed.len()
        && in_table == committed.len() as i64
        && phantoms == 0
        && duplicates == 0
        && seen.bad_signatures == 0
        && seen.flaky_failures == 1
        && seen.flaky.values().sum::<usize>() == 1
}

fn order_of(arrival: &Arrival) -> i64 {
    arrival.json()["order"].as_i64().unwrap_or(-1)
}

fn verified(secret: &str, arrival: &Arrival) -> bool {
    standardwebhooks::Webhook::new(secret).is_ok_and(|judge| judge.verify(&arrival.body, &arrival.headers).is_ok())
}

fn milliseconds(from: SystemTime, to: SystemTime) -> String {
    // The request may arrive before the session learns that its commit is done.
    to.duration_since(from).map_or_else(|_| "0.00 ms".to_owned(), |d| format!("{:.2} ms", d.as_secs_f64() * 1e3))
}

fn say(color: &str, text: &str) {
    let mut out = std::io::stdout().lock();
    let plain = color.is_empty() || std::env::var_os("NO_COLOR").is_some() || !out.is_terminal();
    let _ = if plain { writeln!(out, "  {text}") } else { writeln!(out, "  \x1b[{color}m{text}\x1b[0m") };
    let _ = out.flush();
}
