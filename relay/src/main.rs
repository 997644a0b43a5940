//! The program `outbox-relay`: hands the feed of an outbox to a broker, in order.
//!
//! Exit codes are those of the command line `outbox`:
//!
//! - 0: ended by a signal, caught up (`--once`), or the check found nothing.
//! - 2: wrong usage or configuration.
//! - 3: not found.
//! - 4: conflict; the check found a problem; a relay is stopped (`--once`).
//! - 5: try again later (no connection, or another instance is active with `--once`).
//! - 6: fatal (no extension, no privilege).
#![allow(clippy::print_stdout, reason = "a command line prints")]

mod backoff;
mod check;
mod config;
mod log;
mod record;
mod relay;
mod sink;
mod source;
mod template;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pg_outbox::error::{Error, Kind, Result};
use tokio::sync::watch;

use crate::config::Config;

/// Relay the feed of a transactional outbox to Kafka, NATS, RabbitMQ, Redis, MQTT, SQS, SNS, Kinesis, another PostgreSQL or a file
#[derive(Debug, Parser)]
#[command(name = "outbox-relay", version, about, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relays of a configuration file until SIGTERM or SIGINT
    Run {
        /// Configuration file (TOML)
        file: PathBuf,
        /// Run only this relay; without it, all relays of the file run
        #[arg(long)]
        relay: Option<String>,
        /// End when everything that is in the feed now has been relayed. Beside an active instance, this one waits for three
        /// heartbeats and then ends with exit code 5
        #[arg(long)]
        once: bool,
    },
    /// Check a configuration file against the live database and broker, and show what would be sent next
    Check {
        /// Configuration file (TOML)
        file: PathBuf,
        /// Check only this relay
        #[arg(long)]
        relay: Option<String>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("outbox-relay: {error}");
            return ExitCode::from(6);
        }
    };
    let code = match runtime.block_on(execute(args.command)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("outbox-relay: {}", error.report());
            exit_code(&error)
        }
    };
    // The client of a broker that hangs may still wait for it in a thread of its own.
    runtime.shutdown_background();
    ExitCode::from(code)
}

fn exit_code(error: &Error) -> u8 {
    match error.kind() {
        Kind::Invalid => 2,
        Kind::NotFound => 3,
        Kind::Conflict | Kind::LeaseLost | Kind::Inactive => 4,
        Kind::Retry => 5,
        Kind::Fatal => 6,
    }
}

async fn execute(command: Command) -> Result<u8> {
    match command {
        Command::Check { file, relay } => check::check(&Config::load(&file)?.only(relay.as_deref())?).await,
        Command::Run { file, relay, once } => {
            let config = Config::load(&file)?.only(relay.as_deref())?;
            let (end, ended) = watch::channel(false);
            let mut running = tokio::task::JoinSet::new();
            for settings in config.relays {
                let relay = relay::Relay::new(&config.source, settings, once)?;
                running.spawn(relay.run(ended.clone()));
            }
            let signals = tokio::spawn(async move {
                wait_for_signal().await;
                let _ = end.send(true);
                // The second signal does not wait for the broker.
                wait_for_signal().await;
                std::process::exit(130);
            });
            let mut code = 0;
            while let Some(result) = running.join_next().await {
                code = code.max(result.unwrap_or(6));
            }
            signals.abort();
            Ok(code)
        }
    }
}

async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
