//! Finds the subscriptions that a message may match. All patterns are compiled into one trie, and the owners of a pattern are
//! indexed by a value that their filters require, so that the cost of a message depends on its topic and on the matching
//! patterns and filters, not on the number of subscriptions.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::filter::{Filter, Required, Subject};
use crate::pattern::{Pattern, Word};
use crate::topic::is_reserved;

/// A trie over the words of patterns. `T` identifies the owner of a pattern with its filter.
#[derive(Clone, Debug)]
pub struct Router<T> {
    nodes: Vec<Node<T>>,
    patterns: usize,
}

#[derive(Clone, Debug)]
struct Node<T> {
    exact: HashMap<Box<str>, usize>,
    one: Option<usize>,
    any: Option<usize>,
    /// The owners of the patterns that end here, whose filters require no value.
    ends: Vec<T>,
    /// The other owners of the patterns that end here.
    filtered: Option<Box<ByValue<T>>>,
    /// Whether the node is reached by `#`. Then it also matches any further word.
    repeats: bool,
}

impl<T> Node<T> {
    fn new(repeats: bool) -> Self {
        Node { exact: HashMap::new(), one: None, any: None, ends: Vec::new(), filtered: None, repeats }
    }
}

/// Owners by a value that their filters require. Each owner is in one of the maps.
#[derive(Clone, Debug)]
struct ByValue<T> {
    key: Values<T>,
    aggregate_id: Values<T>,
    tenant: Values<T>,
    /// By the name of a header in lower case.
    headers: HashMap<Box<str>, Values<T>>,
    aggregate_type: Values<T>,
}

type Values<T> = HashMap<Box<str>, Vec<T>>;

impl<T: Copy> ByValue<T> {
    fn new() -> Self {
        ByValue {
            key: HashMap::new(),
            aggregate_id: HashMap::new(),
            tenant: HashMap::new(),
            headers: HashMap::new(),
            aggregate_type: HashMap::new(),
        }
    }

    fn insert(&mut self, required: Required<'_>, owner: T) {
        let add = |values: &mut Values<T>, value: &str| values.entry(value.into()).or_default().push(owner);
        match required {
            Required::Key(globs) => globs.iter().for_each(|glob| add(&mut self.key, glob.text())),
            Required::AggregateId(globs) => globs.iter().for_each(|glob| add(&mut self.aggregate_id, glob.text())),
            Required::Tenant(values) => values.iter().for_each(|value| add(&mut self.tenant, value)),
            Required::AggregateType(values) => values.iter().for_each(|value| add(&mut self.aggregate_type, value)),
            Required::Header(name, globs) => {
                let values = self.headers.entry(name.to_ascii_lowercase().into()).or_default();
                globs.iter().for_each(|glob| add(values, glob.text()));
            }
        }
    }

    fn matches(&self, subject: &Subject<'_>, found: &mut Vec<T>) {
        for (values, value) in [
            (&self.key, subject.key),
            (&self.aggregate_id, subject.aggregate_id),
            (&self.tenant, subject.tenant),
            (&self.aggregate_type, subject.aggregate_type),
        ] {
            found.extend(value.and_then(|value| values.get(value)).into_iter().flatten());
        }
        if self.headers.is_empty() {
            return;
        }
        for (name, value) in subject.headers.into_iter().flatten() {
            let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                Cow::Owned(name.to_ascii_lowercase())
            } else {
                Cow::Borrowed(&**name)
            };
            let values = self.headers.get(&*name).zip(value.as_str());
            found.extend(values.and_then(|(values, value)| values.get(value)).into_iter().flatten());
        }
    }

    fn owners(&self) -> impl Iterator<Item = T> {
        let own = [&self.key, &self.aggregate_id, &self.tenant, &self.aggregate_type];
        own.into_iter().chain(self.headers.values()).flat_map(HashMap::values).flatten().copied()
    }
}

impl<T: Copy + Ord> Default for Router<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy + Ord> Router<T> {
    /// Creates a router that matches nothing.
    pub fn new() -> Self {
        Router { nodes: vec![Node::new(false)], patterns: 0 }
    }

    /// Returns the number of patterns.
    pub fn len(&self) -> usize {
        self.patterns
    }

    /// Returns whether the router has no pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns == 0
    }

    /// Adds a pattern of `owner`, whose filter must match as well.
    pub fn insert(&mut self, pattern: &Pattern, filter: &Filter, owner: T) {
        let mut at = 0;
        for word in pattern.words() {
            let known = match word {
                Word::Exact(text) => self.nodes[at].exact.get(text.as_str()).copied(),
                Word::One => self.nodes[at].one,
                Word::Any => self.nodes[at].any,
            };
            at = known.unwrap_or_else(|| {
                let new = self.nodes.len();
                self.nodes.push(Node::new(*word == Word::Any));
                match word {
                    Word::Exact(text) => {
                        self.nodes[at].exact.insert(text.as_str().into(), new);
                    }
                    Word::One => self.nodes[at].one = Some(new),
                    Word::Any => self.nodes[at].any = Some(new),
                }
                new
            });
        }
        match filter.required() {
            None => self.nodes[at].ends.push(owner),
            Some(required) => {
                self.nodes[at].filtered.get_or_insert_with(|| Box::new(ByValue::new())).insert(required, owner)
            }
        }
        self.patterns += 1;
    }

    /// Writes the owners of all patterns that match `topic` to `found`, ascending, each once, but for owners whose filters
    /// require a value that the message has not. The caller asks the filters of the found ones. `found` is cleared first. The
    /// caller reuses `found` and `scratch` so that routing allocates nothing.
    pub fn matches(&self, topic: &str, subject: &Subject<'_>, scratch: &mut Scratch, found: &mut Vec<T>) {
        found.clear();
        self.walk(topic, scratch);
        for &state in &scratch.current {
            let node = &self.nodes[state];
            found.extend_from_slice(&node.ends);
            if let Some(filtered) = &node.filtered {
                filtered.matches(subject, found);
            }
        }
        found.sort_unstable();
        found.dedup();
    }

    /// Returns the owners of all patterns that match `topic`, in no order, and some of them several times.
    pub fn on_topic<'a>(&'a self, topic: &str, scratch: &'a mut Scratch) -> impl Iterator<Item = T> + 'a {
        self.walk(topic, scratch);
        scratch.current.iter().flat_map(|&state| {
            let node = &self.nodes[state];
            node.ends.iter().copied().chain(node.filtered.iter().flat_map(|filtered| filtered.owners()))
        })
    }

    /// Leaves the states in which patterns match the topic in `scratch.current`.
    fn walk(&self, topic: &str, scratch: &mut Scratch) {
        // This simulates a nondeterministic automaton with a set of states. Each node is entered at most once per word, so a
        // message costs at most the number of words in its topic times the number of words in the patterns.
        scratch.current.clear();
        scratch.begin(self.nodes.len());
        // The first word of a reserved topic is matched only by the word itself, not by a wildcard.
        let mut literal = is_reserved(topic);
        if literal {
            scratch.current.push(0);
        } else {
            self.enter(0, scratch);
            std::mem::swap(&mut scratch.current, &mut scratch.next);
        }
        for word in topic.split('.') {
            scratch.next.clear();
            scratch.round += 1;
            for i in 0..scratch.current.len() {
                let state = scratch.current[i];
                let node = &self.nodes[state];
                if node.repeats {
                    self.enter(state, scratch);
                }
                if let Some(&next) = node.exact.get(word) {
                    self.enter(next, scratch);
                }
                if let Some(next) = node.one.filter(|_| !literal) {
                    self.enter(next, scratch);
                }
            }
            literal = false;
            std::mem::swap(&mut scratch.current, &mut scratch.next);
            if scratch.current.is_empty() {
                return;
            }
        }
    }

    /// Adds a state to the next states, and also the state after its `#`, because `#` may stand for no word at all. A `#` is
    /// never followed by another `#`, because a run of `#` is stored as one.
    fn enter(&self, state: usize, scratch: &mut Scratch) {
        let mut entered = Some(state);
        while let Some(state) = entered.filter(|state| scratch.seen[*state] != scratch.round) {
            scratch.seen[state] = scratch.round;
            scratch.next.push(state);
            scratch.entered += 1;
            entered = self.nodes[state].any;
        }
    }
}

/// The buffers of `Router::matches`.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    current: Vec<usize>,
    next: Vec<usize>,
    /// The round in which each node was last entered.
    seen: Vec<u64>,
    round: u64,
    /// The number of nodes that the last call entered, which is its cost.
    entered: usize,
}

impl Scratch {
    fn begin(&mut self, nodes: usize) {
        // Of another router, too: rounds are never used again.
        self.seen.resize(nodes.max(self.seen.len()), 0);
        self.next.clear();
        self.round += 1;
        self.entered = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn word() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("a"), Just("b"), Just("outbox")]
    }

    fn pattern_word() -> impl Strategy<Value = &'static str> {
        prop_oneof![3 => word(), 1 => Just("*"), 1 => Just("#")]
    }

    fn value() -> impl Strategy<Value = Option<&'static str>> {
        prop_oneof![Just(None), Just(Some("x")), Just(Some("y")), Just(Some("xy"))]
    }

    fn headers() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            Just(json!({"Region": "x"})),
            Just(json!({"region": "y", "Region": "x", "n": 1})),
            Just(json!({"region": ["x"], "other": "xy"})),
        ]
    }

    /// A filter with any conditions, each with an exact value, several, or a wildcard.
    fn filter() -> impl Strategy<Value = Filter> {
        let wanted = || prop_oneof![3 => Just(json!(null)), 1 => Just(json!("x")), 1 => Just(json!(["x", "y"])), 1 => Just(json!("x*"))];
        (wanted(), wanted(), wanted(), wanted(), wanted()).prop_map(|(tenant, key, kind, id, region)| {
            let mut all = json!({"tenant": tenant, "key": key, "aggregate_type": kind, "aggregate_id": id});
            if !region.is_null() {
                all["headers"] = json!({"REGION": region});
            }
            let conditions = all.as_object_mut().unwrap();
            conditions.retain(|_, wanted| !wanted.is_null());
            Filter::parse(&all).unwrap()
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            patterns in prop::collection::vec(prop::collection::vec(pattern_word(), 1..6), 1..20),
            topics in prop::collection::vec(prop::collection::vec(word(), 1..7), 1..20),
            filters in prop::collection::vec(filter(), 1..6),
            (tenant, key, kind, id, headers) in (value(), value(), value(), value(), headers()),
        ) {
            let subject = Subject {
                tenant, key, aggregate_type: kind, aggregate_id: id, headers: headers.as_object()
            };
            let patterns: Vec<Pattern> =
                patterns.iter().map(|words| Pattern::parse(&words.join(".")).unwrap()).collect();
            let mut router = Router::new();
            for (i, pattern) in patterns.iter().enumerate() {
                router.insert(pattern, &filters[i % filters.len()], i);
            }
            let (mut scratch, mut found) = (Scratch::default(), Vec::new());
            for topic in topics.iter().map(|words| words.join(".")) {
                let on_topic: Vec<usize> = (0..patterns.len()).filter(|&i| patterns[i].matches(&topic)).collect();
                let mut all: Vec<usize> = router.on_topic(&topic, &mut scratch).collect();
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(&all, &on_topic, "topic {}", topic);
                router.matches(&topic, &subject, &mut scratch, &mut found);
                prop_assert!(found.is_sorted() && found.iter().all(|i| on_topic.contains(i)));
                let matches = |i: &usize| filters[i % filters.len()].matches(&subject);
                let (found, expected): (Vec<usize>, Vec<usize>) = (
                    found.iter().copied().filter(matches).collect(), on_topic.iter().copied().filter(matches).collect()
                );
                prop_assert_eq!(found, expected, "topic {}", topic);
            }
        }
    }

    /// The cost does not grow with the number of ways to split the topic, nor with the product of the patterns.
    #[test]
    fn a_message_costs_its_words_times_those_of_the_patterns() {
        let mut router = Router::new();
        let patterns: Vec<String> = (1..=500).map(|i| format!("{}#.b{i}", "#.a.".repeat(i % 30 + 1))).collect();
        for (i, pattern) in patterns.iter().enumerate() {
            router.insert(&Pattern::parse(pattern).unwrap(), &Filter::default(), i);
        }
        let (mut scratch, mut found) = (Scratch::default(), Vec::new());
        let topic = vec!["a"; 127].join(".");
        router.matches(&topic, &Subject::default(), &mut scratch, &mut found);
        assert!(found.is_empty());
        assert!(scratch.entered <= 128 * router.nodes.len(), "{} entered of {}", scratch.entered, router.nodes.len());
    }

    #[test]
    fn a_message_costs_the_filters_that_it_may_match() {
        let mut router = Router::new();
        let pattern = Pattern::parse("order.#").unwrap();
        for i in 0..10_000 {
            let filter = match i % 5 {
                0 => json!({"tenant": format!("t{i}")}),
                1 => json!({"key": [format!("k{i}"), "k"], "tenant": "t"}),
                2 => json!({"aggregate_id": format!("a{i}"), "key": "k*"}),
                3 => json!({"headers": {"Region": format!("r{i}")}}),
                _ => json!({"aggregate_type": format!("c{i}")}),
            };
            router.insert(&pattern, &Filter::parse(&filter).unwrap(), i);
        }
        let headers = json!({"region": "r3"});
        let subject = Subject {
            tenant: Some("t5"),
            key: Some("k6"),
            aggregate_type: Some("c9"),
            aggregate_id: Some("a2"),
            headers: headers.as_object(),
        };
        let mut found = Vec::new();
        router.matches("order.created", &subject, &mut Scratch::default(), &mut found);
        assert_eq!(found, [2, 3, 5, 6, 9]);
    }

    /// A subscription has a thousand patterns at most, and its filter about as many values: the index does not have their product.
    #[test]
    fn a_filter_with_many_values_is_in_no_index() {
        let many = ["v"; 900];
        let (pattern, long) = (Pattern::parse("a").unwrap(), "x".repeat(2000));
        for filter in [
            json!({"key": &many[..]}),
            json!({"tenant": &many[..]}),
            json!({"headers": {"x": &many[..]}}),
            json!({"headers": {(long.clone()): "v"}}),
            json!({"key": long}),
        ] {
            let mut router = Router::new();
            router.insert(&pattern, &Filter::parse(&filter).unwrap(), 7);
            assert!(router.nodes.iter().all(|node| node.filtered.is_none()), "{filter}");
            let mut found = Vec::new();
            router.matches("a", &Subject::default(), &mut Scratch::default(), &mut found);
            assert_eq!(found, [7], "the filter is asked");
        }
        // A condition with few values is taken instead.
        let mut router = Router::new();
        router.insert(&pattern, &Filter::parse(&json!({"key": &many[..], "tenant": "t"})).unwrap(), 7);
        assert!(router.nodes.iter().any(|node| node.filtered.is_some()));
    }

    #[test]
    fn an_owner_with_several_patterns_is_found_once() {
        let mut router = Router::new();
        for pattern in ["a.#", "a.b", "*.b", "#"] {
            router.insert(&Pattern::parse(pattern).unwrap(), &Filter::default(), 7);
        }
        let mut found = Vec::new();
        router.matches("a.b", &Subject::default(), &mut Scratch::default(), &mut found);
        assert_eq!(found, [7]);
        assert_eq!(router.len(), 4);
    }
}
