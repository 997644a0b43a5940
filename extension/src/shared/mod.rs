//! Shared memory: slots of dispatchers, claim hints, wake-ups.

pub mod claim_hints;
pub mod histogram;
pub mod shmem;
pub mod wake;
