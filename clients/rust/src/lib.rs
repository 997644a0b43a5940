//! The client of [pg_outbox](https://github.com/pg-outbox/pg_outbox), the transactional outbox inside PostgreSQL.
//!
//! Enqueuing joins the caller's transaction. [`Executor`] names the connections that it takes.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use pg_outbox::{Message, Outbox};
//!
//! let outbox = Outbox::connect("postgresql://app@localhost/shop").await?;
//! let mut session = outbox.session().await?;
//! let tx = session.transaction().await?;
//! tx.execute("insert into orders (id, amount) values (42, 129.95)", &[]).await?;
//! let message = Message::to("order.created").key("order-42").json(&serde_json::json!({"order": 42}))?;
//! message.enqueue(&tx).await?;
//! tx.commit().await?;
//! # Ok(()) }
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`app`] | [`app::Workers`]: handlers by topic with typed payloads, periodic messages, layers; one process |
//! | [`message`] | [`Message`], its builder [`NewMessage`], and plain `(sql, params)` for other drivers |
//! | [`driver`] | the connections that messages are enqueued on: tokio-postgres, deadpool, sqlx, diesel-async |
//! | [`outbox`] | [`Outbox`]: a pool, sessions, and calls of any function of the schema by name |
//! | [`admin`] | a method with typed arguments and rows for each public SQL function |
//! | [`worker`] | [`Worker`]: claims, handles and completes deliveries; survives restarts of the server |
//! | [`reader`] | [`Reader`]: reads the feed in order, with a durable cursor; projections that cannot skip |
//! | [`page`] | [`page::Page`]: how much a reader reads at once |
//! | `events` | event sourcing: typed events, aggregates, commands, projections, sagas (feature `events`) |
//! | [`verify`] | [`verify::Verifier`]: verifies signatures of Standard Webhooks, for receivers |
//! | [`error`] | [`Error`]: seven kinds of errors that say what a caller can do |
//! | `testing` | assertions, `drain` and a test receiver, for tests of applications (feature `testing`) |
//!
//! Workers, readers and applications log with `tracing`; a program sees it with a subscriber, for example
//! `tracing_subscriber::fmt::init()`.

pub mod admin;
pub mod app;
pub mod call;
pub mod connect;
pub mod driver;
pub mod error;
#[cfg(feature = "events")]
pub mod events;
pub mod message;
pub mod outbox;
pub mod page;
mod pooler;
pub mod reader;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;
pub mod verify;
pub mod worker;

pub use chrono;
pub use driver::Executor;
pub use error::{Error, Kind, Result};
pub use message::{Message, NewMessage};
pub use outbox::Outbox;
pub use reader::Reader;
pub use tokio_postgres;
pub use tokio_postgres::GenericClient;
pub use worker::{Worker, shutdown_signal};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "events-encryption", feature = "events-progress"))]
#[doc = include_str!("../EVENTS.md")]
struct Events;
