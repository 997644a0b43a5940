//! Rows for workers that claim: the window, and the order of keys.

pub(crate) mod blocked;
pub mod ordering;
pub mod window;
