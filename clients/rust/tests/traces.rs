//! A trace goes on from the span that enqueues a message to the span of its handler.

#![cfg(all(feature = "testing", feature = "opentelemetry"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, Mutex};

use opentelemetry::trace::{SpanContext, TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use outbox_harness::Server;
use pg_outbox::message::enqueue_many;
use pg_outbox::testing::drain;
use pg_outbox::worker::Delivery;
use pg_outbox::{Message, Outbox};
use serde_json::json;
use tracing::{Instrument as _, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;

/// The topic of a delivery, the span of its handler, and the traceparent of its message.
type Handled = (String, SpanContext, Option<String>);

fn context(span: &Span) -> SpanContext {
    span.context().span().span_context().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_on_from_the_enqueueing_span_to_the_span_of_the_handler() {
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();
    let server = Server::start(&[("pg_outbox.poll_interval", "1s")]).await.unwrap();
    server.database("traces").await.unwrap();
    let outbox = Outbox::connect(&server.dsn("traces")).await.unwrap();
    outbox.ensure_subscription("traced", &["order.#"], Default::default()).await.unwrap();

    let request = info_span!("request");
    let sent = context(&request);
    async {
        let session = outbox.session().await.unwrap();
        Message::to("order.one").json(&json!(1)).unwrap().enqueue(&**session).await.unwrap();
        enqueue_many(&**session, "order.many", &[json!(2)], &[]).await.unwrap();
        let own = Message::to("order.own").json(&json!(3)).unwrap();
        own.set_metadata("traceparent", "not one").enqueue(&**session).await.unwrap();
    }
    .instrument(request)
    .await;
    let session = outbox.session().await.unwrap();
    Message::to("order.alone").json(&json!(4)).unwrap().enqueue(&**session).await.unwrap();

    let seen: Arc<Mutex<Vec<Handled>>> = Arc::default();
    let notes = seen.clone();
    let report = drain(&outbox, "traced", move |delivery: Delivery| {
        let parent = delivery.get_metadata("traceparent").and_then(|text| text.as_str()).map(str::to_owned);
        notes.lock().unwrap().push((delivery.topic.clone(), context(&Span::current()), parent));
        async { Ok::<(), anyhow::Error>(()) }
    })
    .await
    .unwrap();
    assert_eq!(report.completed, 4);
    let header = format!("00-{}-{}-01", sent.trace_id(), sent.span_id());
    for (topic, handled, parent) in seen.lock().unwrap().iter() {
        let continues = ["order.one", "order.many"].contains(&topic.as_str());
        assert_eq!(handled.trace_id() == sent.trace_id(), continues, "{topic}");
        assert_ne!(handled.span_id(), sent.span_id());
        let expected = if continues { Some(header.as_str()) } else { (topic == "order.own").then_some("not one") };
        assert_eq!(parent.as_deref(), expected, "{topic}");
    }
}
