//! The proxy role as a process of its own, with an agent that this test plays.

#![expect(clippy::unwrap_used, reason = "these are tests: a panic is a failure")]

mod role;
mod snippets;
