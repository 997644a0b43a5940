//! The work of a dispatcher, round by round: tick, read the feed, route, push, fill the window of pull rows, record outcomes.

pub mod engine;
pub mod feed;
pub mod inline;
pub mod outcome;
pub mod payload_filter;
pub mod pull;
pub mod push;
pub mod subscriptions;
