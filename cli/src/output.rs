//! Prints rows as JSON, or as text for a human reader.
//!
//! Nothing is cut. On a terminal, cells are wrapped so that a row fits the screen. Into a pipe or a file, a row is one line.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use chrono::{DateTime, Utc};
use serde_json::Value;

pub(crate) use pg_outbox_serve::short_age as age;

/// A column is not made narrower than this to fit the terminal.
const NARROWEST: usize = 10;

/// Columns with long texts. Where a row does not fit the terminal, they get lines of their own below it.
const TEXTS: &[&str] = &["last_error", "detail", "filter", "topics", "url"];

/// Returns the number of columns of the terminal, or nothing if the output is not a terminal.
pub(crate) fn width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let (columns, _) = ratatui::crossterm::terminal::size().ok()?;
    (columns > 0).then_some(usize::from(columns))
}

/// Prints rows as JSON, one per line, or as a table of `columns` (all columns if `columns` is empty).
pub(crate) fn rows(json: bool, rows: &[Value], columns: &[&str]) {
    if json {
        for row in rows {
            println!("{row}");
        }
        return;
    }
    print!("{}", table(rows, columns, width()));
}

/// Prints one row as JSON, or with one line per column.
pub(crate) fn row(json: bool, row: &Value) {
    if json {
        println!("{row}");
    } else {
        print!("{}", record(row));
    }
}

/// Prints what was done: as JSON the answer of the server, else a sentence.
pub(crate) fn done(json: bool, answer: &Value, sentence: &str) {
    if json { println!("{answer}") } else { println!("{sentence}") }
}

/// Formats a row with one line per column. Columns without a value are left out.
pub(crate) fn record(row: &Value) -> String {
    let Value::Object(map) = row else { return text(row) + "\n" };
    let known: Vec<(&String, &Value)> = map.iter().filter(|(_, value)| !value.is_null()).collect();
    let width = known.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    known.into_iter().fold(String::new(), |mut out, (name, value)| {
        let value = match when(value) {
            Some(at) => format!("{}  ({})", at.format("%Y-%m-%d %H:%M:%S UTC"), ago(at)),
            None => text(value),
        };
        let _ = writeln!(out, "{name:width$}  {value}");
        out
    })
}

/// Formats a value.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => without_fraction(text).to_owned(),
        Value::Bool(flag) => if *flag { "yes" } else { "no" }.to_owned(),
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// Leaves out the fraction of a second of an interval in the form of PostgreSQL, such as `2 days 01:02:03.456789`.
fn without_fraction(text: &str) -> &str {
    match text.rsplit_once('.') {
        Some((whole, fraction))
            if fraction.len() <= 6
                && fraction.bytes().all(|b| b.is_ascii_digit())
                && whole.len() >= 8
                && whole[whole.len() - 8..]
                    .bytes()
                    .enumerate()
                    .all(|(i, b)| if i % 3 == 2 { b == b':' } else { b.is_ascii_digit() }) =>
        {
            whole
        }
        _ => text,
    }
}

/// The time that a value is, if it is one.
fn when(value: &Value) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(value.as_str()?).ok().map(Into::into)
}

/// Formats the distance of a time from now.
pub(crate) fn ago(at: DateTime<Utc>) -> String {
    let seconds = (Utc::now() - at).num_milliseconds() as f64 / 1000.0;
    if seconds < 0.0 { format!("in {}", age(-seconds)) } else { format!("{} ago", age(seconds)) }
}

/// Formats rows as a table with a header line, of at most `width` columns of the terminal if that can be.
pub(crate) fn table(rows: &[Value], columns: &[&str], width: Option<usize>) -> String {
    let mut names: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    if let (true, Some(Value::Object(first))) = (names.is_empty(), rows.first()) {
        names = first.keys().cloned().collect();
    }
    if names.is_empty() {
        return rows.iter().map(|value| text(value) + "\n").collect();
    }
    let Some(width) = width else { return grid(rows, &names, &[], None) };
    let mut below = Vec::new();
    for long in TEXTS {
        if natural(rows, &names) <= width || names.len() == 1 {
            break;
        }
        if let Some(place) = names.iter().position(|name| name == long) {
            below.push(names.remove(place));
        }
    }
    below.reverse();
    grid(rows, &names, &below, Some(width))
}

/// The cell of a table.
fn cell(row: &Value, name: &str) -> String {
    let value = row.get(name).unwrap_or(&Value::Null);
    when(value).map_or_else(|| text(value), ago).replace('\n', " ")
}

/// The width of each column. On a terminal, headings are wrapped between words.
fn widths(rows: &[Value], names: &[String], wrapped: bool) -> Vec<usize> {
    let of_head = |name: &String| match wrapped {
        true => head(name).split(' ').map(str::len).max().unwrap_or(0),
        false => head(name).len(),
    };
    let of_cells = |name: &String| rows.iter().map(|row| cell(row, name).chars().count()).max().unwrap_or(0);
    names.iter().map(|name| of_cells(name).max(of_head(name))).collect()
}

fn natural(rows: &[Value], names: &[String]) -> usize {
    widths(rows, names, true).iter().sum::<usize>() + 2 * names.len().saturating_sub(1)
}

/// Formats the columns `names` beside each other, and the columns `below` on lines of their own below each row.
fn grid(rows: &[Value], names: &[String], below: &[String], width: Option<usize>) -> String {
    let mut widths = widths(rows, names, width.is_some());
    if let Some(width) = width {
        fit(&mut widths, width);
    }
    let mut out = String::new();
    for row in std::iter::once(None).chain(rows.iter().map(Some)) {
        let texts = names.iter().map(|name| row.map_or_else(|| head(name), |row| cell(row, name)));
        let wrapped: Vec<Vec<String>> = texts.zip(&widths).map(|(text, width)| wrap(&text, *width)).collect();
        for line in 0..wrapped.iter().map(Vec::len).max().unwrap_or(1) {
            let padded: Vec<String> = wrapped
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{:width$}", cell.get(line).map_or("", String::as_str)))
                .collect();
            out.push_str(padded.join("  ").trim_end());
            out.push('\n');
        }
        for name in below {
            let text = row.map_or_else(String::new, |row| cell(row, name));
            if !text.is_empty() {
                out += &hang(&format!("    {}: ", head(name)), &text, width);
            }
        }
    }
    if rows.is_empty() {
        out.push_str("(none)\n");
    }
    out
}

/// The heading of a column: `dead_letter_id` is `dead letter id`, and a time is an age.
fn head(name: &str) -> String {
    name.strip_suffix("_at").unwrap_or(name).replace('_', " ")
}

/// Makes the widest columns narrower until all of them fit.
fn fit(widths: &mut [usize], width: usize) {
    let gaps = 2 * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > width {
        match widths.iter_mut().max() {
            Some(widest) if *widest > NARROWEST => *widest -= 1,
            _ => return,
        }
    }
}

/// Breaks a text into lines, between words where that can be.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ') {
        let mut rest: Vec<char> = word.chars().collect();
        if used > 0 && used + 1 + rest.len() > width {
            lines.push(String::new());
            used = 0;
        }
        while rest.len() > width {
            let (line, after) = rest.split_at(width);
            if let Some(last) = lines.last_mut() {
                last.extend(line);
            }
            rest = after.to_vec();
            lines.push(String::new());
        }
        if let Some(last) = lines.last_mut() {
            if used > 0 {
                last.push(' ');
                used += 1;
            }
            used += rest.len();
            last.extend(rest);
        }
    }
    lines
}

/// Breaks a text into lines that begin with `first` and then with as many blanks. Without a width there is one line.
pub(crate) fn hang(first: &str, text: &str, width: Option<usize>) -> String {
    let indent = first.chars().count();
    let text = text.replace('\n', " ");
    let lines = match width {
        Some(width) => wrap(&text, width.saturating_sub(indent).max(20)),
        None => vec![text],
    };
    lines.iter().enumerate().fold(String::new(), |mut out, (i, line)| {
        let lead = if i == 0 { first.to_owned() } else { " ".repeat(indent) };
        out.push_str((lead + line).trim_end());
        out.push('\n');
        out
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_widest_cells() {
        let rows = [json!({"name": "a", "n": 1}), json!({"name": "long name", "n": null})];
        assert_eq!(table(&rows, &["name", "n"], None), "name       n\na          1\nlong name\n");
        assert_eq!(table(&[], &["name"], None), "name\n(none)\n");
    }

    #[test]
    fn a_table_fits_the_terminal_and_loses_no_word() {
        let why = "connection refused by 127.0.0.1:8080 after three attempts, and the breaker has opened";
        let rows = [json!({"name": "shop", "last_error": why, "attempt": 3})];
        let shown = table(&rows, &["name", "last_error", "attempt"], Some(40));
        assert!(shown.lines().all(|line| line.chars().count() <= 40), "{shown}");
        assert_eq!(shown.lines().nth(1), Some("shop  3"), "the text is below its row: {shown}");
        assert!(why.split(' ').all(|word| shown.contains(word)), "{shown}");
        assert_eq!(table(&rows, &["last_error"], None).lines().nth(1), Some(why), "a pipe gets one line");
    }

    #[test]
    fn texts_are_wrapped_between_words_and_inside_long_ones() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij kl", 4), ["abcd", "efgh", "ij", "kl"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(hang("-> ", "one two three", Some(10)), "-> one two three\n");
        assert_eq!(hang("-> ", &"word ".repeat(9), Some(24)).lines().nth(1), Some("   word word word word"));
    }

    #[test]
    fn times_are_ages_and_intervals_have_no_microseconds() {
        assert_eq!(age(119.0), "119 s");
        assert_eq!(age(5040.0), "84 min");
        assert_eq!(age(90_000.0), "25 h");
        assert_eq!(age(200_000.0), "2 d");
        let then = (Utc::now() - chrono::Duration::seconds(600)).to_rfc3339();
        assert!(table(&[json!({"dead_at": then})], &["dead_at"], None).starts_with("dead\n10 min ago"));
        assert!(record(&json!({"dead_at": then, "none": null})).contains(" UTC  (10 min ago)\n"));
        assert_eq!(text(&json!("2 days 01:02:03.456789")), "2 days 01:02:03");
        assert_eq!(text(&json!("version 1.25")), "version 1.25");
        assert_eq!(text(&json!(["a.*", "b.#"])), "a.*, b.#");
    }
}
