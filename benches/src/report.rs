//! The results: printed as a table, and written as JSON and as plots.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::json;

/// One comparison.
#[derive(Clone, Debug)]
pub struct Row {
    pub case: &'static str,
    pub what: String,
    pub ours: f64,
    pub theirs: Option<f64>,
    pub unit: &'static str,
    /// The goal for the ratio (`ours / theirs`), or for the value if there is no comparison.
    pub goal: Option<Goal>,
}

#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Row {
    pub fn ratio(&self) -> Option<f64> {
        self.theirs.filter(|t| *t != 0.0).map(|t| self.ours / t)
    }

    fn met(&self) -> Option<bool> {
        let value = self.ratio().unwrap_or(self.ours);
        self.goal.map(|goal| match goal {
            Goal::AtLeast(limit) => value >= limit,
            Goal::AtMost(limit) => value <= limit,
        })
    }

    fn verdict(&self) -> String {
        match (self.goal, self.met()) {
            (Some(Goal::AtLeast(limit)), Some(met)) => format!("{} (>= {limit})", if met { "met" } else { "MISSED" }),
            (Some(Goal::AtMost(limit)), Some(met)) => format!("{} (<= {limit})", if met { "met" } else { "MISSED" }),
            _ => String::new(),
        }
    }
}

/// A distribution, for a plot.
#[derive(Clone, Debug)]
pub struct Histogram {
    pub name: String,
    /// The sorted values.
    pub values: Vec<f64>,
}

#[derive(Debug, Default)]
pub struct Report {
    pub rows: Vec<Row>,
    pub histograms: Vec<Histogram>,
    pub failed: Vec<String>,
}

impl Report {
    /// Adds a row and prints it.
    pub fn row(
        &mut self,
        case: &'static str,
        what: impl Into<String>,
        ours: f64,
        theirs: Option<f64>,
        unit: &'static str,
        goal: Option<Goal>,
    ) {
        let row = Row { case, what: what.into(), ours, theirs, unit, goal };
        println!("   {}", line(&row));
        self.rows.push(row);
    }

    /// Prints all rows once more and writes the files.
    pub fn finish(&self) -> Result<()> {
        let folder = folder();
        fs::create_dir_all(&folder)?;
        println!("\n== all");
        for row in &self.rows {
            println!("{:<10} {}", row.case, line(row));
        }
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|r| {
                json!({"case": r.case, "what": r.what, "value": r.ours, "compared_with": r.theirs, "ratio": r.ratio(),
                    "unit": r.unit, "goal_met": r.met()})
            })
            .collect();
        let histograms: Vec<_> = self
            .histograms
            .iter()
            .map(|h| {
                let quantiles: Vec<f64> = (0..=1000).map(|q| quantile(&h.values, f64::from(q) / 1000.0)).collect();
                json!({"name": h.name, "unit": "ms", "permilles": quantiles})
            })
            .collect();
        let text = serde_json::to_string_pretty(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "rows": rows, "histograms": histograms, "failed": self.failed,
        }))?;
        fs::write(folder.join("results.json"), text)?;
        let mut cases: Vec<&str> = self.rows.iter().map(|r| r.case).collect();
        cases.dedup();
        for case in cases {
            let rows: Vec<&Row> = self.rows.iter().filter(|r| r.case == case).collect();
            fs::write(folder.join(format!("{case}.svg")), crate::plot::bars(case, &rows))?;
        }
        if !self.histograms.is_empty() {
            fs::write(folder.join("latency-distribution.svg"), crate::plot::distributions(&self.histograms))?;
        }
        println!("\nwritten to {}", folder.display());
        if !self.failed.is_empty() {
            bail!("failed: {}", self.failed.join(", "));
        }
        Ok(())
    }
}

/// Returns the folder of the files. Git ignores it.
pub fn folder() -> PathBuf {
    outbox_harness::postgres::root().join("target/bench")
}

fn line(row: &Row) -> String {
    let compared = match (row.theirs, row.ratio()) {
        (Some(theirs), Some(ratio)) => format!("against {:>12}  ratio {ratio:>6.2}", number(theirs)),
        _ => String::new(),
    };
    format!("{:<58} {:>12} {:<10} {compared:<36} {}", row.what, number(row.ours), row.unit, row.verdict())
        .trim_end()
        .to_owned()
}

fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// Returns the `q` quantile of sorted values.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    if sorted.is_empty() { f64::NAN } else { sorted[((sorted.len() - 1) as f64 * q).round() as usize] }
}
