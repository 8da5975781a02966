//! Signals as a descriptor.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A signalfd of TERM, INT, QUIT, HUP, USR2 and CHLD, which are blocked in this process from then on.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    pub fn agent() -> io::Result<Self> {
        todo!()
    }

    /// The next pending signal; `None` when there is none.
    pub fn next(&self) -> io::Result<Option<i32>> {
        todo!()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// For roles: TERM, INT, HUP and PIPE are ignored; they end when their agent says so.
pub fn ignore_role_signals() -> io::Result<()> {
    todo!()
}

/// Orphans below this process become its children instead of init's.
pub fn become_subreaper() -> io::Result<()> {
    todo!()
}
