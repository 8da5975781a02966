//! Level-triggered epoll with the caller's keys.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest(u32);

impl Interest {
    pub const NONE: Self = Self(0);
    pub const READ: Self = Self(1);
    pub const WRITE: Self = Self(4);
    pub const READ_WRITE: Self = Self(5);
    /// EPOLLPRI, as `cgroup.events` and pressure files announce a change.
    pub const PRIORITY: Self = Self(2 | 8);
}

/// A descriptor that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    pub key: u64,
    pub readable: bool,
    pub writable: bool,
    pub priority: bool,
    /// EPOLLHUP or EPOLLERR.
    pub hangup: bool,
}

impl Epoll {
    pub fn new() -> io::Result<Self> {
        todo!()
    }

    pub fn add(&self, fd: BorrowedFd<'_>, key: u64, interest: Interest) -> io::Result<()> {
        todo!()
    }

    pub fn modify(&self, fd: BorrowedFd<'_>, key: u64, interest: Interest) -> io::Result<()> {
        todo!()
    }

    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        todo!()
    }

    /// Waits at most `timeout` (`None`: for ever) and fills `ready`, at most its capacity. A signal ends the wait with none.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout: Option<Duration>) -> io::Result<()> {
        todo!()
    }
}

/// Readable when one of its descriptors is ready: an epoll can be watched by another.
impl std::os::fd::AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
