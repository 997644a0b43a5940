mod bundles;
mod cancel;
mod claim_hints;
mod cycle;
mod dead_letters;
mod delivery;
mod ordering;
mod pull;
