//! Outgoing TCP connections that never wait.

use std::io;
use std::net::{SocketAddr, TcpStream};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use std::os::fd::AsRawFd;

/// Begins a connect to `address`. The socket is non-blocking and close-on-exec; it becomes writable when the attempt is over, and
/// `TcpStream::take_error` then tells how it went.
///
/// # Errors
/// What can be said at once: no descriptor left, no route, and on a loopback address also "connection refused".
pub fn start(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn connect_is_begun_without_waiting_and_reaches_the_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = start(listener.local_addr().unwrap()).unwrap();
        let (_, from) = listener.accept().unwrap();
        assert_eq!(from, stream.local_addr().unwrap());
        assert!(stream.take_error().unwrap().is_none());
    }
}
