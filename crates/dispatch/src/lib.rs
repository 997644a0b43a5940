//! The dispatcher: it ticks, routes, sends and records, round by round.
//!
//! This crate does not know PostgreSQL. It asks a `Store` for rows and has it record results, and it gives jobs to a
//! `Transport`. The extension implements `Store` with SQL statements and scans inside the server; the simulation in
//! `tests/simulation` implements it in memory, with a failure between any two calls. Time comes from the store as well.
//!
//! The state is in parts with one owner each, which `engine` lists together with the invariants of a round.

pub mod engine;
pub mod failure;
pub mod fault;
pub mod feed;
pub mod outcome;
pub mod payload_filter;
pub mod pull;
pub mod push;
pub mod store;
pub mod subscriptions;
pub mod transport;

pub use engine::{Engine, Wakeup};
pub use failure::Failure;
pub use store::{Host, Store};
pub use transport::Transport;
