//! [`ProgressBars`]: the progress of rebuilds, as bars on a terminal. The lines are those of the other clients.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::project::Progress;

const BAR: i64 = 20;

/// Returns the progress of a projection as a line. The name is filled up to a width, so that several lines have columns.
pub fn progress_line(name: &str, progress: Progress, width: usize) -> String {
    line(name, "", progress, width)
}

/// Returns the progress of a projection as [`progress_line`] does, with a bar.
pub fn progress_bar(name: &str, progress: Progress, width: usize) -> String {
    let bar: String = (0..BAR).map(|part| if part < progress.share_of(BAR) { '#' } else { '.' }).collect();
    line(name, &format!("[{bar}]  "), progress, width)
}

fn line(name: &str, bar: &str, progress: Progress, width: usize) -> String {
    // A control character would change the terminal.
    let name = name.replace(char::is_control, "?");
    format!("{name:width$}  {bar}{:3} %  {}", progress.percent(), progress.counts())
}

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
    bars: Mutex<BTreeMap<String, (ProgressBar, Progress)>>,
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
            let _ = writeln!(std::io::stderr(), "{}", progress_line(name, progress, 0));
            return;
        }
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = bars.entry(name.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{wide_msg}");
            let bar = ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            (self.all.add(bar), progress)
        });
        entry.1 = progress;
        let width = bars.keys().map(|name| name.chars().count()).max().unwrap_or(0);
        for (name, (bar, progress)) in bars.iter() {
            bar.set_message(progress_bar(name, *progress, width));
            if progress.done >= progress.total {
                bar.finish();
            }
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
        let shown = |name: &str| (known[name].0.message(), known[name].0.is_finished());
        assert_eq!(shown("totals"), (progress_bar("totals", progress(10), 6), true));
        assert_eq!(shown("names"), (progress_bar("names", progress(3), 6), false));
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
