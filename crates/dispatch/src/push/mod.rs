//! Deliveries that the dispatcher sends: endpoints and their consent, rows that are due, manual sends.

pub(crate) mod consent;
pub mod endpoints;
pub mod manual_send;
pub mod retries;
