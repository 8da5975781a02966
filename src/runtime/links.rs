//! The agent's ends of the role sockets: messages out in order, bounded; messages in with their descriptors.
//!
//! What a role must know to do its work is not queued while it is away but told anew when it comes (`Agent::greet_logs`). Queued are only
//! journal entries, the agent's own lines and decisions; at the limit the oldest entry is dropped and counted.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys::host;
use crate::sys::packet::{PacketSocket, Received};

/// Bytes that wait for a role that does not read; beyond that the oldest entries are dropped.
const QUEUED_BYTES_MAX: usize = 4 << 20;
/// With so much waiting that cannot be dropped the role is stuck. The greeting for 10,000 services is a fifth of it.
const STUCK_BYTES_MAX: usize = 32 << 20;

/// Bytes that wait for the end of a turn.
const CORKED_BYTES_MAX: usize = 32 << 10;

/// What becomes of a message while the role is away or slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// Told anew at the next greeting: not kept while there is no connection.
    Current,
    /// The same, and it takes the place of an earlier one that still waits: of a role that does not read only the newest matters.
    Latest,
    /// Kept until delivered; the oldest goes first at the limit.
    Entry,
}

#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    importance: Importance,
}

/// One role's connection.
#[derive(Debug, Default)]
pub struct Link {
    socket: Option<PacketSocket>,
    queue: VecDeque<Message>,
    queued_bytes: usize,
    dropped: u64,
    stuck: bool,
    /// Writability is asked for.
    write_awaited: bool,
    /// The role has said something over this connection.
    heard: bool,
}

/// Messages for which room is kept.
const QUEUED_KEPT: usize = 64;

impl Link {
    /// Connects and says `hello` before anything that has been waiting: a role listens to nobody who does not.
    pub fn connect(&mut self, path: &Path, hello: &impl Serialize) -> io::Result<()> {
        let socket = PacketSocket::connect(path)?;
        let peer = socket.peer()?.uid;
        if peer != 0 && peer != host::uid() {
            let text = format!("{} belongs to uid {peer}, which is neither root nor this agent's", path.display());
            log::error!("agent: {text}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let bytes = serde_json::to_vec(hello).map_err(io::Error::other)?;
        self.stuck = false;
        self.queued_bytes += bytes.len();
        self.queue.push_front(Message { bytes, descriptors: Vec::new(), importance: Importance::Current });
        self.socket = Some(socket);
        (self.write_awaited, self.heard) = (false, false);
        self.flush();
        Ok(())
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Closes the connection. Entries wait for the next one; what would be told anew is forgotten.
    pub fn disconnect(&mut self) {
        self.socket = None;
        self.queue.retain(|message| message.importance == Importance::Entry);
        self.queued_bytes = self.queue.iter().map(|message| message.bytes.len()).sum();
    }

    /// Whether epoll is to be told something else than before about writability: `Some` with what.
    pub fn change_of_interest(&mut self) -> Option<bool> {
        let wanted = self.wants_write();
        let changed = std::mem::replace(&mut self.write_awaited, wanted) != wanted;
        changed.then_some(wanted)
    }

    /// Whether something is to be done at the end of the turn.
    #[must_use]
    pub fn needs_care(&self) -> bool {
        self.stuck || self.wants_write() || self.write_awaited
    }

    /// Notes that the role has said something; `true` for the first time since the connect. A connection alone does not mean that anybody is
    /// there: the kernel makes it while the role waits for a disk.
    pub fn hear(&mut self) -> bool {
        !std::mem::replace(&mut self.heard, true)
    }

    /// Whether the role has said anything over this connection.
    #[must_use]
    pub fn was_heard(&self) -> bool {
        self.heard
    }

    /// Entries lost at the limit since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Whether something waits for the socket to become writable.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.socket.is_some() && !self.queue.is_empty()
    }

    pub fn send(&mut self, message: &impl Serialize, importance: Importance) {
        self.send_with(message, Vec::new(), importance);
    }

    pub fn send_with(&mut self, message: &impl Serialize, descriptors: Vec<OwnedFd>, importance: Importance) {
        if self.socket.is_none() && importance != Importance::Entry {
            return;
        }
        let Ok(bytes) = serde_json::to_vec(message) else {
            self.dropped += 1;
            return;
        };
        if importance == Importance::Latest {
            self.queue.retain(|queued| queued.importance != Importance::Latest);
            self.queued_bytes = self.queue.iter().map(|queued| queued.bytes.len()).sum();
        }
        self.queued_bytes += bytes.len();
        self.queue.push_back(Message { bytes, descriptors, importance });
        while self.queued_bytes > QUEUED_BYTES_MAX {
            let oldest = self.queue.iter().position(|queued| queued.importance == Importance::Entry);
            let Some(message) = oldest.and_then(|index| self.queue.remove(index)) else { break };
            self.queued_bytes -= message.bytes.len();
            self.dropped += 1;
        }
        // The rest goes at the end of the turn: waking a role in the middle of a spawn takes the CPU that the child needs.
        if self.queued_bytes > CORKED_BYTES_MAX {
            self.flush();
        }
        self.stuck |= self.queued_bytes > STUCK_BYTES_MAX;
    }

    /// It has not read for so long that nothing more can be told to it.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Sends what the socket takes. A broken connection is noticed by the reader.
    pub fn flush(&mut self) {
        let Some(socket) = &self.socket else { return };
        while let Some(message) = self.queue.front() {
            let descriptors: Vec<BorrowedFd<'_>> = message.descriptors.iter().map(AsFd::as_fd).collect();
            match socket.send(&message.bytes, &descriptors) {
                Ok(true) => {}
                Ok(false) => return,
                // Too large for a packet: it can never be sent.
                Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => {
                    log::error!("agent: a message to a role is too large: {}", kind(&message.bytes));
                    self.dropped += 1;
                }
                Err(_) => return,
            }
            if let Some(sent) = self.queue.pop_front() {
                self.queued_bytes -= sent.bytes.len();
            }
        }
        self.queue.shrink_to(QUEUED_KEPT);
    }

    /// The next message, if one has come. `Err` when the connection is gone (it is closed then).
    pub fn receive<M: DeserializeOwned>(&mut self, buffer: &mut Vec<u8>) -> Result<Option<(M, Vec<OwnedFd>)>, Gone> {
        let Some(socket) = &self.socket else { return Ok(None) };
        match socket.receive(buffer) {
            Ok(Received::Message { fds }) => match serde_json::from_slice(buffer) {
                Ok(message) => Ok(Some((message, fds))),
                Err(_) => Err(Gone::Garbled),
            },
            Ok(Received::WouldBlock) => Ok(None),
            Ok(Received::Closed) => Err(Gone::Closed),
            Err(error) if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => Err(Gone::Garbled),
            Err(_) => Err(Gone::Closed),
        }
    }
}

/// What a message is and how long, as far as its beginning tells: `{"type":"table","balancer":"front"..`.
fn kind(bytes: &[u8]) -> String {
    const SHOWN: usize = 80;
    let shown = bytes.get(..SHOWN).unwrap_or(bytes);
    format!("{} bytes, {}..", bytes.len(), String::from_utf8_lossy(shown))
}

/// Why there is no more to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The other end has closed.
    Closed,
    /// It speaks another language: connecting again would bring the same.
    Garbled,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::packet::PacketListener;

    #[test]
    fn role_that_does_not_read_is_stuck_in_the_end_and_one_that_comes_again_is_not() {
        let path = std::env::temp_dir().join(format!("mainstay-link-{}", std::process::id()));
        let listener = PacketListener::bind(&path, 0o600).unwrap();
        let mut link = Link::default();
        link.connect(&path, &"hello").unwrap();
        let text = "x".repeat(100_000);
        for _ in 0..STUCK_BYTES_MAX / 50_000 {
            link.send(&text, Importance::Entry);
        }
        assert!(!link.is_stuck() && link.queued_bytes <= QUEUED_BYTES_MAX && link.take_dropped() > 0);
        for _ in 0..=STUCK_BYTES_MAX / 100_000 {
            link.send(&text, Importance::Current);
        }
        assert!(link.is_stuck());
        link.disconnect();
        link.connect(&path, &"hello").unwrap();
        assert!(!link.is_stuck() && link.queued_bytes <= QUEUED_BYTES_MAX + 100);
        drop(listener);
        std::fs::remove_file(&path).unwrap();
    }

    fn entry(number: usize) -> String {
        format!("{number:06} {}", "x".repeat(64 << 10))
    }

    fn connected(link: &mut Link, name: &str) -> PacketSocket {
        let path = std::env::temp_dir().join(format!("mainstay-link-{name}-{}", std::process::id()));
        let listener = PacketListener::bind(&path, 0o600).unwrap();
        link.connect(&path, &"hello").unwrap();
        let role = listener.accept().unwrap().unwrap();
        std::fs::remove_file(path).unwrap();
        role
    }

    fn next(role: &PacketSocket) -> Option<String> {
        let mut buffer = Vec::new();
        match role.receive(&mut buffer).unwrap() {
            Received::Message { .. } => Some(serde_json::from_slice(&buffer).unwrap()),
            Received::WouldBlock | Received::Closed => None,
        }
    }

    #[test]
    fn entries_wait_for_a_role_and_what_only_matters_now_does_not() {
        let mut link = Link::default();
        link.send(&"entry", Importance::Entry);
        link.send(&"current", Importance::Current);
        let role = connected(&mut link, "wait");
        assert_eq!(next(&role).as_deref(), Some("hello"));
        assert_eq!(next(&role).as_deref(), Some("entry"));
        assert_eq!(next(&role), None);
    }

    #[test]
    fn orders_to_a_role_that_does_not_read_do_not_pile_up() {
        let mut link = Link::default();
        let role = connected(&mut link, "latest");
        for number in 0..500 {
            link.send(&entry(number), Importance::Latest);
            link.flush();
        }
        assert!(link.queued_bytes < 2 * entry(0).len() && !link.is_stuck());
        let mut last = None;
        loop {
            match next(&role) {
                Some(text) => last = Some(text),
                None if link.wants_write() => link.flush(),
                None => break,
            }
        }
        assert_eq!(last, Some(entry(499)));
    }

    #[test]
    fn oldest_entries_go_first_at_the_limit_and_are_counted() {
        let mut link = Link::default();
        let sent = 2 * QUEUED_BYTES_MAX / entry(0).len();
        for number in 0..sent {
            link.send(&entry(number), Importance::Entry);
        }
        let dropped = usize::try_from(link.take_dropped()).unwrap();
        assert!(dropped > 0 && dropped < sent);
        assert_eq!(link.take_dropped(), 0);
        let role = connected(&mut link, "limit");
        let mut received = Vec::new();
        loop {
            match next(&role) {
                Some(text) => received.push(text),
                None if link.wants_write() => link.flush(),
                None => break,
            }
        }
        assert_eq!(received[0], "hello");
        assert_eq!(received[1], entry(dropped));
        assert_eq!(received.last(), Some(&entry(sent - 1)));
        assert_eq!(received.len(), 1 + sent - dropped);
    }

    #[test]
    fn role_that_is_gone_is_noticed_and_its_entries_are_kept_for_the_next() {
        let mut link = Link::default();
        drop(connected(&mut link, "gone"));
        link.send(&"late", Importance::Entry);
        assert_eq!(link.receive::<String>(&mut Vec::new()).map(drop), Err(Gone::Closed));
        link.disconnect();
        assert!(!link.is_connected());
        let role = connected(&mut link, "gone again");
        assert_eq!(next(&role).as_deref(), Some("hello"));
        assert_eq!(next(&role).as_deref(), Some("late"));
    }
}
