//! `make chaos` with these variables: SECONDS=n (default 60), SEED=n (default: drawn and printed), PRODUCERS=n (default 6),
//! ONLY=Crash,Mood (only these events), HOLD=1 (after a breach the server stays up until Ctrl-C).
//!
//! Exit code 0: every guarantee held. Exit code 1: a guarantee did not hold. Exit code 2: the test itself failed.

use std::process::ExitCode;
use std::time::Duration;

use outbox_chaos::{Plan, run, schedule};

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| {
            eprintln!("{name}: '{text}' is not a number");
            std::process::exit(2);
        }),
        Err(_) => default,
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 4)]
async fn main() -> ExitCode {
    let drawn = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_millis() as u64);
    let seed = number("SEED", drawn % 1_000_000);
    let length = Duration::from_secs(number("SECONDS", 60).clamp(1, 86_400));
    let mut events = schedule::plan(seed, length, Duration::from_millis(1500), true);
    if let Ok(only) = std::env::var("ONLY") {
        events.retain(|(_, event)| only.split(',').any(|name| format!("{event:?}").starts_with(name)));
    }
    let plan = Plan {
        seed,
        producers: number("PRODUCERS", 6).clamp(1, 30),
        events,
        length,
        bounded_disk: true,
        patience: Duration::from_secs(120) + length / 2,
        loud: true,
        hold: std::env::var_os("HOLD").is_some(),
    };
    println!(
        "chaos: seed {seed}, {} s, {} events (repeat it: make chaos SEED={seed} SECONDS={})",
        length.as_secs(),
        plan.events.len(),
        length.as_secs()
    );
    match run(&plan).await {
        Ok(verdict) => {
            print!("\n{verdict}");
            println!("\nseed {seed}: {}", if verdict.holds() { "every guarantee held" } else { "BREACH" });
            ExitCode::from(u8::from(!verdict.holds()))
        }
        Err(error) => {
            eprintln!("chaos: the run itself went wrong: {error:#}");
            ExitCode::from(2)
        }
    }
}
