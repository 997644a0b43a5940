//! Charts as SVG, drawn here, so that a page needs no script for them.

use std::fmt::Write as _;

use maud::{Markup, html};

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 64.0;

/// Draws values over time as a line. The label says the last and the highest value too.
pub(crate) fn line(name: &str, unit: &str, values: &[f64]) -> Markup {
    let highest = values.iter().copied().fold(0.0, f64::max);
    let last = values.last().copied().unwrap_or(0.0);
    let mut points = String::new();
    for (n, value) in values.iter().enumerate() {
        let x = if values.len() > 1 { n as f64 * WIDTH / (values.len() - 1) as f64 } else { WIDTH };
        let y = HEIGHT - 2.0 - (HEIGHT - 4.0) * value / highest.max(f64::MIN_POSITIVE);
        let _ = write!(points, "{x:.1},{y:.1} ");
    }
    let said = format!("{name}: {} {unit} now, {} {unit} at most in this window", short(last), short(highest));
    html! {
        figure {
            figcaption { (name) " " strong { (short(last)) } " " (unit) span class="hint" { ", at most " (short(highest)) } }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(said) preserveAspectRatio="none" {
                @if values.len() > 1 { polyline points=(points.trim_end()) {} }
            }
        }
    }
}

/// A number with as many digits as matter.
fn short(value: f64) -> String {
    if value >= 10.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_in_its_picture() {
        let drawn = line("Completed", "/s", &[0.0, 5.0, 10.0]).into_string();
        assert!(drawn.contains("0.0,62.0 150.0,32.0 300.0,2.0"), "{drawn}");
        assert!(drawn.contains("10 /s now"), "{drawn}");
        assert!(!line("Completed", "/s", &[]).into_string().contains("polyline"));
        assert!(!line("Completed", "/s", &[0.0, 0.0]).into_string().contains("NaN"));
    }
}
