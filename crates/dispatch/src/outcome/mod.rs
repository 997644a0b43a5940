//! Outcomes: results on answers, decisions, counted messages.

pub mod decisions;
pub mod entry;
pub mod message_counters;
pub(crate) mod verdict;
