//! A model of the sequencer (`sql/schema/feed/sequencer.sql`) and of what it relies on: transaction ids, snapshots, a sequence,
//! locks of leaves. Small enough to be explored exhaustively: every order of the steps of a few transactions, ticks,
//! rotations and crashes.
//!
//! What is checked in every state that is reached:
//! * the feed holds committed messages only, each once;
//! * a message that was drawn after another one had been committed comes behind it;
//! * no skip and no stall: ticks alone, with everything else standing still where it is (transactions open, locks held),
//!   bring every committed message into the feed within a few ticks.
//!
//! `Variant`s are designs that look right and are not; the model must find what is wrong with each.

pub mod explore;
pub mod reader;
pub mod tick;
pub mod world;

pub use explore::{Found, explore};
pub use reader::{Design, explore_reader};
pub use world::{Scope, Variant};
