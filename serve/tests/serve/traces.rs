//! Every attempt of a recorded trace is one span at a real receiver of OTLP, which decodes what arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Held;
use opentelemetry_proto::tonic::trace::v1::Span;
use outbox_harness::tokio_postgres::Client;
use outbox_harness::{Arrival, Receiver, Reply, wait_until};
use pg_outbox_serve::{Options, Traces};
use prost::Message as _;

use crate::browser::Browser;
use crate::{PATIENCE, TOKEN, database, dsn, endpoint, options, postgres, start};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

async fn exporting(role: &str, database: &str, collector: &Receiver) -> SocketAddr {
    let headers = vec![("api-key".to_owned(), "of the receiver".to_owned())];
    let traces = Some(Traces { url: collector.url("/v1/traces"), headers });
    start(&dsn(postgres().await, role, database), Options { traces, ..options() }).await
}

fn decoded(arrival: &Arrival) -> Vec<Span> {
    assert_eq!(
        (arrival.header("content-type"), arrival.header("api-key")),
        ("application/x-protobuf", "of the receiver")
    );
    let request = ExportTraceServiceRequest::decode(arrival.body.as_ref()).expect("protobuf");
    let resources = request.resource_spans;
    assert!(resources.iter().all(|found| format!("{:?}", found.resource).contains("pg_outbox")));
    resources.into_iter().flat_map(|found| found.scope_spans).flat_map(|scope| scope.spans).collect()
}

/// The spans that the receiver has taken.
fn taken(collector: &Receiver) -> Vec<Span> {
    collector.arrivals().iter().filter(|arrival| arrival.path == "/v1/traces").flat_map(decoded).collect()
}

fn attributes(span: &Span) -> BTreeMap<String, String> {
    let text = |held: &Held| match held {
        Held::StringValue(text) => text.clone(),
        Held::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = span.attributes.iter();
    pairs
        .map(|pair| {
            (pair.key.clone(), pair.value.as_ref().and_then(|any| any.value.as_ref()).map_or_else(String::new, text))
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Enqueues a message in a trace with these flags.
async fn enqueue(db: &Client, topic: &str, trace: &str, flags: &str) {
    let sql = format!(
        "begin; select outbox.set_context(traceparent => '00-{trace}-{PARENT}-{flags}', tracestate => 'a=b');
        select outbox.enqueue('{topic}', '{{\"secret\": \"of the payload\"}}'); commit"
    );
    db.batch_execute(&sql).await.unwrap();
}

async fn attempts(db: &Client) -> i64 {
    db.query_one("select count(*) from outbox.attempt", &[]).await.unwrap().get(0)
}

/// The exporter has begun: its cursor is there.
async fn begun(db: &Client) {
    wait_until("the cursor is there", PATIENCE, async || {
        let found = "select count(*) from outbox.cursor where stream = 'outbox serve'";
        db.query_one(found, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attempt_of_a_recorded_trace_is_one_span() {
    let db = database("traced").await;
    let (fine, flaky, collector) = (Receiver::start().unwrap(), Receiver::start().unwrap(), Receiver::start().unwrap());
    flaky.on("/hook?key=hidden-key", |_, n| Reply::status(if n == 0 { 503 } else { 200 }).body("quotes the payload"));
    endpoint(&db, "hooks", &fine).await;
    db.execute(
        "select outbox.create_endpoint('flaky', $1, schedule => '[0.2]')",
        &[&flaky.url("/hook?key=hidden-key")],
    )
    .await
    .unwrap();
    db.batch_execute(
        "select outbox.subscribe('flaky', array['retry.#'], 'flaky');
        select outbox.subscribe('batches', array['batch.#'], 'hooks', batch_size => 3, batch_wait => '300 ms')",
    )
    .await
    .unwrap();
    enqueue(&db, "push.before", TRACE, "01").await;
    wait_until("it is sent before there is an exporter", PATIENCE, async || attempts(&db).await == 1).await;
    let dashboard = exporting("acts", "traced", &collector).await;
    begun(&db).await;

    enqueue(&db, "push.one", TRACE, "01").await;
    enqueue(&db, "push.unsampled", TRACE, "00").await;
    db.batch_execute("select outbox.enqueue('push.none', '{}')").await.unwrap();
    enqueue(&db, "retry.it", TRACE, "01").await;
    for n in 1..=3 {
        enqueue(&db, "batch.it", &format!("{n}{}", &TRACE[1..]), if n == 2 { "00" } else { "01" }).await;
    }
    wait_until("all spans have arrived", PATIENCE, async || taken(&collector).len() >= 4).await;
    // A later span shows that no other comes before it.
    enqueue(&db, "push.last", TRACE, "01").await;
    wait_until("the last one has arrived", PATIENCE, async || {
        taken(&collector).iter().any(|span| span.name == "send push.last")
    })
    .await;
    let spans = taken(&collector);
    let mut names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["send batches", "send push.last", "send push.one", "send retry.it", "send retry.it"]);
    assert_eq!(spans.iter().map(|span| hex(&span.span_id)).collect::<BTreeSet<_>>().len(), 5);

    let one = spans.iter().find(|span| span.name == "send push.one").unwrap();
    assert_eq!((hex(&one.trace_id), hex(&one.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert_eq!((hex(&one.links[0].trace_id), one.links.len(), one.trace_state.as_str()), (TRACE.to_owned(), 1, "a=b"));
    assert!(one.end_time_unix_nano > one.start_time_unix_nano && one.status.is_none());
    let said = attributes(one);
    for (name, value) in [
        ("messaging.system", "pg_outbox"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "push.one"),
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("url.full", fine.url("/hook").as_str()),
        ("server.address", "127.0.0.1"),
        ("outbox.subscription", "hooks"),
        ("outbox.attempt", "1"),
    ] {
        assert_eq!(said.get(name).map(String::as_str), Some(value), "{name} of {said:?}");
    }
    let id = "select outbox.webhook_id(id, enqueued_at) from outbox.message where topic = 'push.one'";
    assert_eq!(said["messaging.message.id"], db.query_one(id, &[]).await.unwrap().get::<_, String>(0));
    let mut tries: Vec<_> = spans.iter().filter(|span| span.name == "send retry.it").collect();
    tries.sort_by_key(|span| span.start_time_unix_nano);
    assert_eq!(tries[0].status.as_ref().unwrap().message, "HTTP 503");
    assert_eq!(
        (attributes(tries[0])["error.type"].as_str(), attributes(tries[1])["http.request.resend_count"].as_str()),
        ("503", "1")
    );
    let batch = spans.iter().find(|span| span.name == "send batches").unwrap();
    assert_eq!((batch.links.len(), batch.parent_span_id.len()), (3, 0), "a link for each message");
    assert_eq!(attributes(batch)["messaging.batch.message_count"], "3");
    let shown = format!("{spans:?}");
    for secret in ["hidden-key", "of the payload", "quotes the payload"] {
        assert!(!shown.contains(secret), "{secret}");
    }
    let mut browser = Browser::logged_in(dashboard, TOKEN, "").await;
    let metrics = browser.get("/metrics").await.body;
    assert!(metrics.contains("\noutbox_serve_spans_total 5\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_span_is_lost_or_sent_twice_by_several_servers_and_a_receiver_that_fails() {
    let db = database("twice").await;
    let (receiver, collector) = (Receiver::start().unwrap(), Receiver::start().unwrap());
    collector.on("/v1/traces", |_, n| Reply::status(if n % 3 == 0 { 503 } else { 200 }));
    endpoint(&db, "hooks", &receiver).await;
    exporting("acts", "twice", &collector).await;
    begun(&db).await;
    exporting("acts", "twice", &collector).await;
    let sent =
        "begin; select outbox.set_context(traceparent => '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01');
        select outbox.enqueue('push.many', '{}') from generate_series(1, 700); commit";
    let taken = || -> Vec<String> {
        let arrivals = collector.arrivals();
        let good = arrivals.iter().enumerate().filter(|(n, _)| n % 3 != 0).map(|(_, arrival)| arrival);
        good.flat_map(decoded).map(|span| hex(&span.span_id)).collect()
    };
    for round in 1..=4 {
        db.batch_execute(sent).await.unwrap();
        wait_until("the spans have arrived", PATIENCE, async || taken().len() >= round * 700).await;
    }
    // A server that begins later goes on where the others are.
    exporting("acts", "twice", &collector).await;
    db.batch_execute(sent).await.unwrap();
    wait_until("the last spans have arrived", PATIENCE, async || taken().len() >= 3500).await;
    let ids = taken();
    assert_eq!((ids.len(), ids.iter().collect::<BTreeSet<_>>().len()), (3500, 3500));
    assert_eq!(attempts(&db).await, 3500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_of_a_transaction_that_commits_late_are_not_passed_over() {
    let db = database("late").await;
    let (receiver, collector) = (Receiver::start().unwrap(), Receiver::start().unwrap());
    endpoint(&db, "hooks", &receiver).await;
    let mut browser = Browser::logged_in(exporting("acts", "late", &collector).await, TOKEN, "").await;
    let mut statements = async || -> u64 {
        let metrics = browser.get("/metrics").await.body;
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("outbox_serve_query_seconds_count{step=\"write\"} "));
        line.and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    begun(&db).await;
    let spans = || taken(&collector).len();
    enqueue(&db, "push.one", TRACE, "01").await;
    wait_until("the first span has arrived", PATIENCE, async || spans() == 1).await;
    // An attempt is written in a subtransaction, and committed after later ones.
    let late = postgres().await.connect("late").await.unwrap();
    late.batch_execute(
        "begin; savepoint a;
        insert into outbox.attempt select (a).* from (select a from outbox.attempt a limit 1) s;
        release a",
    )
    .await
    .unwrap();
    enqueue(&db, "push.two", TRACE, "01").await;
    wait_until("the second message is sent", PATIENCE, async || attempts(&db).await == 2).await;
    // A look at the log takes four statements, so there are two looks in this time.
    let before = statements().await;
    wait_until("the exporter has looked at the log", PATIENCE, async || statements().await >= before + 12).await;
    assert_eq!(spans(), 1, "it waits for the older transaction");
    late.batch_execute("commit").await.unwrap();
    wait_until("both spans have arrived", PATIENCE, async || spans() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_need_the_cursor_and_no_right_to_act() {
    let db = database("untraced").await;
    let (receiver, collector) = (Receiver::start().unwrap(), Receiver::start().unwrap());
    endpoint(&db, "hooks", &receiver).await;
    let dashboard = exporting("sees", "untraced", &collector).await;
    enqueue(&db, "push.one", TRACE, "01").await;
    wait_until("it is sent", PATIENCE, async || attempts(&db).await == 1).await;
    let mut browser = Browser::logged_in(dashboard, TOKEN, "").await;
    assert_eq!(browser.get("/").await.status, 200);
    wait_until("the failure is counted", PATIENCE, async || {
        let metrics = browser.get("/metrics").await.body;
        let count = metrics.lines().find_map(|line| line.strip_prefix("outbox_serve_span_requests_failed_total "));
        count.is_some_and(|count| count != "0")
    })
    .await;
    assert!(collector.arrivals().is_empty());
    // With the right to its cursor alone the server begins.
    db.batch_execute("select outbox.grant_to('sees', 'consume', consumers => '{traces}')").await.unwrap();
    begun(&db).await;
    enqueue(&db, "push.two", TRACE, "01").await;
    wait_until("the span has arrived", PATIENCE, async || !taken(&collector).is_empty()).await;
    db.batch_execute("select outbox.revoke_from('sees', 'consume')").await.unwrap();
    assert_eq!(taken(&collector).iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), ["send push.two"]);
}

/// The cursor of a copy names transactions that are far ahead of those of its cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_in_another_cluster_begins_afresh() {
    let db = database("restored").await;
    let (receiver, collector) = (Receiver::start().unwrap(), Receiver::start().unwrap());
    endpoint(&db, "hooks", &receiver).await;
    let copied = "select outbox.cursor_advance('traces', 3, stream => 'outbox serve',
        delivery_id => '{\"from\":900000000000,\"mark\":[0,0,0],\"part\":null}')";
    db.batch_execute(copied).await.unwrap();
    exporting("acts", "restored", &collector).await;
    wait_until("the cursor is moved", PATIENCE, async || {
        let moved = "select position from outbox.cursor where stream = 'outbox serve'";
        db.query_one(moved, &[]).await.unwrap().get::<_, i64>(0) > 3
    })
    .await;
    enqueue(&db, "push.one", TRACE, "01").await;
    wait_until("the span has arrived", PATIENCE, async || !taken(&collector).is_empty()).await;
}

/// A part of the log has more messages than one request, and the receiver fails in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_batches_are_sent_in_several_requests() {
    let db = database("large").await;
    let (receiver, collector) = (Receiver::start().unwrap(), Receiver::start().unwrap());
    collector.on("/v1/traces", |_, n| Reply::status(if n % 2 == 0 { 503 } else { 200 }));
    endpoint(&db, "hooks", &receiver).await;
    db.batch_execute(
        "select outbox.subscribe('batches', array['batch.#'], 'hooks', batch_size => 1000, batch_wait => '300 ms')",
    )
    .await
    .unwrap();
    exporting("acts", "large", &collector).await;
    begun(&db).await;
    // The attempts come together, because the exporter waits for this transaction.
    let older = postgres().await.connect("large").await.unwrap();
    older.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    let many = format!(
        "begin; select outbox.set_context(traceparent => '00-{TRACE}-{PARENT}-01');
        select count(outbox.enqueue('batch.it', '1')) from generate_series(1, 5000); commit"
    );
    db.batch_execute(&many).await.unwrap();
    let sent = "select coalesce(sum(cardinality(message_ids)), 0)::bigint from outbox.attempt";
    wait_until("all are sent", PATIENCE, async || db.query_one(sent, &[]).await.unwrap().get::<_, i64>(0) == 5000)
        .await;
    older.batch_execute("commit").await.unwrap();
    let batches = attempts(&db).await;
    let spans = || -> Vec<Span> {
        let arrivals = collector.arrivals();
        let good = arrivals.iter().enumerate().filter(|(n, _)| n % 2 != 0).map(|(_, arrival)| arrival);
        good.flat_map(decoded).collect()
    };
    wait_until("all spans have arrived", PATIENCE, async || spans().len() as i64 >= batches).await;
    let spans = spans();
    assert_eq!(spans.iter().map(|span| hex(&span.span_id)).collect::<BTreeSet<_>>().len() as i64, batches);
    let messages = |span: &Span| span.links.len() + span.dropped_links_count as usize;
    assert_eq!((spans.len() as i64, spans.iter().map(messages).sum::<usize>()), (batches, 5000));
    let requests = collector.arrivals();
    let largest = requests.iter().map(|request| decoded(request).iter().map(messages).sum::<usize>()).max();
    assert!(requests.len() >= 5 && largest <= Some(2000), "{} {largest:?}", requests.len());
}
