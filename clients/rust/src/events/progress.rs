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

#[cfg(test)]
mod tests {
    use indicatif::ProgressDrawTarget;

    use super::*;

    #[test]
    fn a_bar_follows_its_projection_and_is_hidden_where_there_is_no_terminal() {
        let bars = ProgressBars::new();
        let progress = |done| Progress { done, total: 10, rate: 5.0, remaining: None };
        // A target that is not hidden, whose output nobody sees.
        bars.all.set_draw_target(ProgressDrawTarget::term_like(Box::new(Screen)));
        for done in [4, 10] {
            bars.show("totals", progress(done));
            bars.show("names", progress(3));
        }
        let known = bars.bars.lock().unwrap();
        assert_eq!((known["totals"].position(), known["totals"].is_finished()), (10, true));
        assert_eq!(
            (known["names"].position(), known["names"].is_finished(), known["names"].message()),
            (3, false, progress(3).to_string())
        );
        drop(known);
        let hidden = ProgressBars::new();
        hidden.all.set_draw_target(ProgressDrawTarget::hidden());
        hidden.show("totals", progress(4));
        assert!(hidden.bars.lock().unwrap().is_empty());
    }

    /// A terminal of 80 columns.
    #[derive(Debug)]
    struct Screen;

    impl indicatif::TermLike for Screen {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }
        fn write_line(&self, _: &str) -> std::io::Result<()> {
            Ok(())
        }
        fn write_str(&self, _: &str) -> std::io::Result<()> {
            Ok(())
        }
        fn clear_line(&self) -> std::io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
