//! Faults: what could not be done because of one row, kept in outbox.fault for `health()`.
//!
//! A step of the dispatcher that fails as a whole is taken apart: `apart` finds the items that fail by themselves. They are
//! charged with it, and the rest goes on. What passes by itself is charged to nobody: the step is tried as a whole a few times
//! before.

use pgrx::pg_sys::{INT8ARRAYOID, TEXTARRAYOID, TEXTOID};

use super::txn::{self, Failure, Plan, arg};

/// Whole tries of a step in a row that fail before it is taken apart.
pub const WHOLE_TRIES: u32 = 3;

/// The kind of thing that is to blame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Message,
    Subscription,
    Endpoint,
    /// The machine; its id is 0.
    Server,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Message => "message",
            Kind::Subscription => "subscription",
            Kind::Endpoint => "endpoint",
            Kind::Server => "server",
        }
    }
}

/// One fault.
struct Fault {
    kind: Kind,
    id: i64,
    step: &'static str,
    error: String,
}

/// Faults that are not recorded yet.
pub struct Faults {
    found: Vec<Fault>,
    note: Plan,
    loaded: Plan,
    /// Whether the last loading of subscriptions and of endpoints had faults; it is not known at first.
    load_faulted: [bool; 2],
}

impl Faults {
    pub fn new() -> Faults {
        Faults {
            found: Vec::new(),
            note: Plan::new(
                "select outbox._note_faults($1, $2, $3, $4)",
                &[TEXTARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID],
            ),
            loaded: Plan::new("select outbox._loaded($1, $2)", &[TEXTOID, INT8ARRAYOID]),
            load_faulted: [true; 2],
        }
    }

    /// Something failed because of this.
    pub fn found(&mut self, kind: Kind, id: i64, step: &'static str, failure: &Failure) {
        pgrx::log!("pg_outbox dispatcher: {} {id}: {step}: {failure}", kind.as_str());
        self.found.push(Fault { kind, id, step, error: failure.message.clone() });
    }

    /// Something that is not PostgreSQL failed because of this.
    pub fn told(&mut self, kind: Kind, id: i64, step: &'static str, error: String) {
        pgrx::log!("pg_outbox dispatcher: {}: {step}: {error}", kind.as_str());
        self.found.push(Fault { kind, id, step, error });
    }

    /// All subscriptions, or all endpoints, have been loaded but those that have just been found faulted.
    pub fn loaded(&mut self, kind: Kind, faulted: &[i64]) -> Result<(), Failure> {
        let before = &mut self.load_faulted[usize::from(kind == Kind::Endpoint)];
        if std::mem::replace(before, !faulted.is_empty()) {
            let loaded = &mut self.loaded;
            txn::run(|| {
                loaded.execute(&[arg(kind.as_str()), arg(faulted.to_vec())]);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Writes what was found, in a transaction of its own. A failure is tried again with the next.
    pub fn write(&mut self) {
        if self.found.is_empty() {
            return;
        }
        let Faults { found, note, .. } = self;
        let written = txn::run(|| {
            note.execute(&[
                arg(found.iter().map(|f| f.kind.as_str()).collect::<Vec<_>>()),
                arg(found.iter().map(|f| f.id).collect::<Vec<i64>>()),
                arg(found.iter().map(|f| f.step).collect::<Vec<_>>()),
                arg(found.iter().map(|f| f.error.as_str()).collect::<Vec<_>>()),
            ]);
            Ok(())
        });
        match written {
            Ok(()) => found.clear(),
            Err(failure) => pgrx::log!("pg_outbox dispatcher: faults are not recorded yet: {failure}"),
        }
    }
}

/// Runs `work` on all items, in a subtransaction; when that fails, on each half, and so on. Gives the items that fail by
/// themselves, by their place. Inside a transaction.
///
/// # Errors
/// A failure that is not an item's: what to do about it is to try the transaction again.
pub fn apart<T>(
    items: &[T],
    work: &mut dyn FnMut(&[T]) -> outbox_core::Result<()>,
) -> Result<Vec<(usize, Failure)>, Failure> {
    let mut failed = Vec::new();
    let mut parts = vec![(0, items.len())];
    while let Some((from, to)) = parts.pop() {
        let Err(failure) = txn::attempt(|| work(&items[from..to])) else { continue };
        if failure.is_transient() {
            return Err(failure);
        }
        match to - from {
            0 => {}
            1 => failed.push((from, failure)),
            n => parts.extend([(from + n / 2, to), (from, from + n / 2)]),
        }
    }
    Ok(failed)
}
