//! Faults: failures that one row has caused, stored in outbox.fault for `health()`.
//!
//! When a step of the dispatcher fails as a whole, it is taken apart: `apart` finds the items that fail by themselves. The
//! fault is charged to them, and the rest goes on. The step is attempted as a whole a few times before that, so a failure
//! that passes by itself is charged to no item.

use pgrx::pg_sys::{INT8ARRAYOID, TEXTARRAYOID, TEXTOID};

use crate::pg::txn::{self, Failure, Plan, arg};

/// Attempts of a whole step that fail in a row before it is taken apart.
pub const WHOLE_TRIES: u32 = 3;

/// The kind of item that a fault is charged to.
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
    /// Whether the last loading of subscriptions, and of endpoints, had faults. At first both count as faulted.
    load_faulted: [bool; 2],
}

impl Faults {
    pub fn new() -> Faults {
        Faults {
            found: Vec::new(),
            note: Plan::new(
                "select outbox_internal.note_faults($1, $2, $3, $4)",
                &[TEXTARRAYOID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID],
            ),
            loaded: Plan::new("select outbox_internal.loaded($1, $2)", &[TEXTOID, INT8ARRAYOID]),
            load_faulted: [true; 2],
        }
    }

    /// Notes that a step failed because of this item.
    pub fn found(&mut self, kind: Kind, id: i64, step: &'static str, failure: &Failure) {
        pgrx::log!("pg_outbox dispatcher: {} {id}: {step}: {failure}", kind.as_str());
        self.found.push(Fault { kind, id, step, error: failure.message.clone() });
    }

    /// Notes that a step outside PostgreSQL failed because of this item.
    pub fn told(&mut self, kind: Kind, id: i64, step: &'static str, error: String) {
        pgrx::log!("pg_outbox dispatcher: {}: {step}: {error}", kind.as_str());
        self.found.push(Fault { kind, id, step, error });
    }

    /// Called when all subscriptions, or all endpoints, have been loaded except the `faulted` ones.
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

    /// Writes the faults in a transaction of its own. If that fails, the next call writes them.
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

/// Runs `work` on all items in a subtransaction; if that fails, on each half, and so on. Returns the items that fail by
/// themselves, by index. Inside a transaction.
///
/// # Errors
/// A failure that no item has caused: the caller has to repeat the transaction.
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
