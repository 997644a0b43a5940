//! A model of the sequencer (`sql/schema/feed/sequencer.sql`) and of the facilities that it uses: transaction ids,
//! snapshots, a sequence, and locks of leaves. The model is small enough to be explored exhaustively, in every order of
//! the steps of a few transactions, ticks, rotations and crashes.
//!
//! Invariants that are checked in every reached state:
//! * The feed contains only committed messages, each once.
//! * A message whose id was drawn after another message had been committed comes after that message.
//! * No message is skipped and the sequencer does not stall. If everything else stops (transactions stay open, locks stay
//!   held), a few ticks bring every committed message into the feed.
//!
//! `Variant`s are designs that look right but are wrong. The exploration must find a breach of each.

pub mod explore;
pub mod reader;
pub mod tick;
pub mod world;

pub use explore::{Found, explore};
pub use reader::{Design, explore_reader};
pub use world::{Scope, Variant};
