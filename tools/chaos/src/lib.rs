//! A chaos test with a ledger. Programs enqueue, commit and roll back. Receivers and readers record their observations. A
//! schedule that is drawn from a seed kills and pauses processes, fills the disk, cuts the network and changes settings.
//! At the end, the observations are compared with the committed truth.
//!
//! The schedule and the choices of each producer depend only on the seed. The operating system decides which requests are in
//! flight at a given moment.

mod append;
pub mod ledger;
pub mod load;
mod matching;
pub mod operate;
pub mod random;
pub mod receivers;
pub mod schedule;
pub mod verdict;
pub mod world;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use ledger::Ledger;
use load::Shared;
use receivers::{FAR, GUEST, MOODY, REMOTE, Receivers};
use schedule::Event;
use verdict::Verdict;
use world::World;

/// The plan of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// The number of sessions that enqueue.
    pub producers: u64,
    /// The events, and when each begins.
    pub events: Vec<(Duration, Event)>,
    /// The duration of the traffic.
    pub length: Duration,
    /// Whether to put the data on a bounded disk, if mounting is allowed.
    pub bounded_disk: bool,
    /// The time limit for the delivery of all messages after the traffic.
    pub patience: Duration,
    /// Whether to print the events.
    pub loud: bool,
    /// Whether the server stays up after a breach, until Ctrl-C.
    pub hold: bool,
}

/// Runs a plan. The verdict judges pg_outbox. An error is a failure of the test itself.
pub async fn run(plan: &Plan) -> Result<Verdict> {
    let mut world = World::start(plan.bounded_disk).await?;
    let ledger = Arc::new(Ledger::default());
    let receivers = Receivers::start(&ledger, plan.seed)?;
    let db = world.connect().await?;
    set_up(&db, &receivers).await?;
    let shared = Arc::new(Shared {
        ledger,
        place: world.place.clone(),
        stop: AtomicBool::new(false),
        stop_reading: AtomicBool::new(false),
        transactions: AtomicU64::new(0),
    });
    drop(db);

    let mut producers: Vec<_> =
        (0..plan.producers).map(|who| tokio::spawn(load::produce(Arc::clone(&shared), plan.seed, who))).collect();
    producers.extend((0..2).map(|who| tokio::spawn(append::append(Arc::clone(&shared), plan.seed, who))));
    producers.extend((0..2).map(|who| tokio::spawn(operate::operate(Arc::clone(&shared), plan.seed, who))));
    let mut readers: Vec<_> = (0..2).map(|_| tokio::spawn(load::read(Arc::clone(&shared)))).collect();
    for (who, job) in [load::WORK, load::WORK, load::LANE, load::WORK, load::LANE].into_iter().enumerate() {
        readers.push(tokio::spawn(load::pull(Arc::clone(&shared), plan.seed, who as u64, job)));
    }
    let memory = Arc::new(Mutex::new(Vec::new()));
    let sampler = tokio::spawn(sample_memory(Arc::clone(&shared), Arc::clone(&memory)));

    let started = Instant::now();
    let mut happened = Vec::new();
    for (at, event) in &plan.events {
        tokio::time::sleep_until((started + *at).into()).await;
        let at = started.elapsed().as_secs_f64();
        match world.happen(*event, &receivers).await {
            Ok(()) => {
                say(plan, &format!("{at:7.2} s  {event:?}"));
                happened.push(*event);
            }
            Err(error) => {
                say(plan, &format!("{at:7.2} s  {event:?} did not work out: {error:#}"));
                // The event may have had an effect before it failed.
                happened.push(*event);
            }
        }
    }
    tokio::time::sleep_until((started + plan.length).into()).await;

    shared.stop.store(true, Ordering::Relaxed);
    let db = world.calm(&receivers).await?;
    for producer in producers {
        producer.await?;
    }
    // A producer may have left another prepared transaction while the others ended.
    drop(db);
    let db = world.calm(&receivers).await?;
    say(
        plan,
        &format!(
            "{:7.2} s  calm: {} messages drawn, {} transactions, {} events",
            started.elapsed().as_secs_f64(),
            shared.ledger.drawn(),
            shared.transactions.load(Ordering::Relaxed),
            happened.len()
        ),
    );
    let stuck = verdict::settle(&shared, &db, plan.patience).await?;
    shared.stop_reading.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await?;
    }
    sampler.abort();
    let memory = std::mem::take(&mut *memory.lock().unwrap_or_else(PoisonError::into_inner));
    let verdict = verdict::judge(&shared, &db, &happened, stuck, &memory, &world.server.log()).await?;
    if !verdict.holds() {
        say(plan, &format!("the end of the server's log:\n{}", world::log_tail(&world.server)));
        if plan.hold {
            println!("\n{verdict}\nthe server waits until this process gets Ctrl-C: psql \"{}\"", world.place.dsn());
            tokio::signal::ctrl_c().await?;
        }
    }
    Ok(verdict)
}

fn say(plan: &Plan, text: &str) {
    if plan.loud {
        println!("{text}");
    }
}

async fn set_up(db: &outbox_harness::tokio_postgres::Client, receivers: &Receivers) -> Result<()> {
    db.batch_execute(
        "create role chaos_owner superuser;
        set role chaos_owner;
        create extension pg_outbox;
        reset role;
        create schema chaos;
        create table chaos.ledger (n bigint primary key, message_id bigint not null);
        -- Messages that need not arrive; never: that must not.
        create table chaos.fate (n bigint primary key, what text not null, at timestamptz not null default clock_timestamp());
        -- What operators may have had delivered twice.
        create table chaos.moved (n bigint not null);
        create table chaos.resent (n bigint not null);
        -- What the guest gets from a message on.
        create table chaos.guest (message_id bigint not null, what text not null);
        create table chaos.own (id bigint primary key);
        -- The events that were appended, as the calls returned their versions.
        create table chaos.appended (stream text not null, version bigint not null, event_id uuid not null);
        create table chaos.worked (n bigint not null, drawn bigserial);
        create table chaos.laned (n bigint not null, drawn bigserial);
        create table chaos.effect (\"position\" bigint not null, message_id bigint not null);
        select outbox.cursor_reset('chaos', 0, 'messages are kept for it from the start')",
    )
    .await?;
    for path in MOODY.into_iter().chain([FAR, GUEST, REMOTE]) {
        db.execute(
            "select from outbox.create_endpoint($1, $2, timeout => '2 s', concurrency => 16,
                schedule => '{\"delays\": [0.3, 1, 2, 5], \"jitter\": 0.2}')",
            &[&path.trim_start_matches('/'), &receivers.url(path)],
        )
        .await?;
    }
    db.batch_execute(
        "select outbox.subscribe('main', '{order.#}', 'main', max_attempts => 1000);
        select outbox.subscribe('half', '{order.even}', 'half', max_attempts => 1000);
        select outbox.subscribe('mortal', '{order.*}', 'mortal', max_attempts => 2);
        select outbox.subscribe('keyed', '{order.#}', 'keyed', max_attempts => 1000, ordering => 'key');
        select outbox.subscribe('remote', '{order.odd}', 'remote', max_attempts => 1000);
        select outbox.subscribe('work', '{order.#}', max_attempts => 1000);
        select outbox.subscribe('lane', '{order.odd}', max_attempts => 1000, ordering => 'key');
        select outbox.subscribe('far', '{#}', 'far', max_attempts => 1000)",
    )
    .await?;
    Ok(())
}

/// Samples the private memory of the dispatcher regularly.
async fn sample_memory(shared: Arc<Shared>, memory: Arc<Mutex<Vec<u64>>>) {
    loop {
        if let Ok(db) = load::session(&shared.place, "chaos memory").await {
            let sql = "select pid from pg_stat_activity where backend_type = 'pg_outbox dispatcher' and datname = current_database()";
            while let Ok(rows) = db.query(sql, &[]).await {
                let samples = rows.iter().filter_map(|row| world::private_memory(row.get::<_, i32>(0) as u32));
                memory.lock().unwrap_or_else(PoisonError::into_inner).extend(samples);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
