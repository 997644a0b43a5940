//! Projections.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_harness::{Server, Stop, wait_until};
use pg_outbox::app::Workers;
use pg_outbox::events::project::{BoxError, Progress};
use pg_outbox::events::{ANY, EventStore, Fault, ProjectionEngine, ProjectionState, RecordedEvent, Selection};
use pg_outbox::{Kind, Outbox};

use crate::shop::{OrderEvent, PATIENCE, outbox, placed, server};

async fn place(outbox: &Outbox, totals: impl IntoIterator<Item = i64>) {
    let events: Vec<OrderEvent> = totals.into_iter().map(placed).collect();
    let session = outbox.session().await.unwrap();
    EventStore::new().append(&**session, "order-1", &events, ANY).await.unwrap();
}

fn orders() -> Selection {
    Selection::all().types(["order.placed"]).poll_interval(Duration::from_millis(20)).batch(10)
}

async fn tables(outbox: &Outbox) {
    let session = outbox.session().await.unwrap();
    session.batch_execute("create table totals (position bigint primary key, total bigint)").await.unwrap();
}

async fn insert(tx: &deadpool_postgres::Transaction<'_>, events: &[RecordedEvent]) -> Result<(), BoxError> {
    for event in events {
        let (position, total) = (event.position, event.data["total"].as_i64());
        tx.execute("insert into totals values ($1, $2)", &[&position, &total]).await?;
    }
    Ok(())
}

fn engine(outbox: &Outbox) -> ProjectionEngine<Outbox> {
    let engine = ProjectionEngine::new(outbox, outbox.clone(), EventStore::new());
    engine.register("totals", orders(), |tx, events| Box::pin(async move { insert(tx, events).await })).unwrap();
    engine
}

/// Returns an engine whose projection fails with a text where an event has a bug, until it is mended.
fn buggy_engine(
    outbox: &Outbox,
    text: &'static str,
    has_bug: fn(&RecordedEvent) -> bool,
) -> (ProjectionEngine<Outbox>, Arc<AtomicBool>) {
    let engine = ProjectionEngine::new(outbox, outbox.clone(), EventStore::new());
    let mended = Arc::new(AtomicBool::new(false));
    let of_handler = mended.clone();
    let handler = engine.register("totals", orders(), move |tx, events| {
        let is_mended = of_handler.load(Ordering::Relaxed);
        Box::pin(async move {
            match is_mended || !events.iter().any(has_bug) {
                true => insert(tx, events).await,
                false => Err(text.into()),
            }
        })
    });
    handler.unwrap();
    (engine, mended)
}

async fn totals(outbox: &Outbox) -> Vec<i64> {
    let session = outbox.session().await.unwrap();
    let rows = session.query("select total from totals order by position", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn until(outbox: &Outbox, expected: impl IntoIterator<Item = i64>) {
    let expected: Vec<i64> = expected.into_iter().collect();
    wait_until("all is applied", PATIENCE, async || totals(outbox).await == expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_is_started_paused_and_stopped() {
    let outbox = outbox("ev_engine").await;
    tables(&outbox).await;
    let engine = engine(&outbox);
    assert_eq!(engine.status("totals").await.unwrap().state, ProjectionState::Stopped);
    place(&outbox, 1..=25).await;
    engine.start();
    until(&outbox, 1..=25).await;
    wait_until("nothing is left", PATIENCE, async || engine.status("totals").await.unwrap().lag == 0).await;
    let status = engine.status("totals").await.unwrap();
    assert_eq!((status.state, status.processed, status.error), (ProjectionState::Running, 25, None));
    assert!(status.mean_latency > Duration::ZERO && status.position >= 25);

    engine.pause("totals").await.unwrap();
    engine.start();
    place(&outbox, [26]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(totals(&outbox).await.len(), 25);
    let status = engine.status("totals").await.unwrap();
    assert_eq!(status.state, ProjectionState::Paused);
    wait_until("it lags", PATIENCE, async || engine.status("totals").await.unwrap().lag > 0).await;
    engine.resume("totals").unwrap();
    until(&outbox, 1..=26).await;
    engine.stop().await;
    assert_eq!(engine.status("totals").await.unwrap().state, ProjectionState::Stopped);

    let add = |name| engine.register(name, orders(), |_, _| Box::pin(async { Ok(()) }));
    assert_eq!(add("totals").unwrap_err().kind(), Kind::Invalid);
    add("other").unwrap();
    engine.unregister("other").await.unwrap();
    assert_eq!(engine.status("other").await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_fails_is_never_passed_over() {
    let outbox = outbox("ev_poison").await;
    tables(&outbox).await;
    let (engine, mended) = buggy_engine(&outbox, "a bug at five", |event| event.data["total"] == 5);
    place(&outbox, 1..=7).await;
    engine.start();
    let faulted = async || engine.status("totals").await.unwrap().state == ProjectionState::Faulted;
    wait_until("it is faulted", PATIENCE, faulted).await;
    let status = engine.status("totals").await.unwrap();
    assert_eq!((status.error.as_deref(), status.error_position.is_some()), (Some("a bug at five"), true));
    assert_eq!(totals(&outbox).await, [1, 2, 3, 4]);
    let health = outbox.call("health", serde_json::Value::Null, &[]).await.unwrap();
    assert!(serde_json::Value::from(health).to_string().contains("projection totals"));
    mended.store(true, Ordering::Relaxed);
    until(&outbox, 1..=7).await;
    wait_until("it runs", PATIENCE, async || !faulted().await).await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_is_erased_while_a_page_waits_is_not_applied() {
    let outbox = outbox("ev_ahead").await;
    let session = outbox.session().await.unwrap();
    let events = [placed(1), placed(2), placed(3)];
    let ids = EventStore::new().append(&**session, "order-1", &events, 0).await.unwrap().message_ids;
    let engine = ProjectionEngine::new(&outbox, outbox.clone(), EventStore::new());
    let seen: Arc<Mutex<Vec<(i64, bool)>>> = Arc::default();
    let (of_handler, erasing, second) = (seen.clone(), outbox.clone(), ids[1]);
    let handler = engine.register("slow", orders().batch(1), move |_, events| {
        let (seen, outbox) = (of_handler.clone(), erasing.clone());
        Box::pin(async move {
            seen.lock().unwrap().push((events[0].version, events[0].redacted));
            if events[0].version == 1 {
                // The page behind this one is read meanwhile, and then waits for longer than it may.
                tokio::time::sleep(Duration::from_millis(500)).await;
                let erased = serde_json::json!({"message_id": second, "reason": "asked for"});
                outbox.call("erase", erased, &[]).await?;
                tokio::time::sleep(Duration::from_millis(1100)).await;
            }
            Ok(())
        })
    });
    handler.unwrap();
    assert_eq!(engine.drain("slow").await.unwrap(), 3);
    assert_eq!(*seen.lock().unwrap(), [(1, false), (2, true), (3, false)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_processes_apply_each_event_once() {
    let outbox = outbox("ev_processes").await;
    tables(&outbox).await;
    let engines: Vec<_> = (0..3).map(|_| engine(&outbox)).collect();
    for engine in &engines {
        engine.start();
    }
    for n in 0..10 {
        place(&outbox, n * 30..(n + 1) * 30).await;
    }
    until(&outbox, 0..300).await;
    for engine in &engines {
        assert_eq!(engine.status("totals").await.unwrap().error, None);
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_is_rebuilt_while_it_runs_and_while_it_does_not() {
    let outbox = outbox("ev_rebuild").await;
    tables(&outbox).await;
    let engine = engine(&outbox);
    place(&outbox, 1..=300).await;
    engine.start();
    until(&outbox, 1..=300).await;
    let mut seen: Vec<Progress> = Vec::new();
    let rebuild = async |seen: &mut Vec<Progress>| {
        let session = outbox.session().await.unwrap();
        session.batch_execute("update totals set total = 0").await.unwrap();
        let progress = |progress| seen.push(progress);
        let truncate = "truncate totals";
        engine
            .rebuild("totals", move |tx| Box::pin(async move { Ok(tx.batch_execute(truncate).await?) }), progress)
            .await
    };
    rebuild(&mut seen).await.unwrap();
    assert_eq!(totals(&outbox).await, (1..=300).collect::<Vec<_>>());
    let last = seen.last().unwrap();
    assert!(last.done == last.total && last.total >= 300 && last.rate > 0.0, "{last:?}");
    assert!(last.to_string().starts_with("100 %  ") && last.to_string().ends_with("  done"), "{last}");
    engine.stop().await;
    rebuild(&mut seen).await.unwrap();
    assert_eq!(totals(&outbox).await, (1..=300).collect::<Vec<_>>());
    assert_eq!(engine.status("totals").await.unwrap().state, ProjectionState::Stopped);
    // A reset that fails changes nothing.
    let error = engine.rebuild("totals", |_| Box::pin(async { Err("no".into()) }), |_| {}).await.unwrap_err();
    assert_eq!((Fault::of(&error), totals(&outbox).await.len()), (Some(Fault::Projection), 300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_projections_are_rebuilt_at_once_and_one_that_fails_ends_none() {
    let outbox = outbox("ev_rebuild_all").await;
    tables(&outbox).await;
    let session = outbox.session().await.unwrap();
    session.batch_execute("create table counted (position bigint primary key)").await.unwrap();
    let engine = engine(&outbox);
    // The first call of each handler waits until the other projection is being rebuilt, too.
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let (of_counted, of_broken) = (both.clone(), both);
    let (counted, broken) = (AtomicBool::new(false), AtomicBool::new(false));
    engine
        .register("counted", orders(), move |tx, events| {
            let (both, has_waited) = (of_counted.clone(), counted.swap(true, Ordering::Relaxed));
            Box::pin(async move {
                if !has_waited {
                    both.wait().await;
                }
                for event in events {
                    tx.execute("insert into counted values ($1)", &[&event.position]).await?;
                }
                Ok(())
            })
        })
        .unwrap();
    engine
        .register("broken", orders(), move |_, _| {
            let (both, has_waited) = (of_broken.clone(), broken.swap(true, Ordering::Relaxed));
            Box::pin(async move {
                if !has_waited {
                    both.wait().await;
                }
                Err("a bug".into())
            })
        })
        .unwrap();
    place(&outbox, 1..=50).await;
    let last = async || EventStore::new().last_position(&**session).await.unwrap();
    wait_until("they have positions", PATIENCE, async || last().await >= 50).await;
    let empty = |name: &str, sql: &'static str| {
        engine.rebuild_of(name, move |tx| Box::pin(async move { Ok(tx.batch_execute(sql).await?) }))
    };
    let seen: std::sync::Mutex<std::collections::BTreeMap<String, Progress>> = Default::default();
    let rebuilds = [
        empty("broken", ""),
        empty("counted", "truncate counted"),
        empty("totals", "truncate totals"),
        empty("no", ""),
    ];
    let told = |name: &str, progress| {
        seen.lock().unwrap().insert(name.to_owned(), progress);
    };
    let error = tokio::time::timeout(PATIENCE, engine.rebuild_all(rebuilds, 2, told)).await.unwrap().unwrap_err();
    let detail = error.details().detail.clone().unwrap();
    assert!(
        Fault::of(&error) == Some(Fault::Projection) && detail.starts_with("Projection \"broken\". Position"),
        "{detail}"
    );
    assert_eq!(totals(&outbox).await, (1..=50).collect::<Vec<_>>());
    let counted = session.query_one("select count(*) from counted", &[]).await.unwrap().get::<_, i64>(0);
    let seen = seen.into_inner().unwrap();
    let is_done = |name: &str| seen[name].done == seen[name].total;
    assert_eq!((counted, is_done("counted"), is_done("totals"), is_done("broken")), (50, true, true, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_applies_what_there_is_and_returns_the_error_of_the_handler() {
    let outbox = outbox("ev_drain").await;
    tables(&outbox).await;
    let (engine, mended) = buggy_engine(&outbox, "a bug", |_| true);
    assert_eq!(engine.drain("totals").await.unwrap(), 0);
    place(&outbox, 1..=25).await;
    let error = engine.drain("totals").await.unwrap_err();
    assert!(Fault::of(&error) == Some(Fault::Projection) && error.report().contains("a bug"), "{}", error.report());
    mended.store(true, Ordering::Relaxed);
    assert_eq!(engine.drain("totals").await.unwrap(), 25);
    assert_eq!((totals(&outbox).await.len(), engine.drain("totals").await.unwrap()), (25, 0));
    assert_eq!(engine.status("totals").await.unwrap().state, ProjectionState::Stopped);
    engine.live("live", orders(), |_| Box::pin(async { Ok(()) })).unwrap();
    assert_eq!(engine.drain("live").await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_projections_get_events_from_now_on_in_an_application() {
    let outbox = outbox("ev_live").await;
    tables(&outbox).await;
    place(&outbox, [1]).await;
    wait_until("it has a position", PATIENCE, async || {
        EventStore::new().last_position(&**outbox.session().await.unwrap()).await.unwrap() > 0
    })
    .await;
    let engine = engine(&outbox);
    let sum = Arc::new(AtomicI64::new(0));
    let of_handler = sum.clone();
    engine
        .live("sum", orders(), move |event| {
            of_handler.fetch_add(event.data["total"].as_i64().unwrap(), Ordering::Relaxed);
            Box::pin(async { Err("logged".into()) })
        })
        .unwrap();
    let stop = pg_outbox::worker::CancellationToken::new();
    let (running, shutdown) = (engine.clone(), stop.clone());
    let app = Workers::new(outbox.clone())
        .beside("projections", move |stop| async move { running.run_until(stop.cancelled_owned()).await });
    let app = tokio::spawn(async move { app.run_until(shutdown.cancelled_owned()).await });
    until(&outbox, [1]).await;
    wait_until("the live one sees new events", PATIENCE, async || {
        place(&outbox, [10]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        sum.load(Ordering::Relaxed) > 0
    })
    .await;
    assert_eq!(sum.load(Ordering::Relaxed) % 10, 0);
    assert_eq!(engine.status("sum").await.unwrap().state, ProjectionState::Running);
    stop.cancel();
    assert!(app.await.unwrap().unwrap().contains_key("projections"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_retrying_does_not_solve_ends_the_engine() {
    let outbox = outbox("ev_fatal").await;
    outbox
        .session()
        .await
        .unwrap()
        .batch_execute("create role nobody_of_projections login password 'x'")
        .await
        .unwrap();
    let server = server().await;
    let dsn = server.dsn("ev_fatal").replace(&format!("postgres:{}", server.password()), "nobody_of_projections:x");
    let engine = engine(&Outbox::lazy(&dsn, 2).unwrap());
    let error = tokio::time::timeout(PATIENCE, engine.run_until(std::future::pending())).await.unwrap().unwrap_err();
    assert!(error.details().detail.as_deref().unwrap().contains("permission denied"), "{error:?}");
    // Now it works, and no failure of the first run ends the second one.
    outbox.session().await.unwrap().batch_execute("alter role nobody_of_projections superuser").await.unwrap();
    let begun = std::time::Instant::now();
    engine.run_until(tokio::time::sleep(Duration::from_secs(1))).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_a_handler_is_recorded_and_tried_again() {
    let outbox = outbox("ev_panic").await;
    place(&outbox, [1]).await;
    let engine = ProjectionEngine::new(&outbox, outbox.clone(), EventStore::new());
    engine.register("bug", orders(), |_, _| Box::pin(async { panic!("a bug") })).unwrap();
    engine.start();
    let faulted = async || engine.status("bug").await.unwrap().state == ProjectionState::Faulted;
    wait_until("it is faulted", PATIENCE, faulted).await;
    assert_eq!(engine.status("bug").await.unwrap().error.as_deref(), Some("the handler panicked: a bug"));
    engine.stop().await;
    // A rebuild ends with an error, and so does one whose reset panics.
    let nothing = |_: Progress| {};
    let error = engine.rebuild("bug", |_| Box::pin(async { Ok(()) }), nothing).await.unwrap_err();
    assert_eq!(Fault::of(&error), Some(Fault::Projection));
    let error = engine.rebuild("bug", |_| Box::pin(async { panic!("another") }), nothing).await.unwrap_err();
    assert!(error.details().detail.as_deref().unwrap().contains("another"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_dropped_stops_its_projections() {
    let outbox = outbox("ev_dropped").await;
    tables(&outbox).await;
    let engine = engine(&outbox);
    let state = async || engine.status("totals").await.unwrap().state;
    let run = engine.run_until(std::future::pending());
    assert!(tokio::time::timeout(Duration::from_millis(300), run).await.is_err());
    wait_until("it is stopped", PATIENCE, async || state().await == ProjectionState::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_waits_for_the_batch_that_is_being_applied() {
    let outbox = outbox("ev_rebuild_waits").await;
    let session = outbox.session().await.unwrap();
    session.batch_execute("create table seen (position bigint)").await.unwrap();
    let (gate, held) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
    let (of_handler, holds) = (gate.clone(), held.clone());
    let engine = ProjectionEngine::new(&outbox, outbox.clone(), EventStore::new());
    engine
        .register("seen", orders(), move |tx, events| {
            let (gate, held) = (of_handler.clone(), holds.clone());
            Box::pin(async move {
                for event in events {
                    tx.execute("insert into seen values ($1)", &[&event.position]).await?;
                }
                held.store(true, Ordering::Relaxed);
                gate.acquire().await?.forget();
                gate.add_permits(1);
                Ok(())
            })
        })
        .unwrap();
    place(&outbox, 1..=5).await;
    engine.start();
    wait_until("a batch is being applied", PATIENCE, async || held.load(Ordering::Relaxed)).await;
    let other = engine.clone();
    let rebuild = tokio::spawn(async move {
        other
            .rebuild("seen", |tx| Box::pin(async move { Ok(tx.batch_execute("delete from seen").await?) }), |_| {})
            .await
    });
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%cursor_reset%'";
    wait_until("the rebuild waits", PATIENCE, async || {
        session.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    gate.add_permits(1);
    rebuild.await.unwrap().unwrap();
    let rows = session.query_one("select count(*), count(distinct position) from seen", &[]).await.unwrap();
    assert_eq!((rows.get::<_, i64>(0), rows.get::<_, i64>(1)), (5, 5));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_begins_where_the_selection_begins() {
    let outbox = outbox("ev_rebuild_after").await;
    tables(&outbox).await;
    place(&outbox, 1..=3).await;
    let last = async || EventStore::new().last_position(&**outbox.session().await.unwrap()).await.unwrap();
    wait_until("they have positions", PATIENCE, async || last().await >= 3).await;
    let engine = ProjectionEngine::new(&outbox, outbox.clone(), EventStore::new());
    let selection = orders().after(last().await);
    engine.register("totals", selection, |tx, events| Box::pin(async move { insert(tx, events).await })).unwrap();
    place(&outbox, 4..=6).await;
    engine.start();
    until(&outbox, 4..=6).await;
    engine
        .rebuild("totals", |tx| Box::pin(async move { Ok(tx.batch_execute("truncate totals").await?) }), |_| {})
        .await
        .unwrap();
    assert_eq!(totals(&outbox).await, [4, 5, 6]);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_passes_and_errors_show_no_values() {
    let outbox = outbox("ev_values").await;
    tables(&outbox).await;
    let (engine, round) =
        (ProjectionEngine::new(&outbox, outbox.clone(), EventStore::new()), Arc::new(AtomicI64::new(0)));
    let (of_handler, calls) = (round.clone(), Arc::new(AtomicI64::new(0)));
    let counted = calls.clone();
    engine
        .register("totals", orders(), move |tx, events| {
            let round = of_handler.load(Ordering::Relaxed);
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                match round {
                    0 => Err(pg_outbox::Error::new("OB013", "another transaction was first").into()),
                    1 => Err(serde_json::from_str::<i64>("\"secret\"").unwrap_err().into()),
                    2 => Ok(tx.execute("select cast('secret' || $1 as int)", &[&"secret"]).await.map(|_| ())?),
                    3 => {
                        tx.execute("insert into totals values (98765, 1)", &[]).await?;
                        Ok(tx.execute("insert into totals values (98765, 1)", &[]).await.map(|_| ())?)
                    }
                    _ => insert(tx, events).await,
                }
            })
        })
        .unwrap();
    let member = orders().member(0, 2);
    let error = engine.register("shared", member, |_, _| Box::pin(async { Ok(()) })).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    place(&outbox, [1]).await;
    engine.start();
    wait_until("it is tried again", PATIENCE, async || calls.load(Ordering::Relaxed) >= 3).await;
    assert_eq!(engine.status("totals").await.unwrap().error, None);
    for (n, expected) in [(1, "malformed JSON"), (2, "22P02"), (3, "unique constraint")] {
        round.store(n, Ordering::Relaxed);
        let shown = async || engine.status("totals").await.unwrap().error.unwrap_or_default();
        wait_until("the error is recorded", PATIENCE, async || shown().await.contains(expected)).await;
        assert!(!shown().await.contains("secret") && !shown().await.contains("98765"), "{}", shown().await);
    }
    round.store(4, Ordering::Relaxed);
    until(&outbox, [1]).await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_ends_a_live_projection_but_a_stop() {
    let outbox = outbox("ev_live_on").await;
    let upcasters = pg_outbox::events::Upcasters::new();
    let upcasters = upcasters.add("order.noted", 1, |_| Err(pg_outbox::Error::invalid("not this one"))).unwrap();
    let store = EventStore::new().upcasters(upcasters);
    let engine = ProjectionEngine::new(&outbox, outbox.clone(), store);
    let seen: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let kept = seen.clone();
    engine
        .live("all", Selection::all().poll_interval(Duration::from_millis(20)), move |event| {
            kept.lock().unwrap().push(event.event_type.clone());
            Box::pin(async move { if event.event_type == "order.placed" { panic!("a bug") } else { Ok(()) } })
        })
        .unwrap();
    engine.start();
    wait_until("it goes on", PATIENCE, async || {
        let session = outbox.session().await.unwrap();
        let events = [placed(1), OrderEvent::Noted("x".into()), OrderEvent::Paid];
        EventStore::new().append(&**session, "order-1", &events, ANY).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        seen.lock().unwrap().iter().any(|name| name == "order.paid")
    })
    .await;
    assert!(seen.lock().unwrap().iter().all(|name| name != "order.noted"));
    assert_eq!(engine.status("all").await.unwrap().state, ProjectionState::Running);
    engine.stop().await;
    assert_eq!(engine.status("all").await.unwrap().state, ProjectionState::Stopped);
}

#[cfg(feature = "sqlx")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_in_sqlx_survives_restarts_of_the_server() {
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    server.database("d").await.unwrap();
    let outbox = Outbox::connect(&server.dsn("d")).await.unwrap();
    tables(&outbox).await;
    let pool = sqlx::PgPool::connect(&server.dsn("d")).await.unwrap();
    let engine = ProjectionEngine::new(&outbox, pool, EventStore::new());
    engine
        .register("totals", orders(), |tx, events| {
            Box::pin(async move {
                for event in events {
                    let insert = sqlx::query("insert into totals values ($1, $2)").bind(event.position);
                    insert.bind(event.data["total"].as_i64()).execute(&mut **tx).await?;
                }
                Ok(())
            })
        })
        .unwrap();
    engine.start();
    for (n, how) in [(0, Stop::Fast), (1, Stop::Immediate)] {
        let db = server.connect("d").await.unwrap();
        let events: Vec<OrderEvent> = (n * 50..(n + 1) * 50).map(placed).collect();
        EventStore::new().append(&db, "order-1", &events, ANY).await.unwrap();
        server.restart(how).await.unwrap();
    }
    let db = server.connect("d").await.unwrap();
    wait_until("each is applied once", PATIENCE, async || {
        db.query_one("select count(*) from totals", &[]).await.unwrap().get::<_, i64>(0) == 100
    })
    .await;
    engine.stop().await;
}
