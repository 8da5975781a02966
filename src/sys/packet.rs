//! SOCK_SEQPACKET with descriptors: one message a packet, in order, and the end of the peer is seen.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, MsgFlags, SockFlag, SockType};

use super::ancillary::{self, Descriptors, Taking};
use super::unix;

/// The longest packet that is received.
pub const PACKET_BYTES_MAX: usize = 128 << 10;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;

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
    /// The bytes are in the buffer.
    Message {
        fds: Vec<OwnedFd>,
    },
    WouldBlock,
    Closed,
}

/// A socket that roles connect to; non-blocking.
#[derive(Debug)]
pub struct PacketListener(OwnedFd);

impl PacketListener {
    /// Complete from the moment the path is seen; replaces a socket nobody listens on. EADDRINUSE when somebody does.
    pub fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        let socket = unix::bind(SockType::SeqPacket, path, mode, None, |socket| {
            Ok(socket::listen(socket, Backlog::new(BACKLOG)?)?)
        })?;
        Ok(Self(socket))
    }

    /// `None` when nobody waits.
    pub fn accept(&self) -> io::Result<Option<PacketSocket>> {
        Ok(unix::accept(&self.0)?.map(PacketSocket))
    }
}

/// One end of a connection; non-blocking, close-on-exec.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    pub fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self(unix::connect(SockType::SeqPacket, path)?))
    }

    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (one, other) = socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self(one), Self(other)))
    }

    /// A pair of which the other end is for a program that knows nothing of us: it blocks, as a program expects of what it inherits.
    pub fn pair_with_stranger() -> io::Result<(Self, OwnedFd)> {
        let (one, other) = socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        super::listen::set_nonblocking(&one)?;
        Ok((Self(one), other))
    }

    /// The descriptor itself, to be kept or passed on.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// An end that was inherited or received.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// One packet. `false`: the peer's queue is full and nothing was sent. EPIPE when the peer is gone; EMSGSIZE when it can never
    /// fit. An empty packet would look like the end to the receiver and is refused.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        if bytes.is_empty() || bytes.len() > PACKET_BYTES_MAX {
            return Err(Errno::EMSGSIZE.into());
        }
        ancillary::send(self.0.as_fd(), bytes, fds)
    }

    /// Replaces what is in `buffer`, which grows to the packet and no further. A packet longer than [`PACKET_BYTES_MAX`] is dropped and
    /// EMSGSIZE. Packets that were sent before the peer closed are still received.
    pub fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<Received> {
        buffer.clear();
        let length = match self.next_length()? {
            None => return Ok(Received::WouldBlock),
            Some(0) => return Ok(Received::Closed),
            Some(length) => length,
        };
        buffer.resize(length.min(PACKET_BYTES_MAX), 0);
        let Some(message) = ancillary::receive(self.0.as_fd(), buffer, Taking::Consume, Descriptors::Taken)? else {
            return Ok(Received::WouldBlock);
        };
        buffer.truncate(message.length);
        if message.truncated {
            buffer.clear();
            return Err(Errno::EMSGSIZE.into());
        }
        Ok(Received::Message { fds: message.fds })
    }

    /// One short packet of a peer that is not trusted: descriptors that it attaches are dropped by the kernel, and what is longer than
    /// `buffer` is cut off. `None`: nothing is there; 0 at the end, which an empty packet also is taken for.
    pub fn receive_short(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match socket::recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => return Ok(Some(length)),
                Err(Errno::EAGAIN) => return Ok(None),
                // As in `next_length`.
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The length of the next packet, 0 at the end.
    fn next_length(&self) -> io::Result<Option<usize>> {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
        loop {
            match socket::recv(self.0.as_raw_fd(), &mut [], flags) {
                Ok(length) => return Ok(Some(length)),
                Err(Errno::EAGAIN) => return Ok(None),
                // Told once, when the peer closed with packets of ours unread; its own may still wait behind it.
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    pub fn peer(&self) -> io::Result<Peer> {
        unix::peer(&self.0)
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::sys::testing::TempDir;

    fn message(socket: &PacketSocket, buffer: &mut Vec<u8>) -> Vec<OwnedFd> {
        match socket.receive(buffer).unwrap() {
            Received::Message { fds } => fds,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn packets_keep_their_bounds_and_bring_descriptors() {
        let directory = TempDir::new();
        let path = directory.path().join("file");
        let mut file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        let (one, other) = PacketSocket::pair().unwrap();
        assert!(one.send(b"first", &[file.as_fd(), file.as_fd()]).unwrap());
        assert!(one.send(&vec![7; PACKET_BYTES_MAX], &[]).unwrap());
        assert_eq!(
            one.send(&vec![7; PACKET_BYTES_MAX + 1], &[]).unwrap_err().raw_os_error(),
            Some(nix::libc::EMSGSIZE)
        );
        let mut buffer = Vec::new();
        let fds = message(&other, &mut buffer);
        assert_eq!((buffer.as_slice(), fds.len()), (b"first".as_slice(), 2));
        for fd in fds {
            let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
            assert_eq!(flags, nix::libc::FD_CLOEXEC);
            File::from(fd).write_all(b"x").unwrap();
        }
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "xx");
        assert!(message(&other, &mut buffer).is_empty());
        assert_eq!(buffer.len(), PACKET_BYTES_MAX);
        assert!(matches!(other.receive(&mut buffer), Ok(Received::WouldBlock)));
    }

    #[test]
    fn packets_sent_before_a_close_arrive_although_the_other_way_was_not_read() {
        let (one, other) = PacketSocket::pair().unwrap();
        other.send(b"never read", &[]).unwrap();
        one.send(b"last words", &[]).unwrap();
        drop(one);
        let mut buffer = Vec::new();
        message(&other, &mut buffer);
        assert_eq!(buffer, b"last words");
        assert!(matches!(other.receive(&mut buffer), Ok(Received::Closed)));
        assert_eq!(other.send(b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn short_packet_of_a_stranger_brings_no_descriptor_and_no_more_than_its_room() {
        let (one, other) = PacketSocket::pair().unwrap();
        let (mut pipe, writer) = std::io::pipe().unwrap();
        let mut buffer = [0; 8];
        assert_eq!(other.receive_short(&mut buffer).unwrap(), None);
        one.send(b"12345678 and more", &[writer.as_fd()]).unwrap();
        drop(writer);
        assert_eq!(other.receive_short(&mut buffer).unwrap(), Some(8));
        assert_eq!(&buffer, b"12345678");
        assert_eq!(pipe.read(&mut buffer).unwrap(), 0, "nobody holds the other end");
        drop(one);
        assert_eq!(other.receive_short(&mut buffer).unwrap(), Some(0));
    }

    #[test]
    fn full_queue_is_told_and_nothing_is_cut() {
        let (one, other) = PacketSocket::pair().unwrap();
        let mut sent = 0;
        while one.send(&[1; 1000], &[]).unwrap() {
            sent += 1;
        }
        let mut buffer = Vec::new();
        for _ in 0..sent {
            message(&other, &mut buffer);
            assert_eq!(buffer.len(), 1000);
        }
        assert!(one.send(b"again", &[]).unwrap());
    }

    #[test]
    fn dead_socket_is_replaced_and_a_live_one_is_not() {
        let directory = TempDir::new();
        let deep = directory.path().join("longer-than-an-address-".repeat(8));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("logs");
        let listener = PacketListener::bind(&path, 0o600).unwrap();
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listener.accept().unwrap().is_none());
        let client = PacketSocket::connect(&path).unwrap();
        let server = listener.accept().unwrap().unwrap();
        assert_eq!(server.peer().unwrap().pid.unsigned_abs(), std::process::id());
        assert_eq!(server.peer().unwrap(), client.peer().unwrap());
        assert_eq!(PacketListener::bind(&path, 0o600).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        PacketListener::bind(&path, 0o660).unwrap();
        assert_eq!(std::fs::read_dir(deep).unwrap().count(), 1);
    }
}
