//! The command line of pg_outbox.

use std::process::ExitCode;

fn main() -> ExitCode {
    pg_outbox::cli::main()
}
