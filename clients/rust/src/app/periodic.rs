//! Periodic messages: each tick of a cron expression enqueues one message.
//!
//! Every process of the application enqueues the message of a tick, with the same idempotency key, so the message exists
//! once. A tick that was missed is made up for, for ten minutes, which bridges a deployment.

use std::future::Future;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use outbox_core::cron::{CATCH_UP, Cron, tick_key};
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::message::{Message, NewMessage};
use crate::outbox::{Backoff, Outbox, passes};

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
    pub(super) fn start<T: Send + 'static>(
        self,
        outbox: Outbox,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = Result<Option<T>>> + Send + 'static> {
        let cron = Cron::parse(&self.expression, self.zone.as_deref())?;
        Ok(async move {
            let now = Utc::now();
            let mut tick = cron.missed(now, CATCH_UP).or_else(|| cron.next(now));
            while let Some(due) = tick {
                // A clock that is set is noticed, because the wait is divided.
                while let Ok(wait) = (due - Utc::now()).to_std() {
                    tokio::select! {
                        () = stop.cancelled() => return Ok(None),
                        () = sleep(wait.min(std::time::Duration::from_secs(60))) => {}
                    }
                }
                tokio::select! {
                    () = stop.cancelled() => return Ok(None),
                    enqueued = self.enqueue(&outbox, due) => enqueued?,
                }
                tick = cron.next(due.max(Utc::now() - CATCH_UP));
            }
            Ok(None)
        })
    }

    /// Enqueues the message of a tick. Waits for a server that cannot be reached.
    async fn enqueue(&self, outbox: &Outbox, tick: DateTime<Utc>) -> Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let message = (self.make)(tick, Message::to(&self.topic))?.idempotency_key(tick_key(&self.name, tick));
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
                Err(error) if passes(&error) => {
                    tracing::warn!(name = self.name, %tick, error = error.report(), "a periodic message has to wait");
                    sleep(backoff.next()).await;
                }
                Err(error) => {
                    return Err(Error::detail(
                        error,
                        format!("It is the periodic message \"{}\" at {tick}.", self.name),
                    ));
                }
            }
        }
    }
}
