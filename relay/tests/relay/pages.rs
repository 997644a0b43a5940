//! The pages of docs/relay: every command runs, and prints what the page says.

use std::fs;
use std::path::Path;
use std::process::Command;

use outbox_harness::postgres::{Install, fresh_folder, root};

use crate::programs::{Broker, Database};
use crate::{jetstream, kafka, rabbitmq};

/// Returns the fenced blocks of a page: the word after the fence, and the text.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let fenced = page.split("```").skip(1).step_by(2);
    fenced.filter_map(|block| block.split_once('\n')).collect()
}

/// Runs a page. `names` are texts of the page, and what they are in this test.
async fn run(page: &str, db: &Database, names: &[(&str, String)]) {
    let folder = fresh_folder("page").unwrap();
    let text = fs::read_to_string(root().join("docs/relay").join(page)).unwrap();
    let text = names.iter().fold(text, |text, (name, here)| text.replace(name, here));
    let relay = Path::new(env!("CARGO_BIN_EXE_outbox-relay")).parent().unwrap();
    let postgres = Install::find().unwrap().bin;
    let path = format!(
        "{}:{}:{}:{}:{}",
        root().join(".cache/moto/bin").display(),
        relay.display(),
        root().join(".cache/brokers").display(),
        postgres.display(),
        std::env::var("PATH").unwrap()
    );
    let (mut printed, mut ran) = (String::new(), 0);
    for (kind, block) in blocks(&text) {
        match kind {
            "toml" => fs::write(folder.join("relay.toml"), block).unwrap(),
            "sh" => {
                let mut shell = Command::new("bash");
                shell.args(["-euo", "pipefail", "-c", block]).current_dir(&folder);
                shell.env("PATH", &path).env("DATABASE_URL", db.dsn());
                let output = tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
                printed = String::from_utf8_lossy(&output.stdout).into_owned();
                let log = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{page}: {block}\n{printed}\n{log}");
                db.wait_for_positions().await;
                ran += 1;
            }
            "text" => {
                for line in block.lines() {
                    assert!(printed.contains(line), "{page}: no \"{line}\" in\n{printed}");
                }
            }
            _ => {}
        }
    }
    assert!(ran >= 3, "{page}: only {ran} commands");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_mqtt() {
    let (db, broker) = (Database::new().await, Broker::mqtt("").await);
    run("mqtt.md", &db, &[("1883", broker.port.to_string())]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_kafka() {
    let (db, broker) = (Database::new().await, Broker::kafka().await);
    kafka::make_topic(&broker, "1048588").await;
    run("kafka.md", &db, &[("localhost:9092", format!("127.0.0.1:{}", broker.port))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_nats() {
    let (db, broker) = (Database::new().await, Broker::nats("").await);
    jetstream::make_stream(&broker).await;
    run("nats.md", &db, &[("localhost:4222", format!("127.0.0.1:{}", broker.port))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_rabbitmq() {
    let (db, broker) = (Database::new().await, rabbitmq::broker().await);
    let (_connection, channel) = rabbitmq::connect(broker).await;
    rabbitmq::make_queue(&channel, "orders", "orders", lapin::types::FieldTable::default()).await;
    run("rabbitmq.md", &db, &[("localhost:5672", format!("127.0.0.1:{}", broker.port))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_redis() {
    let (db, broker) = (Database::new().await, Broker::redis().await);
    run("redis.md", &db, &[("6379", broker.port.to_string())]).await;
}

#[cfg(feature = "aws")]
#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_aws() {
    let (db, broker) = (Database::new().await, Broker::aws().await);
    run("aws.md", &db, &[("localhost:5000", format!("127.0.0.1:{}", broker.port))]).await;
}
