//! Sockets that the agent opens for services: blocking, as a service expects them, and close-on-exec until they are handed over.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, sockopt};
use nix::sys::stat::Mode;

use super::unix;

/// As many waiting connections as `net.core.somaxconn` allows (4096 since Linux 5.4); musl's SOMAXCONN is 128.
const BACKLOG: Backlog = Backlog::MAXALLOWABLE;

/// A listening TCP socket with SO_REUSEADDR and the longest backlog the kernel takes. An IPv6 address is IPv6 only.
pub fn tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = inet(address, SockType::Stream)?;
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    socket::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A bound UDP socket.
pub fn udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = inet(address, SockType::Datagram)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// Makes the socket non-blocking: for those who accept from one socket in several threads.
pub fn set_nonblocking(socket: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(nix::fcntl::fcntl(socket, FcntlArg::F_GETFL)?);
    nix::fcntl::fcntl(socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Makes the socket blocking, as a service expects it.
pub fn set_blocking(socket: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(nix::fcntl::fcntl(socket, FcntlArg::F_GETFL)?);
    nix::fcntl::fcntl(socket, FcntlArg::F_SETFL(flags & !OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Gives a listening socket that is there already the mode and owner that it would have been bound with.
pub fn redress(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    unix::redress(path, mode, owner)
}

fn inet(address: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        socket::setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(socket)
}

/// A listening stream socket at `path`. Bound in place, so that `ss` and the service see the true name. A socket nobody listens on is
/// replaced; EADDRINUSE when somebody does, EEXIST when something else is there.
pub fn unix(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<OwnedFd> {
    unix::refuse_occupied(SockType::Stream, path)?;
    unix::remove_if_there(path)?;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The mode of an unbound socket is the mode of what bind creates: never wider than asked, whatever the umask.
    nix::sys::stat::fchmod(&socket, Mode::from_bits_truncate(mode))?;
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    unix::dress(path, mode, owner)?;
    socket::listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn tcp_and_udp_sockets_work_and_block() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::from(tcp(any).unwrap());
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
        assert_eq!(tcp(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let server = UdpSocket::from(udp(any).unwrap());
        let client = UdpSocket::bind(any).unwrap();
        client.send_to(b"x", server.local_addr().unwrap()).unwrap();
        assert_eq!(server.recv(&mut [0; 4]).unwrap(), 1);
    }

    #[test]
    fn unix_socket_replaces_only_a_dead_one() {
        let directory = TempDir::new();
        let path = directory.path().join("web.sock");
        let listener = UnixListener::from(unix(&path, 0o620, None).unwrap());
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        assert_eq!(listener.local_addr().unwrap().as_pathname(), Some(path.as_path()));
        assert_eq!(unix(&path, 0o600, None).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        unix(&path, 0o600, None).unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert_eq!(unix(&file, 0o600, None).unwrap_err().raw_os_error(), Some(nix::libc::EEXIST));
    }

    #[test]
    fn queue_is_longer_than_128_and_an_accept_need_not_wait() {
        let listener = tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        set_nonblocking(&listener).unwrap();
        let listener = TcpListener::from(listener);
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let address = listener.local_addr().unwrap();
        let patience = Duration::from_secs(10);
        let waiting: Vec<TcpStream> =
            (0..300).map(|_| TcpStream::connect_timeout(&address, patience).unwrap()).collect();
        assert_eq!(waiting.len(), 300);
    }

    #[test]
    fn listener_whose_queue_is_full_does_not_hold_us() {
        let directory = TempDir::new();
        let path = directory.path().join("full.sock");
        let listener = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        socket::listen(&listener, Backlog::new(1).unwrap()).unwrap();
        let mut waiting = Vec::new();
        while let Ok(one) = unix::connect(SockType::Stream, &path) {
            waiting.push(one);
        }
        let (done, outcome) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(unix(&path, 0o600, None).map(drop).map_err(|error| error.kind())));
        assert_eq!(outcome.recv_timeout(Duration::from_secs(10)), Ok(Err(io::ErrorKind::AddrInUse)));
    }
}
