//! The socket of the role: the newest agent that says hello is obeyed and gets the news; without one, news are lost, since the next agent
//! is told how things stand.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use super::control::Key;
use super::proto::{FromProxy, ToProxy};
use crate::sys::epoll::{Epoll, Interest};
use crate::sys::packet::{PacketListener, PacketSocket, Received};

/// With so many messages that the agent does not take, its orders are not read.
const UNSENT_PAUSE: usize = 1_024;
/// With so many it is let go: when it comes again it is told how things stand.
const UNSENT_MAX: usize = 8_192;

/// What one look at a connection brought.
#[derive(Debug)]
pub(super) enum Heard {
    /// Of the agent, or a hello.
    Order(ToProxy, Vec<OwnedFd>),
    /// An order that only a newer agent knows; the text says which.
    Noise(String),
    Nothing,
}

#[derive(Debug)]
pub(super) struct Agents {
    epoll: Rc<Epoll>,
    listener: PacketListener,
    /// Who may connect, beside root.
    uid: u32,
    next: u32,
    current: Option<Link>,
    /// It has not said hello yet; the next one takes its place.
    stranger: Option<Link>,
}

#[derive(Debug)]
struct Link {
    id: u32,
    socket: PacketSocket,
    unsent: VecDeque<Vec<u8>>,
    interest: Interest,
}

impl Agents {
    pub(super) fn new(epoll: Rc<Epoll>, listener: PacketListener, uid: u32) -> io::Result<Self> {
        epoll.add(listener.as_fd(), Key::Agents.into(), Interest::READ)?;
        Ok(Self { epoll, listener, uid, next: 0, current: None, stranger: None })
    }

    /// Takes one connection. Others than root and the user that started the role are sent away.
    pub(super) fn accept(&mut self) -> io::Result<()> {
        let Some(socket) = self.listener.accept()? else { return Ok(()) };
        if !socket.peer().is_ok_and(|peer| peer.uid == 0 || peer.uid == self.uid) {
            return Ok(());
        }
        self.next = self.next.wrapping_add(1);
        self.epoll.add(socket.as_fd(), Key::Agent(self.next).into(), Interest::READ)?;
        let link = Link { id: self.next, socket, unsent: VecDeque::new(), interest: Interest::READ };
        if let Some(older) = self.stranger.replace(link) {
            self.forget(&older);
        }
        Ok(())
    }

    /// While the kernel refuses connections, the listener is not watched.
    pub(super) fn listen_for(&self, interest: Interest) {
        // Fails only when the listener is not in the epoll set, where it always is.
        let _ = self.epoll.modify(self.listener.as_fd(), Key::Agents.into(), interest);
    }

    /// The next order of this connection. The one that says hello becomes the agent.
    pub(super) fn hear(&mut self, id: u32) -> Heard {
        let is_current = self.current.as_ref().is_some_and(|link| link.id == id);
        let link = if is_current { &self.current } else { &self.stranger };
        let Some(link) = link.as_ref().filter(|link| link.id == id && link.unsent.len() < UNSENT_PAUSE) else {
            return Heard::Nothing;
        };
        // Allocated for each message: at rest nothing of it remains.
        let mut packet = Vec::new();
        let fds = match link.socket.receive(&mut packet) {
            Ok(Received::Message { fds }) => fds,
            Ok(Received::WouldBlock) => return Heard::Nothing,
            Ok(Received::Closed) | Err(_) => {
                self.part(id);
                return Heard::Nothing;
            }
        };
        match serde_json::from_slice(&packet) {
            Ok(hello @ ToProxy::Hello { .. }) => {
                self.make_current(id);
                Heard::Order(hello, fds)
            }
            Ok(order) if is_current => Heard::Order(order, fds),
            Err(error) if is_current => Heard::Noise(format!("an order to the proxy role is not understood: {error}")),
            // Whoever does not begin with hello is sent away.
            Ok(_) | Err(_) => {
                self.part(id);
                Heard::Nothing
            }
        }
    }

    fn make_current(&mut self, id: u32) {
        if let Some(link) = self.stranger.take_if(|link| link.id == id)
            && let Some(older) = self.current.replace(link)
        {
            self.forget(&older);
        }
    }

    /// Queues a message for the agent, if there is one.
    pub(super) fn tell(&mut self, message: &FromProxy) {
        let Some(link) = &mut self.current else { return };
        // Fails for no message of ours.
        let Ok(packet) = serde_json::to_vec(message) else { return };
        link.unsent.push_back(packet);
        let (id, full) = (link.id, link.unsent.len() > UNSENT_MAX);
        if full {
            return self.part(id);
        }
        self.flush(id);
    }

    pub(super) fn flush(&mut self, id: u32) {
        let Some(link) = self.current.as_mut().filter(|link| link.id == id) else { return };
        while let Some(packet) = link.unsent.front() {
            match link.socket.send(packet, &[]) {
                Ok(true) => drop(link.unsent.pop_front()),
                Ok(false) => break,
                Err(_) => return self.part(id),
            }
        }
        if link.unsent.is_empty() {
            link.unsent = VecDeque::new();
        }
        let interest = match link.unsent.len() {
            0 => Interest::READ,
            1..UNSENT_PAUSE => Interest::READ_WRITE,
            _ => Interest::WRITE,
        };
        if interest != link.interest {
            link.interest = interest;
            if self.epoll.modify(link.socket.as_fd(), Key::Agent(id).into(), interest).is_err() {
                self.part(id);
            }
        }
    }

    /// Lets go of the agent: it comes again, and says everything anew.
    pub(super) fn let_go(&mut self) {
        if let Some(id) = self.current.as_ref().map(|link| link.id) {
            self.part(id);
        }
    }

    fn part(&mut self, id: u32) {
        for place in [&mut self.current, &mut self.stranger] {
            if let Some(link) = place.take_if(|link| link.id == id) {
                // Fails only when it was not in there.
                let _ = self.epoll.remove(link.socket.as_fd());
            }
        }
    }

    fn forget(&self, link: &Link) {
        // As in `part`.
        let _ = self.epoll.remove(link.socket.as_fd());
    }
}
