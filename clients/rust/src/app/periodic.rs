//! Periodic messages: each tick of a cron expression enqueues one message.
//!
//! Every process of the application enqueues the message of a tick, with the same idempotency key, so the message exists
//! once. A tick that was missed is made up for, for ten minutes, which bridges a deployment. A tick whose message cannot be
//! enqueued is logged and counted, and ends nothing, because the next tick may succeed.

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
        let now = Utc::now();
        let mut tick = cron.missed(now, CATCH_UP).or_else(|| cron.next(now));
        while let Some(due) = tick {
            // A clock that is set is noticed, because the wait is divided.
            while let Ok(wait) = (due - Utc::now()).to_std() {
                sleep(wait.min(Duration::from_secs(60))).await;
            }
            if let Some(oldest) = too_late(due, Utc::now()) {
                tracing::warn!(name = self.name, tick = %due, "the machine has slept, and the tick is passed over");
                tick = cron.next(oldest);
                continue;
            }
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
            tick = cron.next(due.max(Utc::now() - CATCH_UP));
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

/// Returns the time of the oldest tick that is made up for, if this tick is older. A machine that slept, or whose clock was set,
/// comes to a tick long after it was due.
fn too_late(due: DateTime<Utc>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let oldest = now - CATCH_UP;
    (due < oldest).then_some(oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_that_a_sleep_has_left_behind_is_passed_over() {
        let at = |time: &str| time.parse::<DateTime<Utc>>().unwrap();
        let cron = Cron::parse("0,55 * * * *", None).unwrap();
        let (due, awake) = (at("2026-11-29T03:00:00Z"), at("2026-11-29T07:02:00Z"));
        let oldest = too_late(due, awake).unwrap();
        assert_eq!(cron.next(oldest), Some(at("2026-11-29T06:55:00Z")));
        assert_eq!(too_late(due, at("2026-11-29T03:09:00Z")), None);
    }
}
