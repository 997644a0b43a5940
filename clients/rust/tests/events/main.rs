//! Event sourcing against a real server.

#![cfg(feature = "events")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod aggregates;
#[cfg(feature = "events-encryption")]
mod encryption;
mod shop;
mod streams;
