//! One relay: reads, sends, waits for the acknowledgement, and then moves the cursor.
//!
//! - The cursor is moved only to positions up to which the broker has stored everything.
//! - While the messages of one page are sent, the next page is read and made into records, and the cursor is moved behind.
//! - Sending waits for the cursor when it is a batch behind. So a relay that is killed repeats less than two batches, and one
//!   that was replaced, or whose primary hangs, does not go on for long.
//! - After a failure nothing is sent until the broker was opened again; then sending continues from the cursor, or after the
//!   last record that the broker says it has.
//! - A message that the broker will never take ends the batch before it. The broker is asked for its limits again. Nothing
//!   after the message is sent until it has been skipped or dead-lettered, or until an operator has moved the cursor.
//! - The last record of the broker counts only if the feed has this message at this place: another program may write there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outbox_core::message::Message;
use pg_outbox::error::{Error, Kind, Result};
use pg_outbox::tokio_postgres::types::{ToSql, Type};
use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::config::{OnRefused, RelayConfig, SourceConfig};
use crate::log;
use crate::record::{Layout, Record};
use crate::sink::{self, Failure, Opened, Sent, Sink};
use crate::source::{Active, Place, Session, Source};
use crate::template::Template;

/// The pause between attempts of a stand-by to take over.
const STAND_BY: Duration = Duration::from_secs(1);

/// A relay that has not been started.
#[derive(Debug)]
pub(crate) struct Relay {
    settings: RelayConfig,
    source: Source,
    template: Template,
    sink: Box<dyn Sink>,
    once: bool,
    /// The end of the feed when a relay with `--once` began.
    until: Option<i64>,
    shared: Arc<Shared>,
}

/// The state that the heartbeat tells.
#[derive(Debug, Default)]
struct Shared {
    status: Mutex<Status>,
    /// Wakes the heartbeat when the state has changed.
    changed: Notify,
}

#[derive(Clone, Debug, Default)]
struct Status {
    state: &'static str,
    place: Place,
    relayed: i64,
    skipped: i64,
    error: Option<String>,
}

/// Why a relay does not go on in the same session.
enum End {
    /// A signal arrived, or everything was relayed (`--once`).
    Ended,
    /// Another instance is active.
    StandBy,
    /// The relay was to stop at once when a message was refused (`--once`).
    Stopped,
}

/// Why sending does not go on.
enum Pause {
    Ended,
    /// The broker is asked for its limits again.
    Recheck,
    /// The broker failed and has to be opened again.
    Reopen(String),
    /// An operator has to decide.
    Stop(String),
}

/// The longest time that messages wait until they are sent. Content that is erased meanwhile would still be sent.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A message of a page.
enum Made {
    Record(Record),
    /// The broker has the message with this id already.
    Has(Place, String),
    /// The message at this position cannot be sent, and why.
    Refused(i64, String),
}

/// The messages of a read.
struct Page {
    made: VecDeque<Made>,
    /// The last message.
    last: Option<Place>,
    /// The position up to which the feed has been looked at.
    looked_at: i64,
    read_at: Instant,
}

/// Reads pages and makes their records.
struct Reader {
    active: Arc<Active>,
    layout: Layout,
    template: Template,
    /// The broker has the messages up to this one.
    has: Place,
    until: Option<i64>,
}

/// A page that is read while others are sent. Dropping it ends the read.
struct Ahead(JoinHandle<Result<Page>>);

/// Moves the cursor behind the broker. One move is under way at a time. Moves that become due meanwhile become one.
struct Mover {
    active: Arc<Active>,
    /// Where the cursor stands.
    confirmed: i64,
    /// The number of positions by which the cursor may be behind.
    most_behind: i64,
    due: Option<Due>,
    under_way: Option<JoinHandle<Result<i64>>>,
}

/// The messages that are sent together, up to the first that cannot be sent.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    /// The position and id of the last message before the refused one, sent or skipped because the broker has it.
    last: Option<(Place, String)>,
    /// The position of the message that cannot be sent, and why.
    refused: Option<(i64, String)>,
}

/// A move of the cursor that is due.
struct Due {
    place: Place,
    id: String,
}

impl Batch {
    /// Returns the last message that the broker has after this result. Records that are stored are confirmed in any case.
    fn stored(&self, sent: &Sent) -> Option<(Place, String)> {
        if sent.failure.is_none() {
            return self.last.clone();
        }
        let record = self.records.get(sent.stored.checked_sub(1)?)?;
        Some((record.place(), record.webhook_id.clone()))
    }
}

impl Reader {
    async fn read(&self, at: Place) -> Result<Page> {
        let mut read = self.active.read(at).await?;
        if let Some(until) = self.until {
            read.end_at(until);
        }
        let last = read.messages.last().map(|(message, epoch)| Place { epoch: *epoch, position: message.position });
        let made = read.messages.into_iter().map(|(message, epoch)| self.make(&message, epoch)).collect();
        Ok(Page { made, last, looked_at: read.looked_at, read_at: Instant::now() })
    }

    fn make(&self, message: &Message, epoch: i32) -> Made {
        let place = Place { epoch, position: message.position };
        if place <= self.has {
            return Made::Has(place, message.webhook_id.to_string());
        }
        match self.template.fill(message).and_then(|topic| self.layout.record(message, epoch, topic)) {
            Ok(record) => Made::Record(record),
            Err(why) => Made::Refused(message.position, why),
        }
    }
}

impl Ahead {
    fn start(reader: &Arc<Reader>, at: Place) -> Ahead {
        let reader = reader.clone();
        Ahead(tokio::spawn(async move { reader.read(at).await }))
    }

    async fn page(mut self) -> Result<Page> {
        (&mut self.0).await.map_err(|error| Error::connection(error.to_string()))?
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Mover {
    /// Begins the move that is due, unless one is under way. Waits for one that is under way if the cursor is a batch behind.
    async fn begin(&mut self) -> Result<()> {
        let is_behind = self.due.as_ref().is_some_and(|due| due.place.position - self.confirmed >= self.most_behind);
        if !is_behind && self.under_way.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        self.wait().await?;
        if let Some(due) = self.due.take() {
            let (active, confirmed) = (self.active.clone(), self.confirmed);
            self.under_way = Some(tokio::spawn(async move { move_to(&active, confirmed, due).await }));
        }
        Ok(())
    }

    /// Makes all moves.
    async fn settle(&mut self) -> Result<()> {
        self.wait().await?;
        if let Some(due) = self.due.take() {
            self.confirmed = move_to(&self.active, self.confirmed, due).await?;
        }
        Ok(())
    }

    /// Waits for the move that is under way.
    async fn wait(&mut self) -> Result<()> {
        if let Some(task) = &mut self.under_way {
            let moved = task.await.map_err(|error| Error::connection(error.to_string()));
            self.under_way = None;
            self.confirmed = moved??;
        }
        Ok(())
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        if let Some(task) = &self.under_way {
            task.abort();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state. The heartbeat tells it at once.
    fn set(&self, state: &'static str, error: Option<String>) {
        let mut status = self.lock();
        if status.state != state || error.is_some() {
            status.state = state;
            if error.is_some() {
                status.error = error;
            }
            self.changed.notify_one();
        }
    }
}

impl Relay {
    pub(crate) fn new(source: &SourceConfig, settings: RelayConfig, once: bool) -> Result<Relay> {
        Ok(Relay {
            source: Source::new(source, &settings)?,
            template: settings.template()?,
            sink: sink::make(&settings)?,
            once,
            until: None,
            shared: Arc::default(),
            settings,
        })
    }

    /// Runs until a signal arrives, and returns the exit code.
    pub(crate) async fn run(mut self, mut ended: watch::Receiver<bool>) -> u8 {
        let mut backoff = Backoff::default();
        let mut standing_by: Option<Instant> = None;
        while !*ended.borrow() {
            let begun = Instant::now();
            let result = self.activate(&mut ended).await;
            if begun.elapsed() > Duration::from_secs(60) {
                backoff.reset();
            }
            let wait = match result {
                Ok(End::Ended) => return 0,
                Ok(End::Stopped) => return 4,
                Ok(End::StandBy) => {
                    let since = *standing_by.get_or_insert_with(|| {
                        self.log("info", "standing by: another instance is active", json!({}));
                        Instant::now()
                    });
                    // The session of an instance that was killed or cut off has been ended by then.
                    if self.once && since.elapsed() > self.settings.heartbeat() * 3 + STAND_BY {
                        self.log("error", "nothing was relayed: another instance is active", json!({}));
                        return 5;
                    }
                    STAND_BY
                }
                Err(error) if matches!(error.kind(), Kind::Retry | Kind::Conflict) => {
                    self.log("warning", &error.to_string(), json!({"code": error.code()}));
                    standing_by = None;
                    backoff.next()
                }
                Err(error) => {
                    let d = error.details();
                    self.log("error", &d.message, json!({"code": d.code, "detail": d.detail, "hint": d.hint}));
                    return crate::exit_code(&error);
                }
            };
            pause(wait, &mut ended).await;
        }
        0
    }

    fn log(&self, level: &str, message: &str, fields: serde_json::Value) {
        log::line(level, &self.settings.name, message, fields);
    }

    /// Gets the lock and relays until something ends this.
    async fn activate(&mut self, ended: &mut watch::Receiver<bool>) -> Result<End> {
        let Some(active) = self.source.acquire().await?.map(Arc::new) else { return Ok(End::StandBy) };
        let layout = Layout {
            format: self.settings.format,
            binding: self.sink.binding(),
            source: self.source.name(&active).await?,
            relay: self.settings.name.clone(),
        };
        self.log("info", "active", json!({"sink": self.sink.describe(), "source": layout.source}));
        // The first heartbeat shows whether the role may write it.
        heartbeat(&active, &self.settings, &self.sink.describe(), &self.shared, 0.0).await?;
        let beat = Heartbeat::start(&active, &self.settings, self.sink.describe(), self.shared.clone());
        let result = self.relay(&active, &layout, ended).await;
        drop(beat);
        if let Ok(End::Ended) = &result {
            self.shared.set("ended", None);
            heartbeat(&active, &self.settings, &self.sink.describe(), &self.shared, 0.0).await?;
            self.log("info", "ended", json!({"position": self.shared.lock().place.position}));
        }
        result
    }

    async fn relay(&mut self, active: &Arc<Active>, layout: &Layout, ended: &mut watch::Receiver<bool>) -> Result<End> {
        if self.once && self.until.is_none() {
            self.until = Some(active.head().await?);
        }
        self.shared.lock().place = self.source.cursor(active).await?.place();
        let mut backoff = Backoff::default();
        loop {
            let before = self.shared.lock().relayed;
            let paused = match self.attempt(active, layout, ended).await {
                // The position is no longer stored, or history was lost.
                Err(error) if error.code() == "OB009" => Pause::Stop(error.report()),
                other => other?,
            };
            if self.shared.lock().relayed > before {
                backoff.reset();
            }
            match paused {
                Pause::Ended => return Ok(End::Ended),
                Pause::Recheck => {}
                Pause::Reopen(why) => {
                    let why = bounded(&why);
                    self.log("warning", "the broker failed", json!({"error": why}));
                    self.shared.set("retrying", Some(why));
                    pause(backoff.next(), ended).await;
                }
                Pause::Stop(why) => {
                    let (at, why) = (self.shared.lock().place.position, bounded(&why));
                    self.log("error", "stopped", json!({"after_position": at, "error": why}));
                    self.shared.set("stopped", Some(why));
                    if self.once {
                        heartbeat(active, &self.settings, &self.sink.describe(), &self.shared, 0.0).await?;
                        return Ok(End::Stopped);
                    }
                    let stopped_at = active.cursor().await?;
                    loop {
                        pause(Duration::from_secs(1), ended).await;
                        if *ended.borrow() {
                            // The row keeps the state "stopped": ending the program solves nothing.
                            return Ok(End::Stopped);
                        }
                        if active.cursor().await? != stopped_at {
                            break;
                        }
                    }
                    self.log("info", "the cursor was moved: going on", json!({}));
                }
            }
        }
    }

    /// Opens the broker, finds out where to continue, and relays from there.
    async fn attempt(
        &mut self,
        active: &Arc<Active>,
        layout: &Layout,
        ended: &mut watch::Receiver<bool>,
    ) -> Result<Pause> {
        let Some(opened) = self.open_sink(active, layout, ended).await? else { return Ok(Pause::Ended) };
        // An operator may have moved the cursor while the broker could not be opened.
        let cursor = self.source.cursor(active).await?;
        let at = cursor.place();
        self.shared.lock().place = at;
        self.sink.resume(cursor.own && at.position > 0);
        let mut has = Place::default();
        if let Some(last) = opened.last {
            if last.source != layout.source {
                return Ok(Pause::Stop(format!(
                    "the broker has messages of the source \"{}\", and this is \"{}\"",
                    last.source, layout.source
                )));
            }
            // After an operator has moved the cursor, everything is sent again, whatever the broker has.
            if cursor.own && last.relay == self.settings.name && last.place > at {
                if !active.has(last.place, &last.id).await? {
                    return Ok(Pause::Stop(format!(
                        "the broker's last message has the marks of position {}, and the feed has another message there",
                        last.place.position
                    )));
                }
                has = last.place;
                let places = json!({"cursor": at.position, "broker": has.position});
                self.log("info", "the broker is ahead of the cursor", places);
            }
        }
        self.pump(active, layout, at, has, opened.limit, ended).await
    }

    /// Opens the broker, for as long as it takes. `None`: a signal arrived.
    async fn open_sink(
        &mut self,
        active: &Active,
        layout: &Layout,
        ended: &mut watch::Receiver<bool>,
    ) -> Result<Option<Opened>> {
        let mut backoff = Backoff::default();
        loop {
            let opened = tokio::select! {
                opened = self.sink.open() => opened,
                _ = ended.wait_for(|ended| *ended) => return Ok(None),
            };
            match opened {
                Ok(opened) => {
                    self.log("info", "the broker is open", json!({"source": layout.source, "limit": opened.limit}));
                    return Ok(Some(opened));
                }
                Err(why) => {
                    let why = bounded(&why);
                    self.log("warning", "the broker cannot be opened", json!({"error": why}));
                    self.shared.set("retrying", Some(why));
                }
            }
            pause(backoff.next(), ended).await;
            if *ended.borrow() {
                return Ok(None);
            }
            if !active.is_open() {
                return Err(Error::connection("the session with the lock was lost"));
            }
        }
    }

    /// Relays what comes after `at`. The broker has the messages up to `has`.
    async fn pump(
        &mut self,
        active: &Arc<Active>,
        layout: &Layout,
        mut at: Place,
        has: Place,
        limit: usize,
        ended: &mut watch::Receiver<bool>,
    ) -> Result<Pause> {
        let reader = Arc::new(Reader {
            active: active.clone(),
            layout: layout.clone(),
            template: self.template.clone(),
            has,
            until: self.until,
        });
        let most_behind = i64::from(self.settings.batch);
        let mut mover =
            Mover { active: active.clone(), confirmed: at.position, most_behind, due: None, under_way: None };
        // The messages that were read and not sent, and the page after them.
        let mut ready = VecDeque::new();
        let mut read_at = Instant::now();
        let mut ahead: Option<Ahead> = None;
        let mut idle = Duration::from_millis(1);
        let mut looked = Instant::now();
        // Whether the broker has just told its limits.
        let mut is_fresh = true;
        loop {
            if *ended.borrow() {
                mover.settle().await?;
                self.shared.lock().place.position = mover.confirmed;
                return Ok(Pause::Ended);
            }
            if read_at.elapsed() > LONGEST_WAIT {
                ready.clear();
                ahead = None;
            }
            if ready.is_empty() {
                let page = match ahead.take() {
                    Some(ahead) => ahead.page().await,
                    None => reader.read(at).await,
                };
                let page = match page {
                    Ok(page) => page,
                    Err(error) => {
                        // A failed read is no reason to send again what the broker has.
                        mover.settle().await?;
                        return Err(error);
                    }
                };
                ready = page.made;
                read_at = page.read_at;
                ahead = page.last.map(|last| Ahead::start(&reader, last));
                if ready.is_empty() {
                    self.shared.set("running", None);
                    mover.begin().await?;
                    // Messages that are not for this relay must not look like a lag.
                    let far = page.looked_at - at.position;
                    let finished = self.until.is_some_and(|until| page.looked_at >= until);
                    let is_far = far >= 1000 || far > 0 && looked.elapsed() >= self.settings.heartbeat();
                    let is_due = is_far || finished;
                    if is_due {
                        mover.settle().await?;
                    }
                    if is_due && far > 0 {
                        let id = format!("looked:{}", page.looked_at);
                        let (from, epoch) = (Some(mover.confirmed), at.known_epoch());
                        let epoch = active.advance(from, page.looked_at, epoch, &id).await?;
                        at = Place { epoch: epoch.unwrap_or_default(), position: page.looked_at };
                        mover.confirmed = page.looked_at;
                        self.shared.lock().place = at;
                        looked = Instant::now();
                    }
                    if finished {
                        return Ok(Pause::Ended);
                    }
                    pause(idle, ended).await;
                    idle = (idle * 2).min(self.settings.poll());
                    continue;
                }
            }
            idle = Duration::from_millis(1);
            let batch = self.take(&mut ready);
            let sent = sink::send(&mut *self.sink, &batch.records).await;
            if let Some((place, id)) = batch.stored(&sent) {
                at = place;
                mover.due = Some(Due { place, id });
                let mut status = self.shared.lock();
                status.relayed += i64::try_from(sent.stored).unwrap_or(i64::MAX);
                status.place = place;
            }
            let (position, why) = match (sent.failure, batch.refused) {
                (None, None) => {
                    self.shared.set("running", None);
                    mover.begin().await?;
                    is_fresh = false;
                    continue;
                }
                // The refusal may follow a limit that has changed since.
                (None, Some(_)) if !is_fresh => {
                    mover.settle().await?;
                    return Ok(Pause::Recheck);
                }
                (None, Some(refused)) => refused,
                (Some(Failure::Retry(why)), _) => {
                    mover.settle().await?;
                    return Ok(Pause::Reopen(why));
                }
                (Some(Failure::Refused(why)), _) => match batch.records.get(sent.stored) {
                    Some(record) => (record.position, why),
                    None => return Ok(Pause::Reopen(why)),
                },
            };
            mover.settle().await?;
            // The messages after the refused one are read again.
            ready.clear();
            ahead = None;
            // The message is read again, because the page has its record only.
            let mut again = active.read(at).await?.messages.into_iter();
            let Some((message, epoch)) = again.find(|(message, _)| message.position == position) else {
                return Ok(Pause::Reopen(why));
            };
            let place = Place { epoch, position };
            if let Some(paused) = self.refuse(active, layout, opened_limit(limit), &message, place, &why).await? {
                return Ok(paused);
            }
            is_fresh = false;
            at = place;
            mover.due = Some(Due { place, id: message.webhook_id.to_string() });
            self.shared.lock().place = place;
            mover.begin().await?;
        }
    }

    /// Takes the messages that are sent next, up to the first that the broker will never take.
    fn take(&self, ready: &mut VecDeque<Made>) -> Batch {
        let mut batch = Batch::default();
        let most = usize::try_from(self.settings.batch).unwrap_or(1);
        while batch.records.len() < most
            && let Some(made) = ready.pop_front()
        {
            match made {
                Made::Has(place, id) => batch.last = Some((place, id)),
                Made::Record(record) => match self.sink.refuses(&record) {
                    None => {
                        batch.last = None;
                        batch.records.push(record);
                    }
                    Some(why) => batch.refused = Some((record.position, why)),
                },
                Made::Refused(position, why) => batch.refused = Some((position, why)),
            }
            if batch.refused.is_some() {
                break;
            }
        }
        if batch.last.is_none() {
            batch.last = batch.records.last().map(|record| (record.place(), record.webhook_id.clone()));
        }
        batch
    }

    /// Does what the configuration says with a message that the broker will never take.
    async fn refuse(
        &mut self,
        active: &Active,
        layout: &Layout,
        limit: usize,
        message: &Message,
        place: Place,
        why: &str,
    ) -> Result<Option<Pause>> {
        let why = &bounded(why);
        let action = match self.settings.on_refused {
            OnRefused::Stop => {
                return Ok(Some(Pause::Stop(format!("{} at position {}: {why}", message.webhook_id, place.position))));
            }
            OnRefused::Skip => "skip",
            OnRefused::DeadLetter => {
                let topic = self.settings.dead_letter_topic.clone().unwrap_or_default();
                let mut record = match layout.record(message, place.epoch, topic.clone()) {
                    Ok(record) => record.dead_letter(&topic, why, limit),
                    Err(why) => return Ok(Some(Pause::Stop(why))),
                };
                loop {
                    let refused = match self.sink.refuses(&record) {
                        Some(why) => why,
                        None => match self.sink.send(std::slice::from_ref(&record)).await.failure {
                            None => break "dead-letter",
                            Some(Failure::Retry(why)) => return Ok(Some(Pause::Reopen(why))),
                            Some(Failure::Refused(why)) => why,
                        },
                    };
                    if record.body.is_empty() {
                        return Ok(Some(Pause::Stop(format!("the dead letter is refused, too: {refused}"))));
                    }
                    // The limit of its topic may be smaller than the broker's.
                    record.body = bytes::Bytes::new();
                }
            }
        };
        active.record_refusal(&self.settings.name, message, action, why).await?;
        self.log(
            "warning",
            action,
            json!({"position": place.position, "webhook_id": message.webhook_id, "error": why}),
        );
        self.shared.lock().skipped += 1;
        Ok(None)
    }
}

/// Leaves room for the headers that a broker's client adds.
fn opened_limit(limit: usize) -> usize {
    limit.saturating_sub(512)
}

/// The largest number of characters of an error's text.
const MAX_ERROR: usize = 2000;

/// Returns an error's text, which may be of a broker, as it can be stored and shown.
fn bounded(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ERROR).collect()
}

/// Moves the cursor, and returns where it stands.
async fn move_to(active: &Active, confirmed: i64, due: Due) -> Result<i64> {
    active.advance(Some(confirmed), due.place.position, due.place.known_epoch(), &due.id).await?;
    Ok(due.place.position)
}

/// Waits, unless a signal arrives.
async fn pause(time: Duration, ended: &mut watch::Receiver<bool>) {
    tokio::select! {
        () = sleep(time) => {}
        _ = ended.wait_for(|ended| *ended) => {}
    }
}

/// The task that writes the relay's row. Dropping it ends the task.
struct Heartbeat(tokio::task::JoinHandle<()>);

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Heartbeat {
    fn start(active: &Active, settings: &RelayConfig, sink: String, shared: Arc<Shared>) -> Heartbeat {
        let (session, settings) = (active.session.clone(), settings.clone());
        Heartbeat(tokio::spawn(async move {
            let mut before = (Instant::now(), shared.lock().relayed);
            loop {
                tokio::select! {
                    () = sleep(settings.heartbeat()) => {}
                    () = shared.changed.notified() => {}
                }
                let now = (Instant::now(), shared.lock().relayed);
                let rate = (now.1 - before.1) as f64 / (now.0 - before.0).as_secs_f64().max(0.001);
                // The main task notices that the session is lost.
                if write(&session, &settings, &sink, &shared, rate).await.is_err() && session.is_closed() {
                    return;
                }
                before = now;
            }
        }))
    }
}

async fn heartbeat(active: &Active, settings: &RelayConfig, sink: &str, shared: &Shared, rate: f64) -> Result<()> {
    write(&active.session, settings, sink, shared, rate).await
}

async fn write(session: &Session, settings: &RelayConfig, sink: &str, shared: &Shared, rate: f64) -> Result<()> {
    let status = shared.lock().clone();
    let state = if status.state.is_empty() { "running" } else { status.state };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let instance = format!("{}/{}", host.trim_end(), std::process::id());
    let interval = format!("{} seconds", settings.heartbeat().as_secs());
    let params: [(&(dyn ToSql + Sync), Type); 12] = [
        (&settings.name, Type::TEXT),
        (&settings.consumer(), Type::TEXT),
        (&sink, Type::TEXT),
        (&instance, Type::TEXT),
        (&state, Type::TEXT),
        (&status.place.position, Type::INT8),
        (&interval, Type::TEXT),
        (&status.place.known_epoch(), Type::INT4),
        (&status.relayed, Type::INT8),
        (&status.skipped, Type::INT8),
        (&rate, Type::FLOAT8),
        (&status.error, Type::TEXT),
    ];
    session
        .query(
            "select 1 from outbox.relay_heartbeat($1, $2, $3, $4, $5, $6, $7::interval, $8, $9, $10, $11, $12)",
            &params,
        )
        .await?;
    let mut now = shared.lock();
    if now.error == status.error {
        now.error = None;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_error_can_be_stored() {
        assert_eq!(bounded("a\0b\nc"), "a b c");
        assert_eq!(bounded(&"ä".repeat(5000)).chars().count(), MAX_ERROR);
    }
}
