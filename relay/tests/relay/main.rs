//! The relay against real servers: PostgreSQL, nats-server and redis-server (`scripts/setup brokers`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod file;
mod jetstream;
mod programs;
mod streams;
mod takeover;
