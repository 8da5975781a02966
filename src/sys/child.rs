//! Processes through pidfds: never by a number that may belong to somebody else by now.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::Fallbacks;

/// pidfd_open.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    todo!()
}

/// pidfd_send_signal; ESRCH when the process has been reaped.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    todo!()
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Signal { signal: i32, core: bool },
    Unknown,
}

/// Takes the exit of a process; `None` while it lives. For a child it is reaped.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    wait_with(pidfd, Fallbacks::NONE)
}

/// [`wait`] as on a kernel without what `fallbacks` names.
pub fn wait_with(pidfd: BorrowedFd<'_>, fallbacks: Fallbacks) -> io::Result<Option<Ended>> {
    todo!()
}

/// What distinguishes a process from every other of this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`.
    pub start_ticks: u64,
    /// `None` below Linux 6.9.
    pub pidfd_inode: Option<u64>,
}

pub fn identity(pid: i32, pidfd: BorrowedFd<'_>) -> io::Result<Identity> {
    todo!()
}

/// Reaps at most `max` orphans that were handed to us; children for which `is_main` is true are left alone. Returns whether more
/// may wait.
pub fn reap_orphans(is_main: &mut dyn FnMut(i32) -> bool, max: usize) -> io::Result<bool> {
    todo!()
}
