//! Stream sockets of the API.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{self, Backlog, SockType};

use super::packet::Peer;
use super::unix;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// A listening stream socket; non-blocking.
#[derive(Debug)]
pub struct ConnectionListener(OwnedFd);

impl ConnectionListener {
    /// Complete from the moment the path is seen: mode, group (`None`: ours) and listening. Replaces a socket nobody listens on;
    /// EADDRINUSE when somebody does.
    pub fn bind(path: &Path, mode: u32, gid: Option<u32>) -> io::Result<Self> {
        let owner = gid.map(|gid| (super::host::uid(), gid));
        let listening = |socket: &OwnedFd| Ok(socket::listen(socket, Backlog::new(BACKLOG)?)?);
        Ok(Self(unix::bind(SockType::Stream, path, mode, owner, listening)?))
    }

    /// A socket that [`ConnectionListener::bind`] made in the process image before.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The next connection, non-blocking, and who made it; `None` when nobody waits.
    pub fn accept(&self) -> io::Result<Option<(UnixStream, Peer)>> {
        let Some(socket) = unix::accept(&self.0)? else { return Ok(None) };
        let peer = unix::peer(&socket)?;
        Ok(Some((UnixStream::from(socket), peer)))
    }
}

impl AsFd for ConnectionListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn client_is_accepted_and_known() {
        let directory = TempDir::new();
        let path = directory.path().join("api.sock");
        let gid = nix::unistd::getegid().as_raw();
        let listener = ConnectionListener::bind(&path, 0o666, Some(gid)).unwrap();
        let found = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!((found.permissions().mode() & 0o777, found.gid()), (0o666, gid));
        assert!(listener.accept().unwrap().is_none());
        let mut client = UnixStream::connect(&path).unwrap();
        let (mut server, peer) = listener.accept().unwrap().unwrap();
        assert_eq!(peer.pid.unsigned_abs(), std::process::id());
        let mut buffer = [0; 8];
        assert_eq!(server.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"GET").unwrap();
        assert_eq!(server.read(&mut buffer).unwrap(), 3);
    }
}
