//! A server, and the aggregate of these tests.

use std::time::Duration;

use outbox_harness::Server;
use pg_outbox::events::{Aggregate, EventStore, RecordedEvent};
use pg_outbox::{Error, Outbox};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn server() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER
        .get_or_init(async || {
            // Each test has a database of its own, and each database a dispatcher.
            let settings = [
                ("pg_outbox.poll_interval", "1s"),
                ("max_worker_processes", "130"),
                ("pg_outbox.max_databases", "120"),
                ("max_connections", "300"),
            ];
            Server::start(&settings).await.unwrap()
        })
        .await
}

/// Connects to an outbox in a new database.
pub(crate) async fn outbox(name: &str) -> Outbox {
    server().await.database(name).await.unwrap();
    Outbox::connect(&server().await.dsn(name)).await.unwrap()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub(crate) enum OrderEvent {
    #[serde(rename = "order.placed")]
    Placed { total: i64, customer: String },
    #[serde(rename = "order.paid")]
    Paid,
    #[serde(rename = "order.noted")]
    Noted(String),
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub total: Option<i64>,
    pub is_paid: bool,
    pub notes: Vec<String>,
}

impl Aggregate for Order {
    const CATEGORY: &'static str = "order";
    type Event = OrderEvent;

    fn apply(&mut self, event: OrderEvent) {
        match event {
            OrderEvent::Placed { total, .. } => self.total = Some(total),
            OrderEvent::Paid => self.is_paid = true,
            OrderEvent::Noted(note) => self.notes.push(note),
        }
    }

    fn redacted(&mut self, event: &RecordedEvent) {
        self.notes.push(format!("redacted {}", event.version));
    }
}

pub(crate) fn placed(total: i64) -> OrderEvent {
    OrderEvent::Placed { total, customer: "ann".to_owned() }
}

pub(crate) fn store() -> EventStore {
    EventStore::new()
}

pub(crate) fn code(error: &Error) -> (&str, &str) {
    (error.code(), error.name())
}
