//! Routing without a dispatcher: where the library is not preloaded, a claim or `claim_wait` that finds nothing ticks and
//! routes by itself.
//!
//! The tick takes the sequencer's lock until the transaction ends, so only one session at a time routes. The session
//! continues from the last checkpoint, as a dispatcher does, and writes the next one. Pull subscriptions get their rows;
//! push subscriptions lag until there is a dispatcher that can send.

use std::cell::RefCell;

use outbox_core::progress::Progress;
use pgrx::IntoDatum;

use crate::dispatch::engine::{is_control, matched_as};
use crate::dispatch::feed::{Reader, Stored, reading_inline};
use crate::dispatch::outcome::decisions::{Decision, Decisions};
use crate::dispatch::outcome::record::{Checkpoint, Recorder, RoutingRow};
use crate::dispatch::payload_filter::{FilterResult, FilterResults, Predicates};
use crate::dispatch::pull::window::{self, Accept, Window};
use crate::dispatch::subscriptions::{Config, Loader};
use crate::pg_function;
use crate::shared::shmem;

/// Messages that one claim numbers, and rows of the feed (of up to 960 messages each) that it routes.
const CHUNK: i32 = 1000;
const ROWS: i64 = 2;

/// Statements, prepared once per session.
struct Statements {
    reader: Reader,
    loader: Loader,
    recorder: Recorder,
    window: Window,
    predicates: Predicates,
    decisions: Decisions,
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
            recorder: Recorder::new(),
            window: Window::new(),
            predicates: Predicates::inline(),
            decisions: Decisions::new(),
        }));
        let status = route(&mut statements);
        // After an ERROR they are made again, with an empty window: rows that are left in it would be recorded twice.
        STATEMENTS.set(Some(statements));
        // SAFETY: connected above; results are copied before.
        unsafe { pgrx::pg_sys::SPI_finish() };
        Ok((&*status?).into_datum())
    }
}

fn route(statements: &mut Statements) -> outbox_core::Result<Box<str>> {
    let Statements { reader, loader, recorder, window, predicates, decisions } = statements;
    let ticked = reader.tick(CHUNK);
    if !matches!(&*ticked.status, "ticked" | "idle") {
        return Ok(ticked.status);
    }
    let last = recorder.last();
    let (id, incarnation, checkpoint) = last.unwrap_or((0, 0, Checkpoint { routed: 0, subscriptions: Vec::new() }));
    let mut config = loader.load(checkpoint.routed)?;
    for (subscription, saved) in checkpoint.subscriptions {
        let Some(known) = config.subscriptions.get_mut(&subscription) else { continue };
        known.progress = Progress::behind(saved.position);
        known.progress.catch_up(saved.position, checkpoint.routed);
        for position in saved.open {
            known.progress.hand_out(position);
        }
    }
    // Nothing is in flight here that would have to be recalled.
    let _ = window.load_cancelled();
    window.count_all(&mut config);
    let mut routed = checkpoint.routed;
    let mut rows = Vec::new();
    if routed < ticked.last {
        let (messages, upto) = reading_inline(reader, |reader| Ok(reader.read(routed, ticked.last, ROWS)))?;
        let results = predicates.examine(&mut config, &messages, |_| true);
        rows.push(route_new(&mut config, window, decisions, &messages, &results, routed, upto));
        routed = upto;
    }
    let behind = |config: &Config| {
        let open =
            config.subscriptions.values().filter(|s| s.pull && !s.paused && !s.has_ended() && window::has_room(s));
        open.filter_map(|s| s.progress.lag()).min()
    };
    if let Some(from) = behind(&config) {
        let (messages, upto) = reading_inline(reader, |reader| Ok(reader.read(from, routed, ROWS)))?;
        let results = predicates.examine(&mut config, &messages, |_| true);
        catch_up(
            &mut config,
            window,
            decisions,
            &messages,
            &results,
            if messages.is_empty() && upto == from { routed } else { upto },
            routed,
        );
    }
    if rows.is_empty() && window.rows() + decisions.len() == 0 {
        return Ok(ticked.status);
    }
    let mut subscriptions: Vec<_> =
        config.subscriptions.iter().filter_map(|(id, s)| Some((*id, s.progress.save()?))).collect();
    subscriptions.sort_unstable_by_key(|(id, _)| *id);
    recorder.routing(&rows);
    window.record(std::iter::empty());
    decisions.record();
    recorder.checkpoint(id + 1, incarnation, &Checkpoint { routed, subscriptions });
    window.recorded();
    decisions.recorded().for_each(drop);
    Ok(ticked.status)
}

/// Decides about a delivery that no worker can get: it becomes a dead letter. Returns `false` if a worker can get it.
fn decided(decisions: &mut Decisions, id: i32, stored: &Stored, result: &FilterResult) -> bool {
    decisions.push(match result {
        _ if stored.unreadable.is_some() => Decision::unreadable(id, stored),
        FilterResult::Broken(error) => Decision::filter_failed(id, stored, error),
        _ => return false,
    });
    true
}

/// Routes messages for the first time.
fn route_new(
    config: &mut Config,
    window: &mut Window,
    decisions: &mut Decisions,
    messages: &[Stored],
    results: &FilterResults,
    from: i64,
    upto: i64,
) -> RoutingRow {
    let mut matched = vec![matched_as::GONE; usize::try_from(upto - from).unwrap_or(0)];
    for stored in messages {
        let position = stored.message.position;
        let found = config.route(stored, results, |id, subscription, result| {
            if subscription.progress.lag().is_some() {
                return;
            }
            if subscription.pull && !subscription.paused && decided(decisions, id, stored, result) {
                return;
            }
            let open = subscription.pull && !subscription.paused && *result == FilterResult::Holds;
            let accepted = if open { window.accept(id, subscription, stored) } else { Accept::Full };
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
    decisions: &mut Decisions,
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
        let position = stored.message.position;
        config.route(stored, results, |id, subscription, result| {
            if !part.contains(&id) || subscription.progress.lag().is_none_or(|at| at >= position) {
                return;
            }
            if decided(decisions, id, stored, result) {
                return;
            }
            if *result != FilterResult::Holds || window.accept(id, subscription, stored) != Accept::Done {
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
