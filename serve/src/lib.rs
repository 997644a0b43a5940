//! The dashboard of pg_outbox: one small HTTP server that shows what is stuck and why, and has the buttons that mend it.
//!
//! The server has no rights of its own. It shows what the role of its connection may see (capability `monitor`, or the
//! overview alone with `observe`), and the buttons of actions that the role may call (`admin`). It also has `/metrics`
//! for Prometheus, `/healthz` (the process lives) and `/readyz` (the database answers and has an outbox).
//!
//! These rules hold:
//!
//! - Nobody sees or does anything without a token or the header of a trusted proxy. Nothing is done without the token
//!   of a form that this server made for the same person.
//! - A page reads in a read-only transaction. No query counts or sorts everything that is stored; lists go page by page. The sums of
//!   `health()` and of the subscriptions count the deliveries and dead letters that are open.
//! - Content of messages is shown when somebody asks for it. Stored secrets are never read.
//! - A text of the database is text: it runs nothing, hides nothing, and is cut where it is long.
//! - Every attempt to send a message of a recorded trace is one span, if there is a receiver of traces.
//! - Without the database every page says so, and the next one works again as soon as the database does.

mod actions;
mod app;
mod chart;
mod database;
mod health;
mod http;
pub mod metrics;
mod options;
mod own;
mod page;
mod samples;
mod screens;
mod server;
mod session;
mod traces;

pub use health::{command_for, wrong};
pub use options::{Options, Traces};
pub use page::short_age;
pub use screens::subscriptions::state_of;
pub use server::Server;
