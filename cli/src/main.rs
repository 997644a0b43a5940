//! The command line `outbox`.
//!
//! Exit codes:
//!
//! - 0: done.
//! - 1: `doctor` or `status` found something wrong, or a replay failed or was cancelled.
//! - 2: wrong usage or invalid arguments.
//! - 3: not found.
//! - 4: conflict; of a selection of dead letters, some could not be decided on.
//! - 5: try again later (no connection).
//! - 6: fatal (no extension, no privilege).
//! - 130: interrupted while a replay goes on.
#![allow(clippy::print_stdout, reason = "a command line prints")]

mod args;
mod ask;
mod dead_letters;
mod doctor;
mod events;
mod message;
mod output;
#[cfg(test)]
mod reference;
mod replay;
mod run;
mod screen;
mod serve;

use std::process::ExitCode;

use clap::Parser;

use pg_outbox::error::{Error, Kind};

fn main() -> ExitCode {
    let args = args::Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("outbox: {error}");
            return ExitCode::from(6);
        }
    };
    let json = args.json;
    match runtime.block_on(run::run(args)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&error, json);
            ExitCode::from(exit_code(&error))
        }
    }
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

fn report(error: &Error, json: bool) {
    if json {
        let d = error.details();
        let value = serde_json::json!({"error": {
            "kind": error.kind().as_str(), "code": d.code, "name": d.name, "message": d.message, "detail": d.detail, "hint": d.hint,
        }});
        eprintln!("{value}");
    } else {
        eprintln!("outbox: {}", error.report());
    }
}
