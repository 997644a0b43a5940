//! The dispatcher's store in this database: `outbox_dispatch::Store` over prepared statements, and scans below the executor.
//!
//! Each method is a transaction of its own (`pg::txn::run`). The statements are grouped by what they are about: the feed, the
//! configuration, deliveries, the record.

mod apart;
mod batch;
mod configuration;
pub mod counters;
mod deliveries;
mod feed;
mod filter;
pub mod inline;
pub mod record;
mod rows;

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use outbox_dispatch::fault::{Fault, Kind};
use outbox_dispatch::feed::{Part, Place, Stored, Ticked};
use outbox_dispatch::pull::ordering::OrderKey;
use outbox_dispatch::pull::window::NewRow;
use outbox_dispatch::push::endpoints::EndpointRow;
use outbox_dispatch::push::manual_send::ManualSend;
use outbox_dispatch::push::retries::{DueRow, FollowerRow};
use outbox_dispatch::store::{
    Batch, Changes, Configuration, DeadRow, NumberedCheckpoint, Passed, Recorded, Switches, Transformed,
};
use outbox_dispatch::subscriptions::{Transform, VersionRow};
use outbox_dispatch::{Host, Store};
use outbox_sender::ConsentAnswer;

use self::apart::apart;
use self::configuration::Loader;
use self::deliveries::Deliveries;
use self::feed::{Reader, reading};
use self::record::Recorder;
use self::rows::RowMaker;
use crate::pg::txn::{self, Failure, Plan};
use crate::settings;
use crate::shared::shmem::{self, Slot};
use crate::worker::{dispatcher, now};

/// The store of the dispatcher in a slot.
pub struct PgStore {
    slot: &'static Slot,
    reader: Reader,
    loader: Loader,
    deliveries: Deliveries,
    recorder: Recorder,
    maker: RowMaker,
    filter: Plan,
    transform: Plan,
}

impl PgStore {
    pub fn new(slot: &'static Slot) -> PgStore {
        PgStore {
            slot,
            reader: Reader::new(),
            loader: Loader::new(),
            deliveries: Deliveries::new(),
            recorder: Recorder::new(),
            maker: RowMaker::new(),
            filter: filter::plan(),
            transform: filter::transform_plan(),
        }
    }

    /// Called when rows have been committed: wakes the workers that can claim them.
    fn announce(&mut self, rows: &[NewRow], tell: Vec<i32>) {
        if rows::announce(rows) {
            self.tell_workers(tell);
        }
    }

    /// Wakes workers that wait for something to claim: sessions in `claim_wait` directly, and workers of the subscriptions
    /// `tell` by NOTIFY. The NOTIFY has a transaction of its own, because it takes a lock that all committers share.
    fn tell_workers(&mut self, tell: Vec<i32>) {
        if let Some(shared) = shmem::shared() {
            // SAFETY: a constant of this process.
            shared.wake_waiters(unsafe { pgrx::pg_sys::MyDatabaseId });
        }
        if !tell.is_empty() {
            let deliveries = &mut self.deliveries;
            // A notification is a hint: a failed one is not repeated, because workers poll as well.
            if let Err(failure) = write(|| deliveries.notify(tell)) {
                self.log(format_args!("workers were not notified: {failure}"));
            }
        }
    }
}

/// The current settings.
pub fn switches() -> Switches {
    Switches {
        poll_interval: Duration::from_millis(settings::POLL_INTERVAL.get() as u64),
        push: settings::PUSH.get(),
        allow_http: settings::ALLOW_HTTP.get(),
        filter_timeout: Duration::from_millis(settings::FILTER_TIMEOUT.get().max(1) as u64),
        transform_timeout: Duration::from_millis(settings::TRANSFORM_TIMEOUT.get().max(1) as u64),
    }
}

/// Runs statements that return nothing, in a transaction.
fn write(work: impl FnOnce()) -> Result<(), Failure> {
    txn::run(|| {
        work();
        Ok(())
    })
}

impl Host for PgStore {
    fn now(&self) -> i64 {
        now()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }

    fn switches(&self) -> Switches {
        switches()
    }

    fn consent_origin(&self) -> String {
        settings::CONSENT_ORIGIN
            .get()
            .map_or_else(|| "pg_outbox".to_owned(), |origin| origin.to_string_lossy().into_owned())
    }

    fn log(&self, text: fmt::Arguments<'_>) {
        pgrx::log!("pg_outbox dispatcher: {text}");
    }

    fn close_files(&self) {
        // SAFETY: called between transactions. PostgreSQL opens each of the files again when it needs it.
        unsafe { pgrx::pg_sys::closeAllVfds() };
    }

    fn generation(&self) -> u64 {
        self.slot.generation()
    }

    fn take_deliveries_changed(&self) -> bool {
        self.slot.deliveries_changed.swap(false, Ordering::SeqCst)
    }
}

impl Store for PgStore {
    fn tick(&mut self, chunk: i32, after: Option<i64>) -> Result<Ticked, Failure> {
        reading(&mut self.reader, |reader| Ok(reader.tick(chunk, after)))
    }

    fn read(&mut self, after: i64, upto: i64, look_for_cancelled: bool) -> Result<Part, Failure> {
        reading(&mut self.reader, |reader| {
            let (messages, upto) = reader.read(after, upto);
            let cancelled = if look_for_cancelled { reader.cancelled_among(&messages) } else { Vec::new() };
            Ok(Part { messages, upto, cancelled })
        })
    }

    fn messages(&mut self, places: &[Place]) -> Result<Vec<Option<Stored>>, Failure> {
        reading(&mut self.reader, |reader| Ok(reader.messages_at(places)))
    }

    fn last_checkpoint(&mut self) -> Result<Option<NumberedCheckpoint>, Failure> {
        txn::run(|| Ok(self.recorder.last()))
    }

    fn load(&mut self, apart: bool) -> Result<Configuration, Failure> {
        txn::run(|| if apart { Ok(self.loader.all_apart()?) } else { Ok(self.loader.all()) })
    }

    fn load_subscriptions(&mut self, ids: &[i32]) -> Result<Vec<VersionRow>, Failure> {
        txn::run(|| Ok(self.loader.these(ids)))
    }

    fn load_endpoints(&mut self, ids: &[i32]) -> Result<Vec<EndpointRow>, Failure> {
        txn::run(|| Ok(self.loader.endpoints(Some(ids))))
    }

    fn changes(&mut self) -> Result<Changes, Failure> {
        txn::run(|| Ok(self.deliveries.changes()))
    }

    fn count_waiting(
        &mut self,
        of: &[(i32, i64)],
        limit: usize,
        now: i64,
    ) -> Result<Vec<(usize, Option<i64>)>, Failure> {
        txn::run(|| Ok(self.deliveries.count_waiting(of, limit, now)))
    }

    fn count_blocked(&mut self, of: &[i32], limit: usize) -> Result<Vec<usize>, Failure> {
        txn::run(|| Ok(self.deliveries.count_blocked(of, limit)))
    }

    fn filter(&mut self, path: &str, payloads: &[&str], timer: Duration) -> Result<Vec<bool>, Failure> {
        txn::run_timed(timer, || Ok(filter::evaluate(&mut self.filter, path, payloads)))
    }

    fn transform(
        &mut self,
        transform: &Transform,
        places: &[Place],
        timer: Duration,
    ) -> Result<Vec<Transformed>, Failure> {
        let made = txn::run(|| Ok(filter::transform(&mut self.transform, transform, places, timer)));
        dispatcher::release_locks();
        made
    }

    fn pass(&mut self, limit: i32, in_flight: &[i64], apart: bool) -> Result<Passed, Failure> {
        let passed = txn::run(|| Ok(self.deliveries.pass(limit, in_flight, apart)))?;
        if passed.free {
            self.tell_workers(Vec::new());
        }
        Ok(passed)
    }

    fn due_rows(&mut self, rooms: &[(i32, i32)], known: &[i64]) -> Result<Vec<DueRow>, Failure> {
        txn::run(|| Ok(self.deliveries.due_rows(rooms, known)))
    }

    fn followers(&mut self, keys: &[(OrderKey, i64)], limit: i32) -> Result<Vec<Vec<FollowerRow>>, Failure> {
        txn::run(|| Ok(self.deliveries.followers(keys, limit)))
    }

    fn dead_letter(&mut self, rows: &[DeadRow]) -> Result<(), Failure> {
        write(|| self.deliveries.dead_letter(rows))
    }

    fn manual_sends(&mut self, known: &[i64]) -> Result<Vec<ManualSend>, Failure> {
        txn::run(|| Ok(self.deliveries.manual_sends(known)))
    }

    fn consents_due(&mut self) -> Result<Vec<(i32, i64)>, Failure> {
        txn::run(|| Ok(self.deliveries.consents()))
    }

    fn record_consents(&mut self, answers: &[ConsentAnswer]) -> Result<Vec<(usize, Failure)>, Failure> {
        txn::run(|| {
            Ok(apart(answers, &mut |answers| {
                self.deliveries.record_consents(answers);
                Ok(())
            })?)
        })
    }

    fn record(&mut self, batch: &Batch<'_>) -> Result<Recorded, Failure> {
        let (recorded, tell) = txn::run(|| batch::write(&mut self.recorder, &mut self.maker, batch))?;
        record::measure(self.slot, batch.entries);
        self.announce(batch.rows, tell);
        Ok(recorded)
    }

    fn record_apart(&mut self, batch: &mut Batch<'_>, faults: &mut Vec<Fault>) -> Result<Recorded, Failure> {
        let (recorded, tell) = txn::run(|| batch::write_apart(&mut self.recorder, &mut self.maker, batch, faults))?;
        record::measure(self.slot, batch.entries);
        self.announce(batch.rows, tell);
        Ok(recorded)
    }

    fn note_faults(&mut self, faults: &[Fault]) -> Result<(), Failure> {
        write(|| self.deliveries.note_faults(faults))
    }

    fn note_loaded(&mut self, kind: Kind, faulted: &[i64]) -> Result<(), Failure> {
        write(|| self.deliveries.note_loaded(kind, faulted))
    }
}
