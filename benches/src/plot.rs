//! Plots as SVG, written without a drawing library.

use std::fmt::Write;

use crate::report::{Histogram, Row, quantile};

const INK: &str = "#1f2933";
const OURS: &str = "#2563eb";
const THEIRS: &str = "#9aa5b1";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Draws horizontal bars. The bar of pg_outbox is above the bar of the comparison, and each row has a scale of its own.
pub fn bars(title: &str, rows: &[&Row]) -> String {
    let (width, left, step) = (860.0, 380.0, 34.0);
    let height = 50.0 + step * rows.len() as f64;
    let mut svg = head(width, height, title);
    for (i, row) in rows.iter().enumerate() {
        let y = 44.0 + step * i as f64;
        let scale = (width - left - 150.0) / row.ours.max(row.theirs.unwrap_or(0.0)).max(f64::MIN_POSITIVE);
        let _ = writeln!(svg, r#"<text x="10" y="{:.0}" fill="{INK}">{}</text>"#, y + 14.0, escape(&row.what));
        let mut bar = |value: f64, dy: f64, colour: &str| {
            let w = (value * scale).max(1.0);
            let _ = writeln!(svg, r#"<rect x="{left}" y="{:.1}" width="{w:.1}" height="11" fill="{colour}"/>"#, y + dy);
            let text = format!("{value:.4}");
            let short = if value >= 100.0 { format!("{value:.0}") } else { text[..text.len().min(6)].to_owned() };
            let _ = writeln!(
                svg,
                r#"<text x="{:.1}" y="{:.1}" font-size="10" fill="{INK}">{short} {}</text>"#,
                left + w + 5.0,
                y + dy + 9.5,
                escape(row.unit)
            );
        };
        bar(row.ours, 0.0, OURS);
        if let Some(theirs) = row.theirs {
            bar(theirs, 13.0, THEIRS);
        }
    }
    svg + "</svg>\n"
}

/// Draws cumulative distributions on a logarithmic axis.
pub fn distributions(all: &[Histogram]) -> String {
    let (width, height, left, bottom) = (860.0, 420.0, 60.0, 380.0);
    let low = all.iter().map(|h| quantile(&h.values, 0.001)).fold(f64::INFINITY, f64::min).max(0.01).log10().floor();
    let high = all.iter().map(|h| quantile(&h.values, 1.0)).fold(0.0, f64::max).max(1.0).log10().ceil();
    let x = |ms: f64| left + (ms.max(0.01).log10() - low) / (high - low) * (width - left - 180.0);
    let y = |q: f64| bottom - q * (bottom - 50.0);
    let mut svg = head(width, height, "commit to receipt, cumulative");
    let mut decade = low;
    while decade <= high {
        let at = x(10f64.powf(decade));
        let _ = writeln!(svg, r##"<line x1="{at:.1}" y1="50" x2="{at:.1}" y2="{bottom}" stroke="#e4e7eb"/>"##);
        let _ = writeln!(
            svg,
            r#"<text x="{at:.1}" y="{:.0}" font-size="11" fill="{INK}" text-anchor="middle">{} ms</text>"#,
            bottom + 16.0,
            10f64.powf(decade)
        );
        decade += 1.0;
    }
    for q in [0.5, 0.9, 0.99] {
        let _ = writeln!(
            svg,
            r##"<line x1="{left}" y1="{0:.1}" x2="{1:.1}" y2="{0:.1}" stroke="#e4e7eb"/><text x="10" y="{0:.1}" font-size="11" fill="{INK}">p{2}</text>"##,
            y(q),
            width - 180.0,
            q * 100.0
        );
    }
    let colours = ["#2563eb", "#059669", "#d97706", "#dc2626", "#7c3aed", "#0891b2"];
    for (i, histogram) in all.iter().enumerate() {
        let colour = colours[i % colours.len()];
        let points: Vec<String> = (0..=200)
            .map(|n| f64::from(n) / 200.0)
            .map(|q| format!("{:.1},{:.1}", x(quantile(&histogram.values, q)), y(q)))
            .collect();
        let _ = writeln!(
            svg,
            r#"<polyline fill="none" stroke="{colour}" stroke-width="2" points="{}"/><text x="{:.0}" y="{:.0}" fill="{colour}">{}</text>"#,
            points.join(" "),
            width - 170.0,
            60.0 + 18.0 * i as f64,
            escape(&histogram.name)
        );
    }
    svg + "</svg>\n"
}

fn head(width: f64, height: f64, title: &str) -> String {
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#ffffff"/><text x="10" y="24" font-size="16" fill="{INK}">{}</text>
"##,
        escape(title)
    )
}
