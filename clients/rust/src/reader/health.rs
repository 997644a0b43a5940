//! How a reader or projection fares, for health ports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

#[derive(Debug, Default)]
struct State {
    is_connected: AtomicBool,
    /// 0 if there is none. Positions are above 0.
    failing: AtomicI64,
    applied: AtomicU64,
}

/// How a reader or projection fares. Clones show the same reader. Get it with
/// [`ReaderBuilder::health`](super::ReaderBuilder::health).
#[derive(Clone, Debug, Default)]
pub struct ReaderHealth(Arc<State>);

impl ReaderHealth {
    /// Returns whether the last read found the server.
    pub fn is_connected(&self) -> bool {
        self.0.is_connected.load(Ordering::Relaxed)
    }

    /// Returns the position of the first message that the last attempt of a projection could not apply.
    pub fn failing(&self) -> Option<i64> {
        Some(self.0.failing.load(Ordering::Relaxed)).filter(|position| *position > 0)
    }

    /// Returns how many messages a projection has applied.
    pub fn applied(&self) -> u64 {
        self.0.applied.load(Ordering::Relaxed)
    }

    pub(super) fn set_connected(&self, is_connected: bool) {
        self.0.is_connected.store(is_connected, Ordering::Relaxed);
    }

    pub(super) fn set_failing(&self, position: Option<i64>) {
        self.0.failing.store(position.unwrap_or_default(), Ordering::Relaxed);
    }

    pub(super) fn add_applied(&self, messages: usize) {
        self.set_failing(None);
        self.0.applied.fetch_add(messages as u64, Ordering::Relaxed);
    }
}
