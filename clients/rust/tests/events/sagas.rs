//! Sagas.

use std::time::Duration;

use outbox_harness::wait_until;
use pg_outbox::Outbox;
use pg_outbox::app::{Json, Workers};
use pg_outbox::events::project::BoxError;
use pg_outbox::events::saga::{TIMEOUT, TimedOut};
use pg_outbox::events::{
    ANY, Actions, EventStore, NewEvent, ProjectionState, RecordedEvent, Saga, SagaManager, Selection,
};
use pg_outbox::worker::{CancellationToken, Delivery};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::shop::{OrderEvent, PATIENCE, outbox, placed};

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Shipping {
    total: i64,
    undone: Vec<String>,
}

impl Saga for Shipping {
    const TYPE: &'static str = "shipping";
    const STEPS: &'static [&'static str] = &["reserve", "pay", "ship"];

    fn starts_with(event_type: &str) -> bool {
        event_type == "order.placed"
    }

    fn correlation(event: &RecordedEvent) -> Option<String> {
        (event.category() == "order").then(|| event.stream.clone())
    }

    fn handle(&mut self, event: &RecordedEvent, actions: &mut Actions) -> Result<(), BoxError> {
        match event.event_type.as_str() {
            "order.placed" => {
                self.total = event.data["total"].as_i64().ok_or("no total")?;
                actions.send("stock.reserve", &json!({"total": self.total}))?;
                actions.timeout("payment", Duration::from_millis(if self.total == 99 { 10 } else { 3_600_000 }));
                actions.step_done();
            }
            "order.paid" => {
                actions.send("shipment.request", &json!({"order": event.stream}))?;
                actions.step_done();
            }
            "order.noted" if event.data == "lost" => actions.fail("the parcel is lost"),
            "order.noted" if event.data == "bug" => return Err("a bug".into()),
            "order.noted" => actions.step_done(),
            _ => {}
        }
        Ok(())
    }

    fn compensate(&mut self, step: &str, actions: &mut Actions) -> Result<(), BoxError> {
        if step == "reserve" && self.total == 13 {
            return Err("the stock does not answer".into());
        }
        self.undone.push(step.to_owned());
        actions.append(format!("undo-{}", actions.saga_id), NewEvent::new("undone", step)?)?;
        Ok(())
    }

    fn timed_out(&mut self, name: &str, actions: &mut Actions) -> Result<(), BoxError> {
        actions.fail(format!("no {name}"));
        Ok(())
    }
}

async fn append(outbox: &Outbox, stream: &str, events: &[OrderEvent]) {
    let session = outbox.session().await.unwrap();
    EventStore::new().append(&**session, stream, events, ANY).await.unwrap();
}

fn manager(outbox: &Outbox) -> SagaManager<Outbox> {
    let manager = SagaManager::new(outbox, outbox.clone(), EventStore::new());
    manager.register::<Shipping>(Selection::all().poll_interval(Duration::from_millis(20)).batch(7)).unwrap();
    manager
}

async fn status(manager: &SagaManager<Outbox>, id: &str) -> String {
    manager.find::<Shipping>(id).await.unwrap().map_or_else(String::new, |saga| saga.status)
}

async fn sent(outbox: &Outbox, topic: &str) -> i64 {
    let session = outbox.session().await.unwrap();
    session.query_one("select count(*) from outbox.message where topic = $1", &[&topic]).await.unwrap().get(0)
}

fn note(text: &str) -> OrderEvent {
    OrderEvent::Noted(text.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_saga_goes_through_its_steps_and_undoes_them_in_reverse() {
    let outbox = outbox("ev_saga").await;
    // Two processes.
    let (manager, other) = (manager(&outbox), manager(&outbox));
    append(&outbox, "order-1", &[placed(1), OrderEvent::Paid]).await;
    append(&outbox, "order-2", &[placed(2), OrderEvent::Paid, note("lost")]).await;
    append(&outbox, "order-3", &[OrderEvent::Paid]).await;
    append(&outbox, "basket-1", &[placed(4)]).await;
    append(&outbox, "order-13", &[placed(13), OrderEvent::Paid, note("lost")]).await;
    manager.engine().start();
    other.engine().start();
    wait_until("the second is undone", PATIENCE, async || status(&manager, "order-2").await == "compensated").await;
    wait_until("the third cannot be", PATIENCE, async || status(&manager, "order-13").await == "compensation_failed")
        .await;
    let one = manager.find::<Shipping>("order-1").await.unwrap().unwrap();
    let statuses = |saga: &pg_outbox::events::saga::Instance<Shipping>| {
        saga.steps.iter().map(|step| step.status.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        (one.status.as_str(), one.state.total, statuses(&one)),
        ("running", 1, vec!["completed".into(), "completed".into(), "running".into()])
    );
    let two = manager.find::<Shipping>("order-2").await.unwrap().unwrap();
    assert_eq!(two.state.undone, ["pay", "reserve"]);
    assert_eq!(statuses(&two), ["compensated", "compensated", "failed"]);
    assert_eq!(two.failure_reason.as_deref(), Some("the parcel is lost"));
    let session = outbox.session().await.unwrap();
    let undone = EventStore::new().load(&**session, "undo-order-2", 1).await.unwrap();
    assert_eq!(undone.iter().map(|event| event.data.clone()).collect::<Vec<_>>(), [json!("pay"), json!("reserve")]);
    let failed = manager.find::<Shipping>("order-13").await.unwrap().unwrap();
    assert!(failed.failure_reason.unwrap().contains("the stock does not answer"));
    assert!(manager.find::<Shipping>("order-3").await.unwrap().is_none());

    append(&outbox, "order-1", &[note("delivered"), note("too late")]).await;
    wait_until("the first is completed", PATIENCE, async || status(&manager, "order-1").await == "completed").await;
    // Each event was handled once, by one of the two.
    assert_eq!((sent(&outbox, "stock.reserve").await, sent(&outbox, "shipment.request").await), (3, 3));
    manager.engine().stop().await;
    other.engine().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_a_saga_cannot_handle_is_not_passed_over() {
    let outbox = outbox("ev_saga_fault").await;
    let manager = manager(&outbox);
    append(&outbox, "order-1", &[placed(1), note("bug"), OrderEvent::Paid]).await;
    manager.engine().start();
    wait_until("it is faulted", PATIENCE, async || {
        manager.status::<Shipping>().await.unwrap().state == ProjectionState::Faulted
    })
    .await;
    let state = manager.status::<Shipping>().await.unwrap();
    assert_eq!((state.error.as_deref(), state.position), (Some("a bug"), 1));
    assert_eq!((sent(&outbox, "stock.reserve").await, sent(&outbox, "shipment.request").await), (1, 0));
    manager.engine().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_outs_reach_sagas_that_have_not_ended() {
    let outbox = outbox("ev_saga_timeout").await;
    let manager = manager(&outbox);
    let stop = CancellationToken::new();
    let (of_app, of_handler, shutdown) = (manager.clone(), manager.clone(), stop.clone());
    let app = Workers::new(outbox.clone())
        .beside("sagas", move |stop| async move { of_app.run_until(stop.cancelled_owned()).await })
        .subscription("time-outs", |s| {
            s.ensure([TIMEOUT]).on(TIMEOUT, move |Json(timeout): Json<TimedOut>, delivery: Delivery| {
                let manager = of_handler.clone();
                async move { manager.timed_out(delivery.message_id, &timeout).await }
            })
        });
    let app = tokio::spawn(async move { app.run_until(shutdown.cancelled_owned()).await });
    append(&outbox, "order-99", &[placed(99)]).await;
    wait_until("it has timed out", PATIENCE, async || status(&manager, "order-99").await == "compensated").await;
    let saga = manager.find::<Shipping>("order-99").await.unwrap().unwrap();
    assert_eq!((saga.failure_reason.as_deref(), saga.state.undone), (Some("no payment"), vec!["reserve".to_owned()]));
    // Again, for a saga that has ended, for one that does not exist, and for another type.
    let timeout = |id: &str, of: &str| TimedOut { saga_type: of.into(), saga_id: id.into(), name: "payment".into() };
    manager.timed_out(1, &timeout("order-99", "shipping")).await.unwrap();
    manager.timed_out(1, &timeout("order-none", "shipping")).await.unwrap();
    assert!(manager.timed_out(1, &timeout("order-99", "other")).await.is_err());
    stop.cancel();
    app.await.unwrap().unwrap();
}

#[cfg(feature = "testing")]
#[test]
fn sagas_are_tested_without_a_server() {
    use pg_outbox::testing::events::{SagaScenario, recorded};
    let event = |version, event: &OrderEvent| recorded("order-1", version, event).unwrap();
    let given = |events: Vec<RecordedEvent>| SagaScenario::<Shipping>::given(events).unwrap();
    let started = given(vec![]).when(&event(1, &placed(7))).unwrap();
    let started = started.then_sent(&["stock.reserve", TIMEOUT]).unwrap().then_status("running").unwrap();
    assert_eq!(started.actions().sent[0].payload, json!({"total": 7}));
    assert!(started.then_sent(&["other"]).is_err());
    let paid = given(vec![event(1, &placed(7)), event(2, &OrderEvent::Paid)]);
    let lost = paid.when(&event(3, &note("lost"))).unwrap().then_status("compensated").unwrap();
    assert_eq!(lost.instance().state.undone, ["pay", "reserve"]);
    assert!(given(vec![event(1, &placed(7))]).when(&event(2, &note("bug"))).is_err());
    let late = given(vec![event(1, &placed(7))]).when_timed_out("payment").unwrap();
    assert!(late.then_status("running").is_err());
}
