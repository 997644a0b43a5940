//! The commands of the event store: `streams`, `events`, `project`, `sagas` and `export`.

use std::pin::pin;
use std::time::Duration;

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use crate::output;
use pg_outbox::error::{Error, Kind, Result};
use pg_outbox::outbox::Outbox;

const PROJECTION: &[&str] =
    &["name", "version", "kind", "state", "position", "lag_positions", "percent", "failed_position", "error"];
const SAGA: &[&str] = &["saga_type", "saga_id", "correlation_id", "status", "step", "version", "updated_at"];
const INFO: &[&str] = &["stream", "version"];

/// The longest wait between two tries of a projection that cannot run at the moment.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Lists streams by name.
#[derive(Debug, ClapArgs)]
pub(super) struct Streams {
    /// Show this stream
    pub(super) stream: Option<String>,
    /// Only streams of this category
    #[arg(long, conflicts_with = "stream")]
    pub(super) category: Option<String>,
    /// Only streams after this name
    #[arg(long, default_value = "", conflicts_with = "stream")]
    pub(super) after: String,
    /// List at most this many
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(super) limit: i32,
}

/// Prints the events of a stream, or those of all streams in the committed order.
#[derive(Debug, ClapArgs)]
pub(super) struct Events {
    /// The stream; without it, all streams
    pub(super) stream: Option<String>,
    /// Start at this version of the stream
    #[arg(long, requires = "stream")]
    pub(super) from: Option<i64>,
    /// Print the stream from its end
    #[arg(long, requires = "stream")]
    pub(super) backwards: bool,
    /// Only events of this category; may be repeated
    #[arg(long = "category", conflicts_with = "stream")]
    pub(super) categories: Vec<String>,
    /// Only events of these types (patterns as for topics); may be repeated
    #[arg(long = "type", conflicts_with = "stream")]
    pub(super) types: Vec<String>,
    /// Start after this position
    #[arg(long, default_value_t = 0, conflicts_with = "stream")]
    pub(super) after: i64,
    /// Wait for further events
    #[arg(long, conflicts_with = "stream")]
    pub(super) follow: bool,
    /// Stop after this many events
    #[arg(short = 'n', long)]
    pub(super) count: Option<u64>,
}

/// Runs a projection, or lists the projections.
#[derive(Debug, ClapArgs)]
pub(super) struct Project {
    /// The projection; without it, list all of them
    pub(super) name: Option<String>,
    /// Events that one transaction applies
    #[arg(long, default_value_t = 1000)]
    pub(super) max_events: i32,
    /// End when the projection is up to date
    #[arg(long, requires = "name")]
    pub(super) once: bool,
    /// Seconds between looks for new events
    #[arg(long, default_value_t = 0.5)]
    pub(super) every: f64,
}

/// Lists sagas.
#[derive(Debug, ClapArgs)]
pub(super) struct Sagas {
    /// Only sagas of this type
    pub(super) saga_type: Option<String>,
    /// Show this saga, with its state
    #[arg(requires = "saga_type")]
    pub(super) saga_id: Option<String>,
    /// Only sagas with this status
    #[arg(long, conflicts_with = "saga_id")]
    pub(super) status: Option<String>,
    /// List at most this many
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(super) limit: i64,
}

/// Exports the events that concern a person, one JSON object per line, with the counts at the end.
#[derive(Debug, ClapArgs)]
pub(super) struct Export {
    /// Only this stream; may be repeated
    #[arg(long = "stream")]
    pub(super) streams: Vec<String>,
    /// Only events of these types (patterns as for topics); may be repeated
    #[arg(long = "type")]
    pub(super) types: Vec<String>,
    /// Only streams whose name begins like this
    #[arg(long)]
    pub(super) prefix: Option<String>,
    /// Only events of this tenant
    #[arg(long)]
    pub(super) tenant: Option<String>,
    /// Only events whose metadata have this user_id
    #[arg(long)]
    pub(super) user: Option<String>,
    /// Only events whose metadata contain this JSON object
    #[arg(long)]
    pub(super) metadata: Option<String>,
    /// Only events that were stored at this time or later
    #[arg(long)]
    pub(super) from: Option<String>,
    /// Only events that were stored at this time or earlier
    #[arg(long)]
    pub(super) to: Option<String>,
}

/// Null for an empty list, which stands for no condition.
fn some(list: &[String]) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

/// Runs the command `streams`.
pub(super) async fn streams(outbox: &Outbox, json: bool, what: Streams) -> Result<()> {
    if let Some(stream) = what.stream {
        let rows = outbox.call("stream_info", json!({"stream": stream}), &[]).await?;
        rows.first().into_iter().for_each(|row| output::row(json, row));
        return Ok(());
    }
    let args = json!({"category": what.category, "after": what.after, "max_streams": what.limit});
    output::rows(json, &outbox.call("streams", args, &[]).await?, INFO);
    Ok(())
}

/// Runs the command `events`.
pub(super) async fn events(outbox: &Outbox, json: bool, what: Events) -> Result<()> {
    let mut left = what.count.unwrap_or(u64::MAX);
    let page = |left: u64| left.min(1000);
    if let Some(stream) = &what.stream {
        let mut from = what.from;
        while left > 0 {
            let args =
                json!({"stream": stream, "from_version": from, "max_events": page(left), "backwards": what.backwards});
            let rows = outbox.call("load", args, &[]).await?;
            rows.iter().for_each(|row| print_event(json, row, "version"));
            left -= rows.len() as u64;
            let Some(last) = rows.last().and_then(|row| row["version"].as_i64()) else { break };
            if what.backwards && last == 1 {
                break;
            }
            from = Some(if what.backwards { last - 1 } else { last + 1 });
        }
        return Ok(());
    }
    let mut after = what.after;
    let mut interrupt = pin!(interrupt(what.follow));
    while left > 0 {
        let args = json!({"after_position": after, "max_events": page(left), "categories": some(&what.categories),
            "types": some(&what.types)});
        let rows = tokio::select! {
            rows = outbox.call("read_events", args, &[]) => rows?,
            () = &mut interrupt => return Ok(()),
        };
        for row in rows.iter().filter(|row| !row["message_id"].is_null()) {
            print_event(json, row, "position");
            left -= 1;
        }
        match rows.last().and_then(|row| row["position"].as_i64()) {
            Some(last) => after = last,
            None if !what.follow => break,
            None => tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
                () = &mut interrupt => return Ok(()),
            },
        }
    }
    Ok(())
}

fn print_event(json: bool, row: &Value, place: &str) {
    if json {
        println!("{row}");
        return;
    }
    let content = if row["data"].is_null() { &row["body"] } else { &row["data"] };
    let (place, stream, kind) = (output::text(&row[place]), output::text(&row["stream"]), output::text(&row["type"]));
    println!("{place:>8}  {stream}  {kind}  {}", output::text(content));
}

/// Runs the command `project`.
pub(super) async fn project(outbox: &Outbox, json: bool, what: Project) -> Result<()> {
    let Some(name) = what.name else {
        output::rows(json, &outbox.table("projections", json!({}), 10_000, &[]).await?, PROJECTION);
        return Ok(());
    };
    let every = Duration::from_secs_f64(what.every.clamp(0.01, 3600.0));
    let mut wait = every;
    let mut interrupt = pin!(interrupt(!what.once));
    loop {
        let applied = tokio::select! {
            applied = round(outbox, &name, what.max_events) => applied,
            () = &mut interrupt => return Ok(()),
        };
        match applied {
            Ok(0) if what.once => return Ok(()),
            Ok(0) => wait = every,
            Ok(applied) => {
                let text = format!("{applied} events applied");
                output::row(json, &if json { json!({"projection": name, "applied": applied}) } else { json!(text) });
                continue;
            }
            // The server is away, or another session was in the way.
            Err(error) if error.kind() == Kind::Retry && !what.once => {
                eprintln!("outbox: {error}; trying again in {} s", wait.as_secs_f64());
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = &mut interrupt => return Ok(()),
        }
    }
}

/// Waits for Ctrl-C, with which a command that follows ends as intended. A command that has an end is killed by it.
async fn interrupt(follows: bool) {
    if !follows || tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// Applies a page to each version of a projection that follows events, and returns how many events that were.
async fn round(outbox: &Outbox, name: &str, max_events: i32) -> Result<i64> {
    let versions = outbox.table("projections", json!({"name": name}), 1000, &[]).await?;
    if versions.is_empty() {
        return Err(
            Error::new("OB001", format!("projection \"{name}\" does not exist")).hint("outbox project lists them.")
        );
    }
    // A version that is paused or faulted says so, unless another one can go on.
    let able = |row: &&Value| matches!(row["state"].as_str(), Some("running" | "catching_up" | "rebuilding"));
    let chosen: Vec<&Value> = match versions.iter().filter(able).collect::<Vec<_>>() {
        able if able.is_empty() => versions.iter().rev().take(1).collect(),
        able => able,
    };
    let mut applied = 0;
    for row in chosen {
        let args = json!({"name": name, "max_events": max_events, "version": row["version"]});
        let count = outbox.call("run_projection", args, &[]).await?;
        applied += count.first().and_then(Value::as_i64).unwrap_or(0);
    }
    Ok(applied)
}

/// Runs the command `sagas`.
pub(super) async fn sagas(outbox: &Outbox, json: bool, what: Sagas) -> Result<()> {
    if let (Some(saga_type), Some(saga_id)) = (&what.saga_type, &what.saga_id) {
        let rows = outbox.call("saga_load", json!({"saga_type": saga_type, "saga_id": saga_id}), &[]).await?;
        rows.first().into_iter().for_each(|row| output::row(json, row));
        return Ok(());
    }
    let given = [("saga_type", what.saga_type), ("status", what.status)];
    let filter: serde_json::Map<String, Value> =
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))).collect();
    output::rows(json, &outbox.table("sagas", filter, what.limit, &[]).await?, SAGA);
    Ok(())
}

/// Runs the command `export`.
pub(super) async fn export(outbox: &Outbox, what: Export) -> Result<()> {
    let metadata: Value = what.metadata.as_deref().map_or(Ok(Value::Null), serde_json::from_str)?;
    let mut args = json!({
        "streams": some(&what.streams), "types": some(&what.types), "stream_prefix": what.prefix, "tenant": what.tenant,
        "user_id": what.user, "metadata": metadata, "from_time": what.from, "to_time": what.to,
    });
    let (mut events, mut redacted, mut streams) = (0_u64, 0_u64, std::collections::BTreeSet::new());
    loop {
        let rows = outbox.call("export_subject", &args, &[]).await?;
        let Some(last) = rows.last() else { break };
        args["after"] = last["next"].clone();
        for row in rows.iter().filter(|row| !row["message_id"].is_null()) {
            events += 1;
            redacted += u64::from(row["redacted"] == true);
            streams.insert(output::text(&row["stream"]));
            let mut row = row.clone();
            row.as_object_mut().and_then(|fields| fields.remove("next"));
            println!("{row}");
        }
    }
    println!("{}", json!({"events": events, "redacted": redacted, "streams": streams.len()}));
    Ok(())
}
