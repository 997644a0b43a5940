//! The steps of a tick, as the SQL function runs its statements, and of the wrong designs.

use crate::world::{EVENTS, LEAVES, Scope, Snapshot, Status, TickRow, Ticker, Variant, World, Xid};

/// Adds every state that one step of ticker `i` leads to.
pub fn steps(world: &World, scope: &Scope, i: usize, all: &mut Vec<World>) {
    let mut to = |ticker: Ticker| {
        let mut w = world.clone();
        w.tickers[i] = ticker;
        all.push(w);
    };
    match world.tickers[i].clone() {
        Ticker::Idle => {
            if world.ticks_left == 0 {
                return;
            }
            let mut w = world.clone();
            w.ticks_left -= 1;
            if scope.variant == Variant::SnapshotBeforeLock {
                w.tickers[i] = Ticker::Early(world.snapshot());
            } else if world.lock_is_free() {
                w.tickers[i] = Ticker::Locked { early: None };
            } else {
                return;
            }
            all.push(w);
            if scope.variant == Variant::TickAfterOwnWrite {
                own_tick(world, scope, all);
            }
        }
        Ticker::Early(snapshot) => {
            if world.lock_is_free() {
                to(Ticker::Locked { early: Some(snapshot) });
            }
        }
        Ticker::Locked { early } => {
            if world.state.as_ref().is_some_and(|s| s.done.is_some()) {
                // In the middle of a large difference, the tick takes no new values.
                to(Ticker::Seen { settled: 0, floor: 0, next: 0, snapshot: world.snapshot() });
            } else {
                to(Ticker::Settled { early, settled: settled(world) });
            }
            to(Ticker::Idle);
        }
        Ticker::Settled { early, settled } => to(Ticker::First {
            early,
            settled,
            floor: if scope.variant == Variant::NextBeforeFloor { 0 } else { world.last_id },
            next: if scope.variant == Variant::NextBeforeFloor { world.next_xid() } else { 0 },
        }),
        Ticker::First { early, settled, floor, next } => to(Ticker::Second {
            early,
            settled,
            floor: if scope.variant == Variant::NextBeforeFloor { world.last_id } else { floor },
            next: if scope.variant == Variant::NextBeforeFloor { next } else { world.next_xid() },
        }),
        Ticker::Second { early, settled, floor, next } => {
            let snapshot = early.unwrap_or_else(|| world.snapshot());
            to(Ticker::Seen { settled, floor, next, snapshot });
        }
        Ticker::Seen { settled, floor, next, snapshot } => {
            let settled = if scope.variant == Variant::SettledAfterSnapshot { self::settled(world) } else { settled };
            let (row, ids) = numbered(world, scope, settled, floor, next, &snapshot);
            let quiet = ids.is_empty() && row.done.is_none() && world.state.as_ref().is_some_and(|s| s.done.is_none());
            if quiet {
                // There are no new messages. The state may stay, or may be written again.
                to(Ticker::Idle);
            }
            let mut w = world.clone();
            let xid = w.assign_xid();
            w.tickers[i] = Ticker::Written { xid, row, ids };
            all.push(w);
        }
        Ticker::Written { xid, row, ids } => {
            let mut w = world.clone();
            w.end(xid, Status::Committed);
            w.state = Some(row);
            w.feed.extend(ids);
            w.tickers[i] = Ticker::Idle;
            all.push(w);
            // Or the session is terminated before its commit.
            let mut w = world.clone();
            w.end(xid, Status::Aborted);
            w.tickers[i] = Ticker::Idle;
            all.push(w);
        }
    }
}

/// Adds the states of a producer that ticks in its own transaction after it has written. A snapshot never lists its own
/// transaction as running.
fn own_tick(world: &World, scope: &Scope, all: &mut Vec<World>) {
    if !world.lock_is_free() {
        return;
    }
    for session in &world.sessions {
        let Some(own) = session.xid.filter(|_| session.open) else { continue };
        let mut snapshot = world.snapshot();
        snapshot.running.retain(|x| *x != own);
        snapshot.xmax = snapshot.xmax.max(own + 1);
        for x in world.snapshot().xmax..snapshot.xmax {
            if x != own && world.status[usize::from(x) - 1] == Status::Running {
                snapshot.running.push(x);
            }
        }
        let (row, ids) = numbered(world, scope, 0, world.last_id, world.next_xid(), &snapshot);
        // The messages that the producer wrote are visible to it and below its snapshot, but not committed. A design that
        // numbered them would be wrong at once. This design leaves them out, and still loses later messages.
        let mut w = world.clone();
        w.ticks_left -= 1;
        w.state = Some(row);
        w.feed.extend(ids);
        all.push(w);
    }
}

fn settled(world: &World) -> u8 {
    let current = world.state.as_ref().map(|s| s.pointer);
    let scan = world.state.as_ref().map_or((1 << LEAVES) - 1, |s| s.leaves);
    if current.is_none() {
        // Before the first tick, the earlier position of the pointer is unknown.
        return 0;
    }
    (0..LEAVES)
        .filter(|leaf| scan & (1 << leaf) != 0)
        .filter(|leaf| Some(*leaf) != current.map(|p| p % LEAVES) && world.is_free(*leaf))
        .fold(0, |set, leaf| set | 1 << leaf)
}

/// Returns the new state and the ordered messages that a tick writes.
pub fn numbered(
    world: &World,
    scope: &Scope,
    settled: u8,
    floor: u8,
    next: Xid,
    seen: &Snapshot,
) -> (TickRow, Vec<u8>) {
    let begin = Snapshot { xmax: 1, running: Vec::new() };
    let old = world.state.as_ref();
    let going_on = old.is_some_and(|s| s.done.is_some());
    let mut row = match old {
        Some(s) if going_on => s.clone(),
        _ => TickRow {
            from: old.map_or(begin, |s| s.to.clone()),
            to: seen.clone(),
            next_from: old.map_or(1, |s| s.next_to),
            next_to: if scope.variant == Variant::XmaxForNext { seen.xmax } else { next },
            floor_from: old.map_or(0, |s| s.floor_to),
            floor_to: floor,
            done: None,
            pointer: world.pointer,
            leaves: 0,
        },
    };
    let (mut scan, mut settled) = (old.map_or((1 << LEAVES) - 1, |s| s.leaves), settled);
    if scope.variant != Variant::EventsSettle || old.is_none() {
        // Events may be found at every tick.
        scan |= 1 << EVENTS;
    } else if world.is_free(EVENTS) {
        settled |= 1 << EVENTS;
    }
    if !going_on {
        // All leaves after the pointer of the last tick, up to the current pointer.
        let first = old.map_or(world.pointer, |s| s.pointer + 1);
        let mut passed = 0;
        for p in first..=world.pointer {
            passed |= 1 << (p % LEAVES);
        }
        row.leaves = scan & !settled | passed;
        scan |= passed;
        if scope.variant == Variant::OnlyCurrentLeaf {
            scan = 1 << (world.pointer % LEAVES);
            row.leaves = scan;
        }
    }

    // The reading statement sees the messages that are committed by now.
    // The variant NewerInBetween leaves out messages that have a position, so that only its order is wrong.
    let fresh = |id: u8| scope.variant != Variant::NewerInBetween || !world.feed.contains(&id);
    let visible =
        || world.rows.iter().filter(move |r| scan & (1 << r.leaf) != 0 && world.committed(r.xid) && fresh(r.id));
    let last = world.feed.iter().copied().max().unwrap_or(0);
    let new = |r: &&crate::world::Row| match scope.variant {
        Variant::IdAboveLast => row.to.sees(r.xid) && r.id > last,
        Variant::BelowXmin => r.xid < row.to.xmin() && r.xid >= row.from.xmin(),
        Variant::NewerRows => !row.from.sees(r.xid),
        _ => row.to.sees(r.xid) && !row.from.sees(r.xid),
    };
    let mut ids: Vec<u8> = visible().filter(new).map(|r| r.id).collect();
    ids.sort_unstable();
    if !going_on && ids.len() <= scope.chunk {
        return (row, ids);
    }

    // A large difference is read from two sources, each through its own index, and merged by id, one window of ids after
    // the other.
    let known = |x: Xid| row.from.running.contains(&x) || (x >= row.from.xmax && x < row.next_from);
    let by_xid = || visible().filter(|r| known(r.xid) && row.to.sees(r.xid) && !row.from.sees(r.xid));
    let by_id = || {
        visible().filter(|r| r.id > row.floor_from && r.xid >= row.next_from.max(row.from.xmax) && row.to.sees(r.xid))
    };
    let begin = match scope.variant {
        Variant::WindowsFromFloor => row.floor_from,
        _ => by_xid().map(|r| r.id - 1).min().map_or(row.floor_from, |low| low.min(row.floor_from)),
    };
    let end = if scope.variant == Variant::WindowsUptoFloor { row.floor_to } else { world.last_id };
    let mut low = row.done.filter(|_| scope.variant != Variant::NewerInBetween).unwrap_or(begin);
    let mut width = scope.chunk as u8;
    let mut ids: Vec<u8> = Vec::new();
    if scope.variant == Variant::NewerInBetween && going_on {
        ids.extend(visible().filter(|r| seen.sees(r.xid) && !row.to.sees(r.xid)).map(|r| r.id));
    }
    loop {
        let high = low.saturating_add(width);
        let within = |r: &&crate::world::Row| r.id > low && r.id <= high;
        let mut window: Vec<u8> = by_id().filter(within).map(|r| r.id).collect();
        if scope.variant != Variant::ChunksById {
            window.extend(by_xid().filter(within).map(|r| r.id));
        }
        window.sort_unstable();
        ids.extend(window);
        if ids.len() >= scope.chunk || high >= end {
            break;
        }
        low = high;
        width = width.saturating_mul(2);
    }
    ids.truncate(scope.chunk);
    row.done = (ids.len() == scope.chunk).then(|| ids[ids.len() - 1]);
    if row.done.is_some() {
        // The leaves stay those of this difference. The leaves of the next difference are computed at its end.
        row.leaves = if going_on { row.leaves } else { scan };
    }
    (row, ids)
}
