//! Sagas.

use std::time::Duration;

use outbox_harness::wait_until;
use pg_outbox::Outbox;
use pg_outbox::app::Workers;
use pg_outbox::events::project::BoxError;
use pg_outbox::events::saga::{TimedOut, timeout_topic};
use pg_outbox::events::{
    ANY, Actions, EventStore, Metadata, NewEvent, ProjectionState, RecordedEvent, Saga, SagaManager, Selection,
};
use pg_outbox::worker::CancellationToken;
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
                if self.total == 77 {
                    actions.fail("no stock");
                    return Ok(());
                }
                actions.send("stock.reserve", &json!({"total": self.total}))?;
                actions.timeout("payment", Duration::from_millis(if self.total == 99 { 10 } else { 3_600_000 }))?;
                actions.step_done();
            }
            "order.paid" => {
                actions.send("shipment.request", &json!({"order": event.stream}))?;
                actions.step_done();
            }
            "order.noted" if event.data == "lost" => actions.fail("the parcel is lost"),
            "order.noted" if event.data == "bug" => return Err("a bug".into()),
            "order.noted" if event.data == "later" => actions.timeout("payment", Duration::from_secs(7200))?,
            "order.noted" => actions.step_done(),
            _ => {}
        }
        Ok(())
    }

    fn redacted(&mut self, event: &RecordedEvent) {
        self.undone.push(format!("redacted {}", event.version));
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
async fn a_saga_handles_an_event_once_although_it_comes_again() {
    let outbox = outbox("ev_saga_once").await;
    let manager = manager(&outbox);
    append(&outbox, "order-1", &[placed(1), OrderEvent::Paid]).await;
    let seen = async || {
        let saga = manager.find::<Shipping>("order-1").await.unwrap().unwrap();
        let counts = (sent(&outbox, "stock.reserve").await, sent(&outbox, "shipment.request").await);
        (saga.status, saga.steps.iter().filter(|step| step.status == "completed").count(), counts)
    };
    assert_eq!(manager.engine().drain("saga shipping").await.unwrap(), 2);
    assert_eq!(seen().await, ("running".to_owned(), 2, (1, 1)));
    // The cursor goes back, as it does when a database is restored.
    let args = json!({"consumer": "projection saga shipping", "position": 0, "reason": "test"});
    outbox.call("cursor_reset", args, &[]).await.unwrap();
    assert_eq!(manager.engine().drain("saga shipping").await.unwrap(), 2);
    assert_eq!(seen().await, ("running".to_owned(), 2, (1, 1)));
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
    let (of_app, shutdown) = (manager.clone(), stop.clone());
    let app = Workers::new(outbox.clone())
        .beside("sagas", move |stop| async move { of_app.run_until(stop.cancelled_owned()).await });
    let app = tokio::spawn(async move { app.run_until(shutdown.cancelled_owned()).await });
    let metadata = Metadata::new().tenant("acme").correlation_id("c-1").user_id("ann");
    let session = outbox.session().await.unwrap();
    let id = "00000000-0000-4000-8000-000000000099";
    let event = NewEvent::of(&placed(99)).unwrap().event_id(id).metadata(metadata);
    EventStore::new().append(&**session, "order-99", [event], 0).await.unwrap();
    wait_until("it has timed out", PATIENCE, async || status(&manager, "order-99").await == "compensated").await;
    let saga = manager.find::<Shipping>("order-99").await.unwrap().unwrap();
    assert_eq!((saga.failure_reason.as_deref(), saga.state.undone), (Some("no payment"), vec!["reserve".to_owned()]));
    // Messages and events of the saga have the metadata of the event and of the time-out.
    let sql = "select id, tenant, metadata::text from outbox.message where topic = $1";
    let sent = session.query_one(sql, &[&"stock.reserve"]).await.unwrap();
    let expected = json!({"correlation_id": "c-1", "causation_id": id, "user_id": "ann"});
    let metadata =
        |row: &tokio_postgres::Row| serde_json::from_str::<serde_json::Value>(&row.get::<_, String>(2)).unwrap();
    assert_eq!((sent.get::<_, Option<String>>(1).as_deref(), metadata(&sent)), (Some("acme"), expected));
    let timeout = session.query_one(sql, &[&timeout_topic("shipping")]).await.unwrap();
    assert_eq!(metadata(&timeout), json!({"correlation_id": "c-1", "user_id": "ann"}));
    let undone = EventStore::new().load(&**session, "undo-order-99", 1).await.unwrap().remove(0);
    let causation = timeout.get::<_, i64>(0).to_string();
    assert_eq!((undone.tenant.as_deref(), undone.get_metadata("correlation_id")), (Some("acme"), Some("c-1")));
    assert_eq!((undone.get_metadata("user_id"), undone.get_metadata("causation_id")), (Some("ann"), Some(&*causation)));
    // Again, for a saga that has ended, for one that does not exist, and for another type.
    let timeout = |id: &str, of: &str| TimedOut { saga_type: of.into(), saga_id: id.into(), name: "payment".into() };
    manager.timed_out(1, &timeout("order-99", "shipping")).await.unwrap();
    manager.timed_out(1, &timeout("order-none", "shipping")).await.unwrap();
    assert!(manager.timed_out(1, &timeout("order-99", "other")).await.is_err());
    stop.cancel();
    app.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_out_that_was_set_again_is_stale() {
    let outbox = outbox("ev_saga_stale").await;
    let manager = manager(&outbox);
    append(&outbox, "order-1", &[placed(1), note("later")]).await;
    manager.engine().start();
    wait_until("both are sent", PATIENCE, async || sent(&outbox, &timeout_topic("shipping")).await == 2).await;
    manager.engine().stop().await;
    let session = outbox.session().await.unwrap();
    let sql = "select id from outbox.message where topic = 'saga.timeout.shipping' order by id";
    let ids: Vec<i64> = session.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let state = "select (outbox.saga_load('shipping', 'order-1')).state::text";
    let state: String = session.query_one(state, &[]).await.unwrap().get(0);
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state, json!({"state": {"total": 1, "undone": []}, "timeouts": {"payment": ids[1]}}));
    let timeout = TimedOut { saga_type: "shipping".into(), saga_id: "order-1".into(), name: "payment".into() };
    for (id, expected) in [(ids[0], "running"), (ids[1], "compensated"), (ids[1], "compensated")] {
        manager.timed_out(id, &timeout).await.unwrap();
        assert_eq!(status(&manager, "order-1").await, expected);
    }
    let mut actions = Actions::default();
    assert!(actions.timeout("payment", Duration::MAX).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_that_has_ended_is_started_again() {
    let outbox = outbox("ev_saga_again").await;
    let manager = manager(&outbox);
    append(&outbox, "order-1", &[placed(77), OrderEvent::Paid, placed(1), OrderEvent::Paid]).await;
    manager.engine().start();
    wait_until("the second is under way", PATIENCE, async || sent(&outbox, "shipment.request").await == 1).await;
    manager.engine().stop().await;
    let session = outbox.session().await.unwrap();
    let sql = "select saga_id, correlation_id, status from outbox.sagas order by started_at";
    let rows = session.query(sql, &[]).await.unwrap();
    let sagas: Vec<(String, String, String)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let third = EventStore::new().load(&**session, "order-1", 3).await.unwrap()[0].message_id;
    let expected = [("order-1".to_owned(), "failed"), (format!("order-1#{third}"), "running")];
    assert_eq!(sagas, expected.map(|(id, status)| (id, "order-1".to_owned(), status.to_owned())));
    assert_eq!(status(&manager, "order-1").await, "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saga_survives_an_erased_event() {
    let outbox = outbox("ev_saga_erased").await;
    let manager = manager(&outbox);
    let session = outbox.session().await.unwrap();
    let events = [placed(1), note("bug"), OrderEvent::Paid];
    let ids = EventStore::new().append(&**session, "order-1", &events, 0).await.unwrap().message_ids;
    outbox.call("erase", json!({"message_id": ids[1], "reason": "asked for"}), &[]).await.unwrap();
    manager.engine().start();
    wait_until("the last event is handled", PATIENCE, async || sent(&outbox, "shipment.request").await == 1).await;
    manager.engine().stop().await;
    let saga = manager.find::<Shipping>("order-1").await.unwrap().unwrap();
    assert_eq!((saga.state.total, &saga.state.undone), (1, &vec!["redacted 2".to_owned()]));
    assert!(!format!("{saga:?}").contains("redacted"));
}

#[cfg(feature = "testing")]
#[test]
fn sagas_are_tested_without_a_server() {
    use pg_outbox::testing::events::{SagaScenario, recorded};
    let event = |version, event: &OrderEvent| recorded("order-1", version, event).unwrap();
    let given = |events: Vec<RecordedEvent>| SagaScenario::<Shipping>::given(events).unwrap();
    let started = given(vec![]).when(&event(1, &placed(7))).unwrap();
    let started =
        started.then_sent(&["stock.reserve", &timeout_topic("shipping")]).unwrap().then_status("running").unwrap();
    assert_eq!(started.actions().sent[0].payload, json!({"total": 7}));
    assert!(started.then_sent(&["other"]).is_err());
    let paid = given(vec![event(1, &placed(7)), event(2, &OrderEvent::Paid)]);
    let lost = paid.when(&event(3, &note("lost"))).unwrap().then_status("compensated").unwrap();
    assert_eq!(lost.instance().state.undone, ["pay", "reserve"]);
    assert!(given(vec![event(1, &placed(7))]).when(&event(2, &note("bug"))).is_err());
    let late = given(vec![event(1, &placed(7))]).when_timed_out("payment").unwrap();
    assert!(late.then_status("running").is_err());
    // Without a step that is done, nothing is undone.
    given(vec![]).when(&event(1, &placed(77))).unwrap().then_status("failed").unwrap();
}
