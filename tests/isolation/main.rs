//! Interleavings: real sessions run step by step, in every relevant order.

mod interleavings;
mod pair;
mod processes;
mod projections;
mod sequencer;
