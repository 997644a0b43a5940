//! Explores the model of the sequencer exhaustively, and checks that the wrong designs are caught.

use outbox_model::{Found, Scope, Variant, explore};

fn holds(scope: Scope) {
    match explore(&scope) {
        Found::Holds { states } => println!("{states} states hold: {scope:?}"),
        Found::Breach { what, .. } => {
            panic!("{what}\n{scope:?}");
        }
    }
}

#[test]
fn two_sessions_and_two_tickers() {
    let scope = Scope::new(Variant::AsBuilt);
    holds(Scope { tickers: 2, ..scope });
    holds(Scope { sessions: 1, transactions: 3, ..scope });
}

#[test]
fn large_differences_in_chunks() {
    let scope = Scope { chunk: 1, ..Scope::new(Variant::AsBuilt) };
    holds(Scope { sessions: 3, ticks: 1, ..scope });
    holds(Scope { messages: 2, ..scope });
}

#[test]
fn crashes() {
    let scope = Scope { crashes: 1, ..Scope::new(Variant::AsBuilt) };
    holds(Scope { tickers: 2, ..scope });
    holds(Scope { messages: 2, chunk: 1, ticks: 1, ..scope });
}

#[test]
fn rotation() {
    let scope = Scope { rotations: 1, ..Scope::new(Variant::AsBuilt) };
    holds(scope);
    holds(Scope { rotations: 2, ticks: 1, ..scope });
}

#[test]
fn events_beside_messages() {
    let scope = Scope { events: true, ..Scope::new(Variant::AsBuilt) };
    holds(Scope { tickers: 2, ..scope });
    holds(Scope { messages: 2, chunk: 1, ticks: 1, ..scope });
    holds(Scope { rotations: 1, ticks: 1, ..scope });
    holds(Scope { crashes: 1, ..scope });
}

/// Takes a minute in a release build: `cargo test -p outbox-model --release -- --ignored`.
#[test]
#[ignore = "a minute in a release build, much longer without"]
fn wider() {
    let scope = Scope::new(Variant::AsBuilt);
    holds(Scope { transactions: 2, ticks: 1, ..scope });
    holds(Scope { messages: 2, chunk: 1, crashes: 1, ..scope });
    holds(Scope { tickers: 2, ticks: 3, ..scope });
    holds(Scope { rotations: 1, chunk: 1, ticks: 3, ..scope });
}

/// A message that a chunk leaves out may come after messages that it should precede, or never.
const CHUNKS: &[&str] = &["skipped or stalled", "message"];

/// Each wrong design is caught in the given scope.
#[test]
fn every_wrong_design_is_caught() {
    const SKIP: &[&str] = &["skipped or stalled"];
    const TWICE: &[&str] = &["duplicate"];
    const ORDER: &[&str] = &["message"];
    let small = |variant| Scope { ticks: 2, ..Scope::new(variant) };
    let chunks = |variant| Scope { chunk: 1, ticks: 1, ..Scope::new(variant) };
    let turning = |variant| Scope { rotations: 1, ..Scope::new(variant) };
    for (scope, expected) in [
        (small(Variant::IdAboveLast), SKIP),
        (small(Variant::BelowXmin), SKIP),
        (Scope { tickers: 2, ..small(Variant::SnapshotBeforeLock) }, TWICE),
        (small(Variant::NewerRows), TWICE),
        (Scope { messages: 2, ..small(Variant::TickAfterOwnWrite) }, SKIP),
        (Scope { sessions: 3, ..chunks(Variant::NextBeforeFloor) }, CHUNKS),
        (Scope { sessions: 3, ..chunks(Variant::XmaxForNext) }, CHUNKS),
        (Scope { sessions: 3, ..chunks(Variant::IdBeforeXid) }, CHUNKS),
        (Scope { sessions: 3, ..chunks(Variant::ChunksById) }, CHUNKS),
        (Scope { messages: 2, ticks: 2, ..chunks(Variant::NewerInBetween) }, ORDER),
        (Scope { sessions: 3, ticks: 2, ..chunks(Variant::WindowsFromFloor) }, CHUNKS),
        (Scope { sessions: 3, ..chunks(Variant::WindowsUptoFloor) }, CHUNKS),
        (turning(Variant::OnlyCurrentLeaf), SKIP),
        (turning(Variant::NoSecondLook), SKIP),
        (turning(Variant::SettledAfterSnapshot), SKIP),
        (Scope { events: true, ..small(Variant::EventsSettle) }, SKIP),
    ] {
        match explore(&scope) {
            Found::Breach { what, path } => {
                println!("{:?}: {what} after {} steps", scope.variant, path.len() - 1);
                assert!(expected.iter().any(|e| what.starts_with(e)), "{:?}: {what}, not {expected:?}", scope.variant);
            }
            Found::Holds { states } => panic!("{:?} was not caught in {states} states", scope.variant),
        }
    }
}
