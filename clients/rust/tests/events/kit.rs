//! The helpers for tests of applications.

use pg_outbox::chrono::{TimeZone as _, Utc};
use pg_outbox::events::{Command, CommandBus, EventStore, Metadata, NewEvent, Root, middleware};
use pg_outbox::testing::events::{Matcher, Scenario, fixed, recorded, recorded_with};
use pg_outbox::{Error, Kind};
use serde_json::json;

use crate::shop::{Order, OrderEvent, outbox, placed};

fn pay(order: &mut Root<Order>) -> Result<i64, Error> {
    match order.total {
        Some(total) if !order.is_paid => {
            order.raise_with(OrderEvent::Paid, Metadata::new().user_id("ann")).map(|()| total)
        }
        _ => Err(Error::invalid("the order cannot be paid")),
    }
}

#[test]
fn scenarios_tell_what_an_aggregate_did_instead() {
    let scenario = || Scenario::<Order>::given([placed(7)]);
    let paid = scenario().when(pay).then([OrderEvent::Paid]).unwrap().then_state(|order| order.is_paid).unwrap();
    assert_eq!(paid.into_result().unwrap(), 7);
    let error = Scenario::<Order>::given([]).when(pay).then_error("cannot be paid").unwrap();
    assert_eq!(error.kind(), Kind::Invalid);

    let error = scenario().when(pay).then([placed(1)]).unwrap_err();
    assert_eq!(error.to_string(), r#"expected order.placed {"customer":"ann","total":1}, found order.paid {}"#);
    assert!(scenario().when(pay).then([]).is_err());
    assert!(scenario().when(pay).then([OrderEvent::Paid, OrderEvent::Paid]).is_err());
    assert!(scenario().when(pay).then_error("cannot").is_err());
    assert!(scenario().when(pay).then([OrderEvent::Paid]).unwrap().then_state(|order| !order.is_paid).is_err());
    assert!(Scenario::<Order>::given([]).when(pay).then_error("something else").is_err());
    assert!(Scenario::<Order>::given([]).when(pay).then([]).is_err());

    let by = |user: &str| Matcher::of_type("order.paid").metadata("user_id", user);
    scenario().when(pay).then_matching([by("ann")]).unwrap();
    assert!(scenario().when(pay).then_matching([by("bob")]).is_err());
    assert!(scenario().when(pay).then_matching([]).is_err());
}

#[test]
fn matchers_match_parts() {
    let event = NewEvent::of(&placed(7)).unwrap().metadata(Metadata::new().set("n", 1).tenant("t"));
    assert!(Matcher::of_type("order.placed").data(json!({"total": 7})).matches(&event));
    assert!(!Matcher::of_type("order.placed").data(json!({"total": 8})).matches(&event));
    assert!(!Matcher::of_type("order.paid").matches(&event));
    let stored = recorded_with("order-1", 3, event).unwrap();
    assert_eq!((stored.version, stored.position, stored.tenant.as_deref()), (3, Some(3), Some("t")));
    assert!(Matcher::default().stream("order-1").metadata("n", 1).matches_recorded(&stored));
    assert!(!Matcher::default().stream("order-2").matches_recorded(&stored));
    assert_eq!(recorded("order-1", 1, &OrderEvent::Paid).unwrap().event::<OrderEvent>().unwrap(), OrderEvent::Paid);
}

#[derive(serde::Serialize)]
struct Pay;

impl Command for Pay {
    const TYPE: &'static str = "Pay";
    type Output = String;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_and_time_can_be_fixed() {
    let outbox = outbox("ev_fixed").await;
    let at = Utc.with_ymd_and_hms(2026, 2, 3, 4, 5, 6).unwrap();
    let bus = CommandBus::new(outbox)
        .layer(middleware::correlation())
        .layer(middleware::causation())
        .register::<Pay>(|tx, _| {
            Box::pin(async move {
                EventStore::new().append(&*tx, "order-1", &[OrderEvent::Paid], 0).await?;
                let event = EventStore::new().load(&*tx, "order-1", 1).await?.remove(0);
                Ok(json!(event.metadata).to_string())
            })
        })
        .unwrap();
    let metadata = fixed(at, async {
        assert_eq!(recorded("a-1", 1, &OrderEvent::Paid).unwrap().recorded_at, at);
        bus.dispatch(Pay).await.unwrap()
    })
    .await;
    let id = |n: u8| format!("00000000-0000-4000-8000-{n:012}");
    assert_eq!(metadata, json!({"causation_id": id(1), "correlation_id": id(2)}).to_string());
}
