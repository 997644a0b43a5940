//! The live screen.

use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};

use super::run::Screen;
use crate::error::{Error, Result};
use crate::outbox::Outbox;

/// Draws until q, Escape or Ctrl-C, or so many times.
pub(super) async fn run(outbox: &Outbox, every: f64, count: Option<u32>) -> Result<()> {
    let mut terminal = ratatui::try_init().map_err(|e| Error::invalid(format!("no terminal: {e}")))?;
    let ended = draw(&mut terminal, outbox, every.clamp(0.1, 3600.0), count).await;
    ratatui::restore();
    ended
}

async fn draw(terminal: &mut ratatui::DefaultTerminal, outbox: &Outbox, every: f64, count: Option<u32>) -> Result<()> {
    let failed = |e: std::io::Error| Error::invalid(format!("terminal: {e}"));
    let mut before: Option<Screen> = None;
    let mut drawn = 0;
    loop {
        // A server that restarts is shown as such, and looked at again.
        let text = match Screen::look(outbox).await {
            Ok(screen) => {
                let text = screen.text(before.as_ref());
                before = Some(screen);
                text
            }
            Err(error) => error.report(),
        };
        let lines: Vec<Line<'_>> = text
            .lines()
            .map(|line| {
                let style = match line {
                    "WRONG" => Style::new().fg(Color::Red).bold(),
                    "nothing is wrong" => Style::new().fg(Color::Green),
                    "ENDPOINTS" | "SUBSCRIPTIONS" => Style::new().fg(Color::Cyan).bold(),
                    _ => Style::new(),
                };
                Line::from(Span::styled(line.to_owned(), style))
            })
            .collect();
        terminal
            .draw(|frame| {
                let block = Block::bordered().title(" outbox top ").title_bottom(" q: quit ");
                frame.render_widget(Paragraph::new(lines).block(block), frame.area());
            })
            .map_err(failed)?;
        drawn += 1;
        if count.is_some_and(|count| drawn >= count) {
            return Ok(());
        }
        let until = std::time::Instant::now() + Duration::from_secs_f64(every);
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
