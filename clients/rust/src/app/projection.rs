//! Projections of the application.

use std::collections::BTreeMap;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::BoxError;
use crate::driver::Transactions;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::reader::{ReaderBuilder, ReaderHealth};
use crate::worker::Report;

/// Applies messages in the thread that calls it, until the token is cancelled.
type Run = Box<dyn FnOnce(CancellationToken) -> Result<()> + Send>;

/// A projection that has not begun.
pub(super) struct Projection {
    name: Option<String>,
    health: ReaderHealth,
    run: Run,
}

impl Projection {
    pub(super) fn new<P, F, E>(reader: ReaderBuilder, pool: P, effect: F) -> Projection
    where
        P: Transactions + 'static,
        F: AsyncFnMut(&mut P::Transaction<'_>, &[Message]) -> std::result::Result<(), E> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let (name, health) = (reader.cursor_name(), reader.health());
        let run: Run =
            Box::new(move |stop| Handle::current().block_on(reader.apply_until(stop.cancelled_owned(), &pool, effect)));
        Projection { name, health, run }
    }

    pub(super) fn run(self, stop: CancellationToken) -> Result<(String, Report)> {
        let name = self.name.unwrap_or_default();
        tracing::info!(consumer = name, "the projection starts");
        (self.run)(stop)?;
        let report = Report { completed: self.health.applied(), ..Report::default() };
        tracing::info!(consumer = name, ?report, "the projection has ended");
        Ok((format!("projection {name}"), report))
    }
}

/// Returns how the projections fare, by name. Fails if one has no consumer, or two have the same cursor.
pub(super) fn by_name(projections: &[Projection]) -> Result<BTreeMap<String, ReaderHealth>> {
    let mut found = BTreeMap::new();
    for projection in projections {
        let name = projection.name.clone().ok_or_else(|| {
            Error::invalid("a projection has no consumer").hint("Give its reader one: it names the cursor.")
        })?;
        if found.insert(name.clone(), projection.health.clone()).is_some() {
            return Err(Error::invalid(format!("the application has projection \"{name}\" twice")));
        }
    }
    Ok(found)
}
