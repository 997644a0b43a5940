//! Interleavings: real sessions run step by step, in every relevant order.

mod commands_and_sagas;
mod interleavings;
mod pair;
mod projections;
mod sequencer;
mod streams;
