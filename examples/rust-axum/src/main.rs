//! Orders with axum and sqlx. One process has the API, a worker that bills orders, and a projection that counts them.
//!
//! `DATABASE_URL=postgresql://... PORT=8080 cargo run -p rust-axum`

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use pg_outbox::app::{self, Periodic, Workers};
use pg_outbox::worker::Delivery;
use pg_outbox::{Message, Outbox, shutdown_signal};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, PgTransaction};

const TABLES: &str = "
    create table if not exists orders (
        id bigint generated always as identity primary key, amount bigint not null check (amount > 0));
    create table if not exists invoices (webhook_id text primary key, order_id bigint not null, amount bigint not null);
    create table if not exists totals (n bigint not null, amount bigint not null);
    insert into totals select 0, 0 where not exists (select from totals);";

#[derive(Deserialize)]
struct NewOrder {
    amount: i64,
}

#[derive(Deserialize, Serialize)]
struct OrderCreated {
    order: i64,
    amount: i64,
}

#[derive(Serialize, sqlx::FromRow)]
struct Totals {
    n: i64,
    amount: i64,
}

/// An error of the API. The client sees no more than that the order was refused.
struct Refused(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Refused {
    fn from(error: E) -> Refused {
        Refused(error.into())
    }
}

impl axum::response::IntoResponse for Refused {
    fn into_response(self) -> axum::response::Response {
        (StatusCode::UNPROCESSABLE_ENTITY, self.0.to_string()).into_response()
    }
}

/// Stores the order and enqueues its message in one transaction. If one of the two fails, neither is there.
async fn place(State(pool): State<PgPool>, Json(order): Json<NewOrder>) -> Result<Json<OrderCreated>, Refused> {
    let mut tx = pool.begin().await?;
    let sql = "insert into orders (amount) values ($1) returning id";
    let id: i64 = sqlx::query_scalar(sql).bind(order.amount).fetch_one(&mut *tx).await?;
    let created = OrderCreated { order: id, amount: order.amount };
    Message::to("order.created").key(format!("order-{id}")).json(&created)?.enqueue(&mut *tx).await?;
    tx.commit().await?;
    Ok(Json(created))
}

async fn totals(State(pool): State<PgPool>) -> Result<Json<Totals>, Refused> {
    Ok(Json(sqlx::query_as("select n, amount from totals").fetch_one(&pool).await?))
}

#[derive(Debug)]
struct NotBillable;

impl std::fmt::Display for NotBillable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("orders above 1000 are not billable")
    }
}

impl std::error::Error for NotBillable {}

/// Bills an order. A delivery may come twice, for example after a crash; the webhook id makes the invoice unique.
async fn bill(
    app::State(pool): app::State<PgPool>,
    delivery: Delivery,
    app::Json(order): app::Json<OrderCreated>,
) -> anyhow::Result<()> {
    if order.amount > 1000 {
        return Err(NotBillable.into());
    }
    let work = std::env::var("WORK_MS").ok().and_then(|ms| ms.parse().ok());
    tokio::time::sleep(Duration::from_millis(work.unwrap_or(0))).await;
    sqlx::query("insert into invoices values ($1, $2, $3) on conflict do nothing")
        .bind(&delivery.webhook_id)
        .bind(order.order)
        .bind(order.amount)
        .execute(&pool)
        .await?;
    Ok(())
}

/// Counts orders. The cursor advances in the same transaction, so that each order counts once.
async fn count(tx: &mut PgTransaction<'_>, messages: &[Message]) -> anyhow::Result<()> {
    for message in messages {
        let order: OrderCreated = message.json()?;
        sqlx::query("update totals set n = n + 1, amount = amount + $1").bind(order.amount).execute(&mut **tx).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt::init();
    let dsn = std::env::var("DATABASE_URL")?;
    let pool = PgPool::connect(&dsn).await?;
    sqlx::raw_sql(TABLES).execute(&pool).await?;
    let outbox = Outbox::connect(&dsn).await?;

    let router = Router::new().route("/orders", post(place)).route("/totals", get(totals)).with_state(pool.clone());
    let address = format!("127.0.0.1:{}", std::env::var("PORT").unwrap_or_else(|_| "8080".to_owned()));
    let listener = tokio::net::TcpListener::bind(address).await?;
    let serving = async {
        axum::serve(listener, router).with_graceful_shutdown(shutdown_signal()).await?;
        anyhow::Ok(())
    };
    let workers = Workers::new(outbox.clone())
        .subscription("billing", |s| {
            s.ensure(["order.#"]).on_with("order.created", bill, |o| o.dead_on::<NotBillable>()).concurrency(4)
        })
        .periodic(Periodic::new("0 3 * * *", "report.daily").time_zone("Europe/Berlin"))
        .with_state(pool.clone());
    let working = async { Ok(workers.run_until(shutdown_signal()).await?) };
    let reader = outbox.reader().consumer("totals").topics(["order.created"]);
    let counting = async { Ok(reader.apply_until(shutdown_signal(), &pool, count).await?) };
    tokio::try_join!(serving, working, counting)?;
    Ok(())
}
