//! Event sourcing against a real server.

#![cfg(feature = "events")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod aggregates;
mod commands;
#[cfg(feature = "events-encryption")]
mod encryption;
#[cfg(all(feature = "events-vault", feature = "events-kms"))]
mod keys;
#[cfg(feature = "testing")]
mod kit;
#[cfg(feature = "events-progress")]
mod progress;
mod projections;
mod read_models;
mod sagas;
mod shop;
#[cfg(feature = "testing")]
mod shop_example;
mod streams;
mod subscriptions;
#[cfg_attr(not(feature = "events-encryption"), allow(dead_code, reason = "the runner of the scenarios uses all of it"))]
#[path = "../suite/mod.rs"]
mod suite;
#[cfg(feature = "events-encryption")]
mod toolkit;
