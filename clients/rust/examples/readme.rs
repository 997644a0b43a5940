#![allow(clippy::print_stdout, reason = "an example prints")]
//! The first example of the README; a test compares the two, and runs this one.

use pg_outbox::app::{Json, Workers};
use pg_outbox::{Message, Outbox, shutdown_signal};
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
struct OrderCreated {
    order: i64,
}

async fn bill(Json(order): Json<OrderCreated>) -> anyhow::Result<()> {
    println!("order {}", order.order);
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let outbox = Outbox::connect(&std::env::var("DATABASE_URL")?).await?;

    // In your own transaction: of tokio-postgres, deadpool, or sqlx with the feature of that name.
    let mut session = outbox.session().await?;
    let tx = session.transaction().await?;
    tx.execute("insert into orders (id, amount) values (42, 130)", &[]).await?;
    Message::to("order.created").key("order-42").json(&OrderCreated { order: 42 })?.enqueue(&tx).await?;
    tx.commit().await?;

    // Until SIGINT or SIGTERM: handlers that have begun finish, other deliveries are given back.
    let reports = Workers::new(outbox)
        .subscription("billing", |s| s.ensure(["order.#"]).on("order.created", bill).concurrency(16))
        .run_until(shutdown_signal())
        .await?;
    println!("{} completed", reports["billing"].completed);
    Ok(())
}
