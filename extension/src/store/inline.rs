//! Routing without a dispatcher: where the library is not preloaded, a claim or `claim_wait` that finds nothing ticks and
//! routes by itself.
//!
//! The tick takes the sequencer's lock until the transaction ends, so only one session at a time routes. The session
//! continues from the last checkpoint, as a dispatcher does, and writes the next one. Pull subscriptions get their rows;
//! push subscriptions lag until there is a dispatcher that can send.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use outbox_core::progress::Progress;
use outbox_dispatch::engine::{matched_as, transformed};
use outbox_dispatch::feed::{Place, Stored, TickStatus, is_control};
use outbox_dispatch::outcome::decisions::Decision;
use outbox_dispatch::outcome::message_counters::MessageCounters;
use outbox_dispatch::payload_filter::{Evaluate, FilterResult, FilterResults, Predicates};
use outbox_dispatch::pull::window::{self, Accept, WINDOW, Window};
use outbox_dispatch::store::{Batch, NumberedCheckpoint, RoutingRow, Transformed};
use outbox_dispatch::subscriptions::{Config, Transform};
use pgrx::{IntoDatum, PgSqlErrorCode};

use crate::pg::txn::{self, Failure, Plan};
use crate::pg_function;
use crate::shared::shmem;
use crate::store::batch;
use crate::store::configuration::Loader;
use crate::store::deliveries::Deliveries;
use crate::store::feed::{Reader, reading_inline};
use crate::store::record::Recorder;
use crate::store::rows::{self, RowMaker};
use crate::store::{filter, switches};
use crate::worker::now;

/// Messages that one claim numbers.
const CHUNK: i32 = 1000;

/// Statements, prepared once per session.
struct Statements {
    reader: Reader,
    loader: Loader,
    deliveries: Deliveries,
    recorder: Recorder,
    maker: RowMaker,
    filter: Filter,
}

/// Evaluates filters and transforms in subtransactions. The session's settings bound the time of filters.
struct Filter {
    path: Plan,
    transform: Plan,
}

impl Evaluate for Filter {
    fn evaluate(&mut self, path: &str, payloads: &[&str], _timer: Duration) -> Result<Vec<bool>, Failure> {
        let answers = txn::attempt(|| Ok(filter::evaluate(&mut self.path, path, payloads)));
        if let Some(cancelled) = answers.as_ref().err().filter(|failure| failure.is_transient()) {
            // The session was cancelled; the filter did not fail.
            pgrx::ereport!(ERROR, PgSqlErrorCode::ERRCODE_QUERY_CANCELED, cancelled.message.clone());
        }
        answers
    }

    fn transform(
        &mut self,
        transform: &Transform,
        places: &[Place],
        timer: Duration,
    ) -> Result<Vec<Transformed>, Failure> {
        let made = txn::attempt(|| Ok(filter::transform(&mut self.transform, transform, places, timer)));
        if let Some(cancelled) = made.as_ref().err().filter(|failure| &failure.state == b"57014") {
            pgrx::ereport!(ERROR, PgSqlErrorCode::ERRCODE_QUERY_CANCELED, cancelled.message.clone());
        }
        made
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

thread_local! {
    static STATEMENTS: RefCell<Option<Box<Statements>>> = const { RefCell::new(None) };
}

pg_function! {
    /// outbox_internal.route_inline() returns text: the status of the tick, or `dispatched` if a dispatcher does this.
    fn outbox_route_inline(_args) {
        if shmem::shared().is_some() {
            return Ok("dispatched".into_datum());
        }
        // SAFETY: a function's body; an ERROR ends SPI with the transaction.
        unsafe { pgrx::pg_sys::SPI_connect() };
        let mut statements = STATEMENTS.take().unwrap_or_else(|| Box::new(Statements {
            reader: Reader::new(),
            loader: Loader::new(),
            deliveries: Deliveries::new(),
            recorder: Recorder::new(),
            maker: RowMaker::new(),
            filter: Filter { path: filter::plan(), transform: filter::transform_plan() },
        }));
        let status = route(&mut statements);
        // After an ERROR they are made again.
        STATEMENTS.set(Some(statements));
        // SAFETY: connected above; results are copied before.
        unsafe { pgrx::pg_sys::SPI_finish() };
        Ok((&*status?).into_datum())
    }
}

fn route(statements: &mut Statements) -> outbox_core::Result<Box<str>> {
    let Statements { reader, loader, deliveries, recorder, maker, filter } = statements;
    let (mut window, mut predicates, mut decisions) = (Window::default(), Predicates::inline(), Vec::new());
    let ticked = reader.tick(CHUNK, None);
    match ticked.status {
        TickStatus::Ticked => {}
        TickStatus::Busy => return Ok("busy".into()),
        TickStatus::Copied => return Ok("copied".into()),
        TickStatus::Fresh => return Ok("fresh".into()),
        TickStatus::Refused(status) => return Ok(status),
    }
    let status = if ticked.found > 0 { "ticked" } else { "idle" };
    let last = recorder.last().unwrap_or_default();
    let checkpoint = last.checkpoint;
    let mut config = Config::default();
    config.add_rows(&loader.subscriptions(), checkpoint.routed)?;
    for (subscription, saved) in checkpoint.subscriptions {
        let Some(known) = config.subscriptions.get_mut(&subscription) else { continue };
        known.progress = Progress::behind(saved.position);
        known.progress.catch_up(saved.position, checkpoint.routed);
        for position in saved.open {
            known.progress.hand_out(position);
        }
    }
    // Nothing is in flight here that would have to be recalled.
    window.set_cancelled(deliveries.cancelled());
    count_windows(deliveries, &mut config);
    let switches = switches();
    let mut routed = checkpoint.routed;
    let mut rows = Vec::new();
    if routed < ticked.last {
        let (messages, upto) = reading_inline(reader, |reader| Ok(reader.read(routed, ticked.last)))?;
        let results = predicates.examine(filter, &switches, &mut config, &messages, |_| true);
        rows.push(route_new(&mut config, &mut window, &mut decisions, &messages, &results, routed, upto));
        routed = upto;
    }
    let behind = |config: &Config| {
        let open =
            config.subscriptions.values().filter(|s| s.pull && !s.paused && !s.has_ended() && window::has_room(s));
        open.filter_map(|s| s.progress.lag()).min()
    };
    if let Some(from) = behind(&config) {
        let (messages, upto) = reading_inline(reader, |reader| Ok(reader.read(from, routed)))?;
        let results = predicates.examine(filter, &switches, &mut config, &messages, |_| true);
        catch_up(
            &mut config,
            &mut window,
            &mut decisions,
            &messages,
            &results,
            if messages.is_empty() && upto == from { routed } else { upto },
            routed,
        );
    }
    if rows.is_empty() && window.rows() + decisions.len() == 0 {
        return Ok(status.into());
    }
    let (made, ended) = window.unrecorded();
    let batch = Batch {
        entries: &mut Vec::new(),
        decisions: &mut decisions,
        rows: made,
        ended,
        endpoints: &[],
        routing: &rows,
        notes: &[],
        manual_sends: &[],
        message_counters: &MessageCounters::default(),
        checkpoint: &NumberedCheckpoint {
            id: last.id + 1,
            incarnation: last.incarnation,
            checkpoint: config.checkpoint(routed),
        },
        now: now(),
    };
    batch::write(recorder, maker, &batch)?;
    rows::announce(batch.rows);
    Ok(status.into())
}

/// Counts the rows of all pull subscriptions.
fn count_windows(deliveries: &mut Deliveries, config: &mut Config) {
    let of: Vec<(i32, i64)> = config.subscriptions.iter().filter(|(_, s)| s.pull).map(|(id, _)| (*id, 0)).collect();
    for ((id, _), (rows, _)) in of.iter().zip(deliveries.count_waiting(&of, 2 * WINDOW, now())) {
        if let Some(subscription) = config.subscriptions.get_mut(id) {
            subscription.outstanding = rows;
        }
    }
}

/// Decides about a delivery that no worker can get: it becomes a dead letter, or is skipped. Returns `false` if a worker can get it.
fn decided(decisions: &mut Vec<Decision>, id: i32, stored: &Stored, result: &FilterResult) -> bool {
    decisions.push(match result {
        _ if stored.unreadable.is_some() => Decision::unreadable(id, stored),
        FilterResult::Broken(error) => Decision::filter_failed(id, stored, error),
        FilterResult::TransformFailed(error) => Decision::transform_failed(id, stored, error),
        FilterResult::Filtered => Decision::filtered(id, stored),
        _ => return false,
    });
    true
}

/// Whether a worker can get the delivery.
fn is_open(result: &FilterResult) -> bool {
    matches!(result, FilterResult::Holds | FilterResult::Transformed(_))
}

/// Routes messages for the first time.
fn route_new(
    config: &mut Config,
    window: &mut Window,
    decisions: &mut Vec<Decision>,
    messages: &[Stored],
    results: &FilterResults,
    from: i64,
    upto: i64,
) -> RoutingRow {
    let mut matched = vec![matched_as::GONE; usize::try_from(upto - from).unwrap_or(0)];
    for stored in messages {
        let (position, time) = (stored.message.position, now());
        let found = config.route(stored, results, |id, subscription, result| {
            if subscription.progress.lag().is_some() {
                return;
            }
            if subscription.pull && !subscription.paused && decided(decisions, id, stored, result) {
                return;
            }
            let open = subscription.pull && !subscription.paused && is_open(result);
            let stored = &transformed(stored, result);
            let accepted = if open { window.accept(id, subscription, stored, time) } else { Accept::Full };
            if accepted != Accept::Done {
                subscription.progress.fall_behind(position - 1);
            }
        });
        matched[(position - from - 1) as usize] = matched_as::entry(&stored.message.topic, found);
        if is_control(stored) {
            config.begin(position);
        }
    }
    RoutingRow { first: from + 1, active: i32::try_from(config.active_at(upto)).unwrap_or(i32::MAX), matched }
}

/// Gives lagging pull subscriptions the messages that they have room for.
fn catch_up(
    config: &mut Config,
    window: &mut Window,
    decisions: &mut Vec<Decision>,
    messages: &[Stored],
    results: &FilterResults,
    upto: i64,
    routed: i64,
) {
    let mut part: Vec<i32> = config
        .subscriptions
        .iter()
        .filter(|(_, s)| {
            s.pull && !s.paused && !s.has_ended() && window::has_room(s) && s.progress.lag().is_some_and(|at| at < upto)
        })
        .map(|(id, _)| *id)
        .collect();
    for stored in messages {
        let (position, time) = (stored.message.position, now());
        config.route(stored, results, |id, subscription, result| {
            if !part.contains(&id) || subscription.progress.lag().is_none_or(|at| at >= position) {
                return;
            }
            if decided(decisions, id, stored, result) {
                return;
            }
            let stored = &transformed(stored, result);
            if !is_open(result) || window.accept(id, subscription, stored, time) != Accept::Done {
                subscription.progress.fall_behind(position - 1);
                part.retain(|p| *p != id);
            }
        });
    }
    for id in part {
        if let Some(subscription) = config.subscriptions.get_mut(&id) {
            subscription.progress.catch_up(upto, routed);
        }
    }
}
