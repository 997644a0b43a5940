//! Documentation is what the code does: every example runs, and pages that are generated are up to date.

mod examples;
mod names;
mod reference;
