//! Runs the commands.

use std::io::Read as _;
use std::time::Duration;

use clap::CommandFactory;
use serde_json::{Map, Value, json};

use crate::args::{
    Archive, Args, Command, Cursor, DeadLetter, DeadLetterAction, Endpoint, Message as One, More, Registry, SendArgs,
    Subscription,
};
use crate::screen::Screen;
use crate::{doctor, events, output, replay, top};
use pg_outbox::error::{Error, Result};
use pg_outbox::message::Message;
use pg_outbox::outbox::Outbox;
use pg_outbox::testing::Receiver;
use pg_outbox::verify::Verifier;

const ENDPOINT: &[&str] = &["name", "url", "active", "concurrency", "timeout", "tenant", "created_at"];
const SUBSCRIPTION: &[&str] = &["id", "name", "endpoint_id", "max_attempts", "ordering", "format", "created_at"];
const DEAD: &[&str] = &[
    "dead_letter_id",
    "subscription",
    "topic",
    "message_id",
    "attempt",
    "reason",
    "last_error",
    "dead_at",
    "resolution",
];
const CURSOR: &[&str] =
    &["consumer", "stream", "subject", "position", "lag_positions", "lag_seconds", "last_error", "updated_at"];
const ARCHIVE: &[&str] =
    &["id", "topic", "key", "status", "integrations_succeeded", "integrations_failed", "last_error", "processed_at"];

/// Runs one command and returns its exit code.
pub(super) async fn run(args: Args) -> Result<u8> {
    let json = args.json;
    let dsn = args.dsn.unwrap_or_default();
    match args.command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "outbox", &mut std::io::stdout());
            Ok(0)
        }
        Command::Listen { address, secret, status, count } => {
            listen(json, &address, secret.as_deref(), status, count).await?;
            Ok(0)
        }
        Command::Doctor => doctor::run(&dsn, json).await,
        command => run_connected(&Outbox::connect(&dsn).await?, json, command).await,
    }
}

/// Runs a command that needs the outbox of a database.
async fn run_connected(outbox: &Outbox, json: bool, command: Command) -> Result<u8> {
    match command {
        Command::Status { over } => return status(outbox, json, over).await,
        Command::Replay { what, args } => return replay::run(outbox, json, what, args).await,
        Command::Top { every, count, picture: None } => top::run(outbox, every, count).await?,
        Command::Top { every, count, picture: Some(file) } => {
            top::picture(outbox, every, count.unwrap_or(2), &file).await?;
        }
        Command::Tail { topics, after, count } => tail(outbox, json, topics, after, count).await?,
        Command::Send(message) => send(outbox, json, message).await?,
        Command::Endpoint(command) => endpoint(outbox, json, command).await?,
        Command::Subscription(command) => subscription(outbox, json, command).await?,
        Command::DeadLetter(command) => dead_letter(outbox, json, command).await?,
        Command::Cursor(command) => cursor(outbox, json, command).await?,
        Command::Message(command) => message(outbox, json, command).await?,
        Command::Topic(command) => registry(outbox, json, "topic", command).await?,
        Command::Publisher(command) => registry(outbox, json, "publisher", command).await?,
        Command::Archive(command) => archive(outbox, json, command).await?,
        Command::Streams(what) => events::streams(outbox, json, what).await?,
        Command::Events(what) => events::events(outbox, json, what).await?,
        Command::Project(what) => events::project(outbox, json, what).await?,
        Command::Sagas(what) => events::sagas(outbox, json, what).await?,
        Command::Export(what) => events::export(outbox, what).await?,
        Command::Call { function, args } => call(outbox, json, &function, json!({}), More { set: args }).await?,
        // These commands need no outbox.
        Command::Completions { .. } | Command::Listen { .. } | Command::Doctor => {}
    }
    Ok(0)
}

async fn send(outbox: &Outbox, json: bool, new: SendArgs) -> Result<()> {
    let payload = if new.payload == "-" {
        let mut all = String::new();
        std::io::stdin().read_to_string(&mut all).map_err(|e| Error::invalid(e.to_string()))?;
        all
    } else {
        new.payload
    };
    let mut message = Message::to(new.topic);
    message = if new.text { message.text(payload) } else { message.json(&serde_json::from_str::<Value>(&payload)?)? };
    for (name, value) in new.headers {
        message = message.header(name, value);
    }
    message = new.key.into_iter().fold(message, |m, key| m.key(key));
    message = new.tenant.into_iter().fold(message, |m, tenant| m.tenant(tenant));
    message = new.idempotency_key.into_iter().fold(message, |m, key| m.idempotency_key(key));
    let session = outbox.session().await?;
    let id = message.enqueue(&**session).await?;
    output::row(json, &if json { json!({"message_id": id}) } else { json!(id) });
    Ok(())
}

async fn endpoint(outbox: &Outbox, json: bool, command: Endpoint) -> Result<()> {
    match command {
        Endpoint::List => {
            output::rows(json, &alive(outbox.table("endpoint", json!({}), 10_000, &[]).await?), ENDPOINT);
            Ok(())
        }
        Endpoint::Show { name } => {
            show(json, alive(outbox.table("endpoint", json!({"name": name}), 10, &[]).await?), "endpoint", &name)
        }
        Endpoint::Create { name, url, more } => {
            call(outbox, json, "create_endpoint", json!({"name": name, "url": url}), more).await
        }
        Endpoint::Enable { name } => done(outbox, json, "enable_endpoint", json!({"name": name})).await,
        Endpoint::Disable { name, more } => call(outbox, json, "disable_endpoint", json!({"name": name}), more).await,
        Endpoint::RotateSecret { name, more } => call(outbox, json, "rotate_secret", json!({"name": name}), more).await,
        Endpoint::Drop { name } => done(outbox, json, "drop_endpoint", json!({"name": name})).await,
    }
}

async fn subscription(outbox: &Outbox, json: bool, command: Subscription) -> Result<()> {
    match command {
        Subscription::List => {
            output::rows(json, &alive(outbox.table("subscription", json!({}), 10_000, &[]).await?), SUBSCRIPTION);
            Ok(())
        }
        Subscription::Show { name } => {
            let rows = outbox.table("subscription", json!({"name": name}), 10, &[]).await?;
            show(json, alive(rows), "subscription", &name)
        }
        Subscription::Create { name, topics, endpoint, more } => {
            let args = json!({"name": name, "topics": topics, "endpoint": endpoint});
            call(outbox, json, "subscribe", args, more).await
        }
        Subscription::Pause { name } => done(outbox, json, "pause_subscription", json!({"name": name})).await,
        Subscription::Resume { name } => done(outbox, json, "resume_subscription", json!({"name": name})).await,
        Subscription::Drop { name } => done(outbox, json, "unsubscribe", json!({"name": name})).await,
    }
}

async fn dead_letter(outbox: &Outbox, json: bool, command: DeadLetter) -> Result<()> {
    match command {
        DeadLetter::List { all, limit } => {
            let filter = if all { json!({}) } else { json!({"resolution": "open"}) };
            output::rows(json, &outbox.table("dead_letter_status", filter, limit, &[]).await?, DEAD);
            Ok(())
        }
        DeadLetter::Show { id } => {
            let rows = outbox.table("dead_letter_status", json!({"dead_letter_id": id}), 1, &[]).await?;
            show(json, rows, "dead letter", &id.to_string())
        }
        DeadLetter::Stats => done(outbox, json, "dead_letter_stats", json!({})).await,
        DeadLetter::Requeue { of } => dead_letter_action(outbox, json, "requeue", "requeue", of).await,
        DeadLetter::Resolve { of } => dead_letter_action(outbox, json, "resolve", "resolve_dead_letter", of).await,
        DeadLetter::Ignore { of } => dead_letter_action(outbox, json, "ignore", "ignore_dead_letter", of).await,
    }
}

async fn cursor(outbox: &Outbox, json: bool, command: Cursor) -> Result<()> {
    match command {
        Cursor::List => {
            output::rows(json, &outbox.call("cursor_list", json!({}), &[]).await?, CURSOR);
            Ok(())
        }
        Cursor::Show { consumer, more } => call(outbox, json, "cursor_get", json!({"consumer": consumer}), more).await,
        Cursor::Reset { consumer, position, reason, more } => {
            let args = json!({"consumer": consumer, "position": position, "reason": reason});
            call(outbox, json, "cursor_reset", args, more).await
        }
        Cursor::Delete { consumer, reason, more } => {
            void(outbox, json, "cursor_delete", with(json!({"consumer": consumer, "reason": reason}), more)).await
        }
    }
}

async fn message(outbox: &Outbox, json: bool, command: One) -> Result<()> {
    match command {
        One::Show { id } => {
            let rows = outbox.call("history", json!({"message_id": id}), &[]).await?;
            output::rows(json, &rows, &["at", "what", "subscription", "endpoint", "attempt", "status", "detail"]);
            Ok(())
        }
        One::Cancel { id, more } => call(outbox, json, "cancel", json!({"message_id": id}), more).await,
        One::Retry { id, subscription, more } => {
            call(outbox, json, "retry", json!({"message_id": id, "subscription": subscription}), more).await
        }
        One::Erase { id, actor, reason } => {
            void(outbox, json, "erase", json!({"message_id": id, "actor": actor, "reason": reason})).await
        }
    }
}

async fn archive(outbox: &Outbox, json: bool, command: Archive) -> Result<()> {
    match command {
        Archive::List { more } => {
            output::rows(json, &outbox.call("archive_list", with(json!({}), more), &[]).await?, ARCHIVE);
            Ok(())
        }
        Archive::Show { id } => done(outbox, json, "archive_get", json!({"message_id": id})).await,
        Archive::Stats { more } => call(outbox, json, "archive_stats", json!({}), more).await,
    }
}

/// The rows that are not dropped (`deleted_at` is null).
fn alive(rows: Vec<Value>) -> Vec<Value> {
    rows.into_iter().filter(|row| row["deleted_at"].is_null()).collect()
}

fn show(json: bool, rows: Vec<Value>, what: &str, name: &str) -> Result<()> {
    match rows.first() {
        Some(row) => output::row(json, row),
        None => return Err(Error::new("OB001", format!("{what} \"{name}\" does not exist"))),
    }
    Ok(())
}

/// Adds the arguments of `--set` to `args`. A value that parses as JSON is passed as JSON, any other value as text.
pub(super) fn with(args: Value, more: More) -> Value {
    let mut map = match args {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (name, value) in more.set {
        let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
        map.insert(name, value);
    }
    Value::Object(map)
}

async fn call(outbox: &Outbox, json: bool, function: &str, args: Value, more: More) -> Result<()> {
    done(outbox, json, function, with(args, more)).await
}

async fn done(outbox: &Outbox, json: bool, function: &str, args: Value) -> Result<()> {
    let rows = outbox.call(function, args, &[]).await?;
    match rows.as_slice() {
        [one] => output::row(json, one),
        many => output::rows(json, many, &[]),
    }
    Ok(())
}

async fn void(outbox: &Outbox, json: bool, function: &str, args: Value) -> Result<()> {
    outbox.call_void(function, args).await?;
    output::row(json, &if json { json!({"done": true}) } else { json!("done") });
    Ok(())
}

async fn dead_letter_action(
    outbox: &Outbox,
    json: bool,
    action: &str,
    function: &str,
    of: DeadLetterAction,
) -> Result<()> {
    for id in of.ids {
        outbox.call_void(function, json!({"dead_letter_id": id, "actor": of.actor, "note": of.note})).await?;
        output::row(
            json,
            &if json { json!({"dead_letter_id": id, "done": action}) } else { json!(format!("{id}: {action} done")) },
        );
    }
    Ok(())
}

async fn registry(outbox: &Outbox, json: bool, what: &str, command: Registry) -> Result<()> {
    match command {
        Registry::List => output::rows(
            json,
            &outbox.table(what, json!({}), 10_000, &[]).await?,
            &["code", "name", "description", "active", "created_at"],
        ),
        Registry::Create { code, more } => {
            void(outbox, json, &format!("create_{what}"), with(json!({"code": code}), more)).await?
        }
        Registry::Alter { code, more } => {
            void(outbox, json, &format!("alter_{what}"), with(json!({"code": code}), more)).await?
        }
    }
    Ok(())
}

async fn status(outbox: &Outbox, json: bool, over: f64) -> Result<u8> {
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
        print!("{}", screen.text(before.as_ref()));
    }
    Ok(u8::from(screen.is_bad()))
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
            arrivals = receiver.wait_for(shown + 1) => arrivals,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        for arrival in arrivals.iter().skip(shown) {
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
        shown = arrivals.len();
    }
    Ok(())
}
