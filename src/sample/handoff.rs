//! Connections that somebody else has accepted: each packet of the channel brings one, with eight bytes that are sent back once it is ours.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::http::{self, State};
use crate::sys::packet::{PacketSocket, Received};

/// The name of such a descriptor in LISTEN_FDNAMES.
pub(super) const FD_NAME: &str = "handoff";

/// Takes connections until the other end is gone for good.
pub(super) fn serve(channel: OwnedFd, state: &Arc<State>) -> io::Result<()> {
    let channel = PacketSocket::from_fd(channel);
    let mut packet = Vec::new();
    loop {
        wait(&channel, PollFlags::POLLIN)?;
        let sockets = match channel.receive(&mut packet)? {
            Received::Message { fds } => fds,
            Received::WouldBlock => continue,
            Received::Closed => return Ok(()),
        };
        // From here on it is lost with us: that is what the answer says.
        while !channel.send(&packet, &[])? {
            wait(&channel, PollFlags::POLLOUT)?;
        }
        sockets.into_iter().for_each(|socket| http::take(TcpStream::from(socket), state));
    }
}

fn wait(channel: &PacketSocket, wanted: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(channel.as_fd(), wanted)], PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn connection_that_is_handed_over_is_acknowledged_and_answered() {
        let state = Arc::new(State {
            name: "a".to_owned(),
            started: Instant::now(),
            ready: AtomicBool::new(true),
            failing: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            answer_after: Duration::ZERO,
            die_after: None,
            asked: AtomicU64::new(0),
            leaving: http::Leaving::new().unwrap(),
        });
        let (ours, samples) = PacketSocket::pair_with_stranger().unwrap();
        let sample = std::thread::spawn(move || serve(samples, &state));
        let (mut client, accepted) = UnixStream::pair().unwrap();
        assert!(ours.send(&7_u64.to_le_bytes(), &[accepted.as_fd()]).unwrap());
        drop(accepted);
        wait(&ours, PollFlags::POLLIN).unwrap();
        let mut number = Vec::new();
        assert!(matches!(ours.receive(&mut number).unwrap(), Received::Message { .. }));
        assert_eq!(number, 7_u64.to_le_bytes());
        client.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        drop(ours);
        sample.join().unwrap().unwrap();
    }
}
