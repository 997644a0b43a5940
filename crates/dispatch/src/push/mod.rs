//! Requests to endpoints: configuration, retries, manual sends, consents.

pub mod consent;
pub mod endpoints;
pub mod manual_send;
pub mod retries;
