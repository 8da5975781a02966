//! The logs role as a whole, driven over its socket as the agent drives it: in a thread of the test, or, where it has to be killed, in a
//! process of its own (this test binary, started again with only `role_process`).

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and says what it skips")]
mod disks;
mod follow;
mod harness;
mod orders;
mod survival;
