//! Sockets. All of them are read and written without waiting, by flag, so that an accepted one needs no extra call.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    self, AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrIn, UnixAddr, setsockopt, sockopt,
};

use crate::Result;
use crate::protocol::REQUEST_BYTES;

pub(crate) const EVENTS_MAX: usize = 256;
const BACKLOG: i32 = 4_096;

pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

pub(crate) fn poller() -> Result<Epoll> {
    Ok(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?)
}

pub(crate) fn interest(read: bool, token: usize) -> EpollEvent {
    EpollEvent::new(if read { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLOUT }, token as u64)
}

pub(crate) fn token(event: &EpollEvent) -> usize {
    // Tokens are made from `usize`.
    usize::try_from(event.data()).unwrap_or(usize::MAX)
}

/// Client `index` of the benchmark: 127.0.1.1, 127.0.1.2, ...
pub(crate) fn source(index: usize) -> Ipv4Addr {
    let (row, column) = (index / 250 % 250, index % 250);
    Ipv4Addr::new(127, 0, u8::try_from(row + 1).unwrap_or(1), u8::try_from(column + 1).unwrap_or(1))
}

/// A connection that is made, or in the making. On loopback the handshake is as a rule done when this returns.
pub(crate) fn dial(to: SocketAddrV4, from: Ipv4Addr) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    // The port is chosen by connect, so that TIME_WAIT of other destinations is in nobody's way.
    setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
    socket::bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    match socket::connect(fd.as_raw_fd(), &SockaddrIn::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(error) => Err(error),
    }
}

pub(crate) fn no_delay(fd: BorrowedFd<'_>) -> nix::Result<()> {
    setsockopt(&fd, sockopt::TcpNoDelay, &true)
}

pub(crate) fn send(fd: impl AsFd, bytes: &[u8]) -> nix::Result<usize> {
    socket::send(fd.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
}

/// `false`: the handshake is still going on.
pub(crate) fn send_request(fd: &OwnedFd, request: &[u8; REQUEST_BYTES]) -> nix::Result<bool> {
    match send(fd, request) {
        Ok(count) if count == request.len() => Ok(true),
        // 64 bytes into an empty socket buffer go whole or not at all.
        Ok(_) => Err(Errno::EIO),
        Err(Errno::EAGAIN | Errno::ENOTCONN | Errno::EINTR) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn receive(fd: impl AsFd, into: &mut [u8]) -> nix::Result<usize> {
    socket::recv(fd.as_fd().as_raw_fd(), into, MsgFlags::MSG_DONTWAIT)
}

/// Takes bytes from a TCP socket without copying them: the receiver of a bulk transfer then costs next to nothing, and what is
/// measured is the balancer.
pub(crate) fn discard(fd: impl AsFd, up_to: &mut [u8]) -> nix::Result<usize> {
    socket::recv(fd.as_fd().as_raw_fd(), up_to, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC)
}

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// `tcp:127.0.0.1:9101` or `unix:/path`; a socket file that is left over is replaced.
    pub(crate) fn open(address: &str) -> Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        if let Some(path) = address.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
            let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
            socket::bind(fd.as_raw_fd(), &UnixAddr::new(&path)?)?;
            // The balancers run as other users.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
            socket::listen(&fd, Backlog::new(BACKLOG)?)?;
            return Ok(Self::Unix(UnixListener::from(fd)));
        }
        let text = address.strip_prefix("tcp:").ok_or_else(|| format!("{address}: neither tcp: nor unix:"))?;
        let at: SocketAddrV4 = text.parse().map_err(|_| format!("{text}: not an IPv4 address with a port"))?;
        let fd = socket::socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        socket::bind(fd.as_raw_fd(), &SockaddrIn::from(at))?;
        socket::listen(&fd, Backlog::new(BACKLOG)?)?;
        Ok(Self::Tcp(TcpListener::from(fd)))
    }

    /// `None`: nobody waits.
    pub(crate) fn accept(&self) -> std::io::Result<Option<OwnedFd>> {
        let accepted = match self {
            Self::Tcp(listener) => listener.accept().and_then(|(stream, _)| {
                stream.set_nodelay(true)?;
                Ok(OwnedFd::from(stream))
            }),
            Self::Unix(listener) => listener.accept().map(|(stream, _)| OwnedFd::from(stream)),
        };
        match accepted {
            Ok(fd) => Ok(Some(fd)),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN) => Ok(None),
                // The client left between its handshake and here.
                Some(Errno::ECONNABORTED | Errno::EINVAL | Errno::ENOTCONN) => Ok(None),
                _ => Err(error),
            },
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}
