//! Finds the subscriptions that a topic matches. All patterns are compiled into one trie, so that the cost of a message
//! depends on its topic and on the matching patterns, not on the number of subscriptions.

use std::collections::HashMap;

use crate::pattern::{Pattern, Word};
use crate::topic::is_reserved;

/// A trie over the words of patterns. `T` identifies the owner of a pattern.
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
    /// The owners of the patterns that end here.
    ends: Vec<T>,
    /// Whether the node is reached by `#`. Then it also matches any further word.
    repeats: bool,
}

impl<T> Node<T> {
    fn new(repeats: bool) -> Self {
        Node { exact: HashMap::new(), one: None, any: None, ends: Vec::new(), repeats }
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

    /// Adds a pattern of `owner`.
    pub fn insert(&mut self, pattern: &Pattern, owner: T) {
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
        self.nodes[at].ends.push(owner);
        self.patterns += 1;
    }

    /// Writes the owners of all patterns that match `topic` to `found`, ascending, each once. `found` is cleared first. The
    /// caller reuses `found` and `scratch` so that routing allocates nothing.
    pub fn matches(&self, topic: &str, scratch: &mut Scratch, found: &mut Vec<T>) {
        found.clear();
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
        for &state in &scratch.current {
            found.extend_from_slice(&self.nodes[state].ends);
        }
        found.sort_unstable();
        found.dedup();
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

    use super::*;

    fn word() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("a"), Just("b"), Just("outbox")]
    }

    fn pattern_word() -> impl Strategy<Value = &'static str> {
        prop_oneof![3 => word(), 1 => Just("*"), 1 => Just("#")]
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(
            patterns in prop::collection::vec(prop::collection::vec(pattern_word(), 1..6), 1..20),
            topics in prop::collection::vec(prop::collection::vec(word(), 1..7), 1..20),
        ) {
            let patterns: Vec<Pattern> =
                patterns.iter().map(|words| Pattern::parse(&words.join(".")).unwrap()).collect();
            let mut router = Router::new();
            for (i, pattern) in patterns.iter().enumerate() {
                router.insert(pattern, i);
            }
            let (mut scratch, mut found) = (Scratch::default(), Vec::new());
            for topic in topics.iter().map(|words| words.join(".")) {
                router.matches(&topic, &mut scratch, &mut found);
                let expected: Vec<usize> =
                    (0..patterns.len()).filter(|&i| patterns[i].matches(&topic)).collect();
                prop_assert_eq!(&found, &expected, "topic {}", topic);
            }
        }
    }

    /// The cost does not grow with the number of ways to split the topic, nor with the product of the patterns.
    #[test]
    fn a_message_costs_its_words_times_those_of_the_patterns() {
        let mut router = Router::new();
        let patterns: Vec<String> = (1..=500).map(|i| format!("{}#.b{i}", "#.a.".repeat(i % 30 + 1))).collect();
        for (i, pattern) in patterns.iter().enumerate() {
            router.insert(&Pattern::parse(pattern).unwrap(), i);
        }
        let (mut scratch, mut found) = (Scratch::default(), Vec::new());
        let topic = vec!["a"; 127].join(".");
        router.matches(&topic, &mut scratch, &mut found);
        assert!(found.is_empty());
        assert!(scratch.entered <= 128 * router.nodes.len(), "{} entered of {}", scratch.entered, router.nodes.len());
    }

    #[test]
    fn an_owner_with_several_patterns_is_found_once() {
        let mut router = Router::new();
        for pattern in ["a.#", "a.b", "*.b", "#"] {
            router.insert(&Pattern::parse(pattern).unwrap(), 7);
        }
        let mut found = Vec::new();
        router.matches("a.b", &mut Scratch::default(), &mut found);
        assert_eq!(found, [7]);
        assert_eq!(router.len(), 4);
    }
}
