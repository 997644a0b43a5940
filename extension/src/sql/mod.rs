//! The functions of the schema that are written in Rust, by topic.

pub mod admin;
pub mod after_append;
pub mod checks;
pub mod claim;
pub mod cycle;
pub mod enqueue;
pub mod entry;
pub mod events;
pub mod idempotency;
pub mod matching;
pub mod registry;
pub mod rights;
pub mod schemas;
pub mod sequencer;
pub mod transform;
