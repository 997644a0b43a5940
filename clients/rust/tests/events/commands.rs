//! The bus of commands and its layers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pg_outbox::events::command::{FieldErrors, into_error};
use pg_outbox::events::{
    Command, CommandBus, CommandError, EventStore, Fault, Metadata, Middleware, NO_STREAM, Repository, Retry,
    middleware,
};
use pg_outbox::{Error, Kind, Outbox};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::shop::{Order, OrderEvent, outbox, placed};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    number: String,
    total: i64,
    request: Option<String>,
}

impl Command for Place {
    const TYPE: &'static str = "Place";
    type Output = i64;

    fn validate(&self, errors: &mut FieldErrors) {
        errors.check(self.total > 0, "total", "must be above 0");
        errors.check(self.total != -7, "total", "must not be -7");
        errors.check(!self.number.is_empty(), "number", "is missing");
    }
}

#[derive(Serialize)]
struct Note(&'static str);

impl Command for Note {
    const TYPE: &'static str = "Note";
    type Output = ();

    fn idempotency_key(&self) -> Option<String> {
        (self.0 != "unkeyed").then(|| format!("note-{}", self.0))
    }
}

fn place(number: &str, total: i64) -> Place {
    Place { number: number.to_owned(), total, request: None }
}

/// A bus whose handler of `Place` appends an event, and whose handler of `Note` does as its text says. Returns it with the number
/// of times that handlers ran.
fn bus(outbox: &Outbox) -> (CommandBus<Outbox>, Arc<AtomicU32>) {
    let ran = Arc::new(AtomicU32::new(0));
    let (of_place, of_note) = (ran.clone(), ran.clone());
    let bus = CommandBus::new(outbox.clone())
        .register::<Place>(move |tx, command| {
            of_place.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                let stream = format!("order-{}", command.number);
                let appended = EventStore::new().append(&*tx, &stream, &[placed(command.total)], NO_STREAM).await?;
                Ok(appended.last_version)
            })
        })
        .unwrap()
        .register::<Note>(move |tx, command| {
            let n = of_note.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                let note = OrderEvent::Noted(command.0.to_owned());
                EventStore::new().append(&*tx, "note-1", &[note], -1).await?;
                match command.0 {
                    "panic" => panic!("a bug"),
                    "slow" => tokio::time::sleep(Duration::from_secs(60)).await,
                    "refuse" => return Err(CommandError::rejected("this note is refused")),
                    "busy" if n < 2 => return Err(Error::new("40001", "busy").into()),
                    "broken" => return Err(Error::invalid("broken").into()),
                    _ => {}
                }
                Ok(())
            })
        })
        .unwrap();
    (bus, ran)
}

async fn version(outbox: &Outbox, stream: &str) -> i64 {
    EventStore::new().stream_version(&**outbox.session().await.unwrap(), stream).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_a_transaction() {
    let outbox = outbox("ev_bus").await;
    let (bus, ran) = bus(&outbox);
    assert_eq!(bus.dispatch(place("1", 42)).await.unwrap(), 1);
    let CommandError::Outbox(error) = bus.dispatch(place("1", 42)).await.unwrap_err() else { panic!() };
    assert!(matches!(Fault::of(&error), Some(Fault::Concurrency(_))));
    let refused = bus.dispatch(Note("refuse")).await.unwrap_err();
    assert_eq!(refused.to_string(), "this note is refused");
    assert_eq!((version(&outbox, "note-1").await, ran.load(Ordering::SeqCst)), (0, 3));
    let all = bus.dispatch_all([Note("a"), Note("broken"), Note("c")]).await;
    assert_eq!(all.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    let events = EventStore::new().load(&**outbox.session().await.unwrap(), "note-1", 1).await.unwrap();
    let texts: Vec<OrderEvent> = events.iter().map(|event| event.event().unwrap()).collect();
    assert_eq!(texts, [OrderEvent::Noted("a".into()), OrderEvent::Noted("c".into())]);

    let empty: CommandBus<Outbox> = CommandBus::new(outbox.clone());
    let error = empty.dispatch(Note("a")).await.unwrap_err();
    assert!(matches!(&error, CommandError::Unregistered(name) if name == "Note"));
    assert_eq!(into_error(error).kind(), Kind::NotFound);
    assert!(bus.has_handler("Place") && !empty.has_handler("Place"));
    assert!(bus.register::<Note>(|_, _| Box::pin(async { Ok(()) })).is_err());

    // In a transaction of the caller.
    let (bus, _) = self::bus(&outbox);
    let mut session = outbox.session().await.unwrap();
    let mut tx = session.transaction().await.unwrap();
    assert_eq!(bus.dispatch_in(&mut tx, place("2", 1)).await.unwrap(), 1);
    assert!(matches!(bus.dispatch_in(&mut tx, place("3", 0)).await, Err(CommandError::Validation(_))));
    tx.rollback().await.unwrap();
    assert_eq!(version(&outbox, "order-2").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_run_in_the_order_in_which_they_were_added() {
    let outbox = outbox("ev_layers").await;
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let mark = |name: &'static str| {
        let seen = seen.clone();
        Middleware::from_fn(move |dispatch, next| {
            let seen = seen.clone();
            Box::pin(async move {
                seen.lock().unwrap().push(format!("{name} {}", dispatch.command_type()));
                let handled = next.pass(dispatch).await;
                seen.lock().unwrap().push(format!("/{name}"));
                handled
            })
        })
    };
    let (bus, _) = bus(&outbox);
    let bus = bus
        .layer(mark("a"))
        .layer(middleware::chain([mark("b"), mark("c")]))
        .layer(middleware::for_types(&["Note"], mark("notes")))
        .layer(middleware::when(|dispatch| dispatch.command::<Place>().is_some_and(|p| p.total > 100), mark("large")))
        // A layer of the crate tower.
        .layer(tower::limit::ConcurrencyLimitLayer::new(1));
    let run = async |total: i64| {
        bus.dispatch(place(&total.to_string(), total)).await.unwrap();
        std::mem::take(&mut *seen.lock().unwrap()).join(" ")
    };
    assert_eq!(run(1).await, "a Place b Place c Place /c /b /a");
    assert_eq!(run(101).await, "a Place b Place c Place large Place /large /c /b /a");
    bus.dispatch(Note("x")).await.unwrap();
    assert!(seen.lock().unwrap().contains(&"notes Note".to_owned()));
    let stopped =
        self::bus(&outbox).0.layer(Middleware::of(tower::timeout::TimeoutLayer::new(Duration::from_millis(50))));
    let error = stopped.dispatch(Note("slow")).await.unwrap_err();
    assert!(matches!(&error, CommandError::Layer(layer) if layer.is::<tower::timeout::error::Elapsed>()), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_fields_panics_and_slow_handlers_are_told_apart() {
    let outbox = outbox("ev_faults").await;
    let (bus, ran) = bus(&outbox);
    let measured: Arc<Mutex<Vec<(&str, bool)>>> = Arc::default();
    let kept = measured.clone();
    let bus = bus
        .layer(middleware::metrics(move |m| kept.lock().unwrap().push((m.command_type, m.error.is_none()))))
        .layer(middleware::logging())
        .layer(middleware::recovery())
        .layer(middleware::validation())
        .layer(middleware::timeout(Duration::from_millis(300)));
    let CommandError::Validation(errors) = bus.dispatch(place("", -7)).await.unwrap_err() else { panic!() };
    assert_eq!(errors.of("total"), ["must be above 0", "must not be -7"]);
    assert_eq!(errors.to_string(), "number is missing; total must be above 0 and must not be -7");
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    let error = bus.dispatch(Note("panic")).await.unwrap_err();
    assert!(matches!(&error, CommandError::Panic(text) if text == "a bug"), "{error:?}");
    let error = bus.dispatch(Note("slow")).await.unwrap_err();
    assert!(matches!(error, CommandError::Timeout(_)));
    assert_eq!(into_error(error).kind(), Kind::Retry);
    bus.dispatch(Note("a")).await.unwrap();
    assert_eq!(version(&outbox, "note-1").await, 1);
    assert_eq!(*measured.lock().unwrap(), [("Place", false), ("Note", false), ("Note", false), ("Note", true)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_repeated_after_errors_that_pass() {
    let outbox = outbox("ev_retry").await;
    let quick = Retry { wait: Duration::from_millis(1), ..Retry::default() };
    let (bus, ran) = bus(&outbox);
    let bus = bus.layer(middleware::retry(quick));
    bus.dispatch(Note("busy")).await.unwrap();
    assert_eq!((ran.load(Ordering::SeqCst), version(&outbox, "note-1").await), (3, 1));
    bus.dispatch(Note("broken")).await.unwrap_err();
    assert_eq!(ran.load(Ordering::SeqCst), 4);
    // A command that timed out is not repeated.
    let slow = self::bus(&outbox);
    let timed = slow.0.layer(middleware::retry(quick)).layer(middleware::timeout(Duration::from_millis(300)));
    assert!(matches!(timed.dispatch(Note("slow")).await, Err(CommandError::Timeout(_))));
    assert_eq!(slow.1.load(Ordering::SeqCst), 1);
    // Conflicts are repeated, three times in all.
    bus.dispatch(place("1", 1)).await.unwrap();
    bus.dispatch(place("1", 1)).await.unwrap_err();
    assert_eq!(ran.load(Ordering::SeqCst), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_get_correlation_causation_and_tenant() {
    let outbox = outbox("ev_context").await;
    let (bus, _) = bus(&outbox);
    let id: Arc<Mutex<String>> = Arc::default();
    let kept = id.clone();
    let bus = bus
        .layer(middleware::correlation())
        .layer(middleware::causation())
        .layer(middleware::tenant(true, |dispatch| dispatch.command::<Place>().and_then(|place| place.request.clone())))
        .layer(Middleware::from_fn(move |dispatch, next| {
            *kept.lock().unwrap() = dispatch.id().to_owned();
            Box::pin(async move { next.pass(dispatch).await })
        }));
    assert!(matches!(bus.dispatch(place("1", 1)).await, Err(CommandError::NoTenant)));
    bus.dispatch(Place { request: Some("acme".into()), ..place("1", 1) }).await.unwrap();
    Metadata::new()
        .tenant("other")
        .correlation_id("c-1")
        .user_id("ann")
        .scope(async { bus.dispatch(place("2", 1)).await.unwrap() })
        .await;
    let store = EventStore::new();
    let session = outbox.session().await.unwrap();
    let first = store.load(&**session, "order-1", 1).await.unwrap().remove(0);
    assert_eq!(first.tenant.as_deref(), Some("acme"));
    assert_eq!(first.get_metadata("correlation_id").unwrap().len(), 36);
    let second = store.load(&**session, "order-2", 1).await.unwrap().remove(0);
    let id = id.lock().unwrap().clone();
    assert_eq!(json!(second.metadata), json!({"correlation_id": "c-1", "user_id": "ann", "causation_id": id}));
    assert_eq!(second.tenant.as_deref(), Some("other"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_command_with_a_known_key_is_not_processed_again() {
    let outbox = outbox("ev_once").await;
    let (bus, ran) = bus(&outbox);
    let bus = Arc::new(bus.layer(middleware::idempotency(middleware::Idempotency::default().key_from("request"))));
    let request = || Place { request: Some("r-1".into()), ..place("1", 1) };
    assert_eq!(bus.dispatch(request()).await.unwrap(), 1);
    assert_eq!(bus.dispatch(request()).await.unwrap(), 1);
    assert_eq!(ran.load(Ordering::SeqCst), 1);
    let other = Place { request: Some("r-1".into()), ..place("2", 1) };
    let CommandError::Outbox(error) = bus.dispatch(other).await.unwrap_err() else { panic!() };
    assert_eq!(error.code(), "OB008");
    // Without the field, by type and content; by the command's own key.
    for _ in 0..2 {
        bus.dispatch(place("3", 1)).await.unwrap();
        bus.dispatch(Note("a")).await.unwrap();
        bus.dispatch(Note("unkeyed")).await.unwrap();
    }
    assert_eq!(ran.load(Ordering::SeqCst), 4);
    let session = outbox.session().await.unwrap();
    let keys = "select key from outbox.command order by key";
    let keys: Vec<String> = session.query(keys, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!((keys.len(), keys.contains(&"Place:r-1".to_owned())), (4, true));
    assert!(keys.contains(&"Note:note-a".to_owned()) && keys.iter().any(|key| key.len() == "Place:".len() + 64));
    // A command that fails is new again.
    bus.dispatch(Note("refuse")).await.unwrap_err();
    bus.dispatch(Note("refuse")).await.unwrap_err();
    assert_eq!(ran.load(Ordering::SeqCst), 6);
    // The same command from several sides at once.
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let bus = bus.clone();
            tokio::spawn(async move { bus.dispatch(place("4", 1)).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), 1);
    }
    assert_eq!((ran.load(Ordering::SeqCst), version(&outbox, "order-4").await), (7, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_stored_if_it_is_asked_for() {
    let outbox = outbox("ev_stored").await;
    let (bus, ran) = bus(&outbox);
    let settings = middleware::Idempotency::default().store_errors().ttl(None).skip(&["Place"]);
    let bus = bus.layer(middleware::idempotency(settings));
    assert!(matches!(bus.dispatch(Note("refuse")).await, Err(CommandError::Rejected(_))));
    let error = bus.dispatch(Note("refuse")).await.unwrap_err();
    assert!(matches!(error, CommandError::Stored(_)));
    assert_eq!((error.to_string(), ran.load(Ordering::SeqCst)), ("this note is refused".into(), 1));
    assert_eq!(version(&outbox, "note-1").await, 0);
    let session = outbox.session().await.unwrap();
    let sql = "select error::text from outbox.command where key = 'Note:note-refuse'";
    let stored: String = session.query_one(sql, &[]).await.unwrap().get(0);
    let expected = json!({"type": "Rejected", "message": "this note is refused"});
    assert_eq!(serde_json::from_str::<serde_json::Value>(&stored).unwrap(), expected);
    // Errors of the database are not stored.
    bus.dispatch(Note("broken")).await.unwrap_err();
    bus.dispatch(Note("broken")).await.unwrap_err();
    assert_eq!(ran.load(Ordering::SeqCst), 3);
    bus.dispatch(place("1", 1)).await.unwrap();
    bus.dispatch(place("1", 1)).await.unwrap_err();
    outbox.call_void("command_forget", json!({"key": "Note:note-refuse"})).await.unwrap();
    bus.dispatch(Note("refuse")).await.unwrap_err();
    assert_eq!(ran.load(Ordering::SeqCst), 6);
}

#[cfg(feature = "sqlx")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_get_transactions_of_sqlx() {
    outbox("ev_bus_sqlx").await;
    let pool = sqlx::PgPool::connect(&crate::shop::server().await.dsn("ev_bus_sqlx")).await.unwrap();
    let orders: Repository<Order> = Repository::new(EventStore::new());
    let of_handler = orders.clone();
    let bus = CommandBus::new(pool.clone())
        .layer(middleware::idempotency(middleware::Idempotency::default().store_errors()))
        .register::<Place>(move |tx, command| {
            let orders = of_handler.clone();
            Box::pin(async move {
                let mut order = orders.load(&mut **tx, &command.number).await?;
                if order.total.is_some() {
                    return Err(CommandError::rejected("placed already"));
                }
                order.raise(placed(command.total))?;
                orders.save(&mut **tx, &mut order).await?;
                sqlx::query("select 1").execute(&mut **tx).await?;
                Ok(order.version())
            })
        })
        .unwrap();
    assert_eq!(bus.dispatch(place("1", 1)).await.unwrap(), 1);
    assert_eq!(bus.dispatch(place("1", 1)).await.unwrap(), 1);
    assert!(matches!(bus.dispatch(place("1", 2)).await, Err(CommandError::Rejected(_))));
    assert!(matches!(bus.dispatch(place("1", 2)).await, Err(CommandError::Stored(_))));
    let version = orders.execute(&pool, "1", |order| Ok::<_, Error>(order.version())).await.unwrap();
    assert_eq!(version, 1);
}
