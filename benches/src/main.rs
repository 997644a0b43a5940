//! `make bench`: figures as ratios within one run, on the reader's own machine.

mod bare;
mod batch;
mod cases;
mod http2;

use std::collections::BTreeMap;

use anyhow::Result;

/// A payload of about 250 bytes, like the ones that people send.
pub const PAYLOAD: &str = r#"{"order_id": 12345, "customer": "c-778899", "amount": 129.95, "currency": "EUR", "items": [{"sku": "ABC-1", "qty": 2}, {"sku": "DEF-9", "qty": 1}], "address": {"street": "Main 1", "city": "Bern", "zip": "3000"}, "note": "please ring twice"}"#;

/// Results of a run: name of a figure to its value.
pub type Figures = BTreeMap<String, f64>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let wanted = std::env::var("BENCH").ok().or_else(|| std::env::args().nth(1));
    let mut figures = Figures::new();
    for (name, what, case) in cases::ALL {
        if wanted.as_deref().is_none_or(|wanted| wanted == *name) {
            println!("== {name}: {what}");
            case(&mut figures).await?;
        }
    }
    Ok(())
}
