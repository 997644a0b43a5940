//! Several databases in one dashboard: which one is not ok, and each with the rights of its own role.

use std::time::{Duration, Instant};

use outbox_harness::wait_until;
use pg_outbox::connect::Target;
use pg_outbox_serve::{Options, Server};

use crate::browser::Browser;
use crate::{METRICS_TOKEN, PATIENCE, TOKEN, database, dead_letters, dsn, options, postgres};

async fn several(databases: &[(&str, String)]) -> std::net::SocketAddr {
    let targets = databases.iter().map(|(name, dsn)| ((*name).to_owned(), Target::parse(dsn).unwrap())).collect();
    let server = Server::bind_several(targets, Options { ..options() }).await.unwrap();
    let address = server.address();
    tokio::spawn(server.run(std::future::pending()));
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_page_says_which_database_is_not_ok_and_each_has_its_own_rights() {
    let (shop, billing) = (database("shop").await, database("billing").await);
    dead_letters(&billing, 1, "the card was declined").await;
    shop.batch_execute("select outbox.subscribe('s', array['a'])").await.unwrap();
    billing.batch_execute("select outbox.subscribe('s', array['a'])").await.unwrap();
    let server = postgres().await;
    let address = several(&[
        ("shop", dsn(server, "acts", "shop")),
        ("billing", dsn(server, "sees", "billing")),
        ("locked", dsn(server, "nobody", "shop")),
        ("lost", "postgresql://acts:x@127.0.0.1:1/lost".to_owned()),
    ])
    .await;
    let mut ann = Browser::logged_in(address, TOKEN, "Ann").await;
    let mut page = ann.get("/").await;
    wait_until("the dispatcher of the shop runs", PATIENCE, async || {
        page = ann.get("/").await;
        page.body.contains("3 of 4 databases are not ok: billing, locked, lost")
    })
    .await;
    for word in ["not reachable", "not permitted", "warning", "dead letters", "href=\"/db/billing/\""] {
        assert!(page.body.contains(word), "{word}: {}", page.body);
    }
    assert!(!page.body.contains("aria-label=\"Pages\""), "the pages are those of a database");
    assert_eq!(ann.get("/databases").await.status, 200);

    // Links and forms stay in their database.
    let page = ann.get("/db/shop/subscriptions").await;
    assert!(
        page.body.contains("href=\"/db/shop/endpoints\"") && page.body.contains("href=\"/databases\""),
        "{}",
        page.body
    );
    assert!(!page.body.contains("href=\"/endpoints\"") && page.body.contains("href=\"/style.css\""));
    let done = ann.submit(&page, "/db/shop/do/pause", &[], &[]).await;
    assert!(done.status == 200 && done.body.contains("is paused"), "{}", done.body);
    let paused = |db: &'static str| async move {
        let db = postgres().await.connect(db).await.unwrap();
        db.query_one("select bool_or(paused) from outbox.subscription", &[]).await.unwrap().get::<_, bool>(0)
    };
    assert!(paused("shop").await && !paused("billing").await);
    // The role of the other database only sees.
    let page = ann.get("/db/billing/subscriptions").await;
    assert!(page.status == 200 && !page.body.contains("/do/"), "{}", page.body);
    let token = page.form("/logout", &[]).unwrap()["form_token"].clone();
    let refused = ann.post("/db/billing/do/pause", &[("form_token", &token), ("name", "s")]).await;
    assert!(refused.status == 403 && !paused("billing").await, "{}", refused.body);
    assert_eq!(ann.get("/db/locked/subscriptions").await.status, 403);
    assert_eq!(ann.get("/db/lost/").await.status, 503);
    for none in ["/subscriptions", "/db/other/", "/db/shop", "/db/shop/nothing", "/db/shop/db/billing/"] {
        assert_eq!(ann.get(none).await.status, 404, "{none}");
    }
    assert_eq!(ann.post("/do/pause", &[("form_token", &token), ("name", "s")]).await.status, 404);
    assert_eq!(ann.post("/db/shop/do/pause", &[("form_token", "0"), ("name", "s")]).await.status, 403);

    // The metrics of all have a label, and one that is lost hides no other.
    let mut scraper = Browser::new(address);
    scraper.headers = vec![("Authorization".to_owned(), format!("Bearer {METRICS_TOKEN}"))];
    let text = scraper.get("/metrics").await.body;
    for line in [
        "outbox_database_up{database=\"lost\"} 0",
        "outbox_database_up{database=\"shop\"} 1",
        "outbox_dead_letters_open{database=\"billing\",subscription=\"work\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    assert_eq!(scraper.get("/readyz").await.status, 503);
    assert!(!scraper.get("/readyz").await.body.contains("lost"), "names are for those who are logged in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_stops_no_other() {
    let _db = database("quick").await;
    // Connections are accepted, and nothing is ever answered.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = format!("postgresql://acts:x@{}/hangs", silent.local_addr().unwrap());
    let address = several(&[("hangs", hangs), ("quick", dsn(postgres().await, "sees", "quick"))]).await;
    let mut ann = Browser::logged_in(address, TOKEN, "Ann").await;
    // More people look at the one that hangs than it has sessions.
    let mut looking = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let mut other = ann.clone();
        looking.spawn(async move { other.get("/db/hangs/").await.status });
    }
    let started = Instant::now();
    assert_eq!(ann.get("/db/quick/workers").await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let page = ann.get("/").await;
    assert!(page.status == 200 && page.body.contains("not reachable"), "{}", page.body);
    let metrics = ann.get("/metrics").await.body;
    assert!(metrics.contains("outbox_database_up{database=\"hangs\"} 0\n"), "{metrics}");
    assert!(metrics.contains("outbox_database_up{database=\"quick\"} 1\n"), "{metrics}");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    while let Some(status) = looking.join_next().await {
        assert_eq!(status.unwrap(), 503);
    }
}
