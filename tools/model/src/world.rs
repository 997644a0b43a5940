//! The state of the model, and the steps that change it.

/// Transaction ids start at 1 and stay small, as message ids do.
pub type Xid = u8;
pub type Id = u8;
pub type Leaf = u8;

/// The number of leaves of the ring in the model.
pub const LEAVES: u8 = 3;

/// The permanent leaf of events. It is never current and never passed.
pub const EVENTS: Leaf = LEAVES;
/// Stands in the place of a pointer for the leaf of events.
const TO_EVENTS: u8 = u8::MAX;

/// The leaf that a pointer points to.
fn leaf_of(pointer: u8) -> Leaf {
    if pointer == TO_EVENTS { EVENTS } else { pointer % LEAVES }
}

/// The designs of the sequencer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The design that is used.
    AsBuilt,
    /// Takes the messages with an id above the last id seen.
    IdAboveLast,
    /// Waits for the oldest running transaction.
    BelowXmin,
    /// Takes its snapshot before the lock.
    SnapshotBeforeLock,
    /// Compares rows with the snapshot of the reading statement instead of the snapshot that the tick stores.
    NewerRows,
    /// Ticks in a transaction that already has an xid.
    TickAfterOwnWrite,
    /// Reads the first unassigned transaction id before the last message id.
    NextBeforeFloor,
    /// Takes the snapshot's xmax for the first unassigned transaction id.
    XmaxForNext,
    /// Producers draw the message id before they have a transaction id.
    IdBeforeXid,
    /// Forgets which transactions were running when a large difference began.
    ChunksById,
    /// In the middle of a large difference, first numbers the messages that a fresh snapshot sees.
    NewerInBetween,
    /// Begins a large difference after the last id that was drawn before its first snapshot.
    WindowsFromFloor,
    /// Reads the rest of a large difference only up to the last id that was drawn before its second snapshot.
    WindowsUptoFloor,
    /// Leaves out every leaf that is not current.
    OnlyCurrentLeaf,
    /// Producers do not read the pointer again after they have locked a leaf.
    NoSecondLook,
    /// Determines which leaves are settled after it has taken the snapshot.
    SettledAfterSnapshot,
    /// Reads the leaf of events until it is settled, as a leaf of the ring.
    EventsSettle,
}

/// The size of an exploration.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    pub variant: Variant,
    /// The number of sessions that enqueue.
    pub sessions: usize,
    /// The number of transactions of each session.
    pub transactions: u8,
    /// The largest number of messages of each transaction.
    pub messages: u8,
    /// Whether a session may write events as well.
    pub events: bool,
    /// The number of sessions that tick (a dispatcher, and a session that ticks inline).
    pub tickers: usize,
    /// The number of all ticks.
    pub ticks: u8,
    /// The largest number of messages per tick.
    pub chunk: usize,
    /// The number of rotations.
    pub rotations: u8,
    /// The number of crashes of the whole server.
    pub crashes: u8,
}

impl Scope {
    /// Returns the smallest scope that is of interest.
    pub const fn new(variant: Variant) -> Scope {
        Scope {
            variant,
            sessions: 2,
            transactions: 1,
            messages: 1,
            events: false,
            tickers: 1,
            ticks: 2,
            chunk: 9,
            rotations: 0,
            crashes: 0,
        }
    }
}

/// A snapshot: everything below `xmax` that is not in `running` has ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Snapshot {
    pub xmax: Xid,
    pub running: Vec<Xid>,
}

impl Snapshot {
    /// Returns whether the snapshot sees a transaction, like pg_visible_in_snapshot.
    pub fn sees(&self, xid: Xid) -> bool {
        xid < self.xmax && !self.running.contains(&xid)
    }

    pub fn xmin(&self) -> Xid {
        self.running.iter().copied().min().unwrap_or(self.xmax)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Running,
    Committed,
    Aborted,
}

/// A row of outbox.message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    pub id: Id,
    pub xid: Xid,
    pub leaf: Leaf,
    /// The messages that were committed when the id of this message was drawn, as a set of bits.
    pub before: u32,
}

/// A session that enqueues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session {
    pub transactions_left: u8,
    pub messages_left: u8,
    pub open: bool,
    pub xid: Option<Xid>,
    /// The pointer that it has read and whose leaf is not locked yet.
    pub read: Option<u8>,
    /// The pointer whose leaf it has locked, before it reads the pointer again.
    pub locked: Option<u8>,
    /// The pointer to the leaf that it writes to.
    pub target: Option<u8>,
    pub drawn: Option<(Id, u32)>,
    /// The leaves whose locks it holds, as a set of bits.
    pub locks: u8,
}

/// A row of outbox.tick. The last row is the state of the sequencer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TickRow {
    pub from: Snapshot,
    pub to: Snapshot,
    pub next_from: Xid,
    pub next_to: Xid,
    pub floor_from: Id,
    pub floor_to: Id,
    pub done: Option<Id>,
    pub pointer: u8,
    /// The leaves that the next tick reads, as a set of bits.
    pub leaves: u8,
}

/// A session that ticks, between two of its steps.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ticker {
    Idle,
    /// Has a snapshot without the lock (a wrong design).
    Early(Snapshot),
    Locked {
        early: Option<Snapshot>,
    },
    Settled {
        early: Option<Snapshot>,
        settled: u8,
    },
    First {
        early: Option<Snapshot>,
        settled: u8,
        floor: Id,
        next: Xid,
    },
    Second {
        early: Option<Snapshot>,
        settled: u8,
        floor: Id,
        next: Xid,
    },
    Seen {
        settled: u8,
        floor: Id,
        next: Xid,
        snapshot: Snapshot,
    },
    /// Has written, in a transaction that is still open.
    Written {
        xid: Xid,
        row: TickRow,
        ids: Vec<Id>,
    },
}

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub status: Vec<Status>,
    /// The last id that was drawn.
    pub last_id: Id,
    pub rows: Vec<Row>,
    pub pointer: u8,
    pub sessions: Vec<Session>,
    pub tickers: Vec<Ticker>,
    pub state: Option<TickRow>,
    pub feed: Vec<Id>,
    pub ticks_left: u8,
    pub rotations_left: u8,
    pub crashes_left: u8,
}

impl World {
    pub fn new(scope: &Scope) -> World {
        let session =
            Session { transactions_left: scope.transactions, messages_left: scope.messages, ..Session::default() };
        World {
            status: Vec::new(),
            last_id: 0,
            rows: Vec::new(),
            pointer: 0,
            sessions: vec![session; scope.sessions],
            tickers: vec![Ticker::Idle; scope.tickers],
            state: None,
            feed: Vec::new(),
            ticks_left: scope.ticks,
            rotations_left: scope.rotations,
            crashes_left: scope.crashes,
        }
    }

    pub fn assign_xid(&mut self) -> Xid {
        self.status.push(Status::Running);
        self.status.len() as Xid
    }

    pub fn next_xid(&self) -> Xid {
        self.status.len() as Xid + 1
    }

    pub fn end(&mut self, xid: Xid, status: Status) {
        self.status[usize::from(xid) - 1] = status;
    }

    pub fn committed(&self, xid: Xid) -> bool {
        self.status[usize::from(xid) - 1] == Status::Committed
    }

    /// Takes a snapshot as PostgreSQL does: xmax is the last *completed* transaction plus one, not the first unassigned xid.
    pub fn snapshot(&self) -> Snapshot {
        let completed = self.status.iter().rposition(|s| *s != Status::Running).map_or(0, |i| i + 1);
        let xmax = completed as Xid + 1;
        let running = (1..xmax).filter(|x| self.status[usize::from(*x) - 1] == Status::Running).collect();
        Snapshot { xmax, running }
    }

    /// Returns the committed messages as a set of bits.
    pub fn committed_messages(&self) -> u32 {
        self.rows.iter().filter(|r| self.committed(r.xid)).fold(0, |set, r| set | 1 << r.id)
    }

    /// Returns whether no session holds the lock of a leaf.
    pub fn is_free(&self, leaf: Leaf) -> bool {
        self.sessions.iter().all(|s| s.locks & (1 << leaf) == 0)
    }

    pub fn lock_is_free(&self) -> bool {
        self.tickers.iter().all(|t| matches!(t, Ticker::Idle | Ticker::Early(_)))
    }

    /// Returns every state that one step leads to.
    pub fn next(&self, scope: &Scope) -> Vec<World> {
        let mut all = Vec::new();
        for i in 0..self.sessions.len() {
            self.session_steps(scope, i, &mut all);
        }
        for i in 0..self.tickers.len() {
            crate::tick::steps(self, scope, i, &mut all);
        }
        if self.rotations_left > 0 {
            let mut w = self.clone();
            w.pointer += 1;
            w.rotations_left -= 1;
            all.push(w);
        }
        if self.crashes_left > 0 {
            let mut w = self.clone();
            w.crash();
            all.push(w);
        }
        // Sessions are interchangeable, and so are tickers, so states that differ only in their order are the same.
        for world in &mut all {
            world.sessions.sort_unstable();
            world.tickers.sort_unstable();
        }
        all
    }

    fn crash(&mut self) {
        self.crashes_left -= 1;
        for status in &mut self.status {
            if *status == Status::Running {
                *status = Status::Aborted;
            }
        }
        for session in &mut self.sessions {
            if session.open {
                session.close();
            }
        }
        self.tickers.fill(Ticker::Idle);
        // After a crash, a sequence may skip values but never repeats one.
        self.last_id += 1;
    }

    fn session_steps(&self, scope: &Scope, i: usize, all: &mut Vec<World>) {
        let s = &self.sessions[i];
        let step = |change: &dyn Fn(&mut World)| {
            let mut w = self.clone();
            change(&mut w);
            w
        };
        if !s.open {
            if s.transactions_left > 0 {
                all.push(step(&|w| {
                    w.sessions[i].open = true;
                    w.sessions[i].messages_left = scope.messages;
                    w.sessions[i].transactions_left -= 1;
                    if scope.variant != Variant::IdBeforeXid {
                        w.sessions[i].xid = Some(w.assign_xid());
                    }
                }));
            }
            return;
        }
        // The steps of enqueue: read the pointer, lock the leaf, read the pointer again, draw an id, insert the row.
        if s.messages_left > 0 {
            let mut w = self.clone();
            let session = &mut w.sessions[i];
            match (s.target, s.locked, s.read, s.drawn) {
                (Some(target), _, _, None) => {
                    let _ = target;
                    w.last_id += 1;
                    w.sessions[i].drawn = Some((w.last_id, w.committed_messages()));
                }
                (Some(target), _, _, Some((id, before))) => {
                    let xid = s.xid.unwrap_or_else(|| w.assign_xid());
                    let session = &mut w.sessions[i];
                    session.xid = Some(xid);
                    session.messages_left -= 1;
                    session.target = None;
                    session.drawn = None;
                    w.rows.push(Row { id, xid, leaf: leaf_of(target), before });
                }
                (None, Some(locked), _, _) => {
                    session.locked = None;
                    if w.pointer == locked || scope.variant == Variant::NoSecondLook {
                        session.target = Some(locked);
                    } else {
                        session.read = Some(w.pointer);
                    }
                }
                (None, None, Some(read), _) => {
                    session.read = None;
                    session.locks |= 1 << (read % LEAVES);
                    session.locked = Some(read);
                }
                (None, None, None, _) => {
                    if scope.events {
                        // An event is written to its leaf whatever the pointer says.
                        all.push(step(&|w| {
                            w.sessions[i].locks |= 1 << EVENTS;
                            w.sessions[i].target = Some(TO_EVENTS);
                        }));
                    }
                    session.read = Some(w.pointer);
                }
            }
            // Without rotation the pointer never changes, so the steps that read it are combined into one.
            if scope.rotations == 0
                && w.sessions[i].target.is_none()
                && w.sessions[i].drawn.is_none()
                && s.target.is_none()
            {
                let session = &mut w.sessions[i];
                session.locks |= 1;
                (session.read, session.locked, session.target) = (None, None, Some(0));
            }
            all.push(w);
        }
        if s.drawn.is_none() && s.read.is_none() && s.locked.is_none() && s.target.is_none() {
            // Committing without a message has the same effect as rolling back.
            if s.messages_left < scope.messages {
                all.push(step(&|w| w.end_transaction(i, Status::Committed)));
            }
        }
        // Rolling back while choosing a leaf makes no difference, so those states are left out.
        if s.read.is_none() && s.locked.is_none() && (s.target.is_none() || s.drawn.is_some()) {
            all.push(step(&|w| w.end_transaction(i, Status::Aborted)));
        }
    }

    fn end_transaction(&mut self, i: usize, status: Status) {
        if let Some(xid) = self.sessions[i].xid {
            self.end(xid, status);
        }
        self.sessions[i].close();
    }
}

impl Session {
    fn close(&mut self) {
        *self = Session { transactions_left: self.transactions_left, messages_left: 0, ..Session::default() };
    }
}
