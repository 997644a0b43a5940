//! The shop of `examples/events.rs`, which EVENTS.md shows.

use outbox_harness::wait_until;
use pg_outbox::events::project::BoxError;
use pg_outbox::events::{CommandError, EventStore};
use pg_outbox::testing::Receiver;
use pg_outbox::testing::events::{SagaScenario, Scenario, recorded};
use pg_outbox::worker::CancellationToken;

use self::example::{Order, OrderEvent, Payment};
use crate::shop::{PATIENCE, outbox};

#[path = "../../examples/events.rs"]
#[allow(dead_code, reason = "main() is not called")]
mod example;

#[test]
fn the_page_shows_the_example() {
    let page = include_str!("../../EVENTS.md");
    let shown = page.split("```rust,no_run\n").nth(1).unwrap().split("```").next().unwrap();
    let example = include_str!("../../examples/events.rs");
    assert!(example.ends_with(shown), "EVENTS.md and examples/events.rs differ");
    let code = shown.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with("//"));
    assert!(code.count() < 120);
    // Its other fragment is a test of this file.
    let test = page.split("```rust,ignore\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(include_str!("shop_example.rs").contains(test), "EVENTS.md and this file differ");
    assert_eq!(page.matches("rust,ignore").count(), 1);
}

#[test]
fn an_order_is_paid_once_it_is_placed() -> Result<(), BoxError> {
    let placed = || OrderEvent::Placed { total: 42 };
    Scenario::<Order>::given([placed()]).when(|order| order.raise(OrderEvent::Paid)).then([OrderEvent::Paid])?;
    let saga = SagaScenario::<Payment>::given([])?.when(&recorded("order-1", 1, &placed())?)?;
    saga.then_sent(&["payment.request", "saga.timeout.payment"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shop_takes_orders_and_payments() {
    let outbox = outbox("ev_shop").await;
    let receiver = Receiver::start("127.0.0.1:0").await.unwrap();
    example::prepare(&outbox, &receiver.url("/shop")).await.unwrap();
    let commands = example::commands(&outbox).unwrap();
    let place = |number: &str, total| example::PlaceOrder(number.to_owned(), total);
    assert_eq!(commands.dispatch(place("1", 42)).await.unwrap(), 1);
    assert_eq!(commands.dispatch(place("1", 42)).await.unwrap(), 1);
    assert!(matches!(commands.dispatch(place("2", 0)).await, Err(CommandError::Validation(_))));
    assert!(matches!(commands.dispatch(place("1", 43)).await, Err(CommandError::Rejected(_))));

    let stop = CancellationToken::new();
    let (app, shutdown) = (outbox.clone(), stop.clone());
    let app = tokio::spawn(async move { example::run(&app, shutdown.cancelled_owned()).await });
    let session = outbox.session().await.unwrap();
    wait_until("the order is paid", PATIENCE, async || {
        EventStore::new().stream_version(&**session, "order-1").await.unwrap() == 2
    })
    .await;
    wait_until("the saga is completed", PATIENCE, async || {
        let rows = session.query("select status from outbox.sagas", &[]).await.unwrap();
        rows.len() == 1 && rows[0].get::<_, String>(0) == "completed"
    })
    .await;
    let revenue = session.query_one("select sum(total)::int8 from revenue", &[]).await.unwrap();
    assert_eq!(revenue.get::<_, i64>(0), 42);
    let arrivals = tokio::time::timeout(PATIENCE, receiver.wait_for(2)).await.unwrap();
    assert!(arrivals.iter().any(|arrival| String::from_utf8_lossy(&arrival.body).contains("42")));
    stop.cancel();
    app.await.unwrap().unwrap();
}
