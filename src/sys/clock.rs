//! The kernel's clocks, and a timer that counts suspended time.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One reading of the clocks, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    pub mono_ns: u64,
    pub boot_ns: u64,
    pub wall_ns: u64,
    /// adjtimex without STA_UNSYNC; looked at no more than once a second.
    pub synchronised: bool,
}

#[must_use]
pub fn clocks() -> Clocks {
    todo!()
}

/// `/proc/sys/kernel/random/boot_id`.
pub fn boot_id() -> io::Result<String> {
    todo!()
}

/// A timerfd on CLOCK_BOOTTIME.
#[derive(Debug)]
pub struct BootTimer(OwnedFd);

impl BootTimer {
    pub fn new() -> io::Result<Self> {
        todo!()
    }

    /// Readable from `at_boot_ns` on; `None` disarms.
    pub fn arm(&self, at_boot_ns: Option<u64>) -> io::Result<()> {
        todo!()
    }

    /// Takes the expiry, so that the timer is no longer readable.
    pub fn clear(&self) {
        todo!()
    }
}

impl AsFd for BootTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
