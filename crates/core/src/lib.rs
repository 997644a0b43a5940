//! The pure logic of pg_outbox: all decisions that need neither PostgreSQL nor the network.
//!
//! The extension, the clients and the benchmarks share this crate. No function here does I/O or reads a clock: times are
//! passed as arguments, and randomness as a seed.

pub mod auth;
pub mod breaker;
pub mod bucket;
#[cfg(feature = "cron")]
pub mod cron;
pub mod digest;
pub mod digits;
pub mod dns;
pub mod egress;
#[cfg(feature = "encryption")]
pub mod encrypt;
pub mod error;
pub mod fair;
pub mod filter;
pub mod format;
pub mod gzip;
pub mod headers;
pub mod ids;
pub mod message;
pub mod pattern;
pub mod policy;
pub mod progress;
pub mod proxy;
pub mod retry_after;
pub mod router;
pub mod schedule;
pub mod sign;
pub mod stream;
pub mod topic;
pub mod topic_template;
pub mod upcast;
pub mod url;
pub mod verify;
pub mod webhook_id;
mod wildcard;
pub mod x509;

pub use error::{Code, Error, Kind, Result, classify};
