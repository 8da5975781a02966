//! What the kernel tells by itself over netlink: changes of links, and devices that come and go. Only listened to: a question over
//! NETLINK_ROUTE takes the lock that a driver may hold while it waits for its device, hearing does not.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt, socket, sockopt,
};

/// RTMGRP_LINK
const LINKS: u32 = 1;
/// The kernel's own uevents; group 2 are those that udev has worked on.
const KERNEL_EVENTS: u32 = 1;
/// What may wait for us in the socket; more is told as [`Heard::Overrun`].
const WAITING_BYTES_MAX: usize = 256 << 10;

/// A socket that hears one group; non-blocking.
#[derive(Debug)]
pub struct Netlink(OwnedFd);

/// What one reading of the socket brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// So many bytes of the kernel in the buffer; what did not fit was cut off.
    Message(usize),
    /// Messages were lost.
    Overrun,
    Nothing,
}

impl Netlink {
    /// RTM_NEWLINK and RTM_DELLINK of every link of the own network namespace.
    pub fn links() -> io::Result<Self> {
        Self::hear(SockProtocol::NetlinkRoute, LINKS)
    }

    /// `add@/devices/..` and the like, as the kernel sends them to udev.
    pub fn uevents() -> io::Result<Self> {
        Self::hear(SockProtocol::NetlinkKObjectUEvent, KERNEL_EVENTS)
    }

    fn hear(protocol: SockProtocol, groups: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        // Without the larger buffer an overrun is told sooner, no more.
        let _ = setsockopt(&fd, sockopt::RcvBuf, &WAITING_BYTES_MAX);
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self(fd))
    }

    /// One message. What other processes send is passed over.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Heard> {
        loop {
            match recvfrom::<NetlinkAddr>(self.0.as_raw_fd(), buffer) {
                Ok((length, Some(from))) if from.pid() == 0 => return Ok(Heard::Message(length.min(buffer.len()))),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Heard::Nothing),
                Err(Errno::ENOBUFS) => return Ok(Heard::Overrun),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_open_and_have_nothing_to_say_yet() {
        let mut buffer = [0; 64];
        for socket in [Netlink::links(), Netlink::uevents()] {
            let socket = socket.unwrap();
            // Something of the host may have come by meanwhile, which is well too.
            assert!(matches!(socket.receive(&mut buffer).unwrap(), Heard::Nothing | Heard::Message(_)));
        }
    }
}
