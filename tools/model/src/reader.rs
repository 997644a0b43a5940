//! A model of `outbox.read` beside the reclaim of leaves (`sql/schema/feed/read.sql`, `retain/reclaim.sql`): a reader that remembers
//! a position, and retention that empties leaves under it, step by step in every order.
//!
//! What is checked: when a read is not refused, nothing is missing between where it started and the last row that it gave.

use std::collections::HashSet;

/// How many positions there are; each has a leaf of its own.
const END: u8 = 4;

/// What the two sides do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Design {
    /// First it is said that a leaf goes, for everybody at once; then it is emptied. A reader looks behind its rows.
    AsBuilt,
    /// It is said when the leaf has been emptied.
    SaidAfterwards,
    /// The reader looks before it reads.
    LookedAtBefore,
    /// What is said is a row: a reader's snapshot may be older.
    SaidInARow,
    /// Nobody says anything.
    NotSaid,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Idle,
    /// `done`: looked at up to here; `last`: the last row; `missing`: some had no message; `skipped`: before a row that was given.
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
    /// End of the feed.
    head: u8,
    /// Leaves up to here are empty.
    emptied: u8,
    /// Up to here it is said that messages may be gone.
    said: u8,
    /// Where the reader goes on.
    cursor: u8,
    reader: Reader,
}

/// The number of states, or the steps that lead to a skip.
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

    /// A leaf goes, in two steps; the transaction may fail between them, and then comes again.
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
                // 0: from the first that is stored.
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
                // It may end anywhere: so many rows were asked for.
                all.push(if start < tail {
                    // Refused: the consumer is told, and decides to go on from what is stored.
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
