//! Copies on real file systems, with everything going wrong that can be made to: the job is killed at any system call, calls fail, the power goes.
//!
//! What must hold after each: every directory in `copies/` has a COMMIT and verifies; no copy that was there before is lost or changed; the
//! source is as it was; and the next run needs no help.

#![expect(clippy::print_stderr, reason = "a test that cannot run says so")]

mod bench;
mod dice;
mod disk;
mod every_call;
mod faults;
mod flushes;
mod model;
mod mounts;
mod power;
mod rot;
mod shapes;
mod sqlite;
mod still;
