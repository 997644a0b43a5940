//! Runs the commands.

use std::time::Duration;

use clap::CommandFactory;
use serde_json::{Map, Value, json};

use crate::args::{Archive, Args, By, Command, Cursor, Delivery, Endpoint, More, Registry, Subscription, Worker};
use crate::ask::{call, call_void, with};
use crate::screen::{Screen, View, top};
use crate::{ask, dead_letters, doctor, events, message, output, replay, serve};
use pg_outbox::connect::Target;
use pg_outbox::error::{Error, Result};
use pg_outbox::outbox::Outbox;
use pg_outbox::testing::Receiver;
use pg_outbox::verify::Verifier;

const ENDPOINT: &[&str] = &["name", "url", "state", "concurrency", "timeout", "tenant", "subscriptions", "last_error"];
const SUBSCRIPTION: &[&str] = &[
    "name",
    "topics",
    "filter",
    "endpoint",
    "ordering",
    "paused",
    "behind",
    "waiting",
    "leased",
    "oldest",
    "claimed_at",
    "dead",
];
const DELIVERY: &[&str] =
    &["id", "subscription", "message", "state", "attempt", "next_at", "worker", "lease_ends_at", "last_error"];
const WORKER: &[&str] = &["worker", "subscription", "leases", "deliveries", "oldest_claimed_at", "expires_at"];
const CURSOR: &[&str] = &[
    "consumer",
    "stream",
    "subject",
    "position",
    "behind",
    "lag",
    "moved_at",
    "failing_at",
    "failed_position",
    "last_error",
];
const ARCHIVE: &[&str] =
    &["id", "topic", "key", "status", "integrations_succeeded", "integrations_failed", "last_error", "processed_at"];

const OPEN_DELIVERIES: &str = "
    select d.* from outbox.delivery_status d
    where ($1::text is null or d.subscription = $1)
        and case when $2::text is null then d.state in ('pending', 'processing', 'failed') else d.state = $2 end
        and ($3::text is null or d.locked_by = $3) and ($4::text is null or d.message_id = $4::bigint)
    order by coalesce(d.next_attempt_at, d.locked_at), d.delivery_id limit $5::bigint";

const WORKERS: &str = "
    select l.worker, l.subscription, count(*) as leases, sum(l.deliveries)::bigint as deliveries,
        min(l.claimed_at) as oldest_claimed_at, min(l.expires_at) as expires_at
    from outbox.lease_status l group by l.worker, l.subscription order by min(l.claimed_at) limit 10000";

/// The variable with the connection string.
const VARIABLE: &str = "DATABASE_URL";

/// Returns the outbox of the connection string, without connecting yet. Errors of the connection name the server, and the
/// place where each setting is from.
pub(super) fn lazy(dsn: Option<&str>, pool_size: usize) -> Result<Outbox> {
    Outbox::with_target(target(dsn)?, pool_size)
}

fn target(dsn: Option<&str>) -> Result<Target> {
    let variable = std::env::var(VARIABLE).unwrap_or_default();
    match dsn {
        Some(dsn) => Target::parse_from(dsn, "--dsn"),
        None if !variable.is_empty() => Target::parse_from(&variable, VARIABLE),
        None => Target::parse(""),
    }
}

async fn metrics(outbox: &Outbox, json: bool) -> Result<()> {
    let rows = outbox.call("metrics", json!({}), &[]).await?;
    if json {
        rows.iter().for_each(|row| println!("{row}"));
    } else {
        print!("{}", pg_outbox_serve::metrics::exposition(&rows));
    }
    Ok(())
}

/// Runs one command and returns its exit code.
pub(super) async fn run(args: Args) -> Result<u8> {
    let json = args.json;
    let dsn = args.dsn.as_deref();
    match args.command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "outbox", &mut std::io::stdout());
            Ok(0)
        }
        Command::Listen { address, secret, status, count } => {
            listen(json, &address, secret.as_deref(), status, count).await?;
            Ok(0)
        }
        Command::Doctor => doctor::run(dsn, json).await,
        Command::Serve(how) => {
            serve::run(|| target(dsn), how).await?;
            Ok(0)
        }
        command => {
            let outbox = lazy(dsn, 8)?;
            outbox.check().await?;
            run_connected(&outbox, json, command).await
        }
    }
}

/// Runs a command that needs the outbox of a database.
async fn run_connected(outbox: &Outbox, json: bool, command: Command) -> Result<u8> {
    match command {
        Command::Status { over, all } => return status(outbox, json, over, all).await,
        Command::Replay { what, args } => return replay::run(outbox, json, what, args).await,
        Command::DeadLetter(command) => return dead_letters::run(outbox, json, command).await,
        Command::Top { every, count, picture: None } => top::run(outbox, every, count).await?,
        Command::Top { every, count, picture: Some(file) } => {
            top::draw(outbox, every, count.unwrap_or(2), &file).await?;
        }
        Command::Metrics => metrics(outbox, json).await?,
        Command::Tail { topics, after, count } => tail(outbox, json, topics, after, count).await?,
        Command::Send(new) => message::send(outbox, json, new).await?,
        Command::Endpoint(command) => endpoint(outbox, json, command).await?,
        Command::Subscription(command) => subscription(outbox, json, command).await?,
        Command::Delivery(command) => deliveries(outbox, json, command).await?,
        Command::Worker(Worker::List) => output::rows(json, &ask::query(outbox, WORKERS, &[]).await?, WORKER),
        Command::Cursor(command) => cursor(outbox, json, command).await?,
        Command::Message(command) => message::run(outbox, json, command).await?,
        Command::Topic(command) => registry(outbox, json, "topic", command).await?,
        Command::Publisher(command) => registry(outbox, json, "publisher", command).await?,
        Command::Archive(command) => archive(outbox, json, command).await?,
        Command::Streams(what) => events::streams(outbox, json, what).await?,
        Command::Events(what) => events::events(outbox, json, what).await?,
        Command::Project(what) => events::project(outbox, json, what).await?,
        Command::Sagas(what) => events::sagas(outbox, json, what).await?,
        Command::Export(what) => events::export(outbox, what).await?,
        Command::Call { function, args } => print(outbox, json, &function, with(json!({}), More { set: args })).await?,
        // These commands need no outbox.
        Command::Completions { .. } | Command::Listen { .. } | Command::Doctor | Command::Serve(_) => {}
    }
    Ok(0)
}

async fn endpoint(outbox: &Outbox, json: bool, command: Endpoint) -> Result<()> {
    match command {
        Endpoint::List => {
            let rows = outbox.table("endpoint_status", json!({}), 10_000, &[]).await?;
            let rows: Vec<Value> = rows.into_iter().filter(|row| row["state"] != "dropped").collect();
            output::rows(json, &rows, &message::filled(&rows, ENDPOINT));
            Ok(())
        }
        Endpoint::Show { name } => {
            show(json, alive(outbox.table("endpoint", json!({"name": name}), 10, &[]).await?), "endpoint", &name)
        }
        Endpoint::Create { name, url, more } => {
            print(outbox, json, "create_endpoint", with(json!({"name": name, "url": url}), more)).await
        }
        Endpoint::Enable { name } => {
            change(outbox, json, "enable_endpoint", json!({"name": name}), "endpoint", "enabled").await
        }
        Endpoint::Disable { name, more } => {
            change(outbox, json, "disable_endpoint", with(json!({"name": name}), more), "endpoint", "disabled").await
        }
        Endpoint::RotateSecret { name, more } => {
            print(outbox, json, "rotate_secret", with(json!({"name": name}), more)).await
        }
        Endpoint::Drop { name } => {
            change(outbox, json, "drop_endpoint", json!({"name": name}), "endpoint", "dropped").await
        }
    }
}

async fn subscription(outbox: &Outbox, json: bool, command: Subscription) -> Result<()> {
    const KIND: &str = "subscription";
    match command {
        Subscription::List => {
            let mut rows = outbox.table("subscription_status", json!({}), 10_000, &["oldest_due_age"]).await?;
            for row in rows.iter_mut().filter(|_| !json) {
                short(
                    row,
                    &[
                        ("lag_positions", "behind"),
                        ("processing", "leased"),
                        ("last_claim_at", "claimed_at"),
                        ("dead_letters", "dead"),
                    ],
                );
                row["oldest"] = json!(row["oldest_due_age"].as_f64().map(output::age));
                // The usual case is left out.
                row["paused"] = if row["paused"] == true { json!("paused") } else { Value::Null };
                row["ordering"] = if row["ordering"] == "none" { Value::Null } else { row["ordering"].clone() };
            }
            output::rows(json, &rows, &message::filled(&rows, SUBSCRIPTION));
            Ok(())
        }
        Subscription::Show { name } => {
            let mut rows = outbox.table("subscription_status", json!({"name": name}), 1, &[]).await?;
            let settings = alive(outbox.table("subscription", json!({"name": name}), 10, &[]).await?);
            // The settings that the view does not have.
            if let (Some(Value::Object(row)), Some(Value::Object(more))) =
                (rows.first_mut(), settings.into_iter().next())
            {
                for (column, value) in
                    more.into_iter().filter(|(column, _)| !["id", "endpoint_id"].contains(&column.as_str()))
                {
                    row.entry(column).or_insert(value);
                }
            }
            show(json, rows, KIND, &name)
        }
        Subscription::Ensure { name, topics, endpoint, more } => {
            let args = with(json!({"name": name, "topics": topics, "endpoint": endpoint}), more);
            let answer = call(outbox, "ensure_subscription", args).await?.into_iter().next().unwrap_or(Value::Null);
            let sentence = format!("subscription \"{name}\" is {}", output::text(&answer));
            output::done(json, &json!({"name": name, "result": answer}), &sentence);
            Ok(())
        }
        Subscription::Create { name, topics, endpoint, more } => {
            let args = with(json!({"name": name, "topics": topics, "endpoint": endpoint}), more);
            change(outbox, json, "subscribe", args, KIND, "created").await
        }
        Subscription::Pause { name } => {
            change(outbox, json, "pause_subscription", json!({"name": name}), KIND, "paused").await
        }
        Subscription::Resume { name } => {
            change(outbox, json, "resume_subscription", json!({"name": name}), KIND, "resumed").await
        }
        Subscription::Drop { name } => change(outbox, json, "unsubscribe", json!({"name": name}), KIND, "ended").await,
    }
}

async fn deliveries(outbox: &Outbox, json: bool, command: Delivery) -> Result<()> {
    let Delivery::List { subscription, state, worker, message, limit } = command;
    let (message, limit) = (message.map(|id| id.to_string()), limit.to_string());
    let params =
        [subscription.as_deref(), state.as_deref(), worker.as_deref(), message.as_deref(), Some(limit.as_str())];
    let mut rows = ask::query(outbox, OPEN_DELIVERIES, &params).await?;
    for row in rows.iter_mut().filter(|_| !json) {
        row["attempt"] = json!(format!("{} of {}", output::text(&row["attempt"]), output::text(&row["max_attempts"])));
        let names = [
            ("delivery_id", "id"),
            ("message_id", "message"),
            ("next_attempt_at", "next_at"),
            ("locked_by", "worker"),
            ("lease_expires_at", "lease_ends_at"),
        ];
        short(row, &names);
    }
    output::rows(json, &rows, &message::filled(&rows, DELIVERY));
    Ok(())
}

async fn cursor(outbox: &Outbox, json: bool, command: Cursor) -> Result<()> {
    match command {
        Cursor::List => {
            let mut rows = outbox.call("cursor_list", json!({}), &[]).await?;
            for row in rows.iter_mut().filter(|_| !json) {
                row["lag"] = json!(row["lag_seconds"].as_f64().map(output::age));
                row["subject"] = if row["subject"] == "" { Value::Null } else { row["subject"].clone() };
                short(
                    row,
                    &[
                        ("lag_positions", "behind"),
                        ("updated_at", "moved_at"),
                        ("error_since", "failing_at"),
                        ("error_position", "failed_position"),
                    ],
                );
            }
            output::rows(json, &rows, &message::filled(&rows, CURSOR));
            Ok(())
        }
        Cursor::Show { consumer, more } => {
            print(outbox, json, "cursor_get", with(json!({"consumer": consumer}), more)).await
        }
        Cursor::Reset { consumer, position, reason, more } => {
            let args = json!({"consumer": consumer, "position": position, "reason": reason});
            print(outbox, json, "cursor_reset", with(args, more)).await
        }
        Cursor::Delete { consumer, reason, more } => {
            let args = with(json!({"consumer": consumer, "reason": reason}), more);
            call_void(outbox, "cursor_delete", args).await?;
            output::done(
                json,
                &json!({"consumer": consumer, "deleted": true}),
                &format!("the cursor of \"{consumer}\" is deleted"),
            );
            Ok(())
        }
    }
}

async fn archive(outbox: &Outbox, json: bool, command: Archive) -> Result<()> {
    match command {
        Archive::List { more } => {
            let rows = call(outbox, "archive_list", with(json!({}), more)).await?;
            output::rows(json, &rows, &message::filled(&rows, ARCHIVE));
            Ok(())
        }
        Archive::Show { id } => message::archived(outbox, json, id).await,
        Archive::Stats { more } => print(outbox, json, "archive_stats", with(json!({}), more)).await,
    }
}

/// Gives columns of a list shorter names.
fn short(row: &mut Value, names: &[(&str, &str)]) {
    for (long, short) in names {
        row[*short] = row[*long].take();
    }
}

/// The rows that are not dropped (`deleted_at` is null).
fn alive(rows: Vec<Value>) -> Vec<Value> {
    rows.into_iter().filter(|row| row["deleted_at"].is_null()).collect()
}

/// Prints the one row that there should be.
pub(super) fn show(json: bool, rows: Vec<Value>, what: &str, name: &str) -> Result<()> {
    match rows.first() {
        Some(row) => output::row(json, row),
        None => return Err(Error::new("OB001", format!("{what} \"{name}\" does not exist"))),
    }
    Ok(())
}

/// The actor of a decision: as given, else the user of the system and that of the database.
pub(super) async fn actor(outbox: &Outbox, by: &By) -> Result<String> {
    if let Some(actor) = &by.actor {
        return Ok(actor.clone());
    }
    let rows = ask::query(outbox, "select session_user as name", &[]).await?;
    let role = rows.first().map_or_else(String::new, |row| output::text(&row["name"]));
    let user =
        ["USER", "LOGNAME", "USERNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    Ok(user.map_or(role.clone(), |user| format!("{user} as {role}")))
}

/// Calls a function and prints what it returns.
async fn print(outbox: &Outbox, json: bool, function: &str, args: Value) -> Result<()> {
    let rows = call(outbox, function, args).await?;
    match rows.as_slice() {
        [one] => output::row(json, one),
        many => output::rows(json, many, &[]),
    }
    Ok(())
}

/// Calls a function that changes an object and returns the id of a control message, and says what it did.
async fn change(outbox: &Outbox, json: bool, function: &str, args: Value, kind: &str, done: &str) -> Result<()> {
    let name = args["name"].as_str().unwrap_or_default().to_owned();
    let control = call(outbox, function, args).await?.into_iter().next().unwrap_or(Value::Null);
    let sentence = format!("{kind} \"{name}\" is {done}, with control message {control}");
    output::done(json, &control, &sentence);
    Ok(())
}

async fn registry(outbox: &Outbox, json: bool, what: &str, command: Registry) -> Result<()> {
    let (verb, done, code, more) = match command {
        Registry::List => {
            let rows = outbox.table(what, json!({}), 10_000, &[]).await?;
            output::rows(json, &rows, &["code", "name", "description", "active", "created_at"]);
            return Ok(());
        }
        Registry::Create { code, more } => ("create", "created", code, more),
        Registry::Alter { code, more } => ("alter", "altered", code, more),
    };
    call_void(outbox, &format!("{verb}_{what}"), with(json!({"code": code}), more)).await?;
    output::done(json, &json!({"code": code, "done": done}), &format!("{what} \"{code}\" is {done}"));
    Ok(())
}

async fn status(outbox: &Outbox, json: bool, over: f64, all: bool) -> Result<u8> {
    let mut before = None;
    let mut screen = Screen::look(outbox, None).await?;
    if over > 0.0 {
        tokio::time::sleep(Duration::from_secs_f64(over.min(3600.0))).await;
        before = Some(screen);
        screen = Screen::look(outbox, before.as_ref()).await?;
    }
    if json {
        println!("{}", screen.json());
    } else {
        print!("{}", screen.text(before.as_ref(), &View { width: output::width(), all, ..View::default() }));
    }
    Ok(u8::from(screen.is_wrong()))
}

async fn tail(outbox: &Outbox, json: bool, topics: Vec<String>, after: Option<i64>, count: Option<u64>) -> Result<()> {
    let after = match after {
        Some(position) => position,
        None => outbox.call("head", json!({}), &[]).await?.first().and_then(Value::as_i64).unwrap_or(0),
    };
    let mut builder = outbox.reader().after(after).poll_interval(Duration::from_millis(200));
    if !topics.is_empty() {
        builder = builder.topics(topics);
    }
    let mut reader = builder.build();
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let message = tokio::select! {
            message = reader.next() => message?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        left -= 1;
        let content = message.text().map_or_else(|_| message.base64(), str::to_owned);
        if json {
            let mut row = serde_json::to_value(&message)?;
            row["payload"] = message.payload.as_deref().map_or(Ok(Value::Null), serde_json::from_str)?;
            row["body"] = message.body.as_ref().map_or(Value::Null, |_| Value::String(message.base64()));
            println!("{row}");
        } else {
            println!(
                "{:>8}  {}  {}  {}",
                message.position,
                message.topic,
                message.key.as_deref().unwrap_or("-"),
                content
            );
        }
    }
    Ok(())
}

async fn listen(json: bool, address: &str, secret: Option<&str>, status: u16, count: Option<usize>) -> Result<()> {
    let receiver = Receiver::start(address).await?;
    receiver.answer(status);
    if let Some(secret) = secret {
        receiver.verify_with(Verifier::new(secret)?);
    }
    eprintln!("listening on {}", receiver.url("/"));
    let mut shown = 0;
    while count.is_none_or(|count| shown < count) {
        let arrivals = tokio::select! {
            // A receiver that runs for days keeps nothing.
            arrivals = receiver.take() => arrivals,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        shown += arrivals.len();
        for arrival in arrivals {
            let signature = match &arrival.valid {
                None => "not checked".to_owned(),
                Some(Ok(())) => "valid".to_owned(),
                Some(Err(why)) => format!("NOT VALID: {why}"),
            };
            let body = String::from_utf8_lossy(&arrival.body);
            if json {
                let headers: Map<String, Value> = arrival.headers.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
                println!(
                    "{}",
                    json!({"request": arrival.line, "headers": headers, "body": body, "signature": signature})
                );
            } else {
                println!(
                    "{}  {}  signature {signature}\n{body}\n",
                    arrival.line,
                    arrival.header("webhook-id").unwrap_or("-")
                );
            }
        }
    }
    Ok(())
}
