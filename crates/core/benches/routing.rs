//! The cost of routing a message, with 1 to 10,000 subscriptions of which one in a hundred matches.
//!
//! `topics`: patterns of all kinds decide. `filters`: all subscriptions match the topic, and a filter on the tenant decides.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use outbox_core::filter::{Filter, Subject};
use outbox_core::pattern::Pattern;
use outbox_core::router::{Router, Scratch};
use serde_json::json;

const SUBSCRIPTIONS: [usize; 4] = [1, 100, 1_000, 10_000];
/// One subscription in this many matches.
const GROUPS: usize = 100;

fn router(rules: impl Iterator<Item = (String, Filter)>) -> Router<(i32, u32)> {
    let mut router = Router::new();
    for (id, (pattern, filter)) in rules.enumerate() {
        if let Ok(pattern) = Pattern::parse(&pattern) {
            router.insert(&pattern, &filter, (id as i32, 0));
        }
    }
    router
}

fn topics(c: &mut Criterion) {
    let mut group = c.benchmark_group("routing/topics");
    group.throughput(Throughput::Elements(1));
    for n in SUBSCRIPTIONS {
        let router = router((0..n).map(|i| {
            let unit = i % GROUPS;
            let pattern = match i / GROUPS % 5 {
                0 => format!("shop.u{unit}.created"),
                1 => format!("shop.u{unit}.*"),
                2 => format!("shop.u{unit}.#"),
                3 => format!("*.u{unit}.created"),
                _ => format!("#.u{unit}.#"),
            };
            (pattern, Filter::default())
        }));
        let topics: Vec<String> = (0..n.min(GROUPS)).map(|unit| format!("shop.u{unit}.created")).collect();
        let (mut scratch, mut found) = (Scratch::default(), Vec::new());
        for topic in &topics {
            router.matches(topic, &Subject::default(), &mut scratch, &mut found);
            assert_eq!(found.len(), n.div_ceil(GROUPS), "{topic}");
        }
        let mut next = topics.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| {
                if let Some(topic) = next.next() {
                    router.matches(black_box(topic), &Subject::default(), &mut scratch, &mut found);
                }
                found.len()
            });
        });
    }
    group.finish();
}

fn filters(c: &mut Criterion) {
    let mut group = c.benchmark_group("routing/filters");
    group.throughput(Throughput::Elements(1));
    for n in SUBSCRIPTIONS {
        let filters: Vec<Filter> = (0..n)
            .filter_map(|i| Filter::parse(&json!({"tenant": format!("t{}", i % GROUPS), "key": "order-*"})).ok())
            .collect();
        let router = router(filters.iter().map(|filter| ("shop.#".to_owned(), filter.clone())));
        let tenants: Vec<String> = (0..n.min(GROUPS)).map(|i| format!("t{i}")).collect();
        let (mut scratch, mut found) = (Scratch::default(), Vec::new());
        let mut route = |tenant: &str| {
            let subject = Subject { tenant: Some(tenant), key: Some("order-4711"), ..Subject::default() };
            router.matches("shop.orders.created", &subject, &mut scratch, &mut found);
            found.iter().filter(|(id, _)| filters[*id as usize].matches(&subject)).count()
        };
        tenants.iter().for_each(|tenant| assert_eq!(route(tenant), n.div_ceil(GROUPS)));
        let mut next = tenants.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| next.next().map(|tenant| route(black_box(tenant))));
        });
    }
    group.finish();
}

criterion_group!(benches, topics, filters);
criterion_main!(benches);
