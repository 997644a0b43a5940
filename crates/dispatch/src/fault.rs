//! Faults: failures that one row has caused, stored in outbox.fault for `health()`.
//!
//! When a step of the dispatcher fails as a whole, the store takes it apart, and finds the items that fail by themselves. The
//! fault is charged to them, and the rest goes on. The step is attempted as a whole a few times before that, so a failure
//! that passes by itself is charged to no item.

use crate::failure::Failure;
use crate::store::Store;

/// Attempts of a whole step that fail in a row before it is taken apart.
pub(crate) const WHOLE_TRIES: u32 = 3;

/// The kind of item that a fault is charged to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A message.
    Message,
    /// A subscription.
    Subscription,
    /// An endpoint.
    Endpoint,
    /// The machine; its id is 0.
    Server,
}

impl Kind {
    /// The kind's name in outbox.fault.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Message => "message",
            Kind::Subscription => "subscription",
            Kind::Endpoint => "endpoint",
            Kind::Server => "server",
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind of item.
    pub kind: Kind,
    /// The item.
    pub id: i64,
    /// The step that failed.
    pub step: &'static str,
    /// The error.
    pub error: String,
}

impl Fault {
    /// A step failed because of this item.
    pub fn new(kind: Kind, id: impl Into<i64>, step: &'static str, error: impl ToString) -> Fault {
        Fault { kind, id: id.into(), step, error: error.to_string() }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}: {}", self.kind.as_str(), self.id, self.step, self.error)
    }
}

/// Faults that are remembered while they cannot be written.
const MAX_UNWRITTEN: usize = 10_000;

/// Faults that are not recorded yet.
#[derive(Debug)]
pub(crate) struct Faults {
    found: Vec<Fault>,
    /// Whether the last loading of subscriptions, and of endpoints, had faults. At first both count as faulted.
    load_faulted: [bool; 2],
}

impl Faults {
    pub(crate) fn new() -> Faults {
        Faults { found: Vec::new(), load_faulted: [true; 2] }
    }

    /// Adds a fault, and logs it.
    pub(crate) fn add<S: Store>(&mut self, store: &S, fault: Fault) {
        store.log(format_args!("{fault}"));
        // A fault that lasts is found again.
        if self.found.len() < MAX_UNWRITTEN {
            self.found.push(fault);
        }
    }

    /// Called when all subscriptions, or all endpoints, have been loaded except the `faulted` ones.
    pub(crate) fn loaded<S: Store>(&mut self, store: &mut S, kind: Kind, faulted: &[i64]) -> Result<(), Failure> {
        let before = &mut self.load_faulted[usize::from(kind == Kind::Endpoint)];
        if std::mem::replace(before, !faulted.is_empty()) {
            store.note_loaded(kind, faulted)?;
        }
        Ok(())
    }

    /// Writes the faults. If that fails, the next call writes them.
    pub(crate) fn write<S: Store>(&mut self, store: &mut S) {
        if self.found.is_empty() {
            return;
        }
        match store.note_faults(&self.found) {
            Ok(()) => self.found.clear(),
            Err(failure) => store.log(format_args!("faults are not recorded yet: {failure}")),
        }
    }
}
