//! Explores the model of the reader, and checks that the wrong designs are caught.

use outbox_model::{Design, explore_reader};

#[test]
fn a_read_that_is_not_refused_misses_nothing() {
    let states = explore_reader(Design::AsBuilt).unwrap_or_else(|path| panic!("{}", path.join("\n")));
    assert!(states > 100, "{states} states are not all");
}

#[test]
fn other_designs_skip_messages() {
    for design in [Design::SaidAfterwards, Design::LookedAtBefore, Design::SaidInARow, Design::NotSaid] {
        assert!(explore_reader(design).is_err(), "{design:?} is not found out");
    }
}
