//! The cost of a delivery before it reaches the network: signature, body and headers, and address policy.

#![allow(missing_docs, reason = "criterion's macros make functions without documentation")]
#![allow(clippy::unwrap_used, reason = "benchmark")]

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::HeaderMap;
use outbox_core::egress::Egress;
use outbox_core::format::{self, Format};
use outbox_core::message::{Extra, Message};
use outbox_core::sign::{Secret, signature_header};
use serde_json::{Value, json};

const SIZES: [usize; 2] = [256, 4096];
const ID: &str = "msg_2a_60a24181e4000";
const TIME: i64 = 1_700_000_000;

/// Returns a JSON payload of exactly this size.
fn payload(bytes: usize) -> String {
    let frame = r#"{"order_id": 12345, "note": ""}"#;
    frame.replace(r#""note": """#, &format!(r#""note": "{}""#, "x".repeat(bytes - frame.len())))
}

/// Returns a message with the fields that a producer sets that has tracing and several tenants.
fn message(bytes: usize) -> Message {
    let object = |value: Value| value.as_object().cloned();
    Message {
        id: 42,
        position: 1_000_042,
        enqueued_at: TIME * 1_000_000,
        topic: "order.payment.completed".into(),
        key: Some("customer-778899".into()),
        content: payload(bytes).into(),
        content_type: None,
        webhook_id: ID.into(),
        extra: Some(Box::new(Extra {
            headers: object(json!({"x-region": "eu-1"})).map(Arc::new),
            metadata: object(json!({
                "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                "correlation_id": "c-1",
                "schema_version": 3,
            })),
            tenant: Some("acme".into()),
            publisher: Some("billing@1.4.2".into()),
            ..Extra::default()
        })),
    }
}

fn sign(c: &mut Criterion) {
    let secret = |asymmetric| Secret::parse(&Secret::generate(&[7; 32], asymmetric)).unwrap();
    let mut group = c.benchmark_group("sign");
    for bytes in SIZES {
        let body = payload(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        for (name, secrets) in [
            ("v1", vec![secret(false)]),
            ("v1 of two secrets", vec![secret(false), Secret::from_key(&[8; 32])]),
            ("v1a", vec![secret(true)]),
        ] {
            group.bench_with_input(BenchmarkId::new(name, bytes), &body, |b, body| {
                b.iter(|| signature_header(&secrets, black_box(ID), black_box(TIME), body.as_bytes()));
            });
        }
    }
    group.finish();
}

fn render(c: &mut Criterion) {
    let mut group = c.benchmark_group("render");
    for bytes in SIZES {
        let message = message(bytes);
        for (name, format) in [
            ("raw", Format::Raw),
            ("envelope", Format::Envelope),
            ("cloudevents", Format::CloudEvents),
            ("cloudevents_structured", Format::CloudEventsStructured),
            ("pubsub", Format::PubSub),
        ] {
            group.bench_with_input(BenchmarkId::new(name, bytes), &message, |b, message| {
                b.iter(|| {
                    let mut headers = HeaderMap::new();
                    let rendered = format::single(format, black_box(message), "/pg_outbox/shop", &mut headers).unwrap();
                    (rendered, headers)
                });
            });
        }
        let batch: Vec<Message> = vec![message; 100];
        group.bench_with_input(BenchmarkId::new("batch of 100 envelopes", bytes), &batch, |b, batch| {
            b.iter(|| format::batch(Format::Envelope, black_box(batch).iter(), "/pg_outbox/shop"));
        });
    }
    group.finish();
}

fn egress(c: &mut Criterion) {
    let mut group = c.benchmark_group("egress");
    let closed = Egress::default();
    let open =
        Egress::parse("10.1.0.0/16, fd00:1::/32, 192.168.7.7").and_then(|e| e.with_ports("443, 8000-8999")).unwrap();
    for (name, rules, address) in [
        ("public", &closed, "93.184.215.14"),
        ("forbidden", &closed, "169.254.169.254"),
        ("public, IPv6", &closed, "2606:2800:21f::1"),
        ("allowed network and port", &open, "10.1.2.3"),
    ] {
        let address: IpAddr = address.parse().unwrap();
        group.bench_function(name, |b| b.iter(|| rules.allows_port(black_box(address), black_box(443))));
    }
    group.finish();
}

criterion_group!(benches, sign, render, egress);
criterion_main!(benches);
