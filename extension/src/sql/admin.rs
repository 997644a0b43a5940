//! SQL functions that check an administrator's input, with the same code that later uses it, and functions that show the
//! state that only the library knows.

use outbox_core::filter::Filter;
use outbox_core::pattern::Pattern;
use outbox_core::sign::Secret;
use outbox_core::topic_template::TopicTemplate;
use outbox_core::url::Url;
use outbox_core::{Error, Result, topic};
use pgrx::{IntoDatum, pg_sys};

use crate::pg::function::{Args, Returned, record};
use crate::shared::histogram::BOUNDS;
use crate::shared::shmem::{self, State};
use crate::shared::wake;
use crate::{pg_function, settings};

/// Runs `check` on a text argument and returns the argument.
fn checked_text(args: Args, check: impl FnOnce(&str) -> Result<()>) -> Result<Returned> {
    check(args.get::<&str>(0).unwrap_or_default())?;
    Ok(args.datum(0))
}

pg_function! {
    /// outbox_internal.check_url(text) returns text
    fn outbox_check_url(args) {
        checked_text(args, |text| Url::parse(text, settings::ALLOW_HTTP.get()).map(|_| ()))
    }
}

pg_function! {
    /// outbox_internal.check_patterns(text[]) returns text[]
    fn outbox_check_patterns(args) {
        let patterns: Vec<Option<String>> = args.get(0).unwrap_or_default();
        Pattern::parse_all(patterns.into_iter().flatten())?;
        Ok(args.datum(0))
    }
}

pg_function! {
    /// outbox_internal.check_topic(text) returns text
    fn outbox_check_topic(args) {
        checked_text(args, topic::validate)
    }
}

pg_function! {
    /// outbox_internal.check_topic_template(text) returns text
    fn outbox_check_topic_template(args) {
        checked_text(args, |text| TopicTemplate::parse(text).map(|_| ()))
    }
}

pg_function! {
    /// outbox_internal.check_secret(text) returns text
    fn outbox_check_secret(args) {
        checked_text(args, |text| Secret::parse(text).map(|_| ()))
    }
}

pg_function! {
    /// outbox_internal.check_filter(jsonb) returns jsonb
    fn outbox_check_filter(args) {
        if let Some(filter) = args.json(0, "filter")? {
            Filter::parse(&filter)?;
        }
        Ok(args.datum(0))
    }
}

pg_function! {
    /// outbox_internal.check_headers(jsonb) returns jsonb
    fn outbox_check_headers(args) {
        if let Some(headers) = args.json(0, "headers")? {
            outbox_core::headers::parse(&headers)?;
        }
        Ok(args.datum(0))
    }
}

pg_function! {
    /// outbox_internal.announce() returns void
    fn outbox_announce(_args) {
        wake::at_commit_probe_database();
        Ok(None)
    }
}

pg_function! {
    /// outbox_internal.deliveries_changed() returns void
    fn outbox_deliveries_changed(_args) {
        wake::at_commit_report_deliveries_changed();
        Ok(None)
    }
}

pg_function! {
    /// outbox_internal.worker_slot(out state text, out pid int, out in_flight bigint, out queued bigint, out unrecorded bigint, out
    /// idle boolean)
    fn outbox_worker_slot(args) {
        use std::sync::atomic::Ordering::Relaxed;
        // SAFETY: a constant of this backend.
        let slot = shmem::shared().map(|shared| shared.slot_of(unsafe { pg_sys::MyDatabaseId }));
        let pid = slot.flatten().and_then(|slot| slot.process.pid());
        let state = match slot {
            None => "not preloaded",
            // The state that a dead process has left behind does not count.
            Some(Some(slot)) if slot.state() == State::Starting || pid.is_some() => slot.state().as_str(),
            Some(_) => State::None.as_str(),
        };
        let slot = slot.flatten();
        record(args, &[
            state.into_datum(),
            pid.into_datum(),
            slot.map(|s| s.in_flight.load(Relaxed)).into_datum(),
            slot.map(|s| s.queued.load(Relaxed)).into_datum(),
            slot.map(|s| s.unrecorded.load(Relaxed)).into_datum(),
            slot.map(shmem::Slot::is_idle).into_datum(),
        ])
    }
}

pg_function! {
    /// outbox_internal.workers(out launcher_pid int, out started_at timestamptz, out last_error text, out last_error_at timestamptz,
    /// out lacks text, out state_at timestamptz, out seen_at timestamptz, out launcher_seen_at timestamptz)
    fn outbox_workers(args) {
        let shared = shmem::shared();
        // SAFETY: a constant of this backend.
        let slot = shared.and_then(|shared| shared.slot_of(unsafe { pg_sys::MyDatabaseId }));
        let (error, at) = slot.and_then(shmem::Slot::error).unzip();
        let living = slot.map(|slot| &slot.process).filter(|process| process.pid().is_some());
        let launcher = shared.map(|shared| &shared.launcher);
        let launcher_pid = launcher.and_then(shmem::Process::pid);
        record(args, &[
            launcher_pid.into_datum(),
            living.map(shmem::Process::started_at).and_then(timestamp),
            error.into_datum(),
            at.and_then(timestamp),
            shared.filter(|_| living.is_none()).and_then(shmem::Shared::lacking).map(shmem::Limit::as_str).into_datum(),
            slot.map(shmem::Slot::state_at).filter(|at| *at != 0).and_then(timestamp),
            living.map(shmem::Process::seen_at).and_then(timestamp),
            launcher.filter(|_| launcher_pid.is_some()).map(shmem::Process::seen_at).and_then(timestamp),
        ])
    }
}

pg_function! {
    /// outbox_internal.histogram(deliveries boolean, out bounds float8[], out counts bigint[], out seconds float8): nulls where no
    /// dispatcher has run.
    fn outbox_histogram(args) {
        // SAFETY: a constant of this backend.
        let slot = shmem::shared().and_then(|shared| shared.slot_of(unsafe { pg_sys::MyDatabaseId }));
        let deliveries = args.get::<bool>(0) == Some(true);
        let read = slot.map(|slot| if deliveries { slot.deliveries.read() } else { slot.requests.read() });
        let (counts, seconds) = read.unzip();
        let bounds: Option<Vec<f64>> = slot.map(|_| BOUNDS.iter().map(|bound| *bound as f64 / 1e6).collect());
        record(args, &[bounds.into_datum(), counts.into_datum(), seconds.into_datum()])
    }
}

/// Makes a timestamptz, which is stored as microseconds since PostgreSQL's epoch.
fn timestamp(micros: i64) -> Option<pg_sys::Datum> {
    micros.into_datum()
}

pg_function! {
    /// outbox.version(out extension text, out library text)
    fn outbox_version(args) {
        // Read-only, because anything else needs a transaction id, which a standby does not have.
        let installed = pgrx::Spi::connect(|client| {
            let query = "select extversion from pg_catalog.pg_extension where extname = 'pg_outbox'";
            client.select(query, Some(1), &[])?.first().get_one::<String>()
        })
        .map_err(|e| Error::new(outbox_core::Code::Internal, e.to_string()))?;
        record(args, &[installed.into_datum(), env!("CARGO_PKG_VERSION").into_datum()])
    }
}
