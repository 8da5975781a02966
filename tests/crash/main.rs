//! The agent's death: at random moments under load, and at each of its named points.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "these are tests: a panic is a failure, figures are said aloud"
)]

#[path = "../support/mod.rs"]
mod support;

mod balance;
mod points;
mod random;
mod restore;
