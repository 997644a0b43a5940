//! Matching with wildcards, for the words of a topic and for the characters of a value.
//!
//! Invariant: the number of steps is at most the length of the pattern times the length of the text. Matching only ever goes
//! back to the last run, because the part of the pattern before that run would match again.

/// Returns whether `text` matches `pattern`. A piece for which `is_run` is true stands for any number of items. Any other
/// piece stands for one item for which `fits` is true.
pub(crate) fn matches<P, T>(
    pattern: &[P],
    text: &[T],
    is_run: impl Fn(&P) -> bool,
    fits: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut p, mut t) = (0, 0);
    // The piece after the last run, and the item at which it was tried.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match (pattern.get(p), retry) {
            (Some(piece), _) if is_run(piece) => {
                p += 1;
                retry = Some((p, t));
            }
            (Some(piece), _) if fits(piece, &text[t]) => {
                p += 1;
                t += 1;
            }
            (_, Some((behind, from))) => {
                p = behind;
                t = from + 1;
                retry = Some((behind, t));
            }
            (_, None) => return false,
        }
    }
    pattern[p..].iter().all(is_run)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    /// The definition of `*` and `#`, which tries every way to split the text.
    fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'#', rest)) => (0..=text.len()).any(|skip| by_definition(rest, &text[skip..])),
            Some((piece, rest)) => text
                .split_first()
                .is_some_and(|(item, more)| (*piece == b'*' || piece == item) && by_definition(rest, more)),
        }
    }

    /// The answer and the number of steps.
    fn counted(pattern: &[u8], text: &[u8]) -> (bool, usize) {
        let steps = Cell::new(0);
        let step = || steps.set(steps.get() + 1);
        let is_run = |piece: &u8| {
            step();
            *piece == b'#'
        };
        let found = matches(pattern, text, is_run, |piece, item| *piece == b'*' || piece == item);
        (found, steps.get())
    }

    fn bound(pattern: &[u8], text: &[u8]) -> usize {
        (pattern.len() + 1) * (text.len() + 1)
    }

    proptest! {
        #[test]
        fn agrees_with_its_definition_and_takes_few_steps(pattern in "[ab*#]{0,8}", text in "[ab]{0,10}") {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            let (found, steps) = counted(pattern, text);
            prop_assert_eq!(found, by_definition(pattern, text));
            prop_assert!(steps <= bound(pattern, text), "{} steps", steps);
        }

        // Patterns and texts as long as real topics and values, for which the definition would take forever.
        #[test]
        fn long_ones_take_few_steps(piece in "[ab*#]{1,8}", times in 1usize..30, tail in "[ab*#]{0,4}", text in "a{0,200}b?a{0,50}") {
            let pattern = piece.repeat(times) + &tail;
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert!(counted(pattern, text).1 <= bound(pattern, text));
        }
    }

    #[test]
    fn many_runs_before_something_that_is_missing() {
        let (pattern, text) = (b"#a".repeat(60), b"a".repeat(127));
        let (found, steps) = counted(&[&pattern[..], b"#b"].concat(), &text);
        assert!(!found && steps <= 124 * 128, "{steps} steps");
    }
}
