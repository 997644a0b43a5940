//! Interleavings: real sessions, step by step, in every order that matters.

mod pairs;
mod sequencer;
