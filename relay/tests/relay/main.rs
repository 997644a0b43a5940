//! The relay against real servers: PostgreSQL and brokers (`scripts/setup brokers`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "aws")]
mod aws;
mod file;
mod jetstream;
mod kafka;
mod ledger;
mod lossy;
mod mqtt;
mod pages;
mod postgres;
mod programs;
mod rabbitmq;
mod streams;
mod takeover;
