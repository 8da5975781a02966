//! SOCK_SEQPACKET with descriptors: one message a packet.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Who is at the other end, as of its connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// What a receive brought.
#[derive(Debug)]
pub enum Received {
    Message { fds: Vec<OwnedFd> },
    WouldBlock,
    Closed,
}

/// A socket that roles connect to.
#[derive(Debug)]
pub struct PacketListener(OwnedFd);

impl PacketListener {
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        todo!()
    }

    pub fn accept(&self) -> io::Result<Option<PacketSocket>> {
        todo!()
    }
}

/// One end of a connection; non-blocking.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    pub fn connect(path: &Path) -> io::Result<Self> {
        todo!()
    }

    pub fn pair() -> io::Result<(Self, Self)> {
        todo!()
    }

    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// `false`: would block.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        todo!()
    }

    pub fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<Received> {
        todo!()
    }

    pub fn peer(&self) -> io::Result<Peer> {
        todo!()
    }
}

impl AsFd for PacketListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
