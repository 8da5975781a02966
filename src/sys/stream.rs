//! Non-blocking stream sockets, as a proxy needs them: few calls a connection, nothing that waits, no signal when a peer is gone.

use std::io;
use std::mem::size_of;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, sockopt};

use super::packet::Peer;
use super::unix;

/// A silent peer is asked after this time, every [`KEEPALIVE_EVERY`], and given up after [`KEEPALIVE_PROBES`] without an answer.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// How far a connect came at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connecting {
    Done,
    /// It is writable when the attempt is over.
    UnderWay,
}

/// A listening TCP socket whose connections inherit no delay and keepalive, so that accepting one takes one call.
pub fn prepare_tcp_listener(listener: &OwnedFd) -> io::Result<()> {
    set_nonblocking(listener)?;
    no_delay(listener)?;
    keep_alive(listener)
}

pub fn set_nonblocking(socket: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_truncate(fcntl(socket, FcntlArg::F_GETFL)?);
    fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// The next connection, non-blocking, with the client's address if it has one (Unix clients have none); `None` when nobody waits.
#[expect(unsafe_code, reason = "the wrapper of accept4 drops the address")]
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<(OwnedFd, Option<SocketAddr>)>> {
    // SAFETY: all zero is a valid sockaddr_storage (an address of no family).
    let mut address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut length = socklen::<libc::sockaddr_storage>();
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: address and length live on this frame, and the length is that of the address.
    let fd = unsafe { libc::accept4(listener.as_raw_fd(), (&raw mut address).cast(), &raw mut length, flags) };
    if fd < 0 {
        return match Errno::last() {
            Errno::EAGAIN => Ok(None),
            errno => Err(errno.into()),
        };
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(Some((socket, inet_address(&address))))
}

#[expect(unsafe_code, reason = "a sockaddr is read by its family")]
fn inet_address(address: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote a sockaddr_in, and sockaddr_storage is large enough and aligned for each kind.
            let inet = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in>() };
            let ip = u32::from_be(inet.sin_addr.s_addr).into();
            Some(SocketAddrV4::new(ip, u16::from_be(inet.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, with a sockaddr_in6.
            let inet = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in6>() };
            let ip = inet.sin6_addr.s6_addr.into();
            let address = SocketAddrV6::new(ip, u16::from_be(inet.sin6_port), inet.sin6_flowinfo, inet.sin6_scope_id);
            Some(address.into())
        }
        _ => None,
    }
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

/// A TCP socket that has begun to connect. A connection that leaves this host is kept alive and given up as the module says; one that
/// stays needs neither, since the kernel tells of every end. Small writes are delayed until [`no_delay`].
///
/// # Errors
/// What can be said at once: no descriptor, no port, no route. On loopback [`finish`] often tells more right afterwards.
pub fn connect_tcp(address: SocketAddr) -> io::Result<(OwnedFd, Connecting)> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    if !address.ip().is_loopback() {
        keep_alive(&socket)?;
    }
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) => Ok((socket, Connecting::Done)),
        Err(Errno::EINPROGRESS) => Ok((socket, Connecting::UnderWay)),
        Err(errno) => Err(errno.into()),
    }
}

/// How a connect that was under way stands.
///
/// # Errors
/// Why it failed.
pub fn finish(socket: &OwnedFd, address: SocketAddr) -> io::Result<Connecting> {
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EISCONN) => Ok(Connecting::Done),
        Err(Errno::EALREADY | Errno::EINPROGRESS | Errno::EINTR) => Ok(Connecting::UnderWay),
        Err(errno) => Err(errno.into()),
    }
}

/// A Unix socket that is connected: there is nothing in between. EAGAIN: the listener's queue is full.
pub fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    unix::connect(SockType::Stream, path)
}

/// What has gone wrong with the socket since this was asked last.
///
/// # Errors
/// That error.
pub fn take_error(socket: &OwnedFd) -> io::Result<()> {
    match socket::getsockopt(socket, sockopt::SocketError)? {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Sends small writes at once (TCP).
pub fn no_delay(socket: &OwnedFd) -> io::Result<()> {
    Ok(socket::setsockopt(socket, sockopt::TcpNoDelay, &true)?)
}

fn keep_alive(socket: &OwnedFd) -> io::Result<()> {
    let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    socket::setsockopt(socket, sockopt::KeepAlive, &true)?;
    socket::setsockopt(socket, sockopt::TcpKeepIdle, &seconds(KEEPALIVE_IDLE))?;
    socket::setsockopt(socket, sockopt::TcpKeepInterval, &seconds(KEEPALIVE_EVERY))?;
    // INVARIANT: no TCP_USER_TIMEOUT: it would also end a connection whose peer is there and only does not read for a while.
    Ok(socket::setsockopt(socket, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?)
}

/// Reads what is there. `None`: nothing yet; 0: the peer has closed its direction.
pub fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match socket::recv(socket.as_raw_fd(), buffer, MsgFlags::empty()) {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Like [`receive`], and leaves it there.
pub fn peek(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match socket::recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_PEEK) {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether something could be read, apart from an end.
pub fn has_bytes(socket: &OwnedFd) -> io::Result<bool> {
    match socket::recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EAGAIN) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Sends as much as fits. `None`: nothing does now.
pub fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<Option<usize>> {
    loop {
        match socket::send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Bytes that were sent and are not yet with the peer (TCP: not acknowledged; Unix: memory of what is not read).
#[expect(unsafe_code, reason = "nix has no wrapper of this ioctl")]
pub fn unsent(socket: &OwnedFd) -> io::Result<u32> {
    let mut count: libc::c_int = 0;
    // SAFETY: this request writes one int, and that lives on this frame.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    Errno::result(done)?;
    Ok(u32::try_from(count).unwrap_or_default())
}

/// Ends our direction: the peer reads to the end and can go on sending.
pub fn shut_write(socket: &OwnedFd) -> io::Result<()> {
    Ok(socket::shutdown(socket.as_raw_fd(), socket::Shutdown::Write)?)
}

/// Closes so that the peer gets a reset instead of an end (TCP; on a Unix socket the peer sees an end).
pub fn reset(socket: OwnedFd) {
    // The close that follows is all that can be done, with or without the option.
    let _ = socket::setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}

/// The process at the other end of a Unix socket, as it was when it connected.
pub fn peer(socket: &OwnedFd) -> io::Result<Peer> {
    unix::peer(socket)
}

/// The internet address of the peer; `None` when it has another kind, or is gone.
#[must_use]
pub fn remote_address(socket: &OwnedFd) -> Option<SocketAddr> {
    socket::getpeername::<SockaddrStorage>(socket.as_raw_fd()).ok().as_ref().and_then(to_std)
}

/// The internet address that the peer reached us at.
#[must_use]
pub fn local_address(socket: &OwnedFd) -> Option<SocketAddr> {
    socket::getsockname::<SockaddrStorage>(socket.as_raw_fd()).ok().as_ref().and_then(to_std)
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(inet) = address.as_sockaddr_in() {
        return Some(SocketAddrV4::new(inet.ip(), inet.port()).into());
    }
    let inet = address.as_sockaddr_in6()?;
    Some(SocketAddrV6::new(inet.ip(), inet.port(), inet.flowinfo(), inet.scope_id()).into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::sys::testing::{TempDir, await_ready, eventually};

    fn prepared() -> (OwnedFd, SocketAddr) {
        let listener = super::super::listen::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let address = TcpListener::from(listener.try_clone().unwrap()).local_addr().unwrap();
        prepare_tcp_listener(&listener).unwrap();
        (listener, address)
    }

    #[test]
    fn accepted_connection_has_what_its_listener_was_given() {
        let (listener, address) = prepared();
        assert!(accept(listener.as_fd()).unwrap().is_none());
        let client = TcpStream::connect(address).unwrap();
        let (server, source) = accept(listener.as_fd()).unwrap().unwrap();
        assert_eq!((source, remote_address(&server)), (client.local_addr().ok(), client.local_addr().ok()));
        assert_eq!(local_address(&server), Some(address));
        assert!(socket::getsockopt(&server, sockopt::TcpNoDelay).unwrap());
        assert!(socket::getsockopt(&server, sockopt::KeepAlive).unwrap());
        assert_eq!(socket::getsockopt(&server, sockopt::TcpKeepIdle).unwrap(), 60);
        assert_eq!(socket::getsockopt(&server, sockopt::TcpUserTimeout).unwrap(), 0, "a client may pause");
        assert_eq!(receive(&server, &mut [0; 8]).unwrap(), None);
    }

    #[test]
    fn client_on_a_unix_socket_has_credentials_and_no_address() {
        let directory = TempDir::new();
        let path = directory.path().join("s");
        let listener = OwnedFd::from(UnixListener::bind(&path).unwrap());
        set_nonblocking(&listener).unwrap();
        let mut client = UnixStream::from(connect_unix(&path).unwrap());
        let (server, source) = accept(listener.as_fd()).unwrap().unwrap();
        assert_eq!((source, remote_address(&server)), (None, None));
        assert_eq!(peer(&server).unwrap().pid.unsigned_abs(), std::process::id());
        assert!(!has_bytes(&server).unwrap());
        client.write_all(b"hey").unwrap();
        assert!(has_bytes(&server).unwrap());
        let mut buffer = [0; 8];
        assert_eq!(receive(&server, &mut buffer).unwrap(), Some(3));
        drop(client);
        assert_eq!(receive(&server, &mut buffer).unwrap(), Some(0));
        assert_eq!(send(&server, b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn connect_on_loopback_is_over_at_once_well_or_not() {
        let (listener, address) = prepared();
        let (client, _) = connect_tcp(address).unwrap();
        assert_eq!(finish(&client, address).unwrap(), Connecting::Done);
        assert_eq!(finish(&client, address).unwrap(), Connecting::Done);
        take_error(&client).unwrap();
        assert!(!socket::getsockopt(&client, sockopt::KeepAlive).unwrap());
        no_delay(&client).unwrap();
        drop(listener);
        let refused = match connect_tcp(address) {
            Ok((client, _)) => finish(&client, address).map(|_| ()),
            Err(error) => Err(error),
        };
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn reset_is_seen_as_one_and_an_end_as_an_end() {
        let (listener, address) = prepared();
        let mut client = TcpStream::connect(address).unwrap();
        let (server, _) = eventually(|| accept(listener.as_fd()).unwrap());
        shut_write(&server).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        client.write_all(b"still").unwrap();
        await_ready(server.as_fd());
        assert_eq!(receive(&server, &mut [0; 8]).unwrap(), Some(5));
        let mut client = TcpStream::connect(address).unwrap();
        let (server, _) = eventually(|| accept(listener.as_fd()).unwrap());
        reset(server);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
