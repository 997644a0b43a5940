//! Periodic messages: each tick of a cron expression enqueues one message.
//!
//! Every process of the application enqueues the message of a tick, with the same idempotency key, so the message exists
//! once. A tick that was missed is made up for, for ten minutes, which bridges a deployment. Older ones are passed over, also after
//! a sleep of the machine. A tick whose message cannot be enqueued is logged and counted, and ends nothing, because the next tick may
//! succeed.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use outbox_core::cron::{CATCH_UP, Cron, tick_key};
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::message::{Message, NewMessage};
use crate::outbox::{Backoff, Outbox, passes};
use crate::worker::{Report, panic_text};

/// The ticks of an expression, each at its time.
struct Ticks<'c, N> {
    name: &'c str,
    cron: &'c Cron,
    now: N,
    last: Option<DateTime<Utc>>,
}

impl<N: Fn() -> DateTime<Utc>> Ticks<'_, N> {
    /// Waits for the next tick, which may be one that was just missed. `None`: the expression has no further one.
    async fn next(&mut self) -> Option<DateTime<Utc>> {
        let now = (self.now)();
        let mut due = match self.last {
            None => self.cron.missed(now, CATCH_UP).or_else(|| self.cron.next(now)),
            Some(last) => self.cron.next(last.max(now - CATCH_UP)),
        }?;
        loop {
            // A clock that is set is noticed, because the wait is divided.
            while let Ok(wait) = (due - (self.now)()).to_std() {
                sleep(wait.min(Duration::from_secs(60))).await;
            }
            // A machine that has slept wakes up long after the tick, whose message nobody expects any more.
            let oldest = (self.now)() - CATCH_UP;
            if due >= oldest {
                self.last = Some(due);
                return self.last;
            }
            tracing::warn!(name = self.name, from = %due, "ticks of a periodic message are missed");
            due = self.cron.next(oldest)?;
        }
    }
}

type Make = Arc<dyn Fn(DateTime<Utc>, NewMessage) -> Result<NewMessage> + Send + Sync>;

/// A message that is enqueued at the times of a cron expression.
#[derive(Clone)]
pub struct Periodic {
    name: String,
    expression: String,
    topic: String,
    zone: Option<String>,
    make: Make,
}

impl std::fmt::Debug for Periodic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Periodic")
            .field("name", &self.name)
            .field("expression", &self.expression)
            .finish_non_exhaustive()
    }
}

impl Periodic {
    /// Enqueues a message to `topic` at the times of `expression`: five fields (minute, hour, day of the month, month, day
    /// of the week), in UTC. The payload is `{"tick": "2026-11-29T03:00:00Z"}`.
    pub fn new(expression: impl Into<String>, topic: impl Into<String>) -> Periodic {
        let topic = topic.into();
        let make: Make =
            Arc::new(|tick, message| message.json(&json!({"tick": tick.to_rfc3339_opts(SecondsFormat::Secs, true)})));
        Periodic { name: topic.clone(), expression: expression.into(), topic, zone: None, make }
    }

    /// Sets the time zone of the expression, by its name in the IANA database, for example `Europe/Berlin`.
    #[must_use]
    pub fn time_zone(mut self, zone: impl Into<String>) -> Periodic {
        self.zone = Some(zone.into());
        self
    }

    /// Sets the name in the idempotency key. The default is the topic. Two expressions of one topic need two names.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Periodic {
        self.name = name.into();
        self
    }

    /// Completes the message of a tick. All processes have to make the same message: of two that differ, the first counts.
    /// An error or a panic of the function fails this tick.
    #[must_use]
    pub fn message(
        mut self,
        make: impl Fn(DateTime<Utc>, NewMessage) -> Result<NewMessage> + Send + Sync + 'static,
    ) -> Periodic {
        self.make = Arc::new(make);
        self
    }

    /// Returns the task that enqueues the message at each tick.
    ///
    /// # Errors
    /// 22023 for a malformed expression or time zone.
    pub(super) fn start(
        self,
        outbox: Outbox,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = (String, Report)> + Send + 'static> {
        let cron = Cron::parse(&self.expression, self.zone.as_deref())?;
        Ok(async move {
            let mut report = Report::default();
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.run(&cron, &outbox, &mut report) => {}
            }
            (format!("periodic {}", self.name), report)
        })
    }

    /// Enqueues the message at each tick. Ends if the expression has no further tick.
    async fn run(&self, cron: &Cron, outbox: &Outbox, report: &mut Report) {
        let mut ticks = Ticks { name: &self.name, cron, now: Utc::now, last: None };
        while let Some(due) = ticks.next().await {
            match self.enqueue(outbox, due).await {
                Ok(()) => report.completed += 1,
                Err(error) => {
                    report.failed += 1;
                    tracing::error!(
                        name = self.name, tick = %due, failed = report.failed, error = error.report(),
                        "a periodic message could not be enqueued, and its tick is passed over"
                    );
                }
            }
        }
    }

    /// Makes the message of a tick.
    fn message_of(&self, tick: DateTime<Utc>) -> Result<NewMessage> {
        let made = catch_unwind(AssertUnwindSafe(|| (self.make)(tick, Message::to(&self.topic))));
        let message = made.unwrap_or_else(|panic| {
            Err(Error::new("XX000", "the function of a periodic message panicked").detail(panic_text(panic.as_ref())))
        })?;
        Ok(message.idempotency_key(tick_key(&self.name, tick)))
    }

    /// Enqueues the message of a tick. Waits for a server that cannot be reached, for as long as a missed tick is made up
    /// for.
    async fn enqueue(&self, outbox: &Outbox, tick: DateTime<Utc>) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let message = self.message_of(tick)?;
            let enqueued = async { message.enqueue(&outbox.session().await?).await };
            match enqueued.await {
                Ok(message_id) => {
                    tracing::debug!(name = self.name, %tick, message_id, "a periodic message is enqueued");
                    return Ok(());
                }
                Err(error) if error.name() == "idempotency_conflict" => {
                    tracing::warn!(
                        name = self.name, %tick,
                        "another process has enqueued another message for this tick, which counts"
                    );
                    return Ok(());
                }
                Err(error) if passes(&error) && tick > Utc::now() - CATCH_UP => {
                    tracing::warn!(name = self.name, %tick, error = error.report(), "a periodic message has to wait");
                    sleep(backoff.next()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// Returns the first two ticks of a clock that shows these times, one at each look, and then the last one.
    async fn ticks(times: &[&str]) -> Vec<DateTime<Utc>> {
        let (looks, cron) = (Cell::new(0), Cron::parse("0 * * * *", None).unwrap());
        let now = || {
            let look = looks.replace(looks.get() + 1);
            at(times[look.min(times.len() - 1)])
        };
        let mut ticks = Ticks { name: "x", cron: &cron, now, last: None };
        vec![ticks.next().await.unwrap(), ticks.next().await.unwrap()]
    }

    #[tokio::test]
    async fn ticks_that_the_machine_slept_through_are_passed_over() {
        let (before, due) = ("2026-11-29T02:59:59.990Z", "2026-11-29T03:00:00Z");
        let after = ["2026-11-29T09:05:00Z"; 4];
        let slept = ticks(&[&[before, before][..], &after[..], &["2026-11-29T10:00:01Z"][..]].concat()).await;
        assert_eq!(slept, [at("2026-11-29T09:00:00Z"), at("2026-11-29T10:00:00Z")]);
        // A sleep that is shorter than the time for which a tick is made up for.
        let dozed =
            ticks(&[before, before, "2026-11-29T03:09:59Z", "2026-11-29T03:09:59Z", "2026-11-29T04:00:01Z"]).await;
        assert_eq!(dozed, [at(due), at("2026-11-29T04:00:00Z")]);
    }
}
