//! The rules and the board of docs/monitoring, with the programs of Prometheus, which `scripts/setup prometheus` downloads.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use outbox_harness::{Receiver, Reply, wait_until};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::browser::{Browser, encoded};
use crate::{METRICS_TOKEN, PATIENCE, dashboard, database, dead_letters, endpoint};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn program(name: &str) -> Command {
    let path = root().join(".cache/prometheus").join(name);
    assert!(path.exists(), "{} is missing: run scripts/setup prometheus", path.display());
    Command::new(path)
}

/// The expressions of the board, as Grafana sends them.
fn board() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("docs/monitoring/grafana.json")).unwrap();
    let board: Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = target["expr"].as_str().unwrap().replace("$instance", ".*").replace("$__rate_interval", "30s");
            found.push((panel["title"].as_str().unwrap().to_owned(), expr));
        }
    }
    assert!(found.len() > 15);
    found
}

/// The names of the metrics in an expression.
fn metrics(expr: &str) -> BTreeSet<&str> {
    expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("outbox_")).collect()
}

#[test]
fn the_rules_pass_their_tests() {
    for what in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let out = program("promtool").args(what).current_dir(root().join("docs/monitoring")).output().unwrap();
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        assert!(out.status.success(), "{text}");
    }
    // Each alert has a test that it fires.
    let [rules, tests] = ["alerts.yml", "alerts_test.yml"]
        .map(|name| std::fs::read_to_string(root().join("docs/monitoring").join(name)).unwrap());
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let fires = format!("alertname: {alert}\n        exp_alerts");
        assert!(tests.contains(&fires), "no test lets {alert} fire");
    }
}

/// Prometheus, until it is dropped.
struct Prometheus {
    process: std::process::Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Prometheus {
    /// Starts a server that reads the rules, and scrapes a dashboard every second.
    fn start(target: SocketAddr) -> Prometheus {
        let folder = std::env::temp_dir().join(format!("outbox-prometheus-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let rules = root().join("docs/monitoring/alerts.yml").canonicalize().unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n  \
             - {{job_name: outbox, authorization: {{credentials: '{METRICS_TOKEN}'}}, static_configs: [{{targets: ['{target}']}}]}}\n",
            rules.display()
        );
        std::fs::write(folder.join("prometheus.yml"), config).unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = program("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Prometheus { process, address, folder }
    }

    /// Returns status line and body of a path. HTTP/1.0 has no chunks.
    async fn get(&self, path: &str) -> Option<(String, String)> {
        let mut stream = TcpStream::connect(self.address).await.ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.lines().next()?.to_owned(), body.to_owned()))
    }

    async fn is_ready(&self) -> bool {
        self.get("/-/ready").await.is_some_and(|(status, _)| status.contains(" 200 "))
    }

    async fn api(&self, path: &str) -> Value {
        let (status, body) = self.get(&format!("/api/v1/{path}")).await.unwrap();
        let found: Value = serde_json::from_str(&body).unwrap_or_default();
        assert_eq!(found["status"], "success", "{path}: {status} {body}");
        found["data"].clone()
    }

    /// Returns the number of series that an expression has now.
    async fn series(&self, expr: &str) -> usize {
        self.api(&format!("query?query={}", encoded(expr))).await["result"].as_array().map_or(0, Vec::len)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_the_board_and_of_the_rules_finds_what_it_asks_for() {
    let db = database("prometheus").await;
    let (fine, broken) = (Receiver::start().unwrap(), Receiver::start().unwrap());
    broken.on("/hook?key=hidden-key", |_, _| Reply::status(500));
    endpoint(&db, "fine", &fine).await;
    endpoint(&db, "broken", &broken).await;
    dead_letters(&db, 3, "boom").await;
    let more = "select outbox.append('order-1', 'order.placed', '{}'); select outbox.cursor_advance('totals', 1);
        select outbox.relay_heartbeat('kafka', 'relay kafka', 'kafka', 'a', 'running', 0, '1 h')";
    db.batch_execute(more).await.unwrap();
    let address = dashboard("counts", "prometheus").await;
    let mut browser = Browser::new(address);
    browser.headers = vec![("Authorization".to_owned(), format!("Bearer {METRICS_TOKEN}"))];
    let text = browser.get("/metrics").await.body;
    let named = |word: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| line.strip_prefix(word)?.split(' ').next()).map(ToOwned::to_owned).collect()
    };
    assert_eq!(named("# TYPE "), named("# HELP "), "every metric is in the list");
    assert!(text.contains("outbox_serve_query_seconds_count{step=\"read\"} "), "{text}");
    let prometheus = Prometheus::start(address);
    wait_until("Prometheus is ready", PATIENCE, async || prometheus.is_ready().await).await;
    for (title, expr) in board() {
        wait_until(&format!("{title}: {expr}"), 2 * PATIENCE, async || {
            db.execute("select outbox.enqueue('push.one', '{}')", &[]).await.unwrap();
            prometheus.series(&expr).await > 0
        })
        .await;
    }
    // A rule finds nothing when all is well, so the names that it uses are looked up.
    let groups = prometheus.api("rules").await;
    for rule in groups["groups"][0]["rules"].as_array().unwrap() {
        assert_eq!((rule["health"].as_str(), rule["lastError"].as_str()), (Some("ok"), None), "{rule}");
        for metric in metrics(rule["query"].as_str().unwrap()) {
            assert!(prometheus.series(metric).await > 0, "{metric} of {}", rule["name"]);
        }
    }
}
