//! The database is lost and comes back, is slow, or has no outbox. Pages say so, and the next one works again by itself.

use outbox_harness::{Server, Stop, wait_until};

use crate::browser::Browser;
use crate::pages::PAGES;
use crate::{PATIENCE, TOKEN, options, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_database_is_said_on_every_page_and_comes_back() {
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("lost").await.unwrap();
    let address = start(&server.dsn("lost"), options()).await;
    let mut browser = Browser::logged_in(address, TOKEN, "").await;
    assert_eq!(browser.get("/").await.status, 200);

    // A query that waits for a lock ends, and stops no other page.
    db.batch_execute("begin; lock table outbox.dead_letter").await.unwrap();
    let waiting = browser.get("/dead-letters").await;
    assert_eq!(waiting.status, 503, "{}", waiting.body);
    assert_eq!(browser.get("/streams").await.status, 200);
    db.batch_execute("rollback").await.unwrap();
    assert_eq!(browser.get("/dead-letters").await.status, 200);

    server.stop(Stop::Immediate).unwrap();
    for path in PAGES {
        let page = browser.get(path).await;
        assert!(page.status == 503 && page.body.contains("The database cannot be reached"), "{path}: {}", page.body);
        assert!(page.body.contains("data-live"), "{path}: the page renews itself");
        assert!(!page.body.contains(server.password()), "{path}");
    }
    wait_until("it is not ready", PATIENCE, async || browser.get("/readyz").await.status == 503).await;
    assert_eq!(browser.get("/healthz").await.status, 200);
    assert_eq!(browser.get("/metrics").await.status, 503);

    server.run().await.unwrap();
    wait_until("the page works again", PATIENCE, async || browser.get("/").await.status == 200).await;
    wait_until("it is ready", PATIENCE, async || browser.get("/readyz").await.status == 200).await;
    assert_eq!(browser.get("/metrics").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_an_outbox_is_not_ready() {
    let server = crate::postgres().await;
    server.empty_database("bare").await.unwrap();
    let mut browser = Browser::logged_in(start(&server.dsn("bare"), options()).await, TOKEN, "").await;
    assert_eq!(browser.get("/readyz").await.status, 503);
    let page = browser.get("/").await;
    assert!(page.status >= 400 && page.body.contains("role=\"alert\""), "{}", page.body);
}
