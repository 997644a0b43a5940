//! Outcomes: results on answers, decisions, the record of attempts, counters, replays.

pub mod counters;
pub mod decisions;
pub mod message_counters;
pub mod record;
pub mod replay;
pub mod verdict;
