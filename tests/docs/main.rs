//! Checks that the documentation matches the code: every example runs, and generated pages are up to date.

mod examples;
mod names;
mod reference;
