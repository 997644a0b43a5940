//! The health port of an application: one small HTTP server for a supervisor and for Prometheus.
//!
//! GET /health answers 200 while every worker and projection has a session and no projection stands at a message whose effect
//! fails, else 503. GET /metrics has counts in the text format of Prometheus, named as by the other clients. A request has 5 s
//! and 8 KiB, and at most 64 are answered at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::reader::ReaderHealth;
use crate::worker::{AnyHandler, Event, Failure, WorkerBuilder};

const TIMEOUT: Duration = Duration::from_secs(5);
const LARGEST_REQUEST: usize = 8192;
const MOST_REQUESTS: usize = 64;

/// The state of a worker. Its session is counted in `sessions`: -1 before the first one.
#[derive(Debug)]
struct Worker {
    session: AtomicI64,
    running: AtomicI64,
    completed: AtomicU64,
    failed: AtomicU64,
    dead: AtomicU64,
}

/// The state that the port shows.
#[derive(Debug)]
pub(super) struct Health {
    workers: BTreeMap<String, Arc<Worker>>,
    projections: BTreeMap<String, ReaderHealth>,
    stop: CancellationToken,
}

impl Worker {
    fn state(&self) -> &'static str {
        match self.session.load(Ordering::Relaxed) {
            -1 => "starting",
            0 => "disconnected",
            _ => "connected",
        }
    }
}

fn projection_state(projection: &ReaderHealth) -> &'static str {
    match (projection.failing(), projection.is_connected()) {
        (Some(_), _) => "failing",
        (None, true) => "connected",
        (None, false) => "disconnected",
    }
}

/// Returns the text of a label of Prometheus.
fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

impl Health {
    pub(super) fn new(
        subscriptions: impl IntoIterator<Item = String>,
        projections: BTreeMap<String, ReaderHealth>,
        stop: CancellationToken,
    ) -> Health {
        let worker = || Worker {
            session: AtomicI64::new(-1),
            running: AtomicI64::new(0),
            completed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dead: AtomicU64::new(0),
        };
        let workers = subscriptions.into_iter().map(|name| (name, Arc::new(worker()))).collect();
        Health { workers, projections, stop }
    }

    /// Lets a worker tell whether it has a session, beside what its own listener does.
    pub(super) fn watch(&self, subscription: &str, builder: WorkerBuilder) -> WorkerBuilder {
        let Some(worker) = self.workers.get(subscription).cloned() else { return builder };
        builder.also_on_event(move |event| match event {
            Event::Connected => worker.session.store(1, Ordering::Relaxed),
            Event::Disconnected(_) => worker.session.store(0, Ordering::Relaxed),
            _ => {}
        })
    }

    /// Counts the outcomes of a handler.
    pub(super) fn count(&self, subscription: &str, handler: AnyHandler) -> AnyHandler {
        let Some(worker) = self.workers.get(subscription).cloned() else { return handler };
        Arc::new(move |delivery| {
            let worker = worker.clone();
            let handled = handler(delivery);
            Box::pin(async move {
                let running = Running::begin(worker);
                let handled = handled.await;
                running.end(match &handled {
                    Ok(_) => |worker| &worker.completed,
                    Err(Failure::Dead { .. }) => |worker| &worker.dead,
                    Err(_) => |worker| &worker.failed,
                });
                handled
            })
        })
    }

    fn answer(&self, path: &str) -> (u16, &'static str, String) {
        match path {
            "/metrics" => (200, "text/plain; version=0.0.4; charset=utf-8", self.metrics()),
            "/" | "/health" | "/healthz" => {
                let shown = self.shown();
                (if shown["state"] == "ok" { 200 } else { 503 }, "application/json", format!("{shown}\n"))
            }
            _ => (404, "text/plain; charset=utf-8", "there are /health and /metrics\n".to_owned()),
        }
    }

    fn shown(&self) -> Value {
        let workers: BTreeMap<_, _> = self.workers.iter().map(|(name, worker)| (name, worker.state())).collect();
        let projections: BTreeMap<_, _> =
            self.projections.iter().map(|(name, projection)| (name, projection_state(projection))).collect();
        let mut states = workers.values().chain(projections.values());
        let state = if self.stop.is_cancelled() {
            "stopping"
        } else if projections.values().any(|state| *state == "failing") {
            "failing"
        } else if states.all(|state| *state == "connected") {
            "ok"
        } else {
            "disconnected"
        };
        let mut shown = json!({"state": state, "workers": workers});
        if !projections.is_empty() {
            let one = |(name, projection): (&String, &ReaderHealth)| {
                let state = json!({"state": projections[name], "failing_position": projection.failing()});
                (name.clone(), state)
            };
            shown["projections"] = Value::Object(self.projections.iter().map(one).collect());
        }
        shown
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let mut family = |name: &str, kind: &str, help: &str, lines: Vec<(String, String)>| {
            _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in lines {
                _ = writeln!(text, "{name}{{{labels}}} {value}");
            }
        };
        let of_worker = |value: &dyn Fn(&Worker) -> i64| {
            self.workers.iter().map(|(name, w)| (label("subscription", name), value(w).to_string())).collect()
        };
        let of_projection = |value: &dyn Fn(&ReaderHealth) -> u64| {
            self.projections.iter().map(|(name, p)| (label("consumer", name), value(p).to_string())).collect()
        };
        let outcomes = self.workers.iter().flat_map(|(name, worker)| {
            [("completed", &worker.completed), ("failed", &worker.failed), ("dead", &worker.dead)].map(
                |(outcome, n)| {
                    let labels = format!("{},{}", label("subscription", name), label("outcome", outcome));
                    (labels, n.load(Ordering::Relaxed).to_string())
                },
            )
        });
        let counter = "outbox_worker_deliveries_total";
        family(counter, "counter", "Deliveries by outcome of their handler.", outcomes.collect());
        let running = of_worker(&|worker| worker.running.load(Ordering::Relaxed));
        family("outbox_worker_running", "gauge", "Handlers that run now.", running);
        let connected = of_worker(&|worker| i64::from(worker.state() == "connected"));
        family("outbox_worker_connected", "gauge", "Whether the worker has a session.", connected);
        if !self.projections.is_empty() {
            let help = "Messages that the projection has applied.";
            family("outbox_projection_messages_total", "counter", help, of_projection(&ReaderHealth::applied));
            let help = "Whether the projection stands at a message whose effect fails.";
            let failing = of_projection(&|projection| u64::from(projection.failing().is_some()));
            family("outbox_projection_failing", "gauge", help, failing);
            let connected = of_projection(&|projection| u64::from(projection.is_connected()));
            let help = "Whether the reader of the projection has a session.";
            family("outbox_projection_connected", "gauge", help, connected);
        }
        text
    }
}

/// A handler that runs. If it panics or is cancelled, it counts as failed.
struct Running(Arc<Worker>, bool);

impl Running {
    fn begin(worker: Arc<Worker>) -> Running {
        worker.running.fetch_add(1, Ordering::Relaxed);
        Running(worker, false)
    }

    fn end(mut self, counter: fn(&Worker) -> &AtomicU64) {
        self.1 = true;
        counter(&self.0).fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        if !self.1 {
            self.0.failed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Listens on an address such as `:8080` or `127.0.0.1:8080`.
pub(super) async fn listen(address: &str) -> Result<TcpListener> {
    let shown: String = address.chars().take(100).collect();
    let full = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
    let full: SocketAddr = full.parse().map_err(|_| {
        Error::invalid(format!("malformed address \"{shown}\"")).hint("For example \":8080\" or \"127.0.0.1:8080\".")
    })?;
    TcpListener::bind(full).await.map_err(|error| {
        Error::invalid(format!("the health port cannot listen on \"{shown}\"")).detail(error.to_string())
    })
}

/// Answers requests for ever.
pub(super) async fn serve(listener: TcpListener, health: Arc<Health>) {
    let mut requests = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = requests.join_next(), if !requests.is_empty() => continue,
            accepted = listener.accept(), if requests.len() < MOST_REQUESTS => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let health = health.clone();
                // A client that sends no request, or takes no answer, gets none.
                requests.spawn(async move { _ = tokio::time::timeout(TIMEOUT, one(stream, &health)).await });
            }
            Err(error) => {
                tracing::warn!(%error, "the health port cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn one(mut stream: TcpStream, health: &Health) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > LARGEST_REQUEST || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let (status, kind, body) = match line.split(' ').collect::<Vec<_>>()[..] {
        [_, target, _] => health.answer(target.split('?').next().unwrap_or_default()),
        _ => (400, "text/plain", "malformed\n".to_owned()),
    };
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        _ => "Service Unavailable",
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}
