//! `make bench`: measures ratios within one run, on the reader's machine.
//!
//! BENCH=name runs one case. BENCH=all also runs the cases that take long. Results are written to target/bench as JSON
//! and as plots.

mod bare;
mod cases;
mod measure;
mod plot;
mod report;

use anyhow::Result;
use report::Report;

/// A typical payload of about 250 bytes.
pub const PAYLOAD: &str = r#"{"order_id": 12345, "customer": "c-778899", "amount": 129.95, "currency": "EUR", "items": [{"sku": "ABC-1", "qty": 2}, {"sku": "DEF-9", "qty": 1}], "address": {"street": "Main 1", "city": "Bern", "zip": "3000"}, "note": "please ring twice"}"#;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> std::process::ExitCode {
    match all().await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn all() -> Result<()> {
    let wanted = std::env::var("BENCH").ok().or_else(|| std::env::args().nth(1));
    if let Some(name) = &wanted
        && name != "all"
        && !cases::ALL.iter().any(|(known, ..)| known == name)
    {
        let known: Vec<&str> = cases::ALL.iter().map(|(name, ..)| *name).collect();
        anyhow::bail!("there is no case '{name}'; there are {}", known.join(", "));
    }
    let mut report = Report::default();
    for (name, what, case) in cases::ALL {
        let runs = match wanted.as_deref() {
            None => !cases::BY_NAME.contains(name),
            Some(wanted) => wanted == "all" || wanted == *name,
        };
        if runs {
            println!("\n== {name}: {what}");
            let started = std::time::Instant::now();
            if let Err(error) = case(&mut report).await {
                println!("   failed: {error:#}");
                report.failed.push((*name).to_owned());
            }
            println!("   ({:.0} s)", started.elapsed().as_secs_f64());
        }
    }
    report.finish()
}
