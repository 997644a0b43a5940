//! The helpers for tests of applications.

use pg_outbox::chrono::{TimeZone as _, Utc};
use pg_outbox::events::project::BoxError;
use pg_outbox::events::{Actions, RecordedEvent, Saga};
use pg_outbox::events::{Command, CommandBus, EventStore, Metadata, NewEvent, Root, middleware};
use pg_outbox::testing::events::{Matcher, SagaScenario, Scenario, fixed, recorded, recorded_all, recorded_with};
use pg_outbox::{Error, Kind};
use serde::{Deserialize, Serialize};
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

#[tokio::test]
async fn scenarios_check_results_and_decide_in_asynchronous_code() {
    let scenario = || Scenario::<Order>::given_of("7", [placed(7)]);
    scenario().when(pay).then_result(7).unwrap();
    assert_eq!(scenario().when(pay).then_result(8).unwrap_err().to_string(), "expected 8, found 7");
    assert!(Scenario::<Order>::given([]).when(pay).then_result(7).is_err());
    scenario()
        .when(|order| Ok::<_, Error>(order.id().to_owned()))
        .then_nothing()
        .unwrap()
        .then_result("7".to_owned())
        .unwrap();
    assert!(scenario().when(pay).then_nothing().is_err());
    let paid = scenario().when_async(async |order: &mut Root<Order>| {
        tokio::task::yield_now().await;
        pay(order)
    });
    paid.await.then([OrderEvent::Paid]).unwrap();
    // An event that was raised before the error is none of the test's wishes.
    let late = |order: &mut Root<Order>| pay(order).and_then(|_| Err::<(), _>(Error::invalid("too late")));
    let error = scenario().when(late).then_error("too late").unwrap_err();
    assert_eq!(error.to_string(), "expected an error and no events, found order.paid {}");
}

/// A saga that asks for a payment, and notes it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Payment {
    asked: i64,
}

impl Saga for Payment {
    const TYPE: &'static str = "kit_payment";
    const STEPS: &'static [&'static str] = &["ask", "note"];

    fn starts_with(event_type: &str) -> bool {
        event_type == "order.placed"
    }

    fn correlation(event: &RecordedEvent) -> Option<String> {
        Some(event.stream.clone())
    }

    fn handle(&mut self, event: &RecordedEvent, actions: &mut Actions) -> Result<(), BoxError> {
        match event.event()? {
            OrderEvent::Placed { total, .. } => {
                self.asked = total;
                actions.send("payment.request", &json!({"total": total, "currency": "EUR"}))?;
                actions.timeout("unpaid", std::time::Duration::from_secs(60))?;
                actions.step_done();
            }
            OrderEvent::Paid => {
                actions.append("audit-1", &OrderEvent::Noted("paid".into()))?;
                actions.step_done();
            }
            OrderEvent::Noted(_) => {}
        }
        Ok(())
    }
}

#[tokio::test]
async fn scenarios_of_sagas_check_messages_events_steps_and_time_outs() {
    let at = Utc.with_ymd_and_hms(2026, 2, 3, 4, 5, 6).unwrap();
    let minute = std::time::Duration::from_secs(60);
    fixed(at, async {
        let events = [placed(7), OrderEvent::Noted("x".into()), OrderEvent::Paid];
        let events = recorded_all("order-1", &events).unwrap();
        let [placed, noted, paid] = &events[..] else { panic!("three events") };
        assert_eq!((placed.version, paid.version, paid.stream.as_str()), (1, 3, "order-1"));
        let asked = || SagaScenario::<Payment>::given([]).unwrap().when(placed).unwrap();
        let asked_for = asked().then_message("payment.request", &json!({"total": 7})).unwrap();
        let asked_for = asked_for.then_timeout("unpaid", minute).unwrap().then_state(|saga| saga.asked == 7).unwrap();
        let asked_for = asked_for.then_step("ask", "completed").unwrap().then_step("note", "running").unwrap();
        asked_for.when(noted).unwrap().then_nothing().unwrap();
        assert!(asked().then_message("payment.request", &json!({"total": 8})).is_err());
        assert!(asked().then_message("payment", &json!({})).is_err());
        assert!(asked().then_timeout("unpaid", minute * 2).is_err() && asked().then_timeout("other", minute).is_err());
        assert!(asked().then_step("ask", "pending").is_err() && asked().then_state(|saga| saga.asked == 8).is_err());
        assert!(asked().then_nothing().is_err());
        let done = || asked().when(paid).unwrap();
        let note = || Matcher::of_type("order.noted").stream("audit-1").data_that("is short", |data| data == "paid");
        done().then_appended([note()]).unwrap().then_status("completed").unwrap();
        assert!(done().then_appended([note().stream("audit-2")]).is_err() && done().then_appended([]).is_err());
        let error = done().then_appended([note().data_that("is long", |_| false)]).unwrap_err();
        assert!(error.to_string().contains("is long") && done().then_nothing().is_err(), "{error}");
    })
    .await;
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
