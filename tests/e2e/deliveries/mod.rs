mod bundles;
mod cancel;
mod dead_letters;
mod delivery;
mod marks;
mod ordering;
mod pull;
