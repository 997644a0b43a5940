//! Prints rows as tables or as JSON.

use serde_json::Value;

/// Prints rows as JSON, one per line, or as a table of `columns` (all columns if `columns` is empty).
pub(super) fn rows(json: bool, rows: &[Value], columns: &[&str]) {
    if json {
        for row in rows {
            println!("{row}");
        }
        return;
    }
    print!("{}", table(rows, columns));
}

/// Prints one row as JSON, or with one line per column.
pub(super) fn row(json: bool, row: &Value) {
    match row {
        _ if json => println!("{row}"),
        Value::Object(map) => {
            let width = map.keys().map(String::len).max().unwrap_or(0);
            for (name, value) in map {
                println!("{name:width$}  {}", text(value));
            }
        }
        other => println!("{}", text(other)),
    }
}

/// Formats a value for a human reader.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Formats rows as a table with a header line.
pub(super) fn table(rows: &[Value], columns: &[&str]) -> String {
    let mut names: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    if let (true, Some(Value::Object(first))) = (names.is_empty(), rows.first()) {
        names = first.keys().cloned().collect();
    }
    if names.is_empty() {
        return rows.iter().map(|value| text(value) + "\n").collect();
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let cut = |text: String| {
                let line = text.replace('\n', " ");
                if line.chars().count() > 60 { line.chars().take(57).chain("...".chars()).collect() } else { line }
            };
            names.iter().map(|name| cut(text(row.get(name).unwrap_or(&Value::Null)))).collect()
        })
        .collect();
    let width = |i: usize| cells.iter().map(|row| row[i].chars().count()).chain([names[i].len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..names.len()).map(width).collect();
    let line = |row: &[String]| {
        let padded: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    let heads: Vec<String> = names.iter().map(|name| name.replace('_', " ")).collect();
    let mut out = line(&heads);
    for row in &cells {
        out.push_str(&line(row));
    }
    if cells.is_empty() {
        out.push_str("(none)\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_table_is_as_wide_as_its_widest_cells() {
        let rows = [json!({"name": "a", "n": 1}), json!({"name": "long name", "n": null})];
        assert_eq!(super::table(&rows, &["name", "n"]), "name       n\na          1\nlong name\n");
        assert_eq!(super::table(&[], &["name"]), "name\n(none)\n");
    }
}
