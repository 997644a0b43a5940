//! A model of `outbox.read` and of the reclaiming of leaves (`sql/schema/feed/read.sql`, `retain/reclaim.sql`). A reader
//! remembers a position while retention empties leaves, and their steps are explored in every order.
//!
//! Invariant: if a read is not refused, no message is missing between its start and the last row that it returned.

use std::collections::HashSet;

/// The number of positions. Each position has a leaf of its own.
const END: u8 = 4;

/// The designs of retention and reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Design {
    /// Retention announces that a leaf will be emptied, visible to all sessions at once, and then empties it. A reader
    /// checks the announcement after it has read its rows.
    AsBuilt,
    /// Retention announces a leaf only after it has been emptied.
    SaidAfterwards,
    /// The reader checks the announcement before it reads.
    LookedAtBefore,
    /// The announcement is a row, which a reader's snapshot may not show.
    SaidInARow,
    /// There is no announcement.
    NotSaid,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Idle,
    /// `done`: the position that was read last; `last`: the position of the last row; `missing`: a position had no message;
    /// `skipped`: such a position came before a row that was returned.
    Reading {
        start: u8,
        seen_tail: u8,
        head: u8,
        done: u8,
        last: u8,
        missing: bool,
        skipped: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// The end of the feed.
    head: u8,
    /// The leaves up to this position are empty.
    emptied: u8,
    /// The announcement: messages up to this position may be gone.
    said: u8,
    /// The position after which the reader continues.
    cursor: u8,
    reader: Reader,
}

/// Returns the number of states, or the steps that lead to a skipped message.
pub fn explore_reader(design: Design) -> Result<usize, Vec<String>> {
    let start = State { head: 1, emptied: 0, said: 0, cursor: 0, reader: Reader::Idle };
    let mut seen = HashSet::from([start.clone()]);
    let mut open = vec![vec![start]];
    while let Some(path) = open.pop() {
        for next in path[path.len() - 1].next(design) {
            let mut longer = path.clone();
            match next {
                Ok(state) => {
                    if seen.insert(state.clone()) {
                        longer.push(state);
                        open.push(longer);
                    }
                }
                Err(what) => {
                    return Err(path.iter().map(|state| format!("{state:?}")).chain([what]).collect());
                }
            }
        }
    }
    Ok(seen.len())
}

impl State {
    fn next(&self, design: Design) -> Vec<Result<State, String>> {
        let mut all = self.retention(design);
        if self.head < END {
            all.push(Ok(State { head: self.head + 1, ..self.clone() }));
        }
        all.extend(self.read(design));
        all
    }

    /// Returns the next steps of retention. A leaf is announced and emptied in two steps. The transaction may fail
    /// between the steps and is then repeated.
    fn retention(&self, design: Design) -> Vec<Result<State, String>> {
        let (says_first, says) = match design {
            Design::AsBuilt | Design::LookedAtBefore | Design::SaidInARow => (true, true),
            Design::SaidAfterwards => (false, true),
            Design::NotSaid => (false, false),
        };
        let mut all = Vec::new();
        if says
            && (says_first && self.said == self.emptied && self.said < self.head
                || !says_first && self.said < self.emptied)
        {
            all.push(Ok(State { said: self.said + 1, ..self.clone() }));
        }
        let may_empty = if says_first { self.emptied < self.said } else { self.emptied < self.head };
        if may_empty {
            all.push(Ok(State { emptied: self.emptied + 1, ..self.clone() }));
        }
        all
    }

    fn read(&self, design: Design) -> Vec<Result<State, String>> {
        match self.reader {
            Reader::Idle => {
                // 0 means the first stored message.
                let start = if self.cursor == 0 { self.said } else { self.cursor };
                let reader = Reader::Reading {
                    start,
                    seen_tail: self.said,
                    head: self.head,
                    done: start,
                    last: start,
                    missing: false,
                    skipped: false,
                };
                vec![Ok(State { reader, ..self.clone() })]
            }
            Reader::Reading { start, seen_tail, head, done, last, missing, skipped } => {
                let mut all = Vec::new();
                if done < head {
                    let place = done + 1;
                    // An emptied leaf is empty under every snapshot.
                    let there = place > self.emptied;
                    let reader = Reader::Reading {
                        start,
                        seen_tail,
                        head,
                        done: place,
                        last: if there { place } else { last },
                        missing: missing || !there,
                        skipped: skipped || there && missing,
                    };
                    all.push(Ok(State { reader, ..self.clone() }));
                }
                let tail = match design {
                    Design::LookedAtBefore | Design::SaidInARow => seen_tail,
                    _ => self.said,
                };
                // The read may end at any position, because the number of rows is limited.
                all.push(if start < tail {
                    // The read is refused. The consumer decides to continue at the first stored message.
                    Ok(State { reader: Reader::Idle, cursor: tail, ..self.clone() })
                } else if skipped {
                    Err(format!("a read from {start} gave {last} and not all before it"))
                } else {
                    Ok(State { reader: Reader::Idle, cursor: last, ..self.clone() })
                });
                all
            }
        }
    }
}
