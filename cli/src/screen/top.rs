//! The command `top`: the screen of `status`, refreshed until the user quits.

use std::time::Duration;

use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};

use super::{Screen, Sort, View, picture};
use pg_outbox::error::{Error, Result};
use pg_outbox::outbox::Outbox;

/// Draws until the user presses q, Escape or Ctrl-C, or `count` times.
pub(crate) async fn run(outbox: &Outbox, every: f64, count: Option<u32>) -> Result<()> {
    let mut terminal = ratatui::try_init().map_err(|e| Error::invalid(format!("no terminal: {e}")))?;
    let ended = live(&mut terminal, outbox, Duration::from_secs_f64(every.clamp(0.1, 3600.0)), count).await;
    ratatui::restore();
    ended
}

/// Reads the state `count` times and writes the last screen to `file` as a picture (SVG).
pub(crate) async fn draw(outbox: &Outbox, every: f64, count: u32, file: &str) -> Result<()> {
    let mut before = None;
    let mut text = String::new();
    let mut window = Window::default();
    window.view.all = true;
    window.view.width = Some(108);
    for look in 0..count.max(1) {
        if look > 0 {
            tokio::time::sleep(Duration::from_secs_f64(every.clamp(0.1, 3600.0))).await;
        }
        let screen = Screen::look(outbox, before.as_ref()).await?;
        text = screen.text(before.as_ref(), &window.view);
        before = Some(screen);
    }
    let svg = picture::svg(110, text.lines().count() as u16 + 2, |frame| window.show(frame, &text))?;
    std::fs::write(file, svg).map_err(|e| Error::invalid(format!("cannot write \"{file}\"")).detail(e.to_string()))
}

/// The part of the screen's text that the terminal shows.
#[derive(Debug, Default)]
struct Window {
    view: View,
    /// The first line that is shown.
    first: usize,
    /// Whether the user types a filter.
    typing: bool,
}

impl Window {
    /// Changes the window by a key. Returns whether the user quits. `page`: the lines that fit the terminal.
    fn press(&mut self, key: KeyEvent, page: usize) -> bool {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return true;
        }
        if self.typing {
            match key.code {
                KeyCode::Enter => self.typing = false,
                KeyCode::Esc => {
                    self.typing = false;
                    self.view.filter.clear();
                }
                KeyCode::Backspace => {
                    self.view.filter.pop();
                }
                KeyCode::Char(c) if self.view.filter.len() < 100 => self.view.filter.push(c),
                _ => {}
            }
            return false;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Down | KeyCode::Char('j') => self.first += 1,
            KeyCode::Up | KeyCode::Char('k') => self.first = self.first.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => self.first += page,
            KeyCode::PageUp => self.first = self.first.saturating_sub(page),
            KeyCode::Home | KeyCode::Char('g') => self.first = 0,
            KeyCode::End | KeyCode::Char('G') => self.first = usize::MAX,
            KeyCode::Char('/') => {
                self.typing = true;
                self.view.filter.clear();
            }
            KeyCode::Char('a') => self.view.all = !self.view.all,
            KeyCode::Char('s') => {
                self.view.sort = match self.view.sort {
                    Sort::Oldest => Sort::Waiting,
                    Sort::Waiting => Sort::Name,
                    Sort::Name => Sort::Oldest,
                }
            }
            _ => {}
        }
        false
    }

    /// The line below the text: what is out of sight, and the keys.
    fn keys(&self, below: usize) -> String {
        if self.typing {
            return format!(" /{} ", self.view.filter);
        }
        let more = if below > 0 { format!("{below} lines below  ") } else { String::new() };
        let sort = match self.view.sort {
            Sort::Oldest => "oldest",
            Sort::Waiting => "waiting",
            Sort::Name => "name",
        };
        let all = if self.view.all { "less" } else { "all" };
        format!(" {more}q: quit  arrows  /: find  s: by {sort}  a: {all} ")
    }

    /// Draws the text inside a border.
    fn show(&mut self, frame: &mut Frame<'_>, text: &str) {
        let lines: Vec<Line<'_>> =
            text.lines().map(|line| Line::from(Span::styled(line.to_owned(), style(line)))).collect();
        let page = usize::from(frame.area().height.saturating_sub(2));
        self.first = self.first.min(lines.len().saturating_sub(page));
        let below = lines.len().saturating_sub(self.first + page);
        let block = Block::bordered().title(" outbox top ").title_bottom(self.keys(below));
        let first = u16::try_from(self.first).unwrap_or(u16::MAX);
        frame.render_widget(Paragraph::new(lines).block(block).scroll((first, 0)), frame.area());
    }
}

fn style(line: &str) -> Style {
    match line {
        line if ["ENDPOINTS", "SUBSCRIPTIONS", "READERS"].iter().any(|title| line.starts_with(title)) => {
            Style::new().fg(Color::Cyan).bold()
        }
        "nothing is wrong" => Style::new().fg(Color::Green),
        line if line.starts_with("WRONG: ") => Style::new().fg(Color::Red).bold(),
        line if line.starts_with("critical: ")
            || ["  breaker open", "  no worker"].iter().any(|s| line.contains(s)) =>
        {
            Style::new().fg(Color::Red)
        }
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
    let mut window = Window::default();
    let mut older: Option<Screen> = None;
    let mut drawn = 0;
    loop {
        // While the server restarts, the screen shows the error; the next refresh tries again.
        let looked = Screen::look(outbox, older.as_ref()).await;
        let mut area = terminal.size().map_err(failed)?;
        let until = std::time::Instant::now() + every;
        let mut changed = true;
        loop {
            if changed {
                area = terminal.size().map_err(failed)?;
                window.view.width = Some(usize::from(area.width.saturating_sub(2)));
                let text = match &looked {
                    Ok(screen) => screen.text(older.as_ref(), &window.view),
                    Err(error) => super::output::hang("", &error.report(), window.view.width),
                };
                terminal.draw(|frame| window.show(frame, &text)).map_err(failed)?;
                changed = false;
            }
            if std::time::Instant::now() >= until {
                break;
            }
            if !event::poll(Duration::ZERO).map_err(failed)? {
                tokio::time::sleep(Duration::from_millis(30)).await;
                continue;
            }
            match event::read().map_err(failed)? {
                Event::Key(key) if window.press(key, usize::from(area.height.saturating_sub(2))) => return Ok(()),
                _ => changed = true,
            }
        }
        drawn += 1;
        if count.is_some_and(|count| drawn >= count) {
            return Ok(());
        }
        older = looked.ok().or(older);
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::tests::busy;
    use super::*;

    /// Draws a busy outbox on a terminal of 80 by 24, and returns its lines.
    fn drawn(window: &mut Window) -> Vec<String> {
        window.view.width = Some(78);
        let text = busy().text(None, &window.view);
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| window.show(frame, &text)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        (0..24).map(|y| (0..80).map(|x| buffer[(x, y)].symbol().to_owned()).collect()).collect()
    }

    fn press(window: &mut Window, code: KeyCode) -> bool {
        window.press(KeyEvent::from(code), 22)
    }

    #[test]
    fn the_screen_begins_with_what_is_wrong_and_scrolls_to_its_end() {
        let mut window = Window::default();
        let lines = drawn(&mut window);
        assert!(lines[1].contains("WRONG: 3") && lines[23].contains("lines below"), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("READERS")), "{lines:#?}");
        press(&mut window, KeyCode::End);
        let lines = drawn(&mut window);
        assert!(lines.iter().any(|line| line.contains("READERS")) && !lines[23].contains("below"), "{lines:#?}");
        let end = window.first;
        press(&mut window, KeyCode::Up);
        drawn(&mut window);
        assert_eq!(window.first, end - 1);
        press(&mut window, KeyCode::Home);
        press(&mut window, KeyCode::PageDown);
        press(&mut window, KeyCode::PageUp);
        assert!(drawn(&mut window)[1].contains("WRONG: 3"));
    }

    #[test]
    fn keys_find_sort_and_quit() {
        let mut window = Window::default();
        for c in "/calm-3q".chars() {
            assert!(!press(&mut window, KeyCode::Char(c)), "letters of a filter are no commands");
        }
        press(&mut window, KeyCode::Backspace);
        assert!(drawn(&mut window)[23].contains(" /calm-3 "));
        press(&mut window, KeyCode::Enter);
        press(&mut window, KeyCode::Char('a'));
        press(&mut window, KeyCode::End);
        assert!(drawn(&mut window).iter().any(|line| line.contains("calm-3 ")));
        press(&mut window, KeyCode::Char('s'));
        assert_eq!((window.view.sort, window.view.all, window.view.filter.as_str()), (Sort::Waiting, true, "calm-3"));
        press(&mut window, KeyCode::Char('/'));
        assert!(!press(&mut window, KeyCode::Esc), "Escape ends the filter first");
        assert!(window.view.filter.is_empty() && press(&mut window, KeyCode::Esc));
        assert!(window.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), 22));
    }
}
