//! The command `replay`: starts a replay and follows it, or follows, lists or cancels existing replays.
//!
//! The server does the work of a replay. A program that follows the replay may exit; the replay goes on.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::args::{More, Replay};
use crate::{ask, output};
use pg_outbox::error::{Error, Result};
use pg_outbox::outbox::Outbox;

/// The exit code of an interrupted program.
const INTERRUPTED: u8 = 130;

const COLUMNS: &[&str] = &[
    "replay_id",
    "subscription",
    "state",
    "from_position",
    "to_position",
    "position",
    "percent",
    "matched",
    "waiting",
    "rate",
];

/// Runs the command and returns its exit code.
pub(super) async fn run(outbox: &Outbox, json: bool, what: Replay, args: Vec<(String, String)>) -> Result<u8> {
    if what.list {
        output::rows(json, &outbox.table("replay_status", json!({}), 10_000, &[]).await?, COLUMNS);
        return Ok(0);
    }
    if let Some(id) = what.cancel {
        let cancelled = outbox.call("cancel_replay", json!({"replay_id": id}), &[]).await?;
        let count = cancelled.first().cloned().unwrap_or(Value::Null);
        let text = format!("replay {id} is cancelled, with {count} deliveries that were waiting");
        output::row(json, &if json { json!({"replay_id": id, "cancelled": count}) } else { json!(text) });
        return Ok(0);
    }
    let id = match (what.follow, what.subscription) {
        (Some(id), _) => id,
        (None, subscription) => {
            let args = ask::with(json!({"subscription": subscription}), More { set: args });
            let started = ask::call(outbox, "replay", args).await?;
            started.first().and_then(Value::as_i64).unwrap_or(0)
        }
    };
    follow(outbox, json, id).await
}

/// Shows the progress of a replay until the replay has ended.
async fn follow(outbox: &Outbox, json: bool, id: i64) -> Result<u8> {
    let bar = ProgressBar::new(0);
    bar.set_style(
        ProgressStyle::with_template("{prefix}  [{bar:40}] {pos}/{len} positions  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> "),
    );
    bar.set_prefix(format!("replay {id}"));
    if json || !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    // Registered before the loop: an interrupt between two polls would otherwise kill the program without the hint.
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        let rows = outbox.table("replay_status", json!({"replay_id": id}), 1, &[]).await?;
        let Some(row) = rows.into_iter().next() else {
            return Err(Error::new("OB001", format!("replay {id} does not exist")).hint("outbox replay --list"));
        };
        let number = |name: &str| row[name].as_u64().unwrap_or(0);
        let before = number("from_position").saturating_sub(1);
        bar.set_length(number("to_position").saturating_sub(before));
        bar.set_position(number("position").saturating_sub(before));
        bar.set_message(format!("{} matched, {} not delivered yet", number("matched"), number("waiting")));
        if !matches!(row["state"].as_str(), Some("running" | "draining")) {
            bar.finish_and_clear();
            output::row(json, &row);
            return Ok(u8::from(row["state"] != "completed"));
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
            _ = &mut interrupt => {
                bar.abandon();
                eprintln!("replay {id} goes on: watch it with \"outbox replay --follow {id}\", end it with \"outbox replay --cancel {id}\"");
                return Ok(INTERRUPTED);
            }
        }
    }
}
