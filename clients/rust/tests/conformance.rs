//! The suite that all clients run: `tests/conformance`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outbox_harness::{Server, wait_until};
use pg_outbox::message::{Message, NewMessage, enqueue_many};
use pg_outbox::outbox::Session;
use pg_outbox::verify::Verifier;
use pg_outbox::worker::{CancellationToken, Delivery, Failure, Handled};
use pg_outbox::{Error, Outbox};
use serde_json::{Value, json};

use self::suite::{check, fill, text};

mod suite;

#[test]
fn signatures() {
    let (_, vectors) = suite::files("").into_iter().find(|(name, _)| name == "signatures").unwrap();
    for vector in vectors.as_array().unwrap() {
        let secrets = vector["secrets"].as_array().unwrap().iter().map(|s| s.as_str().unwrap());
        let tolerance = Duration::from_secs(vector["tolerance"].as_u64().unwrap());
        let result = Verifier::with_secrets(secrets, tolerance).and_then(|verifier| {
            let header = |name: &str| text(&vector["headers"], name);
            verifier.verify_at(header, vector["body"].as_str().unwrap().as_bytes(), vector["now"].as_i64().unwrap())
        });
        match (vector.get("valid").and_then(Value::as_bool), result) {
            (Some(true), Ok(_)) => {}
            (Some(false), Err(error)) => assert_eq!(error.name(), "invalid_signature"),
            (None, Err(error)) => assert_eq!(error.name(), vector["error"].as_str().unwrap()),
            (_, result) => panic!("{vector}: {result:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenarios() {
    let server = Server::start(&[("pg_outbox.poll_interval", "1s"), ("max_worker_processes", "40")]).await.unwrap();
    let mut ran = 0;
    for (name, scenario) in suite::files("").into_iter().filter(|(name, _)| name != "signatures") {
        server.database(&name).await.unwrap();
        let outbox = Outbox::connect(&server.dsn(&name)).await.unwrap();
        let mut saved: HashMap<String, Value> = HashMap::new();
        for (i, step) in scenario["steps"].as_array().unwrap().iter().enumerate() {
            let place = format!("{name} step {}", i + 1);
            let args = fill(&step["args"], &saved);
            let result = run(&outbox, step["do"].as_str().unwrap(), &args).await;
            if let Some(expected) = step.get("error") {
                let error = result.expect_err(&place);
                let seen = json!({"kind": error.kind().as_str(), "code": error.code(), "name": error.name()});
                check(&seen, expected, &place);
                continue;
            }
            let result = result.unwrap_or_else(|error| panic!("{place}: {}", error.report()));
            if let Some(name) = text(step, "save") {
                saved.insert(name.to_owned(), result.clone());
            }
            if let Some(expected) = step.get("expect") {
                check(&result, &fill(expected, &saved), &place);
            }
            ran += 1;
        }
    }
    assert!(ran > 20);
}

fn shown(message: &Message) -> Value {
    let mut value = serde_json::to_value(message).unwrap();
    value["payload"] = message.payload.as_deref().map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
    value["base64"] = json!(message.base64());
    value["text"] = message.text().map_or(Value::Null, |text| json!(text));
    value
}

/// Runs one step of a scenario and returns its result.
async fn run(outbox: &Outbox, what: &str, args: &Value) -> Result<Value, Error> {
    let mut session = outbox.session().await?;
    match what {
        "enqueue" => enqueue(&mut session, args).await,
        "enqueue_many" => enqueue_several(&session, args).await,
        "call" => call(outbox, args).await,
        "read" => read(outbox, args).await,
        "work" => work(outbox, args).await,
        "apply" => apply(outbox, args).await,
        "query" => query(&session, args).await,
        other => panic!("unknown operation {other}"),
    }
}

async fn enqueue(session: &mut Session, args: &Value) -> Result<Value, Error> {
    let message = message_of(args)?;
    let tx = session.transaction().await?;
    let id = message.enqueue(&*tx).await?;
    if args["rollback"] == true {
        tx.rollback().await?
    } else {
        tx.commit().await?
    }
    Ok(json!(id))
}

fn message_of(args: &Value) -> Result<NewMessage, Error> {
    let mut message = Message::to(text(args, "topic").unwrap());
    message = if let Some(body) = text(args, "text") {
        message.text(body)
    } else if let Some(body) = text(args, "base64") {
        message.bytes(STANDARD.decode(body).unwrap(), text(args, "content_type").unwrap_or("application/octet-stream"))
    } else {
        message.json(&args["payload"])?
    };
    for (name, value) in args.as_object().unwrap() {
        let word = value.as_str().unwrap_or_default();
        message = match name.as_str() {
            "topic" | "payload" | "text" | "base64" | "content_type" | "rollback" | "aggregate_id" => message,
            "key" => message.key(word),
            "tenant" => message.tenant(word),
            "aggregate_type" => message.aggregate(word, text(args, "aggregate_id").unwrap_or_default()),
            "idempotency_key" => message.idempotency_key(word),
            "priority" => message.priority(value.as_i64().unwrap() as i32),
            "headers" => value.as_object().unwrap().iter().fold(message, |m, (k, v)| m.header(k, v.as_str().unwrap())),
            "metadata" => value.as_object().unwrap().iter().fold(message, |m, (k, v)| m.set_metadata(k, v.clone())),
            other => panic!("unknown argument {other}"),
        };
    }
    Ok(message)
}

async fn enqueue_several(session: &Session, args: &Value) -> Result<Value, Error> {
    let keys: Vec<&str> =
        args["keys"].as_array().map(|keys| keys.iter().map(|k| k.as_str().unwrap()).collect()).unwrap_or_default();
    let payloads = args["payloads"].as_array().unwrap();
    Ok(json!(enqueue_many(&***session, text(args, "topic").unwrap(), payloads, &keys).await?))
}

async fn call(outbox: &Outbox, args: &Value) -> Result<Value, Error> {
    let function = text(args, "function").unwrap();
    let mut rows = outbox.call(function, &args["args"], &[]).await?;
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while rows.is_empty() && args["wait"] == true && std::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
        rows = outbox.call(function, &args["args"], &[]).await?;
    }
    // The other generated methods return one row or one value.
    let list = ["history", "cursor_list", "health", "maintain", "claim", "complete_and_claim"].contains(&function);
    Ok(if list { Value::Array(rows) } else { rows.into_iter().next().unwrap_or(Value::Null) })
}

async fn read(outbox: &Outbox, args: &Value) -> Result<Value, Error> {
    let mut builder = outbox.reader().poll_interval(Duration::from_millis(20));
    if let Some(topics) = args["topics"].as_array() {
        builder = builder.topics(topics.iter().map(|t| t.as_str().unwrap()));
    }
    if let Some(consumer) = text(args, "consumer") {
        builder = builder.consumer(consumer);
    }
    let mut reader = builder.build();
    let mut found = Vec::new();
    while found.len() < args["count"].as_u64().unwrap() as usize {
        let message = tokio::time::timeout(Duration::from_secs(60), reader.next()).await.expect("a message")?;
        if args["advance"] == true {
            reader.advance(&message).await?;
        }
        found.push(shown(&message));
    }
    Ok(Value::Array(found))
}

/// Applies messages until the cursor is at the end of the feed. The effect of one message fails some times.
async fn apply(outbox: &Outbox, args: &Value) -> Result<Value, Error> {
    let consumer = text(args, "consumer").unwrap();
    let db = outbox.session().await?;
    db.batch_execute(
        "create table if not exists applied (consumer text, n serial, key text, once int unique deferrable initially deferred)",
    )
    .await?;
    let topics = args["topics"].as_array().unwrap().iter().map(|t| t.as_str().unwrap());
    let reader = outbox
        .reader()
        .consumer(consumer)
        .topics(topics)
        .after(args["after"].as_i64().unwrap_or(0))
        .poll_interval(Duration::from_millis(20));
    let fails = text(&args["fail"], "key");
    let mut left = args["fail"]["times"].as_u64().unwrap_or(0);
    let how = text(&args["fail"], "how").unwrap_or("raise");
    let until_error = text(args, "until") == Some("error");
    let at_end = async {
        let get = json!({"consumer": consumer, "if_missing": 0});
        let done = async || {
            let cursor = &outbox.call("cursor_get", &get, &[]).await.unwrap()[0];
            if until_error { !cursor["error_position"].is_null() } else { cursor["lag_positions"] == 0 }
        };
        wait_until("the cursor is at the end of the feed, or shows an error", Duration::from_secs(60), done).await;
    };
    reader
        .apply_until(at_end, outbox, async |tx, messages| {
            for message in messages {
                if message.key.as_deref() == fails && left > 0 {
                    left -= 1;
                    return fail(tx, how).await;
                }
                tx.execute("insert into applied (consumer, key) values ($1, $2)", &[&consumer, &message.key]).await?;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        })
        .await?;
    let sql = "select key from applied where consumer = $1 order by n";
    Ok(db.query(sql, &[&consumer]).await?.iter().map(|row| Value::String(row.get(0))).collect())
}

/// Lets an effect fail: it raises an error, catches an error of the server, or is refused by COMMIT.
async fn fail(tx: &tokio_postgres::Transaction<'_>, how: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    match how {
        "raise" => return Err("the effect fails".into()),
        "catch" => drop(tx.query_one("select 1 / 0", &[]).await),
        "commit" => drop(tx.execute("insert into applied (once) values (1), (1)", &[]).await?),
        other => panic!("unknown failure {other}"),
    }
    Ok(())
}

/// Lets a worker handle `count` deliveries. The first rule that fits a delivery says how its handler ends.
async fn work(outbox: &Outbox, args: &Value) -> Result<Value, Error> {
    let tries: Arc<Mutex<Vec<Delivery>>> = Arc::default();
    let count = args["count"].as_u64().unwrap() as usize;
    let stop: Arc<OnceLock<CancellationToken>> = Arc::default();
    let rules = args["rules"].as_array().cloned().unwrap_or_default();
    let (seen, ending) = (tries.clone(), stop.clone());
    let worker = outbox
        .worker(text(args, "subscription").unwrap())
        .concurrency(args["concurrency"].as_u64().unwrap_or(1) as usize)
        .poll_interval(Duration::from_millis(20))
        .build(move |delivery: Delivery| {
            let fits = |rule: &&Value| {
                rule.get("key").is_none_or(|key| key.as_str() == delivery.key.as_deref())
                    && rule.get("attempt").is_none_or(|attempt| attempt == delivery.attempt)
            };
            let rule = rules.iter().find(fits).cloned().unwrap_or(json!({"then": "complete"}));
            let mut seen = seen.lock().unwrap();
            seen.push(delivery);
            if seen.len() >= count {
                ending.get().unwrap().cancel();
            }
            async move { follow(&rule) }
        });
    stop.set(worker.stop_token()).unwrap();
    worker.run().await?;
    let mut tries = tries.lock().unwrap().clone();
    tries.sort_by(|a, b| (&a.key, a.attempt).cmp(&(&b.key, b.attempt)));
    Ok(tries
        .iter()
        .map(|d| {
            let mut value = shown(&d.message);
            value["attempt"] = json!(d.attempt);
            value
        })
        .collect())
}

/// Ends a handler as a rule says.
fn follow(rule: &Value) -> Handled {
    let special = match text(rule, "special") {
        Some("lone_surrogate") => Some("half \u{fffd} pair".to_owned()),
        Some("large") => Some("x".repeat(3 << 20)),
        Some("not_json") => Some(serde_json::to_value(HashMap::from([((1, 2), 3)]))?.to_string()),
        Some("endless_wait") | None => None,
        Some(other) => panic!("unknown {other}"),
    };
    let said = |name: &str| special.clone().or(text(rule, name).map(str::to_owned)).unwrap();
    match rule["then"].as_str().unwrap() {
        "complete" => Ok(special.clone().map(Value::String).or(rule.get("result").cloned())),
        "fail" => Err(Failure::Retry {
            error: said("error"),
            after: match text(rule, "special") {
                Some("endless_wait") => Some(Duration::MAX),
                _ => rule["retry_after"].as_f64().map(Duration::from_secs_f64),
            },
        }),
        "dead" => Err(Failure::dead(said("reason"))),
        "throw" => panic!("{}", said("error")),
        other => panic!("unknown {other}"),
    }
}

async fn query(session: &Session, args: &Value) -> Result<Value, Error> {
    let rows = session.query_typed(text(args, "sql").unwrap(), &[]).await?;
    Ok(rows[0].get(0))
}
