//! Enqueue in a transaction of sqlx: `DATABASE_URL=postgresql://... cargo run --example sqlx`.
//!
//! With the feature `sqlx`, `message.enqueue(&mut *tx)` does the same. This is how it is done with a driver that the client
//! does not know: a message gives its statement and parameters.
#![allow(clippy::print_stdout, reason = "an example prints")]

use pg_outbox::message::{Message, NewMessage, Param};
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool};

/// Adds a message to the outbox in the transaction of `connection`; returns its id.
async fn enqueue(connection: &mut PgConnection, message: NewMessage) -> sqlx::Result<i64> {
    let (sql, params) = message.sql();
    let mut query = sqlx::query_scalar(&sql);
    for param in params {
        query = match param {
            Param::Text(text) => query.bind(text),
            Param::Bytes(bytes) => query.bind(bytes),
        };
    }
    query.fetch_one(connection).await
}

/// Places an order: its row and its message are committed together, or not at all.
pub async fn place_order(pool: &PgPool, id: i64, amount: i64) -> Result<i64, Box<dyn std::error::Error>> {
    let mut tx = pool.begin().await?;
    sqlx::query("insert into orders (id, amount) values ($1, $2)").bind(id).bind(amount).execute(&mut *tx).await?;
    let message =
        Message::to("order.created").key(format!("order-{id}")).json(&json!({"order": id, "amount": amount}))?;
    let message_id = enqueue(&mut tx, message).await?;
    let receipt = Message::to("order.receipt").text(format!("order {id}\n"));
    enqueue(&mut tx, receipt).await?;
    tx.commit().await?;
    Ok(message_id)
}

/// Two orders, one of which is refused.
#[tokio::main]
pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = PgPoolOptions::new().max_connections(2).connect(&std::env::var("DATABASE_URL")?).await?;
    sqlx::query("create table if not exists orders (id bigint primary key, amount bigint not null check (amount > 0))")
        .execute(&pool)
        .await?;
    let message_id = place_order(&pool, 42, 130).await?;
    println!("order 42 is committed, with message {message_id}");
    if let Err(error) = place_order(&pool, 43, -1).await {
        println!("order 43 is not, and has no message: {error}");
    }
    Ok(())
}
