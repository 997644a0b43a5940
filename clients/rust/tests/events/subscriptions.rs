//! Catch-up subscriptions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use outbox_harness::{Server, Stop};
use pg_outbox::events::{ANY, EventStore, Metadata, NewEvent, RecordedEvent, Selection, Subscription, Upcasters};
use pg_outbox::{Kind, Message, Outbox};
use serde_json::json;
use tokio::time::timeout;

use crate::shop::{OrderEvent, PATIENCE, outbox, placed};

async fn append(outbox: &Outbox, stream: &str, events: &[OrderEvent]) {
    let session = outbox.session().await.unwrap();
    EventStore::new().append(&**session, stream, events, ANY).await.unwrap();
}

async fn take(subscription: &mut Subscription, count: usize) -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        events.push(timeout(PATIENCE, subscription.next()).await.expect("no event arrives").unwrap());
    }
    events
}

fn places(events: &[RecordedEvent]) -> Vec<(&str, i64)> {
    events.iter().map(|event| (event.stream.as_str(), event.version)).collect()
}

fn quick() -> Selection {
    Selection::all().poll_interval(Duration::from_millis(20))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_events_are_followed_by_new_ones_without_a_gap() {
    let outbox = outbox("ev_follow").await;
    let store = EventStore::new();
    for n in 0..3 {
        append(&outbox, &format!("order-{n}"), &vec![OrderEvent::Paid; 200]).await;
    }
    let mut all = store.subscribe(&outbox, quick());
    let writer = {
        let outbox = outbox.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                append(&outbox, "order-9", &[placed(1)]).await;
            }
        })
    };
    let events = take(&mut all, 650).await;
    writer.await.unwrap();
    let positions: Vec<i64> = events.iter().map(|event| event.position.unwrap()).collect();
    assert!(positions.is_sorted_by(|a, b| a < b));
    let of = |stream: &str| events.iter().filter(|e| e.stream == stream).map(|e| e.version).collect::<Vec<_>>();
    assert_eq!((of("order-0"), of("order-9")), ((1..=200).collect(), (1..=50).collect()));
    // From a position on.
    let mut rest = store.subscribe_all(&outbox, positions[647]);
    assert_eq!(places(&take(&mut rest, 2).await), places(&events[648..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_categories_types_and_tenants_are_chosen() {
    let outbox = outbox("ev_select").await;
    let store = EventStore::new();
    for stream in ["order-1", "order-1*", "order-12", "order", "basket-1", "orders-1"] {
        append(&outbox, stream, &[placed(1), OrderEvent::Paid]).await;
    }
    let session = outbox.session().await.unwrap();
    Message::to("order.placed").key("order-1").json(&1).unwrap().enqueue(&**session).await.unwrap();
    let of_tenant = NewEvent::of(&placed(2)).unwrap().metadata(Metadata::new().tenant("acme"));
    store.append(&**session, "basket-2", [of_tenant], ANY).await.unwrap();
    append(&outbox, "order-1", &[OrderEvent::Noted("end".into())]).await;

    let mut one = store.subscribe_stream(&outbox, "order-1", 0);
    assert_eq!(places(&take(&mut one, 3).await), [("order-1", 1), ("order-1", 2), ("order-1", 3)]);
    let mut odd = store.subscribe_stream(&outbox, "order-1*", 0);
    assert_eq!(places(&take(&mut odd, 2).await), [("order-1*", 1), ("order-1*", 2)]);
    let mut bare = store.subscribe_stream(&outbox, "order", 0);
    assert_eq!(places(&take(&mut bare, 2).await), [("order", 1), ("order", 2)]);
    let mut category = store.subscribe_category(&outbox, "basket", 0);
    assert_eq!(places(&take(&mut category, 3).await), [("basket-1", 1), ("basket-1", 2), ("basket-2", 1)]);
    let mut paid = store.subscribe(&outbox, quick().types(["order.paid"]).categories(["basket", "orders"]));
    assert_eq!(places(&take(&mut paid, 2).await), [("basket-1", 2), ("orders-1", 2)]);
    let mut tenant = store.subscribe(&outbox, quick().tenant("acme"));
    assert_eq!(take(&mut tenant, 1).await[0].tenant.as_deref(), Some("acme"));
    // The members of a group share all streams.
    let mut shared = Vec::new();
    for member in 0..2 {
        let mut events = store.subscribe(&outbox, quick().member(member, 2)).into_stream();
        while let Ok(Some(event)) = timeout(Duration::from_secs(2), events.next()).await {
            shared.push(event.unwrap().position.unwrap());
        }
    }
    shared.sort_unstable();
    shared.dedup();
    assert_eq!(shared.len(), 14);

    let mut wrong = store.subscribe(&outbox, quick().types(["no type"]));
    assert_eq!(wrong.next().await.unwrap_err().kind(), Kind::Invalid);
    let mut future = store.subscribe_all(&outbox, 1_000_000).into_stream();
    assert_eq!(future.next().await.unwrap().unwrap_err().code(), "OB009");
    assert!(future.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_decodes_and_survives_restarts_of_the_server() {
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    server.database("d").await.unwrap();
    let outbox = Outbox::connect(&server.dsn("d")).await.unwrap();
    let upcasters = Upcasters::new().add("order.noted", 1, |data| Ok(json!(format!("{} (old)", data)))).unwrap();
    let mut events = EventStore::new().upcasters(upcasters).subscribe(&outbox, quick());
    append(&outbox, "order-1", &[OrderEvent::Noted("a".into())]).await;
    let first = take(&mut events, 1).await.remove(0);
    assert_eq!(first.event::<OrderEvent>().unwrap(), OrderEvent::Noted("\"a\" (old)".into()));
    for (n, how) in [Stop::Fast, Stop::Immediate].into_iter().enumerate() {
        server.restart(how).await.unwrap();
        let db = server.connect("d").await.unwrap();
        EventStore::new().append(&db, "order-1", &[OrderEvent::Paid], ANY).await.unwrap();
        assert_eq!(take(&mut events, 1).await[0].version, 2 + i64::try_from(n).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_cannot_be_decoded_loses_no_other_one() {
    let outbox = outbox("ev_undecoded").await;
    let refused = Arc::new(AtomicBool::new(true));
    let of_upcaster = refused.clone();
    let upcast = move |data| match of_upcaster.load(Ordering::Relaxed) {
        true => Err(pg_outbox::Error::invalid("not yet")),
        false => Ok(data),
    };
    let store = EventStore::new().upcasters(Upcasters::new().add("order.noted", 1, upcast).unwrap());
    append(&outbox, "order-1", &[placed(1), OrderEvent::Noted("a".into()), OrderEvent::Paid]).await;
    for skips in [false, true] {
        refused.store(true, Ordering::Relaxed);
        let mut events = store.subscribe(&outbox, quick());
        assert!(!events.skip());
        assert_eq!(take(&mut events, 1).await[0].version, 1);
        for _ in 0..2 {
            assert_eq!(timeout(PATIENCE, events.next()).await.unwrap().unwrap_err().to_string(), "not yet");
        }
        match skips {
            true => assert!(events.skip()),
            false => {
                refused.store(false, Ordering::Relaxed);
                assert_eq!(take(&mut events, 1).await[0].version, 2);
            }
        }
        assert_eq!(take(&mut events, 1).await[0].version, 3);
    }
}
