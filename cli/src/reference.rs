//! Generates docs/cli.md, the page that lists the commands, from the definitions that the program parses.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::args::Args;

const HEAD: &str = "# The command line

`outbox` (`cargo install --path cli` from a checkout) looks at and operates the outbox of a database. This page is made from the
program itself; a test fails when they differ.

The connection comes from `--dsn`, else from `DATABASE_URL`. A setting that they lack comes from where libpq takes it: the service
file, variables such as `PGHOST` and `PGUSER`, the password file. With `--json` every command prints one JSON value per line, and errors
as JSON on the standard error. Without it, tables are wrapped to the width of the terminal, and never cut; into a pipe or a file, a row is one line.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | `status`, `doctor`: something is wrong; `replay`: it failed or was cancelled |
| 2 | wrong usage or invalid arguments |
| 3 | not found |
| 4 | conflict: the object is not in a state in which this can be done; of a selection of dead letters, some were not |
| 5 | try again later: no connection, the server restarts |
| 6 | fatal: no extension, no privilege, another version |
| 130 | interrupted while a replay goes on |

`outbox top`, as it draws itself:

![outbox top](top.svg)
";

/// The page in Markdown.
fn reference() -> String {
    let mut out = HEAD.to_owned();
    let mut program = Args::command();
    program.build();
    for command in program.get_subcommands().filter(|command| command.get_name() != "help") {
        describe(&mut out, command, &format!("outbox {}", command.get_name()), 2);
    }
    out
}

fn describe(out: &mut String, command: &Command, name: &str, level: usize) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(out, "\n{} {name}\n\n{about}", "#".repeat(level));
    let children: Vec<&Command> = command.get_subcommands().filter(|child| child.get_name() != "help").collect();
    if children.is_empty() {
        usage(out, command, name);
        return;
    }
    for child in children {
        let about = child.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, "\n{} {name} {}\n\n{about}", "#".repeat(level + 1), child.get_name());
        usage(out, child, &format!("{name} {}", child.get_name()));
    }
}

fn usage(out: &mut String, command: &Command, name: &str) {
    let own: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| {
            !arg.is_global_set() && !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str())
        })
        .collect();
    let mut line = name.to_owned();
    for arg in &own {
        let text = form(arg);
        let _ = if arg.is_required_set() { write!(line, " {text}") } else { write!(line, " [{text}]") };
    }
    let _ = writeln!(out, "\n```console\n$ {line}\n```");
    let helped: Vec<&&Arg> = own.iter().filter(|arg| arg.get_help().is_some()).collect();
    if !helped.is_empty() {
        out.push('\n');
    }
    for arg in helped {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let default: Vec<String> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        let default = if default.is_empty() || !arg.get_action().takes_values() {
            String::new()
        } else {
            format!(" (default `{}`)", default.join(" "))
        };
        let _ = writeln!(out, "- `{}`: {help}{default}", form(arg));
    }
}

/// An argument as a user types it.
fn form(arg: &Arg) -> String {
    let values: Vec<String> = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let value = values.first().cloned().unwrap_or_else(|| arg.get_id().to_string().to_uppercase());
    let several = matches!(arg.get_action(), ArgAction::Append) && arg.is_positional();
    let flag = match (arg.get_short(), arg.get_long()) {
        (_, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => return if several { format!("{value}...") } else { value },
    };
    if arg.get_action().takes_values() { format!("{flag} {value}") } else { flag }
}

#[test]
#[allow(clippy::unwrap_used, reason = "a test")]
fn the_page_of_the_command_line_is_what_the_program_parses() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let text = reference();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(page, &text).unwrap();
    }
    assert!(std::fs::read_to_string(page).unwrap_or_default() == text, "out of date: run this test with UPDATE=1");
}
