//! Aggregates and their repository.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pg_outbox::events::{EventStore, Fault, Repository, Root, save_all};
use pg_outbox::{Error, Kind, Outbox};
use serde_json::json;

use crate::shop::{Order, OrderEvent, outbox, placed};

fn orders() -> Repository<Order> {
    Repository::new(EventStore::new())
}

fn pay(order: &mut Root<Order>) -> Result<(), Error> {
    if order.total.is_none() || order.is_paid {
        return Err(Error::invalid("the order cannot be paid"));
    }
    order.raise(OrderEvent::Paid)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregate_is_loaded_decided_and_saved() {
    let outbox = outbox("ev_aggregate").await;
    let orders = orders();
    orders.execute(&outbox, "1", |order| order.raise(placed(42))).await.unwrap();
    orders.execute(&outbox, "1", pay).await.unwrap();
    let refused = orders.execute(&outbox, "1", pay).await.unwrap_err();
    assert_eq!(refused.to_string(), "the order cannot be paid");
    // An error of another type, and a result.
    let counted: Result<i64, Box<dyn std::error::Error>> =
        orders.execute(&outbox, "1", |order| Ok(order.total.ok_or("no total")?)).await;
    assert_eq!(counted.unwrap(), 42);

    let mut session = outbox.session().await.unwrap();
    let mut order = orders.load(&**session, "1").await.unwrap();
    assert_eq!((order.version(), order.total, order.is_paid, order.stream()), (2, Some(42), true, "order-1"));
    assert!(orders.save(&**session, &mut order).await.unwrap().is_none());
    order.raise(OrderEvent::Noted("a".into())).unwrap();
    assert_eq!((order.raised().len(), order.version()), (1, 2));
    let tx = session.transaction().await.unwrap();
    assert_eq!(orders.save(&tx, &mut order).await.unwrap().unwrap().last_version, 3);
    tx.commit().await.unwrap();
    assert_eq!((order.raised().len(), order.version()), (0, 3));
    // Saved from an old version.
    let mut old = Root::<Order>::from_events("1", [placed(1)]);
    old.raise(OrderEvent::Paid).unwrap();
    let error = orders.save(&**session, &mut old).await.unwrap_err();
    assert!(matches!(Fault::of(&error), Some(Fault::Concurrency(facts)) if facts.actual == 3));
    assert_eq!((error.kind(), old.version(), old.raised().len()), (Kind::Conflict, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_concurrent_decisions_each_is_based_on_the_one_before() {
    let outbox = outbox("ev_concurrent").await;
    let orders = orders().retry(pg_outbox::events::Retry { attempts: 30, ..Default::default() });
    orders.execute(&outbox, "1", |order| order.raise(placed(0))).await.unwrap();
    let decided = Arc::new(AtomicU32::new(0));
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (orders, outbox, decided) = (orders.clone(), outbox.clone(), decided.clone());
            tokio::spawn(async move {
                orders
                    .execute(&outbox, "1", |order| {
                        decided.fetch_add(1, Ordering::Relaxed);
                        order.raise(OrderEvent::Noted(order.notes.len().to_string()))
                    })
                    .await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let order = orders.load(&**outbox.session().await.unwrap(), "1").await.unwrap();
    let numbers: Vec<String> = (0..8).map(|n: i32| n.to_string()).collect();
    assert_eq!((order.version(), &order.notes), (9, &numbers));
    assert!(decided.load(Ordering::Relaxed) >= 8);
    // Without retries, the second one is told.
    let once = self::orders().retry(pg_outbox::events::Retry::NEVER);
    let (blocking, store) = (outbox.session().await.unwrap(), EventStore::new());
    let before = decided.load(Ordering::Relaxed);
    let error = once
        .execute(&outbox, "2", |order| {
            decided.fetch_add(1, Ordering::Relaxed);
            let first = [placed(1)];
            let append = store.append(&**blocking, "order-2", &first, 0);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(append))?;
            order.raise(placed(2))
        })
        .await
        .unwrap_err();
    assert!(matches!(Fault::of(&error), Some(Fault::Concurrency(_))));
    assert_eq!(decided.load(Ordering::Relaxed), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_shorten_loading_and_may_be_lost() {
    let outbox = outbox("ev_snapshots").await;
    let orders = orders().snapshot_every(3, 1);
    for n in 0..7 {
        orders.execute(&outbox, "1", |order| order.raise(OrderEvent::Noted(n.to_string()))).await.unwrap();
    }
    let session = outbox.session().await.unwrap();
    let snapshot = orders.store().load_snapshot(&**session, "order-1", 1).await.unwrap().unwrap();
    assert_eq!((snapshot.version, &snapshot.state["notes"]), (6, &json!(["0", "1", "2", "3", "4", "5"])));
    // Events before the snapshot are not read.
    let marked = json!({"total": 99, "is_paid": false, "notes": []});
    orders.store().save_snapshot(&**session, "order-1", 7, &marked, 1).await.unwrap();
    let order = orders.load(&**session, "1").await.unwrap();
    assert_eq!((order.version(), order.total, order.notes.len()), (7, Some(99), 0));
    // Another form of the state, a snapshot that cannot be read, and none at all.
    for other in [self::orders().snapshot_every(3, 2), self::orders()] {
        assert_eq!(other.load(&**session, "1").await.unwrap().notes.len(), 7);
    }
    self::orders().execute(&outbox, "1", |order| order.raise(OrderEvent::Noted("7".into()))).await.unwrap();
    orders.store().save_snapshot(&**session, "order-1", 8, &json!({"notes": 1}), 1).await.unwrap();
    let order = orders.load(&**session, "1").await.unwrap();
    assert_eq!((order.version(), order.notes.len()), (8, 8));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_aggregates_are_saved_in_the_order_of_their_streams() {
    let outbox = outbox("ev_several").await;
    let tasks: Vec<_> = (0..6)
        .map(|n| {
            let outbox = outbox.clone();
            tokio::spawn(async move {
                let (store, orders) = (EventStore::new(), orders());
                for _ in 0..5 {
                    loop {
                        let mut session = outbox.session().await?;
                        let tx = session.transaction().await?;
                        let (mut a, mut b) = (orders.load(&tx, "a").await?, orders.load(&tx, "b").await?);
                        a.raise(OrderEvent::Noted("x".into()))?;
                        b.raise(OrderEvent::Noted("y".into()))?;
                        let saved = match n % 2 {
                            0 => save_all(&store, &tx, &mut [&mut a, &mut b]).await,
                            _ => save_all(&store, &tx, &mut [&mut b, &mut a]).await,
                        };
                        match saved {
                            Ok(()) => break tx.commit().await?,
                            Err(error) => assert_eq!(error.code(), "OB013", "{error:?}"),
                        }
                    }
                }
                Ok::<_, Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let session = outbox.session().await.unwrap();
    for id in ["a", "b"] {
        assert_eq!(orders().load(&**session, id).await.unwrap().version(), 30);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_too_large_does_not_fail_the_save() {
    let outbox = outbox("ev_large").await;
    let orders = orders().snapshot_every(1, 1);
    let session = outbox.session().await.unwrap();
    session.batch_execute("alter database ev_large set pg_outbox.max_payload = '64kB'").await.unwrap();
    drop(session);
    let outbox = Outbox::connect(&crate::shop::server().await.dsn("ev_large")).await.unwrap();
    let note = |order: &mut Root<Order>| order.raise(OrderEvent::Noted("x".repeat(40_000)));
    for _ in 0..3 {
        orders.execute(&outbox, "1", note).await.unwrap();
    }
    let session = outbox.session().await.unwrap();
    let snapshot = orders.store().load_snapshot(&**session, "order-1", 1).await.unwrap().unwrap();
    assert_eq!((snapshot.version, orders.load(&**session, "1").await.unwrap().version()), (1, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn truncated_events_without_a_snapshot_are_an_error() {
    let outbox = outbox("ev_truncated").await;
    let orders = orders();
    for _ in 0..3 {
        orders.execute(&outbox, "1", |order| order.raise(OrderEvent::Noted("x".into()))).await.unwrap();
    }
    outbox
        .call("truncate_stream", json!({"stream": "order-1", "before_version": 3, "reason": "old"}), &[])
        .await
        .unwrap();
    let session = outbox.session().await.unwrap();
    let error = orders.load(&**session, "1").await.unwrap_err();
    assert_eq!((error.code(), error.to_string().contains("truncated")), ("OB004", true));
    let state = json!({"total": null, "is_paid": false, "notes": ["x", "x"]});
    orders.store().save_snapshot(&**session, "order-1", 2, &state, 1).await.unwrap();
    assert_eq!(orders.snapshot_every(9, 1).load(&**session, "1").await.unwrap().notes.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregate_survives_an_erased_event() {
    let outbox = outbox("ev_redacted").await;
    let orders = orders();
    let session = outbox.session().await.unwrap();
    let events = [placed(1), OrderEvent::Paid];
    let ids = orders.store().append(&**session, "order-1", &events, 0).await.unwrap().message_ids;
    outbox.call("erase", json!({"message_id": ids[0], "reason": "asked for"}), &[]).await.unwrap();
    let order = orders.load(&**session, "1").await.unwrap();
    assert_eq!(
        (order.version(), order.total, order.is_paid, &order.notes),
        (2, None, true, &vec!["redacted 1".into()])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_category_with_a_dash_and_a_save_without_a_transaction_are_refused() {
    #[derive(Default)]
    struct Odd;

    impl pg_outbox::events::Aggregate for Odd {
        const CATEGORY: &'static str = "an-order";
        type Event = OrderEvent;

        fn apply(&mut self, _: OrderEvent) {}
    }

    let outbox = outbox("ev_refused").await;
    let session = outbox.session().await.unwrap();
    let error = Repository::<Odd>::new(EventStore::new()).load(&**session, "1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let (mut a, mut b) = (Root::<Order>::new("a"), Root::<Order>::new("b"));
    a.raise(OrderEvent::Paid).unwrap();
    b.raise(OrderEvent::Paid).unwrap();
    let error = save_all(&EventStore::new(), &**session, &mut [&mut a, &mut b]).await.unwrap_err();
    assert_eq!((error.kind(), a.version(), a.raised().len()), (Kind::Invalid, 0, 1));
}
