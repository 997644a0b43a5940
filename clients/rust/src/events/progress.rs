//! [`ProgressBars`]: the progress of rebuilds, as bars on a terminal.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::project::Progress;

/// Bars on standard error, one per projection. Where this is no terminal, each progress is a line.
///
/// ```no_run
/// # async fn example(engine: pg_outbox::events::ProjectionEngine<pg_outbox::Outbox>) -> pg_outbox::Result<()> {
/// use pg_outbox::events::progress::ProgressBars;
/// let bars = ProgressBars::new();
/// let totals = engine.rebuild_of("totals", |tx| Box::pin(async move { Ok(tx.batch_execute("truncate totals").await?) }));
/// let names = engine.rebuild_of("names", |tx| Box::pin(async move { Ok(tx.batch_execute("truncate names").await?) }));
/// engine.rebuild_all([totals, names], 2, |name, progress| bars.show(name, progress)).await
/// # }
/// ```
#[derive(Debug, Default)]
pub struct ProgressBars {
    all: MultiProgress,
    bars: Mutex<HashMap<String, ProgressBar>>,
}

impl ProgressBars {
    /// Creates bars on standard error.
    pub fn new() -> ProgressBars {
        ProgressBars::default()
    }

    /// Shows the progress of a projection.
    pub fn show(&self, name: &str, progress: Progress) {
        if self.all.is_hidden() {
            // A closed standard error ends no rebuild.
            let _ = writeln!(std::io::stderr(), "{name}: {progress}");
            return;
        }
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(name.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {msg}");
            let bar = ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.all.add(bar).with_prefix(name.to_owned())
        });
        bar.set_length(u64::try_from(progress.total).unwrap_or(0).max(1));
        bar.set_message(progress.to_string());
        match progress.done >= progress.total {
            true => bar.finish(),
            false => bar.set_position(u64::try_from(progress.done).unwrap_or(0)),
        }
    }
}
