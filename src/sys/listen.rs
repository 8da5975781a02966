//! Sockets that the agent opens for services: blocking, as a service expects them, and close-on-exec until they are handed over.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, sockopt};
use nix::sys::stat::Mode;

use super::unix::{give, remove_if_there};

/// A listening TCP socket with SO_REUSEADDR and the longest backlog the kernel takes. An IPv6 address is IPv6 only.
pub fn tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = inet(address, SockType::Stream)?;
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    socket::listen(&socket, Backlog::MAXCONN)?;
    Ok(socket)
}

/// A bound UDP socket.
pub fn udp(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = inet(address, SockType::Datagram)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
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
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return Err(Errno::EEXIST.into()),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(Errno::EADDRINUSE.into()),
        Ok(_) => remove_if_there(path)?,
    }
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The mode of an unbound socket is the mode of what bind creates: never wider than asked, whatever the umask.
    nix::sys::stat::fchmod(&socket, Mode::from_bits_truncate(mode))?;
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    give(path, owner)?;
    socket::listen(&socket, Backlog::MAXCONN)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

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
}
