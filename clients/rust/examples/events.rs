//! A small shop: `DATABASE_URL=... WEBHOOK=https://... cargo run --example events --features events`.
#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "an example, which a test includes")]

use std::time::Duration;

use pg_outbox::admin::Subscribe;
use pg_outbox::app::{Json, Workers};
use pg_outbox::events::{
    Actions, Aggregate, Command, CommandBus, CommandError, EventStore, ProjectionEngine, RecordedEvent, Repository,
    Saga, SagaManager, Selection, command::FieldErrors, middleware, project::BoxError,
};
use pg_outbox::{Error, Outbox, shutdown_signal};
use serde::{Deserialize, Serialize};

// The events of an order, and the state that they make.
#[derive(Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum OrderEvent {
    #[serde(rename = "order.placed")]
    Placed { total: i64 },
    #[serde(rename = "order.paid")]
    Paid,
}

#[derive(Default)]
pub struct Order {
    is_paid: bool,
}

impl Aggregate for Order {
    const CATEGORY: &'static str = "order";
    type Event = OrderEvent;

    fn apply(&mut self, event: OrderEvent) {
        self.is_paid = matches!(event, OrderEvent::Paid);
    }
}

// A command, and its handler.
#[derive(Serialize)]
pub struct PlaceOrder(pub String, pub i64);

impl Command for PlaceOrder {
    const TYPE: &'static str = "PlaceOrder";
    type Output = i64;

    fn validate(&self, errors: &mut FieldErrors) {
        errors.check(self.1 > 0, "total", "must be above 0");
    }
}

pub fn commands(outbox: &Outbox) -> Result<CommandBus<Outbox>, Error> {
    let orders: Repository<Order> = Repository::new(EventStore::new());
    CommandBus::new(outbox.clone())
        .layer(middleware::validation())
        .layer(middleware::retry(Default::default()))
        .layer(middleware::idempotency(Default::default()))
        .register::<PlaceOrder>(move |tx, command| {
            let orders = orders.clone();
            Box::pin(async move {
                let mut order = orders.load(&*tx, &command.0).await?;
                if order.version() > 0 {
                    return Err(CommandError::rejected("the order is placed already"));
                }
                order.raise(OrderEvent::Placed { total: command.1 })?;
                orders.save(&*tx, &mut order).await?;
                Ok(order.version())
            })
        })
}

// A process: an order that is placed has to be paid within two days.
#[derive(Default, Serialize, Deserialize)]
pub struct Payment;

impl Saga for Payment {
    const TYPE: &'static str = "payment";

    fn starts_with(event_type: &str) -> bool {
        event_type == "order.placed"
    }

    fn correlation(event: &RecordedEvent) -> Option<String> {
        Some(event.stream.clone())
    }

    fn handle(&mut self, event: &RecordedEvent, actions: &mut Actions) -> Result<(), BoxError> {
        match event.event()? {
            OrderEvent::Placed { .. } => {
                actions.send("payment.request", event.stream_id())?;
                actions.timeout("unpaid", Duration::from_secs(2 * 86_400))?;
            }
            OrderEvent::Paid => actions.complete(),
        }
        Ok(())
    }

    fn timed_out(&mut self, _: &str, actions: &mut Actions) -> Result<(), BoxError> {
        actions.fail("not paid in time");
        Ok(())
    }
}

/// Runs once, like a migration: the table of the read model, and a webhook that gets all events of orders.
pub async fn prepare(outbox: &Outbox, webhook: &str) -> Result<(), Error> {
    outbox.session().await?.batch_execute("create table revenue (number text primary key, total bigint)").await?;
    let (url, source) = (Some(webhook.to_owned()), Some("events".to_owned()));
    outbox.subscribe("shop", &["order.#"], Subscribe { url, source, ..Default::default() }).await.map(|_| ())
}

/// One process: the read model, the saga, and the worker that takes payments.
pub async fn run(outbox: &Outbox, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
    let engine = ProjectionEngine::new(outbox, outbox.clone(), EventStore::new());
    engine.register("revenue", Selection::all().types(["order.placed"]), |tx, events| {
        Box::pin(async move {
            for event in events {
                let insert = "insert into revenue values ($1, $2)";
                tx.execute(insert, &[&event.stream_id(), &event.data["total"].as_i64()]).await?;
            }
            Ok(())
        })
    })?;
    let sagas = SagaManager::new(outbox, outbox.clone(), EventStore::new());
    sagas.register::<Payment>(Selection::all().types(["order.placed", "order.paid"]))?;
    let pool = outbox.clone();
    let pay = move |Json(number): Json<String>| {
        let (orders, pool) = (Repository::<Order>::new(EventStore::new()), pool.clone());
        // A message may come twice, and an order is paid once.
        async move { orders.execute(&pool, &number, |o| if o.is_paid { Ok(()) } else { o.raise(OrderEvent::Paid) }).await }
    };
    Workers::new(outbox.clone())
        .beside("projections", move |stop| async move { engine.run_until(stop.cancelled_owned()).await })
        .beside("sagas", move |stop| async move { sagas.run_until(stop.cancelled_owned()).await })
        .subscription("payments", |s| s.ensure(["payment.request"]).on("payment.request", pay))
        .run_until(shutdown)
        .await
        .map(|_| ())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let outbox = Outbox::connect(&std::env::var("DATABASE_URL")?).await?;
    prepare(&outbox, &std::env::var("WEBHOOK")?).await?;
    commands(&outbox)?.dispatch(PlaceOrder("1".into(), 42)).await?;
    Ok(run(&outbox, shutdown_signal()).await?)
}
