//! Explores every state of the sequencer's model, each once.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::tick::numbered;
use crate::world::{Scope, Status, Ticker, World};

/// The result of an exploration.
#[derive(Debug)]
pub enum Found {
    /// The invariants hold in every state of the scope.
    Holds { states: usize },
    /// An invariant does not hold. `path` is the sequence of states that leads to the breach.
    Breach { what: String, path: Vec<World> },
}

impl Found {
    pub fn holds(&self) -> bool {
        matches!(self, Found::Holds { .. })
    }
}

/// Visits every reachable state, depth first.
pub fn explore(scope: &Scope) -> Found {
    // Visited states are stored as 128 bits of hash, from two hashers with different keys.
    let (a, b) = (RandomState::new(), RandomState::new());
    let print = |w: &World| (a.hash_one(w), b.hash_one(w));
    let start = World::new(scope);
    let mut seen = HashSet::from([print(&start)]);
    // The path to the current state, and for each state on the path the next states that were not visited yet.
    let mut path = vec![start.clone()];
    let mut open = vec![start.next(scope)];
    while let Some(todo) = open.last_mut() {
        let Some(world) = todo.pop() else {
            open.pop();
            path.pop();
            continue;
        };
        if !seen.insert(print(&world)) {
            continue;
        }
        path.push(world);
        let world = &path[path.len() - 1];
        if let Err(what) = check(world, scope) {
            return Found::Breach { what, path };
        }
        open.push(world.next(scope));
    }
    Found::Holds { states: seen.len() }
}

fn check(world: &World, scope: &Scope) -> Result<(), String> {
    feed_is_right(world)?;
    if world.tickers.iter().all(|t| *t == Ticker::Idle) {
        catches_up(world, scope)?;
    }
    Ok(())
}

/// Checks that the feed contains only committed messages, each once and in causal order.
fn feed_is_right(world: &World) -> Result<(), String> {
    let mut before = 0u32;
    for id in &world.feed {
        if before & (1 << id) != 0 {
            return Err(format!("duplicate: message {id} has two positions"));
        }
        let Some(row) = world.rows.iter().find(|r| r.id == *id) else {
            return Err(format!("message {id} does not exist"));
        };
        if !world.committed(row.xid) {
            return Err(format!("message {id} is in the feed, but not committed"));
        }
        if row.before & !before != 0 {
            return Err(format!("message {id} comes before one that was committed when it was drawn"));
        }
        before |= 1 << id;
    }
    Ok(())
}

/// Checks that ticks alone, while everything else stops, bring all committed messages into the feed.
fn catches_up(world: &World, scope: &Scope) -> Result<(), String> {
    let mut w = world.clone();
    for _ in 0..world.rows.len() * 2 + 3 {
        let settled = 0;
        let (row, ids) = numbered(&w, scope, settled, w.last_id, w.next_xid(), &w.snapshot());
        let xid = w.assign_xid();
        w.end(xid, Status::Committed);
        w.state = Some(row);
        w.feed.extend(ids);
    }
    feed_is_right(&w)?;
    let missing = w.committed_messages() & !w.feed.iter().fold(0u32, |set, id| set | 1 << id);
    if missing != 0 {
        return Err(format!("skipped or stalled: message {} is committed and does not come", missing.trailing_zeros()));
    }
    Ok(())
}
