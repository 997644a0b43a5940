mod bundles;
mod cancel;
mod claim_hints;
mod dead_letters;
mod delivery;
mod ordering;
mod pull;
