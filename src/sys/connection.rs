//! Stream sockets of the API.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::packet::Peer;

/// A listening stream socket; non-blocking.
#[derive(Debug)]
pub struct ConnectionListener(OwnedFd);

impl ConnectionListener {
    pub fn bind(path: &Path, mode: u32, gid: Option<u32>) -> io::Result<Self> {
        todo!()
    }

    pub fn accept(&self) -> io::Result<Option<(UnixStream, Peer)>> {
        todo!()
    }
}

impl AsFd for ConnectionListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
