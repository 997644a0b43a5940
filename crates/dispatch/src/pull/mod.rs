//! Rows for workers that claim: the window, and the order of keys.

pub mod blocked;
pub mod ordering;
pub mod window;
