//! End-to-end tests with real servers, receivers and crashes. scripts/test runs the files one after another, because the
//! tests of one file share a server.

/// The extension in a database: installing, altering, restoring and upgrading it, its processes and its rights. Runs on each
/// PostgreSQL.
mod database;
/// The life of pushed and pulled deliveries. Runs on each PostgreSQL.
mod deliveries;
/// Faults of every kind, at every moment: crashes, kills, random calls, and rows that cannot be read or written.
mod faults;
/// HTTP: the settings of endpoints, requests, and the behaviour of receivers.
mod http;
/// The feed, lists and statistics. Runs on each PostgreSQL.
mod reading;
/// The routing of messages to subscriptions. Runs on each PostgreSQL.
mod routing;
