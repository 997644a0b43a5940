//! The relay against real servers: PostgreSQL, nats-server and redis-server (`scripts/setup brokers`).

mod file;
mod jetstream;
mod programs;
mod streams;
mod takeover;
