//! Interleavings: real sessions run step by step, in every relevant order.

mod interleavings;
mod sequencer;
mod streams;
