#![allow(clippy::print_stdout, reason = "an example prints")]
//! The program of TUTORIAL.md; a test compares the two, and runs this one.

use pg_outbox::app::{Json, Workers};
use pg_outbox::worker::Delivery;
use pg_outbox::{Message, Outbox, shutdown_signal};
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
struct OrderCreated {
    order: i32,
    amount: i32,
}

async fn bill(Json(created): Json<OrderCreated>, delivery: Delivery) -> anyhow::Result<()> {
    anyhow::ensure!(created.amount >= 0, "a negative amount");
    println!("bill order {}: {}, attempt {}", created.order, created.amount, delivery.attempt);
    Ok(())
}

async fn place(outbox: &Outbox, amount: &str) -> anyhow::Result<()> {
    let mut session = outbox.session().await?;
    let tx = session.transaction().await?;
    let insert = "insert into orders (amount) values (cast($1 as text)::int) returning id, amount";
    let row = tx.query_one(insert, &[&amount]).await?;
    let created = OrderCreated { order: row.get(0), amount: row.get(1) };
    Message::to("order.created").key(format!("order-{}", created.order)).json(&created)?.enqueue(&tx).await?;
    tx.commit().await?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_target(false).init();
    let outbox = Outbox::connect(&std::env::var("DATABASE_URL")?).await?;
    if let Some(amount) = std::env::args().nth(1) {
        return place(&outbox, &amount).await;
    }
    Workers::new(outbox)
        .subscription("billing", |s| s.ensure(["order.#"]).on("order.created", bill).concurrency(16))
        .run_until(shutdown_signal())
        .await?;
    Ok(())
}
