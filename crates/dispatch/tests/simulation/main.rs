//! The dispatcher without a server: random schedules of producers, operators, receivers, workers, failures and deaths, and
//! the verdicts of `tools/chaos` on each of them.
//!
//! A failure names its seed. `SIMULATION_SEED=7` runs that schedule alone; `SIMULATION_SCHEDULES=100000` runs more of them.

// A schedule that is run alone prints its steps, and a run its figures.
#![allow(clippy::print_stdout)]

mod random;
mod schedule;
mod store;
mod transport;
mod verdict;
mod world;

use std::collections::BTreeMap;

#[expect(clippy::panic, reason = "a helper of the tests")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[test]
fn every_delivery_ends_once_in_order_and_nothing_is_lost_whatever_fails() {
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SIMULATION_SCHEDULES").unwrap_or(3000),
    };
    let begun = std::time::Instant::now();
    let mut met: BTreeMap<&str, u64> = BTreeMap::new();
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let world = schedule::run(seed);
        let world = world.borrow();
        assert!(world.breaches.is_empty(), "SIMULATION_SEED={seed}: {:#?}", world.breaches);
        *met.entry("requests").or_default() += world.ledger.len() as u64;
        *met.entry("failed calls").or_default() += world.failures;
        *met.entry("deaths").or_default() += world.deaths;
        for outcome in world.tables.ended.values().flatten() {
            *met.entry(outcome).or_default() += 1;
        }
        let unrecordable = world.tables.dead_letters.iter().filter(|letter| letter.reason == "unrecordable");
        *met.entry("unrecordable").or_default() += unrecordable.count() as u64;
    }
    println!("{count} schedules in {:.1?}: {met:?}", begun.elapsed());
    // A simulation that does not meet these does not test them.
    if count >= 1000 {
        let kinds = ["failed calls", "deaths", "completed", "cancelled", "dead", "expired", "unrecordable", "skipped"];
        kinds.iter().for_each(|kind| assert!(met.get(kind).copied().unwrap_or(0) >= 20, "{kind}: {met:?}"));
    }
}

#[test]
fn a_schedule_depends_on_its_seed_alone() {
    for seed in 0..50 {
        let requests = |seed| {
            let world = schedule::run(seed);
            let ledger = world.borrow().ledger.clone();
            ledger.iter().map(|r| (r.subscription, r.position, r.accepted)).collect::<Vec<_>>()
        };
        assert_eq!(requests(seed), requests(seed), "seed {seed}");
    }
}
