//! sd_notify: the socket that services write to, and our own word to whoever started us.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A datagram socket of one replica.
#[derive(Debug)]
pub struct NotifySocket(OwnedFd);

/// One message.
#[derive(Debug)]
pub struct Datagram {
    pub text: Vec<u8>,
    pub pid: i32,
    pub uid: u32,
    pub fds: Vec<OwnedFd>,
}

impl NotifySocket {
    pub fn bind(path: &Path, owner: Option<(u32, u32)>) -> io::Result<Self> {
        todo!()
    }

    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub fn receive(&self) -> io::Result<Option<Datagram>> {
        todo!()
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `false`: there is no NOTIFY_SOCKET.
pub fn notify_parent(text: &str) -> io::Result<bool> {
    todo!()
}
