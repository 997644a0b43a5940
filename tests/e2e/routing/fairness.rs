//! One busy tenant does not starve other tenants.

use std::collections::HashSet;
use std::time::Duration;

use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Receiver, Reply, Server, Stop, wait_until};
use outbox_tests::{PATIENCE, one, outbox_harness, settle};

const NOISY: i32 = 5000;
const QUIET: i32 = 10;

async fn enqueue(db: &Client, tenant: &str, count: i32) {
    db.execute(
        "select count(outbox.enqueue('order.created', jsonb_build_object('n', n, 'tenant', $1::text), tenant => $1))
        from generate_series(1, $2::int) n",
        &[&tenant, &count],
    )
    .await
    .unwrap();
}

/// Returns the tenant and the number of each arrival, in the order of arrival.
fn arrived(receiver: &Receiver) -> Vec<(String, i64)> {
    let of = |json: serde_json::Value| (json["tenant"].as_str().unwrap().to_owned(), json["n"].as_i64().unwrap());
    receiver.arrivals().iter().map(|a| of(a.json())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_messages_of_one_tenant_pass_the_pile_of_another() {
    let receiver = Receiver::start().unwrap();
    receiver.on("/slow", |_, _| Reply::status(200).after(Duration::from_millis(4)));
    let mut server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    let db = server.database("fair").await.unwrap();
    db.execute("select outbox.create_endpoint('slow', $1, concurrency => 4)", &[&receiver.url("/slow")]).await.unwrap();
    db.execute("select outbox.subscribe('s', '{order.#}', 'slow')", &[]).await.unwrap();
    enqueue(&db, "noisy", NOISY).await;
    wait_until("the noisy tenant's begin to arrive", PATIENCE, async || receiver.total() > 0).await;
    enqueue(&db, "quiet", QUIET).await;
    wait_until("the quiet tenant's are recorded", PATIENCE, async || {
        one::<i64>(
            &db,
            "select count(*) from outbox.attempt a join outbox.message m on m.id = a.message_id where m.tenant = 'quiet'",
        )
        .await
            == i64::from(QUIET)
    })
    .await;
    let so_far = arrived(&receiver);
    let last = so_far.iter().rposition(|(tenant, _)| tenant == "quiet").unwrap();
    assert!(last < NOISY as usize / 2, "the last of the quiet tenant was number {last}");
    let noisy: Vec<i64> = so_far.iter().filter(|(tenant, _)| tenant == "noisy").map(|(_, n)| *n).collect();
    let ascending = noisy.windows(2).filter(|pair| pair[0] < pair[1]).count();
    assert!(ascending * 2 > noisy.len(), "a tenant's own go out in their order, as far as four connections keep it");

    // The next incarnation of the dispatcher knows which messages were overtaken. The messages that overtook are not sent
    // again.
    server.restart(Stop::Immediate).await.unwrap();
    let db = server.connect("fair").await.unwrap();
    wait_until("everything has arrived", PATIENCE, async || {
        arrived(&receiver).into_iter().collect::<HashSet<_>>().len() == (NOISY + QUIET) as usize
    })
    .await;
    settle(&db).await;
    let all = arrived(&receiver);
    assert_eq!(all.iter().filter(|(tenant, _)| tenant == "quiet").count(), QUIET as usize);
    // Deliveries that were in flight or not recorded are repeated. On a slow machine these are hundreds, not thousands.
    assert!(all.len() < (NOISY + QUIET) as usize + 1000, "{} arrivals", all.len());
}
