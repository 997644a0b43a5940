//! Topic patterns: `*` stands for one word, `#` for zero or more, as in AMQP topic exchanges. Reserved topics (`outbox.*`) are
//! matched only by patterns that begin with the word `outbox`: who asks for everything asks for what people published.

use crate::error::{Error, Result};
use crate::topic::{MAX_LENGTH, is_reserved, is_word_byte};

/// One word of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// This word.
    Exact(String),
    /// `*`: any one word.
    One,
    /// `#`: any number of words, none included.
    Any,
}

/// A parsed pattern. Runs of `#` are one `#`: `a.#.#` means what `a.#` means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    words: Vec<Word>,
}

impl Pattern {
    /// Parses a pattern of 1 to 255 bytes.
    ///
    /// # Errors
    /// 22023 when it is empty, has an empty word, a character that topics do not have, or a wildcard that is only part of
    /// a word.
    pub fn parse(text: &str) -> Result<Pattern> {
        let refuse = |detail: String| {
            Error::invalid(format!("malformed topic pattern \"{}\"", text.chars().take(64).collect::<String>()))
                .detail(detail)
                .hint("A pattern is a topic in which \"*\" stands for one word and \"#\" for any number of words: \"order.*\", \"order.#\", \"#\".")
        };
        if text.is_empty() {
            return Err(refuse("The pattern is empty.".to_owned()));
        }
        if text.len() > MAX_LENGTH {
            return Err(refuse(format!("The pattern has {} bytes; the limit is {MAX_LENGTH}.", text.len())));
        }
        let mut words = Vec::new();
        for word in text.split('.') {
            let parsed = match word {
                "" => return Err(refuse("There is an empty word.".to_owned())),
                "*" => Word::One,
                "#" => Word::Any,
                _ if word.bytes().all(is_word_byte) => Word::Exact(word.to_owned()),
                _ if word.contains(['*', '#']) => {
                    return Err(refuse(format!("A wildcard stands for whole words, not for a part of \"{word}\".")));
                }
                _ => return Err(refuse(format!("The word \"{word}\" has a character that topics do not have."))),
            };
            if !(parsed == Word::Any && words.last() == Some(&Word::Any)) {
                words.push(parsed);
            }
        }
        Ok(Pattern { words })
    }

    /// Its words, left to right.
    pub fn words(&self) -> &[Word] {
        &self.words
    }

    /// Whether a well-formed topic matches. The router's automaton does this for many patterns at once; this is the
    /// definition.
    pub fn matches(&self, topic: &str) -> bool {
        if is_reserved(topic) && !matches!(self.words.first(), Some(Word::Exact(_))) {
            return false;
        }
        let topic: Vec<&str> = topic.split('.').collect();
        matches_words(&self.words, &topic)
    }
}

fn matches_words(pattern: &[Word], topic: &[&str]) -> bool {
    match pattern.split_first() {
        None => topic.is_empty(),
        Some((Word::Any, rest)) => (0..=topic.len()).any(|skip| matches_words(rest, &topic[skip..])),
        Some((Word::One, rest)) => topic.split_first().is_some_and(|(_, more)| matches_words(rest, more)),
        Some((Word::Exact(word), rest)) => {
            topic.split_first().is_some_and(|(first, more)| first == word && matches_words(rest, more))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, topic: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(topic)
    }

    #[test]
    fn follows_amqp() {
        for (pattern, yes, no) in [
            ("a.b", vec!["a.b"], vec!["a", "a.b.c", "b.a"]),
            ("*", vec!["a"], vec!["a.b"]),
            ("#", vec!["a", "a.b", "a.b.c"], vec![]),
            ("a.*", vec!["a.b"], vec!["a", "a.b.c"]),
            ("a.#", vec!["a", "a.b", "a.b.c"], vec!["b", "ab"]),
            ("#.z", vec!["z", "a.z", "a.b.z"], vec!["z.a"]),
            ("a.#.b", vec!["a.b", "a.x.b", "a.x.y.b"], vec!["a", "b", "a.x"]),
            ("*.#", vec!["a", "a.b"], vec![]),
            ("#.*", vec!["a", "a.b"], vec![]),
            ("a.*.#.z", vec!["a.b.z", "a.b.c.z"], vec!["a.z"]),
            ("#", vec![], vec!["outbox", "outbox.control"]),
            ("*.control", vec!["a.control"], vec!["outbox.control"]),
            ("outbox.#", vec!["outbox", "outbox.control"], vec!["a.control"]),
            ("#.a.#.a.#", vec!["a.a", "x.a.y.a.z"], vec!["a", "x.a.y"]),
        ] {
            for topic in yes {
                assert!(matches(pattern, topic), "{pattern} should match {topic}");
            }
            for topic in no {
                assert!(!matches(pattern, topic), "{pattern} should not match {topic}");
            }
        }
    }

    #[test]
    fn refuses_what_is_malformed() {
        for pattern in ["", ".", "a.", ".a", "a..b", "a*", "#b", "a b", "a.ü", &"x".repeat(256)] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_run_of_hashes_is_one() {
        assert_eq!(Pattern::parse("a.#.#.#.b").unwrap(), Pattern::parse("a.#.b").unwrap());
    }
}
