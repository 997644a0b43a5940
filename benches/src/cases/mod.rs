//! The cases. Each case starts its own servers, measures both sides in turn, and takes medians.

mod admin;
mod append;
mod beside;
mod capture;
mod dashboard;
mod drain;
mod enqueue;
mod events;
mod guard;
mod held;
mod http2;
mod idle;
mod isolation;
mod latency;
mod memory;
mod peers;
mod pull;
mod read;
mod reclaim;
mod registry;
mod relay;
mod replay;
mod retained;
mod routing;
mod sequencer;
mod stores;

use std::future::Future;
use std::pin::Pin;

use anyhow::Result;

use crate::report::Report;

type Case = for<'a> fn(&'a mut Report) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// Cases that run only if they are named, or with BENCH=all, because `make bench` should take less than ten minutes.
pub const BY_NAME: &[&str] = &[
    "append",
    "stores",
    "events",
    "memory",
    "peers",
    "reclaim",
    "admin",
    "dashboard",
    "routing",
    "capture",
    "registry",
    "relay",
    "guard",
];

/// The name, description and function of each case.
pub const ALL: &[(&str, &str, Case)] = &[
    ("enqueue", "enqueue() against a prepared INSERT into a plain table with the same columns and indexes", |r| {
        Box::pin(enqueue::run(r))
    }),
    (
        "append",
        "append() against a plain INSERT with the same columns and indexes, and against a row that counts",
        |r| Box::pin(append::run(r)),
    ),
    ("stores", "append() beside message-db and emmett", |r| Box::pin(stores::run(r))),
    ("events", "streams, everything in order, a category and a projection", |r| Box::pin(events::run(r))),
    ("guard", "the ratios of the main paths against those on record (UPDATE=1 records them)", |r| {
        Box::pin(guard::run(r))
    }),
    ("sequencer", "the sequencer alone", |r| Box::pin(sequencer::run(r))),
    ("drain", "a backlog over HTTP against a bare hyper client; CPU, WAL and memory", |r| Box::pin(drain::run(r))),
    ("beside", "a backlog in batches, and beside a dead and a hanging endpoint", |r| Box::pin(beside::run(r))),
    ("isolation", "a healthy endpoint at a fixed rate, alone and beside a hanging and a dead one", |r| {
        Box::pin(isolation::run(r))
    }),
    ("memory", "memory of the dispatcher at full rate (MEMORY=seconds)", |r| Box::pin(memory::run(r))),
    ("http2", "the same backlog over HTTP/1.1 and HTTP/2, plain and encrypted", |r| Box::pin(http2::run(r))),
    ("latency", "commit to receipt, beside the price of a commit", |r| Box::pin(latency::run(r))),
    ("pull", "claim and complete against a SKIP LOCKED status table", |r| Box::pin(pull::run(r))),
    ("peers", "claim and complete beside pg-boss, graphile-worker, procrastinate and PgQ", |r| Box::pin(peers::run(r))),
    ("read", "reading the feed with a cursor", |r| Box::pin(read::run(r))),
    ("reclaim", "enqueue while a segment is left and truncated (RECLAIM=n messages in it)", |r| {
        Box::pin(reclaim::run(r))
    }),
    ("admin", "pages of what people look at, beside retained messages (RETAINED=n)", |r| Box::pin(admin::run(r))),
    (
        "dashboard",
        "pages of the dashboard beside many messages (RETAINED=n) and dead letters (DEAD=n), and its memory",
        |r| Box::pin(dashboard::run(r)),
    ),
    ("held", "another session holds an old snapshot (HELD=seconds): push, pull and a SKIP LOCKED status table", |r| {
        Box::pin(held::run(r))
    }),
    ("retained", "a million retained messages against none (RETAINED=n for more)", |r| Box::pin(retained::run(r))),
    ("routing", "1, 10, 1,000 and 10,000 subscriptions end to end", |r| Box::pin(routing::run(r))),
    ("capture", "capture() against triggers written by hand", |r| Box::pin(capture::run(r))),
    ("replay", "a replay, and live traffic beside it", |r| Box::pin(replay::run(r))),
    ("registry", "enqueue() with registered topics and publishers only", |r| Box::pin(registry::run(r))),
    (
        "relay",
        "the relay to Kafka, NATS and Redis beside a producer that is fed from memory (RELAY=n); latency, memory, idling",
        |r| Box::pin(relay::run(r)),
    ),
    ("idle", "a server that has nothing to do", |r| Box::pin(idle::run(r))),
];
