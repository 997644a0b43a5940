//! The dashboard against a real server, over HTTP: every page, every action as a role that may see and as one that may
//! act, and what an attacker would try.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod actions;
mod browser;
mod databases;
mod outages;
mod pages;
mod prometheus;
mod security;
mod traces;

use std::net::SocketAddr;
use std::time::Duration;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Server, wait_until};
use pg_outbox::connect::Target;
use pg_outbox_serve::Options;
use tokio::sync::OnceCell;

/// The longest wait for an event that normally takes milliseconds. It is long because the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const TOKEN: &str = "the-token-of-the-tests";
pub(crate) const METRICS_TOKEN: &str = "the-token-of-prometheus";

/// Returns the PostgreSQL server of this program, with a role that sees and one that acts.
pub(crate) async fn postgres() -> &'static Server {
    static SERVER: OnceCell<Server> = OnceCell::const_new();
    SERVER
        .get_or_init(async || {
            let settings = [("pg_outbox.poll_interval", "1s"), ("max_worker_processes", "60")];
            let server = Server::start(&settings).await.expect("a server");
            let db = server.connect("postgres").await.expect("a session");
            let roles = "create role sees login password 'x'; create role acts login password 'x'; \
                         create role counts login password 'x'; create role nobody login password 'x'";
            db.batch_execute(roles).await.expect("roles");
            server
        })
        .await
}

/// Creates a database in which the roles have their capabilities.
pub(crate) async fn database(name: &str) -> Client {
    let db = postgres().await.database(name).await.expect("a database");
    let grants = "select outbox.grant_to('sees', 'monitor'); select outbox.grant_to('acts', 'admin'); \
                  select outbox.grant_to('counts', 'observe')";
    db.batch_execute(grants).await.expect("grants");
    db
}

/// Returns the connection string of a role.
pub(crate) fn dsn(server: &Server, role: &str, database: &str) -> String {
    format!("postgresql://{role}:x@127.0.0.1:{}/{database}", server.port)
}

pub(crate) fn options() -> Options {
    Options {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        token: Some(TOKEN.to_owned()),
        metrics_token: Some(METRICS_TOKEN.to_owned()),
        ..Options::default()
    }
}

/// Starts a dashboard in this process, for as long as the test runs.
pub(crate) async fn start(dsn: &str, options: Options) -> SocketAddr {
    let server =
        pg_outbox_serve::Server::bind(Target::parse(dsn).expect("a target"), options).await.expect("a dashboard");
    let address = server.address();
    tokio::spawn(server.run(std::future::pending()));
    address
}

/// Starts a dashboard of a role.
pub(crate) async fn dashboard(role: &str, database: &str) -> SocketAddr {
    start(&dsn(postgres().await, role, database), options()).await
}

/// Makes dead letters of a pull subscription `work`, which fail with the error, and returns the ids of the messages.
pub(crate) async fn dead_letters(db: &Client, count: i32, error: &str) -> Vec<i64> {
    db.execute("select outbox.ensure_subscription('work', array['job.#'])", &[]).await.expect("a subscription");
    let sent = "select unnest(outbox.enqueue_many('job.run', (select array_agg(to_jsonb(i)) from generate_series(1,
        $1::int) i)))";
    let ids: Vec<i64> = db.query(sent, &[&count]).await.expect("messages").iter().map(|row| row.get(0)).collect();
    let mut dead = 0;
    wait_until("all are dead", PATIENCE, async || {
        let kill = "select count(outbox.dead(c.lease, array[c.delivery_id], $1))
            from outbox.claim('work', 'killer', max_messages => 1000) c";
        dead += db.query_one(kill, &[&error]).await.expect("claimed").get::<_, i64>(0);
        dead == i64::from(count)
    })
    .await;
    ids
}

/// Creates an endpoint with a subscription to `push.#`.
pub(crate) async fn endpoint(db: &Client, name: &str, receiver: &Receiver) {
    let create = "select outbox.create_endpoint($1, $2)";
    db.execute(create, &[&name, &receiver.url("/hook?key=hidden-key")]).await.expect("an endpoint");
    db.execute("select outbox.subscribe($1, array['push.#'], $1)", &[&name]).await.expect("a subscription");
}
