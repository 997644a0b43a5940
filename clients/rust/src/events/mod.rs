//! Event sourcing in Rust: streams of typed events, aggregates, commands, projections and sagas.
//!
//! The server keeps the state: versions, order, deduplication, cursors and keys. This module is thin. It turns serde types into
//! events and back, and it runs in the caller's transaction, on every connection that
//! [`enqueue`](crate::NewMessage::enqueue) takes (see [`Executor`](crate::Executor)).
//!
//! ```no_run
//! use pg_outbox::Outbox;
//! use pg_outbox::events::{Aggregate, EventStore, Repository};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, Debug, Serialize, Deserialize)]
//! #[serde(tag = "type", content = "data")]
//! enum OrderEvent {
//!     #[serde(rename = "order.placed")]
//!     Placed { total: i64 },
//!     #[serde(rename = "order.paid")]
//!     Paid,
//! }
//!
//! #[derive(Default)]
//! struct Order {
//!     total: i64,
//!     is_paid: bool,
//! }
//!
//! impl Aggregate for Order {
//!     const CATEGORY: &'static str = "order";
//!     type Event = OrderEvent;
//!
//!     fn apply(&mut self, event: OrderEvent) {
//!         match event {
//!             OrderEvent::Placed { total } => self.total = total,
//!             OrderEvent::Paid => self.is_paid = true,
//!         }
//!     }
//! }
//!
//! # async fn example() -> pg_outbox::Result<()> {
//! let outbox = Outbox::connect("postgresql://app@localhost/shop").await?;
//! let orders: Repository<Order> = Repository::new(EventStore::default());
//! orders.execute(&outbox, "4711", |order| order.raise(OrderEvent::Placed { total: 42 })).await?;
//! # Ok(()) }
//! ```
//!
//! | file | content |
//! |---|---|
//! | [`event`] | [`NewEvent`], [`RecordedEvent`], and how serde types become events |
//! | [`metadata`] | [`Metadata`], and the metadata of the current task |
//! | [`store`] | [`EventStore`]: append and load |
//! | [`serialize`] | [`Serializer`]: data as bytes: MessagePack (feature `events-msgpack`), Protobuf (`events-protobuf`) |
//! | [`registry`] | [`EventRegistry`]: the types of events that are known, and their Rust types |
//! | [`upcast`] | [`Upcasters`]: old forms of events are made new when they are loaded |
//! | [`aggregate`] | [`Aggregate`], [`Root`] and [`Repository`], with snapshots and retries |
//! | [`command`] | [`CommandBus`]: handlers of commands, each in a transaction |
//! | [`middleware`] | layers of tower around the handlers: validation, retries, idempotency and so on |
//! | [`subscribe`] | [`Subscription`]: all events behind a position, and then those that are appended |
//! | [`project`] | [`ProjectionEngine`]: read models that follow the events |
//! | `progress` | bars on a terminal for rebuilds (feature `events-progress`) |
//! | [`saga`] | [`SagaManager`]: processes of several steps |
//! | [`fault`] | [`Fault`]: the errors of this module, by their cause |
//! | [`read_model`] | [`ReadModel`]: the rows of a table of the application |
//! | `encrypt` | encryption of fields, with keys per event or per person (feature `events-encryption`) |
//! | `keys` | master keys of HashiCorp Vault and AWS KMS (features `events-vault` and `events-kms`) |

pub mod aggregate;
pub mod command;
mod connection;
#[cfg(feature = "events-encryption")]
pub mod encrypt;
pub mod event;
pub mod fault;
#[cfg(any(feature = "events-vault", feature = "events-kms"))]
pub mod keys;
pub mod metadata;
pub mod middleware;
#[cfg(feature = "events-progress")]
pub mod progress;
pub mod project;
pub mod read_model;
pub mod registry;
mod retry;
pub mod saga;
pub mod serialize;
pub(crate) mod source;
pub mod store;
pub mod subscribe;
pub mod upcast;

pub use self::aggregate::{Aggregate, Repository, Root, save_all};
pub use self::command::{Command, CommandBus, CommandError, Dispatch};
pub use self::connection::Connection;
#[cfg(feature = "events-encryption")]
pub use self::encrypt::{FieldEncryption, KeyProvider, LocalKeys};
pub use self::event::{NewEvent, RecordedEvent};
pub use self::fault::{Fault, VersionConflict};
pub use self::metadata::Metadata;
pub use self::middleware::Middleware;
pub use self::project::{ProjectionEngine, ProjectionState, ProjectionStatus};
pub use self::read_model::ReadModel;
pub use self::registry::EventRegistry;
pub use self::retry::Retry;
pub use self::saga::{Actions, Saga, SagaManager};
pub use self::serialize::Serializer;
pub use self::store::{Appended, EventStore, IntoEvent, Snapshot, StreamInfo};
pub use self::subscribe::{Selection, Subscription};
pub use self::upcast::Upcasters;

/// The expected version of an append that always succeeds.
pub const ANY: i64 = -1;

/// The expected version of a stream that does not exist.
pub const NO_STREAM: i64 = 0;

/// The expected version of a stream that exists, whatever its version.
pub const STREAM_EXISTS: i64 = -2;
