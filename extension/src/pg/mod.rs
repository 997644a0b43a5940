//! PostgreSQL's own interfaces: function calls, transactions, rows below the executor, catalogue, hooks.

pub mod catalog;
pub mod function;
pub mod hooks;
pub mod identity;
pub mod jsonb;
pub mod scan;
pub mod shape;
pub mod table;
pub mod timer;
pub mod txn;
