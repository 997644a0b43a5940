//! End to end: real servers, receivers and crashes. A folder is a tier; scripts/test runs its files one after another, because
//! the tests of one file share a server.

/// The extension in a database: installed, altered, restored, upgraded, its processes and its rights. On each PostgreSQL.
mod database;
/// The life of a delivery, pushed and pulled. On each PostgreSQL.
mod deliveries;
/// Faults of every kind, at every moment: crashes, kills, random calls, rows that cannot be read or written.
mod faults;
/// Requests: endpoints and what they say, receivers and what they do.
mod http;
/// The feed, lists and figures. On each PostgreSQL.
mod reading;
/// Which message goes where. On each PostgreSQL.
mod routing;
