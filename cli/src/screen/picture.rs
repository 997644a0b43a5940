//! Renders a terminal screen as a picture (SVG). The documentation shows the program's real output this way.

use std::fmt::Write as _;

use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};
use ratatui::{Frame, Terminal};

use pg_outbox::error::{Error, Result};

const WIDTH: f32 = 8.4;
const HEIGHT: f32 = 18.0;

/// Draws on a screen of `columns` by `lines` characters and returns the screen as SVG.
pub(crate) fn svg(columns: u16, lines: u16, draw: impl FnOnce(&mut Frame<'_>)) -> Result<String> {
    let failed = |error: String| Error::invalid(format!("cannot draw: {error}"));
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).map_err(|e| failed(e.to_string()))?;
    terminal.draw(draw).map_err(|e| failed(e.to_string()))?;
    let buffer = terminal.backend().buffer();
    let (width, height) = (f32::from(columns) * WIDTH + 20.0, f32::from(lines) * HEIGHT + 20.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#11151c\"/>\n"
    );
    for y in 0..lines {
        let mut x = 0;
        while x < columns {
            let style = buffer[(x, y)].style();
            let begin = x;
            let mut text = String::new();
            while x < columns && buffer[(x, y)].style() == style {
                text.push_str(buffer[(x, y)].symbol());
                x += 1;
            }
            if text.trim().is_empty() {
                continue;
            }
            let weight =
                if style.add_modifier.contains(Modifier::BOLD) { " font-weight=\"bold\"" } else { Default::default() };
            // `textLength` keeps columns aligned in any font.
            let _ = writeln!(
                out,
                "<text xml:space=\"preserve\" x=\"{:.1}\" y=\"{:.1}\" textLength=\"{:.1}\" fill=\"{}\"{weight}>{}</text>",
                10.0 + f32::from(begin) * WIDTH,
                24.0 + f32::from(y) * HEIGHT,
                f32::from(x - begin) * WIDTH,
                colour(style.fg.unwrap_or_default()),
                escaped(&text),
            );
        }
    }
    out.push_str("</svg>\n");
    Ok(out)
}

fn colour(colour: Color) -> &'static str {
    match colour {
        Color::Red => "#ff6b68",
        Color::Green => "#6cc070",
        Color::Yellow => "#e5c07b",
        Color::Cyan => "#56b6c2",
        _ => "#d7dae0",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use ratatui::style::{Color, Style};
    use ratatui::text::{Line, Span};
    use ratatui::widgets::Paragraph;

    #[test]
    fn styles_and_places_are_kept() {
        let picture = super::svg(10, 2, |frame| {
            let line = Line::from(vec![Span::raw("a<b "), Span::styled("red", Style::new().fg(Color::Red).bold())]);
            frame.render_widget(Paragraph::new(vec![Line::default(), line]), frame.area());
        })
        .unwrap();
        assert!(picture.contains(">a&lt;b </text>"), "{picture}");
        let red = "x=\"43.6\" y=\"42.0\" textLength=\"25.2\" fill=\"#ff6b68\" font-weight=\"bold\">red</text>";
        assert!(picture.contains(red), "{picture}");
    }
}
