//! Read models: [`ProjectionEngine`] keeps projections up to date with the events.
//!
//! | kind | runs | a failure |
//! |---|---|---|
//! | inline ([`EventStore::inline`]) | in the transaction that appends | refuses the append |
//! | async ([`ProjectionEngine::register`]) | behind the append, in one transaction with its cursor | is recorded with the cursor, shown by `health()`, and tried again; no event is passed over |
//! | live ([`ProjectionEngine::live`]) | behind the append, for events from now on; has no cursor | is logged, and the event is passed over |
//!
//! The cursor of the async projection `orders` is that of the consumer `projection orders`. Several processes may run the same
//! projection: of two that apply the same events, one is refused and rolls back, so each event is applied once. A transaction moves
//! the cursor before its handler runs: the lock of the cursor keeps out other processes and rebuilds until it ends.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Connection;
use super::event::RecordedEvent;
use super::fault::Fault;
use super::store::EventStore;
use super::subscribe::Selection;
use crate::driver::{InTransaction, Statement, Transactions, text};
use crate::error::{Error, described};
use crate::message::Message;
use crate::outbox::{Backoff, Outbox, passes};
use crate::reader::{Reader, Step, Stopped, advance_first, finish, later};

type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error of a handler.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Handler<P> = Arc<
    dyn for<'t, 's> Fn(
            &'t mut <P as Transactions>::Transaction<'s>,
            &'t [RecordedEvent],
        ) -> BoxFuture<'t, Result<(), BoxError>>
        + Send
        + Sync,
>;

type LiveHandler = Arc<dyn Fn(RecordedEvent) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync>;

/// The number of events that are applied at once.
const BATCH: i32 = 100;

/// How a projection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectionState {
    /// It is not started.
    Stopped,
    /// It follows the events.
    Running,
    /// It was paused here.
    Paused,
    /// It stands at an event that cannot be applied, and tries again.
    Faulted,
    /// It has ended with an error that retrying does not solve.
    Failed,
}

/// The state of a projection.
#[derive(Clone, Debug)]
pub struct ProjectionStatus {
    /// The name.
    pub name: String,
    /// How it is doing in this process. Whether it is faulted is known of all processes.
    pub state: ProjectionState,
    /// The position up to which events are applied. 0 for a live projection.
    pub position: i64,
    /// The number of positions between it and the end of the feed, which also has messages and other events. 0 for a live
    /// projection.
    pub lag: i64,
    /// The number of events that this process has applied.
    pub processed: u64,
    /// The mean time between the append of an event and its application in this process.
    pub mean_latency: Duration,
    /// The last error.
    pub error: Option<String>,
    /// The position of the event that cannot be applied.
    pub error_position: Option<i64>,
}

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The positions that are done, counted from where the selection begins.
    pub done: i64,
    /// The positions between there and the end of the feed when the rebuild began.
    pub total: i64,
    /// Positions per second.
    pub rate: f64,
    /// The estimated time that is left. `None` while nothing is done.
    pub remaining: Option<Duration>,
}

impl Progress {
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    fn new(done: i64, total: i64, spent: Duration) -> Progress {
        let (done, total) = (done.clamp(0, total.max(0)), total.max(0));
        let rate = done as f64 / spent.as_secs_f64().max(0.001);
        let remaining = Duration::try_from_secs_f64((total - done) as f64 / rate).ok();
        Progress { done, total, rate, remaining }
    }

    pub(super) fn percent(&self) -> i64 {
        self.share_of(100)
    }

    /// Returns so many parts of a whole as are done, rounded down.
    #[allow(clippy::cast_possible_truncation, reason = "it is not above the whole")]
    pub(super) fn share_of(&self, whole: i64) -> i64 {
        if self.total <= 0 {
            whole
        } else {
            (i128::from(self.done) * i128::from(whole) / i128::from(self.total)) as i64
        }
    }

    /// Returns the positions, the rate and the time that is left.
    #[allow(clippy::cast_possible_truncation, reason = "a number for people")]
    pub(super) fn counts(&self) -> String {
        let (done, total, rate) = (grouped(self.done), grouped(self.total), grouped((self.rate + 0.5).floor() as i64));
        let left = match self.remaining {
            _ if self.done >= self.total => "  done".to_owned(),
            Some(left) => format!("  {} left", length(left)),
            None => String::new(),
        };
        format!("{done} of {total}  {rate}/s{left}")
    }
}

/// Returns a number with a comma before each group of three digits.
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let parts = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    parts.collect::<Vec<_>>().join(",")
}

/// Returns a time in its largest units, rounded up to seconds.
fn length(time: Duration) -> String {
    match time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)) {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ ..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

impl fmt::Display for Progress {
    /// Shows it in a line: `45 %  4,500 of 10,000  1,234/s  4 s left`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %  {}", self.percent(), self.counts())
    }
}

/// The function that empties the tables of a projection.
type Reset<P> = Arc<
    dyn for<'t, 's> Fn(&'t mut <P as Transactions>::Transaction<'s>) -> BoxFuture<'t, Result<(), BoxError>>
        + Send
        + Sync,
>;

/// One of the rebuilds of [`ProjectionEngine::rebuild_all`], by [`ProjectionEngine::rebuild_of`].
pub struct Rebuild<P: Transactions + 'static> {
    name: String,
    reset: Reset<P>,
}

impl<P: Transactions + 'static> fmt::Debug for Rebuild<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rebuild").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Counts {
    processed: u64,
    /// How often the handler has failed.
    failures: u64,
    latency: Duration,
    is_paused: bool,
    failure: Option<String>,
    task: Option<Task>,
}

/// A projection that runs.
struct Task {
    stop: CancellationToken,
    /// Cancelled when it has ended.
    ended: CancellationToken,
}

impl Counts {
    fn is_running(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.ended.is_cancelled())
    }
}

enum Kind<P: Transactions + 'static> {
    Async(Handler<P>),
    Live(LiveHandler),
}

struct Projection<P: Transactions + 'static> {
    name: String,
    selection: Selection,
    kind: Kind<P>,
    counts: Mutex<Counts>,
}

impl<P: Transactions + 'static> Projection<P> {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }

    fn consumer(&self) -> String {
        format!("projection {}", self.name)
    }

    fn applied(&self, events: &[RecordedEvent]) {
        let now = super::source::now();
        let mut counts = self.counts();
        for event in events {
            counts.processed += 1;
            counts.latency += (now - event.recorded_at).to_std().unwrap_or_default();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Inner<P: Transactions + 'static> {
    outbox: Outbox,
    pool: P,
    store: EventStore,
    projections: Mutex<BTreeMap<String, Arc<Projection<P>>>>,
    failed: Notify,
}

/// Runs projections. `P` is the pool whose transactions their handlers get. It is cheap to clone, and a clone is the same engine.
///
/// ```no_run
/// # async fn example(outbox: pg_outbox::Outbox) -> pg_outbox::Result<()> {
/// use pg_outbox::events::{EventStore, ProjectionEngine, Selection};
/// let engine = ProjectionEngine::new(&outbox, outbox.clone(), EventStore::new());
/// engine.register("totals", Selection::all().types(["order.placed"]), |tx, events| {
///     Box::pin(async move {
///         for event in events {
///             let total = event.data["total"].as_i64();
///             tx.execute("update totals set sum = sum + $1", &[&total]).await?;
///         }
///         Ok(())
///     })
/// })?;
/// engine.run_until(pg_outbox::shutdown_signal()).await
/// # }
/// ```
pub struct ProjectionEngine<P: Transactions + 'static>(Arc<Inner<P>>);

impl<P: Transactions + 'static> Clone for ProjectionEngine<P> {
    fn clone(&self) -> Self {
        ProjectionEngine(self.0.clone())
    }
}

impl<P: Transactions + 'static> fmt::Debug for ProjectionEngine<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = lock(&self.0.projections).keys().cloned().collect();
        f.debug_struct("ProjectionEngine").field("projections", &names).finish_non_exhaustive()
    }
}

impl<P: Transactions + 'static> ProjectionEngine<P> {
    /// Creates an engine without projections. `outbox` reads the events, and `pool` begins the transactions.
    pub fn new(outbox: &Outbox, pool: P, store: EventStore) -> ProjectionEngine<P> {
        let (projections, failed) = (Mutex::default(), Notify::new());
        ProjectionEngine(Arc::new(Inner { outbox: outbox.clone(), pool, store, projections, failed }))
    }

    /// Registers an async projection. The handler gets a transaction and up to 100 events (see [`Selection::batch`]), and the
    /// cursor moves in the same transaction. An error or a panic of the handler is recorded with the cursor, and the events are
    /// applied again. [`ProjectionEngine::start`] starts it.
    ///
    /// # Errors
    /// 22023 if there is a projection of this name, or the selection is that of one member.
    pub fn register(
        &self,
        name: &str,
        selection: Selection,
        handler: impl for<'t, 's> Fn(&'t mut P::Transaction<'s>, &'t [RecordedEvent]) -> BoxFuture<'t, Result<(), BoxError>>
        + Send
        + Sync
        + 'static,
    ) -> Result<()> {
        selection.check_whole()?;
        self.add(name, selection, Kind::Async(Arc::new(handler)))
    }

    /// Registers a live projection, for example for a cache or a dashboard. The handler gets each event that is appended from the
    /// start on. Its errors and panics are logged, and the next event follows. Nothing ends it but a stop.
    ///
    /// # Errors
    /// 22023 if there is a projection of this name.
    pub fn live(
        &self,
        name: &str,
        selection: Selection,
        handler: impl Fn(RecordedEvent) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.add(name, selection, Kind::Live(Arc::new(handler)))
    }

    fn add(&self, name: &str, selection: Selection, kind: Kind<P>) -> Result<()> {
        let mut projections = lock(&self.0.projections);
        if projections.contains_key(name) {
            return Err(Error::invalid(format!("there are two projections \"{name}\"")));
        }
        let counts = Mutex::default();
        projections.insert(name.to_owned(), Arc::new(Projection { name: name.to_owned(), selection, kind, counts }));
        Ok(())
    }

    /// Stops a projection and forgets it. Its cursor stays.
    ///
    /// # Errors
    /// Kind not_found if there is no such projection.
    pub async fn unregister(&self, name: &str) -> Result<()> {
        let projection = self.find(name)?;
        lock(&self.0.projections).remove(name);
        stop(&projection).await;
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Arc<Projection<P>>> {
        let found = lock(&self.0.projections).get(name).cloned();
        found.ok_or_else(|| Error::new("OB001", format!("there is no projection \"{name}\"")))
    }

    /// Starts all projections that neither run nor are paused, in tasks of their own.
    pub fn start(&self) {
        let all: Vec<_> = lock(&self.0.projections).values().cloned().collect();
        for projection in all {
            self.start_one(&projection, false);
        }
    }

    /// Starts a projection unless it runs. The check and the start are one step.
    fn start_one(&self, projection: &Arc<Projection<P>>, resumes: bool) {
        let mut counts = projection.counts();
        if resumes {
            counts.is_paused = false;
        }
        if counts.is_paused || counts.is_running() {
            return;
        }
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let (inner, running) = (self.0.clone(), projection.clone());
        let (stopped, end) = (stop.clone(), ended.clone().drop_guard());
        tokio::spawn(async move {
            // The end is told when this task is dropped, too.
            let _end = end;
            tracing::info!(projection = running.name, "the projection starts");
            if let Err(error) = run(inner.clone(), running.clone(), stopped).await {
                tracing::error!(projection = running.name, error = described(&error), "the projection has ended");
                running.counts().failure = Some(described(&error));
                inner.failed.notify_one();
            }
        });
        counts.failure = None;
        counts.task = Some(Task { stop, ended });
    }

    /// Stops all projections. Batches that have begun are finished.
    pub async fn stop(&self) {
        self.cancel();
        let all: Vec<_> = lock(&self.0.projections).values().cloned().collect();
        for projection in &all {
            stop(projection).await;
        }
    }

    /// Tells all projections to stop, and does not wait.
    fn cancel(&self) {
        for projection in lock(&self.0.projections).values() {
            if let Some(task) = &projection.counts().task {
                task.stop.cancel();
            }
        }
    }

    fn failure(&self) -> Option<String> {
        lock(&self.0.projections).values().find_map(|projection| projection.counts().failure.clone())
    }

    /// Runs all projections until `shutdown` is ready, for example as a part of [`Workers`](crate::app::Workers::beside).
    ///
    /// # Errors
    /// The first error of a projection that retrying does not solve, such as a missing privilege. The others are stopped then.
    pub async fn run_until(&self, shutdown: impl Future<Output = ()>) -> Result<()> {
        // If this future is dropped, the projections stop as well.
        let _guard = StopOnDrop(self);
        self.start();
        let failed = async {
            loop {
                // A failure of an earlier run may have been told, which is none of this one.
                if let Some(error) = self.failure() {
                    return error;
                }
                self.0.failed.notified().await;
            }
        };
        let failed = tokio::select! {
            () = shutdown => None,
            error = failed => Some(error),
        };
        self.stop().await;
        match failed {
            Some(error) => Err(Error::new("OB015", "a projection has ended").detail(error)),
            None => Ok(()),
        }
    }

    /// Pauses a projection in this process. The batch that has begun is finished.
    ///
    /// # Errors
    /// Kind not_found if there is no such projection.
    pub async fn pause(&self, name: &str) -> Result<()> {
        let projection = self.find(name)?;
        projection.counts().is_paused = true;
        stop(&projection).await;
        Ok(())
    }

    /// Starts a projection that was paused, stopped, or has failed.
    ///
    /// # Errors
    /// Kind not_found if there is no such projection.
    pub fn resume(&self, name: &str) -> Result<()> {
        let projection = self.find(name)?;
        self.start_one(&projection, true);
        Ok(())
    }

    /// Returns the state of a projection.
    ///
    /// # Errors
    /// Kind not_found if there is no such projection. Those of the server.
    pub async fn status(&self, name: &str) -> Result<ProjectionStatus> {
        let projection = self.find(name)?;
        let is_live = matches!(projection.kind, Kind::Live(_));
        let cursor = if is_live { Value::Null } else { cursor(&self.0.outbox, &projection.consumer()).await? };
        let position = cursor["position"].as_i64().unwrap_or(0);
        let lag = if is_live { 0 } else { self.head().await?.saturating_sub(position).max(0) };
        let error = cursor["last_error"].as_str().map(str::to_owned);
        let counts = projection.counts();
        let is_running = counts.is_running();
        let state = match (&counts.failure, &error) {
            (Some(_), _) => ProjectionState::Failed,
            _ if counts.is_paused => ProjectionState::Paused,
            (None, Some(_)) => ProjectionState::Faulted,
            (None, None) if is_running => ProjectionState::Running,
            (None, None) => ProjectionState::Stopped,
        };
        let mean = counts.latency.as_secs_f64() / f64::from(u32::try_from(counts.processed.max(1)).unwrap_or(u32::MAX));
        Ok(ProjectionStatus {
            name: name.to_owned(),
            state,
            position,
            lag,
            processed: counts.processed,
            mean_latency: Duration::try_from_secs_f64(mean).unwrap_or_default(),
            error: counts.failure.clone().or(error),
            error_position: cursor["error_position"].as_i64(),
        })
    }

    async fn head(&self) -> Result<i64> {
        let rows = self.0.outbox.call("head", Value::Null, &[]).await?;
        Ok(rows.first().and_then(Value::as_i64).unwrap_or(0))
    }

    /// Rebuilds an async projection: the cursor goes back to where its selection begins, and `reset` empties its tables in the same
    /// transaction. Returns when the projection is where the feed ended at the call. `progress` is told each second. The
    /// projection may run meanwhile, here and in other processes; no event is applied twice.
    ///
    /// # Errors
    /// Kind not_found if there is no such projection, 22023 for a live one, OB015 if an event cannot be applied (the projection
    /// stands there), and the error of `reset`.
    pub async fn rebuild(
        &self,
        name: &str,
        reset: impl for<'t, 's> Fn(&'t mut P::Transaction<'s>) -> BoxFuture<'t, Result<(), BoxError>>,
        mut progress: impl FnMut(Progress),
    ) -> Result<()> {
        let projection = self.find(name)?;
        if matches!(projection.kind, Kind::Live(_)) {
            return Err(Error::invalid("a live projection has nothing to rebuild"));
        }
        let total = self.head().await?;
        let mut session = self.0.pool.take_session().await?;
        let mut tx = P::begin(&mut session).await?;
        // The cursor first: its lock waits for a batch that is being applied, and keeps others out until the tables are empty.
        let sql = "select \"position\"::text as r from outbox.cursor_reset($1, $2::int8, 'rebuild')";
        let begin = projection.selection.begins_after();
        P::column(&mut tx, Statement::new(sql, [text(projection.consumer()), text(begin)])).await?;
        caught(async { reset(&mut tx).await }).await.map_err(|error| {
            Error::new("OB015", "the reset of a projection failed").detail(described(error.as_ref()))
        })?;
        P::commit(tx).await?;
        drop(session);
        self.catch_up(&projection, total, &mut progress).await
    }

    /// Returns a rebuild for [`ProjectionEngine::rebuild_all`]. `reset` empties the tables of the projection.
    pub fn rebuild_of(
        &self,
        name: &str,
        reset: impl for<'t, 's> Fn(&'t mut P::Transaction<'s>) -> BoxFuture<'t, Result<(), BoxError>>
        + Send
        + Sync
        + 'static,
    ) -> Rebuild<P> {
        Rebuild { name: name.to_owned(), reset: Arc::new(reset) }
    }

    /// Rebuilds several projections as [`ProjectionEngine::rebuild`] does, so many at once. `progress` gets the name of the projection.
    /// A rebuild that fails does not end the others.
    ///
    /// # Errors
    /// The first error, with the name of its projection, after all have ended. The others are logged.
    pub async fn rebuild_all(
        &self,
        rebuilds: impl IntoIterator<Item = Rebuild<P>>,
        at_once: usize,
        progress: impl Fn(&str, Progress),
    ) -> Result<()> {
        let progress = &progress;
        let all = rebuilds.into_iter().map(|Rebuild { name, reset }| async move {
            let ended = self.rebuild(&name, |tx| reset(tx), |told| progress(&name, told)).await;
            ended.map_err(|error| {
                tracing::error!(projection = name, error = described(&error), "the projection is not rebuilt");
                let detail = error.details().detail.clone();
                error.detail(format!("Projection \"{name}\". {}", detail.unwrap_or_default()).trim().to_owned())
            })
        });
        let ended: Vec<Result<()>> = stream::iter(all).buffer_unordered(at_once.max(1)).collect().await;
        ended.into_iter().collect()
    }

    /// Applies the events that there are now, in this call, and returns how many this process has applied. For tests: the first error
    /// of the handler is returned. The role needs the capability `admin`.
    ///
    /// # Errors
    /// Kind not_found if there is no such projection, 22023 for a live one, OB015 if an event cannot be applied.
    pub async fn drain(&self, name: &str) -> Result<u64> {
        let projection = self.find(name)?;
        // Events get their positions by a tick.
        self.0.outbox.call("tick", Value::Null, &[]).await?;
        let before = projection.counts().processed;
        let head = self.head().await?;
        self.catch_up(&projection, head, &mut |_| {}).await?;
        let after = projection.counts().processed;
        Ok(after.saturating_sub(before))
    }

    /// Applies events up to a position. `progress` is told each second, and at the end.
    async fn catch_up(
        &self,
        projection: &Arc<Projection<P>>,
        end: i64,
        progress: &mut impl FnMut(Progress),
    ) -> Result<()> {
        if matches!(projection.kind, Kind::Live(_)) {
            return Err(Error::invalid("a live projection has no cursor"));
        }
        let (begin, failures) = (projection.selection.begins_after(), projection.counts().failures);
        // An instance that waits for new events does not see that the cursor went back, so this call applies the events itself. A
        // waiting instance goes on behind it; one that applies an event meanwhile is refused, and begins at the cursor.
        let stop = CancellationToken::new();
        // A task of its own, so that several rebuilds have several cores. It ends with this future.
        let mut running = AbortOnDropHandle::new(tokio::spawn(run(self.0.clone(), projection.clone(), stop.clone())));
        let begun = Instant::now();
        let watching = async {
            let mut told = None;
            loop {
                let state = cursor(&self.0.outbox, &projection.consumer()).await?;
                // Without a cursor yet, it is where the selection begins.
                let position = state["position"].as_i64().unwrap_or(0).max(begin);
                let (is_done, error) = (position >= end, state["last_error"].as_str());
                if is_done || told.is_none_or(|told: Instant| told.elapsed() >= Duration::from_secs(1)) {
                    told = Some(Instant::now());
                    progress(Progress::new(position - begin, end - begin, begun.elapsed()));
                }
                if is_done {
                    return Ok(());
                }
                // The error may be one of an earlier run, which this one may heal.
                if let Some(error) = error
                    && projection.counts().failures > failures
                {
                    let place = format!("Position {}: {error}", state["error_position"]);
                    return Err(Error::new("OB015", "an event cannot be applied").detail(place));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let watched = tokio::select! {
            // It ends with an error only, because nobody stops it before.
            ended = &mut running => return joined(ended),
            watched = watching => watched,
        };
        stop.cancel();
        // A batch that has begun is finished.
        joined(running.await)?;
        watched
    }
}

fn joined(ended: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.unwrap_or_else(|error| Err(Error::new("XX000", "a projection has ended").detail(error.to_string())))
}

struct StopOnDrop<'e, P: Transactions + 'static>(&'e ProjectionEngine<P>);

impl<P: Transactions + 'static> Drop for StopOnDrop<'_, P> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn stop<P: Transactions + 'static>(projection: &Projection<P>) {
    let ended = projection.counts().task.as_ref().map(|task| {
        task.stop.cancel();
        task.ended.clone()
    });
    if let Some(ended) = ended {
        ended.cancelled().await;
    }
}

/// Runs a handler of the application, whose panic becomes an error.
async fn caught(handled: impl Future<Output = Result<(), BoxError>>) -> Result<(), BoxError> {
    let caught = AssertUnwindSafe(handled).catch_unwind().await;
    caught.unwrap_or_else(|panic| {
        // A literal text has no values in it. Others may, for example that of unwrap().
        Err(match panic.downcast_ref::<&str>() {
            Some(text) => format!("the handler panicked: {text}").into(),
            None => "the handler panicked".into(),
        })
    })
}

async fn cursor(outbox: &Outbox, consumer: &str) -> Result<Value> {
    let rows = outbox.call("cursor_get", json!({"consumer": consumer, "if_missing": 0}), &[]).await?;
    Ok(rows.into_iter().next().unwrap_or(Value::Null))
}

/// Runs a projection. The future is boxed, so that it is proven to be `Send` here, where its types are known.
fn run<P: Transactions + 'static>(
    inner: Arc<Inner<P>>,
    projection: Arc<Projection<P>>,
    stop: CancellationToken,
) -> BoxFuture<'static, Result<()>> {
    match &projection.kind {
        Kind::Async(handler) => {
            let reader = projection.selection.reader(&inner.outbox, BATCH).consumer(projection.consumer());
            let (store, handler) = (inner.store.clone(), handler.clone());
            let step = Applied { pool: inner.pool.clone(), store, projection, handler };
            Box::pin(reader.run(stop.cancelled_owned(), step))
        }
        Kind::Live(handler) => {
            let handler = handler.clone();
            Box::pin(async move {
                tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    ended = live(inner, projection, handler) => ended,
                }
            })
        }
    }
}

async fn live<P: Transactions + 'static>(
    inner: Arc<Inner<P>>,
    projection: Arc<Projection<P>>,
    handler: LiveHandler,
) -> Result<()> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        tracing::error!(projection = projection.name, error = described(error), "a live projection failed");
    };
    let mut backoff = Backoff::default();
    let mut subscription = None;
    loop {
        let events = match &mut subscription {
            Some(events) => events,
            None => match inner.outbox.call("head", Value::Null, &[]).await {
                Ok(head) => {
                    let head = head.first().and_then(Value::as_i64).unwrap_or(0);
                    let selection = projection.selection.clone().after(head);
                    subscription.insert(inner.store.subscribe(&inner.outbox, selection))
                }
                Err(error) => {
                    failed(&error);
                    tokio::time::sleep(backoff.next()).await;
                    continue;
                }
            },
        };
        match events.next().await {
            Ok(event) => {
                backoff.reset();
                projection.applied(std::slice::from_ref(&event));
                if let Err(error) = caught(async { handler(event).await }).await {
                    failed(error.as_ref());
                }
            }
            Err(error) => {
                failed(&error);
                // An event that cannot be decoded is passed over. Another error is one of reading.
                if !events.skip() {
                    if error.code() == "OB009" {
                        // The position is no longer stored, or in a history that was lost.
                        subscription = None;
                    }
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }
}

/// The effect of events in a projection.
struct Applied<P: Transactions + 'static> {
    pool: P,
    store: EventStore,
    projection: Arc<Projection<P>>,
    handler: Handler<P>,
}

impl<P: Transactions + 'static> Step for Applied<P> {
    // The future is boxed, so that it is proven to be `Send` here.
    fn step<'a>(
        &'a mut self,
        reader: &'a mut Reader,
        messages: &'a [Message],
    ) -> impl Future<Output = Result<(), Stopped>> {
        let step: BoxFuture<'a, Result<(), Stopped>> = Box::pin(async move {
            let mut session = self.pool.take_session().await.map_err(later)?;
            let mut tx = P::begin(&mut session).await.map_err(later)?;
            advance_first::<P>(reader, &mut tx, messages).await?;
            let events = self.apply(&mut tx, messages).await.map_err(stopped).inspect_err(|error| {
                if matches!(error, Stopped::Effect(_)) {
                    self.projection.counts().failures += 1;
                }
            })?;
            finish::<P>(reader, tx, messages).await?;
            self.projection.applied(&events);
            Ok(())
        });
        step
    }
}

impl<P: Transactions + 'static> Applied<P> {
    async fn apply(&self, tx: &mut P::Transaction<'_>, messages: &[Message]) -> Result<Vec<RecordedEvent>, BoxError> {
        let mut events = messages.iter().map(RecordedEvent::from_message).collect::<Result<Vec<_>, _>>()?;
        events.retain(|event| self.projection.selection.takes(event));
        if !events.is_empty() {
            self.store.decode(&mut Connection::new(&mut InTransaction::<P>(tx)), &mut events).await?;
            caught(async { (self.handler)(tx, &events).await }).await?;
        }
        Ok(events)
    }
}

/// Sorts the error of a handler. A conflict of versions, a deadlock and a lost connection pass: nothing is wrong with the event.
fn stopped(error: BoxError) -> Stopped {
    let ours = match error.downcast::<Error>() {
        Ok(ours) => *ours,
        Err(error) => match of_driver(error) {
            Ok(ours) => ours,
            Err(error) => return Stopped::Effect(described(error.as_ref())),
        },
    };
    match Fault::is_worth_a_retry(&ours) || passes(&ours) {
        true => Stopped::Stale(ours),
        false => Stopped::Effect(described(&ours)),
    }
}

/// Returns the error of a driver as one of this crate.
fn of_driver(error: BoxError) -> Result<Error, BoxError> {
    let error = match error.downcast::<tokio_postgres::Error>() {
        Ok(error) => return Ok((*error).into()),
        Err(error) => error,
    };
    #[cfg(feature = "sqlx")]
    let error = match error.downcast::<sqlx::Error>() {
        Ok(error) => return Ok((*error).into()),
        Err(error) => error,
    };
    #[cfg(feature = "diesel-async")]
    let error = match error.downcast::<diesel::result::Error>() {
        Ok(error) => return Ok((*error).into()),
        Err(error) => error,
    };
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_a_line() {
        let line = |done, total, seconds| Progress::new(done, total, Duration::from_secs(seconds)).to_string();
        assert_eq!(line(4500, 10_000, 3), "45 %  4,500 of 10,000  1,500/s  4 s left");
        assert_eq!(line(0, 10_000, 3), "0 %  0 of 10,000  0/s");
        assert_eq!(line(12_000, 10_000, 5), "100 %  10,000 of 10,000  2,000/s  done");
        // The selection may begin behind the end of the feed.
        assert_eq!(line(-3, -3, 1), "100 %  0 of 0  0/s  done");
    }
}
