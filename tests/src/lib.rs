//! The tiers that need a server; see the files beside.
