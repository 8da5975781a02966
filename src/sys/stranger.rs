//! Connections of processes that are not trusted.
//!
//! Whoever sends to a unix socket can attach descriptors, and whoever lets go of such a descriptor last waits for whatever its file
//! wants to do at its end: a TCP socket with SO_LINGER keeps its last holder for as long as its sender has chosen. Receiving, and even
//! closing a socket in which such a message waits, would stop the agent. So it looks first, and leaves what brings descriptors to a
//! child: a process that is ending does not linger.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::ancillary::{self, Look};
use super::spawn::{self, Child, SpawnRequest};

/// Looks at what is left in a connection that is closed; beyond that it goes to a child too.
const LOOKS_MAX: usize = 64;
const LOOK_BYTES: usize = 4096;

/// A non-blocking stream connection to a stranger. Reading from it and dropping it never wait.
#[derive(Debug)]
pub struct Stranger {
    // INVARIANT: closed before `holder` is: fields are dropped in this order.
    stream: UnixStream,
    holder: Option<Child>,
    given_away: bool,
}

impl Stranger {
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, holder: None, given_away: false }
    }

    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Reads what waits; 0 at the end. InvalidData when it brings descriptors: nobody who means well sends some here.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match ancillary::look(self.stream.as_fd(), buffer)? {
            Look::Nothing => Err(io::ErrorKind::WouldBlock.into()),
            Look::Descriptors => Err(io::ErrorKind::InvalidData.into()),
            Look::Bytes(0) => Ok(0),
            Look::Bytes(bytes) => (&self.stream).read(&mut buffer[..bytes]),
        }
    }

    /// Another holder of the connection, whose closing then is not ours to care for.
    pub fn give_away(mut self) -> io::Result<OwnedFd> {
        let given = self.stream.try_clone()?;
        self.given_away = true;
        Ok(given.into())
    }

    /// Whether the connection can be closed without waiting. Nothing more can be sent to it.
    fn is_harmless(&self) -> bool {
        let mut buffer = [0; LOOK_BYTES];
        for _ in 0..LOOKS_MAX {
            match self.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return false,
                Err(_) => return true,
            }
        }
        false
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        if self.given_away {
            return;
        }
        // ENOTCONN: the other end is closed, which is as good.
        let _ = self.stream.shutdown(Shutdown::Read);
        if self.is_harmless() {
            return;
        }
        match hold(self.stream.as_fd()) {
            Ok(holder) => self.holder = Some(holder),
            // No process to be had: better a lost descriptor than a lost agent.
            Err(_) => std::mem::forget(self.stream.try_clone()),
        }
    }
}

/// A child that holds the connection, waits at its gate, and ends when the gate is dropped unopened.
fn hold(stream: BorrowedFd<'_>) -> Result<Child, spawn::SpawnError> {
    spawn::spawn(&SpawnRequest { path: c"/".to_owned(), umask: 0o077, ..SpawnRequest::plain(stream) })
}

/// A TCP connection with unsent bytes that keeps its last holder for so many seconds.
#[cfg(test)]
pub(super) fn lingering(seconds: i32) -> (std::net::TcpListener, std::net::TcpStream, std::net::TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    use std::io::Write;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    client.set_nonblocking(true).unwrap();
    while client.write(&[0; 65_536]).is_ok() {}
    setsockopt(&client, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: seconds }).unwrap();
    (listener, other, client)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn bytes_are_read_and_the_end_is_seen() {
        let (mut client, stream) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        let stranger = Stranger::new(stream);
        let mut buffer = [0; 8];
        assert_eq!(stranger.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"GET /v1/services").unwrap();
        assert_eq!((stranger.read(&mut buffer).unwrap(), &buffer), (8, b"GET /v1/"));
        assert_eq!(stranger.read(&mut buffer).unwrap(), 8);
        drop(client);
        assert_eq!(stranger.read(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn attached_descriptor_that_lingers_holds_nobody() {
        // Read first, at once, or never: closing is enough to let go of it.
        for (before, reads) in [("", true), ("GET", true), ("GET", false)] {
            let (mut client, stream) = UnixStream::pair().unwrap();
            stream.set_nonblocking(true).unwrap();
            let stranger = Stranger::new(stream);
            let (_listener, _other, attached) = lingering(20);
            client.write_all(before.as_bytes()).unwrap();
            assert!(ancillary::send(client.as_fd(), b" /v1", &[attached.as_fd()]).unwrap());
            drop(attached);
            let began = Instant::now();
            let mut buffer = [0; 64];
            if reads {
                // Bytes before it may come with it or without.
                while stranger.read(&mut buffer).is_ok() {}
                assert_eq!(stranger.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::InvalidData);
            }
            drop(stranger);
            assert!(began.elapsed() < Duration::from_secs(10), "{before:?} {reads}");
            assert_eq!(client.read(&mut [0; 8]).unwrap_or(0), 0);
        }
    }

    #[test]
    fn connection_that_is_given_away_stays_open() {
        let (mut client, stream) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut other = UnixStream::from(Stranger::new(stream).give_away().unwrap());
        client.write_all(b"x").unwrap();
        assert_eq!(other.read(&mut [0; 4]).unwrap(), 1);
    }
}
