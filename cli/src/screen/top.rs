//! The command `top`: the screen of `status`, refreshed until the user quits.

use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};

use crate::picture;
use crate::screen::Screen;
use pg_outbox::error::{Error, Result};
use pg_outbox::outbox::Outbox;

/// Draws until the user presses q, Escape or Ctrl-C, or `count` times.
pub(super) async fn run(outbox: &Outbox, every: f64, count: Option<u32>) -> Result<()> {
    let mut terminal = ratatui::try_init().map_err(|e| Error::invalid(format!("no terminal: {e}")))?;
    let ended = live(&mut terminal, outbox, Duration::from_secs_f64(every.clamp(0.1, 3600.0)), count).await;
    ratatui::restore();
    ended
}

/// Reads the state `count` times and writes the last screen to `file` as a picture (SVG).
pub(super) async fn picture(outbox: &Outbox, every: f64, count: u32, file: &str) -> Result<()> {
    let mut before = None;
    let mut text = String::new();
    for look in 0..count.max(1) {
        if look > 0 {
            tokio::time::sleep(Duration::from_secs_f64(every.clamp(0.1, 3600.0))).await;
        }
        let screen = Screen::look(outbox, before.as_ref()).await?;
        text = screen.text(before.as_ref());
        before = Some(screen);
    }
    let svg = picture::svg(110, text.lines().count() as u16 + 2, |frame| show(frame, &text))?;
    std::fs::write(file, svg).map_err(|e| Error::invalid(format!("cannot write \"{file}\"")).detail(e.to_string()))
}

/// Draws the text of the screen inside a border.
fn show(frame: &mut Frame<'_>, text: &str) {
    let lines: Vec<Line<'_>> =
        text.lines().map(|line| Line::from(Span::styled(line.to_owned(), style(line)))).collect();
    let block = Block::bordered().title(" outbox top ").title_bottom(" q: quit ");
    frame.render_widget(Paragraph::new(lines).block(block), frame.area());
}

fn style(line: &str) -> Style {
    match line {
        "ENDPOINTS" | "SUBSCRIPTIONS" => Style::new().fg(Color::Cyan).bold(),
        "nothing is wrong" => Style::new().fg(Color::Green),
        "WRONG" => Style::new().fg(Color::Red).bold(),
        line if line.starts_with("critical: ") || line.contains("  breaker open") => Style::new().fg(Color::Red),
        line if line.starts_with("warning: ")
            || line.contains("  breaker half_open")
            || line.contains("  failing ") =>
        {
            Style::new().fg(Color::Yellow)
        }
        _ => Style::new(),
    }
}

async fn live(
    terminal: &mut ratatui::DefaultTerminal,
    outbox: &Outbox,
    every: Duration,
    count: Option<u32>,
) -> Result<()> {
    let failed = |e: std::io::Error| Error::invalid(format!("terminal: {e}"));
    let mut before: Option<Screen> = None;
    let mut drawn = 0;
    loop {
        // While the server restarts, the screen shows the error; the next refresh tries again.
        let text = match Screen::look(outbox, before.as_ref()).await {
            Ok(screen) => {
                let text = screen.text(before.as_ref());
                before = Some(screen);
                text
            }
            Err(error) => error.report(),
        };
        terminal.draw(|frame| show(frame, &text)).map_err(failed)?;
        drawn += 1;
        if count.is_some_and(|count| drawn >= count) {
            return Ok(());
        }
        let until = std::time::Instant::now() + every;
        while std::time::Instant::now() < until {
            if event::poll(Duration::ZERO).map_err(failed)? {
                if let Event::Key(key) = event::read().map_err(failed)?
                    && (matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
                        || key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL))
                {
                    return Ok(());
                }
            } else {
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
    }
}
