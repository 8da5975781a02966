//! Bytes from socket to socket without a copy to us: splice(2) through a pipe.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// Sizes that are tried for a pipe, largest first. Beyond 16,384 pages a user (pipe-user-pages-soft) the kernel refuses all of them.
const PIPE_SIZES: [i32; 2] = [1 << 20, 256 << 10];

/// A pipe that lies between two sockets; empty when it is made.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// What a splice came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spliced {
    /// From a socket, 0 is its end.
    Bytes(usize),
    /// Nothing can be moved now.
    WouldBlock,
    /// Not between these two kinds of descriptors, or not on this kernel.
    Unsupported,
}

impl Pipe {
    /// As large as the kernel allows, at least its default.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        for size in PIPE_SIZES {
            if fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size)).is_ok() {
                break;
            }
        }
        Ok(Self { reader, writer })
    }

    /// INVARIANT of the caller: the pipe is empty. Else "would block" could mean a full pipe as well as an empty socket.
    pub fn fill(&self, from: &OwnedFd, bytes_max: usize) -> io::Result<Spliced> {
        moved(from, &self.writer, bytes_max)
    }

    /// Moves at most `bytes` of what lies in the pipe.
    pub fn drain(&self, to: &OwnedFd, bytes: usize) -> io::Result<Spliced> {
        moved(&self.reader, to, bytes)
    }
}

fn moved(from: &OwnedFd, to: &OwnedFd, bytes: usize) -> io::Result<Spliced> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    loop {
        match splice(from, None, to, None, bytes, flags) {
            Ok(count) => return Ok(Spliced::Bytes(count)),
            Err(Errno::EAGAIN) => return Ok(Spliced::WouldBlock),
            Err(Errno::EINVAL | Errno::ENOSYS) => return Ok(Spliced::Unsupported),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_go_through_and_the_end_is_seen() {
        let (mut sender, from) = UnixStream::pair().unwrap();
        let (to, mut receiver) = UnixStream::pair().unwrap();
        from.set_nonblocking(true).unwrap();
        let (from, to) = (OwnedFd::from(from), OwnedFd::from(to));
        let pipe = Pipe::new().unwrap();
        assert_eq!(pipe.fill(&from, 100).unwrap(), Spliced::WouldBlock);
        sender.write_all(b"hello").unwrap();
        assert_eq!(pipe.fill(&from, 100).unwrap(), Spliced::Bytes(5));
        assert_eq!(pipe.drain(&to, 5).unwrap(), Spliced::Bytes(5));
        let mut buffer = [0; 8];
        assert_eq!(receiver.read(&mut buffer).unwrap(), 5);
        drop(sender);
        assert_eq!(pipe.fill(&from, 100).unwrap(), Spliced::Bytes(0));
        let file = OwnedFd::from(std::fs::File::open("/").unwrap());
        assert!(!matches!(pipe.fill(&file, 1), Ok(Spliced::Bytes(_))));
    }
}
