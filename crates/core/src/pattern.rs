//! Topic patterns: `*` stands for one word, `#` for zero or more words, as in AMQP topic exchanges.
//!
//! Reserved topics (`outbox.*`) are matched only by patterns that begin with the word `outbox`. A subscription to all topics
//! (`#`) therefore gets only the messages that applications published.

use crate::error::{Code, Error, Result};
use crate::topic::{MAX_LENGTH, is_reserved, is_word_byte};
use crate::wildcard;

/// The largest number of patterns of one subscription, or of one call.
pub const MAX_PATTERNS: usize = 1000;
/// The largest number of bytes of all these patterns. The cost of routing a message grows with the words of the patterns
/// times the words of its topic.
pub const MAX_BYTES: usize = 64 * 1024;

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

/// A parsed pattern. A run of `#` is stored as one `#`, because `a.#.#` means the same as `a.#`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    words: Vec<Word>,
}

impl Pattern {
    /// Parses a pattern of 1 to 255 bytes.
    ///
    /// # Errors
    /// 22023 if the pattern is empty, has an empty word, a character that topics cannot have, or a wildcard that is only a
    /// part of a word.
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

    /// Parses the patterns of a subscription, or of a call.
    ///
    /// # Errors
    /// As `parse`; 54000 if there are more than 1,000 patterns, or more than 64 kB of patterns.
    pub fn parse_all<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Vec<Pattern>> {
        let (mut patterns, mut bytes) = (Vec::new(), 0);
        for text in texts {
            let text = text.as_ref();
            bytes += text.len();
            if patterns.len() == MAX_PATTERNS || bytes > MAX_BYTES {
                return Err(Error::new(Code::TooLarge, "too many topic patterns")
                    .detail(format!("The limit is {MAX_PATTERNS} patterns, and {MAX_BYTES} bytes in all."))
                    .hint("One pattern with a wildcard may say the same, or several subscriptions."));
            }
            patterns.push(Pattern::parse(text)?);
        }
        Ok(patterns)
    }

    /// Returns the words, left to right.
    pub fn words(&self) -> &[Word] {
        &self.words
    }

    /// Returns whether a well-formed topic matches. This function is the definition; the automaton of the router matches
    /// many patterns at once.
    pub fn matches(&self, topic: &str) -> bool {
        if is_reserved(topic) && !matches!(self.words.first(), Some(Word::Exact(_))) {
            return false;
        }
        let topic: Vec<&str> = topic.split('.').collect();
        wildcard::matches(
            &self.words,
            &topic,
            |word| *word == Word::Any,
            |word, found| match word {
                Word::Exact(text) => text == found,
                Word::One | Word::Any => true,
            },
        )
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
    fn patterns_are_bounded_together() {
        let many = |n: usize, text: &str| Pattern::parse_all(std::iter::repeat_n(text, n)).map(|all| all.len());
        assert_eq!(many(1000, "a.#"), Ok(1000));
        assert_eq!(many(1001, "a.#").unwrap_err().code, Code::TooLarge);
        assert_eq!(many(258, &"x".repeat(255)).unwrap_err().code, Code::TooLarge);
        assert_eq!(many(2, "a..b").unwrap_err().code, Code::InvalidParameter);
    }

    #[test]
    fn a_run_of_hashes_is_one() {
        assert_eq!(Pattern::parse("a.#.#.#.b").unwrap(), Pattern::parse("a.#.b").unwrap());
    }
}
