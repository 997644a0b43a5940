//! Interleavings: real sessions run step by step, in every relevant order.

mod pairs;
mod sequencer;
