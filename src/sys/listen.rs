//! Sockets that the agent opens for services.
#![allow(clippy::todo, clippy::ptr_arg, unused_variables, dead_code, reason = "signatures first; bodies follow")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

pub fn tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    todo!()
}

pub fn udp(address: SocketAddr) -> io::Result<OwnedFd> {
    todo!()
}

pub fn unix(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<OwnedFd> {
    todo!()
}
