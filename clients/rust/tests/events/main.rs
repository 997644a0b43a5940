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
mod projections;
mod read_models;
mod sagas;
mod shop;
#[cfg(feature = "testing")]
mod shop_example;
mod streams;
mod subscriptions;
#[cfg(feature = "events-encryption")]
#[path = "../suite/mod.rs"]
mod suite;
#[cfg(feature = "events-encryption")]
mod toolkit;
