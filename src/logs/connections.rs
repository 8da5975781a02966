//! Connections of agents: the newest that says hello is obeyed and gets the news; what nobody takes waits for the next one.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use super::keep::Keeper;
use super::proto::{FromLogs, MESSAGE_BYTES_MAX, ToLogs};
use super::role::Key;
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::host;
use crate::sys::packet::{PacketListener, PacketSocket, Received};

/// Connections that have not said hello yet; the oldest leaves for a new one.
const STRANGERS_MAX: usize = 4;
/// Messages that wait for an agent.
const OUTBOX_MAX: usize = 4_096;
/// `roles/logs.sock`: ours alone.
const SOCKET_MODE: u32 = 0o600;

/// What one look at a connection brought.
#[derive(Debug)]
pub(super) enum Heard {
    Message(ToLogs, Vec<OwnedFd>),
    /// Something that is no message of ours, in words.
    Noise(String),
    Nothing,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    One,
    WouldBlock,
    NothingLeft,
}

#[derive(Debug)]
pub(super) struct Connections {
    epoll: Rc<Epoll>,
    listener: PacketListener,
    open: BTreeMap<u32, PacketSocket>,
    next: u32,
    current: Option<u32>,
    /// The answer to the agent's hello, before everything else.
    hello: Option<FromLogs>,
    /// The agent has its hello, or will have it first.
    greeted: bool,
    outbox: VecDeque<FromLogs>,
    /// An agent asked for all that is kept.
    claim: Option<Claim>,
    /// The agent's socket is full.
    blocked: bool,
}

#[derive(Debug)]
struct Claim {
    /// The last key that was sent.
    last: Option<String>,
}

impl Connections {
    pub(super) fn listen(epoll: Rc<Epoll>, path: &Path) -> io::Result<Self> {
        let listener = PacketListener::bind(path, SOCKET_MODE)?;
        epoll.add(listener.as_fd(), Key::Listener.into(), Interest::READ)?;
        let (open, outbox) = (BTreeMap::new(), VecDeque::new());
        let (current, hello, claim) = (None, None, None);
        Ok(Self { epoll, listener, open, next: 0, current, hello, greeted: false, outbox, claim, blocked: false })
    }

    pub(super) fn listen_for(&self, interest: Interest) {
        // Fails only when the listener is not in the epoll set, where it always is.
        let _ = self.epoll.modify(self.listener.as_fd(), Key::Listener.into(), interest);
    }

    /// Takes one new connection. Only root and our own user are let in.
    pub(super) fn accept(&mut self) -> io::Result<()> {
        let Some(socket) = self.listener.accept()? else { return Ok(()) };
        let uid = socket.peer()?.uid;
        if uid != 0 && uid != host::uid() {
            return Ok(());
        }
        let strangers: Vec<u32> = self.open.keys().copied().filter(|id| Some(*id) != self.current).collect();
        if strangers.len() >= STRANGERS_MAX
            && let Some(oldest) = strangers.first()
        {
            self.close(*oldest);
        }
        self.next = self.next.wrapping_add(1);
        self.epoll.add(socket.as_fd(), Key::Agent(self.next).into(), Interest::READ)?;
        self.open.insert(self.next, socket);
        Ok(())
    }

    /// The next message of a connection; only `Hello` counts from one that is not current.
    pub(super) fn hear(&mut self, id: u32) -> Heard {
        let Some(socket) = self.open.get(&id) else { return Heard::Closed };
        // Allocated for each message: at rest nothing of it remains.
        let mut buffer = Vec::new();
        buffer.reserve_exact(MESSAGE_BYTES_MAX);
        match socket.receive(&mut buffer) {
            Ok(Received::Message { fds }) => match serde_json::from_slice(&buffer) {
                Ok(message) => Heard::Message(message, fds),
                Err(error) => Heard::Noise(format!("a message to the logs role is not understood: {error}")),
            },
            Ok(Received::WouldBlock) => Heard::Nothing,
            Ok(Received::Closed) | Err(_) => Heard::Closed,
        }
    }

    pub(super) fn current(&self) -> Option<u32> {
        self.current
    }

    /// From now on this connection is the agent. It gets nothing before [`Connections::greet`].
    pub(super) fn make_current(&mut self, id: u32) {
        if let Some(older) = self.current.filter(|older| *older != id) {
            self.close(older);
        }
        self.current = Some(id);
        (self.hello, self.greeted, self.claim) = (None, false, None);
    }

    /// Whether an agent waits for the answer to its hello.
    pub(super) fn waits_for_hello(&self) -> bool {
        self.current.is_some() && !self.greeted
    }

    pub(super) fn greet(&mut self, hello: FromLogs) {
        (self.hello, self.greeted) = (Some(hello), true);
    }

    pub(super) fn close(&mut self, id: u32) {
        if let Some(socket) = self.open.remove(&id) {
            // Fails only when it was not in there.
            let _ = self.epoll.remove(socket.as_fd());
        }
        if self.current == Some(id) {
            (self.current, self.blocked) = (None, false);
        }
    }

    /// Queues a message. At the limit the oldest goes that is a mere report; else the oldest.
    pub(super) fn send(&mut self, message: FromLogs) {
        if self.outbox.len() >= OUTBOX_MAX {
            let report = |message: &FromLogs| matches!(message, FromLogs::Dropped { .. } | FromLogs::Trouble { .. });
            let least = self.outbox.iter().position(report).unwrap_or(0);
            self.outbox.remove(least);
        }
        self.outbox.push_back(message);
    }

    /// The agent wants all that is kept.
    pub(super) fn begin_claim(&mut self) {
        self.claim = Some(Claim { last: None });
    }

    /// The agent's socket takes messages again.
    pub(super) fn unblock(&mut self, id: u32) {
        if self.current == Some(id) && std::mem::take(&mut self.blocked) {
            self.want(id, Interest::READ);
        }
    }

    /// Sends as much as the agent takes; once a turn.
    pub(super) fn flush(&mut self, keeper: &Keeper) {
        while let (Some(id), true, false) = (self.current, self.greeted, self.blocked) {
            match self.send_next(id, keeper) {
                Ok(Sent::One) => {}
                Ok(Sent::NothingLeft) => return,
                Ok(Sent::WouldBlock) => {
                    self.blocked = true;
                    self.want(id, Interest::READ_WRITE);
                }
                Err(_) => self.close(id),
            }
        }
    }

    fn send_next(&mut self, id: u32, keeper: &Keeper) -> io::Result<Sent> {
        if let Some(hello) = &self.hello {
            let sent = self.transmit(id, hello, &[])?;
            if sent == Sent::One {
                self.hello = None;
            }
            return Ok(sent);
        }
        if let Some(message) = self.outbox.front() {
            let sent = self.transmit(id, message, &[])?;
            if sent == Sent::One {
                self.outbox.pop_front();
            }
            return Ok(sent);
        }
        let Some(claim) = &self.claim else { return Ok(Sent::NothingLeft) };
        let Some((key, fds)) = keeper.after(claim.last.as_deref()) else {
            let sent = self.transmit(id, &FromLogs::KeptAll, &[])?;
            if sent == Sent::One {
                self.claim = None;
            }
            return Ok(sent);
        };
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let sent = self.transmit(id, &FromLogs::Kept { key: key.clone() }, &fds)?;
        if sent == Sent::One {
            self.claim = Some(Claim { last: Some(key.clone()) });
        }
        Ok(sent)
    }

    fn transmit(&self, id: u32, message: &FromLogs, fds: &[BorrowedFd<'_>]) -> io::Result<Sent> {
        let socket = self.open.get(&id).ok_or(io::ErrorKind::NotConnected)?;
        let sent = socket.send(&serde_json::to_vec(message)?, fds)?;
        Ok(if sent { Sent::One } else { Sent::WouldBlock })
    }

    fn want(&mut self, id: u32, interest: Interest) {
        let Some(socket) = self.open.get(&id) else { return };
        if self.epoll.modify(socket.as_fd(), Key::Agent(id).into(), interest).is_err() {
            self.close(id);
        }
    }
}
