#![allow(clippy::print_stdout, reason = "an example prints")]
//! The first example of the README; a test compares the two, and runs this one.

use pg_outbox::worker::Delivery;
use pg_outbox::{Message, Outbox};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let outbox = Outbox::connect(&std::env::var("DATABASE_URL")?).await?;
    outbox.subscribe("billing", &["order.#"], Default::default()).await?;

    // In your own transaction, on your own tokio-postgres client or the pool's:
    let mut session = outbox.session().await?;
    let tx = session.transaction().await?;
    tx.execute("insert into orders (id, amount) values (42, 130)", &[]).await?;
    Message::to("order.created").key("order-42").json(&json!({"order": 42}))?.enqueue(&*tx).await?;
    tx.commit().await?;

    // A worker on the pull subscription, until Ctrl-C: what it has begun is finished, the rest given back.
    let worker = outbox.worker("billing").concurrency(16).build(|delivery: Delivery| async move {
        println!("{} {}", delivery.topic, delivery.text()?);
        Ok(None)
    });
    let stop = worker.stop_token();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    let report = worker.run().await?;
    println!("{} completed", report.completed);
    Ok(())
}
