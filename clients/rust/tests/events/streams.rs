//! Appending and loading, on every driver.

use std::sync::Arc;

use pg_outbox::events::{
    ANY, EventRegistry, EventStore, Fault, Metadata, NO_STREAM, NewEvent, STREAM_EXISTS, Upcasters,
};
use pg_outbox::{Error, Kind};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::shop::{OrderEvent, code, outbox, placed, server, store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_joins_the_callers_transaction() {
    let outbox = outbox("ev_append").await;
    let (store, mut session) = (store(), outbox.session().await.unwrap());
    let tx = session.transaction().await.unwrap();
    let appended = store.append(&tx, "order-1", &[placed(42), OrderEvent::Paid], NO_STREAM).await.unwrap();
    assert_eq!((appended.stream.as_str(), appended.first_version, appended.last_version), ("order-1", 1, 2));
    assert_eq!((appended.message_ids.len(), appended.repeated), (2, false));
    assert_eq!(store.load(&tx, "order-1", 1).await.unwrap().len(), 2);
    tx.rollback().await.unwrap();
    assert_eq!(store.stream_version(&**session, "order-1").await.unwrap(), 0);
    assert_eq!(store.stream_info(&**session, "order-1").await.unwrap(), None);

    let tx = session.transaction().await.unwrap();
    let note = OrderEvent::Noted("\u{1F600} \"quoted\" \\ {a,b} 1.10".into());
    store.append(&tx, "order-1", &[placed(i64::MAX), note.clone(), OrderEvent::Paid], NO_STREAM).await.unwrap();
    tx.commit().await.unwrap();
    let events = store.load(&**session, "order-1", 1).await.unwrap();
    let typed: Vec<OrderEvent> = events.iter().map(|event| event.event().unwrap()).collect();
    assert_eq!(typed, [placed(i64::MAX), note, OrderEvent::Paid]);
    assert_eq!(events.iter().map(|event| event.version).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((events[0].category(), events[0].stream_id(), events[0].position), ("order", "1", None));
    assert_eq!(store.load(&**session, "order-1", 3).await.unwrap().len(), 1);
    assert!(store.load(&**session, "order-2", 1).await.unwrap().is_empty());
    let info = store.stream_info(&**session, "order-1").await.unwrap().unwrap();
    assert_eq!((info.category.as_str(), info.version, info.events, info.closed_at), ("order", 3, 3, None));
    // Nothing to append is no call.
    let none: [NewEvent; 0] = [];
    assert_eq!(store.append(&**session, "order-1", none, ANY).await.unwrap().last_version, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expected_versions_are_checked_and_conflicts_have_their_facts() {
    let outbox = outbox("ev_versions").await;
    let (store, session) = (store(), outbox.session().await.unwrap());
    let append = async |expected| store.append(&**session, "order-1", &[OrderEvent::Paid], expected).await;
    let conflict = |error: Error| match Fault::of(&error) {
        Some(Fault::Concurrency(facts)) => (facts.stream, facts.expected, facts.actual),
        other => panic!("{other:?} {error:?}"),
    };
    assert_eq!(conflict(append(STREAM_EXISTS).await.unwrap_err()), ("order-1".to_owned(), -2, 0));
    append(NO_STREAM).await.unwrap();
    append(1).await.unwrap();
    append(ANY).await.unwrap();
    append(STREAM_EXISTS).await.unwrap();
    assert_eq!(conflict(append(NO_STREAM).await.unwrap_err()), ("order-1".to_owned(), 0, 4));
    let error = append(3).await.unwrap_err();
    assert_eq!((error.kind(), code(&error)), (Kind::Conflict, ("OB013", "version_conflict")));
    assert_eq!(conflict(error), ("order-1".to_owned(), 3, 4));
    assert_eq!(append(-3).await.unwrap_err().kind(), Kind::Invalid);

    outbox.call("close_stream", json!({"stream": "order-1", "reason": "test"}), &[]).await.unwrap();
    assert_eq!(Fault::of(&append(ANY).await.unwrap_err()), Some(Fault::StreamClosed));
    let bad = NewEvent::new("no type", &1).unwrap();
    assert_eq!(store.append(&**session, "order-2", [bad], ANY).await.unwrap_err().kind(), Kind::Invalid);
    let error = store.append(&**session, "a\0b", &[OrderEvent::Paid], ANY).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Invalid | Kind::Fatal), "{error:?}");
    // A value that is no event of an enum is refused before the server is asked.
    assert!(store.append(&**session, "order-2", &[json!(1)], ANY).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_append_with_ids_writes_nothing() {
    let outbox = outbox("ev_repeat").await;
    let (store, session) = (store(), outbox.session().await.unwrap());
    let id = "6f1ad6c4-8f7e-4a3b-9f0a-0c1d2e3f4a5b";
    let event = || NewEvent::of(&placed(7)).unwrap().event_id(id);
    let first = store.append(&**session, "order-1", [event()], NO_STREAM).await.unwrap();
    let again = store.append(&**session, "order-1", [event()], NO_STREAM).await.unwrap();
    assert_eq!((first.repeated, again.repeated, &again.message_ids), (false, true, &first.message_ids));
    let events = store.load(&**session, "order-1", 1).await.unwrap();
    assert_eq!((events.len(), events[0].event_id.as_deref()), (1, Some(id)));
    // Some events with ids, some without.
    let mixed =
        [NewEvent::of(&OrderEvent::Paid).unwrap().event_id("b0a1c2d3-e4f5-4a6b-8c7d-9e0f1a2b3c4d"), event_without()];
    assert_eq!(store.append(&**session, "order-1", mixed, 1).await.unwrap().last_version, 3);
    let bad = NewEvent::of(&OrderEvent::Paid).unwrap().event_id("no uuid");
    assert!(store.append(&**session, "order-1", [bad], ANY).await.is_err());
}

fn event_without() -> NewEvent {
    NewEvent::of(&OrderEvent::Noted("x".into())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_of_the_task_of_the_append_and_of_the_event_are_merged() {
    let outbox = outbox("ev_metadata").await;
    let (store, session) = (store(), outbox.session().await.unwrap());
    let of_task = Metadata::new().correlation_id("c-1").user_id("ann").tenant("acme").set("n", 1);
    let of_append = Metadata::new().user_id("bob").set("n", 2);
    let of_event = Metadata::new().set("n", 3).causation_id("x");
    of_task
        .scope(async {
            Metadata::new()
                .set("inner", true)
                .scope(async {
                    let event = NewEvent::of(&OrderEvent::Paid).unwrap().metadata(of_event);
                    store.append_with(&**session, "order-1", [event], ANY, of_append).await.unwrap();
                })
                .await;
        })
        .await;
    assert_eq!(Metadata::current(), Metadata::new());
    let event = &store.load(&**session, "order-1", 1).await.unwrap()[0];
    let expected = json!({"correlation_id": "c-1", "user_id": "bob", "n": 3, "causation_id": "x", "inner": true});
    assert_eq!(json!(event.metadata), expected);
    assert_eq!((event.tenant.as_deref(), event.get_metadata("user_id")), (Some("acme"), Some("bob")));
    // The events of one append have one tenant.
    let of = |tenant: &str| NewEvent::of(&OrderEvent::Paid).unwrap().metadata(Metadata::new().tenant(tenant));
    assert!(store.append(&**session, "order-1", [of("a"), of("b")], ANY).await.is_err());
    assert!(store.append(&**session, "order-1", [event_without(), of("b")], ANY).await.is_err());
    let overridden = Metadata::new().tenant("task");
    overridden.scope(async { store.append(&**session, "order-7", [of("a"), of("a")], ANY).await.unwrap() }).await;
    assert_eq!(store.load(&**session, "order-7", 2).await.unwrap()[0].tenant.as_deref(), Some("a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_stream_is_loaded_in_pages() {
    let outbox = outbox("ev_pages").await;
    let (store, session) = (store(), outbox.session().await.unwrap());
    for n in 0..2 {
        let events: Vec<OrderEvent> = (0..300).map(|i| OrderEvent::Noted(format!("{n}-{i}"))).collect();
        store.append(&**session, "order-1", &events, n * 300).await.unwrap();
    }
    let events = store.load(&**session, "order-1", 1).await.unwrap();
    assert_eq!(events.iter().map(|event| event.version).collect::<Vec<_>>(), (1..=600).collect::<Vec<_>>());
    assert_eq!(events[599].event::<OrderEvent>().unwrap(), OrderEvent::Noted("1-299".into()));
    assert_eq!(store.load(&**session, "order-1", 201).await.unwrap().len(), 400);
    assert_eq!(store.load(&**session, "order-1", i64::MAX).await.unwrap().len(), 0);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Shipped {
    carrier: String,
    weight: f64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_maps_structs_and_refuses_what_it_does_not_know() {
    let outbox = outbox("ev_registry").await;
    let session = outbox.session().await.unwrap();
    let registry = EventRegistry::new().strict().register::<Shipped>("order.shipped").unwrap();
    assert!(EventRegistry::new().register::<Shipped>("a").unwrap().register::<Shipped>("b").is_err());
    let store = EventStore::new().registry(registry);
    let shipped = Shipped { carrier: "x".into(), weight: 1.5 };
    let event = store.types().event(&shipped).unwrap();
    store.append(&**session, "order-1", [event], NO_STREAM).await.unwrap();
    let event = &store.load(&**session, "order-1", 1).await.unwrap()[0];
    let data = store.types().decode(event).unwrap().downcast::<Shipped>().unwrap();
    assert_eq!((*data, store.types().is::<Shipped>(&event.event_type)), (shipped, true));
    let error = store.append(&**session, "order-1", &[OrderEvent::Paid], ANY).await.unwrap_err();
    assert_eq!((Fault::of(&error), code(&error)), (Some(Fault::Schema), ("22023", "unregistered_event")));
    // One that another application appended is refused by a strict registry only.
    EventStore::new().append(&**session, "order-1", &[OrderEvent::Paid], ANY).await.unwrap();
    assert_eq!(Fault::of(&store.load(&**session, "order-1", 1).await.unwrap_err()), Some(Fault::Schema));
    assert_eq!(store.load_raw(&**session, "order-1", 1).await.unwrap().len(), 2);
    let error = EventStore::new().load(&**session, "order-1", 1).await.unwrap()[0].event::<OrderEvent>().unwrap_err();
    assert_eq!(Fault::of(&error), Some(Fault::Schema));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_events_are_loaded_in_their_newest_form() {
    let outbox = outbox("ev_upcast").await;
    let session = outbox.session().await.unwrap();
    let old = NewEvent::new("order.placed", &json!({"amount": 7})).unwrap();
    EventStore::new().append(&**session, "order-1", [old], NO_STREAM).await.unwrap();
    let upcasters = Upcasters::new()
        .add("order.placed", 1, |data| Ok(json!({"total": data["amount"]})))
        .unwrap()
        .add("order.placed", 2, |mut data| {
            data["customer"] = json!("unknown");
            Ok(data)
        })
        .unwrap()
        .checked()
        .unwrap();
    assert!(Upcasters::new().add("a", 1, Ok).unwrap().add("a", 1, Ok).is_err());
    assert!(Upcasters::new().add("a", 1, Ok).unwrap().add("a", 3, Ok).unwrap().checked().is_err());
    let store = EventStore::new().upcasters(upcasters);
    store.append(&**session, "order-1", &[placed(8), OrderEvent::Paid], 1).await.unwrap();
    let events = store.load(&**session, "order-1", 1).await.unwrap();
    let unknown = OrderEvent::Placed { total: 7, customer: "unknown".into() };
    assert_eq!(
        (events[0].event::<OrderEvent>().unwrap(), events[1].event::<OrderEvent>().unwrap()),
        (unknown, placed(8))
    );
    assert_eq!(
        events.iter().map(|e| e.metadata.get("schema_version").cloned()).collect::<Vec<_>>(),
        [Some(json!(3)), Some(json!(3)), None]
    );
    let raw = store.load_raw(&**session, "order-1", 1).await.unwrap();
    assert_eq!((&raw[0].data, raw[0].metadata.is_empty()), (&json!({"amount": 7}), true));
    let odd = NewEvent::new("order.placed", &json!({})).unwrap().metadata(Metadata::new().set("schema_version", "x"));
    // The version of a type with upcasters is the newest one, whatever the caller says; another process may store others.
    store.append(&**session, "order-2", [odd.clone()], NO_STREAM).await.unwrap();
    assert_eq!(store.load_raw(&**session, "order-2", 1).await.unwrap()[0].metadata["schema_version"], json!(3));
    EventStore::new().append(&**session, "order-3", [odd], NO_STREAM).await.unwrap();
    assert_eq!(store.load(&**session, "order-3", 1).await.unwrap_err().kind(), Kind::Invalid);
}

#[cfg(feature = "events-msgpack")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_bytes_are_read_by_their_content_type() {
    use pg_outbox::events::serialize::MessagePack;
    let outbox = outbox("ev_msgpack").await;
    let session = outbox.session().await.unwrap();
    let store = EventStore::new().serializer(MessagePack);
    let notes = ["\u{1F600}".to_owned(), "x".repeat(70_000)].map(OrderEvent::Noted);
    store.append(&**session, "order-1", &[placed(i64::MIN), OrderEvent::Paid], NO_STREAM).await.unwrap();
    store.append(&**session, "order-1", &notes, 2).await.unwrap();
    EventStore::new().append(&**session, "order-1", &[placed(2)], 4).await.unwrap();
    let odd = json!({"a": [1.5, -1, u64::MAX, null, true, {"": []}]});
    store.append(&**session, "order-1", [NewEvent::new("odd", &odd).unwrap()], 5).await.unwrap();
    let events = store.load(&**session, "order-1", 1).await.unwrap();
    let typed: Vec<OrderEvent> = events[..5].iter().map(|event| event.event().unwrap()).collect();
    assert_eq!(typed[..2], [placed(i64::MIN), OrderEvent::Paid]);
    assert_eq!((&typed[2..4], &typed[4]), (&notes[..], &placed(2)));
    assert_eq!(events[5].json::<serde_json::Value>().unwrap(), odd);
    assert_eq!(events[0].content_type.as_deref(), Some("application/vnd.msgpack"));
    assert_eq!(
        EventStore::new().reads(MessagePack).load(&**session, "order-1", 1).await.unwrap()[0].data,
        events[0].data
    );
    // Without the serializer, the bytes are there; damaged bytes are refused.
    let raw = EventStore::new().load(&**session, "order-1", 1).await.unwrap();
    assert!(raw[0].data.is_null() && raw[0].body.is_some());
    for bytes in ["", "kg==", "AQE=", "wQ==", "3f////8="] {
        let args =
            json!({"stream": "bad-1", "types": ["a"], "bodies": [bytes], "content_type": "application/vnd.msgpack"});
        outbox.call("append_bytes", args, &[]).await.unwrap();
        let version = store.stream_version(&**session, "bad-1").await.unwrap();
        let error = store.load(&**session, "bad-1", version).await.unwrap_err();
        assert_eq!(Fault::of(&error), Some(Fault::Schema), "{bytes}");
    }
}

#[cfg(feature = "events-protobuf")]
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
struct PlacedMessage {
    #[prost(int64, tag = "1")]
    total: i64,
    #[prost(string, tag = "2")]
    customer: String,
    #[prost(string, optional, tag = "3")]
    currency: Option<String>,
}

#[cfg(feature = "events-protobuf")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_is_stored_in_protobuf() {
    use pg_outbox::events::serialize::Protobuf;
    let outbox = outbox("ev_protobuf").await;
    let session = outbox.session().await.unwrap();
    let messages = || Protobuf::new().message::<PlacedMessage>("order.placed").unwrap();
    assert!(messages().message::<PlacedMessage>("order.placed").is_err());
    let store = EventStore::new().serializer(messages());
    store.append(&**session, "order-1", &[placed(i64::MAX), placed(42)], NO_STREAM).await.unwrap();
    let events = store.load(&**session, "order-1", 1).await.unwrap();
    assert_eq!(events[0].event::<OrderEvent>().unwrap(), placed(i64::MAX));
    assert_eq!(events[1].json::<PlacedMessage>().unwrap().total, 42);
    // The bytes are those of any other program with this message.
    assert_eq!(events[1].content_type.as_deref(), Some("application/x-protobuf"));
    assert_eq!(events[1].body.as_deref(), Some(&b"\x08\x2a\x12\x03ann"[..]));
    // A new version of a message has a new field, and old events have its default.
    let upcasters = Upcasters::new().add("order.placed", 1, |mut data| {
        data["currency"] = "EUR".into();
        Ok(data)
    });
    let newer = EventStore::new().reads(messages()).upcasters(upcasters.unwrap());
    assert_eq!(newer.load(&**session, "order-1", 2).await.unwrap()[0].data["currency"], "EUR");

    // A type without a message is not appended, and loaded as its bytes.
    let error = store.append(&**session, "order-1", &[OrderEvent::Paid], ANY).await.unwrap_err();
    assert_eq!(Fault::of(&error), Some(Fault::Schema));
    let none = EventStore::new().reads(Protobuf::new()).load(&**session, "order-1", 1).await.unwrap();
    assert!(none[0].data.is_null() && none[0].body.is_some());
    // The data has to fit its message, and no error shows it.
    let wrong = NewEvent::new("order.placed", &json!({"total": "confidential"})).unwrap();
    let error = store.append(&**session, "order-1", [wrong], ANY).await.unwrap_err();
    assert!(Fault::of(&error) == Some(Fault::Schema) && !error.report().contains("confidential"));
    for bytes in ["CA==", "EgP//w==", "Dw=="] {
        let args = json!({"stream": "bad-1", "types": ["order.placed"], "bodies": [bytes], "content_type": "application/x-protobuf"});
        outbox.call("append_bytes", args, &[]).await.unwrap();
        let version = store.stream_version(&**session, "bad-1").await.unwrap();
        let error = store.load(&**session, "bad-1", version).await.unwrap_err();
        assert_eq!(Fault::of(&error), Some(Fault::Schema), "{bytes}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inline_projection_is_part_of_the_append() {
    let outbox = outbox("ev_inline").await;
    let mut session = outbox.session().await.unwrap();
    session.batch_execute("create table totals (total bigint check (total < 100))").await.unwrap();
    let store = EventStore::new().inline("totals", &["order.placed"], |mut connection, events| {
        Box::pin(async move {
            for event in events {
                let total = event.data["total"].to_string();
                connection.execute("insert into totals values ($1::int8)", &[Some(&total)]).await?;
            }
            Ok(())
        })
    });
    let tx = session.transaction().await.unwrap();
    store.append(&tx, "order-1", &[placed(1), OrderEvent::Paid, placed(2)], ANY).await.unwrap();
    tx.commit().await.unwrap();
    // A connection that commits by itself is refused, because it would keep the event without its projection.
    let error = store.append(&**session, "order-1", &[placed(100)], ANY).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string().contains("needs a transaction")), (Kind::Invalid, true));
    let tx = session.transaction().await.unwrap();
    let error = store.append(&tx, "order-1", &[placed(100)], ANY).await.unwrap_err();
    assert_eq!(error.code(), "23514");
    drop(tx);
    let sum: i64 = session.query_one("select sum(total)::int8 from totals", &[]).await.unwrap().get(0);
    assert_eq!((sum, store.stream_version(&**session, "order-1").await.unwrap()), (3, 3));
}

#[cfg(feature = "sqlx")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlx_appends_and_loads() {
    use sqlx::Connection as _;
    outbox("ev_sqlx").await;
    let mut connection = sqlx::PgConnection::connect(&server().await.dsn("ev_sqlx")).await.unwrap();
    let store = store();
    let mut tx = connection.begin().await.unwrap();
    store.append(&mut *tx, "order-1", &[placed(1)], NO_STREAM).await.unwrap();
    store.append(&mut tx, "order-1", &[OrderEvent::Paid], 1).await.unwrap();
    assert_eq!(store.load(&mut *tx, "order-1", 1).await.unwrap().len(), 2);
    let error = store.append(&mut *tx, "order-1", &[OrderEvent::Paid], 1).await.unwrap_err();
    assert!(matches!(Fault::of(&error), Some(Fault::Concurrency(_))));
    tx.rollback().await.unwrap();
    assert_eq!(store.stream_version(&mut connection, "order-1").await.unwrap(), 0);
}

#[cfg(feature = "diesel-async")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn diesel_appends_and_loads() {
    use diesel_async::{AsyncConnection as _, AsyncPgConnection};
    outbox("ev_diesel").await;
    let mut connection = AsyncPgConnection::establish(&server().await.dsn("ev_diesel")).await.unwrap();
    let store = store();
    store.append(&mut connection, "order-1", &[placed(1), OrderEvent::Paid], NO_STREAM).await.unwrap();
    assert_eq!(store.load(&mut connection, "order-1", 1).await.unwrap()[0].event::<OrderEvent>().unwrap(), placed(1));
    let error = store.append(&mut connection, "order-1", &[OrderEvent::Paid], 1).await.unwrap_err();
    assert!(matches!(Fault::of(&error), Some(Fault::Concurrency(_))), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_future_of_the_store_can_be_spawned() {
    let outbox = outbox("ev_spawn").await;
    let store = Arc::new(store());
    let task = tokio::spawn(async move {
        let mut session = outbox.session().await?;
        let tx = session.transaction().await?;
        let events = vec![placed(1)];
        store.append(&tx, "order-1", &events, NO_STREAM).await?;
        let loaded = store.load(&tx, "order-1", 1).await?;
        tx.commit().await?;
        Ok::<_, Error>(loaded.len())
    });
    assert_eq!(task.await.unwrap().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_event_is_neither_upcast_nor_decoded() {
    let outbox = outbox("ev_erased").await;
    let session = outbox.session().await.unwrap();
    let upcasters = Upcasters::new().add("order.noted", 1, |_| Err(Error::invalid("it has no data"))).unwrap();
    let (store, null) = (EventStore::new().upcasters(upcasters), NewEvent::new("odd", &()).unwrap());
    let first = OrderEvent::Noted("secret".into());
    let ids = store.append(&**session, "order-1", &[first, OrderEvent::Paid], NO_STREAM).await.unwrap().message_ids;
    store.append(&**session, "order-1", [null], 2).await.unwrap();
    outbox.call("erase", json!({"message_id": ids[0], "reason": "asked for"}), &[]).await.unwrap();
    let events = store.load(&**session, "order-1", 1).await.unwrap();
    assert_eq!((events[0].redacted, events[0].is_erased(), &events[0].data), (true, true, &json!(null)));
    assert!(!events[1].redacted && events[1].event_id.is_some());
    // JSON null is data.
    assert_eq!((events[2].redacted, events[2].is_erased(), &events[2].data), (false, false, &json!(null)));
    let mut subscription = store.subscribe_stream(&outbox, "order-1", 0);
    for event in &events {
        let read = tokio::time::timeout(crate::shop::PATIENCE, subscription.next()).await.unwrap().unwrap();
        assert_eq!((read.version, read.redacted), (event.version, event.redacted));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_of_nothing_checks_the_version() {
    let outbox = outbox("ev_nothing").await;
    let session = outbox.session().await.unwrap();
    let store = store();
    store.append(&**session, "order-1", &[placed(1)], NO_STREAM).await.unwrap();
    let nothing: [NewEvent; 0] = [];
    for (stream, version, holds) in [
        ("order-1", 1, true),
        ("order-1", ANY, true),
        ("order-1", STREAM_EXISTS, true),
        ("order-1", NO_STREAM, false),
        ("order-1", 2, false),
        ("order-2", NO_STREAM, true),
        ("order-2", STREAM_EXISTS, false),
    ] {
        let appended = store.append(&**session, stream, nothing.clone(), version).await;
        assert_eq!(appended.is_ok(), holds, "{stream} {version}");
        if let Err(error) = appended {
            assert!(matches!(Fault::of(&error), Some(Fault::Concurrency(facts)) if facts.expected == version));
        }
    }
}

#[test]
fn errors_and_debug_show_no_data() {
    let event = NewEvent::new("order.placed", &json!({"total": "secret", "customer": 1})).unwrap();
    let message = json!({"secret": 1});
    let recorded = |event: NewEvent| {
        let mut stored = pg_outbox::testing::events::recorded_with("order-1", 1, event).unwrap();
        stored.body = Some(b"secret".to_vec());
        stored
    };
    let stored = recorded(event);
    for error in [stored.event::<OrderEvent>().unwrap_err(), stored.json::<Vec<i64>>().unwrap_err()] {
        assert_eq!(Fault::of(&error), Some(Fault::Schema));
        assert!(!format!("{error:?} {}", error.report()).contains("secret"), "{error:?}");
    }
    let error = Error::from(serde_json::from_value::<i64>(json!("secret")).unwrap_err());
    assert!(!format!("{error:?} {}", error.report()).contains("secret"), "{error:?}");
    let snapshot = pg_outbox::events::Snapshot { version: 1, state: message };
    assert!(!format!("{stored:?} {snapshot:?}").contains("secret"));
}
