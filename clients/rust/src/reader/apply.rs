//! Projections: the effect of each message and the cursor's advance in one transaction.
//!
//! An effect that fails is rolled back, recorded with the cursor and tried again with a growing pause. No message is passed
//! over: a projection stands at the message that fails until its effect succeeds. After a failure, the batch is applied
//! message by message, so that the messages before the failing one are not held up by it. Of two instances that apply a
//! message at the same time, one is refused, by the advance or by the effect itself. This is no failure of the effect.

use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;

use super::{Reader, ReaderBuilder, consumer};
use crate::driver::{Statement, Transactions};
use crate::error::{Error, Kind, Result, described};
use crate::message::Message;
use crate::outbox::{Backoff, passes};
use crate::worker::chain;

/// Applies messages and moves the cursor, in one transaction.
pub(crate) trait Step {
    /// Applies messages and moves the cursor of the reader.
    fn step<'a>(
        &'a mut self,
        reader: &'a mut Reader,
        messages: &'a [Message],
    ) -> impl Future<Output = std::result::Result<(), Stopped>>;
}

/// A step with a closure as its effect.
struct Closure<P, F> {
    pool: P,
    effect: F,
}

impl<P, F, E> Step for Closure<P, F>
where
    P: Transactions,
    F: AsyncFnMut(&mut P::Transaction<'_>, &[Message]) -> std::result::Result<(), E>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    async fn step<'a>(
        &'a mut self,
        reader: &'a mut Reader,
        messages: &'a [Message],
    ) -> std::result::Result<(), Stopped> {
        let mut session = self.pool.take_session().await.map_err(later)?;
        let mut tx = P::begin(&mut session).await.map_err(later)?;
        let applied = (self.effect)(&mut tx, messages).await;
        applied.map_err(|error| Stopped::Effect(chain(error.into().as_ref())))?;
        advance::<P>(reader, &mut tx, messages).await?;
        finish::<P>(reader, tx, messages).await
    }
}

/// The end of a batch that was not applied.
pub(crate) enum Stopped {
    /// The effect failed.
    Effect(String),
    /// Another instance advanced the cursor, or the answer of a commit was lost.
    Stale(Error),
    /// The connection was lost, or the server is busy.
    Later(Error),
    /// Retrying does not help.
    Fatal(Error),
}

impl ReaderBuilder {
    /// Applies every message, in order and effectively once, for ever. For each batch, `effect` gets a transaction of `pool`
    /// and the messages. The cursor advances in the same transaction, which commits when `effect` returns `Ok`.
    ///
    /// ```no_run
    /// # async fn example(outbox: pg_outbox::Outbox) -> pg_outbox::Result<()> {
    /// let reader = outbox.reader().consumer("totals").topics(["order.created"]);
    /// reader
    ///     .apply(&outbox, async |tx, messages| {
    ///         for message in messages {
    ///             let order: serde_json::Value = message.json()?;
    ///             let amount = order["amount"].as_i64();
    ///             tx.execute("update totals set sum = sum + $1", &[&amount]).await?;
    ///         }
    ///         anyhow::Ok(())
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// The future can be spawned if the closure captures nothing, or is an `async fn`. A closure with captures is awaited
    /// where it is, for example in `tokio::join!`, because Rust cannot prove yet that its future is `Send`.
    ///
    /// # Errors
    /// Errors that retrying does not solve: a missing privilege, no consumer, a position that is no longer stored. An error
    /// of `effect` is recorded with the cursor, logged, and tried again; it never ends the projection.
    pub fn apply<P, F, E>(self, pool: &P, effect: F) -> impl Future<Output = Result<()>> + use<P, F, E>
    where
        P: Transactions,
        F: AsyncFnMut(&mut P::Transaction<'_>, &[Message]) -> std::result::Result<(), E>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.apply_until(pending(), pool, effect)
    }

    /// Does the same as [`ReaderBuilder::apply`] until `shutdown` is ready. A batch that has begun is finished.
    ///
    /// # Errors
    /// Those of [`ReaderBuilder::apply`].
    pub fn apply_until<P, F, E, U>(
        self,
        shutdown: U,
        pool: &P,
        effect: F,
    ) -> impl Future<Output = Result<()>> + use<P, F, E, U>
    where
        P: Transactions,
        F: AsyncFnMut(&mut P::Transaction<'_>, &[Message]) -> std::result::Result<(), E>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
        U: Future<Output = ()>,
    {
        // The future has its own pool and no reference to one, so that it can be spawned.
        self.run(shutdown, Closure { pool: pool.clone(), effect })
    }

    /// Applies batches until `shutdown` is ready.
    pub(crate) async fn run(self, shutdown: impl Future<Output = ()>, mut step: impl Step) -> Result<()> {
        consumer(&self)?;
        let mut reader = self.build();
        reader.reads_ahead = true;
        let mut shutdown = pin!(shutdown);
        let mut backoff = Backoff::default();
        let mut singly = false;
        let mut pause = Duration::ZERO;
        loop {
            let batch = tokio::select! {
                biased;
                () = &mut shutdown => return Ok(()),
                batch = async {
                    sleep(pause).await;
                    reader.next_batch().await
                } => batch?,
            };
            pause = Duration::ZERO;
            let size = if singly { 1 } else { batch.len() };
            for messages in batch.chunks(size) {
                let Err(stopped) = step.step(&mut reader, messages).await else {
                    backoff.reset();
                    reader.settings.health.add_applied(messages.len());
                    continue;
                };
                let health = &reader.settings.health;
                match &stopped {
                    // A conflict between transactions passes by itself.
                    Stopped::Later(error) if error.code().starts_with("40") => {}
                    Stopped::Later(_) => health.set_failing(messages.first().map(|first| first.position)),
                    Stopped::Effect(_) if messages.len() == 1 => health.set_failing(Some(messages[0].position)),
                    Stopped::Effect(_) | Stopped::Fatal(_) => {}
                    Stopped::Stale(_) => health.set_failing(None),
                }
                match stopped {
                    Stopped::Fatal(error) => {
                        failed(&mut reader, &messages[0], &described(&error)).await;
                        return Err(error);
                    }
                    Stopped::Effect(error) if messages.len() > 1 => {
                        tracing::debug!(error, "a batch failed, and its messages are applied one by one");
                        singly = true;
                    }
                    Stopped::Effect(error) => {
                        pause = backoff.next();
                        failed(&mut reader, &messages[0], &error).await;
                    }
                    Stopped::Stale(error) | Stopped::Later(error) => {
                        pause = backoff.next();
                        tracing::warn!(error = error.report(), "a batch was not applied and is tried again");
                    }
                }
                reader.rewind();
                break;
            }
            if reader.unconfirmed.is_empty() && pause.is_zero() && reader.started {
                singly = false;
            }
        }
    }
}

/// Sorts the error of a session or a transaction.
pub(crate) fn later(error: Error) -> Stopped {
    if passes(&error) { Stopped::Later(error) } else { Stopped::Fatal(error) }
}

/// Moves the cursor in the transaction of an effect. Before the effect, its lock keeps out other instances and rebuilds until the end
/// of the transaction, so that the effect sees the state that belongs to the position.
pub(crate) async fn advance<P: Transactions>(
    reader: &Reader,
    tx: &mut P::Transaction<'_>,
    messages: &[Message],
) -> std::result::Result<(), Stopped> {
    if let Some(statement) = reader.advance_statement(messages).map_err(later)? {
        P::column(tx, statement).await.map_err(|error| match error.kind() {
            Kind::Conflict => Stopped::Stale(error),
            _ if error.code() == "25P02" => Stopped::Effect(error.report().replace('\n', "; ")),
            _ => later(error),
        })?;
    }
    Ok(())
}

/// Commits the transaction of an effect.
pub(crate) async fn finish<P: Transactions>(
    reader: &mut Reader,
    mut tx: P::Transaction<'_>,
    messages: &[Message],
) -> std::result::Result<(), Stopped> {
    // An effect that caught an error of the server leaves a transaction that can only be rolled back, which a commit does not say.
    let alive = P::column(&mut tx, Statement::new("select null::text as r", [])).await;
    alive.map_err(|error| match error.code() {
        "25P02" => Stopped::Effect(error.report().replace('\n', "; ")),
        _ => later(error),
    })?;
    P::commit(tx).await.map_err(|error| match error.kind() {
        Kind::Retry => Stopped::Stale(error),
        // A deferred constraint refuses the effect at the commit.
        _ => Stopped::Effect(described(&error)),
    })?;
    reader.committed(messages);
    Ok(())
}

/// Records and logs the failure of an effect, unless another instance has applied the message.
async fn failed(reader: &mut Reader, message: &Message, error: &str) {
    let consumer = reader.settings.consumer.clone().unwrap_or_default();
    let text: String = error.chars().filter(|c| *c != '\0').take(2000).collect();
    match reader.record_error(&text, Some(message.position)).await {
        Ok(true) => {}
        Ok(false) => {
            tracing::info!(consumer, position = message.position, "another instance has applied the message");
            return;
        }
        Err(error) => tracing::warn!(consumer, error = error.report(), "the failure could not be recorded"),
    }
    tracing::error!(
        consumer,
        position = message.position,
        topic = message.topic,
        message_id = message.message_id,
        error,
        "the effect of a message failed; the projection stands here and tries again"
    );
}
